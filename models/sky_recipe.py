"""Which fields, sums and noises the maps of a synthetic sky are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from ..chunking.bands import band
from . import sky_sed
from .sky_fields import CMB, CO, DUST, FREE_FREE, GROWTH
from .sky_random import Singles
from .sky_refine import Growth

# What `prepare` has to take out of the raw maps again.
CIB_MONOPOLE: Final = {"850um": 0.13, "1380um": 0.033}  # MJy/sr, as the maps of Planck carry it
# MJy/sr per K km/s of 12CO(2-1).  1.38 mm: 45.9 uK_CMB per K km/s, as HFI sees the line.  850 um: another line,
# CO(3-2), weak enough that CO is below 1 % there.
CO_COEFFICIENT: Final = {"850um": 0.0038, "1380um": 0.0222}

HERSCHEL: Final = ("160um", "250um", "350um", "500um")
PLANCK: Final = ("850um", "1380um")
BANDS_OF: Final = {**{f"i{name[:-2]}": name for name in HERSCHEL}, **{f"i{name}": name for name in PLANCK}}
MEANS: Final = {"truth_temperature": "column x temperature", "truth_beta": "column x index"}
COLUMN: Final = "column"
_COLUMN_UNIT = 1e20  # cm^-2


def parts_of(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the sums and the noises that a map needs.

    Examples
    --------
    >>> parts_of("raw_1380um")
    (('1380um', 'cmb', 'co'), ('i1380um',))
    """
    if name in BANDS_OF:
        return (BANDS_OF[name],), (name,)
    kind, _, of = name.partition("_")
    if kind == "raw":
        return (of, CMB, CO), (f"i{of}",)
    if name in MEANS:
        return (COLUMN, MEANS[name]), ()
    if name == "survey":
        return (), ()
    return ({"truth_column": COLUMN, "cmb": CMB, "co21": CO}.get(name, of),), ()


@lru_cache(maxsize=1)
def _rows() -> dict[str, dict[str, float]]:
    """Return every sum as {field: coefficient}."""
    rows: dict[str, dict[str, float]] = {}
    dust, free_free = sky_sed.class_intensities(), sky_sed.free_free_intensities()
    for number, name in enumerate(sky_sed.SED_BANDS):
        rows[name] = dict(zip(DUST, dust[number].tolist(), strict=True))
        if free_free[number]:
            rows[name][FREE_FREE] = float(free_free[number])
    rows[COLUMN] = dict.fromkeys(DUST, 1.0)
    rows[MEANS["truth_temperature"]] = {n: k.temperature for n, k in zip(DUST, sky_sed.CLASSES, strict=True)}
    rows[MEANS["truth_beta"]] = {n: k.index for n, k in zip(DUST, sky_sed.CLASSES, strict=True)}
    rows[CMB] = {CMB: 1.0}
    rows[CO] = {CO: 1.0}
    return rows


@dataclass(frozen=True)
class Recipe:
    """What has to be computed for some maps.

    Parameters
    ----------
    names : tuple of str
        The maps.
    noise_needs_truth : tuple of str
        Noises whose level follows the brightness.
    """

    names: tuple[str, ...]
    noise_needs_truth: tuple[str, ...] = ()

    @property
    def sums(self) -> tuple[str, ...]:
        """The linear sums of fields that the maps need."""
        return tuple(dict.fromkeys(part for name in self.names for part in parts_of(name)[0]))

    @property
    def noises(self) -> tuple[str, ...]:
        """The noise fields that the maps need."""
        return tuple(dict.fromkeys(part for name in self.names for part in parts_of(name)[1]))

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of which these consist."""
        brightness = tuple(BANDS_OF[name] for name in self.noises if name in self.noise_needs_truth)
        used = {field for name in (*self.sums, *brightness) for field in _rows()[name]}
        return tuple(field for field in GROWTH if field in used)

    @property
    def growths(self) -> tuple[Growth | None, ...]:
        """How the fields are refined."""
        return tuple(GROWTH[field] for field in self.fields)

    def collect(self) -> Sums:
        """Return what takes the fields one after the other and makes the maps of them."""
        return Sums(self.sums)


class Sums:
    """Linear sums of fields that arrive one after the other.

    Parameters
    ----------
    names : sequence of str
        The sums.

    Examples
    --------
    >>> sums = Sums(["column"])
    >>> sums.add("dust0", np.ones(2, np.float32))
    >>> sums.add("dust1", np.ones(2, np.float32))
    >>> sums.values["column"].tolist()
    [2.0, 2.0]
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.values: dict[str, Singles] = {}
        self._room: Singles | None = None

    def add(self, field: str, values: Singles) -> None:
        """Add one field, (...) float32, to the sums that hold it."""
        for name in self.names:
            coefficient = _rows()[name].get(field)
            if coefficient is None:
                continue
            if name not in self.values:
                self.values[name] = values * np.float32(coefficient)
            elif coefficient == 1.0:
                self.values[name] += values
            else:
                if self._room is None or self._room.shape != values.shape:
                    self._room = np.empty_like(values)
                self.values[name] += np.multiply(values, np.float32(coefficient), out=self._room)

    def compose(self, name: str, noises: dict[str, Singles]) -> Singles:
        """Return a map of the sums and the noises, (...) float32."""
        return compose(name, self.values, noises)


def compose(name: str, sums: dict[str, Singles], noises: dict[str, Singles]) -> Singles:
    """Return a map from its parts, (...) float32.

    Examples
    --------
    >>> one = np.ones(1, np.float32)
    >>> compose("i160", {"160um": one}, {"i160": one}).tolist()
    [2.0]
    """
    if name in BANDS_OF:
        return sums[BANDS_OF[name]] + noises[name]
    kind, _, of = name.partition("_")
    if kind == "raw":
        out = sums[of] + noises[f"i{of}"]
        out += sums[CMB] * np.float32(_kelvin_factor(of))
        out += sums[CO] * np.float32(CO_COEFFICIENT[of])
        out += np.float32(CIB_MONOPOLE[of])
        return out
    if name in MEANS:
        return sums[MEANS[name]] / sums[COLUMN]
    if name == "truth_column":
        return sums[COLUMN] * np.float32(_COLUMN_UNIT)
    return sums[{"cmb": CMB, "co21": CO}.get(name, of)]


def _kelvin_factor(name: str) -> float:
    factor = band(name).mjy_sr_per_k_cmb
    assert factor is not None, "the HFI bands carry their constants"
    return factor
