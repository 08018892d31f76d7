"""Errors of spectra from Gaussian realisations: simulated maps go the way of the maps, and their spectra scatter.

Covers: drawing, mapping, weighting and analysing in memory, one realisation a task.
Does not cover: maps that do not fit into the memory of a worker (`errors="knox"` serves there).
"""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ducc0
import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError, MemoryLimitError, RunError
from .correlated import draw, factor_spectra, spectra_matrix
from .gather import gather
from .ledger import map_digest
from .mapping import make_executor
from .masks import read_weights
from .plan import RESERVED_BYTES, Run
from .progress import Progress
from .rings import Layout, rings_of
from .spectrum_estimator import Estimator, MapPair
from .window import ThreadsExecutor, run_window
from .worker import Worker, format_bytes

type Floats = NDArray[np.float64]

FEWEST_SIMULATIONS = 2


@dataclass(frozen=True)
class WeightMap:
    """Where the weights of maps are.

    Parameters
    ----------
    store : str
        Address of the store.
    name : str
        Of the map.
    digest : str
        Of its content, by which a process that has read it knows whether it is still the same; `Realisation.of` finds
        it where it is not given.
    """

    store: str
    name: str
    digest: str = ""


@dataclass(frozen=True, eq=False)
class Realisation:
    """Simulates a set of maps and returns their pseudo-spectra; picklable, a task for `run_window`.

    Parameters
    ----------
    names : tuple of str
        The maps.
    factors : ndarray
        (ell, map, map) float64, what unit draws are multiplied by; transfer functions included.
    pairs : tuple of (str, str)
        Whose pseudo-spectra are returned.
    nside : int
        Of the maps.
    weights : mapping of str to WeightMap or None
        By map.
    ring_weights : ndarray, optional
        (row,) float64, factors of the rows in the analysis; default 1.
    bins : Bins, optional
        Default: every multipole by itself.
    seed : int
        Realisation i of a seed is the same on every worker.
    precision : {"single", "double"}
        Of maps and coefficients.
    """

    names: tuple[str, ...]
    factors: Floats
    pairs: tuple[MapPair, ...]
    nside: int
    weights: Mapping[str, WeightMap | None]
    ring_weights: Floats | None = None
    bins: Any = None
    seed: int = 0
    precision: str = "single"

    @classmethod
    def of(
        cls,
        pairs: Sequence[MapPair],
        fiducial: Mapping[MapPair, NDArray[np.floating]],
        estimator: Estimator,
        *,
        nside: int,
        weights: Mapping[str, WeightMap] | None = None,
        ring_weights: Floats | None = None,
        seed: int = 0,
        precision: str = "single",
        nearest: bool = False,
    ) -> Realisation:
        """Return the task for pairs of maps.

        Parameters
        ----------
        pairs : sequence of (str, str)
            Those of the result.
        fiducial : mapping of (str, str) to ndarray
            (ell,) spectra of the sky, from 0 to lmax at least: the auto-spectra of all maps, noise included and divided
            by the square of the transfer function as in the result; cross-spectra that are not given are zero.
        estimator : Estimator
            Names the weights and holds the transfer functions of the maps, which go into the simulated maps, and bins.
        nside : int
            Of the maps.
        weights : mapping of str to WeightMap, optional
            Where the weights are, by the name that the estimator has for them.
        ring_weights : ndarray, optional
            (row,) float64, those of the analysis of the maps.
        seed : int
            Another seed, other realisations.
        precision : {"single", "double"}
            Of maps and coefficients.
        nearest : bool
            Whether spectra that no maps can have are replaced by the nearest that some have (for measured ones).

        Raises
        ------
        InputError
            If an auto-spectrum is missing, or no Gaussian maps have such spectra.
        """
        names = tuple(dict.fromkeys(name for pair in pairs for name in pair))
        matrix = spectra_matrix(fiducial, names, estimator.lmax)
        factors = factor_spectra(matrix, names, nearest=nearest)
        for place, name in enumerate(names):
            transfer = estimator.maps[name].transfer
            if transfer is not None:
                factors[:, place, :] *= transfer[:, None]
        found: dict[str, WeightMap | None] = {}
        for name in names:
            weight = estimator.maps[name].weight
            if weight is not None and weight not in (weights or {}):
                raise InputError(f"`weights` do not say where the weights {weight!r} of map {name!r} are.")
            where = None if weight is None else (weights or {})[weight]
            # A process keeps the weights that it has read; the digest tells it when they are others.
            found[name] = where and replace(where, digest=where.digest or map_digest(where.store, where.name))
        return cls(names, factors, tuple(pairs), nside, found, ring_weights, estimator.bins, seed, precision)

    @property
    def lmax(self) -> int:
        """Largest multipole."""
        return int(self.factors.shape[0]) - 1

    def memory(self) -> dict[str, int]:
        """Return the bytes that a realisation needs, by part; see `realisation_memory`."""
        masks = len({weight for weight in self.weights.values() if weight is not None})
        return realisation_memory(self.nside, self.lmax, len(self.names), masks, self.precision)

    def __call__(self, simulation: int) -> Floats:
        """Return the averaged pseudo-spectra of one realisation, (pair, bin) float64."""
        draws = [draw(self.lmax, (self.seed, simulation, place), self.precision) for place in range(len(self.names))]
        analysed = {name: self._observed(place, draws) for place, name in enumerate(self.names)}
        spectra = np.array([cross_power(analysed[a], analysed[b], self.lmax) for a, b in self.pairs])
        return spectra if self.bins is None else np.asarray(self.bins.average(spectra), np.float64)

    def _observed(self, place: int, draws: Sequence[NDArray[np.complexfloating]]) -> NDArray[np.complexfloating]:
        """Return the coefficients of one map as the analysis finds them, behind weights and pixels."""
        lmax, rings = self.lmax, rings_of(self.nside)
        alm = np.zeros_like(draws[0])
        for m in range(lmax + 1):
            block = order_slice(m, lmax)
            for other, drawn in enumerate(draws[: place + 1]):  # the factors are lower triangles
                alm[block] += self.factors[m:, place, other].astype(drawn.real.dtype) * drawn[block]
        grid: dict[str, Any] = {"theta": rings.theta, "nphi": rings.nphi, "phi0": rings.phi0, "ringstart": rings.start}
        grid |= {"lmax": lmax, "mmax": lmax, "spin": 0, "nthreads": 1}
        pixels = ducc0.sht.synthesis(alm=alm[None], **grid)
        weight = self.weights[self.names[place]]
        if weight is not None:
            pixels[0] *= _ring_weights_map(weight, self.nside)
        area = 4.0 * math.pi / pixels.shape[1]
        factors = np.full(rings.theta.size, area) if self.ring_weights is None else area * self.ring_weights
        for first, count, factor in zip(rings.start.tolist(), rings.nphi.tolist(), factors.tolist(), strict=True):
            pixels[0, first : first + count] *= factor
        found: NDArray[np.complexfloating] = ducc0.sht.adjoint_synthesis(map=pixels, **grid)[0]
        return found


def order_slice(m: int, lmax: int) -> slice:
    """Return where the coefficients of order m are in the usual triangle, degree l = m first.

    Examples
    --------
    >>> order_slice(1, 3)
    slice(4, 7, None)
    """
    first = m * (2 * lmax + 1 - m) // 2 + m
    return slice(first, first + lmax + 1 - m)


def cross_power(first: NDArray[np.complexfloating], second: NDArray[np.complexfloating], lmax: int) -> Floats:
    """Return the cross-spectrum of two sets of coefficients, (ell,) float64.

    Parameters
    ----------
    first, second : ndarray
        (l, m) complex, the usual triangle of real maps.
    lmax : int
        Largest degree.

    Examples
    --------
    >>> cross_power(np.array([1, 2, 3j]), np.array([1, 2, 3j]), 1)  # a_00, a_10, a_11
    array([1.        , 7.33333333])
    """
    total = np.zeros(lmax + 1)
    for m in range(lmax + 1):
        block = order_slice(m, lmax)
        one, other = first[block].astype(np.complex128), second[block].astype(np.complex128)
        power = one.real * other.real + one.imag * other.imag
        total[m:] += power if m == 0 else 2.0 * power
    found: Floats = total / (2.0 * np.arange(lmax + 1) + 1.0)
    return found


# Weights in ring order, read once by a process and shared by its threads; two serve any pair of maps.
_READ: OrderedDict[tuple[WeightMap, int], NDArray[np.float32]] = OrderedDict()
_READING = threading.Lock()
_KEPT = 2


def _ring_weights_map(weight: WeightMap, nside: int) -> NDArray[np.float32]:
    with _READING:
        key = (weight, nside)
        if key in _READ:
            _READ.move_to_end(key)
            return _READ[key]
        while len(_READ) >= _KEPT:
            _READ.popitem(last=False)
        _READ[key] = read_ring_weights(weight.store, weight.name)
        return _READ[key]


def read_ring_weights(store: str, name: str) -> NDArray[np.float32]:
    """Return the weights of a whole mask map in RING order, (cells,) float32.

    Parameters
    ----------
    store : str
        Address of the store.
    name : str
        The mask map, see `masks.weight_values`.
    """
    tiling = stores.tiling_of(store)
    sphere = Layout(tiling, 0, height=4 * tiling.nside, width=1)  # one band of all rows
    found = gather(partial(read_weights, store, stores.info(store, name)), sphere, 0)
    return found.astype(np.float32, copy=False)


def realisation_memory(nside: int, lmax: int, maps: int, masks: int, precision: str = "single") -> dict[str, int]:
    """Return the bytes that one realisation needs, by part.

    Parameters
    ----------
    nside, lmax : int
        Of the maps.
    maps, masks : int
        How many different ones there are.
    precision : {"single", "double"}
        Of maps and coefficients.

    Examples
    --------
    >>> f"{sum(realisation_memory(2048, 4096, maps=2, masks=1).values()) / 1e9:.2f} GB"
    '1.01 GB'
    """
    real = 4 if precision == "single" else 8
    coefficients = 2 * real * (lmax + 1) * (lmax + 2) // 2
    return {
        "coefficients": (2 * maps + 1) * coefficients,
        "rings": 2 * real * (4 * nside - 1) * (lmax + 1),
        "spectra": 100 * (lmax + 1) * maps**2,
        "map": real * 12 * nside**2,
        "masks": 4 * 12 * nside**2 * masks,
    }


def check_memory(memory: Mapping[str, int], worker: Worker) -> None:
    """Raise MemoryLimitError where a realisation does not fit into a worker.

    Parameters
    ----------
    memory : mapping of str to int
        What `realisation_memory` returns.
    worker : Worker
        Where it shall run.

    Raises
    ------
    MemoryLimitError
        With the ways out.
    """
    needed, allowed = sum(memory.values()), worker.memory_per_task(RESERVED_BYTES)
    if needed <= allowed:
        return
    threads = (worker.memory - RESERVED_BYTES) // needed
    ways = ['errors="knox"'] + ([f"threads={threads}"] if threads >= 1 else [])
    ways.append(f"memory={format_bytes(RESERVED_BYTES + needed * worker.threads)} a worker")
    parts = ", ".join(f"{part} {format_bytes(size)}" for part, size in memory.items())
    raise MemoryLimitError(
        f"errors from realisations need {format_bytes(needed)} a task ({parts}); a worker with "
        f"{format_bytes(worker.memory)} and {worker.threads} threads has {format_bytes(allowed)}. Any of these fits: "
        f"{'; '.join(ways)}."
    )


def run_realisations(
    task: Realisation,
    simulations: int,
    run: Run,
    *,
    folder: str | os.PathLike[str] | None = None,
    label: str = "realisations",
) -> Floats:
    """Return the averaged pseudo-spectra of realisations, (simulation, pair, bin) float64.

    Parameters
    ----------
    task : Realisation
        What makes one.
    simulations : int
        How many.
    run : Run
        Where.
    folder : path, optional
        Where to keep finished realisations (a few kB each), so that a run that was stopped goes on; it belongs to this
        task alone.
    label : str
        What the progress bar says.

    Raises
    ------
    InputError
        If there are fewer than two.
    MemoryLimitError
        If a realisation does not fit into a worker.
    RunError
        If one keeps failing.
    """
    if simulations < FEWEST_SIMULATIONS:
        raise InputError(f"`simulations` {simulations} came; a scatter takes two at least, a good one a hundred.")
    check_memory(task.memory(), run.worker)
    kept = None if folder is None else Path(folder)
    found: dict[int, Floats] = {}
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        for number in range(simulations):
            if (kept / f"{number}.npy").exists():
                found[number] = np.load(kept / f"{number}.npy")
    todo = [number for number in range(simulations) if number not in found]

    def handle(number: int, spectra: Floats) -> None:
        found[number] = spectra
        if kept is not None:
            partial = kept / f"{number}.partial.npy"
            np.save(partial, spectra)
            partial.replace(kept / f"{number}.npy")
        bar.advance()

    executor = make_executor(run)
    try:
        with Progress(label, len(todo), run.progress) as bar:
            failed = run_window(task, todo, executor, handle)
    finally:
        if isinstance(executor, ThreadsExecutor):
            executor.close()
    if failed:
        number, reason = failed[0]
        raise RunError(
            f"{label}: realisation {number} failed: {reason}. Where it was memory, give workers more, or use "
            'errors="knox".'
        )
    return np.array([found[number] for number in range(simulations)])


@dataclass(frozen=True, eq=False)
class Scatter:
    """How the spectra of realisations scatter.

    Parameters
    ----------
    simulations : int
        How many there were.
    mean, error : ndarray
        (pair, bin) float64, mean and standard deviation, unit of the spectra.
    covariance : ndarray, optional
        (pair, bin, bin) float64, of the bins of each pair; None without bins.
    """

    simulations: int
    mean: Floats
    error: Floats
    covariance: Floats | None = None


def scatter_of(averaged: Floats, task: Realisation, estimator: Estimator) -> Scatter:
    """Return mean, standard deviation and covariance of the spectra of realisations.

    The standard deviation of n realisations is itself known to 1 / sqrt(2 n - 2): 7 % for a hundred.

    Parameters
    ----------
    averaged : ndarray
        (simulation, pair, bin) float64, what `run_realisations` returns.
    task : Realisation
        What made them.
    estimator : Estimator
        That of the result.
    """
    spectra = np.stack([estimator.solve(*pair, averaged[:, place]) for place, pair in enumerate(task.pairs)], axis=1)
    count = spectra.shape[0]
    away = spectra - spectra.mean(axis=0)
    covariance = None
    if estimator.bins is not None:
        covariance = np.einsum("spb,spc->pbc", away, away) / (count - 1)
    return Scatter(count, spectra.mean(axis=0), spectra.std(axis=0, ddof=1), covariance)
