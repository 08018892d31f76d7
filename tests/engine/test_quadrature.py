"""Ring weights: Legendre polynomials in NumPy, and the tables that healpy ships, as oracles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ducc0
import healpy as hp
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import eval_legendre
from skymill.chunking.errors import InputError, RunError
from skymill.engine.quadrature import _weights, ring_weights

Floats = NDArray[np.float64]


def rows_of(nside: int) -> dict[str, Any]:
    return dict(ducc0.healpix.Healpix_Base(nside, "RING").sht_info())


def shipped(nside: int) -> Floats:
    """healpy's own weights, of every row."""
    table = fits.getdata(Path(hp.__path__[0]) / "data" / f"weight_ring_n{nside:05d}.fits")
    north = 1 + np.ravel(np.asarray(table.field(0), np.float64))[: 2 * nside]
    return np.concatenate([north, north[-2::-1]])


def integral(nside: int, weights: Floats, degree: int) -> float:
    """Mean over the sphere of one Legendre polynomial, by weighted sums over the pixels of each row."""
    rows = rows_of(nside)
    return float(np.sum(weights * rows["nphi"] * eval_legendre(degree, np.cos(rows["theta"])))) / (12 * nside**2)


@given(
    order=st.integers(0, 7),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_legendre_polynomials_are_integrated_exactly(order: int, data: st.DataObject) -> None:
    nside = 2**order
    lmax = data.draw(st.integers(0, int(3.5 * nside)))
    weights = ring_weights(nside, lmax)
    for degree in {0, lmax // 2, lmax}:
        assert integral(nside, weights, degree) == pytest.approx(float(degree == 0), abs=1e-12)


def test_equal_weights_are_not_exact() -> None:
    """The oracle above can fail: without weights the error is a million times what it allows."""
    assert abs(integral(64, np.ones(255), 128)) > 1e-6
    assert abs(integral(64, ring_weights(64, 64), 128)) > 1e-7


def test_the_correction_stays_small_at_the_largest_nside() -> None:
    for lmax in (None, int(3.5 * 16384)):
        assert np.abs(ring_weights(16384, lmax) - 1).max() < 0.18


@pytest.mark.parametrize("nside", [1, 2, 64, 1024])
def test_shape_and_symmetry(nside: int) -> None:
    weights = ring_weights(nside)
    assert weights.shape == (4 * nside - 1,)
    assert weights.dtype == np.float64
    np.testing.assert_array_equal(weights, weights[::-1])
    assert 0.7 < weights.min() <= weights.max() < 1.26


def test_kept_and_read_only() -> None:
    weights = ring_weights(32)
    assert ring_weights(32) is weights
    assert ring_weights(32, 95) is weights
    with pytest.raises(ValueError, match="read-only"):
        weights[0] = 0


def test_lmax_counts() -> None:
    assert np.abs(ring_weights(32, 64) - ring_weights(32)).max() > 1e-2


@pytest.mark.parametrize(("nside", "degree", "apart"), [(64, 226, 5e-5), (512, 1700, 1e-6)])
def test_the_norm_of_healpy_gives_the_numbers_of_healpy(nside: int, degree: int, apart: float) -> None:
    """Its tables are exact to these degrees; with the norm that they have, the solution is the same."""
    theirs = shipped(nside)
    assert abs(integral(nside, theirs, degree)) < 1e-12
    assert abs(integral(nside, theirs, degree + 2)) > 1e-8
    np.testing.assert_allclose(_weights(nside, degree, power=2.0), theirs, rtol=0, atol=apart)


@pytest.mark.parametrize("nside", [32, 256, 1024])
def test_beside_the_tables_of_healpy(nside: int) -> None:
    ours, theirs = ring_weights(nside), shipped(nside)
    assert np.abs(ours - theirs).max() < 0.05
    # Ours adds less to white noise: the sum over pixels of weight^2.
    pixels = rows_of(nside)["nphi"]
    assert np.sum(pixels * (ours - 1) ** 2) < np.sum(pixels * (theirs - 1) ** 2)


@pytest.mark.parametrize("slope", [0, 3])
def test_spectra_are_as_accurate_as_with_the_tables_of_healpy(slope: int) -> None:
    nside, lmax = 64, 128
    rows = {key: value for key, value in rows_of(nside).items() if key in {"theta", "nphi", "phi0", "ringstart"}}
    ell = np.arange(lmax + 1.0)
    power = np.where(ell < 2, 0, np.maximum(ell, 1) ** -slope)
    errors: dict[str, list[float]] = {"ours": [], "theirs": [], "equal": []}
    kinds = {"ours": ring_weights(nside), "theirs": shipped(nside), "equal": np.ones(4 * nside - 1)}
    for seed in range(4):
        np.random.seed(seed)  # noqa: NPY002 - healpy draws from the global state
        alm = hp.synalm(power, lmax=lmax)
        truth = hp.alm2cl(alm)[2:]
        sky = ducc0.sht.synthesis(alm=alm[None], lmax=lmax, spin=0, **rows)
        for kind, weights in kinds.items():
            weighted = sky * np.repeat(weights, rows["nphi"].astype(int)) * (4 * np.pi / sky.size)
            found = hp.alm2cl(ducc0.sht.adjoint_synthesis(map=weighted, lmax=lmax, spin=0, **rows)[0])[2:]
            errors[kind].append(float(np.sqrt(np.mean((found / truth - 1)[:nside] ** 2))))
    mean = {kind: np.mean(values) for kind, values in errors.items()}
    assert mean["ours"] == pytest.approx(mean["theirs"], rel=0.1)
    assert mean["ours"] < 0.6 * mean["equal"]


@pytest.mark.parametrize("lmax", [-1, 225])
def test_degrees_that_no_small_correction_makes_exact(lmax: int) -> None:
    with pytest.raises(InputError, match=f"`lmax` {lmax} came; ring weights of nside 64 exist from 0 to 224"):
        ring_weights(64, lmax)


def test_no_weights_rather_than_wrong_ones() -> None:
    with pytest.raises(RunError, match="ring weights of nside 512 to ell 1996 were not found in 500 steps"):
        _weights(512, 1996)


@pytest.mark.parametrize("nside", [0, 3, 2.0])
def test_nside_that_is_none(nside: Any) -> None:
    with pytest.raises(InputError, match="nside"):
        ring_weights(nside)
