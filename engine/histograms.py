"""Histograms that are gathered tile by tile and merged, and need no range beforehand.

A histogram here stores only the bins that hold something, on a scale that covers every number, so that one
pass over a map is enough, two of them merge exactly (counts are integers), and a full-sky result stays small.
Whatever is read from a histogram is known to within one bin; the width of a bin is part of the scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .moments import Floats, Integers, no_integers, tally

_LOW_BITS = 32  # a two-dimensional bin is one integer: first index above, second below
_OFFSET = 1 << (_LOW_BITS - 1)


class Scale(Protocol):
    """A way of numbering bins: every value has an integer, every integer a left edge."""

    def index(self, values: Floats) -> Integers:
        """Return the number of the bin of each value."""
        ...

    def edges(self, index: Integers) -> Floats:
        """Return the left edge of each bin; the right edge is that of the next."""
        ...


@dataclass(frozen=True)
class LogScale:
    """Bins of equal width in log10, for positive numbers.

    Parameters
    ----------
    width : float
        Width of a bin in dex.

    Examples
    --------
    >>> import numpy as np
    >>> LogScale(0.5).index(np.array([1.0, 4.0, 0.5]))
    array([ 0,  1, -1])
    """

    width: float

    def index(self, values: Floats) -> Integers:
        """Return the number of the bin of each positive value."""
        numbers: Integers = np.floor(np.log10(values) / self.width).astype(np.int64)
        return numbers

    def edges(self, index: Integers) -> Floats:
        """Return the left edge of each bin."""
        edges: Floats = np.power(10.0, index * self.width)
        return edges


@dataclass(frozen=True)
class AsinhScale:
    """Bins that are even around zero and logarithmic far from it, for numbers of either sign.

    A bin at value x is `width * sqrt(linear**2 + x**2)` wide to first order.

    Parameters
    ----------
    width : float
        Width of a bin in arcsinh(x / linear).
    linear : float
        The value at which even bins turn into logarithmic ones.

    Examples
    --------
    >>> import numpy as np
    >>> AsinhScale(width=0.1, linear=0.05).index(np.array([0.001, -0.001, 0.05]))
    array([ 0, -1,  8])
    """

    width: float
    linear: float

    def index(self, values: Floats) -> Integers:
        """Return the number of the bin of each value."""
        numbers: Integers = np.floor(np.arcsinh(values / self.linear) / self.width).astype(np.int64)
        return numbers

    def edges(self, index: Integers) -> Floats:
        """Return the left edge of each bin."""
        edges: Floats = self.linear * np.sinh(index * self.width)
        return edges


def _merge_counts(keys: list[Integers], counts: list[Integers]) -> tuple[Integers, Integers]:
    distinct, place = np.unique(np.concatenate(keys), return_inverse=True)
    total = np.zeros(distinct.size, np.int64)
    np.add.at(total, place, np.concatenate(counts))
    return distinct, total


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of values in the bins of a scale; only bins that hold something are stored.

    Parameters
    ----------
    scale : Scale
        How bins are numbered.
    index : (bin,) int64
        Numbers of the occupied bins, increasing.
    counts : (bin,) int64
        Values in each.

    Examples
    --------
    >>> import numpy as np
    >>> histogram = Histogram.of(LogScale(0.001), np.array([1.0, 2.0, 4.0]))
    >>> histogram.total, round(histogram.quantile(0.5), 2)
    (3, 2.0)
    """

    scale: Scale
    index: Integers = field(default_factory=no_integers)
    counts: Integers = field(default_factory=no_integers)

    @classmethod
    def of(cls, scale: Scale, values: Floats) -> Histogram:
        """Return the histogram of finite `values`."""
        return cls(scale, *tally(scale.index(values)))

    def merge(self, other: Histogram) -> Histogram:
        """Return the histogram of both sets together."""
        if self.scale != other.scale:
            raise ValueError(f"histograms on different scales do not merge: {self.scale} and {other.scale}")
        if other.index.size == 0:
            return self
        if self.index.size == 0:
            return other
        return Histogram(self.scale, *_merge_counts([self.index, other.index], [self.counts, other.counts]))

    @property
    def total(self) -> int:
        """Values counted."""
        return int(self.counts.sum())

    def quantile(self, fraction: float) -> float:
        """Return the value below which `fraction` of the values lie, to within one bin.

        The bin is the one that holds the order statistic floor(fraction * (n - 1)); inside it the values are
        taken to be spread evenly.  NaN where nothing was counted.
        """
        total = self.total
        if total == 0:
            return float("nan")
        rank = fraction * (total - 1)
        cumulative = np.cumsum(self.counts)
        place = int(np.searchsorted(cumulative, np.floor(rank), side="right"))
        before = int(cumulative[place] - self.counts[place])
        share = min(1.0, (rank - before + 0.5) / float(self.counts[place]))
        left, right = self.scale.edges(self.index[place] + np.array([0, 1]))
        return float(left + share * (right - left))

    def resolution(self, fraction: float) -> float:
        """Return the width of the bin that `quantile(fraction)` falls in: the bound of its error."""
        value = self.quantile(fraction)
        if not np.isfinite(value):
            return float("nan")
        number = self.scale.index(np.array([value]))
        left, right = self.scale.edges(number[0] + np.array([0, 1]))
        return float(right - left)

    def folded(self) -> Histogram:
        """Return the histogram of the absolute values; the scale must be symmetric about zero."""
        if not isinstance(self.scale, AsinhScale):
            raise ValueError(f"only a scale that is symmetric about zero folds, this one is {self.scale}")
        positive = np.where(self.index < 0, -1 - self.index, self.index)
        return Histogram(self.scale, *_merge_counts([positive], [self.counts]))

    def rebinned(self, low: float, high: float, bins: int) -> tuple[Floats, Integers]:
        """Return edges and counts of about `bins` bins between `low` and `high`, made of whole fine bins.

        Parameters
        ----------
        low, high : float
            The range wanted; the edges returned are the nearest edges of fine bins.
        bins : int
            Bins wanted; fewer come back where fine bins are wider than that.

        Returns
        -------
        edges : (bin + 1,) float64
        counts : (bin,) int64
            Exact: no fine bin is divided.
        """
        wanted = np.linspace(low, high, bins + 1)
        if isinstance(self.scale, LogScale):
            wanted = np.maximum(wanted, np.finfo(np.float32).tiny)
        numbers = np.unique(self.scale.index(wanted))
        if numbers.size == 1:
            numbers = np.array([numbers[0], numbers[0] + 1])
        place = np.searchsorted(numbers, self.index, side="right") - 1
        inside = (place >= 0) & (place < numbers.size - 1)
        counts = np.zeros(numbers.size - 1, np.int64)
        np.add.at(counts, place[inside], self.counts[inside])
        return self.scale.edges(numbers), counts


@dataclass(frozen=True, eq=False)
class Histogram2D:
    """Counts of pairs of values; only bins that hold something are stored.

    Parameters
    ----------
    first, second : Scale
        How bins are numbered along each axis.
    keys : (bin,) int64
        Both bin numbers packed into one integer, increasing.
    counts : (bin,) int64
        Pairs in each.

    Examples
    --------
    >>> import numpy as np
    >>> pairs = Histogram2D.of(LogScale(1.0), LogScale(1.0), np.array([1.0, 10.0]), np.array([100.0, 10.0]))
    >>> pairs.numbers()
    (array([0, 1]), array([2, 1]))
    """

    first: Scale
    second: Scale
    keys: Integers = field(default_factory=no_integers)
    counts: Integers = field(default_factory=no_integers)

    @classmethod
    def of(cls, first: Scale, second: Scale, x: Floats, y: Floats) -> Histogram2D:
        """Return the histogram of the pairs (`x`, `y`)."""
        if x.size == 0:
            return cls(first, second)
        rows, columns = first.index(x), second.index(y)
        # Tallied on a local grid first: packed keys are too far apart to count into a table.
        row, column = int(rows.min()), int(columns.min())
        span = int(columns.max()) - column + 1
        local, counts = tally((rows - row) * span + (columns - column))
        keys = ((local // span + row) << _LOW_BITS) + (local % span + column + _OFFSET)
        return cls(first, second, keys, counts)

    def merge(self, other: Histogram2D) -> Histogram2D:
        """Return the histogram of both sets together."""
        if (self.first, self.second) != (other.first, other.second):
            raise ValueError("histograms on different scales do not merge")
        if other.keys.size == 0:
            return self
        if self.keys.size == 0:
            return other
        keys, counts = _merge_counts([self.keys, other.keys], [self.counts, other.counts])
        return Histogram2D(self.first, self.second, keys, counts)

    @property
    def total(self) -> int:
        """Pairs counted."""
        return int(self.counts.sum())

    def numbers(self) -> tuple[Integers, Integers]:
        """Return the bin numbers of the occupied bins along the first and the second axis."""
        return self.keys >> _LOW_BITS, (self.keys & ((1 << _LOW_BITS) - 1)) - _OFFSET

    def dense(self, spare: float = 0.0, margin: int = 0) -> tuple[Floats, Floats, Integers]:
        """Return the edges along both axes and the table of counts (first, second) that they enclose.

        Parameters
        ----------
        spare : float
            Fraction of the pairs at either end of either axis that need not be enclosed: one wild outlier would
            otherwise make a table of all the bins between it and the rest.
        margin : int
            Bins to add on all sides of what must be enclosed.
        """
        places = self.numbers()
        starts, lengths = [], []
        inside = np.ones(self.keys.size, bool)
        for numbers in places:
            distinct, counts = _merge_counts([numbers], [self.counts])
            enclosed = np.cumsum(counts)
            last_needed = min(int(np.searchsorted(enclosed, (1 - spare) * enclosed[-1])), distinct.size - 1)
            first = max(int(distinct[np.searchsorted(enclosed, spare * enclosed[-1])]) - margin, int(distinct[0]))
            last = min(int(distinct[last_needed]) + margin, int(distinct[-1]))
            starts.append(first)
            lengths.append(last - first + 1)
            inside &= (numbers >= first) & (numbers <= last)
        table = np.zeros(lengths, np.int64)
        table[places[0][inside] - starts[0], places[1][inside] - starts[1]] = self.counts[inside]
        x = self.first.edges(starts[0] + np.arange(lengths[0] + 1))
        y = self.second.edges(starts[1] + np.arange(lengths[1] + 1))
        return x, y, table

    def along_first(self) -> Histogram:
        """Return the histogram of the first value alone."""
        return Histogram(self.first, *_merge_counts([self.numbers()[0]], [self.counts]))

    def second_where(self, low: int, high: int) -> Histogram:
        """Return the histogram of the second value where the first falls in bins `low` to `high` - 1."""
        rows, columns = self.numbers()
        chosen = (rows >= low) & (rows < high)
        return Histogram(self.second, *_merge_counts([columns[chosen]], [self.counts[chosen]]))
