"""Maps at another nside through their a_lm: spectra stay, values are those of healpy."""

from __future__ import annotations

import healpy as hp
import numpy as np
import pytest
import skymill as sm
from skies import content, write_map
from skymill.chunking import store as stores
from skymill.engine.pixel_window import pixel_window

FINE, COARSE, LMAX = 64, 16, 32
ELL = np.arange(3 * FINE)


@pytest.fixture(scope="module")
def fine():
    rng = np.random.default_rng(5)
    sizes = np.where(ELL < 1, 0.0, 1.0 / np.maximum(ELL, 1))
    degree, order = hp.Alm.getlm(ELL.size - 1)
    parts = rng.standard_normal((2, degree.size))
    alm = sizes[degree] * np.where(order == 0, parts[0], (parts[0] + 1j * parts[1]) / np.sqrt(2))
    return hp.alm2map(alm, FINE).astype(np.float32)


@pytest.fixture
def sky(tmp_path, fine):
    return write_map(tmp_path / "sky.zarr", FINE, fine, beam_fwhm_arcmin=60.0)


def ring_map(store, name="a"):
    grid = stores.tiling_of(store)
    values = np.concatenate([stores.read_tile(store, name, tile) for tile in range(grid.n_tiles)])
    return hp.reorder(values, n2r=True).astype(float)


def resampled(sky, tmp_path, nside=COARSE, where="out.zarr", **options):
    out = tmp_path / where
    sm.resample(sky, out, nside, **{"precision": "double", **options}).run(progress=False)
    return str(out)


def test_coarse_values_are_those_of_healpy(sky, fine, tmp_path):
    found = ring_map(resampled(sky, tmp_path, iterations=3, weights="pixel", pixel_window=False))
    alm = hp.map2alm(fine.astype(float), lmax=LMAX, iter=3)
    np.testing.assert_allclose(found, hp.alm2map(alm, COARSE), atol=1e-6 * found.std())


def test_the_window_of_the_pixels_becomes_that_of_the_new_ones(sky, fine, tmp_path):
    found = ring_map(resampled(sky, tmp_path, iterations=3, weights="pixel"))
    alm = hp.map2alm(fine.astype(float), lmax=LMAX, iter=3)
    window = pixel_window(COARSE, LMAX) / pixel_window(FINE, LMAX)
    np.testing.assert_allclose(found, hp.alm2map(hp.almxfl(alm, window), COARSE), atol=1e-6 * found.std())


def test_the_spectrum_stays_where_the_mean_over_children_aliases(sky, fine, tmp_path):
    truth = hp.anafast(fine.astype(float), lmax=LMAX, iter=3)
    kept = hp.anafast(ring_map(resampled(sky, tmp_path, pixel_window=False)), lmax=LMAX, iter=3)
    sm.degrade(sky, tmp_path / "mean.zarr", COARSE).run(progress=False)
    mean = hp.anafast(ring_map(str(tmp_path / "mean.zarr")), lmax=LMAX, iter=3)
    np.testing.assert_allclose(kept[2:], truth[2:], rtol=1e-3)
    assert np.abs(mean[24:] / truth[24:] - 1).mean() > 0.1


def test_up_again(sky, tmp_path):
    coarse = resampled(sky, tmp_path, pixel_window=False)
    fine_again = resampled(coarse, tmp_path, FINE, "again.zarr", pixel_window=False, iterations=3)
    alm = hp.map2alm(ring_map(coarse), lmax=LMAX, iter=5)
    found = ring_map(fine_again)
    np.testing.assert_allclose(found, hp.alm2map(alm, FINE), atol=1e-5 * found.std())
    info = stores.info(fine_again, "a")
    assert (info.unit, info.beam_fwhm_arcmin) == ("K", 60.0)


def test_holes_are_not_zeros(tmp_path):
    longitude, latitude = hp.pix2ang(FINE, np.arange(12 * FINE**2), lonlat=True)
    constant = np.where((latitude > 20) & (longitude < 200), np.nan, 7.0)
    sky = write_map(tmp_path / "sky.zarr", FINE, constant)
    found = ring_map(resampled(sky, tmp_path, precision="single"))
    np.testing.assert_allclose(found[np.isfinite(found)], 7.0, rtol=1e-5)
    share = np.isnan(constant).mean()
    assert abs(np.isnan(found).mean() - share) < 0.03
    strict = ring_map(resampled(sky, tmp_path, where="strict.zarr", least_weight=0.9))
    assert np.isnan(strict).sum() > np.isnan(found).sum()


def test_what_a_mask_leaves_out_does_not_count(tmp_path, fine):
    latitude = hp.pix2ang(FINE, np.arange(12 * FINE**2), lonlat=True)[1]
    spoilt = np.where(np.abs(latitude) < 10, 1e6, 3.0)
    sky = write_map(tmp_path / "sky.zarr", FINE, spoilt)
    write_map(sky, FINE, (np.abs(latitude) > 11).astype(np.float32), "weight_off", unit="1")
    found = ring_map(resampled(sky, tmp_path, maps="a", mask="weight_off"))
    np.testing.assert_allclose(found[np.isfinite(found)], 3.0, rtol=1e-4)
    assert np.isnan(found).any()


def test_every_option_changes_the_result(sky, tmp_path):
    plain = content(resampled(sky, tmp_path), "a")
    for number, options in enumerate(
        [{"lmax": 20}, {"pixel_window": False}, {"weights": "pixel"}, {"iterations": 1}, {"precision": "single"}]
    ):
        assert content(resampled(sky, tmp_path, where=f"{number}.zarr", **options), "a") != plain


def test_threads_and_memory_change_no_byte(sky, tmp_path):
    plain = content(resampled(sky, tmp_path, threads=1), "a")
    assert content(resampled(sky, tmp_path, where="b.zarr", threads=3, memory=251_000_000 * 3), "a") == plain
    again = sm.resample(sky, tmp_path / "out.zarr", COARSE, precision="double").run(progress=False)
    assert again.counts == {"verified": 12}


@pytest.mark.parametrize(
    ("nside", "options", "words"),
    [
        (FINE, {}, "which is that of"),
        (12, {}, "power of two"),
        (COARSE, {"lmax": 48}, r"3 nside - 1 = 47"),
        (COARSE, {"maps": "b"}, "map 'b' is not in the store"),
        (COARSE, {"maps": []}, "no map came"),
        (COARSE, {"maps": "mask_a"}, "holds codes or bits"),
        (COARSE, {"mask": "weight_b"}, "is not in the store"),
        (COARSE, {"least_weight": 0.0}, "a share above 0"),
        (COARSE, {"weights": "iterate"}, "ring, pixel|pixel, ring|ring"),
        (COARSE, {"iterations": -1}, "0 or more"),
    ],
)
def test_bad_input(sky, tmp_path, nside, options, words):
    write_map(sky, FINE, np.zeros(12 * FINE**2, np.uint8), "mask_a", unit="1", dtype="uint8")
    with pytest.raises((ValueError, KeyError), match=words):
        sm.resample(sky, tmp_path / "out.zarr", nside, **options)
    assert not (tmp_path / "out.zarr").exists()
