"""Template fits over a store against dense least squares on whole arrays; errors, regions, maps, what is refused."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import skymill as sm
from skies import content
from skymill.chunking import store as stores
from skymill.chunking.errors import IdentityError, InputError, MissingMapError, UnitError
from skymill.chunking.schema import MapInfo
from skymill.engine import fit as fit_module
from skymill.engine.fit_files import read_fit
from skymill.engine.ledger import column
from skymill.models.gls import accumulate

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


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    maps = sky_maps()
    return write_store(tmp_path_factory.mktemp("fit") / "sky.zarr", maps), maps


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


def assert_equal(found, target, expected):
    own = found.sel(target=target)
    np.testing.assert_allclose(own["coefficient"], expected[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(own["covariance"], expected[1], rtol=1e-8, atol=1e-16)
    np.testing.assert_allclose(own["error"], np.sqrt(np.diag(expected[1])), rtol=1e-8)
    np.testing.assert_allclose(own["chi2"], expected[2], rtol=1e-9)


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("mask", [None, "mask", "weight_w"])
def test_fits_equal_dense_least_squares(sky, mask, offset):
    where, maps = sky
    found = run(where, mask=mask, offset=offset, jackknife=2)
    used = finite(maps) & (True if mask is None else maps[mask] > 0)
    for target in TARGETS:
        assert_equal(found, target, dense(maps, used, target, offset=offset))
    assert found["template"].values.tolist() == TEMPLATES + ["offset"] * offset
    assert found["pixels"].values.tolist() == [used.sum()] * 2
    assert found["dof"].values.tolist() == [used.sum() - 3 - offset] * 2
    np.testing.assert_allclose(found["f_sky"], used.mean(), rtol=1e-12)
    np.testing.assert_allclose(found["area"], used.mean() * 41252.96, rtol=1e-6)
    assert found["unit"].values[0].tolist()[:3] == ["MJy/sr / (1e20 cm^-2)"] * 3
    assert found["unit"].values[0, -1] == ("MJy/sr" if offset else "MJy/sr / (1e20 cm^-2)")


@pytest.mark.parametrize(
    ("noise", "sigmas"),
    [
        ("sigma", ["sigma", "sigma"]),
        ("variance", ["sigma", "sigma"]),
        ("sigma_kjy", ["sigma", "sigma"]),
        (0.2, [0.2, 0.2]),
        ({"i857": "sigma", "i353": 0.01}, ["sigma", 0.01]),
        ({"i857": 0.1, "i353": None}, [0.1, None]),
        ({"i857": None, "i353": "variance"}, [None, "sigma"]),
        ({"i857": 0.1, "i353": 0.01}, [0.1, 0.01]),
    ],
)
def test_noise_as_number_map_variance_and_by_target(sky, noise, sigmas):
    where, maps = sky
    found = run(where, noise=noise, jackknife=None)
    for target, sigma in zip(TARGETS, sigmas, strict=True):
        own = maps[sigma] if isinstance(sigma, str) else sigma if sigma is None else np.full(maps["nhi"].size, sigma)
        theta, covariance, chi2 = dense(maps, finite(maps), target, own)
        tolerance = 1e-6  # sigma, its square and its thousandfold are rounded to float32 each
        np.testing.assert_allclose(found["coefficient"].sel(target=target), theta, rtol=tolerance, atol=1e-8)
        np.testing.assert_allclose(found["covariance"].sel(target=target), covariance, rtol=2e-6, atol=1e-14)
        np.testing.assert_allclose(found["chi2"].sel(target=target), chi2, rtol=tolerance)


def test_regions_of_one_pass_are_the_fits_of_each(sky):
    where, maps = sky
    regions = {"north": "b > 20", "south": "b < -20", "few": ["b > 20", "nhi < 3"], "cone": sm.Cone(30.0, 60.0, 40.0)}
    found = run(where, region=regions, mask="mask", noise="sigma", jackknife=2)
    assert found["coefficient"].dims == ("region", "target", "template")
    assert found["region"].values.tolist() == list(regions)
    for name, said in regions.items():
        alone = run(where, region=said, mask="mask", noise="sigma", jackknife=2)
        assert "region" not in alone.dims
        for field in ("coefficient", "covariance", "jackknife_error", "chi2", "pixels", "f_sky", "super_pixels"):
            np.testing.assert_allclose(found[field].sel(region=name), alone[field], rtol=1e-9, atol=1e-15)
    grid = stores.tiling_of(where)
    lat = grid.lonlat(np.arange(grid.npix))[1]
    used = finite(maps) & (maps["mask"] == 1) & (lat > 20) & (maps["nhi"] < 3)
    assert_equal(found.sel(region="few"), "i857", dense(maps, used, "i857", maps["sigma"]))
    overlapping = run(where, region={"all": None, "north": "b > 20"}, jackknife=None)
    assert int(overlapping["pixels"].values[0, 0]) == finite(maps).sum()


def test_the_pixels_of_all_targets_are_the_same(sky):
    where, maps = sky
    both, one = run(where, jackknife=None), run(where, target="i857", jackknife=None)
    assert both["pixels"].values.tolist() == [finite(maps).sum()] * 2
    assert one["pixels"].values.tolist() == [finite(maps, [*TEMPLATES, "i857"]).sum()]


def test_the_result_is_the_same_to_the_last_bit_for_any_workers(sky):
    where, _ = sky
    options = {"noise": "sigma", "mask": "mask", "region": {"n": "ngc", "s": "sgc"}, "jackknife": 4}
    found = [run(where, threads=threads, **options) for threads in (1, 2, 3)]
    with sm.connect(workers=2, threads=1, memory="1GB") as client:
        found.append(sm.fit(where, TEMPLATES, TARGETS, **options).run(client, progress=False))
    for other in found[1:]:
        assert other.identical(found[0])


@pytest.fixture(scope="module")
def tilings(sky, tmp_path_factory):
    """The same maps in smaller tiles."""
    folder = tmp_path_factory.mktemp("tilings")
    maps = {name: sky[1][name] for name in (*TEMPLATES, *TARGETS, "sigma", "mask")}
    return [write_store(folder / f"{tile_nside}.zarr", maps, tile_nside) for tile_nside in (2, 4)]


@pytest.mark.parametrize("jackknife", [None, 1, 2, 8])
def test_tiles_change_nothing_but_rounding(sky, tilings, jackknife):
    """Super-pixels that are larger than tiles, and smaller."""
    found = run(sky[0], noise="sigma", mask="mask", jackknife=jackknife)
    for where in tilings:
        other = run(where, noise="sigma", mask="mask", jackknife=jackknife)
        for name in found.data_vars:
            np.testing.assert_allclose(other[name], found[name], rtol=1e-10, atol=1e-16)


def test_jackknife_leaves_out_super_pixels(sky):
    where, maps = sky
    found = run(where, noise="sigma", jackknife=2, region="b > 0")
    grid = stores.tiling_of(where)
    used = finite(maps) & (grid.lonlat(np.arange(grid.npix))[1] > 0)
    parent = np.arange(grid.npix) // 64
    parts = np.unique(parent[used])
    left_out = [dense(maps, used & (parent != part), "i857", maps["sigma"])[0] for part in parts]
    expected = np.sqrt((parts.size - 1) * np.var(left_out, axis=0))
    np.testing.assert_allclose(found["jackknife_error"].sel(target="i857"), expected, rtol=1e-6)
    assert found["super_pixels"].values.tolist() == [parts.size] * 2
    assert "jackknife_error" not in run(where, jackknife=None)
    assert run(where, jackknife=64)["super_pixels"].values[0] == finite(maps).sum()  # pixels themselves


def test_errors_that_are_too_small_are_stated(tmp_path, caplog):
    maps = sky_maps()
    clumps = np.repeat(np.random.default_rng(3).normal(0, 0.2, 48), 64)
    maps["i857"] = (maps["i857"] + clumps * maps["nhi"]).astype(np.float32)
    where = write_store(tmp_path / "sky.zarr", maps)
    with caplog.at_level(logging.WARNING):
        found = run(where, target=TARGETS, jackknife=2)
    said = found.attrs["statement"]
    assert "The formal errors of i857 are too small" in said
    assert "times as large for nhi" in said
    assert "Use `jackknife_error`" in said
    assert "i353" not in said
    assert "formal errors of i857" in caplog.text
    assert float(found["jackknife_error"][0, 0] / found["error"][0, 0]) > 3
    noisy = run(where, target="i857", noise=0.01, jackknife=None)
    assert "chi^2 / dof is" in noisy.attrs["statement"]
    few = run(where, target="i353", region="l < 90 and b > 60", jackknife=1)
    assert "super-pixels of nside 1 hold pixels" in few.attrs["statement"]


def test_degenerate_templates_are_named(tmp_path):
    maps = sky_maps()
    maps["nhii"] = (0.5 * maps["nhi"] + 0.02 * maps["nh2"] ** 2).astype(np.float32)
    found = run(write_store(tmp_path / "sky.zarr", maps), jackknife=None)
    assert float(found["condition"][0]) > 100
    known = json.loads(found.attrs["degeneracies"])
    assert {"target", "templates", "correlation", "text"} <= set(known[0])
    assert known[0]["templates"] == ["nhi", "nhii"]
    assert "nhi trades against nhii (correlation -1.00)" in found.attrs["statement"]


def test_pulls_of_many_simulations():
    """Sixty bands of one fit are sixty simulations; the full table, through stores, is in tests/science."""
    maps = sky_maps()
    design = np.nan_to_num(np.array([maps[name].astype(float) for name in TEMPLATES]))
    truth, rng = np.array([0.4, 0.2, 0.0, 3.0]), np.random.default_rng(11)
    sigma = maps["sigma"].astype(float)
    sims = truth @ np.vstack([design, np.ones(sigma.size)]) + sigma * rng.normal(size=(60, sigma.size))
    found = accumulate(design, sims, sigma**-2).solve(variance=np.ones(60))
    pulls = (found.coefficient - truth) / found.error
    assert np.all(np.abs(pulls.mean(0)) < 3.5 / np.sqrt(60))
    assert np.all(np.abs(pulls.std(0) - 1) < 3.5 / np.sqrt(120))
    assert abs((found.chi2 / found.dof).mean() - 1) < 0.02


def test_super_pixels_have_coefficients_of_their_own(sky):
    where, maps = sky
    found = run(where, superpixels=2, mask="mask", noise="sigma")
    assert found["coefficient"].dims == ("superpixel", "target", "template")
    assert "jackknife_error" not in found
    used, parent = finite(maps) & (maps["mask"] == 1), np.arange(12 * NSIDE**2) // 64
    for number in (0, 17, 47):
        expected = dense(maps, used & (parent == number), "i857", maps["sigma"])
        assert_equal(found.sel(superpixel=number), "i857", expected)
    assert int(found["pixels"].sel(target="i857").sum()) == used.sum()


def test_super_pixels_with_too_few_pixels_have_none(sky):
    where, _ = sky
    found = run(where, superpixels=8, region={"north": "b > 30", "south": "b < -30"})
    pixels = found["pixels"].sel(target="i857").values
    solved = np.isfinite(found["coefficient"].sel(target="i857")).all("template").values
    assert (pixels[solved] > 4).all()
    assert not solved[pixels <= 4].any()
    assert found["superpixel"].size < 12 * 8**2
    assert found["coefficient"].dims == ("region", "superpixel", "target", "template")


def test_a_ridge_pulls_super_pixels_to_the_common_solution(sky):
    where, maps = sky
    common = run(where, jackknife=None)["coefficient"]
    free = run(where, superpixels=2)["coefficient"]
    spread = []
    for ridge in (0.0, 0.5, 1e6):
        pulled = run(where, superpixels=2, ridge=ridge)["coefficient"]
        spread.append(float(np.abs(pulled - common)[:, 0, :3].max()))
    np.testing.assert_allclose(spread[0], float(np.abs(free - common)[:, 0, :3].max()))
    assert spread[0] > spread[1] > 100 * spread[2]
    used, parent = finite(maps), np.arange(12 * NSIDE**2) // 64
    design = np.array([maps[name].astype(float) for name in TEMPLATES])
    diagonal = ((design[:, used] - design[:, used].mean(1)[:, None]) ** 2).sum(1)
    own = used & (parent == 5)
    central = design[:, own] - design[:, own].mean(1)[:, None]
    pull = 0.5 * np.diag(diagonal) * own.sum() / used.sum()
    right = central @ (maps["i857"][own] - maps["i857"][own].mean()) + pull @ common.sel(target="i857").values[:3]
    expected = np.linalg.solve(central @ central.T + pull, right)
    found = run(where, superpixels=2, ridge=0.5)["coefficient"].sel(superpixel=5, target="i857")
    np.testing.assert_allclose(found[:3], expected, rtol=1e-6)


def test_a_ridge_lets_collinear_templates_be_fitted(tmp_path):
    maps = sky_maps()
    maps["nhii"] = 2 * maps["nhi"]
    where = write_store(tmp_path / "sky.zarr", maps)
    with pytest.raises(InputError, match="'nhi', 'nhii' are collinear"):
        run(where)
    found = run(where, ridge=1e-6)
    np.testing.assert_allclose(
        found["coefficient"][0, 0] + 2 * found["coefficient"][0, 1], 0.44, rtol=0.05
    )  # 0.4 + 0.2 x 0.2, as they were


def read(where, name):
    return sm.open(where)[name].values


def test_maps_hold_model_residual_and_fraction(sky, tmp_path):
    where, maps = sky
    out = tmp_path / "out.zarr"
    found = run(where, mask="mask", maps=True, out_store=out, jackknife=None)
    columns = np.vstack([*(maps[name] for name in TEMPLATES), np.ones(12 * NSIDE**2)]).astype(float)
    for target in TARGETS:
        theta = found["coefficient"].sel(target=target).values
        model = theta @ columns
        np.testing.assert_allclose(read(out, f"fit_model_{target}"), model, rtol=1e-6)
        left = maps[target] - model
        np.testing.assert_allclose(read(out, f"fit_residual_{target}"), left, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            read(out, f"fit_fraction_{target}"), left / (model - theta[-1]), rtol=1e-5, atol=1e-6
        )
    assert np.isfinite(model[maps["mask"] == 0]).any()  # outside the mask too
    info = stores.info(out, "fit_fraction_i857")
    assert (info.unit, stores.info(out, "fit_residual_i857").unit) == ("1", "MJy/sr")
    known = info.provenance["coefficients"]["i857"]
    assert known == dict(zip(found["template"].values, found["coefficient"].values[0], strict=True))
    assert info.provenance["verb"] == "fit"
    assert "fit_model_i857" not in stores.infos(where)


def test_chosen_maps_in_the_store_itself(tmp_path):
    where = write_store(tmp_path / "sky.zarr", sky_maps())
    run(where, target="i857", maps=["residual"])
    assert [name for name in stores.infos(where) if name.startswith("fit_")] == ["fit_residual_i857"]


def test_each_region_gives_its_coefficients(sky, tmp_path):
    where, maps = sky
    out = tmp_path / "out.zarr"
    regions = {"north": "b > 30", "all north": "b > 0", "south": "b < -30"}
    found = run(where, target="i857", region=regions, maps=["model"], out_store=out, mask="mask")
    grid = stores.tiling_of(where)
    lat = grid.lonlat(np.arange(grid.npix))[1]
    columns = np.vstack([*(maps[name] for name in TEMPLATES), np.ones(12 * NSIDE**2)]).astype(float)
    rows = found["coefficient"].sel(target="i857").values @ columns
    expected = np.where(lat > 30, rows[0], np.where(lat > 0, rows[1], np.where(lat < -30, rows[2], np.nan)))
    np.testing.assert_allclose(read(out, "fit_model_i857"), expected, rtol=1e-6)


def test_each_super_pixel_gives_its_coefficients(sky, tmp_path):
    where, maps = sky
    out = tmp_path / "out.zarr"
    found = run(where, target="i857", region="b > 0", superpixels=2, maps=["model"], out_store=out)
    columns = np.vstack([*(maps[name] for name in TEMPLATES), np.ones(12 * NSIDE**2)]).astype(float)
    parent = np.arange(12 * NSIDE**2) // 64
    table = np.full((48, 4), np.nan)
    table[found["superpixel"].values] = found["coefficient"].sel(target="i857").values
    np.testing.assert_allclose(read(out, "fit_model_i857"), (table[parent].T * columns).sum(0), rtol=1e-6)
    assert not list((out / "ledger" / "fit").glob("*"))  # what tasks were handed is gone


def test_maps_resume_and_are_the_same_bytes(tmp_path, monkeypatch):
    maps = sky_maps()
    where = write_store(tmp_path / "sky.zarr", maps)
    whole = tmp_path / "whole.zarr"
    run(where, maps=True, out_store=whole)
    names = [name for name in stores.infos(whole) if name.startswith("fit_")]
    assert len(names) == 6
    from skymill.engine.fit_maps import FitMapsKernel

    right = FitMapsKernel.__call__

    def failing(self, tile, inputs):
        if tile >= 7:
            raise OSError(28, "No space left on device")
        return right(self, tile, inputs)

    monkeypatch.setattr(FitMapsKernel, "__call__", failing)
    part = tmp_path / "part.zarr"
    with pytest.raises(sm.errors.DiskFullError):
        run(where, maps=True, out_store=part, threads=1)
    done = int(np.count_nonzero(column(str(part), names[0])))
    assert 0 < done < 12
    plan = sm.fit(where, TEMPLATES, TARGETS, maps=True, out_store=part)
    assert f"{12 - done} tiles to do" in str(plan)
    monkeypatch.setattr(FitMapsKernel, "__call__", right)
    plan.run(progress=False)
    assert content(part, *names) == content(whole, *names)


def test_maps_of_another_fit_are_not_overwritten(tmp_path):
    where = write_store(tmp_path / "sky.zarr", sky_maps())
    run(where, maps=["model"], target="i857")
    with pytest.raises(IdentityError, match="fit_model_i857"):
        sm.fit(where, TEMPLATES[:2], "i857", maps=["model"])
    first = read(where, "fit_model_i857")
    run(where, TEMPLATES[:1], maps=["model"], target="i857", overwrite=True)
    assert not np.array_equal(read(where, "fit_model_i857"), first, equal_nan=True)


def test_a_plan_writes_nothing_and_says_what_it_will_do(sky, tmp_path):
    where, _ = sky
    plan = sm.fit(where, TEMPLATES, TARGETS, maps=True, out_dir=tmp_path / "out", out_store=tmp_path / "out.zarr")
    text = str(plan)
    assert "3 templates to 2 targets in 1 regions" in text
    assert "12 to do" in text
    assert "model, residual, fraction" in text
    assert list(tmp_path.iterdir()) == []


def test_the_folder_holds_the_result_and_is_read_back(sky, tmp_path, monkeypatch):
    where, _ = sky
    options = {"noise": "sigma", "mask": "mask", "region": {"ngc": "ngc", "sgc": "sgc"}, "jackknife": 4}
    found = run(where, out_dir=tmp_path / "out", **options)
    for path in (tmp_path / "out", tmp_path / "out" / "fit.zarr"):
        assert read_fit(path).identical(found)
    known = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert known["regions"][1]["region"] == "sgc"
    row = known["regions"][1]["targets"][0]
    assert row["coefficient"]["nhi"] == float(found["coefficient"].sel(region="sgc", target="i857", template="nhi"))
    assert row["unit"]["offset"] == "MJy/sr"
    page = (tmp_path / "out" / "index.html").read_text()
    for name in ("coefficients.png", "correlation_ngc.png", "correlation_sgc.png"):
        assert (tmp_path / "out" / name).stat().st_size > 5000
        assert name in page
    assert "jackknife error" in page
    monkeypatch.setattr(fit_module, "_fitted", None)  # nothing is computed again
    assert run(where, out_dir=tmp_path / "out", **options).identical(found)
    with pytest.raises(IdentityError, match="jackknife"):
        sm.fit(where, TEMPLATES, TARGETS, out_dir=tmp_path / "out", **{**options, "jackknife": 2})
    monkeypatch.undo()
    other = run(where, out_dir=tmp_path / "out", overwrite=True, **{**options, "jackknife": 2})
    assert read_fit(tmp_path / "out").identical(other)
    with pytest.raises(sm.errors.FormatError, match="cannot be read as a fit"):
        read_fit(tmp_path)


def test_pages_of_super_pixels_and_statements(tmp_path):
    maps = sky_maps()
    maps["i857"] = (maps["i857"] * np.repeat(np.random.default_rng(3).normal(1, 0.2, 48), 64)).astype(np.float32)
    where = write_store(tmp_path / "sky.zarr", maps)
    run(where, jackknife=2, out_dir=tmp_path / "a")
    assert "formal errors of i857 are too small" in (tmp_path / "a" / "index.html").read_text()
    found = run(where, superpixels=2, out_dir=tmp_path / "b", maps=["model"], out_store=tmp_path / "o.zarr")
    assert read_fit(tmp_path / "b").identical(found)
    page = (tmp_path / "b" / "index.html").read_text()
    assert "48 super-pixels of nside 2" in page
    assert "fit_model_i857" in page


def test_the_report_of_a_run_is_the_result(sky, tmp_path):
    where, _ = sky
    found = sm.fit(where, TEMPLATES, "i857").run(progress=False, report=tmp_path / "report.json")
    known = json.loads((tmp_path / "report.json").read_text())
    assert known["regions"][0]["targets"][0]["chi2"] == float(found["chi2"][0])


def altered(tmp_path, **changes):
    maps = sky_maps()
    for name, change in changes.items():
        maps[name] = change(maps[name]).astype(np.float32)
    return write_store(tmp_path / "sky.zarr", maps)


def hole(values, number):
    values = values.copy()
    values[100:103] = number
    return values


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"nh2": lambda v: 0 * v}, {}, "template 'nh2' is zero in all pixels"),
        ({"nh2": lambda v: 0 * v + 2}, {}, "template 'nh2' is constant"),
        ({"nh2": lambda v: np.nan * v}, {}, "map 'nh2' has no value"),
        ({"nh2": lambda v: np.where(np.arange(v.size) < 5, v, np.nan)}, {"mask": "mask"}, "pixels are left for 4"),
        ({}, {"region": "b > 95"}, "mask and region leave no pixel"),
        ({}, {"region": {"a": "b > 0", "b": "b > 95"}}, "leave no pixel of region 'b'"),
        ({"nh2": lambda v: 0 * v}, {"region": {"a": "b > 0"}}, "region 'a': template 'nh2' is zero"),
        ({"nh2": lambda v: np.where(np.arange(v.size) % 2, v, np.nan),
          "nhii": lambda v: np.where(np.arange(v.size) % 2, np.nan, v)}, {}, "there is none where all maps"),
        ({"sigma": lambda v: hole(v, 0)}, {"noise": "sigma"}, r"noise map 'sigma' is zero, negative"),
        ({"sigma": lambda v: hole(v, -0.1)}, {"noise": "sigma"}, r"in 3 pixels .* region=\"sigma > 0\""),
        ({"sigma": lambda v: hole(v, np.nan)}, {"noise": "sigma"}, "in 3 pixels"),
        ({"variance": lambda v: hole(v, -1)}, {"noise": {"i857": "variance", "i353": None}}, "noise map 'variance'"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_told(tmp_path, changes, options, words):
    where = altered(tmp_path, **changes)
    with pytest.raises(InputError, match=words):
        run(where, **options)


def test_pixels_with_bad_noise_can_be_left_out(tmp_path):
    where = altered(tmp_path, sigma=lambda v: hole(v, 0))
    found = run(where, noise="sigma", region="sigma > 0")
    assert np.isfinite(found["coefficient"]).all()
    holes = altered(tmp_path / "b", sigma=lambda v: hole(v, 0), nhi=lambda v: hole(v, np.nan))
    assert np.isfinite(run(holes, noise="sigma")["coefficient"]).all()  # nobody uses these pixels


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"templates": ["nhi", "nh"]}, MissingMapError, "'nh'"),
        ({"templates": ["nhi", "nhi"]}, InputError, "more than once"),
        ({"templates": []}, None, ""),
        ({"templates": [], "offset": False}, InputError, "at least one"),
        ({"target": []}, InputError, "at least one"),
        ({"templates": ["nhi", "i857"]}, InputError, "as template and as target"),
        ({"noise": "nhi"}, UnitError, "noise map 'nhi' is in '1e20 cm\\^-2'"),
        ({"noise": -1.0}, InputError, "number above 0"),
        ({"noise": float("nan")}, InputError, "noise"),
        ({"noise": {"i857": 1.0}}, InputError, "`noise` has none of 'i353'"),
        ({"noise": {"i857": 1.0, "i35": 1.0}}, InputError, "did you mean 'i353'"),
        ({"noise": 1.0, "target": ["i857", "ebv"]}, UnitError, "give a mapping"),
        ({"mask": "musk"}, MissingMapError, "musk"),
        ({"region": {}}, InputError, "empty mapping"),
        ({"region": "b >"}, InputError, "b >"),
        ({"ridge": -1.0}, InputError, "`ridge`"),
        ({"jackknife": 3}, InputError, "power of two"),
        ({"superpixels": 3}, InputError, "power of two"),
        ({"superpixels": 32}, InputError, "give at most that"),
        ({"maps": ["modell"]}, InputError, "did you mean 'model'"),
        ({"out_store": "x.zarr"}, InputError, "without `maps`"),
        ({"lmax": 3}, InputError, "without `noise_spectrum`"),
        ({"noise_spectrum": [1.0] * 5}, InputError, "white part of the noise"),
        ({"noise_spectrum": [1.0] * 5, "noise": 0.1, "superpixels": 2}, InputError, "superpixels"),
    ],
)
def test_bad_arguments(sky, options, error, words):
    given = {"templates": TEMPLATES, "target": TARGETS, **options}
    if error is None:
        sm.fit(sky[0], **given)
        return
    with pytest.raises(error, match=words):
        sm.fit(sky[0], **given)


def test_a_template_called_offset_is_refused(tmp_path):
    maps = {**sky_maps(), "offset": sky_maps()["nh2"]}
    where = write_store(tmp_path / "sky.zarr", maps)
    with pytest.raises(InputError, match="another name"):
        sm.fit(where, ["offset"], "i857")
    assert run(where, ["offset"], "i857", offset=False)["template"].values.tolist() == ["offset"]
