"""What a worker has, and amounts of memory as people write them."""

from __future__ import annotations

import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st
from skymill.chunking import errors
from skymill.engine.connect import connect, gpu_workers
from skymill.engine.plan import Plan
from skymill.engine.worker import (
    Worker,
    forget_peak_memory,
    format_bytes,
    keep_freed_memory,
    parse_bytes,
    peak_memory,
    resident_memory,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2GB", 2 * 10**9),
        ("1.5 GiB", 3 * 2**29),
        ("500 mb", 5 * 10**8),
        ("12", 12),
        (7, 7),
        ("64kB", 64000),
        (None, None),
    ],
)
def test_amounts_of_memory(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["much", "GB", "1.2.3 MB", ""])
def test_what_is_no_amount(text):
    with pytest.raises(errors.InputError, match="`memory`"):
        parse_bytes(text)


@given(st.integers(1, 10**13))
def test_amounts_read_back(count):
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.06)


def test_a_worker_needs_threads_and_memory():
    with pytest.raises(errors.InputError, match="`threads` 0"):
        Worker(10**9, 0)
    with pytest.raises(errors.InputError, match="`memory` 0"):
        Worker(0, 1)


def test_this_process_can_be_told_less():
    assert Worker.here(threads=1).threads == 1
    assert Worker.here(memory=10**9).memory == 10**9
    assert Worker.here().memory > 10**8


def test_peak_memory_grows():
    forget_peak_memory()
    before = peak_memory()
    # Pages of its own: what the allocator has kept of earlier tests would not grow the process.
    with mmap.mmap(-1, 80_000_000) as ballast:
        ballast.write(bytes(80_000_000))
        assert peak_memory() >= before + 60_000_000


def test_a_peak_can_be_forgotten():
    with mmap.mmap(-1, 80_000_000) as ballast:
        ballast.write(bytes(80_000_000))
        high = peak_memory()
    forget_peak_memory()
    assert resident_memory() <= peak_memory() < high - 50_000_000


def test_workers_of_dask_keep_freed_memory_and_other_processes_are_left_alone(monkeypatch):
    with connect(workers=1, threads=1) as client:
        assert client.submit(keep_freed_memory).result() is True
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    assert keep_freed_memory.__wrapped__() is False


def test_a_worker_is_read_from_the_cluster():
    with connect(threads=3, memory="1GB") as client:
        worker = Worker.from_client(client)
    assert (worker.threads, worker.memory, worker.processes) == (3, 10**9, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"address": "tcp://127.0.0.1:1", "workers": 2}, "Give one or the other"),
        ({"workers": 0}, "`workers` 0"),
        ({"threads": 0}, "`threads` 0"),
        ({"gpus": -1}, "`gpus` -1"),
        ({"memory": "lots"}, "`memory`"),
    ],
)
def test_bad_connections(options, words):
    with pytest.raises(errors.InputError, match=words):
        connect(**options)


def test_a_scheduler_that_does_not_answer():
    with pytest.raises(errors.RunError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1 "):
        connect("tcp://127.0.0.1:1", timeout=1.0)


def test_each_gpu_has_one_process_with_one_thread():
    known = gpu_workers(2, 1, threads=8, memory=10**10)
    assert [w["options"]["nthreads"] for w in known.values()] == [1, 1, 8]
    assert [w["options"]["env"]["CUDA_VISIBLE_DEVICES"] for w in known.values()] == ["0", "1", ""]
    assert known["gpu-1"]["options"]["resources"] == {"GPU": 1}
    assert known["cpu-0"]["options"]["env"]["JAX_PLATFORMS"] == "cpu"


def test_alternatives_that_fit_are_named_and_others_are_not():
    plan = Plan(
        "predict",
        "sky",
        execute=lambda run: None,
        worker=Worker(8 * 10**9, 2),
        memory={"inputs": 5 * 10**9},
        reserved=10**9,
        alternatives=lambda: [("batch=9", 3 * 10**9), ("batch=99", 4 * 10**9)],
    )
    with pytest.raises(errors.MemoryLimitError) as caught:
        plan.run()
    assert "needs 5.0 GB a task" in str(caught.value)
    assert "threads=1; batch=9 (3.0 GB); memory=11.0 GB a worker" in str(caught.value)
    assert isinstance(caught.value, MemoryError)
