"""Bins of multipoles: which there are, how multipoles weigh in them, and averages over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError, nearest
from .moments import Floats

_WEIGHTINGS = ("uniform", "2l+1")


@dataclass(frozen=True)
class Bins:
    """Bins of multipoles, in increasing order, without overlap; gaps between them are allowed.

    Parameters
    ----------
    starts : tuple of int
        First multipole of each bin.
    stops : tuple of int
        One beyond the last multipole of each bin.
    weighting : {"uniform", "2l+1"}
        How the multipoles of a bin weigh in its average: all alike (as in NaMaster), or as the 2l + 1 modes that
        each has.

    Raises
    ------
    InputError
        If there are no bins, one is empty, two overlap or are out of order, or a start is negative.

    Examples
    --------
    >>> from skymill.engine.binning import Bins
    >>> bins = Bins.linear(lmax=20, width=8)
    >>> bins.starts, bins.stops, bins.ell
    ((2, 10), (10, 18), array([ 5.5, 13.5]))
    """

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    weighting: str = "uniform"

    def __post_init__(self) -> None:
        for name in ("starts", "stops"):
            object.__setattr__(self, name, tuple(_whole(value, name) for value in _listed(getattr(self, name), name)))
        if self.weighting not in _WEIGHTINGS:
            raise InputError(f"`weighting` {self.weighting!r} is unknown: {nearest(str(self.weighting), _WEIGHTINGS)}.")
        if len(self.starts) != len(self.stops):
            raise InputError(
                f"`starts` and `stops`: {len(self.starts)} and {len(self.stops)} numbers came; "
                "every bin needs one of each."
            )
        if not self.starts:
            raise InputError("`bins` holds no bin; at least one is needed.")
        before = 0
        for start, stop in zip(self.starts, self.stops, strict=True):
            if start < 0:
                raise InputError(f"`bins`: the bin ({start}, {stop}) starts below 0; multipoles begin at 0.")
            if stop <= start:
                raise InputError(
                    f"`bins`: the bin ({start}, {stop}) is empty; a bin goes from its start to one before its stop."
                )
            if start < before:
                raise InputError(
                    f"`bins`: the bin ({start}, {stop}) begins before the one ahead of it ends, at {before}; give "
                    "bins in increasing order, without overlap."
                )
            before = stop

    @classmethod
    def of(cls, bins: int | Sequence[Any] | NDArray[np.integer[Any]] | Bins, lmax: int) -> Bins:
        """Return the bins that a number, edges, pairs or bins stand for.

        Parameters
        ----------
        bins : int, sequence, array or Bins
            A width (see `linear`), edges (see `from_edges`), pairs (start, stop) with stop not included, or bins.
        lmax : int
            Highest multipole there is.

        Returns
        -------
        Bins

        Raises
        ------
        InputError
            If it stands for no bins, or a bin reaches beyond `lmax`.

        Examples
        --------
        >>> Bins.of([2, 10, 30], lmax=40)
        Bins(starts=(2, 10), stops=(10, 30), weighting='uniform')
        >>> Bins.of([(2, 10), (20, 30)], lmax=40).n
        2
        """
        if isinstance(bins, Bins):
            found = bins
        elif isinstance(bins, int | np.integer):
            return cls.linear(lmax, bins)
        else:
            listed = _listed(bins, "bins")
            pairs = [each for each in listed if not isinstance(each, str) and hasattr(each, "__len__")]
            if pairs and (len(pairs) < len(listed) or any(len(pair) != 2 for pair in pairs)):
                raise InputError(
                    f"`bins` {_short(bins)} came; a width, edges, or pairs (start, stop) throughout are expected."
                )
            if pairs:
                found = cls(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))
            else:
                found = cls.from_edges(listed)
        found.held_to(lmax)
        return found

    @classmethod
    def linear(cls, lmax: int, width: int, first: int = 2) -> Bins:
        """Return bins of equal width; multipoles at the end that do not fill a bin are left out.

        Parameters
        ----------
        lmax : int
            Highest multipole that a bin may hold.
        width : int
            Multipoles in each bin.
        first : int
            Where the first bin starts.

        Returns
        -------
        Bins

        Raises
        ------
        InputError
            If not one bin fits.

        Examples
        --------
        >>> Bins.linear(lmax=31, width=10).stops
        (12, 22, 32)
        """
        lmax, width, first = _whole(lmax, "lmax"), _whole(width, "width"), _whole(first, "first")
        if width < 1:
            raise InputError(f"`bins`: a width of {width} came; a bin holds at least one multipole.")
        if first < 0 or first + width > lmax + 1:
            raise InputError(
                f"`bins`: no bin of {width} multipoles fits between {first} and lmax {lmax}; take narrower bins, or a "
                "higher `lmax`."
            )
        starts = range(first, lmax + 2 - width, width)
        return cls(tuple(starts), tuple(start + width for start in starts))

    @classmethod
    def logarithmic(cls, lmax: int, count: int, first: int = 2) -> Bins:
        """Return bins of nearly equal width in log ell, up to and with `lmax`.

        Where such bins would be narrower than one multipole they hold one.

        Parameters
        ----------
        lmax : int
            Last multipole of the last bin.
        count : int
            How many bins.
        first : int
            Where the first bin starts; at least 1.

        Returns
        -------
        Bins

        Raises
        ------
        InputError
            If there are fewer multipoles than bins, or `first` is 0.

        Examples
        --------
        >>> Bins.logarithmic(lmax=1023, count=9).starts
        (2, 4, 8, 16, 32, 64, 128, 256, 512)
        """
        lmax, count, first = _whole(lmax, "lmax"), _whole(count, "count"), _whole(first, "first")
        if first < 1:
            raise InputError(f"`first` {first} came; logarithmic bins start at 1 or above.")
        if not 1 <= count <= lmax + 1 - first:
            raise InputError(
                f"`count` {count} came; between 1 and {max(0, lmax + 1 - first)} bins fit between {first} and lmax "
                f"{lmax}."
            )
        ideal = np.floor(np.geomspace(first, lmax + 1, count + 1) + 0.5).astype(int)
        edges = [first]
        for edge in ideal[1:]:
            edges.append(max(int(edge), edges[-1] + 1))
        return cls.from_edges(edges)

    @classmethod
    def from_edges(cls, edges: Sequence[int], weighting: str = "uniform") -> Bins:
        """Return the bins between neighbouring edges: each holds its left edge and not its right one.

        Parameters
        ----------
        edges : sequence of int
            At least two, increasing.
        weighting : {"uniform", "2l+1"}
            See `Bins`.

        Returns
        -------
        Bins

        Raises
        ------
        InputError
            If there are fewer than two edges, or they do not increase.

        Examples
        --------
        >>> Bins.from_edges([2, 10, 30]).modes
        array([ 96., 800.])
        """
        known = [_whole(edge, "bins") for edge in _listed(edges, "bins")]
        if len(known) < 2:
            raise InputError(f"`bins` {_short(edges)} came; at least two edges are needed.")
        return cls(tuple(known[:-1]), tuple(known[1:]), weighting)

    @property
    def n(self) -> int:
        """How many bins there are."""
        return len(self.starts)

    @property
    def ell(self) -> Floats:
        """Effective multipole of each bin, (bin,) float64: the mean of ell with the weights of the bin."""
        return np.array([float(weights @ ell) for ell, weights in self._each()])

    @property
    def modes(self) -> Floats:
        """Modes of each bin on the full sky, (bin,) float64: the sum of 2l + 1."""
        return np.array([float(stop**2 - start**2) for start, stop in zip(self.starts, self.stops, strict=True)])

    def weights_of(self, k: int) -> Floats:
        """Return the weights of the multipoles of bin `k`, (ell,) float64 from its start on; their sum is 1."""
        ell = np.arange(self.starts[k], self.stops[k])
        weights = np.ones(ell.size) if self.weighting == "uniform" else 2.0 * ell + 1
        normalised: Floats = weights / weights.sum()
        return normalised

    def average(self, spectra: Floats) -> Floats:
        """Return the mean over each bin of spectra that begin at ell 0.

        Parameters
        ----------
        spectra : (..., ell) float64
            Reach at least to the end of the last bin.

        Returns
        -------
        (..., bin) float64

        Raises
        ------
        InputError
            If the spectra end before the bins do.

        Examples
        --------
        >>> import numpy as np
        >>> Bins.from_edges([2, 4, 8]).average(np.arange(10.0))
        array([2.5, 5.5])
        """
        values = np.asarray(spectra, np.float64)
        self.held_to(values.shape[-1] - 1 if values.ndim else -1)
        means = np.empty((*values.shape[:-1], self.n))
        for k, (start, stop) in enumerate(zip(self.starts, self.stops, strict=True)):
            means[..., k] = (values[..., start:stop] * self.weights_of(k)).sum(axis=-1)
        return means

    def held_to(self, lmax: int) -> None:
        """Raise InputError if a bin reaches beyond multipole `lmax`."""
        if self.stops[-1] > lmax + 1:
            raise InputError(
                f"`bins`: the bin ({self.starts[-1]}, {self.stops[-1]}) holds multipoles up to {self.stops[-1] - 1}, "
                f"and lmax is {lmax}; leave it out, or take a higher `lmax`."
            )

    def _each(self) -> Iterator[tuple[Floats, Floats]]:
        for k, (start, stop) in enumerate(zip(self.starts, self.stops, strict=True)):
            yield np.arange(start, stop, dtype=np.float64), self.weights_of(k)


def _listed(values: Any, name: str) -> list[Any]:
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        raise InputError(f"`{name}` {_short(values)} came; a width, edges, or pairs (start, stop) are expected.")
    return list(values)


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral):
        raise InputError(f"`{name}` {_short(value)} came; multipoles are integers.")
    return int(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
