"""Pixels from NESTED chunks into bands of rows, and back from bands into NESTED tiles."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..chunking.fits_rings import Runs, ring_order, tile_runs
from ..chunking.tiling import Tiling
from .rings import Layout

type Read = Callable[[int, int], NDArray[np.generic]]


@functools.lru_cache(maxsize=8)
def _extent(nside: int, square_nside: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first row and the first row after it of every NESTED square, each (square,) int64."""
    squares = Tiling(square_nside, square_nside, square_nside)
    side = nside // square_nside
    # A pixel of the coarse grid whose centre is in its row r spans the rows r * side to (r + 2) * side - 2 of the fine
    # one: its corners are on the centres of the coarse rows beside it.
    ring = squares.to_ring(np.arange(squares.npix, dtype=np.int64))
    cap = 2 * square_nside * (square_nside - 1)
    south = squares.npix - 1 - ring
    row = np.where(
        ring < cap,
        _cap_row(ring),
        np.where(
            south < cap, 4 * square_nside - 2 - _cap_row(south), square_nside - 1 + (ring - cap) // (4 * square_nside)
        ),
    )
    return row * side, (row + 2) * side - 1


def _cap_row(ring: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row of pixels in the northern cap from their RING numbers; only right there."""
    row = ((np.sqrt(np.maximum(1.0 + 2.0 * ring, 1.0)) - 1.0) / 2.0).astype(np.int64)
    row -= 2 * row * (row + 1) > ring
    row += 2 * (row + 1) * (row + 2) <= ring
    return np.asarray(row, dtype=np.int64)


def squares_in(nside: int, square_nside: int, rows: tuple[int, int]) -> NDArray[np.int64]:
    """Return the NESTED squares that touch some rows, ascending (square,) int64.

    Parameters
    ----------
    nside : int
        Grid whose rows they are.
    square_nside : int
        The nside whose pixels are the squares: chunks or tiles.
    rows : (int, int)
        First row, and first row after.

    Examples
    --------
    >>> squares_in(4, 1, (0, 1)).tolist()
    [0, 1, 2, 3]
    """
    first, stop = _extent(nside, square_nside)
    return np.flatnonzero((first < rows[1]) & (stop > rows[0]))


def gather(read: Read, layout: Layout, band: int) -> NDArray[np.generic]:
    """Return the pixels of a band in RING order, (pixel,) in the dtype that is read.

    Parameters
    ----------
    read : callable
        (first, stop) -> values of these NESTED pixels.
    layout : Layout
        Grid and bands.
    band : int
        Which band.
    """
    tiling = layout.tiling
    assert tiling.chunk_nside is not None
    chunks = Tiling(tiling.nside, tiling.chunk_nside, tiling.chunk_nside)
    side = math.isqrt(chunks.chunk_npix)
    order = ring_order(side)
    first, stop = layout.pixels(band)
    pixels: NDArray[np.generic] | None = None
    for chunk in squares_in(tiling.nside, tiling.chunk_nside, layout.rows(band)).tolist():
        values = read(chunk * chunks.chunk_npix, (chunk + 1) * chunks.chunk_npix)
        if pixels is None:
            pixels = np.empty(stop - first, dtype=values.dtype)
        sorted_values = values.take(order)
        for place, length, source in _steps(tile_runs(chunks, chunk), first, stop):
            pixels[place : place + length] = sorted_values[source : source + length]
    assert pixels is not None
    return pixels


def scatter(pixels: NDArray[np.generic], layout: Layout, band: int) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """Yield (tile, values) for every tile that a band crosses: its pixels in the band, in ring order, (pixel,).

    What all bands yield for a tile, one after the other, is the tile in ring order (`from_ring_order`).
    """
    tiling = layout.tiling
    assert tiling.tile_nside is not None
    first, stop = layout.pixels(band)
    for tile in squares_in(tiling.nside, tiling.tile_nside, layout.rows(band)).tolist():
        steps = list(_steps(tile_runs(tiling, tile), first, stop))
        begin = steps[0][2]
        values = np.empty(steps[-1][2] + steps[-1][1] - begin, dtype=pixels.dtype)
        for place, length, source in steps:
            values[source - begin : source - begin + length] = pixels[place : place + length]
        yield tile, values


def from_ring_order(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return a tile in NESTED order from one in ring order, both (cells,)."""
    nested = np.empty_like(values)
    nested[ring_order(math.isqrt(values.size))] = values
    return nested


def _steps(runs: Runs, first: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield (place in the band, length, place in ring order) of the runs of a square that lie in a band."""
    inside = runs.clipped(first, stop)
    return zip((inside.first - first).tolist(), inside.length.tolist(), inside.place.tolist(), strict=True)
