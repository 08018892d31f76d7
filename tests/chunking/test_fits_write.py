"""Writing HEALPix FITS files in pieces: headers that astropy accepts, rows at their places."""

import warnings
from dataclasses import replace

import healpy as hp
import numpy as np
import pytest
from astropy.io import fits
from fitsfiles import some_map
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking import fits_write
from skymill.chunking.errors import DiskFullError
from skymill.chunking.fits_write import Output, OutputColumn, allocate, header_bytes, listed, write_tile
from skymill.chunking.tiling import Tiling

UNSEEN = np.float32(-1.6375e30)


def write(path, tiling, maps, *, ordering="nested", partial=False, blank="unseen", tiles=None):
    """Write NESTED maps {name: values}; return the order of tiles used."""
    columns = tuple(OutputColumn(name, "K_CMB", str(values.dtype)) for name, values in maps.items())
    parts = {tile: [values[tiling.tile_slice(tile)] for values in maps.values()] for tile in range(tiling.n_tiles)}
    counts = {tile: int(listed(part).sum()) if partial else tiling.tile_npix for tile, part in parts.items()}
    rows = sum(counts.values())
    header = header_bytes(columns, tiling, rows, frame="icrs", ordering=ordering, partial=partial, blank=blank)
    output = Output(str(path), tiling, columns, ordering, partial, blank, len(header), rows)
    allocate(output, header)
    first = {tile: sum(counts[t] for t in range(tile)) for tile in parts}
    for tile in parts if tiles is None else tiles:
        write_tile(output, tile, parts[tile], first[tile])
    return output


def check(path):
    """Let astropy look for anything that is not as the standard says."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(path) as opened:
            opened.verify("exception")
            assert opened[1].data is not None
            return opened[1].header


@settings(max_examples=40, deadline=None)
@given(
    order=st.integers(0, 5),
    tile_order=st.integers(0, 5),
    ordering=st.sampled_from(["ring", "nested"]),
    partial=st.booleans(),
    blank=st.sampled_from(["unseen", "nan"]),
    count=st.integers(1, 3),
    write_bytes=st.sampled_from([1, 100, 2**20]),
)
def test_healpy_reads_the_same_bits(tmp_path_factory, order, tile_order, ordering, partial, blank, count, write_bytes):
    path = tmp_path_factory.mktemp("fits") / "map.fits"
    tiling = Tiling(2**order, tile_nside=2 ** min(order, tile_order))
    maps = {f"m{i}": some_map(2**order, i) for i in range(count)}
    for index, values in enumerate(maps.values()):
        values[index :: index + 3] = np.nan
    tiles = np.random.default_rng(order).permutation(tiling.n_tiles).tolist()
    usual = fits_write.WRITE_BYTES
    fits_write.WRITE_BYTES = write_bytes
    try:
        write(path, tiling, maps, ordering=ordering, partial=partial, blank=blank, tiles=tiles)
    finally:
        fits_write.WRITE_BYTES = usual
    header = check(path)
    assert header["ORDERING"] == ordering.upper()
    found = np.atleast_2d(hp.read_map(path, field=None, nest=True))
    nowhere = np.all([np.isnan(v) for v in maps.values()], axis=0)
    for got, values in zip(found, maps.values(), strict=True):
        unseen = np.isnan(values) if blank == "unseen" else nowhere & partial
        want = np.where(unseen, UNSEEN, values)
        np.testing.assert_array_equal(got.astype("f4").view("u4"), want.view("u4"))


def test_the_header_says_what_the_file_is(tmp_path):
    tiling = Tiling(4)
    write(tmp_path / "full.fits", tiling, {"i850um": some_map(4), "mask": np.zeros(192, "u1")})
    header = check(tmp_path / "full.fits")
    known = {
        "NAXIS2": 192, "TTYPE1": "i850um", "TFORM1": "E", "TUNIT1": "K_CMB", "TFORM2": "B", "PIXTYPE": "HEALPIX",
        "COORDSYS": "C", "NSIDE": 4, "FIRSTPIX": 0, "LASTPIX": 191, "INDXSCHM": "IMPLICIT", "OBJECT": "FULLSKY",
        "BAD_DATA": -1.6375e30,
    }  # fmt: skip
    assert {key: header[key] for key in known} == known
    write(tmp_path / "part.fits", tiling, {"i850um": some_map(4)}, partial=True, blank="nan")
    header = check(tmp_path / "part.fits")
    known = {"TTYPE1": "PIXEL", "TFORM1": "J", "INDXSCHM": "EXPLICIT", "OBJECT": "PARTIAL"}
    assert {key: header[key] for key in known} == known
    assert not {"FIRSTPIX", "BAD_DATA"} & set(header)


@pytest.mark.parametrize(("nside", "code", "dtype"), [(8192, "J", ">i4"), (16384, "K", ">i8")])
def test_pixel_numbers_have_64_bits_where_32_do_not_suffice(tmp_path, nside, code, dtype):
    tiling = Tiling(nside, tile_nside=nside // 4)
    columns = (OutputColumn("I", "K", "float32"),)
    header = header_bytes(columns, tiling, 2, frame="galactic", ordering="ring", partial=True, blank="nan")
    output = Output(str(tmp_path / "m.fits"), tiling, columns, "ring", True, "nan", len(header), 2)
    allocate(output, header)
    values = np.full(16, np.nan, "f4")
    values[[3, 9]] = 1.0, 2.0
    last = tiling.n_tiles - 1
    write_tile(output, last, [values])
    assert check(tmp_path / "m.fits")["TFORM1"] == code
    with fits.open(tmp_path / "m.fits") as opened:
        pixels = opened[1].data["PIXEL"]
        assert pixels.dtype == np.dtype(dtype)
        want = hp.nest2ring(nside, last * 16 + np.array([3, 9]))
        np.testing.assert_array_equal(pixels, want)
        assert opened[1].data["I"].tolist() == [1.0, 2.0]


def test_which_pixels_are_listed():
    floats = np.array([np.nan, 1, np.nan], "f4")
    more = np.array([np.nan, np.nan, 0], "f4")
    codes = np.array([1, 0, 0], "u1")
    assert listed([floats, more]).tolist() == [False, True, True]
    assert listed([floats, codes]).tolist() == [False, True, False]
    assert listed([codes]).tolist() == [True, False, False]


@pytest.mark.parametrize("frame", ["galactic", "icrs", "ecliptic"])
def test_frames(frame):
    text = header_bytes(
        [OutputColumn("I", "1", "float32")], Tiling(1), 12, frame=frame, ordering="ring", partial=False, blank="nan",
        history=["a line"],
    )  # fmt: skip
    header = fits.Header.fromstring(text[2880:])
    assert header["COORDSYS"] == {"galactic": "G", "icrs": "C", "ecliptic": "E"}[frame]
    assert list(header["HISTORY"]) == ["a line"]
    assert len(text) % 2880 == 0


def test_the_file_has_its_full_size_from_the_start(tmp_path):
    output = write(tmp_path / "map.fits", Tiling(16), {"I": some_map(16)}, tiles=[])
    assert (tmp_path / "map.fits").stat().st_size == output.size
    assert output.size % 2880 == 0


def test_a_file_larger_than_the_disk_is_refused(tmp_path):
    output = write(tmp_path / "map.fits", Tiling(1), {"I": some_map(1)})
    with pytest.raises(DiskFullError, match="GB free"):
        allocate(replace(output, path=str(tmp_path / "huge.fits"), rows=10**17), b"")
    assert not (tmp_path / "huge.fits").exists()
