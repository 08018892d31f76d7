"""Cones, boxes and polygons: exactly the pixels inside, against brute force, healpy and analytic areas."""

import math
import tracemalloc

import healpy as hp
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking import sphere
from skymill.chunking.errors import FrameError, InputError
from skymill.chunking.regions import Box, Cone, Polygon
from skymill.chunking.tiling import Tiling

short = settings(max_examples=40, deadline=None)
lons = st.floats(-400, 400)
lats = st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, 0.0, 90.0]))


@st.composite
def cones(draw):
    return Cone(draw(lons), draw(lats), draw(st.one_of(st.floats(0, 180), st.floats(0, 5))))


@st.composite
def boxes(draw):
    south, north = sorted((draw(lats), draw(lats)))
    west = draw(lons)
    return Box((west, west + draw(st.floats(0.1, 400))), (south, north))


@st.composite
def polygons(draw):
    """A star around a centre: any number of corners, concave, anywhere on the sky."""
    lon, lat = draw(lons), draw(lats)
    count = draw(st.integers(3, 8))
    radii = draw(st.lists(st.floats(0.5, 60), min_size=count, max_size=count))
    azimuths = 2 * np.pi * (np.arange(count) + draw(st.floats(0, 1))) / count
    centre = sphere.lonlat_to_vector(lon, lat)
    east = np.array([-np.sin(np.radians(lon)), np.cos(np.radians(lon)), 0.0])
    north = np.cross(centre, east)
    rays = np.outer(np.cos(azimuths), east) + np.outer(np.sin(azimuths), north)
    rho = np.radians(radii)[:, np.newaxis]
    corners = sphere.vector_to_lonlat(np.cos(rho) * centre + np.sin(rho) * rays)
    return Polygon(tuple(zip(*corners, strict=True)))


@short
@given(st.one_of(cones(), boxes(), polygons()), st.integers(0, 5), st.sampled_from(["galactic", "icrs", "ecliptic"]))
def test_going_down_the_hierarchy_finds_what_testing_every_pixel_finds(region, order, frame):
    grid = Tiling(2**order, tile_nside=2 ** (order // 2))
    every = np.arange(grid.npix)
    for stated in (None, "galactic"):
        asked = type(region)(**{**{n: getattr(region, n) for n in region.__match_args__[:-1]}, "frame": stated})
        pixels = asked.pixels(grid, frame)
        assert pixels.dtype == np.int64
        inside = asked.contains(*grid.lonlat(every), frame)
        expected = every[inside]
        if not np.array_equal(pixels, expected):  # only centres on the edge, to rounding, may be told apart
            odd = np.setxor1d(pixels, expected)
            here = sphere.lonlat_to_vector(*grid.lonlat(odd)) @ asked._turn(frame).T
            assert np.abs(asked._depth(here)).max() < 1e-12
        np.testing.assert_array_equal(asked.tiles(grid, frame), np.unique(grid.tile_of(pixels)))
        ranges = asked.ranges(grid, frame)
        assert np.all(ranges[1:, 0] > ranges[:-1, 1])
        assert int((ranges[:, 1] - ranges[:, 0]).sum()) == pixels.size


@short
@given(lons, lats, st.floats(0.01, 170), st.integers(2, 6))
def test_cones_agree_with_healpy(lon, lat, radius, order):
    nside = 2**order
    ours = Cone(lon, lat, radius).pixels(Tiling(nside))
    centre = hp.ang2vec(lon, lat, lonlat=True)
    apart = np.degrees(hp.rotator.angdist(centre, np.array(hp.pix2vec(nside, np.arange(12 * nside**2), nest=True))))
    odd = np.setxor1d(ours, np.flatnonzero(apart <= radius))
    np.testing.assert_allclose(apart[odd], radius, atol=1e-9)
    if radius < 90:  # wider discs come back from query_disc with some pixels missing on the far side
        odd = np.setxor1d(ours, hp.query_disc(nside, centre, math.radians(radius), nest=True))
        np.testing.assert_allclose(apart[odd], radius, atol=1e-9)


def test_convex_polygons_agree_with_healpy():
    random = np.random.default_rng(3)
    for _ in range(20):
        lon, lat = random.uniform(0, 360), np.degrees(np.arcsin(random.uniform(-1, 1)))
        azimuths = np.sort(random.uniform(0, 2 * np.pi, 5))
        if np.diff(azimuths, append=azimuths[0] + 2 * np.pi).max() > 3.0:
            continue
        centre = sphere.lonlat_to_vector(lon, lat)
        east = np.array([-np.sin(np.radians(lon)), np.cos(np.radians(lon)), 0.0])
        rays = np.outer(np.cos(azimuths), east) + np.outer(np.sin(azimuths), np.cross(centre, east))
        corners = np.cos(0.4) * centre + np.sin(0.4) * rays  # on a small circle: convex
        ours = Polygon(tuple(zip(*sphere.vector_to_lonlat(corners), strict=True))).pixels(Tiling(64))
        np.testing.assert_array_equal(ours, np.sort(hp.query_polygon(64, corners, nest=True)))


def area(region, nside=512):
    return region.pixels(Tiling(nside)).size * Tiling(nside).pixel_area


@pytest.mark.parametrize("centre", [(0.0, 0.0), (123.0, 90.0), (300.0, -40.0)])
@pytest.mark.parametrize("radius", [5.0, 60.0, 120.0, 180.0])
def test_the_area_of_a_cone_is_analytic(centre, radius):
    # Around a pole whole rings of pixels come and go together.
    ring = 2 * np.pi * np.sin(np.radians(radius)) * 0.6 * np.sqrt(Tiling(512).pixel_area)
    expected = 2 * np.pi * (1 - np.cos(np.radians(radius)))
    assert area(Cone(*centre, radius)) == pytest.approx(expected, abs=max(ring, 1e-12))


@pytest.mark.parametrize("lon", [(0.0, 360.0), (-180.0, 180.0), (350.0, 10.0), (10.0, 350.0), (350.0, 370.0)])
@pytest.mark.parametrize("lat", [(-90.0, 90.0), (-10.0, 25.0), (60.0, 90.0), (-90.0, -60.0)])
def test_the_area_of_a_box_is_analytic(lon, lat):
    width = {(350.0, 10.0): 20.0, (10.0, 350.0): 340.0, (350.0, 370.0): 20.0}.get(lon, 360.0)
    south, north = np.sin(np.radians(lat))
    box = Box(lon, lat)
    assert box.width == width
    assert area(box) == pytest.approx(np.radians(width) * (north - south), rel=3e-3)


def test_the_area_of_an_octant_is_analytic_and_neighbours_share_only_the_edge():
    octant = Polygon([(0.0, 0.0), (90.0, 0.0), (0.0, 90.0)])
    assert area(octant) == pytest.approx(np.pi / 2, rel=3e-3)
    assert (
        octant.pixels(Tiling(64)).tolist()
        == Polygon([(0.0, 90.0), (90.0, 0.0), (0.0, 0.0)]).pixels(Tiling(64)).tolist()
    )
    next_octant = Polygon([(90.0, 0.0), (180.0, 0.0), (0.0, 90.0)])
    both = np.intersect1d(octant.pixels(Tiling(64)), next_octant.pixels(Tiling(64)))
    np.testing.assert_allclose(Tiling(64).lonlat(both)[0], 90.0, atol=1e-10)


def test_a_concave_polygon_leaves_its_notch_out():
    arrow = Polygon([(-10.0, -10.0), (10.0, 0.0), (-10.0, 10.0), (-2.0, 0.0)])
    assert arrow.contains([0.0, -5.0, -8.0], [0.0, 0.0, 8.0]).tolist() == [True, False, True]


def test_the_edge_belongs_to_the_region():
    assert Cone(10.0, 20.0, 0.0).contains(10.0, 20.0)
    assert Cone(0.0, 0.0, 30.0).contains([30.0, 330.0, 0.0], [0.0, 0.0, 30.0]).all()
    assert Box((45.0, 90.0), (0.0, 10.0)).contains([45.0, 90.0, 50.0], [5.0, 5.0, 0.0]).all()
    four = Tiling(1).npix - Box((0.0, 360.0), (0.0, 90.0)).pixels(Tiling(1)).size
    assert four == 4
    np.testing.assert_array_equal(Box((45.0, 135.0), (0.0, 90.0)).pixels(Tiling(1)), [0, 1, 5])


def test_small_regions_cost_little_at_the_finest_nside():
    grid = Tiling(2**29)
    lon, lat = grid.lonlat([3**36])
    tracemalloc.start()
    pixels = Cone(float(lon[0]), float(lat[0]), 1e-6).pixels(grid)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
    assert 3**36 in pixels
    assert pixels.size * grid.pixel_area == pytest.approx(np.pi * np.radians(1e-6) ** 2, rel=0.05)


def test_half_the_sky_at_high_nside_is_a_short_list_of_ranges():
    grid = Tiling(4096)
    ranges = Cone(30.0, 40.0, 90.0).ranges(grid)
    assert len(ranges) < 30 * grid.nside
    assert int((ranges[:, 1] - ranges[:, 0]).sum()) == pytest.approx(grid.npix / 2, rel=1e-5)
    assert Cone(30.0, 40.0, 180.0).ranges(grid).tolist() == [[0, grid.npix]]


def test_a_region_in_another_frame_is_where_astropy_puts_it():
    orion = SkyCoord(83.8 * u.deg, -5.4 * u.deg, frame="icrs")
    ours = Cone(83.8, -5.4, 5.0, frame="icrs").pixels(Tiling(64), frame="galactic")
    there = Cone(orion.galactic.l.deg, orion.galactic.b.deg, 5.0).pixels(Tiling(64))
    np.testing.assert_array_equal(ours, there)
    assert not np.array_equal(ours, Cone(83.8, -5.4, 5.0, frame="icrs").pixels(Tiling(64), frame="ecliptic"))
    strip = Box((0.0, 360.0), (-5.0, 5.0), frame="galactic").pixels(Tiling(32), frame="icrs")
    lon, lat = Tiling(32).lonlat(strip)
    assert np.abs(SkyCoord(lon, lat, unit="deg", frame="icrs").galactic.b.deg).max() <= 5.0


def test_frames_are_never_guessed():
    with pytest.raises(FrameError, match="frame"):
        Cone(0.0, 0.0, 1.0, frame="icrs").pixels(Tiling(4))
    with pytest.raises(FrameError, match="galactic"):
        Cone(0.0, 0.0, 1.0, frame="fk4")
    with pytest.raises(FrameError):
        Cone(0.0, 0.0, 1.0).pixels(Tiling(4), frame="equatorial")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Cone(0.0, 91.0, 1.0), ["lat", "91", "exchanged"]),
        (lambda: Cone(0.0, 0.0, -1.0), ["radius", "-1"]),
        (lambda: Cone(0.0, 0.0, 181.0), ["181", "180"]),
        (lambda: Cone(float("nan"), 0.0, 1.0), ["lon", "finite"]),
        (lambda: Cone("ten", 0.0, 1.0), ["lon", "ten"]),
        (lambda: Box((0.0, 10.0), (5.0, -5.0)), ["lat", "smaller"]),
        (lambda: Box((10.0, 10.0), (-5.0, 5.0)), ["lon", "(0, 360)"]),
        (lambda: Box(10.0, (-5.0, 5.0)), ["lon", "pair"]),
        (lambda: Box((0.0, 10.0), (-5.0, 95.0)), ["95"]),
        (lambda: Polygon([(0.0, 0.0), (1.0, 0.0)]), ["2", "three"]),
        (lambda: Polygon([(0.0, 0.0), (1.0, 0.0), (1.0, 0.0)]), ["2", "three"]),
        (lambda: Polygon([0.0, 1.0, 2.0]), ["(3,)", "pairs"]),
        (lambda: Polygon([(0.0, 0.0), (1.0,)]), ["pairs"]),
        (lambda: Polygon([(0.0, 0.0), (10.0, 10.0), (10.0, 0.0), (0.0, 10.0)]), ["cross"]),
        (lambda: Polygon([(0.0, 0.0), (120.0, 0.0), (240.0, 0.0)]), ["hemisphere"]),
    ],
)
def test_bad_regions_name_what_came_and_what_is_expected(make, words):
    with pytest.raises(InputError) as error:
        make()
    for word in words:
        assert word in str(error.value)


def test_regions_are_values():
    assert Cone(1, 2, 3) == Cone(1.0, 2.0, 3.0)
    assert hash(Box([0, 10], [0, 5])) == hash(Box((0.0, 10.0), (0.0, 5.0)))
    assert Polygon([(0, 0), (1, 0), (0, 1)]) == Polygon(np.array([[0, 0], [1, 0], [0, 1]]))
    assert "frame='icrs'" in repr(Cone(1, 2, 3, frame="icrs"))
