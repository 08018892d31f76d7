"""Stored numbers to float32 with NaN."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skymill.chunking.errors import FormatError
from skymill.chunking.fits_header import Column
from skymill.chunking.fits_values import UNSEEN, as_codes, decode, merged, statistics


def column(code, **more):
    return Column("I", 1, code, 1, 0, **more)


@pytest.mark.parametrize("stored", [">f4", ">f8"])
def test_unseen_in_either_precision_and_as_text_made_it(stored):
    raw = np.array([UNSEEN, np.float32(UNSEEN), -1.63750e30 * (1 + 4e-6), 1.0, np.nan, -1.6e30, -1.7e30], stored)
    values, infinite = decode(raw, column("E" if stored == ">f4" else "D"))
    np.testing.assert_array_equal(np.isnan(values), [True, True, True, False, True, False, False])
    assert values.dtype == np.float32
    assert values.dtype.isnative
    assert infinite == 0


def test_other_bad_values_only_where_named():
    raw = np.array([-99.0, -98.9, 0.0], ">f4")
    assert not np.isnan(decode(raw, column("E"))[0]).any()
    assert np.isnan(decode(raw, column("E"), (-99.0,))[0]).tolist() == [True, False, False]
    assert np.isnan(decode(raw, column("E"), (0.0,))[0]).tolist() == [False, False, True]


def test_infinite_and_too_large_values_are_counted():
    values, infinite = decode(np.array([np.inf, -np.inf, 2.0], ">f4"), column("E"))
    assert (infinite, np.isnan(values).sum(), values[2]) == (2, 2, 2.0)
    values, infinite = decode(np.array([1e300, -1.0], ">f8"), column("D"))
    assert (infinite, values[1]) == (1, -1.0)
    assert np.isnan(values[0])


@pytest.mark.parametrize(("code", "stored"), [("B", "u1"), ("I", ">i2"), ("J", ">i4"), ("K", ">i8")])
def test_integers_with_null(code, stored):
    raw = np.array([0, 1, 77], stored)
    values, _ = decode(raw, column(code), (77.0,))
    np.testing.assert_array_equal(values, np.array([0, 1, np.nan], np.float32))
    assert not np.isnan(decode(raw, column(code))[0]).any()


def test_unseen_means_nothing_in_integers_and_a_fractional_bad_value_neither():
    assert decode(np.array([5], ">i4"), column("J"), (5.5,))[0].tolist() == [5.0]


def test_scaling_comes_after_the_null():
    raw = np.array([-32768, 0, 10], ">i2")
    values, _ = decode(raw, column("I", scale=0.5, zero=100.0), (-32768.0,))
    np.testing.assert_array_equal(values, np.array([np.nan, 100.0, 105.0], np.float32))


def test_unsigned_columns():
    raw = np.array([-(2**31), 2**31 - 1], ">i4")
    assert decode(raw, column("J", zero=2.0**31))[0].tolist() == [0.0, 2.0**32]


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(">f4", st.integers(1, 50), elements=st.floats(-(2.0**90), 2.0**90, width=32)))
def test_ordinary_values_pass_bit_for_bit(raw):
    values, infinite = decode(raw, column("E"))
    np.testing.assert_array_equal(values.view(np.uint32), raw.astype(np.float32).view(np.uint32))
    assert infinite == 0


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32) | st.just(np.nan)))
def test_statistics_merge_to_those_of_the_whole(values):
    parts = [statistics(part, infinite=1) for part in np.array_split(values, 4) if part.size]
    found = merged(parts, cells=values.size + 5)
    good = values[~np.isnan(values)].astype(np.float64)
    assert found["count"] == good.size
    assert found["missing"] == values.size - good.size + 5
    assert found["infinite"] == len(parts)
    if good.size:
        assert (found["minimum"], found["maximum"]) == (good.min(), good.max())
        assert found["mean"] == pytest.approx(good.mean(), abs=1e-9 * np.abs(good).max() + 1e-300)
    else:
        assert "mean" not in found


def test_statistics_of_codes():
    assert statistics(np.array([0, 3], np.uint8)) == {
        "count": 2, "missing": 0, "infinite": 0, "minimum": 0.0, "maximum": 3.0, "sum": 3.0,
    }  # fmt: skip


def test_codes():
    codes = as_codes(np.array([0, 255, np.nan, 7], np.float32), "survey")
    assert codes.tolist() == [0, 255, 0, 7]
    assert codes.dtype == np.uint8
    for wrong in (-1.0, 256.0, 0.5):
        with pytest.raises(FormatError, match=rf"'survey'.*{wrong:g}"):
            as_codes(np.array([0.0, wrong], np.float32), "survey")
