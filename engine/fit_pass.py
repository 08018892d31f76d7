"""One pass over the sky for a fit: every tile becomes the normal equations of its parts, in every region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError
from ..models.gls import NormalEquations, level_of, two_sum
from ..models.gls_blocks import Blocks, shifted
from .fit_request import FitRequest
from .given_noise import WhiteNoise
from .plan import Run
from .reducing import reduce_tiles
from .used_pixels import UsedPixels
from .worker import keep_freed_memory

type Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sums:
    """Moments of the parts of a tile that lie in a region.

    Parameters
    ----------
    region : int
        Which.
    parts : ndarray
        (part,) int64: their numbers, NESTED super-pixels.
    counts : ndarray
        (part,) int64: pixels used.
    moments : ndarray
        (part, group, column, column) float64; see `NormalEquations`.
    reference : ndarray
        (template and band,) float64
    """

    region: int
    parts: NDArray[np.int64]
    counts: NDArray[np.int64]
    moments: Floats
    reference: Floats


type Gathered = tuple[tuple[Sums, ...], int]  # sums in order of tiles, and pixels whose noise is no noise


@dataclass(frozen=True)
class FitKernel:
    """Turns the maps of a tile into the sums of its parts; small, and the same for all tiles.

    Parameters
    ----------
    templates, targets : tuple of str
        Maps.
    weights : tuple of WhiteNoise or None
        None, one for all targets, or one a target.
    regions : tuple of UsedPixels
        Pixels.
    part_cells : int
        Pixels of a super-pixel; 0 where all pixels of the sky are one part.
    shifts : bool
        Whether columns are summed about a level of theirs; of use where there is an offset.
    """

    templates: tuple[str, ...]
    targets: tuple[str, ...]
    weights: tuple[WhiteNoise | None, ...]
    regions: tuple[UsedPixels, ...]
    part_cells: int
    shifts: bool

    def blocks(self, tile_npix: int) -> Blocks:
        """Return what sums blocks of cells of a tile."""
        length = min(self.part_cells or tile_npix, tile_npix)
        return Blocks(len(self.templates), len(self.targets), max(1, len(self.weights)), length, tile_npix)

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> Gathered:
        """Return the sums of a tile."""
        keep_freed_memory()
        names = (*self.templates, *self.targets)
        size = inputs[names[0]].size
        blocks = self.blocks(size)
        first = tile * size
        sums: dict[int, _Parts] = {}
        wrong = 0
        for start in range(0, size, blocks.cells):
            inside = {name: values[start : start + blocks.cells] for name, values in inputs.items()}
            weights: list[NDArray[Any]] | None = None
            doubtful: NDArray[np.bool_] | None = None
            for number, region in enumerate(self.regions):
                used = region.holds(first + start, inside, blocks.cells)
                if not used.any():
                    continue
                everywhere = None if used.all() else used
                if number not in sums:
                    levels = [level_of(inside[name], everywhere) if self.shifts else 0.0 for name in names]
                    sums[number] = _Parts(np.array(levels))
                if weights is None:
                    weights = [pixel_weights(noise, inside, blocks.cells) for noise in self.weights]
                moments, counts, bad = blocks(
                    [inside[name] for name in self.templates],
                    [inside[name] for name in self.targets],
                    weights,
                    everywhere,
                    sums[number].reference,
                )
                if bad:
                    doubtful = used if doubtful is None else doubtful | used
                part = (first + start) // self.part_cells if self.part_cells else 0
                sums[number].add(part, moments, counts)
            if doubtful is not None and weights is not None:  # regions may overlap: pixels count once
                wrong += _without_noise([inside[name] for name in names], weights, doubtful)
        return tuple(each.close(number) for number, each in sorted(sums.items())), wrong


def _without_noise(maps: list[NDArray[Any]], weights: list[NDArray[Any]], used: NDArray[np.bool_]) -> int:
    """Return how many used pixels have a value in all maps, but a weight that is not positive and finite."""
    finite = used & np.all([np.isfinite(values) for values in maps], axis=0)
    good = np.all([(values > 0) & (values < np.inf) for values in weights], axis=0)
    return int(np.count_nonzero(finite & ~good))


class _Parts:
    """What comes of a region in one tile, part by part."""

    def __init__(self, reference: Floats) -> None:
        self.reference = reference
        self._parts: list[int] = []
        self._counts: list[int] = []
        self._moments: list[Floats] = []
        self._lost: Floats | None = None

    def add(self, first: int, moments: Floats, counts: NDArray[np.int64]) -> None:
        for place in np.flatnonzero(counts):
            part = first + int(place)
            if self._parts and self._parts[-1] == part:  # a part of several blocks
                self._moments[-1], lost = two_sum(self._moments[-1], moments[place])
                self._lost = lost if self._lost is None else self._lost + lost
                self._counts[-1] += int(counts[place])
                continue
            self._settle()
            self._parts.append(part)
            self._counts.append(int(counts[place]))
            self._moments.append(moments[place])

    def _settle(self) -> None:
        if self._lost is not None:
            self._moments[-1] = self._moments[-1] + self._lost
        self._lost = None

    def close(self, region: int) -> Sums:
        self._settle()
        counts = np.array(self._counts, np.int64)
        moments = np.array(self._moments) if self._moments else np.empty((0, 0, 0, 0))
        return Sums(region, np.array(self._parts, np.int64), counts, moments, self.reference)


def pixel_weights(noise: WhiteNoise | None, inside: Mapping[str, NDArray[Any]], size: int) -> NDArray[Any]:
    """Return 1 / variance, NaN where the map holds no noise; ones where the residuals are to say it."""
    if noise is None or noise.name is None:
        return np.broadcast_to(np.float64(1.0 if noise is None else noise.factor**-2), (size,))
    values = inside[noise.name].astype(np.float64)
    # Infinite noise would be a weight of 0: a pixel that counts among those used and says nothing.
    values[~((values > 0) & (values < np.inf))] = np.nan
    values *= noise.factor
    if not noise.squared:
        values *= values
    weights: Floats = np.divide(1.0, values, out=values)
    return weights


@dataclass(frozen=True, eq=False)
class RegionSums:
    """What a pass has found in one region, over all tiles.

    Parameters
    ----------
    total : NormalEquations
        Of all parts.
    parts : ndarray
        (part,) int64: super-pixels, ascending.
    counts : ndarray
        (part,) int64: pixels used.
    moments : ndarray
        (part, group, column, column) float64, with the reference of the total.
    """

    total: NormalEquations
    parts: NDArray[np.int64]
    counts: NDArray[np.int64]
    moments: Floats


def tiles_of(request: FitRequest) -> list[int]:
    """Return the tiles that may hold used pixels, ascending."""
    # Where noise is missing beside them, the pass must see it and say so.
    observed = stores.observed_tiles(request.store, (*request.templates, *request.targets))
    return sorted({tile for _, used in request.regions for tile in used.tiles(observed)})


def kernel_of(request: FitRequest) -> FitKernel:
    """Return the kernel of a request."""
    return FitKernel(
        request.templates,
        request.targets,
        request.weights,
        tuple(used for _, used in request.regions),
        request.part_cells if request.part_nside is not None else 0,
        request.offset,
    )


def gather(request: FitRequest, run: Run) -> list[RegionSums | None]:
    """Return the sums of every region, None for one without pixels.

    Raises
    ------
    InputError
        If the noise of a used pixel is zero, negative, not finite or missing.
    """
    start: Gathered = ((), 0)
    sums, wrong = reduce_tiles(
        kernel_of(request),
        store=request.store,
        names=request.reads,
        merge=lambda left, right: ((*left[0], *right[0]), left[1] + right[1]),
        initial=start,
        tiles=tiles_of(request),
        client=run.client,
        threads=run.worker.threads,
        progress=run.progress,
        label="fit",
    )
    if wrong:
        listed = " or ".join(map(repr, request.noise_maps))
        condition = " and ".join(f"0 < {name} < 1e38" for name in request.noise_maps)
        raise InputError(
            f"in {wrong} pixels where all templates and targets have a value, noise map {listed} is zero, negative, "
            f'infinite or has none; noise is above 0. Leave these pixels out with region="{condition}", or mend the '
            "map."
        )
    return [
        _collect(request, [each for each in sums if each.region == n and each.parts.size])
        for n in range(len(request.regions))
    ]


def _collect(request: FitRequest, sums: list[Sums]) -> RegionSums | None:
    if not sums:
        return None
    templates, reference = len(request.templates), sums[0].reference
    numbers = np.concatenate([each.parts for each in sums])
    counts = np.concatenate([each.counts for each in sums])
    moments = np.concatenate([shifted(each.moments, each.reference, reference, templates) for each in sums])
    parts = np.unique(numbers)
    # Tiles come in their order, and so do their parts: where each is one piece, no copy is made of what may be large.
    if parts.size < numbers.size:  # tiles are smaller than parts: those of one part follow each other
        whole = [
            _merged(moments[numbers == part], counts[numbers == part], reference, templates) for part in parts.tolist()
        ]
        moments = np.array([each.total for each in whole])
        counts = np.array([each.count for each in whole], np.int64)
    return RegionSums(_merged(moments, counts, reference, templates), parts, counts, moments)


def _merged(moments: Floats, counts: NDArray[np.int64], reference: Floats, templates: int) -> NormalEquations:
    total, lost = moments[0], np.zeros_like(moments[0])
    for each in moments[1:]:
        total, rest = two_sum(total, each)
        lost += rest
    return NormalEquations(total, reference, templates, int(counts.sum()), lost)


@dataclass(frozen=True)
class CoverageKernel:
    """Counts the pixels of a region, and those where each map has a value."""

    names: tuple[str, ...]
    region: UsedPixels

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """Return (1 + map,) int64."""
        size = inputs[self.names[0]].size
        used = self.region.holds(tile * size, inputs, size)
        finite = [np.count_nonzero(used & np.isfinite(inputs[name])) for name in self.names]
        return np.array([np.count_nonzero(used), *finite], np.int64)


def why_empty(request: FitRequest, number: int, run: Run) -> str:
    """Return why a region holds no pixel to fit: which map has no value there, or that there is no pixel at all.

    Parameters
    ----------
    request : FitRequest
        What was asked for.
    number : int
        Of the region.
    run : Run
        Where to look, once more over the sky.
    """
    name, region = request.regions[number]
    at = "" if name is None else f" of region {name!r}"
    names = tuple(dict.fromkeys((*request.values, *region.maps)))
    counts = reduce_tiles(
        CoverageKernel(request.values, region),
        store=request.store,
        names=names,
        merge=lambda left, right: left + right,
        initial=np.zeros(1 + len(request.values), np.int64),
        tiles=region.tiles(tuple(range(request.tiling.n_tiles))),
        client=run.client,
        threads=run.worker.threads,
        progress=False,
    )
    inside = int(counts[0])
    if not inside:
        return f"mask and region leave no pixel{at}. Give another mask or region."
    empty = [each for each, count in zip(request.values, counts[1:], strict=True) if not count]
    if empty:
        return (
            f"map {', '.join(map(repr, empty))} has no value (NaN) in any of the {inside} pixels{at} that mask and "
            "region leave. Leave it out, or give another mask or region."
        )
    return (
        f"of the {inside} pixels{at} that mask and region leave, there is none where all maps have a value: "
        + ", ".join(f"{each} {count}" for each, count in zip(request.values, counts[1:], strict=True))
        + ". Leave out the map with least coverage."
    )
