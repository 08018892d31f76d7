"""Where the stages hand their results on: the rule, what it says of itself, and the room that there must be."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest
from skymill.chunking import errors
from skymill.engine import transpose
from skymill.engine.cluster_scratch import ClusterScratch
from skymill.engine.connect import connect
from skymill.engine.plan import Run
from skymill.engine.scratch import FolderScratch
from skymill.engine.transpose import WAYS, check_space, decide, on_this_machine, scratch_for
from skymill.engine.worker import Worker

REMOTE = "s3://survey/sky.zarr"
NAME = "0123456789abcdef"
IDENTITY = NAME + "more"
HERE = Run(None, Worker(10**9, 2), False)


class Client:
    """A client of a cluster as the rule sees it; its workers may see this machine's folders or not."""

    def __init__(self, *hosts, sees=True, scheme="tcp"):
        self.hosts, self.sees, self.scheme, self.scheduler, self.asked = hosts, sees, scheme, self, 0

    def identity(self, n_workers):
        return {"workers": {f"{self.scheme}://{host}:{n}": {"host": host} for n, host in enumerate(self.hosts)}}

    def sync(self, function, callback_timeout, **arguments):
        return function(**arguments)

    def run(self, function, *arguments):
        self.asked += 1
        return {host: self.sees and function(*arguments) for host in self.hosts}


def far(memory=10**9, processes=4):
    """A cluster elsewhere."""
    return Run(Client("10.1.1.1", "10.1.1.2"), Worker(memory, 1, processes=processes), False)


def near(**options):
    return Run(Client("127.0.0.1", "127.0.0.1", **options), Worker(10**9, 1, processes=2), False)


TEMPORARY = f"{tempfile.gettempdir()}/skymill-{NAME}"
GIGABYTE = 10**9


@pytest.mark.parametrize(
    ("store", "run", "scratch", "way", "needed", "expected"),
    [
        ("/sky.zarr", HERE, None, "auto", 0, ("disk", f"/sky.zarr.scratch/{NAME}")),
        ("/sky.zarr", far(), None, "auto", 0, ("disk", f"/sky.zarr.scratch/{NAME}")),
        ("/sky.zarr", HERE, "/fast", "auto", 0, ("disk", f"/fast/{NAME}")),
        ("/sky.zarr", HERE, "/fast", "disk", 0, ("disk", f"/fast/{NAME}")),
        ("/sky.zarr", HERE, None, "store", 0, ("store", f"/sky.zarr.scratch/{NAME}")),
        (REMOTE, HERE, None, "auto", 0, ("disk", TEMPORARY)),
        (REMOTE, near(), None, "auto", 0, ("disk", TEMPORARY)),
        (REMOTE, near(), None, "disk", 0, ("disk", TEMPORARY)),
        (REMOTE, near(sees=False), None, "auto", 0, ("cluster", "the memory of the workers")),
        (REMOTE, far(), None, "auto", GIGABYTE, ("cluster", "the memory of the workers")),
        (REMOTE, far(), None, "auto", 3 * GIGABYTE, ("store", f"{REMOTE}.scratch/{NAME}")),
        (REMOTE, far(), "s3://fast/here", "auto", 0, ("disk", f"s3://fast/here/{NAME}")),
        (REMOTE, HERE, None, "store", 0, ("store", f"{REMOTE}.scratch/{NAME}")),
        ("/sky.zarr", far(), None, "cluster", GIGABYTE, ("cluster", "the memory of the workers")),
    ],
)
def test_the_rule(store, run, scratch, way, needed, expected):
    found = decide(store, IDENTITY, run, scratch, way, needed=needed)
    assert (found.way, found.where) == expected
    assert found.reason
    assert str(found) == f"transpose by {found.way}, in {found.where}: {found.reason}"


@pytest.mark.parametrize(
    ("run", "scratch", "way", "error", "words"),
    [
        (HERE, None, "dsik", errors.InputError, "did you mean 'disk'"),
        (HERE, "/fast", "store", errors.InputError, '`scratch` came together with transpose="store"'),
        (HERE, "/fast", "cluster", errors.InputError, '`scratch` came together with transpose="cluster"'),
        (HERE, None, "cluster", errors.InputError, "came without a cluster"),
        (far(), None, "disk", errors.InputError, "share no known folder with s3://survey/sky.zarr"),
        (far(), None, "cluster", errors.MemoryLimitError, r"5\.0 GB do not fit .* 4 workers of 1\.0 GB"),
    ],
)
def test_what_cannot_be_had_is_refused(run, scratch, way, error, words):
    with pytest.raises(error, match=words):
        decide(REMOTE, IDENTITY, run, scratch, way, needed=5 * GIGABYTE)


def test_the_room_in_memory_is_half_of_what_the_tasks_leave():
    run = far(memory=1000, processes=3)
    for needed, fits in ((1200, True), (1203, False)):
        found = decide(REMOTE, IDENTITY, run, None, "auto", needed=needed, process=200)
        assert found.way == ("cluster" if fits else "store")
    assert decide(REMOTE, IDENTITY, run, None, "auto", needed=1, process=2000).way == "store"
    assert "1.2 kB fit into 1.2 kB" in decide(REMOTE, IDENTITY, run, None, "auto", needed=1200, process=200).reason
    assert "half of the memory" in decide(REMOTE, IDENTITY, run, None, "auto", needed=1203, process=200).reason


def test_every_way_is_told_of():
    assert transpose.__doc__ is not None
    assert all(f'"{way}"' in transpose.__doc__ for way in WAYS)


def test_workers_elsewhere_are_not_asked_and_workers_here_must_see_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # other processes ask in the one that all share
    assert on_this_machine(Client("192.168.7.7", scheme="inproc"))
    for hosts, sees, found, asked in [
        (("127.0.0.1", "localhost"), True, True, 1),
        (("127.0.0.1",), False, False, 1),  # a tunnel or a container
        (("127.0.0.1", "10.1.1.1"), True, False, 0),
        ((), True, False, 0),
    ]:
        client = Client(*hosts, sees=sees)
        assert on_this_machine(client) is found
        assert client.asked == asked
    assert list(tmp_path.iterdir()) == []


def test_clusters_of_this_machine_are_known_as_such(tmp_path, caplog):
    caplog.set_level(logging.INFO, "skymill")
    with connect() as client:
        run = Run(client, Worker.from_client(client), False)
        assert scratch_for(REMOTE, IDENTITY, run, None, "auto") == FolderScratch(TEMPORARY)
        assert "all tasks run on this machine" in caplog.text
        held = scratch_for(REMOTE, IDENTITY, run, None, "cluster", needed=1000)
        assert isinstance(held, ClusterScratch)
        assert len(held.holders) == 1
        assert scratch_for(REMOTE, IDENTITY, run, tmp_path, "auto") == FolderScratch(f"{tmp_path}/{NAME}")
    assert not Path(TEMPORARY).exists()


@pytest.mark.slow
def test_worker_processes_of_this_machine_are_known_as_such():
    with connect(workers=1, threads=1) as client:
        assert on_this_machine(client)


Usage = namedtuple("Usage", "total used free")


def test_the_disk_must_have_room_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 0, 10**6))
    with pytest.raises(errors.DiskFullError) as caught:
        scratch_for(str(tmp_path / "sky.zarr"), IDENTITY, HERE, None, "auto", needed=3 * 10**6)
    said = str(caught.value)
    assert f"{tmp_path}/sky.zarr.scratch/{NAME} needs 3.0 MB, and its file system has 1.0 MB free" in said
    for way_out in ("`scratch`", "`lmax`", 'transpose="cluster"', "Nothing has been written"):
        assert way_out in said
    assert list(tmp_path.iterdir()) == []
    assert isinstance(scratch_for(str(tmp_path), IDENTITY, HERE, None, "auto", needed=10**6), FolderScratch)
    check_space(f"{REMOTE}.scratch", 10**15)  # an object store takes what comes


def test_what_an_earlier_run_left_counts_as_there(tmp_path, monkeypatch):
    where = tmp_path / NAME
    FolderScratch(str(where)).write("a/x/0", [])
    (where / "a/x/1").write_bytes(bytes(2000))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 0, 1000))
    check_space(str(where), 3000)
    with pytest.raises(errors.DiskFullError, match=r"needs 1\.[0-9] kB"):
        check_space(str(where), 3200)


def test_the_room_is_that_of_the_file_system_of_the_folder(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    check_space(str(tmp_path / "not" / "there" / "yet"), free // 2)
    with pytest.raises(errors.DiskFullError):
        check_space(str(tmp_path / "not" / "there" / "yet"), 2 * free + 10**9)
