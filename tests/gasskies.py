"""Small gas skies for tests of residuals: what a fit of them would say is known."""

from __future__ import annotations

import healpy as hp
import numpy as np
import spheres
import xarray as xr
from skymill.chunking import store as stores
from skymill.chunking.schema import MapInfo
from skymill.models.emission import modified_black_body

NSIDE = 32
NPIX = 12 * NSIDE**2
OFFSETS = {"i353": 0.3, "i857": -0.7, "i100um": 0.2}
GHZ = {"i353": 353.0, "i857": 857.0, "i100um": 2997.92458}
KELVIN, BETA, SCALE = 20.0, 1.5, 4e-6


def column(seed=0, spread=0.5):
    """Return a column density, NESTED, 1e20 cm^-2."""
    return np.random.default_rng(seed).lognormal(0.0, spread, NPIX)


def patchy(seed, nside=16):
    """Return numbers of unit variance that patches of the sky share, NESTED."""
    coarse = np.random.default_rng(seed).standard_normal(12 * nside**2)
    return np.repeat(coarse, (NSIDE // nside) ** 2)


def emissivity(name):
    """Return MJy/sr per 1e20 cm^-2 at the mean temperature."""
    return SCALE * float(modified_black_body(GHZ[name], KELVIN, BETA))


def sky_maps(kelvin=0.0, dust_to_gas=0.0, beta=0.0, seed=0):
    """Return a column density and three bands of dust that departs from it, float64."""
    n = column(seed)
    maps = {"nhi": n}
    for name, ghz in GHZ.items():
        maps[name] = (
            SCALE * n * (1 + dust_to_gas) * modified_black_body(ghz, KELVIN + kelvin, BETA + beta) + OFFSETS[name]
        )
    return maps


def put_sky(path, maps, units=None, tile_nside=1):
    """Write maps into a new store; return its address."""
    where = str(path)
    if not stores.exists(where):
        stores.create(where, NSIDE, frame="galactic", tile_nside=tile_nside)
    known = {"nhi": "1e20 cm^-2", **(units or {})}
    for name, values in maps.items():
        dtype = "uint8" if values.dtype == np.uint8 else "float32"
        unit = "1" if dtype == "uint8" else known.get(name, "MJy/sr")
        stores.create_maps(where, [MapInfo(name, "intensity", unit, dtype=dtype)])
        grid = stores.tiling_of(where)
        for tile in range(grid.n_tiles):
            stores.write_tile(where, name, tile, values.astype(dtype)[grid.tile_slice(tile)])
    return where


def known_fit(targets=("i353", "i857", "i100um"), templates=("nhi",), offset=True, regions=None):
    """Return a fit that knows the truth."""
    rows = [[*(emissivity(t) for _ in templates), *([OFFSETS[t]] if offset else [])] for t in targets]
    names = [*templates, *(["offset"] if offset else [])]
    found = xr.Dataset(
        {"coefficient": (("target", "template"), np.array(rows))},
        coords={"target": list(targets), "template": names},
    )
    if regions is None:
        return found
    each = [found * factor for factor in regions.values()]
    return xr.concat(each, dim="region").assign_coords(region=list(regions))


def latitudes():
    """Return the latitude of every pixel, NESTED, degrees."""
    return hp.pix2ang(NSIDE, np.arange(NPIX), nest=True, lonlat=True)[1]


get = spheres.get
