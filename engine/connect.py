"""Clusters: threads of this process, workers of this machine, or a scheduler elsewhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..chunking.errors import InputError, RunError
from .arguments import checked
from .worker import available_cores, available_memory, parse_bytes

if TYPE_CHECKING:
    from distributed import Client


@checked
def connect(
    address: str | None = None,
    *,
    workers: int | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
    gpus: int = 0,
    timeout: float = 30.0,
) -> Client:
    """Return a Dask client to hand to `plan.run`; use it in a `with` statement.

    Parameters
    ----------
    address : str, optional
        Address of a scheduler that runs elsewhere, for example "tcp://login1:8786".
    workers : int, optional
        Start so many worker processes on this machine.  Neither address nor workers: one worker in this process.
    threads : int, optional
        Threads of each worker; by default the cores of the machine are shared among the workers.
    memory : int or str, optional
        Memory of each worker, bytes or "4GB"; by default the memory of the machine is shared.
    gpus : int
        Start one worker of one thread for each of so many GPUs, beside `workers` for the CPU; these stay until
        `client.cluster.close()` or the end of the process.
    timeout : float
        Seconds to wait for a scheduler.

    Raises
    ------
    InputError
        If the options contradict each other.
    RunError
        If no scheduler answers.

    Examples
    --------
    >>> with connect() as client:
    ...     client.submit(sum, [1, 2, 3]).result()
    6
    """
    from distributed import Client

    size = parse_bytes(memory)
    if not 0 < timeout < math.inf:
        raise InputError(f"`timeout` {timeout} came; give a positive number of seconds.")
    if address is not None and "://" not in address:
        raise InputError(f'`address` {address!r} came; give the address of a scheduler, such as "tcp://login1:8786".')
    if address is not None:
        if workers is not None or threads is not None or memory is not None or gpus:
            raise InputError(
                f"`address` {address!r} came with workers, threads, memory or gpus; a cluster elsewhere has its own. "
                "Give one or the other."
            )
        try:
            return Client(address, timeout=timeout)
        except (OSError, TimeoutError, ValueError) as error:
            raise RunError(
                f"no Dask scheduler answers at {address} ({error}). Check the address, or start one "
                "with `dask scheduler`."
            ) from error
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise InputError(f"`{name}` {value} came; at least 1 is needed.")
    if gpus < 0:
        raise InputError(f"`gpus` {gpus} came; give 0 or more.")
    count = workers or (0 if gpus else 1)
    share = max(1, available_cores() // max(1, count)) if threads is None else threads
    limit = size or int(0.9 * available_memory()) // max(1, count + gpus)
    if gpus:
        return Client(_gpu_cluster(gpus, count, share, limit))
    # Without an address the client starts a cluster of its own, and closes it with itself.
    return Client(
        n_workers=count,
        threads_per_worker=share,
        processes=workers is not None,
        memory_limit=limit,
        dashboard_address=":0",
        silence_logs=40,
    )


def gpu_workers(gpus: int, count: int, threads: int, memory: int) -> dict[str, dict[str, Any]]:
    """Return what Dask needs to know of every worker: one process and one thread a GPU, the CPU workers beside."""
    from distributed import Nanny

    specification: dict[str, dict[str, Any]] = {}
    for number in range(gpus):
        options = {
            "nthreads": 1,
            "memory_limit": memory,
            "resources": {"GPU": 1},
            # The process has its GPU for itself, so JAX may take nearly all of it at once.
            "env": {"CUDA_VISIBLE_DEVICES": str(number), "XLA_CLIENT_MEM_FRACTION": ".90"},
        }
        specification[f"gpu-{number}"] = {"cls": Nanny, "options": options}
    for number in range(count):
        options = {
            "nthreads": threads,
            "memory_limit": memory,
            "resources": {"CPU": threads},
            "env": {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"},
        }
        specification[f"cpu-{number}"] = {"cls": Nanny, "options": options}
    return specification


def _gpu_cluster(gpus: int, count: int, threads: int, memory: int) -> Any:
    from distributed import Scheduler, SpecCluster

    return SpecCluster(
        workers=gpu_workers(gpus, count, threads, memory),
        scheduler={"cls": Scheduler, "options": {"dashboard_address": ":0"}},
    )
