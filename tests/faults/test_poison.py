"""Tiles that cannot be computed, and tasks that take more memory than there is: set aside, the others finished."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import faulty
import numpy as np
import pytest
from skies import BANDS, INTENSITY, content
from skymill.chunking import errors
from skymill.engine.mapping import map_plan

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]


@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_poisoned_tiles_are_set_aside_and_alone_done_again(tmp_path, where):
    sky = faulty.make_sky(tmp_path / "sky.zarr")
    diary = tmp_path / "diary"
    wanted = faulty.undisturbed(sky, diary)
    poison = (0, 17, 100, 191)
    plan = faulty.total_plan(sky, diary, poison=poison)
    with (
        contextlib.nullcontext() if where == "threads" else faulty.cluster(workers=2) as client,
        pytest.raises(errors.RunError, match="4 tiles kept failing and were set aside") as caught,
    ):
        plan.run(client, progress=False)
    for tile in poison:
        assert f"tile {tile}: ValueError: poisoned tile {tile}" in str(caught.value)
    assert faulty.calls(diary) == {
        tile: 3 if tile in poison else 1 for tile in range(192) if tile not in faulty.EMPTY
    }  # tried three times, then no more
    before = faulty.calls(diary)
    assert faulty.total_plan(sky, diary).run(progress=False).counts["computed"] == 4
    assert set(faulty.calls(diary) - before) == set(poison)
    assert content(sky, "total", "ledger/total") == wanted


def test_many_poisoned_tiles_are_counted_and_the_first_named(tmp_path):
    sky = faulty.make_sky(tmp_path / "sky.zarr")
    with pytest.raises(errors.RunError, match=r"30 tiles kept failing[\s\S]*and 20 more[\s\S]*does only these tiles"):
        faulty.total_plan(sky, tmp_path / "diary", poison=tuple(range(20, 50))).run(progress=False)


@dataclass(frozen=True)
class TooLarge:
    """Asks for more memory than any machine has, in one tile."""

    tile: int

    def __call__(self, tile, inputs):
        if tile == self.tile:
            np.ones(2**50)
        return {"total": inputs["i160"]}


def test_a_task_that_cannot_have_its_memory_is_set_aside(tmp_path):
    sky = faulty.make_sky(tmp_path / "sky.zarr")
    plan = map_plan("total", TooLarge(9), target=sky, reads=BANDS, writes=[INTENSITY])
    with pytest.raises(errors.RunError, match=r"tile 9: .*MemoryError: Unable to allocate 8\.00 PiB"):
        plan.run(progress=False)
    assert len(faulty.finished(sky)) == faulty.OBSERVED - 1


def test_a_task_that_takes_the_memory_of_its_worker_is_set_aside(tmp_path):
    """The nanny kills the worker at its limit; the tile alone is given up, with a reason, and nobody hangs."""
    sky = faulty.make_sky(tmp_path / "sky.zarr")
    diary = tmp_path / "diary"
    wanted = faulty.undisturbed(sky, diary)
    settings = {
        "distributed.scheduler.allowed-failures": 1,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.target": False,
    }
    with faulty.cluster(workers=2, settings=settings, memory="700MB") as client:
        with pytest.raises(errors.RunError) as caught:
            faulty.total_plan(sky, diary, hungry=(20,), delay=0.01).run(client, progress=False)
        assert "1 tiles kept failing" in str(caught.value)
        assert "tile 20: its worker process died each time it was tried" in str(caught.value)
        assert "give workers more memory or fewer threads, or make tiles smaller" in str(caught.value)
        assert faulty.finished(sky) == {t for t in range(192) if t not in faulty.EMPTY and t != 20}
        report = faulty.total_plan(sky, diary).run(client, progress=False)
    assert report.counts["computed"] == 1
    assert content(sky, "total", "ledger/total") == wanted
