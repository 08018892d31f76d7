"""Generalised least squares with diagonal noise: normal equations that are summed anywhere and merged.

The model is d = A theta + noise, with the templates and a column of ones as columns of A (Cheng et al. 2025, eq. 6-9).
What is kept of the pixels are weighted sums of products of all columns with all others, the data among them.  Columns
are shifted by a reference near their level first, so that neither a large offset nor a large mean costs digits, and
sums are added with the rounding error of each addition kept beside them.  Pure NumPy, float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError
from .gls_blocks import Blocks, shifted
from .gls_solution import FLOAT32_RESOLUTION, Solution, solve_moments

type Floats = NDArray[np.float64]

_SAMPLE = 1024  # cells that a reference is the median of


def two_sum(left: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Return left + right as rounded, and what the rounding lost (Knuth 1969, section 4.2.2).

    Examples
    --------
    >>> total, lost = two_sum(np.array([1e16]), np.array([1.0]))
    >>> float(total[0]), float(lost[0])
    (1e+16, 1.0)
    """
    total = left + right
    taken = total - left
    return total, (left - (total - taken)) + (right - taken)


def level_of(values: NDArray[Any], used: NDArray[np.bool_] | None = None) -> float:
    """Return a number near the level of some values: the median of a thousand of them, 0 where none is finite.

    Parameters
    ----------
    values : ndarray
        (cells,) float
    used : ndarray, optional
        (cells,) bool: those that count.

    Examples
    --------
    >>> level_of(np.array([5.0, np.nan, 7.0, 6.0]))
    6.0
    """
    chosen = values if used is None else values[np.flatnonzero(used)]
    sample = chosen[:: max(1, chosen.size // _SAMPLE)].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    return float(np.median(sample)) if sample.size else 0.0


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Sums of products of templates, ones and data over pixels; made by `accumulate`, added by `merge`.

    Parameters
    ----------
    moments : ndarray
        (group, column, column) float64: sums over pixels of weight x column x column.  One group where the bands share
        their weights, and then the columns are templates, ones, bands; else a group a band, with templates, ones and
        that band.  In units of the maps, each shifted by its reference.
    reference : ndarray
        (template and band,) float64: what was subtracted from each column.
    templates : int
        How many there are.
    count : int
        Pixels that were summed.
    rest : ndarray, optional
        What rounding has lost of `moments`.
    """

    moments: Floats
    reference: Floats
    templates: int
    count: int
    rest: Floats | None = None

    @property
    def bands(self) -> int:
        """How many bands there are."""
        return self.reference.size - self.templates

    @property
    def total(self) -> Floats:
        """The moments with what rounding had lost of them, (group, column, column) float64."""
        return self.moments if self.rest is None else self.moments + self.rest

    @property
    def gram(self) -> Floats:
        """A^T N^-1 A with the column of ones last, not shifted: (template, template), or (band, ...) by weights."""
        first = self.templates + 1
        found = self.at(np.zeros_like(self.reference)).total[:, :first, :first]
        return found[0] if len(found) == 1 else found

    @property
    def right(self) -> Floats:
        """A^T N^-1 d with the column of ones last, not shifted, (template, band) float64."""
        first = self.templates + 1
        found = self.at(np.zeros_like(self.reference)).total[:, :first, first:]
        return found[0] if len(found) == 1 else found[:, :, 0].T

    @property
    def squares(self) -> Floats:
        """d^T N^-1 d, not shifted, (band,) float64."""
        first = self.templates + 1
        found = self.at(np.zeros_like(self.reference)).total[:, first:, first:]
        return np.diagonal(found, axis1=1, axis2=2).reshape(-1).copy()

    def merge(self, other: NormalEquations) -> NormalEquations:
        """Return the sums over the pixels of both.

        Raises
        ------
        InputError
            If the two are of other templates or bands.
        """
        if self.moments.shape != other.moments.shape or self.templates != other.templates:
            raise InputError(
                f"normal equations of {self.templates} templates and {self.bands} bands came with others of "
                f"{other.templates} and {other.bands}; those of one fit have the same, and weights alike."
            )
        if not other.count:
            return self
        if not self.count:
            return other
        other = other.at(self.reference)
        moments, lost = two_sum(self.moments, other.moments)
        for rest in (self.rest, other.rest):
            if rest is not None:
                lost = lost + rest
        return NormalEquations(moments, self.reference, self.templates, self.count + other.count, lost)

    def at(self, reference: Floats) -> NormalEquations:
        """Return the same sums with another reference.

        Parameters
        ----------
        reference : ndarray
            (template and band,) float64
        """
        if np.array_equal(reference, self.reference):
            return self
        moments = shifted(self.total, self.reference, reference, self.templates)
        return NormalEquations(moments, np.asarray(reference, np.float64), self.templates, self.count)

    def solve(
        self,
        *,
        offset: bool = True,
        ridge: float = 0.0,
        prior: Floats | None = None,
        strength: Floats | None = None,
        variance: Floats | None = None,
        names: Sequence[str] = (),
        strict: bool = True,
        resolution: float = FLOAT32_RESOLUTION,
    ) -> Solution:
        """Return the coefficients and what is known of them (Cheng et al. 2025, eq. 9).

        Parameters
        ----------
        offset : bool
            Whether a constant is fitted beside the templates; it is the last coefficient.
        ridge : float
            Adds ridge x sum_j strength_j (theta_j - prior_j)^2 to chi^2; a pure number.
        prior : ndarray, optional
            (band, template) float64 without the offset; default 0.
        strength : ndarray, optional
            (band, template) float64, in units of weight x template^2; default the diagonal of the normal equations
            (of the templates less their means where there is an offset).  A template of which the pixels say nothing,
            zero or constant beside an offset, is an error without it, and has the coefficient of the prior with it.
        variance : ndarray, optional
            (band,) variance of the noise of a pixel, 1 where the weights say all; NaN, the default, for that of the
            residuals: then chi2 is the sum of their squares, and errors are as if chi^2 / dof were 1.
        names : sequence of str
            Of the templates, for messages.
        strict : bool
            Whether what cannot be solved is an error; otherwise its numbers are NaN.
        resolution : float
            Relative precision of the values of templates: what differs by less is the same.  Default that of float32.

        Raises
        ------
        InputError
            If there is no pixel, there are no more pixels than coefficients, or templates are zero, constant beside
            the offset, or collinear.
        """
        return solve_moments(
            self, offset, float(ridge), prior, strength, variance, tuple(names), strict=strict, resolution=resolution
        )


def accumulate(
    design: Sequence[NDArray[Any]] | NDArray[Any],
    data: Sequence[NDArray[Any]] | NDArray[Any],
    weights: Sequence[NDArray[Any]] | NDArray[Any] | None = None,
    *,
    reference: Floats | None = None,
) -> NormalEquations:
    """Return the normal equations of some pixels.

    A pixel counts where all templates and all bands are finite and no weight is 0.

    Parameters
    ----------
    design : ndarray or sequence of ndarray
        (template, cells) float, without the column of ones.
    data : ndarray or sequence of ndarray
        (band, cells) float
    weights : ndarray or sequence of ndarray, optional
        (cells,) for all bands, or (band, cells): 1 / variance of the noise.  Default 1.
    reference : ndarray, optional
        (template and band,) float64, subtracted before products are made; default a number near the level of each.
        It changes nothing but rounding.

    Raises
    ------
    InputError
        If shapes differ, or a weight is negative, NaN or infinite where all else is finite.

    Examples
    --------
    >>> x = np.array([[0.0, 1.0, 2.0, 3.0]])
    >>> solution = accumulate(x, 2 * x + 5).solve()
    >>> solution.coefficient.round(12).tolist()
    [[2.0, 5.0]]
    """
    columns, bands = [np.asarray(values) for values in design], [np.asarray(values) for values in data]
    by_band = [] if weights is None else [np.asarray(weights)] if np.ndim(weights[0]) == 0 else list(weights)
    shapes = {values.shape for values in (*columns, *bands, *by_band)}
    if not bands or len(shapes) != 1 or len(bands[0].shape) != 1 or len(by_band) not in (0, 1, len(bands)):
        raise InputError(
            f"templates, data and weights of shapes {sorted(map(str, shapes))} came; (template, cells), (band, cells) "
            "and (cells,) or (band, cells) are expected."
        )
    blocks = Blocks(len(columns), len(bands), max(1, len(by_band)))
    if reference is None:
        reference = np.array([level_of(values) for values in (*columns, *bands)])
    shape = (blocks.groups, blocks.size, blocks.size)
    total = NormalEquations(np.zeros(shape), np.asarray(reference, np.float64), len(columns), 0)
    wrong = 0
    for start in range(0, bands[0].size, blocks.cells):
        design, data, own = (
            [_padded(values[start : start + blocks.cells], blocks.slice) for values in kind]
            for kind in (columns, bands, by_band)
        )
        used = np.ones(data[0].size, bool)
        used[bands[0].size - start :] = False
        for values in own:
            used &= values != 0
        moments, counts, bad = blocks(design, data, own, None if used.all() else used, total.reference)
        part = NormalEquations(moments.sum(axis=0), total.reference, len(columns), int(counts.sum()))
        total, wrong = total.merge(part), wrong + bad
    if wrong:
        raise InputError(
            f"{wrong} pixels have a weight that is negative, NaN or infinite; a weight is 1 / variance, a positive "
            "number, or 0 for a pixel that does not count."
        )
    return total


def _padded(values: NDArray[Any], step: int) -> NDArray[Any]:
    return np.pad(values, (0, -values.size % step))


def combine(parts: Iterable[NormalEquations]) -> NormalEquations:
    """Return the sum of several normal equations, merged in their order.

    Parameters
    ----------
    parts : iterable of NormalEquations
        At least one.

    Raises
    ------
    InputError
        If there is none, or they do not fit.
    """
    total: NormalEquations | None = None
    for part in parts:
        total = part if total is None else total.merge(part)
    if total is None:
        raise InputError("no normal equations came; there are at least those of one tile.")
    return total
