"""The grid: HEALPix pixels in NESTED order, cut into tiles (units of work) and chunks (units of reading)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

MAX_ORDER = 29
CHUNK_NPIX = 4**9  # one 512 x 512 HiPS tile, 1 MiB of float32
TILE_NPIX = 4**10
LARGE_TILE_NPIX = 4**11  # above LARGE_NSIDE, so that a full-sky run stays below a thousand tasks
LARGE_NSIDE = 8192


@dataclass(frozen=True, order=True)
class Tiling:
    """A HEALPix grid in NESTED order, its tiles and its chunks.

    Parameters
    ----------
    nside : int
        Pixels along the side of a base pixel; a power of two up to 2**29.
    tile_nside : int, optional
        The nside whose pixels are the tiles.  By default a tile holds 4**10 pixels (4**11 above
        nside 8192) and never more than a base pixel.
    chunk_nside : int, optional
        The nside whose pixels are the chunks; by default a chunk holds at most 4**9 pixels.

    Raises
    ------
    InputError
        If a number is not a power of two, or not `tile_nside <= chunk_nside <= nside`.

    Examples
    --------
    >>> grid = Tiling(16384)
    >>> grid.npix, grid.n_tiles, grid.tile_npix
    (3221225472, 768, 4194304)
    """

    nside: int
    tile_nside: int | None = None
    chunk_nside: int | None = None

    def __post_init__(self) -> None:
        nside = _power_of_two("nside", self.nside)
        largest = LARGE_TILE_NPIX if nside > LARGE_NSIDE else TILE_NPIX
        tile = self.tile_nside
        tile = max(1, nside // math.isqrt(largest)) if tile is None else _power_of_two("tile_nside", tile)
        chunk = self.chunk_nside
        default_chunk = max(tile, nside // math.isqrt(CHUNK_NPIX))
        chunk = default_chunk if chunk is None else _power_of_two("chunk_nside", chunk)
        if not tile <= chunk <= nside:
            raise InputError(
                f"`tile_nside` {tile}, `chunk_nside` {chunk} and `nside` {nside} came; a tile holds whole chunks "
                "and a chunk whole pixels, so give tile_nside <= chunk_nside <= nside."
            )
        object.__setattr__(self, "nside", nside)
        object.__setattr__(self, "tile_nside", tile)
        object.__setattr__(self, "chunk_nside", chunk)

    @property
    def order(self) -> int:
        """The HEALPix order, log2 of nside."""
        return self.nside.bit_length() - 1

    @property
    def npix(self) -> int:
        """Pixels of the full sky."""
        return 12 * self.nside**2

    @property
    def n_tiles(self) -> int:
        """Tiles of the full sky."""
        assert self.tile_nside is not None
        return 12 * self.tile_nside**2

    @property
    def n_chunks(self) -> int:
        """Chunks of the full sky."""
        assert self.chunk_nside is not None
        return 12 * self.chunk_nside**2

    @property
    def tile_npix(self) -> int:
        """Pixels of a tile."""
        return self.npix // self.n_tiles

    @property
    def chunk_npix(self) -> int:
        """Pixels of a chunk."""
        return self.npix // self.n_chunks

    @property
    def pixel_area(self) -> float:
        """Area of a pixel in steradian."""
        return 4.0 * math.pi / self.npix

    def tile_slice(self, tile: int) -> slice:
        """Return the pixel numbers of a tile as a slice into a map."""
        self._check_tile(tile)
        return slice(tile * self.tile_npix, (tile + 1) * self.tile_npix)

    def pixels(self, tile: int) -> NDArray[np.int64]:
        """Return the pixel numbers of a tile, (cells,) int64."""
        window = self.tile_slice(tile)
        return np.arange(window.start, window.stop, dtype=np.int64)

    def _check_tile(self, tile: int) -> None:
        if not 0 <= tile < self.n_tiles:
            raise InputError(f"`tile` {tile} came; this grid has tiles 0 to {self.n_tiles - 1}.")


def _power_of_two(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InputError(f"`{name}` must be an integer power of two, {value!r} ({type(value).__name__}) came.")
    number = int(value)
    if number < 1 or number & (number - 1) or number > 2**MAX_ORDER:
        raise InputError(f"`{name}` must be a power of two from 1 to 2**{MAX_ORDER}, {number} came.")
    return number
