"""k-means over the voxels of a position-position-velocity cube: Lloyd's iterations, labels, and how labels agree.

Cheng et al. 2025, appendix A: attributes x, y, z, v, n standardised (eq. A1) and weighted (eq. A2, with w^2 in the
squared distance, so that coordinates are multiplied by w [G]).  Everything works on arrays; `engine/kmeans.py` goes
over a store.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError, nearest
from .kmeans_assign import statistics
from .kmeans_labels import adjusted_rand_index, cluster_columns, contingency, labels
from .kmeans_start import STARTS, Far, Passes, draw, farthest, start
from .kmeans_statistics import Scaling, Statistics
from .kmeans_voxels import ATTRIBUTES, Floats, Moments, VelocityAxis, Voxels, bytes_of_voxels

__all__ = [
    "ATTRIBUTES",
    "STARTS",
    "Clusters",
    "InMemory",
    "Moments",
    "Passes",
    "Progress",
    "Scaling",
    "State",
    "Statistics",
    "VelocityAxis",
    "Voxels",
    "adjusted_rand_index",
    "bytes_of_voxels",
    "cluster_columns",
    "cluster_voxels",
    "contingency",
    "labels",
    "lloyd",
    "merged_moments",
    "start",
    "weights_of",
]


@dataclass(frozen=True)
class InMemory:
    """Ways over voxels that are in memory, in one or several parts.

    Parameters
    ----------
    parts : sequence of Voxels
        All with the same channels.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> speeds = np.linspace(-50, 50, 6)
    >>> column = np.exp(-((speeds[:, None] + 40 * np.sign(rng.normal(size=200))) / 9) ** 2).astype(np.float32)
    >>> vectors = rng.normal(size=(200, 3))
    >>> vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    >>> found = cluster_voxels(InMemory([Voxels.of(vectors, speeds, column)]), 2, weights=weights_of({"v": 3.0}))
    >>> found.centres.shape, int(found.numbers.sum())
    ((2, 5), 1200)
    """

    parts: Sequence[Voxels]

    @property
    def channels(self) -> VelocityAxis:
        """Velocity channels."""
        return self.parts[0].channels

    def moments(self) -> list[Moments]:
        """Return the moments of the attributes of each part."""
        return [part.moments for part in self.parts]

    def statistics(self, scaling: Scaling, sets: Sequence[Floats]) -> list[list[Statistics]]:
        """Return for each part its statistics with each set of centres."""
        return [[statistics(part, scaling, centres) for centres in sets] for part in self.parts]

    def draw(self, scaling: Scaling, centres: Floats | None, amounts: dict[int, Floats]) -> dict[int, Floats]:
        """Return the voxels of parts that stand where the summed potential reaches some amounts."""
        return {part: draw(self.parts[part], scaling, centres, asked) for part, asked in amounts.items()}

    def farthest(self, scaling: Scaling, centres: Floats, number: int) -> list[list[Far]]:
        """Return for each part the voxels that are farthest from their centres."""
        return [farthest(part, scaling, centres, number) for part in self.parts]


def weights_of(weights: Mapping[str, float] | None) -> Floats:
    """Return the weights of the attributes, (attribute,) float64; 1 where none is given.

    Parameters
    ----------
    weights : mapping of str to float, optional
        By attribute: "x", "y", "z", "v", "n".  0 leaves an attribute out.

    Raises
    ------
    InputError
        If a name is unknown, a weight is negative or not finite, or all are 0.

    Examples
    --------
    >>> weights_of({"v": 5.0, "n": 0.2}).tolist()
    [1.0, 1.0, 1.0, 5.0, 0.2]
    """
    found = np.ones(len(ATTRIBUTES))
    for name, weight in (weights or {}).items():
        if name not in ATTRIBUTES:
            raise InputError(f"`weights` has a weight for {name!r}; {nearest(str(name), ATTRIBUTES)}.")
        if not (np.isfinite(weight) and weight >= 0):
            raise InputError(f"`weights` has {weight!r} for {name!r}; a weight is a finite number, 0 or above.")
        found[ATTRIBUTES.index(name)] = weight
    if not found.any():
        raise InputError("`weights` leaves out every attribute; give at least one a weight above 0.")
    return found


def merged_moments(parts: Sequence[Moments]) -> Moments:
    """Return the moments of all parts together, merged in their order."""
    merged = Moments.none()
    for part in parts:
        merged = merged.merge(part)
    return merged


@dataclass(frozen=True)
class State:
    """How far Lloyd's iterations have come; what they continue from.

    Parameters
    ----------
    centres : numpy.ndarray
        (cluster, attribute) float64, scaled.
    iteration : int
        Iterations done.
    last : Statistics, optional
        Of the last of them.
    """

    centres: Floats
    iteration: int = 0
    last: Statistics | None = None


@dataclass(frozen=True)
class Clusters:
    """Clusters of voxels.

    Parameters
    ----------
    scaled : numpy.ndarray
        (cluster, attribute) float64 centres, standardised and weighted.
    scaling : Scaling
        What made them so.
    statistics : Statistics
        Of the voxels of each cluster.
    inertia : float
        Sum of squared distances (eq. A2) of the voxels to their centres.
    iterations : int
        Lloyd's iterations of the best start.
    converged : str
        "labels" where no voxel changed its cluster any more, "tolerance" where the centres moved less than that,
        "no" where the iterations ended before.
    """

    scaled: Floats
    scaling: Scaling
    statistics: Statistics
    inertia: float
    iterations: int
    converged: str

    @property
    def centres(self) -> Floats:
        """(cluster, attribute) float64 centres in the attributes' own units."""
        return self.scaling.physical(self.scaled)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """(cluster,) int64 voxels."""
        return self.statistics.numbers

    def ordered(self, order: Sequence[int] | NDArray[np.intp]) -> Clusters:
        """Return the same clusters in another order."""
        own = self.statistics
        chosen = np.asarray(order)
        reordered = Statistics(
            own.counts[chosen], own.columns[chosen], own.vectors[chosen], own.scatter, own.marks[chosen]
        )
        return Clusters(self.scaled[chosen], self.scaling, reordered, self.inertia, self.iterations, self.converged)


@dataclass(frozen=True)
class Progress:
    """How far the search for clusters has come; what it continues from.

    Parameters
    ----------
    attempt : int
        The start that is being iterated.
    state : State, optional
        Of its iterations; None where it has not begun.
    best : Clusters, optional
        Of the starts before it.
    done : bool
        Whether `best` is what was sought.
    """

    attempt: int = 0
    state: State | None = None
    best: Clusters | None = None
    done: bool = False


def lloyd(
    passes: Passes,
    scaling: Scaling,
    begin: State,
    *,
    tolerance: float = 1e-4,
    max_iterations: int = 300,
    keep: Callable[[State], None] | None = None,
) -> Clusters:
    """Return the clusters that Lloyd's iterations come to, the same as scikit-learn's.

    A cluster that loses all its voxels is put on the voxel farthest from its centre, which then no other cluster has
    (several: on the farthest ones, in their order; scikit-learn leaves that order open).

    Parameters
    ----------
    passes : Passes
        The voxels.
    scaling : Scaling
        Makes the attributes comparable.
    begin : State
        Centres to begin with, or where an earlier call was stopped.
    tolerance : float
        The iterations end when the summed squared shift of the centres is at most this times the mean variance of
        the attributes; or when no voxel changes its cluster.
    max_iterations : int
        They end here at the latest.
    keep : callable, optional
        Called with the state after every iteration.
    """
    state, converged = begin, "no"
    limit = tolerance * _mean_variance(passes, scaling)
    while state.iteration < max_iterations:
        found = _pass(passes, scaling, state.centres)
        centres = _next(passes, scaling, state.centres, found)
        same = state.last is not None and found.same_labels(state.last)
        shift = float(((centres - state.centres) ** 2).sum())
        state = State(centres, state.iteration + 1, found)
        if same:
            converged = "labels"
            break
        if shift <= limit:
            converged = "tolerance"
            break
        if keep is not None:
            keep(state)
    # Where labels still change, those of the last centres are not known yet.
    last = state.last if converged == "labels" else None
    if last is None:
        last = _pass(passes, scaling, state.centres)
    inertia = last.inertia(state.centres, passes.channels, scaling)
    return Clusters(state.centres, scaling, last, inertia, state.iteration, converged)


def _mean_variance(passes: Passes, scaling: Scaling) -> float:
    moments = merged_moments(passes.moments())
    return float((scaling.factor**2 * moments.squares / max(1, moments.count)).mean())


def _pass(passes: Passes, scaling: Scaling, centres: Floats) -> Statistics:
    return Statistics.of([sets[0] for sets in passes.statistics(scaling, [centres])])


def _next(passes: Passes, scaling: Scaling, centres: Floats, found: Statistics) -> Floats:
    """Return the means of the clusters; one without voxels takes the farthest voxel of another."""
    sums, numbers = found.sums(passes.channels, scaling), found.numbers.astype(np.float64)
    empty = np.flatnonzero(numbers == 0)
    if empty.size:
        parts = passes.farthest(scaling, centres, empty.size)
        far = sorted((voxel for part in parts for voxel in part), key=lambda voxel: -voxel[0])
        for cluster, (distance, label, voxel) in zip(empty, far, strict=False):
            if distance > 0:
                sums[label] -= voxel
                numbers[label] -= 1
                sums[cluster], numbers[cluster] = voxel, 1
    some = numbers > 0
    return np.where(some[:, None], sums / np.where(some, numbers, 1.0)[:, None], centres)


def cluster_voxels(
    passes: Passes,
    k: int,
    *,
    weights: Floats | None = None,
    scaling: Scaling | None = None,
    init: str | Floats = "greedy",
    seed: int = 0,
    n_init: int = 1,
    tolerance: float = 1e-4,
    max_iterations: int = 300,
    begin: Progress | None = None,
    keep: Callable[[Progress], None] | None = None,
) -> Clusters:
    """Return k clusters of voxels: attributes standardised, weighted, started, iterated, the best of some starts.

    Parameters
    ----------
    passes : Passes
        The voxels, for example `InMemory([voxels])`.
    k : int
        How many clusters.
    weights : numpy.ndarray, optional
        (attribute,) see `weights_of`.
    scaling : Scaling, optional
        In place of that which the voxels and the weights give.
    init : {"greedy", "parallel"} or numpy.ndarray
        See `start`; or (cluster, attribute) float64 centres in the attributes' own units.
    seed : int
        Of the random numbers.
    n_init : int
        Starts; the one with the least inertia counts.
    tolerance, max_iterations
        See `lloyd`.
    begin : Progress, optional
        Where an earlier call was stopped.
    keep : callable, optional
        Called with the progress after every iteration.

    Raises
    ------
    InputError
        If k does not suit the voxels, or all of them are the same.
    """
    moments = merged_moments(passes.moments())
    check_k(k, moments.count)
    made = Scaling.of(moments, weights_of(None) if weights is None else weights) if scaling is None else scaling
    check_scaling(made, k)
    now = begin or Progress()
    attempts = n_init if isinstance(init, str) else 1
    while not now.done:
        state, best = now.state, now.best
        if state is None and isinstance(init, str):
            state = State(start(passes, made, k, seed=seed, attempt=now.attempt, init=init))
        elif state is None:
            state = State(made.scaled(np.asarray(init, np.float64)))
        watch = None if keep is None else functools.partial(_tell, keep, now)
        found = lloyd(passes, made, state, tolerance=tolerance, max_iterations=max_iterations, keep=watch)
        if best is None or found.inertia < best.inertia:
            best = found
        now = Progress(now.attempt + 1, None, best, now.attempt + 1 == attempts)
        if keep is not None:
            keep(now)
    assert now.best is not None
    return now.best


def _tell(keep: Callable[[Progress], None], now: Progress, state: State) -> None:
    keep(Progress(now.attempt, state, now.best))


def check_k(k: int, voxels: int) -> None:
    """Raise InputError where there cannot be k clusters of so many voxels."""
    if k < 1:
        raise InputError(f"`k` {k} came; there is at least one cluster.")
    if not voxels:
        raise InputError("no voxel is left: no used pixel has a finite value in any channel. See to mask and region.")
    if k > voxels:
        raise InputError(f"`k` {k} came, but only {voxels} voxels are used; give a smaller k, or more of the sky.")


def check_scaling(scaling: Scaling, k: int) -> None:
    """Raise InputError where no attribute tells voxels apart."""
    if k > 1 and not scaling.factor.any():
        raise InputError(
            "no attribute with a weight varies over the voxels, so they cannot be told apart; give more pixels or "
            "channels, or weights to other attributes."
        )
