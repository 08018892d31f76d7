"""k-means over the tiles of a store: against scikit-learn, whoever computes, and when it is stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import skymill as sm
from fresh import in_fresh_processes
from ppv import channels_between, make_cube
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler
from skymill.chunking import errors, sphere
from skymill.chunking import store as stores
from skymill.chunking.geometry import pixel_vectors
from skymill.engine import kmeans as kmeans_module
from skymill.engine import kmeans_pass, kmeans_state
from skymill.engine.worker import Worker

WEIGHTS = {"v": 3.0, "n": 0.5}
OPTIONS = {"weights": WEIGHTS, "mask": "mask"}


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return make_cube(tmp_path_factory.mktemp("kmeans") / "sky.zarr")


def voxels_of(sky, used=None):
    """Return (voxel, attribute) of a store, pixel by pixel, and which (channel, cells) they are."""
    grid, channels = stores.tiling_of(sky), stores.channels_of(sky)
    cube = np.concatenate([stores.read_tile(sky, "n_hi", tile) for tile in range(grid.n_tiles)], axis=1)
    mask = np.concatenate([stores.read_tile(sky, "mask", tile) for tile in range(grid.n_tiles)]) == 1
    there = np.isfinite(cube) & (mask if used is None else used)
    pixel, channel = np.nonzero(there.T)
    density = cube[channel, pixel].astype(np.float64) / np.array(channels.width)[channel]
    vectors = pixel_vectors(grid.nside, pixel)
    return np.column_stack([vectors, np.array(channels.velocity)[channel], density]), there, cube


def fit(points, init, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KMeans(len(init), init=init, n_init=1, algorithm="lloyd", **options).fit(points)


def same(one, other):
    assert set(one.data_vars) == set(other.data_vars)
    for name in one.data_vars:
        assert one[name].values.tobytes() == other[name].values.tobytes(), name


def test_against_scikit_learn(sky):
    plain, there, cube = voxels_of(sky)
    scaler = StandardScaler().fit(plain)
    weights = np.array([1, 1, 1, 3.0, 0.5])
    points = scaler.transform(plain) * weights
    init = plain[[5, 5000, 9000]]
    known = fit(points, points[[5, 5000, 9000]], tol=0.0)
    found = sm.kmeans(sky, "n_hi", 3, init=init, tolerance=0.0, out="exact", **OPTIONS).run(progress=False)
    np.testing.assert_allclose(found["centres_standardised"] * weights, known.cluster_centers_, rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        found["centres"], known.cluster_centers_ / weights * scaler.scale_ + scaler.mean_, atol=1e-9
    )
    np.testing.assert_allclose(found["mean"], scaler.mean_, atol=1e-11)
    np.testing.assert_allclose(found["scale"], scaler.scale_, rtol=1e-12)
    np.testing.assert_allclose(float(found["inertia"]), known.inertia_, rtol=1e-11)
    np.testing.assert_array_equal(found["counts"], np.bincount(known.labels_))
    assert int(found["iterations"]) == known.n_iter_
    assert str(found["converged"].values) == "labels"
    label = np.full(cube.T.shape, -1)
    label[there.T] = known.labels_
    np.testing.assert_array_equal(found["channel_counts"], [(label == j).sum(axis=0) for j in range(3)])
    # The maps, by the labels of scikit-learn.
    dataset = sm.open(sky)
    used = there.any(axis=0)
    for j in range(3):
        expected = np.where(j == label.T, cube, 0).sum(axis=0, dtype=np.float64)
        got = dataset[f"exact_{j + 1}"].values
        np.testing.assert_allclose(got[used], expected[used], rtol=1e-6, atol=1e-7)
        assert np.isnan(got[~used]).all()
        np.testing.assert_allclose(float(found["column"][j]), expected.sum(), rtol=1e-6)
    assert found.attrs["pixels"] == used.sum()
    assert found.attrs["f_sky"] == pytest.approx(used.mean())
    assert found.attrs["area_deg2"] == pytest.approx(used.mean() * 41252.96125)


def test_maps_add_up_and_know_where_they_come_from(sky):
    found = sm.kmeans(sky, "n_hi", 4, **OPTIONS).run(progress=False)
    _, there, cube = voxels_of(sky)
    dataset = sm.open(sky)
    whole = sum(dataset[f"cluster_{j}"].values.astype(np.float64) for j in range(1, 5))
    used = there.any(axis=0)
    np.testing.assert_allclose(whole[used], np.nansum(cube, axis=0, dtype=np.float64)[used], rtol=3e-7)
    info = stores.info(sky, "cluster_2")
    np.testing.assert_array_equal(info.provenance["centre"], found["centres"].values[1])
    assert info.provenance["parameters"]["weights"] == {"x": 1, "y": 1, "z": 1, "v": 3.0, "n": 0.5}
    assert (info.unit, info.beam_fwhm_arcmin) == ("1e20 cm^-2", 16.2)
    assert (np.diff(found["column"]) < 0).all()  # drawn clusters: the largest column first
    assert json.loads(found.attrs["parameters"])["k"] == 4


def test_everywhere(sky, tmp_path):
    out = tmp_path / "maps.zarr"
    used = sm.kmeans(sky, "n_hi", 3, out="here", **OPTIONS).run(progress=False)
    all_over = sm.kmeans(sky, "n_hi", 3, out_store=out, everywhere=True, **OPTIONS).run(progress=False)
    same(used, all_over)
    _, _, cube = voxels_of(sky)
    _, there, _ = voxels_of(sky)
    maps, masked = sm.open(out), sm.open(sky)
    whole = sum(maps[f"cluster_{j}"].values.astype(np.float64) for j in range(1, 4))
    some = np.isfinite(cube).any(axis=0)
    np.testing.assert_allclose(whole[some], np.nansum(cube, axis=0, dtype=np.float64)[some], rtol=3e-7)
    assert np.isnan(whole[~some]).all()
    inside = there.any(axis=0)
    np.testing.assert_array_equal(maps["cluster_1"].values[inside], masked["here_1"].values[inside])
    assert np.isnan(masked["here_1"].values[some & ~inside]).all()


@pytest.mark.parametrize("init", ["greedy", "parallel"])
def test_same_bits_whoever_computes(sky, init):
    options = {**OPTIONS, "init": init, "out": None, "seed": 2}
    first = sm.kmeans(sky, "n_hi", 5, threads=1, **options).run(progress=False)
    for threads, cache in ((2, True), (3, False)):
        same(first, sm.kmeans(sky, "n_hi", 5, threads=threads, cache=cache, **options).run(progress=False))
    # A budget that some tiles fit into, and others not.
    streamed = sm.kmeans(sky, "n_hi", 5, threads=1, cache=False, **options)
    partly = sm.kmeans(sky, "n_hi", 5, threads=1, memory=streamed.process_memory() + 100_000, **options)
    assert 0 < partly.reserved - streamed.reserved < sm.kmeans(sky, "n_hi", 5, **options).reserved - streamed.reserved
    same(first, partly.run(progress=False))
    assert kmeans_pass._KEPT._bytes == 0  # what was kept has been given back


def test_same_bits_over_dask(sky, tmp_path):
    alone = sm.kmeans(sky, "n_hi", 3, out_store=tmp_path / "a.zarr", max_iterations=6, **OPTIONS).run(progress=False)
    with sm.connect(workers=2, threads=1, memory="1GB") as client:
        spread = sm.kmeans(sky, "n_hi", 3, out_store=tmp_path / "b.zarr", max_iterations=6, **OPTIONS).run(
            client, progress=False
        )
        kept = client.run(_kept_bytes)
    same(alone, spread)
    assert set(kept.values()) == {0}
    for name in ("cluster_1", "cluster_2", "cluster_3"):
        a, b = (sm.open(tmp_path / store)[name].values for store in ("a.zarr", "b.zarr"))
        assert a.tobytes() == b.tobytes()


def _kept_bytes():
    from skymill.engine import kmeans_pass

    return kmeans_pass._KEPT._bytes


def test_tiles_change_only_rounding(sky, tmp_path):
    other = make_cube(tmp_path / "fine.zarr", tile_nside=2)
    assert stores.tiling_of(other) != stores.tiling_of(sky)
    for init in ("greedy", "parallel"):
        found = [
            sm.kmeans(store, "n_hi", 4, init=init, out=None, max_iterations=5, **OPTIONS).run(progress=False)
            for store in (sky, other)
        ]
        np.testing.assert_allclose(found[0]["centres"], found[1]["centres"], rtol=0, atol=1e-9)
        np.testing.assert_array_equal(found[0]["counts"], found[1]["counts"])


def test_positions_are_galactic(sky, tmp_path):
    icrs = make_cube(tmp_path / "icrs.zarr", frame="icrs")
    found = sm.kmeans(icrs, "n_hi", 1, mask="mask", out=None).run(progress=False)
    plain, _, _ = voxels_of(icrs)
    lon, lat = np.degrees(np.arctan2(plain[:, 1], plain[:, 0])), np.degrees(np.arcsin(plain[:, 2]))
    galactic = sphere.lonlat_to_vector(*sphere.rotate(lon, lat, "icrs", "galactic"))
    np.testing.assert_allclose(found["centres"].values[0, :3], galactic.mean(axis=0), atol=1e-10)
    assert not np.allclose(found["centres"].values[0, :3], plain[:, :3].mean(axis=0), atol=1e-3)


def test_brightness_is_as_good_as_column(sky, tmp_path):
    width = np.array(channels_between().width)[:, None]
    found = {}
    for unit, factor in (("K", 1 / (0.01823 * width)), ("mK", 1e3 / (0.01823 * width)), ("K km/s", 1 / 0.01823)):
        other = make_cube(tmp_path / f"{len(found)}.zarr", unit=unit, factor=factor)
        found[unit] = sm.kmeans(other, "n_hi", 3, **OPTIONS).run(progress=False)
        assert stores.info(other, "cluster_1").unit == "1e20 cm^-2"
        maps = sm.open(other)["cluster_1"].values
        np.testing.assert_allclose(np.nansum(maps), float(found[unit]["column"][0]), rtol=1e-5)
    column = sm.kmeans(sky, "n_hi", 3, out=None, **OPTIONS).run(progress=False)
    for other in found.values():
        np.testing.assert_allclose(other["centres"], column["centres"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(other["column"], column["column"], rtol=1e-4)


def test_mask_region_and_options_count(sky):
    few = {"max_iterations": 3, "out": None}
    base = sm.kmeans(sky, "n_hi", 3, **few).run(progress=False)
    changed = [
        {"mask": "mask"},
        {"region": "b > 0"},
        {"region": "b > 0", "mask": "mask"},
        {"weights": {"x": 3.0}},
        {"seed": 11},
        {"max_iterations": 1},
        {"tolerance": 0.3},
        {"init": "parallel"},
    ]
    centres = [base["centres"].values]
    for options in changed:
        found = sm.kmeans(sky, "n_hi", 3, **{**few, **options}).run(progress=False)["centres"].values
        assert all(not np.array_equal(found, other) for other in centres), options
        centres.append(found)
    alone = sm.kmeans(sky, "n_hi", 6, **few).run(progress=False)
    several = sm.kmeans(sky, "n_hi", 6, n_init=4, **few).run(progress=False)
    assert float(several["inertia"]) < float(alone["inertia"])


def test_finished_runs_and_other_runs(sky, tmp_path, monkeypatch):
    out = tmp_path / "out.zarr"
    first = sm.kmeans(sky, "n_hi", 2, out_store=out, **OPTIONS).run(progress=False)
    bytes_of = {name: sm.open(out)[name].values.tobytes() for name in ("cluster_1", "cluster_2")}
    monkeypatch.setattr(kmeans_pass.OverTiles, "moments", _refuse)
    plan = sm.kmeans(sky, "n_hi", 2, out_store=out, **OPTIONS)
    assert not plan.todo
    same(first, plan.run(progress=False))  # nothing is done again
    monkeypatch.undo()
    with pytest.raises(errors.IdentityError, match="seed"):
        sm.kmeans(sky, "n_hi", 2, out_store=out, seed=1, **OPTIONS)
    other = sm.kmeans(sky, "n_hi", 2, out_store=out, overwrite=True, weights={"z": 5.0}).run(progress=False)
    assert not np.array_equal(other["centres"], first["centres"])
    assert sm.open(out)["cluster_1"].values.tobytes() != bytes_of["cluster_1"]
    assert len(list(Path(out, "ledger/kmeans-state/cluster").iterdir())) == 1


def test_iterations_are_told_now_and_then_and_not_one_by_one(sky, caplog, monkeypatch):
    caplog.set_level("INFO", "skymill")
    sm.kmeans(sky, "n_hi", 4, out=None, **OPTIONS).run(progress=False)
    assert "iteration" not in caplog.text
    monkeypatch.setattr(kmeans_module, "_SECONDS_BETWEEN_LINES", 0.0)
    sm.kmeans(sky, "n_hi", 4, out=None, **OPTIONS).run(progress=False)
    assert "kmeans: start 1, iteration 2" in caplog.text


def test_maps_of_more_clusters_that_stay_are_told(sky, tmp_path, caplog):
    out = tmp_path / "out.zarr"
    sm.kmeans(sky, "n_hi", 4, out_store=out, **OPTIONS).run(progress=False)
    assert "cluster_4" not in caplog.text
    sm.kmeans(sky, "n_hi", 2, out_store=out, overwrite=True, **OPTIONS).run(progress=False)
    assert "cluster_3, cluster_4 of another clustering stay" in caplog.text


def _refuse(self):
    raise AssertionError("nothing is to be looked at")


def test_nothing_is_written_without_maps(sky):
    before = sorted(path.as_posix() for path in Path(sky).rglob("*"))
    plan = sm.kmeans(sky, "n_hi", 2, out=None, threads=2, memory="2GB")
    text = str(plan)
    assert "dataset in memory" in text
    assert "2 clusters" in text
    plan.run(progress=False)
    assert sorted(path.as_posix() for path in Path(sky).rglob("*")) == before


KILLED = """
import os, signal
import skymill as sm
from skymill.engine import kmeans_state
kmeans_state.SECONDS_BETWEEN = 0.0
kept, calls = kmeans_state.Keeper.keep, []
def keep(self, progress):
    kept(self, progress)
    calls.append(progress)
    if len(calls) == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
kmeans_state.Keeper.keep = keep
sm.kmeans({sky!r}, "n_hi", 5, out_store={out!r}, tolerance=0.0, n_init=2, weights={{"v": 3.0}}).run(progress=False)
"""


@pytest.mark.parametrize("after", [3, 8])
def test_a_killed_run_continues_to_the_same_bytes(sky, tmp_path, after, monkeypatch):
    options = {"tolerance": 0.0, "n_init": 2, "weights": {"v": 3.0}}
    undisturbed, out = tmp_path / "a.zarr", tmp_path / "b.zarr"
    iterations = []
    monkeypatch.setattr(kmeans_state.Keeper, "keep", _counting(iterations))
    expected = sm.kmeans(sky, "n_hi", 5, out_store=undisturbed, **options).run(progress=False)
    whole = len(iterations)
    assert whole > 10
    script = KILLED.format(sky=sky, out=str(out), after=after)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == -signal.SIGKILL, done.stderr
    iterations.clear()
    found = sm.kmeans(sky, "n_hi", 5, out_store=out, **options).run(progress=False)
    assert len(iterations) == whole - after
    same(expected, found)
    for number in range(1, 6):
        a, b = (sm.open(store)[f"cluster_{number}"].values.tobytes() for store in (undisturbed, out))
        assert a == b


def _counting(iterations, keep=kmeans_state.Keeper.keep):
    def counted(self, progress):
        iterations.append(progress)
        keep(self, progress)

    return counted


def test_a_damaged_state_begins_anew(sky, tmp_path):
    out = tmp_path / "out.zarr"
    first = sm.kmeans(sky, "n_hi", 2, out_store=out, **OPTIONS).run(progress=False)
    (state,) = Path(out, "ledger/kmeans-state/cluster").iterdir()
    state.write_bytes(state.read_bytes()[:100])
    same(first, sm.kmeans(sky, "n_hi", 2, out_store=out, **OPTIONS).run(progress=False))


def test_stability(sky, monkeypatch):
    from sklearn.metrics import adjusted_rand_score

    seeds = [3, 4, 5]
    plain, _, _ = voxels_of(sky)
    each = [sm.kmeans(sky, "n_hi", 4, seed=seed, out=None, **OPTIONS).run(progress=False) for seed in seeds]
    reference = plain[[1, 4000, 8000]]
    plan = sm.kmeans_stability(sky, "n_hi", 4, seeds=seeds, centres=reference, **OPTIONS)
    found = plan.run(progress=False)
    points = StandardScaler().fit_transform(plain) * [1, 1, 1, 3.0, 0.5]
    scaler = StandardScaler().fit(plain)

    def labels(centres):
        scaled = scaler.transform(centres) * [1, 1, 1, 3.0, 0.5]
        return ((points[:, None] - scaled[None]) ** 2).sum(axis=2).argmin(axis=1)

    of_seed = [labels(one["centres"].values) for one in each]
    for i in range(3):
        np.testing.assert_array_equal(found["centres"][i], each[i]["centres"])
        assert float(found["inertia"][i]) == float(each[i]["inertia"])
        for j in range(3):
            assert float(found["ari"][i, j]) == pytest.approx(adjusted_rand_score(of_seed[i], of_seed[j]), abs=1e-9)
        expected = adjusted_rand_score(of_seed[i], labels(reference))
        assert float(found["reference_ari"][i]) == pytest.approx(expected, abs=1e-9)
    apart = found["ari"].values[~np.eye(3, dtype=bool)]
    assert float(found["mean_ari"]) == pytest.approx(apart.mean())
    assert float(found["least_ari"]) == apart.min()
    same(
        found,
        sm.kmeans_stability(sky, "n_hi", 4, seeds=seeds, centres=reference, cache=False, threads=1, **OPTIONS).run(
            progress=False
        ),
    )
    assert json.loads(plan.account(found))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 0}, "`k` 0 came"),
        ({"k": 30000, "out": None}, "voxels are used"),
        ({"k": 10**7}, "32767 or less"),
        ({"weights": {"q": 1.0}}, "'q'"),
        ({"weights": {"v": -1.0}}, "0 or above"),
        ({"weights": {"v": float("inf")}}, "finite"),
        ({"weights": dict.fromkeys("xyzvn", 0.0)}, "every attribute"),
        ({"cube": "mask"}, "is a map, not a cube"),
        ({"cube": "n_h"}, "n_hi"),
        ({"mask": "none"}, "not in the store"),
        ({"region": "b > 91"}, "no voxel is left"),
        ({"init": "random"}, "greedy"),
        ({"init": [[0.0] * 5]}, "centres"),
        ({"init": [[0.0] * 5, [np.nan] * 5]}, "finite"),
        ({"init": ["x", "y"]}, "centres"),
        ({"n_init": 0}, "n_init"),
        ({"seed": -1}, "seed"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"out": "1"}, "begins with a letter"),
        ({"out": None, "everywhere": True}, "no map is written"),
    ],
)
def test_bad_input(sky, options, words):
    options = {"cube": "n_hi", "k": 2, "out": "bad", **options}
    with pytest.raises((errors.InputError, errors.MissingMapError), match=words):
        sm.kmeans(sky, options.pop("cube"), options.pop("k"), **options).run(progress=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seeds": [1]}, "two or more"),
        ({"seeds": [1, 1]}, "different"),
        ({"init": "random"}, "greedy"),
        ({"centres": 3}, "shape"),
        ({"centres": [[1.0, 2.0], [1.0]]}, "`centres` with shape"),
        ({"centres": [[1.0, 2.0]]}, r"`centres` with shape \(1, 2\) came; give finite numbers"),
    ],
)
def test_bad_input_of_stability(sky, options, words):
    with pytest.raises(errors.InputError, match=words):
        sm.kmeans_stability(sky, "n_hi", 2, **options)


def test_other_units_and_single_channels(tmp_path):
    dust = make_cube(tmp_path / "dust.zarr", unit="MJy/sr")
    with pytest.raises(errors.UnitError, match="column density per km/s"):
        sm.kmeans(dust, "n_hi", 2)
    alone = make_cube(tmp_path / "alone.zarr", channels=channels_between(count=1))
    found = sm.kmeans(alone, "n_hi", 2).run(progress=False)
    assert float(found["scale"].sel(attribute="v")) == 0
    np.testing.assert_array_equal(found["centres"].sel(attribute="v"), 0.0)
    np.testing.assert_array_equal(found["centres_standardised"].sel(attribute="v"), 0.0)


def test_plan_and_memory(sky):
    small = sm.kmeans(sky, "n_hi", 2, memory="270MB", threads=1, out=None)
    assert any("kept in memory" in note or "are kept" in note for note in small.notes)
    streamed = sm.kmeans(sky, "n_hi", 2, cache=False, out=None)
    kept = sm.kmeans(sky, "n_hi", 2, out=None)
    assert kept.reserved > streamed.reserved
    assert kept.refit(Worker(10**9, 2)).worker == Worker(10**9, 2)
    with pytest.raises(errors.MemoryLimitError, match="Any of these fits"):
        sm.kmeans(sky, "n_hi", 2, memory="251MB", out=None).run(progress=False)


@pytest.mark.parametrize("cache", [True, False])
def test_memory_stays_within_the_plan(tmp_path, cache):
    sky = make_cube(tmp_path / "sky.zarr", 128, tile_nside=2)
    found = in_fresh_processes(
        "result = plan.run(progress=False)",
        setup=f"import skymill as sm\nplan = sm.kmeans({sky!r}, 'n_hi', 4, cache={cache}, threads=2, max_iterations=5)",
        found="[plan.process_memory(), plan.reserved, plan.task_memory]",
    )
    assert found["peak"] <= found["found"][0]
