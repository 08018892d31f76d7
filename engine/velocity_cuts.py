"""Velocity cuts of a cube: the ranges that users give, and what every channel adds to each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.channels import Channels
from ..chunking.errors import InputError, UnitError
from ..chunking.schema import MapInfo, check_name
from ..chunking.units import conversion, parse_unit, quantity_of
from ..models import columns
from .templates_kernel import CubeCuts

DEFAULT_CUTS: Final[Mapping[str, Sequence[Any]]] = {
    "nhi": (-90.0, 90.0),
    "lvc": (-35.0, 35.0),
    "ivc": ((-90.0, -35.0), (35.0, 90.0)),
}
"""Total, low and intermediate velocities in km/s; the limits are guesses [G], the publication gives none."""

_BRIGHTNESS: Final = ("K", "mK", "uK", "K_RJ", "mK_RJ", "uK_RJ")


def cube_cuts(
    where: str, info: MapInfo, cuts: Any, spin_temperature: float | None, unit: str
) -> tuple[CubeCuts, dict[str, Any]]:
    """Return what the kernel does with a cube, and the facts of every cut by its name.

    Parameters
    ----------
    where : str
        Address of the store.
    info : MapInfo
        The cube.
    cuts : mapping or None
        As `templates` takes it.
    spin_temperature : float, optional
        K.
    unit : str
        Of the columns that are written.

    Raises
    ------
    InputError
        If it is no cube, there is no cut, a range cannot be read, or a cut holds no channel.
    UnitError
        If no column density follows from the unit of the cube.
    """
    channels = stores.channels_of(where)
    if not info.is_cube or channels is None:
        raise InputError(
            f"`cube` {info.name!r} is a map (cells,), without velocities; bring a cube in with skymill.ingest_cube."
        )
    factor, scale = _channel_factors(info, channels, unit)
    if spin_temperature is not None and parse_unit(info.unit) not in _BRIGHTNESS:
        raise UnitError(
            f"cube {info.name!r} is in {info.unit}; an optical depth follows from a brightness temperature, so give a "
            "cube in K, or leave `spin_temperature` out."
        )
    chosen = DEFAULT_CUTS if cuts is None else cuts
    if not chosen:
        raise InputError("`cuts` came empty; give velocities by name, or leave it out.")
    facts: dict[str, Any] = {}
    rows = []
    for name, limits in chosen.items():
        check_name(name)
        ranges = _ranges(name, limits)
        inside = np.sum([channels.overlap(low, high) for low, high in ranges], axis=0)
        if not inside.any():
            edges = channels.edges
            raise InputError(
                f"cut {name!r} ({range_words(ranges)}) holds no channel of cube {info.name!r}, which goes from "
                f"{edges.min():g} to {edges.max():g} km/s."
            )
        rows.append(tuple((factor * inside).tolist()))
        facts[name] = {
            # JSON has no infinity, and what is written into a store must be JSON to every reader.
            "velocities": [[limit if math.isfinite(limit) else str(limit) for limit in each] for each in ranges],
            "channels": float(inside.sum()),
            "covered": float((inside * np.array(channels.width)).sum()),
            # The arrays of channels have no ledger: here they become part of the identity of the run.
            "edges": channels.edges[inside > 0].tolist(),
        }
    return CubeCuts(info.name, tuple(facts), tuple(rows), scale, spin_temperature), facts


def _channel_factors(info: MapInfo, channels: Channels, unit: str) -> tuple[NDArray[np.float64], float]:
    """Return the column, in `unit`, of one (scaled) unit of every whole channel, and the scale."""
    own = parse_unit(info.unit)
    thin = columns.HI_COLUMN * conversion("cm^-2", unit).factor
    if own in _BRIGHTNESS:
        return thin * np.array(channels.width), conversion(own, "K_RJ" if own.endswith("RJ") else "K").factor
    quantity = quantity_of(own)
    if quantity == "line intensity":
        return np.full(channels.count, thin * conversion(own, "K km/s").factor), 1.0
    if quantity == "column density":
        return np.full(channels.count, conversion(own, unit).factor), 1.0
    raise UnitError(
        f"cube {info.name!r} is in {info.unit} ({quantity}); a column density follows from brightness in K, from "
        "K km/s a channel, or from a column density a channel."
    )


def _ranges(name: str, limits: Any) -> tuple[tuple[float, float], ...]:
    try:
        several = [limits] if np.ndim(limits[0]) == 0 else list(limits)
        pairs = [(float(low), float(high)) for low, high in several]
    except (TypeError, ValueError, IndexError):
        raise InputError(
            f"cut {name!r} came with {limits!r}; give (low, high) in km/s, or a list of such ranges."
        ) from None
    try:
        return columns.merged_intervals(pairs)
    except InputError as error:
        raise InputError(f"cut {name!r}: {error}") from error


def range_words(ranges: Sequence[Sequence[float | str]]) -> str:
    """Return ranges of velocity for people.

    Parameters
    ----------
    ranges : sequence of (low, high)
        km/s; infinite ones also as words.

    Examples
    --------
    >>> range_words([(-90, -35), (35, 90)])
    '-90 to -35 and 35 to 90 km/s'
    """
    return " and ".join(f"{float(low):g} to {float(high):g}" for low, high in ranges) + " km/s"


def cut_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return a line for every cut, which says what of it the channels do not cover.

    Parameters
    ----------
    facts : mapping
        As `cube_cuts` returns them.
    """
    notes = []
    for name, fact in facts.items():
        wanted = sum(float(high) - float(low) for low, high in fact["velocities"])
        note = f"{name}: {range_words(fact['velocities'])}, {fact['channels']:.4g} channels"
        if math.isfinite(wanted) and fact["covered"] < wanted * (1 - 1e-6):
            note += f"; they cover {fact['covered']:.4g} of {wanted:.4g} km/s, the rest is outside the cube or in gaps"
        notes.append(note)
    return notes
