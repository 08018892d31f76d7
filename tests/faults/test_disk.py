"""A disk that fills, and a store that may not be written: clear words, nothing lost, the same command goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import faulty
import pytest
from skies import content
from skymill.chunking import errors, objects
from zarr.storage import _local

pytestmark = pytest.mark.faults

PAGE = 4096


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=755", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, leave):
    """Fill a file system but for some bytes."""
    with open(folder / "ballast", "wb") as ballast, contextlib.suppress(OSError):
        while True:
            os.write(ballast.fileno(), bytes(PAGE))
    size = os.path.getsize(folder / "ballast")
    os.truncate(folder / "ballast", max(0, size - leave))


def test_a_disk_that_fills_at_any_moment(small_disk, tmp_path):
    """From nothing free at all to nearly enough, page by page: templates, shards, ledger and statistics all hit it."""
    sky = faulty.make_sky(small_disk / "sky.zarr", tile_nside=1)
    diary = tmp_path / "diary"
    wanted = faulty.undisturbed(sky, diary)
    words, finished = [], set()
    for pages in range(0, 45, 2):
        faulty.remove_total(sky)
        fill(small_disk, pages * PAGE)
        # With one thread in every other round: what is finished by then depends on nothing but the pages.
        try:
            faulty.total_plan(sky, diary, threads=1 + pages // 2 % 2).run(progress=False)
        except errors.DiskFullError as error:
            words.append(str(error))
            finished.add(len(faulty.finished(sky)))
        assert not faulty.leftovers(sky)
        known, before = faulty.finished(sky), faulty.calls(diary)
        (small_disk / "ballast").unlink()
        faulty.total_plan(sky, diary).run(progress=False)
        assert not known & set(faulty.calls(diary) - before)
        assert content(sky, "total", "ledger/total") == wanted
    assert len(words) >= 12
    for needed in ("the disk is full", "Free some space", "run the same command again"):
        assert all(needed in said for said in words)
    assert len(finished) > 5  # it hit early, in the middle, and late


def test_a_disk_that_fills_under_a_cluster(small_disk, tmp_path):
    sky = faulty.make_sky(small_disk / "sky.zarr", tile_nside=1)
    wanted = faulty.undisturbed(sky, tmp_path / "diary")
    fill(small_disk, 20 * PAGE)
    with faulty.cluster(workers=2) as client:
        with pytest.raises(errors.DiskFullError, match="the disk is full"):
            faulty.total_plan(sky, tmp_path / "diary").run(client, progress=False)
        (small_disk / "ballast").unlink()
        faulty.total_plan(sky, tmp_path / "diary").run(client, progress=False)
    assert content(sky, "total", "ledger/total") == wanted


class Full:
    """Stands in for a function that writes; from some call on the disk is full, until space is freed."""

    def __init__(self):
        self.left = 10**9

    def around(self, write):
        def writes(*arguments, **options):
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*arguments, **options)

        return writes


def test_no_space_at_the_nth_write_for_every_n(tmp_path, monkeypatch):
    """The same without a small file system: every single write of a run fails once."""
    sky = faulty.make_sky(tmp_path / "sky.zarr", 8, tile_nside=1)
    diary = tmp_path / "diary"
    wanted = faulty.undisturbed(sky, diary)
    full = Full()
    monkeypatch.setattr(_local, "_put", full.around(_local._put))
    monkeypatch.setattr(objects, "put", full.around(objects.put))
    words = []
    while True:
        faulty.remove_total(sky)
        full.left = len(words)
        try:
            faulty.total_plan(sky, diary, threads=1).run(progress=False)
        except errors.DiskFullError as error:
            words.append(str(error))
        else:
            break
        full.left = 10**9
        faulty.total_plan(sky, diary, threads=1).run(progress=False)
        assert content(sky, "total", "ledger/total") == wanted
    # A template, an attribute and an identity; of every tile a shard, statistics and a tick.
    assert len(words) > 3 * 8
    assert all("Free some space" in said for said in words)


def told(sky, diary, user=None):
    """Return what a run in a process of its own said."""
    context = faulty.processes()
    answer = context.SimpleQueue()
    child = context.Process(target=faulty.run_and_tell, args=(sky, str(diary), answer, user))
    child.start()
    said = answer.get()
    child.join(30)
    return said


@pytest.fixture
def open_folder():
    """A folder that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="sky"))
    folder.chmod(0o777)
    yield folder
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)
    shutil.rmtree(folder)


@pytest.mark.parametrize("finished", [False, True])
def test_a_store_that_may_not_be_written(open_folder, finished):
    """Permission is refused; a map that is finished is verified all the same, as that writes nothing."""
    sky = faulty.make_sky(open_folder / "sky.zarr", tile_nside=1)
    diary = open_folder / "diary"
    diary.touch()
    diary.chmod(0o666)
    if finished:
        faulty.total_plan(sky, diary).run(progress=False)
    subprocess.run(["chmod", "-R", "a-w,a+rX", sky], check=True)
    before = faulty.listing(sky)
    said = told(sky, diary, user=65534 if os.geteuid() == 0 else None)
    if finished:
        assert said == "done"
    else:
        assert said.startswith("RunError: the store cannot be written or read ([Errno 13] Permission denied")
        assert "Change its permissions" in said
    assert faulty.listing(sky) == before


def test_a_file_system_that_is_read_only(small_disk, tmp_path):
    sky = faulty.make_sky(small_disk / "sky.zarr", tile_nside=1)
    before = faulty.listing(sky)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(errors.RunError, match=r"Read-only file system.* Make it writable"):
        faulty.total_plan(sky, tmp_path / "diary").run(progress=False)
    assert faulty.listing(sky) == before
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    faulty.total_plan(sky, tmp_path / "diary").run(progress=False)
