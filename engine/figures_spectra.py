"""Figures of angular power spectra with their errors, and of Knox's errors held against those of realisations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError, nearest
from .figures import COLOURS, GUIDE, INK, NOTE_SIZE, log_ticks, new_figure, style

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

type Floats = NDArray[np.float64]

QUANTITIES = ("dl", "cl")
MOST_IN_A_PANEL = 6
_FEWEST_FOR_A_LINE = 150  # more points than that are a line, not symbols
_LEAST_P = 1e-10  # nobody knows the tails of chi^2 better than that
_MARKERS = ("o", "s", "D", "^", "v", "P")


def spectra_figure(dataset: xr.Dataset, *, quantity: str = "dl", theory: Mapping[str, Any] | None = None) -> Figure:
    """Return the spectra against multipole with their errors.

    Pairs of one unit share a panel, at most six; spectra of a map with itself are apart from those of two maps.  The
    axis is logarithmic, with open symbols for the size of negative values; where a cross-spectrum is not clear of zero
    it is linear within its error and logarithmic beyond.

    Parameters
    ----------
    dataset : Dataset
        What `spectra_result.assemble` returns.
    quantity : {"dl", "cl"}
        ell (ell + 1) C_ell / 2 pi, or C_ell itself.
    theory : mapping of str to ndarray, optional
        (ell,) C_ell from multipole 0, in the unit of the pair, by name of the pair.

    Raises
    ------
    InputError
        If `quantity` or a pair of `theory` is unknown.
    """
    if quantity not in QUANTITIES:
        raise InputError(f"`quantity` {quantity!r} came; {nearest(quantity, QUANTITIES)}.")
    labels = [str(label) for label in dataset["pair"].values]
    for label in theory or {}:
        if label not in labels:
            raise InputError(f"`theory` of {label!r} came; {nearest(label, labels)}.")
    panels = list(_panels(dataset))
    columns = 1 if len(panels) == 1 else 2
    rows = -(-len(panels) // columns)
    figure = new_figure(6.6 if columns == 1 else 10.6, (4.4 if rows == 1 else 3.7 * rows))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, places in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, dataset, places, quantity, theory or {})
    return figure


def ratio_figure(dataset: xr.Dataset) -> Figure | None:
    """Return Knox's error over that of realisations against multipole, or None where there are no realisations.

    Parameters
    ----------
    dataset : Dataset
        What `spectra_result.with_scatter` returns.
    """
    if "error_ratio" not in dataset:
        return None
    figure = new_figure(6.6, 3.4)
    axes = figure.subplots()
    known_to = 1.0 / np.sqrt(2.0 * (dataset.attrs["simulations"] - 1))
    axes.axhspan(1 - known_to, 1 + known_to, color=GUIDE, alpha=0.18, linewidth=0)
    axes.axhline(1, color=GUIDE, linewidth=0.8, linestyle=(0, (5, 4)))
    ell = dataset["ell"].values.astype(np.float64)
    count = dataset.sizes["pair"]
    for place, label in enumerate(dataset["pair"].values):
        ratio = dataset["error_ratio"].values[place]
        colour = COLOURS[place % len(COLOURS)]
        name = _spoken(str(label)) if count <= 12 else None
        axes.plot(ell, ratio, color=colour, linewidth=0.9, label=name, **_symbol(place, ell.size))
    _scale_ell(axes, ell)
    reach = float(np.nanmax(np.abs(dataset["error_ratio"].values - 1), initial=2 * known_to))
    axes.set_ylim(max(0.0, 1 - 1.25 * reach), 1 + 1.6 * reach)
    style(axes, x=r"Multipole $\ell$", y="Knox error / scatter")
    axes.legend(fontsize=NOTE_SIZE, frameon=False, ncols=3, loc="upper right")
    return figure


def _panels(dataset: xr.Dataset) -> Iterator[list[int]]:
    """Yield groups of pairs that share a panel: of one unit, with themselves or not."""
    groups: dict[tuple[str, bool], list[int]] = {}
    for place in range(dataset.sizes["pair"]):
        same = str(dataset["map_1"].values[place]) == str(dataset["map_2"].values[place])
        groups.setdefault((str(dataset["unit"].values[place]), same), []).append(place)
    for places in groups.values():
        # As even as can be: seven pairs are four and three, not six and one.
        parts = -(-len(places) // MOST_IN_A_PANEL)
        size = -(-len(places) // parts)
        yield from (places[start : start + size] for start in range(0, len(places), size))


def _spoken(label: str) -> str:
    return label.replace(" x ", " × ")


def _legend(dataset: xr.Dataset, place: int) -> str:
    label = _spoken(str(dataset["pair"].values[place]))
    if "p_value" in dataset and np.isfinite(dataset["p_value"].values[place]):
        p_value = float(dataset["p_value"].values[place])
        label += f", p = {p_value:.2g}" if p_value > _LEAST_P else f", p < {_LEAST_P:g}"
    return label


def _symbol(order: int, count: int) -> dict[str, Any]:
    return {} if count >= _FEWEST_FOR_A_LINE else {"marker": _MARKERS[order % len(_MARKERS)], "markersize": 4}


def _factor(ell: Floats, quantity: str) -> Floats:
    return ell * (ell + 1) / (2 * np.pi) if quantity == "dl" else np.ones_like(ell)


def _draw_panel(
    axes: Axes, dataset: xr.Dataset, places: Sequence[int], quantity: str, theory: Mapping[str, Any]
) -> None:
    # Monopole and dipole have no place on a logarithmic axis, and no meaning beside the others.
    shown = np.nonzero(dataset["ell"].values >= 2)[0]
    if not shown.size:
        shown = np.arange(dataset["ell"].size)
    ell = dataset["ell"].values[shown].astype(np.float64)
    factor = _factor(ell, quantity)
    values = {place: factor * dataset["cl"].values[place, shown] for place in places}
    errors = {place: factor * dataset["error"].values[place, shown] for place in places} if "error" in dataset else {}
    noise = {place: factor * dataset["noise"].values[place, shown] for place in places} if "noise" in dataset else {}
    signed = _set_scale(axes, values, errors, noise)
    for order, place in enumerate(places):
        label = str(dataset["pair"].values[place])
        colour = COLOURS[order % len(COLOURS)]
        axes.plot([], [], color=colour, **_symbol(order, ell.size), label=_legend(dataset, place))
        moved = ell if ell.size >= _FEWEST_FOR_A_LINE else _moved(dataset, shown, ell, order, len(places))
        _draw_spectrum(axes, moved, values[place], errors.get(place), colour, order, signed=signed)
        if place in noise and np.isfinite(noise[place]).any():
            line = noise[place] if signed else np.where(noise[place] > 0, noise[place], np.nan)
            axes.plot(ell, line, color=colour, linewidth=0.9, linestyle=(0, (4, 2)))
        if label in theory:
            curve = np.asarray(theory[label], np.float64)[2:]
            along = np.arange(2, curve.size + 2, dtype=np.float64)
            kept = along <= max(ell[-1], float(dataset.attrs.get("lmax", ell[-1])))
            axes.plot(along[kept], (_factor(along, quantity) * curve)[kept], color=INK, linewidth=1.0, zorder=1)
    if signed:
        axes.axhline(0, color=GUIDE, linewidth=0.8)
    _scale_ell(axes, ell)
    unit = str(dataset["unit"].values[places[0]])
    name = r"$\ell(\ell+1)\,C_\ell/2\pi$" if quantity == "dl" else r"$C_\ell$"
    style(axes, x=r"Multipole $\ell$", y=name + (f" [{unit.replace('^2', '²')}]" if unit != "1" else ""))
    axes.legend(fontsize=NOTE_SIZE, framealpha=0.85, edgecolor="none", loc="best", ncols=1 if len(places) < 4 else 2)


def _set_scale(
    axes: Axes, values: Mapping[int, Floats], errors: Mapping[int, Floats], noise: Mapping[int, Floats]
) -> bool:
    """Choose the vertical axis; return whether it shows signs."""
    every = np.concatenate(list(values.values()))
    every = every[np.isfinite(every)]
    size = np.abs(every[every != 0])
    if not size.size:
        axes.set_ylim(-1, 1)
        return True
    if np.count_nonzero(every < 0) <= 0.03 * every.size:
        axes.set_yscale("log")
        # A handful of values near zero must not squeeze all others.
        low, high = np.quantile(size, min(0.01, 2 / size.size)), size.max()
        floor = np.concatenate(list(noise.values())) if noise else np.empty(0)
        floor = floor[floor > 1e-4 * high]
        low = min(low, np.quantile(floor, 0.25)) if floor.size else low
        axes.set_ylim(low / 2.5, high * 3)
        log_ticks(axes.yaxis, low / 2.5, high * 3)
        return False
    spread = np.concatenate(list(errors.values())) if errors else size
    spread = spread[np.isfinite(spread) & (spread > 0)]
    linear = 2 * float(np.median(spread)) if spread.size else float(np.median(size))
    if size.max() > 20 * linear:
        axes.set_yscale("symlog", linthresh=linear, linscale=1.0)
    else:
        bars = [values[place] + side * error for place, error in errors.items() for side in (-1, 1)]
        reached = np.concatenate([every, *(bar[np.isfinite(bar)] for bar in bars)])
        # An error much larger than all values must not hide them.
        reached = np.clip(reached, -10 * size.max(), 10 * size.max())
        low, high = min(0.0, reached.min()), max(0.0, reached.max())
        axes.set_ylim(low - 0.12 * (high - low), high + 0.25 * (high - low))
    return True


def _moved(dataset: xr.Dataset, shown: NDArray[np.intp], ell: Floats, order: int, count: int) -> Floats:
    """Multipoles a little apart, so that bars of several pairs do not hide each other."""
    if "ell_start" not in dataset.coords or count == 1:
        return ell
    width = (dataset["ell_stop"].values - dataset["ell_start"].values)[shown]
    shift = width * 0.5 * (order - (count - 1) / 2) / count
    # A wide bin at small ell is wide on a logarithmic axis too; its points shall still be seen to be of one bin.
    moved: Floats = ell + np.clip(shift, -0.03 * ell, 0.03 * ell)
    return moved


def _draw_spectrum(
    axes: Axes, ell: Floats, values: Floats, errors: Floats | None, colour: str, order: int, *, signed: bool
) -> None:
    if ell.size >= _FEWEST_FOR_A_LINE:
        axes.plot(ell, values if signed else np.abs(values), color=colour, linewidth=0.7)
        if errors is not None:
            low, high = values - errors, values + errors
            floor = axes.get_ylim()[0]
            axes.fill_between(
                ell, low if signed else np.maximum(low, floor), high, color=colour, alpha=0.2, linewidth=0
            )
        return
    look: dict[str, Any] = {
        "fmt": _MARKERS[order % len(_MARKERS)],
        "markersize": 4,
        "color": colour,
        "elinewidth": 1.0,
        "capsize": 0,
        "linestyle": "none",
    }
    bars = np.full_like(values, np.nan) if errors is None else errors
    positive = np.isfinite(values) if signed else values > 0
    negative = np.zeros_like(positive) if signed else values < 0
    heights = values if signed else np.abs(values)
    for chosen, face in ((positive, colour), (negative, "white")):
        if chosen.any():
            axes.errorbar(ell[chosen], heights[chosen], bars[chosen], markerfacecolor=face, **look)


def _scale_ell(axes: Axes, ell: Floats) -> None:
    if ell.size > 1 and ell[0] > 0 and ell[-1] > 25 * ell[0]:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if ell[-1] < 200 * ell[0] else (1.0,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
