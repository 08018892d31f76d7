"""Trained networks applied to pixels: one compiled pass over the bands for all models together."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from ..chunking.errors import InputError, MissingMapError, nearest
from ..chunking.schema import FLAGS
from .mlp import Layer, Parameters, apply

if TYPE_CHECKING:
    from .artefact import Model

# Pixels in a block, whose temporaries (hidden units, pixel) stay in the cache of a core; a GPU wants many more.
CPU_BLOCK, GPU_BLOCK = 8192, 1 << 20
CPU_BATCH, GPU_BATCH = 1 << 17, 1 << 22

# Below this part of pixels with all bands they are gathered first.  Measured: the small network breaks even
# at 0.5, the large one gains from 0.9 on.
_GATHER_BELOW = 0.6

_VECTOR_OPTION = "xla_cpu_prefer_vector_width"

NOT_POSITIVE = FLAGS["not_positive_input"]
NO_COVERAGE = FLAGS["no_coverage"]
OUTSIDE = FLAGS["outside_training_range"]
NOT_FINITE = FLAGS["not_finite"]


class Prediction(NamedTuple):
    """What a model says of pixels: `values` (pixel,) float32 and `flags` (pixel,) uint8."""

    values: NDArray[np.float32]
    flags: NDArray[np.uint8]


class Predictor:
    """Predicts bands from bands, pixel by pixel, with one model or several that share their inputs.

    The whole way from brightness to brightness (logarithm, scaling, network, scaling back, exponential,
    flags) is one compiled function over a block of fixed size, and a loop over blocks whose number is an
    argument of it.  Hence one compilation for each set of models in a process, and the same bytes for a
    pixel wherever it stands, whatever the batch and the number of threads.  An object may be called from
    several threads at once.

    Flags, as bits of `chunking.schema.FLAGS`: "no_coverage" where an input is NaN (then nothing else is
    judged), "not_positive_input", "not_finite" where an input or the result is infinite, and
    "outside_training_range" where an input is beyond those of the training pixels.  The first three leave
    NaN as the value; the last leaves the prediction.

    Parameters
    ----------
    models : sequence of Model
        Trained models with different labels.
    batch : int, optional
        Pixels handed over at a time, rounded up to whole blocks: more costs memory, fewer costs time.
        By default 131072 on a CPU, 4194304 on a GPU.
    block : int, optional
        Pixels computed at a time; by default 8192 on a CPU, 1048576 on a GPU.

    Raises
    ------
    InputError
        If there is no model, two have the same label, or a size is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from skymill.models import Model, Predictor, dust_mlp
    >>> predict = Predictor([Model.untrained(dust_mlp("850um"))])
    >>> bands = {name: np.array([1.0, -1.0, np.nan], "f4") for name in predict.inputs}
    >>> predict(bands)["850um"].flags
    array([0, 1, 2], dtype=uint8)
    """

    def __init__(self, models: Sequence[Model], batch: int | None = None, block: int | None = None) -> None:
        self.models = tuple(models)
        self.labels = tuple(model.spec.label for model in self.models)
        if not self.models:
            raise InputError("no model came; give at least one.")
        for label in self.labels:
            if self.labels.count(label) > 1:
                raise InputError(
                    f"two models predict {label!r}; their maps would have one name. Predict with one after "
                    "the other, each into its own store."
                )
        for key, size in (("batch", batch), ("block", block)):
            if size is not None and size < 1:
                raise InputError(f"`{key}` {size!r} came; a positive number of pixels expected.")
        maps: dict[str, None] = {}
        for model in self.models:
            maps.update(dict.fromkeys(model.spec.input_maps))
        self.inputs: tuple[str, ...] = tuple(maps)
        self._batch, self._block = batch, block

    @property
    def block(self) -> int:
        """Pixels computed at a time."""
        return self._block or (CPU_BLOCK if jax.default_backend() == "cpu" else GPU_BLOCK)

    @property
    def batch(self) -> int:
        """Pixels handed over at a time, a multiple of `block`."""
        wanted = self._batch or (CPU_BATCH if jax.default_backend() == "cpu" else GPU_BATCH)
        return -(-wanted // self.block) * self.block

    def memory_bytes(self, npix: int) -> dict[str, int]:
        """Return the memory that a call on `npix` pixels needs beside its inputs and results, by part.

        Parameters
        ----------
        npix : int
            Pixels of a call.

        Returns
        -------
        dict of str to int
            Bytes: "batch" (inputs and results of one batch, held twice while they are handed over),
            "network" (hidden units of one block, with their copies before the activation), "gather"
            (numbers of the pixels with all bands, and the mask that finds them).
        """
        per_pixel = 4 * len(self.inputs) + 5 * len(self.models)
        widest = max(sum(model.spec.sizes) for model in self.models)
        return {
            "batch": 2 * self.batch * per_pixel,
            "network": 2 * self.block * 4 * widest,
            "gather": 8 * npix + 2 * npix,
        }

    def __call__(self, bands: Mapping[str, Any]) -> dict[str, Prediction]:
        """Return the prediction of every model by label.

        Parameters
        ----------
        bands : mapping of str to array
            (pixel,) for each map of `inputs`, in the bands' units; taken as float32; others are ignored.

        Raises
        ------
        MissingMapError
            If a map is missing.
        InputError
            If an array has not one dimension, or the lengths differ.
        """
        arrays = [self._checked(bands, name) for name in self.inputs]
        n = arrays[0].shape[0]
        for name, array in zip(self.inputs, arrays, strict=True):
            if array.shape[0] != n:
                raise InputError(
                    f"{name!r} came with {array.shape[0]} pixels, {self.inputs[0]!r} with {n}; equal numbers expected."
                )
        results = {label: Prediction(np.empty(n, np.float32), np.empty(n, np.uint8)) for label in self.labels}
        covered = _covered(arrays)
        if covered is None:
            self._stream(arrays, None, results)
        else:
            for values, flags in results.values():
                values.fill(np.nan)
                flags.fill(NO_COVERAGE)
            self._stream(arrays, covered, results)
        return results

    def _checked(self, bands: Mapping[str, Any], name: str) -> NDArray[np.float32]:
        if name not in bands:
            raise MissingMapError(f"the map {name!r} did not come; {nearest(name, bands)}")
        array = np.asarray(bands[name])
        if array.ndim != 1 or array.dtype.kind not in "fiu":
            raise InputError(
                f"{name!r} came with shape {array.shape} and dtype {array.dtype}; numbers with one dimension, "
                "the pixels, expected."
            )
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and flagged so
            return np.asarray(array, np.float32)

    def _stream(
        self,
        arrays: Sequence[NDArray[np.float32]],
        chosen: NDArray[np.intp] | None,
        results: dict[str, Prediction],
    ) -> None:
        """Fill the results for all pixels, or for the chosen ones, batch by batch."""
        batch, block = self.batch, self.block
        n = arrays[0].shape[0] if chosen is None else chosen.shape[0]
        compiled, weights = self._compiled()
        for low in range(0, n, batch):
            high = min(low + batch, n)
            where = slice(low, high) if chosen is None else chosen[low:high]
            pieces = [array[where] for array in arrays]
            if high - low < batch:
                pieces = [_padded(piece, batch) for piece in pieces]
            blocks = -(-(high - low) // block)
            outputs = compiled(np.int32(blocks), weights, tuple(pieces))
            for label, (values, flags) in zip(self.labels, outputs, strict=True):
                results[label].values[where] = np.asarray(values)[: high - low]
                results[label].flags[where] = np.asarray(flags)[: high - low]

    def _compiled(self) -> tuple[Any, tuple[_Weights, ...]]:
        shapes = tuple(
            _Shape(
                tuple(self.inputs.index(name) for name in model.spec.input_maps),
                model.spec.sizes,
                model.spec.activation,
            )
            for model in self.models
        )
        return _compile_once(shapes, len(self.inputs), self.batch, self.block), self._weights

    @functools.cached_property
    def _weights(self) -> tuple[_Weights, ...]:
        return jax.device_put(tuple(_weights_of(model) for model in self.models))  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        # Device arrays stay behind: a worker puts the weights on its own device.
        return {key: value for key, value in self.__dict__.items() if key != "_weights"}


class _Shape(NamedTuple):
    """What of a model decides the compiled code; its weights do not."""

    columns: tuple[int, ...]
    sizes: tuple[int, ...]
    activation: str


class _Weights(NamedTuple):
    parameters: Parameters
    centre: Any  # (band, 1) float32
    inverse_scale: Any  # (band, 1) float32
    low: Any  # (band, 1) float32
    high: Any  # (band, 1) float32
    output_centre: Any
    output_scale: Any


def _weights_of(model: Model) -> _Weights:
    scaling = model.scaling
    column = functools.partial(np.reshape, shape=(-1, 1))
    return _Weights(
        tuple(Layer(np.asarray(w, np.float32), np.asarray(b, np.float32)) for w, b in model.parameters),
        column(np.asarray(scaling.centre, np.float32)),
        column(np.asarray(1.0 / np.asarray(scaling.scale), np.float32)),
        column(np.asarray(scaling.low, np.float32)),
        column(np.asarray(scaling.high, np.float32)),
        np.float32(scaling.output_centre),
        np.float32(scaling.output_scale),
    )


def _predict_block(shape: _Shape, weights: _Weights, bands: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Return values (pixel,) float32 and flags (pixel,) uint8 of one block."""
    x = jnp.stack([bands[column] for column in shape.columns])
    missing = jnp.isnan(x).any(axis=0)
    not_positive = (x <= 0).any(axis=0)
    infinite = jnp.isinf(x).any(axis=0)
    outside = ((x < weights.low) | (x > weights.high)).any(axis=0)
    z = (jnp.log(x) - weights.centre) * weights.inverse_scale
    y = apply(weights.parameters, z, shape.activation)
    values = jnp.exp(y * weights.output_scale + weights.output_centre)
    usable = ~(missing | not_positive | infinite)
    flags = jnp.where(not_positive, np.uint8(NOT_POSITIVE), np.uint8(0))
    flags |= jnp.where(infinite | (usable & ~jnp.isfinite(values)), np.uint8(NOT_FINITE), np.uint8(0))
    flags |= jnp.where(usable & outside, np.uint8(OUTSIDE), np.uint8(0))
    flags = jnp.where(missing, np.uint8(NO_COVERAGE), flags)
    good = usable & jnp.isfinite(values)
    return jnp.where(good, values, np.float32(np.nan)), flags


_LOCK = threading.Lock()


def _compile_once(shapes: tuple[_Shape, ...], n_bands: int, batch: int, block: int) -> Any:
    with _LOCK:  # threads that come together wait for one compilation
        return _compile(shapes, n_bands, batch, block, jax.default_backend())


@functools.lru_cache(maxsize=64)
def _compile(shapes: tuple[_Shape, ...], n_bands: int, batch: int, block: int, backend: str) -> Any:
    """Return the compiled function (number of blocks, weights, bands) -> ((values, flags) of each model)."""

    def run(n_blocks: Any, weights: tuple[_Weights, ...], bands: tuple[jax.Array, ...]) -> Any:
        def one(i: Any, done: Any) -> Any:
            start = i * block
            pieces = [lax.dynamic_slice(band, (start,), (block,)) for band in bands]
            out = []
            for shape, own, (values, flags) in zip(shapes, weights, done, strict=True):
                v, f = _predict_block(shape, own, pieces)
                out.append(
                    (
                        lax.dynamic_update_slice(values, v, (start,)),
                        lax.dynamic_update_slice(flags, f, (start,)),
                    )
                )
            return tuple(out)

        empty = tuple((jnp.zeros(batch, jnp.float32), jnp.zeros(batch, jnp.uint8)) for _ in shapes)
        # A number of blocks known only when it runs keeps the loop a loop: the compiler can neither unroll
        # it nor fuse across blocks, so that the code of a block is the same for every batch.
        return lax.fori_loop(0, n_blocks, one, empty)

    def like(*size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, np.float32)  # type: ignore[no-untyped-call]

    weights = tuple(
        _Weights(
            tuple(Layer(like(b, a), like(b)) for a, b in pairwise(s.sizes)),
            *(like(len(s.columns), 1),) * 4,
            *(like(),) * 2,
        )
        for s in shapes
    )
    lowered = jax.jit(run).lower(np.int32(0), weights, (like(batch),) * n_bands)
    if backend == "cpu":
        # Measured: 30 % (4-12-8-1) and 20 % (4-60-30-1) less time than the compiler's own choice of 256.
        try:
            return lowered.compile(compiler_options={_VECTOR_OPTION: 512})
        except Exception as error:  # the option is not a promise of XLA; without it only time is lost
            if _VECTOR_OPTION not in str(error):
                raise
    return lowered.compile()


def _covered(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.intp] | None:
    """Return the numbers of the pixels with all bands where gathering them pays, else None."""
    missing = np.isnan(arrays[0])
    one = np.empty_like(missing)
    for array in arrays[1:]:
        np.logical_or(missing, np.isnan(array, out=one), out=missing)
    if missing.size - np.count_nonzero(missing) > _GATHER_BELOW * missing.size:
        return None
    return np.flatnonzero(np.logical_not(missing, out=missing))


def _padded(piece: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    out = np.ones(size, np.float32)
    out[: piece.shape[0]] = piece
    return out
