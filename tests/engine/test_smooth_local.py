"""Smoothing in pixel space, held against sums over all pairs in float64, against healpy, and against itself."""

from __future__ import annotations

import math
import pickle
import tracemalloc

import healpy as hp
import numpy as np
import pytest
import scipy.fft  # noqa: F401 - else the first smoothing loads it, and the memory of that is measured too
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking import geometry
from skymill.chunking import store as stores
from skymill.chunking.errors import InputError
from skymill.chunking.schema import MapInfo
from skymill.chunking.tiling import Tiling
from skymill.engine import smooth_local as local
from skymill.engine.mapping import map_plan
from skymill.engine.smooth_blocks import Smoother, halo_width
from skymill.engine.smooth_plane import panel, plane_pixels, read_plane, tile_corner
from skymill.engine.smooth_stencil import REACH, full_weight, standard_deviation

CORNERS = [[x * 5**0.5 / 3, y * 5**0.5 / 3, z / 1.5] for x, y in ((1, 0), (0, 1), (-1, 0), (0, -1)) for z in (-1, 1)]


def gaussian(angle, sigma):
    safe = np.where(angle > 0, angle, 1.0)
    return np.sqrt(np.where(angle > 0, safe / np.sin(safe), 1.0)) * np.exp(-0.5 * (angle / sigma) ** 2)


def brute(vectors, values, weights, places, fwhm):
    """Sum over all pixels in reach, in float64, with angles from arcsines."""
    sigma = standard_deviation(fwhm)
    used = np.isfinite(values) & (weights > 0)
    there, known, heavy = vectors[used], values[used], weights[used]
    made = np.full(len(places), np.nan)
    for number, place in enumerate(places):
        if np.isfinite(values[place]):
            near = np.flatnonzero(there @ vectors[place] > math.cos(REACH * sigma) - 1e-3)
            angle = 2 * np.arcsin(0.5 * np.sqrt(((there[near] - vectors[place]) ** 2).sum(axis=1)))
            near, angle = near[angle <= REACH * sigma], angle[angle <= REACH * sigma]
            weight = gaussian(angle, sigma) * heavy[near]
            if weight.size:
                made[number] = (weight * known[near]).sum() / weight.sum()
    return made


def smooth_sky(values, tiling, fwhm, weights=None, least_weight=0.0, tiles=None):
    """Smooth a whole sky from memory; also return how many pixels were smoothed by stencils and directly."""
    halo = halo_width(tiling.nside, fwhm)
    made, counts = np.full(values.size, np.nan, np.float32), np.zeros(2, int)
    for tile in range(tiling.n_tiles) if tiles is None else tiles:
        window = tiling.tile_slice(tile)
        planes = [
            None if sky is None else read_plane(lambda a, b, s=sky: s[a:b], tiling, tile, halo, sky[window])
            for sky in (values, weights)
        ]
        smoother = Smoother(tiling, tile, fwhm, [planes[0]], planes[1], least_weight)
        made[window] = smoother.run()[0]
        counts += smoother.counts
    return made, counts


def noisy_sky(nside, seed=0):
    """Noise with single missing pixels and a hole; weights with zeros."""
    random = np.random.default_rng(seed)
    values = random.normal(size=12 * nside**2).astype(np.float32)
    values[random.random(values.size) < 0.1] = np.nan
    values[: nside**2 // 3] = np.nan
    weights = random.random(values.size).astype(np.float32)
    weights[weights < 0.2] = 0
    return values, weights


def make_store(path, nside, maps, **masks):
    where = str(path)
    stores.create(where, nside, frame="galactic", tile_nside=2)
    infos = [MapInfo(name, "intensity", "MJy/sr") for name in maps]
    infos += [
        MapInfo(name, "mask" if sky.dtype == np.uint8 else "weight", "1", dtype=str(sky.dtype))
        for name, sky in masks.items()
    ]
    stores.create_maps(where, infos)
    for name, sky in {**maps, **masks}.items():
        for tile, cells in enumerate(sky.reshape(48, -1)):
            stores.write_tile(where, name, tile, cells)
    return where


@pytest.mark.parametrize(
    ("nside", "pixels", "tile_nside"), [(32, 2.5, 1), (32, 1.3, 4), (16, 3.1, 1), (64, 6.0, 2), (128, 4.0, 1)]
)
def test_agrees_with_sums_over_all_pairs(nside, pixels, tile_nside):
    values, weights = noisy_sky(nside)
    fwhm = min(pixels * hp.nside2resol(nside), local.LARGEST_FWHM)
    made, counts = smooth_sky(values, Tiling(nside, tile_nside), fwhm, weights)
    assert counts[1] > 0
    assert (counts[0] > 0) == (nside == 128)
    vectors = geometry.pixel_vectors(nside, np.arange(values.size))
    # At random, and where the grid is worst: at the poles and where three base pixels meet.
    worst = [np.argsort(-(vectors @ corner))[:15] for corner in [*CORNERS, [0, 0, 1], [0, 0, -1]]]
    places = np.concatenate([np.random.default_rng(1).integers(0, values.size, 150), *worst])
    expected = brute(vectors, values, weights, places, fwhm)
    np.testing.assert_array_equal(np.isnan(made[places]), np.isnan(expected))
    assert np.isfinite(expected).sum() > 200
    assert np.nanmax(np.abs(made[places] - expected)) < 1e-5


@pytest.mark.parametrize("pixels", [2.8, 12.0, 23.0])
@pytest.mark.parametrize("where", ["belt", "polar", "south", "pole", "transition", "edge of polar", "edge of belt"])
def test_agrees_with_sums_over_all_pairs_at_high_nside(where, pixels):
    nside, tiling = 16384, Tiling(16384, tile_nside=256)
    fwhm = pixels * math.sqrt(tiling.pixel_area)
    # Base pixel, and x and y of the tile in units of tiles, of which there are 256 on a side.
    base, x, y = {
        "belt": (5, 40, 77),
        "polar": (1, 200, 180),
        "south": (10, 31, 99),
        "pole": (3, 255, 255),
        "transition": (0, 100, 155),
        "edge of polar": (2, 255, 130),
        "edge of belt": (7, 0, 99),
    }[where]
    tile = int(base * 256**2 + geometry.morton(256)[y, x])
    assert tile_corner(tiling, tile) == (base, x * 64, y * 64)
    halo = halo_width(nside, fwhm)
    random = np.random.default_rng(0)
    plane = random.normal(size=(64 + 2 * halo,) * 2).astype(np.float32)
    plane[random.random(plane.shape) < 0.1] = np.nan
    axis = np.arange(-halo, 64 + halo)
    pixel = plane_pixels(nside, base, x * 64 + axis, y * 64 + axis)
    plane[pixel < 0] = np.nan
    smoother = Smoother(tiling, tile, fwhm, [plane], None, 0.0)
    made = smoother.run()[0][geometry.morton(64)]
    assert (smoother.counts[0] == 64**2) == (where in ("belt", "polar", "south", "edge of belt"))
    vectors = geometry.pixel_vectors(nside, np.where(pixel < 0, 0, pixel))
    places = random.integers(0, 64, (40, 2))
    flat = np.ravel_multi_index((places + halo).T, plane.shape)
    expected = brute(vectors.reshape(-1, 3), plane.ravel().astype(float), np.ones(plane.size), flat, fwhm)
    got = made[places[:, 0], places[:, 1]]
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    assert np.nanmax(np.abs(got - expected)) < 1e-5


@pytest.mark.parametrize(("pixels", "bound"), [(2.5, 6e-5), (4.0, 2e-5), (8.0, 1e-5)])
def test_agrees_with_the_harmonic_way(pixels, bound):
    nside = 128
    fwhm, ell = pixels * hp.nside2resol(nside), np.arange(3 * nside)
    cl = (
        np.where(ell < 2, 0.0, 1.0 / np.maximum(ell, 1) ** 2)
        * hp.gauss_beam(2.56 * hp.nside2resol(nside), ell[-1]) ** 2
    )
    np.random.seed(1)  # noqa: NPY002 (what healpy draws from)
    alm = hp.synalm(cl)
    sky = hp.reorder(hp.alm2map(alm, nside), r2n=True).astype(np.float32)
    truth = hp.reorder(hp.alm2map(hp.almxfl(alm, hp.gauss_beam(fwhm, ell[-1])), nside), r2n=True)
    made, _ = smooth_sky(sky, Tiling(nside), fwhm)
    error = np.abs(made - truth) / truth.std()
    latitude = np.abs(geometry.pixel_vectors(nside, np.arange(sky.size))[:, 2])
    # Next to the poles HEALPix samples integrate less well.
    assert np.sqrt((error[latitude < 0.9] ** 2).mean()) < bound
    assert error[latitude < 0.9].max() < 30 * bound
    assert np.sqrt((error**2).mean()) < bound + 1e-4
    assert error.max() < 3e-2
    theirs = hp.reorder(hp.smoothing(hp.reorder(sky, n2r=True), fwhm=fwhm, iter=3), r2n=True)
    assert np.sqrt(((made - theirs) ** 2).mean()) / truth.std() < bound + 1e-4


@pytest.mark.parametrize("tile_nside", [1, 2, 8])
def test_a_constant_stays_constant_to_the_edge(tile_nside):
    nside = 128
    values, weights = noisy_sky(nside)
    values[np.isfinite(values)] = 1234.5
    for heavy in (None, weights):
        made, counts = smooth_sky(values, Tiling(nside, tile_nside), 0.04, heavy, tiles=range(tile_nside**2))
        assert counts.min() > 0 or tile_nside == 8
        known = made[np.isfinite(made)]
        assert known.size > 0.5 * nside**2
        np.testing.assert_allclose(known, 1234.5, rtol=1e-6)


def test_tiles_of_any_size_give_the_same():
    nside = 128
    values, weights = noisy_sky(nside)
    first, _ = smooth_sky(values, Tiling(nside, 1), 0.04, weights, tiles=[1])
    window = slice(nside**2, 2 * nside**2)
    for tile_nside in (2, 8, 16):
        tiles = range(tile_nside**2, 2 * tile_nside**2)
        made, _ = smooth_sky(values, Tiling(nside, tile_nside), 0.04, weights, tiles=tiles)
        np.testing.assert_array_equal(np.isnan(made[window]), np.isnan(first[window]))
        assert np.nanmax(np.abs(made[window] - first[window])) < 3e-5


def test_a_value_far_above_the_rest_does_no_harm():
    """The error is of the contrast within reach: beyond it, nothing is left of a source."""
    nside, tiling = 256, Tiling(256, 4)
    values = np.ones(12 * nside**2, np.float32)
    tile = 5
    source = tile * tiling.tile_npix + tiling.tile_npix // 2
    values[source] = 1e6
    fwhm = 4 * math.sqrt(tiling.pixel_area)
    made, _ = smooth_sky(values, tiling, fwhm, tiles=[tile])
    vectors = geometry.pixel_vectors(nside, tiling.pixels(tile))
    angle = 2 * np.arcsin(0.5 * np.sqrt(((vectors - geometry.pixel_vectors(nside, np.array(source))) ** 2).sum(axis=1)))
    sigma = standard_deviation(fwhm)
    part = made[tiling.tile_slice(tile)]
    np.testing.assert_allclose(part[angle > 1.5 * REACH * sigma], 1.0, rtol=1e-6)
    expected = 1 + 1e6 * gaussian(angle, sigma) / full_weight(nside, sigma)
    near = angle < 3 * sigma
    np.testing.assert_allclose(part[near], expected[near], rtol=2e-3)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 47), st.floats(-1e3, 1e3).map(float), st.floats(0.125, 1e3), st.floats(0.07, 0.15), st.booleans())
def test_smoothing_is_linear(tile, offset, factor, fwhm, holes):
    tiling = Tiling(32, 2)
    values, weights = noisy_sky(32, seed=tile)
    if not holes:
        values = np.nan_to_num(values)
    made, _ = smooth_sky(values, tiling, fwhm, weights, tiles=[tile])
    scaled, _ = smooth_sky((offset + factor * values).astype(np.float32), tiling, fwhm, weights, tiles=[tile])
    scale = abs(offset) + 4 * factor
    np.testing.assert_allclose(scaled, offset + factor * made.astype(float), rtol=0, atol=1e-6 * scale, equal_nan=True)


def test_the_plane_has_no_seam():
    nside = 8
    axis = np.arange(-nside, 2 * nside)
    for base in range(12):
        plane = plane_pixels(nside, base, axis, axis)
        known = plane[plane >= 0]
        assert np.unique(known).size == known.size == 7 * nside**2
        for one, other in ((plane[:, :-1], plane[:, 1:]), (plane[:-1], plane[1:])):
            both = (one >= 0) & (other >= 0)
            around = geometry.pixel_neighbours(nside, one[both])
            assert (around == other[both][:, np.newaxis]).any(axis=1).all()
        assert [panel(base, i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)].count(None) == 2


@pytest.mark.parametrize("tile_nside", [1, 2, 4])
def test_planes_are_read_by_chunks_and_only_what_they_touch(tile_nside):
    nside, fwhm = 32, 0.1
    tiling = Tiling(nside, tile_nside, 8)
    halo = halo_width(nside, fwhm)
    pixels = np.arange(12 * nside**2, dtype=np.float32)
    for tile in range(0, tiling.n_tiles, 5):
        touched = set()

        def read(start, stop, touched=touched):
            assert (stop - start, start % tiling.chunk_npix) == (tiling.chunk_npix, 0)
            touched.add(start // tiling.tile_npix)
            return pixels[start:stop]

        plane = read_plane(read, tiling, tile, halo, pixels[tiling.tile_slice(tile)])
        base, x, y = tile_corner(tiling, tile)
        axis = np.arange(-halo, nside // tile_nside + halo)
        expected = plane_pixels(nside, base, x + axis, y + axis)
        np.testing.assert_array_equal(np.where(np.isnan(plane), -1, plane), expected)
        assert tile not in touched


def test_a_halo_wider_than_a_base_pixel_is_refused():
    with pytest.raises(InputError, match="harmonic"):
        read_plane(lambda a, b: np.zeros(b - a, np.float32), Tiling(8), 0, 9, np.zeros(64, np.float32))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    values, weights = noisy_sky(32)
    other = (values * 3 + 1).astype(np.float32)
    unused = (weights < 0.5).astype(np.uint8)
    where = make_store(
        tmp_path_factory.mktemp("smooth") / "sky.zarr", 32, {"a": values, "b": other}, weight_x=weights, mask_x=unused
    )
    return where, values, weights, unused


def kernel(where, **changes):
    options = {
        "source": where,
        "names": ("a",),
        "out_names": ("a_smooth",),
        "mask": None,
        "tiling": Tiling(32, 2),
        "fwhm_radian": 0.1,
        "least_weight": 0.0,
        **changes,
    }
    return local.LocalKernel(**options)


def test_the_kernel_reads_what_it_needs(stored):
    where, values, weights, unused = stored
    tiling, tile = Tiling(32, 2), 9
    window = tiling.tile_slice(tile)
    plain = kernel(where)(tile, {})
    expected, _ = smooth_sky(values, tiling, 0.1, tiles=[tile])
    np.testing.assert_array_equal(plain["a_smooth"], expected[window])
    assert plain["a_smooth"].dtype == np.float32
    given_already = pickle.loads(pickle.dumps(kernel(where)))(tile, {"a": values[window]})
    np.testing.assert_array_equal(given_already["a_smooth"], plain["a_smooth"])
    both = kernel(where, names=("a", "b"), out_names=("x", "y"))(tile, {})
    np.testing.assert_array_equal(both["x"], plain["a_smooth"])
    np.testing.assert_allclose(both["y"], 3 * plain["a_smooth"] + 1, atol=1e-5)
    for mask, heavy in (("weight_x", weights), ("mask_x", (1 - unused).astype(np.float32))):
        masked = kernel(where, mask=mask)(tile, {})["a_smooth"]
        expected, _ = smooth_sky(values, tiling, 0.1, heavy, tiles=[tile])
        np.testing.assert_array_equal(masked, expected[window])
        assert not np.array_equal(masked, plain["a_smooth"], equal_nan=True)
    wider = kernel(where, fwhm_radian=0.12)(tile, {})["a_smooth"]
    assert np.nanstd(wider) < np.nanstd(plain["a_smooth"])
    # A target tiled otherwise than the source.
    coarse = kernel(where, tiling=Tiling(32, 1))(2, {})["a_smooth"]
    np.testing.assert_allclose(coarse[256:512], plain["a_smooth"], atol=1e-5)


def test_where_little_is_in_reach_nothing_is_said(stored):
    where, values, _, _ = stored
    tile = next(t for t in range(48) if 0.1 < np.isnan(values[Tiling(32, 2).tile_slice(t)]).mean() < 1)
    few, more = (kernel(where, least_weight=least)(tile, {})["a_smooth"] for least in (0.0, 0.8))
    assert np.isfinite(few).sum() > np.isfinite(more).sum() > 0
    known = np.isfinite(more)
    np.testing.assert_array_equal(more[known], few[known])
    sigma, vectors = standard_deviation(0.1), geometry.pixel_vectors(32, np.arange(values.size))
    for place in Tiling(32, 2).pixels(tile)[::9]:
        chord2 = ((vectors - vectors[place]) ** 2).sum(axis=1)
        weight = gaussian(2 * np.arcsin(0.5 * np.sqrt(np.minimum(chord2, 4))), sigma) * (chord2 < 0.1)
        part = weight[np.isfinite(values)].sum() / weight.sum()
        if np.isfinite(values[place]) and abs(part - 0.8) > 0.01:
            assert np.isfinite(more[place - Tiling(32, 2).tile_slice(tile).start]) == (part > 0.8)


def test_tiles_without_a_value_give_nothing(stored, tmp_path):
    values = np.full(12 * 32**2, np.nan, np.float32)
    values[5000] = 2.0
    values[5001] = np.inf
    where = make_store(tmp_path / "sky.zarr", 32, {"a": values})
    assert kernel(where)(0, {}) == {}
    made = kernel(where)(19, {})["a_smooth"]
    # One pixel alone keeps its value; one without a finite value has none, whatever is near.
    assert np.flatnonzero(np.isfinite(made)).tolist() == [5000 - 19 * 256]
    assert made[5000 - 19 * 256] == 2.0


def test_as_a_map_plan(stored):
    where, values, _, _ = stored
    wanted = kernel(where)
    plan = map_plan(
        "smooth",
        wanted,
        target=where,
        reads=("a",),
        writes=[MapInfo("a_smooth", "intensity", "MJy/sr")],
        memory=local.local_memory(wanted.tiling, wanted.fwhm_radian),
    )
    plan.run(progress=False)
    made = np.concatenate([stores.read_tile(where, "a_smooth", tile) for tile in range(48)])
    expected, _ = smooth_sky(values, Tiling(32, 2), 0.1)
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fwhm_radian": 0.02}, "harmonic"),
        ({"fwhm_radian": 0.3}, "harmonic"),
        ({"fwhm_radian": math.nan}, "nan"),
        ({"fwhm_radian": -0.1}, "FWHM"),
        ({"least_weight": 1.0}, "least_weight"),
        ({"least_weight": -0.1}, "least_weight"),
        ({"out_names": ("x", "y")}, "1 maps and 2 names"),
    ],
)
def test_what_cannot_be_smoothed_is_refused(stored, changes, words):
    with pytest.raises(InputError, match=words):
        kernel(stored[0], **changes)


def test_negative_weights_are_refused(tmp_path):
    values, weights = noisy_sky(32)
    where = make_store(tmp_path / "sky.zarr", 32, {"a": values}, weight_x=weights - 0.5)
    with pytest.raises(InputError, match="weight"):
        kernel(where, mask="weight_x")(9, {})


@pytest.mark.parametrize(
    ("tiling", "tile", "pixels", "maps", "mask"),
    [
        (Tiling(4096, 4), 6, 16.0, 1, False),
        (Tiling(4096, 4), 5, 4.0, 2, True),
        (Tiling(4096, 4), 70, 2.5, 1, True),
        (Tiling(256, 1), 0, 16.0, 1, False),
    ],
)
def test_the_peak_stays_below_the_plan(tiling, tile, pixels, maps, mask):
    fwhm = pixels * math.sqrt(tiling.pixel_area)
    halo = halo_width(tiling.nside, fwhm)
    keep = 150 if pixels > 2.5 else 10**6
    geometry.morton(math.isqrt(tiling.tile_npix))

    def read(start, stop):
        return np.full(stop - start, 1.5, np.float32)

    tracemalloc.start()
    try:
        own = [read(0, tiling.tile_npix) for _ in range(maps + mask)]
        planes = [read_plane(read, tiling, tile, halo, each) for each in own]
        for plane in planes[:maps]:
            plane[halo + keep :, halo + keep :] = np.nan
        smoother = Smoother(tiling, tile, fwhm, planes[:maps], planes[maps] if mask else None, 0.0)
        smoother.run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    planned = local.local_memory(tiling, fwhm, maps, mask)
    assert peak <= sum(planned.values()) <= 3 * peak


def test_the_plan_of_memory_grows_with_what_is_asked():
    tiling = Tiling(16384)
    base = sum(local.local_memory(tiling, 0.0005).values())
    assert base < sum(local.local_memory(tiling, 0.002).values())
    assert base < sum(local.local_memory(tiling, 0.0005, maps=2).values())
    assert base < sum(local.local_memory(tiling, 0.0005, mask=True).values())
    assert base > sum(local.local_memory(Tiling(16384, 16), 0.0005).values())


def test_the_cost_knows_the_places_that_are_irregular():
    tiling = Tiling(16384)
    fwhm = 5 / 60 * math.pi / 180
    tile = {"belt": 300, "transition": 21, "pole": 63, "south": 8 * 64}
    cost = {where: local.local_cost(tiling, fwhm, [number]) for where, number in tile.items()}
    assert cost["transition"] > 5 * cost["belt"] < cost["pole"]
    assert cost["south"] > 5 * cost["belt"]
    assert local.local_cost(tiling, fwhm, [300, 21]) == pytest.approx(cost["belt"] + cost["transition"])
    assert local.local_cost(tiling, 0.5 * fwhm, [21]) < cost["transition"]
    assert local.local_cost(tiling, fwhm, [300], maps=2) > cost["belt"]


def test_the_error_is_told():
    tiling = Tiling(256)
    pixel = math.sqrt(tiling.pixel_area)
    told = [local.local_error(tiling, count * pixel) for count in (1.3, 2.0, 3.0, 4.0, 16.0)]
    assert told == sorted(told, reverse=True)
    assert told[0] == pytest.approx(2.9e-2)
    assert told[3] == pytest.approx(8.7e-5)
    assert local.local_error(Tiling(512), 4 * pixel) == pytest.approx(4.3e-5)
