"""The verb `export`: maps of a sky store become one HEALPix FITS file, tile by tile."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import objects
from ..chunking import store as stores
from ..chunking.errors import IdentityError, InputError, OrderingError, nearest
from ..chunking.fits_values import Blank
from ..chunking.fits_write import Output, OutputColumn, allocate, header_bytes, listed, write_tile
from ..chunking.schema import MapInfo
from . import ledger
from .arguments import checked
from .mapping import make_executor, set_aside_error
from .plan import Plan, Run
from .progress import Progress
from .records import RunReport, TileRecord
from .stages import accounted
from .targets import observed_in_any
from .window import ThreadsExecutor, run_window
from .worker import Worker, parse_bytes, peak_memory

ORDERINGS = ("nested", "ring")
BLANKS = ("unseen", "nan")
MAX_COLUMNS = 999  # FITS standard 4.0, section 7.3


@dataclass(frozen=True)
class Part:
    """A map that is exported, or channels of a cube.

    Parameters
    ----------
    name : str
        Of the map or cube.
    channels : tuple of int
        First channel of a cube, and the one behind the last; (0, 0) for a map.
    """

    name: str
    channels: tuple[int, int] = (0, 0)

    def columns(self, known: MapInfo) -> tuple[OutputColumn, ...]:
        """Return the columns of the file: one a map, one a channel of a cube."""
        labels = [f"{self.name}_{channel:03d}" for channel in range(*self.channels)] or [self.name]
        return tuple(OutputColumn(label, known.unit, known.dtype) for label in labels)


def _read(store: str, parts: Sequence[Part], tile: int) -> list[NDArray[Any]]:
    """Return a tile of all columns, each (cells,)."""
    values: list[NDArray[Any]] = []
    for part in parts:
        length = stores.tile_length(store, part.name)
        wanted = slice(*part.channels) if part.channels[1] else None
        found = stores.read_cells(store, part.name, tile * length, (tile + 1) * length, wanted)
        values += [found] if wanted is None else list(found)
    return values


@dataclass(frozen=True)
class _CountTask:
    """Counts the pixels of a tile that a partial-sky file lists."""

    store: str
    parts: tuple[Part, ...]

    def __call__(self, tile: int) -> int:
        return int(np.count_nonzero(listed(_read(self.store, self.parts, tile))))


@dataclass(frozen=True)
class _WriteTask:
    """Writes one tile of the maps into the file."""

    store: str
    parts: tuple[Part, ...]
    output: Output
    # Of a partial-sky file: the row at which each tile begins.
    first_rows: dict[int, int]

    def __call__(self, tile: int) -> TileRecord:
        began = time.perf_counter()
        values = _read(self.store, self.parts, tile)
        read = time.perf_counter()
        write_tile(self.output, tile, values, self.first_rows.get(tile, 0))
        seconds = {"read": read - began, "write": time.perf_counter() - read}
        process = f"{socket.gethostname()}:{os.getpid()}"
        return TileRecord(tile, "computed", values[0].size, seconds, peak_memory(), process)


@checked
def export(
    store: str | os.PathLike[str],
    names: str | Sequence[str],
    path: str | os.PathLike[str],
    *,
    ordering: str = "nested",
    partial: bool = False,
    blank: Blank = "unseen",
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[RunReport]:
    """Return the plan that writes maps of a sky store into a HEALPix FITS file.

    The file has one column a map, named like the map, with its unit; readers of HEALPix files (healpy.read_map, for
    one) get back the same numbers bit for bit.  A cube becomes a column a channel, NAME_000, NAME_001, and so on, with
    the velocities in the history of the header.  The file appears under its name only when it is whole.

    Parameters
    ----------
    store : path or URL
        The sky store.
    names : str or sequence of str
        Maps and cubes, all finished; "NAME[3]" is one channel of a cube.
    path : path
        The file, which all workers must see.
    ordering : {"nested", "ring"}
        Of the pixels in the file.
    partial : bool
        List the pixels that have a value in any float map (with a column PIXEL: 32-bit numbers up to nside 8192, 64-bit
        above) instead of writing the full sky.  They are listed tile by tile, so in ascending order where NESTED.
    blank : {"unseen", "nan"}
        What stands for "no value": UNSEEN (-1.6375e30), as HEALPix software expects, or NaN.
    overwrite : bool
        Replace an existing file.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan
        Its run returns a RunReport.

    Raises
    ------
    MissingMapError
        If the store does not hold a map or cube.
    FormatError
        If a map is unfinished.
    IdentityError
        If the file exists, unless `overwrite`.
    OrderingError, InputError
        If an argument is unknown, or the file cannot be written there.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("dust", folder + "/sky.zarr", 16, seed=1).run()
    ...     sm.export(folder + "/sky.zarr", ["i160", "i250"], folder + "/sky.fits", ordering="ring").run().cells
    3072
    """
    where = stores.address(store)
    chosen = (names,) if isinstance(names, str) else tuple(names)
    _check(chosen, ordering, blank)
    parts = _parts(where, chosen)
    final = _file(path, overwrite)
    tiling = stores.tiling_of(where)
    known = stores.infos(where)
    columns = tuple(column for part in parts for column in part.columns(known[part.name]))
    _check_columns(columns)
    held = tuple(dict.fromkeys(part.name for part in parts))
    history = [f"map {name}: digest {ledger.map_digest(where, name)}" for name in held] + _velocities(where, parts)
    tiles = observed_in_any(where, held) if partial else list(range(tiling.n_tiles))
    temporary = str(final.with_name(f".{final.name}.partial"))
    output = Output(temporary, tiling, columns, ordering, partial, blank, start=0, rows=0)
    width = sum(np.dtype(column.dtype).itemsize for column in columns)

    def execute(run: Run) -> RunReport:
        report = RunReport("export", str(final))
        with accounted(report, plan, run):
            fill(run, report)
        return report

    def fill(run: Run, report: RunReport) -> None:
        first_rows: dict[int, int] = {}
        rows = tiling.npix
        going = tiles
        if partial:
            counts: dict[int, int] = {}
            _window(_CountTask(where, parts), tiles, run, "count", counts.__setitem__, report)
            going = [tile for tile in tiles if counts[tile]]
            rows = 0
            for tile in going:
                first_rows[tile] = rows
                rows += counts[tile]
            if not rows:
                raise InputError(f"no pixel of {', '.join(chosen)} has a value, so there is nothing to list.")
        from .. import __version__

        header = header_bytes(
            columns, tiling, rows, frame=stores.frame_of(where), ordering=ordering, partial=partial, blank=blank,
            history=[f"written by skymill {__version__}", *history],
        )  # fmt: skip
        filled = replace(output, start=len(header), rows=rows)
        _check_free(final, overwrite)
        try:
            allocate(filled, header)
            _window(
                _WriteTask(where, parts, filled, first_rows),
                going,
                run,
                "export",
                lambda _, record: report.add(record),
                report,
            )
            os.replace(temporary, final)
        finally:
            Path(temporary).unlink(missing_ok=True)
        report.records.sort(key=lambda record: record.tile)

    plan = Plan(
        verb="export",
        target=str(final),
        execute=execute,
        worker=Worker.here(threads, parse_bytes(memory)),
        todo=tiles,
        n_tiles=tiling.n_tiles,
        read_bytes=width * tiling.tile_npix * len(tiles),
        write_bytes=(output.row_type.itemsize * tiling.tile_npix) * len(tiles),
        memory={"maps": width * tiling.tile_npix, "codecs": 12 * tiling.tile_npix, **output.memory()},
        notes=[f"{ordering}, {'listed pixels' if partial else 'full sky'}: {', '.join(chosen)}"],
    )
    return plan


def _window(
    task: Callable[[int], Any],
    tiles: Sequence[int],
    run: Run,
    label: str,
    handle: Callable[[int, Any], None],
    report: RunReport,
) -> None:
    """Run a task over the tiles; tiles that keep failing end the export, as a file with holes is of no use."""
    executor = make_executor(run)
    try:
        with Progress(label, len(tiles), run.progress) as progress:

            def advance(tile: int, result: Any) -> None:
                handle(tile, result)
                progress.advance(result.cells if isinstance(result, TileRecord) else 0)

            report.set_aside = run_window(task, tiles, executor, advance)
    finally:
        if isinstance(executor, ThreadsExecutor):
            executor.close()
    if report.set_aside:
        raise set_aside_error(report)


def _parts(where: str, names: Sequence[str]) -> tuple[Part, ...]:
    """Return what the names stand for: a map, a cube, or "NAME[3]", a channel of a cube."""
    split = [re.fullmatch(r"(.+)\[(\d+)\]", name) for name in names]
    stores.require_maps(
        where, [name if match is None else match[1] for name, match in zip(names, split, strict=True)], cubes=True
    )
    parts = []
    for name, match in zip(names, split, strict=True):
        held = name if match is None else match[1]
        count = stores.channel_count(where, held)
        if match is None:
            parts.append(Part(held, (0, count)))
        elif int(match[2]) >= count:
            has = f"has channels 0 to {count - 1}" if count else "is a map, which has no channels"
            raise InputError(f"{name!r} came, but {held!r} in {where} {has}.")
        else:
            parts.append(Part(held, (int(match[2]), int(match[2]) + 1)))
    return tuple(parts)


def _check_columns(columns: Sequence[OutputColumn]) -> None:
    names = [column.name for column in columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"the file would have two columns {twice}; export one of them to a file of its own.")
    if len(columns) > MAX_COLUMNS:
        raise InputError(f"{len(columns)} columns came; a FITS table has at most {MAX_COLUMNS}. Export fewer channels.")


def _velocities(where: str, parts: Sequence[Part]) -> list[str]:
    """Return the channels of cubes as lines of the header."""
    channels = stores.channels_of(where)
    if channels is None:
        return []
    lines = []
    for part in parts:
        for channel in range(*part.channels):
            low, high = channels.edges[channel]
            lines.append(f"{part.name}_{channel:03d}: {low:.9g} to {high:.9g} km/s")
    return lines


def _check(names: Sequence[str], ordering: str, blank: str) -> None:
    if not names:
        raise InputError("`names` is empty; give the maps to export.")
    if len(set(names)) < len(names):
        raise InputError(f"`names` {', '.join(names)} names a map twice.")
    if ordering not in ORDERINGS:
        raise OrderingError(f"`ordering` {ordering!r} came; {nearest(str(ordering), ORDERINGS)}.")
    if blank not in BLANKS:
        raise InputError(f"`blank` {blank!r} came; {nearest(str(blank), BLANKS)}.")


def _file(path: str | os.PathLike[str], overwrite: bool) -> Path:
    text = os.fspath(path)
    if not text or not objects.is_local(text):
        raise InputError(f"`path` {text!r} came; a FITS file is written to a path of this machine.")
    final = Path(text).expanduser().absolute()
    if final.suffix == ".gz":
        raise InputError(
            f"`path` {text!r} came; the file is written uncompressed: name it .fits, and gzip it afterwards."
        )
    if final.is_dir() or not final.parent.is_dir():
        what = "is a folder" if final.is_dir() else "lies in a folder that does not exist"
        raise InputError(f"`path` {text!r} {what}; give the name of a file in an existing folder.")
    _check_free(final, overwrite)
    return final


def _check_free(final: Path, overwrite: bool) -> None:
    if final.exists() and not overwrite:
        raise IdentityError(f"{final} exists; give another name, or overwrite=True (--overwrite) to replace it.")


__all__ = ["export"]
