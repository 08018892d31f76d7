"""The parts of the synthetic sky: random numbers, frames of pieces, refinement, spectra, footprints."""

from __future__ import annotations

import healpy as hp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking.sphere import lonlat_to_vector
from skymill.models import sky_random, sky_refine, sky_sed, sky_surveys
from skymill.models.emission import modified_black_body
from skymill.models.sky_frame import (
    HALO,
    RIM,
    Piece,
    child_words,
    fold,
    framed_pixels,
    missing_corners,
    nested,
    unravel,
)
from skymill.models.sky_refine import Growth


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("face", range(12))
def test_frames_have_the_neighbours_that_healpy_has(order, face):
    side = 2**order
    pixels = framed_pixels(Piece(order, face, 0, 0, side))
    inner = pixels[HALO:-HALO, HALO:-HALO]
    around = hp.get_all_neighbours(side, inner.ravel(), nest=True).reshape(8, side, side)
    steps = ((0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1))  # SW W NW N NE E SE S as (y, x)
    for expected, (dy, dx) in zip(around, steps, strict=True):
        found = pixels[HALO + dy : HALO + dy + side, HALO + dx : HALO + dx + side]
        exists = expected >= 0
        np.testing.assert_array_equal(found[exists], expected[exists])


def test_second_ring_of_the_frame_is_two_steps_away():
    pixels = framed_pixels(Piece(3, 2, 0, 0, 8))
    for along in range(HALO, HALO + 8):
        for outer, inner in ((0, 1), (-1, -2)):
            assert pixels[along, outer] in hp.get_all_neighbours(8, pixels[along, inner], nest=True)
            assert pixels[outer, along] in hp.get_all_neighbours(8, pixels[inner, along], nest=True)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.data())
def test_nested_and_fold_agree_with_healpy_at_any_order(order, data):
    nside = 2**order
    face, x, y = (data.draw(st.integers(0, top)) for top in (11, nside - 1, nside - 1))
    pixel = int(nested(order, np.int64(face), np.int64(x), np.int64(y)))
    assert pixel == hp.xyf2pix(nside, x, y, face, nest=True)
    assert Piece.of(order, pixel, 1) == Piece(order, face, x, y, 1)
    assert tuple(int(v) for v in fold(order, face, np.int64(x), np.int64(y))) == (face, x, y)


def test_missing_corners_are_the_eight_places_where_three_faces_meet():
    found = 0
    for face in range(12):
        for row, column in missing_corners(Piece(2, face, 0, 0, 4)):
            pixel = nested(2, np.int64(face), np.int64(3 * column), np.int64(3 * row))
            assert (hp.get_all_neighbours(4, int(pixel), nest=True) < 0).sum() == 1
            found += 1
    assert found == 24  # three faces around each of eight points
    assert missing_corners(Piece(3, 0, 2, 2, 2)) == []


def test_unravel_is_nested_order():
    values = np.arange(64)
    x, y, _ = hp.pix2xyf(8, values, nest=True)
    np.testing.assert_array_equal(unravel(8), y * 8 + x)


@pytest.mark.parametrize("side", [2, 4, 16])
def test_words_belong_to_pixels_whatever_the_piece(side):
    order = 4
    whole = np.zeros(12 * 4 ** (order + 1), dtype=np.uint32)
    for face in range(12):
        words = child_words(Piece(order, face, 0, 0, 16), 0, 7, "test")
        pixels = framed_pixels(Piece(order + 1, face, 0, 0, 32))[HALO:-HALO, HALO:-HALO]
        whole[pixels] = _rows(words)
    for first in range(0, 12 * 4**order, side * side * 7):
        first -= first % (side * side)
        piece = Piece.of(order, first, side)
        pixels = framed_pixels(piece.children())
        np.testing.assert_array_equal(_rows(child_words(piece, RIM, 7, "test")), whole[pixels])


def _rows(children):
    size = children.shape[-1]
    return children.reshape(2, 2, size, size).transpose(2, 0, 3, 1).reshape(2 * size, 2 * size)


@pytest.mark.parametrize("growth", [Growth(), Growth(2, -1, 0), Growth(1, 1, -1), None])
def test_refining_a_piece_gives_in_its_rim_what_the_other_faces_have(growth):
    order = 3
    rng = np.random.default_rng(1)
    values = rng.lognormal(0.0, 1.0, 12 * 4**order).astype(np.float32)
    finer = np.zeros(4 * values.size, dtype=np.float32)
    pieces = [Piece(order, face, 0, 0, 8) for face in range(12)]

    def children(piece, rim):
        kept = []
        fields = [values[framed_pixels(piece)]]
        sky_refine.refine(piece, fields, [growth], rim, 5, lambda _, kids: kept.append(sky_refine.interleave(kids)))
        return kept[0]

    for piece in pieces:
        finer[framed_pixels(piece.children())[HALO:-HALO, HALO:-HALO]] = children(piece, 0)
    np.testing.assert_allclose(finer.reshape(-1, 4).mean(axis=1), values, rtol=3e-7, atol=2e-6)
    if growth is not None:
        assert finer.min() > 0
    for piece in pieces:
        pixels, found = framed_pixels(piece.children()), children(piece, RIM)
        exists = np.ones(pixels.shape, dtype=bool)
        for row, column in missing_corners(piece):
            exists[-HALO if row else 0 :, :][:HALO, -HALO if column else 0 :][:, :HALO] = False
        np.testing.assert_array_equal(found[exists], finer[pixels][exists])


def test_reconstruction_of_a_slope_is_exact_and_of_a_wall_stays_positive():
    slopes = sky_refine.Slopes(Piece(8, 0, 8, 8, 4), RIM)
    ramp = np.add.outer(2.0 * np.arange(12), 3.0 * np.arange(12)).astype(np.float32) + 100
    children = sky_refine.interleave(slopes.children(ramp, limited=True))
    place = (np.arange(16) + 0.5) / 2 - 0.5 + HALO - RIM
    np.testing.assert_allclose(children, np.add.outer(2.0 * place, 3.0 * place) + 100, rtol=1e-6)
    wall = np.zeros((12, 12), dtype=np.float32)
    wall[:, 6:] = 1000.0
    wall[:, 5] = 1.0
    assert slopes.children(wall, limited=True).min() >= 0
    assert slopes.children(wall, limited=False).min() < 0


def test_hash_numbers_are_uniform_and_independent():
    words = child_words(Piece(9, 3, 0, 0, 256), 0, 1, "test")
    mixed = sky_random.mix(words, np.empty_like(words))
    again = sky_random.again(mixed, np.empty_like(mixed), np.empty_like(mixed))
    other = child_words(Piece(9, 3, 0, 0, 256), 0, 2, "test")
    sky_random.mix(other, np.empty_like(other))
    uniform = [(w / 2.0**32).ravel() for w in (mixed, again, other)]
    uniform += [(again >> 16).ravel() / 2.0**16, (again & 0xFFFF).ravel() / 2.0**16]
    count = uniform[0].size
    for values in uniform:
        histogram = np.bincount((values * 64).astype(int), minlength=64)
        assert ((histogram - count / 64) ** 2 / (count / 64)).sum() < 64 + 5 * np.sqrt(2 * 64)
    matrix = np.corrcoef([*uniform[:3]]) - np.eye(3)
    assert np.abs(matrix).max() < 5 / np.sqrt(count)
    rows = uniform[0].reshape(4, 256, 256) - 0.5
    for near in (rows[:, 1:] * rows[:, :-1], rows[:, :, 1:] * rows[:, :, :-1], rows[1:] * rows[:-1]):
        assert abs(near.mean() * 12) < 5 / np.sqrt(near.size)


def test_keys_tell_seed_field_level_and_face_apart():
    known = {sky_random.keys(*args).tobytes() for args in ((1, "a", 3), (2, "a", 3), (1, "b", 3), (1, "a", 4))}
    assert len(known) == 4
    assert len(np.unique(sky_random.keys(1, "a", 3))) == 24


def test_normal_numbers_are_normal():
    drawn = sky_random.standard_normals(3, "test", 200_000)
    words = child_words(Piece(9, 3, 0, 0, 256), 0, 1, "test")
    for values in (drawn, *sky_random.normals(sky_random.mix(words, np.empty_like(words)), 3)):
        z = np.asarray(values, dtype=np.float64).ravel()
        error = 5 / np.sqrt(z.size)
        assert abs(z.mean()) < error
        assert abs(z.var() - 1) < 1.5 * error
        assert abs((z**3).mean()) < 4 * error
        assert abs((z**4).mean() - 3) < 0.1  # the table ends at 3.3 standard deviations


@pytest.mark.parametrize("temperature", [15.0, 19.4, 24.0])
@pytest.mark.parametrize("index", [1.45, 1.6, 1.75])
def test_a_single_modified_black_body_fitted_to_the_spectrum_has_the_nominal_temperature_and_index(temperature, index):
    nu = np.array([160.0, 250.0, 350.0, 500.0, 850.0])
    nu = 299792.458 / nu
    log = np.log(sky_sed.dust_intensity(nu, temperature, index))
    best = np.inf, 0.0, 0.0
    for t in np.arange(temperature - 2, temperature + 2, 0.1):
        for b in np.arange(index - 0.2, index + 0.2, 0.01):
            offset = log - np.log(modified_black_body(nu, t, b))
            best = min(best, (offset.var(), t, b))
    assert abs(best[1] - temperature) < 1.0
    assert abs(best[2] - index) < 0.1
    assert np.sqrt(best[0]) < 0.05


def test_class_weights_keep_temperature_and_index():
    temperature, index = np.linspace(14, 26, 50), np.linspace(1.35, 1.85, 50)
    shares = sky_sed.class_weights(temperature, index)
    assert shares.min() >= 0
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    np.testing.assert_allclose(shares.T @ [k.temperature for k in sky_sed.CLASSES], temperature)
    np.testing.assert_allclose(shares.T @ [k.index for k in sky_sed.CLASSES], index)


def test_survey_shapes_have_their_area_and_their_place():
    step = 0.05
    lat, lon = np.meshgrid(np.arange(-5, 5, step), np.arange(0, 10, step), indexing="ij")
    sky = sky_surveys.Directions(lonlat_to_vector(lon.ravel(), lat.ravel()))
    index, radius = sky_surveys.Shape(5.0, 0.0, 3.0, 1.0, angle=90.0).near(sky, 1.0)
    assert index.size * step**2 == pytest.approx(np.pi * 3.0, rel=0.02)
    assert np.ptp(lon.ravel()[index]) == pytest.approx(6.0, abs=0.2)  # its long axis points to the east
    assert np.ptp(lat.ravel()[index]) == pytest.approx(2.0, abs=0.2)
    assert radius.max() < 1


def test_survey_codes_of_known_places():
    lon = [0.0, 210.0, 280.5, 302.8, 121.2, 133.6, 142.1, 80.0]
    lat = [0.0, -17.0, -32.9, -44.3, -21.6, -31.3, 40.9, 80.0]
    codes = sky_surveys.cell_codes(sky_surveys.Directions(lonlat_to_vector(lon, lat)))
    assert codes.tolist() == [1, 2, 4, 5, 6, 7, 8, 0]
    assert [survey.code for survey in sky_surveys.SURVEYS] == list(range(1, 9))
    assert [survey.training for survey in sky_surveys.SURVEYS] == [True] * 3 + [False] * 5
