"""`skymill demo`, small: all of its steps, its products, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import skymill as sm
from skymill.deploy import cli
from skymill.deploy.demo import PICTURES, STEPS, demo
from skymill.deploy.steps import read_steps


def test_the_steps_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "demo.toml"
    file.write_text(STEPS.format(out="there", file="demo.toml", nside=256, fine_nside=2048, seed=3))
    steps = read_steps(str(file)).steps
    assert [step.verb.name for step in steps[:2]] == ["simulate", "simulate"]
    assert steps[0].values["store"] == "there/coarse.zarr"
    assert {step.values.get("seed") for step in steps} == {3, None}


@pytest.mark.slow
def test_demo_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo output"
    words = ["demo", "--out", str(folder), "--nside", "32", "--finer", "4", "--seed", "3", "--threads", "1"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert str(folder / "report" / "index.html") in said
    assert "truth, over the surveys" in said
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["nside"], summary["fine_nside"]) == (32, 128)
    for band in ("850um", "1380um"):
        # Even so small a sky must be learnt; noise and faint pixels are what is left.
        assert summary["bands"][band]["coarse"]["r_squared_log"] > 0.95
        assert summary["bands"][band]["fine"]["sigma"] < 0.15
    for page in ("report", "training-850", "training-1380", "correlations"):
        assert (folder / page / "index.html").is_file()
    for _, _, name, _ in PICTURES:
        assert (folder / "pictures" / f"{name}.png").stat().st_size > 5000
    assert {"pred_850um", "pred_1380um", "mask_850um", "ratio"} <= set(sm.open(folder / "fine.zarr"))

    # Again: nothing is computed twice.
    assert cli.main(words) == 0
    assert "computed" not in capsys.readouterr().out
    # Another sky in the same folder is refused.
    assert cli.main([*words, "--seed", "4"]) == 2
    assert "made by another run" in capsys.readouterr().err


@pytest.mark.parametrize("finer", [0, 1, 3, -8])
def test_refused(tmp_path: Path, finer: int) -> None:
    with pytest.raises(sm.errors.InputError, match="power of two"):
        demo(str(tmp_path / "demo"), finer=finer)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("")
    with pytest.raises(sm.errors.InputError, match="folder"):
        demo(str(tmp_path / "demo"))
