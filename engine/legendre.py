"""Legendre polynomials at Gauss-Legendre nodes: what products and sums over multipoles are made of.

Nodes are symmetric and P_l(-x) = (-1)^l P_l(x), so only the northern half is ever computed: sums over even and over
odd multipoles are kept apart, and both hemispheres follow from them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..chunking.errors import InputError
from .moments import Floats
from .worker import available_cores

ROWS = 32  # multipoles a step: with a block of nodes, 1 MB, which a core's cache holds
_NODES_A_BLOCK = (1024, 4096)  # fewer cost more in calls than in numbers
_BLOCKS = 8  # at least so many where nodes suffice: work for that many threads
_BYTES_A_SUM = 1 << 24
_SMALL_PRODUCT = 1 << 18  # multiplications; beyond this BLAS wakes threads of its own
_TILE = 64  # its cube is that number


@dataclass(frozen=True, eq=False)
class HalfNodes:
    """Gauss-Legendre nodes from the north pole to the equator.

    Parameters
    ----------
    theta : (node,) float64
        Colatitude in radian, increasing.
    weight : (node,) float64
        For the node and its mirror image each; half of it for a node on the equator, which is its own image.
    """

    theta: Floats
    weight: Floats

    def cut(self, n_sums: int) -> list[HalfNodes]:
        """Return blocks of nodes; where they are cut depends on nothing but their number and `n_sums`.

        Parameters
        ----------
        n_sums : int
            How many sums over multipoles are kept for each node: memory bounds the block.
        """
        least, most = _NODES_A_BLOCK
        size = min(most, max(least, self.theta.size // _BLOCKS), max(64, _BYTES_A_SUM // (8 * n_sums)))
        size = -(-self.theta.size // -(-self.theta.size // size))  # all blocks alike
        return [
            HalfNodes(self.theta[first : first + size], self.weight[first : first + size])
            for first in range(0, self.theta.size, size)
        ]


def half_nodes(degree: int) -> HalfNodes:
    """Return the nodes that integrate polynomials up to `degree` exactly over [-1, 1].

    Parameters
    ----------
    degree : int
        Of the integrand in cos(theta).

    Returns
    -------
    HalfNodes

    Examples
    --------
    >>> import numpy as np
    >>> nodes = half_nodes(4)
    >>> round(2 * float(nodes.weight @ np.cos(nodes.theta) ** 4), 12)
    0.4
    """
    import ducc0

    count = degree // 2 + 1
    theta: Floats = ducc0.misc.GL_thetas(count)[: (count + 1) // 2]
    weight: Floats = ducc0.misc.GL_weights(count, 1)[: theta.size] / (2 * np.pi)
    if count % 2:
        weight[-1] /= 2
    return HalfNodes(theta, weight)


def legendre_rows(theta: Floats, lmax: int, rows: int = ROWS) -> Iterator[tuple[int, Floats]]:
    """Yield P_l(cos theta) for some multipoles after others, from 0 to `lmax`.

    The recurrence goes by differences, l (P_l - P_{l-1}) = (l-1) (P_{l-1} - P_{l-2}) - (2l-1) (1 - cos theta) P_{l-1},
    with 1 - cos(theta) = 2 sin^2(theta / 2): near the pole cos(theta) itself, rounded, would lose 1e-7 at l = 32768.
    Measured against 80-bit numbers: below 2e-13 of the envelope at l = 32768 at any node.

    Parameters
    ----------
    theta : (node,) float64
        Colatitude in radian, at most pi / 2.
    lmax : int
        Last multipole.
    rows : int
        Multipoles at a time.

    Yields
    ------
    first : int
        Multipole of the first row.
    values : (ell, node) float64
        A buffer that the next step writes over.

    Examples
    --------
    >>> import numpy as np
    >>> [(first, values.round(4).tolist()) for first, values in legendre_rows(np.array([0.0, np.pi / 3]), 2, rows=2)]
    [(0, [[1.0, 1.0], [1.0, 0.5]]), (2, [[1.0, -0.125]])]
    """
    distance = 2 * np.sin(theta / 2) ** 2
    buffer = np.empty((rows, theta.size))
    slope, spare = np.zeros(theta.size), np.empty(theta.size)
    before = buffer[-1]
    for first in range(0, lmax + 1, rows):
        count = min(rows, lmax + 1 - first)
        for k in range(count):
            ell, row = first + k, buffer[k]
            if ell == 0:
                row[:] = 1.0
            else:
                np.multiply(before, distance, out=spare)
                spare *= 2 * ell - 1
                slope -= spare
                np.multiply(slope, 1 / ell, out=row)
                row += before
            before = row
        yield first, buffer[:count]


@dataclass(frozen=True, eq=False)
class SumsByParity:
    """Sums over multipoles of coefficients times P_l, even and odd multipoles apart.

    Parameters
    ----------
    even, odd : (sum, node) float64
    """

    even: Floats
    odd: Floats

    def add(self, places: Sequence[slice], coefficients: Floats, first: int, values: Floats) -> None:
        """Add the terms of the multipoles of `values` to some of the sums.

        Parameters
        ----------
        places : sequence of slice
            Which sums, in the order of the rows of `coefficients`.
        coefficients : (sum, ell) float64
        first : int
            Multipole of the first of `values`.
        values : (ell, node) float64
            As from `legendre_rows`; more multipoles than there are coefficients for do no harm.
        """
        count = coefficients.shape[1]
        for sums, lead in ((self.even, first % 2), (self.odd, 1 - first % 2)):
            terms = _small_product(coefficients[:, lead::2], values[lead:count:2])
            at = 0
            for place in places:
                sums[place] += terms[at : at + place.stop - place.start]
                at += place.stop - place.start

    def hemispheres(self) -> tuple[Floats, Floats]:
        """Return the sums at the nodes and at their mirror images; those by parity are lost."""
        np.add(self.even, self.odd, out=self.even)
        np.multiply(self.odd, -2, out=self.odd)
        np.add(self.even, self.odd, out=self.odd)
        return self.even, self.odd

    @classmethod
    def zeros(cls, n_sums: int, nodes: int) -> SumsByParity:
        """Return empty sums."""
        return cls(np.zeros((n_sums, nodes)), np.zeros((n_sums, nodes)))


def _small_product(left: Floats, right: Floats) -> Floats:
    """Return the matrix product of a few rows, in pieces too small for BLAS to wake its own threads for them.

    That would cost more than the product, and ours are at work already.
    """
    rows, terms = left.shape
    width = max(1, _SMALL_PRODUCT // max(1, rows * terms))
    if rows == 1:  # a product with a vector is split over threads much sooner than one with a matrix
        return _small_product(np.concatenate([left, left]), right)[:1]
    product = np.empty((rows, right.shape[1]))
    for first in range(0, right.shape[1], width):
        np.matmul(left, right[:, first : first + width], out=product[:, first : first + width])
    return product


def product_over_nodes(left: Floats, right: Floats) -> Floats:
    """Return the sums over nodes of products of rows, in tiles that BLAS does not split over threads.

    However many threads it has been given, every number is then summed in the same order; and ours are at work already.

    Parameters
    ----------
    left : (row, node) float64
    right : (column, node) float64

    Returns
    -------
    (row, column) float64

    Examples
    --------
    >>> import numpy as np
    >>> product_over_nodes(np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([[1., 3.],
           [2., 4.]])
    """
    product = np.zeros((len(left), len(right)))
    for row in range(0, len(left), _TILE):
        for column in range(0, len(right), _TILE):
            tile = product[row : row + _TILE, column : column + _TILE]
            for node in range(0, left.shape[1], _TILE):
                some = slice(node, node + _TILE)
                tile += left[row : row + _TILE, some] @ right[column : column + _TILE, some].T
    return product


def project(north: Floats, south: Floats, theta: Floats, lmax: int, out: Floats, rows: int) -> None:
    """Write the sums over nodes and their mirror images of values times P_l.

    Parameters
    ----------
    north, south : (row, node) float64
        Values, weights of the nodes included; `south` at the mirror images.
    theta : (node,) float64
    lmax : int
    out : (row, ell) float64
        Written, for ell from 0 to `lmax`.
    rows : int
        Multipoles at a time.
    """
    by_parity = (north + south, north - south)
    for first, values in legendre_rows(theta, lmax, rows):
        for lead in range(min(2, len(values))):
            some = slice(first + lead, first + len(values), 2)
            out[:, some] = by_parity[(first + lead) % 2] @ values[lead::2].T


def in_order[T, R](function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """Yield the results for all items in their order, computed by threads of which none runs far ahead.

    So sums over the results are the same to the last bit for any number of threads.

    Parameters
    ----------
    function : callable
    items : sequence
    threads : int
        At most so many results are held at once.
    """
    if threads == 1 or len(items) < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def threads_of(threads: int | None) -> int:
    """Return how many threads to use: all cores unless told."""
    if threads is None:
        return available_cores()
    if threads < 1:
        raise InputError(f"`threads` {threads} came; at least one is needed.")
    return threads
