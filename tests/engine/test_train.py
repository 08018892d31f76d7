"""The verb `train`: from maps of a store to a model and a report, the same for any number of workers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skymill as sm
from skymill.chunking import store as stores
from skymill.chunking.errors import (
    FormatError,
    IdentityError,
    InputError,
    MemoryLimitError,
    MissingMapError,
    SkymillError,
    StoreNotFoundError,
    UnitError,
)
from skymill.chunking.regions import Cone
from skymill.chunking.schema import MapInfo
from skymill.engine.plan import Run
from skymill.engine.selection import Selection
from skymill.engine.train import train
from skymill.engine.training_pixels import gather_training_pixels
from skymill.engine.worker import Worker
from skymill.models import dust_mlp, load_model

NSIDE = 32
QUICK = {"max_epochs": 3, "min_steps": 1, "batch_size": 256}
NAMES = ("i160", "i250", "i350", "i500", "i850um")


def _maps() -> dict[str, np.ndarray]:
    """Bands of one column density and one colour, smooth over a few pixels, the target with noise."""
    random = np.random.default_rng(0)
    npix = 12 * NSIDE**2
    column, colour = np.repeat(random.normal(size=(2, npix // 16)), 16, axis=1)
    maps = {name: np.exp(4 - k + column - 0.1 * k * colour) for k, name in enumerate(NAMES)}
    maps["i850um"] *= np.exp(0.03 * random.normal(size=npix))
    maps["survey"] = np.arange(npix) // (npix // 4)
    maps["i160"][5] = np.nan
    maps["i250"][6] = -1
    maps["i850um"][7] = np.inf
    maps["i850um"][8] = 0
    return maps


MAPS = _maps()


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of 48 tiles, one of them without data."""
    where = str(tmp_path_factory.mktemp("train") / "sky.zarr")
    stores.create(where, NSIDE, frame="galactic", tile_nside=2)
    infos = [MapInfo(name, "intensity", "MJy/sr", band=name[1:]) for name in NAMES]
    extra = [
        MapInfo("survey", "code", "1", dtype="uint8", fill_value=0),
        MapInfo("my160", "intensity", "MJy/sr", band="160um"),
        MapInfo("x550", "intensity", "MJy/sr"),
        MapInfo("unknown", "intensity", "MJy/sr"),
        MapInfo("kelvin", "intensity", "K_CMB", band="850um"),
        MapInfo("twice", "intensity", "MJy/sr", band="850um"),
    ]
    stores.create_maps(where, [*infos, *extra])
    copies = {"my160": "i160", "x550": "i500", "unknown": "i350", "kelvin": "i850um", "twice": "i850um"}
    tiling = stores.tiling_of(where)
    for info in [*infos, *extra]:
        values = MAPS[copies.get(info.name, info.name)].astype(info.dtype)
        if info.name == "twice":
            values = 2 * values
        for tile in range(tiling.n_tiles):
            if tile != 40:
                stores.write_tile(where, info.name, tile, values[tiling.tile_slice(tile)])
    return where


def _model(sky: str, out: Path, **options: Any) -> bytes:
    given: dict[str, Any] = {"settings": QUICK, "compare": False, **options}
    train("dust-850um", sky, out, **given).run(progress=False)
    return (out / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def base(sky: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return _model(sky, tmp_path_factory.mktemp("base") / "model")


def test_it_learns_and_reports_both_splits(sky: str, tmp_path: Path) -> None:
    plan = train(
        "dust-850um",
        sky,
        tmp_path / "model",
        settings={"max_epochs": 20, "min_steps": 3000, "batch_size": 128},
        report=tmp_path / "report",
    )
    assert not (tmp_path / "model").exists()
    report = plan.run(progress=False)
    assert set(report.scores) == {"random", "blocks"}
    assert report.split == "random"
    # The noise of 3 % is the least that any network can leave.
    for split in ("random", "blocks"):
        test = report.scores[split]["test"]
        assert 0.028 < test["robust_sigma"] < 0.036
        assert test["r2_log"] > 0.99
        assert set(report.scores[split]) == {"train", "validation", "test"}
    leak = report.leak
    assert leak is not None
    assert leak["half_width_95"] == pytest.approx(
        report.scores["blocks"]["test"]["half_width_95"] - report.scores["random"]["test"]["half_width_95"]
    )
    text = str(report)
    assert "random" in text
    assert "blocks" in text
    assert "<- this model" in text
    assert json.loads(report.to_json())["digest"] == report.digest
    written = json.loads((tmp_path / "report" / "training.json").read_text())
    assert written["card"]["splits"]["blocks"]["scores"]["test"]["sigma"] == report.scores["blocks"]["test"]["sigma"]
    page = (tmp_path / "report" / "index.html").read_text()
    for name in ("learning_random.png", "learning_blocks.png"):
        assert name in page
        assert (tmp_path / "report" / name).stat().st_size > 5000


def test_the_card_tells_what_was_done(sky: str, tmp_path: Path) -> None:
    report = train("dust-850um", sky, tmp_path / "m", settings=QUICK, seed=4, split="blocks").run(progress=False)
    model = load_model(tmp_path / "m")
    card = model.card
    assert report.digest == model.digest
    assert card["seed"] == 4
    assert card["split"] == "blocks"
    assert card["parameters"] == 173
    assert card["data"]["pixels"] == {
        "selected": 47 * 256,
        "no_coverage": 1,
        "not_positive": 2,
        "not_finite": 1,
        "usable": 47 * 256 - 4,
        "taken": 47 * 256 - 4,
    }
    assert card["data"]["nside"] == NSIDE
    assert set(card["data"]["maps"]) == set(NAMES)
    assert all(len(entry["digest"]) >= 16 for entry in card["data"]["maps"].values())
    assert set(card["versions"]) == {"skymill", "jax", "optax", "numpy"}
    assert card["spec"]["max_epochs"] == 3
    assert len(card["splits"]["random"]["history"]["epochs"]) == 3
    low, high = card["input_ranges"]["i250"]
    assert low >= MAPS["i250"][MAPS["i250"] > 0].min() * (1 - 1e-6)
    assert high <= MAPS["i250"].max() * (1 + 1e-6)
    sizes = card["splits"]["random"]["sizes"]
    assert sizes["test"] == int(np.ceil(0.33 * (47 * 256 - 4)))


@pytest.mark.parametrize(
    "change",
    [
        {"split": "blocks"},
        {"target": "twice"},
        {"where": "b > 10"},
        {"where": "survey in 1, 2"},
        {"where": Cone(0.0, 0.0, 40.0)},
        {"test_size": 0.5},
        {"validation_size": 0.3},
        {"seed": 1},
        {"max_pixels": 4000},
        {"settings": {**QUICK, "hidden": (5,)}},
        {"inputs": ["i160", "i350"]},
        {"split": "blocks", "block_nside": 4},
    ],
    ids=str,
)
def test_every_option_changes_the_model(sky: str, base: bytes, tmp_path: Path, change: dict[str, Any]) -> None:
    assert _model(sky, tmp_path / "m", **change) != base


def test_the_same_call_elsewhere_gives_the_same_bytes(sky: str, base: bytes, tmp_path: Path) -> None:
    assert _model(sky, tmp_path / "m", threads=1) == base
    assert _model(sky, tmp_path / "n", inputs={"i160": "my160"}) == base


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bytes(sky: str, base: bytes, tmp_path: Path) -> None:
    with sm.connect(workers=2, threads=1) as client:
        train("dust-850um", sky, tmp_path / "m", settings=QUICK, compare=False).run(client, progress=False)
        assert (tmp_path / "m" / "weights.safetensors").read_bytes() == base


def _gather(sky: str, threads: int = 2, **options: Any) -> Any:
    given: dict[str, Any] = {"max_pixels": None, "seed": 0, "where": None, **options}
    tiling = stores.tiling_of(sky)
    selection = Selection.of(given.pop("where"))
    return gather_training_pixels(
        sky,
        NAMES,
        selection,
        tiling=tiling,
        frame="galactic",
        tiles=stores.observed_tiles(sky, NAMES),
        run=Run(None, Worker(10**9, threads), False),
        **given,
    )


def test_gathered_pixels_are_those_of_the_maps(sky: str) -> None:
    found = _gather(sky)
    usable = np.all([np.isfinite(MAPS[name]) & (MAPS[name] > 0) for name in NAMES], axis=0)
    usable[40 * 256 : 41 * 256] = False
    assert np.array_equal(found.pixels, np.flatnonzero(usable))
    for row, name in zip((*found.inputs, found.target), NAMES, strict=True):
        assert np.array_equal(row, MAPS[name][usable].astype("f4"))
    north = _gather(sky, where="b > 10 and survey in 0, 1")
    lat = stores.tiling_of(sky).lonlat(found.pixels)[1]
    expected = found.pixels[(lat > 10) & (MAPS["survey"][found.pixels] < 2)]
    assert np.array_equal(north.pixels, expected)


def test_thinning_is_exact_even_and_the_same_for_any_number_of_threads(sky: str) -> None:
    everything = _gather(sky)
    found = _gather(sky, max_pixels=3000)
    assert len(found.pixels) == found.counts["taken"] == 3000
    assert found.counts["usable"] == len(everything.pixels)
    assert (np.diff(found.pixels) > 0).all()
    assert np.array_equal(found.target, everything.target[np.searchsorted(everything.pixels, found.pixels)])
    share = np.bincount(found.pixels // 1024, minlength=12) / np.bincount(everything.pixels // 1024, minlength=12)
    assert share == pytest.approx(np.full(12, 3000 / len(everything.pixels)), abs=0.06)
    assert np.array_equal(_gather(sky, max_pixels=3000, threads=1).pixels, found.pixels)
    assert not np.array_equal(_gather(sky, max_pixels=3000, seed=1).pixels, found.pixels)
    # Fewer are a part of more, so that a larger sample holds the smaller one.
    assert set(_gather(sky, max_pixels=1000).pixels) <= set(found.pixels)
    assert len(_gather(sky, max_pixels=10**6).pixels) == len(everything.pixels)


def test_the_same_call_again_does_nothing_and_another_is_refused(sky: str, tmp_path: Path) -> None:
    first = train("dust-850um", sky, tmp_path / "m", settings=QUICK, compare=False).run(progress=False)
    stamp = (tmp_path / "m" / "model.json").stat().st_mtime_ns
    again = train("dust-850um", sky, tmp_path / "m", settings=QUICK, compare=False)
    assert not again.todo
    assert again.done > 0
    assert "already" in str(again)
    report = again.run(progress=False)
    assert (report.digest, report.scores, report.seconds) == (first.digest, first.scores, None)
    assert "stood there already" in str(report)
    assert (tmp_path / "m" / "model.json").stat().st_mtime_ns == stamp
    with pytest.raises(IdentityError, match=r"another run \(other seed\).*overwrite"):
        train("dust-850um", sky, tmp_path / "m", settings=QUICK, compare=False, seed=1)
    other = train("dust-850um", sky, tmp_path / "m", settings=QUICK, compare=False, seed=1, overwrite=True)
    assert other.run(progress=False).digest != first.digest
    assert load_model(tmp_path / "m").card["seed"] == 1


def test_a_damaged_model_is_replaced_only_on_request(sky: str, tmp_path: Path) -> None:
    base = _model(sky, tmp_path / "m")
    (tmp_path / "m" / "weights.safetensors").write_bytes(base[:100])
    with pytest.raises(FormatError, match="truncated"):
        train("dust-850um", sky, tmp_path / "m", settings=QUICK, compare=False)
    assert _model(sky, tmp_path / "m", overwrite=True) == base


def test_new_inputs_take_their_bands_from_the_store(sky: str, tmp_path: Path) -> None:
    _model(sky, tmp_path / "m", inputs=["my160", "i350", "x550"])
    spec = load_model(tmp_path / "m").spec
    assert [band.wavelength_um for band in spec.inputs] == [160.0, 350.0, 550.0]
    assert spec.input_maps == ("my160", "i350", "x550")
    assert spec.sizes == (3, 12, 8, 1)


def test_a_renamed_map_keeps_the_name_that_models_know(sky: str, tmp_path: Path) -> None:
    _model(sky, tmp_path / "m", inputs={"i160": "my160"})
    assert load_model(tmp_path / "m").spec.input_maps == ("i160", "i250", "i350", "i500")


def test_a_comparison_that_cannot_be_made_is_noted(sky: str, tmp_path: Path) -> None:
    one = Cone(45.0, 40.0, 15.0)  # within one pixel of nside 1
    report = train("dust-850um", sky, tmp_path / "m", settings=QUICK, where=one, block_nside=1).run(progress=False)
    assert set(report.scores) == {"random"}
    assert report.leak is None
    assert "not compared with split 'blocks'" in str(report)
    with pytest.raises(InputError, match="blocks came, too few"):
        train("dust-850um", sky, tmp_path / "n", split="blocks", where=one, block_nside=1).run(progress=False)
    assert not (tmp_path / "n").exists()


def test_a_spec_of_ones_own(sky: str, tmp_path: Path) -> None:
    spec = dust_mlp("850um").replace(name="mine", label="mine", target_map="i850um", hidden=(3,), **QUICK)
    report = train(spec, sky, tmp_path / "m", compare=False).run(progress=False)
    assert report.card["spec"]["name"] == "mine"
    assert load_model(tmp_path / "m").spec == spec


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"spec": "dust-850"}, InputError, "did you mean 'dust-850um'"),
        ({"spec": "dust-1380um"}, MissingMapError, "i1380um"),
        ({"split": "block"}, InputError, "did you mean 'blocks'"),
        ({"target": "i850"}, MissingMapError, "i850um"),
        ({"target": "i160"}, InputError, "also an input"),
        ({"target": "kelvin"}, UnitError, "K_CMB.*skymill.prepare"),
        ({"inputs": {"i70": "i160"}}, InputError, "renames 'i70'"),
        ({"inputs": {"i160": "i150"}}, MissingMapError, "i150"),
        ({"inputs": {"i160": "kelvin"}}, UnitError, "kelvin"),
        ({"inputs": {"i160": "i850um"}}, InputError, "target and an input"),
        ({"inputs": ["i160", "i161"]}, MissingMapError, "i161"),
        ({"inputs": ["unknown"]}, InputError, "wavelength of map 'unknown'"),
        ({"inputs": ["i160", "my160"]}, InputError, "a band twice"),
        ({"inputs": []}, InputError, "`inputs`"),
        ({"settings": {"epochs": 3}}, InputError, "`epochs` is not a field"),
        ({"settings": {"max_epochs": 0}}, InputError, "`max_epochs`"),
        ({"where": "c > 3"}, MissingMapError, "'c'"),
        ({"where": "b >> 3"}, InputError, "`where`"),
        ({"where": "b > 91"}, InputError, "no pixel can be trained on: of 0 selected"),
        ({"where": "survey == 9"}, InputError, "no pixel"),
        ({"test_size": 1.2}, InputError, "`test_size`"),
        ({"validation_size": 0}, InputError, "`validation_size`"),
        ({"max_pixels": 0}, InputError, "`max_pixels`"),
        ({"max_pixels": 2}, InputError, "too few"),
        ({"block_nside": 3, "split": "blocks"}, InputError, "`block_nside` 3"),
        ({"memory": "1 MB"}, MemoryLimitError, "train needs"),
        ({"store": "nowhere.zarr"}, StoreNotFoundError, "nowhere.zarr"),
    ],
    ids=str,
)
def test_refusals_leave_nothing_behind(
    sky: str, tmp_path: Path, options: dict[str, Any], error: type[SkymillError], message: str
) -> None:
    given: dict[str, Any] = {"spec": "dust-850um", "store": sky, "out": tmp_path / "m", "settings": QUICK, **options}
    with pytest.raises(error, match=message):
        train(**given).run(progress=False)
    assert not list(tmp_path.iterdir())


def test_it_does_not_replace_what_is_not_a_model(sky: str, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "text").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(IdentityError, match="is not a model"):
            train("dust-850um", sky, tmp_path / "m", overwrite=overwrite)


def test_the_plan_says_what_it_will_do(sky: str, tmp_path: Path) -> None:
    plan = train("dust-850um", sky, tmp_path / "m", where="survey in 1", threads=3)
    assert len(plan.todo) == 47
    assert plan.read_bytes == 6 * 4 * 47 * 256
    assert plan.worker.threads == 3
    assert "4-12-8-1, 173 parameters; i160, i250, i350, i500 -> i850um; split random" in str(plan)
    few = train("dust-850um", sky, tmp_path / "m", max_pixels=100)
    assert few.reserved < plan.reserved
    cone = train("dust-850um", sky, tmp_path / "m", where=Cone(0.0, 90.0, 5.0))
    assert len(cone.todo) == 4


def test_memory_is_that_of_the_calling_process_and_of_workers(sky: str, tmp_path: Path) -> None:
    plan = train("dust-850um", sky, tmp_path / "m", memory="4 GB", threads=2)
    plan.check(plan.worker)
    # A worker of a cluster only reads tiles: what is too little here is enough there.
    plan.check(Worker(300_000_000, 2))
    with pytest.raises(MemoryLimitError, match="train needs"):
        plan.check(Worker(200_000_000, 2))
    plan.pixels = 30_000_000
    with pytest.raises(MemoryLimitError, match=r"30,000,000 pixels.*max_pixels=\d+000; memory=") as caught:
        plan.check(plan.worker)
    plan.pixels = int(str(caught.value).split("max_pixels=")[1].split(";")[0])
    plan.check(plan.worker)


def test_changed_data_is_another_run(sky: str, tmp_path: Path) -> None:
    copy = tmp_path / "sky.zarr"
    shutil.copytree(sky, copy)
    _model(str(copy), tmp_path / "m")
    stores.write_tile(str(copy), "i850um", 3, np.full(256, 7.0, "f4"))
    with pytest.raises(IdentityError, match="other maps"):
        train("dust-850um", str(copy), tmp_path / "m", settings=QUICK, compare=False)
