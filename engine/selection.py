"""Which pixels a verb may use: regions, and conditions on coordinates and maps (`selection_grammar`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..chunking import geometry, sphere
from ..chunking.errors import InputError
from ..chunking.regions import Region
from ..chunking.tiling import Tiling
from .selection_grammar import COORDINATES, HELP, Bools, Condition, Truth, Value, parse

type Where = str | Region | Sequence[str | Region] | None

_LONGITUDES = ("l", "lon", "elon")
_PAIRS = (("l", "b"), ("elon", "elat"))
_FRAMES = {"l": "galactic", "b": "galactic", "elon": "ecliptic", "elat": "ecliptic"}
# Positions and truths of so many pixels at a time: what a selection needs does not grow with the tile.
BLOCK: Final = 2**17
BLOCK_BYTES: Final = BLOCK * 8 * 24


@dataclass(frozen=True)
class Selection:
    """The pixels that fulfil all conditions and lie in all regions; made by `Selection.of`.

    Parameters
    ----------
    conditions : tuple of Condition
        All must hold.
    regions : tuple of Region
        Pixels whose centres lie in all of them.
    """

    conditions: tuple[Condition, ...] = ()
    regions: tuple[Region, ...] = ()

    @classmethod
    def of(cls, where: Where) -> Selection:
        """Return what a user wrote as a selection.

        Parameters
        ----------
        where : str, Region, sequence of them, or None
            A region, conditions, or several of both, of which all must hold; None is the whole sky.

            Conditions are joined by `and`, `or` and `not`, with parentheses as needed.  A condition compares maps,
            coordinates and numbers (< <= > >= == !=, also chained as in "0 < b < 30"), or asks whether one is in a
            list ("survey in 1, 2", "survey not in 0"); numbers are in the unit of the map, and as precise as the map
            is, so that 0.7 is what a map holds that was given 0.7.  A map alone must not be 0; so a `mask_` map, which
            is 1 where a pixel is not to be used, is written `not mask_dust`. Coordinates are in degrees: "l", "b"
            (galactic) and "elon", "elat" (ecliptic), whatever the frame of the store, and "lon", "lat" (in the frame of
            the store); longitudes go from 0 to 360. Bars take the absolute value, and in them longitudes count from
            -180 to 180. "ngc" and "sgc" are the northern (b > 0) and the southern (b < 0) galactic cap. All these names
            hide maps of the same name.

            Where a map has no value, a condition on it is neither true nor false, and so is its `not`: the pixel
            is left out unless the other conditions decide without it ("b > 60 or n_hi < 4" holds at b = 70 whatever
            n_hi, and neither "n_hi < 4" nor "not n_hi < 4" holds where n_hi is missing).

        Raises
        ------
        InputError
            If it cannot be read.

        Examples
        --------
        >>> Selection.of("|b| > 10 and (survey in 1, 2 or not mask_dust)").maps
        ('survey', 'mask_dust')
        """
        if where is None:
            return cls()
        several: Sequence[Any] = where if isinstance(where, list | tuple) else (where,)
        conditions: list[Condition] = []
        regions: list[Region] = []
        for each in several:
            if isinstance(each, Region):
                regions.append(each)
            elif isinstance(each, str) and each.strip():
                conditions.extend(parse(each))
            else:
                raise InputError(
                    f"`where` {each!r} came; {HELP}; or give a region, or a list of regions and conditions."
                )
        if not several:
            raise InputError(f"`where` {where!r} came, which says nothing; {HELP}; or give None for the whole sky.")
        return cls(tuple(conditions), tuple(regions))

    @property
    def maps(self) -> tuple[str, ...]:
        """Maps that must be read to decide."""
        return tuple(dict.fromkeys(name for name in self._names() if name not in COORDINATES))

    @property
    def region(self) -> Region | None:
        """The first region, None where there is none."""
        return self.regions[0] if self.regions else None

    def facts(self) -> list[Any]:
        """Return conditions and regions as JSON-able facts, for the identity of a run.

        Examples
        --------
        >>> Selection.of("b > 30 and not mask_dust").facts()
        ['b > 30', 'not mask_dust']
        """
        return [condition.text for condition in self.conditions] + [described(region) for region in self.regions]

    @property
    def needs_positions(self) -> bool:
        """Whether the coordinates of every pixel are computed."""
        return bool(self.regions) or any(name in COORDINATES for name in self._names())

    def _names(self) -> Iterator[str]:
        for condition in self.conditions:
            for value in condition.node.values():
                yield value.name

    def tiles(self, tiling: Tiling, frame: str, tiles: tuple[int, ...]) -> tuple[int, ...]:
        """Return those of some tiles that may hold selected pixels."""
        for region in self.regions:
            inside = set(region.tiles(tiling, frame).tolist())
            tiles = tuple(tile for tile in tiles if tile in inside)
        return tiles

    def holds(self, tiling: Tiling, frame: str, pixels: NDArray[np.int64], values: Mapping[str, NDArray[Any]]) -> Bools:
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
        for part, inside, truths in self.pieces(tiling, frame, pixels, values):
            kept[part] = inside
            for truth in truths:
                kept[part] &= truth.true
        return kept

    def pieces(
        self, tiling: Tiling, frame: str, pixels: NDArray[np.int64], values: Mapping[str, NDArray[Any]]
    ) -> Iterator[tuple[slice, Bools, list[Truth]]]:
        """Yield blocks of pixels, whether they lie in all regions, and the truth of every condition.

        Parameters
        ----------
        tiling, frame, pixels, values
            As for `holds`.

        Yields
        ------
        tuple
            Which of the pixels, (block,) bool, and a Truth of (block,) for each of `conditions`.
        """
        for start in range(0, len(pixels), BLOCK):
            part = slice(start, start + BLOCK)
            known = _Known(tiling, frame, pixels[part], {name: values[name][part] for name in self.maps})
            inside = np.ones(len(pixels[part]), bool)
            for region in self.regions:
                inside &= region.contains(known.coordinate("lon"), known.coordinate("lat"), frame)
            yield part, inside, [condition.node.truth(known) for condition in self.conditions]


class _Known:
    """What conditions ask for of some pixels; coordinates are computed once, when the first asks."""

    def __init__(
        self, tiling: Tiling, frame: str, pixels: NDArray[np.int64], values: Mapping[str, NDArray[Any]]
    ) -> None:
        self.tiling, self.frame, self.pixels, self.values = tiling, frame, pixels, values
        self.coordinates: dict[str, NDArray[np.float64]] = {}
        self.vectors: dict[str, NDArray[np.float64]] = {}

    def __call__(self, value: Value) -> NDArray[np.floating]:
        if value.name not in COORDINATES:
            own = np.asarray(self.values[value.name])
            held: NDArray[np.floating] = own if own.dtype == np.float32 else own.astype(np.float64)
            return np.abs(held) if value.magnitude else held
        found = self.coordinate(value.name)
        if value.magnitude and value.name in _LONGITUDES:
            # Exact, which a remainder is not: |l| is l up to 180.
            return np.minimum(found, 360.0 - found)
        return np.abs(found) if value.magnitude else found

    def coordinate(self, name: str) -> NDArray[np.float64]:
        """Return one coordinate of every pixel, (pixel,) float64 degrees."""
        if name not in self.coordinates:
            frame = _FRAMES.get(name, self.frame)
            if frame == self.frame:
                # Not turned by the identity: its rounding would share the equator out among north and south.
                own = self.tiling.lonlat(self.pixels)
                for names in (("lon", "lat"), *(pair for pair in _PAIRS if _FRAMES[pair[0]] == frame)):
                    self.coordinates.update(zip(names, own, strict=True))
            else:
                x, y, z = self._turned(frame)
                longitude = name in _LONGITUDES
                angle = np.arctan2(y, x) if longitude else np.arctan2(z, np.hypot(x, y))
                self.coordinates[name] = sphere.wrap(np.degrees(angle)) if longitude else np.degrees(angle)
        return self.coordinates[name]

    def _turned(self, frame: str) -> NDArray[np.float64]:
        """Return the directions of the pixels in another frame, (3, pixel)."""
        if frame not in self.vectors:
            own = geometry.pixel_vectors(self.tiling.nside, self.pixels)
            self.vectors[frame] = sphere.rotation(self.frame, frame) @ own.T
        return self.vectors[frame]


def described(where: Where) -> Any:
    """Return a selection as JSON-able facts, for the identity of a run: the words, and the numbers of regions.

    Parameters
    ----------
    where : str, Region, sequence of them, or None
        As for `Selection.of`.

    Examples
    --------
    >>> from skymill.chunking.regions import Cone
    >>> described(["b > 30", Cone(0.0, 90.0, 5.0)])[1]
    {'region': 'Cone', 'lon': 0.0, 'lat': 90.0, 'radius': 5.0, 'frame': None}
    """
    if isinstance(where, Region):
        known: dict[str, Any] = json.loads(json.dumps(asdict(where), default=repr))  # type: ignore[call-overload]
        return {"region": type(where).__name__, **{name: known[name] for name in known if name[0] != "_"}}
    if where is None or isinstance(where, str):
        return where
    return [described(each) for each in where]


def words(where: Region) -> str:
    """Return a region as people write it.

    Examples
    --------
    >>> from skymill.chunking.regions import Cone
    >>> words(Cone(0.0, 90.0, 5.0))
    'Cone(lon=0.0, lat=90.0, radius=5.0)'
    """
    known = described(where)
    kind = known.pop("region")
    return f"{kind}({', '.join(f'{name}={value!r}' for name, value in known.items() if value is not None)})"
