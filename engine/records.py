"""What a task tells about its tile, and what a run tells about itself."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..chunking.errors import InputError


@dataclass(frozen=True)
class TileRecord:
    """A few hundred bytes about one finished tile.

    Parameters
    ----------
    tile : int
        Its number.
    status : {"computed", "verified"}
        Whether it was computed now, or found finished and intact.
    cells : int
        Pixels that the task went over.
    seconds : mapping of str to float
        Wall time by phase: read, compute, write.
    peak_memory : int
        Largest resident size of the process so far, bytes.
    process : str
        Host and number of the process.
    statistics : mapping
        What the kernel wants known (see `mapping.map_plan`).
    """

    tile: int
    status: str
    cells: int
    seconds: Mapping[str, float]
    peak_memory: int
    process: str
    statistics: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class RunReport:
    """What a run did.

    Parameters
    ----------
    verb : str
        What was run.
    target : str
        Address of what was written.
    counts : dict
        Tiles by status.
    seconds : dict
        Wall time of the run under "wall", and task time by phase summed over tasks.
    cells : int
        Pixels of the tiles that were computed.
    set_aside : list of (int, str)
        Tiles that kept failing, and why.
    peak_memory, planned_memory : int
        Bytes of the largest process: measured and planned.
    processes : dict
        Measured peak of every process.
    records : list of TileRecord
        One a tile, in order of tiles; not part of the JSON.
    """

    verb: str
    target: str
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cells: int = 0
    set_aside: list[tuple[int, str]] = field(default_factory=list)
    peak_memory: int = 0
    planned_memory: int = 0
    processes: dict[str, int] = field(default_factory=dict)
    records: list[TileRecord] = field(default_factory=list)

    def add(self, record: TileRecord) -> None:
        """Take one finished tile into the account."""
        self.records.append(record)
        self.counts[record.status] = self.counts.get(record.status, 0) + 1
        if record.status == "computed":
            self.cells += record.cells
        for phase, seconds in record.seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        self.processes[record.process] = max(record.peak_memory, self.processes.get(record.process, 0))
        self.peak_memory = max(self.peak_memory, record.peak_memory)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON-able values."""
        known = asdict(self)
        del known["records"]
        known["cells_per_second"] = self.cells / self.seconds["wall"] if self.seconds.get("wall") else 0.0
        return known

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.as_dict(), indent=2)

    def __str__(self) -> str:
        from .worker import format_bytes

        done = ", ".join(f"{count} {status}" for status, count in sorted(self.counts.items())) or "nothing to do"
        wall = self.seconds.get("wall", 0.0)
        speed = f", {self.cells / wall / 1e6:.1f} million pixels a second" if wall and self.cells else ""
        lines = [f"{self.verb} -> {self.target}: tiles {done}; {wall:.1f} s{speed}"]
        if self.peak_memory:
            lines.append(
                f"  memory of a process: peak {format_bytes(self.peak_memory)}, "
                f"planned {format_bytes(self.planned_memory)}"
            )
        lines += [f"  set aside: tile {tile}: {reason}" for tile, reason in self.set_aside]
        return "\n".join(lines)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all.

    Raises
    ------
    InputError
        If it cannot be written there.
    """
    final = Path(path)
    partial = final.with_name(final.name + ".partial")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text)
        partial.replace(final)
    except OSError as error:
        raise InputError(f"cannot write {final}: {error.strerror}. Give a path that can be written.") from error
