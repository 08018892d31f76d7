"""simulate of gas: what reaches the store is the generator's sky, cube and maps, once and for all."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import skymill as sm
from skies import content
from skymill.chunking import store as stores
from skymill.chunking.errors import FrameError, IdentityError, InputError
from skymill.chunking.tiling import Tiling
from skymill.engine.simulate import simulate
from skymill.models.gas_clouds import gas_channels
from skymill.models.gas_sky import MAPS, GasSky


def run(path, nside=16, **options):
    return simulate("gas", path, nside, **options).run(progress=False)


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    path = tmp_path_factory.mktemp("gas") / "sky.zarr"
    run(path, 64, seed=11)
    return path


def test_store_holds_what_the_generator_makes(sky):
    dataset, grid, generator = sm.open(sky), Tiling(64), GasSky(seed=11)
    assert set(dataset.data_vars) - {"crs"} == set(generator.default_maps)
    for tile in (0, 7):
        expected = generator.tile(grid, tile, generator.default_maps)
        for name, values in expected.items():
            np.testing.assert_array_equal(dataset[name].values[..., grid.tile_slice(tile)], values)
    for name in generator.default_maps:
        assert dataset[name].attrs["units"] == MAPS[name].unit
        assert dataset[name].dtype == MAPS[name].dtype


def test_the_cube_has_its_channels(sky):
    cube = sm.open(sky)["n_hi"]
    assert cube.dims == ("channel", "cells")
    np.testing.assert_allclose(cube["velocity"], gas_channels().velocity, atol=1e-9)
    np.testing.assert_allclose(cube["channel_width"], gas_channels().width, atol=1e-9)
    assert stores.channels_of(sky) == gas_channels()
    np.testing.assert_allclose(cube.values.sum(axis=0, dtype=np.float64), sm.open(sky)["nhi"], rtol=2e-6)


def test_provenance_says_what_is_true(sky):
    known = stores.infos(sky)
    made = known["i857"].provenance
    assert made["verb"] == "simulate"
    assert made["parameters"]["kind"] == "gas"
    assert (made["parameters"]["seed"], made["parameters"]["clouds"]) == (11, 3)
    assert made["coefficients"] == GasSky().coefficients()["i857"]
    assert made["coefficients"]["truth_cloud_2"] == 0.29
    assert (known["i353"].band, known["n_hi"].is_cube) == ("850um", True)


def test_nothing_is_done_before_run(tmp_path):
    plan = simulate("gas", tmp_path / "sky.zarr", 32, maps=["n_hi", "nhi"], options={"channels": 5})
    assert not (tmp_path / "sky.zarr").exists()
    assert "gas, seed 0" in str(plan)
    lazy = plan.lazy()
    assert not (tmp_path / "sky.zarr").exists()
    tile = GasSky(channels=5).tile(Tiling(32), 3, ["n_hi"])["n_hi"]
    np.testing.assert_array_equal(lazy["n_hi"].values[:, 3 * 1024 : 4 * 1024], tile)


def test_same_bytes_for_any_number_of_threads_and_tiles_made_alone(tmp_path):
    names = ["n_hi", "i857", "mask"]
    options = {"channels": 3, "sigma_temperature": 1.0, "clouds": 2}
    for threads in (1, 2):
        run(tmp_path / f"{threads}.zarr", 512, seed=3, maps=names, threads=threads, options=options)
    assert content(tmp_path / "1.zarr", *names) == content(tmp_path / "2.zarr", *names)
    run(tmp_path / "other.zarr", 512, seed=3, tile_nside=4, maps=names, options=options)
    first, other = sm.open(tmp_path / "1.zarr"), sm.open(tmp_path / "other.zarr")
    for name in names:
        np.testing.assert_array_equal(first[name].values, other[name].values)


def test_another_process_makes_the_same_sky(tmp_path):
    names = ["n_hi", "i857", "kappa"]
    code = f"import sys, skymill as sm; sm.simulate('gas', sys.argv[1], 16, seed=3, maps={names}).run(progress=False)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "other.zarr")], check=True)
    run(tmp_path / "here.zarr", seed=3, maps=names)
    assert content(tmp_path / "other.zarr", *names) == content(tmp_path / "here.zarr", *names)


def test_coarse_store_is_the_average_of_the_fine_one(tmp_path):
    names = ["n_hi", "i857", "nhii", "kappa"]
    for nside in (64, 512):
        run(tmp_path / f"{nside}.zarr", nside, seed=4, maps=names, options={"channels": 5})
    coarse, fine = sm.open(tmp_path / "64.zarr"), sm.open(tmp_path / "512.zarr")
    for name in names:
        values = fine[name].values
        averages = values.reshape(*values.shape[:-1], -1, 64).mean(axis=-1, dtype=np.float64)
        np.testing.assert_allclose(averages, coarse[name].values, rtol=3e-6, atol=1e-6)


def test_running_again_does_nothing_and_maps_can_be_added(tmp_path):
    run(tmp_path / "sky.zarr", seed=1, maps=["n_hi"])
    before = content(tmp_path / "sky.zarr", "n_hi")
    assert len(simulate("gas", tmp_path / "sky.zarr", 16, seed=1, maps=["n_hi"]).todo) == 0
    run(tmp_path / "sky.zarr", seed=1, maps=["p353"], options={"mean_polarization": 0.1})
    assert content(tmp_path / "sky.zarr", "n_hi") == before
    assert {"n_hi", "p353"} <= set(stores.infos(tmp_path / "sky.zarr"))


def test_another_sky_is_refused_unless_told(tmp_path):
    run(tmp_path / "sky.zarr", seed=1, maps=["i857"])
    with pytest.raises(IdentityError, match="overwrite"):
        run(tmp_path / "sky.zarr", seed=1, maps=["i857"], options={"noise_seed": 2})
    run(tmp_path / "sky.zarr", seed=1, maps=["i857"], options={"noise_seed": 2}, overwrite=True)
    expected = GasSky(seed=1, noise_seed=2).tile(Tiling(16), 0, ["i857"])["i857"]
    np.testing.assert_array_equal(sm.open(tmp_path / "sky.zarr")["i857"].values[: expected.size], expected)


def test_what_fluctuates_is_among_the_maps(tmp_path):
    run(tmp_path / "sky.zarr", options={"sigma_temperature": 1.0, "emissivities": [0.4, 0.2, 0.1]})
    known = stores.infos(tmp_path / "sky.zarr")
    assert "truth_temperature" in known
    assert known["i857"].provenance["coefficients"]["truth_cloud_2"] == 0.2
    assert known["i857"].provenance["parameters"]["emissivities"] == [0.4, 0.2, 0.1]


def test_tiles_of_a_cube_are_smaller(tmp_path):
    grids = {}
    for name in ("n_hi", "nhi"):
        plan = simulate("gas", tmp_path / "sky.zarr", 1024, maps=[name])
        grids[name] = plan.n_tiles
    assert grids["n_hi"] > grids["nhi"]
    assert simulate("gas", tmp_path / "sky.zarr", 1024, maps=["n_hi"], tile_nside=8).n_tiles == 768


def test_the_store_can_be_fitted(sky):
    """By plain NumPy, from what is in the store alone."""
    dataset = sm.open(sky)
    used = dataset["mask"].values == 1
    coefficients = stores.infos(sky)["i857"].provenance["coefficients"]
    names = [name for name in coefficients if name not in ("truth_nh2", "offset")]
    design = np.stack([*(dataset[name].values[used].astype(float) for name in names), np.ones(used.sum())], axis=1)
    found = np.linalg.lstsq(design, dataset["i857"].values[used].astype(float), rcond=None)[0]
    np.testing.assert_allclose(found, [coefficients[name] for name in (*names, "offset")], rtol=0.1)


@pytest.mark.parametrize(
    ("nside", "arguments", "error", "message"),
    [
        (100, {}, InputError, "power of two"),
        (16, {"maps": ["i875"]}, InputError, "did you mean 'i857'"),
        (16, {"maps": []}, InputError, "no map was asked for"),
        (16, {"maps": "n_hi"}, InputError, "list of names"),
        (16, {"frame": "equatorial"}, FrameError, "icrs"),
        (16, {"footprint": "surveys"}, InputError, "`footprint` 'surveys' came with kind \"gas\""),
        (16, {"noise_850um": 0.5}, InputError, "`noise_850um`"),
        (16, {"options": {"sigma_temp": 1.0}}, InputError, "did you mean 'sigma_temperature'"),
        (16, {"options": {"seed": 1}}, InputError, "is a parameter; give seed=1"),
        (16, {"options": {"clouds": 9}}, InputError, "1 to 5"),
        (16, {"options": {"clouds": "three"}}, InputError, "`options`"),
        (16, {"options": 3}, InputError, "a mapping"),
        (16, {"tile_nside": 64}, InputError, "tile_nside"),
    ],
)
def test_bad_input_is_told_before_anything_is_written(tmp_path, nside, arguments, error, message):
    with pytest.raises(error, match=message):
        simulate("gas", tmp_path / "sky.zarr", nside, **arguments)
    assert not (tmp_path / "sky.zarr").exists()


def test_dust_has_no_options_of_gas(tmp_path):
    with pytest.raises(InputError, match="`options` came with kind"):
        simulate("dust", tmp_path / "sky.zarr", 16, options={"clouds": 3})


def test_other_channels_than_those_of_the_store_are_refused(tmp_path):
    run(tmp_path / "sky.zarr", maps=["n_hi"], options={"channels": 5})
    with pytest.raises(InputError, match="5 channels"):
        simulate("gas", tmp_path / "sky.zarr", 16, maps=["n_hi"], options={"channels": 7}, overwrite=True).run()


def test_every_option_of_the_sky_is_taken(tmp_path):
    """That each changes something, the generator's tests say."""
    taken = {field.name: field.default for field in dataclasses.fields(GasSky)}
    shared = {name: taken.pop(name) for name in ("seed", "frame", "noise_nside")}
    given = {name: value for name, value in taken.items() if value is not None}
    plan = simulate("gas", tmp_path / "sky.zarr", 16, maps=["i857"], **shared, options=given)
    expected = GasSky().tile(Tiling(16), 2, ["i857"])["i857"]
    np.testing.assert_array_equal(plan.lazy()["i857"].values[512:768], expected)


@pytest.mark.parametrize(("name", "value"), [("seed", 5), ("frame", "ecliptic"), ("noise_nside", 64)])
def test_parameters_that_both_kinds_have_reach_the_sky(tmp_path, name, value):
    lazy = simulate("gas", tmp_path / "sky.zarr", 16, maps=["i857"], **{name: value}).lazy()
    tile = GasSky(**{name: value}).tile(Tiling(16), 2, ["i857"])["i857"]
    np.testing.assert_array_equal(lazy["i857"].values[512:768], tile)
