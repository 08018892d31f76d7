"""Training on the number of pixels of the publication, to convergence."""

from __future__ import annotations

import os
import time

import pytest
import skymill as sm
from timing import show

PIXELS = int(os.environ.get("SKYMILL_BENCH_PIXELS", "1242681"))

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]


def test_training_to_convergence(tmp_path):
    sky = tmp_path / "sky.zarr"
    sm.simulate("dust", sky, 512, seed=11, maps=["i160", "i250", "i350", "i500", "i850um", "i1380um"]).run(
        progress=False
    )
    rows = []
    for model in ("dust-850um", "dust-1380um"):
        began = time.perf_counter()
        report = sm.train(model, sky, tmp_path / model, max_pixels=PIXELS, seed=1).run(progress=False)
        seconds = time.perf_counter() - began
        rows.append((model, PIXELS, seconds, *_numbers(report)))
    show(
        "Training", ("model", "pixels", "wall s, reading included", "epochs", "R2 in log", "sigma of rel. error"), rows
    )


def _numbers(report):
    """Return epochs, and the scores of the test pixels, of the split that the model was trained with."""
    entry = report.card["splits"][report.split]
    return len(entry["history"]["epochs"]), entry["scores"]["test"]["r2_log"], entry["scores"]["test"]["sigma"]
