"""Sums of products of columns over blocks of cells, as the caches and the BLAS of a machine like them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError

type Floats = NDArray[np.float64]

BLOCK = 2**14  # cells: a block of 20 columns in float64 stays in the cache of a core
# BLAS turns to threads of its own above some size of a product (2^18 multiplications in OpenBLAS), which fight with the
# threads that tasks run in: measured 30 times slower.  Products of this size stay in the thread that asks for them.
_LARGEST_PRODUCT = 2**17
_PART_BYTES = 4_000_000  # of the moments of the parts of one block


class Blocks:
    """Moments of blocks of cells: the buffers are made once and used for every block.

    Parameters
    ----------
    templates, bands : int
        How many templates and how many maps of data there are.
    groups : int
        1 where all bands have the same weights, or none; else `bands`.
    length : int
        Cells of a part; moments are summed within parts of consecutive cells.
    most : int
        Cells of a block at most.

    Examples
    --------
    >>> blocks = Blocks(1, 1, 1, 4)
    >>> moments, counts, wrong = blocks([np.arange(8.0)], [np.ones(8)], (), None, np.zeros(2))
    >>> moments.shape, counts.tolist(), moments[:, 0, 0, 0].tolist()
    ((2, 1, 3, 3), [4, 4], [14.0, 126.0])
    """

    def __init__(self, templates: int, bands: int, groups: int, length: int = BLOCK, most: int = BLOCK) -> None:
        self.templates, self.bands, self.groups = templates, bands, groups
        self.width = templates + 1 + bands
        self.size = templates + 1 + (bands if groups == 1 else 1)
        largest = max(1, _LARGEST_PRODUCT // (self.size * (self.size + 1)))
        self.slice = _power_of_two_below(min(512, largest, length))
        if length % self.slice:
            raise InputError(f"`length` {length} came; parts have a power of two of cells.")
        most_parts = _power_of_two_below(max(1, _PART_BYTES // (8 * groups * self.size**2)))
        #: Cells of a block: one part or several, or a piece of a part.
        self.cells = max(self.slice, min(BLOCK, most, length * most_parts))
        self.length = min(length, self.cells)
        self._columns = np.empty((self.cells // self.slice, self.width, self.slice))
        weighted = groups > 1
        self._weighted = np.empty((self.cells // self.slice, self.size, self.slice)) if weighted else None

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, and of what a block needs beside them."""
        own = self._columns.nbytes + (0 if self._weighted is None else self._weighted.nbytes)
        products = 8 * self.groups * self.size**2 * (self.cells // self.slice)
        return own + 3 * products + 64 * self.cells

    def __call__(
        self,
        design: Sequence[NDArray[Any]],
        data: Sequence[NDArray[Any]],
        weights: Sequence[NDArray[Any]],
        used: NDArray[np.bool_] | None,
        reference: Floats,
    ) -> tuple[Floats, NDArray[np.int64], int]:
        """Return the moments of a block by part, the cells used by part, and how many cells have a wrong weight.

        Parameters
        ----------
        design, data : sequence of ndarray
            (cells,) each: templates, and bands; a cell that is not finite in all of them is not used.
        weights : sequence of ndarray
            (cells,) each: none, one for all bands, or one a band.
        used : ndarray or None
            (cells,) bool; None for all.
        reference : ndarray
            (template and band,) float64: what is subtracted from each.

        Returns
        -------
        moments : ndarray
            (part, group, column, column) float64; columns are templates, ones, bands (or the one band of the group).
        counts : ndarray
            (part,) int64
        wrong : int
            Cells that would be used, but one of whose weights is not positive and finite.
        """
        cells = design[0].size if design else data[0].size
        rows, parts = cells // self.slice, max(1, cells // self.length)
        maps = [*design, *data]
        columns = self._columns[:rows]
        self._fill(columns, maps, used, reference)
        with np.errstate(invalid="ignore", over="ignore"):
            moments = self._moments(columns, weights, used, parts)
        wrong = 0
        if not np.isfinite(moments).all():
            # Looked for only now: most blocks are finite throughout, and their products say so for nothing.
            finite = np.ones(cells, bool) if used is None else used.copy()
            for values in maps:
                finite &= np.isfinite(values)
            used = finite.copy()
            for values in weights:
                used &= (values > 0) & (values < np.inf)
            wrong = int(np.count_nonzero(finite) - np.count_nonzero(used))
            self._fill(columns, maps, used, reference)
            moments = self._moments(columns, weights, used, parts)
        counts = np.full(parts, cells // parts) if used is None else used.reshape(parts, -1).sum(1, dtype=np.int64)
        return moments, counts, wrong

    def _fill(
        self, columns: Floats, maps: Sequence[NDArray[Any]], used: NDArray[np.bool_] | None, reference: Floats
    ) -> None:
        shape = (columns.shape[0], self.slice)
        places = [*range(self.templates), *range(self.templates + 1, self.width)]
        for place, values, level in zip(places, maps, reference, strict=True):
            np.subtract(values.reshape(shape), level, out=columns[:, place], dtype=np.float64)
        columns[:, self.templates] = 1.0
        if used is not None:
            np.copyto(columns.transpose(1, 0, 2), 0.0, where=~used.reshape(shape))

    def _moments(
        self, columns: Floats, weights: Sequence[NDArray[Any]], used: NDArray[np.bool_] | None, parts: int
    ) -> Floats:
        shape = (columns.shape[0], self.slice)
        found = np.empty((parts, self.groups, self.size, self.size))
        roots = [_roots(values, used).reshape(shape) for values in weights]
        if self._weighted is None:
            if roots:
                columns *= roots[0][:, None]
            found[:, 0] = _products(columns, parts)
            return found
        weighted, first = self._weighted[: shape[0]], self.templates + 1
        for band, root in enumerate(roots):
            np.multiply(columns[:, :first], root[:, None], out=weighted[:, :first])
            np.multiply(columns[:, first + band], root, out=weighted[:, first])
            found[:, band] = _products(weighted, parts)
        return found


def _power_of_two_below(number: int) -> int:
    return 1 << (number.bit_length() - 1)


def _roots(weights: NDArray[Any], used: NDArray[np.bool_] | None) -> Floats:
    values = weights.astype(np.float64)
    if used is not None:
        values[~used] = 0.0
    np.sqrt(values, out=values)
    return values


def _products(columns: Floats, parts: int) -> Floats:
    """Return the products of all columns by part: (row, column, cell) -> (part, column, column)."""
    products = np.matmul(columns, columns.transpose(0, 2, 1))
    found: Floats = products.reshape(parts, -1, *products.shape[1:]).sum(axis=1)
    return found


def shifted(moments: Floats, old: Floats, new: Floats, templates: int) -> Floats:
    """Return moments (..., group, column, column) whose columns had `old` subtracted as if it had been `new`."""
    step = old - new
    bands = old.size - templates
    groups, size = moments.shape[-3], moments.shape[-1]
    if not step.any():
        return moments
    found = moments.copy()
    for group in range(groups):
        own = step[templates:] if size == templates + 1 + bands else step[templates + group : templates + group + 1]
        move = np.concatenate([step[:templates], [0.0], own])
        ones = moments[..., group, :, templates]
        crossed = ones[..., :, None] * move
        found[..., group, :, :] += crossed + np.swapaxes(crossed, -1, -2)
        found[..., group, :, :] += ones[..., templates, None, None] * np.outer(move, move)
    return found
