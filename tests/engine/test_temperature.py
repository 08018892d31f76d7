"""Temperature maps against equation 14 in NumPy, pixel by pixel."""

from __future__ import annotations

import json

import gasskies as sky
import numpy as np
import pytest
import skymill as sm
from skymill.chunking import store as stores
from skymill.chunking.errors import IdentityError, InputError, MissingMapError, UnitError
from skymill.models import fingerprints
from skymill.models.emission import planck

KELVIN = 1.28 * sky.patchy(1)


@pytest.fixture(scope="module")
def maps():
    return sky.sky_maps(kelvin=KELVIN)


@pytest.fixture
def where(tmp_path, maps):
    return sky.put_sky(tmp_path / "sky.zarr", maps)


def oracle(maps, ghz=857.0, mean=20.0, target="i857"):
    """Equation 14, by bisection of the Planck function and nothing else."""
    observed = maps[target].astype(np.float32).astype(float) - sky.OFFSETS[target]
    modelled = sky.emissivity(target) * maps["nhi"].astype(np.float32)
    ratio = observed / modelled
    low, high = np.full(ratio.shape, 1.0), np.full(ratio.shape, 200.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = planck(ghz, middle) / planck(ghz, mean) > ratio
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return low


def test_every_pixel_has_the_temperature_that_was_put_in(where, maps):
    found = sm.temperature(where, "i857", fit=sky.known_fit()).run()
    made = sky.get(where, "temperature_i857")
    np.testing.assert_allclose(made, oracle(maps), rtol=1e-6)
    np.testing.assert_allclose(made, 20.0 + KELVIN, rtol=2e-5)
    assert float(found["sigma"][0]) == pytest.approx(KELVIN.std(ddof=1), rel=1e-4)
    assert float(found["median"]) == pytest.approx(np.median(made), abs=0.02)
    assert int(found["pixels"]) == sky.NPIX
    assert int(found["not_positive"]) == 0
    assert stores.info(where, "temperature_i857").unit == "K"


def test_numbers_are_those_of_the_map(where, maps):
    found = sm.temperature(where, fit=sky.known_fit(), conservative_temperature=25.0).run()
    warm, conservative = oracle(maps), oracle(maps, mean=25.0)
    np.testing.assert_allclose(found["sigma"], [warm.std(ddof=1), conservative.std(ddof=1)], rtol=1e-5)
    np.testing.assert_allclose(found["mean"], [warm.mean(), conservative.mean()], rtol=1e-6)
    edges = [[15.8655, 84.1345], [2.275, 97.725], [0.135, 99.865]]
    np.testing.assert_allclose(found["interval"], np.percentile(warm, edges), atol=0.03)
    assert found["mean_temperature"].values.tolist() == [20.0, 25.0]
    # To first order a fraction of 15.1 % is 1.28 K at 20 K.
    assert float(found["sigma_linear"][0]) == pytest.approx(float(found["sigma_fraction"]) * 8.4815, rel=1e-4)


def test_what_is_not_positive_has_no_temperature_and_is_counted(tmp_path, maps):
    broken = {name: values.copy() for name, values in maps.items()}
    broken["i857"][:5] = sky.OFFSETS["i857"] - 0.1
    broken["nhi"][5:7] = -0.1
    broken["i857"][100] = np.nan
    where = sky.put_sky(tmp_path / "broken.zarr", broken)
    found = sm.temperature(where, fit=sky.known_fit()).run()
    made = sky.get(where, "temperature_i857")
    assert np.isnan(made[:7]).all()
    assert np.isnan(made[100])
    assert int(found["not_positive"]) == 7
    assert int(found["pixels"]) == sky.NPIX - 1
    assert np.isfinite(made[7:100]).all()


def test_a_model_map_with_its_offset_is_the_same(where, maps):
    model = sky.emissivity("i857") * maps["nhi"].astype(np.float32) + sky.OFFSETS["i857"]
    sky.put_sky(where, {"fit_model_i857": model})
    sm.temperature(where, model="fit_model_i857", offset=sky.OFFSETS["i857"]).run()
    np.testing.assert_allclose(sky.get(where, "temperature_i857"), oracle(maps), rtol=2e-5)


def test_errors_from_noise(where, maps, tmp_path):
    sm.temperature(where, fit=sky.known_fit(), noise=0.02).run()
    made, error = sky.get(where, "temperature_i857"), sky.get(where, "temperature_error_i857")
    step = 1e-3
    slope = (np.log(planck(857.0, made + step)) - np.log(planck(857.0, made - step))) / (2 * step)
    observed = maps["i857"].astype(np.float32) - sky.OFFSETS["i857"]
    np.testing.assert_allclose(error, 0.02 / observed / slope, rtol=1e-4)
    sky.put_sky(
        where, {"sd": np.full(sky.NPIX, 20.0), "cov": np.full(sky.NPIX, 4e-4)}, {"sd": "kJy/sr", "cov": "MJy^2/sr^2"}
    )
    for name in ("sd", "cov"):
        out = tmp_path / f"{name}.zarr"
        sm.temperature(where, fit=sky.known_fit(), noise=name, out_store=out).run()
        np.testing.assert_allclose(sky.get(out, "temperature_error_i857"), error, rtol=1e-5)


def test_no_brightness_has_no_error(tmp_path, maps):
    dark = {**maps, "i857": maps["i857"].copy()}
    dark["i857"][:5] = 0.5  # to the last bit the offset
    where = sky.put_sky(tmp_path / "dark.zarr", dark)
    sm.temperature(where, fit=sky.known_fit(), offset=0.5, noise=0.02).run()
    error = sky.get(where, "temperature_error_i857")
    assert np.isnan(error[:5]).all()
    assert np.array_equal(np.isfinite(error), np.isfinite(sky.get(where, "temperature_i857")))


@pytest.mark.parametrize(
    "option",
    [{"offset": 0.0}, {"frequency": 545.0}, {"mean_temperature": 21.0}, {"region": "b > 0"}, {"mask": "mask"}],
)
def test_every_option_changes_the_map(where, option, tmp_path):
    sky.put_sky(where, {"mask": (sky.latitudes() > 10).astype(np.uint8)})
    sm.temperature(where, fit=sky.known_fit()).run()
    out = tmp_path / "other.zarr"
    sm.temperature(where, fit=sky.known_fit(), out_store=out, **option).run()
    before, after = sky.get(where, "temperature_i857"), sky.get(out, "temperature_i857")
    assert not np.array_equal(before, after, equal_nan=True)


def test_the_conservative_temperature_changes_the_second_number(where, tmp_path):
    one = sm.temperature(where, fit=sky.known_fit()).run()
    other = sm.temperature(
        where, fit=sky.known_fit(), conservative_temperature=22.0, out_store=tmp_path / "o.zarr"
    ).run()
    assert float(one["sigma"][1]) > float(other["sigma"][1]) > float(one["sigma"][0])


def test_every_region_has_its_own_coefficients(where, maps):
    fit = sky.known_fit(regions={"north": 1.0, "south": 2.0})
    region = {"north": "b > 10", "south": "b < -10"}
    found = sm.temperature(where, fit=fit, region=region).run()
    assert found["sigma"].dims == ("region", "mean_temperature")
    assert found["region"].values.tolist() == ["north", "south"]
    made, b = sky.get(where, "temperature_i857"), sky.latitudes()
    np.testing.assert_allclose(made[b > 10], oracle(maps)[b > 10], rtol=1e-6)
    assert np.isnan(made[np.abs(b) < 9]).all()
    assert int(found["pixels"].sum()) == int((np.abs(b) > 10).sum())
    south = (maps["i857"] - 2 * sky.OFFSETS["i857"]) / (2 * sky.emissivity("i857") * maps["nhi"])
    wanted = fingerprints.temperature_from_ratio(south, 857.0)
    np.testing.assert_allclose(made[b < -10], wanted[b < -10], rtol=2e-5)
    assert int(found["not_positive"][1]) == int((south[b < -10] <= 0).sum())


def test_the_same_bytes_for_any_number_of_threads(where, tmp_path):
    results = []
    for threads in (1, 3):
        out = tmp_path / f"{threads}.zarr"
        found = sm.temperature(where, fit=sky.known_fit(), out_store=out, threads=threads).run()
        results.append((sky.get(out, "temperature_i857"), found["sigma"].values, found["interval"].values))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_second_run_computes_nothing_and_says_the_same(where):
    one = sm.temperature(where, fit=sky.known_fit()).run()
    plan = sm.temperature(where, fit=sky.known_fit())
    assert not plan.todo
    assert plan.run()["sigma"].values.tolist() == one["sigma"].values.tolist()


def test_the_report_is_json(where, tmp_path):
    sm.temperature(where, fit=sky.known_fit()).run(report=tmp_path / "report.json")
    known = json.loads((tmp_path / "report.json").read_text())
    assert known["variables"]["sigma"]["dims"] == ["mean_temperature"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, InputError, "neither `fit` nor `model`"),
        ({"fit": "known", "model": "i353"}, InputError, "both `fit` and `model`"),
        ({"model": "i353"}, InputError, "without `offset`"),
        ({"fit": "no offset"}, InputError, "no offset"),
        ({"fit": "known", "target": "nhi"}, InputError, "no target 'nhi'"),
        ({"fit": "known", "target": "dust"}, InputError, "no target 'dust'"),
        ({"fit": "known", "frequency": -1.0}, InputError, "positive frequency"),
        ({"fit": "known", "frequency": 857e9}, InputError, "8.57e.11 came for 'i857'; give GHz, not Hz: 857, say"),
        ({"fit": "known", "mean_temperature": 0.0}, InputError, "mean_temperature"),
        ({"fit": "known", "conservative_temperature": -2.0}, InputError, "conservative_temperature"),
        ({"fit": "known", "noise": 0.0}, InputError, "number above 0"),
        ({"fit": "known", "noise": "nhi"}, UnitError, "noise map 'nhi'"),
        ({"fit": "known", "noise": "none"}, MissingMapError, "none"),
        ({"fit": "known", "region": {}}, InputError, "empty"),
        ({"fit": "regions"}, InputError, "north, south"),
        ({"fit": "template"}, MissingMapError, "nhii"),
        ({"fit": "nan"}, InputError, "finite coefficients"),
    ],
)
def test_what_cannot_be_is_told(where, options, error, words):
    fits = {
        "known": sky.known_fit(),
        "no offset": sky.known_fit(offset=False),
        "regions": sky.known_fit(regions={"north": 1.0, "south": 1.0}),
        "template": sky.known_fit(templates=("nhi", "nhii")),
        "nan": sky.known_fit() * np.nan,
    }
    options = {**options, **({"fit": fits[options["fit"]]} if "fit" in options else {})}
    with pytest.raises(error, match=words):
        sm.temperature(where, **options)


def test_another_region_is_told_in_the_words_that_it_was_given_in(where):
    fit = sky.known_fit()
    sm.temperature(where, fit=fit, region=["b > 0 and not nhi > 4", sm.Cone(10.0, 60.0, 30.0)]).run()
    with pytest.raises(IdentityError) as told:
        sm.temperature(where, fit=fit, region=["b > 0 and not nhi > 5", sm.Cone(10.0, 60.0, 30.0)])
    assert '"where": ["b > 0", "not' in str(told.value)  # long facts are told from their beginning
    with pytest.raises(IdentityError):
        sm.temperature(where, fit=fit, region=["b > 0 and not nhi > 4", sm.Cone(10.0, 61.0, 30.0)])


def test_a_frequency_that_is_not_known_is_asked_for(where, maps):
    sky.put_sky(where, {"dust": maps["i857"], "gas": maps["i353"]})
    with pytest.raises(InputError, match="frequency of map 'dust' is not known"):
        sm.temperature(where, "dust", model="gas", offset=0.0)
    sm.temperature(where, "dust", model="gas", offset=0.0, frequency=857.0)


def test_nothing_left_is_told(where):
    with pytest.raises(InputError, match="0 pixels"):
        sm.temperature(where, fit=sky.known_fit(), region="b > 89.9 and b < 89.91").run()


def test_a_fit_in_other_units_is_refused(where):
    fit = sky.known_fit()
    size = fit["coefficient"].shape
    same = fit.assign_coords(unit=(("target", "template"), np.full(size, "MJy/sr / (1e20 cm-2)", dtype="<U30")))
    same["unit"].loc[{"template": "offset"}] = "MJy sr-1"
    own = stores.info(where, "nhi").unit
    assert own == "1e20 cm^-2"
    sm.temperature(where, "i857", fit=same)
    other = same.copy(deep=True)
    other["unit"].loc[{"template": "nhi"}] = "MJy/sr / (cm^-2)"
    with pytest.raises(UnitError, match="ask for"):
        sm.temperature(where, "i857", fit=other)
