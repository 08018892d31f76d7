"""How far a clustering has come, kept beside the ledger of the maps that it makes.

`ledger/kmeans-state/<out>/<identity>` is an .npz file of a few kilobytes, replaced whole after some iterations.  The
same command finds it and goes on from there; what another run left under the same names is removed.
"""

from __future__ import annotations

import io
import time
import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..chunking import objects
from ..models.kmeans import Clusters, Moments, Progress, Scaling, State, Statistics
from ..models.kmeans_voxels import Floats

SECONDS_BETWEEN = 5.0  # iterations that are shorter than that are sooner done again than kept


@dataclass(frozen=True)
class Found:
    """What the first pass finds: moments of all voxels, and how many pixels they are in.

    Parameters
    ----------
    moments : Moments
        Of the attributes.
    pixels : int
        With at least one voxel.
    """

    moments: Moments
    pixels: int


@dataclass
class Keeper:
    """Keeps the progress of a clustering in a store.

    Parameters
    ----------
    store : str
        Address.
    out : str
        What the maps are called.
    identity : str
        Of the run.
    found : Found, optional
        What is known of the voxels.
    """

    store: str
    out: str
    identity: str
    found: Found | None = None
    _said: float = field(default_factory=time.monotonic)

    @property
    def _prefix(self) -> str:
        return f"ledger/kmeans-state/{self.out}/"

    def begin(self, weights: Floats) -> Progress:
        """Return where an earlier run of the same command was stopped, if it was; remove what others left."""
        for key, _, _ in list(objects.listing(self.store, self._prefix)):
            name = key.rpartition("/")[2]
            if name != self.identity:
                objects.delete_prefix(self.store, self._prefix + name)
        content = objects.get(self.store, self._prefix + self.identity)
        try:
            if content is None:
                return Progress()
            progress, self.found = _unpacked(content, weights)
            return progress
        except (ValueError, KeyError, OSError, zipfile.BadZipFile):
            return Progress()  # damaged: begin anew

    def keep(self, progress: Progress) -> None:
        """Keep the progress, where that is worth it."""
        if progress.done or time.monotonic() - self._said >= SECONDS_BETWEEN:
            assert self.found is not None
            objects.put(self.store, self._prefix + self.identity, _packed(progress, self.found))
            self._said = time.monotonic()


def _packed(progress: Progress, found: Found) -> bytes:
    arrays: dict[str, Any] = {
        "attempt": progress.attempt,
        "done": progress.done,
        "count": found.moments.count,
        "mean": found.moments.mean,
        "squares": found.moments.squares,
        "pixels": found.pixels,
    }
    if progress.state is not None:
        arrays |= {"state_centres": progress.state.centres, "state_iteration": progress.state.iteration}
        if progress.state.last is not None:
            arrays |= _fields("state_last", progress.state.last)
    if progress.best is not None:
        best = progress.best
        arrays |= {
            "best_centres": best.scaled,
            "best_inertia": best.inertia,
            "best_iterations": best.iterations,
            "best_converged": best.converged,
            **_fields("best_statistics", best.statistics),
        }
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _unpacked(content: bytes, weights: Floats) -> tuple[Progress, Found]:
    arrays = dict(np.load(io.BytesIO(content), allow_pickle=False))
    found = Found(Moments(int(arrays["count"]), arrays["mean"], arrays["squares"]), int(arrays["pixels"]))
    scaling = Scaling.of(found.moments, weights)
    state = best = None
    if "state_centres" in arrays:
        last = _statistics("state_last", arrays) if "state_last_counts" in arrays else None
        state = State(arrays["state_centres"], int(arrays["state_iteration"]), last)
    if "best_centres" in arrays:
        best = Clusters(
            arrays["best_centres"],
            scaling,
            _statistics("best_statistics", arrays),
            float(arrays["best_inertia"]),
            int(arrays["best_iterations"]),
            str(arrays["best_converged"]),
        )
    return Progress(int(arrays["attempt"]), state, best, bool(arrays["done"])), found


_FIELDS = ("counts", "columns", "vectors", "marks", "scatter")


def _fields(prefix: str, known: Statistics) -> dict[str, Any]:
    return {f"{prefix}_{name}": getattr(known, name) for name in _FIELDS}


def _statistics(prefix: str, arrays: dict[str, Any]) -> Statistics:
    values = {name: arrays[f"{prefix}_{name}"] for name in _FIELDS}
    return Statistics(**{**values, "scatter": float(values["scatter"])})
