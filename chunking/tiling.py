"""The grid: HEALPix pixels in NESTED order, cut into tiles (units of work) and chunks (units of reading)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import geometry
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
                f"`tile_nside` {tile}, `chunk_nside` {chunk} and `nside` {nside} came; a tile holds "
                "whole chunks and a chunk whole pixels, so give tile_nside <= chunk_nside <= nside."
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

    @property
    def tile_area(self) -> float:
        """Area of a tile in steradian."""
        return 4.0 * math.pi / self.n_tiles

    def tile_slice(self, tile: int) -> slice:
        """Return the pixel numbers of a tile as a slice into a map.

        Raises
        ------
        InputError
            If the grid has no such tile.

        Examples
        --------
        >>> Tiling(8, tile_nside=2).tile_slice(3)
        slice(48, 64, None)
        """
        number = self._tile(tile)
        return slice(number * self.tile_npix, (number + 1) * self.tile_npix)

    def pixels(self, tile: int) -> NDArray[np.int64]:
        """Return the pixel numbers of a tile, (cells,) int64.

        Raises
        ------
        InputError
            If the grid has no such tile.

        Examples
        --------
        >>> Tiling(2, tile_nside=1).pixels(1).tolist()
        [4, 5, 6, 7]
        """
        window = self.tile_slice(tile)
        return np.arange(window.start, window.stop, dtype=np.int64)

    def tile_of(self, pixels: ArrayLike) -> NDArray[np.int64]:
        """Return the tile that holds each pixel, (...) int64.

        Parameters
        ----------
        pixels : array_like of int
            (...) NESTED pixel numbers.

        Raises
        ------
        InputError
            If a number is not one of this grid's pixels, or not an integer.

        Examples
        --------
        >>> Tiling(8, tile_nside=2).tile_of([0, 15, 16, 767]).tolist()
        [0, 0, 1, 47]
        """
        return self._pixels(pixels) >> (self.tile_npix.bit_length() - 1)

    def chunk_of(self, pixels: ArrayLike) -> NDArray[np.int64]:
        """Return the chunk that holds each pixel, (...) int64.

        Parameters
        ----------
        pixels : array_like of int
            (...) NESTED pixel numbers.

        Raises
        ------
        InputError
            If a number is not one of this grid's pixels, or not an integer.

        Examples
        --------
        >>> Tiling(8, tile_nside=2, chunk_nside=4).chunk_of([0, 3, 4, 767]).tolist()
        [0, 0, 1, 191]
        """
        return self._pixels(pixels) >> (self.chunk_npix.bit_length() - 1)

    def lonlat(self, pixels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return longitude in [0, 360) and latitude of pixel centres, each (...) float64, degrees.

        Parameters
        ----------
        pixels : array_like of int
            (...) NESTED pixel numbers.

        Raises
        ------
        InputError
            If a number is not one of this grid's pixels, or not an integer.

        Examples
        --------
        >>> lon, lat = Tiling(1).lonlat([0, 4])
        >>> lon.tolist(), lat.round(2).tolist()
        ([45.0, 0.0], [41.81, 0.0])
        """
        return geometry.pixel_lonlat(self.nside, self._pixels(pixels))

    def from_lonlat(self, lon: ArrayLike, lat: ArrayLike) -> NDArray[np.int64]:
        """Return the NESTED pixels that hold positions, (...) int64.

        Parameters
        ----------
        lon, lat : array_like
            (...) degrees in the frame of the map, broadcast against each other; any longitude will do.

        Raises
        ------
        InputError
            If a coordinate is not finite, or a latitude lies outside [-90, 90].

        Examples
        --------
        >>> Tiling(1).from_lonlat([45.0, -360.0], [41.8, 0.0]).tolist()
        [0, 4]
        """
        return geometry.lonlat_pixels(self.nside, lon, lat)

    def to_ring(self, pixels: ArrayLike) -> NDArray[np.int64]:
        """Return the RING numbers of NESTED pixels, (...) int64.

        Parameters
        ----------
        pixels : array_like of int
            (...) NESTED pixel numbers.

        Raises
        ------
        InputError
            If a number is not one of this grid's pixels, or not an integer.

        Examples
        --------
        >>> Tiling(2).to_ring([3, 7, 0]).tolist()
        [0, 1, 13]
        """
        return geometry.nested_to_ring(self.nside, self._pixels(pixels))

    def from_ring(self, pixels: ArrayLike) -> NDArray[np.int64]:
        """Return the NESTED numbers of RING pixels, (...) int64.

        Parameters
        ----------
        pixels : array_like of int
            (...) RING pixel numbers.

        Raises
        ------
        InputError
            If a number is not one of this grid's pixels, or not an integer.

        Examples
        --------
        >>> Tiling(2).from_ring([0, 1, 13]).tolist()
        [3, 7, 0]
        """
        return geometry.ring_to_nested(self.nside, self._pixels(pixels))

    def neighbours(self, tile: int) -> NDArray[np.int64]:
        """Return the tiles around a tile in the order SW, W, NW, N, NE, E, SE, S, (8,) int64.

        Where three base pixels meet, a tile has no neighbour in one direction (at `tile_nside` 1 in two):
        -1 stands there.

        Raises
        ------
        InputError
            If the grid has no such tile.

        Examples
        --------
        >>> Tiling(4, tile_nside=1).neighbours(4).tolist()
        [11, 7, 3, -1, 0, 5, 8, -1]
        """
        assert self.tile_nside is not None
        return geometry.pixel_neighbours(self.tile_nside, np.array(self._tile(tile)))

    def halo(self, tile: int, width: int) -> NDArray[np.int64]:
        """Return the pixels that can be reached from a tile in `width` steps, (cells,) int64, sorted.

        A step goes to one of the 8 neighbours of a pixel (7 where three base pixels meet), so inside a base
        pixel the halo is a square frame of `width` pixels; across the edges and corners of base pixels it
        stays exact.

        Parameters
        ----------
        tile : int
            The tile, itself not part of its halo.
        width : int
            Steps; 0 gives no pixels.

        Raises
        ------
        InputError
            If the grid has no such tile, or `width` is not a natural number.

        Examples
        --------
        >>> Tiling(16, tile_nside=4).halo(6, 1).size  # a frame of 6 x 6 around 4 x 4
        20
        """
        if isinstance(width, bool) or not isinstance(width, (int, np.integer)) or width < 0:
            raise InputError(f"`width` {width!r} came; the width of a halo is a number of pixels, 0 or more.")
        return geometry.halo_pixels(self.nside, self.tile_npix, self._tile(tile), int(width))

    def _tile(self, tile: int) -> int:
        """Return a tile's number as a Python integer: products of NumPy's smaller integers would overflow."""
        if isinstance(tile, bool) or not isinstance(tile, (int, np.integer)):
            raise InputError(f"`tile` {tile!r} ({type(tile).__name__}) came; a tile is an integer.")
        if not 0 <= tile < self.n_tiles:
            raise InputError(f"`tile` {tile} came; this grid has tiles 0 to {self.n_tiles - 1}.")
        return int(tile)

    def _pixels(self, pixels: ArrayLike) -> NDArray[np.int64]:
        return geometry.check_integers("pixels", pixels, self.npix, f"the pixels of nside {self.nside}")


def _power_of_two(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        came = f"{value!r} ({type(value).__name__}) came"
        raise InputError(f"`{name}` must be an integer power of two, {came}.")
    number = int(value)
    if number < 1 or number & (number - 1) or number > 2**MAX_ORDER:
        raise InputError(f"`{name}` must be a power of two from 1 to 2**{MAX_ORDER}, {number} came.")
    return number


def cube_tile_nside(nside: int, channels: int) -> int:
    """Return the nside of the tiles of a new store that is made for a cube.

    A tile holds at most 4**11 values of the cube (16 MiB), so that a task on it, which has several copies and
    temporaries of a value, stays at a few hundred megabytes; but at least 4**8 pixels, so that the maps of the same
    store are not cut into crumbs.

    Parameters
    ----------
    nside : int
        Of the store.
    channels : int
        Of the cube.

    Examples
    --------
    >>> cube_tile_nside(1024, 41), cube_tile_nside(1024, 1)
    (4, 1)
    """
    pixels = max(4**8, 4**11 // channels)
    side = 1 << ((pixels.bit_length() - 1) // 2)
    grid = Tiling(nside)
    assert grid.tile_nside is not None
    return max(grid.tile_nside, nside // side)
