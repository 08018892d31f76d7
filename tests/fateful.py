"""Scratch space with a fate: the process that does this or that with it dies, or fails, at that very moment.

A module of its own, so that workers and other processes can import it.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skymill.chunking import store as stores
from skymill.engine import spectra, staged_maps
from skymill.engine.scratch import Scratch

NSIDE, LMAX = 64, 96
# Bands 0 to 7, blocks of orders 0 to 12; 12 tiles.
TILES = {"tile_nside": 1, "chunk_nside": 4}


@dataclass(frozen=True)
class Fate:
    """What happens where something is done: "<what>:<key>", once or each time.

    Parameters
    ----------
    folder : str
        Where is kept what has happened, and a diary of what was written.
    kills : tuple of str
        Kill the process, once.
    fails : tuple of str
        Raise ValueError, each time.
    """

    folder: str
    kills: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()

    def meet(self, event: str) -> None:
        """Let happen what must, and write the event down."""
        if event in self.kills:
            with contextlib.suppress(FileExistsError):
                Path(self.folder, event.replace("/", "|")).touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        if event in self.fails:
            raise ValueError(f"poisoned {event}")
        handle = os.open(f"{self.folder}/diary", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{event}\n".encode())  # whole, whoever else writes
        os.close(handle)

    def happened(self) -> bool:
        """Return whether every killing took place."""
        return all(Path(self.folder, event.replace("/", "|")).exists() for event in self.kills)

    def diary(self) -> collections.Counter[str]:
        """Return how often each event was survived."""
        path = Path(self.folder, "diary")
        return collections.Counter(path.read_text().split() if path.exists() else [])

    def done_twice(self) -> list[str]:
        """Return the steps that were done more than once."""
        known = self.diary().items()
        return [event for event, times in known if event.startswith("note:") and times > 1]


@dataclass(frozen=True)
class FatefulScratch:
    """A scratch space that tells a fate of what is done with it."""

    inner: Scratch
    fate: Fate

    def write(self, key: str, parts: Iterable[NDArray[Any]]) -> None:
        def fatefully() -> Iterator[NDArray[Any]]:
            for number, part in enumerate(parts):
                yield part
                if number == 0:
                    self.fate.meet(f"write:{key}")

        self.inner.write(key, fatefully())

    def read(self, key: str, part: int, of: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        self.fate.meet(f"read:{key}")
        return self.inner.read(key, part, of, dtype)

    def note(self, key: str, facts: dict[str, Any]) -> None:
        self.fate.meet(f"note:{key}")
        self.inner.note(key, facts)

    def noted(self, key: str) -> dict[str, Any] | None:
        return self.inner.noted(key)

    def remove(self, prefix: str = "") -> None:
        self.inner.remove(prefix)
        self.fate.meet(f"removed:{prefix}")


@contextlib.contextmanager
def fated(fate: Fate) -> Iterator[None]:
    """Let the verbs use scratch space with a fate."""
    known = {module: module.scratch_for for module in (spectra, staged_maps)}
    try:
        for module, choose in known.items():
            module.scratch_for = (  # type: ignore[attr-defined]
                lambda *given, choose=choose, **options: FatefulScratch(choose(*given, **options), fate)
            )
        yield
    finally:
        for module, choose in known.items():
            module.scratch_for = choose  # type: ignore[attr-defined]


def make_sky(path: Path | str) -> str:
    """Write a sky of two maps."""
    import skymill as sm

    where = str(path)
    stores.create(where, NSIDE, frame="galactic", **TILES)
    for seed, name in enumerate("ab"):
        sm.synthesize(np.ones(LMAX + 1), where, name=name, seed=seed).run(progress=False)
    return where


def measure(sky: str, client: Any = None, **options: Any) -> bytes:
    """Return the spectra of the sky, with an iteration."""
    import skymill as sm

    plan = sm.spectra(sky, [("a", "a"), ("a", "b")], lmax=LMAX, weights="iterate", iterations=1, **options)
    return plan.run(client, progress=False)["cl"].values.tobytes()


def draw(sky: str, client: Any = None, **options: Any) -> None:
    """Write another map into the sky."""
    import skymill as sm

    sm.synthesize(np.ones(LMAX + 1), sky, name="drawn", seed=7, **options).run(client, progress=False)


def measure_fatefully(sky: str, fate: Fate, workers: int | None = None, **options: Any) -> None:
    """Measure in this process, which may die of it; what a child process does."""
    import faulty

    with contextlib.nullcontext() if workers is None else faulty.cluster(workers=workers) as client, fated(fate):
        measure(sky, client, **options)
