"""Which form the cube in a FITS file has: told from sizes, or asked for."""

from __future__ import annotations

import numpy as np
import pytest
import skymill as sm
from astropy.io import fits
from cubefiles import NSIDE, cube_of, spectra, write_image
from fitsfiles import write_table
from skymill.chunking.errors import (
    FormatError,
    InputError,
)
from skymill.chunking.fits_cube import describe_cube


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
