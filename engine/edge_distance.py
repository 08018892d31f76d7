"""Distances from pixels to the nearest pixel that a mask does not use, tile by tile and exact.

The nearest unused pixel of any pixel is an edge pixel: an unused pixel with a used one among its 8 neighbours.  For
the set of points that are nearer to the centre of a pixel than to those of its neighbours holds no other centre
(tests hold this to be so at all nsides), so that of an unused pixel with unused neighbours only, one neighbour is
always nearer.  Unused pixels on the rim of a tile count as edge pixels too, whatever is behind them: more unused
pixels do no harm, and no tile need look at its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..chunking import geometry
from ..chunking.tiling import Tiling

# Pixels of the cells by which whole groups are found to be too far off, and points of one tree: measured.
CELL_NPIX: Final = 4**6
TREE_POINTS: Final = 2**17
# Of a tree with its points, and of the pixels that ask it at a time.
TREE_BYTES: Final = 120 * TREE_POINTS + 120 * CELL_NPIX

type Edges = Callable[[int], NDArray[np.uint32]]


def chord(angle: float) -> float:
    """Return the distance through the unit sphere of two points that are an angle in radian apart.

    Examples
    --------
    >>> round(chord(math.pi), 12)
    2.0
    """
    return 2.0 * math.sin(0.5 * min(max(angle, 0.0), math.pi))


def edge_places(unused: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Return the edge pixels of one tile, as places in it, (edges,) uint32, sorted.

    Parameters
    ----------
    unused : ndarray of bool
        (cells,) of a whole tile in NESTED order.

    Returns
    -------
    ndarray
        Places of the unused pixels that have a used one among their 8 neighbours or lie on the rim of the tile.

    Examples
    --------
    >>> edge_places(np.arange(16) != 3).tolist()
    [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    >>> edge_places(np.full(16, True)).tolist()
    [0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 15]
    """
    if not unused.any():
        return np.empty(0, np.uint32)
    places = geometry.morton(math.isqrt(unused.size))
    image = unused[places]
    # Inside are the pixels whose 3 x 3 surroundings are all unused; what is beyond the rim counts as used.
    row = np.zeros_like(image)
    row[:, 1:-1] = image[:, 1:-1] & image[:, :-2] & image[:, 2:]
    inside = np.zeros_like(image)
    inside[1:-1] = row[1:-1] & row[:-2] & row[2:]
    edge = np.empty_like(unused)
    edge[places] = image & ~inside
    return np.flatnonzero(edge).astype(np.uint32)


def chords_to_edge(
    tiling: Tiling, tile: int, used: NDArray[np.bool_], edges_of: Edges, reach: float
) -> NDArray[np.float64]:
    """Return the distance from each used pixel of a tile to the nearest edge pixel of the sky, through the sphere.

    Parameters
    ----------
    tiling : Tiling
        The grid.
    tile : int
        The tile.
    used : ndarray of bool
        (cells,) pixels whose distance is wanted.
    edges_of : callable
        Tile number -> its edge pixels as places in it (see `edge_places`); asked for tiles within reach only, one at
        a time, so that memory holds those of one tile.
    reach : float
        Radian; how far to look.

    Returns
    -------
    ndarray
        (cells,) float64, chords of the unit sphere between centres; infinite where there is no edge pixel within
        reach, and where the pixel is not used.

    Examples
    --------
    >>> one = np.arange(12) == 0  # all base pixels but one are used
    >>> edges = lambda tile: edge_places(one[tile : tile + 1])
    >>> distance = chords_to_edge(Tiling(1), 1, np.full(1, True), edges, np.pi)
    >>> np.degrees(2 * np.arcsin(distance / 2)).round(2).tolist()
    [63.61]
    """
    from scipy.spatial import cKDTree

    nside, npix = tiling.nside, tiling.tile_npix
    nearest = np.full(npix, np.inf)
    cell_npix = min(npix, CELL_NPIX)
    cell_nside = math.isqrt(tiling.npix // cell_npix // 12)
    n_cells = npix // cell_npix
    cells = geometry.pixel_vectors(cell_nside, tile * n_cells + np.arange(n_cells))
    # Two cells are at least the distance of their centres less twice this apart; rounding must not hide a pixel.
    width = 2.0 * geometry.pixel_radius(cell_nside) + 1e-9
    # How far each cell still has to look: no further than its worst pixel has found something already.
    outlook = np.where(used.reshape(n_cells, cell_npix).any(axis=1), chord(reach) * (1 + 1e-12), 0.0)
    for source, least in _tiles_within(tiling, tile, reach):
        if chord(least) >= outlook.max():
            break
        edges = edges_of(source)
        for first in range(0, edges.size, TREE_POINTS):
            pixels = source * npix + edges[first : first + TREE_POINTS].astype(np.int64)
            centres = geometry.pixel_vectors(cell_nside, np.unique(pixels // cell_npix))
            away = 2.0 * np.arcsin(np.minimum(0.5 * cKDTree(centres).query(cells)[0], 1.0)) - width
            near = np.flatnonzero(2.0 * np.sin(0.5 * np.maximum(away, 0.0)) < outlook)
            if not near.size:
                continue
            tree = cKDTree(geometry.pixel_vectors(nside, pixels))
            for cell in near:
                places = cell * cell_npix + np.flatnonzero(used[cell * cell_npix : (cell + 1) * cell_npix])
                asked = geometry.pixel_vectors(nside, tile * npix + places)
                found, _ = tree.query(asked, distance_upper_bound=outlook[cell])
                nearest[places] = np.minimum(nearest[places], found)
                outlook[cell] = min(outlook[cell], float(nearest[places].max()) * (1 + 1e-12))
    return nearest


def _tiles_within(tiling: Tiling, tile: int, reach: float) -> list[tuple[int, float]]:
    """Return the tiles that come within reach of a tile, each with its least distance in radian, nearest first."""
    assert tiling.tile_nside is not None
    centres = geometry.pixel_vectors(tiling.tile_nside, np.arange(tiling.n_tiles, dtype=np.int64))
    apart = 2.0 * np.arcsin(np.minimum(0.5 * np.linalg.norm(centres - centres[tile], axis=1), 1.0))
    least = np.maximum(apart - 2.0 * geometry.pixel_radius(tiling.tile_nside) - 1e-9, 0.0)
    near = np.flatnonzero(least <= reach)
    near = near[np.lexsort((near, apart[near]))]  # the tile itself first: apart by nothing
    return [(int(each), float(least[each])) for each in near]
