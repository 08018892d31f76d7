"""Training pixels gathered from the tiles of a store, in bounded memory, the same for any number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking.tiling import Tiling
from ..models.splits import pixel_hash
from .plan import Run
from .reducing import reduce_tiles
from .selection import Selection

_SAMPLE_STREAM = 2  # of the hash; `models.splits` has 0 and 1


@dataclass(frozen=True, eq=False)
class TrainingPixels:
    """Pixels with all bands and the target.

    Parameters
    ----------
    pixels : numpy.ndarray
        (pixel,) int64, NESTED numbers, ascending.
    inputs : numpy.ndarray
        (band, pixel) float32.
    target : numpy.ndarray
        (pixel,) float32.
    counts : dict of str to int
        Pixels of the visited tiles: "selected", and of those "no_coverage" (a map is NaN), "not_positive",
        "not_finite", "usable" (the rest), "taken" (fewer where `max_pixels` says so).
    """

    pixels: NDArray[np.int64]
    inputs: NDArray[np.float32]
    target: NDArray[np.float32]
    counts: dict[str, int]


@dataclass(frozen=True)
class _Piece:
    """What one tile, or several, hold; merged by concatenation in the order of tiles."""

    counts: NDArray[np.int64]
    parts: tuple[tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.float32]], ...] = ()

    def merge(self, other: _Piece) -> _Piece:
        return _Piece(self.counts + other.counts, self.parts + other.parts)


_COUNTED = ("selected", "no_coverage", "not_positive", "not_finite", "usable")


@dataclass(frozen=True)
class _Gather:
    """Kernel: count the usable pixels of a tile, and take those whose hash is below `below` (None: none)."""

    names: tuple[str, ...]
    selection: Selection
    tiling: Tiling
    frame: str
    seed: int
    below: int | None

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> _Piece:
        pixels = self.tiling.pixels(tile)
        columns = [np.asarray(inputs[name], np.float32) for name in self.names]
        with np.errstate(invalid="ignore"):
            missing = np.any([np.isnan(column) for column in columns], axis=0)
            positive = np.all([column > 0 for column in columns], axis=0)
            finite = np.all([np.isfinite(column) for column in columns], axis=0)
        kept = self.selection.holds(
            self.tiling, self.frame, pixels, {name: inputs[name] for name in self.selection.maps}
        )
        usable = kept & positive & finite
        covered = kept & ~missing
        counts = np.array([kept.sum(), (kept & missing).sum(), (covered & ~positive).sum(), 0, usable.sum()], np.int64)
        counts[3] = counts[0] - counts[1] - counts[2] - counts[4]
        if self.below is None:
            return _Piece(counts)
        hashes = pixel_hash(pixels, self.seed, _SAMPLE_STREAM)
        taken = np.flatnonzero(usable & (hashes <= np.uint64(self.below)))
        if not taken.size:
            return _Piece(counts)
        values = np.stack([column[taken] for column in columns])
        return _Piece(counts, ((pixels[taken], hashes[taken], values),))


def gather_training_pixels(
    store: str,
    names: Sequence[str],
    selection: Selection,
    *,
    tiling: Tiling,
    frame: str,
    tiles: Sequence[int],
    max_pixels: int | None,
    seed: int,
    run: Run,
) -> TrainingPixels:
    """Return the pixels where all maps are positive and finite.

    More than `max_pixels` are thinned by a hash of pixel number and seed: the ones with the lowest hashes are
    kept, whatever tile or worker they come from.  The sky is read twice then, once to count.

    Parameters
    ----------
    store : str
        Address of the store.
    names : sequence of str
        Input maps, and the target last.
    selection : Selection
        Pixels that may be used.
    tiling : Tiling
        Of the store.
    frame : str
        Of the store.
    tiles : sequence of int
        Tiles to visit.
    max_pixels : int or None
        Most pixels to return.
    seed : int
        Another seed thins in another way.
    run : Run
        Where the tasks run.
    """

    def go(below: int | None, label: str) -> _Piece:
        return reduce_tiles(
            _Gather(tuple(names), selection, tiling, frame, seed, below),
            store=store,
            names=tuple(dict.fromkeys((*names, *selection.maps))),
            merge=_Piece.merge,
            initial=_Piece(np.zeros(len(_COUNTED), np.int64)),
            tiles=tiles,
            client=run.client,
            threads=run.worker.threads,
            progress=run.progress,
            label=label,
        )

    everything = 2**64 - 1
    below = everything
    if max_pixels is not None and len(tiles) * tiling.tile_npix > max_pixels:
        usable = int(go(None, "count training pixels").counts[-1])
        if usable > max_pixels:
            # A little more than wanted, by eight standard deviations, so that the exact cut below can be made.
            wanted = max_pixels + 8.0 * np.sqrt(max_pixels) + 8.0
            below = min(everything, int(wanted / usable * 2.0**64))
    found = go(below, "gather training pixels")
    counts = {key: int(number) for key, number in zip(_COUNTED, found.counts, strict=True)}
    if not found.parts:
        nothing = np.empty((len(names), 0), np.float32)
        return TrainingPixels(np.empty(0, np.int64), nothing[:-1], nothing[-1], {**counts, "taken": 0})
    pixels = np.concatenate([part[0] for part in found.parts])
    values = np.concatenate([part[2] for part in found.parts], axis=1)
    if max_pixels is not None and len(pixels) > max_pixels:
        hashes = np.concatenate([part[1] for part in found.parts])
        lowest = np.sort(np.argpartition(hashes, max_pixels - 1)[:max_pixels])
        pixels, values = pixels[lowest], values[:, lowest]
    return TrainingPixels(pixels, values[:-1], values[-1], {**counts, "taken": len(pixels)})
