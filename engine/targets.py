"""Where the maps of a verb go, and which tiles there can hold something."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..chunking import store as stores
from ..chunking.errors import InputError
from ..chunking.tiling import Tiling


@dataclass(frozen=True)
class Target:
    """The store that a verb writes into.

    Parameters
    ----------
    address : str
        Its address.
    tiling : Tiling
        Its tiling, also where it does not exist yet.
    create : callable or None
        Makes it; None where it exists.
    """

    address: str
    tiling: Tiling
    create: Callable[[], None] | None


def creation(address: str, tiling: Tiling, frame: str) -> Callable[[], None]:
    """Return what makes an empty store of that tiling and frame; one that is there and agrees is left as it is."""
    return functools.partial(
        stores.create,
        address,
        tiling.nside,
        frame=frame,
        tile_nside=tiling.tile_nside,
        chunk_nside=tiling.chunk_nside,
    )


def output_store(source: str, out: stores.StoreAddress | None, tile_nside: int | None = None) -> Target:
    """Return where a verb writes that reads `source`: `source` itself, or `out`, which is made like `source`.

    Parameters
    ----------
    source : str
        Address of the store that is read.
    out : str or path, optional
        The option of that name.
    tile_nside : int, optional
        Tiles of a store that is made; default those of `source`.

    Raises
    ------
    InputError
        If `tile_nside` is given for a store that exists.
    """
    there = source if out is None else stores.address(out)
    if stores.exists(there):
        tiling = stores.tiling_of(there)
        if tile_nside is not None:
            raise InputError(
                f"`tile_nside` {tile_nside} came, but {there} exists and has tile_nside {tiling.tile_nside}; leave it "
                "out, or write to a new store with out=."
            )
        return Target(there, tiling, None)
    tiling = stores.tiling_of(source)
    if tile_nside is not None:
        assert tiling.chunk_nside is not None
        tiling = Tiling(tiling.nside, tile_nside, max(tile_nside, tiling.chunk_nside))
    return Target(there, tiling, creation(there, tiling, stores.frame_of(source)))


def tile_bytes(store: str, names: Sequence[str], tile_npix: int) -> int:
    """Return the bytes of a tile of all of some maps and cubes together, as tasks have them in memory.

    Parameters
    ----------
    store : str
        Address of the store that holds them.
    names : sequence of str
        Maps and cubes; one that is named twice counts twice.
    tile_npix : int
        Pixels of a tile.
    """
    return sum(4 * tile_npix * max(1, stores.channel_count(store, name)) for name in names)


def observed_in_any(store: str, names: Sequence[str]) -> list[int]:
    """Return the tiles that hold something in at least one of the named maps, ascending."""
    return sorted({tile for name in names for tile in stores.observed_tiles(store, [name])})


def tiles_over(tiles: Iterable[int], source: Tiling, target: Tiling) -> list[int]:
    """Return the tiles of `target` that share sky with some tiles of `source`, ascending.

    Tiles are NESTED pixels themselves, so that one lies in the other, whatever the two nsides.

    Examples
    --------
    >>> tiles_over([1, 5], Tiling(8, tile_nside=1), Tiling(32, tile_nside=2))
    [4, 5, 6, 7, 20, 21, 22, 23]
    >>> tiles_over([4, 5, 20], Tiling(8, tile_nside=2), Tiling(8, tile_nside=1))
    [1, 5]
    """
    found: set[int] = set()
    for tile in tiles:
        found.update(range(tile * target.n_tiles // source.n_tiles, -(-(tile + 1) * target.n_tiles // source.n_tiles)))
    return sorted(found)
