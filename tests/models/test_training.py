"""Training on small skies of known relation: it learns, stops, repeats itself, and every setting matters."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import r2_score
from skymill.chunking.errors import InputError, RunError
from skymill.models import ModelSpec, dust_mlp, training
from skymill.models.mlp import to_arrays
from skymill.models.splits import Split, split_pixels
from skymill.models.training import Epoch, Trained, score, train_network

N = 6000
QUICK = dust_mlp("850um").replace(max_epochs=8, min_steps=1, batch_size=128, learning_rate=1e-2)


def _sky(noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    column, colour = random.normal(size=(2, N))
    inputs = np.exp([3 + column, 2 + column - 0.1 * colour, 1 + column - 0.2 * colour, column - 0.3 * colour])
    target = np.exp(-1 + column - 0.5 * colour + 0.05 * colour**2 + noise * random.normal(size=N))
    return inputs.astype("f4"), target.astype("f4")


INPUTS, TARGET = _sky()
SPLIT = split_pixels(np.arange(N), 64)


def _train(spec: ModelSpec = QUICK, target: np.ndarray = TARGET, split: Split = SPLIT, **options: Any) -> Trained:
    return train_network(spec, INPUTS, target, split, **options)


def _weights(trained: Trained) -> bytes:
    return b"".join(array.tobytes() for array in to_arrays(trained.model.parameters).values())


BASE = _weights(_train())


def test_it_learns_the_relation() -> None:
    trained = _train(QUICK.replace(max_epochs=40))
    found = score(trained.model, INPUTS, TARGET, SPLIT.test)
    assert found["r2_log"] > 0.999
    assert found["sigma"] < 0.04
    assert trained.history[-1].validation_loss < 0.02 * trained.history[0].validation_loss
    assert trained.model.parameters[0].weight.dtype == np.float32


def test_with_noise_it_comes_down_to_the_noise() -> None:
    inputs, target = _sky(noise=0.05)
    trained = train_network(QUICK.replace(max_epochs=40), inputs, target, SPLIT)
    found = score(trained.model, inputs, target, SPLIT.test)
    assert found["sigma"] == pytest.approx(0.05, rel=0.2)
    assert found["half_width_95"] == pytest.approx(1.96 * found["robust_sigma"], rel=0.15)


def test_the_same_seed_gives_the_same_weights_and_another_others() -> None:
    again, other = _train(seed=0), _train(seed=1)
    assert _weights(again) == BASE
    assert _weights(other) != BASE


@pytest.mark.parametrize(
    "change",
    [
        {"hidden": (12,)},
        {"activation": "relu"},
        {"loss_delta": 0.05},
        {"learning_rate": 5e-3},
        {"schedule": "constant"},
        {"batch_size": 64},
        {"max_epochs": 4},
        {"min_steps": 2000},
    ],
)
def test_every_setting_changes_the_weights(change: dict[str, Any]) -> None:
    assert _weights(_train(QUICK.replace(**change))) != BASE


def test_a_squared_loss_is_a_large_delta() -> None:
    infinite, large = (_train(QUICK.replace(loss_delta=delta)) for delta in (float("inf"), 1e6))
    assert _weights(infinite) == _weights(large)
    assert _weights(infinite) != BASE


def test_an_outlier_pulls_less_with_a_small_delta() -> None:
    spoilt = TARGET.copy()
    spoilt[SPLIT.train[:60]] *= 1e4
    errors = []
    for delta in (0.1, float("inf")):
        trained = _train(QUICK.replace(loss_delta=delta, max_epochs=20), spoilt)
        errors.append(abs(score(trained.model, INPUTS, TARGET, SPLIT.test)["median"]))
    assert errors[0] < 0.3 * errors[1]


def test_it_stops_when_validation_no_longer_improves_and_keeps_the_best() -> None:
    # Targets without relation to the inputs: beyond the first epochs only the training part improves.
    shuffled = np.random.default_rng(3).permutation(TARGET)
    few = Split(SPLIT.train[:200], SPLIT.validation, SPLIT.test)
    spec = QUICK.replace(max_epochs=300, batch_size=50, patience=4, schedule="constant")
    trained = _train(spec, shuffled, few)
    assert trained.stopped == "no improvement"
    assert len(trained.history) == trained.best_epoch + 4
    best = min(trained.history, key=lambda epoch: epoch.validation_loss)
    kept = score(trained.model, INPUTS, shuffled, few.validation)
    assert kept["huber"] == pytest.approx(best.validation_loss, rel=1e-3)
    longer = _train(spec.replace(patience=20), shuffled, few)
    assert len(longer.history) > len(trained.history)


def test_few_pixels_pass_several_times_an_epoch() -> None:
    few = Split(SPLIT.train[:256], SPLIT.validation, SPLIT.test)
    once, often = (
        _train(QUICK.replace(max_epochs=2, min_steps=steps), split=few).history[-1].loss for steps in (1, 400)
    )
    assert often < 0.1 * once


def test_fewer_pixels_than_a_batch() -> None:
    few = Split(SPLIT.train[:40], SPLIT.validation, SPLIT.test)
    assert len(_train(QUICK, split=few).history) == 8


def test_test_pixels_are_never_seen() -> None:
    target, inputs = TARGET.copy(), INPUTS.copy()
    target[SPLIT.test] *= 50
    inputs[:, SPLIT.test] *= 7
    assert _weights(train_network(QUICK, inputs, target, SPLIT)) == BASE


def test_progress_is_told() -> None:
    seen: list[Epoch] = []
    trained = _train(on_epoch=seen.append)
    assert tuple(seen) == trained.history
    assert [epoch.number for epoch in seen] == list(range(1, 9))
    assert all(b.seconds >= a.seconds for a, b in pairwise(seen))
    assert "seconds" not in trained.to_dict()["epochs"][0]
    assert trained.to_dict()["best_epoch"] == trained.best_epoch


def test_scores_are_those_of_numpy_and_scikit_learn() -> None:
    inputs, target = _sky(noise=0.1)
    trained = train_network(QUICK, inputs, target, SPLIT)
    found = score(trained.model, inputs, target, SPLIT.test)
    from skymill.models import Predictor

    bands = {name: inputs[i, SPLIT.test] for i, name in enumerate(trained.model.spec.input_maps)}
    prediction = Predictor([trained.model])(bands)["850um"].values.astype("f8")
    truth = target[SPLIT.test].astype("f8")
    relative = prediction / truth - 1
    assert found["pixels"] == len(SPLIT.test)
    assert found["r2_log"] == pytest.approx(r2_score(np.log(truth), np.log(prediction)), abs=1e-9)
    assert found["r2"] == pytest.approx(r2_score(truth, prediction), abs=1e-9)
    assert found["mean"] == pytest.approx(relative.mean())
    assert found["median"] == pytest.approx(np.median(relative))
    assert found["sigma"] == pytest.approx(relative.std())
    assert found["above_20_percent"] == pytest.approx((np.abs(relative) > 0.2).mean())
    last = trained.history[trained.best_epoch - 1]
    assert score(trained.model, inputs, target, SPLIT.validation)["r2_log"] == pytest.approx(
        last.validation_r2, abs=1e-5
    )


def test_the_loss_is_that_of_huber() -> None:
    from skymill.models.training import _huber

    error = np.array([0.0, 0.5, -1.0, 1.5, -4.0])
    np.testing.assert_allclose(_huber(error, 1.0), [0, 0.125, 0.5, 1.0, 3.5])
    np.testing.assert_allclose(_huber(error, 2.0), [0, 0.125, 0.5, 1.125, 6.0])
    np.testing.assert_allclose(_huber(error, np.inf), error**2 / 2)


def test_divergence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_validate", lambda *_: (float("nan"), 0.0))
    with pytest.raises(RunError, match=r"diverged in epoch 1 .*lower `learning_rate`"):
        _train()


def test_refusals() -> None:
    with pytest.raises(InputError, match="shape"):
        train_network(QUICK, INPUTS[:3], TARGET, SPLIT)
    with pytest.raises(InputError, match="shape"):
        train_network(QUICK, INPUTS, TARGET[:-1], SPLIT)
    for wrong in (0.0, np.nan, np.inf, -1.0):
        spoilt = TARGET.copy()
        spoilt[SPLIT.train[5]] = wrong
        with pytest.raises(InputError, match="positive finite"):
            _train(target=spoilt)


@pytest.mark.slow
@pytest.mark.parametrize("label", ["850um", "1380um"])
def test_published_networks_reach_r2_of_099(label: str) -> None:
    inputs, target = _sky(noise=0.05)
    trained = train_network(
        dust_mlp(label).replace(min_steps=5000, max_epochs=30, batch_size=256), inputs, target, SPLIT
    )
    assert score(trained.model, inputs, target, SPLIT.test)["r2_log"] > 0.99
