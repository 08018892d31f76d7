"""Power spectra of maps that do not fit in memory: auto and cross, masked, decoupled, with errors."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError
from .arguments import check_choice, checked
from .binning import Bins
from .fields import REMOVALS
from .ledger import identity_of, map_digest
from .plan import Plan, Run
from .records import RunReport
from .report import make_directory
from .rings import Layout, largest_task
from .spectra_analysis import Analysis
from .spectra_errors import simulated
from .spectra_files import read_finished, write
from .spectra_request import (
    ITERATIONS,
    QUADRATURES,
    Beam,
    Request,
    facts_of_beam,
    facts_of_map,
    request_of,
)
from .spectra_result import assemble
from .spectrum_estimator import Estimator, WeightPair
from .stages import Stages, accounted, cut_alike
from .transpose import check_way, scratch_for
from .worker import Worker, format_bytes, parse_bytes

if TYPE_CHECKING:
    import xarray as xr

type Floats = NDArray[np.float64]

log = logging.getLogger("skymill")

# Below this part of the power of a mask, its spectrum stops too early for the decoupling to be trusted.
LEAST_MASK_POWER = 0.999


@checked
def spectra(
    store: stores.StoreAddress,
    pairs: Sequence[Sequence[str]],
    *,
    other: stores.StoreAddress | None = None,
    lmax: int | None = None,
    weights: str = "ring",
    iterations: int = ITERATIONS,
    mask: str | Mapping[str, str] | None = None,
    lmax_mask: int | None = None,
    remove: str | None = None,
    beam: Beam | Mapping[str, Beam] | None = None,
    pixel_window: bool = False,
    bins: int | Sequence[int] | Sequence[Sequence[int]] | NDArray[np.integer[Any]] | Bins | None = None,
    window: bool = False,
    errors: str | None = None,
    fiducial: Mapping[Any, Any] | None = None,
    simulations: int = 100,
    seed: int = 0,
    splits: Mapping[str, Sequence[str]] | None = None,
    precision: str = "single",
    out_dir: str | os.PathLike[str] | None = None,
    scratch: str | os.PathLike[str] | None = None,
    transpose: str = "auto",
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[xr.Dataset]:
    """Return the plan that measures angular power spectra of maps, at any nside, in bounded memory.

    Its run returns a dataset with `cl` (pair, ell) float64 without bins, (pair, bin) with, in the product of the units
    of the two maps; `ell` is a coordinate (of a bin: its effective multipole).  Where asked for it holds `error` (pair,
    bin), with `chi2` and `p_value` (pair) of the hypothesis that two maps have nothing in common; `window` (pair, bin,
    ell_in), pure numbers; and `noise` (pair, bin).  Coordinates tell the fraction of the sky and the bounds of the
    bins; `engine/spectra_result.py` lists all.

    Without bins a masked spectrum is the pseudo-spectrum divided by the mean product of the weights: multipoles stay
    coupled.  With bins it is decoupled (MASTER).  The sky above `lmax` leaks into the last bins by as many multipoles
    as the mask is wide: ask for an `lmax` some bins above what is wanted.

    Parameters
    ----------
    store : str or path
        Sky store with the maps.
    pairs : sequence of (str, str)
        Names of maps; a map with itself gives its auto-spectrum.  Every map is read once, however many pairs it is in.
    other : str or path, optional
        Store of the second map of every pair, of the same nside and frame; default `store`.  A map of a name that both
        stores have in `pairs` is called "other:name" there, in the result and in the mappings below.
    lmax : int, optional
        Largest multipole; default 2 nside, at most 3 nside - 1.
    weights : {"ring", "pixel", "iterate"}
        Quadrature: rows of pixels weighted so that band-limited maps are integrated exactly along the meridian; all
        pixels alike; or ring weights and then least squares by iteration.  `tests/benchmarks/results` has a table of
        their accuracies.
    iterations : int
        Rounds of "iterate".
    mask : str or mapping of str to str, optional
        Map of weights, for all maps or by map: float32 weights, 0 where a pixel does not count; a uint8 map named
        `mask_*` is 1 where it does not count, any other uint8 map 1 where it does.  Default every pixel counts, and
        then every pixel must have a value.
    lmax_mask : int, optional
        To which multipole the spectrum of the mask is known; default 2 lmax, at most 3 nside - 1.  Apodised masks need
        no more than lmax; the attribute `mask_power` tells which part of their power was caught.
    remove : {None, "monopole", "dipole"}
        Take off the weighted mean, or mean and dipole, before anything else.
    beam : number, str, sequence or mapping, optional
        Divide out the beam: its FWHM in arcmin, "store" (what the store says of each map), a text file of ell and b_l,
        or numbers b_l from ell 0; for all maps, or by map.
    pixel_window : bool
        Divide out the window of the pixels, for maps that are averages over them.
    bins : int, sequence, array or Bins, optional
        Width of bins from ell 2; or their edges; or a (start, stop) for each, stop not included.
    window : bool
        Return the windows of the bins.
    errors : {None, "knox", "monte-carlo"}
        Analytic errors, or the scatter of Gaussian realisations (of maps that fit into a worker's memory).
    fiducial : mapping of (str, str) to sequence, optional
        Spectra of the realisations, from ell 0 to lmax, noise included; default those measured.
    simulations : int
        How many realisations.
    seed : int
        Of the realisations.
    splits : mapping of str to (str, str), optional
        Two halves of a map with independent noise: its noise spectrum is (C_11 + C_22 - 2 C_12) / 4.
    precision : {"single", "double"}
        Of maps and their coefficients on the way; single is right to 1e-6 of C_l, double to 1e-12.
    out_dir : str or path, optional
        Folder for the result: Zarr, CSV, a figure and a page.  If this very run is there it is read back.
    scratch : str or path, optional
        Folder for what the stages hand on, default the folder `<store>.scratch` beside a local store; see the plan for
        its size.  It is emptied at the end; a run that was stopped leaves it, and the same call goes on from there.
    transpose : str
        How they hand it on: see `engine/transpose.py`.
    overwrite : bool
        Replace what another run wrote to `out_dir`.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan
        Its run returns an xarray.Dataset.

    Raises
    ------
    MissingMapError, StoreNotFoundError
        If a map, a mask or a store is missing.
    FrameError
        If the stores are in different frames.
    InputError
        If an option is not what is described, a pixel that counts has no value, a mask has negative weights or none,
        or the stores differ in nside.
    IdentityError
        If `out_dir` holds what another run wrote.

    References
    ----------
    Gorski et al. 2005, ApJ 622, 759 (the grid); Hivon et al. 2002, ApJ 567, 2 (MASTER); Cheng et al. 2025,
    arXiv:2411.12801, eq. 23 (errors).

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("dust", folder + "/sky.zarr", 16, seed=1).run()
    ...     found = sm.spectra(folder + "/sky.zarr", [("i160", "i160"), ("i160", "cmb")], lmax=32, bins=8).run()
    ...     found["cl"].dims, found["cl"].shape
    (('pair', 'bin'), (2, 3))
    """
    check_choice("weights", weights, QUADRATURES)
    check_choice("remove", remove, REMOVALS)
    check_way(transpose)
    if iterations < 1:
        raise InputError(f'`iterations` {iterations} came; give 1 or more, or weights="ring" for none.')
    request = request_of(
        store,
        pairs,
        other=other,
        lmax=lmax,
        mask=mask,
        lmax_mask=lmax_mask,
        beam=beam,
        pixel_window=pixel_window,
        bins=bins,
        errors=errors,
        splits=splits,
    )
    if window and request.bins is None:
        raise InputError("`window` came without `bins`; windows belong to decoupled bins. Give `bins`.")
    bars = simulated(errors, fiducial, simulations, seed, precision, weights, request)
    where = stores.address(store)
    used = {*request.places.values(), *(place for place in request.weights.values() if place is not None)}
    facts = {
        "verb": "spectra",
        "skymill": _version(),
        "parameters": {
            "pairs": [list(pair) for pair in request.pairs],
            "lmax": request.lmax,
            "lmax_mask": request.lmax_mask if request.weight_pairs else None,
            "weights": weights,
            "iterations": iterations if weights == "iterate" else 0,
            "masks": {name: None if place is None else place[1] for name, place in request.weights.items()},
            "remove": remove,
            "beam": facts_of_beam(beam),
            "pixel_window": pixel_window,
            "bins": None if request.bins is None else [list(request.bins.starts), list(request.bins.stops)],
            "weighting": None if request.bins is None else request.bins.weighting,
            "window": window,
            "splits": {name: list(both) for name, both in request.splits.items()},
            "precision": precision,
            "errors": errors,
            "realisations": None if bars is None else bars.facts(),
        },
        # A map made again may hold the same values and say otherwise what they are.
        "maps": {name: facts_of_map(stores.info(*place), beam) for name, place in request.places.items()},
        "inputs": {f"{name} of {address}": map_digest(address, name) for address, name in sorted(used)},
    }
    folder = None if out_dir is None else os.fspath(out_dir)
    if folder is not None:
        read_finished(folder, facts, overwrite=overwrite)  # tells whether another run was here

    layouts = (
        Layout.of(request.tiling, request.lmax, precision),
        Layout.of(request.tiling, request.lmax_mask, precision),
    )
    whole = Analysis(request, *layouts, weights, iterations, remove)
    here = Worker.here(threads, parse_bytes(memory))
    coupling_threads = None if request.bins is None else _coupling_threads(request, window, here)

    def plan_for(worker: Worker) -> Plan[xr.Dataset]:
        analysis = whole.fitting(worker.memory_per_task(Plan.reserved))
        plan: Plan[xr.Dataset] = Plan(
            "spectra",
            folder or "a dataset in memory",
            execute=lambda run: execute(run, plan, analysis),
            worker=worker,
            read_bytes=analysis.read_bytes(),
            write_bytes=analysis.scratch_bytes(),
            seconds=analysis.cost().wall(worker),
            memory=largest_task(analysis.memory(), {} if bars is None else bars.memory()),
            notes=_notes(analysis) + ([] if bars is None else [bars.note()]),
            refit=plan_for,
            account=lambda found: str(found.attrs["run"]),
        )
        return plan

    def execute(run: Run, plan: Plan[xr.Dataset], analysis: Analysis) -> xr.Dataset:
        finished = None if folder is None else read_finished(folder, facts, overwrite=overwrite)
        if finished is not None:
            return finished
        if folder is not None:
            make_directory(folder)  # so that what cannot be written is told before hours of work
        space = scratch_for(
            where,
            identity_of(facts),
            run,
            scratch,
            transpose,
            needed=analysis.scratch_bytes(),
            process=plan.process_memory(run.worker),
        )
        cut_alike(space, [analysis.layout, analysis.mask_layout])
        report = RunReport("spectra", plan.target)
        with accounted(report, plan, run):
            try:
                found = measure(analysis, Stages(space, run, report))
            except InputError:
                space.remove()  # nothing there is of use to a run with better input
                raise
        found.attrs |= {"provenance": json.dumps(facts), "weights": weights, "run": report.to_json()}
        if folder is not None:
            write(found, folder, facts)
        space.remove()  # last: where the result cannot be written, the next run has it at once
        return found

    def measure(analysis: Analysis, stages: Stages) -> xr.Dataset:
        pseudo, moments = analysis.pseudo_spectra(stages)
        mask_cl = analysis.mask_spectra(stages)
        estimator = Estimator(request.maps, request.lmax, request.bins, mask_cl, moments, coupling_threads)
        found = assemble(
            request.pairs,
            pseudo,
            estimator,
            errors=errors,
            splits=request.splits,
            window=window,
            source=where if other is None else f"{where} and {stores.address(other)}",
        )
        found.attrs["mask_power"] = _mask_power(mask_cl, moments)
        return found if bars is None else bars.put_in(found, estimator, pseudo, stages.run, stages.scratch)

    return plan_for(here)


def _version() -> str:
    from .. import __version__

    return __version__


def _coupling_threads(request: Request, window: bool, here: Worker) -> int:
    """Return on how many threads of this process the decoupling fits into its memory; one at least."""
    from .coupling_integral import coupling_memory

    assert request.bins is not None
    size = partial(coupling_memory, request.bins.n, request.lmax, lmax_mask=request.lmax_mask, window=window)
    allowed = here.memory - Plan.reserved
    fits = (count for count in range(here.threads, 1, -1) if size(threads=count) <= allowed)
    return next(fits, 1)


def _notes(analysis: Analysis) -> list[str]:
    layout = analysis.layout
    lines = [
        f"maps    {len(analysis.request.places)} of nside {layout.tiling.nside} to lmax {layout.lmax}, "
        f"{len(analysis.request.pairs)} spectra",
        f"stages  {layout.n_bands} bands of {layout.height} rows, {layout.n_blocks} blocks of {layout.width} orders"
        + (f", {analysis.rounds} iterations" if analysis.rounds else ""),
    ]
    if analysis.mask_places:
        lines.append(f"masks   {len(analysis.mask_places)} to lmax {analysis.mask_layout.lmax}")
    lines.append(f"scratch {format_bytes(analysis.scratch_bytes())}")
    return lines


def _mask_power(mask_cl: Mapping[tuple[str, str], Floats], moments: Mapping[WeightPair, Any]) -> float:
    """Return the part of the power of the masks that their spectra hold, of the least complete; 1 without masks."""
    if not mask_cl:
        return 1.0
    from .coupling import mask_power

    alone = [pair for pair in mask_cl if pair[0] == pair[1]]
    # A single pair of two masks has only the power that they share.
    least = min(mask_power(mask_cl[pair], moments[pair][0]) for pair in alone or mask_cl)
    if least < LEAST_MASK_POWER:
        log.warning(
            "the spectrum of a mask holds %.2f %% of its power up to lmax_mask; raise lmax_mask (to 3 nside - 1 at "
            "most), or apodise the mask (skymill.apodize).",
            100 * least,
        )
    return least
