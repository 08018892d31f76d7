"""Time and peak memory of binned mode coupling, each in a fresh process, beside the other ways to the same matrix."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from references import namaster
from skymill.engine.worker import available_cores
from timing import REPEATS, show

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

# lmax and width of bins; windows of 511 bins at lmax 32768 are some 10^12 multiplications.
SIZES = ((2048, 16, True), (12000, 30, True), (32768, 64, False), (32768, 64, True))

PROLOGUE = """
import json, sys, time
import numpy as np
from skymill.engine.worker import peak_memory
lmax, width, window, threads = json.loads(sys.argv[1])
mask_cl = 1.0 / (1 + np.arange(2 * lmax + 1.0)) ** 3
def measured(work):
    wall, processor = time.perf_counter(), time.process_time()
    found = work()
    print(json.dumps([time.perf_counter() - wall, time.process_time() - processor, peak_memory(), found]))
"""

OURS = """
from skymill.engine.binning import Bins
from skymill.engine.coupling import binned_coupling
bins = Bins.linear(lmax, width)
measured(lambda: binned_coupling(mask_cl, bins, lmax, window=window, threads=threads).matrix[:, -1].tolist())
"""

DUCC = """
import ducc0
from skymill.engine.binning import Bins
bins = Bins.linear(lmax, width)
def work():
    full = np.zeros((1, lmax + 1, lmax + 1))
    ducc0.misc.experimental.coupling_matrix_rect_new(mask_cl[None], (0,), full, threads)
    last = slice(bins.starts[-1], bins.stops[-1])
    column = full[0][:, last] @ (2 * np.arange(lmax + 1) + 1)[last]
    return bins.average(column).tolist()
measured(work)
"""


def run(script: str, *arguments: object) -> tuple[float, float, float, np.ndarray]:
    """Medians of wall time, CPU time and peak memory, and the last column of the matrix."""
    runs = []
    for _ in range(REPEATS):
        command = [sys.executable, "-c", PROLOGUE + script, json.dumps(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    wall, processor, peak = (float(np.median([run[k] for run in runs])) for k in range(3))
    return wall, processor, peak, np.array(runs[0][3])


def namasters() -> tuple[float, str]:
    """NaMaster's seconds at lmax 2048 and how they were had: in this run, or those kept with its results."""
    try:
        import pymaster
    except ImportError:
        with np.load(namaster.FILE) as known:
            wall, processor, cores = map(float, known["seconds"])
            # Its machine may have been busy: CPU time over cores is the best that it can have been.
            return min(wall, processor / cores), f"kept, CPU time over cores: {known['seconds_note']}"
    wall = float(np.median([namaster.seconds()[0] for _ in range(REPEATS)]))
    return wall, f"pymaster {pymaster.__version__}, in this run, nside 1024, lmax 2048, bins of 16"


def test_coupling():
    threads = available_cores()
    rows = []
    for lmax, width, window in SIZES:
        wall, processor, peak, column = run(OURS, lmax, width, window, threads)
        what = f"binned, {len(column)} bins" + (", windows" if window else "")
        rows.append((lmax, what, threads, wall, processor, peak / 1e6, ""))
        if not window:
            assert wall < 30
        assert peak < 1e9
    for lmax, width in ((2048, 16), (12000, 30), (32768, 64)):
        one = run(OURS, lmax, width, False, 1)
        rows.append((lmax, f"binned, {len(one[3])} bins", 1, *one[:2], one[2] / 1e6, ""))
        if lmax == 2048:
            ours = one
    other = run(DUCC, 2048, 16, False, threads)
    rows.append((2048, "ducc0, all multipoles", threads, *other[:2], other[2] / 1e6, other[0] / ours[0]))
    theirs, note = namasters()
    ratio = theirs / ours[0]
    rows.append((2048, "NaMaster's workspace", threads, theirs, "", "", ratio))
    show(
        "Mode coupling of spin-0 spectra",
        ("lmax", "matrix", "threads", "wall s", "CPU s", "peak MB of the process", "ratio to one thread of ours"),
        rows,
        [
            f"NaMaster: {note}; its ratio is to the wall time of ours",
            "the spectrum of the mask goes to 2 lmax",
        ],
    )
    np.testing.assert_allclose(run(OURS, 2048, 16, False, 1)[3], other[3], atol=1e-11 * np.abs(other[3]).max())
    assert ratio > 100
