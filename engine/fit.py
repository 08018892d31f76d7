"""Fit: template maps to other maps by generalised least squares, in one pass over the sky."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..chunking import store as stores
from ..chunking.errors import InputError, RunError
from ..chunking.regions import Region
from .arguments import checked
from .fit_request import FitRequest, noise_facts, request_of, where_facts
from .given_noise import Spectrum
from .ledger import map_digest
from .plan import RESERVED_BYTES, Plan, Run
from .report import make_directory
from .rings import largest_task
from .targets import output_store
from .worker import Worker, format_bytes, parse_bytes

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from numpy.typing import NDArray

log = logging.getLogger("skymill")

_MOST_LINES = 6  # of the statement that a run shows; the result has all
_SUPERPIXEL_BYTES = 2500  # of the objects that hold the fit of one, beside its numbers: measured 1700
_SECONDS_A_VALUE = 7e-9  # of a thread, for one pixel of one map: read, checked, decoded, summed


@checked
def fit(
    store: stores.StoreAddress,
    templates: str | Sequence[str],
    target: str | Sequence[str],
    *,
    noise: float | str | Mapping[str, float | str | None] | None = None,
    mask: str | None = None,
    region: str | Region | Sequence[str | Region] | Mapping[str, Any] | None = None,
    offset: bool = True,
    noise_spectrum: Any = None,
    lmax: int | None = None,
    jackknife: int | None = 4,
    superpixels: int | None = None,
    ridge: float = 0.0,
    maps: bool | Sequence[str] = False,
    out_dir: str | os.PathLike[str] | None = None,
    out_store: stores.StoreAddress | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[xr.Dataset]:
    """Return the plan that fits templates to maps, whose run gives coefficients, errors and what to make of them.

    Each target is the sum of templates times their coefficients, plus an offset, plus noise; the coefficients that
    minimise chi^2 come from normal equations that are summed in float64 over the sky, once, whatever the number of
    targets and regions, and are the same to the last bit for any number of workers and threads.  A pixel is used where
    mask and region allow it and all templates and targets have a value: the same pixels for every target.

    The dataset has, float64 where nothing else is said, `coefficient`, `error` (formal), `jackknife_error` and
    `variance_inflation` (target, template), with "offset" the last template; `covariance` and `correlation` (target,
    template, template_2); `chi2`, `dof` (int64), `condition`, `pixels` (int64), `area` (square degrees), `f_sky` and
    `super_pixels` (int64) (target).  The coordinate `unit` (target, template) is that of the coefficient.  Several
    regions put a dimension `region` first, super-pixels with coefficients of their own one `superpixel`.  The
    attribute `statement` says in words which templates trade against each other, and where formal errors are too small:
    where those of the jackknife over S super-pixels are larger by 20 %, and by 8 times their own scatter, which is
    1 / sqrt(2 (S - 1)) of them (both limits are guesses), or chi^2 is larger than the given noise allows;
    `degeneracies` has the former as JSON.  Coefficients of super-pixels come without either.

    Parameters
    ----------
    store : str or path
        Sky store with all the maps.
    templates : str or sequence of str
        Maps whose coefficients are sought.
    target : str or sequence of str
        Maps fitted to; several cost little more than one.
    noise : float, str or mapping of str to float, str or None, optional
        Sigma of a pixel, in the unit of the target; or a map of sigma, or of the variance if its unit is the square
        of the target's; by target where a mapping.  None: all pixels count alike, and the size of the noise is taken
        from the residuals; `chi2` is then the sum of their squares, in the square of the target's unit.  Noise that is
        zero, negative, infinite or missing in a used pixel is an error.
    mask : str, optional
        Map of the pixels to use; a uint8 map named `mask_*` is 1 where they are not.  A pixel with a weight above 0
        is used.
    region : str, Region, sequence or mapping, optional
        Conditions such as "b > 30 and n_hi < 4" or "ngc", or a region (see `Cone`, `Box`, `Polygon`), or several of
        which all must hold; or a mapping from names to these, for several fits in the same pass.
    offset : bool
        Fit a constant too.
    noise_spectrum : array, path or mapping, optional
        Power spectrum of noise that is correlated between pixels, such as the CIB, beside `noise`: C_l from ell 0, in
        the square of the unit of the target times steradian, for all targets or by target.  The fit then takes the
        full covariance of pixels into account, by conjugate gradients with transforms over the sphere.  There is no
        jackknife then: patches are not independent under weights that reach across their borders.
    lmax : int, optional
        Largest multipole of `noise_spectrum`; default the last given.
    jackknife : int or None
        Nside of the super-pixels whose left-out fits give `jackknife_error`, at most that of the store; None for none.
        Super-pixels must be larger than the structures of the residuals: those of nside 4 are 15 degrees wide.  With
        nside 16 (3.7 degrees), common for fits by super-pixel, errors come out too small where residuals are alike
        over several degrees; fewer than 10 super-pixels make rough errors, which the statement says.
    superpixels : int, optional
        Nside of super-pixels that have coefficients of their own; those with too few pixels, or, without a ridge, whose
        templates cannot be told apart, have NaN.  There is no jackknife then.
    ridge : float
        Adds ridge x sum_j G_jj theta_j^2 to chi^2, with the diagonal G_jj of the normal equations (of templates less
        their means, where there is an offset), so that templates that cannot be told apart have a solution; it pulls
        coefficients towards 0.  With `superpixels` it pulls those of super-pixel s towards the common solution theta:
        ridge x n_s / n sum_j G_jj (theta_sj - theta_j)^2, for n_s of n pixels; a template that is zero in a super-pixel
        has the common coefficient there.  The offset is not pulled.  Formal errors are those of the noise alone.
    maps : bool or sequence of {"model", "residual", "fraction"}
        Also write maps: `fit_model_<target>`, `fit_residual_<target>` = target - model, both in its unit, and
        `fit_fraction_<target>` = (target - model) / (model - offset).  They have values wherever all templates have
        one, outside the mask too.  With several regions the first that holds a pixel gives its coefficients, and a
        pixel that none holds has NaN; without names, the coefficients are taken for the whole sky.
    out_dir : str or path, optional
        Folder for the result: `fit.zarr`, `fit.json`, figures and a page, which shows the residuals where maps of them
        are written.  If this very run is there it is read back.
    out_store : str or path, optional
        Store for the maps, of the same nside and frame; default `store`.
    overwrite : bool
        Replace what another run wrote, maps and folder.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan
        Its run returns an xarray.Dataset.

    Raises
    ------
    MissingMapError, StoreNotFoundError
        If a map or a store is missing.
    UnitError
        If the unit of a noise map is neither that of its target nor the square of it, or a noise spectrum says that it
        is in another unit than that square.
    InputError
        If an option is not what is described; when run, if there is no pixel, there are no more pixels than
        coefficients, templates are zero, constant beside an offset or collinear, or noise is not above 0.
    IdentityError
        If `out_dir` or the maps were made by another run.

    References
    ----------
    Cheng et al. 2025, arXiv:2411.12801, eq. 6-9.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("dust", folder + "/sky.zarr", 16, seed=1).run()
    ...     r = sm.fit(folder + "/sky.zarr", ["i160", "cmb"], "i250", jackknife=2).run()
    >>> r["coefficient"].dims, r["template"].values.tolist()
    (('target', 'template'), ['i160', 'cmb', 'offset'])
    """
    request = request_of(
        store,
        templates,
        target,
        noise=noise,
        mask=mask,
        region=region,
        offset=offset,
        jackknife=None if noise_spectrum is not None else jackknife,
        superpixels=superpixels,
        ridge=ridge,
        maps=maps,
    )
    spectra = _spectra(request, noise_spectrum, lmax)
    if out_store is not None and not request.maps:
        raise InputError("`out_store` came without `maps`; it is where maps are written. Give maps=True.")
    parameters = {
        "templates": list(request.templates),
        "targets": list(request.targets),
        "noise": noise_facts(request),
        "mask": mask,
        "region": where_facts(request),
        "offset": offset,
        "noise_spectrum": spectra,
        "jackknife": request.jackknife,
        "superpixels": superpixels,
        "ridge": ridge,
    }
    infos = stores.infos(request.store)
    facts = {
        "verb": "fit",
        "skymill": _version(),
        "parameters": parameters,
        "units": {name: infos[name].unit for name in request.values},
        "inputs": {name: map_digest(request.store, name) for name in sorted(request.reads)},
    }
    from .fit_files import finished, write

    folder, before = None if out_dir is None else os.fspath(out_dir), None
    if folder is not None:
        before = finished(folder, facts, overwrite=overwrite)  # and tells whether another run was here
    here = Worker.here(threads, parse_bytes(memory))
    # Errors by jackknife change no byte of the maps.
    of_maps = {name: value for name, value in parameters.items() if name != "jackknife"}
    into = output_store(request.store, out_store)

    def writing(fitted: xr.Dataset | None) -> Plan[Any]:
        from .fit_maps import maps_plan

        return maps_plan(request, into, of_maps, fitted, overwrite=overwrite, worker=here)

    ahead = writing(None) if request.maps else None

    def execute(run: Run) -> xr.Dataset:
        known = None if folder is None else finished(folder, facts, overwrite=overwrite)
        if folder is not None:
            make_directory(folder)  # now, not after the passes over the sky
        found = known if known is not None else _fitted(request, noise, noise_spectrum, lmax, run)
        if known is None:
            found.attrs["provenance"] = json.dumps(facts)
            said = str(found.attrs.get("statement", "")).splitlines()
            for line in said[:_MOST_LINES]:
                log.warning("%s", line)
            if len(said) > _MOST_LINES:
                where_more = "attribute `statement`" if folder is None else f"statement of {folder}"
                log.warning("%d more such lines are in the %s.", len(said) - _MOST_LINES, where_more)
        as_before = known is not None
        if request.maps:
            written = json.dumps({"store": into.address, "kinds": request.maps})
            plan = writing(found)
            as_before = as_before and not plan.todo and found.attrs.get("maps") == written
            plan.execute(run)
            found.attrs["maps"] = written
        if folder is not None and not as_before:
            histograms = None
            if "residual" in request.maps:
                from .fit_residuals import residual_histograms

                histograms = residual_histograms(request, into.address, run)
            write(found, folder, facts, request, histograms)
        return found

    if spectra is not None:
        solving = _solving(request, noise, noise_spectrum, lmax)
        plan = _correlated_plan(request, folder, execute, here, ahead, solving)
    else:
        plan = _plan(request, folder, execute, here, ahead)
    return plan if before is None else _read_back(plan, ahead)


def _read_back(plan: Plan[Any], ahead: Plan[Any] | None) -> Plan[Any]:
    """Return the plan of a fit that is finished: what is left are maps that are missing."""
    todo = () if ahead is None else ahead.todo
    notes = [f"fit     is finished, and is read back from {plan.target}", *plan.notes[1:]]
    size = 0 if ahead is None else ahead.read_bytes
    done = plan.done + len(plan.todo) - len(todo)
    return replace(plan, todo=todo, done=done, read_bytes=size, seconds=0.0, notes=notes)


def _version() -> str:
    from .. import __version__

    return __version__


def _spectra(request: FitRequest, spectrum: Spectrum | None, lmax: int | None) -> Any:
    """Return what tells noise spectra apart, JSON-able: their digests, not thousands of numbers; None without any."""
    if spectrum is None:
        if lmax is not None:
            raise InputError("`lmax` came without `noise_spectrum`, whose largest multipole it is. Give both.")
        return None
    from .given_noise import noise_spectra

    if request.superpixels is not None or request.ridge:
        raise InputError(
            "`noise_spectrum` came with `superpixels` or `ridge`; with noise that is correlated between pixels one fit "
            "is made of all pixels, without a ridge. Give one or the other."
        )
    if any(each is None for each in request.noise):
        raise InputError(
            "`noise_spectrum` came without `noise`; the white part of the noise of every target is needed too. Give "
            "its sigma, a number or a map."
        )
    units = {name: stores.info(request.store, name).unit for name in request.targets}
    spectra, last = noise_spectra(spectrum, request.targets, request.tiling.nside, lmax, units)
    return {"lmax": last, "digest": {name: _digest(values) for name, values in spectra.items()}}


def _digest(values: NDArray[np.float64]) -> str:
    return hashlib.blake2b(values.astype("<f8").tobytes(), digest_size=16).hexdigest()


def _fitted(request: FitRequest, noise: Any, spectrum: Any, lmax: int | None, run: Run) -> xr.Dataset:
    """Go over the sky and solve."""
    from . import fit_result
    from .fit_pass import gather, why_empty

    if spectrum is not None:
        from .fit_correlated import solve_correlated

        fits = []
        for name, used in request.regions:
            try:
                found = solve_correlated(
                    request.store, used, request.templates, request.targets, noise, spectrum, lmax, request.offset, run
                )
            except InputError as error:
                raise _named(error, name) from error
            except RunError as error:  # without what is no option of a fit
                raise RunError(str(error).replace(", a larger `tolerance` or more `max_iterations`", "")) from error
            fits.append(fit_result.correlated_fit(request, found))
        return fit_result.assemble(request, fits)
    sums = gather(request, run)
    fits = []
    superpixels = []
    for number, ((name, _), own) in enumerate(zip(request.regions, sums, strict=True)):
        if own is None:
            raise InputError(why_empty(request, number, run))
        try:
            if request.superpixels is not None:
                pixels, several = fit_result.super_pixel_fits(request, own)
                superpixels.append(pixels)
                fits += several
            else:
                fits.append(fit_result.region_fit(request, own))
        except InputError as error:
            raise _named(error, name) from error
    return fit_result.assemble(request, fits, superpixels if request.superpixels is not None else None)


def _named(error: InputError, region: str | None) -> InputError:
    """Return the error with the name of its region."""
    return error if region is None else InputError(f"region {region!r}: {error}")


def _solving(request: FitRequest, noise: Any, spectrum: Any, lmax: int | None) -> dict[str, int]:
    """Return the bytes, by part, that a fit with correlated noise takes at most to be solved: one region at a time."""
    from .fit_correlated import planned_memory

    needed = [
        planned_memory(request.store, used, request.templates, request.targets, noise, spectrum, lmax, request.offset)
        for _, used in request.regions
    ]
    return max(needed, key=lambda parts: sum(parts.values()))


def _correlated_plan(
    request: FitRequest,
    folder: str | None,
    execute: Any,
    worker: Worker,
    ahead: Plan[Any] | None,
    solving: Mapping[str, int],
) -> Plan[Any]:
    """Return the plan of a fit whose pixels are gathered, and solved for in this process."""
    plan = _plan(request, folder, execute, worker, ahead)
    item = 4 * request.tiling.tile_npix
    gathering = {"inputs": item * len(request.reads), "codecs": 3 * item, "gathered": item * (len(request.values) + 8)}
    task = gathering if ahead is None else _followed(gathering, ahead)
    size = sum(solving.values())
    listed = ", ".join(f"{part} {format_bytes(each)}" for part, each in solving.items())
    notes = [
        f"fit     {len(request.templates)} templates to {len(request.targets)} targets in {len(request.regions)} "
        "regions, with correlated noise",
        f"solve   at most {format_bytes(size)} in this process ({listed})",
        *plan.notes[1:],
    ]
    # Every pixel of the tiles is counted.  Where these are too many for this process, the run counts those that the
    # mask leaves before it keeps any, and refuses then.
    fits = RESERVED_BYTES + size + worker.threads * sum(task.values()) <= worker.memory
    made = replace(plan, memory=task, reserved=RESERVED_BYTES + size * fits, seconds=0.0, notes=notes)
    # The workers of a cluster only read.
    return replace(made, refit=lambda _: replace(made, reserved=RESERVED_BYTES))


def _plan(request: FitRequest, folder: str | None, execute: Any, worker: Worker, ahead: Plan[Any] | None) -> Plan[Any]:
    from .fit_pass import kernel_of, tiles_of

    tiles, tiling = tiles_of(request), request.tiling
    kernel = kernel_of(request)
    blocks = kernel.blocks(tiling.tile_npix)
    item = 4 * tiling.tile_npix
    parts = max(1, tiling.tile_npix // request.part_cells)
    one = 8 * request.groups * blocks.size**2
    memory = {
        "inputs": item * len(request.reads),
        "codecs": 3 * item,
        "blocks": blocks.nbytes + blocks.cells * (8 * len(request.weights) + 90 * len(request.regions)),
        "sums": 2 * parts * one * len(request.regions),
    }
    # This process keeps the sums of all parts of the sky until it solves, twice while it orders them.
    kept = 3 * one * len(request.regions) * parts * len(tiles)
    values = len(request.reads) * len(tiles) * tiling.tile_npix
    notes = [
        f"fit     {len(request.templates)} templates to {len(request.targets)} targets in {len(request.regions)} "
        f"regions, {format_bytes(kept)} of sums"
    ]
    if ahead is not None:
        notes.append(f"maps    {', '.join(request.maps)} -> {ahead.target}: {len(ahead.todo)} tiles to do")
    return Plan(
        "fit",
        folder or (ahead.target if ahead is not None else "a dataset in memory"),
        execute,
        worker,
        todo=tiles,
        n_tiles=tiling.n_tiles,
        read_bytes=4 * values + (0 if ahead is None else ahead.read_bytes),
        write_bytes=0 if ahead is None else ahead.write_bytes,
        seconds=float(values * _SECONDS_A_VALUE / (worker.threads * worker.processes)),
        memory=memory if ahead is None else _followed(memory, ahead),
        reserved=RESERVED_BYTES + kept + _solved(request, len(tiles)),
        notes=notes,
        account=lambda found: _account(found),
    )


def _followed(task: Mapping[str, int], ahead: Plan[Any]) -> dict[str, int]:
    """Return what a task takes at most of a pass and of the maps that are written after it."""
    # Threads keep what they freed in the first pass, each for itself: as much as its inputs, as measured.
    return {**largest_task(task, ahead.memory), "freed": task["inputs"]}


def _solved(request: FitRequest, tiles: int) -> int:
    """Return the bytes of the coefficients of super-pixels: their arrays three times until they are one dataset."""
    if request.superpixels is None:
        return 0
    count = len(request.coefficients)
    numbers = len(request.targets) * (2 * count**2 + 6 * count)
    parts = -(-tiles * request.tiling.tile_npix // request.part_cells) * len(request.regions)
    return parts * (_SUPERPIXEL_BYTES + 3 * 8 * numbers)


def _account(found: xr.Dataset) -> str:
    from .fit_files import summary_json

    return summary_json(found)
