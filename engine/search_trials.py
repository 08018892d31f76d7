"""Trials of a search over clusterings: clusters of all voxels in memory, their columns fitted to a target.

A process loads the used pixels once and keeps them for all of its trials.  A trial depends on nothing but the maps, the
options and its own three numbers, so that it may run anywhere, in any order, and be kept.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError
from ..models.gls import accumulate
from ..models.gls_solution import OR_RIDGE
from ..models.kmeans import InMemory, Voxels, cluster_columns, cluster_voxels, weights_of
from .fit_pass import pixel_weights
from .fit_request import FitRequest
from .kmeans_pass import Source
from .kmeans_request import KmeansRequest
from .ledger import read_held
from .records import write_text

type Floats = NDArray[np.float64]


@dataclass(frozen=True, order=True)
class Trial:
    """A number of clusters, and the weights of velocity and density."""

    k: int
    v: float
    n: float

    @property
    def label(self) -> str:
        """Its name in a folder."""
        return f"k{self.k}-v{self.v:.9g}-n{self.n:.9g}"


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Parameters
    ----------
    trial : Trial
        Which.
    chi2 : float
        Of the fit; NaN where it could not be solved.
    dof : int
        Pixels less coefficients.
    inertia : float
        Of the clusters.
    iterations : int
        Of Lloyd.
    coefficients : tuple of float
        Of the clusters, the other templates and the offset.
    problem : str
        Why there is no chi^2; empty where there is.
    """

    trial: Trial
    chi2: float
    dof: int
    inertia: float
    iterations: int
    coefficients: tuple[float, ...]
    problem: str = ""

    def to_json(self, identity: str) -> str:
        """Return it as JSON with the identity of its search."""
        return json.dumps({"identity": identity, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str, identity: str) -> Outcome | None:
        """Return what a file holds, or None where it is damaged or of another search."""
        try:
            known = json.loads(text)
            if known.pop("identity") != identity:
                return None
            known["trial"] = Trial(**known["trial"])
            known["coefficients"] = tuple(known["coefficients"])
            return cls(**known)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


@dataclass(frozen=True, eq=False)
class TrialTask:
    """Runs trials by their number; small.

    Parameters
    ----------
    request : FitRequest
        Templates beside the clusters, target, noise, pixels.
    voxels : KmeansRequest
        The voxels.
    identity : str
        Of the search.
    trials : tuple of Trial
        What the numbers mean.
    options : mapping
        Of `cluster_voxels`.
    """

    request: FitRequest
    voxels: KmeansRequest
    identity: str
    trials: tuple[Trial, ...]
    options: Mapping[str, Any]

    def __call__(self, number: int) -> Outcome:
        """Return the outcome of a trial."""
        trial, data = self.trials[number], _loaded(self)
        clusters = cluster_voxels(
            InMemory(data.voxels), trial.k, weights=weights_of({"v": trial.v, "n": trial.n}), **self.options
        )
        amount = np.array(self.voxels.cube.amount)
        columns = np.concatenate(
            [cluster_columns(part, clusters.scaling, clusters.scaled, amount)[:, part.places] for part in data.voxels],
            axis=1,
        )
        names = [f"cluster {place + 1}" for place in range(trial.k)] + list(self.request.templates)
        equations = accumulate([*columns, *data.templates], data.targets, data.weights)
        try:
            solution = equations.solve(offset=self.request.offset, variance=self.request.variance, names=names)
        except InputError as error:
            return Outcome(
                trial, float("nan"), 0, clusters.inertia, clusters.iterations, (), str(error).replace(OR_RIDGE, "")
            )
        return Outcome(
            trial,
            float(solution.chi2[0]),
            solution.dof,
            clusters.inertia,
            clusters.iterations,
            tuple(solution.coefficient[0].tolist()),
        )


@dataclass(frozen=True, eq=False)
class _Data:
    voxels: tuple[Voxels, ...]
    templates: list[NDArray[np.float32]]
    targets: list[NDArray[np.float32]]
    weights: list[Floats] | None


_lock = threading.Lock()
_kept: dict[str, _Data] = {}


def _loaded(task: TrialTask) -> _Data:
    with _lock:
        if task.identity not in _kept:
            _kept.clear()
            _kept[task.identity] = _load(task)
        return _kept[task.identity]


def forget() -> None:
    """Drop the pixels that this process keeps for its trials."""
    with _lock:
        _kept.clear()


def _load(task: TrialTask) -> _Data:
    request, source = task.request, Source.of(task.voxels, 0)
    names = (*request.templates, *request.targets)
    voxels, maps, weights = [], [], []
    for tile in task.voxels.tiles:
        start = tile * request.tiling.tile_npix
        stop = start + request.tiling.tile_npix
        reads = dict.fromkeys((*task.voxels.reads, *request.reads))
        values = {name: read_held(request.store, name, start, stop) for name in reads}
        part = source.made(tile, values)
        if part.places.size:
            voxels.append(part)
            maps.append([values[name][part.places] for name in names])
            weights.append([pixel_weights(each, values, stop - start)[part.places] for each in request.weights])
    if not voxels:
        raise InputError(
            f"no voxel of {request.store} is left: cube {task.voxels.cube.name!r} has no value in the pixels that mask "
            "and region leave. Give another mask or region."
        )
    joined = [np.concatenate(rows) for rows in zip(*maps, strict=True)]
    count = len(request.templates)
    joined_weights = [np.concatenate(rows) for rows in zip(*weights, strict=True)]
    return _Data(tuple(voxels), joined[:count], joined[count:], joined_weights or None)


class Kept:
    """The outcomes of a search in a folder, one file each; those of another search do not count."""

    def __init__(self, folder: Path | None, facts: Mapping[str, Any]) -> None:
        text = json.dumps(facts, sort_keys=True)
        self.identity = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        self._folder = None if folder is None else folder / "trials"

    def get(self, trial: Trial) -> Outcome | None:
        """Return the outcome of a trial that was run before, or None."""
        if self._folder is None:
            return None
        try:
            known = Outcome.from_json((self._folder / f"{trial.label}.json").read_text(), self.identity)
        except OSError:
            return None
        return known if known is not None and known.trial == trial else None

    def put(self, outcome: Outcome) -> None:
        """Keep an outcome."""
        if self._folder is not None:
            write_text(self._folder / f"{outcome.trial.label}.json", outcome.to_json(self.identity))


def grid(numbers: Sequence[int], v: Sequence[float], n: Sequence[float]) -> list[Trial]:
    """Return all trials of a grid, sorted."""
    return sorted({Trial(int(k), float(a), float(b)) for k in numbers for a in v for b in n})


def around(best: Trial, v: Sequence[float], n: Sequence[float], round_: int) -> list[Trial]:
    """Return the trials around the best of an earlier round, at half the distance of that round on a logarithmic scale.

    Parameters
    ----------
    best : Trial
        In the middle.
    v, n : sequence of float
        The first grid, whose steps are halved once a round.
    round_ : int
        1 for the first round after the grid.

    Examples
    --------
    >>> [trial.v for trial in around(Trial(2, 4.0, 1.0), [1.0, 4.0, 16.0], [1.0], 1)]
    [2.0, 4.0, 8.0]
    """
    return grid([best.k], _near(best.v, v, round_), _near(best.n, n, round_))


def _near(value: float, first: Sequence[float], round_: int) -> list[float]:
    positive = sorted(each for each in set(first) if each > 0)
    if value <= 0 or len(positive) < 2:
        return [value]
    # Rounded, so that a point that is reached twice has the same number twice.
    ratio = (positive[-1] / positive[0]) ** (0.5**round_ / (len(positive) - 1))
    return [float(f"{value / ratio:.6g}"), value, float(f"{value * ratio:.6g}")]
