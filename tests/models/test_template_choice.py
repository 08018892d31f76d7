"""Elbows, dropped and merged templates, held to fits made anew with NumPy."""

import numpy as np
import pytest
from skymill.chunking.errors import InputError
from skymill.models.gls import accumulate
from skymill.models.template_choice import Limits, elbow, grouped, grouped_moments, merged_name, simplify

PIXELS = 4000


def columns(seed=0, n=4):
    return np.random.default_rng(seed).gamma(3.0, 1.0, (n, PIXELS))


def fitted(design, data):
    """Coefficients and chi^2 by least squares, offset last."""
    full = np.vstack([design, np.ones(PIXELS)]).T
    coefficient, *_ = np.linalg.lstsq(full, data.T, rcond=None)
    return coefficient.T, ((data - (full @ coefficient).T) ** 2).sum(axis=1)


def test_grouped_equations_are_those_of_summed_templates():
    x = columns()
    data = np.stack([x[0] + 2 * x[1] + 3, x.sum(axis=0)]) + np.random.default_rng(1).normal(size=(2, PIXELS))
    weights = np.random.default_rng(2).uniform(0.5, 2.0, (2, PIXELS))
    summed = np.stack([x[0] + x[2], x[3]])
    for own in (None, weights[0], weights):
        wanted = accumulate(summed, data, own)
        found = grouped(accumulate(x, data, own), [[0, 2], [3]])
        np.testing.assert_allclose(found.solve().coefficient, wanted.solve().coefficient, rtol=1e-11)
        np.testing.assert_allclose(found.solve().chi2, wanted.solve().chi2, rtol=1e-11)
        np.testing.assert_allclose(found.gram, wanted.gram, rtol=1e-11)


def test_grouped_moments_work_on_parts_at_once():
    parts = np.random.default_rng(3).normal(size=(5, 2, 6, 6))
    found = grouped_moments(parts, 3, [[0, 1], [2]])
    for part in range(5):
        for group in range(2):
            np.testing.assert_allclose(found[part, group], grouped_moments(parts[part, group], 3, [[0, 1], [2]]))
    assert found.shape == (5, 2, 5, 5)


def test_a_template_without_signal_is_dropped_and_the_step_recorded():
    x = columns(4)
    data = (0.4 * x[0] + 0.3 * x[1] + 0.2 * x[2] + np.random.default_rng(5).normal(size=PIXELS))[None]
    left, steps = simplify(accumulate(x, data), list("abcd"), Limits())
    assert left == [("a",), ("b",), ("c",)]
    (step,) = steps
    assert (step.action, step.templates, step.measure) == ("dropped", ("d",), "significance")
    np.testing.assert_allclose(step.chi2_before, fitted(x, data)[1].sum(), rtol=1e-10)
    np.testing.assert_allclose(step.chi2_after, fitted(x[:3], data)[1].sum(), rtol=1e-10)
    coefficient, _ = fitted(x, data)
    sigma = np.sqrt(step.chi2_before / (PIXELS - 5))
    design = np.vstack([x, np.ones(PIXELS)])
    error = sigma * np.sqrt(np.linalg.inv(design @ design.T)[3, 3])
    np.testing.assert_allclose(step.value, abs(coefficient[0, 3]) / error, rtol=1e-8)
    assert "d dropped: significance" in str(step)


def test_a_small_contribution_is_dropped_though_it_is_significant():
    x = columns(6, 2)
    data = (x[0] + 0.02 * x[1])[None] + 1e-3 * np.random.default_rng(7).normal(size=PIXELS)
    assert simplify(accumulate(x, data), ["a", "b"], Limits(contribution=0.01))[1] == []
    left, (step,) = simplify(accumulate(x, data), ["a", "b"], Limits(contribution=0.05))
    assert left == [("a",)]
    assert step.measure == "contribution"
    np.testing.assert_allclose(step.value, 0.02 * x[1].std() / data.std(), rtol=2e-2)


def test_degenerate_templates_are_merged():
    x = columns(8, 3)
    twins = np.stack([x[0], x[0] + 0.05 * x[1], x[2]])
    data = (twins.sum(axis=0) + 0.01 * np.random.default_rng(9).normal(size=PIXELS))[None]
    left, (step,) = simplify(accumulate(twins, data), ["cluster_1", "cluster_2", "nhii"], Limits(correlation=0.9))
    assert left == [("cluster_1", "cluster_2"), ("nhii",)]
    assert (step.action, step.into, step.measure) == ("merged", "cluster_1_2", "correlation")
    assert 0.9 < step.value < 1
    assert simplify(accumulate(twins, data), list("abc"), Limits(correlation=0.9999))[1] == []
    kept = simplify(accumulate(twins, data), list("abc"), Limits(correlation=0.9), keep=["b"])
    assert kept[1] == []


def test_every_band_must_pass_a_limit():
    x = columns(10, 2)
    noise = 0.1 * np.random.default_rng(11).normal(size=(2, PIXELS))
    data = np.stack([x[0], x[0] + x[1]]) + noise
    assert simplify(accumulate(x, data[:1]), ["a", "b"], Limits())[0] == [("a",)]
    assert simplify(accumulate(x, data), ["a", "b"], Limits())[0] == [("a",), ("b",)]


def test_other_errors_decide_where_they_are_given():
    x = columns(12, 2)
    data = (x[0] + 0.2 * x[1])[None] + np.random.default_rng(13).normal(size=PIXELS)
    equations = accumulate(x, data)
    assert simplify(equations, ["a", "b"], Limits())[1] == []
    large = simplify(equations, ["a", "b"], Limits(), errors=lambda places: np.full((1, len(places)), 0.15))
    assert large[0] == [("a",)]
    assert large[1][0].value == pytest.approx(equations.solve().coefficient[0, 1] / 0.15)


def test_what_is_asked_for_comes_first():
    x = columns(14)
    data = x.sum(axis=0)[None] + 0.01 * np.random.default_rng(15).normal(size=PIXELS)
    left, steps = simplify(accumulate(x, data), list("abcd"), Limits(), drop=["b"], merge=[["d", "a"]])
    assert left == [("a", "d"), ("c",)]
    assert [(step.action, step.measure) for step in steps] == [("dropped", "asked"), ("merged", "asked")]
    assert steps[1].templates == ("a", "d")
    assert "as asked" in str(steps[0])
    np.testing.assert_allclose(steps[1].chi2_after, fitted(np.stack([x[0] + x[3], x[2]]), data)[1].sum(), rtol=1e-6)


def test_what_is_asked_for_may_be_what_makes_collinear_templates_solvable():
    x = columns(16, 2)
    design = np.stack([x[0] + x[1], x[0], x[1]])  # as the total beside low and intermediate velocities
    data = (x[0] + 0.5 * x[1])[None] + 0.01 * np.random.default_rng(17).normal(size=PIXELS)
    equations = accumulate(design, data)
    with pytest.raises(InputError, match=r"collinear.*Leave one of them out: `drop` or `merge` does it"):
        simplify(equations, ["nhi", "lvc", "ivc"], Limits())
    with pytest.raises(InputError, match="collinear"):  # the sum of two is the third
        simplify(equations, ["nhi", "lvc", "ivc"], Limits(), merge=[["lvc", "ivc"]])
    left, (step,) = simplify(equations, ["nhi", "lvc", "ivc"], Limits(), drop=["nhi"])
    assert left == [("lvc",), ("ivc",)]
    assert np.isnan(step.chi2_before)
    assert step.chi2_after == pytest.approx(accumulate(x, data).solve().chi2[0])
    assert "could not be told apart" in str(step)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": ["z"]}, "`keep` names 'z'"),
        ({"drop": ["z"]}, "`drop` names 'z'"),
        ({"merge": [["a", "z"]]}, "`merge` names 'z'"),
        ({"merge": [["a"]]}, "two templates or more"),
        ({"drop": ["a"], "merge": [["a", "b"]]}, "more than once"),
        ({"drop": ["a", "b"]}, "one at least"),
    ],
)
def test_bad_names(options, words):
    x = columns(16, 2)
    with pytest.raises(InputError, match=words):
        simplify(accumulate(x, x[:1]), ["a", "b"], Limits(), **options)


@pytest.mark.parametrize("options", [{"significance": -1}, {"contribution": 1.0}, {"correlation": 0.0}])
def test_bad_limits(options):
    with pytest.raises(InputError, match="expected"):
        Limits(**options)


def test_elbow():
    chi2 = [1000.0, 500.0, 120.0, 110.0, 104.0, 100.0]
    assert elbow([1, 2, 3, 4, 5, 6], chi2) == 4
    assert elbow([1, 2, 3, 4, 5, 6], chi2, 0.0) == 6
    assert elbow([1, 2, 3, 4, 5, 6], chi2, 0.1) == 3
    assert elbow([1, 2, 3, 4, 5, 6], chi2, 0.75) == 2
    assert elbow([1, 2, 3, 4, 5, 6], chi2, 1.0) == 1
    assert elbow([1, 2, 3, 4, 5, 6], [value * 1e9 for value in chi2], 0.1) == 3
    assert elbow([4], [1.0]) == 4
    for numbers, values, share in (([], [], 0.1), ([1], [np.nan], 0.1), ([1], [0.0], 0.1), ([1, 2], [1.0], 0.1)):
        with pytest.raises(InputError, match="chi"):
            elbow(numbers, values, share)
    with pytest.raises(InputError, match="share"):
        elbow([1], [1.0], 2.0)


def test_names_of_sums():
    assert merged_name(["cluster_3", "cluster_4"]) == "cluster_3_4"
    assert merged_name(["lvc", "ivc"]) == "lvc_ivc"
    assert merged_name(["cluster_3", "nhii"]) == "cluster_3_nhii"
