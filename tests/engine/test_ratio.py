"""Ratio maps and spectral indices, judged against float64 on known skies."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from skymill.chunking import store as stores
from skymill.chunking.errors import IdentityError, InputError, MissingMapError, StoreNotFoundError, UnitError
from skymill.chunking.schema import MapInfo
from skymill.engine.ratio import ratio
from skymill.models.emission import EXACT_WAVELENGTHS_UM, TABLE_2, modified_black_body

NSIDE = 8


def write(where: str, name: str, values: np.ndarray, unit: str = "MJy/sr", band: str | None = None) -> None:
    stores.create_maps(where, [MapInfo(name, "intensity", unit, band=band, beam_fwhm_arcmin=5.0)])
    grid = stores.tiling_of(where)
    for tile in range(grid.n_tiles):
        stores.write_tile(where, name, tile, values[grid.tile_slice(tile)].astype(np.float32))


def read(where: str, name: str) -> np.ndarray:
    grid = stores.tiling_of(where)
    return np.concatenate([stores.read_tile(where, name, tile) for tile in range(grid.n_tiles)])


@pytest.fixture
def sky(tmp_path: Path) -> str:
    """A sky of modified black bodies with known temperature and index, with bad pixels and a missing tile."""
    where = str(tmp_path / "sky.zarr")
    stores.create(where, NSIDE, frame="galactic")
    npix = 12 * NSIDE**2
    rng = np.random.default_rng(3)
    temperature, beta = rng.uniform(12, 28, npix), rng.uniform(1.2, 2.0, npix)
    for name, band, wavelength in (("pred_850um", "850um", 850.0), ("pred_1380um", "1380um", 1380.0)):
        values = 1e-4 * modified_black_body(299792.458 / wavelength, temperature, beta)
        if name == "pred_1380um":
            values[64:128] = np.nan  # a whole tile
            values[3] = -values[3]
        values[[4, 5]] = [-1.0, 0.0] if name == "pred_850um" else [-1.0, 2.0]
        write(where, name, values, band=band)
    write(where, "temperature", temperature, unit="K")
    write(where, "beta_true", beta, unit="1")
    return where


def test_indices_of_a_known_sky(sky: str) -> None:
    ratio(sky, temperature="temperature").run()
    above, below = read(sky, "pred_850um").astype(float), read(sky, "pred_1380um").astype(float)
    good = (above > 0) & (below > 0)
    assert good.sum() == above.size - 64 - 3
    found = {name: read(sky, name) for name in ("ratio", "alpha", "beta_star", "beta")}
    for values in found.values():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(np.isfinite(values), good)
    np.testing.assert_allclose(found["ratio"][good], (above / np.where(good, below, 1))[good], rtol=1e-6)
    expected = np.log(above[good] / below[good]) / math.log(1380 / 850)
    np.testing.assert_allclose(found["alpha"][good], expected, rtol=1e-6)
    np.testing.assert_allclose(found["beta_star"][good], expected - 2, atol=1e-6)
    np.testing.assert_allclose(found["beta"][good], read(sky, "beta_true")[good], atol=2e-6)


def test_table_2_through_the_verb(tmp_path: Path) -> None:
    where = str(tmp_path / "sky.zarr")
    stores.create(where, 1, frame="galactic")
    ratios = np.resize([row.ratio for row in TABLE_2], 12)
    write(where, "pred_850um", ratios)
    write(where, "pred_1380um", np.ones(12))
    ratio(where).run()
    published = np.resize([row.beta_star for row in TABLE_2], 12)
    np.testing.assert_allclose(read(where, "beta_star"), published, atol=8e-4)
    assert (read(where, "alpha") > 0).all()


def test_nothing_is_written_before_the_run(sky: str) -> None:
    plan = ratio(sky)
    assert "ratio" not in stores.infos(sky)
    assert len(plan.todo) == 11  # one tile of the denominator is not stored
    plan.run()
    assert stores.info(sky, "beta_star").unit == "1"
    assert stores.info(sky, "ratio").beam_fwhm_arcmin == 5.0
    assert "beta" not in stores.infos(sky)
    assert stores.info(sky, "alpha").provenance["parameters"]["wavelengths_um"] == [850.0, 1380.0]
    assert ratio(sky).done == 11


def test_every_option_changes_the_result(sky: str, tmp_path: Path) -> None:
    ratio(sky, temperature=20.0).run()
    ratio(sky, temperature=15.0, prefix="cold_").run()
    ratio(sky, wavelengths_um="exact", prefix="exact_").run()
    ratio(sky, wavelengths_um=list(EXACT_WAVELENGTHS_UM), prefix="given_").run()
    usual = read(sky, "beta")
    assert np.nanmin(read(sky, "cold_beta") - usual) == pytest.approx(0.514 - 0.373, abs=1e-3)
    assert np.nanmax(np.abs(read(sky, "exact_alpha") - read(sky, "alpha"))) > 1e-3
    np.testing.assert_array_equal(read(sky, "given_alpha"), read(sky, "exact_alpha"))
    np.testing.assert_array_equal(read(sky, "exact_ratio"), read(sky, "ratio"))
    elsewhere = tmp_path / "out.zarr"
    ratio(sky, out=elsewhere, threads=1, memory="3GB").run()
    np.testing.assert_array_equal(read(str(elsewhere), "alpha"), read(sky, "alpha"))


def test_another_run_is_not_replaced_unless_told(sky: str) -> None:
    ratio(sky).run()
    with pytest.raises(IdentityError, match="wavelengths_um"):
        ratio(sky, wavelengths_um="exact")
    before = read(sky, "alpha")
    ratio(sky, wavelengths_um="exact", overwrite=True).run()
    assert not np.array_equal(read(sky, "alpha"), before, equal_nan=True)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"numerator": "pred_850"}, MissingMapError, "did you mean 'pred_850um'"),
        ({"denominator": "nothing"}, MissingMapError, "Known: "),
        ({"temperature": "dust_temperature"}, MissingMapError, "temperature"),
        ({"denominator": "pred_850um"}, InputError, "both 'pred_850um'"),
        ({"temperature": 0.0}, InputError, "positive temperature"),
        ({"temperature": -20}, InputError, "positive temperature"),
        ({"temperature": math.nan}, InputError, "`temperature` nan came"),
        ({"temperature": "beta_true"}, UnitError, "is in 1; a temperature of dust is in K"),
        ({"denominator": "temperature"}, UnitError, "in K; convert one"),
        ({"wavelengths_um": "exakt"}, InputError, "did you mean 'exact'"),
        ({"wavelengths_um": (1380.0, 850.0)}, InputError, "the shorter"),
        ({"wavelengths_um": (850.0,)}, InputError, "two wavelengths"),
        ({"wavelengths_um": (250.0, 500.0)}, InputError, "is of band 850um"),
        ({"numerator": "pred_1380um", "denominator": "pred_850um"}, InputError, "is of band 1380um"),
        ({"prefix": "mask_"}, InputError, "mask_ratio"),
        ({"prefix": "1"}, InputError, "as the name of a map"),
    ],
)
def test_bad_input(sky: str, options: dict[str, object], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        ratio(sky, **options).run()  # type: ignore[arg-type]
    assert not any("ratio" in name for name in stores.infos(sky))


def test_temperatures_have_no_such_ratio(sky: str) -> None:
    write(sky, "a", np.ones(768), unit="K_CMB")
    write(sky, "b", np.ones(768), unit="K_CMB")
    with pytest.raises(UnitError, match="per steradian"):
        ratio(sky, "a", "b")


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="no sky store"):
        ratio(tmp_path / "nothing.zarr")
