"""The real thing once: 3.2 billion pixels, full sky, 4 bands to 850 um, and a run over the surveys only.

Needs some 60 GB of disk and a quarter of an hour, so it has a target of its own: `make bench-large`.  The sky is kept
where SKYMILL_BENCH_SKY says, if it says so, and is used again from there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import skymill as sm
from skies import BANDS
from skymill.chunking import objects
from skymill.chunking import store as stores
from skymill.engine.worker import available_cores
from skymill.models import Predictor, load_model
from timing import median_seconds, show

NSIDE = int(os.environ.get("SKYMILL_BENCH_LARGE_NSIDE", "16384"))
SAMPLE = 24  # tiles by which the parts are timed

pytestmark = [pytest.mark.bench, pytest.mark.large, pytest.mark.timeout(7200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    kept = os.environ.get("SKYMILL_BENCH_SKY")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("large")
    folder.mkdir(parents=True, exist_ok=True)
    needed = 12 * NSIDE**2 * 4 * 5
    if shutil.disk_usage(folder).free + size_of(folder) < needed:
        pytest.skip(f"{folder} has less than the {needed / 1e9:.0f} GB that a run at nside {NSIDE} may need")
    yield folder
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)


def size_of(path):
    return sum(size for _, size, _ in objects.listing(str(path), ""))


@pytest.fixture(scope="module")
def model(folder):
    """Trained where the surveys are, at nside 256."""
    path = folder / "model-850"
    if not path.exists():
        sm.simulate("dust", folder / "coarse.zarr", 256, seed=11).run(progress=False)
        sm.train("dust-850um", folder / "coarse.zarr", path, where="survey in 1, 2, 3", compare=False).run(
            progress=False
        )
    return path


def predict_in_a_fresh_process(model, sky, out):
    """Run the command as a user would, and return the report of the run."""
    import json

    shutil.rmtree(out, ignore_errors=True)
    report = out.with_suffix(".json")
    command = [sys.executable, "-m", "skymill.deploy.cli", "predict", str(model), str(sky), "--out", str(out)]
    subprocess.run([*command, "--report", str(report), "--quiet"], check=True)
    return json.loads(report.read_text())


def parts(model, sky, scratch):
    """Return nanoseconds a pixel of one thread for reading, computing and writing, from a sample of tiles."""
    grid = stores.tiling_of(sky)
    stores.create(scratch, grid.nside, frame="galactic")
    entry = stores.info(sky, "i160")
    stores.create_maps(scratch, [entry])
    predictor = Predictor([load_model(model)])
    seconds = {"read": 0.0, "compute": 0.0, "write": 0.0}
    chosen = np.linspace(0, grid.n_tiles - 1, SAMPLE).astype(int).tolist()
    predictor({name: np.ones(10, "f4") for name in BANDS})
    for tile in chosen:
        began = time.perf_counter()
        bands = {name: stores.read_tile(sky, name, tile) for name in BANDS}
        read = time.perf_counter()
        values, _ = predictor(bands)["850um"]
        computed = time.perf_counter()
        stores.write_tile(scratch, "i160", tile, values)
        for key, step in (
            ("read", read - began),
            ("compute", computed - read),
            ("write", time.perf_counter() - computed),
        ):
            seconds[key] += step
    shutil.rmtree(scratch, ignore_errors=True)
    return {key: value / (SAMPLE * grid.tile_npix) * 1e9 for key, value in seconds.items()}


def test_full_sky(folder, model):
    sky, out = folder / "sky.zarr", folder / "out.zarr"
    sm.simulate("dust", sky, NSIDE, seed=11, maps=list(BANDS)).run(progress=False)
    grid = stores.tiling_of(sky)
    alone = parts(model, sky, folder / "scratch.zarr")
    report = predict_in_a_fresh_process(model, sky, out)
    wall, threads = report["seconds"]["wall"], available_cores()
    expected = sum(alone.values()) * grid.npix / 1e9 / threads
    rows = [
        ("wall time, s", wall),
        ("pixels a second", grid.npix / wall),
        ("ns a pixel, wall", wall / grid.npix * 1e9),
        ("parts alone, ns a pixel of a thread", ", ".join(f"{k} {v:.1f}" for k, v in alone.items())),
        ("ratio to the sum of its parts over all threads", wall / expected),
        ("peak memory of the process, GB", report["peak_memory"] / 1e9),
        ("planned memory, GB", report["planned_memory"] / 1e9),
        ("input on disk, GB", size_of(sky) / 1e9),
        ("output on disk, GB", size_of(out) / 1e9),
        ("raw speed of reading that input, GB/s of disk", disk_speed(sky)),
    ]
    show(f"Full sky at nside {NSIDE}, 4 bands to 850 um", ("what", "value"), rows)
    assert report["counts"] == {"computed": grid.n_tiles}
    assert report["peak_memory"] < 2e9
    values = stores.read_tile(out, "pred_850um", grid.n_tiles // 2)
    bands = {name: stores.read_tile(sky, name, grid.n_tiles // 2) for name in BANDS}
    np.testing.assert_array_equal(values, Predictor([load_model(model)])(bands)["850um"].values)
    shutil.rmtree(out)


def disk_speed(sky):
    """Return how fast the files of a few tiles are read, from wherever they are."""
    files = [Path(sky, name, "c", str(tile)) for name in BANDS for tile in range(100, 116)]
    seconds = median_seconds(lambda: [file.read_bytes() for file in files], 1)
    return sum(file.stat().st_size for file in files) / seconds / 1e9


def test_surveys_only(folder, model):
    sky, out = folder / "surveys.zarr", folder / "surveys-out.zarr"
    plan = sm.simulate("dust", sky, NSIDE, seed=11, maps=list(BANDS), footprint="surveys", tile_nside=NSIDE // 1024)
    plan.run(progress=False)
    grid = stores.tiling_of(sky)
    report = predict_in_a_fresh_process(model, sky, out)
    observed = sum(int(np.isfinite(stores.read_tile(out, "pred_850um", tile)).sum()) for tile in plan.todo)
    rows = [
        ("pixels with a prediction", observed),
        ("part of the sky", observed / grid.npix),
        ("tiles computed / unobserved", f"{report['counts']['computed']} / {report['counts']['unobserved']}"),
        ("wall time, s", report["seconds"]["wall"]),
        ("peak memory of the process, GB", report["peak_memory"] / 1e9),
        ("input on disk, GB", size_of(sky) / 1e9),
        ("output on disk, GB", size_of(out) / 1e9),
    ]
    show(f"Surveys only at nside {NSIDE}, 4 bands to 850 um", ("what", "value"), rows)
    assert observed > 0.02 * grid.npix
    shutil.rmtree(out)
