"""Overviews: coarse copies of large maps, so that looking at a map never reads the map.

Every task writes its own piece of the finest overview beside its tile; when a run ends, the coarser ones are made
from that.  Each overview is a sky store of its own, `overview/nside<N>` inside the store.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import objects, store
from .errors import IdentityError, MissingMapError
from .hierarchy import degrade, kind_of_map
from .schema import MapInfo
from .tiling import Tiling

FINEST_NSIDE = 512  # 3 million pixels: twice what a page-wide picture of the sky shows
COARSEST_NSIDE = 128  # 200 000 pixels: a thumbnail


def levels(tiling: Tiling) -> tuple[int, ...]:
    """Return the nsides of the overviews of a map, finest first.

    None where the map itself is small, nor where a tile is smaller than a pixel of the finest overview: no task could
    write its own piece then.

    Examples
    --------
    >>> levels(Tiling(4096))
    (512, 128)
    >>> levels(Tiling(512))
    ()
    """
    assert tiling.tile_nside is not None
    whole = tiling.nside > FINEST_NSIDE >= tiling.tile_nside
    return (FINEST_NSIDE, COARSEST_NSIDE) if whole else ()


def address(where: str, nside: int) -> str:
    """Return the address of one overview."""
    return f"{where}/overview/nside{nside}"


def _tiling(where: str) -> Tiling:
    return _kept_tiling(where, objects.tag(where, "zarr.json"))


@functools.lru_cache(maxsize=64)
def _kept_tiling(where: str, tag: tuple[int, int]) -> Tiling:
    return store.tiling_of(where)


def begin(where: str, maps: Sequence[MapInfo]) -> None:
    """Make the templates of all overviews of the maps; cubes have none."""
    _kept_tiling.cache_clear()
    tiling = store.tiling_of(where)
    if levels(tiling):
        store.open_group(where, mode="r+").require_group("overview")
    for nside in levels(tiling):
        finest = nside == FINEST_NSIDE
        there = address(where, nside)
        pieces = tiling.tile_nside if finest else 1
        store.create(there, nside, frame=store.frame_of(where), tile_nside=pieces, chunk_nside=pieces)
        held = store.map_names(store.open_group(there))
        missing = [
            replace(made, provenance={"overview of": made.name})
            for made in maps
            if made.name not in held and not made.is_cube
        ]
        for made in missing:
            # Another process may be at the same run, and faster.
            with contextlib.suppress(IdentityError):
                store.create_maps(there, [made], codec="none")


def summarise(name: str, values: NDArray[Any], npix_ratio: int) -> NDArray[Any]:
    """Return the overview of a piece of a map: the mean of what has a value, all bits of flags, the commonest code."""
    return degrade(values, npix_ratio, kind=kind_of_map(name, values.dtype.name))


def write_piece(where: str, name: str, tile: int, values: NDArray[Any]) -> None:
    """Write the piece of the finest overview that a tile covers; a piece without any value is not stored."""
    piece = _piece(where, name, values)
    if piece is not None:
        store.put_plain_tile(address(where, FINEST_NSIDE), name, tile, piece)


def holds_piece(where: str, name: str, tile: int, values: NDArray[Any]) -> bool:
    """Return whether the finest overview holds what `write_piece` writes for the values of a tile."""
    piece = _piece(where, name, values)
    return piece is None or _is_stored(address(where, FINEST_NSIDE), name, tile, piece)


def _is_stored(where: str, name: str, tile: int, values: NDArray[Any]) -> bool:
    return objects.get(where, f"{name}/c/{tile}") == store.plain_bytes(values)


def _piece(where: str, name: str, values: NDArray[Any]) -> NDArray[Any] | None:
    """Return the piece of the finest overview that a tile covers, or None where there is nothing to write."""
    tiling = _tiling(where)
    if not levels(tiling) or values.ndim > 1:
        return None
    piece = summarise(name, values, (tiling.nside // FINEST_NSIDE) ** 2)
    return None if piece.dtype.kind == "f" and np.isnan(piece).all() else piece


def finish(where: str, maps: Sequence[MapInfo]) -> None:
    """Make the coarser overviews from the finest.

    Raises
    ------
    FormatError
        If a piece of the finest is damaged; its own task would have mended it, so that it was damaged just now, or lies
        where the map holds nothing.
    """
    tiling = store.tiling_of(where)
    for finer, coarser in itertools.pairwise(levels(tiling)):
        assert tiling.tile_nside is not None
        pieces = (tiling.tile_nside if finer == FINEST_NSIDE else 1) ** 2  # of the finer level in a base pixel
        length = finer**2 // pieces
        for made in maps:
            if made.is_cube:
                continue
            for base in range(12):
                kept = [
                    store.get_plain_tile(address(where, finer), made.name, base * pieces + part, made.dtype, length)
                    for part in range(pieces)
                ]
                if all(piece is None for piece in kept):
                    continue
                empty = np.full(length, made.fill_value, made.dtype)
                fine = np.concatenate([empty if piece is None else piece for piece in kept])
                coarse = summarise(made.name, fine, (finer // coarser) ** 2)
                # A run that only verifies writes nothing, so that it works on a store that is read-only.
                if not _is_stored(address(where, coarser), made.name, base, coarse):
                    store.put_plain_tile(address(where, coarser), made.name, base, coarse)


def best(where: str, name: str, nside: int) -> tuple[str, int]:
    """Return address and nside of the coarsest copy of a map that has at least `nside`; the map itself at worst.

    Raises
    ------
    MissingMapError
        If the store does not hold the map.
    """
    group = store.open_group(where)
    store.require_maps(where, [name], group, cubes=True)
    for candidate in store.overview_nsides(group):
        if candidate >= nside:
            try:
                store.require_maps(address(where, candidate), [name])
            except MissingMapError:
                continue
            return address(where, candidate), candidate
    return objects.address(where), store.tiling_of(where).nside
