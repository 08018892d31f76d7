"""Transforms: workers and clients killed in every stage, a scratch space that fills, is damaged or is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import fateful
import faulty
import pytest
from fateful import Fate, fated
from skies import content
from skymill.chunking import errors, objects
from skymill.engine import transpose

pytestmark = pytest.mark.faults

PATIENCE = 300  # seconds for what takes few, for the machine may be slow and busy

# Of spectra with one iteration: the stages in their order, each with a moment in its middle and one at its end.
MOMENTS = {
    "rows, in the middle of what it writes": "write:rings0/map1/3",
    "rows, done but not noted": "note:done/rings0/2.json",
    "orders, as it reads the columns": "read:rings0/map0/5",
    "orders, in the middle of what it writes": "write:orders0/map0/4",
    "orders, done but not noted": "note:done/orders0/3.json",
    "rows again": "note:done/rings1/6.json",
    "spectra": "write:spectra/spectra/5",
}
CLIENT_MOMENTS = MOMENTS | {
    "the stage of rows done but not noted": "note:done/rings0/all.json",
    "the stage of orders done but not noted": "note:done/orders0/all.json",
    "what is not needed any more half removed": "removed:rings0/",
    "the last but one stage removed": "removed:orders0/",
    "all removed": "removed:",
}


@pytest.fixture
def sky(tmp_path):
    return fateful.make_sky(tmp_path / "sky.zarr")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "fate"
    made.mkdir()
    return str(made)


@pytest.fixture(scope="module")
def client():
    with faulty.cluster(workers=2) as made:
        yield made


def leftovers(sky):
    return [str(path) for path in Path(f"{sky}.scratch").rglob("*")]


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_a_worker_killed_in_each_stage_of_spectra(sky, folder, client, moment):
    wanted = fateful.measure(sky)
    fate = Fate(folder, kills=(moment,))
    with fated(fate):
        assert fateful.measure(sky, client) == wanted
    assert fate.happened()
    assert leftovers(sky) == []


def test_workers_killed_in_all_stages_of_one_run(sky, folder, client):
    wanted = fateful.measure(sky)
    fate = Fate(folder, kills=tuple(MOMENTS.values()))
    with fated(fate):
        assert fateful.measure(sky, client) == wanted
    assert fate.happened()


@pytest.mark.parametrize(
    "moment",
    ["write:orders/drawn/5", "read:orders/drawn/3", "write:pixels/drawn/4", "note:done/pixels/2.json",
     "read:pixels/drawn/4"],
)  # fmt: skip
def test_a_worker_killed_in_each_stage_of_a_synthesis(sky, folder, client, moment):
    """The last one while a tile is put together from its pieces."""
    fateful.draw(sky)
    wanted = content(sky, "drawn", "ledger/drawn")
    fateful.stores.delete_map(sky, "drawn")
    fate = Fate(folder, kills=(moment,))
    with fated(fate):
        fateful.draw(sky, client)
    assert fate.happened()
    assert content(sky, "drawn", "ledger/drawn") == wanted
    assert leftovers(sky) == []


@pytest.mark.parametrize("moment", CLIENT_MOMENTS.values(), ids=CLIENT_MOMENTS)
def test_the_process_killed_in_each_stage_goes_on(sky, folder, moment):
    wanted = fateful.measure(sky)
    fate = Fate(folder, kills=(moment,))
    child = faulty.processes().Process(target=fateful.measure_fatefully, args=(sky, fate), kwargs={"threads": 1})
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == -signal.SIGKILL
    assert fate.happened()
    with fated(fate):
        assert fateful.measure(sky) == wanted
    # Where the middle of the transpose was reached, no step before it is done again, and none of it twice.
    # (Killed when all was removed, the run is a new one.)
    if moment != "removed:":
        assert fate.done_twice() == []
    assert leftovers(sky) == []


def test_the_client_of_a_cluster_killed_between_the_stages_goes_on(sky, folder):
    wanted = fateful.measure(sky)
    fate = Fate(folder, kills=("note:done/orders0/all.json",))
    child = faulty.processes().Process(target=fateful.measure_fatefully, args=(sky, fate, 2))
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == -signal.SIGKILL
    with faulty.cluster(workers=1) as client, fated(fate):
        assert fateful.measure(sky, client) == wanted
    assert fate.done_twice() == []


@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_a_poisoned_step_is_set_aside_and_alone_done_again(sky, folder, client, where):
    wanted = fateful.measure(sky)
    fate = Fate(folder, fails=("write:orders0/map1/4",))
    here = None if where == "threads" else client
    with fated(fate), pytest.raises(errors.RunError, match=r"1 tiles kept failing[\s\S]*poisoned write:orders0/map1/4"):
        fateful.measure(sky, here)
    steps = [event for event in fate.diary() if event.startswith("note:done/orders0/")]
    assert len(steps) == 12  # all others
    healed = Fate(folder)
    with fated(healed):
        assert fateful.measure(sky, here) == wanted
    assert healed.done_twice() == []


def damage(sky, key):
    """Flip a bit of an object of scratch space, in one of its later parts."""
    (path,) = Path(f"{sky}.scratch").glob(f"*/{key}")
    whole = bytearray(path.read_bytes())
    whole[2 * len(whole) // 3] ^= 1
    path.write_bytes(bytes(whole))


def lose(sky, key):
    (path,) = Path(f"{sky}.scratch").glob(f"*/{key}")
    path.unlink()


@pytest.mark.parametrize("harm", [damage, lose])
@pytest.mark.parametrize(
    ("moment", "key", "again"),
    [
        ("write:orders0/map0/4", "rings0/map0/5", 1),
        ("write:rings1/map0/4", "orders0/map0/6", 2),
        # What these were made from is gone by then: that is found out first.
        ("write:spectra/spectra/5", "rings1/map1/2", 2),
        ("write:spectra/spectra/5", "orders0/map0-alm/6", 2),
    ],
)
def test_scratch_space_that_is_damaged_is_made_again(sky, folder, moment, key, again, harm):
    wanted = fateful.measure(sky)
    fate = Fate(folder, kills=(moment,))
    child = faulty.processes().Process(target=fateful.measure_fatefully, args=(sky, fate), kwargs={"threads": 1})
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == -signal.SIGKILL
    harm(sky, key)
    words = []
    for _ in range(again + 1):
        try:
            assert fateful.measure(sky) == wanted
            break
        except errors.RunError as error:
            words.append(str(error))
    else:
        raise AssertionError("\n".join(words))
    assert words
    assert all("Run the same command again" in said for said in words)
    assert leftovers(sky) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes; the run needs about half of it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=755", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, leave):
    """Fill a file system but for some bytes."""
    with contextlib.suppress(OSError), open(folder / "ballast", "wb") as ballast:
        while True:
            os.write(ballast.fileno(), bytes(4096))
    os.truncate(folder / "ballast", max(0, os.path.getsize(folder / "ballast") - leave))


def test_a_scratch_space_without_room_is_refused_before_anything_is_written(sky, small_disk):
    fill(small_disk, 40_000)
    with pytest.raises(
        errors.DiskFullError, match=r"needs .* its file system has .* free[\s\S]*Nothing has been written"
    ):
        fateful.measure(sky, scratch=small_disk, precision="double")
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_a_scratch_space_that_fills_under_the_run(sky, small_disk, client, where, monkeypatch):
    """Somebody else takes the room that there was when the run began."""
    here = None if where == "threads" else client
    wanted = fateful.measure(sky)
    monkeypatch.setattr(transpose, "check_space", lambda where, needed: None)
    for leave in (0, 60_000, 200_000, 330_000):
        fill(small_disk, leave)
        with pytest.raises(errors.DiskFullError, match=r"the disk is full[\s\S]*run the same command again"):
            fateful.measure(sky, here, scratch=small_disk)
        if here is not None:
            faulty.await_idle_workers(here)
        assert not list(small_disk.rglob("*.partial"))
        (small_disk / "ballast").unlink()
    assert fateful.measure(sky, here, scratch=small_disk) == wanted
    assert list(small_disk.iterdir()) == []


def test_no_space_at_the_nth_write(sky, monkeypatch):
    wanted = fateful.measure(sky)
    left = [10**9]

    def around(write):
        def writes(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*arguments)

        return writes

    for name in ("put", "put_parts"):
        monkeypatch.setattr(objects, name, around(getattr(objects, name)))
    words, number = [], 0
    while True:
        left[0] = number
        try:
            assert fateful.measure(sky, threads=1) == wanted
            break
        except errors.DiskFullError as error:
            words.append(str(error))
        left[0] = 10**9
        assert fateful.measure(sky, threads=1) == wanted
        number += 17
    assert len(words) >= 4
    assert all("Free some space" in said for said in words)


def test_the_memory_of_a_cluster_gives_the_same_bytes(sky, client):
    wanted = fateful.measure(sky)
    assert fateful.measure(sky, client, transpose="cluster") == wanted
    fateful.draw(sky)
    drawn = content(sky, "drawn", "ledger/drawn")
    fateful.stores.delete_map(sky, "drawn")
    fateful.draw(sky, client, transpose="cluster")
    assert content(sky, "drawn", "ledger/drawn") == drawn
    assert not Path(f"{sky}.scratch").exists()


@pytest.mark.parametrize("moment", ["note:done/rings0/5.json", "read:rings0/map0/5", "write:spectra/spectra/5"])
def test_a_worker_that_held_what_is_needed_ends_the_run_with_words_and_the_next_begins_anew(sky, folder, moment):
    wanted = fateful.measure(sky)
    fate = Fate(folder, kills=(moment,))
    with faulty.cluster(workers=2) as client:
        words = r"is lost .* it begins anew. .* give `scratch`"
        with faulty.connecting_within(client, 5), fated(fate), pytest.raises(errors.RunError, match=words):
            fateful.measure(sky, client, transpose="cluster")
        assert fate.happened()
        client.wait_for_workers(2, timeout=120)
        assert fateful.measure(sky, client, transpose="cluster") == wanted


def test_workers_with_one_thread_do_not_wait_for_each_other(sky):
    """Every task of every worker asks for what others hold, all at once."""
    wanted = fateful.measure(sky)
    found = []
    with faulty.cluster(workers=3) as client:

        def measured():
            found.append(fateful.measure(sky, client, transpose="cluster"))

        both = [threading.Thread(target=measured) for _ in range(2)]
        for each in both:
            each.start()
        for each in both:
            each.join(PATIENCE)
    assert found == [wanted, wanted]
