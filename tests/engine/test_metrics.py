"""Streaming statistics against NumPy on whole arrays, and merging in any order."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.engine.gaussians import expected_counts, fit_gaussians
from skymill.engine.histograms import (
    AsinhScale,
    Histogram,
    Histogram2D,
    LogScale,
)
from skymill.engine.metrics import (
    BRIGHTNESS_SCALE,
    ERROR_SCALE,
    PairStatistics,
    by_brightness,
    measure_pair,
    measure_ratio,
    merge_groups,
    ratio_summary,
    summary,
    total_of,
)
from skymill.engine.moments import GroupedMoments, Moments, tally

N = 40_000


@pytest.fixture(scope="module")
def sky() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    target = 10 ** rng.normal(0.5, 0.7, N)
    prediction = target * (1 + rng.normal(0.004, 0.05, N))
    prediction[:40] = -prediction[:40]
    target[50:90] = np.nan
    prediction[100:170] = np.nan
    prediction[170:180] = np.inf
    target[180:190] = 0
    target[190:210] *= -1
    masked = rng.random(N) < 0.03
    return prediction.astype(np.float32), target.astype(np.float32), masked


def pieces(sky: tuple[np.ndarray, ...], number: int, **options: float) -> list[PairStatistics]:
    return [measure_pair(*part, **options) for part in zip(*(np.array_split(a, number) for a in sky), strict=True)]


def oracle(sky: tuple[np.ndarray, ...], low_cut: float = -np.inf) -> tuple[np.ndarray, np.ndarray]:
    prediction, target, masked = (a.astype(float) for a in sky)
    used = np.isfinite(prediction) & np.isfinite(target) & (target != 0) & (masked == 0) & (target >= low_cut)
    return prediction[used], target[used]


@pytest.mark.parametrize("low_cut", [None, 1.0])
def test_summary_equals_numpy_on_whole_arrays(sky, low_cut):
    prediction, target = oracle(sky, -np.inf if low_cut is None else low_cut)
    statistics = functools.reduce(PairStatistics.merge, pieces(sky, 7, low_cut=low_cut, limit=0.12))
    found = summary(statistics)
    relative = (prediction - target) / target
    assert found["pixels"] == relative.size
    assert found["n_both"] - found["n_masked"] - found["n_cut"] == relative.size
    assert found["n_target"] == np.isfinite(sky[1]).sum()
    assert found["n_prediction"] == np.isfinite(sky[0]).sum()
    assert found["n_above"] == (np.abs(relative) > 0.12).sum()
    assert found["above_limit_fraction"] == found["n_above"] / relative.size
    assert found["masked_fraction"] == found["n_masked"] / found["n_both"]
    np.testing.assert_allclose(found["mean"], relative.mean(), rtol=1e-10)
    np.testing.assert_allclose(found["sigma"], relative.std(ddof=1), rtol=1e-12)
    assert (found["minimum"], found["maximum"]) == (relative.min(), relative.max())
    squares = ((prediction - target) ** 2).sum()
    np.testing.assert_allclose(1 - found["r_squared"], squares / ((target - target.mean()) ** 2).sum(), rtol=1e-10)
    both = (prediction > 0) & (target > 0)
    x, y = np.log10(target[both]), np.log10(prediction[both])
    np.testing.assert_allclose(
        1 - found["r_squared_log"], ((x - y) ** 2).sum() / ((x - x.mean()) ** 2).sum(), rtol=1e-10
    )
    np.testing.assert_allclose(found["sigma_dex"], (y - x).std(ddof=1), rtol=1e-10)
    np.testing.assert_allclose(found["bias"], (prediction - target).mean(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found["rms_residual"], math.sqrt(squares / relative.size), rtol=1e-10)


def test_quantiles_are_within_the_stated_bound(sky):
    prediction, target = oracle(sky)
    relative = (prediction - target) / target
    found = summary(measure_pair(*sky))
    low, high = np.quantile(relative, [0.025, 0.975])
    assert abs(found["half_width_95"] - (high - low) / 2) <= found["quantile_bound"]
    assert found["quantile_bound"] < 2e-4
    assert abs(found["median"] - np.median(relative)) <= 5.1e-5
    quartiles = np.quantile(relative, [0.25, 0.75])
    assert abs(found["robust_sigma"] - np.diff(quartiles)[0] / 1.349) <= found["quantile_bound"]
    assert abs(found["median_absolute"] - np.median(np.abs(relative))) <= 7e-5
    assert abs(found["absolute_95"] - np.quantile(np.abs(relative), 0.95)) <= found["quantile_bound"]


def test_gaussian_of_the_relative_error_is_found(sky):
    fit = summary(measure_pair(*sky))["gaussian"]
    assert abs(fit["centre"] - 0.004) < 4 * 0.05 / math.sqrt(N)
    assert abs(fit["sigma"] / 0.05 - 1) < 0.02
    assert abs(fit["weight"] - 1) < 0.02


def test_limits_change_the_result(sky):
    assert measure_pair(*sky, limit=0.05).n_above > measure_pair(*sky, limit=0.2).n_above
    assert measure_pair(*sky, low_cut=3.0).n_cut > measure_pair(*sky, low_cut=1.0).n_cut > 0
    assert measure_pair(sky[0], sky[1]).n_masked == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_merge_does_not_depend_on_pieces_or_order(sky, number, random):
    parts = pieces(sky, number)
    random.shuffle(parts)
    merged, whole = functools.reduce(PairStatistics.merge, parts), measure_pair(*sky)
    for name in ("errors", "density", "joint"):
        mine, theirs = getattr(merged, name), getattr(whole, name)
        np.testing.assert_array_equal(mine.counts, theirs.counts)
        np.testing.assert_array_equal(*(getattr(h, "keys", getattr(h, "index", None)) for h in (mine, theirs)))
    for name in ("relative", "target", "log_target", "residual", "log_residual"):
        mine, theirs = getattr(merged, name), getattr(whole, name)
        assert mine.count == theirs.count
        np.testing.assert_allclose(mine.mean, theirs.mean, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(mine.squares, theirs.squares, rtol=1e-11)
        assert (mine.minimum, mine.maximum) == (theirs.minimum, theirs.maximum)
    np.testing.assert_array_equal(merged.brightness.count, whole.brightness.count)
    np.testing.assert_allclose(merged.brightness.mean, whole.brightness.mean, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(merged.brightness.squares, whole.brightness.squares, rtol=1e-9, atol=1e-14)


def test_moments_keep_precision_on_a_large_offset():
    values = 1e8 + np.random.default_rng(1).normal(size=10_000)
    merged = functools.reduce(Moments.merge, [Moments.of(p) for p in np.array_split(values, 13)])
    np.testing.assert_allclose(merged.variance, values.var(ddof=1), rtol=1e-9)


def test_nothing_is_the_neutral_element(sky):
    whole = measure_pair(*sky)
    empty = measure_pair(np.full(3, np.nan), np.ones(3))
    assert empty.relative.count == 0
    for both in (PairStatistics().merge(whole), whole.merge(PairStatistics())):
        assert summary(both) == summary(whole)
    found = summary(empty)
    assert found["n_target"] == 3
    assert found["gaussian"] is None
    assert all(math.isnan(found[k]) for k in ("mean", "sigma", "median", "r_squared", "half_width_95"))
    assert by_brightness(empty) == []


def test_deciles_equal_numpy_within_their_limits(sky):
    prediction, target = oracle(sky)
    relative = (prediction - target) / target
    rows = by_brightness(measure_pair(*sky))
    assert len(rows) == 10
    assert rows[0]["low"] < target[target > 0].min()
    assert all(a["high"] == b["low"] for a, b in itertools.pairwise(rows))
    for row in rows:
        inside = relative[(target >= row["low"]) & (target < row["high"])]
        assert row["pixels"] == inside.size
        assert abs(inside.size / (target > 0).sum() - 0.1) < 0.02  # a bin of 0.02 dex holds up to 1.1 %
        np.testing.assert_allclose(row["mean"], inside.mean(), rtol=1e-9)
        np.testing.assert_allclose(row["sigma"], inside.std(ddof=1), rtol=1e-9)
        assert abs(row["median"] - np.median(inside)) < 1.1e-3
        assert abs(row["half_width_95"] - np.diff(np.quantile(inside, [0.025, 0.975]))[0] / 2) < 5e-3
    assert len(by_brightness(measure_pair(*sky), groups=4)) == 4


def test_a_single_brightness_makes_one_group():
    rows = by_brightness(measure_pair(np.full(100, 1.1), np.full(100, 1.0)))
    assert len(rows) == 1
    assert rows[0]["pixels"] == 100
    assert rows[0]["low"] <= 1.0 < rows[0]["high"]


def test_groups_merge_by_code_and_add_up(sky):
    codes = np.random.default_rng(2).integers(0, 4, N)
    groups = {int(c): measure_pair(*(a[codes == c] for a in sky)) for c in (0, 1, 2, 3)}
    halves = {c: groups[c] for c in (0, 1)}, {c: groups[c] for c in (1, 2, 3)}
    merged = merge_groups(*halves)
    assert sorted(merged) == [0, 1, 2, 3]
    assert merged[1].n_both == 2 * groups[1].n_both
    assert merged[3].n_both == groups[3].n_both
    total, whole = summary(total_of(groups, PairStatistics())), summary(measure_pair(*sky))
    for key in ("pixels", "median", "half_width_95", "n_masked", "minimum"):
        assert total[key] == whole[key]
    np.testing.assert_allclose(total["sigma"], whole["sigma"], rtol=1e-12)


def test_ratio_statistics_and_double_gaussian():
    rng = np.random.default_rng(3)
    ratio = np.concatenate([rng.normal(4.1, 0.05, 60_000), rng.normal(4.5, 0.1, 40_000)])
    below = 10 ** rng.normal(0, 1, ratio.size)
    above = ratio * below
    above[:10] = -1
    below[20:30] = np.nan
    masked = np.zeros(ratio.size, bool)
    masked[50:60] = True
    found = ratio_summary(measure_ratio(above, below, masked))
    assert found["pixels"] == ratio.size - 30
    used = np.delete(ratio, np.r_[0:10, 20:30, 50:60])
    np.testing.assert_allclose(found["mean"], used.mean(), rtol=1e-12)
    np.testing.assert_allclose(found["sigma"], used.std(ddof=1), rtol=1e-12)
    assert abs(found["median"] - np.median(used)) < 3e-3
    first, second = found["double_gaussian"]
    assert (first["weight"], first["centre"], first["sigma"]) == pytest.approx((0.6, 4.1, 0.05), rel=0.03)
    assert (second["weight"], second["centre"], second["sigma"]) == pytest.approx((0.4, 4.5, 0.1), rel=0.03)
    assert len(found["gaussian"]) == 1


def test_fit_errors_are_honest():
    pulls = []
    for seed in range(60):
        values = np.random.default_rng(seed).normal(0.01, 0.03, 4000)
        bell = fit_gaussians(Histogram.of(ERROR_SCALE, values))[0]
        pulls.append((bell.centre - 0.01) / bell.centre_error)
    assert 0.7 < np.std(pulls) < 1.4
    assert abs(np.mean(pulls)) < 0.5


def test_expected_counts_follow_the_histogram():
    values = np.random.default_rng(0).normal(0.0, 0.04, 100_000)
    histogram = Histogram.of(ERROR_SCALE, values)
    edges, counts = histogram.rebinned(-0.15, 0.15, 30)
    np.testing.assert_array_equal(counts, np.histogram(values, edges)[0])
    expected = expected_counts(edges, fit_gaussians(histogram), histogram.total)
    assert np.abs((counts - expected) / np.sqrt(expected + 1)).max() < 6


@pytest.mark.parametrize("values", [np.zeros(0), np.full(1000, 0.3), np.array([0.1, 0.2])])
def test_no_fit_where_there_is_nothing_to_fit(values):
    assert fit_gaussians(Histogram.of(ERROR_SCALE, values)) == ()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=60),
    st.sampled_from([0.0, 0.025, 0.3, 0.5, 0.9, 1.0]),
)
def test_quantile_stays_in_the_bin_of_its_order_statistic(values, fraction):
    array = np.array(values)
    scale = AsinhScale(0.01, 0.05)
    histogram = Histogram.of(scale, array)
    wanted = np.sort(array)[int(np.floor(fraction * (array.size - 1)))]
    left, right = scale.edges(scale.index(np.array([wanted]))[0] + np.array([0, 1]))
    assert left - 1e-12 <= histogram.quantile(fraction) <= right + 1e-12


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-(10**12), 10**12) | st.integers(-50, 50), max_size=80))
def test_tally_equals_unique(keys):
    array = np.array(keys, np.int64)
    distinct, counts = np.unique(array, return_counts=True)
    found = tally(array)
    np.testing.assert_array_equal(found[0], distinct)
    np.testing.assert_array_equal(found[1], counts)


def test_two_dimensional_histogram_equals_numpy():
    rng = np.random.default_rng(4)
    x, y = 10 ** rng.normal(-3, 1, 5000), 10 ** rng.normal(2, 0.5, 5000)
    histogram = Histogram2D.of(BRIGHTNESS_SCALE, LogScale(0.1), x, y)
    x_edges, y_edges, table = histogram.dense()
    np.testing.assert_array_equal(table, np.histogram2d(x, y, [x_edges, y_edges])[0].astype(int))
    np.testing.assert_array_equal(histogram.along_first().counts, Histogram.of(BRIGHTNESS_SCALE, x).counts)
    assert histogram.total == 5000
    rows = BRIGHTNESS_SCALE.index(x)
    low, high = np.quantile(rows, [0.2, 0.6]).astype(int)
    part = histogram.second_where(int(low), int(high))
    np.testing.assert_array_equal(part.counts, Histogram.of(LogScale(0.1), y[(rows >= low) & (rows < high)]).counts)


def test_histograms_of_different_scales_do_not_merge():
    with pytest.raises(ValueError, match="different scales"):
        Histogram(LogScale(0.1)).merge(Histogram(LogScale(0.2)))
    with pytest.raises(ValueError, match="symmetric"):
        Histogram(LogScale(0.1)).folded()


def test_grouped_moments_select_ranges():
    rng = np.random.default_rng(8)
    groups, values = rng.integers(-5, 5, 3000), rng.normal(size=3000)
    part = GroupedMoments.of(groups, values).between(-2, 3)
    inside = values[(groups >= -2) & (groups < 3)]
    assert part.count == inside.size
    np.testing.assert_allclose([part.mean, part.sigma], [inside.mean(), inside.std(ddof=1)], rtol=1e-12)
