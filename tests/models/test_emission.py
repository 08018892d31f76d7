"""Emission laws against astropy and analytic limits; Table 2 of Paradis et al. 2024."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy import units as u
from astropy.modeling.physical_models import BlackBody
from skymill.chunking.errors import InputError
from skymill.chunking.units import BOLTZMANN_CONSTANT, PLANCK_CONSTANT, monochromatic
from skymill.models.emission import (
    EXACT_WAVELENGTHS_UM,
    NOMINAL_WAVELENGTHS_UM,
    TABLE_2,
    SurveyIndex,
    TwoComponents,
    alpha,
    beta_corrected,
    beta_star,
    modified_black_body,
    planck,
    planck_derivative,
    temperature_correction,
    two_component,
)

TEMPERATURES = np.array([2.7255, 10.0, 20.0, 30.0, 300.0])
FREQUENCIES = np.array([100.0, 217.0, 353.0, 857.0, 1874.0])


def test_constants_are_the_exact_ones() -> None:
    assert (PLANCK_CONSTANT, BOLTZMANN_CONSTANT) == (6.62607015e-34, 1.380649e-23)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_planck_against_astropy(temperature: float) -> None:
    expected = BlackBody(temperature=temperature * u.K)(FREQUENCIES * u.GHz).to(u.MJy / u.sr).value
    np.testing.assert_allclose(planck(FREQUENCIES, temperature), expected, rtol=1e-12)


def test_planck_limits() -> None:
    rayleigh_jeans = 2 * 1e9**2 * BOLTZMANN_CONSTANT * 1e4 / 299792458.0**2 * 1e20
    assert float(planck(1.0, 1e4)) == pytest.approx(rayleigh_jeans, rel=1e-5)
    assert float(planck(1e6, 2.0)) == 0.0  # deep in the Wien tail: no overflow, no warning
    assert planck(353.0, [20.0, 0.0, -3.0, np.nan]).dtype == np.float64
    np.testing.assert_array_equal(np.isnan(planck(353.0, [20.0, 0.0, -3.0, np.nan])), [False, True, True, True])


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_derivative_against_differences(temperature: float) -> None:
    step = 1e-5 * temperature
    difference = (planck(FREQUENCIES, temperature + step) - planck(FREQUENCIES, temperature - step)) / (2 * step)
    np.testing.assert_allclose(planck_derivative(FREQUENCIES, temperature), difference, rtol=1e-7)


def test_derivative_agrees_with_the_unit_conversion() -> None:
    for frequency in FREQUENCIES:
        assert float(planck_derivative(frequency, 2.7255)) == pytest.approx(monochromatic(frequency), rel=1e-12)
    assert float(planck_derivative(353.0, 2.7255)) == pytest.approx(296.65, abs=0.005)


def test_reduced_frequencies_at_20_kelvin() -> None:
    # dlnB/dlnT = x / (1 - e^-x) with x = 2.0565 (857 GHz) and 0.8471 (353 GHz) at 20 K.
    for frequency, x in ((857.0, 2.0565), (353.0, 0.8471)):
        slope = float(planck_derivative(frequency, 20.0) * 20.0 / planck(frequency, 20.0))
        assert slope == pytest.approx(x / -math.expm1(-x), rel=1e-4)


def test_modified_black_body() -> None:
    base = modified_black_body(FREQUENCIES, 19.8, 1.55)
    np.testing.assert_allclose(base, (FREQUENCIES / 353.0) ** 1.55 * planck(FREQUENCIES, 19.8), rtol=1e-14)
    np.testing.assert_allclose(modified_black_body(FREQUENCIES, 19.8, 1.55, optical_depth=3e-6), 3e-6 * base)
    assert not np.allclose(modified_black_body(FREQUENCIES, 19.8, 1.55, reference_ghz=545.0), base)
    # The dust of Planck Int. XVII: 0.039 at 353 GHz becomes 0.136-0.142 at 545 and 0.41-0.45 at 857 GHz.
    for beta in (1.5, 1.6):
        law = modified_black_body([353.0, 545.0, 857.0], 19.8, beta)
        scaled = 0.039 * law / law[0]
        assert 0.1355 < scaled[1] < 0.1425
        assert 0.405 < scaled[2] < 0.455


def test_two_components() -> None:
    cold, warm = TwoComponents(1.0), TwoComponents(0.0)
    one = modified_black_body(FREQUENCIES, 9.75, 1.63)
    np.testing.assert_allclose(two_component(FREQUENCIES, planck(353.0, 9.75), cold), one, rtol=1e-13)
    two = modified_black_body(FREQUENCIES, 15.7, 2.82)
    np.testing.assert_allclose(two_component(FREQUENCIES, planck(353.0, 15.7), warm), two, rtol=1e-13)
    both = two_component(FREQUENCIES, 1.0, TwoComponents(0.3))
    parts = 0.3 * two_component(FREQUENCIES, 1.0, cold) + 0.7 * two_component(FREQUENCIES, 1.0, warm)
    np.testing.assert_allclose(both, parts, rtol=1e-13)
    assert float(two_component(545.0, 2.5, TwoComponents(0.3), reference_ghz=545.0)) == pytest.approx(2.5)
    warmer = two_component(FREQUENCIES, 1.0, TwoComponents(0.3), temperature_scale=1.2)
    assert warmer[-1] > both[-1]
    assert warmer[2] == pytest.approx(both[2])
    for change in ({"cold_temperature": 12.0}, {"warm_temperature": 18.0}, {"cold_beta": 1.5}, {"warm_beta": 2.0}):
        assert not np.allclose(two_component(FREQUENCIES, 1.0, TwoComponents(0.3, **change)), both)


def test_shapes_broadcast_and_are_float64() -> None:
    result = modified_black_body(FREQUENCIES[:, None], np.float32([15.0, 20.0]), np.float32([1.5, 1.6]))
    assert (result.shape, result.dtype) == ((5, 2), np.float64)
    assert alpha(np.float32([4.0, 4.2])).dtype == np.float64


@pytest.mark.parametrize("row", TABLE_2, ids=lambda row: row.survey)
def test_table_2(row: SurveyIndex) -> None:
    assert abs(float(beta_star(row.ratio)) - row.beta_star) <= 8e-4


def test_table_2_is_whole() -> None:
    assert len(TABLE_2) == 8
    # With the sign of the denominator as printed, beta* would be about -5.
    assert all(float(alpha(row.ratio)) > 0 for row in TABLE_2)
    assert float(alpha(4.289)) == pytest.approx(3.0046, abs=1e-4)


def test_exact_wavelengths_give_another_number() -> None:
    assert pytest.approx((849.27, 1381.53), abs=0.01) == EXACT_WAVELENGTHS_UM
    assert NOMINAL_WAVELENGTHS_UM == (850.0, 1380.0)
    assert float(beta_star(4.289, wavelengths_um=EXACT_WAVELENGTHS_UM)) == pytest.approx(0.9925, abs=1e-4)


@pytest.mark.parametrize(
    ("temperature", "expected"), [(10, 0.819), (15, 0.514), (18, 0.419), (20, 0.373), (25, 0.293), (30, 0.241)]
)
def test_temperature_correction(temperature: float, expected: float) -> None:
    assert round(float(temperature_correction(temperature)), 3) == expected


@pytest.mark.parametrize("wavelengths", [NOMINAL_WAVELENGTHS_UM, EXACT_WAVELENGTHS_UM, (350.0, 500.0)])
@pytest.mark.parametrize("temperature", [5.0, 15.0, 20.0, 80.0])
def test_the_correction_recovers_beta_of_a_modified_black_body(
    wavelengths: tuple[float, float], temperature: float
) -> None:
    one, two = (299792.458 / w for w in wavelengths)
    ratio = modified_black_body(one, temperature, 1.62) / modified_black_body(two, temperature, 1.62)
    biased = beta_star(ratio, wavelengths_um=wavelengths)
    assert float(biased) < 1.62
    corrected = beta_corrected(biased, temperature, wavelengths_um=wavelengths)
    assert float(corrected) == pytest.approx(1.62, abs=1e-10)


def test_the_correction_vanishes_for_hot_dust_and_is_finite_for_cold() -> None:
    assert float(temperature_correction(1e6)) == pytest.approx(0.0, abs=1e-5)
    assert np.isfinite(temperature_correction(0.01))
    assert np.isnan(temperature_correction([0.0, -5.0, np.nan])).all()
    assert round(float(beta_corrected(1.0, 20.0)), 2) == 1.37


def test_ratios_without_a_logarithm_are_nan() -> None:
    result = alpha(np.array([4.0, 0.0, -1.0, np.nan, np.inf]))
    assert np.isfinite(result[0])
    assert np.isnan(result[1:4]).all()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: planck(0.0, 20.0), "positive frequencies"),
        (lambda: planck([353.0, -1.0], 20.0), "positive frequencies"),
        (lambda: planck(math.nan, 20.0), "positive frequencies"),
        (lambda: modified_black_body(353.0, 20.0, 1.6, reference_ghz=0.0), "`reference_ghz`"),
        (lambda: two_component(353.0, 1.0, TwoComponents(0.5), reference_ghz=-1.0), "`reference_ghz`"),
        (lambda: TwoComponents(1.1), "fraction from 0 to 1"),
        (lambda: TwoComponents(math.nan), "fraction from 0 to 1"),
        (lambda: TwoComponents(0.5, cold_temperature=0.0), "`cold_temperature`"),
        (lambda: TwoComponents(0.5, warm_temperature=-5.0), "`warm_temperature`"),
        (lambda: alpha(4.0, wavelengths_um=(1380.0, 850.0)), "the shorter"),
        (lambda: beta_star(4.0, wavelengths_um=(850.0, 850.0)), "the shorter"),
        (lambda: temperature_correction(20.0, wavelengths_um=(0.0, 850.0)), "the shorter"),
    ],
)
def test_wrong_input_is_refused(call: object, told: str) -> None:
    with pytest.raises(InputError, match=told):
        call()  # type: ignore[operator]
