"""Multilayer perceptrons over feature-major arrays (feature, pixel)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .spec import ModelSpec

if TYPE_CHECKING:
    import jax


class Layer(NamedTuple):
    """One layer: `weight` (out, in) float32 and `bias` (out,) float32."""

    weight: Any
    bias: Any


Parameters = tuple[Layer, ...]


def initial_parameters(spec: ModelSpec, seed: int) -> Parameters:
    """Return fresh parameters, NumPy float32: Glorot-uniform weights, biases of zero.

    Parameters
    ----------
    spec : ModelSpec
        Gives the sizes of the layers.
    seed : int
        Another seed gives other weights.

    References
    ----------
    Glorot & Bengio 2010, eq. 16.

    Examples
    --------
    >>> from skymill.models import dust_mlp
    >>> [layer.weight.shape for layer in initial_parameters(dust_mlp("850um"), seed=0)]
    [(12, 4), (8, 12), (1, 8)]
    """
    random = np.random.default_rng(seed)
    layers = []
    for before, after in pairwise(spec.sizes):
        limit = np.sqrt(6.0 / (before + after))
        weight = random.uniform(-limit, limit, (after, before)).astype(np.float32)
        layers.append(Layer(weight, np.zeros(after, np.float32)))
    return tuple(layers)


def expected_shapes(sizes: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every array of a network with these layer sizes.

    Examples
    --------
    >>> expected_shapes((4, 1))
    {'layer0.weight': (1, 4), 'layer0.bias': (1,)}
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (before, after) in enumerate(pairwise(sizes)):
        shapes[f"layer{i}.weight"] = (after, before)
        shapes[f"layer{i}.bias"] = (after,)
    return shapes


def to_arrays(parameters: Parameters) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of a network by name, as `expected_shapes` names them."""
    arrays = {}
    for i, layer in enumerate(parameters):
        arrays[f"layer{i}.weight"] = np.asarray(layer.weight, np.float32)
        arrays[f"layer{i}.bias"] = np.asarray(layer.bias, np.float32)
    return arrays


def from_arrays(arrays: dict[str, NDArray[np.float32]]) -> Parameters:
    """Return the network whose arrays `to_arrays` gave."""
    return tuple(Layer(arrays[f"layer{i}.weight"], arrays[f"layer{i}.bias"]) for i in range(len(arrays) // 2))


def apply(parameters: Parameters, x: jax.Array, activation: str) -> jax.Array:
    """Return the scaled output of the network, (pixel,) float32; pure, for use under `jax.jit`.

    Parameters
    ----------
    parameters : tuple of Layer
        The network.
    x : jax.Array
        (feature, pixel) float32, scaled inputs.  Feature-major, because each row is then a run of
        neighbouring pixels that the vector units can work on.
    activation : str
        One of `models.spec.ACTIVATIONS`.
    """
    import jax  # here, so that an artefact can be read and described without it

    functions = {
        "tanh": jax.numpy.tanh,
        "relu": jax.nn.relu,
        "silu": jax.nn.silu,
        "gelu": jax.nn.gelu,
        "sigmoid": jax.nn.sigmoid,
    }
    function = functions[activation]
    for layer in parameters[:-1]:
        x = function(_affine(layer, x))
    out: jax.Array = _affine(parameters[-1], x)[0]
    return out


def _affine(layer: Layer, x: jax.Array) -> jax.Array:
    import jax.numpy as jnp

    # "highest": on a GPU the default would round the factors to TF32, 10 bits of mantissa.
    product: jax.Array = jnp.matmul(layer.weight, x, precision="highest")
    out: jax.Array = product + layer.bias[:, None]
    return out
