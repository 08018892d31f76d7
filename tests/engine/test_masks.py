"""What the numbers of a mask map mean as weights."""

import numpy as np
import pytest
from skymill.chunking import store as stores
from skymill.chunking.errors import InputError
from skymill.chunking.schema import MapInfo
from skymill.engine.masks import read_weights, weight_of_unobserved, weight_values

MASK = MapInfo("mask_a", "mask", "1", dtype="uint8", fill_value=1)
FOOTPRINT = MapInfo("footprint", "footprint", "1", dtype="uint8")
WEIGHT = MapInfo("hits", "weight", "1")


def test_the_three_conventions():
    codes = np.array([0, 1, 0], np.uint8)
    assert weight_values(MASK, codes).tolist() == [1, 0, 1]
    assert weight_values(FOOTPRINT, codes).tolist() == [0, 1, 0]
    weights = np.array([0, 0.25, 7], np.float32)
    assert weight_values(WEIGHT, weights).tolist() == [0, 0.25, 7]
    assert {weight_values(info, codes).dtype.name for info in (MASK, FOOTPRINT)} == {"float32"}


@pytest.mark.parametrize("number", [-1.0, np.nan, np.inf])
def test_numbers_that_are_no_weights(number):
    values = np.array([1, number, number], np.float32)
    with pytest.raises(InputError, match=rf"'hits' holds {number:g} \(2 such pixels of the 3 .* to 0"):
        weight_values(WEIGHT, values)


def test_codes_and_bits_are_no_masks():
    with pytest.raises(InputError, match=r"'mask_a' holds 3 .*1 = not to be used"):
        weight_values(MASK, np.array([0, 3], np.uint8))
    with pytest.raises(InputError, match=r"'footprint' holds 2 .*1 = used"):
        weight_values(FOOTPRINT, np.array([0, 2], np.uint8))
    flags = MapInfo("flag_a", "flags", "1", dtype="uint8", flag_meanings=("bad", "worse"))
    with pytest.raises(InputError, match=r"'flag_a' holds bits \(bad, worse\)"):
        weight_values(flags, np.array([0, 1], np.uint8))


def test_tiles_that_are_not_stored_follow_the_fill_value(tmp_path):
    where = str(tmp_path / "sky.zarr")
    stores.create(where, 4, frame="icrs", tile_nside=1)
    zero = MapInfo("weight_a", "weight", "1", fill_value=0.0)
    good = MapInfo("mask_b", "mask", "1", dtype="uint8", fill_value=0)
    stores.create_maps(where, [MASK, FOOTPRINT, WEIGHT, zero, good])
    half = np.repeat(np.array([0.5, 1], np.float32), 8)
    for tile in (1, 3):
        stores.write_tile(where, "hits", tile, half)
    got = read_weights(where, WEIGHT, 8, 70)
    wanted = np.zeros(192)
    wanted[16:32] = wanted[48:64] = half
    np.testing.assert_array_equal(got, wanted[8:70])
    for info, weight in ((MASK, 0), (FOOTPRINT, 0), (WEIGHT, 0), (zero, 0), (good, 1)):
        assert weight_of_unobserved(info) == weight
        assert (read_weights(where, info, 160, 192) == weight).all()
    broken = half.copy()
    broken[3] = np.nan
    stores.write_tile(where, "hits", 2, broken)  # a hole in a tile that is stored is a mistake
    with pytest.raises(InputError, match="holds nan"):
        read_weights(where, WEIGHT, 0, 192)
