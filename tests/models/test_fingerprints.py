"""Fingerprints of residuals: the published slopes, temperatures from ratios, and verdicts on synthetic truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking.errors import InputError
from skymill.models.emission import modified_black_body, planck
from skymill.models.fingerprint_pixels import monte_carlo_pixels
from skymill.models.fingerprints import (
    CAUSES,
    Bands,
    brightness_ratio,
    expected_co_slope,
    fingerprints,
    ratio_from_temperature,
    slope_temperature,
    slope_temperature_third,
    temperature_from_ratio,
    temperature_spread,
    warming,
)

TEMPERATURES = (18.0, 19.0, 19.6, 20.0, 21.0, 25.0)
B12 = (0.393, 0.382, 0.376, 0.371, 0.361, 0.325)
B13 = {
    1.48: (2.06, 2.69, 3.10, 3.39, 4.17, 7.83),
    1.5: (2.12, 2.75, 3.18, 3.48, 4.28, 8.02),
    1.53: (2.20, 2.86, 3.30, 3.61, 4.44, 8.33),
    1.6: (2.40, 3.12, 3.60, 3.94, 4.85, 9.10),
    1.62: (2.46, 3.20, 3.69, 4.04, 4.97, 9.33),
}
KELVIN_A_LOGARITHM = (7.08, 7.77, 8.20, 8.48, 9.21, 12.26)


def test_b12_at_every_temperature():
    # 19.6 K gives 0.37550, which rounds to either side of its row.
    np.testing.assert_allclose(slope_temperature(temperature=TEMPERATURES), B12, atol=5.1e-4)


@pytest.mark.parametrize("beta", B13)
def test_b13_at_every_temperature(beta):
    found = slope_temperature_third(temperature=TEMPERATURES, beta=beta)
    np.testing.assert_allclose(found, B13[beta], atol=0.0051)


def test_kelvin_a_logarithm_of_intensity():
    # The row of 19.6 K says 8.20 where the formula has 8.1947.
    np.testing.assert_allclose(temperature_spread(1.0, 857.0, TEMPERATURES), KELVIN_A_LOGARITHM, atol=0.0055)


def test_the_conservative_spread():
    """1.28 K needs 15.1, 13.9, 12.9 and 10.4 % of scatter at 20, 21, 22 and 25 K."""
    needed = 1.28 / temperature_spread(1.0, 857.0, [20.0, 21.0, 22.0, 25.0])
    np.testing.assert_allclose(needed, [0.151, 0.139, 0.129, 0.104], atol=6e-4)
    assert float(temperature_spread(needed[3], 857.0, 20.0)) == pytest.approx(0.885, abs=1e-3)


def test_warming_is_the_derivative_of_the_logarithm():
    step = 1e-4
    numeric = (np.log(planck(857.0, 20.0 + step)) - np.log(planck(857.0, 20.0 - step))) / (2 * step)
    assert float(warming(857.0, 20.0)) == pytest.approx(float(numeric), rel=1e-8)


def test_formulas_are_the_derivatives_of_the_law():
    """Every fingerprint is what a small change of its cause does to a modified black body."""
    bands = Bands(353.0, 857.0, 2998.0)
    k, k3 = (float(brightness_ratio(353.0, nu, 21.0, 1.6)) for nu in (857.0, 2998.0))
    small = 1e-5

    def intensities(cause):
        kelvin = 21.0 + small * (cause in ("temperature", "temperature-beta"))
        index = 1.6 + small * {"beta": 1.0, "temperature-beta": -0.04}.get(cause, 0.0)
        factor = 1.0 + small * (cause == "dust-to-gas")
        return [
            factor * float(modified_black_body(nu, kelvin, index, reference_ghz=217.0)) for nu in (353.0, 857.0, 2998.0)
        ]

    gas = float(modified_black_body(857.0, 21.0, 1.6, reference_ghz=217.0))
    for each in fingerprints(bands, temperature=21.0, beta=1.6, beta_per_kelvin=-0.04, pivot_ghz=217.0):
        low, high, third = intensities(each.cause)
        assert each.slope == pytest.approx((high - k * low) / (high - gas), rel=2e-3, abs=1e-6)
        assert each.third_slope == pytest.approx((third - k3 * low) / (high - gas), rel=2e-3, abs=1e-6)


def test_fingerprints_by_cause():
    found = {each.cause: each for each in fingerprints()}
    assert tuple(found) == CAUSES
    assert found["temperature"].slope == pytest.approx(float(slope_temperature()), rel=1e-12)
    assert found["temperature"].third_slope == pytest.approx(float(slope_temperature_third()), rel=1e-12)
    assert found["dust-to-gas"].slope == found["dust-to-gas"].third_slope == 0
    assert found["beta"].slope == pytest.approx(1.0, rel=1e-12)
    assert -0.16 < found["temperature-beta"].slope < -0.12


@pytest.mark.parametrize(
    "option",
    [
        {"bands": Bands(545.0, 857.0)},
        {"bands": Bands(third=2000.0)},
        {"temperature": 19.0},
        {"beta": 1.6},
        {"beta_per_kelvin": -0.05},
        {"pivot_ghz": 217.0},
    ],
)
def test_every_option_changes_the_fingerprints(option):
    assert fingerprints(**option) != fingerprints()


@settings(max_examples=40, deadline=None)
@given(st.floats(5.0, 60.0), st.floats(100.0, 3000.0), st.floats(10.0, 30.0))
def test_temperature_from_ratio_inverts_the_black_body(kelvin, frequency, mean):
    ratio = ratio_from_temperature(kelvin, frequency, mean)
    assert float(temperature_from_ratio(ratio, frequency, mean)) == pytest.approx(kelvin, rel=1e-9)


def test_no_temperature_without_a_positive_ratio():
    found = temperature_from_ratio([0.0, -1.0, np.nan, np.inf, 1.0], 857.0)
    assert np.isnan(found[:4]).all()
    assert found[4] == pytest.approx(20.0)


def test_small_ratios_do_not_overflow():
    assert 0 < float(temperature_from_ratio(1e-300, 857.0)) < 0.1


def test_temperatures_of_small_residuals_are_linear():
    exact = float(temperature_from_ratio(1.001, 857.0)) - 20.0
    assert exact == pytest.approx(float(temperature_spread(0.001)), rel=1e-3)


def test_co_slope():
    assert expected_co_slope(0.43, x_co=1e20) == pytest.approx(0.86)
    assert expected_co_slope(0.43, unit=2e20) == pytest.approx(0.86)


@pytest.mark.parametrize("cause", CAUSES)
def test_monte_carlo_changes_with_every_option(cause):
    plain = monte_carlo_pixels(cause, 0.1, pixels=50)
    options = [
        {"pixels": 51}, {"seed": 1}, {"column_spread": 0.5}, {"bands": Bands(high=545.0)}, {"temperature": 21.0},
        {"beta": 1.6}, {"pivot_ghz": 217.0},
    ]  # fmt: skip
    if cause == "temperature-beta":
        options.append({"beta_per_kelvin": -0.1})
    for option in options:
        other = monte_carlo_pixels(cause, 0.1, **{"pixels": 50, **option})
        assert other["high"].shape != plain["high"].shape or (other["high"] != plain["high"]).any(), option
    assert (monte_carlo_pixels(cause, 0.2, pixels=50)["high"] != plain["high"]).any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Bands(857.0, 353.0), "ascending"),
        (lambda: Bands(third=float("inf")), "ascending"),
        (lambda: fingerprints(temperature=0.0), "temperature"),
        (lambda: fingerprints(pivot_ghz=857.0), "pivot_ghz"),
        (lambda: fingerprints(beta=float("inf")), "`beta` inf"),
        (lambda: fingerprints(beta_per_kelvin=float("nan")), "`beta_per_kelvin` nan"),
        (lambda: temperature_from_ratio(1.0, -1.0), "frequency_ghz"),
        (lambda: temperature_from_ratio(1.0, 857.0, 0.0), "mean_temperature"),
        (lambda: monte_carlo_pixels("temprature", 0.1), "did you mean 'temperature'"),
        (lambda: monte_carlo_pixels("beta", -1.0), "sigma"),
    ],
)
def test_what_cannot_be_is_told(call, words):
    with pytest.raises(InputError, match=words):
        call()
