"""The verb `ingest_cube`: velocity channels in FITS files of every form become one and the same cube."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import healpy as hp
import numpy as np
import pytest
import skymill as sm
from astropy.io import fits
from cubefiles import EDGES, NSIDE, UNSEEN, cube_of, simple, spectra, write_form, write_image
from fitsfiles import write_table
from hypothesis import given, settings
from hypothesis import strategies as st
from skies import content
from skymill.chunking import store as stores
from skymill.chunking.errors import (
    FormatError,
    FrameError,
    IdentityError,
    InputError,
    OrderingError,
    StoreNotFoundError,
    UnitError,
)


@settings(max_examples=20, deadline=None)
@given(
    form=st.sampled_from(["files", "columns", "vector", "image", "turned image"]),
    ring=st.booleans(),
    explicit=st.booleans(),
    packed=st.booleans(),
    hole=st.sampled_from([np.nan, UNSEEN]),
    tile_nside=st.sampled_from([1, 2, None]),
)
def test_every_form_becomes_the_same_cube(tmp_path_factory, form, ring, explicit, packed, hole, tile_nside):
    folder = tmp_path_factory.mktemp("cubes")
    want = spectra()
    stored = np.where(np.isnan(want), np.float32(hole), want)
    order = hp.ring2nest(NSIDE, np.arange(want.shape[1])) if ring else np.arange(want.shape[1])
    stored = stored[:, order]
    pixels = None
    if explicit and "image" not in form:
        pixels = np.random.default_rng(1).permutation(want.shape[1])[:300]
        stored = stored[:, pixels]
        listed = np.full_like(want, np.nan)
        listed[:, order[pixels]] = want[:, order[pixels]]
        want = listed
    files = write_form(folder, form, stored, ring, pixels, packed)
    before = sorted(os.listdir(folder))
    plan = sm.ingest_cube(files, folder / "sky.zarr", edges=EDGES, tile_nside=tile_nside)
    assert sorted(os.listdir(folder)) == before  # lazy
    plan.run(progress=False)
    np.testing.assert_array_equal(cube_of(folder / "sky.zarr"), want)
    assert sorted(os.listdir(folder)) == sorted([*before, "sky.zarr"])
    known = stores.info(folder / "sky.zarr", "n_hi").provenance["statistics"]
    assert known["channel_counts"] == np.isfinite(want).sum(axis=1).tolist()
    assert known["count"] + known["missing"] == want.size
    assert known["maximum"] == np.nanmax(want)


def test_what_the_cube_is_goes_with_it(tmp_path):
    path = simple(tmp_path, BUNIT=None, COORDSYS=None)
    plan = sm.ingest_cube(
        path, tmp_path / "sky.zarr", "gas", edges=EDGES, unit="1e20 cm-2", frame="icrs", quantity="gas", tile_nside=2
    )
    assert "4 channels from -90 to 90 km/s, 35 to 55 km/s wide, no gaps" in str(plan)
    plan.run(progress=False)
    known = stores.info(tmp_path / "sky.zarr", "gas")
    assert (known.unit, known.quantity, known.is_cube) == ("1e20 cm^-2", "gas", True)
    assert known.provenance["files"][0]["name"] == "cube.fits"
    assert stores.frame_of(tmp_path / "sky.zarr") == "icrs"
    assert stores.tiling_of(tmp_path / "sky.zarr").tile_nside == 2
    assert stores.channels_of(tmp_path / "sky.zarr") == sm.Channels.from_edges(EDGES)
    again = sm.ingest_cube(path, tmp_path / "b.zarr", edges=EDGES, unit="cm-2", frame="icrs", chunk_nside=4)
    again.run(progress=False)
    assert stores.info(tmp_path / "b.zarr", "n_hi").quantity == "column density"
    assert stores.tiling_of(tmp_path / "b.zarr").chunk_nside == 4


def test_integers_are_scaled_and_blanks_are_no_values(tmp_path):
    stored = np.arange(2 * 768, dtype=np.int16).reshape(2, 768)
    path = write_image(tmp_path / "cube.fits", stored, BLANK=7)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as file:
        file[0].header["BSCALE"], file[0].header["BZERO"] = 0.5, 10.0
    sm.ingest_cube(path, tmp_path / "sky.zarr", edges=[0, 1, 2]).run(progress=False)
    want = (0.5 * stored + 10).astype(np.float32)
    want[0, 7] = np.nan
    np.testing.assert_array_equal(cube_of(tmp_path / "sky.zarr"), want)


def test_several_files_may_differ_in_ordering_but_not_in_unit_frame_or_nside(tmp_path):
    want = spectra(holes=0)
    ring = want[1][hp.ring2nest(NSIDE, np.arange(768))]

    def made(name, values, **keywords):
        usual = {"NSIDE": NSIDE, "TUNIT1": "K"}
        return write_table(tmp_path / name, {"I": ("E", values)}, **{**usual, **keywords})

    first = made("a.fits", want[0])
    sm.ingest_cube([first, made("b.fits", ring, ORDERING="RING")], tmp_path / "sky.zarr", edges=[0, 1, 2]).run()
    np.testing.assert_array_equal(cube_of(tmp_path / "sky.zarr"), want[:2])
    for keywords, error in (({"TUNIT1": "K km/s"}, UnitError), ({"COORDSYS": "C"}, FrameError)):
        with pytest.raises(error, match=r"\(channel 1, I\) .* the channels of a cube have one"):
            sm.ingest_cube([first, made("c.fits", want[1], **keywords)], tmp_path / "n.zarr", edges=[0, 1, 2])
    with pytest.raises(InputError, match="NSIDE 4"):
        sm.ingest_cube([first, made("d.fits", want[1, :192], NSIDE=4)], tmp_path / "n.zarr", edges=[0, 1, 2])
    with pytest.raises(InputError, match="twice"):
        sm.ingest_cube([first, first], tmp_path / "n.zarr", edges=[0, 1, 2])
    with pytest.raises(InputError, match="`files` is empty"):
        sm.ingest_cube([], tmp_path / "n.zarr", edges=[0, 1, 2])
    with pytest.raises(InputError, match="`column` is for one file"):
        sm.ingest_cube([first], tmp_path / "n.zarr", edges=[0, 1], column="I")
    assert not (tmp_path / "n.zarr").exists()


# Bad input and stores that are there already


def test_what_the_header_does_not_tell_is_asked_for(tmp_path):
    for keywords, option, error in (
        ({"BUNIT": None}, "unit", UnitError),
        ({"COORDSYS": None}, "frame", FrameError),
        ({"ORDERING": None}, "ordering", OrderingError),
    ):
        with pytest.raises(error, match=f"give `{option}`"):
            sm.ingest_cube(simple(tmp_path, **keywords), tmp_path / "sky.zarr", edges=EDGES)
    path = simple(tmp_path)
    with pytest.raises(UnitError, match="`unit` 'cm-2' came"):
        sm.ingest_cube(path, tmp_path / "sky.zarr", edges=EDGES, unit="cm-2")
    sm.ingest_cube(path, tmp_path / "sky.zarr", edges=EDGES, unit="cm-2", override=["unit"])
    with pytest.raises(FormatError, match="is expected, nside 16"):
        sm.ingest_cube(path, tmp_path / "sky.zarr", edges=EDGES, nside=16)
    with pytest.raises(InputError, match="means: predicted intensity"):
        sm.ingest_cube(path, tmp_path / "sky.zarr", "pred_x", edges=EDGES)
    with pytest.raises(StoreNotFoundError):
        sm.ingest_cube(tmp_path / "none.fits", tmp_path / "sky.zarr", edges=EDGES)
    Path(path).write_bytes(Path(path).read_bytes()[:9000])
    with pytest.raises(FormatError, match="truncated"):
        sm.ingest_cube(path, tmp_path / "sky.zarr", edges=EDGES)


def test_a_cube_without_any_value_is_an_error_and_leaves_nothing(tmp_path):
    plan = sm.ingest_cube(simple(tmp_path, np.full((4, 768), np.nan, "f4")), tmp_path / "sky.zarr", edges=EDGES)
    with pytest.raises(FormatError, match="no pixel of any channel has a value"):
        plan.run(progress=False)
    assert stores.infos(tmp_path / "sky.zarr") == {}


def test_an_empty_channel_is_kept_and_counted(tmp_path):
    values = spectra()
    values[2] = np.nan
    sm.ingest_cube(simple(tmp_path, values), tmp_path / "sky.zarr", edges=EDGES).run(progress=False)
    assert stores.info(tmp_path / "sky.zarr", "n_hi").provenance["statistics"]["channel_counts"][2] == 0


def test_a_cube_joins_a_store_that_agrees(tmp_path):
    path, where = simple(tmp_path), tmp_path / "sky.zarr"
    sm.simulate("dust", where, NSIDE, seed=1, maps=["i160"]).run(progress=False)
    sm.ingest_cube(path, where, edges=EDGES).run(progress=False)
    np.testing.assert_array_equal(cube_of(where), spectra())
    with pytest.raises(InputError, match="4 channels"):
        sm.ingest_cube(simple(tmp_path, spectra(count=3)), where, "other", edges=EDGES[:4])
    other = simple(tmp_path, spectra(seed=1))
    with pytest.raises(IdentityError, match="was made by another run"):
        sm.ingest_cube(other, where, edges=EDGES)
    with pytest.raises(IdentityError):
        sm.ingest_cube(path, where, "i160", edges=EDGES)
    sm.ingest_cube(other, where, edges=EDGES, overwrite=True).run(progress=False)
    np.testing.assert_array_equal(cube_of(where), spectra(seed=1))
    with pytest.raises(InputError, match="`tile_nside` 4 came"):
        sm.ingest_cube(path, where, "more", edges=EDGES, tile_nside=4)
    with pytest.raises(InputError, match="NSIDE 4"):
        sm.ingest_cube(simple(tmp_path, spectra(nside=4)), where, "coarse", edges=EDGES)
    with pytest.raises(FrameError, match="icrs"):
        sm.ingest_cube(simple(tmp_path, COORDSYS="C"), where, "turned", edges=EDGES)


def test_scratch_is_where_it_is_asked_for_and_goes(tmp_path):
    path = write_image(tmp_path / "cube.fits.gz", spectra())
    (tmp_path / "tmp").mkdir()
    plan = sm.ingest_cube(path, tmp_path / "sky.zarr", edges=EDGES, scratch=tmp_path / "tmp")
    plan.run(progress=False)
    assert os.listdir(tmp_path / "tmp") == []
    with pytest.raises(InputError, match="`scratch`"):
        sm.ingest_cube(path, tmp_path / "sky.zarr", edges=EDGES, scratch=tmp_path / "none")


def test_lazily_the_same_comes(tmp_path):
    plan = sm.ingest_cube(simple(tmp_path), tmp_path / "sky.zarr", edges=EDGES)
    np.testing.assert_array_equal(plan.lazy()["n_hi"].values, spectra())
    assert not (tmp_path / "sky.zarr").exists()


# Killed runs

KILLED = """
import os, sys
import skymill as sm
from skymill.engine import ledger
ticks, tick = [], ledger.tick
def dying(store, name, tile, digest):
    tick(store, name, tile, digest)
    ticks.append(tile)
    if len(ticks) == 5:
        os._exit(9)
ledger.tick = dying
edges = [-90.0, -35.0, 0.0, 35.0, 90.0]
sm.ingest_cube(sys.argv[1], sys.argv[2], edges=edges, tile_nside=2, threads=1).run(progress=False)
"""


@pytest.mark.parametrize("explicit", [False, True])
def test_a_killed_run_continues_to_the_same_bytes(tmp_path, explicit):
    pixels = np.arange(0, 768, 2) if explicit else None
    stored = spectra()[:, pixels] if explicit else spectra()
    path = write_form(tmp_path, "vector", stored, False, pixels, not explicit)
    where, whole = tmp_path / "sky.zarr", tmp_path / "whole.zarr"
    done = subprocess.run([sys.executable, "-c", KILLED, path, str(where)], check=False, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    plan = sm.ingest_cube(path, where, edges=EDGES, tile_nside=2)
    assert (plan.done, len(plan.todo)) == (5, 43)
    report = plan.run(progress=False)
    assert report.counts == {"verified": 5, "computed": 43}
    sm.ingest_cube(path, whole, edges=EDGES, tile_nside=2).run(progress=False)
    assert content(where, "n_hi") == content(whole, "n_hi")
    assert json.dumps(stores.info(where, "n_hi").provenance) == json.dumps(stores.info(whole, "n_hi").provenance)
    assert not [name for name in os.listdir(tmp_path) if "ingest-" in name]


# Memory

MEMORY = """
import json, sys
import skymill as sm
report = sm.ingest_cube(sys.argv[1], sys.argv[2], velocity=list(range(41)), width=1, threads=2).run(progress=False)
print(json.dumps([report.peak_memory, report.planned_memory]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["image", "vector", "listed"])
def test_the_peak_stays_below_the_plan(tmp_path, form):
    nside, path = 256, tmp_path / "cube.fits"
    values = np.random.default_rng(0).normal(size=(41, 12 * nside**2)).astype(np.float32)
    if form == "image":
        write_image(path, values, ORDERING="RING")
    else:
        listed = {"PIXEL": ("K", np.random.default_rng(1).permutation(12 * nside**2))} if form == "listed" else {}
        unit = {"TUNIT1": None, "TUNIT2": "K", "INDXSCHM": "EXPLICIT"} if listed else {"TUNIT1": "K"}
        write_table(path, {**listed, "N": ("41E", values.T)}, NSIDE=nside, ORDERING="RING", **unit)
    del values
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path), str(tmp_path / "sky.zarr")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    peak, planned = json.loads(done.stdout.splitlines()[-1])
    print(f"{form}: peak {peak / 1e6:.0f} MB, planned {planned / 1e6:.0f} MB")
    assert 0 < peak <= planned <= 4 * peak
