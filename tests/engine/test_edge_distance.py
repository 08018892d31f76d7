"""Distances to the edge of a mask against brute force over all pixels, and the geometry that they rest on."""

import healpy as hp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from skymill.chunking import geometry
from skymill.chunking.tiling import Tiling
from skymill.engine import edge_distance
from skymill.engine.edge_distance import chord, chords_to_edge, edge_places


def brute_force(nside, used):
    """Return the angle from every used pixel to the nearest unused one, by looking at all of them."""
    vectors = np.array(hp.pix2vec(nside, np.arange(12 * nside**2), nest=True)).T
    angles = np.full(used.size, np.inf)
    if not used.all():
        chords = cdist(vectors[used], vectors[~used]).min(axis=1)
        angles[used] = 2 * np.arcsin(np.minimum(chords / 2, 1))
    return angles


def ours(nside, used, reach=np.pi, tile_nside=1):
    tiling = Tiling(nside, tile_nside)
    edges = [edge_places(~used[tiling.tile_slice(tile)]) for tile in range(tiling.n_tiles)]
    parts = [
        chords_to_edge(tiling, tile, used[tiling.tile_slice(tile)], edges.__getitem__, reach)
        for tile in range(tiling.n_tiles)
    ]
    chords = np.concatenate(parts)
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(chords), np.inf, 2 * np.arcsin(np.minimum(chords / 2, 1)))


def agree(nside, used, reach=np.pi, tile_nside=1):
    wanted = brute_force(nside, used)
    assert reach == np.pi or not (np.abs(wanted - reach) < 1e-9).any(), "a distance at the very reach: choose another"
    wanted[wanted > reach] = np.inf
    np.testing.assert_allclose(ours(nside, used, reach, tile_nside), wanted, rtol=0, atol=4e-8 if reach > 3 else 1e-12)


@given(
    order=st.integers(0, 3),
    tile_order=st.integers(0, 2),
    seed=st.integers(0, 2**32 - 1),
    kept=st.sampled_from([0.02, 0.3, 0.7, 0.98]),
    reach=st.sampled_from([0.1234, 0.4321, 1.2345, np.pi]),
)
@settings(max_examples=40, deadline=None)
def test_random_masks(order, tile_order, seed, kept, reach):
    nside = 2**order
    used = np.random.default_rng(seed).random(12 * nside**2) < kept
    agree(nside, used, reach, 2 ** min(order, tile_order))


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_blobs_and_holes(data):
    """Discs that are used with discs cut out of them, also around the poles and the corners of base pixels."""
    nside = 16
    used = np.zeros(12 * nside**2, bool)
    corners = [[0, 0, 1], [0, 0, -1], hp.ang2vec(np.arccos(2 / 3), 0), hp.ang2vec(np.arccos(-2 / 3), np.pi / 2)]
    for value in (True, False):
        for _ in range(data.draw(st.integers(1, 3))):
            pixel = data.draw(st.integers(0, used.size - 1))
            centre = data.draw(st.sampled_from([*corners, hp.pix2vec(nside, pixel, nest=True)]))
            radius = data.draw(st.sampled_from([0.02, 0.1, 0.5, 1.5]))
            used[hp.query_disc(nside, np.array(centre), radius, nest=True)] = value
    agree(nside, used, data.draw(st.sampled_from([0.2718, np.pi])), data.draw(st.sampled_from([1, 2, 4])))


@pytest.mark.parametrize("tile_nside", [1, 2, 8])
def test_single_holes_at_poles_corners_and_anywhere(tile_nside):
    nside = 16
    for pixel in (255, 0, 1023, 85, 1024, 1024 + 170, 1024 + 255, 8 * 256, 11 * 256 + 255, 1777):
        used = np.full(12 * nside**2, True)
        used[pixel] = False
        agree(nside, used, 0.3333, tile_nside)
    agree(nside, ~used, 0.3333, tile_nside)


def test_many_edges_in_small_trees_give_the_same(monkeypatch):
    used = np.random.default_rng(5).random(12 * 64**2) < 0.995
    once = ours(64, used, 0.2, 1)
    monkeypatch.setattr(edge_distance, "TREE_POINTS", 7)
    monkeypatch.setattr(edge_distance, "CELL_NPIX", 64)
    np.testing.assert_array_equal(ours(64, used, 0.2, 2), once)
    agree(64, np.arange(12 * 64**2) % 4096 > 4, 0.2)


def test_nothing_to_look_for():
    tiling = Tiling(8)
    full = np.full(64, True)
    assert np.isinf(chords_to_edge(tiling, 0, full, lambda tile: edge_places(~full), np.pi)).all()
    never = pytest.fail
    assert np.isinf(chords_to_edge(tiling, 0, ~full, lambda tile: never("no pixel asked"), np.pi)).all()


def test_tiles_out_of_reach_are_not_asked_for():
    asked = []
    tiling = Tiling(64, tile_nside=8)
    full = np.full(64, True)
    chords_to_edge(tiling, 0, full, lambda tile: asked.append(tile) or edge_places(~full), np.radians(3.0))
    assert asked[0] == 0
    assert len(asked) < 40 < tiling.n_tiles
    assert {int(each) for each in tiling.neighbours(0)} <= set(asked)


def test_edge_pixels_by_their_neighbours():
    unused = np.random.default_rng(1).random(256) < 0.8
    around = hp.get_all_neighbours(64, np.arange(256), nest=True).T  # the tile is one of nside 4 in a sky of nside 64
    inside = (around >= 0) & (around < 256)
    rim = ~inside.all(axis=1)
    touches = (inside & ~unused[np.where(inside, around, 0)]).any(axis=1)
    np.testing.assert_array_equal(edge_places(unused), np.flatnonzero(unused & (rim | touches)))
    assert edge_places(unused).dtype == np.uint32
    np.testing.assert_array_equal(edge_places(np.full(256, True)), geometry.rim(16))
    assert edge_places(np.full(1, True)).tolist() == [0]


@pytest.mark.parametrize("nside", [1, 2, 8, 32, 16384])
def test_what_is_nearer_to_a_pixel_than_to_its_neighbours_holds_no_other_centre(nside):
    """Then one neighbour of a pixel is always nearer to anything else, and the nearest unused pixel has a used one."""
    npix = 12 * nside**2
    if npix < 20000:
        pixels = np.arange(npix)
    else:  # around the poles and the corners of base pixels, along the edges of base pixels, and anywhere
        z = np.array([1.0, -1.0, 2 / 3, -2 / 3, 0.0, 2 / 3])
        centres = hp.ang2pix(nside, np.arccos(z), np.array([0, 0, 0, 0, np.pi / 4, np.pi / 2]), nest=True)
        pixels = np.unique(hp.get_all_neighbours(nside, centres, nest=True))
        for _ in range(5):
            pixels = np.unique(hp.get_all_neighbours(nside, pixels, nest=True))
        phi = np.random.default_rng(0).uniform(0, 2 * np.pi, 1000)
        edge = hp.ang2pix(nside, np.full(1000, np.arccos(2 / 3)), phi, nest=True)
        pixels = np.concatenate([pixels[pixels >= 0], edge, np.random.default_rng(1).integers(0, npix, 1000)])
    around = geometry.pixel_neighbours(nside, pixels)
    around = np.where(around < 0, pixels[:, None], around)
    second = geometry.pixel_neighbours(nside, around).reshape(pixels.size, -1)
    second = np.where(second < 0, pixels[:, None], second)
    own, near, far = (geometry.pixel_vectors(nside, each) for each in (pixels, around, second))
    side = np.sqrt(4 * np.pi / npix)
    # The cell of points nearer to the pixel than to its neighbours ends, in any direction, within a pixel's side; so
    # that nothing beyond the neighbours of neighbours can lie in it.
    east = np.cross(own, np.where(np.abs(own[:, 2:]) < 0.9, [[0.0, 0, 1]], [[1.0, 0, 0]]))
    east /= np.linalg.norm(east, axis=1, keepdims=True)
    north = np.cross(own, east)
    for turn in np.linspace(0, 2 * np.pi, 64, endpoint=False):
        towards = np.einsum("ik,ijk->ij", np.cos(turn) * east + np.sin(turn) * north, near)
        half = 0.5 * ((own[:, None] - near) ** 2).sum(axis=2)
        ends = np.where(towards > 0, half / np.where(towards > 0, towards, 1), np.inf).min(axis=1)
        assert np.arctan(ends).max() < side
    for part in np.array_split(np.arange(pixels.size), max(1, pixels.size // 2000)):
        to_own = np.linalg.norm(far[part] - own[part][:, None], axis=2)
        to_near = np.full_like(to_own, np.inf)
        for k in range(8):
            apart = np.linalg.norm(far[part] - near[part][:, None, k], axis=2)
            apart[around[part, k] == pixels[part]] = np.inf
            to_near = np.minimum(to_near, apart)
        other = second[part] != pixels[part][:, None]
        assert (to_own - to_near)[other].min() > 0.5 * side


def test_antipodes():
    used = np.arange(12) != 0
    assert ours(1, used)[10] == pytest.approx(np.pi)
    agree(1, used)


def test_chord():
    assert chord(-1.0) == 0.0
    assert chord(1e-9) == pytest.approx(1e-9)
    assert chord(4.0) == 2.0
