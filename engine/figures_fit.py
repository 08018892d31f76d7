"""Figures of template fits: coefficients with both kinds of errors, and how the coefficients are correlated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .figures import COLOURS, GUIDE, INK, LABEL_SIZE, NOTE_SIZE, TICK_SIZE, new_figure, style
from .figures_residual import written

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "D", "^", "v", "P")


def coefficients_figure(found: xr.Dataset) -> Figure:
    """Return the coefficients with formal and jackknife errors: a row of panels a target, a panel a unit.

    Parameters
    ----------
    found : Dataset
        What `fit_result.assemble` returns, without super-pixels.
    """
    regions = [str(name) for name in found["region"].values] if "region" in found.dims else [""]
    targets = [str(name) for name in found["target"].values]
    names = [str(name) for name in found["template"].values]
    panels = [_by_unit([str(unit) for unit in found["unit"].values[row]]) for row in range(len(targets))]
    columns = max(len(own) for own in panels)
    height = sum(max(len(places) for _, places in own) for own in panels)
    step = 0.32 + 0.11 * (len(regions) - 1)
    figure = new_figure(1.2 + 4.2 * columns, 0.85 * len(targets) + step * height + 0.5)
    grid: Any = figure.subplots(
        len(targets),
        columns,
        squeeze=False,
        gridspec_kw={"height_ratios": [max(len(places) for _, places in own) + 1.0 for own in panels]},
    )
    for row, target in enumerate(targets):
        for column in range(columns):
            axes = grid[row, column]
            if column >= len(panels[row]):
                axes.set_axis_off()
                continue
            unit, places = panels[row][column]
            for number, region in enumerate(regions):
                _draw(
                    axes, found, row, places, number if "region" in found.dims else None, number, region, len(regions)
                )
            axes.axvline(0, color=GUIDE, linewidth=0.8, linestyle=(0, (5, 4)), zorder=0)
            axes.set_ylim(len(places) - 0.5, -0.5)
            style(axes, x=f"[{written(unit)}]" if unit != "1" else "", title=target if column == 0 else "")
            axes.set_yticks(range(len(places)), [names[place] for place in places], fontsize=TICK_SIZE)
            axes.tick_params(axis="y", length=0)
            if len(regions) > 1 and row == 0 and column == 0:
                axes.legend(fontsize=NOTE_SIZE, frameon=False)
    return figure


def _by_unit(units: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Return the coefficients of each unit, in the order in which units first appear."""
    found: dict[str, list[int]] = {}
    for place, unit in enumerate(units):
        found.setdefault(unit, []).append(place)
    return list(found.items())


def _draw(
    axes: Any,
    found: xr.Dataset,
    row: int,
    places: Sequence[int],
    region: int | None,
    number: int,
    label: str,
    regions: int,
) -> None:
    def of(name: str) -> NDArray[np.float64]:
        values = found[name].values if region is None else found[name].values[region]
        chosen: NDArray[np.float64] = values[row][list(places)]
        return chosen

    heights = np.arange(len(places)) + (0.0 if regions == 1 else 0.5 * (number / (regions - 1) - 0.5))
    colour = COLOURS[number % len(COLOURS)]
    if "jackknife_error" in found:
        axes.errorbar(
            of("coefficient"),
            heights,
            xerr=of("jackknife_error"),
            fmt="none",
            ecolor=colour,
            elinewidth=0.9,
            capsize=3.5,
        )
    axes.errorbar(
        of("coefficient"),
        heights,
        xerr=of("error"),
        fmt=_MARKERS[number % len(_MARKERS)],
        color=colour,
        markersize=4.5,
        elinewidth=3.0,
        label=label,
    )


def correlations_figure(matrix: NDArray[np.float64], names: Sequence[str], subtitle: str = "") -> Figure:
    """Return a heat map of the correlation of the coefficients, in their own order, with the numbers.

    Parameters
    ----------
    matrix : ndarray
        (template, template) float64
    names : sequence of str
        Of the coefficients.
    subtitle : str
        A line below the title.
    """
    count = len(names)
    size = max(3.2, 0.62 * count + 1.4)
    figure = new_figure(size + 0.9, size)
    axes: Any = figure.subplots()
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axes.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=TICK_SIZE)
    axes.set_yticks(range(count), names, fontsize=TICK_SIZE)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for i in range(count):
        for j in range(count):
            ink = "white" if abs(matrix[i, j]) > 0.6 else INK
            axes.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", fontsize=NOTE_SIZE, color=ink)
    title = "Correlation of the coefficients" + (f"\n{subtitle}" if subtitle else "")
    axes.set_title(title, fontsize=LABEL_SIZE, loc="left", color=INK, fontweight="bold")
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.ax.tick_params(labelsize=TICK_SIZE)
    bar.outline.set_visible(False)
    return figure
