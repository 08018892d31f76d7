"""What is transformed: maps of a store times weights, read band by band, with an account of what was met."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from .gather import gather
from .ledger import read_held
from .masks import read_weights
from .rings import Layout

REMOVALS = (None, "monopole", "dipole")

type Place = tuple[str, str]  # address of a store, name of a map in it


@dataclass(frozen=True)
class Field:
    """A real function on the sphere: a map times a weight.

    Parameters
    ----------
    label : str
        What it is called in the scratch space.
    map : (str, str), optional
        Store and name of the map; None for the weight alone.
    weight : (str, str), optional
        Store and name of the weight, as `masks.weight_values` understands it; None for 1 everywhere.
    present : bool
        Take 1 where the map has a value and 0 elsewhere, instead of its values.
    removed : tuple of float
        Taken off the map before weighting: a constant, and the three components of a dipole (x, y, z).
    """

    label: str
    map: Place | None
    weight: Place | None = None
    present: bool = False
    removed: tuple[float, ...] = ()


def weights_in(fields: Sequence[Field]) -> tuple[Place, ...]:
    """Return the different weights of some fields, sorted."""
    return tuple(sorted({field.weight for field in fields if field.weight is not None}))


def read_band(
    fields: Sequence[Field], layout: Layout, band: int
) -> tuple[Mapping[Place, NDArray[Any]], Callable[[Field], tuple[NDArray[Any], int]]]:
    """Return the weights of a band, and what reads one field of it after the other.

    That is, for a field: its values (pixel,) in RING order, and the pixels that have a weight but no value, where 0
    was taken.

    Parameters
    ----------
    fields : sequence of Field
        All that will be read.
    layout : Layout
        The bands.
    band : int
        Which one.
    """
    weights: dict[Place, NDArray[Any]] = {}
    for place in weights_in(fields):
        read = partial(read_weights, place[0], stores.info(*place))
        weights[place] = gather(read, layout, band).astype(layout.real, copy=False)

    def values_of(field: Field) -> tuple[NDArray[Any], int]:
        weight = None if field.weight is None else weights[field.weight]
        if field.map is None:
            if weight is not None:
                return weight, 0
            first, stop = layout.pixels(band)
            return np.ones(stop - first, dtype=layout.real), 0
        values = gather(partial(read_held, *field.map), layout, band).astype(layout.real, copy=False)
        absent = ~np.isfinite(values)
        used = absent if weight is None else absent & (weight > 0)
        missing = int(np.count_nonzero(used))
        if field.present:
            values = (~absent).astype(layout.real)
        else:
            if field.removed:
                _take_off(values, field.removed, layout, band)
            values[absent] = 0
        if weight is not None:
            values *= weight
        return values, missing

    return weights, values_of


def moments(weights: Mapping[Place, NDArray[Any]], layout: Layout, band: int) -> dict[str, list[list[float]]]:
    """Return, for every two weights of a band, sums of their product and of its square, by `moment_key`.

    Each is a list of such sums, one for each of the pieces of the band, which are the same in bands of any height.
    """
    places = sorted(weights)
    found: dict[str, list[list[float]]] = {}
    for part in _pixels_of(layout, band, layout.pieces(band)):
        sums = {moment_key(None, None): [float(part.stop - part.start)] * 2}
        for number, one in enumerate(places):
            first = weights[one][part].astype(np.float64)
            sums[moment_key(None, one)] = [float(first.sum()), float((first * first).sum())]
            for other in places[number:]:
                product = first * weights[other][part]
                sums[moment_key(one, other)] = [float(product.sum()), float((product * product).sum())]
        for key, both in sums.items():
            found.setdefault(key, []).append(both)
    return found


def moment_key(one: Place | None, other: Place | None) -> str:
    """Return the key of two weights, in either order; None is the weight 1."""
    return "|".join(sorted("" if place is None else ":".join(place[::-1]) for place in (one, other)))


def with_moments_removed(
    fields: Sequence[Field], layout: Layout, removal: str, sums: Mapping[str, NDArray[np.float64]]
) -> tuple[Field, ...]:
    """Return fields that take their monopole, or monopole and dipole, off.

    Parameters
    ----------
    fields : sequence of Field
        With maps.
    layout : Layout
        Where they are read.
    removal : {"monopole", "dipole"}
        What is taken off.
    sums : mapping
        By label, what `removal_sums` found, summed over all pieces.
    """
    result = []
    for field in fields:
        if field.label not in sums:
            result.append(field)
            continue
        table = sums[field.label]
        size = 1 if removal == "monopole" else 4
        found = np.linalg.lstsq(table[:size, :size], table[:size, 4], rcond=None)[0]
        result.append(replace(field, removed=tuple(map(float, found))))
    return tuple(result)


def removal_sums(
    values: NDArray[Any], weight: NDArray[Any] | None, layout: Layout, band: int
) -> list[NDArray[np.float64]]:
    """Return the sums that fit 1, x, y, z to weighted values: normal matrix and right side, (4, 5) float64 each.

    One for each of the pieces of the band, which are the same in bands of any height.

    Parameters
    ----------
    values : ndarray
        (pixel,) of a band, times their weight.
    weight : ndarray, optional
        (pixel,); None for 1.
    layout : Layout
        The bands.
    band : int
        Which one.
    """
    tables = []
    for first, stop in layout.pieces(band):
        table = np.zeros((4, 5))
        rows = range(first, stop)
        for row, part in zip(rows, _pixels_of(layout, band, [(row, row + 1) for row in rows]), strict=True):
            shape = _first_harmonics(layout, row)
            share = np.ones(shape.shape[1]) if weight is None else weight[part].astype(np.float64)
            table[:, :4] += (shape * share) @ shape.T
            table[:, 4] += shape @ values[part].astype(np.float64)
        tables.append(table)
    return tables


def _take_off(values: NDArray[Any], removed: Sequence[float], layout: Layout, band: int) -> None:
    if len(removed) == 1:
        values -= values.dtype.type(removed[0])
        return
    rows = range(*layout.rows(band))
    for row, part in zip(rows, _pixels_of(layout, band, [(row, row + 1) for row in rows]), strict=True):
        values[part] -= np.asarray(removed) @ _first_harmonics(layout, row)


def _pixels_of(layout: Layout, band: int, rows: Sequence[tuple[int, int]]) -> list[slice]:
    """Return the places in a band of the pixels of some of its rows, each from a first row to the one after."""
    begin = layout.pixels(band)[0]
    start = np.append(layout.rings.start.astype(np.int64), layout.tiling.npix) - begin
    return [slice(int(start[first]), int(start[stop])) for first, stop in rows]


def _first_harmonics(layout: Layout, row: int) -> NDArray[np.float64]:
    """Return 1, x, y, z of the pixels of a row, (4, pixel) float64."""
    rings = layout.rings
    count = int(rings.nphi[row])
    phi = rings.phi0[row] + 2 * np.pi / count * np.arange(count)
    height, radius = np.cos(rings.theta[row]), np.sin(rings.theta[row])
    return np.stack([np.ones(count), radius * np.cos(phi), radius * np.sin(phi), np.full(count, height)])
