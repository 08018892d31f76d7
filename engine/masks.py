"""Masks as weights: what the numbers of a mask map mean, in one place for every verb that takes a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError
from ..chunking.schema import MapInfo
from .ledger import read_held


def check_weight_map(info: MapInfo) -> None:
    """Raise InputError where a map cannot be a mask: the bits of flags say why, not how much; a cube is no map.

    Parameters
    ----------
    info : MapInfo
        The map.

    Raises
    ------
    InputError
        If the map holds bits, or is a cube.
    """
    if info.is_cube:
        raise InputError(f"{info.name!r} is a cube (channel, cells), which cannot be a mask; a map (cells,) is needed.")
    if info.flag_meanings:
        raise InputError(
            f"map {info.name!r} holds bits ({', '.join(info.flag_meanings)}); a mask is a float32 weight, a uint8 "
            "`mask_` map (1 = not to be used) or another uint8 map of 0 and 1 (1 = used). Give one of these."
        )


def weight_values(info: MapInfo, values: NDArray[Any]) -> NDArray[np.float32]:
    """Return the weights that the values of a mask map stand for, (cells,) float32, pure numbers.

    A uint8 map named `mask_*` says 1 where a pixel is not to be used, so its weight is 1 - mask; any other uint8 map
    says 1 where a pixel is used.  A float32 map is the weight itself: 0 not used, 1 fully used, any number above.

    Parameters
    ----------
    info : MapInfo
        The mask map.
    values : ndarray
        (cells,) its values, uint8 or float32.

    Raises
    ------
    InputError
        If a weight is negative, NaN or infinite, a uint8 value is neither 0 nor 1, or the map holds bits.

    Examples
    --------
    >>> mask = MapInfo("mask_dust", "mask", "1", dtype="uint8")
    >>> weight_values(mask, np.array([0, 1, 1], np.uint8)).tolist()
    [1.0, 0.0, 0.0]
    >>> footprint = MapInfo("footprint", "footprint", "1", dtype="uint8")
    >>> weight_values(footprint, np.array([0, 1, 1], np.uint8)).tolist()
    [0.0, 1.0, 1.0]
    """
    check_weight_map(info)
    if info.dtype == "uint8":
        wrong = values > 1
        if wrong.any():
            meaning = "1 = not to be used" if info.name.startswith("mask_") else "0 = not used, 1 = used"
            raise InputError(
                f"map {info.name!r} holds {int(values[wrong][0])} ({np.count_nonzero(wrong)} such pixels of the "
                f"{values.size} looked at); a uint8 mask holds 0 and 1 ({meaning}). Make a map of 0 and 1, or give "
                "weights as a float32 map."
            )
        weights = values.astype(np.float32)
        return np.float32(1) - weights if info.name.startswith("mask_") else weights
    # The comparison is false for NaN too; infinity would leave no finite sum.
    right = (values >= 0) & (values < np.inf)
    if not right.all():
        wrong = ~right
        number = float(values[wrong][0])
        raise InputError(
            f"map {info.name!r} holds {number:g} ({np.count_nonzero(wrong)} such pixels of the {values.size} looked "
            "at); a weight is a finite number from 0 (not used) upwards. Set pixels that are not to be used to 0."
        )
    return values.astype(np.float32, copy=False)


def stored_weights(store: str, info: MapInfo, start: int, values: NDArray[Any]) -> NDArray[np.float32]:
    """Return the weights of pixels read from a mask map, (cells,) float32.

    Where a tile of the map is not stored, its fill value says what that means; a float32 map whose fill value is NaN
    has weight 0 there.

    Parameters
    ----------
    store : str
        Address of the store.
    info : MapInfo
        The mask map.
    start : int
        First pixel.
    values : ndarray
        (cells,) what was read from there on.

    Raises
    ------
    InputError
        See `weight_values`.
    """
    if info.dtype == "float32" and values.size:
        length, stop = stores.tile_length(store, info.name), start + values.size
        for tile in range(start // length, -(-stop // length)):
            part = slice(max(0, tile * length - start), min(stop, (tile + 1) * length) - start)
            if np.isnan(values[part.start]) and not stores.is_stored(store, info.name, tile):
                values = values.copy()
                values[part] = 0
    return weight_values(info, values)


def read_weights(store: str, info: MapInfo, start: int, stop: int) -> NDArray[np.float32]:
    """Return the weights of the pixels [start, stop) of a mask map, (cells,) float32; see `stored_weights`.

    Parameters
    ----------
    store : str
        Address of the store.
    info : MapInfo
        The mask map.
    start, stop : int
        First pixel, and the one behind the last.

    Raises
    ------
    FormatError
        If what is stored is not what the ledger of the map says.
    InputError
        See `weight_values`.
    """
    return stored_weights(store, info, start, read_held(store, info.name, start, stop))


def weight_of_unobserved(info: MapInfo) -> float:
    """Return the weight of the pixels of a mask map that no tile holds: what its fill value says, 0 for NaN.

    Parameters
    ----------
    info : MapInfo
        The mask map.

    Raises
    ------
    InputError
        If the fill value is no weight.

    Examples
    --------
    >>> weight_of_unobserved(MapInfo("mask_dust", "mask", "1", dtype="uint8", fill_value=1))
    0.0
    """
    fill = np.array([info.fill_value], dtype=info.dtype)
    return 0.0 if info.dtype == "float32" and np.isnan(fill[0]) else float(weight_values(info, fill)[0])
