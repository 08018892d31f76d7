"""Stages of a transform: one after the other, each a window of steps, with one account of all.

Covers: running a stage, passing over one that is finished, the rounds of an iterated analysis.
Does not cover: what a step does (`transform.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..chunking.errors import InputError
from .fields import Field
from .mapping import make_executor, set_aside_error
from .plan import Plan, Run
from .progress import Progress
from .records import RunReport, TileRecord
from .rings import Layout
from .scratch import ALL, Scratch, done_key
from .transform import REFUSED, BandTask, BlockTask, Step
from .window import ThreadsExecutor, run_window
from .worker import forget_peak_memory, resident_memory


@dataclass
class Stages:
    """The stages of one run.

    Parameters
    ----------
    scratch : Scratch
        What they write.
    run : Run
        Where they run.
    report : RunReport
        The account, filled as they go.
    """

    scratch: Scratch
    run: Run
    report: RunReport

    def go(self, step: Step, numbers: Sequence[int], what: str) -> list[dict[str, Any]]:
        """Do a stage and return the facts of its steps, in their order; one that is finished is passed over.

        Parameters
        ----------
        step : Step
            What is done.
        numbers : sequence of int
            Bands or blocks, in the order in which they go out: the longest first.
        what : str
            What the progress says.

        Raises
        ------
        InputError
            If a step refused what came.
        RunError
            If steps kept failing.
        """
        known = self.scratch.noted(done_key(step.stage, ALL))
        if known is not None:
            self._count("verified", len(numbers))
            return list(known["facts"])
        began = time.perf_counter()
        facts: dict[int, dict[str, Any]] = {}
        executor = make_executor(self.run)
        try:
            with Progress(f"{self.report.verb}: {what}", len(numbers), self.run.progress) as progress:

                def handle(number: int, record: TileRecord) -> None:
                    if REFUSED in record.statistics:
                        raise InputError(record.statistics[REFUSED])
                    self.report.add(record)
                    facts[number] = dict(record.statistics)
                    progress.advance(record.cells)

                self.report.set_aside = run_window(step, numbers, executor, handle)
        finally:
            if isinstance(executor, ThreadsExecutor):
                executor.close()
        seconds = self.report.seconds
        seconds[f"stage {what}"] = seconds.get(f"stage {what}", 0.0) + time.perf_counter() - began
        if self.report.set_aside:
            raise set_aside_error(self.report)
        inorder = [facts[number] for number in sorted(facts)]
        self.scratch.note(done_key(step.stage, ALL), {"facts": inorder})
        return inorder

    def _count(self, status: str, number: int) -> None:
        self.report.counts[status] = self.report.counts.get(status, 0) + number

    def drop(self, *stages: str) -> None:
        """Remove what stages wrote and is not needed any more; that they are finished stays known."""
        for stage in stages:
            self.scratch.remove(f"{stage}/")

    def analyse(
        self,
        layout: Layout,
        fields: Sequence[Field],
        *,
        ring_weights: bool = True,
        iterations: int = 0,
        name: str = "",
        check: Callable[[Sequence[Mapping[str, Any]]], None] | None = None,
    ) -> tuple[str, str, list[dict[str, Any]]]:
        """Bring fields to ring coefficients, all rounds of the iteration but the last step.

        Returns the stages that the `BlockTask` of the caller goes on from: its `rings`, and its `start` (empty without
        iterations); and what the bands noted.

        Parameters
        ----------
        layout : Layout
            Bands and blocks.
        fields : sequence of Field
            What is analysed.
        ring_weights : bool
            See `BandTask`.
        iterations : int
            How often what the a_lm do not yet explain is analysed again and added (Jacobi's method for least squares).
        name : str
            Put before the names of the stages, to tell several analyses of a run apart.
        check : callable, optional
            Called with what the bands noted before anything else is done with them.
        """
        labels = tuple(field.label for field in fields)
        bands, blocks = band_order(layout), range(layout.n_blocks)
        rings, start = f"{name}rings0", ""
        noted = self.go(BandTask(layout, self.scratch, rings, tuple(fields), ring_weights), bands, "rows")
        if check is not None:
            check(noted)
        for round_ in range(iterations):
            orders = f"{name}orders{round_}"
            step = BlockTask(layout, self.scratch, orders, labels, rings, start, keep=True, back=True)
            self.go(step, blocks, "orders")
            self.drop(rings, *([start] if start else []))
            rings, start = f"{name}rings{round_ + 1}", orders
            again = BandTask(layout, self.scratch, rings, tuple(fields), ring_weights, subtract=orders)
            self.go(again, bands, "rows")
            for label in labels:  # the next round needs the a_lm alone
                self.scratch.remove(f"{orders}/{label}/")
        return rings, start, noted


def band_order(layout: Layout) -> list[int]:
    """Return the bands from the equator to the poles: the longest go out first, so that none is waited for."""
    middle = (layout.n_bands - 1) / 2
    return sorted(range(layout.n_bands), key=lambda band: abs(band - middle))


def cut_alike(scratch: Scratch, layouts: Sequence[Layout]) -> None:
    """Empty scratch space that was filled with bands of other heights, as a run with other memory does it."""
    heights = [layout.height for layout in layouts]
    key = done_key("bands", 0)
    known = scratch.noted(key)
    if known == {"heights": heights}:
        return
    if known is not None:
        scratch.remove()
    scratch.note(key, {"heights": heights})


@contextmanager
def accounted(report: RunReport, plan: Plan[Any], run: Run) -> Iterator[None]:
    """Put the wall time of what is done within, and the memory that was planned for it, into a report."""
    # Whoever calls may hold more than a fresh worker does; the run is held to what it adds.
    held = resident_memory() if run.client is None else 0
    if run.client is None:
        forget_peak_memory()
    began = time.perf_counter()
    yield
    report.seconds["wall"] = time.perf_counter() - began
    report.planned_memory = plan.process_memory(run.worker) + max(0, held - plan.reserved)
