"""Cubes go out into FITS files, a column a channel, and come back the same."""

from __future__ import annotations

import healpy as hp
import numpy as np
import pytest
import skymill as sm
from astropy.io import fits
from skies import make_sky
from skymill.chunking import store as stores
from skymill.chunking.errors import InputError, MissingMapError
from skymill.chunking.schema import CUBE, MapInfo
from skymill.engine.mapping import map_plan

CHANNELS = sm.Channels.from_edges([-90, -35, 35, 90.5])


def spectra_of(tile, inputs):
    values = np.random.default_rng(tile).normal(size=(3, 64)).astype(np.float32)
    values[:, ::3] = np.nan
    return {"n_hi": values}


@pytest.fixture
def sky(tmp_path):
    where = make_sky(tmp_path / "maps.zarr", 16, ("i160",), holes=False)
    made = str(tmp_path / "sky.zarr")
    stores.create(made, 16, frame="galactic", tile_nside=2)
    info = MapInfo("n_hi", "column density", "1e20 cm^-2", dims=CUBE)
    map_plan("make", spectra_of, target=made, writes=[info], channels=CHANNELS).run(progress=False)
    sm.export(where, "i160", tmp_path / "i160.fits").run(progress=False)
    sm.ingest({"i160": tmp_path / "i160.fits"}, made).run(progress=False)
    return made


@pytest.mark.parametrize("ordering", ["nested", "ring"])
@pytest.mark.parametrize("partial", [False, True])
def test_a_cube_round_trips_through_a_file(sky, tmp_path, ordering, partial):
    want = sm.open(sky)["n_hi"].values
    path = tmp_path / "cube.fits"
    sm.export(sky, "n_hi", path, ordering=ordering, partial=partial).run(progress=False)
    found = np.atleast_2d(hp.read_map(path, field=None, nest=True, partial=partial))
    np.testing.assert_array_equal(np.where(found < -1e30, np.nan, found), want)
    with fits.open(path) as file:
        names = [name for name in file[1].columns.names if name != "PIXEL"]
        history = str(file[1].header["HISTORY"])
    assert names == ["n_hi_000", "n_hi_001", "n_hi_002"]
    assert "n_hi_002: 35 to 90.5 km/s" in history
    sm.ingest_cube(path, tmp_path / "back.zarr", edges=CHANNELS.edges).run(progress=False)
    np.testing.assert_array_equal(sm.open(tmp_path / "back.zarr")["n_hi"].values, want)
    assert stores.info(tmp_path / "back.zarr", "n_hi").unit == "1e20 cm^-2"


def test_one_channel_and_maps_beside_it(sky, tmp_path):
    path = tmp_path / "some.fits"
    plan = sm.export(sky, ["i160", "n_hi[1]"], path)
    assert plan.memory["maps"] == 2 * 4 * 64
    plan.run(progress=False)
    assert sm.export(sky, "n_hi", tmp_path / "all.fits").memory["maps"] == 3 * 4 * 64
    with fits.open(path) as file:
        assert file[1].columns.names == ["i160", "n_hi_001"]
    both = hp.read_map(path, field=None, nest=True)
    np.testing.assert_array_equal(both[0], sm.open(sky)["i160"].values)
    channel = sm.open(sky)["n_hi"].values[1]
    np.testing.assert_array_equal(np.where(both[1] < -1e30, np.nan, both[1]), channel)


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        ("n_hi[3]", InputError, "'n_hi' in .* has channels 0 to 2"),
        ("i160[0]", InputError, "is a map, which has no channels"),
        ("n_h[0]", MissingMapError, "did you mean 'n_hi'"),
        (["n_hi", "n_hi[1]"], InputError, "two columns n_hi_001"),
    ],
)
def test_channels_that_are_not_there_are_refused(sky, tmp_path, names, error, words):
    with pytest.raises(error, match=words):
        sm.export(sky, names, tmp_path / "x.fits")
