"""The one pass over the sky behind an evaluation: what a tile contributes, and how contributions merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.tiling import Tiling
from .metrics import PairStatistics, RatioStatistics, measure_pair, measure_ratio, merge_groups
from .plan import Run
from .reducing import reduce_tiles
from .selection import Selection

# Small enough that the float64 temporaries of a block stay in the cache's reach, whatever the size of a tile.
BLOCK = 1 << 17
# Measured: fewer than twenty arrays of eight bytes a pixel are alive at once.
BLOCK_BYTES = BLOCK * 8 * 24
# Occupied bins of a tile's histograms, over all surveys: a few hundred kilobytes; this leaves room for wild data.
STATISTICS_BYTES = 20_000_000


@dataclass(frozen=True)
class Pair:
    """A prediction and its target.

    Parameters
    ----------
    label : str
        Name of the band.
    prediction, target : str
        Maps.
    mask : str or None
        Map that is 0 where a pixel may be used.
    low_cut : float or None
        Pixels with a fainter target are left out.
    """

    label: str
    prediction: str
    target: str
    mask: str | None = None
    low_cut: float | None = None


@dataclass(frozen=True)
class Ratio:
    """A ratio of two maps.

    Parameters
    ----------
    kind : str
        What is divided, for legends.
    numerator, denominator : str
        Maps.
    masks : tuple of str
        Maps that are 0 where a pixel may be used.
    """

    kind: str
    numerator: str
    denominator: str
    masks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inherited:
    """A coarse map whose values are handed down to the pixels of a finer store.

    Parameters
    ----------
    store : str
        Address of the coarse store.
    shift : int
        A pixel's parent is its number shifted down by so many bits.
    """

    store: str
    shift: int

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Return the values of the parents of the fine pixels [start, stop)."""
        first = start >> self.shift
        parents = stores.read_cells(self.store, name, first, ((stop - 1) >> self.shift) + 1)
        inherited: NDArray[Any] = parents[(np.arange(start, stop, dtype=np.int64) >> self.shift) - first]
        return inherited


@dataclass(frozen=True, eq=False)
class Gathered:
    """Statistics by band or kind of ratio, and by survey code (0 where there are none)."""

    pairs: Mapping[str, Mapping[int, PairStatistics]] = field(default_factory=dict)
    ratios: Mapping[str, Mapping[int, RatioStatistics]] = field(default_factory=dict)

    def merge(self, other: Gathered) -> Gathered:
        """Return the statistics of both sets of pixels together."""
        labels = dict.fromkeys([*self.pairs, *other.pairs])
        kinds = dict.fromkeys([*self.ratios, *other.ratios])
        return Gathered(
            {label: merge_groups(self.pairs.get(label, {}), other.pairs.get(label, {})) for label in labels},
            {kind: merge_groups(self.ratios.get(kind, {}), other.ratios.get(kind, {})) for kind in kinds},
        )


@dataclass(frozen=True)
class Measure:
    """Kernel: the statistics of one tile.

    Parameters
    ----------
    pairs : tuple of Pair
    ratios : tuple of Ratio
    by : str or None
        Map of survey codes.
    limit : float
        See `measure_pair`.
    tiling : Tiling
        Of the store that it runs over.
    frame : str
        Of that store.
    selection : Selection
        Pixels that count.
    inherited : Inherited, optional
        Where maps of `handed_down` are read.
    handed_down : frozenset of str
        Maps of the coarse store.
    """

    pairs: tuple[Pair, ...]
    ratios: tuple[Ratio, ...]
    by: str | None
    limit: float
    tiling: Tiling
    frame: str
    selection: Selection = field(default_factory=Selection)
    inherited: Inherited | None = None
    handed_down: frozenset[str] = frozenset()

    def reads(self) -> tuple[str, ...]:
        """Return the maps that the kernel wants of the store it runs over."""
        names: list[str | None] = [self.by, *self.selection.maps]
        for pair in self.pairs:
            names += [pair.prediction, pair.target, pair.mask]
        for ratio in self.ratios:
            names += [ratio.numerator, ratio.denominator, *ratio.masks]
        return tuple(dict.fromkeys(n for n in names if n is not None and n not in self.handed_down))

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> Gathered:
        """Return what the tile contributes, block by block."""
        gathered = Gathered()
        length = self.tiling.tile_npix
        for start in range(0, length, BLOCK):
            stop = min(start + BLOCK, length)
            block = {name: values[start:stop] for name, values in inputs.items()}
            offset = tile * length
            for name in self.handed_down:
                assert self.inherited is not None
                block[name] = self.inherited.read(name, offset + start, offset + stop)
            gathered = gathered.merge(self._block(self._selected(block, offset + start, offset + stop)))
        return gathered

    def _selected(self, block: dict[str, NDArray[Any]], start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return the block with only the pixels that count."""
        if not (self.selection.maps or self.selection.needs_positions):
            return block
        pixels = np.arange(start, stop, dtype=np.int64)
        kept = self.selection.holds(self.tiling, self.frame, pixels, block)
        return {name: values[kept] for name, values in block.items()}

    def _block(self, block: Mapping[str, NDArray[Any]]) -> Gathered:
        pairs: dict[str, dict[int, PairStatistics]] = {}
        ratios: dict[str, dict[int, RatioStatistics]] = {}
        for pair in self.pairs:
            prediction, target = block[pair.prediction], block[pair.target]
            masked = None if pair.mask is None else block[pair.mask] != 0
            pairs[pair.label] = {
                code: measure_pair(
                    prediction[chosen],
                    target[chosen],
                    None if masked is None else masked[chosen],
                    low_cut=pair.low_cut,
                    limit=self.limit,
                )
                for code, chosen in self._groups(block, np.isfinite(prediction) | np.isfinite(target))
            }
        for ratio in self.ratios:
            above, below = block[ratio.numerator], block[ratio.denominator]
            usable = np.isfinite(above) & np.isfinite(below)
            for mask in ratio.masks:
                usable &= block[mask] == 0
            ratios[ratio.kind] = {
                code: measure_ratio(above[chosen], below[chosen]) for code, chosen in self._groups(block, usable)
            }
        return Gathered(pairs, ratios)

    def _groups(
        self, block: Mapping[str, NDArray[Any]], usable: NDArray[np.bool_]
    ) -> list[tuple[int, slice | NDArray[np.int64]]]:
        """Return the codes that come with usable pixels, and where; nothing where there are none."""
        if not usable.any():
            return []
        if self.by is None:
            return [(0, slice(None))]
        codes = block[self.by]
        present = np.flatnonzero(np.bincount(codes[usable], minlength=256))
        return [(int(code), np.flatnonzero((codes == code) & usable)) for code in present]


def tiles_to_visit(store: str, measure: Measure) -> tuple[int, ...]:
    """Return the tiles where some pair or ratio can have both of its maps."""
    pairs = [(p.prediction, p.target) for p in measure.pairs] + [(r.numerator, r.denominator) for r in measure.ratios]
    tiles: set[int] = set()
    for pair in pairs:
        tiles |= set(stores.observed_tiles(store, pair))
    return measure.selection.tiles(measure.tiling, measure.frame, tuple(sorted(tiles)))


def gather(store: str, measure: Measure, tiles: Sequence[int], run: Run, label: str) -> Gathered:
    """Return the statistics of all tiles, merged in their order."""
    return reduce_tiles(
        measure,
        store=store,
        names=measure.reads(),
        merge=Gathered.merge,
        initial=Gathered(),
        tiles=tiles,
        client=run.client,
        threads=run.worker.threads,
        progress=run.progress,
        label=label,
    )


def task_memory(tiling: Tiling, measure: Measure, dtypes: Mapping[str, str]) -> dict[str, int]:
    """Return the bytes that one task needs, by part."""
    width = sum(1 if dtypes.get(name) == "uint8" else 4 for name in measure.reads())
    return {
        "inputs": width * tiling.tile_npix,
        "block": BLOCK_BYTES,
        "statistics": STATISTICS_BYTES * max(1, len(measure.pairs)),
    }
