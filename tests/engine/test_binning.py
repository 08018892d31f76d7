"""Bins of multipoles: which they are, what averages over them give, and what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking.errors import InputError
from skymill.engine.binning import Bins

EDGES = st.lists(st.integers(0, 300), min_size=2, max_size=12, unique=True).map(sorted)


@st.composite
def some_bins(draw):
    """Bins with gaps between some of them."""
    edges = draw(EDGES)
    pairs = list(itertools.pairwise(edges))
    kept = draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs)))
    chosen = [pair for pair, keep in zip(pairs, kept, strict=True) if keep] or pairs[:1]
    starts, stops = zip(*chosen, strict=True)
    return Bins(starts, stops, draw(st.sampled_from(["uniform", "2l+1"])))


@settings(max_examples=40, deadline=None)
@given(some_bins(), st.integers(0, 2**32 - 1))
def test_averages_against_loops(bins, seed):
    spectra = np.random.default_rng(seed).normal(size=(2, 3, 301))
    found = bins.average(spectra)
    assert found.shape == (2, 3, bins.n)
    for k, (start, stop) in enumerate(zip(bins.starts, bins.stops, strict=True)):
        ell = np.arange(start, stop)
        weights = 2 * ell + 1 if bins.weighting == "2l+1" else np.ones(ell.size)
        np.testing.assert_allclose(
            found[..., k], np.average(spectra[..., start:stop], axis=-1, weights=weights), atol=1e-12
        )
        np.testing.assert_allclose(bins.ell[k], np.average(ell, weights=weights), rtol=1e-13)
        np.testing.assert_allclose(bins.weights_of(k), weights / weights.sum(), rtol=1e-13)
        assert bins.modes[k] == (2 * ell + 1).sum()


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 500), st.integers(1, 40), st.integers(0, 5))
def test_linear_bins_hold_every_multipole_that_fills_one(lmax, width, first):
    if first + width > lmax + 1:
        with pytest.raises(InputError, match="no bin"):
            Bins.linear(lmax, width, first)
        return
    bins = Bins.linear(lmax, width, first)
    assert bins.starts[0] == first
    assert bins.starts[1:] == bins.stops[:-1]
    assert set(np.subtract(bins.stops, bins.starts)) == {width}
    assert lmax + 1 - width < bins.stops[-1] <= lmax + 1


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 3000), st.integers(1, 60), st.integers(1, 10))
def test_logarithmic_bins_reach_from_end_to_end(lmax, count, first):
    if count > lmax + 1 - first:
        with pytest.raises(InputError, match="bins fit"):
            Bins.logarithmic(lmax, count, first)
        return
    bins = Bins.logarithmic(lmax, count, first)
    assert (bins.n, bins.starts[0], bins.stops[-1]) == (count, first, lmax + 1)
    assert bins.starts[1:] == bins.stops[:-1]
    # Even in log ell to within the rounding of edges, where bins are wide enough to be rounded at all.
    ratio = (lmax + 1) / first
    ideal = first * ratio ** (np.arange(count + 1) / count)
    wide = np.diff(ideal) > count
    edges = np.array([*bins.starts, lmax + 1])
    assert np.all(np.abs(edges - ideal)[1:][wide] <= 0.5 + 1e-9)


def test_what_stands_for_bins():
    bins = Bins.from_edges([2, 10, 18])
    assert Bins.of(8, 20) == Bins.of(np.int64(8), 20) == bins
    assert Bins.of([2, 10, 18], 20) == Bins.of(np.array([2, 10, 18]), 20) == bins
    assert Bins.of([(2, 10), (10, 18)], 20) == Bins.of(np.array([[2, 10], [10, 18]]), 20) == bins
    assert Bins.of(bins, 17) is bins
    assert Bins.from_edges([2, 10], weighting="2l+1").weighting == "2l+1"
    assert Bins.linear(30, 8, first=3).starts == (3, 11, 19)
    assert hash(bins) == hash(Bins((2, 10), (10, 18)))


@pytest.mark.parametrize(
    ("bins", "message"),
    [
        (0, "width of 0"),
        (40, "no bin of 40"),
        (True, "True"),
        (2.5, "2.5"),
        ("linear", "'linear'"),
        (None, "None"),
        ([], "two edges"),
        ([5], "two edges"),
        ([2, 10, 10], r"\(10, 10\) is empty"),
        ([10, 2], r"\(10, 2\) is empty"),
        ([2.0, 10.0], "integers"),
        ([(2, 10), (9, 12)], "begins before"),
        ([(10, 12), (2, 5)], "begins before"),
        ([(2, 10, 12)], "pairs"),
        ([2, (3, 4)], "pairs"),
        ([(2, 10), "ab"], "pairs"),
        ([(-1, 3)], "below 0"),
        ([2, 22], "lmax is 20"),
        (Bins((2,), (22,)), "lmax is 20"),
    ],
)
def test_what_does_not(bins, message):
    with pytest.raises(InputError, match=message):
        Bins.of(bins, 20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), ()), "no bin"),
        (((2,), (3, 4)), "1 and 2"),
        ((("2",), (4,)), "integers"),
        (((2,), (4,), "uniformly"), "did you mean 'uniform'"),
        ((2, 4), "`starts`"),
    ],
)
def test_bins_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        Bins(*arguments)


def test_logarithmic_bins_do_not_start_at_zero():
    with pytest.raises(InputError, match="start at 1"):
        Bins.logarithmic(100, 5, first=0)


@pytest.mark.parametrize("spectrum", [np.zeros(17), np.zeros((2, 17)), np.float64(1.0)])
def test_averages_need_the_whole_spectrum(spectrum):
    with pytest.raises(InputError, match="lmax"):
        Bins.linear(20, 8).average(spectrum)
