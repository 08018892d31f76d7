"""A residual against other maps: binned means with errors, medians, correlations and the lines that are expected."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..chunking import store as stores
from ..chunking.errors import InputError, nearest
from ..chunking.regions import Region
from .arguments import checked
from .block_moments import block_shift
from .gas_model import GasModel, gas_models
from .histograms import Histogram
from .named_regions import Regions, areas_of
from .plan import Plan, Run
from .profile_statistics import (
    RANKS,
    Binning,
    EdgeScale,
    ProfileKernel,
    RangeKernel,
    equal_limits,
    profile,
)
from .region_pass import reduce_regions, refuse_nothing, region_plan
from .region_tables import region_dataset

if TYPE_CHECKING:
    import xarray as xr

FEWEST_PIXELS = 10
PER_BIN = ("low", "high", "x", "mean", "error", "standard_error", "median", "sigma", "count")
PER_MAP = ("slope", "slope_error", "pearson", "spearman", "x_mean", "residual_mean", "pixels")


@checked
def profiles(
    store: stores.StoreAddress,
    residual: str,
    against: str | Sequence[str],
    *,
    fit: xr.Dataset | str | os.PathLike[str] | None = None,
    model: str | None = None,
    bins: int | Mapping[str, Sequence[float]] = 20,
    expected: Mapping[str, float] | None = None,
    jackknife: int | None = 4,
    mask: str | None = None,
    region: str | Region | Sequence[str | Region] | Mapping[str, Any] | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[xr.Dataset]:
    """Return the plan that averages a residual in bins of other maps.

    Parameters
    ----------
    store : str or path
        Sky store with the maps.
    residual : str
        A map of residuals such as "fit_residual_i857"; or, with `fit` or `model`, the target whose residuals are taken.
    against : str or sequence of str
        Maps whose values make the bins, for example N_HI, N_HII, CO or the fraction of cold gas.
    fit : Dataset or path, optional
        What `skymill.fit` returned, or where it was written.
    model : str, optional
        A map of the model instead.
    bins : int or mapping
        Number of bins that hold equally many pixels; or limits of bins by map, values beyond which are left out (maps
        that are not named then have 20 bins).
    expected : mapping, optional
        By map, the slope of a line to compare with, in the unit of the residual per unit of the map, for example
        `models.fingerprints.expected_co_slope`; the line goes through the means.
    jackknife : int or None
        nside of the patches of sky that are left out one by one for errors; None takes pixels as independent.
        Patches must be larger than the structures of the residuals: those of nside 4 are 15 degrees wide, see `fit`.
    mask : str, optional
        Mask map; see `skymill.mask`.
    region : str, Region, sequence of them, or mapping, optional
        Pixels to use (see `skymill.mask`), or several regions by name.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan
        Its run returns a Dataset: (against, bin) `low` and `high` limits, `x` the mean of the map, `mean`, `error`,
        `standard_error` (of independent pixels), `median` (from a fine histogram), `sigma` and `count` of the residual,
        `expected`; (against) `slope`, `slope_error`, `pearson`, `spearman` (from 128 classes of equal size), `x_mean`,
        `residual_mean`, `expected_slope` and `pixels`.  With named regions every variable has a leading dimension
        `region`.

    Raises
    ------
    InputError
        If both `fit` and `model` came, bins cannot be, `expected` names another map, or (when run) a map is constant
        or too few pixels are left.
    MissingMapError
        If a map is missing.

    References
    ----------
    Cheng et al. 2025, figures 9 to 11.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     _ = sm.simulate("dust", sky, 16, seed=1).run()
    ...     found = sm.profiles(sky, "raw_850um", ["i160", "i250"], model="truth_850um", bins=5).run()
    ...     dict(found["mean"].sizes)
    {'against': 2, 'bin': 5}
    """
    where = stores.address(store)
    names = (against,) if isinstance(against, str) else tuple(dict.fromkeys(against))
    if not names:
        raise InputError("`against` came empty; give the maps to hold the residual against.")
    stores.require_maps(where, [residual, *names])
    areas = areas_of(where, mask, region)
    if fit is None and model is None:
        models: tuple[GasModel, ...] = tuple(GasModel(name, used, residual) for name, used in areas.items())
    else:
        models = gas_models(where, residual, areas, fit=fit, model=model, offset_matters=False)
    number, given = _bins(bins, names)
    lines = dict(expected or {})
    for name, slope in lines.items():
        if name not in names:
            raise InputError(f"`expected` names {name!r}; {nearest(name, names)}.")
        if not math.isfinite(slope):
            raise InputError(f"`expected` has {slope} for {name!r}; give a finite slope.")
    tiling = stores.tiling_of(where)
    shift = block_shift(tiling, jackknife)

    def execute(run: Run) -> xr.Dataset:
        ranges = _reduce(RangeKernel(models, names, tiling.tile_npix), models, {}, run, "ranges")
        for name in names:
            held = [ranges[each.region, name].total for each in models]
            refuse_nothing(models, held, (name,), FEWEST_PIXELS)
        binnings = {}
        for each in models:
            classes = EdgeScale(equal_limits(ranges[each.region, ""], RANKS))
            for name in names:
                binnings[each.region, name] = _binning(ranges[each.region, name], name, number, given, classes)
        nothing = {key: binning.nothing() for key, binning in binnings.items()}
        kernel = ProfileKernel(models, binnings, tiling.tile_npix, shift)
        statistics = _reduce(kernel, models, nothing, run, "profiles")
        for (place, name), found in statistics.items():
            if found.joint.total == 0:
                raise InputError(f"no value of {name!r} in region {place!r} lies within the limits in `bins`.")
        blocks = jackknife is not None
        rows = [[profile(statistics[each.region, name], blocks=blocks) for name in names] for each in models]
        slopes = [lines.get(name, math.nan) for name in names]
        return profile_dataset(rows, names, slopes, list(areas), region, {"store": where, "residual": residual})

    def _reduce(kernel: Any, models: Sequence[GasModel], nothing: Any, run: Run, label: str) -> Any:
        return reduce_regions(kernel, where, models, names, _merge, nothing, run, label, needed=False)

    return region_plan(
        "profiles",
        where,
        models,
        names,
        execute,
        needed=False,
        passes=2,
        bytes_a_pixel=160,
        threads=threads,
        memory=memory,
    )


def profile_dataset(
    rows: list[list[dict[str, Any]]],
    names: Sequence[str],
    expected: Sequence[float],
    regions: list[str],
    region: Regions,
    attributes: Mapping[str, object],
) -> xr.Dataset:
    """Return profiles by region and map; see `profiles`."""
    most = max(each["low"].size for row in rows for each in row)

    def padded(values: Any) -> Any:
        return np.concatenate([values, np.full(most - values.size, np.nan)])

    columns: dict[str, tuple[tuple[str, ...], Any]] = {
        key: (("against", "bin"), [[padded(each[key]) for each in row] for row in rows]) for key in PER_BIN
    }

    def line(each: dict[str, Any], slope: float) -> Any:
        return padded(each["residual_mean"] + slope * (each["x"] - each["x_mean"]))

    lines = [[line(each, slope) for each, slope in zip(row, expected, strict=True)] for row in rows]
    columns["expected"] = (("against", "bin"), lines)
    columns |= {key: (("against",), [[each[key] for each in row] for row in rows]) for key in PER_MAP}
    columns["expected_slope"] = (("against",), [list(expected) for _ in rows])
    return region_dataset(columns, {"against": list(names), "bin": np.arange(most)}, regions, region, attributes, {})


def _merge(mine: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> dict[Any, Any]:
    merged = dict(mine)
    for key, part in theirs.items():
        merged[key] = merged[key].merge(part) if key in merged else part
    return merged


def _bins(bins: int | Mapping[str, Sequence[float]], names: Sequence[str]) -> tuple[int, dict[str, tuple[float, ...]]]:
    if not isinstance(bins, Mapping):
        if bins < 1:
            raise InputError(f"`bins` {bins} came; give at least 1, or limits by map.")
        return bins, {}
    given = {}
    for name, limits in bins.items():
        if name not in names:
            raise InputError(f"`bins` names {name!r}; {nearest(name, names)}.")
        row = tuple(float(limit) for limit in limits)
        if len(row) < 2 or not np.isfinite(row).all() or not (np.diff(row) > 0).all():
            raise InputError(f"`bins` has {list(limits)} for {name!r}; give at least two ascending limits.")
        given[name] = row
    return 20, given


def _binning(
    histogram: Histogram, name: str, number: int, given: Mapping[str, tuple[float, ...]], classes: EdgeScale
) -> Binning:
    if histogram.index.size < 2:
        raise InputError(f"map {name!r} is constant over the pixels that are used; leave it out of `against`.")
    limits = given.get(name) or equal_limits(histogram, number)
    return Binning(EdgeScale(limits), name in given, EdgeScale(equal_limits(histogram, RANKS)), classes)
