"""The layout of a transform: every row and every order once, what is left out is nothing, and it fits the memory."""

from __future__ import annotations

from dataclasses import replace

import healpy
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking import errors
from skymill.chunking.tiling import Tiling
from skymill.engine.rings import Layout, largest_task, rings_of


@st.composite
def layouts(draw):
    order = draw(st.integers(0, 10))
    chunk_order = draw(st.integers(0, order))
    tiling = Tiling(2**order, 1, 2**chunk_order)
    layout = Layout.of(tiling, draw(st.integers(0, 3 * tiling.nside - 1)), draw(st.sampled_from(["single", "double"])))
    for _ in range(draw(st.integers(0, 3))):
        layout = layout.lower() or layout
    return layout


@settings(max_examples=40, deadline=None)
@given(layouts())
def test_every_row_pixel_and_order_is_there_once(layout):
    rows = [layout.rows(band) for band in range(layout.n_bands)]
    assert [row for first, stop in rows for row in range(first, stop)] == list(range(layout.n_rows))
    assert all(first < stop for first, stop in rows)
    assert max(stop - first for first, stop in rows) <= layout.height
    pixels = [layout.pixels(band) for band in range(layout.n_bands)]
    assert pixels[0][0] == 0
    assert pixels[-1][1] == layout.tiling.npix
    assert [stop for _, stop in pixels[:-1]] == [first for first, _ in pixels[1:]]
    orders = [order for block in range(layout.n_blocks) for order in range(*layout.orders(block))]
    assert orders == list(range(layout.lmax + 1))
    for (first, stop), (begin, end) in zip(rows, pixels, strict=True):
        assert end - begin == int(layout.rings.nphi[first:stop].sum())


@settings(max_examples=40, deadline=None)
@given(layouts())
def test_bands_of_half_the_height_take_less_memory_and_change_no_block(layout):
    lower = layout.lower()
    if lower is None:
        assert layout.height == layout.lowest
        return
    assert lower.height == layout.height // 2 >= layout.lowest
    assert (lower.width, lower.lmax, lower.precision) == (layout.width, layout.lmax, layout.precision)
    assert sum(lower.band_memory(1).values()) < sum(layout.band_memory(1).values())


@settings(max_examples=40, deadline=None)
@given(layouts())
def test_pieces_are_the_same_in_bands_of_any_height(layout):
    """What is summed over pieces, in their order, does not depend on how high the bands are."""
    other = replace(layout, height=layout.height * 2)
    cut, uncut = ([piece for band in range(each.n_bands) for piece in each.pieces(band)] for each in (layout, other))
    assert cut == uncut
    assert [row for first, stop in cut for row in range(first, stop)] == list(range(layout.n_rows))


@pytest.mark.parametrize("nside", [1, 2, 4, 64, 512])
def test_rows_are_those_of_healpy(nside):
    rings = rings_of(nside)
    first, length, cosine, sine, shifted = healpy.ringinfo(nside, np.arange(1, 4 * nside))
    np.testing.assert_array_equal(rings.start, first)
    np.testing.assert_array_equal(rings.nphi, length)
    np.testing.assert_allclose(np.cos(rings.theta), cosine, atol=1e-14)
    np.testing.assert_allclose(np.sin(rings.theta), sine, atol=1e-14)
    np.testing.assert_allclose(rings.phi0, np.where(shifted, np.pi / length, 0.0), atol=1e-14)


def test_rows_are_shared_and_cannot_be_changed():
    assert rings_of(32) is rings_of(32)
    with pytest.raises(ValueError, match="read-only"):
        rings_of(32).theta[0] = 0.0


def largest_legendre(lmax, order, theta):
    """Return the log of the largest normalised Legendre function of an order up to lmax, (row,) float64.

    By the recurrence in ell, with the scale kept apart: sin(theta) ** order alone would be zero.
    """
    z = np.cos(theta)
    steps = np.arange(1, order + 1)
    scale = 0.5 * (np.log1p(0.5 / steps).sum() - np.log(4 * np.pi)) + order * np.log(np.sin(theta))
    last, now, largest = np.zeros_like(z), np.ones_like(z), scale.copy()
    for ell in range(order + 1, lmax + 1):
        a = np.sqrt((4.0 * ell**2 - 1) / (ell**2 - order**2))
        b = np.sqrt(((ell - 1.0) ** 2 - order**2) / (4.0 * (ell - 1.0) ** 2 - 1)) if ell > order + 1 else 0.0
        last, now = now, a * (z * now - b * last)
        largest = np.maximum(largest, scale + np.log(np.abs(now) + 1e-300))
        high = np.abs(now) > 1e100
        last, now = (np.where(high, part * 1e-100, part) for part in (last, now))
        scale = np.where(high, scale + 100 * np.log(10), scale)
    return largest


def test_the_oracle_is_right():
    theta = np.array([0.3, 1.1, 2.0])
    known = np.abs([scipy.special.sph_legendre_p(ell, 7, theta)[0] for ell in range(7, 31)]).max(axis=0)
    np.testing.assert_allclose(np.exp(largest_legendre(30, 7, theta)), known, rtol=1e-10)


@pytest.mark.parametrize(
    ("nside", "lmax", "orders"),
    [(256, 256, range(100, 257, 12)), (256, 767, range(100, 768, 60)), (1024, 2048, range(100, 2049, 150)),
     (16384, 32768, (3000, 20000, 32000))],
)  # fmt: skip
def test_orders_that_are_left_out_are_nothing(nside, lmax, orders):
    """Beside functions at the equator, which are about 1, they are below the last digit of double precision."""
    layout = replace(Layout.of(Tiling(nside), lmax), width=8)
    layout = replace(layout, height=max(16, layout.height // 8))
    seen = 0
    for order in orders:
        rows = [row for band in range(layout.n_bands) if order // layout.width >= layout.stored_blocks(band)
                for row in range(*layout.rows(band))]  # fmt: skip
        if rows:
            seen += len(rows)
            nearest_to_the_equator = np.sin(layout.rings.theta[rows]).argsort()[-20:]
            theta = layout.rings.theta[np.array(rows)[nearest_to_the_equator]]
            assert largest_legendre(lmax, order, theta).max() < np.log(1e-16)
    assert seen > 100


def test_every_order_is_kept_near_the_equator_and_few_near_the_poles():
    layout = Layout.of(Tiling(4096), 8192)
    kept = [layout.stored_blocks(band) for band in range(layout.n_bands)]
    assert kept[layout.n_bands // 2] == layout.n_blocks
    assert kept == kept[::-1]
    assert kept[0] < layout.n_blocks / 4
    assert kept[: layout.n_bands // 2] == sorted(kept[: layout.n_bands // 2])


@pytest.mark.parametrize("lmax", [-1, 192, 1000])
def test_an_lmax_that_the_grid_does_not_hold(lmax):
    with pytest.raises(errors.InputError, match=rf"`lmax` {lmax} came; a map of nside 64 holds .* 191.*2 nside = 128"):
        Layout.of(Tiling(64), lmax)


def test_an_unknown_precision():
    with pytest.raises(errors.InputError, match="did you mean 'single'"):
        Layout.of(Tiling(64), 64, "singel")


def test_single_precision_takes_half_the_space():
    single, double = (Layout.of(Tiling(64), 128, precision) for precision in ("single", "double"))
    assert 2 * single.scratch_bytes(3) == double.scratch_bytes(3)
    assert single.scratch_bytes(2) == 2 * single.scratch_bytes(1)
    # Never more than all coefficients there are, and less for those left out.
    assert single.scratch_bytes(1) <= single.n_rows * (single.lmax + 1) * 8
    assert Layout.of(Tiling(4096), 8192).scratch_bytes(1) < 0.95 * (4 * 4096 - 1) * 8193 * 8


def test_the_largest_task_is_found():
    assert largest_task({"a": 3, "b": 4}, {"c": 8}, {"d": 1}) == {"c": 8}
