"""Some cells of maps, coarser maps, positions: how the accessor `.sky` reads without reading too much.

Lazy arrays are used through their own methods, so nothing here knows or loads the library behind them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import geometry, hierarchy, sphere
from .hierarchy import Policy
from .tiling import Tiling

if TYPE_CHECKING:
    import xarray as xr

CELLS = "cells"


def runs(cells: NDArray[np.int64], tiling: Tiling) -> Iterator[tuple[int, int, slice]]:
    """Yield the runs of neighbouring chunks, none across tiles, that hold some cells.

    Parameters
    ----------
    cells : ndarray
        (cells,) int64, sorted.
    tiling : Tiling
        The grid.

    Yields
    ------
    tuple
        First cell of the run, one past its last, and the part of `cells` in it.

    Examples
    --------
    >>> list(runs(np.array([0, 5, 47]), Tiling(2, tile_nside=1, chunk_nside=1)))
    [(0, 4, slice(0, 1, None)), (4, 8, slice(1, 2, None)), (44, 48, slice(2, 3, None))]
    """
    if cells.size == 0:
        return
    chunks = np.unique(tiling.chunk_of(cells))
    per_tile = tiling.tile_npix // tiling.chunk_npix
    breaks = np.flatnonzero((np.diff(chunks) > 1) | (np.diff(chunks // per_tile) > 0)) + 1
    for run in np.split(chunks, breaks):
        start, stop = int(run[0]) * tiling.chunk_npix, (int(run[-1]) + 1) * tiling.chunk_npix
        first, last = np.searchsorted(cells, (start, stop))
        yield start, stop, slice(int(first), int(last))


def take(variable: xr.Variable, cells: NDArray[np.int64], tiling: Tiling) -> xr.Variable:
    """Return sorted cells of a variable; of a lazy one only the chunks that hold them will be read."""
    if variable.chunks is None:
        return variable.isel({CELLS: cells})
    parts = [
        # First a slice, which reaches the store as such, then the cells in it: one list of cells reads whole tiles.
        variable.isel({CELLS: slice(start, stop)}).isel({CELLS: cells[inside] - start})
        for start, stop, inside in runs(cells, tiling)
    ]
    if not parts:
        return variable.isel({CELLS: slice(0, 0)})
    kind: Any = type(variable)
    joined: xr.Variable = kind.concat(parts, dim=CELLS)
    return joined


def look_up(
    array: xr.DataArray, cells: NDArray[np.int64], tiling: Tiling, ids: NDArray[np.int64] | None = None
) -> NDArray[Any]:
    """Return the values of cells in any order, (...), reading one run of chunks after the other.

    Parameters
    ----------
    array : xarray.DataArray
        (cells,) the full sky, or the cells numbered `ids`.
    cells : ndarray
        (...) int64 cells wanted; those that the array does not hold come as NaN (integers as 0).
    tiling : Tiling
        The grid.
    ids : ndarray, optional
        (cells,) int64 numbers of the cells of a selection, sorted.
    """
    numbers, places = np.unique(cells, return_inverse=True)
    found = np.full(numbers.shape, _nothing(array.dtype), dtype=array.dtype)
    if ids is None:
        for start, stop, inside in runs(numbers, tiling):
            found[inside] = array.isel({CELLS: slice(start, stop)}).values[numbers[inside] - start]
    elif ids.size:
        at = np.minimum(np.searchsorted(ids, numbers), ids.size - 1)
        held = ids[at] == numbers
        found[held] = array.values[at[held]]
    return found[places].reshape(cells.shape)


def lazy_positions(tiling: Tiling) -> tuple[Any, Any]:
    """Return longitudes and latitudes of all cells as lazy arrays, (cells,) float64 degrees, one block a tile."""
    import xarray as xr

    # What grows into positions is the array of tile numbers: one of pixel numbers has 26 GB at NSIDE 16384.
    tiles: Any = xr.DataArray(np.arange(tiling.n_tiles), dims="tile").chunk(tile=1).data
    grown = ((2,), (tiling.tile_npix,) * tiling.n_tiles)
    positions = tiles.map_blocks(
        partial(_tile_positions, tiling), chunks=grown, new_axis=0, dtype=np.float64, meta=np.empty((0, 0))
    )
    return positions[0], positions[1]


def _tile_positions(tiling: Tiling, tiles: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.stack(tiling.lonlat(tiling.pixels(int(tiles[0]))))


def coarser(variable: xr.Variable, name: str, ratio: int, policy: Policy) -> xr.Variable:
    """Return a variable with every `ratio` cells made one, lazily where it is lazy; see `hierarchy.degrade`."""
    import xarray as xr

    variable = variable.transpose(..., CELLS)
    kind = None if variable.dtype.kind == "b" else hierarchy.kind_of_map(name, str(variable.dtype))
    work = partial(hierarchy.degrade, npix_ratio=ratio, policy=policy, kind=kind)
    if variable.chunks is None:
        return xr.Variable(variable.dims, work(variable.values), variable.attrs)
    lengths = variable.chunksizes[CELLS]
    if any(length % ratio for length in lengths):
        variable = variable.chunk({CELLS: math.lcm(ratio, max(lengths))})
        lengths = variable.chunksizes[CELLS]
    data: Any = variable.data
    chunks = (*data.chunks[:-1], tuple(length // ratio for length in lengths))
    meta = np.empty((0,) * variable.ndim, dtype=variable.dtype)
    return xr.Variable(
        variable.dims, data.map_blocks(work, chunks=chunks, dtype=variable.dtype, meta=meta), variable.attrs
    )


def coarse_by_tiles(array: xr.DataArray, tiling: Tiling, nside: int) -> NDArray[Any]:
    """Return a full sky at a coarser nside, (cells,), read one tile after the other."""
    ratio = hierarchy.children(tiling.nside, nside)
    kind = hierarchy.kind_of_map(str(array.name), str(array.dtype))
    step = max(tiling.tile_npix, ratio)
    return np.concatenate(
        [
            hierarchy.degrade(array.isel({CELLS: slice(start, start + step)}).values, ratio, kind=kind)
            for start in range(0, tiling.npix, step)
        ]
    )


def spread(values: NDArray[Any], ids: NDArray[np.int64], tiling: Tiling, nside: int, name: str) -> NDArray[Any]:
    """Return the full sky, at most at `nside`, (cells,), that has values where the cells of a selection lie."""
    ratio = hierarchy.children(tiling.nside, min(nside, tiling.nside))
    sky = np.full(tiling.npix // ratio, _nothing(values.dtype), dtype=values.dtype)
    parents, row = np.unique(ids // ratio, return_inverse=True)
    families = np.full((parents.size, ratio), _nothing(values.dtype), dtype=values.dtype)
    families[row, ids % ratio] = values
    kind = hierarchy.kind_of_map(name, str(values.dtype))
    sky[parents] = hierarchy.degrade(families.reshape(-1), ratio, kind=kind)
    return sky


def turned(sky: NDArray[Any], source: str, target: str) -> NDArray[Any]:
    """Return a full sky on the pixels of another frame, (cells,): the nearest value, which serves pictures only."""
    grid = Tiling(math.isqrt(sky.size // 12))
    lon, lat = grid.lonlat(np.arange(grid.npix))
    values: NDArray[Any] = sky[geometry.lonlat_pixels(grid.nside, *sphere.rotate(lon, lat, target, source))]
    return values


def _nothing(dtype: np.dtype[Any]) -> float:
    return math.nan if dtype.kind == "f" else 0
