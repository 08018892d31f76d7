"""Tables with explicit indexing, sorted into tiles."""

from collections import namedtuple

import healpy as hp
import numpy as np
import pytest
from fitsfiles import some_map, write_table
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking import fits_read, fits_spool
from skymill.chunking.errors import DiskFullError, FormatError
from skymill.chunking.fits_map import describe
from skymill.chunking.fits_spool import assemble, spool, touched_tiles, unpack
from skymill.chunking.tiling import Tiling


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 700),
    ordering=st.sampled_from(["ring", "nested"]),
    tile_nside=st.sampled_from([1, 4, 8]),
    block=st.sampled_from([1, 50, 10**6]),
    in_order=st.booleans(),
    repeat=st.sampled_from([1, 5]),
)
def test_any_order_of_rows_gives_the_map(tmp_path_factory, count, ordering, tile_nside, block, in_order, repeat):
    folder = tmp_path_factory.mktemp("fits")
    count = -(-count // repeat) * repeat
    pixels = np.random.default_rng(count).permutation(768)[:count]
    pixels = np.sort(pixels) if in_order else pixels
    values = some_map(8)[:count]
    columns = {"PIXEL": (f"{repeat}J", pixels), "A": (f"{repeat}E", values), "B": (f"{repeat}D", -values)}
    path = write_table(folder / "map.fits", columns, NSIDE=8, INDXSCHM="EXPLICIT")
    maps = [describe(f"{path}[A]"), describe(f"{path}[B]")]
    tiling = Tiling(8, tile_nside=tile_nside)
    want = np.full((2, 768), np.nan, "f4")
    nested = hp.ring2nest(8, pixels) if ordering == "ring" else pixels
    want[:, nested] = values, -values
    usual = fits_read.ROWS
    fits_read.ROWS = block * repeat
    try:
        assert spool(maps, ordering, tiling, folder) == [0, 0]
        touched = touched_tiles(maps[0], ordering, tiling)
    finally:
        fits_read.ROWS = usual
    found = np.concatenate([assemble(folder, 2, tiling, tile) for tile in range(tiling.n_tiles)], axis=1)
    np.testing.assert_array_equal(found, want)
    assert touched == np.unique(nested // tiling.tile_npix).tolist()


@pytest.mark.parametrize("ordering", ["ring", "nested"])
def test_a_pixel_listed_twice_is_an_error_that_names_it(tmp_path, ordering):
    pixels = np.array([7, 500, 33, 7, 2])
    path = write_table(tmp_path / "m.fits", {"PIXEL": ("J", pixels), "I": ("E", pixels)}, NSIDE=8, INDXSCHM="EXPLICIT")
    with pytest.raises(FormatError, match="pixel 7 is listed more than once"):
        spool([describe(path)], ordering, Tiling(8, tile_nside=2), tmp_path)


def test_infinite_values_are_counted(tmp_path):
    path = write_table(
        tmp_path / "m.fits", {"PIXEL": ("J", [1, 2, 3]), "I": ("E", [np.inf, 1, -np.inf])}, NSIDE=8, INDXSCHM="EXPLICIT"
    )
    assert spool([describe(path)], "nested", Tiling(8), tmp_path) == [2]


def test_an_empty_table(tmp_path):
    path = write_table(tmp_path / "m.fits", {"PIXEL": ("J", []), "I": ("E", [])}, NSIDE=8, INDXSCHM="EXPLICIT")
    assert touched_tiles(describe(path), "ring", Tiling(8)) == []
    spool([describe(path)], "ring", Tiling(8), tmp_path)
    assert np.isnan(assemble(tmp_path, 1, Tiling(8), 3)[0]).all()


def test_unpacking(tmp_path):
    path = write_table(tmp_path / "map.fits.gz", {"I": ("E", some_map(32))}, NSIDE=32)
    found = describe(path)
    unpack(path, found.end, tmp_path / "plain.fits")
    assert describe(tmp_path / "plain.fits[I]").column == found.column
    with pytest.raises(FormatError, match="bytes are missing"):
        unpack(path, found.end + 10**6, tmp_path / "plain.fits")


def test_a_full_disk_is_foreseen(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 9, 1)
    monkeypatch.setattr(fits_spool.shutil, "disk_usage", lambda folder: usage)
    path = write_table(tmp_path / "m.fits", {"PIXEL": ("J", [1]), "I": ("E", [1])}, NSIDE=8, INDXSCHM="EXPLICIT")
    with pytest.raises(DiskFullError, match="free some space"):
        spool([describe(path)], "nested", Tiling(8), tmp_path)


def test_a_full_disk_while_writing_is_named(tmp_path):
    with pytest.raises(DiskFullError, match="scratch-file"), fits_spool.disk_errors(tmp_path / "scratch-file"):
        raise OSError(28, "No space left on device")
    with pytest.raises(PermissionError), fits_spool.disk_errors(tmp_path):
        raise PermissionError(13, "no")
