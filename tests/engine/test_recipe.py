"""Recipes as data: dictionaries, TOML files, and what is wrong with them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from skymill.chunking.bands import Band
from skymill.chunking.errors import InputError
from skymill.engine.recipe import Recipe, planck_recipe
from skymill.engine.steps import Convert, DropNegative, Scale, SubtractCO, SubtractMap, SubtractMonopole

TABLE: dict[str, Any] = {
    "input": "planck",
    "output": "i850um",
    "band": "353GHz",
    "long_name": "dust at 850 um",
    "steps": [
        {"step": "subtract_map", "template": "cmb", "label": "CMB", "coefficient": 1},
        {"step": "convert", "to": "MJy/sr", "bandpass": "monochromatic"},
        {"step": "subtract_co", "template": "co21", "coefficient": 0.02, "unit": "MJy/sr"},
        {"step": "subtract_cib", "band": "850um"},
        {"step": "subtract_monopole", "value": 0.01, "unit": "MJy/sr", "label": "zodi"},
        {"step": "scale", "factor": 1.02},
        {"step": "drop_negative", "maps": ["i160", "i250"], "zero": False, "may_be_idle": True},
    ],
}
TOML = """
[[recipe]]
input = "planck"
output = "i850um"
band = "353GHz"
long_name = "dust at 850 um"
steps = [
    {step = "subtract_map", template = "cmb", label = "CMB"},
    {step = "convert", to = "MJy/sr", bandpass = "monochromatic"},
    {step = "subtract_co", template = "co21", coefficient = 0.02, unit = "MJy/sr"},
    {step = "subtract_cib", band = "850um"},
    {step = "subtract_monopole", value = 0.01, unit = "MJy/sr", label = "zodi"},
    {step = "scale", factor = 1.02},
    {step = "drop_negative", maps = ["i160", "i250"], zero = false, may_be_idle = true},
]

[[recipe]]
preset = "planck"
band = "1380um"
co_coefficient = 0.022
"""


def test_a_table_is_a_recipe() -> None:
    recipe = Recipe.from_dict(TABLE)
    assert recipe == Recipe(
        "planck",
        "i850um",
        (
            SubtractMap("cmb", label="CMB"),
            Convert("MJy/sr", bandpass="monochromatic"),
            SubtractCO("co21", 0.02, "MJy/sr"),
            SubtractMonopole.cib("850um"),
            SubtractMonopole(0.01, "MJy/sr", "zodi"),
            Scale(1.02),
            DropNegative(("i160", "i250"), zero=False, may_be_idle=True),
        ),
        band="850um",
        long_name="dust at 850 um",
    )


def test_there_and_back() -> None:
    recipe = Recipe.from_dict(TABLE)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    other = planck_recipe("1380um", co_coefficient=0.02, drop_negative=["i160"])
    assert Recipe.from_dict(other.to_dict()) == other


def test_toml(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(TOML)
    first, second = Recipe.from_toml(file)
    assert first == Recipe.from_dict(TABLE)
    assert second == planck_recipe("1380um", co_coefficient=0.022)


def test_the_planck_recipe_and_its_options() -> None:
    usual = planck_recipe("850um")
    assert (usual.input, usual.output) == ("raw_850um", "i850um")
    assert [step.kind for step in usual.steps] == ["subtract_map", "subtract_monopole", "drop_negative"]
    assert SubtractMonopole.cib("850um").value == 0.13
    assert SubtractMonopole.cib("217GHz").value == 0.033
    for change in (
        {"input": "planck"},
        {"output": "dust"},
        {"cmb": None},
        {"cmb": "lgmca"},
        {"co_coefficient": 0.02},
        {"drop_negative": ["i160"]},
    ):
        assert planck_recipe("850um", **change) != usual  # type: ignore[arg-type]
    with_co = planck_recipe("850um", co_coefficient=45.0)
    assert planck_recipe("850um", co_coefficient=45.0, co_unit="uK_CMB") != with_co
    assert planck_recipe("850um", co_coefficient=45.0, co="co10") != with_co
    with pytest.raises(InputError, match="no CIB monopole is known for band '250um'"):
        planck_recipe("250um")


def test_recipes_and_steps_are_frozen() -> None:
    recipe = Recipe.from_dict(TABLE)
    for thing in (recipe, *recipe.steps):
        field = dataclasses.fields(thing)[0].name  # type: ignore[arg-type]
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, field, "x")


def test_a_band_of_ones_own() -> None:
    mine = Band("mine", frequency_ghz=353.0, mjy_sr_per_k_cmb=288.0)
    recipe = Recipe("a", "b", (Convert("MJy/sr"),), band=mine)
    actions, unit = recipe.settle("K_CMB", str)
    assert (actions[0].factor, unit) == (288.0, "MJy/sr")
    assert recipe.to_dict()["band"] == "mine"


def changed(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**TABLE, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (changed(inputs="x"), "unknown key 'inputs'; did you mean 'input'"),
        (changed(input=None), "has no `input`"),
        (changed(output=None), "has no `output`"),
        (changed(steps=None), "has no steps"),
        (changed(steps=[]), "has no steps"),
        (changed(steps="convert"), "a list of tables"),
        (changed(steps={"step": "convert"}), "a list of tables"),
        (changed(steps=["convert"]), "step 1 of the recipe is 'convert'"),
        (changed(steps=[{"to": "MJy/sr"}]), "has no key `step`"),
        (changed(steps=[{"step": "convrt", "to": "MJy/sr"}]), "did you mean 'convert'"),
        (changed(steps=[{"step": "convert", "two": "MJy/sr"}]), "unknown key 'two'.*did you mean 'to'"),
        (changed(steps=[{"step": "convert"}]), "has no `to`"),
        (changed(steps=[{"step": "convert", "to": 3}]), "`to` is 3; str is expected"),
        (changed(steps=[{"step": "subtract_co", "template": "co21", "unit": "MJy/sr"}]), "has no `coefficient`"),
        (changed(steps=[{"step": "subtract_co", "template": "co21", "coefficient": 0.02}]), "has no `unit`"),
        (changed(steps=[{"step": "subtract_monopole", "value": "0.13", "unit": "MJy/sr"}]), "int or float"),
        (changed(steps=[{"step": "subtract_monopole", "value": True, "unit": "MJy/sr"}]), "int or float"),
        (changed(steps=[{"step": "drop_negative", "maps": "i160"}]), "list or tuple"),
        (changed(steps=[{"step": "drop_negative", "zero": 1}]), "bool is expected"),
        (changed(steps=[{"step": "subtract_cib"}]), "has no `band`"),
        (changed(steps=[{"step": "subtract_cib", "band": "250um"}]), "no CIB monopole"),
        (changed(band="354GHz"), "band '354GHz' is not known"),
        (changed(band=353), "`band` is 353"),
        (changed(output="planck"), "reads and writes 'planck'"),
        ({"preset": "plank", "band": "850um"}, "did you mean 'planck'"),
        ({"preset": "planck"}, "has no `band`"),
        ({"preset": "planck", "band": "850um", "co_coeficient": 1.0}, "did you mean 'co_coefficient'"),
        ([], "a table is expected"),
        ("x", "a table is expected"),
    ],
)
def test_wrong_tables(table: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        Recipe.from_dict(table)


@pytest.mark.parametrize("steps", [(), "convert", [3], [Recipe], {"a": 1}, None, [Convert]])
def test_wrong_steps(steps: Any) -> None:
    with pytest.raises(InputError, match="step"):
        Recipe("a", "b", steps)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"no \[\[recipe\]\] table"),
        ("[[recipes]]\ninput = 'a'", "unknown key 'recipes'"),
        ("input = ", "is not TOML"),
        ("[recipe]\ninput = 'a'", "has no `output`"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=told):
        Recipe.from_toml(file)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the recipe"):
        Recipe.from_toml(tmp_path / "none.toml")


def test_a_name_where_a_list_is_needed() -> None:
    with pytest.raises(InputError, match="give a list of names"):
        DropNegative("i160")  # type: ignore[arg-type]
