"""The commands from gas to dust: words and TOML become the same values, do what Python does, and print answers."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skymill as sm
from skymill.deploy import cli
from skymill.deploy.steps import read_steps
from skymill.deploy.verbs import BY_NAME

MAPS = [
    "n_hi",
    "nhi",
    "lvc",
    "ivc",
    "nhii",
    "nh2",
    "i353",
    "i857",
    "p353",
    "sigma_i857",
    "ebv_sfd",
    "ebv_stars",
    "mask",
]
CAPS = ["--region", "ngc=b > 0", "--region", "sgc=b < 0"]


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Gas and dust at nside 16, and a fit of both caps in a folder beside it."""
    where = tmp_path_factory.mktemp("gas")
    store = str(where / "sky.zarr")
    options = {"channels": 9, "sigma_temperature": 1.28, "mean_polarization": 0.1, "sigma_polarization": 0.02}
    sm.simulate("gas", store, 16, seed=3, maps=MAPS, options=options).run(progress=False)
    region = {"ngc": "b > 0", "sgc": "b < 0"}
    plan = sm.fit(
        store, ["lvc", "ivc"], ["i353", "i857"], mask="mask", region=region, jackknife=4, out_dir=where / "fit"
    )
    plan.run(progress=False)
    return store


def say(words: list[str], capture: pytest.CaptureFixture[str]) -> str:
    """What a command that must succeed says on stdout."""
    code = cli.main(words)
    said = capture.readouterr()
    assert code == 0, said.err
    return said.out


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize(
    ("verb", "words", "toml", "expected"),
    [
        ("ingest_cube", "a b s --edges -90,-35,35", "edges = [-90, -35, 35]", {"edges": [-90, -35, 35]}),
        ("ingest_cube", "a b s --edges -90 -35 35", "edges = [-90, -35, 35]", {"files": ["a", "b"]}),
        ("ingest_cube", "a s --edges -90:-35,35:90", "edges = [[-90, -35], [35, 90]]", {"files": "a"}),
        ("ingest_cube", "a s --edges e.txt", 'edges = "e.txt"', {"edges": "e.txt"}),
        ("ingest_cube", "a s --velocity 5 --width 10", "velocity = [5]\nwidth = 10", {"velocity": [5], "width": 10}),
        ("ingest_cube", "a s --velocity v.txt --width 3 4", 'velocity = "v.txt"\nwidth = [3, 4]', {"width": [3, 4]}),
        ("mask", "s m --where |b|>30", 'where = "|b|>30"', {"where": "|b|>30"}),
        ("mask", "s m --where b>30 --where l<90", 'where = ["b>30", "l<90"]', {"where": ["b>30", "l<90"]}),
        ("mask", "s m --sources s.csv --radius 2", 'sources = "s.csv"\nradius = 2', {"sources": "s.csv"}),
        (
            "mask",
            "s m --sources 1,-2 --sources 3,4,5",
            "sources = [[1, -2], [3, 4, 5]]",
            {"sources": [[1, -2], [3, 4, 5]]},
        ),
        ("templates", "s --cuts lvc=-35:35", "cuts = { lvc = [-35, 35] }", {"cuts": {"lvc": [-35, 35]}}),
        (
            "templates",
            "s --cuts a=-1:1 --cuts ivc=-90:-35,35:90",
            "cuts = { a = [-1, 1], ivc = [[-90, -35], [35, 90]] }",
            {"cuts": {"a": [-1, 1], "ivc": [[-90, -35], [35, 90]]}},
        ),
        ("templates", "s --co w --co-systematic 0.1", 'co = "w"\nco_systematic = 0.1', {"co_systematic": 0.1}),
        ("fit", "s --region b>30", 'region = "b>30"', {"region": "b>30"}),
        ("fit", "s --region b>=30", 'region = "b>=30"', {"region": "b>=30"}),
        ("fit", "s --region survey==2", 'region = "survey==2"', {"region": "survey==2"}),
        (
            "fit",
            "s --region n=b>3 --region s=b<3",
            'region = { n = "b>3", s = "b<3" }',
            {"region": {"n": "b>3", "s": "b<3"}},
        ),
        ("fit", "s --noise 0.1", "noise = 0.1", {"noise": 0.1}),
        ("fit", "s --noise a=0.1 --noise b=s_b", 'noise = { a = 0.1, b = "s_b" }', {"noise": {"a": 0.1, "b": "s_b"}}),
        ("fit", "s --jackknife none", "jackknife = false", {"jackknife": None}),
        ("fit", "s --jackknife none", 'jackknife = "none"', {"jackknife": None}),
        ("fit", "s --jackknife 8 --maps", "jackknife = 8\nmaps = true", {"jackknife": 8, "maps": True}),
        ("fit", "s --maps model residual", 'maps = ["model", "residual"]', {"maps": ["model", "residual"]}),
        (
            "fit",
            "s --noise-spectrum a=cl.txt",
            'noise_spectrum = { a = "cl.txt" }',
            {"noise_spectrum": {"a": "cl.txt"}},
        ),
        ("fit", "s --no-offset", "offset = false", {"offset": False}),
        (
            "kmeans",
            "s n --k 3 --weights v=5,n=0.2",
            "k = 3\nweights = { v = 5, n = 0.2 }",
            {"weights": {"v": 5, "n": 0.2}},
        ),
        ("kmeans", "s n --k 3 --weights v=5 n=0.2", "k = 3\nweights = { v = 5, n = 0.2 }", {"k": 3}),
        ("kmeans", "s n --k 3 --out none", "k = 3\nout = false", {"out": None}),
        ("kmeans", "s n --k 3 --init parallel", 'k = 3\ninit = "parallel"', {"init": "parallel"}),
        ("kmeans_stability", "s n --k 2 --seeds 0,1 2", "k = 2\nseeds = [0, 1, 2]", {"seeds": [0, 1, 2]}),
        ("kmeans_search", "s n --k 1 2 --v 2,8 --n 0.3", "k = [1, 2]\nv = [2, 8]\nn = 0.3", {"v": [2, 8], "n": [0.3]}),
        (
            "simplify",
            "s --merge a+b c+d+e",
            'merge = [["a", "b"], ["c", "d", "e"]]',
            {"merge": [["a", "b"], ["c", "d", "e"]]},
        ),
        (
            "slopes",
            "s --frequencies a=353 b=857",
            "frequencies = { a = 353, b = 857 }",
            {"frequencies": {"a": 353, "b": 857}},
        ),
        ("slopes", "s --noise a=0.1 --noise b=m", 'noise = { a = 0.1, b = "m" }', {"noise": {"a": 0.1, "b": "m"}}),
        (
            "slopes",
            "s --contaminants cib:a=1",
            "contaminants = { cib = { a = 1 } }",
            {"contaminants": {"cib": {"a": 1}}},
        ),
        ("profiles", "s --bins 5", "bins = 5", {"bins": 5}),
        (
            "profiles",
            "s --bins a=0,1,2 --bins b=-1,1",
            "bins = { a = [0, 1, 2], b = [-1, 1] }",
            {"bins": {"a": [0, 1, 2], "b": [-1, 1]}},
        ),
        ("diagnose", "s --regions A=120,-60,5", "regions = { A = [120, -60, 5] }", {"regions": {"A": [120, -60, 5]}}),
        ("diagnose", "s --regions none", "regions = {}", {"regions": {}}),
        (
            "diagnose",
            "s --expected i857:nh2=1.7 --expected i353:nh2=0.1",
            "expected = { i857 = { nh2 = 1.7 }, i353 = { nh2 = 0.1 } }",
            {"expected": {"i857": {"nh2": 1.7}, "i353": {"nh2": 0.1}}},
        ),
    ],
)
def test_words_and_toml_are_the_same_values(
    tmp_path: Path, verb: str, words: str, toml: str, expected: dict[str, Any]
) -> None:
    known = BY_NAME[verb]
    must = {
        option.name: option for option in known.options
        if option.required and not option.positional and f"--{option.name} " not in words
    }  # fmt: skip
    given_words = [*words.split(), *(part for name in must for part in (must[name].flag, "t"))]
    given = cli._given(known.options, cli.verb_parser(known).parse_intermixed_args(given_words))
    assert {key: given[key] for key in expected} == expected
    lines = [toml, *(f'{name} = "t"' for name in must)]
    positional = [option.name for option in known.options if option.positional]
    for name in positional:
        value = given[name]
        lines.append(f"{name} = {value!r}".replace("'", '"'))
    file = tmp_path / "steps.toml"
    file.write_text("\n".join([f'[[step]]\nverb = "{verb}"', *lines, ""]))
    assert dict(read_steps(str(file)).steps[0].values) == given


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ingest-cube a s --edges -90:0:90", "LOW:HIGH"),
        ("ingest-cube a s --velocity 1 two", "`velocity` = 'two'"),
        ("ingest-cube a s --edges nowhere.txt", "nowhere.txt"),
        ("mask s m --sources 1", "`sources` = ['1']"),
        ("mask s m --where b>>3", "b>>3"),
        ("mask s ngc --where b>60", "call it ngc_used"),
        ("templates s --cuts lvc", "NAME=VALUE expected, for example lvc=-35:35"),
        ("templates s --cuts lvc=35", "LOW:HIGH"),
        ("templates s --cuts lvc=a:b", "`cuts` = 'a'"),
        ("fit s --templates a --target b --jackknife many", 'a whole number, or "none"'),
        ("fit s --templates a --target b --region n=b>3 --region b<3", "give it one"),
        ("fit s --templates a --target b --region n=b>3 --region n=b<3", "'n' twice"),
        ("fit s --templates a", "--target"),
        ("fit --templates a b --target c s", "Begin with what has no name: skymill fit store ..."),
        ("fit s --templates a --target b --template c", "did you mean '--templates'"),
        ("kmeans s n", "--k"),
        ("kmeans s n --k two", "`k` = 'two'"),
        ("kmeans s n --k 2 --weights v=much", "`weights` = 'much'"),
        ("kmeans s n --k 2 --weights v=5 n", "for example v=5"),
        ("kmeans s n --k 2 --init nowhere.csv", '"greedy", "parallel" or a file'),
        ("kmeans-stability s n --k 2 --centres nowhere.csv", "cannot be read"),
        ("kmeans-search s n --k 1 x", "`k` = 'x'"),
        ("simplify s --templates a b --target c --merge a", "two templates or more"),
        ("slopes s --noise 0.1", "NAME=VALUE"),
        ("slopes s --scaling gass", "regression"),
        ("profiles s --residual a --against b --bins a=0,x", "`bins` = 'x'"),
        ("diagnose s --fit f --out-dir o --regions A=1,2", "longitude, latitude and radius"),
        ("diagnose s --fit f --out-dir o --expected nh2=1", "NAME:MAP=X"),
        ("compare-reddening s --target a --maps b --factors b", "NAME=VALUE"),
    ],
)
def test_words_that_make_no_sense(
    line: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sm.simulate("gas", "s", 4, maps=["nhi"]).run(progress=False)
    Path("a").write_text("")
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
    ("verb", "key", "value", "words"),
    [
        ("ingest_cube", "edges", [[1, 2], 3], "pairs such as"),
        ("ingest_cube", "width", True, "a number"),
        ("mask", "where", 3, "a text"),
        ("mask", "sources", [[1]], "longitude, latitude"),
        ("templates", "cuts", [-35, 35], "a table such as"),
        ("templates", "cuts", {"a": [1]}, "[low, high]"),
        ("fit", "region", {"a": 3}, "a text"),
        ("fit", "jackknife", True, "a whole number"),
        ("fit", "maps", 3, "a text"),
        ("fit", "noise", [1, 2], "a number"),
        ("kmeans", "weights", 5, "a table of numbers"),
        ("kmeans", "weights", {"v": "x"}, "a number"),
        ("kmeans", "init", [[1, 2]], "rows of x, y, z, v, n"),
        ("simplify", "merge", ["a", "b"], "two templates or more"),
        ("diagnose", "regions", [["A", 1, 2, 3]], "a table such as"),
        ("diagnose", "expected", {"a": 3}, "a table of numbers"),
    ],
)
def test_toml_that_makes_no_sense(verb: str, key: str, value: object, words: str) -> None:
    option = next(each for each in BY_NAME[verb].options if each.name == key)
    with pytest.raises(sm.errors.InputError, match=re.escape(words)):
        option.from_toml(value)


def test_mask_tells_its_area_even_where_all_else_is_quiet(sky: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = say(["mask", sky, "used", "--where", "mask and b > 0", "--quiet"], capsys)
    left = sm.mask(sky, "again", "mask and b > 0").run(progress=False)
    assert f"{left.area_deg2:.1f} deg^2, f_sky {left.f_sky:.4f}" in said
    assert "b > 0 leaves by itself" in said


def test_templates_are_those_of_python(sky: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(["templates", sky, "--cube", "n_hi", "--cuts", "slow=-20:20", "--cuts", "fast=-90:-40,40:90"], capsys)
    sm.templates(sky, cube="n_hi", cuts={"s": (-20, 20), "f": [(-90, -40), (40, 90)]}).run(progress=False)
    made = sm.open(sky)
    for word, python in (("slow", "s"), ("fast", "f")):
        np.testing.assert_array_equal(made[word].values, made[python].values)
    assert float(made["fast"].mean()) != float(made["slow"].mean())


def test_a_fit_is_a_table(sky: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", sky, "--templates", "lvc", "ivc", "--target", "i857", "--mask", "mask", "--jackknife", "4", *CAPS]
    said = say([*words, "--out-dir", str(tmp_path / "fit")], capsys)
    found = sm.fit(
        sky, ["lvc", "ivc"], "i857", mask="mask", jackknife=4, region={"ngc": "b > 0", "sgc": "b < 0"}
    ).run(progress=False)  # fmt: skip
    lines = [line.split() for line in said.splitlines()]
    printed = [line for line in lines if line[:2] == ["i857", "ivc"]]
    for name, line in zip(("ngc", "sgc"), printed, strict=True):
        one = found.sel(region=name, target="i857", template="ivc")
        assert float(line[2]) == pytest.approx(float(one["coefficient"]), rel=1e-4)
        assert float(line[3]) == pytest.approx(float(one["error"]), rel=1e-2)
        assert float(line[4]) == pytest.approx(float(one["jackknife_error"]), rel=1e-2)
        assert " ".join(line[5:]) == str(one["unit"].values)
        assert f"{name}: {int(one['pixels'])} pixels, {float(one['area']):.1f} deg^2" in said
    assert "No noise was given for i857: chi^2 is the sum of squared residuals" in said
    assert said.rstrip().endswith(str(tmp_path / "fit"))
    assert (tmp_path / "fit" / "fit.json").is_file()


def test_a_fit_without_regions_jackknife_or_offset(sky: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", sky, "--templates", "lvc", "--target", "i857", "--jackknife", "none", "--no-offset"]
    said = say([*words, "--noise", "sigma_i857"], capsys)
    assert "jackknife" not in said
    assert "offset" not in said
    assert "No noise was given" not in said
    assert "i857" in say(["fit", sky, "--templates", "lvc", "--target", "i857", "--superpixels", "2"], capsys)


def test_centres_are_read_as_they_are_printed(sky: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["kmeans", sky, "n_hi", "--k", "2", "--weights", "v=5", "n=0.2", "--mask", "mask"]
    first = say([*words, "--quiet"], capsys)
    found = sm.kmeans(sky, "n_hi", 2, weights={"v": 5, "n": 0.2}, mask="mask", out=None).run(progress=False)
    for place, row in enumerate(rows(first)):
        for name in ("x", "y", "z", "v", "n"):
            assert float(row[name]) == float(found["centres"].sel(attribute=name).values[place])
        assert int(row["voxels"]) == int(found["counts"].values[place])
    (tmp_path / "centres.csv").write_text(first)
    again = say([*words, "--init", str(tmp_path / "centres.csv"), "--out", "none"], capsys)
    np.testing.assert_allclose([float(row["v"]) for row in rows(again)], [float(row["v"]) for row in rows(first)])
    stable = ["kmeans-stability", *words[1:], "--seeds", "0,1", "--centres", str(tmp_path / "centres.csv")]
    said = say(stable, capsys)
    assert said.startswith("adjusted Rand index, mean ")
    assert "reference" in said


def test_a_search_and_what_is_left_of_templates(sky: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["kmeans-search", sky, "n_hi", "--k", "1,2", "--v", "4", "--n", "0.3", "--rounds", "0", "--mask", "mask"]
    said = say([*words, "--out-dir", str(tmp_path / "search"), "--out", "found"], capsys)
    assert said.startswith("elbow at k = 2, weights v=4 n=0.3; 2 trials\n")
    assert "No noise was given for i857" in said
    assert [line.split()[0] for line in said.splitlines()[1:4]] == ["k", "1", "2"]
    assert {"found_1", "found_2"} <= set(sm.open(sky))
    words = ["simplify", sky, "--templates", "lvc", "ivc", "nh2", "--target", "i857", "--mask", "mask"]
    said = say([*words, "--jackknife", "none", "--merge", "lvc+ivc", "--quiet"], capsys)
    assert said.rstrip().splitlines()[-1].startswith("templates left: lvc_ivc")


def test_residuals_are_tables(sky: str, capsys: pytest.CaptureFixture[str]) -> None:
    fit = str(Path(sky).parent / "fit")
    shared = ["--fit", fit, "--mask", "mask", *CAPS]
    said = say(["temperature", sky, *shared], capsys)
    assert said.split()[:2] == ["ngc", "sgc"]
    assert re.search(r"^sigma, 20\.0 \[K\] +\d\.\d+ +\d\.\d+$", said, re.MULTILINE)
    said = say(["slopes", sky, *shared, "--jackknife", "4"], capsys)
    assert re.search(r"^verdict +\S+ +\S+", said, re.MULTILINE)
    assert cli.main(["slopes", sky, "--fit", fit]) == 2
    assert "(--region ngc=WHERE, once for each)" in capsys.readouterr().err
    said_of_nothing = say(["slopes", sky, *shared, "--jackknife", "4", "--reject", "0.999", "--tolerance", "0"], capsys)
    assert re.search(r"^consistent +- +-$", said_of_nothing, re.MULTILINE)
    python = sm.slopes(sky, fit=fit, mask="mask", jackknife=4, region={"ngc": "b > 0", "sgc": "b < 0"}).run(
        progress=False
    )
    assert f"{float(python['slope'].values[0, 0]):.5g}" in said
    said = say(
        ["profiles", sky, "--residual", "i857", "--against", "nhi", "nhii", "--bins", "nhi=0,2,4", *shared], capsys
    )
    found = rows(said)
    assert {(row["region"], row["against"]) for row in found} == {
        (r, a) for r in ("ngc", "sgc") for a in ("nhi", "nhii")
    }
    assert len([row for row in found if row["against"] == "nhi"]) <= 4
    assert all(float(row["count"]) > 0 for row in found)
    assert "slope" in say(["polarization", sky, *shared, "--jackknife", "4"], capsys)


def test_diagnose_writes_its_page(sky: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = str(Path(sky).parent / "fit")
    words = [
        "diagnose",
        sky,
        "--fit",
        fit,
        "--out-dir",
        str(tmp_path / "d"),
        "--mask",
        "mask",
        "--regions",
        "A=120,60,20",
    ]
    said = say([*words, "--jackknife", "4", "--bins", "5", "--targets", "i857", *CAPS], capsys)
    assert (tmp_path / "d" / "index.html").is_file()
    assert re.search(r"^A +i857: sigma of residual", said, re.MULTILINE)
    # A report on slopes ends with what they mean, region by region.
    kept = json.loads((tmp_path / "d" / "report.json").read_text())["slopes"]
    told = re.findall(r"^(\w+) +slopes fit: ([a-z -]+?)(?: \(|$)", said, re.MULTILINE)
    assert told == list(zip(kept["coordinates"]["region"], kept["variables"]["verdict"]["values"], strict=True))
    assert {"ngc", "sgc"} <= {region for region, _ in told}


def test_reddening_and_what_it_says_of_a_position(sky: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = say(["reddening", sky, "--templates", "lvc", "ivc", "--mask", "mask", "--jackknife", "4"], capsys)
    assert said.split()[:6] == ["region", "template", "coefficient", "error", "jackknife", "unit"]
    found = sm.reddening(sky, ["lvc", "ivc"], mask="mask", jackknife=4).run(progress=False)
    row = next(line.split() for line in said.splitlines() if line.split()[:2] == ["sgc", "ivc"])
    one = found.sel(region="sgc", template="ivc")
    for place, key, digits in ((2, "coefficient", 1e-4), (3, "error", 1e-2), (4, "jackknife_error", 1e-2)):
        assert float(row[place]) == pytest.approx(float(one[key]), rel=digits)
    assert " ".join(row[5:]) == "mmag / (1e20 cm^-2)"
    said = say(
        ["compare-reddening", sky, "--target", "ebv_stars", "--maps", "ebv", "ebv_sfd", "--factors", "ebv_sfd=0.86"],
        capsys,
    )
    assert "robust_scatter" in said
    query = sm.ReddeningQuery(sky)
    assert say(["ebv", sky, "120", "45"], capsys) == f"{float(query.ebv(120.0, 45.0)):.5f}\n"
    assert say(["ebv", sky, "120", "-45"], capsys) == f"{float(query.ebv(120.0, -45.0)):.5f}\n"
    assert say(["ebv", sky, "10", "20", "--equatorial"], capsys) == f"{float(query.query_equ(10.0, 20.0)):.5f}\n"
    assert say(["ebv", sky, "120", "45", "--map", "ebv_sfd"], capsys) != say(["ebv", sky, "120", "45"], capsys)
    assert cli.main(["reddening", sky, "--templates", "lvc", "--out", "ebv_lvc", "--upsample", "ivc"]) == 2
    assert "`upsample` speaks of 'ivc'" in capsys.readouterr().err
    assert cli.main(["ebv", sky, "120", "95"]) == 2
    assert cli.main(["ebv", sky, "120", "45", "--map", "i857"]) == 2


def test_info_of_a_cube(sky: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = say(["info", sky], capsys)
    assert "9 channels of cubes" in said
    assert "n_hi (9 channels)" in said
