"""Correlated Gaussian maps: their spectra as a matrix, its factor, and unit draws that it is multiplied to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError

if TYPE_CHECKING:
    from .binning import Bins

type Floats = NDArray[np.float64]
type MapPair = tuple[str, str]

_ROUNDS = 40  # of fitting the means over bins; spectra as steep as ell^-3 take the most
_STEEPEST = 4.0  # power of ell that is believed below the first bin
_TOLERANCE = 1e-7  # of the correlation matrix: what rounding of given spectra may make negative


def spectra_matrix(spectra: Mapping[MapPair, NDArray[np.floating]], names: Sequence[str], lmax: int) -> Floats:
    """Return the spectra of a set of maps as matrices, (ell, map, map) float64.

    Parameters
    ----------
    spectra : mapping of (str, str) to ndarray
        (ell,) spectra of pairs of maps in either order, from 0 to `lmax` at least; cross-spectra that are not given
        are zero.
    names : sequence of str
        The maps.
    lmax : int
        Largest multipole.

    Raises
    ------
    InputError
        If an auto-spectrum is missing, or a spectrum is too short or not finite.

    Examples
    --------
    >>> spectra_matrix({("a", "a"): np.ones(2), ("b", "b"): np.ones(2)}, ["a", "b"], 1)[1].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    matrix = np.zeros((lmax + 1, len(names), len(names)))
    for row, first in enumerate(names):
        for column, second in enumerate(names[: row + 1]):
            known = spectra.get((first, second), spectra.get((second, first)))
            if known is None:
                if row == column:
                    raise InputError(f"the auto-spectrum of {first!r} is missing; realisations of a map need it.")
                continue
            values = np.asarray(known, np.float64)
            if values.ndim != 1 or values.size <= lmax or not np.isfinite(values[: lmax + 1]).all():
                raise InputError(
                    f"the spectrum of {first!r} and {second!r} came with shape {values.shape}; give finite numbers for "
                    f"every multipole from 0 to {lmax}."
                )
            matrix[:, row, column] = matrix[:, column, row] = values[: lmax + 1]
    return matrix


def factor_spectra(matrix: Floats, names: Sequence[str], *, nearest: bool = False) -> Floats:
    """Return lower triangular factors L of spectra with L L^T = C, (ell, map, map) float64.

    The first map depends on its own draws alone, the second on two, and so on; its realisation is therefore the same
    whatever maps follow.

    Parameters
    ----------
    matrix : ndarray
        (ell, map, map) float64, what `spectra_matrix` returns.
    names : sequence of str
        The maps, for the error.
    nearest : bool
        Whether negative eigenvalues are cut off where there are any (auto-spectra are kept); otherwise they are an
        error.

    Raises
    ------
    InputError
        If no maps can have such spectra: a matrix has a negative eigenvalue, or an auto-spectrum is negative.

    Examples
    --------
    >>> factor_spectra(np.array([[[4.0, 2.0], [2.0, 2.0]]]), ["a", "b"])[0].round(12).tolist()
    [[2.0, 0.0], [1.0, 1.0]]
    """
    autos = np.diagonal(matrix, axis1=1, axis2=2)
    if (autos < 0).any():
        ell, place = (int(each[0]) for each in np.nonzero(autos < 0))
        raise InputError(f"the auto-spectrum of {names[place]!r} is negative at ell {ell}; a variance is 0 or more.")
    sizes = np.sqrt(autos)
    scales = np.where(sizes > 0, sizes, 1.0)
    correlation = matrix / scales[:, :, None] / scales[:, None, :]
    values, vectors = np.linalg.eigh(correlation)
    if not nearest and (values < -_TOLERANCE).any():
        ell = int(np.nonzero((values < -_TOLERANCE).any(axis=1))[0][0])
        raise InputError(
            f"no maps {', '.join(names)} can have these spectra: at ell {ell} the matrix of their correlations has the "
            f"eigenvalue {values[ell, 0]:.3g}. Give cross-spectra with |C_ab| <= sqrt(C_aa C_bb), and for more than "
            "two maps such that they are possible together."
        )
    square = vectors * np.sqrt(np.clip(values, 0.0, None))[:, None, :]
    if nearest:
        # Cutting off eigenvalues adds variance; what the maps have of it is known better than how they correlate.
        grown = np.sqrt(np.einsum("lij,lij->li", square, square))
        square *= (np.where(sizes > 0, 1.0, 0.0) / np.where(grown > 0, grown, 1.0))[:, :, None]
    upper = np.linalg.qr(np.swapaxes(square, 1, 2), mode="r")
    signs = np.where(np.diagonal(upper, axis1=1, axis2=2) < 0, -1.0, 1.0)
    found: Floats = np.swapaxes(upper * signs[:, :, None], 1, 2) * sizes[:, :, None]
    return found


def draw(lmax: int, seed: Sequence[int], precision: str = "double") -> NDArray[np.complexfloating]:
    """Return unit Gaussian coefficients of a real map, the usual triangle (l, m) complex, order by order.

    Their spectrum is 1 on average: variance 1 for m = 0, which is real, and 1/2 in either part above.

    Parameters
    ----------
    lmax : int
        Largest degree.
    seed : sequence of int
        Another seed, other numbers.
    precision : {"single", "double"}
        complex64 or complex128.

    Examples
    --------
    >>> draw(2, (1,)).shape, draw(2, (1,)).imag[:3].tolist()
    ((6,), [0.0, 0.0, 0.0])
    """
    count = (lmax + 1) * (lmax + 2) // 2
    real = np.float32 if precision == "single" else np.float64
    numbers = np.random.default_rng(tuple(seed)).standard_normal(2 * count, dtype=real)
    found: NDArray[np.complexfloating] = numbers.view(np.result_type(real, np.complex64))
    found[lmax + 1 :] *= real(np.sqrt(0.5))
    found[: lmax + 1].imag = 0.0
    return found


def interpolated_spectra(
    ell: Floats, measured: Mapping[MapPair, Floats], names: Sequence[str], lmax: int, *, bins: Bins | None = None
) -> dict[MapPair, Floats]:
    """Return measured spectra as spectra at every multipole, (ell,) float64, to draw realisations from.

    Auto-spectra are power laws from bin to bin, over those where they are positive, so that their means over the bins
    are what was measured; below the first bin's middle the first power law goes on, above the last one's the spectrum
    stays.  Cross-spectra follow from the correlation coefficient, kept within -1 and 1.  Monopole and dipole are 0.

    Parameters
    ----------
    ell : ndarray
        (bin,) effective multipoles, growing.
    measured : mapping of (str, str) to ndarray
        (bin,) spectra of all pairs of the maps, in either order.
    names : sequence of str
        The maps.
    lmax : int
        Largest multipole.
    bins : Bins, optional
        What was averaged over; None where the spectra are values at `ell`.

    Raises
    ------
    InputError
        If an auto-spectrum is positive in no bin.

    Examples
    --------
    >>> interpolated_spectra(np.array([2.0, 4.0]), {("a", "a"): np.array([4.0, 16.0])}, ["a"], 4)[("a", "a")].round(12)
    array([ 0.,  0.,  4.,  9., 16.])
    """
    every = np.arange(lmax + 1, dtype=np.float64)
    found: dict[MapPair, Floats] = {}
    for row, first in enumerate(names):
        values = measured[(first, first)]
        good = (values > 0) & (values < np.inf) & (ell > 1)
        if not good.any():
            raise InputError(
                f"the auto-spectrum of {first!r} is positive in no bin, so nothing can be drawn from it; give "
                "`fiducial`."
            )
        found[(first, first)] = _power_laws(ell, values, good, lmax, bins)
        for second in names[:row]:
            cross = measured.get((first, second), measured.get((second, first)))
            if cross is None:
                continue
            others = measured[(second, second)]
            usable = (values > 0) & (others > 0) & np.isfinite(cross) & (ell > 1)
            if usable.any():
                # Roots before products: far below the beam spectra are as large as numbers can be.
                coefficient = np.clip(cross[usable] / np.sqrt(values[usable]) / np.sqrt(others[usable]), -1.0, 1.0)
                size = np.sqrt(found[(first, first)]) * np.sqrt(found[(second, second)])
                found[(first, second)] = np.interp(every, ell[usable], coefficient) * size
    return found


def _power_laws(ell: Floats, values: Floats, good: NDArray[np.bool_], lmax: int, bins: Bins | None) -> Floats:
    x, wanted = np.log(ell[good]), np.log(values[good])
    every, heights = np.log(np.arange(2, lmax + 1)), wanted.copy()
    curve = np.zeros(lmax + 1)
    for _ in range(_ROUNDS if bins is not None else 1):
        slope = float(np.clip((heights[1] - heights[0]) / (x[1] - x[0]), -_STEEPEST, _STEEPEST)) if x.size > 1 else 0.0
        curve[2:] = np.exp(np.interp(every, x, heights) + slope * np.minimum(every - x[0], 0.0))
        if bins is not None:
            # The mean of a steep spectrum over a bin is more than its value in the middle.
            heights += np.clip(wanted - np.log(bins.average(curve)[good]), -1.0, 1.0)
    return curve
