"""The folder that a diagnosis leaves: its numbers against those of the verbs, its files, what cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import gasskies as sky
import healpy as hp
import numpy as np
import pytest
import skymill as sm
from skymill.chunking.errors import FormatError, InputError, MissingMapError
from skymill.engine.diagnose import APPROXIMATE_REGIONS

REGION = {"NGC": "ngc", "SGC": "sgc"}
CIRCLES = {"A": (80.0, -60.0, 20.0), "B": (150.0, 50.0, 15.0)}
ANGLE = np.random.default_rng(2).uniform(0, np.pi, sky.NPIX)


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    north = sky.latitudes() > 0
    kelvin = np.where(north, 0.5 * sky.patchy(1), 0.0)
    maps = sky.sky_maps(kelvin=kelvin, dust_to_gas=np.where(north, 0.0, 0.1 * sky.patchy(2)))
    p = 0.08 * (maps["i353"] - sky.OFFSETS["i353"]) * (1 + 0.1 * sky.patchy(7))
    maps |= {"q353": p * np.cos(2 * ANGLE), "u353": p * np.sin(2 * ANGLE)}
    maps["mask"] = (np.abs(sky.latitudes()) > 25).astype(np.uint8)
    return sky.put_sky(tmp_path_factory.mktemp("diagnosed") / "sky.zarr", maps)


@pytest.fixture(scope="module")
def fit():
    return sky.known_fit(("i353", "i857"), regions={"NGC": 1.0, "SGC": 1.0})


@pytest.fixture(scope="module")
def found(where, fit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    options = {"polarized": ["q353", "u353"], "third": "i100um", "regions": CIRCLES, "mask": "mask", "region": REGION}
    plan = sm.diagnose(where, fit, folder, expected={"i857": {"nhi": 0.0}}, bins=6, **options)
    assert not any(folder.iterdir())
    return plan.run()


@pytest.fixture(scope="module")
def numbers(where):
    """Diagnoses without their pictures, which are for the others; the plain one first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skymill.engine.diagnosis.Report.figure", lambda *_: None)
        for name in ("distribution_figure", "profiles_figure", "caps_figure"):
            patch.setattr(f"skymill.engine.diagnose_report.{name}", lambda *_, **__: None)
        for name in ("slopes_figure", "fingerprint_figure", "polarization_figure"):
            patch.setattr(f"skymill.engine.diagnose_causes.{name}", lambda *_, **__: None)
        patch.setattr("skymill.engine.diagnose_report._images", lambda *_: [])
        yield lambda folder, fit, **options: sm.diagnose(where, fit, folder, **options).run()


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.images, self.tables = [], 0

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        self.tables += tag == "table"


def folder_of(found):
    return Path(found.directory)


def test_the_folder_holds_what_the_page_shows(found):
    folder = folder_of(found)
    page = Links()
    page.feed((folder / "index.html").read_text())
    assert sorted(page.images) == sorted(found.numbers["figures"]) == sorted(p.name for p in folder.glob("*.png"))
    assert page.tables >= 6
    assert {"residual_i353.png", "temperature.png", "slopes.png", "fingerprints.png", "polarization.png"} <= set(
        page.images
    )
    assert json.loads((folder / "report.json").read_text()) == json.loads(found.to_json())


def test_one_region_and_defaults(where, tmp_path):
    found = sm.diagnose(where, sky.known_fit(("i857",)), tmp_path / "one", title="A < B").run()
    assert list(found.numbers["residuals"]["i857"]) == ["all", *APPROXIMATE_REGIONS]
    assert found.numbers["slopes"] is None
    assert found.numbers["polarization"] is None
    assert "A &lt; B" in (tmp_path / "one" / "index.html").read_text()


def test_without_patches_errors_are_those_of_pixels_and_called_so(where, fit, tmp_path):
    found = sm.diagnose(where, fit, tmp_path / "o", region=REGION, mask="mask", regions=CIRCLES, jackknife=None).run()
    alone = sm.slopes(where, fit=fit, region=REGION, mask="mask", jackknife=None).run()
    told = found.numbers["slopes"]
    assert told["coordinates"]["region"] == ["NGC", "SGC", "A", "B"]
    np.testing.assert_allclose(told["variables"]["error"]["values"][:2], alone["error"].values, rtol=1e-12)
    page = (tmp_path / "o" / "index.html").read_text()
    assert "of independent pixels, too small" in page
    assert "leaving out patches" not in page


def test_residuals_are_those_of_numpy(where, found):
    mask, b = sky.get(where, "mask") > 0, sky.latitudes()
    residual = sky.get(where, "i857") - sky.OFFSETS["i857"] - sky.emissivity("i857") * sky.get(where, "nhi")
    fraction = residual / (sky.emissivity("i857") * sky.get(where, "nhi"))
    for name, here in (("NGC", mask & (b > 0)), ("SGC", mask & (b < 0))):
        one = found.numbers["residuals"]["i857"][name]
        assert one["pixels"] == int(here.sum())
        assert one["mean"] == pytest.approx(residual[here].mean(), rel=1e-9)
        assert one["sigma"] == pytest.approx(residual[here].std(ddof=1), rel=1e-9)
        assert one["fraction_sigma"] == pytest.approx(fraction[here].std(ddof=1), rel=1e-9)
        assert one["fraction_median"] == pytest.approx(np.median(fraction[here]), abs=1e-3)
        edges = np.percentile(fraction[here], [15.8655, 84.1345])
        assert one["fraction_intervals"]["1"] == pytest.approx(edges.tolist(), abs=2e-3)
        assert one["f_sky"] == pytest.approx(here.mean(), rel=1e-9)


def test_circles_have_the_pixels_in_them(where, found):
    mask = sky.get(where, "mask") > 0
    for name, (lon, lat, radius) in CIRCLES.items():
        inside = hp.query_disc(sky.NSIDE, hp.ang2vec(lon, lat, lonlat=True), np.radians(radius), nest=True)
        assert found.numbers["residuals"]["i857"][name]["pixels"] == int(mask[inside].sum())
        assert found.numbers["circles"][name] == [lon, lat, radius]


def test_the_page_says_how_many_patches_errors_come_from(found):
    page = (folder_of(found) / "index.html").read_text()
    slopes = found.numbers["slopes"]
    numbers = (slopes["variables"][key]["values"] for key in ("pixels", "blocks"))
    for name, pixels, blocks in zip(slopes["coordinates"]["region"], *numbers, strict=True):
        assert f"<td>{name}</td><td>i353 -&gt; i857</td><td>{pixels:,}</td><td>{blocks}</td>" in page


def test_causes_by_region(found):
    slopes = found.numbers["slopes"]
    verdicts = dict(zip(slopes["coordinates"]["region"], slopes["variables"]["verdict"]["values"], strict=True))
    assert verdicts == {"NGC": "temperature", "SGC": "dust-to-gas", "A": "dust-to-gas", "B": "temperature"}


def test_numbers_are_those_of_the_verbs(where, fit, found, tmp_path):
    shared = {"fit": fit, "mask": "mask", "region": REGION}
    slopes = sm.slopes(where, third="i100um", **shared).run()
    mine = found.numbers["slopes"]["variables"]
    np.testing.assert_array_equal(np.array(mine["slope"]["values"])[:2], slopes["slope"])
    np.testing.assert_array_equal(np.array(mine["error"]["values"])[:2], slopes["error"])
    kelvin = sm.temperature(where, out_store=tmp_path / "kelvin.zarr", **shared).run()
    np.testing.assert_allclose(
        np.array(found.numbers["temperature"]["variables"]["sigma"]["values"])[:2], kelvin["sigma"], rtol=1e-12
    )
    tested = sm.polarization(where, polarized=["q353", "u353"], **shared).run()
    np.testing.assert_array_equal(found.numbers["polarization"]["variables"]["slope"]["values"], tested["slope"])
    profile = sm.profiles(where, "i857", "nhi", bins=6, **shared).run()
    np.testing.assert_array_equal(found.numbers["profiles"]["i857"]["variables"]["mean"]["values"], profile["mean"])


def test_the_table_has_what_is_expected(found):
    table = found.numbers["table"]
    rows = {(row["region"], row["quantity"]): row for row in table}
    assert rows["NGC", "slope of r(i353 -> i857); temperature"]["expected"] == pytest.approx(0.371, abs=1e-3)
    assert rows["SGC", "slope of residual against polarisation"]["expected"] == -1
    assert rows["NGC", "i857: slope against nhi"]["expected"] == 0
    assert rows["NGC", "i353: slope against nhi"]["expected"] is None
    assert "expected 0.371" in str(found)


def test_the_store_is_not_written_to(where, found):
    assert not [name for name in sm.open(where) if name.startswith(("temperature", "fit"))]


def test_the_same_numbers_for_any_number_of_threads(numbers, fit, tmp_path):
    results = [numbers(tmp_path / str(n), fit, region=REGION, regions={}, bins=3, threads=n).numbers for n in (1, 3)]
    assert json.dumps(results[0], sort_keys=True) == json.dumps(results[1], sort_keys=True)


@pytest.fixture(scope="module")
def plain(numbers, tmp_path_factory):
    fit = sky.known_fit(("i353", "i857"))
    return numbers(tmp_path_factory.mktemp("plain"), fit, regions={}, bins=3).to_json()


@pytest.mark.parametrize(
    "option",
    [
        {"targets": "i857"}, {"against": "i353"}, {"bins": 4}, {"temperature": "i353"}, {"third": "i100um"},
        {"scaling": "mbb"}, {"frequencies": {"i857": 900.0}}, {"mean_temperature": 21.0}, {"beta": 1.6},
        {"conservative_temperature": 22.0}, {"regions": CIRCLES}, {"jackknife": 8}, {"mask": "mask"},
        {"low": "i353", "high": "i857", "third": "i100um"}, {"polarized": ["q353", "u353"]},
        {"expected": {"i857": {"nhi": 0.1}}}, {"title": "another"},
        {"contaminants": {"cib": {"i353": 0.1, "i857": 0.5}}}, {"region": "b > 0"},
    ],
)  # fmt: skip
def test_every_option_changes_the_numbers(numbers, plain, tmp_path, option):
    base = {"regions": {}, "bins": 3, **({"scaling": "mbb"} if "beta" in option else {})}
    fit = sky.known_fit(("i353", "i857"))
    before = numbers(tmp_path / "one", fit, **base).to_json() if "beta" in option else plain
    assert numbers(tmp_path / "other", fit, **{**base, **option}).to_json() != before


def test_noise_of_polarisation_changes_the_numbers(numbers, fit, tmp_path, found):
    options = {"region": REGION, "mask": "mask", "polarized": ["q353", "u353"], "regions": {}, "intensity": "i353"}
    other = numbers(tmp_path / "o", fit, polarization_noise=0.01, **options)
    values = [each.numbers["polarization"]["variables"]["fraction"]["values"][0] for each in (found, other)]
    assert values[1] < values[0]


def test_pixels_that_the_fit_did_not_use_are_told(numbers, fit, tmp_path, caplog):
    known = fit.assign_attrs(mask="mask", where=json.dumps([[name, where] for name, where in REGION.items()]))
    numbers(tmp_path / "a", known, region=REGION, mask="mask", regions={}, bins=3)
    numbers(tmp_path / "b", fit, region=REGION, regions={}, bins=3)
    assert "the fit" not in caplog.text
    numbers(tmp_path / "c", known, region=REGION, regions={}, bins=3)
    assert "mask 'mask' in the fit, none here" in caplog.text
    numbers(tmp_path / "d", known, region={**REGION, "NGC": "b > 50"}, mask="mask", regions={}, bins=3)
    assert "another region in the fit than here" in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"targets": "i545"}, InputError, "i545"),
        ({"against": "dust"}, MissingMapError, "dust"),
        ({"regions": {"A": (0.0, 95.0, 3.0)}}, InputError, "galactic longitude"),
        ({"regions": {"A": (0.0, 5.0)}}, InputError, "galactic longitude"),
        ({"regions": {"NGC": (0.0, 50.0, 3.0)}}, InputError, "different names"),
        ({"temperature": "nhi"}, InputError, "no target 'nhi'"),
        ({"scaling": "none"}, InputError, "scaling"),
        ({"expected": {"i545": {"nhi": 1.0}}}, InputError, "i545"),
        ({"expected": {"i857": {"co": 1.0}}}, InputError, "co"),
        ({"region": "b > 0"}, InputError, "NGC, SGC"),
        ({"polarized": "p353"}, MissingMapError, "p353"),
        ({"jackknife": 5}, InputError, "power of two"),
        ({"intensity": "i353"}, InputError, "`intensity` 'i353' came without `polarized`"),
        ({"polarization_noise": 0.1}, InputError, "`polarization_noise` 0.1 came without `polarized`"),
        ({"frequencies": {"i875": 857.0}}, InputError, "`frequencies` names 'i875'; did you mean 'i857'"),
        ({"conservative_temperature": -1.0}, InputError, "conservative_temperature"),
    ],
)
def test_what_cannot_be_is_told(where, fit, tmp_path, options, error, words):
    with pytest.raises(error, match=words):
        sm.diagnose(where, fit, tmp_path / "report", **{"region": REGION, **options})


@pytest.mark.parametrize("option", [{"third": "i100um"}, {"contaminants": {"cib": {"i353": 0.1, "i857": 0.5}}}])
def test_options_of_slopes_that_are_not_measured_are_told(where, tmp_path, option):
    with pytest.raises(InputError, match=f"`{next(iter(option))}` came, and no slopes are measured"):
        sm.diagnose(where, sky.known_fit(("i857",)), tmp_path / "report", **option)


def test_a_region_within_one_patch_is_told(where, tmp_path):
    fit = sky.known_fit(("i353", "i857"))
    patch = sm.Cone(*hp.pix2ang(4, 5, nest=True, lonlat=True), 5.0)
    with pytest.raises(InputError, match="one patch of nside 4"):
        sm.diagnose(where, fit, tmp_path / "a", region=patch, regions={}).run()
    found = sm.diagnose(where, fit, tmp_path / "b", region=patch, regions={}, jackknife=16).run()
    assert found.numbers["slopes"]["coordinates"]["region"] == ["all"]


def test_the_plan_has_room_for_all_that_is_read(where, tmp_path):
    fit = sky.known_fit(("i353",))
    one, other = (
        sm.diagnose(where, fit, tmp_path, regions={}, against=against)
        for against in ("nhi", ["nhi", "i857", "i100um", "q353", "u353", "mask"])
    )
    wanted = sm.profiles(where, "i353", ["nhi", "i857", "i100um", "q353", "u353", "mask"], fit=fit)
    assert other.task_memory >= wanted.task_memory > one.task_memory


def test_what_is_told_to_do_without_an_offset_can_be_done(where, tmp_path):
    with pytest.raises(InputError, match=r"no offset.*fit with offset=True\.$"):
        sm.diagnose(where, sky.known_fit(offset=False), tmp_path / "report")


def test_a_fit_that_cannot_be_read_is_told(where, tmp_path):
    with pytest.raises(FormatError):
        sm.diagnose(where, tmp_path / "nothing", tmp_path / "report")
    with pytest.raises(InputError, match="no coefficients"):
        sm.diagnose(where, sky.known_fit().rename(coefficient="other"), tmp_path / "report")


def test_a_circle_without_pixels_is_no_error(numbers, fit, tmp_path):
    circle = {"plane": (30.0, 0.0, 5.0)}
    found = numbers(tmp_path / "o", fit, region=REGION, mask="mask", regions=circle, bins=3)
    assert found.numbers["residuals"]["i857"]["plane"]["pixels"] == 0
    assert json.loads(found.to_json())["residuals"]["i857"]["plane"]["mean"] is None


def test_a_diagnosis_is_a_value(found):
    assert replace(found, directory="elsewhere").numbers is found.numbers
