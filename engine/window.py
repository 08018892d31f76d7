"""The sliding window: a few tasks a thread are out at any time, wherever they run.

Covers: sending out, retrying, setting aside, and noticing that nobody is left to do the work.
Does not cover: what a task does (`mapping.py`, `reducing.py`).
"""

from __future__ import annotations

import contextlib
import errno
import math
import queue
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4
from weakref import WeakKeyDictionary

from ..chunking.errors import DiskFullError, InputError, RunError
from .worker import workers_of

if TYPE_CHECKING:
    from distributed import Client

TASKS_PER_THREAD = 3  # one running, one whose arguments are there, one on its way
PATIENCE_SECONDS = 30.0  # how long a cluster may be without any worker
RETRIES = 2
_SECONDS_BETWEEN_QUESTIONS = 1.0  # to the scheduler, of who is there


class Executor(Protocol):
    """Where tasks run: four methods stand between the engine and Dask."""

    def slots(self) -> int:
        """Return how many tasks may be out at once."""

    def submit[T](self, task: Callable[[T], Any], tile: T) -> Any:
        """Send one task out and return its future."""

    def check(self) -> None:
        """Raise RunError if the tasks that are out will never come back."""

    def lost(self) -> bool:
        """Return whether nobody is there any more who could do or cancel tasks."""


class ThreadsExecutor:
    """Threads of this process."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="skymill")

    def slots(self) -> int:
        """Return how many tasks may be out at once."""
        return self._threads + 1

    def submit[T](self, task: Callable[[T], Any], tile: T) -> Future[Any]:
        """Send one task out and return its future."""
        return self._pool.submit(task, tile)

    def check(self) -> None:
        """Do nothing: threads do not get lost."""

    def lost(self) -> bool:
        """Return False: threads do not get lost."""
        return False

    def close(self) -> None:
        """Drop what has not begun, wait for what has."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class DaskExecutor:
    """Workers of a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    patience : float, optional
        Seconds that the cluster may be without any worker.
    gpu : bool
        In a cluster that has both, tasks go to the workers with a GPU, or else to those without.
    homing : bool
        Send the first task to the same worker in every run, the second too, and so on, as long as the same workers are
        there: for tasks that find in their worker's memory what the last run left.  Idle workers may still take them.
    """

    def __init__(
        self, client: Client, patience: float | None = None, *, gpu: bool = False, homing: bool = False
    ) -> None:
        self._client = client
        self._gpu, self._homing = gpu, homing
        self._homes: list[str] = []
        self._resource: str | None = None
        self._run = uuid4().hex[:12]
        self._sent = 0
        self._patience = PATIENCE_SECONDS if patience is None else patience
        self._seen_worker = time.monotonic()
        self._slots = 1
        self._asked = 0.0
        self._answers = self._paused = False
        self._refresh()

    def _refresh(self) -> None:
        """Ask once a second who is there; workers may join and leave."""
        if time.monotonic() - self._asked < _SECONDS_BETWEEN_QUESTIONS:
            return
        self._asked = time.monotonic()
        known: list[dict[str, Any]] = []
        self._answers = False
        if self._alive():
            # Without an answer the connection broke, and the client does not know it yet.
            with contextlib.suppress(RunError):
                known = _recently(self._client, self._patience)
                self._answers = True
        self._paused = bool(known)
        workers = self._suitable([worker for worker in known if _at_work(worker)])
        if workers:
            self._seen_worker = time.monotonic()
            self._slots = TASKS_PER_THREAD * sum(int(worker["nthreads"]) for worker in workers)
            if self._homing:
                self._homes = sorted(worker["address"] for worker in workers for _ in range(int(worker["nthreads"])))

    def _suitable(self, workers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the workers that the tasks may go to; see `connect` for what workers say of themselves."""
        for resource in ("GPU", "CPU") if self._gpu else ("CPU", "GPU"):
            having = [worker for worker in workers if worker.get("resources", {}).get(resource)]
            if having:
                self._resource = resource
                return having
        self._resource = None
        return workers

    def _alive(self) -> bool:
        return bool(self._client.status == "running")

    def slots(self) -> int:
        """Return how many tasks may be out at once."""
        self._refresh()
        return self._slots

    def submit[T](self, task: Callable[[T], Any], tile: T) -> Any:
        """Send one task out and return its future."""
        home: dict[str, Any] = {}
        if self._homes:
            home = {"workers": [self._homes[self._sent % len(self._homes)]], "allow_other_workers": True}
        self._sent += 1
        # An annotation of the graph would get lost on the way; resources given to `submit` do not.
        resources = {self._resource: 1} if self._resource else None
        key = f"skymill-{self._run}-{self._sent}"
        return self._client.submit(task, tile, key=key, pure=False, resources=resources, **home)

    def check(self) -> None:
        """Raise RunError if the scheduler is lost or no worker has been there for a while."""
        self._refresh()
        silent = time.monotonic() - self._seen_worker
        # A client that tries to connect again has lost it too; a question on its way then may have taken our patience.
        if self._client.status in ("closed", "closing") or (silent > self._patience and not self._alive()):
            raise RunError("the connection to the Dask scheduler is lost. Start it again. " + _AGAIN)
        if silent > self._patience:
            if not self._answers:
                what = "does not answer"
            elif self._paused:
                what = "has only workers that are paused for want of memory"
            else:
                what = "has no workers"
            raise RunError(
                f"the Dask cluster {what} since {silent:.0f} s. Start it or its workers again, with more memory where "
                "that was short. " + _AGAIN
            )

    def lost(self) -> bool:
        """Return whether the scheduler is out of reach."""
        return not self._alive()


# When the scheduler of a client was asked last, and its answer: one short run follows the other.
_ANSWERS: WeakKeyDictionary[Client, tuple[float, list[dict[str, Any]]]] = WeakKeyDictionary()


def _recently(client: Client, patience: float) -> list[dict[str, Any]]:
    """Return what the scheduler knows of every worker, or knew less than a second ago."""
    asked, known = _ANSWERS.get(client, (-math.inf, []))
    if time.monotonic() - asked >= _SECONDS_BETWEEN_QUESTIONS:
        asked, known = time.monotonic(), workers_of(client, timeout=patience)
        _ANSWERS[client] = asked, known
    return known


def _at_work(worker: dict[str, Any]) -> bool:
    """Return whether a worker takes tasks or has one in hand; one that is paused and idle may stay so for ever."""
    if worker.get("status", "running") == "running":
        return True
    return bool(worker.get("metrics", {}).get("task_counts", {}).get("executing"))


_AGAIN = "Nothing that was finished is lost: run the same command again and it does only what is missing."
_WORKER_DIED = (
    "its worker process died each time it was tried, most likely because the task needs more memory than the worker "
    "has; give workers more memory or fewer threads, or make tiles smaller"
)


def run_window[T: Hashable](
    task: Callable[[T], Any],
    tiles: Sequence[T],
    executor: Executor,
    handle: Callable[[T, Any], None],
    *,
    retries: int = RETRIES,
) -> list[tuple[T, str]]:
    """Run a task for every tile and return the tiles that kept failing, each with its reason.

    Parameters
    ----------
    task : callable
        Picklable; takes the number of a tile, or what else `tiles` holds.
    tiles : sequence of int
        In the order in which they go out; tuples of tiles, where a task takes several.
    executor : Executor
        Where they run.
    handle : callable
        Called here with (tile, result) for each result, in order of arrival.
    retries : int
        How often a failing tile is tried again before it is set aside.

    Raises
    ------
    DiskFullError, RunError
        If the run as a whole cannot go on.
    """
    waiting = deque(tiles)
    suspects: deque[T] = deque()  # their worker died; they go out one by one, so that none takes others with it
    alone: set[T] = set()
    attempts: dict[T, int] = {}
    running: dict[Any, T] = {}
    arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
    set_aside: list[tuple[T, str]] = []
    try:
        while waiting or running or suspects:
            while (waiting and len(running) < executor.slots()) or (suspects and not running):
                tile = waiting.popleft() if waiting else suspects.popleft()
                future = _submit(executor, task, tile)
                running[future] = tile
                future.add_done_callback(arrived.put)
            try:
                future = arrived.get(timeout=1.0)
            except queue.Empty:
                executor.check()
                continue
            tile = running.pop(future)
            result, error = _outcome(future)
            if error is None:
                handle(tile, result)
                continue
            _raise_if_fatal(error, executor)
            if type(error).__name__ == "KilledWorker":
                # Dask has tried several workers by itself.  Whoever waited on the same worker died with the culprit,
                # so it counts only where the tile was out alone.
                if tile in alone:
                    set_aside.append((tile, _WORKER_DIED))
                else:
                    alone.add(tile)
                    suspects.append(tile)
                continue
            attempts[tile] = attempts.get(tile, 0) + 1
            if attempts[tile] <= retries:
                waiting.append(tile)
            else:
                set_aside.append((tile, f"{type(error).__name__}: {error}"))
    finally:
        if not executor.lost():
            for future in running:
                future.cancel()
    place = {tile: number for number, tile in enumerate(tiles)}
    return sorted(set_aside, key=lambda each: place[each[0]])


def _submit[T](executor: Executor, task: Callable[[T], Any], tile: T) -> Any:
    try:
        return executor.submit(task, tile)
    except (InputError, TypeError):
        raise
    except Exception as error:  # a scheduler that vanishes raises whatever its comms raise
        executor.check()
        raise RunError(f"tile {tile} could not be sent out ({type(error).__name__}: {error}). " + _AGAIN) from error


def _outcome(future: Any) -> tuple[Any, Exception | None]:
    """Return the result of a task that is done, and the error that it or the way to it ended in."""
    try:
        # Dask fetches the result only now; a scheduler that fell silent must not keep us.
        return future.result(timeout=PATIENCE_SECONDS), None
    except Exception as error:
        return None, error


def _raise_if_fatal(error: Exception, executor: Executor) -> None:
    """Stop the run for what would hit every other tile just the same."""
    everywhere = hits_every_tile(error)
    if everywhere is not None:
        raise everywhere from error
    if isinstance(error, RunError):  # a task that says so speaks of the run, not of its tile
        raise error
    if isinstance(error, TimeoutError):  # a result that did not come: each further one would be waited for as long
        executor.check()
    if "Cancelled" in type(error).__name__:
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:  # a lost scheduler cancels everything a moment before its status shows it
            executor.check()
            if executor.lost():
                raise RunError("the connection to the Dask scheduler is lost. Start it again. " + _AGAIN) from error
            time.sleep(0.2)
        raise RunError("the Dask cluster cancelled the tasks of this run. " + _AGAIN) from error


def hits_every_tile(error: BaseException) -> RunError | None:
    """Return what to tell of a disk that is full or a store that may not be touched; None of anything else."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        return DiskFullError(f"the disk is full ({error}). Free some space. " + _AGAIN)
    if number == errno.EROFS:
        return RunError(f"the store cannot be written ({error}). Make it writable. " + _AGAIN)
    if number in (errno.EACCES, errno.EPERM):
        return RunError(f"the store cannot be written or read ({error}). Change its permissions. " + _AGAIN)
    return None
