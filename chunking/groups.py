"""The Zarr group of a sky store: its address, whether it is there and can be read, and what its attributes say.

Reached through `store`, whose part this is.
"""

from __future__ import annotations

import os
import warnings
from typing import Any, cast

import zarr

from . import objects
from .errors import FormatError, StoreNotFoundError
from .schema import CHANNEL_ARRAYS, FORMAT_VERSION
from .tiling import Tiling

type StoreAddress = str | os.PathLike[str]


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


def exists(store: StoreAddress) -> bool:
    """Return whether a finished sky store is at the address."""
    try:
        group = zarr.open_group(objects.zarr_store(address(store), read_only=True), mode="r", zarr_format=3)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(address(store), error) from error
    return "skymill" in group.attrs


def damaged(where: str, error: Exception) -> FormatError:
    """Return the error that says that metadata cannot be read."""
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
        raise damaged(where, error) from error
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
    """Return the names of the maps and cubes in a store's group, sorted."""
    try:
        with warnings.catch_warnings():
            # Where a process was killed there may be an empty folder; that is no array, and no matter.
            warnings.filterwarnings("ignore", message=".*not recognized as a component of a Zarr hierarchy")
            others = ("crs", *CHANNEL_ARRAYS)
            return tuple(sorted(name for name, _ in group.arrays() if name not in others))
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(f"a map in {group.store_path}", error) from error
