"""Small spheres for tests: maps of a known nside put into stores and got back, and where pixels lie."""

from __future__ import annotations

import healpy as hp
import numpy as np
from skymill.chunking import store as stores
from skymill.chunking.schema import MapInfo

NSIDE = 32
NPIX = 12 * NSIDE**2


def put(sky, maps, nside=NSIDE, tile_nside=1, **about):
    """Write maps, given in NESTED order, into a new store."""
    where = str(sky)
    if not stores.exists(where):
        stores.create(where, nside, frame="galactic", tile_nside=tile_nside)
    grid = stores.tiling_of(where)
    for name, values in maps.items():
        dtype = "uint8" if values.dtype == np.uint8 else "float32"
        stores.create_maps(where, [MapInfo(name, "intensity", "1" if "_" in name else "MJy/sr", dtype=dtype, **about)])
        for tile in range(grid.n_tiles):
            stores.write_tile(where, name, tile, values.astype(dtype)[grid.tile_slice(tile)])
    return where


def get(sky, name):
    """Return a map in NESTED order, float64."""
    return stores.read_cells(str(sky), name, 0, stores.tiling_of(str(sky)).npix).astype(float)


def heights():
    """Return z of the pixels, NESTED."""
    return hp.pix2vec(NSIDE, np.arange(NPIX), nest=True)[2]


def holes():
    """Return where pixels are missing: a cap, a slit, and some here and there."""
    missing = heights() > 0.5
    missing |= np.abs(hp.pix2vec(NSIDE, np.arange(NPIX), nest=True)[0]) < 0.08
    missing[np.random.default_rng(1).integers(0, NPIX, 200)] = True
    missing[: NPIX // 12] = True  # a whole tile
    return missing


def lognormal_maps():
    """Return two maps that have something at every multipole, NESTED float32."""
    numbers = np.random.default_rng(4).lognormal(0.0, 1.0, (2, NPIX)).astype(np.float32)
    return {"a": numbers[0], "b": numbers[1] * np.linspace(1, 9, NPIX, dtype=np.float32)}
