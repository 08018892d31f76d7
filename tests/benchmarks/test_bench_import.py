"""What importing costs, beside a bare interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest
from timing import median_seconds, show

pytestmark = pytest.mark.bench

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import skymill": ["-c", "import skymill"],
    "skymill --help": ["-m", "skymill.deploy.cli", "--help"],
    "import numpy": ["-c", "import numpy"],
    "import xarray": ["-c", "import xarray"],
}


def test_start():
    rows = []
    for name, arguments in COMMANDS.items():
        seconds = median_seconds(
            lambda a=arguments: subprocess.run([sys.executable, *a], check=True, stdout=subprocess.DEVNULL), 7
        )
        rows.append((name, seconds))
    bare = rows[0][1]
    show("Start", ("command", "wall s", "above the bare interpreter, s"), [(n, s, s - bare) for n, s in rows])
