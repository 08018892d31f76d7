"""Results by region as an `xarray.Dataset`, and as JSON: what the verbs on residuals return."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .histograms import Histogram
from .named_regions import Regions
from .report import plain

if TYPE_CHECKING:
    import xarray as xr

# Of a Gaussian inside 1, 2 and 3 standard deviations on either side.
LEVELS = (1, 2, 3)
QUANTILES = ((0.158655254, 0.841344746), (0.022750132, 0.977249868), (0.001349898, 0.998650102))

type Columns = Mapping[str, tuple[Sequence[str], Any]]


def region_dataset(
    columns: Columns,
    coordinates: Mapping[str, Any],
    regions: Sequence[str],
    region: Regions,
    attributes: Mapping[str, Any],
    units: Mapping[str, str],
) -> xr.Dataset:
    """Return variables by region; without the dimension where the regions were not given by name.

    Parameters
    ----------
    columns : mapping
        Dimensions behind "region", and values (region, ...).
    coordinates : mapping
        Of the dimensions.
    regions : sequence of str
        Their names.
    region : str, Region, mapping or None
        What the user gave.
    attributes : mapping
        Of the dataset; JSON-able.
    units : mapping
        Of variables.
    """
    import xarray as xr

    made = xr.Dataset(
        {name: (("region", *dims), np.asarray(values)) for name, (dims, values) in columns.items()},
        coords={"region": list(regions), **coordinates},
        attrs=dict(attributes),
    )
    for name, unit in units.items():
        made[name].attrs["units"] = unit
    return made if isinstance(region, Mapping) else made.isel(region=0, drop=True)


def dataset_json(found: xr.Dataset) -> str:
    """Return a dataset as JSON: attributes, coordinates, and every variable with its dimensions."""
    known = {
        "attributes": dict(found.attrs),
        "coordinates": {str(name): values.values.tolist() for name, values in found.coords.items()},
        "variables": {
            str(name): {"dims": list(values.dims), "units": values.attrs.get("units"), "values": values.values.tolist()}
            for name, values in found.data_vars.items()
        },
    }
    return json.dumps(plain(known), indent=2, allow_nan=False)


def intervals(histogram: Histogram) -> list[list[float]]:
    """Return the values between which 68.3, 95.4 and 99.7 % of a distribution lie, (level, side)."""
    return [[histogram.quantile(low), histogram.quantile(high)] for low, high in QUANTILES]
