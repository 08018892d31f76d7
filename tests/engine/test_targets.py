"""Where maps go: the store that is made or taken, and the tiles that share sky with others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking import store as stores
from skymill.chunking.errors import InputError
from skymill.chunking.schema import MapInfo
from skymill.chunking.tiling import Tiling
from skymill.engine.targets import creation, observed_in_any, output_store, tiles_over


@pytest.fixture
def source(tmp_path):
    where = str(tmp_path / "source.zarr")
    stores.create(where, 8, frame="icrs", tile_nside=2, chunk_nside=4)
    return where


def test_without_out_the_source_is_written_into(source):
    into = output_store(source, None)
    assert (into.address, into.tiling, into.create) == (source, Tiling(8, 2, 4), None)


def test_a_new_store_is_made_like_the_source_and_only_when_told(source, tmp_path):
    into = output_store(source, tmp_path / "new.zarr")
    assert not stores.exists(into.address)
    into.create()
    assert stores.tiling_of(into.address) == into.tiling == Tiling(8, 2, 4)
    assert stores.frame_of(into.address) == "icrs"
    again = output_store(source, tmp_path / "new.zarr")
    assert again.create is None


@pytest.mark.parametrize(("tile_nside", "chunk_nside"), [(1, 4), (4, 4), (8, 8)])
def test_tiles_of_a_new_store(source, tmp_path, tile_nside, chunk_nside):
    assert output_store(source, tmp_path / "new.zarr", tile_nside).tiling == Tiling(8, tile_nside, chunk_nside)


def test_tiles_of_a_store_that_exists_are_not_chosen(source):
    with pytest.raises(InputError, match=r"`tile_nside` 4 came, but .*source.zarr exists and has tile_nside 2"):
        output_store(source, None, 4)


def test_a_store_that_agrees_is_left_and_another_refused(source):
    creation(source, Tiling(8, 2, 4), "icrs")()
    with pytest.raises(InputError):
        creation(source, Tiling(16, 2, 4), "icrs")()


def test_tiles_of_any_map(source):
    stores.create_maps(source, [MapInfo(name, "intensity", "1") for name in ("a", "b", "c")])
    for name, tile in (("a", 7), ("b", 3), ("b", 7)):
        stores.write_tile(source, name, tile, np.ones(16, np.float32))
    assert observed_in_any(source, ["a", "b", "c"]) == [3, 7]
    assert observed_in_any(source, ["a"]) == [7]
    assert observed_in_any(source, []) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.integers(0, 3), st.integers(3, 5), st.integers(3, 5), st.data())
def test_tiles_share_sky_where_their_pixels_do(tile_order, other_order, order, other, data):
    source, target = Tiling(2**order, 2**tile_order), Tiling(2**other, 2**other_order)
    tiles = data.draw(st.sets(st.integers(0, source.n_tiles - 1), max_size=6))
    fine = 12 * 4**5  # pixels of a grid at least as fine as both
    seen = np.isin(np.arange(fine) // (fine // source.n_tiles), list(tiles))
    expected = np.flatnonzero(seen.reshape(target.n_tiles, -1).any(axis=1)).tolist()
    assert tiles_over(tiles, source, target) == expected
