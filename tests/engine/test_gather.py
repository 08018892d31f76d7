"""From NESTED chunks into bands of rows and back: the same as healpy's reordering, however the sphere is cut."""

from __future__ import annotations

from dataclasses import replace

import healpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking.tiling import Tiling
from skymill.engine.gather import from_ring_order, gather, scatter, squares_in
from skymill.engine.rings import Layout


@st.composite
def layouts(draw, largest=6):
    """Any way to cut a grid of nside 1 to 64; bands of any height, multiples of a chunk's side or not."""
    order = draw(st.integers(0, largest))
    chunk_order = draw(st.integers(0, order))
    tile_order = draw(st.integers(0, chunk_order))
    tiling = Tiling(2**order, 2**tile_order, 2**chunk_order)
    layout = Layout.of(tiling, 3 * tiling.nside - 1)
    height = draw(st.one_of(st.just(layout.height), st.integers(2, 4 * tiling.nside + 1)))
    return replace(layout, height=height)


def ring_map(nested):
    return healpy.reorder(nested, n2r=True)


@settings(max_examples=40, deadline=None)
@given(layouts(), st.sampled_from([np.float32, np.uint8, np.float64]))
def test_bands_are_the_rows_of_the_map(layout, kind):
    nested = np.random.default_rng(layout.tiling.nside).integers(0, 250, layout.tiling.npix).astype(kind)
    reads = []

    def read(first, stop):
        reads.append((first, stop))
        return nested[first:stop]

    bands = [gather(read, layout, band) for band in range(layout.n_bands)]
    assert all(band.dtype == kind for band in bands)
    np.testing.assert_array_equal(np.concatenate(bands), ring_map(nested))
    for band in range(layout.n_bands):
        first, stop = layout.pixels(band)
        assert bands[band].size == stop - first
    # Whole chunks are read, all of them, and no chunk twice by one band.
    size = layout.tiling.chunk_npix
    assert {first // size for first, _ in reads} == set(range(layout.tiling.npix // size))
    assert all(first % size == 0 and stop - first == size for first, stop in reads)
    assert len(reads) == sum(
        len(squares_in(layout.tiling.nside, layout.tiling.chunk_nside, layout.rows(band)))
        for band in range(layout.n_bands)
    )


@settings(max_examples=40, deadline=None)
@given(layouts())
def test_tiles_come_back_from_bands(layout):
    tiling = layout.tiling
    nested = np.random.default_rng(tiling.nside).normal(size=tiling.npix)
    pieces: dict[int, list] = {tile: [] for tile in range(tiling.n_tiles)}
    for band in range(layout.n_bands):
        pixels = gather(lambda first, stop: nested[first:stop], layout, band)
        met = []
        for tile, piece in scatter(pixels, layout, band):
            met.append(tile)
            pieces[tile].append(piece)
        # Whoever reads a piece finds it at the place of its tile in this list.
        assert met == squares_in(tiling.nside, tiling.tile_nside, layout.rows(band)).tolist()
    for tile, parts in pieces.items():
        found = from_ring_order(np.concatenate(parts))
        np.testing.assert_array_equal(found, nested[tile * tiling.tile_npix : (tile + 1) * tiling.tile_npix])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.data())
def test_squares_in_rows_are_those_whose_pixels_are_there(order, data):
    nside = 2**order
    square_nside = 2 ** data.draw(st.integers(0, order))
    first = data.draw(st.integers(0, 4 * nside - 2))
    stop = data.draw(st.integers(first + 1, 4 * nside - 1))
    row_of = healpy.pix2ring(nside, np.arange(12 * nside**2), nest=True) - 1
    inside = np.flatnonzero((row_of >= first) & (row_of < stop))
    expected = np.unique(inside // (nside // square_nside) ** 2)
    np.testing.assert_array_equal(squares_in(nside, square_nside, (first, stop)), expected)


@pytest.mark.parametrize("side", [1, 2, 8, 64])
def test_ring_order_is_undone(side):
    values = np.random.default_rng(side).normal(size=side * side)
    tiling = Tiling(side, 1, 1)
    layout = Layout.of(tiling, 0)
    whole = replace(layout, height=4 * side)
    assert whole.n_bands == 1
    nested = np.tile(values, 12)
    piece = dict(scatter(gather(lambda first, stop: nested[first:stop], whole, 0), whole, 0))[7]
    assert piece.size == values.size
    np.testing.assert_array_equal(from_ring_order(piece), values)
    if side > 1:
        assert not np.array_equal(piece, values)


@pytest.mark.parametrize("row", [0, 1, 5000, 16382, 16383, 16384, 32767, 40000, 49150, 49151, 60000, 65534])
def test_squares_in_a_row_of_the_largest_grid(row):
    """The rows of the caps come from a square root, which must not be off by one."""
    nside = 16384
    first, length = (int(part[0]) for part in healpy.ringinfo(nside, np.array([row + 1]))[:2])
    pixels = healpy.ring2nest(nside, np.arange(first, first + length))
    expected = np.unique(pixels // (nside // 512) ** 2)
    np.testing.assert_array_equal(squares_in(nside, 512, (row, row + 1)), expected)
