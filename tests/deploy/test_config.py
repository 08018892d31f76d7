"""`skymill run FILE`: the file is checked as a whole, mistakes name the nearest, what is done is not done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import skymill as sm
from skymill.chunking import store as stores
from skymill.deploy import cli
from skymill.deploy.session import Session
from skymill.deploy.steps import read_steps, run_steps
from skymill.deploy.verbs import VERBS

RESIDUAL = """
[[step]]
verb = "residual"
store = "{sky}"
prediction = "i160"
target = "i250"
"""
SET = '[set]\nsky = "sky.zarr"\n'


def write(folder: Path, text: str) -> str:
    path = folder / "steps.toml"
    path.write_text(text)
    return str(path)


def test_a_step_holds_what_the_file_says(tmp_path: Path) -> None:
    text = 'workers = 2\nmemory = "4GB"\n' + SET + RESIDUAL + 'mask_above = 0.3\nreport = "{sky}.json"\n'
    recipe = read_steps(write(tmp_path, text))
    assert recipe.session == {"workers": 2, "memory": "4GB"}
    (step,) = recipe.steps
    assert step.title == "step 1 (residual)"
    assert step.report == "sky.zarr.json"
    assert step.values == {"store": "sky.zarr", "prediction": "i160", "target": "i250", "mask_above": 0.3}


def test_set_on_the_command_line_wins(tmp_path: Path) -> None:
    file = write(tmp_path, SET + RESIDUAL)
    assert read_steps(file, {"sky": "other.zarr"}).steps[0].values["store"] == "other.zarr"
    with pytest.raises(sm.errors.InputError, match="did you mean 'sky'"):
        read_steps(file, {"skye": "other.zarr"})


def test_placeholders_reach_lists_and_tables(tmp_path: Path) -> None:
    text = """
[set]
raw = "/data"
[[step]]
verb = "ingest"
files = { i160 = "{raw}/a.fits[T]", i250 = "{raw}/b.fits" }
store = "sky.zarr"
unit = { i160 = "MJy/sr" }
override = ["unit"]
"""
    values = read_steps(write(tmp_path, text)).steps[0].values
    assert values["files"] == {"i160": "/data/a.fits[T]", "i250": "/data/b.fits"}
    assert values["unit"] == {"i160": "MJy/sr"}
    assert values["override"] == ["unit"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["has no steps", "[[step]]"]),
        ("step = 3", ["has no steps"]),
        ("[step]\nverb = 'residual'", ["has no steps"]),
        ("workerz = 2\n" + SET + RESIDUAL, ["'workerz'", "did you mean 'workers'"]),
        ("workers = 'two'\n" + SET + RESIDUAL, ["`workers` = 'two'", "whole number"]),
        (SET + RESIDUAL + "mask-above = 0.2", ["step 1", "'mask-above'", "did you mean 'mask_above'"]),
        (SET + RESIDUAL + "maskabove = 0.2", ["did you mean 'mask_above'"]),
        (SET + RESIDUAL + "mask_above = 'x'", ["step 1 (residual)", "`mask_above` = 'x'", "a number"]),
        (SET + RESIDUAL + "mask_above = true", ["`mask_above` = True", "a number"]),
        (SET + RESIDUAL + "overwrite = 1", ["`overwrite` = 1", "true or false"]),
        (SET + RESIDUAL + "report = 1", ["`report` = 1", "path"]),
        (SET + RESIDUAL + 'out = "{ski}"', ["{ski}", "did you mean 'sky'"]),
        (RESIDUAL, ["{sky}", "Known: none"]),
        ("set = 3\n" + RESIDUAL, ["[set] is a table"]),
        ('[[step]]\nverb = "residul"', ["step 1", "'residul' is no verb", "did you mean 'residual'"]),
        ("[[step]]\nstore = 'x'", ["step 1 has no `verb`", "residual"]),
        ("[[step]]\nverb = 'residual'\nstore = 'x'", ["step 1 (residual) lacks prediction, target"]),
        (SET + RESIDUAL + "[[step]]\nverb = 'predict'", ["step 2 (predict) lacks models, store"]),
        (SET + RESIDUAL + "out = 3", ["`out` = 3", "a text"]),
        ("[[step]]\nverb = 'ingest'\nfiles = 'a.fits'\nstore = 's'", ["`files` = 'a.fits'", "a table"]),
        ("[[step]]\nverb = 'predict'\nmodels = []\nstore = 's'", ["`models` = []", "one value or more"]),
        ("[[step]]\nverb = 'export'\nnames = 'a'\npath = 'f'\nstore = 's'\nblank = 'x'", ["unseen, nan"]),
        ("[[step]]\nverb = 'prepare'\nrecipe = 3\nstore = 's'", ["`recipe` = 3", "a table"]),
        ("[[step]]\nverb = 'evaluate'\naccept = 3\nstore = 's'", ["`accept` = 3", "sigma"]),
        ("[[step]]\nverb = 'evaluate'\nregions = 'Orion'\nstore = 's'", ["`regions`", "Orion"]),
        ("[[step]\n", ["is not TOML", "line 1"]),
    ],
)
def test_a_mistake_names_the_place_and_the_nearest(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(sm.errors.SkymillError) as caught:
        read_steps(write(tmp_path, text))
    for part in ["steps.toml", *parts]:
        assert part in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(sm.errors.StoreNotFoundError):
        read_steps(str(tmp_path / "nowhere.toml"))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(sm.errors.FormatError):
        read_steps(str(binary))


@pytest.mark.parametrize("verb", VERBS, ids=[verb.name for verb in VERBS])
def test_every_option_of_every_verb_is_a_key(verb: Any, tmp_path: Path) -> None:
    """The same table drives the file: no option exists only on the command line."""
    for option in verb.options:
        with pytest.raises(sm.errors.InputError) as caught:
            read_steps(write(tmp_path, f'[[step]]\nverb = "{verb.name}"\n{option.name} = 1979-05-27\n'))
        # A date is no value of any option; the message is about the value, not about an unknown key.
        assert f"`{option.name}` = " in str(caught.value)


def test_a_mistake_in_the_last_step_shows_before_the_first_runs(
    sky: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, RESIDUAL.replace("{sky}", sky) + RESIDUAL.replace("{sky}", sky) + "mask = 1")
    assert cli.main(["run", file]) == 2
    assert "step 2" in capsys.readouterr().err
    assert "relerr_i160" not in stores.infos(sky)


def test_steps_run_in_order_and_resume(sky: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "two.json"
    second = RESIDUAL.replace('"i160"', '"i350"') + f'report = "{report}"\n'
    file = write(tmp_path, SET + RESIDUAL + second)
    words = ["run", file, "--set", f"sky={sky}", "--threads", "1"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert out.index("step 1 (residual) of 2") < out.index("step 2 (residual) of 2")
    assert {"relerr_i160", "relerr_i350"} <= set(stores.infos(sky))
    assert json.loads(report.read_text())["counts"]["computed"] == 11
    assert cli.main(words) == 0
    assert capsys.readouterr().out.count("11 verified") == 2
    assert cli.main([*words, "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_plan_of_a_file(sky: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = RESIDUAL.replace('"i160"', '"relerr_i160"').replace('"i250"', '"relerr_i160"')
    file = write(tmp_path, SET + RESIDUAL + later)
    assert cli.main(["run", file, "--set", f"sky={sky}", "--plan"]) == 0
    out = capsys.readouterr().out
    assert "11 to do" in out
    assert "planned when the steps before it have run" in out
    assert "relerr_i160" not in stores.infos(sky)
    assert cli.main(["run", file, "--plan"]) == 2
    assert "no sky store" in capsys.readouterr().err


def test_an_error_says_in_which_step(sky: str, tmp_path: Path) -> None:
    file = write(tmp_path, SET + RESIDUAL + RESIDUAL.replace("i160", "i161"))
    with pytest.raises(sm.errors.MissingMapError) as caught:
        run_steps(read_steps(file, {"sky": sky}), Session(quiet=True))
    assert "step 2 (residual)" in caught.value.__notes__[0]


def test_the_command_line_wins_over_the_file(sky: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, 'memory = "1MB"\nthreads = 1\n' + SET + RESIDUAL)
    words = ["run", file, "--set", f"sky={sky}"]
    assert cli.main(words) == 2
    assert "Any of these fits" in capsys.readouterr().err
    assert cli.main([*words, "--memory", "4GB"]) == 0
