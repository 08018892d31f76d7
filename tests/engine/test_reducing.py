"""The reduce form: order of merging, any number of workers, and what cannot be reduced."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest
from skies import BANDS
from skymill.chunking import errors
from skymill.chunking import store as stores
from skymill.engine.connect import connect
from skymill.engine.reducing import reduce_tiles


def tile_numbers(tile, inputs):
    return (tile,)


def sums(tile, inputs):
    return float(np.nansum(inputs["i160"] / np.float32(3)))


def test_tiles_are_merged_in_order_whatever_the_threads(sky):
    merged = reduce_tiles(tile_numbers, store=sky, names=BANDS, merge=lambda a, b: a + b, threads=4)
    assert merged == (0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11)


def test_chosen_tiles_and_initial_value(sky):
    merged = reduce_tiles(tile_numbers, store=sky, names=BANDS, merge=lambda a, b: a + b, tiles=[9, 1], initial=(99,))
    assert merged == (99, 1, 9)


def test_workers_do_not_change_the_last_bit(sky):
    options = {"store": sky, "names": ["i160"], "merge": lambda a, b: a + b}
    alone = reduce_tiles(sums, threads=1, **options)
    values = stores.open(sky)["i160"].values
    assert alone == pytest.approx(float(np.nansum(values.astype(np.float64) / 3)), rel=1e-5)
    with connect() as client:
        assert reduce_tiles(lambda t, i: float(np.nansum(i["i160"] / np.float32(3))), client=client, **options) == alone


def test_what_keeps_failing_is_an_error(sky):
    def fails(tile, inputs):
        raise ValueError("never")

    with pytest.raises(errors.RunError, match=r"tile 0 of .* cannot be reduced: ValueError: never"):
        reduce_tiles(fails, store=sky, names=BANDS, merge=max)


def test_nothing_to_go_over_is_an_error(sky):
    with pytest.raises(errors.RunError, match="nothing to go over"):
        reduce_tiles(tile_numbers, store=sky, names=BANDS, merge=max, tiles=[])
    with pytest.raises(errors.MissingMapError):
        reduce_tiles(tile_numbers, store=sky, names=["nothing"], merge=max)


def fails_at_eight(tile, inputs):
    if tile == 8:
        raise ValueError("never")
    return (tile,)


class Sent:
    """A client that computes at once, and writes down what was sent where."""

    status = "running"

    def __init__(self, **workers):
        self.workers, self.tasks = {name: {"nthreads": threads} for name, threads in workers.items()}, []
        self.scheduler = self

    def identity(self, n_workers):
        return {"workers": self.workers}

    def sync(self, function, callback_timeout, **arguments):
        return function(**arguments)

    def submit(self, task, tiles, *, workers=None, allow_other_workers=None, **_):
        self.tasks.append((tiles, workers, allow_other_workers))
        future = Future()
        try:
            future.set_result(task(tiles))
        except ValueError as error:
            future.set_exception(error)
        return future


def test_tasks_of_a_cluster_take_several_tiles_and_go_home(sky):
    options = {"store": sky, "names": BANDS, "merge": lambda a, b: a + b}
    client = Sent(b=1, a=1)
    merged = reduce_tiles(tile_numbers, client=client, tasks_a_thread=2, **options)
    assert merged == (0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11)
    # Every fourth tile to one task; those at the same place go to the same worker, or to one that is idle.
    sent = [((0, 4, 9), "a"), ((1, 6, 10), "b"), ((2, 7, 11), "a"), ((3, 8), "b")]
    assert client.tasks == [(tiles, [worker], True) for tiles, worker in sent]
    homes = {tile: worker for tiles, worker in sent for tile in tiles}
    for tasks, count in ((1, 2), (3, 6), (100, 11)):
        client.tasks.clear()
        assert reduce_tiles(tile_numbers, client=client, tasks_a_thread=tasks, **options) == merged
        assert len(client.tasks) == count
        assert {tile: worker for tiles, (worker,), _ in client.tasks for tile in tiles} == homes
    client.tasks.clear()
    reduce_tiles(tile_numbers, client=client, **options)
    assert client.tasks == [((tile,), None, None) for tile in merged]


def test_workers_with_more_threads_are_home_to_more_tiles(sky):
    client = Sent(a=1, b=3)
    reduce_tiles(tile_numbers, client=client, tasks_a_thread=3, store=sky, names=BANDS, merge=lambda a, b: a + b)
    homes = [worker for _, (worker,), _ in client.tasks]
    assert len(homes) == 11
    assert homes[:8] == ["a", "b", "b", "b"] * 2


def test_a_tile_that_keeps_failing_among_several_is_told(sky):
    options = {"store": sky, "names": BANDS, "merge": lambda a, b: a + b}
    with pytest.raises(
        errors.RunError, match=r"one of the tiles 1, 4, 8, 11 of .* cannot be reduced: ValueError: never"
    ):
        reduce_tiles(fails_at_eight, client=Sent(a=3), tasks_a_thread=1, **options)


def test_homing_changes_no_bit(sky):
    options = {"store": sky, "names": ["i160"], "merge": lambda a, b: a + b}
    alone = reduce_tiles(sums, threads=1, **options)
    with connect(workers=2, threads=1) as client:
        kernel = lambda t, i: float(np.nansum(i["i160"] / np.float32(3)))  # noqa: E731
        assert [reduce_tiles(kernel, client=client, tasks_a_thread=2, **options) for _ in range(2)] == [alone, alone]
