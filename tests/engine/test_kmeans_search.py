"""The search over k, w_v and w_n: the elbow of a sky with known clouds, trials kept, the same with any workers."""

import json

import numpy as np
import pytest
import skymill as sm
from skymill.chunking.errors import InputError, MissingMapError
from skymill.engine import search_trials
from skymill.engine.search_trials import Kept, Outcome, Trial, around, grid
from skymill.models.gls import accumulate

SMALL = {"v": [1.0, 4.0], "n": [0.3], "rounds": 1, "templates": ["nhii"], "noise": "sigma_i857", "mask": "mask"}


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    where = str(tmp_path_factory.mktemp("search") / "sky.zarr")
    sm.simulate("gas", where, 32, seed=1).run(progress=False)
    return where


@pytest.fixture(scope="module")
def found(sky, tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    plan = sm.kmeans_search(sky, "n_hi", k=[1, 2, 3, 4], region="ngc", out_dir=folder / "search", **SMALL)
    return folder / "search", plan.run(progress=False)


def test_the_elbow_is_at_the_clouds_that_there_are(found):
    _, dataset = found
    assert dataset.attrs["k"] == 3
    assert dataset["best_chi2"].values[1] > 3 * dataset["best_chi2"].values[2]
    assert dataset.attrs["v"] > dataset.attrs["n"]
    best = dataset["trial_chi2"].where(dataset["trial_k"] == 3).min()
    assert float(best) == float(dataset["best_chi2"].sel(k=3))


def test_later_rounds_look_around_the_best(found):
    _, dataset = found
    own = dataset["trial_k"] == 3
    values = set(dataset["trial_v"].values[own.values].tolist())
    assert {1.0, 4.0} < values
    assert len(values) == 4


def test_a_trial_is_kmeans_and_then_a_fit(sky, found, tmp_path):
    _, dataset = found
    place = int(np.flatnonzero((dataset["trial_k"] == 2) & (dataset["trial_v"] == 4.0))[0])
    out = str(tmp_path / "clusters.zarr")
    clusters = sm.kmeans(
        sky, "n_hi", k=2, weights={"v": 4.0, "n": 0.3}, mask="mask", region="ngc", out="cluster", out_store=out
    ).run(progress=False)
    assert float(clusters["inertia"]) == pytest.approx(float(dataset["trial_inertia"][place]), rel=1e-12)
    maps, held = sm.open(out), sm.open(sky)
    design = [maps["cluster_1"].values, maps["cluster_2"].values, held["nhii"].values]
    wanted = accumulate(design, [held["i857"].values], [held["sigma_i857"].values.astype(float) ** -2]).solve(
        variance=np.ones(1)
    )
    np.testing.assert_allclose(dataset["trial_chi2"].values[place], wanted.chi2[0], rtol=1e-6)
    assert dataset["trial_dof"].values[place] == wanted.dof


def test_what_was_run_is_not_run_again(sky, found, monkeypatch):
    folder, dataset = found
    monkeypatch.setattr(search_trials.TrialTask, "__call__", lambda self, number: pytest.fail("run again"))
    again = sm.kmeans_search(sky, "n_hi", k=[1, 2, 3, 4], region="ngc", out_dir=folder, **SMALL).run(progress=False)
    assert again.identical(dataset)


def test_a_stopped_search_goes_on(sky, found, tmp_path, monkeypatch):
    _, dataset = found
    run, ended = search_trials.TrialTask.__call__, []

    def stopped(self, number):
        if len(ended) == 3:
            raise KeyboardInterrupt
        ended.append(number)
        return run(self, number)

    def plan():
        return sm.kmeans_search(
            sky, "n_hi", k=[1, 2, 3, 4], region="ngc", out_dir=tmp_path / "search", threads=1, **SMALL
        )

    with monkeypatch.context() as patch:
        patch.setattr(search_trials.TrialTask, "__call__", stopped)
        with pytest.raises(BaseException):  # noqa: B017 - interrupts come in whatever form threads give them
            plan().run(progress=False)
    kept = list((tmp_path / "search" / "trials").iterdir())
    assert 0 < len(kept) <= 3
    again = plan()
    assert f" trials, {len(kept)} of them done already, then " in str(again)
    assert again.run(progress=False).identical(dataset)


def test_any_number_of_threads_gives_the_same(sky, found):
    _, dataset = found
    again = sm.kmeans_search(sky, "n_hi", k=[1, 2, 3, 4], region="ngc", threads=1, **SMALL)
    assert again.run(progress=False).identical(dataset)


def test_workers_give_the_same_and_keep_no_pixels(sky):
    options = {"k": [1, 2], "v": [1.0], "n": [0.3], "rounds": 1, "region": "ngc", "mask": "mask"}
    here = sm.kmeans_search(sky, "n_hi", **options).run(progress=False)
    with sm.connect(workers=2, threads=1, memory="1GB") as client:
        there = sm.kmeans_search(sky, "n_hi", **options).run(client, progress=False)
        assert there.identical(here)
        assert set(client.run(lambda: len(search_trials._kept)).values()) == {0}


def test_the_folder_holds_numbers_figures_and_a_page(found):
    folder, dataset = found
    told = json.loads((folder / "search.json").read_text())
    assert told["best_chi2"] == dataset["best_chi2"].values.tolist()
    assert told["attributes"]["k"] == 3
    page = (folder / "index.html").read_text()
    for name in ("elbow.png", "weights.png"):
        assert (folder / name).stat().st_size > 5000
        assert name in page


def test_cluster_maps_of_the_elbow_are_written_where_asked_for(sky, tmp_path):
    options = {**SMALL, "v": [4.0], "rounds": 0, "region": "sgc"}
    plan = sm.kmeans_search(sky, "n_hi", k=[1, 2], out="elbow", **options)
    assert 0 < plan.write_bytes <= 2 * 4 * 12 * 32**2
    assert "elbow_1 to at most elbow_2" in str(plan)
    dataset = plan.run(progress=False)
    maps = sm.open(sky)
    k = dataset.attrs["k"]
    total = sum(maps[f"elbow_{place + 1}"].values.astype(float) for place in range(k))
    used = np.isfinite(total)
    assert used.any()
    np.testing.assert_allclose(total[used], maps["n_hi"].values.astype(float).sum(axis=0)[used], rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"templates": []},
        {"noise": None},
        {"offset": False},
        {"mask": None},
        {"seed": 5, "init": "parallel"},
        {"tolerance": 0.5},
        {"max_iterations": 1},
        {"target": "i353", "noise": "sigma_i353"},
    ],
)
def test_every_option_changes_chi2(sky, options):
    base = {"k": [3], "v": [2.0], "n": [0.5], "rounds": 0, "region": "ngc"}
    base |= {"templates": ["nhii"], "noise": "sigma_i857", "mask": "mask"}
    one = sm.kmeans_search(sky, "n_hi", **base).run(progress=False)
    other = sm.kmeans_search(sky, "n_hi", **{**base, **options}).run(progress=False)
    assert float(one["best_chi2"][0]) != float(other["best_chi2"][0])


def test_share_and_n_init_matter(sky):
    base = {"k": [1, 2, 3], "v": [2.0], "n": [0.5], "rounds": 0, "region": "ngc", "mask": "mask"}
    assert sm.kmeans_search(sky, "n_hi", share=1.0, **base).run(progress=False).attrs["k"] == 1
    assert sm.kmeans_search(sky, "n_hi", share=0.0, **base).run(progress=False).attrs["k"] > 1
    base |= {"k": [6], "max_iterations": 10}
    one = sm.kmeans_search(sky, "n_hi", **base).run(progress=False)
    many = sm.kmeans_search(sky, "n_hi", n_init=4, **base).run(progress=False)
    assert float(many["inertia"][0]) < float(one["inertia"][0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": []}, "`k`"),
        ({"k": [0, 1]}, "`k`"),
        ({"v": [-1.0]}, "`v`"),
        ({"n": []}, "`n`"),
        ({"rounds": -1}, "`rounds`"),
        ({"share": 2.0}, "`share`"),
        ({"init": "random"}, "`init`"),
        ({"n_init": 0}, "`n_init`"),
        ({"seed": -1}, "`seed`"),
        ({"tolerance": -1.0}, "`tolerance`"),
        ({"max_iterations": 0}, "`max_iterations`"),
        ({"k": [2, 100_000]}, "`k`"),
        ({"out": "my clusters"}, "'my clusters_1' came as the name of a map"),
    ],
)
def test_bad_options(sky, options, words):
    with pytest.raises(InputError, match=words):
        sm.kmeans_search(sky, "n_hi", **options)


def test_bad_maps(sky):
    with pytest.raises(InputError, match="cube"):
        sm.kmeans_search(sky, "nhii")
    with pytest.raises(MissingMapError):
        sm.kmeans_search(sky, "n_hi", "i858")
    with pytest.raises(InputError, match="k=1 could be fitted") as told:
        sm.kmeans_search(sky, "n_hi", k=[1], v=[1.0], n=[1.0], rounds=0, templates=["nhi"]).run(progress=False)
    assert "ridge" not in str(told.value)  # of which a search has none
    with pytest.raises(InputError, match="no voxel"):
        sm.kmeans_search(sky, "n_hi", k=[1], v=[1.0], n=[1.0], region="b > 89.999").run(progress=False)


def test_grids():
    assert grid([2, 1], [1.0, 1.0], [0.5]) == [Trial(1, 1.0, 0.5), Trial(2, 1.0, 0.5)]
    second = around(Trial(2, 4.0, 1.0), [1.0, 4.0, 16.0], [0.0, 1.0], 2)
    assert sorted({round(trial.v, 3) for trial in second}) == [2.828, 4.0, 5.657]
    assert {trial.n for trial in second} == {1.0}
    assert around(Trial(2, 4.0, 0.0), [4.0], [0.0, 1.0, 2.0], 1) == [Trial(2, 4.0, 0.0)]


def test_damaged_and_foreign_outcomes_are_run_again(tmp_path):
    trial, outcome = Trial(2, 4.0, 0.3), Outcome(Trial(2, 4.0, 0.3), 10.5, 7, 3.25, 4, (1.0, 2.0))
    kept = Kept(tmp_path, {"seed": 1})
    assert kept.get(trial) is None
    kept.put(outcome)
    assert kept.get(trial) == outcome
    assert Kept(tmp_path, {"seed": 2}).get(trial) is None
    assert kept.get(Trial(2, 4.0 + 1e-12, 0.3)) is None  # of the same name in the folder, and another trial
    (tmp_path / "trials" / f"{trial.label}.json").write_text("{")
    assert kept.get(trial) is None
