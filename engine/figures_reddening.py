"""Residuals of reddening: how they are distributed, region by region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import COLOURS, GUIDE, NOTE_SIZE, new_figure, style
from .histograms import Histogram
from .moments import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 120
_REACH = 5.0  # in units of the largest robust scatter


def residual_figure(scatters: Sequence[Sequence[Any]], regions: Sequence[str], names: Sequence[str]) -> Figure:
    """Return the distributions of residuals, a panel a region, a line a map.

    Parameters
    ----------
    scatters : sequence of sequence of Scatter
        (region, map).
    regions, names : sequence of str
        What they are called.
    """
    figure = new_figure(4.2 * len(regions) + 0.4, 3.4)
    for column, (region, row) in enumerate(zip(regions, scatters, strict=True)):
        axes = figure.add_subplot(1, len(regions), column + 1)
        wide = max((each.robust for each in row if each.robust > 0), default=1.0)
        edges = np.linspace(-_REACH * wide, _REACH * wide, _BINS + 1)
        for number, (name, each) in enumerate(zip(names, row, strict=True)):
            axes.stairs(
                density(each.histogram, edges),
                edges,
                color=COLOURS[number % len(COLOURS)],
                linewidth=1.3,
                label=f"{name}: {each.moments.sigma:.2f} mmag",
            )
        axes.axvline(0.0, color=GUIDE, linewidth=0.8, linestyle=":")
        axes.set_ylim(0.0, None)
        axes.legend(fontsize=NOTE_SIZE, frameon=False, loc="upper left")
        style(axes, "residual [mmag]", "fraction of pixels per mmag" if column == 0 else "", region)
        axes.set_ylim(0.0, 1.25 * axes.get_ylim()[1])
    return figure


def density(histogram: Histogram, edges: Floats) -> Floats:
    """Return the part of all values that lies in each bin, divided by its width, (bin,) float64.

    Parameters
    ----------
    histogram : Histogram
        Of the values, in finer bins.
    edges : ndarray
        (bin + 1,) ascending.

    Examples
    --------
    >>> from .histograms import AsinhScale
    >>> some = Histogram.of(AsinhScale(0.001, 1.0), np.array([-0.5, 0.5, 0.6, 1.5]))
    >>> density(some, np.array([-1.0, 0.0, 1.0, 2.0])).tolist()
    [0.25, 0.5, 0.25]
    """
    if histogram.total == 0:
        return np.zeros(len(edges) - 1)
    # Counts below the right edge of each fine bin; empty bins between them have nothing, so a step at each side.
    left, right = histogram.scale.edges(histogram.index), histogram.scale.edges(histogram.index + 1)
    above = np.cumsum(histogram.counts).astype(np.float64)
    at = np.stack([left, right], axis=1).ravel()
    below = np.stack([above - histogram.counts, above], axis=1).ravel()
    cumulative = np.interp(edges, at, below, left=0.0, right=float(histogram.total))
    found: Floats = np.diff(cumulative) / histogram.total / np.diff(edges)
    return found
