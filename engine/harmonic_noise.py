"""Noise of pixels that a power spectrum and a variance describe, as an operator over the whole sphere in memory."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import ducc0
import numpy as np
from numpy.typing import NDArray

from ..models.correlated_gls import preconditioner_shares
from .rings import rings_of

type Floats = NDArray[np.float64]

# Where the spectrum is below this share of the white noise, the preconditioner takes the noise for white.
_NEGLIGIBLE_SHARE = 0.02


@dataclass(frozen=True)
class HarmonicNoise:
    """Noise of a power spectrum and a variance in pixels, as an operator on the pixels used.

    Parameters
    ----------
    nside : int
        Of the grid.
    pixels : ndarray
        (cells,) int64 RING numbers of the pixels used, ascending.
    spectrum : ndarray
        (ell,) float64 C_l, in square units times steradian.
    variance : ndarray
        (cells,) float64 of the white noise, in square units, above 0.
    threads : int
        Of the transforms; no bit of a result depends on it.

    Examples
    --------
    >>> noise = HarmonicNoise(4, np.arange(50), np.zeros(9), np.full(50, 4.0))
    >>> noise.apply(np.ones(50))[:3].tolist(), noise.precondition(np.ones(50))[:3].tolist()
    ([4.0, 4.0, 4.0], [0.25, 0.25, 0.25])
    """

    nside: int
    pixels: NDArray[np.int64]
    spectrum: Floats
    variance: Floats
    threads: int = 1

    @functools.cached_property
    def _shares(self) -> tuple[Floats, Floats]:
        """Transfer functions of the preconditioner, each (ell,), as far up as they matter."""
        area = np.pi / (3.0 * self.nside**2)
        typical = 1.0 / float(np.mean(1.0 / self.variance))
        filtered, low = preconditioner_shares(self.spectrum, typical, area)
        heard = np.flatnonzero(self.spectrum > _NEGLIGIBLE_SHARE * typical * area)
        stop = int(heard[-1]) + 1 if heard.size else 0
        # The integral over the sphere is a sum over pixels times their area.
        return area * filtered[:stop], area * low[:stop]

    def apply(self, values: Floats) -> Floats:
        """Return N x, both (cells,) float64."""
        product = self.variance * values
        if self.spectrum.any():
            harmonic = self._adjoint(values, self.spectrum.size - 1)
            _weigh(harmonic, self.spectrum)
            product += self._synthesis(harmonic, self.spectrum.size - 1)
        return product

    def precondition(self, values: Floats) -> Floats:
        """Return what is near N^-1 x, both (cells,) float64; see `preconditioner_shares`."""
        filtered, low = self._shares
        if not filtered.size:
            return values / self.variance
        lmax = filtered.size - 1
        harmonic = self._adjoint(values, lmax)
        smooth = harmonic.copy()
        _weigh(smooth, filtered)
        white = (values - self._synthesis(smooth, lmax)) / self.variance
        del smooth
        again = self._adjoint(white, lmax)
        _weigh(harmonic, low)
        _weigh(again, filtered)
        harmonic -= again
        del again
        white += self._synthesis(harmonic, lmax)
        return white

    def _adjoint(self, values: Floats, lmax: int) -> NDArray[np.complex128]:
        """Return sums over the pixels of Y_lm* x, (1, coefficient)."""
        rows, places, size = self._rows
        sphere = np.zeros((1, size))
        sphere[0, places] = values
        found: NDArray[np.complex128] = ducc0.sht.adjoint_synthesis(
            map=sphere, lmax=lmax, mmax=lmax, spin=0, nthreads=self.threads, **rows
        )
        return found

    def _synthesis(self, harmonic: NDArray[np.complex128], lmax: int) -> Floats:
        """Return sums over lm of Y_lm a_lm in the pixels, (cells,)."""
        rows, places, _ = self._rows
        sphere = ducc0.sht.synthesis(alm=harmonic, lmax=lmax, mmax=lmax, spin=0, nthreads=self.threads, **rows)
        values: Floats = sphere[0, places]
        return values

    @functools.cached_property
    def _rows(self) -> tuple[dict[str, Any], NDArray[np.int64], int]:
        """The rows that hold pixels used, as ducc0 wants to know them; where the pixels lie in these; their length."""
        rings = rings_of(self.nside)
        starts = rings.start.astype(np.int64)
        row = np.searchsorted(starts, self.pixels, side="right") - 1
        held = np.flatnonzero(np.bincount(row, minlength=starts.size))
        lengths = rings.nphi[held].astype(np.int64)
        begins = np.zeros(starts.size, np.int64)
        begins[held] = np.cumsum(lengths) - lengths
        places = self.pixels - starts[row] + begins[row]
        known = {
            "theta": rings.theta[held],
            "nphi": rings.nphi[held],
            "phi0": rings.phi0[held],
            "ringstart": begins[held].astype(np.uint64),
        }
        return known, places, int(lengths.sum())


def _weigh(harmonic: NDArray[np.complex128], transfer: Floats) -> None:
    """Multiply a_lm, order after order as ducc0 keeps them, by a function of ell."""
    start = 0
    for order in range(transfer.size):
        length = transfer.size - order
        harmonic[0, start : start + length] *= transfer[order:]
        start += length
