"""Mode coupling of spin-0 spectra by a mask (MASTER), binned without the matrix of all multipoles.

A mask of pseudo-spectrum W_l turns the spectrum C_l into the pseudo-spectrum sum over l2 of M_{l l2} C_{l2}, with
M_{l1 l2} = (2 l2 + 1) sum over l3 of (2 l3 + 1) / (4 pi) W_l3 (l1 l2 l3; 0 0 0)^2 (Hivon et al. 2002, ApJ 567, 2,
equation A31).  The squared 3j symbol is half the integral of three Legendre polynomials, so

    M_{l1 l2} = (2 l2 + 1) / 2 * integral of xi(x) P_l1(x) P_l2(x),   xi(x) = sum of (2 l + 1) / (4 pi) W_l P_l(x),

and Gauss-Legendre nodes make the integral exact.  Averages over bins go inside: the binned matrix is the product of
two tables (bin, node), made block by block of nodes in one recurrence, in O(lmax^2) work and a few hundred MB.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..chunking.errors import InputError
from .binning import Bins
from .coupling_integral import integrated
from .legendre import ROWS, HalfNodes, SumsByParity, half_nodes, in_order, legendre_rows, project, threads_of
from .moments import Floats

_LEAST_RCOND = 1e-10  # the matrix itself is known to about 1e-11


@dataclass(frozen=True, eq=False)
class Coupling:
    """What a mask does to binned spectra, and how it is undone.

    Parameters
    ----------
    bins : Bins
    lmax : int
        Highest multipole of the sky that is accounted for.
    matrix : (bin, bin) float64
        Mean pseudo-spectrum of a bin for a spectrum that is 1 in another bin and 0 elsewhere, beams included.
    window : (bin, ell) float64, optional
        Bandpower windows: the decoupled bandpowers of a spectrum C_l are `window @ C_l`.
    mask_cl : (ell,) float64, optional
        Pseudo-spectrum of the mask; None for the full sky.
    transfer : (ell,) float64, optional
        What multiplies the spectrum of the sky before the mask: beams and pixel windows of both maps.
    threads : int, optional
        For `expected`; all cores by default.
    """

    bins: Bins
    lmax: int
    matrix: Floats
    window: Floats | None = None
    mask_cl: Floats | None = None
    transfer: Floats | None = None
    threads: int | None = None

    def decouple(self, pseudo: Floats) -> Floats:
        """Return the bandpowers of the sky from binned pseudo-spectra.

        Parameters
        ----------
        pseudo : (..., bin) float64
            As from `Bins.average`, noise bias subtracted where there is one.

        Returns
        -------
        (..., bin) float64

        Raises
        ------
        InputError
            If there is not one value a bin, or the mask leaves too little sky for bins that narrow.

        Examples
        --------
        >>> import numpy as np
        >>> bins = Bins.linear(lmax=15, width=7)
        >>> half = binned_coupling(np.array([np.pi]), bins, 15)  # a weight of 1/2 everywhere
        >>> half.decouple(np.array([1.0, 2.0])).round(12)
        array([4., 8.])
        """
        values = np.asarray(pseudo, np.float64)
        if values.ndim == 0 or values.shape[-1] != self.bins.n:
            raise InputError(f"pseudo-spectra of shape {values.shape} came; the last axis must be {self.bins.n} bins.")
        return _solved(self._factors, values.reshape(-1, self.bins.n).T).T.reshape(values.shape)

    def expected(self, cl: Floats) -> Floats:
        """Return the bandpowers that decoupling gives, on average, on a sky of spectrum `cl`.

        This is what a theory is to be compared through.  It is `window @ cl` where the spectrum ends at `lmax`, but
        needs no window; what the spectrum holds beyond `lmax` (and, if there is a transfer, not beyond that one's end)
        couples in as it does on the sky.

        Parameters
        ----------
        cl : (..., ell) float64
            From ell 0 to `lmax` at least.

        Returns
        -------
        (..., bin) float64

        Raises
        ------
        InputError
            If the spectrum ends before `lmax`.

        Examples
        --------
        >>> import numpy as np
        >>> mask_cl = 1.0 / (1 + np.arange(20.0)) ** 4
        >>> coupling = binned_coupling(mask_cl, Bins.linear(lmax=30, width=5), 30, window=True)
        >>> cl = 1.0 / (1 + np.arange(31.0))
        >>> bool(np.allclose(coupling.expected(cl), coupling.window @ cl, rtol=1e-12))
        True
        """
        coupled = coupled_spectrum(self.mask_cl, cl, self.lmax, transfer=self.transfer, threads=self.threads)
        return self.decouple(self.bins.average(coupled))

    @functools.cached_property
    def _factors(self) -> tuple[Any, Any]:
        return _factorised(self.matrix)


def binned_coupling(
    mask_cl: Floats | None,
    bins: Bins,
    lmax: int,
    *,
    transfer: Floats | None = None,
    window: bool = False,
    threads: int | None = None,
) -> Coupling:
    """Return the binned coupling matrix of a mask, exactly, and the bandpower windows if wanted.

    The mean over a bin is taken with the weights of `bins`; within a bin the spectrum of the sky is taken to be flat,
    and multiplied by `transfer` (all as in NaMaster: Alonso, Sanchez and Slosar 2019, MNRAS 484, 4127, section 2.1.3).

    Parameters
    ----------
    mask_cl : (ell,) float64, optional
        Pseudo-spectrum of the mask, or cross-spectrum of both masks: the mean of a_lm b*_lm over m, not divided by any
        fraction of sky.  It may end anywhere; multipoles beyond twice `lmax` couple nothing.  None for the full sky.
    bins : Bins
        None beyond `lmax`.
    lmax : int
        Highest multipole of the sky for the windows.
    transfer : (ell,) float64, optional
        To `lmax` at least: product of the two beams, and of the pixel windows.
    window : bool
        Also the windows: (bin, lmax + 1), and some 15 times the work at 500 bins.
    threads : int, optional
        All cores by default; the result is the same for any number of them.

    Returns
    -------
    Coupling

    Raises
    ------
    InputError
        If `mask_cl` or `transfer` is empty, too short, all zero, or not finite, or bins reach beyond `lmax`; with
        `window`, if the mask leaves too little sky for bins that narrow.

    Notes
    -----
    Work O(lmax^2) + O(bins^2 lmax); the memory is that of `coupling_memory` in coupling_integral.py.  The last bits
    (1e-16) of windows and of what is decoupled depend on the number of threads that BLAS itself is told to use; those
    of the matrix do not.

    Examples
    --------
    >>> bins = Bins.linear(lmax=20, width=6)
    >>> binned_coupling(None, bins, 20).matrix
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.]])
    """
    bins.held_to(lmax)
    through = np.ones(lmax + 1) if transfer is None else _spectrum(transfer, "transfer", lmax)
    known = None if mask_cl is None else _mask_spectrum(mask_cl)
    if known is None:
        matrix, coupled = np.diag(bins.average(through)), _weights_table(bins, lmax) * through if window else None
    else:
        matrix, coupled = integrated(known, bins, lmax, through[: lmax + 1], window, threads_of(threads))
    windows = None
    if coupled is not None:
        factors, windows = _factorised(matrix), coupled
        for first in range(0, lmax + 1, 4096):  # in place, piece by piece: all at once would need it three times
            windows[:, first : first + 4096] = _solved(factors, coupled[:, first : first + 4096])
    return Coupling(bins, lmax, matrix, windows, known, None if transfer is None else through, threads)


def coupling_matrix(mask_cl: Floats, lmax: int, *, threads: int | None = None) -> Floats:
    """Return the coupling matrix of all multipoles, for an lmax at which it fits into memory.

    Parameters
    ----------
    mask_cl : (ell,) float64
        Pseudo-spectrum of the mask, see `binned_coupling`.
    lmax : int
        Some thousands at most: the matrix takes 8 (lmax + 1)^2 bytes, several times that on the way.
    threads : int, optional
        All cores by default.

    Returns
    -------
    (ell, ell_in) float64
        The mean pseudo-spectrum is `coupling_matrix(...) @ C_l`.

    Raises
    ------
    InputError
        If `mask_cl` is empty, all zero or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> full_sky = np.array([4 * np.pi])
    >>> bool(np.allclose(coupling_matrix(full_sky, 2), np.eye(3), atol=1e-12))  # couples nothing
    True
    """
    single = Bins.linear(lmax, 1, first=0)
    return integrated(_mask_spectrum(mask_cl), single, lmax, np.ones(lmax + 1), False, threads_of(threads))[0]


def coupled_spectrum(
    mask_cl: Floats | None, cl: Floats, lmax: int, *, transfer: Floats | None = None, threads: int | None = None
) -> Floats:
    """Return the mean pseudo-spectrum of skies of spectrum `cl` under a mask, without any matrix.

    The product of two correlation functions, brought back to multipoles: O(lmax^2) work.

    Parameters
    ----------
    mask_cl : (ell,) float64, optional
        Pseudo-spectrum of the mask, see `binned_coupling`; None for the full sky.
    cl : (..., ell) float64
        Spectra from ell 0 to `lmax` at least; what is beyond couples in.
    lmax : int
        Highest multipole that comes back.
    transfer : (ell,) float64, optional
        To `lmax` at least; the spectrum is cut where it ends.
    threads : int, optional
        All cores by default.

    Returns
    -------
    (..., ell) float64

    Raises
    ------
    InputError
        If a spectrum is too short or not finite, or the mask's is all zero.

    Examples
    --------
    >>> import numpy as np
    >>> coupled_spectrum(np.array([np.pi]), np.array([1.0, 2.0, 4.0]), 1).round(12)
    array([0.25, 0.5 ])
    """
    sky = _spectrum(cl, "cl", lmax, many=True)
    if transfer is not None:
        through = _spectrum(transfer, "transfer", lmax)
        least = min(sky.shape[-1], through.size)
        sky = sky[..., :least] * through[:least]
    if mask_cl is None:
        return sky[..., : lmax + 1].copy()
    mask = _mask_spectrum(mask_cl)
    flat = sky.reshape(-1, sky.shape[-1])
    mask = mask[: lmax + flat.shape[1]]
    top = max(flat.shape[1], mask.size) - 1
    factor = 2.0 * np.arange(top + 1) + 1
    terms = np.zeros((1 + len(flat), top + 1))
    terms[0, : mask.size] = factor[: mask.size] / (4 * np.pi) * mask
    terms[1:, : flat.shape[1]] = factor[: flat.shape[1]] * flat

    def one(nodes: HalfNodes) -> Floats:
        sums = SumsByParity.zeros(len(terms), nodes.theta.size)
        for first, values in legendre_rows(nodes.theta, top):
            sums.add([slice(0, len(terms))], terms[:, first : first + len(values)], first, values)
        north, south = sums.hemispheres()
        half = nodes.weight / 2
        out = np.empty((len(flat), lmax + 1))
        project(half * north[0] * north[1:], half * south[0] * south[1:], nodes.theta, lmax, out, ROWS)
        return out

    blocks = half_nodes(lmax + flat.shape[1] - 1 + mask.size - 1).cut(len(terms))
    coupled = np.zeros((len(flat), lmax + 1))
    for part in in_order(one, blocks, threads_of(threads)):
        coupled += part
    return coupled.reshape(*sky.shape[:-1], lmax + 1)


def mask_power(mask_cl: Floats, mean_square: float) -> float:
    """Return the fraction of a mask's power that its spectrum holds: sum of (2 l + 1) W_l / (4 pi mean of w^2).

    Well below 1, the spectrum ends too early for a mask with edges that sharp: apodise it, or take a higher lmax_mask.
    For two different masks single multipoles may count negatively, so that the fraction may also exceed 1.

    Parameters
    ----------
    mask_cl : (ell,) float64
        Pseudo-spectrum of the mask.
    mean_square : float
        Mean of the squared weight (or of the product of both weights) over the whole sphere.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If the mean is zero, negative or not finite: a mask without pixels.

    Examples
    --------
    >>> import numpy as np
    >>> round(mask_power(np.array([np.pi]), 0.25), 12)
    1.0
    """
    if not (np.isfinite(mean_square) and mean_square > 0):
        raise InputError(f"the mean square of the mask is {mean_square}; the mask leaves no pixel, or is not finite.")
    known = np.asarray(mask_cl, np.float64)
    return float(((2.0 * np.arange(known.size) + 1) * known).sum() / (4 * np.pi * mean_square))


def _weights_table(bins: Bins, lmax: int) -> Floats:
    table = np.zeros((bins.n, lmax + 1))
    for k, (start, stop) in enumerate(zip(bins.starts, bins.stops, strict=True)):
        table[k, start:stop] = bins.weights_of(k)
    return table


def _factorised(matrix: Floats) -> tuple[Any, Any]:
    """Return the factors of a matrix that can be inverted."""
    from scipy.linalg import lu_factor
    from scipy.linalg.lapack import dgecon

    scale = np.abs(np.diag(matrix))
    if not scale.all():
        raise InputError(
            f"bin {int(np.argmin(scale))} holds no power that could be decoupled: the beams and pixel windows are zero "
            "there. Leave such bins out."
        )
    # Columns carry the beams, which may be tiny: how well the mask can be undone shows without them.
    factors = lu_factor(matrix / scale)
    rcond, _ = dgecon(factors[0], np.abs(matrix / scale).sum(axis=0).max())
    if not rcond > _LEAST_RCOND:
        raise InputError(
            f"the coupling matrix of {len(matrix)} bins cannot be inverted (reciprocal condition {rcond:.1e}): the "
            "mask leaves too little sky for bins that narrow. Take wider ones."
        )
    return factors, scale


def _solved(factors: tuple[Any, Any], right: Floats) -> Floats:
    from scipy.linalg import lu_solve

    solved: Floats = lu_solve(factors[0], right) / factors[1][:, None]
    return solved


def _spectrum(values: Floats, name: str, lmax: int, many: bool = False) -> Floats:
    known = np.asarray(values, np.float64)
    if known.ndim < 1 or (known.ndim > 1 and not many) or known.shape[-1] < lmax + 1:
        raise InputError(f"`{name}` of shape {known.shape} came; values from ell 0 to {lmax} at least are expected.")
    if not np.isfinite(known).all():
        raise InputError(f"`{name}` holds values that are not finite; every multipole needs a number.")
    return known


def _mask_spectrum(mask_cl: Floats) -> Floats:
    known = _spectrum(mask_cl, "mask_cl", 0)
    if not known.any():
        raise InputError("`mask_cl` is zero throughout: the mask leaves no pixel, or the two masks none in common.")
    return known
