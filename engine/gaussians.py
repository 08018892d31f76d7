"""Gaussian and double-Gaussian fits to histograms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .histograms import Histogram
from .moments import Floats, Integers

_FIT_BINS = 120
_FIT_REACH = 4.0  # robust sigmas to either side of the median that a fit looks at
_FEWEST_VALUES = {1: 50, 2: 500}  # by number of components
_FEWEST_BINS = 6


@dataclass(frozen=True)
class Gaussian:
    """One Gaussian component of a fit.

    Parameters
    ----------
    weight : float
        Values under the curve, as a fraction of all values of the histogram.
    centre, sigma : float
        In the unit of the histogram's axis.
    centre_error, sigma_error : float
        Standard errors from the counting noise of the bins.
    """

    weight: float
    centre: float
    sigma: float
    centre_error: float
    sigma_error: float

    def to_json(self) -> dict[str, float]:
        """Return the numbers by name."""
        return {
            "weight": self.weight,
            "centre": self.centre,
            "sigma": self.sigma,
            "centre_error": self.centre_error,
            "sigma_error": self.sigma_error,
        }


def expected_counts(edges: Floats, components: tuple[Gaussian, ...], total: int) -> Floats:
    """Return the counts that `components` put into the bins, for `total` values in all.

    Parameters
    ----------
    edges : (bin + 1,) float64
    components : tuple of Gaussian
    total : int
        Values of the whole histogram, also outside the edges.

    Returns
    -------
    (bin,) float64

    Examples
    --------
    >>> import numpy as np
    >>> bell = Gaussian(1.0, 0.0, 1.0, 0.0, 0.0)
    >>> expected_counts(np.array([-1.0, 1.0]), (bell,), 1000).round()
    array([683.])
    """
    from scipy.special import ndtr

    counts = np.zeros(edges.size - 1)
    for bell in components:
        counts += total * bell.weight * np.diff(ndtr((edges - bell.centre) / bell.sigma))
    return counts


def fitted_curve(components: tuple[Gaussian, ...], low: float, high: float) -> tuple[Floats, Floats]:
    """Return positions between `low` and `high`, and the fitted density there as a fraction of all values per unit.

    Examples
    --------
    >>> x, density = fitted_curve((Gaussian(1.0, 0.0, 1.0, 0.0, 0.0),), -1.0, 1.0)
    >>> round(float(density.max()), 3)
    0.399
    """
    x = np.linspace(low, high, 401)
    density = np.zeros(x.size)
    for bell in components:
        height = bell.weight / (bell.sigma * np.sqrt(2 * np.pi))
        density += height * np.exp(-0.5 * ((x - bell.centre) / bell.sigma) ** 2)
    return x, density


def fit_gaussians(histogram: Histogram, components: int = 1) -> tuple[Gaussian, ...]:
    """Return the Gaussians that fit a histogram best, the heaviest first; empty where no fit is possible.

    The curve is integrated over each bin and fitted by least squares to the counts between the median minus and
    plus four robust sigmas (interquartile range / 1.349), unweighted, so that the core decides and not the tails.
    For two components the range is six robust sigmas wide to either side.

    Parameters
    ----------
    histogram : Histogram
        At least 50 values for one component, 500 for two.
    components : {1, 2}
        How many Gaussians.

    Returns
    -------
    tuple of Gaussian
    """
    median = histogram.quantile(0.5)
    spread = (histogram.quantile(0.75) - histogram.quantile(0.25)) / 1.3489795
    if histogram.total < _FEWEST_VALUES[components] or not spread > 0:
        return ()
    reach = _FIT_REACH if components == 1 else 1.5 * _FIT_REACH
    edges, counts = histogram.rebinned(median - reach * spread, median + reach * spread, _bins(histogram.total))
    if np.count_nonzero(counts) < max(_FEWEST_BINS, 3 * components + 1):
        return ()
    if components == 1:
        starts = [np.array([1.0, median, spread])]
    else:
        # A narrow core on a broad foot, and two bumps side by side: whichever ends lower.
        starts = [
            np.array([0.5, median, 0.6 * spread, 0.5, median, 2.0 * spread]),
            np.array([0.5, median - spread, 0.6 * spread, 0.5, median + spread, 0.6 * spread]),
        ]
    return _least_squares(edges, counts, histogram.total, starts, spread)


def _bins(total: int) -> int:
    # Noise in a bin must stay well below its height, so few values get broad bins.
    return int(np.clip(2.0 * total ** (1 / 3), 16, _FIT_BINS))


def _least_squares(
    edges: Floats, counts: Integers, total: int, starts: list[Floats], spread: float
) -> tuple[Gaussian, ...]:
    from scipy.optimize import least_squares
    from scipy.special import ndtr

    shares = counts / total

    def misfit(parameters: Floats) -> Floats:
        model: Floats = np.zeros(shares.size)
        for weight, centre, sigma in parameters.reshape(-1, 3):
            model += weight * np.diff(ndtr((edges - centre) / sigma))
        difference: Floats = (model - shares) * np.sqrt(total)
        return difference

    best = None
    for start in starts:
        number = start.size // 3
        # A component narrower than a bin would fit the noise of that bin.
        low = np.tile([0.0, edges[0], float(np.diff(edges).mean())], number)
        high = np.tile([2.0, edges[-1], spread * 30], number)
        start = np.clip(start, low + 1e-3 * (high - low), high - 1e-3 * (high - low))
        found = least_squares(
            misfit, start, bounds=(low, high), x_scale=np.tile([1.0, spread, spread], number), max_nfev=400
        )
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    # The fit is unweighted but the noise of a bin goes with its height: the covariance is the sandwich
    # (J'J)^-1 J' V J (J'J)^-1 with the counting noise V, not the residual variance times (J'J)^-1.
    slopes = np.asarray(best.jac, np.float64)
    bread = np.linalg.pinv(slopes.T @ slopes)
    noise = np.maximum(misfit(best.x) / np.sqrt(total) + shares, 0.0)
    covariance = bread @ (slopes.T * noise) @ slopes @ bread
    errors = np.sqrt(np.clip(np.diag(covariance), 0, None)).reshape(-1, 3)
    bells = [
        Gaussian(float(weight), float(centre), float(sigma), float(error[1]), float(error[2]))
        for (weight, centre, sigma), error in zip(best.x.reshape(-1, 3), errors, strict=True)
    ]
    return tuple(sorted(bells, key=lambda bell: -bell.weight))
