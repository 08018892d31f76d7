"""Stages: finished ones are passed over, steps that keep failing are set aside, and what is refused ends the run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from skymill.chunking import errors
from skymill.chunking.tiling import Tiling
from skymill.engine.plan import Run
from skymill.engine.records import RunReport
from skymill.engine.rings import Layout
from skymill.engine.scratch import ALL, FolderScratch, done_key
from skymill.engine.stages import Stages, band_order
from skymill.engine.transform import Step, Stopwatch
from skymill.engine.worker import Worker

LAYOUT = Layout.of(Tiling(64, 1, 8), 64)


@dataclass(frozen=True)
class Told(Step):
    """Tells of every call; fails, or refuses, where told to."""

    diary: str = ""
    fails: tuple[int, ...] = ()
    refuses: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()

    def work(self, number: int, watch: Stopwatch) -> dict[str, Any]:
        with open(self.diary, "a") as diary:
            diary.write(f"{number}\n")
        if number in self.fails:
            raise ValueError(f"poisoned step {number}")
        if number in self.refuses:
            raise errors.InputError(f"the mask of step {number} is negative")
        if number in self.lost:
            raise errors.RunError("the worker that held it is lost")
        return {"square": number**2}


@pytest.fixture
def diary(tmp_path):
    return tmp_path / "diary"


def calls(diary: Path) -> list[int]:
    return sorted(map(int, diary.read_text().split())) if diary.exists() else []


def stages_in(tmp_path, threads=2):
    scratch = FolderScratch(str(tmp_path / "scratch"))
    return Stages(scratch, Run(None, Worker.here(threads=threads), False), RunReport("test", "nowhere"))


def told(stages, diary, **options):
    return Told(LAYOUT, stages.scratch, "stage", str(diary), **options)


def test_a_stage_gives_its_facts_in_order_and_is_done_once(tmp_path, diary):
    stages = stages_in(tmp_path)
    found = stages.go(told(stages, diary), [2, 3, 1, 0], "rows")
    assert found == [{"square": number**2} for number in range(4)]
    assert stages.report.counts == {"computed": 4}
    assert stages.report.seconds["stage rows"] > 0
    again = stages_in(tmp_path)
    assert again.go(told(again, diary), [2, 3, 1, 0], "rows") == found
    assert again.report.counts == {"verified": 4}
    assert calls(diary) == [0, 1, 2, 3]


def test_a_stage_begun_goes_on(tmp_path, diary):
    stages = stages_in(tmp_path)
    step = told(stages, diary)
    step(2), step(0)
    assert stages.go(step, range(4), "rows") == [{"square": number**2} for number in range(4)]
    assert stages.report.counts == {"computed": 2, "verified": 2}
    assert calls(diary) == [0, 1, 2, 3]


def test_a_step_that_keeps_failing_is_set_aside_and_alone_done_again(tmp_path, diary):
    stages = stages_in(tmp_path)
    with pytest.raises(errors.RunError, match=r"1 tiles kept failing[\s\S]*poisoned step 2") as caught:
        stages.go(told(stages, diary, fails=(2,)), range(5), "rows")
    assert caught.value.report is stages.report  # type: ignore[attr-defined]
    assert calls(diary) == [0, 1, 2, 2, 2, 3, 4]
    assert stages.scratch.noted(done_key("stage", ALL)) is None
    again = stages_in(tmp_path)
    assert len(again.go(told(again, diary), range(5), "rows")) == 5
    assert calls(diary) == [0, 1, 2, 2, 2, 2, 3, 4]


def test_what_is_refused_ends_the_run_at_once_and_is_not_tried_again(tmp_path, diary):
    stages = stages_in(tmp_path, threads=1)
    with pytest.raises(errors.InputError, match="the mask of step 1 is negative"):
        stages.go(told(stages, diary, refuses=(1,)), range(50), "rows")
    assert calls(diary).count(1) == 1
    assert len(calls(diary)) < 10
    assert stages.scratch.noted(done_key("stage", 1)) is None


def test_a_step_that_speaks_of_the_run_ends_it_at_once(tmp_path, diary):
    stages = stages_in(tmp_path, threads=1)
    with pytest.raises(errors.RunError, match="the worker that held it is lost"):
        stages.go(told(stages, diary, lost=(1,)), range(50), "rows")
    assert len(calls(diary)) < 10


def test_what_is_dropped_stays_known_as_done(tmp_path, diary):
    stages = stages_in(tmp_path)
    found = stages.go(told(stages, diary), range(3), "rows")
    stages.scratch.write("stage/field/0", [])
    stages.drop("stage", "never")
    assert not (tmp_path / "scratch" / "stage").exists()
    assert stages.go(told(stages, diary), range(3), "rows") == found
    assert calls(diary) == [0, 1, 2]


def test_the_longest_bands_go_first():
    order = band_order(LAYOUT)
    assert sorted(order) == list(range(LAYOUT.n_bands))
    lengths = [stop - first for first, stop in map(LAYOUT.pixels, order)]
    # The first and the last band are cut off differently by a row or two.
    assert all(one >= 0.85 * other for one, other in itertools.pairwise(lengths))
    assert min(lengths) < 0.5 * max(lengths)
