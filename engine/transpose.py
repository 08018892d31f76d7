"""Where the stages of a transform hand their results to each other: chosen by a stated rule.

A transform over the sphere turns bands of rows into blocks of orders, through scratch space:

- "disk": a folder that all workers see.  That is `scratch` where given, else a folder beside a store that is a local
  path (whoever reads the store sees it too), else, where all tasks run on this machine, a folder for temporary files.
- "cluster": the memory of the workers of a Dask cluster, from worker to worker.  Ring coefficients may take half of
  what the tasks leave of it.  A run that loses a worker begins anew; the other ways go on where they stopped.
- "store": a prefix beside a store that is in an object store.

"auto" takes the first of these that can be had.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

from ..chunking import objects
from ..chunking.errors import DiskFullError, InputError, MemoryLimitError, nearest
from .plan import RESERVED_BYTES, Run
from .scratch import SUFFIX, FolderScratch, Scratch
from .worker import format_bytes, workers_of

if TYPE_CHECKING:
    from distributed import Client

WAYS = ("auto", "disk", "store", "cluster")

log = logging.getLogger("skymill")


class Decision(NamedTuple):
    """How the stages hand on their results, where, and why."""

    way: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"transpose by {self.way}, in {self.where}: {self.reason}"


def scratch_for(
    store: str,
    identity: str,
    run: Run,
    scratch: str | os.PathLike[str] | None,
    transpose: str,
    *,
    needed: int = 0,
    process: int = RESERVED_BYTES,
) -> Scratch:
    """Return the scratch space of a run, chosen as `decide` says; nothing is written yet.

    Parameters
    ----------
    store : str
        Address of the store that the run reads or writes.
    identity : str
        Of the run: another run has another folder, the same run finds its own.
    run : Run
        Where the tasks run.
    scratch : path, optional
        Folder to use.
    transpose : {"auto", "disk", "store", "cluster"}
        Which way.
    needed : int
        Bytes that it must hold.
    process : int
        Bytes that a worker needs for its tasks.

    Raises
    ------
    InputError
        If the way is unknown, or cannot be had.
    DiskFullError
        If the file system has less free space than is needed.
    MemoryLimitError
        If the memory of the cluster is asked for and too small.
    """
    decision = decide(store, identity, run, scratch, transpose, needed=needed, process=process)
    log.info("%s", decision)
    if decision.way != "cluster":
        check_space(decision.where, needed)
        return FolderScratch(decision.where)
    from .cluster_scratch import ClusterScratch

    assert run.client is not None
    return ClusterScratch.of(run.client)


def decide(
    store: str,
    identity: str,
    run: Run,
    scratch: str | os.PathLike[str] | None,
    transpose: str,
    *,
    needed: int = 0,
    process: int = RESERVED_BYTES,
) -> Decision:
    """Return how the stages of a run hand on their results; the parameters are those of `scratch_for`.

    Raises
    ------
    InputError
        If the way is unknown, or cannot be had.
    MemoryLimitError
        If the memory of the cluster is asked for and too small.
    """
    check_way(transpose)
    name = identity[:16]
    if scratch is not None:
        if transpose not in ("auto", "disk"):
            raise InputError(f'`scratch` came together with transpose="{transpose}"; give one of them.')
        return Decision("disk", f"{objects.address(scratch)}/{name}", "the folder was given")
    beside = f"{store}{SUFFIX}/{name}"
    local = objects.is_local(store)
    if transpose == "cluster":
        return _in_memory(run, needed, process)
    if transpose == "store":
        return Decision("store", beside, "it was asked for")
    if local:
        return Decision("disk", beside, "whoever reads the store sees the folder beside it")
    if run.client is None or on_this_machine(run.client):
        where = str(Path(tempfile.gettempdir(), f"skymill-{name}"))
        return Decision("disk", where, "all tasks run on this machine")
    if transpose == "disk":
        raise InputError(
            f'transpose="disk" came, but the workers of the cluster share no known folder with {store}; give one that '
            "all of them see as `scratch`."
        )
    try:
        return _in_memory(run, needed, process)
    except MemoryLimitError as error:
        return Decision("store", beside, str(error))


def _in_memory(run: Run, needed: int, process: int) -> Decision:
    if run.client is None:
        raise InputError('transpose="cluster" came without a cluster; give `run` a client (see skymill.connect).')
    worker = run.worker
    room = worker.processes * (max(0, worker.memory - process) // 2)
    have = f"{worker.processes} workers of {format_bytes(worker.memory)} beside {format_bytes(process)} for tasks"
    if needed > room:
        raise MemoryLimitError(
            f"{format_bytes(needed)} do not fit into half of the memory of {have}, which is {format_bytes(room)}. Give "
            "more workers, or more memory to each, or `scratch`, a folder that all of them see."
        )
    return Decision(
        "cluster",
        "the memory of the workers",
        f"{format_bytes(needed)} fit into {format_bytes(room)}, half of the memory of {have}; "
        "a run that loses a worker begins anew",
    )


def on_this_machine(client: Client) -> bool:
    """Return whether all workers of a cluster see the temporary folder of this machine.

    The scheduler knows the hosts of its workers.  Where all of these seem to be this machine, a file settles it: behind
    a tunnel, or in a container, another machine looks the same.
    """
    known = workers_of(client)
    schemes = {urlsplit(worker["address"]).scheme for worker in known}
    if schemes == {"inproc"}:
        return True
    if not known or not {worker["host"] for worker in known} <= _own_hosts():
        return False
    mark = Path(tempfile.gettempdir(), f"skymill-{uuid4().hex}")
    try:
        mark.touch()
        seen: dict[str, Any] = client.run(os.path.exists, str(mark))
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            mark.unlink()
    return all(seen.values())


def _own_hosts() -> set[str]:
    """Return the names and addresses that this machine goes by."""
    from distributed.utils import get_ip

    name = socket.gethostname()
    found = {"127.0.0.1", "::1", "localhost", name, get_ip()}
    with contextlib.suppress(OSError):
        found.update(socket.gethostbyname_ex(name)[2])
    return found


def check_space(where: str, needed: int) -> None:
    """Raise DiskFullError where the file system of a folder has less free space than is needed.

    What an earlier run left in the folder counts as there.  Object stores take whatever comes.
    """
    if not needed or not objects.is_local(where):
        return
    folder = Path(where)
    above = next(path for path in (folder, *folder.parents) if path.exists())
    if not above.is_dir():
        raise InputError(f"the scratch space {where} cannot be made: {above} is a file. Give `scratch`, a folder.")
    free = shutil.disk_usage(above).free
    there = sum(size for _, size, _ in objects.listing(where, ""))
    if needed - there > free:
        raise DiskFullError(
            f"the scratch space {where} needs {format_bytes(needed - there)}, and its file system has "
            f"{format_bytes(free)} free. Give `scratch`, a folder with more room; or a smaller `lmax`, or fewer maps "
            'at a time; or, with a cluster of enough memory, transpose="cluster". Nothing has been written.'
        )


def check_way(transpose: str) -> None:
    """Raise InputError unless the way of the transpose is known."""
    if transpose not in WAYS:
        raise InputError(f"`transpose` {transpose!r} came; {nearest(transpose, WAYS)}.")
