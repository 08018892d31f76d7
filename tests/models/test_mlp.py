"""The network itself: initial weights, names of arrays, forward pass, gradients."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from skymill.models import dust_mlp
from skymill.models.mlp import apply, expected_shapes, from_arrays, initial_parameters, to_arrays


@pytest.mark.parametrize(("label", "count"), [("850um", 173), ("1380um", 2161)])
def test_number_of_parameters(label: str, count: int) -> None:
    spec = dust_mlp(label)
    arrays = to_arrays(initial_parameters(spec, seed=0))
    assert sum(array.size for array in arrays.values()) == count == spec.n_parameters
    assert {name: array.shape for name, array in arrays.items()} == expected_shapes(spec.sizes)


def test_initial_weights_are_glorot_uniform() -> None:
    spec = dust_mlp("1380um").replace(hidden=(400, 300))
    for layer, (before, after) in zip(initial_parameters(spec, 3), [(4, 400), (400, 300), (300, 1)], strict=True):
        limit = np.sqrt(6 / (before + after))
        assert np.abs(layer.weight).max() <= limit
        assert layer.weight.std() == pytest.approx(limit / np.sqrt(3), rel=0.1)
        assert not layer.bias.any()
        assert layer.weight.dtype == layer.bias.dtype == np.float32


def test_the_seed_decides_the_weights() -> None:
    first, again, other = (initial_parameters(dust_mlp("850um"), seed)[0].weight for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_arrays_give_the_network_back() -> None:
    parameters = initial_parameters(dust_mlp("850um").replace(hidden=(3,) * 11), 0)
    again = from_arrays(dict(sorted(to_arrays(parameters).items())))  # layer10 sorts before layer2
    for a, b in zip(parameters, again, strict=True):
        assert np.array_equal(a.weight, b.weight)


@pytest.mark.parametrize("hidden", [(), (5,), (12, 8), (7, 6, 5)])
def test_forward_pass(hidden: tuple[int, ...]) -> None:
    parameters = initial_parameters(dust_mlp("850um").replace(hidden=hidden), 0)
    x = np.random.default_rng(0).normal(size=(4, 50)).astype("f4")
    y = x.astype("f8")
    for weight, bias in parameters[:-1]:
        y = np.tanh(weight @ y + bias[:, None])
    y = parameters[-1].weight @ y + parameters[-1].bias[:, None]
    out = jax.jit(apply, static_argnums=2)(parameters, x, "tanh")
    assert out.shape == (50,)
    np.testing.assert_allclose(out, y[0], atol=2e-6)


def test_gradient_is_the_slope() -> None:
    parameters = initial_parameters(dust_mlp("850um"), 0)
    x = np.random.default_rng(0).normal(size=(4, 20)).astype("f4")
    slope = jax.grad(lambda v: apply(parameters, v, "tanh").sum())(x)
    step = np.zeros_like(x)
    step[2, 7] = 1e-2
    difference = apply(parameters, x + step, "tanh")[7] - apply(parameters, x - step, "tanh")[7]
    assert float(difference) / 2e-2 == pytest.approx(float(slope[2, 7]), rel=1e-2, abs=1e-4)
