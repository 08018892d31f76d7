"""What the synthetic dust radiates: a few classes of dust, each with a fixed spectrum of two modified black bodies.

The sky is a linear sum over classes, so that the average of a fine map is the coarse map exactly.  A mixture of
neighbouring classes stands for every temperature and index between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..chunking.bands import band
from .emission import modified_black_body

# Meisner & Finkbeiner 2015 (ApJ 798, 88), table 2: f1, q1/q2, (beta1, beta2), (T1, T2), pivot 3000 GHz.
_COLD_SHARE, _RATIO = 0.0485, 8.22
_INDICES, _TEMPERATURES = (1.63, 2.82), (9.75, 15.70)
_PIVOT = 3000.0  # GHz
# The single modified black body that follows this mixture from 160 to 850 um: "the" T and beta of a class.  Scaled to
# other temperatures it still does, within 1 K and 0.1 from 15 to 25 K.
MEAN_TEMPERATURE, MEAN_INDEX = 21.1, 1.53
# 353 GHz intensity of 1e20 H/cm^2 at 19.4 K, beta 1.6: optical depth 1.2e-26 cm^2/H (Planck 2013 XI, table 3).
_EMISSIVITY = 0.056
# Beyond 850 um the spectrum is flatter (Planck 2013 XIV: beta smaller at long wavelengths by about 0.2);
# it brings the ratio 850 um to 1.38 mm to 4.0-4.3, as surveys have it.
FLATTENING = 0.22

CLASS_TEMPERATURES: Final = (14.0, 19.0, 26.0)
CLASS_INDICES: Final = (1.35, 1.85)
SED_BANDS: Final = ("160um", "250um", "350um", "500um", "850um", "1380um")
FREE_FREE_INDEX = -0.1  # of the intensity of free-free emission with frequency


@dataclass(frozen=True)
class DustClass:
    """A kind of dust: `temperature` in K and emissivity index, with its place on the grid of classes."""

    temperature: float
    index: float
    step_temperature: int
    step_index: int


CLASSES: Final = tuple(
    DustClass(t, b, i - 1, 2 * j - 1) for i, t in enumerate(CLASS_TEMPERATURES) for j, b in enumerate(CLASS_INDICES)
)


def dust_intensity(frequency_ghz: ArrayLike, temperature: float, index: float) -> NDArray[np.float64]:
    """Return the intensity of 1e20 H/cm^2 of dust in MJy/sr.

    Parameters
    ----------
    frequency_ghz : array_like
        Frequencies in GHz.
    temperature, index : float
        Those of the single modified black body that would be fitted between 160 and 850 um.

    Notes
    -----
    Meisner & Finkbeiner 2015, equation 2, with both temperatures scaled, both indices shifted, and a flatter
    spectrum below 353 GHz.

    Examples
    --------
    >>> print(f"{float(dust_intensity(353.0, 19.4, 1.6)):.3f}")
    0.056
    """
    frequencies = np.asarray(frequency_ghz, dtype=np.float64)
    scale, steeper = temperature / MEAN_TEMPERATURE, index - MEAN_INDEX
    long_waves = np.minimum(frequencies / 353.0, 1.0) ** -FLATTENING
    shape = _mixture(frequencies, scale) * (frequencies / 353.0) ** steeper * long_waves
    return np.asarray(_EMISSIVITY * shape / _mixture(353.0, 19.4 / MEAN_TEMPERATURE))


def _mixture(frequency_ghz: ArrayLike, scale: float) -> NDArray[np.float64]:
    cold, warm = (
        modified_black_body(frequency_ghz, temperature * scale, beta, reference_ghz=_PIVOT)
        for temperature, beta in zip(_TEMPERATURES, _INDICES, strict=True)
    )
    return np.asarray(_COLD_SHARE * _RATIO * cold + (1.0 - _COLD_SHARE) * warm)


def class_intensities() -> NDArray[np.float64]:
    """Return the intensity of 1e20 H/cm^2 of each class in each band of `SED_BANDS`, (band, class), MJy/sr.

    Examples
    --------
    >>> class_intensities().shape
    (6, 6)
    """
    nu = _frequencies()
    return np.stack([dust_intensity(nu, kind.temperature, kind.index) for kind in CLASSES], axis=1)


def free_free_intensities() -> NDArray[np.float64]:
    """Return free-free emission relative to 1.38 mm in each band of `SED_BANDS`, 0 where it does not count, (band,)."""
    nu = _frequencies()
    return np.where(nu > 400.0, 0.0, (nu / nu[-1]) ** FREE_FREE_INDEX)


def _frequencies() -> NDArray[np.float64]:
    return np.array([band(name).frequency_ghz for name in SED_BANDS])


def class_weights(temperature: NDArray[np.float64], index: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return shares of the classes, at least 0 and 1 in all, whose mean T and beta are those asked for, (class, ...).

    Parameters
    ----------
    temperature, index : ndarray
        (...) K and 1; clipped to the range of the classes.

    Examples
    --------
    >>> shares = class_weights(np.array([20.0]), np.array([1.6]))
    >>> round(float(sum(w[0] * kind.temperature for w, kind in zip(shares, CLASSES))), 9)
    20.0
    """
    warm = _hats(temperature, CLASS_TEMPERATURES)
    steep = _hats(index, CLASS_INDICES)
    return np.stack([t * b for t in warm for b in steep])


def _hats(values: NDArray[np.float64], nodes: tuple[float, ...]) -> list[NDArray[np.float64]]:
    """Return the weights of linear interpolation between nodes."""
    unit = np.eye(len(nodes))
    return [np.interp(values, nodes, row) for row in unit]
