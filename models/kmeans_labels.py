"""What clusters of voxels look like: labels, maps of columns, and how well two clusterings agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kmeans_assign import nearest
from .kmeans_statistics import Scaling
from .kmeans_voxels import BLOCK, Floats, Voxels

_SLAB = 32  # blocks looked at voxel by voxel at a time


def labels(voxels: Voxels, scaling: Scaling, centres: Floats) -> NDArray[np.int16]:
    """Return the cluster of every voxel, (channel, cells) int16; -1 where a pixel is not used or has no value.

    Parameters
    ----------
    voxels : Voxels
        Made from (channel, cells).
    scaling : Scaling
        Makes the attributes comparable.
    centres : numpy.ndarray
        (cluster, attribute) float64, scaled.
    """
    found = np.full((voxels.channels.velocity.size, voxels.cells), -1, np.int16)
    for slab, places in _slabs(voxels):
        label, distance = nearest(voxels, scaling, centres, slab)
        flat = np.where(np.isnan(distance), -1, label).transpose(1, 0, 2).reshape(len(found), -1)
        found[:, places] = flat[:, : places.size]
    return found


def cluster_columns(
    voxels: Voxels, scaling: Scaling, centres: Floats, amount: NDArray[Any] | None = None
) -> NDArray[np.float32]:
    """Return the column of each cluster: summed over its channels, (cluster, cells) float32; NaN in unused pixels.

    Parameters
    ----------
    voxels : Voxels
        Made from (channel, cells).
    scaling : Scaling
        Makes the attributes comparable.
    centres : numpy.ndarray
        (cluster, attribute) float64, scaled.
    amount : numpy.ndarray, optional
        (channel,) what a stored value of a channel counts; default 1.
    """
    found = np.full((len(centres), voxels.cells), np.nan, np.float32)
    each = np.ones(voxels.channels.velocity.size) if amount is None else np.asarray(amount, np.float64)
    for slab, places in _slabs(voxels):
        label, _ = nearest(voxels, scaling, centres, slab)
        column = np.nan_to_num(voxels.column[slab]) * each[:, None]
        for cluster in range(len(centres)):
            summed = np.where(label == cluster, column, 0.0).sum(axis=1).reshape(-1)
            found[cluster, places] = summed[: places.size]
    return found


def _slabs(voxels: Voxels) -> list[tuple[slice, NDArray[np.intp]]]:
    """Return slices over all blocks, and the cells that they hold."""
    return [
        (slice(first, min(first + _SLAB, voxels.blocks)), voxels.places[first * BLOCK : (first + _SLAB) * BLOCK])
        for first in range(0, voxels.blocks, _SLAB)
    ]


def contingency(voxels: Voxels, scaling: Scaling, sets: Sequence[Floats]) -> dict[tuple[int, int], NDArray[np.int64]]:
    """Return the voxels in cluster i of one set of centres and j of another, for every pair of sets.

    Parameters
    ----------
    voxels : Voxels
        What is labelled.
    scaling : Scaling
        Makes the attributes comparable.
    sets : sequence of numpy.ndarray
        Each (cluster, attribute) float64, scaled.

    Returns
    -------
    dict of (int, int) to numpy.ndarray
        By the places of two sets, the first before the second, (cluster, cluster) int64.
    """
    pairs = [(one, other) for other in range(len(sets)) for one in range(other)]
    found = {(one, other): np.zeros((len(sets[one]), len(sets[other])), np.int64) for one, other in pairs}
    for slab, _ in _slabs(voxels):
        there = np.isfinite(voxels.column[slab])
        label = [nearest(voxels, scaling, centres, slab)[0][there] for centres in sets]
        for one, other in pairs:
            table = found[one, other]
            joint = label[one] * table.shape[1] + label[other]
            table += np.bincount(joint, minlength=table.size).reshape(table.shape)
    return found


def adjusted_rand_index(contingency: NDArray[Any]) -> float:
    """Return how well two clusterings agree beyond chance: 1 for the same, about 0 for chance (Hubert & Arabie 1985).

    Parameters
    ----------
    contingency : numpy.ndarray
        (cluster, cluster) int: voxels in cluster i of one and j of the other.

    Examples
    --------
    >>> adjusted_rand_index(np.array([[0, 50], [30, 0]]))
    1.0
    """
    table = [[int(number) for number in row] for row in np.asarray(contingency)]
    rows, columns = [sum(row) for row in table], [sum(column) for column in zip(*table, strict=True)]
    total = sum(rows)
    # Whole numbers of Python: squares of 1e10 voxels are beyond 64 bits.
    together = sum(number * number for row in table for number in row) - total
    apart_first = sum(number * number for number in columns) - total - together
    apart_second = sum(number * number for number in rows) - total - together
    apart = total * total - total - together - apart_first - apart_second
    if not apart_first and not apart_second:
        return 1.0
    upper = 2 * (together * apart - apart_first * apart_second)
    lower = (together + apart_second) * (apart_second + apart) + (together + apart_first) * (apart_first + apart)
    return float(upper / lower)
