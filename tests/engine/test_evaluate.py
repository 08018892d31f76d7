"""Evaluation against NumPy on whole arrays, the folder it leaves, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import pickle
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import skymill as sm
from skymill.chunking import store as stores
from skymill.chunking.errors import FrameError, InputError, MemoryLimitError, MissingMapError, UnitError
from skymill.chunking.schema import MapInfo
from skymill.engine import evaluation_pass
from skymill.engine.evaluate import evaluate
from skymill.engine.evaluation_pass import Inherited
from skymill.engine.figures_region import View
from skymill.engine.region_images import read_image, view_pixels

NSIDE, FINE = 16, 32
CODES = {1: "plane", 2: "cloud"}
PREDICTIONS, TARGETS = ["pred_850um", "pred_1380um"], ["i850um", "i1380um"]


def write(where, arrays, nside, tile_nside, frame="galactic"):
    stores.create(where, nside, frame=frame, tile_nside=tile_nside)
    tiling = stores.tiling_of(where)
    for name, values in arrays.items():
        if name == "survey":
            codes = {str(code): known for code, known in CODES.items()}
            entry = MapInfo(name, "code", "1", dtype="uint8", provenance={"codes": codes})
        elif values.dtype == np.uint8:
            entry = MapInfo(name, "code", "1", dtype="uint8")
        else:
            entry = MapInfo(name, "intensity", "K_CMB" if name == "kelvin" else "MJy/sr")
        stores.create_maps(where, [entry])
        for tile in range(tiling.n_tiles):
            stores.write_tile(where, name, tile, values[tiling.tile_slice(tile)])


def make_maps(nside, seed, scatter):
    rng = np.random.default_rng(seed)
    npix = 12 * nside**2
    target = 10 ** rng.normal(0.5, 0.4, npix)
    maps = {"i850um": target, "i1380um": target / rng.normal(4.2, 0.1, npix)}
    maps["pred_850um"] = target * (1 + rng.normal(0.002, scatter, npix))
    maps["pred_1380um"] = maps["i1380um"] * (1 + rng.normal(-0.003, 2 * scatter, npix))
    part = npix // 12
    maps["pred_850um"][:part] = np.nan  # base pixel 0 has no prediction at 850 um
    maps["i1380um"][5 * part : 5 * part + part // 2] = np.nan
    maps["pred_850um"][6 * part : 6 * part + 5] = np.inf
    return {name: values.astype(np.float32) for name, values in maps.items()}


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    where = tmp_path_factory.mktemp("evaluate") / "sky.zarr"
    arrays = make_maps(NSIDE, 1, 0.04)
    npix = 12 * NSIDE**2
    arrays["survey"] = np.repeat(np.array([0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 7], np.uint8), npix // 12)
    arrays["mask_850um"] = (np.random.default_rng(3).random(npix) < 0.05).astype(np.uint8)
    arrays["kelvin"] = arrays["i850um"]
    arrays["nothing"] = np.full(npix, np.nan, np.float32)
    write(where, arrays, NSIDE, 2)
    return where, arrays


@pytest.fixture(scope="module")
def fine(tmp_path_factory):
    where = tmp_path_factory.mktemp("evaluate") / "fine.zarr"
    arrays = make_maps(FINE, 2, 0.03)
    write(where, arrays, FINE, 4)
    return where, arrays


@pytest.fixture(scope="module")
def found(sky, fine, tmp_path_factory):
    plan = evaluate(
        sky[0],
        PREDICTIONS,
        TARGETS,
        tmp_path_factory.mktemp("evaluate") / "report",
        threads=3,
        mask=["mask_850um", None],
        low_cut=[1.0, None],
        fine_store=fine[0],
        fine_target=TARGETS,
        regions=[("North <1>", 45.0, 40.0, 30.0)],
        accept={"850um": {"sigma": 0.05, "r_squared_log": 0.999999}, "1380um": {"fine_sigma_ratio": 1.5}},
        title="A < B & C",
    )
    return plan.run(progress=False)


def relative_errors(arrays, label, low_cut=-math.inf, mask=None, chosen=True):
    prediction, target = arrays[f"pred_{label}"].astype(float), arrays[f"i{label}"].astype(float)
    used = np.isfinite(prediction) & np.isfinite(target) & (target >= low_cut) & chosen
    if mask is not None:
        used &= mask == 0
    return (prediction[used] - target[used]) / target[used]


def assert_same(numbers, errors):
    assert numbers["pixels"] == errors.size
    np.testing.assert_allclose(numbers["mean"], errors.mean(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(numbers["sigma"], errors.std(ddof=1), rtol=1e-9)
    assert numbers["minimum"] == errors.min()
    low, high = np.quantile(errors, [0.025, 0.975])
    gap = np.diff(np.sort(errors)[[0, 1, -2, -1]]).max()  # few pixels: quantiles fall between values
    assert abs(numbers["half_width_95"] - (high - low) / 2) <= numbers["quantile_bound"] + gap


def test_numbers_equal_numpy_in_all_and_by_survey(sky, found):
    arrays = sky[1]
    first, second = found.numbers["pairs"]["850um"], found.numbers["pairs"]["1380um"]
    assert_same(first["total"], relative_errors(arrays, "850um", 1.0, arrays["mask_850um"]))
    assert_same(second["total"], relative_errors(arrays, "1380um"))
    names = {"no survey": 0, "plane": 1, "cloud": 2, "survey 7": 7}
    assert list(second["surveys"]) == list(names)
    assert list(first["surveys"]) == ["plane", "cloud", "survey 7"]  # nothing was predicted where there is no survey
    for name, code in names.items():
        assert_same(second["surveys"][name], relative_errors(arrays, "1380um", chosen=arrays["survey"] == code))
    assert sum(row["pixels"] for row in second["by_brightness"]) == second["total"]["pixels"]
    assert len(second["by_brightness"]) == 10
    assert found.total() is first["total"]
    with pytest.raises(InputError, match="850um"):
        found.total("850")


def test_masked_fraction_counts_pixels_with_both(sky, found):
    arrays = sky[1]
    both = np.isfinite(arrays["pred_850um"]) & np.isfinite(arrays["i850um"])
    total = found.total("850um")
    assert total["n_both"] == both.sum()
    assert total["masked_fraction"] == arrays["mask_850um"][both].mean()
    assert total["n_cut"] == ((arrays["i850um"] < 1) & both & (arrays["mask_850um"] == 0)).sum()


def test_ratio_equals_numpy(sky, found):
    arrays = sky[1]
    for kind, prefix in (("target", "i"), ("prediction", "pred_")):
        above, below = (arrays[f"{prefix}{label}"].astype(float) for label in ("850um", "1380um"))
        used = np.isfinite(above) & np.isfinite(below) & (arrays["mask_850um"] == 0) & (above > 0) & (below > 0)
        numbers = found.numbers["ratio"][kind]
        for part, chosen in ((numbers["total"], True), (numbers["surveys"]["cloud"], arrays["survey"] == 2)):
            ratio = (above / below)[used & chosen]
            assert part["pixels"] == ratio.size
            np.testing.assert_allclose([part["mean"], part["sigma"]], [ratio.mean(), ratio.std(ddof=1)], rtol=1e-9)
    fit = found.numbers["ratio"]["target"]["total"]["gaussian"][0]
    assert abs(fit["centre"] - 4.2) < 0.02
    assert abs(fit["sigma"] - 0.1) < 0.015


def test_fine_numbers_inherit_surveys_masks_and_cuts(sky, fine, found):
    arrays, codes = fine[1], np.repeat(sky[1]["survey"], 4)
    mask = np.repeat(sky[1]["mask_850um"], 4)
    numbers = found.numbers["fine"]["850um"]
    assert_same(numbers["total"], relative_errors(arrays, "850um", 1.0, mask))
    assert_same(numbers["surveys"]["cloud"], relative_errors(arrays, "850um", 1.0, mask, codes == 2))
    assert {"prediction, fine", "target, fine"} <= set(found.numbers["ratio"])


def test_limits_are_checked(found):
    checks = {(c["label"], c["number"]): c for c in found.numbers["checks"]}
    assert checks["850um", "sigma"]["passed"] is True
    assert checks["850um", "r_squared_log"]["passed"] is False
    fine_sigma, sigma = found.numbers["fine"]["1380um"]["total"]["sigma"], found.total("1380um")["sigma"]
    assert checks["1380um", "fine_sigma_ratio"]["value"] == fine_sigma / sigma
    assert found.passed is False
    assert "FAIL: 850um r_squared_log" in str(found)


class Links(HTMLParser):
    """Collects what a page refers to, and checks that tags close."""

    def __init__(self):
        super().__init__()
        self.open, self.images, self.others, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        if tag == "img":
            self.images.append(unquote(known["src"]))
            assert known["alt"]
        elif tag not in ("meta", "br"):
            self.open.append(tag)
        self.others += [v for k, v in attrs if k in ("href", "src") and tag != "img"]
        assert tag not in ("script", "link", "iframe")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(found):
    from matplotlib.image import imread

    page = Links()
    text = Path(found.directory, "index.html").read_text()
    page.feed(text)
    assert page.open == []
    assert "A < B & C" in page.text
    assert "North <1>" in page.text
    assert all(link.startswith("#") for link in page.others)
    assert "url(" not in text
    assert "http" not in text
    assert set(page.images) == set(found.numbers["figures"])
    expected = {f"{kind}_{label}.png" for label in ("850um", "1380um") for kind in (
        "density", "relative_error", "relative_error_fine", "surveys_error", "surveys_density", "region_north_1"
    )}  # fmt: skip
    assert set(page.images) == expected | {"ratio.png"}
    for name in page.images:
        image = imread(os.path.join(found.directory, name))
        assert min(image.shape[:2]) >= 300
        assert image[..., :3].std() > 0.02
    for word in ("plane", "cloud", "pass", "fail"):
        assert word in page.text
    assert not [name for name in os.listdir(found.directory) if name.endswith(".partial")]


def test_json_holds_the_numbers(found):
    with open(os.path.join(found.directory, "report.json")) as file:
        written = json.load(file)
    assert written["pairs"]["850um"]["total"]["sigma"] == found.total()["sigma"]
    assert written["figures"] == found.numbers["figures"]
    assert (written["nside"], written["fine_nside"]) == (NSIDE, FINE)
    assert written == json.loads(found.to_json())


def test_numbers_do_not_depend_on_threads_or_blocks(sky, found, tmp_path, monkeypatch):
    options = {"mask": ["mask_850um", None], "low_cut": [1.0, None]}
    one = evaluate(sky[0], PREDICTIONS, TARGETS, tmp_path / "1", threads=1, **options).run(progress=False)
    assert one.numbers["pairs"] == found.numbers["pairs"]
    monkeypatch.setattr(evaluation_pass, "BLOCK", 16)
    blocks = evaluate(sky[0], "pred_850um", "i850um", tmp_path / "b", mask="mask_850um", low_cut=1.0)
    mine, theirs = blocks.run(progress=False).total(), one.total()
    assert all(mine[k] == theirs[k] for k in ("pixels", "median", "half_width_95", "n_above"))
    np.testing.assert_allclose(mine["sigma"], theirs["sigma"], rtol=1e-12)


def test_one_band_without_surveys(sky, tmp_path):
    found = evaluate(sky[0], "pred_850um", "i850um", tmp_path, by=None, limit=0.01, groups=4).run(progress=False)
    pair = found.numbers["pairs"]["850um"]
    assert pair["surveys"] == {}
    assert found.numbers["ratio"] == {}
    assert len(pair["by_brightness"]) == 4
    errors = relative_errors(sky[1], "850um")
    assert pair["total"]["n_above"] == (np.abs(errors) > 0.01).sum()
    assert found.passed is None
    assert set(found.numbers["figures"]) == {"density_850um.png", "relative_error_850um.png"}


def test_names_of_surveys_can_be_given(sky, tmp_path):
    found = evaluate(sky[0], "pred_850um", "i850um", tmp_path, names={7: "seven"}).run(progress=False)
    assert set(found.numbers["pairs"]["850um"]["surveys"]) == {"survey 1", "survey 2", "seven"}


def test_what_travels_between_processes_comes_back_whole(sky):
    where, arrays = sky
    tiling = stores.tiling_of(where)
    pair = evaluation_pass.Pair("850um", "pred_850um", "i850um", "mask_850um")
    measure = evaluation_pass.Measure((pair,), (), "survey", 0.2, tiling, "galactic")
    assert len(pickle.dumps(measure)) < 2000
    inputs = {name: arrays[name][tiling.tile_slice(8)] for name in measure.reads()}
    gathered = measure(8, inputs)
    travelled = pickle.loads(pickle.dumps(gathered))
    twice = gathered.merge(travelled).pairs["850um"][1]
    once = gathered.pairs["850um"][1]
    assert twice.n_both == 2 * once.n_both > 0
    np.testing.assert_array_equal(twice.errors.counts, 2 * once.errors.counts)
    np.testing.assert_array_equal(twice.joint.counts, 2 * once.joint.counts)


def test_nothing_happens_before_run(sky, tmp_path):
    plan = evaluate(sky[0], "pred_850um", "i850um", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(plan.todo) == 44  # a base pixel of four tiles holds no prediction
    assert "report" in str(plan)
    small = evaluate(sky[0], "pred_850um", "i850um", tmp_path / "out", threads=1, memory="260 MB")
    with pytest.raises(MemoryLimitError, match="memory"):
        small.run(progress=False)
    assert not (tmp_path / "out").exists()


def test_regions_show_the_right_sky(sky):
    where, arrays = sky
    tiling = stores.tiling_of(where)
    pixels = view_pixels(tiling, View("x", 280.0, -33.0, 20.0, "galactic"))
    np.testing.assert_array_equal(read_image(str(where), "i850um", pixels), arrays["i850um"][pixels])
    lon, lat = tiling.lonlat(pixels.ravel())
    lon, lat = lon.reshape(pixels.shape), lat.reshape(pixels.shape)
    middle = pixels.shape[0] // 2
    assert abs(lon[middle, middle] - 280) < 4
    assert abs(lat[middle, middle] + 33) < 4
    assert lon[middle, 0] > lon[middle, -1]  # east is left
    assert lat[0, middle] < lat[-1, middle]  # south is row 0


def test_inherited_values_are_those_of_the_parents(sky):
    where, arrays = sky
    for start, stop in ((0, 64), (5, 7), (100, 357)):
        found = Inherited(str(where), 4).read("survey", start, stop)
        np.testing.assert_array_equal(found, arrays["survey"][np.arange(start, stop) // 16])


@pytest.mark.parametrize(
    ("prediction", "target", "options", "error", "words"),
    [
        ("pred_850", "i850um", {}, MissingMapError, "pred_850um"),
        ("pred_850um", "i850", {}, MissingMapError, "i850um"),
        ("pred_850um", "kelvin", {}, UnitError, "K_CMB"),
        (PREDICTIONS, "i850um", {}, InputError, "one target for each"),
        ([], [], {}, InputError, "empty"),
        (["pred_850um"] * 2, ["i850um"] * 2, {}, InputError, "once"),
        ("pred_850um", "i850um", {"by": "surveys"}, MissingMapError, "survey"),
        ("pred_850um", "i850um", {"by": "kelvin"}, InputError, "uint8"),
        ("pred_850um", "i850um", {"mask": "mask_1"}, MissingMapError, "mask_850um"),
        ("pred_850um", "i850um", {"mask": ["mask_850um"] * 2}, InputError, "2 values for 1"),
        ("pred_850um", "i850um", {"limit": 0}, InputError, "positive"),
        ("pred_850um", "i850um", {"groups": 0}, InputError, "at least 1"),
        ("pred_850um", "i850um", {"accept": {"sigmas": 0.1}}, InputError, "did you mean 'sigma'"),
        ("pred_850um", "i850um", {"accept": {"850": {"sigma": 0.1}}}, InputError, "850um"),
        ("pred_850um", "i850um", {"accept": {"sigma": "low"}}, InputError, "number"),
        ("pred_850um", "i850um", {"accept": {"fine_sigma": 0.1}}, InputError, "fine_target"),
        ("pred_850um", "i850um", {"fine_target": "i850um"}, InputError, "without `fine_store`"),
        ("pred_850um", "i850um", {"regions": [("x", 1, 2)]}, InputError, "longitude"),
        ("pred_850um", "i850um", {"regions": [("x", 1, 95, 3)]}, InputError, "latitudes"),
        ("pred_850um", "i850um", {"regions": [("x", 1, 5, 0)]}, InputError, "widths"),
    ],
)
def test_bad_input_is_refused_before_the_run(sky, tmp_path, prediction, target, options, error, words):
    with pytest.raises(error, match=words):
        evaluate(sky[0], prediction, target, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_fine_stores_that_do_not_fit_are_refused(sky, fine, tmp_path):
    with pytest.raises(InputError, match="finer"):
        evaluate(fine[0], "pred_850um", "i850um", tmp_path, fine_store=sky[0])
    with pytest.raises(InputError, match="2 maps for 1"):
        evaluate(sky[0], "pred_850um", "i850um", tmp_path, fine_store=fine[0], fine_prediction=PREDICTIONS)
    with pytest.raises(MissingMapError, match="pred_850um"):
        evaluate(sky[0], "pred_850um", "i850um", tmp_path, fine_store=fine[0], fine_prediction="pred_85um")
    write(tmp_path / "other.zarr", {"pred_850um": fine[1]["pred_850um"]}, FINE, 4, frame="icrs")
    with pytest.raises(FrameError, match="icrs"):
        evaluate(sky[0], "pred_850um", "i850um", tmp_path, fine_store=tmp_path / "other.zarr")


def test_no_overlap_is_an_error_that_counts(sky, tmp_path):
    with pytest.raises(InputError, match="nothing is left to compare 'pred_850um' with 'nothing'"):
        evaluate(sky[0], "pred_850um", "nothing", tmp_path).run(progress=False)
    with pytest.raises(InputError, match=r"below `low_cut` 1e\+09"):
        evaluate(sky[0], "pred_850um", "i850um", tmp_path, low_cut=1e9).run(progress=False)


def test_a_folder_that_cannot_be_written_is_named(sky, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="out_dir"):
        evaluate(sky[0], "pred_850um", "i850um", tmp_path / "file").run(progress=False)


def test_public_name():
    assert sm.evaluate is evaluate


@pytest.mark.parametrize("area", ["b < -10", "survey in 1, 2", "|b| > 20 and survey == 1"])
def test_only_selected_pixels_count(sky, fine, tmp_path, area):
    where, arrays = sky
    found = evaluate(
        where, PREDICTIONS, TARGETS, tmp_path / "report", where=area, fine_store=fine[0], fine_target=TARGETS
    ).run(progress=False)
    for finer, (known, nside) in enumerate(((arrays, NSIDE), (fine[1], FINE))):
        grid = sm.Tiling(nside)
        b = grid.lonlat(np.arange(grid.npix))[1]
        survey = np.repeat(arrays["survey"], grid.npix // (12 * NSIDE**2))
        kept = {
            "b < -10": b < -10,
            "survey in 1, 2": np.isin(survey, (1, 2)),
            "|b| > 20 and survey == 1": (np.abs(b) > 20) & (survey == 1),
        }[area]
        error = (known["pred_850um"].astype(float) / known["i850um"] - 1)[kept]
        error = error[np.isfinite(error)]
        total = (found.numbers["fine"] if finer else found.numbers["pairs"])["850um"]["total"]
        assert total["pixels"] == error.size
        assert total["sigma"] == pytest.approx(error.std(ddof=1), rel=1e-6)
    assert found.numbers["pairs"]["850um"]["where"] == area
