"""Maps of the two galactic caps side by side, with circles around named regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..chunking import sphere
from .cap_images import Cap, cap_xy
from .figures import INK, LABEL_SIZE, NOTE_SIZE, TICK_SIZE, new_figure
from .moments import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

NO_VALUE = "#dcdcdc"
TITLES: Mapping[Cap, str] = {"north": "Northern galactic cap", "south": "Southern galactic cap"}

type Circle = tuple[float, float, float]


def caps_figure(
    images: Mapping[Cap, Floats],
    *,
    title: str,
    unit: str,
    circles: Mapping[str, Circle] | None = None,
    centre: float | None = None,
    reach: float | None = None,
) -> Figure:
    """Return a picture of one or both caps in an equal-area projection.

    Parameters
    ----------
    images : mapping
        By cap, (y, x) float64 at the places of `cap_images.cap_lonlat`; NaN is grey.
    title, unit : str
        Texts.
    circles : mapping, optional
        By name: galactic longitude, latitude and radius of a circle to draw, degrees.
    centre : float, optional
        Value of the middle of a diverging colour map; default a sequential one.
    reach : float, optional
        Distance from `centre` to the ends of the colours; default that within which 98 % of the pixels lie.
    """
    from matplotlib.colors import Normalize

    shown = [cap for cap in ("north", "south") if cap in images and np.isfinite(images[cap]).any()]
    caps: Sequence[Any] = shown or list(images)
    values = np.concatenate([images[cap][np.isfinite(images[cap])] for cap in caps])
    if not values.size:
        values = np.zeros(1)
    if centre is None:
        low, high = (float(v) for v in np.quantile(values, [0.01, 0.99]))
        norm, colours = Normalize(low, high if high > low else low + 1.0), "inferno"
    else:
        wide = reach or float(np.quantile(np.abs(values - centre), 0.98)) or 1.0
        norm, colours = Normalize(centre - wide, centre + wide), "RdBu_r"
    extent = max((_extent(images[cap]) for cap in caps), default=1.0)
    figure = new_figure(0.6 + 4.3 * len(caps), 5.15)
    figure.set_layout_engine("compressed")
    panels = figure.subplots(1, len(caps), squeeze=False)[0]
    for axes, cap in zip(panels, caps, strict=True):
        drawn = axes.imshow(
            np.ma.masked_invalid(images[cap]), cmap=colours, norm=norm, origin="lower", extent=(-1, 1, -1, 1),
            interpolation="nearest", zorder=1,
        )  # fmt: skip
        rim = _graticule(axes, cap, extent)
        for name, circle in (circles or {}).items():
            _circle(axes, cap, name, circle, rim, extent)
        axes.set_title(TITLES[cap], fontsize=LABEL_SIZE, color=INK, fontweight="bold", pad=16)
        axes.set_xlim(-1.02 * extent, 1.02 * extent)
        axes.set_ylim(-1.02 * extent, 1.02 * extent)
        axes.set_aspect("equal")
        axes.set_axis_off()
    bar = figure.colorbar(
        drawn, ax=list(panels), orientation="horizontal", fraction=0.045, pad=0.06, aspect=45, extend="both"
    )
    bar.set_label(f"{title} [{unit}]" if unit else title, fontsize=LABEL_SIZE, color=INK)
    bar.ax.tick_params(labelsize=TICK_SIZE, colors=INK)
    bar.outline.set_linewidth(0.8)
    return figure


def _extent(image: Floats) -> float:
    """Return the radius, in the picture, that holds all pixels with a value, at a round latitude."""
    y, x = np.nonzero(np.isfinite(image))
    if not y.size:
        return 1.0
    half = image.shape[0] / 2.0
    radius = float(np.hypot((x + 0.5) / half - 1.0, (y + 0.5) / half - 1.0).max())
    distance = 2.0 * np.degrees(np.arcsin(min(radius, 1.0) / np.sqrt(2.0)))
    # Away from the pole by the next multiple of ten degrees.
    rim = min(90.0, 10.0 * np.ceil(distance / 10.0))
    return float(np.sqrt(2.0) * np.sin(np.radians(rim) / 2.0))


def _graticule(axes: Axes, cap: Cap, extent: float) -> Patch:
    """Draw the field, parallels every 30 degrees and meridians every 60, with their labels; return the field."""
    from matplotlib.patches import Circle as Disc

    sign = 1.0 if cap == "north" else -1.0
    field = axes.add_patch(Disc((0, 0), extent, facecolor=NO_VALUE, edgecolor="none", zorder=0))
    axes.add_patch(Disc((0, 0), extent, facecolor="none", edgecolor=INK, linewidth=0.9, zorder=4))
    look: dict[str, Any] = {"color": INK, "linewidth": 0.5, "alpha": 0.35, "zorder": 2}
    around = np.linspace(0.0, 360.0, 361)
    rim = 90.0 - 2.0 * np.degrees(np.arcsin(extent / np.sqrt(2.0)))
    for lat in (30.0, 60.0):
        if lat > rim + 1.0:
            x, y = cap_xy(cap, around, np.full(around.shape, sign * lat))
            axes.plot(x, y, **look)
            at_x, at_y = cap_xy(cap, np.array([210.0]), np.array([sign * lat]))
            text = f"{'' if sign > 0 else chr(0x2212)}{lat:.0f}°"
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 0.6}
            axes.text(float(at_x[0]), float(at_y[0]), text, fontsize=NOTE_SIZE - 1, color=INK, ha="center",
                      va="center", zorder=5, bbox=box)  # fmt: skip
    for lon in range(0, 360, 60):
        lats = sign * np.linspace(max(rim, 0.0), 90.0, 50)
        x, y = cap_xy(cap, np.full(lats.shape, float(lon)), lats)
        axes.plot(x, y, **look)
        turn = np.radians(lon)
        axes.text(-1.07 * extent * np.sin(turn), -sign * 1.07 * extent * np.cos(turn), f"{lon}°", fontsize=NOTE_SIZE,
                  color=INK, ha="center", va="center")  # fmt: skip
    return field


def _circle(axes: Axes, cap: Cap, name: str, circle: Circle, rim: Patch, extent: float) -> None:
    """Draw a circle and its name; neither where no part of it lies in the field."""
    from matplotlib.patheffects import withStroke

    lon, lat, radius = circle
    edge = _small_circle(lon, lat, radius)
    x, y = cap_xy(cap, *edge)
    seen = np.hypot(x, y) < extent  # false in the other hemisphere, where both are NaN
    if not seen.any():
        return
    halo = [withStroke(linewidth=3.0, foreground="white", alpha=0.9)]
    axes.plot(x, y, color=INK, linewidth=1.2, zorder=6, path_effects=halo)[0].set_clip_path(rim)
    above = bool(y[seen].max() < 0.9 * extent)  # else the name would leave the picture
    place = int(np.argmax(np.where(seen, y, -np.inf)) if above else np.argmin(np.where(seen, y, np.inf)))
    axes.text(float(x[place]), float(y[place]) + (0.012 if above else -0.012), name, fontsize=LABEL_SIZE,
              fontweight="bold", color=INK, zorder=7, ha="center", va="bottom" if above else "top", path_effects=halo,
              clip_on=True)  # fmt: skip


def _small_circle(lon: float, lat: float, radius: float) -> tuple[Floats, Floats]:
    """Return the directions on a circle, longitude and latitude, degrees."""
    centre = sphere.lonlat_to_vector(lon, lat)
    east = np.array([-np.sin(np.radians(lon)), np.cos(np.radians(lon)), 0.0])
    north = np.cross(centre, east)
    turn = np.linspace(0.0, 2.0 * np.pi, 181)[:, np.newaxis]
    around = np.cos(turn) * east + np.sin(turn) * north
    return sphere.vector_to_lonlat(np.cos(np.radians(radius)) * centre + np.sin(np.radians(radius)) * around)
