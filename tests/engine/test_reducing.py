"""The reduce form: order of merging, any number of workers, and what cannot be reduced."""

from __future__ import annotations

import numpy as np
import pytest
from skies import BANDS
from skymill.chunking import errors
from skymill.chunking import store as stores
from skymill.engine.connect import connect
from skymill.engine.reducing import reduce_tiles


def tile_numbers(tile, inputs):
    return (tile,)


def sums(tile, inputs):
    return float(np.nansum(inputs["i160"] / np.float32(3)))


def test_tiles_are_merged_in_order_whatever_the_threads(sky):
    merged = reduce_tiles(tile_numbers, store=sky, names=BANDS, merge=lambda a, b: a + b, threads=4)
    assert merged == (0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11)


def test_chosen_tiles_and_initial_value(sky):
    merged = reduce_tiles(tile_numbers, store=sky, names=BANDS, merge=lambda a, b: a + b, tiles=[9, 1], initial=(99,))
    assert merged == (99, 1, 9)


def test_workers_do_not_change_the_last_bit(sky):
    options = {"store": sky, "names": ["i160"], "merge": lambda a, b: a + b}
    alone = reduce_tiles(sums, threads=1, **options)
    values = stores.open(sky)["i160"].values
    assert alone == pytest.approx(float(np.nansum(values.astype(np.float64) / 3)), rel=1e-5)
    with connect() as client:
        assert reduce_tiles(lambda t, i: float(np.nansum(i["i160"] / np.float32(3))), client=client, **options) == alone


def test_what_keeps_failing_is_an_error(sky):
    def fails(tile, inputs):
        raise ValueError("never")

    with pytest.raises(errors.RunError, match=r"tile 0 of .* cannot be reduced: ValueError: never"):
        reduce_tiles(fails, store=sky, names=BANDS, merge=max)


def test_nothing_to_go_over_is_an_error(sky):
    with pytest.raises(errors.RunError, match="nothing to go over"):
        reduce_tiles(tile_numbers, store=sky, names=BANDS, merge=max, tiles=[])
    with pytest.raises(errors.MissingMapError):
        reduce_tiles(tile_numbers, store=sky, names=["nothing"], merge=max)
