"""Moments that are gathered tile by tile and merged, of everything at once or group by group."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]

_DENSE_LIMIT = 1 << 16


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of what was seen; two of them merge.

    Parameters
    ----------
    count : int
        Values seen.
    mean : float
        Their mean; 0 where nothing was seen.
    squares : float
        Sum of the squared deviations from the mean.
    minimum, maximum : float
        The extremes; plus and minus infinity where nothing was seen.

    Notes
    -----
    Merging follows Chan, Golub and LeVeque (1983), equations 2.1a and 2.1b: no difference of large sums.

    Examples
    --------
    >>> import numpy as np
    >>> both = Moments.of(np.array([1.0, 2.0])).merge(Moments.of(np.array([6.0])))
    >>> both.count, both.mean, both.variance
    (3, 3.0, 7.0)
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    minimum: float = float("inf")
    maximum: float = float("-inf")

    @classmethod
    def of(cls, values: Floats) -> Moments:
        """Return the moments of finite `values`."""
        if values.size == 0:
            return cls()
        mean = float(values.mean())
        deviations = values - mean
        # Not a dot product: BLAS splits those over threads, and the last bits with them.
        deviations *= deviations
        return cls(
            count=values.size,
            mean=mean,
            squares=float(deviations.sum()),
            minimum=float(values.min()),
            maximum=float(values.max()),
        )

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets together."""
        if other.count == 0:
            return self
        if self.count == 0:
            return other
        count = self.count + other.count
        step = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + step * (other.count / count),
            squares=self.squares + other.squares + step * step * (self.count * other.count / count),
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
        )

    @property
    def variance(self) -> float:
        """The sample variance (n - 1 in the denominator); NaN below two values."""
        return self.squares / (self.count - 1) if self.count > 1 else float("nan")

    @property
    def sigma(self) -> float:
        """The sample standard deviation; NaN below two values."""
        return float(np.sqrt(self.variance))


def tally(keys: Integers) -> tuple[Integers, Integers]:
    """Return the distinct keys in increasing order, and how often each came."""
    if keys.size == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    low = int(keys.min())
    span = int(keys.max()) - low + 1
    # Counting into a table is ten times faster than sorting, but one outlier can make the table huge.
    if span <= max(_DENSE_LIMIT, 4 * keys.size):
        table = np.bincount(keys - low, minlength=span)
        occupied = np.flatnonzero(table)
        return (occupied + low).astype(np.int64), table[occupied].astype(np.int64)
    distinct, counts = np.unique(keys, return_counts=True)
    return distinct, counts.astype(np.int64)


def no_integers() -> Integers:
    """Return an empty array of integers."""
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class GroupedMoments:
    """Moments of a value in each bin of another, merged like `Moments`.

    Parameters
    ----------
    keys : (bin,) int64
        Bin numbers, increasing.
    count : (bin,) int64
    mean, squares : (bin,) float64
        Mean and sum of squared deviations in each bin.
    """

    keys: Integers = field(default_factory=no_integers)
    count: Integers = field(default_factory=no_integers)
    mean: Floats = field(default_factory=lambda: np.empty(0))
    squares: Floats = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(cls, groups: Integers, values: Floats) -> GroupedMoments:
        """Return the moments of `values` in each of `groups`."""
        if groups.size == 0:
            return cls()
        keys, _ = tally(groups)
        place = np.searchsorted(keys, groups)
        count = np.bincount(place, minlength=keys.size)
        mean = np.bincount(place, weights=values, minlength=keys.size) / count
        deviations = values - mean[place]
        squares = np.bincount(place, weights=deviations * deviations, minlength=keys.size)
        return cls(keys, count.astype(np.int64), mean, squares)

    def merge(self, other: GroupedMoments) -> GroupedMoments:
        """Return the moments of both sets together."""
        if other.keys.size == 0:
            return self
        if self.keys.size == 0:
            return other
        keys = np.union1d(self.keys, other.keys)
        spread = []
        for part in (self, other):
            place = np.searchsorted(keys, part.keys)
            count, mean, squares = np.zeros(keys.size, np.int64), np.zeros(keys.size), np.zeros(keys.size)
            count[place], mean[place], squares[place] = part.count, part.mean, part.squares
            spread.append((count, mean, squares))
        (n, mean, squares), (m, other_mean, other_squares) = spread
        total = n + m
        step = np.where((n > 0) & (m > 0), other_mean - mean, 0.0)
        start = np.where(n > 0, mean, other_mean)
        return GroupedMoments(
            keys, total, start + step * (m / total), squares + other_squares + step * step * (n * m / total)
        )

    def between(self, low: int, high: int) -> Moments:
        """Return the moments of all bins from `low` to `high` - 1 together; the extremes are not known."""
        chosen = (self.keys >= low) & (self.keys < high)
        merged = Moments()
        for count, mean, squares in zip(self.count[chosen], self.mean[chosen], self.squares[chosen], strict=True):
            merged = merged.merge(Moments(int(count), float(mean), float(squares)))
        return merged
