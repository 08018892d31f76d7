"""Normal equations against dense least squares, in pieces and whole; errors, conditions and what cannot be solved."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking.errors import InputError
from skymill.models.gls import NormalEquations, accumulate, combine, level_of, two_sum
from skymill.models.gls_blocks import Blocks
from skymill.models.gls_solution import combination, degeneracies, jackknife_error

NAMES = ("nhi", "nhii", "nh2")


def problem(size=5000, seed=0, level=5.0):
    rng = np.random.default_rng(seed)
    design = rng.gamma(2.0, 1.0, (3, size))
    data = np.stack([0.4 * design[0] + 0.2 * design[1] + level, design.sum(0) - 1.0]) + rng.normal(size=(2, size))
    return design, data, rng.uniform(0.5, 2.0, (2, size))


def dense(design, data, weights=None, offset=True, extra=np.longdouble):
    """Coefficients, covariance for weights 1 / variance, chi^2: by solving with 80 bits."""
    columns = np.vstack([design, np.ones(design.shape[1])])[: None if offset else len(design)].astype(extra)
    weights = np.ones(design.shape[1]) if weights is None else weights
    gram, right = (columns * weights) @ columns.T, (columns * weights) @ data.astype(extra)
    inverse = np.linalg.inv(gram.astype(float)).astype(extra)
    for _ in range(3):  # Newton: the inverse of 80 bits
        inverse = inverse @ (2 * np.eye(len(gram)) - gram @ inverse)
    theta = inverse @ right
    return theta.astype(float), inverse.astype(float), float((weights * (data - theta @ columns) ** 2).sum())


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("weighting", ["none", "shared", "by band"])
def test_solutions_equal_dense_least_squares(offset, weighting):
    design, data, weights = problem()
    given_ = {"none": None, "shared": weights[0], "by band": weights}[weighting]
    found = accumulate(design, data, given_).solve(offset=offset, variance=np.ones(2))
    for band in range(2):
        own = {"none": None, "shared": weights[0], "by band": weights[band]}[weighting]
        theta, covariance, chi2 = dense(design, data[band], own, offset)
        np.testing.assert_allclose(found.coefficient[band], theta, rtol=1e-12)
        np.testing.assert_allclose(found.covariance[band], covariance, rtol=1e-11)
        np.testing.assert_allclose(found.chi2[band], chi2, rtol=1e-12)
    assert (found.dof, found.pixels) == (5000 - 3 - offset, 5000)
    np.testing.assert_array_equal(found.error, np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2)))


def test_without_noise_errors_come_from_the_residuals():
    design, data, _ = problem()
    found, unit = accumulate(design, data).solve(), accumulate(design, data).solve(variance=np.ones(2))
    np.testing.assert_allclose(found.covariance, unit.covariance * (unit.chi2 / unit.dof)[:, None, None], rtol=1e-14)
    np.testing.assert_array_equal(found.chi2, unit.chi2)
    quarter = accumulate(design, data).solve(variance=np.array([4.0, np.nan]))
    np.testing.assert_allclose(quarter.chi2, unit.chi2 / [4, 1])
    np.testing.assert_allclose(quarter.error[0], 2 * unit.error[0])
    np.testing.assert_array_equal(quarter.error[1], found.error[1])


def test_gram_right_and_squares_are_those_of_the_maps_as_they_came():
    design, data, weights = problem()
    columns = np.vstack([design, np.ones(design.shape[1])])
    shared, single = accumulate(design, data), accumulate(design, data, weights)
    np.testing.assert_allclose(shared.gram, columns @ columns.T, rtol=1e-12)
    np.testing.assert_allclose(shared.right, columns @ data.T, rtol=1e-12)
    np.testing.assert_allclose(shared.squares, (data**2).sum(1), rtol=1e-12)
    assert (shared.bands, single.bands, shared.templates) == (2, 2, 3)
    for band in range(2):
        np.testing.assert_allclose(single.gram[band], (columns * weights[band]) @ columns.T, rtol=1e-12)
        np.testing.assert_allclose(single.right[:, band], (columns * weights[band]) @ data[band], rtol=1e-12)
        np.testing.assert_allclose(single.squares[band], (weights[band] * data[band] ** 2).sum(), rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 4999), max_size=12), st.booleans(), st.integers(0, 2**32 - 1))
def test_partitions_merged_equal_the_whole(cuts, weighted, seed):
    design, data, weights = problem(seed=seed, level=1e3)
    given_ = weights if weighted else None
    whole = accumulate(design, data, given_).solve(variance=np.ones(2))
    edges = sorted({0, 5000, *cuts})
    pieces = [
        accumulate(design[:, a:b], data[:, a:b], None if given_ is None else given_[:, a:b])
        for a, b in itertools.pairwise(edges)
    ]
    found = combine(pieces).solve(variance=np.ones(2))
    assert found.pixels == 5000
    np.testing.assert_allclose(found.coefficient, whole.coefficient, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.error, whole.error, rtol=1e-12)
    np.testing.assert_allclose(found.chi2, whole.chi2, rtol=1e-12)


def test_additions_are_compensated():
    """A million small numbers beside a large one: plain float64 loses all of them."""
    one, small = np.array([1e16]), np.array([1.0])
    total, lost = one.copy(), np.zeros(1)
    for _ in range(1000):
        total, rest = two_sum(total, small)
        lost += rest
    assert float((total + lost)[0] - 1e16) == 1000.0
    assert float(np.add.accumulate([1e16, *[1.0] * 1000])[-1]) == 1e16
    first = NormalEquations(np.full((1, 2, 2), 1e16), np.zeros(1), 0, 1)
    each = NormalEquations(np.ones((1, 2, 2)), np.zeros(1), 0, 1)
    assert combine([first, *[each] * 1000]).total[0, 0, 0] - 1e16 == 1000.0


@pytest.mark.parametrize("level", [1e4, 1e8])
def test_a_huge_offset_costs_no_digits(level):
    """Sums of squares are 1e16 times chi^2 here; without levels taken off nothing would be left of it."""
    design, data, _ = problem(level=0.0)
    design[1] += min(level, 1e4)  # a template far from zero, though not as far as float32 could not tell
    shifted = np.rint((data + level) * 2.0**20) / 2.0**20  # exact: what is added is not rounded off
    plain = accumulate(design, shifted - level).solve(variance=np.ones(2))
    found = accumulate(design, shifted).solve(variance=np.ones(2))
    np.testing.assert_allclose(found.chi2, plain.chi2, rtol=1e-12)
    np.testing.assert_allclose(found.coefficient[:, :3], plain.coefficient[:, :3], rtol=1e-11)
    np.testing.assert_allclose(found.error[:, :3], plain.error[:, :3], rtol=1e-11)
    naive = accumulate(design, shifted, reference=np.zeros(5))
    lost = naive.squares - np.einsum("bn,nb->b", found.coefficient, naive.right)
    assert level < 1e5 or np.all(np.abs(lost / plain.chi2 - 1) > 1e-3)


def test_chi2_is_right_for_a_signal_a_million_times_the_noise():
    design, _, _ = problem()
    rng = np.random.default_rng(5)
    noise = rng.normal(size=design.shape[1])
    data = 1e6 * (design[0] - 2 * design[1]) + noise
    found = accumulate(design, [data]).solve(variance=np.ones(1))
    theta, _, chi2 = dense(design, data)
    np.testing.assert_allclose(found.coefficient[0], theta, atol=1e-8)  # of coefficients of 1e6
    assert abs(found.chi2[0] / chi2 - 1) < 5e-16 * data.var() / noise.var()  # as promised: 1e-3 here


def test_what_is_not_finite_or_has_no_weight_is_left_out():
    design, data, weights = problem()
    holes = design.copy()
    holes[1, ::7], holes[2, 3] = np.nan, np.inf
    missing = data.copy()
    missing[1, 5::11] = np.nan
    kept = np.isfinite(holes).all(0) & np.isfinite(missing).all(0)
    found, right = accumulate(holes, missing), accumulate(design[:, kept], data[:, kept])
    assert found.count == np.count_nonzero(kept)
    np.testing.assert_allclose(found.gram, right.gram, rtol=1e-13)
    weights[0, 10:20] = 0.0
    found = accumulate(design, data, weights)
    assert found.count == 4990
    kept = np.where(weights[0] > 0, weights[1], 0)
    np.testing.assert_allclose(found.gram[1], accumulate(design, data[1:], kept).gram)
    for wrong in (-1.0, np.nan, np.inf):
        weights[1, 30:33] = wrong
        with pytest.raises(InputError, match="3 pixels have a weight that is negative, NaN or infinite"):
            accumulate(design, data, weights)
    design[:, 30:33] = np.nan
    assert accumulate(design, data, weights).count == 4987


@pytest.mark.parametrize(("groups", "length"), [(1, 64), (3, 64), (1, 1), (3, 2**15), (1, 2**14)])
def test_blocks_sum_by_part(groups, length):
    rng = np.random.default_rng(3)
    blocks = Blocks(2, 3, groups, length)
    cells = blocks.cells
    design, data = list(rng.normal(size=(2, cells)).astype(np.float32)), list(rng.normal(size=(3, cells)))
    weights = list(rng.uniform(1, 2, (groups, cells))) if groups > 1 else []
    used = rng.random(cells) < 0.6
    design[1][rng.random(cells) < 0.01] = np.nan
    reference = rng.normal(size=5)
    moments, counts, wrong = blocks(design, data, weights, used, reference)
    own = min(length, cells)
    assert moments.shape == (cells // own, groups, blocks.size, blocks.size)
    assert wrong == 0
    good = used & np.isfinite(design[1])
    columns = np.vstack([*design, np.zeros(cells), *data]).astype(float)
    columns[[0, 1, 3, 4, 5]] -= reference[:, None]
    columns[2] = 1.0
    for part in {0, cells // own - 1}:
        inside = np.zeros(cells, bool)
        inside[part * own : (part + 1) * own] = True
        chosen = np.where(inside & good)[0]
        assert counts[part] == chosen.size
        for group in range(groups):
            rows = [0, 1, 2, *([3 + group] if groups > 1 else [3, 4, 5])]
            weight = weights[group][chosen] if groups > 1 else 1.0
            right = (columns[rows][:, chosen] * weight) @ columns[rows][:, chosen].T
            np.testing.assert_allclose(moments[part, group], right, rtol=1e-12, atol=1e-12 * cells)
    with pytest.raises(InputError, match="power of two"):
        Blocks(2, 3, 1, 48 * 3)


def test_ridge_and_prior_follow_their_formula():
    design, data, _ = problem()
    central = design - design.mean(1, keepdims=True)
    gram, right = central @ central.T, central @ (data[0] - data[0].mean())
    for ridge, prior, strength in (
        (0.3, None, None),
        (2.0, np.array([1.0, -1.0, 0.5]), None),
        (0.1, np.array([1.0, -1.0, 0.5]), np.array([100.0, 2000.0, 5.0])),
    ):
        pull = ridge * np.diag(np.diag(gram) if strength is None else strength)
        theta = np.linalg.solve(gram + pull, right + pull @ (np.zeros(3) if prior is None else prior))
        stacked = [None if each is None else np.stack([each, each]) for each in (prior, strength)]
        found = accumulate(design, data).solve(ridge=ridge, prior=stacked[0], strength=stacked[1], variance=np.ones(2))
        np.testing.assert_allclose(found.coefficient[0, :3], theta, rtol=1e-10)
        inverse = np.linalg.inv(gram + pull)
        np.testing.assert_allclose(found.covariance[0, :3, :3], inverse @ gram @ inverse, rtol=1e-9)
        residual = data[0] - theta @ design - found.coefficient[0, 3]
        np.testing.assert_allclose(found.chi2[0], residual @ residual, rtol=1e-10)
    with pytest.raises(InputError, match="`ridge` -1"):
        accumulate(design, data).solve(ridge=-1.0)


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
def test_jackknife_equals_leaving_out_one_part_after_the_other(offset, weighted):
    design, data, weights = problem(2000, level=300.0)
    edges = [0, 100, 450, 500, 900, 1300, 1999, 2000]
    given_ = weights if weighted else None
    pieces = [
        accumulate(design[:, a:b], data[:, a:b], None if given_ is None else given_[:, a:b])
        for a, b in itertools.pairwise(edges)
    ]
    total = combine(pieces)
    parts = np.array([piece.at(total.reference).total for piece in pieces])
    found = jackknife_error(total, parts, total.solve(offset=offset))
    left_out = []
    for place in range(len(pieces)):
        rest = [piece for number, piece in enumerate(pieces) if number != place]
        left_out.append(combine(rest).solve(offset=offset).coefficient)
    expected = np.sqrt((len(parts) - 1) * np.var(left_out, axis=0))
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert np.isnan(jackknife_error(total, parts[:1], total.solve(offset=offset))).all()


def test_jackknife_is_nan_where_a_part_holds_all_of_a_template():
    design, data, _ = problem(1000)
    design[2, 200:] = 0.0
    pieces = [accumulate(design[:, a : a + 200], data[:, a : a + 200]) for a in range(0, 1000, 200)]
    total = combine(pieces)
    parts = np.array([piece.at(total.reference).total for piece in pieces])
    assert np.isnan(jackknife_error(total, parts, total.solve())).all()


def test_conditions_and_inflation_are_those_of_the_scaled_design():
    design, data, _ = problem()
    design[2] = design[0] + 0.05 * design[2]
    found = accumulate(design, data).solve()
    central = design - design.mean(1, keepdims=True)
    central /= np.linalg.norm(central, axis=1, keepdims=True)
    singular = np.linalg.svd(central, compute_uv=False)
    np.testing.assert_allclose(found.condition, singular[0] / singular[-1], rtol=1e-9)
    for place in range(3):
        others = np.delete(central, place, axis=0)
        fitted = np.linalg.lstsq(others.T, central[place], rcond=None)[0] @ others
        np.testing.assert_allclose(found.variance_inflation[0, place], 1 / (1 - fitted @ fitted), rtol=1e-8)
    assert np.isnan(found.variance_inflation[0, 3])
    correlation = found.correlation[0]
    np.testing.assert_allclose(np.diag(correlation), 1.0)
    said = degeneracies(found, [*NAMES, "offset"])
    assert said[0]["templates"] == ["nhi", "nh2"]
    assert said[0]["text"] == "nhi trades against nh2 (correlation -1.00)"
    assert said[0]["correlation"] == correlation[0, 2]
    assert said[-1]["condition"] == found.condition[0]
    assert said[-1]["text"] == f"0.71 nhi - 0.71 nh2 is poorly known (condition {found.condition[0]:.0f})"
    assert degeneracies(accumulate(*problem()[:2]).solve(), [*NAMES, "offset"]) == []


def test_a_ridge_over_equal_templates_is_told_without_a_number_of_150_digits():
    design, data, _ = problem()
    design[2] = 2.0 * design[0]
    said = degeneracies(accumulate(design, data).solve(ridge=0.1), [*NAMES, "offset"])
    assert said[-1]["text"] == "0.71 nhi - 0.71 nh2 is poorly known (condition beyond rounding)"


def test_long_combinations_are_cut():
    text = combination(np.array([0.1, -0.5, 0.4, 0.3, 0.05]), list("abcde"), most=2)
    assert text == "0.50 b - 0.40 c and 2 smaller parts"


def flat(values):
    return np.full_like(values, 3.25)


BAD = {
    "is zero in all": lambda design: np.zeros_like(design[0]),
    "is constant in the pixels": lambda design: flat(design[0]),
    "'nhi', 'extra' are collinear": lambda design: 2.5 * design[0],
    "'nhi', 'nhii', 'extra' are collinear": lambda design: design[0] + design[1],
}


@pytest.mark.parametrize("words", BAD)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_templates_that_cannot_be_told_apart_are_named(words, dtype):
    """As float32, a sum of two templates differs from it by rounding; that is no information."""
    design, data, _ = problem()
    design = design.astype(dtype)
    extra = np.vstack([design, BAD[words](design)])
    with pytest.raises(InputError, match=words) as error:
        accumulate(extra, data).solve(names=(*NAMES, "extra"))
    assert "eave" in str(error.value)  # what to do
    loose = accumulate(extra, data).solve(names=(*NAMES, "extra"), strict=False)
    assert np.isnan(loose.coefficient).all()
    assert np.isnan(loose.chi2).all()


def test_a_constant_template_serves_without_an_offset():
    design, data, _ = problem()
    found = accumulate(np.vstack([design, flat(design[0])]), data).solve(offset=False)
    right = accumulate(design, data).solve()
    np.testing.assert_allclose(found.coefficient[:, 3] * 3.25, right.coefficient[:, 3], rtol=1e-9)


def test_a_ridge_solves_what_is_collinear():
    design, data, _ = problem()
    found = accumulate(np.vstack([design[:1], design[:1]]), data).solve(ridge=1e-3)
    np.testing.assert_allclose(found.coefficient[:, 0], found.coefficient[:, 1], rtol=1e-9)


def test_near_collinear_templates_are_solved_unless_only_rounding_differs():
    design, data, _ = problem()
    close = np.vstack([design[:1], design[:1] * (1 + 1e-6 * np.random.default_rng(0).normal(size=5000))])
    assert accumulate(close, data).solve(resolution=0.0).condition[0] > 1e5
    with pytest.raises(InputError, match="collinear"):
        accumulate(close, data).solve(resolution=1e-6)


def test_too_few_pixels():
    design, data, _ = problem()
    with pytest.raises(InputError, match="3 pixels are left for 4 coefficients"):
        accumulate(design[:, :3], data[:, :3]).solve()
    with pytest.raises(InputError, match="4 pixels are left for 4"):
        accumulate(design[:, :4], data[:, :4]).solve()
    with pytest.raises(InputError, match="no pixel is left"):
        accumulate(design * np.nan, data).solve()
    with pytest.raises(InputError, match="nothing to fit"):
        accumulate([], data).solve(offset=False)
    alone = accumulate([], data).solve()
    np.testing.assert_allclose(alone.coefficient[:, 0], data.mean(1))
    np.testing.assert_allclose(alone.error[:, 0], data.std(1, ddof=1) / np.sqrt(5000), rtol=1e-12)


def test_what_does_not_fit_is_told():
    design, data, weights = problem()
    with pytest.raises(InputError, match="shapes"):
        accumulate(design, data[:, :-1])
    with pytest.raises(InputError, match="shapes"):
        accumulate(design, np.vstack([data, data]), weights)
    with pytest.raises(InputError, match="of one fit have the same"):
        accumulate(design, data).merge(accumulate(design[:2], data))
    with pytest.raises(InputError, match="no normal equations"):
        combine([])


def test_levels_are_near_the_values():
    values = np.random.default_rng(0).normal(1e6, 1.0, 100_000)
    values[::10] = np.nan
    assert abs(level_of(values) - 1e6) < 1
    used = np.zeros(values.size, bool)
    used[5:9] = True
    assert level_of(values, used) == np.median(values[5:9])
    assert level_of(values * np.nan) == 0.0
