"""The verb `spectra`: pairs, masks, beams and halves that are unusual, and what is left behind in every ending."""

from __future__ import annotations

import errno
import math
import os
import shutil
from pathlib import Path

import healpy as hp
import numpy as np
import pytest
import skymill as sm
import xarray as xr
from skies import write_map
from skymill.chunking import store as stores
from skymill.engine import coupling_integral
from skymill.engine import spectra as module
from skymill.engine.binning import Bins
from skymill.engine.coupling import coupling_matrix
from skymill.engine.pixel_window import pixel_window
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


@pytest.fixture
def another(tmp_path, maps):
    """A store with a map of the same name as one of the first store."""
    return write_map(tmp_path / "another.zarr", NSIDE, maps["c"], "b")


REFUSED = [
    ({"splits": {"a": ("b", "c")}}, r"'b' of .*another.zarr is asked for too"),
    ({"fiducial": {("a", "a"): np.ones(5), ("b", "b"): np.ones(LMAX + 1)}}, r"from 0 to 32"),
    ({"fiducial": {("a", "a"): np.ones(LMAX + 1)}}, r"auto-spectrum of 'b' is missing"),
    ({"fiducial": {("a", "a"): -np.ones(LMAX + 1), ("b", "b"): np.ones(LMAX + 1)}}, r"is negative at ell 0"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED, ids=["halves", "short", "missing", "negative"])
def test_what_cannot_be_is_told_by_the_plan(sky, another, options, words):
    with pytest.raises(ValueError, match=words):
        sm.spectra(sky, [("a", "b")], other=another, lmax=LMAX, errors="monte-carlo", **options)


def test_folders_that_cannot_be_are_told_before_the_work(sky, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Stages", None)  # whoever would begin to compute fails
    (tmp_path / "file").touch()
    for folder in ("", "s3://bucket/result", tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"out_dir"):
            run(sky, out_dir=folder)
    with pytest.raises(ValueError, match=r"file is a file. Give `scratch`"):
        run(sky, scratch=tmp_path / "file")


def test_a_map_of_the_same_values_and_another_beam_is_another_run(tmp_path, maps, monkeypatch):
    # The digest of a map that a run of ours made is that of its values alone.
    monkeypatch.setattr(module, "map_digest", lambda *_: "the same")
    options = {"beam": "store", "out_dir": tmp_path / "result"}
    for width in (60.0, 90.0):
        shutil.rmtree(tmp_path / "sky.zarr", ignore_errors=True)
        store = write_map(tmp_path / "sky.zarr", NSIDE, maps["a"], "a", beam_fwhm_arcmin=width)
        if width == 60.0:
            first = run(store, [("a", "a")], **options)
    with pytest.raises(FileExistsError, match=r"made by another run \(other maps\)"):
        run(store, [("a", "a")], **options)
    second = run(store, [("a", "a")], overwrite=True, **options)
    assert (second["cl"][0, 5:] > first["cl"][0, 5:]).all()


@pytest.mark.parametrize("options", [{}, {"bins": 4}, {"mask": "weight_north", "bins": 4}], ids=["ell", "bins", "mask"])
@pytest.mark.parametrize("errors", ["knox", "monte-carlo"])
def test_far_below_the_beam_nothing_overflows(sky, tmp_path, options, errors):
    found = run(sky, beam=4000.0, errors=errors, simulations=3, out_dir=tmp_path / "result", **options)
    assert abs(found["cl"].values).max() > 1e60
    assert np.isfinite(found["error"][0, 0])
    if not options and errors == "knox":
        widest = run(sky, beam=20000.0, errors=errors, simulations=3)["cl"].values[0]
        assert np.isnan(widest[-1])
        assert np.isfinite(widest[2])


def test_multipoles_go_to_twice_nside_unless_told(sky):
    assert run(sky, lmax=None)["cl"].shape == (1, 2 * NSIDE + 1)
    assert run(sky, lmax=7)["cl"].shape == (1, 8)


@pytest.mark.parametrize("lmax", [0, 1, 2])
def test_few_multipoles(sky, maps, lmax):
    found = run(sky, lmax=lmax, errors="knox", precision="double")
    expected = hp.anafast(maps["a"].astype(float), maps["b"].astype(float), lmax=lmax, iter=0)
    np.testing.assert_allclose(found["cl"][0], expected, rtol=1e-10, atol=1e-16)
    assert np.isfinite(found["p_value"].item()) == (lmax == 2)


@pytest.mark.parametrize("nside", [1, 2, 4])
def test_few_pixels(tmp_path, nside):
    values = np.random.default_rng(nside).normal(size=12 * nside**2).astype(np.float32)
    store = write_map(tmp_path / "sky.zarr", nside, values, "a")
    found = run(store, [("a", "a")], lmax=3 * nside - 1, precision="double")
    np.testing.assert_allclose(found["cl"][0], hp.anafast(values.astype(float), lmax=3 * nside - 1, iter=0), rtol=1e-9)


def test_stores_that_are_cut_in_another_way(sky, tmp_path, maps):
    other = str(tmp_path / "other.zarr")
    stores.create(other, NSIDE, frame="galactic", tile_nside=2, chunk_nside=8)
    write_map(other, NSIDE, maps["b"], "b")
    write_map(other, NSIDE, NORTH, "weight_there", unit="1")
    options = {"precision": "double", "bins": 8}
    expected = run(sky, mask="weight_north", **options)["cl"]
    for first, second in ((sky, other), (other, sky)):
        pair = ("a", "b") if first == sky else ("b", "a")
        found = run(first, [pair], other=second, mask={"a": "weight_north", "b": "weight_there"}, **options)
        np.testing.assert_allclose(found["cl"], expected, rtol=1e-10)


def test_kinds_of_bins(sky):
    plain = run(sky)["cl"].values[0]
    edges = np.array([2, 8, 20])
    found = run(sky, bins=edges)
    np.testing.assert_allclose(found["cl"][0], [plain[2:8].mean(), plain[8:20].mean()], rtol=1e-12)
    weighted = run(sky, bins=Bins.from_edges([2, 8, 20], "2l+1"))
    modes = 2 * np.arange(8, 20) + 1
    np.testing.assert_allclose(weighted["cl"][0, 1], np.average(plain[8:20], weights=modes), rtol=1e-12)
    assert weighted["ell"][1] > found["ell"][1]


def test_more_realisations_are_other_errors(sky):
    few, more = (run(sky, bins=8, errors="monte-carlo", simulations=count) for count in (3, 6))
    assert not np.isclose(few["error"], more["error"], rtol=1e-3).any()


def test_samples_have_no_window_of_pixels(tmp_path, maps):
    store = write_map(tmp_path / "sky.zarr", NSIDE, maps["a"], "a", pixel_window=False)
    write_map(store, NSIDE, maps["b"], "b")
    plain, divided = (run(store, pixel_window=asked)["cl"].values[0] for asked in (False, True))
    np.testing.assert_allclose(divided, plain / pixel_window(NSIDE, LMAX), rtol=1e-12)


def test_beams_from_a_file(sky, tmp_path):
    beam = np.exp(-np.arange(LMAX + 1) / 40)
    for scale in (1.0, 2.0):
        np.savetxt(tmp_path / "beam.txt", scale * beam)
        options = {"beam": {"a": str(tmp_path / "beam.txt")}, "out_dir": tmp_path / "result", "overwrite": True}
        # The result in the folder is that of the other beam: the content of the file counts, not its name.
        np.testing.assert_allclose(run(sky, **options)["cl"], run(sky)["cl"] / beam / scale, rtol=1e-12)


def test_decoupling_takes_no_more_threads_than_its_memory_lets(sky, monkeypatch):
    taken = []

    class Noted(module.Estimator):
        def __post_init__(self):
            taken.append(self.threads)

    monkeypatch.setattr(module, "Estimator", Noted)
    for options in ({"threads": 3}, {"threads": 64, "memory": 10**9}, {"threads": 64, "memory": 290_000_000}):
        monkeypatch.setattr(coupling_integral, "coupling_memory", lambda *_, threads, **__: threads * 20_000_000)
        run(sky, bins=8, **options)
    assert taken == [3, 37, 2]
