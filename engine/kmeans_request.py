"""What a clustering of voxels is asked for: the cube, its channels and units, the pixels that are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..chunking import store as stores
from ..chunking.errors import InputError, nearest
from ..models.kmeans import ATTRIBUTES, STARTS, weights_of
from .kmeans_cube import CubeReader
from .ledger import identity_of, map_digest
from .selection import Where, described
from .targets import tile_bytes
from .used_pixels import UsedPixels

MAX_CLUSTERS = 2**15 - 1  # labels are 16-bit numbers


@dataclass(frozen=True)
class KmeansRequest:
    """A cube and the voxels of it that are clustered; made by `request_of`.

    Parameters
    ----------
    cube : CubeReader
        The cube.
    used : UsedPixels
        Which pixels.
    where : Any
        What was said of them besides the mask, JSON-able.
    tiles : tuple of int
        Tiles that may hold used voxels.
    everywhere : tuple of int
        Tiles that hold anything of the cube.
    """

    cube: CubeReader
    used: UsedPixels
    where: Any
    tiles: tuple[int, ...]
    everywhere: tuple[int, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The cube, and the maps that decide which pixels are used."""
        return tuple(dict.fromkeys((self.cube.name, *self.used.maps)))

    @property
    def tile_bytes(self) -> int:
        """Bytes of a tile of all that is read."""
        return tile_bytes(self.cube.store, self.reads, self.cube.tiling.tile_npix)

    def digests(self) -> dict[str, str]:
        """Return the digests of all maps that are read, by name."""
        return {name: map_digest(self.cube.store, name) for name in self.reads}

    def facts(self) -> dict[str, Any]:
        """Return what decides which voxels there are, JSON-able."""
        mask = None if self.used.mask is None else self.used.mask.name
        return {"cube": self.cube.name, "mask": mask, "region": self.where}

    def key(self) -> str:
        """Return a digest of the voxels, wherever and whenever they are read."""
        return identity_of({"store": self.cube.store, "inputs": self.digests(), **self.facts()})


def request_of(store: stores.StoreAddress, cube: str, mask: str | None, region: Where) -> KmeansRequest:
    """Return what is clustered, checked.

    Parameters
    ----------
    store, cube, mask, region
        See `engine.kmeans.kmeans`.

    Raises
    ------
    MissingMapError, InputError, UnitError
        See `CubeReader.of` and `UsedPixels.of`.
    """
    reader = CubeReader.of(store, cube)
    used = UsedPixels.of(reader.store, mask, region)
    observed = tuple(stores.observed_tiles(reader.store, [cube]))
    return KmeansRequest(reader, used, described(region), used.tiles(observed), observed)


@dataclass(frozen=True)
class KmeansOptions:
    """How voxels are clustered; made by `options_of`.

    Parameters
    ----------
    k : int
        Clusters.
    weights : tuple of float
        (attribute,).
    seed : int
        Of the starts.
    init : str or tuple of tuple of float
        A start, or (cluster, attribute) centres.
    n_init : int
        Starts.
    tolerance : float
        Of the iterations.
    max_iterations : int
        Of a start.
    """

    k: int
    weights: tuple[float, ...]
    seed: int
    init: str | tuple[tuple[float, ...], ...]
    n_init: int
    tolerance: float
    max_iterations: int

    def facts(self) -> dict[str, Any]:
        """Return all of it, JSON-able."""
        return {
            "k": self.k,
            "weights": dict(zip(ATTRIBUTES, self.weights, strict=True)),
            "seed": self.seed,
            "init": self.init,
            "n_init": self.n_init,
            "tolerance": self.tolerance,
            "max_iterations": self.max_iterations,
        }


def options_of(
    k: int,
    weights: Mapping[str, float] | None,
    seed: int,
    init: Any,
    n_init: int,
    tolerance: float,
    max_iterations: int,
) -> KmeansOptions:
    """Return how voxels are clustered, checked; see `engine.kmeans.kmeans`.

    Raises
    ------
    InputError
        If an option makes no sense.
    """
    for option, value, least in (("k", k, 1), ("seed", seed, 0), ("n_init", n_init, 1), ("tolerance", tolerance, 0)):
        if value < least:
            raise InputError(f"`{option}` {value} came; give {least} or more.")
    if k > MAX_CLUSTERS:
        raise InputError(f"`k` {k} came; give {MAX_CLUSTERS} or less.")
    if max_iterations < 1:
        raise InputError(f"`max_iterations` {max_iterations} came; give 1 or more.")
    chosen = init if isinstance(init, str) else _centres(init, k)
    if isinstance(init, str) and init not in STARTS:
        raise InputError(f"`init` {init!r} came; {nearest(init, STARTS)}, or give centres.")
    found = tuple(weights_of(weights).tolist())
    return KmeansOptions(k, found, seed, chosen, n_init, float(tolerance), max_iterations)


def _centres(init: Any, k: int) -> tuple[tuple[float, ...], ...]:
    try:
        centres = np.asarray(init, dtype=np.float64)
    except (TypeError, ValueError):
        centres = np.empty(0)
    if centres.shape != (k, len(ATTRIBUTES)) or not np.isfinite(centres).all():
        raise InputError(
            f"`init` with shape {centres.shape} came; give {' or '.join(map(repr, STARTS))}, or {k} centres as finite "
            f"numbers (cluster, attribute), attributes {', '.join(ATTRIBUTES)} in their own units."
        )
    return tuple(tuple(row) for row in centres.tolist())
