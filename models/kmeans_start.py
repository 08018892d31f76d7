"""Where k-means begins: greedy k-means++, and k-means|| for many clusters.

Both draw voxels in proportion to their squared distance from the nearest centre so far, exactly and over all voxels:
the parts (tiles) tell their potentials, the voxel is then drawn inside one part.  Voxels are in the order of pixels,
and of channels within a pixel, so that what is drawn does not depend on how the sky is cut into parts.

Sources: Arthur & Vassilvitskii 2007 (k-means++); its greedy form, as scikit-learn has it, tries 2 + log(k) candidates
a centre and keeps the one with the least potential; Bahmani et al. 2012 (k-means||).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .kmeans_assign import nearest
from .kmeans_statistics import Scaling, Statistics
from .kmeans_voxels import BLOCK, Floats, Moments, VelocityAxis, Voxels

STARTS = ("greedy", "parallel")

# k-means||: so many rounds, each drawing so many voxels a cluster.  The paper finds 5 rounds and 2 k enough.
_ROUNDS, _OVERSAMPLING = 5, 2
_SLAB = 32  # blocks looked at voxel by voxel at a time


class Passes(Protocol):
    """Ways over all voxels, wherever they are; a part is what one of them is done in."""

    @property
    def channels(self) -> VelocityAxis:
        """Velocity channels."""

    def moments(self) -> list[Moments]:
        """Return the moments of the attributes of each part."""

    def statistics(self, scaling: Scaling, sets: Sequence[Floats]) -> list[list[Statistics]]:
        """Return for each part its statistics with each set of centres."""

    def draw(self, scaling: Scaling, centres: Floats | None, amounts: dict[int, Floats]) -> dict[int, Floats]:
        """Return the voxels of parts that stand where the summed potential reaches some amounts; see `draw`."""

    def farthest(self, scaling: Scaling, centres: Floats, number: int) -> list[list[Far]]:
        """Return for each part the voxels that are farthest from their centres; see `farthest`."""


# Distance squared, label, and scaled attributes of a voxel.
type Far = tuple[float, int, Floats]


def start(passes: Passes, scaling: Scaling, k: int, *, seed: int, attempt: int = 0, init: str = "greedy") -> Floats:
    """Return k centres to begin with, (cluster, attribute) float64, scaled.

    Parameters
    ----------
    passes : Passes
        The voxels.
    scaling : Scaling
        Makes the attributes comparable.
    k : int
        How many.
    seed, attempt : int
        Of the random numbers.
    init : {"greedy", "parallel"}
        Greedy k-means++ looks at all voxels k times; k-means|| six times, whatever k is.
    """
    rng = np.random.default_rng((seed, attempt))
    moments = passes.moments()
    counts = np.array([part.count for part in moments], dtype=np.float64)
    centres = _drawn(passes, scaling, None, counts, np.array([float(rng.integers(int(counts.sum()))) + 0.5]))
    if init == "parallel":
        centres = _overseed(passes, scaling, centres, k, rng)
        if len(centres) > k:
            weights = Statistics.of([sets[0] for sets in passes.statistics(scaling, [centres])]).numbers
            return _reduce(centres, weights.astype(np.float64), k, rng)
    tries = 2 + int(math.log(k))
    potential = _potentials(passes, scaling, [centres])[0]
    while len(centres) < k:
        found = _drawn(passes, scaling, centres, potential, rng.random(tries) * math.fsum(potential))
        sets = [np.vstack([centres, each]) for each in found]
        potentials = _potentials(passes, scaling, sets)
        best = min(range(tries), key=lambda place: math.fsum(potentials[place]))
        centres, potential = sets[best], potentials[best]
    return centres


def _potentials(passes: Passes, scaling: Scaling, sets: Sequence[Floats]) -> list[Floats]:
    """Return for each set of centres the summed squared distances in each part, (part,) float64."""
    parts = passes.statistics(scaling, sets)
    return [
        np.array([part[place].inertia(centres, passes.channels, scaling) for part in parts])
        for place, centres in enumerate(sets)
    ]


def _drawn(passes: Passes, scaling: Scaling, centres: Floats | None, potential: Floats, amounts: Floats) -> Floats:
    """Return the voxels at which the potential, summed over parts and in them, reaches some amounts."""
    ends = np.cumsum(potential)
    last = int(np.flatnonzero(potential > 0)[-1]) if potential.any() else 0
    part = np.minimum(np.searchsorted(ends, amounts, side="right"), last)
    within = amounts - (ends[part] - potential[part])
    asked = {int(number): within[part == number] for number in np.unique(part)}
    found = passes.draw(scaling, centres, asked)
    voxels = np.empty((amounts.size, 5))
    for number, attributes in found.items():
        voxels[part == number] = attributes
    return voxels


def _overseed(passes: Passes, scaling: Scaling, centres: Floats, k: int, rng: np.random.Generator) -> Floats:
    """Return the centres of k-means|| before they are reduced: far more than k, spread as the voxels are."""
    for _ in range(_ROUNDS):
        potential = _potentials(passes, scaling, [centres])[0]
        total = math.fsum(potential)
        if total <= 0:
            break
        found = _drawn(passes, scaling, centres, potential, rng.random(_OVERSAMPLING * k) * total)
        centres = np.vstack([centres, np.unique(found, axis=0)])
    return centres


def _reduce(points: Floats, weights: Floats, k: int, rng: np.random.Generator) -> Floats:
    """Return k centres of weighted points: weighted greedy k-means++, then Lloyd until nothing changes."""

    def squared(centres: Floats) -> Floats:
        return ((points[:, None] - centres[None]) ** 2).sum(axis=2)

    def at(cumulative: Floats, amounts: Floats) -> NDArray[np.intp]:
        return np.minimum(np.searchsorted(cumulative, amounts, side="right"), len(points) - 1)

    centres = points[at(np.cumsum(weights), rng.random(1) * weights.sum())]
    closest = squared(centres).min(axis=1)
    while len(centres) < k:
        potential = np.cumsum(weights * closest)
        tried = at(potential, rng.random(2 + int(math.log(k))) * potential[-1])
        remaining = np.minimum(closest[:, None], squared(points[tried]))
        best = int((weights @ remaining).argmin())
        closest = remaining[:, best]
        centres = np.vstack([centres, points[tried[best]]])
    label = None
    for _ in range(100):
        now = squared(centres).argmin(axis=1)
        if label is not None and (now == label).all():
            break
        label = now
        for cluster in range(k):
            mine = label == cluster
            if weights[mine].sum() > 0:
                centres[cluster] = weights[mine] @ points[mine] / weights[mine].sum()
    return centres


def draw(voxels: Voxels, scaling: Scaling, centres: Floats | None, amounts: Floats) -> Floats:
    """Return the voxels at which the potential, summed voxel by voxel, reaches some amounts.

    Parameters
    ----------
    voxels : Voxels
        Of a part.
    scaling : Scaling
        Makes the attributes comparable.
    centres : numpy.ndarray, optional
        (cluster, attribute) float64, scaled: the potential is the squared distance from the nearest.  Without it
        every voxel counts 1.
    amounts : numpy.ndarray
        (draw,) float64.

    Returns
    -------
    numpy.ndarray
        (draw, attribute) float64, scaled.
    """
    potential = np.empty(voxels.blocks * BLOCK)
    for slab in _slabs(voxels):
        cells = slice(slab.start * BLOCK, slab.stop * BLOCK)
        potential[cells] = np.nansum(_potential(voxels, scaling, centres, slab), axis=1).reshape(-1)
    places = _reached(potential, amounts)
    before = np.cumsum(potential) - potential
    found = np.empty((amounts.size, 5))
    for number, (place, amount) in enumerate(zip(places, amounts, strict=True)):
        block, cell = divmod(int(place), BLOCK)
        own = np.nan_to_num(_potential(voxels, scaling, centres, slice(block, block + 1))[0, :, cell])
        channel = int(_reached(own, np.array([amount - before[place]]))[0])
        found[number] = scaling.scaled(_attributes(voxels, block, channel, cell))
    return found


def _reached(potential: Floats, amounts: Floats) -> NDArray[np.intp]:
    """Return where a cumulated potential reaches some amounts, always where there is some potential."""
    some = np.flatnonzero(potential > 0)
    if not some.size:
        return np.zeros(amounts.size, np.intp)
    at = np.searchsorted(np.cumsum(potential[some]), amounts, side="right")
    return some[np.minimum(at, some.size - 1)]


def _potential(voxels: Voxels, scaling: Scaling, centres: Floats | None, slab: slice) -> Floats:
    if centres is None:
        return np.where(np.isfinite(voxels.column[slab]), 1.0, np.nan)
    return nearest(voxels, scaling, centres, slab)[1]


def _attributes(voxels: Voxels, block: int, channel: int, cell: int) -> Floats:
    density = float(voxels.column[block, channel, cell]) / voxels.channels.width[channel]
    return np.array([*voxels.pixels[:3, block * BLOCK + cell], voxels.channels.velocity[channel], density])


def _slabs(voxels: Voxels) -> list[slice]:
    """Return slices over all blocks."""
    return [slice(first, min(first + _SLAB, voxels.blocks)) for first in range(0, voxels.blocks, _SLAB)]


def farthest(voxels: Voxels, scaling: Scaling, centres: Floats, number: int) -> list[Far]:
    """Return the voxels farthest from their centres, farthest first, of equals the first pixel and channel.

    Parameters
    ----------
    voxels : Voxels
        Of a part.
    scaling : Scaling
        Makes the attributes comparable.
    centres : numpy.ndarray
        (cluster, attribute) float64, scaled.
    number : int
        At most so many.

    Returns
    -------
    list of (float, int, numpy.ndarray)
        Squared distance, cluster, and scaled attributes.
    """
    found: list[tuple[float, int, int, int]] = []
    channels = voxels.channels.velocity.size
    for slab in _slabs(voxels):
        label, distance = nearest(voxels, scaling, centres, slab)
        ordered = np.nan_to_num(distance, nan=-1.0).transpose(0, 2, 1).reshape(-1)  # pixel by pixel
        labels = label.transpose(0, 2, 1).reshape(-1)
        few = np.argpartition(-ordered, min(number, ordered.size) - 1)[:number]
        limit = ordered[few].min()
        few = np.flatnonzero(ordered >= max(limit, 0.0))
        few = few[np.argsort(-ordered[few], kind="stable")][:number]
        start = slab.start * BLOCK * channels
        found += [(-float(ordered[place]), start + int(place), int(labels[place]), slab.start) for place in few]
        found = heapq.nsmallest(number, found)
    far: list[Far] = []
    for negative, place, cluster, _ in found:
        pixel, channel = divmod(place, channels)
        block, cell = divmod(pixel, BLOCK)
        far.append((-negative, cluster, scaling.scaled(_attributes(voxels, block, channel, cell))))
    return far
