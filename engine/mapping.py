"""Map: tile in, tile out.  Every verb that writes maps is one call of `map_plan`.

One task owns one tile: it reads the inputs, runs the kernel, writes whole shards, their piece of the overview, and
then ticks the ledger.  What was finished before is verified against the ledger's digest instead of computed again.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import objects, overview, store
from ..chunking.channels import Channels
from ..chunking.errors import FormatError, InputError, RunError
from ..chunking.schema import MapInfo, validate
from ..chunking.tiling import Tiling
from . import ledger
from .plan import RESERVED_BYTES, Plan, Run
from .progress import Progress
from .records import RunReport, TileRecord
from .targets import tile_bytes, tiles_over
from .window import DaskExecutor, ThreadsExecutor, run_window
from .worker import Worker, forget_peak_memory, keep_freed_memory, peak_memory, resident_memory

if TYPE_CHECKING:
    import xarray as xr

type Kernel = Callable[[int, dict[str, NDArray[Any]]], dict[str, Any]]

STATISTICS = "_statistics"


@dataclass(frozen=True)
class TileTask:
    """The work on one tile; small, and the same for all tiles.

    Parameters
    ----------
    kernel : callable
        (tile, inputs) -> outputs; see `map_plan`.
    source, target : str
        Stores read and written.
    reads, writes : tuple of str
        Maps read and written.
    tile_npix : int
        Pixels of a tile of the target.
    gpu : bool
        Whether the kernel runs on a GPU where there is one.
    """

    kernel: Kernel
    source: str | None
    reads: tuple[str, ...]
    target: str
    writes: tuple[str, ...]
    tile_npix: int
    gpu: bool = False

    def read(self, tile: int) -> dict[str, NDArray[Any]]:
        """Return the inputs of the kernel for one tile of the target; the source may be tiled otherwise."""
        start, stop = tile * self.tile_npix, (tile + 1) * self.tile_npix
        return {name: ledger.read_held(self.source or self.target, name, start, stop) for name in self.reads}

    def __call__(self, tile: int) -> TileRecord:
        """Return the record of the tile, computed or found intact."""
        keep_freed_memory()
        began = time.perf_counter()
        if _intact(self.target, self.writes, tile):
            seconds = {"verify": time.perf_counter() - began}
            return self._record(tile, "verified", 0, seconds, _statistics(self.target, self.writes[0], tile))
        inputs = self.read(tile)
        read = time.perf_counter()
        outputs = self.kernel(tile, inputs)
        del inputs
        computed = time.perf_counter()
        statistics = outputs.pop(STATISTICS, {})
        unknown = sorted(set(outputs) - set(self.writes))
        if unknown:
            raise InputError(f"the kernel made {', '.join(unknown)}; the plan writes {', '.join(self.writes)}.")
        cells = 0
        if statistics:
            objects.put(self.target, _statistics_key(self.writes[0], tile), json.dumps(statistics).encode())
        for name in self.writes:
            digest = ledger.NOTHING_STORED
            if name in outputs:
                cells = outputs[name].shape[-1]
                if store.write_tile(self.target, name, tile, outputs[name]):
                    digest = ledger.digest_of(outputs[name])
                overview.write_piece(self.target, name, tile, outputs[name])
            ledger.tick(self.target, name, tile, digest)
        seconds = {"read": read - began, "compute": computed - read, "write": time.perf_counter() - computed}
        return self._record(tile, "computed", cells, seconds, statistics)

    def _record(
        self, tile: int, status: str, cells: int, seconds: Mapping[str, float], statistics: Mapping[str, Any]
    ) -> TileRecord:
        process = f"{socket.gethostname()}:{os.getpid()}"
        return TileRecord(tile, status, cells, seconds, peak_memory(), process, statistics)


def _intact(target: str, names: Sequence[str], tile: int) -> bool:
    """Return whether a tile is finished and holds what the ledger says."""
    for name in names:
        recorded = ledger.entry(target, name, tile)
        if recorded == ledger.NOT_DONE:
            return False
        if recorded == ledger.NOTHING_STORED:
            continue
        try:
            values = store.read_tile(target, name, tile)
        except FormatError:
            return False
        if ledger.digest_of(values) != recorded or not overview.holds_piece(target, name, tile, values):
            return False
    return True


def _statistics_key(name: str, tile: int) -> str:
    return f"ledger/{name}/statistics/{tile}"


def _statistics(target: str, name: str, tile: int) -> dict[str, Any]:
    kept = objects.get(target, _statistics_key(name, tile))
    return {} if kept is None else dict(json.loads(kept))


def map_plan(
    verb: str,
    kernel: Kernel,
    *,
    target: store.StoreAddress,
    writes: Sequence[MapInfo],
    source: store.StoreAddress | None = None,
    reads: Sequence[str] = (),
    memory: Mapping[str, int] | None = None,
    reserved: int = RESERVED_BYTES,
    parameters: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    tiles: Sequence[int] | None = None,
    overwrite: bool = False,
    worker: Worker | None = None,
    target_tiling: Tiling | None = None,
    before: Callable[[], None] | None = None,
    after: Callable[[RunReport], Any] | None = None,
    alternatives: Callable[[], Sequence[tuple[str, int]]] | None = None,
    notes: Sequence[str] = (),
    gpu: bool = False,
    cubes: bool = False,
    channels: Channels | None = None,
) -> Plan[RunReport]:
    """Return the plan that runs a kernel over the tiles of the sky and writes maps.

    Parameters
    ----------
    verb : str
        Name of the verb, for messages and provenance.
    kernel : callable
        `(tile, inputs) -> outputs`: small and picklable; `inputs` maps the names in `reads` to (cells,) arrays of
        the tile, (channel, cells) for cubes, `outputs` the names in `writes` likewise.  A name left out stores
        nothing.  The key `_statistics` may hold a small JSON-able mapping that reaches `after` through the records,
        also of tiles finished before.
    target, writes
        Where the maps go, and what they are.
    source, reads
        Where the inputs come from (default: the target), and their names.
    memory : mapping, optional
        Bytes of the kernel's own temporaries, by part.
    reserved : int
        Bytes of a process before any task.
    parameters : mapping, optional
        JSON-able facts that determine the result; with the digests of the inputs they identify the run.
    inputs : mapping, optional
        Further digests, by name, of what the kernel reads by itself.
    tiles : sequence of int, optional
        Tiles that can hold values; default those observed in all `reads`, or all where nothing is read.
    overwrite : bool
        Replace maps that another run made.
    worker : Worker, optional
        Default this process.
    target_tiling : Tiling, optional
        Tiling of the target where it does not exist yet; `before` creates it.
    before, after : callable, optional
        Called when the run begins, and with its report when it has finished.
    alternatives, notes
        See `Plan`.
    gpu : bool
        Whether the kernel runs on a GPU where there is one: on a cluster that has both, its tasks go to the workers
        with a GPU, all others to those without.
    cubes : bool
        Whether the kernel knows what to do with cubes among `reads`; otherwise they are refused.
    channels : Channels, optional
        Of the cubes among `writes`; default those of the target.  They are written to a target that has none.

    Raises
    ------
    InputError, MissingMapError, StoreNotFoundError, FormatError, IdentityError
        If source and target do not fit, an input is missing or unfinished, or an output belongs to another run.
    """
    from .. import __version__

    there = store.address(target)
    where = there if source is None else store.address(source)
    tiling = target_tiling or store.tiling_of(there)
    if reads:
        store.require_maps(where, reads, cubes=cubes)
        _check_same_grid(where, there, tiling)
        over = [made.name for made in writes if made.name in reads and where == there]
        if over:  # it is deleted before the first tile is read
            raise InputError(
                f"{verb} would write {over[0]!r} over a map that it reads; give the result another name, or write to "
                "another store."
            )
    facts: dict[str, Any] = {
        "verb": verb,
        "skymill": __version__,
        "parameters": dict(parameters or {}),
        "inputs": {**{name: ledger.map_digest(where, name) for name in reads}, **dict(inputs or {})},
    }
    if tiles is None:
        tiles = range(tiling.n_tiles)
        if reads:
            tiles = tiles_over(store.observed_tiles(where, reads), store.tiling_of(where), tiling)
    for made in writes:
        validate(made)
    maps = tuple(replace(made, provenance={**dict(made.provenance), **facts}) for made in writes)
    done: frozenset[int] = frozenset()
    if store.exists(there):
        ledger.check(there, maps, facts, overwrite=overwrite)
        done = _finished(there, maps, facts)
    todo = [tile for tile in tiles if tile not in done]
    depth = _depth(there, maps, channels)
    width = sum(np.dtype(made.dtype).itemsize * (depth if made.is_cube else 1) for made in maps)
    sizes = [tile_bytes(where, [name], tiling.tile_npix) for name in reads]
    largest = max([4 * tiling.tile_npix * (depth if made.is_cube else 1) for made in maps] + sizes)
    parts = {
        "inputs": sum(sizes),
        # One map at a time is decoded or encoded: compressed bytes, chunks on their way, the assembled shard.
        "codecs": 3 * largest,
        **dict(memory or {}),
        "outputs": width * tiling.tile_npix,
    }
    task = TileTask(kernel, where, tuple(reads), there, tuple(made.name for made in maps), tiling.tile_npix, gpu)

    def execute(run: Run) -> RunReport:
        if before is not None:
            before()
        if channels is not None:
            store.create_channels(there, channels)
        ledger.begin(there, maps, facts, overwrite=overwrite)
        overview.begin(there, maps)
        # Whoever calls may hold more than a fresh worker does; the run is held to what it adds.
        before_tasks = resident_memory() if run.client is None else 0
        if run.client is None:
            forget_peak_memory()
        report = _go(task, list(tiles), tiling, run)
        report.planned_memory = plan.process_memory(run.worker) + max(0, before_tasks - plan.reserved)
        overview.finish(there, maps)
        objects.sweep(there, task.writes)
        if report.set_aside:
            raise set_aside_error(report)
        if after is not None:
            after(report)
        ledger.set_finished(there, task.writes, True)
        return report

    plan = Plan(
        verb=verb,
        target=there,
        execute=execute,
        worker=worker or Worker.here(),
        todo=todo,
        done=len([tile for tile in tiles if tile in done]),
        n_tiles=tiling.n_tiles,
        read_bytes=sum(sizes) * len(todo),
        write_bytes=width * tiling.tile_npix * len(todo),
        memory=parts,
        reserved=reserved,
        alternatives=alternatives,
        notes=notes,
        lazily=lambda: _lazy(task, maps, tuple(tiles), tiling, depth),
    )
    return plan


def _depth(target: str, maps: Sequence[MapInfo], channels: Channels | None) -> int:
    """Return how many channels the cubes among the maps to be written have; 0 where there is none."""
    cubes = [made.name for made in maps if made.is_cube]
    there = store.channels_of(target) if cubes and store.exists(target) else None
    if there is not None and channels is not None:
        store.check_channels(target, there, channels)
    channels = there or channels
    if cubes and channels is None:
        raise InputError(f"cube {cubes[0]!r} is to be written to {target}, whose channels are not known; give them.")
    return channels.count if cubes and channels is not None else 0


def _check_same_grid(source: str, target: str, tiling: Tiling) -> None:
    nside = store.tiling_of(source).nside
    if nside != tiling.nside:
        raise InputError(
            f"{source} has nside {nside}, {target} has nside {tiling.nside}; maps of one run have one nside. Write to "
            "a store of the nside of the input, or bring the input to that nside with skymill.degrade."
        )
    if source != target and store.exists(target) and store.frame_of(source) != store.frame_of(target):
        raise InputError(
            f"{source} is in frame {store.frame_of(source)}, {target} in {store.frame_of(target)}; write to a store in "
            "the frame of the input."
        )


def _finished(target: str, maps: Sequence[MapInfo], facts: Mapping[str, Any]) -> frozenset[int]:
    """Return the tiles that this very run has finished in all of its maps."""
    mine = ledger.identity_of(facts)
    finished: set[int] | None = None
    for made in maps:
        known = ledger.identity(target, made.name)
        column = ledger.column(target, made.name)
        if known is None or known[0] != mine or column is None:
            return frozenset()
        tiles = set(np.flatnonzero(column != ledger.NOT_DONE).tolist())
        finished = tiles if finished is None else finished & tiles
    return frozenset(finished or ())


def _go(task: TileTask, tiles: list[int], tiling: Tiling, run: Run) -> RunReport:
    """Send the tiles out and gather their records."""
    began = time.perf_counter()
    report = RunReport(task_verb(task), task.target)
    observed = set(tiles)
    for name in task.writes:
        column = ledger.column(task.target, name)
        assert column is not None
        # Also where something else stands: an entry that was damaged would never be looked at again.
        empty = [int(t) for t in np.flatnonzero(column != ledger.NOTHING_STORED) if int(t) not in observed]
        ledger.tick_many(task.target, name, empty, ledger.NOTHING_STORED)
    if len(observed) < tiling.n_tiles:
        report.counts["unobserved"] = tiling.n_tiles - len(observed)
    executor = make_executor(run, gpu=task.gpu)
    try:
        with Progress(report.verb, len(tiles), run.progress) as progress:

            def handle(tile: int, record: TileRecord) -> None:
                report.add(record)
                progress.advance(record.cells)

            report.set_aside = run_window(task, tiles, executor, handle)
    finally:
        if isinstance(executor, ThreadsExecutor):
            executor.close()
    report.records.sort(key=lambda record: record.tile)
    report.seconds["wall"] = time.perf_counter() - began
    return report


def task_verb(task: TileTask) -> str:
    """Return the verb under which the first map of a task is being made."""
    known = ledger.identity(task.target, task.writes[0])
    assert known is not None
    return str(known[1]["verb"])


def make_executor(run: Run, *, gpu: bool = False, homing: bool = False) -> ThreadsExecutor | DaskExecutor:
    """Return where the tasks of a run go; `gpu` says that they gain from one, `homing` see `DaskExecutor`."""
    if run.client is None:
        return ThreadsExecutor(run.worker.threads)
    return DaskExecutor(run.client, gpu=gpu, homing=homing)


def set_aside_error(report: RunReport) -> RunError:
    """Return the error that ends a run with tiles set aside; it carries the report."""
    tiles = "\n".join(f"  tile {tile}: {reason}" for tile, reason in report.set_aside[:10])
    more = len(report.set_aside) - 10
    error = RunError(
        f"{report.verb}: {len(report.set_aside)} tiles kept failing and were set aside, all others are finished:\n"
        + tiles
        + (f"\n  and {more} more" if more > 0 else "")
        + "\nMend the cause and run the same command again; it does only these tiles."
    )
    error.report = report  # type: ignore[attr-defined]
    return error


def _lazy(task: TileTask, maps: Sequence[MapInfo], tiles: Sequence[int], tiling: Tiling, depth: int) -> xr.Dataset:
    """Return the maps as Dask arrays, one block a tile."""
    import dask.array as da
    import xarray as xr
    from dask.delayed import delayed

    def compute(tile: int) -> dict[str, NDArray[Any]]:
        return task.kernel(tile, task.read(tile))

    def shape(made: MapInfo) -> tuple[int, ...]:
        return (depth, tiling.tile_npix) if made.is_cube else (tiling.tile_npix,)

    def pick(outputs: dict[str, NDArray[Any]], made: MapInfo) -> NDArray[Any]:
        if made.name in outputs:
            return outputs[made.name]
        return np.full(shape(made), made.fill_value, dtype=made.dtype)

    observed = set(tiles)
    computed = {tile: delayed(compute, pure=False)(tile) for tile in sorted(observed)}
    arrays = {}
    for made in maps:
        blocks = []
        for tile in range(tiling.n_tiles):
            if tile in observed:
                value = delayed(pick)(computed[tile], made)
                blocks.append(da.from_delayed(value, shape(made), dtype=made.dtype))
            else:
                blocks.append(da.full(shape(made), made.fill_value, dtype=made.dtype, chunks=shape(made)))
        arrays[made.name] = (made.dims, da.concatenate(blocks, axis=-1), made.attributes())
    return xr.Dataset(arrays)
