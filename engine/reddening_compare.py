"""Reddening maps held against one another: which of them follows a reference most closely, in mmag."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError, UnitError, nearest
from ..chunking.units import conversion
from ..models.gls import NormalEquations, accumulate
from .arguments import checked
from .named_regions import CAPS, area_of, pixels_of, regions_of
from .plan import Plan, Run
from .reddening_report import write_comparison
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
from .worker import Worker, parse_bytes

if TYPE_CHECKING:
    import xarray as xr

# Of normal equations: blocks of columns beside the values of a tile.
_BLOCK_BYTES = 4_000_000


@dataclass(frozen=True)
class _Equations:
    """Kernel: normal equations of target = slope x map + offset for each region and map, of one tile."""

    pixels: RegionPixels
    target: str
    maps: tuple[str, ...]
    slope: float | None

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> tuple[tuple[NormalEquations, ...], ...]:
        found = []
        for values in self.pixels.values(tile, inputs):
            wanted = values[self.target]
            if self.slope is None:
                found.append(tuple(accumulate((values[name],), (wanted,)) for name in self.maps))
            else:
                found.append(tuple(accumulate((), (wanted - self.slope * values[name],)) for name in self.maps))
        return tuple(found)


@checked
def compare_reddening(
    store: stores.StoreAddress,
    target: str,
    maps: str | Sequence[str],
    *,
    factors: Mapping[str, float] | None = None,
    slope: float | None = None,
    mask: str | None = None,
    region: Where | Mapping[str, Where] = None,
    out_dir: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[xr.Dataset]:
    """Return the plan that tells how closely reddening maps follow a reference, in each region.

    In each region, target = slope x map + offset is fitted to the pixels where the reference and all of the maps have a
    value, all with the same weight; what is left scatters the less, the better the map.

    Parameters
    ----------
    store : str or path
        Sky store with all maps, in mag or mmag.
    target : str
        The reference, for example the reddening of stars.
    maps : str or sequence of str
        The maps that are compared.
    factors : mapping of str to float, optional
        What maps are multiplied by before, the reference too where it is named; 0.86 brings SFD, and what is on its
        scale, to E(B-V) (Schlafly & Finkbeiner 2011).  Default 1.
    slope : float, optional
        Do not fit the slope, take this one.
    mask : str, optional
        Map that says which pixels count; see `skymill.mask`.
    region : str, Region, sequence of them, or mapping of names to these, optional
        Where to compare; `skymill.mask` says what can be written.  Default the galactic caps, "ngc" (b > 0) and "sgc"
        (b < 0).
    out_dir : path, optional
        Folder for `comparison.json`, a figure and `index.html`.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan of xarray.Dataset
        With dimensions (region, map) float64: `slope` and its formal `slope_error` (NaN where the slope was given),
        `offset` (mmag); of target - slope x map - offset: `scatter`, its standard deviation, `robust_scatter`, half of
        the distance of the quantiles 0.159 and 0.841, and its `median` (mmag).  With (region): `pixels`, `area`
        (deg^2), `f_sky`.

    Raises
    ------
    MissingMapError
        If the store does not hold a map.
    UnitError
        If a map is in neither mag nor mmag.
    InputError
        If no map came, or a factor is none; when run, if a region has too few pixels or a map is constant there.

    References
    ----------
    Cheng et al. 2025, arXiv:2411.12801, section 6: 3.5 and 3.0 mmag against 4.2 and 3.1 mmag of SFD.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> steps = [{"step": "scale", "factor": 0.01, "unit": "mag", "label": "made up"}]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     _ = sm.simulate("dust", sky, 16, seed=1, maps=["i350", "i500"]).run()
    ...     _ = sm.prepare(sky, [{"input": f"i{n}", "output": f"ebv_{n}", "steps": steps} for n in (350, 500)]).run()
    ...     found = sm.compare_reddening(sky, "ebv_500", ["ebv_350", "ebv_500"]).run()
    ...     found["scatter"].dims, bool((found["scatter"][:, 0] > found["scatter"][:, 1]).all())
    (('region', 'map'), True)
    """
    where = stores.address(store)
    names = (maps,) if isinstance(maps, str) else tuple(maps)
    if not names:
        raise InputError("`maps` is empty; give the maps that are compared with the reference.")
    if len(set(names)) < len(names):
        raise InputError(f"`maps` {', '.join(names)} names a map twice.")
    sought = tuple(dict.fromkeys((target, *names)))
    stores.require_maps(where, sought)
    scales = tuple((name, factor * to_mmag(where, name)) for name, factor in _factors(sought, factors).items())
    if slope is not None and not np.isfinite(slope):
        raise InputError(f"`slope` {slope} came; give a finite number, or None to fit it.")
    chosen = regions_of(CAPS if region is None else region)
    used = pixels_of(where, mask, chosen)
    pixels = RegionPixels(tuple(used.values()), scales)
    tiling = stores.tiling_of(where)
    held = stores.observed_tiles(where, sought)
    tiles = tuple(tile for tile in held if any(tile in each.tiles((tile,)) for each in used.values()))

    def execute(run: Run) -> xr.Dataset:
        if out_dir is not None:
            make_directory(out_dir)  # now, not after the passes over the sky
        if not tiles:
            raise InputError(f"no tile of {where} holds {', '.join(sought)} in any region; nothing can be compared.")
        equations = over_tiles(_Equations(pixels, target, names, slope), pixels, where, tiles, run, "fit")
        numbers, models, counts = _solved(equations, tuple(chosen), names, slope)
        kernel = ScatterKernel(pixels, target, models)
        scatters = over_tiles(kernel, pixels, where, tiles, run, "scatter")
        for key, values in scatter_numbers(scatters).items():
            numbers[key] = values
        found = _dataset(numbers, counts, tuple(chosen), names, tiling.npix)
        found.attrs = {
            "store": where,
            "target": target,
            "factors": json.dumps({name: float(factor) for name, factor in (factors or {}).items()}),
            "slope": "fitted" if slope is None else slope,
            "mask": mask or "",
            "region": json.dumps({name: described(each) for name, each in chosen.items()}),
        }
        if out_dir is not None:
            write_comparison(found, scatters, out_dir)
        return found

    size, columns = tiling.tile_npix, len(sought)
    return Plan(
        "compare_reddening",
        where if out_dir is None else os.fspath(out_dir),
        execute,
        Worker.here(threads, parse_bytes(memory)),
        todo=tiles,
        n_tiles=tiling.n_tiles,
        read_bytes=2 * 4 * len(pixels.reads) * size * len(tiles),
        memory={
            "inputs": 4 * len(pixels.reads) * size,
            "codecs": 12 * size,
            "values": BYTES_A_VALUE * columns * len(chosen) * size,
            "residuals": BYTES_A_PIXEL * size + _BLOCK_BYTES,
            "positions": min(SELECTION_BYTES, SELECTION_BYTES // SELECTION_BLOCK * size),
        },
        notes=[f"{target} against {', '.join(names)} in {', '.join(chosen)}"],
        account=dataset_json,
    )


def to_mmag(store: str, name: str) -> float:
    """Return what the values of a map are multiplied by to be in mmag.

    Raises
    ------
    UnitError
        If the map is in neither mag nor mmag.
    """
    unit = stores.info(store, name).unit
    try:
        return conversion(unit, "mmag").factor
    except UnitError as error:
        raise UnitError(
            f"map {name!r} is in {unit}; reddening is in mag or mmag. Give a reddening map, or bring this one to mag "
            "with skymill.prepare."
        ) from error


def _factors(names: Sequence[str], factors: Mapping[str, float] | None) -> dict[str, float]:
    for name, factor in (factors or {}).items():
        if name not in names:
            raise InputError(f"`factors` speaks of map {name!r}; {nearest(name, names)}.")
        if not (np.isfinite(factor) and factor != 0):
            raise InputError(f"`factors` {factor} came for map {name!r}; give a finite number, not 0.")
    return {name: float((factors or {}).get(name, 1.0)) for name in names}


def _solved(
    equations: Any, regions: Sequence[str], names: Sequence[str], slope: float | None
) -> tuple[dict[str, NDArray[np.float64]], tuple[tuple[LinearModel, ...], ...], list[int]]:
    """Return slopes, their errors and offsets as (region, map), the models of them, and pixels by region."""
    shape = (len(regions), len(names))
    numbers = {key: np.full(shape, np.nan) for key in ("slope", "slope_error", "offset")}
    models = []
    for row, (label, own) in enumerate(zip(regions, equations, strict=True)):
        for column, (name, part) in enumerate(zip(names, own, strict=True)):
            try:
                solution = part.solve(names=() if slope is not None else (name,))
            except InputError as error:
                said = str(error).replace(", or fit with offset=False", "")  # there is always one here
                raise InputError(f"region {label!r}, map {name!r}: {said}") from error
            numbers["slope"][row, column] = solution.coefficient[0, 0] if slope is None else slope
            numbers["slope_error"][row, column] = solution.error[0, 0] if slope is None else np.nan
            numbers["offset"][row, column] = solution.coefficient[0, -1]
        models.append(
            tuple(
                LinearModel(((name, float(numbers["slope"][row, at])),), float(numbers["offset"][row, at]))
                for at, name in enumerate(names)
            )
        )
    return numbers, tuple(models), [own[0].count for own in equations]


def _dataset(
    numbers: Mapping[str, NDArray[np.float64]],
    counts: Sequence[int],
    regions: Sequence[str],
    names: Sequence[str],
    npix: int,
) -> xr.Dataset:
    import xarray as xr

    units = {"slope": "1", "slope_error": "1"}
    by_map = {key: (("region", "map"), values, {"units": units.get(key, "mmag")}) for key, values in numbers.items()}
    by_region = {key: ("region", values, {"units": unit}) for key, values, unit in area_of(counts, npix)}
    return xr.Dataset({**by_map, **by_region}, coords={"region": list(regions), "map": list(names)})
