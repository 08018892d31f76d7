"""The map form: what is written, what is resumed, what is refused, and that workers do not change a byte."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from skies import BANDS, INTENSITY, Total, content, make_sky
from skymill.chunking import errors
from skymill.chunking import store as stores
from skymill.chunking.schema import MapInfo
from skymill.engine import ledger
from skymill.engine.connect import connect
from skymill.engine.mapping import map_plan
from skymill.engine.worker import Worker


def total_plan(sky, kernel=None, **options):
    kernel = kernel or Total()
    options = {
        "target": sky,
        "reads": BANDS,
        "writes": [INTENSITY],
        "parameters": {"factor": kernel.factor},
        **options,
    }
    return map_plan("total", kernel, **options)


def expected(sky, factor=1.0):
    dataset = stores.open(sky)
    return (sum(dataset[name].values.astype(np.float32) for name in BANDS) * np.float32(factor)).astype(np.float32)


def test_nothing_happens_before_run(sky):
    plan = total_plan(sky)
    assert "total" not in stores.infos(sky)
    assert len(plan.todo) == 11
    assert "11 to do, 0 done already, 1 unobserved, 12 in all" in str(plan)


def test_a_run_writes_what_the_kernel_returns(sky):
    report = total_plan(sky).run()
    np.testing.assert_array_equal(stores.open(sky)["total"].values, expected(sky))
    assert report.counts == {"computed": 11, "unobserved": 1}
    assert report.cells == 11 * 1024
    assert sum(record.statistics["sum"] for record in report.records) == pytest.approx(
        np.nansum(expected(sky), dtype=np.float64)
    )


def test_unobserved_tiles_are_not_stored_but_finished(sky):
    total_plan(sky).run()
    assert 5 not in stores.observed_tiles(sky, ["total"])
    assert ledger.entry(sky, "total", 5) == ledger.NOTHING_STORED


def test_a_second_run_verifies_and_keeps_the_statistics(sky):
    first = total_plan(sky).run()
    before = content(sky, "total")
    again = total_plan(sky)
    assert (len(again.todo), again.done) == (0, 11)
    second = again.run()
    assert second.counts == {"verified": 11, "unobserved": 1}
    assert content(sky, "total") == before
    assert [r.statistics for r in second.records] == [r.statistics for r in first.records]


@pytest.mark.parametrize("damage", ["truncate", "delete", "garbage"])
def test_a_damaged_shard_is_mended(sky, damage):
    total_plan(sky).run()
    before = content(sky, "total")
    shard = os.path.join(sky, "total", "c", "3")
    if damage == "truncate":
        os.truncate(shard, os.path.getsize(shard) // 2)
    elif damage == "delete":
        os.remove(shard)
    else:
        with open(shard, "r+b") as file:
            file.seek(100)
            file.write(b"\xff" * 64)
    report = total_plan(sky).run()
    assert report.counts == {"verified": 10, "computed": 1, "unobserved": 1}
    assert content(sky, "total") == before


def test_a_damaged_input_is_set_aside_and_the_rest_goes_on(sky):
    shard = os.path.join(sky, "i250", "c", "4")
    os.truncate(shard, os.path.getsize(shard) // 2)
    with pytest.raises(errors.RunError, match=r"tile 4: FormatError: .*damaged"):
        total_plan(sky).run()
    assert ledger.entry(sky, "total", 4) == ledger.NOT_DONE
    assert ledger.entry(sky, "total", 6) > ledger.NOTHING_STORED


def test_a_poisoned_tile_is_set_aside_and_alone_done_again(sky):
    with pytest.raises(errors.RunError, match="tile 7: ValueError: poisoned tile 7") as caught:
        total_plan(sky, Total(fails=(7,))).run()
    assert caught.value.report.set_aside == [(7, "ValueError: poisoned tile 7")]
    assert total_plan(sky).todo == [7]
    assert total_plan(sky).run().counts == {"verified": 10, "computed": 1, "unobserved": 1}
    np.testing.assert_array_equal(stores.open(sky)["total"].values, expected(sky))


def test_another_run_is_refused_unless_overwrite(sky):
    total_plan(sky).run()
    with pytest.raises(errors.IdentityError, match=r"parameters\.factor was 1\.0, is 2\.0"):
        total_plan(sky, Total(factor=2.0))
    total_plan(sky, Total(factor=2.0), overwrite=True).run()
    np.testing.assert_array_equal(stores.open(sky)["total"].values, expected(sky, 2.0))


def test_overwrite_of_the_same_run_resumes(sky):
    with pytest.raises(errors.RunError):
        total_plan(sky, Total(fails=(7,)), overwrite=True).run()
    assert total_plan(sky, overwrite=True).todo == [7]


def test_changed_inputs_are_another_run(tmp_path):
    sky = make_sky(tmp_path / "sky.zarr")
    total_plan(sky).run()
    values = stores.read_tile(sky, "i160", 0) * 2
    stores.write_tile(sky, "i160", 0, values)
    with pytest.raises(errors.IdentityError, match=r"inputs\.i160"):
        total_plan(sky)


def test_a_map_that_is_not_ours_is_not_overwritten(sky):
    with pytest.raises(errors.IdentityError, match="was not made by a run of skymill"):
        total_plan(sky, writes=[MapInfo("i160", "intensity", "MJy/sr")], reads=["i250"])


def test_a_map_that_is_read_is_not_written_over(sky, tmp_path):
    before = content(sky, BANDS[0])
    mine = MapInfo(BANDS[0], "intensity", "MJy/sr")
    with pytest.raises(errors.InputError, match="over a map that it reads"):
        total_plan(sky, writes=[mine], overwrite=True)
    assert content(sky, BANDS[0]) == before
    elsewhere = str(tmp_path / "elsewhere.zarr")
    stores.create(elsewhere, stores.tiling_of(sky).nside, frame=stores.frame_of(sky))
    total_plan(sky, source=sky, target=elsewhere, writes=[mine])  # of the same name in another store is another map


def test_an_unfinished_input_is_refused(sky):
    with pytest.raises(errors.RunError):
        total_plan(sky, Total(fails=(7,))).run()
    with pytest.raises(errors.FormatError, match=r"'total' .* is unfinished: 1 of 12 tiles"):
        total_plan(sky, reads=["total"], writes=[MapInfo("pred_850um", "intensity", "MJy/sr")])


def test_a_run_stopped_before_its_last_checks_is_unfinished(sky):
    def stopped(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        total_plan(sky, after=stopped).run()
    assert not ledger.is_finished(sky, "total")
    with pytest.raises(errors.FormatError, match="stopped before its last checks"):
        ledger.map_digest(sky, "total")
    total_plan(sky).run()
    assert ledger.is_finished(sky, "total")
    assert len(ledger.map_digest(sky, "total")) == 32


def test_missing_input_is_named_with_the_nearest(sky):
    with pytest.raises(errors.MissingMapError, match="did you mean 'i160'"):
        total_plan(sky, reads=["i16O"])


def test_a_source_of_another_nside_is_refused(sky, tmp_path):
    other = make_sky(tmp_path / "other.zarr", 16)
    with pytest.raises(errors.InputError, match="nside 16"):
        total_plan(sky, source=other)


def test_target_may_have_smaller_tiles(sky, tmp_path):
    fine = str(tmp_path / "fine.zarr")
    stores.create(fine, 32, frame="galactic", tile_nside=4)
    report = total_plan(fine, source=sky).run()
    assert report.counts["computed"] == 11 * 16
    np.testing.assert_array_equal(stores.open(fine)["total"].values, expected(sky))


def test_a_plan_too_large_names_options_that_fit(sky):
    tight = Worker(memory=300_000_000, threads=4)
    plan = total_plan(sky, memory={"temporaries": 20_000_000}, worker=tight)
    with pytest.raises(errors.MemoryLimitError, match=r"Any of these fits: threads=2; memory="):
        plan.run()
    assert "total" not in stores.infos(sky)
    total_plan(sky, memory={"temporaries": 20_000_000}, worker=Worker(memory=300_000_000, threads=2)).run()


def test_lazy_equals_the_run_and_computes_nothing_by_itself(sky):
    import dask

    with dask.config.set(scheduler=_refuse):
        lazy = total_plan(sky).lazy()
    assert "total" not in stores.infos(sky)
    np.testing.assert_array_equal(lazy["total"].compute(scheduler="sync").values, expected(sky))


def _refuse(*_, **__):
    raise AssertionError("something was computed")


def test_the_report_is_written_as_json(sky, tmp_path):
    total_plan(sky).run(report=tmp_path / "report.json")
    known = json.loads((tmp_path / "report.json").read_text())
    assert known["counts"] == {"computed": 11, "unobserved": 1}
    assert known["seconds"]["wall"] > 0
    assert known["cells_per_second"] > 0


@pytest.fixture(scope="module")
def workers():
    with connect(workers=2, threads=2) as client:
        yield client


def test_any_number_of_workers_and_threads_writes_the_same_bytes(tmp_path, workers):
    runs = {}
    for key in ("one thread", "four threads", "cluster"):
        sky = make_sky(tmp_path / f"{key}.zarr")
        worker = Worker.here(threads=4 if key == "four threads" else 1)
        total_plan(sky, worker=worker).run(workers if key == "cluster" else None)
        runs[key] = content(sky, "total")
    assert runs["one thread"] == runs["four threads"] == runs["cluster"]
    assert len(runs["cluster"]) == 11


@pytest.mark.slow
def test_tasks_that_gain_from_a_gpu_go_to_the_workers_that_have_one(tmp_path):
    from distributed import Client, Scheduler, SpecCluster
    from skymill.engine.connect import gpu_workers

    workers = gpu_workers(1, 1, threads=1, memory=10**9)
    # What a worker says of itself decides, so that this holds on a machine without any GPU too.
    del workers["gpu-0"]["options"]["env"]["XLA_CLIENT_MEM_FRACTION"]
    sky = make_sky(tmp_path / "sky.zarr")
    cluster = SpecCluster(workers=workers, scheduler={"cls": Scheduler, "options": {"dashboard_address": ":0"}})
    with cluster, Client(cluster) as client:
        ran = {}
        for gpu in (True, False):
            report = total_plan(sky, gpu=gpu, overwrite=True, parameters={"gpu": gpu}).run(client)
            ran[gpu] = set(report.processes)
    assert len(ran[True]) == len(ran[False]) == 1
    assert ran[True] != ran[False]


def test_tasks_are_small():
    import cloudpickle
    from skymill.engine.mapping import TileTask

    task = TileTask(Total(), "/a/long/path/to/sky.zarr", BANDS, "/a/long/path/to/sky.zarr", ("total",), 4**10)
    assert len(cloudpickle.dumps(task)) < 2_000


def test_overviews_are_written_with_the_map(tmp_path):
    sky = make_sky(tmp_path / "sky.zarr", 1024, names=("i160",))
    map_plan("total", Total(), target=sky, reads=["i160"], writes=[INTENSITY]).run()
    wanted = stores.open(sky)["total"].values.astype(np.float64)
    for nside, children in ((512, 4), (128, 16)):
        overview = stores.open(f"{sky}/overview/nside{nside}")["total"].values
        blocks = np.ma.masked_invalid(wanted).reshape(12 * nside**2, children)
        wanted = blocks.mean(axis=1).filled(np.nan)
        np.testing.assert_allclose(overview, wanted, rtol=1e-6)


def test_the_kernel_may_not_invent_maps(sky):
    with pytest.raises(errors.RunError, match="the kernel made total"):
        total_plan(sky, writes=[MapInfo("pred_850um", "intensity", "MJy/sr")]).run()
