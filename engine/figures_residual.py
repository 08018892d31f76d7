"""Figures of residuals: their distributions, profiles, slopes with the lines of their causes, polarisation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .diagnose_pass import Frame
from .figures import COLOURS, GUIDE, INK, LABEL_SIZE, NOTE_SIZE, enclosing_levels, new_figure, note, style
from .histograms import Histogram
from .moments import Integers
from .region_tables import QUANTILES

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAUSE_COLOURS = dict(
    zip(
        ("temperature", "dust-to-gas", "beta", "temperature-beta"),
        (COLOURS[1], COLOURS[0], COLOURS[2], COLOURS[3]),
        strict=True,
    )
)
CAUSE_NAMES = {
    "temperature": "temperature",
    "dust-to-gas": "dust-to-gas ratio",
    "beta": "emissivity index β",
    "temperature-beta": "T\N{EN DASH}β anticorrelation",
}


FEW_REGIONS = 4  # whose legend leaves room for what is drawn
COLUMNS = 3  # of panels in a row
FAINTEST = 0.2  # pixels that are as white as the paper: one alone is grey


def colour_of(cause: str) -> str:
    """Return the colour of a cause; of those that a user names the same one always."""
    return CAUSE_COLOURS.get(cause, COLOURS[4 + sum(map(ord, cause)) % 3])


def signed(value: float, digits: int) -> str:
    """Return a number with its sign, a typographer's minus, and no negative zero.

    Examples
    --------
    >>> signed(0.371, 2), signed(-1e-9, 2)
    ('+0.37', '0.00')
    """
    rounded = round(value, digits) + 0.0
    return (f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}").replace("-", "\N{MINUS SIGN}")


def written(unit: str) -> str:
    """Return a unit as it is typeset.

    Examples
    --------
    >>> written("1e20 cm^-2"), written("MJy/sr")
    ('$10^{20}$ cm$^{-2}$', 'MJy/sr')
    """
    powers = re.sub(r"\^(-?\d+)", r"$^{\1}$", unit)
    return re.sub(r"\b1e(\d+)\b", r"$10^{\1}$", powers)


def distribution_figure(parts: Mapping[str, Histogram], *, label: str, unit: str, factor: float = 1.0) -> Figure | None:
    """Return histograms by region, and below them median, 1, 2 and 3 sigma intervals; None where nothing is.

    Parameters
    ----------
    parts : mapping of str to Histogram
        By region.
    label, unit : str
        What is shown.
    factor : float
        What values are multiplied with, for example 100 for %.
    """
    shown = {name: part for name, part in parts.items() if part.total > 1}
    if not shown:
        return None
    legend = len(shown) <= FEW_REGIONS
    figure = new_figure(6.8, 3.7 + 0.34 * len(shown))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 0.35 * len(shown) + 0.35])
    low = factor * min(part.quantile(QUANTILES[2][0]) for part in shown.values())
    high = factor * max(part.quantile(QUANTILES[2][1]) for part in shown.values())
    spare = 0.06 * (high - low) or 1.0
    for place, (name, part) in enumerate(shown.items()):
        colour = COLOURS[place % len(COLOURS)]
        # Colours come again where there are more regions than colours.
        dashes = "-" if place < len(COLOURS) else (0, (3, 1.5))
        _steps(above, part, factor, (low - spare, high + spare), colour, name, dashes)
        for level, width in ((2, 1.0), (1, 3.0), (0, 6.5)):
            ends = [factor * part.quantile(q) for q in QUANTILES[level]]
            below.plot(
                ends, [place, place], color=colour, linewidth=width, solid_capstyle="butt", dash_capstyle="butt",
                alpha=0.9 if level else 0.6, linestyle=dashes if level == 2 else "-",
            )  # fmt: skip
        below.plot(factor * part.quantile(0.5), place, "o", color="white", markeredgecolor=INK, markersize=5, zorder=5)
    for axes in (above, below):
        axes.axvline(0, color=GUIDE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    above.set_xlim(low - spare, high + spare)
    above.set_ylim(bottom=0)
    style(above, y="Density of pixels")
    if legend:
        above.legend(fontsize=NOTE_SIZE, frameon=False, loc="upper right")
    below.set_yticks(
        range(len(shown)), [name if legend else f"{name} ({part.total:,})" for name, part in shown.items()]
    )
    below.set_ylim(len(shown) - 0.45, -0.55)
    style(below, x=f"{label} [{unit}]" if unit else label)
    below.tick_params(axis="y", length=0)
    return figure


def _steps(
    axes: Axes, part: Histogram, factor: float, span: tuple[float, float], colour: str, name: str, dashes: Any
) -> None:
    bins = int(np.clip(1.2 * np.sqrt(part.total), 12, 70))
    edges, counts = part.rebinned(span[0] / factor, span[1] / factor, bins)
    edges = edges * factor
    width = np.diff(edges)
    axes.stairs(
        counts / part.total / width, edges, color=colour, linewidth=1.4, linestyle=dashes,
        label=f"{name} ({part.total:,})",
    )  # fmt: skip


def profiles_figure(found: xr.Dataset, *, label: str, unit: str, units: Mapping[str, str]) -> Figure:
    """Return a residual against other maps: binned means with errors, medians, and the lines that are expected.

    Parameters
    ----------
    found : Dataset
        What `profiles` returned, with a dimension `region`.
    label, unit : str
        Of the residual.
    units : mapping
        Of the other maps.
    """
    names = [str(name) for name in found["against"].values]
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    below = found.sizes["region"] > FEW_REGIONS
    figure = new_figure(0.5 + 3.5 * columns, 0.3 + (3.1 + (0.2 * found.sizes["region"] if below else 0.0)) * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    for place, (axes, name) in enumerate(zip(panels.flat, names, strict=False)):
        axes.axhline(0, color=GUIDE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        for number, region in enumerate(found["region"].values):
            one = found.sel(region=region, against=name)
            colour = COLOURS[number % len(COLOURS)]
            r = f"r = {signed(float(one['pearson']), 2)}"
            text = f"{region}  {r}" if found.sizes["region"] > 1 else r
            axes.errorbar(
                one["x"], one["mean"], yerr=one["error"], fmt="o", color=colour, markersize=3.6, linewidth=1.1,
                capsize=0, label=text,
            )  # fmt: skip
            axes.plot(one["x"], one["median"], "_", color=colour, markersize=7, alpha=0.7)
            if np.isfinite(one["expected_slope"]):
                axes.plot(one["x"], one["expected"], color=colour, linewidth=1.2, linestyle=(0, (1, 1.2)))
        look: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)} if below else {"loc": "best"}
        axes.legend(fontsize=NOTE_SIZE, frameon=False, handletextpad=0.3, **look)
        own = units.get(name, "")
        style(axes, x=f"{name} [{written(own)}]" if own not in ("", "1") else name)
        if place % columns == 0:
            axes.set_ylabel(f"{label} [{unit}]", fontsize=LABEL_SIZE, color=INK)
    if not below:  # room for the legends, which would hide error bars
        low, high = panels[0, 0].get_ylim()
        panels[0, 0].set_ylim(low, high + 0.08 * found.sizes["region"] * (high - low))
    return figure


def density(axes: Axes, frame: Frame, table: Integers) -> None:
    """Draw counts on a plane, logarithmic, with contours that enclose 68 and 95 % of the pixels."""
    from matplotlib.colors import LogNorm

    x, y = (np.linspace(*side, table.shape[0] + 1) for side in (frame.x, frame.y))
    axes.pcolormesh(
        x,
        y,
        np.ma.masked_equal(table.T, 0),
        norm=LogNorm(FAINTEST, max(10, int(table.max()))),
        cmap="Greys",
        rasterized=True,
    )
    if table.sum() >= 1000:
        coarse = table.reshape(table.shape[0] // 4, 4, table.shape[1] // 4, 4).sum(axis=(1, 3))
        levels = np.unique(enclosing_levels(coarse, [0.95, 0.68]))
        centres = [(side[:-1:4] + side[4::4]) / 2 for side in (x, y)]
        if levels.size and levels[0] > 0:
            axes.contour(*centres, coarse.T, levels=levels, colors=INK, linewidths=0.7)


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel a region, in rows."""
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure = new_figure(0.7 + 4.0 * columns, height * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def slopes_figure(
    tables: Mapping[str, Integers], frames: Mapping[str, Frame], found: xr.Dataset, *, high: str, low: str, unit: str
) -> Figure:
    """Return r(low) against r(gas) by region, with the measured slope and those of the causes.

    Parameters
    ----------
    tables, frames : mapping
        By region: (x, y) counts, and where they are.
    found : Dataset
        What `slopes` returned, with a dimension `region`.
    high, low, unit : str
        Texts.
    """
    names = list(tables)
    figure, panels = _panels(len(names), 4.3)
    for axes, name in zip(panels, names, strict=True):
        one, frame = found.sel(region=name).isel(residual=0), frames[name]
        density(axes, frame, tables[name])
        ends = np.array(frame.x)
        for cause in found["cause"].values:
            slope = float(one["expected"].sel(cause=cause))
            text = f"{CAUSE_NAMES.get(str(cause), str(cause))}: {signed(slope, 2)}"
            axes.plot(ends, slope * ends, color=colour_of(str(cause)), linewidth=1.3, linestyle=(0, (5, 2)), label=text)
        slope, error = float(one["slope"]), float(one["error"])
        axes.plot(ends, slope * ends, color=INK, linewidth=1.8,
                  label=f"measured: {signed(slope, 3)} ± {error:.3f}")  # fmt: skip
        axes.set_xlim(*frame.x)
        axes.set_ylim(*frame.y)
        style(axes, x=f"r(gas \N{RIGHTWARDS ARROW} {high}) [{unit}]", title=name)
        axes.legend(fontsize=NOTE_SIZE - 0.5, loc="upper left", framealpha=0.85, edgecolor="none", borderpad=0.3)
    for axes in panels[::COLUMNS]:
        axes.set_ylabel(f"r({low} \N{RIGHTWARDS ARROW} {high}) [{unit}]", fontsize=LABEL_SIZE, color=INK)
    return figure


def told(one: xr.Dataset) -> str:
    """Return the cause of the slopes of a region in words; where several fit, how many.

    Parameters
    ----------
    one : Dataset
        What `slopes` returned, of one region.
    """
    fitting = [cause for cause in str(one["consistent"].values).split(", ") if cause]
    return str(one["verdict"].values) if len(fitting) < 2 else f"{len(fitting)} causes fit"


def fingerprint_figure(found: xr.Dataset) -> Figure:
    """Return measured slopes of every region with their errors, against those of the causes.

    Parameters
    ----------
    found : Dataset
        What `slopes` returned, with a dimension `region`.
    """
    known = np.isfinite(found["slope"].transpose("region", "residual").values).all(axis=1)
    measured = found.isel(region=np.flatnonzero(known))
    residuals = [str(name) for name in found["residual"].values]
    rows = measured.sizes["region"]
    figure = new_figure(0.9 + 4.6 * len(residuals), 1.8 + 0.36 * rows)
    panels = figure.subplots(1, len(residuals), squeeze=False, sharey=True)[0]
    for number, axes in enumerate(panels):
        one = measured.isel(residual=number)
        for place, cause in enumerate(found["cause"].values):
            slope = float(found["expected"].isel(region=0, residual=number).sel(cause=cause))
            look = {"color": colour_of(str(cause)), "linewidth": 2.4}
            axes.axvline(slope, alpha=0.35, label=CAUSE_NAMES.get(str(cause), str(cause)), **look)
            # Lines that coincide are seen in turn.
            axes.axvline(slope, linestyle=(3.0 * place, (3.0, 9.0)), zorder=2.5, **look)
        axes.errorbar(one["slope"], np.arange(rows), xerr=one["error"], fmt="o", color=INK, markersize=4.5, capsize=2.5,
                      linewidth=1.2, zorder=4)  # fmt: skip
        axes.set_ylim(rows - 0.5, -0.5)
        text = residuals[number].replace("->", "\N{RIGHTWARDS ARROW}")
        style(axes, x=f"slope of r({text}) against r(gas)")
        axes.margins(x=0.12)
    panels[0].set_yticks(
        range(rows), [f"{name}: {told(measured.sel(region=name))}" for name in measured["region"].values]
    )
    panels[0].tick_params(axis="y", length=0)
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=NOTE_SIZE, frameon=False, loc="outside upper center",
                  ncols=2 if len(residuals) == 1 else 4)  # fmt: skip
    return figure


def polarization_figure(tables: Mapping[str, Integers], frames: Mapping[str, Frame], found: xr.Dataset) -> Figure:
    """Return the fractional residual against the polarisation fraction by region, with slope -1.

    Parameters
    ----------
    tables, frames : mapping
        By region: (x, y) counts, and where they are.
    found : Dataset
        What `polarization` returned, with a dimension `region`.
    """
    names = list(tables)
    figure, panels = _panels(len(names), 4.2)
    for axes, name in zip(panels, names, strict=True):
        one, frame = found.sel(region=name), frames[name]
        density(axes, frame, tables[name])
        ends, middle = np.array(frame.x), sum(frame.y) / 2
        slope, error = float(one["slope"]), float(one["error"])
        axes.plot(
            ends,
            middle - ends,
            color=COLOURS[1],
            linewidth=1.5,
            linestyle=(0, (5, 2)),
            label="expected: \N{MINUS SIGN}1",
        )
        axes.plot(
            ends, middle + slope * ends, color=INK, linewidth=1.8, label=f"measured: {signed(slope, 3)} ± {error:.3f}"
        )
        axes.set_xlim(*frame.x)
        axes.set_ylim(*frame.y)
        style(axes, x=r"$\delta p\,/\,(1+\bar p)$", title=name)
        axes.legend(fontsize=NOTE_SIZE, loc="upper right", framealpha=0.85, edgecolor="none")
        note(
            axes,
            f"correlation {signed(float(one['correlation']), 2)}\nmean p {100 * float(one['fraction']):.1f} %",
            "lower left",
        )
    for axes in panels[::COLUMNS]:
        axes.set_ylabel(r"$(I - I_{\rm mod})\,/\,(I - O)$", fontsize=LABEL_SIZE, color=INK)
    return figure
