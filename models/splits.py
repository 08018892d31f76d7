"""Training, validation and test pixels, told apart by pixel number and seed alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError, nearest

SPLITS = ("random", "blocks")

_TEST, _VALIDATION = 0, 1  # streams of the hash: who is tested does not decide who validates


@dataclass(frozen=True, eq=False)
class Split:
    """Which pixels are for what: three arrays of positions, int64, ascending, without common elements.

    Parameters
    ----------
    train : numpy.ndarray
        (pixel,) int64, positions that the optimiser sees.
    validation : numpy.ndarray
        (pixel,) int64, positions that decide when to stop.
    test : numpy.ndarray
        (pixel,) int64, positions that only the score sees.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of pixels of each part."""
        return {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}


def split_pixels(
    pixels: NDArray[np.int64],
    nside: int,
    *,
    split: str = "random",
    test_size: float = 0.33,
    validation_size: float = 0.1,
    block_nside: int | None = None,
    seed: int = 0,
) -> Split:
    """Return which pixels train, validate and test.

    "random" ranks the pixels by a hash of number and seed and tests the first ceil(test_size n), the
    numbers that scikit-learn's `train_test_split` gives.  Neighbours in one beam then stand on both sides,
    so that the score is too good.  "blocks" does the same with the pixels of a coarser grid: all pixels of
    a block go to one side, and the sizes are as near as whole blocks allow.  The validation pixels are
    taken from the training side in the same manner.

    Parameters
    ----------
    pixels : numpy.ndarray
        (pixel,) int64, different numbers in NESTED order at `nside`; their order does not matter.
    nside : int
        Of the pixels.
    split : str
        "random" or "blocks".
    test_size : float
        Part of all pixels (or blocks) for the test, above 0 and below 1.
    validation_size : float
        Part of the other pixels (or blocks) for validation, above 0 and below 1.
    block_nside : int, optional
        Of the blocks, a power of two up to `nside`; by default nside / 32, blocks of 1024 pixels, at least 8
        (blocks of 7.3 degrees).
    seed : int
        Another seed gives another split.

    Raises
    ------
    InputError
        If an option cannot be used, or a part would be empty.

    References
    ----------
    Paradis et al. 2024, A&A 691, A241, section 3: 832596 and 410085 of 1242681 pixels.

    Examples
    --------
    >>> split_pixels(np.arange(192), 4, test_size=0.33, validation_size=0.1).sizes
    {'train': 115, 'validation': 13, 'test': 64}
    """
    if split not in SPLITS:
        raise InputError(f"`split` {split!r} is not known; {nearest(str(split), SPLITS)}")
    for key, size in (("test_size", test_size), ("validation_size", validation_size)):
        if not 0.0 < size < 1.0:
            raise InputError(f"`{key}` {size!r} came; a number between 0 and 1 expected.")
    pixels = np.asarray(pixels, np.int64)
    if split == "random":
        groups, members = pixels, None
    else:
        groups, members = np.unique(pixels >> _block_shift(nside, block_nside), return_inverse=True)
    n_test = math.ceil(test_size * len(groups))
    n_validation = math.ceil(validation_size * (len(groups) - n_test))
    if len(groups) - n_test - n_validation < 1 or n_validation < 1:
        unit = "pixels" if members is None else "blocks"
        raise InputError(
            f"{len(groups)} {unit} came, too few to train, validate and test with test_size={test_size:g} and "
            f"validation_size={validation_size:g}; give more sky, or a finer `block_nside`."
        )
    part = np.full(len(groups), 2, np.int8)
    order = _ranked(groups, seed, _TEST)
    part[order[:n_test]] = 0
    rest = np.flatnonzero(part)
    part[rest[_ranked(groups[rest], seed, _VALIDATION)[:n_validation]]] = 1
    if members is not None:
        part = part[members.reshape(-1)]
    return Split(
        train=np.flatnonzero(part == 2),
        validation=np.flatnonzero(part == 1),
        test=np.flatnonzero(part == 0),
    )


def pixel_hash(pixels: NDArray[np.int64], seed: int, stream: int = 0) -> NDArray[np.uint64]:
    """Return a hash of each pixel number, the same everywhere, of which the low numbers are a fair sample.

    Parameters
    ----------
    pixels : numpy.ndarray
        (pixel,) int64.
    seed : int
        Another seed gives unrelated hashes.
    stream : int
        Likewise; for several uses of one seed.

    References
    ----------
    The finaliser of Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"
    (SplitMix64), applied to a counter.

    Examples
    --------
    >>> bool(pixel_hash(np.array([1]), 0)[0] == pixel_hash(np.array([0, 1]), 0)[1])
    True
    """
    mask = (1 << 64) - 1
    # Python's integers mix the seed itself, so that close seeds start far apart.
    start = _mix_one((seed * 2 + 1) & mask) ^ _mix_one((stream * 2 + 1_000_003) & mask)
    z = np.asarray(pixels, np.int64).astype(np.uint64) + np.uint64(1)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z ^= np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    return z


def _mix_one(number: int) -> int:
    mask = (1 << 64) - 1
    number = (number * 0x9E3779B97F4A7C15) & mask
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & mask
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & mask
    return number ^ (number >> 31)


def _ranked(numbers: NDArray[np.int64], seed: int, stream: int) -> NDArray[np.int64]:
    # The number itself breaks ties, so that the order in which pixels came cannot.
    return np.lexsort((numbers, pixel_hash(numbers, seed, stream)))


def _block_shift(nside: int, block_nside: int | None) -> int:
    coarse = max(nside // 32, min(8, nside)) if block_nside is None else block_nside
    if coarse < 1 or coarse & (coarse - 1) or coarse > nside:
        raise InputError(f"`block_nside` {coarse!r} came; a power of two from 1 to {nside} expected.")
    return 2 * ((nside // coarse).bit_length() - 1)
