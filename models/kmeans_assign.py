"""Voxels given to their nearest centres, and what of it the next centres are made from.

In standardised, weighted attributes the squared distance of a voxel (pixel p, channel c) to centre k is, but for what
is common to all k, S[k, p] + V[k, c] + slope[k, c] * column[c, p]: one multiply-add a voxel and centre.

Most voxels need not even that.  In a block of neighbouring pixels the positions are all but the same, the velocity of
a channel is one number, and the densities lie between two known ones.  So for a (block, channel) a bound tells which
centres can be the nearest anywhere in it; where only one can, the whole of it is given away by its known sums
(the filtering idea of Pelleg & Moore 1999 and Kanungo et al. 2002, on blocks in place of a tree).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kmeans_statistics import Scaling, Statistics
from .kmeans_voxels import BLOCK, Floats, Voxels

# Blocks whose pixels are looked at together, and rows of blocks that are: their temporaries stay in the cache.
_SLAB = 512
_ROWS = 256
# Where a bound is this close, relative to the distances themselves, rounding could have made it: look.
_MARGIN = 1e-11


@dataclass(frozen=True)
class _Lines:
    """Squared distances as lines in the column: S[k, p] + offset[k, c] + slope[k, c] * column."""

    position: Floats  # (cluster, 3): S = position @ vectors
    offset: Floats  # (cluster, channel)
    slope: Floats  # (cluster, channel)

    @classmethod
    def of(cls, voxels: Voxels, scaling: Scaling, centres: Floats) -> _Lines:
        position = -2.0 * centres[:, :3] * scaling.factor[:3]
        speed = (voxels.channels.velocity - scaling.mean[3]) * scaling.factor[3]
        offset = -2.0 * centres[:, 3:4] * speed + (centres**2).sum(axis=1)[:, None]
        offset -= (position @ scaling.mean[:3])[:, None]
        offset += (2.0 * centres[:, 4] * scaling.mean[4] * scaling.factor[4])[:, None]
        slope = -2.0 * centres[:, 4:5] * (scaling.factor[4] / voxels.channels.width)
        return cls(position, offset, slope)


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
    lines = _Lines.of(voxels, scaling, centres)
    sums = _Sums(len(centres), voxels.channels.velocity.size)
    possible = np.empty((len(centres), *voxels.count.shape), np.bool_)
    for first in range(0, voxels.blocks, _SLAB):
        slab = slice(first, first + _SLAB)
        possible[:, slab] = _possible(voxels, lines, slab)
        settled = (possible[:, slab].sum(axis=0) == 1) & (voxels.count[slab] == BLOCK)
        given = (possible[:, slab] & settled).astype(np.float64)
        sums.counts += BLOCK * given.sum(axis=1)
        sums.columns += np.einsum("kbc,bc->kc", given, voxels.total[slab])
        sums.pixels += np.einsum("kb,ib->ki", given.sum(axis=2), voxels.summed[:, slab])
        # What is settled is no candidate of anything any more.
        possible[:, slab] &= ~settled & (voxels.count[slab] > 0)
    _look(voxels, lines, possible.reshape(len(centres), voxels.count.size), sums)
    return Statistics(
        np.rint(sums.counts).astype(np.int64),
        sums.columns,
        sums.pixels[:, :3],
        scaling.scatter(voxels.moments),
        np.rint(sums.pixels[:, 3]).astype(np.int64),
    )


class _Sums:
    """Running sums; numbers of voxels are float64, exact far beyond what a tile holds."""

    def __init__(self, clusters: int, channels: int) -> None:
        self.counts = np.zeros((clusters, channels))
        self.columns = np.zeros((clusters, channels))
        self.pixels = np.zeros((clusters, 4))

    def add(
        self,
        cluster: np.intp,
        channel: NDArray[np.intp],
        numbers: Floats,
        amounts: Floats,
        by_pixel: Floats,
        pixels: Floats,
    ) -> None:
        """Add rows: their voxels and columns, (row,); their voxels by pixel, (block, cell), and what pixels count."""
        channels = self.counts.shape[1]
        self.counts[cluster] += np.bincount(channel, numbers, channels)
        self.columns[cluster] += np.bincount(channel, amounts, channels)
        self.pixels[cluster] += np.einsum("bp,ibp->i", by_pixel, pixels)


def _possible(voxels: Voxels, lines: _Lines, slab: slice) -> NDArray[np.bool_]:
    """Return which centres may be the nearest of some voxel of a row, (cluster, block, channel) bool."""
    low, high = voxels.low[slab], voxels.high[slab]
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    distance = np.einsum("ki,ib->kb", lines.position, voxels.centre[:, slab])[:, :, None] + lines.offset[:, None, :]
    size = np.abs(distance).max(initial=0.0)
    distance += lines.slope[:, None, :] * middle
    size = max(size, np.abs(distance).max(initial=0.0))
    nearest = distance.argmin(axis=0)
    distance -= distance.min(axis=0)
    # How much nearer a centre may come to some voxel of the row than to its middle, against the nearest one.
    apart = np.sqrt(((lines.position[:, None] - lines.position[None]) ** 2).sum(axis=2))
    steep = np.abs(lines.slope[:, None] - lines.slope[None])
    channel = np.arange(low.shape[1])
    for cluster, gap in enumerate(distance):
        gap -= apart[cluster][nearest] * voxels.radius[slab, None]
        gap -= steep[cluster][nearest, channel] * half
    possible: NDArray[np.bool_] = distance <= _MARGIN * size
    return possible


def _look(voxels: Voxels, lines: _Lines, possible: NDArray[np.bool_], sums: _Sums) -> None:
    """Look at every voxel of the rows that no bound has settled; rows between the same centres go together.

    Parameters
    ----------
    voxels, lines
        What is looked at, and how.
    possible : numpy.ndarray
        (cluster, row) bool candidates; none for rows that are settled.
    sums : _Sums
        Where they are added.
    """
    rows = np.flatnonzero(possible.any(axis=0))
    if not rows.size:
        return
    full = (voxels.count.reshape(-1)[rows] == BLOCK)[None]
    bits = np.packbits(np.concatenate([possible[:, rows], full]), axis=0)
    kinds = np.ascontiguousarray(bits.T).view(np.dtype((np.void, bits.shape[0]))).reshape(-1)
    _, first, kind = np.unique(kinds if bits.shape[0] > 1 else bits[0], return_index=True, return_inverse=True)
    ordered = rows[np.argsort(kind, kind="stable")]  # by blocks where the kind is the same
    begin: Any = 0
    room = _Room()
    for example, number in zip(rows[first], np.bincount(kind), strict=True):
        members = np.flatnonzero(possible[:, example])
        for start in range(begin, begin + number, _ROWS):
            _look_at(voxels, lines, members, ordered[start : min(start + _ROWS, begin + number)], sums, room)
        begin += number


class _Room:
    """Arrays for the temporaries of `_look_at`, which would otherwise be given back to the system and fetched again."""

    def __init__(self) -> None:
        shape = (_ROWS, BLOCK)
        self.stored = np.empty(shape, np.float32)
        self.column, self.apart, self.other, self.best = (np.empty(shape) for _ in range(4))
        self.mine, self.by_pixel, self.there = (np.empty(shape) for _ in range(3))
        self.pixels = np.empty((4, *shape))
        self.nearer = np.empty(shape, np.bool_)
        self.label = np.empty(shape, np.int16)


def _look_at(
    voxels: Voxels, lines: _Lines, members: NDArray[np.intp], rows: NDArray[np.intp], sums: _Sums, room: _Room
) -> None:
    """Look at the voxels of a few rows with the same candidates; all of the rows have gaps, or none has."""
    block, channel = np.divmod(rows, lines.offset.shape[1])
    begins = np.flatnonzero(np.diff(block, prepend=-1))
    each = np.diff(begins, append=rows.size)
    own = np.repeat(np.arange(begins.size), each)
    pixels = room.pixels[:, : begins.size]
    for of_all, of_these in zip(voxels.pixels.reshape(4, -1, BLOCK), pixels, strict=True):
        np.take(of_all, block[begins], axis=0, out=of_these, mode="clip")
    stored, column = room.stored[: rows.size], room.column[: rows.size]
    np.take(voxels.column.reshape(-1, BLOCK), rows, axis=0, out=stored, mode="clip")
    np.copyto(column, stored)
    count = voxels.count.reshape(-1)[rows].astype(np.float64)
    gaps = None
    if count[0] < BLOCK:
        gaps = np.isnan(stored)
        column[gaps] = 0.0
    label = _labels(column, lines, members, channel, pixels[:3], own, room)
    # The first member gets what the others leave.
    total = voxels.total.reshape(-1)[rows]
    there = room.there[: begins.size]
    there[:] = each[:, None]
    if gaps is not None:
        there -= np.add.reduceat(gaps.astype(np.float64), begins, axis=0)
    mine, by_pixel = room.mine[: rows.size], room.by_pixel[: begins.size]
    for place, member in enumerate(members[1:], start=1):
        if len(members) == 2:
            np.copyto(mine, label)
        else:
            np.equal(label, place, out=room.nearer[: rows.size])
            np.copyto(mine, room.nearer[: rows.size])
        if gaps is not None:
            mine[gaps] = 0.0
        number, amount = mine.sum(axis=1), np.einsum("rp,rp->r", mine, column)
        np.add.reduceat(mine, begins, axis=0, out=by_pixel)
        count -= number
        total -= amount
        there -= by_pixel
        sums.add(member, channel, number, amount, by_pixel, pixels)
    sums.add(members[0], channel, count, total, there, pixels)


def _labels(
    column: Floats,
    lines: _Lines,
    members: NDArray[np.intp],
    channel: NDArray[np.intp],
    vectors: Floats,
    own: NDArray[np.intp],
    room: _Room,
) -> NDArray[Any]:
    """Return which of the members is nearest, (row, cell): its place among them; the first of equals.

    Parameters
    ----------
    column : numpy.ndarray
        (row, cell) float64.
    lines : _Lines
        Distances.
    members, channel : numpy.ndarray
        Candidates; channel of each row.
    vectors : numpy.ndarray
        (3, block, cell) of the blocks that there are.
    own : numpy.ndarray
        (row,) which of them a row is of.
    room : _Room
        For temporaries, and for what is returned.
    """
    rows, first = len(column), members[0]
    apart, other, best = (array[:rows] for array in (room.apart, room.other, room.best))
    nearer = room.nearer[:rows]
    label = room.label[:rows]
    label[:] = 0
    for place, member in enumerate(members[1:], start=1):
        # Distances are taken from that of the first.
        position = lines.position[member] - lines.position[first]
        there, part = room.mine[: vectors.shape[1]], room.by_pixel[: vectors.shape[1]]
        np.multiply(vectors[0], position[0], out=there)
        for axis in (1, 2):
            there += np.multiply(vectors[axis], position[axis], out=part)
        offset = (lines.offset[member] - lines.offset[first])[channel][:, None]
        np.multiply(column, (lines.slope[member] - lines.slope[first])[channel][:, None], out=other)
        np.take(there, own, axis=0, out=apart, mode="clip")
        apart += other
        if len(members) == 2:
            np.less(apart, -offset, out=nearer)
            return nearer
        apart += offset
        if place == 1:
            np.less(apart, 0.0, out=nearer)
            np.minimum(apart, 0.0, out=best)
        else:
            np.less(apart, best, out=nearer)
            np.minimum(apart, best, out=best)
        np.putmask(label, nearer, place)
    return label


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
