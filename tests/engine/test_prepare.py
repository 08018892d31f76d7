"""Preparation: the truth is recovered, every step leaves its traces, and a step that does nothing is caught."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skymill
from distributed import Client, LocalCluster
from plancklike import (
    CO_COEFFICIENT,
    FULL,
    NPIX,
    NSIDE,
    make_planck_like_sky,
    read,
    recipe,
    steps_of,
    write,
)
from skymill.chunking import store as stores
from skymill.chunking.errors import (
    FormatError,
    IdentityError,
    InputError,
    MissingMapError,
    RunError,
    StoreNotFoundError,
    UnitError,
)
from skymill.engine.prepare import (
    Convert,
    DropNegative,
    Recipe,
    Scale,
    SubtractCO,
    SubtractMap,
    SubtractMonopole,
    planck_recipe,
    prepare,
)
from skymill.models.dust_sky import CO_COEFFICIENT as SYNTHETIC_CO
from skymill.models.dust_sky import MAPS, DustSky


@pytest.fixture(scope="module")
def sky_made_once(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sky of `plancklike`."""
    return make_planck_like_sky(str(tmp_path_factory.mktemp("made") / "sky.zarr"))


@pytest.fixture
def sky(sky_made_once: str, tmp_path: Path) -> str:
    """A copy of that sky to write into."""
    return str(shutil.copytree(sky_made_once, tmp_path / "sky.zarr"))


def test_the_truth_is_recovered(sky: str) -> None:
    prepare(sky, FULL).run()
    truth, prepared = read(sky, "truth_850um"), read(sky, "i850um")
    good = truth > 0
    np.testing.assert_array_equal(np.isfinite(prepared), good)
    np.testing.assert_allclose(prepared[good], truth[good], atol=1e-5)
    info = stores.info(sky, "i850um")
    assert (info.unit, info.band, info.beam_fwhm_arcmin) == ("MJy/sr", "850um", 5.0)


@pytest.mark.parametrize("band", ["850um", "1380um"])
def test_the_contaminants_of_the_synthetic_sky_are_removed(tmp_path: Path, band: str) -> None:
    where = str(tmp_path / "sky.zarr")
    stores.create(where, 64, frame="galactic")
    grid, names = stores.tiling_of(where), [f"raw_{band}", f"i{band}", f"truth_{band}", "cmb", "co21"]
    stores.create_maps(where, [MAPS[name] for name in names])
    synthetic = DustSky(seed=3)
    for tile in range(grid.n_tiles):
        for name, values in synthetic.tile(grid, tile, names).items():
            stores.write_tile(where, name, tile, values)
    made = planck_recipe(band, output="prepared", co_coefficient=SYNTHETIC_CO[band])
    prepare(where, made).run()
    # i<band> is truth and noise alone, raw_<band> has the same noise, so that nothing but rounding is left.
    prepared, expected = read(where, "prepared"), read(where, f"i{band}").astype(np.float64)
    good = expected > 1e-5
    scale = np.abs(read(where, f"raw_{band}")).max()
    assert np.abs(prepared - expected)[good].max() < 2e-6 * scale
    assert np.isnan(prepared[expected < -1e-5]).all()
    assert [step["changed"] for step in steps_of(where, "prepared")[:3]] == [grid.npix] * 3
    residual = (prepared - read(where, f"truth_{band}"))[good]
    assert abs(np.median(residual)) < 0.002
    assert abs(np.median(read(where, f"raw_{band}") - read(where, f"truth_{band}"))) > 0.02


def test_a_map_in_k_cmb_is_prepared_to_the_same_values(sky: str) -> None:
    prepare(sky, FULL).run()
    steps = (
        SubtractMap("cmb", label="CMB"),
        Convert("MJy/sr"),
        SubtractCO("co21", CO_COEFFICIENT, "MJy/sr"),
        SubtractMonopole.cib("850um"),
        DropNegative(),
    )
    prepare(sky, Recipe("raw_kcmb", "from_kcmb", steps, band="353GHz")).run()
    np.testing.assert_allclose(read(sky, "from_kcmb"), read(sky, "i850um"), atol=1e-4)
    np.testing.assert_array_equal(np.isnan(read(sky, "from_kcmb")), np.isnan(read(sky, "i850um")))


def test_every_step_records_what_it_did(sky: str) -> None:
    prepare(sky, FULL).run()
    steps = steps_of(sky, "i850um")
    assert [step["step"] for step in steps] == ["subtract_map", "subtract_co", "subtract_monopole", "drop_negative"]
    raw = read(sky, "raw_850um").astype(np.float64)
    raw = raw[np.isfinite(raw)]
    first = steps[0]["before"]
    assert first["count"] == raw.size == NPIX - 65
    assert first["mean"] == pytest.approx(raw.mean(), rel=1e-12)
    assert first["std"] == pytest.approx(raw.std(), rel=1e-12)
    assert (first["min"], first["max"]) == (raw.min(), raw.max())
    for earlier, later in itertools.pairwise(steps):
        assert earlier["after"] == later["before"]
    monopole = steps[2]
    assert monopole["before"]["mean"] - monopole["after"]["mean"] == pytest.approx(0.13, rel=1e-9)
    assert monopole["changed"] == raw.size
    assert "Paradis" in monopole["label"]
    assert steps[0]["conversion"]["factor"] == 287.450
    assert "Planck 2013 results IX" in steps[0]["conversion"]["source"]
    assert steps[3]["lost"] == (read(sky, "truth_850um") < 0).sum()
    final = read(sky, "i850um").astype(np.float64)
    assert steps[3]["after"]["mean"] == pytest.approx(np.nanmean(final), rel=1e-6)
    assert steps[3]["after"]["count"] == np.isfinite(final).sum()
    json.dumps(steps, allow_nan=False)
    provenance = stores.info(sky, "i850um").provenance
    assert provenance["verb"] == "prepare"
    assert set(provenance["inputs"]) == {"raw_850um", "cmb", "co21"}


def test_same_bytes_for_any_threads_and_workers(sky: str, tmp_path: Path) -> None:
    prepare(sky, FULL, out=tmp_path / "one.zarr", threads=1).run()
    prepare(sky, FULL, out=tmp_path / "three.zarr", threads=3).run()
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        prepare(sky, FULL, out=tmp_path / "dask.zarr").run(client)
    one = stores.info(tmp_path / "one.zarr", "i850um")
    for other in ("three.zarr", "dask.zarr"):
        assert stores.info(tmp_path / other, "i850um").attributes() == one.attributes()
        np.testing.assert_array_equal(read(str(tmp_path / other), "i850um"), read(str(tmp_path / "one.zarr"), "i850um"))


def test_a_finished_run_is_not_done_again(sky: str) -> None:
    plan = prepare(sky, FULL)
    assert "raw_850um -> i850um [MJy/sr]: subtract_map, subtract_co" in str(plan)
    assert len(plan.todo) == 11
    assert "i850um" not in stores.infos(sky)
    plan.run()
    before = stores.info(sky, "i850um").attributes()
    again = prepare(sky, FULL)
    assert (len(again.todo), again.done) == (0, 11)
    report = again.run()
    assert report.counts["verified"] == 11
    assert stores.info(sky, "i850um").attributes() == before


def test_an_interrupted_run_continues_to_the_same_statistics(sky: str, tmp_path: Path) -> None:
    prepare(sky, FULL, out=tmp_path / "undisturbed.zarr").run()
    shard = Path(sky) / "co21" / "c" / "4"
    intact = shard.with_name("intact")
    plan = prepare(sky, FULL, out=tmp_path / "out.zarr")
    shard.rename(intact)
    shard.write_bytes(intact.read_bytes()[:100])
    with pytest.raises(RunError, match="tile 4"):
        plan.run()
    assert "steps" not in stores.info(tmp_path / "out.zarr", "i850um").provenance
    intact.replace(shard)
    plan = prepare(sky, FULL, out=tmp_path / "out.zarr")
    assert (len(plan.todo), plan.done) == (1, 10)
    plan.run()
    expected = stores.info(tmp_path / "undisturbed.zarr", "i850um").attributes()
    assert stores.info(tmp_path / "out.zarr", "i850um").attributes() == expected


def test_lazy_gives_the_same_values(sky: str) -> None:
    lazy = prepare(sky, FULL).lazy()["i850um"]
    assert "i850um" not in stores.infos(sky)
    values = lazy.values
    prepare(sky, FULL).run()
    np.testing.assert_array_equal(values, read(sky, "i850um"))


def test_another_recipe_does_not_replace_a_map_unless_told(sky: str) -> None:
    prepare(sky, recipe(SubtractMonopole(0.13, "MJy/sr"))).run()
    other = recipe(SubtractMonopole(0.5, "MJy/sr"))
    with pytest.raises(IdentityError, match="i850um"):
        prepare(sky, other)
    prepare(sky, other, overwrite=True).run()
    np.testing.assert_allclose(read(sky, "i850um"), read(sky, "raw_850um") - 0.5, rtol=1e-5)


def test_two_recipes_in_one_pass(sky: str) -> None:
    both = [FULL, recipe(Scale(2.0), input="i160", output="double")]
    prepare(sky, both).run()
    np.testing.assert_array_equal(read(sky, "double"), 2 * read(sky, "i160"))
    np.testing.assert_allclose(steps_of(sky, "double")[0]["after"]["count"], NPIX)
    assert steps_of(sky, "i850um")[0]["before"]["count"] == NPIX - 65


def test_infinite_values_have_no_value(sky: str) -> None:
    values = np.ones(NPIX)
    values[:3] = [np.inf, -np.inf, np.nan]
    write(sky, "odd", values)
    prepare(sky, recipe(Scale(3.0), input="odd")).run()
    assert np.isnan(read(sky, "i850um")[:3]).all()
    assert steps_of(sky, "i850um")[0]["before"]["count"] == NPIX - 3


# What each option does to the result --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (SubtractMap("cmb", band="850um"), lambda m: m["raw"] - 287.450 * m["cmb"]),
        (SubtractMap("cmb", band="850um", bandpass="monochromatic"), lambda m: m["raw"] - 296.651 * m["cmb"]),
        (SubtractMap("cmb", band="1380um"), lambda m: m["raw"] - 483.690 * m["cmb"]),
        (SubtractMap("cmb_mjy"), lambda m: m["raw"] - m["cmb_mjy"]),
        (SubtractMap("cmb_mjy", coefficient=-2.0), lambda m: m["raw"] + 2 * m["cmb_mjy"]),
        (SubtractCO("co21", 0.05, "MJy/sr"), lambda m: m["raw"] - 0.05 * m["co"]),
        (SubtractCO("co21", 50.0, "kJy/sr"), lambda m: m["raw"] - 0.05 * m["co"]),
        (SubtractCO("co21", 45.0, "uK_CMB", band="1380um"), lambda m: m["raw"] - 45e-6 * 483.690 * m["co"]),
        (SubtractMonopole(130.0, "kJy/sr"), lambda m: m["raw"] - 0.13),
        (SubtractMonopole(1e-3, "K_CMB", band="850um"), lambda m: m["raw"] - 0.28745),
        (
            SubtractMonopole(1e-3, "K_RJ", band="850um"),
            lambda m: m["raw"] - 2e-3 * 1.380649e-23 * (353e9 / 299792458.0) ** 2 * 1e20,
        ),
        (Scale(0.86), lambda m: 0.86 * m["raw"]),
        (Convert("kJy/sr"), lambda m: 1e3 * m["raw"]),
        (Convert("K_CMB", band="850um"), lambda m: m["raw"] / 287.450),
        (Convert("Jy/beam", beam_fwhm_arcmin=33 / 60), lambda m: m["raw"] / 34.47926),
        (DropNegative(), lambda m: np.where(m["raw"] <= 0, np.nan, m["raw"])),
        (DropNegative(("i160",)), lambda m: np.where((m["raw"] <= 0) | (m["i160"] <= 0), np.nan, m["raw"])),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_steps(sky: str, step: Any, expected: Any) -> None:
    raw = read(sky, "raw_850um") - 0.2  # so that some pixels are negative
    write(sky, "input", raw)
    prepare(sky, recipe(step, input="input")).run()
    maps = {"raw": raw.astype(np.float64), "co": read(sky, "co21"), "i160": read(sky, "i160")}
    maps |= {"cmb": read(sky, "cmb"), "cmb_mjy": read(sky, "cmb_mjy")}
    np.testing.assert_allclose(read(sky, "i850um"), expected(maps), rtol=2e-5, atol=1e-6)


def test_zero_is_dropped_or_kept(sky: str) -> None:
    values = np.arange(-1.0, NPIX - 1)
    write(sky, "input", values)
    prepare(sky, recipe(DropNegative(), input="input", output="a")).run()
    prepare(sky, recipe(DropNegative(zero=False), input="input", output="b")).run()
    assert np.isnan(read(sky, "a")[:2]).all()
    assert read(sky, "b")[1] == 0.0
    assert np.isnan(read(sky, "b")[0])


def test_units_and_meaning_of_the_result(sky: str) -> None:
    column = Recipe("co21", "h2", (Scale(2e20, unit="cm-2", label="X_CO"),), long_name="molecular hydrogen")
    prepare(sky, column).run()
    info = stores.info(sky, "h2")
    assert (info.unit, info.quantity, info.long_name) == ("cm^-2", "column density", "molecular hydrogen")
    assert steps_of(sky, "h2")[0]["label"] == "X_CO"
    # A later step sees the unit that an earlier one made.
    chain = recipe(Convert("K_CMB"), SubtractMap("cmb"), Convert("uK_CMB"), band="850um", output="t")
    prepare(sky, chain).run()
    assert stores.info(sky, "t").unit == "uK_CMB"
    expected = (read(sky, "raw_850um") / 287.450 - read(sky, "cmb")) * 1e6
    np.testing.assert_allclose(read(sky, "t"), expected, rtol=1e-4, atol=1e-2)


# Bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        (recipe(SubtractMap("cnb", band="850um")), MissingMapError, "did you mean 'cmb'"),
        (recipe(Scale(2.0), input="raw_850"), MissingMapError, "did you mean 'raw_850um'"),
        (recipe(DropNegative(("i161",))), MissingMapError, "did you mean 'i160'"),
        (recipe(SubtractCO("co", 1.0, "MJy/sr")), MissingMapError, "co21"),
        (recipe(SubtractMap("cmb")), UnitError, r"step 1 \(subtract_map\): template 'cmb' is in K_CMB, the map"),
        (recipe(SubtractMap("co21", band="850um")), UnitError, "template 'co21' is in K km/s"),
        (recipe(SubtractMap("per_beam")), UnitError, "beam"),
        (recipe(SubtractCO("cmb", 1.0, "MJy/sr")), UnitError, "a line is in K km/s"),
        (recipe(SubtractCO("co21", 45.0, "uK_CMB")), UnitError, "the coefficient of 'co21'"),
        (recipe(SubtractCO("co21", 45.0, "mag")), UnitError, "magnitude"),
        (recipe(SubtractMonopole(0.13, "K_CMB")), UnitError, "give `band`"),
        (recipe(SubtractMonopole(0.13, "furlong")), UnitError, "is not known"),
        (recipe(Convert("K_CMB")), UnitError, r"step 1 \(convert\): .*give `band`"),
        (recipe(Convert("MJy/sr")), UnitError, "would change nothing"),
        (recipe(Convert("MJy sr-1")), UnitError, "would change nothing"),
        (recipe(Convert("Jy/beam")), UnitError, "give `beam_fwhm_arcmin`"),
        (recipe(Convert("MJy/sr"), input="per_beam"), UnitError, "give `beam_fwhm_arcmin`"),
        (recipe(Convert("cm^-2")), UnitError, "different things"),
        (recipe(Convert("K_CMB", band="250um")), UnitError, "monochromatic"),
        (recipe(Scale(1.0)), InputError, "would change nothing"),
        (recipe(Scale(0.0)), InputError, "other than 0"),
        (recipe(Scale(math.nan)), InputError, "finite number"),
        (recipe(Scale(True)), InputError, "finite number"),
        (recipe(SubtractMonopole(0.0, "MJy/sr")), InputError, "other than 0"),
        (recipe(SubtractMap("cmb_mjy", coefficient=0.0)), InputError, "other than 0"),
        (recipe(SubtractMap("cmb_mjy", coefficient=math.inf)), InputError, "finite number"),
        (recipe(SubtractMap("cmb", band="851um")), InputError, "did you mean '850um'"),
        ([recipe(Scale(2.0)), recipe(Scale(3.0))], InputError, "two recipes write 'i850um'"),
        ([recipe(Scale(2.0)), recipe(SubtractMap("i850um"), output="x")], InputError, "which this call writes"),
        ([recipe(Scale(2.0)), recipe(Scale(2.0), input="i850um", output="x")], InputError, "which this call writes"),
        (recipe(Scale(2.0), output="mask_x"), InputError, "mask_x"),
        (recipe(Scale(2.0), output="a b"), InputError, "as the name of a map"),
        (recipe(Scale(2.0), output="cells"), InputError, "reserved"),
        ([], InputError, "list of them is expected"),
        (None, InputError, "list of them is expected"),
        (3, InputError, "list of them is expected"),
        ("nothing.toml", InputError, "cannot read the recipe"),
    ],
)
def test_bad_recipes_are_refused_before_anything_is_written(
    sky: str, given: Any, error: type[Exception], told: str
) -> None:
    held = set(stores.infos(sky))
    with pytest.raises(error, match=told):
        prepare(sky, given).run()
    assert set(stores.infos(sky)) == held


def test_stores_that_do_not_fit(sky: str, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        prepare(tmp_path / "none.zarr", FULL)
    stores.create(tmp_path / "other.zarr", 32, frame="galactic")
    with pytest.raises(InputError, match="nside"):
        prepare(sky, FULL, out=tmp_path / "other.zarr")
    stores.create(tmp_path / "icrs.zarr", NSIDE, frame="icrs")
    with pytest.raises(InputError, match="frame"):
        prepare(sky, FULL, out=tmp_path / "icrs.zarr")


@pytest.mark.parametrize("tile_nside", [2, 4])
def test_a_store_of_other_tiles_gets_the_same_map(sky: str, tmp_path: Path, tile_nside: int) -> None:
    prepare(sky, FULL).run()
    other = str(tmp_path / "other.zarr")
    stores.create(other, NSIDE, frame="galactic", tile_nside=tile_nside)
    assert stores.tiling_of(other).n_tiles != stores.tiling_of(sky).n_tiles
    prepare(sky, FULL, out=other).run()
    np.testing.assert_array_equal(read(other, "i850um"), read(sky, "i850um"))


def test_an_unfinished_template_is_refused(sky: str) -> None:
    prepare(sky, recipe(Scale(2.0), output="half")).run()
    from skymill.engine import ledger

    ledger.tick(sky, "half", 3, ledger.NOT_DONE)
    with pytest.raises(FormatError, match="unfinished"):
        prepare(sky, recipe(SubtractMap("half")))


def test_the_public_name(sky: str) -> None:
    assert skymill.prepare is prepare
