"""Maps of clusters: the column density of each, tile by tile with the centres that were found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking.schema import MapInfo
from ..models.kmeans import Clusters, Scaling, bytes_of_voxels, cluster_columns
from .kmeans_pass import Source
from .kmeans_request import KmeansRequest
from .mapping import map_plan
from .plan import Plan
from .records import RunReport
from .targets import Target, tiles_over
from .worker import Worker

type Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClusterMapsKernel:
    """Makes the maps of one tile.

    Parameters
    ----------
    source : Source
        What voxels are.
    names : tuple of str
        The maps.
    mean, factor : tuple of float
        (attribute,) of the scaling.
    centres : tuple of tuple of float
        (cluster, attribute), scaled.
    amount : tuple of float
        (channel,) column density of a stored 1.
    everywhere : bool
        Whether to make them in all pixels, not only in used ones.
    """

    source: Source
    names: tuple[str, ...]
    mean: tuple[float, ...]
    factor: tuple[float, ...]
    centres: tuple[tuple[float, ...], ...]
    amount: tuple[float, ...]
    everywhere: bool

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Return the maps by name, (cells,) float32, NaN in pixels without a voxel."""
        voxels = self.source.made(tile, inputs, everywhere=self.everywhere)
        scaling = Scaling(np.array(self.mean), np.array(self.factor))
        columns = cluster_columns(voxels, scaling, np.array(self.centres), np.array(self.amount))
        return dict(zip(self.names, columns, strict=True))


def cluster_names(out: str, k: int) -> tuple[str, ...]:
    """Return the names of the maps of k clusters.

    Examples
    --------
    >>> cluster_names("cluster", 3)
    ('cluster_1', 'cluster_2', 'cluster_3')
    """
    return tuple(f"{out}_{number}" for number in range(1, k + 1))


def maps_plan(
    request: KmeansRequest,
    names: tuple[str, ...],
    target: Target,
    parameters: Mapping[str, Any],
    clusters: Clusters | None,
    *,
    everywhere: bool,
    overwrite: bool,
    worker: Worker,
) -> Plan[RunReport]:
    """Return the plan that writes the maps of clusters; before they are found, only for what it tells of itself.

    Parameters
    ----------
    request : KmeansRequest
        What was asked for.
    names : tuple of str
        Of the maps.
    target : Target
        Where they go.
    parameters : mapping
        JSON-able facts that decide the clusters.
    clusters : Clusters, optional
        What was found.
    everywhere, overwrite, worker
        See `engine.kmeans.kmeans`.
    """
    centres = None if clusters is None else clusters.centres
    writes = [
        MapInfo(
            name,
            "column density",
            request.cube.unit,
            long_name=f"column density of cluster {number + 1} of {len(names)} of {request.cube.info.name}",
            beam_fwhm_arcmin=request.cube.info.beam_fwhm_arcmin,
            pixel_window=request.cube.info.pixel_window,
            provenance={"centre": None if centres is None else centres[number].tolist()},
        )
        for number, name in enumerate(names)
    ]
    channels, npix = len(request.cube.velocity), request.cube.tiling.tile_npix
    kernel: Any = None
    if clusters is not None:
        kernel = ClusterMapsKernel(
            Source.of(request, 0),
            names,
            tuple(clusters.scaling.mean.tolist()),
            tuple(clusters.scaling.factor.tolist()),
            tuple(tuple(row) for row in clusters.scaled.tolist()),
            request.cube.amount,
            everywhere,
        )
    return map_plan(
        "kmeans",
        kernel,
        source=request.cube.store,
        reads=request.reads,
        cubes=True,
        target=target.address,
        target_tiling=target.tiling,
        before=target.create,
        writes=writes,
        memory={"voxels": bytes_of_voxels(npix, channels), "distances": look_bytes(channels) + 64 * npix},
        parameters=parameters,
        tiles=tiles_over(request.everywhere if everywhere else request.tiles, request.cube.tiling, target.tiling),
        overwrite=overwrite,
        worker=worker,
    )


def look_bytes(channels: int) -> int:
    """Return the bytes of temporaries where voxels are looked at one by one (`models.kmeans_assign.nearest`)."""
    return 5 * 8 * 32 * 128 * channels
