"""The verb `ingest_cube`: velocity channels in FITS files of every form become one and the same cube."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import healpy as hp
import numpy as np
import pytest
import skymill as sm
from astropy.io import fits
from fitsfiles import write_table
from hypothesis import given, settings
from hypothesis import strategies as st
from skies import content
from skymill.chunking import store as stores
from skymill.chunking.errors import (
    FormatError,
    FrameError,
    IdentityError,
    InputError,
    OrderingError,
    StoreNotFoundError,
    UnitError,
)
from skymill.chunking.fits_cube import describe_cube
from skymill.engine.channel_options import given_channels

UNSEEN = -1.6375e30
NSIDE, COUNT = 8, 4
EDGES = [-90.0, -35.0, 0.0, 35.0, 90.0]


def spectra(nside=NSIDE, count=COUNT, holes=0.2, seed=0):
    """Return (channel, cells) float32, NESTED, whose missing values differ from channel to channel."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, 12 * nside**2)).astype(np.float32)
    values[rng.random(values.shape) < holes] = np.nan
    return values


def cube_of(store, name="n_hi"):
    return sm.open(store)[name].values


def write_image(path, values, **keywords):
    """Write an image, of whatever shape; keywords go to its header, None leaves a usual one out."""
    made = fits.PrimaryHDU(np.ascontiguousarray(values))
    for keyword, value in {"BUNIT": "K", "ORDERING": "NESTED", "COORDSYS": "G", **keywords}.items():
        if value is not None:
            made.header[keyword] = value
    plain = io.BytesIO()
    made.writeto(plain)
    path.write_bytes(gzip.compress(plain.getvalue()) if path.suffix == ".gz" else plain.getvalue())
    return str(path)


def axis(number, first=-10.0, step=5.0, unit="km/s", kind="VRAD", at=1.0):
    """Return the keywords that state velocities along an axis."""
    keys = {"CTYPE": kind, "CUNIT": unit, "CRVAL": first, "CDELT": step, "CRPIX": at}
    return {f"{key}{number}": value for key, value in keys.items()}


def write_form(folder, form, stored, ring, pixels, packed):
    """Write (channel, cells), as they are in the file, in one of the forms; return what `files` is then."""
    common = {"ORDERING": "RING" if ring else "NESTED", "NSIDE": NSIDE, "TUNIT1": "K"}
    suffix = ".fits.gz" if packed else ".fits"
    listed = {} if pixels is None else {"PIXEL": ("K", pixels)}
    if listed:
        common |= {"INDXSCHM": "EXPLICIT", "TUNIT1": None, "TUNIT2": "K"}
    units = {f"TUNIT{number + 1 + len(listed)}": "K" for number in range(len(stored))}
    if form == "files":
        return [
            write_table(folder / f"{number}{suffix}", {**listed, "N": ("E", row)}, **common) + "[N]"
            for number, row in enumerate(stored)
        ]
    if form == "columns":
        columns = {f"V{number}": ("E", row) for number, row in enumerate(stored)}
        return write_table(folder / f"columns{suffix}", {**listed, **columns}, **{**common, **units})
    if form == "vector":
        return write_table(folder / f"vector{suffix}", {**listed, "N": (f"{len(stored)}E", stored.T)}, **common)
    values = stored if form == "image" else stored.T
    return write_image(folder / f"{form}{suffix}", values, ORDERING=common["ORDERING"])


@settings(max_examples=20, deadline=None)
@given(
    form=st.sampled_from(["files", "columns", "vector", "image", "turned image"]),
    ring=st.booleans(),
    explicit=st.booleans(),
    packed=st.booleans(),
    hole=st.sampled_from([np.nan, UNSEEN]),
    tile_nside=st.sampled_from([1, 2, None]),
)
def test_every_form_becomes_the_same_cube(tmp_path_factory, form, ring, explicit, packed, hole, tile_nside):
    folder = tmp_path_factory.mktemp("cubes")
    want = spectra()
    stored = np.where(np.isnan(want), np.float32(hole), want)
    order = hp.ring2nest(NSIDE, np.arange(want.shape[1])) if ring else np.arange(want.shape[1])
    stored = stored[:, order]
    pixels = None
    if explicit and "image" not in form:
        pixels = np.random.default_rng(1).permutation(want.shape[1])[:300]
        stored = stored[:, pixels]
        listed = np.full_like(want, np.nan)
        listed[:, order[pixels]] = want[:, order[pixels]]
        want = listed
    files = write_form(folder, form, stored, ring, pixels, packed)
    before = sorted(os.listdir(folder))
    plan = sm.ingest_cube(files, folder / "sky.zarr", edges=EDGES, tile_nside=tile_nside)
    assert sorted(os.listdir(folder)) == before  # lazy
    plan.run(progress=False)
    np.testing.assert_array_equal(cube_of(folder / "sky.zarr"), want)
    assert sorted(os.listdir(folder)) == sorted([*before, "sky.zarr"])
    known = stores.info(folder / "sky.zarr", "n_hi").provenance["statistics"]
    assert known["channel_counts"] == np.isfinite(want).sum(axis=1).tolist()
    assert known["count"] + known["missing"] == want.size
    assert known["maximum"] == np.nanmax(want)


def simple(tmp_path, values=None, **keywords):
    return write_image(tmp_path / "cube.fits", spectra() if values is None else values, **keywords)


def test_what_the_cube_is_goes_with_it(tmp_path):
    path = simple(tmp_path, BUNIT=None, COORDSYS=None)
    plan = sm.ingest_cube(
        path, tmp_path / "sky.zarr", "gas", edges=EDGES, unit="1e20 cm-2", frame="icrs", quantity="gas", tile_nside=2
    )
    assert "4 channels from -90 to 90 km/s, 35 to 55 km/s wide, no gaps" in str(plan)
    plan.run(progress=False)
    known = stores.info(tmp_path / "sky.zarr", "gas")
    assert (known.unit, known.quantity, known.is_cube) == ("1e20 cm^-2", "gas", True)
    assert known.provenance["files"][0]["name"] == "cube.fits"
    assert stores.frame_of(tmp_path / "sky.zarr") == "icrs"
    assert stores.tiling_of(tmp_path / "sky.zarr").tile_nside == 2
    assert stores.channels_of(tmp_path / "sky.zarr") == sm.Channels.from_edges(EDGES)
    again = sm.ingest_cube(path, tmp_path / "b.zarr", edges=EDGES, unit="cm-2", frame="icrs", chunk_nside=4)
    again.run(progress=False)
    assert stores.info(tmp_path / "b.zarr", "n_hi").quantity == "column density"
    assert stores.tiling_of(tmp_path / "b.zarr").chunk_nside == 4


def test_integers_are_scaled_and_blanks_are_no_values(tmp_path):
    stored = np.arange(2 * 768, dtype=np.int16).reshape(2, 768)
    path = write_image(tmp_path / "cube.fits", stored, BLANK=7)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as file:
        file[0].header["BSCALE"], file[0].header["BZERO"] = 0.5, 10.0
    sm.ingest_cube(path, tmp_path / "sky.zarr", edges=[0, 1, 2]).run(progress=False)
    want = (0.5 * stored + 10).astype(np.float32)
    want[0, 7] = np.nan
    np.testing.assert_array_equal(cube_of(tmp_path / "sky.zarr"), want)


def test_several_files_may_differ_in_ordering_but_not_in_unit_frame_or_nside(tmp_path):
    want = spectra(holes=0)
    ring = want[1][hp.ring2nest(NSIDE, np.arange(768))]

    def made(name, values, **keywords):
        usual = {"NSIDE": NSIDE, "TUNIT1": "K"}
        return write_table(tmp_path / name, {"I": ("E", values)}, **{**usual, **keywords})

    first = made("a.fits", want[0])
    sm.ingest_cube([first, made("b.fits", ring, ORDERING="RING")], tmp_path / "sky.zarr", edges=[0, 1, 2]).run()
    np.testing.assert_array_equal(cube_of(tmp_path / "sky.zarr"), want[:2])
    for keywords, error in (({"TUNIT1": "K km/s"}, UnitError), ({"COORDSYS": "C"}, FrameError)):
        with pytest.raises(error, match=r"\(channel 1, I\) .* the channels of a cube have one"):
            sm.ingest_cube([first, made("c.fits", want[1], **keywords)], tmp_path / "n.zarr", edges=[0, 1, 2])
    with pytest.raises(InputError, match="NSIDE 4"):
        sm.ingest_cube([first, made("d.fits", want[1, :192], NSIDE=4)], tmp_path / "n.zarr", edges=[0, 1, 2])
    with pytest.raises(InputError, match="twice"):
        sm.ingest_cube([first, first], tmp_path / "n.zarr", edges=[0, 1, 2])
    with pytest.raises(InputError, match="`files` is empty"):
        sm.ingest_cube([], tmp_path / "n.zarr", edges=[0, 1, 2])
    with pytest.raises(InputError, match="`column` is for one file"):
        sm.ingest_cube([first], tmp_path / "n.zarr", edges=[0, 1], column="I")
    assert not (tmp_path / "n.zarr").exists()


# Which form it is


def vector(tmp_path, nside, repeat, **keywords):
    values = np.zeros((12 * nside**2, repeat), np.float32)
    return write_table(tmp_path / "v.fits", {"N": (f"{repeat}E", values)}, TUNIT1="K", **{"NSIDE": None, **keywords})


def test_ordinary_maps_with_many_pixels_a_row_are_one_channel(tmp_path):
    path = vector(tmp_path, 1, 1024, NSIDE=32)
    assert len(describe_cube(path, None, None, 1).maps) == 1
    with pytest.raises(InputError, match=r"1024 channels are given .* an ordinary map of nside 32"):
        describe_cube(path, None, None, 1024)


def test_rows_that_are_pixels_or_hold_pixels_are_told_apart_or_asked_for(tmp_path):
    path = vector(tmp_path, 1, 16)
    assert len(describe_cube(path, None, None, 16).maps) == 16
    assert len(describe_cube(path, None, None, 1).maps) == 1
    assert len(describe_cube(path, None, 1, None).maps) == 16
    assert len(describe_cube(path, None, 4, None).maps) == 1
    for count in (None, 3):
        with pytest.raises(InputError, match="can be 16 channels of nside 1 or one map of nside 4: give `nside`"):
            describe_cube(path, None, None, count)
    assert len(describe_cube(vector(tmp_path, 1, 16, NSIDE=1), None, None, None).maps) == 16
    assert len(describe_cube(vector(tmp_path, 2, 5), None, None, None).maps) == 5


def test_a_range_of_pixels_is_a_vector_column_too(tmp_path):
    values = np.arange(100 * 3, dtype=np.float32).reshape(100, 3)
    path = write_table(tmp_path / "v.fits", {"N": ("3E", values)}, TUNIT1="K", NSIDE=NSIDE, FIRSTPIX=50, LASTPIX=149)
    sm.ingest_cube(path, tmp_path / "sky.zarr", edges=[0, 1, 2, 3]).run(progress=False)
    found = cube_of(tmp_path / "sky.zarr")
    np.testing.assert_array_equal(found[:, 50:150], values.T)
    assert np.isnan(found[:, :50]).all()
    assert np.isnan(found[:, 150:]).all()


def test_columns_are_chosen_where_not_all_are_channels(tmp_path):
    want = spectra(holes=0)
    columns = {name: ("E", row) for name, row in zip(("A", "B", "C", "WEIGHT"), want, strict=True)}
    units = {f"TUNIT{number}": "K" for number in range(1, 5)}
    path = write_table(tmp_path / "t.fits", columns, NSIDE=NSIDE, **units)
    with pytest.raises(InputError, match=r"4 columns of values, 3 channels .* A, B, C, WEIGHT"):
        sm.ingest_cube(path, tmp_path / "sky.zarr", edges=[0, 1, 2, 3])
    sm.ingest_cube(path, tmp_path / "sky.zarr", edges=[0, 1, 2, 3], column=["C", "A", "B"]).run(progress=False)
    np.testing.assert_array_equal(cube_of(tmp_path / "sky.zarr"), want[[2, 0, 1]])
    with pytest.raises(InputError, match="no map column 'D'"):
        sm.ingest_cube(path, tmp_path / "n.zarr", edges=[0, 1], column=["D"])
    with pytest.raises(InputError, match="each once"):
        sm.ingest_cube(path, tmp_path / "n.zarr", edges=[0, 1, 2], column=["A", "A"])
    with pytest.raises(InputError, match="give one of them"):
        sm.ingest_cube(path + "[A]", tmp_path / "n.zarr", edges=[0, 1], column="B")
    sm.ingest_cube(path + "[B]", tmp_path / "one.zarr", edges=[0, 1]).run(progress=False)
    np.testing.assert_array_equal(cube_of(tmp_path / "one.zarr"), want[1:2])


def test_an_hdu_of_several_is_chosen(tmp_path):
    want = spectra(holes=0)
    keywords = {"ORDERING": "NESTED", "COORDSYS": "G", "BUNIT": "K"}
    made = [fits.PrimaryHDU()]
    for name, values in (("ONE", want[:2]), ("TWO", want[2:])):
        made.append(fits.ImageHDU(values, name=name))
        made[-1].header.update(keywords)
    fits.HDUList(made).writeto(tmp_path / "c.fits")
    with pytest.raises(InputError, match=r"several images \(HDUs 1, 2\)"):
        describe_cube(tmp_path / "c.fits", None, None, None)
    for hdu, part in (("1", want[:2]), ("two", want[2:])):
        sm.ingest_cube(f"{tmp_path}/c.fits[,{hdu}]", tmp_path / f"{hdu}.zarr", edges=[0, 1, 2]).run(progress=False)
        np.testing.assert_array_equal(cube_of(tmp_path / f"{hdu}.zarr"), part)
    with pytest.raises(InputError, match="no table or image in HDU '7'"):
        describe_cube(f"{tmp_path}/c.fits[,7]", None, None, None)


def test_small_images_whose_axes_could_be_either_are_asked_for(tmp_path):
    path = write_image(tmp_path / "c.fits", np.zeros((12, 48), np.float32))
    with pytest.raises(InputError, match="either axis could be the pixels; give `nside`"):
        describe_cube(path, None, None, None)
    assert len(describe_cube(path, None, 1, None).maps) == 48
    assert len(describe_cube(path, None, 2, None).maps) == 12
    assert len(describe_cube(path, None, None, 12).maps) == 12
    projected = write_image(tmp_path / "d.fits", np.zeros((5, 50), np.float32))
    for address in (projected, projected + "[,0]"):
        with pytest.raises(FormatError, match="5x50 pixels"):
            describe_cube(address, None, None, None)
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "f.fits")
    with pytest.raises(FormatError, match="no binary table"):
        describe_cube(tmp_path / "f.fits", None, None, None)
    one = write_image(tmp_path / "e.fits", np.zeros((1, 1, 48), np.float32))
    assert len(describe_cube(one, None, None, None).maps) == 1


# Velocities


def test_velocities_come_in_many_ways_and_all_say_the_same(tmp_path):
    path = simple(tmp_path)
    want = sm.Channels((-10.0, 0.0, 10.0, 25.0), (10.0, 10.0, 10.0, 20.0))
    (tmp_path / "v.txt").write_text("# km/s\n-10\n0\n10  # here\n\n25\n")
    (tmp_path / "w.csv").write_text("width\n10\n10\n10\n20\n")
    (tmp_path / "both.csv").write_text("velocity, width\n-10, 10\n0, 10\n10; 10\n25 20\n")
    (tmp_path / "edges.txt").write_text("-15\n-5\n5\n15\n35\n")
    (tmp_path / "pairs.txt").write_text("-15 -5\n-5 5\n5 15\n15 35\n")
    ways = [
        {"velocity": want.velocity, "width": want.width},
        {"velocity": np.array(want.velocity), "width": np.array(want.width)},
        {"velocity": tmp_path / "v.txt", "width": str(tmp_path / "w.csv")},
        {"velocity": tmp_path / "both.csv"},
        {"edges": [-15, -5, 5, 15, 35]},
        {"edges": want.edges},
        {"edges": tmp_path / "edges.txt"},
        {"edges": str(tmp_path / "pairs.txt")},
    ]
    for number, way in enumerate(ways):
        sm.ingest_cube(path, tmp_path / f"{number}.zarr", **way).run(progress=False)
        assert stores.channels_of(tmp_path / f"{number}.zarr") == want
    sm.ingest_cube(path, tmp_path / "equal.zarr", velocity=[0, 1, 2, 3], width=0.5).run(progress=False)
    assert stores.channels_of(tmp_path / "equal.zarr").width == (0.5,) * 4


@pytest.mark.parametrize(
    "way",
    [
        {"velocity": [30.0, 20.0, 10.0, 0.0], "width": [4.0, 3.0, 2.0, 1.0]},
        {"edges": [32.0, 25.0, 10.0, 5.0, -0.5]},
        {"edges": [(28.0, 32.0), (18.5, 21.5), (9.0, 11.0), (-0.5, 0.5)]},
    ],
)
def test_files_by_descending_velocity_are_turned_round(tmp_path, way):
    values = spectra()
    plan = sm.ingest_cube(simple(tmp_path, values), tmp_path / "sky.zarr", **way)
    assert "by descending velocity" in str(plan)
    plan.run(progress=False)
    np.testing.assert_array_equal(cube_of(tmp_path / "sky.zarr"), values[::-1])
    found = stores.channels_of(tmp_path / "sky.zarr")
    assert list(found.velocity) == sorted(found.velocity)
    if "velocity" in way:
        assert found.width == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("stated", "velocity", "reverse"),
    [
        (axis(2), (-10, -5, 0, 5), False),
        (axis(2, first=-10e3, step=5e3, unit="m/s"), (-10, -5, 0, 5), False),
        (axis(2, first=5.0, step=-5.0, kind="VELO-LSR"), (-10, -5, 0, 5), True),
        (axis(2, first=0.0, at=3.0, kind="VOPT", unit="km s-1"), (-10, -5, 0, 5), False),
    ],
)
def test_the_header_of_an_image_may_state_the_velocities(tmp_path, stated, velocity, reverse):
    values = spectra()
    path = simple(tmp_path, values, **stated)
    sm.ingest_cube(path, tmp_path / "sky.zarr").run(progress=False)
    found = stores.channels_of(tmp_path / "sky.zarr")
    np.testing.assert_allclose(found.velocity, velocity, rtol=0, atol=1e-9)
    assert found.width == (5.0,) * 4
    np.testing.assert_array_equal(cube_of(tmp_path / "sky.zarr"), values[::-1] if reverse else values)


@pytest.mark.parametrize(
    "stated",
    [
        {},
        axis(2, unit=None),
        axis(2, unit="Hz", kind="FREQ"),
        axis(2, kind="VOPT-F2W"),
        axis(2, step=None),
        axis(2, at=None),
        axis(2, step=0.0),
        axis(1),
    ],
)
def test_velocities_that_nothing_tells_are_asked_for(tmp_path, stated):
    with pytest.raises(InputError, match=r"velocities of the channels are not known .* give `velocity` and `width`"):
        sm.ingest_cube(simple(tmp_path, **stated), tmp_path / "sky.zarr")


def test_velocities_that_contradict_the_header_are_refused_unless_it_is_wrong(tmp_path):
    path = simple(tmp_path, **axis(2))
    right = {"velocity": [-10, -5, 0, 5], "width": 5}
    sm.ingest_cube(path, tmp_path / "right.zarr", **right)
    for wrong, words in (
        ({**right, "width": 4}, "channel 0 from -12 to -8 km/s, not -12.5 to -7.5 km/s as the header says"),
        ({"velocity": [5, 0, -5, -10], "width": 5}, "velocities in the opposite order"),
    ):
        with pytest.raises(InputError, match=words):
            sm.ingest_cube(path, tmp_path / "sky.zarr", **wrong)
        sm.ingest_cube(path, tmp_path / "sky.zarr", **wrong, override=["velocity"])
    with pytest.raises(InputError, match='names "velocity", but no velocities'):
        sm.ingest_cube(path, tmp_path / "sky.zarr", override=["velocity"])


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ({"velocity": [0, 1, 2], "width": 1.0}, "3 channels are given by their velocities, but there are 4"),
        ({"edges": [0, 1, 2]}, "2 channels are given"),
        ({"velocity": [0, 1, 2, 3]}, "`velocity` came without `width`, and the widths of channels cannot be guessed"),
        ({"width": 1.0}, "`width` came without `velocity`"),
        ({"velocity": [0, 1, 2, 3], "width": [1, 1, 1]}, "4 velocities and 3 widths"),
        ({"velocity": [0, 1, 2, 3], "width": [1, 1, 1, 0]}, "widths are positive"),
        ({"velocity": [0, 1, 2, 3], "width": 2.0}, "overlap by 1 km/s"),
        ({"velocity": [0, 2, 1, 3], "width": 0.1}, "ascending velocity"),
        ({"edges": EDGES, "velocity": [0, 1, 2, 3]}, "`edges` came beside"),
        ({"edges": [[1, 2], [3]]}, "`edges`"),
        ({"velocity": [[0, 1], [2, 3]], "width": 1.0}, "`velocity`"),
        ({"velocity": [], "width": 1.0}, "one number for each channel"),
    ],
)
def test_channels_that_do_not_fit_are_refused(tmp_path, way, words):
    with pytest.raises(InputError, match=words):
        sm.ingest_cube(simple(tmp_path), tmp_path / "sky.zarr", **way)
    assert not (tmp_path / "sky.zarr").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no numbers"),
        ("velocity\n", "holds no numbers"),
        ("a\nb\n", "line 2: 'b' is no row of numbers"),
        ("1\nx\n", "line 2: 'x'"),
        ("1 2 3\n", "3 numbers came, `velocity` takes 1 or 2"),
        ("1 2\n3\n", "line 2: 1 numbers came, `velocity` takes 2"),
    ],
)
def test_text_files_that_are_no_numbers_are_refused(tmp_path, text, words):
    path = tmp_path / "v.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        given_channels(path, None, None)
    with pytest.raises(StoreNotFoundError, match="cannot be read"):
        given_channels(tmp_path / "none.txt", None, None)


# Bad input and stores that are there already


def test_what_the_header_does_not_tell_is_asked_for(tmp_path):
    for keywords, option, error in (
        ({"BUNIT": None}, "unit", UnitError),
        ({"COORDSYS": None}, "frame", FrameError),
        ({"ORDERING": None}, "ordering", OrderingError),
    ):
        with pytest.raises(error, match=f"give `{option}`"):
            sm.ingest_cube(simple(tmp_path, **keywords), tmp_path / "sky.zarr", edges=EDGES)
    path = simple(tmp_path)
    with pytest.raises(UnitError, match="`unit` 'cm-2' came"):
        sm.ingest_cube(path, tmp_path / "sky.zarr", edges=EDGES, unit="cm-2")
    sm.ingest_cube(path, tmp_path / "sky.zarr", edges=EDGES, unit="cm-2", override=["unit"])
    with pytest.raises(FormatError, match="is expected, nside 16"):
        sm.ingest_cube(path, tmp_path / "sky.zarr", edges=EDGES, nside=16)
    with pytest.raises(InputError, match="means: predicted intensity"):
        sm.ingest_cube(path, tmp_path / "sky.zarr", "pred_x", edges=EDGES)
    with pytest.raises(StoreNotFoundError):
        sm.ingest_cube(tmp_path / "none.fits", tmp_path / "sky.zarr", edges=EDGES)
    Path(path).write_bytes(Path(path).read_bytes()[:9000])
    with pytest.raises(FormatError, match="truncated"):
        sm.ingest_cube(path, tmp_path / "sky.zarr", edges=EDGES)


def test_a_cube_without_any_value_is_an_error_and_leaves_nothing(tmp_path):
    plan = sm.ingest_cube(simple(tmp_path, np.full((4, 768), np.nan, "f4")), tmp_path / "sky.zarr", edges=EDGES)
    with pytest.raises(FormatError, match="no pixel of any channel has a value"):
        plan.run(progress=False)
    assert stores.infos(tmp_path / "sky.zarr") == {}


def test_an_empty_channel_is_kept_and_counted(tmp_path):
    values = spectra()
    values[2] = np.nan
    sm.ingest_cube(simple(tmp_path, values), tmp_path / "sky.zarr", edges=EDGES).run(progress=False)
    assert stores.info(tmp_path / "sky.zarr", "n_hi").provenance["statistics"]["channel_counts"][2] == 0


def test_a_cube_joins_a_store_that_agrees(tmp_path):
    path, where = simple(tmp_path), tmp_path / "sky.zarr"
    sm.simulate("dust", where, NSIDE, seed=1, maps=["i160"]).run(progress=False)
    sm.ingest_cube(path, where, edges=EDGES).run(progress=False)
    np.testing.assert_array_equal(cube_of(where), spectra())
    with pytest.raises(InputError, match="4 channels"):
        sm.ingest_cube(simple(tmp_path, spectra(count=3)), where, "other", edges=EDGES[:4])
    other = simple(tmp_path, spectra(seed=1))
    with pytest.raises(IdentityError, match="was made by another run"):
        sm.ingest_cube(other, where, edges=EDGES)
    with pytest.raises(IdentityError):
        sm.ingest_cube(path, where, "i160", edges=EDGES)
    sm.ingest_cube(other, where, edges=EDGES, overwrite=True).run(progress=False)
    np.testing.assert_array_equal(cube_of(where), spectra(seed=1))
    with pytest.raises(InputError, match="`tile_nside` 4 came"):
        sm.ingest_cube(path, where, "more", edges=EDGES, tile_nside=4)
    with pytest.raises(InputError, match="NSIDE 4"):
        sm.ingest_cube(simple(tmp_path, spectra(nside=4)), where, "coarse", edges=EDGES)
    with pytest.raises(FrameError, match="icrs"):
        sm.ingest_cube(simple(tmp_path, COORDSYS="C"), where, "turned", edges=EDGES)


def test_scratch_is_where_it_is_asked_for_and_goes(tmp_path):
    path = write_image(tmp_path / "cube.fits.gz", spectra())
    (tmp_path / "tmp").mkdir()
    plan = sm.ingest_cube(path, tmp_path / "sky.zarr", edges=EDGES, scratch=tmp_path / "tmp")
    plan.run(progress=False)
    assert os.listdir(tmp_path / "tmp") == []
    with pytest.raises(InputError, match="`scratch`"):
        sm.ingest_cube(path, tmp_path / "sky.zarr", edges=EDGES, scratch=tmp_path / "none")


def test_lazily_the_same_comes(tmp_path):
    plan = sm.ingest_cube(simple(tmp_path), tmp_path / "sky.zarr", edges=EDGES)
    np.testing.assert_array_equal(plan.lazy()["n_hi"].values, spectra())
    assert not (tmp_path / "sky.zarr").exists()


# Killed runs

KILLED = """
import os, sys
import skymill as sm
from skymill.engine import ledger
ticks, tick = [], ledger.tick
def dying(store, name, tile, digest):
    tick(store, name, tile, digest)
    ticks.append(tile)
    if len(ticks) == 5:
        os._exit(9)
ledger.tick = dying
edges = [-90.0, -35.0, 0.0, 35.0, 90.0]
sm.ingest_cube(sys.argv[1], sys.argv[2], edges=edges, tile_nside=2, threads=1).run(progress=False)
"""


@pytest.mark.parametrize("explicit", [False, True])
def test_a_killed_run_continues_to_the_same_bytes(tmp_path, explicit):
    pixels = np.arange(0, 768, 2) if explicit else None
    stored = spectra()[:, pixels] if explicit else spectra()
    path = write_form(tmp_path, "vector", stored, False, pixels, not explicit)
    where, whole = tmp_path / "sky.zarr", tmp_path / "whole.zarr"
    done = subprocess.run([sys.executable, "-c", KILLED, path, str(where)], check=False, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    plan = sm.ingest_cube(path, where, edges=EDGES, tile_nside=2)
    assert (plan.done, len(plan.todo)) == (5, 43)
    report = plan.run(progress=False)
    assert report.counts == {"verified": 5, "computed": 43}
    sm.ingest_cube(path, whole, edges=EDGES, tile_nside=2).run(progress=False)
    assert content(where, "n_hi") == content(whole, "n_hi")
    assert json.dumps(stores.info(where, "n_hi").provenance) == json.dumps(stores.info(whole, "n_hi").provenance)
    assert not [name for name in os.listdir(tmp_path) if "ingest-" in name]


# Memory

MEMORY = """
import json, sys
import skymill as sm
report = sm.ingest_cube(sys.argv[1], sys.argv[2], velocity=list(range(41)), width=1, threads=2).run(progress=False)
print(json.dumps([report.peak_memory, report.planned_memory]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["image", "vector", "listed"])
def test_the_peak_stays_below_the_plan(tmp_path, form):
    nside, path = 256, tmp_path / "cube.fits"
    values = np.random.default_rng(0).normal(size=(41, 12 * nside**2)).astype(np.float32)
    if form == "image":
        write_image(path, values, ORDERING="RING")
    else:
        listed = {"PIXEL": ("K", np.random.default_rng(1).permutation(12 * nside**2))} if form == "listed" else {}
        unit = {"TUNIT1": None, "TUNIT2": "K", "INDXSCHM": "EXPLICIT"} if listed else {"TUNIT1": "K"}
        write_table(path, {**listed, "N": ("41E", values.T)}, NSIDE=nside, ORDERING="RING", **unit)
    del values
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path), str(tmp_path / "sky.zarr")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peak, planned = json.loads(done.stdout.splitlines()[-1])
    print(f"{form}: peak {peak / 1e6:.0f} MB, planned {planned / 1e6:.0f} MB")
    assert 0 < peak <= planned <= 4 * peak
