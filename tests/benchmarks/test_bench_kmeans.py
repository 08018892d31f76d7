"""k-means an iteration against scikit-learn, at the native size of the publication, and over workers."""

from __future__ import annotations

import os
import shutil
import time

import numpy as np
import pytest
import skymill as sm
from fresh import in_fresh_processes
from ppv import channels_between, column_of
from skymill.chunking import store as stores
from skymill.chunking.schema import CUBE, MapInfo
from skymill.chunking.tiling import cube_tile_nside
from skymill.engine.worker import available_cores
from skymill.models import kmeans
from timing import REPEATS, show

NSIDE = int(os.environ.get("SKYMILL_BENCH_KMEANS_NSIDE", "256"))
NATIVE = int(os.environ.get("SKYMILL_BENCH_KMEANS_NATIVE", "1024"))
CHANNELS = 41
ITERATIONS = 22
HALF = "|b| > 30"
CAP = "b > 46.78"  # 13.57 % of the sky: 7.0e7 voxels at nside 1024
WEIGHTS = {"velocity first (v 5, n 0.2)": {"v": 5.0, "n": 0.2}, "all weights 1": {}}
CASES = [(k, name) for k in (3, 6) for name in WEIGHTS]

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def gas(path, nside, where):
    """Write a cube of a few clouds with noise, in the tiles that a selection touches."""
    sky, channels = str(path), channels_between(count=CHANNELS)
    stores.create(sky, nside, frame="galactic", tile_nside=cube_tile_nside(nside, CHANNELS))
    stores.create_channels(sky, channels)
    stores.create_maps(sky, [MapInfo("n_hi", "column density", "1e20 cm^-2", dims=CUBE)])
    grid = stores.tiling_of(sky)
    for tile in range(grid.n_tiles):
        pixels = grid.pixels(tile)
        latitude = grid.lonlat(pixels)[1]
        inside = np.abs(latitude) > 30 if where == HALF else latitude > 46.78
        if inside.any():
            stores.write_tile(sky, "n_hi", tile, column_of(nside, channels, pixels))
    return sky


def starts(sky, k, where):
    """Return k voxels to start from, spread over the selected sky, (cluster, attribute)."""
    rng = np.random.default_rng(k)
    centres = np.empty((k, 5))
    latitude = np.radians(rng.uniform(50, 85, k)) * np.where((where == HALF) & (rng.random(k) < 0.5), -1, 1)
    longitude = rng.uniform(0, 2 * np.pi, k)
    centres[:, 0], centres[:, 1] = np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude)
    centres[:, 2] = np.sin(latitude)
    centres[:, 3], centres[:, 4] = rng.uniform(-60, 60, k), rng.uniform(0.01, 0.2, k)
    return centres.tolist()


# From the beginning of an iteration to that of the next: some runs end after a few, and what comes before takes longer.
TIMED = """
import time
import numpy as np
begins = []
def timed(function):
    def call(*arguments, **options):
        begins.append(time.perf_counter())
        return function(*arguments, **options)
    return call
"""
OURS = (
    TIMED
    + """
import skymill.models.kmeans
skymill.models.kmeans._pass = timed(skymill.models.kmeans._pass)
def go(iterations):
    plan = sm.kmeans({sky!r}, "n_hi", {k}, weights={weights!r}, region={where!r}, init={init!r}, tolerance=0.0,
                     max_iterations=iterations, out=None, threads={threads}, cache={cache})
    began = time.perf_counter()
    result = plan.run(progress=False)
    return time.perf_counter() - began, result, plan
go(1)  # loads what is loaded at first use
begins.clear()
whole, result, plan = go({iterations})
"""
)
FOUND_OURS = (
    "[float(np.median(np.diff(begins))), whole, result.attrs['voxels'], float(result.inertia), plan.process_memory(), "
    "len(begins)]"
)


def ours(sky, k, weights, where, threads, *, cache=True, repeats=REPEATS):
    work = OURS.format(
        sky=sky, k=k, weights=weights, where=where, threads=threads, cache=cache, iterations=ITERATIONS,
        init=starts(sky, k, where),
    )  # fmt: skip
    return in_fresh_processes(
        work, setup="import skymill as sm, xarray\nsm.kmeans", found=FOUND_OURS,
        repeats=repeats,
    )  # fmt: skip


THEIRS = (
    TIMED
    + """
import warnings
import numpy as np
import sklearn.cluster._kmeans
from sklearn.cluster import KMeans
sklearn.cluster._kmeans.lloyd_iter_chunked_dense = timed(sklearn.cluster._kmeans.lloyd_iter_chunked_dense)
from skymill.chunking import store as stores
from skymill.chunking.geometry import pixel_vectors
warnings.simplefilter("ignore")
grid, channels = stores.tiling_of({sky!r}), stores.channels_of({sky!r})
parts = []
for tile in stores.observed_tiles({sky!r}, ["n_hi"]):
    pixels = grid.pixels(tile)
    latitude = grid.lonlat(pixels)[1]
    inside = np.abs(latitude) > 30 if {where!r} == "|b| > 30" else latitude > 46.78
    cube = stores.read_tile({sky!r}, "n_hi", tile)[:, inside]
    part = np.empty((*cube.shape, 5))
    part[..., :3] = pixel_vectors(grid.nside, pixels[inside])
    part[..., 3] = np.array(channels.velocity)[:, None]
    part[..., 4] = cube / np.array(channels.width)[:, None]
    parts.append(part.reshape(-1, 5))
points = np.concatenate(parts)
del parts
mean, scale = points.mean(axis=0), points.std(axis=0)
weights = np.array([{weights!r}.get(name, 1.0) for name in "xyzvn"])
points -= mean
points *= weights / scale
init = (np.array({init!r}) - mean) * weights / scale
def go(iterations):
    model = KMeans({k}, init=init, n_init=1, tol=0.0, max_iter=iterations, algorithm="lloyd", copy_x=False)
    began = time.perf_counter()
    model.fit(points)
    return time.perf_counter() - began, model
go(1)
begins.clear()
whole, model = go({iterations})
"""
)
FOUND_THEIRS = "[float(np.median(np.diff(begins))), whole, len(points), float(model.inertia_), 0, len(begins)]"


def theirs(sky, k, weights, where, threads, *, repeats=REPEATS):
    work = THEIRS.format(sky=sky, k=k, weights=weights, where=where, iterations=ITERATIONS, init=starts(sky, k, where))
    setup = f"import os\nfor name in ('OMP', 'OPENBLAS'):\n    os.environ[name + '_NUM_THREADS'] = '{threads}'"
    return in_fresh_processes(work, setup=setup, found=FOUND_THEIRS, repeats=repeats)


def test_against_scikit_learn(folder):
    sky, threads = gas(folder / "half.zarr", NSIDE, HALF), available_cores()
    rows, ratios = [], {}
    for k, name in CASES:
        mine = ours(sky, k, WEIGHTS[name], HALF, threads)
        streamed = ours(sky, k, WEIGHTS[name], HALF, threads, cache=False)
        known = theirs(sky, k, WEIGHTS[name], HALF, threads)
        ratios[k, name] = iteration(known) / iteration(mine)
        np.testing.assert_allclose(mine["found"][3], known["found"][3], rtol=1e-9)
        for who, run in (("skymill", mine), ("skymill, tiles read each time", streamed), ("scikit-learn", known)):
            _, whole, voxels, _, _, passes = run["found"]
            seconds = iteration(run)
            rows.append(
                (k, name, who, seconds, 1e9 * seconds / voxels, iteration(known) / seconds, passes, whole,
                 run["peak"] / 1e9)
            )  # fmt: skip
    header = (
        "k", "weights", "who", "seconds an iteration", "ns a voxel", "times as fast as scikit-learn", "iterations",
        "seconds of all", "peak, GB",
    )  # fmt: skip
    notes = [
        f"nside {NSIDE}, {CHANNELS} channels, {HALF}: {mine['found'][2]:,} voxels; Lloyd from the same centres, tol 0, "
        f"{threads} threads of one process; the same inertia to 1e-9",
        f"an iteration: from its beginning to that of the next, the median of a run, and of {REPEATS} runs; "
        "scikit-learn has its (voxel, 5) float64 in memory before, skymill begins with the store",
    ]
    show(f"k-means at nside {NSIDE} against scikit-learn", header, rows, notes)
    assert min(ratios.values()) > 1


def iteration(run):
    """Return the median of the seconds of an iteration over the runs."""
    return float(np.median([found[0] for found in run["every"]]))


def test_native_caps(folder):
    sky, threads = gas(folder / "cap.zarr", NATIVE, CAP), available_cores()
    rows = []
    for cache in (True, False):
        for k, name in CASES[:3]:
            run = ours(sky, k, WEIGHTS[name], CAP, threads, cache=cache, repeats=1)
            _, whole, voxels, _, planned, passes = run["found"]
            seconds = iteration(run)
            kept = "kept in memory" if cache else "read each time"
            rows.append(
                (k, name, kept, seconds, 1e9 * seconds / voxels, passes, whole, run["peak"] / 1e9, planned / 1e9)
            )
            assert run["peak"] <= planned
    header = (
        "k", "weights", "voxels", "seconds an iteration", "ns a voxel", "iterations", "seconds of all", "peak, GB",
        "planned, GB",
    )  # fmt: skip
    notes = [f"nside {NATIVE}, {CHANNELS} channels, {CAP}: {voxels:,} voxels; {threads} threads of one process"]
    show(f"k-means over a cap at nside {NATIVE}", header, rows, notes)

    with_start = in_fresh_processes(
        f'result = sm.kmeans({sky!r}, "n_hi", 3, weights={{"v": 5.0, "n": 0.2}}, region={CAP!r}, out="cluster")'
        ".run(progress=False)",
        setup="import skymill as sm, xarray\nsm.kmeans",
        found="[int(result.iterations), str(result.converged.values), float(result.inertia)]",
    )
    iterations, converged, _ = with_start["found"]
    show(
        f"k-means from store to maps over a cap at nside {NATIVE}",
        ("k", "start", "iterations", "ended by", "seconds, maps written", "peak, GB"),
        [(3, "greedy k-means++", iterations, converged, with_start["seconds"], with_start["peak"] / 1e9)],
        notes,
    )


def test_scaling_over_workers(folder, monkeypatch):
    sky = folder / "cap.zarr"
    sky = str(sky) if sky.exists() else gas(sky, NATIVE, CAP)
    begins, one_pass = [], kmeans._pass

    def timed(*arguments):
        begins.append(time.perf_counter())
        return one_pass(*arguments)

    monkeypatch.setattr(kmeans, "_pass", timed)
    rows = []
    for cache in (True, False):
        seconds = {}
        for workers in (1, 2):
            with sm.connect(workers=workers, threads=1, memory="6GB") as client:
                for iterations in (1, ITERATIONS):  # the first loads what is loaded at first use
                    plan = sm.kmeans(
                        sky, "n_hi", 6, region=CAP, init=starts(sky, 6, CAP), tolerance=0.0,
                        max_iterations=iterations, out=None, cache=cache,
                    )  # fmt: skip
                    begins.clear()
                    began = time.perf_counter()
                    plan.run(client, progress=False)
                    whole = time.perf_counter() - began
            seconds[workers] = float(np.median(np.diff(begins)))
            kept = "kept in memory" if cache else "read each time"
            rows.append((kept, workers, seconds[workers], seconds[1] / seconds[workers], whole))
    header = ("voxels", "workers", "seconds an iteration", "times one worker", f"seconds of {ITERATIONS} iterations")
    notes = [f"nside {NATIVE}, {CHANNELS} channels, {CAP}, k 6, weights 1; Dask workers of one thread each"]
    show("k-means over Dask workers", header, rows, notes)
