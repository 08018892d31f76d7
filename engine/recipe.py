"""Recipes: chains of steps that prepare a map, declared as data, and reading them from dictionaries and TOML files."""

from __future__ import annotations

import dataclasses
import inspect
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..chunking.bands import Band
from ..chunking.bands import band as find_band
from ..chunking.errors import InputError, nearest
from .steps import STEPS, Action, DropNegative, Step, SubtractCO, SubtractMap, SubtractMonopole, UnitOf


@dataclass(frozen=True)
class Recipe:
    """What is to be done to one map: a chain of steps, in order.

    Parameters
    ----------
    input, output : str
        Names of the map that is read and of the one that is written.
    steps : sequence of steps
        `Convert`, `Scale`, `SubtractMap`, `SubtractCO`, `SubtractMonopole`, `DropNegative`.
    band : str or Band, optional
        Band of the map: the default of the steps, and what the written map is said to be of.
    long_name : str
        One line about the written map.

    Raises
    ------
    InputError
        If there are no steps, or input and output are the same.

    Examples
    --------
    >>> recipe = Recipe.from_dict(
    ...     {"input": "planck", "output": "i850um", "band": "353GHz",
    ...      "steps": [{"step": "subtract_map", "template": "cmb"}, {"step": "convert", "to": "MJy/sr"}]}
    ... )
    >>> recipe.steps[1]
    Convert(to='MJy/sr', band=None, beam_fwhm_arcmin=None, bandpass='published')
    """

    input: str
    output: str
    steps: tuple[Step, ...]
    band: str | Band | None = None
    long_name: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.steps, (str, Mapping)) or not isinstance(self.steps, Sequence):
            raise InputError(
                f"`steps` of the recipe for {self.output!r} is {self.steps!r}; a list of steps is expected."
            )
        object.__setattr__(self, "steps", tuple(self.steps))
        if not self.steps:
            raise InputError(f"the recipe for {self.output!r} has no steps; give at least one.")
        for step in self.steps:
            if type(step) not in STEPS.values():
                raise InputError(
                    f"{step!r} came as a step of the recipe for {self.output!r}; a step is one of "
                    f"{', '.join(kind.__name__ for kind in STEPS.values())}."
                )
        if self.input == self.output:
            raise InputError(f"the recipe reads and writes {self.input!r}; give the prepared map another name.")
        if self.band is not None:
            object.__setattr__(self, "band", find_band(self.band))

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Recipe:
        """Return the recipe of a dictionary or TOML table.

        Parameters
        ----------
        table : mapping
            The fields of a recipe; every entry of `steps` has a key `step` with the kind of it ("convert",
            "scale", "subtract_map", "subtract_co", "subtract_monopole", "drop_negative", or "subtract_cib" with
            a `band`) beside the fields of that step.  Or `preset = "planck"` and the arguments of `planck_recipe`.

        Raises
        ------
        InputError
            If a key is missing or not known (the message names the nearest), or a value has the wrong type.
        """
        if isinstance(table, Mapping) and "preset" in table:
            return _preset(table)
        made = _fill(cls, "the recipe", table, skip=("steps",))
        steps = table.get("steps", ())
        if isinstance(steps, Mapping) or not isinstance(steps, (list, tuple)):
            raise InputError(f"`steps` of the recipe came as {steps!r}; a list of tables is expected.")
        return cls(**made, steps=tuple(_step(number, entry) for number, entry in enumerate(steps, 1)))

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> tuple[Recipe, ...]:
        """Return the recipes of a TOML file: one `[[recipe]]` table each.

        Raises
        ------
        InputError
            If the file cannot be read or holds anything else.
        """
        try:
            with open(path, "rb") as file:
                table = tomllib.load(file)
        except OSError as error:
            raise InputError(f"cannot read the recipe {os.fspath(path)}: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{os.fspath(path)} is not TOML: {error}.") from error
        unknown = sorted(set(table) - {"recipe"})
        if unknown or "recipe" not in table:
            told = f"has the unknown key {unknown[0]!r}" if unknown else "has no [[recipe]] table"
            raise InputError(f"{os.fspath(path)} {told}; recipes are written as [[recipe]] tables.")
        recipes = table["recipe"]
        return tuple(cls.from_dict(entry) for entry in (recipes if isinstance(recipes, list) else [recipes]))

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as a JSON-able dictionary; `from_dict` of it is the recipe again for named bands."""
        table: dict[str, Any] = {"input": self.input, "output": self.output}
        if self.band is not None:
            table["band"] = find_band(self.band).name
        if self.long_name:
            table["long_name"] = self.long_name
        table["steps"] = [{"step": step.kind, **_plain(step)} for step in self.steps]
        return table

    def settle(self, unit: str, unit_of: UnitOf) -> tuple[tuple[Action, ...], str]:
        """Return what each step does to a map in `unit`, and the unit of the result.

        Raises
        ------
        UnitError, MissingMapError, InputError
            If a step cannot be done; the message says which step.
        """
        actions: list[Action] = []
        for number, step in enumerate(self.steps, 1):
            try:
                action, unit = step.settle(unit, unit_of, self.band)
            except InputError as error:
                raise type(error)(f"recipe for {self.output!r}, step {number} ({step.kind}): {error}") from error
            actions.append(action)
        return tuple(actions), unit


def planck_recipe(
    band: str | Band,
    *,
    input: str | None = None,
    output: str | None = None,
    cmb: str | None = "cmb",
    co: str = "co21",
    co_coefficient: float | None = None,
    co_unit: str = "MJy/sr",
    drop_negative: Sequence[str] = (),
) -> Recipe:
    """Return the recipe that makes a map of dust from a Planck HFI map of 850 um or 1.38 mm.

    CMB, CO and the monopole of the cosmic infrared background are subtracted, the result is in MJy/sr and pixels
    that are not positive have no value.

    Parameters
    ----------
    band : str or Band
        "850um" (353 GHz) or "1380um" (217 GHz).
    input, output : str, optional
        Default `raw_<band>` (in K_CMB, MJy/sr, or anything that converts to them) and `i<band>`.
    cmb : str or None
        Map of the CMB in K_CMB; None for an input that is free of it.
    co : str
        Map of the CO(2-1) line in K km/s.
    co_coefficient : float, optional
        Intensity in the band for 1 K km/s; without it no CO is subtracted, for no value is built in.
    co_unit : str
        Unit of that coefficient.
    drop_negative : sequence of str
        Other maps whose negative pixels are dropped too, such as the inputs of a network.

    Raises
    ------
    InputError
        If the band has no published monopole.

    References
    ----------
    Paradis et al. 2024, A&A 691, A241, section 2.

    Examples
    --------
    >>> [step.kind for step in planck_recipe("850um").steps]
    ['subtract_map', 'subtract_monopole', 'drop_negative']
    """
    entry = find_band(band)
    monopole = SubtractMonopole.cib(entry)
    steps: list[Step] = []
    if cmb is not None:
        steps.append(SubtractMap(cmb, label="CMB"))
    if co_coefficient is not None:
        steps.append(SubtractCO(co, co_coefficient, co_unit, label="12CO(2-1)"))
    steps.append(monopole)
    # Bright regions may have no negative pixel at all.
    steps.append(DropNegative(tuple(drop_negative), may_be_idle=True))
    return Recipe(input or f"raw_{entry.name}", output or f"i{entry.name}", tuple(steps), band=entry)


PRESETS: dict[str, Callable[..., Recipe]] = {"planck": planck_recipe}


def _preset(table: Mapping[str, Any]) -> Recipe:
    preset = str(table["preset"])
    if preset not in PRESETS:
        raise InputError(f"`preset` {preset!r} of the recipe is not known; {nearest(preset, PRESETS)}.")
    options = {key: value for key, value in table.items() if key != "preset"}
    known = inspect.signature(PRESETS[preset]).parameters
    for key in options:
        if key not in known:
            raise InputError(f"the recipe of preset {preset!r} has the unknown key {key!r}; {nearest(key, known)}.")
    if "band" not in options:
        raise InputError(f"the recipe of preset {preset!r} has no `band`; give it.")
    return PRESETS[preset](**options)


def _step(number: int, entry: Any) -> Step:
    if not isinstance(entry, Mapping):
        raise InputError(f"step {number} of the recipe is {entry!r}; a table with the key `step` is expected.")
    kind = entry.get("step")
    kinds = [*STEPS, "subtract_cib"]
    if kind not in kinds:
        told = "has no key `step`" if kind is None else f"is {kind!r}"
        raise InputError(f"step {number} of the recipe {told}; {nearest(str(kind), kinds)}.")
    if kind == "subtract_cib":
        made = _fill(_Cib, f"step {number} (subtract_cib)", entry, skip=("step",))
        return SubtractMonopole.cib(made["band"])
    built: Step = STEPS[kind](**_fill(STEPS[kind], f"step {number} ({kind})", entry, skip=("step",)))
    return built


@dataclass(frozen=True)
class _Cib:
    band: str


_TYPES: dict[str, tuple[type, ...]] = {"float": (int, float), "str": (str,), "bool": (bool,), "tuple": (list, tuple)}


def _fill(cls: type[Any], what: str, table: Mapping[str, Any], skip: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of a dataclass from a table, refusing keys that it does not have and values of another type."""
    if not isinstance(table, Mapping):
        raise InputError(f"{what} came as {table!r}; a table is expected.")
    fields = {entry.name: entry for entry in dataclasses.fields(cls) if entry.name not in skip}
    for key, value in table.items():
        if key in skip:
            continue
        if key not in fields:
            raise InputError(f"{what} has the unknown key {key!r}; {nearest(str(key), [*fields, *skip])}.")
        wanted = next((t for word, t in _TYPES.items() if str(fields[key].type).startswith(word)), (str,))
        if not isinstance(value, (*wanted, Band)) or (isinstance(value, bool) and bool not in wanted):
            raise InputError(f"{what}: `{key}` is {value!r}; {' or '.join(t.__name__ for t in wanted)} is expected.")
    for name, entry in fields.items():
        if name not in table and entry.default is dataclasses.MISSING:
            raise InputError(f"{what} has no `{name}`; give it.")
    return {key: value for key, value in table.items() if key not in skip}


def _plain(step: Step) -> dict[str, Any]:
    """Return the fields of a step that are not at their default, JSON-able."""
    table: dict[str, Any] = {}
    for entry in dataclasses.fields(step):  # type: ignore[arg-type]
        value = getattr(step, entry.name)
        if value != entry.default:
            table[entry.name] = (
                value.name if isinstance(value, Band) else list(value) if isinstance(value, tuple) else value
            )
    return table
