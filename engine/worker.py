"""What one worker has: memory, threads, device."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..chunking.errors import InputError, RunError

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class Worker:
    """One worker process.

    Parameters
    ----------
    memory : int
        Bytes that the process may use.
    threads : int
        Tasks that it runs at once.
    device : {"cpu", "gpu"}
        Where its kernels run.
    device_memory : int, optional
        Bytes of the device, for a GPU.
    processes : int
        How many such workers there are.

    Examples
    --------
    >>> Worker(memory=8 * 10**9, threads=2).memory_per_task(reserved=10**9)
    3500000000
    """

    memory: int
    threads: int
    device: str = "cpu"
    device_memory: int | None = None
    processes: int = 1

    def __post_init__(self) -> None:
        for name, value in (("threads", self.threads), ("memory", self.memory)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise InputError(f"`{name}` {value!r} came; an integer is expected.")
        if self.threads < 1:
            raise InputError(f"`threads` {self.threads} came; a worker has at least one thread.")
        if self.memory < 1:
            raise InputError(f"`memory` {self.memory} came; a worker has some bytes of memory.")

    def memory_per_task(self, reserved: int) -> int:
        """Return the bytes that one task may use beside `reserved` bytes of the process itself."""
        return max(0, self.memory - reserved) // self.threads

    @classmethod
    def here(cls, threads: int | None = None, memory: int | None = None) -> Worker:
        """Return this process as a worker: all the cores and the memory that it may use, unless told less."""
        return cls(
            memory=available_memory() if memory is None else memory,
            threads=available_cores() if threads is None else threads,
        )

    @classmethod
    def from_client(cls, client: Client) -> Worker:
        """Return the smallest worker of a Dask cluster, as the one that every task must fit.

        Raises
        ------
        RunError
            If the cluster has no worker or does not answer.
        """
        known = workers_of(client)
        if not known:
            raise RunError(
                "the Dask cluster has no workers. Start some, or wait for them (`client.wait_for_workers(1)`), "
                "and run the same command again."
            )
        smallest = min(known, key=lambda w: _limit(w) / w["nthreads"])
        gpu = any(w.get("resources", {}).get("GPU") for w in known)
        return cls(
            memory=_limit(smallest),
            threads=int(smallest["nthreads"]),
            device="gpu" if gpu else "cpu",
            processes=len(known),
        )


def workers_of(client: Client, timeout: float = 30.0) -> list[dict[str, Any]]:
    """Return what the scheduler knows of every worker, its address included.

    Raises
    ------
    RunError
        If the scheduler is lost or does not answer within `timeout` seconds.
    """
    # `Client.scheduler_info` would wait for ever on a scheduler that is there and says nothing.
    scheduler: Any = client.scheduler  # None once the client is closed
    try:
        known = client.sync(scheduler.identity, n_workers=-1, callback_timeout=timeout)
    except (OSError, TimeoutError, AttributeError) as error:
        raise RunError(
            f"the Dask scheduler does not answer ({type(error).__name__}: {error}). Start it again, and run the same "
            "command again: it does only what is missing."
        ) from error
    return [{**worker, "address": address} for address, worker in known["workers"].items()]


def _limit(known: dict[str, Any]) -> int:
    return int(known.get("memory_limit") or available_memory())


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def available_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or its control group's limit."""
    total = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_memory() -> int:
    """Return the resident size of this process now, in bytes; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * int(os.sysconf("SC_PAGE_SIZE"))
    except OSError:
        return 0


def forget_peak_memory() -> None:
    """Let `peak_memory` begin anew, where the system can: a process may have done something larger before."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, where Dask has told it not to; return whether that was needed.

    Dask starts its workers with MALLOC_TRIM_THRESHOLD_ at 64 kB, so that every array of a tile is given back to the
    system at once and each of its pages faulted in again by the next: measured, twice the time of a tile.  The largest
    resident size is bounded by the plan all the same.
    """
    if int(os.environ.get("MALLOC_TRIM_THRESHOLD_") or _TRIM_BYTES) >= _TRIM_BYTES:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not the C library of GNU: then the setting means nothing either
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES) and mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES))


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_TRIM_BYTES, _MMAP_BYTES = 1 << 28, 1 << 25  # 32 MiB is the most that the C library takes


def parse_bytes(text: str | int | float | None) -> int | None:
    """Return a number of bytes from "2GB", "500 MB", "1.5GiB" or a plain number; None stays None.

    Raises
    ------
    InputError
        If it is no amount of memory.

    Examples
    --------
    >>> parse_bytes("1.5 GB")
    1500000000
    """
    if text is None:
        return None
    size = _size(text)
    if size < 1:
        raise InputError(f'`memory` {text!r} came; give a positive amount such as "4GB".')
    return size


def _size(text: str | int | float) -> int:
    if isinstance(text, (int, float)) and not isinstance(text, bool) and math.isfinite(text):
        return int(text)
    cleaned = str(text).strip().lower()
    for suffix, factor in _SUFFIXES:
        if cleaned.endswith(suffix):
            cleaned, scale = cleaned.removesuffix(suffix).strip(), factor
            break
    else:
        scale = 1
    try:
        return int(float(cleaned) * scale)
    except (ValueError, OverflowError):
        raise InputError(f'`memory` {text!r} came; give bytes or an amount such as "4GB".') from None


_SUFFIXES = (
    ("kib", 2**10),
    ("mib", 2**20),
    ("gib", 2**30),
    ("tib", 2**40),
    ("kb", 10**3),
    ("mb", 10**6),
    ("gb", 10**9),
    ("tb", 10**12),
    ("b", 1),
)


def format_bytes(count: float) -> str:
    """Return an amount of memory for people.

    Examples
    --------
    >>> format_bytes(5_200_000_000)
    '5.2 GB'
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"
