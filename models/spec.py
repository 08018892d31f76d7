"""What a network is before it is trained: its bands, its layers, and how it is to be trained."""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any

from ..chunking.bands import Band
from ..chunking.errors import FormatError, InputError, nearest

ACTIVATIONS = ("tanh", "relu", "silu", "gelu", "sigmoid")
SCHEDULES = ("constant", "cosine")

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class ModelSpec:
    """A network that predicts one band from others, pixel by pixel, and how it is trained.

    Inputs and output are taken in natural logarithms, centred on the median and divided by the
    interquartile range of the training pixels (`models.scaling`); between them stands a multilayer
    perceptron with a linear output.

    Parameters
    ----------
    name : str
        What the command line calls it, for example "dust-850um".
    label : str
        What its maps are called after: "850um" gives `pred_850um` and `flag_850um`.
    inputs : tuple of Band
        Bands that the network reads, in the order of its first layer.
    output : Band
        Band that it predicts.
    hidden : tuple of int
        Units of each hidden layer; () is a linear model in the logarithms.
    input_maps : tuple of str
        Maps of a sky store that hold the inputs; by default "i" and the wavelength: i160.
    target_map : str
        Map to be learnt; by default "i" and the label: i850um.
    activation : str
        Of the hidden layers: tanh, relu, silu, gelu or sigmoid.
    loss_delta : float
        Where the Huber loss turns from quadratic to linear, in units of the scaled output (of its
        interquartile range); infinity is the squared error.
    learning_rate : float
        Of Adam, at the first step.
    schedule : str
        "constant", or "cosine": falls to zero over `max_epochs`.
    batch_size : int
        Pixels in a step of the optimiser.
    max_epochs : int
        Epochs at most.  An epoch is one pass over the training pixels, or several where they are few (see
        `min_steps`).
    min_steps : int
        Steps of the optimiser that `max_epochs` must allow: with few pixels an epoch is as many passes as
        that takes.
    patience : int
        Training stops after as many epochs without a better loss on the validation pixels.
    halo : int
        Pixels around its own that a prediction needs; 0 for a network that looks at one pixel.
    description : str
        One sentence for the model card.

    Raises
    ------
    InputError
        If a value cannot be used.

    References
    ----------
    Paradis et al. 2024, A&A 691, A241, section 3.

    Examples
    --------
    >>> from skymill.models import dust_mlp
    >>> spec = dust_mlp("850um")
    >>> spec.sizes, spec.n_parameters, spec.input_maps
    ((4, 12, 8, 1), 173, ('i160', 'i250', 'i350', 'i500'))
    """

    name: str
    label: str
    inputs: tuple[Band, ...]
    output: Band
    hidden: tuple[int, ...]
    input_maps: tuple[str, ...] = ()
    target_map: str = ""
    activation: str = "tanh"
    loss_delta: float = 1.0
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    batch_size: int = 1024
    max_epochs: int = 60
    min_steps: int = 30_000
    patience: int = 12
    halo: int = 0
    description: str = ""

    def __post_init__(self) -> None:
        for key, pattern in (("name", _NAME), ("label", _LABEL)):
            value = getattr(self, key)
            if not (isinstance(value, str) and pattern.fullmatch(value)):
                raise InputError(f"`{key}` {value!r} came; letters, digits and underscores expected.")
        object.__setattr__(self, "inputs", tuple(self.inputs))
        if not self.inputs or not all(isinstance(band, Band) for band in self.inputs):
            raise InputError(f"`inputs` {self.inputs!r} came; a tuple of at least one Band expected.")
        if not isinstance(self.output, Band):
            raise InputError(f"`output` {self.output!r} came; a Band expected, such as band('850um').")
        if len({band.name for band in self.inputs}) < len(self.inputs):
            raise InputError(f"`inputs` names a band twice: {', '.join(b.name for b in self.inputs)}.")
        hidden: Any = self.hidden
        if isinstance(hidden, str) or not isinstance(hidden, Iterable):
            raise InputError(f"`hidden` {self.hidden!r} came; a tuple expected, such as (12, 8), or (12,) for one.")
        object.__setattr__(self, "hidden", tuple(_whole("hidden", units, 1) for units in self.hidden))
        maps = tuple(self.input_maps) or tuple(f"i{b.name.removesuffix('um')}" for b in self.inputs)
        if len(maps) != len(self.inputs) or len(set(maps)) < len(maps):
            raise InputError(
                f"`input_maps` {maps} came for {len(self.inputs)} bands; one map for each band expected, no map twice."
            )
        object.__setattr__(self, "input_maps", maps)
        object.__setattr__(self, "target_map", self.target_map or f"i{self.label}")
        if self.target_map in maps:
            raise InputError(f"`target_map` {self.target_map!r} is also an input; a network may not read it.")
        for key, known in (("activation", ACTIVATIONS), ("schedule", SCHEDULES)):
            if getattr(self, key) not in known:
                raise InputError(
                    f"`{key}` {getattr(self, key)!r} is not known; {nearest(str(getattr(self, key)), known)}"
                )
        for key, largest in (("loss_delta", math.inf), ("learning_rate", 1.0)):
            object.__setattr__(self, key, _positive(key, getattr(self, key), largest))
        for key, smallest in (("batch_size", 1), ("max_epochs", 1), ("min_steps", 1), ("patience", 1), ("halo", 0)):
            object.__setattr__(self, key, _whole(key, getattr(self, key), smallest))
        if self.halo:
            raise InputError(f"`halo` {self.halo} came; a multilayer perceptron looks at one pixel, 0 expected.")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of every layer, input and output included: (4, 12, 8, 1)."""
        return (len(self.inputs), *self.hidden, 1)

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return sum(before * after + after for before, after in pairwise(self.sizes))

    def replace(self, **changes: Any) -> ModelSpec:
        """Return the same spec with some fields changed.

        Raises
        ------
        InputError
            If a field is not known, or its value cannot be used.

        Examples
        --------
        >>> from skymill.models import dust_mlp
        >>> dust_mlp("850um").replace(hidden=(16,)).n_parameters
        97
        """
        known = [field.name for field in dataclasses.fields(self)]
        for key in changes:
            if key not in known:
                raise InputError(f"`{key}` is not a field of a model spec; {nearest(key, known)}")
        # The names of maps follow bands and label, unless they were chosen.
        if "inputs" in changes and "input_maps" not in changes:
            changes["input_maps"] = ()
        if "label" in changes and "target_map" not in changes and self.target_map == f"i{self.label}":
            changes["target_map"] = ""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as a dictionary that JSON can hold.

        Examples
        --------
        >>> from skymill.models import dust_mlp
        >>> ModelSpec.from_dict(dust_mlp("850um").to_dict()) == dust_mlp("850um")
        True
        """
        out = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        out["inputs"] = [_band_to_dict(band) for band in self.inputs]
        out["output"] = _band_to_dict(self.output)
        out["hidden"] = list(self.hidden)
        out["input_maps"] = list(self.input_maps)
        if math.isinf(self.loss_delta):
            out["loss_delta"] = "infinity"  # JSON has no number for it
        return out

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Return the spec of a dictionary made by `to_dict`.

        Raises
        ------
        FormatError
            If a key is missing or unknown, or a value cannot be used.
        """
        fields = dataclasses.fields(cls)
        _check_keys(
            "the model spec",
            values,
            known=[field.name for field in fields],
            needed=[field.name for field in fields if field.default is dataclasses.MISSING],
        )
        given = dict(values)
        try:
            given["inputs"] = tuple(_band_from_dict(entry) for entry in given["inputs"])
            given["output"] = _band_from_dict(given["output"])
            given["hidden"] = tuple(given["hidden"])
            given["input_maps"] = tuple(given.get("input_maps", ()))
            if given.get("loss_delta") == "infinity":
                given["loss_delta"] = math.inf
            return cls(**given)
        except FormatError:
            raise
        except (InputError, TypeError, KeyError) as error:
            raise FormatError(f"the model spec cannot be used: {error}") from error


def _band_to_dict(band: Band) -> dict[str, Any]:
    return dataclasses.asdict(band)


def _band_from_dict(values: Any) -> Band:
    fields = dataclasses.fields(Band)
    _check_keys("a band of the model spec", values, known=[field.name for field in fields], needed=["name"])
    return Band(**values)


def _check_keys(what: str, values: Any, *, known: list[str], needed: list[str]) -> None:
    if not isinstance(values, Mapping):
        raise FormatError(f"{what} is {type(values).__name__}; an object with keys expected.")
    for key in values:
        if key not in known:
            raise FormatError(f"{what} holds the unknown key {key!r}; {nearest(str(key), known)}")
    for key in needed:
        if key not in values:
            raise FormatError(f"{what} lacks the key {key!r}; write the model again.")


def _whole(key: str, value: Any, smallest: int) -> int:
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)  # NumPy's integers too
    except TypeError:
        number = -1
    if number < smallest:
        raise InputError(f"`{key}` {value!r} came; a whole number of at least {smallest} expected.")
    return number


def _positive(key: str, value: Any, largest: float) -> float:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 < value <= largest:
        raise InputError(f"`{key}` {value!r} came; a number above 0 and at most {largest:g} expected.")
    return float(value)
