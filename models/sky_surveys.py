"""Which parts of the synthetic sky were observed: a Galactic-plane strip, cloud patches, core tiles, five galaxies.

The shapes imitate surveys; whether a pixel belongs to one is decided for whole cells of `CELL_ORDER`, so that it
does not depend on the resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..chunking.sphere import lonlat_to_vector

CELL_ORDER: Final = 8  # 13.7 arcmin

type Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Survey:
    """One footprint: its code in the map `survey`, its name, and whether it is meant for training.

    Parameters
    ----------
    code : int
        1 to 255.
    name : str
        For tables and figures.
    long_name : str
        What it imitates.
    training : bool
        False for those that are only predicted: other dust, never seen in training.
    """

    code: int
    name: str
    long_name: str
    training: bool


class Directions:
    """Directions of pixels in NESTED order, grouped so that those near a place are found without looking at all.

    Parameters
    ----------
    vectors : ndarray
        (cells, 3) Galactic unit vectors; neighbours in the list are neighbours on the sky.

    Examples
    --------
    >>> sky = Directions(lonlat_to_vector([0.0, 90.0, 91.0], 0.0))
    >>> sky.within(lonlat_to_vector(90.0, 0.0), 0.1).tolist()
    [1, 2]
    """

    def __init__(self, vectors: Doubles) -> None:
        self.vectors = vectors
        group = math.gcd(len(vectors), 1024)
        groups = vectors.reshape(-1, group, 3)
        self._members = np.arange(len(vectors)).reshape(-1, group)
        self._centres = groups.mean(axis=1)
        self._centres /= np.linalg.norm(self._centres, axis=1, keepdims=True)
        cosines = np.einsum("gcx,gx->gc", groups, self._centres).min(axis=1)
        self._radii = np.arccos(np.clip(cosines, -1.0, 1.0))

    def within(self, centre: Doubles, reach: float) -> NDArray[np.intp]:
        """Return which directions lie within `reach` radian of a unit vector, (cells,) int64, sorted."""
        distance = np.arccos(np.clip(self._centres @ centre, -1.0, 1.0))
        candidates = self._members[distance < reach + self._radii + 1e-6].ravel()
        return np.asarray(candidates[self.vectors[candidates] @ centre > math.cos(reach)])


@dataclass(frozen=True)
class Shape:
    """An ellipse on the sky: Galactic centre, half axes and position angle (from north to east), in degrees."""

    lon: float
    lat: float
    major: float
    minor: float
    angle: float = 0.0

    def near(self, sky: Directions, limit: float) -> tuple[NDArray[np.intp], Doubles]:
        """Return which directions lie within an elliptical radius, and that radius of each, 1 on the outline.

        Parameters
        ----------
        sky : Directions
            Of the pixels.
        limit : float
            The largest elliptical radius.

        Examples
        --------
        >>> index, radius = Shape(0.0, 0.0, 2.0, 1.0).near(Directions(lonlat_to_vector(0.0, [1.0, 9.0])), 1.5)
        >>> index.tolist(), radius.round(3).tolist()
        ([0], [0.5])
        """
        lon, lat, turn = (math.radians(v) for v in (self.lon, self.lat, self.angle))
        reach = math.radians(limit * max(self.major, self.minor))
        close = sky.within(lonlat_to_vector(self.lon, self.lat), min(reach, 1.5))
        east = np.array([-math.sin(lon), math.cos(lon), 0.0])
        north = np.array([-math.sin(lat) * math.cos(lon), -math.sin(lat) * math.sin(lon), math.cos(lat)])
        along = math.cos(turn) * north + math.sin(turn) * east
        across = math.cos(turn) * east - math.sin(turn) * north
        u = sky.vectors[close] @ along / math.radians(self.major)
        v = sky.vectors[close] @ across / math.radians(self.minor)
        radius = np.hypot(u, v)
        inside = radius < limit
        return close[inside], radius[inside]


@dataclass(frozen=True)
class Galaxy:
    """A small galaxy: its survey, its outline, peak column in 1e20 H/cm^2, and its dust from centre to outline."""

    survey: Survey
    shape: Shape
    column: float
    temperatures: tuple[float, float]
    index: float


PLANE: Final = Survey(1, "plane", "strip along the Galactic plane, like Hi-GAL", True)
CLOUDS: Final = Survey(2, "clouds", "patches on nearby clouds, like the Gould Belt survey", True)
CORES: Final = Survey(3, "cores", "small tiles on cold cores", True)

# Names and places imitate; the dust of galaxies is warmer and flatter (Paradis et al. 2011, Planck 2011 XVII).
GALAXIES: Final = tuple(
    Galaxy(Survey(4 + number, name, f"galaxy like {like}", False), shape, column, temperatures, index)
    for number, (name, like, shape, column, temperatures, index) in enumerate(
        (
            ("large_cloud", "the LMC", Shape(280.5, -32.9, 4.0, 3.6), 60.0, (25.0, 21.0), 1.48),
            ("small_cloud", "the SMC", Shape(302.8, -44.3, 2.2, 1.6, 45.0), 35.0, (24.0, 21.5), 1.42),
            ("andromeda", "M31", Shape(121.2, -21.6, 1.6, 0.6, 38.0), 70.0, (22.0, 16.5), 1.75),
            ("triangulum", "M33", Shape(133.6, -31.3, 0.8, 0.7, 20.0), 50.0, (23.5, 18.5), 1.50),
            ("spiral", "M81", Shape(142.1, 40.9, 0.7, 0.6, 0.0), 60.0, (24.5, 18.0), 1.65),
        )
    )
)
SURVEYS: Final = (PLANE, CLOUDS, CORES, *(galaxy.survey for galaxy in GALAXIES))

STRIP_HALF_WIDTH, STRIP_WARP = 1.15, 0.5  # degrees
CLOUD_PATCHES: Final = (
    Shape(210.0, -17.0, 8.0, 6.0, 120),
    Shape(171.0, -15.0, 6.5, 5.0, 70),
    Shape(354.0, 17.0, 5.5, 4.5, 20),
    Shape(159.5, -20.0, 4.5, 3.0, 60),
    Shape(300.0, -16.0, 4.5, 3.5, 0),
    Shape(338.0, 13.0, 5.0, 4.0, 40),
    Shape(110.0, 15.0, 6.0, 4.5, 100),
    Shape(29.0, 5.0, 4.0, 3.0, 150),
    Shape(0.0, -20.0, 3.5, 2.5, 80),
    Shape(124.0, 26.0, 4.0, 3.0, 30),
    Shape(301.0, -8.5, 2.8, 2.2, 0),
    Shape(161.0, -8.5, 4.0, 2.5, 50),
)
_GOLDEN_ANGLE = 137.50776405
CORE_TILES: Final = tuple(
    Shape((i * _GOLDEN_ANGLE) % 360.0, (-1) ** i * math.degrees(math.asin(0.1 + 0.55 * (i + 0.5) / 80)), 0.65, 0.65)
    for i in range(80)
)


def cell_codes(sky: Directions) -> NDArray[np.uint8]:
    """Return the code of the survey that a direction belongs to, 0 for none, (cells,) uint8.

    Parameters
    ----------
    sky : Directions
        Of the pixels.

    Examples
    --------
    >>> cell_codes(Directions(lonlat_to_vector([40.0, 280.5, 10.0], [0.0, -32.9, 80.0]))).tolist()
    [1, 4, 0]
    """
    vectors = sky.vectors
    codes = np.zeros(len(vectors), dtype=np.uint8)
    for tiles, survey in ((CORE_TILES, CORES), (CLOUD_PATCHES, CLOUDS)):
        for shape in tiles:
            codes[shape.near(sky, 1.0)[0]] = survey.code
    lon = np.arctan2(vectors[:, 1], vectors[:, 0])
    lat = np.degrees(np.arcsin(np.clip(vectors[:, 2], -1.0, 1.0)))
    codes[np.abs(lat - STRIP_WARP * np.sin(lon - 0.6)) < STRIP_HALF_WIDTH] = PLANE.code
    for galaxy in GALAXIES:
        codes[galaxy.shape.near(sky, 1.0)[0]] = galaxy.survey.code
    return codes


def coarse_codes(codes: NDArray[np.uint8], order: int) -> NDArray[np.uint8]:
    """Return codes of coarser pixels, (cells,) uint8: observed where every cell in them is, by the smallest code.

    Parameters
    ----------
    codes : ndarray
        (cells,) uint8 of `CELL_ORDER`, NESTED.
    order : int
        At most `CELL_ORDER`.

    Examples
    --------
    >>> codes = np.zeros(12 * 4**8, np.uint8); codes[:4] = 2; codes[4:7] = 1
    >>> coarse_codes(codes, 7)[:2].tolist()
    [2, 0]
    """
    return np.asarray(codes.reshape(-1, 4 ** (CELL_ORDER - order)).min(axis=1))
