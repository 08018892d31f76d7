"""Emission laws of dust in float64: black body, modified black bodies, and spectral indices from band ratios.

The laws take frequencies in GHz and give MJy/sr.  Everything broadcasts, and everything is computed in float64
whatever comes, so that these functions can judge the float32 kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..chunking.bands import SPEED_OF_LIGHT
from ..chunking.errors import InputError
from ..chunking.units import BOLTZMANN_CONSTANT, JANSKY, PLANCK_CONSTANT

type Floats = NDArray[np.float64]

_HZ = 1e9
_KELVIN = PLANCK_CONSTANT * _HZ / BOLTZMANN_CONSTANT  # h nu / k at 1 GHz, in K

NOMINAL_WAVELENGTHS_UM = (850.0, 1380.0)
"""The wavelengths that Paradis et al. 2024 put literally into their equation 1."""

EXACT_WAVELENGTHS_UM = (SPEED_OF_LIGHT / 353e9 * 1e6, SPEED_OF_LIGHT / 217e9 * 1e6)
"""Those of exactly 353 and 217 GHz; they lower beta* by 0.012 at a ratio of 4.29."""


def planck(frequency_ghz: ArrayLike, temperature: ArrayLike) -> Floats:
    """Return the Planck function B_nu(T) in MJy/sr.

    Parameters
    ----------
    frequency_ghz : array_like
        Frequency in GHz.
    temperature : array_like
        Temperature in K; where it is not positive the result is NaN.

    Returns
    -------
    ndarray
        float64, of the broadcast shape.

    Notes
    -----
    2 h nu^3 / c^2 / (exp(h nu / k T) - 1).

    Examples
    --------
    >>> round(float(planck(353.0, 20.0)), 0)
    48664.0
    """
    nu, x = _reduced(frequency_ghz, temperature)
    # exp(-x) / (1 - exp(-x)) does not overflow in the Wien tail.
    occupation = np.exp(-x) / -np.expm1(-x)
    return np.asarray(2.0 * PLANCK_CONSTANT * nu**3 / SPEED_OF_LIGHT**2 * occupation / JANSKY * 1e-6)


def planck_derivative(frequency_ghz: ArrayLike, temperature: ArrayLike) -> Floats:
    """Return dB_nu/dT in MJy/sr per K.

    Parameters
    ----------
    frequency_ghz : array_like
        Frequency in GHz.
    temperature : array_like
        Temperature in K; where it is not positive the result is NaN.

    Notes
    -----
    2 h^2 nu^4 / (c^2 k T^2) e^x / (e^x - 1)^2 with x = h nu / k T (Cheng et al. 2025, equation B8).

    Examples
    --------
    >>> round(float(planck_derivative(353.0, 2.7255)), 2)
    296.65
    """
    _, x = _reduced(frequency_ghz, temperature)
    return np.asarray(planck(frequency_ghz, temperature) * x / -np.expm1(-x) / _positive(temperature))


def modified_black_body(
    frequency_ghz: ArrayLike,
    temperature: ArrayLike,
    beta: ArrayLike,
    *,
    optical_depth: ArrayLike = 1.0,
    reference_ghz: float = 353.0,
) -> Floats:
    """Return a thin modified black body, tau (nu / nu0)^beta B_nu(T), in MJy/sr.

    Parameters
    ----------
    frequency_ghz : array_like
        Frequency in GHz.
    temperature : array_like
        Temperature of the dust in K.
    beta : array_like
        Emissivity index.
    optical_depth : array_like
        tau at the reference frequency.
    reference_ghz : float
        nu0 in GHz.

    Raises
    ------
    InputError
        If `reference_ghz` is not positive.

    Examples
    --------
    >>> bool(modified_black_body(353.0, 20.0, 1.6, optical_depth=2.0) == 2 * planck(353.0, 20.0))
    True
    """
    _check_reference(reference_ghz)
    scale = (np.asarray(frequency_ghz, np.float64) / reference_ghz) ** np.asarray(beta, np.float64)
    return np.asarray(np.asarray(optical_depth, np.float64) * scale * planck(frequency_ghz, temperature))


@dataclass(frozen=True)
class TwoComponents:
    """The shape of a sum of two modified black bodies, a cold and a warm one.

    The default temperatures and indices are those of Meisner & Finkbeiner 2015.

    Parameters
    ----------
    cold_fraction : float
        Part of the intensity at the reference frequency that the cold component has, from 0 to 1.
    cold_temperature, warm_temperature : float
        In K.
    cold_beta, warm_beta : float
        Emissivity indices.

    Raises
    ------
    InputError
        If the fraction is outside 0 to 1 or a temperature is not positive.

    Examples
    --------
    >>> shape = TwoComponents(cold_fraction=0.9)
    >>> shape.warm_temperature, shape.cold_temperature
    (15.7, 9.75)
    """

    cold_fraction: float
    cold_temperature: float = 9.75
    cold_beta: float = 1.63
    warm_temperature: float = 15.70
    warm_beta: float = 2.82

    def __post_init__(self) -> None:
        if not 0.0 <= self.cold_fraction <= 1.0:
            raise InputError(f"`cold_fraction` {self.cold_fraction!r} came; a fraction from 0 to 1 is expected.")
        for key in ("cold_temperature", "warm_temperature"):
            if not getattr(self, key) > 0:
                raise InputError(f"`{key}` {getattr(self, key)!r} came; a positive temperature in K is expected.")


def two_component(
    frequency_ghz: ArrayLike,
    intensity: ArrayLike,
    shape: TwoComponents,
    *,
    reference_ghz: float = 353.0,
    temperature_scale: ArrayLike = 1.0,
) -> Floats:
    """Return the sum of two modified black bodies with a given intensity at the reference frequency, in MJy/sr.

    Parameters
    ----------
    frequency_ghz : array_like
        Frequency in GHz.
    intensity : array_like
        Intensity at the reference frequency, MJy/sr.
    shape : TwoComponents
        Temperatures, indices, and the part of the cold component.
    reference_ghz : float
        Reference frequency in GHz.
    temperature_scale : array_like
        Factor on both temperatures: dust in a stronger radiation field is warmer in both components.

    Examples
    --------
    >>> round(float(two_component(353.0, 3.0, TwoComponents(0.8))), 9)
    3.0
    """
    _check_reference(reference_ghz)
    factor = np.asarray(temperature_scale, np.float64)
    total: Floats = np.zeros(())
    components = (
        (shape.cold_fraction, shape.cold_temperature, shape.cold_beta),
        (1.0 - shape.cold_fraction, shape.warm_temperature, shape.warm_beta),
    )
    for fraction, temperature, beta in components:
        law = modified_black_body(frequency_ghz, temperature * factor, beta, reference_ghz=reference_ghz)
        total = total + fraction * law / planck(reference_ghz, temperature * factor)
    return np.asarray(np.asarray(intensity, np.float64) * total)


def alpha(ratio: ArrayLike, *, wavelengths_um: tuple[float, float] = NOMINAL_WAVELENGTHS_UM) -> Floats:
    """Return the spectral index of the intensity, I ~ nu^alpha, from the ratio of two bands.

    Parameters
    ----------
    ratio : array_like
        Intensity of the shorter wavelength over that of the longer; where it is not positive the result is NaN.
    wavelengths_um : (float, float)
        The two wavelengths in micrometre: `NOMINAL_WAVELENGTHS_UM` (850 and 1380, as published) or
        `EXACT_WAVELENGTHS_UM` (of 353 and 217 GHz), or others.

    Returns
    -------
    ndarray
        float64, positive for dust.

    Raises
    ------
    InputError
        If the wavelengths are not positive and ascending.

    Notes
    -----
    Paradis et al. 2024, equation 1.  As printed its denominator is log(850/1380), which is negative and gives
    alpha = -3.00 for Hi-GAL; the published values of beta* = alpha - 2 follow from log(1380/850), which is what
    I ~ nu^alpha asks for and what is computed here.

    Examples
    --------
    >>> round(float(alpha(4.289)), 3)
    3.005
    """
    logarithm = _log_of_wavelengths(wavelengths_um)
    values = np.asarray(ratio, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.log(np.where(values > 0, values, np.nan)) / logarithm)


def beta_star(ratio: ArrayLike, *, wavelengths_um: tuple[float, float] = NOMINAL_WAVELENGTHS_UM) -> Floats:
    """Return beta* = alpha - 2, the emissivity index if the dust emitted in the Rayleigh-Jeans limit.

    Parameters
    ----------
    ratio : array_like
        As for `alpha`.
    wavelengths_um : (float, float)
        As for `alpha`.

    Notes
    -----
    Dust of 20 K is not in that limit at 850 um: see `beta_corrected`.

    Examples
    --------
    >>> round(float(beta_star(4.289)), 3)
    1.005
    """
    return np.asarray(alpha(ratio, wavelengths_um=wavelengths_um) - 2.0)


def temperature_correction(
    temperature: ArrayLike, *, wavelengths_um: tuple[float, float] = NOMINAL_WAVELENGTHS_UM
) -> Floats:
    """Return c(T), what to add to beta* for dust of a temperature: beta = beta* + c(T).

    Parameters
    ----------
    temperature : array_like
        Temperature of the dust in K; where it is not positive the result is NaN.
    wavelengths_um : (float, float)
        As for `alpha`.

    Notes
    -----
    For I ~ nu^beta B_nu(T) the ratio gives alpha = beta + ln(B_1/B_2) / ln(nu_1/nu_2), so that
    c = 2 - ln(B_1/B_2) / ln(nu_1/nu_2); it goes to 0 as the temperature grows.

    Examples
    --------
    >>> temperature_correction([10, 20, 30]).round(3).tolist()
    [0.819, 0.373, 0.241]
    """
    logarithm = _log_of_wavelengths(wavelengths_um)
    one, two = (SPEED_OF_LIGHT / wavelength * 1e-3 for wavelength in wavelengths_um)
    kelvin = _positive(temperature)
    # ln B_nu up to a constant; the logarithm of the occupation number does not underflow for cold dust.
    with np.errstate(invalid="ignore"):
        difference = 3.0 * math.log(one / two) - (
            _log_expm1(_KELVIN * one / kelvin) - _log_expm1(_KELVIN * two / kelvin)
        )
    return np.asarray(2.0 - difference / logarithm)


def beta_corrected(
    beta_star: ArrayLike,
    temperature: ArrayLike,
    *,
    wavelengths_um: tuple[float, float] = NOMINAL_WAVELENGTHS_UM,
) -> Floats:
    """Return the emissivity index of dust of a temperature: beta* + c(T).

    Parameters
    ----------
    beta_star : array_like
        From `beta_star`.
    temperature : array_like
        Temperature of the dust in K; where it is not positive the result is NaN.
    wavelengths_um : (float, float)
        Those that `beta_star` was computed with.

    Examples
    --------
    >>> round(float(beta_corrected(1.0, 20.0)), 2)
    1.37
    """
    correction = temperature_correction(temperature, wavelengths_um=wavelengths_um)
    return np.asarray(np.asarray(beta_star, np.float64) + correction)


@dataclass(frozen=True)
class SurveyIndex:
    """One row of Table 2 of Paradis et al. 2024.

    Parameters
    ----------
    survey : str
        Name of the survey.
    ratio : float
        Mean of I_850 / I_1380.
    beta_star : float
        As published, to 0.0005.
    """

    survey: str
    ratio: float
    beta_star: float


TABLE_2 = (
    SurveyIndex("Hi-GAL", 4.289, 1.005),
    SurveyIndex("Cold Cores", 4.130, 0.927),
    SurveyIndex("Gould Belt", 4.110, 0.917),
    SurveyIndex("Heritage", 4.198, 0.960),
    SurveyIndex("HerM33es", 4.202, 0.962),
    SurveyIndex("Helga", 4.247, 0.984),
    SurveyIndex("KINGFISH", 4.122, 0.922),
    SurveyIndex("VNGS", 3.960, 0.840),
)
"""Ratios and beta* as published (Paradis et al. 2024, Table 2)."""


def _positive(temperature: ArrayLike) -> Floats:
    values = np.asarray(temperature, np.float64)
    return np.where(values > 0, values, np.nan)


def _reduced(frequency_ghz: ArrayLike, temperature: ArrayLike) -> tuple[Floats, Floats]:
    """Return the frequency in Hz, and h nu / k T."""
    frequency = np.asarray(frequency_ghz, np.float64)
    if not np.all(frequency > 0):
        raise InputError(f"`frequency_ghz` {frequency_ghz!r} came; positive frequencies in GHz are expected.")
    return frequency * _HZ, np.asarray(_KELVIN * frequency / _positive(temperature))


def _log_expm1(x: Floats) -> Floats:
    """Return ln(e^x - 1) without overflow."""
    return np.asarray(x + np.log(-np.expm1(-x)))


def _check_reference(reference_ghz: float) -> None:
    if not reference_ghz > 0:
        raise InputError(f"`reference_ghz` {reference_ghz!r} came; a positive frequency in GHz is expected.")


def _log_of_wavelengths(wavelengths_um: tuple[float, float]) -> float:
    one, two = wavelengths_um
    if not 0 < one < two < math.inf:
        raise InputError(
            f"`wavelengths_um` {wavelengths_um!r} came; two positive wavelengths, the shorter (the numerator of the "
            "ratio) first, are expected."
        )
    return math.log(two / one)
