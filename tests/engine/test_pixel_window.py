"""The pixel window: published tables, the transforms of whole pixels by healpy, and what has to hold, as oracles."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import healpy as hp
import numpy as np
import pytest
from numpy.typing import NDArray
from skymill.chunking.errors import InputError
from skymill.engine import pixel_window as windows
from skymill.engine.pixel_window import pixel_window

REFERENCE = Path(__file__).parents[1] / "references" / "pixel_window.npz"


def reference(kind: str, nside: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    with np.load(REFERENCE) as kept:
        return kept[f"ell_{nside}"], kept[f"{kind}_{nside}"]


@pytest.mark.parametrize(
    ("nside", "error"), [(2, 2e-11), (4, 1e-11), (8, 1e-11), (16, 1e-11), (32, 1e-11), (64, 2e-9), (128, 2e-9)]
)
def test_published(nside: int, error: float) -> None:
    ell, published = reference("published", nside)
    np.testing.assert_allclose(pixel_window(nside, 4 * nside)[ell], published, rtol=0, atol=error)


@pytest.mark.parametrize("nside", [256, 512])
def test_interpolation_in_nside(nside: int) -> None:
    ell, summed = reference("summed", nside)
    np.testing.assert_allclose(pixel_window(nside, 4 * nside)[ell], summed, rtol=0, atol=2e-9)


@pytest.mark.parametrize("nside", [256, 8192])
def test_published_where_it_was_extrapolated(nside: int) -> None:
    ell, published = reference("published", nside)
    apart = np.abs(pixel_window(nside, 4 * nside)[ell] - published).max()
    assert 1e-6 < apart < 2e-5


def test_the_published_extrapolation_is_what_is_wrong() -> None:
    """1 - w_1 is the mean square of distances inside a pixel: a quarter for half the pixel."""
    lost = {nside: 1 - reference("published", nside)[1][1] for nside in (64, 128, 256)}
    assert lost[64] / lost[128] == pytest.approx(4, abs=0.02)
    assert lost[128] / lost[256] > 5
    ours = {nside: 1 - pixel_window(nside, 1)[1] for nside in (128, 256, 8192, 16384)}
    assert ours[128] / ours[256] == pytest.approx(4, abs=0.02)
    assert ours[8192] / ours[16384] == pytest.approx(4, abs=0.02)


@pytest.mark.parametrize("nside", [1, 2])
def test_transforms_of_whole_pixels(nside: int) -> None:
    """Pixels painted on a fine map, transformed by healpy: the definition."""
    fine, lmax = 128, 4 * nside
    power = np.zeros(lmax + 1)
    children = (fine // nside) ** 2
    for pixel in range(12 * nside**2):
        painted = np.zeros(12 * fine**2)
        painted[pixel * children : (pixel + 1) * children] = 12 * nside**2 / (4 * np.pi)
        power += hp.anafast(hp.reorder(painted, n2r=True), lmax=lmax)
    expected = np.sqrt(4 * np.pi * power / (12 * nside**2))  # C_l is the mean over m already
    np.testing.assert_allclose(pixel_window(nside, lmax), expected, rtol=0, atol=2e-4)


def test_averages_over_pixels_of_a_random_sky() -> None:
    """What the window is for: a sky averaged over pixels has its power times the square, all degrees together."""
    nside, fine, lmax = 16, 128, 48
    np.random.seed(3)  # noqa: NPY002 - healpy draws from the global state
    alm = hp.synalm(np.where(np.arange(lmax + 1) < 2, 0.0, 1.0), lmax=lmax)
    coarse = hp.ud_grade(hp.alm2map(alm, fine, lmax=lmax), nside)
    ratio = hp.alm2cl(hp.map2alm(coarse, lmax=lmax, iter=3), alm)[8:33] / hp.alm2cl(alm)[8:33]
    window = pixel_window(nside, lmax)[8:33]
    assert np.abs(ratio / window - 1).mean() < 0.01
    assert np.abs(ratio - 1).mean() > 0.03


def test_limit_of_many_pixels() -> None:
    """Flat pixels: the square of a circular mean of two sinc functions, averaged over belt and caps, by brute force."""
    rng = np.random.default_rng(0)
    count = 200_000
    z = rng.uniform(0, 1, count)
    sigma_squared = np.where(z > 2 / 3, 3 * (1 - z), 0)
    stretch = np.where(z > 2 / 3, np.sqrt((2 - sigma_squared / 3) / 3), np.sqrt(1 - z**2))
    shear = np.where(z > 2 / 3, rng.uniform(-1, 1, count), 0)
    angle = rng.uniform(0, 2 * np.pi, count)
    x = 2.5  # degree / nside
    east, north = x * np.cos(angle) * np.pi / 4, x * np.sin(angle) * np.pi / 4
    along, up = east * stretch, east * stretch * shear + north * 8 / (3 * np.pi) / stretch
    # np.sinc holds pi; sides of the square are (1, 1) and (-1, 1) in units of half a diagonal.
    square = (np.sinc((up + along) / 2 / np.pi) * np.sinc((up - along) / 2 / np.pi)) ** 2
    error = square.std() / np.sqrt(count)
    nside = 2**20
    found = pixel_window(nside, int(x * nside))[-1] ** 2
    assert abs(found - square.mean()) < 4 * error
    assert error < 1e-3


@pytest.mark.parametrize("nside", [1, 64, 16384])
def test_shape_of_the_window(nside: int) -> None:
    window = pixel_window(nside, 4 * nside)
    assert window.shape == (4 * nside + 1,)
    assert window.dtype == np.float64
    assert window[0] == 1
    assert (np.diff(window) < 0).all()
    np.testing.assert_array_equal(pixel_window(nside, nside), window[: nside + 1])


def test_points_inside_pixels_are_enough() -> None:
    for nside in (1, 8):
        more = windows._window(windows._means_of_grid(nside, 11), nside, 4 * nside)
        np.testing.assert_allclose(pixel_window(nside, 4 * nside), more, rtol=0, atol=1e-11)
    nside = 2**15
    limit = windows._window(windows._means_of_limit(), nside, 4 * nside)
    more = windows._window(windows._means_of_limit(10, 20), nside, 4 * nside)
    np.testing.assert_allclose(limit, more, rtol=0, atol=1e-11)


def test_below_a_second() -> None:
    windows._tables.cache_clear()
    windows._means_of_grid.cache_clear()
    start = time.process_time()
    pixel_window(16384, 32768)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("lmax", [-1, 65])
def test_degrees_that_are_not_known(lmax: int) -> None:
    with pytest.raises(InputError, match=f"`lmax` {lmax} came; the pixel window of nside 16 is known from 0 to 64"):
        pixel_window(16, lmax)


@pytest.mark.parametrize("nside", [0, 100, "16"])
def test_nside_that_is_none(nside: Any) -> None:
    with pytest.raises(InputError, match="nside"):
        pixel_window(nside, 8)
