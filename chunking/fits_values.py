"""From the numbers that a FITS column stores to float32 with NaN, and the statistics of a map."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError
from .fits_header import Column

UNSEEN = -1.6375e30  # "no value" in HEALPix files
# Files hold UNSEEN rounded to float32, printed and read again, or converted from another unit system's text.
TOLERANCE = 1e-5

Blank = Literal["unseen", "nan"]


def decode(raw: NDArray[Any], column: Column, bad_values: tuple[float, ...] = ()) -> tuple[NDArray[np.float32], int]:
    """Return the physical values, NaN where there is none, and how many were infinite.

    Parameters
    ----------
    raw : ndarray
        (cells,) in the stored, big-endian type.
    column : Column
        Its TNULL, TSCAL and TZERO are applied.
    bad_values : tuple of float
        Stored values that mean "no value"; UNSEEN and NaN always do.

    Returns
    -------
    values : ndarray
        (cells,) float32 in the machine's byte order.  Integers beyond 2**24 and float64 are rounded to float32.
    infinite : int
        Number of values that were infinite, or too large for float32: they have become NaN.

    Examples
    --------
    >>> column = Column("I", 1, "E", 1, 0)
    >>> values, infinite = decode(np.array([1.5, -1.6375e30, np.inf], ">f4"), column)
    >>> values.tolist(), infinite
    ([1.5, nan, nan], 1)
    """
    floating = raw.dtype.kind == "f"
    bad = _bad(raw, bad_values, floating)
    plain = column.scale == 1.0 and column.zero == 0.0
    if plain and floating and raw.dtype.itemsize == 4:
        values = raw.astype(np.float32)
    else:
        exact = raw.astype(np.float64)
        if not plain:
            exact *= column.scale
            exact += column.zero
        with np.errstate(over="ignore"):
            values = exact.astype(np.float32)
    if bad is not None:
        values[bad] = np.nan
    infinite = 0
    if floating or not plain:
        endless = np.isinf(values)
        infinite = int(np.count_nonzero(endless))
        if infinite:
            values[endless] = np.nan
    return values, infinite


def _bad(raw: NDArray[Any], bad_values: tuple[float, ...], floating: bool) -> NDArray[np.bool_] | None:
    """Return where the stored values mean "no value", None for nowhere (NaN left alone)."""
    bad: NDArray[np.bool_] | None = None
    known: Iterable[float] = (UNSEEN, *bad_values) if floating else bad_values
    for value in known:
        if floating:
            # Comparing with two bounds needs no temporary in float64, and NaN compares false.
            half = TOLERANCE * abs(value)
            low, high = _limits(raw, value - half, value + half)
            here = raw >= low
            here &= raw <= high
        elif float(value).is_integer():
            here = raw == int(value)
        else:
            continue
        if here.any():
            bad = here if bad is None else bad | here
    return bad


def _limits(raw: NDArray[Any], low: float, high: float) -> tuple[Any, Any]:
    kind = raw.dtype.newbyteorder("=").type
    with np.errstate(over="ignore"):
        return kind(low), kind(high)


def as_codes(values: NDArray[np.float32], name: str) -> NDArray[np.uint8]:
    """Return a mask, flag or code map as (cells,) uint8, 0 where there is no value.

    Raises
    ------
    FormatError
        If a value is no whole number from 0 to 255.
    """
    filled = np.nan_to_num(values, nan=0.0)
    wrong = (filled < 0) | (filled > 255) | (filled != np.floor(filled))
    if wrong.any():
        raise FormatError(
            f"map {name!r} holds codes from 0 to 255, but the file has the value {float(filled[wrong][0]):g}; "
            "choose another column or another name."
        )
    return filled.astype(np.uint8)


def statistics(values: NDArray[Any], infinite: int = 0) -> dict[str, float | int]:
    """Return count, missing, infinite, minimum, maximum and sum of a tile; they merge in `merged`.

    Parameters
    ----------
    values : ndarray
        (cells,) of any type.
    infinite : int
        How many of the missing values were infinite in the file.
    """
    if values.dtype.kind == "f":
        missing = np.isnan(values)
        count = int(values.size - np.count_nonzero(missing))
        found = values if count == values.size else values[~missing]
    else:
        count, found = values.size, values
    if not count:
        return {"count": 0, "missing": int(values.size), "infinite": infinite}
    return {
        "count": count,
        "missing": int(values.size) - count,
        "infinite": infinite,
        "minimum": float(found.min()),
        "maximum": float(found.max()),
        "sum": float(np.sum(found, dtype=np.float64)),
    }


def merged(parts: Iterable[Mapping[str, float | int]], cells: int) -> dict[str, float | int]:
    """Return the statistics of a map from those of its tiles, in their order.

    Parameters
    ----------
    parts : iterable of mapping
        What `statistics` returned for the tiles that were looked at.
    cells : int
        Pixels of the whole map; those of other tiles count as missing.

    Examples
    --------
    >>> merged([statistics(np.array([1.0, np.nan])), statistics(np.array([2.0, 6.0]))], cells=12)
    {'count': 3, 'missing': 9, 'infinite': 0, 'minimum': 1.0, 'maximum': 6.0, 'mean': 3.0}
    """
    count, infinite, total = 0, 0, 0.0
    low, high = math.inf, -math.inf
    for part in parts:
        infinite += int(part["infinite"])
        if part["count"]:
            count += int(part["count"])
            low, high = min(low, part["minimum"]), max(high, part["maximum"])
            total += part["sum"]
    result: dict[str, float | int] = {"count": count, "missing": cells - count, "infinite": infinite}
    if count:
        result |= {"minimum": low, "maximum": high, "mean": total / count}
    return result
