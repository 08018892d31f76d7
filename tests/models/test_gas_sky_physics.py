"""The synthetic gas sky against what is known: CIB, lensing, slopes of residuals, polarisation, reddening."""

from __future__ import annotations

from functools import cache

import healpy as hp
import numpy as np
import pytest
from skymill.chunking.errors import InputError
from skymill.chunking.tiling import Tiling
from skymill.engine.pixel_window import pixel_window
from skymill.models.emission import planck, planck_derivative
from skymill.models.gas_clouds import FREQUENCIES
from skymill.models.gas_fields import cib_spectrum, kappa_spectrum
from skymill.models.gas_sky import GasSky

NSIDE, LMAX = 64, 128
BANDS = tuple(FREQUENCIES)
QUIET = {f"{kind}_{band}": 0.0 for kind in ("cib", "noise") for band in BANDS}


@cache
def whole(name: str, sky: GasSky, nside: int = NSIDE) -> np.ndarray:
    grid = Tiling(nside, tile_nside=1)
    tiles = [sky.tile(grid, tile, [name])[name] for tile in range(12)]
    return np.concatenate(tiles, axis=-1).astype(np.float64)


def cross(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    maps = [hp.reorder(values, n2r=True) for values in (first, second)]
    return hp.anafast(*maps, lmax=LMAX, iter=3) / pixel_window(NSIDE, LMAX) ** 2


def average(power: np.ndarray, low: int, high: int) -> tuple[float, float]:
    """Average of C_l weighted by 2 l + 1, and its relative scatter for an auto-spectrum."""
    weight = 2 * np.arange(low, high) + 1
    return float(np.average(power[low:high], weights=weight)), float(np.sqrt(2 / weight.sum()))


@pytest.mark.parametrize("index", [-1.2, -2.0])
def test_cib_has_the_power_law_that_is_asked_for(index):
    sky = GasSky(seed=4, cib_index=index)
    found = cross(*[whole("truth_cib_857", sky)] * 2)
    expected = cib_spectrum(index) * 0.02**2
    for low, high in ((2, 20), (20, 60), (60, 120)):
        (power, scatter), (known, _) = average(found, low, high), average(expected, low, high)
        assert power == pytest.approx(known, rel=4 * scatter)


def test_cib_has_the_spectrum_that_is_given():
    ell = np.arange(300)
    given = 1e-9 * np.exp(-(((ell - 60) / 20.0) ** 2))
    sky = GasSky(seed=4, cib_spectrum=tuple(given))
    found = cross(*[whole("truth_cib_857", sky)] * 2)
    for low, high in ((40, 60), (60, 80)):
        (power, scatter), (known, _) = average(found, low, high), average(given, low, high)
        assert power == pytest.approx(known, rel=4 * scatter + 0.01)
    ratio = whole("truth_cib_545", sky).std() / whole("truth_cib_857", sky).std()
    assert ratio == pytest.approx(0.012 / 0.020, rel=0.05)


@pytest.mark.parametrize("r", [0.95, 0.5, -0.3])
def test_cib_of_the_bands_is_correlated_as_asked_for(r):
    sky = GasSky(seed=5, cib_correlation=r)
    maps = {band: whole(f"truth_cib_{band[1:]}", sky) for band in ("i857", "i353", "i545")}
    assert maps["i353"].std() / maps["i857"].std() == pytest.approx(0.2, rel=0.05)
    for band, expected in (("i353", r), ("i545", r)):
        power = [average(cross(maps[a], maps[b]), 20, 120)[0] for a, b in ((band, "i857"), ("i857",) * 2, (band,) * 2)]
        assert power[0] / np.sqrt(power[1] * power[2]) == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize("r", [0.8, 0.0, -0.5])
def test_lensing_is_correlated_with_the_cib_as_asked_for(r):
    sky = GasSky(seed=6, kappa_correlation=r)
    cib, kappa = whole("truth_cib_857", sky), whole("truth_kappa", sky)
    auto = cross(kappa, kappa)
    for low, high in ((10, 50), (50, 120)):
        (power, scatter), (known, _) = average(auto, low, high), average(kappa_spectrum(), low, high)
        assert power == pytest.approx(known, rel=4 * scatter)
        product = average(cross(cib, kappa), low, high)[0]
        expected = r * np.sqrt(average(cross(cib, cib), low, high)[0] * power)
        assert product == pytest.approx(expected, abs=0.06 * np.sqrt(average(cross(cib, cib), low, high)[0] * power))
    noise = whole("kappa", sky) - kappa
    assert noise.std() == pytest.approx(0.08 / 4, rel=0.02)
    assert abs(np.corrcoef(noise, cib)[0, 1]) < 0.03
    # The templates of the gas know nothing of it.
    far = np.abs(hp.pix2vec(NSIDE, np.arange(cib.size), nest=True)[2]) > 0.5
    assert abs(np.corrcoef(whole("nhi", sky)[far], kappa[far])[0, 1]) < 0.05


def slopes(**options: float) -> tuple[float, float]:
    """Slopes of the residuals 353 -> 857 GHz, and 353 GHz -> 100 um, against those of gas -> 857 GHz (eqs. 17, B13)."""
    sky = GasSky(seed=7, correlation_length=1.0, **QUIET, **options)
    plain = GasSky(seed=7, **QUIET)
    used = whole("mask", sky) == 1
    dust = {band: (whole(band, sky) - getattr(sky, f"offset_{band}"))[used] for band in BANDS}
    gas = {band: (whole(band, plain) - getattr(sky, f"offset_{band}"))[used] for band in BANDS}
    ratio = {band: sky.band_factor(band) / sky.band_factor("i353") for band in BANDS}
    first = dust["i857"] - gas["i857"]
    found = []
    for band in ("i857", "i100um"):
        residual = dust[band] - ratio[band] * dust["i353"]
        # Signal times weight of emission that grows with the column alone.
        found.append(float(np.sum(first * residual) / np.sum(first * first)))
    return found[0], found[1]


@pytest.mark.parametrize("sigma", [0.05, 0.5, 1.28])
def test_slopes_of_residuals_from_temperature(sigma):
    first, second = slopes(sigma_temperature=sigma)
    assert first == pytest.approx(0.371, abs=0.005)
    if sigma < 0.1:
        derivative = [float(planck_derivative(nu, 20.0) / planck(nu, 20.0)) for nu in (857.0, 353.0, 3000.0)]
        assert 1 - derivative[1] / derivative[0] == pytest.approx(0.371, abs=5e-4)
        assert first == pytest.approx(1 - derivative[1] / derivative[0], abs=2e-3)
        factor = GasSky().band_factor("i100um")
        assert second == pytest.approx(factor * (derivative[2] - derivative[1]) / derivative[0], rel=0.01)
        assert second == pytest.approx(3.48, rel=0.01)


def test_a_fit_to_353_ghz_makes_the_slope_smaller_where_temperatures_scatter_much():
    sky = GasSky(seed=7, correlation_length=1.0, sigma_temperature=1.28, **QUIET)
    used = whole("mask", sky) == 1
    gas, low, high = (whole(name, each)[used] for name, each in (
        ("i857", GasSky(seed=7, **QUIET)), ("i353", sky), ("i857", sky)))  # fmt: skip

    def rest(template: np.ndarray) -> np.ndarray:
        return high - np.polyval(np.polyfit(template, high, 1), template)

    assert 0.30 < np.polyfit(rest(gas), rest(low), 1)[0] < 0.365  # 0.371 without scatter in the template


def test_slopes_of_residuals_from_other_causes():
    assert slopes(sigma_dust_to_gas=0.1)[0] == pytest.approx(0.0, abs=1e-5)
    assert slopes(sigma_beta=0.05)[0] == pytest.approx(1.0, abs=1e-4)
    assert slopes(sigma_temperature=0.5, dbeta_dt=-0.06)[0] < 0


def test_the_dust_to_gas_ratio_multiplies_the_emission():
    sky = GasSky(seed=7, sigma_dust_to_gas=0.1, **QUIET)
    ratio = whole("truth_dust_to_gas", sky)
    gas = whole("i857", GasSky(seed=7, **QUIET)) - 0.3
    np.testing.assert_allclose(whole("i857", sky) - 0.3, gas * ratio, rtol=1e-5)
    assert ratio.mean() == pytest.approx(1.0, abs=0.02)
    assert ratio.std() == pytest.approx(0.1, rel=0.15)
    np.testing.assert_allclose(whole("truth_ebv", sky), whole("truth_ebv", GasSky(seed=7)) * ratio, rtol=1e-5)


def test_temperature_follows_from_the_intensity_exactly():
    sky = GasSky(seed=7, sigma_temperature=1.28, **QUIET)
    gas, dust = whole("i857", GasSky(seed=7, **QUIET)) - 0.3, whole("i857", sky) - 0.3
    x = 857.0 * 0.04799243073366221  # h nu / k, K
    found = x / np.log1p(np.expm1(x / 20.0) * gas / dust)  # Cheng et al. 2025, eq. 14
    np.testing.assert_allclose(found, whole("truth_temperature", sky), rtol=2e-5)


def test_the_emissivity_index_turns_at_353_ghz():
    sky = GasSky(seed=7, sigma_beta=0.1, sigma_temperature=0.5, dbeta_dt=-0.1, **QUIET)
    without = GasSky(seed=7, sigma_temperature=0.5, **QUIET)
    np.testing.assert_allclose(whole("i353", sky), whole("i353", without), rtol=1e-5)
    change = whole("truth_beta", sky) - 1.5
    ratio = (whole("i857", sky) - 0.3) / (whole("i857", without) - 0.3)
    np.testing.assert_allclose(ratio, (857 / 353) ** change, rtol=2e-5)
    warm = whole("truth_temperature", sky) - 20
    assert np.polyfit(warm, change, 1)[0] == pytest.approx(-0.1, abs=0.03)
    assert (change + 0.1 * warm).std() == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize("band", BANDS)
def test_polarised_emission_obeys_its_equations(band):
    with pytest.raises(InputError, match="Give a mean too"):
        GasSky(sigma_polarization=0.03)
    sky = GasSky(seed=8, mean_polarization=0.1, sigma_polarization=0.03, **QUIET)
    offset = getattr(sky, f"offset_{band}")
    gas = whole(band, GasSky(seed=8, **QUIET)) - offset
    intensity, p = whole(band, sky), whole("truth_polarization", sky)
    np.testing.assert_allclose(intensity, gas / (1 + p) + offset, rtol=1e-5)  # eq. 20
    model = gas / 1.1 + offset  # eq. 21
    np.testing.assert_allclose((intensity - model) / (intensity - offset), -(p - 0.1) / 1.1, atol=2e-5)  # eq. 22
    if band == "i353":
        np.testing.assert_allclose(whole("p353", sky), p * (intensity - offset), rtol=1e-4, atol=1e-6)  # eq. 19
    assert 0 <= p.min() < 0.03 < 0.17 < p.max() < 0.3
    assert p.mean() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("length", [5.0, 10.0])
def test_fluctuations_have_the_scatter_and_the_length_asked_for(length):
    """Averaged over four fields, as the large scales of one scatter."""
    found = []
    for seed in range(4):
        sky = GasSky(seed=seed, sigma_temperature=1.0, correlation_length=length)
        power = cross(*[whole("truth_temperature", sky)] * 2)
        ell = np.arange(power.size)
        legendre = np.polynomial.legendre.legval(
            np.cos(np.radians([0.0, length, 2 * length])), power * (2 * ell + 1) / (4 * np.pi) * (ell > 0)
        )
        found.append(legendre)
    variance, at_length, at_double = np.mean(found, axis=0)
    assert at_length / variance == pytest.approx(np.exp(-1), abs=0.08)
    assert at_double / variance == pytest.approx(np.exp(-2), abs=0.1)
    assert np.sqrt(variance) == pytest.approx(1.0, abs=0.1)


def test_reddening_is_that_of_dust_with_what_surveys_add():
    sky = GasSky(seed=9)
    columns = [whole(f"truth_cloud_{k}", sky, 256) for k in (1, 2, 3)]
    known = sum(e * column for e, column in zip((0.43, 0.29, 0.20), columns, strict=True))
    known = 0.0114 / 0.43 * (known + 0.5 * 0.43 * whole("nhii", sky, 256))
    truth = whole("truth_ebv", sky, 256)
    np.testing.assert_allclose(truth, known, rtol=1e-5)
    excess = 0.86 * whole("ebv_sfd", sky, 256) - truth
    cib = whole("truth_cib_857", sky, 256)
    # What is rounded in float32 is the sum, and in the plane that is large.
    far = truth < 0.2
    assert np.polyfit(cib[far], excess[far], 1)[0] == pytest.approx(0.002 / 0.02, rel=0.02)
    assert excess[far].std() == pytest.approx(np.hypot(0.002, 0.001), rel=0.05)
    stars = whole("ebv_stars", sky, 256)
    seen = np.isfinite(stars)
    assert 0.5 < seen.mean() < 0.65
    lat = hp.pix2ang(256, np.arange(stars.size), nest=True, lonlat=True)[1]
    assert np.abs(lat[seen]).min() > 19.9
    assert 0.05 < 1 - seen[np.abs(lat) > 30].mean() < 0.25
    assert (stars - truth)[seen].std() == pytest.approx(0.006, rel=0.02)
    assert abs(np.corrcoef((stars - truth)[seen], cib[seen])[0, 1]) < 0.02


def test_the_level_of_the_noise_of_cib_does_not_depend_on_how_it_is_given():
    ell = np.arange(768)
    sky = GasSky(seed=9, cib_spectrum=tuple(1e-8 / (ell + 10.0)))
    truth, cib = whole("truth_ebv", sky, 256), whole("truth_cib_857", sky, 256)
    excess = 0.86 * whole("ebv_sfd", sky, 256) - truth
    far = truth < 0.2
    assert np.polyfit(cib[far], excess[far], 1)[0] * cib.std() == pytest.approx(0.002, rel=0.03)


def test_molecules_are_where_there_is_much_gas_and_shine():
    sky, plain = GasSky(seed=9, h2=0.05, **QUIET), GasSky(seed=9, **QUIET)
    molecules = whole("truth_nh2", sky)
    np.testing.assert_allclose(whole("i857", sky) - whole("i857", plain), 0.43 * molecules, rtol=1e-3, atol=2e-5)
    assert (whole("truth_nh2", plain) == 0).all()
    high = np.abs(hp.pix2vec(NSIDE, np.arange(molecules.size), nest=True)[2]) > 0.8
    assert molecules[high].mean() < 0.1 * molecules.mean()
    noise = whole("nh2", sky) - molecules
    np.testing.assert_allclose(noise[high], whole("nh2", plain)[high], atol=1e-5)


def test_a_first_cloud_without_dust_is_told():
    """Gas that shines in proportion to it, and the reddening, would be zero over zero."""
    with pytest.raises(InputError, match="first cloud must be above 0"):
        GasSky(emissivities=(0.0, 0.3, 0.2))
