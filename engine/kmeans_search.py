"""The search for a clustering: numbers of clusters and weights of velocity and density that fit a map best."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..chunking import store as stores
from ..chunking.errors import InputError, RunError
from ..chunking.schema import check_name
from ..models.kmeans import bytes_of_voxels
from ..models.template_choice import ELBOW_SHARE, elbow
from . import ledger
from .arguments import checked
from .figures import save
from .figures_search import elbow_figure, weights_figure
from .fit_request import FitRequest, Noise, Where, request_of
from .kmeans import kmeans
from .kmeans_maps import cluster_names
from .kmeans_request import KmeansRequest, options_of
from .kmeans_request import request_of as voxels_of
from .mapping import make_executor
from .plan import RESERVED_BYTES, Plan, Run
from .progress import Progress
from .records import write_text
from .report import Page, make_directory, number, plain
from .search_trials import Kept, Outcome, Trial, TrialTask, around, forget, grid
from .window import ThreadsExecutor, run_window
from .worker import Worker, parse_bytes

if TYPE_CHECKING:
    import xarray as xr

V_GRID = (0.5, 1.0, 2.0, 4.0, 8.0)
N_GRID = (0.1, 0.3, 1.0)


@checked
def kmeans_search(
    store: stores.StoreAddress,
    cube: str,
    target: str = "i857",
    *,
    k: Sequence[int] = (1, 2, 3, 4, 5, 6),
    v: Sequence[float] = V_GRID,
    n: Sequence[float] = N_GRID,
    rounds: int = 2,
    templates: Sequence[str] = (),
    noise: Noise = None,
    offset: bool = True,
    mask: str | None = None,
    region: Where | None = None,
    share: float = ELBOW_SHARE,
    init: str = "greedy",
    n_init: int = 1,
    seed: int = 0,
    tolerance: float = 1e-4,
    max_iterations: int = 300,
    out_dir: str | os.PathLike[str] | None = None,
    out: str | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[xr.Dataset]:
    """Return the plan that searches the number of clusters and the weights whose columns fit a map best.

    A trial clusters the voxels with one k, w_v and w_n, and fits the columns of its clusters, the other templates and
    an offset to the target; what counts is chi^2.  The first round is a grid; every further one looks around the best
    weights of each k, at half the distance of the round before on a logarithmic scale.  Then the elbow over k is taken.
    Trials run beside each other, here or on the workers of a cluster, and with `out_dir` each is kept as it ends: the
    same command goes on where it was stopped.

    Parameters
    ----------
    store : str or path
        The sky store; its nside is that of the search (the publication works far below that of its data).
    cube : str
        Cube (channel, cells), see `kmeans`.
    target : str
        Map to fit.
    k : sequence of int
        Numbers of clusters.
    v, n : sequence of float
        Weights of velocity and density in the first round.  The published values are lost; the defaults are guesses.
    rounds : int
        Rounds after the first.
    templates : sequence of str
        Maps to fit beside the clusters, for example ["nhii"].
    noise, offset, mask, region
        As for `fit`; one region.
    share : float
        The elbow is the smallest k whose log chi^2 lies above the least one by at most this share of the whole range.
    init, n_init, seed, tolerance, max_iterations
        As for `kmeans`.
    out_dir : path, optional
        Folder for the trials, `search.json`, figures and `index.html`.
    out : str, optional
        Write the cluster maps of the elbow's best trial, as `kmeans` does with the same name.
    overwrite : bool
        Replace cluster maps that another run made.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan of xarray.Dataset
        Over `k`: best_chi2, dof, best_v, best_n, iterations, inertia; over `trial`, in the order of the search:
        trial_k, trial_v, trial_n, trial_chi2, trial_dof, trial_inertia, trial_iterations (float64 and int64; NaN where
        a fit could not be solved).  chi^2 is in squares of the target's unit where no noise is given.  Attributes
        "k" (the elbow), "v" and "n" (its best weights), "target", "failed".

    Raises
    ------
    MissingMapError
        If the store does not hold a map.
    InputError
        If an option makes no sense, no pixel is left, or (when run) no trial of some k can be fitted.

    References
    ----------
    Cheng et al. 2025, appendix A and Fig. 4: weights that minimise chi^2 of the fit at 857 GHz, for every k.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     _ = sm.simulate("gas", sky, 8, seed=1).run()
    ...     found = sm.kmeans_search(sky, "n_hi", k=[1, 2], v=[2.0], n=[0.3], rounds=0, mask="mask").run()
    ...     found.sizes["trial"], bool(found["best_chi2"][1] < found["best_chi2"][0])
    (2, True)
    """
    _check(k, v, n, rounds, share)
    for clusters in {min(k), max(k)}:
        options_of(clusters, None, seed, init, n_init, tolerance, max_iterations)
    request = request_of(
        store, templates, target, noise=noise, mask=mask, region=region, offset=offset, jackknife=None,
        superpixels=None, ridge=0.0, maps=False,
    )  # fmt: skip
    voxels = voxels_of(request.store, cube, mask, region)
    options: dict[str, Any] = {
        "init": init, "n_init": n_init, "seed": seed, "tolerance": tolerance, "max_iterations": max_iterations
    }  # fmt: skip
    worker = Worker.here(threads, parse_bytes(memory))
    cells = len(voxels.tiles) * request.tiling.tile_npix
    channels = len(voxels.cube.velocity)
    first = grid(k, v, n)
    for name in () if out is None else cluster_names(out, max(k)):
        check_name(name)  # now, not after the search
    there = Kept(None if out_dir is None else Path(out_dir), _facts(request, voxels, options))
    before = sum(there.get(trial) is not None for trial in first)

    def execute(run: Run) -> xr.Dataset:
        folder = None if out_dir is None else make_directory(out_dir)
        kept = Kept(folder, _facts(request, voxels, options))  # anew: maps may have changed since the plan
        found: dict[Trial, Outcome] = {}

        def go(trials: Sequence[Trial], label: str) -> None:
            task = TrialTask(request, voxels, kept.identity, tuple(trials), options)
            _run(task, found, kept, run, label)

        try:
            go(first, "search")
            for round_ in range(1, rounds + 1):
                best = [_best(found, number) for number in sorted(set(k))]
                asked = {trial for each in best if each is not None for trial in around(each.trial, v, n, round_)}
                go(sorted(asked - set(found)), f"search, round {round_ + 1}")
        finally:
            forget()
            if run.client is not None:
                run.client.run(forget, on_error="ignore")
        dataset = _dataset(found, sorted(set(k)), target, share)
        if folder is not None:
            _write(dataset, folder)
        if out is not None:
            plan = kmeans(
                request.store, cube, dataset.attrs["k"], weights={"v": dataset.attrs["v"], "n": dataset.attrs["n"]},
                mask=mask, region=region, out=out, overwrite=overwrite, threads=threads, memory=memory, **options,
            )  # fmt: skip
            plan.run(run.client, progress=run.progress)
        return dataset

    return Plan(
        "kmeans_search",
        request.store if out_dir is None else os.fspath(out_dir),
        execute,
        worker,
        read_bytes=4 * cells * (channels + len(request.reads)),
        write_bytes=0 if out is None else 4 * cells * max(k),
        memory={"columns": 4 * cells * 2 * max(k), "products": 8 * 40 * (max(k) + len(request.reads)) * 2**14},
        reserved=RESERVED_BYTES + bytes_of_voxels(cells, channels) + 4 * cells * len(request.values),
        notes=[
            f"{len(first)} trials, {before} of them done already, then {rounds} rounds of at most {8 * len(set(k))} "
            "around the best",
            *([] if out is None else [f"then writes {out}_1 to at most {out}_{max(k)} into {request.store}"]),
        ],
    )


def _check(k: Sequence[int], v: Sequence[float], n: Sequence[float], rounds: int, share: float) -> None:
    if not len(k) or min(k) < 1:
        raise InputError(f"`k` {list(k)} came; give numbers of clusters, 1 or more.")
    for option, values in (("v", v), ("n", n)):
        if not len(values) or min(values) < 0 or not np.isfinite(values).all():
            raise InputError(f"`{option}` {list(values)} came; give weights, 0 or above.")
    if rounds < 0:
        raise InputError(f"`rounds` {rounds} came; give 0 or more.")
    elbow([1], [1.0], share)


def _facts(request: FitRequest, voxels: KmeansRequest, options: dict[str, Any]) -> dict[str, Any]:
    """Return everything that the outcome of a trial depends on but the trial."""
    from .. import __version__

    return {
        "skymill": __version__,
        "store": request.store,
        "inputs": {**voxels.digests(), **{name: ledger.map_digest(request.store, name) for name in request.reads}},
        "voxels": voxels.facts(),
        "templates": request.templates,
        "target": request.targets,
        "noise": [None if noise is None else [noise.name, noise.factor, noise.squared] for noise in request.noise],
        "offset": request.offset,
        "options": options,
    }


def _run(task: TrialTask, found: dict[Trial, Outcome], kept: Kept, run: Run, label: str) -> None:
    """Run the trials that were not run before, and put all outcomes into `found`."""
    todo = []
    for place, trial in enumerate(task.trials):
        known = kept.get(trial)
        if known is None:
            todo.append(place)
        else:
            found[trial] = known
    executor = make_executor(run)
    try:
        with Progress(label, len(todo), run.progress) as bar:

            def handle(_: int, outcome: Outcome) -> None:
                kept.put(outcome)
                found[outcome.trial] = outcome
                bar.advance()

            failed = run_window(task, todo, executor, handle)
    finally:
        if isinstance(executor, ThreadsExecutor):
            executor.close()
    if failed:
        place, reason = failed[0]
        if reason.startswith("InputError: "):  # what is wrong with the maps, every trial says alike
            raise InputError(reason.removeprefix("InputError: "))
        raise RunError(f"trial {task.trials[place].label} of the search kept failing: {reason}")


def _best(found: dict[Trial, Outcome], k: int) -> Outcome | None:
    own = [outcome for trial, outcome in found.items() if trial.k == k and np.isfinite(outcome.chi2)]
    # Ties go to the smaller weights, so that the order of arrival does not matter.
    return min(own, key=lambda outcome: (outcome.chi2, outcome.trial)) if own else None


def _dataset(found: dict[Trial, Outcome], numbers: Sequence[int], target: str, share: float) -> xr.Dataset:
    import xarray as xr

    best = {k: _best(found, k) for k in numbers}
    without = [k for k, outcome in best.items() if outcome is None]
    if without:
        reason = next(outcome.problem for trial, outcome in sorted(found.items()) if trial.k == without[0])
        raise InputError(f"no trial with k={without[0]} could be fitted: {reason}")
    winners = [outcome for outcome in best.values() if outcome is not None]
    chosen = elbow(numbers, [outcome.chi2 for outcome in winners], share)
    at = winners[list(numbers).index(chosen)]
    ordered = [found[trial] for trial in sorted(found)]

    def row(values: Sequence[Outcome], get: Callable[[Outcome], float], dtype: str = "float64") -> Any:
        return np.array([get(outcome) for outcome in values], dtype)

    return xr.Dataset(
        {
            "best_chi2": ("k", row(winners, lambda o: o.chi2)),
            "dof": ("k", row(winners, lambda o: o.dof, "int64")),
            "best_v": ("k", row(winners, lambda o: o.trial.v)),
            "best_n": ("k", row(winners, lambda o: o.trial.n)),
            "inertia": ("k", row(winners, lambda o: o.inertia)),
            "iterations": ("k", row(winners, lambda o: o.iterations, "int64")),
            "trial_k": ("trial", row(ordered, lambda o: o.trial.k, "int64")),
            "trial_v": ("trial", row(ordered, lambda o: o.trial.v)),
            "trial_n": ("trial", row(ordered, lambda o: o.trial.n)),
            "trial_chi2": ("trial", row(ordered, lambda o: o.chi2)),
            "trial_dof": ("trial", row(ordered, lambda o: o.dof, "int64")),
            "trial_inertia": ("trial", row(ordered, lambda o: o.inertia)),
            "trial_iterations": ("trial", row(ordered, lambda o: o.iterations, "int64")),
        },
        coords={"k": list(numbers)},
        attrs={
            "k": chosen,
            "v": at.trial.v,
            "n": at.trial.n,
            "target": target,
            "failed": sum(not np.isfinite(outcome.chi2) for outcome in ordered),
        },
    )


def _write(dataset: xr.Dataset, folder: Path) -> None:
    """Write numbers, figures and the page, which comes last."""
    page = Page("Search for a clustering", f"{dataset.sizes['trial']} trials, fitted to {dataset.attrs['target']}")
    page.paragraph(
        f"The elbow is at k = {dataset.attrs['k']}, with weights of {dataset.attrs['v']:g} for velocity and "
        f"{dataset.attrs['n']:g} for density."
    )
    save(elbow_figure(dataset), folder / "elbow.png")
    page.figure("elbow.png", "Least chi^2 against the number of clusters; grey points are the other trials.", 640)
    save(weights_figure(dataset), folder / "weights.png")
    page.figure("weights.png", "chi^2 over the weights of velocity and density; the circle is the best trial.")
    columns = ("k", "best_chi2", "dof", "best_v", "best_n", "inertia", "iterations")
    rows = [[number(float(dataset[name].values[place]), 6) for name in columns] for place in range(dataset.sizes["k"])]
    page.table(["k", "chi^2", "dof", "w_v", "w_n", "inertia", "iterations"], rows)
    known = {name: dataset[name].values.tolist() for name in (*dataset.data_vars, "k")}
    write_text(folder / "search.json", json.dumps(plain({**known, "attributes": dict(dataset.attrs)}), indent=1))
    write_text(folder / "index.html", page.html())
