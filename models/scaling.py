"""Logarithms, medians and interquartile ranges of training pixels, by a mergeable sketch of known error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..chunking.errors import FormatError, InputError

_MANTISSA_BITS = 23
_SMALLEST = float(np.finfo(np.float32).tiny)  # below it the bins are no longer of equal width


class QuantileSketch:
    """Counts of positive values in bins of equal relative width, from which come quantiles of their ln.

    A bin holds the float32 numbers that agree in sign, exponent and the first `bits` bits of the mantissa,
    so it is found exactly, by a shift of the number's bits.  Values of one bin differ by a factor of at
    most 1 + 2**-bits; a bin stands for its geometric centre, so that each order statistic, and hence each
    quantile interpolated between two of them, is wrong by at most `error_bound` = ln(1 + 2**-bits) / 2 in
    ln: 1.2e-4 at the default.  Merging adds counts: any order, any cutting into pieces, gives the same
    sketch, exactly.

    Parameters
    ----------
    bits : int
        Bits of the mantissa that tell bins apart, 4 to 16.  One more halves the error and doubles the
        memory (12: at most 33 kB for each factor of two between the smallest and the largest value).

    Raises
    ------
    InputError
        If `bits` is out of range.

    Examples
    --------
    >>> sketch = QuantileSketch().add(np.exp(np.linspace(0.0, 4.0, 1001)))
    >>> bool(abs(sketch.quantile(0.5) - 2.0) <= sketch.error_bound + 1e-6)
    True
    """

    def __init__(self, bits: int = 12) -> None:
        if not 4 <= bits <= 16:
            raise InputError(f"`bits` {bits!r} came; a whole number from 4 to 16 expected.")
        self.bits = bits
        self.minimum = math.inf
        self.maximum = -math.inf
        self._first = 0
        self._counts: NDArray[np.int64] = np.zeros(0, np.int64)

    @property
    def count(self) -> int:
        """Number of values seen."""
        return int(self._counts.sum())

    @property
    def error_bound(self) -> float:
        """Largest possible error of a quantile, in ln."""
        return 0.5 * math.log1p(2.0**-self.bits)

    @property
    def nbytes(self) -> int:
        """Memory of the counts in bytes."""
        return int(self._counts.nbytes)

    def add(self, values: ArrayLike) -> QuantileSketch:
        """Count values and return the sketch itself.

        Parameters
        ----------
        values : array_like
            Any shape; taken as float32; positive and finite.

        Raises
        ------
        InputError
            If a value is NaN, infinite, or not above 1.2e-38.
        """
        array = np.ascontiguousarray(values, np.float32).ravel()
        if not array.size:
            return self
        low, high = float(array.min()), float(array.max())  # NaN goes through both
        if not (low >= _SMALLEST and high < math.inf):
            raise InputError(
                f"values from {low:g} to {high:g} came; positive finite numbers expected, because the "
                "logarithm is taken. Leave out other pixels before."
            )
        bins = (array.view(np.uint32) >> np.uint32(_MANTISSA_BITS - self.bits)).astype(np.int64)
        first = int(bins.min())
        self._absorb(first, np.bincount(bins - first))
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        return self

    def merge(self, other: QuantileSketch) -> QuantileSketch:
        """Add the counts of another sketch and return this one.

        Raises
        ------
        InputError
            If the two have different bins.
        """
        if other.bits != self.bits:
            raise InputError(f"a sketch of {other.bits} bits cannot be merged into one of {self.bits} bits.")
        if other._counts.size:
            self._absorb(other._first, other._counts)
            self.minimum = min(self.minimum, other.minimum)
            self.maximum = max(self.maximum, other.maximum)
        return self

    def quantile(self, fraction: float) -> float:
        """Return a quantile of the natural logarithm, interpolated linearly as `numpy.quantile` does.

        Parameters
        ----------
        fraction : float
            From 0 to 1.

        Raises
        ------
        InputError
            If there are no values, or the fraction is out of range.
        """
        if not 0.0 <= fraction <= 1.0:
            raise InputError(f"`fraction` {fraction!r} came; a number from 0 to 1 expected.")
        if not self._counts.size:
            raise InputError("a quantile of no values was asked for; add values first.")
        cumulative = np.cumsum(self._counts)
        position = fraction * (int(cumulative[-1]) - 1)
        lower = math.floor(position)
        ranks = np.array([lower, min(lower + 1, int(cumulative[-1]) - 1)])
        bins = np.searchsorted(cumulative, ranks, side="right") + self._first
        # The least and the largest number of a bin; the next bin begins where this one ends.
        shift = np.uint32(_MANTISSA_BITS - self.bits)
        last = np.float32(np.finfo(np.float32).max).view(np.uint32)  # beyond it lies infinity
        edges = [np.minimum((bins.astype(np.uint32) + np.uint32(k)) << shift, last) for k in (0, 1)]
        centres = 0.5 * sum(np.log(edge.view(np.float32).astype(np.float64)) for edge in edges)
        return float(centres[0] + (position - lower) * (centres[1] - centres[0]))

    def _absorb(self, first: int, counts: NDArray[np.int64]) -> None:
        if not self._counts.size:
            self._first, self._counts = first, counts.astype(np.int64)
            return
        start = min(self._first, first)
        stop = max(self._first + self._counts.size, first + counts.size)
        if start != self._first or stop != self._first + self._counts.size:
            wider = np.zeros(stop - start, np.int64)
            wider[self._first - start :][: self._counts.size] = self._counts
            self._first, self._counts = start, wider
        self._counts[first - start :][: counts.size] += counts


@dataclass(frozen=True)
class Scaling:
    """Median and interquartile range of ln(value) for each input and the output, and the inputs' ranges.

    Parameters
    ----------
    centre : tuple of float
        Medians of the inputs' natural logarithms, in the order of the bands.
    scale : tuple of float
        Interquartile ranges of the inputs' natural logarithms.
    low, high : tuple of float
        Smallest and largest input seen in training, in the bands' units; predictions from inputs outside
        are flagged.
    output_centre, output_scale : float
        The same two for the output.
    error_bound : float
        How far each centre may be from the exact median; each scale may be off by twice as much.

    Raises
    ------
    InputError
        If the lengths differ, or a number is not finite, a scale or a range not positive.
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    output_centre: float
    output_scale: float
    error_bound: float = 0.0

    def __post_init__(self) -> None:
        lengths = {key: len(getattr(self, key)) for key in ("centre", "scale", "low", "high")}
        if len(set(lengths.values())) != 1:
            raise InputError(f"a scaling came with lengths {lengths}; equal lengths expected.")
        numbers = (*self.centre, *self.scale, *self.low, *self.high, self.output_centre, self.output_scale)
        if not all(math.isfinite(number) for number in (*numbers, self.error_bound)):
            raise InputError("a scaling came with a number that is not finite.")
        if not all(number > 0 for number in (*self.scale, self.output_scale, *self.low)):
            raise InputError("a scaling came with a scale or a lower limit that is not positive.")
        if not all(low <= high for low, high in zip(self.low, self.high, strict=True)):
            raise InputError("a scaling came with a lower limit above its upper one.")

    @classmethod
    def from_sketches(cls, inputs: Sequence[QuantileSketch], output: QuantileSketch) -> Scaling:
        """Return the scaling of counted training pixels.

        Parameters
        ----------
        inputs : sequence of QuantileSketch
            One for each band, in their order.
        output : QuantileSketch
            Of the target.
        """
        pairs = [_centre_and_scale(sketch) for sketch in (*inputs, output)]
        return cls(
            centre=tuple(pair[0] for pair in pairs[:-1]),
            scale=tuple(pair[1] for pair in pairs[:-1]),
            low=tuple(sketch.minimum for sketch in inputs),
            high=tuple(sketch.maximum for sketch in inputs),
            output_centre=pairs[-1][0],
            output_scale=pairs[-1][1],
            error_bound=max(sketch.error_bound for sketch in (*inputs, output)),
        )

    @classmethod
    def fit(cls, inputs: NDArray[np.float32], output: NDArray[np.float32], *, bits: int = 12) -> Scaling:
        """Return the scaling of training pixels in memory.

        Parameters
        ----------
        inputs : numpy.ndarray
            (band, pixel) float32, positive.
        output : numpy.ndarray
            (pixel,) float32, positive.
        bits : int
            See `QuantileSketch`.

        Examples
        --------
        >>> values = np.exp(np.linspace(1.0, 3.0, 101)).astype("f4")
        >>> scaling = Scaling.fit(values[None], values)
        >>> round(scaling.centre[0], 3), round(scaling.scale[0], 3)
        (2.0, 1.0)
        """
        sketches = [QuantileSketch(bits).add(row) for row in inputs]
        return cls.from_sketches(sketches, QuantileSketch(bits).add(output))

    def inputs_to_network(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scaled logarithms (band, pixel) float32 of positive inputs (band, pixel)."""
        centre = np.asarray(self.centre, np.float32)[:, None]
        scale = np.asarray(self.scale, np.float32)[:, None]
        return np.asarray((np.log(np.asarray(values, np.float32)) - centre) / scale, np.float32)

    def output_to_network(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scaled logarithms (pixel,) float32 of a positive output (pixel,)."""
        ln = np.log(np.asarray(values, np.float32))
        return np.asarray((ln - np.float32(self.output_centre)) / np.float32(self.output_scale), np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return the scaling as a dictionary that JSON can hold."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in self.__dict__.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scaling:
        """Return the scaling of a dictionary made by `to_dict`.

        Raises
        ------
        FormatError
            If a key is missing or unknown, or a value cannot be used.
        """
        try:
            given: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
            }
            return cls(**given)
        except (InputError, TypeError, AttributeError) as error:
            raise FormatError(f"the scaling of the model cannot be used: {error}") from error


def _centre_and_scale(sketch: QuantileSketch) -> tuple[float, float]:
    centre = sketch.quantile(0.5)
    scale = sketch.quantile(0.75) - sketch.quantile(0.25)
    # A band that hardly varies: as scikit-learn's RobustScaler, divide by one rather than by zero.
    return centre, scale if scale > 0 else 1.0
