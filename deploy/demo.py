"""`skymill demo`: a synthetic sky from simulation to report, through the same steps that a user would write."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..chunking.errors import InputError
from .session import Session
from .steps import read_steps, run_steps

# Carried out by `skymill run`, and left in the folder: a file to begin one's own from.
STEPS = """\
# Written by `skymill demo`; `skymill run {file}` carries it out, and does only what is missing.
# The same seed is the same sky at both resolutions, so that the fine predictions can be held against the truth.

[set]
out = "{out}"

[[step]]
verb = "simulate"
kind = "dust"
store = "{{out}}/coarse.zarr"
nside = {nside}
seed = {seed}

[[step]]
verb = "simulate"
kind = "dust"
store = "{{out}}/fine.zarr"
nside = {fine_nside}
seed = {seed}
footprint = "surveys"

# Trained where the Herschel-like surveys of the plane, of clouds and of cores observed; the galaxies stay unseen.
[[step]]
verb = "train"
spec = "dust-850um"
store = "{{out}}/coarse.zarr"
out = "{{out}}/model-850"
split = "blocks"
where = "survey in 1, 2, 3"
report = "{{out}}/training-850"

[[step]]
verb = "train"
spec = "dust-1380um"
store = "{{out}}/coarse.zarr"
out = "{{out}}/model-1380"
split = "blocks"
where = "survey in 1, 2, 3"
report = "{{out}}/training-1380"

[[step]]
verb = "predict"
models = ["{{out}}/model-850", "{{out}}/model-1380"]
store = "{{out}}/coarse.zarr"

[[step]]
verb = "predict"
models = ["{{out}}/model-850", "{{out}}/model-1380"]
store = "{{out}}/fine.zarr"
report = "{{out}}/predict-fine.json"

# Where a prediction is more than 20 % off at the coarse nside, all the fine pixels below are masked.
[[step]]
verb = "residual"
store = "{{out}}/coarse.zarr"
prediction = "pred_850um"
target = "i850um"
mask_above = 0.2

[[step]]
verb = "residual"
store = "{{out}}/coarse.zarr"
prediction = "pred_1380um"
target = "i1380um"
mask_above = 0.2

[[step]]
verb = "hand_down"
store = "{{out}}/coarse.zarr"
out = "{{out}}/fine.zarr"
names = ["mask_850um", "mask_1380um"]

[[step]]
verb = "ratio"
store = "{{out}}/coarse.zarr"

[[step]]
verb = "ratio"
store = "{{out}}/fine.zarr"

[[step]]
verb = "correlate"
store = "{{out}}/coarse.zarr"
maps = ["i160", "i250", "i350", "i500", "i850um", "i1380um"]
max_pixels = 200000
out_dir = "{{out}}/correlations"

[[step]]
verb = "evaluate"
store = "{{out}}/coarse.zarr"
prediction = ["pred_850um", "pred_1380um"]
target = ["i850um", "i1380um"]
mask = ["mask_850um", "mask_1380um"]
fine_store = "{{out}}/fine.zarr"
fine_target = ["truth_850um", "truth_1380um"]
regions = [["cloud", 210.0, -17.0, 12.0], ["plane", 30.0, 0.0, 6.0], ["large cloud", 280.5, -32.9, 8.0]]
title = "The demonstration: predicted at nside {nside} and {fine_nside}"
out_dir = "{{out}}/report"
"""

_LOG = {"stretch": "log"}
_CLOUD = {"lonlat": (210.0, -17.0), "size": 12.0}
# Store, map, file, options of the accessor's `plot`.
PICTURES: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("coarse.zarr", "i850um", "sky_target", {**_LOG, "title": "target at 850 um"}),
    ("coarse.zarr", "pred_850um", "sky_predicted", {**_LOG, "title": "prediction at 850 um"}),
    ("coarse.zarr", "relerr_850um", "sky_relative_error", {"title": "relative error at 850 um"}),
    ("fine.zarr", "pred_850um", "sky_predicted_fine", {**_LOG, "title": "prediction at 850 um over the surveys"}),
    ("fine.zarr", "pred_850um", "cloud_predicted_fine", {**_LOG, **_CLOUD, "title": "a cloud, predicted at 850 um"}),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the demonstration to a command-line parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Where to add them.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_options(parser)
    >>> parser.parse_args([]).nside
    256
    """
    parser.add_argument("--out", default="skymill-demo", metavar="FOLDER", help="where (default: skymill-demo)")
    parser.add_argument("--nside", type=int, default=256, metavar="N", help="nside of training (default: 256)")
    parser.add_argument("--finer", type=int, default=8, metavar="N", help="how much finer to predict (default: 8)")
    parser.add_argument("--seed", type=int, default=11, metavar="N", help="which sky (default: 11)")


def demo(
    out: str,
    *,
    nside: int = 256,
    finer: int = 8,
    seed: int = 11,
    quiet: bool = False,
    session: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a summary of the demonstration, after carrying it out in a folder.

    A synthetic sky is made at a coarse nside and, over survey footprints, at a finer one; two networks are trained
    at the coarse one and predict both; residuals, masks handed down, ratios, correlations, a report and pictures
    follow.  The folder holds `demo.toml`, the steps as `skymill run` takes them; what is done is not done again.

    Parameters
    ----------
    out : path
        The folder; made if it is not there.
    nside : int
        Resolution of training.
    finer : int
        How many times finer to predict, a power of two.
    seed : int
        Which sky.
    quiet : bool
        Say nothing.
    session : mapping, optional
        `workers`, `threads`, `memory`, `address`, as for every verb.

    Returns
    -------
    dict
        Seconds, and the numbers of the predictions by band, as in `summary.json` of the folder.

    Raises
    ------
    InputError
        If the resolutions cannot be, or the folder cannot be used.
    IdentityError
        If the folder holds a demonstration with other options.

    Examples
    --------
    >>> summary = demo("small-demo", nside=16, finer=2, quiet=True)  # doctest: +SKIP
    """
    if finer < 2 or finer & (finer - 1):
        raise InputError(f"`finer` {finer} came; give a power of two, 2 or more.")
    began = time.monotonic()
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "demo.toml"
        file.write_text(
            STEPS.format(out=folder.as_posix(), file=file.as_posix(), nside=nside, fine_nside=nside * finer, seed=seed)
        )
    except OSError as error:
        raise InputError(f"`out` {out}: {error.strerror}; give a folder that can be written.") from error
    run_steps(read_steps(str(file)), Session(**(session or {}), quiet=quiet))
    _draw(folder)
    summary = {"seconds": round(time.monotonic() - began, 1), **_numbers(folder)}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    if not quiet:
        print(_text(folder, summary))
    return summary


def _draw(folder: Path) -> None:
    """Draw the pictures of the sky; each at once read, drawn and closed."""
    from ..chunking import store as stores

    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    for store, name, title, options in PICTURES:
        figure = stores.open(str(folder / store)).sky.plot(name, **options)
        figure.savefig(pictures / f"{title}.png", dpi=110)


def _numbers(folder: Path) -> dict[str, Any]:
    """Return, of the numbers of the report, those that the summary shows."""
    report = json.loads((folder / "report" / "report.json").read_text())
    kept = ("pixels", "mean", "sigma", "half_width_95", "masked_fraction", "r_squared_log")
    found: dict[str, Any] = {"nside": report["nside"], "fine_nside": report["fine_nside"], "bands": {}}
    for band in report["pairs"]:
        both = {"coarse": report["pairs"][band]["total"], "fine": report["fine"][band]["total"]}
        found["bands"][band] = {which: {key: total[key] for key in kept} for which, total in both.items()}
    return found


def _text(folder: Path, summary: Mapping[str, Any]) -> str:
    """Return the summary for people: what came out, and where to look."""
    lines = [
        "",
        f"The demonstration took {summary['seconds']:.0f} s. Relative errors of the pixels that are not masked:",
        "",
        "  band    against                     nside     pixels    mean   sigma    95 %  masked",
    ]
    against = {"coarse": "target, with its noise", "fine": "truth, over the surveys"}
    nsides = {"coarse": summary["nside"], "fine": summary["fine_nside"]}
    for band, both in summary["bands"].items():
        for which, total in both.items():
            lines.append(
                f"  {band:7s} {against[which]:25s} {nsides[which]:7d} {total['pixels']:10,d} {total['mean']:7.2%} "
                f"{total['sigma']:7.2%} {total['half_width_95']:7.2%} {total['masked_fraction']:7.2%}"
            )
    lines += [
        "",
        f"  report         {folder / 'report' / 'index.html'}",
        f"  training       {folder / 'training-850' / 'index.html'}, {folder / 'training-1380' / 'index.html'}",
        f"  correlations   {folder / 'correlations' / 'index.html'}",
        f"  pictures       {folder / 'pictures'}",
        f"  the steps      {folder / 'demo.toml'}  (skymill run carries them out, and does only what is missing)",
        f'  the maps       import skymill as sm; sm.open("{folder / "fine.zarr"}")',
    ]
    return "\n".join(lines)
