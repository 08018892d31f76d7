"""A scheduler or all workers lost in the middle of a run: an error within bounded time, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import faulty
import pytest
from skies import content
from skymill.chunking import errors
from skymill.engine import window
from skymill.engine.connect import connect

# That a lost run ends at all is what the time limit of a test asserts; how soon depends on the machine.
pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

PATIENCE = 8.0  # seconds without an answer or a worker that end a run; a busy machine answers within these


class Cluster:
    """A scheduler and a worker, each a process of its own, as on a real cluster."""

    def __init__(self, folder):
        self.file = Path(folder, "scheduler.json")
        environment = {**os.environ, "PYTHONPATH": str(Path(faulty.__file__).parent)}
        options = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
        self.scheduler = subprocess.Popen(
            [*command, "--no-dashboard", "--no-show", "--scheduler-file", str(self.file)], **options
        )
        command = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(self.file)]
        self.worker = subprocess.Popen(
            [*command, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "1GB"], **options
        )

    def address(self):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, ValueError):
                return json.loads(self.file.read_text())["address"]
            time.sleep(0.05)
        raise AssertionError("the scheduler did not start")

    def close(self):
        for process in (self.worker, self.scheduler):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(30)


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(str(tmp_path))
    yield made
    made.close()


@pytest.mark.parametrize("lost", ["scheduler killed", "scheduler silent", "worker killed"])
def test_a_lost_cluster_ends_the_run_and_loses_nothing(tmp_path, cluster, lost, monkeypatch):
    monkeypatch.setattr(window, "PATIENCE_SECONDS", PATIENCE)
    sky = faulty.make_sky(tmp_path / "sky.zarr")
    diary = tmp_path / "diary"
    wanted = faulty.undisturbed(sky, diary)
    victim = cluster.worker if lost == "worker killed" else cluster.scheduler

    def strike():
        while len(faulty.calls(diary)) < 10:
            time.sleep(0.02)
        victim.send_signal(signal.SIGSTOP if lost == "scheduler silent" else signal.SIGKILL)

    client = connect(cluster.address())
    client.wait_for_workers(1, timeout=120)
    striker = threading.Thread(target=strike, daemon=True)
    striker.start()
    words = {
        "scheduler killed": "connection to the Dask scheduler is lost",
        "scheduler silent": "does not answer",
        "worker killed": "has no workers",
    }[lost]
    try:
        with pytest.raises(errors.RunError, match=words) as caught:
            faulty.total_plan(sky, diary, delay=0.1).run(client, progress=False)
        assert "run the same command again" in str(caught.value)
        striker.join(60)
    finally:
        cluster.close()
        with contextlib.suppress(TimeoutError, OSError, AssertionError):
            client.close(timeout=5)
    known = faulty.finished(sky)
    assert len(known) >= 5
    before = faulty.calls(diary)
    faulty.total_plan(sky, diary).run(progress=False)
    assert not known & set(faulty.calls(diary) - before)
    assert content(sky, "total", "ledger/total") == wanted


def test_a_cluster_without_workers_is_refused_at_once(tmp_path):
    sky = faulty.make_sky(tmp_path / "sky.zarr", tile_nside=1)
    with faulty.cluster(workers=1) as client:
        client.cluster.scale(0)
        deadline = time.monotonic() + 120
        while client.scheduler_info()["workers"] and time.monotonic() < deadline:
            time.sleep(0.1)
        with pytest.raises(errors.RunError, match="has no workers"):
            faulty.total_plan(sky, tmp_path / "diary").run(client, progress=False)
    assert faulty.finished(sky) == set()


def test_a_scheduler_that_is_not_there_is_told(tmp_path):
    with pytest.raises(errors.RunError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        connect("tcp://127.0.0.1:9", timeout=1.0)
