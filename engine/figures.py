"""Figures of an evaluation: predicted against true, relative errors.

Every function returns a `matplotlib.figure.Figure` made without pyplot, so nothing global is touched and figures
can be drawn in any thread; `save` writes one as PNG.  Ratios are in `figures_ratio.py`, maps of regions in
`figures_region.py`, correlation heat maps in `figures_correlation.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .gaussians import fit_gaussians, fitted_curve
from .histograms import Histogram
from .metrics import JOINT_ERROR_SCALE, PairStatistics, summary
from .moments import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

CONTOURS = (0.10, 0.30, 0.50, 0.70, 0.95)
# Okabe and Ito (2008): told apart by everyone; black and grey are kept for truth and guides.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F", "#000000")
INK, GUIDE = "#1a1a1a", "#767676"
LABEL_SIZE, TICK_SIZE, NOTE_SIZE = 10, 9, 8
DOTS_PER_INCH = 160
_FEWEST_FOR_CONTOURS = 100
_LINE = "#D55E00"
_SPARE = 1e-3  # of the pixels may lie outside a density at either end
_RIM = 24  # empty cells around a density, so that contours close


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of the size given in inches, ready to be saved as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(axes: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Give axes the look that all figures share."""
    axes.tick_params(which="both", direction="in", top=True, right=True, labelsize=TICK_SIZE, colors=INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
        spine.set_linewidth(0.8)
    axes.set_xlabel(x, fontsize=LABEL_SIZE, color=INK)
    axes.set_ylabel(y, fontsize=LABEL_SIZE, color=INK)
    if title:
        axes.set_title(title, fontsize=LABEL_SIZE, color=INK, loc="left", fontweight="bold")


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Label a logarithmic axis from `low` to `high` so that labels stay apart, however few decades it spans."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axis.set_minor_formatter(NullFormatter())
    decades = np.log10(high / low)
    if decades >= 2:
        return
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if decades >= 0.7 else MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def note(axes: Axes, text: str, place: str = "upper left") -> None:
    """Write a few lines into a corner of the axes: "upper left", "upper right" or "lower right"."""
    vertical, horizontal = place.split()
    axes.text(
        0.03 if horizontal == "left" else 0.97,
        0.97 if vertical == "upper" else 0.03,
        text,
        transform=axes.transAxes,
        ha=horizontal,
        va="top" if vertical == "upper" else "bottom",
        fontsize=NOTE_SIZE,
        color=INK,
        linespacing=1.35,
        bbox={"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
    )


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, whole or not at all."""
    final = Path(path)
    partial = final.with_name(final.name + ".partial")
    figure.savefig(partial, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    partial.replace(final)


def enclosing_levels(table: NDArray[Any], fractions: Sequence[float] = CONTOURS) -> Floats:
    """Return the densities whose contours enclose the given fractions of all counts.

    Parameters
    ----------
    table : (x, y) float
        Counts, or densities in cells of equal size.
    fractions : sequence of float
        Between 0 and 1.

    Returns
    -------
    (fraction,) float64
        In the order of `fractions`: the region where the table is at least this high holds at least the fraction.

    Examples
    --------
    >>> import numpy as np
    >>> enclosing_levels(np.array([[6.0, 3.0], [1.0, 0.0]]), [0.5, 0.95])
    array([6., 1.])
    """
    ordered = np.sort(np.asarray(table, np.float64), axis=None)[::-1]
    enclosed = np.cumsum(ordered)
    places = np.searchsorted(enclosed, np.asarray(fractions) * enclosed[-1] * (1 - 1e-12))
    levels: Floats = ordered[np.minimum(places, ordered.size - 1)]
    return levels


def density_figure(statistics: PairStatistics, *, label: str, unit: str) -> Figure:
    """Return predicted against true as a density with contours, and the relative error against brightness below.

    Parameters
    ----------
    statistics : PairStatistics
        At least one pixel with positive target and prediction.
    label : str
        Name of the band.
    unit : str
        Of both maps.
    """
    figure = new_figure(5.6, 8.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.9, 1])
    mesh = draw_density(above, statistics)
    found = summary(statistics)
    style(above, y=f"Predicted {label} [{unit}]")
    note(
        above,
        f"{found['pixels']:,} pixels\n$R^2$ = {found['r_squared']:.4f}, "
        f"in log {found['r_squared_log']:.4f}\ncontours: 10, 30, 50, 70, 95 % of the pixels",
    )
    bar = figure.colorbar(mesh, ax=above, pad=0.015, aspect=30)
    bar.ax.tick_params(labelsize=TICK_SIZE)
    bar.set_label("Pixels per (0.01 dex)$^2$", fontsize=LABEL_SIZE)
    draw_error_profile(below, statistics)
    style(below, x=f"Target {label} [{unit}]", y="Relative error [%]")
    return figure


def draw_density(axes: Axes, statistics: PairStatistics, fractions: Sequence[float] = CONTOURS) -> Any:
    """Draw predicted against true into `axes`, with contours that enclose `fractions`; return the coloured mesh."""
    from matplotlib.colors import LogNorm

    x, y, table = statistics.density.dense(_SPARE, margin=15)
    shown = np.ma.masked_equal(table.T, 0)
    mesh = axes.pcolormesh(
        x, y, shown, norm=LogNorm(1, max(10, int(table.max()))), cmap="viridis", rasterized=True, linewidth=0
    )
    axes.set(xscale="log", yscale="log")
    _draw_contours(axes, np.log10(x), np.log10(y), table, fractions, lambda dex: 10.0**dex)
    low, high = min(x[0], y[0]), max(x[-1], y[-1])
    axes.plot([low, high], [low, high], color=COLOURS[1], linewidth=0.9, linestyle=(0, (5, 4)))
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    log_ticks(axes.xaxis, x[0], x[-1])
    log_ticks(axes.yaxis, y[0], y[-1])
    return mesh


def _draw_contours(
    axes: Axes,
    x: Floats,
    y: Floats,
    table: NDArray[Any],
    fractions: Sequence[float],
    vertical: Callable[[Floats], Floats],
    smoothing: float = 1.0,
) -> None:
    """Draw contours of a table on even edges: `x` in dex, `y` in whatever `vertical` turns into the axis' unit."""
    from scipy.ndimage import gaussian_filter

    if table.sum() < _FEWEST_FOR_CONTOURS:
        return
    # A rim of zeros closes contours that would run out of the table; smoothing is for the lines alone.
    smooth = gaussian_filter(np.pad(table.astype(np.float64), _RIM), smoothing)
    axes.contour(
        10.0 ** _middles(x),
        vertical(_middles(y)),
        smooth.T,
        levels=np.unique(enclosing_levels(smooth, fractions)),
        colors="black",
        linewidths=0.5,
    )


def _middles(edges: Floats) -> Floats:
    """Middles of even bins, continued over the rim on both sides."""
    step = edges[1] - edges[0]
    middles: Floats = edges[0] + step * (np.arange(-_RIM, edges.size - 1 + _RIM) + 0.5)
    return middles


def draw_error_profile(axes: Axes, statistics: PairStatistics) -> None:
    """Draw the relative error against the target: density with contours, median and central 95 %."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    along = statistics.joint.along_first()
    if along.total == 0:
        return
    # About forty columns, of whole brightness bins, each with enough pixels for its 95 % limits.
    width = max(1, -(-along.index.size // 40))
    columns = []
    for start in range(int(along.index[0]), int(along.index[-1]) + 1, width):
        errors = statistics.joint.second_where(start, start + width)
        if errors.total >= 40:
            edges = statistics.joint.first.edges(np.array([start, start + width]))
            quantiles = [errors.quantile(q) for q in (0.025, 0.5, 0.975)]
            columns.append((float(np.sqrt(edges[0] * edges[1])), *quantiles))
    x_edges, y_edges, table = statistics.joint.dense(_SPARE, margin=15)
    # Bins of the relative error are even near zero and broaden away from it: colours are per percent.
    shown = np.ma.masked_equal(table.T / (100 * np.diff(y_edges))[:, None], 0)
    axes.pcolormesh(x_edges, 100 * y_edges, shown, norm=LogNorm(), cmap="viridis", rasterized=True, linewidth=0)
    numbers = np.arcsinh(y_edges / JOINT_ERROR_SCALE.linear)
    _draw_contours(
        axes,
        np.log10(x_edges),
        numbers,
        table,
        CONTOURS,
        lambda n: 100 * JOINT_ERROR_SCALE.linear * np.sinh(n),
        # Fewer pixels need more smoothing, or contours follow the noise.
        smoothing=1.8 * float(np.clip((400_000 / statistics.joint.total) ** 0.25, 1.0, 3.0)),
    )
    axes.axhline(0, color=INK, linewidth=0.8, linestyle=(0, (5, 4)))
    axes.set_xscale("log")
    if columns:
        x, low, median, high = np.array(columns).T
        axes.plot(x, 100 * median, color=_LINE, linewidth=1.5, label="median")
        axes.plot(x, 100 * low, color=_LINE, linewidth=1.0, linestyle=(0, (2, 1.5)), label="central 95 %")
        axes.plot(x, 100 * high, color=_LINE, linewidth=1.0, linestyle=(0, (2, 1.5)))
        reach = 180 * max(abs(np.quantile(low, 0.05)), abs(np.quantile(high, 0.95)), 1e-5)
        axes.set_ylim(-reach, reach)
        axes.legend(fontsize=NOTE_SIZE, framealpha=0.85, edgecolor="none", ncols=2, loc="upper right")
    axes.yaxis.set_major_locator(MaxNLocator(6))


def error_figure(statistics: PairStatistics, *, label: str) -> Figure:
    """Return the histogram of the relative error with its Gaussian fit, on a linear and on a logarithmic axis."""
    figure = new_figure(8.4, 3.6)
    linear, logarithmic = figure.subplots(1, 2)
    found = summary(statistics)
    bells = fit_gaussians(statistics.errors)
    edges, counts = error_bins(statistics.errors)
    per_percent = counts / (100 * np.diff(edges))
    for axes in (linear, logarithmic):
        axes.stairs(per_percent, 100 * edges, fill=True, color=COLOURS[0], alpha=0.35)
        axes.stairs(per_percent, 100 * edges, color=COLOURS[0], linewidth=1.0)
        if bells:
            x, density = fitted_curve(bells, edges[0], edges[-1])
            axes.plot(
                100 * x, density * statistics.errors.total / 100, color=COLOURS[1], linewidth=1.5, label="Gaussian fit"
            )
        axes.axvline(0, color=GUIDE, linewidth=0.8, linestyle=(0, (4, 3)))
        style(axes, x=f"(prediction $-$ target) / target, {label} [%]", y="Pixels per percent")
        axes.set_xlim(100 * edges[0], 100 * edges[-1])
    linear.set_ylim(0, 1.28 * float(per_percent.max()))
    logarithmic.set_yscale("log")
    logarithmic.set_ylim(0.5 * float(per_percent[per_percent > 0].min()), 4 * float(per_percent.max()))
    if bells:
        logarithmic.legend(fontsize=NOTE_SIZE, frameon=False, loc="upper right")
        fit = f"Gaussian: centre {100 * bells[0].centre:+.2f} %, $\\sigma$ {100 * bells[0].sigma:.2f} %\n"
    else:
        fit = "too few pixels for a Gaussian fit\n"
    note(
        linear,
        f"{fit}sample $\\sigma$ {100 * found['sigma']:.2f} %, robust {100 * found['robust_sigma']:.2f} %\n"
        f"central 95 % within $\\pm${100 * found['half_width_95']:.2f} %",
    )
    return figure


def error_bins(errors: Histogram, bins: int = 100) -> tuple[Floats, NDArray[np.int64]]:
    """Return edges and counts of the relative error over the range that figures show.

    The range is symmetric about zero and holds the central 99 % and four robust sigmas.
    """
    quantiles = [errors.quantile(q) for q in (0.005, 0.25, 0.75, 0.995)]
    spread = (quantiles[2] - quantiles[1]) / 1.349
    reach = max(-quantiles[0], quantiles[3], 4 * spread, 1e-3)
    reach = min(reach, max(12 * spread, 1e-3)) if spread > 0 else reach
    number = int(np.clip(4 * errors.total ** (1 / 3), 12, bins))
    return errors.rebinned(-reach, reach, number)


def density_panels_figure(groups: Mapping[str, PairStatistics], *, label: str, unit: str) -> Figure | None:
    """Return one small density a survey, or None where no survey has enough positive pixels.

    Contours enclose 50 % and 95 % of the pixels.

    Parameters
    ----------
    groups : mapping of str to PairStatistics
        By name of the survey.
    label, unit : str
        Of the band.
    """
    shown = {name: part for name, part in groups.items() if part.density.total >= 20}
    if not shown:
        return None
    columns = len(shown) if len(shown) < 4 else 3 if len(shown) in (5, 6, 9) else 4
    rows = -(-len(shown) // columns)
    figure = new_figure(2.7 * columns + 0.3, 2.75 * rows + 0.2)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()
    for axes, (name, part) in zip(panels.flat, shown.items(), strict=False):
        draw_density(axes, part, (0.5, 0.95))
        found = summary(part)
        style(axes, title=name)
        note(axes, f"{found['pixels']:,} px\n$\\sigma$ {100 * found['sigma']:.2f} %", "upper left")
    figure.supxlabel(f"Target {label} [{unit}]", fontsize=LABEL_SIZE)
    figure.supylabel(f"Predicted {label} [{unit}]", fontsize=LABEL_SIZE)
    return figure


def error_by_survey_figure(groups: Mapping[str, PairStatistics], *, label: str) -> Figure | None:
    """Return median, central 68 % and 95 % of the relative error a survey, or None where there is no survey."""
    shown = {name: part for name, part in groups.items() if part.relative.count >= 20}
    if not shown:
        return None
    figure = new_figure(6.4, 1.3 + 0.42 * len(shown))
    axes = figure.subplots()
    for place, part in enumerate(shown.values()):
        quantiles = [100 * part.errors.quantile(q) for q in (0.025, 0.16, 0.5, 0.84, 0.975)]
        axes.plot(quantiles[::4], [place, place], color=COLOURS[0], linewidth=1.2, solid_capstyle="butt")
        axes.plot(quantiles[1:4:2], [place, place], color=COLOURS[0], linewidth=6, alpha=0.45, solid_capstyle="butt")
        axes.plot(quantiles[2], place, "o", color=COLOURS[1], markersize=5)
    axes.axvline(0, color=GUIDE, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(shown)), [f"{name} ({part.relative.count:,})" for name, part in shown.items()])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    style(axes, x=f"Relative error of {label} [%]: median, central 68 % and 95 %")
    axes.tick_params(axis="y", length=0)
    return figure
