"""Knox's errors, the fraction of modes, and null tests, held against formulas and against draws."""

from __future__ import annotations

import numpy as np
import pytest
from skymill.chunking.errors import InputError
from skymill.engine.binning import Bins
from skymill.engine.correlated import draw
from skymill.engine.realisations import cross_power
from skymill.engine.spectra_result import assemble
from skymill.engine.spectrum_errors import effective_f_sky, knox_error, null_test
from skymill.engine.spectrum_estimator import Estimator, SpectrumMap


def test_the_fraction_of_modes_is_the_area_for_a_cut_and_less_for_an_apodised_one() -> None:
    weights = np.zeros(1000)
    weights[:300] = 1
    assert effective_f_sky(float(np.mean(weights**2)), float(np.mean(weights**4))) == pytest.approx(0.3)
    weights[:300] = np.linspace(0, 1, 300)
    assert effective_f_sky(float(np.mean(weights**2)), float(np.mean(weights**4))) == pytest.approx(
        0.3 * 5 / 9, rel=0.01
    )


def test_a_scale_of_the_weights_leaves_the_fraction_of_modes() -> None:
    assert effective_f_sky(4 * 0.2, 16 * 0.15) == pytest.approx(effective_f_sky(0.2, 0.15))


@pytest.mark.parametrize("moments", [(0.0, 0.0), (float("nan"), 1.0), (0.1, 0.0)])
def test_weights_without_a_common_pixel_are_refused(moments: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="no pixel in common"):
        effective_f_sky(*moments)


def test_knox_is_equation_23() -> None:
    error = knox_error([1.0, -2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 9.0], f_sky=0.4)
    expected = [np.sqrt((1 + 15) / (0.4 * 7)), np.sqrt((4 + 24) / (0.4 * 9))]
    np.testing.assert_allclose(error, expected, rtol=1e-15)


def test_knox_of_an_auto_spectrum_is_cosmic_variance() -> None:
    cl, modes = np.array([2.0, 3.0]), np.array([5.0, 7.0])
    np.testing.assert_allclose(knox_error(cl, cl, cl, modes), cl * np.sqrt(2 / modes), rtol=1e-15)


def test_a_negative_variance_is_no_error() -> None:
    error = knox_error([0.0, 0.0], [-1.0, 1.0], [1.0, 1.0], [4.0, 4.0])
    assert np.isnan(error[0])
    assert error[1] == 0.5


def test_null_test_counts_only_bins_with_a_value_and_an_error() -> None:
    chi2, freedom, p_value = null_test([1.0, np.nan, 2.0, 5.0, 5.0], [1.0, 1.0, 1.0, 0.0, np.nan])
    assert (chi2, freedom) == (5.0, 2)
    assert p_value == pytest.approx(np.exp(-2.5))  # two degrees of freedom: exp(-chi^2 / 2)
    assert np.isnan(null_test([np.nan], [1.0])[2])


def drawn_pair(number: int, lmax: int, correlation: float) -> dict[tuple[str, str], np.ndarray]:
    """Spectra of two sets of coefficients, without any map."""
    first, second = draw(lmax, (number, 0)), draw(lmax, (number, 1))
    second = correlation * first + np.sqrt(1 - correlation**2) * second
    both = {"a": 3 * first, "b": second}
    return {(x, y): cross_power(both[x], both[y], lmax) for x, y in (("a", "a"), ("b", "b"), ("a", "b"))}


@pytest.mark.parametrize("bins", [None, Bins.linear(48, 6)])
def test_p_values_of_true_nulls_are_uniform(bins: Bins | None) -> None:
    from scipy.stats import kstest

    lmax = 48
    estimator = Estimator({"a": SpectrumMap(), "b": SpectrumMap()}, lmax, bins)
    found = [
        float(assemble([("a", "b")], drawn_pair(number, lmax, 0.0), estimator, errors="knox")["p_value"][0])
        for number in range(200)
    ]
    assert kstest(found, "uniform").pvalue > 0.01
    assert 0.4 < np.mean(found) < 0.6


def test_a_correlation_shows() -> None:
    estimator = Estimator({"a": SpectrumMap(), "b": SpectrumMap()}, 48, Bins.linear(48, 6))
    found = assemble([("a", "b")], drawn_pair(1, 48, 0.3), estimator, errors="knox")
    assert float(found["p_value"][0]) < 1e-10


def test_knox_is_the_scatter_of_draws() -> None:
    lmax, bins = 32, Bins.from_edges([2, 8, 16, 33], weighting="2l+1")
    estimator = Estimator({"a": SpectrumMap(), "b": SpectrumMap()}, lmax, bins)
    spectra = [drawn_pair(number, lmax, 0.5)[("a", "b")] for number in range(1000)]
    scatter = estimator.average(np.array(spectra)).std(axis=0, ddof=1)
    truth = knox_error(3 * 0.5, 9.0, 1.0, bins.modes)
    np.testing.assert_allclose(scatter, truth, rtol=0.08)  # 3.5 standard deviations of a scatter of a thousand


def test_a_steep_spectrum_in_even_weights_scatters_more_than_knox_says() -> None:
    # What the documentation says of the bin of 2 to 9, by the variance of each multipole.
    ell = np.arange(2, 10)
    cl = 1.0 / ell**2
    scatter = np.sqrt(np.mean(cl**2 * 2 / (2 * ell + 1)) / ell.size)
    knox = knox_error(cl.mean(), cl.mean(), cl.mean(), np.sum(2 * ell + 1))
    assert scatter / knox == pytest.approx(2.2, abs=0.05)
