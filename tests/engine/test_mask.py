"""Masks: areas against geometry, discs against healpy, frames, what goes wrong, and runs that were stopped."""

from __future__ import annotations

import json
import logging
import math
import pickle
from pathlib import Path
from typing import Any

import healpy
import numpy as np
import pytest
import skies
import skymill as sm
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking import objects
from skymill.chunking import store as stores
from skymill.chunking.channels import Channels
from skymill.chunking.schema import MapInfo
from skymill.engine import mask as masking
from skymill.engine.discs import Discs
from skymill.engine.used_pixels import UsedPixels

FULL_SKY = 4 * math.pi * (180 / math.pi) ** 2


def empty(path: Path, nside: int = 32, frame: str = "galactic", tile_nside: int | None = 1) -> str:
    stores.create(path, nside, frame=frame, tile_nside=tile_nside)
    return str(path)


def add(store: str, name: str, values: np.ndarray, dtype: str = "float32") -> None:
    stores.create_maps(store, [MapInfo(name, "test", "1", dtype=dtype)])
    grid = stores.tiling_of(store)
    for tile in range(grid.n_tiles):
        stores.write_tile(store, name, tile, values[grid.pixels(tile)].astype(dtype))


def read(store: str, name: str) -> np.ndarray:
    return sm.open(store)[name].values


def centres(nside: int) -> tuple[np.ndarray, np.ndarray]:
    return healpy.pix2ang(nside, np.arange(12 * nside**2), nest=True, lonlat=True)


def brute(nside: int, discs: np.ndarray) -> np.ndarray:
    vectors = healpy.ang2vec(*centres(nside), lonlat=True)
    covered = np.zeros(len(vectors), bool)
    for lon, lat, radius in discs:
        chord = np.linalg.norm(vectors - healpy.ang2vec(lon, lat, lonlat=True), axis=1)
        covered |= 2 * np.arcsin(np.minimum(chord / 2, 1)) <= math.radians(radius)
    return covered


@pytest.mark.parametrize(
    ("where", "area"),
    [
        ("b > 30", 0.25),
        ("|b| > 30", 0.5),
        ("not |b| > 30", 0.5),
        ("20 < b < 40", (math.sin(math.radians(40)) - math.sin(math.radians(20))) / 2),
        ("|l| < 60", 1 / 3),
        ("ngc and |elat| > 0", 0.5),
        ("|elat| > 15", 1 - math.sin(math.radians(15))),
        (sm.Cone(123.0, 33.0, 20.0), (1 - math.cos(math.radians(20))) / 2),
        (None, 1.0),
    ],
)
def test_area_is_that_of_the_figure(tmp_path: Path, where: Any, area: float) -> None:
    left = sm.mask(empty(tmp_path / "s.zarr", 128), "cap", where).run()
    # Pixels are in or out as a whole: the error is a small part of those that the edge goes through.
    assert left.f_sky == pytest.approx(area, abs=2e-3)
    assert left.area_deg2 == pytest.approx(left.f_sky * FULL_SKY, rel=1e-12)
    assert left.pixels == read(left.store, "cap").sum() == round(left.f_sky * 12 * 128**2)


def test_published_areas_as_fractions() -> None:
    """The two caps of the publication: 5577 and 4555 square degrees."""
    from skymill.engine.used_pixels import sky_fraction

    assert round(sky_fraction(5577), 4) == 0.1352
    assert round(sky_fraction(4555), 4) == 0.1104


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 5.0, 40.0, 89.0]), st.sampled_from([1, 2, 4]))
def test_discs_are_those_of_healpy(seed: int, largest: float, tile_nside: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 6))
    lon, lat = rng.uniform(0, 360, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))
    discs = np.stack([lon, lat, rng.uniform(0.01, largest, count)], axis=1)
    grid = sm.Tiling(32, tile_nside=tile_nside)
    found = np.concatenate([Discs(discs).covered(grid, tile) for tile in range(grid.n_tiles)])
    expected = np.zeros(grid.npix, bool)
    for lon, lat, radius in discs:
        vector = healpy.ang2vec(lon, lat, lonlat=True)
        expected[healpy.query_disc(32, vector, math.radians(radius), nest=True)] = True
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("radius", [91.0, 120.0, 179.9, 180.0])
def test_discs_larger_than_a_hemisphere(radius: float) -> None:
    # healpy.query_disc misses pixels of such discs; brute force does not.
    discs = np.array([[200.0, -70.0, radius]])
    grid = sm.Tiling(16, tile_nside=4)
    found = np.concatenate([Discs(discs).covered(grid, tile) for tile in range(grid.n_tiles)])
    assert np.array_equal(found, brute(16, discs))


def test_more_pairs_than_are_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from skymill.engine import discs as module

    rng = np.random.default_rng(2)
    table = np.stack([rng.uniform(0, 360, 300), rng.uniform(-90, 90, 300), rng.uniform(0.1, 9, 300)], axis=1)
    grid = sm.Tiling(32, tile_nside=1)
    whole = [Discs(table).covered(grid, tile) for tile in range(12)]
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 7)
    assert all(np.array_equal(a, Discs(table).covered(grid, tile)) for tile, a in enumerate(whole))
    assert np.array_equal(np.concatenate(whole), brute(32, table))


def test_disc_takes_its_pixels_out_of_the_conditions(tmp_path: Path) -> None:
    sky = empty(tmp_path / "s.zarr")
    rows = [(10.0, 80.0, 6.0), (200.0, 45.0, 12.0), (3.0, -50.0, 20.0)]
    left = sm.mask(sky, "used", "b > 0", sources=rows, frame="galactic").run()
    lat = centres(32)[1]
    covered = brute(32, np.array(rows))
    assert np.array_equal(read(sky, "used"), ((lat > 0) & ~covered).astype("u1"))
    assert left.conditions == (("b > 0", int((lat > 0).sum())), ("outside 3 discs", int((~covered).sum())))
    # Every option changes it.
    others = {
        "radius": {"sources": rows, "radius": 9.0, "frame": "galactic"},
        "unit": {"sources": [(lon, lat, radius * 60) for lon, lat, radius in rows], "unit": "arcmin"},
        "frame": {"sources": rows, "frame": "icrs"},
    }
    found = {}
    for name, options in others.items():
        sm.mask(sky, name, "b > 0", **{"frame": "galactic", **options}).run()
        found[name] = read(sky, name)
    assert np.array_equal(found["radius"], (lat > 0) & ~brute(32, np.array([(*row[:2], 9.0) for row in rows])))
    assert np.array_equal(found["unit"], read(sky, "used"))
    lon, lat_galactic = healpy.Rotator(coord="CG")(*np.array(rows)[:, :2].T, lonlat=True)
    turned = np.stack([lon, lat_galactic, [6.0, 12.0, 20.0]], axis=1)
    assert np.array_equal(found["frame"], (lat > 0) & ~brute(32, turned))


def test_names_of_columns_say_the_frame(tmp_path: Path) -> None:
    l_, b = np.array([10.0, 130.0, 250.0]), np.array([70.0, -20.0, 5.0])
    radius = np.array([8.0, 15.0, 30.0])
    ra, dec = healpy.Rotator(coord="GC")(l_, b, lonlat=True)
    elon, elat = healpy.Rotator(coord="GE")(l_, b, lonlat=True)
    files: dict[str, dict[str, Any]] = {}
    for name, head, lon, lat, more in (
        ("plain", "l,b", l_, b, {}),
        ("planck", "GLON , GLAT", l_, b, {}),
        ("sky", "RA,Dec", ra % 360, dec, {}),
        ("earth", "elon,elat", elon, elat, {}),
        ("nameless", "lon,lat", l_, b, {"frame": "galactic"}),
        ("other", "lon,lat", ra, dec, {"frame": "icrs"}),
    ):
        rows = "\n".join(
            f"{x!r},{y!r},s{i},{r!r}"
            for i, (x, y, r) in enumerate(zip(lon.tolist(), lat.tolist(), radius.tolist(), strict=True))
        )
        (tmp_path / f"{name}.csv").write_text(f"# a catalogue\n\n{head},name,Radius\n{rows}\n\n")
        files[f"{name}.csv"] = more
    for name, columns, unit, more in (
        ("table", (("l", l_), ("b", b)), "deg", {}),
        ("minutes", (("ra", ra), ("dec", dec)), "arcmin", {}),
    ):
        size = radius * 60 if unit == "arcmin" else radius
        made = [fits.Column(key, "D", array=values, unit="deg") for key, values in columns]
        made.append(fits.Column("RADIUS", "E", array=size, unit=unit))
        fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(made)]).writeto(tmp_path / f"{name}.fits")
        files[f"{name}.fits"] = more
    for frame, lon, lat in (("galactic", l_, b), ("icrs", ra, dec)):
        sky = empty(tmp_path / f"{frame}.zarr", 32, frame)
        expected = ~brute(32, np.stack([lon, lat, radius], axis=1))
        for number, (name, options) in enumerate(files.items()):
            sm.mask(sky, f"m{number}", sources=tmp_path / name, **options).run()
            wrong = np.count_nonzero(read(sky, f"m{number}") != expected)
            # Other constants of the frames (0.03 arcsec): pixels at the very edge may differ.
            assert wrong <= 1, (frame, name, wrong)
    both = "l,b,ra,dec\n" + "\n".join(f"{w},{x},{y},{z}" for w, x, y, z in zip(l_, b, ra + 90, dec, strict=True))
    (tmp_path / "both.csv").write_text(both)
    for frame, lon in (("galactic", l_), ("icrs", ra + 90)):
        sky = str(tmp_path / f"{frame}.zarr")
        at = (lon, b if frame == "galactic" else dec)
        sm.mask(sky, "own", sources=tmp_path / "both.csv", radius=10.0).run()
        assert np.array_equal(read(sky, "own"), ~brute(32, np.stack([*at, np.full(3, 10.0)], axis=1)))
    sm.mask(sky, "said", sources=tmp_path / "both.csv", radius=10.0, frame="galactic").run()
    assert np.count_nonzero(read(sky, "said") != ~brute(32, np.stack([ra, dec, np.full(3, 10.0)], axis=1))) <= 1


def test_a_mask_is_written_the_other_way_round(tmp_path: Path) -> None:
    sky = empty(tmp_path / "s.zarr")
    region = sm.Cone(50.0, 40.0, 25.0)
    used = sm.mask(sky, "used", [region, "b > 30"]).run()
    unused = sm.mask(sky, "mask_all_else", [region, "b > 30"]).run()
    assert np.array_equal(read(sky, "mask_all_else"), 1 - read(sky, "used"))
    assert used.pixels == unused.pixels == read(sky, "used").sum()
    assert used.conditions == unused.conditions
    assert 0 < used.pixels < used.conditions[0][1]
    for name in ("used", "mask_all_else"):  # also in the tiles that no task went over
        pixels = UsedPixels.of(sky, name)
        held = pixels.holds(0, {name: stores.read_cells(sky, name, 0, 12 * 32**2)}, 12 * 32**2)
        assert held.sum() == used.pixels
    assert "not used where 1: not ((Cone(" in stores.info(sky, "mask_all_else").long_name


def test_masks_combine(tmp_path: Path) -> None:
    sky = empty(tmp_path / "s.zarr")
    sm.mask(sky, "north", "b > 20").run()
    sm.mask(sky, "mask_points", "|l| > 30").run()
    a, b = read(sky, "north") == 1, read(sky, "mask_points") == 0
    both = sm.mask(sky, "both", "north and not mask_points").run()
    either = sm.mask(sky, "either", "north or not mask_points").run()
    note = "mask_points keeps the pixels that are not to be used, where a `mask_` map is 1; is `not mask_points` meant?"
    assert note in str(sm.mask(sky, "wrong", "north and mask_points"))
    assert "meant?" not in str(sm.mask(sky, "wrong", "north and not mask_points"))
    neither = sm.mask(sky, "mask_neither", "not (north or not mask_points)").run()
    assert np.array_equal(read(sky, "both"), a & b)
    assert np.array_equal(read(sky, "either"), a | b)
    assert np.array_equal(read(sky, "mask_neither"), a | b)
    assert both.pixels + either.pixels == a.sum() + b.sum()
    assert neither.pixels + either.pixels == 12 * 32**2


def test_pixels_without_a_value_are_left_out_and_counted(tmp_path: Path) -> None:
    sky = empty(tmp_path / "s.zarr")
    lat = centres(32)[1]
    values = np.where(np.abs(lat) < 20, np.nan, lat)
    add(sky, "a", values)
    left = sm.mask(sky, "used", "a < 50 or b > 15").run()
    assert np.array_equal(read(sky, "used"), (lat > 15) | (lat <= -20) | (np.nan_to_num(values) > 0))
    assert left.undecided == np.count_nonzero((np.abs(lat) < 20) & (lat <= 15))
    assert f"{left.undecided:,} of 12,288 pixels left out because a map has no value" in str(left)
    turned = sm.mask(sky, "turned", "not (a < 50 and b > 15)").run()
    assert np.array_equal(read(sky, "turned"), (values >= 50) | (lat <= 15))
    assert turned.undecided == np.count_nonzero(np.isnan(values) & (lat > 15))


def test_report_is_told_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sky = empty(tmp_path / "s.zarr")
    with caplog.at_level(logging.INFO, "skymill"):
        left = sm.mask(sky, "used", "b > 30 and |l| < 90").run(report=tmp_path / "report.json")
    first = str(left).splitlines()[0]
    assert (
        first
        == f"used in {sky}: {left.area_deg2:.1f} deg^2, f_sky {left.f_sky:.4f}, {left.pixels:,} of 12,288 pixels used"
    )
    assert first in caplog.text
    assert repr(left) == str(left)
    assert "  |l| < 90 leaves by itself" in str(left)
    known = json.loads((tmp_path / "report.json").read_text())
    assert known == json.loads(left.to_json())
    assert known["f_sky"] == left.f_sky
    assert [row["condition"] for row in known["conditions"]] == ["b > 30", "|l| < 90"]
    lon, lat = centres(32)
    alone = [int((lat > 30).sum()), int((np.abs((lon + 180) % 360 - 180) < 90).sum())]
    assert [row["pixels"] for row in known["conditions"]] == alone
    assert known["conditions"][0]["area_deg2"] == pytest.approx(alone[0] * FULL_SKY / 12288)
    assert known["run"]["verb"] == "mask"


def test_area_reaches_a_plain_script(tmp_path: Path, capsys: Any, caplog: Any) -> None:
    caplog.set_level("WARNING", "skymill")
    sky = empty(tmp_path / "s.zarr")
    plan = sm.mask(sky, "used", "b > 30")
    left = plan.run()
    said = capsys.readouterr()
    assert said.err.strip() == str(left).splitlines()[0]
    assert f"{left.area_deg2:.1f} deg^2, f_sky {left.f_sky:.4f}" in said.err
    assert said.out == ""
    sm.mask(sky, "used", "b > 30").run()
    assert f"f_sky {left.f_sky:.4f}" in capsys.readouterr().err  # made before, told again
    sm.mask(sky, "other", "b > 30").run(progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_mask_that_leaves_nothing(tmp_path: Path) -> None:
    sky = empty(tmp_path / "s.zarr")
    lat = centres(32)[1]
    with pytest.raises(sm.errors.InputError, match="leaves no pixel") as caught:
        sm.mask(sky, "used", "b > 30 and b < 20").run()
    for text, pixels in (("b > 30", (lat > 30).sum()), ("b < 20", (lat < 20).sum())):
        assert f"{text} leaves by itself" in str(caught.value)
        assert f"{pixels:,} of 12,288 pixels" in str(caught.value)
    assert "used" not in sm.open(sky)
    with pytest.raises(sm.errors.InputError, match=r"outside 1 discs leaves by itself 0\.0 deg"):
        sm.mask(sky, "used", sources=[(0, 0)], radius=180, frame="galactic").run()
    assert sm.mask(sky, "used", "b > 30").run().pixels == (lat > 30).sum()


def test_stopped_and_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(10.0, 80.0, 6.0), (200.0, 45.0, 12.0)]

    def plan(name: str, threads: int = 2) -> Any:
        sky = empty(tmp_path / name)
        return sm.mask(sky, "used", "b > 10", sources=rows, frame="galactic", threads=threads)

    whole = plan("whole.zarr").run()
    right = masking.MaskKernel.__call__

    def fails(self: Any, tile: int, inputs: Any) -> Any:
        if tile == 3:
            raise ValueError("poisoned")
        return right(self, tile, inputs)

    with monkeypatch.context() as context:
        context.setattr(masking.MaskKernel, "__call__", fails)
        with pytest.raises(sm.errors.RunError, match="poisoned"):
            plan("stopped.zarr").run()
    # What is there meanwhile disturbs nobody who reads the store.
    stopped = str(tmp_path / "stopped.zarr")
    assert [key for key, _, _ in objects.listing(stopped, "ledger/") if "sources" in key]
    assert list(sm.open(stopped)) == list(stores.infos(stopped)) == ["used"]
    again = plan("stopped.zarr", threads=1)
    assert again.done == 11
    left = again.run()
    assert left.run.counts == {"verified": 11, "computed": 1}
    assert (left.pixels, left.conditions) == (whole.pixels, whole.conditions)
    assert skies.content(tmp_path / "stopped.zarr", "used") == skies.content(tmp_path / "whole.zarr", "used")
    # The list of sources is not left behind, and a finished run does without it.
    assert not [key for key, _, _ in objects.listing(str(tmp_path / "stopped.zarr"), "ledger/") if "sources" in key]
    put = objects.put

    def refuses(where: str, key: str, content: bytes) -> None:
        if "sources" in key:
            raise PermissionError(key)
        put(where, key, content)

    monkeypatch.setattr(objects, "put", refuses)
    third = plan("stopped.zarr").run()
    assert third.run.counts == {"verified": 12}
    assert third.pixels == whole.pixels
    with pytest.raises(sm.errors.IdentityError, match="sources was"):
        sm.mask(tmp_path / "stopped.zarr", "used", "b > 10", sources=rows[:1], frame="galactic")
    with pytest.raises(sm.errors.IdentityError, match="where was"):
        sm.mask(tmp_path / "stopped.zarr", "used", "b > 11", sources=rows, frame="galactic")
    with pytest.raises(PermissionError):
        sm.mask(tmp_path / "stopped.zarr", "used", "b > 11", sources=rows, frame="galactic", overwrite=True).run()
    monkeypatch.undo()
    sm.mask(tmp_path / "stopped.zarr", "used", "b > 11", sources=rows, frame="galactic", overwrite=True).run()


def test_two_masks_of_the_same_sources_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sky = empty(tmp_path)
    sources: Any = {"sources": [(40.0, 10.0), (200.0, -50.0)], "radius": 9.0, "frame": "galactic"}
    keep, first = masking._keep, sm.mask(sky, "first", **sources)

    def keep_while_the_other_ends(*arguments: Any, **options: Any) -> None:
        keep(*arguments, **options)
        monkeypatch.setattr(masking, "_keep", keep)
        first.run(progress=False)
        masking._kept.cache_clear()  # tasks of other processes have read nothing

    monkeypatch.setattr(masking, "_keep", keep_while_the_other_ends)
    left = sm.mask(sky, "second", **sources).run(progress=False)
    assert left.run.counts == {"computed": 12}
    np.testing.assert_array_equal(read(sky, "first"), read(sky, "second"))


def test_tasks_are_small_and_lazily_the_same(tmp_path: Path) -> None:
    sky = empty(tmp_path / "s.zarr", 16)
    rng = np.random.default_rng(4)
    rows = np.stack([rng.uniform(0, 360, 4000), rng.uniform(-90, 90, 4000)], axis=1)
    discs = Discs(np.column_stack([rows, np.full(4000, 0.5)]))
    assert len(pickle.dumps(masking._KeptDiscs(sky, "used", "0" * 32))) < 500
    plan = sm.mask(sky, "used", "b > 10 and not sgc", sources=rows, radius=0.5, frame="galactic")
    assert "4,000 discs around sources, 4,000 of them smaller than" in str(plan)
    lazy = plan.lazy()["used"]
    assert not [key for key, _, _ in objects.listing(sky, "ledger/") if "sources" in key]
    plan.run()
    assert np.array_equal(lazy.values, read(sky, "used"))
    assert np.array_equal(read(sky, "used"), (centres(16)[1] > 10) & ~brute(16, discs.table))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"out": "survey_x"}, "code of the survey"),
        ({"out": "weight_x"}, "weight of a pixel"),
        ({"out": "9"}, "name of a map"),
        ({"out": "a", "where": "a > 1"}, "which `where` reads"),
        ({"where": "ppv > 1"}, "is a cube"),
        ({"where": "b >"}, "cannot be read"),
        ({"where": []}, "says nothing"),
        ({"where": 3}, "`where` 3 came"),
        *((each, "without `sources`") for each in ({"radius": 1.0}, {"frame": "galactic"}, {"unit": "arcmin"})),
        ({"sources": [(1, 2, 3)]}, "give `frame`"),
        ({"sources": [(1, 2)], "frame": "galactic"}, "without radii"),
        ({"sources": [], "frame": "galactic", "radius": 1}, "without a source"),
        ({"sources": [(1, 2, 3, 4)], "frame": "galactic"}, "rows of two numbers"),
        ({"sources": [(1, 2), (1,)], "frame": "galactic"}, "rows of two numbers"),
        ({"sources": [(1, 2, 3)], "frame": "fk4"}, "`frame` 'fk4' came"),
        ({"sources": [(1, 2, 3)], "frame": "galactic", "unit": "degree"}, "`unit` 'degree' came"),
        ({"sources": [(1, 95, 3)], "frame": "galactic"}, "latitude 95 degrees"),
        ({"sources": [(1, 5, 3), (1, 5, 0)], "frame": "galactic"}, "source 1 has the radius 0 degrees"),
        ({"sources": [(1, 5)], "radius": -1, "frame": "galactic"}, "radius -1 degrees"),
        ({"sources": [(math.inf, 5)], "radius": 1, "frame": "galactic"}, "longitude inf"),
        ({"sources": "lonlat.csv", "radius": 1}, "do not say their frame"),
        ({"sources": "lb.csv", "radius": 1, "frame": "icrs"}, "which are galactic"),
        ({"sources": "lb.csv"}, "without radii"),
        ({"sources": "none.csv", "radius": 1}, "no columns of positions"),
        ({"sources": "bad.csv", "radius": 1}, "row 2 has 'x' in column 'b'"),
        ({"sources": "short.csv", "radius": 1}, "source 1 has the latitude nan"),
        ({"sources": "hours.fits", "radius": 1}, "'hourangle'; positions are in degrees"),
        ({"sources": "noise.fits", "radius": 1}, "cannot be read as FITS"),
        ({"sources": "image.fits", "radius": 1}, "holds no table"),
    ],
)
def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: str) -> None:
    monkeypatch.chdir(tmp_path)
    sky = empty(tmp_path / "s.zarr", 4, tile_nside=1)
    add(sky, "a", np.ones(192))
    if "ppv" in str(options):
        stores.create_channels(sky, Channels((0.0,), (1.0,)))
        stores.create_maps(sky, [MapInfo("ppv", "column density", "cm^-2", dims=("channel", "cells"))])
    for name, text in (
        ("lonlat", "lon,lat\n1,2\n"),
        ("lb", "l,b\n1,2\n"),
        ("none", "x,y\n1,2\n"),
        ("bad", "l,b\n1,2\n1,x\n"),
        ("short", "l,b\n1,2\n1\n"),
    ):
        Path(f"{name}.csv").write_text(text)
    hours = [fits.Column("ra", "D", array=[1.0], unit="hourangle"), fits.Column("dec", "D", array=[1.0], unit="deg")]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(hours)]).writeto("hours.fits")
    fits.PrimaryHDU(np.zeros((3, 3))).writeto("image.fits")
    Path("noise.fits").write_bytes(b"nothing of the kind" * 300)
    with pytest.raises((sm.errors.InputError, sm.errors.FormatError), match=words):
        sm.mask(sky, **{"out": "used", **options})
    assert set(sm.open(sky).data_vars) <= {"a", "ppv"}


def test_what_is_missing(tmp_path: Path) -> None:
    sky = empty(tmp_path / "s.zarr", 4, tile_nside=1)
    with pytest.raises(sm.errors.MissingMapError, match="'n_hi' is not in the store"):
        sm.mask(sky, "used", "n_hi < 4")
    with pytest.raises(sm.errors.StoreNotFoundError, match=r"no file at .*nowhere.csv"):
        sm.mask(sky, "used", sources=tmp_path / "nowhere.csv", radius=1)
    with pytest.raises(sm.errors.MemoryLimitError, match="needs"):
        sm.mask(sky, "used", "b > 1", memory="150 MB").run()
