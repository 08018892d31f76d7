"""Which pixels of a store a fit or a clustering uses: a mask map and conditions, decided tile by tile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.schema import MapInfo
from ..chunking.tiling import Tiling
from .masks import check_weight_map, stored_weights
from .selection import Selection, Where

FULL_SKY_DEG2 = 4.0 * np.pi * (180.0 / np.pi) ** 2  # 41 252.96


@dataclass(frozen=True)
class UsedPixels:
    """The pixels that a mask and a selection leave; made by `UsedPixels.of`.

    Parameters
    ----------
    store : str
        Address of the store.
    tiling : Tiling
        Its grid.
    frame : str
        Its frame.
    mask : MapInfo, optional
        The mask map; see `masks.weight_values` for what its numbers mean. A pixel is used where its weight is above 0.
    selection : Selection
        Conditions and region.
    """

    store: str
    tiling: Tiling
    frame: str
    mask: MapInfo | None
    selection: Selection

    @classmethod
    def of(cls, store: stores.StoreAddress, mask: str | None = None, where: Where = None) -> UsedPixels:
        """Return what a user said of the pixels to use.

        Parameters
        ----------
        store : str or path
            The sky store.
        mask : str, optional
            Name of a mask map; default all pixels.
        where : str, Region, or sequence of them, optional
            Conditions and regions; see `Selection.of`.

        Raises
        ------
        MissingMapError
            If the store does not hold the mask, or a map of the conditions.
        InputError
            If the map cannot be a mask, or the conditions cannot be read.
        """
        address = stores.address(store)
        selection = Selection.of(where)
        stores.require_maps(address, selection.maps)
        info = None if mask is None else stores.info(address, mask)
        if info is not None:
            check_weight_map(info)
        return cls(address, stores.tiling_of(address), stores.frame_of(address), info, selection)

    @property
    def maps(self) -> tuple[str, ...]:
        """Maps that must be read to decide."""
        own = () if self.mask is None else (self.mask.name,)
        return tuple(dict.fromkeys((*own, *self.selection.maps)))

    def tiles(self, tiles: tuple[int, ...]) -> tuple[int, ...]:
        """Return those of some tiles that may hold used pixels."""
        return self.selection.tiles(self.tiling, self.frame, tiles)

    def holds(self, start: int, values: Mapping[str, NDArray[Any]], size: int) -> NDArray[np.bool_]:
        """Return whether pixels are used, (cells,) bool.

        Parameters
        ----------
        start : int
            First pixel.
        values : mapping
            (cells,) of each map of `maps`, from that pixel on.
        size : int
            How many pixels.

        Raises
        ------
        InputError
            If the mask holds what is no weight.

        Examples
        --------
        >>> from skymill.engine.selection import Selection
        >>> used = UsedPixels("sky.zarr", Tiling(1), "galactic", None, Selection.of("b > 10"))
        >>> used.holds(0, {}, 12).tolist().count(True)
        4
        """
        if self.selection.needs_positions or self.selection.maps:
            pixels = np.arange(start, start + size, dtype=np.int64)
            used = self.selection.holds(self.tiling, self.frame, pixels, values)
        else:
            used = np.ones(size, bool)
        if self.mask is not None:
            used &= stored_weights(self.store, self.mask, start, values[self.mask.name]) > 0
        return used


def area_deg2(pixels: int, npix: int) -> float:
    """Return the area of some pixels of a sky that has `npix`, square degrees.

    Examples
    --------
    >>> round(area_deg2(1, 12), 2)
    3437.75
    """
    return pixels * FULL_SKY_DEG2 / npix


def sky_fraction(area_deg2: float) -> float:
    """Return the fraction of the sphere that an area in square degrees is.

    Examples
    --------
    >>> round(sky_fraction(5577), 4), round(sky_fraction(4555), 4)
    (0.1352, 0.1104)
    """
    return area_deg2 / FULL_SKY_DEG2
