"""What the tests of faults share: kernels that dawdle and tell, skies with ledgers, processes to be killed.

A module of its own, so that workers and other processes can import it.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skies import BANDS, INTENSITY, content
from skymill.chunking import store as stores
from skymill.chunking.schema import MapInfo
from skymill.engine import ledger
from skymill.engine.mapping import map_plan
from skymill.engine.worker import Worker

MAPS = (*BANDS, "i850um", "i1380um")
TILE_NSIDE = 4  # 192 tiles
EMPTY = range(5, 9)  # of them; nothing there
OBSERVED = 12 * TILE_NSIDE**2 - len(EMPTY)


@dataclass(frozen=True)
class Noise:
    """Makes the bands of a sky; nothing in some tiles."""

    names: tuple[str, ...]
    npix: int

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        if tile in EMPTY:
            return {}
        made = {}
        for number, name in enumerate(self.names):
            made[name] = np.random.default_rng((number, tile)).lognormal(2.0, 1.0, self.npix).astype(np.float32)
        return made


def make_sky(path: Path | str, nside: int = 32, tile_nside: int = TILE_NSIDE, names: tuple[str, ...] = BANDS) -> str:
    """Write a small sky by a run, so that its maps have ledgers."""
    where = str(path)
    stores.create(where, nside, frame="galactic", tile_nside=tile_nside)
    noise_plan(where, names).run(progress=False)
    return where


def make_world(folder: Path) -> Path:
    """Write what every verb can use: a sky with a prediction, a finer sky, two models and a FITS file."""
    import skymill as sm
    from skymill.models import Model, dust_mlp, save_model

    sky = make_sky(folder / "sky.zarr", 8, 1, MAPS)
    make_sky(folder / "fine.zarr", 16, 1, ("i160",))
    for label in ("850um", "1380um"):
        save_model(folder / f"model-{label}", Model.untrained(dust_mlp(label), seed=3))
    sm.predict(folder / "model-850um", sky).run(progress=False)
    sm.export(sky, "i160", folder / "map.fits").run(progress=False)
    return folder


def noise_plan(where: str, names: tuple[str, ...] = BANDS):
    """Return the plan that makes, or mends, the bands of a sky."""
    maps = [MapInfo(name, "intensity", "MJy/sr", band=name) for name in names]
    return map_plan("noise", Noise(names, stores.tiling_of(where).tile_npix), target=where, writes=maps)


@dataclass(frozen=True)
class Told:
    """Sums its inputs; dawdles, and writes down every call before and after it."""

    diary: str
    delay: float = 0.0
    poison: tuple[int, ...] = ()
    hungry: tuple[int, ...] = ()

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        self._tell(f"{tile}\n")
        if tile in self.poison:
            raise ValueError(f"poisoned tile {tile}")
        if tile in self.hungry:
            eat()
        time.sleep(self.delay)
        total = np.sum([inputs[name] for name in sorted(inputs)], axis=0, dtype=np.float32)
        return {"total": total, "_statistics": {"sum": float(np.nansum(total, dtype=np.float64))}}

    def _tell(self, line: str) -> None:
        # One write to a file opened for appending is whole, whoever else writes and dies.
        handle = os.open(self.diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)


def eat() -> None:
    """Take memory until somebody ends it."""
    eaten = []
    for _ in range(40):
        eaten.append(np.ones(12_500_000))
        time.sleep(0.05)
    time.sleep(60)


def calls(diary: Path | str) -> collections.Counter[int]:
    """Return how often the kernel was called, by tile."""
    path = Path(diary)
    return collections.Counter(int(line) for line in (path.read_text() if path.exists() else "").split())


def total_plan(
    sky: str, diary: Path | str, *, threads: int = 2, overwrite: bool = False, parameters: Any = None, **kernel: Any
):
    """Return the plan that sums the bands of a sky."""
    return map_plan(
        "total",
        Told(str(diary), **kernel),
        target=sky,
        reads=BANDS,
        writes=[INTENSITY],
        worker=Worker.here(threads=threads),
        overwrite=overwrite,
        parameters=parameters,
    )


def other_plan(sky: str, diary: Path | str):
    """Return a plan that makes the same map as another run would, in place of what is there."""
    return total_plan(sky, diary, overwrite=True, parameters={"other": True})


def undisturbed(sky: str, diary: Path | str) -> dict[str, str]:
    """Return the content that a run without any fault gives; the map is removed again."""
    total_plan(sky, f"{diary}.undisturbed").run(progress=False)
    wanted = content(sky, "total", "ledger/total")
    stores.delete_map(sky, "total")
    return wanted


def finished(sky: str) -> set[int]:
    """Return the tiles that the ledger knows as computed."""
    if not stores.exists(sky) or ledger.identity(sky, "total") is None:
        return set()
    column = ledger.column(sky, "total")
    assert column is not None
    return set(np.flatnonzero(column > ledger.NOTHING_STORED).tolist())


def remove_total(sky: str) -> None:
    """Remove the map of sums, however much of it is there."""
    if "total" in stores.infos(sky) or ledger.identity(sky, "total") is not None:
        stores.delete_map(sky, "total")


def ticks(sky: str, name: str) -> int:
    """Return how many tiles of a map the ledger has, without opening the store."""
    folder = Path(sky, "ledger", name, "c")
    return len([path for path in folder.glob("*") if path.suffix != ".partial"]) if folder.is_dir() else 0


def leftovers(sky: str) -> list[str]:
    """Return the files of killed writers that lie in the map."""
    return [str(path) for path in Path(sky).rglob("*.partial") if "total" in path.parts]


def listing(folder: Path | str) -> dict[str, bytes]:
    """Return every file below a folder with its content."""
    root = Path(folder)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


# ---- processes that are killed -------------------------------------------------------------------------------------


def processes():
    """Return a source of processes that are there within milliseconds: forks of one that has everything loaded."""
    import dask
    from distributed import utils

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        utils.get_mp_context()  # which sets what is loaded in advance, once; ours comes after it
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faulty", "distributed.nanny", "distributed.client"])
    return context


def run_total(sky: str, diary: str, threads: int, delay: float, workers: int | None = None) -> None:
    """Run the plan in this process; what a child process does until it is killed."""
    if workers is None:
        total_plan(sky, diary, threads=threads, delay=delay).run(progress=False)
        return
    from skymill.engine.connect import connect

    with connect(workers=workers, threads=threads) as client:
        total_plan(sky, diary, delay=delay).run(client, progress=False)


def run_overwrite(sky: str, diary: str) -> None:
    """Run the plan in place of what another run made."""
    total_plan(sky, diary, overwrite=True).run(progress=False)


def run_and_tell(sky: str, diary: str, answer: Any, user: int | None = None) -> None:
    """Run the plan as another user and write down what it raised; the body of a child process."""
    if user is not None:
        os.setgid(user)
        os.setuid(user)
    try:
        total_plan(sky, diary).run(progress=False)
        answer.put("done")
    except BaseException as error:
        answer.put(f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def cluster(workers: int = 2, settings: dict[str, Any] | None = None, **options: Any):
    """Give the client of a local cluster whose workers start within milliseconds, under settings of Dask."""
    import dask
    from skymill.engine.connect import connect

    # This loads `distributed`. A setting of it that was changed before would take all its others away when it ends.
    processes()
    quick = {"distributed.worker.multiprocessing-method": "forkserver"}
    with dask.config.set({**quick, **(settings or {})}), connect(workers=workers, threads=1, **options) as client:
        yield client


def await_idle_workers(client: Any, patience: float = 120.0) -> None:
    """Wait until no worker has a task in hand: a run that ends with an error leaves behind what had begun."""
    deadline = time.monotonic() + patience
    while any(found != 0 for found in client.run(_tasks_in_hand, on_error="return").values()):  # or an error: it died
        assert time.monotonic() < deadline, "a task does not end"
        time.sleep(0.02)


def _tasks_in_hand(dask_worker: Any) -> int:
    # With those that nobody wants any more.
    return len(dask_worker.active_threads)


@contextlib.contextmanager
def connecting_within(client: Any, seconds: float) -> Iterator[None]:
    """Give the processes of a local cluster so long to reach each other: only then is one that died given up.

    For the time of one run, and no longer: at a start a busy machine may well need more.
    """
    import dask

    usual = dask.config.get(_CONNECT)
    client.run(_set_connect_timeout, f"{seconds} s")
    try:
        with dask.config.set({_CONNECT: f"{seconds} s"}):
            yield
    finally:
        await_idle_workers(client)
        client.run(_set_connect_timeout, usual)


_CONNECT = "distributed.comm.timeouts.connect"


def _set_connect_timeout(given: str) -> None:
    import dask

    dask.config.set({_CONNECT: given})


class WorkerKiller(threading.Thread):
    """Kills workers of a local cluster, one at a time, at random moments, until it has killed enough."""

    def __init__(self, cluster: Any, kills: int, seed: int, pause: tuple[float, float] = (0.0, 0.8)) -> None:
        super().__init__(daemon=True)
        self._cluster, self._kills, self._pause = cluster, kills, pause
        self._random = random.Random(seed)
        self._enough = threading.Event()
        self._killed: set[int] = set()

    def run(self) -> None:
        while len(self._killed) < self._kills and not self._enough.wait(self._random.uniform(*self._pause)):
            living = [pid for pid in self._living() if pid not in self._killed]
            if living:
                victim = self._random.choice(living)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    self._killed.add(victim)

    def _living(self) -> list[int]:
        """Return the processes of the workers; the thread of the cluster may be starting or closing one meanwhile."""
        found = []
        for nanny in list(self._cluster.workers.values()):
            with contextlib.suppress(AttributeError, ValueError):  # what a nanny without its process raises
                found.append(nanny.pid)
        return [pid for pid in found if pid]

    def stop(self) -> int:
        """Stop killing and return how many were killed."""
        self._enough.set()
        self.join()
        return len(self._killed)
