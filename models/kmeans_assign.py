"""Voxels given to their nearest centres, and what of it the next centres are made from.

In standardised, weighted attributes the squared distance of a voxel (pixel p, channel c) to centre k is, but for what
is common to all k, S[k, p] + V[k, c] + slope[k, c] * column[c, p]: one multiply-add a voxel and centre.

Most voxels need not even that.  In a block of neighbouring pixels the positions are all but the same, the velocity of
a channel is one number, and the densities lie between two known ones.  So for a (block, channel) a bound tells which
centres can be the nearest anywhere in it; where only one can, the whole of it is given away by its known sums
(the filtering idea of Pelleg & Moore 1999 and Kanungo et al. 2002, on blocks in place of a tree).
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from .kmeans_look import Candidates, Lines, Room, Sums, Whole, look
from .kmeans_statistics import Scaling, Statistics
from .kmeans_voxels import BLOCK, Floats, Voxels

# Blocks are bounded together, and rows of blocks looked at together, as many as stay in the cache.  Fewer would cost
# more in calls than in numbers.
_SLAB = 512
_PRODUCTS = 4096  # blocks times centres
# Where a bound is this close, relative to the distances themselves, rounding could have made it: look.
_MARGIN = 1e-11
# Of temporaries, where every centre is a candidate everywhere: measured.
_BYTES_A_CANDIDATE, _BYTES_A_ROW = 240, 120
# Calls as short as those below pass the lock of the interpreter to and fro, so that several threads are slower together
# than one alone (measured: 1.3 times with two, 1.7 times with four).  They take turns, and meanwhile others can read.
_TURN = threading.Lock()
_ROOM = Room()


def statistics(voxels: Voxels, scaling: Scaling, centres: Floats) -> Statistics:
    """Return what the next centres are made from, with every voxel given to the nearest of some centres.

    Parameters
    ----------
    voxels : Voxels
        What to give away.
    scaling : Scaling
        Makes the attributes comparable.
    centres : numpy.ndarray
        (cluster, attribute) float64, scaled.

    Examples
    --------
    >>> voxels = Voxels.of(np.eye(3), [-10.0, 10.0], np.ones((2, 3), np.float32))
    >>> scaling = Scaling.of(voxels.moments, np.ones(5))
    >>> centres = np.array([[0, 0, 0, -1.0, 0], [0, 0, 0, 1.0, 0]])
    >>> statistics(voxels, scaling, centres).counts.tolist()
    [[3, 0], [0, 3]]
    """
    with _TURN:
        sums = _given(voxels, Lines.of(voxels, scaling, centres))
    return Statistics(
        np.rint(sums.counts).astype(np.int64),
        sums.columns,
        sums.pixels[:, :3],
        scaling.scatter(voxels.moments),
        np.rint(sums.pixels[:, 3]).astype(np.int64),
    )


def bytes_of_statistics(clusters: int, channels: int, blocks: int) -> int:
    """Return the bytes that `statistics` takes beside its voxels, at most.

    Parameters
    ----------
    clusters, channels, blocks : int
        Of centres, and of the voxels.

    Examples
    --------
    >>> bytes_of_statistics(3, 41, 512) < 30_000_000
    True
    """
    size = min(blocks, _blocks_at_once(clusters))
    rows = size * channels
    return rows * (_BYTES_A_CANDIDATE * clusters + _BYTES_A_ROW) + 8 * BLOCK * clusters * size + Room.nbytes


def _blocks_at_once(clusters: int) -> int:
    return max(1, min(_SLAB, _PRODUCTS // clusters))


def _given(voxels: Voxels, lines: Lines) -> Sums:
    """Return the sums of all voxels, each given to the nearest centre."""
    clusters, channels = lines.offset.shape
    sums = Sums(clusters, channels)
    size = _blocks_at_once(clusters)
    for first in range(0, voxels.blocks, size):
        slab = slice(first, min(first + size, voxels.blocks))
        possible, nearest = _possible(voxels, lines, slab)
        candidates: Whole = possible.view(np.uint8).sum(axis=0, dtype=np.min_scalar_type(clusters))
        count = voxels.count[slab].reshape(-1)
        full = count == BLOCK
        _settle(voxels, nearest, np.flatnonzero(full & (candidates == 1)), slab, sums)
        for these in (full & (candidates > 1), ~full & (count > 0)):
            if these.any():
                look(voxels, lines, Candidates.of(possible, np.flatnonzero(these), slab), sums, _ROOM)
    return sums


def _possible(voxels: Voxels, lines: Lines, slab: slice) -> tuple[NDArray[np.bool_], Whole]:
    """Return which centres may be the nearest of some voxel of a row, and which is that of its middle.

    Returns
    -------
    possible : numpy.ndarray
        (cluster, row) bool.
    nearest : numpy.ndarray
        (row,) int64; it is always possible.
    """
    low, high = voxels.low[slab], voxels.high[slab]
    centre = np.einsum("ki,ib->kb", lines.position, voxels.centre[:, slab])
    shape = len(centre), low.size
    least, most = np.empty((len(centre), *low.shape)), np.empty((len(centre), *low.shape))
    for ends, out in ((low, least), (high, most)):
        np.multiply(lines.slope[:, None], ends, out=out)
        out += centre[:, :, None]
        out += lines.offset[:, None]
    # No term of a distance is larger than these, so neither is what rounding leaves of it.
    size = sum(float(np.abs(term).max()) for term in (centre, lines.offset))
    size += float(np.abs(lines.slope).max()) * max(-float(low.min()), float(high.max()), 0.0)
    # How much nearer than the centre that is nearest to the middle of the row a centre comes to some voxel of it.  In
    # the column, that is at one of its ends.
    nearest = _nearest(least.reshape(shape), most.reshape(shape))
    place = nearest * low.size + np.arange(low.size)
    for distance in (least, most):
        distance -= np.take(distance.reshape(-1), place, mode="clip").reshape(low.shape)
    np.minimum(least, most, out=least)
    apart = np.sqrt(((lines.position[:, None] - lines.position[None]) ** 2).sum(axis=2))
    np.take(apart, nearest, axis=1, out=most.reshape(shape), mode="clip")
    most *= voxels.radius[slab, None]
    least -= most
    return least.reshape(shape) <= _MARGIN * size, nearest


def _nearest(least: Floats, most: Floats) -> NDArray[np.intp]:
    """Return which centre is nearest to the middle of each row, (row,)."""
    found = np.zeros(least.shape[1], np.intp)
    best = least[0] + most[0]
    other, nearer = np.empty_like(best), np.empty(best.shape, np.bool_)
    for cluster in range(1, len(least)):
        np.add(least[cluster], most[cluster], out=other)
        np.less(other, best, out=nearer)
        np.putmask(found, nearer, cluster)
        np.minimum(best, other, out=best)
    return found


def _settle(voxels: Voxels, nearest: Whole, rows: Whole, slab: slice, sums: Sums) -> None:
    """Give rows away as a whole, by what is known of them."""
    clusters, channels = sums.counts.shape
    cluster = nearest[rows]
    block, channel = np.divmod(rows, channels)
    sums.add(cluster, channel, np.full(rows.size, float(BLOCK)), voxels.total[slab].reshape(-1)[rows])
    blocks = slab.stop - slab.start
    number = np.bincount(cluster * blocks + block, minlength=clusters * blocks).reshape(clusters, blocks)
    sums.pixels += np.einsum("kb,ib->ki", number.astype(np.float64), voxels.summed[:, slab])


def nearest(voxels: Voxels, scaling: Scaling, centres: Floats, slab: slice) -> tuple[NDArray[np.intp], Floats]:
    """Return nearest centre and squared distance of the voxels of some blocks, by looking at every one.

    Parameters
    ----------
    voxels : Voxels
        What to look at.
    scaling : Scaling
        Makes the attributes comparable.
    centres : numpy.ndarray
        (cluster, attribute) float64, scaled.
    slab : slice
        Of blocks.

    Returns
    -------
    label : numpy.ndarray
        (block, channel, cell) int64; the first of equals.
    distance : numpy.ndarray
        (block, channel, cell) float64; NaN where there is no value.
    """
    scaled = scaling.factor
    cells = slice(slab.start * BLOCK, slab.stop * BLOCK)
    position = (voxels.pixels[:3, cells] - scaling.mean[:3, None]) * scaled[:3, None]
    speed = (voxels.channels.velocity - scaling.mean[3]) * scaled[3]
    density = voxels.column[slab] / voxels.channels.width[:, None]
    density -= scaling.mean[4]
    density *= scaled[4]
    label = np.zeros(density.shape, np.intp)
    best = np.full(density.shape, np.nan)
    for cluster, centre in enumerate(centres):
        there = ((position - centre[:3, None]) ** 2).sum(axis=0).reshape(-1, 1, BLOCK)
        distance = (density - centre[4]) ** 2
        distance += there
        distance += ((speed - centre[3]) ** 2)[:, None]
        if cluster:
            np.putmask(label, distance < best, cluster)
            np.minimum(best, distance, out=best)
        else:
            best = distance
    return label, best
