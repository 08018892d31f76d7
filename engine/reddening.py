"""The verb `reddening`: gas templates fitted to a reddening map, and the map that they make at their own nside."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..chunking import store as stores
from ..chunking.errors import InputError
from ..chunking.schema import MapInfo
from ..models.gls_solution import OR_RIDGE
from .arguments import checked
from .fit import fit
from .ledger import map_digest
from .mapping import map_plan
from .named_regions import CAPS, area_of, pixels_of, regions_of
from .plan import Plan, Run
from .reddening_compare import to_mmag
from .reddening_map import (
    BLOCK_BYTES,
    COLUMN,
    ReddeningKernel,
    Upsampled,
    tiles_to_write,
    to_column,
    upsampled_templates,
)
from .reddening_report import write_reddening
from .reddening_scatter import (
    BYTES_A_PIXEL,
    BYTES_A_VALUE,
    LinearModel,
    RegionPixels,
    ScatterKernel,
    over_tiles,
    scatter_numbers,
)
from .region_tables import dataset_json
from .report import make_directory
from .selection import BLOCK as SELECTION_BLOCK
from .selection import BLOCK_BYTES as SELECTION_BYTES
from .selection import Where, described
from .targets import output_store
from .worker import Worker, parse_bytes

if TYPE_CHECKING:
    import xarray as xr

SFD_FACTOR = 0.86
OFFSET = "offset"


@checked
def reddening(
    store: stores.StoreAddress,
    templates: str | Sequence[str],
    target: str = "ebv_sfd",
    *,
    factor: float = SFD_FACTOR,
    noise: float | str | None = None,
    mask: str | None = None,
    region: Where | Mapping[str, Where] = None,
    offset: bool = True,
    jackknife: int | None = 4,
    native: stores.StoreAddress | None = None,
    upsample: Sequence[str] | None = None,
    include_offset: bool = True,
    out: str = "ebv",
    out_store: stores.StoreAddress | None = None,
    out_dir: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[xr.Dataset]:
    """Return the plan that fits gas to reddening and makes a reddening map of gas.

    Fits factor x target = sum_i c_i N_i + O in each region (eq. 24), and writes, at the nside of `native`, `out`
    (cells,) float32 in mag: the templates there times the coefficients of their region, plus O.  Such a map has none of
    the infrared background and none of the dust temperature that maps made from dust emission hold.  It is NaN where no
    region holds a pixel or a template has no value; the mask decides what is fitted, not what is written.

    Parameters
    ----------
    store : str or path
        Sky store with templates and target, where they are fitted: at one beam, coarse enough for the noise.
    templates : str or sequence of str
        Column densities, for example ["lvc", "ivc", "nhii"].
    target : str
        Reddening, mag or mmag.
    factor : float
        What the target is multiplied by: 0.86 brings SFD to E(B-V) (Schlafly & Finkbeiner 2011).
    noise : float or str, optional
        Of the target as it is stored, as for `fit`.
    mask : str, optional
        Map that says which pixels are fitted; see `skymill.mask`.
    region : str, Region, sequence of them, or mapping of names to these, optional
        Where there are coefficients of their own; in the order given where regions overlap.  `skymill.mask` says what
        can be written.  Default the galactic caps, "ngc" (b > 0) and "sgc" (b < 0).
    offset : bool
        Fit a constant too.
    jackknife : int, optional
        The nside of the parts of the sky that are left out for errors, which must be larger than the structures of
        the residuals, as for `fit`; None for formal errors alone.
    native : str or path, optional
        Sky store with the same templates, under the same names and at their own nside, at which the map is written;
        in the same frame.  Default `store`.
    upsample : sequence of str, optional
        Templates that are taken from `store` although `native` is another one, interpolated between the centres of
        pixels (bilinear on the sphere, as healpy.get_interp_val).  Default those that `native` lacks.  That is good for
        a map that is smooth on the scale of its pixels; where it is not, bring it to the nside of `native` by its
        harmonics first, with `resample`, which also keeps its spectrum.
    include_offset : bool
        Whether the map has the offset in it.
    out : str
        Name of the map that is written.
    out_store : str or path, optional
        Store to write into, of the nside and frame of `native`; default `native`.
    out_dir : path, optional
        Folder for `reddening.json`, a figure and `index.html`.
    overwrite : bool
        Replace a map that another run made.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan of xarray.Dataset
        With dimensions (region, template) float64, the offset last: `coefficient` and `error` (mmag per 1e20 cm^-2, the
        offset mmag) and, with `jackknife`, `jackknife_error`; `covariance` (region, template, template_2); with
        (region): `chi2` (mmag^2 where no noise is given), `dof`, `condition`; of factor x target - model, in mmag:
        `scatter`, its standard deviation, `robust_scatter`, half of the distance of the quantiles 0.159 and 0.841, and
        `median`; `pixels`, `area` (deg^2) and `f_sky` of what was fitted.

    Raises
    ------
    MissingMapError
        If a map is missing, or a template is in neither store.
    UnitError
        If a template is no column density, or the target not in mag or mmag.
    IdentityError
        If `out` is there and another run made it, unless `overwrite`.
    InputError
        If an option is none, or the stores do not fit; when run, if templates cannot be told apart.

    References
    ----------
    Cheng et al. 2025, arXiv:2411.12801, eq. 24 and section 6.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> def column(of, unit, factor):
    ...     steps = [{"step": "scale", "factor": factor, "unit": unit, "label": "made up"}]
    ...     return {"input": "i350", "output": of, "steps": steps}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     _ = sm.simulate("dust", sky, 16, seed=1, maps=["i350"]).run()
    ...     _ = sm.prepare(sky, [column("nhi", "1e20 cm^-2", 2.0), column("ebv_sfd", "mag", 0.02)]).run()
    ...     found = sm.reddening(sky, "nhi").run()
    ...     found["coefficient"].sel(template="nhi").values.round(3).tolist()
    [8.6, 8.6]
    """
    where = stores.address(store)
    names = (templates,) if isinstance(templates, str) else tuple(templates)
    if not names:
        raise InputError("`templates` is empty; give the column densities that reddening is made of.")
    if not 0 < factor < np.inf:
        raise InputError(f"`factor` {factor} came; give a finite number above 0.")
    stores.require_maps(where, (*names, target))
    scale = factor * to_mmag(where, target)
    chosen = regions_of(CAPS if region is None else region)
    there = where if native is None else stores.address(native)
    raised = upsampled_templates(where, there, names, upsample)
    into = output_store(there, out_store)
    columns = {name: to_column(where, name) for name in names}
    # What a template is in at its own nside may be written in another unit.
    own = {name: columns[name] if name in raised else to_column(there, name) for name in names}
    worker = Worker.here(threads, parse_bytes(memory))
    fitting = fit(
        where, list(names), target, noise=noise, mask=mask, region=chosen, offset=offset, jackknife=jackknife,
        threads=threads, memory=memory,
    )  # fmt: skip
    used = pixels_of(where, mask, chosen)
    # Where the noise has no value nothing is fitted.
    weighed = [(noise, 1.0)] if isinstance(noise, str) else []
    pixels = RegionPixels(tuple(used.values()), (*columns.items(), (target, scale), *weighed))
    written = pixels_of(there, None, chosen)
    reads = tuple(dict.fromkeys([name for name in names if name not in raised]))
    reads += tuple(dict.fromkeys(name for each in written.values() for name in each.maps if name not in reads))
    tiles = tiles_to_write(where, there, names, raised, tuple(written.values()), into.tiling)
    parameters = {
        "templates": list(names),
        "target": target,
        "factor": float(factor),
        "noise": noise,
        "mask": mask,
        # As a list: where regions overlap, their order matters.
        "region": [[name, described(each)] for name, each in chosen.items()],
        "offset": offset,
        "include_offset": include_offset,
        "upsampled": list(raised),
    }
    # The coefficients follow from these to the last bit, so that a run is known before it has fitted anything.
    fitted = {*names, target, *([mask] if mask else []), *([noise] if isinstance(noise, str) else [])}
    fitted |= {name for each in used.values() for name in each.maps}
    if out in fitted and into.address == where:
        raise InputError(f"`out` {out!r} came, a map that is read; call the reddening of gas something else.")
    digests = {f"fitted {name}": map_digest(where, name) for name in sorted(fitted)}

    def mapping(models: tuple[LinearModel, ...], provenance: Mapping[str, Any]) -> Plan[Any]:
        grids = tuple(Upsampled(where, stores.tiling_of(where), name) for name in raised)
        kernel = ReddeningKernel(out, into.tiling, tuple(own.items()), grids, tuple(written.values()), models)
        size = into.tiling.tile_npix
        return map_plan(
            "reddening",
            kernel,
            source=there,
            reads=reads,
            tiles=tiles,
            target=into.address,
            target_tiling=into.tiling,
            before=into.create,
            writes=[
                MapInfo(
                    out, "reddening", "mag", long_name=f"E(B-V) from {', '.join(names)}", provenance=dict(provenance)
                )
            ],
            parameters=parameters,
            inputs=digests,
            memory={
                "templates": BYTES_A_VALUE * (2 * len(names) + 1) * size + 2 * len(chosen) * size,
                "interpolation": BLOCK_BYTES if raised else 0,
                "positions": min(SELECTION_BYTES, SELECTION_BYTES // SELECTION_BLOCK * size),
            },
            worker=worker,
            overwrite=overwrite,
        )

    announced = mapping((), {})

    def execute(run: Run) -> xr.Dataset:
        if out_dir is not None:
            make_directory(out_dir)  # now, not after the passes over the sky
        try:
            found = fitting.run(run.client, progress=run.progress)
        except InputError as error:
            raise InputError(str(error).replace(OR_RIDGE, "")) from error  # there is none here
        result = _result(found, names, columns, scale, offset, noise is None)
        models = [
            LinearModel(
                tuple((name, float(result["coefficient"].sel(region=label, template=name))) for name in names),
                float(result["coefficient"].sel(region=label, template=OFFSET)) if offset else 0.0,
            )
            for label in chosen
        ]
        known = stores.observed_tiles(where, (*names, target))
        kernel = ScatterKernel(pixels, target, tuple((model,) for model in models))
        scatters = over_tiles(kernel, pixels, where, known, run, "scatter")
        result = _described(result, scatters, stores.tiling_of(where).npix, noise is None)
        result.attrs = {
            "store": where,
            "target": target,
            "factor": float(factor),
            "mask": mask or "",
            "region": json.dumps({name: described(each) for name, each in chosen.items()}),
            "map": f"{into.address}: {out}",
            "statement": str(found.attrs.get("statement", "")),
        }
        labels = result["template"].values.tolist()
        told = {
            "coefficients": {
                label: dict(zip(labels, row, strict=True))
                for label, row in zip(chosen, result["coefficient"].values.tolist(), strict=True)
            },
            "unit": f"mmag per {COLUMN}, offset mmag",
            "scatter_mmag": result["scatter"].values.tolist(),
        }
        in_mag = tuple(
            LinearModel(tuple((n, c * 1e-3) for n, c in model.coefficients), 1e-3 * model.offset * include_offset)
            for model in models
        )
        mapping(in_mag, told).run(run.client, progress=run.progress)
        if out_dir is not None:
            write_reddening(result, scatters, out_dir)
        return result

    size = stores.tiling_of(where).tile_npix
    fit_memory = sum(fitting.memory.values())
    scatter_memory = size * (
        12 + 4 * len(pixels.reads) + BYTES_A_VALUE * (len(names) + 1) * len(chosen) + BYTES_A_PIXEL
    )
    most = max(fit_memory, scatter_memory, announced.task_memory)
    return Plan(
        "reddening",
        into.address,
        execute,
        worker,
        todo=announced.todo,
        done=announced.done,
        n_tiles=announced.n_tiles,
        read_bytes=announced.read_bytes + 2 * fitting.read_bytes,
        write_bytes=announced.write_bytes,
        memory=dict(announced.memory) if most == announced.task_memory else {"fit": most},
        reserved=max(announced.reserved, fitting.reserved),
        notes=[
            f"fits {factor:g} x {target} in {', '.join(chosen)}, then writes {out} at nside {into.tiling.nside}",
            *([f"interpolated from nside {stores.tiling_of(where).nside}: {', '.join(raised)}"] if raised else []),
        ],
        account=dataset_json,
    )


def _result(
    found: xr.Dataset, names: Sequence[str], columns: Mapping[str, float], scale: float, offset: bool, plain: bool
) -> xr.Dataset:
    """Return what a fit found in mmag per 1e20 cm^-2; a fit is linear in its target, and so are its errors."""
    import xarray as xr

    labels = [*names, *([OFFSET] if offset else [])]
    factor = xr.DataArray(
        [scale / columns[name] for name in names] + [scale] * offset, coords={"template": labels}, dims="template"
    )
    one = found.isel(target=0, drop=True).drop_vars("unit")
    made: dict[str, Any] = {}
    for key in ("coefficient", "error", "jackknife_error"):
        if key in one:
            made[key] = one[key] * factor
    made["covariance"] = one["covariance"] * factor * factor.rename(template="template_2")
    # Without noise it is the sum of the squares of residuals.
    made["chi2"] = one["chi2"] * (scale**2 if plain else 1.0)
    for key in ("dof", "condition"):
        made[key] = one[key]
    return xr.Dataset(made).transpose("region", "template", "template_2")


def _described(result: xr.Dataset, scatters: Any, npix: int, plain: bool) -> xr.Dataset:
    """Return the result with scatter and area, and the units of everything."""
    added: dict[str, Any] = {key: ("region", values[:, 0]) for key, values in scatter_numbers(scatters).items()}
    areas = area_of([row[0].moments.count for row in scatters], npix)
    added |= {key: ("region", values) for key, values, _ in areas}
    made = result.assign(added)
    units = dict.fromkeys(("scatter", "robust_scatter", "median"), "mmag")
    units |= dict.fromkeys(("coefficient", "error", "jackknife_error"), f"mmag per {COLUMN}; offset mmag")
    units |= {"chi2": "mmag^2"} if plain else {}
    units |= {"covariance": "products of those of the coefficients", **{key: unit for key, _, unit in areas}}
    for key in made.data_vars:
        made[key].attrs = {"units": units.get(str(key), "1")}
    return made
