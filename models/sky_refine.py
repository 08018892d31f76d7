"""From an order to the next: four children whose average is their parent, to rounding and no worse.

Three kinds of field are refined.  *Amounts* (columns of dust) stay positive: a linear reconstruction from the
neighbours, limited so that it cannot reach zero, times random factors, scaled to the parent's value.  *Smooth*
fields (the CMB) are only reconstructed.  *Noise* is white at each order: parent plus three Haar coefficients.

Every operation is one IEEE operation on float32, the same whatever the piece; the axes x and y enter
symmetrically, so that a pixel in the rim of a piece gets bit for bit the value it has on its own face.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from . import sky_random
from .sky_frame import HALO, Piece, child_words, missing_corners
from .sky_random import Singles

SPECTRAL_INDEX = -2.8  # of C_l of the logarithm of the column density (science: clouds, cirrus)
REFERENCE_ORDER = 9
# Scatter of the children's logarithm at REFERENCE_ORDER, such that the spectrum of the base fields goes on;
# it falls with l as the square root of the power in an octave, l^2 C_l.
DENSITY_SCATTER = 0.08
TEMPERATURE_SCATTER = 0.05  # what the classes one step warmer or colder gain or lose
INDEX_SCATTER = 0.025
COLD_WHERE_DENSE = 0.6  # correlation of a gain in density with a loss in temperature
LIMIT = 0.9  # of the parent's value that slopes may take away
# Half the difference between the two halves of a pixel is NEAR times the difference of its neighbours plus FAR times
# that of the next ones, exact for a linear sky (2 NEAR + 4 FAR = 1/4).  With FAR = 0 steps across the sides of parents
# are 1.7 times those inside and a grid shows; with -0.08 they are equal but the finest waves are amplified.
FAR = -0.04
NEAR = 0.125 - 2.0 * FAR
_DECAY = 2.0 ** ((SPECTRAL_INDEX + 2.0) / 2.0)
_UNIFORM = math.sqrt(3.0)  # half width of a uniform number with variance one


@dataclass(frozen=True)
class Growth:
    """How the factors of an amount follow the three random fields.

    Parameters
    ----------
    density : int
        Power of the density factor, 1 or 2.
    temperature, index : int
        -1, 0, 1: whether the amount gains where it gets colder or warmer, where beta gets smaller or larger.
    draw : str
        Whose random numbers; amounts of another draw have structure of their own.
    """

    density: int = 1
    temperature: int = 0
    index: int = 0
    draw: str = "factors"


class Factors:
    """The random factors of the children of a piece, shared by all of its fields of one draw.

    Parameters
    ----------
    piece : Piece
        The parents.
    rim : int
        Parents beyond each side.
    seed : int
        Of the sky.
    draw : str
        Whose random numbers.

    Examples
    --------
    >>> Factors(Piece(8, 0, 0, 0, 2), 2, seed=3).of(Growth()).shape
    (4, 6, 6)
    """

    def __init__(self, piece: Piece, rim: int, seed: int, draw: str = "factors") -> None:
        decay = _DECAY ** (piece.order + 1 - REFERENCE_ORDER)
        first = child_words(piece, rim, seed, draw)
        scratch = np.empty_like(first)
        sky_random.mix(first, scratch)
        second = sky_random.again(first, np.empty_like(first), scratch).view(np.int16).reshape(*first.shape, 2)
        density = first.view(np.int32).astype(np.float32)
        density *= np.float32(_UNIFORM / 2.0**31)
        colder = np.float32(COLD_WHERE_DENSE * TEMPERATURE_SCATTER * decay) * density
        density *= np.float32(DENSITY_SCATTER * decay)
        own = math.sqrt(1.0 - COLD_WHERE_DENSE**2) * TEMPERATURE_SCATTER
        temperature = second[..., 0].astype(np.float32)
        temperature *= np.float32(_UNIFORM / 2.0**15 * own * decay)
        temperature -= colder
        index = second[..., 1].astype(np.float32)
        index *= np.float32(_UNIFORM / 2.0**15 * INDEX_SCATTER * decay)
        self._density = _exponential(density)[1]
        self._temperature = _exponential(temperature)
        self._index = _exponential(index)
        self._room = np.empty_like(density)
        self._products: dict[tuple[int, int], Singles] = {}

    def of(self, growth: Growth) -> Singles:
        """Return the factors of one field, (4, rows, columns) float32; valid until the next call."""
        key = (growth.density, growth.temperature)
        if key not in self._products:
            product = self._density if growth.density == 1 else self._density * self._density
            if growth.temperature:
                product = product * self._temperature[growth.temperature]
            self._products[key] = product
        if not growth.index:
            return self._products[key]
        return np.multiply(self._products[key], self._index[growth.index], out=self._room)


def _exponential(x: Singles) -> dict[int, Singles]:
    """Return {1: exp(x), -1: exp(-x)} to second order: positive for every x, and exact arithmetic."""
    even = np.square(x)
    even *= np.float32(0.5)
    even += np.float32(1.0)
    return {1: even + x, -1: np.subtract(even, x, out=even)}


class Slopes:
    """Linear reconstruction inside the pixels of a piece and its rim.

    Parameters
    ----------
    piece : Piece
        The parents.
    rim : int
        0 or RIM parents beyond each side.

    Examples
    --------
    >>> flat = np.ones((10, 10), np.float32)
    >>> bool((Slopes(Piece(8, 0, 0, 0, 2), 2).children(flat, limited=True) == 1).all())
    True
    """

    def __init__(self, piece: Piece, rim: int) -> None:
        self.rim = rim
        self.size = piece.side + 2 * rim
        self.corners = missing_corners(piece) if rim else []
        shape = (self.size, self.size)
        self._x, self._y, self._room, self._next = (np.empty(shape, dtype=np.float32) for _ in range(4))
        self._children = np.empty((4, *shape), dtype=np.float32)

    def inner(self, values: Singles) -> Singles:
        """Return the view of the parents that get children."""
        cut = slice(HALO - self.rim, HALO - self.rim + self.size)
        return values[cut, cut]

    def children(self, values: Singles, limited: bool) -> Singles:
        """Return the children's reconstruction, (4, rows, columns) float32; valid until the next call.

        Parameters
        ----------
        values : ndarray
            (side + 8, side + 8) float32 parents with their halo.
        limited : bool
            Whether all of it has to stay positive.
        """
        first, last = HALO - self.rim, HALO - self.rim + self.size
        inner = values[first:last, first:last]
        x, y, room, out = self._x, self._y, self._room, self._children
        # Where three faces meet, each of the two outer ones takes the place of the missing one for the other.
        self._stand_in(values, along_y=False)
        self._slope(values[first:last], first, x)
        self._stand_in(values, along_y=True)
        self._slope(values[:, first:last].T, first, y.T)
        if limited:
            # |x| + |y| is the largest difference between a child and its parent.
            np.abs(x, out=room)
            room += np.abs(y, out=out[0])
            room += np.float32(1e-30)
            np.divide(inner, room, out=room)
            room *= np.float32(LIMIT)
            np.minimum(room, np.float32(1.0), out=room)
            x *= room
            y *= room
        along, across = np.add(x, y, out=room), np.subtract(x, y, out=x)
        np.subtract(inner, along, out=out[0])
        np.add(inner, across, out=out[1])
        np.subtract(inner, across, out=out[2])
        np.add(inner, along, out=out[3])
        return out

    def _slope(self, values: Singles, first: int, out: Singles) -> None:
        """Write the slope along the last axis, for the pixels from `first` on."""
        last = first + self.size
        np.subtract(values[:, first + 1 : last + 1], values[:, first - 1 : last - 1], out=out)
        out *= np.float32(NEAR)
        next_ones = self._next if out.flags.c_contiguous else self._next.T
        np.subtract(values[:, first + 2 : last + 2], values[:, first - 2 : last - 2], out=next_ones)
        next_ones *= np.float32(FAR)
        out += next_ones

    def _stand_in(self, values: Singles, along_y: bool) -> None:
        """Fill the missing corner as the face beside it sees it (along x), or the face above or below it (along y).

        Seen from one of two faces that meet at the corner, the other one lies there, turned by a right angle.
        """
        for row, column in self.corners:
            out_y = slice(-HALO, None) if row else slice(HALO - 1, None, -1)
            out_x = slice(-HALO, None) if column else slice(HALO - 1, None, -1)
            in_y = slice(-HALO - 1, -2 * HALO - 1, -1) if row else slice(HALO, 2 * HALO)
            in_x = slice(-HALO - 1, -2 * HALO - 1, -1) if column else slice(HALO, 2 * HALO)
            values[out_y, out_x] = (values[out_y, in_x] if along_y else values[in_y, out_x]).T


def amount_children(values: Singles, slopes: Slopes, factors: Singles) -> Singles:
    """Return positive children with the parents' average, (4, rows, columns) float32; valid until the next call.

    Parameters
    ----------
    values : ndarray
        (side + 8, side + 8) float32, not negative.
    slopes : Slopes
        Of the piece.
    factors : ndarray
        (4, rows, columns) float32, positive.
    """
    out = slopes.children(values, limited=True)
    out *= factors
    # Opposite children first: a turn of the axes then changes nothing, not even the rounding.
    scale = np.add(out[0], out[3], out=slopes._x)
    scale += np.add(out[1], out[2], out=slopes._y)
    scale += np.float32(1e-30)
    np.divide(slopes.inner(values), scale, out=scale)
    scale *= np.float32(4.0)
    out *= scale
    return out


def noise_children(
    values: Singles, piece: Piece, sigma: Singles | np.float32, seed: int, field: str, out: Singles | None = None
) -> Singles:
    """Return white noise one order finer, (4, side, side) float32.

    If the parents are white with standard deviation `sigma`, the children are with twice that.

    Parameters
    ----------
    values : ndarray
        (side, side) float32 parents.
    piece : Piece
        The parents.
    sigma : float32 or ndarray
        (side, side) standard deviation of the parents.
    seed : int
        Of the sky.
    field : str
        Name of the noise field.
    out : ndarray, optional
        (4, side, side) float32 room for the result.
    """
    key = sky_random.keys(seed, field, piece.order)[piece.face]
    steps = np.arange(piece.side, dtype=np.int64)
    word = (
        sky_random.axis_words(piece.x + steps, key[0])[np.newaxis, :]
        + (sky_random.axis_words(piece.y + steps, key[1])[:, np.newaxis])
    )
    a, b, c = sky_random.normals(sky_random.mix(word, np.empty_like(word)), 3)
    return haar(values, a, b, c, sigma, out)


def haar(
    parents: Singles, a: Singles, b: Singles, c: Singles, sigma: Singles | np.float32, out: Singles | None = None
) -> Singles:
    """Return parents plus three Haar coefficients of the given size, (4, ...) float32.

    Examples
    --------
    >>> one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    >>> haar(zero, one, zero, zero, np.float32(2)).ravel().tolist()
    [2.0, 2.0, -2.0, -2.0]
    """
    if out is None:
        out = np.empty((4, *parents.shape), dtype=np.float32)
    for values in (a, b, c):
        values *= sigma
    plus, minus = parents + a, np.subtract(parents, a, out=a)
    both, between = b + c, np.subtract(b, c, out=b)
    np.add(plus, both, out=out[0])
    np.subtract(plus, both, out=out[1])
    np.add(minus, between, out=out[2])
    np.subtract(minus, between, out=out[3])
    return out


def interleave(children: Singles) -> Singles:
    """Return children in rows and columns, (2 rows, 2 columns) float32.

    Examples
    --------
    >>> interleave(np.arange(4, dtype=np.float32).reshape(4, 1, 1)).tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    _, rows, columns = children.shape
    out = np.empty((2 * rows, 2 * columns), dtype=np.float32)
    for child in range(4):
        out[child >> 1 :: 2, child & 1 :: 2] = children[child]
    return out


def refine(
    piece: Piece,
    fields: Sequence[Singles],
    growths: Sequence[Growth | None],
    rim: int,
    seed: int,
    take: Callable[[int, Singles], None],
) -> None:
    """Hand the children of each field, one after the other, to `take(number of the field, children)`.

    Parameters
    ----------
    piece : Piece
        The parents.
    fields : sequence of ndarray
        (side + 8, side + 8) float32 each.
    growths : sequence of Growth or None
        How each grows; None for a smooth field.
    rim : int
        0 for the children of the piece alone, RIM for those of the halo around them too.
    seed : int
        Of the sky.
    take : callable
        Gets (4, side + 2 rim, side + 2 rim) float32, valid during the call.
    """
    slopes = Slopes(piece, rim)
    factors: dict[str, Factors] = {}
    for number, (values, growth) in enumerate(zip(fields, growths, strict=True)):
        if growth is None:
            take(number, slopes.children(values, limited=False))
            continue
        if growth.draw not in factors:
            factors[growth.draw] = Factors(piece, rim, seed, growth.draw)
        take(number, amount_children(values, slopes, factors[growth.draw].of(growth)))
