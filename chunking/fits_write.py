"""Writing HEALPix FITS files: the header first, then tiles into their disjoint byte ranges, in any order.

Only the header comes from astropy, made from a table without rows; the rows are written at their positions, so memory
does not grow with the sky and many workers fill one file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .fits_header import BLOCK
from .fits_rings import ring_order, tile_runs
from .fits_spool import disk_errors, need_room
from .fits_values import UNSEEN, Blank
from .geometry import nested_to_ring
from .tiling import Tiling

WRITE_BYTES = 2**20  # rows packed at a time; see `fits_read.READ_BYTES`
LARGEST_32_BIT_NSIDE = 8192  # 12 * 8192**2 < 2**31 <= 12 * 16384**2

_CODES = {"float32": "E", "uint8": "B"}
_COORDSYS = {"galactic": "G", "icrs": "C", "ecliptic": "E"}


@dataclass(frozen=True)
class OutputColumn:
    """One map on its way into a file: name, unit and dtype ("float32" or "uint8")."""

    name: str
    unit: str
    dtype: str


@dataclass(frozen=True)
class Output:
    """A FITS file that is being written.

    Parameters
    ----------
    path : str
        The (temporary) file.
    tiling : Tiling
        Of the maps.
    columns : tuple of OutputColumn
        The maps.
    ordering : {"nested", "ring"}
        Of the file.
    partial : bool
        Whether pixels are listed (column PIXEL) instead of implied.
    blank : {"unseen", "nan"}
        What stands where a float map has no value.
    start : int
        Byte at which the rows begin.
    rows : int
        How many there are.
    """

    path: str
    tiling: Tiling
    columns: tuple[OutputColumn, ...]
    ordering: str
    partial: bool
    blank: Blank
    start: int
    rows: int

    @property
    def row_type(self) -> np.dtype[Any]:
        """The type of a row as the file holds it."""
        fields = [(f"f{i}", ">f4" if c.dtype == "float32" else "u1") for i, c in enumerate(self.columns)]
        return np.dtype(([("pixel", self.pixel_type)] if self.partial else []) + fields)

    @property
    def pixel_type(self) -> str:
        """The type of pixel numbers: 64 bits where 32 do not suffice."""
        return ">i4" if self.tiling.nside <= LARGEST_32_BIT_NSIDE else ">i8"

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return -(-(self.start + self.rows * self.row_type.itemsize) // BLOCK) * BLOCK

    def memory(self) -> dict[str, int]:
        """Return the bytes that `write_tile` needs beside the maps of the tile, by part."""
        cells = self.tiling.tile_npix
        parts = {"rows of the file": 3 * max(WRITE_BYTES, self.row_type.itemsize)}
        if self.partial:
            parts["listed pixels"] = 18 * cells
        elif self.ordering == "ring":
            parts["ring order"] = 8 * cells
        return parts


def header_bytes(
    columns: Sequence[OutputColumn],
    tiling: Tiling,
    rows: int,
    *,
    frame: str,
    ordering: str,
    partial: bool,
    blank: Blank,
    history: Sequence[str] = (),
) -> bytes:
    """Return the bytes of a HEALPix FITS file before its rows.

    Parameters
    ----------
    columns : sequence of OutputColumn
        The maps.
    tiling : Tiling
        Their grid.
    rows : int
        Rows that will follow.
    frame, ordering, partial, blank
        See `Output` and `engine.export.export`.
    history : sequence of str
        Lines for the HISTORY of the table.
    """
    from astropy.io import fits

    made = [fits.Column(name=c.name, format=_CODES[c.dtype], unit=c.unit) for c in columns]
    if partial:
        code = "J" if tiling.nside <= LARGEST_32_BIT_NSIDE else "K"
        made.insert(0, fits.Column(name="PIXEL", format=code))
    table = fits.BinTableHDU.from_columns(made, nrows=0, name="SKYMILL")
    header = table.header
    header["NAXIS2"] = rows
    header["PIXTYPE"] = ("HEALPIX", "HEALPix pixelisation")
    header["ORDERING"] = (ordering.upper(), "pixel ordering scheme: RING or NESTED")
    header["COORDSYS"] = (_COORDSYS[frame], "G galactic, C celestial (ICRS), E ecliptic")
    header["NSIDE"] = (tiling.nside, "resolution parameter")
    if not partial:
        header["FIRSTPIX"] = (0, "first pixel (from 0)")
        header["LASTPIX"] = (tiling.npix - 1, "last pixel (from 0)")
    header["INDXSCHM"] = ("EXPLICIT" if partial else "IMPLICIT", "pixels are listed, or implied")
    header["OBJECT"] = ("PARTIAL" if partial else "FULLSKY", "sky coverage")
    if blank == "unseen" and any(c.dtype == "float32" for c in columns):
        header["BAD_DATA"] = (UNSEEN, "value of pixels without a value")
    for line in history:
        header.add_history(line)
    text: str = fits.PrimaryHDU().header.tostring() + header.tostring()
    return text.encode("ascii")


def allocate(output: Output, header: bytes) -> None:
    """Make the file at its full size, with its header and zeros.

    Raises
    ------
    DiskFullError
        If the disk has no room for it.
    """
    need_room(Path(output.path).parent, output.size, output.path)
    with disk_errors(Path(output.path)), open(output.path, "wb") as file:
        file.write(header)
        file.truncate(output.size)


def listed(values: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
    """Return which pixels of a tile a partial-sky file lists, (cells,) bool.

    A pixel is listed where any float map has a value; codes and masks, in which 0 is a value too, only decide where
    there is no float map: then where any of them is not 0.
    """
    floats = [row for row in values if row.dtype.kind == "f"]
    found = np.zeros(values[0].shape, dtype=np.bool_)
    for row in floats or values:
        found |= ~np.isnan(row) if row.dtype.kind == "f" else row != 0
    return found


def write_tile(output: Output, tile: int, values: Sequence[NDArray[Any]], first_row: int = 0) -> None:
    """Write one tile of all the maps at its place in the file.

    Parameters
    ----------
    output : Output
        The allocated file.
    tile : int
        Which tile.
    values : sequence of ndarray
        For each column (cells,), in NESTED order.
    first_row : int
        Of a partial-sky file: the row at which the listed pixels of this tile begin.
    """
    descriptor = os.open(output.path, os.O_WRONLY)
    try:
        with disk_errors(Path(output.path)):
            for position, rows in _packed(output, tile, values, first_row):
                _write(descriptor, position, rows)
    finally:
        os.close(descriptor)


def _packed(
    output: Output, tile: int, values: Sequence[NDArray[Any]], first_row: int
) -> Iterator[tuple[int, memoryview]]:
    """Yield byte positions and the bytes that go there."""
    tiling, width = output.tiling, output.row_type.itemsize
    step = max(1, WRITE_BYTES // width)
    if output.partial or output.ordering == "nested":
        where = np.flatnonzero(listed(values)) if output.partial else None
        count = tiling.tile_npix if where is None else where.size
        row = first_row if output.partial else tile * tiling.tile_npix
        for begin in range(0, count, step):
            end = min(begin + step, count)
            rows = _rows(output, tile, values, slice(begin, end) if where is None else where[begin:end])
            yield output.start + (row + begin) * width, memoryview(rows.view(np.uint8))
        return
    assert tiling.tile_nside is not None
    order = ring_order(tiling.nside // tiling.tile_nside)
    runs = tile_runs(tiling, tile)
    ends = np.cumsum(runs.length)
    begin = 0
    while begin < ends.size:  # as many runs as fit, at least one
        base = int(runs.place[begin])
        end = max(begin + 1, int(np.searchsorted(ends, base + step, side="right")))
        rows = _rows(output, tile, values, order[base : int(ends[end - 1])])
        view = memoryview(rows.view(np.uint8))
        for run in range(begin, end):
            at = (int(runs.place[run]) - base) * width
            yield output.start + int(runs.first[run]) * width, view[at : at + int(runs.length[run]) * width]
        begin = end


def _rows(output: Output, tile: int, values: Sequence[NDArray[Any]], where: slice | NDArray[np.int64]) -> NDArray[Any]:
    """Return some pixels of a tile as rows of the file, (cells,)."""
    taken = [row[where] for row in values]
    rows = np.empty(taken[0].size, dtype=output.row_type)
    for index, row in enumerate(taken):
        if row.dtype.kind == "f" and output.blank == "unseen":
            row = np.where(np.isnan(row), np.float32(UNSEEN), row)
        rows[f"f{index}"] = row
    if output.partial:
        assert not isinstance(where, slice)
        pixels = where + tile * output.tiling.tile_npix
        rows["pixel"] = nested_to_ring(output.tiling.nside, pixels) if output.ordering == "ring" else pixels
    return rows


def _write(descriptor: int, position: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], position + done)
