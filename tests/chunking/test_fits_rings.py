"""Tiles in ring order, against healpy."""

import healpy as hp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking.fits_rings import ring_order, tile_runs
from skymill.chunking.tiling import Tiling


def listed(runs):
    return np.concatenate(
        [np.arange(first, first + count) for first, count in zip(runs.first, runs.length, strict=True)]
    )


@st.composite
def tiles(draw):
    order = draw(st.integers(0, 7))
    tiling = Tiling(2**order, tile_nside=2 ** draw(st.integers(0, order)))
    return tiling, draw(st.integers(0, tiling.n_tiles - 1))


@settings(max_examples=50, deadline=None)
@given(tiles())
def test_runs_in_ring_order_are_the_ring_numbers_of_the_tile(case):
    tiling, tile = case
    side = tiling.nside // tiling.tile_nside
    want = hp.nest2ring(tiling.nside, tile * tiling.tile_npix + ring_order(side))
    runs = tile_runs(tiling, tile)
    np.testing.assert_array_equal(listed(runs), want)
    np.testing.assert_array_equal(runs.place, np.cumsum(runs.length) - runs.length)


def test_all_tiles_of_a_sky_cover_every_pixel_once():
    tiling = Tiling(32, tile_nside=4)
    pixels = np.concatenate([listed(tile_runs(tiling, tile)) for tile in range(tiling.n_tiles)])
    np.testing.assert_array_equal(np.sort(pixels), np.arange(tiling.npix))


@pytest.mark.parametrize("order", [14, 20, 29])
def test_runs_are_exact_at_the_largest_grids(order):
    tiling = Tiling(2**order, tile_nside=2 ** (order - 5))
    rng = np.random.default_rng(order)
    for tile in [0, tiling.n_tiles - 1, *rng.integers(0, tiling.n_tiles, 20).tolist()]:
        want = hp.nest2ring(tiling.nside, tile * tiling.tile_npix + ring_order(32))
        np.testing.assert_array_equal(listed(tile_runs(tiling, tile)), want)


def test_the_number_of_runs_does_not_exceed_the_rings_and_one_cut_each():
    for tile in range(12):
        assert len(tile_runs(Tiling(64), tile).first) <= 4 * 64 - 2
    assert len(tile_runs(Tiling(64), 4).first) > 2 * 64 - 1  # the base pixel around longitude 0 is cut there


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 47), st.integers(0, 3072), st.integers(0, 3072))
def test_clipping_keeps_places(tile, one, other):
    tiling = Tiling(16, tile_nside=2)
    start, stop = sorted((one, other))
    runs = tile_runs(tiling, tile)
    whole = listed(runs)
    kept = (whole >= start) & (whole < stop)
    clipped = runs.clipped(start, stop)
    if not kept.any():
        assert clipped.first.size == 0
        return
    places = np.concatenate([np.arange(p, p + n) for p, n in zip(clipped.place, clipped.length, strict=True)])
    np.testing.assert_array_equal(listed(clipped), whole[kept])
    np.testing.assert_array_equal(places, np.flatnonzero(kept))


def test_the_shared_order_cannot_be_spoilt():
    with pytest.raises(ValueError, match="read-only"):
        ring_order(4)[0] = 1
