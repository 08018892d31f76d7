"""Reddening maps held against a reference: against plain least squares, in bounded memory, the same for any threads."""

from __future__ import annotations

import json

import healpy as hp
import numpy as np
import pytest
import skymill as sm
from skies import write_map
from skymill.chunking.errors import InputError, MissingMapError, UnitError
from skymill.engine.figures_reddening import density
from skymill.engine.histograms import Histogram
from skymill.engine.reddening_report import summary
from skymill.engine.reddening_scatter import SCALE, LinearModel, Scatter

NSIDE = 32
B = hp.pix2ang(NSIDE, np.arange(12 * NSIDE**2), lonlat=True)[1]
MAG = {"quantity": "reddening", "unit": "mag"}


@pytest.fixture(scope="module")
def maps():
    """Reddening of stars and of three maps of it (RING, mag): a good one, a poor one with holes, one in mmag."""
    draw = np.random.default_rng(3)
    truth = draw.lognormal(-3.5, 0.6, B.size)
    stars = truth + 0.002 * draw.standard_normal(B.size)
    good = 1.1 * truth + 0.004 + 0.001 * draw.standard_normal(B.size)
    poor = truth + 0.005 * draw.standard_normal(B.size)
    poor[::11] = np.nan
    return {"ebv_stars": stars, "good": good, "poor": poor, "milli": 1e3 * truth}


@pytest.fixture(scope="module")
def store(maps, tmp_path_factory):
    where = str(tmp_path_factory.mktemp("compare") / "sky.zarr")
    for name, values in maps.items():
        write_map(where, NSIDE, values, name, **{**MAG, "unit": "mmag" if name == "milli" else "mag"})
    write_map(where, NSIDE, (np.arange(B.size) % 3 > 0), "mask", quantity="mask", unit="1", dtype="uint8")
    write_map(where, NSIDE, np.zeros(B.size), "flat", **MAG)
    write_map(where, NSIDE, np.zeros(B.size), "nhi", quantity="column density", unit="1e20 cm^-2")
    return where


def plainly(x, y, used, slope=None):
    """Slope, error, offset, scatter, robust scatter and median by NumPy alone."""
    x, y = (np.asarray(v, "f4").astype("f8")[used] for v in (x, y))
    error = np.nan
    if slope is None:
        matrix = np.stack([x, np.ones_like(x)], 1)
        (slope, offset), rest, *_ = np.linalg.lstsq(matrix, y, rcond=None)
        error = np.sqrt(np.linalg.inv(matrix.T @ matrix)[0, 0] * rest[0] / (x.size - 2))
    else:
        offset = np.mean(y - slope * x)
    left = y - slope * x - offset
    low, middle, high = np.quantile(left, [0.15865525393145707, 0.5, 0.8413447460685429])
    return slope, error, offset, left.std(ddof=1), (high - low) / 2, middle


KEYS = ("slope", "slope_error", "offset", "scatter", "robust_scatter", "median")


@pytest.mark.parametrize("slope", [None, 1.0, 0.9])
def test_numbers_are_those_of_plain_least_squares(store, maps, slope):
    regions = {"north": "b > 30", "south": "b < -20 and poor < 0.1"}
    found = sm.compare_reddening(
        store, "ebv_stars", ["good", "poor"], factors={"poor": 0.86, "ebv_stars": 0.9}, slope=slope, mask="mask",
        region=regions,
    ).run()  # fmt: skip
    assert found["scatter"].dims == ("region", "map")
    assert found["region"].values.tolist() == ["north", "south"]
    used = np.isfinite(maps["poor"]) & (np.arange(B.size) % 3 > 0)
    where = {"north": used & (B > 30), "south": used & (B < -20) & (maps["poor"].astype("f4") < 0.1)}
    for region, chosen in where.items():
        one = found.sel(region=region)
        assert int(one["pixels"]) == chosen.sum()
        assert float(one["f_sky"]) == pytest.approx(chosen.sum() / B.size)
        assert float(one["area"]) == pytest.approx(chosen.sum() * hp.nside2pixarea(NSIDE, degrees=True))
        for name, factor in (("good", 1.0), ("poor", 0.86)):
            # float32 of the map, then everything in float64.
            want = plainly(
                np.asarray(maps[name], "f4").astype("f8") * 1e3 * factor,
                np.asarray(maps["ebv_stars"], "f4").astype("f8") * 1e3 * 0.9, chosen, slope,
            )  # fmt: skip
            for key, number in zip(KEYS, want, strict=True):
                near = {"abs": 0.02} if key in ("robust_scatter", "median") else {"rel": 1e-4, "abs": 1e-4}
                assert float(one[key].sel(map=name)) == pytest.approx(number, nan_ok=True, **near), (region, key)


def test_the_better_map_scatters_less_in_both_caps(store):
    found = sm.compare_reddening(store, "ebv_stars", ["good", "poor", "milli"]).run()
    assert found["region"].values.tolist() == ["ngc", "sgc"]
    scatter = found["scatter"].transpose("map", "region").values
    assert (scatter[0] < scatter[1]).all()
    assert np.allclose(scatter[2], 2.0, atol=0.1)  # the noise of the stars alone
    assert np.allclose(found["slope"].sel(map="good"), 1 / 1.1, atol=0.01)
    assert np.allclose(found["slope"].sel(map="milli"), 1.0, atol=0.01)
    assert found["scatter"].attrs["units"] == "mmag"


def test_one_region_without_a_name_is_called_all(store):
    found = sm.compare_reddening(store, "ebv_stars", "good", region="b > 60").run()
    assert found["region"].values.tolist() == ["all"]
    cone = sm.compare_reddening(store, "ebv_stars", "good", region=sm.Cone(0, 90, 30)).run()
    assert abs(int(found["pixels"][0]) - int(cone["pixels"][0])) <= 8  # the same circle, its rim apart


def test_threads_change_nothing(store):
    one, four = (
        sm.compare_reddening(store, "ebv_stars", ["good", "poor"], threads=threads).run() for threads in (1, 4)
    )
    for key in one.data_vars:
        np.testing.assert_array_equal(one[key].values, four[key].values)


def test_the_folder_holds_numbers_and_figure(store, tmp_path):
    plan = sm.compare_reddening(store, "ebv_stars", ["good", "poor"], out_dir=tmp_path / "out")
    assert "good, poor in ngc, sgc" in str(plan)
    assert not (tmp_path / "out").exists()
    found = plan.run(report=tmp_path / "report.json")
    kept = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert kept["variables"]["scatter"]["values"] == found["scatter"].values.tolist()
    assert json.loads((tmp_path / "report.json").read_text())["variables"] == kept["variables"]
    assert (tmp_path / "out" / "residuals.png").stat().st_size > 5000
    assert "milli" not in summary(found)
    assert f"{float(found['scatter'][1, 0]):.4g}" in summary(found).splitlines()[3]
    page = (tmp_path / "out" / "index.html").read_text()
    assert f"{float(found['scatter'][1, 0]):.3f}" in page
    assert json.loads(found.attrs["region"]) == {"ngc": "ngc", "sgc": "sgc"}


def test_what_cannot_be_compared_is_told(store):
    with pytest.raises(MissingMapError, match="godo"):
        sm.compare_reddening(store, "ebv_stars", "godo")
    with pytest.raises(UnitError, match="1e20"):
        sm.compare_reddening(store, "ebv_stars", "nhi")
    with pytest.raises(InputError, match="empty"):
        sm.compare_reddening(store, "ebv_stars", [])
    with pytest.raises(InputError, match="twice"):
        sm.compare_reddening(store, "ebv_stars", ["good", "good"])
    with pytest.raises(InputError, match="'sfd'"):
        sm.compare_reddening(store, "ebv_stars", "good", factors={"sfd": 0.86})
    with pytest.raises(InputError, match="not 0"):
        sm.compare_reddening(store, "ebv_stars", "good", factors={"good": 0.0})
    with pytest.raises(InputError, match="slope"):
        sm.compare_reddening(store, "ebv_stars", "good", slope=np.inf)
    with pytest.raises(InputError, match="region"):
        sm.compare_reddening(store, "ebv_stars", "good", region={})
    with pytest.raises(InputError, match=r"constant|zero"):
        sm.compare_reddening(store, "ebv_stars", "flat").run()
    with pytest.raises(InputError, match="no pixel"):
        sm.compare_reddening(store, "ebv_stars", "good", region={"nowhere": "b > 30 and b < 20"}).run()
    with pytest.raises(InputError, match="nowhere"):
        sm.compare_reddening(store, "ebv_stars", "good", region={"nowhere": "b > 30 and b < 20"}).run()


def test_no_option_is_offered_that_there_is_not(tmp_path, maps):
    where = str(tmp_path / "sky.zarr")
    write_map(where, NSIDE, maps["ebv_stars"], "ebv_sfd", **MAG)
    write_map(where, NSIDE, np.full(B.size, 0.1), "same", **MAG)
    with pytest.raises(InputError, match="'same' is constant") as told:
        sm.compare_reddening(where, "ebv_sfd", "same").run(progress=False)
    assert "offset=False" not in str(told.value)
    for name, factor in (("nhi", 1.0), ("twice", 2.0)):
        column = factor * maps["good"].astype("f4")
        write_map(where, NSIDE, column, name, quantity="column density", unit="1e20 cm^-2")
    with pytest.raises(InputError, match="collinear") as told:
        sm.reddening(where, ["nhi", "twice"]).run(progress=False)
    assert "ridge" not in str(told.value)


# Parts


def test_a_model_is_what_it_says():
    values = {"a": np.array([1.0, 2.0]), "b": np.array([10.0, 20.0])}
    assert LinearModel((("a", 2.0), ("b", 0.5)), 1.0)(values).tolist() == [8.0, 15.0]
    assert LinearModel((), 3.0)(values).tolist() == [3.0, 3.0]


def test_scatters_merge():
    values = np.random.default_rng(0).normal(1.0, 4.0, 5000)
    one, two = Scatter.of(values), Scatter.of(values[:700]).merge(Scatter.of(values[700:]))
    assert one.median == two.median
    assert one.robust == two.robust == pytest.approx(4.0, rel=0.05)
    assert two.moments.sigma == pytest.approx(values.std(ddof=1), rel=1e-12)
    assert np.isnan(Scatter().median)


def test_densities_hold_every_value_once():
    values = np.random.default_rng(1).normal(0.0, 3.0, 4000)
    edges = np.linspace(-20, 20, 81)
    got = density(Histogram.of(SCALE, values), edges)
    want = np.histogram(values, edges, density=True)[0]
    assert (got * np.diff(edges)).sum() == pytest.approx(1.0)
    assert np.abs(got - want).max() < 0.01
    assert density(Histogram(SCALE), edges).tolist() == [0.0] * 80


def test_without_noise_chi2_is_of_what_scatters(tmp_path):
    """In squares of mmag of factor x target, and with noise, which is of the target as it is stored, a pure number."""
    where, draw = str(tmp_path / "sky.zarr"), np.random.default_rng(8)
    column = draw.lognormal(0.5, 0.4, B.size)
    write_map(where, NSIDE, column, "nhi", quantity="column density", unit="1e20 cm^-2")
    for name, unit, factor in (("ebv_sfd", "mag", 1e-3), ("milli", "mmag", 1.0)):
        write_map(where, NSIDE, factor * (13.0 * column + draw.normal(0.0, 2.0, B.size)), name, **{**MAG, "unit": unit})
        plain = sm.reddening(where, "nhi", name, out="plain", overwrite=True).run()
        assert plain["chi2"].attrs["units"] == "mmag^2"
        np.testing.assert_allclose(plain["chi2"], plain["scatter"] ** 2 * (plain["pixels"] - 1), rtol=1e-5)
        told = sm.reddening(where, "nhi", name, noise=2.0 * factor, out="told", overwrite=True).run()
        assert told["chi2"].attrs["units"] == "1"
        np.testing.assert_allclose(told["chi2"], plain["chi2"] / (0.86 * 2.0) ** 2, rtol=1e-5)
