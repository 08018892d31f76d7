"""Workers killed with SIGKILL at random moments: the run goes on, or is run again, to the same bytes."""

from __future__ import annotations

import faulty
import pytest
import skymill as sm
from ppv import make_cube
from skies import content
from skymill.chunking import errors

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(("seed", "kills"), [(1, 18), (2, 18), (3, 18)])
def test_workers_killed_at_random_moments(tmp_path, seed, kills):
    sky = faulty.make_sky(tmp_path / "sky.zarr")
    diary = tmp_path / "diary"
    wanted = faulty.undisturbed(sky, diary)
    killed, runs, reports, words = 0, 0, [], []
    while killed < kills:
        runs += 1
        with faulty.cluster(workers=2) as client:
            killer = faulty.WorkerKiller(client.cluster, kills - killed, seed + 100 * runs)
            killer.start()
            try:
                reports = [faulty.total_plan(sky, diary, delay=0.1).run(client, progress=False)]
            except errors.RunError as error:
                # Dask gives a task up after four deaths; we try it once more, alone, and then set it aside.
                words.append(str(error))
            finally:
                killed += killer.stop()
        if killed < kills and len(faulty.finished(sky)) == faulty.OBSERVED:
            # It came to its end in spite of all: everything once more.
            assert content(sky, "total", "ledger/total") == wanted
            faulty.stores.delete_map(sky, "total")
    reports.append(faulty.total_plan(sky, diary).run(progress=False))
    for report in reports:
        tiles = [record.tile for record in report.records]
        assert len(tiles) == len(set(tiles)) == faulty.OBSERVED
    assert content(sky, "total", "ledger/total") == wanted
    assert not faulty.leftovers(sky)
    assert killed >= kills
    assert all("worker process died" in said or "has no workers" in said for said in words)


@pytest.mark.parametrize("seed", [1, 2])
def test_workers_killed_that_keep_voxels(tmp_path, seed):
    """Tasks of k-means go to the worker that has their voxels; when it is gone, to another, which reads them."""
    sky = make_cube(tmp_path / "sky.zarr", 32, tile_nside=4)
    options = {"k": 5, "seed": 3, "tolerance": 0.0, "n_init": 2, "max_iterations": 30, "out": None}
    wanted = sm.kmeans(sky, "n_hi", **options).run(progress=False)
    with faulty.cluster(workers=2) as client:
        killer = faulty.WorkerKiller(client.cluster, 2, seed, pause=(0.2, 0.8))
        killer.start()
        try:
            found = sm.kmeans(sky, "n_hi", **options).run(client, progress=False)
        finally:
            killed = killer.stop()
    assert killed
    for name in wanted.data_vars:
        assert found[name].values.tobytes() == wanted[name].values.tobytes(), name
