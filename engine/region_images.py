"""Gnomonic images of a region, read at full resolution and no more than the region."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.projections import gnomonic_lonlat
from ..chunking.tiling import Tiling
from .figures_region import View

LARGEST_IMAGE = 900  # pixels along a side: what a panel can show


def view_pixels(tiling: Tiling, view: View) -> NDArray[np.int64]:
    """Return the sky pixel under each image pixel, (row, column) int64; row 0 south, column 0 east.

    Parameters
    ----------
    tiling : Tiling
    view : View
        The image has two pixels a sky pixel along a side, and at most `LARGEST_IMAGE`.

    Examples
    --------
    >>> view_pixels(Tiling(64), View("centre", 0.0, 0.0, 4.0, "galactic")).shape
    (9, 9)
    """
    spacing = np.degrees(np.sqrt(tiling.pixel_area)) / 2
    size = int(np.clip(np.ceil(view.width / spacing), 3, LARGEST_IMAGE))
    longitudes, latitudes = gnomonic_lonlat(view.lon, view.lat, view.width, size)
    return tiling.from_lonlat(longitudes.ravel(), latitudes.ravel()).reshape(size, size)


def read_image(store: str, name: str, pixels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the values of a map at `pixels`, any shape, float32; only the chunks that hold them are read."""
    tiling = stores.tiling_of(store)
    flat = pixels.ravel()
    image = np.empty(flat.size, np.float32)
    chunks = tiling.chunk_of(flat)
    order = np.argsort(chunks, kind="stable")
    numbers, starts = np.unique(chunks[order], return_index=True)
    for number, places in zip(numbers, np.split(order, starts[1:]), strict=True):
        first = int(number) * tiling.chunk_npix
        values = stores.read_cells(store, name, first, first + tiling.chunk_npix)
        image[places] = values[flat[places] - first]
    return image.reshape(pixels.shape)
