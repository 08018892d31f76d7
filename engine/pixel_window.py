"""The pixel window of HEALPix: by how much averaging over pixels takes away power at every degree, for any nside.

The window is the rms over pixels and orders of the harmonic transform of a pixel.  By the addition theorem that is

    w_l^2 = mean over pixels of the mean over pairs of points inside a pixel of P_l(cos gamma),

with gamma the angle between the two points.  P_l is a polynomial in sin^2(gamma / 2) whose coefficients are products
of l (l + 1) - j (j + 1), so a grid is told by the means of sin^(2k)(gamma / 2), some thirty numbers that give w_l at
once for all l.  The means are taken with Gauss-Legendre points inside the pixels: in the equal-area plane of HEALPix a
pixel is a square, and pixels that are turned or mirrored copies of each other are counted, not computed again.

Times nside^(2k) the means go to a limit as pixels become small and flat (squares of the plane sheared by the place in
the base pixel), and to it in powers of 1 / nside: of first order are the pixels that straddle the edge of a polar cap,
of second order the curvature of the sphere and, with a logarithm, the pixels around the poles.  Above nside 32 the
means are interpolated between small grids and the limit.

Covers: intensity, nside from 1 on, l to 4 nside.  Does not cover: polarisation; windows of single pixels.

Measured, largest difference over all l to 4 nside, where w is from 1 to 0.4:

=========  ====================================================================  =======
nside      against                                                               largest
=========  ====================================================================  =======
1          the same with more points in a pixel                                  1e-11
2 .. 32    HEALPix's published tables                                            1e-11
64         HEALPix's published table                                             8e-10
128        HEALPix's published table                                             1.1e-9
256, 512   the sum over all pixels, not interpolated                             1e-9
to 16384   not measured; the error falls with nside, the limit being exact       < 1e-9
256        HEALPix's published table, extrapolated by its makers                 7e-6
512..8192  the same                                                              1.3e-5
=========  ====================================================================  =======

The last two rows are errors of the published tables: at nside 256 the sum over all pixels shows it, and from nside
128 to 256 their 1 - w_1, which has to fall by 4, falls by 5.5.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError
from ..chunking.tiling import Tiling

Floats = NDArray[np.float64]

# At l = 4 nside the last term is below 1e-16 of the largest for the longest pixel there is.
_TERMS = 28
# Gauss-Legendre points along the side of a pixel: with 6 the error is 3e-9, with 8 below 1e-12.
_POINTS = 8
_LARGEST_SUMMED = 32
_INTERPOLATED_FROM = (2, 4, 8, 16, 32)
_BLOCK = 64
_QUARTER = math.pi / 4


class _Points(NamedTuple):
    """Points of a pixel in units of half its diagonal, (point,) each, and their weights of sum 1."""

    x: Floats
    y: Floats
    weight: Floats


def pixel_window(nside: int, lmax: int) -> Floats:
    """Return what is left of a_lm after averaging over the pixels of a grid: (ell,) float64, from 1 at ell 0 down.

    A spectrum of a map whose pixels hold means over their area is the sky's times the square of this.

    Parameters
    ----------
    nside : int
        Of the grid; a power of two.
    lmax : int
        Last degree, at most 4 nside.

    Returns
    -------
    numpy.ndarray
        lmax + 1 numbers, accurate to 2e-9 (the table in the description of this module).

    Raises
    ------
    InputError
        If nside is not a power of two, or `lmax` is negative or above 4 nside.

    Notes
    -----
    Gorski et al. 2005, ApJ 622, 759 (the grid); Calabretta & Roukema 2007, MNRAS 381, 865 (its equal-area plane); and
    the mean over pixels as in the documentation of HEALPix.

    Examples
    --------
    >>> pixel_window(16384, 65536)[[0, 16384, 32768, 65536]].round(6).tolist()
    [1.0, 0.954282, 0.827341, 0.44684]
    """
    nside = Tiling(nside).nside
    if not 0 <= lmax <= 4 * nside:
        raise InputError(
            f"`lmax` {lmax} came; the pixel window of nside {nside} is known from 0 to {4 * nside}. Power beyond is "
            "lost in the pixels: use a smaller lmax or a finer grid."
        )
    return _window(_means_of_grid(nside) if nside <= _LARGEST_SUMMED else _interpolated(nside), nside, lmax)


def _window(means: Floats, nside: int, lmax: int) -> Floats:
    """Return the window, (ell,), of a grid with these means."""
    eigenvalue = np.arange(lmax + 1.0) * np.arange(1.0, lmax + 2.0)
    term, square = np.ones(lmax + 1), np.ones(lmax + 1)
    for k in range(1, _TERMS + 1):
        term *= (k * (k - 1) - eigenvalue) / (nside * k) ** 2
        square += term * means[k]
    return np.asarray(np.sqrt(square), np.float64)


def _interpolated(nside: int) -> Floats:
    """Return the means of a large grid, (k,), from those of small ones and the limit."""
    known, means = _tables()
    found: Floats = np.linalg.solve(known.T, _orders(nside)) @ means
    return found


@functools.cache
def _tables() -> tuple[Floats, Floats]:
    """Return the orders in 1 / nside of the tabulated grids (grid, order), and their means (grid, k)."""
    orders = [_orders(nside) for nside in _INTERPOLATED_FROM]
    means = [_means_of_grid(nside) for nside in _INTERPOLATED_FROM]
    return np.stack([*orders, np.eye(len(orders) + 1)[0]]), np.stack([*means, _means_of_limit()])


def _orders(nside: int) -> Floats:
    """Return the functions of nside in which the means are expanded, (order,)."""
    n = float(nside)
    return np.array([1, 1 / n, 1 / n**2, math.log(n) / n**2, 1 / n**3, 1 / n**4])


@functools.lru_cache(maxsize=16)
def _means_of_grid(nside: int, points: int = _POINTS) -> Floats:
    """Return the mean over pixels and pairs of points of (nside sin(gamma / 2))^(2k), (k,), by summing over pixels."""
    half = _QUARTER / nside  # half the diagonal of a pixel in the plane
    # One quadrant of longitude of the northern caps without its first and last row, mirrored pixels left out.
    ring = np.concatenate([np.zeros(0, np.int64), *(np.full((i + 1) // 2, i) for i in range(2, nside))])
    place = np.concatenate([np.zeros(0, np.int64), *(np.arange((i + 1) // 2) for i in range(2, nside))])
    copies = np.where(2 * place + 1 == ring, 8, 16)
    # In the belt the pixels of a row are alike.
    belt = np.arange(nside + 1, 2 * nside + 1)
    means = _sum_of_means(
        np.concatenate([(2 * place - ring + 1) * half, np.zeros(nside)]),
        (2 * nside - np.concatenate([ring, belt])) * half,
        np.concatenate([copies, np.where(belt == 2 * nside, 4, 8) * nside]),
        nside,
        _in_square(points),
    )
    # A pixel at the pole or on the edge of the cap has a kink along its middle, and at the pole a corner.
    edge = (2 * np.arange(nside) - nside + 1) * half
    pole = np.zeros(min(1, nside - 1))
    means += _sum_of_means(
        np.concatenate([edge, pole]),
        np.concatenate([np.full(nside, nside * half), pole + (2 * nside - 1) * half]),
        np.full(nside + pole.size, 8),
        nside,
        _in_triangles(points),
    )
    means /= 12 * nside**2
    means.flags.writeable = False
    return means


def _sum_of_means(x: Floats, y: Floats, copies: NDArray[np.int64], nside: int, points: _Points) -> Floats:
    """Return the sum over pixels centred on x, y (pixel,) of the means over their pairs of points, (k,)."""
    half = _QUARTER / nside
    first, second = np.triu_indices(points.weight.size, 1)
    weight = 2 * points.weight[first] * points.weight[second]
    total = np.zeros(_TERMS + 1)
    total[0] = copies.sum()
    for start in range(0, x.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        vectors = _on_sphere(x[part, None] + half * points.x, y[part, None] + half * points.y)
        east, north, up = (each[:, first] - each[:, second] for each in vectors)
        quarter = (east**2 + north**2 + up**2) * (nside**2 / 4)
        power = np.broadcast_to(weight, quarter.shape)
        for k in range(1, _TERMS + 1):
            power = power * quarter
            total[k] += copies[part] @ power.sum(axis=1)
    return total


def _means_of_limit(points: int = _POINTS, places: int = 16) -> Floats:
    """Return the means for pixels that are small and flat, (k,): averages over places in the belt and in the caps."""
    nodes, weights = np.polynomial.legendre.leggauss(places)
    nodes, weights = (nodes + 1) / 2, weights / 2
    # (east, north) = (a dx + b dy, c dy) of the plane's (dx, dy).  The belt has 2/3 of the sphere, evenly in z.
    parallel = np.sqrt(1 - (2 / 3 * nodes) ** 2)
    belt = [parallel, np.zeros(places), 1 / parallel]
    # In the caps the square of the distance from the pole and the place along a row of a quadrant are even.
    stretch, along = (each.ravel() for each in np.meshgrid(np.sqrt((2 - nodes / 3) / 3), nodes))
    cap = [stretch, stretch * along, 1 / stretch]
    a, b, c = (np.concatenate(pair)[:, None] for pair in zip(belt, cap, strict=True))
    share = np.concatenate([weights * 2 / 3, np.outer(weights, weights).ravel() / 3])

    square = _in_square(points)
    first, second = np.triu_indices(square.weight.size, 1)
    dx = _QUARTER * (square.x[first] - square.x[second])
    dy = _QUARTER * (square.y[first] - square.y[second])
    quarter = ((a * dx + b * dy) ** 2 + (8 / (3 * math.pi) * c * dy) ** 2) / 4
    power = share[:, None] * (2 * square.weight[first] * square.weight[second])
    means = np.ones(_TERMS + 1)
    for k in range(1, _TERMS + 1):
        power *= quarter
        means[k] = power.sum()
    return means


def _on_sphere(x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Return unit vectors of northern points of the plane, with x from the middle of a quadrant of longitude."""
    in_cap = y > _QUARTER
    sigma = 2 - y / _QUARTER
    z = np.where(in_cap, 1 - sigma**2 / 3, y * (8 / (3 * math.pi)))
    longitude = x / np.where(in_cap, sigma, 1.0)
    # Points are inside pixels, so none has sigma 0.
    parallel = np.sqrt((1 - z) * (1 + z))
    return parallel * np.cos(longitude), parallel * np.sin(longitude), z


def _in_square(points: int) -> _Points:
    """Return Gauss-Legendre points of a pixel: in the plane a square that stands on its corner."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    p, q = (each.ravel() for each in np.meshgrid(nodes, nodes))
    return _Points((p - q) / 2, (p + q) / 2, np.outer(weights, weights).ravel() / 4)


def _in_triangles(points: int) -> _Points:
    """Return points of the upper and the lower half of a pixel, polar around its upper and lower corner."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    along, up = (each.ravel() for each in np.meshgrid(nodes, (nodes + 1) / 2))
    weight = np.outer(weights, weights).ravel() / 4 * (1 - up)
    x = (1 - up) * along
    return _Points(np.concatenate([x, x]), np.concatenate([up, -up]), np.concatenate([weight, weight]))
