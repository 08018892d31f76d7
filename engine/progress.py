"""Progress of a run: a bar on a terminal, log lines elsewhere; and what a run tells in any case."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any, Self

log = logging.getLogger("skymill")
SECONDS_BETWEEN_LINES = 10.0


def say(message: str, show: bool | None = None) -> None:
    """Tell what a run must not keep to itself: in the log where someone listens to it, else on stderr.

    Parameters
    ----------
    message : str
        What to tell.
    show : bool, optional
        False keeps silent, as with the progress itself.
    """
    if show is False:
        return
    if log.isEnabledFor(logging.INFO) and log.hasHandlers():
        log.info("%s", message)
    else:
        print(message, file=sys.stderr, flush=True)


class Progress:
    """Tiles done, pixels a second, time left.

    Parameters
    ----------
    label : str
        What is running.
    total : int
        Tiles to do.
    show : bool, optional
        True or False; None shows a bar on a terminal and log lines elsewhere.
    """

    def __init__(self, label: str, total: int, show: bool | None = None) -> None:
        self._label = label
        self._total = total
        self._done = 0
        self._cells = 0
        self._began = self._said = time.monotonic()
        self._quiet = show is False
        self._bar: Any = None
        if not self._quiet and total and sys.stderr.isatty():
            self._bar = self._open_bar()

    def _open_bar(self) -> Any:
        from rich import progress
        from rich.console import Console

        bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[speed]}"),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        bar.start()
        self._task = bar.add_task(self._label, total=self._total, speed="")
        return bar

    def advance(self, cells: int = 0) -> None:
        """Count one more tile, of so many pixels."""
        self._done += 1
        self._cells += cells
        elapsed = time.monotonic() - self._began
        speed = f"{self._cells / elapsed / 1e6:.1f} Mpix/s" if self._cells and elapsed > 0 else ""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, speed=speed)
        elif not self._quiet and time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            left = elapsed / self._done * (self._total - self._done)
            rate = f" tiles, {speed}" if speed else ""  # steps that are not tiles count no pixels
            log.info("%s: %d of %d%s, %.0f s left", self._label, self._done, self._total, rate, left)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
