"""The memory of a run is known before it starts: peaks measured in fresh processes stay below their plans."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from skies import make_sky
from skymill.models import Model, dust_mlp, save_model

PROLOGUE = "import json, sys\nimport skymill as sm\nsky, folder = sys.argv[1:]\n"
EPILOGUE = "print(json.dumps([report.peak_memory, report.planned_memory, report.counts['computed']]))\n"

RUNS = {
    "predict, one thread": "report = sm.predict(folder + '/850um', sky, threads=1).run()",
    "predict, two threads": "report = sm.predict(folder + '/850um', sky, threads=2).run()",
    "predict two bands": "report = sm.predict([folder + '/850um', folder + '/1380um'], sky, threads=2).run()",
    "predict, small batches": "report = sm.predict(folder + '/1380um', sky, threads=2, batch=8192).run()",
    "residual": "report = sm.residual(sky, 'i160', 'i250', threads=2).run()",
    "simulate": "report = sm.simulate('dust', folder + '/new.zarr', 1024, seed=1, threads=2).run()",
    "simulate gas": (
        "report = sm.simulate('gas', folder + '/gas.zarr', 512, seed=1, threads=2, maps=['n_hi', 'i857', 'p353'], "
        "options={'clouds': 5, 'sigma_temperature': 1.0, 'mean_polarization': 0.1}).run()"
    ),
    "degrade": "report = sm.degrade(sky, folder + '/coarse.zarr', 256, threads=2).run()",
    "synthesize": "report = sm.synthesize([1.0] * 2049, folder + '/g.zarr', nside=1024, threads=2).run()",
    "smooth": "report = sm.smooth(sky, 'i160', 10.0, method='harmonic', threads=2).run()",
    "smooth in double precision": (
        "report = sm.smooth(sky, ['i160', 'i250'], 10.0, precision='double', iterations=1, out=['d', 'e']).run()"
    ),
    "smooth tile by tile": "report = sm.smooth(sky, 'i160', 10.0, method='local', out='l', threads=2).run()",
}


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """A sky of whole-sized tiles (2**20 pixels) and two networks."""
    folder = tmp_path_factory.mktemp("memory")
    for label in ("850um", "1380um"):
        save_model(folder / label, Model.untrained(dust_mlp(label)))
    return make_sky(folder / "sky.zarr", 1024), str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_the_peak_stays_below_the_plan(sky, run):
    script = PROLOGUE + RUNS[run].replace(".run()", ".run(progress=False)") + "\n" + EPILOGUE
    if run == "predict, small batches":
        script = script.replace("sky, threads", "sky, out=folder + '/small.zarr', threads")
    if run in ("predict, two threads", "predict two bands"):
        script = script.replace("sky, threads", f"sky, out=folder + '/{len(run)}.zarr', threads")
    done = subprocess.run([sys.executable, "-c", script, *sky], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak, planned, computed = json.loads(done.stdout.splitlines()[-1])
    print(f"{run}: peak {peak / 1e6:.0f} MB, planned {planned / 1e6:.0f} MB")
    assert computed >= 11
    assert 0 < peak <= planned
    # A plan that promises several times what is needed would keep threads idle that could work.
    assert planned <= 4 * peak
