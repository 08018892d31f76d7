"""Column densities: against sums by hand, a layer whose column is known, and NumPy's variance."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking.channels import Channels
from skymill.chunking.errors import InputError
from skymill.models import columns

numbers = st.floats(-1e3, 1e3, allow_subnormal=False)


def test_velocity_columns_are_sums_over_channels() -> None:
    rng = np.random.default_rng(1)
    cube = rng.normal(1.0, 3.0, (7, 50)).astype(np.float32)
    factors = np.where(rng.random((3, 7)) < 0.4, 0.0, rng.random((3, 7)))
    found, bright = columns.velocity_columns(cube, factors, scale=1e-3)
    np.testing.assert_allclose(found, factors @ cube.astype(np.float64) * 1e-3, rtol=1e-12, atol=1e-15)
    assert found.dtype == np.float64
    assert bright == 0


def test_blocks_of_cells_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    cube, factors = rng.random((4, 101)) * 90, rng.random((2, 4))
    whole = columns.velocity_columns(cube, factors, spin_temperature=80.0)
    monkeypatch.setattr(columns, "BLOCK", 13)
    parts = columns.velocity_columns(cube, factors, spin_temperature=80.0)
    assert np.array_equal(whole[0], parts[0], equal_nan=True)
    assert whole[1] == parts[1] == (cube >= 80).any(axis=0).sum() > 0


def test_only_channels_of_the_cut_count_as_missing_or_bright() -> None:
    cube = np.array([[1.0, 1.0], [np.nan, 2.0], [3.0, 100.0]])
    factors = np.array([[1.0, 0.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    found, bright = columns.velocity_columns(cube, factors)
    np.testing.assert_array_equal(found, [[1, 1], [np.nan, 5], [3, 100]])
    found, bright = columns.velocity_columns(cube, factors[:2], spin_temperature=50.0)
    assert bright == 0
    found, bright = columns.velocity_columns(cube, factors, spin_temperature=50.0)
    assert bright == 1
    assert np.isnan(found[2, 1])
    assert not np.isnan(found[0]).any()


@pytest.mark.parametrize(("shape", "factors"), [((3, 4), (2, 4)), ((12,), (2, 12)), ((3, 4), (3,))])
def test_shapes_that_do_not_fit(shape: tuple[int, ...], factors: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="of the same channels are expected"):
        columns.velocity_columns(np.ones(shape), np.ones(factors))


@pytest.mark.parametrize("spin_temperature", [40.0, 80.0, 300.0])
def test_a_layer_of_known_column_is_found_again(spin_temperature: float) -> None:
    """An isothermal layer: N = 1.823e18 T_s times the integral of tau, in fine channels of a Gaussian line."""
    channels = Channels.from_edges(np.linspace(-60, 60, 2401))
    velocity, width = np.array(channels.velocity), np.array(channels.width)
    tau = 1.5 * np.exp(-0.5 * ((velocity - 3.0) / 4.0) ** 2)
    brightness = spin_temperature * -np.expm1(-tau)
    factors = columns.HI_COLUMN * width[None, :]
    thick, _ = columns.velocity_columns(brightness[:, None], factors, spin_temperature=spin_temperature)
    thin, _ = columns.velocity_columns(brightness[:, None], factors)
    expected = 1.823e18 * spin_temperature * 1.5 * 4.0 * math.sqrt(2 * math.pi)
    assert thick[0, 0] == pytest.approx(expected, rel=1e-9)
    assert thin[0, 0] < 0.8 * expected


def test_optical_depth() -> None:
    # A faint line is thin, noise may be negative, and what is as bright as the gas is warm has no value.
    assert columns.opaque_brightness(1e-6, 100.0) == pytest.approx(1e-6, rel=1e-7)
    assert columns.opaque_brightness(-1.0, 100.0) == pytest.approx(-100.0 * math.log(1.01))
    assert np.isnan(columns.opaque_brightness([100.0, 101.0, np.nan, np.inf], 100.0)).all()
    assert columns.opaque_brightness(99.9, 100.0) == pytest.approx(100 * math.log(1000), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(numbers, numbers).filter(lambda t: t[0] != t[1]), min_size=1, max_size=6), numbers)
def test_union_of_intervals(intervals: list[tuple[float, float]], point: float) -> None:
    ordered = [(min(pair), max(pair)) for pair in intervals]
    merged = columns.merged_intervals(ordered)
    assert any(low < point < high for low, high in merged) >= any(low < point < high for low, high in ordered)
    assert all(any(low == each[0] for low, _ in ordered) for each in merged)
    assert all(first[1] < second[0] for first, second in itertools.pairwise(merged))
    assert all(any(low <= a and b <= high for low, high in merged) for a, b in ordered)
    # The length of the union, on the points that the limits make.
    marks = sorted({number for pair in ordered for number in pair})
    length = sum(b - a for a, b in itertools.pairwise(marks) if any(low <= a and b <= high for low, high in ordered))
    assert sum(high - low for low, high in merged) == pytest.approx(length, rel=1e-9)


@pytest.mark.parametrize("wrong", [[], [(1, 1)], [(2, 1)], [(0, 1), (math.nan, 3)]])
def test_intervals_that_are_none(wrong: list[tuple[float, float]]) -> None:
    with pytest.raises(InputError, match=r"no velocities came|must be below"):
        columns.merged_intervals(wrong)


def test_infinite_intervals() -> None:
    assert columns.merged_intervals([(35, math.inf), (-math.inf, -35)]) == ((-math.inf, -35), (35, math.inf))


def test_molecules() -> None:
    line = np.array([0.0, 1.0, np.nan])
    np.testing.assert_array_equal(columns.molecular_column(line), [0.0, 4e20, np.nan])
    np.testing.assert_array_equal(columns.molecular_column(line, 1e20), [0.0, 2e20, np.nan])
    found = columns.molecular_variance([0.3, 0.0], [0.16, 0.25], 2e20)
    np.testing.assert_allclose(found, [(4e20) ** 2 * 0.25, (4e20 * 0.5) ** 2], rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(0, 1), st.floats(-1e6, 1e6), st.integers(0, 2**32 - 1))
def test_running_variance_is_that_of_numpy(count: int, ddof: int, offset: float, seed: int) -> None:
    arrays = np.random.default_rng(seed).normal(offset, 1.0, (count, 5))
    running = columns.RunningVariance()
    for values in arrays:
        running.add(values)
    assert running.count == count
    np.testing.assert_allclose(running.mean, arrays.mean(axis=0), rtol=1e-12, atol=1e-9)
    # Against numbers from which the offset has been taken: both lose its digits, not more.
    np.testing.assert_allclose(running.variance(ddof), arrays.var(axis=0, ddof=ddof), rtol=1e-7)


def test_running_variance_where_values_are_missing() -> None:
    for place in (0, 1, 2):
        running = columns.RunningVariance()
        for number in range(3):
            running.add(np.array([1.0, np.nan if number == place else number], np.float32))
        np.testing.assert_array_equal(running.variance(), [0.0, np.nan])
    one = columns.RunningVariance()
    one.add(np.ones(2))
    with pytest.raises(InputError, match="ddof 1 takes 2 or more"):
        one.variance()
