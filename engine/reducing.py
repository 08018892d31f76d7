"""Reduce: tile in, small statistic out, merged in the order of tiles whatever the order of arrival."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import RunError
from . import ledger
from .mapping import make_executor
from .plan import Run
from .progress import Progress
from .window import TASKS_PER_THREAD, ThreadsExecutor, run_window
from .worker import Worker

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class ReduceTask[S]:
    """Reads the maps of one tile and returns the statistic of it."""

    kernel: Callable[[int, dict[str, NDArray[Any]]], S]
    store: str
    names: tuple[str, ...]
    verify: ledger.Verify = "always"

    def __call__(self, tile: int) -> S:
        """Return the statistic of a tile."""
        inputs = {}
        for name in self.names:
            length = stores.tile_length(self.store, name)
            start, stop = tile * length, (tile + 1) * length
            inputs[name] = ledger.read_held(self.store, name, start, stop, verify=self.verify)
        return self.kernel(tile, inputs)


@dataclass(frozen=True)
class _Several[S]:
    """Does a task for each of several tiles, one after the other."""

    task: Callable[[int], S]

    def __call__(self, tiles: tuple[int, ...]) -> list[S]:
        """Return the statistic of each."""
        return [self.task(tile) for tile in tiles]


def reduce_tiles[S](
    kernel: Callable[[int, dict[str, NDArray[Any]]], S],
    *,
    store: stores.StoreAddress,
    names: Sequence[str],
    merge: Callable[[S, S], S],
    initial: S | None = None,
    tiles: Sequence[int] | None = None,
    client: Client | None = None,
    threads: int | None = None,
    progress: bool | None = None,
    label: str = "reduce",
    cubes: bool = False,
    verify: ledger.Verify = "always",
    tasks_a_thread: int | None = None,
) -> S:
    """Return the merged statistic of all tiles.

    Parameters
    ----------
    kernel : callable
        `(tile, inputs) -> statistic`: picklable, and so is what it returns, which must be small.
    store : str or path
        The store to read.
    names : sequence of str
        Maps that the kernel sees, each (cells,) of one tile; a cube is (channel, cells).
    merge : callable
        `(left, right) -> statistic`; called in the order of tiles, so that the result is the same to the last bit
        for any number of workers.
    initial : optional
        What to begin with; without it the statistic of the first tile.
    tiles : sequence of int, optional
        Default: tiles that are observed in all of the maps.
    client : distributed.Client, optional
        Where to run; default threads of this process.
    threads : int, optional
        How many, without a client.
    progress : bool, optional
        See `Plan.run`.
    label : str
        What the progress bar says.
    cubes : bool
        Whether the kernel knows what to do with cubes; otherwise they are refused.
    verify : {"always", "once"}
        How often a process holds a tile against the ledger, see `ledger.read_held`.
    tasks_a_thread : int, optional
        On a cluster, tasks take several tiles, so many that each thread has no more tasks than this, and a tile goes to
        the same worker in every reduction, whatever the number: for kernels that keep in memory what they have read,
        and that take less time than Dask takes for a task.  Default, a task is a tile, and goes anywhere.

    Raises
    ------
    InputError
        If one of the names is a cube, unless `cubes`.
    RunError
        If a tile keeps failing, or no tile has data in all maps and there is no `initial`.

    Examples
    --------
    >>> import tempfile, numpy as np, skymill as sm
    >>> from skymill.engine.reducing import reduce_tiles
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("dust", folder + "/sky.zarr", 16, seed=1).run()
    ...     count = lambda tile, inputs: int(np.isfinite(inputs["i160"]).sum())
    ...     reduce_tiles(count, store=folder + "/sky.zarr", names=["i160"], merge=lambda a, b: a + b)
    3072
    """
    where = stores.address(store)
    if names:  # otherwise the kernel reads for itself, and has looked
        stores.require_maps(where, names, cubes=cubes)
    going = sorted(stores.observed_tiles(where, names) if tiles is None else tiles)
    run = Run(client, Worker.here(threads), progress)
    task = ReduceTask(kernel, where, tuple(names), verify)
    merged: list[S] = [] if initial is None else [initial]
    early: dict[int, S] = {}
    position = 0
    executor = make_executor(run, homing=tasks_a_thread is not None)

    def handle(tiles: tuple[int, ...], statistics: list[S]) -> None:
        # Tasks arrive in any order; what is early waits: a window's worth at most, where a task is a tile.
        nonlocal position
        early.update(zip(tiles, statistics, strict=True))
        while position < len(going) and going[position] in early:
            arrived = early.pop(going[position])
            merged[:] = [merge(merged[0], arrived)] if merged else [arrived]
            position += 1
        for _ in tiles:
            bar.advance()

    try:
        several = len(going)
        if tasks_a_thread is not None and client is not None:
            several = min(several, tasks_a_thread * executor.slots() // TASKS_PER_THREAD)
        # Neighbours are alike, and so is what they take: each task has some of everywhere.
        groups = [tuple(going[first::several]) for first in range(several)]
        with Progress(label, len(going), progress) as bar:
            failed = run_window(_Several(task), groups, executor, handle)
    finally:
        if isinstance(executor, ThreadsExecutor):
            executor.close()
    if failed:
        tiles_of, reason = failed[0]
        which = f"tile {tiles_of[0]}" if len(tiles_of) == 1 else f"one of the tiles {', '.join(map(str, tiles_of))}"
        raise RunError(f"{label}: {which} of {where} cannot be reduced: {reason}")
    if not merged:
        raise RunError(f"{label}: no tile of {where} has data in all of {', '.join(names)}; nothing to go over.")
    return merged[0]
