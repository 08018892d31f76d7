"""The data dictionary: every array that a sky store may hold, what it means, and its format.

This one list validates what is written, annotates it, and documents it (`describe`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .errors import FormatError, InputError, nearest

FORMAT_VERSION = 1
FRAMES = ("galactic", "icrs", "ecliptic")
MAP = ("cells",)
CUBE = ("channel", "cells")
# The two arrays that say what the channels of all cubes of a store are, and what each says.
CHANNEL_ARRAYS = {"velocity": "velocity of the middle of a channel", "channel_width": "full width of a channel"}
CHANNEL_UNIT = "km / s"

# Reasons why a pixel carries no trustworthy value, as bits of the `flag_*` and `reason_*` maps.
FLAGS = {
    "not_positive_input": 1,
    "no_coverage": 2,
    "outside_training_range": 4,
    "relative_error_above_limit": 8,
    "not_finite": 16,
}


@dataclass(frozen=True)
class MapInfo:
    """What is known of one map of a sky store.

    Parameters
    ----------
    name : str
        Name of the array: letters, digits and underscores, beginning with a letter.
    quantity : str
        What the numbers are, for example "intensity" or "relative error".
    unit : str
        As astropy writes it, "1" for a pure number.
    dtype : str
        "float32" for maps, "uint8" for masks, flags and codes.
    long_name : str
        One line for axis labels and titles.
    band : str, optional
        Name of the band, for example "850um".
    beam_fwhm_arcmin : float, optional
        FWHM of the Gaussian beam of the map.
    pixel_window : bool
        Whether the values are averages over the pixel.
    fill_value : float or int, optional
        Value of pixels that are not stored; NaN for floats, 0 for integers where none is given.
    provenance : mapping
        What made the map from what; JSON.
    flag_meanings : tuple of str
        For bit maps: the meaning of bit 0, 1, ...
    dims : tuple of str
        ("cells",) for a map, ("channel", "cells") for a cube: a map for each velocity channel of the store.
    """

    name: str
    quantity: str
    unit: str
    dtype: str = "float32"
    long_name: str = ""
    band: str | None = None
    beam_fwhm_arcmin: float | None = None
    pixel_window: bool = True
    # NaN is not equal to itself: comparing it would make every two float maps different.
    fill_value: float | int | None = field(default=None, compare=False)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    flag_meanings: tuple[str, ...] = ()
    dims: tuple[str, ...] = MAP

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.dtype not in ("float32", "uint8"):
            raise InputError(f"map {self.name!r} came with dtype {self.dtype!r}; maps are float32 or uint8.")
        beam = self.beam_fwhm_arcmin
        if beam is not None and not 0 < beam < math.inf:
            raise InputError(f"map {self.name!r} came with a beam of {beam} arcmin; give a positive FWHM, or None.")
        if not self.unit:
            raise InputError(f'map {self.name!r} came without a unit; give one ("1" for a pure number).')
        if self.fill_value is None:
            object.__setattr__(self, "fill_value", math.nan if self.dtype == "float32" else 0)
        object.__setattr__(self, "flag_meanings", tuple(self.flag_meanings))
        object.__setattr__(self, "dims", tuple(self.dims))
        if self.dims not in (MAP, CUBE):
            raise InputError(f"map {self.name!r} came with dimensions {self.dims}; {MAP} or {CUBE} expected.")
        if self.is_cube and self.dtype != "float32":
            raise InputError(f"cube {self.name!r} came with dtype {self.dtype!r}; cubes are float32.")

    @property
    def is_cube(self) -> bool:
        """Whether it has a value for each channel in each pixel."""
        return self.dims == CUBE

    def attributes(self) -> dict[str, Any]:
        """Return the attributes that the array carries on disk."""
        attributes: dict[str, Any] = {"units": self.unit, "long_name": self.long_name or self.quantity}
        attributes["grid_mapping"] = "crs"
        if self.is_cube:
            attributes["coordinates"] = " ".join(CHANNEL_ARRAYS)  # as CF and xarray understand it
        if self.flag_meanings:
            attributes["flag_masks"] = [1 << bit for bit in range(len(self.flag_meanings))]
            attributes["flag_meanings"] = " ".join(self.flag_meanings)
        known = asdict(self)
        for key in ("name", "dtype", "fill_value", "unit", "flag_meanings", "dims"):
            del known[key]
        attributes["skymill"] = known
        return attributes

    @classmethod
    def from_attributes(
        cls, name: str, dtype: str, fill_value: Any, attributes: Mapping[str, Any], dims: tuple[str, ...] = MAP
    ) -> MapInfo:
        """Return the entry of an array read from disk.

        Raises
        ------
        FormatError
            If the array carries no description of ours.
        """
        ours = attributes.get("skymill")
        if not isinstance(ours, Mapping) or "units" not in attributes:
            raise FormatError(
                f"array {name!r} carries no `units` and `skymill` attributes, so its unit is unknown; "
                "bring it into the store with skymill.ingest."
            )
        meanings = tuple(str(attributes.get("flag_meanings", "")).split())
        return cls(
            name=name,
            dtype=dtype,
            fill_value=fill_value,
            unit=attributes["units"],
            flag_meanings=meanings,
            dims=dims,
            **ours,
        )


@dataclass(frozen=True)
class ArrayKind:
    """One entry of the data dictionary: the arrays whose name matches `pattern`; `cubes` where these may be cubes."""

    pattern: str
    dtype: str
    unit: str | None
    sentence: str
    cubes: bool = False


# First match wins; `unit` None means that every map states its own.
KINDS = (
    ArrayKind(r"pred_\w+", "float32", None, "predicted intensity of a band"),
    ArrayKind(
        r"flag_\w+",
        "uint8",
        "1",
        "bits that say why a prediction is missing or doubtful, 0 where all is well",
    ),
    ArrayKind(r"relerr_\w+", "float32", "1", "(prediction - target) / target"),
    ArrayKind(
        r"fit_model_\w+", "float32", None, "model of a band: gas templates times their coefficients, plus offset"
    ),
    ArrayKind(r"fit_residual_\w+", "float32", None, "target - model of a template fit"),
    ArrayKind(r"fit_fraction_\w+", "float32", "1", "(target - model) / (model - offset) of a template fit"),
    ArrayKind(r"temperature_\w+", "float32", "K", "dust temperature"),
    ArrayKind(r"residual_\w+", "float32", None, "prediction - target"),
    ArrayKind(r"mask_\w+", "uint8", "1", "1 where the prediction is not to be trusted, 0 elsewhere"),
    ArrayKind(r"reason_\w+", "uint8", "1", "bits that say why `mask_` is 1"),
    ArrayKind(r"weight_\w+", "float32", "1", "weight of a pixel, 0 where it is not used"),
    ArrayKind(r"truth_\w+", "float32", None, "noiseless truth of a synthetic sky", cubes=True),
    ArrayKind(r"raw_\w+", "float32", None, "observed intensity before preparation"),
    ArrayKind(r"survey\w*", "uint8", "1", "code of the survey that observed a pixel, 0 for none"),
    ArrayKind(r"[A-Za-z]\w*", "float32", None, "any other map or cube of the sky", cubes=True),
)


def kind_of(name: str) -> ArrayKind:
    """Return the entry of the data dictionary for an array name.

    Examples
    --------
    >>> kind_of("pred_850um").sentence
    'predicted intensity of a band'
    """
    check_name(name)
    return next(kind for kind in KINDS if re.fullmatch(kind.pattern, name))


def validate(info: MapInfo) -> None:
    """Check a map against the data dictionary.

    Raises
    ------
    InputError
        If its dtype, unit or dimensions are not those that its name promises.
    """
    kind = kind_of(info.name)
    general = kind is KINDS[-1]
    if not general and info.dtype != kind.dtype:
        raise InputError(f"map {info.name!r} is {kind.sentence}: {kind.dtype} expected, {info.dtype} came.")
    if info.is_cube and not kind.cubes:
        raise InputError(f"a cube came under the name {info.name!r}, which means: {kind.sentence}. Name it otherwise.")
    if kind.unit is not None and info.unit != kind.unit:
        raise InputError(f"map {info.name!r} is {kind.sentence}: unit {kind.unit!r} expected, {info.unit!r} came.")


def check_name(name: str) -> None:
    """Raise InputError unless `name` can be the name of a map."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise InputError(
            f"{name!r} came as the name of a map; a name has letters, digits and underscores and begins with a letter."
        )
    if name in RESERVED:
        raise InputError(f"{name!r} came as the name of a map; that name is reserved: {', '.join(RESERVED)}.")


RESERVED = ("crs", "cells", "cell_ids", "ledger", "overview", "lon", "lat", "channel", *CHANNEL_ARRAYS)


def check_frame(frame: str) -> str:
    """Return the frame, or raise FrameError where it is none that skymill knows."""
    from .errors import FrameError

    if frame not in FRAMES:
        raise FrameError(f"`frame` {frame!r} came; {nearest(str(frame), FRAMES)}.")
    return frame


def describe() -> str:
    """Return the data dictionary as a Markdown table, as `chunking/DESIGN.md` shows it."""
    lines = ["| array | dims | dtype | unit | what it is |", "|---|---|---|---|---|"]
    for name, sentence in CHANNEL_ARRAYS.items():
        lines.append(f"| `{name}` | `channel` | float64 | {CHANNEL_UNIT} | {sentence} |")
    for kind in KINDS:
        unit = kind.unit or "its own"
        dims = "`cells`; `channel, cells`" if kind.cubes else "`cells`"
        lines.append(f"| `{kind.pattern}` | {dims} | {kind.dtype} | {unit} | {kind.sentence} |")
    return "\n".join(lines)
