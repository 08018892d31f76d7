"""Pictures of the galactic caps: where the pixels of a polar equal-area picture lie, and residuals read there.

Seen from inside as astronomers do: the pole is in the middle, galactic longitude 90 on the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..chunking import sphere
from ..chunking import store as stores
from .gas_model import GasModel
from .masks import weight_values
from .moments import Floats
from .region_images import read_image

type Cap = Literal["north", "south"]
CAP_PIXELS = 500


def cap_lonlat(cap: Cap, width: int = CAP_PIXELS) -> tuple[Floats, Floats]:
    """Return galactic longitude and latitude of the pixels of a picture of one hemisphere, each (y, x) degrees.

    Parameters
    ----------
    cap : {"north", "south"}
        Around which galactic pole.
    width : int
        Pixels along a side; the picture goes from -1 to 1, the pole is at 0 and the galactic plane at radius 1.

    Returns
    -------
    tuple of ndarray
        NaN beyond the plane; row 0 is the lowest.

    Examples
    --------
    >>> lon, lat = cap_lonlat("north", 3)
    >>> round(float(lat[1, 1])), round(float(lon[1, 0]))
    (90, 90)
    """
    axis = (np.arange(width) + 0.5) / width * 2.0 - 1.0
    x, y = np.meshgrid(axis, axis)
    radius = np.hypot(x, y)
    with np.errstate(invalid="ignore"):
        # Lambert: areas are true, so that large residuals look as large as they are.
        distance = 2.0 * np.degrees(np.arcsin(np.where(radius <= 1.0, radius / np.sqrt(2.0), np.nan)))
    lat = (90.0 - distance) * (1 if cap == "north" else -1)
    # North: longitude 0 below, growing clockwise; south: longitude 0 above, growing counterclockwise.
    lon = np.degrees(np.arctan2(-x, -y if cap == "north" else y)) % 360.0
    return np.where(np.isnan(lat), np.nan, lon), lat


def cap_xy(cap: Cap, lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
    """Return where directions lie in a picture of a cap, x and y from -1 to 1; NaN for the other hemisphere.

    Parameters
    ----------
    cap : {"north", "south"}
        Around which galactic pole.
    lon, lat : ndarray
        Galactic, degrees.

    Examples
    --------
    >>> x, y = cap_xy("south", np.array([0.0]), np.array([0.0]))
    >>> float(x[0].round(9)) + 0.0, float(y[0].round(9))
    (0.0, 1.0)
    """
    sign = 1.0 if cap == "north" else -1.0
    radius = np.sqrt(2.0) * np.sin(np.radians(90.0 - sign * lat) / 2.0)
    radius = np.where(sign * lat >= 0, radius, np.nan)
    turn = np.radians(lon)
    return -radius * np.sin(turn), -sign * radius * np.cos(turn)


@dataclass(frozen=True, eq=False)
class CapImage:
    """What is seen of one hemisphere.

    Parameters
    ----------
    cap : {"north", "south"}
        Which.
    observed, modelled : (y, x) float64
        Brightness without the offset, NaN where no pixel is used.
    """

    cap: Cap
    observed: Floats
    modelled: Floats


def cap_image(store: str, models: Sequence[GasModel], cap: Cap, width: int = CAP_PIXELS) -> CapImage:
    """Return what is observed and modelled of one hemisphere.

    Parameters
    ----------
    store : str
        Address of the store.
    models : sequence of GasModel
        Of one target, one a region; where they overlap the first counts.
    cap : {"north", "south"}
        Which.
    width : int
        Pixels along a side.
    """
    tiling, frame = stores.tiling_of(store), stores.frame_of(store)
    lon, lat = cap_lonlat(cap, width)
    sky = np.isfinite(lat)
    lon_here, lat_here = sphere.rotate(lon[sky], lat[sky], "galactic", frame)
    pixels = tiling.from_lonlat(lon_here, lat_here)
    names = dict.fromkeys(name for model in models for name in model.reads)
    inputs = {name: read_image(store, name, pixels) for name in names}
    observed, modelled = (np.full(lat.shape, np.nan) for _ in range(2))
    for model in reversed(models):
        used = _used_at(model, pixels, inputs)
        places = np.flatnonzero(sky)[used]
        for image, part in zip((observed, modelled), model.parts(inputs), strict=True):
            image.flat[places] = part[used]
    return CapImage(cap, observed, modelled)


def _used_at(model: GasModel, pixels: NDArray[np.int64], inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.bool_]:
    """Return which of some pixels, in any order, are used."""
    rule = model.used
    used: NDArray[np.bool_] = np.asarray(rule.selection.holds(rule.tiling, rule.frame, pixels, inputs), bool).copy()
    if rule.mask is not None:
        values = inputs[rule.mask.name]
        # Of a weight, what is not stored is not used.
        values = values.astype(np.uint8) if rule.mask.dtype == "uint8" else np.nan_to_num(values)
        used &= weight_values(rule.mask, values) > 0
    for name in model.measured:
        used &= np.isfinite(inputs[name])
    return used
