"""Pictures of the sky: Mollweide for all of it, gnomonic for a part, as astronomers look at them.

Longitude grows to the left, north is up, pixels without a value are grey.  Every function returns a
`matplotlib.figure.Figure` made without pyplot, so nothing global is touched and pictures can be drawn in any thread;
`figure.savefig` writes one.  Sampling of the projections is in `projections.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from . import geometry, projections
from . import plots_colours as colours
from .errors import InputError, nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Figure
    from matplotlib.image import AxesImage

type Stretch = Literal["linear", "log", "asinh"]

STRETCHES: Final = ("linear", "log", "asinh")
INK: Final = "#1a1a1a"
AXIS_NAMES: Final = {"galactic": ("l", "b"), "icrs": ("RA", "Dec"), "ecliptic": ("λ", "β")}
DOTS_PER_INCH: Final = 160


def mollweide(
    values: NDArray[Any],
    *,
    title: str = "",
    unit: str = "",
    frame: str = "galactic",
    stretch: Stretch = "linear",
    vmin: float | None = None,
    vmax: float | None = None,
    centre: float | None = None,
    cmap: str | None = None,
    names: Mapping[int, str] | None = None,
    graticule: bool = True,
    width: int = 1600,
) -> Figure:
    """Return a picture of the whole sky in Mollweide projection, longitude 0 in the middle.

    Parameters
    ----------
    values : ndarray
        (cells,) full sky in NESTED order, floats with NaN = no value, or integer codes.
    title, unit : str
        Texts above the picture and at the colour bar.
    frame : {"galactic", "icrs", "ecliptic"}
        Whose longitudes and latitudes the graticule shows.
    stretch : {"linear", "log", "asinh"}
        How values become colours; "asinh" is linear around 0 and logarithmic beyond, for both signs.
    vmin, vmax : float, optional
        Values of the first and the last colour; by default the 0.5th and the 99.5th percentile.
    centre : float, optional
        Value of the middle colour of a diverging colour map, for residuals; the limits become symmetric about it.
    cmap : str, optional
        Name of a matplotlib colour map.
    names : mapping of int to str, optional
        What the codes of an integer map mean.
    graticule : bool
        Draw lines every 30 degrees.
    width : int
        Pixels of the picture along the equator.

    Raises
    ------
    InputError
        If the values are no full sky, or an option is unknown.

    Examples
    --------
    >>> figure = mollweide(np.arange(192.0), unit="K", width=200)
    >>> len(figure.axes)  # the sky and its colour bar
    2
    """
    nside = math.isqrt(values.shape[-1] // 12) if values.ndim == 1 and values.size else 0
    if nside == 0 or 12 * nside**2 != values.size or nside & (nside - 1):
        raise InputError(
            f"`values` of shape {values.shape} came; a Mollweide picture shows a full sky, 12 nside**2 cells with "
            "nside a power of two."
        )
    lon, lat, sky = projections.mollweide_lonlat(width)
    image = np.ma.masked_array(np.zeros(sky.shape, dtype=values.dtype), mask=True)
    image[sky] = values[geometry.lonlat_pixels(nside, lon[sky], lat[sky])]
    figure = _new_figure(9.0, 5.45)
    axes = figure.add_axes((0.045, 0.155, 0.91, 0.765))
    shown = _show(axes, image, values, (2.0, -2.0, -1.0, 1.0), (stretch, vmin, vmax, centre, cmap))
    _ellipse(axes, shown)
    if graticule:
        _mollweide_graticule(axes, colours.lines(shown))
    axes.set_xlim(-2.01, 2.01)
    axes.set_ylim(-1.01, 1.01)
    axes.set_aspect("equal")
    axes.set_axis_off()
    bar = figure.add_axes((0.06, 0.085, 0.88, 0.026) if names else (0.27, 0.095, 0.46, 0.026))
    _colour_bar(figure, bar, shown, values, unit, "horizontal", names or {})
    if title:
        figure.text(0.5, 0.985, title, ha="center", va="top", fontsize=12, color=INK)
    figure.text(0.955, 0.125, frame.capitalize() if frame != "icrs" else "ICRS", ha="right", fontsize=8, color=INK)
    return figure


def gnomonic(
    image: NDArray[Any],
    lon: float,
    lat: float,
    size: float,
    *,
    title: str = "",
    unit: str = "",
    frame: str = "galactic",
    stretch: Stretch = "linear",
    vmin: float | None = None,
    vmax: float | None = None,
    centre: float | None = None,
    cmap: str | None = None,
    names: Mapping[int, str] | None = None,
    graticule: bool = True,
) -> Figure:
    """Return a picture of a part of the sky in gnomonic projection.

    Parameters
    ----------
    image : ndarray
        (y, x) values at the positions of `projections.gnomonic_lonlat(lon, lat, size, pixels)`.
    lon, lat : float
        Middle of the picture, degrees.
    size : float
        Side of the picture, degrees, below 180.
    title, unit, frame, stretch, vmin, vmax, centre, cmap, names, graticule
        As for `mollweide`.

    Raises
    ------
    InputError
        If the image is no square, or an option is unknown.

    Examples
    --------
    >>> figure = gnomonic(np.ones((8, 8)), 0.0, 0.0, 5.0, unit="K")
    >>> figure.axes[0].get_xlabel()
    'l [deg]'
    """
    if image.ndim != 2 or image.shape[0] != image.shape[1]:
        raise InputError(f"`image` of shape {image.shape} came; a gnomonic picture is a square (y, x).")
    figure = _new_figure(6.4, 5.6)
    axes = figure.add_axes((0.13, 0.11, 0.69, 0.79))
    # From -1 to 1 across the picture; x to the right, so longitude grows to the left.
    shown = _show(axes, np.ma.asarray(image), image, (-1.0, 1.0, -1.0, 1.0), (stretch, vmin, vmax, centre, cmap))
    _gnomonic_axes(
        axes, (lon, lat, size), AXIS_NAMES.get(frame, ("lon", "lat")), colours.lines(shown) if graticule else None
    )
    bar = figure.add_axes((0.845, 0.11, 0.028, 0.79))
    _colour_bar(figure, bar, shown, image, unit, "vertical", names or {})
    if title:
        axes.set_title(title, fontsize=12, color=INK, pad=8)
    return figure


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _show(
    axes: Axes,
    image: NDArray[Any],
    values: NDArray[Any],
    extent: tuple[float, float, float, float],
    look: tuple[str, float | None, float | None, float | None, str | None],
) -> AxesImage:
    """Draw an image whose first row is the southernmost; limits come from all the values."""
    stretch, vmin, vmax, centre, cmap = look
    if stretch not in STRETCHES:
        raise InputError(f"`stretch` {stretch!r} came; {nearest(stretch, STRETCHES)}.")
    codes = colours.codes(values)
    if codes is not None and cmap is None and vmin is None and vmax is None:
        norm, palette = colours.code_colours(codes)
    else:
        norm = colours.norm(stretch, *colours.limits(values, stretch, vmin, vmax, centre), values)
        palette = colours.colour_map(cmap or ("inferno" if centre is None else "RdBu_r"))
        if stretch == "log":  # what is not positive has the lowest colour; grey means no value
            image = np.ma.where(image <= 0, float(norm.vmin or 0.0), image)
    if image.dtype.kind == "f":
        image = np.ma.masked_invalid(image)
    west, east, south, north = extent
    drawn = axes.imshow(
        image, origin="lower", extent=(min(west, east), max(west, east), south, north), norm=norm, cmap=palette,
        interpolation="nearest", aspect="auto",
    )  # fmt: skip
    return drawn


def _ellipse(axes: Axes, shown: AxesImage) -> None:
    from matplotlib.patches import Ellipse

    edge = Ellipse((0, 0), 4.0, 2.0, transform=axes.transData, facecolor="none", edgecolor=INK, linewidth=0.9)
    edge.set_zorder(4)
    axes.add_patch(edge)
    shown.set_clip_path(edge)


def _write_on(axes: Axes, x: float, y: float, text: str, **where: Any) -> None:
    """Write on top of an image, legibly on any colour."""
    from matplotlib.patheffects import withStroke

    written = axes.text(x, y, text, fontsize=7, color="white", zorder=5, clip_on=True, **where)
    written.set_path_effects([withStroke(linewidth=1.6, foreground=INK, alpha=0.75)])


def _mollweide_graticule(axes: Axes, look: dict[str, Any]) -> None:
    along = np.linspace(-180.0, 180.0, 181)
    for lat in range(-60, 61, 30):
        x, y = projections.mollweide_xy(along, np.full(along.shape, float(lat)))
        axes.plot(x, y, **look)
        edge_x, edge_y = (float(v) for v in projections.mollweide_xy(180.0, float(lat)))
        side = "center" if lat == 0 else "bottom" if lat > 0 else "top"
        axes.text(edge_x - 0.03, edge_y, f"{projections.label(lat, 1.0)}°", ha="right", va=side, fontsize=8, color=INK)
    for lon in range(-150, 151, 30):
        x, y = projections.mollweide_xy(np.full(along.shape, float(lon)), along / 2)
        axes.plot(x, y, **look)
        if lon % 60 == 0:
            at_x, at_y = (float(v) for v in projections.mollweide_xy(float(lon), 0.0))
            _write_on(axes, at_x + 0.012, at_y + 0.012, f"{lon % 360}°", ha="left", va="bottom")


def _gnomonic_axes(
    axes: Axes, view: tuple[float, float, float], names: tuple[str, str], look: dict[str, Any] | None
) -> None:
    """Label the lower edge with longitudes and the left one with latitudes, and draw their lines."""
    from matplotlib.ticker import FixedFormatter, FixedLocator

    lon, lat, size = view
    edge = np.linspace(-1.0, 1.0, 2001)
    ends = np.full(edge.shape, -1.0)
    lower = projections.gnomonic_inverse(*view, edge, ends)[0]
    left = projections.gnomonic_inverse(*view, ends, edge)[1]
    lower = lon + (lower - lon + 180.0) % 360.0 - 180.0
    # Around a pole the edge crosses meridians and parallels twice or never: the lines carry their labels then.
    plain = abs(lat) + 0.72 * size < 90.0 and bool((np.diff(lower) < 0).all() and (np.diff(left) > 0).all())
    if plain:
        lat_step = projections.nice_step(left[-1] - left[0])
        lon_step = projections.nice_step(lower[0] - lower[-1])
    else:
        lat_step, lon_step = projections.nice_step(0.75 * size), 30.0
    lats = projections.round_numbers(left, lat_step) if plain else np.empty(0)
    lons = projections.round_numbers(lower, lon_step) if plain else np.empty(0)
    axes.xaxis.set_major_locator(FixedLocator(np.interp(-lons, -lower, edge).tolist()))
    axes.xaxis.set_major_formatter(FixedFormatter([projections.label(v % 360.0, lon_step) for v in lons]))
    axes.yaxis.set_major_locator(FixedLocator(np.interp(lats, left, edge).tolist()))
    axes.yaxis.set_major_formatter(FixedFormatter([projections.label(v, lat_step) for v in lats]))
    axes.tick_params(which="both", direction="in", top=False, right=False, labelsize=9, colors=INK)
    axes.set_xlabel(f"{names[0]} [deg]", fontsize=10, color=INK)
    axes.set_ylabel(f"{names[1]} [deg]", fontsize=10, color=INK, labelpad=2)
    axes.set_xlim(-1.0, 1.0)
    axes.set_ylim(-1.0, 1.0)
    axes.set_aspect("equal")
    if look is None:
        return
    for x, y in projections.gnomonic_lines(*view, (lat_step, lon_step)):
        axes.plot(x, y, **look)
    if not plain:
        for at_x, at_y, text in projections.gnomonic_labels(*view, (lat_step, lon_step)):
            _write_on(axes, at_x, at_y, text, ha="center", va="center")


def _colour_bar(
    figure: Figure,
    bar: Axes,
    shown: AxesImage,
    values: NDArray[Any],
    unit: str,
    orientation: str,
    names: Mapping[int, str],
) -> None:
    from matplotlib.colors import AsinhNorm, BoundaryNorm, LogNorm
    from matplotlib.ticker import NullFormatter

    norm = shown.norm
    coded = isinstance(norm, BoundaryNorm)
    extend = "neither"
    finite = values[np.isfinite(values)]
    if finite.size and not coded and norm.vmin is not None and norm.vmax is not None:
        below, above = bool(finite.min() < norm.vmin), bool(finite.max() > norm.vmax)
        extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
    drawn = figure.colorbar(shown, cax=bar, orientation=orientation, extend=extend, extendfrac=0.03)
    if isinstance(norm, BoundaryNorm):
        codes = np.unique(values)
        labels = [names.get(int(code), str(int(code))) for code in codes]
        drawn.set_ticks((norm.boundaries[1:] + norm.boundaries[:-1]) / 2, labels=labels)
        drawn.ax.minorticks_off()
    elif isinstance(norm, (LogNorm, AsinhNorm)):
        ticks = colours.ticks(norm)
        drawn.set_ticks(ticks, labels=[colours.number(tick) for tick in ticks])
        (drawn.ax.xaxis if orientation == "horizontal" else drawn.ax.yaxis).set_minor_formatter(NullFormatter())
        if isinstance(norm, AsinhNorm):
            drawn.ax.minorticks_off()
    drawn.set_label("" if unit in ("", "1") else f"[{unit}]", fontsize=10, color=INK)
    drawn.ax.tick_params(labelsize=7.5 if names else 9, colors=INK, which="both")
    drawn.outline.set_edgecolor(INK)
    drawn.outline.set_linewidth(0.8)
