"""Discs on the sky, thousands of them: where users' lists of sources come from, and the pixels that they cover.

All discs of a tile go down the hierarchy of pixels together, as pairs of a cell and a disc: a cell wholly in a disc is
covered, one wholly outside is dropped, and only the others are divided.  So the work grows with the length of the
edges, and no pixel is compared with a disc that is far away.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..chunking import geometry, sphere
from ..chunking.errors import FrameError, InputError, UnitError, nearest
from ..chunking.regions import EDGE
from ..chunking.schema import check_frame
from ..chunking.tables import Table, read_table
from ..chunking.tiling import Tiling

type Sources = str | os.PathLike[str] | Sequence[Sequence[float]] | NDArray[Any]

# Names of columns and the frame that they are in; `lon` and `lat` say nothing of it.
_PAIRS: Final = {
    ("l", "b"): "galactic",
    ("glon", "glat"): "galactic",
    ("ra", "dec"): "icrs",
    ("elon", "elat"): "ecliptic",
    ("lon", "lat"): None,
}
_COLUMNS: Final = tuple(name for pair in _PAIRS for name in pair)
_DEGREES: Final = {"deg": 1.0, "arcmin": 1 / 60, "arcsec": 1 / 3600, "rad": 180.0 / math.pi}
_UNIT_WORDS: Final = {"degree": "deg", "degrees": "deg", "radian": "rad", "arcminute": "arcmin", "arcsecond": "arcsec"}
_PAIRS_AT_ONCE: Final = 2**14
# A pair that is looked at has three vectors and a few numbers; a level keeps the children of one look, a tile and a
# disc (16 bytes) each, and there are at most 12 levels in a tile.
DISCS_BYTES: Final = _PAIRS_AT_ONCE * (200 + 12 * 4 * 16)


@dataclass(frozen=True)
class Discs:
    """Discs in the frame of a store.

    Parameters
    ----------
    table : ndarray
        (disc, 3) float64: longitude, latitude and radius in degrees.
    """

    table: NDArray[np.float64]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.table)

    def covered(self, tiling: Tiling, tile: int) -> NDArray[np.bool_]:
        """Return which pixels of a tile have their centres in some disc, edges included, (cells,) bool.

        Parameters
        ----------
        tiling : Tiling
            The grid.
        tile : int
            Which tile.

        Examples
        --------
        >>> Discs(np.array([[0.0, 90.0, 45.0]])).covered(Tiling(2, tile_nside=1), 0).tolist()
        [False, False, False, True]
        """
        assert tiling.tile_nside is not None
        covered = np.zeros(tiling.tile_npix, bool)
        vectors = sphere.lonlat_to_vector(self.table[:, 0], self.table[:, 1])
        radii = np.radians(self.table[:, 2])
        order = tiling.tile_nside.bit_length() - 1
        offset = np.int64(tile) * tiling.tile_npix

        def descend(order: int, cells: NDArray[np.int64], discs: NDArray[np.int64]) -> None:
            for first in range(0, cells.size, _PAIRS_AT_ONCE):
                part = slice(first, first + _PAIRS_AT_ONCE)
                look(order, cells[part], discs[part])

        def look(order: int, cells: NDArray[np.int64], discs: NDArray[np.int64]) -> None:
            centres = geometry.pixel_vectors(2**order, cells)
            beyond = sphere.angle_between(centres, vectors[discs]) - radii[discs]
            if order == tiling.order:
                covered[cells[beyond <= EDGE] - offset] = True
                return
            reach = geometry.pixel_radius(2**order) + 2 * EDGE
            width = 4 ** (tiling.order - order)
            whole = beyond <= -reach
            covered.reshape(-1, width)[cells[whole] - offset // width] = True
            # What a disc covers wholly needs no look at the others that cross it.
            open_ = (np.abs(beyond) < reach) & ~np.isin(cells, cells[whole])
            del centres, beyond
            children = (4 * cells[open_][:, np.newaxis] + np.arange(4)).reshape(-1)
            descend(order + 1, children, np.repeat(discs[open_], 4))

        every = np.arange(self.count, dtype=np.int64)
        descend(order, np.full(self.count, tile, np.int64), every)
        return covered


def discs_of(sources: Sources, radius: float | None, unit: str, frame: str | None, store_frame: str) -> Discs:
    """Return the discs that a user gave, in the frame of a store.

    Parameters
    ----------
    sources : str, path or sequence
        A CSV file or FITS table, or rows (longitude, latitude) or (longitude, latitude, radius).
    radius : float, optional
        Of all discs; by default each has its own.
    unit : {"deg", "arcmin", "arcsec", "rad"}
        Of the radii.
    frame : {"galactic", "icrs", "ecliptic"}, optional
        Of the positions, where the names of columns do not say it.
    store_frame : str
        Frame of the store.

    Raises
    ------
    InputError, UnitError, FrameError, FormatError, StoreNotFoundError
        If something is missing or not a position on the sky, or the frame is neither given nor named by the columns.
    """
    if unit not in _DEGREES:
        raise InputError(f"`unit` {unit!r} came; {nearest(unit, _DEGREES)}.")
    if frame is not None:
        check_frame(frame)
    if isinstance(sources, str | os.PathLike):
        lon, lat, own, own_unit, frame = _from_file(sources, frame, store_frame, unit)
    else:
        lon, lat, own = _from_rows(sources)
        own_unit = unit
        if frame is None:
            raise FrameError(
                '`sources` came as numbers, which do not say their frame; give `frame`: "galactic" for (l, b), "icrs" '
                'for (ra, dec), or "ecliptic".'
            )
    if not lon.size:
        raise InputError("`sources` came without a source; leave it out where none is to be taken out.")
    if radius is not None:
        radii = np.full(lon.shape, radius * _DEGREES[unit])
    elif own is None:
        raise InputError('`sources` came without radii; give `radius`, or a column "radius", or rows of three numbers.')
    else:
        radii = own * _DEGREES[own_unit]
    _check(lon, lat, radii)
    if frame != store_frame:
        lon, lat = sphere.rotate(lon, lat, frame, store_frame)
    return Discs(np.stack([sphere.wrap(lon), lat, radii], axis=1))


def _from_rows(sources: Any) -> tuple[Any, Any, Any]:
    try:
        rows = np.asarray(sources, dtype=np.float64)
    except (TypeError, ValueError):
        rows = np.empty(0)
        sources = repr(sources)[:60]
    if rows.size == 0 and rows.ndim < 2 and not isinstance(sources, str):
        rows = np.empty((0, 3))
    if rows.ndim != 2 or rows.shape[1] not in (2, 3):
        raise InputError(
            f"`sources` of shape {rows.shape} came; give the path of a CSV file or FITS table, or rows of two numbers "
            "(longitude, latitude) or three (and the radius), all of the same length."
        )
    return rows[:, 0], rows[:, 1], rows[:, 2] if rows.shape[1] == 3 else None


def _from_file(path: Any, frame: str | None, store_frame: str, unit: str) -> tuple[Any, Any, Any, str, str]:
    table = read_table(path, (*_COLUMNS, "radius"))
    there = [pair for pair in _PAIRS if all(name in table.columns for name in pair)]
    if not there:
        raise InputError(
            f"{path} has no columns of positions; they are called l and b (or glon and glat), ra and dec, elon and "
            "elat, or lon and lat (then `frame` says in which frame)."
        )
    fitting = [pair for pair in there if _PAIRS[pair] == frame] if frame else []
    nameless = ("lon", "lat") in there
    if frame and not fitting and not nameless:
        raise FrameError(
            f"`frame` {frame!r} came, but the columns of {path} are {' and '.join(there[0])}, which are "
            f"{_PAIRS[there[0]]}; leave `frame` out, or rename the columns to lon and lat."
        )
    if frame:
        pair = fitting[0] if fitting else ("lon", "lat")
    else:
        named = [pair for pair in there if _PAIRS[pair]]
        if not named:
            raise FrameError(
                f'the columns lon and lat of {path} do not say their frame; give `frame`: "galactic", "icrs" or '
                '"ecliptic".'
            )
        # Several pairs say the same in several frames; the store's needs no turning.
        pair = next((each for each in named if _PAIRS[each] == store_frame), named[0])
    for name in pair:
        said = table.units.get(name, "deg")
        if _UNIT_WORDS.get(said.lower(), said) != "deg":
            raise UnitError(f"column {name!r} of {path} is in {said!r}; positions are in degrees.")
    own = table.columns.get("radius")
    return (
        table.columns[pair[0]],
        table.columns[pair[1]],
        own,
        _radius_unit(path, table, unit),
        _PAIRS[pair] or str(frame),
    )


def _radius_unit(path: Any, table: Table, unit: str) -> str:
    """Return the unit of the column of radii: what the file says of it counts more than the option."""
    said = table.units.get("radius", unit)
    known = _UNIT_WORDS.get(said.lower(), said)
    if known not in _DEGREES:
        raise UnitError(f"column 'radius' of {path} is in {said!r}; {nearest(said, _DEGREES)}.")
    return known


def _check(lon: NDArray[np.float64], lat: NDArray[np.float64], radii: NDArray[np.float64]) -> None:
    for name, values, right, wanted in (
        ("longitude", lon, np.isfinite(lon), "a finite number of degrees"),
        ("latitude", lat, np.abs(lat) <= 90.0, "-90 to 90 degrees"),
        ("radius", radii, (radii > 0.0) & (radii <= 180.0), "above 0, at most 180 degrees"),
    ):
        if not right.all():
            at = int(np.argmin(right))
            raise InputError(
                f"`sources`: source {at} has the {name} {values[at]:g} degrees ({np.count_nonzero(~right)} such "
                f"sources); expected is {wanted}."
            )
