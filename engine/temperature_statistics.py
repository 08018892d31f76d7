"""Temperatures of dust from residuals (Cheng et al. 2025, equation 14): tile by tile, and what is said of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError
from ..models.fingerprints import temperature_from_ratio, temperature_spread
from .gas_model import GasModel
from .histograms import Histogram, LogScale
from .moments import Floats, Moments
from .named_regions import Regions
from .region_tables import LEVELS, intervals, region_dataset

if TYPE_CHECKING:
    import xarray as xr

KELVIN_SCALE = LogScale(2e-4)  # 0.01 K at 20 K


def _histogram() -> Histogram:
    return Histogram(KELVIN_SCALE)


@dataclass(frozen=True, eq=False)
class TemperatureStatistics:
    """What one pass gathers about temperatures in one region; two of them merge.

    Parameters
    ----------
    pixels : int
        Pixels that are used and have a value in all maps.
    not_positive : int
        Of those, the ones without a temperature: their ratio is not positive.
    kelvin, conservative : Moments
        Of the temperatures at the two mean temperatures.
    fraction : Moments
        Of (I_obs - I_mod) / (I_mod - O).
    histogram : Histogram
        Of the temperatures at the first mean temperature.
    """

    pixels: int = 0
    not_positive: int = 0
    kelvin: Moments = field(default_factory=Moments)
    conservative: Moments = field(default_factory=Moments)
    fraction: Moments = field(default_factory=Moments)
    histogram: Histogram = field(default_factory=_histogram)

    def merge(self, other: TemperatureStatistics) -> TemperatureStatistics:
        """Return the statistics of both sets of pixels."""
        return TemperatureStatistics(
            self.pixels + other.pixels,
            self.not_positive + other.not_positive,
            self.kelvin.merge(other.kelvin),
            self.conservative.merge(other.conservative),
            self.fraction.merge(other.fraction),
            self.histogram.merge(other.histogram),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        moments = (self.kelvin, self.conservative, self.fraction)
        return {
            "pixels": self.pixels,
            "not_positive": self.not_positive,
            "moments": [[m.count, m.mean, m.squares] for m in moments],
            "histogram": [self.histogram.index.tolist(), self.histogram.counts.tolist()],
        }

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> TemperatureStatistics:
        """Return what `as_dict` wrote; the extremes are not kept."""
        index, counts = (np.array(values, np.int64) for values in known["histogram"])
        kelvin, conservative, fraction = (Moments(int(n), m, s) for n, m, s in known["moments"])
        return cls(
            int(known["pixels"]),
            int(known["not_positive"]),
            kelvin,
            conservative,
            fraction,
            Histogram(KELVIN_SCALE, index, counts),
        )


@dataclass(frozen=True)
class Thermometer:
    """Turns residuals of a band into temperatures.

    Parameters
    ----------
    frequency : float
        In GHz.
    mean_temperature, conservative_temperature : float
        In K.

    Raises
    ------
    InputError
        If a temperature is not positive.
    """

    frequency: float
    mean_temperature: float
    conservative_temperature: float

    def __post_init__(self) -> None:
        for name in ("mean_temperature", "conservative_temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"`{name}` {getattr(self, name)!r} came; a positive temperature in K is expected.")

    def measure(
        self, model: GasModel, start: int, inputs: Mapping[str, NDArray[Any]]
    ) -> tuple[NDArray[np.bool_], Floats, TemperatureStatistics]:
        """Return used pixels (cells,) bool, their temperatures (pixel,) float64 K, and statistics, of one tile."""
        used = model.holds(start, inputs)
        observed, modelled = (part[used] for part in model.parts(inputs))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(modelled > 0, observed / modelled, np.nan)
        kelvin = temperature_from_ratio(ratio, self.frequency, self.mean_temperature)
        # Ratios beyond what the float64 logarithm tells apart give no number either.
        right = np.isfinite(kelvin) & (kelvin > 0)
        kelvin[~right] = np.nan
        other = temperature_from_ratio(ratio[right], self.frequency, self.conservative_temperature)
        statistics = TemperatureStatistics(
            int(used.sum()),
            int((~right).sum()),
            Moments.of(kelvin[right]),
            Moments.of(other),
            Moments.of(ratio[right] - 1.0),
            Histogram.of(KELVIN_SCALE, kelvin[right]),
        )
        return used, kelvin, statistics


def temperature_dataset(
    found: Sequence[TemperatureStatistics],
    names: Sequence[str],
    region: Regions,
    thermometer: Thermometer,
    attributes: Mapping[str, Any],
) -> xr.Dataset:
    """Return what is said of temperatures by region; see `temperature`."""
    means = [thermometer.mean_temperature, thermometer.conservative_temperature]
    sigma_fraction = [each.fraction.sigma for each in found]
    linear = [temperature_spread(s, thermometer.frequency, means).tolist() for s in sigma_fraction]
    return region_dataset(
        {
            "sigma": (("mean_temperature",), [[e.kelvin.sigma, e.conservative.sigma] for e in found]),
            "mean": (("mean_temperature",), [[_mean(e.kelvin), _mean(e.conservative)] for e in found]),
            "sigma_linear": (("mean_temperature",), linear),
            "median": ((), [e.histogram.quantile(0.5) for e in found]),
            "interval": (("level", "side"), [intervals(e.histogram) for e in found]),
            "sigma_fraction": ((), sigma_fraction),
            "pixels": ((), [e.pixels for e in found]),
            "not_positive": ((), [e.not_positive for e in found]),
        },
        {"mean_temperature": means, "level": list(LEVELS), "side": ["low", "high"]},
        names,
        region,
        {"frequency_ghz": thermometer.frequency, **attributes},
        dict.fromkeys(("sigma", "mean", "sigma_linear", "median", "interval"), "K") | {"sigma_fraction": "1"},
    )


def _mean(moments: Moments) -> float:
    return moments.mean if moments.count else math.nan
