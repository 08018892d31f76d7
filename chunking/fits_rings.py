"""Where the pixels of a NESTED tile lie in a RING-ordered file: few long runs, in closed form.

Inside a tile all pixels with equal x + y lie on one iso-latitude ring and follow each other in longitude.  So one
permutation, the same for every tile, puts a tile into *ring order*, and ring order is a list of `2 * side - 1` runs of
consecutive RING pixel numbers (one more where a run crosses longitude 0).  Nothing here grows with the sky.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .tiling import Tiling

# Row (from the north, in units of nside) and longitude (in units of 45 degrees) of the southernmost corner of the
# twelve base pixels: Gorski et al. 2005, section 5 and figure 4.
_BASE_ROW = (2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4)
_BASE_LONGITUDE = (1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7)


class Runs(NamedTuple):
    """Runs of consecutive pixel numbers, one after the other.

    `first` and `length`: (run,) int64, the first pixel number and the number of pixels of each run; `place`: (run,)
    int64, where the run begins in the sequence of all.
    """

    first: NDArray[np.int64]
    length: NDArray[np.int64]
    place: NDArray[np.int64]

    def clipped(self, start: int, stop: int) -> Runs:
        """Return the parts of the runs that lie in the pixel range [start, stop), at their places."""
        first = np.maximum(self.first, start)
        length = np.minimum(self.first + self.length, stop) - first
        place = self.place + (first - self.first)
        kept = length > 0
        return Runs(first[kept], length[kept], place[kept])


@lru_cache(maxsize=2)
def ring_order(side: int) -> NDArray[np.int64]:
    """Return the offsets in a NESTED tile of its pixels in ring order, (cells,) int64.

    The element k is the offset, from the tile's first NESTED pixel, of the k-th pixel in ring order: from north to
    south, and from west to east (growing longitude) on each ring.  All tiles of one size share it.

    Parameters
    ----------
    side : int
        Pixels along the side of a tile, a power of two.

    Examples
    --------
    >>> ring_order(2).tolist()
    [3, 2, 1, 0]
    """
    spread = _spread_bits(np.arange(side, dtype=np.int64))
    order = np.empty(side * side, dtype=np.int64)
    begin = 0
    # The ring x + y = 2 * side - 2 is the northernmost.
    for total in range(2 * side - 2, -1, -1):
        low, high = max(0, total - side + 1), min(total, side - 1)
        x = np.arange(low, high + 1)
        order[begin : begin + x.size] = spread[x] | (spread[total - x] << 1)
        begin += x.size
    order.flags.writeable = False
    return order


def tile_runs(tiling: Tiling, tile: int) -> Runs:
    """Return the runs of RING pixel numbers that a NESTED tile covers, in ring order.

    Parameters
    ----------
    tiling : Tiling
        The grid.
    tile : int
        Number of the tile.

    Returns
    -------
    Runs
        At most `4 * side - 2` runs.  The pixel at place k has the NESTED number
        `tile * tile_npix + ring_order(side)[k]`.

    References
    ----------
    Gorski et al. 2005, ApJ 622, 759, section 5 (equations for ring and pixel-in-ring of x, y in a base pixel).

    Examples
    --------
    >>> tile_runs(Tiling(2), 0).first.tolist()
    [0, 4, 13]
    """
    assert tiling.tile_nside is not None
    nside, side = tiling.nside, tiling.nside // tiling.tile_nside
    face, within = divmod(tile, tiling.tile_nside**2)
    x0, y0 = _gather_bits(within) * side, _gather_bits(within >> 1) * side
    total = np.arange(2 * side - 2, -1, -1, dtype=np.int64)
    low = np.maximum(0, total - side + 1)
    length = np.minimum(total, side - 1) - low + 1

    row = _BASE_ROW[face] * nside - x0 - y0 - total - 1  # 1 at the north pole, 4 * nside - 1 at the south pole
    north, south = row < nside, row > 3 * nside
    quarter = np.where(north, row, np.where(south, 4 * nside - row, nside))  # a ring has 4 * quarter pixels
    before = np.where(
        north,
        2 * row * (row - 1),
        np.where(
            south, 12 * nside**2 - 2 * (quarter + 1) * quarter, 2 * nside * (nside - 1) + (row - nside) * 4 * nside
        ),
    )
    shift = np.where(north | south, 0, (row - nside) & 1)
    x_minus_y = x0 - y0 + 2 * low - total
    begin = (_BASE_LONGITUDE[face] * quarter + x_minus_y + 1 + shift) // 2 - 1  # place on the ring of the first pixel
    around = 4 * quarter
    begin %= around

    head = np.minimum(length, around - begin)  # the rest of the run continues at longitude 0
    first = np.stack([before + begin, before], axis=1).ravel()
    lengths = np.stack([head, length - head], axis=1).ravel()
    kept = lengths > 0
    first, lengths = first[kept], lengths[kept]
    return Runs(first, lengths, np.cumsum(lengths) - lengths)


def _spread_bits(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers with their bits at the even places."""
    result = np.zeros_like(values)
    for bit in range(31):
        result |= ((values >> bit) & 1) << (2 * bit)
    return result


def _gather_bits(value: int) -> int:
    """Return the number made of the even bits."""
    result = 0
    for bit in range(31):
        result |= ((value >> (2 * bit)) & 1) << bit
    return result
