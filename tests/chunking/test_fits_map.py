"""Which column is the map, and what the header says of it."""

import numpy as np
import pytest
from fitsfiles import some_map, write_table
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking.errors import (
    FormatError,
    FrameError,
    InputError,
    OrderingError,
    SkymillError,
    StoreNotFoundError,
    UnitError,
)
from skymill.chunking.fits_map import describe, split_address
from skymill.chunking.fits_read import iterate_rows, read_tile
from skymill.chunking.fits_settle import settle
from skymill.chunking.tiling import Tiling

NPIX = 12 * 4**2


@pytest.fixture
def path(tmp_path):
    return tmp_path / "map.fits"


def several(path, *names, **keywords):
    return write_table(
        path, {name: ("E", some_map(4, number)) for number, name in enumerate(names)}, NSIDE=4, **keywords
    )


def test_addresses(tmp_path):
    assert split_address("a.fits[ I , 2]") == ("a.fits", "I", "2")
    assert split_address("a.fits[,1]") == ("a.fits", None, "1")
    assert split_address("folder[1]/a.fits") == ("folder[1]/a.fits", None, None)
    bracket = tmp_path / "a[1]"
    bracket.touch()
    assert split_address(bracket) == (str(bracket), None, None)
    for wrong in ("a.fits[]", "a.fits[a,b,c]", "a.fits[a,]"):
        with pytest.raises(InputError, match=r"COLUMN,HDU"):
            split_address(wrong)


def test_the_only_column_needs_no_choice(path):
    found = describe(several(path, "ANYTHING"))
    assert (found.column.name, found.nside, found.hdu, found.pixel, found.full_sky) == ("ANYTHING", 4, 1, None, True)
    assert (found.frame, found.ordering, found.unit) == ("G", "NESTED", "K_CMB")


@pytest.mark.parametrize("first", ["TEMPERATURE", "I_STOKES", "Intensity", "SIGNAL", "I", "T"])
def test_of_several_the_conventional_first_is_taken(path, first):
    assert describe(several(path, first, "Q_STOKES", "HITS")).column.name == first


def test_of_several_others_none_is_guessed(path):
    with pytest.raises(InputError, match=r'choose one as ".*\[COLUMN\]": I_217GHZ, I_353GHZ'):
        describe(several(path, "I_217GHZ", "I_353GHZ"))


@pytest.mark.parametrize(("choice", "number"), [("I_353GHZ", 2), ("i_353ghz", 2), ("1", 1), ("2", 2)])
def test_columns_by_name_and_number(path, choice, number):
    assert describe(several(path, "I_217GHZ", "I_353GHZ") + f"[{choice}]").column.number == number


def test_an_unknown_column_gets_the_nearest(path):
    with pytest.raises(InputError, match="did you mean 'I_353GHZ'"):
        describe(several(path, "I_217GHZ", "I_353GHZ") + "[I_535GHZ]")


def test_names_that_differ_in_case_only_have_to_be_written_exactly(path):
    file = several(path, "map", "MAQ")
    data = path.read_bytes().replace(b"'MAQ     '", b"'MAP     '")
    path.write_bytes(data)
    assert describe(file + "[map]").column.number == 1
    assert describe(file + "[MAP]").column.number == 2
    with pytest.raises(InputError, match="choose by number, one of 1, 2"):
        describe(file + "[Map]")


def test_hdus(tmp_path):
    from astropy.io import fits

    one = several(tmp_path / "one.fits", "A")
    two = several(tmp_path / "two.fits", "B", name="OTHER")
    path = tmp_path / "both.fits"
    with fits.open(one) as first, fits.open(two) as second:
        fits.HDUList([fits.PrimaryHDU(), first[1], second[1]]).writeto(path)
    with pytest.raises(InputError, match=r"HDU 1 'MAPS': A; HDU 2 'OTHER': B"):
        describe(path)
    assert describe(f"{path}[B]").hdu == 2
    assert describe(f"{path}[1,2]").column.name == "B"
    assert describe(f"{path}[B,other]").hdu == 2
    with pytest.raises(InputError, match="no binary table in HDU '3'"):
        describe(f"{path}[B,3]")


def test_explicit_by_keyword_by_object_and_by_name(path):
    pixels, values = np.arange(5), np.ones(5, "f4")
    for keywords in ({"INDXSCHM": "EXPLICIT"}, {"INDXSCHM": None, "OBJECT": "PARTIAL"}, {"INDXSCHM": None}):
        file = write_table(path, {"PIXEL": ("J", pixels), "T": ("E", values)}, NSIDE=4, **keywords)
        found = describe(file)
        assert (found.pixel.name, found.column.name, found.n_pixels, found.full_sky) == ("PIXEL", "T", 5, False)
    file = write_table(path, {"ROWS": ("J", pixels), "T": ("E", values)}, NSIDE=4, INDXSCHM="EXPLICIT")
    assert describe(file).pixel.name == "ROWS"  # the first integer column


def test_nside_as_text_absent_and_given(path):
    assert describe(write_table(path, {"I": ("E", some_map(4))}, NSIDE="4")).nside == 4
    assert describe(write_table(path, {"I": ("E", some_map(4))}, NSIDE=4.0)).nside == 4
    assert describe(write_table(path, {"I": ("16E", some_map(4))})).nside == 4
    pixels = {"PIXEL": ("J", np.arange(5)), "T": ("E", np.ones(5))}
    file = write_table(path, pixels, INDXSCHM="EXPLICIT")
    with pytest.raises(FormatError, match="give `nside`"):
        describe(file)
    assert describe(file, nside=32).nside == 32
    with pytest.raises(InputError, match=r"`nside` 8 came, but .* NSIDE = 4"):
        describe(write_table(path, {"I": ("E", some_map(4))}, NSIDE=4), nside=8)


def test_a_range_of_pixels(path):
    values = some_map(4)[10:60]
    found = describe(write_table(path, {"I": ("E", values)}, NSIDE=4, FIRSTPIX=10, LASTPIX=59))
    assert (found.first_pixel, found.n_pixels) == (10, 50)


@pytest.mark.parametrize(
    ("columns", "keywords", "message"),
    [
        ({"I": ("E", np.zeros(100))}, {"NSIDE": 4}, "100 values; NSIDE 4 needs 192"),
        ({"I": ("E", np.zeros(50))}, {"NSIDE": 4, "FIRSTPIX": 10, "LASTPIX": 60}, "FIRSTPIX 10 and LASTPIX 60"),
        ({"I": ("E", np.zeros(50))}, {"NSIDE": 4, "FIRSTPIX": 190, "LASTPIX": 239}, "50 values"),
        ({"I": ("E", np.zeros(NPIX))}, {"NSIDE": 5}, "NSIDE is 5; a power of two"),
        ({"I": ("E", np.zeros(NPIX))}, {"NSIDE": 0}, "NSIDE is 0"),
        ({"I": ("E", np.zeros(NPIX))}, {"NSIDE": -4}, "NSIDE is -4"),
        ({"I": ("E", np.zeros(NPIX))}, {"NSIDE": 2**30}, "largest possible is 2\\*\\*29"),
        ({"I": ("E", np.zeros(NPIX))}, {"NSIDE": "big"}, "NSIDE is 'big'"),
        ({"I": ("E", np.zeros(NPIX))}, {"NSIDE": 4, "INDXSCHM": "SPARSE"}, "multi-resolution"),
        ({"I": ("E", np.zeros(NPIX))}, {"NSIDE": 4, "ORDERING": "NUNIQ"}, "multi-resolution"),
        ({"I": ("E", np.zeros(NPIX))}, {"NSIDE": 4, "INDXSCHM": "ELSE"}, "IMPLICIT or EXPLICIT expected"),
        ({"I": ("E", np.zeros(NPIX))}, {"NSIDE": 4, "INDXSCHM": "EXPLICIT"}, "no integer column PIXEL"),
        ({"I": ("E", np.zeros(NPIX))}, {"NSIDE": 4, "GRAIN": 4}, "GRAIN is 4"),
        ({"L": ("L", np.zeros(NPIX, bool))}, {"NSIDE": 4}, "no numeric column"),
        ({"PIXEL": ("J", np.arange(9))}, {"NSIDE": 4, "INDXSCHM": "EXPLICIT"}, "no numeric column beside"),
        (
            {"PIXEL": ("2J", np.arange(8)), "T": ("E", np.zeros(4))},
            {"NSIDE": 4, "INDXSCHM": "EXPLICIT"},
            "2 pixel numbers .* and 1 values",
        ),
        ({"I": ("E", np.zeros(17))}, {"PIXTYPE": None}, "is no HEALPix map"),
    ],
)
def test_tables_that_do_not_fit_together(path, columns, keywords, message):
    with pytest.raises(FormatError, match=message):
        describe(write_table(path, columns, **keywords))


def test_an_image_is_no_map(path):
    from astropy.io import fits

    fits.PrimaryHDU(np.zeros((12, 16), "f4")).writeto(path)
    with pytest.raises(FormatError, match="no binary table"):
        describe(path)


def test_bad_values_of_the_header(path):
    def bad(code="E", values=None, **keywords):
        return describe(
            write_table(path, {"I": (code, np.zeros(NPIX) if values is None else values)}, NSIDE=4, **keywords)
        ).bad_values

    assert bad() == ()
    assert bad(BAD_DATA=-1.6375e30) == ()  # always bad
    assert bad(BAD_DATA=-99.5) == (-99.5,)
    assert bad(BAD_DATA="-5") == (-5.0,)
    assert bad(BLANK=0) == ()  # defined for integers only
    assert bad("J", np.zeros(NPIX, "i4"), TNULL1=-7, BLANK=-8, BAD_DATA=-7) == (-7.0, -8.0)


# What header and user say together


def described(path, **keywords):
    return describe(write_table(path, {"I": ("E", some_map(4))}, NSIDE=4, **keywords))


@pytest.mark.parametrize(
    ("word", "frame"),
    [("G", "galactic"), ("GALACTIC", "galactic"), ("C", "icrs"), ("ICRS", "icrs"), ("Q", "icrs"), ("celestial", "icrs"),
     ("E", "ecliptic"), ("Ecliptic", "ecliptic")],
)  # fmt: skip
def test_frames_of_headers(path, word, frame):
    assert settle(described(path, COORDSYS=word)).frame == frame


@pytest.mark.parametrize(
    ("word", "ordering"), [("RING", "ring"), ("NESTED", "nested"), ("NEST", "nested"), ("ring", "ring")]
)
def test_orderings_of_headers(path, word, ordering):
    assert settle(described(path, ORDERING=word)).ordering == ordering


@pytest.mark.parametrize(("word", "unit"), [("Kcmb", "K_CMB"), ("MJy/sr  ", "MJy/sr"), ("uK_CMB", "uK_CMB")])
def test_units_of_headers(path, word, unit):
    assert settle(described(path, TUNIT1=word)).unit == unit


CASES = [
    ("frame", "COORDSYS", FrameError, "galactic", "icrs", "X", "GAL"),
    ("ordering", "ORDERING", OrderingError, "nested", "ring", "SPIRAL", "nest"),
    ("unit", "TUNIT1", UnitError, "K_CMB", "MJy/sr", "furlong", "Kcmb"),
]


@pytest.mark.parametrize(("option", "keyword", "error", "stated", "other", "unknown", "same"), CASES)
def test_header_and_user(path, option, keyword, error, stated, other, unknown, same):
    silent = described(path, **{keyword: None})
    with pytest.raises(error, match=f"does not say .*{option}.*`{option}`"):
        settle(silent)
    assert getattr(settle(silent, **{option: other}), option) == other
    for word in ("unknown", ""):
        assert getattr(settle(described(path, **{keyword: word}), **{option: other}), option) == other

    speaking = described(path, **{keyword: stated[0].upper() if option == "frame" else stated})
    assert getattr(settle(speaking, **{option: same}), option) == stated
    with pytest.raises(error, match=rf'`{option}`.*came, but .*override=\["{option}"\]'):
        settle(speaking, **{option: other})
    assert getattr(settle(speaking, **{option: other}, override=[option]), option) == other

    strange = described(path, **{keyword: unknown})
    with pytest.raises(error, match=rf'{unknown}.*override=\["{option}"\]'):
        settle(strange)
    with pytest.raises(error, match=unknown):
        settle(strange, **{option: other})
    assert getattr(settle(strange, **{option: other}, override=[option]), option) == other
    with pytest.raises(error, match="nonsense"):
        settle(silent, **{option: "nonsense"})


def test_equinox_1950_is_not_icrs(path):
    old = described(path, COORDSYS="C", EQUINOX=1950.0)
    with pytest.raises(FrameError, match="1950"):
        settle(old)
    assert settle(old, frame="icrs", override=["frame"]).frame == "icrs"


def test_overrides_are_checked(path):
    found = described(path)
    with pytest.raises(InputError, match="did you mean 'frame'"):
        settle(found, frame="icrs", override=["frames"])
    with pytest.raises(InputError, match="no `unit` is given"):
        settle(found, override=["unit"])
    with pytest.raises(InputError, match="a list of words"):
        settle(found, frame="icrs", override="frame")


# Whatever is broken in a header, the answer is a map or one of our errors


@settings(max_examples=50, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 79 * 30), st.sampled_from("0 9-'.ETJPK/é\x00A=")), min_size=1, max_size=6
    ),
    explicit=st.booleans(),
)
def test_a_broken_header_is_read_or_refused(tmp_path_factory, changes, explicit):
    path = tmp_path_factory.mktemp("fits") / "map.fits"
    columns = {"PIXEL": ("J", np.arange(192)), "I": ("E", some_map(4))}
    write_table(
        path, columns, NSIDE=4, INDXSCHM="EXPLICIT" if explicit else "IMPLICIT", TSCAL2=2.0, BAD_DATA=-1.6375e30
    )
    data = bytearray(path.read_bytes())
    for place, letter in changes:
        data[2880 + place] = letter.encode("latin-1")[0]
    path.write_bytes(data)
    try:
        found = describe(f"{path}[I]")
        settle(found, unit="K", override=["unit"])
        tiles = [read_tile([found], "ring", Tiling(found.nside), 0)] if found.pixel is None else iterate_rows([found])
        assert all(len(tile) for tile in tiles)
    except SkymillError:
        return


def test_relative_paths_are_made_absolute(path, monkeypatch):
    several(path, "I")
    monkeypatch.chdir(path.parent)
    assert describe("map.fits").path == str(path)


def test_a_file_with_several_maps_is_looked_at_once(path):
    file, known = several(path, "A", "B"), {}
    describe(f"{file}[A]", known=known)
    path.unlink()
    with pytest.raises(StoreNotFoundError):
        describe(f"{file}[B]")
    assert known[str(path)][0].columns[1].name == "B"


def test_letters_beyond_ascii_and_long_strings(path):
    several(path, "I", LONG="x" * 100, AUTHOR="Muller")
    path.write_bytes(path.read_bytes().replace(b"Muller", "Müller".encode("latin-1")))
    assert describe(path).nside == 4
