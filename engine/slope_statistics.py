"""Slopes of residuals against residuals from covariances by block: what `slopes` measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError
from ..models.fingerprints import Bands, Fingerprint, brightness_ratio
from ..models.slopes import Method, correlation, formal_error, jackknife, line_slope
from ..models.verdicts import Verdict, classify
from .block_moments import BlockMoments, block_numbers, block_shift, merge_blocks
from .gas_model import GasModel
from .given_noise import WhiteNoise
from .moments import Floats
from .plan import Run
from .region_pass import reduce_regions

type Scaling = Literal["gas", "regression", "mbb"]
SCALINGS: Final = ("gas", "regression", "mbb")
HIGH, MODEL, LOW, THIRD = range(4)


@dataclass(frozen=True)
class SlopeKernel:
    """Means and covariances, by region and block, of high band, its model, low band, third band, and noise variances.

    Parameters
    ----------
    models : tuple of GasModel
        Of the high band, one a region.
    low, third : str or None
        Maps.
    noise : tuple of WhiteNoise
        Of high, low and third, or none at all.
    tile_npix, shift : int
        Pixels of a tile; see `block_moments.block_shift`.
    """

    models: tuple[GasModel, ...]
    low: str
    third: str | None
    noise: tuple[WhiteNoise, ...]
    tile_npix: int
    shift: int

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, BlockMoments]:
        """Return the moments of one tile by region."""
        start = tile * self.tile_npix
        others = [name for name in (self.low, self.third) if name is not None]
        variances = [noise.sigma(inputs, self.tile_npix) ** 2 for noise in self.noise]
        found: dict[str, BlockMoments] = {}
        for model in self.models:
            used = model.holds(start, inputs)
            for name in others:
                used &= np.isfinite(inputs[name])
            for row in variances:
                used &= np.isfinite(row)
            rows = [*model.parts(inputs), *(inputs[name].astype(np.float64) for name in others), *variances]
            values = np.stack([row[used] for row in rows])
            here = BlockMoments.of(block_numbers(start, used, self.shift), values)
            # Several models may serve parts of one region.
            found[model.region] = found[model.region].merge(here) if model.region in found else here
        return found


@dataclass(frozen=True)
class SlopeRule:
    """How slopes follow from covariances.

    Parameters
    ----------
    method : {"ols", "inverse", "deming"}
        See `models.slopes.line_slope`.
    scaling : {"gas", "regression", "mbb"}
        See `slopes`.
    bands : Bands
        Frequencies.
    third : bool
        Whether there is a third band.
    temperature, beta : float
        For the scaling "mbb".
    """

    method: Method
    scaling: Scaling
    bands: Bands
    third: bool
    temperature: float
    beta: float

    def scales(self, covariance: Floats) -> list[Floats]:
        """Return what the low band is multiplied with, (...) float64, for each residual."""
        found = []
        for band, frequency in ((HIGH, self.bands.high), (THIRD, self.bands.third))[: 1 + self.third]:
            with np.errstate(invalid="ignore", divide="ignore"):
                if self.scaling == "gas":
                    scale = covariance[..., band, MODEL] / covariance[..., LOW, MODEL]
                elif self.scaling == "regression":
                    scale = covariance[..., band, LOW] / covariance[..., LOW, LOW]
                else:
                    ratio = float(brightness_ratio(self.bands.low, frequency, self.temperature, self.beta))
                    scale = np.full(covariance.shape[:-2], ratio)
            found.append(scale)
        return found

    def residuals(self, covariance: Floats) -> list[Floats]:
        """Return (..., 2, 2) covariances of r(gas) with r(low) in the high band and in the third."""
        size = covariance.shape[-1]
        gas = np.zeros(covariance.shape[:-1])
        gas[..., HIGH], gas[..., MODEL] = 1.0, -1.0
        found = []
        for band, scale in zip((HIGH, THIRD), self.scales(covariance), strict=False):
            low = np.zeros((*scale.shape, size))
            low[..., band] += 1.0
            low[..., LOW] -= scale
            pair = np.stack([gas, low], axis=-2)
            found.append(np.einsum("...ai,...ij,...bj->...ab", pair, covariance, pair))
        return found

    def slopes(self, mean: Floats, covariance: Floats) -> Floats:
        """Return the slopes, (..., residual) float64."""
        found = []
        places = zip((HIGH, THIRD), self.scales(covariance), self.residuals(covariance), strict=False)
        for band, scale, matrix in places:
            noise = self._noise(mean, band, scale) if self.method == "deming" else None
            found.append(line_slope(matrix, self.method, noise))
        return np.stack(found, axis=-1)

    def _noise(self, mean: Floats, band: int, scale: Floats) -> Floats:
        """Return the covariance of the noise of r(gas) and r(low): noise of the high band is in both."""
        first = 4 if self.third else 3
        high, low = mean[..., first], mean[..., first + 1]
        own = high if band == HIGH else mean[..., first + 2]
        shared = high if band == HIGH else np.zeros_like(high)
        rows = [np.stack([high, shared], axis=-1), np.stack([shared, own + scale**2 * low], axis=-1)]
        return np.stack(rows, axis=-2)


@dataclass(frozen=True)
class SlopeRequest:
    """What `slopes` was asked, ready to be measured.

    Parameters
    ----------
    store : str
        Address of the store.
    models : tuple of GasModel
        Of the high band; those of one region name are taken together.
    low, third : str or None
        Maps.
    noise : tuple of WhiteNoise
        See `SlopeKernel`.
    rule : SlopeRule
        How slopes are measured.
    expected : tuple of Fingerprint
        What causes would give.
    judge : mapping
        Options of `classify`.
    jackknife : int or None
        nside of blocks.
    """

    store: str
    models: tuple[GasModel, ...]
    low: str
    third: str | None
    noise: tuple[WhiteNoise, ...]
    rule: SlopeRule
    expected: tuple[Fingerprint, ...]
    judge: Mapping[str, float]
    jackknife: int | None

    @property
    def more(self) -> tuple[str, ...]:
        """Maps that must have a value beside those of the models."""
        names = (self.low, self.third, *(each.name for each in self.noise))
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @property
    def bands(self) -> list[str]:
        """The high, the low and the third band."""
        return [name for name in (self.models[0].target, self.low, self.third) if name is not None]

    @property
    def frequencies(self) -> list[float]:
        """Of `bands`, in GHz."""
        known = self.rule.bands
        return [known.high, known.low, known.third][: len(self.bands)]

    @property
    def residuals(self) -> list[str]:
        """Names of the residuals r(low)."""
        high = self.models[0].target
        return [f"{self.low} -> {name}" for name in (high, self.third) if name is not None]

    @property
    def bytes_a_pixel(self) -> int:
        """Temporaries of a pass."""
        return 8 * (12 + (8 if self.noise else 4) * len(self.bands))

    def gather(self, run: Run) -> dict[str, BlockMoments]:
        """Return the moments of every region, from one pass."""
        tiling = stores.tiling_of(self.store)
        shift = block_shift(tiling, self.jackknife)
        kernel = SlopeKernel(self.models, self.low, self.third, self.noise, tiling.tile_npix, shift)
        nothing = {each.region: BlockMoments() for each in self.models}
        return reduce_regions(kernel, self.store, self.models, self.more, merge_blocks, nothing, run, "slopes")

    def judged(self, moments: BlockMoments) -> SlopeFound:
        """Return the slopes of one region and what they say.

        Raises
        ------
        InputError
            If there is nothing to leave out.
        """
        if self.jackknife is not None and moments.keys.size < 2:
            raise InputError(
                f"all pixels lie in one patch of nside {self.jackknife}, which cannot be left out; give a larger "
                "`jackknife`, or None."
            )
        return measure_slopes(moments, self.rule, self.expected, self.judge, blocks=self.jackknife is not None)


@dataclass(frozen=True, eq=False)
class SlopeFound:
    """The slopes of one region.

    Parameters
    ----------
    pixels, blocks : int
        How many there are.
    slope, error, formal_error, correlation, scale, spread : (residual,) float64
        `spread` is the standard deviation of r(low).
    covariance : (residual, residual) float64
        Of the slopes.
    gas_spread : float
        Standard deviation of r(gas).
    verdict : Verdict or None
        None where a slope or an error is not known, or errors come from no more blocks than slopes.
    """

    pixels: int
    blocks: int
    slope: Floats
    error: Floats
    formal_error: Floats
    correlation: Floats
    scale: Floats
    spread: Floats
    covariance: Floats
    gas_spread: float
    verdict: Verdict | None


def measure_slopes(
    moments: BlockMoments, rule: SlopeRule, expected: Sequence[Fingerprint], judge: Mapping[str, Any], *, blocks: bool
) -> SlopeFound:
    """Return the slopes of one region, their errors, and what they say.

    Parameters
    ----------
    moments : BlockMoments
        From `SlopeKernel`.
    rule : SlopeRule
        How.
    expected : sequence of Fingerprint
        What causes would give.
    judge : mapping
        Options of `classify`.
    blocks : bool
        Errors from leaving out blocks; else those of independent pixels.
    """
    pixels, mean, covariance = moments.total()
    slope = rule.slopes(mean, covariance)
    matrices = rule.residuals(covariance)
    formal = np.array([float(formal_error(matrix, pixels, rule.method)) for matrix in matrices])
    of_slopes = np.diag(formal**2)
    if blocks:
        of_slopes = jackknife(rule.slopes(*moments.left_out()))
    error = np.sqrt(np.diagonal(of_slopes))
    verdict = None
    patches = moments.keys.size if blocks else None
    enough = patches is None or patches > len(slope)
    if enough and np.isfinite(slope).all() and np.isfinite(of_slopes).all():
        more: dict[str, Any] = {"patches": patches}
        if rule.third:
            more |= {"third_slope": slope[1], "third_error": error[1], "covariance": of_slopes[0, 1]}
        verdict = classify(expected, float(slope[0]), float(error[0]), **more, **judge)
    return SlopeFound(
        pixels,
        moments.keys.size if blocks else 0,
        slope,
        error,
        formal,
        np.array([float(correlation(matrix)) for matrix in matrices]),
        np.array([float(scale) for scale in rule.scales(covariance)]),
        np.sqrt([float(matrix[1, 1]) for matrix in matrices]),
        of_slopes,
        math.sqrt(float(matrices[0][0, 0])),
        verdict,
    )
