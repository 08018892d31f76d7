"""Means and covariances of several quantities by block of the sky, merged tile by tile: what jackknives live on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError
from ..chunking.tiling import Tiling
from .moments import Floats, Integers, no_integers, tally


@dataclass(frozen=True, eq=False)
class BlockMoments:
    """Count, means and sums of products of deviations in each block; two of them merge.

    Parameters
    ----------
    keys : (block,) int64
        Numbers of the blocks, increasing.
    count : (block,) int64
        Pixels in each.
    mean : (block, quantity) float64
    products : (block, quantity, quantity) float64
        Sums of the products of deviations from the means of the block.

    Notes
    -----
    Merging follows Chan, Golub and LeVeque (1983): no difference of large sums.

    Examples
    --------
    >>> import numpy as np
    >>> blocks = BlockMoments.of(np.array([4, 4, 7]), np.array([[1.0, 3.0, 5.0], [0.0, 2.0, 4.0]]))
    >>> count, mean, covariance = blocks.total()
    >>> count, mean.tolist(), covariance.tolist()
    (3, [3.0, 2.0], [[4.0, 4.0], [4.0, 4.0]])
    """

    keys: Integers = field(default_factory=no_integers)
    count: Integers = field(default_factory=no_integers)
    mean: Floats = field(default_factory=lambda: np.empty((0, 0)))
    products: Floats = field(default_factory=lambda: np.empty((0, 0, 0)))

    @classmethod
    def of(cls, blocks: Integers, values: Floats) -> BlockMoments:
        """Return the moments of finite `values`, (quantity, pixel) float64, in each of `blocks`, (pixel,) int64."""
        if blocks.size == 0:
            return cls()
        keys, count = tally(blocks)
        place = np.searchsorted(keys, blocks)
        n, quantities = keys.size, values.shape[0]
        mean = np.stack([np.bincount(place, weights=row, minlength=n) / count for row in values], axis=1)
        deviations = [row - mean[place, q] for q, row in enumerate(values)]
        products = np.empty((n, quantities, quantities))
        for i in range(quantities):
            for j in range(i, quantities):
                products[:, i, j] = np.bincount(place, weights=deviations[i] * deviations[j], minlength=n)
                products[:, j, i] = products[:, i, j]
        return cls(keys, count, mean, products)

    def merge(self, other: BlockMoments) -> BlockMoments:
        """Return the moments of both sets of pixels."""
        if other.keys.size == 0:
            return self
        if self.keys.size == 0:
            return other
        keys = np.union1d(self.keys, other.keys)
        n, mean, products = self._spread(keys)
        m, other_mean, other_products = other._spread(keys)
        total = n + m
        both = (n > 0) & (m > 0)
        step = np.where(both[:, np.newaxis], other_mean - mean, 0.0)
        start = np.where((n > 0)[:, np.newaxis], mean, other_mean)
        outer = step[:, :, np.newaxis] * step[:, np.newaxis, :]
        return BlockMoments(
            keys,
            total,
            start + step * (m / total)[:, np.newaxis],
            products + other_products + outer * (n * m / total)[:, np.newaxis, np.newaxis],
        )

    def _spread(self, keys: Integers) -> tuple[Integers, Floats, Floats]:
        place = np.searchsorted(keys, self.keys)
        quantities = self.mean.shape[1]
        count = np.zeros(keys.size, np.int64)
        mean, products = np.zeros((keys.size, quantities)), np.zeros((keys.size, quantities, quantities))
        count[place], mean[place], products[place] = self.count, self.mean, self.products
        return count, mean, products

    def total(self) -> tuple[int, Floats, Floats]:
        """Return count, means (quantity,) and sample covariance (quantity, quantity) of all blocks together."""
        pixels, mean, products = self._pooled()
        with np.errstate(invalid="ignore", divide="ignore"):
            return pixels, mean, products / np.float64(pixels - 1)

    def _pooled(self) -> tuple[int, Floats, Floats]:
        pixels = int(self.count.sum())
        if pixels == 0:
            quantities = self.mean.shape[1]
            return 0, np.full(quantities, np.nan), np.full((quantities, quantities), np.nan)
        mean = (self.mean * self.count[:, np.newaxis]).sum(axis=0) / pixels
        away = self.mean - mean
        outer = away[:, :, np.newaxis] * away[:, np.newaxis, :] * self.count[:, np.newaxis, np.newaxis]
        return pixels, mean, self.products.sum(axis=0) + outer.sum(axis=0)

    def left_out(self) -> tuple[Floats, Floats]:
        """Return means (block, quantity) and covariances (block, quantity, quantity) of all blocks but one each."""
        pixels, mean, products = self._pooled()
        left = (pixels - self.count).astype(np.float64)[:, np.newaxis]
        away = self.mean - mean
        n = self.count[:, np.newaxis]
        with np.errstate(invalid="ignore", divide="ignore"):
            outer = away[:, :, np.newaxis] * away[:, np.newaxis, :] * (n * pixels / left)[:, :, np.newaxis]
            return mean - away * n / left, (products - self.products - outer) / (left - 1.0)[:, :, np.newaxis]


def merge_blocks(mine: Mapping[str, BlockMoments], theirs: Mapping[str, BlockMoments]) -> dict[str, BlockMoments]:
    """Return the moments of two sets of pixels, name by name."""
    merged = dict(mine)
    for name, blocks in theirs.items():
        merged[name] = merged[name].merge(blocks) if name in merged else blocks
    return merged


def block_shift(tiling: Tiling, nside: int | None) -> int:
    """Return by how many bits a NESTED pixel number is shifted to give that of its block.

    Parameters
    ----------
    tiling : Tiling
        Of the pixels.
    nside : int, optional
        Of the blocks; one finer than the pixels counts as that of the pixels. None puts all into one block.

    Raises
    ------
    InputError
        If it is no nside.

    Examples
    --------
    >>> block_shift(Tiling(64), 16), block_shift(Tiling(8), 16)
    (4, 0)
    """
    if nside is None:
        return 62
    if nside < 1 or nside & (nside - 1):
        raise InputError(f"`jackknife` {nside} came; give a power of two, the nside of the patches that are left out.")
    return 2 * max(0, tiling.order - (nside.bit_length() - 1))


def block_numbers(start: int, used: NDArray[np.bool_], shift: int) -> Integers:
    """Return the block of every used pixel, (pixel,) int64, of a tile that begins at pixel `start`."""
    blocks: Integers = (np.flatnonzero(used).astype(np.int64) + start) >> shift
    return blocks
