"""Smoothing over the whole sphere: a_lm times the beam, and normalised convolution where pixels are missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..chunking.schema import MapInfo
from ..chunking.tiling import Tiling
from .beams import gaussian_beam
from .fields import Field, Place
from .ledger import read_held
from .mapping import Kernel
from .rings import Layout, largest_task
from .staged_maps import PIXELS, Pieces, divide_by_share, pixel_memory, through_harmonics
from .stages import Stages
from .transform_cost import Cost

# Where the beam ends: what it lets through beyond is below the rounding of float32.
NEGLIGIBLE: Final = 1e-8
WEIGHTS: Final = "weights-"  # before the names of the stages that the weights go through


@dataclass(frozen=True)
class Smoothed:
    """One map to be smoothed.

    Parameters
    ----------
    info : MapInfo
        The map.
    made : MapInfo
        What is written.
    kernel : float
        FWHM in radian.
    """

    info: MapInfo
    made: MapInfo
    kernel: float


@dataclass(frozen=True)
class SmoothKernel:
    """Puts tiles together, divides by the smoothed weights, and keeps what had no value without.

    Parameters
    ----------
    pixels, shares : Pieces
        What the stages left: of the maps, and of the weights.
    source : str
        Store of the maps.
    maps : tuple of (str, str, str)
        Map, what is written, and the field of its smoothed weights: empty where every pixel counts fully.
    least_weight : float
        Below it there is no value.
    """

    pixels: Pieces
    shares: Pieces
    source: str
    maps: tuple[tuple[str, str, str], ...]
    least_weight: float

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the smoothed maps of a tile."""
        made = {}
        npix = self.pixels.layout.tiling.tile_npix
        for name, written, share in self.maps:
            values = self.pixels.tile(name, tile)
            if share:
                divide_by_share(values, self.shares.tile(share, tile), self.least_weight)
                known = read_held(self.source, name, tile * npix, (tile + 1) * npix)
                values[~np.isfinite(known)] = np.nan
            made[written] = values.astype(np.float32, copy=False)
        return made


def natural_lmax(tiling: Tiling, fwhm: float) -> int:
    """Return the degree at which a Gaussian beam falls below 1e-8, at most 3 nside - 1.

    Parameters
    ----------
    tiling : Tiling
        Of the map.
    fwhm : float
        Radian.

    Examples
    --------
    >>> natural_lmax(Tiling(2048), 0.005), natural_lmax(Tiling(64), 0.005)
    (2859, 191)
    """
    sigma = fwhm / math.sqrt(8.0 * math.log(2.0))
    return min(3 * tiling.nside - 1, math.ceil(math.sqrt(-2.0 * math.log(NEGLIGIBLE)) / sigma))


@dataclass(frozen=True, eq=False)
class Harmonic:
    """The harmonic way.

    Parameters
    ----------
    source : str
        Store of the maps.
    maps : tuple of Smoothed
        The maps.
    weight : (str, str), optional
        Store and name of the mask.
    target : Tiling
        Tiles that are written.
    ring_weights : bool
        See `BandTask`.
    iterations : int
        Rounds of least squares.
    least_weight : float
        See `SmoothKernel`.
    """

    source: str
    maps: tuple[Smoothed, ...]
    weight: Place | None
    target: Tiling
    ring_weights: bool
    iterations: int
    least_weight: float

    def make(self, stages: Stages, layout: Layout) -> Kernel:
        """Do the stages and return what puts a tile together.

        Parameters
        ----------
        stages : Stages
            Of the run.
        layout : Layout
            The transform.
        """
        names = [each.info.name for each in self.maps]
        fields = [Field(name, (self.source, name), self.weight) for name in names]
        kernels = [each.kernel for each in self.maps]
        noted = self._convolve(stages, layout, fields, kernels, "")
        shares: dict[str, tuple[Field, float]] = {}
        labels = []
        for field, kernel in zip(fields, kernels, strict=True):
            holes = sum(facts["missing"][field.label] for facts in noted) > 0
            if not holes and self.weight is None:
                labels.append("")
                continue
            # Maps without holes of their own share the weights of the mask, where their beams are the same.
            label = field.label if holes else f"mask-{kernel!r}"
            shares[label] = (
                replace(field, label=label, present=True) if holes else Field(label, None, self.weight),
                kernel,
            )
            labels.append(label)
        if shares:
            self._convolve(
                stages, layout, [one for one, _ in shares.values()], [k for _, k in shares.values()], WEIGHTS
            )
        pixels = Pieces(replace(layout, tiling=self.target), stages.scratch, PIXELS)
        written = [each.made.name for each in self.maps]
        maps = tuple(zip(names, written, labels, strict=True))
        return SmoothKernel(pixels, replace(pixels, stage=WEIGHTS + PIXELS), self.source, maps, self.least_weight)

    def _convolve(
        self, stages: Stages, layout: Layout, fields: Sequence[Field], kernels: Sequence[float], name: str
    ) -> list[dict[str, Any]]:
        """Bring fields to pieces of smoothed pixels, and return what the bands noted."""
        return through_harmonics(
            stages,
            layout,
            replace(layout, tiling=self.target),
            fields,
            [gaussian_beam(kernel, layout.lmax) for kernel in kernels],
            ring_weights=self.ring_weights,
            iterations=self.iterations,
            name=name,
        )

    def cost(self, layout: Layout) -> Cost:
        """Return what the stages and the tiles cost, without holes that only the stages will find.

        Parameters
        ----------
        layout : Layout
            The transform.
        """
        onto = replace(layout, tiling=self.target)
        fields = len(self.maps) * (1 if self.weight is None else 2)
        return Cost().there_and_back(layout, onto, fields, self.iterations).tiles(onto, fields)

    def memory(self, layout: Layout) -> dict[str, int]:
        """Return the bytes of the most demanding task of the stages, by part.

        Parameters
        ----------
        layout : Layout
            The transform.
        """
        fields = len(self.maps)
        band = layout.band_memory(0 if self.weight is None else 1, iterated=self.iterations > 0)
        return largest_task(band, layout.block_memory(fields), pixel_memory(replace(layout, tiling=self.target)))


def harmonic_cost(tiling: Tiling, lmax: int, maps: int, *, masked: bool, iterations: int, precision: str) -> float:
    """Return the seconds of one core of the reference machine that the harmonic way takes.

    Of the reference machine, for the way that is chosen by it is part of what made a map.

    Parameters
    ----------
    tiling : Tiling
        Of the maps.
    lmax : int
        Largest degree.
    maps : int
        How many.
    masked : bool
        Whether the weights are smoothed too.
    iterations : int
        Rounds of least squares.
    precision : {"single", "double"}
        Of the numbers.
    """
    layout = Layout.of(tiling, lmax, precision)
    fields = maps * (2 if masked else 1)
    return Cost().there_and_back(layout, layout, fields, iterations).tiles(layout, fields).total
