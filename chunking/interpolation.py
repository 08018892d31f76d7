"""Values of a map between the centres of its pixels: bilinear on the sphere, with pixels without a value left out.

NumPy alone but for the numbers of pixels, which `geometry` turns from RING to NESTED.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import geometry
from .lookup import runs
from .sphere import Floats, wrap
from .tiling import Tiling

Ints = NDArray[np.int64]

INTERPOLATIONS = ("nearest", "bilinear")
_POLAR = np.sqrt(6.0)  # sin(colatitude / 2) of ring i of a polar cap is i / (sqrt(6) nside)


def bilinear(nside: int, lon: ArrayLike, lat: ArrayLike) -> tuple[Ints, Floats]:
    """Return the four pixels around positions and what each of them counts, (4, ...) int64 NESTED and (4, ...) float64.

    On the ring of pixel centres above a position, and on the one below, the value is linear in longitude between the
    two nearest centres; between the rings it is linear in colatitude.  Beyond the last ring the pole itself is the mean
    of the four pixels around it.  The four weights sum to 1.

    Parameters
    ----------
    nside : int
        Resolution.
    lon, lat : array_like
        (...) degrees in the frame of the map; broadcast against each other.

    References
    ----------
    Gorski et al. 2005, ApJ 622, 759, equations 4 to 9, for the rings; the same rule as healpy's get_interp_weights.

    Examples
    --------
    >>> pixels, weights = bilinear(1, 0.0, 90.0)
    >>> sorted(pixels.tolist()), weights.tolist()
    ([0, 1, 2, 3], [0.25, 0.25, 0.25, 0.25])
    """
    longitude, latitude = np.broadcast_arrays(np.asarray(lon, np.float64), np.asarray(lat, np.float64))
    colatitude = np.radians(90.0 - latitude)
    turn = wrap(longitude) / 360.0
    above = _ring_above(nside, colatitude)
    pixels = np.empty((4, *colatitude.shape), np.int64)
    weights = np.empty((4, *colatitude.shape))
    for row, ring in ((0, above), (2, above + 1)):
        # Where there is no such ring, that beyond the pole stands in, and is replaced below.
        first, count, shift = _ring(nside, np.clip(ring, 1, 4 * nside - 1))
        place = turn * count - shift
        left = np.floor(place)
        weights[row + 1] = place - left
        weights[row] = 1.0 - weights[row + 1]
        at = left.astype(np.int64)
        pixels[row], pixels[row + 1] = first + at % count, first + (at + 1) % count
    upper, lower = _colatitude(nside, above), _colatitude(nside, above + 1)
    down = (colatitude - upper) / (lower - upper)
    north, south = above == 0, above == 4 * nside - 1
    pixels[:2, north] = pixels[2:, north] ^ 2  # the two on the other side of the pole
    pixels[2:, south] = 12 * nside**2 - 4 + ((pixels[:2, south] - (12 * nside**2 - 4)) ^ 2)
    at_pole = (1.0 - down[north]) / 4.0
    weights[:2, north], weights[2:, north] = at_pole, weights[2:, north] * down[north] + at_pole
    at_pole = down[south] / 4.0
    weights[:2, south], weights[2:, south] = weights[:2, south] * (1.0 - down[south]) + at_pole, at_pole
    between = ~(north | south)
    weights[:2, between] *= 1.0 - down[between]
    weights[2:, between] *= down[between]
    return geometry.ring_to_nested(nside, pixels), weights


def _ring_above(nside: int, colatitude: Floats) -> Ints:
    """Return the last ring, counted from 1 in the north, whose centres are not below a colatitude; 0 for none."""
    z = np.cos(colatitude)
    belt = np.floor(nside * (2.0 - 1.5 * z)).astype(np.int64)
    # The sine of the half angle keeps its digits where the cosine has lost them.
    north = np.floor(_POLAR * nside * np.sin(colatitude / 2.0)).astype(np.int64)
    south = 4 * nside - 1 - np.floor(_POLAR * nside * np.cos(colatitude / 2.0)).astype(np.int64)
    return np.where(z > 2.0 / 3.0, north, np.where(z < -2.0 / 3.0, south, belt))


def _colatitude(nside: int, ring: Ints) -> Floats:
    """Return the colatitude of rings in radian; 0 and 4 nside are the poles."""
    ring = np.asarray(ring)
    from_pole = np.minimum(ring, 4 * nside - ring)
    cap = 2.0 * np.arcsin(np.minimum(from_pole / (_POLAR * nside), 1.0))
    belt: Floats = np.arccos(np.clip((2 * nside - ring) * (2.0 / (3.0 * nside)), -1.0, 1.0))
    found: Floats = np.where(from_pole >= nside, belt, np.where(ring < nside, cap, np.pi - cap))
    return found


def _ring(nside: int, ring: Ints) -> tuple[Ints, Ints, Floats]:
    """Return first pixel (RING), number of pixels, and place of the first centre in pixels from longitude 0."""
    from_pole = np.minimum(ring, 4 * nside - ring)
    count = 4 * np.minimum(from_pole, nside)
    first = np.where(
        ring < nside,
        2 * ring * (ring - 1),
        np.where(
            from_pole >= nside,
            2 * nside * (nside - 1) + (ring - nside) * 4 * nside,
            12 * nside**2 - 2 * from_pole * (from_pole + 1),
        ),
    )
    shift = np.where((from_pole < nside) | ((ring - nside) % 2 == 0), 0.5, 0.0)
    return first, count, shift


def weighted(values: NDArray[Any], weights: Floats, held: NDArray[np.bool_]) -> Floats:
    """Return the weighted means of the values around positions, (...) float64.

    Values that are missing are left out and the others count for more, so that a map does not shrink at its edge; nor
    does it grow: where the pixel that holds the position has no value, there is none.

    Parameters
    ----------
    values : ndarray
        (4, ...) with NaN where there is none.
    weights : ndarray
        (4, ...) float64 from `bilinear`.
    held : ndarray
        (...) bool: whether the pixel that holds the position has a value.

    Examples
    --------
    >>> weights = np.array([0.25, 0.25, 0.5, 0.0])
    >>> float(weighted(np.array([1.0, 3.0, np.nan, 9.0]), weights, np.array(True)))
    2.0
    """
    there = np.isfinite(values)
    counted = np.where(there, weights, 0.0)
    total = counted.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean: Floats = (counted * np.where(there, values, 0.0)).sum(axis=0) / total
    return np.where(held & (total > 0), mean, np.nan)


def gather(
    read: Callable[[int, int], NDArray[Any]], cells: Ints, tiling: Tiling, dtype: str, threads: int = 1
) -> NDArray[Any]:
    """Return the values of pixels in any order, (...), each chunk read once.

    Parameters
    ----------
    read : callable
        `(start, stop) -> values` of the pixels [start, stop).
    cells : ndarray
        (...) int64 NESTED pixels.
    tiling : Tiling
        The grid.
    dtype : str
        Of the values.
    threads : int
        Reads at once, each of neighbouring chunks: worth while where each waits for a network.

    Examples
    --------
    >>> gather(lambda start, stop: np.arange(start, stop), np.array([[7, 2]]), Tiling(2), "int64").tolist()
    [[7, 2]]
    """
    numbers, places = np.unique(cells, return_inverse=True)
    found = np.empty(numbers.shape, dtype)

    def take(run: tuple[int, int, slice]) -> None:
        start, stop, inside = run
        found[inside] = read(start, stop)[numbers[inside] - start]

    if threads == 1:
        for run in runs(numbers, tiling):
            take(run)
    else:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(take, runs(numbers, tiling)):  # each keeps the pixels that are wanted, not its chunks
                pass
    return found[places].reshape(cells.shape)


def interpolate(
    read: Callable[[int, int], NDArray[Any]],
    lon: ArrayLike,
    lat: ArrayLike,
    tiling: Tiling,
    how: str = "bilinear",
    threads: int = 1,
) -> Floats:
    """Return the values of a map at positions, (...) float64, NaN where the pixel that holds one has no value.

    Parameters
    ----------
    read : callable
        `(start, stop) -> values` of the pixels [start, stop), float32.
    lon, lat : array_like
        (...) degrees in the frame of the map.
    tiling : Tiling
        The grid.
    how : {"nearest", "bilinear"}
        The value of the pixel that holds a position, or the four around it (`bilinear`, `weighted`).
    threads : int
        As for `gather`.

    Raises
    ------
    InputError
        If a position is none.

    Examples
    --------
    >>> grid = Tiling(1)
    >>> interpolate(lambda start, stop: np.arange(start, stop, dtype="f4"), [45.0, 90.0], 0.0, grid).tolist()
    [4.5, 5.0]
    """
    cells = geometry.lonlat_pixels(tiling.nside, lon, lat)
    if how == "nearest":
        return gather(read, cells, tiling, "float32", threads).astype(np.float64)
    pixels, weights = bilinear(tiling.nside, lon, lat)
    wanted = np.concatenate([pixels, cells[np.newaxis]])
    values = gather(read, wanted, tiling, "float32", threads).astype(np.float64)
    return weighted(values[:4], weights, np.isfinite(values[4]))
