"""The grid against healpy and healpix-geo, at every nside to 2**29."""

import itertools
import math

import healpix_geo.nested
import healpy as hp
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import BarycentricMeanEcliptic, SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skymill.chunking import geometry, sphere
from skymill.chunking.errors import FrameError, InputError
from skymill.chunking.tiling import MAX_ORDER, Tiling

exact = settings(max_examples=40, deadline=None)
orders = st.integers(0, MAX_ORDER)


@st.composite
def grids_with_pixels(draw):
    nside = 2 ** draw(orders)
    npix = 12 * nside**2
    shape = draw(st.sampled_from([(5,), (), (2, 3)]))
    edges = st.sampled_from([0, 1, nside**2 - 1, min(nside**2, npix - 1), npix - 1])
    numbers = draw(arrays(np.int64, shape, elements=st.one_of(st.integers(0, npix - 1), edges)))
    return Tiling(nside), numbers


@st.composite
def tilings(draw, largest=MAX_ORDER):
    order = draw(st.integers(0, largest))
    chunk = draw(st.integers(0, order))
    tile = draw(st.integers(0, chunk))
    return Tiling(2**order, 2**tile, 2**chunk)


@exact
@given(tilings())
def test_the_numbers_of_a_grid_are_exact(grid):
    assert grid.npix == 12 * grid.nside**2 == grid.n_tiles * grid.tile_npix == grid.n_chunks * grid.chunk_npix
    assert grid.nside == 2**grid.order
    assert grid.tile_npix % grid.chunk_npix == 0
    assert grid.pixel_area * grid.npix == pytest.approx(4 * math.pi, rel=1e-15)
    assert grid.tile_area == pytest.approx(grid.pixel_area * grid.tile_npix, rel=1e-15)


@pytest.mark.parametrize(
    ("nside", "tile_npix", "chunk_npix"),
    [(1, 1, 1), (64, 64**2, 64**2), (1024, 4**10, 4**9), (8192, 4**10, 4**9), (16384, 4**11, 4**9)],
)
def test_default_tiles_and_chunks(nside, tile_npix, chunk_npix):
    grid = Tiling(nside)
    assert (grid.tile_npix, grid.chunk_npix) == (tile_npix, chunk_npix)
    assert Tiling(grid.nside, grid.tile_nside, grid.chunk_nside) == grid


@exact
@given(grids_with_pixels())
def test_centres_and_numbers_agree_with_healpy_at_every_nside(case):
    grid, pixels = case
    lon, lat = grid.lonlat(pixels)
    assert lon.dtype == lat.dtype == np.float64
    assert lon.shape == lat.shape == pixels.shape
    theirs_lon, theirs_lat = hp.pix2ang(grid.nside, pixels, nest=True, lonlat=True)
    np.testing.assert_allclose(lat, theirs_lat, rtol=0, atol=3e-14)
    np.testing.assert_allclose(lon, theirs_lon, rtol=0, atol=2e-13)
    back = grid.from_lonlat(lon, lat)
    assert back.dtype == np.int64
    np.testing.assert_array_equal(back, pixels)
    np.testing.assert_array_equal(grid.from_lonlat(lon - 360.0, lat), pixels)


@exact
@given(grids_with_pixels())
def test_ring_and_nested_agree_with_healpy_and_healpix_geo(case):
    grid, pixels = case
    ring = grid.to_ring(pixels)
    assert ring.dtype == np.int64
    assert ring.shape == pixels.shape
    np.testing.assert_array_equal(ring, hp.nest2ring(grid.nside, pixels))
    if grid.order:  # healpix-geo refuses depth 0
        theirs = healpix_geo.nested.to_ring(pixels.reshape(-1).astype(np.uint64), grid.order)
        np.testing.assert_array_equal(ring.reshape(-1), theirs.astype(np.int64))
    np.testing.assert_array_equal(grid.from_ring(ring), pixels)


@exact
@given(orders, st.floats(-720, 720), st.floats(-90, 90))
def test_positions_fall_into_the_pixel_that_healpix_geo_names(order, lon, lat):
    grid = Tiling(2**order)
    ours = int(grid.from_lonlat(lon, lat))
    theirs = int(healpix_geo.nested.lonlat_to_healpix(lon % 360, lat, order, "sphere")[0])
    if ours != theirs:  # only a position on the very edge of two pixels may be told apart by rounding
        near = set(hp.get_all_neighbours(grid.nside, ours, nest=True).tolist())
        assert theirs in near
        nudged = [
            int(grid.from_lonlat(lon + dx * 1e-9, np.clip(lat + dy * 1e-9, -90, 90)))
            for dx, dy in itertools.product((-1, 1), repeat=2)
        ]
        assert theirs in nudged or order > 24 or abs(lat) > 89.999


@exact
@given(tilings(), st.data())
def test_tiles_and_chunks_hold_their_pixels(grid, data):
    tile = data.draw(st.integers(0, grid.n_tiles - 1))
    window = grid.tile_slice(tile)
    assert isinstance(window.start, int)
    assert window.stop - window.start == grid.tile_npix
    ends = np.array([window.start, window.stop - 1])
    np.testing.assert_array_equal(grid.tile_of(ends), tile)
    first, last = grid.chunk_of(ends)
    assert last - first + 1 == grid.tile_npix // grid.chunk_npix
    assert first == window.start // grid.chunk_npix
    assert grid.tile_slice(np.int32(tile % 1000 % grid.n_tiles)).stop <= grid.npix
    if grid.tile_npix <= 4**6:
        pixels = grid.pixels(tile)
        assert pixels.dtype == np.int64
        np.testing.assert_array_equal(pixels, np.arange(window.start, window.stop))


def test_small_integers_do_not_overflow():
    assert Tiling(16384).tile_slice(np.int32(767)).stop == 3221225472
    np.testing.assert_array_equal(Tiling(16384).tile_of(np.array([2**31 - 1], dtype=np.int32)), [511])
    assert Tiling(8).to_ring(np.array([5], dtype=np.uint8)).dtype == np.int64


@exact
@given(st.integers(0, 12), st.data())
def test_neighbours_agree_with_healpy(order, data):
    grid = Tiling(2**order, tile_nside=2**order)
    tile = data.draw(st.integers(0, grid.n_tiles - 1))
    around = grid.neighbours(tile)
    assert around.dtype == np.int64
    np.testing.assert_array_equal(around, hp.get_all_neighbours(2**order, tile, nest=True))


def test_24_tiles_have_only_seven_neighbours():
    grid = Tiling(64, tile_nside=8)
    missing = sum(int((grid.neighbours(tile) == -1).sum()) for tile in range(grid.n_tiles))
    assert missing == 24  # three at each of the 8 corners where three base pixels meet


def brute_halo(grid, tile, width):
    inside = set(grid.pixels(tile).tolist())
    reached = set(inside)
    for _ in range(width):
        steps = hp.get_all_neighbours(grid.nside, np.array(sorted(reached)), nest=True)
        reached |= set(steps[steps >= 0].tolist())
    return np.array(sorted(reached - inside), dtype=np.int64)


@pytest.mark.parametrize("tile_nside", [1, 2, 4])
@pytest.mark.parametrize("width", [0, 1, 3, 5])
def test_halo_of_every_tile_is_what_walking_with_healpy_reaches(tile_nside, width):
    grid = Tiling(16, tile_nside=tile_nside)
    for tile in range(grid.n_tiles):
        halo = grid.halo(tile, width)
        assert halo.dtype == np.int64
        np.testing.assert_array_equal(halo, brute_halo(grid, tile, width))


def test_halo_of_one_pixel_tiles_and_of_the_whole_sky():
    grid = Tiling(4, tile_nside=4)
    np.testing.assert_array_equal(grid.halo(7, 2), brute_halo(grid, 7, 2))
    np.testing.assert_array_equal(Tiling(2, tile_nside=1).halo(3, 99), np.setdiff1d(np.arange(48), range(12, 16)))


def test_halo_inside_a_base_pixel_is_a_frame_at_any_nside():
    grid = Tiling(2**29, tile_nside=2**21)
    inner = 5 * 4**21 + int(geometry.morton(4)[1, 2]) * 4**19  # far from the edges of base pixel 5
    halo = grid.halo(inner, 3)
    assert halo.size == (256 + 6) ** 2 - 256**2
    x, y, face = geometry._base(2**29, "NEST").pix2xyf(halo).T
    assert np.unique(face).tolist() == [5]
    corner = geometry._base(2**29, "NEST").pix2xyf(np.array([inner * 4**8]))[0]
    assert x.min() == corner[0] - 3
    assert y.max() == corner[1] + 256 + 2


@pytest.mark.parametrize("side", [1, 2, 8, 64])
def test_the_square_order_inside_a_tile_is_healpix(side):
    grid = geometry.morton(side)
    y, x = np.mgrid[:side, :side]
    expected = hp.xyf2pix(side, x.ravel(), y.ravel(), 0, nest=True)
    np.testing.assert_array_equal(grid.ravel(), expected)
    assert not grid.flags.writeable
    edge = (x == 0) | (y == 0) | (x == side - 1) | (y == side - 1)
    np.testing.assert_array_equal(geometry.rim(side), np.sort(grid[edge]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g: g.tile_of([-1]), ["-1", "0 to 3071", "pixels"]),
        (lambda g: g.lonlat([5, 3072, 9999]), ["3072", "2 of 3", "0 to 3071"]),
        (lambda g: g.to_ring([1.0]), ["float64", "int64"]),
        (lambda g: g.from_ring([True]), ["bool"]),
        (lambda g: g.chunk_of(np.array([2**63], dtype=np.uint64)), [str(2**63)]),
        (lambda g: g.tile_slice(48), ["48", "0 to 47"]),
        (lambda g: g.pixels(-1), ["-1", "0 to 47"]),
        (lambda g: g.pixels(1.0), ["1.0", "float"]),
        (lambda g: g.neighbours(True), ["True", "bool"]),
        (lambda g: g.halo(99, 1), ["99"]),
        (lambda g: g.halo(1, -2), ["-2", "width"]),
        (lambda g: g.halo(1, 1.5), ["1.5", "width"]),
        (lambda g: g.from_lonlat([0.0, np.nan], 0.0), ["lon", "NaN"]),
        (lambda g: g.from_lonlat(0.0, np.inf), ["lat"]),
        (lambda g: g.from_lonlat(10.0, [20.0, 100.0]), ["100", "-90 to 90", "exchanged"]),
        (lambda g: Tiling(12), ["nside", "12", "power of two"]),
        (lambda g: Tiling(2**30), ["2**29"]),
        (lambda g: Tiling(64.0), ["64.0", "float"]),
        (lambda g: Tiling(64, tile_nside=128), ["tile_nside", "128", "64"]),
        (lambda g: Tiling(64, tile_nside=8, chunk_nside=4), ["chunk_nside"]),
    ],
)
def test_bad_input_names_what_came_and_what_is_expected(call, words):
    with pytest.raises(InputError) as error:
        call(Tiling(16, tile_nside=2))
    for word in words:
        assert word in str(error.value)


def test_nothing_gives_nothing():
    grid = Tiling(16)
    assert grid.tile_of([]).size == 0
    assert grid.from_lonlat([], []).dtype == np.int64
    assert grid.lonlat(np.empty(0, np.int64))[0].shape == (0,)


def test_blocks_do_not_show(monkeypatch):
    grid = Tiling(32)
    pixels = np.arange(grid.npix)
    whole = grid.lonlat(pixels)
    monkeypatch.setattr(geometry, "BLOCK", 1000)
    for ours, theirs in zip(grid.lonlat(pixels), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(grid.from_lonlat(*whole), pixels)


NAMES = {"galactic": "galactic", "icrs": "icrs", "ecliptic": BarycentricMeanEcliptic()}


@pytest.mark.parametrize(("source", "target"), list(itertools.product(NAMES, repeat=2)))
def test_frames_turn_as_astropy_turns_them(source, target):
    random = np.random.default_rng(1)
    lon, lat = random.uniform(0, 360, 200), np.degrees(np.arcsin(random.uniform(-1, 1, 200)))
    ours = sphere.rotate(lon, lat, source, target)
    theirs = SkyCoord(lon * u.deg, lat * u.deg, frame=NAMES[source]).transform_to(NAMES[target])
    here = SkyCoord(*ours, unit="deg", frame=NAMES[target])
    assert here.separation(theirs).max().to_value("mas") < 1e-3
    np.testing.assert_allclose(sphere.rotate(*ours, target, source)[1], lat, atol=1e-12)
    assert sphere.rotation(source, target) @ sphere.rotation(source, target).T == pytest.approx(np.eye(3))


def test_unknown_frame_lists_the_known():
    with pytest.raises(FrameError, match="galactic"):
        sphere.rotation("galaktic", "icrs")
