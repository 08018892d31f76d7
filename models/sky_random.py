"""Random numbers of a synthetic sky: each belongs to a pixel, so that any part of the sky can be made alone.

A number is a function of (seed, field, level, face, x, y) and of nothing else: no state, no order in which
pixels are visited.  The function is a 32-bit integer hash in NumPy operations, exact on every machine.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

type Words = NDArray[np.uint32]
type Singles = NDArray[np.float32]

# Odd multipliers with well spread bits: the golden ratio for counters, and those of the finaliser of
# MurmurHash3 (Appleby 2011), which changes each output bit with probability 1/2 for each input bit.
_GOLDEN = np.uint32(0x9E3779B1)
_FIRST = np.uint32(0x85EBCA6B)
_SECOND = np.uint32(0xC2B2AE35)
_WEYL = np.uint32(0x68E31DA5)

NORMAL_LEVELS = 1024  # ten bits a normal number, three of them in one hash


def keys(seed: int, field: str, level: int) -> Words:
    """Return the keys of one field at one level, (face, axis) uint32.

    Parameters
    ----------
    seed : int
        Any integer.
    field : str
        What is drawn; two fields have independent numbers.
    level : int
        HEALPix order of the pixels that carry the numbers.

    Examples
    --------
    >>> keys(1, "dust", 9).shape
    (12, 2)
    """
    digest = hashlib.blake2b(f"{seed}/{field}/{level}".encode(), digest_size=48).digest()
    words = np.frombuffer(digest, dtype="<u4").astype(np.uint32)
    # One key for each axis, another one for each face: 24 words from 12.
    return np.stack([words, np.roll(words, 5) ^ _WEYL], axis=1)


def mix(words: Words, scratch: Words) -> Words:
    """Return `words` scrambled in place.

    Parameters
    ----------
    words : ndarray
        (...) uint32, changed.
    scratch : ndarray
        Room of the same shape.

    Examples
    --------
    >>> import numpy as np
    >>> int(mix(np.array([1], np.uint32), np.empty(1, np.uint32))[0])
    1364076727
    """
    np.right_shift(words, 16, out=scratch)
    np.bitwise_xor(words, scratch, out=words)
    np.multiply(words, _FIRST, out=words)
    np.right_shift(words, 13, out=scratch)
    np.bitwise_xor(words, scratch, out=words)
    np.multiply(words, _SECOND, out=words)
    np.right_shift(words, 16, out=scratch)
    np.bitwise_xor(words, scratch, out=words)
    return words


def axis_words(coordinates: NDArray[np.int64], key: Words | np.uint32) -> Words:
    """Return a word for each coordinate along one axis; the sum of those of x and y is a pixel's own word.

    Parameters
    ----------
    coordinates : ndarray
        (...) int64.
    key : uint32 or ndarray
        From `keys`, for the axis.

    Examples
    --------
    >>> import numpy as np
    >>> axis_words(np.arange(3), np.uint32(7)).dtype
    dtype('uint32')
    """
    words = np.asarray(coordinates).astype(np.uint32)
    np.multiply(words, _GOLDEN, out=words)
    np.bitwise_xor(words, key, out=words)
    return mix(words, np.empty_like(words))


def again(words: Words, out: Words, scratch: Words) -> Words:
    """Return a second word for each word, independent of the first as far as statistics go.

    Parameters
    ----------
    words : ndarray
        (...) uint32, already mixed; kept.
    out, scratch : ndarray
        Room of the same shape.

    Examples
    --------
    >>> import numpy as np
    >>> words = np.arange(4, dtype=np.uint32)
    >>> again(words, np.empty_like(words), np.empty_like(words)).dtype
    dtype('uint32')
    """
    np.add(words, _WEYL, out=out)
    np.multiply(out, _SECOND, out=out)
    np.right_shift(out, 15, out=scratch)
    np.bitwise_xor(out, scratch, out=out)
    np.multiply(out, _FIRST, out=out)
    return out


@lru_cache(maxsize=1)
def normal_table() -> Singles:
    """Return quantiles of the normal distribution with mean 0 and variance exactly 1, (1024,) float32.

    Examples
    --------
    >>> import numpy as np
    >>> table = normal_table().astype(np.float64)
    >>> bool(abs(table.mean()) < 1e-7) and bool(abs(table.var() - 1) < 1e-6)
    True
    """
    normal = NormalDist()
    half = [normal.inv_cdf((i + 0.5) / NORMAL_LEVELS) for i in range(NORMAL_LEVELS // 2)]
    values = np.array(half + [-v for v in reversed(half)])
    table = (values / math.sqrt(float(np.mean(values**2)))).astype(np.float32)
    table.flags.writeable = False
    return table


def normals(words: Words, count: int) -> list[Singles]:
    """Return `count` (at most three) arrays of normal numbers cut from the bits of mixed words, (...) float32.

    Parameters
    ----------
    words : ndarray
        (...) uint32, mixed.
    count : int
        How many normal numbers for each word.

    Examples
    --------
    >>> import numpy as np
    >>> [z.shape for z in normals(np.zeros(5, np.uint32), 3)]
    [(5,), (5,), (5,)]
    """
    table = normal_table()
    drawn = []
    for i in range(count):
        index = ((words >> np.uint32(10 * i + 2)) & np.uint32(NORMAL_LEVELS - 1)).astype(np.intp)
        # Indices are below the length of the table by construction; "wrap" saves the check.
        drawn.append(np.take(table, index, mode="wrap"))
    return drawn


def standard_normals(seed: int, field: str, count: int) -> NDArray[np.float64]:
    """Return a long list of normal numbers, (count,) float64, the same with every version of NumPy.

    Parameters
    ----------
    seed : int
        Any integer.
    field : str
        What is drawn.
    count : int
        How many.

    Examples
    --------
    >>> standard_normals(1, "a", 4).shape
    (4,)
    """
    pair = keys(seed, field, -1)
    index = np.arange(count, dtype=np.int64)
    room = np.empty(count, dtype=np.uint32)
    first = mix(axis_words(index, pair[0, 0]) + pair[0, 1], room).astype(np.float64)
    second = mix(axis_words(index, pair[1, 0]) + pair[1, 1], room).astype(np.float64)
    # Box and Muller 1958; the half keeps the logarithm's argument off zero.
    radius = np.sqrt(-2.0 * np.log((first + 0.5) / 2.0**32))
    return np.asarray(radius * np.cos(2.0 * math.pi * second / 2.0**32))
