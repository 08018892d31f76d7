"""Bad input by the hundred: an error of skymill that names the cause and the cure, and nothing half-written."""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import shutil
from pathlib import Path

import faulty
import numpy as np
import pytest
import skymill as sm
from skymill.chunking import errors
from skymill.chunking import store as stores
from skymill.chunking.schema import FLAGS, MapInfo
from skymill.models import Model, dust_mlp, save_model

CONVERT = {"input": "i850um", "output": "clean", "steps": [{"step": "scale", "factor": 2.0}]}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Stores, models and files that are all right."""
    world = faulty.make_world(tmp_path_factory.mktemp("world"))
    stores.create_maps(world / "sky.zarr", [MapInfo("mask_unobserved", "mask", "1", dtype="uint8", fill_value=1)])
    for tile in set(range(12)) - set(faulty.EMPTY):
        stores.write_tile(world / "sky.zarr", "mask_unobserved", tile, np.zeros(64, np.uint8))
    return world


def calls(world):
    """Return of every verb a call that is all right."""
    sky = str(world / "sky.zarr")
    return {
        "simulate": {"kind": "dust", "store": str(world / "new.zarr"), "nside": 8},
        "ingest": {"files": {"other": str(world / "map.fits")}, "store": str(world / "new.zarr")},
        "prepare": {"store": sky, "recipe": CONVERT},
        "train": {"spec": "dust-850um", "store": sky, "out": str(world / "new-model")},
        "predict": {"models": str(world / "model-1380um"), "store": sky},
        "residual": {"store": sky, "prediction": "pred_850um", "target": "i850um"},
        "hand_down": {"store": sky, "out": str(world / "fine.zarr"), "names": "i250"},
        "ratio": {"store": sky, "numerator": "i850um", "denominator": "i1380um"},
        "evaluate": {"store": sky, "prediction": "pred_850um", "target": "i850um", "out_dir": str(world / "new")},
        "correlate": {"store": sky, "maps": ["i160", "i250"]},
        "degrade": {"store": sky, "out": str(world / "new.zarr"), "nside": 4},
        "export": {"store": sky, "names": "i160", "path": str(world / "new.fits")},
        "apodize": {"store": sky, "mask": "mask_unobserved", "scale": 20.0},
        "spectra": {"store": sky, "pairs": [("i160", "i250")], "mask": "mask_unobserved", "errors": "monte-carlo"},
        "smooth": {"store": sky, "maps": ["i160"], "fwhm": 20.0, "unit": "deg"},
        "resample": {"store": sky, "out_store": str(world / "new.zarr"), "nside": 4},
        "synthesize": {"cl": [0.0, 0.0, 1.0], "store": str(world / "new.zarr"), "nside": 8},
    }


VERBS = ("simulate", "ingest", "prepare", "train", "predict", "residual", "hand_down", "ratio", "evaluate",
         "correlate", "degrade", "export", "apodize", "spectra", "smooth", "resample", "synthesize")  # fmt: skip

MAKERS = ("simulate", "ingest", "synthesize")  # of stores

# What no parameter of its kind can mean.
NEVER = {
    "nan": math.nan,
    "bytes": b"x",
    "none in a list": [None],
    "object": object(),
    "complex": 1j,
}
# Of every verb the parameters that hold one thing, with values of the wrong kind or out of range.
INTEGERS = ("nside", "seed", "tile_nside", "chunk_nside", "noise_nside", "block_nside", "max_pixels", "batch", "groups",
            "threads", "lmax", "lmax_mask", "iterations", "simulations")  # fmt: skip
NUMBERS = ("noise_herschel", "noise_850um", "noise_1380um", "relative_noise_850um", "relative_noise_1380um",
           "test_size", "validation_size", "mask_above", "limit", "scale", "fwhm",
           "from_fwhm", "to_fwhm", "least_weight")  # fmt: skip
TEXTS = ("kind", "footprint", "frame", "numerator", "denominator", "prediction", "target", "split", "ordering",
         "weights", "method", "precision", "transpose", "remove", "errors")  # fmt: skip
SWITCHES = ("overwrite", "partial", "compare", "pixel_window", "window")
PATHS = ("store", "out", "out_dir", "path", "scratch", "other", "out_store")
WRONG = (
    [(name, value) for name in INTEGERS for value in (2.5, "8", "", [8], {}, True, math.inf, -(2**80))]
    + [(name, value) for name in NUMBERS for value in ("0.1", "", [0.1], {}, True, -math.inf)]
    + [(name, value) for name in TEXTS for value in (3, 2.5, [3], {"a": 1}, True)]
    + [(name, value) for name in SWITCHES for value in (1, 0, "yes", "", [], 1.0)]
    + [(name, value) for name in PATHS for value in (3, 2.5, True, [], {}, ("a",))]
)


def refused(world, verb, **changed):
    """Return what a verb says to a call that is changed; nothing may have been written."""
    before = faulty.listing(world)
    with pytest.raises(errors.SkymillError) as caught:
        getattr(sm, verb)(**{**calls(world)[verb], **changed}).run(progress=False)
    assert faulty.listing(world) == before
    said = str(caught.value)
    assert len(said) > 20
    return said


@pytest.mark.parametrize("verb", VERBS)
def test_arguments_of_the_wrong_kind(world, verb):
    """Every parameter of every verb, with values that it cannot take."""
    parameters = inspect.signature(getattr(sm, verb)).parameters
    cases = [(name, value) for name in parameters for value in NEVER.values()]
    cases += [(name, value) for name, value in WRONG if name in parameters]
    # Any number is a seed of a sky, and one mask or cut for each of several predictions may be None.
    fine = {
        ("simulate", "seed"): (-(2**80),),
        ("evaluate", "mask"): ([None],),
        ("evaluate", "low_cut"): ([None],),
        ("smooth", "out"): (("a",),),
    }
    cases = [(name, value) for name, value in cases if value not in fine.get((verb, name), ())]
    before = faulty.listing(world)
    odd = []
    for name, value in cases:
        try:
            getattr(sm, verb)(**{**calls(world)[verb], name: value})
        except errors.SkymillError as error:
            said = str(error)
            if "came" not in said or not re.search("expected|give|needs|Known|must|from|has|leave", said):
                odd.append((name, value, said))
        else:
            odd.append((name, value, "taken"))
    assert odd == []
    assert faulty.listing(world) == before
    assert len(cases) >= 25


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_or_missing_parameter_is_told_by_python(world, verb):
    with pytest.raises(TypeError, match="no_such_parameter"):
        getattr(sm, verb)(**calls(world)[verb], no_such_parameter=1)
    with pytest.raises(TypeError, match="missing"):
        getattr(sm, verb)()


# ---- stores --------------------------------------------------------------------------------------------------------


def other_version(sky):
    known = json.loads(Path(sky, "zarr.json").read_text())
    known["attributes"]["skymill"]["format_version"] = 99
    Path(sky, "zarr.json").write_text(json.dumps(known))


def no_attributes(sky):
    known = json.loads(Path(sky, "zarr.json").read_text())
    known["attributes"] = {}
    Path(sky, "zarr.json").write_text(json.dumps(known))


def no_metadata(sky):
    Path(sky, "zarr.json").unlink()


def truncated_metadata(sky):
    file = Path(sky, "zarr.json")
    file.write_text(file.read_text()[:100])


def gone(sky):
    shutil.rmtree(sky)


def empty(sky):
    for name in list(stores.infos(sky)):
        stores.delete_map(sky, name)


STORES = {
    other_version: "has format version 99; this skymill reads version 1. Use the skymill that wrote it",
    no_attributes: "is a Zarr group but no sky store|holds something else",
    no_metadata: "no sky store at .*Check the path|holds something else",
    truncated_metadata: "the metadata of .* cannot be read .* is damaged. Bring zarr.json back",
    gone: "no sky store at .*Check the path, or make the store with",
    empty: "is not in the store .*Known: none|no map came; name some",
}


@pytest.mark.parametrize("harm", STORES, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in MAKERS])
def test_a_store_that_is_none(world, tmp_path, verb, harm):
    sky = str(tmp_path / "sky.zarr")
    shutil.copytree(world / "sky.zarr", sky)
    harm(sky)
    before = faulty.listing(tmp_path)
    with pytest.raises(errors.SkymillError, match=STORES[harm]):
        getattr(sm, verb)(**{**calls(world)[verb], "store": sky}).run(progress=False)
    assert faulty.listing(tmp_path) == before


@pytest.mark.parametrize("harm", [other_version, truncated_metadata], ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("verb", [*MAKERS, "degrade", "hand_down"])
def test_a_target_that_is_none(world, tmp_path, verb, harm):
    sky = str(tmp_path / "sky.zarr")
    shutil.copytree(world / "sky.zarr", sky)
    harm(sky)
    before = faulty.listing(tmp_path)
    name = "store" if verb in MAKERS else "out"
    with pytest.raises(errors.FormatError, match=STORES[harm]):
        getattr(sm, verb)(**{**calls(world)[verb], name: sky}).run(progress=False)
    assert faulty.listing(tmp_path) == before


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("map.fits", "is a file; a sky store is a folder"),
        ("map.fits/below.zarr", "lies below .*, which is a file"),
        (".", "is a folder that holds something else"),
        ("http://somewhere/sky.zarr", "has the scheme 'http'; .*Known: az, file, gs, s3"),
        ("", "`store` is empty"),
    ],
)
@pytest.mark.parametrize("verb", MAKERS)
def test_a_place_where_no_store_can_be(world, verb, where, words):
    place = where if "://" in where or not where else str(world / where)
    before = faulty.listing(world)
    with pytest.raises(errors.InputError, match=words):
        getattr(sm, verb)(**{**calls(world)[verb], "store": place}).run(progress=False)
    assert faulty.listing(world) == before


# ---- maps ----------------------------------------------------------------------------------------------------------

MISSING = [
    ("predict", {"inputs": {"i160": "i16O"}}),
    ("residual", {"prediction": "pred_85um"}),
    ("residual", {"target": "i85Oum"}),
    ("hand_down", {"names": ["i250", "i25O"]}),
    ("ratio", {"numerator": "i85Oum"}),
    ("ratio", {"denominator": "i138um"}),
    ("evaluate", {"prediction": "pred_85um"}),
    ("evaluate", {"target": "i85Oum"}),
    ("correlate", {"maps": ["i160", "i16O"]}),
    ("correlate", {"mask": "mask"}),
    ("correlate", {"divide_by": "i85O"}),
    ("degrade", {"maps": ["i16O"]}),
    ("export", {"names": ["i16O"]}),
    ("prepare", {"recipe": {**CONVERT, "input": "i85Oum"}}),
    ("train", {"target": "i85Oum"}),
    ("train", {"inputs": {"i160": "i16O"}}),
]


@pytest.mark.parametrize(("verb", "changed"), MISSING)
def test_a_map_that_is_missing_is_named_with_those_there(world, verb, changed):
    said = refused(world, verb, **changed)
    assert "is not in the store" in said
    assert "i160" in said


@pytest.mark.parametrize(
    ("verb", "changed", "words"),
    [
        ("simulate", {"kind": "gass"}, "did you mean 'gas'"),
        ("simulate", {"kind": "gas", "options": {"sigma_t": 1.0}}, "sigma_temperature"),
        ("simulate", {"nside": 3}, "power of two"),
        ("simulate", {"footprint": "half"}, "Known: full, surveys"),
        ("simulate", {"frame": "equatorial"}, "Known: ecliptic, galactic, icrs"),
        ("simulate", {"maps": ["i161"]}, "did you mean 'i160'"),
        ("simulate", {"maps": []}, "no map was asked for; known are i160"),
        ("simulate", {"tile_nside": 64}, "tile_nside"),
        ("simulate", {"noise_850um": -1.0}, "at least 0"),
        ("simulate", {"threads": 0}, "at least one thread"),
        ("simulate", {"memory": "lots"}, "such as"),
        ("simulate", {"memory": "-1GB"}, "positive amount"),
        ("ingest", {"files": {}}, "must be a mapping"),
        ("ingest", {"frame": "supergalactic", "override": ["frame"]}, "galactic, icrs"),
        ("ingest", {"frame": "icrs"}, "Leave `frame` out"),
        ("ingest", {"unit": "furlong"}, "Known"),
        ("ingest", {"unit": "K_CMB"}, "prepare converts units"),
        ("ingest", {"ordering": "spiral"}, "nested"),
        ("ingest", {"ordering": "ring"}, "ordering"),
        ("ingest", {"nside": 16}, "NSIDE = 8"),
        ("ingest", {"override": ["nside"]}, "override"),
        ("ingest", {"frame": {"nobody": "icrs"}}, "not in `files`"),
        ("ingest", {"beam_fwhm_arcmin": -5.0}, "positive FWHM"),
        ("ingest", {"tile_nside": 64}, "tile_nside"),
        ("prepare", {"recipe": []}, "recipe"),
        ("prepare", {"recipe": {**CONVERT, "steps": [{"step": "scal", "factor": 2.0}]}}, "did you mean 'scale'|scale"),
        ("prepare", {"recipe": {**CONVERT, "steps": [{"step": "scale", "factor": 1.0}]}}, "changed? nothing|idle|1"),
        ("prepare", {"recipe": {**CONVERT, "output": "i850um"}}, "i850um"),
        ("train", {"spec": "dust-85um"}, "did you mean 'dust-850um'"),
        ("train", {"split": "halves"}, "blocks"),
        ("train", {"test_size": 1.5}, "between 0 and 1"),
        ("train", {"validation_size": 0.0}, "between 0 and 1"),
        ("train", {"max_pixels": 0}, "positive number"),
        ("train", {"seed": -1}, "not negative"),
        ("train", {"split": "blocks", "block_nside": 3}, "power of two"),
        ("train", {"settings": {"max_epoch": 1}}, "did you mean 'max_epochs'"),
        ("train", {"settings": {"learning_rate": -1.0}}, "above 0"),
        ("train", {"where": "c > 3"}, "map 'c' is not in the store"),
        ("predict", {"models": []}, "at least one trained model"),
        ("predict", {"batch": 0}, "batch"),
        ("predict", {"inputs": {"i170": "i160"}}, "they read i160"),
        ("predict", {"tile_nside": 2}, "leave it out"),
        ("residual", {"mask_above": 0.0}, "positive relative error"),
        ("residual", {"mask_above": -0.2}, "positive relative error"),
        ("hand_down", {"names": []}, "give the maps"),
        ("ratio", {"denominator": "i850um"}, "two maps of different bands"),
        ("ratio", {"temperature": -3.0}, "positive temperature"),
        ("ratio", {"wavelengths_um": "nominl"}, "nominal"),
        ("ratio", {"prefix": "1-"}, "name of a map"),
        ("evaluate", {"limit": 0.0}, "positive relative error"),
        ("evaluate", {"groups": 0}, "at least 1"),
        ("evaluate", {"fine_target": "i160"}, "fine_store"),
        ("correlate", {"maps": ["i160"]}, "at least two maps"),
        ("correlate", {"maps": []}, "at least two maps"),
        ("correlate", {"max_pixels": 1}, "at least"),
        ("degrade", {"nside": 8}, "coarser"),
        ("degrade", {"nside": 16}, "coarse|8"),
        ("degrade", {"nside": 3}, "power of two"),
        ("degrade", {"policy": "most"}, "policy"),
        ("degrade", {"policy": 1.5}, "policy"),
        ("degrade", {"maps": []}, "no map came"),
        ("export", {"names": []}, "names|maps|map"),
        ("export", {"ordering": "spiral"}, "nested"),
        ("export", {"blank": "zero"}, "unseen"),
        ("export", {"path": "/no/such/folder/x.fits"}, "existing folder"),
    ],
)
def test_values_that_make_no_sense(world, verb, changed, words):
    assert re.search(words, refused(world, verb, **changed))


@pytest.fixture
def copy(world, tmp_path):
    """A copy of the sky and a model of it, to be spoilt."""
    shutil.copytree(world / "sky.zarr", tmp_path / "sky.zarr")
    shutil.copytree(world / "model-850um", tmp_path / "model")
    return tmp_path


def test_units_that_disagree(copy):
    sky = str(copy / "sky.zarr")
    stores.create_maps(sky, [MapInfo("kelvin", "temperature", "K_CMB")])
    with pytest.raises(errors.UnitError, match=r"in K_CMB.*in\s+MJy/sr.*Convert it with skymill.prepare"):
        sm.predict(copy / "model", sky, inputs={"i160": "kelvin"}, overwrite=True)
    with pytest.raises(errors.UnitError, match=r"K_CMB.*prepare"):
        sm.residual(sky, "pred_850um", "kelvin")
    with pytest.raises(errors.UnitError):
        sm.ratio(sky, "kelvin", "i1380um")
    with pytest.raises(errors.UnitError):
        sm.evaluate(sky, "pred_850um", "kelvin", copy / "report")


def test_stores_that_do_not_fit_together(copy):
    sky, other = str(copy / "sky.zarr"), str(copy / "other.zarr")
    stores.create(other, 16, frame="icrs")
    stores.create(str(copy / "same.zarr"), 8, frame="icrs")
    with pytest.raises(errors.InputError, match=r"nside 16.*degrade"):
        sm.predict(copy / "model", sky, out=other)
    with pytest.raises(errors.InputError, match="in frame galactic"):
        sm.predict(copy / "model", sky, out=copy / "same.zarr")
    with pytest.raises(errors.InputError, match="same frame"):
        sm.hand_down(sky, other, "i160")
    with pytest.raises(errors.InputError, match="to a finer store"):
        sm.hand_down(sky, copy / "same.zarr", "i160")
    with pytest.raises(errors.SkymillError, match="nside"):
        sm.degrade(sky, other, 4).run(progress=False)


def test_models_that_are_none(copy):
    sky = str(copy / "sky.zarr")
    with pytest.raises(errors.SkymillError, match=r"no model|not a model"):
        sm.predict(copy / "nothing", sky)
    with pytest.raises(errors.FormatError, match="not a model"):
        sm.predict(sky, sky)
    with pytest.raises(errors.InputError, match="several models predict 850um"):
        sm.predict([copy / "model", copy / "model"], sky)
    for file in sorted(os.listdir(copy / "model")):
        kept = (copy / "model" / file).read_bytes()
        for content in (kept[: len(kept) // 2], b"", b"\xff\x00junk" * 20):
            (copy / "model" / file).write_bytes(content)
            with pytest.raises(errors.FormatError, match=r"train it again|give the directory"):
                sm.predict(copy / "model", sky)
        (copy / "model" / file).write_bytes(kept)


def test_a_model_of_another_band_is_another_run(copy):
    """The 850 um prediction is there; a model with other weights does not replace it unasked."""
    save_model(copy / "other", Model.untrained(dust_mlp("850um"), seed=4))
    with pytest.raises(errors.IdentityError, match=r"another run .*overwrite=True"):
        sm.predict(copy / "other", copy / "sky.zarr")


@pytest.mark.parametrize(
    ("value", "flag"),
    [(np.nan, "no_coverage"), (-1.0, "not_positive_input"), (0.0, "not_positive_input"), (np.inf, None)],
)
def test_values_that_no_network_can_use_become_nan_with_a_reason(copy, value, flag):
    sky = str(copy / "sky.zarr")
    shutil.rmtree(copy / "sky.zarr" / "ledger" / "i250")  # as of a map that came from elsewhere
    tile = stores.read_tile(sky, "i250", 3)
    tile[:10] = value
    stores.write_tile(sky, "i250", 3, tile)
    sm.predict(copy / "model", sky, overwrite=True).run(progress=False)
    assert np.isnan(stores.read_tile(sky, "pred_850um", 3)[:10]).all()
    flags = stores.read_tile(sky, "flag_850um", 3)[:10]
    assert (flags != 0).all()
    if flag:
        assert (flags & FLAGS[flag]).all()
    assert np.isfinite(stores.read_tile(sky, "pred_850um", 3)[10:]).all()


def test_a_map_without_any_value(copy):
    """Nothing comes of nothing, and the verbs that need values say so."""
    sky = str(copy / "sky.zarr")
    shutil.rmtree(copy / "sky.zarr" / "ledger" / "i250")
    for tile in range(12):
        stores.write_tile(sky, "i250", tile, np.full(64, np.nan, np.float32))
    report = sm.predict(copy / "model", sky, overwrite=True).run(progress=False)
    assert report.counts == {"unobserved": 12}
    assert np.isnan(sm.open(sky)["pred_850um"].values).all()
    with pytest.raises(errors.SkymillError):
        sm.train("dust-850um", sky, copy / "new").run(progress=False)
    with pytest.raises(errors.SkymillError, match=r"i250|no tile|no pixel"):
        sm.correlate(sky, ["i160", "i250"]).run(progress=False)
    assert not (copy / "new").exists()


@pytest.mark.parametrize("dtype", ["float64", "int16", "complex64", "bool", "x"])
def test_maps_of_other_kinds_of_numbers(dtype):
    with pytest.raises(errors.InputError, match="float32 or uint8"):
        MapInfo("other", "intensity", "MJy/sr", dtype=dtype)


def test_tiles_of_other_shapes_and_kinds(copy):
    for values in (np.ones(63, np.float32), np.ones(64, np.float64), np.ones((8, 8), np.float32)):
        with pytest.raises(errors.InputError, match="a tile of map 'i160' is float32 with shape"):
            stores.write_tile(copy / "sky.zarr", "i160", 0, values)
