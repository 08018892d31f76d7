"""Plans: what a verb will do, known before it does anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..chunking.errors import InputError, MemoryLimitError, SkymillError
from .arguments import checked
from .records import RunReport, write_text
from .window import hits_every_tile
from .worker import Worker, format_bytes

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

# What a process holds before any data: the interpreter, NumPy, Zarr and, for the kernels, JAX with its compiler.
RESERVED_BYTES = 250_000_000
RESERVED_WITH_JAX_BYTES = 600_000_000


@dataclass(frozen=True)
class Run:
    """How a plan is being run: the client (None for this process), its workers, and whether to show progress."""

    client: Client | None
    worker: Worker
    progress: bool | None


@dataclass
class Plan[R]:
    """What a verb will do; nothing happens before `run`.

    Parameters
    ----------
    verb : str
        Name of the verb.
    target : str
        Address of what will be written.
    execute : callable
        Does it: takes a `Run` and returns the result.
    worker : Worker
        What a worker has that the plan was made for.
    todo : sequence of int
        Tiles to do.
    done : int
        Tiles that are finished already.
    n_tiles : int
        All of them; the rest hold nothing and cost nothing.
    read_bytes, write_bytes : int
        Uncompressed.
    seconds : float
        Wall time that the run will take, where the verb can tell; 0 where not.
    memory : mapping of str to int
        Bytes a task needs, by part.
    reserved : int
        Bytes of a process before any task.
    alternatives : callable, optional
        Returns (option, bytes a task) pairs to suggest where the memory does not suffice.
    notes : sequence of str
        Lines to show with the plan.
    lazily : callable, optional
        Makes the result as a lazy dataset.
    refit : callable, optional
        Makes the same plan for another worker, where a plan suits itself to the memory that there is.
    account : callable, optional
        Returns the JSON of a result; by default its own `to_json`.

    Examples
    --------
    >>> plan = Plan("count", "nowhere", execute=lambda run: 3, worker=Worker(10**9, 1))
    >>> plan.run()
    3
    """

    verb: str
    target: str
    execute: Callable[[Run], R]
    worker: Worker
    todo: Sequence[int] = ()
    done: int = 0
    n_tiles: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    seconds: float = 0.0
    memory: Mapping[str, int] = field(default_factory=dict)
    reserved: int = RESERVED_BYTES
    alternatives: Callable[[], Sequence[tuple[str, int]]] | None = None
    notes: Sequence[str] = ()
    lazily: Callable[[], xr.Dataset] | None = None
    refit: Callable[[Worker], Plan[R]] | None = None
    account: Callable[[R], str] | None = None

    @property
    def task_memory(self) -> int:
        """Bytes that one task needs."""
        return sum(self.memory.values())

    def process_memory(self, worker: Worker | None = None) -> int:
        """Bytes that one process of the worker needs, all its threads at work."""
        return self.reserved + (worker or self.worker).threads * self.task_memory

    def __str__(self) -> str:
        unobserved = self.n_tiles - len(self.todo) - self.done
        lines = [f"{self.verb} -> {self.target}"]
        if self.n_tiles:
            lines.append(
                f"  tiles   {len(self.todo)} to do, {self.done} done already, {unobserved} unobserved, "
                f"{self.n_tiles} in all"
            )
        lines.append(f"  data    {format_bytes(self.read_bytes)} to read, {format_bytes(self.write_bytes)} to write")
        parts = ", ".join(f"{part} {format_bytes(size)}" for part, size in self.memory.items())
        lines.append(f"  task    {format_bytes(self.task_memory)}" + (f" ({parts})" if parts else ""))
        lines.append(
            f"  worker  {self.worker.processes} x {self.worker.threads} threads on {self.worker.device}, "
            f"{format_bytes(self.process_memory())} of {format_bytes(self.worker.memory)}"
        )
        if self.seconds:
            lines.append(f"  time    about {_duration(self.seconds)}")
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)

    def check(self, worker: Worker) -> None:
        """Raise MemoryLimitError where a task does not fit into the worker, with the ways out that do."""
        allowed = worker.memory_per_task(self.reserved)
        if self.task_memory <= allowed:
            return
        fits: list[str] = []
        threads = (worker.memory - self.reserved) // max(1, self.task_memory)
        if threads >= 1:
            fits.append(f"threads={threads}")
        for option, needed in self.alternatives() if self.alternatives else ():
            if needed <= allowed:
                fits.append(f"{option} ({format_bytes(needed)})")
        memory = self.process_memory(worker)
        fits.append(f"memory={format_bytes(memory)} a worker")
        raise MemoryLimitError(
            f"{self.verb} needs {format_bytes(self.task_memory)} a task beside {format_bytes(self.reserved)} of the "
            f"process; a worker with {format_bytes(worker.memory)} and {worker.threads} threads has "
            f"{format_bytes(allowed)}. Any of these fits: {'; '.join(fits)}."
        )

    @checked
    def run(
        self,
        client: Client | None = None,
        *,
        progress: bool | None = None,
        report: str | os.PathLike[str] | None = None,
    ) -> R:
        """Do it, and return what the verb promises.

        Parameters
        ----------
        client : distributed.Client, optional
            Where the tasks run (see `connect`); by default in threads of this process.
        progress : bool, optional
            True or False; by default a bar on a terminal and log lines elsewhere.
        report : path, optional
            Where to write the report of the run as JSON.

        Raises
        ------
        MemoryLimitError
            If a task does not fit into a worker; nothing has been written then.
        RunError
            If the run could not finish; the same call continues it.
        DiskFullError
            If the disk is full.
        """
        if client is not None and not hasattr(client, "scheduler"):
            raise InputError(f"`client` {client!r} came; give what skymill.connect returns, or None for this process.")
        if report is not None and (os.path.isdir(report) or not os.fspath(report)):
            raise InputError(f"`report` {str(report)!r} came; give the name of a file, not a folder.")
        worker = self.worker if client is None else Worker.from_client(client)
        plan = self if client is None or self.refit is None else self.refit(worker)
        plan.check(worker)
        try:
            result = plan.execute(Run(client, worker, progress))
        except OSError as error:
            # Outside tasks too, a full disk or a store that is read-only ends in words.
            told = None if isinstance(error, SkymillError) else hits_every_tile(error)
            if told is None:
                raise
            raise told from error
        if report is not None:
            known: Any = result
            write_text(report, known.to_json() if self.account is None else self.account(result))
        return result

    def lazy(self) -> xr.Dataset:
        """Return the maps that the run would write as a lazy dataset, computing nothing and writing nothing.

        Raises
        ------
        InputError
            If the result of the verb is not a map.
        """
        if self.lazily is None:
            raise InputError(f"{self.verb} does not make maps that can be had lazily; use .run().")
        return self.lazily()


def _duration(seconds: float) -> str:
    """Return a time for people, to the two digits that an estimate has.

    Examples
    --------
    >>> [_duration(seconds) for seconds in (0.04, 17.3, 812.0, 7300.0)]
    ['0.04 s', '17 s', '14 min', '2 h']
    """
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"


__all__ = ["Plan", "Run", "RunReport", "Worker"]
