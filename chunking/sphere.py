"""Directions on the sphere: vectors and angles, celestial frames, distances to arcs, projection to a plane.

NumPy alone, in float64; angles in degrees at the public face and in radian where a name says "angle".
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError
from .schema import check_frame

Floats = NDArray[np.float64]

# Direction cosines from ICRS, as astropy 7 has them (nearest rotation in float64): `Galactic`, which is
# 20 mas away from the matrix of the Hipparcos catalogue (ESA SP-1200, vol. 1, eq. 1.5.11) because it goes
# through FK5, and `BarycentricMeanEcliptic` of J2000 (obliquity 84381.406 arcsec and frame bias, Capitaine
# et al. 2003).
_FROM_ICRS: Final[dict[str, Floats]] = {
    "icrs": np.eye(3),
    "galactic": np.array(
        [
            [-0.05487565771259173, -0.873437051955616, -0.4838350736167158],
            [0.49410943719272743, -0.44482972122329545, 0.7469821839866674],
            [-0.8676661375596587, -0.19807633727300059, 0.45598381368730173],
        ]
    ),
    "ecliptic": np.array(
        [
            [0.9999999999999942, -7.078368960971556e-08, 8.056213977613185e-08],
            [3.289700407741965e-08, 0.917482129914958, 0.39777699944404815],
            [-1.0207044725484358e-07, -0.3977769994440427, 0.9174821299149554],
        ]
    ),
}


def rotation(source: str, target: str) -> Floats:
    """Return the matrix that turns direction vectors of one frame into those of another, (3, 3) float64.

    Parameters
    ----------
    source, target : {"galactic", "icrs", "ecliptic"}
        The frames.  Ecliptic is the mean ecliptic and equinox of J2000.

    Raises
    ------
    FrameError
        If a name is unknown.

    Examples
    --------
    >>> pole = rotation("galactic", "icrs") @ [0.0, 0.0, 1.0]
    >>> print(f"{np.degrees(np.arcsin(pole[2])):.3f}")
    27.128
    """
    return _FROM_ICRS[check_frame(target)] @ _FROM_ICRS[check_frame(source)].T


def lonlat_to_vector(lon: ArrayLike, lat: ArrayLike) -> Floats:
    """Return unit vectors of directions, (..., 3) float64.

    Parameters
    ----------
    lon, lat : array_like
        (...) degrees; broadcast against each other.

    Examples
    --------
    >>> lonlat_to_vector(90.0, 0.0).round(12).tolist()
    [0.0, 1.0, 0.0]
    """
    phi, latitude = np.broadcast_arrays(np.radians(lon), np.radians(lat))
    ring = np.cos(latitude)
    return np.stack([ring * np.cos(phi), ring * np.sin(phi), np.sin(latitude)], axis=-1)


def vector_to_lonlat(vectors: ArrayLike) -> tuple[Floats, Floats]:
    """Return longitude in [0, 360) and latitude of vectors of any length, each (...) float64 degrees.

    Parameters
    ----------
    vectors : array_like
        (..., 3), not zero.

    Examples
    --------
    >>> [float(angle) for angle in vector_to_lonlat([0.0, -2.0, 0.0])]
    [270.0, 0.0]
    """
    v = np.asarray(vectors, dtype=np.float64)
    lat = np.degrees(np.arctan2(v[..., 2], np.hypot(v[..., 0], v[..., 1])))
    return wrap(np.degrees(np.arctan2(v[..., 1], v[..., 0]))), lat


def wrap(lon: ArrayLike) -> Floats:
    """Return longitudes brought into [0, 360), (...) float64 degrees.

    Examples
    --------
    >>> wrap([-10.0, 360.0, -1e-20]).tolist()
    [350.0, 0.0, 0.0]
    """
    turned = np.mod(np.asarray(lon, dtype=np.float64), 360.0)
    # A tiny negative number is rounded up to 360 itself.
    return np.where(turned >= 360.0, 0.0, turned)


def rotate(lon: ArrayLike, lat: ArrayLike, source: str, target: str) -> tuple[Floats, Floats]:
    """Return positions of one frame as longitude and latitude of another, each (...) float64 degrees.

    Parameters
    ----------
    lon, lat : array_like
        (...) degrees in `source`.
    source, target : {"galactic", "icrs", "ecliptic"}
        The frames.

    Raises
    ------
    FrameError
        If a name is unknown.

    Examples
    --------
    >>> lon, lat = rotate(0.0, 0.0, "galactic", "icrs")  # the Galactic centre
    >>> print(f"{lon:.3f} {lat:.3f}")
    266.405 -28.936
    """
    return vector_to_lonlat(lonlat_to_vector(lon, lat) @ rotation(source, target).T)


def angle_between(vectors: Floats, direction: Floats) -> Floats:
    """Return angles to one direction, (...) rad, accurate from 0 to pi."""
    # Kahan: neither the arc cosine nor the arc sine of a product is accurate everywhere.
    apart = np.linalg.norm(vectors - direction, axis=-1)
    return 2.0 * np.arctan2(apart, np.linalg.norm(vectors + direction, axis=-1))


def angle_to_meridian(lon: Floats, lat: Floats) -> Floats:
    """Return distances to the half circle of longitude 0 from pole to pole, (...) rad."""
    phi, latitude = np.radians(lon), np.radians(lat)
    distance = np.arcsin(np.abs(np.cos(latitude) * np.sin(phi)))
    to_pole = np.pi / 2 - np.abs(latitude)
    return np.where(np.cos(phi) >= 0.0, distance, to_pole)


def angle_to_arc(vectors: Floats, start: Floats, end: Floats) -> Floats:
    """Return distances to the shorter great-circle arc between two directions, (...) rad."""
    normal = np.cross(start, end)
    normal /= np.linalg.norm(normal)
    beside = (vectors @ np.cross(normal, start) >= 0.0) & (vectors @ np.cross(end, normal) >= 0.0)
    to_circle = np.arcsin(np.minimum(np.abs(vectors @ normal), 1.0))
    to_ends = np.minimum(angle_between(vectors, start), angle_between(vectors, end))
    return np.where(beside, to_circle, to_ends)


def plane_axes(corners: Floats) -> Floats:
    """Return axes x, y and z of a plane of projection, (3, 3), whose hemisphere around z holds all corners."""
    centre = corners.sum(axis=0)
    for step in range(1, 2000):
        # Badoiu and Clarkson (2003): a step towards the farthest point leads to the smallest enclosing cap.
        cosines = corners @ centre / max(float(np.linalg.norm(centre)), 1e-300)
        if cosines.min() > 0.2:
            break
        centre = centre / max(float(np.linalg.norm(centre)), 1e-300)
        centre = centre + (corners[int(cosines.argmin())] - centre) / (step + 1)
    z = centre / max(float(np.linalg.norm(centre)), 1e-300)
    if (corners @ z).min() < 1e-3:
        raise InputError(
            "no hemisphere holds all corners of the polygon, so its inside is not defined; divide it into parts."
        )
    x = np.cross(z, np.eye(3)[int(np.abs(z).argmin())])
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def project(vectors: Floats, axes: Floats) -> tuple[Floats, Floats]:
    """Return gnomonic coordinates of directions of the hemisphere around the third axis, each (...)."""
    x, y, z = np.moveaxis(vectors @ axes.T, -1, 0)
    return x / z, y / z


def crosses(plane: tuple[Floats, Floats]) -> bool:
    """Return whether two sides of a plane polygon cross that do not follow one another."""
    points = np.stack(plane, axis=-1)
    ends = np.roll(points, -1, axis=0)
    n = len(points)

    def side(a: Floats, b: Floats, c: Floats) -> Floats:
        turn = (b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0]
        return np.sign(turn)

    for i in range(n - 2):
        others = np.arange(i + 2, n if i else n - 1)
        a, b, c, d = points[i], ends[i], points[others], ends[others]
        if np.any((side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)):
            return True
    return False
