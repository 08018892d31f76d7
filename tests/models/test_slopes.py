"""Slopes from covariance matrices against least squares on points; verdicts on slopes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from skymill.chunking.errors import InputError
from skymill.models.fingerprint_pixels import monte_carlo_pixels
from skymill.models.fingerprints import CAUSES, Bands, brightness_ratio, fingerprints
from skymill.models.slopes import METHODS, correlation, formal_error, jackknife, line_slope
from skymill.models.verdicts import NONE, chi2_probability, classify


@pytest.fixture
def points():
    random = np.random.default_rng(3)
    truth = random.normal(0, 2, 4000)
    noise = random.multivariate_normal([0, 0], [[0.5, 0.3], [0.3, 0.8]], 4000).T
    return truth + noise[0], 0.4 * truth + noise[1]


def test_ols_is_least_squares(points):
    wanted = stats.linregress(*points)
    found = np.cov(*points)
    assert float(line_slope(found)) == pytest.approx(wanted.slope, rel=1e-12)
    assert float(formal_error(found, 4000)) == pytest.approx(wanted.stderr, rel=1e-10)
    assert float(correlation(found)) == pytest.approx(wanted.rvalue, rel=1e-12)


def test_inverse_is_least_squares_of_x_on_y(points):
    wanted = stats.linregress(points[1], points[0])
    assert float(line_slope(np.cov(*points), "inverse")) == pytest.approx(1 / wanted.slope, rel=1e-12)
    error = wanted.stderr / wanted.slope**2
    assert float(formal_error(np.cov(*points), 4000, "inverse")) == pytest.approx(error, rel=1e-10)


def test_deming_minimises_distances_in_units_of_the_noise(points):
    noise = np.array([[0.5, 0.1], [0.1, 0.8]])
    x, y = points[0] - points[0].mean(), points[1] - points[1].mean()

    def distance(slope):
        return ((y - slope * x) ** 2).sum() / (noise[1, 1] + slope**2 * noise[0, 0] - 2 * slope * noise[0, 1])

    wanted = optimize.minimize_scalar(distance, (0.2, 0.6), options={"xtol": 1e-10}).x
    assert float(line_slope(np.cov(*points), "deming", noise)) == pytest.approx(wanted, rel=1e-6)
    assert float(line_slope(np.cov(*points), "deming", 7 * noise)) == pytest.approx(wanted, rel=1e-6)


def test_deming_with_correlated_noise_finds_the_truth(points):
    noise = np.array([[0.5, 0.3], [0.3, 0.8]])
    found = float(line_slope(np.cov(*points), "deming", noise))
    assert found == pytest.approx(0.4, abs=0.02)
    assert abs(float(line_slope(np.cov(*points), "deming")) - found) > 0.02


def test_deming_takes_noise_of_one_only():
    """Noise in y alone is least squares, in x alone inverse least squares; noise that both share is neither."""
    c = np.array([[4.0, 1.5], [1.5, 2.0]])
    assert float(line_slope(c, "deming", [[0, 0], [0, 1.0]])) == pytest.approx(float(line_slope(c)))
    assert float(line_slope(c, "deming", [[1.0, 0], [0, 0]])) == pytest.approx(float(line_slope(c, "inverse")))
    assert np.isfinite(float(line_slope(c, "deming", [[1.0, 1.0], [1.0, 1.0]])))


@settings(max_examples=40, deadline=None)
@given(st.floats(-3, 3), st.floats(0.1, 5))
def test_a_line_without_scatter_has_one_slope(slope, width):
    c = width * np.array([[1.0, slope], [slope, slope**2]])
    for method in ("ols", "deming"):
        assert float(line_slope(c, method)) == pytest.approx(slope, rel=1e-7, abs=1e-7)


def test_many_slopes_at_once(points):
    matrices = np.stack([np.cov(points[0][k::5], points[1][k::5]) for k in range(5)])
    for method in METHODS:
        np.testing.assert_array_equal(line_slope(matrices, method), [line_slope(c, method) for c in matrices])


def test_no_slope_without_scatter():
    assert np.isnan(line_slope(np.zeros((2, 2))))
    assert np.isnan(correlation(np.zeros((2, 2))))
    assert np.isnan(formal_error(np.eye(2), 100, "deming"))


def test_slope_of_zero_has_an_error():
    assert float(formal_error(np.eye(2), 102)) == pytest.approx(0.1)


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=(30, 2))
    without = (values.sum(axis=0) - values) / 29
    np.testing.assert_allclose(jackknife(without), np.cov(values.T) / 30, rtol=1e-12)
    assert np.isnan(jackknife(np.ones(1))).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: line_slope(np.eye(2), "demming"), "did you mean 'deming'"),
        (lambda: line_slope(np.eye(2), "ols", np.eye(2)), "does not use it"),
    ],
)
def test_what_cannot_be_fitted_is_told(call, words):
    with pytest.raises(InputError, match=words):
        call()


def measured(cause, sigma, *, third=True, seed=5):
    """Slopes of Monte Carlo pixels with noise in the high band, and their jackknife errors over 50 groups."""
    sky = monte_carlo_pixels(cause, sigma, pixels=20_000, seed=seed)
    k, k3 = (float(brightness_ratio(353.0, nu, 20.0, 1.5)) for nu in (857.0, 3000.0))
    x, y, z = sky["high"] - sky["gas"], sky["high"] - k * sky["low"], sky["third"] - k3 * sky["low"]
    scatter = 0.03 * x.std() * np.random.default_rng(seed).standard_normal((2, x.size))
    y, z = y + scatter[0], z + scatter[1]

    def slopes(keep):
        c = np.cov([x[keep], y[keep], z[keep]])
        return [c[0, 1] / c[0, 0], c[0, 2] / c[0, 0]]

    group = np.arange(x.size) % 50
    covariance = jackknife([slopes(group != each) for each in range(50)])
    found = slopes(group >= 0)
    more = {"third_slope": found[1], "third_error": covariance[1, 1] ** 0.5, "covariance": covariance[0, 1]}
    return found[0], covariance[0, 0] ** 0.5, more if third else {}


@pytest.mark.parametrize("third", [True, False])
@pytest.mark.parametrize(
    ("cause", "sigma"),
    [("temperature", 0.5), ("temperature", 1.28), ("dust-to-gas", 0.1), ("beta", 0.05), ("temperature-beta", 0.5)],
)
def test_every_cause_is_recognised(cause, sigma, third):
    slope, error, more = measured(cause, sigma, third=third)
    verdict = classify(fingerprints(), slope, error, **more)
    assert verdict.cause == cause
    assert verdict.consistent == (cause,)
    assert verdict.likelihood[cause] > 0.9
    assert sum(verdict.likelihood.values()) == pytest.approx(1)
    assert cause in str(verdict)


def test_a_mixture_is_none_of_these():
    verdict = classify(fingerprints(), 0.68, 0.01)
    assert verdict.cause == NONE
    assert verdict.consistent == ()


def test_a_wide_error_leaves_it_open():
    assert len(classify(fingerprints(), 0.1, 0.3).consistent) >= 3


@pytest.mark.parametrize(
    "option",
    [
        {"slope": 0.31}, {"error": 0.1}, {"third_slope": 3.0}, {"third_error": 0.9}, {"covariance": 0.004},
        {"tolerance": 0.1}, {"third_tolerance": 0.5},
    ],
)  # fmt: skip
def test_every_option_changes_the_verdict(option):
    plain = {"slope": 0.36, "error": 0.02, "third_slope": 3.3, "third_error": 0.3}
    before = classify(fingerprints(), **plain)
    after = classify(fingerprints(), **{**plain, **option})
    assert dict(before.chi2) != dict(after.chi2)


def test_the_limit_of_rejection_matters():
    assert classify(fingerprints(), 0.45, 0.02, reject=0.2).cause == NONE
    assert classify(fingerprints(), 0.45, 0.02, reject=0.001).cause == "temperature"


@pytest.mark.parametrize("third", [False, True])
def test_errors_from_few_patches_reject_less(third):
    """Against Student's and Hotelling's distributions, by drawing patches; many patches are as if errors were known."""
    rng = np.random.default_rng(5)
    patches, slopes = 4, 2 if third else 1
    truth = fingerprints()[0]
    centre = np.array([truth.slope, truth.third_slope])[:slopes]
    probability = []
    for _ in range(4000):
        drawn = centre + rng.normal(size=(patches, slopes)) * [0.2, 1.5][:slopes]
        covariance = np.atleast_2d(np.cov(drawn.T)) / patches
        found, error = drawn.mean(axis=0), np.sqrt(np.diagonal(covariance))
        more = {"third_slope": found[1], "third_error": error[1], "covariance": covariance[0, 1]} if third else {}
        options = {"tolerance": 0.0, "third_tolerance": 0.0, "patches": patches, **more}
        probability.append(classify(fingerprints(), found[0], error[0], **options).probability["temperature"])
    for level in (0.05, 0.3, 0.7):
        assert np.mean(np.array(probability) < level) == pytest.approx(
            level, abs=4 * np.sqrt(level * (1 - level) / 4000)
        )
    known, many = (classify(fingerprints(), 0.5, 0.05, patches=number) for number in (None, 10**7))
    for kind in ("probability", "likelihood"):
        for cause, value in getattr(known, kind).items():
            assert getattr(many, kind)[cause] == pytest.approx(value, rel=1e-3, abs=1e-12)
    few = classify(fingerprints(), 0.68, 0.02, patches=3)
    assert few.cause == "temperature"
    assert few.likelihood["beta"] > classify(fingerprints(), 0.68, 0.02).likelihood["beta"]
    with pytest.raises(InputError, match="more patches than slopes"):
        classify(fingerprints(), 0.68, 0.02, patches=1)
    with pytest.raises(InputError, match="more patches than slopes"):
        classify(fingerprints(), 0.68, 0.02, third_slope=1.0, third_error=0.1, patches=2)


@pytest.mark.parametrize("patches", [4, 6, 30])
@pytest.mark.parametrize("third", [False, True])
def test_likelihoods_are_densities_of_what_probabilities_add_up(third, patches):
    """Density of a slope, or of two in their plane: how the probability falls with distance, or with its square."""
    more = {"third_slope": 1.5, "third_error": 0.9, "covariance": 0.02} if third else {}
    verdict = classify(fingerprints(), 0.3, 0.2, patches=patches, **more)

    def density(chi2):
        step = 1e-4 * chi2
        low, high = (chi2_probability(chi2 + each, 1 + third, patches) for each in (step, -step))
        return (high - low) / (2 * step) * (1.0 if third else np.sqrt(chi2))

    wanted = {cause: density(value) for cause, value in verdict.chi2.items()}
    for cause, value in verdict.likelihood.items():
        assert value == pytest.approx(wanted[cause] / sum(wanted.values()), rel=1e-5)


@pytest.mark.parametrize("pivot", [200.0, 353.0, 800.0])
def test_the_tolerance_of_the_third_slope_is_a_part_of_that_of_temperature(pivot):
    found = fingerprints(pivot_ghz=pivot)
    away = {"third_slope": 6.0, "third_error": 0.05}
    wanted = ((6.0 - found[0].third_slope) / np.hypot(0.05, 0.1 * found[0].third_slope)) ** 2
    verdict = classify(found, found[0].slope, 0.01, **away)
    assert verdict.chi2["temperature"] == pytest.approx(wanted, rel=1e-9)
    assert "temperature" not in verdict.consistent
    with pytest.raises(InputError, match='without a cause "temperature"'):
        classify(found[1:], found[0].slope, 0.01, **away)


def test_probabilities_of_chi2():
    for degrees in (1, 2):
        assert chi2_probability(3.7, degrees) == pytest.approx(stats.chi2.sf(3.7, degrees), rel=1e-12)


def test_other_bands_have_other_expectations():
    found = fingerprints(Bands(545.0, 857.0))
    assert classify(found, found[0].slope, 0.005, tolerance=0.005).cause == CAUSES[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slope": float("nan"), "error": 0.1}, "slope"),
        ({"slope": 0.1, "error": -0.1}, "error"),
        ({"slope": 0.1, "error": 0.1, "third_slope": 3.0}, "third_error"),
        ({"slope": 0.1, "error": 0.1, "reject": 0.0}, "reject"),
        ({"slope": 0.1, "error": 0.0, "tolerance": 0.0}, "not positive"),
        ({"slope": 0.1, "error": 0.1, "tolerance": -0.03}, "`tolerance` -0.03"),
        ({"slope": 0.1, "error": 0.1, "third_tolerance": float("inf")}, "`third_tolerance` inf"),
    ],
)
def test_what_cannot_be_judged_is_told(options, words):
    with pytest.raises(InputError, match=words):
        classify(fingerprints(), **options)
