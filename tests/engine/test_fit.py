"""Template fits over a store against dense least squares on whole arrays: noise, regions, errors, super-pixels."""

from __future__ import annotations

import inspect
import json
import logging
import tracemalloc

import numpy as np
import pytest
import skymill as sm
from skies import write_map
from skymill.chunking import store as stores
from skymill.chunking.errors import IdentityError, InputError
from skymill.engine import fit_result
from skymill.engine.fit_files import read_fit
from skymill.engine.fit_request import request_of
from skymill.engine.fit_result import RegionFit, assemble
from skymill.models.gls import accumulate
from template_skies import NSIDE, TARGETS, TEMPLATES, dense, finite, run, sky_maps, write_store


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    maps = sky_maps()
    return write_store(tmp_path_factory.mktemp("fit") / "sky.zarr", maps), maps


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


@pytest.mark.parametrize("nside", [2, 8])
def test_super_pixels_of_the_jackknife_are_15_degrees_wide_or_as_the_store_has_them(tmp_path, nside):
    rng, where = np.random.default_rng(1), tmp_path / "sky.zarr"
    for name in ("a", "b"):
        write_map(where, nside, rng.normal(size=12 * nside**2), name)
    found = sm.fit(where, "a", "b").run(progress=False)
    assert found.attrs["jackknife"] == min(4, nside)
    assert found["super_pixels"].values.tolist() == [12 * min(4, nside) ** 2]
    verbs = (sm.simplify, sm.reddening, sm.slopes, sm.profiles, sm.polarization, sm.diagnose)
    assert {inspect.signature(verb).parameters["jackknife"].default for verb in verbs} == {4}


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
    assert "residuals are alike in neighbours, or larger where templates are" in said
    assert "i353" not in said
    assert "formal errors of i857" in caplog.text
    assert float(found["jackknife_error"][0, 0] / found["error"][0, 0]) > 3
    noisy = run(where, target="i857", noise=0.01, jackknife=None)
    assert "chi^2 / dof is" in noisy.attrs["statement"]
    few = run(where, target="i353", region="l < 90 and b > 60", jackknife=1)
    assert "super-pixels of nside 1 hold pixels" in few.attrs["statement"]


@pytest.mark.parametrize(("parts", "limit"), [(12, 2.706), (48, 1.825), (192, 1.409), (3072, 1.2)])
def test_formal_errors_are_called_too_small_beyond_the_scatter_of_the_others(sky, parts, limit):
    request = request_of(sky[0], TEMPLATES, TARGETS, noise=None, mask=None, region=None, offset=True, jackknife=4,
                         superpixels=None, ridge=0.0, maps=False)  # fmt: skip
    error, matrix = np.ones((2, 4)), np.array([np.eye(4)] * 2)
    for ratio, said in ((limit - 0.005, False), (limit + 0.005, True)):
        scatter = np.ones((2, 4))
        scatter[1, 0] = ratio
        fit = RegionFit(
            error, error, scatter, error, matrix, matrix, np.ones(2), np.ones(2), 9, 13, parts, ([], []), {}
        )
        statement = assemble(request, [fit]).attrs["statement"]
        assert ("formal errors of i353 are too small" in statement) == said
        assert "i857" not in statement
        digits = 1 if ratio >= 1.95 else 2
        assert (f"{ratio:.{digits}f} times as large for nhi" in statement) == said


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


def test_the_coefficients_of_super_pixels_are_in_the_plan(sky, monkeypatch):
    held, inner = [], fit_result.super_pixel_fits

    def measured(*given):
        tracemalloc.start()
        found = inner(*given)
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        return found

    monkeypatch.setattr(fit_result, "super_pixel_fits", measured)
    plan, without = (sm.fit(sky[0], TEMPLATES, TARGETS, **own) for own in ({"superpixels": 4}, {"jackknife": 4}))
    found = plan.run(progress=False)
    assert held[0] + found.nbytes < plan.reserved - without.reserved < 4 * (held[0] + found.nbytes)


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


@pytest.mark.parametrize("level", [0.0, 2.0])
def test_a_template_that_says_nothing_in_a_super_pixel_is_held_by_the_ridge(tmp_path, level):
    maps = sky_maps()
    maps["nh2"][:64] = level
    where = write_store(tmp_path / "sky.zarr", maps)
    assert np.isnan(run(where, superpixels=2)["coefficient"].sel(superpixel=0)).all()
    found = run(where, superpixels=2, ridge=0.5, noise="sigma").sel(superpixel=0, target="i857")
    weighted = run(where, noise="sigma", jackknife=None)["coefficient"].sel(target="i857").values
    np.testing.assert_allclose(found["coefficient"].sel(template="nh2"), weighted[2], rtol=1e-12)
    assert float(found["error"].sel(template="nh2")) == 0
    assert np.isinf(found["condition"])
    # The others are pulled as if the template was none of theirs.
    used, weight = finite(maps), 1 / maps["sigma"].astype(float) ** 2
    design = np.array([maps[name].astype(float) for name in TEMPLATES[:2]])

    def central(values, inside):
        return values[..., inside] - (values[..., inside] @ weight[inside])[..., None] / weight[inside].sum()

    own = used & (np.arange(12 * NSIDE**2) < 64)
    diagonal = (weight[used] * central(design, used) ** 2).sum(1)
    pull = 0.5 * np.diag(diagonal) * own.sum() / used.sum()
    columns = central(design, own) * weight[own]
    data = maps["i857"].astype(float) - weighted[2] * level
    right = columns @ central(data, own) + pull @ weighted[:2]
    expected = np.linalg.solve(columns @ central(design, own).T + pull, right)
    np.testing.assert_allclose(found["coefficient"][:2], expected, rtol=1e-6)
    offset = (weight[own] @ (data[own] - expected @ design[:, own])) / weight[own].sum()
    np.testing.assert_allclose(found["coefficient"][3], offset, rtol=1e-6)


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


def test_correlated_noise_of_no_power_is_none(sky):
    where, _ = sky
    options = {"noise": {"i857": "sigma", "i353": 0.01}, "mask": "mask", "region": {"n": "b > 20", "s": "b < 0"}}
    plain, found = (run(where, noise_spectrum=each, jackknife=None, **options) for each in (None, [0.0] * 9))
    assert set(found.data_vars) == set(plain.data_vars)
    for name in found.data_vars:
        np.testing.assert_allclose(found[name], plain[name], rtol=1e-6, atol=1e-12)
    assert json.loads(found.attrs["correlated_noise"])["n"]["lmax"] == 8


def test_a_region_without_pixels_is_named(sky):
    region = {"all": None, "none": "b > 40 and b < 30"}
    for more in ({}, {"noise": 0.1, "noise_spectrum": [0.0, 0.0, 1e-2]}):
        with pytest.raises(InputError, match="none"):
            run(sky[0], target="i857", region=region, **more)


def test_correlated_noise_enlarges_errors(sky):
    where, _ = sky
    options = {"noise": "sigma", "target": "i857", "jackknife": None}
    plain, found = (run(where, noise_spectrum=each, **options) for each in (None, [0.0, 0.0, *[1e-2] * 20]))
    assert float(found["error"][0, 0]) > 1.1 * float(plain["error"][0, 0])
    shorter = run(where, noise_spectrum=[0.0, 0.0, *[1e-2] * 20], lmax=5, **options)
    assert json.loads(shorter.attrs["correlated_noise"])[""]["lmax"] == 5
    assert not np.array_equal(shorter["error"], found["error"])


def test_the_folder_of_a_fit_with_correlated_noise(sky, tmp_path):
    where, _ = sky
    found = run(where, target="i857", noise=0.1, noise_spectrum=[0.0, 0.0, *[1e-2] * 4], out_dir=tmp_path / "out")
    assert read_fit(tmp_path / "out").identical(found)
    with pytest.raises(IdentityError, match="noise_spectrum"):
        sm.fit(where, TEMPLATES, "i857", noise=0.1, noise_spectrum=[0.0, 0.0, *[2e-2] * 4], out_dir=tmp_path / "out")
