"""Reading the values of FITS maps tile by tile and block by block, in memory that does not grow with the sky.

Covers: tiles of maps with implicit indexing, gathered from NESTED or RING files by byte position; blocks of rows of
tables with explicit indexing.  Does not cover: sorting such rows into tiles (`fits_spool`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError
from .fits_header import Column, elements, open_bytes, read_exactly
from .fits_map import FitsMap
from .fits_rings import Runs, ring_order, tile_runs
from .fits_values import decode
from .tiling import Tiling

# Bytes of the file in memory at a time.  A megabyte is far above the cost of a call, and the temporaries of decoding it
# stay in the processor's cache.
READ_BYTES = 2**20
# Temporaries of `decode` for each pixel of such a block, the widest case: float64 stored, float64 scaled, masks.
_DECODE_BYTES = 32
# Bytes and rows of a table with explicit indexing in memory at a time.
ROWS_BYTES = 2**24
ROWS = 2**20


class Block(NamedTuple):
    """Some rows of a table with explicit indexing.

    `row`: the first row; `pixels`: (cells,) int64; `values`: (map, cells) float32; `infinite`: how many values of each
    map were infinite.
    """

    row: int
    pixels: NDArray[np.int64]
    values: NDArray[np.float32]
    infinite: tuple[int, ...]


def read_tile(
    maps: Sequence[FitsMap],
    ordering: str,
    tiling: Tiling,
    tile: int,
    into: Sequence[NDArray[np.float32]] | None = None,
) -> tuple[Sequence[NDArray[np.float32]], list[int]]:
    """Return one NESTED tile of several maps of one table with implicit indexing, reading its bytes once.

    Parameters
    ----------
    maps : sequence of FitsMap
        Columns of one table, not compressed.
    ordering : {"ring", "nested"}
        Of the file.
    tiling : Tiling
        The grid, of the nside of the maps.
    tile : int
        Which tile.
    into : sequence of ndarray, optional
        For each map (cells,) float32, what is written and returned; new arrays by default.

    Returns
    -------
    values : sequence of ndarray
        For each map (cells,) float32, NaN where there is no value.
    infinite : list of int
        For each map the number of values that were infinite.

    Raises
    ------
    FormatError
        If the file ends too early.
    """
    first = maps[0]
    out = [np.empty(tiling.tile_npix, dtype=np.float32) for _ in maps] if into is None else into
    for row in out:
        row[:] = np.nan
    infinite = [0] * len(maps)
    order: NDArray[np.int64] | None = None
    if ordering == "ring":
        assert tiling.tile_nside is not None
        order = ring_order(tiling.nside // tiling.tile_nside)
    runs = _runs(ordering, tiling, tile).clipped(first.first_pixel, first.first_pixel + first.n_pixels)
    if not runs.first.size:
        return out, infinite
    descriptor = os.open(first.path, os.O_RDONLY)
    try:
        for group in _layouts(maps):
            layout = group[0][1]
            pieces = layout.pieces(runs, first.first_pixel)
            cells = max(READ_BYTES // layout.stride, int(pieces.length.max()))
            buffer = np.empty(min(cells, tiling.tile_npix) * layout.stride, dtype=np.uint8)
            for batch in _batches(pieces, cells):
                rows = _read_pieces(descriptor, batch, buffer, layout.stride, first.path)
                place = _places(batch)
                for index, here in group:
                    column = maps[index].column
                    piece = np.ascontiguousarray(rows[:, here.offset : here.offset + column.dtype.itemsize])
                    stored = piece.view(column.dtype).reshape(-1)
                    values, endless = decode(stored, column, maps[index].bad_values)
                    infinite[index] += endless
                    out[index][place if order is None else order[place]] = values
    finally:
        os.close(descriptor)
    return out, infinite


def tile_memory(maps: Sequence[FitsMap], ordering: str, tiling: Tiling) -> dict[str, int]:
    """Return the bytes that `read_tile` needs beside the tiles that it returns, by part."""
    strides = [group[0][1].stride for group in _layouts(maps)]
    assert tiling.tile_nside is not None
    longest = tiling.nside // tiling.tile_nside if ordering == "ring" else 1
    cells = max(min(max(READ_BYTES // stride, longest), tiling.tile_npix) for stride in strides)
    block = max(min(max(READ_BYTES, longest * stride), tiling.tile_npix * stride) for stride in strides)
    parts = {"rows of the file": block, "decoding": cells * _DECODE_BYTES}
    if ordering == "ring":
        parts["ring order"] = tiling.tile_npix * 8
    return parts


def _runs(ordering: str, tiling: Tiling, tile: int) -> Runs:
    """Return the runs of pixel numbers, in the file's ordering, that make up a tile."""
    if ordering == "ring":
        return tile_runs(tiling, tile)
    window = tiling.tile_slice(tile)
    first = np.arange(window.start, window.stop, min(READ_BYTES // 64, tiling.tile_npix), dtype=np.int64)
    length = np.diff(first, append=window.stop)
    return Runs(first, length, first - window.start)


class _Pieces(NamedTuple):
    """Contiguous pieces of the file: byte position, number of pixels, and place in the tile, each (piece,) int64."""

    position: NDArray[np.int64]
    length: NDArray[np.int64]
    place: NDArray[np.int64]


class _Layout(NamedTuple):
    """How the pixels of a map follow each other in the file.

    Element k of the map (counted from the table's first) is at byte
    `start + (k // repeat) * row + (k % repeat) * stride + offset`; `stride` bytes are read for each pixel.
    """

    start: int
    row: int
    repeat: int
    stride: int
    offset: int

    def pieces(self, runs: Runs, first_pixel: int) -> _Pieces:
        """Return the pieces of the file in which runs of pixels lie."""
        element = runs.first - first_pixel
        length, place = runs.length, runs.place
        if self.repeat > 1:  # cut where rows end
            last = (element + length - 1) // self.repeat
            count = last - element // self.repeat + 1
            owner = np.repeat(np.arange(element.size), count)
            nth = np.arange(owner.size) - np.repeat(np.cumsum(count) - count, count)
            row = element[owner] // self.repeat + nth
            begin = np.maximum(element[owner], row * self.repeat)
            end = np.minimum(element[owner] + length[owner], (row + 1) * self.repeat)
            place = place[owner] + begin - element[owner]
            element, length = begin, end - begin
        position = self.start + element // self.repeat * self.row + element % self.repeat * self.stride
        return _Pieces(position, length, place)


def _layouts(maps: Sequence[FitsMap]) -> list[list[tuple[int, _Layout]]]:
    """Return the maps (by index) in groups that can be read together, each with its layout."""
    together: dict[tuple[int, int], list[tuple[int, _Layout]]] = {}
    alone: list[list[tuple[int, _Layout]]] = []
    for index, described in enumerate(maps):
        column, width = described.column, described.column.dtype.itemsize
        if column.repeat == 1:
            row = described.row_bytes  # whole rows are read: all the columns are in them
            layout = _Layout(described.start, row, 1, row, column.offset)
            together.setdefault((described.start, row), []).append((index, layout))
        elif column.repeat * width == described.row_bytes:
            # The only column: its elements follow each other over the ends of rows.
            alone.append([(index, _Layout(described.start, width, 1, width, 0))])
        else:
            begin = described.start + column.offset
            alone.append([(index, _Layout(begin, described.row_bytes, column.repeat, width, 0))])
    return [*together.values(), *alone]


def _batches(pieces: _Pieces, cells: int) -> Iterator[_Pieces]:
    """Yield the pieces in batches of at most `cells` pixels; no piece is longer."""
    total = np.cumsum(pieces.length)
    begin, base = 0, 0
    while begin < total.size:
        end = int(np.searchsorted(total, base + cells, side="right"))
        yield _Pieces(pieces.position[begin:end], pieces.length[begin:end], pieces.place[begin:end])
        begin, base = end, int(total[end - 1])


def _read_pieces(
    descriptor: int, pieces: _Pieces, buffer: NDArray[np.uint8], stride: int, path: str
) -> NDArray[np.uint8]:
    """Return the bytes of the pieces one after the other, (cells, stride) uint8, in the buffer."""
    view = memoryview(buffer)
    filled = 0
    for position, size in zip(pieces.position.tolist(), (pieces.length * stride).tolist(), strict=True):
        end = filled + size
        while filled < end:
            got = os.preadv(descriptor, [view[filled:end]], position)
            if got == 0:
                raise FormatError(f"{path!r} ends at byte {position}: it was cut while it was read; fetch it again.")
            filled += got
            position += got
    return buffer[:filled].reshape(-1, stride)


def _places(pieces: _Pieces) -> slice | NDArray[np.int64]:
    """Return where in the tile the pixels of the pieces go."""
    count = int(pieces.length.sum())
    begin = int(pieces.place[0])
    if int(pieces.place[-1] + pieces.length[-1]) - begin == count:
        return slice(begin, begin + count)
    ends = np.cumsum(pieces.length)
    scattered: NDArray[np.int64] = np.arange(count) + np.repeat(pieces.place - (ends - pieces.length), pieces.length)
    return scattered


def iterate_rows(maps: Sequence[FitsMap], *, values: bool = True) -> Iterator[Block]:
    """Yield the rows of a table with explicit indexing, block by block.

    Parameters
    ----------
    maps : sequence of FitsMap
        Columns of one table; the file may be compressed.
    values : bool
        Whether to decode the values, or give only the pixels.

    Raises
    ------
    FormatError
        If the file ends too early, or a pixel number is none of the grid; the message names the row.
    """
    first = maps[0]
    pixel = first.pixel
    assert pixel is not None
    npix = 12 * first.nside**2
    block_rows = max(1, min(ROWS // pixel.repeat, ROWS_BYTES // first.row_bytes))
    with open_bytes(first.path) as file:
        file.seek(first.start)
        for begin in range(0, first.rows, block_rows):
            count = min(block_rows, first.rows - begin)
            data = read_exactly(file, count * first.row_bytes, first.path)
            if len(data) < count * first.row_bytes:
                raise FormatError(f"{first.path!r} is truncated in row {begin + len(data) // first.row_bytes + 1}.")
            rows = np.frombuffer(data, dtype=np.uint8).reshape(count, first.row_bytes)
            pixels = _pixel_numbers(rows, pixel)
            wrong = (pixels < 0) | (pixels >= npix)
            if wrong.any():
                at = int(np.argmax(wrong))
                raise FormatError(
                    f"{first.path!r}, HDU {first.hdu}, row {begin + at // pixel.repeat + 1}: pixel number {pixels[at]} "
                    f"is none of NSIDE {first.nside}, whose pixels are 0 to {npix - 1}. The NSIDE or the column of "
                    f"pixel numbers ({pixel.name}) is wrong."
                )
            decoded = np.empty((len(maps) if values else 0, pixels.size), dtype=np.float32)
            infinite = [0] * len(maps)
            for index in range(decoded.shape[0]):
                described = maps[index]
                decoded[index], infinite[index] = decode(
                    elements(rows, described.column), described.column, described.bad_values
                )
            yield Block(begin, pixels, decoded, tuple(infinite))


def _pixel_numbers(rows: NDArray[np.uint8], pixel: Column) -> NDArray[np.int64]:
    stored = elements(rows, pixel)
    if math.isclose(pixel.zero, 2.0**63, rel_tol=1e-12):  # some writers round TZERO
        # Unsigned 64-bit: flipping the sign bit adds 2**63; too large numbers turn negative.
        return stored.astype(np.int64) ^ np.int64(-(2**63))
    return stored.astype(np.int64) * int(pixel.scale) + int(pixel.zero)
