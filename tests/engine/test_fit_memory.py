"""The memory of a fit is known before it starts: peaks measured in fresh processes stay below their plans."""

from __future__ import annotations

import pytest
from fresh import in_fresh_processes
from skies import make_sky

pytestmark = pytest.mark.slow

REGIONS = {"n": "b > 20", "s": "b < -20"}
FITS = {
    "plain": {},
    "one thread": {"threads": 1},
    "noise by target, regions": {"noise": {"i350": "i160", "i500": 1.0}, "region": REGIONS},
    "many super-pixels": {"jackknife": 64},
    "no jackknife, maps": {"jackknife": None, "maps": True, "region": REGIONS},
    "maps of super-pixels": {"superpixels": 16, "maps": ["residual"]},
}


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return make_sky(tmp_path_factory.mktemp("memory") / "sky.zarr", 1024)


@pytest.mark.parametrize("name", FITS)
def test_the_peak_stays_below_the_plan(sky, tmp_path, name):
    options = {"threads": 2, **FITS[name]}
    if "maps" in options:
        options["out_store"] = str(tmp_path / "out.zarr")
    run = in_fresh_processes(
        f"plan = sm.fit({sky!r}, ['i160', 'i250'], ['i350', 'i500'], **{options!r})\nplan.run(progress=False)",
        setup="import logging\nimport skymill as sm\nlogging.disable()",
        found="plan.process_memory()",
    )
    peak, planned = run["peak"], run["found"]
    print(f"{name}: peak {peak / 1e6:.0f} MB, planned {planned / 1e6:.0f} MB")
    assert peak <= planned
    assert planned <= 4 * peak  # a plan that promises too much keeps threads idle
