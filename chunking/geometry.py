"""Exact pixel arithmetic behind the tiling and the regions: checks, conversions, neighbours, halos.

Everything works on arrays of any shape, at every nside to 2**29, in int64 and float64.  The pixel
functions are ducc0's (HEALPix C++ with 64-bit numbers): they agree with healpy and are as fast.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Final

import ducc0
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError
from .sphere import Floats, wrap

Ints = NDArray[np.int64]

# Coordinate conversions need temporaries of several times their input; blocks keep these in the cache.
BLOCK: Final = 2**18


def check_integers(name: str, values: ArrayLike, limit: int, what: str) -> Ints:
    """Return numbers of pixels or tiles as int64, after checking every one.

    Parameters
    ----------
    name : str
        The argument, for the message.
    values : array_like of int
        Any shape and integer type.
    limit : int
        The first number that does not exist.
    what : str
        What is counted, for the message.

    Raises
    ------
    InputError
        If the type is not an integer one, or a number lies outside [0, limit).

    Examples
    --------
    >>> check_integers("pixels", [0, 11], 12, "pixels").dtype
    dtype('int64')
    """
    array = np.asarray(values)
    if array.size == 0 and array.dtype == np.float64:  # what NumPy makes of an empty list
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise InputError(
            f"`{name}` of type {array.dtype} came; {what} are numbered by integers from 0 to {limit - 1}. "
            "Round them on purpose, with .astype('int64'), if these are meant as numbers."
        )
    if array.size and (array.min() < 0 or array.max() >= limit):
        wrong = array[(array < 0) | (array >= limit)]
        raise InputError(
            f"`{name}` holds {int(wrong.flat[0])} ({wrong.size} of {array.size} are wrong); {what} go "
            f"from 0 to {limit - 1}. Leave the others out, or use the grid of the nside that they belong to."
        )
    return array.astype(np.int64, copy=False)


@lru_cache(maxsize=32)
def _base(nside: int, scheme: str) -> Any:
    return ducc0.healpix.Healpix_Base(nside, scheme)


def pixel_lonlat(nside: int, pixels: Ints) -> tuple[Floats, Floats]:
    """Return longitude and latitude of NESTED pixels' centres, each (...) float64 degrees."""
    flat = pixels.reshape(-1)
    lon, lat = np.empty(flat.size), np.empty(flat.size)
    base = _base(nside, "NEST")
    for start in range(0, flat.size, BLOCK):
        part = slice(start, start + BLOCK)
        angles = base.pix2ang(flat[part])
        np.degrees(angles[:, 1], out=lon[part])
        np.subtract(90.0, np.degrees(angles[:, 0]), out=lat[part])
    return lon.reshape(pixels.shape), lat.reshape(pixels.shape)


def pixel_vectors(nside: int, pixels: Ints) -> Floats:
    """Return unit vectors of NESTED pixels' centres, (..., 3) float64."""
    vectors: Floats = _base(nside, "NEST").pix2vec(pixels)
    return vectors


def lonlat_pixels(nside: int, lon: ArrayLike, lat: ArrayLike) -> Ints:
    """Return the NESTED pixels that hold positions, (...) int64.

    Raises
    ------
    InputError
        If a coordinate is not finite or a latitude lies outside [-90, 90].
    """
    longitude, latitude = np.broadcast_arrays(np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64))
    for name, values in (("lon", longitude), ("lat", latitude)):
        if not np.isfinite(values).all():
            raise InputError(f"`{name}` holds NaN or infinite values; give finite degrees.")
    if latitude.size and np.abs(latitude).max() > 90.0:
        wrong = latitude.flat[int(np.abs(latitude).argmax())]
        raise InputError(f"`lat` holds {wrong}; latitudes go from -90 to 90 degrees. Are lon and lat exchanged?")
    flat_lon, flat_lat = longitude.reshape(-1), latitude.reshape(-1)
    pixels = np.empty(flat_lon.size, dtype=np.int64)
    angles = np.empty((min(BLOCK, flat_lon.size), 2))
    base = _base(nside, "NEST")
    for start in range(0, flat_lon.size, BLOCK):
        part = slice(start, start + BLOCK)
        count = pixels[part].size
        np.radians(90.0 - flat_lat[part], out=angles[:count, 0])
        np.radians(wrap(flat_lon[part]), out=angles[:count, 1])
        base.ang2pix(angles[:count], out=pixels[part])
    return pixels.reshape(longitude.shape)


def nested_to_ring(nside: int, pixels: Ints) -> Ints:
    """Return the RING numbers of NESTED pixels, (...) int64."""
    ring: Ints = _base(nside, "NEST").nest2ring(pixels)
    return ring


def ring_to_nested(nside: int, pixels: Ints) -> Ints:
    """Return the NESTED numbers of RING pixels, (...) int64."""
    nested: Ints = _base(nside, "NEST").ring2nest(pixels)
    return nested


def pixel_neighbours(nside: int, pixels: Ints) -> Ints:
    """Return the neighbours SW, W, NW, N, NE, E, SE, S of NESTED pixels, (..., 8) int64, -1 for none."""
    around: Ints = _base(nside, "NEST").neighbors(pixels)
    return around


def pixel_radius(nside: int) -> float:
    """Return the largest distance in radian between the centre of a pixel and its corners."""
    return float(_base(nside, "NEST").max_pixrad())


def _spread(side: int) -> Ints:
    """Return the numbers 0 to side - 1 with a zero bit put between all bits, (side,) int64."""
    axis = np.arange(side, dtype=np.int64)
    spread = np.zeros(side, dtype=np.int64)
    for bit in range(side.bit_length() - 1):
        spread |= ((axis >> bit) & 1) << (2 * bit)
    return spread


@lru_cache(maxsize=4)
def morton(side: int) -> Ints:
    """Return the place in NESTED order of every pixel of a square block, (y, x) int64, read-only.

    Inside a tile, or any other HEALPix cell, x grows to the north-east and y to the north-west; the bits of
    x and y alternate in the NESTED number, x in the lowest (Gorski et al. 2005, section 4.1).

    Parameters
    ----------
    side : int
        Pixels along the side of the block, a power of two.

    Returns
    -------
    ndarray
        (y, x) int64; `values[morton(side)]` makes an image of the values of a tile.

    Examples
    --------
    >>> morton(4).tolist()
    [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    """
    if side < 1 or side & (side - 1):
        raise InputError(f"`side` {side} came; the side of a block is a power of two.")
    spread = _spread(side)
    grid = spread[np.newaxis, :] | (spread[:, np.newaxis] << 1)
    grid.flags.writeable = False
    return grid


def rim(side: int) -> Ints:
    """Return the places in NESTED order of the outermost pixels of a square block, (cells,) int64, sorted.

    Examples
    --------
    >>> rim(4).tolist()
    [0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 15]
    """
    spread = _spread(side)
    last = spread[-1]
    edges = (spread, spread << 1, spread | (last << 1), (spread << 1) | last)
    return np.unique(np.concatenate(edges))


def halo_pixels(nside: int, tile_npix: int, tile: int, width: int) -> Ints:
    """Return the NESTED pixels within `width` steps around a tile, (cells,) int64, sorted."""
    first = tile * tile_npix
    inside: Ints = np.empty(0, dtype=np.int64)
    front = first + rim(math.isqrt(tile_npix))
    rings = []
    for _ in range(width):
        around = np.unique(pixel_neighbours(nside, front))
        # Neighbours of pixels at distance d lie at d - 1, d or d + 1: what is not in the last two is new.
        around = around[(around >= 0) & ((around < first) | (around >= first + tile_npix))]
        around = np.setdiff1d(around, np.concatenate([inside, front]), assume_unique=True)
        if around.size == 0:
            break
        rings.append(around)
        inside, front = front, around
    return np.sort(np.concatenate(rings)) if rings else inside
