"""How far a map scatters about linear models of other maps, region by region: one pass over the tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .histograms import AsinhScale, Histogram
from .moments import Floats, Moments
from .plan import Run
from .reducing import reduce_tiles
from .used_pixels import UsedPixels

# In mmag: bins of 0.002 mmag around zero, and of 0.2 % far from it.
SCALE = AsinhScale(width=0.002, linear=1.0)
# Bytes a pixel of a tile: of the values in float64, of a residual and its bins, and of which pixels are used.
BYTES_A_VALUE, BYTES_A_PIXEL = 8, 64


@dataclass(frozen=True)
class LinearModel:
    """An offset and maps times coefficients.

    Parameters
    ----------
    coefficients : tuple of (str, float)
        Map, and what it is multiplied by.
    offset : float
        What is added.

    Examples
    --------
    >>> LinearModel((("nhi", 11.0),), -1.0)({"nhi": np.array([2.0])}).tolist()
    [21.0]
    """

    coefficients: tuple[tuple[str, float], ...]
    offset: float

    def __call__(self, values: Mapping[str, Floats]) -> Floats:
        """Return the model, (cells,) float64.

        Parameters
        ----------
        values : mapping
            (cells,) float64 of each map.
        """
        total: Floats | None = None
        for name, coefficient in self.coefficients:
            part = coefficient * values[name]
            total = part if total is None else total + part
        if total is None:
            return np.full(next(iter(values.values())).shape, self.offset)
        return total + self.offset


@dataclass(frozen=True, eq=False)
class Scatter:
    """What is known of residuals; two of them merge.

    Parameters
    ----------
    moments : Moments
        Count, mean, squares.
    histogram : Histogram
        For quantiles, each known to one bin of `SCALE`.

    Examples
    --------
    >>> found = Scatter.of(np.array([-1.0, 0.0, 1.0, 2.0, 3.0]))
    >>> found.moments.count, round(found.median, 2)
    (5, 1.0)
    """

    moments: Moments = field(default_factory=Moments)
    histogram: Histogram = field(default_factory=lambda: Histogram(SCALE))

    @classmethod
    def of(cls, values: Floats) -> Scatter:
        """Return what is known of finite residuals, (cells,) float64 mmag."""
        return cls(Moments.of(values), Histogram.of(SCALE, values))

    def merge(self, other: Scatter) -> Scatter:
        """Return what is known of both."""
        return Scatter(self.moments.merge(other.moments), self.histogram.merge(other.histogram))

    @property
    def median(self) -> float:
        """The median; NaN where there is none."""
        return self.histogram.quantile(0.5)

    @property
    def robust(self) -> float:
        """Half of what lies between the quantiles 0.1587 and 0.8413: sigma, if the residuals are Gaussian."""
        return (self.histogram.quantile(0.8413447460685429) - self.histogram.quantile(0.15865525393145707)) / 2.0


@dataclass(frozen=True)
class RegionPixels:
    """The pixels of each region where some maps all have a value.

    Parameters
    ----------
    regions : tuple of UsedPixels
        One a region.
    factors : tuple of (str, float)
        Maps that must be finite, and what their values are multiplied by.
    """

    regions: tuple[UsedPixels, ...]
    factors: tuple[tuple[str, float], ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """All maps that must be read."""
        own = (name for name, _ in self.factors)
        return tuple(dict.fromkeys((*own, *(name for used in self.regions for name in used.maps))))

    def values(self, tile: int, inputs: Mapping[str, NDArray[Any]]) -> list[dict[str, Floats]]:
        """Return the values of the pixels of each region, by map (cells,) float64.

        Parameters
        ----------
        tile : int
            Which tile.
        inputs : mapping
            (cells,) of each map of `reads`.
        """
        size = inputs[self.factors[0][0]].size
        finite = np.ones(size, bool)
        for name, _ in self.factors:
            finite &= np.isfinite(inputs[name])
        found = []
        for used in self.regions:
            places = np.flatnonzero(finite & used.holds(tile * size, inputs, size))
            found.append({name: inputs[name][places].astype(np.float64) * factor for name, factor in self.factors})
        return found


@dataclass(frozen=True)
class ScatterKernel:
    """The residuals of a target from models, of one tile.

    Parameters
    ----------
    pixels : RegionPixels
        Which pixels, and in which unit.
    target : str
        The map.
    models : tuple of tuple of LinearModel
        (region, model).
    """

    pixels: RegionPixels
    target: str
    models: tuple[tuple[LinearModel, ...], ...]

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> tuple[tuple[Scatter, ...], ...]:
        """Return what is known of target - model, (region, model)."""
        return tuple(
            tuple(Scatter.of(values[self.target] - model(values)) for model in models)
            for values, models in zip(self.pixels.values(tile, inputs), self.models, strict=True)
        )


def merged(left: Any, right: Any) -> Any:
    """Return nested tuples of what merges, merged one by one.

    Examples
    --------
    >>> merged(((Moments(1, 2.0),),), ((Moments(1, 4.0),),))[0][0].mean
    3.0
    """
    if isinstance(left, tuple):
        return tuple(merged(one, other) for one, other in zip(left, right, strict=True))
    return left.merge(right)


def over_tiles(
    kernel: Callable[[int, dict[str, NDArray[Any]]], Any],
    pixels: RegionPixels,
    store: str,
    tiles: Sequence[int],
    run: Run,
    label: str,
) -> Any:
    """Return nested tuples of what a kernel makes of every tile, merged in the order of tiles.

    Parameters
    ----------
    kernel : callable
        `(tile, inputs) -> nested tuples`.
    pixels : RegionPixels
        Which maps are read.
    store : str
        Address of the store.
    tiles : sequence of int
        Which tiles.
    run : Run
        Where and how.
    label : str
        What the progress bar says.

    Raises
    ------
    RunError
        If a tile cannot be read, or there is none.
    """
    return reduce_tiles(
        kernel,
        store=store,
        names=pixels.reads,
        merge=merged,
        tiles=tiles,
        client=run.client,
        threads=run.worker.threads,
        progress=run.progress,
        label=label,
    )


def scatter_numbers(scatters: Sequence[Sequence[Scatter]]) -> dict[str, Floats]:
    """Return scatter, robust scatter and median of residuals, each (region, model) float64 mmag.

    Examples
    --------
    >>> found = scatter_numbers([[Scatter.of(np.arange(5.0))]])
    >>> {name: values.round(2).tolist() for name, values in found.items()}
    {'scatter': [[1.58]], 'robust_scatter': [[1.5]], 'median': [[2.0]]}
    """
    return {
        "scatter": np.array([[each.moments.sigma for each in row] for row in scatters]),
        "robust_scatter": np.array([[each.robust for each in row] for row in scatters]),
        "median": np.array([[each.median for each in row] for row in scatters]),
    }
