"""How good a prediction is: statistics of prediction against target that merge tile by tile.

Covers: what one pass gathers (`PairStatistics`, `RatioStatistics`), and what is read from it (`summary`,
`by_brightness`).  Does not cover: going over the sky (`evaluate.py`), figures (`figures.py`).

Everywhere the relative error is (prediction - target) / target.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .gaussians import fit_gaussians
from .histograms import AsinhScale, Histogram, Histogram2D, LogScale
from .moments import GroupedMoments, Moments

# Bin widths: every quantile of the relative error is known to 5e-5 near zero and to 0.1 % of itself far away.
ERROR_SCALE = AsinhScale(width=1e-3, linear=0.05)
JOINT_ERROR_SCALE = AsinhScale(width=2e-2, linear=0.05)
BRIGHTNESS_SCALE = LogScale(0.02)
DENSITY_SCALE = LogScale(0.01)
RATIO_SCALE = LogScale(2e-4)
_IQR_TO_SIGMA = 1.3489795003921634  # interquartile range of a Gaussian in units of its sigma


def _errors() -> Histogram:
    return Histogram(ERROR_SCALE)


def _density() -> Histogram2D:
    return Histogram2D(DENSITY_SCALE, DENSITY_SCALE)


def _joint() -> Histogram2D:
    return Histogram2D(BRIGHTNESS_SCALE, JOINT_ERROR_SCALE)


def _ratios() -> Histogram:
    return Histogram(RATIO_SCALE)


@dataclass(frozen=True, eq=False)
class PairStatistics:
    """What one pass gathers about a prediction and its target over one set of pixels; two of them merge.

    Parameters
    ----------
    n_target, n_prediction : int
        Pixels with a finite target, and with a finite prediction.
    n_both : int
        Pixels where both are finite and the target is not zero.
    n_masked : int
        Of those, the ones that the mask takes away.
    n_cut : int
        Of the rest, the ones below the low-brightness cut.
    n_above : int
        Of the rest, which are the pixels used, those with a relative error above the limit.
    relative : Moments
        Of the relative error, over the pixels used.
    target, residual : Moments
        Of target, and of prediction - target, over the pixels used.
    log_target, log_residual : Moments
        The same of log10, over the pixels used where both are positive.
    residual_squares, log_residual_squares : float
        Sums of the squared residuals (about zero).
    errors : Histogram
        Of the relative error.
    density : Histogram2D
        Of (target, prediction) where both are positive.
    joint : Histogram2D
        Of (target, relative error) where the target is positive.
    brightness : GroupedMoments
        Moments of the relative error by bin of target.
    """

    n_target: int = 0
    n_prediction: int = 0
    n_both: int = 0
    n_masked: int = 0
    n_cut: int = 0
    n_above: int = 0
    relative: Moments = field(default_factory=Moments)
    target: Moments = field(default_factory=Moments)
    residual: Moments = field(default_factory=Moments)
    log_target: Moments = field(default_factory=Moments)
    log_residual: Moments = field(default_factory=Moments)
    residual_squares: float = 0.0
    log_residual_squares: float = 0.0
    errors: Histogram = field(default_factory=_errors)
    density: Histogram2D = field(default_factory=_density)
    joint: Histogram2D = field(default_factory=_joint)
    brightness: GroupedMoments = field(default_factory=GroupedMoments)

    def merge(self, other: PairStatistics) -> PairStatistics:
        """Return the statistics of both sets of pixels together."""
        merged: dict[str, Any] = {}
        for entry in fields(self):
            mine, theirs = getattr(self, entry.name), getattr(other, entry.name)
            merged[entry.name] = mine + theirs if isinstance(mine, int | float) else mine.merge(theirs)
        return PairStatistics(**merged)


def measure_pair(
    prediction: NDArray[Any],
    target: NDArray[Any],
    masked: NDArray[np.bool_] | None = None,
    *,
    low_cut: float | None = None,
    limit: float = 0.2,
) -> PairStatistics:
    """Return the statistics of a prediction against its target.

    Parameters
    ----------
    prediction, target : (pixel,) float
        In the same unit; NaN or infinite where there is no value.
    masked : (pixel,) bool, optional
        Pixels to leave out; they are counted.
    low_cut : float, optional
        Pixels with a target below it are left out; they are counted.
    limit : float
        Relative errors beyond it, to either side, are counted.

    Returns
    -------
    PairStatistics

    Examples
    --------
    >>> import numpy as np
    >>> statistics = measure_pair(np.array([1.1, 2.0, np.nan]), np.array([1.0, 2.0, 3.0]))
    >>> statistics.n_target, statistics.n_both, round(statistics.relative.mean, 3)
    (3, 2, 0.05)
    """
    predicted = np.asarray(prediction, np.float64)
    true = np.asarray(target, np.float64)
    has_target, has_prediction = np.isfinite(true), np.isfinite(predicted)
    used = has_target & has_prediction & (true != 0)
    n_both = int(used.sum())
    n_masked = n_cut = 0
    if masked is not None:
        n_masked = int((used & masked).sum())
        used &= ~masked
    if low_cut is not None:
        dim = used & (true < low_cut)
        n_cut = int(dim.sum())
        used &= ~dim
    true, predicted = true[used], predicted[used]
    residual = predicted - true
    relative = residual / true
    positive = (true > 0) & (predicted > 0)
    bright = true > 0
    log_true, log_predicted = np.log10(true[positive]), np.log10(predicted[positive])
    log_residual = log_predicted - log_true
    return PairStatistics(
        n_target=int(has_target.sum()),
        n_prediction=int(has_prediction.sum()),
        n_both=n_both,
        n_masked=n_masked,
        n_cut=n_cut,
        n_above=int((np.abs(relative) > limit).sum()),
        relative=Moments.of(relative),
        target=Moments.of(true),
        residual=Moments.of(residual),
        log_target=Moments.of(log_true),
        log_residual=Moments.of(log_residual),
        residual_squares=float((residual * residual).sum()),
        log_residual_squares=float((log_residual * log_residual).sum()),
        errors=Histogram.of(ERROR_SCALE, relative),
        density=Histogram2D.of(DENSITY_SCALE, DENSITY_SCALE, true[positive], predicted[positive]),
        joint=Histogram2D.of(BRIGHTNESS_SCALE, JOINT_ERROR_SCALE, true[bright], relative[bright]),
        brightness=GroupedMoments.of(BRIGHTNESS_SCALE.index(true[bright]), relative[bright]),
    )


@dataclass(frozen=True, eq=False)
class RatioStatistics:
    """What one pass gathers about the ratio of two maps where both are positive; two of them merge."""

    moments: Moments = field(default_factory=Moments)
    histogram: Histogram = field(default_factory=_ratios)

    def merge(self, other: RatioStatistics) -> RatioStatistics:
        """Return the statistics of both sets of pixels together."""
        return RatioStatistics(self.moments.merge(other.moments), self.histogram.merge(other.histogram))


def measure_ratio(
    numerator: NDArray[Any], denominator: NDArray[Any], masked: NDArray[np.bool_] | None = None
) -> RatioStatistics:
    """Return the statistics of numerator / denominator over the pixels where both are positive and not masked.

    Parameters
    ----------
    numerator, denominator : (pixel,) float
        In the same unit.
    masked : (pixel,) bool, optional
        Pixels to leave out.

    Examples
    --------
    >>> import numpy as np
    >>> measure_ratio(np.array([4.0, 9.0, 1.0]), np.array([1.0, 2.0, -1.0])).moments.mean
    4.25
    """
    above, below = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    used = np.isfinite(above) & np.isfinite(below) & (above > 0) & (below > 0)
    if masked is not None:
        used &= ~masked
    ratio = above[used] / below[used]
    return RatioStatistics(Moments.of(ratio), Histogram.of(RATIO_SCALE, ratio))


def merge_groups[S: (PairStatistics, RatioStatistics)](mine: Mapping[int, S], theirs: Mapping[int, S]) -> dict[int, S]:
    """Return the statistics of two sets of pixels, group by group."""
    merged = dict(mine)
    for code, statistics in theirs.items():
        merged[code] = merged[code].merge(statistics) if code in merged else statistics
    return merged


def total_of[S: (PairStatistics, RatioStatistics)](groups: Mapping[int, S], nothing: S) -> S:
    """Return the statistics of all groups together, merged in the order of their codes."""
    total = nothing
    for code in sorted(groups):
        total = total.merge(groups[code])
    return total


def r_squared(squares: float, moments: Moments) -> float:
    """Return the coefficient of determination 1 - (sum of squared residuals) / (sum of squares of the target).

    Examples
    --------
    >>> import numpy as np
    >>> round(r_squared(1.0, Moments.of(np.array([0.0, 2.0]))), 3)
    0.5
    """
    return 1.0 - squares / moments.squares if moments.squares > 0 else math.nan


def summary(statistics: PairStatistics) -> dict[str, Any]:
    """Return every number that a report states, by name.

    Returns
    -------
    dict
        `pixels` (used), the counts `n_*` of `PairStatistics`, `masked_fraction` (of the pixels where both are finite),
        `above_limit_fraction` (of the pixels used); of the relative error `mean`, `median`, `sigma` (sample standard
        deviation), `robust_sigma` (interquartile range / 1.349), `half_width_95` (half of the central 95 %),
        `median_absolute`, `absolute_95`, `minimum`, `maximum`; `gaussian` (fit: centre, sigma, weight, errors, or
        None); `r_squared`, `r_squared_log`, `bias` (mean residual, in the unit of the maps), `rms_residual`,
        `sigma_dex`; `quantile_bound` (bin width at the 97.5 % quantile: the largest error of the quantiles above).
    """
    errors = statistics.errors
    used = statistics.relative.count
    fit = fit_gaussians(errors)
    absolute = errors.folded() if used else errors
    return {
        "pixels": used,
        "n_target": statistics.n_target,
        "n_prediction": statistics.n_prediction,
        "n_both": statistics.n_both,
        "n_masked": statistics.n_masked,
        "n_cut": statistics.n_cut,
        "n_above": statistics.n_above,
        "masked_fraction": _share(statistics.n_masked, statistics.n_both),
        "above_limit_fraction": _share(statistics.n_above, used),
        "mean": statistics.relative.mean if used else math.nan,
        "median": errors.quantile(0.5),
        "sigma": statistics.relative.sigma,
        "robust_sigma": (errors.quantile(0.75) - errors.quantile(0.25)) / _IQR_TO_SIGMA,
        "half_width_95": 0.5 * (errors.quantile(0.975) - errors.quantile(0.025)),
        "median_absolute": absolute.quantile(0.5),
        "absolute_95": absolute.quantile(0.95),
        "minimum": statistics.relative.minimum if used else math.nan,
        "maximum": statistics.relative.maximum if used else math.nan,
        "gaussian": fit[0].to_json() if fit else None,
        "r_squared": r_squared(statistics.residual_squares, statistics.target),
        "r_squared_log": r_squared(statistics.log_residual_squares, statistics.log_target),
        "bias": statistics.residual.mean if used else math.nan,
        "rms_residual": math.sqrt(statistics.residual_squares / used) if used else math.nan,
        "sigma_dex": statistics.log_residual.sigma,
        "quantile_bound": max(errors.resolution(0.975), errors.resolution(0.025)) if used else math.nan,
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def ratio_summary(statistics: RatioStatistics) -> dict[str, Any]:
    """Return what a report states about a ratio: count, mean, median, sigma, fits with one and two Gaussians."""
    histogram = statistics.histogram
    return {
        "pixels": statistics.moments.count,
        "mean": statistics.moments.mean if statistics.moments.count else math.nan,
        "median": histogram.quantile(0.5),
        "sigma": statistics.moments.sigma,
        "robust_sigma": (histogram.quantile(0.75) - histogram.quantile(0.25)) / _IQR_TO_SIGMA,
        "gaussian": [bell.to_json() for bell in fit_gaussians(histogram)],
        "double_gaussian": [bell.to_json() for bell in fit_gaussians(histogram, 2)],
    }


def by_brightness(statistics: PairStatistics, groups: int = 10) -> list[dict[str, Any]]:
    """Return the relative error in groups of about equal size, from the faintest target to the brightest.

    The limits between groups are edges of brightness bins (0.02 dex), so that counts, means and standard
    deviations are exact for the limits stated; quantiles are known to one bin of `JOINT_ERROR_SCALE`.

    Parameters
    ----------
    statistics : PairStatistics
    groups : int
        How many, 10 for deciles; fewer come back where one bin holds more than a group.

    Returns
    -------
    list of dict
        `low`, `high` (limits of the target), `pixels`, `mean`, `median`, `sigma`, `robust_sigma`, `half_width_95`.
    """
    along = statistics.joint.along_first()
    if along.total == 0:
        return []
    cumulative = np.cumsum(along.counts)
    wanted = np.arange(1, groups) * along.total / groups
    # Each limit is the bin edge whose cumulative count is nearest to the one wanted.
    reached = np.concatenate([[0], cumulative])
    cuts = {int(np.argmin(np.abs(reached - count))) for count in wanted} | {0, along.index.size}
    ordered = sorted(cuts)
    rows = []
    for first, last in itertools.pairwise(ordered):
        low, high = int(along.index[first]), int(along.index[last - 1]) + 1
        moments = statistics.brightness.between(low, high)
        errors = statistics.joint.second_where(low, high)
        edges = statistics.joint.first.edges(np.array([low, high]))
        rows.append(
            {
                "low": float(edges[0]),
                "high": float(edges[1]),
                "pixels": moments.count,
                "mean": moments.mean,
                "median": errors.quantile(0.5),
                "sigma": moments.sigma,
                "robust_sigma": (errors.quantile(0.75) - errors.quantile(0.25)) / _IQR_TO_SIGMA,
                "half_width_95": 0.5 * (errors.quantile(0.975) - errors.quantile(0.025)),
            }
        )
    return rows
