"""Synthesis: realisations have the spectra that were asked for, and are the same whatever makes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import healpy as hp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skies import content
from skymill.chunking import store as stores
from skymill.chunking.errors import FrameError, IdentityError, InputError, MemoryLimitError, RunError
from skymill.chunking.tiling import Tiling
from skymill.engine import staged_maps
from skymill.engine.pixel_window import pixel_window
from skymill.engine.realised_harmonics import RealisedHarmonics, unit_draw
from skymill.engine.rings import Layout
from skymill.engine.scratch import ALL, FolderScratch, done_key
from skymill.engine.synthesize import synthesize

NSIDE = 32
LMAX = 3 * NSIDE - 1
ELL = np.arange(LMAX + 1)
CL = 1.0 / (10.0 + ELL) ** 2


def values(sky, name="g"):
    """Return a map in RING order, float64."""
    found = stores.read_cells(str(sky), name, 0, stores.tiling_of(str(sky)).npix)
    return hp.reorder(found.astype(float), n2r=True)


def make(sky, cl=CL, **options):
    """Run the verb and return its report."""
    options = {"nside": NSIDE, "seed": 1, "tile_nside": 2, "threads": 1} | options
    return synthesize(cl, str(sky), **options).run(progress=False)


def harmonics(sky, name="g", lmax=2 * NSIDE, iterations=3):
    """Return the a_lm of a map as healpy finds them."""
    return hp.map2alm(values(sky, name), lmax=lmax, iter=iterations)


# ---- what is drawn -------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    order=st.integers(0, 40),
    field=st.integers(0, 7),
    short=st.integers(0, 30),
    more=st.integers(0, 30),
)
def test_a_larger_lmax_only_adds(seed, order, field, short, more):
    some = unit_draw(seed, order, field, order + short)
    longer = unit_draw(seed, order, field, order + short + more)
    assert some.shape == (short + 1, 2)
    np.testing.assert_array_equal(longer[: short + 1], some)
    assert (order > 0) or not longer[:, 1].any()


def test_draws_are_normal_and_independent_of_each_other():
    draws = {key: unit_draw(*key, 60_000 + key[1]) for key in [(1, 3, 0), (2, 3, 0), (1, 4, 0), (1, 3, 1), (1, 0, 0)]}
    flat = [found[:60_000].reshape(-1) for key, found in draws.items() if key[1] > 0]
    for found in flat:
        assert abs(found.mean()) < 5 * np.sqrt(0.5 / found.size)
        assert abs(found.var() / 0.5 - 1) < 5 * np.sqrt(2 / found.size)
        assert abs((found**4).mean() / 0.75 - 1) < 0.05
    assert np.abs(np.corrcoef(flat) - np.eye(4)).max() < 5 / np.sqrt(flat[0].size)
    assert abs(draws[1, 0, 0][:, 0].var() - 1) < 5 * np.sqrt(2 / 60_000)
    assert abs(np.corrcoef(draws[1, 3, 0][:60_000].T)[0, 1]) < 5 / np.sqrt(60_000)


def test_blocks_hold_the_orders_that_they_say(tmp_path):
    layout = Layout.of(Tiling(16), 30, "double")
    scratch = FolderScratch(str(tmp_path))
    factors = np.zeros((31, 2, 2))
    factors[:, 0, 0], factors[:, 1, 0], factors[:, 1, 1] = 2.0, 1.0, np.arange(31)
    draw = RealisedHarmonics(5, 2)
    draw.give(scratch, factors)
    first, stop = layout.orders(2)
    one, other = draw.block(scratch, layout, 2)
    assert one.shape == (stop - first, 31)
    assert one.dtype == np.complex128
    for order in range(first, stop):
        left, right = (unit_draw(5, order, field, 30) @ [1, 1j] for field in (0, 1))
        assert not one[order - first, :order].any()
        np.testing.assert_array_equal(one[order - first, order:], 2 * left)
        np.testing.assert_allclose(other[order - first, order:], left + np.arange(order, 31) * right, rtol=1e-15)


# ---- the sky -------------------------------------------------------------------------------------------------------


def test_the_spectrum_is_the_one_that_was_asked_for(tmp_path):
    report = make(tmp_path / "sky.zarr", CL[: 2 * NSIDE + 1])
    assert report.counts == {"computed": 48}
    assert report.cells == 12 * NSIDE**2
    found = hp.alm2cl(harmonics(tmp_path / "sky.zarr"))
    ratio = (found / CL[: found.size])[2:]
    modes = 2 * ELL[2 : found.size] + 1
    # The sum of squares of normal numbers, at every multipole and over all.
    assert (np.abs(ratio - 1) < 5 * np.sqrt(2 / modes)).all()
    chi2 = float((ratio * modes).sum())
    assert abs(chi2 - modes.sum()) < 4 * np.sqrt(2 * modes.sum())
    scatter = float(((ratio - 1) ** 2 * modes / 2).mean())
    assert 0.4 < scatter < 1.9


def test_the_map_is_the_synthesis_of_its_harmonics(tmp_path):
    lmax = 40
    make(tmp_path / "sky.zarr", CL, lmax=lmax, seed=7, precision="double")
    alm = np.zeros(hp.Alm.getsize(lmax), complex)
    for order in range(lmax + 1):
        drawn = unit_draw(7, order, 0, lmax) @ [1, 1j]
        alm[hp.Alm.getidx(lmax, np.arange(order, lmax + 1), order)] = np.sqrt(CL[order : lmax + 1]) * drawn
    wanted = hp.alm2map(alm, NSIDE, lmax=lmax)
    np.testing.assert_allclose(values(tmp_path / "sky.zarr"), wanted, atol=1e-7 * wanted.std(), rtol=1e-7)


def test_single_precision_is_the_same_sky(tmp_path):
    make(tmp_path / "single.zarr")
    make(tmp_path / "double.zarr", precision="double")
    single, double = values(tmp_path / "single.zarr"), values(tmp_path / "double.zarr")
    assert 0 < np.abs(single - double).max() < 3e-6 * double.std()


def test_a_seed_is_one_sky_at_every_nside_and_lmax(tmp_path):
    make(tmp_path / "coarse.zarr", CL, lmax=40, nside=32, precision="double")
    make(tmp_path / "fine.zarr", CL, lmax=80, nside=64, precision="double")
    coarse, fine = (harmonics(tmp_path / f"{name}.zarr", lmax=lmax) for name, lmax in (("coarse", 40), ("fine", 80)))
    ell, order = hp.Alm.getlm(40)
    same = fine[hp.Alm.getidx(80, ell, order)]
    assert np.abs(same - coarse).max() < 1e-5 * np.abs(coarse).max()


def test_correlated_maps(tmp_path):
    cross = 0.7 * np.sqrt(CL * 4.0)
    spectra = {("a", "a"): CL, ("b", "b"): np.full_like(CL, 4.0), ("b", "a"): cross, ("c", "c"): CL}
    make(tmp_path / "sky.zarr", spectra, name=["a", "b", "c"], lmax=2 * NSIDE)
    alm = {name: harmonics(tmp_path / "sky.zarr", name) for name in "abc"}
    modes = 2 * ELL[2 : 2 * NSIDE + 1] + 1
    for one, other, wanted, correlation in (
        ("a", "b", cross, 0.7),
        ("b", "c", 0 * cross, 0.0),
        ("a", "c", 0 * cross, 0.0),
    ):
        found = hp.alm2cl(alm[one], alm[other])[2:]
        size = np.sqrt((hp.alm2cl(alm[one]) * hp.alm2cl(alm[other]))[2:])
        mean = float((found / size * modes).sum() / modes.sum())
        assert abs(mean - correlation) < 4 * (1 - correlation**2) / np.sqrt(modes.sum()) + 2e-3, (one, other, wanted[2])


def test_more_maps_leave_the_first_ones_as_they_are(tmp_path):
    spectra = {("a", "a"): CL, ("b", "b"): CL, ("a", "b"): 0.5 * CL}
    make(tmp_path / "one.zarr", spectra, name="a")
    make(tmp_path / "two.zarr", spectra, name=["a", "b"])
    assert content(tmp_path / "one.zarr", "a") == content(tmp_path / "two.zarr", "a")


def test_fully_correlated_maps_are_multiples(tmp_path):
    spectra = {("a", "a"): CL, ("b", "b"): 9 * CL, ("a", "b"): -3 * CL}
    make(tmp_path / "sky.zarr", spectra, name=["a", "b"], precision="double")
    a, b = values(tmp_path / "sky.zarr", "a"), values(tmp_path / "sky.zarr", "b")
    np.testing.assert_allclose(b, -3 * a, atol=1e-5 * a.std())


@pytest.mark.parametrize(
    "option",
    [
        {"seed": 2},
        {"lmax": 60},
        {"fwhm": 300.0},
        {"pixel_window": True},
        {"precision": "double"},
        {"cl": 2 * CL},
    ],
    ids=lambda option: next(iter(option)),
)
def test_every_parameter_changes_the_map(tmp_path, option):
    make(tmp_path / "one.zarr")
    make(tmp_path / "two.zarr", **option)
    one, two = values(tmp_path / "one.zarr"), values(tmp_path / "two.zarr")
    assert (one != two).mean() > 0.2


def test_beam_and_pixel_window_multiply_the_harmonics(tmp_path):
    plain, smoothed = tmp_path / "plain.zarr", tmp_path / "smoothed.zarr"
    make(plain, precision="double", lmax=64)
    make(smoothed, precision="double", lmax=64, fwhm=300.0, pixel_window=True, unit="K")
    beam = hp.gauss_beam(np.radians(5.0), 64)
    window = np.array(pixel_window(NSIDE, 64))
    wanted = hp.alm2map(hp.almxfl(harmonics(plain, iterations=10), beam * window), NSIDE, lmax=64)
    np.testing.assert_allclose(values(smoothed), wanted, atol=1e-5 * wanted.std())
    info = stores.info(str(smoothed), "g")
    assert (info.beam_fwhm_arcmin, info.pixel_window, info.unit) == (300.0, True, "K")
    assert stores.info(str(plain), "g").pixel_window is False


def test_stores_and_frames(tmp_path):
    sky = str(tmp_path / "sky.zarr")
    make(sky, nside=16, frame="icrs", tile_nside=4, cl=CL[:40])
    assert stores.frame_of(sky) == "icrs"
    assert stores.tiling_of(sky).tile_nside == 4
    synthesize(CL[:40], sky, name="more", frame="icrs").run(progress=False)
    assert stores.tiling_of(sky).nside == 16
    assert not np.array_equal(values(sky), values(sky, "more"))
    for wrong in ({"nside": 32}, {"frame": "galactic"}, {"frame": "icrs", "tile_nside": 2}):
        with pytest.raises(InputError, match="exists with"):
            synthesize(CL[:40], sky, name="third", **{"frame": "icrs", **wrong})
    with pytest.raises(FrameError):
        synthesize(CL, str(tmp_path / "new.zarr"), nside=16, frame="south")


# ---- the same bytes ------------------------------------------------------------------------------------------------


def test_the_same_bytes_whatever_makes_them(tmp_path, monkeypatch):
    options = {"nside": 64, "tile_nside": 4, "cl": 1.0 / (1.0 + np.arange(150.0))}
    make(tmp_path / "one.zarr", **options)
    wanted = content(tmp_path / "one.zarr", "g")
    make(tmp_path / "two.zarr", threads=2, **options)
    assert content(tmp_path / "two.zarr", "g") == wanted
    # As little memory as makes the bands as low as they go.
    heights = []
    for place in ("low", "lower"):
        allowed = 250_000_000 + {"low": 330_000, "lower": 1}[place]
        sky = str(tmp_path / f"{place}.zarr")
        plan = synthesize(options["cl"], sky, nside=64, tile_nside=4, seed=1, threads=1, memory=allowed)
        heights.append(next(note for note in plan.notes if note.startswith("stages")))
        if place == "lower":
            with pytest.raises(MemoryLimitError):
                plan.run(progress=False)
            monkeypatch.setattr(type(plan), "check", lambda self, worker: None)
        plan.run(progress=False)
        assert content(sky, "g") == wanted
    assert len(set(heights)) == 2


def test_a_finished_map_is_only_verified_and_damage_is_mended(tmp_path):
    sky = tmp_path / "sky.zarr"
    make(sky)
    wanted = content(sky, "g")
    assert make(sky).counts == {"verified": 48}
    assert not Path(f"{sky}.scratch").exists()
    shard = sky / "g" / "c" / "17"
    broken = bytearray(shard.read_bytes())
    broken[100] ^= 1
    shard.write_bytes(broken)
    report = make(sky)
    assert report.counts == {"verified": 47, "computed": 1}
    assert content(sky, "g") == wanted
    with pytest.raises(IdentityError, match="seed was 1, is 2"):
        make(sky, seed=2)
    make(sky, seed=2, overwrite=True)
    assert content(sky, "g") != wanted


@pytest.mark.parametrize("stop", ["orders", "pixels", "tiles"])
def test_a_run_that_stops_goes_on(tmp_path, monkeypatch, stop):
    sky = tmp_path / "sky.zarr"
    make(tmp_path / "whole.zarr")
    wanted = content(tmp_path / "whole.zarr", "g")
    calls = {"orders": 0, "pixels": 0, "tiles": 0}
    places = {
        "orders": (RealisedHarmonics, "block", 5),
        "pixels": ("skymill.engine.transform.PixelTask", "work", 1),
        "tiles": (staged_maps.Pieces, "tile", 20),
    }
    with monkeypatch.context() as patch:
        owner, method, allowed = places[stop]
        if isinstance(owner, str):
            from skymill.engine.transform import PixelTask as owner  # noqa: N813
        undisturbed = getattr(owner, method)

        def stopped(self, *arguments):
            calls[stop] += 1
            if calls[stop] > allowed:
                raise KeyboardInterrupt
            return undisturbed(self, *arguments)

        patch.setattr(owner, method, stopped)
        with pytest.raises(KeyboardInterrupt):
            make(sky)
    assert Path(f"{sky}.scratch").exists()
    report = make(sky)
    assert content(sky, "g") == wanted
    assert report.counts.get("verified", 0) == (20 if stop == "tiles" else 0)
    drawn = [record for record in report.records if "draw" in record.seconds]
    layout = Layout.of(Tiling(NSIDE, 2), LMAX)
    assert len(drawn) == (layout.n_blocks - 5 if stop == "orders" else 0)
    assert not Path(f"{sky}.scratch").exists()


# A process of its own, since libraries forbid to fork; the same call as `make` with these options.  It kills itself
# right after it has noted a step or ticked a tile, whatever else the machine is busy with.
UNTIL_KILLED = """
import os, signal, sys
import numpy as np
from skymill.engine import ledger
from skymill.engine.scratch import FolderScratch
from skymill.engine.synthesize import synthesize

def dying(inner, told):
    def done(*given):
        inner(*given)
        if told(*given) == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL)
    return done

FolderScratch.note = dying(FolderScratch.note, lambda scratch, key, facts: key)
ledger.tick = dying(ledger.tick, lambda store, name, tile, digest: f"tile {tile}")
synthesize(np.ones(192), sys.argv[1], nside=64, seed=1, tile_nside=2, threads=1).run(progress=False)
"""


def test_a_process_that_is_killed_is_continued(tmp_path):
    whole, sky = tmp_path / "whole.zarr", tmp_path / "sky.zarr"
    make(whole, nside=64, cl=np.ones(192))
    space = Path(f"{sky}.scratch")
    moments = {
        done_key("orders", 3): (space, "*/done/orders/3.json"),
        done_key("orders", ALL): (space, "*/done/orders/all.json"),
        "tile 10": (sky, "ledger/g/c/10"),
    }
    for moment, (folder, reached) in moments.items():
        assert not any(folder.glob(reached))
        process = subprocess.run([sys.executable, "-c", UNTIL_KILLED, str(sky), moment], stderr=subprocess.PIPE)
        assert process.returncode == -signal.SIGKILL, process.stderr
        assert any(folder.glob(reached))
    make(sky, nside=64, cl=np.ones(192))
    assert content(sky, "g") == content(whole, "g")
    assert not space.exists()


def test_damaged_scratch_space_is_made_again(tmp_path, monkeypatch):
    sky, space = tmp_path / "sky.zarr", tmp_path / "space"
    make(tmp_path / "whole.zarr")
    with monkeypatch.context() as patch:
        patch.setattr(staged_maps.Pieces, "tile", lambda self, label, tile: 1 / 0)
        with pytest.raises(RunError):
            make(sky, scratch=space)
    piece = next(path for path in space.rglob("pixels/g/0") if path.is_file())
    broken = bytearray(piece.read_bytes())
    broken[10] ^= 1
    piece.write_bytes(broken)
    for _ in range(2):  # the piece is found damaged; what it was made of is not there any more
        with pytest.raises(RunError, match="Run the same command again"):
            make(sky, scratch=space)
    make(sky, scratch=space)
    assert content(sky, "g") == content(tmp_path / "whole.zarr", "g")


def test_scratch_goes_where_it_is_told(tmp_path, monkeypatch):
    seen = []
    undisturbed = staged_maps.Pieces.tile

    def looking(self, label, tile):
        seen.append(sorted(path.name for path in (tmp_path / "space").iterdir()))
        return undisturbed(self, label, tile)

    monkeypatch.setattr(staged_maps.Pieces, "tile", looking)
    make(tmp_path / "sky.zarr", scratch=tmp_path / "space")
    assert len(seen) == 48
    assert len(seen[0]) == 1
    assert not list((tmp_path / "space").iterdir())
    make(tmp_path / "beside.zarr", transpose="store")
    assert content(tmp_path / "beside.zarr", "g") == content(tmp_path / "sky.zarr", "g")


# ---- bad input -----------------------------------------------------------------------------------------------------


WRONG = {
    "two dimensions": (np.ones((2, 3)), "shape"),
    "empty": ([], "shape"),
    "text": (["a", "b"], "numbers"),
    "not a number": ([1.0, np.nan, 1.0], "nan at ell 1"),
    "infinite": ([1.0, 1.0, np.inf], "inf at ell 2"),
    "negative": ([1.0, -1.0, 1.0], "negative at ell 1"),
    "a key": ({"g": [1.0, 1.0]}, "pairs of names"),
    "another map": ({("h", "h"): [1.0, 1.0]}, "no auto-spectrum of 'g'"),
    "no file": ("nothing.txt", "cannot be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_spectra_that_are_none(tmp_path, case):
    cl, told = WRONG[case]
    with pytest.raises(InputError, match=told):
        synthesize(cl, str(tmp_path / "sky.zarr"), nside=8)
    assert not (tmp_path / "sky.zarr").exists()


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"lmax": 96}, "3 nside - 1"),
        ({"lmax": 60, "cl": CL[:50]}, "end at ell 49"),
        ({"lmax": -1}, "lmax"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"nside": None}, "nside"),
        ({"nside": 33}, "power of two"),
        ({"fwhm": 0.0}, "fwhm"),
        ({"name": []}, "name"),
        ({"name": ["a", "a"]}, "once"),
        ({"name": ["a", "b"]}, "mapping"),
        ({"name": "9"}, "name of a map"),
        ({"precision": "half"}, "precision"),
        ({"transpose": "mail"}, "transpose"),
        ({"unit": ""}, "unit"),
        ({"name": ["a", "b"], "cl": {("a", "a"): CL, ("b", "b"): CL, ("a", "b"): 1.01 * CL}}, "eigenvalue"),
    ],
)
def test_options_that_make_no_sense(tmp_path, option, told):
    cl = option.pop("cl", CL)
    with pytest.raises(InputError, match=told):
        synthesize(cl, str(tmp_path / "sky.zarr"), **{"nside": NSIDE, **option})
    assert not (tmp_path / "sky.zarr").exists()


def test_a_cluster_makes_the_same_bytes(tmp_path):
    from faulty import cluster

    make(tmp_path / "here.zarr")
    with cluster(workers=2) as client:
        plan = synthesize(CL, str(tmp_path / "there.zarr"), nside=NSIDE, seed=1, tile_nside=2)
        report = plan.run(client, progress=False)
    assert len(report.processes) >= 1
    assert os.getpid() not in {int(p.split(":")[1]) for p in report.processes}
    assert content(tmp_path / "there.zarr", "g") == content(tmp_path / "here.zarr", "g")
