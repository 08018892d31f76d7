"""The structure of FITS files, against astropy; damaged files."""

import gzip

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking.errors import FormatError, StoreNotFoundError
from skymill.chunking.fits_header import elements, read_tables


def table(path, columns, name="MAPS", **keywords):
    made = fits.BinTableHDU.from_columns(columns, name=name)
    made.header.update(keywords)
    fits.HDUList([fits.PrimaryHDU(), made]).writeto(path, overwrite=True)
    return path


@pytest.fixture
def simple(tmp_path):
    column = fits.Column("I", "E", unit="K ", array=np.arange(12, dtype="f4"))
    return table(tmp_path / "map.fits", [column], NSIDE=1)


@settings(max_examples=30, deadline=None)
@given(
    forms=st.lists(st.tuples(st.sampled_from("BIJKEDLAXCM"), st.integers(1, 5)), min_size=1, max_size=6),
    rows=st.integers(0, 7),
)
def test_columns_are_where_astropy_finds_them(tmp_path_factory, forms, rows):
    path = tmp_path_factory.mktemp("fits") / "map.fits"
    columns = []
    for number, (code, repeat) in enumerate(forms):
        if code in "BIJKEDCM":
            kind = {"B": "u1", "I": "i2", "J": "i4", "K": "i8", "E": "f4", "D": "f8", "C": "c8", "M": "c16"}[code]
            array = (np.arange(rows * repeat).reshape(rows, repeat) + number).astype(kind)
            array = array if repeat > 1 else array[:, 0]
        elif code == "A":
            array = np.array(["x" * repeat] * rows, dtype=f"S{repeat}")
        else:
            array = np.zeros((rows, repeat), dtype=bool) if repeat > 1 or code == "X" else np.zeros(rows, dtype=bool)
        columns.append(fits.Column(f"C{number}", f"{repeat}{code}", array=array))
    table(path, columns)
    (found,) = read_tables(str(path))
    with fits.open(path) as opened:
        header, data = opened[1].header, opened[1].data
        assert (found.rows, found.row_bytes) == (header["NAXIS2"], header["NAXIS1"])
        assert found.start == opened.fileinfo(1)["datLoc"]
        raw = np.frombuffer(path.read_bytes()[found.start : found.end], np.uint8).reshape(rows, found.row_bytes)
        for number, (code, _) in enumerate(forms):
            if found.columns[number].numeric:
                want = np.asarray(data.field(number)).ravel()
                np.testing.assert_array_equal(elements(raw, found.columns[number]), want)
            else:
                assert code in "LAXCM"


def test_names_units_and_scaling(tmp_path):
    words = {"TUNIT1": " MJy/sr ", "TNULL1": -1, "TSCAL1": 2.0, "TZERO1": 5.0}
    path = table(tmp_path / "map.fits", [fits.Column("I", "I", array=np.zeros(3, "i2"))], **words)
    (found,) = read_tables(str(path))
    (column,) = found.columns
    assert (column.name, column.unit, column.null, column.scale, column.zero) == ("I", "MJy/sr", -1, 2.0, 5.0)


def test_a_column_without_a_name_gets_its_number(simple):
    data = bytearray(simple.read_bytes())
    at = data.index(b"TTYPE1")
    data[at : at + 6] = b"COMMEN"
    simple.write_bytes(data)
    assert read_tables(str(simple))[0].columns[0].name == "COLUMN_1"


def test_several_extensions_and_images_between(tmp_path):
    path = tmp_path / "many.fits"
    first = fits.BinTableHDU.from_columns([fits.Column("A", "D", array=np.arange(700.0))], name="ONE")
    image = fits.ImageHDU(np.zeros((40, 50), ">i2"))
    last = fits.BinTableHDU.from_columns([fits.Column("B", "E", array=np.arange(5.0))], name="TWO")
    fits.HDUList([fits.PrimaryHDU(np.zeros(9)), first, image, last]).writeto(path)
    found = read_tables(str(path))
    assert [(t.hdu, t.name) for t in found] == [(1, "ONE"), (3, "TWO")]
    with fits.open(path) as opened:
        assert [t.start for t in found] == [opened.fileinfo(hdu)["datLoc"] for hdu in (1, 3)]


def test_gzip_is_recognised_by_content(simple, tmp_path):
    packed = tmp_path / "map.data"
    packed.write_bytes(gzip.compress(simple.read_bytes()))
    assert read_tables(str(packed))[0].columns == read_tables(str(simple))[0].columns


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(StoreNotFoundError, match="does not exist"):
        read_tables(str(tmp_path / "none.fits"))
    with pytest.raises(StoreNotFoundError, match="is a directory"):
        read_tables(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"<html>Please log in</html>" * 200, b"\x89HDF\r\n\x1a\n" * 500])
def test_other_files_are_refused_with_what_they_begin_with(tmp_path, content):
    path = tmp_path / "map.fits"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="not a FITS file: it begins with"):
        read_tables(str(path))


def change(path, old, new):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"TFORM1  = 'E       '", b"TFORM1  = 'Z       '", "TFORM1 is 'Z'"),
        (
            b"NAXIS1  =                    4",
            b"NAXIS1  =                    5",
            "add up to 4 bytes a row, NAXIS1 says 5",
        ),
        (b"NAXIS2  =                   12", b"NAXIS2  =                  -12", "NAXIS2 is -12"),
        (b"NAXIS2  =                   12", b"NAXIS2  =                 'ab'", "NAXIS2 is 'ab'"),
        (b"TFIELDS =                    1", b"TFIELDX =                    1", "TFIELDS is None"),
        (
            b"NAXIS2  =                   12",
            b"NAXIS2  =              9999999",
            "truncated: the header of HDU 1 promises",
        ),
    ],
)
def test_damaged_headers(simple, old, new, message):
    change(simple, old, new)
    with pytest.raises(FormatError, match=message):
        read_tables(str(simple))


def test_cut_in_the_header_and_in_the_data(simple, tmp_path):
    data = simple.read_bytes()
    for size, message in ((2880 + 500, "no END"), (1000, "no END"), (5760 + 10, "truncated")):
        path = tmp_path / "cut.fits"
        path.write_bytes(data[:size])
        with pytest.raises(FormatError, match=message):
            read_tables(str(path))


@pytest.mark.parametrize("damage", ["cut", "flip", "short"])
def test_damaged_compression_is_noticed(tmp_path, damage):
    column = fits.Column("I", "E", array=np.random.default_rng(0).normal(size=12 * 64**2).astype("f4"))
    table(tmp_path / "map.fits", [column], NSIDE=64)
    plain = (tmp_path / "map.fits").read_bytes()
    packed = bytearray(gzip.compress(plain if damage != "short" else plain[:-6000]))
    if damage == "cut":
        del packed[len(packed) // 2 :]
    if damage == "flip":
        packed[-5] ^= 0xFF  # the check sum
    path = tmp_path / "map.fits.gz"
    path.write_bytes(packed)
    with pytest.raises(FormatError, match="truncated"):
        read_tables(str(path))


def test_cards_that_break_the_rules_do_not_stop_the_rest(simple):
    change(simple, b"NSIDE   =                    1", b"BADCARD =      some unquoted x")
    assert read_tables(str(simple))[0].rows == 12
