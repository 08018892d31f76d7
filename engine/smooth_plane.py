"""Tiles with the sky around them, as one plane image: base pixels unfolded around the one that holds the tile.

Positions (x, y) count pixels from the south corner of that base pixel, x to the north-east and y to the north-west,
and go on beyond its edges into the base pixels around it, each turned so that the plane has no seam.  Where only
three base pixels meet, one quadrant of the plane is empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError
from ..chunking.geometry import morton
from ..chunking.tiling import Tiling

type Reader = Callable[[int, int], NDArray[np.float32]]
type Ints = NDArray[np.int64]


class Panel(NamedTuple):
    """A base pixel in the plane of another.

    A position (x, y) of the plane is its pixel (x', y'), each a sign times x or y plus an offset in units of nside
    and of pixels; `swapped` says that x' goes with y.
    """

    base: int
    swapped: bool
    signs: tuple[int, int]
    sides: tuple[int, int]
    pixels: tuple[int, int]

    def locate(self, nside: int, x: Ints, y: Ints) -> tuple[Ints, Ints]:
        """Return (x', y') in the base pixel of the panel."""
        first, second = (y, x) if self.swapped else (x, y)
        return (
            self.signs[0] * first + self.sides[0] * nside + self.pixels[0],
            self.signs[1] * second + self.sides[1] * nside + self.pixels[1],
        )


def panel(base: int, i: int, j: int) -> Panel | None:
    """Return what lies at [i nside, (i + 1) nside) x [j nside, (j + 1) nside) of the plane of a base pixel.

    Parameters
    ----------
    base : int
        Base pixel, 0 to 11.
    i, j : int
        -1, 0 or 1.

    Returns
    -------
    Panel or None
        None where only three base pixels meet.

    Examples
    --------
    >>> panel(0, 1, 1).base, panel(0, -1, 0).base, panel(0, 1, -1)
    (2, 4, None)
    """
    row, f = divmod(base, 4)

    def shifted(found: int) -> Panel:
        return Panel(found, False, (1, 1), (-i, -j), (0, 0))

    if i == j == 0:
        return shifted(base)
    before, after, opposite = (f + 3) % 4, (f + 1) % 4, (f + 2) % 4
    if row == 0:
        return {
            (1, 0): Panel(after, True, (1, -1), (0, 2), (0, -1)),
            (0, 1): Panel(before, True, (-1, 1), (2, 0), (-1, 0)),
            (1, 1): Panel(opposite, False, (-1, -1), (2, 2), (-1, -1)),
            (-1, 0): shifted(4 + f),
            (0, -1): shifted(4 + after),
            (-1, -1): shifted(8 + f),
        }.get((i, j))
    if row == 1:
        return {
            (1, 0): shifted(f),
            (0, 1): shifted(before),
            (-1, 0): shifted(8 + before),
            (0, -1): shifted(8 + f),
            (-1, 1): shifted(4 + before),
            (1, -1): shifted(4 + after),
        }.get((i, j))
    return {
        (1, 0): shifted(4 + after),
        (0, 1): shifted(4 + f),
        (1, 1): shifted(f),
        (-1, 0): Panel(8 + before, True, (1, -1), (0, 0), (0, -1)),
        (0, -1): Panel(8 + after, True, (-1, 1), (0, 0), (-1, 0)),
        (-1, -1): Panel(8 + opposite, False, (-1, -1), (0, 0), (-1, -1)),
    }.get((i, j))


@lru_cache(maxsize=4)
def _spread(side: int) -> Ints:
    """Return the numbers 0 to side - 1 with a zero bit between all bits, (side,) int64."""
    axis = np.arange(side, dtype=np.int64)
    spread = np.zeros(side, dtype=np.int64)
    for bit in range(side.bit_length() - 1):
        spread |= ((axis >> bit) & 1) << (2 * bit)
    return spread


def plane_pixels(nside: int, base: int, x: Ints, y: Ints) -> Ints:
    """Return the NESTED pixels of a rectangle of the plane of a base pixel, (y, x) int64, -1 where it is empty.

    Parameters
    ----------
    nside : int
        Of the map.
    base : int
        Base pixel, 0 to 11.
    x, y : ndarray
        (x,) and (y,) int64 positions, from -nside to 2 nside - 1.

    Examples
    --------
    >>> plane_pixels(2, 4, np.arange(-1, 2), np.arange(2)).tolist()
    [[45, 16, 17], [47, 18, 19]]
    """
    found = np.full((y.size, x.size), -1, dtype=np.int64)
    spread = _spread(nside)
    for i in range(-1, 2):
        columns = np.flatnonzero((x // nside) == i)
        for j in range(-1, 2):
            rows = np.flatnonzero((y // nside) == j)
            there = panel(base, i, j)
            if there is None or not columns.size or not rows.size:
                continue
            across, up = there.locate(nside, x[columns][np.newaxis, :], y[rows][:, np.newaxis])
            cells = spread[across] + 2 * spread[up]
            found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = there.base * nside**2 + cells
    return found


def tile_corner(tiling: Tiling, tile: int) -> tuple[int, int, int]:
    """Return the base pixel of a tile and the position (x, y) of its south corner in the plane of that.

    Examples
    --------
    >>> tile_corner(Tiling(64, tile_nside=2), 7)
    (1, 32, 32)
    """
    side = math.isqrt(tiling.tile_npix)
    base, place = divmod(tile, tiling.n_tiles // 12)
    x = y = 0
    for bit in range(place.bit_length()):
        value = (place >> bit) & 1
        if bit % 2:
            y |= value << (bit // 2)
        else:
            x |= value << (bit // 2)
    return base, x * side, y * side


def read_plane(read: Reader, tiling: Tiling, tile: int, halo: int, own: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a tile and `halo` pixels of the plane around it as an image, (y, x) float32, NaN where it is empty.

    Parameters
    ----------
    read : callable
        (start, stop) -> (cells,) float32: reads pixels; called for whole chunks that the halo touches.
    tiling : Tiling
        Of the map.
    tile : int
        The tile.
    halo : int
        Pixels, at most nside.
    own : ndarray
        (cells,) the values of the tile itself.

    Raises
    ------
    InputError
        If the halo is wider than a base pixel.
    """
    nside, side, chunk = tiling.nside, math.isqrt(tiling.tile_npix), math.isqrt(tiling.chunk_npix)
    if halo > nside:
        raise InputError(
            f"a halo of {halo} pixels came; beyond {nside}, the side of a base pixel, use the harmonic way."
        )
    base, x0, y0 = tile_corner(tiling, tile)
    image = np.full((side + 2 * halo, side + 2 * halo), np.nan, np.float32)
    for i in range(-1, 2):
        for j in range(-1, 2):
            there = panel(base, i, j)
            left, right = max(x0 - halo, i * nside), min(x0 + side + halo, (i + 1) * nside)
            low, high = max(y0 - halo, j * nside), min(y0 + side + halo, (j + 1) * nside)
            if there is None or left >= right or low >= high:
                continue
            target = image[low - y0 + halo : high - y0 + halo, left - x0 + halo : right - x0 + halo]
            # Views of the target along the axes of the other base pixel, so that its chunks are laid in as they are.
            ends = there.locate(nside, np.array([left, right - 1]), np.array([low, high - 1]))
            turned = target.T if there.swapped else target
            turned = turned[:: there.signs[1], :: there.signs[0]]
            first_x, first_y = int(ends[0].min()), int(ends[1].min())
            _lay_chunks(turned, there.base, first_x, first_y, nside, chunk, read, (tile, tiling.tile_npix))
    centre = slice(halo, halo + side)
    image[centre, centre] = own[morton(side)]
    return image


def _lay_chunks(
    target: NDArray[np.float32],
    base: int,
    x0: int,
    y0: int,
    nside: int,
    chunk: int,
    read: Reader,
    own: tuple[int, int],
) -> None:
    """Fill a rectangle of a base pixel, whose lowest pixel is (x0, y0), from its chunks; not from the own tile."""
    spread = _spread(nside)
    height, width = target.shape
    grid = morton(chunk)
    for y in range(y0 // chunk * chunk, y0 + height, chunk):
        for x in range(x0 // chunk * chunk, x0 + width, chunk):
            start = base * nside**2 + int(spread[x] + 2 * spread[y])
            if start // own[1] == own[0]:
                continue
            left, right = max(x, x0), min(x + chunk, x0 + width)
            low, high = max(y, y0), min(y + chunk, y0 + height)
            cells = read(start, start + chunk**2)
            target[low - y0 : high - y0, left - x0 : right - x0] = cells[grid[low - y : high - y, left - x : right - x]]
