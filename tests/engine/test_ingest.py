"""The verb `ingest`: FITS files become maps of a store."""

import os
from pathlib import Path

import healpy as hp
import numpy as np
import pytest
import skymill as sm
from fitsfiles import some_map, write_table
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking import store as stores
from skymill.chunking.errors import (
    FormatError,
    FrameError,
    IdentityError,
    InputError,
    OrderingError,
    RunError,
    StoreNotFoundError,
    UnitError,
)
from skymill.engine.ingest import ingest

UNSEEN = -1.6375e30


def map_of(store, name):
    return np.asarray(stores.open(store)[name])


def full(path, nside=8, values=None, **keywords):
    return write_table(path, {"I": ("E", some_map(nside) if values is None else values)}, NSIDE=nside, **keywords)


def content(folder):
    """Return every file below a folder with its bytes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


@settings(max_examples=20, deadline=None)
@given(
    order=st.integers(1, 4),
    ring=st.booleans(),
    explicit=st.booleans(),
    packed=st.booleans(),
    code=st.sampled_from(["E", "D", "J"]),
    hole=st.sampled_from(["nan", "unseen", "bad"]),
)
def test_any_file_becomes_the_map_that_healpy_sees(tmp_path_factory, order, ring, explicit, packed, code, hole):
    folder = tmp_path_factory.mktemp("ingest")
    nside = 2**order
    values = np.random.default_rng(order).integers(-500, 500, 12 * nside**2).astype("f8")
    missing = np.random.default_rng(1).random(values.size) < 0.3
    mark = -999.0 if hole == "bad" or code == "J" else {"nan": np.nan, "unseen": UNSEEN}[hole]
    stored = np.where(missing, mark, values)
    pixels = np.random.default_rng(2).permutation(values.size)[: values.size // 2] if explicit else None
    columns = {"I": (code, stored if pixels is None else stored[pixels])}
    if pixels is not None:
        columns = {"PIXEL": ("K", pixels), **columns}
    path = write_table(
        folder / ("map.fits.gz" if packed else "map.fits"), columns, NSIDE=nside, BAD_DATA=-999.0,
        ORDERING="RING" if ring else "NESTED", INDXSCHM="EXPLICIT" if explicit else "IMPLICIT",
    )  # fmt: skip
    ingest({"m": f"{path}[I]"}, folder / "sky.zarr", unit="K", override=["unit"], tile_nside=2).run()
    want = np.where(missing, np.nan, values)
    if pixels is not None:
        listed = np.full(values.size, np.nan)
        listed[pixels] = want[pixels]
        want = listed
    want = want[hp.nest2ring(nside, np.arange(want.size))] if ring else want
    np.testing.assert_array_equal(map_of(folder / "sky.zarr", "m"), want.astype("f4"))
    assert sorted(os.listdir(folder)) == [Path(path).name, "sky.zarr"]


def test_nothing_is_done_before_run(tmp_path):
    path = full(tmp_path / "map.fits.gz")
    plan = sm.ingest({"m": path}, tmp_path / "sky.zarr")
    assert os.listdir(tmp_path) == ["map.fits.gz"]
    text = str(plan)
    assert "12 to do" in text
    assert "nested, galactic, K_CMB" in text
    plan.run()
    assert sorted(os.listdir(tmp_path)) == ["map.fits.gz", "sky.zarr"]


def test_a_plain_file_can_be_had_lazily_and_a_compressed_one_cannot(tmp_path):
    values = some_map(8)
    lazy = ingest({"m": full(tmp_path / "map.fits", values=values)}, tmp_path / "sky.zarr").lazy()
    np.testing.assert_array_equal(lazy["m"].to_numpy(), values)
    assert not (tmp_path / "sky.zarr").exists()
    with pytest.raises(InputError, match="lazily"):
        ingest({"m": full(tmp_path / "map.fits.gz")}, tmp_path / "sky.zarr").lazy()


def test_what_is_known_of_the_map_is_kept(tmp_path):
    values = some_map(8)
    values[:100], values[200] = UNSEEN, np.inf
    path = full(tmp_path / "map.fits", values=values, TELESCOP="PLANCK", FREQ="353 GHz")
    ingest({"m": path, "n": path}, tmp_path / "sky.zarr", band={"m": "850um"}, beam_fwhm_arcmin=5.0).run()
    info = stores.info(tmp_path / "sky.zarr", "m")
    assert (info.unit, info.band, info.beam_fwhm_arcmin, info.dtype) == ("K_CMB", "850um", 5.0, "float32")
    file = info.provenance["file"]
    assert file["name"] == "map.fits"
    assert len(file["xxh3_128"]) == 32
    assert file["header"]["TELESCOP"] == "PLANCK"
    found = info.provenance["statistics"]
    good = np.concatenate([values[100:200], values[201:]]).astype("f8")
    assert {key: found[key] for key in ("count", "missing", "infinite")} == {
        "count": good.size, "missing": 101, "infinite": 1,
    }  # fmt: skip
    assert (found["minimum"], found["maximum"]) == (good.min(), good.max())
    assert found["mean"] == pytest.approx(good.mean(), rel=1e-12)
    assert stores.frame_of(tmp_path / "sky.zarr") == "galactic"
    assert stores.info(tmp_path / "sky.zarr", "n").band is None


def test_the_quantity_follows_the_unit_unless_given(tmp_path):
    path = full(tmp_path / "map.fits", TUNIT1="mag")
    ingest({"m": path, "n": path}, tmp_path / "sky.zarr", quantity={"n": "extinction"}).run()
    assert stores.info(tmp_path / "sky.zarr", "m").quantity == "magnitude"
    assert stores.info(tmp_path / "sky.zarr", "n").quantity == "extinction"


def test_infinite_values_of_a_listed_map_are_counted(tmp_path):
    columns = {"PIXEL": ("J", [3, 4, 5]), "I": ("E", [np.inf, 1.0, 2.0])}
    path = write_table(tmp_path / "map.fits", columns, NSIDE=8, INDXSCHM="EXPLICIT")
    ingest({"m": path}, tmp_path / "sky.zarr", unit="K").run()
    assert stores.info(tmp_path / "sky.zarr", "m").provenance["statistics"]["infinite"] == 1


def test_options_for_all_maps_or_for_each(tmp_path):
    one = full(tmp_path / "one.fits", COORDSYS=None, ORDERING=None, TUNIT1=None)
    ingest({"a": one, "b": one}, tmp_path / "sky.zarr", frame="icrs", ordering={"a": "ring", "b": "nested"},
           unit={"a": "MJy/sr", "b": "mag"}).run()  # fmt: skip
    assert stores.info(tmp_path / "sky.zarr", "a").unit == "MJy/sr"
    assert stores.info(tmp_path / "sky.zarr", "b").unit == "mag"
    assert stores.frame_of(tmp_path / "sky.zarr") == "icrs"
    np.testing.assert_array_equal(map_of(tmp_path / "sky.zarr", "b"), some_map(8))
    np.testing.assert_array_equal(map_of(tmp_path / "sky.zarr", "a"), some_map(8)[hp.nest2ring(8, np.arange(768))])
    with pytest.raises(InputError, match="names the map 'c'"):
        ingest({"a": one}, tmp_path / "sky.zarr", unit={"c": "K"})


def test_the_tiling_of_a_new_store_can_be_chosen(tmp_path):
    path = full(tmp_path / "map.fits")
    ingest({"m": path}, tmp_path / "sky.zarr", tile_nside=2, chunk_nside=4).run()
    assert stores.tiling_of(tmp_path / "sky.zarr") == sm.Tiling(8, 2, 4)
    ingest({"n": path}, tmp_path / "sky.zarr").run()  # and later maps follow it
    np.testing.assert_array_equal(map_of(tmp_path / "sky.zarr", "n"), some_map(8))


def test_the_nside_can_be_given_where_the_file_is_silent(tmp_path):
    columns = {"PIXEL": ("J", [3, 4]), "I": ("E", [1.0, 2.0])}
    path = write_table(tmp_path / "map.fits", columns, INDXSCHM="EXPLICIT")
    ingest({"m": path}, tmp_path / "sky.zarr", nside=16, unit="K", override=["unit"]).run()
    assert np.flatnonzero(~np.isnan(map_of(tmp_path / "sky.zarr", "m"))).tolist() == [3, 4]
    assert stores.tiling_of(tmp_path / "sky.zarr").nside == 16


def test_override_counts_where_a_word_is_given(tmp_path):
    path = full(tmp_path / "map.fits")
    with pytest.raises(UnitError, match="override"):
        ingest({"m": path}, tmp_path / "sky.zarr", unit="MJy/sr")
    ingest({"m": path, "n": path}, tmp_path / "sky.zarr", unit={"m": "MJy/sr"}, override=["unit"]).run()
    assert stores.info(tmp_path / "sky.zarr", "m").unit == "MJy/sr"
    assert stores.info(tmp_path / "sky.zarr", "n").unit == "K_CMB"


def test_codes_stay_codes(tmp_path):
    codes = np.arange(768) % 4
    path = write_table(tmp_path / "map.fits", {"S": ("J", codes)}, NSIDE=8)
    ingest({"survey": path}, tmp_path / "sky.zarr", unit="1", override=["unit"]).run()
    found = map_of(tmp_path / "sky.zarr", "survey")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, codes)
    bad = full(tmp_path / "bad.fits.gz", TUNIT1=None)
    with pytest.raises(RunError, match="codes from 0 to 255"):
        ingest({"mask_x": bad}, tmp_path / "sky.zarr", unit="1").run()
    assert sorted(os.listdir(tmp_path)) == ["bad.fits.gz", "map.fits", "sky.zarr"]  # no scratch is left


def test_tiles_without_listed_pixels_cost_nothing(tmp_path):
    columns = {"PIXEL": ("J", [3, 4, 700]), "I": ("E", [1.0, 2.0, 3.0])}
    path = write_table(tmp_path / "map.fits", columns, NSIDE=8, INDXSCHM="EXPLICIT")
    plan = ingest({"m": path}, tmp_path / "sky.zarr", unit="K", tile_nside=2)
    assert list(plan.todo) == [0, 43]
    plan.run()
    assert stores.observed_tiles(tmp_path / "sky.zarr", ["m"]) == (0, 43)
    values = some_map(8)[100:200]
    ranged = full(tmp_path / "range.fits", values=values, FIRSTPIX=100, LASTPIX=199)
    assert list(ingest({"r": ranged}, tmp_path / "sky.zarr").todo) == list(range(6, 13))


def test_scratch_is_where_it_is_wanted_and_removed_afterwards(tmp_path, monkeypatch):
    from skymill.engine import ingest_kernel

    place = tmp_path / "scratch"
    place.mkdir()
    seen = []
    usual = ingest_kernel.unpack
    monkeypatch.setattr(ingest_kernel, "unpack", lambda *given: (seen.append(given[2]), usual(*given)))
    ingest({"m": full(tmp_path / "map.fits.gz")}, tmp_path / "sky.zarr", scratch=place).run()
    assert [path.parent.parent for path in seen] == [place]
    assert os.listdir(place) == []
    with pytest.raises(InputError, match="`scratch`"):
        ingest({"m": full(tmp_path / "map.fits.gz")}, tmp_path / "sky.zarr", scratch=tmp_path / "none")


def test_the_same_run_again_verifies_and_another_is_refused(tmp_path):
    store = tmp_path / "sky.zarr"
    ingest({"m": full(tmp_path / "map.fits")}, store).run()
    assert ingest({"m": full(tmp_path / "map.fits")}, store).run().counts == {"verified": 12}
    other = full(tmp_path / "other.fits", values=some_map(8, seed=5))
    with pytest.raises(IdentityError, match="overwrite"):
        ingest({"m": other}, store)
    ingest({"m": other}, store, overwrite=True).run()
    np.testing.assert_array_equal(map_of(store, "m"), some_map(8, seed=5))


@pytest.mark.parametrize("kind", ["map.fits", "map.fits.gz"])
def test_an_interrupted_run_continues_to_the_same_bytes(tmp_path, kind, monkeypatch):
    path = full(tmp_path / kind, nside=16, ORDERING="RING")
    whole = tmp_path / "whole.zarr"
    ingest({"m": path}, whole, tile_nside=2).run()
    from skymill.engine import mapping

    usual, seen = mapping.TileTask.__call__, []

    def stops(task, tile):
        seen.append(tile)
        if len(seen) > 20:
            raise KeyboardInterrupt
        return usual(task, tile)

    again = tmp_path / "again.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(mapping.TileTask, "__call__", stops)
        with pytest.raises(KeyboardInterrupt):
            ingest({"m": path}, again, tile_nside=2, threads=1).run()
    assert sorted(os.listdir(tmp_path)) == ["again.zarr", kind, "whole.zarr"]
    report = ingest({"m": path}, again, tile_nside=2).run()
    assert report.counts == {"verified": 20, "computed": 28}
    assert content(again) == content(whole)


def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    from distributed import Client, LocalCluster

    listed = np.random.default_rng(0).permutation(3072)[:1000]
    table = write_table(
        tmp_path / "listed.fits", {"PIXEL": ("J", listed), "I": ("E", listed)}, NSIDE=16, INDXSCHM="EXPLICIT",
        TUNIT1=None, TUNIT2="K",
    )  # fmt: skip
    files = {"a": full(tmp_path / "a.fits.gz", nside=16, ORDERING="RING"), "b": table}
    found = []
    for threads in (1, 3):
        store = tmp_path / f"threads{threads}.zarr"
        ingest(files, store, tile_nside=2, threads=threads).run()
        found.append(content(store))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        ingest(files, tmp_path / "workers.zarr", tile_nside=2).run(client)
    found.append(content(tmp_path / "workers.zarr"))
    assert found[0] == found[1] == found[2]


# What cannot be ingested


def test_files_that_do_not_go_together(tmp_path):
    one, large = full(tmp_path / "one.fits"), full(tmp_path / "large.fits", nside=16)
    icrs = full(tmp_path / "icrs.fits", COORDSYS="C")
    with pytest.raises(InputError, match=r"one\.fits.*NSIDE 8.*large\.fits.*16"):
        ingest({"a": one, "b": large}, tmp_path / "sky.zarr")
    with pytest.raises(FrameError, match=r"one\.fits.*galactic.*icrs\.fits.*icrs"):
        ingest({"a": one, "b": icrs}, tmp_path / "sky.zarr")
    ingest({"a": one}, tmp_path / "sky.zarr").run()
    with pytest.raises(InputError, match=r"NSIDE 16.*nside 8"):
        ingest({"b": large}, tmp_path / "sky.zarr")
    with pytest.raises(FrameError, match="icrs"):
        ingest({"b": icrs}, tmp_path / "sky.zarr")
    for option in ("tile_nside", "chunk_nside"):
        with pytest.raises(InputError, match=f"`{option}` 4"):
            ingest({"b": one}, tmp_path / "sky.zarr", **{option: 4})


def refused(tmp_path):
    """Yield (files, options, error, words of the message)."""
    plain = full(tmp_path / "plain.fits")
    cut = tmp_path / "cut.fits"
    cut.write_bytes(Path(plain).read_bytes()[:7000])
    page = tmp_path / "page.fits"
    page.write_bytes(b"<!DOCTYPE html>" * 1000)
    packed = tmp_path / "cut.fits.gz"
    packed.write_bytes(Path(full(tmp_path / "plain.fits.gz", nside=32)).read_bytes()[:20000])
    many = write_table(tmp_path / "many.fits", {"A": ("E", some_map(8)), "B": ("E", some_map(8))}, NSIDE=8)
    far = {"PIXEL": ("J", [1, 768]), "I": ("E", [1, 2])}
    silent = full(tmp_path / "silent.fits", COORDSYS=None, ORDERING=None, TUNIT1=None)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").touch()
    yield {}, {}, InputError, "one map or more"
    yield [plain], {}, InputError, "mapping"
    yield {"m": tmp_path / "none.fits"}, {}, StoreNotFoundError, "does not exist"
    yield {"m": folder}, {}, StoreNotFoundError, "is a directory"
    yield {"1m": plain}, {}, InputError, "'1m'"
    yield {"crs": plain}, {}, InputError, "reserved"
    yield {"m": cut}, {}, FormatError, "truncated"
    yield {"m": packed}, {}, FormatError, "truncated"
    yield {"m": page}, {}, FormatError, "begins with b'<!DOCTYPE"
    yield {"m": many}, {}, InputError, "choose one"
    yield {"m": f"{many}[C]"}, {}, InputError, "Known: A, B"
    yield {"m": f"{many}[A,7]"}, {}, InputError, "HDU '7'"
    yield {"m": full(tmp_path / "short.fits", values=np.zeros(100))}, {}, FormatError, "needs 768"
    yield {"m": full(tmp_path / "odd.fits", values=np.zeros(768), NSIDE_=7)}, {"nside": 16}, InputError, "`nside` 16"
    yield (
        {"m": write_table(tmp_path / "far.fits", far, NSIDE=8, INDXSCHM="EXPLICIT")},
        {"unit": "K"},
        FormatError,
        ("row 2: pixel number 768"),
    )
    yield {"m": silent}, {"ordering": "ring", "unit": "K"}, FrameError, "`frame`"
    yield {"m": silent}, {"frame": "icrs", "unit": "K"}, OrderingError, "`ordering`"
    yield {"m": silent}, {"frame": "icrs", "ordering": "ring"}, UnitError, "`unit`"
    yield {"m": plain}, {"frame": "icrs"}, FrameError, "override"
    yield {"m": plain}, {"ordering": "ring"}, OrderingError, "override"
    yield {"m": plain}, {"unit": "mag"}, UnitError, "override"
    yield {"m": plain}, {"frame": "lunar"}, FrameError, "galactic"
    yield {"m": plain}, {"ordering": "hilbert"}, OrderingError, "nested"
    yield {"m": plain}, {"unit": "parrots"}, UnitError, "parrots"
    yield {"m": plain}, {"override": ["units"]}, InputError, "did you mean 'unit'"
    yield {"m": plain}, {"override": ["unit"]}, InputError, "no `unit`"
    yield {"m": plain}, {"tile_nside": 3}, InputError, "`tile_nside`"
    yield {"m": plain}, {"tile_nside": 16}, InputError, "tile_nside"
    yield {"mask_a": full(tmp_path / "k.fits")}, {}, InputError, "unit '1' expected"
    yield {"m": plain}, {"store": plain}, InputError, "is a file"
    yield {"m": plain}, {"store": folder}, InputError, "something else"


def test_what_cannot_be_ingested_is_refused_before_anything_is_written(tmp_path):
    for number, (files, options, error, words) in enumerate(refused(tmp_path)):
        before = content(tmp_path)
        store = options.pop("store", tmp_path / "sky.zarr")
        with pytest.raises(error) as raised:
            ingest(files, store, **options).run()
        assert words in str(raised.value), number
        assert content(tmp_path) == before, (number, words)


def test_a_pixel_listed_twice_is_found_before_the_store_is_made(tmp_path):
    columns = {"PIXEL": ("J", [5, 9, 5]), "I": ("E", [1, 2, 3])}
    path = write_table(tmp_path / "map.fits", columns, NSIDE=8, INDXSCHM="EXPLICIT")
    with pytest.raises(FormatError, match="pixel 5 is listed more than once"):
        ingest({"m": path}, tmp_path / "sky.zarr", unit="K").run()
    assert os.listdir(tmp_path) == ["map.fits"]


def test_a_map_without_any_value_is_an_error_and_not_kept(tmp_path):
    empty = full(tmp_path / "empty.fits", values=np.full(768, UNSEEN))
    with pytest.raises(FormatError, match="m: no pixel has a value"):
        ingest({"m": empty, "n": full(tmp_path / "map.fits")}, tmp_path / "sky.zarr").run()
    assert set(stores.infos(tmp_path / "sky.zarr")) == {"n"}
