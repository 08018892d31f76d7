"""Regions by name: what users write for `region`, and which pixels that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError
from .selection import Where
from .used_pixels import UsedPixels, area_deg2, sky_fraction

type Regions = Where | Mapping[str, Where]

# Both grow from the poles; a pixel whose centre lies on the plane is in neither.
CAPS: dict[str, Where] = {"ngc": "ngc", "sgc": "sgc"}
WHOLE = "all"


def regions_of(region: Regions) -> dict[str, Where]:
    """Return regions by name; one without a name is called "all".

    Parameters
    ----------
    region : mapping, or what one region may be
        What a user gave; None is the whole sky.

    Raises
    ------
    InputError
        If the mapping is empty, or a name is.

    Examples
    --------
    >>> regions_of("b > 60")
    {'all': 'b > 60'}
    """
    if not isinstance(region, Mapping):
        return {WHOLE: region}
    if not region or not all(isinstance(name, str) and name for name in region):
        came = repr(dict(region)) if region else "(an empty mapping)"
        raise InputError(f'`region` {came} came; give regions by name, such as {{"ngc": "b > 30"}}.')
    return dict(region)


def areas_of(store: str, mask: str | None, region: Regions) -> dict[str, UsedPixels]:
    """Return the used pixels of every region, by name; see `regions_of` and `pixels_of`."""
    return pixels_of(store, mask, regions_of(region))


def pixels_of(store: str, mask: str | None, regions: Mapping[str, Where]) -> dict[str, UsedPixels]:
    """Return the pixels that a mask leaves in each region.

    Parameters
    ----------
    store : str
        Address of the store.
    mask : str, optional
        Name of a mask map.
    regions : mapping
        From `regions_of`.

    Raises
    ------
    MissingMapError, InputError
        See `UsedPixels.of`.
    """
    return {name: UsedPixels.of(store, mask, where) for name, where in regions.items()}


def area_of(counts: Sequence[int], npix: int) -> list[tuple[str, NDArray[np.float64] | NDArray[np.int64], str]]:
    """Return pixels, area and fraction of the sky of regions: (name, (region,) values, unit) of each.

    Examples
    --------
    >>> [(name, values.tolist()) for name, values, _ in area_of([12], 12)][::2]
    [('pixels', [12]), ('f_sky', [1.0])]
    """
    areas = [area_deg2(count, npix) for count in counts]
    return [
        ("pixels", np.array(counts, np.int64), "1"),
        ("area", np.array(areas), "deg^2"),
        ("f_sky", np.array([sky_fraction(area) for area in areas]), "1"),
    ]
