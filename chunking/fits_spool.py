"""Scratch space of an ingest: compressed files unpacked, and tables with explicit indexing sorted into tiles.

The rows of such a table may come in any order.  They are read once, block by block; each block is sorted by tile and
appended to one file, with an index of which piece belongs to which tile.  A tile is then put together from its pieces.
Everything lives in one folder that the ingest removes when it ends, well or not.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DiskFullError, FormatError
from .fits_header import open_bytes, read_exactly
from .fits_map import FitsMap
from .fits_read import ROWS, ROWS_BYTES, iterate_rows
from .geometry import nested_to_ring, ring_to_nested
from .tiling import Tiling

COPY_BYTES = 2**22
# What sorting one block of rows needs: its bytes, and pixel numbers, tiles and their order in 64 bits, some twice.
SORTING_BYTES = 2 * ROWS_BYTES + 80 * ROWS


def unpack(path: str, end: int, target: Path) -> None:
    """Write the first `end` bytes of a gzip-compressed file, decompressed, to `target`.

    Raises
    ------
    FormatError
        If the file is damaged or too short.
    DiskFullError
        If there is not enough room beside the store.
    """
    need_room(target.parent, end, path)
    with open_bytes(path) as source, disk_errors(target), open(target, "wb") as unpacked:
        left = end
        while left:
            data = read_exactly(source, min(COPY_BYTES, left), path)
            if not data:
                raise FormatError(f"{path!r} is truncated: {left} of {end} bytes are missing; fetch it again.")
            unpacked.write(data)
            left -= len(data)


def need_room(folder: Path, size: int, what: str) -> None:
    """Raise DiskFullError unless a folder's disk has room for `size` bytes."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DiskFullError(
            f"{what!r} needs {size / 1e9:.2f} GB in {folder}, whose disk has {free / 1e9:.2f} GB free; free some space "
            "or name another folder."
        )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk into a DiskFullError that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"the disk is full while {path} is written; free some space, run it again.") from None
        raise


def touched_tiles(described: FitsMap, ordering: str, tiling: Tiling) -> list[int]:
    """Return the tiles in which a table with explicit indexing lists pixels, ascending.

    Raises
    ------
    FormatError
        If a pixel number is none of the grid, or the file is truncated.
    """
    found: set[int] = set()
    shift = tiling.tile_npix.bit_length() - 1
    for block in iterate_rows([described], values=False):
        nested = ring_to_nested(tiling.nside, block.pixels) if ordering == "ring" else block.pixels
        found.update(np.unique(nested >> shift).tolist())
    return sorted(found)


def spool(maps: Sequence[FitsMap], ordering: str, tiling: Tiling, folder: Path) -> list[int]:
    """Return how many values of each map were infinite, after sorting the rows of a table into tiles.

    Parameters
    ----------
    maps : sequence of FitsMap
        Columns of one table.
    ordering : {"ring", "nested"}
        Of its pixel numbers.
    tiling : Tiling
        The grid.
    folder : Path
        Exists and is empty; receives the sorted rows and their index.

    Raises
    ------
    FormatError
        If a pixel is listed twice, or a pixel number is none of the grid.
    DiskFullError
        If there is not enough room.
    """
    shift = tiling.tile_npix.bit_length() - 1
    local_type = _local_type(tiling)
    need_room(folder, maps[0].n_pixels * (local_type.itemsize + 4 * len(maps)), maps[0].path)
    pieces: list[NDArray[np.int64]] = []
    base = 0
    infinite = [0] * len(maps)
    with disk_errors(folder / "rows"), open(folder / "rows", "wb") as file:
        for block in iterate_rows(maps):
            infinite = [total + more for total, more in zip(infinite, block.infinite, strict=True)]
            nested = ring_to_nested(tiling.nside, block.pixels) if ordering == "ring" else block.pixels
            tiles, values = nested >> shift, block.values
            if np.any(tiles[1:] < tiles[:-1]):
                order = _sorted_order(tiles)
                nested, tiles, values = nested[order], tiles[order], values[:, order]
            local = (nested & (tiling.tile_npix - 1)).astype(local_type)
            file.write(local.data)
            file.write(np.ascontiguousarray(values).data)
            begin = np.flatnonzero(np.diff(tiles, prepend=-1))
            count = np.diff(begin, append=tiles.size)
            constant = np.ones_like(begin)
            pieces.append(np.stack([tiles[begin], base * constant, tiles.size * constant, begin, count]))
            base += tiles.size * (local_type.itemsize + 4 * len(maps))
    index = np.concatenate(pieces, axis=1) if pieces else np.zeros((5, 0), dtype=np.int64)
    index = index[:, np.argsort(index[0], kind="stable")]
    with disk_errors(folder / "index.npy"):
        np.save(folder / "index.npy", index)
    for tile in np.unique(index[0]).tolist():
        local, _ = _rows_of(folder, tile, 0, local_type)
        local.sort()
        again = np.flatnonzero(local[1:] == local[:-1])
        if again.size:
            pixel = np.array([(tile << shift) + int(local[again[0]])])
            number = int(nested_to_ring(tiling.nside, pixel)[0] if ordering == "ring" else pixel[0])
            raise FormatError(
                f"{maps[0].path!r}, HDU {maps[0].hdu}: pixel {number} is listed more than once, so its value is not "
                "known; remove the copies, or average them, first."
            )
    return infinite


def assemble(
    folder: Path, maps: int, tiling: Tiling, tile: int, into: Sequence[NDArray[np.float32]] | None = None
) -> Sequence[NDArray[np.float32]]:
    """Return one tile of each of the `maps` maps that `spool` has sorted, (cells,) float32, NaN where not listed.

    What is returned is `into`, written over, where that is given.
    """
    local_type = _local_type(tiling)
    local, values = _rows_of(folder, tile, maps, local_type)
    out = [np.empty(tiling.tile_npix, dtype=np.float32) for _ in range(maps)] if into is None else into
    for filled, row in zip(out, values, strict=True):
        filled[:] = np.nan
        filled[local] = row
    return out


def _sorted_order(tiles: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the order that sorts tile numbers, equal ones left in their order."""
    lowest = int(tiles.min())
    if int(tiles.max()) - lowest < 2**16:  # NumPy sorts 16-bit integers by radix, ten times faster
        return np.argsort((tiles - lowest).astype(np.uint16), kind="stable")
    return np.argsort(tiles, kind="stable")


def _local_type(tiling: Tiling) -> np.dtype[Any]:
    """Return the smallest type for the offset of a pixel in its tile."""
    return np.dtype(np.uint32) if tiling.tile_npix <= 2**32 else np.dtype(np.uint64)


@lru_cache(maxsize=64)
def _index(path: str, modified: int) -> NDArray[np.int64]:
    index: NDArray[np.int64] = np.load(path)
    return index


def _rows_of(folder: Path, tile: int, maps: int, local_type: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return the rows of a tile: offset in the tile, (cells,), and values, (map, cells)."""
    path = folder / "index.npy"
    index = _index(str(path), path.stat().st_mtime_ns)
    first, last = np.searchsorted(index[0], [tile, tile + 1])
    mine = index[:, first:last]
    total = int(mine[4].sum())
    local = np.empty(total, dtype=local_type)
    values = np.empty((maps, total), dtype=np.float32)
    at = 0
    descriptor = os.open(folder / "rows", os.O_RDONLY)
    try:
        for _, base, size, begin, count in mine.T.tolist():
            _fill(descriptor, base + begin * local_type.itemsize, local[at : at + count])
            for row in range(maps):
                position = base + size * local_type.itemsize + 4 * (row * size + begin)
                _fill(descriptor, position, values[row, at : at + count])
            at += count
    finally:
        os.close(descriptor)
    return local, values


def _fill(descriptor: int, position: int, target: NDArray[Any]) -> None:
    view = memoryview(target).cast("B")
    done = 0
    while done < len(view):
        got = os.preadv(descriptor, [view[done:]], position + done)
        if got == 0:
            raise FormatError("the scratch file of this ingest is cut short; run it again.")
        done += got
