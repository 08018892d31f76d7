"""Training of a network on pixels in memory: Huber loss, Adam, early stopping, one compiled epoch."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

from ..chunking.errors import InputError, RunError
from .artefact import Model
from .mlp import Parameters, apply, initial_parameters
from .scaling import Scaling
from .spec import ModelSpec
from .splits import Split

_SCORE_BLOCK = 65536
# Improvements smaller than this part of the best loss do not count, or rounding noise would never let it stop.
_RELATIVE_IMPROVEMENT = 1e-4


@dataclass(frozen=True)
class Epoch:
    """One pass over the training pixels, or several (`ModelSpec.min_steps`).

    Parameters
    ----------
    number : int
        From 1.
    loss : float
        Mean Huber loss of the training pixels, each at the weights of its step; scaled logarithms.
    validation_loss : float
        Mean Huber loss of the validation pixels at the end of the epoch.
    validation_r2 : float
        Coefficient of determination of their logarithms.
    seconds : float
        Wall time since training began.
    """

    number: int
    loss: float
    validation_loss: float
    validation_r2: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model and how it came to be.

    Parameters
    ----------
    model : Model
        With the parameters of the best epoch.
    history : tuple of Epoch
        Every epoch.
    best_epoch : int
        Number of the epoch whose parameters were kept.
    stopped : str
        Why it ended: "no improvement" or "all epochs".
    seconds : float
        Wall time, compilation included.
    """

    model: Model
    history: tuple[Epoch, ...]
    best_epoch: int
    stopped: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the history as a dictionary that JSON can hold; without times, which no two runs share."""
        epochs = [asdict(epoch) for epoch in self.history]
        for epoch in epochs:
            del epoch["seconds"]
        return {"best_epoch": self.best_epoch, "stopped": self.stopped, "epochs": epochs}


def train_network(
    spec: ModelSpec,
    inputs: NDArray[np.float32],
    target: NDArray[np.float32],
    split: Split,
    *,
    seed: int = 0,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Return a network trained on some pixels and stopped by others.

    Scaling, optimiser and stopping see only the training and validation pixels of the split.  The same
    seed gives the same weights on the same machine.

    Parameters
    ----------
    spec : ModelSpec
        Layers and hyperparameters.
    inputs : numpy.ndarray
        (band, pixel) float32, positive and finite, in the order of `spec.inputs`.
    target : numpy.ndarray
        (pixel,) float32, positive and finite.
    split : Split
        Positions of the parts.
    seed : int
        Of the first weights and of the order of pixels.
    on_epoch : callable, optional
        Called after every epoch.

    Raises
    ------
    InputError
        If shapes disagree, or a value is not positive and finite.
    RunError
        If the loss is no longer finite.

    References
    ----------
    Paradis et al. 2024, A&A 691, A241, section 3; Huber 1964, eq. 1; Kingma & Ba 2015, algorithm 1.
    """
    if inputs.shape != (len(spec.inputs), target.shape[0]):
        raise InputError(
            f"inputs of shape {inputs.shape} came with {target.shape[0]} targets; "
            f"({len(spec.inputs)}, {target.shape[0]}) expected."
        )
    began = time.perf_counter()
    scaling = Scaling.fit(inputs[:, split.train], target[split.train])
    rows = _rows(scaling, inputs, target, split.train)
    checked = _rows(scaling, inputs, target, split.validation)
    batch = min(spec.batch_size, len(rows))
    steps = len(rows) // batch
    passes = max(1, math.ceil(spec.min_steps / (steps * spec.max_epochs)))
    epoch_of, errors_of, first_state = _functions(spec, passes * steps)
    flat, unravel = ravel_pytree(initial_parameters(spec, seed))
    random = np.random.default_rng([seed, 1])
    state = first_state(flat)
    best, best_loss, best_epoch = flat, np.inf, 0
    history: list[Epoch] = []
    stopped = "all epochs"
    for number in range(1, spec.max_epochs + 1):
        # Rows are shuffled, not columns: a pixel's numbers then move together, in one cache line.
        order = np.concatenate([random.permutation(len(rows))[: steps * batch] for _ in range(passes)])
        state, loss = epoch_of(state, rows[order].reshape(passes * steps, batch, -1))
        validation_loss, r2 = _validate(errors_of, state[0], checked, spec.loss_delta)
        epoch = Epoch(number, float(loss), validation_loss, r2, time.perf_counter() - began)
        if not np.isfinite(epoch.loss + epoch.validation_loss):
            raise RunError(
                f"training diverged in epoch {number} (loss {epoch.loss:g}); lower `learning_rate` "
                f"({spec.learning_rate:g} now) and train again."
            )
        history.append(epoch)
        if on_epoch is not None:
            on_epoch(epoch)
        if validation_loss < best_loss * (1 - _RELATIVE_IMPROVEMENT):
            best, best_loss, best_epoch = state[0], validation_loss, number
        elif number - best_epoch >= spec.patience:
            stopped = "no improvement"
            break
    parameters: Parameters = jax.tree.map(np.asarray, unravel(best))
    return Trained(Model(spec, parameters, scaling), tuple(history), best_epoch, stopped, time.perf_counter() - began)


def score(
    model: Model, inputs: NDArray[np.float32], target: NDArray[np.float32], chosen: NDArray[np.int64]
) -> dict[str, float]:
    """Return how well a model predicts some pixels.

    Parameters
    ----------
    model : Model
        Trained.
    inputs, target : numpy.ndarray
        (band, pixel) and (pixel,) float32, as for `train_network`.
    chosen : numpy.ndarray
        (pixel,) int64, positions of the pixels.

    Returns
    -------
    dict of str to float
        "pixels"; "r2_log", the coefficient of determination of the logarithms; "r2", of the values; "huber",
        the mean loss; and of the relative error (prediction - target) / target: "mean", "median", "sigma"
        (standard deviation), "robust_sigma" (interquartile range / 1.349), "half_width_95" (half of the
        central 95 %), "above_20_percent" (part of pixels beyond 20 %).
    """
    from .kernel import Predictor

    truth = target[chosen].astype(np.float64)
    bands = {name: inputs[i, chosen] for i, name in enumerate(model.spec.input_maps)}
    prediction = Predictor([model])(bands)[model.spec.label].values.astype(np.float64)
    ln_error = np.log(prediction) - np.log(truth)
    relative = prediction / truth - 1.0
    low, first, median, third, high = np.quantile(relative, [0.025, 0.25, 0.5, 0.75, 0.975])
    return {
        "pixels": len(truth),
        "r2_log": _r2(ln_error, np.log(truth)),
        "r2": _r2(prediction - truth, truth),
        "huber": float(np.mean(_huber(ln_error / model.scaling.output_scale, model.spec.loss_delta))),
        "mean": float(relative.mean()),
        "median": float(median),
        "sigma": float(relative.std()),
        "robust_sigma": float((third - first) / 1.3489795003921634),
        "half_width_95": float((high - low) / 2),
        "above_20_percent": float(np.mean(np.abs(relative) > 0.2)),
    }


def _rows(
    scaling: Scaling, inputs: NDArray[np.float32], target: NDArray[np.float32], chosen: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return (pixel, band + 1) float32: scaled inputs, and the scaled target last."""
    x = scaling.inputs_to_network(inputs[:, chosen])
    y = scaling.output_to_network(target[chosen])
    return np.ascontiguousarray(np.concatenate([x, y[None]]).T)


@functools.lru_cache(maxsize=16)
def _functions(spec: ModelSpec, steps: int) -> tuple[Any, Any, Any]:
    """Return compiled epoch and errors, and what makes the first state of flat parameters."""
    # One flat vector of parameters: Adam is then a few operations instead of a few for each array, and with
    # some thousand parameters it is the number of operations that costs.
    _, unravel = ravel_pytree(initial_parameters(spec, 0))
    rate: Any = spec.learning_rate
    if spec.schedule == "cosine":
        rate = optax.cosine_decay_schedule(spec.learning_rate, decay_steps=spec.max_epochs * steps)
    optimiser = optax.adam(rate)

    def loss(parameters: Any, rows: Any) -> Any:
        columns = rows.T  # feature-major, see mlp.apply
        error = apply(unravel(parameters), columns[:-1], spec.activation) - columns[-1]
        return jnp.mean(_huber(error, spec.loss_delta))

    @jax.jit
    def epoch(state: Any, rows: Any) -> Any:
        def step(state: Any, batch_rows: Any) -> Any:
            parameters, memory = state
            value, gradient = jax.value_and_grad(loss)(parameters, batch_rows)
            updates, memory = optimiser.update(gradient, memory, parameters)
            return (optax.apply_updates(parameters, updates), memory), value

        state, losses = lax.scan(step, state, rows)
        return state, losses.mean()

    @jax.jit
    def errors(parameters: Any, rows: Any) -> Any:
        columns = rows.T
        return apply(unravel(parameters), columns[:-1], spec.activation) - columns[-1]

    return epoch, errors, lambda flat: (flat, optimiser.init(flat))


def _validate(errors: Any, parameters: Any, rows: NDArray[np.float32], delta: float) -> tuple[float, float]:
    pieces = []
    for low in range(0, len(rows), _SCORE_BLOCK):
        piece = rows[low : low + _SCORE_BLOCK]
        padded = np.zeros((min(_SCORE_BLOCK, len(rows)), rows.shape[1]), np.float32)  # one shape, one compilation
        padded[: len(piece)] = piece
        pieces.append(np.asarray(errors(parameters, padded))[: len(piece)].astype(np.float64))
    error = np.concatenate(pieces)
    return float(np.mean(_huber(error, delta))), _r2(error, rows[:, -1].astype(np.float64))


def _huber(error: Any, delta: float) -> Any:
    """Return the Huber loss: error^2 / 2 within delta, linear with the same slope beyond."""
    # With c = min(|e|, delta) it is c |e| - c^2 / 2, which needs no choice between branches.
    size = abs(error)
    clipped = size.clip(max=delta)
    return clipped * size - 0.5 * clipped**2


def _r2(error: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    spread = float(np.sum((truth - truth.mean()) ** 2))
    return 1.0 - float(np.sum(error**2)) / spread if spread > 0 else float("nan")
