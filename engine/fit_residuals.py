"""Distributions of the residuals of a fit over the pixels that were used, for its page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .diagnose_pass import RESIDUAL_SCALE, merge_gathered
from .fit_maps import map_name
from .fit_pass import tiles_of
from .fit_request import FitRequest
from .histograms import Histogram
from .ledger import read_held
from .plan import Run
from .reducing import reduce_tiles
from .used_pixels import UsedPixels


@dataclass(frozen=True)
class ResidualHistogramKernel:
    """Counts the residuals of a tile, by target and region.

    Parameters
    ----------
    store : str
        Where the residual maps are; it may be tiled otherwise.
    targets : tuple of str
        Maps that were fitted.
    regions : tuple of (str, UsedPixels)
        Name and pixels.
    """

    store: str
    targets: tuple[str, ...]
    regions: tuple[tuple[str, UsedPixels], ...]

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[tuple[str, str], Histogram]:
        """Return histograms by target and region."""
        size = next(iter(inputs.values())).size
        residuals = {
            target: read_held(self.store, map_name("residual", target), tile * size, (tile + 1) * size)
            for target in self.targets
        }
        # The same pixels for every target, as in the fit.
        known = np.all([np.isfinite(values) for values in residuals.values()], axis=0)
        found = {}
        for name, region in self.regions:
            used = known & region.holds(tile * size, inputs, size)
            for target, values in residuals.items():
                found[target, name] = Histogram.of(RESIDUAL_SCALE, values[used].astype(np.float64))
        return found


def residual_histograms(request: FitRequest, store: str, run: Run) -> dict[tuple[str, str], Histogram]:
    """Return the histograms of the residual maps that a fit has written, by target and region.

    Parameters
    ----------
    request : FitRequest
        What was asked for, residual maps among it.
    store : str
        Where they were written.
    run : Run
        Where to count.
    """
    regions = tuple((name or "all used pixels", used) for name, used in request.regions)
    reads = tuple(dict.fromkeys(name for _, used in regions for name in used.maps)) or request.targets[:1]
    start: dict[tuple[str, str], Histogram] = {}
    return reduce_tiles(
        ResidualHistogramKernel(store, request.targets, regions),
        store=request.store,
        names=reads,
        merge=merge_gathered,
        initial=start,
        tiles=tiles_of(request),
        client=run.client,
        threads=run.worker.threads,
        progress=run.progress,
        label="residuals",
    )
