"""The integral over nodes that makes binned coupling matrices, and the memory it takes."""

from __future__ import annotations

import numpy as np

from .binning import Bins
from .legendre import ROWS, HalfNodes, SumsByParity, half_nodes, in_order, legendre_rows, product_over_nodes, project
from .moments import Floats

_WINDOW_ROWS = 256  # multipoles at a time where every bin meets every multipole: wide enough for a matrix product


def integrated(
    mask_cl: Floats, bins: Bins, lmax: int, transfer: Floats, window: bool, threads: int
) -> tuple[Floats, Floats | None]:
    """Return the binned matrix, and the matrix binned along its first axis only."""
    top = bins.stops[-1] - 1
    far = lmax if window else top
    mask = mask_cl[: top + far + 1]
    sky = (2.0 * np.arange(lmax + 1) + 1) * transfer
    steps = _steps(bins, sky, (2.0 * np.arange(mask.size) + 1) / (4 * np.pi) * mask)
    n = bins.n

    def one(nodes: HalfNodes) -> tuple[Floats, Floats | None]:
        sums = SumsByParity.zeros(2 * n + 1, nodes.theta.size)
        for first, values in legendre_rows(nodes.theta, max(top, mask.size - 1)):
            places, coefficients = steps[first // ROWS]
            sums.add(places, coefficients[:, : len(values)], first, values)
        north, south = sums.hemispheres()
        for table in (north, south):
            table[:n] *= nodes.weight / 2 * table[2 * n]
        matrix = product_over_nodes(north[:n], north[n : 2 * n])
        matrix += product_over_nodes(south[:n], south[n : 2 * n])
        if not window:
            return matrix, None
        coupled = np.empty((n, lmax + 1))
        project(north[:n], south[:n], nodes.theta, lmax, coupled, _WINDOW_ROWS)
        return matrix, coupled

    matrix, coupled = np.zeros((n, n)), np.zeros((n, lmax + 1)) if window else None
    for part, wide in in_order(one, half_nodes(top + far + mask.size - 1).cut(2 * n + 1), threads):
        matrix += part
        if coupled is not None and wide is not None:
            coupled += wide
    if coupled is not None:
        coupled *= sky
    return matrix, coupled


def _steps(bins: Bins, sky: Floats, correlation: Floats) -> list[tuple[list[slice], Floats]]:
    """Return, for each step of the recurrence, which sums it adds to and with which coefficients.

    The first `bins.n` sums are means over bins, as many more are sums over them with the coefficients `sky`, and the
    last is the sum with `correlation` over all multipoles.
    """
    weights = [bins.weights_of(k) for k in range(bins.n)]
    starts, stops = np.array(bins.starts), np.array(bins.stops)
    last = slice(2 * bins.n, 2 * bins.n + 1)
    steps = []
    for first in range(0, max(bins.stops[-1], correlation.size), ROWS):
        low = int(np.searchsorted(stops, first, "right"))
        high = max(low, int(np.searchsorted(starts, first + ROWS, "left")))
        table = np.zeros((2 * (high - low) + 1, ROWS))
        for k in range(low, high):
            a, b = max(first, bins.starts[k]), min(first + ROWS, bins.stops[k])
            table[k - low, a - first : b - first] = weights[k][a - bins.starts[k] : b - bins.starts[k]]
            table[high - 2 * low + k, a - first : b - first] = sky[a:b]
        some = correlation[first : first + ROWS]
        table[-1, : some.size] = some
        steps.append(([slice(low, high), slice(bins.n + low, bins.n + high), last], table))
    return steps


def coupling_memory(n_bins: int, lmax: int, *, lmax_mask: int | None = None, window: bool = False, threads: int) -> int:
    """Return the bytes that `binned_coupling` needs beside what the process holds already.

    Parameters
    ----------
    n_bins : int
    lmax : int
    lmax_mask : int, optional
        Where the mask's spectrum ends; twice `lmax` by default.
    window : bool
        Whether windows are wanted.
    threads : int

    Returns
    -------
    int

    Examples
    --------
    >>> coupling_memory(511, 32768, threads=1) < 300e6 < coupling_memory(511, 32768, window=True, threads=1)
    True
    """
    degree = 2 * lmax + min(2 * lmax, 2 * lmax if lmax_mask is None else lmax_mask)
    nodes = min(degree // 4 + 1, _block_size(degree, n_bins))
    tables = 8 * n_bins * nodes * (4 + 2 + (2 if window else 0))
    steps = 8 * nodes * (_WINDOW_ROWS + 8 if window else ROWS + 8)
    coefficients = 16 * ROWS * (lmax + 1) * (2 + n_bins // max(1, lmax // ROWS)) + 8 * 8 * degree
    result = 8 * n_bins * (n_bins + (lmax + 1 if window else 0))
    return threads * (tables + steps + 2 * result) + result + coefficients + 40 * degree


def _block_size(degree: int, n_bins: int) -> int:
    empty = np.zeros(degree // 4 + 1)
    return HalfNodes(empty, empty).cut(2 * n_bins + 1)[0].theta.size
