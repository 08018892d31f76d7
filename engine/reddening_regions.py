"""The regions that have a fit of their own, by name: what users write, and which pixels that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError
from .selection import Where
from .used_pixels import FULL_SKY_DEG2, UsedPixels, sky_fraction

# Both grow from the poles; a pixel whose centre lies on the plane is in neither.
CAPS: dict[str, Where] = {"ngc": "ngc", "sgc": "sgc"}
WHOLE = "all"


def regions_of(region: Where | Mapping[str, Where]) -> dict[str, Where]:
    """Return regions by name.

    Parameters
    ----------
    region : mapping, or what one region may be
        None for the two galactic caps; one region without a name is called "all".

    Raises
    ------
    InputError
        If the mapping is empty, or a name is.

    Examples
    --------
    >>> regions_of(None)
    {'ngc': 'ngc', 'sgc': 'sgc'}
    >>> regions_of("b > 60")
    {'all': 'b > 60'}
    """
    if region is None:
        return dict(CAPS)
    if not isinstance(region, Mapping):
        return {WHOLE: region}
    if not region or not all(isinstance(name, str) and name for name in region):
        raise InputError(f'`region` {dict(region)!r} came; give regions by name, such as {{"ngc": "b > 30"}}.')
    return dict(region)


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
    pixels = np.asarray(counts, np.int64)
    area = pixels * (FULL_SKY_DEG2 / npix)
    return [("pixels", pixels, "1"), ("area", area, "deg^2"), ("f_sky", np.vectorize(sky_fraction)(area), "1")]
