"""Moments by block against NumPy on all pixels, merged in any way; the jackknife's halves of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking.errors import InputError
from skymill.chunking.tiling import Tiling
from skymill.engine.block_moments import BlockMoments, block_numbers, block_shift, merge_blocks


def sample(pixels=500, quantities=3, blocks=7, seed=0):
    random = np.random.default_rng(seed)
    values = random.normal(1e6, 1.0, (quantities, pixels)) + random.normal(size=(1, pixels))
    return random.integers(0, blocks, pixels), values


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 500), max_size=4), st.integers(0, 10))
def test_merged_parts_are_the_whole(cuts, seed):
    blocks, values = sample(seed=seed)
    edges = [0, *sorted(cuts), 500]
    merged = BlockMoments()
    for low, high in itertools.pairwise(edges):
        merged = merged.merge(BlockMoments.of(blocks[low:high], values[:, low:high]))
    count, mean, covariance = merged.total()
    assert count == 500
    np.testing.assert_allclose(mean, values.mean(axis=1), rtol=1e-14)
    # A mean of a million costs no digit of a variance of one.
    np.testing.assert_allclose(covariance, np.cov(values), rtol=1e-8)


def test_left_out_blocks_are_left_out():
    blocks, values = sample()
    means, covariances = BlockMoments.of(blocks, values).left_out()
    for place, block in enumerate(np.unique(blocks)):
        kept = values[:, blocks != block]
        np.testing.assert_allclose(means[place], kept.mean(axis=1), rtol=1e-13)
        np.testing.assert_allclose(covariances[place], np.cov(kept), rtol=1e-7)


def test_nothing_is_nothing():
    nothing, something = BlockMoments(), BlockMoments.of(*sample())
    assert nothing.merge(something) is something
    assert something.merge(nothing) is something
    assert nothing.total()[0] == 0
    assert np.isnan(BlockMoments.of(np.array([3]), np.ones((2, 1))).left_out()[0]).all()


def test_blocks_come_together_by_name():
    one = BlockMoments.of(*sample(seed=1))
    merged = merge_blocks({"a": one}, {"a": one, "b": one})
    assert merged["a"].total()[0] == 1000
    assert merged["b"] is one


def test_numbers_of_blocks_are_those_of_coarse_pixels():
    tiling = Tiling(32)
    used = np.zeros(64, bool)
    used[[0, 3, 4, 63]] = True
    assert block_numbers(128, used, block_shift(tiling, 16)).tolist() == [32, 32, 33, 47]
    assert block_numbers(128, used, block_shift(tiling, None)).tolist() == [0, 0, 0, 0]
    assert block_shift(tiling, 64) == 0


@pytest.mark.parametrize("nside", [0, 3, -2])
def test_no_nside_is_told(nside):
    with pytest.raises(InputError, match="power of two"):
        block_shift(Tiling(32), nside)
