"""Map and reduce over cubes: shapes, bytes of the plan, the ledger, laziness, what is mended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skymill as sm
from skymill.chunking import store as stores
from skymill.chunking.errors import FormatError, InputError
from skymill.chunking.schema import CUBE, MapInfo
from skymill.engine import ledger
from skymill.engine.mapping import map_plan
from skymill.engine.reducing import reduce_tiles
from skymill.engine.targets import tile_bytes

CUBE_INFO = MapInfo("n_hi", "intensity", "K", dims=CUBE)
CHANNELS = sm.Channels.from_edges([-90, -35, 35, 90, 120])


def spectra_of(tile, inputs):
    """A spectrum for each pixel; tile 5 holds nothing, and pixels of tile 2 are missing."""
    if tile == 5:
        return {}
    values = np.random.default_rng(tile).normal(size=(4, 64)).astype(np.float32)
    if tile == 2:
        values[:, ::7] = np.nan
    return {"n_hi": values}


def total(tile, inputs):
    return {"total": inputs["n_hi"].sum(axis=0)}


def doubled(tile, inputs):
    return {"twice": 2 * inputs["n_hi"], "total": inputs["n_hi"][0]}


@pytest.fixture
def sky(tmp_path):
    where = str(tmp_path / "sky.zarr")
    stores.create(where, 16, frame="galactic", tile_nside=2)
    map_plan("make", spectra_of, target=where, writes=[CUBE_INFO], channels=CHANNELS).run(progress=False)
    return where


def test_a_kernel_gets_and_gives_channels_by_cells(sky):
    values = sm.open(sky)["n_hi"].values
    writes = [MapInfo("twice", "intensity", "K", dims=CUBE), MapInfo("total", "intensity", "K")]
    report = map_plan("double", doubled, target=sky, writes=writes, reads=["n_hi"], cubes=True).run(progress=False)
    assert report.counts["computed"] == 47
    assert report.cells == 47 * 64  # pixels, not values
    np.testing.assert_array_equal(sm.open(sky)["twice"].values, 2 * values)
    np.testing.assert_array_equal(sm.open(sky)["total"].values, values[0])


def test_cubes_go_only_to_kernels_that_know_them(sky):
    total_info = MapInfo("total", "intensity", "K")
    with pytest.raises(InputError, match="is a cube"):
        map_plan("total", total, target=sky, writes=[total_info], reads=["n_hi"])
    with pytest.raises(InputError, match="is a cube"):
        reduce_tiles(len, store=sky, names=["n_hi"], merge=max)


def test_the_plan_counts_the_bytes_of_all_channels(sky):
    tile = 4 * 64
    plan = map_plan("total", total, target=sky, writes=[MapInfo("total", "intensity", "K")], reads=["n_hi"], cubes=True)
    assert plan.memory == {"inputs": 4 * tile, "codecs": 12 * tile, "outputs": tile}
    assert plan.read_bytes == 4 * tile * 47
    assert plan.write_bytes == tile * 47
    writes = [MapInfo("twice", "intensity", "K", dims=CUBE), MapInfo("total", "intensity", "K")]
    plan = map_plan("double", doubled, target=sky, writes=writes, reads=["n_hi"], cubes=True)
    assert plan.memory["outputs"] == 5 * tile
    assert tile_bytes(sky, ["n_hi", "n_hi"], 64) == 8 * tile


def test_lazily_the_same_comes_and_nothing_is_written(sky):
    writes = [MapInfo("twice", "intensity", "K", dims=CUBE), MapInfo("total", "intensity", "K")]
    plan = map_plan("double", doubled, target=sky, writes=writes, reads=["n_hi"], cubes=True)
    lazy = plan.lazy()
    assert lazy["twice"].dims == CUBE
    np.testing.assert_array_equal(lazy["twice"].values, 2 * sm.open(sky)["n_hi"].values)
    assert set(stores.infos(sky)) == {"n_hi"}


def test_channels_of_a_target_have_to_be_known_and_to_agree(tmp_path, sky):
    bare = str(tmp_path / "bare.zarr")
    stores.create(bare, 16, frame="galactic", tile_nside=2)
    with pytest.raises(InputError, match="whose channels are not known; give them"):
        map_plan("make", spectra_of, target=bare, writes=[CUBE_INFO])
    other = MapInfo("other", "intensity", "K", dims=CUBE)
    with pytest.raises(InputError, match="4 channels, not 2 as asked for"):
        map_plan("make", spectra_of, target=sky, writes=[other], channels=sm.Channels.from_edges([0, 1, 2]))


def test_what_is_finished_is_verified_and_what_is_damaged_made_again(sky):
    plan = map_plan("make", spectra_of, target=sky, writes=[CUBE_INFO], channels=CHANNELS)
    assert plan.run(progress=False).counts == {"verified": 48}
    shard = Path(sky) / "n_hi" / "c" / "0" / "7"
    whole = shard.read_bytes()
    shard.unlink()
    assert plan.run(progress=False).counts == {"verified": 47, "computed": 1}
    assert shard.read_bytes() == whole
    stores.write_tile(sky, "n_hi", 7, np.zeros((4, 64), np.float32))
    assert plan.run(progress=False).counts == {"verified": 47, "computed": 1}
    assert shard.read_bytes() == whole


def test_reading_holds_all_channels_against_the_ledger(sky):
    values = sm.open(sky)["n_hi"].values
    np.testing.assert_array_equal(ledger.read_held(sky, "n_hi", 0, 640), values[:, :640])
    np.testing.assert_array_equal(ledger.read_held(sky, "n_hi", 32, 100, channels=slice(1, 3)), values[1:3, 32:100])
    wrong = stores.read_tile(sky, "n_hi", 3)
    wrong[3, 17] += 1
    stores.write_tile(sky, "n_hi", 3, wrong)
    with pytest.raises(FormatError, match="tile 3 of map 'n_hi'"):
        ledger.read_held(sky, "n_hi", 0, 640)
    ledger.read_held(sky, "n_hi", 192, 256, channels=slice(0, 1))  # one channel has no digest of its own
    (Path(sky) / "n_hi" / "c" / "0" / "3").unlink()
    with pytest.raises(FormatError, match="tile 3 of map 'n_hi'"):
        ledger.read_held(sky, "n_hi", 192, 256, channels=slice(0, 1))


def test_a_tile_is_verified_once_and_again_when_it_changes(sky, monkeypatch):
    counted = []
    digest = ledger.digest_of
    monkeypatch.setattr(ledger, "digest_of", lambda values: counted.append(values.shape) or digest(values))
    for _ in range(3):
        ledger.read_held(sky, "n_hi", 0, 64, verify="once")
    assert counted == [(4, 64)]
    ledger.read_held(sky, "n_hi", 0, 64)
    assert len(counted) == 2
    stores.write_tile(sky, "n_hi", 0, np.zeros((4, 64), np.float32))
    with pytest.raises(FormatError, match="tile 0 of map 'n_hi'"):
        ledger.read_held(sky, "n_hi", 0, 64, verify="once")


@pytest.mark.parametrize("verify", ["always", "once"])
def test_reduce_merges_cubes_in_the_order_of_tiles(sky, verify):
    values = sm.open(sky)["n_hi"].values
    found = [
        reduce_tiles(
            lambda tile, inputs: np.nansum(inputs["n_hi"], axis=1, dtype=np.float64), store=sky, names=["n_hi"],
            merge=np.add, cubes=True, verify=verify, threads=threads, progress=False,
        )
        for threads in (1, 3)
    ]  # fmt: skip
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], np.nansum(values, axis=1, dtype=np.float64), rtol=1e-12)
