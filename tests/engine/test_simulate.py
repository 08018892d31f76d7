"""The verb simulate: what reaches the store is the generator's sky, with its truth, once and for all."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest
import skymill as sm
from skies import content
from skymill.chunking import store as stores
from skymill.chunking.errors import FrameError, IdentityError, InputError, MemoryLimitError
from skymill.chunking.tiling import Tiling
from skymill.engine.simulate import simulate
from skymill.models.dust_sky import DEFAULT_MAPS, MAPS, DustSky


def run(path, nside=32, **options):
    return simulate("dust", path, nside, **options).run(progress=False)


def test_store_holds_what_the_generator_makes(tmp_path):
    report = run(tmp_path / "sky.zarr", 64, seed=11, maps=tuple(MAPS))
    dataset = sm.open(tmp_path / "sky.zarr")
    grid = Tiling(64)
    assert [record.tile for record in report.records] == list(range(grid.n_tiles))
    assert set(dataset.data_vars) - {"crs"} == set(MAPS)
    for tile in (0, 7):
        expected = DustSky(seed=11).tile(grid, tile, MAPS)
        for name, values in expected.items():
            np.testing.assert_array_equal(dataset[name].values[grid.tile_slice(tile)], values)
    for name, info in MAPS.items():
        assert dataset[name].attrs["units"] == info.unit
        assert dataset[name].dtype == info.dtype


def test_default_maps_units_and_provenance(tmp_path):
    run(tmp_path / "sky.zarr", 16, seed=11)
    known = stores.infos(tmp_path / "sky.zarr")
    assert set(known) == set(DEFAULT_MAPS)
    made = known["raw_1380um"].provenance
    assert made["verb"] == "simulate"
    assert made["parameters"]["seed"] == 11
    assert made["parameters"]["footprint"] == "full"
    assert known["survey"].provenance["codes"]["1"] == "plane"
    assert known["i850um"].band == "850um"
    assert made["holds"]["cib"] == "0.033 MJy/sr"
    assert known["raw_850um"].provenance["holds"]["cmb"] == "287.45 MJy/sr per K_CMB"


def test_nothing_is_done_before_run(tmp_path):
    plan = simulate("dust", tmp_path / "sky.zarr", 32, maps=["i160"])
    assert not (tmp_path / "sky.zarr").exists()
    assert "seed 0" in str(plan)
    assert len(plan.todo) == 12
    lazy = plan.lazy()
    assert not (tmp_path / "sky.zarr").exists()
    tile = DustSky(seed=0).tile(Tiling(32), 3, ["i160"])["i160"]
    np.testing.assert_array_equal(lazy["i160"].values[3 * tile.size : 4 * tile.size], tile)


def test_same_bytes_for_any_number_of_threads(tmp_path):
    for threads in (1, 2):
        run(tmp_path / f"{threads}.zarr", 512, seed=3, tile_nside=2, maps=["i160", "i850um"], threads=threads)
    assert content(tmp_path / "1.zarr", "i160", "i850um") == content(tmp_path / "2.zarr", "i160", "i850um")


def test_another_process_makes_the_same_sky(tmp_path):
    code = "import sys, skymill as sm; sm.simulate('dust', sys.argv[1], 512, seed=3, maps=['i160']).run(progress=False)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "other.zarr")], check=True)
    run(tmp_path / "here.zarr", 512, seed=3, maps=["i160"])
    assert content(tmp_path / "other.zarr", "i160") == content(tmp_path / "here.zarr", "i160")


def test_coarse_store_is_the_average_of_the_fine_one(tmp_path):
    names = ["i250", "raw_850um", "truth_1380um"]
    for nside in (64, 512):
        run(tmp_path / f"{nside}.zarr", nside, seed=4, maps=names)
    coarse, fine = sm.open(tmp_path / "64.zarr"), sm.open(tmp_path / "512.zarr")
    for name in names:
        averages = fine[name].values.reshape(-1, 64).mean(axis=1, dtype=np.float64)
        np.testing.assert_allclose(averages, coarse[name].values, rtol=3e-6, atol=2e-6)


def test_surveys_cost_nothing_outside(tmp_path):
    options = {"footprint": "surveys", "tile_nside": 8, "maps": ["i160", "survey"]}
    plan = simulate("dust", tmp_path / "sky.zarr", 256, seed=2, **options)
    assert len(plan.todo) < 0.35 * plan.n_tiles
    plan.run(progress=False)
    dataset = sm.open(tmp_path / "sky.zarr")
    seen = dataset["survey"].values > 0
    np.testing.assert_array_equal(np.isfinite(dataset["i160"].values), seen)
    assert 0.03 < seen.mean() < 0.06
    files = len([key for key in content(tmp_path / "sky.zarr", "i160") if "overview" not in key])
    assert files <= len(plan.todo)
    full = DustSky(seed=2).tile(Tiling(256, tile_nside=8), plan.todo[5], ["i160"])["i160"]
    window = Tiling(256, tile_nside=8).tile_slice(plan.todo[5])
    np.testing.assert_array_equal(dataset["i160"].values[window][seen[window]], full[seen[window]])


def test_running_again_does_nothing_and_interrupted_runs_continue(tmp_path):
    first = simulate("dust", tmp_path / "sky.zarr", 32, seed=1, maps=["i160"])
    first.run(progress=False)
    before = content(tmp_path / "sky.zarr", "i160")
    again = simulate("dust", tmp_path / "sky.zarr", 32, seed=1, maps=["i160"])
    assert len(again.todo) == 0
    again.run(progress=False)
    assert content(tmp_path / "sky.zarr", "i160") == before


def test_maps_can_be_added_to_a_store_later(tmp_path):
    run(tmp_path / "sky.zarr", 32, seed=1, maps=["i160"])
    run(tmp_path / "sky.zarr", 32, seed=1, maps=["truth_850um"])
    assert {"i160", "truth_850um"} <= set(stores.infos(tmp_path / "sky.zarr"))


def test_another_sky_is_refused_unless_told(tmp_path):
    run(tmp_path / "sky.zarr", 32, seed=1, maps=["i160"])
    with pytest.raises(IdentityError, match="overwrite"):
        run(tmp_path / "sky.zarr", 32, seed=2, maps=["i160"])
    run(tmp_path / "sky.zarr", 32, seed=2, maps=["i160"], overwrite=True)
    expected = DustSky(seed=2).tile(Tiling(32), 0, ["i160"])["i160"]
    np.testing.assert_array_equal(sm.open(tmp_path / "sky.zarr")["i160"].values[: expected.size], expected)


def test_tiling_of_a_store_that_is_there_is_taken(tmp_path):
    stores.create(tmp_path / "sky.zarr", 64, frame="galactic", tile_nside=4)
    plan = simulate("dust", tmp_path / "sky.zarr", 64, maps=["i160"])
    assert plan.n_tiles == 12 * 16
    assert simulate("dust", tmp_path / "new.zarr", 64, maps=["i160"], tile_nside=2).n_tiles == 48


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seed", 5),
        ("footprint", "surveys"),
        ("frame", "ecliptic"),
        ("noise_nside", 64),
        ("noise_herschel", 1.0),
        ("noise_850um", 1.0),
        ("noise_1380um", 1.0),
        ("relative_noise_850um", 0.3),
        ("relative_noise_1380um", 0.3),
    ],
)
def test_every_option_reaches_the_sky(tmp_path, option, value):
    names = ["i160", "i850um", "i1380um"]
    plain = simulate("dust", tmp_path / "a.zarr", 32, maps=names).lazy()
    other = simulate("dust", tmp_path / "b.zarr", 32, maps=names, **{option: value}).lazy()
    assert any(not np.array_equal(plain[name].values, other[name].values) for name in names)


def test_defaults_are_those_of_the_generator():
    import dataclasses

    signature = inspect.signature(simulate).parameters
    for field in dataclasses.fields(DustSky):
        assert signature[field.name].default == field.default


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("dusty", 32), {}, InputError, "did you mean 'dust'"),
        (("dust", 100), {}, InputError, "power of two"),
        (("dust", 32.0), {}, InputError, "an integer is expected"),
        (("dust", 32), {"seed": "eleven"}, InputError, "`seed`"),
        (("dust", 32), {"maps": ["i850"]}, InputError, "i850um"),
        (("dust", 32), {"maps": []}, InputError, "no map"),
        (("dust", 32), {"maps": "i160"}, InputError, "list of names"),
        (("dust", 32), {"frame": "equatorial"}, FrameError, "icrs"),
        (("dust", 32), {"footprint": "some"}, InputError, "surveys"),
        (("dust", 32), {"tile_nside": 64}, InputError, "tile_nside"),
        (("dust", 32), {"noise_850um": -1.0}, InputError, "noise_850um"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(tmp_path, arguments, options, error, message):
    kind, nside = arguments
    with pytest.raises(error, match=message):
        simulate(kind, tmp_path / "sky.zarr", nside, **options)
    assert not (tmp_path / "sky.zarr").exists()


@pytest.mark.parametrize("other", [{"nside": 64}, {"frame": "icrs"}, {"tile_nside": 4}])
def test_a_store_that_disagrees_is_told(tmp_path, other):
    stores.create(tmp_path / "sky.zarr", 32, frame="galactic")
    options = {"nside": 32, "maps": ["i160"], **other}
    with pytest.raises(InputError, match="exists with nside 32"):
        simulate("dust", tmp_path / "sky.zarr", **options)


def test_a_plan_that_does_not_fit_says_what_does(tmp_path):
    plan = simulate("dust", tmp_path / "sky.zarr", 8192, maps=["i160"], memory="560MB", threads=2)
    with pytest.raises(MemoryLimitError, match="tile_nside="):
        plan.run(progress=False)
    assert not (tmp_path / "sky.zarr").exists()
