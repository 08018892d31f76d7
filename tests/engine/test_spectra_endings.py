"""The verb `spectra`: pairs, masks, beams and halves that are unusual, and what is left behind in every ending."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import healpy as hp
import numpy as np
import pytest
import skymill as sm
import xarray as xr
from skies import write_map
from skymill.engine import spectra as module
from skymill.engine.coupling import coupling_matrix
from skymill.engine.scratch import FolderScratch

NSIDE, LMAX = 16, 32
NPIX = 12 * NSIDE**2
LATITUDE = hp.pix2ang(NSIDE, np.arange(NPIX), lonlat=True)[1]
NORTH = np.clip((LATITUDE + 20) / 40, 0, 1).astype(np.float32)
SOUTH = np.clip((40 - LATITUDE) / 60, 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def maps():
    return {name: np.random.default_rng(seed).normal(size=NPIX).astype(np.float32) for seed, name in enumerate("abc")}


@pytest.fixture(scope="module")
def sky(tmp_path_factory, maps):
    path = tmp_path_factory.mktemp("endings") / "sky.zarr"
    for name, values in maps.items():
        write_map(path, NSIDE, values, name)
    write_map(path, NSIDE, NORTH, "weight_north", unit="1")
    write_map(path, NSIDE, SOUTH, "weight_south", unit="1")
    write_map(path, NSIDE, (LATITUDE > 82).astype(np.float32), "weight_tiny", unit="1")
    return str(path)


def run(sky, pairs=(("a", "b"),), **options):
    return sm.spectra(sky, pairs, **{"lmax": LMAX, "weights": "pixel", **options}).run(progress=False)


def test_one_cross_spectrum_of_two_masks_is_decoupled(sky, maps):
    found = run(sky, mask={"a": "weight_north", "b": "weight_south"}, bins=8, precision="double")
    north, south = NORTH.astype(float), SOUTH.astype(float)
    top = 3 * NSIDE - 1
    full = coupling_matrix(hp.anafast(north, south, lmax=top, iter=0), LMAX)
    pseudo = hp.anafast(maps["a"] * north, maps["b"] * south, lmax=LMAX, iter=0)
    ell = np.arange(LMAX + 1)
    average = np.array([np.where((start <= ell) & (start + 8 > ell), 1 / 8, 0.0) for start in (2, 10, 18)])
    expected = np.linalg.solve(average @ full @ (average > 0).T.astype(float), average @ pseudo)
    np.testing.assert_allclose(found["cl"][0], expected, rtol=1e-9)
    assert 0.9 < found.attrs["mask_power"] < 1.1
    f_sky = np.mean(north * south) ** 2 / np.mean((north * south) ** 2)
    assert found["f_sky"].item() == pytest.approx(f_sky)


def test_a_beam_may_be_an_array_of_one_number(sky):
    xr.testing.assert_equal(run(sky, beam=np.array(60.0)), run(sky, beam=60.0))


def test_a_pair_that_comes_twice_is_told_before_anything_is_read(sky):
    with pytest.raises(ValueError, match=r"'b'\) more than once"):
        sm.spectra(sky, [("a", "b"), ("b", "a"), ("a", "b")], lmax=LMAX)
    both = run(sky, [("a", "b"), ("b", "a")])["cl"].values
    np.testing.assert_array_equal(both[0], both[1])


def test_bins_too_narrow_for_the_mask_leave_nothing_behind(sky):
    with pytest.raises(ValueError, match=r"Take wider ones"):
        run(sky, mask="weight_tiny", bins=1)
    assert not Path(sky + ".scratch").exists()


def test_a_result_that_cannot_be_written_is_there_for_the_next_run(sky, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write", full)
    with pytest.raises(OSError, match=r"(?i)disk|space"):
        run(sky, out_dir=tmp_path / "result")
    monkeypatch.undo()
    assert Path(sky + ".scratch").exists()
    again = run(sky, out_dir=tmp_path / "result")
    assert '"verified"' in again.attrs["run"]
    assert math.isfinite(again["cl"].values.sum())
    assert not Path(sky + ".scratch").exists()


def test_scratch_space_may_be_removed_by_two_at_the_same_time(tmp_path, monkeypatch):
    space = FolderScratch(str(tmp_path / "sky.zarr.scratch" / "one"))
    space.write("stage/field/0", [np.arange(3.0)])
    unlink, rmdir = os.unlink, os.rmdir

    def taken(*args, **options):
        unlink(*args, **options)
        raise FileNotFoundError(errno.ENOENT, "another process was faster")

    def filled(*_, **__):
        raise OSError(errno.ENOTEMPTY, "another process writes on")

    monkeypatch.setattr(os, "unlink", taken)
    monkeypatch.setattr(os, "rmdir", filled)
    space.remove("stage/")
    monkeypatch.setattr(os, "rmdir", rmdir)
    space.remove()
    assert not Path(space.where).exists()
