"""Template fits against NumPy's normal equations in memory, from the store to the coefficients; in fresh processes."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import skymill as sm
from fresh import in_fresh_processes
from skymill.chunking import store as stores
from skymill.engine.worker import available_cores
from timing import REPEATS, dusty_sky, median_seconds, show

NSIDE = int(os.environ.get("SKYMILL_BENCH_NSIDE", "2048"))
TEMPLATES = [f"t{number}" for number in range(15)]
TARGETS = ["i353", "i545", "i857"]
SIGMA = "sigma"

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

# Every map is read with zarr into a row of one matrix, float32 as it is stored; sums are in float64, in slices of
# pixels, because a whole copy in float64 would take 7 GB at nside 2048.  No pixel is missing, and nothing is checked.
IN_MEMORY = """
store = zarr.open_group({sky!r}, mode="r")
names = {names!r}
columns = np.ones(({count} + 1 + 3, store[names[0]].shape[0]), np.float32)
for place, name in zip([*range({count}), *range({count} + 1, {count} + 4)], names):
    columns[place] = store[name][:]
{noise}
gram = np.zeros((columns.shape[0],) * 2)
for start in range(0, columns.shape[1], {step}):
    block = columns[:, start : start + {step}].astype(np.float64)
    {weighting}
    gram += block @ block.T
n = {count} + 1
theta = np.linalg.solve(gram[:n, :n], gram[:n, n:]).T
error = np.linalg.inv(gram[:n, :n])
"""


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    where = dusty_sky(folder / "sky.zarr", NSIDE, [*TEMPLATES, *TARGETS, SIGMA])
    for name in (*TEMPLATES, *TARGETS, SIGMA):  # into the page cache
        for tile in range(stores.tiling_of(where).n_tiles):
            stores.read_tile(where, name, tile)
    yield where
    shutil.rmtree(folder, ignore_errors=True)


def options(noise, jackknife):
    return f"noise={noise!r}, jackknife={jackknife}"


def ours(sky, threads, noise=None, jackknife=16):
    work = (
        f"r = sm.fit({sky!r}, {TEMPLATES!r}, {TARGETS!r}, {options(noise, jackknife)}, threads={threads})"
        ".run(progress=False)"
    )
    setup = "import skymill as sm, xarray, numpy\nsm.fit"
    return in_fresh_processes(work, setup=setup, found="r['coefficient'].values.tolist()", repeats=REPEATS)


def in_memory(sky, step, noise=None):
    reading = "" if noise is None else f"root = 1 / store[{noise!r}][:]"
    weighting = "" if noise is None else f"block *= root[start : start + {step}]"
    work = IN_MEMORY.format(
        sky=sky, names=[*TEMPLATES, *TARGETS], count=len(TEMPLATES), step=step, noise=reading, weighting=weighting
    )
    found = "theta.tolist()"
    return in_fresh_processes(work, setup="import numpy as np, zarr", found=found, repeats=REPEATS)


@pytest.mark.parametrize("noise", [None, SIGMA], ids=["no noise", "noise map"])
def test_against_numpy_in_memory(sky, noise):
    threads = available_cores()
    found = {
        f"skymill, {threads} threads, jackknife of 3072 super-pixels": ours(sky, threads, noise),
        f"skymill, {threads} threads, no jackknife": ours(sky, threads, noise, None),
        "NumPy in memory, slices of 2^20 pixels": in_memory(sky, 1 << 20, noise),
        "NumPy in memory, slices of 2^14 pixels": in_memory(sky, 1 << 14, noise),
        "skymill, 1 thread": ours(sky, 1, noise),
    }
    mine = next(iter(found.values()))
    rows = [(who, run["seconds"], run["seconds"] / mine["seconds"], run["peak"] / 1e9) for who, run in found.items()]
    title = f"Fit of 15 templates to 3 bands at nside {NSIDE}, {'no noise' if noise is None else 'a noise map'}"
    notes = ["wall time from the store to coefficients, median; peak memory of a process"]
    show(title, ("who", "seconds", "time over ours", "peak, GB"), rows, notes)
    values = np.array([run["found"] for run in found.values()])
    np.testing.assert_allclose(values[1], values[0], rtol=1e-9)
    np.testing.assert_allclose(values[4], values[0], rtol=0)
    # NumPy sums as the maps are, without levels taken off first, and loses digits where templates resemble each other.
    np.testing.assert_allclose(values[2], values[0], rtol=1e-4, atol=1e-5 * np.abs(values[0]).max())
    if NSIDE >= 2048:
        assert mine["seconds"] <= min(run["seconds"] for who, run in found.items() if who.startswith("NumPy"))
        assert mine["peak"] < 1e9


def test_two_workers(sky):
    plan = sm.fit(sky, TEMPLATES, TARGETS, noise=SIGMA)
    seconds, results = {}, []
    for workers in (1, 2):
        with sm.connect(workers=workers, threads=1, memory="2GB") as client:
            plan.run(client, progress=False)  # imports and the first opening of every map
            seconds[workers] = median_seconds(lambda client=client: results.append(plan.run(client, progress=False)))
    rows = [(f"{workers} x 1", time, seconds[1] / time) for workers, time in seconds.items()]
    show(f"Fit over Dask workers at nside {NSIDE}", ("workers", "seconds", "times as fast"), rows, ["median"])
    assert results[0].identical(results[-1])
    if NSIDE >= 2048:
        assert seconds[1] / seconds[2] >= 1.7
