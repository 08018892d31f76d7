"""The examples are files that users run: they are read here without data, and run where the data are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from skymill.deploy.cli import main
from skymill.deploy.steps import read_steps
from skymill.engine.recipe import Recipe

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.toml"))


def test_there_are_examples():
    assert {"gsm2016.toml", "planck_herschel.toml", "planck_recipe.toml"} <= {path.name for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_understood(path):
    if "[[recipe]]" in path.read_text():
        assert Recipe.from_toml(path)
    else:
        assert len(read_steps(str(path)).steps) >= 3


@pytest.mark.realdata
@pytest.mark.slow
def test_gsm2016_beats_a_quadratic_fit(real_data, tmp_path, capsys):
    example = next(path for path in EXAMPLES if path.name == "gsm2016.toml")
    data = f"data={real_data / 'maps_nside64'}"
    assert main(["run", str(example), "--set", data, f"out={tmp_path / 'gsm'}", "--quiet"]) == 0
    report = json.loads((tmp_path / "gsm" / "report" / "report.json").read_text())
    medians = {label: pair["total"]["median_absolute"] for label, pair in report["pairs"].items()}
    print(medians)
    # A quadratic fit in the logarithms, on the same hemispheres, has medians of 0.9 % and 7.8 %.
    assert medians["850um"] < 0.009
    assert medians["1380um"] < 0.078
    assert {"density_850um.png", "region_orion_850um.png"} <= {p.name for p in (tmp_path / "gsm" / "report").iterdir()}
