"""Cubes (channel, cells) of a sky store: written, read in parts, opened, described, held against zarr."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import skymill as sm
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking import errors, overview
from skymill.chunking import store as stores
from skymill.chunking.schema import CUBE, MapInfo, describe
from skymill.chunking.shards import Shards
from skymill.deploy.info import describe_store

INFO = MapInfo("n_hi", "column density", "1e20 cm^-2", dims=CUBE)


def channels_of(count):
    return sm.Channels.from_edges(np.cumsum([-90.0, *(10.0 + np.arange(count))]).tolist())


def make(path, nside=16, tile_nside=2, chunk_nside=4, count=3, codec="lz4"):
    """Write a cube whose values tell channel and pixel; every third tile is not stored, nor a chunk of each."""
    stores.create(path, nside, frame="galactic", tile_nside=tile_nside, chunk_nside=chunk_nside)
    stores.create_channels(path, channels_of(count))
    stores.create_maps(path, [INFO], codec=codec)
    grid = stores.tiling_of(path)
    whole = np.full((count, grid.npix), np.nan, dtype=np.float32)
    for tile in range(0, grid.n_tiles, 3):
        part = whole[:, grid.tile_slice(tile)]
        part[:] = 1000.0 * np.arange(count)[:, None] + grid.pixels(tile)
        if grid.chunk_npix < grid.tile_npix:
            part[count // 2, : grid.chunk_npix] = np.nan
        assert stores.write_tile(path, "n_hi", tile, np.ascontiguousarray(part))
    return str(path), whole


@settings(max_examples=20, deadline=None)
@given(
    orders=st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)),
    cells=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    channels=st.tuples(st.integers(-5, 5), st.integers(-5, 5)) | st.none(),
    count=st.integers(1, 4),
    aligned=st.booleans(),
    codec=st.sampled_from(["lz4", "zstd"]),
)
def test_any_part_is_what_was_written_and_what_zarr_reads(
    tmp_path_factory, orders, cells, channels, count, aligned, codec
):
    tile, chunk, pixel = orders
    nsides = (2 ** (tile + chunk + pixel), 2**tile, 2 ** (tile + chunk))
    path, whole = make(tmp_path_factory.mktemp("cubes"), *nsides, count=count, codec=codec)
    grid = stores.tiling_of(path)
    step = grid.chunk_npix if aligned else 1
    start, stop = sorted(int(share * (grid.npix // step - 1)) * step for share in cells)
    stop += step
    wanted = slice(None) if channels is None else slice(*channels)
    found = stores.read_cells(path, "n_hi", start, stop, None if channels is None else wanted)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, whole[wanted, start:stop])
    array = zarr.open_group(path, mode="r")["n_hi"]
    np.testing.assert_array_equal(found, array[wanted, start:stop])
    if aligned:  # and it was read without zarr
        shards = Shards.of(path, "n_hi", array)
        direct = shards.read(start, stop, range(*wanted.indices(count)))
        np.testing.assert_array_equal(direct, found)


def test_tiles_round_trip_under_the_names_that_zarr_gives_them(tmp_path):
    path, whole = make(tmp_path / "sky.zarr")
    grid = stores.tiling_of(path)
    for tile in (0, 1, 3):
        np.testing.assert_array_equal(stores.read_tile(path, "n_hi", tile), whole[:, grid.tile_slice(tile)])
        assert stores.is_stored(path, "n_hi", tile) == (tile % 3 == 0)
        assert (tmp_path / "sky.zarr" / stores.tile_key(path, "n_hi", tile)).is_file() == (tile % 3 == 0)
    assert stores.observed_tiles(path, ["n_hi"]) == tuple(range(0, grid.n_tiles, 3))
    array = zarr.open_group(path, mode="r")["n_hi"]
    assert (array.shards, array.chunks) == ((3, grid.tile_npix), (1, grid.chunk_npix))
    assert stores.channel_count(path, "n_hi") == 3
    assert stores.tile_length(path, "n_hi") == grid.tile_npix
    assert not stores.write_tile(path, "n_hi", 0, np.full((3, grid.tile_npix), np.nan, np.float32))
    assert not stores.is_stored(path, "n_hi", 0)


def test_one_channel_is_read_without_the_others(tmp_path, monkeypatch):
    path, whole = make(tmp_path / "sky.zarr", nside=64, tile_nside=1, chunk_nside=1, count=8)
    read = []
    preadv = sm.chunking.shards.os.pread

    def counting(file, length, offset):
        read.append(length)
        return preadv(file, length, offset)

    monkeypatch.setattr(sm.chunking.shards.os, "pread", counting)
    stores.read_cells(path, "n_hi", 0, 4096)
    everything = sum(read)
    read.clear()
    np.testing.assert_array_equal(stores.read_cells(path, "n_hi", 0, 4096, slice(5, 6)), whole[5:6, :4096])
    assert sum(read) < everything / 4


def test_damage_of_a_cube_is_told(tmp_path):
    path, _ = make(tmp_path / "sky.zarr")
    shard = tmp_path / "sky.zarr" / "n_hi" / "c" / "0" / "3"
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(errors.FormatError, match="damaged"):
        stores.read_tile(path, "n_hi", 3)


def test_opening_gives_lazy_channels_with_velocities(tmp_path):
    path, whole = make(tmp_path / "sky.zarr")
    dataset = sm.open(path)
    assert dataset["n_hi"].dims == ("channel", "cells")
    assert dataset["n_hi"].chunks == ((1, 1, 1), (64,) * 48)
    assert set(dataset.coords) == {"velocity", "channel_width"}
    np.testing.assert_array_equal(dataset["velocity"], channels_of(3).velocity)
    np.testing.assert_array_equal(dataset["n_hi"]["channel_width"], channels_of(3).width)
    assert dataset["velocity"].attrs["units"] == "km / s"
    np.testing.assert_array_equal(dataset["n_hi"].isel(channel=1), whole[1])
    by_velocity = dataset.swap_dims(channel="velocity").sel(velocity=slice(-80, None))["n_hi"]
    np.testing.assert_array_equal(by_velocity, whole[1:])


def test_plain_xarray_and_xdggs_understand_a_cube(tmp_path):
    import xarray as xr

    path, whole = make(tmp_path / "sky.zarr")
    plain = xr.open_zarr(path, consolidated=False, chunks=None)
    assert {"velocity", "channel_width"} <= set(plain.coords)
    np.testing.assert_array_equal(plain["n_hi"].values, whole)
    pytest.importorskip("xdggs")
    decoded = sm.open(path).dggs.decode(convention="zarr", index_options={"index_kind": "moc"})
    chosen = decoded["n_hi"].dggs.sel_latlon(np.array([40.0]), np.array([120.0]))
    cell = int(chosen["cell_ids"].values[0])
    np.testing.assert_array_equal(chosen.values[:, 0], whole[:, cell])


def test_the_accessor_works_on_cubes_and_on_channels(tmp_path):
    path, whole = make(tmp_path / "sky.zarr")
    dataset = sm.open(path)
    channel = dataset.isel(channel=2)
    region = sm.Cone(30.0, 20.0, 25.0)
    selected = dataset.sky.select(region)
    assert selected["n_hi"].dims == ("channel", "cells")
    np.testing.assert_array_equal(selected["n_hi"], whole[:, selected["cell_ids"].values])
    np.testing.assert_array_equal(channel.sky.select(region)["n_hi"], whole[2, selected["cell_ids"].values])
    coarse = dataset.sky.degrade(8)["n_hi"]
    np.testing.assert_array_equal(channel.sky.degrade(8)["n_hi"], coarse.isel(channel=2))
    tile = whole[:, : 4 * 16].reshape(3, 16, 4)
    np.testing.assert_allclose(coarse.values[0, :16], tile[0].mean(axis=1), rtol=1e-6)
    assert channel.sky.plot("n_hi", pixels=200).axes
    assert channel.sky.plot("n_hi", lonlat=(30, 20), pixels=50).axes
    with pytest.raises(errors.InputError, match=r"dimensions \('channel', 'cells'\); select one of each with .isel"):
        dataset.sky.plot("n_hi")


def test_a_cube_has_no_overview(tmp_path):
    where = str(tmp_path / "sky.zarr")
    stores.create(where, 1024, frame="galactic", tile_nside=64)
    stores.create_channels(where, channels_of(2))
    maps = [INFO, MapInfo("nhi", "column density", "1e20 cm^-2")]
    stores.create_maps(where, maps)
    overview.begin(where, maps)
    assert set(stores.infos(overview.address(where, 512))) == {"nhi"}
    grid = stores.tiling_of(where)
    overview.write_piece(where, "n_hi", 3, np.ones((2, grid.tile_npix), np.float32))
    assert overview.holds_piece(where, "n_hi", 3, np.ones((2, grid.tile_npix), np.float32))
    overview.finish(where, maps)
    assert overview.best(where, "n_hi", 256) == (where, 1024)
    assert overview.best(where, "nhi", 256) == (overview.address(where, 512), 512)


def test_what_is_known_of_a_cube_comes_back_and_is_described(tmp_path):
    path, whole = make(tmp_path / "sky.zarr")
    entry = stores.info(path, "n_hi")
    assert entry == INFO
    assert entry.is_cube
    assert stores.is_cube(path, "n_hi")
    stores.create_maps(path, [MapInfo("nhi", "column density", "1e20 cm^-2")])
    assert not stores.is_cube(path, "nhi")
    with pytest.raises(errors.MissingMapError, match="did you mean 'n_hi'"):
        stores.is_cube(path, "n_hii_")
    words = describe_store(path)
    assert "3 channels of cubes, -90 to -57 km/s" in words
    assert "n_hi (3 channels)" in words
    share = np.isfinite(whole[1]).mean()
    assert f"{100 * share:.3g} %" in words
    stores.delete_map(path, "n_hi")
    assert set(stores.infos(path)) == {"nhi"}
    assert stores.channels_of(path) == channels_of(3)


def test_names_dimensions_and_types_of_cubes_are_checked(tmp_path):
    where = tmp_path / "sky.zarr"
    stores.create(where, 16, frame="galactic")
    with pytest.raises(errors.InputError, match="has no channels; create_channels first"):
        stores.create_maps(where, [INFO])
    stores.create_channels(where, channels_of(2))
    with pytest.raises(errors.InputError, match="a cube came under the name 'pred_x', which means: predicted"):
        stores.create_maps(where, [dataclasses.replace(INFO, name="pred_x")])
    with pytest.raises(errors.InputError, match='codec "none"; cubes are compressed'):
        stores.create_maps(where, [INFO], codec="none")
    stores.create_maps(where, [INFO, dataclasses.replace(INFO, name="truth_gas")])
    with pytest.raises(errors.InputError, match="cubes are float32"):
        dataclasses.replace(INFO, dtype="uint8")
    with pytest.raises(errors.InputError, match=r"dimensions \('cells', 'channel'\)"):
        dataclasses.replace(INFO, dims=("cells", "channel"))
    for name in ("velocity", "channel_width", "channel"):
        with pytest.raises(errors.InputError, match="reserved"):
            MapInfo(name, "intensity", "K")
    with pytest.raises(errors.InputError, match=r"shape \(2, 256\); float32 with shape \(256,\) came"):
        stores.write_tile(where, "n_hi", 0, np.zeros(256, np.float32))
    with pytest.raises(errors.InputError, match="channels that follow each other"):
        stores.read_cells(where, "n_hi", 0, 16, slice(0, 2, 2))
    stores.create_maps(where, [MapInfo("nhi", "column density", "1e20 cm^-2")])
    with pytest.raises(errors.InputError, match="it is no cube"):
        stores.read_cells(where, "nhi", 0, 16, slice(0, 1))


def test_the_data_dictionary_says_which_arrays_may_be_cubes():
    table = describe()
    assert "| `velocity` | `channel` | float64 | km / s |" in table
    assert r"| `[A-Za-z]\w*` | `cells`; `channel, cells` | float32 |" in table
    assert r"| `pred_\w+` | `cells` | float32 |" in table
    text = (Path(sm.__file__).parent / "chunking" / "DESIGN.md").read_text()
    assert f"<!-- schema -->\n{table}\n" in text
