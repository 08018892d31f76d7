"""A residual in bins of other maps: what one pass gathers, and means, medians, errors and correlations from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.slopes import correlation, formal_error, jackknife, line_slope
from .block_moments import BlockMoments, block_numbers
from .gas_model import GasModel
from .histograms import AsinhScale, Histogram, Histogram2D
from .moments import Floats, GroupedMoments, Integers

# Bins so narrow near zero that every unit fits: a quantile is known to 0.2 % of itself.
VALUE_SCALE = AsinhScale(width=2e-3, linear=1e-9)
RANKS = 128  # a task carries the limits of all classes


@dataclass(frozen=True)
class EdgeScale:
    """Bins between given limits; what lies beyond the first or last one counts to the outermost bins.

    Parameters
    ----------
    limits : tuple of float
        Ascending.

    Examples
    --------
    >>> EdgeScale((0.0, 1.0, 4.0)).index(np.array([-1.0, 0.5, 1.0, 9.0]))
    array([0, 0, 1, 1])
    """

    limits: tuple[float, ...]

    def index(self, values: Floats) -> Integers:
        """Return the number of the bin of each value."""
        return np.searchsorted(np.array(self.limits[1:-1]), values, side="right").astype(np.int64)

    def edges(self, index: Integers) -> Floats:
        """Return the left edge of each bin."""
        limits: Floats = np.array(self.limits)[np.clip(index, 0, len(self.limits) - 1)]
        return limits


def equal_limits(histogram: Histogram, bins: int) -> tuple[float, ...]:
    """Return ascending limits of bins that hold about equally many values; fewer bins where many values are equal.

    Parameters
    ----------
    histogram : Histogram
        Of the values.
    bins : int
        How many are wanted.

    Examples
    --------
    >>> limits = equal_limits(Histogram.of(VALUE_SCALE, np.arange(1.0, 101.0)), 4)
    >>> [round(limit) for limit in limits]
    [1, 26, 51, 76, 100]
    """
    reached = np.cumsum(histogram.counts)[:-1]
    wanted = np.arange(1, bins) * histogram.total / bins
    # Each limit is the edge of an occupied bin whose cumulative count is nearest to the one wanted.
    cuts = sorted({int(np.argmin(np.abs(reached - count))) + 1 for count in wanted}) if reached.size else []
    starts = [histogram.index[0], *histogram.index[cuts], histogram.index[-1] + 1]
    return tuple(float(limit) for limit in VALUE_SCALE.edges(np.array(starts, np.int64)))


@dataclass(frozen=True, eq=False)
class ProfileStatistics:
    """What one pass gathers of a residual against one map in one region; two of them merge.

    Parameters
    ----------
    pairs : BlockMoments
        Of map and residual, by block.
    blocks : GroupedMoments
        Of the residual, by block and bin.
    along : GroupedMoments
        Of the map, by bin.
    joint : Histogram2D
        Of bin and residual.
    ranks : Histogram2D
        Of rank classes of map and residual.
    """

    joint: Histogram2D
    ranks: Histogram2D
    pairs: BlockMoments = field(default_factory=BlockMoments)
    blocks: GroupedMoments = field(default_factory=GroupedMoments)
    along: GroupedMoments = field(default_factory=GroupedMoments)

    def merge(self, other: ProfileStatistics) -> ProfileStatistics:
        """Return the statistics of both sets of pixels."""
        return ProfileStatistics(
            self.joint.merge(other.joint),
            self.ranks.merge(other.ranks),
            self.pairs.merge(other.pairs),
            self.blocks.merge(other.blocks),
            self.along.merge(other.along),
        )


@dataclass(frozen=True)
class Binning:
    """Limits of the bins and of the rank classes of one map in one region.

    Parameters
    ----------
    bins : EdgeScale
        Of the profile.
    given : bool
        Whether a user gave them: values beyond are left out then.
    ranks, residual_ranks : EdgeScale
        Classes of about equal size, of the map and of the residual.
    """

    bins: EdgeScale
    given: bool
    ranks: EdgeScale
    residual_ranks: EdgeScale

    def nothing(self) -> ProfileStatistics:
        """Return statistics of no pixel."""
        return ProfileStatistics(Histogram2D(self.bins, VALUE_SCALE), Histogram2D(self.ranks, self.residual_ranks))


@dataclass(frozen=True)
class RangeKernel:
    """First pass: histograms of the residual and of every map, by region.

    Parameters
    ----------
    models : tuple of GasModel
        One a region.
    against : tuple of str
        Maps.
    tile_npix : int
        Pixels of a tile.
    """

    models: tuple[GasModel, ...]
    against: tuple[str, ...]
    tile_npix: int

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[tuple[str, str], Histogram]:
        """Return histograms by (region, map); those of the residual under the empty name."""
        start = tile * self.tile_npix
        found = {}
        for model in self.models:
            used = model.holds(start, inputs)
            observed, modelled = model.parts(inputs)
            found[model.region, ""] = Histogram.of(VALUE_SCALE, (observed - modelled)[used])
            for name in self.against:
                values = inputs[name][used].astype(np.float64)
                found[model.region, name] = Histogram.of(VALUE_SCALE, values[np.isfinite(values)])
        return found


@dataclass(frozen=True)
class ProfileKernel:
    """Second pass: the residual in bins of every map, by region.

    Parameters
    ----------
    models : tuple of GasModel
        One a region.
    binnings : mapping
        By (region, map).
    tile_npix, shift : int
        Pixels of a tile; see `block_moments.block_shift`.
    """

    models: tuple[GasModel, ...]
    binnings: Mapping[tuple[str, str], Binning]
    tile_npix: int
    shift: int

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[tuple[str, str], ProfileStatistics]:
        """Return statistics by (region, map) of one tile."""
        start = tile * self.tile_npix
        found = {}
        for model in self.models:
            used = model.holds(start, inputs)
            observed, modelled = model.parts(inputs)
            residual = observed - modelled
            for (region, name), binning in self.binnings.items():
                if region == model.region:
                    found[region, name] = self._one(binning, start, used, inputs[name], residual)
        return found

    def _one(
        self, binning: Binning, start: int, used: NDArray[np.bool_], values: NDArray[Any], residual: Floats
    ) -> ProfileStatistics:
        here = used & np.isfinite(values)
        if binning.given:
            limits = binning.bins.limits
            here &= (values >= limits[0]) & (values <= limits[-1])
        x, y = values[here].astype(np.float64), residual[here]
        blocks = block_numbers(start, here, self.shift)
        place = binning.bins.index(x)
        return ProfileStatistics(
            Histogram2D.of(binning.bins, VALUE_SCALE, x, y),
            Histogram2D.of(binning.ranks, binning.residual_ranks, x, y),
            BlockMoments.of(blocks, np.stack([x, y])),
            GroupedMoments.of(blocks * (len(binning.bins.limits) - 1) + place, y),
            GroupedMoments.of(place, x),
        )


def profile(statistics: ProfileStatistics, *, blocks: bool) -> dict[str, Any]:
    """Return the profile and the correlations of a residual against one map.

    Parameters
    ----------
    statistics : ProfileStatistics
        Of one map in one region.
    blocks : bool
        Errors from leaving out blocks; else those of independent pixels.

    Returns
    -------
    dict
        (bin,) arrays `low`, `high`, `x`, `mean`, `error`, `standard_error`, `median`, `sigma`, `count`; and the numbers
        `slope`, `slope_error`, `pearson`, `spearman`, `x_mean`, `residual_mean`, `pixels`.
    """
    scale = statistics.joint.first
    assert isinstance(scale, EdgeScale)
    bins = len(scale.limits) - 1
    count, mean, squares, error = (np.full(bins, np.nan) for _ in range(4))
    x = np.full(bins, np.nan)
    x[statistics.along.keys] = statistics.along.mean
    place = statistics.blocks.keys % bins
    for number in range(bins):
        own = place == number
        n, means = statistics.blocks.count[own].astype(np.float64), statistics.blocks.mean[own]
        count[number] = n.sum()
        if not own.any():
            continue
        mean[number] = (n * means).sum() / n.sum()
        squares[number] = statistics.blocks.squares[own].sum() + (n * (means - mean[number]) ** 2).sum()
        if n.size > 1:
            error[number] = np.sqrt(jackknife((mean[number] * n.sum() - n * means) / (n.sum() - n))[0, 0])
    with np.errstate(invalid="ignore", divide="ignore"):
        sigma = np.sqrt(np.where(count > 1, squares / (count - 1), np.nan))
        standard = sigma / np.sqrt(count)
    pixels, means, covariance = statistics.pairs.total()
    slope_error = np.nan
    if not blocks:
        slope_error = float(formal_error(covariance, pixels))
    elif statistics.pairs.keys.size > 1:
        slope_error = float(np.sqrt(jackknife(line_slope(statistics.pairs.left_out()[1]))[0, 0]))
    medians = [statistics.joint.second_where(number, number + 1).quantile(0.5) for number in range(bins)]
    return {
        "low": np.array(scale.limits[:-1]),
        "high": np.array(scale.limits[1:]),
        "x": x,
        "mean": mean,
        "error": error if blocks else standard,
        "standard_error": standard,
        "median": np.array(medians),
        "sigma": sigma,
        "count": count,
        "slope": float(line_slope(covariance)),
        "slope_error": slope_error,
        "pearson": float(correlation(covariance)),
        "spearman": rank_correlation(statistics.ranks),
        "x_mean": float(means[0]),
        "residual_mean": float(means[1]),
        "pixels": pixels,
    }


def rank_correlation(pairs: Histogram2D) -> float:
    """Return Spearman's coefficient of two values known by their classes, equal ones sharing their mean rank.

    Parameters
    ----------
    pairs : Histogram2D
        Of the classes.

    Examples
    --------
    >>> scale = EdgeScale((0.0, 1.0, 2.0, 3.0))
    >>> x = np.array([0.5, 1.5, 2.5])
    >>> round(rank_correlation(Histogram2D.of(scale, scale, x, x)), 6)
    1.0
    """
    if pairs.total < 2:
        return float("nan")
    ranks = []
    for numbers in pairs.numbers():
        distinct, place = np.unique(numbers, return_inverse=True)
        held = np.zeros(distinct.size, np.float64)
        np.add.at(held, place, pairs.counts)
        ranks.append((np.cumsum(held) - 0.5 * held)[place])
    weights = pairs.counts / pairs.total
    away = [rank - (weights * rank).sum() for rank in ranks]
    matrix = [[float((weights * a * b).sum()) for b in away] for a in away]
    return float(correlation(matrix))
