"""Transforms too keep to the memory of their plans, measured in fresh processes."""

from __future__ import annotations

import numpy as np
import pytest
from fresh import in_fresh_processes
from skies import write_map
from timing import dusty_sky

NSIDE = 1024
SETUP = "import json\nimport skymill as sm"
SPECTRA = "plan = sm.spectra({sky!r}, {pairs}, {options})\nresult = plan.run(progress=False)"
MAPS = "plan = {call}\nresult = plan.run(progress=False)"

RUNS = {
    "one map, one thread": ("[('i160', 'i160')]", "lmax=2048, threads=1"),
    "one map, two threads": ("[('i160', 'i160')]", "lmax=2048, threads=2"),
    "double precision": ("[('i160', 'i160')]", "lmax=2048, threads=2, precision='double'"),
    "two maps, a mask, bins": (
        "[('i160', 'i250')]",
        "lmax=1024, threads=2, mask='weight_belt', bins=32",
    ),
    "iterations": ("[('i160', 'i160')]", "lmax=1024, threads=2, weights='iterate', iterations=1"),
    "little memory": ("[('i160', 'i250')]", "lmax=2048, threads=2, memory='330MB'"),
    "monopole removed": ("[('i160', 'i250')]", "lmax=512, threads=2, remove='dipole', mask='weight_belt'"),
}


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    path = dusty_sky(tmp_path_factory.mktemp("memory") / "sky.zarr", NSIDE, ["i160", "i250"])
    weights = np.zeros(12 * NSIDE**2, np.float32)
    weights[: weights.size // 3] = 1.0  # the north, in RING order
    write_map(path, NSIDE, weights, "weight_belt", unit="1")
    return path


def holds(work):
    found = "[json.loads(result.attrs['run'])[key] for key in ('peak_memory', 'planned_memory')]"
    if not work.startswith("plan = sm.spectra"):
        found = "[result.peak_memory, result.planned_memory]"
    peak, planned = in_fresh_processes(work, setup=SETUP, found=found)["found"]
    print(f"peak {peak / 1e6:.0f} MB, planned {planned / 1e6:.0f} MB")
    assert 0 < peak <= planned
    assert planned <= 4 * peak


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_the_peak_of_spectra_stays_below_the_plan(sky, run):
    pairs, options = RUNS[run]
    holds(SPECTRA.format(sky=sky, pairs=pairs, options=options))


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        "sm.smooth({sky!r}, 'i160', 20.0, method='harmonic', threads=2)",
        "sm.smooth({sky!r}, 'i160', 20.0, method='harmonic', threads=2, mask='weight_belt', out='masked')",
        "sm.smooth({sky!r}, 'i160', 20.0, method='local', threads=2, out='local')",
        "sm.synthesize([1.0] * 2049, {sky!r}, name=['g'], threads=2)",
        "sm.apodize({sky!r}, 'weight_belt', 2.0, out='weight_soft', threads=2)",
    ],
    ids=["smooth", "smooth, masked", "smooth, local", "synthesize", "apodize"],
)
def test_the_peak_of_maps_stays_below_the_plan(sky, call):
    holds(MAPS.format(call=call.format(sky=sky)))
