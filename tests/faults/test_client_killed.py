"""The process that runs a plan killed with SIGKILL, or interrupted, at random moments; two processes at one plan."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import faulty
import pytest
from skies import content
from skymill.engine import ledger

pytestmark = pytest.mark.faults

PATIENCE = 300  # seconds for what takes few, for the machine may be slow and busy


def kill_until_done(sky, diary, seed, kills, **options):
    """Start the plan, kill it, start it again, until it has been killed enough and is done; return the kills."""
    chance, killed, starts, known = random.Random(seed), 0, 0, set()
    while True:
        starts += 1
        assert starts < 10 * kills
        before, again = faulty.calls(diary), faulty.finished(sky)
        assert again >= known, "a tile that was finished is not any more"
        known = again
        child = faulty.processes().Process(target=faulty.run_total, args=(sky, str(diary)), kwargs=options)
        child.start()
        if killed < kills:
            child.join(chance.uniform(0.05, 0.6))
            child.kill()
        child.join(PATIENCE)
        computed = faulty.calls(diary) - before
        assert not known & set(computed), "a finished tile was computed again"
        if child.exitcode == 0:
            return killed
        assert child.exitcode == -signal.SIGKILL
        killed += 1
        child.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_the_process_killed_at_random_moments(tmp_path, seed):
    sky = faulty.make_sky(tmp_path / "sky.zarr")
    wanted = faulty.undisturbed(sky, tmp_path / "diary")
    killed = kill_until_done(sky, tmp_path / "diary", seed, 12, threads=2, delay=0.05)
    assert killed >= 8
    assert content(sky, "total", "ledger/total") == wanted
    assert not faulty.leftovers(sky)
    # Only what was in hand when a kill came was computed twice: at most two tiles, as there are two threads.
    assert sum(faulty.calls(tmp_path / "diary").values()) <= faulty.OBSERVED + 2 * killed


def test_the_process_killed_while_it_makes_the_maps(tmp_path):
    """Kills within the first moments, when templates are made, again and again."""
    sky = faulty.make_sky(tmp_path / "sky.zarr")
    wanted = faulty.undisturbed(sky, tmp_path / "diary")
    chance = random.Random(3)
    for _ in range(20):
        child = faulty.processes().Process(target=faulty.run_total, args=(sky, str(tmp_path / "diary"), 2, 0.2))
        child.start()
        child.join(chance.uniform(0.0, 0.15))
        child.kill()
        child.join()
    faulty.total_plan(sky, tmp_path / "diary").run(progress=False)
    assert content(sky, "total", "ledger/total") == wanted


def test_the_client_of_a_cluster_killed_at_random_moments(tmp_path):
    sky = faulty.make_sky(tmp_path / "sky.zarr")
    wanted = faulty.undisturbed(sky, tmp_path / "diary")
    chance = random.Random(4)
    for _ in range(4):
        known, before = faulty.finished(sky), faulty.calls(tmp_path / "diary")
        arguments = (sky, str(tmp_path / "diary"), 1, 0.15, 2)
        child = faulty.processes().Process(target=faulty.run_total, args=arguments)
        child.start()
        # Chance says after how many tiles, and where within one: how many a second depends on the machine.
        enough, deadline = before.total() + chance.randint(8, 20), time.monotonic() + PATIENCE
        while faulty.calls(tmp_path / "diary").total() < enough and time.monotonic() < deadline:
            time.sleep(0.02)
        child.join(chance.uniform(0.0, 0.15))
        assert child.is_alive()
        child.kill()
        child.join(PATIENCE)
        assert not known & set(faulty.calls(tmp_path / "diary") - before), "a finished tile was computed again"
    known, before = faulty.finished(sky), faulty.calls(tmp_path / "diary")
    with faulty.cluster(workers=2) as client:
        report = faulty.total_plan(sky, tmp_path / "diary").run(client, progress=False)
    # Each of two workers had a tile in hand when a kill came, and may have begun another one before it died of it.
    assert report.counts["verified"] >= len(known) >= 4 * (8 - 4)
    assert not known & set(faulty.calls(tmp_path / "diary") - before)
    assert content(sky, "total", "ledger/total") == wanted


def test_an_overwrite_killed_while_it_removes_the_old_map(tmp_path):
    """What is left of a map half removed is never taken for the new one, nor for the old one."""
    sky = faulty.make_sky(tmp_path / "sky.zarr", tile_nside=2)
    diary = tmp_path / "diary"
    wanted = faulty.undisturbed(sky, diary)
    chance = random.Random(5)
    for _ in range(12):
        faulty.other_plan(sky, diary).run(progress=False)
        child = faulty.processes().Process(target=faulty.run_overwrite, args=(sky, str(diary)))
        child.start()
        child.join(chance.uniform(0.0, 0.1))
        child.kill()
        child.join()
        faulty.total_plan(sky, diary, overwrite=True).run(progress=False)
        assert content(sky, "total", "ledger/total") == wanted


@pytest.mark.parametrize("round_", range(3))
def test_two_processes_at_one_plan(tmp_path, round_):
    sky = faulty.make_sky(tmp_path / "sky.zarr")
    wanted = faulty.undisturbed(sky, tmp_path / "diary")
    chance = random.Random(round_)
    both = []
    for _ in range(2):
        child = faulty.processes().Process(target=faulty.run_total, args=(sky, str(tmp_path / "diary"), 2, 0.003))
        child.start()
        both.append(child)
        time.sleep(chance.choice([0.0, 0.0, 0.05]))
    for child in both:
        child.join(PATIENCE)
    assert [child.exitcode for child in both] == [0, 0]
    assert content(sky, "total", "ledger/total") == wanted
    assert ledger.is_finished(sky, "total")
    faulty.total_plan(sky, tmp_path / "diary").run(progress=False)
    assert not faulty.leftovers(sky)


def test_an_interrupted_command_says_so_and_continues(tmp_path):
    sky, other = str(tmp_path / "sky.zarr"), str(tmp_path / "other.zarr")
    command = [sys.executable, "-m", "skymill.deploy.cli", "simulate", "dust", "--nside", "128", "--seed", "3",
               "--maps", "i160", "--tile-nside", "8", "--threads", "1"]  # fmt: skip
    first = subprocess.Popen([*command, sky], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    while faulty.ticks(sky, "i160") < 5 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=PATIENCE)
    assert first.returncode == 130, said
    assert "interrupted. What is finished is kept; the same command continues." in said
    assert "Traceback" not in said
    done = faulty.ticks(sky, "i160")
    assert 5 <= done < 768
    for where, words in ((sky, f"{done} verified"), (other, "768 computed")):
        finished = subprocess.run([*command, where], capture_output=True, text=True, timeout=PATIENCE)
        assert finished.returncode == 0, finished.stderr
        assert words in finished.stdout
    assert content(sky, "i160", "ledger/i160") == content(other, "i160", "ledger/i160")
