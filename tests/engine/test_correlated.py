"""Factors of spectra and unit draws: what comes out has the spectra that went in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking.errors import InputError
from skymill.engine.binning import Bins
from skymill.engine.correlated import draw, factor_spectra, interpolated_spectra, spectra_matrix


def possible_matrices(seed: int, maps: int, ells: int = 5) -> np.ndarray:
    mixing = np.random.default_rng(seed).standard_normal((ells, maps, maps))
    return mixing @ np.swapaxes(mixing, 1, 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(-20, 20))
def test_factors_are_lower_triangles_whose_square_is_the_spectra(seed: int, maps: int, dex: float) -> None:
    matrix = possible_matrices(seed, maps) * 10.0**dex
    factors = factor_spectra(matrix, [f"m{k}" for k in range(maps)])
    assert np.array_equal(factors, np.tril(factors))
    np.testing.assert_allclose(factors @ np.swapaxes(factors, 1, 2), matrix, atol=1e-12 * matrix.max())


def test_the_first_map_does_not_depend_on_those_that_follow() -> None:
    matrix = possible_matrices(1, 3)
    few = factor_spectra(matrix[:, :2, :2], ["a", "b"])
    np.testing.assert_allclose(factor_spectra(matrix, ["a", "b", "c"])[:, :2, :2], few, rtol=1e-9)


def test_fully_correlated_maps_and_empty_multipoles_are_possible() -> None:
    matrix = np.array([[[0.0, 0.0], [0.0, 0.0]], [[4.0, 6.0], [6.0, 9.0]], [[0.0, 0.0], [0.0, 1.0]]])
    factors = factor_spectra(matrix, ["a", "b"])
    np.testing.assert_allclose(factors @ np.swapaxes(factors, 1, 2), matrix, atol=1e-12)


def test_impossible_spectra_are_refused_or_brought_near() -> None:
    matrix = np.ones((3, 2, 2))
    matrix[1, 0, 1] = matrix[1, 1, 0] = 1.5
    with pytest.raises(InputError, match=r"a, b can have these spectra: at ell 1 .* eigenvalue -0.5"):
        factor_spectra(matrix, ["a", "b"])
    near = factor_spectra(matrix, ["a", "b"], nearest=True)
    np.testing.assert_allclose(near @ np.swapaxes(near, 1, 2), np.ones((3, 2, 2)), atol=1e-12)
    matrix[2, 1, 1] = -1
    with pytest.raises(InputError, match="auto-spectrum of 'b' is negative at ell 2"):
        factor_spectra(matrix, ["a", "b"], nearest=True)


def test_cross_power_without_auto_power_is_impossible() -> None:
    with pytest.raises(InputError, match="no maps a, b"):
        factor_spectra(np.array([[[0.0, 0.1], [0.1, 1.0]]]), ["a", "b"])


def test_matrix_takes_pairs_in_either_order_and_cuts_at_lmax() -> None:
    spectra = {("a", "a"): np.arange(9.0), ("a", "b"): -np.arange(9.0), ("b", "b"): np.arange(9.0) + 1}
    swapped = {(b, a): cl for (a, b), cl in spectra.items()}
    matrix = spectra_matrix(spectra, ["a", "b"], 3)
    assert matrix.shape == (4, 2, 2)
    assert np.array_equal(matrix, spectra_matrix(swapped, ["a", "b"], 3))
    assert matrix[2].tolist() == [[2, -2], [-2, 3]]


def test_what_a_matrix_lacks_is_told() -> None:
    with pytest.raises(InputError, match="auto-spectrum of 'b' is missing"):
        spectra_matrix({("a", "a"): np.ones(4)}, ["a", "b"], 3)
    with pytest.raises(InputError, match="multipole from 0 to 3"):
        spectra_matrix({("a", "a"): np.ones(3)}, ["a"], 3)
    with pytest.raises(InputError, match="finite"):
        spectra_matrix({("a", "a"): np.full(4, np.nan)}, ["a"], 3)


def test_draws_are_unit_gaussians() -> None:
    lmax = 200
    alm = draw(lmax, (7,))
    assert np.all(alm[: lmax + 1].imag == 0)
    assert np.var(alm[: lmax + 1].real) == pytest.approx(1, abs=0.3)
    for part in (alm[lmax + 1 :].real, alm[lmax + 1 :].imag):
        assert np.var(part) == pytest.approx(0.5, rel=0.04)
        assert abs(np.mean(part)) < 0.02
    assert np.mean(alm[lmax + 1 :].real * alm[lmax + 1 :].imag) == pytest.approx(0, abs=0.015)


def test_draws_differ_by_seed_and_precision_only() -> None:
    assert np.array_equal(draw(8, (1, 2)), draw(8, (1, 2)))
    assert not np.array_equal(draw(8, (1, 2)), draw(8, (1, 3)))
    assert draw(8, (1, 2), "single").dtype == np.complex64
    assert draw(8, (1, 2), "double").dtype == np.complex128


def test_interpolation_is_exact_for_power_laws_and_keeps_correlations_possible() -> None:
    ell = np.array([3.0, 7.0, 20.0])
    every = np.arange(31.0)
    measured = {("a", "a"): ell**-2.5, ("b", "b"): np.array([4.0, -1.0, 4.0]), ("b", "a"): np.array([9.0, 9.0, 0.0])}
    found = interpolated_spectra(ell, measured, ["a", "b"], 30)
    np.testing.assert_allclose(found[("a", "a")][2:21], every[2:21] ** -2.5, rtol=1e-12)
    assert found[("a", "a")][:2].tolist() == [0, 0]
    assert found[("a", "a")][30] == pytest.approx(20**-2.5)
    np.testing.assert_allclose(found[("b", "b")][2:], 4.0)  # the negative bin does not count
    coefficient = found[("b", "a")][2:] / np.sqrt(found[("a", "a")] * found[("b", "b")])[2:]
    assert coefficient[1] == pytest.approx(1)
    assert coefficient[-1] == 0
    factor_spectra(spectra_matrix(found, ["a", "b"], 30), ["a", "b"])


@pytest.mark.parametrize("power", [0.0, -1.0, -3.0, 2.0])
def test_interpolation_has_the_means_over_the_bins_that_were_measured(power: float) -> None:
    bins = Bins.linear(60, 8)
    truth = np.concatenate([[0, 0], np.arange(2, 61.0) ** power])
    noisy = bins.average(truth) * np.random.default_rng(0).normal(1, 0.15, bins.n)
    found = interpolated_spectra(bins.ell, {("a", "a"): noisy}, ["a"], 60, bins=bins)[("a", "a")]
    np.testing.assert_allclose(bins.average(found), noisy, rtol=0.005)
    exact = interpolated_spectra(bins.ell, {("a", "a"): bins.average(truth)}, ["a"], 60, bins=bins)[("a", "a")]
    np.testing.assert_allclose(exact[2:54], truth[2:54], rtol=0.1)


def test_nothing_can_be_drawn_from_a_spectrum_that_is_nowhere_positive() -> None:
    with pytest.raises(InputError, match="'a' is positive in no bin"):
        interpolated_spectra(np.array([4.0]), {("a", "a"): np.array([-1.0])}, ["a"], 8)
