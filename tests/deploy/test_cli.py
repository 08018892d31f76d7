"""The command line: the same verbs, names and defaults as the Python API; errors as one message."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skymill as sm
from skies import INTENSITY, Total
from skymill.chunking import store as stores
from skymill.chunking.schema import MapInfo
from skymill.deploy import cli
from skymill.deploy.session import Session
from skymill.deploy.verbs import BY_COMMAND, BY_NAME, SESSION, VERBS, Verb
from skymill.engine import ledger
from skymill.engine.mapping import map_plan
from skymill.engine.worker import Worker

# What a session says for all verbs stands in no verb's own options.
OF_THE_SESSION = {"threads", "memory"}
each_verb = pytest.mark.parametrize("verb", VERBS, ids=[verb.name for verb in VERBS])


def signature(verb: Verb) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(verb.load()).parameters
    return {name: value for name, value in parameters.items() if name not in OF_THE_SESSION}


def run(*words: str, capture: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, in this process."""
    try:
        code = cli.main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    said = capture.readouterr()
    return code, said.out, said.err


def test_every_verb_of_the_public_face_has_a_command() -> None:
    verbs = {name for name, home in sm._HOMES.items() if home.startswith("engine.")}
    verbs -= {"Bins", "connect", "Plan", "Worker"}
    assert {verb.name for verb in VERBS} == verbs


@each_verb
def test_options_are_the_parameters(verb: Verb) -> None:
    assert {option.name for option in verb.options} == set(signature(verb))


@each_verb
def test_defaults_are_the_defaults_of_the_api(verb: Verb) -> None:
    for option in verb.options:
        default = signature(verb)[option.name].default
        assert option.required is (default is inspect.Parameter.empty), option.name
        if not option.required:
            assert option.default == default, option.name


@each_verb
def test_positional_options_keep_the_order_of_the_api(verb: Verb) -> None:
    positional = [option.name for option in verb.options if option.positional]
    assert positional == [name for name in signature(verb) if name in positional]
    assert all(option.required for option in verb.options if option.positional)


@each_verb
def test_the_example_of_the_help_is_understood(verb: Verb) -> None:
    words = shlex.split(verb.example)
    assert words[:2] == ["skymill", verb.command]
    found = cli.verb_parser(verb).parse_intermixed_args(words[2:])
    values = cli._given(verb.options, found)
    assert {option.name for option in verb.options if option.required} <= set(values)


@each_verb
def test_help_names_every_option(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(verb.command, "--help", capture=capsys)
    assert code == 0
    for option in (*verb.options, *SESSION):
        assert (option.help.split()[0] if option.positional else option.flag) in out
    for common in ("--plan", "--quiet", "--debug", "--report"):
        assert common in out


def test_what_is_not_given_is_left_to_the_api() -> None:
    verb = BY_NAME["residual"]
    words = ["sky.zarr", "--prediction", "pred_850um", "--target", "i850um"]
    found = cli.verb_parser(verb).parse_intermixed_args(words)
    given = cli._given(verb.options, found)
    assert given == {"store": "sky.zarr", "prediction": "pred_850um", "target": "i850um"}
    found = cli.verb_parser(verb).parse_intermixed_args([*words, "--mask-above", "0.3", "--overwrite"])
    assert cli._given(verb.options, found) == given | {"mask_above": 0.3, "overwrite": True}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("predict m sky.zarr", {"models": ["m"], "store": "sky.zarr"}),
        ("predict m n sky.zarr --batch 8", {"models": ["m", "n"], "store": "sky.zarr", "batch": 8}),
        ("predict m n --out o sky.zarr", {"models": ["m", "n"], "store": "sky.zarr", "out": "o"}),
        ("predict m sky.zarr --inputs i160=a --inputs i250=b", {"inputs": {"i160": "a", "i250": "b"}}),
        ("ingest a=f.fits[T] b=g.fits sky.zarr", {"files": {"a": "f.fits[T]", "b": "g.fits"}}),
        ("ingest --frame galactic a=f.fits sky.zarr", {"frame": "galactic", "store": "sky.zarr"}),
        ("ingest --unit a=K_CMB --unit b=MJy/sr a=f b=g s", {"unit": {"a": "K_CMB", "b": "MJy/sr"}}),
        ("ingest --beam-fwhm-arcmin 5 a=f s", {"beam_fwhm_arcmin": 5.0}),
        ("ingest --beam-fwhm-arcmin a=5 a=f s", {"beam_fwhm_arcmin": {"a": 5.0}}),
        (
            "simulate gas s --nside 8 --options clouds=2 --options emissivities=[0.4,0.2]",
            {"kind": "gas", "options": {"clouds": 2, "emissivities": [0.4, 0.2]}},
        ),
        ("ratio s --temperature 20", {"temperature": 20.0}),
        ("ratio s --temperature dust_t", {"temperature": "dust_t"}),
        ("ratio s --wavelengths-um exact", {"wavelengths_um": "exact"}),
        ("ratio s --wavelengths-um 850 1380", {"wavelengths_um": [850.0, 1380.0]}),
        ("evaluate s --prediction p --target t --out-dir o --low-cut 1", {"low_cut": 1.0}),
        (
            "evaluate s --prediction p q --target t u --out-dir o --low-cut 1 2 --regions A,1,-2,3",
            {"prediction": ["p", "q"], "low_cut": [1.0, 2.0], "regions": [("A", 1.0, -2.0, 3.0)]},
        ),
        ("evaluate s --prediction p --target t --out-dir o --names 1=plane", {"names": {1: "plane"}}),
        ("evaluate s --prediction p --target t --out-dir o --accept sigma=0.04", {"accept": {"sigma": 0.04}}),
    ],
)
def test_words_become_values(line: str, expected: dict[str, object]) -> None:
    name, *words = line.split()
    verb = BY_NAME[name]
    given = cli._given(verb.options, cli.verb_parser(verb).parse_intermixed_args(words))
    assert {key: given.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("predikt m sky.zarr", ["'predikt' is no command", "did you mean 'predict'"]),
        ("predict m", ["required", "store"]),
        ("predict m sky.zarr --otu x", ["--otu", "did you mean '--out'"]),
        ("predict m sky.zarr --over", ["--over", "--overwrite"]),
        ("predict m sky.zarr --batch many", ["`batch` = 'many' came", "whole number"]),
        ("predict m nowhere.zarr", ["there is no model"]),
        ("residual nowhere.zarr --prediction p --target t", ["no sky store at", "nowhere.zarr"]),
        ("residual nowhere.zarr --prediction p --target t --mask-above x", ["`mask_above`", "number"]),
        ("residual nowhere.zarr --prediction p", ["required", "--target"]),
        ("ingest planck.fits sky.zarr", ["'planck.fits' came", "NAME=VALUE"]),
        ("ingest a=f.fits a=g.fits sky.zarr", ["'a' twice"]),
        ("ingest a=f.fits sky.zarr", ["f.fits", "does not exist"]),
        ("info nowhere.zarr", ["no sky store at"]),
        ("run nowhere.toml", ["no file nowhere.toml"]),
        ("export s --names a --path f --ordering sideways", ["--ordering", "nested", "ring"]),
        ("predict m sky.zarr --workers two", ["`workers` = 'two'", "whole number"]),
        ("evaluate s --prediction p --target t --out-dir o --regions A,1", ["longitude, latitude"]),
    ],
)
def test_errors_are_one_message_and_code_2(
    line: str, parts: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*line.split(), capture=capsys)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert "skymill" in err
    for part in parts:
        assert part in err


def test_debug_gives_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(sm.errors.StoreNotFoundError):
        cli.main(["residual", "nowhere.zarr", "--prediction", "p", "--target", "t", "--debug"])


def test_nothing_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capture=capsys)
    assert code == 2
    for name in (*BY_COMMAND, *cli.OTHERS):
        assert re.search(rf"^  {name} ", out, flags=re.MULTILINE)
    assert run("--help", capture=capsys)[:2] == (0, out)
    assert run("--version", capture=capsys)[1] == f"skymill {sm.__version__}\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (sm.errors.InputError("bad"), 2, "skymill: bad\n"),
        (sm.errors.MissingMapError("no map"), 2, "skymill: no map\n"),
        (sm.errors.MemoryLimitError("too big"), 2, "skymill: too big\n"),
        (sm.errors.RunError("set aside"), 1, "skymill: set aside\n"),
        (sm.errors.DiskFullError("full"), 1, "skymill: full\n"),
        (PermissionError(13, "Permission denied", "x"), 2, "skymill: [Errno 13] Permission denied: 'x'\n"),
        (KeyboardInterrupt(), 130, "the same command continues"),
        (ZeroDivisionError("oops"), 2, "ZeroDivisionError: oops\nThis is an error of skymill itself"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def action() -> None:
        raise error

    monkeypatch.setattr(sys, "stdout", sys.stdout)  # a broken pipe leaves None in its place
    assert cli.guarded(action) == code
    assert said in capsys.readouterr().err
    if not isinstance(error, BrokenPipeError):
        with pytest.raises(type(error)):
            cli.guarded(action, debug=True)


def test_notes_of_an_error_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> None:
        error = sm.errors.InputError("bad")
        error.add_note("in step 2")
        raise error

    cli.guarded(action)
    assert capsys.readouterr().err == "skymill: bad\nin step 2\n"


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> Verb:
    """The verb residual, replaced by one that writes the sum of the bands and can be told to fail."""

    def residual(store: str, prediction: str, target: str, mask_above: float = 0.2, **more: Any) -> Any:
        fails = (int(target),) if target.isdigit() else ()
        kernel = Total(factor=mask_above, fails=fails, delay=float(prediction))
        return map_plan("residual", kernel, target=store, reads=("i160", "i250"), writes=[INTENSITY],
                        parameters={"factor": mask_above}, **more)  # fmt: skip

    import skymill.engine.residual

    monkeypatch.setattr(skymill.engine.residual, "residual", residual)
    return BY_NAME["residual"]


def test_plan_shows_and_writes_nothing(sky: str, doubled: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(map(str, Path(sky).rglob("*")))
    words = ["residual", sky, "--prediction", "0", "--target", "no", "--plan"]
    code, out, _ = run(*words, capture=capsys)
    assert code == 0
    assert "11 to do, 0 done already, 1 unobserved, 12 in all" in out
    assert sorted(map(str, Path(sky).rglob("*"))) == before
    _, out, _ = run(*words, "--workers", "3", "--threads", "2", "--memory", "4GB", capture=capsys)
    assert "3 x 2 threads on cpu" in out
    assert "of 4.0 GB" in out


def test_run_report_quiet_and_again(
    sky: str, doubled: Verb, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["residual", sky, "--prediction", "0", "--target", "no"]
    report = tmp_path / "reports" / "run.json"
    code, out, _ = run(*words, "--report", str(report), "--threads", "1", capture=capsys)
    assert code == 0
    assert "11 computed" in out
    assert json.loads(report.read_text())["counts"]["computed"] == 11
    assert "11 verified" in run(*words, capture=capsys)[1]
    assert run(*words, "--quiet", capture=capsys) == (0, "", "")
    assert "another run" in run(*words, "--mask-above", "3", capture=capsys)[2]
    assert run(*words, "--mask-above", "3", "--overwrite", capture=capsys)[0] == 0


def test_tiles_set_aside_are_said_and_code_1(
    sky: str, doubled: Verb, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    report = tmp_path / "run.json"
    words = ["residual", sky, "--prediction", "0", "--target", "3", "--report", str(report)]
    code, _, err = run(*words, capture=capsys)
    assert code == 1
    assert "poisoned tile 3" in err
    assert "Traceback" not in err
    assert json.loads(report.read_text())["set_aside"][0][0] == 3
    words[5] = "no"
    code, out, _ = run(*words, capture=capsys)
    assert code == 0
    assert "1 computed, 1 unobserved, 10 verified" in out


def test_memory_that_does_not_suffice(sky: str, doubled: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["residual", sky, "--prediction", "0", "--target", "no", "--memory", "1MB"]
    code, _, err = run(*words, capture=capsys)
    assert code == 2
    assert "Any of these fits" in err
    assert "total" not in stores.infos(sky)


@pytest.mark.parametrize(
    ("session", "worker"),
    [
        (Session(), Worker(10**9, 4)),
        (Session(threads=1), Worker(10**9, 1)),
        (Session(memory="2GB"), Worker(2 * 10**9, 4)),
        (Session(workers=2, threads=3, memory="1GB"), Worker(10**9, 3, processes=2)),
    ],
)
def test_session_options_reach_the_plan(session: Session, worker: Worker) -> None:
    plan: sm.Plan[None] = sm.Plan("count", "nowhere", execute=lambda run: None, worker=Worker(10**9, 4))
    assert session.settle(plan).worker == worker


@pytest.mark.slow
def test_workers_and_an_address(sky: str, doubled: Verb, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = tmp_path / "run.json"
    words = ["residual", sky, "--prediction", "0", "--target", "no", "--report", str(report)]
    assert run(*words, "--workers", "1", "--threads", "1", capture=capsys)[0] == 0
    (process,) = json.loads(report.read_text())["processes"]
    assert not process.endswith(f":{os.getpid()}")
    with sm.connect(workers=1, threads=1) as client:
        where = client.scheduler.address
        assert run(*words, "--address", where, "--overwrite", capture=capsys)[0] == 0
    code, _, err = run(*words, "--address", where, "--workers", "1", capture=capsys)
    assert code == 2
    assert "one or the other" in err


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("workers", [(), ("--workers", "1")], ids=["here", "workers"])
def test_interrupt_says_that_the_same_command_continues(tmp_path: Path, workers: tuple[str, ...]) -> None:
    from skies import make_sky

    sky = make_sky(tmp_path / "sky.zarr", nside=32)
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from faulty import Told
from skies import INTENSITY
from skymill.deploy import cli
import skymill.engine.residual as module
from skymill.engine.mapping import map_plan
module.residual = lambda store, prediction, target: map_plan(
    "residual", Told({str(tmp_path / "diary")!r}, delay=2.0), target=store, reads=("i160",), writes=[INTENSITY])
if __name__ == "__main__":
    print("ready", flush=True)
    words = ["residual", {sky!r}, "--prediction", "p", "--target", "t", "--threads", "1", *{workers!r}]
    sys.exit(cli.main(words))
"""
    script = tmp_path / "interrupted.py"
    script.write_text(code)
    # In a group of its own: a terminal sends Ctrl-C to all the processes of a command.
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 120
    while not (tmp_path / "diary").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # the first of eleven tiles is in hand
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command continues" in err
    assert "Traceback" not in err


def test_progress_is_logged_once_and_not_where_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        cli._log(quiet=False)
    logging.getLogger("skymill").info("half done")
    logging.getLogger("distributed").warning("of no concern")
    said = capsys.readouterr().err
    assert said.count("half done") == 1
    assert "of no concern" not in said
    cli._log(quiet=True)
    logging.getLogger("skymill").info("half done")
    assert "half done" not in capsys.readouterr().err


def test_info(sky: str, capsys: pytest.CaptureFixture[str]) -> None:
    stores.create_maps(sky, [MapInfo("mine", "intensity", "K_CMB", band="850um", beam_fwhm_arcmin=4.9)])
    values = np.full(stores.tiling_of(sky).tile_npix, np.nan, np.float32)
    values[: values.size // 4] = 1
    stores.write_tile(sky, "mine", 0, values)
    code, out, _ = run("info", sky, capture=capsys)
    assert code == 0
    assert "nside 32" in out
    assert "galactic" in out
    row = next(line.split() for line in out.splitlines() if line.strip().startswith("mine"))
    assert row[1:4] == ["K_CMB", "850um", "4.9'"]
    facts = json.loads(run("info", sky, "--json", capture=capsys)[1])
    assert facts["nside"] == 32
    (mine,) = (entry for entry in facts["maps"] if entry["name"] == "mine")
    assert mine["observed"] == pytest.approx(1 / 48)
    stored = sum(file.stat().st_size for file in Path(sky, "mine").rglob("*") if file.is_file())
    assert mine["bytes"] == stored
    assert facts["bytes"] == sum(entry["bytes"] for entry in facts["maps"])


def test_info_tells_finished_from_unfinished(sky: str, doubled: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["residual", sky, "--prediction", "0", "--target"]
    run(*words, "4", capture=capsys)
    assert "unfinished: 1 of 12 tiles missing" in run("info", sky, capture=capsys)[1]
    run(*words, "no", capture=capsys)
    total = next(line for line in run("info", sky, capture=capsys)[1].splitlines() if " total " in line)
    assert total.endswith(" finished")
    ledger.set_finished(sky, ["total"], False)
    assert "unfinished: stopped before its last checks" in run("info", sky, capture=capsys)[1]
    facts = json.loads(run("info", sky, "--json", capture=capsys)[1])
    assert [entry["finished"] for entry in facts["maps"] if entry["name"] == "total"] == [False]


def test_output_into_a_closed_pipe() -> None:
    command = f"{sys.executable} -m skymill.deploy.cli --help | head -1; test ${{PIPESTATUS[0]}} -eq 0"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "usage: skymill COMMAND ...\n"
    assert done.stderr == ""
