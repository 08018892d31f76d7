"""The sky store: an ordinary Zarr v3 group of full-sky NESTED maps, on a local path or in an object store.

Covers: addresses, creating a store and its maps, opening it with xarray, reading and writing tiles.
Does not cover: who writes which tile when, and what is finished (`engine/ledger.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr
from zarr.errors import ContainsArrayError

from . import channels as channel_arrays
from . import objects
from .channels import Channels
from .errors import IdentityError, InputError, MissingMapError, nearest
from .groups import StoreAddress, address, exists, frame_of, map_names, open_group, tiling_of
from .schema import CHANNEL_ARRAYS, FORMAT_VERSION, MapInfo, check_frame, validate
from .tiles import (
    channel_count,
    forget_open_arrays,
    get_plain_tile,
    is_stored,
    plain_bytes,
    put_plain_tile,
    read_cells,
    read_tile,
    tile_key,
    tile_length,
    write_tile,
)
from .tiling import Tiling

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "CODECS",
    "StoreAddress",
    "address",
    "channel_count",
    "channels_of",
    "check_channels",
    "create",
    "create_channels",
    "create_maps",
    "delete_map",
    "exists",
    "forget_open_arrays",
    "frame_of",
    "get_plain_tile",
    "info",
    "infos",
    "is_cube",
    "is_stored",
    "map_names",
    "observed_tiles",
    "open",
    "open_group",
    "overview_nsides",
    "plain_bytes",
    "put_plain_tile",
    "read_cells",
    "read_tile",
    "require_maps",
    "tile_key",
    "tile_length",
    "tiling_of",
    "write_tile",
]

_DGGS_CONVENTION = {
    "uuid": "7b255807-140c-42ca-97f6-7a1cfecdbc38",
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/dggs/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/dggs/blob/v1/README.md",
    "name": "dggs",
    "description": "Discrete Global Grid Systems convention for zarr",
}
CODECS = ("lz4", "zstd", "none")


def create(
    store: StoreAddress,
    nside: int,
    *,
    frame: str,
    tile_nside: int | None = None,
    chunk_nside: int | None = None,
) -> None:
    """Make an empty sky store; one that is there already and agrees is left as it is.

    Parameters
    ----------
    store : str or path
        Where.
    nside : int
        Resolution of its maps.
    frame : {"galactic", "icrs", "ecliptic"}
        Celestial frame of its pixels.
    tile_nside, chunk_nside : int, optional
        See `Tiling`.

    Raises
    ------
    InputError
        If a store is there already with another nside, frame or tiling.
    """
    check_frame(frame)
    tiling = Tiling(nside, tile_nside, chunk_nside)
    if exists(store):
        _check_agreement(store, tiling, frame, explicit_tiles=tile_nside is not None or chunk_nside is not None)
        return
    objects.check_free(address(store))
    group = zarr.open_group(objects.zarr_store(address(store)), mode="a", zarr_format=3)
    crs = group.require_array("crs", shape=(), dtype="int8")
    crs.attrs.update({"grid_mapping_name": "healpix", "refinement_level": tiling.order, "indexing_scheme": "nested"})
    group.require_group("ledger")
    # The attributes come last: a store without them is not yet a store, and creating it again mends it.
    group.attrs.update(
        {
            "zarr_conventions": [_DGGS_CONVENTION],
            "dggs": {
                "name": "healpix",
                "refinement_level": tiling.order,
                "indexing_scheme": "nested",
                "spatial_dimension": "cells",
            },
            "skymill": {
                "format_version": FORMAT_VERSION,
                "frame": frame,
                "nside": tiling.nside,
                "tile_nside": tiling.tile_nside,
                "chunk_nside": tiling.chunk_nside,
            },
        }
    )


def _check_agreement(store: StoreAddress, tiling: Tiling, frame: str, explicit_tiles: bool) -> None:
    there, there_frame = tiling_of(store), frame_of(store)
    if there.nside != tiling.nside or there_frame != frame or (explicit_tiles and there != tiling):
        raise InputError(
            f"the store {address(store)} exists with nside {there.nside}, frame {there_frame}, tile_nside "
            f"{there.tile_nside}, chunk_nside {there.chunk_nside}; asked for were nside {tiling.nside}, frame {frame}, "
            f"tile_nside {tiling.tile_nside}, chunk_nside {tiling.chunk_nside}. Write to another store, or ask for "
            "what this one has."
        )


def infos(store: StoreAddress) -> dict[str, MapInfo]:
    """Return what is known of every map and cube of a store, by name."""
    group = open_group(store)
    return {name: _info(group, name) for name in map_names(group)}


def info(store: StoreAddress, name: str) -> MapInfo:
    """Return what is known of one map or cube.

    Raises
    ------
    MissingMapError
        If the store does not hold it; the message names the nearest that it does.
    """
    group = open_group(store)
    require_maps(store, [name], group, cubes=True)
    return _info(group, name)


def _info(group: zarr.Group, name: str) -> MapInfo:
    array = cast(zarr.Array[Any], group[name])
    dims: Any = getattr(array.metadata, "dimension_names", None) or ("cells",)
    fill = np.asarray(array.fill_value).item()
    return MapInfo.from_attributes(name, str(array.dtype), fill, dict(array.attrs), tuple(dims))


def require_maps(
    store: StoreAddress, names: Iterable[str], group: zarr.Group | None = None, *, cubes: bool = False
) -> None:
    """Raise MissingMapError for the first of `names` that the store does not hold, InputError where it is a cube.

    Every verb asks this of the names that it is given; only those that know what to do with cubes say `cubes=True`.
    """
    group = open_group(store) if group is None else group
    held = map_names(group)
    for name in names:
        if name not in held:
            raise MissingMapError(f"map {name!r} is not in the store {address(store)}; {nearest(name, held)}.")
        if not cubes and cast(zarr.Array[Any], group[name]).ndim > 1:
            raise InputError(
                f"{name!r} in the store {address(store)} is a cube (channel, cells); a map (cells,) is needed "
                f'here. Make maps from it with skymill.templates; skymill.open(store)["{name}"] has its channels.'
            )


def is_cube(store: StoreAddress, name: str) -> bool:
    """Return whether an array of the store is a cube (channel, cells), not a map (cells,).

    Raises
    ------
    MissingMapError
        If the store does not hold it.
    """
    return info(store, name).is_cube


def channels_of(store: StoreAddress) -> Channels | None:
    """Return the velocity channels of a store's cubes, or None where it has none."""
    return channel_arrays.read_channels(open_group(store))


def create_channels(store: StoreAddress, channels: Channels) -> None:
    """Write the velocity channels of the cubes of a store; those that are there already and agree stay as they are.

    Parameters
    ----------
    store : str or path
        The store, which must exist.
    channels : Channels
        What its cubes will have.

    Raises
    ------
    InputError
        If the store has other channels.
    """
    there = channels_of(store)
    if there is None:
        channel_arrays.write_channels(open_group(store, mode="r+"), channels)
    else:
        check_channels(store, there, channels)


def check_channels(store: StoreAddress, there: Channels, channels: Channels) -> None:
    """Raise InputError where the channels of a store are not those that are asked for."""
    wrong = channel_arrays.difference(there, channels)
    if wrong is not None:
        raise InputError(
            f"the cubes of the store {address(store)} have {wrong} as asked for; a store has one set of channels. "
            "Write to another store."
        )


def open(store: StoreAddress) -> xr.Dataset:
    """Return a sky store as a lazy dataset, one Dask chunk a tile.

    Parameters
    ----------
    store : str or path
        Local path or URL of the store.

    Returns
    -------
    xarray.Dataset
        Maps with dimension `cells` (NESTED pixel number at the nside of the store), float32 with NaN where there
        is no value; masks and flags uint8.  Cubes have dimensions `channel` and `cells`, and coordinates `velocity`
        and `channel_width`, km/s.  Attributes hold nside, frame, units.  No map is read yet.

    Raises
    ------
    StoreNotFoundError
        If nothing is at the address.
    FormatError
        If what is there is no sky store, or one of another format version.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("dust", folder + "/sky.zarr", 16, seed=1).run()
    ...     sm.open(folder + "/sky.zarr")["i160"].dims
    ('cells',)
    """
    import xarray as xr

    group = open_group(store)
    map_names(group)  # tells damage in words before xarray stumbles over it
    with warnings.catch_warnings():
        # Xarray takes shards for what is read at once; channels of a shard are read by themselves.
        warnings.filterwarnings("ignore", message="The specified chunks separate the stored chunks")
        dataset: xr.Dataset = xr.open_zarr(
            objects.zarr_store(address(store), read_only=True),
            consolidated=False,
            zarr_format=3,
            chunks={"cells": tiling_of(store).tile_npix, "channel": 1},
            drop_variables=["crs"],
        )
    known = [name for name in CHANNEL_ARRAYS if name in dataset.variables]
    dataset = dataset.assign_coords({name: dataset[name].compute() for name in known})
    dataset = dataset.assign_attrs(dict(group.attrs))
    dataset.encoding["source"] = address(store)
    return dataset


def create_maps(store: StoreAddress, maps: Sequence[MapInfo], *, codec: str = "lz4") -> None:
    """Create empty maps in a store: the template that tasks fill.

    Parameters
    ----------
    store : str or path
        The store, which must exist.
    maps : sequence of MapInfo
        What to create.
    codec : {"lz4", "zstd", "none"}
        Compressor behind the bit shuffle: lz4 is fast, zstd smaller for archives; "none" stores each tile as one
        plain chunk, for maps so small that their tiles are written without the ceremony (`put_plain_tile`).

    Raises
    ------
    IdentityError
        If a map of that name exists.
    InputError
        If a map contradicts the data dictionary, or the store has no channels for a cube.
    """
    from zarr.codecs import BloscCodec

    if codec not in CODECS:
        raise InputError(f"`codec` {codec!r} came; {nearest(codec, CODECS)}.")
    group = open_group(store, mode="r+")
    tiling = tiling_of(store)
    channels = channels_of(store) if any(entry.is_cube for entry in maps) else None
    for entry in maps:
        validate(entry)
        if entry.is_cube and codec == "none":
            raise InputError(f'cube {entry.name!r} came with codec "none"; cubes are compressed.')
        if entry.is_cube and channels is None:
            raise InputError(f"cube {entry.name!r} came, but {address(store)} has no channels; create_channels first.")
        if entry.name in group:
            raise IdentityError(
                f"map {entry.name!r} is in the store {address(store)} already; give another name, or overwrite=True."
            )
        plain = codec == "none"
        compressor = BloscCodec(
            cname=cast(Any, "lz4" if plain else codec),
            clevel=5 if codec == "lz4" else 3,
            shuffle="bitshuffle",
            typesize=np.dtype(entry.dtype).itemsize,
        )
        depth = () if channels is None or not entry.is_cube else (channels.count,)
        one = () if not depth else (1,)  # channels are read by themselves
        try:
            group.create_array(
                entry.name,
                shape=(*depth, tiling.npix),
                chunks=(*one, tiling.tile_npix if plain else tiling.chunk_npix),
                shards=None if plain else (*depth, tiling.tile_npix),
                dtype=entry.dtype,
                fill_value=entry.fill_value,
                dimension_names=list(entry.dims),
                compressors=None if plain else compressor,
                attributes=entry.attributes(),
            )
        except ContainsArrayError as error:
            raise IdentityError(f"map {entry.name!r} of {address(store)} was made by another process now.") from error
    forget_open_arrays()


def delete_map(store: StoreAddress, name: str) -> None:
    """Remove a map and its overviews; its ledger goes last, so that a half-removed map is never taken as whole."""
    where = address(store)
    group = open_group(where, mode="r+")
    forget_open_arrays()
    for overview in overview_nsides(group):
        objects.delete_prefix(where, f"overview/nside{overview}/{name}/")
    for prefix in (f"{name}/", f"ledger/{name}/"):
        # Data before metadata: killed in the middle, what is left is still known as a map, and is removed again.
        objects.delete_prefix(where, f"{prefix}c/")
        objects.delete_prefix(where, prefix)


def overview_nsides(group: zarr.Group) -> tuple[int, ...]:
    """Return the nsides at which a store keeps overviews, ascending."""
    try:
        overviews = group["overview"]
    except KeyError:
        return ()
    if not isinstance(overviews, zarr.Group):
        return ()
    return tuple(sorted(int(name.removeprefix("nside")) for name, _ in overviews.groups()))


def observed_tiles(store: StoreAddress, names: Sequence[str]) -> tuple[int, ...]:
    """Return the tiles that hold something in every one of the named maps, ascending.

    A tile that the ledger knows counts even where its shard is lost: who reads it must notice, not pass over it.
    """
    from .columns import read_column

    where = address(store)
    stored: set[int] | None = None
    for name in names:
        tiles = {int(key.rpartition("/")[2]) for key, _, _ in objects.listing(where, f"{name}/c/")}
        recorded = read_column(where, name)
        if recorded is not None:
            tiles |= set(np.flatnonzero(recorded > 1).tolist())  # 1: finished, with nothing to store
        stored = tiles if stored is None else stored & tiles
    return tuple(sorted(stored or ()))
