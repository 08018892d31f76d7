"""The accessor `.sky`: positions, regions, coarser maps and pictures, and how little of a store they read."""

import subprocess
import sys
import tracemalloc

import dask
import healpy as hp
import numpy as np
import pytest
import skymill as sm
import xarray as xr
import zarr.storage
from skymill.chunking import accessor, overview, projections, sphere, store
from skymill.chunking.errors import FormatError, FrameError, InputError, MissingMapError
from skymill.chunking.regions import Box, Cone, Polygon
from skymill.chunking.schema import MapInfo
from skymill.chunking.tiling import Tiling

NSIDE = 128


@pytest.fixture(scope="module")
def sky_store(tmp_path_factory):
    """Nside 128 in 48 tiles of 16 chunks: a map with a hole, a flag and a code."""
    where = str(tmp_path_factory.mktemp("accessor") / "sky.zarr")
    store.create(where, NSIDE, frame="galactic", tile_nside=2, chunk_nside=8)
    store.create_maps(
        where,
        [
            MapInfo("i160", "intensity", "MJy/sr", long_name="Intensity at 160 um"),
            MapInfo("flag_850um", "reasons", "1", dtype="uint8", flag_meanings=("a", "b")),
            MapInfo("survey", "survey", "1", dtype="uint8", provenance={"codes": {"1": "plane", "2": "large_cloud"}}),
        ],
    )
    grid = store.tiling_of(where)
    random = np.random.default_rng(0)
    for tile in range(grid.n_tiles):
        if tile == 5:
            continue
        values = random.lognormal(2, 1, grid.tile_npix).astype(np.float32)
        values[:3] = np.nan
        store.write_tile(where, "i160", tile, values)
        store.write_tile(where, "flag_850um", tile, random.integers(0, 4, grid.tile_npix).astype(np.uint8))
        store.write_tile(where, "survey", tile, np.full(grid.tile_npix, tile % 3, np.uint8))
    return where


@pytest.fixture
def ds(sky_store):
    return store.open(sky_store)


@pytest.fixture
def whole(sky_store):
    return {name: store.read_cells(sky_store, name, 0, 12 * NSIDE**2) for name in ("i160", "flag_850um", "survey")}


@pytest.fixture
def reads(monkeypatch):
    """Every data object read, with its byte range."""
    seen = []
    plain, awaited = zarr.storage.LocalStore.get_sync, zarr.storage.LocalStore.get

    def get_sync(self, key, *args, **options):
        found = plain(self, key, *args, **options)
        if found is not None and "/c/" in key:
            seen.append((key, len(found)))
        return found

    async def get(self, key, *args, **options):
        found = await awaited(self, key, *args, **options)
        if found is not None and "/c/" in key:
            seen.append((key, len(found)))
        return found

    monkeypatch.setattr(zarr.storage.LocalStore, "get_sync", get_sync)
    monkeypatch.setattr(zarr.storage.LocalStore, "get", get)
    return seen


def never(*args, **options):
    raise AssertionError("something was computed that should have stayed lazy")


def test_the_accessor_is_registered_once():
    accessor.register()
    accessor.register()
    assert xr.Dataset.sky is accessor.SkyAccessor


def test_positions_are_lazy_and_right(ds):
    with dask.config.set(scheduler=never):
        lon, lat = ds.sky.lonlat()
        assert lon.chunks == ds["i160"].chunks
    theirs = hp.pix2ang(NSIDE, np.arange(12 * NSIDE**2), nest=True, lonlat=True)
    np.testing.assert_allclose(lon.values, theirs[0], atol=2e-13)
    np.testing.assert_allclose(lat.values, theirs[1], atol=2e-13)
    assert lon.attrs["long_name"] == "Galactic longitude"
    assert lat.isel(cells=slice(5, 7)).values.shape == (2,)


def test_positions_of_a_sky_of_3e9_pixels_cost_nothing_until_asked():
    about = {"frame": "icrs", "nside": 16384, "tile_nside": 8, "chunk_nside": 32}
    zero = np.broadcast_to(np.float32(0), 12 * 16384**2)
    sky = xr.Dataset({"i160": ("cells", zero)}, attrs={"skymill": about})
    sky.sky.lonlat()[0][:1].values  # noqa: B018 - for what libraries load at their first call
    tracemalloc.start()
    lon, lat = sky.sky.lonlat()
    part = lon.isel(cells=slice(3 * 10**9, 3 * 10**9 + 4)).values
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(part, Tiling(16384).lonlat(np.arange(3 * 10**9, 3 * 10**9 + 4))[0])
    assert peak < 4 * 8 * 2**22 + 2e7  # positions of one tile with their temporaries
    assert lat.attrs["long_name"].startswith("declination")


@pytest.mark.parametrize(
    "region",
    [
        Cone(30.0, 40.0, 12.0),
        Box((350.0, 20.0), (-10.0, 5.0)),
        Polygon([(200.0, -60.0), (230.0, -60.0), (215.0, -30.0)]),
        Cone(83.8, -5.4, 6.0, frame="icrs"),
        Cone(30.0, 40.0, 0.0),
    ],
)
def test_selecting_gives_the_cells_inside(ds, whole, region):
    with dask.config.set(scheduler=never):
        part = ds.sky.select(region)
    pixels = region.pixels(Tiling(NSIDE), "galactic")
    np.testing.assert_array_equal(part["cell_ids"], pixels)
    for name, values in whole.items():
        np.testing.assert_array_equal(part[name].values, values[pixels])
        assert part[name].dtype == values.dtype
        assert part[name].attrs["units"] == ds[name].attrs["units"]
    lon, lat = Tiling(NSIDE).lonlat(pixels)
    np.testing.assert_array_equal(part["lon"], lon)
    np.testing.assert_array_equal(part["lat"], lat)
    assert part.attrs["dggs"]["coordinate"] == "cell_ids"
    assert "coordinate" not in ds.attrs["dggs"]
    np.testing.assert_array_equal(part.sky.lonlat()[0], lon)


def test_selecting_from_arrays_in_memory_and_from_a_selection(ds, whole):
    cone, smaller = Cone(30.0, 40.0, 12.0), Cone(33.0, 40.0, 5.0)
    np.testing.assert_array_equal(ds.load().sky.select(cone)["i160"], whole["i160"][cone.pixels(Tiling(NSIDE))])
    twice = ds.sky.select(cone).sky.select(smaller)
    np.testing.assert_array_equal(twice["cell_ids"], smaller.pixels(Tiling(NSIDE)))


def test_a_part_reads_the_chunks_it_touches_and_no_others(ds, reads, sky_store):
    grid = store.tiling_of(sky_store)
    lon, lat = (float(v) for v in grid.lonlat(1700))
    cone = Cone(lon, lat, 1.0)
    touched = np.unique(grid.chunk_of(cone.pixels(grid)))
    assert 1 <= touched.size <= 3
    part = ds.sky.select(cone)
    assert reads == []
    part["i160"].load()
    keys = {key for key, _ in reads}
    assert keys == {f"i160/c/{tile}" for tile in np.unique(touched // 16)}
    whole_tile = 4 * grid.tile_npix
    assert sum(size for _, size in reads) < 0.5 * whole_tile
    reads.clear()
    ds.sky.plot("i160", lonlat=(lon, lat), size=1.0)
    assert {key for key, _ in reads} <= {f"i160/c/{tile}" for tile in range(4)}
    assert sum(size for _, size in reads) < whole_tile


@pytest.mark.parametrize("policy", ["any", "all", 0.5])
@pytest.mark.parametrize("nside", [64, 16, 2, 1])
def test_degrading_is_lazy_and_agrees_with_healpy(ds, whole, nside, policy):
    with dask.config.set(scheduler=never):
        coarse = ds.sky.degrade(nside, policy=policy)
    values = coarse["i160"].values
    if policy != 0.5:
        unseen = np.where(np.isnan(whole["i160"]), hp.UNSEEN, whole["i160"]).astype(np.float64)
        theirs = hp.ud_grade(unseen, nside, order_in="NEST", pess=policy == "all")
        np.testing.assert_allclose(values, np.where(theirs == hp.UNSEEN, np.nan, theirs), rtol=1e-6)
    rows = whole["i160"].reshape(12 * nside**2, -1)
    enough = (~np.isnan(rows)).mean(axis=1)
    least = {"any": 1e-9, "all": 1.0, 0.5: 0.5}[policy]
    np.testing.assert_array_equal(np.isfinite(values), enough >= least)
    np.testing.assert_array_equal(
        coarse["flag_850um"], np.bitwise_or.reduce(whole["flag_850um"].reshape(rows.shape), axis=1)
    )
    assert coarse["i160"].dtype == np.float32
    assert coarse.sky.tiling.nside == nside
    assert coarse.attrs["dggs"]["refinement_level"] == nside.bit_length() - 1
    if nside == 2:
        np.testing.assert_array_equal(coarse["survey"], [0 if tile == 5 else tile % 3 for tile in range(48)])


def test_degrading_arrays_in_memory_and_cubes(ds, whole):
    cube = xr.concat([ds["i160"], ds["i160"] * 2], dim="channel").transpose("cells", "channel")
    both = ds.assign(cube=cube)
    lazily = both.sky.degrade(8)
    at_once = both.load().sky.degrade(8)
    for name in ("i160", "flag_850um", "survey", "cube"):
        np.testing.assert_array_equal(lazily[name].values, at_once[name].values)
    np.testing.assert_array_equal(lazily["cube"].isel(channel=0), lazily["i160"])


def image_of(figure):
    return np.ma.filled(figure.axes[0].images[0].get_array().astype(float), np.nan)


def test_the_whole_sky_of_a_small_map_is_drawn_from_it(ds, whole):
    figure = ds.sky.plot("i160", pixels=100)
    lon, lat, sky = projections.mollweide_lonlat(100)
    expected = whole["i160"][Tiling(NSIDE).from_lonlat(lon[sky], lat[sky])]
    np.testing.assert_array_equal(image_of(figure)[sky], expected)
    assert "Intensity at 160 um" in [text.get_text() for text in figure.texts]
    assert figure.axes[1].get_xlabel() == "[MJy/sr]"
    titled = ds.sky.plot("i160", pixels=100, title="mine", stretch="log")
    assert "mine" in [text.get_text() for text in titled.texts]
    assert type(titled.axes[0].images[0].norm).__name__ == "LogNorm"


@pytest.mark.parametrize("frame", [None, "icrs"])
def test_a_part_of_the_sky_is_drawn_at_full_resolution(ds, whole, frame):
    figure = ds.sky.plot("i160", lonlat=(120.0, 30.0), size=8.0, pixels=40, frame=frame)
    lon, lat = projections.gnomonic_lonlat(120.0, 30.0, 8.0, 40)
    if frame:
        lon, lat = sphere.rotate(lon, lat, frame, "galactic")
    expected = whole["i160"][Tiling(NSIDE).from_lonlat(lon, lat)]
    np.testing.assert_array_equal(image_of(figure), expected)
    assert figure.axes[0].get_xlabel() == ("RA [deg]" if frame else "l [deg]")
    finer = ds.sky.plot("i160", lonlat=(120.0, 30.0), size=8.0)
    assert image_of(finer).shape == (240, 240)  # the least


def test_the_whole_sky_in_another_frame_is_turned(ds):
    lat = ds.sky.lonlat()[1]
    galactic_latitude = ds.assign(b=("cells", lat.values.astype(np.float32)))
    image = image_of(galactic_latitude.sky.plot("b", frame="icrs", pixels=200))
    pole = np.unravel_index(np.nanargmax(image), image.shape)
    x, y = projections.mollweide_xy(-167.14, 27.13)  # the north Galactic pole at RA 192.86
    assert abs(pole[1] - (float(x) + 2) * 50) < 4
    assert abs(pole[0] - (float(y) + 1) * 50) < 4


def test_pictures_of_a_selection_show_it_and_grey_elsewhere(ds, whole):
    part = ds.sky.select(Cone(120.0, 30.0, 3.0))
    image = image_of(part.sky.plot("i160", lonlat=(120.0, 30.0), size=20.0, pixels=60))
    assert np.isfinite(image[30, 30])
    assert np.isnan(image[2, 2])
    whole_sky = image_of(part.sky.plot("i160", pixels=300))
    assert 0 < np.isfinite(whole_sky).mean() < 0.01


def test_codes_are_drawn_with_their_names(ds):
    figure = ds.sky.plot("survey", pixels=100)
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == ["none", "plane", "large cloud"]


def test_residuals_are_drawn_about_zero(ds):
    figure = ds.assign(residual_850um=ds["i160"] - 5).sky.plot("residual_850um", pixels=100)
    norm = figure.axes[0].images[0].norm
    assert norm.vmin == -norm.vmax


@pytest.fixture(scope="module")
def large_store(tmp_path_factory):
    """Nside 1024 with one tile, an overview of it that is told apart by its values."""
    where = str(tmp_path_factory.mktemp("large") / "sky.zarr")
    store.create(where, 1024, frame="galactic", tile_nside=4, chunk_nside=16)
    made = MapInfo("i160", "intensity", "MJy/sr")
    store.create_maps(where, [made])
    values = np.random.default_rng(1).normal(50, 1, 4**8).astype(np.float32)
    store.write_tile(where, "i160", 100, values)
    return where, values, made


def test_the_overview_is_used_where_it_is_true(large_store, reads):
    where, values, made = large_store
    ds = store.open(where)
    slow = image_of(ds.sky.plot("i160"))
    assert {key for key, _ in reads} == {"i160/c/100"}
    overview.begin(where, [made])
    overview.write_piece(where, "i160", 100, values)
    overview.finish(where, [made])
    reads.clear()
    fast = image_of(store.open(where).sky.plot("i160"))
    np.testing.assert_array_equal(fast, slow)
    assert all(key.startswith("c/") or "overview" in key or key == "i160/c/100" for key, _ in reads)
    assert sum(size for _, size in reads) < 4 * values.size / 2
    # A map computed since under the old name must not be shown as the store has it.
    doubled = ds.assign(i160=ds["i160"] * 2)
    np.testing.assert_allclose(image_of(doubled.sky.plot("i160")), 2 * slow, rtol=1e-6)


def test_reading_a_large_map_for_a_picture_is_said(monkeypatch, ds, whole):
    monkeypatch.setattr(accessor, "PICTURE_NSIDE", 16)
    monkeypatch.setattr(accessor, "LARGE_NSIDE", 64)
    with pytest.warns(UserWarning, match="no overview.*tile by tile"):
        figure = ds.sky.plot("i160", pixels=60)
    lon, lat, sky = projections.mollweide_lonlat(60)
    rows = np.ma.masked_invalid(whole["i160"].astype(np.float64)).reshape(12 * 16**2, -1)
    expected = rows.mean(axis=1).filled(np.nan)[Tiling(16).from_lonlat(lon[sky], lat[sky])]
    np.testing.assert_allclose(image_of(figure)[sky], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda ds: ds.sky.plot("i16O"), MissingMapError, ["i16O", "i160"]),
        (lambda ds: ds.sky.plot("i160", size=3.0), InputError, ["size", "lonlat"]),
        (lambda ds: ds.sky.plot("i160", strech="log"), InputError, ["strech", "stretch"]),
        (lambda ds: ds.sky.plot("i160", lonlat=(0, 100)), InputError, ["lat"]),
        (lambda ds: ds.sky.plot("i160", lonlat=(0, 0), size=200), InputError, ["size", "200"]),
        (lambda ds: ds.sky.plot("i160", frame="fk4"), FrameError, ["fk4", "galactic"]),
        (lambda ds: ds.sky.select((0, 0, 1)), InputError, ["region", "Cone"]),
        (lambda ds: ds.sky.degrade(256), InputError, ["256", "128"]),
        (lambda ds: ds.sky.degrade(12), InputError, ["12"]),
        (lambda ds: ds.sky.degrade(16, policy="most"), InputError, ["most", "any"]),
        (lambda ds: ds.sky.select(Cone(0, 0, 5)).sky.degrade(16), InputError, ["full sky", "before selecting"]),
        (lambda ds: ds.isel(cells=slice(0, 10)).sky.lonlat(), InputError, ["10", "196608"]),
        (lambda ds: xr.Dataset({"a": ("x", [1.0])}).sky.tiling, FormatError, ["skymill.open", "assign_attrs"]),
        (lambda ds: ds.drop_attrs().sky.select(Cone(0, 0, 1)), FormatError, ["attributes"]),
        (lambda ds: ds.assign(c=(("cells", "n"), np.zeros((12 * NSIDE**2, 2)))).sky.plot("c"), InputError, ["isel"]),
    ],
)
def test_errors_say_what_came_and_what_to_do(ds, call, error, words):
    with pytest.raises(error) as caught:
        call(ds)
    for word in words:
        assert word in str(caught.value)


def test_the_accessor_loads_nothing_heavy():
    code = (
        "import sys; from skymill.chunking import accessor; "
        "print([m for m in ('dask', 'matplotlib', 'jax', 'healpy', 'astropy', 'zarr') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_public_regions_work_from_the_top_level(sky_store):
    assert sm.open(sky_store).sky.select(sm.Cone(0.0, 0.0, 3.0)).sizes["cells"] > 10
