"""Masks and templates hold their memory to the plan, measured in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from skymill.chunking import store as stores
from skymill.chunking.channels import Channels
from skymill.chunking.schema import MapInfo

RUNS = {
    "mask": (
        "sm.mask(sky, 'used', '(b > 20 or l < 30 and |elat| > 3) and (co > 0 or s0 < 1)', "
        "sources=np.random.default_rng(1).uniform(0, 80, (20000, 3)) / [1, 1, 100], frame='icrs', threads=2)"
        ".run(**quiet).run"
    ),
    "cuts": "sm.templates(sky, cube='ppv', spin_temperature=500.0, threads=2).run(**quiet)",
    "co": (
        "sm.templates(sky, co='co', co_systematic='s0', co_simulations=['s0', 's1', 's2', 's3'], threads=2)"
        ".run(**quiet)"
    ),
}


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of large tiles, with a cube of ten channels."""
    where: Path = tmp_path_factory.mktemp("memory") / "sky.zarr"
    stores.create(where, 512, frame="galactic", tile_nside=1)
    stores.create_channels(where, Channels.from_edges(np.linspace(-100, 100, 11)))
    lines = ("co", "s0", "s1", "s2", "s3")
    stores.create_maps(where, [MapInfo("ppv", "brightness", "K", dims=("channel", "cells"))])
    stores.create_maps(where, [MapInfo(name, "line intensity", "K km/s") for name in lines])
    grid, rng = stores.tiling_of(where), np.random.default_rng(4)
    for tile in range(grid.n_tiles):
        stores.write_tile(where, "ppv", tile, rng.gamma(2.0, 5.0, (10, grid.tile_npix)).astype(np.float32))
        for name in lines:
            stores.write_tile(where, name, tile, rng.normal(0.0, 1.0, grid.tile_npix).astype(np.float32))
    return str(where)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_the_peak_stays_below_the_plan(sky: str, run: str) -> None:
    script = (
        "import json, sys\nimport numpy as np\nimport skymill as sm\nsky, quiet = sys.argv[1], {'progress': False}\n"
        f"report = {RUNS[run]}\nprint(json.dumps([report.peak_memory, report.planned_memory, report.counts]))"
    )
    done = subprocess.run([sys.executable, "-c", script, sky], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak, planned, counts = json.loads(done.stdout.splitlines()[-1])
    print(f"{run}: peak {peak / 1e6:.0f} MB, planned {planned / 1e6:.0f} MB")
    assert counts == {"computed": 12}
    assert 0 < peak <= planned <= 4 * peak
