"""Prediction over a store: right numbers, the same bytes however it is run, and clear refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
from skies import BANDS, content, make_sky
from skymill.chunking import errors
from skymill.chunking import store as stores
from skymill.chunking.schema import FLAGS, MapInfo
from skymill.engine.connect import connect
from skymill.engine.predict import PredictKernel, predict
from skymill.engine.worker import Worker
from skymill.models import Model, dust_mlp, load_model, save_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two networks with random weights: what they predict is arbitrary, how it is done is not."""
    folder = tmp_path_factory.mktemp("models")
    for label in ("850um", "1380um"):
        save_model(folder / label, Model.untrained(dust_mlp(label), seed=3))
    return folder


def by_hand(model, bands):
    """The network in float64 NumPy, pixel by pixel."""
    x = np.log(np.stack([bands[name].astype(np.float64) for name in model.spec.input_maps]))
    x = (x - np.reshape(model.scaling.centre, (-1, 1))) / np.reshape(model.scaling.scale, (-1, 1))
    for number, (weights, offsets) in enumerate(model.parameters):
        x = np.asarray(weights, np.float64) @ x + np.asarray(offsets, np.float64)[:, None]
        if number < len(model.parameters) - 1:
            x = np.tanh(x)
    return np.exp(x[0] * model.scaling.output_scale + model.scaling.output_centre)


def test_the_map_is_the_network_of_the_bands(sky, models):
    predict(models / "850um", sky).run()
    dataset = stores.open(sky)
    bands = {name: dataset[name].values for name in BANDS}
    wanted = by_hand(load_model(models / "850um"), bands)
    got = dataset["pred_850um"].values
    assert got.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(got), np.isnan(bands["i160"]))
    np.testing.assert_allclose(got, wanted, rtol=3e-6)
    assert stores.info(sky, "pred_850um").unit == "MJy/sr"
    assert stores.info(sky, "pred_850um").band == "850um"


def test_flags_say_why(tmp_path, models):
    sky = make_sky(tmp_path / "sky.zarr")
    values = stores.read_tile(sky, "i250", 0)
    values[:3] = (-1.0, np.nan, np.inf)
    stores.write_tile(sky, "i250", 0, values)
    predict(models / "850um", sky).run()
    flags = stores.open(sky)["flag_850um"].values
    assert flags[0] == FLAGS["not_positive_input"]
    assert flags[1] == FLAGS["no_coverage"]
    assert flags[2] & FLAGS["not_finite"]
    assert (flags[5 * 1024 : 6 * 1024] == FLAGS["no_coverage"]).all()
    assert np.isnan(stores.open(sky)["pred_850um"].values[:3]).all()


def test_two_models_in_one_pass_equal_two_passes(tmp_path, models):
    together, apart = make_sky(tmp_path / "together.zarr"), make_sky(tmp_path / "apart.zarr")
    plan = predict([models / "850um", models / "1380um"], together)
    assert plan.read_bytes == 11 * 1024 * 4 * 4
    plan.run()
    for label in ("850um", "1380um"):
        predict(models / label, apart).run()
    names = ("pred_850um", "pred_1380um", "flag_850um", "flag_1380um")
    assert content(together, *names) == content(apart, *names)


@pytest.fixture(scope="module")
def clusters():
    with connect(workers=1, threads=2) as one, connect(workers=2, threads=1) as two:
        yield {"one worker": one, "two workers": two}


@pytest.mark.slow
def test_workers_threads_batches_and_tiles_do_not_change_a_byte(tmp_path, models, clusters):
    made = {}
    runs = {
        "plain": {},
        "batch of 100": {"batch": 100},
        "batch of 9000": {"batch": 9000},
        "three threads": {"threads": 3},
        "one thread": {"threads": 1},
        "one worker": {},
        "two workers": {},
    }
    for key, options in runs.items():
        sky = make_sky(tmp_path / f"{key}.zarr", 128)
        predict(models / "850um", sky, **options).run(clusters.get(key))
        made[key] = content(sky, "pred_850um", "flag_850um")
    assert len(made["plain"]) > 11
    for key, bytes_of in made.items():
        assert bytes_of == made["plain"], key


def test_small_tiles_hold_the_same_numbers(sky, tmp_path, models):
    predict(models / "850um", sky).run()
    predict(models / "850um", sky, out=tmp_path / "out.zarr", tile_nside=2).run()
    assert stores.tiling_of(tmp_path / "out.zarr").tile_nside == 2
    one, other = (stores.open(where)["pred_850um"].values for where in (sky, tmp_path / "out.zarr"))
    np.testing.assert_array_equal(one, other)
    with pytest.raises(errors.InputError, match="`tile_nside` 4 came"):
        predict(models / "850um", sky, out=tmp_path / "out.zarr", tile_nside=4)


def test_out_leaves_the_input_store_alone(sky, tmp_path, models):
    predict(models / "850um", sky, out=tmp_path / "out.zarr").run()
    assert "pred_850um" not in stores.infos(sky)
    assert stores.frame_of(tmp_path / "out.zarr") == "galactic"


def test_maps_with_other_names(tmp_path, models):
    names = ("a", "b", "c", "d")
    sky = make_sky(tmp_path / "sky.zarr", names=names)
    predict(models / "850um", sky, inputs=dict(zip(BANDS, names, strict=True))).run()
    bands = {band: stores.open(sky)[name].values for band, name in zip(BANDS, names, strict=True)}
    np.testing.assert_allclose(
        stores.open(sky)["pred_850um"].values, by_hand(load_model(models / "850um"), bands), rtol=3e-6
    )


def test_a_lazy_prediction_equals_the_run(sky, models):
    plan = predict(models / "850um", sky)
    lazy = plan.lazy()["pred_850um"].compute(scheduler="sync").values
    assert "pred_850um" not in stores.infos(sky)
    plan.run()
    np.testing.assert_array_equal(lazy, stores.open(sky)["pred_850um"].values)


def test_another_model_is_another_run(sky, models, tmp_path):
    predict(models / "850um", sky).run()
    save_model(tmp_path / "other", Model.untrained(dust_mlp("850um"), seed=4))
    with pytest.raises(errors.IdentityError, match="made by another run"):
        predict(tmp_path / "other", sky)
    before = content(sky, "pred_850um")
    predict(tmp_path / "other", sky, overwrite=True).run()
    assert content(sky, "pred_850um") != before


def test_a_model_replaced_after_the_plan_is_noticed(sky, models, tmp_path):
    shutil.copytree(models / "850um", tmp_path / "model")
    plan = predict(tmp_path / "model", sky)
    save_model(tmp_path / "model", Model.untrained(dust_mlp("850um"), seed=9), overwrite=True)
    with pytest.raises(errors.RunError, match="is not the one that this run was planned with"):
        plan.run()


def test_memory_options_that_are_offered_do_fit(tmp_path, models):
    sky = make_sky(tmp_path / "sky.zarr", 256)
    plan = predict(models / "850um", sky, batch=1 << 20, out=tmp_path / "out.zarr", threads=2, memory="630MB")
    with pytest.raises(errors.MemoryLimitError) as caught:
        plan.run()
    text = str(caught.value)
    assert "batch=" in text
    assert not (tmp_path / "out.zarr").exists()
    batch = int(text.split("batch=")[1].split(" ")[0])
    predict(models / "850um", sky, batch=batch, out=tmp_path / "out.zarr", threads=2, memory="630MB").run()


def test_a_model_applied_at_another_resolution_says_so(sky, models, tmp_path):
    model = load_model(models / "850um")
    save_model(tmp_path / "model", dataclasses.replace(model, card={**model.card, "nside": 2048}))
    assert "trained at nside 2048 and is applied at 32" in str(predict(tmp_path / "model", sky))


def test_tasks_carry_paths_not_weights(models):
    kernel = PredictKernel((str(models / "1380um"),), ("digest",), tuple((b, b) for b in BANDS), None)
    assert len(cloudpickle.dumps(kernel)) < 1_000


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"models": []}, errors.InputError, "`models` is empty"),
        ({"models": "nowhere"}, errors.StoreNotFoundError, "nowhere"),
        ({"store": "nowhere.zarr"}, errors.StoreNotFoundError, "no sky store"),
        ({"inputs": {"i170": "x"}}, errors.InputError, "'i170', which no model reads"),
        ({"inputs": {"i160": "x"}}, errors.MissingMapError, "'x' is not in the store"),
        ({"batch": 0}, errors.InputError, "`batch` 0"),
        ({"threads": 0}, errors.InputError, "`threads` 0"),
        ({"memory": "plenty"}, errors.InputError, "`memory`"),
        ({"tile_nside": 16}, errors.InputError, "`tile_nside` 16"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(sky, models, change, error, words):
    arguments = {"models": models / "850um", "store": sky, **change}
    with pytest.raises(error, match=words):
        predict(arguments.pop("models"), arguments.pop("store"), **arguments)
    assert not any(name.startswith("pred") for name in stores.infos(sky))


def test_one_band_is_predicted_by_one_model(sky, models):
    with pytest.raises(errors.InputError, match="several models predict 850um"):
        predict([models / "850um", models / "850um"], sky)


def test_a_missing_band_and_a_wrong_unit_are_named(tmp_path, models):
    with pytest.raises(errors.MissingMapError, match="'i500' is not in the store"):
        predict(models / "850um", make_sky(tmp_path / "three.zarr", names=BANDS[:3]))
    sky = make_sky(tmp_path / "sky.zarr", names=BANDS[:3])
    stores.create_maps(sky, [MapInfo("i500", "intensity", "K_CMB")])
    with pytest.raises(errors.UnitError, match=r"'i500' of .* is in K_CMB"):
        predict(models / "850um", sky)


def test_a_truncated_model_is_refused(sky, models, tmp_path):
    shutil.copytree(models / "850um", tmp_path / "model")
    weights = next(Path(tmp_path / "model").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(errors.FormatError):
        predict(tmp_path / "model", sky)
    document = next(Path(models / "850um").glob("*.json"))
    assert json.loads(document.read_text())


def test_the_worker_is_what_was_asked_for(sky, models):
    plan = predict(models / "850um", sky, threads=1, memory="2GB")
    assert plan.worker == Worker(2 * 10**9, 1)
