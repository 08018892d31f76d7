"""k-means on arrays, held against scikit-learn."""

from __future__ import annotations

import itertools
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.preprocessing import StandardScaler
from skymill.chunking import errors
from skymill.models import kmeans as km
from skymill.models import kmeans_assign, kmeans_start
from skymill.models.kmeans_voxels import BLOCK


def sample(seed, cells=700, channels=6, gaps=0.0, used=None):
    """Return vectors, velocities, columns, widths, and the voxels as scikit-learn wants them."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(cells, 3))
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    vectors = vectors[np.argsort(vectors[:, 2])]  # neighbours close together, as in NESTED order
    velocity, width = np.sort(rng.normal(size=channels)) * 40, rng.uniform(1, 3, channels)
    column = (rng.lognormal(size=(channels, cells)) * (1.2 + vectors[:, 0])).astype(np.float32)
    column[rng.random(column.shape) < gaps] = np.nan
    there = np.isfinite(column)
    if used is not None:
        there &= used
    pixel, channel = np.nonzero(there.T)
    plain = np.column_stack(
        [vectors[pixel], velocity[channel], column[channel, pixel].astype(np.float64) / width[channel]]
    )
    return km.Voxels.of(vectors, velocity, column, width=width, used=used), plain, column, there


def theirs(points, init, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return KMeans(len(init), init=init, n_init=1, algorithm="lloyd", **options).fit(points)


WEIGHTS = km.weights_of({"v": 2.0, "n": 1.5})


@pytest.mark.parametrize("gaps", [0.0, 0.1])
def test_standardisation(gaps):
    voxels, plain, _, _ = sample(0, gaps=gaps)
    scaler = StandardScaler().fit(plain)
    assert voxels.moments.count == len(plain)
    np.testing.assert_allclose(voxels.moments.mean, scaler.mean_, rtol=0, atol=1e-11)
    np.testing.assert_allclose(voxels.moments.scale, scaler.scale_, rtol=1e-12)
    scaling = km.Scaling.of(voxels.moments, WEIGHTS)
    np.testing.assert_allclose(scaling.scaled(plain), scaler.transform(plain) * WEIGHTS, atol=1e-12)
    np.testing.assert_allclose(scaling.physical(scaling.scaled(plain)), plain, atol=1e-11)


@given(
    seed=st.integers(0, 1000),
    cells=st.integers(3, 900),
    channels=st.integers(1, 7),
    k=st.integers(1, 9),
    gaps=st.sampled_from([0.0, 0.0, 0.05, 0.9]),
    options=st.sampled_from([{"tol": 0.0}, {"tol": 1e-3}, {"tol": 0.0, "max_iter": 3}]),
)
@settings(max_examples=40, deadline=None)
def test_same_centres_as_scikit_learn(seed, cells, channels, k, gaps, options):
    used = np.random.default_rng(seed).random(cells) < 0.9
    voxels, plain, _, there = sample(seed, cells, channels, gaps, used)
    if len(plain) < 2 * k + 1:  # where every voxel is a centre, rounding decides whether these have moved
        return
    scaling = km.Scaling.of(voxels.moments, WEIGHTS)
    points = scaling.scaled(plain)
    init = points[np.random.default_rng(seed).choice(len(points), k, replace=False)]
    known = theirs(points, init, **options)
    found = km.lloyd(
        km.InMemory([voxels]),
        scaling,
        km.State(init),
        tolerance=options["tol"],
        max_iterations=options.get("max_iter", 300),
    )
    np.testing.assert_allclose(found.scaled, known.cluster_centers_, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.inertia, known.inertia_, rtol=1e-10, atol=1e-9)
    assert found.iterations == known.n_iter_
    label = km.labels(voxels, scaling, found.scaled)
    assert (label[~there] == -1).all()
    np.testing.assert_array_equal(label.T[there.T], known.labels_)
    np.testing.assert_array_equal(found.numbers, np.bincount(known.labels_, minlength=k))


def nothing_settled(voxels, lines, slab):
    rows = voxels.count[slab].size
    return np.ones((len(lines.offset), rows), np.bool_), np.zeros(rows, np.intp)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1, 1), (1, 1, 1, 5, 0.2), (0, 0, 1, 0, 4)])
def test_bounds_settle_nothing_wrongly(weights, monkeypatch):
    voxels, _, _, _ = sample(3, 3000, gaps=0.01)
    scaling = km.Scaling.of(voxels.moments, np.array(weights, float))
    centres = np.random.default_rng(1).normal(size=(7, 5)) * weights
    fast = kmeans_assign.statistics(voxels, scaling, centres)
    looked = kmeans_assign.statistics  # and with bounds that settle nothing, so that every voxel is looked at
    monkeypatch.setattr(kmeans_assign, "_possible", nothing_settled)
    slow = looked(voxels, scaling, centres)
    assert fast.same_labels(slow)
    np.testing.assert_allclose(fast.columns, slow.columns, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(fast.vectors, slow.vectors, rtol=0, atol=1e-9)
    label = km.labels(voxels, scaling, centres)
    np.testing.assert_array_equal(fast.counts, [(label == cluster).sum(axis=1) for cluster in range(7)])


@pytest.mark.parametrize("gaps", [0.0, 0.02])
def test_many_channels_are_counted_right(gaps, monkeypatch):
    """More voxels of a pixel between the same two centres than a byte holds."""
    voxels, plain, _, _ = sample(6, 2 * BLOCK, 900, gaps)
    scaling = km.Scaling.of(voxels.moments, km.weights_of(None))
    centres = np.random.default_rng(2).normal(size=(3, 5))
    monkeypatch.setattr(kmeans_assign, "_possible", nothing_settled)
    found = kmeans_assign.statistics(voxels, scaling, centres)
    points = scaling.scaled(plain)
    label = ((points[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    for cluster in range(3):
        assert found.numbers[cluster] == (label == cluster).sum()
        np.testing.assert_allclose(found.vectors[cluster], plain[label == cluster, :3].sum(axis=0), rtol=1e-10)


@pytest.mark.parametrize(("k", "channels"), [(2, 41), (7, 41), (40, 10), (300, 5)])
def test_temporaries_take_what_is_told(k, channels, monkeypatch):
    voxels, _, _, _ = sample(7, 600 * BLOCK, channels)
    scaling = km.Scaling.of(voxels.moments, WEIGHTS)
    centres = np.random.default_rng(3).normal(size=(k, 5))
    told = kmeans_assign.bytes_of_statistics(k, channels, voxels.blocks)
    for possible in (kmeans_assign._possible, nothing_settled):
        monkeypatch.setattr(kmeans_assign, "_possible", possible)
        tracemalloc.start()
        try:
            kmeans_assign.statistics(voxels, scaling, centres)
            peak = tracemalloc.get_traced_memory()[1] + kmeans_assign.Room.nbytes
        finally:
            tracemalloc.stop()
        assert peak < told
    assert told < 3 * peak


def test_most_blocks_are_settled_without_a_look():
    # What makes it fast: with velocity weighted high, few rows of blocks lie between clusters.
    voxels, _, _, _ = sample(4, 20 * BLOCK, 12)
    scaling = km.Scaling.of(voxels.moments, km.weights_of({"v": 5.0, "n": 0.2}))
    centres = km.cluster_voxels(km.InMemory([voxels]), 3, weights=km.weights_of({"v": 5.0, "n": 0.2})).scaled
    lines = kmeans_assign.Lines.of(voxels, scaling, centres)
    possible, _ = kmeans_assign._possible(voxels, lines, slice(0, voxels.blocks))
    assert (possible.sum(axis=0) == 1).mean() > 0.9


def test_empty_clusters_are_put_on_the_farthest_voxel():
    voxels, plain, _, _ = sample(5)
    scaling = km.Scaling.of(voxels.moments, WEIGHTS)
    points = scaling.scaled(plain)
    init = np.vstack([points[:2], [[50.0, 0, 0, 0, 0]]])
    known = theirs(points, init, tol=0.0)
    found = km.lloyd(km.InMemory([voxels]), scaling, km.State(init), tolerance=0.0)
    np.testing.assert_allclose(found.scaled, known.cluster_centers_, atol=1e-10)
    assert (found.numbers > 0).all()


def test_parts_and_their_sizes_change_only_rounding():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1000, 3))
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    velocity = np.linspace(-60, 60, 5)
    column = rng.lognormal(size=(5, 1000)).astype(np.float32)
    found = []
    for edges in ([0, 1000], [0, 137, 600, 1000]):
        parts = [km.Voxels.of(vectors[a:b], velocity, column[:, a:b]) for a, b in itertools.pairwise(edges)]
        for init in ("greedy", "parallel"):
            found.append(km.cluster_voxels(km.InMemory(parts), 4, init=init, seed=3))
    np.testing.assert_allclose(found[0].scaled, found[2].scaled, atol=1e-11)
    np.testing.assert_allclose(found[1].scaled, found[3].scaled, atol=1e-11)
    assert found[0].inertia == pytest.approx(found[2].inertia, rel=1e-12)


def test_continues_from_a_state():
    voxels, _, _, _ = sample(6)
    passes, scaling = km.InMemory([voxels]), km.Scaling.of(voxels.moments, WEIGHTS)
    begin = km.start(passes, scaling, 5, seed=0)
    states = []
    whole = km.lloyd(passes, scaling, km.State(begin), tolerance=0.0, keep=states.append)
    assert len(states) > 4
    again = km.lloyd(passes, scaling, states[2], tolerance=0.0)
    assert again.scaled.tobytes() == whole.scaled.tobytes()
    assert (again.inertia, again.iterations) == (whole.inertia, whole.iterations)


def test_tolerance_iterations_and_starts_count():
    voxels, _, _, _ = sample(7, gaps=0.02)
    passes = km.InMemory([voxels])
    strict = km.cluster_voxels(passes, 6, tolerance=0.0)
    loose = km.cluster_voxels(passes, 6, tolerance=1e-2)
    short = km.cluster_voxels(passes, 6, tolerance=0.0, max_iterations=2)
    assert (strict.converged, loose.converged, short.converged) == ("labels", "tolerance", "no")
    assert strict.iterations > loose.iterations > short.iterations == 2
    alone = [km.cluster_voxels(passes, 6, seed=0, tolerance=0.0).inertia]
    several = km.cluster_voxels(passes, 6, seed=0, n_init=6, tolerance=0.0).inertia
    assert several <= alone[0]
    assert len({km.cluster_voxels(passes, 6, seed=seed).inertia for seed in range(6)}) > 1


def test_draws_follow_the_potential():
    voxels, plain, _, _ = sample(8, 40, 3, gaps=0.2)
    scaling = km.Scaling.of(voxels.moments, WEIGHTS)
    points = scaling.scaled(plain)
    centres = points[:2]
    squared = ((points[:, None] - centres[None]) ** 2).sum(axis=2).min(axis=1)
    amounts = (np.arange(20_000) + 0.5) / 20_000 * squared.sum()
    found = kmeans_start.draw(voxels, scaling, centres, amounts)
    match = (np.abs(found[:, None] - points[None]).max(axis=2) < 1e-9).argmax(axis=1)
    share = np.bincount(match, minlength=len(points)) / amounts.size
    np.testing.assert_allclose(share, squared / squared.sum(), atol=1.5e-4)
    # In the order of pixels, and of channels within a pixel.
    expected = np.searchsorted(np.cumsum(squared), amounts)
    assert (np.abs(match - expected) <= 1).all()
    assert (match == expected).mean() > 0.99


@pytest.mark.parametrize("init", ["greedy", "parallel"])
def test_starts_are_as_good_as_those_of_scikit_learn(init):
    voxels, plain, _, _ = sample(9, 400, 8)
    passes = km.InMemory([voxels])
    scaling = km.Scaling.of(voxels.moments, WEIGHTS)
    points = scaling.scaled(plain)

    def potential(centres):
        return ((points[:, None] - centres[None]) ** 2).sum(axis=2).min(axis=1).sum()

    from sklearn.cluster import kmeans_plusplus

    mine = [potential(km.start(passes, scaling, 8, seed=seed, init=init)) for seed in range(20)]
    known = [potential(kmeans_plusplus(points, 8, random_state=seed)[0]) for seed in range(20)]
    random = [potential(points[np.random.default_rng(s).choice(len(points), 8, replace=False)]) for s in range(20)]
    assert np.mean(mine) < 1.1 * np.mean(known) < 1.1 * np.mean(random)
    assert len(set(mine)) > 15  # the seed counts


def test_farthest_voxels():
    voxels, plain, _, _ = sample(10, 300, 4, gaps=0.3)
    scaling = km.Scaling.of(voxels.moments, WEIGHTS)
    points = scaling.scaled(plain)
    centres = points[:3]
    squared = ((points[:, None] - centres[None]) ** 2).sum(axis=2)
    order = np.argsort(-squared.min(axis=1), kind="stable")[:7]
    far = kmeans_start.farthest(voxels, scaling, centres, 7)
    np.testing.assert_allclose([each[0] for each in far], squared.min(axis=1)[order], rtol=1e-12)
    assert [each[1] for each in far] == squared.argmin(axis=1)[order].tolist()
    np.testing.assert_allclose([each[2] for each in far], points[order], atol=1e-12)


def test_columns_of_clusters_add_up_to_the_whole():
    used = np.arange(700) % 5 > 0
    voxels, _, column, there = sample(11, gaps=0.1, used=used)
    found = km.cluster_voxels(km.InMemory([voxels]), 4, weights=WEIGHTS)
    maps = km.cluster_columns(voxels, found.scaling, found.scaled)
    whole = np.where(there, column, 0).sum(axis=0, dtype=np.float64)
    np.testing.assert_allclose(maps.sum(axis=0, dtype=np.float64)[used], whole[used], rtol=3e-7)
    assert np.isnan(maps[:, ~used]).all()
    twice = km.cluster_columns(voxels, found.scaling, found.scaled, np.full(6, 2.0))
    np.testing.assert_array_equal(twice, 2 * maps)
    np.testing.assert_allclose(found.statistics.columns.sum(axis=1), np.nansum(maps, axis=1), rtol=1e-6)


def test_agreement_of_clusterings():
    voxels, _, _, there = sample(12, gaps=0.05)
    scaling = km.Scaling.of(voxels.moments, WEIGHTS)
    rng = np.random.default_rng(0)
    sets = [rng.normal(size=(k, 5)) for k in (3, 4, 4)]
    tables = km.contingency(voxels, scaling, sets)
    assert sorted(tables) == [(0, 1), (0, 2), (1, 2)]
    label = [km.labels(voxels, scaling, centres)[there] for centres in sets]
    for (one, other), table in tables.items():
        np.testing.assert_array_equal(
            table[table.any(axis=1)][:, table.any(axis=0)], contingency_matrix(label[one], label[other])
        )
        assert km.adjusted_rand_index(table) == pytest.approx(
            adjusted_rand_score(label[one], label[other]), rel=1e-12, abs=1e-15
        )
    assert km.adjusted_rand_index(np.diag([10**10, 10**11])) == 1.0


def test_attributes_that_are_constant_count_nothing():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 3))
    column = rng.lognormal(size=(1, 300)).astype(np.float32)
    voxels = km.Voxels.of(vectors, [5.0], column)
    scaling = km.Scaling.of(voxels.moments, WEIGHTS)
    assert scaling.factor[3] == 0
    assert voxels.moments.scale[3] == 0
    found = km.cluster_voxels(km.InMemory([voxels]), 3, weights=WEIGHTS)
    np.testing.assert_allclose(found.centres[:, 3], 5.0)


def test_weights_change_the_clusters():
    voxels, _, _, _ = sample(13)
    base = km.cluster_voxels(km.InMemory([voxels]), 3).centres
    for name in km.ATTRIBUTES:
        other = km.cluster_voxels(km.InMemory([voxels]), 3, weights=km.weights_of({name: 4.0})).centres
        assert not np.allclose(base, other)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"w": 1.0}, "'w'"),
        ({"v": -1.0}, "0 or above"),
        ({"v": float("nan")}, "finite"),
        (dict.fromkeys("xyzvn", 0.0), "every attribute"),
    ],
)
def test_bad_weights(weights, words):
    with pytest.raises(errors.InputError, match=words):
        km.weights_of(weights)


def test_bad_input():
    voxels, _, _, _ = sample(14, 20, 2)
    for k, words in ((0, "at least one"), (41, "only 40 voxels")):
        with pytest.raises(errors.InputError, match=words):
            km.cluster_voxels(km.InMemory([voxels]), k)
    vectors = np.eye(3)
    nothing = km.Voxels.of(vectors, [0.0], np.full((1, 3), np.nan, np.float32))
    with pytest.raises(errors.InputError, match="no voxel is left"):
        km.cluster_voxels(km.InMemory([nothing]), 1)
    same = km.Voxels.of(np.tile(vectors[:1], (4, 1)), [0.0], np.ones((1, 4), np.float32))
    with pytest.raises(errors.InputError, match="told apart"):
        km.cluster_voxels(km.InMemory([same]), 2)
    assert km.cluster_voxels(km.InMemory([same]), 1).inertia == 0
    for bad in (
        {"velocity": [[0.0]]},
        {"velocity": [0.0, 1.0]},
        {"vectors": vectors[:2]},
        {"width": [0.0]},
        {"velocity": [np.nan]},
        {"used": np.ones(2, bool)},
    ):
        options = {"vectors": vectors, "velocity": [0.0], "column": np.ones((1, 3), np.float32), **bad}
        with pytest.raises(errors.InputError, match=r"expected|finite"):
            km.Voxels.of(**options)


def test_infinite_values_count_as_none():
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(300, 3))
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    column = rng.gamma(2.0, 1.0, (5, 300)).astype(np.float32)
    speeds = np.linspace(-40.0, 40.0, 5)
    missing, infinite = column.copy(), column.copy()
    missing[1, ::7], infinite[1, ::7] = np.nan, np.inf
    infinite[1, ::14] = -np.inf
    found = [km.cluster_voxels(km.InMemory([km.Voxels.of(vectors, speeds, each)]), 3) for each in (missing, infinite)]
    np.testing.assert_array_equal(found[0].scaled, found[1].scaled)
    np.testing.assert_array_equal(found[0].numbers, found[1].numbers)
    assert found[0].inertia == found[1].inertia > 0
