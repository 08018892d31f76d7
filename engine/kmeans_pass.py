"""Passes over the voxels of a store's cube: a task reads a tile, or has it in memory still, and sends sums back."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..models import kmeans_labels, kmeans_start
from ..models.kmeans import Moments, Scaling, Statistics, VelocityAxis, Voxels
from ..models.kmeans_assign import statistics
from ..models.kmeans_start import Far
from .kmeans_cube import CubeReader as CubeReader
from .ledger import read_held
from .plan import Run
from .reducing import reduce_tiles
from .used_pixels import UsedPixels

if TYPE_CHECKING:
    from .kmeans_request import KmeansRequest

type Floats = NDArray[np.float64]

# A pass that is shorter is sent out in as few tasks as there are threads: each takes some 5 ms of the scheduler.  In a
# longer one, several tasks a thread let idle workers help.
_BRISK_SECONDS = 2.0
_EACH_ALONE = 2**31


class _Kept:
    """Voxels that this process keeps between passes, of one cube and mask at a time."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.forget("")

    def forget(self, key: str) -> None:
        """Begin anew, for other voxels."""
        with self._lock:
            self._key, self._tiles, self._bytes = key, dict[int, Voxels](), 0

    def get(self, key: str, tile: int) -> Voxels | None:
        """Return the voxels of a tile, or None where they are not kept."""
        with self._lock:  # another clustering may change key and voxels between the two looks
            return self._tiles.get(tile) if key == self._key else None

    def keep(self, key: str, tile: int, voxels: Voxels, budget: int) -> None:
        """Keep the voxels of a tile if they fit; who came first stays, since every pass wants all of them in turn."""
        with self._lock:
            if key != self._key:
                self.forget(key)
            if tile not in self._tiles and self._bytes + voxels.nbytes <= budget:
                self._tiles[tile] = voxels
                self._bytes += voxels.nbytes


_KEPT = _Kept()


def forget_voxels() -> None:
    """Give back the memory of voxels that this process keeps."""
    _KEPT.forget("")


@dataclass(frozen=True)
class Source:
    """Where the voxels of a tile come from.

    Parameters
    ----------
    cube : CubeReader
        The cube.
    used : UsedPixels
        Which pixels.
    key : str
        Stands for the voxels, see `KmeansRequest.key`.
    budget : int
        Bytes of voxels that a process may keep.
    """

    cube: CubeReader
    used: UsedPixels
    key: str
    budget: int

    @classmethod
    def of(cls, request: KmeansRequest, budget: int) -> Source:
        """Return the source of what is asked for."""
        return cls(request.cube, request.used, request.key() if budget else "", budget)

    def voxels(self, tile: int) -> Voxels:
        """Return the used voxels of a tile, kept or read."""
        kept = _KEPT.get(self.key, tile) if self.budget else None
        if kept is not None:
            return kept
        size = self.used.tiling.tile_npix
        start, stop = tile * size, (tile + 1) * size
        names = dict.fromkeys((self.cube.name, *self.used.maps))
        made = self.made(tile, {name: read_held(self.used.store, name, start, stop, verify="once") for name in names})
        if self.budget:
            _KEPT.keep(self.key, tile, made, self.budget)
        return made

    def made(self, tile: int, inputs: dict[str, NDArray[Any]], *, everywhere: bool = False) -> Voxels:
        """Return the voxels of a tile that has been read.

        Parameters
        ----------
        tile : int
            Its number.
        inputs : dict
            The cube (channel, cells) and the maps of the used pixels.
        everywhere : bool
            Whether all pixels count as used.
        """
        values = inputs[self.cube.name]
        size = values.shape[1]
        used = None if everywhere else self.used.holds(tile * size, inputs, size)
        return self.cube.voxels(tile, used, values)


@dataclass(frozen=True)
class _Work[S]:
    """Kernel of a pass: does something with the voxels of a tile."""

    source: Source
    task: Callable[[int, Voxels], S]

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[int, S]:
        return {tile: self.task(tile, self.source.voxels(tile))}


@dataclass
class OverTiles:
    """The passes of `models.kmeans` over the tiles of a store; a part is a tile.

    Parameters
    ----------
    source : Source
        Where voxels come from.
    tiles : sequence of int
        Which tiles may have some.
    run : Run
        How to go.
    """

    source: Source
    tiles: Sequence[int]
    run: Run
    pixels: int = field(default=0, init=False)  # with voxels; known after `moments`
    _moments: list[Moments] = field(default_factory=list, init=False)
    _tasks: int = field(default=_EACH_ALONE, init=False)  # a thread; until voxels are kept, a tile is a task

    @property
    def channels(self) -> VelocityAxis:
        """Velocity channels."""
        return self.source.cube.channels

    def moments(self) -> list[Moments]:
        """Return the moments of the attributes of each tile; those without voxels are left out from then on."""
        if not self._moments and self.tiles:
            found = self._go(_moments_of, self.tiles, "voxels", self.run.progress)
            self.tiles = [tile for tile, (moments, _) in found.items() if moments.count]
            self._moments = [found[tile][0] for tile in self.tiles]
            self.pixels = sum(pixels for _, pixels in found.values())
        return self._moments

    def statistics(self, scaling: Scaling, sets: Sequence[Floats]) -> list[list[Statistics]]:
        """Return for each tile its statistics with each set of centres."""
        found = self._go(functools.partial(_statistics_of, scaling, list(sets)), self.tiles, "k-means")
        return [found[tile] for tile in self.tiles]

    def draw(self, scaling: Scaling, centres: Floats | None, amounts: dict[int, Floats]) -> dict[int, Floats]:
        """Return the voxels of tiles that stand where the summed potential reaches some amounts."""
        asked = {self.tiles[part]: wanted for part, wanted in amounts.items()}
        found = self._go(functools.partial(_drawn_from, scaling, centres, asked), sorted(asked), "draw")
        return {part: found[self.tiles[part]] for part in amounts}

    def farthest(self, scaling: Scaling, centres: Floats, number: int) -> list[list[Far]]:
        """Return for each tile the voxels that are farthest from their centres."""
        found = self._go(functools.partial(_farthest_of, scaling, centres, number), self.tiles, "farthest voxels")
        return [found[tile] for tile in self.tiles]

    def contingency(self, scaling: Scaling, sets: Sequence[Floats]) -> dict[tuple[int, int], NDArray[np.int64]]:
        """Return the voxels in cluster i of one set of centres and j of another, for every pair of sets."""
        found = self._go(functools.partial(_contingency_of, scaling, list(sets)), self.tiles, "agreement")
        pairs = next(iter(found.values()))
        return {pair: np.sum([tables[pair] for tables in found.values()], axis=0) for pair in pairs}

    def forget(self) -> None:
        """Give back the memory of voxels that were kept, here and on workers."""
        forget_voxels()
        if self.run.client is not None and self.source.budget:
            self.run.client.run(forget_voxels, on_error="ignore")

    def _go[S](
        self, task: Callable[[int, Voxels], S], tiles: Sequence[int], label: str, progress: bool | None = False
    ) -> dict[int, S]:
        """Return what a task makes of each tile; iterations are too short for a bar of their own."""
        begin: dict[int, S] = {}
        began = time.perf_counter()
        found = reduce_tiles(
            _Work(self.source, task),
            store=self.source.cube.store,
            names=(),
            merge=_both,
            initial=begin,
            tiles=tiles,
            client=self.run.client,
            threads=self.run.worker.threads,
            progress=progress,
            label=label,
            tasks_a_thread=self._tasks if self.source.budget else None,
        )
        self._tasks = 1 if time.perf_counter() - began < _BRISK_SECONDS else 3
        return found


def _both[S](left: dict[int, S], right: dict[int, S]) -> dict[int, S]:
    """Put results together; the left is the growing whole, and its own from the beginning."""
    left.update(right)
    return left


def _moments_of(tile: int, voxels: Voxels) -> tuple[Moments, int]:
    return voxels.moments, int(voxels.places.size)


def _statistics_of(scaling: Scaling, sets: list[Floats], tile: int, voxels: Voxels) -> list[Statistics]:
    return [statistics(voxels, scaling, centres) for centres in sets]


def _drawn_from(
    scaling: Scaling, centres: Floats | None, asked: dict[int, Floats], tile: int, voxels: Voxels
) -> Floats:
    return kmeans_start.draw(voxels, scaling, centres, asked[tile])


def _farthest_of(scaling: Scaling, centres: Floats, number: int, tile: int, voxels: Voxels) -> list[Far]:
    return kmeans_start.farthest(voxels, scaling, centres, number)


def _contingency_of(
    scaling: Scaling, sets: list[Floats], tile: int, voxels: Voxels
) -> dict[tuple[int, int], NDArray[np.int64]]:
    return kmeans_labels.contingency(voxels, scaling, sets)
