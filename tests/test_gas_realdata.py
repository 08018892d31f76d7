"""Gas to dust on real maps: the steps of the example, through the verbs, against plain least squares."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import healpy as hp
import numpy as np
import pytest
import skymill as sm
from skymill.models.emission import modified_black_body

pytestmark = pytest.mark.realdata
EXAMPLE = Path(__file__).parents[1] / "examples" / "gas.toml"
BANDS = ("i353", "i545", "i857")


def filled(value: Any, names: dict[str, str]) -> Any:
    """A value of the file with its names replaced."""
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda match: names[match[1]], value)
    if isinstance(value, list):
        return [filled(each, names) for each in value]
    if isinstance(value, dict):
        return {key: filled(each, names) for key, each in value.items()}
    return value


@pytest.fixture(scope="module")
def run(real_data, tmp_path_factory):
    """What each verb of the example returned, by verb, and where it wrote."""
    out = tmp_path_factory.mktemp("gas")
    names = {"data": str(real_data / "maps_nside64"), "out": str(out)}
    found: dict[str, list[Any]] = {}
    for step in tomllib.loads(EXAMPLE.read_text())["step"]:
        values = filled(step, names)
        verb = values.pop("verb")
        found.setdefault(verb, []).append(getattr(sm, verb)(**values).run())
    return found, out


@pytest.fixture(scope="module")
def sky(real_data):
    """The same maps as healpy reads them (RING), and the pixels of both caps."""
    folder = real_data / "maps_nside64"

    def read(file, field=0):
        return hp.read_map(folder / file, field=field, dtype=np.float64)

    maps = {"nhi": read("nhi_hi4pi_ns64.fits") / 1e20, "ebv_sfd": read("ebv_sfd_ns64.fits")}
    maps["freefree"] = read("pysm_f1_freefree_30GHz_ns64.fits")
    maps |= {band: read("planck2015_mbb_ns64.fits", 1 + place) for place, band in enumerate(BANDS)}
    b = hp.pix2ang(64, np.arange(49152), lonlat=True)[1]
    caps = {"ngc": (b > 30) & (maps["nhi"] < 4), "sgc": (b < -30) & (maps["nhi"] < 4)}
    return maps, caps, b


def plainly(columns, data, used):
    matrix = np.stack([*(column[used] for column in columns), np.ones(used.sum())], 1)
    found = np.linalg.lstsq(matrix, data[used], rcond=None)[0]
    return found, data[used] - matrix @ found


def test_emissivities_are_those_known_of_these_data(run, sky):
    fit = run[0]["fit"][0]
    maps, caps, _ = sky
    north = fit["coefficient"].sel(region="ngc", template="nhi").values
    np.testing.assert_allclose(north, [0.0386, 0.136, 0.416], rtol=4e-3)  # the digits that are given
    for cap, used in caps.items():
        for band in BANDS:
            want, _ = plainly([maps["nhi"], maps["freefree"]], maps[band], used)
            np.testing.assert_allclose(fit["coefficient"].sel(region=cap, target=band), want, rtol=1e-5)
    # What is left is no noise: errors from parts of the sky are larger, and this is said.
    assert (fit["jackknife_error"] > fit["error"]).sel(template="nhi").all()
    assert "jackknife_error" in fit.attrs["statement"]


def test_masks_tell_their_area(run, sky):
    pixels = [int(used.sum()) for used in sky[1].values()]
    assert pixels == [9506, 8104]
    for told, count in zip(run[0]["mask"], [*pixels, sum(pixels)], strict=True):
        assert told.pixels == count
        assert told.f_sky == pytest.approx(count / 49152)
        assert told.area_deg2 == pytest.approx(count * hp.nside2pixarea(64, degrees=True))
        assert f"{count:,}" in str(told)


def test_residual_maps_add_up(run, sky):
    maps, caps, b = sky
    kept = sm.open(run[1] / "sky.zarr")
    residual, model, fraction = (
        hp.reorder(kept[f"fit_{kind}_i857"].values.astype("f8"), n2r=True) for kind in ("residual", "model", "fraction")
    )
    for used in caps.values():
        want, left = plainly([maps["nhi"], maps["freefree"]], maps["i857"], used)
        np.testing.assert_allclose(residual[used], left, atol=2e-5)
        np.testing.assert_allclose((residual + model)[used], maps["i857"][used], rtol=1e-5)
        np.testing.assert_allclose(fraction[used], left / (maps["i857"][used] - left - want[-1]), rtol=1e-3, atol=1e-4)
        # A fifth of the dust on scales of a degree, as is published for Planck (abstract; <~ 20 %).
        assert 0.1 < fraction[used].std() < 0.25
    assert np.isnan(residual[np.abs(b) < 29]).all()


def test_the_report_on_residuals_has_their_numbers(run, sky):
    maps, caps, _ = sky
    told = json.loads((run[1] / "residuals" / "report.json").read_text())["residuals"]["i857"]
    for cap, used in caps.items():
        _, left = plainly([maps["nhi"], maps["freefree"]], maps["i857"], used)
        assert told[cap]["sigma"] == pytest.approx(left.std(ddof=1), rel=1e-4)
        assert told[cap]["median"] == pytest.approx(np.median(left), abs=2e-3)


def test_reddening_of_hi(run, sky):
    maps, caps, b = sky
    found = run[0]["reddening"][0]
    made = hp.read_map(run[1] / "ebv.fits")
    made = np.where(made == hp.UNSEEN, np.nan, made)
    for cap, used in caps.items():
        want, left = plainly([maps["nhi"]], 0.86e3 * maps["ebv_sfd"], used)
        one = found.sel(region=cap)
        np.testing.assert_allclose(one["coefficient"], want, rtol=1e-5)
        assert float(one["scatter"]) == pytest.approx(left.std(ddof=1), rel=1e-4)
        side = b > 30 if cap == "ngc" else b < -30
        np.testing.assert_allclose(made[side], 1e-3 * (want[0] * maps["nhi"] + want[1])[side], rtol=1e-4, atol=1e-7)
        # 11.4 mmag per 1e20 cm^-2 are published for these latitudes (Lenz et al. 2017: 8.8e21 cm^-2 mag^-1).
        assert 10.5 < want[0] < 12.0
    assert np.isnan(made[np.abs(b) < 29]).all()
    query = sm.ReddeningQuery(run[1] / "sky.zarr")
    lon, lat = np.array([10.0, 120.0, 300.0]), np.array([60.0, -50.0, 0.0])
    np.testing.assert_array_equal(
        query.ebv(lon, lat).astype("f4"), made[hp.ang2pix(64, lon, lat, lonlat=True)].astype("f4")
    )


def test_the_bands_are_one_model_as_the_example_says(real_data):
    """Why ratios of residuals between bands test nothing here: three numbers a pixel give all of them."""
    file = real_data / "maps_nside64" / "planck2015_mbb_ns64.fits"
    low, kelvin, beta = (hp.read_map(file, field=field, dtype=np.float64) for field in (1, 8, 9))
    for field, ghz in ((2, 545.0), (3, 857.0)):
        ratio = modified_black_body(ghz, kelvin, beta) / modified_black_body(353.0, kelvin, beta)
        np.testing.assert_allclose(hp.read_map(file, field=field, dtype=np.float64), low * ratio, rtol=1e-6)


def test_the_folders_hold_figures(run):
    for folder in ("fit", "residuals", "reddening"):
        assert (run[1] / folder / "index.html").exists()
        assert list((run[1] / folder).glob("*.png"))
