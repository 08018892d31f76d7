"""Histograms of the ratio of two bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import COLOURS, LABEL_SIZE, TICK_SIZE, new_figure, note, style
from .gaussians import Gaussian, fit_gaussians, fitted_curve
from .histograms import Histogram
from .metrics import RatioStatistics, ratio_summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FEWEST = 20  # pixels that a panel is drawn for


def ratio_figure(kinds: Mapping[str, Mapping[str, RatioStatistics]], *, label: str, columns: int = 3) -> Figure | None:
    """Return histograms of a ratio of bands, one panel a survey, or None where no survey has enough pixels.

    Dotted lines are fits of one Gaussian, solid lines of two.

    Parameters
    ----------
    kinds : mapping of str to mapping of str to RatioStatistics
        Ratio statistics by what was divided ("target", "prediction", ...) and by survey.
    label : str
        Name of the ratio, for the axis.
    columns : int
        Panels in a row.
    """
    enough = [name for groups in kinds.values() for name, part in groups.items() if part.moments.count >= _FEWEST]
    surveys = list(dict.fromkeys(enough))
    if not surveys:
        return None
    columns = min(columns, len(surveys))
    rows = -(-len(surveys) // columns)
    figure = new_figure(3.6 * columns, 3.1 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False)
    handles: dict[str, Any] = {}
    for axes in panels.flat[len(surveys) :]:
        axes.set_axis_off()
    for axes, survey in zip(panels.flat, surveys, strict=False):
        lines = []
        parts = {kind: groups[survey] for kind, groups in kinds.items() if survey in groups}
        window = _ratio_window([part.histogram for part in parts.values() if part.moments.count >= _FEWEST])
        for number, kind in enumerate(kinds):
            if kind not in parts or parts[kind].moments.count < _FEWEST:
                continue
            line, text = _draw_ratio(axes, parts[kind], window, COLOURS[number % len(COLOURS)], filled=number == 0)
            handles[kind] = line
            lines.append(f"{kind}: {text}")
        style(axes, x=label, title=survey)
        axes.set_xlim(*window)
        axes.set_ylim(0, axes.get_ylim()[1] * (1.05 + 0.14 * len(lines)))
        note(axes, "\n".join(lines), "upper right")
    for row in panels:
        row[0].set_ylabel("Fraction of pixels per unit", fontsize=LABEL_SIZE)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=len(handles),
        frameon=False,
        fontsize=TICK_SIZE,
    )
    return figure


def _ratio_window(histograms: Sequence[Histogram]) -> tuple[float, float]:
    low = min(h.quantile(0.005) for h in histograms)
    high = max(h.quantile(0.995) for h in histograms)
    # A long noisy tail would squeeze the peak of the narrowest histogram into a needle.
    narrow = min(histograms, key=lambda h: h.quantile(0.75) - h.quantile(0.25))
    centre, spread = narrow.quantile(0.5), narrow.quantile(0.75) - narrow.quantile(0.25)
    spread = max(spread, 1e-3 * abs(centre))
    return max(low, centre - 12 * spread), min(high, centre + 12 * spread)


def _draw_ratio(
    axes: Axes, part: RatioStatistics, window: tuple[float, float], colour: str, *, filled: bool
) -> tuple[Any, str]:
    histogram = part.histogram
    number = int(np.clip(3 * histogram.total ** (1 / 3), 12, 90))
    edges, counts = histogram.rebinned(*window, number)
    scale = histogram.total * np.diff(edges)
    axes.stairs(counts / scale, edges, fill=True, color=colour, alpha=0.28 if filled else 0.12)
    line = axes.stairs(counts / scale, edges, color=colour, linewidth=1.2)
    one, two = fit_gaussians(histogram), fit_gaussians(histogram, 2)
    for bells, dashes in ((one, (0, (1, 1))), (two, "solid")):
        if bells:
            axes.plot(
                *fitted_curve(bells, edges[0], edges[-1]), color=colour, linewidth=1.1, linestyle=dashes, alpha=0.9
            )
    return line, _ratio_text(one, part)


def _ratio_text(one: tuple[Gaussian, ...], part: RatioStatistics) -> str:
    if one:
        return f"$\\mu$ {one[0].centre:.3f}, $\\sigma$ {one[0].sigma:.3f}"
    found = ratio_summary(part)
    return f"mean {found['mean']:.3f}, $\\sigma$ {found['sigma']:.3f}"
