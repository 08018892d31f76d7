"""Maps that are made through the stages of a transform: their tiles, put together from pieces of bands, and the plan.

Covers: the run as a whole (verify what is finished, else the missing stages, then the tiles), its memory, its account.
Does not cover: which stages (`synthesize.py`, `smooth.py`); ledger, shards and overviews are those of `map_plan`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..chunking import objects
from ..chunking import store as stores
from ..chunking.errors import FormatError, InputError, RunError
from .fields import Field
from .gather import from_ring_order, squares_in
from .ledger import identity_of
from .mapping import Kernel
from .plan import Plan, Run
from .records import RunReport
from .rings import Layout, largest_task
from .scratch import Scratch
from .stages import Stages, accounted, band_order, cut_alike
from .transform import GIVEN, BlockTask, PixelTask
from .transform_cost import Cost
from .transpose import scratch_for
from .worker import Worker, format_bytes


@dataclass(frozen=True)
class Pieces:
    """Tiles of maps in the pieces that a `PixelTask` left.

    Parameters
    ----------
    layout : Layout
        Bands, and the tiles.
    scratch : Scratch
        Where the pieces are.
    stage : str
        The stage that left them.
    """

    layout: Layout
    scratch: Scratch
    stage: str

    def tile(self, label: str, tile: int) -> NDArray[Any]:
        """Return a tile of a map, (cells,) NESTED in the precision of the layout.

        Parameters
        ----------
        label : str
            Field.
        tile : int
            Its number.
        """
        layout, tiling = self.layout, self.layout.tiling
        assert tiling.tile_nside is not None
        values = np.empty(tiling.tile_npix, dtype=layout.real)
        place = 0
        for band in range(layout.n_bands):
            tiles = squares_in(tiling.nside, tiling.tile_nside, layout.rows(band))
            number = int(np.searchsorted(tiles, tile))
            if number < tiles.size and tiles[number] == tile:
                piece = self.scratch.read(f"{self.stage}/{label}/{band}", number, tiles.size, layout.real)
                values[place : place + piece.size] = piece
                place += piece.size
        return from_ring_order(values)


PIXELS: Final = "pixels"


def through_harmonics(
    stages: Stages,
    layout: Layout,
    onto: Layout,
    fields: Sequence[Field],
    transfers: Sequence[NDArray[np.float64]],
    *,
    ring_weights: bool,
    iterations: int,
    name: str = "",
) -> list[dict[str, Any]]:
    """Bring fields to a_lm, multiply these, and go on to pieces of tiles in the stage `<name>pixels`.

    Returns what the bands noted.

    Parameters
    ----------
    stages : Stages
        Of the run.
    layout, onto : Layout
        Of what is read, and of what the pieces are for; their lmax and precision are the same.
    fields : sequence of Field
        What is transformed.
    transfers : sequence of ndarray
        (ell,) for every field.
    ring_weights : bool
        See `BandTask`.
    iterations : int
        Rounds of least squares.
    name : str
        Put before the names of the stages.
    """
    labels, scratch = tuple(field.label for field in fields), stages.scratch
    given, turned = f"{name}transfers", f"{name}turned"
    scratch.write(f"{GIVEN}/{given}/0", [np.array(transfers)])
    rings, start, noted = stages.analyse(layout, fields, ring_weights=ring_weights, iterations=iterations, name=name)
    orders = BlockTask(layout, scratch, turned, labels, rings, start, transfer=given, back=True, onto=onto)
    stages.go(orders, range(layout.n_blocks), "orders")
    stages.drop(rings, *([start] if start else []))
    stages.go(PixelTask(onto, scratch, name + PIXELS, labels, turned), band_order(onto), "pixels")
    stages.drop(turned)
    return noted


def divide_by_share(values: NDArray[Any], share: NDArray[Any], least: float) -> None:
    """Divide the pixels of a tile, in place, by the share of what they are made of that had a value.

    Parameters
    ----------
    values, share : ndarray
        (cells,).
    least : float
        Below it there is no value.
    """
    enough = share >= max(least, 1e-6)  # round-off alone must not pass for a share
    np.divide(values, share, out=values, where=enough)
    values[~enough] = np.nan


def pixel_memory(layout: Layout) -> dict[str, int]:
    """Return the bytes of a `PixelTask`, by part.

    Parameters
    ----------
    layout : Layout
        Bands, and the tiles that they are cut into.
    """
    parts = layout.band_memory(0)
    del parts["chunks on their way"]
    return parts | {"a piece of a tile": (layout.real.itemsize + 8) * layout.tiling.tile_npix}


def tile_memory(layout: Layout, shares: int = 0) -> dict[str, int]:
    """Return the bytes of putting a tile together, by part.

    Parameters
    ----------
    layout : Layout
        The tiles.
    shares : int
        Maps of the sum of weights that are at hand beside the tile.
    """
    # The tile in ring order and in NESTED order, the piece that is read, and the order itself.
    return {"a tile": (3 * layout.real.itemsize * (1 + shares) + 8) * layout.tiling.tile_npix}


@dataclass(frozen=True)
class NotKept:
    """The kernel of a run that only verifies: where a tile is not what it was, the stages must be done again."""

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Raise FormatError."""
        raise FormatError(f"tile {tile} is damaged, and the stages that it was made from are not kept.")


@dataclass(frozen=True, eq=False)
class StagedMaps:
    """Maps made through stages.

    Parameters
    ----------
    verb : str
        For messages.
    target : str
        Store that is written.
    facts : mapping
        All that determines the maps; names the scratch space too.
    layout : Layout
        The transform, with bands as high as they may be.
    memory : callable
        Layout -> the most demanding task of the stages, bytes by part.
    make : callable
        (stages, layout) -> kernel: does the stages, and returns what puts a tile together.
    tiles : callable
        (kernel, worker) -> the plan of `map_plan` that writes the tiles.
    scratch_fields : int
        Fields that go through the stages at once.
    scratch : str or path, optional
        Option of the verb.
    transpose : str
        Option of the verb.
    notes : sequence of str
        Lines of the plan.
    alternatives : callable, optional
        See `Plan`.
    kept_fields : int
        Fields whose pieces wait while others go through the stages.
    rings_at_once : int
        Sets of ring coefficients of a field that are in scratch space at once, at most.
    cost : callable, optional
        Layout -> what the stages and the tiles cost.
    reads : int
        How often the stages read a map or a weight.
    """

    verb: str
    target: str
    facts: Mapping[str, Any]
    layout: Layout
    memory: Callable[[Layout], Mapping[str, int]]
    make: Callable[[Stages, Layout], Kernel]
    tiles: Callable[[Kernel, Worker], Plan[RunReport]]
    scratch_fields: int
    scratch: str | os.PathLike[str] | None
    transpose: str
    notes: Sequence[str] = ()
    alternatives: Callable[[], Sequence[tuple[str, int]]] | None = None
    kept_fields: int = 0
    rings_at_once: int = 2
    cost: Callable[[Layout], Cost] | None = None
    reads: int = 0

    def plan(self, worker: Worker) -> Plan[RunReport]:
        """Return the plan for a worker, with the highest bands that fit into its memory."""
        writing = self.tiles(NotKept(), worker)
        layout, memory = self._fitting(worker, writing)
        plan: Plan[RunReport] = Plan(
            self.verb,
            self.target,
            execute=lambda run: self._execute(run, plan, layout),
            worker=worker,
            todo=writing.todo,
            done=writing.done,
            n_tiles=writing.n_tiles,
            read_bytes=writing.read_bytes + (layout.read_bytes(self.reads) if writing.todo else 0),
            write_bytes=writing.write_bytes,
            seconds=self.cost(layout).wall(worker) if self.cost is not None and writing.todo else 0.0,
            memory=memory,
            alternatives=self.alternatives,
            notes=[*self.notes, *self._lines(layout)],
            refit=self.plan,
        )
        return plan

    def _fitting(self, worker: Worker, writing: Plan[RunReport]) -> tuple[Layout, dict[str, int]]:
        allowed = worker.memory_per_task(Plan.reserved)
        layout = self.layout
        while True:
            memory = largest_task(self.memory(layout), writing.memory)
            smaller = layout.lower()
            if sum(memory.values()) <= allowed or smaller is None:
                return layout, memory
            layout = smaller

    def _lines(self, layout: Layout) -> list[str]:
        return [
            f"stages  to lmax {layout.lmax} in {layout.precision} precision: {layout.n_bands} bands of {layout.height} "
            f"rows, {layout.n_blocks} blocks of {layout.width} orders",
            f"scratch {format_bytes(self.scratch_bytes(layout))}",
        ]

    def scratch_bytes(self, layout: Layout) -> int:
        """Return the bytes of scratch space that are taken at once, at most."""
        pieces = layout.real.itemsize * layout.tiling.npix
        rings = layout.scratch_bytes(1)
        return self.scratch_fields * max(self.rings_at_once * rings, rings + pieces) + self.kept_fields * pieces

    def _execute(self, run: Run, plan: Plan[RunReport], layout: Layout) -> RunReport:
        from .. import __version__

        if not stores.exists(self.target):
            objects.check_free(self.target)  # told now, not when all stages are done and the first tile is written
        identity = identity_of({**self.facts, "target": self.target, "skymill": __version__})

        def space_for(needed: int) -> Scratch:
            process = plan.process_memory(run.worker)
            return scratch_for(self.target, identity, run, self.scratch, self.transpose, needed=needed, process=process)

        staged = RunReport(self.verb, self.target)
        with accounted(staged, plan, run):
            report = self._verified(run)
            if report is None:
                space = space_for(self.scratch_bytes(layout))
                cut_alike(space, [layout])
                try:
                    kernel = self.make(Stages(space, run, staged), layout)
                    report = self.tiles(kernel, run.worker).execute(run)
                except InputError:
                    space.remove()  # nothing there is of use to a run with better input
                    raise
            else:
                space = space_for(0)  # a run that was killed while it cleaned up may have left something
        space.remove()
        return _together(staged, report)

    def _verified(self, run: Run) -> RunReport | None:
        """Return the report of a run that has only to verify, or None where there is something to make."""
        writing = self.tiles(NotKept(), run.worker)
        if writing.todo:
            return None
        try:
            return writing.execute(run)
        except RunError as error:
            if getattr(error, "report", None) is None:
                raise
            return None


def _together(staged: RunReport, writing: RunReport) -> RunReport:
    """Return the report of the tiles with that of the stages in it; what is counted are tiles."""
    for phase, seconds in staged.seconds.items():
        writing.seconds[phase] = seconds if phase == "wall" else writing.seconds.get(phase, 0.0) + seconds
    for process, peak in staged.processes.items():
        writing.processes[process] = max(peak, writing.processes.get(process, 0))
    writing.peak_memory = max(writing.processes.values(), default=0)
    writing.planned_memory = staged.planned_memory
    writing.records = [*staged.records, *writing.records]
    return writing
