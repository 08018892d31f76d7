"""The algebra of correlated noise against dense matrices: block conjugate gradients, and fits that rest on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking.errors import InputError, RunError
from skymill.models.correlated_gls import block_conjugate_gradients, correlated_gls, preconditioner_shares
from skymill.models.gls import accumulate

CELLS = 60


def covariance(rng: np.random.Generator, cells: int = CELLS, spread: float = 3.0) -> np.ndarray:
    """A symmetric positive matrix whose eigenvalues span some decades."""
    base, _ = np.linalg.qr(rng.normal(size=(cells, cells)))
    return (base * 10 ** rng.uniform(0, spread, cells)) @ base.T


def jacobi(matrix: np.ndarray):
    return lambda x: x / np.diag(matrix)


def dense_fit(design: np.ndarray, data: np.ndarray, matrix: np.ndarray):
    """Coefficients, covariance and chi^2 from the matrix itself."""
    inverse = np.linalg.inv(matrix)
    spread = np.linalg.inv(design @ inverse @ design.T)
    theta = (spread @ design @ inverse @ data.T).T
    left = data - theta @ design
    return theta, spread, np.einsum("bi,ij,bj->b", left, inverse, left)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), columns=st.integers(1, 8), spread=st.floats(0, 4))
def test_block_solves_any_positive_matrix(seed, columns, spread):
    rng = np.random.default_rng(seed)
    matrix = covariance(rng, spread=spread)
    right = rng.normal(size=(columns, CELLS))
    found = block_conjugate_gradients(lambda x: matrix @ x, jacobi(matrix), right, tolerance=1e-10)
    expected = np.linalg.solve(matrix, right.T).T
    assert np.allclose(found.solution, expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max())
    assert found.reached.shape == (columns,)
    assert found.reached.max() <= 1e-10


def test_a_block_needs_fewer_iterations_than_its_columns_alone():
    rng = np.random.default_rng(2)
    matrix = covariance(rng, 400, 4)
    right = rng.normal(size=(8, 400))

    def solve(columns):
        return block_conjugate_gradients(lambda x: matrix @ x, jacobi(matrix), columns, max_iterations=2000).iterations

    assert 2 * solve(right) < min(solve(right[i : i + 1]) for i in range(8))


def test_columns_that_depend_on_each_other_are_solved_all_the_same():
    rng = np.random.default_rng(3)
    matrix = covariance(rng)
    right = rng.normal(size=(3, CELLS))
    right = np.concatenate([right, right[:1], right[:1] - 2 * right[1:2]])
    found = block_conjugate_gradients(lambda x: matrix @ x, jacobi(matrix), right, tolerance=1e-9)
    assert np.allclose(found.solution, np.linalg.solve(matrix, right.T).T, rtol=0, atol=1e-7)


def test_what_is_solved_in_one_step_stops_there():
    scale = np.linspace(1, 5, CELLS)
    found = block_conjugate_gradients(lambda x: scale * x, lambda x: x / scale, np.eye(3, CELLS))
    assert found.iterations == 1
    assert np.allclose(found.solution, np.eye(3, CELLS) / scale, rtol=1e-15)


def test_no_convergence_tells_the_numbers():
    matrix = covariance(np.random.default_rng(4))
    with pytest.raises(RunError, match=r"after 3 iterations the largest relative residual is .*, 1e-06 is wanted") as e:
        block_conjugate_gradients(lambda x: matrix @ x, jacobi(matrix), np.ones((1, CELLS)), max_iterations=3)
    assert "`max_iterations`" in str(e.value)


def test_an_operator_that_is_not_positive_is_not_believed():
    with pytest.raises(RunError, match="have not converged"):
        block_conjugate_gradients(lambda x: x, lambda x: -x, np.ones((1, CELLS)))
    with pytest.raises(RunError, match="have not converged"):
        block_conjugate_gradients(lambda x: x * np.nan, lambda x: x, np.ones((1, CELLS)))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    templates=st.integers(1, 4),
    bands=st.integers(1, 3),
    offset=st.booleans(),
    level=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_fits_equal_the_dense_matrix(seed, templates, bands, offset, level):
    rng = np.random.default_rng(seed)
    matrix = covariance(rng, spread=2)
    design = rng.normal(size=(templates, CELLS)) + level
    data = (
        rng.normal(size=(bands, templates)) @ design + level + rng.multivariate_normal(np.zeros(CELLS), matrix, bands)
    )
    fit = correlated_gls(design, data, lambda x: matrix @ x, jacobi(matrix), offset=offset)
    full = np.concatenate([design, np.ones((1, CELLS))]) if offset else design
    theta, spread, chi2 = dense_fit(full, data, matrix)
    error = np.sqrt(np.diag(spread))
    assert np.abs((fit.coefficient - theta) / error).max() < 1e-8
    assert np.abs((fit.covariance - spread) / np.outer(error, error)).max() < 1e-8
    assert np.allclose(fit.chi2, chi2, rtol=1e-8)
    assert np.array_equal(fit.covariance, fit.covariance.T)


def test_a_large_mean_costs_no_digits():
    rng = np.random.default_rng(11)
    matrix = covariance(rng, spread=2)
    design, noise = rng.normal(size=(2, CELLS)), rng.multivariate_normal(np.zeros(CELLS), matrix, 1)
    theta, spread, chi2 = dense_fit(np.concatenate([design, np.ones((1, CELLS))]), design.sum(0) + noise, matrix)
    fit = correlated_gls(design + 1e6, design.sum(0) + noise + 1e8, lambda x: matrix @ x, jacobi(matrix))
    assert np.allclose(fit.coefficient[:, :2], theta[:, :2], rtol=1e-6)  # 1e8 in float64 is known to 1e-8
    assert np.allclose(fit.covariance[:2, :2], spread[:2, :2], rtol=1e-7)
    assert np.allclose(fit.chi2, chi2, rtol=1e-6)


def test_errors_go_with_the_square_of_the_tolerance():
    rng = np.random.default_rng(5)
    matrix = covariance(rng, 200, 2)
    design, noise = rng.normal(size=(2, 200)), rng.multivariate_normal(np.zeros(200), matrix, 2)
    theta, spread, _ = dense_fit(design, design + noise, matrix)
    error = np.sqrt(np.diag(spread))
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
        fit = correlated_gls(
            design, design + noise, lambda x: matrix @ x, jacobi(matrix), offset=False, tolerance=tolerance
        )
        assert np.abs((fit.coefficient - theta) / error).max() < 100 * tolerance**2
        assert fit.reached <= tolerance


def test_diagonal_noise_gives_the_weighted_least_squares_of_normal_equations():
    rng = np.random.default_rng(6)
    sigma = rng.uniform(0.5, 3, CELLS)
    design = rng.lognormal(size=(3, CELLS)).astype(np.float32)
    data = (design.sum(0) + sigma * rng.normal(size=(2, CELLS))).astype(np.float32)
    fit = correlated_gls(design, data, lambda x: sigma**2 * x, lambda x: x / sigma**2)
    weights = np.repeat(sigma[None] ** -2, 2, axis=0)
    other = accumulate(design.astype(float), data.astype(float), weights).solve(variance=np.ones(2))
    assert fit.iterations == 1
    assert np.allclose(fit.coefficient, other.coefficient, rtol=1e-11)
    assert np.allclose(fit.covariance, other.covariance[0], rtol=1e-11)
    assert np.allclose(fit.chi2, other.chi2, rtol=1e-11)


def test_bands_that_templates_explain_wholly_or_that_repeat():
    rng = np.random.default_rng(7)
    matrix = covariance(rng)
    design = rng.normal(size=(2, CELLS))
    noisy = rng.normal(size=CELLS)
    data = np.stack([2 * design[0] - design[1] + 3, noisy, noisy, np.zeros(CELLS)])
    fit = correlated_gls(design, data, lambda x: matrix @ x, jacobi(matrix))
    assert np.allclose(fit.coefficient[0], [2, -1, 3], rtol=1e-12)
    assert fit.chi2[0] < 1e-20
    assert fit.chi2[3] == 0
    assert np.allclose(fit.coefficient[1], fit.coefficient[2], rtol=1e-12)
    assert np.allclose(fit.coefficient[3], 0, atol=0)


def test_an_offset_alone():
    matrix = covariance(np.random.default_rng(8))
    data = np.arange(CELLS, dtype=float)[None]
    fit = correlated_gls(np.empty((0, CELLS)), data, lambda x: matrix @ x, jacobi(matrix))
    theta, _, _ = dense_fit(np.ones((1, CELLS)), data, matrix)
    assert np.allclose(fit.coefficient, theta, rtol=1e-9)


@pytest.mark.parametrize(
    ("templates", "offset", "message"),
    [
        ([np.arange(9.0), 3 * np.arange(9.0)], False, "templates a, b depend on each other in the 9 pixels"),
        ([np.arange(9.0), 3 * np.arange(9.0) + 1], True, "templates a, b depend on each other"),
        ([np.arange(9.0), np.zeros(9)], False, "'b' is zero in the 9 pixels"),
        ([np.arange(9.0), np.zeros(9)], True, "'b' is zero in the 9 pixels"),
        ([np.full(9, 0.1), np.arange(9.0)], True, "'a' is constant, as the offset is"),
        ([*np.eye(8, 9)], True, "9 pixels are used for 9 coefficients"),
    ],
)
def test_templates_that_cannot_be_told_apart(templates, offset, message):
    with pytest.raises(InputError, match=message):
        correlated_gls(
            np.array(templates, np.float32),
            np.ones((1, 9)),
            lambda x: x,
            lambda x: x,
            offset=offset,
            names=list("abcdefgh")[: len(templates)],
        )


def test_the_preconditioner_is_the_inverse_on_the_whole_sphere():
    spectrum = np.concatenate([[0], 10.0 ** np.linspace(5, -4, 30)])
    filtered, low = preconditioner_shares(spectrum, 0.3, 0.01)
    assert np.allclose(low + (1 - filtered) ** 2 / 0.3, 1 / (spectrum / 0.01 + 0.3), rtol=1e-12)
    assert (low >= 0).all()
    assert (filtered >= 0).all()
    assert (filtered < 1).all()
