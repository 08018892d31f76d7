"""Voxels of a position-position-velocity cube, laid out so that whole blocks of them can be given to a cluster at once.

A voxel is a pixel in a velocity channel.  Its attributes are x, y, z (unit vector of the pixel), v (velocity of the
channel) and n (column density per km/s).  Four of the five depend on the pixel or on the channel alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..chunking.errors import InputError

ATTRIBUTES = ("x", "y", "z", "v", "n")

# Cells of a block.  Measured: smaller ones cost more to look at, in larger ones more clusters meet.
BLOCK = 128

_SLAB = 16  # blocks whose values are summed together; in float64 they fit the cache

type Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Number, mean and summed squared deviations of the attributes of some voxels; two of them can be merged.

    Parameters
    ----------
    count : int
        Voxels.
    mean : numpy.ndarray
        (attribute,) float64.
    squares : numpy.ndarray
        (attribute,) float64 sum of squared deviations from the mean.

    Examples
    --------
    >>> one = Moments(2, np.array([1.0]), np.array([2.0]))
    >>> both = one.merge(Moments(1, np.array([4.0]), np.array([0.0])))
    >>> both.count, both.mean.tolist(), both.squares.tolist()
    (3, [2.0], [8.0])
    """

    count: int
    mean: Floats
    squares: Floats

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both together (Chan, Golub & LeVeque 1983: no cancellation)."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        apart = other.mean - self.mean
        share = other.count / count
        return Moments(
            count,
            self.mean + apart * share,
            self.squares + other.squares + apart**2 * (self.count * share),
        )

    @classmethod
    def none(cls) -> Moments:
        """Return the moments of no voxels."""
        return cls(0, np.zeros(len(ATTRIBUTES)), np.zeros(len(ATTRIBUTES)))

    @property
    def scale(self) -> Floats:
        """(attribute,) float64 population standard deviation, exactly 0 where an attribute is constant."""
        variance = self.squares / max(1, self.count)
        # What rounding alone makes of equal numbers is no variance.
        rounding = np.finfo(np.float64).eps
        constant = variance <= self.count * rounding * variance + (self.count * rounding * self.mean) ** 2
        return np.where(constant, 0.0, np.sqrt(variance))


@dataclass(frozen=True)
class VelocityAxis:
    """Velocity channels: what all voxels of one have in common.

    Parameters
    ----------
    velocity : numpy.ndarray
        (channel,) float64, km/s.
    width : numpy.ndarray
        (channel,) float64: the density n of a voxel is its column over this.
    """

    velocity: Floats
    width: Floats


@dataclass(frozen=True)
class Voxels:
    """The voxels of some pixels in all channels; made by `Voxels.of`.

    Pixels are padded to whole blocks of `BLOCK`; what pads them, and what has no value, is NaN and counts nowhere.

    Parameters
    ----------
    cells : int
        Pixels that came.
    places : numpy.ndarray
        (kept,) int64: which of them are kept.
    pixels : numpy.ndarray
        (4, block x cell) float64: unit vectors, and a whole number that stands for the pixel (see `Statistics.marks`).
    channels : VelocityAxis
        What pixels have in common.
    column : numpy.ndarray
        (block, channel, cell) float32; the density n is this over the width of the channel.
    count : numpy.ndarray
        (block, channel) int64 values that there are.
    low, high : numpy.ndarray
        (block, channel) float64 range of the column; 0 where there is no value.
    total : numpy.ndarray
        (block, channel) float64 sum of the column.
    centre : numpy.ndarray
        (3, block) float64 middle of the vectors of a block.
    radius : numpy.ndarray
        (block,) float64 largest distance from it.
    summed : numpy.ndarray
        (4, block) float64 sums of `pixels`.
    moments : Moments
        Of the attributes, in their own units.
    """

    cells: int
    places: NDArray[np.intp]
    pixels: Floats
    channels: VelocityAxis
    column: NDArray[np.float32]
    count: NDArray[np.int64]
    low: Floats
    high: Floats
    total: Floats
    centre: Floats
    radius: Floats
    summed: Floats
    moments: Moments

    @classmethod
    def of(
        cls,
        vectors: ArrayLike,
        velocity: ArrayLike,
        column: NDArray[Any],
        *,
        width: ArrayLike | None = None,
        used: NDArray[np.bool_] | None = None,
    ) -> Voxels:
        """Return the voxels of some pixels.

        Parameters
        ----------
        vectors : array_like
            (cells, 3) float64 unit vectors of the pixels.
        velocity : array_like
            (channel,) float64, km/s.
        column : numpy.ndarray
            (channel, cells) float32 column density of each channel, or brightness; a voxel without a finite value
            is passed over.
        width : array_like, optional
            (channel,) float64 widths of the channels, km/s, by which the column is divided; default 1: what came is
            the density already.
        used : numpy.ndarray, optional
            (cells,) bool pixels to take; default all.

        Raises
        ------
        InputError
            If the shapes do not fit, or velocities or widths are not finite, or a width is not positive.

        Examples
        --------
        >>> voxels = Voxels.of(np.eye(3), [-10.0, 0.0], np.ones((2, 3), np.float32))
        >>> voxels.moments.count
        6
        """
        directions = np.asarray(vectors, np.float64)
        speeds = np.asarray(velocity, np.float64)
        widths = np.ones(speeds.shape) if width is None else np.asarray(width, np.float64)
        _check(directions, speeds, widths, column, used)
        kept = _any_value(column)
        if used is not None:
            kept &= used
        places = np.flatnonzero(kept)
        blocks = -(-places.size // BLOCK)
        pixels = np.empty((4, blocks * BLOCK))
        pixels[:3, : places.size] = directions[places].T
        pixels[:3, places.size :] = pixels[:3, places.size - 1 : places.size]
        pixels[3] = _marks(pixels[:3])
        by_block = pixels[:3].reshape(3, blocks, BLOCK)
        centre = by_block.mean(axis=2)
        radius = np.sqrt(((by_block - centre[:, :, None]) ** 2).sum(axis=0).max(axis=1, initial=0.0))
        values = _columns(column, places, blocks)
        rows = _Rows.of(values, widths)
        return cls(
            column.shape[1],
            places,
            pixels,
            VelocityAxis(speeds, widths),
            values,
            rows.count,
            rows.low,
            rows.high,
            rows.total,
            centre,
            radius,
            pixels.reshape(4, blocks, BLOCK).sum(axis=2),
            _moments(pixels[:3], speeds, values, rows.count, rows.density),
        )

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return int(self.column.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        arrays = (self.places, self.pixels, self.column, self.count, self.low, self.high, self.total, self.summed)
        return sum(array.nbytes for array in arrays) + self.centre.nbytes + self.radius.nbytes


def bytes_of_voxels(cells: int, channels: int) -> int:
    """Return the bytes that `Voxels` of so many pixels take.

    Parameters
    ----------
    cells, channels : int
        Pixels and channels.

    Examples
    --------
    >>> voxels = Voxels.of(np.eye(3)[np.arange(256) % 3], np.arange(5.0), np.ones((5, 256), np.float32))
    >>> bytes_of_voxels(256, 5) == voxels.nbytes
    True
    """
    blocks = -(-cells // BLOCK)
    return 8 * cells + blocks * (BLOCK * (4 * channels + 32) + 32 * channels + 64)


def _check(
    vectors: Floats, velocity: Floats, width: Floats, column: NDArray[Any], used: NDArray[np.bool_] | None
) -> None:
    if velocity.ndim != 1 or width.shape != velocity.shape:
        raise InputError(f"`velocity` {velocity.shape} and `width` {width.shape} came; one number a channel expected.")
    if column.ndim != 2 or column.shape[0] != velocity.size:
        raise InputError(f"`column` {column.shape} came; (channel, cells) with {velocity.size} channels expected.")
    if vectors.shape != (column.shape[1], 3):
        raise InputError(f"`vectors` {vectors.shape} came; ({column.shape[1]}, 3) expected.")
    if used is not None and used.shape != (column.shape[1],):
        raise InputError(f"`used` {used.shape} came; ({column.shape[1]},) expected.")
    if not (np.isfinite(velocity).all() and np.isfinite(width).all() and (width > 0).all()):
        raise InputError("velocities must be finite and widths of channels positive; see to the channels of the cube.")


def _any_value(column: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which cells have a finite value in some channel, (cells,) bool."""
    kept = np.zeros(column.shape[1], np.bool_)
    for row in column:
        kept |= np.isfinite(row)
        if kept.all():
            break
    return kept


def _columns(column: NDArray[Any], places: NDArray[np.intp], blocks: int) -> NDArray[np.float32]:
    """Return the values of the kept cells, (block, channel, cell) float32, NaN where there is none."""
    values = np.empty((blocks, column.shape[0], BLOCK), np.float32)
    whole = places.size == column.shape[1]
    edge, over = divmod(places.size, BLOCK)
    for channel, row in enumerate(column):
        kept = row if whole else row[places]
        values[:edge, channel] = kept[: edge * BLOCK].reshape(edge, BLOCK)
        if over:
            values[edge, channel, :over] = kept[edge * BLOCK :]
            values[edge, channel, over:] = np.nan
    return values


@dataclass(frozen=True)
class _Rows:
    """Number, least, largest and sum of the values of each (block, channel), and the moments of the density."""

    count: NDArray[np.int64]
    low: Floats
    high: Floats
    total: Floats
    density: Moments

    @classmethod
    def of(cls, values: NDArray[np.float32], width: Floats) -> _Rows:
        shape = values.shape[:2]
        found = cls(np.full(shape, BLOCK), np.zeros(shape), np.zeros(shape), np.empty(shape), Moments.none())
        density = Moments(0, np.zeros(1), np.zeros(1))
        room = np.empty((_SLAB, *values.shape[1:]))
        for first in range(0, shape[0], _SLAB):
            density = density.merge(found._slab(values, slice(first, first + _SLAB), width, room))
        return cls(found.count, found.low, found.high, found.total, density)

    def _slab(self, values: NDArray[np.float32], slab: slice, width: Floats, room: Floats) -> Moments:
        part = values[slab]
        numbers = room[: len(part)]
        np.copyto(numbers, part)
        with np.errstate(invalid="ignore"):  # of infinities of both signs
            total = numbers.sum(axis=2)
        low: NDArray[Any] = part.min(axis=2)
        high: NDArray[Any] = part.max(axis=2)
        finite = None
        if not np.isfinite(total).all():
            finite = np.isfinite(part)
            part[~finite] = np.nan  # infinite values are none: what is looked at later are NaN
            numbers[~finite] = 0.0
            part = np.where(finite, part, np.float32(0))
            total = numbers.sum(axis=2)
            self.count[slab] = finite.sum(axis=2)
            some = self.count[slab] > 0
            low = np.where(some, part.min(axis=2, where=finite, initial=np.inf), 0)
            high = np.where(some, part.max(axis=2, where=finite, initial=-np.inf), 0)
        self.low[slab], self.high[slab], self.total[slab] = low, high, total
        count = self.count[slab]
        number = int(count.sum())
        if not number:
            return Moments(0, np.zeros(1), np.zeros(1))
        mean = float((total / width).sum()) / number
        numbers -= mean * width[:, None]
        if finite is not None:
            numbers[~finite] = 0.0
        squares = np.einsum("bcp,bcp->c", numbers, numbers) / width**2
        return Moments(number, np.array([mean]), np.array([squares.sum()]))


def _moments(
    vectors: Floats, velocity: Floats, values: NDArray[np.float32], count: NDArray[np.int64], density: Moments
) -> Moments:
    """Return the moments of the attributes, each about its own mean."""
    number = int(count.sum())
    if not number:
        return Moments.none()
    of_pixel = np.full((len(count), BLOCK), count.shape[1], np.float64)
    for block in np.flatnonzero((count < BLOCK).any(axis=1)):
        of_pixel[block] = np.isfinite(values[block]).sum(axis=0)
    flat = of_pixel.reshape(-1)
    mean, squares = np.empty(5), np.empty(5)
    mean[:3] = vectors @ flat / number
    squares[:3] = ((vectors - mean[:3, None]) ** 2) @ flat
    of_channel = count.sum(axis=0).astype(np.float64)
    mean[3] = of_channel @ velocity / number
    squares[3] = of_channel @ (velocity - mean[3]) ** 2
    mean[4], squares[4] = density.mean[0], density.squares[0]
    return Moments(number, mean, squares)


def _marks(vectors: Floats) -> Floats:
    """Return one well-mixed whole number below 2**20 a pixel (the finaliser of SplitMix64 over the bits of its vector).

    So small that float64 sums over 2**33 voxels are exact, in whatever order they are taken.
    """
    bits = np.ascontiguousarray(vectors).view(np.uint64)
    mixed = bits[0] + np.uint64(3) * bits[1] + np.uint64(7) * bits[2]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    marks: Floats = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(44)).astype(np.float64)
    return marks
