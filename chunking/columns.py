"""The columns of a store's ledger as Zarr arrays: made, described, read.

Does not cover: what their numbers mean, and who writes them when (`engine/ledger.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.errors import ContainsArrayError

from . import objects
from .errors import IdentityError
from .store import StoreAddress, address, open_group, tiling_of

_ATTEMPTS = 5


def create_column(store: StoreAddress, name: str, attributes: Mapping[str, Any]) -> None:
    """Create the ledger of a map, `ledger/<name>`: one uint64 a tile, each in a chunk of its own.

    Raises
    ------
    IdentityError
        If it is there.
    """
    try:
        open_group(store, mode="r+").create_array(
            f"ledger/{name}",
            shape=(tiling_of(store).n_tiles,),
            chunks=(1,),
            dtype="uint64",
            fill_value=0,
            compressors=None,
            dimension_names=["tile"],
            attributes={"skymill": dict(attributes)},
        )
    except ContainsArrayError as error:
        raise IdentityError(
            f"the ledger of map {name!r} in {address(store)} was made by another process now."
        ) from error


def column_attributes(store: StoreAddress, name: str) -> dict[str, Any] | None:
    """Return what the ledger of a map says of its run, or None where the map has no ledger."""
    ledger = open_group(store).get(f"ledger/{name}")
    return dict(cast(dict[str, Any], ledger.attrs["skymill"])) if isinstance(ledger, zarr.Array) else None


def set_column_attributes(store: StoreAddress, name: str, attributes: Mapping[str, Any]) -> None:
    """Replace what the ledger of a map says of its run."""
    for attempt in range(_ATTEMPTS):
        try:
            open_group(store, mode="r+")[f"ledger/{name}"].attrs["skymill"] = dict(attributes)
            return
        except FileNotFoundError:
            # Another process at the same map has come to its end and swept up, our half-written file too.
            if attempt + 1 == _ATTEMPTS:
                raise


def read_column(store: StoreAddress, name: str) -> NDArray[np.uint64] | None:
    """Return the ledger of a map, (tile,) uint64, or None where the map has none."""
    where = address(store)
    ledger = open_group(where).get(f"ledger/{name}")
    if not isinstance(ledger, zarr.Array):
        return None
    if not objects.is_local(where):
        return np.asarray(ledger[:], dtype=np.uint64)  # zarr asks for many objects at once
    entries = np.zeros(ledger.shape[0], dtype=np.uint64)
    for key, _, _ in objects.listing(where, f"ledger/{name}/c/"):
        content = objects.get(where, key)
        if content is not None and len(content) == 8:
            entries[int(key.rpartition("/")[2])] = int.from_bytes(content, "little")
    return entries
