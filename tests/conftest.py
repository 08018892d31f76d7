"""What many tests share: a small sky, and where the real data lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from skies import make_sky

# Random cases are the same in every run, so that what passes here passes elsewhere; `make explore` draws new ones.
# How long a case takes says nothing about it on a busy machine.
_patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", _patient, derandomize=True)
settings.register_profile("explore", _patient, derandomize=False, print_blob=True)
settings.load_profile("same")


@pytest.fixture
def sky(tmp_path: Path) -> str:
    """A sky store of nside 32 with four bands, one unobserved tile and some missing pixels."""
    return make_sky(tmp_path / "sky.zarr")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real sky maps, which the repository does not hold."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SKYMILL_DATA", default))
    if not folder.is_dir():
        pytest.skip(
            f"no real sky data: set SKYMILL_DATA to the folder that holds maps_nside64 ({folder.name} is absent)"
        )
    return folder
