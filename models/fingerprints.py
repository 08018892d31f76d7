"""What residuals of dust against gas look like by cause: temperature, dust-to-gas ratio, emissivity index.

The intensity of a pixel is A N (nu / nu0)^beta B_nu(T).  Two residuals of a high band tell causes apart: r(gas), what
the gas template does not explain, and r(low), what a low band scaled to the high one does not explain.  A cause has its
slope of r(low) against r(gas), and another one for the residual of a third, still higher band.

Covers: expected slopes, temperatures from residuals.  Does not cover: measuring slopes (`slopes.py`), judging them
(`verdicts.py`), pixels to try them on (`fingerprint_pixels.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..chunking.errors import InputError
from ..chunking.units import BOLTZMANN_CONSTANT, PLANCK_CONSTANT
from .emission import Floats, modified_black_body, planck, planck_derivative

PIVOT_GHZ = 353.0
THIRD_GHZ = 3000.0
"""The frequency that 100 micrometre is taken for in Cheng et al. 2025, equation B13."""

CAUSES = ("temperature", "dust-to-gas", "beta", "temperature-beta")


@dataclass(frozen=True)
class Bands:
    """The frequencies of the bands between which residuals are compared, in GHz.

    Parameters
    ----------
    low, high : float
        The band that serves as template, and the one whose residual is looked at.
    third : float
        A band above both.

    Raises
    ------
    InputError
        If they are not positive, finite and ascending.

    Examples
    --------
    >>> Bands().high
    857.0
    """

    low: float = PIVOT_GHZ
    high: float = 857.0
    third: float = THIRD_GHZ

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < self.third < math.inf:
            raise InputError(
                f"frequencies of {self.low:g}, {self.high:g} and {self.third:g} GHz came for the low, the high and the "
                "third band; positive ascending frequencies are expected."
            )


def slope_temperature(low: float = PIVOT_GHZ, high: float = 857.0, temperature: ArrayLike = 20.0) -> Floats:
    """Return the slope of r(low) against r(gas) in the high band that fluctuations of temperature give.

    Parameters
    ----------
    low, high : float
        Frequencies in GHz.
    temperature : array_like
        Mean temperature in K.

    Notes
    -----
    1 - (B_1 B_2') / (B_2 B_1') with 1 the high and 2 the low band (Cheng et al. 2025, equations 17 and B12).

    Examples
    --------
    >>> slope_temperature(temperature=[18, 20, 25]).round(3).tolist()
    [0.393, 0.371, 0.325]
    """
    return np.asarray(1.0 - warming(low, temperature) / warming(high, temperature))


def slope_temperature_third(
    low: float = PIVOT_GHZ,
    high: float = 857.0,
    third: float = THIRD_GHZ,
    temperature: ArrayLike = 20.0,
    beta: ArrayLike = 1.5,
) -> Floats:
    """Return the slope of r(low) in the third band against r(gas) in the high one, for fluctuations of temperature.

    Parameters
    ----------
    low, high, third : float
        Frequencies in GHz.
    temperature : array_like
        Mean temperature in K.
    beta : array_like
        Emissivity index.

    Notes
    -----
    (nu_3 / nu_1)^beta [B_3' - (B_3 / B_2) B_2'] / B_1' (Cheng et al. 2025, equation B13).

    Examples
    --------
    >>> slope_temperature_third(beta=[1.5, 1.53, 1.6]).round(2).tolist()
    [3.48, 3.61, 3.94]
    """
    difference = warming(third, temperature) - warming(low, temperature)
    return np.asarray(brightness_ratio(high, third, temperature, beta) * difference / warming(high, temperature))


def warming(frequency_ghz: ArrayLike, temperature: ArrayLike) -> Floats:
    """Return d ln B_nu / dT in 1/K.

    Parameters
    ----------
    frequency_ghz : array_like
        Frequency in GHz.
    temperature : array_like
        Temperature in K.

    Examples
    --------
    >>> round(float(1 / warming(857.0, 20.0)), 2)
    8.48
    """
    return np.asarray(planck_derivative(frequency_ghz, temperature) / planck(frequency_ghz, temperature))


def brightness_ratio(low: ArrayLike, high: ArrayLike, temperature: ArrayLike, beta: ArrayLike) -> Floats:
    """Return what a band is multiplied with to become another: (nu_h / nu_l)^beta B_h / B_l.

    Parameters
    ----------
    low, high : array_like
        Frequencies in GHz, of the band there is and of the one that is wanted.
    temperature : array_like
        Temperature in K.
    beta : array_like
        Emissivity index.

    Notes
    -----
    Cheng et al. 2025, equations B5 and B6.

    Examples
    --------
    >>> round(float(brightness_ratio(353.0, 857.0, 20.0, 1.5)), 2)
    10.58
    """
    return np.asarray(
        modified_black_body(high, temperature, beta) / modified_black_body(low, temperature, beta), np.float64
    )


@dataclass(frozen=True)
class Fingerprint:
    """The slopes that one cause of residuals gives, to first order.

    Parameters
    ----------
    cause : str
        One of `CAUSES`, or another name.
    slope : float
        Of r(low -> high) against r(gas -> high).
    third_slope : float
        Of r(low -> third) against r(gas -> high).
    """

    cause: str
    slope: float
    third_slope: float


def fingerprints(
    bands: Bands | None = None,
    *,
    temperature: float = 20.0,
    beta: float = 1.5,
    beta_per_kelvin: float = -0.06,
    pivot_ghz: float = PIVOT_GHZ,
) -> tuple[Fingerprint, ...]:
    """Return the expected slopes of every cause, in the order of `CAUSES`.

    Parameters
    ----------
    bands : Bands, optional
        Frequencies; default 353, 857 and 3000 GHz.
    temperature : float
        Mean temperature in K; the default is a guess, the paper's value is not known.
    beta : float
        Mean emissivity index; the default is a guess.
    beta_per_kelvin : float
        d beta / dT of the cause "temperature-beta"; the default is a guess that gives the weak negative slope seen.
    pivot_ghz : float
        Frequency whose opacity does not change when beta does.

    Raises
    ------
    InputError
        If temperature or pivot are not positive, beta or its change is not finite, or the pivot is the high band (a
        change of beta then leaves no residual there).

    Notes
    -----
    A small change with d ln I_nu = s_nu gives r(low -> j) = I_j (s_j - s_low) and r(gas -> high) = I_high s_high, so
    the slopes are (I_j / I_high) (s_j - s_low) / s_high.  For temperature s_nu = d ln B_nu / dT, for the dust-to-gas
    ratio s_nu = 1, for beta s_nu = ln(nu / pivot), and for the anticorrelation the sum of the first and
    `beta_per_kelvin` times the third.  A gas that the template lacks looks like the dust-to-gas ratio, noise of the
    high band like beta, and the cosmic infrared background, which is redder than dust, like temperature-beta; see
    `additive_fingerprint`.

    Examples
    --------
    >>> [(each.cause, round(each.slope, 3)) for each in fingerprints()]
    [('temperature', 0.371), ('dust-to-gas', 0.0), ('beta', 1.0), ('temperature-beta', -0.146)]
    """
    between = bands or Bands()
    for name, value in (("temperature", temperature), ("pivot_ghz", pivot_ghz)):
        if not 0 < value < math.inf:
            raise InputError(f"`{name}` {value!r} came; a positive number is expected.")
    for name, value in (("beta", beta), ("beta_per_kelvin", beta_per_kelvin)):
        if not math.isfinite(value):
            raise InputError(f"`{name}` {value!r} came; a finite number is expected.")
    if pivot_ghz == between.high:
        raise InputError(
            f"`pivot_ghz` {pivot_ghz:g} came, which is the high band: a change of beta leaves no residual there. Give "
            "another one, for example 353."
        )
    nu = np.array([between.low, between.high, between.third])
    warm, turn = warming(nu, temperature), np.log(nu / pivot_ghz)
    sensitivity = dict(zip(CAUSES, (warm, np.ones(3), turn, warm + beta_per_kelvin * turn), strict=True))
    third = float(brightness_ratio(between.high, between.third, temperature, beta))
    return tuple(
        Fingerprint(cause, float((s[1] - s[0]) / s[1]), float(third * (s[2] - s[0]) / s[1]))
        for cause, s in sensitivity.items()
    )


def additive_fingerprint(
    cause: str,
    amplitudes: Sequence[float],
    bands: Bands | None = None,
    *,
    temperature: float = 20.0,
    beta: float = 1.5,
) -> Fingerprint:
    """Return the slopes that something of one spectrum gives which gas does not trace, such as the cosmic background.

    Parameters
    ----------
    cause : str
        Its name.
    amplitudes : sequence of float
        Its brightness in the low, the high and the third band, in one unit; NaN where the third is not known.
    bands : Bands, optional
        Frequencies; default 353, 857 and 3000 GHz.
    temperature, beta : float
        Of the dust, for what the low band is multiplied with.

    Raises
    ------
    InputError
        If there are not three amplitudes, or that of the high band is zero.

    Notes
    -----
    With amplitudes a and the factors k of dust, r(low -> j) = a_j - k_j a_low and r(gas -> high) = a_high.  What is
    redder than dust has a negative slope: as the cosmic infrared background does.

    Examples
    --------
    >>> round(additive_fingerprint("cib", (0.1, 0.5, 0.6)).slope, 2)
    -1.12
    """
    between = bands or Bands()
    if len(amplitudes) != 3 or not amplitudes[1]:
        raise InputError(
            f"amplitudes {tuple(amplitudes)} of {cause!r} came; one each for the low, the high and the third band is "
            "expected, that of the high one not zero."
        )
    low, high, third = amplitudes
    nu = np.array([between.high, between.third])
    factors = brightness_ratio(between.low, nu, temperature, beta)
    return Fingerprint(cause, float(1.0 - factors[0] * low / high), float((third - factors[1] * low) / high))


def temperature_from_ratio(ratio: ArrayLike, frequency_ghz: float, mean_temperature: float = 20.0) -> Floats:
    """Return the temperature that makes dust brighter than at its mean temperature by a ratio, in K.

    Parameters
    ----------
    ratio : array_like
        (I_obs - O) / (I_mod - O), pure numbers; where it is not positive, or not finite, the result is NaN.
    frequency_ghz : float
        In GHz.
    mean_temperature : float
        In K.

    Raises
    ------
    InputError
        If frequency or temperature are not positive.

    Notes
    -----
    T = (h nu / k) / ln(1 + (exp(h nu / k Tbar) - 1) / ratio) (Cheng et al. 2025, equation 14).

    Examples
    --------
    >>> temperature_from_ratio([1.0, 1.1, -1.0], 857.0).round(3).tolist()
    [20.0, 20.837, nan]
    """
    scale = _kelvin(frequency_ghz, mean_temperature)
    values = np.asarray(ratio, np.float64)
    good = (values > 0) & (values < np.inf)
    growth = np.expm1(scale / mean_temperature) / np.where(good, values, 1.0)
    return np.where(good, scale / np.log1p(growth), np.nan)


def ratio_from_temperature(temperature: ArrayLike, frequency_ghz: float, mean_temperature: float = 20.0) -> Floats:
    """Return B_nu(T) / B_nu(Tbar), what `temperature_from_ratio` inverts.

    Parameters
    ----------
    temperature : array_like
        In K.
    frequency_ghz : float
        In GHz.
    mean_temperature : float
        In K.

    Notes
    -----
    Cheng et al. 2025, equation 13.

    Examples
    --------
    >>> round(float(ratio_from_temperature(21.0, 857.0)), 4)
    1.1198
    """
    _kelvin(frequency_ghz, mean_temperature)
    return np.asarray(planck(frequency_ghz, temperature) / planck(frequency_ghz, mean_temperature))


def temperature_spread(fraction: ArrayLike, frequency_ghz: float = 857.0, mean_temperature: ArrayLike = 20.0) -> Floats:
    """Return the spread of temperatures that explains a spread of fractional residuals, in K, to first order.

    Parameters
    ----------
    fraction : array_like
        Standard deviation of (I_obs - I_mod) / (I_mod - O), a pure number.
    frequency_ghz : float
        In GHz.
    mean_temperature : array_like
        In K; a higher one gives a larger spread, so that it is the conservative choice.

    Notes
    -----
    sigma_T = sigma_lnI T (1 - e^-x) / x with x = h nu / k T, equation 14 of Cheng et al. 2025 made linear.

    Examples
    --------
    >>> temperature_spread(0.1044, mean_temperature=[20.0, 25.0]).round(2).tolist()
    [0.89, 1.28]
    """
    return np.asarray(np.asarray(fraction, np.float64) / warming(frequency_ghz, mean_temperature))


def expected_co_slope(emissivity: float, x_co: float = 2e20, unit: float = 1e20) -> float:
    """Return the slope of the residual against CO that dust in molecular gas gives: 2 X_CO eps.

    Parameters
    ----------
    emissivity : float
        Of the dust per hydrogen atom: a coefficient of a gas template, intensity per `unit` of column density.
    x_co : float
        Molecules of hydrogen in 1/cm^2 per K km/s of CO(1-0).
    unit : float
        Column density that the emissivity is per, in 1/cm^2.

    Returns
    -------
    float
        Intensity per K km/s.

    Examples
    --------
    >>> expected_co_slope(0.43)
    1.72
    """
    return 2.0 * x_co / unit * emissivity


def _kelvin(frequency_ghz: float, mean_temperature: float) -> float:
    """Return h nu / k in K."""
    for name, value in (("frequency_ghz", frequency_ghz), ("mean_temperature", mean_temperature)):
        if not 0 < value < math.inf:
            raise InputError(f"`{name}` {value!r} came; a positive number is expected.")
    return PLANCK_CONSTANT * 1e9 * frequency_ghz / BOLTZMANN_CONSTANT
