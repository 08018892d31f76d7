"""Where the stages of a transform hand their results to each other: chosen by a stated rule.

A transform over the sphere turns bands of rows into blocks of orders, through scratch space:

- "disk": a folder that all workers see.  That is `scratch` where given, else a folder beside a store that is a local
  path (whoever reads the store sees it too), else, where all tasks run on this machine, a folder for temporary files.
- "store": a prefix beside a store that is in an object store.

"auto" takes the first of these that can be had.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..chunking import objects
from ..chunking.errors import InputError, nearest
from .plan import Run
from .scratch import FolderScratch, Scratch

WAYS = ("auto", "disk", "store")


def scratch_for(
    store: str,
    identity: str,
    run: Run,
    scratch: str | os.PathLike[str] | None,
    transpose: str,
    *,
    needed: int = 0,
) -> Scratch:
    """Return the scratch space of a run.

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
    transpose : {"auto", "disk", "store"}
        Which way.
    needed : int
        Bytes that will be written.

    Raises
    ------
    InputError
        If the way is unknown, or cannot be had.
    """
    check_way(transpose)
    name = identity[:16]
    if scratch is not None:
        if transpose == "store":
            raise InputError('`scratch` came together with transpose="store"; give one of them.')
        return FolderScratch(f"{objects.address(scratch)}/{name}")
    beside = f"{store}.scratch/{name}"
    if transpose == "store" or objects.is_local(store):
        return FolderScratch(beside)
    if run.client is None:
        return FolderScratch(str(Path(tempfile.gettempdir(), f"skymill-{name}")))
    if transpose == "disk":
        raise InputError(
            f'transpose="disk" came, but the workers of a cluster share no known folder with {store}; give one that '
            "all of them see as `scratch`."
        )
    return FolderScratch(beside)


def check_way(transpose: str) -> None:
    """Raise InputError unless the way of the transpose is known."""
    if transpose not in WAYS:
        raise InputError(f"`transpose` {transpose!r} came; {nearest(transpose, WAYS)}.")
