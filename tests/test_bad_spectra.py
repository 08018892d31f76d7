"""Bad masks, bins, multipoles, pairs and spectra: one clear message, code 2, and nothing half-written."""

from __future__ import annotations

import re
import shutil

import faulty
import numpy as np
import pytest
import skymill as sm
from skymill.chunking import errors
from skymill.chunking import store as stores
from skymill.chunking.schema import MapInfo
from skymill.deploy.cli import main

NSIDE = 8


def put(where, name, values, **facts):
    """Write a map given as one number for all, or as an array."""
    info = MapInfo(name, name.split("_")[0], facts.pop("unit", "1"), **{"fill_value": 0, **facts})
    stores.create_maps(where, [info])
    tiling = stores.tiling_of(where)
    whole = np.broadcast_to(np.asarray(values, info.dtype), tiling.npix).reshape(tiling.n_tiles, tiling.tile_npix)
    for tile, part in enumerate(whole):
        stores.write_tile(where, name, tile, np.ascontiguousarray(part))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Skies that are all right, and masks that are not."""
    folder = tmp_path_factory.mktemp("world")
    sky = str(folder / "sky.zarr")
    sm.simulate("dust", sky, NSIDE, seed=1, maps=["i160", "i500", "cmb"]).run(progress=False)
    sm.simulate("dust", folder / "fine.zarr", 2 * NSIDE, seed=1, maps=["i160", "i500"]).run(progress=False)
    sm.simulate("dust", folder / "icrs.zarr", NSIDE, seed=1, maps=["i160"], frame="icrs").run(progress=False)
    half = np.arange(12 * NSIDE**2) < 6 * NSIDE**2
    put(sky, "weight_half", half)
    put(sky, "weight_other", ~half)
    put(sky, "weight_none", 0.0)
    put(sky, "weight_negative", np.where(half, 1.0, -1.0))
    put(sky, "weight_nan", np.where(np.arange(half.size) % 7 == 3, np.nan, 1.0))
    put(sky, "mask_all", 1, dtype="uint8")
    put(sky, "holes", np.where(half, 1.0, np.nan), unit="MJy/sr", fill_value=np.nan)
    put(str(folder / "fine.zarr"), "weight_fine", 1.0)
    (folder / "cl.txt").write_text("0 0\n1 0\n2 1\n3 1\n")
    (folder / "words.txt").write_text("ell cl\n0 none\n")
    (folder / "bins.csv").write_text("pair,ell_start,ell_stop,ell,cl\na x a,2,4,2.5,1\n")
    (folder / "gap.csv").write_text("pair,ell,cl\na x a,2,1\na x a,4,1\n")
    return folder


def calls(world):
    """Return of every verb a call that is all right."""
    sky = str(world / "sky.zarr")
    return {
        "spectra": {"store": sky, "pairs": [("i160", "i160"), ("i160", "i500")], "mask": "weight_half", "lmax": 16},
        "apodize": {"store": sky, "mask": "weight_half", "scale": 20.0, "out": "weight_new"},
        "smooth": {"store": sky, "maps": ["i160"], "fwhm": 20.0, "unit": "deg"},
        "resample": {"store": sky, "out_store": str(world / "new.zarr"), "nside": NSIDE // 2, "maps": ["i160"]},
        "synthesize": {"cl": [0.0, 0.0, 1.0, 1.0], "store": sky, "name": "new"},
    }


@pytest.mark.parametrize("verb", ["spectra", "apodize", "smooth", "resample", "synthesize"])
def test_these_calls_are_all_right(world, tmp_path, verb):
    """So that what the other tests refuse is refused for what they change."""
    shutil.copytree(world / "sky.zarr", tmp_path / "sky.zarr")
    changed = {"store": tmp_path / "sky.zarr"} | ({"out_store": tmp_path / "new.zarr"} if verb == "resample" else {})
    assert getattr(sm, verb)(**{**calls(world)[verb], **changed}).run(progress=False) is not None


FAULTS = [
    # Masks.
    ("spectra", {"mask": "weight_none"}, "leaves no pixel.*Give another mask"),
    ("spectra", {"mask": "mask_all"}, "leaves no pixel.*Give another mask"),
    ("spectra", {"mask": {"i160": "weight_half", "i500": "weight_other"}}, "leaves no pixel.*nowhere both"),
    ("spectra", {"mask": "weight_negative"}, "weight_negative.*holds -1.*from 0"),
    ("spectra", {"mask": "weight_nan"}, "weight_nan.*holds nan.*from 0"),
    ("spectra", {"mask": "weight_haf"}, "did you mean 'weight_half'"),
    ("spectra", {"mask": {"i16O": "weight_half"}}, "did you mean 'i160'"),
    ("spectra", {"pairs": [("holes", "holes")], "mask": None}, "has no value in 384 pixels.*Give a mask"),
    ("spectra", {"pairs": [("holes", "i160")], "mask": "weight_other"}, "has no value in 384 pixels.*'weight_other'"),
    ("apodize", {"mask": "weight_none"}, "uses no pixel"),
    ("apodize", {"mask": "mask_all"}, "uses no pixel.*the other way round"),
    ("apodize", {"mask": "weight_negative"}, "holds -1"),
    ("apodize", {"mask": "weight_nan"}, "holds nan"),
    ("apodize", {"scale": 0.1}, "deg wide"),
    ("apodize", {"scale": -1.0}, "an angle above 0"),
    ("apodize", {"kind": "C3"}, "C1"),
    ("apodize", {"unit": "furlong"}, "deg"),
    ("apodize", {"out": "weight_half"}, "over the mask"),
    ("smooth", {"mask": "weight_negative"}, "holds -1"),
    ("smooth", {"mask": "weight_nan"}, "holds nan"),
    # Multipoles and bins.
    ("spectra", {"lmax": 3 * NSIDE}, "3 nside - 1 = 23"),
    ("spectra", {"lmax": -1}, "from 0 to"),
    ("spectra", {"lmax_mask": 3 * NSIDE}, "`lmax_mask` 24 came.*3 nside - 1 = 23"),
    ("spectra", {"bins": []}, "bin|edges"),
    ("spectra", {"bins": 0}, "at least one multipole"),
    ("spectra", {"bins": 40}, "no bin of 40 multipoles fits"),
    ("spectra", {"bins": [2]}, "at least two edges"),
    ("spectra", {"bins": [2, 2, 10]}, "is empty"),
    ("spectra", {"bins": [10, 2]}, "is empty|increase"),
    ("spectra", {"bins": [(2, 10), (8, 12)]}, "without overlap"),
    ("spectra", {"bins": [(8, 12), (2, 8)]}, "increasing order"),
    ("spectra", {"bins": [(2, 20)]}, "multipoles up to 19, and lmax is 16"),
    ("spectra", {"bins": [(2, 4, 6)]}, "pairs"),
    ("spectra", {"window": True}, "without `bins`"),
    ("smooth", {"lmax": 3 * NSIDE, "method": "harmonic"}, "3 nside - 1"),
    ("synthesize", {"lmax": 3 * NSIDE, "cl": [1.0] * 40}, "3 nside - 1"),
    ("synthesize", {"lmax": 10}, "spectra end at ell 3"),
    # Pairs and stores.
    ("spectra", {"pairs": []}, "`pairs` is empty"),
    ("spectra", {"pairs": [("i160",)]}, "two names"),
    ("spectra", {"pairs": ["i160"]}, "two names|a pair|expected"),
    ("spectra", {"pairs": [("i160", "i50O")]}, "did you mean 'i500'"),
    ("spectra", {"other": "fine.zarr"}, "nside 8.*nside 16.*one nside.*degrade"),
    ("spectra", {"other": "icrs.zarr", "pairs": [("i160", "i160")]}, "in frame galactic.*icrs.*one frame"),
    ("spectra", {"other": "nowhere.zarr"}, "no sky store"),
    # Options.
    ("spectra", {"weights": "rings"}, "did you mean 'ring'"),
    ("spectra", {"errors": "nox"}, "did you mean 'knox'|knox"),
    ("spectra", {"remove": "dipol"}, "did you mean 'dipole'"),
    ("spectra", {"precision": "singel"}, "did you mean 'single'|single"),
    ("spectra", {"transpose": "clutser"}, "did you mean 'cluster'"),
    ("spectra", {"iterations": 0, "weights": "iterate"}, "1 or more"),
    ("spectra", {"beam": -3.0}, "beam|FWHM"),
    ("spectra", {"beam": "nowhere.txt"}, "nowhere.txt"),
    ("spectra", {"beam": {"i50O": 5.0}}, "did you mean 'i500'"),
    ("spectra", {"splits": {"i50O": ("i160", "i500")}}, "did you mean 'i500'"),
    ("spectra", {"splits": {"i160": ("cmb", "cmb")}}, "two maps, its halves"),
    ("spectra", {"fiducial": {("i160", "i160"): [1.0]}}, "monte-carlo"),
    ("spectra", {"errors": "monte-carlo", "bins": 4, "simulations": 1}, "two at least"),
    ("smooth", {"fwhm": None}, "fwhm"),
    ("smooth", {"fwhm": -1.0}, "fwhm"),
    ("smooth", {"from_fwhm": 4.0, "to_fwhm": 5.0}, "fwhm"),
    ("smooth", {"fwhm": None, "from_fwhm": 5.0, "to_fwhm": 4.0}, "5.*4|wider"),
    ("smooth", {"method": "lokal"}, "did you mean 'local'"),
    ("smooth", {"maps": ["i50O"]}, "did you mean 'i500'"),
    ("smooth", {"maps": ["mask_all"]}, "mask_all"),
    ("smooth", {"out": ["i160"]}, "i160"),
    ("smooth", {"mask": "weight_haf"}, "did you mean 'weight_half'"),
    ("smooth", {"out_store": "fine.zarr"}, "nside"),
    ("resample", {"nside": NSIDE}, "nside"),
    ("resample", {"nside": 3}, "power of two"),
    ("resample", {"nside": 2 * NSIDE, "out_store": "icrs.zarr"}, "nside"),
    ("resample", {"nside": 2 * NSIDE, "out_store": "cl.txt"}, "is a file; a sky store is a folder"),
    ("resample", {"nside": NSIDE // 2, "lmax": 3 * NSIDE // 2}, "3 nside - 1"),
    ("resample", {"maps": ["i16O"]}, "did you mean 'i160'"),
    ("resample", {"maps": ["mask_all"]}, "mask_all"),
    ("resample", {"mask": "weight_haf"}, "did you mean 'weight_half'"),
    ("resample", {"mask": "weight_nan"}, "holds nan"),
    ("resample", {"least_weight": 0.0}, "above 0"),
    ("resample", {"weights": "iterat"}, "ring|pixel"),
    ("smooth", {"out_store": "cl.txt", "method": "harmonic"}, "is a file; a sky store is a folder"),
    ("synthesize", {"cl": "bins.csv"}, "are in bins"),
    ("synthesize", {"cl": "gap.csv", "name": "a"}, "every multipole"),
    ("synthesize", {"cl": "fine.zarr"}, "cannot be read as a result of spectra"),
    ("synthesize", {"cl": []}, "from ell 0 on"),
    ("synthesize", {"cl": [1.0, np.nan]}, "ell 1"),
    ("synthesize", {"cl": [1.0, -1.0]}, "negative|-1"),
    ("synthesize", {"cl": "nowhere.txt"}, "cannot be read"),
    ("synthesize", {"cl": "words.txt"}, "not a table|no"),
    ("synthesize", {"nside": 2 * NSIDE}, "exists with nside 8"),
    ("synthesize", {"frame": "icrs"}, "exists with frame galactic"),
    ("synthesize", {"fwhm": -3.0}, "positive width"),
    ("synthesize", {"seed": -1}, "seed"),
    ("synthesize", {"name": ["a", "b"]}, "one spectrum"),
    (
        "synthesize",
        {"cl": {("a", "a"): [1.0], ("b", "b"): [1.0], ("a", "b"): [2.0]}, "name": ["a", "b"]},
        "correlat|no maps",
    ),
]
PLACES = ("other", "out_store", "cl", "beam")


@pytest.mark.parametrize(("verb", "changed", "words"), FAULTS)
def test_faults_of_the_whole_sphere(world, verb, changed, words):
    spelt = {
        name: str(world / value) if name in PLACES and isinstance(value, str) else value
        for name, value in changed.items()
    }
    before = faulty.listing(world)
    with pytest.raises(errors.SkymillError) as caught:
        getattr(sm, verb)(**{**calls(world)[verb], **spelt}).run(progress=False)
    said = str(caught.value)
    assert re.search(words, said), said
    assert len(said) > 20
    assert faulty.listing(world) == before


def test_a_mask_of_another_nside_is_not_found_here(world):
    """A mask is in the store of its map, so that it cannot have another nside; where it is, is said."""
    with pytest.raises(errors.MissingMapError, match=r"'weight_fine' is not in the store.*weight_half"):
        sm.spectra(**{**calls(world)["spectra"], "mask": "weight_fine"})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("spectra sky.zarr i160,i50O", "did you mean 'i500'"),
        ("spectra sky.zarr i160,i500 --lmax 24", "3 nside - 1 = 23"),
        ("spectra sky.zarr i160,i500 --mask weight_none", "leaves no pixel"),
        ("spectra sky.zarr i160,i500 --mask weight_negative", "holds -1"),
        ("spectra sky.zarr i160,i500 --mask weight_nan", "holds nan"),
        ("spectra sky.zarr i160,i500 --mask weight_fine", "is not in the store"),
        ("spectra sky.zarr i160,i500 --bins 2:10,8:12", "without overlap"),
        ("spectra sky.zarr i160,i500 --bins 2,2,10", "is empty"),
        ("spectra sky.zarr i160,i500 --bins ,", "bin|edges"),
        ("spectra sky.zarr i160,i160 --other icrs.zarr", "one frame"),
        ("spectra sky.zarr i160,i500 --other fine.zarr", "one nside"),
        ("spectra sky.zarr holes,holes", "Give a mask"),
        ("spectra sky.zarr i160,i500 --out-dir cl.txt", "cl.txt is a file"),
        ("spectra sky.zarr i160,i500 --out-dir cl.txt/below", "cl.txt is a file"),
        ("apodize sky.zarr mask_all 20", "the other way round"),
        ("apodize sky.zarr mask_al 20", "did you mean 'mask_all'"),
        ("smooth sky.zarr i160", "fwhm"),
        ("smooth sky.zarr i160 --from-fwhm 5 --to-fwhm 4", "5.*4|wider"),
        ("synthesize nowhere.txt new.zarr --nside 8", "cannot be read"),
        ("synthesize cl.txt new.zarr", "give the nside"),
        ("synthesize cl.txt new.zarr --nside 7", "power of two"),
        ("synthesize words.txt new.zarr --nside 8", "not a table|no"),
    ],
)
def test_command_lines_of_the_whole_sphere(world, capsys, monkeypatch, line, words):
    monkeypatch.chdir(world)
    before = faulty.listing(world)
    assert main(line.split()) == 2
    said = capsys.readouterr()
    assert re.search(words, said.err), said.err
    assert said.out == ""
    assert "error of skymill itself" not in said.err
    assert faulty.listing(world) == before
