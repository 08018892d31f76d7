"""The steps of a preparation, as frozen data: checking their units, and what each does to the numbers of a tile.

A step is what the user declares; settled against the units of the maps it becomes an action, plain arithmetic.
Chains of steps are in `recipe.py`, going over the sky in `prepare.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ..chunking.bands import Band
from ..chunking.bands import band as find_band
from ..chunking.errors import InputError, UnitError, nearest
from ..chunking.units import Bandpass, Conversion, conversion, parse_unit

type Floats = NDArray[np.float64]
type UnitOf = Callable[[str], str]  # name of a map -> its unit; raises MissingMapError


@dataclass(frozen=True)
class Action:
    """One step, settled: what to do to the values of a tile, with every unit converted and every name known.

    The result is `values * factor - coefficient * template - constant`, or the values without the pixels where one
    of the maps in `positive` is negative.

    Parameters
    ----------
    facts : mapping
        What the provenance says about the step.
    factor, coefficient, constant : float
        See above.
    template : str, optional
        Map that is subtracted.
    positive : tuple of str, optional
        Other maps whose negative pixels are dropped beside the map's own; None where nothing is dropped.
    drop_zero : bool
        Whether zero goes with the negative ones.
    may_be_idle : bool
        Whether a run in which the step changes nothing is in order.
    changes_all : bool
        Whether the step must change every pixel that has a value.
    """

    facts: Mapping[str, Any]
    factor: float = 1.0
    coefficient: float = 1.0
    template: str | None = None
    constant: float = 0.0
    positive: tuple[str, ...] | None = None
    drop_zero: bool = True
    may_be_idle: bool = False
    changes_all: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        """Maps that the step needs beside the one it works on."""
        return (() if self.template is None else (self.template,)) + (self.positive or ())

    def __call__(self, values: Floats, maps: Mapping[str, NDArray[Any]]) -> Floats:
        """Return the values after the step, (cells,) float64; those that came are left as they are."""
        if self.positive is not None:
            bad = _negative(values, self.drop_zero)
            for name in self.positive:
                bad |= _negative(maps[name], self.drop_zero)
            return np.where(bad, np.nan, values)
        result = values * self.factor
        if self.template is not None:
            template = maps[self.template].astype(np.float64)
            template *= self.coefficient
            result -= template
        result -= self.constant
        return result


def _negative(values: NDArray[Any], zero: bool) -> NDArray[np.bool_]:
    return np.asarray(values <= 0 if zero else values < 0)


class Step(Protocol):
    """What every step can do."""

    kind: ClassVar[str]

    def settle(self, unit: str, unit_of: UnitOf, band: str | Band | None) -> tuple[Action, str]:
        """Return the action on a map in `unit`, and the unit after it."""


@dataclass(frozen=True)
class Convert:
    """Convert the map to another unit.

    Parameters
    ----------
    to : str
        The unit wanted.
    band : str or Band, optional
        Band of the map; default the band of the recipe.
    beam_fwhm_arcmin : float, optional
        FWHM of the beam that "per beam" refers to.
    bandpass : {"published", "monochromatic"}
        See `skymill.chunking.units.conversion`.

    Examples
    --------
    >>> Convert("MJy/sr", band="850um").settle("K_CMB", str, None)[0].factor
    287.45
    """

    to: str
    band: str | Band | None = None
    beam_fwhm_arcmin: float | None = None
    bandpass: Bandpass = "published"
    kind: ClassVar[str] = "convert"

    def settle(self, unit: str, unit_of: UnitOf, band: str | Band | None) -> tuple[Action, str]:
        """Return the action on a map in `unit`, and the unit after it."""
        change = conversion(
            unit,
            self.to,
            band=band if self.band is None else self.band,
            beam_fwhm_arcmin=self.beam_fwhm_arcmin,
            bandpass=self.bandpass,
        )
        if change.factor == 1.0:
            raise UnitError(
                f"the step convert to {self.to!r} would change nothing: the map is in {unit} already. Take the step "
                "out, or correct the unit of the map where it was ingested."
            )
        facts = {"step": self.kind, "conversion": change.provenance()}
        return Action(facts, factor=change.factor), change.to_unit


@dataclass(frozen=True)
class Scale:
    """Multiply the map by a physical factor that gives it another meaning or calibration.

    Parameters
    ----------
    factor : float
        The factor, for example 2e20 for X_CO from K km/s to cm^-2, or 0.86 for a recalibration.
    unit : str, optional
        Unit of the result; default the unit before.
    label : str
        What the factor is and where it comes from.

    Examples
    --------
    >>> Scale(2e20, unit="cm^-2", label="X_CO").settle("K km/s", str, None)[1]
    'cm^-2'
    """

    factor: float
    unit: str | None = None
    label: str = ""
    kind: ClassVar[str] = "scale"

    def settle(self, unit: str, unit_of: UnitOf, band: str | Band | None) -> tuple[Action, str]:
        """Return the action on a map in `unit`, and the unit after it."""
        factor = _nonzero(self.kind, "factor", self.factor)
        if factor == 1.0:
            raise InputError("the step scale with `factor` 1 would change nothing; take it out.")
        after = unit if self.unit is None else parse_unit(self.unit)
        facts = {"step": self.kind, "label": self.label, "factor": factor, "unit_after": after}
        return Action(facts, factor=factor), after


@dataclass(frozen=True)
class SubtractMap:
    """Subtract a template map, the CMB for example.

    Parameters
    ----------
    template : str
        Name of the map in the same store.
    coefficient : float
        What the template is multiplied by, a pure number.
    label : str
        What it is, for the provenance.
    band : str or Band, optional
        Band to convert the template at, where its unit is not that of the map at this step; default the band of
        the recipe.
    bandpass : {"published", "monochromatic"}
        How to convert it.

    Examples
    --------
    >>> action, unit = SubtractMap("cmb", label="CMB").settle("MJy/sr", lambda name: "K_CMB", "850um")
    >>> action.coefficient, unit
    (287.45, 'MJy/sr')
    """

    template: str
    coefficient: float = 1.0
    label: str = ""
    band: str | Band | None = None
    bandpass: Bandpass = "published"
    kind: ClassVar[str] = "subtract_map"

    def settle(self, unit: str, unit_of: UnitOf, band: str | Band | None) -> tuple[Action, str]:
        """Return the action on a map in `unit`, and the unit after it."""
        own = parse_unit(unit_of(self.template))
        change = _agree(
            f"template {self.template!r}", own, unit, band if self.band is None else self.band, self.bandpass
        )
        coefficient = _nonzero(self.kind, "coefficient", self.coefficient)
        facts: dict[str, Any] = {"step": self.kind, "label": self.label or self.template, "template": self.template}
        facts |= {"coefficient": coefficient, "conversion": change.provenance()}
        return Action(facts, template=self.template, coefficient=coefficient * change.factor), unit


@dataclass(frozen=True)
class SubtractCO:
    """Subtract a line that lies in the band: a map in K km/s times a coefficient.

    Parameters
    ----------
    template : str
        Name of the line's map, in K km/s.
    coefficient : float
        Intensity in the band for 1 K km/s.  It depends on the instrument, the line and the template's
        calibration; none is built in.
    unit : str
        Unit of the coefficient, per K km/s: "MJy/sr", "uK_CMB", ...
    label : str
        What it is, and where the coefficient comes from.
    band : str or Band, optional
        Band to convert the coefficient at, where its unit is not that of the map at this step; default the band
        of the recipe.
    bandpass : {"published", "monochromatic"}
        How to convert it.

    Examples
    --------
    >>> SubtractCO("co21", 0.02, "MJy/sr").settle("MJy/sr", lambda name: "K km/s", None)[0].coefficient
    0.02
    """

    template: str
    coefficient: float
    unit: str
    label: str = "CO"
    band: str | Band | None = None
    bandpass: Bandpass = "published"
    kind: ClassVar[str] = "subtract_co"

    def settle(self, unit: str, unit_of: UnitOf, band: str | Band | None) -> tuple[Action, str]:
        """Return the action on a map in `unit`, and the unit after it."""
        own = parse_unit(unit_of(self.template))
        to_line = conversion(own, "K km/s") if own.endswith("K km/s") else None
        if to_line is None:
            raise UnitError(
                f"template {self.template!r} of the step subtract_co is in {own}; a line is in K km/s. Correct its "
                "unit where it was ingested, or use the step subtract_map."
            )
        per_line = parse_unit(self.unit)
        what = f"the coefficient of {self.template!r} (per K km/s)"
        change = _agree(what, per_line, unit, band if self.band is None else self.band, self.bandpass)
        coefficient = _nonzero(self.kind, "coefficient", self.coefficient)
        facts: dict[str, Any] = {"step": self.kind, "label": self.label, "template": self.template}
        facts |= {"coefficient": coefficient}
        facts |= {"coefficient_unit": f"{per_line} / (K km/s)", "conversion": change.provenance()}
        return Action(facts, template=self.template, coefficient=coefficient * to_line.factor * change.factor), unit


@dataclass(frozen=True)
class SubtractMonopole:
    """Subtract a constant, the monopole of the cosmic infrared background for example.

    Parameters
    ----------
    value : float
        The constant.
    unit : str
        Its unit.
    label : str
        What it is, and where the value comes from.
    band : str or Band, optional
        Band to convert it at, where its unit is not that of the map at this step; default the band of the recipe.
    bandpass : {"published", "monochromatic"}
        How to convert it.

    Examples
    --------
    >>> SubtractMonopole.cib("850um").value
    0.13
    """

    value: float
    unit: str
    label: str = "monopole"
    band: str | Band | None = None
    bandpass: Bandpass = "published"
    kind: ClassVar[str] = "subtract_monopole"

    @classmethod
    def cib(cls, band: str | Band) -> SubtractMonopole:
        """Return the step for the cosmic infrared background in one of the bands with a published value.

        Raises
        ------
        InputError
            If no value is known for the band.
        """
        name = find_band(band).name
        if name not in CIB_MONOPOLES:
            raise InputError(
                f"no CIB monopole is known for band {name!r}; {nearest(name, CIB_MONOPOLES)}. Give your own with "
                "SubtractMonopole(value, unit)."
            )
        return cls(CIB_MONOPOLES[name], "MJy/sr", f"CIB monopole, {PARADIS_2024}")

    def settle(self, unit: str, unit_of: UnitOf, band: str | Band | None) -> tuple[Action, str]:
        """Return the action on a map in `unit`, and the unit after it."""
        own = parse_unit(self.unit)
        change = _agree(
            f"the monopole {self.label!r}", own, unit, band if self.band is None else self.band, self.bandpass
        )
        value = _nonzero(self.kind, "value", self.value)
        facts = {"step": self.kind, "label": self.label, "value": value, "conversion": change.provenance()}
        return Action(facts, constant=value * change.factor, changes_all=True), unit


@dataclass(frozen=True)
class DropNegative:
    """Give no value to pixels that are negative or zero, in the map itself or in any other listed one.

    Parameters
    ----------
    maps : tuple of str
        Other maps of the store to look at; where they have no value nothing is dropped.
    zero : bool
        Whether zero goes too (its logarithm does not exist).
    may_be_idle : bool
        Whether it is in order that no pixel of the sky is dropped; without it such a run ends in an error.

    Examples
    --------
    >>> action, _ = DropNegative().settle("MJy/sr", str, None)
    >>> action(np.array([1.0, 0.0, -1.0]), {}).tolist()
    [1.0, nan, nan]
    """

    maps: tuple[str, ...] = ()
    zero: bool = True
    may_be_idle: bool = False
    kind: ClassVar[str] = "drop_negative"

    def __post_init__(self) -> None:
        names: Any = self.maps
        if isinstance(names, str):
            raise InputError(f"`maps` of the step drop_negative came as {names!r}; give a list of names.")
        object.__setattr__(self, "maps", tuple(names))

    def settle(self, unit: str, unit_of: UnitOf, band: str | Band | None) -> tuple[Action, str]:
        """Return the action on a map in `unit`, and the unit after it."""
        for name in self.maps:
            unit_of(name)
        facts = {"step": self.kind, "maps": list(self.maps), "zero": bool(self.zero)}
        return (
            Action(facts, positive=self.maps, drop_zero=bool(self.zero), may_be_idle=bool(self.may_be_idle)),
            unit,
        )


PARADIS_2024 = "Paradis et al. 2024, A&A 691, A241"
CIB_MONOPOLES = {"850um": 0.13, "1380um": 0.033}
"""Monopoles of the cosmic infrared background by band, MJy/sr (Paradis et al. 2024)."""
STEPS: dict[str, type[Any]] = {
    step.kind: step for step in (Convert, Scale, SubtractMap, SubtractCO, SubtractMonopole, DropNegative)
}


def _agree(what: str, own: str, unit: str, band: str | Band | None, bandpass: Bandpass) -> Conversion:
    try:
        return conversion(own, unit, band=band, bandpass=bandpass)
    except UnitError as error:
        raise UnitError(
            f"{what} is in {own}, the map at this step in {unit}. Subtract before the step that converts the map, or "
            f"give `band` so that it can be converted ({error})"
        ) from error


def _nonzero(kind: str, key: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value == 0:
        raise InputError(f"`{key}` of the step {kind} is {value!r}; a finite number other than 0 is expected.")
    return float(value)
