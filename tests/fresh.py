"""Work in a fresh process, so that its memory peak and its time are its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

_FRAME = """
import json, time
from skymill.engine.worker import peak_memory
{setup}
began = time.perf_counter()
{work}
seconds = time.perf_counter() - began
print(json.dumps({{"seconds": seconds, "peak": peak_memory(), "found": {found}}}))
"""


def in_fresh_processes(work: str, *, setup: str = "", found: str = "None", repeats: int = 1) -> dict[str, Any]:
    """Run some lines in fresh processes; return the median of their seconds, their largest peak, and what they found.

    "found" is what the last one found, "every" what each did.

    Parameters
    ----------
    work : str
        Lines that are timed.
    setup : str
        Lines before them, imports for example.
    found : str
        An expression of JSON-able value, evaluated afterwards.
    repeats : int
        How many processes, one after the other.
    """
    runs = []
    for _ in range(repeats):
        text = _FRAME.format(setup=setup, work=work, found=found)
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=Path(__file__).parent)
        assert done.returncode == 0, done.stderr[-3000:]
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        "seconds": statistics.median(run["seconds"] for run in runs),
        "peak": max(run["peak"] for run in runs),
        "found": runs[-1]["found"],
        "every": [run["found"] for run in runs],
    }
