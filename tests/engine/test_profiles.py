"""Profiles of residuals against NumPy and SciPy on whole maps."""

from __future__ import annotations

import gasskies as sky
import numpy as np
import pytest
import skymill as sm
from scipy import stats
from skymill.chunking.errors import InputError, MissingMapError


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    random = np.random.default_rng(2)
    co = np.maximum(random.normal(0, 1, sky.NPIX), 0)  # half of it is exactly zero
    maps = sky.sky_maps(dust_to_gas=0.1 * sky.patchy(2))
    maps["i857"] = maps["i857"] + 0.3 * co
    maps |= {"co": co, "cold": random.random(sky.NPIX), "flat": np.ones(sky.NPIX)}
    maps["fit_residual_i857"] = maps["i857"] - sky.OFFSETS["i857"] - sky.emissivity("i857") * maps["nhi"]
    holes = maps["cold"].copy()
    holes[:3000] = np.nan
    maps["holes"] = holes
    return sky.put_sky(tmp_path_factory.mktemp("profiles") / "sky.zarr", maps, {"co": "K km/s"})


def test_bins_hold_what_numpy_says(where):
    limits = [0.5, 0.8, 1.2, 2.0]
    found = sm.profiles(where, "fit_residual_i857", "nhi", bins={"nhi": limits}).run().isel(against=0)
    x, r = sky.get(where, "nhi"), sky.get(where, "fit_residual_i857")
    for place in range(3):
        here = (x >= limits[place]) & (x < limits[place + 1])
        assert int(found["count"][place]) == int(here.sum())
        assert float(found["mean"][place]) == pytest.approx(r[here].mean(), rel=1e-9)
        assert float(found["x"][place]) == pytest.approx(x[here].mean(), rel=1e-9)
        assert float(found["sigma"][place]) == pytest.approx(r[here].std(ddof=1), rel=1e-9)
        assert float(found["standard_error"][place]) == pytest.approx(stats.sem(r[here]), rel=1e-9)
        assert float(found["median"][place]) == pytest.approx(np.median(r[here]), rel=5e-3, abs=1e-4)
    inside = (x >= 0.5) & (x <= 2.0)
    fit = stats.linregress(x[inside], r[inside])
    assert float(found["slope"]) == pytest.approx(fit.slope, rel=1e-7)
    assert float(found["pearson"]) == pytest.approx(fit.rvalue, rel=1e-7)
    assert float(found["spearman"]) == pytest.approx(stats.spearmanr(x[inside], r[inside])[0], abs=2e-3)
    assert int(found["pixels"]) == int(inside.sum())


def test_errors_leave_out_patches(where):
    found = sm.profiles(where, "fit_residual_i857", "nhi", bins={"nhi": [0.5, 1.0, 2.0]}, jackknife=4).run()
    x, r = sky.get(where, "nhi"), sky.get(where, "fit_residual_i857")
    patch = np.arange(sky.NPIX) // (sky.NSIDE // 4) ** 2
    here = (x >= 0.5) & (x < 1.0)
    without = np.array([r[here & (patch != number)].mean() for number in range(192)])
    wanted = np.sqrt(191 / 192 * ((without - without.mean()) ** 2).sum())
    assert float(found["error"][0, 0]) == pytest.approx(wanted, rel=1e-9)


def test_without_patches_errors_are_those_of_pixels(where):
    found = sm.profiles(where, "fit_residual_i857", "nhi", jackknife=None).run()
    fit = stats.linregress(sky.get(where, "nhi"), sky.get(where, "fit_residual_i857"))
    assert float(found["slope_error"][0]) == pytest.approx(fit.stderr, rel=1e-6)


def test_bins_hold_equally_many(where):
    found = sm.profiles(where, "fit_residual_i857", ["nhi", "cold"], bins=8).run()
    count = found["count"].values
    assert count.shape == (2, 8)
    np.testing.assert_allclose(count, sky.NPIX / 8, rtol=0.05)
    assert (found["low"].values[:, 1:] == found["high"].values[:, :-1]).all()


def test_many_equal_values_make_fewer_bins(where):
    found = sm.profiles(where, "fit_residual_i857", ["co", "nhi"], bins=10).run()
    count = found["count"].sel(against="co").values
    assert np.isnan(count).any()
    assert np.nansum(count) == sky.NPIX
    assert np.isfinite(found["count"].sel(against="nhi")).all()


def test_the_line_that_is_expected(where):
    found = sm.profiles(where, "fit_residual_i857", ["co", "nhi"], expected={"co": 0.3}).run()
    co = found.sel(against="co")
    kept = np.isfinite(co["x"])
    line = co["residual_mean"] + 0.3 * (co["x"] - co["x_mean"])
    np.testing.assert_allclose(co["expected"][kept], line[kept])
    assert float(co["slope"]) == pytest.approx(0.3, abs=5 * float(co["slope_error"]))
    assert np.abs((co["mean"] - co["expected"]) / co["error"])[kept].max() < 5
    assert np.isnan(found["expected_slope"].sel(against="nhi"))


def test_residuals_from_a_fit_are_those_of_the_map(where):
    one = sm.profiles(where, "fit_residual_i857", "nhi", bins={"nhi": [0.5, 1.0, 2.0]}).run()
    other = sm.profiles(where, "i857", "nhi", fit=sky.known_fit(), bins={"nhi": [0.5, 1.0, 2.0]}).run()
    np.testing.assert_allclose(one["mean"], other["mean"], atol=1e-6)
    np.testing.assert_array_equal(one["count"], other["count"])


def test_a_map_with_holes_leaves_the_others_alone(where):
    found = sm.profiles(where, "fit_residual_i857", ["nhi", "holes"], bins=5).run()
    assert found["pixels"].values.tolist() == [sky.NPIX, sky.NPIX - 3000]


def test_rank_correlation_of_ties(where):
    found = sm.profiles(where, "fit_residual_i857", "co").run()
    wanted = stats.spearmanr(sky.get(where, "co"), sky.get(where, "fit_residual_i857"))[0]
    assert float(found["spearman"][0]) == pytest.approx(wanted, abs=5e-3)


@pytest.mark.parametrize(
    "option", [{"bins": 6}, {"jackknife": 8}, {"jackknife": None}, {"mask": "mask"}, {"region": "b > 0"}]
)
def test_every_option_changes_the_result(where, option):
    if "mask" in option and "mask" not in sm.open(where):
        sky.put_sky(where, {"mask": (sky.latitudes() > 10).astype(np.uint8)})
    one = sm.profiles(where, "fit_residual_i857", "nhi").run()
    assert not one.equals(sm.profiles(where, "fit_residual_i857", "nhi", **option).run())


def test_regions_and_threads(where):
    region = {"north": "b > 0", "south": "b < 0"}
    one, other = (
        sm.profiles(where, "fit_residual_i857", ["nhi", "co"], region=region, threads=threads).run()
        for threads in (1, 3)
    )
    assert one.identical(other)
    assert one["mean"].dims == ("region", "against", "bin")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"against": []}, InputError, "empty"),
        ({"against": ["dust"]}, MissingMapError, "dust"),
        ({"residual": "none"}, MissingMapError, "none"),
        ({"bins": 0}, InputError, "at least 1"),
        ({"bins": {"nhi": [1.0]}}, InputError, "ascending"),
        ({"bins": {"nhi": [2.0, 1.0]}}, InputError, "ascending"),
        ({"bins": {"nh": [1.0, 2.0]}}, InputError, "did you mean 'nhi'"),
        ({"expected": {"co": 1.0}}, InputError, "co"),
        ({"expected": {"nhi": float("inf")}}, InputError, "finite"),
    ],
)
def test_what_cannot_be_is_told(where, options, error, words):
    with pytest.raises(error, match=words):
        sm.profiles(where, **{"residual": "fit_residual_i857", "against": ["nhi"], **options})


def test_what_turns_out_while_running_is_told(where):
    with pytest.raises(InputError, match="constant"):
        sm.profiles(where, "fit_residual_i857", "flat").run()
    with pytest.raises(InputError, match="within the limits"):
        sm.profiles(where, "fit_residual_i857", "nhi", bins={"nhi": [-3.0, -2.0]}).run()
