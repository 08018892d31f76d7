"""Map projections for pictures: Mollweide and gnomonic, both ways, and the lines of a graticule.

Astronomers look at the sky from inside: x grows to the right and longitude to the left.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import sphere
from .errors import InputError
from .sphere import Floats


def mollweide_xy(lon: ArrayLike, lat: ArrayLike) -> tuple[Floats, Floats]:
    """Return the place of directions in a Mollweide picture, each (...): x in [-2, 2] and y in [-1, 1].

    Parameters
    ----------
    lon, lat : array_like
        (...) degrees; longitudes from -180, at the right edge, to 180, at the left.

    Examples
    --------
    >>> x, y = mollweide_xy([90.0, 0.0], [0.0, 90.0])
    >>> (x + 0.0).round(9).tolist(), y.round(9).tolist()
    ([-1.0, 0.0], [0.0, 1.0])
    """
    phi, latitude = np.broadcast_arrays(np.radians(lon), np.radians(lat))
    theta = latitude.astype(np.float64)
    target = np.pi * np.sin(latitude)
    # Newton for 2 theta + sin 2 theta = pi sin lat (Snyder 1987, eq. 31-3); the slope vanishes at the poles.
    for _ in range(60):
        slope = 2.0 + 2.0 * np.cos(2.0 * theta)
        step = (2.0 * theta + np.sin(2.0 * theta) - target) / np.maximum(slope, 1e-12)
        theta = np.clip(theta - step, -np.pi / 2, np.pi / 2)
    return -2.0 / np.pi * phi * np.cos(theta), np.sin(theta)


def mollweide_lonlat(width: int) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return the directions of the pixels of a Mollweide picture: longitude, latitude, and where sky is, each (y, x).

    Parameters
    ----------
    width : int
        Pixels of the picture in x; half as many in y, from south to north.

    Raises
    ------
    InputError
        If the width is below 2.

    Examples
    --------
    >>> lon, lat, sky = mollweide_lonlat(6)
    >>> sky.tolist()[0]
    [False, True, True, True, True, False]
    """
    if width < 2:
        raise InputError(f"`width` {width} came; a picture is at least 2 pixels wide.")
    x = (np.arange(width) + 0.5) / width * 4.0 - 2.0
    y = (np.arange(width // 2) + 0.5) / (width // 2) * 2.0 - 1.0
    theta = np.arcsin(y)[:, np.newaxis]
    lat = np.arcsin(np.clip((2.0 * theta + np.sin(2.0 * theta)) / np.pi, -1.0, 1.0))
    lon = -np.pi * x[np.newaxis, :] / (2.0 * np.cos(theta))
    sky = np.abs(lon) <= np.pi
    return np.degrees(lon), np.degrees(np.broadcast_to(lat, lon.shape)), sky


def gnomonic_lonlat(lon: float, lat: float, size: float, pixels: int) -> tuple[Floats, Floats]:
    """Return the directions of the pixels of a gnomonic picture, longitude and latitude, each (y, x) degrees.

    Parameters
    ----------
    lon, lat : float
        Middle of the picture, degrees.
    size : float
        Side of the picture, degrees, above 0 and below 180.
    pixels : int
        Pixels along the side, from south to north and from left (larger longitudes) to right.

    Raises
    ------
    InputError
        If the size or the number of pixels is out of range.

    Examples
    --------
    >>> lon, lat = gnomonic_lonlat(10.0, 0.0, 4.0, 2)
    >>> lon.round(2).tolist()
    [[11.0, 9.0], [11.0, 9.0]]
    """
    if pixels < 1:
        raise InputError(f"`pixels` {pixels} came; a picture has at least one pixel along its side.")
    axis = (np.arange(pixels) + 0.5) / pixels * 2.0 - 1.0
    return gnomonic_inverse(lon, lat, size, axis[np.newaxis, :], axis[:, np.newaxis])


def gnomonic_inverse(lon: float, lat: float, size: float, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    """Return the directions at places of a gnomonic picture, each (...) degrees; x and y go from -1 to 1."""
    if not 0.0 < size < 180.0:
        raise InputError(f"`size` {size} came; a gnomonic picture is more than 0 and less than 180 degrees wide.")
    if not (math.isfinite(lon) and abs(lat) <= 90.0):
        raise InputError(f"lon {lon} and lat {lat} came; give finite degrees, latitudes from -90 to 90.")
    x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    reach = math.tan(math.radians(size) / 2.0)
    east, north, centre = _axes(lon, lat)
    vectors = centre - (reach * x)[..., np.newaxis] * east + (reach * y)[..., np.newaxis] * north
    return sphere.vector_to_lonlat(vectors)


def gnomonic_lines(lon: float, lat: float, size: float, steps: tuple[float, float]) -> list[tuple[Floats, Floats]]:
    """Return the meridians and parallels that cross a gnomonic picture as lists of x and y.

    Parameters
    ----------
    lon, lat, size : float
        The picture, degrees.
    steps : tuple of float
        Distance of the parallels and of the meridians, degrees.
    """
    reach = math.tan(math.radians(size) / 2.0)
    radius = math.degrees(math.atan(math.sqrt(2.0) * reach))
    south, north = max(lat - radius, -90.0), min(lat + radius, 90.0)
    around_pole = north >= 90.0 or south <= -90.0
    width = 180.0
    if not around_pole:
        width = math.degrees(math.asin(min(1.0, math.sin(math.radians(radius)) / math.cos(math.radians(lat)))))
    along = np.linspace(-width, width, 721) + lon
    up = np.linspace(south, north, 361)
    parallels = [(along, np.full(along.shape, v)) for v in round_numbers(np.array([south, north]), steps[0])]
    spread = np.array([lon - width, lon + width - (1e-9 if around_pole else 0.0)])
    meridians = [(np.full(up.shape, v), up) for v in round_numbers(spread, steps[1])]
    lines = []
    for line_lon, line_lat in parallels + meridians:
        vectors = sphere.lonlat_to_vector(line_lon, line_lat)
        east, pole, centre = _axes(lon, lat)
        depth = vectors @ centre
        front = depth > math.cos(math.radians(min(radius * 1.05, 89.9)))
        scale = np.where(front, depth, np.nan) * reach
        lines.append((-(vectors @ east) / scale, (vectors @ pole) / scale))
    return lines


def gnomonic_labels(lon: float, lat: float, size: float, steps: tuple[float, float]) -> list[tuple[float, float, str]]:
    """Return places and texts that label the lines of a picture around a pole: x, y, text.

    Parameters
    ----------
    lon, lat, size, steps : float
        As for `gnomonic_lines`.
    """
    reach = math.tan(math.radians(size) / 2.0)
    radius = size / 2.0
    pole = math.copysign(90.0, lat)
    lats = round_numbers(np.array([max(lat - radius, -90.0), min(lat + radius, 90.0)]), steps[0])
    # Parallels are labelled between two meridians, meridians on a parallel of their own.
    marks = [(lon + 0.5 * steps[1], float(v), f"{label(v, steps[0])}°") for v in lats if abs(v) < 90.0]
    ring = pole - math.copysign(0.8 * radius, lat)
    turns = np.arange(0.0, 360.0, steps[1])
    marks += [(float(v), ring, f"{label(v, steps[1])}°") for v in turns]
    placed = []
    east, north, centre = _axes(lon, lat)
    for mark_lon, mark_lat, text in marks:
        vector = sphere.lonlat_to_vector(mark_lon, mark_lat)
        depth = float(vector @ centre) * reach
        x, y = -float(vector @ east) / max(depth, 1e-9), float(vector @ north) / max(depth, 1e-9)
        if abs(x) < 0.96 and abs(y) < 0.96:
            placed.append((x, y, text))
    return placed


def _axes(lon: float, lat: float) -> tuple[Floats, Floats, Floats]:
    """Return the directions east, north and outwards at a place of the sky."""
    centre = sphere.lonlat_to_vector(lon, lat)
    east = np.array([-math.sin(math.radians(lon)), math.cos(math.radians(lon)), 0.0])
    return east, np.cross(centre, east), centre


def nice_step(span: float) -> float:
    """Return a round distance of graticule lines, so that about five of them cross a span of degrees.

    Examples
    --------
    >>> nice_step(20.0), nice_step(0.7), nice_step(170.0)
    (5.0, 0.2, 30.0)
    """
    for step in (90.0, 60.0, 30.0, 20.0, 10.0, 5.0, 2.0, 1.0):
        if span / step >= 3.5:
            return step
    decade = 10.0 ** math.floor(math.log10(max(span, 1e-9) / 3.5))
    return max(decade * k for k in (1.0, 2.0, 5.0) if span / (decade * k) >= 3.4999)


def round_numbers(span: NDArray[np.float64], step: float) -> Floats:
    """Return the multiples of a step between the least and the largest of some numbers.

    Examples
    --------
    >>> round_numbers(np.array([-3.0, 11.0]), 5.0).tolist()
    [0.0, 5.0, 10.0]
    """
    first, last = math.ceil(span.min() / step - 1e-9), math.floor(span.max() / step + 1e-9)
    return np.arange(first, last + 1, dtype=np.float64) * step


def label(value: float, step: float) -> str:
    """Return a number with as many digits as its step needs, with a typographer's minus.

    Examples
    --------
    >>> label(12.0, 5.0), label(0.30000000000000004, 0.1)
    ('12', '0.3')
    """
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    # Adding zero makes a positive zero of a negative one.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")
