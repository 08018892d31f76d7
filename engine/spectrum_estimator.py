"""From pseudo-spectra of weighted maps to spectra of the sky: averaged in bins, decoupled, beams divided out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError
from .binning import Bins
from .coupling import Coupling, binned_coupling
from .spectrum_errors import effective_f_sky

type Floats = NDArray[np.float64]
type MapPair = tuple[str, str]
type WeightPair = tuple[str | None, str | None]


@dataclass(frozen=True, eq=False)  # arrays have no single truth
class SpectrumMap:
    """What the spectra of a map need to know of it.

    Parameters
    ----------
    unit : str
        Of its values.
    weight : str, optional
        Name of the weights that it was multiplied by; None for none.
    transfer : ndarray, optional
        (ell,) float64, what its a_lm were multiplied by and shall be divided by, b_l p_l; None for nothing.
    """

    unit: str = "1"
    weight: str | None = None
    transfer: Floats | None = None


@dataclass(frozen=True, eq=False)
class Estimator:
    """Turns pseudo-spectra into spectra.

    Without bins a pseudo-spectrum is divided by the mean product of the weights (the f_sky approximation, which leaves
    multipoles coupled) and by the transfer functions, multipole by multipole; without weights that is exact.  With
    bins it is averaged and decoupled (MASTER).

    Parameters
    ----------
    maps : mapping of str to SpectrumMap
        By name.
    lmax : int
        Largest multipole of the pseudo-spectra.
    bins : Bins, optional
        Default: every multipole by itself.
    mask_cl : mapping of (str, str) to ndarray
        Pseudo-spectra of pairs of weights, (ell,) float64, in either order of the pair.
    moments : mapping of (str, str) to (float, float)
        <w_a w_b> and <w_a^2 w_b^2> over the full sky for pairs of weights; None stands for a map without weights.
    threads : int, optional
        For the coupling; all cores by default.

    Raises
    ------
    InputError
        If the bins reach beyond `lmax`.

    References
    ----------
    Hivon et al. 2002, ApJ 567, 2 (MASTER).

    Examples
    --------
    >>> estimator = Estimator({"a": SpectrumMap(transfer=np.array([1.0, 0.5, 0.5]))}, lmax=2)
    >>> estimator.spectrum("a", "a", np.array([1.0, 1.0, 2.0]))
    array([1., 4., 8.])
    """

    maps: Mapping[str, SpectrumMap]
    lmax: int
    bins: Bins | None = None
    mask_cl: Mapping[tuple[str, str], Floats] = field(default_factory=dict)
    moments: Mapping[WeightPair, tuple[float, float]] = field(default_factory=dict)
    threads: int | None = None
    _couplings: dict[tuple[object, ...], Coupling] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.bins is not None:
            self.bins.held_to(self.lmax)

    def with_maps(self, maps: Mapping[str, SpectrumMap]) -> Estimator:
        """Return the same for other maps."""
        return Estimator(maps, self.lmax, self.bins, self.mask_cl, self.moments, self.threads)

    @property
    def size(self) -> int:
        """Number of bins, or of multipoles where there are none."""
        return self.lmax + 1 if self.bins is None else self.bins.n

    @property
    def modes(self) -> Floats:
        """Modes of the full sky in each bin, N_b = sum of 2 ell + 1, (bin,) float64."""
        every: Floats = 2.0 * np.arange(self.lmax + 1, dtype=np.float64) + 1.0
        return every if self.bins is None else self.bins.modes

    @property
    def ell(self) -> Floats:
        """Effective multipole of each bin, (bin,) float64."""
        return np.arange(self.lmax + 1, dtype=np.float64) if self.bins is None else self.bins.ell

    def weights_of(self, a: str, b: str) -> WeightPair:
        """Return the names of the weights of two maps."""
        return self.maps[a].weight, self.maps[b].weight

    def moments_of(self, a: str, b: str) -> tuple[float, float]:
        """Return <w_a w_b> and <w_a^2 w_b^2> of two maps; 1 and 1 where neither has weights."""
        first, second = self.weights_of(a, b)
        if first is None and second is None:
            return 1.0, 1.0
        known = self.moments.get((first, second), self.moments.get((second, first)))
        if known is None:
            raise InputError(f"`moments` of the weights {first!r} and {second!r} of maps {a!r} and {b!r} are missing.")
        return known

    def f_sky(self, a: str, b: str) -> float:
        """Return the fraction of the modes of the full sky that the weights of two maps leave."""
        return effective_f_sky(*self.moments_of(a, b))

    def transfer(self, a: str, b: str) -> Floats | None:
        """Return the product of the transfer functions of two maps, (ell,) float64, or None."""
        product = np.ones(self.lmax + 1)
        for name in (a, b):
            one = self.maps[name].transfer
            if one is not None:
                if one.shape != (self.lmax + 1,):
                    raise InputError(
                        f"`transfer` of map {name!r} has shape {one.shape}; give one number for every multipole from 0 "
                        f"to {self.lmax}."
                    )
                product *= one
        return None if self.maps[a].transfer is None and self.maps[b].transfer is None else product

    def coupling(self, a: str, b: str, *, window: bool = False) -> Coupling:
        """Return what decouples the binned pseudo-spectrum of two maps; pairs of the same kind share it.

        Raises
        ------
        InputError
            If there are no bins, or the pseudo-spectrum of the weights is missing.
        """
        if self.bins is None:
            raise InputError("spectra without bins are not decoupled; give `bins`.")
        kinds = sorted((self._kind(a), self._kind(b)))
        for wanted in ((*kinds, True), (*kinds, window)):
            if wanted in self._couplings:
                return self._couplings[wanted]
        mask_cl, transfer = self._mask_cl(a, b), self.transfer(a, b)
        found = binned_coupling(mask_cl, self.bins, self.lmax, transfer=transfer, window=window, threads=self.threads)
        self._couplings[(*kinds, window)] = found
        return found

    def _kind(self, name: str) -> tuple[str, int]:
        """Return what tells maps apart that need couplings of their own."""
        one = self.maps[name]
        return one.weight or "", 0 if one.transfer is None else hash(np.ascontiguousarray(one.transfer).tobytes())

    def _mask_cl(self, a: str, b: str) -> Floats | None:
        first, second = self.weights_of(a, b)
        if first is None and second is None:
            return None
        if first is None or second is None:
            # The spectrum of weights with those that are 1 everywhere: a monopole, a_00 = sqrt(4 pi) <w>.
            return np.array([4.0 * math.pi * self.moments_of(a, b)[0]])
        known = self.mask_cl.get((first, second), self.mask_cl.get((second, first)))
        if known is None:
            raise InputError(f"`mask_cl` of the weights {first!r} and {second!r} of maps {a!r} and {b!r} is missing.")
        return known

    def average(self, pseudo: NDArray[np.floating]) -> Floats:
        """Return pseudo-spectra (..., ell) averaged in the bins, (..., bin) float64."""
        values = np.asarray(pseudo, np.float64)
        if values.shape[-1:] != (self.lmax + 1,):
            raise InputError(
                f"pseudo-spectra of shape {values.shape} came; the last axis holds the multipoles 0 to {self.lmax}."
            )
        return values if self.bins is None else self.bins.average(values)

    def solve(self, a: str, b: str, averaged: Floats) -> Floats:
        """Return the spectrum of two maps, (..., bin) float64, from averaged pseudo-spectra (..., bin).

        Without bins a multipole whose transfer function is 0 has no value, NaN.
        """
        if self.bins is not None:
            return self.coupling(a, b).decouple(averaged)
        divisor = np.full(self.lmax + 1, self.moments_of(a, b)[0])
        if not divisor[0] > 0:
            self.f_sky(a, b)  # says what is wrong
        transfer = self.transfer(a, b)
        if transfer is not None:
            divisor *= transfer
        with np.errstate(over="ignore"):  # far below the beam
            found: Floats = averaged / np.where(divisor == 0, np.nan, divisor)
        return found

    def spectrum(self, a: str, b: str, pseudo: NDArray[np.floating]) -> Floats:
        """Return the spectrum of two maps, (..., bin) float64, from their pseudo-spectrum (..., ell)."""
        return self.solve(a, b, self.average(pseudo))


def needed_pairs(
    pairs: Sequence[MapPair],
    *,
    errors: str | None = None,
    splits: Mapping[str, tuple[str, str]] | None = None,
) -> list[MapPair]:
    """Return the pairs of maps whose pseudo-spectra a result needs, each once, in either order.

    Parameters
    ----------
    pairs : sequence of (str, str)
        Those asked for; they come first.
    errors : {None, "knox", "monte-carlo"}
        With errors the auto-spectra of all maps are needed too.
    splits : mapping of str to (str, str), optional
        Two halves of a map, for its noise; see `assemble`.

    Examples
    --------
    >>> needed_pairs([("a", "b")], errors="knox")
    [('a', 'b'), ('a', 'a'), ('b', 'b')]
    """
    wanted = list(pairs)
    if errors is not None:
        wanted += [(name, name) for pair in pairs for name in pair]
        if errors == "monte-carlo":
            # Realisations of a set of maps need every spectrum between them.
            names = list(dict.fromkeys(name for pair in pairs for name in pair))
            wanted += [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    for one, other in (splits or {}).values():
        wanted += [(one, one), (other, other), (one, other)]
    return unordered(wanted)


def unordered[T](pairs: Iterable[tuple[T, T]]) -> list[tuple[T, T]]:
    """Return the pairs without those that came before in the same or the other order."""
    kept: dict[tuple[T, T], None] = {}
    for a, b in pairs:
        if (a, b) not in kept and (b, a) not in kept:
            kept[(a, b)] = None
    return list(kept)
