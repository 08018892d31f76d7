"""Generalised least squares where the noise of pixels is correlated: the algebra around a covariance never written out.

    theta = (A^T N^-1 A)^-1 A^T N^-1 d        Cheng et al. 2025, arXiv:2411.12801, equation 9, with a full N

Covers: conjugate gradients over a block of columns, the normal equations from columns that are solved approximately.
Does not cover: what N is, and how it is applied to a map (`engine/fit_correlated.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError, RunError

type Floats = NDArray[np.float64]
type Values = NDArray[np.floating]
type Operator = Callable[[Floats], Floats]

# Sums go by slices of so many pixels, in their order: arrays of a slice stay in the cache of a core.
_SLICE = 1 << 15
# Of the correlation matrix of the templates: what their rounding to float32 leaves of one that depends on others.
_COLLINEAR = 1e-12
# Of residuals scaled to one norm: directions with less than this of the largest are rounding, and are followed no
# longer; with less than that, they must be computed anew.
_SPENT = 1e-24
_CANCELLED = 1e-10


class Solved(NamedTuple):
    """Columns x of N x = v: `solution` (column, cells), `iterations`, `reached` (column,), the residuals left."""

    solution: Floats
    iterations: int
    reached: Floats


@dataclass(frozen=True)
class CorrelatedFit:
    """Fits of one set of templates to some bands that share their noise.

    Parameters
    ----------
    coefficient : (band, template) float64
        Unit of the band per unit of the template; the offset, if any, is the last.
    covariance : (template, template) float64
        Of the coefficients: (A^T N^-1 A)^-1, the same for all of the bands.
    chi2 : (band,) float64
        (d - A theta)^T N^-1 (d - A theta).
    iterations : int
        Of the conjugate gradients.
    reached : float
        Largest relative residual that they left.
    """

    coefficient: Floats
    covariance: Floats
    chi2: Floats
    iterations: int
    reached: float


def block_conjugate_gradients(
    apply: Operator, precondition: Operator, right: Floats, *, tolerance: float = 1e-6, max_iterations: int = 500
) -> Solved:
    """Return the solutions of N x = v for a block of columns, each (cells,) float64.

    All columns search in the space that all of them span, so that what is slow (the modes along the border of a
    mask) is found once and not by each alone.  A column has converged where its residual r has
    r^T B r <= tolerance^2 v^T B v with the preconditioner B, which is the norm of N^-1 as far as B is near to it.

    Parameters
    ----------
    apply, precondition : callable
        (cells,) -> (cells,): N, and B near its inverse; both symmetric and positive definite.
    right : ndarray
        (column, cells) float64, none of them zero.
    tolerance : float
        Largest residual.
    max_iterations : int
        Give up after so many.

    Raises
    ------
    RunError
        If the columns have not converged by then.

    References
    ----------
    O'Leary 1980, Linear Algebra Appl. 29, 293 (the block method); Dubrulle 2001, ETNA 12, 216 (orthonormal residuals,
    which keep it stable).

    Examples
    --------
    >>> scale = np.array([1.0, 2.0, 4.0])
    >>> found = block_conjugate_gradients(lambda x: scale * x, lambda x: x, np.array([[1.0, 2.0, 3.0]]))
    >>> found.solution.round(6).tolist(), found.iterations
    ([[1.0, 1.0, 0.75]], 3)
    """
    solution = np.zeros_like(right)
    residual = right.copy()  # rows span the residuals: the residuals themselves are mix^T residual
    near, ahead, applied = np.empty_like(right), np.empty_like(right), np.empty_like(right)
    mix = np.eye(len(right))
    first: Floats | None = None
    lengths: Floats | None = None
    for iteration in range(max_iterations + 1):
        _rows(precondition, residual, near)
        square = _products(residual, near)
        left = np.einsum("ic,ij,jc->c", mix, square, mix)
        first = left.copy() if first is None else first
        reached = np.sqrt(np.maximum(left, 0.0) / np.where(first > 0, first, 1.0))
        if not np.isfinite(reached).all() or (first <= 0).any():
            break
        if (reached <= tolerance).all():
            return Solved(solution, iteration, reached)
        if iteration == max_iterations:
            break
        residual, near, mix = _orthonormal_residuals(residual, near, square, mix, precondition)
        # The next directions, conjugate to the last.
        back = None if lengths is None else _products(near, applied) @ lengths
        rank, before = len(residual), len(applied)
        for cells in _slices(right.shape[1]):
            onward = near[:, cells] if back is None else near[:, cells] - _mixed(back, ahead[:before, cells])
            ahead[:rank, cells] = onward
        ahead, applied = ahead[:rank], applied[:rank]
        _rows(apply, ahead, applied)
        lengths = _inverse(_products(ahead, applied))
        # In exact arithmetic these products are one; as they are, every step comes nearer whatever rounding does.
        steps = _products(residual, ahead) @ lengths
        forward = mix.T @ steps
        for cells in _slices(right.shape[1]):
            solution[:, cells] += _mixed(forward, ahead[:, cells])
            residual[:, cells] -= _mixed(steps, applied[:, cells])
    raise RunError(
        f"the conjugate gradients have not converged: after {iteration} iterations the largest relative residual is "
        f"{np.max(reached):.2g}, {tolerance:g} is wanted. Noise that is strongly correlated up to `lmax` takes many: "
        "put the flat part of the spectrum into `noise`, leave out small holes of the mask, or give a smaller `lmax`, "
        "a larger `tolerance` or more `max_iterations`."
    )


def correlated_gls(
    templates: Values,
    data: Values,
    apply: Operator,
    precondition: Operator,
    *,
    offset: bool = True,
    tolerance: float = 1e-6,
    max_iterations: int = 500,
    names: Sequence[str] | None = None,
) -> CorrelatedFit:
    """Return generalised least-squares fits of templates to some bands that share one noise covariance N.

    Columns are made orthonormal first, and of the data only what an unweighted fit leaves is solved for: a large
    mean costs no digits.  With approximate solutions x_i and residuals r_j, the products v_i^T N^-1 v_j are taken as
    v_i^T x_j + x_i^T r_j, whose error is the product of the errors of i and j: a tolerance of 1e-6 leaves 1e-12.

    Parameters
    ----------
    templates : ndarray
        (template, cells) float32 or float64.
    data : ndarray
        (band, cells) float32 or float64.
    apply, precondition : callable
        (cells,) -> (cells,): N, in the square of the unit of the data, and what is near its inverse.
    offset : bool
        Fit a constant too, as the last template.
    tolerance, max_iterations : float, int
        See `block_conjugate_gradients`.
    names : sequence of str, optional
        Of the templates, for messages.

    Raises
    ------
    InputError
        If a template is zero, constant beside an offset, or a combination of the others, or there are not more
        pixels than templates.
    RunError
        If the conjugate gradients do not converge.

    References
    ----------
    Cheng et al. 2025, arXiv:2411.12801, equation 9.

    Examples
    --------
    >>> gas = np.array([[0.0, 1.0, 2.0, 3.0]])
    >>> fit = correlated_gls(gas, 2.0 * gas + 1.0, lambda x: x, lambda x: x)
    >>> fit.coefficient.round(9).tolist()
    [[2.0, 1.0]]
    """
    labels = [f"template {place}" for place in range(len(templates))] if names is None else list(names)
    labels += ["the offset"] * offset
    cells = templates.shape[1]
    if cells <= len(labels):
        raise InputError(
            f"{cells} pixels are used for {len(labels)} coefficients ({', '.join(labels)}); a fit needs more pixels "
            "than coefficients. Use a larger region, or fewer templates."
        )
    to_base = _orthonormal(templates, offset, labels)
    n_base = len(to_base)
    block = np.empty((n_base + len(data), cells))
    for part in _slices(cells):
        block[:n_base, part] = _mixed(to_base, _columns(templates, offset, part))
        block[n_base:, part] = data[:, part]
    # What an unweighted fit leaves of the data.
    plain = _products(block[n_base:], block[:n_base]) / cells
    for part in _slices(cells):
        block[n_base:, part] -= _mixed(plain, block[:n_base, part])
    scale = np.sqrt(np.einsum("bc,bc->b", block[n_base:], block[n_base:]) / cells)
    sizes = np.array([np.abs(row).max() for row in data], np.float64)
    # A band that the templates explain to the last bit leaves nothing to solve for.
    solved = np.flatnonzero(scale > 1e-14 * sizes)
    block[n_base : n_base + solved.size] = block[n_base + solved] / scale[solved, None]
    block = block[: n_base + solved.size]
    found = block_conjugate_gradients(apply, precondition, block, tolerance=tolerance, max_iterations=max_iterations)
    products = _inverse_products(block, found.solution, apply)
    covariance = np.linalg.inv(products[:n_base, :n_base])
    more = products[n_base:, :n_base] @ covariance
    in_base = plain
    in_base[solved] += scale[solved, None] * more
    chi2 = np.zeros(len(data))
    chi2[solved] = scale[solved] ** 2 * (
        np.diag(products)[n_base:] - np.einsum("bi,bi->b", more, products[n_base:, :n_base])
    )
    spread = to_base.T @ covariance @ to_base
    return CorrelatedFit(
        in_base @ to_base, (spread + spread.T) / 2.0, chi2, found.iterations, float(found.reached.max())
    )


def preconditioner_shares(spectrum: Floats, variance: float, pixel_area: float) -> tuple[Floats, Floats]:
    """Return the transfer functions of a preconditioner of S + D, each (ell,) float64.

    With T the filter of the first and L that of the second, B = L + (1 - T)^T D^-1 (1 - T) is symmetric and positive
    for any D and any mask, the inverse of S + D on the whole sphere where D is the same everywhere, and D^-1 where
    white noise dominates.

    Parameters
    ----------
    spectrum : ndarray
        (ell,) C_l, in square units times steradian.
    variance : float
        Typical variance of the white noise in a pixel.
    pixel_area : float
        In steradian.

    Examples
    --------
    >>> t, low = preconditioner_shares(np.array([0.0, 2.0]), 1.0, 1.0)
    >>> (low + (1 - t) ** 2 / 1.0).round(12).tolist()  # 1 / (C_l / area + variance)
    [1.0, 0.333333333333]
    """
    ratio = spectrum / (pixel_area * variance)
    filtered = ratio / (2.0 + ratio)
    return filtered, filtered**2 / (variance * (1.0 + ratio))


def _orthonormal_residuals(
    residual: Floats, near: Floats, square: Floats, mix: Floats, precondition: Operator
) -> tuple[Floats, Floats, Floats]:
    """Return rows that span the same residuals, orthonormal in the norm of B, B times them, and how they are mixed."""
    for attempt in range(3):
        scale = np.sqrt(np.maximum(np.diag(square), np.finfo(float).tiny))
        size, base = np.linalg.eigh(square / np.outer(scale, scale))
        kept = size > _SPENT
        root = np.sqrt(size[kept])[:, None]
        forth, back = root * base[:, kept].T * scale, base[:, kept].T / root / scale
        rank = len(forth)
        for cells in _slices(residual.shape[1]):
            residual[:rank, cells] = _mixed(back, residual[:, cells])
            near[:rank, cells] = _mixed(back, near[:, cells])
        residual, near, mix = residual[:rank], near[:rank], forth @ mix
        if attempt == 2 or size[kept][0] > _CANCELLED:
            break
        # Differences of rows that are nearly the same: their product with B is known to too few digits.
        _rows(precondition, residual, near)
        square = _products(residual, near)
    return residual, near, mix


def _inverse(square: Floats) -> Floats:
    """Return the inverse of a symmetric matrix, less what rounding leaves of no size."""
    if not np.isfinite(square).all():
        return np.full_like(square, np.nan)
    scale = np.sqrt(np.maximum(np.diag(square), np.finfo(float).tiny))
    both: Floats = np.outer(scale, scale)
    inverse: Floats = np.linalg.pinv(square / both, rcond=1e-14, hermitian=True) / both
    return inverse


def _columns(templates: Values, offset: bool, part: slice) -> Floats:
    values = templates[:, part].astype(np.float64)
    return np.concatenate([values, np.ones((1, values.shape[1]))]) if offset else values


def _orthonormal(templates: Values, offset: bool, labels: Sequence[str]) -> Floats:
    """Return the matrix (base, template) that makes the templates, the offset last, orthonormal columns."""
    cells = templates.shape[1]
    count = len(labels)
    centre = np.array([row.mean(dtype=np.float64) if offset else 0.0 for row in templates])
    square = np.zeros((len(templates), len(templates)))
    for part in _slices(cells):
        values = templates[:, part].astype(np.float64) - centre[:, None]
        square += _products(values, values)
    rms = np.sqrt(np.diag(square) / cells)
    largest = np.array([np.abs(row).max() for row in templates], np.float64)
    for place in np.flatnonzero(~(rms > 1e-7 * largest)).tolist():
        what = "is constant, as the offset is" if offset and largest[place] > 0 else "is zero"
        raise InputError(
            f"{labels[place]!r} {what} in the {cells} pixels used; its coefficient cannot be told. Leave it out."
        )
    size, base = np.linalg.eigh(square / cells / np.outer(rms, rms))
    if size.size and size[0] < _COLLINEAR:
        mixed = [labels[place] for place in np.flatnonzero(np.abs(base[:, 0]) > 1e-3).tolist()]
        raise InputError(
            f"the templates {', '.join(mixed)} depend on each other in the {cells} pixels used (smallest eigenvalue "
            f"of their correlation matrix {max(size[0], 0.0):.1g}); leave one of them out."
        )
    matrix = np.zeros((count, count))
    scaled = base.T / np.sqrt(size)[:, None] / rms
    matrix[: len(templates), : len(templates)] = scaled
    if offset:
        matrix[: len(templates), -1] = -scaled @ centre
        matrix[-1, -1] = 1.0
    return matrix


def _inverse_products(block: Floats, solution: Floats, apply: Operator) -> Floats:
    """Return V^T N^-1 V, (column, column), from approximate solutions."""
    products = _products(block, solution)
    for column in range(len(block)):
        left = block[column] - apply(solution[column])
        products[:, column] += _products(solution, left[None])[:, 0]
    return (products + products.T) / 2.0


def _rows(operator: Operator, rows: Floats, out: Floats) -> None:
    for place in range(len(rows)):
        out[place] = operator(rows[place])


# The products below go over the pixels without BLAS, whose threads would change the last bits; beside the transforms of
# the sphere they take little time.


def _mixed(matrix: Floats, rows: Floats) -> Floats:
    """Return combinations of rows."""
    found: Floats = np.einsum("ij,jp->ip", matrix, rows)
    return found


def _products(left: Floats, right: Floats) -> Floats:
    """Return the products of all rows with all rows, summed over slices in their order."""
    total = np.zeros((len(left), len(right)))
    for part in _slices(left.shape[1]):
        total += np.einsum("ip,jp->ij", left[:, part], right[:, part])
    return total


def _slices(cells: int) -> Iterator[slice]:
    return (slice(start, min(start + _SLICE, cells)) for start in range(0, cells, _SLICE))
