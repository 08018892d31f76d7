"""Reddening at positions: against healpy, of any frame, reading no more than it must."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import healpy as hp
import numpy as np
import pytest
import skymill as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from skies import write_map
from skymill.chunking import geometry, sphere
from skymill.chunking import store as stores
from skymill.chunking.errors import FormatError, InputError, MissingMapError, StoreNotFoundError, UnitError
from skymill.chunking.interpolation import bilinear, gather, interpolate, weighted
from skymill.chunking.schema import MapInfo
from skymill.chunking.tiling import Tiling

NSIDE = 32
SKY = np.random.default_rng(5).lognormal(-3.0, 0.5, 12 * NSIDE**2).astype("f4")
EBV = {"quantity": "reddening", "unit": "mag"}


def places(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Positions all over the sphere, the poles and the longitude 0 among them."""
    draw = np.random.default_rng(seed)
    lon, z = draw.uniform(0, 360, count), draw.uniform(-1, 1, count)
    lat = np.degrees(np.arcsin(z))
    return np.append(lon, [0.0, 0.0, 45.0, 360.0]), np.append(lat, [0.0, 90.0, -90.0, 41.8])


@pytest.fixture
def store(tmp_path):
    return write_map(tmp_path / "sky.zarr", NSIDE, SKY, "ebv", **EBV)


# Interpolation


@pytest.mark.parametrize("nside", [1, 2, 8, 64, 4096])
def test_pixels_and_weights_are_those_of_healpy(nside):
    lon, lat = places(5000, nside)
    lat[:1000] = np.sign(lat[:1000]) * (90 - np.abs(lat[:1000]) / 40 / nside)  # around the poles
    pixels, weights = bilinear(nside, lon, lat)
    want_pixels, want_weights = hp.get_interp_weights(nside, lon, lat, nest=True, lonlat=True)
    assert np.abs(weights.sum(axis=0) - 1).max() < 1e-14
    assert weights.min() >= 0
    some = np.random.default_rng(1).normal(size=997)  # a value for every pixel, whatever the nside
    got, want = (some[p % 997] * w for p, w in ((pixels, weights), (want_pixels, want_weights)))
    assert np.abs(got.sum(axis=0) - want.sum(axis=0)).max() < 1e-14 * nside + 1e-13


@settings(max_examples=40, deadline=None)
@given(lon=st.floats(-400, 400), lat=st.floats(-90, 90), order=st.integers(0, 6))
def test_a_constant_stays_constant_and_values_stay_between_their_neighbours(lon, lat, order):
    tiling = Tiling(2**order)
    assert interpolate(lambda start, stop: np.full(stop - start, 2.5, "f4"), lon, lat, tiling) == pytest.approx(2.5)
    pixels, _ = bilinear(tiling.nside, lon, lat)
    value = interpolate(lambda start, stop: np.arange(start, stop, dtype="f4"), lon, lat, tiling)
    assert pixels.min() - 1e-3 <= value <= pixels.max() + 1e-3


@settings(max_examples=20, deadline=None)
@given(order=st.integers(0, 8), seed=st.integers(0, 99))
def test_at_a_centre_stands_the_value_of_the_pixel(order, seed):
    nside = 2**order
    cells = np.random.default_rng(seed).integers(0, 12 * nside**2, 20)
    lon, lat = geometry.pixel_lonlat(nside, cells)
    got = interpolate(lambda start, stop: np.arange(start, stop, dtype="f4"), lon, lat, Tiling(nside))
    # float32 holds the numbers of these pixels exactly.
    assert np.abs(got - cells).max() < 1e-6 * 12 * nside**2


def test_missing_neighbours_are_left_out_and_the_map_does_not_grow():
    weights = np.array([[0.1], [0.2], [0.3], [0.4]])
    values = np.array([[1.0], [2.0], [np.nan], [4.0]])
    assert weighted(values, weights, np.array([True]))[0] == pytest.approx((0.1 + 0.4 + 1.6) / 0.7)
    assert np.isnan(weighted(values, weights, np.array([False]))[0])
    assert np.isnan(weighted(np.full((4, 1), np.nan), weights, np.array([True]))[0])


def test_a_chunk_is_read_once():
    tiling = Tiling(16, tile_nside=1, chunk_nside=2)
    seen = []

    def read(start, stop):
        seen.append((start, stop))
        return np.arange(start, stop)

    cells = np.array([[700, 3], [64, 3], [3071, 65]])
    assert (gather(read, cells, tiling, "int64") == cells).all()
    assert seen == [(0, 128), (640, 704), (3008, 3072)]
    assert (gather(read, cells, tiling, "int64", threads=3) == cells).all()
    assert sorted(seen) == sorted(2 * [(0, 128), (640, 704), (3008, 3072)])


# The query


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_values_are_those_of_healpy(store, interpolation):
    lon, lat = places(3000)
    query = sm.ReddeningQuery(store, interpolation=interpolation)
    got = query.ebv(lon, lat)
    if interpolation == "nearest":
        np.testing.assert_array_equal(got, SKY[hp.ang2pix(NSIDE, lon, lat, lonlat=True)].astype("f8"))
    else:
        want = hp.get_interp_val(SKY.astype("f8"), lon, lat, lonlat=True)
        np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_array_equal(query.query_gal(lon, lat), got)


def test_more_positions_than_a_block_holds_come_back_in_their_order(store, monkeypatch):
    lon, lat = places(900)
    want = sm.ReddeningQuery(store).ebv(lon, lat)
    monkeypatch.setattr(geometry, "BLOCK", 64)
    np.testing.assert_array_equal(sm.ReddeningQuery(store).ebv(lon, lat), want)


def test_shapes_come_back_and_numbers_stay_numbers(store):
    query = sm.ReddeningQuery(store)
    assert isinstance(query.ebv(10.0, 45), float)
    assert query.ebv(np.zeros((2, 3)), 45.0).shape == (2, 3)
    assert query.ebv(np.zeros((2, 1)), np.zeros(4)).shape == (2, 4)
    assert query.ebv([], []).shape == (0,)
    assert query.ebv(370.0, 45.0) == query.ebv(10.0, 45.0)


@pytest.mark.parametrize("frame", ["galactic", "icrs", "ecliptic"])
def test_the_frame_of_the_map_is_respected(tmp_path, frame):
    """One place on the sky has one reddening, in whatever frame the map is and the question comes."""
    where = str(tmp_path / "sky.zarr")
    stores.create(where, NSIDE, frame=frame)
    stores.create_maps(where, [MapInfo("ebv", "reddening", "mag")])
    grid = stores.tiling_of(where)
    for tile in range(grid.n_tiles):
        l, b = sphere.rotate(*grid.lonlat(grid.pixels(tile)), frame, "galactic")  # noqa: E741
        stores.write_tile(where, "ebv", tile, (np.radians(b) + 2 + np.sin(np.radians(l))).astype("f4"))
    from astropy.coordinates import Galactic, SkyCoord

    lon, lat = places(200)
    query = sm.ReddeningQuery(where, interpolation="bilinear")
    got = query.ebv(lon, lat)
    away = np.abs(lat) < 80  # the sine of l has no derivative at the poles
    want = np.radians(lat) + 2 + np.sin(np.radians(lon))
    assert np.abs(got - want)[away].max() < 0.02
    coords = SkyCoord(lon, lat, unit="deg", frame="galactic")
    np.testing.assert_allclose(query(coords), got, atol=1e-9)
    np.testing.assert_allclose(query(coords.transform_to("fk5")), got, atol=1e-6)
    np.testing.assert_allclose(query.query(Galactic(l=coords.l, b=coords.b)), got, atol=1e-9)
    np.testing.assert_allclose(query.query_equ(coords.icrs.ra.deg, coords.icrs.dec.deg), got, atol=1e-6)
    assert query.frame == frame
    assert query.tiling.nside == NSIDE


def test_no_value_outside_the_coverage(tmp_path):
    ring = SKY.copy()
    pixels = np.arange(ring.size)
    lat = hp.pix2ang(NSIDE, pixels, lonlat=True)[1]
    ring[lat < 0] = np.nan
    where = write_map(tmp_path / "half.zarr", NSIDE, ring, "ebv", **EBV)
    for interpolation in ("nearest", "bilinear"):
        got = sm.ReddeningQuery(where, interpolation=interpolation).ebv(*places(500))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(ring[hp.ang2pix(NSIDE, *places(500), lonlat=True)]))


def test_mmag_become_mag(tmp_path):
    where = write_map(tmp_path / "mmag.zarr", 4, np.full(192, 25.0), "red", quantity="reddening", unit="mmag")
    assert sm.ReddeningQuery(where, "red").ebv(0, 0) == pytest.approx(0.025)


def test_only_the_chunks_that_are_needed_are_read_and_kept(tmp_path, monkeypatch):
    where = str(tmp_path / "chunks.zarr")
    stores.create(where, 64, frame="galactic", tile_nside=2, chunk_nside=8)
    stores.create_maps(where, [MapInfo("ebv", "reddening", "mag")])
    grid = stores.tiling_of(where)
    for tile in range(grid.n_tiles):
        stores.write_tile(where, "ebv", tile, np.full(grid.tile_npix, tile, "f4"))
    seen = []
    reading = stores.read_cells

    def read_cells(store, name, start, stop):
        seen.append((start, stop))
        return reading(store, name, start, stop)

    monkeypatch.setattr(stores, "read_cells", read_cells)
    query = sm.ReddeningQuery(where, cached_chunks=2)
    lon, lat = grid.lonlat(np.array([0, 1, 5000, 40000]))
    assert query.ebv(lon, lat).tolist() == [0, 0, 5000 // grid.tile_npix, 40000 // grid.tile_npix]
    chunks = [start // grid.chunk_npix for start, _ in seen]
    assert chunks == [0, 5000 // grid.chunk_npix, 40000 // grid.chunk_npix]
    assert {stop - start for start, stop in seen} == {grid.chunk_npix}
    query.ebv(lon[2:], lat[2:])  # kept
    assert len(seen) == 3
    query.ebv(lon[0], lat[0])  # pushed out by the two others
    assert len(seen) == 4


def test_many_threads_ask_one_query(store):
    query = sm.ReddeningQuery(store, interpolation="bilinear", cached_chunks=1)
    asked = [places(200, seed) for seed in range(16)]
    want = [sm.ReddeningQuery(store, interpolation="bilinear").ebv(*each) for each in asked]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda each: query.ebv(*each), asked))
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_carries_a_unit_is_brought_to_degrees(store):
    import astropy.units as u
    from astropy.coordinates import Angle, Latitude, Longitude

    query = sm.ReddeningQuery(store)
    want = query.ebv(np.array([30.0, 60.0]), np.array([10.0, -20.0]))
    got = query.ebv(np.radians([30.0, 60.0]) * u.rad, np.array([600.0, -1200.0]) * u.arcmin)
    np.testing.assert_array_equal(got, want)
    assert query.query_equ(Angle("2h"), Angle("10d")) == query.query_equ(30.0, 10.0)
    assert query.query_equ(Longitude(2, "hourangle"), Latitude(10, "deg")) == query.query_equ(30.0, 10.0)
    with pytest.raises(InputError, match="angle"):
        query.ebv(3.0 * u.K, 0.0)


def test_a_query_travels_without_what_it_read(store):
    query = sm.ReddeningQuery(store)
    before = len(pickle.dumps(query))
    value = query.ebv(10, 20)
    assert len(pickle.dumps(query)) == before < 1000
    assert pickle.loads(pickle.dumps(query)).ebv(10, 20) == value
    assert "bilinear" in repr(sm.ReddeningQuery(store, interpolation="bilinear"))


def test_no_heavy_library_is_loaded_to_ask(store):
    work = (
        "import sys, skymill as sm\n"
        f"sm.ReddeningQuery({store!r}).ebv(1, 2)\n"
        "print(sorted({'dask', 'distributed', 'jax', 'xarray', 'astropy.coordinates'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_a_map_in_a_bucket_is_asked_by_many_reads_at_once(store, monkeypatch):
    from skymill.chunking import objects, query

    lon, lat = places(2000)
    want = sm.ReddeningQuery(store, interpolation="bilinear").ebv(lon, lat)
    afar = sm.ReddeningQuery(store, interpolation="bilinear", cached_chunks=2)
    monkeypatch.setattr(query, "objects", SimpleNamespace(is_local=lambda where: False, exists=objects.exists))
    monkeypatch.setattr(stores, "read_cells", slowly(stores.read_cells, waiting := []))
    np.testing.assert_array_equal(afar.ebv(lon, lat), want)
    assert max(waiting) > 1


def slowly(read, waiting):
    """A read that takes its time until another has come beside it, and notes how many are under way."""
    under_way, met = [], threading.Event()

    def reading(*args):
        under_way.append(args)
        waiting.append(len(under_way))
        if len(under_way) > 1 or not met.wait(60):
            met.set()  # also after a long wait in vain: the others need not wait as long
        try:
            return read(*args)
        finally:
            under_way.remove(args)

    return reading


# Bad input


def test_what_cannot_be_asked_is_told(store, tmp_path):
    with pytest.raises(StoreNotFoundError):
        sm.ReddeningQuery(tmp_path / "nowhere.zarr")
    with pytest.raises(MissingMapError, match="ebv"):
        sm.ReddeningQuery(store, "ebw")
    with pytest.raises(InputError, match="bilinear"):
        sm.ReddeningQuery(store, interpolation="linear")
    with pytest.raises(InputError, match="at least 1"):
        sm.ReddeningQuery(store, cached_chunks=0)
    with pytest.raises(UnitError, match="mag"):
        sm.ReddeningQuery(write_map(tmp_path / "k.zarr", 2, np.zeros(48), "ebv", unit="K"))
    mask = write_map(tmp_path / "m.zarr", 2, np.zeros(48), "mask", dtype="uint8", quantity="mask", unit="mag")
    with pytest.raises(InputError, match="float32"):
        sm.ReddeningQuery(mask, "mask")
    query = sm.ReddeningQuery(store)
    for ask in (query.ebv, query.query_equ):
        with pytest.raises(InputError, match="lat"):
            ask(0, 91)
        with pytest.raises(InputError, match="finite"):
            ask(np.nan, 0)
    with pytest.raises(InputError, match="SkyCoord"):
        query(17)
    with pytest.raises(InputError, match=r"shape \(2,\) and latitudes of shape \(3,\)"):
        query.ebv([1, 2], [1, 2, 3])
    with pytest.raises(InputError, match="degrees"):
        query.ebv("north", 0)
    # What hides under a mask is no position.
    with pytest.raises(InputError, match="masked"):
        query.ebv(np.ma.masked_equal([10.0, -999.0], -999.0), [1.0, 2.0])


def test_unfinished_and_lost_maps_are_told(tmp_path):
    where = str(tmp_path / "sky.zarr")
    sm.simulate("dust", where, 16, seed=1, maps=["i160"]).run()
    sm.prepare(
        where,
        [{"input": "i160", "output": "ebv", "steps": [{"step": "scale", "factor": 0.1, "unit": "mag", "label": "x"}]}],
    ).run()
    assert sm.ReddeningQuery(where).ebv(10, 50) > 0
    from skymill.engine import ledger

    ledger.set_finished(where, ["ebv"], False)
    with pytest.raises(FormatError, match="unfinished"):
        sm.ReddeningQuery(where)
    ledger.set_finished(where, ["ebv"], True)
    tile = int(stores.tiling_of(where).tile_of(geometry.lonlat_pixels(16, 10, 50)))
    (tmp_path / "sky.zarr" / "ebv" / "c" / str(tile)).unlink()
    with pytest.raises(FormatError, match=f"tile {tile} .*lost"):
        sm.ReddeningQuery(where).ebv(10, 50)
