"""Which cause of residuals fits measured slopes: chi^2 and likelihood of every cause, and "none of these"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..chunking.errors import InputError
from .fingerprints import Fingerprint

NONE = "none of these"
NOT_MEASURED = "not measured"  # where there are no slopes to judge


@dataclass(frozen=True)
class Verdict:
    """What measured slopes say about their cause.

    Parameters
    ----------
    cause : str
        The likeliest one, or "none of these" where even that does not fit.
    consistent : tuple of str
        All causes that fit; more than one where the slopes do not tell them apart.
    chi2 : mapping
        By cause.
    probability : mapping
        By cause: of a chi^2 as large or larger, if the cause is right.
    likelihood : mapping
        By cause: relative, all of them together 1, no cause preferred beforehand.
    """

    cause: str
    consistent: tuple[str, ...]
    chi2: Mapping[str, float]
    probability: Mapping[str, float]
    likelihood: Mapping[str, float]

    def __str__(self) -> str:
        rows = [f"{'cause':<18} {'chi2':>9} {'probability':>12} {'likelihood':>11}"]
        rows += [
            f"{name:<18} {self.chi2[name]:>9.2f} {self.probability[name]:>12.3g} {self.likelihood[name]:>11.3g}"
            for name in self.chi2
        ]
        return "\n".join([f"verdict: {self.cause}", *rows])


def classify(
    expected: Sequence[Fingerprint],
    slope: float,
    error: float,
    *,
    third_slope: float | None = None,
    third_error: float | None = None,
    covariance: float = 0.0,
    tolerance: float = 0.03,
    third_tolerance: float = 0.1,
    reject: float = 0.01,
    patches: int | None = None,
) -> Verdict:
    """Return which cause fits the slopes.

    Parameters
    ----------
    expected : sequence of Fingerprint
        From `fingerprints.fingerprints`.
    slope, error : float
        Measured slope of r(low -> high) against r(gas -> high), and its standard error.
    third_slope, third_error : float, optional
        The same for r(low -> third).
    covariance : float
        Of the two slopes.
    tolerance : float
        How far a cause may be from its expected slope because that is only first order; the default is a guess that
        covers spreads of temperature up to 1.3 K (0.371 becomes 0.342).
    third_tolerance : float
        The same for the third band, as a part of the third slope expected for temperature; the default is a guess
        (with 1.3 K 3.48 becomes 3.32, and of the anticorrelation 3.49 becomes 3.07).
    reject : float
        A cause fits where the probability of its chi^2 is at least this; the default is a guess.
    patches : int, optional
        Patches of sky that the errors come from, by leaving out each in turn; default, the errors are known.  Errors
        from few patches are themselves hardly known: probability and likelihood then are those of Student's
        distribution, or Hotelling's for two slopes.

    Raises
    ------
    InputError
        If slope or error are not finite, an error or a tolerance is negative, both error and tolerance are zero, or a
        third slope came and no cause "temperature" that its tolerance is a part of, or there are no more patches than
        slopes.

    References
    ----------
    Hotelling 1931, Ann. Math. Stat. 2, 360; Sellentin and Heavens 2016, MNRAS 456, L132, for the likelihood.

    Examples
    --------
    >>> from skymill.models.fingerprints import fingerprints
    >>> classify(fingerprints(), 0.36, 0.02, third_slope=3.4, third_error=0.2).cause
    'temperature'
    >>> classify(fingerprints(), 0.68, 0.02).cause
    'none of these'
    """
    numbers = [("slope", slope), ("error", error)]
    if third_slope is not None:
        if third_error is None:
            raise InputError("`third_slope` came without `third_error`; give both, or none.")
        numbers += [("third_slope", third_slope), ("third_error", third_error)]
    for name, value in numbers:
        if not math.isfinite(value) or (name.endswith("error") and value < 0):
            raise InputError(f"`{name}` {value!r} came; a finite number is expected, for an error one from 0 upwards.")
    check_limits(tolerance, third_tolerance, reject)
    if patches is not None and patches <= len(numbers) // 2:
        raise InputError(
            f"errors from `patches` {patches} came for {len(numbers) // 2} slopes; give more patches than slopes."
        )
    scale = 0.0
    if third_slope is not None:
        # Not of the largest slope of all causes: with a pivot near the high band that of beta has no bounds, and then
        # everything would fit.
        thermal = [abs(each.third_slope) for each in expected if each.cause == "temperature"]
        if not thermal:
            raise InputError(
                '`third_slope` came without a cause "temperature"; `third_tolerance` is a part of its slope.'
            )
        scale = thermal[0]
    chi2, probability = {}, {}
    for each in expected:
        away = [slope - each.slope]
        matrix = [[error**2 + tolerance**2]]
        if third_slope is not None and third_error is not None:
            away.append(third_slope - each.third_slope)
            matrix = [
                [matrix[0][0], covariance],
                [covariance, third_error**2 + (third_tolerance * scale) ** 2],
            ]
        chi2[each.cause] = _chi2(away, matrix)
        probability[each.cause] = chi2_probability(chi2[each.cause], len(away), patches)
    best = min(chi2.values())
    if patches is None:
        weights = {cause: math.exp(-0.5 * (value - best)) for cause, value in chi2.items()}
    else:
        # The same power for one slope and for two: what a covariance of so many patches leaves unknown.
        free = patches - 1
        weights = {cause: ((free + value) / (free + best)) ** (-0.5 * patches) for cause, value in chi2.items()}
    total = sum(weights.values())
    consistent = tuple(cause for cause in chi2 if probability[cause] >= reject)
    likeliest = min(chi2, key=lambda cause: chi2[cause])
    return Verdict(
        likeliest if consistent else NONE,
        consistent,
        chi2,
        probability,
        {cause: weight / total for cause, weight in weights.items()},
    )


def check_limits(tolerance: float, third_tolerance: float, reject: float) -> None:
    """Raise InputError unless tolerances are finite numbers from 0 upwards, and `reject` a probability.

    Parameters
    ----------
    tolerance, third_tolerance, reject : float
        As for `classify`.
    """
    for name, value in (("tolerance", tolerance), ("third_tolerance", third_tolerance)):
        if not 0 <= value < math.inf:
            raise InputError(f"`{name}` {value!r} came; a finite number from 0 upwards is expected.")
    if not 0 < reject < 1:
        raise InputError(f"`reject` {reject!r} came; a probability between 0 and 1 is expected.")


def chi2_probability(chi2: float, degrees: int, patches: int | None = None) -> float:
    """Return the probability of a chi^2 as large or larger, for one or two degrees of freedom.

    Parameters
    ----------
    chi2 : float
        From 0 upwards.
    degrees : int
        1 or 2.
    patches : int, optional
        Patches that its covariance is estimated from, more than `degrees`; default, it is known.

    Examples
    --------
    >>> round(chi2_probability(3.841, 1), 3), round(chi2_probability(5.991, 2), 3)
    (0.05, 0.05)
    >>> round(chi2_probability(3.841, 1, patches=3), 3)  # Student's t of 1.96, 2 degrees of freedom
    0.189
    """
    if patches is None:
        return math.erfc(math.sqrt(chi2 / 2.0)) if degrees == 1 else math.exp(-chi2 / 2.0)
    free = patches - 1
    if degrees == 2:
        return float((1.0 + chi2 / free) ** (-0.5 * (free - 1)))
    from scipy.special import betainc

    return float(betainc(0.5 * free, 0.5, free / (free + chi2)))


def _chi2(away: Sequence[float], matrix: ArrayLike) -> float:
    c = np.asarray(matrix, np.float64)
    if not np.all(np.linalg.eigvalsh(c) > 0):
        raise InputError(
            "errors of the slopes came whose covariance is not positive; give errors above 0 (or a `tolerance`), and a "
            "covariance below their product."
        )
    return float(np.asarray(away) @ np.linalg.solve(c, np.asarray(away)))
