"""Square pieces of a HEALPix face with a rim of neighbours that may lie on other faces.

Pieces are addressed as (face, x, y) with x growing to the north-east and y to the north-west (Gorski et
al. 2005, section 4).  Coordinates just outside a face mean pixels of the faces around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..chunking.geometry import morton
from . import sky_random
from .sky_random import Words

RIM = 2  # parents beyond a piece whose children are made too: these are the next halo
HALO = 2 * RIM  # a slope needs two neighbours on each side

type Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """A square of pixels of one face: `side` x `side` pixels of an order, from (x, y) on.

    Parameters
    ----------
    order : int
        HEALPix order of the pixels.
    face : int
        Base pixel, 0 to 11.
    x, y : int
        The first pixel, a multiple of `side`.
    side : int
        Pixels along the side, a power of two.

    Examples
    --------
    >>> Piece.of(order=3, first=16, side=4)
    Piece(order=3, face=0, x=4, y=0, side=4)
    """

    order: int
    face: int
    x: int
    y: int
    side: int

    @classmethod
    def of(cls, order: int, first: int, side: int) -> Piece:
        """Return the piece whose NESTED pixels begin with `first`."""
        face, rest = divmod(first, 4**order)
        x = y = 0
        for bit in range(order):
            x |= ((rest >> (2 * bit)) & 1) << bit
            y |= ((rest >> (2 * bit + 1)) & 1) << bit
        return cls(order, face, x, y, side)

    def children(self) -> Piece:
        """Return the same area, one order finer."""
        return Piece(self.order + 1, self.face, 2 * self.x, 2 * self.y, 2 * self.side)

    def quarter(self, row: int, column: int) -> Piece:
        """Return one of the four quarters."""
        half = self.side // 2
        return Piece(self.order, self.face, self.x + column * half, self.y + row * half, half)

    @property
    def at_edge(self) -> bool:
        """Whether the rim reaches other faces."""
        last = 2**self.order - self.side
        return self.x == 0 or self.y == 0 or self.x == last or self.y == last


def fold(order: int, face: Integers | int, x: Integers, y: Integers) -> tuple[Integers, Integers, Integers]:
    """Return (face, x, y) of pixels whose coordinates may lie outside their face, each (...) int64.

    Parameters
    ----------
    order : int
        HEALPix order of the pixels.
    face, x, y : ndarray
        (...) int64, the face also an int; x and y between -nside and 2 nside - 1.  Where three faces meet, a pixel
        that is outside along both axes does not exist; some pixel nearby comes back.

    Examples
    --------
    >>> import numpy as np
    >>> [int(v[0]) for v in fold(2, *(np.array([v]) for v in (0, 4, 1)))]
    [1, 1, 3]
    """
    n = 2**order
    at, x, y = (np.array(v, dtype=np.int64) for v in np.broadcast_arrays(face, x, y))
    for _ in range(3):
        cap, k = at // 4, at % 4  # 0 north, 1 equator, 2 south
        east, west = (k + 1) % 4, (k + 3) % 4
        over_x, over_y, under_x, under_y = x >= n, y >= n, x < 0, y < 0
        over_y &= ~over_x
        under_x &= ~(over_x | over_y)
        under_y &= ~(over_x | over_y | under_x)
        if not (over_x.any() or over_y.any() or under_x.any() or under_y.any()):
            break
        # Over each of the four sides: the face that comes next and the coordinates there.  Faces of one cap
        # meet along sides of different kind, there the axes turn; everywhere else they go on straight.
        turned = (
            (over_x, (east, k, 4 + east), 0, (y, 2 * n - 1 - x), (x - n, y)),
            (over_y, (west, west, 4 + k), 0, (2 * n - 1 - y, x), (x, y - n)),
            (under_x, (4 + k, 8 + west, 8 + west), 2, (y, -1 - x), (x + n, y)),
            (under_y, (4 + east, 8 + k, 8 + east), 2, (-1 - y, x), (x, y + n)),
        )
        new_at, new_x, new_y = at.copy(), x.copy(), y.copy()
        for where, faces, turning_cap, bent, straight in turned:
            bends = cap == turning_cap
            new_at = np.where(where, np.choose(cap, faces), new_at)
            new_x = np.where(where, np.where(bends, bent[0], straight[0]), new_x)
            new_y = np.where(where, np.where(bends, bent[1], straight[1]), new_y)
        at, x, y = new_at, new_x, new_y
    return at, x, y


def nested(order: int, face: Integers, x: Integers, y: Integers) -> Integers:
    """Return the NESTED numbers of pixels, (...) int64.

    Examples
    --------
    >>> import numpy as np
    >>> nested(2, np.array([1]), np.array([3]), np.array([1])).tolist()
    [23]
    """
    number = np.zeros(np.broadcast(face, x, y).shape, dtype=np.int64)
    for bit in range(order):
        number |= ((x >> bit) & 1) << (2 * bit)
        number |= ((y >> bit) & 1) << (2 * bit + 1)
    return np.asarray(number + np.asarray(face) * 4**order)


def framed_pixels(piece: Piece) -> Integers:
    """Return the NESTED numbers of a piece with its halo, (side + 8, side + 8) int64, rows along y.

    Examples
    --------
    >>> framed_pixels(Piece(2, 0, 0, 0, 2)).shape
    (10, 10)
    """
    steps = np.arange(-HALO, piece.side + HALO, dtype=np.int64)
    face, x, y = fold(piece.order, piece.face, piece.x + steps[np.newaxis, :], piece.y + steps[:, np.newaxis])
    return nested(piece.order, face, x, y)


def child_words(piece: Piece, rim: int, seed: int, field: str) -> Words:
    """Return one unmixed word for each child of a piece and its rim, (4, side + 2 rim, side + 2 rim) uint32.

    The word belongs to the child: pieces that overlap agree on it, across the sides of base pixels too.

    Parameters
    ----------
    piece : Piece
        The parents.
    rim : int
        Parents beyond each side.
    seed, field
        As in `sky_random.keys`.

    Returns
    -------
    ndarray
        The first axis counts the children of a parent in NESTED order.

    Examples
    --------
    >>> child_words(Piece(2, 0, 0, 0, 2), 2, 5, "dust").shape
    (4, 6, 6)
    """
    order, size = piece.order + 1, piece.side + 2 * rim
    key = sky_random.keys(seed, field, order)
    steps = np.arange(-2 * rim, 2 * (size - rim), dtype=np.int64)
    x, y = 2 * piece.x + steps, 2 * piece.y + steps
    along_x = sky_random.axis_words(x, key[piece.face, 0]).reshape(size, 2).T
    along_y = sky_random.axis_words(y, key[piece.face, 1]).reshape(size, 2).T
    out = np.empty((2, 2, size, size), dtype=np.uint32)
    np.add(along_x[np.newaxis, :, np.newaxis, :], along_y[:, np.newaxis, :, np.newaxis], out=out)
    if rim and piece.at_edge:
        for end in (*range(rim), *range(size - rim, size)):
            pair = slice(2 * end, 2 * end + 2)
            out[:, :, end, :] = _folded_words(order, piece.face, x, y[pair], key).reshape(2, size, 2).swapaxes(1, 2)
            out[:, :, :, end] = _folded_words(order, piece.face, x[pair], y, key).reshape(size, 2, 2).transpose(1, 2, 0)
    return out.reshape(4, size, size)


def _folded_words(order: int, face: int, x: Integers, y: Integers, key: Words) -> Words:
    there, fx, fy = fold(order, face, x[np.newaxis, :], y[:, np.newaxis])
    return sky_random.axis_words(fx, key[there, 0]) + sky_random.axis_words(fy, key[there, 1])


def missing_corners(piece: Piece) -> list[tuple[int, int]]:
    """Return at which corners of the piece only three faces meet, as (row, column), 0 for the first, 1 for the last.

    Examples
    --------
    >>> missing_corners(Piece(3, 0, 4, 0, 4)), missing_corners(Piece(3, 0, 0, 0, 4))
    ([(0, 1)], [])
    """
    last = 2**piece.order - piece.side
    corners = ((0, 1), (1, 0)) if piece.face // 4 != 1 else ((0, 0), (1, 1))
    return [(row, column) for row, column in corners if piece.x == column * last and piece.y == row * last]


def unravel(side: int) -> Integers:
    """Return where the pixels of a square block, taken in NESTED order, lie in its rows, (side * side,) int64.

    Examples
    --------
    >>> unravel(2).tolist()
    [0, 1, 2, 3]
    """
    order = np.empty(side * side, dtype=np.int64)
    order[morton(side).ravel()] = np.arange(side * side)
    return order
