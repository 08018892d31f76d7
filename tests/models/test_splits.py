"""Splits: sizes of scikit-learn, blocks kept together, determined by pixel and seed alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split
from skymill.chunking.errors import InputError
from skymill.models.splits import Split, pixel_hash, split_pixels

FIXED = [
    2375848289710319802,
    10072838091051744095,
    16878970433486732667,
]


def _parts(split: Split) -> tuple[np.ndarray, ...]:
    return split.train, split.validation, split.test


def test_the_published_sizes() -> None:
    sizes = split_pixels(np.arange(1_242_681), 2048, test_size=0.33).sizes
    assert sizes["test"] == 410_085
    assert sizes["train"] + sizes["validation"] == 832_596


@settings(max_examples=50, deadline=None)
@given(n=st.integers(20, 5000), test_size=st.floats(0.05, 0.9), seed=st.integers(0, 2**63))
def test_sizes_are_those_of_scikit_learn(n: int, test_size: float, seed: int) -> None:
    split = split_pixels(np.arange(n), 64, test_size=test_size, validation_size=0.1, seed=seed)
    train, test = train_test_split(np.arange(n), test_size=test_size, random_state=0)
    assert (len(split.train) + len(split.validation), len(split.test)) == (len(train), len(test))
    assert np.array_equal(np.sort(np.concatenate(_parts(split))), np.arange(n))
    assert all((np.diff(part) > 0).all() for part in _parts(split))


@settings(max_examples=30, deadline=None)
@given(block_nside=st.sampled_from([2, 4, 8, 16]), seed=st.integers(0, 1000), kept=st.floats(0.3, 1.0))
def test_no_block_stands_on_two_sides(block_nside: int, seed: int, kept: float) -> None:
    pixels = np.flatnonzero(np.random.default_rng(seed).random(12 * 32**2) < kept)
    split = split_pixels(pixels, 32, split="blocks", block_nside=block_nside, seed=seed)
    blocks = [set(pixels[part] // (32 // block_nside) ** 2) for part in _parts(split)]
    assert not blocks[0] & blocks[1]
    assert not blocks[0] & blocks[2]
    assert not blocks[1] & blocks[2]
    assert len(blocks[2]) == int(np.ceil(0.33 * sum(map(len, blocks))))
    assert sum(len(part) for part in _parts(split)) == len(pixels)


@pytest.mark.parametrize("split", ["random", "blocks"])
def test_the_order_of_pixels_does_not_matter(split: str) -> None:
    pixels = np.random.default_rng(0).choice(12 * 64**2, 5000, replace=False)
    first = split_pixels(pixels, 64, split=split, seed=5)
    order = np.random.default_rng(1).permutation(5000)
    second = split_pixels(pixels[order], 64, split=split, seed=5)
    for a, b in zip(_parts(first), _parts(second), strict=True):
        assert set(pixels[a]) == set(pixels[order][b])


@pytest.mark.parametrize("change", [{"seed": 1}, {"split": "blocks"}, {"test_size": 0.2}, {"validation_size": 0.3}])
def test_every_option_changes_the_split(change: dict[str, Any]) -> None:
    pixels = np.arange(12 * 32**2)
    assert not np.array_equal(split_pixels(pixels, 32).train, split_pixels(pixels, 32, **change).train)


def test_the_size_of_blocks_changes_the_split_and_has_a_default() -> None:
    pixels = np.arange(12 * 64**2)
    eight = split_pixels(pixels, 64, split="blocks", block_nside=8)
    assert np.array_equal(split_pixels(pixels, 64, split="blocks").test, eight.test)
    assert not np.array_equal(split_pixels(pixels, 64, split="blocks", block_nside=4).test, eight.test)
    assert split_pixels(np.arange(12 * 16), 4, split="blocks").sizes["test"] == 64  # nside below 8: single pixels


def test_random_parts_are_spread_over_the_sky() -> None:
    split = split_pixels(np.arange(12 * 64**2), 64, test_size=0.25)
    share = np.bincount(split.test // 4096, minlength=12) / 4096
    assert share == pytest.approx(np.full(12, 0.25), abs=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "block"}, "did you mean 'blocks'"),
        ({"split": None}, "Known: blocks, random"),
        ({"test_size": 0.0}, "`test_size` 0.0"),
        ({"test_size": 1.0}, "`test_size` 1.0"),
        ({"validation_size": -0.1}, "`validation_size`"),
        ({"test_size": 0.999}, "too few"),
        ({"validation_size": 0.999}, "too few"),
        ({"split": "blocks", "block_nside": 3}, "power of two"),
        ({"split": "blocks", "block_nside": 128}, "from 1 to 64"),
        ({"split": "blocks", "block_nside": 0}, "power of two"),
        ({"split": "blocks", "block_nside": 1}, "blocks came, too few"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_pixels(np.arange(100), 64, **options)


def test_no_pixels_are_refused() -> None:
    for split in ("random", "blocks"):
        with pytest.raises(InputError, match=r"0 .* came, too few"):
            split_pixels(np.empty(0, np.int64), 64, split=split)


def test_the_hash_is_fixed_for_ever() -> None:
    # Splits of published models must stay what they were: these numbers may never change.
    pixels = np.array([0, 1, 12 * 16384**2 - 1])
    assert pixel_hash(pixels, 0).tolist() == pixel_hash(pixels.copy(), 0).tolist()
    assert pixel_hash(pixels, 0).dtype == np.uint64
    assert pixel_hash(pixels, 7, stream=2).tolist() == FIXED


def test_the_hash_is_even_and_its_seeds_and_streams_unrelated() -> None:
    pixels = np.arange(200_000)
    base = pixel_hash(pixels, 0)
    assert len(np.unique(base)) == len(pixels)
    counts = np.histogram(base.astype("f8") / 2.0**64, bins=50, range=(0, 1))[0]
    assert ((counts - 4000) ** 2 / 4000).sum() < 100  # chi^2 with 49 degrees of freedom
    for other in (pixel_hash(pixels, 1), pixel_hash(pixels, 0, 1), pixel_hash(pixels + 1, 0)):
        a, b = base.astype("f8"), other.astype("f8")
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.01
    neighbours = base[1:].astype("f8")
    assert abs(np.corrcoef(base[:-1].astype("f8"), neighbours)[0, 1]) < 0.01
