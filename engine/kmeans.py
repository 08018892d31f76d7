"""k-means: clusters of gas in position and velocity, found over the tiles of a cube, and their maps."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..chunking import store as stores
from ..chunking.errors import InputError
from ..chunking.schema import check_name
from ..models.kmeans import (
    ATTRIBUTES,
    Clusters,
    Progress,
    Scaling,
    bytes_of_voxels,
    check_k,
    check_scaling,
    cluster_voxels,
    merged_moments,
)
from ..models.kmeans_assign import bytes_of_statistics
from ..models.kmeans_voxels import BLOCK
from .arguments import checked
from .kmeans_maps import cluster_names, look_bytes, maps_plan
from .kmeans_pass import OverTiles, Source
from .kmeans_request import KmeansOptions, KmeansRequest, options_of, request_of
from .kmeans_state import Found, Keeper
from .ledger import identity_of
from .plan import RESERVED_BYTES, Plan, Run
from .rings import largest_task
from .selection import BLOCK_BYTES, Where
from .targets import Target, output_store
from .used_pixels import area_deg2
from .worker import Worker, format_bytes, parse_bytes

if TYPE_CHECKING:
    import xarray as xr

log = logging.getLogger("skymill")

_SECONDS_BETWEEN_LINES = 5.0


@checked
def kmeans(
    store: stores.StoreAddress,
    cube: str,
    k: int,
    *,
    weights: Mapping[str, float] | None = None,
    mask: str | None = None,
    region: Where = None,
    seed: int = 0,
    init: Any = "greedy",
    n_init: int = 1,
    tolerance: float = 1e-4,
    max_iterations: int = 300,
    out: str | None = "cluster",
    out_store: stores.StoreAddress | None = None,
    everywhere: bool = False,
    cache: bool = True,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[xr.Dataset]:
    """Return the plan that clusters the voxels of a cube, whose run gives the centres and writes a map a cluster.

    A voxel is a used pixel in a velocity channel, where the cube has a finite value.  Its attributes are x, y, z (unit
    vector of the pixel, always in galactic coordinates), v (velocity of the channel) and n (column density per km/s);
    each is standardised to mean 0 and standard deviation 1 over the voxels and multiplied by its weight, and k-means
    minimises the summed squared distances (Cheng et al. 2025, eqs. A1 and A2 with w^2 in the squared distance [G]).
    An attribute that is constant, such as v of a single channel, counts nothing.

    Centres are those of scikit-learn from the same starting centres, and the same to the last bit for any number of
    workers and threads.  Blocks of neighbouring pixels that a bound gives to one cluster as a whole are not looked at
    voxel by voxel, so that an iteration is faster the higher v is weighted against n.

    Parameters
    ----------
    store : str or path
        The sky store.
    cube : str
        (channel, cells) column density of each channel, or brightness temperature of the HI line (taken as optically
        thin: 1.823e18 cm^-2 for 1 K km/s), or its integral over the channel in K km/s.
    k : int
        How many clusters.
    weights : mapping of str to float, optional
        Weights of "x", "y", "z", "v", "n"; default 1 each.  0 leaves an attribute out: `centres` then have its mean
        over all voxels.
    mask : str, optional
        Mask map, see `skymill.mask`; default all pixels.
    region : str, Region, or sequence of them, optional
        Conditions and regions that used pixels fulfil, such as "b > 30".
    seed : int
        Of the starts that are drawn.
    init : {"greedy", "parallel"} or array_like
        Greedy k-means++, which tries 2 + log(k) voxels for each centre; k-means|| (with 5 rounds of 2 k draws), for
        many clusters; or (cluster, attribute) float64 centres in the attributes' own units, galactic.
    n_init : int
        Starts, each with other random numbers; the one with the least inertia counts.  1 where centres are given.
    tolerance : float
        Iterations end where the summed squared shift of the centres is at most this times the mean variance of the
        weighted attributes, or where no voxel changes its cluster; 0 for the latter alone.  The default is
        scikit-learn's; that of the publication is not known [G].
    max_iterations : int
        Of one start.
    out : str, optional
        Maps are called `<out>_1` to `<out>_k`: (cells,) float32, the column density of the voxels of a cluster, summed
        over channels, in the cube's unit ("1e20 cm^-2" for brightness).  They add up to the column of the cube.  None
        writes no map.
    out_store : str or path, optional
        Store for the maps; default `store`.
    everywhere : bool
        Write the maps in all pixels that the cube has, each voxel to the nearest of the centres that the used ones
        gave; default in used pixels alone.
    cache : bool
        Keep voxels in the memory of workers between iterations, as many as fit; without it they are read again.
    overwrite : bool
        Replace maps that another run made; those of more clusters than `k` stay, with a warning.
    threads : int, optional
        Tasks at once, without a client; default all cores.  They read side by side and compute in turns; what uses
        many cores is a client of many workers.
    memory : int or str, optional
        What this process may use, such as "4GB"; default all there is.

    Returns
    -------
    Plan of xarray.Dataset
        The run returns `centres` (cluster, attribute) in the attributes' own units and `centres_standardised` (with
        mean 0 and standard deviation 1, before weights), `weight`, `mean` and `scale` (attribute), `counts` (cluster)
        and `channel_counts` (cluster, channel) voxels, `column` (cluster) column density summed over pixels,
        `inertia`, `iterations` and `converged` ("labels", "tolerance" or "no").  Drawn clusters come in the order of
        their `column`, the largest first, those of given centres in the order given.

    Raises
    ------
    MissingMapError, InputError, UnitError
        If the cube, the mask or an option is not what is needed; or, when run, where nothing is left to cluster.
    IdentityError
        If maps of these names are there that another run made.
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
    ...     stores.create(sky, 4, frame="galactic")
    ...     stores.create_channels(sky, Channels.from_edges([-60, -30, 0, 30]))
    ...     stores.create_maps(sky, [MapInfo("n_hi", "column density", "1e20 cm^-2", dims=CUBE)])
    ...     values = np.random.default_rng(0).lognormal(size=(3, 192)).astype("f4")
    ...     for tile in range(stores.tiling_of(sky).n_tiles):
    ...         size = stores.tile_length(sky, "n_hi")
    ...         _ = stores.write_tile(sky, "n_hi", tile, values[:, tile * size : (tile + 1) * size])
    ...     found = sm.kmeans(sky, "n_hi", 2, weights={"v": 5.0}).run(progress=False)
    ...     found["centres"].shape, int(found["counts"].sum()), "cluster_2" in sm.open(sky)
    ((2, 5), 576, True)
    """
    request = request_of(store, cube, mask, region)
    options = options_of(k, weights, seed, init, n_init, tolerance, max_iterations)
    here = Worker.here(threads, parse_bytes(memory))
    parameters = {**request.facts(), **options.facts(), "everywhere": everywhere}
    if out is None and (out_store is not None or everywhere):
        raise InputError("`out_store` or `everywhere` came, but no map is written; give `out` too, or leave them out.")
    target = names = None
    if out is not None:
        names = cluster_names(out, k)
        for name in names:
            check_name(name)
        target = output_store(request.cube.store, out_store)

    def writing(clusters: Clusters | None, worker: Worker) -> Plan[Any] | None:
        if target is None or names is None:
            return None
        return maps_plan(
            request,
            names,
            target,
            parameters,
            clusters,
            everywhere=everywhere,
            overwrite=overwrite,
            worker=worker,
        )

    def planned(worker: Worker) -> Plan[xr.Dataset]:
        def execute(run: Run) -> xr.Dataset:
            keeper = None if target is None or out is None else _keeper(request, parameters, target, out)
            clusters, found = find(request, options, Source.of(request, budget), run, keeper)
            maps = writing(clusters, worker)
            if maps is not None and target is not None:
                maps.execute(run)
                _tell_of_others(target.address, str(out), k)
            return dataset(request, options, clusters, found)

        ahead = writing(None, worker)
        parts = task_memory(request, options)
        if ahead is not None:
            parts = largest_task(parts, ahead.memory)
        budget = budget_of(request, worker, sum(parts.values())) if cache else 0
        return Plan(
            "kmeans",
            "a dataset in memory" if target is None else target.address,
            execute,
            worker,
            todo=request.tiles if ahead is None else ahead.todo,
            done=0 if ahead is None else ahead.done,
            n_tiles=request.cube.tiling.n_tiles,
            read_bytes=request.tile_bytes * len(request.tiles),
            write_bytes=0 if ahead is None else ahead.write_bytes,
            memory=parts,
            reserved=RESERVED_BYTES + budget,
            notes=notes_of(request, k, budget),
            refit=planned,
            account=lambda result: json.dumps(result.to_dict(), indent=1),
        )

    return planned(here)


def _tell_of_others(store: str, out: str, k: int) -> None:
    """Warn of maps that look as if they belonged to these clusters and do not."""
    held, number = stores.infos(store), k + 1
    others = []
    while f"{out}_{number}" in held:
        others.append(f"{out}_{number}")
        number += 1
    if others:
        log.warning("kmeans: %s of another clustering stay in %s.", ", ".join(others), store)


def _keeper(request: KmeansRequest, parameters: Mapping[str, Any], target: Target, out: str) -> Keeper:
    from .. import __version__

    if target.create is not None:
        target.create()
    facts = {"skymill": __version__, "parameters": dict(parameters), "inputs": request.digests()}
    return Keeper(target.address, out, identity_of(facts))


def task_memory(request: KmeansRequest, options: KmeansOptions) -> dict[str, int]:
    """Return the bytes that a pass over one tile needs, by part."""
    npix, channels = request.cube.tiling.tile_npix, len(request.cube.velocity)
    # k-means|| looks at up to 10 k centres at once; greedy k-means++ at the centres with one more.
    centres = 10 * options.k + 1 if options.init == "parallel" else options.k + 1
    blocks = -(-npix // BLOCK)
    return {
        "inputs": request.tile_bytes,
        "codecs": 4 * npix * channels,
        "positions": 80 * npix + (BLOCK_BYTES if request.used.selection.needs_positions else 0),
        "voxels": bytes_of_voxels(npix, channels),
        "distances": bytes_of_statistics(centres, channels, blocks) + 64 * blocks * channels + look_bytes(channels),
    }


def budget_of(request: KmeansRequest, worker: Worker, task: int) -> int:
    """Return the bytes of voxels that a process may keep between passes: all there can be, or what is left."""
    wanted = bytes_of_voxels(request.cube.tiling.tile_npix, len(request.cube.velocity)) * len(request.tiles)
    return max(0, min(wanted, worker.memory - RESERVED_BYTES - worker.threads * task))


def notes_of(request: KmeansRequest, k: int, budget: int) -> list[str]:
    """Return what a plan tells of voxels and memory."""
    channels = len(request.cube.velocity)
    voxels = len(request.tiles) * request.cube.tiling.tile_npix * channels
    kept = "none are kept in memory, every pass reads them again"
    if budget:
        kept = f"up to {format_bytes(budget)} of them are kept in the memory of a process between passes"
    return [f"voxels  at most {voxels:,} in {channels} channels, {k} clusters; {kept}"]


def find(
    request: KmeansRequest,
    options: KmeansOptions,
    source: Source,
    run: Run,
    keeper: Keeper | None = None,
    *,
    stay: bool = False,
) -> tuple[Clusters, Found]:
    """Return the clusters, in the order in which they are told, and what voxels there are.

    Parameters
    ----------
    request : KmeansRequest
        The cube and its pixels.
    options : KmeansOptions
        How to cluster.
    source : Source
        Where voxels come from.
    run : Run
        How to go over them.
    keeper : Keeper, optional
        Keeps the progress.
    stay : bool
        Whether voxels that are kept stay in memory, for another clustering.
    """
    weights = np.array(options.weights)
    begin = Progress() if keeper is None else keeper.begin(weights)
    if keeper is not None and keeper.found is not None and begin.done and begin.best is not None:
        return _ordered(begin.best, options, request), keeper.found
    passes = OverTiles(source, request.tiles, run)
    try:
        moments = merged_moments(passes.moments())
        check_k(options.k, moments.count)
        scaling = Scaling.of(moments, weights)
        check_scaling(scaling, options.k)
        found = Found(moments, passes.pixels)
        if keeper is not None:
            keeper.found = found

        said = time.monotonic()

        def keep(progress: Progress) -> None:
            nonlocal said
            if progress.state is not None:
                due = time.monotonic() - said >= _SECONDS_BETWEEN_LINES  # a line an iteration would flood the screen
                said = time.monotonic() if due else said
                level = logging.INFO if due else logging.DEBUG
                log.log(level, "kmeans: start %d, iteration %d", progress.attempt + 1, progress.state.iteration)
            if keeper is not None:
                keeper.keep(progress)

        clusters = cluster_voxels(
            passes,
            options.k,
            scaling=scaling,
            init=options.init if isinstance(options.init, str) else np.array(options.init),
            seed=options.seed,
            n_init=options.n_init,
            tolerance=options.tolerance,
            max_iterations=options.max_iterations,
            begin=begin,
            keep=keep,
        )
    finally:
        if not stay:
            passes.forget()
    return _ordered(clusters, options, request), found


def _ordered(clusters: Clusters, options: KmeansOptions, request: KmeansRequest) -> Clusters:
    """Return drawn clusters with the largest column first, those of given centres as they are."""
    if not isinstance(options.init, str):
        return clusters
    return clusters.ordered(np.argsort(-_columns(clusters, request), kind="stable"))


def _columns(clusters: Clusters, request: KmeansRequest) -> Any:
    return clusters.statistics.columns @ np.array(request.cube.amount)


def dataset(request: KmeansRequest, options: KmeansOptions, clusters: Clusters, found: Found) -> xr.Dataset:
    """Return the clusters as the verb promises them."""
    import xarray as xr

    scale = found.moments.scale
    weights = np.array(options.weights)
    standardised = clusters.scaled / np.where(clusters.scaling.factor > 0, weights, 1.0)
    both = ("cluster", "attribute")
    return xr.Dataset(
        {
            "centres": (both, clusters.centres),
            "centres_standardised": (both, standardised),
            "weight": ("attribute", weights),
            "mean": ("attribute", found.moments.mean),
            "scale": ("attribute", scale),
            "counts": ("cluster", clusters.numbers),
            "channel_counts": (("cluster", "channel"), clusters.statistics.counts),
            "column": ("cluster", _columns(clusters, request), {"units": request.cube.unit}),
            "inertia": clusters.inertia,
            "iterations": clusters.iterations,
            "converged": clusters.converged,
        },
        coords={
            "cluster": np.arange(1, options.k + 1),
            "attribute": list(ATTRIBUTES),
            "unit": ("attribute", ["1", "1", "1", "km/s", f"{request.cube.unit} / (km/s)"]),
            "velocity": ("channel", np.array(request.cube.velocity), {"units": "km/s"}),
        },
        attrs={
            "cube": request.cube.name,
            "store": request.cube.store,
            "voxels": found.moments.count,
            "pixels": found.pixels,
            "area_deg2": area_deg2(found.pixels, request.cube.tiling.npix),
            "f_sky": found.pixels / request.cube.tiling.npix,
            "parameters": json.dumps({**request.facts(), **options.facts()}),
        },
    )
