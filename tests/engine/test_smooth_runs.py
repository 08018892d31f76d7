"""Smoothing as a run: the same bytes whatever makes them, stopped and continued, and what cannot be smoothed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skymill as sm
from fresh import in_fresh_processes
from skies import content
from skymill.chunking import store as stores
from skymill.chunking.errors import IdentityError, InputError, MissingMapError, RunError
from skymill.engine import staged_maps
from skymill.engine.smooth import smooth
from skymill.engine.transform import BandTask, BlockTask, PixelTask
from spheres import NPIX, NSIDE, get, holes, lognormal_maps, put

FWHM = 6.0  # degrees
DEGREES = {"unit": "deg", "method": "harmonic", "threads": 1}


@pytest.fixture(scope="module")
def noise():
    return lognormal_maps()


@pytest.fixture
def sky(tmp_path, noise):
    return put(tmp_path / "sky.zarr", noise, beam_fwhm_arcmin=240.0)


# ---- the same bytes ------------------------------------------------------------------------------------------------


def test_the_same_bytes_whatever_makes_them(tmp_path):
    values = np.random.default_rng(2).lognormal(0, 1, 12 * 64**2).astype(np.float32)
    values[:5000] = np.nan
    sky = put(tmp_path / "sky.zarr", {"a": values}, nside=64)
    digests, stages = [], set()
    needed = smooth(sky, "a", FWHM, out_store=tmp_path / "0.zarr", **DEGREES).task_memory
    short = {"threads": 1, "memory": 250_000_000 + int(0.9 * needed)}
    for number, options in enumerate(({"threads": 1}, {"threads": 2}, short)):
        options = {"out_store": str(tmp_path / f"{number}.zarr"), **DEGREES, **options}
        plan = smooth(sky, "a", FWHM, **options)
        stages.add(next(note for note in plan.notes if note.startswith("stages")))
        # In a process of its own: the peak of one that has run other tests depends on what these have left.
        peak, planned = in_fresh_processes(
            f"report = smooth({sky!r}, 'a', {FWHM}, **{options!r}).run(progress=False)",
            setup="from skymill.engine.smooth import smooth",
            found="[report.peak_memory, report.planned_memory]",
        )["found"]
        assert 0 < peak <= planned
        digests.append(content(tmp_path / f"{number}.zarr", "a_smooth"))
    assert digests[0] == digests[1] == digests[2]
    assert len(stages) == 2


@pytest.mark.parametrize(
    ("owner", "method", "allowed"),
    [
        (BandTask, "work", 1),
        (BandTask, "work", 3),
        (BlockTask, "work", 5),
        (BlockTask, "work", 17),
        (PixelTask, "work", 1),
        (PixelTask, "work", 3),
        (staged_maps.Pieces, "tile", 0),
        (staged_maps.Pieces, "tile", 31),
    ],
)
def test_a_run_that_stops_goes_on(tmp_path, noise, monkeypatch, owner, method, allowed):
    values = np.where(holes(), np.float32(np.nan), noise["a"])
    sky = put(tmp_path / "sky.zarr", {"a": values}, tile_nside=2)
    calls = []
    undisturbed = getattr(owner, method)

    def counting(self, *arguments):
        calls.append(arguments)
        return undisturbed(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, counting)
        smooth(sky, "a", FWHM, out="whole", **DEGREES).run(progress=False)
        total = len(calls)
        calls.clear()

        def stopped(self, *arguments):
            calls.append(arguments)
            if len(calls) > allowed:
                raise KeyboardInterrupt
            return undisturbed(self, *arguments)

        patch.setattr(owner, method, stopped)
        with pytest.raises(KeyboardInterrupt):
            smooth(sky, "a", FWHM, **DEGREES).run(progress=False)
        assert Path(f"{sky}.scratch").exists()
        patch.setattr(owner, method, counting)
        calls.clear()
        smooth(sky, "a", FWHM, **DEGREES).run(progress=False)
    # Of a tile both the map and the weights are put together, or neither.
    done = allowed - allowed % 2 if owner is staged_maps.Pieces else allowed
    assert len(calls) == total - done
    np.testing.assert_array_equal(get(sky, "a_smooth"), get(sky, "whole"))
    assert not Path(f"{sky}.scratch").exists()


def test_finished_maps_are_verified_and_other_runs_are_told(sky):
    smooth(sky, "a", FWHM, **DEGREES).run(progress=False)
    wanted = content(sky, "a_smooth")
    assert smooth(sky, "a", FWHM, **DEGREES).run(progress=False).counts == {"verified": 12}
    (Path(sky) / "a_smooth" / "c" / "3").unlink()
    assert smooth(sky, "a", FWHM, **DEGREES).run(progress=False).counts == {"verified": 11, "computed": 1}
    assert content(sky, "a_smooth") == wanted
    with pytest.raises(IdentityError, match="made by another run"):
        smooth(sky, "a", 7.0, **DEGREES)
    smooth(sky, "a", 7.0, overwrite=True, **DEGREES).run(progress=False)
    assert content(sky, "a_smooth") != wanted


def test_a_cluster_makes_the_same_bytes(sky, tmp_path):
    from faulty import cluster

    smooth(sky, "a", FWHM, **DEGREES).run(progress=False)
    with cluster(workers=2) as client:
        smooth(sky, "a", FWHM, out_store=tmp_path / "other.zarr", **DEGREES).run(client, progress=False)
    assert content(tmp_path / "other.zarr", "a_smooth") == content(sky, "a_smooth")


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"fwhm": None}, "not both"),
        ({"to_fwhm": 9.0}, "not both"),
        ({"from_fwhm": 1.0}, "not both"),
        ({"fwhm": None, "from_fwhm": 5.0, "to_fwhm": 5.0}, "wider"),
        ({"fwhm": None, "to_fwhm": 3.0}, "wider"),
        ({"fwhm": 0.0}, "above 0"),
        ({"fwhm": -2.0}, "above 0"),
        ({"fwhm": float("inf")}, "above 0"),
        ({"fwhm": 200.0}, "below 180 deg"),
        ({"fwhm": None, "to_fwhm": 9.0, "from_fwhm": -1.0}, "from_fwhm"),
        ({"unit": "feet"}, "unit"),
        ({"method": "fast"}, "method"),
        ({"method": "local", "lmax": 10}, "belongs to the harmonic way"),
        ({"method": "local", "fwhm": 0.5}, "pixel"),
        ({"lmax": 96}, "3 nside - 1"),
        ({"weights": "iterate"}, "weights"),
        ({"iterations": -1}, "iterations"),
        ({"least_weight": 1.0}, "least_weight"),
        ({"precision": "half"}, "precision"),
        ({"transpose": "mail"}, "transpose"),
        ({"maps": []}, "one at least"),
        ({"maps": ["a", "a"]}, "once"),
        ({"maps": "mask_m"}, "float32"),
        ({"out": "a"}, "is a map that is read"),
        ({"out": ["x", "y"]}, "name of its own"),
    ],
)
def test_options_that_make_no_sense(sky, option, told):
    put(sky, {"mask_m": np.zeros(NPIX, np.uint8)})
    maps = option.get("maps", "a")
    options = {"fwhm": FWHM, **DEGREES, **{key: value for key, value in option.items() if key != "maps"}}
    with pytest.raises(InputError, match=told):
        smooth(sky, maps, **options)
    assert set(stores.infos(sky)) == {"a", "b", "mask_m"}


def test_maps_and_stores_that_are_not_there(sky, tmp_path):
    with pytest.raises(MissingMapError):
        smooth(sky, "nothing", FWHM, **DEGREES)
    with pytest.raises(MissingMapError):
        smooth(sky, "a", FWHM, mask="nothing", **DEGREES)
    stores.create(tmp_path / "coarse.zarr", 16, frame="galactic")
    with pytest.raises(InputError, match="has nside 16"):
        smooth(sky, "a", FWHM, out_store=tmp_path / "coarse.zarr", **DEGREES)
    stores.create(tmp_path / "icrs.zarr", NSIDE, frame="icrs")
    with pytest.raises(InputError, match="in icrs"):
        smooth(sky, "a", FWHM, out_store=tmp_path / "icrs.zarr", **DEGREES)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_masks_that_are_none(sky, value):
    weight = np.ones(NPIX, np.float32)
    weight[1000] = value
    put(sky, {"weight_w": weight})
    with pytest.raises(InputError, match="a weight is a finite number"):
        smooth(sky, "a", FWHM, mask="weight_w", **DEGREES).run(progress=False)
    assert not Path(f"{sky}.scratch").exists()


@pytest.mark.parametrize("method", ["harmonic", "local"])
def test_a_mask_that_leaves_nothing(sky, method):
    put(sky, {"mask_m": np.ones(NPIX, np.uint8)})
    with pytest.raises(InputError, match="no value anywhere"):
        smooth(sky, "a", FWHM, mask="mask_m", **{**DEGREES, "method": method}).run(progress=False)


def test_a_damaged_map_is_told(tmp_path):
    sky = str(tmp_path / "sky.zarr")
    sm.simulate("dust", sky, NSIDE, seed=1, maps=["i160"], tile_nside=2).run(progress=False)
    (Path(sky) / "i160" / "c" / "7").unlink()
    with pytest.raises(RunError, match="tile 7 of map 'i160'"):
        smooth(sky, "i160", FWHM, **DEGREES).run(progress=False)


@pytest.mark.parametrize("iterations", [0, 2])
def test_scratch_space_stays_below_what_the_plan_says(tmp_path, noise, monkeypatch, iterations):
    values = np.where(holes(), np.float32(np.nan), noise["a"])
    sky = put(tmp_path / "sky.zarr", {"a": values})
    most = 0
    for owner in (BandTask, BlockTask, PixelTask):
        undisturbed = owner.__call__

        def looking(self, number, undisturbed=undisturbed):
            nonlocal most
            record = undisturbed(self, number)
            files = [path for path in (tmp_path / "space").rglob("*") if path.is_file() and path.suffix != ".json"]
            most = max(most, sum(path.stat().st_size for path in files))
            return record

        monkeypatch.setattr(owner, "__call__", looking)
    plan = smooth(sky, "a", FWHM, iterations=iterations, scratch=tmp_path / "space", **DEGREES)
    plan.run(progress=False)
    told = next(note for note in plan.notes if note.startswith("scratch"))
    number, unit = told.split()[1:]
    planned = float(number) * {"kB": 1e3, "MB": 1e6}[unit]
    assert 0.5 * planned < most < 1.02 * planned + 10_000
