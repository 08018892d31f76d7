"""Coarser and finer maps through the pixel hierarchy: parents from children, children from parents.

In NESTED order the 4**k children of a pixel are neighbours in memory, so both ways are plain reshapes.
Means and variances are exact for equal pixels, which HEALPix pixels are.  Smoothing is not done: a map
that has power beyond the coarse pixel is averaged, not band-limited.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError, nearest
from .tiling import Tiling

type Kind = Literal["mean", "sum", "variance", "bits", "code"]
type Policy = str | float

KINDS: Final = ("mean", "sum", "variance", "bits", "code")
POLICIES: Final = ("any", "all")

# Float64 copies of this many children stay in the second-level cache.
BLOCK: Final = 2**16


def children(nside: int, coarse_nside: int) -> int:
    """Return how many pixels of `nside` lie in one pixel of `coarse_nside`.

    Raises
    ------
    InputError
        If a number is not a power of two, or the coarse one is the larger.

    Examples
    --------
    >>> children(2048, 256)
    64
    """
    fine, coarse = Tiling(nside), Tiling(coarse_nside)
    if coarse.nside > fine.nside:
        raise InputError(
            f"nside {coarse.nside} came as the coarse one of nside {fine.nside}; exchange the two, or use `upgrade`."
        )
    return fine.npix // coarse.npix


def degrade(
    values: ArrayLike,
    npix_ratio: int,
    *,
    policy: Policy = "any",
    kind: Kind | None = None,
    valid: ArrayLike | None = None,
) -> NDArray[Any]:
    """Return every parent's value from those of its children, (..., parents).

    Parameters
    ----------
    values : array_like
        (..., cells) in NESTED order; the cells are whole parents, for example one tile or the full sky.
        NaN = no value.  Infinite values are values.
    npix_ratio : int
        Children of a parent, 4**k; see `children`.
    policy : {"any", "all"} or float
        How many children must be valid for a parent to be: at least one, all, or this fraction, 0 <
        fraction <= 1. For boolean masks: how many children must be True for a parent to be.
    kind : {"mean", "sum", "variance", "bits", "code"}, optional
        What the numbers are.  "mean" (default for floats): intensities, the parent is the mean of its
        valid children. "sum" (counts, fluxes): the sum over the valid children.  "variance": variances
        of independent pixels; the parent is the variance of the mean of its n valid children, sum /
        n**2.  "bits" (default for integers): flags, combined by OR, and the policy plays no part.
        "code" (class numbers): the most frequent code, the smaller of two equally frequent ones.
    valid : array_like of bool, optional
        (..., cells) which children count; for floats in addition to their not being NaN.  Give a map and its
        variance the same mask, and the one is the variance of the other.

    Returns
    -------
    ndarray
        (..., parents); floats keep their dtype (sums run in float64), bits and codes too; sums of
        integers are int64.

    Raises
    ------
    InputError
        If ratio, policy or kind are not as above, or the shape or type of the values does not fit them.

    Examples
    --------
    >>> sky = np.array([1.0, 3.0, np.nan, np.nan, 5.0, 5.0, 5.0, 5.0])
    >>> degrade(sky, 4).tolist(), degrade(sky, 4, policy=0.75).tolist()
    ([2.0, 5.0], [nan, 5.0])
    >>> degrade(np.array([1, 0, 4, 0], dtype="uint8"), 4).tolist()
    [5]
    """
    array = np.asarray(values)
    ratio = _ratio(npix_ratio)
    fraction = _fraction(policy, ratio)
    _check_cells(array, ratio)
    mask = None if valid is None else _mask(valid, array)
    if array.dtype == np.bool_:
        return _degrade_bool(array, ratio, fraction, kind, mask)
    if array.dtype.kind == "f":
        chosen = _kind(kind, "mean", ("mean", "sum", "variance"), array.dtype)
        return _degrade_floats(array, ratio, fraction, chosen, mask)
    if array.dtype.kind not in "iu":
        raise InputError(f"`values` of type {array.dtype} came; floats, integers or booleans can be degraded.")
    chosen = _kind(kind, "bits", ("bits", "code", "sum"), array.dtype)
    if chosen == "sum":
        counts = array if mask is None else np.where(mask, array, 0)
        return _family(counts, ratio).sum(axis=-1, dtype=np.int64)
    return _by_rows(_most_frequent if chosen == "code" else _combine, array, ratio, mask)


def upgrade(values: ArrayLike, npix_ratio: int, *, kind: Kind | None = None) -> NDArray[Any]:
    """Return every child's value from that of its parent, (..., cells); the inverse of `degrade` in its kind.

    Parameters
    ----------
    values : array_like
        (..., parents) in NESTED order.
    npix_ratio : int
        Children of a parent, 4**k.
    kind : {"mean", "sum", "variance", "bits", "code"}, optional
        What the numbers are, as in `degrade`.  "mean", "bits" and "code": children inherit the value.
        "sum": it is shared among them.  "variance": each child has the variance times the number of
        children, so that their mean has the parent's.

    Returns
    -------
    ndarray
        (..., cells) in the dtype of the values; shares of integers are float64.

    Raises
    ------
    InputError
        If ratio or kind are not as above.

    Examples
    --------
    >>> upgrade([8.0, 4.0], 4).tolist()
    [8.0, 8.0, 8.0, 8.0, 4.0, 4.0, 4.0, 4.0]
    >>> upgrade([8.0, 4.0], 4, kind="sum").tolist()
    [2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    """
    array = np.atleast_1d(np.asarray(values))
    ratio = _ratio(npix_ratio)
    known = {"f": ("mean", "sum", "variance"), "b": ("bits", "code")}.get(array.dtype.kind, ("bits", "code", "sum"))
    chosen = _kind(kind, known[0], known, array.dtype)
    if chosen == "sum":
        array = array / ratio
    elif chosen == "variance":
        array = array * array.dtype.type(ratio)
    return np.repeat(array, ratio, axis=-1)


def _degrade_floats(
    array: NDArray[Any], ratio: int, fraction: float, kind: str, mask: NDArray[np.bool_] | None
) -> NDArray[Any]:
    """Return means, sums or variances: block by block, the quick way where a block has no missing value."""
    flat = np.ascontiguousarray(array).reshape(-1)
    chosen = None if mask is None else np.ascontiguousarray(mask).reshape(-1)
    out = np.empty(flat.size // ratio, dtype=array.dtype)
    step = max(1, BLOCK // ratio)
    needed = _needed(fraction, ratio)
    scale = {"mean": 1.0 / ratio, "sum": 1.0, "variance": 1.0 / ratio**2}[kind]
    for start in range(0, out.size, step):
        here = slice(start, min(start + step, out.size))
        block = flat[here.start * ratio : here.stop * ratio]
        part = None if chosen is None else chosen[here.start * ratio : here.stop * ratio]
        sums = _tree_sum(block, ratio)
        if part is None and not np.isnan(sums).any():
            out[here] = sums * scale
            continue
        # A NaN among the sums can also be inf - inf; only a look at the children can tell.
        good = ~np.isnan(block) if part is None else part & ~np.isnan(block)
        counts = _tree_sum(good, ratio)
        sums = _tree_sum(np.where(good, block, 0), ratio)
        if kind == "mean":
            sums /= np.maximum(counts, 1.0)
        elif kind == "variance":
            sums /= np.maximum(counts, 1.0) ** 2
        sums[counts < needed] = np.nan
        out[here] = sums
    return out.reshape(*array.shape[:-1], array.shape[-1] // ratio)


def _tree_sum(block: NDArray[Any], ratio: int) -> NDArray[np.float64]:
    """Return the sum over every `ratio` neighbours in float64, pairs first, then pairs of pairs.

    One fixed tree: adding in two steps of the hierarchy gives the same bits as in one, and rounding
    errors grow with the logarithm of the ratio only.
    """
    sums = block.astype(np.float64)
    # inf - inf among the children is a legitimate NaN and no reason for a warning.
    with np.errstate(invalid="ignore"):
        while ratio > 1:
            sums = sums[0::2] + sums[1::2]
            ratio //= 2
    return sums


def _degrade_bool(
    array: NDArray[np.bool_], ratio: int, fraction: float, kind: Kind | None, mask: NDArray[np.bool_] | None
) -> NDArray[Any]:
    if kind == "sum":
        counted = array if mask is None else array & mask
        return _family(counted, ratio).sum(axis=-1, dtype=np.int64)
    _kind(kind, "bits", ("bits", "sum"), array.dtype)
    if mask is None:
        return _family(array, ratio).sum(axis=-1) >= _needed(fraction, ratio)
    true, count = _family(array & mask, ratio).sum(axis=-1), _family(mask, ratio).sum(axis=-1)
    return (true > 0) & (true >= fraction * count)


def _combine(rows: NDArray[Any]) -> NDArray[Any]:
    # By halves rather than by `reduce`, which is slow along short rows.
    while rows.shape[-1] > 1:
        rows = rows[:, 0::2] | rows[:, 1::2]
    return rows[:, 0]


def _most_frequent(rows: NDArray[Any]) -> NDArray[Any]:
    codes = np.unique(rows)
    best, seen = np.full(rows.shape[0], codes[0]), np.zeros(rows.shape[0], dtype=np.int64)
    for code in codes:
        count = (rows == code).sum(axis=-1)
        better = count > seen
        best[better], seen[better] = code, count[better]
    return best


def _by_rows(
    reduce: Callable[[NDArray[Any]], NDArray[Any]],
    array: NDArray[Any],
    ratio: int,
    mask: NDArray[np.bool_] | None,
) -> NDArray[Any]:
    """Return a reduction of every family of integers; what the mask leaves out counts as 0."""
    kept = array if mask is None else np.where(mask, array, array.dtype.type(0))
    rows = _family(kept, ratio).reshape(-1, ratio)
    if rows.size == 0:
        return np.empty((*array.shape[:-1], 0), dtype=array.dtype)
    return reduce(rows).astype(array.dtype, copy=False).reshape(*array.shape[:-1], -1)


def _family(array: NDArray[Any], ratio: int) -> NDArray[Any]:
    return array.reshape(*array.shape[:-1], array.shape[-1] // ratio, ratio)


def _needed(fraction: float, ratio: int) -> float:
    # A fraction such as 0.07 of 100 must ask for 7, not for 7.000000000000001.
    return max(1.0, float(np.ceil(fraction * ratio - 1e-9)))


def _ratio(npix_ratio: int) -> int:
    number = npix_ratio
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 1:
        raise InputError(f"`npix_ratio` {number!r} came; children of a parent are 1, 4, 16, 64, ... in number.")
    ratio = int(number)
    if ratio & (ratio - 1) or ratio.bit_length() % 2 == 0:
        raise InputError(
            f"`npix_ratio` {ratio} came; children of a parent are 1, 4, 16, 64, ... in number: the square "
            "of the ratio of two nsides."
        )
    return ratio


def _fraction(policy: Policy, ratio: int) -> float:
    """Return the fraction of the children that a policy asks for."""
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise InputError(f"`policy` {policy!r} came; {nearest(policy, POLICIES)}, or a fraction from 0 to 1.")
        return 1.0 if policy == "all" else 1.0 / ratio
    if isinstance(policy, bool) or not 0.0 < policy <= 1.0:
        raise InputError(
            f'`policy` {policy!r} came; give "any", "all", or the fraction of valid children that a parent '
            "needs, above 0 and at most 1."
        )
    return float(policy)


def _kind(kind: str | None, default: str, allowed: tuple[str, ...], dtype: np.dtype[Any]) -> str:
    if kind is None:
        return default
    if kind not in KINDS:
        raise InputError(f"`kind` {kind!r} came; {nearest(str(kind), KINDS)}.")
    if kind not in allowed:
        raise InputError(f"`kind` {kind!r} came with values of type {dtype}; for these there are {', '.join(allowed)}.")
    return kind


def _check_cells(array: NDArray[Any], ratio: int) -> None:
    if array.ndim == 0 or array.shape[-1] % ratio:
        raise InputError(
            f"`values` of shape {array.shape} came; the last dimension must hold whole parents of {ratio} children."
        )


def _mask(valid: ArrayLike, array: NDArray[Any]) -> NDArray[np.bool_]:
    mask = np.asarray(valid)
    if mask.dtype != np.bool_:
        raise InputError(f"`valid` of type {mask.dtype} came; it is a boolean mask, True where a value counts.")
    if mask.shape[-1:] != array.shape[-1:]:
        raise InputError(f"`valid` of shape {mask.shape} came for values of shape {array.shape}; the cells must agree.")
    return np.broadcast_to(mask, array.shape)


def kind_of_map(name: str, dtype: str) -> Kind:
    """Return how a map of a sky store combines: means for floats, codes for surveys, bits for masks and flags.

    Parameters
    ----------
    name : str
        Name of the map in its store.
    dtype : str
        Type of its values.

    Examples
    --------
    >>> kind_of_map("i850um", "float32"), kind_of_map("survey", "uint8"), kind_of_map("mask_850um", "uint8")
    ('mean', 'code', 'bits')
    """
    if np.dtype(dtype).kind == "f":
        return "mean"
    return "code" if name.startswith("survey") else "bits"
