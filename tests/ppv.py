"""Small position-position-velocity cubes for tests; a module of its own, so that other processes can import it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skymill.chunking import store as stores
from skymill.chunking.channels import Channels
from skymill.chunking.geometry import pixel_vectors
from skymill.chunking.schema import CUBE, MapInfo
from skymill.chunking.tiling import Tiling

CLOUDS = ((-45.0, 12.0, 0), (-4.0, 7.0, 1), (12.0, 15.0, 2))  # velocity, dispersion, direction of its gradient


def channels_between(low: float = -90.0, high: float = 90.0, count: int = 9) -> Channels:
    """Return channels that are the wider the further they are from rest."""
    steps = np.linspace(-1, 1, count + 1)
    edges = np.sign(steps) * np.abs(steps) ** 1.3
    return Channels.from_edges(low + (edges + 1) / 2 * (high - low))


def column_of(nside: int, channels: Channels, pixels: NDArray[np.int64], *, seed: int = 0) -> NDArray[np.float32]:
    """Return column densities of a few clouds in some pixels, (channel, cells) float32, with noise by pixel."""
    vectors = pixel_vectors(nside, pixels)
    velocity, width = np.array(channels.velocity)[:, None], np.array(channels.width)[:, None]
    total = np.zeros((channels.count, pixels.size))
    for middle, spread, axis in CLOUDS:
        centre = middle + 8.0 * vectors[:, axis]
        amplitude = np.exp(0.8 * np.sin(9 * vectors[:, axis - 1]) + 0.4 * np.sin(40 * vectors[:, axis]))
        total += amplitude * np.exp(-0.5 * ((velocity - centre) / spread) ** 2) / spread
    # The same number for a pixel and channel however the sky is tiled.
    mixed = (pixels[None].astype(np.uint64) * np.uint64(41) + np.arange(channels.count, dtype=np.uint64)[:, None]) + (
        np.uint64(seed) << np.uint64(40)
    )
    for shift in (31, 27, 33):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(0x9E3779B97F4A7C15)
    noise = (mixed >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5
    return (width * (total + 0.004 * noise)).astype(np.float32)


def make_cube(
    path: Path | str,
    nside: int = 16,
    *,
    channels: Channels | None = None,
    tile_nside: int | None = None,
    frame: str = "galactic",
    unit: str = "1e20 cm^-2",
    factor: NDArray[Any] | float = 1.0,
    gaps: bool = True,
    seed: int = 0,
) -> str:
    """Write a cube `n_hi`, with an unobserved tile and some missing voxels, and a mask `mask`: |z| > 0.2 is used."""
    where = str(path)
    known = channels or channels_between()
    chunk_nside = None if tile_nside is None else max(tile_nside, Tiling(nside, tile_nside).chunk_nside or 1)
    stores.create(where, nside, frame=frame, tile_nside=tile_nside, chunk_nside=chunk_nside)
    stores.create_channels(where, known)
    stores.create_maps(
        where,
        [
            MapInfo("n_hi", "column density", unit, dims=CUBE, beam_fwhm_arcmin=16.2),
            MapInfo("mask", "mask", "1", dtype="uint8"),
        ],
    )
    grid = stores.tiling_of(where)
    for tile in range(grid.n_tiles):
        pixels = grid.pixels(tile)
        values = column_of(nside, known, pixels, seed=seed) * np.float32(factor)
        if gaps:
            values[:, pixels // (grid.npix // 12) == 5] = np.nan
            values[-1, pixels % 97 == 3] = np.nan
            values[:, pixels % 101 == 7] = np.nan
        if np.isfinite(values).any():
            stores.write_tile(where, "n_hi", tile, values)
        used = np.abs(pixel_vectors(nside, pixels)[:, 2]) > 0.2
        stores.write_tile(where, "mask", tile, used.astype(np.uint8))
    return where
