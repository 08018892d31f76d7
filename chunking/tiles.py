"""The tiles of a store's maps: read, written whole, listed.  Reached through `store`, whose part this is."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from . import objects
from .errors import FormatError, InputError
from .groups import StoreAddress
from .objects import address
from .shards import Shards


def _array(where: str, name: str, writable: bool) -> zarr.Array[Any]:
    """One open array a process: opening costs more than reading a small tile."""
    # A worker may outlive the store: its successor at the same address has metadata of its own.
    return _opened(where, name, writable, objects.tag(where, f"{name}/zarr.json"))


@functools.lru_cache(maxsize=256)
def _opened(where: str, name: str, writable: bool, tag: tuple[int, int]) -> zarr.Array[Any]:
    # The fused pipeline halves the cost of a tile and writes the same bytes (tests hold it to that).
    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline"}):
        group = zarr.open_group(
            objects.zarr_store(where, read_only=not writable), mode="r+" if writable else "r", zarr_format=3
        )
        array = group[name]
    if not isinstance(array, zarr.Array):
        raise FormatError(f"{name!r} in {where} is a group; a map is an array.")
    return array


@functools.lru_cache(maxsize=256)
def _shards(where: str, name: str, tag: tuple[int, int]) -> Shards | None:
    return Shards.of(where, name, _opened(where, name, False, tag))


def forget_open_arrays() -> None:
    """Drop the cache of open arrays, for whoever replaces a store under a running process."""
    _opened.cache_clear()
    _shards.cache_clear()


def read_tile(store: StoreAddress, name: str, tile: int) -> NDArray[Any]:
    """Return one tile of a map, (cells,) in the dtype of the map; of a cube (channel, cells).

    Raises
    ------
    FormatError
        If what is stored there cannot be decoded.
    """
    length = tile_length(store, name)
    return read_cells(store, name, tile * length, (tile + 1) * length)


def read_cells(store: StoreAddress, name: str, start: int, stop: int, channels: slice | None = None) -> NDArray[Any]:
    """Return the pixels [start, stop) of a map, reading only the chunks that they lie in.

    Parameters
    ----------
    store, name
        The map.
    start, stop : int
        First pixel, and the one behind the last.
    channels : slice, optional
        Of a cube, whose values are (channel, cells): which channels; all by default.

    Raises
    ------
    FormatError
        If what is stored there cannot be decoded.
    InputError
        If channels of a map are asked for, or every second one.
    """
    where = address(store)
    array = _array(where, name, False)
    shards = _shards(where, name, objects.tag(where, f"{name}/zarr.json"))
    wanted = None
    if array.ndim == 2:
        wanted = _channel_range(channels, array.shape[0])
    elif channels is not None:
        raise InputError(f"`channels` {channels} of map {name!r} came, which has none: it is no cube.")
    try:
        values = None if shards is None else shards.read(start, min(stop, array.shape[-1]), wanted)
        if values is not None:
            return values
        if wanted is None:
            return np.asarray(array[start:stop])
        return np.asarray(array[wanted.start : wanted.stop, start:stop])
    except (ValueError, RuntimeError, IndexError) as error:
        raise FormatError(
            f"pixels {start} to {stop - 1} of map {name!r} in {address(store)} cannot be decoded ({error}): the shard "
            "is damaged. Run the command that made the map again; it mends what is damaged."
        ) from error


def _channel_range(channels: slice | None, count: int) -> range:
    first, last, step = (channels or slice(None)).indices(count)
    if step != 1:
        raise InputError(f"`channels` {channels} came; give channels that follow each other, slice(first, last + 1).")
    return range(first, max(first, last))


def write_tile(store: StoreAddress, name: str, tile: int, values: NDArray[Any]) -> bool:
    """Write one whole tile of a map or cube and return whether it is stored; one of only the fill value is not.

    Raises
    ------
    InputError
        If the values have another shape or dtype than the tile.
    """
    array = _array(address(store), name, True)
    length = _tile_length(array)
    shape = (*array.shape[:-1], length)
    if values.shape != shape or values.dtype != array.dtype:
        raise InputError(
            f"a tile of map {name!r} is {array.dtype} with shape {shape}; {values.dtype} with shape "
            f"{values.shape} came."
        )
    array[..., tile * length : (tile + 1) * length] = values
    fill = array.fill_value
    return not (_is_fill(values[:1], fill) and _is_fill(values, fill))


def _is_fill(values: NDArray[Any], fill: Any) -> bool:
    return bool(np.isnan(values).all() if fill != fill else (values == fill).all())


def put_plain_tile(where: str, name: str, tile: int, values: NDArray[Any]) -> None:
    """Write a tile of a map made with codec "none": the chunk is the little-endian values, one small object.

    What zarr would do, without its milliseconds; they are most of the cost of a small tile.
    """
    objects.put(where, f"{name}/c/{tile}", plain_bytes(values))


def plain_bytes(values: NDArray[Any]) -> bytes:
    """Return values as `put_plain_tile` writes them."""
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def get_plain_tile(where: str, name: str, tile: int, dtype: str, length: int) -> NDArray[Any] | None:
    """Return a tile of `length` pixels that `put_plain_tile` wrote, or None where there is none.

    Raises
    ------
    FormatError
        If what is stored there is of another length.
    """
    content = objects.get(where, f"{name}/c/{tile}")
    if content is None:
        return None
    kind = np.dtype(dtype).newbyteorder("<")
    if len(content) != length * kind.itemsize:
        raise FormatError(
            f"{where}/{name}/c/{tile} has {len(content)} bytes, {length * kind.itemsize} expected: it is damaged. "
            "Remove it and run the command that made the map again; it mends what is damaged."
        )
    return np.frombuffer(content, kind)


def tile_length(store: StoreAddress, name: str) -> int:
    """Return the pixels of a tile of a map."""
    return _tile_length(_array(address(store), name, False))


def _tile_length(array: zarr.Array[Any]) -> int:
    shards = array.shards or array.chunks
    return int(shards[-1])


def channel_count(store: StoreAddress, name: str) -> int:
    """Return the channels of a cube; 0 for a map."""
    array = _array(address(store), name, False)
    return int(array.shape[0]) if array.ndim == 2 else 0


def tile_key(store: StoreAddress, name: str, tile: int) -> str:
    """Return the name of the object that holds a tile; its last part is the number of the tile."""
    # Zarr names a shard by its place in the grid of shards; those of a cube lie in one row.
    return f"{name}/c/0/{tile}" if channel_count(store, name) else f"{name}/c/{tile}"


def is_stored(store: StoreAddress, name: str, tile: int) -> bool:
    """Return whether a tile of a map or cube is stored."""
    where = address(store)
    return objects.exists(where, tile_key(where, name, tile))
