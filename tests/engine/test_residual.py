"""Residuals, masks with reasons, and masks handed down to finer maps."""

from __future__ import annotations

import numpy as np
import pytest
import skymill as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking import errors
from skymill.chunking import store as stores
from skymill.chunking.schema import FLAGS, MapInfo
from skymill.engine.residual import hand_down, residual

CASES = {
    # prediction, target, flag -> masked, reason
    "good": (1.1, 1.0, 0, 0, 0),
    "just above": (1.21, 1.0, 0, 1, FLAGS["relative_error_above_limit"]),
    "just below": (0.81, 1.0, 0, 0, 0),
    "no target": (1.0, np.nan, 0, 1, FLAGS["no_coverage"]),
    "negative input": (np.nan, 1.0, FLAGS["not_positive_input"], 1, FLAGS["not_positive_input"] | FLAGS["no_coverage"]),
    "zero target": (1.0, 0.0, 0, 1, FLAGS["relative_error_above_limit"] | FLAGS["not_finite"]),
    "outside range but right": (1.0, 1.0, FLAGS["outside_training_range"], 0, 0),
}


@pytest.fixture
def compared(tmp_path):
    where = str(tmp_path / "sky.zarr")
    stores.create(where, 4, frame="galactic")
    stores.create_maps(
        where,
        [
            MapInfo("pred_850um", "intensity", "MJy/sr", band="850um"),
            MapInfo("i850um", "intensity", "MJy/sr"),
            MapInfo("flag_850um", "flags", "1", dtype="uint8", fill_value=2),
            MapInfo("kelvin", "temperature", "K_CMB"),
        ],
    )
    columns = np.array(list(CASES.values()), dtype=np.float64).T
    for tile in range(12):
        for name, column, dtype in (
            ("pred_850um", columns[0], "f4"),
            ("i850um", columns[1], "f4"),
            ("flag_850um", columns[2], "u1"),
        ):
            stores.write_tile(where, name, tile, np.resize(column, 16).astype(dtype))
    return where


def test_every_case_has_its_value_and_reason(compared):
    residual(compared, "pred_850um", "i850um", mask_above=0.2).run()
    dataset = stores.open(compared)
    for number, (case, (prediction, target, _, masked, reason)) in enumerate(CASES.items()):
        assert dataset["mask_850um"].values[number] == masked, case
        if case != "zero target":
            assert dataset["reason_850um"].values[number] == reason, case
            wanted = (np.float32(prediction) - np.float32(target)) / np.float32(target)
            np.testing.assert_array_equal(dataset["relerr_850um"].values[number], wanted, err_msg=case)
        else:
            assert np.isnan(dataset["relerr_850um"].values[number])
            assert dataset["reason_850um"].values[number] != 0
        np.testing.assert_array_equal(
            dataset["residual_850um"].values[number], np.float32(prediction) - np.float32(target), err_msg=case
        )
    assert dataset["residual_850um"].attrs["units"] == "MJy/sr"
    assert dataset["relerr_850um"].attrs["units"] == "1"


def test_the_limit_changes_the_mask(compared):
    residual(compared, "pred_850um", "i850um", mask_above=0.05).run()
    assert stores.open(compared)["mask_850um"].values[0] == 1


def test_another_store_can_take_the_result(compared, tmp_path):
    out = tmp_path / "out.zarr"
    residual(compared, "pred_850um", "i850um", out=out).run()
    assert "mask_850um" in stores.infos(out)
    assert "mask_850um" not in stores.infos(compared)


def test_a_store_of_other_tiles_takes_the_same_values(compared, tmp_path):
    residual(compared, "pred_850um", "i850um").run()
    out = tmp_path / "tiles.zarr"
    stores.create(out, 4, frame="galactic", tile_nside=2)
    residual(compared, "pred_850um", "i850um", out=out).run()
    for name in ("relerr_850um", "residual_850um", "mask_850um", "reason_850um"):
        np.testing.assert_array_equal(stores.open(out)[name].values, stores.open(compared)[name].values, err_msg=name)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mask_above": 0.0}, errors.InputError, "mask_above"),
        ({"mask_above": float("nan")}, errors.InputError, "mask_above"),
        ({"prediction": "pred_850"}, errors.MissingMapError, "did you mean 'pred_850um'"),
        ({"target": "kelvin"}, errors.UnitError, "K_CMB"),
    ],
)
def test_bad_input_is_refused(compared, change, error, message):
    with pytest.raises(error, match=message):
        residual(compared, **{"prediction": "pred_850um", "target": "i850um", **change})


def coarse_and_fine(folder, coarse, fine, tile_nside=None):
    low, high = f"{folder}/low.zarr", f"{folder}/high.zarr"
    stores.create(low, coarse, frame="galactic")
    stores.create(high, fine, frame="galactic", tile_nside=tile_nside)
    stores.create_maps(low, [MapInfo("mask_850um", "mask", "1", dtype="uint8", fill_value=1)])
    values = np.random.default_rng(1).integers(0, 2, 12 * coarse**2).astype("u1")
    values[: coarse**2] = 1  # a tile that is masked throughout, and so not stored
    for tile in range(12):
        stores.write_tile(low, "mask_850um", tile, values[tile * coarse**2 : (tile + 1) * coarse**2])
    return low, high, values


@pytest.mark.parametrize(("coarse", "fine", "tile_nside"), [(2, 16, None), (4, 8, None), (1, 16, 4), (2, 16, 8)])
def test_every_child_inherits_from_its_parent(tmp_path, coarse, fine, tile_nside):
    low, high, values = coarse_and_fine(tmp_path, coarse, fine, tile_nside)
    hand_down(low, high, "mask_850um").run()
    handed = stores.open(high)["mask_850um"].values
    children = (fine // coarse) ** 2
    np.testing.assert_array_equal(handed.reshape(-1, children), np.repeat(values[:, None], children, axis=1))
    assert 0 not in stores.observed_tiles(high, ["mask_850um"])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 3), st.integers(1, 3))
def test_64_children_and_any_other_number(tmp_path_factory, order, steps):
    folder = tmp_path_factory.mktemp("handed")
    low, high, values = coarse_and_fine(folder, 2**order, 2 ** (order + steps))
    hand_down(low, high, ["mask_850um"]).run()
    assert stores.open(high)["mask_850um"].values.sum(dtype=int) == values.sum(dtype=int) * 4**steps


def test_handing_down_to_a_coarser_store_is_refused(tmp_path):
    low, high, _ = coarse_and_fine(tmp_path, 4, 16)
    stores.create_maps(high, [MapInfo("mask_850um", "mask", "1", dtype="uint8", fill_value=1)])
    with pytest.raises(errors.InputError, match="handed down to a finer store"):
        hand_down(high, low, "mask_850um")
    with pytest.raises(errors.InputError, match="`names` is empty"):
        hand_down(low, high, [])


def test_public_names():
    assert sm.residual is residual
