"""What `diagnose` gathers over the sky: distributions of residuals and temperatures, and densities for pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .gas_model import GasModel
from .given_noise import WhiteNoise
from .histograms import AsinhScale, Histogram
from .moments import Floats, Integers, Moments
from .polarization import polarized_intensity
from .temperature_statistics import TemperatureStatistics, Thermometer

RESIDUAL_SCALE = AsinhScale(width=5e-3, linear=1e-6)
FRACTION_SCALE = AsinhScale(width=2e-3, linear=0.01)
TEMPERATURE = "temperature"
GRID = 140  # cells of a density along a side

type Gathered = dict[tuple[str, str], Any]


def _residuals() -> Histogram:
    return Histogram(RESIDUAL_SCALE)


def _fractions() -> Histogram:
    return Histogram(FRACTION_SCALE)


@dataclass(frozen=True, eq=False)
class ResidualStatistics:
    """Residuals of one target in one region; two of them merge.

    Parameters
    ----------
    residual, fraction : Moments
        Of target - model in its unit, and of that over model - offset.
    residuals, fractions : Histogram
        Of the same.
    """

    residual: Moments = field(default_factory=Moments)
    fraction: Moments = field(default_factory=Moments)
    residuals: Histogram = field(default_factory=_residuals)
    fractions: Histogram = field(default_factory=_fractions)

    def merge(self, other: ResidualStatistics) -> ResidualStatistics:
        """Return the statistics of both sets of pixels."""
        return ResidualStatistics(
            self.residual.merge(other.residual),
            self.fraction.merge(other.fraction),
            self.residuals.merge(other.residuals),
            self.fractions.merge(other.fractions),
        )


@dataclass(frozen=True)
class DistributionKernel:
    """Distributions of residuals of all targets, and of the temperatures of one, by region.

    Parameters
    ----------
    models : tuple of GasModel
        Of all targets and regions.
    thermal : str or None
        The target whose temperatures are taken.
    thermometer : Thermometer or None
        How.
    tile_npix : int
        Pixels of a tile.
    """

    models: tuple[GasModel, ...]
    thermal: str | None
    thermometer: Thermometer | None
    tile_npix: int

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> Gathered:
        """Return statistics by (target, region), and those of temperatures by ("temperature", region)."""
        start = tile * self.tile_npix
        found: Gathered = {}
        for model in self.models:
            used = model.holds(start, inputs)
            observed, modelled = (part[used] for part in model.parts(inputs))
            residual = observed - modelled
            bright = modelled > 0
            fraction = residual[bright] / modelled[bright]
            here = ResidualStatistics(
                Moments.of(residual),
                Moments.of(fraction),
                Histogram.of(RESIDUAL_SCALE, residual),
                Histogram.of(FRACTION_SCALE, fraction),
            )
            found = merge_gathered(found, {(model.target, model.region): here})
            if self.thermometer is not None and model.target == self.thermal:
                warm = self.thermometer.measure(model, start, inputs)[2]
                found = merge_gathered(found, {(TEMPERATURE, model.region): warm})
        return found


def merge_gathered(mine: Gathered, theirs: Gathered) -> Gathered:
    """Return the statistics of two sets of pixels, key by key."""
    merged = dict(mine)
    for key, part in theirs.items():
        merged[key] = merged[key].merge(part) if key in merged else part
    return merged


def nothing_gathered(models: tuple[GasModel, ...], thermal: str | None) -> Gathered:
    """Return the statistics of no pixel."""
    found: Gathered = {(model.target, model.region): ResidualStatistics() for model in models}
    return found | {(TEMPERATURE, model.region): TemperatureStatistics() for model in models if model.target == thermal}


@dataclass(frozen=True)
class Frame:
    """The part of a plane that a density shows.

    Parameters
    ----------
    x, y : (float, float)
        First and last value along either side.
    """

    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def around(cls, mean: tuple[float, float], sigma: tuple[float, float], reach: float = 4.0) -> Frame:
        """Return the frame of so many standard deviations to either side."""
        (a, b), (s, t) = mean, (max(sigma[0], 1e-30), max(sigma[1], 1e-30))
        return cls((a - reach * s, a + reach * s), (b - reach * t, b + reach * t))

    def counts(self, x: Floats, y: Floats) -> Integers:
        """Return how many points lie in each cell, (x, y) int64."""
        table, _, _ = np.histogram2d(x, y, bins=GRID, range=[self.x, self.y])
        return table.astype(np.int64)


@dataclass(frozen=True)
class SlopeDensity:
    """Densities of r(low) of the high band against r(gas), by region.

    Parameters
    ----------
    models : tuple of GasModel
        Of the high band.
    low : str
        Map.
    scales, means, frames : mapping
        By region: what the low band is multiplied with, the means of both residuals, and what is shown around them.
    tile_npix : int
        Pixels of a tile.
    """

    models: tuple[GasModel, ...]
    low: str
    scales: Mapping[str, float]
    means: Mapping[str, tuple[float, float]]
    frames: Mapping[str, Frame]
    tile_npix: int

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, Integers]:
        """Return (x, y) counts by region."""
        start = tile * self.tile_npix
        found = {}
        for model in self.models:
            used = model.holds(start, inputs) & np.isfinite(inputs[self.low])
            observed, modelled = (part[used] for part in model.parts(inputs))
            low = inputs[self.low][used].astype(np.float64)
            residual = observed - self.scales[model.region] * low
            mean = self.means[model.region]
            found[model.region] = self.frames[model.region].counts(observed - modelled - mean[0], residual - mean[1])
        return found


@dataclass(frozen=True)
class PolarizationDensity:
    """Densities of the fractional residual against the polarisation fraction, by region.

    Parameters
    ----------
    models : tuple of GasModel
        One a region.
    polarized : tuple of str
        P, or Q and U.
    noise : WhiteNoise or None
        Of Q and of U.
    means, frames : mapping
        By region: the mean fraction, and what is shown.
    tile_npix : int
        Pixels of a tile.
    """

    models: tuple[GasModel, ...]
    polarized: tuple[str, ...]
    noise: WhiteNoise | None
    means: Mapping[str, float]
    frames: Mapping[str, Frame]
    tile_npix: int

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, Integers]:
        """Return (x, y) counts by region; x is (p - pbar) / (1 + pbar)."""
        start = tile * self.tile_npix
        intensity = polarized_intensity(inputs, self.polarized, self.noise, self.tile_npix)
        found = {}
        for model in self.models:
            used = model.holds(start, inputs) & np.isfinite(intensity)
            observed, modelled = model.parts(inputs)
            used &= observed > 0
            mean = self.means[model.region]
            x = (intensity[used] / observed[used] - mean) / (1.0 + mean)
            found[model.region] = self.frames[model.region].counts(x, 1.0 - modelled[used] / observed[used])
        return found


def merge_counts(mine: dict[str, Integers], theirs: dict[str, Integers]) -> dict[str, Integers]:
    """Return the counts of two sets of pixels, region by region."""
    merged = dict(mine)
    for name, table in theirs.items():
        merged[name] = merged[name] + table if name in merged else table
    return merged
