"""The sky store: format, laziness, agreement, and the same through a real object store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from skies import BANDS, INTENSITY, Total, make_sky, write_map
from skymill.chunking import errors, objects
from skymill.chunking import store as stores
from skymill.chunking.channels import Channels
from skymill.chunking.query import ReddeningQuery
from skymill.chunking.schema import KINDS, MapInfo, describe, kind_of, validate
from skymill.engine.mapping import map_plan


def test_an_empty_store_says_what_it_is(tmp_path):
    where = tmp_path / "sky.zarr"
    stores.create(where, 64, frame="icrs")
    attributes = dict(zarr.open_group(where, mode="r").attrs)
    assert attributes["dggs"] == {
        "name": "healpix",
        "refinement_level": 6,
        "indexing_scheme": "nested",
        "spatial_dimension": "cells",
    }
    assert attributes["skymill"]["frame"] == "icrs"
    crs = dict(zarr.open_group(where, mode="r")["crs"].attrs)
    assert crs == {"grid_mapping_name": "healpix", "refinement_level": 6, "indexing_scheme": "nested"}
    assert stores.frame_of(where) == "icrs"


def test_creating_again_changes_nothing_and_disagreeing_is_refused(tmp_path):
    where = tmp_path / "sky.zarr"
    stores.create(where, 64, frame="icrs", tile_nside=4)
    stores.create(where, 64, frame="icrs")
    assert stores.tiling_of(where).tile_nside == 4
    for options in ({"nside": 32, "frame": "icrs"}, {"nside": 64, "frame": "galactic"}):
        with pytest.raises(errors.InputError, match="exists with nside 64, frame icrs"):
            stores.create(where, **options)
    with pytest.raises(errors.InputError, match="tile_nside 8"):
        stores.create(where, 64, frame="icrs", tile_nside=8)
    with pytest.raises(errors.FrameError, match="did you mean 'galactic'"):
        stores.create(tmp_path / "other.zarr", 64, frame="galatic")


def test_maps_round_trip_with_their_description(sky):
    entry = MapInfo(
        "residual_850um",
        "residual",
        "MJy/sr",
        band="850um",
        beam_fwhm_arcmin=5.0,
        long_name="residual",
        provenance={"verb": "test"},
    )
    stores.create_maps(sky, [entry], codec="zstd")
    back = stores.info(sky, "residual_850um")
    assert np.isnan(back.fill_value)
    assert {**vars(back), "fill_value": 0} == {**vars(entry), "fill_value": 0}
    values = np.linspace(-1, 1, 1024, dtype=np.float32)
    stores.write_tile(sky, "residual_850um", 3, values)
    np.testing.assert_array_equal(stores.read_tile(sky, "residual_850um", 3), values)
    np.testing.assert_array_equal(stores.read_cells(sky, "residual_850um", 3 * 1024 + 10, 3 * 1024 + 20), values[10:20])
    assert np.isnan(stores.read_tile(sky, "residual_850um", 4)).all()
    assert stores.observed_tiles(sky, ["residual_850um"]) == (3,)


@pytest.mark.parametrize("codec", stores.CODECS)
def test_the_fast_pipeline_writes_the_bytes_of_the_default_one(tmp_path, codec):
    where = str(tmp_path / "sky.zarr")
    stores.create(where, 256, frame="galactic", chunk_nside=4)
    stores.create_maps(where, [MapInfo(name, "intensity", "MJy/sr") for name in ("a", "b")], codec=codec)
    values = np.random.default_rng(3).lognormal(size=65536).astype(np.float32)
    values[1000:40000] = np.nan
    stores.write_tile(where, "a", 7, values)
    zarr.open_group(where, mode="r+")["b"][7 * 65536 : 8 * 65536] = values
    ours, theirs = (Path(where, name, "c", "7").read_bytes() for name in "ab")
    assert ours == theirs


def test_opening_is_lazy_and_one_block_a_tile(sky):
    dataset = stores.open(sky)
    assert dataset["i160"].dims == ("cells",)
    assert dataset["i160"].dtype == np.float32
    assert dataset["i160"].chunks == ((1024,) * 12,)
    assert dataset.sizes == {"cells": 12 * 32**2}
    assert set(dataset.data_vars) == set(BANDS)
    assert dataset["i160"].attrs["units"] == "MJy/sr"
    assert dataset.attrs["skymill"]["frame"] == "galactic"


def test_masks_stay_integers(sky):
    stores.create_maps(sky, [MapInfo("mask_x", "mask", "1", dtype="uint8", fill_value=1)])
    assert stores.open(sky)["mask_x"].dtype == np.uint8
    assert stores.open(sky)["mask_x"].values.all()


def test_xdggs_decodes_a_store(sky):
    xdggs = pytest.importorskip("xdggs")
    decoded = stores.open(sky).dggs.decode(convention="zarr", index_options={"index_kind": "moc"})
    assert decoded.dggs.grid_info == xdggs.HealpixInfo(level=5, indexing_scheme="nested")
    picked = decoded.isel(cells=slice(100, 103))
    np.testing.assert_array_equal(picked["cell_ids"].values, [100, 101, 102])
    import healpy

    chosen = decoded.dggs.sel_latlon(np.array([40.0]), np.array([120.0]))
    assert int(chosen["cell_ids"].values[0]) == healpy.ang2pix(32, 120.0, 40.0, nest=True, lonlat=True)


def test_xdggs_decodes_three_billion_cells_in_little_memory(tmp_path):
    pytest.importorskip("xdggs")
    where = str(tmp_path / "large.zarr")
    stores.create(where, 16384, frame="galactic")
    stores.create_maps(where, [MapInfo("i160", "intensity", "MJy/sr")])
    script = (
        "import sys, xdggs\nfrom skymill.chunking import store\nfrom skymill.engine.worker import peak_memory\n"
        "before = peak_memory()\n"
        "ds = store.open(sys.argv[1]).dggs.decode(convention='zarr', index_options={'index_kind': 'moc'})\n"
        "assert ds.sizes['cells'] == 12 * 16384**2\n"
        "assert int(ds.isel(cells=slice(-1, None)).cell_ids.values[0]) == 12 * 16384**2 - 1\n"
        "print(peak_memory() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, where], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200e6  # the cell numbers alone would be 26 GB


@pytest.mark.parametrize(
    ("store", "error", "words"),
    [
        ("", errors.InputError, "is empty"),
        (3, errors.InputError, "must be a path or a URL, int came"),
        ("ftp://host/sky.zarr", errors.InputError, "scheme 'ftp'"),
        ("nothing.zarr", errors.StoreNotFoundError, "no sky store at"),
    ],
)
def test_bad_addresses(store, error, words):
    with pytest.raises(error, match=words):
        stores.open(store)


def test_a_group_that_is_no_sky_store(tmp_path):
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(errors.FormatError, match="is a Zarr group but no sky store"):
        stores.open(tmp_path / "other.zarr")


def test_a_store_of_a_newer_version(sky):
    path = Path(sky, "zarr.json")
    known = json.loads(path.read_text())
    known["attributes"]["skymill"]["format_version"] = 99
    path.write_text(json.dumps(known))
    with pytest.raises(errors.FormatError, match="format version 99; this skymill reads version 1"):
        stores.open(sky)


@pytest.mark.parametrize("text", ["", "{", '{"zarr_format": 3}', "\x00\x01"])
def test_metadata_that_is_garbage(sky, text):
    Path(sky, "zarr.json").write_text(text)
    with pytest.raises(errors.SkymillError):
        stores.open(sky)


def test_a_file_or_another_folder_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(errors.InputError, match="is a file"):
        stores.create(tmp_path / "file", 16, frame="icrs")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("precious")
    with pytest.raises(errors.InputError, match="holds something else"):
        stores.create(tmp_path / "folder", 16, frame="icrs")


def test_an_array_without_description_is_refused(sky):
    zarr.open_group(sky, mode="r+").create_array("wild", shape=(12 * 32**2,), dtype="f4")
    with pytest.raises(errors.FormatError, match="'wild' carries no `units`"):
        stores.info(sky, "wild")


def test_a_map_is_created_once(sky):
    with pytest.raises(errors.IdentityError, match="'i160' is in the store"):
        stores.create_maps(sky, [MapInfo("i160", "intensity", "MJy/sr")])
    with pytest.raises(errors.InputError, match="`codec` 'gzip'"):
        stores.create_maps(sky, [MapInfo("new", "intensity", "MJy/sr")], codec="gzip")


@pytest.mark.parametrize(("values", "words"), [(np.zeros(10, "f4"), r"\(10,\)"), (np.zeros(1024), "float64")])
def test_a_tile_is_written_whole_and_in_its_dtype(sky, values, words):
    with pytest.raises(errors.InputError, match=words):
        stores.write_tile(sky, "i160", 0, values)


@pytest.mark.parametrize("name", ["1map", "a-b", "", "crs", "ledger", "overview", "a b", "lon"])
def test_names_that_cannot_be(name):
    with pytest.raises(errors.InputError):
        MapInfo(name, "intensity", "MJy/sr")


@pytest.mark.parametrize(
    "entry",
    [
        MapInfo("mask_850um", "mask", "1"),
        MapInfo("pred_850um", "intensity", "MJy/sr", dtype="uint8"),
        MapInfo("relerr_850um", "relative error", "MJy/sr"),
    ],
)
def test_the_data_dictionary_is_kept(entry):
    with pytest.raises(errors.InputError, match="expected"):
        validate(entry)


def test_a_unit_and_a_known_dtype_are_needed():
    with pytest.raises(errors.InputError, match="without a unit"):
        MapInfo("a", "intensity", "")
    with pytest.raises(errors.InputError, match="float64"):
        MapInfo("a", "intensity", "1", dtype="float64")


def test_the_data_dictionary_documents_itself():
    text = describe()
    assert all(kind.sentence in text for kind in KINDS)
    assert kind_of("anything").dtype == "float32"


@pytest.fixture(scope="module")
def bucket():
    """A real HTTP endpoint that speaks S3."""
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
    }
    before = dict(os.environ)
    os.environ.update(settings)
    boto3.client("s3").create_bucket(Bucket="survey")
    yield "s3://survey"
    server.stop()
    os.environ.clear()
    os.environ.update(before)


def test_a_store_in_a_bucket_is_a_store(bucket, tmp_path):
    remote = make_sky(f"{bucket}/sky.zarr", 8)
    local = make_sky(tmp_path / "sky.zarr", 8)
    for where in (remote, local):
        plan = map_plan("total", Total(), target=where, reads=BANDS, writes=[INTENSITY])
        assert plan.run().counts == {"computed": 11, "unobserved": 1}
        again = map_plan("total", Total(), target=where, reads=BANDS, writes=[INTENSITY]).run()
        assert again.counts == {"verified": 11, "unobserved": 1}
    xr.testing.assert_identical(stores.open(remote).drop_attrs().compute(), stores.open(local).drop_attrs().compute())
    assert stores.observed_tiles(remote, ["total"]) == stores.observed_tiles(local, ["total"])
    with pytest.raises(errors.IdentityError):
        map_plan("other", Total(), target=remote, reads=BANDS, writes=[INTENSITY])
    map_plan("other", Total(), target=remote, reads=BANDS, writes=[INTENSITY], overwrite=True).run()
    assert objects.get(remote, "no/such/key") is None
    with pytest.raises(errors.StoreNotFoundError):
        stores.open(f"{bucket}/nothing.zarr")


def test_a_cube_in_a_bucket_is_a_cube(bucket, tmp_path):
    info = MapInfo("n_hi", "intensity", "K", dims=("channel", "cells"))
    for where in (remote := f"{bucket}/cube.zarr", local := str(tmp_path / "cube.zarr")):
        stores.create(where, 8, frame="galactic", tile_nside=2)
        plan = map_plan(
            "make", Spectra(), target=where, writes=[info], channels=Channels.from_edges([-90, -35, 35, 90])
        )
        assert plan.run().counts == {"computed": 48}
        assert plan.run().counts == {"verified": 48}
        np.testing.assert_array_equal(stores.read_cells(where, "n_hi", 16, 32, slice(1, 3)), Spectra.of(1)[1:])
    assert stores.observed_tiles(remote, ["n_hi"]) == stores.observed_tiles(local, ["n_hi"]) == tuple(range(1, 48))
    assert stores.channels_of(remote) == stores.channels_of(local)
    xr.testing.assert_identical(stores.open(remote).drop_attrs().compute(), stores.open(local).drop_attrs().compute())
    assert not stores.is_stored(remote, "n_hi", 0)
    assert stores.is_stored(remote, "n_hi", 1)


class Spectra:
    """Makes a spectrum for each pixel; tile 0 has none."""

    @staticmethod
    def of(tile):
        values = np.arange(3 * 16, dtype=np.float32).reshape(3, 16) + tile
        return values if tile else np.full_like(values, np.nan)

    def __call__(self, tile, inputs):
        return {"n_hi": self.of(tile)}


def test_reddening_is_asked_of_a_bucket(bucket):
    values = np.arange(12 * 8**2, dtype="f4")
    remote = write_map(f"{bucket}/ebv.zarr", 8, values, "ebv", quantity="reddening", unit="mag")
    lon, lat = stores.tiling_of(remote).lonlat(np.arange(values.size))
    ring = stores.tiling_of(remote).to_ring(np.arange(values.size))
    np.testing.assert_array_equal(ReddeningQuery(remote, "ebv").ebv(lon, lat), values[ring])
