"""Trained models on disk: a directory of `weights.safetensors` and `model.json`, and nothing that runs code.

`model.json` holds, under fixed keys, `format` ("skymill-model"), `version`, `spec`, `scaling`, `weights`
(file, bytes, sha256, shapes), `digest` (of all that a prediction depends on) and `card` (data, metrics,
seed, versions).  The weights are float32 arrays `layer<i>.weight` (out, in) and `layer<i>.bias` (out,).
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from ..chunking.errors import DiskFullError, FormatError, IdentityError, InputError, StoreNotFoundError, nearest
from .mlp import Parameters, expected_shapes, from_arrays, initial_parameters, to_arrays
from .scaling import Scaling
from .spec import ModelSpec

FORMAT = "skymill-model"
FORMAT_VERSION = 1
WEIGHTS, DOCUMENT = "weights.safetensors", "model.json"

_KEYS = ("format", "version", "spec", "scaling", "weights", "digest", "card")
_AGAIN = "train it again, or fetch the directory again from where it came"


@dataclass(frozen=True, eq=False)
class Model:
    """A network with its weights and all that is needed to use them.

    Parameters
    ----------
    spec : ModelSpec
        Bands, layers and hyperparameters.
    parameters : tuple of Layer
        Weights (out, in) and biases (out,), NumPy float32.
    scaling : Scaling
        Of inputs and output.
    card : dict
        What a reader should know: data, metrics, seed, versions; anything that JSON can hold.

    Raises
    ------
    InputError
        If shapes do not follow from the spec, or a weight is not finite.
    """

    spec: ModelSpec
    parameters: Parameters
    scaling: Scaling
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problem = _problem(self.spec, to_arrays(self.parameters), self.scaling)
        if problem:
            raise InputError(f"a model cannot be made: {problem}.")

    @classmethod
    def untrained(cls, spec: ModelSpec, seed: int = 0) -> Model:
        """Return a model with fresh weights that takes logarithms as they are, for tests and timings."""
        n = len(spec.inputs)
        largest = float(np.finfo(np.float32).max)
        tiny = float(np.finfo(np.float32).tiny)
        scaling = Scaling((0.0,) * n, (1.0,) * n, (tiny,) * n, (largest,) * n, 0.0, 1.0)
        return cls(spec, initial_parameters(spec, seed), scaling, {"trained": False})

    @property
    def digest(self) -> str:
        """Hexadecimal digest of all that a prediction depends on: spec, scaling and weights."""
        return _digest(self.spec, self.scaling, hashlib.sha256(_weights_bytes(self)).hexdigest())


def save_model(path: str | os.PathLike[str], model: Model, *, overwrite: bool = False) -> str:
    """Write a model as a directory, all or nothing, and return its digest.

    Parameters
    ----------
    path : str or path
        Directory to be made.
    model : Model
        What to write.
    overwrite : bool
        Replace a model that stands there.

    Raises
    ------
    IdentityError
        If something stands there: a model without `overwrite`, or anything else in any case.
    DiskFullError
        If there is no space left; nothing is left behind then.

    Examples
    --------
    >>> import tempfile
    >>> from skymill.models import Model, dust_mlp, load_model, save_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     digest = save_model(f"{folder}/model-850", Model.untrained(dust_mlp("850um")))
    ...     load_model(f"{folder}/model-850").digest == digest
    True
    """
    target = Path(path)
    check_target(target, overwrite=overwrite)
    weights = _weights_bytes(model)
    sha256 = hashlib.sha256(weights).hexdigest()
    document = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "spec": model.spec.to_dict(),
        "scaling": model.scaling.to_dict(),
        "weights": {
            "file": WEIGHTS,
            "bytes": len(weights),
            "sha256": sha256,
            "shapes": {name: list(shape) for name, shape in expected_shapes(model.spec.sizes).items()},
        },
        "digest": _digest(model.spec, model.scaling, sha256),
        "card": _plain(model.card),
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            _write(made / WEIGHTS, weights)
            _write(made / DOCUMENT, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
            made.chmod(0o755)  # mkdtemp makes it private; a model is for the workers of a cluster too
            _move_into_place(made, target)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"no space left to write the model {target}; free some and run again.") from error
        raise
    return str(document["digest"])


def load_model(path: str | os.PathLike[str]) -> Model:
    """Return a model from its directory, everything checked.

    Parameters
    ----------
    path : str or path
        Directory made by `save_model` or the verb `train`.

    Raises
    ------
    StoreNotFoundError
        If there is no such directory.
    FormatError
        If it is no model, of a newer format, truncated, changed, or inconsistent in itself.
    """
    folder = Path(path)
    if not folder.exists():
        raise StoreNotFoundError(f"there is no model {folder}; train one with `skymill train`, or check the path.")
    document = _read_document(folder)
    spec = _within(folder, ModelSpec.from_dict, document["spec"])
    scaling = _within(folder, Scaling.from_dict, document["scaling"])
    arrays, sha256 = _read_weights(folder, document["weights"])
    problem = _problem(spec, arrays, scaling)
    if problem:
        raise FormatError(f"the model {folder} is not usable: {problem}; {_AGAIN}.")
    if document["digest"] != _digest(spec, scaling, sha256):
        raise FormatError(f"the model {folder} was changed after it was written: digest differs; {_AGAIN}.")
    if not isinstance(document["card"], dict):
        raise FormatError(f"the model {folder} has a card that is no object; {_AGAIN}.")
    return Model(spec, from_arrays(arrays), scaling, document["card"])


def check_target(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise if a model may not be written here.

    Raises
    ------
    IdentityError
        If a model stands there and `overwrite` is not set, or something that is not a model.
    """
    target = Path(path)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / DOCUMENT).is_file():
        raise IdentityError(f"{target} exists and is not a model; choose another `out`.")
    if not overwrite:
        raise IdentityError(
            f"a model stands at {target} already; choose another `out`, or replace it with overwrite=True "
            "(--overwrite)."
        )


def _problem(spec: ModelSpec, arrays: Mapping[str, NDArray[np.float32]], scaling: Scaling) -> str:
    """Return what contradicts the spec, or nothing."""
    expected = expected_shapes(spec.sizes)
    for name, shape in expected.items():
        if name not in arrays:
            return f"the array {name!r} is missing"
        if arrays[name].shape != shape:
            return f"the array {name!r} has shape {arrays[name].shape}, {shape} expected from the spec"
        if arrays[name].dtype != np.float32:
            return f"the array {name!r} has dtype {arrays[name].dtype}, float32 expected"
        if not np.isfinite(arrays[name]).all():
            return f"the array {name!r} holds a number that is not finite"
    for name in arrays:
        if name not in expected:
            return f"the array {name!r} is unknown; {nearest(name, expected)}"
    if len(scaling.centre) != len(spec.inputs):
        return f"its scaling is for {len(scaling.centre)} inputs, {len(spec.inputs)} expected from the spec"
    return ""


def _read_document(folder: Path) -> dict[str, Any]:
    file = folder / DOCUMENT
    if not file.is_file():
        raise FormatError(f"{folder} is not a model: it holds no {DOCUMENT}; give the directory of `train --out`.")
    try:
        document = json.loads(file.read_bytes())
    except ValueError as error:
        raise FormatError(f"{file} is damaged, it is not JSON ({error}); {_AGAIN}.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        came = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise FormatError(f"{file} is not a skymill model: format {came!r} came, {FORMAT!r} expected.")
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FormatError(f"{file} has version {version!r}; a whole number from 1 expected; {_AGAIN}.")
    if version > FORMAT_VERSION:
        raise FormatError(
            f"{file} has format version {version}, this skymill reads up to {FORMAT_VERSION}; update skymill "
            "(pip install --upgrade skymill)."
        )
    for key in document:
        if key not in _KEYS:
            raise FormatError(f"{file} holds the unknown key {key!r}; {nearest(key, _KEYS)}; {_AGAIN}.")
    for key in _KEYS:
        if key not in document:
            raise FormatError(f"{file} lacks the key {key!r}; {_AGAIN}.")
    return document


def _read_weights(folder: Path, described: Any) -> tuple[dict[str, NDArray[np.float32]], str]:
    keys = {"file", "bytes", "sha256", "shapes"}
    if not isinstance(described, dict) or set(described) != keys or described["file"] != WEIGHTS:
        raise FormatError(f"{folder / DOCUMENT} describes its weights in an unknown way; {_AGAIN}.")
    file = folder / WEIGHTS
    if not file.is_file():
        raise FormatError(f"the model {folder} lacks its file {WEIGHTS}; {_AGAIN}.")
    content = file.read_bytes()
    if len(content) != described["bytes"]:
        raise FormatError(
            f"{file} has {len(content)} bytes, {described['bytes']} expected: it is truncated or not the file "
            f"that was written; {_AGAIN}."
        )
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != described["sha256"]:
        raise FormatError(f"{file} was changed after it was written: sha256 differs; {_AGAIN}.")
    try:
        arrays = safetensors.numpy.load(content)
    except Exception as error:  # the library's own error class, and KeyError for dtypes NumPy lacks
        raise FormatError(f"{file} is not a safetensors file ({error}); {_AGAIN}.") from error
    if {name: list(array.shape) for name, array in arrays.items()} != described["shapes"]:
        raise FormatError(f"{file} holds other arrays than {DOCUMENT} says; {_AGAIN}.")
    return arrays, sha256


def _within(folder: Path, read: Any, values: Any) -> Any:
    try:
        return read(values)
    except FormatError as error:
        raise FormatError(f"the model {folder} is not usable: {error}") from error


def _weights_bytes(model: Model) -> bytes:
    return safetensors.numpy.save(to_arrays(model.parameters))


def _digest(spec: ModelSpec, scaling: Scaling, weights_sha256: str) -> str:
    content = {"spec": spec.to_dict(), "scaling": scaling.to_dict(), "weights": weights_sha256}
    return hashlib.sha256(json.dumps(_plain(content), sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Return the value with NumPy's numbers as Python's, and None for numbers that JSON does not know."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _move_into_place(made: Path, target: Path) -> None:
    if not target.exists():
        made.rename(target)
        return
    # A directory cannot be replaced in one step unless it is empty: the old one steps aside first.
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(aside / "model")
    try:
        made.rename(target)
    except OSError:
        (aside / "model").rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
