"""The verb `export`: maps of a sky store become one HEALPix FITS file, tile by tile."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..chunking import objects
from ..chunking import store as stores
from ..chunking.errors import IdentityError, InputError, OrderingError, nearest
from ..chunking.fits_values import Blank
from ..chunking.fits_write import Output, OutputColumn, allocate, header_bytes, listed, write_tile
from . import ledger
from .arguments import checked
from .mapping import make_executor, set_aside_error
from .plan import Plan, Run
from .progress import Progress
from .records import RunReport, TileRecord
from .targets import observed_in_any
from .window import ThreadsExecutor, run_window
from .worker import Worker, parse_bytes, peak_memory

ORDERINGS = ("nested", "ring")
BLANKS = ("unseen", "nan")


@dataclass(frozen=True)
class _CountTask:
    """Counts the pixels of a tile that a partial-sky file lists."""

    store: str
    names: tuple[str, ...]

    def __call__(self, tile: int) -> int:
        return int(np.count_nonzero(listed([stores.read_tile(self.store, name, tile) for name in self.names])))


@dataclass(frozen=True)
class _WriteTask:
    """Writes one tile of the maps into the file."""

    store: str
    names: tuple[str, ...]
    output: Output
    # Of a partial-sky file: the row at which each tile begins.
    first_rows: dict[int, int]

    def __call__(self, tile: int) -> TileRecord:
        began = time.perf_counter()
        values = [stores.read_tile(self.store, name, tile) for name in self.names]
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
    one) get back the same numbers bit for bit.  It appears under its name only when it is whole.

    Parameters
    ----------
    store : path or URL
        The sky store.
    names : str or sequence of str
        Maps, all finished.
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
        If the store does not hold a map.
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
    stores.require_maps(where, chosen)
    final = _file(path, overwrite)
    tiling = stores.tiling_of(where)
    known = stores.infos(where)
    columns = tuple(OutputColumn(name, known[name].unit, known[name].dtype) for name in chosen)
    history = [f"map {name}: digest {ledger.map_digest(where, name)}" for name in chosen]
    tiles = observed_in_any(where, chosen) if partial else list(range(tiling.n_tiles))
    temporary = str(final.with_name(f".{final.name}.partial"))
    output = Output(temporary, tiling, columns, ordering, partial, blank, start=0, rows=0)
    width = sum(np.dtype(column.dtype).itemsize for column in columns)

    def execute(run: Run) -> RunReport:
        began = time.perf_counter()
        report = RunReport("export", str(final))
        first_rows: dict[int, int] = {}
        rows = tiling.npix
        going = tiles
        if partial:
            counts: dict[int, int] = {}
            _window(_CountTask(where, chosen), tiles, run, "count", counts.__setitem__, report)
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
                _WriteTask(where, chosen, filled, first_rows),
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
        report.planned_memory = plan.process_memory(run.worker)
        report.seconds["wall"] = time.perf_counter() - began
        return report

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
