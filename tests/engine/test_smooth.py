"""Smoothing: against healpy, at the edges of what was observed, and the same whatever makes it."""

from __future__ import annotations

import healpy as hp
import numpy as np
import pytest
from skies import content
from skymill.chunking import store as stores
from skymill.chunking.errors import IdentityError, InputError
from skymill.chunking.tiling import Tiling
from skymill.engine.smooth import smooth
from skymill.engine.smooth_harmonic import harmonic_cost, natural_lmax
from skymill.engine.smooth_local import local_error
from skymill.engine.synthesize import synthesize
from skymill.engine.transform import BandTask
from spheres import NPIX, NSIDE, get, heights, holes, lognormal_maps, put

LMAX = 3 * NSIDE - 1
FWHM = 6.0  # degrees
DEGREES = {"unit": "deg", "method": "harmonic", "threads": 1}


def convolved(values, fwhm=FWHM, lmax=LMAX, **options):
    """Return a NESTED map smoothed by healpy, without ring weights and without iterations unless told otherwise."""
    ring = hp.reorder(values, n2r=True)
    alm = hp.map2alm(ring, lmax=lmax, **{"iter": 0, **options})
    return hp.reorder(hp.alm2map(hp.almxfl(alm, hp.gauss_beam(np.radians(fwhm), lmax)), NSIDE, lmax=lmax), r2n=True)


@pytest.fixture(scope="module")
def noise():
    return lognormal_maps()


@pytest.fixture
def sky(tmp_path, noise):
    return put(tmp_path / "sky.zarr", noise, beam_fwhm_arcmin=240.0)


# ---- against healpy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "allowed"), [("single", 3e-6), ("double", 1.5e-7)])
def test_as_healpy_smooths(sky, noise, precision, allowed):
    report = smooth(sky, ["a", "b"], FWHM, weights="pixel", precision=precision, **DEGREES).run(progress=False)
    assert report.counts == {"computed": 12}
    for name in "ab":
        wanted = convolved(noise[name].astype(float))
        np.testing.assert_allclose(get(sky, f"{name}_smooth"), wanted, rtol=0, atol=allowed * np.abs(wanted).max())
    wanted = hp.smoothing(noise["a"].astype(float), np.radians(FWHM), iter=0, nest=True)
    np.testing.assert_allclose(get(sky, "a_smooth"), wanted, rtol=0, atol=allowed * np.abs(wanted).max())


def test_ring_weights_and_iterations_are_those_of_healpy(sky, noise):
    smooth(sky, "a", FWHM, precision="double", **DEGREES).run(progress=False)
    wanted = convolved(noise["a"].astype(float), use_weights=True)
    # The two weigh rows differently where both are free to, so that they agree as far as either is right.
    assert np.abs(get(sky, "a_smooth") - wanted).std() < 5e-3 * wanted.std()
    smooth(sky, "a", FWHM, precision="double", weights="pixel", iterations=3, out="c", **DEGREES).run(progress=False)
    wanted = convolved(noise["a"].astype(float), iter=3)
    np.testing.assert_allclose(get(sky, "c"), wanted, atol=2e-7 * wanted.max())


def test_a_sky_of_known_harmonics_is_smoothed_rightly(tmp_path):
    sky, cl = str(tmp_path / "sky.zarr"), 1.0 / (1.0 + np.arange(2 * NSIDE)) ** 2
    for name, fwhm in (("g", None), ("wanted", 60 * FWHM)):
        synthesize(cl, sky, nside=NSIDE, name=name, fwhm=fwhm, precision="double").run(progress=False)
    smooth(sky, "g", FWHM, **DEGREES).run(progress=False)
    wanted = get(sky, "wanted")
    assert np.abs(get(sky, "g_smooth") - wanted).std() < 2e-4 * wanted.std()


def test_widths_from_and_to(sky):
    smooth(sky, "a", 3.0, out="three", **DEGREES).run(progress=False)
    smooth(sky, "a", from_fwhm=4.0, to_fwhm=5.0, out="five", **DEGREES).run(progress=False)
    smooth(sky, "a", to_fwhm=5.0, out="stored", **DEGREES).run(progress=False)  # the store says 240'
    smooth(sky, "a", to_fwhm=5.0, from_fwhm=0.0, out="pointlike", **DEGREES).run(progress=False)
    assert content(sky, "three").popitem()[1] in content(sky, "five").values()
    np.testing.assert_array_equal(get(sky, "five"), get(sky, "three"))
    np.testing.assert_array_equal(get(sky, "stored"), get(sky, "three"))
    assert get(sky, "pointlike").std() < 0.9 * get(sky, "five").std()
    beams = {name: stores.info(sky, name).beam_fwhm_arcmin for name in ("three", "five", "stored", "pointlike")}
    assert beams == {name: pytest.approx(300.0) for name in beams}
    assert stores.info(sky, "three").unit == "MJy/sr"


def test_units_of_the_width(sky):
    smooth(sky, "a", FWHM, out="deg", **DEGREES).run(progress=False)
    for unit, factor in (("arcmin", 60.0), ("arcsec", 3600.0), ("rad", np.pi / 180.0)):
        smooth(sky, "a", FWHM * factor, out=unit, **{**DEGREES, "unit": unit}).run(progress=False)
        np.testing.assert_allclose(get(sky, unit), get(sky, "deg"), rtol=1e-5)


def test_an_unknown_beam_stays_unknown(tmp_path, noise):
    sky = put(tmp_path / "sky.zarr", {"a": noise["a"]})
    smooth(sky, "a", FWHM, **DEGREES).run(progress=False)
    assert stores.info(sky, "a_smooth").beam_fwhm_arcmin is None
    with pytest.raises(InputError, match="does not say which beam"):
        smooth(sky, "a", to_fwhm=FWHM, **DEGREES)


# ---- pixels that are missing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("how", ["missing", "masked"])
def test_a_constant_stays_constant_to_the_edge(tmp_path, how, precision):
    constant, missing = np.full(NPIX, 3.1, np.float32), holes()
    if how == "missing":
        sky = put(tmp_path / "sky.zarr", {"a": np.where(missing, np.float32(np.nan), constant)})
        smooth(sky, "a", FWHM, precision=precision, **DEGREES).run(progress=False)
        expected = ~missing
    else:
        sky = put(tmp_path / "sky.zarr", {"a": constant, "mask_a": missing.astype(np.uint8)})
        smooth(sky, "a", FWHM, mask="mask_a", precision=precision, **DEGREES).run(progress=False)
        expected = np.isfinite(get(sky, "a_smooth"))
        assert (expected >= ~missing).all()
        assert 0 < (expected & missing).sum() < missing.sum()
    found = get(sky, "a_smooth")
    np.testing.assert_array_equal(np.isfinite(found), expected)
    assert np.abs(found[expected] / float(np.float32(3.1)) - 1).max() < 1e-6


def test_normalised_convolution(tmp_path, noise):
    missing = holes()
    weight = np.where(missing, 0.0, np.linspace(0.2, 1.0, NPIX)).astype(np.float32)
    values = noise["a"].copy()
    values[::97] = np.nan
    sky = put(tmp_path / "sky.zarr", {"a": values, "b": noise["b"], "weight_w": weight})
    options = {"mask": "weight_w", "weights": "pixel", "precision": "double", **DEGREES}
    smooth(sky, ["a", "b"], FWHM, least_weight=0.05, **options).run(progress=False)
    for name, kept in (("a", np.isfinite(values)), ("b", np.ones(NPIX, bool))):
        used = np.where(kept, weight, 0).astype(float)
        share = convolved(used)
        filled = np.where(kept, get(sky, name), 0.0)
        wanted = np.where(kept & (share >= 0.05), convolved(used * filled) / share, np.nan)
        np.testing.assert_allclose(get(sky, f"{name}_smooth"), wanted, rtol=2e-6)
    assert 0 < np.isfinite(get(sky, "b_smooth")).sum() < NPIX


def test_only_maps_with_holes_have_their_weights_smoothed(tmp_path, noise, monkeypatch):
    seen = []
    undisturbed = BandTask.work
    monkeypatch.setattr(BandTask, "work", lambda self, *rest: seen.append(self.fields) or undisturbed(self, *rest))
    values = noise["a"].copy()
    values[100] = np.nan
    sky = put(tmp_path / "sky.zarr", {"whole": noise["b"], "holed": values})
    smooth(sky, "whole", FWHM, **DEGREES).run(progress=False)
    assert {field.label for fields in seen for field in fields} == {"whole"}
    seen.clear()
    smooth(sky, ["whole", "holed"], FWHM, out=["w", "h"], **DEGREES).run(progress=False)
    assert {(field.label, field.present) for fields in seen for field in fields} == {
        ("whole", False),
        ("holed", False),
        ("holed", True),
    }
    np.testing.assert_array_equal(get(sky, "w"), get(sky, "whole_smooth"))
    assert np.isnan(get(sky, "h")).sum() == 1


def test_what_no_tile_holds_stays_without(tmp_path, noise):
    sky = put(tmp_path / "sky.zarr", {"a": np.where(heights() > 0, noise["a"], np.float32(np.nan))})
    plan = smooth(sky, "a", FWHM, **DEGREES)
    assert len(plan.todo) == 8
    assert plan.run(progress=False).counts["unobserved"] == 4
    assert len(stores.observed_tiles(sky, ["a_smooth"])) == len(plan.todo)


# ---- parameters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        {"fwhm": 7.0},
        {"unit": "rad", "fwhm": 1.0},
        {"lmax": 20},
        {"mask": "mask_m"},
        {"weights": "pixel"},
        {"iterations": 1},
        {"precision": "double"},
        {"method": "local"},
    ],
    ids=lambda option: next(iter(option)),
)
def test_every_parameter_changes_the_map(tmp_path, noise, option):
    sky = put(tmp_path / "sky.zarr", {"a": noise["a"], "mask_m": (heights() > 0.3).astype(np.uint8)})
    smooth(sky, "a", **{"fwhm": FWHM, **DEGREES}).run(progress=False)
    smooth(sky, "a", **{"fwhm": FWHM, "out": "other", **DEGREES, **option}).run(progress=False)
    assert (get(sky, "a_smooth") != get(sky, "other")).mean() > 0.2


@pytest.mark.parametrize("method", ["harmonic", "local"])
def test_the_least_weight_changes_where_there_is_a_value(tmp_path, method):
    grid = Tiling(NSIDE, 2)
    values = np.full(NPIX, np.nan, np.float32)
    values[grid.tile_slice(20)] = 1.0
    sky = put(tmp_path / "sky.zarr", {"a": values, "mask_m": (heights() > 0.0).astype(np.uint8)}, tile_nside=2)
    values[grid.tile_slice(20)][::3] = np.nan
    put(sky, {"b": values})
    counts = []
    for least in (0.001, 0.1, 0.4):
        options = {**DEGREES, "method": method, "least_weight": least, "overwrite": True}
        smooth(sky, ["a", "b"], FWHM, **options).run(progress=False)
        counts.append([int(np.isfinite(get(sky, f"{name}_smooth")).sum()) for name in "ab"])
    assert counts[0] == [256, 170]
    assert counts[0][1] >= counts[1][1] > counts[2][1]
    assert counts[1][0] > counts[2][0]


def test_another_store_with_other_tiles(sky, noise, tmp_path):
    smooth(sky, "a", FWHM, **DEGREES).run(progress=False)
    other = str(tmp_path / "other.zarr")
    stores.create(other, NSIDE, frame="galactic", tile_nside=2)
    smooth(sky, ["a", "b"], FWHM, out=["a", "c"], out_store=other, **DEGREES).run(progress=False)
    np.testing.assert_array_equal(get(other, "a"), get(sky, "a_smooth"))
    new = str(tmp_path / "new.zarr")
    smooth(sky, "a", FWHM, out_store=new, scratch=tmp_path / "space", **DEGREES).run(progress=False)
    assert stores.tiling_of(new) == stores.tiling_of(sky)
    np.testing.assert_array_equal(get(new, "a_smooth"), get(sky, "a_smooth"))
    assert not list((tmp_path / "space").iterdir())


def test_the_default_lmax_is_where_the_beam_ends(sky):
    plan = smooth(sky, "a", 20.0, **DEGREES)
    top = natural_lmax(Tiling(NSIDE), np.radians(20.0))
    assert f"to lmax {top} " in str(plan)
    assert hp.gauss_beam(np.radians(20.0), top)[-1] < 1e-8 < hp.gauss_beam(np.radians(20.0), top)[-3]
    plan.run(progress=False)
    smooth(sky, "a", 20.0, lmax=LMAX, out="all", **DEGREES).run(progress=False)
    np.testing.assert_allclose(get(sky, "a_smooth"), get(sky, "all"), rtol=2e-6)


# ---- which way -----------------------------------------------------------------------------------------------------


def test_the_two_ways_agree(tmp_path):
    sky = str(tmp_path / "sky.zarr")
    synthesize(1.0 / (1.0 + np.arange(64)) ** 2, sky, nside=32, name="a").run(progress=False)
    put(sky, {"part": np.where(heights() > 0.3, get(sky, "a"), np.nan)})
    smooth(sky, "part", 8.0, out="one", **DEGREES).run(progress=False)
    smooth(sky, "part", 8.0, out="other", **{**DEGREES, "method": "local"}).run(progress=False)
    one, other = get(sky, "one"), get(sky, "other")
    np.testing.assert_array_equal(np.isnan(one), np.isnan(other))
    assert 0 < np.nanstd(one - other) < 3e-3 * np.nanstd(one)


def test_the_cheaper_way_is_taken_and_the_plan_says_so(tmp_path, noise):
    grid = Tiling(NSIDE, 4)
    few = np.full(NPIX, np.nan, np.float32)
    few[grid.tile_slice(70)] = 1.0
    sky = put(tmp_path / "sky.zarr", {"all": noise["a"], "few": few}, tile_nside=4)

    def way(*arguments, **options):
        return next(note for note in smooth(sky, *arguments, unit="deg", **options).notes if note.startswith("way"))

    assert "local: an estimated" in way("few", 6.0)
    whole = str(tmp_path / "whole.zarr")
    synthesize(np.ones(4), whole, nside=128, name="a").run(progress=False)
    plan = smooth(whole, "a", 6.0, unit="deg")
    assert any("harmonic: an estimated" in note for note in plan.notes)
    assert "harmonic: the local one is for" in way("few", 2.5)  # less than two pixels
    assert "harmonic: the local one is for" in way("few", 20.0)
    assert "harmonic, for `lmax`" in way("few", 6.0, lmax=20)
    assert "harmonic, for `iterations`, `precision`" in way("few", 6.0, iterations=1, precision="double")
    assert "as asked" in way("few", 6.0, method="harmonic")
    assert "as asked" in way("few", 6.0, method="local")
    told = smooth(sky, "few", 6.0, unit="deg").notes
    stated = local_error(grid, np.radians(6.0))
    assert any(
        note == f"error   about {stated:.0e} of the spread of the smoothed map, against the harmonic way"
        for note in told
    )
    smooth(sky, "few", 6.0, unit="deg").run(progress=False)
    np.testing.assert_allclose(get(sky, "few_smooth")[grid.tile_slice(70)], 1.0, rtol=1e-6)
    # The way is part of what made the map.
    with pytest.raises(IdentityError, match="method"):
        smooth(sky, "few", 6.0, unit="deg", method="harmonic")


def test_the_estimate_grows_with_the_work():
    def cost(nside=512, lmax=1000, maps=1, masked=False, iterations=0, precision="single"):
        return harmonic_cost(Tiling(nside), lmax, maps, masked=masked, iterations=iterations, precision=precision)

    # What a step costs beside its work is the same for any number of maps.
    assert 2 * cost() < cost(maps=3) < 3 * cost()
    assert cost(masked=True) == pytest.approx(cost(maps=2))
    assert cost(iterations=2) > 2 * cost()
    assert cost(nside=4096, lmax=8192, precision="double") > cost(nside=4096, lmax=8192)
    assert cost(lmax=1500) > cost()
    assert cost(nside=1024) > cost()
