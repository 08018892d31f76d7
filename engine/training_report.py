"""The training itself, the scores of both splits side by side, and the report of them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..chunking.errors import InputError
from ..models.spec import ModelSpec
from ..models.splits import Split, split_pixels
from .progress import Progress
from .records import write_text
from .report import Page, make_directory, number, percent, plain
from .training_pixels import TrainingPixels

if TYPE_CHECKING:
    from ..models.artefact import Model
    from ..models.training import Epoch

log = logging.getLogger("skymill")
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class TrainingReport:
    """What a training gave.

    Parameters
    ----------
    model : str
        Folder of the model.
    digest : str
        Of the model.
    card : mapping
        The model's card; the properties below read it.
    seconds : dict of str to float
        Wall time by split; empty if the model stood there already.
    """

    model: str
    digest: str
    card: Mapping[str, Any]
    seconds: Mapping[str, float] | None = None

    @property
    def split(self) -> str:
        """Split of the model that was written."""
        return str(self.card["split"])

    @property
    def sizes(self) -> dict[str, dict[str, int]]:
        """Number of pixels by split and part."""
        return {name: entry["sizes"] for name, entry in self.card["splits"].items()}

    @property
    def scores(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Scores by split and part ("train", "validation", "test"); see `models.training.score`."""
        return {name: entry["scores"] for name, entry in self.card["splits"].items()}

    @property
    def leak(self) -> dict[str, float] | None:
        """How much better the random split looks than the blocks, or None without both.

        "sigma" and "half_width_95" are differences of the relative error (blocks - random) on the test
        parts, "r2_log" is that of the unexplained part 1 - R^2; positive where the random score is too good.
        """
        scores = self.scores
        if not {"random", "blocks"} <= set(scores):
            return None
        random, blocks = scores["random"]["test"], scores["blocks"]["test"]
        return {
            "sigma": blocks["sigma"] - random["sigma"],
            "half_width_95": blocks["half_width_95"] - random["half_width_95"],
            "r2_log": random["r2_log"] - blocks["r2_log"],
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON-able values."""
        known = {
            "model": self.model,
            "digest": self.digest,
            "seconds": dict(self.seconds or {}),
            "leak": self.leak,
            "card": dict(self.card),
        }
        return dict(plain(known))

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.as_dict(), indent=2)

    def __str__(self) -> str:
        state = "stood there already" if self.seconds is None else f"{sum(self.seconds.values()):.1f} s"
        spec = self.card["spec"]
        lines = [f"train -> {self.model}: {spec['name']}, {self.card['parameters']} parameters; {state}"]
        header = f"  {'split':<8} {'test pixels':>12} {'R2 (log)':>9} {'mean':>8} {'sigma':>8} {'95 %':>8}"
        lines.append(header)
        for name, scores in self.scores.items():
            test = scores["test"]
            chosen = "  <- this model" if name == self.split else ""
            lines.append(
                f"  {name:<8} {test['pixels']:>12,} {test['r2_log']:>9.5f} {percent(test['mean']):>8} "
                f"{percent(test['sigma']):>8} {percent(test['half_width_95']):>8}{chosen}"
            )
        lines += [f"  {note}" for note in self.card["notes"]]
        return "\n".join(lines)


def train_and_judge(
    spec: ModelSpec,
    gathered: TrainingPixels,
    *,
    nside: int,
    splits: Sequence[str],
    test_size: float,
    validation_size: float,
    block_nside: int | None,
    seed: int,
    data: Mapping[str, Any],
    facts: Mapping[str, Any],
    progress: bool | None,
) -> tuple[Model, dict[str, float]]:
    """Return the model of the first split, its card telling of all, and the wall time by split.

    Raises
    ------
    InputError
        If there are too few pixels for the first split; a split for comparison that cannot be made is noted.
    """
    from ..models.artefact import Model
    from ..models.training import score, train_network

    if not gathered.pixels.size:
        raise InputError(
            f"no pixel can be trained on: of {gathered.counts['selected']:,} selected, "
            f"{gathered.counts['no_coverage']:,} lack a value in some map, {gathered.counts['not_positive']:,} are "
            "not positive. Check the maps, and `where`."
        )
    notes: list[str] = []
    divided: dict[str, Split] = {}
    for name in splits:
        try:
            divided[name] = split_pixels(
                gathered.pixels,
                nside,
                split=name,
                test_size=test_size,
                validation_size=validation_size,
                block_nside=block_nside,
                seed=seed,
            )
        except InputError as error:
            if name == splits[0]:
                raise
            notes.append(f"not compared with split {name!r}: {error}")
    entries: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    kept: Any = None
    for name, split in divided.items():
        with Progress(f"train {spec.name} ({name})", spec.max_epochs, progress) as bar:
            trained = train_network(spec, gathered.inputs, gathered.target, split, seed=seed, on_epoch=_Advance(bar))
        log.info("%s, split %s: %s after %d epochs", spec.name, name, trained.stopped, len(trained.history))
        kept = kept or trained.model
        entries[name] = {
            "sizes": split.sizes,
            "scores": {
                part: score(trained.model, gathered.inputs, gathered.target, getattr(split, part)) for part in PARTS
            },
            "history": trained.to_dict(),
        }
        seconds[name] = trained.seconds
    if {"random", "blocks"} <= set(entries):
        notes.append(_compared(*(entries[name]["scores"]["test"]["half_width_95"] for name in ("random", "blocks"))))
    card = {
        "trained": True,
        "description": spec.description,
        "parameters": spec.n_parameters,
        "spec": spec.to_dict(),
        "data": {**data, "pixels": gathered.counts, "pixels_digest": _digest(gathered)},
        "input_ranges": {
            map_name: [kept.scaling.low[i], kept.scaling.high[i]] for i, map_name in enumerate(spec.input_maps)
        },
        "split": splits[0],
        "splits": entries,
        "seed": seed,
        "notes": notes,
        "run": dict(facts),
        "versions": {name: version(name) for name in ("skymill", "jax", "optax", "numpy")},
    }
    return Model(kept.spec, kept.parameters, kept.scaling, dict(plain(card))), seconds


def _compared(random: float, blocks: float) -> str:
    text = f"central 95 % of the test errors: +-{percent(random)} random, +-{percent(blocks)} blocks; "
    if blocks > 1.02 * random:
        return text + "the random split is too good, the blocks are what to expect on new sky"
    return text + "no leak of the random split shows here"


@dataclass(frozen=True)
class _Advance:
    bar: Progress

    def __call__(self, epoch: Epoch) -> None:
        self.bar.advance()


def _digest(gathered: TrainingPixels) -> str:
    import hashlib

    found = hashlib.sha256()
    for array in (gathered.pixels, gathered.inputs, gathered.target):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def write_training_report(report: TrainingReport, out_dir: str | os.PathLike[str]) -> Path:
    """Write `training.json`, the learning curves and `index.html` into a folder; return the page."""
    from .figures import save
    from .figures_training import learning_figure

    folder = make_directory(out_dir)
    write_text(folder / "training.json", report.to_json())
    card = report.card
    spec = card["spec"]
    layers = "-".join(map(str, (len(spec["inputs"]), *spec["hidden"], 1)))
    page = Page(
        f"Training of {spec['name']}", f"{layers}, {card['parameters']} parameters, digest {report.digest[:16]}"
    )
    page.heading("Scores")
    page.paragraph(
        "Relative error is (prediction - target) / target. Under the random split pixels of one beam stand on both "
        "sides, so that its test score is too good; under blocks the test pixels are sky that was never seen."
    )
    columns = ["split", "part", "pixels", "R² (log)", "mean", "median", "sigma", "half of central 95 %", "beyond 20 %"]
    page.table(
        columns, [_row(name, part, entry) for name, parts in report.scores.items() for part, entry in parts.items()]
    )
    page.heading("Learning")
    for name, entry in card["splits"].items():
        file = f"learning_{name}.png"
        save(learning_figure(entry["history"], title=f"split {name}"), folder / file)
        stopped = entry["history"]["stopped"]
        page.figure(
            file, f"Huber loss by epoch, split {name}; best {entry['history']['best_epoch']}, ended: {stopped}.", 640
        )
    page.heading("Data")
    counts = card["data"]["pixels"]
    page.table(["pixels", "number"], [[key.replace("_", " "), f"{count:,}"] for key, count in counts.items()])
    rows = [[name, number(low), number(high)] for name, (low, high) in card["input_ranges"].items()]
    page.table(["input map", "smallest in training", "largest in training"], rows)
    index = folder / "index.html"
    write_text(index, page.html())
    return index


def _row(split: str, part: str, entry: Mapping[str, Any]) -> list[str]:
    return [
        split,
        part,
        f"{entry['pixels']:,}",
        f"{entry['r2_log']:.5f}",
        percent(entry["mean"]),
        percent(entry["median"]),
        percent(entry["sigma"]),
        percent(entry["half_width_95"]),
        percent(entry["above_20_percent"]),
    ]
