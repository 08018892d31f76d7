"""The verb `apodize`: against the formulae on brute-force distances, resumed, killed, and with bad masks."""

import itertools
import json
import signal
import subprocess
import sys

import faulty
import healpy as hp
import numpy as np
import pytest
import skymill as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from skies import content
from skymill.chunking import objects
from skymill.chunking import store as stores
from skymill.chunking.errors import IdentityError, InputError, MemoryLimitError, MissingMapError
from skymill.chunking.schema import MapInfo
from skymill.chunking.tiling import Tiling
from skymill.engine import ledger
from skymill.engine.apodize import apodize, edges_prefix, taper
from skymill.engine.edge_distance import chord
from skymill.engine.mapping import map_plan

MASK = MapInfo("mask_dust", "mask", "1", dtype="uint8", fill_value=1)


def whole(where, name):
    return stores.read_cells(where, name, 0, stores.tiling_of(where).npix)


def used_pixels(nside, seed=3):
    """A belt without its middle, with holes of one pixel and a disc around the south pole."""
    z = hp.pix2vec(nside, np.arange(12 * nside**2), nest=True)[2]
    used = (np.abs(z) > 0.2) & (z < 0.95)
    used[np.random.default_rng(seed).integers(0, used.size, 8)] = False
    return used


def make_mask(path, used, made=MASK, tile_nside=None):
    """Write a mask map, tile by tile; what is nothing but fill values is not stored."""
    where = str(path)
    nside = hp.npix2nside(used.size)
    stores.create(where, nside, frame="galactic", tile_nside=tile_nside)
    add(where, made, used)
    return where


def add(where, made, used):
    values = (~used if made.name.startswith("mask_") else used).astype(made.dtype)
    stores.create_maps(where, [made])
    grid = stores.tiling_of(where)
    for tile in range(grid.n_tiles):
        if not used[grid.tile_slice(tile)].any() and made.fill_value != 0:
            continue
        stores.write_tile(where, made.name, tile, values[grid.tile_slice(tile)])


def by_formula(used, scale, kind):
    """Return the taper of every pixel: healpy's centres, all distances, and the formulae as they are published."""
    nside = hp.npix2nside(used.size)
    vectors = np.array(hp.pix2vec(nside, np.arange(used.size), nest=True)).T
    made, bounds = np.zeros(used.size), vectors[edges(used)]
    if used.all():
        return np.ones(used.size)
    for part in np.array_split(np.flatnonzero(used), max(1, used.sum() // 500)):
        across = np.linalg.norm(np.cross(vectors[part][:, None], bounds), axis=2)
        d = np.arctan2(across, vectors[part] @ bounds.T).min(axis=1)
        if kind == "gaussian":
            sigma = scale / 3
            f = (1 - np.exp(-(d**2) / (2 * sigma**2))) / (1 - np.exp(-4.5))
        else:
            x = np.sqrt((1 - np.cos(d)) / (1 - np.cos(scale)))
            f = x - np.sin(2 * np.pi * x) / (2 * np.pi) if kind == "C1" else (1 - np.cos(np.pi * x)) / 2
        made[part] = np.where(d < scale, f, 1)
    return made


def edges(used):
    """All that is not used, or that of it which touches something used: fewer to look at, the same distances."""
    around = hp.get_all_neighbours(hp.npix2nside(used.size), np.arange(used.size), nest=True)
    return ~used & (used[np.maximum(around, 0)] & (around >= 0)).any(axis=0)


@pytest.mark.parametrize("kind", ["C1", "C2", "gaussian"])
@pytest.mark.parametrize(("scale", "unit"), [(12.0, "deg"), (2400.0, "arcmin")])
def test_against_the_formulae(tmp_path, kind, scale, unit):
    used = used_pixels(16)
    sky = make_mask(tmp_path / "sky.zarr", used, tile_nside=2)
    report = apodize(sky, "mask_dust", scale, unit=unit, kind=kind).run(progress=False)
    wanted = by_formula(used, np.radians(scale / {"deg": 1, "arcmin": 60}[unit]), kind)
    got = whole(sky, "weight_dust")
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-7)
    assert ((got > 0) == used).all()
    assert np.count_nonzero((got > 0) & (got < 1)) > 0
    made = stores.info(sky, "weight_dust")
    assert (made.dtype, made.unit, made.fill_value) == ("float32", "1", 0)
    assert made.provenance["parameters"]["scale_deg"] == scale / {"deg": 1, "arcmin": 60}[unit]
    assert report.target == sky
    np.testing.assert_array_equal(sm.open(sky)["weight_dust"].values, got)  # no tile reads as NaN


@given(
    seed=st.integers(0, 2**32 - 1), kept=st.sampled_from([0.05, 0.5, 0.99]), kind=st.sampled_from(["C1", "gaussian"])
)
@settings(max_examples=15, deadline=None)
def test_random_masks(tmp_path_factory, seed, kept, kind):
    used = np.random.default_rng(seed).random(768) < kept
    used[seed % 768] = True
    sky = make_mask(tmp_path_factory.mktemp("random") / "sky.zarr", used, tile_nside=2)
    apodize(sky, "mask_dust", 20.0, kind=kind, threads=2).run(progress=False)
    np.testing.assert_allclose(whole(sky, "weight_dust"), by_formula(used, np.radians(20), kind), rtol=0, atol=1e-7)


def test_tapers():
    scale = 0.3
    angles = np.linspace(0, 2 * scale, 4001)
    chords = 2 * np.sin(angles / 2)
    for kind in ("C1", "C2", "gaussian"):
        f = taper(kind, chords, scale)
        assert f[0] == 0
        assert (np.diff(f) >= -1e-15).all()
        np.testing.assert_allclose(f[2000:], 1, rtol=0, atol=1e-12)
        assert np.abs(np.diff(f)).max() < 2e-3  # no step
    small = np.array([1e-9, 2e-9]) * chord(scale)
    assert (taper("C1", small, scale) < 1e-15).all()
    np.testing.assert_allclose(taper("gaussian", small, scale) * (1 - np.exp(-4.5)), 4.5 * np.array([1, 4]) * 1e-18,
                               rtol=1e-2)  # fmt: skip


def test_every_parameter_changes_the_result(tmp_path):
    sky = make_mask(tmp_path / "sky.zarr", used_pixels(16), tile_nside=1)
    add(sky, MapInfo("other", "mask", "1", dtype="uint8"), used_pixels(16, seed=9))
    calls = [
        {"mask": "mask_dust", "scale": 15.0},
        {"mask": "mask_dust", "scale": 20.0},
        {"mask": "mask_dust", "scale": 0.4, "unit": "rad"},
        {"mask": "mask_dust", "scale": 18000.0, "unit": "arcsec"},
        {"mask": "mask_dust", "scale": 15.0, "kind": "C2"},
        {"mask": "mask_dust", "scale": 15.0, "kind": "gaussian"},
        {"mask": "other", "scale": 15.0},
    ]
    for number, call in enumerate(calls):
        apodize(sky, **call, out=f"weight_{number}").run(progress=False)
    maps = [whole(sky, f"weight_{number}") for number in range(len(calls))]
    assert all((one != two).any() for one, two in itertools.combinations(maps, 2))
    apodize(sky, "other", 15.0).run(progress=False)
    np.testing.assert_array_equal(whole(sky, "weight_other"), maps[-1])
    before = content(sky, "weight_other")
    with pytest.raises(IdentityError, match=r"scale_deg was 15.0, is 20.0.*overwrite"):
        apodize(sky, "other", 20.0)
    apodize(sky, "other", 20.0, overwrite=True).run(progress=False)
    assert content(sky, "weight_other") != before
    assert apodize(sky, "other", 1200.0, unit="arcmin").done == 12


def test_the_conventions_of_masks(tmp_path):
    used = used_pixels(8)
    sky = make_mask(tmp_path / "sky.zarr", used, tile_nside=2)
    weights = np.where(used, np.random.default_rng(0).uniform(0.5, 3, used.size), 0).astype(np.float32)
    for made in (MapInfo("footprint", "mask", "1", dtype="uint8"), MapInfo("plain", "mask", "1")):
        add(sky, made, used)
    add(sky, MapInfo("weight_hits", "weight", "1"), used)
    stores.create_maps(sky, [MapInfo("hits", "hits", "1")])
    for tile in range(48):
        stores.write_tile(sky, "hits", tile, weights[16 * tile : 16 * tile + 16])
    for mask in ("mask_dust", "footprint", "plain"):
        apodize(sky, mask, 25.0).run(progress=False)
    apodize(sky, "weight_hits", 25.0, out="again").run(progress=False)
    wanted = whole(sky, "weight_dust")
    assert 0 < np.count_nonzero(wanted) == used.sum()
    for name in ("weight_footprint", "weight_plain", "again"):
        np.testing.assert_array_equal(whole(sky, name), wanted)
    apodized = apodize(sky, "hits", 25.0, out="weight_hits", overwrite=True)
    apodized.run(progress=False)
    np.testing.assert_allclose(whole(sky, "weight_hits"), wanted * weights, rtol=2e-7)


@pytest.mark.parametrize("fill", [0, 1])
def test_tiles_of_a_mask_that_are_not_stored(tmp_path, fill):
    """Their fill value says what they are, and that bounds what is used next to them."""
    used = np.full(768, fill == 0)
    used[16:32] = used[112:128] = True
    used[20] = used[120] = False
    made = MapInfo("mask_dust", "mask", "1", dtype="uint8", fill_value=fill)
    sky = str(tmp_path / "sky.zarr")
    stores.create(sky, 8, frame="galactic", tile_nside=2)
    stores.create_maps(sky, [made])
    for tile in (1, 7):
        stores.write_tile(sky, "mask_dust", tile, (~used[16 * tile : 16 * tile + 16]).astype(np.uint8))
    plan = apodize(sky, "mask_dust", 30.0)
    assert len(plan.todo) == (48 if fill == 0 else 2)
    plan.run(progress=False)
    np.testing.assert_allclose(whole(sky, "weight_dust"), by_formula(used, np.radians(30), "C1"), rtol=0, atol=1e-7)


def test_a_mask_that_uses_everything_stays_as_it_is(tmp_path):
    sky = make_mask(tmp_path / "sky.zarr", np.full(768, True))
    apodize(sky, "mask_dust", 30.0).run(progress=False)
    assert (whole(sky, "weight_dust") == 1).all()


@pytest.mark.parametrize("made", [MASK, MapInfo("hits", "hits", "1"), MapInfo("footprint", "mask", "1", dtype="uint8")])
@pytest.mark.parametrize("stored", [True, False])
def test_a_mask_without_any_pixel(tmp_path, made, stored):
    sky = str(tmp_path / "sky.zarr")
    stores.create(sky, 8, frame="galactic")
    stores.create_maps(sky, [made])
    if stored:
        stores.write_tile(sky, made.name, 3, np.full(64, made.name.startswith("mask_"), made.dtype))
    with pytest.raises(InputError, match=rf"{made.name}.* uses no pixel.*other way round"):
        apodize(sky, made.name, 30.0).run(progress=False)
    assert list(stores.infos(sky)) == [made.name]


@pytest.mark.parametrize("number", [-0.5, np.nan])
def test_numbers_that_are_no_weights_leave_nothing_behind(tmp_path, number):
    sky = make_mask(tmp_path / "sky.zarr", used_pixels(8), MapInfo("hits", "hits", "1"), tile_nside=2)
    tile = np.ones(16, np.float32)
    tile[5] = number
    stores.write_tile(sky, "hits", 30, tile)
    with pytest.raises(InputError, match=rf"'hits' holds {number:g} "):
        apodize(sky, "hits", 30.0).run(progress=False)
    assert list(stores.infos(sky)) == ["hits"]


def test_arguments_that_cannot_be_used(tmp_path):
    sky = make_mask(tmp_path / "sky.zarr", used_pixels(8))
    add(sky, MapInfo("weight_a", "weight", "1"), used_pixels(8))
    flags = MapInfo("flag_a", "flags", "1", dtype="uint8", flag_meanings=("bad",))
    stores.create_maps(sky, [flags])
    for scale in (0, -1.0, 181.0, float("inf")):
        with pytest.raises(InputError, match=r"`scale`.*up to 180 degrees"):
            apodize(sky, "mask_dust", scale)
    with pytest.raises(InputError, match=r"pixels at nside 8 are 7.33 deg wide.*at least 440 arcmin"):
        apodize(sky, "mask_dust", 10, unit="arcmin")
    with pytest.raises(InputError, match=r"`unit` 'degrees'.*did you mean 'deg'"):
        apodize(sky, "mask_dust", 10, unit="degrees")
    with pytest.raises(InputError, match=r"`kind` 'C3'.*C1, C2, gaussian"):
        apodize(sky, "mask_dust", 10, kind="C3")
    with pytest.raises(MissingMapError, match="did you mean 'mask_dust'"):
        apodize(sky, "mask_duts", 10)
    with pytest.raises(InputError, match=r"over the mask.*out="):
        apodize(sky, "weight_a", 10)
    with pytest.raises(InputError, match="holds bits"):
        apodize(sky, "flag_a", 10)
    with pytest.raises(InputError, match="uint8 expected"):
        apodize(sky, "mask_dust", 10, out="mask_new")


def test_threads_change_no_byte_and_memory_is_planned(tmp_path):
    used = used_pixels(32)
    one, four = (make_mask(tmp_path / f"{name}.zarr", used, tile_nside=2) for name in ("one", "four"))
    apodize(one, "mask_dust", 10.0, threads=1).run(progress=False)
    apodize(four, "mask_dust", 10.0, threads=4).run(progress=False)
    assert content(one, "weight_dust", "ledger/weight_dust") == content(four, "weight_dust", "ledger/weight_dust")
    with pytest.raises(MemoryLimitError):
        apodize(one, "mask_dust", 11.0, out="less", memory="1 MB").run()
    assert "less" not in stores.infos(one)
    # The tiling does not matter either.
    other = make_mask(tmp_path / "other.zarr", used, tile_nside=1)
    apodize(other, "mask_dust", 10.0).run(progress=False)
    np.testing.assert_array_equal(whole(other, "weight_dust"), whole(one, "weight_dust"))


def test_the_plan_grows_with_the_tile(tmp_path):
    used = np.full(12, True)
    plans = []
    for nside in (1024, 2048):
        where = str(tmp_path / f"{nside}.zarr")
        stores.create(where, nside, frame="galactic", tile_nside=1)
        stores.create_maps(where, [MapInfo("mask_dust", "mask", "1", dtype="uint8", fill_value=0)])
        plans.append(apodize(where, "mask_dust", 1.0))
    assert used.size == len(plans[0].todo)
    small, large = (plan.task_memory for plan in plans)
    assert 3 * small < large < 4 * small < 1.2e9


MEASURED = """
import json, sys
from skymill.engine.apodize import apodize
report = apodize(sys.argv[1], "mask_dust", 2.0, threads=2).run(progress=False)
print(json.dumps([report.peak_memory, report.planned_memory]))
"""


@pytest.mark.slow
def test_the_peak_stays_below_the_plan(tmp_path):
    """Where most pixels are edges: half of all that there are, at random."""
    sky = make_mask(tmp_path / "sky.zarr", np.random.default_rng(0).random(12 * 1024**2) < 0.5)
    done = subprocess.run([sys.executable, "-c", MEASURED, sky], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak, planned = json.loads(done.stdout.splitlines()[-1])
    assert 0 < peak <= planned <= 4 * peak


@pytest.mark.faults
def test_workers_of_a_cluster_change_no_byte(tmp_path):
    used = used_pixels(16)
    here, there = (make_mask(tmp_path / f"{name}.zarr", used, tile_nside=2) for name in ("here", "there"))
    apodize(here, "mask_dust", 20.0).run(progress=False)
    with faulty.cluster(workers=2) as client:
        report = apodize(there, "mask_dust", 20.0).run(client, progress=False)
        add(there, MapInfo("none", "mask", "1", dtype="uint8"), np.full(used.size, False))
        with pytest.raises(InputError, match="uses no pixel"):
            apodize(there, "none", 20.0).run(client, progress=False)
    assert report.counts["computed"] == len(report.records)
    assert content(here, "weight_dust", "ledger/weight_dust") == content(there, "weight_dust", "ledger/weight_dust")


def test_lazily_writes_nothing(tmp_path):
    used = used_pixels(8)
    sky = make_mask(tmp_path / "sky.zarr", used, tile_nside=2)
    before = sorted(key for key, _, _ in objects.listing(sky, ""))
    lazy = apodize(sky, "mask_dust", 30.0).lazy()["weight_dust"].values
    assert sorted(key for key, _, _ in objects.listing(sky, "")) == before
    apodize(sky, "mask_dust", 30.0).run(progress=False)
    np.testing.assert_array_equal(whole(sky, "weight_dust"), lazy)


def test_a_second_run_computes_nothing_and_damage_is_mended(tmp_path):
    sky = make_mask(tmp_path / "sky.zarr", used_pixels(16), tile_nside=2)
    apodize(sky, "mask_dust", 20.0).run(progress=False)
    assert not list(objects.listing(sky, edges_prefix("weight_dust")))  # nothing that was only needed on the way
    wanted = content(sky, "weight_dust", "ledger/weight_dust")
    assert list(apodize(sky, "mask_dust", 20.0).todo) == []
    assert "computed" not in apodize(sky, "mask_dust", 20.0).run(progress=False).counts
    objects.delete_prefix(sky, "weight_dust/c/")
    apodize(sky, "mask_dust", 20.0).run(progress=False)
    assert content(sky, "weight_dust", "ledger/weight_dust") == wanted
    assert not list(objects.listing(sky, edges_prefix("weight_dust")))


def test_edges_of_another_mask_are_not_taken(tmp_path):
    """What a run of another mask under the same name left behind when it was killed."""
    sky = make_mask(tmp_path / "sky.zarr", used_pixels(16), tile_nside=2)
    plan = apodize(sky, "mask_dust", 20.0)
    plan.run(progress=False)
    wanted = content(sky, "weight_dust")
    stores.delete_map(sky, "weight_dust")
    for tile in range(48):
        objects.put(sky, f"{edges_prefix('weight_dust')}0123/{tile}", np.array([7], "<u4").tobytes())
    apodize(sky, "mask_dust", 20.0).run(progress=False)
    assert content(sky, "weight_dust") == wanted
    assert not list(objects.listing(sky, edges_prefix("weight_dust")))


# The verb until it has finished 20 tiles; a process of its own, since libraries forbid to fork.
UNTIL_KILLED = """
import os, signal, sys
from skymill.engine import ledger
from skymill.engine.apodize import apodize

tick, ticked = ledger.tick, []

def dying(store, name, tile, digest):
    tick(store, name, tile, digest)
    ticked.extend([tile] if digest > ledger.NOTHING_STORED else [])
    if len(ticked) >= 20:
        os.kill(os.getpid(), signal.SIGKILL)

ledger.tick = dying
apodize(sys.argv[1], "mask_dust", 20.0, threads=2).run(progress=False)
"""


def test_killed_and_resumed(tmp_path):
    used = used_pixels(16)
    sky, undisturbed = (make_mask(tmp_path / f"{name}.zarr", used, tile_nside=4) for name in ("sky", "undisturbed"))
    apodize(undisturbed, "mask_dust", 20.0).run(progress=False)
    for _ in range(2):
        child = subprocess.run([sys.executable, "-c", UNTIL_KILLED, sky], stderr=subprocess.PIPE, check=False)
        assert child.returncode == -signal.SIGKILL, child.stderr
    assert list(objects.listing(sky, edges_prefix("weight_dust")))
    plan = apodize(sky, "mask_dust", 20.0)
    assert plan.done >= 40
    report = plan.run(progress=False)
    assert report.counts["verified"] >= 40
    assert report.counts["computed"] >= 20
    assert content(sky, "weight_dust", "ledger/weight_dust") == content(
        undisturbed, "weight_dust", "ledger/weight_dust"
    )
    assert not list(objects.listing(sky, edges_prefix("weight_dust")))


def test_a_mask_that_a_run_is_still_making_is_refused(tmp_path):
    used = used_pixels(8)
    sky = str(tmp_path / "sky.zarr")
    stores.create(sky, 8, frame="galactic", tile_nside=2)
    made = map_plan("footprint", Footprint(used), target=sky, writes=[MapInfo("seen", "mask", "1", dtype="uint8")])
    made.run(progress=False)
    ledger.tick(sky, "seen", 5, ledger.NOT_DONE)
    with pytest.raises(sm.errors.FormatError, match="unfinished"):
        apodize(sky, "seen", 20.0)
    made.run(progress=False)
    apodize(sky, "seen", 30.0).run(progress=False)
    np.testing.assert_allclose(whole(sky, "weight_seen"), by_formula(used, np.radians(30), "C1"), rtol=0, atol=1e-7)


class Footprint:
    """Writes what it was given."""

    def __init__(self, used):
        self.used = used

    def __call__(self, tile, inputs):
        return {"seen": self.used[Tiling(8, 2).tile_slice(tile)].astype(np.uint8)}
