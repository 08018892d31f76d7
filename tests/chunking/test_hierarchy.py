"""Parents from children and children from parents, against healpy, plain NumPy and algebra."""

import healpy as hp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skymill.chunking import hierarchy
from skymill.chunking.errors import InputError
from skymill.chunking.hierarchy import children, degrade, kind_of_map, upgrade
from skymill.chunking.tiling import Tiling

short = settings(max_examples=40, deadline=None)
ratios = st.sampled_from([1, 4, 16, 64])
numbers = st.floats(-1e6, 1e6, width=32)


@st.composite
def families(draw, elements=numbers, dtype=np.float32, holes=True):
    """A ratio and the children of a few parents, some of them missing."""
    ratio = draw(ratios)
    cells = ratio * draw(st.integers(1, 5))
    values = draw(arrays(dtype, cells, elements=elements))
    if holes:
        values = np.where(draw(arrays(np.bool_, cells)), values, np.nan).astype(dtype)
    return ratio, values


def sky(nside, seed=0, missing=0.0):
    random = np.random.default_rng(seed)
    values = random.normal(10, 3, 12 * nside**2)
    values[random.random(values.size) < missing] = np.nan
    return values


@pytest.mark.parametrize(("policy", "pess"), [("any", False), ("all", True)])
@pytest.mark.parametrize("missing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("coarse", [1, 4, 16])
def test_means_agree_with_healpy(policy, pess, missing, coarse):
    values = sky(16, missing=missing)
    theirs = hp.ud_grade(np.where(np.isnan(values), hp.UNSEEN, values), coarse, order_in="NEST", pess=pess)
    theirs[theirs == hp.UNSEEN] = np.nan
    ours = degrade(values, children(16, coarse), policy=policy)
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, theirs, rtol=1e-14)


@pytest.mark.parametrize("fine", [4, 16])
def test_upgrade_agrees_with_healpy(fine):
    values = sky(4)
    theirs = hp.ud_grade(values, fine, order_in="NEST")
    np.testing.assert_array_equal(upgrade(values, children(fine, 4)), theirs)


@short
@given(families(), st.floats(0.01, 1.0))
def test_the_policy_counts_valid_children(family, fraction):
    ratio, values = family
    rows = values.reshape(-1, ratio).astype(np.float64)
    count = (~np.isnan(rows)).sum(axis=1)
    for policy, enough in (
        ("any", count >= 1),
        ("all", count == ratio),
        (fraction, (count >= 1) & (count >= fraction * ratio - 1e-9)),
    ):
        ours = degrade(values, ratio, policy=policy)
        np.testing.assert_array_equal(~np.isnan(ours), enough)
        means = np.nansum(rows, axis=1) / np.maximum(count, 1)
        scale = np.nansum(np.abs(rows), axis=1).max(initial=1.0)
        np.testing.assert_allclose(ours[enough], means[enough], rtol=1e-6, atol=1e-14 * scale)


def test_a_fraction_is_met_when_it_is_met_exactly():
    values = np.full(100 * 64, np.nan)
    for n in range(64):
        values[n * 64 : n * 64 + n + 1] = 1.0
    for needed in range(1, 65):
        assert np.isfinite(degrade(values, 64, policy=needed / 64)).sum() == 64 - needed + 1


@short
@given(families(), st.sampled_from(["mean", "sum", "variance"]))
def test_degrading_what_was_upgraded_gives_it_back(family, kind):
    ratio, values = family
    # The share of a child may fall below the smallest float, and is 0 then; nothing gives that back.
    values = np.where(np.abs(values) < 1e-30, np.sign(values), values)
    back = degrade(upgrade(values, ratio, kind=kind), ratio, kind=kind)
    assert back.dtype == values.dtype
    np.testing.assert_array_equal(back, values)  # powers of two scale exactly


@short
@given(families(elements=st.floats(-1e6, 1e6), dtype=np.float64, holes=False), ratios)
def test_two_steps_equal_one_where_all_is_valid(family, first):
    ratio, values = family
    values = upgrade(values, first) + np.arange(values.size * first)
    for kind in ("mean", "sum", "variance"):
        steps = degrade(degrade(values, first, kind=kind), ratio, kind=kind)
        np.testing.assert_array_equal(steps, degrade(values, first * ratio, kind=kind))  # to the last bit


def test_kinds_of_floats_are_what_they_say():
    values = np.array([1.0, 2.0, 3.0, np.nan, np.nan, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(degrade(values, 4, kind="mean"), [2.0, np.nan])
    np.testing.assert_allclose(degrade(values, 4, kind="sum"), [6.0, np.nan])
    np.testing.assert_allclose(degrade(values, 4, kind="variance"), [6.0 / 9.0, np.nan])


def test_variance_is_the_variance_of_the_mean_over_many_skies():
    random = np.random.default_rng(5)
    sigma = random.uniform(0.5, 3.0, 64)
    valid = random.random(64) < 0.7
    noise = random.normal(size=(20000, 64)) * sigma
    means = degrade(noise, 16, valid=valid)
    stated = degrade(sigma**2, 16, kind="variance", valid=valid)
    np.testing.assert_allclose(means.var(axis=0), stated, rtol=0.05)  # 4 sigma of 20000 draws


def test_valid_leaves_children_out():
    values = np.array([1.0, 2.0, 3.0, 10.0])
    assert degrade(values, 4, valid=[True, True, True, False]).tolist() == [2.0]
    assert np.isnan(degrade(values, 4, valid=[True, True, True, False], policy="all")).all()
    assert np.isnan(degrade(values, 4, valid=np.zeros(4, bool))).all()
    assert degrade(np.array([1, 2, 4, 8], np.uint8), 4, valid=[True, False, True, False]).tolist() == [5]
    assert degrade(np.array([1, 2, 4, 8]), 4, valid=[True, False, True, False], kind="sum").tolist() == [5]
    assert degrade(values > 2, 4, valid=[False, False, True, True], policy="all").tolist() == [True]


@short
@given(families(elements=st.integers(0, 255), dtype=np.uint8, holes=False))
def test_flags_combine_by_or_and_codes_by_majority(family):
    ratio, values = family
    rows = values.reshape(-1, ratio)
    ored = degrade(values, ratio)
    assert ored.dtype == np.uint8
    np.testing.assert_array_equal(ored, np.bitwise_or.reduce(rows, axis=1))
    few = values % 3
    expected = [np.bincount(row, minlength=3).argmax() for row in few.reshape(-1, ratio)]
    np.testing.assert_array_equal(degrade(few, ratio, kind="code"), expected)
    for kind in ("bits", "code"):
        np.testing.assert_array_equal(degrade(upgrade(values, ratio, kind=kind), ratio, kind=kind), values)


@short
@given(families(elements=st.booleans(), dtype=np.bool_, holes=False), st.floats(0.01, 1.0))
def test_masks_follow_the_policy(family, fraction):
    ratio, values = family
    rows = values.reshape(-1, ratio)
    np.testing.assert_array_equal(degrade(values, ratio), rows.any(axis=1))
    np.testing.assert_array_equal(degrade(values, ratio, policy="all"), rows.all(axis=1))
    enough = rows.sum(axis=1) >= max(1, np.ceil(fraction * ratio - 1e-9))
    np.testing.assert_array_equal(degrade(values, ratio, policy=fraction), enough)


def test_counts_are_added_and_shared():
    counts = np.array([200, 100, 50, 50], dtype=np.uint8)
    total = degrade(counts, 4, kind="sum")
    assert total.dtype == np.int64
    assert total.tolist() == [400]
    assert upgrade(total, 4, kind="sum").tolist() == [100.0] * 4
    assert degrade(counts > 60, 4, kind="sum").tolist() == [2]


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_how_the_sky_is_cut_does_not_change_a_bit(missing, monkeypatch):
    values = sky(32, missing=missing).astype(np.float32)
    whole = degrade(values, 64)
    tiles = [degrade(values[part], 64) for part in map(Tiling(32, tile_nside=2).tile_slice, range(48))]
    np.testing.assert_array_equal(whole, np.concatenate(tiles))
    monkeypatch.setattr(hierarchy, "BLOCK", 128)
    np.testing.assert_array_equal(whole, degrade(values, 64))


def test_sums_run_in_float64():
    values = np.full(4**9, 0.1, dtype=np.float32)
    values[0] = 1e6
    exact = float(values.astype(np.float64).mean())
    assert degrade(values, 4**9)[0] == np.float32(exact)


def test_leading_dimensions_stay_and_infinity_is_a_value():
    cube = np.arange(2 * 3 * 16, dtype=np.float64).reshape(2, 3, 16)
    assert degrade(cube, 4).shape == (2, 3, 4)
    np.testing.assert_array_equal(degrade(cube, 4), cube.reshape(2, 3, 4, 4).mean(axis=-1))
    np.testing.assert_array_equal(degrade(degrade(upgrade(cube, 4), 4), 16).ravel(), cube.mean(axis=-1).ravel())
    assert degrade(np.array([np.inf, 1.0, np.nan, 2.0]), 4).tolist() == [np.inf]
    np.testing.assert_array_equal(degrade(np.array([np.inf, -np.inf, 1.0, 2.0]), 4), [np.nan])
    assert degrade(np.empty((0,), np.float32), 4).shape == (0,)
    assert degrade(np.empty((0,), np.uint8), 4, kind="code").shape == (0,)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: children(8, 16), ["8", "16", "upgrade"]),
        (lambda: children(12, 4), ["12"]),
        (lambda: degrade(np.zeros(8), 8), ["8", "1, 4, 16"]),
        (lambda: degrade(np.zeros(8), 0), ["0"]),
        (lambda: degrade(np.zeros(8), 4.0), ["4.0"]),
        (lambda: upgrade(np.zeros(8), 2), ["2"]),
        (lambda: degrade(np.zeros(10), 4), ["(10,)", "4 children"]),
        (lambda: degrade(1.0, 4), ["()"]),
        (lambda: degrade(np.zeros(8), 4, policy="most"), ["most", "any", "all"]),
        (lambda: degrade(np.zeros(8), 4, policy=0.0), ["0.0", "fraction"]),
        (lambda: degrade(np.zeros(8), 4, policy=1.5), ["1.5"]),
        (lambda: degrade(np.zeros(8), 4, policy=float("nan")), ["nan"]),
        (lambda: degrade(np.zeros(8), 4, kind="median"), ["median", "mean"]),
        (lambda: degrade(np.zeros(8), 4, kind="bits"), ["bits", "float64"]),
        (lambda: degrade(np.zeros(8, np.uint8), 4, kind="mean"), ["mean", "uint8", "bits"]),
        (lambda: degrade(np.zeros(8, bool), 4, kind="code"), ["bool"]),
        (lambda: upgrade(np.zeros(8, np.uint8), 4, kind="variance"), ["variance", "uint8"]),
        (lambda: degrade(np.zeros(8), 4, valid=np.zeros(8)), ["valid", "float64"]),
        (lambda: degrade(np.zeros(8), 4, valid=np.zeros(4, bool)), ["(4,)", "(8,)"]),
        (lambda: degrade(np.array(["a"] * 4), 4), ["U1"]),
    ],
)
def test_bad_input_names_what_came_and_what_is_expected(call, words):
    with pytest.raises(InputError) as error:
        call()
    for word in words:
        assert word in str(error.value)


def test_every_map_of_a_store_has_its_kind():
    assert kind_of_map("pred_850um", "float32") == "mean"
    assert kind_of_map("flag_850um", "uint8") == "bits"
    assert kind_of_map("survey", "uint8") == "code"
