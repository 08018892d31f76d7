"""Slopes of a straight line through points that scatter in both directions, from their covariance matrix.

A covariance matrix of (x, y) is all that a slope needs, so slopes come from sums that merge tile by tile, and the
jackknife over patches of the sky from the sums of the patches.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from ..chunking.errors import InputError, nearest
from .emission import Floats

type Method = Literal["ols", "inverse", "deming"]
METHODS: Final = ("ols", "inverse", "deming")


def line_slope(covariance: ArrayLike, method: Method = "ols", noise: ArrayLike | None = None) -> Floats:
    """Return the slope of y against x, (...) float64, in units of y per x; NaN where it is not defined.

    Parameters
    ----------
    covariance : array_like
        (..., 2, 2) of x and y, in this order.
    method : {"ols", "inverse", "deming"}
        "ols": least squares of y on x, right where x has no noise.  "inverse": one over the slope of x on y, right
        where y has none.  "deming": both have noise, whose covariance is `noise`, known up to a common factor.
    noise : array_like, optional
        (..., 2, 2) covariance of the noise of x and y, for "deming"; default equal and independent (the orthogonal
        line).

    Raises
    ------
    InputError
        If the method is not known, or noise comes with one that does not use it.

    Notes
    -----
    For "deming" the normal n of the line minimises (n' C n) / (n' E n), C the covariance and E that of the noise, so
    that n belongs to the smaller root L of det(C - L E) = 0, and the slope is (C_xy - L E_xy) / (C_xx - L E_xx).

    Examples
    --------
    >>> import numpy as np
    >>> [round(float(line_slope([[4.0, 2.0], [2.0, 2.0]], method)), 3) for method in METHODS]
    [0.5, 1.0, 0.618]
    """
    c = np.asarray(covariance, np.float64)
    if method not in METHODS:
        raise InputError(f"`method` {method!r} came; {nearest(str(method), METHODS)}.")
    if noise is not None and method != "deming":
        raise InputError(f'`noise` came with method {method!r}, which does not use it; leave it out, or take "deming".')
    xx, xy, yy = c[..., 0, 0], c[..., 0, 1], c[..., 1, 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        if method == "ols":
            slope = xy / xx
        elif method == "inverse":
            slope = yy / xy
        else:
            e = np.eye(2) if noise is None else np.asarray(noise, np.float64)
            ex, exy, ey = e[..., 0, 0], e[..., 0, 1], e[..., 1, 1]
            # det(C - L E) = a L^2 - b L + c; the smaller root without a difference of nearly equal numbers.
            a, b, d = ex * ey - exy**2, xx * ey + yy * ex - 2.0 * xy * exy, xx * yy - xy**2
            root = 2.0 * d / (b + np.sqrt(np.maximum(b**2 - 4.0 * a * d, 0.0)))
            slope = (xy - root * exy) / (xx - root * ex)
    return np.where(np.isfinite(slope), slope, np.nan)


def correlation(covariance: ArrayLike) -> Floats:
    """Return Pearson's coefficient, (...) float64, of a covariance matrix of two; NaN where it is not defined.

    Parameters
    ----------
    covariance : array_like
        (..., 2, 2).

    Examples
    --------
    >>> float(correlation([[4.0, 2.0], [2.0, 4.0]]))
    0.5
    """
    c = np.asarray(covariance, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(c[..., 0, 1] / np.sqrt(c[..., 0, 0] * c[..., 1, 1]))


def formal_error(covariance: ArrayLike, count: ArrayLike, method: Method = "ols") -> Floats:
    """Return the standard error of a slope if all points were independent, (...) float64; NaN for "deming".

    Parameters
    ----------
    covariance : array_like
        (..., 2, 2) of x and y.
    count : array_like
        (...) points.
    method : {"ols", "inverse", "deming"}
        As for `line_slope`.

    Notes
    -----
    Pixels of the sky are not independent, so that this is too small; see `jackknife`.

    Examples
    --------
    >>> round(float(formal_error([[4.0, 2.0], [2.0, 2.0]], 102)), 3)
    0.05
    """
    c, points = np.asarray(covariance, np.float64), np.asarray(count, np.float64)
    slope = line_slope(c, method)
    if method == "deming":
        return np.full(slope.shape, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(np.maximum(1.0 / correlation(c) ** 2 - 1.0, 0.0) / (points - 2.0)) * np.abs(slope)
        # A slope of zero has an error all the same.
        plain = np.sqrt(np.maximum(c[..., 1, 1] / c[..., 0, 0], 0.0) / (points - 2.0))
    return np.where(slope == 0, plain, error)


def jackknife(left_out: ArrayLike) -> Floats:
    """Return the covariance of estimates from the estimates without one group each, (quantity, quantity) float64.

    Parameters
    ----------
    left_out : array_like
        (group, quantity), or (group,) for one quantity (a matrix of one comes back); estimates from all groups but one.

    Returns
    -------
    ndarray
        NaN where there are fewer than two groups.

    Notes
    -----
    (G - 1) / G times the sum of squared deviations from their mean (Efron and Stein 1981).

    Examples
    --------
    >>> values = np.array([1.0, 2.0, 3.0, 6.0])
    >>> without = (values.sum() - values) / 3
    >>> round(float(jackknife(without)[0, 0]), 4) == round(float(values.var(ddof=1) / 4), 4)
    True
    """
    estimates = np.asarray(left_out, np.float64)
    if estimates.ndim == 1:
        estimates = estimates[:, np.newaxis]
    groups, quantities = estimates.shape
    if groups < 2:
        return np.full((quantities, quantities), np.nan)
    deviations = estimates - estimates.mean(axis=0)
    # Not a matrix product: BLAS splits those over threads, and the last bits with them.
    products = deviations[:, :, np.newaxis] * deviations[:, np.newaxis, :]
    return np.asarray(products.sum(axis=0) * (groups - 1) / groups)
