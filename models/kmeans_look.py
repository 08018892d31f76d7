"""Voxels looked at one by one: those of rows that lie between several centres.

A row is a block of pixels in a channel.  Rows go together in slices that stay in the cache, whatever their candidates
are: few and long calls of NumPy.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .kmeans_statistics import Scaling
from .kmeans_voxels import BLOCK, Floats, Voxels

type Whole = NDArray[np.intp]

# Voxels of a pixel are counted in a byte, by so many rows at a time, and a slice is twice as many.
_COUNTED = 255
_ROWS = 2 * _COUNTED


@dataclass(frozen=True)
class Lines:
    """Squared distances as lines in the column: S[k, p] + offset[k, c] + slope[k, c] * column."""

    position: Floats  # (cluster, 3): S = position @ vectors
    offset: Floats  # (cluster, channel)
    slope: Floats  # (cluster, channel)

    @classmethod
    def of(cls, voxels: Voxels, scaling: Scaling, centres: Floats) -> Lines:
        """Return the lines of scaled centres."""
        position = -2.0 * centres[:, :3] * scaling.factor[:3]
        speed = (voxels.channels.velocity - scaling.mean[3]) * scaling.factor[3]
        offset = -2.0 * centres[:, 3:4] * speed + (centres**2).sum(axis=1)[:, None]
        offset -= (position @ scaling.mean[:3])[:, None]
        offset += (2.0 * centres[:, 4] * scaling.mean[4] * scaling.factor[4])[:, None]
        slope = -2.0 * centres[:, 4:5] * (scaling.factor[4] / voxels.channels.width)
        return cls(position, offset, slope)


class Sums:
    """Running sums; numbers of voxels are float64, exact far beyond what a tile holds."""

    def __init__(self, clusters: int, channels: int) -> None:
        self.counts = np.zeros((clusters, channels))
        self.columns = np.zeros((clusters, channels))
        self.pixels = np.zeros((clusters, 4))

    def add(self, cluster: NDArray[np.intp], channel: NDArray[np.intp], numbers: Floats, columns: Floats) -> None:
        """Add rows: their clusters and channels, how many voxels of each, and their columns, (row,)."""
        where = cluster * self.counts.shape[1] + channel
        for of_all, of_these in ((self.counts, numbers), (self.columns, columns)):
            of_all += np.bincount(where, of_these, of_all.size).reshape(of_all.shape)

    def add_pixels(self, cluster: NDArray[np.intp], pixels: Floats) -> None:
        """Add sums over `Voxels.pixels` of rows, (4, row), to their clusters."""
        for axis, each in enumerate(pixels):
            self.pixels[:, axis] += np.bincount(cluster, each, len(self.pixels))


@dataclass(frozen=True)
class Candidates:
    """Rows to be looked at, those with the most candidates first, and between which centres each lies.

    Entries are in the order of places: the first candidates of all rows, then the second ones of the rows that have
    one, and so on.

    Parameters
    ----------
    slab : slice
        Blocks of which they are.
    rows : numpy.ndarray
        (row,) int64 of the slab.
    having : tuple of int
        How many rows, from the first, have a candidate at each place.
    row, cluster : numpy.ndarray
        (entry,) int64; clusters rise from place to place.
    """

    slab: slice
    rows: Whole
    having: tuple[int, ...]
    row: Whole
    cluster: Whole

    @classmethod
    def of(cls, possible: NDArray[np.bool_], rows: Whole, slab: slice) -> Candidates:
        """Return the candidates of some rows of `possible`, (cluster, row) bool."""
        row, cluster = np.nonzero(possible[:, rows].T)
        count = np.bincount(row, minlength=rows.size)
        order = np.argsort(-count, kind="stable")
        begin = (np.cumsum(count) - count)[order]
        count = count[order]
        having = tuple(int(np.searchsorted(-count, -place)) for place in range(count[0]))
        at = [cluster[begin[:number] + place] for place, number in enumerate(having)]
        return cls(slab, rows[order], having, np.concatenate([np.arange(n) for n in having]), np.concatenate(at))


class Room:
    """Arrays for the temporaries of `look`, which would otherwise be given back to the system and fetched again."""

    nbytes = _ROWS * BLOCK * (4 + 5 * 8 + 1 + 2)

    def __init__(self) -> None:
        shape = (_ROWS, BLOCK)
        self.stored = np.empty(shape, np.float32)
        self.column, self.first, self.apart, self.other, self.best = (np.empty(shape) for _ in range(5))
        self.nearer = np.empty(shape, np.bool_)
        self.label = np.empty(shape, np.int16)


def look(voxels: Voxels, lines: Lines, candidates: Candidates, sums: Sums, room: Room) -> None:
    """Look at every voxel of some rows; all of the rows have gaps, or none has.

    Parameters
    ----------
    voxels, lines
        What is looked at, and how.
    candidates : Candidates
        Which rows.
    sums : Sums
        Where they are added.
    room : Room
        For temporaries.
    """
    _Look(voxels, lines, candidates, room).go(sums)


class _Look:
    """What is known of all rows before any of them is looked at, and what is found."""

    def __init__(self, voxels: Voxels, lines: Lines, candidates: Candidates, room: Room) -> None:
        slab, self.rows, row, cluster = candidates.slab, candidates.rows, candidates.row, candidates.cluster
        self.room, self.having = room, candidates.having
        cells = slice(slab.start * BLOCK, slab.stop * BLOCK)
        channels = lines.offset.shape[1]
        self.block, self.channel = np.divmod(self.rows, channels)
        self.columns = voxels.column[slab].reshape(-1, BLOCK)
        self.pixels = voxels.pixels[:, cells].reshape(4, -1, BLOCK)
        self.count = voxels.count[slab].reshape(-1)[self.rows]
        self.total = voxels.total[slab].reshape(-1)[self.rows]
        self.summed = voxels.summed[:, slab]
        # What pixels add to the distances: the same in all channels.
        position = np.einsum("ki,ip->kp", lines.position, voxels.pixels[:3, cells]).reshape(-1, BLOCK)
        self.position, self.where = position, cluster * self.pixels.shape[1] + self.block[row]
        # Distances are taken from that of the first candidate.
        self.cluster, self.first, self.row = cluster, cluster[row], row
        channel = self.channel[row]
        self.slope = lines.slope[cluster, channel] - lines.slope[self.first, channel]
        self.offset = lines.offset[cluster, channel] - lines.offset[self.first, channel]
        # Rows of one block between the same two count its pixels together.
        self.begins = np.ones(row.size, np.bool_)
        self.begins[1:] = (np.diff(self.block[row]) != 0) | (np.diff(cluster) != 0) | (np.diff(self.first) != 0)
        self.starts = np.cumsum((0, *self.having)).tolist()
        for start, stop in itertools.pairwise(self.starts):
            self.begins[start:stop:_COUNTED] = True
        self.number, self.amount = np.empty(row.size), np.empty(row.size)
        self.runs: list[tuple[Whole, Floats]] = []  # entries where they begin, and sums over them

    def go(self, sums: Sums) -> None:
        """Look, and add what is found."""
        rows = self.rows.size
        gaps = self.count[0] < BLOCK
        for begin in range(0, rows, _ROWS):
            self._look_at(begin, gaps)
        if not gaps:
            self.number[:rows], self.amount[:rows] = self.count, self.total
            self.runs.append((np.arange(rows), np.take(self.summed, self.block, axis=1)))
        begins = np.concatenate([where for where, _ in self.runs])
        pixels = np.concatenate([summed for _, summed in self.runs], axis=1)
        sums.add(self.cluster, self.channel[self.row], self.number, self.amount)
        sums.add_pixels(self.cluster[begins], pixels)
        # The first candidate has what the others leave.
        channel, others = self.channel[self.row[rows:]], begins >= rows
        sums.add(self.first[rows:], channel, -self.number[rows:], -self.amount[rows:])
        sums.add_pixels(self.first[begins[others]], -pixels[:, others])

    def _look_at(self, begin: int, gaps: bool) -> None:
        """Look at a slice of rows."""
        room = self.room
        rows = self.rows[begin : begin + _ROWS]
        stored, column = room.stored[: rows.size], room.column[: rows.size]
        np.take(self.columns, rows, axis=0, out=stored, mode="clip")
        np.copyto(column, stored)
        there = None
        if gaps:
            there = np.isfinite(stored)
            column[~there] = 0.0
            self._count(slice(begin, begin + rows.size), there, column)
        entries = [
            slice(start + begin, start + min(begin + _ROWS, number))
            for start, number in zip(self.starts, self.having, strict=False)
            if number > begin
        ]
        first = room.first[: rows.size]
        np.take(self.position, self.where[entries[0]], axis=0, out=first, mode="clip")
        if len(entries) == 2:
            apart = self._apart(entries[1], column)
            nearer = np.less(apart, -self.offset[entries[1], None], out=room.nearer[: len(apart)])
            self._count(entries[1], nearer, column, there)
            return
        label, best = room.label[: rows.size], room.best[: rows.size]
        label[:] = 0
        best[:] = 0.0
        for place, those in enumerate(entries[1:], start=1):
            apart = self._apart(those, column)
            apart += self.offset[those, None]
            size = len(apart)
            nearer = np.less(apart, best[:size], out=room.nearer[:size])
            np.minimum(apart, best[:size], out=best[:size])
            np.putmask(label[:size], nearer, place)
        for place, those in enumerate(entries[1:], start=1):
            size = those.stop - those.start
            self._count(those, np.equal(label[:size], place, out=room.nearer[:size]), column, there)

    def _apart(self, entries: slice, column: Floats) -> Floats:
        """Return how much farther than the first a candidate is, less the offset of the channel, (row, cell)."""
        size = entries.stop - entries.start
        apart, other = self.room.apart[:size], self.room.other[:size]
        np.take(self.position, self.where[entries], axis=0, out=apart, mode="clip")
        apart -= self.room.first[:size]
        np.multiply(column[:size], self.slope[entries, None], out=other)
        apart += other
        return apart

    def _count(
        self, entries: slice, mine: NDArray[np.bool_], column: Floats, there: NDArray[np.bool_] | None = None
    ) -> None:
        """Take down the voxels that candidates get, (row, cell)."""
        size = len(mine)
        if there is not None:
            mine &= there[:size]
        # True is a byte of 1, and none of the bytes of a word carries over: eight cells are added at once.
        words = mine.view(np.uint64)
        self.number[entries] = np.bitwise_count(words).sum(axis=1)
        share = self.room.other[:size]
        np.copyto(share, mine)
        np.vecdot(share, column[:size], out=self.amount[entries])
        begins = np.flatnonzero(self.begins[entries])
        by_pixel, pixels = self.room.apart[: begins.size], self.room.other[: begins.size]
        np.copyto(by_pixel, np.add.reduceat(words, begins, axis=0).view(np.uint8))
        summed = np.empty((4, begins.size))
        block = self.block[self.row[entries][begins]]
        for axis in range(4):
            np.take(self.pixels[axis], block, axis=0, out=pixels, mode="clip")
            np.vecdot(by_pixel, pixels, out=summed[axis])
        self.runs.append((entries.start + begins, summed))
