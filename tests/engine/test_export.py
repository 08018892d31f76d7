"""The verb `export`: maps of a store become one FITS file."""

import os
import subprocess
import sys
import warnings

import healpy as hp
import numpy as np
import pytest
import skymill as sm
from astropy.io import fits
from fitsfiles import some_map, write_table
from skymill.chunking import store as stores
from skymill.chunking.errors import FormatError, IdentityError, InputError, MissingMapError, OrderingError, RunError
from skymill.engine import export as module
from skymill.engine.export import export
from skymill.engine.ingest import ingest

UNSEEN = np.float32(-1.6375e30)


def a_map(seed):
    values = some_map(16, seed)
    values[seed :: seed + 3] = np.nan
    values[:300] = np.nan
    return values


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    files = {}
    for seed, name in enumerate(("a", "b")):
        files[name] = write_table(folder / f"{name}.fits", {"I": ("E", a_map(seed))}, NSIDE=16)
    files["survey"] = write_table(folder / "s.fits", {"I": ("J", np.arange(3072) % 3)}, NSIDE=16, TUNIT1=None)
    ingest(files, folder / "sky.zarr", tile_nside=4, unit={"survey": "1"}).run()
    return folder / "sky.zarr"


def read(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(path) as opened:
            opened.verify("exception")
        return np.atleast_2d(hp.read_map(path, field=None, nest=True, **options))


@pytest.mark.parametrize("ordering", ["nested", "ring"])
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("names", ["a", ["b"], ["b", "a"]])
def test_healpy_reads_the_map_bit_for_bit(store, tmp_path, ordering, partial, names):
    path = tmp_path / "map.fits"
    export(store, names, path, ordering=ordering, partial=partial).run()
    assert fits.getheader(path, 1)["ORDERING"] == ordering.upper()
    assert fits.getheader(path, 1)["OBJECT"] == ("PARTIAL" if partial else "FULLSKY")
    for name, found in zip([names] if isinstance(names, str) else names, read(path), strict=True):
        want = np.asarray(stores.open(store)[name])
        want = np.where(np.isnan(want), UNSEEN, want)
        np.testing.assert_array_equal(found.astype("f4").view("u4"), want.view("u4"))
    assert os.listdir(tmp_path) == ["map.fits"]


def test_blank_may_be_nan(store, tmp_path):
    export(store, "a", tmp_path / "map.fits", blank="nan").run()
    np.testing.assert_array_equal(read(tmp_path / "map.fits")[0], a_map(0))
    export(store, "a", tmp_path / "part.fits", blank="nan", partial=True).run()
    with fits.open(tmp_path / "part.fits") as opened:
        assert opened[1].data["PIXEL"].tolist() == np.flatnonzero(~np.isnan(a_map(0))).tolist()


def test_codes_and_floats_side_by_side(store, tmp_path):
    export(store, ["survey", "a"], tmp_path / "map.fits").run()
    codes = hp.read_map(tmp_path / "map.fits", field=0, nest=True)
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, np.arange(3072) % 3)
    header = fits.getheader(tmp_path / "map.fits", 1)
    assert [header[key] for key in ("TTYPE1", "TUNIT1", "TUNIT2", "COORDSYS")] == ["survey", "1", "K_CMB", "G"]


@pytest.mark.parametrize("ordering", ["nested", "ring"])
@pytest.mark.parametrize("partial", [False, True])
def test_there_and_back_again(store, tmp_path, ordering, partial):
    export(store, ["a", "b"], tmp_path / "map.fits", ordering=ordering, partial=partial).run()
    back = {name: f"{tmp_path / 'map.fits'}[{name}]" for name in ("a", "b")}
    ingest(back, tmp_path / "back.zarr", tile_nside=4).run()
    for name in back:
        one, other = (np.asarray(stores.open(place)[name]) for place in (store, tmp_path / "back.zarr"))
        np.testing.assert_array_equal(one.view("u4"), other.view("u4"))


def test_any_number_of_workers_writes_the_same_bytes(store, tmp_path):
    from distributed import Client, LocalCluster

    def write(name, client=None, **options):
        export(store, ["a", "b"], tmp_path / name, ordering="ring", **options).run(client)
        return (tmp_path / name).read_bytes()

    one = write("one", threads=1)
    assert write("three", threads=3) == one
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        assert write("workers", client) == one


def test_nothing_is_done_before_run(store, tmp_path):
    plan = sm.export(store, "a", tmp_path / "map.fits", partial=True)
    assert os.listdir(tmp_path) == []
    assert "listed pixels: a" in str(plan)
    assert plan.target == str(tmp_path / "map.fits")


def test_an_existing_file_is_kept_unless_told_otherwise(store, tmp_path):
    (tmp_path / "map.fits").write_text("precious")
    with pytest.raises(IdentityError, match="overwrite"):
        export(store, "a", tmp_path / "map.fits")
    assert (tmp_path / "map.fits").read_text() == "precious"
    export(store, "a", tmp_path / "map.fits", overwrite=True).run()
    assert read(tmp_path / "map.fits").shape == (1, 3072)


def test_a_failing_tile_leaves_no_file(store, tmp_path, monkeypatch):
    usual = module.write_tile

    def fails(output, tile, *rest):
        if tile == 77:
            raise ValueError("poisoned")
        usual(output, tile, *rest)

    monkeypatch.setattr(module, "write_tile", fails)
    with pytest.raises(RunError, match="tile 77: ValueError: poisoned"):
        export(store, "a", tmp_path / "map.fits").run()
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_exported(store, tmp_path):
    path = tmp_path / "map.fits"
    with pytest.raises(MissingMapError, match="'c'"):
        export(store, ["a", "c"], path)
    with pytest.raises(InputError, match="empty"):
        export(store, [], path)
    with pytest.raises(InputError, match="twice"):
        export(store, ["a", "a"], path)
    with pytest.raises(OrderingError, match="nested"):
        export(store, "a", path, ordering="nest")
    with pytest.raises(InputError, match="unseen"):
        export(store, "a", path, blank="zero")
    with pytest.raises(InputError, match="does not exist"):
        export(store, "a", tmp_path / "none" / "map.fits")
    with pytest.raises(InputError, match="is a folder"):
        export(store, "a", tmp_path)
    with pytest.raises(InputError, match="path of this machine"):
        export(store, "a", "s3://bucket/map.fits")
    with pytest.raises(InputError, match="uncompressed"):
        export(store, "a", tmp_path / "map.fits.gz")
    assert os.listdir(tmp_path) == []


def test_an_unfinished_map_is_refused(store, tmp_path):
    from skymill.engine import mapping

    path = write_table(tmp_path / "m.fits", {"I": ("E", some_map(16))}, NSIDE=16)
    usual = mapping.TileTask.__call__

    def stops(task, tile):
        if tile == 100:
            raise KeyboardInterrupt
        return usual(task, tile)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapping.TileTask, "__call__", stops)
        with pytest.raises(KeyboardInterrupt):
            ingest({"half": path}, tmp_path / "sky.zarr", tile_nside=4).run()
    with pytest.raises(FormatError, match="unfinished"):
        export(tmp_path / "sky.zarr", "half", tmp_path / "out.fits")


def test_nothing_to_list_is_an_error(tmp_path):
    path = write_table(tmp_path / "s.fits", {"I": ("J", np.zeros(192))}, NSIDE=4, TUNIT1=None)
    ingest({"survey": path}, tmp_path / "sky.zarr", unit="1").run()
    with pytest.raises(InputError, match="nothing to list"):
        export(tmp_path / "sky.zarr", "survey", tmp_path / "map.fits", partial=True).run()
    assert sorted(os.listdir(tmp_path)) == ["s.fits", "sky.zarr"]


SCRIPT = """
import sys
from skymill.engine.export import export
from skymill.engine.worker import peak_memory
plan = export(sys.argv[1], "m", sys.argv[2], ordering=sys.argv[3], threads=2)
plan.run(progress=False)
print(peak_memory(), plan.process_memory())
"""


@pytest.mark.parametrize("ordering", ["ring", "nested"])
def test_memory_stays_below_the_plan(tmp_path, ordering):
    path = write_table(tmp_path / "map.fits", {"I": ("1024E", some_map(1024))}, NSIDE=1024)
    ingest({"m": path}, tmp_path / "sky.zarr").run()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "sky.zarr"), str(tmp_path / "out.fits"), ordering],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    peak, planned = map(int, done.stdout.split())
    assert peak <= planned
    assert planned < 400e6
    np.testing.assert_array_equal(hp.read_map(tmp_path / "out.fits", nest=True), some_map(1024))
