"""Ring weights: what each row of pixels counts for, so that sums over HEALPix pixels become integrals.

The centres of HEALPix pixels with equal weights integrate Legendre polynomials only about right, worst at the poles.
One factor per iso-latitude row, close to 1, makes every polynomial up to a chosen degree exact.  There are more rows
than conditions; of all solutions the smallest correction is taken (least sum over pixels of its square), found by
conjugate gradients whose matrix is a pair of Legendre transforms of order m = 0.

Covers: any nside.  Does not cover: weights of single pixels, which are exact for all m but only up to 1.5 nside.

Measured, against the tables that healpy ships (to nside 8192):

=====  ================  =====================  ===================  ==========
nside  mean of P_l over  greatest correction,   C_l, ring weights,   C_l, equal
       the sphere, l>0   here and healpy's      here and healpy's    weights
=====  ================  =====================  ===================  ==========
16     1e-16             0.154  0.166           1.9e-4  1.9e-4       4.1e-3
64     3e-16             0.156  0.177           2.5e-5  2.5e-5       1.2e-3
256    9e-17             0.156  0.164           5.6e-6  5.6e-6       3.4e-4
1024   3e-16             0.156  0.175           1.1e-6  1.1e-6       7.4e-5
8192   9e-16             0.156  0.163
16384  2e-15             0.156  none exists
=====  ================  =====================  ===================  ==========

The second column is the worst of all even l to 3 nside - 1.  C_l is an error: the rms over l from nside / 2 to nside
of the fraction by which a full-sky realisation of l^-3, band-limited at 2 nside, comes out wrong.  At nside 256 no
error changes by more than a sixth between `lmax` 3 nside and 3.5 nside; with 2 nside errors are up to 2.5 times as
large, and above 3.5 nside the correction begins to grow without bound.
"""

from __future__ import annotations

import functools

import ducc0
import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError, RunError
from ..chunking.tiling import Tiling

Floats = NDArray[np.float64]

# What a single pass over a map may weigh its pixels by: rows by the weights made here, or all pixels alike.
ONE_PASS = ("ring", "pixel")
# Largest lmax / nside at which the conditions are far from dependent at any nside: 7 steps of conjugate gradients at
# 3.5 at most, to nside 16384; at 3.6 about 15 at nside 1024, 150 at 4096, and corrections above 1 at 16384.
LARGEST_DEGREE = 3.5
# Of the residual of the conditions, relative to the integral of Y_00: below the rounding of any sum that uses them.
_TOLERANCE = 1e-14
_MOST_STEPS = 500


def ring_weights(nside: int, lmax: int | None = None) -> Floats:
    """Return the factor by which the pixels of each row count: (row,) float64, about 1, north as south, read-only.

    A map times its factors and 4 pi / npix sums to integrals over the sphere that are exact for polynomials of
    degree up to `lmax`, apart from the terms whose order m the few pixels of a row cannot tell from 0.
    Kept for the life of the process; nside 16384 takes some seconds the first time.

    Parameters
    ----------
    nside : int
        Of the grid; a power of two.
    lmax : int, optional
        Highest degree made exact, up to 3.5 nside; 3 nside - 1 if not given, which is as accurate as healpy's.

    Returns
    -------
    numpy.ndarray
        4 nside - 1 numbers, the northernmost row first.

    Raises
    ------
    InputError
        If nside is not a power of two, or `lmax` is negative or above 3.5 nside, where the smallest correction
        is no longer small.

    Notes
    -----
    Gorski et al. 2005, ApJ 622, 759, describe quadrature weights by row.  The norm here weighs rows by their pixels,
    which adds least to white noise; healpy's tables have the least sum over rows of (pixels x correction)^2 and go to
    3.3 nside (at 512) to 3.6 nside (at 64).

    Examples
    --------
    >>> weights = ring_weights(64)
    >>> weights.shape, float(weights[0].round(3)), float(weights[128].round(3))
    ((255,), 1.156, 1.0)
    """
    nside = Tiling(nside).nside
    if lmax is None:
        lmax = 3 * nside - 1
    if not 0 <= lmax <= LARGEST_DEGREE * nside:
        raise InputError(
            f"`lmax` {lmax} came; ring weights of nside {nside} exist from 0 to {int(LARGEST_DEGREE * nside)}. "
            f"Leave it out for {3 * nside - 1}."
        )
    return _weights(nside, lmax // 2 * 2)  # the conditions of odd degree hold by symmetry


@functools.lru_cache(maxsize=16)
def _weights(nside: int, lmax: int, power: float = 1.0) -> Floats:
    """Return the weights of least sum over rows of pixels**power x correction**2; 2 is the norm of healpy's tables."""
    rows = ducc0.healpix.Healpix_Base(nside, "RING").sht_info()
    theta = rows["theta"]
    pixels = rows["nphi"].astype(np.float64)
    area = 4 * np.pi / (12 * nside**2)
    # With x = multipliers of the conditions: correction = stretch * (transpose of the conditions) x.
    stretch: Floats = pixels ** (1 - power)
    metric = pixels * area * stretch

    missing = -_analyse(pixels * area, theta, lmax)
    missing[0] += np.sqrt(4 * np.pi)  # the integral of Y_00
    multipliers = np.zeros(lmax + 1)
    direction, size = missing.copy(), float(missing @ missing)
    for _ in range(_MOST_STEPS):
        if size <= _TOLERANCE**2:
            break
        image = _analyse(metric * _synthesise(direction, theta, lmax), theta, lmax)
        step = size / float(direction @ image)
        multipliers += step * direction
        missing -= step * image
        before, size = size, float(missing @ missing)
        direction = missing + size / before * direction
    else:
        raise RunError(f"ring weights of nside {nside} to ell {lmax} were not found in {_MOST_STEPS} steps.")
    weights: Floats = 1 + stretch * _synthesise(multipliers, theta, lmax)
    weights = np.asarray((weights + weights[::-1]) / 2)  # north and south differ in the last digit only
    weights.flags.writeable = False
    return weights


def _analyse(rows: Floats, theta: Floats, lmax: int) -> Floats:
    """Return the sum over rows times Y_l0, (ell,), with nothing in odd l."""
    alm: Floats = ducc0.sht.leg2alm(
        leg=rows.astype(np.complex128).reshape(1, -1, 1), lmax=lmax, theta=theta, **_ORDER_0
    ).real.reshape(-1)
    alm[1::2] = 0
    return alm


def _synthesise(alm: Floats, theta: Floats, lmax: int) -> Floats:
    """Return the sum over l times Y_l0 at every row, (row,)."""
    leg: Floats = ducc0.sht.alm2leg(
        alm=alm.astype(np.complex128).reshape(1, -1), lmax=lmax, theta=theta, **_ORDER_0
    ).real.reshape(-1)
    return leg


_ORDER_0 = {"mval": np.zeros(1, np.uint64), "mstart": np.zeros(1, np.uint64), "nthreads": 1}
