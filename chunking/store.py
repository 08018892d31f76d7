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

from . import objects
from .errors import FormatError, IdentityError, InputError, MissingMapError, StoreNotFoundError, nearest
from .schema import FORMAT_VERSION, MapInfo, check_frame, validate
from .tiles import (
    StoreAddress,
    forget_open_arrays,
    get_plain_tile,
    plain_bytes,
    put_plain_tile,
    read_cells,
    read_tile,
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
    "create",
    "create_maps",
    "delete_map",
    "exists",
    "forget_open_arrays",
    "frame_of",
    "get_plain_tile",
    "info",
    "infos",
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


def address(store: StoreAddress) -> str:
    """Return the one spelling of a store's address: an absolute path, or a URL as given.

    Parameters
    ----------
    store : str or path
        A local path, or a URL such as "s3://bucket/sky.zarr" (credentials and endpoint come from the
        usual AWS_* environment variables).

    Returns
    -------
    str

    Raises
    ------
    InputError
        If what came is neither.

    Examples
    --------
    >>> address("s3://survey/sky.zarr/")
    's3://survey/sky.zarr'
    """
    return objects.address(store)


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


def exists(store: StoreAddress) -> bool:
    """Return whether a finished sky store is at the address."""
    try:
        group = zarr.open_group(objects.zarr_store(address(store), read_only=True), mode="r", zarr_format=3)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(address(store), error) from error
    return "skymill" in group.attrs


def _damaged(where: str, error: Exception) -> FormatError:
    return FormatError(
        f"the metadata of {where} cannot be read ({error}); the store is damaged. Bring zarr.json back from a copy, "
        "or remove the store and make it again."
    )


def open_group(store: StoreAddress, mode: str = "r") -> zarr.Group:
    """Return the Zarr group of a sky store, after checking that it is one that we can read.

    Raises
    ------
    StoreNotFoundError
        If nothing is at the address.
    FormatError
        If what is there is no sky store, or one of another format version.
    """
    where = address(store)
    try:
        kept = objects.zarr_store(where, read_only=mode == "r")
        group = zarr.open_group(kept, mode=cast(Any, mode), zarr_format=3)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreNotFoundError(
            f"no sky store at {where}: nothing that Zarr can open is there. Check the path, or make the store with "
            "skymill.ingest or skymill.simulate."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(where, error) from error
    _check_format(where, dict(group.attrs))
    return group


def _check_format(where: str, attributes: dict[str, Any]) -> None:
    ours = attributes.get("skymill")
    if not isinstance(ours, dict) or "format_version" not in ours:
        raise FormatError(
            f"{where} is a Zarr group but no sky store: it has no `skymill` attributes with format version and frame. "
            "Bring its maps in with skymill.ingest."
        )
    version = ours["format_version"]
    if version != FORMAT_VERSION:
        raise FormatError(
            f"{where} has format version {version}; this skymill reads version {FORMAT_VERSION}. "
            "Use the skymill that wrote it, or a newer one."
        )


def tiling_of(store: StoreAddress) -> Tiling:
    """Return the tiling of a sky store."""
    ours = cast(dict[str, Any], open_group(store).attrs["skymill"])
    return Tiling(ours["nside"], ours["tile_nside"], ours["chunk_nside"])


def frame_of(store: StoreAddress) -> str:
    """Return the celestial frame of a sky store."""
    return str(cast(dict[str, Any], open_group(store).attrs["skymill"])["frame"])


def map_names(group: zarr.Group) -> tuple[str, ...]:
    """Return the names of the maps in a store's group, sorted."""
    try:
        with warnings.catch_warnings():
            # Where a process was killed there may be an empty folder; that is no array, and no matter.
            warnings.filterwarnings("ignore", message=".*not recognized as a component of a Zarr hierarchy")
            return tuple(sorted(name for name, _ in group.arrays() if name != "crs"))
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(f"a map in {group.store_path}", error) from error


def infos(store: StoreAddress) -> dict[str, MapInfo]:
    """Return what is known of every map of a store, by name."""
    group = open_group(store)
    return {name: _info(group, name) for name in map_names(group)}


def info(store: StoreAddress, name: str) -> MapInfo:
    """Return what is known of one map.

    Raises
    ------
    MissingMapError
        If the store does not hold it; the message names the nearest that it does.
    """
    group = open_group(store)
    require_maps(store, [name], group)
    return _info(group, name)


def _info(group: zarr.Group, name: str) -> MapInfo:
    array = cast(zarr.Array[Any], group[name])
    return MapInfo.from_attributes(name, str(array.dtype), np.asarray(array.fill_value).item(), dict(array.attrs))


def require_maps(store: StoreAddress, names: Iterable[str], group: zarr.Group | None = None) -> None:
    """Raise MissingMapError for the first of `names` that the store does not hold."""
    group = open_group(store) if group is None else group
    held = map_names(group)
    for name in names:
        if name not in held:
            raise MissingMapError(f"map {name!r} is not in the store {address(store)}; {nearest(name, held)}.")


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
        is no value; masks and flags uint8.  Attributes hold nside, frame, units.  Nothing is read yet.

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
    dataset: xr.Dataset = xr.open_zarr(
        objects.zarr_store(address(store), read_only=True),
        consolidated=False,
        zarr_format=3,
        chunks={"cells": tiling_of(store).tile_npix},
        drop_variables=["crs"],
    )
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
        If a map contradicts the data dictionary.
    """
    from zarr.codecs import BloscCodec

    if codec not in CODECS:
        raise InputError(f"`codec` {codec!r} came; {nearest(codec, CODECS)}.")
    group = open_group(store, mode="r+")
    tiling = tiling_of(store)
    for entry in maps:
        validate(entry)
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
        try:
            group.create_array(
                entry.name,
                shape=(tiling.npix,),
                chunks=(tiling.tile_npix if plain else tiling.chunk_npix,),
                shards=None if plain else (tiling.tile_npix,),
                dtype=entry.dtype,
                fill_value=entry.fill_value,
                dimension_names=["cells"],
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
