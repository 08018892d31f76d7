"""Maps of a fit: model, residual and fractional residual, tile by tile with the coefficients of their region."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import objects
from ..chunking import store as stores
from ..chunking.schema import MapInfo
from .fit_request import KINDS, FitRequest
from .ledger import map_digest
from .mapping import map_plan
from .plan import Plan
from .records import RunReport
from .targets import Target, tiles_over
from .used_pixels import UsedPixels
from .worker import Worker

if TYPE_CHECKING:
    import xarray as xr

type Floats = NDArray[np.float64]

BLOCK = 2**15  # cells: columns in float64 stay in the cache
_LONG_NAMES = {
    "model": "model of {}: templates times coefficients, plus offset",
    "residual": "{} - model of the fit",
    "fraction": "({} - model) / (model - offset) of the fit",
}


@dataclass(frozen=True)
class FitMapsKernel:
    """Makes the maps of one tile.

    Parameters
    ----------
    templates, targets : tuple of str
        Maps.
    kinds : tuple of str
        What to make, of `KINDS`.
    offset : bool
        Whether the last coefficient is one.
    table : tuple
        (row, target, coefficient) nested tuples of float: a row a region.  Empty where `kept` says where they are.
    regions : tuple of UsedPixels
        The first that holds a pixel gives its coefficients; none for all pixels.
    kept : tuple of (str, str), optional
        Store and key of the coefficients of super-pixels.
    superpixels : tuple of int
        Nside of the map and of the super-pixels.
    """

    templates: tuple[str, ...]
    targets: tuple[str, ...]
    kinds: tuple[str, ...]
    offset: bool
    table: tuple[Any, ...]
    regions: tuple[UsedPixels, ...]
    kept: tuple[str, str] | None = None
    superpixels: tuple[int, int] = (1, 1)

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Return `fit_<kind>_<target>`, (cells,) float32, NaN where a template has no value or no region holds."""
        size = inputs[(*self.templates, *self.targets)[0]].size
        made = {map_name(kind, target): np.empty(size, np.float32) for kind in self.kinds for target in self.targets}
        numbers, table = self._coefficients()
        for start in range(0, size, BLOCK):
            inside = slice(start, min(start + BLOCK, size))
            values = {name: array[inside] for name, array in inputs.items()}
            rows = self._rows(tile * size + start, values, inside.stop - start, numbers)
            for band, target in enumerate(self.targets):
                self._fill(made, target, inside, values, table[0, band] if rows is None else table[rows, band])
        return made

    def _coefficients(self) -> tuple[NDArray[np.int64], Floats]:
        """Return the super-pixels of every region and their coefficients, a row of NaN last."""
        if self.kept is not None:
            return _kept(*self.kept, len(self.regions) or 1, len(self.targets), len(self.templates) + self.offset)
        table = np.array(self.table, np.float64)
        return np.empty(0, np.int64), np.concatenate([table, np.full((1, *table.shape[1:]), np.nan)])

    def _rows(
        self, first: int, values: Mapping[str, NDArray[Any]], size: int, numbers: NDArray[np.int64]
    ) -> NDArray[np.int64] | None:
        """Return the row of the table of every pixel, the last where there is none; None for the first row."""
        region = np.zeros(size, np.int64)
        if self.regions:
            region[:] = -1
            for number, used in reversed(list(enumerate(self.regions))):
                region[used.holds(first, values, size)] = number
        if self.kept is None:
            return region if self.regions else None
        nside, coarse = self.superpixels
        own = np.arange(first, first + size) // (nside // coarse) ** 2
        place = np.minimum(np.searchsorted(numbers, own), numbers.size - 1)
        return np.where((region >= 0) & (numbers[place] == own), region * numbers.size + place, -1)

    def _fill(
        self,
        made: Mapping[str, NDArray[Any]],
        target: str,
        inside: slice,
        values: Mapping[str, NDArray[Any]],
        own: Floats,
    ) -> None:
        gas = np.zeros(inside.stop - inside.start)
        for place, name in enumerate(self.templates):
            gas += own[..., place] * values[name].astype(np.float64)
        offset = own[..., -1] if self.offset else 0.0
        model = gas + offset
        left = values[target].astype(np.float64) - model
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            for kind in self.kinds:
                if kind == "fraction":
                    found = left / gas
                    found[~np.isfinite(found)] = np.nan
                else:
                    found = model if kind == "model" else left
                made[map_name(kind, target)][inside] = found


@functools.lru_cache(maxsize=4)
def _kept(store: str, key: str, regions: int, targets: int, count: int) -> tuple[NDArray[np.int64], Floats]:
    content = objects.get(store, key)
    assert content is not None  # written before the first task goes out
    row = regions * targets * count
    size = len(content) // (8 * (1 + row))
    numbers = np.frombuffer(content, "<i8", size)
    table = np.frombuffer(content, "<f8", offset=8 * size).reshape(regions * size, targets, count)
    return numbers, np.concatenate([table, np.full((1, targets, count), np.nan)])


def map_name(kind: str, target: str) -> str:
    """Return the name of a map of a fit.

    Examples
    --------
    >>> map_name("residual", "i857")
    'fit_residual_i857'
    """
    return f"fit_{kind}_{target}"


def maps_plan(
    request: FitRequest,
    into: Target,
    parameters: Mapping[str, Any],
    fitted: xr.Dataset | None,
    *,
    overwrite: bool,
    worker: Worker,
) -> Plan[RunReport]:
    """Return the plan that writes the maps of a fit.

    Parameters
    ----------
    request : FitRequest
        What was asked for.
    into : Target
        The store written to.
    parameters : mapping
        Of the fit; with the digests of the maps that went into it they are the identity of the run.
    fitted : Dataset or None
        The fit; None to learn what a run will take before there is one.
    overwrite : bool
        Replace maps that another run made.
    worker : Worker
        What this process may use.
    """
    named = request.regions[0][0] is not None
    regions = tuple(replace(used, mask=None) for _, used in request.regions) if named else ()
    reads = tuple(dict.fromkeys((*request.templates, *request.targets, *(n for used in regions for n in used.maps))))
    others = [name for name in request.reads if name not in reads]
    table: Floats = np.zeros((1, len(request.targets), len(request.coefficients)))
    before, after = into.create, None
    kept: tuple[str, str] | None = None
    about: dict[str, Any] = {}
    if fitted is not None:
        table = fitted["coefficient"].values
        if request.superpixels is None:
            table = table if named else table[None]
            about = {"coefficients": _in_words(request, table)}
        else:
            numbers = fitted["superpixel"].values.astype("<i8")
            content = numbers.tobytes() + table.astype("<f8").tobytes()
            digest = hashlib.blake2b(content, digest_size=16).hexdigest()
            kept = (into.address, f"ledger/fit/{digest}")
            about = {"coefficients": f"of super-pixels of nside {request.superpixels}, with the digest {digest}"}
            before, after = functools.partial(_keep, into, kept[1], content), functools.partial(_drop, *kept)
    writes = [
        _info(kind, stores.info(request.store, target), about) for kind in request.maps for target in request.targets
    ]
    seen = stores.observed_tiles(request.store, request.templates or request.targets)
    tiles = tiles_over(seen, request.tiling, into.tiling)
    kernel = FitMapsKernel(
        request.templates,
        request.targets,
        request.maps,
        request.offset,
        () if kept else tuple(tuple(tuple(row) for row in band) for band in table.tolist()),
        regions,
        kept,
        (request.tiling.nside, request.superpixels or 1),
    )
    held = 0 if kept is None else 16 * table.size
    return map_plan(
        "fit",
        kernel,
        source=request.store,
        reads=reads,
        target=into.address,
        target_tiling=into.tiling,
        writes=writes,
        memory={"model": 8 * BLOCK * (6 + len(request.coefficients)) + 40 * BLOCK * len(regions) + held},
        parameters=parameters,
        inputs={name: map_digest(request.store, name) for name in others},
        tiles=tiles,
        overwrite=overwrite,
        worker=worker,
        before=before,
        after=after,
    )


def _keep(into: Target, key: str, content: bytes) -> None:
    if into.create is not None:
        into.create()
    objects.put(into.address, key, content)


def _drop(store: str, key: str, report: RunReport) -> None:
    objects.delete_prefix(store, key)


def _info(kind: str, target: MapInfo, about: Mapping[str, Any]) -> MapInfo:
    assert kind in KINDS
    return replace(
        target,
        name=map_name(kind, target.name),
        quantity=target.quantity if kind != "fraction" else "fractional residual",
        unit=target.unit if kind != "fraction" else "1",
        dtype="float32",
        fill_value=None,
        long_name=_LONG_NAMES[kind].format(target.name),
        provenance=dict(about),
        flag_meanings=(),
    )


def _in_words(request: FitRequest, table: Floats) -> dict[str, Any]:
    """Return coefficients by region, target and template, as JSON-able values."""
    found = {
        name or "": {
            target: dict(zip(request.coefficients, row, strict=True))
            for target, row in zip(request.targets, rows, strict=True)
        }
        for (name, _), rows in zip(request.regions, table.tolist(), strict=True)
    }
    return found if request.regions[0][0] is not None else found[""]
