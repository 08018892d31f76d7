"""How stable clusters are: the same clustering from several seeds, and how well the results agree."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..chunking import store as stores
from ..chunking.errors import InputError
from ..models.kmeans import ATTRIBUTES, adjusted_rand_index
from .arguments import checked
from .kmeans import budget_of, dataset, find, notes_of, task_memory
from .kmeans_pass import OverTiles, Source
from .kmeans_request import KmeansOptions, KmeansRequest, options_of, request_of
from .plan import RESERVED_BYTES, Plan, Run
from .selection import Where
from .worker import Worker, parse_bytes

if TYPE_CHECKING:
    import xarray as xr


@checked
def kmeans_stability(
    store: stores.StoreAddress,
    cube: str,
    k: int,
    *,
    seeds: Sequence[int] = tuple(range(10)),
    centres: Any = None,
    weights: Mapping[str, float] | None = None,
    mask: str | None = None,
    region: Where = None,
    init: str = "greedy",
    n_init: int = 1,
    tolerance: float = 1e-4,
    max_iterations: int = 300,
    cache: bool = True,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[xr.Dataset]:
    """Return the plan that clusters a cube from several seeds, whose run tells how well the clusterings agree.

    Agreement is the adjusted Rand index over all voxels: 1 where two clusterings are the same whatever the clusters
    are called, about 0 where they agree by chance alone (Hubert & Arabie 1985).  Nothing is written.

    Parameters
    ----------
    store, cube, k
        See `kmeans`.
    seeds : sequence of int
        Two or more; one clustering each.
    centres : array_like, optional
        (cluster, attribute) float64 centres in the attributes' own units to compare with, for example a truth, or what
        `kmeans` found; any number of clusters.
    weights, mask, region, init, n_init, tolerance, max_iterations, cache
        See `kmeans`; `init` is one of the starts that are drawn.
    threads : int, optional
        Tasks at once, without a client; default all cores.  They read side by side and compute in turns.
    memory : int or str, optional
        What this process may use, such as "4GB"; default all there is.

    Returns
    -------
    Plan of xarray.Dataset
        The run returns `ari` (seed, other_seed), `inertia`, `iterations` (seed), `centres` (seed, cluster, attribute),
        `mean_ari` (the mean over different seeds), `least_ari`, and `reference_ari` (seed) where `centres` came.

    Raises
    ------
    MissingMapError, InputError, UnitError
        See `kmeans`; also if fewer than two seeds came.
    MemoryLimitError
        When run, if a tile does not fit into a worker.

    Examples
    --------
    >>> import tempfile, numpy as np, skymill as sm
    >>> from skymill.chunking import store as stores
    >>> from skymill.chunking.channels import Channels
    >>> from skymill.chunking.schema import CUBE, MapInfo
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     stores.create(sky, 1, frame="galactic")
    ...     stores.create_channels(sky, Channels.from_edges([-60, -30, 0, 30]))
    ...     stores.create_maps(sky, [MapInfo("n_hi", "column density", "1e20 cm^-2", dims=CUBE)])
    ...     for tile in range(12):
    ...         _ = stores.write_tile(sky, "n_hi", tile, np.full((3, 1), 1 + tile % 3, "f4"))
    ...     found = sm.kmeans_stability(sky, "n_hi", 3, seeds=[0, 1], weights={"v": 9.0}).run(progress=False)
    ...     float(found["mean_ari"])
    1.0
    """
    request = request_of(store, cube, mask, region)
    chosen = tuple(seeds)
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise InputError(f"`seeds` {chosen} came; give two or more different ones.")
    if not isinstance(init, str):
        raise InputError("`init` came as centres; clusterings from given centres do not depend on a seed.")
    each = [options_of(k, weights, seed, init, n_init, tolerance, max_iterations) for seed in chosen]
    reference = None if centres is None else _reference(each[0], centres)
    here = Worker.here(threads, parse_bytes(memory))

    def planned(worker: Worker) -> Plan[xr.Dataset]:
        parts = task_memory(request, each[0])
        # Labels of the voxels that are looked at, from every seed.
        parts["labels"] = 32 * 128 * len(request.cube.velocity) * 8 * (len(chosen) + 3)
        budget = budget_of(request, worker, sum(parts.values())) if cache else 0
        return Plan(
            "kmeans_stability",
            "a dataset in memory",
            lambda run: _compared(request, each, reference, Source.of(request, budget), run),
            worker,
            todo=request.tiles,
            n_tiles=request.cube.tiling.n_tiles,
            read_bytes=request.tile_bytes * len(request.tiles),
            memory=parts,
            reserved=RESERVED_BYTES + budget,
            notes=notes_of(request, k, budget),
            refit=planned,
            account=lambda found: json.dumps(found.to_dict(), indent=1),
        )

    return planned(here)


def _reference(options: KmeansOptions, centres: Any) -> Any:
    rows = len(centres) if hasattr(centres, "__len__") else 1
    weights = dict(zip(ATTRIBUTES, options.weights, strict=True))
    try:
        found = options_of(rows, weights, 0, centres, 1, 0.0, 1)
    except InputError as error:
        came = str(error).split(";", 1)[0].replace("`init`", "`centres`")
        raise InputError(
            f"{came}; give finite numbers (cluster, attribute), attributes {', '.join(ATTRIBUTES)} in their own units."
        ) from error
    return np.array(found.init)


def _compared(
    request: KmeansRequest, each: Sequence[KmeansOptions], reference: Any, source: Source, run: Run
) -> xr.Dataset:
    import xarray as xr

    passes = OverTiles(source, request.tiles, run)
    try:
        # Voxels that are kept stay until all seeds are through.
        found = [find(request, options, source, run, stay=True) for options in each]
        scaling = found[0][0].scaling
        sets = [clusters.scaled for clusters, _ in found]
        if reference is not None:
            sets.append(scaling.scaled(reference))
        tables = passes.contingency(scaling, sets)
    finally:
        passes.forget()
    number = len(each)
    index = np.eye(len(sets))
    for (one, other), table in tables.items():
        index[one, other] = index[other, one] = adjusted_rand_index(table)
    ari = index[:number, :number]
    apart = ari[~np.eye(number, dtype=bool)]
    alone = [dataset(request, options, *result) for options, result in zip(each, found, strict=True)]
    seeds = [options.seed for options in each]
    known = xr.concat(
        [one[["centres", "counts", "inertia", "iterations"]] for one in alone], xr.Variable("seed", seeds)
    ).drop_vars(["channel", "velocity"], errors="ignore")
    known["ari"] = (("seed", "other_seed"), ari)
    known = known.assign_coords(other_seed=seeds)
    known["mean_ari"], known["least_ari"] = float(apart.mean()), float(apart.min())
    if reference is not None:
        known["reference_ari"] = ("seed", index[number, :number])
    parameters = dataclasses.replace(each[0], seed=0).facts()
    del parameters["seed"]
    known.attrs = {**alone[0].attrs, "parameters": json.dumps({**request.facts(), **parameters, "seeds": seeds})}
    return known
