"""Overviews: what is written beside a tile, what is made from it, what is taken for a picture, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skymill.chunking import objects, overview
from skymill.chunking import store as stores
from skymill.chunking.errors import FormatError, MissingMapError
from skymill.chunking.hierarchy import kind_of_map
from skymill.chunking.schema import MapInfo
from skymill.chunking.tiling import Tiling

NSIDE = 1024
I160 = MapInfo("i160", "intensity", "MJy/sr")
SURVEY = MapInfo("survey", "survey code", "1", dtype="uint8")
FLAG = MapInfo("flag_850um", "flags", "1", dtype="uint8", fill_value=2)


def new_store(path: Path, *maps: MapInfo, tile_nside: int = 2) -> str:
    where = str(path / "sky.zarr")
    stores.create(where, NSIDE, frame="galactic", tile_nside=tile_nside)
    stores.create_maps(where, maps)
    overview.begin(where, maps)
    return where


def piece_file(where: str, nside: int, name: str, tile: int) -> Path:
    return Path(overview.address(where, nside), name, "c", str(tile))


@pytest.mark.parametrize(
    ("nside", "tile_nside", "expected"),
    [(1, 1, ()), (512, 1, ()), (1024, 1, (512, 128)), (16384, 512, (512, 128)), (1024, 1024, ())],
)
def test_levels(nside: int, tile_nside: int, expected: tuple[int, ...]) -> None:
    assert overview.levels(Tiling(nside, tile_nside)) == expected


def test_tiles_smaller_than_a_pixel_of_the_overview_have_none(tmp_path: Path) -> None:
    where = new_store(tmp_path, I160, tile_nside=1024)
    overview.write_piece(where, "i160", 0, np.ones(1, np.float32))
    overview.finish(where, [I160])
    assert not Path(where, "overview").exists()


def families(values: np.ndarray, children: int) -> np.ndarray:
    return values.reshape(-1, children)


@pytest.mark.parametrize("children", [4, 64])
def test_each_kind_of_map_has_its_own_summary(children: int) -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=children * 100).astype(np.float32)
    values[rng.random(values.size) < 0.4] = np.nan
    values[:children] = np.nan
    rows = np.ma.masked_invalid(families(values, children).astype(np.float64))
    expected = rows.mean(axis=1).filled(np.nan)
    np.testing.assert_allclose(overview.summarise("i160", values, children), expected, rtol=1e-6)
    codes = rng.integers(0, 4, children * 100).astype(np.uint8)
    rows = families(codes, children)
    most = [np.bincount(row).argmax() for row in rows]  # the smaller of two equally frequent ones
    np.testing.assert_array_equal(overview.summarise("survey", codes, children), most)
    assert (np.array(most) != rows.max(axis=1)).any()
    bits = (1 << codes).astype(np.uint8)
    combined = [np.bitwise_or.reduce(row) for row in families(bits, children)]
    for name in ("flag_850um", "reason_850um", "mask_850um"):
        assert kind_of_map(name, "uint8") == "bits"
        np.testing.assert_array_equal(overview.summarise(name, bits, children), combined)
    assert overview.summarise("survey", codes, children).dtype == np.uint8


def test_pieces_and_coarser_levels_read_as_stores(tmp_path: Path) -> None:
    """Written piece by piece, read by xarray: as if made from the whole map."""
    maps = (I160, SURVEY, FLAG)
    where = new_store(tmp_path, *maps)
    tiling = stores.tiling_of(where)
    rng = np.random.default_rng(3)
    whole = {
        "i160": np.full(tiling.npix, np.nan, np.float32),
        "survey": np.zeros(tiling.npix, np.uint8),
        "flag_850um": np.full(tiling.npix, 2, np.uint8),
    }
    for tile in (0, 5, 6, 47):
        made = {
            "i160": rng.normal(size=tiling.tile_npix).astype(np.float32),
            "survey": rng.integers(0, 3, tiling.tile_npix).astype(np.uint8),
            "flag_850um": (1 << rng.integers(0, 3, tiling.tile_npix)).astype(np.uint8),
        }
        for name, values in made.items():
            overview.write_piece(where, name, tile, values)
            assert overview.holds_piece(where, name, tile, values)
            whole[name][tiling.tile_slice(tile)] = values
    overview.finish(where, maps)
    for name, values in whole.items():
        fine = overview.summarise(name, values, 4)
        coarse = overview.summarise(name, fine, 16)
        for nside, expected in ((512, fine), (128, coarse)):
            np.testing.assert_array_equal(stores.open(overview.address(where, nside))[name].values, expected)


def test_a_piece_without_values_is_not_stored(tmp_path: Path) -> None:
    where = new_store(tmp_path, I160)
    nothing = np.full(stores.tiling_of(where).tile_npix, np.nan, np.float32)
    overview.write_piece(where, "i160", 7, nothing)
    assert not piece_file(where, 512, "i160", 7).exists()
    assert overview.holds_piece(where, "i160", 7, nothing)


def test_other_values_and_missing_pieces_are_noticed(tmp_path: Path) -> None:
    where = new_store(tmp_path, I160)
    values = np.ones(stores.tiling_of(where).tile_npix, np.float32)
    assert not overview.holds_piece(where, "i160", 7, values)
    overview.write_piece(where, "i160", 7, values)
    assert not overview.holds_piece(where, "i160", 7, 2 * values)


def test_small_maps_have_none(tmp_path: Path) -> None:
    where = str(tmp_path / "sky.zarr")
    stores.create(where, 64, frame="galactic")
    stores.create_maps(where, [I160])
    overview.begin(where, [I160])
    values = np.ones(stores.tiling_of(where).tile_npix, np.float32)
    overview.write_piece(where, "i160", 0, values)
    overview.finish(where, [I160])
    assert overview.holds_piece(where, "i160", 0, values)
    assert not (Path(where) / "overview").exists()
    assert overview.best(where, "i160", 1) == (where, 64)


def test_best_is_the_coarsest_that_suffices(tmp_path: Path) -> None:
    where = new_store(tmp_path, I160)
    stores.create_maps(where, [SURVEY])  # without overviews
    for nside, expected in ((64, 128), (128, 128), (256, 512), (512, 512)):
        assert overview.best(where, "i160", nside) == (overview.address(where, expected), expected)
    assert overview.best(where, "i160", 1024) == (where, NSIDE)
    assert overview.best(where, "survey", 64) == (where, NSIDE)
    with pytest.raises(MissingMapError, match="i161"):
        overview.best(where, "i161", 64)


@pytest.mark.parametrize("kept", [0, 1, 100])
def test_a_damaged_piece_is_told_and_can_be_mended(tmp_path: Path, kept: int) -> None:
    where = new_store(tmp_path, I160)
    values = np.arange(stores.tiling_of(where).tile_npix, dtype=np.float32)
    overview.write_piece(where, "i160", 7, values)
    file = piece_file(where, 512, "i160", 7)
    intact = file.read_bytes()
    file.write_bytes(intact[:kept])
    assert not overview.holds_piece(where, "i160", 7, values)
    with pytest.raises(FormatError, match=rf"i160/c/7 has {kept} bytes, {len(intact)} expected.*Remove it and run"):
        overview.finish(where, [I160])
    assert not piece_file(where, 128, "i160", 1).exists()
    overview.write_piece(where, "i160", 7, values)
    overview.finish(where, [I160])
    expected = overview.summarise("i160", overview.summarise("i160", values, 4), 16)
    coarse = stores.read_tile(overview.address(where, 128), "i160", 1)
    np.testing.assert_array_equal(coarse[-expected.size :], expected)
    assert np.isnan(coarse[: -expected.size]).all()


def test_finishing_again_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = new_store(tmp_path, I160)
    overview.write_piece(where, "i160", 7, np.ones(stores.tiling_of(where).tile_npix, np.float32))
    overview.finish(where, [I160])
    coarse = piece_file(where, 128, "i160", 1)
    intact = coarse.read_bytes()
    written: list[str] = []
    put = objects.put
    monkeypatch.setattr(objects, "put", lambda where, key, content: (written.append(key), put(where, key, content)))
    overview.finish(where, [I160])
    assert written == []
    coarse.write_bytes(intact[:9])
    overview.finish(where, [I160])
    assert written == ["i160/c/1"]
    assert coarse.read_bytes() == intact


def test_beginning_again_keeps_what_is_there(tmp_path: Path) -> None:
    where = new_store(tmp_path, I160)
    values = np.ones(stores.tiling_of(where).tile_npix, np.float32)
    overview.write_piece(where, "i160", 7, values)
    overview.begin(where, [I160, SURVEY])
    assert overview.holds_piece(where, "i160", 7, values)
    assert set(stores.infos(overview.address(where, 512))) == {"i160", "survey"}
