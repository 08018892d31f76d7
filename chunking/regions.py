"""Parts of the sky: cones, boxes and polygons, and exactly the pixels whose centres lie in them.

A region answers one question, how far a direction is from its edge; the pixels follow from that by going
down the hierarchy.  A cell farther from the edge than its own radius is wholly inside or outside and is
not divided further, so the work grows with the length of the edge and the whole sky is never listed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import geometry, sphere
from .errors import FrameError, InputError
from .geometry import Ints
from .schema import check_frame
from .sphere import Floats
from .tiling import Tiling

# Distances are good to some 1e-15 rad.  A centre this close to the edge counts as on it, and so as inside:
# at the finest nside that is a twenty-thousandth of a pixel.
EDGE = 1e-13


class Region(ABC):
    """A part of the sky.  See `Cone`, `Box` and `Polygon`.

    Attributes
    ----------
    frame : {"galactic", "icrs", "ecliptic"} or None
        The frame of the region's coordinates; None for the frame of the map it is used on.
    """

    frame: str | None

    @abstractmethod
    def _depth(self, vectors: Floats) -> Floats:
        """Return a lower bound of the distance to the edge, (...) rad, positive inside, exact in its sign."""

    def contains(self, lon: ArrayLike, lat: ArrayLike, frame: str | None = None) -> NDArray[np.bool_]:
        """Return whether positions lie in the region, (...) bool.

        Parameters
        ----------
        lon, lat : array_like
            (...) degrees.
        frame : {"galactic", "icrs", "ecliptic"}, optional
            The frame of the positions; needed where the region states its own.

        Raises
        ------
        FrameError
            If the region states its frame and the positions do not, or a frame is unknown.

        Examples
        --------
        >>> Cone(0.0, 90.0, 10.0).contains([0.0, 200.0, 0.0], [81.0, 81.0, 79.0]).tolist()
        [True, True, False]
        """
        vectors = sphere.lonlat_to_vector(lon, lat) @ self._turn(frame).T
        inside: NDArray[np.bool_] = self._depth(vectors) >= -EDGE
        return inside

    def ranges(self, tiling: Tiling, frame: str | None = None) -> Ints:
        """Return the pixels whose centres lie in the region as ranges, (range, 2) int64: first, one past the last.

        Parameters
        ----------
        tiling : Tiling
            The grid.
        frame : {"galactic", "icrs", "ecliptic"}, optional
            The frame of the map; needed where the region states its own.

        Returns
        -------
        ndarray
            (range, 2) int64, sorted, neither touching nor overlapping.

        Raises
        ------
        FrameError
            If the region states its frame and the map does not, or a frame is unknown.

        Examples
        --------
        >>> Box((0.0, 360.0), (0.0, 90.0)).ranges(Tiling(1)).tolist()
        [[0, 8]]
        """
        turn = self._turn(frame).T
        cells = np.arange(12, dtype=np.int64)
        whole: list[Ints] = []
        for order in range(tiling.order + 1):
            if cells.size == 0:
                break
            nside, last = 2**order, order == tiling.order
            radius = geometry.pixel_radius(nside) + 2 * EDGE
            depth = self._depth(geometry.pixel_vectors(nside, cells) @ turn)
            inside = depth >= (-EDGE if last else radius)
            width = 4 ** (tiling.order - order)
            whole.append(np.stack([cells[inside], cells[inside] + 1], axis=-1) * width)
            undecided = cells[~inside & (np.abs(depth) <= radius)]
            cells = (4 * undecided[:, np.newaxis] + np.arange(4)).reshape(-1)
        return _joined(np.concatenate(whole))

    def pixels(self, tiling: Tiling, frame: str | None = None) -> Ints:
        """Return the pixels whose centres lie in the region, (cells,) int64, sorted.

        Parameters
        ----------
        tiling : Tiling
            The grid.
        frame : {"galactic", "icrs", "ecliptic"}, optional
            The frame of the map; needed where the region states its own.

        Raises
        ------
        FrameError
            If the region states its frame and the map does not, or a frame is unknown.

        Examples
        --------
        >>> Cone(0.0, 90.0, 45.0).pixels(Tiling(2)).tolist()
        [3, 7, 11, 15]
        """
        ranges = self.ranges(tiling, frame)
        counts = ranges[:, 1] - ranges[:, 0]
        # One arange, shifted: each range begins where the running count says it must.
        shift = np.repeat(ranges[:, 0] - (np.cumsum(counts) - counts), counts)
        pixels: Ints = np.arange(counts.sum(), dtype=np.int64) + shift
        return pixels

    def tiles(self, tiling: Tiling, frame: str | None = None) -> Ints:
        """Return the tiles that hold at least one pixel of the region, (tiles,) int64, sorted.

        Parameters
        ----------
        tiling : Tiling
            The grid.
        frame : {"galactic", "icrs", "ecliptic"}, optional
            The frame of the map; needed where the region states its own.

        Raises
        ------
        FrameError
            If the region states its frame and the map does not, or a frame is unknown.

        Examples
        --------
        >>> Cone(0.0, 90.0, 45.0).tiles(Tiling(8, tile_nside=1)).tolist()
        [0, 1, 2, 3]
        """
        ranges = self.ranges(tiling, frame)
        ends = np.stack([ranges[:, 0] // tiling.tile_npix, (ranges[:, 1] - 1) // tiling.tile_npix + 1], axis=-1)
        runs = _joined(ends)
        return np.concatenate([np.empty(0, np.int64), *(np.arange(first, stop) for first, stop in runs)])

    def _turn(self, frame: str | None) -> Floats:
        """Return the matrix that turns directions of the map into the frame of the region."""
        if frame is not None:
            check_frame(frame)
        if self.frame is None or self.frame == frame:
            return np.eye(3)
        if frame is None:
            raise FrameError(
                f'this {type(self).__name__} is given in {self.frame}; say the `frame` of the pixels ("galactic", '
                '"icrs" or "ecliptic") as well.'
            )
        return sphere.rotation(frame, self.frame)


@dataclass(frozen=True)
class Cone(Region):
    """All directions within an angle of one.

    Parameters
    ----------
    lon, lat : float
        Centre, degrees.
    radius : float
        Largest angle from the centre, degrees, 0 to 180; the edge belongs to the cone.
    frame : {"galactic", "icrs", "ecliptic"}, optional
        Frame of the centre; by default that of the map.

    Raises
    ------
    InputError
        If an angle is out of range or not finite.

    Examples
    --------
    >>> Cone(209.0, -19.4, 1.0, frame="galactic").pixels(Tiling(64), frame="galactic").size
    4
    """

    lon: float
    lat: float
    radius: float
    frame: str | None = None

    def __post_init__(self) -> None:
        _set(self, lon=_angle("lon", self.lon), lat=_latitude("lat", self.lat))
        radius = _angle("radius", self.radius)
        if not 0.0 <= radius <= 180.0:
            raise InputError(f"`radius` {radius} came; the radius of a cone is 0 to 180 degrees.")
        _set(self, radius=radius, frame=_frame(self.frame))

    def _depth(self, vectors: Floats) -> Floats:
        centre = sphere.lonlat_to_vector(self.lon, self.lat)
        return math.radians(self.radius) - sphere.angle_between(vectors, centre)


@dataclass(frozen=True)
class Box(Region):
    """All directions between two meridians and two parallels, edges included.

    Parameters
    ----------
    lon : tuple of float
        Degrees, from the first eastwards to the second: (350, 10) is 20 degrees wide, (0, 360) and
        (-180, 180) are all longitudes.
    lat : tuple of float
        Degrees, from the smaller to the larger.
    frame : {"galactic", "icrs", "ecliptic"}, optional
        Frame of the ranges; by default that of the map.

    Raises
    ------
    InputError
        If an angle is out of range, or a range is empty.

    Examples
    --------
    >>> Box((350.0, 10.0), (-5.0, 5.0)).contains([355.0, 5.0, 15.0], 0.0).tolist()
    [True, True, False]
    """

    lon: tuple[float, float]
    lat: tuple[float, float]
    frame: str | None = None

    def __post_init__(self) -> None:
        west, east = (_angle("lon", value) for value in _pair("lon", self.lon))
        south, north = (_latitude("lat", value) for value in _pair("lat", self.lat))
        if south > north:
            raise InputError(f"`lat` {south} to {north} came; give the smaller latitude first.")
        if west == east:
            raise InputError(f"`lon` {west} to {east} came, which is no range; give (0, 360) for all longitudes.")
        _set(self, lon=(west, east), lat=(south, north), frame=_frame(self.frame))

    @property
    def width(self) -> float:
        """Degrees of longitude, above 0 and at most 360."""
        west, east = self.lon
        return 360.0 if abs(east - west) >= 360.0 else (east - west) % 360.0 or 360.0

    def _depth(self, vectors: Floats) -> Floats:
        lon, lat = sphere.vector_to_lonlat(vectors)
        south, north = self.lat
        depth = np.full(lat.shape, np.inf)
        # The poles bound no box: a box that reaches one has no edge there.
        if north < 90.0:
            depth = np.minimum(depth, np.radians(north - lat))
        if south > -90.0:
            depth = np.minimum(depth, np.radians(lat - south))
        if self.width < 360.0:
            depth = np.minimum(depth, self._wedge_depth(lon, lat))
        return depth

    def _wedge_depth(self, lon: Floats, lat: Floats) -> Floats:
        east_of_west = sphere.wrap(lon - self.lon[0])
        distance = np.minimum(
            sphere.angle_to_meridian(east_of_west, lat), sphere.angle_to_meridian(east_of_west - self.width, lat)
        )
        return np.where(east_of_west <= self.width, distance, -distance)


@dataclass(frozen=True)
class Polygon(Region):
    """All directions inside a closed line of great-circle arcs; it fits into a hemisphere.

    Parameters
    ----------
    vertices : sequence of (lon, lat)
        Corners in either sense of rotation, degrees; the last is joined to the first.  It may be concave.
    frame : {"galactic", "icrs", "ecliptic"}, optional
        Frame of the corners; by default that of the map.

    Raises
    ------
    InputError
        If there are fewer than three different corners, arcs cross each other, or no hemisphere holds all.

    Examples
    --------
    >>> triangle = Polygon([(0.0, 0.0), (30.0, 0.0), (0.0, 30.0)])
    >>> triangle.contains([10.0, 25.0], [10.0, 20.0]).tolist()
    [True, False]
    """

    vertices: tuple[tuple[float, float], ...]
    frame: str | None = None
    _corners: Floats = field(init=False, repr=False, compare=False)
    _to_plane: Floats = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            pairs = np.array(self.vertices, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"`vertices` came as {self.vertices!r}; give pairs (lon, lat) in degrees.") from error
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise InputError(
                f"`vertices` of shape {pairs.shape} came; give pairs (lon, lat) in degrees, three at least."
            )
        rows = tuple((_angle("lon", lon), _latitude("lat", lat)) for lon, lat in pairs)
        corners = sphere.lonlat_to_vector(*np.array(rows).T)
        different = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1) > 1e-14
        corners = corners[different]
        if len(corners) < 3:
            raise InputError(f"{len(corners)} different corners came; a polygon has three at least.")
        to_plane = sphere.plane_axes(corners)
        if sphere.crosses(sphere.project(corners, to_plane)):
            raise InputError(
                "the sides of the polygon cross each other; give the corners in the order in which they follow "
                "along the edge."
            )
        _set(self, vertices=rows, frame=_frame(self.frame), _corners=corners, _to_plane=to_plane)

    def _depth(self, vectors: Floats) -> Floats:
        distance = np.full(vectors.shape[:-1], np.inf)
        for start, end in zip(self._corners, np.roll(self._corners, -1, axis=0), strict=True):
            distance = np.minimum(distance, sphere.angle_to_arc(vectors, start, end))
        return np.where(self._inside(vectors), distance, -distance)

    def _inside(self, vectors: Floats) -> NDArray[np.bool_]:
        # The gnomonic projection makes straight lines of great circles: the test is that of the plane.
        front = vectors @ self._to_plane[2] > 0.0
        x, y = sphere.project(np.where(front[..., np.newaxis], vectors, self._to_plane[2]), self._to_plane)
        inside = np.zeros(front.shape, dtype=bool)
        px, py = sphere.project(self._corners, self._to_plane)
        for x0, y0, x1, y1 in zip(px, py, np.roll(px, -1), np.roll(py, -1), strict=True):
            if y0 != y1:
                straddles = (y0 > y) != (y1 > y)
                inside ^= straddles & (x < x0 + (y - y0) * ((x1 - x0) / (y1 - y0)))
        inside &= front
        return inside


def _joined(ranges: Ints) -> Ints:
    """Return ranges sorted, with those that touch or overlap joined, (range, 2)."""
    if len(ranges) == 0:
        return ranges.reshape(0, 2)
    ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
    reach = np.maximum.accumulate(ranges[:, 1])
    begins = np.concatenate([[True], ranges[1:, 0] > reach[:-1]])
    ends = np.concatenate([begins[1:], [True]])
    return np.stack([ranges[begins, 0], reach[ends]], axis=-1)


def _set(instance: object, **values: object) -> None:
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def _angle(name: str, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputError(f"`{name}` {value!r} came; give a number of degrees.") from error
    if not math.isfinite(number):
        raise InputError(f"`{name}` {number} came; give a finite number of degrees.")
    return number


def _latitude(name: str, value: object) -> float:
    number = _angle(name, value)
    if abs(number) > 90.0:
        raise InputError(f"`{name}` {number} came; latitudes go from -90 to 90 degrees. Are lon and lat exchanged?")
    return number


def _pair(name: str, values: object) -> tuple[object, object]:
    try:
        first, second = cast(Sequence[object], values)
    except (TypeError, ValueError) as error:
        raise InputError(f"`{name}` {values!r} came; give a pair of degrees, from and to.") from error
    return first, second


def _frame(frame: str | None) -> str | None:
    return None if frame is None else check_frame(frame)
