"""Smoothing: maps convolved with a Gaussian, over the whole sphere or tile by tile, also where pixels are missing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from ..chunking import store as stores
from ..chunking.errors import InputError
from .arguments import check_choice, checked
from .ledger import map_digest
from .mapping import Kernel, map_plan
from .masks import check_weight_map
from .plan import Plan
from .quadrature import ONE_PASS
from .records import RunReport
from .rings import Layout
from .smooth_harmonic import Harmonic, harmonic_cost, natural_lmax
from .smooth_local import local_error
from .smooth_request import RADIAN, check_target, check_values, choose_way, local_kernels, output_names, to_smooth
from .staged_maps import StagedMaps, tile_memory
from .targets import observed_in_any, output_store, tiles_over
from .transpose import check_way
from .worker import Worker, parse_bytes

LEAST_WEIGHT: Final = 0.1


@checked
def smooth(
    store: stores.StoreAddress,
    maps: str | Sequence[str],
    fwhm: float | None = None,
    *,
    unit: str = "arcmin",
    from_fwhm: float | None = None,
    to_fwhm: float | None = None,
    method: str = "auto",
    lmax: int | None = None,
    mask: str | None = None,
    least_weight: float = LEAST_WEIGHT,
    out: str | Sequence[str] | None = None,
    out_store: stores.StoreAddress | None = None,
    weights: str = "ring",
    iterations: int = 0,
    precision: str = "single",
    scratch: str | os.PathLike[str] | None = None,
    transpose: str = "auto",
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[RunReport]:
    """Return the plan that convolves maps with a Gaussian beam.

    Writes `<map>_smooth`, or the names given, (cells,) float32 in the unit of the map, NaN where the map is.  Its beam
    in the store is sqrt(old^2 + kernel^2) where the old one is known.

    Pixels without a value, and those that `mask` leaves out, count as missing: the result is smooth(w m) / smooth(w)
    with the weights w, so that a constant map stays constant up to the edge.  Where smooth(w) is small there is too
    little to go by, and no value; elsewhere a pixel that only the mask leaves out gets one from those around it.

    Parameters
    ----------
    store : str or path
        Sky store with the maps.
    maps : str or sequence of str
        float32 maps.
    fwhm : float, optional
        Full width at half maximum of the Gaussian that they are convolved with.
    unit : {"arcmin", "deg", "arcsec", "rad"}
        Of the widths.
    from_fwhm, to_fwhm : float, optional
        In place of `fwhm`: the beam that the maps have, by default what the store says of each, and the one that they
        shall have; the kernel is sqrt(to^2 - from^2), 3' from 4' to 5'.
    method : {"auto", "harmonic", "local"}
        Over the whole sphere by a_lm, or tile by tile with the pixels around; "auto" takes the local way where it is
        estimated to cost less, for kernels from two pixels (FWHM) to 0.2 radian, unless `lmax`, `iterations` or double
        precision are asked for, which belong to the harmonic one.  The plan says which way was taken, and why.
    lmax : int, optional
        Largest degree of the harmonic way; default where the beam falls below 1e-8, at most 3 nside - 1.
    mask : str, optional
        Map of weights in the same store: float32, 0 where a pixel does not count and 1 where it does fully; a uint8 map
        named `mask_*` is 1 where it does not count, any other uint8 map 1 where it does.
    least_weight : float
        Where smooth(w) is below this there is no value, from 0 to 1.
    out : str or sequence of str, optional
        Names of the maps to write.
    out_store : str or path, optional
        Store to write into, of the same nside and frame; made if it is not there.  Default `store`.
    weights : {"ring", "pixel"}
        Quadrature of the harmonic way, as for `spectra`.
    iterations : int
        Rounds of least squares of the harmonic way.
    precision : {"single", "double"}
        Of the numbers on the way.  Single is within 1e-7 of the brightest pixels, and of a dust map that goes over
        three orders of magnitude within 6e-7 of every pixel; take double where there is more between faint and bright.
    scratch : str or path, optional
        Folder for what the stages hand on; see the plan for its size.
    transpose : str
        How they hand it on: see `engine/transpose.py`.
    overwrite : bool
        Replace maps that another run made.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan
        Its run returns a RunReport.

    Raises
    ------
    InputError
        If no width or too many are given, a beam is not known or wider than the one wanted, a map holds codes or bits,
        an option is not what is described, or an output would be written over its own input.
    MissingMapError
        If a map or the mask is missing.
    IdentityError
        If an output is there, made by another run.

    Notes
    -----
    The harmonic way with ring weights and no iterations is the default because it is the nearest to the truth where
    that is known.  For skies of C_l as l^-2 at nside 128, rms error over the rms of the smoothed sky: 8e-7 for a kernel
    of 9 pixels and 5e-5 for one of 2 where the sky ends at ell = nside; 8e-6 and 2e-4 where it ends at 2 nside; 2e-5
    and 3e-3 where it goes on to 3 nside, beyond what pixels hold.  With equal weights for all pixels these are 1e-4 to
    3e-4.  Iterations help where a sky ends at 2 nside and `lmax` is set there (down to 1e-7), and harm maps that have
    power beyond, such as dust with a sharp Galactic plane: against sums over pixels at nside 256 and 3 pixels FWHM
    the rms relative difference is 3e-5, after one iteration 1.4e-4, and 2e-3 with `lmax` 2 nside.

    References
    ----------
    Gorski et al. 2005, ApJ 622, 759 (the grid); Knutsson & Westin 1993, Proc. IEEE CVPR, 515 (normalised convolution).

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("dust", folder + "/sky.zarr", 16, seed=1, maps=["i160"]).run()
    ...     _ = sm.smooth(folder + "/sky.zarr", "i160", 10.0, unit="deg").run()
    ...     sm.open(folder + "/sky.zarr")["i160_smooth"].attrs["units"]
    'MJy/sr'
    """
    check_choice("unit", unit, tuple(RADIAN))
    check_choice("weights", weights, ONE_PASS)
    if not 0.0 <= least_weight < 1.0:
        raise InputError(f"`least_weight` {least_weight} came; give a number from 0 to below 1.")
    if iterations < 0:
        raise InputError(f"`iterations` {iterations} came; give 0 or more.")
    check_way(transpose)
    where = stores.address(store)
    names = (maps,) if isinstance(maps, str) else tuple(maps)
    stores.require_maps(where, [*names, *([] if mask is None else [mask])])
    into = output_store(where, out_store)
    check_target(where, into)
    written = output_names(names, out, into.address == where)
    wanted = tuple(
        to_smooth(stores.info(where, name), made, fwhm, from_fwhm, to_fwhm, unit)
        for name, made in zip(names, written, strict=True)
    )
    if mask is not None:
        check_weight_map(stores.info(where, mask))
    tiling = stores.tiling_of(where)
    top = natural_lmax(tiling, min(each.kernel for each in wanted)) if lmax is None else lmax
    layout = Layout.of(tiling, top, precision)
    observed = tiles_over(observed_in_any(where, names), tiling, into.tiling)
    holes = mask is not None or len(observed) < into.tiling.n_tiles
    only_harmonic = {"lmax": lmax is not None, "iterations": iterations > 0, "precision": precision == "double"}
    way, why = choose_way(
        method,
        wanted,
        into.tiling,
        observed,
        harmonic_cost(tiling, top, len(names), masked=holes, iterations=iterations, precision=precision),
        [option for option, given in only_harmonic.items() if given],
    )
    parameters: dict[str, Any] = {
        "maps": {each.info.name: each.made.name for each in wanted},
        "kernels_radian": [each.kernel for each in wanted],
        "mask": mask,
        "least_weight": float(least_weight),
        "method": way,
    }
    if way == "harmonic":
        parameters |= {"lmax": top, "weights": weights, "iterations": iterations, "precision": precision}
    inputs = {name: map_digest(where, name) for name in dict.fromkeys([*names, *([mask] if mask else [])])}

    def tiles(kernel: Kernel, worker: Worker, needed: Mapping[str, int]) -> Plan[RunReport]:
        return map_plan(
            "smooth",
            kernel,
            target=into.address,
            writes=[each.made for each in wanted],
            target_tiling=into.tiling,
            before=into.create,
            tiles=observed,
            parameters=parameters,
            inputs=inputs,
            memory=needed,
            worker=worker,
            overwrite=overwrite,
            after=lambda report: check_values(into.address, written, mask),
            notes=notes,
        )

    notes = [why]
    if way == "local":
        error = max(local_error(into.tiling, each.kernel) for each in wanted)
        notes.append(f"error   about {error:.0e} of the spread of the smoothed map, against the harmonic way")
    here = Worker.here(threads, parse_bytes(memory))
    if way == "local":
        local = local_kernels(where, wanted, mask, into.tiling, least_weight)
        return tiles(local, here, local.memory())
    harmonic = Harmonic(
        source=where,
        maps=wanted,
        weight=None if mask is None else (where, mask),
        target=into.tiling,
        ring_weights=weights == "ring",
        iterations=iterations,
        least_weight=float(least_weight),
    )
    target_layout = replace(layout, tiling=into.tiling)
    return StagedMaps(
        verb="smooth",
        target=into.address,
        facts={"verb": "smooth", "source": where, "parameters": parameters, "inputs": inputs},
        layout=layout,
        memory=harmonic.memory,
        make=harmonic.make,
        tiles=lambda kernel, worker: tiles(kernel, worker, tile_memory(target_layout, 1)),
        scratch_fields=len(names),
        # The weights of maps with holes come after the maps; an iteration keeps what it started from, a_lm included.
        kept_fields=len(names),
        rings_at_once=4 if iterations else 2,
        scratch=scratch,
        transpose=transpose,
        notes=notes,
        cost=harmonic.cost,
        reads=(len(names) + (mask is not None)) * (1 + iterations),
    ).plan(here)
