"""The sliding window: how many are out, what is retried, and when a run must stop."""

from __future__ import annotations

import errno
import threading
import time
from concurrent.futures import Future

import pytest
from skymill.chunking import errors
from skymill.engine.window import TASKS_PER_THREAD, DaskExecutor, ThreadsExecutor, run_window
from skymill.engine.worker import Worker


class Counting:
    """Runs tasks at once and notes how many were out together."""

    def __init__(self, slots):
        self._slots, self.out, self.most = slots, [], 0
        self.lock = threading.Lock()  # tasks go out from one thread and end in others

    def slots(self):
        return self._slots

    def submit(self, task, tile):
        future = Future()
        with self.lock:
            self.out.append((future, task, tile))
            self.most = max(self.most, len(self.out))
        threading.Timer(0.005, self._finish).start()
        return future

    def _finish(self):
        with self.lock:
            future, task, tile = self.out.pop(0)
        try:
            future.set_result(task(tile))
        except BaseException as error:
            future.set_exception(error)

    def check(self):
        pass

    def lost(self):
        return False


def test_no_more_are_out_than_there_are_slots():
    executor, got = Counting(3), {}
    assert run_window(lambda tile: tile**2, range(40), executor, got.__setitem__) == []
    assert got == {tile: tile**2 for tile in range(40)}
    assert executor.most == 3


def test_a_failing_tile_is_tried_again_then_set_aside():
    tries = []

    def task(tile):
        if tile == 4:
            tries.append(tile)
            raise ValueError("no")
        return tile

    got = {}
    assert run_window(task, range(8), Counting(2), got.__setitem__, retries=3) == [(4, "ValueError: no")]
    assert len(tries) == 4
    assert sorted(got) == [0, 1, 2, 3, 5, 6, 7]


def test_a_tile_that_recovers_is_not_set_aside():
    tries = []

    def task(tile):
        tries.append(tile)
        if len(tries) == 1:
            raise ValueError("once")
        return tile

    assert run_window(task, [1], Counting(1), lambda *_: None) == []
    assert tries == [1, 1]


def late(tile):
    raise TimeoutError(f"tile {tile} did not come")


def test_a_result_that_does_not_come_has_the_scheduler_asked_at_once():
    """Each further result would be waited for as long: a lost scheduler is told at the first, not after the last."""

    class Silent(Counting):
        asked = 0

        def check(self):
            self.asked += 1
            raise errors.RunError("does not answer")

    executor = Silent(1)
    with pytest.raises(errors.RunError, match="does not answer"):
        run_window(late, range(100), executor, lambda *_: None)
    assert executor.asked == 1


def test_a_result_that_does_not_come_though_the_scheduler_answers_is_tried_again():
    assert run_window(late, [1], Counting(1), lambda *_: None) == [(1, "TimeoutError: tile 1 did not come")]


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (errno.ENOSPC, errors.DiskFullError, "disk is full"),
        (errno.EDQUOT, errors.DiskFullError, "disk is full"),
        (errno.EROFS, errors.RunError, "cannot be written"),
        (errno.EACCES, errors.RunError, "cannot be written"),
    ],
)
def test_what_hits_every_tile_stops_the_run(number, error, words):
    calls = []

    def task(tile):
        calls.append(tile)
        raise OSError(number, "whatever the system says")

    with pytest.raises(error, match=words):
        run_window(task, range(100), ThreadsExecutor(1), lambda *_: None)
    assert len(calls) < 5


class Client:
    """A Dask client as the executor sees it."""

    def __init__(self, status="running", workers=None):
        self.status, self.workers = status, workers or {}
        self.scheduler = self

    def identity(self, n_workers):
        return {"workers": self.workers}

    def sync(self, function, callback_timeout, **arguments):
        return function(**arguments)


def test_a_cluster_without_workers_is_reported_not_awaited():
    executor = DaskExecutor(Client(), patience=0.05)
    time.sleep(0.1)
    with pytest.raises(errors.RunError, match="has no workers"):
        executor.check()


def test_a_lost_scheduler_is_reported():
    with pytest.raises(errors.RunError, match="connection to the Dask scheduler is lost"):
        DaskExecutor(Client(status="closed")).check()


def test_a_scheduler_that_was_lost_while_it_was_asked_is_reported_as_lost():
    client = Client(workers={"a": {"nthreads": 1}})
    executor = DaskExecutor(client, patience=600.0)
    client.status = "connecting"
    executor.check()  # it may come back
    executor._seen_worker -= 601.0
    with pytest.raises(errors.RunError, match="connection to the Dask scheduler is lost"):
        executor.check()


def test_slots_follow_the_workers():
    client = Client(workers={"a": {"nthreads": 2}})
    executor = DaskExecutor(client)
    assert executor.slots() == 2 * TASKS_PER_THREAD
    client.workers["b"] = {"nthreads": 4}
    time.sleep(1.1)
    assert executor.slots() == 6 * TASKS_PER_THREAD


PAUSED = {"nthreads": 1, "status": "paused", "metrics": {"task_counts": {"executing": 0}}}


def test_workers_that_are_paused_and_idle_are_reported_not_awaited():
    executor = DaskExecutor(Client(workers={"a": PAUSED}), patience=0.05)
    time.sleep(0.1)
    with pytest.raises(errors.RunError, match="only workers that are paused for want of memory"):
        executor.check()


def test_a_paused_worker_with_a_task_in_hand_is_awaited():
    busy = {**PAUSED, "metrics": {"task_counts": {"executing": 1}}}
    executor = DaskExecutor(Client(workers={"a": busy}), patience=0.05)
    executor._asked = 0.0
    time.sleep(0.1)
    executor.check()


def test_a_scheduler_that_says_nothing_is_reported():
    class Silent(Client):
        def sync(self, function, callback_timeout, **arguments):
            raise TimeoutError

    with pytest.raises(errors.RunError, match="does not answer"):
        Worker.from_client(Silent())


class KilledWorker(Exception):  # noqa: N818 - Dask's own name
    """What Dask raises, as far as the window looks at it."""


def test_the_neighbours_of_a_tile_that_kills_workers_are_not_set_aside_with_it():
    """Every tile that is out together with tile 3 dies with it."""
    executor = Counting(3)

    def finish():
        with executor.lock:
            together = list(executor.out)
            executor.out.clear()
        dies = any(tile == 3 for _, _, tile in together)
        for future, task, tile in together:
            future.set_exception(KilledWorker()) if dies else future.set_result(task(tile))

    executor._finish = finish
    got = {}
    ((tile, reason),) = run_window(lambda tile: tile, range(12), executor, got.__setitem__)
    assert tile == 3
    assert "worker process died" in reason
    assert sorted(got) == [0, 1, 2, *range(4, 12)]
