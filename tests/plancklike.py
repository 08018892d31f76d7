"""A sky as Planck would see it, for the tests of preparation: truth, CMB, CO, and their sum."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skymill.chunking import store as stores
from skymill.chunking.schema import MapInfo
from skymill.engine.prepare import Recipe, planck_recipe

NSIDE = 8
NPIX = 12 * NSIDE**2
RAYLEIGH_JEANS = 2e20 * 1.380649e-23 * (353e9 / 299792458.0) ** 2  # MJy/sr per K at 353 GHz
CO_COEFFICIENT = 0.02  # of this test's sky, MJy/sr per K km/s


def write(where: str, name: str, values: NDArray[Any], unit: str = "MJy/sr", **known: Any) -> None:
    stores.create_maps(where, [MapInfo(name, "intensity", unit, **known)])
    grid = stores.tiling_of(where)
    for tile in range(grid.n_tiles):
        stores.write_tile(where, name, tile, np.asarray(values, np.float32)[grid.tile_slice(tile)])


def read(where: str, name: str) -> NDArray[Any]:
    grid = stores.tiling_of(where)
    return np.concatenate([stores.read_tile(where, name, tile) for tile in range(grid.n_tiles)])


def steps_of(where: str, name: str) -> list[dict[str, Any]]:
    return list(stores.info(where, name).provenance["steps"])


def make_planck_like_sky(where: str) -> str:
    """A sky of truth, CMB and CO, and of what Planck would see: one tile unobserved, some pixels without value."""
    stores.create(where, NSIDE, frame="galactic")
    rng = np.random.default_rng(5)
    truth = rng.lognormal(0.0, 1.0, NPIX)
    truth[::50] = -0.01
    cmb, co = rng.normal(0, 1e-4, NPIX), rng.exponential(2.0, NPIX)
    raw = truth + cmb * 287.450 + co * CO_COEFFICIENT + 0.13
    raw[7] = np.nan
    raw[64:128] = np.nan
    truth[[7, *range(64, 128)]] = np.nan
    write(where, "truth_850um", truth)
    write(where, "raw_850um", raw, beam_fwhm_arcmin=5.0, band="850um")
    write(where, "raw_kcmb", raw / 287.450, "K_CMB")
    write(where, "cmb", cmb, "K_CMB")
    write(where, "cmb_mjy", cmb * 287.450, "MJy/sr")
    write(where, "co21", co, "K km/s")
    write(where, "zero", np.zeros(NPIX), "K_CMB")
    write(where, "nothing", np.full(NPIX, np.nan), "K_CMB")
    write(where, "i160", np.where(np.arange(NPIX) % 11 == 0, -1.0, 2.0))
    write(where, "per_beam", np.ones(NPIX), "Jy/beam", beam_fwhm_arcmin=0.55)
    return where


def recipe(*steps: Any, band: str | None = None, **names: str) -> Recipe:
    return Recipe(names.get("input", "raw_850um"), names.get("output", "i850um"), steps, band=band)


FULL = planck_recipe("850um", co_coefficient=CO_COEFFICIENT)
