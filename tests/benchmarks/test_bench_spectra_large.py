"""3.2 billion pixels to lmax 32768: a sky is synthesized, its spectrum measured and held against what it was made from.

Needs 40 GB of disk and half an hour: `make bench-large`.  SKYMILL_BENCH_SPECTRA_SKY keeps the map for another run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skymill as sm
from skymill.chunking import objects
from skymill.engine.spectra_files import read
from skymill.engine.worker import available_cores
from timing import show

NSIDE = int(os.environ.get("SKYMILL_BENCH_LARGE_NSIDE", "16384"))
LMAX = int(os.environ.get("SKYMILL_BENCH_LARGE_LMAX", str(2 * NSIDE)))
WIDTH = 32

pytestmark = [pytest.mark.bench, pytest.mark.large, pytest.mark.timeout(7200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    kept = os.environ.get("SKYMILL_BENCH_SPECTRA_SKY")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("large")
    folder.mkdir(parents=True, exist_ok=True)
    needed = 12 * NSIDE**2 * 4 * 2 + 8 * 4 * NSIDE * LMAX
    if not (folder / "sky.zarr").exists() and shutil.disk_usage(folder).free < needed:
        pytest.skip(f"{folder} has less than the {needed / 1e9:.0f} GB that a run at nside {NSIDE} may need")
    yield folder
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)


def command(folder, *words):
    """Run a command as a user would, and return the report of the run."""
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    whole = [sys.executable, "-m", "skymill.deploy.cli", *map(str, words), "--report", str(report), "--quiet"]
    subprocess.run(whole, check=True)
    return json.loads(report.read_text())


def stages(report):
    found = {key.removeprefix("stage "): value for key, value in report["seconds"].items() if key.startswith("stage ")}
    return ", ".join(f"{name} {seconds:.0f}" for name, seconds in found.items())


def parts(report):
    return ", ".join(
        f"{name} {seconds:.0f}"
        for name, seconds in sorted(report["seconds"].items(), key=lambda item: -item[1])
        if name != "wall" and not name.startswith("stage ") and seconds >= 1
    )


def test_full_sky(folder):
    sky = folder / "sky.zarr"
    ell = np.arange(LMAX + 1)
    truth = np.where(ell < 2, 0.0, 1.0 / np.maximum(ell, 2.0) ** 2)
    np.savetxt(folder / "cl.txt", np.column_stack([ell, truth]))
    made = None
    if not sky.exists():
        planned = sm.synthesize(truth, sky, name="g", nside=NSIDE, seed=1).seconds
        made = command(folder, "synthesize", folder / "cl.txt", sky, "--name", "g", "--nside", NSIDE, "--seed", 1)
    plan = sm.spectra(sky, [("g", "g")], lmax=LMAX)
    shutil.rmtree(folder / "result", ignore_errors=True)
    report = command(folder, "spectra", sky, "g,g", "--lmax", LMAX, "--out-dir", folder / "result")
    found = read(folder / "result")["cl"].values[0]
    # The C_l of one sky scatter by sqrt(2 / (2 l + 1)) about those that it was drawn from.
    scatter = (found[2:] / truth[2:] - 1) * np.sqrt((2 * ell[2:] + 1) / 2)
    count = scatter.size // WIDTH
    binned = scatter[: count * WIDTH].reshape(count, WIDTH).mean(axis=1) * np.sqrt(WIDTH)
    top = found[-2000:] / truth[-2000:] - 1
    rows = [
        ("wall time, s", report["seconds"]["wall"]),
        ("announced by the plan, s", plan.seconds),
        ("stages, s of wall time", stages(report)),
        ("parts, s of all threads", parts(report)),
        ("peak memory of the process, GB", report["peak_memory"] / 1e9),
        ("planned memory, GB", report["planned_memory"] / 1e9),
        ("scratch space, GB", plan.write_bytes / 1e9),
        ("map on disk, GB", sum(size for _, size, _ in objects.listing(str(sky), "g/")) / 1e9),
        (
            "C_l over truth, in units of its cosmic variance: mean, rms over all l",
            f"{scatter.mean():.4f}, {scatter.std():.4f}",
        ),
        (f"the same, means of {WIDTH} l: largest of {count}", float(np.abs(binned).max())),
        ("mean of C_l / truth - 1 over the last 2000 l", f"{top.mean():.2e} +- {top.std() / np.sqrt(top.size):.0e}"),
    ]
    if made is not None:
        rows += [
            ("synthesis, wall time, s", made["seconds"]["wall"]),
            ("synthesis, announced, s", planned),
            ("synthesis, stages, s", stages(made)),
            ("synthesis, peak memory, GB", made["peak_memory"] / 1e9),
        ]
    title = f"Spectrum at nside {NSIDE} to lmax {LMAX}, full sky, of a synthesized map"
    show(title, ("what", "value"), rows, [f"{available_cores()} threads of one process"])
    assert abs(scatter.mean()) < 5 / np.sqrt(scatter.size)
    assert abs(scatter.std() - 1) < 5 / np.sqrt(2 * scatter.size)
    assert np.abs(binned).max() < 5.5
    assert report["peak_memory"] <= report["planned_memory"]
