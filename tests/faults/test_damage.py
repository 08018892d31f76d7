"""Damage on disk: outputs are mended when the run is run again, damaged inputs are noticed and set aside."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import faulty
import numpy as np
import pytest
from skies import INTENSITY, Total, content
from skymill.chunking import errors, objects
from skymill.chunking import store as stores
from skymill.engine import ledger
from skymill.engine.mapping import map_plan
from skymill.engine.reducing import reduce_tiles

pytestmark = pytest.mark.faults


def flip(file, chance):
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def truncate(file, chance):
    file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size)])


def delete(file, chance):
    file.unlink()


DAMAGES = (flip, truncate, delete)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_outputs_and_ledgers_are_mended(tmp_path, damage):
    sky = faulty.make_sky(tmp_path / "sky.zarr", tile_nside=1)
    plan = faulty.total_plan(sky, tmp_path / "diary")
    plan.run(progress=False)
    wanted = content(sky, "total", "ledger/total")
    chance = random.Random(1)
    for _ in range(40):
        file = Path(sky, chance.choice(sorted(wanted)))
        damage(file, chance)
        before = faulty.calls(tmp_path / "diary")
        report = faulty.total_plan(sky, tmp_path / "diary").run(progress=False)
        assert content(sky, "total", "ledger/total") == wanted
        # Of the tile alone; the ledger of an empty tile is mended without any computation.
        assert sum((faulty.calls(tmp_path / "diary") - before).values()) <= 1
        assert report.counts["verified"] >= 7


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_inputs_are_set_aside_and_alone_done_when_repaired(tmp_path, damage):
    sky = faulty.make_sky(tmp_path / "sky.zarr", tile_nside=1)
    diary = tmp_path / "diary"
    wanted = faulty.undisturbed(sky, diary)
    chance, noticed = random.Random(2), 0
    for _ in range(15):
        faulty.remove_total(sky)
        file = chance.choice(sorted(Path(sky, "i250", "c").iterdir()))
        kept = file.read_bytes()
        damage(file, chance)
        try:
            faulty.total_plan(sky, diary).run(progress=False)
        except errors.RunError as error:
            said = str(error)
            noticed += 1
        else:
            # A flipped bit that decodes to the same values has done no harm.
            assert content(sky, "total", "ledger/total") == wanted
            continue
        assert re.search(rf"1 tiles kept failing .*\n  tile {file.name}: FormatError: .*'i250'", said)
        assert re.search("damaged.* Run the command that made the map again; it mends what is damaged", said)
        if chance.random() < 0.5:
            file.write_bytes(kept)
        else:
            assert faulty.noise_plan(sky).run(progress=False).counts["computed"] == 1
            assert file.read_bytes() == kept
        before = faulty.calls(diary)
        assert faulty.total_plan(sky, diary).run(progress=False).counts["computed"] == 1
        assert set(faulty.calls(diary) - before) == {int(file.name)}
        assert content(sky, "total", "ledger/total") == wanted
    assert noticed >= 12


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_reduction_does_not_pass_over_damage(tmp_path, damage):
    sky = faulty.make_sky(tmp_path / "sky.zarr", tile_nside=1)
    damage(Path(sky, "i160", "c", "3"), random.Random(7))
    with pytest.raises(errors.RunError, match=r"tile 3 of .* cannot be reduced: FormatError: .*damaged"):
        reduce_tiles(_finite, store=sky, names=["i160"], merge=lambda a, b: a + b, progress=False)


def _finite(tile, inputs):
    return int(np.isfinite(inputs["i160"]).sum())


def test_a_lost_shard_is_noticed_where_tiles_differ(tmp_path):
    """A target with smaller tiles reads parts of tiles; it sees at least that the shard is gone."""
    sky = faulty.make_sky(tmp_path / "sky.zarr", tile_nside=1)
    fine = str(tmp_path / "fine.zarr")
    stores.create(fine, 32, frame="galactic", tile_nside=2)
    Path(sky, "i160", "c", "3").unlink()
    plan = map_plan("total", Total(), source=sky, reads=["i160"], target=fine, writes=[INTENSITY])
    with pytest.raises(errors.RunError, match="4 tiles kept failing") as caught:
        plan.run(progress=False)
    assert "tile 3 of map 'i160'" in str(caught.value)


class Nothing:
    """Returns a map without any value in some tiles."""

    def __call__(self, tile, inputs):
        return {"total": np.full_like(inputs["i160"], np.nan) if tile < 3 else inputs["i160"]}


def test_a_tile_without_any_value_counts_as_empty(tmp_path):
    sky = faulty.make_sky(tmp_path / "sky.zarr", tile_nside=1)
    map_plan("total", Nothing(), target=sky, reads=["i160"], writes=[INTENSITY]).run(progress=False)
    assert [ledger.entry(sky, "total", tile) for tile in range(3)] == [ledger.NOTHING_STORED] * 3
    assert stores.observed_tiles(sky, ["total"]) == (3, 4, 9, 10, 11)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_overviews_are_mended(tmp_path, damage):
    sky = str(tmp_path / "sky.zarr")
    stores.create(sky, 1024, frame="galactic")
    faulty.noise_plan(sky, ("i160",)).run(progress=False)
    folder = Path(sky, "overview")
    wanted = faulty.listing(folder)
    chance = random.Random(3)
    for name in [name for name in sorted(wanted) if "/c/" in name][::5]:
        damage(folder / name, chance)
        faulty.noise_plan(sky, ("i160",)).run(progress=False)
        assert faulty.listing(folder) == wanted


@pytest.mark.parametrize("stage", range(6))
def test_a_removal_stopped_halfway_leaves_nothing_to_be_mistaken(tmp_path, monkeypatch, stage):
    """Stopped after each of its steps, what is left is not taken for the map of either run."""
    sky = faulty.make_sky(tmp_path / "sky.zarr", tile_nside=1)
    diary = tmp_path / "diary"
    wanted = faulty.undisturbed(sky, diary)
    faulty.other_plan(sky, diary).run(progress=False)
    done = [0]
    removing = shutil.rmtree

    def rmtree(path, **options):
        done[0] += 1
        if done[0] > stage:
            # As rmtree does it: some files are gone, the metadata among the first.
            for file in sorted(Path(path).rglob("*"), reverse=True)[:3]:
                if file.is_file():
                    file.unlink()
            raise KeyboardInterrupt
        removing(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", rmtree)
        try:
            faulty.total_plan(sky, diary, overwrite=True).run(progress=False)
        except KeyboardInterrupt:
            stopped = True
        else:
            stopped = False
    assert stopped == (stage < done[0])
    faulty.total_plan(sky, diary, overwrite=True).run(progress=False)
    assert content(sky, "total", "ledger/total") == wanted


@pytest.mark.parametrize("content_", [b"", b"{", b"[]", b'{"zarr_format": 3}', b"\xff\xfe", b'{"node_type": "group"}'])
def test_damaged_metadata_is_told(tmp_path, content_):
    sky = faulty.make_sky(tmp_path / "sky.zarr", tile_nside=1)
    Path(sky, "zarr.json").write_bytes(content_)
    for look in (stores.open, stores.tiling_of, stores.infos):
        with pytest.raises(errors.FormatError, match=r"is damaged|no sky store"):
            look(sky)
    with pytest.raises(errors.SkymillError):
        faulty.total_plan(sky, tmp_path / "diary")


def test_a_map_whose_metadata_are_damaged_is_told(tmp_path):
    sky = faulty.make_sky(tmp_path / "sky.zarr", tile_nside=1)
    Path(sky, "i350", "zarr.json").write_bytes(b"{")
    for look in (stores.open, stores.infos, lambda sky: faulty.total_plan(sky, tmp_path / "diary")):
        with pytest.raises(errors.FormatError, match=r"the metadata of a map in .* cannot be read"):
            look(sky)


def test_objects_are_there_or_not(tmp_path):
    objects.put(str(tmp_path), "a/b", b"x")
    assert objects.exists(str(tmp_path), "a/b")
    assert not objects.exists(str(tmp_path), "a/c")


def test_a_store_replaced_under_a_living_cluster(tmp_path):
    """Workers that outlive a store must not write into its successor as if it were the old one."""
    with faulty.cluster(workers=1) as client:
        for tile_nside in (1, 2):
            sky = faulty.make_sky(tmp_path / "sky.zarr", tile_nside=tile_nside)
            faulty.total_plan(sky, tmp_path / "diary").run(client, progress=False)
            got = stores.open(sky)["total"].values
            bands = stores.open(sky)
            wanted = np.sum([bands[name].values for name in sorted(faulty.BANDS)], axis=0, dtype=np.float32)
            np.testing.assert_array_equal(got, wanted)
            shutil.rmtree(sky)
