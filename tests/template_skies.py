"""Small skies for template fits, fits of them, and dense least squares on whole arrays."""

from __future__ import annotations

import numpy as np
import skymill as sm
from skymill.chunking import store as stores
from skymill.chunking.schema import MapInfo

NSIDE = 16
TEMPLATES = ["nhi", "nhii", "nh2"]
TARGETS = ["i857", "i353"]
UNITS = {"nhi": "1e20 cm^-2", "nhii": "1e20 cm^-2", "nh2": "1e20 cm^-2", "mask": "1", "weight_w": "1"}
UNITS |= {"variance": "MJy^2/sr^2", "sigma_kjy": "kJy/sr", "ebv": "mag"}


def sky_maps(nside=NSIDE, seed=0):
    """Templates, two targets with different noise, and masks; some pixels missing."""
    rng = np.random.default_rng(seed)
    size = 12 * nside**2
    maps = {"nhi": rng.gamma(3.0, 1.0, size)}
    maps["nhii"] = rng.gamma(2.0, 0.5, size) + 0.2 * maps["nhi"]
    maps["nh2"] = rng.normal(0.0, 0.3, size)
    maps["sigma"] = rng.uniform(0.05, 0.15, size)
    maps = {name: values.astype(np.float32) for name, values in maps.items()}
    gas = maps["nhi"].astype(float), maps["nhii"].astype(float)
    maps["i857"] = 0.4 * gas[0] + 0.2 * gas[1] + 3.0 + maps["sigma"] * rng.normal(size=size)
    maps["i353"] = 0.04 * gas[0] + 0.02 * gas[1] + 0.3 + 0.01 * rng.normal(size=size)
    maps["ebv"] = maps["i353"] / 10
    maps["variance"], maps["sigma_kjy"] = maps["sigma"].astype(float) ** 2, maps["sigma"].astype(float) * 1e3
    maps["mask"] = (rng.random(size) < 0.8).astype(np.uint8)
    maps["weight_w"] = np.where(rng.random(size) < 0.5, 0.0, 0.5)
    maps["nhii"][rng.random(size) < 0.03] = np.nan
    maps["i353"][rng.random(size) < 0.03] = np.nan
    return {name: values if values.dtype == np.uint8 else values.astype(np.float32) for name, values in maps.items()}


def write_store(path, maps, tile_nside=1, units=UNITS, nside=NSIDE):
    where = str(path)
    stores.create(where, nside, frame="galactic", tile_nside=tile_nside)
    stores.create_maps(
        where,
        [MapInfo(name, name, units.get(name, "MJy/sr"), dtype=values.dtype.name) for name, values in maps.items()],
    )
    grid = stores.tiling_of(where)
    for name, values in maps.items():
        for tile in range(grid.n_tiles):
            stores.write_tile(where, name, tile, values[grid.tile_slice(tile)])
    return where


def run(store, templates=TEMPLATES, target=TARGETS, **options):
    return sm.fit(store, templates, target, **options).run(progress=False)


def finite(maps, names=(*TEMPLATES, *TARGETS)):
    return np.isfinite([maps[name] for name in names]).all(axis=0)


def dense(maps, used, target, sigma=None, templates=TEMPLATES, offset=True):
    """Coefficients, covariance and chi^2 of one target by numpy.linalg.lstsq; without sigma from the residuals."""
    columns = np.vstack([*(maps[name][used] for name in templates), np.ones(used.sum())]).astype(float)
    columns = columns if offset else columns[:-1]
    data = maps[target][used].astype(float)
    root = np.ones(data.size) if sigma is None else 1 / sigma[used].astype(float)
    theta = np.linalg.lstsq((columns * root).T, data * root, rcond=None)[0]
    chi2 = float(((root * (data - theta @ columns)) ** 2).sum())
    covariance = np.linalg.inv((columns * root) @ (columns * root).T)
    return theta, covariance * (chi2 / (data.size - len(theta)) if sigma is None else 1.0), chi2
