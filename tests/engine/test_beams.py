"""Beams: healpy as the oracle, files as users write them, and what cannot be a beam."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import healpy as hp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking.errors import FormatError, InputError, StoreNotFoundError
from skymill.engine.beams import beam_of, difference_fwhm, gaussian_beam, read_beam

widths = st.floats(0.01, 1000)


@given(fwhm=st.floats(1e-5, 1.0), lmax=st.integers(0, 3000))
@settings(max_examples=40, deadline=None)
def test_against_healpy(fwhm: float, lmax: int) -> None:
    np.testing.assert_allclose(gaussian_beam(fwhm, lmax), hp.gauss_beam(fwhm, lmax), rtol=1e-11, atol=1e-300)


def test_no_width_changes_nothing() -> None:
    np.testing.assert_array_equal(gaussian_beam(0, 5), np.ones(6))


@given(begins=widths, ends=widths)
@settings(max_examples=40, deadline=None)
def test_the_difference_makes_one_beam_of_the_other(begins: float, ends: float) -> None:
    begins, ends = sorted((begins, ends))
    between = difference_fwhm(begins, ends)
    assert math.hypot(begins, between) == pytest.approx(ends, rel=1e-12)
    product = beam_of(begins, 500) * beam_of(between, 500)
    np.testing.assert_allclose(product, beam_of(ends, 500), rtol=1e-8, atol=1e-300)


def test_four_to_five_is_three() -> None:
    assert difference_fwhm(4, 5) == 3
    assert difference_fwhm(5, 5) == 0


def test_no_smoothing_sharpens() -> None:
    with pytest.raises(InputError, match=r"a beam of 5 came, and one of 4 is wanted; smoothing only widens"):
        difference_fwhm(5, 4)


@pytest.mark.parametrize("width", [-1.0, math.nan, math.inf])
def test_widths_that_are_none(width: float) -> None:
    with pytest.raises(InputError, match="`fwhm`"):
        gaussian_beam(width, 5)
    with pytest.raises(InputError, match="`begins`"):
        difference_fwhm(width, 5)
    with pytest.raises(InputError, match="`ends`"):
        difference_fwhm(5, width)
    with pytest.raises(InputError, match="arcmin came"):
        beam_of(width, 5)


def test_arcmin_given_as_radian() -> None:
    with pytest.raises(InputError, match="was it meant in arcmin"):
        gaussian_beam(7.0, 5)
    with pytest.raises(InputError, match="more than a circle"):
        beam_of(30000, 5)


@pytest.mark.parametrize(
    "text",
    [
        "0 1\n1 0.9\n2 0.75\n3 0.5\n",
        "# ell b_l\n\n0, 1.0\n1, 9e-1\n2, 0.75 # a note\n3, .5",
        "1\n0.9\n0.75\n0.5\n",
        "0\t1.0\r\n1\t0.9\r\n2\t0.75\r\n3\t0.5\r\n",
        "0.0 1\n1.0 0.9\n2.0 0.75\n3.0 0.5\n",
    ],
)
def test_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "beam.txt"
    path.write_text(text)
    assert read_beam(path, 3).tolist() == [1, 0.9, 0.75, 0.5]
    assert read_beam(str(path), 1).tolist() == [1, 0.9]
    assert beam_of(path, 3).tolist() == beam_of(str(path), 3).tolist() == [1, 0.9, 0.75, 0.5]


@given(values=st.lists(st.floats(-2, 2), min_size=1, max_size=30))
@settings(max_examples=20, deadline=None)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    path = tmp_path_factory.mktemp("beams") / "beam.txt"
    path.write_text("".join(f"{ell} {value!r}\n" for ell, value in enumerate(values)))
    assert read_beam(path, len(values) - 1).tolist() == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no numbers"),
        ("# only words\n", "holds no numbers"),
        ("ell b_l\n0 1\n", r"line 1: 'ell b_l' is no number; put # before"),
        ("0 1\n1 0.9\n3 0.7\n", "line 3: ell 3, where 2 was expected"),
        ("2 1\n3 0.9\n", "line 1: ell 2, where 0 was expected"),
        ("0 1\n0 1\n", "line 2: ell 0, where 1 was expected"),
        ("0 1\n1 nan\n", "line 2: b_l is nan"),
        ("0 1\n1\n", "line 2: 1 columns; 2 as in the lines above expected"),
        ("0 1 1\n", "line 1: 3 columns; one column, b_l, or two"),
        ("SIMPLE  =                    T", "is FITS"),
    ],
)
def test_files_that_are_no_beam(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "beam.txt"
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        read_beam(path, 1)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"no file .*nothing\.txt"):
        read_beam(tmp_path / "nothing.txt", 1)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(FormatError, match="is not text"):
        read_beam(tmp_path / "binary", 1)
    with pytest.raises(InputError, match="cannot be read as a beam"):
        read_beam(tmp_path, 1)


def test_too_short(tmp_path: Path) -> None:
    path = tmp_path / "beam.txt"
    path.write_text("1\n1\n")
    with pytest.raises(InputError, match="ends at ell 1, and ell 2 is wanted"):
        read_beam(path, 2)
    with pytest.raises(InputError, match="the beam ends at ell 1, and ell 2 is wanted"):
        beam_of([1.0, 1.0], 2)


def test_ways_to_give_a_beam() -> None:
    expected = hp.gauss_beam(math.radians(5 / 60), 100)
    for width in (5, 5.0, np.float32(5), np.array(5.0)):
        np.testing.assert_allclose(beam_of(width, 100), expected, rtol=1e-14)
    given = np.linspace(1, 0.5, 101, dtype=np.float32)
    taken = beam_of(given, 100)
    assert taken.dtype == np.float64
    np.testing.assert_array_equal(taken, given)
    taken[0] = 7
    assert given[0] == 1  # a copy
    np.testing.assert_array_equal(beam_of(given, 20), given[:21])


@pytest.mark.parametrize("beam", [None, True, {"a": 1}, ["x"], [[1.0], [1.0, 2.0]], 1j, np.array([True, False])])
def test_what_is_no_beam(beam: Any) -> None:
    with pytest.raises(InputError, match="came; give an FWHM in arcmin"):
        beam_of(beam, 1)


def test_arrays_that_are_no_beam() -> None:
    with pytest.raises(InputError, match=r"shape \(2, 2\)"):
        beam_of(np.ones((2, 2)), 1)
    with pytest.raises(InputError, match="is nan at ell 1"):
        beam_of([1.0, math.nan], 1)


@pytest.mark.parametrize("beam", [5.0, [1.0]])
def test_no_degrees(beam: Any) -> None:
    with pytest.raises(InputError, match="`lmax` -1 came"):
        beam_of(beam, -1)
