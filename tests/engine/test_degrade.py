"""The verb `degrade`: coarser stores, against healpy and against the hierarchy applied to whole maps."""

import healpy as hp
import numpy as np
import pytest
import skymill as sm
from skies import BANDS, content, make_sky
from skymill.chunking import hierarchy
from skymill.chunking import store as stores
from skymill.chunking.errors import IdentityError, InputError, MemoryLimitError, MissingMapError
from skymill.chunking.schema import MapInfo
from skymill.chunking.tiling import Tiling


def whole(where, name):
    return stores.read_cells(where, name, 0, stores.tiling_of(where).npix)


def add(where, made, values):
    """Write a whole map beside the others."""
    stores.create_maps(where, [made])
    grid = stores.tiling_of(where)
    for tile in range(grid.n_tiles):
        stores.write_tile(where, made.name, tile, values[grid.tile_slice(tile)])


@pytest.mark.parametrize(("policy", "pess"), [("any", False), ("all", True)])
@pytest.mark.parametrize("nside", [16, 4, 1])
def test_means_agree_with_healpy(sky, tmp_path, nside, policy, pess):
    out = str(tmp_path / "coarse.zarr")
    report = sm.degrade(sky, out, nside, policy=policy).run()
    assert report.target == out
    for name in BANDS:
        fine = whole(sky, name).astype(np.float64)
        theirs = hp.ud_grade(np.where(np.isnan(fine), hp.UNSEEN, fine), nside, order_in="NEST", pess=pess)
        np.testing.assert_allclose(whole(out, name), np.where(theirs == hp.UNSEEN, np.nan, theirs), rtol=1e-6)
    assert stores.tiling_of(out) == Tiling(nside)
    made = stores.info(out, "i160")
    assert (made.unit, made.band) == ("MJy/sr", "i160")
    assert made.provenance["degraded"] == {"from_nside": 32, "policy": policy, "kind": "mean"}


@pytest.mark.parametrize("fine_tiles", [1, 2, 4])  # at 4 a tile is smaller than a coarse pixel
@pytest.mark.parametrize("coarse_tiles", [1, 2])
def test_the_tilings_of_the_two_stores_are_free(tmp_path, fine_tiles, coarse_tiles):
    fine, out = str(tmp_path / "fine.zarr"), str(tmp_path / "coarse.zarr")
    stores.create(fine, 8, frame="icrs", tile_nside=fine_tiles)
    stores.create(out, 2, frame="icrs", tile_nside=coarse_tiles)
    values = np.random.default_rng(0).normal(size=768).astype(np.float32)
    values[:256] = np.nan
    add(fine, MapInfo("i160", "intensity", "MJy/sr"), values)
    plan = sm.degrade(fine, out, 2, policy=0.5)
    assert len(plan.todo) == stores.tiling_of(out).n_tiles * 2 // 3
    plan.run()
    np.testing.assert_array_equal(whole(out, "i160"), hierarchy.degrade(values, 16, policy=0.5))


def test_every_kind_of_map(sky, tmp_path):
    random = np.random.default_rng(1)
    npix = 12 * 32**2
    codes, bits = random.integers(0, 3, npix).astype(np.uint8), random.integers(0, 32, npix).astype(np.uint8)
    variance = random.uniform(1, 2, npix).astype(np.float32)
    add(sky, MapInfo("survey", "survey", "1", dtype="uint8"), codes)
    add(sky, MapInfo("flag_850um", "flags", "1", dtype="uint8"), bits)
    add(sky, MapInfo("variance_850um", "variance", "MJy2/sr2"), variance)
    out = str(tmp_path / "coarse.zarr")
    sm.degrade(sky, out, 8, kind={"variance_850um": "variance", "i250": "sum"}).run()
    np.testing.assert_array_equal(whole(out, "survey"), hierarchy.degrade(codes, 16, kind="code"))
    np.testing.assert_array_equal(whole(out, "flag_850um"), hierarchy.degrade(bits, 16))
    np.testing.assert_allclose(whole(out, "variance_850um"), variance.reshape(-1, 16).mean(1) / 16, rtol=1e-6)
    np.testing.assert_array_equal(whole(out, "i250"), hierarchy.degrade(whole(sky, "i250"), 16, kind="sum"))
    only = str(tmp_path / "only.zarr")
    sm.degrade(sky, only, 8, maps="survey").run()
    assert list(stores.infos(only)) == ["survey"]
    both = str(tmp_path / "both.zarr")
    sm.degrade(sky, both, 8, maps=["i160", "i250"], kind="sum").run()
    np.testing.assert_array_equal(whole(both, "i160"), hierarchy.degrade(whole(sky, "i160"), 16, kind="sum"))


def test_what_is_not_observed_costs_nothing_and_stays_so(tmp_path):
    fine = make_sky(tmp_path / "fine.zarr", 32, ("i160",))
    out = str(tmp_path / "coarse.zarr")
    plan = sm.degrade(fine, out, 8)
    assert 5 not in plan.todo
    report = plan.run()
    assert report.counts["unobserved"] == 1
    assert np.isnan(whole(out, "i160")[5 * 64 : 6 * 64]).all()
    assert stores.observed_tiles(out, ["i160"]) == tuple(tile for tile in range(12) if tile != 5)


def test_a_plan_does_nothing_and_a_second_run_does_not_compute_again(sky, tmp_path):
    out = str(tmp_path / "coarse.zarr")
    plan = sm.degrade(sky, out, 8)
    assert not stores.exists(out)
    assert "degrade" in str(plan)
    plan.run()
    before = content(out, *BANDS)
    again = sm.degrade(sky, out, 8)
    assert list(again.todo) == []
    again.run()
    assert content(out, *BANDS) == before
    with pytest.raises(IdentityError, match="overwrite"):
        sm.degrade(sky, out, 8, policy="all")
    sm.degrade(sky, out, 8, policy="all", overwrite=True).run()
    assert content(out, *BANDS) != before


def test_threads_change_no_byte_and_memory_is_planned(sky, tmp_path):
    one, four = str(tmp_path / "one.zarr"), str(tmp_path / "four.zarr")
    sm.degrade(sky, one, 8, threads=1).run()
    sm.degrade(sky, four, 8, threads=4).run()
    assert content(one, *BANDS) == content(four, *BANDS)
    with pytest.raises(MemoryLimitError):
        sm.degrade(sky, str(tmp_path / "none.zarr"), 8, memory="1 MB").run()
    assert not stores.exists(tmp_path / "none.zarr")


def test_a_fraction_may_come_as_text(sky, tmp_path):
    text, number = str(tmp_path / "text.zarr"), str(tmp_path / "number.zarr")
    sm.degrade(sky, text, 8, maps="i160", policy="0.9").run()
    sm.degrade(sky, number, 8, maps="i160", policy=0.9).run()
    assert content(text, "i160") == content(number, "i160")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"nside": 64}, InputError, ["64", "32"]),
        ({"nside": 32}, InputError, ["32", "coarser"]),
        ({"nside": 6}, InputError, ["6", "power of two"]),
        ({"nside": 8, "maps": "i16O"}, MissingMapError, ["i16O", "i160"]),
        ({"nside": 8, "maps": []}, InputError, ["no map", "i160"]),
        ({"nside": 8, "policy": "most"}, InputError, ["most", "any", "all"]),
        ({"nside": 8, "policy": 2.0}, InputError, ["2.0"]),
        ({"nside": 8, "kind": "median"}, InputError, ["median", "mean"]),
        ({"nside": 8, "kind": "bits"}, InputError, ["bits", "float32"]),
        ({"nside": 8, "kind": {"i16O": "sum"}}, InputError, ["i16O", "i160"]),
    ],
)
def test_bad_input_is_told_before_anything_is_written(sky, tmp_path, options, error, words):
    with pytest.raises(error) as caught:
        sm.degrade(sky, tmp_path / "coarse.zarr", **options)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "coarse.zarr").exists()


def test_a_target_that_does_not_fit_is_refused(sky, tmp_path):
    other = str(tmp_path / "other.zarr")
    stores.create(other, 8, frame="icrs")
    with pytest.raises(InputError, match="icrs"):
        sm.degrade(sky, other, 8)
    with pytest.raises(InputError, match="nside 8"):
        sm.degrade(sky, other, 16)
    add(sky, MapInfo("flag_850um", "flags", "1", dtype="uint8"), np.zeros(12 * 32**2, np.uint8))
    with pytest.raises(InputError, match="bits or code"):
        sm.degrade(sky, tmp_path / "sums.zarr", 8, maps="flag_850um", kind="sum")
