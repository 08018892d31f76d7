"""The README says what is true: its Python runs, its commands run or are understood, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import matplotlib
import pytest
import skymill as sm
from skymill.deploy import cli
from skymill.deploy.steps import read_steps
from skymill.deploy.verbs import BY_COMMAND
from skymill.engine.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
# The same commands on a sky small enough for a test.
SMALLER = {"64": "16", "256": "32", "2048": "64"}
QUICK, SPHERE, GAS, REAL = range(4)  # the blocks of commands, in their order


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def smaller(text: str) -> str:
    return re.sub(r"\b(2048|256|64)\b", lambda found: SMALLER[found[1]], text)


def commands(block: str) -> list[list[str]]:
    lines = [line for line in block.splitlines() if line and not line.startswith("#")]
    found = [shlex.split(line) for line in lines]
    assert all(words[0] == "skymill" for words in found)
    return [words[1:] for words in found]


@pytest.mark.slow
def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    snippet = blocks("python")[QUICK]
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    exec(compile(smaller(snippet), "README.md", "exec"), {"__name__": "readme"})
    said = capsys.readouterr().out
    assert "predict ->" in said
    assert "R2 (log)" in said
    assert (tmp_path / "cloud.png").stat().st_size > 1000
    assert {"pred_850um", "flag_850um", "mask_850um"} <= set(sm.open("fine.zarr"))


@pytest.mark.slow
def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    found = commands(smaller(blocks("sh")[QUICK]))
    assert len(found) > 8
    for words in found:
        assert cli.main(words) == 0, (words, capsys.readouterr().err)
    assert (tmp_path / "report" / "index.html").is_file()
    assert "pred_850um" in capsys.readouterr().out


def test_the_python_of_spectra_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(blocks("python")) == 3
    monkeypatch.chdir(tmp_path)
    exec(compile(smaller(blocks("python")[SPHERE]), "README.md", "exec"), {"__name__": "readme"})
    said = capsys.readouterr().out
    assert "spectra -> " in said
    assert "('pair', 'bin')" in said
    assert sm.open("twin.zarr")["cmb"].attrs["units"] == "K_CMB"


def test_the_commands_of_spectra_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(blocks("sh")) == 4
    monkeypatch.chdir(tmp_path)
    found = commands(smaller(blocks("sh")[SPHERE]))
    assert {words[0] for words in found} >= {"smooth", "apodize", "spectra", "synthesize"}
    for words in found:
        # A shell would take the last two words away.
        given = words[:-2] if words[-2] == ">" else words
        assert cli.main(given) == 0, (words, capsys.readouterr().err)
    assert (tmp_path / "spectra" / "spectra.png").stat().st_size > 1000
    assert "pair,map_1,map_2" in capsys.readouterr().out


def test_the_python_of_gas_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(smaller(blocks("python")[GAS]), "README.md", "exec"), {"__name__": "readme"})
    said = capsys.readouterr().out
    assert "f_sky" in said
    assert "temperature" in said.splitlines()[-2]
    assert 0 < float(said.splitlines()[-1]) < 0.2
    assert {"cluster_3", "temperature_i857", "ebv"} <= set(sm.open("gas.zarr"))


@pytest.mark.slow
def test_the_commands_of_gas_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = commands(smaller(blocks("sh")[GAS]))
    assert {words[0] for words in found} >= {"mask", "kmeans-search", "simplify", "fit", "diagnose", "reddening"}
    for words in found:
        assert cli.main(words) == 0, (words, capsys.readouterr().err)
    for folder in ("search", "fit", "residuals", "reddening"):
        assert (tmp_path / folder / "index.html").is_file()
    said = capsys.readouterr().out
    assert "elbow at k = 3" in said
    assert "nh2 dropped" in said


def test_the_commands_on_real_maps_are_understood() -> None:
    found = commands(blocks("sh")[REAL])
    assert {words[0] for words in found} >= {"ingest", "smooth", "prepare", "train", "predict", "residual", "evaluate"}
    for name, *words in found:
        verb = BY_COMMAND[name]
        given = cli._given(verb.options, cli.verb_parser(verb).parse_intermixed_args(words))
        assert {option.name for option in verb.options if option.required} <= set(given)


def test_every_command_of_the_readme_is_one() -> None:
    named = set(re.findall(r"\bskymill ([a-z-]+)\b", "\n".join(re.findall(r"`([^`\n]+)`", README))))
    assert named
    assert named - {"--help"} <= {*BY_COMMAND, *cli.OTHERS}


def test_files_that_the_readme_names_are_there() -> None:
    named = re.findall(r"\]\(((?!http)[^)]+)\)", README)
    named += re.findall(r"`((?:examples|docs|chunking|engine|models|deploy)/[\w./-]+\.\w+)`", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b", README)) - {"needs"} <= targets


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_examples_are_understood(path: Path) -> None:
    if "[[recipe]]" in path.read_text():
        assert Recipe.from_toml(path)
    else:
        assert read_steps(str(path)).steps
