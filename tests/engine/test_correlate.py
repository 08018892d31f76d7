"""Correlations against brute force and SciPy, the choice of pixels, and what is written."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import scipy.stats
import skymill as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking import store as stores
from skymill.chunking.errors import InputError, MemoryLimitError, MissingMapError
from skymill.chunking.schema import MapInfo
from skymill.engine.coefficients import coefficients, spread_evenly
from skymill.engine.correlate import KINDS, correlate
from skymill.engine.figures_correlation import correlation_figure, hierarchical_order
from skymill.engine.worker import Worker

NSIDE, TILE_NSIDE = 16, 2


def kendall_by_counting(x: np.ndarray, y: np.ndarray) -> float:
    """Tau-b from the signs of all pairs, O(n^2)."""
    i, j = np.triu_indices(x.size, 1)
    a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
    return float((a * b).sum() / math.sqrt((a != 0).sum() * (b != 0).sum()))


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 60), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_coefficients_equal_brute_force_with_ties(number, levels, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, levels, (3, number)).astype(float)
    values[:, 0], values[:, 1] = 0, 1  # no constant row
    pearson, spearman, kendall = coefficients(values)
    for i, j in itertools.combinations(range(3), 2):
        np.testing.assert_allclose(pearson[i, j], np.corrcoef(values[i], values[j])[0, 1], atol=1e-12)
        ranks = [(r[:, None] > r).sum(1) + ((r[:, None] == r).sum(1) + 1) / 2 for r in (values[i], values[j])]
        np.testing.assert_allclose(spearman[i, j], np.corrcoef(*ranks)[0, 1], atol=1e-12)
        np.testing.assert_allclose(kendall[i, j], kendall_by_counting(values[i], values[j]), atol=1e-12)
    for matrix in (pearson, spearman, kendall):
        np.testing.assert_array_equal(matrix, matrix.T)
        np.testing.assert_array_equal(np.diag(matrix), 1.0)


def test_threads_do_not_change_coefficients():
    values = np.random.default_rng(1).normal(size=(4, 500)).cumsum(axis=0)
    for one, many in zip(coefficients(values, 1), coefficients(values, 4), strict=True):
        np.testing.assert_array_equal(one, many)


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """Maps with known relations: some pixels missing, a tile missing in one of them."""
    where = tmp_path_factory.mktemp("correlate") / "sky.zarr"
    stores.create(where, NSIDE, frame="galactic", tile_nside=TILE_NSIDE)
    tiling = stores.tiling_of(where)
    rng = np.random.default_rng(7)
    base = 10 ** rng.normal(1, 0.5, tiling.npix)
    maps = {
        "i160": base,
        "i250": base * 10 ** rng.normal(-0.2, 0.15, tiling.npix),
        "i350": base * 10 ** rng.normal(-0.5, 0.2, tiling.npix),
    }
    maps["i500"] = np.round(maps["i350"] * 10 ** rng.normal(-0.3, 0.05, tiling.npix), 1)  # with ties
    maps["i250"][rng.random(tiling.npix) < 0.1] = np.nan
    maps["i350"][: tiling.tile_npix] = np.nan
    maps["i160"][100:120] = 0.0
    stores.create_maps(where, [MapInfo(name, "intensity", "MJy/sr") for name in maps])
    stores.create_maps(where, [MapInfo("mask_x", "mask", "1", dtype="uint8"), MapInfo("flat", "x", "1")])
    arrays = {name: values.astype(np.float32) for name, values in maps.items()}
    arrays["mask_x"] = (rng.random(tiling.npix) < 0.3).astype(np.uint8)
    arrays["flat"] = np.full(tiling.npix, 3, np.float32)
    for name, values in arrays.items():
        for tile in range(tiling.n_tiles):
            stores.write_tile(where, name, tile, values[tiling.tile_slice(tile)])
    return where, arrays


NAMES = ["i250", "i350", "i500"]


def oracle(arrays, names, divide_by=None, mask=None):
    values = np.stack([arrays[name].astype(float) for name in names])
    if divide_by:
        with np.errstate(divide="ignore"):
            values = values / arrays[divide_by].astype(float)
    used = np.isfinite(values).all(0)
    if mask:
        used &= arrays[mask] == 0
    return values[:, used]


@pytest.mark.parametrize("divide_by", [None, "i160"])
@pytest.mark.parametrize("mask", [None, "mask_x"])
def test_maps_of_a_store_equal_scipy_on_whole_arrays(sky, divide_by, mask):
    where, arrays = sky
    found = correlate(where, NAMES, divide_by=divide_by, mask=mask).run(progress=False)
    values = oracle(arrays, NAMES, divide_by, mask)
    assert found.pixels == found.available == values.shape[1]
    oracles = {"pearson": scipy.stats.pearsonr, "spearman": scipy.stats.spearmanr, "kendall": scipy.stats.kendalltau}
    for kind, function in oracles.items():
        for i, j in itertools.combinations(range(3), 2):
            np.testing.assert_allclose(getattr(found, kind)[i, j], function(values[i], values[j])[0], atol=1e-12)


def test_the_divisor_is_left_out(sky):
    where, _ = sky
    assert correlate(where, ["i160", *NAMES], divide_by="i160").run(progress=False).maps == tuple(NAMES)


def test_max_pixels_takes_pixels_spread_over_the_sky(sky):
    where, arrays = sky
    found = correlate(where, NAMES, max_pixels=200).run(progress=False)
    values = oracle(arrays, NAMES)
    places = np.arange(200) * values.shape[1] // 200
    assert (found.pixels, found.available) == (200, values.shape[1])
    for kind, matrix in zip(KINDS, coefficients(values[:, places]), strict=True):
        np.testing.assert_array_equal(getattr(found, kind), matrix)
    everything = correlate(where, NAMES, max_pixels=10**9).run(progress=False)
    assert everything.pixels == everything.available == values.shape[1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 100))
def test_the_choice_does_not_depend_on_tiles(counts, wanted):
    total = sum(counts)
    wanted = min(wanted, total)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    if total == 0:
        return
    taken = np.concatenate(
        [start + spread_evenly(int(start), total, wanted, n) for start, n in zip(starts, counts, strict=True)]
    )
    np.testing.assert_array_equal(taken, np.arange(wanted) * total // wanted)


def test_report_holds_the_numbers_and_every_picture(sky, tmp_path):
    where, _ = sky
    found = correlate(where, NAMES, divide_by="i160", out_dir=tmp_path / "out").run(progress=False)
    written = json.loads((tmp_path / "out" / "correlations.json").read_text())
    assert written == json.loads(found.to_json())
    for kind in KINDS:
        np.testing.assert_array_equal(written[kind], getattr(found, kind))
        assert sorted(written["order"][kind]) == sorted(NAMES)
    page = (tmp_path / "out" / "index.html").read_text()
    for kind in KINDS:
        assert f'src="correlation_{kind}.png"' in page
        assert (tmp_path / "out" / f"correlation_{kind}.png").stat().st_size > 5000
    assert "i250 / i350" in str(found)


def test_similar_maps_stand_together():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 400))
    rows = np.stack([a, b, a + 0.1 * rng.normal(size=400), b + 0.1 * rng.normal(size=400)])
    order, tree = hierarchical_order(coefficients(rows)[1])
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset({0, 2}), frozenset({1, 3})}
    assert tree.shape == (3, 4)
    figure = correlation_figure(coefficients(rows)[1], ["a", "b", "c", "d"], kind="Spearman")
    labels = [text.get_text() for text in figure.axes[1].get_xticklabels()]
    assert labels == [["a", "b", "c", "d"][place] for place in order]


def test_nothing_happens_before_run(sky, tmp_path):
    where, _ = sky
    plan = correlate(where, NAMES, out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "gathers at most" in str(plan)
    assert plan.n_tiles == 12 * TILE_NSIDE**2
    assert len(plan.todo) == plan.n_tiles - 1  # one map has nothing in tile 0


@pytest.mark.parametrize(
    ("maps", "options", "error", "words"),
    [
        (["i250", "i35O"], {}, MissingMapError, "i350"),
        (["i250"], {}, InputError, "at least two"),
        ("i250", {}, InputError, "list"),
        (["i250", "i160"], {"divide_by": "i160"}, InputError, "at least two"),
        (NAMES, {"divide_by": "nothing"}, MissingMapError, "nothing"),
        (NAMES, {"mask": "mask_y"}, MissingMapError, "mask_x"),
        (NAMES, {"max_pixels": 1}, InputError, "max_pixels"),
        (["mask_x", "i250"], {"mask": "mask_x"}, InputError, "both"),
    ],
)
def test_bad_input_is_refused_before_the_run(sky, maps, options, error, words):
    with pytest.raises(error, match=words):
        correlate(sky[0], maps, **options)


def test_a_constant_map_is_named(sky):
    with pytest.raises(InputError, match="'flat' is constant"):
        correlate(sky[0], ["i250", "flat"]).run(progress=False)


def test_too_few_pixels_are_named(sky, tmp_path):
    stores.create(tmp_path / "s.zarr", 4, frame="galactic")
    stores.create_maps(tmp_path / "s.zarr", [MapInfo(name, "x", "1") for name in ("a", "b")])
    with pytest.raises(InputError, match=r"0 pixels .* need"):
        correlate(tmp_path / "s.zarr", ["a", "b"]).run(progress=False)


def test_more_pixels_than_memory_are_refused_with_a_number_that_fits(sky):
    small = {"memory": 250_000_000 + 150_000, "threads": 1}
    plan = correlate(sky[0], NAMES, **small)
    with pytest.raises(MemoryLimitError, match="max_pixels=892 fits"):
        plan.run(progress=False)
    assert correlate(sky[0], NAMES, **small, max_pixels=892).run(progress=False).pixels == 892


@pytest.mark.parametrize("threads", [1, 3])
def test_coefficients_take_the_threads_that_the_plan_is_given(sky, monkeypatch, threads):
    seen = []

    def noted(values, threads):
        seen.append(threads)
        return coefficients(values, threads)

    monkeypatch.setattr("skymill.engine.correlate.coefficients", noted)
    correlate(sky[0], NAMES, threads=threads).run(progress=False)
    plan = correlate(sky[0], NAMES)
    plan.worker = Worker(memory=plan.worker.memory, threads=threads)  # as the command line settles it
    plan.run(progress=False)
    assert seen == [threads, threads]


def test_public_name():
    assert sm.correlate is correlate
