"""Shards read directly are what zarr reads, to the bit, and damage is told."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking import store as stores
from skymill.chunking.errors import FormatError
from skymill.chunking.schema import MapInfo
from skymill.chunking.shards import Shards

MAPS = (
    MapInfo("intensity", "intensity", "K"),
    MapInfo("mask_a", "mask", "1", dtype="uint8", fill_value=1),
)


def make(path, nside, tile_nside, chunk_nside, codec="lz4", seed=0):
    stores.create(path, nside, frame="galactic", tile_nside=tile_nside, chunk_nside=chunk_nside)
    stores.create_maps(path, MAPS, codec=codec)
    grid, rng = stores.tiling_of(path), np.random.default_rng(seed)
    for info in MAPS:
        for tile in range(0, grid.n_tiles, 2):  # every other tile is not stored
            values = rng.integers(0, 2, grid.tile_npix).astype(info.dtype)
            values[: grid.chunk_npix] = info.fill_value  # a chunk that is not stored
            stores.write_tile(path, info.name, tile, values)
    return str(path)


def shards_of(path, name):
    return Shards.of(path, name, zarr.open_group(path, mode="r")[name])


@settings(max_examples=12, deadline=None)
@given(
    orders=st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)),
    span=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    name=st.sampled_from([info.name for info in MAPS]),
    codec=st.sampled_from(["lz4", "zstd"]),
)
def test_what_is_read_is_what_zarr_reads(tmp_path_factory, orders, span, name, codec):
    tile, chunk, pixel = orders
    path = make(tmp_path_factory.mktemp("shards"), 2 ** (tile + chunk + pixel), 2**tile, 2 ** (tile + chunk), codec)
    grid = stores.tiling_of(path)
    first, last = sorted(int(share * (grid.n_chunks - 1)) for share in span)
    start, stop = first * grid.chunk_npix, (last + 1) * grid.chunk_npix
    expected = zarr.open_group(path, mode="r")[name][start:stop]
    found = shards_of(path, name)
    assert found is not None
    values = found.read(start, stop)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(stores.read_cells(path, name, start, stop), expected)
    assert values.dtype == expected.dtype


def test_pixels_inside_a_chunk_are_left_to_zarr(tmp_path):
    path = make(tmp_path / "sky.zarr", 16, 2, 4)
    assert shards_of(path, "intensity").read(3, 16) is None
    assert shards_of(path, "intensity").read(16, 16) is None
    np.testing.assert_array_equal(
        stores.read_cells(path, "intensity", 3, 21), zarr.open_group(path, mode="r")["intensity"][3:21]
    )


def test_maps_that_are_made_otherwise_are_left_to_zarr(tmp_path):
    path = make(tmp_path / "sky.zarr", 16, 2, 4, codec="none")
    assert shards_of(path, "intensity") is None
    group = zarr.open_group(path, mode="a")
    group.create_array("plain", shape=(3072,), chunks=(64,), dtype="f4")
    group.create_array("other", shape=(3072,), chunks=(64,), shards=(256,), dtype=">f4", compressors=None)
    assert shards_of(path, "plain") is None
    assert shards_of(path, "other") is None


def damaged(content, what):
    if what == "cut short":
        return content[:10]
    if what == "empty":
        return b""
    place = {"index": -10, "checksum": -1, "header": 5}[what]
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 or len(content) :]


@pytest.mark.parametrize("what", ["cut short", "empty", "index", "checksum", "header"])
def test_damage_is_told(tmp_path, what):
    path = make(tmp_path / "sky.zarr", 16, 2, 4)
    shard = tmp_path / "sky.zarr" / "intensity" / "c" / "0"
    shard.write_bytes(damaged(shard.read_bytes(), what))
    with pytest.raises(FormatError, match=r"cannot be decoded .*the shard is damaged"):
        stores.read_tile(path, "intensity", 0)
