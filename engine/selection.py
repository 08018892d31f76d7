"""Which pixels a verb may use: a region, or conditions on coordinates and maps, read without `eval`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import sphere
from ..chunking.errors import InputError
from ..chunking.regions import Region
from ..chunking.tiling import Tiling

_COORDINATES = ("l", "b", "lon", "lat")
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TERM = re.compile(
    rf"(?P<bar>\|?)\s*(?P<name>[A-Za-z_]\w*)\s*(?P<close>\|?)\s*"
    rf"(?:(?P<operator><=|>=|==|!=|<|>)\s*(?P<number>{_NUMBER})"
    rf"|in\s+(?P<list>{_NUMBER}(?:\s*,\s*{_NUMBER})*))?"
)
_HELP = (
    'write conditions such as "b > 10 and |l| < 60", "survey in 1, 2" or the name of a map that is not 0 where a '
    "pixel may be used, joined by `and`"
)


@dataclass(frozen=True)
class _Condition:
    name: str
    magnitude: bool
    operator: str
    numbers: tuple[float, ...]

    def holds(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        if self.magnitude:
            values = np.abs(values)
        if self.operator == "in":
            return np.isin(values, self.numbers)
        return np.asarray(_OPERATORS[self.operator](values, self.numbers[0]) & ~np.isnan(values))


@dataclass(frozen=True)
class Selection:
    """The pixels that fulfil all conditions; made by `Selection.of`.

    Parameters
    ----------
    conditions : tuple
        All must hold.
    region : Region, optional
        Pixels whose centres lie in it.
    """

    conditions: tuple[_Condition, ...] = ()
    region: Region | None = None

    @classmethod
    def of(cls, where: str | Region | None) -> Selection:
        """Return what a user wrote as a selection.

        Parameters
        ----------
        where : str, Region or None
            A region; or conditions joined by "and".  A condition compares (< <= > >= == !=, or `in` with a list)
            a number with "l", "b" (galactic coordinates, whatever the frame of the store; l from 0 to 360),
            "lon", "lat" (the store's frame), or a map; bars take the absolute value, and then l and lon count
            from -180 to 180.  A map alone must not be 0.  A pixel where a map has no value is left out.  None
            is the whole sky.

        Raises
        ------
        InputError
            If it cannot be read.

        Examples
        --------
        >>> Selection.of("|b| > 10 and survey in 1, 2").maps
        ('survey',)
        """
        if where is None:
            return cls()
        if isinstance(where, Region):
            return cls(region=where)
        if not isinstance(where, str) or not where.strip():
            raise InputError(f"`where` {where!r} came; {_HELP}.")
        return cls(tuple(_condition(term, where) for term in re.split(r"\band\b", where)))

    @property
    def maps(self) -> tuple[str, ...]:
        """Maps that must be read to decide."""
        return tuple(dict.fromkeys(c.name for c in self.conditions if c.name not in _COORDINATES))

    @property
    def needs_positions(self) -> bool:
        """Whether the coordinates of every pixel are computed."""
        return self.region is not None or any(c.name in _COORDINATES for c in self.conditions)

    def tiles(self, tiling: Tiling, frame: str, tiles: tuple[int, ...]) -> tuple[int, ...]:
        """Return those of some tiles that may hold selected pixels."""
        if self.region is None:
            return tiles
        inside = set(self.region.tiles(tiling, frame).tolist())
        return tuple(tile for tile in tiles if tile in inside)

    def holds(
        self, tiling: Tiling, frame: str, pixels: NDArray[np.int64], values: Mapping[str, NDArray[Any]]
    ) -> NDArray[np.bool_]:
        """Return whether each pixel is selected, (pixel,) bool.

        Parameters
        ----------
        tiling : Tiling
            The grid.
        frame : str
            Of the store.
        pixels : numpy.ndarray
            (pixel,) int64.
        values : mapping
            (pixel,) of each map of `maps`.
        """
        kept = np.ones(len(pixels), bool)
        if self.needs_positions and len(pixels):
            lon, lat = tiling.lonlat(pixels)
            if self.region is not None:
                kept &= self.region.contains(lon, lat, frame)
            known = {"lon": lon, "lat": lat}
            if any(condition.name in ("l", "b") for condition in self.conditions):
                known["l"], known["b"] = sphere.rotate(lon, lat, frame, "galactic")
        for condition in self.conditions:
            if condition.name not in _COORDINATES:
                kept &= condition.holds(np.asarray(values[condition.name], np.float64))
            elif len(pixels):
                coordinate = known[condition.name]
                if condition.magnitude and condition.name in ("l", "lon"):
                    coordinate = (coordinate + 180.0) % 360.0 - 180.0
                kept &= condition.holds(coordinate)
        return kept


def _condition(term: str, where: str) -> _Condition:
    found = _TERM.fullmatch(term.strip())
    if not found or bool(found["bar"]) != bool(found["close"]):
        raise InputError(f"`where` {where!r} cannot be read at {term.strip()!r}; {_HELP}.")
    name, magnitude = found["name"], bool(found["bar"])
    if found["list"]:
        return _Condition(name, magnitude, "in", tuple(float(text) for text in found["list"].split(",")))
    if found["operator"]:
        return _Condition(name, magnitude, found["operator"], (float(found["number"]),))
    if name in _COORDINATES or magnitude:
        raise InputError(f"`where` {where!r} compares {term.strip()!r} with nothing; {_HELP}.")
    return _Condition(name, False, "!=", (0.0,))
