"""Bad clusters, runs, command lines and files of steps: one clear message, code 2, and nothing half-written."""

from __future__ import annotations

import math
import re

import faulty
import pytest
import skymill as sm
from skymill.chunking import errors
from skymill.deploy.cli import main


@pytest.fixture
def copy(tmp_path):
    """A sky with a prediction, and the model that made it."""
    folder = faulty.make_world(tmp_path)
    (folder / "model-850um").rename(folder / "model")
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 0},
        {"workers": -1},
        {"workers": 1.5},
        {"workers": "two"},
        {"threads": 0, "workers": 1},
        {"memory": 0, "workers": 1},
        {"memory": "-1GB", "workers": 1},
        {"memory": "plenty", "workers": 1},
        {"memory": math.nan, "workers": 1},
        {"gpus": -1},
        {"address": ""},
        {"address": "login1"},
        {"address": 8786},
        {"address": "tcp://127.0.0.1:9", "workers": 2},
        {"address": "tcp://127.0.0.1:9", "timeout": -1},
    ],
)
def test_clusters_that_cannot_be(options):
    with pytest.raises(errors.InputError, match="came"):
        sm.connect(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"client": "tcp://login1:8786"},
        {"client": 3},
        {"report": 3},
        {"report": ""},
        {"report": "."},
        {"progress": "no"},
    ],
)
def test_runs_that_cannot_be(copy, options):
    plan = sm.residual(copy / "sky.zarr", "pred_850um", "i850um")
    before = faulty.listing(copy)
    with pytest.raises(errors.InputError, match="came"):
        plan.run(**options)
    assert faulty.listing(copy) == before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("predikt model sky.zarr", "did you mean 'predict'"),
        ("predict", "required"),
        ("predict model sky.zarr --worker 2", "did you mean '--workers'"),
        ("predict model sky.zarr --workers two", "integer|whole number|invalid|expected"),
        ("predict model sky.zarr --workers 0", "at least 1|came"),
        ("predict model sky.zarr --memory plenty", "such as"),
        ("predict nothing sky.zarr", "nothing"),
        ("predict model nothing.zarr", "no sky store"),
        ("predict model sky.zarr --inputs i160", "i160"),
        ("residual sky.zarr --prediction pred_850um", "--target"),
        ("residual sky.zarr --prediction pred_850um --target i850um --mask-above much", "much"),
        ("residual sky.zarr --prediction pred_850um --target i850um --mask-above nan", "nan|positive"),
        ("residual sky.zarr --prediction pred_850um --target i850um --mask-above -1", "positive|expected"),
        ("simulate dust new.zarr", "--nside"),
        ("simulate dust new.zarr --nside 3", "power of two"),
        ("simulate dust new.zarr --nside 8.5", "8.5"),
        ("ingest map.fits new.zarr", "map"),
        ("export sky.zarr --names i16O --path x.fits", "i16O|required|unrecognized"),
        ("mask sky.zarr used --where b>", "b>"),
        ("mask sky.zarr used --where i16O>1", "i160"),
        ("mask sky.zarr i160 --where b>30", "i160"),
        ("mask sky.zarr used --where b>30 --radius 2", "without `sources`"),
        ("templates sky.zarr", "nothing|ask"),
        ("templates sky.zarr --cube i160", "cube"),
        ("ingest-cube nothing.fits new.zarr --edges 0,10 --frame galactic --unit K", "nothing.fits"),
        ("fit sky.zarr --templates i160 --target i85Oum", "did you mean 'i850um'"),
        ("fit sky.zarr --templates i160 i160 --target i850um", "more than once"),
        ("fit sky.zarr --templates i160 --target i850um --jackknife 5", "power of two"),
        ("fit sky.zarr --templates i160 --target i850um --noise 0", "above 0|positive"),
        ("fit sky.zarr --templates i160 --target i850um --maps everything", "model"),
        ("fit sky.zarr --templates i160 --target i850um --region b>89.9999", "no pixel"),
        ("kmeans sky.zarr i160 --k 2", "cube"),
        ("kmeans sky.zarr n_hi --k 2", "n_hi"),
        ("kmeans-search sky.zarr i160 --target i850um", "cube"),
        ("simplify sky.zarr --templates i160 --target i850um --drop i250", "i250"),
        ("temperature sky.zarr --target i850um", "`fit`"),
        ("slopes sky.zarr --low i850um --high i500 --fit nothing", "nothing"),
        ("profiles sky.zarr --residual i16O --against i250", "did you mean 'i160'"),
        ("diagnose sky.zarr --fit nothing --out-dir out", "nothing"),
        ("reddening sky.zarr --templates i160 --target i850um", "mag|column"),
        ("ebv sky.zarr 120 45", "ebv"),
        ("ebv sky.zarr 120 north", "invalid float"),
        ("info nothing.zarr", "no sky store"),
        ("run nothing.toml", "no file"),
    ],
)
def test_command_lines_that_make_no_sense(copy, capsys, monkeypatch, line, words):
    monkeypatch.chdir(copy)
    before = faulty.listing(copy)
    try:
        code = main(line.split())
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr().err
    assert code == 2
    assert re.search(words, said)
    assert "Traceback" not in said
    assert "error of skymill itself" not in said
    assert faulty.listing(copy) == before


STEP = '[[step]]\nverb = "residual"\nstore = "sky.zarr"\nprediction = "pred_850um"\ntarget = "i850um"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no steps"),
        ("[[step]]\n", "has no `verb`"),
        ("this is no TOML", "is not TOML"),
        ('[[step]]\nverb = "residul"\n', "did you mean 'residual'"),
        ('[[step]]\nverb = "residual"\n', "lacks store"),
        (STEP + "mask_abov = 0.2\n", "did you mean 'mask_above'"),
        (STEP + 'mask_above = "much"\n', "mask_above"),
        (STEP + "mask_above = nan\n", "mask_above"),
        (STEP + "mask_above = -1.0\n", "positive relative error"),
        (STEP + 'overwrite = "yes"\n', "overwrite"),
        (STEP + "report = 3\n", "report"),
        (STEP + "out = 3\n", "out"),
        ("worker = 2\n" + STEP, "did you mean 'workers'"),
        ('workers = "two"\n' + STEP, "workers"),
        ("[set]\nsky = [1]\n" + STEP, "texts and numbers"),
        (STEP.replace("sky.zarr", "{sky}"), "sky"),
        (STEP.replace("i850um", "i85Oum"), "did you mean 'i850um'"),
        (STEP.replace("sky.zarr", "nothing.zarr"), "no sky store"),
        ("step = 3\n", "no steps"),
    ],
)
def test_files_of_steps_that_make_no_sense(copy, capsys, monkeypatch, text, words):
    monkeypatch.chdir(copy)
    (copy / "steps.toml").write_text(text)
    before = faulty.listing(copy)
    code = main(["run", "steps.toml"])
    said = capsys.readouterr().err
    assert code == 2
    assert re.search(words, said)
    assert "error of skymill itself" not in said
    assert faulty.listing(copy) == before
