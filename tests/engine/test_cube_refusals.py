"""Verbs that know maps alone say so when they are given a cube."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import skymill as sm
from skies import BANDS, make_sky
from skymill.chunking import store as stores
from skymill.chunking.channels import Channels
from skymill.chunking.errors import InputError
from skymill.chunking.schema import CUBE, MapInfo
from skymill.models import Model, dust_mlp, save_model


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A store with maps and a cube, a network, and a fine store."""
    folder = tmp_path_factory.mktemp("refusals")
    where = make_sky(folder / "sky.zarr", 16, (*BANDS, "i850"), holes=False)
    stores.create_channels(where, Channels.from_edges([-90, -35, 35, 90]))
    stores.create_maps(
        where, [MapInfo("n_hi", "intensity", "MJy/sr", dims=CUBE), MapInfo("survey", "code", "1", dtype="uint8")]
    )
    grid = stores.tiling_of(where)
    for tile in range(grid.n_tiles):
        stores.write_tile(where, "n_hi", tile, np.ones((3, grid.tile_npix), np.float32))
        stores.write_tile(where, "survey", tile, np.ones(grid.tile_npix, np.uint8))
    save_model(folder / "850um", Model.untrained(dust_mlp("850um")))
    return where, str(folder)


CALLS = {
    "a recipe": lambda sky, out: sm.prepare(
        sky, {"input": "n_hi", "output": "m", "steps": [{"step": "convert", "to": "Jy/sr"}]}
    ),
    "a target": lambda sky, out: sm.train("dust-850um", sky, out + "/m", target="n_hi"),
    "an input of a training": lambda sky, out: sm.train(
        "dust-850um", sky, out + "/m", target="i850", inputs={"i160": "n_hi"}
    ),
    "a condition": lambda sky, out: sm.train("dust-850um", sky, out + "/m", target="i850", where="n_hi > 1"),
    "an input of a model": lambda sky, out: sm.predict(out + "/850um", sky, inputs={"i160": "n_hi"}),
    "a prediction": lambda sky, out: sm.residual(sky, "n_hi", "i160"),
    "a target of a residual": lambda sky, out: sm.residual(sky, "i160", "n_hi"),
    "a map to hand down": lambda sky, out: sm.hand_down(sky, fine(sky, out), "n_hi"),
    "a numerator": lambda sky, out: sm.ratio(sky, "n_hi", "i160", wavelengths_um=[100.0, 160.0]),
    "something to evaluate": lambda sky, out: sm.evaluate(sky, "n_hi", "i160", out + "/e"),
    "something to evaluate against": lambda sky, out: sm.evaluate(sky, "i250", "n_hi", out + "/e"),
    "groups of an evaluation": lambda sky, out: sm.evaluate(sky, "i250", "i160", out + "/e", by="n_hi"),
    "a mask of an evaluation": lambda sky, out: sm.evaluate(sky, "i250", "i160", out + "/e", mask="n_hi"),
    "something to correlate": lambda sky, out: sm.correlate(sky, ["i160", "n_hi"]),
    "a divisor": lambda sky, out: sm.correlate(sky, ["i160", "i250"], divide_by="n_hi"),
    "something to degrade": lambda sky, out: sm.degrade(sky, out + "/d.zarr", 8, maps=["n_hi"]),
    "something to resample": lambda sky, out: sm.resample(sky, out + "/r.zarr", 8, maps=["n_hi"]),
    "a mask to resample with": lambda sky, out: sm.resample(sky, out + "/r.zarr", 8, maps=["i160"], mask="n_hi"),
    "a mask to apodize": lambda sky, out: sm.apodize(sky, "n_hi", 5.0),
    "a spectrum": lambda sky, out: sm.spectra(sky, [("n_hi", "i160")]),
    "a mask of a spectrum": lambda sky, out: sm.spectra(sky, [("i160", "i160")], mask="n_hi"),
    "something to smooth": lambda sky, out: sm.smooth(sky, "n_hi", 600.0),
    "a mask to smooth with": lambda sky, out: sm.smooth(sky, "i160", 600.0, mask="n_hi"),
    "something to smooth tile by tile": lambda sky, out: sm.smooth(sky, "n_hi", 600.0, method="local"),
}  # fmt: skip


def fine(sky, out):
    stores.create(out + "/fine.zarr", 32, frame=stores.frame_of(sky))
    return out + "/fine.zarr"


@pytest.mark.parametrize("call", CALLS)
def test_a_cube_is_refused_in_words(places, call):
    with pytest.raises(InputError, match=r"'n_hi' .*is a cube \(channel, cells\).* a map \(cells,\) is needed"):
        CALLS[call](*places)


def test_where_all_maps_are_meant_cubes_are_left_out(places):
    sky, out = places
    maps = {*BANDS, "i850"}
    sm.degrade(sky, out + "/all.zarr", 8).run(progress=False)
    assert {*stores.infos(out + "/all.zarr")} == maps | {"survey"}
    default = inspect.signature(sm.resample).parameters["maps"].default
    assert default is None
    sm.resample(sky, out + "/resampled.zarr", 8).run(progress=False)
    assert maps <= {*stores.infos(out + "/resampled.zarr")}
