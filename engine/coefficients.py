"""Correlation coefficients of arrays, exact, and an even choice of pixels to compute them from."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float64]


def coefficients(values: Floats, threads: int = 1) -> tuple[Floats, Floats, Floats]:
    """Return Pearson, Spearman and Kendall (tau-b) coefficients of all pairs of rows, exact.

    Parameters
    ----------
    values : (map, pixel) float64
        Finite, at least three pixels, no constant row.
    threads : int
        Pairs of Kendall's coefficient that are worked on at once.

    Returns
    -------
    pearson, spearman, kendall : (map, map) float64

    Notes
    -----
    Spearman's coefficient is Pearson's of the ranks, ties given their average rank.  Kendall's tau-b counts
    discordant pairs in O(n log n) (Knight 1966, JASA 61, 436), as SciPy does; it is given integer ranks, which
    order the same and sort faster.

    Examples
    --------
    >>> import numpy as np
    >>> _, spearman, kendall = coefficients(np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 9.0]]))
    >>> round(float(spearman[0, 1]), 3), round(float(kendall[0, 1]), 3)
    (0.8, 0.667)
    """
    from scipy.stats import kendalltau, rankdata

    count = values.shape[0]
    pearson = _pearson(values)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        ranks = list(pool.map(lambda row: np.asarray(rankdata(row), np.float64), values))
        spearman = _pearson(np.stack(ranks))
        kendall = np.eye(count)
        pairs = list(itertools.combinations(range(count), 2))
        # Twice an average rank is a whole number, so the order of ranks is that of integers.
        whole = [np.rint(2 * rank).astype(np.int64) for rank in ranks]
        taus = pool.map(lambda pair: float(kendalltau(whole[pair[0]], whole[pair[1]]).statistic), pairs)
        for (i, j), tau in zip(pairs, taus, strict=True):
            kendall[i, j] = kendall[j, i] = tau
    return pearson, spearman, kendall


def _pearson(values: Floats) -> Floats:
    deviations = values - values.mean(axis=1, keepdims=True)
    deviations /= np.linalg.norm(deviations, axis=1, keepdims=True)
    products: Floats = np.clip(deviations @ deviations.T, -1.0, 1.0)
    np.fill_diagonal(products, 1.0)
    return products


def spread_evenly(before: int, total: int, wanted: int, here: int) -> NDArray[np.int64]:
    """Return which of the `here` pixels of a tile belong to `wanted` spread evenly over `total`.

    The i-th pixel taken is number floor(i total / wanted) of all, so the choice depends on nothing but the sky.

    Examples
    --------
    >>> spread_evenly(0, 10, 4, 6), spread_evenly(6, 10, 4, 4)
    (array([0, 2, 5]), array([1]))
    """
    if wanted >= total:
        return np.arange(here, dtype=np.int64)
    first = -(-before * wanted // total)
    last = -(-(before + here) * wanted // total)
    # Python integers: the product exceeds 64 bits for billions of pixels taken from billions.
    return np.array([i * total // wanted - before for i in range(first, last)], dtype=np.int64)
