"""The commands of the whole sphere: words and TOML become the same values, and they do what Python does."""

from __future__ import annotations

import csv
import io
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skymill as sm
from numpy.typing import NDArray
from skymill.chunking import store as stores
from skymill.chunking.schema import MapInfo
from skymill.deploy import cli
from skymill.deploy.session import Session
from skymill.deploy.steps import read_steps
from skymill.deploy.verbs import BY_NAME
from skymill.engine.worker import Worker


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two maps of nside 16, and a mask that leaves out the south."""
    where = str(tmp_path_factory.mktemp("spectra") / "sky.zarr")
    sm.simulate("dust", where, 16, seed=2, maps=["i500", "cmb"]).run(progress=False)
    stores.create_maps(where, [MapInfo("mask_north", "mask", "1", dtype="uint8", fill_value=1)])
    south = stores.tiling_of(where).n_tiles * 2 // 3
    for tile in range(stores.tiling_of(where).n_tiles):
        npix = stores.tiling_of(where).tile_npix
        stores.write_tile(where, "mask_north", tile, np.full(npix, tile >= south, np.uint8))
    return where


def say(words: list[str], capture: pytest.CaptureFixture[str]) -> str:
    """What a command that must succeed says on stdout."""
    code = cli.main(words)
    said = capture.readouterr()
    assert code == 0, said.err
    return said.out


def values_of_words(verb: str, words: list[str]) -> dict[str, object]:
    known = BY_NAME[verb]
    return cli._given(known.options, cli.verb_parser(known).parse_intermixed_args(words))


@pytest.mark.parametrize(
    ("words", "toml", "expected"),
    [
        ("a,a a,b", 'pairs = [["a", "a"], ["a", "b"]]', {"pairs": [("a", "a"), ("a", "b")]}),
        ("a,b", 'pairs = ["a x b"]', {"pairs": [("a", "b")]}),
        ("a,a --bins 20", "bins = 20", {"bins": 20}),
        ("a,a --bins 2,10,30", "bins = [2, 10, 30]", {"bins": [2, 10, 30]}),
        ("a,a --bins 2 10 30", "bins = [2, 10, 30]", {"bins": [2, 10, 30]}),
        ("a,a --bins 2:10,20:30", "bins = [[2, 10], [20, 30]]", {"bins": [(2, 10), (20, 30)]}),
        ("a,a --bins 2:10 20:30", "bins = [[2, 10], [20, 30]]", {"bins": [(2, 10), (20, 30)]}),
        ("a,a --mask m", 'mask = "m"', {"mask": "m"}),
        ("a,a --mask a=m --mask b=n", 'mask = { a = "m", b = "n" }', {"mask": {"a": "m", "b": "n"}}),
        ("a,a --beam 5", "beam = 5", {"beam": 5.0}),
        ("a,a --beam store", 'beam = "store"', {"beam": "store"}),
        ("a,a --beam a=5 --beam b=b.txt", 'beam = { a = 5.0, b = "b.txt" }', {"beam": {"a": 5.0, "b": "b.txt"}}),
        ("a,a --splits a=c,d", 'splits = { a = ["c", "d"] }', {"splits": {"a": ("c", "d")}}),
        ("a,a --pixel-window --window", "pixel_window = true\nwindow = true", {"pixel_window": True, "window": True}),
        ("a,a --remove dipole --errors knox", 'remove = "dipole"\nerrors = "knox"', {"errors": "knox"}),
    ],
)
def test_words_and_toml_are_the_same_values(tmp_path: Path, words: str, toml: str, expected: dict[str, Any]) -> None:
    given = values_of_words("spectra", ["sky.zarr", *words.split()])
    assert {key: given[key] for key in expected} == expected
    if "pairs" not in toml:
        toml += '\npairs = [["a", "a"]]'
    file = tmp_path / "steps.toml"
    file.write_text(f'[[step]]\nverb = "spectra"\nstore = "sky.zarr"\n{toml}\n')
    assert dict(read_steps(str(file)).steps[0].values) == given


def test_spectra_of_realisations_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "cl.txt").write_text("# ell C_l\n0 0\n1 2.5\n2 3\n")
    given = values_of_words("spectra", ["sky.zarr", "a,b", "--fiducial", f"a,b={tmp_path / 'cl.txt'}"])
    assert {pair: list(cl) for pair, cl in given["fiducial"].items()} == {("a", "b"): [0.0, 2.5, 3.0]}  # type: ignore[attr-defined]
    option = next(each for each in BY_NAME["spectra"].options if each.name == "fiducial")
    assert option.from_toml({"a x b": [0, 2.5, 3]}) == {("a", "b"): [0, 2.5, 3]}


def test_spectra_to_synthesize_may_be_numbers_in_toml() -> None:
    option = BY_NAME["synthesize"].options[0]
    assert option.from_toml("cl.txt") == option.from_words("cl.txt") == "cl.txt"
    assert option.from_toml([1, 0.5]) == [1, 0.5]
    assert option.from_toml(tomllib.loads('"a x b" = [1, 2]')) == {("a", "b"): [1, 2]}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("spectra s a", "two maps such as i500,kappa"),
        ("spectra s a,b,c", "two maps"),
        ("spectra s a,", "two maps"),
        ("spectra s a,a --bins wide", "`bins` = 'wide'"),
        ("spectra s a,a --bins 2:10:20", "bins such as 2:10,20:30"),
        ("spectra s a,a --bins 2:10,30", "bins such as 2:10,20:30"),
        ("spectra s a,a --splits a=b", "two maps"),
        ("spectra s a,a --splits a", "NAME=VALUE"),
        ("spectra s a,a --weights rings", "ring"),
        ("spectra s a,a --errors noks", "knox"),
        ("spectra s a,a --fiducial a,a=nowhere.txt --errors monte-carlo", "nowhere.txt"),
        ("spectra s a,a --mak m", "did you mean '--mask'"),
        ("apodize s mask_a wide", "`scale` = 'wide'"),
        ("apodize s mask_a 5 --kind C3", "C1"),
        ("smooth s a --fwhm wide", "`fwhm` = 'wide'"),
        ("synthesize cl.txt new.zarr --nside many", "`nside` = 'many'"),
    ],
)
def test_words_that_make_no_sense(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(line.split())
    except SystemExit as end:
        code = int(end.code or 0)
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert words in said.err
    assert "error of skymill itself" not in said.err


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("pairs", "i500", "a list of pairs"),
        ("pairs", ["i500"], "two maps"),
        ("pairs", [["a", 3]], "two maps"),
        ("bins", [[2, 10], 30], "bins such as"),
        ("bins", [2.5, 3], "a whole number"),
        ("splits", {"a": ["b"]}, "two maps"),
        ("splits", ["b", "c"], "a table"),
        ("beam", True, "a number"),
        ("fiducial", "cl.txt", "a table"),
        ("mask", 3, "a text"),
    ],
)
def test_toml_that_makes_no_sense(key: str, value: object, words: str) -> None:
    option = next(each for each in BY_NAME["spectra"].options if each.name == key)
    with pytest.raises(sm.errors.InputError, match=words):
        option.from_toml(value)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def column(found: list[dict[str, str]], pair: str, name: str) -> NDArray[np.float64]:
    return np.array([float(row[name]) for row in found if row["pair"] == pair])


def test_spectra_without_a_folder_are_a_table_on_stdout(sky: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["spectra", sky, "i500,i500", "i500,cmb", "--lmax", "32", "--bins", "2:10,10:30", "--errors", "knox"]
    text = say([*words, "--mask", "mask_north"], capsys)
    found = sm.spectra(
        sky, [("i500", "i500"), ("i500", "cmb")], lmax=32, bins=[(2, 10), (10, 30)], errors="knox", mask="mask_north"
    ).run(progress=False)
    assert text.startswith("pair,map_1,map_2,unit,ell_start,ell_stop,ell,")
    for place, pair in enumerate(("i500 x i500", "i500 x cmb")):
        assert column(rows(text), pair, "ell").tolist() == found["ell"].values.tolist()
        for name in ("cl", "error"):
            np.testing.assert_allclose(column(rows(text), pair, name), found[name].values[place], rtol=1e-12)
    # What was asked for is no chatter.
    assert say([*words, "--mask", "mask_north", "--quiet"], capsys) == text


def test_spectra_into_a_folder(sky: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "found"
    words = ["spectra", sky, "i500,i500", "--lmax", "20", "--out-dir", str(folder)]
    assert say(words, capsys) == f"{folder}\n"
    assert {"spectra.zarr", "spectra.csv", "spectra.png", "index.html"} <= {path.name for path in folder.iterdir()}
    changed = (folder / "spectra.csv").stat().st_mtime_ns
    assert say(words, capsys) == f"{folder}\n"
    assert (folder / "spectra.csv").stat().st_mtime_ns == changed
    code = cli.main(["spectra", sky, "i500,i500", "--lmax", "24", "--out-dir", str(folder)])
    assert code == 2
    assert "another run" in capsys.readouterr().err


def test_apodize_is_that_of_python(sky: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = say(["apodize", sky, "mask_north", "600", "--unit", "arcmin", "--kind", "C2", "--out", "weight_a"], capsys)
    assert "apodize" in said
    sm.apodize(sky, "mask_north", 10.0, kind="C2", out="weight_b").run(progress=False)
    made = sm.open(sky)
    np.testing.assert_array_equal(made["weight_a"].values, made["weight_b"].values)
    assert 0 < float(made["weight_a"].mean()) < 1


def test_smooth_is_that_of_python(sky: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(["smooth", sky, "i500", "cmb", "--fwhm", "10", "--unit", "deg", "--out", "s1", "s2"], capsys)
    sm.smooth(sky, ["i500", "cmb"], 10.0, unit="deg").run(progress=False)
    made = sm.open(sky)
    for words, python in (("s1", "i500_smooth"), ("s2", "cmb_smooth")):
        np.testing.assert_array_equal(made[words].values, made[python].values)
    assert float(made["s2"].std()) < 0.8 * float(made["cmb"].std())


def test_resample_is_that_of_python(sky: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say(["resample", sky, str(tmp_path / "words.zarr"), "--nside", "8", "--maps", "cmb", "--lmax", "12"], capsys)
    sm.resample(sky, tmp_path / "python.zarr", 8, maps="cmb", lmax=12).run(progress=False)
    words, python = (sm.open(tmp_path / f"{name}.zarr")["cmb"].values for name in ("words", "python"))
    np.testing.assert_array_equal(words, python)
    assert words.size == 768


def test_synthesize_is_that_of_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cl = 1.0 / (1.0 + np.arange(33)) ** 2
    np.savetxt(tmp_path / "cl.txt", np.c_[np.arange(33), cl])
    made = str(tmp_path / "made.zarr")
    say(["synthesize", str(tmp_path / "cl.txt"), made, "--nside", "16", "--seed", "4"], capsys)
    sm.synthesize(cl, made, name="same", seed=4).run(progress=False)
    sm.synthesize(cl, made, name="other", seed=5).run(progress=False)
    maps = sm.open(made)
    np.testing.assert_array_equal(maps["g"].values, maps["same"].values)
    assert not np.array_equal(maps["g"].values, maps["other"].values)


@pytest.mark.parametrize("form", ["folder", "table"])
def test_spectra_as_they_were_written_can_be_synthesized(
    sky: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    pairs = [("i500", "i500"), ("i500", "cmb"), ("cmb", "cmb")]
    words = ["spectra", sky, *(",".join(pair) for pair in pairs), "--lmax", "20"]
    if form == "folder":
        say([*words, "--out-dir", str(tmp_path / "found")], capsys)
    else:
        (tmp_path / "found").write_text(say(words, capsys))
    twin = str(tmp_path / "twin.zarr")
    say(["synthesize", str(tmp_path / "found"), twin, "--nside", "16", "--name", "i500", "cmb"], capsys)
    measured = sm.spectra(sky, pairs, lmax=20).run(progress=False)
    sm.synthesize(measured, str(tmp_path / "same.zarr"), nside=16, name=["i500", "cmb"]).run(progress=False)
    for name in ("i500", "cmb"):
        same = sm.open(tmp_path / "same.zarr")[name].values
        np.testing.assert_allclose(sm.open(twin)[name].values, same, rtol=1e-6, atol=1e-6 * same.std())


@pytest.mark.parametrize(
    ("session", "worker"),
    [
        (Session(memory="2GB"), Worker(2 * 10**9, 4)),
        (Session(workers=2, threads=3, memory="1GB"), Worker(10**9, 3, processes=2)),
        (Session(threads=4, memory="1GB"), None),
    ],
)
def test_a_plan_that_suits_itself_to_memory_is_told_of_it(session: Session, worker: Worker | None) -> None:
    """Less memory than there is must not end in a refusal where lower bands would do."""
    asked: list[Worker] = []

    def refit(worker: Worker) -> sm.Plan[None]:
        asked.append(worker)
        return sm.Plan("other", "nowhere", execute=lambda run: None, worker=worker)

    plan: sm.Plan[None] = sm.Plan("one", "nowhere", execute=lambda run: None, worker=Worker(10**9, 4), refit=refit)
    settled = session.settle(plan)
    assert asked == ([] if worker is None else [worker])
    assert settled.verb == ("one" if worker is None else "other")
