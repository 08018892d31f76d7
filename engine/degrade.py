"""Degrade: the maps of a sky store at a coarser nside, as a store of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..chunking import hierarchy
from ..chunking import store as stores
from ..chunking.errors import InputError, nearest
from ..chunking.hierarchy import Kind, Policy
from ..chunking.schema import MapInfo
from ..chunking.tiling import Tiling
from .arguments import checked
from .ledger import map_digest, read_held
from .mapping import map_plan
from .plan import Plan
from .records import RunReport
from .targets import Target, creation, observed_in_any, tiles_over
from .worker import Worker, parse_bytes


@dataclass(frozen=True)
class DegradeKernel:
    """Makes one tile of the coarse maps from the fine cells below it, one fine tile after the other."""

    source: str
    kinds: tuple[tuple[str, Kind], ...]
    policy: Policy
    tile_npix: int
    npix_ratio: int
    piece: int

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the maps of the coarse tile."""
        start = tile * self.tile_npix * self.npix_ratio
        stop = start + self.tile_npix * self.npix_ratio
        return {
            name: np.concatenate(
                [
                    hierarchy.degrade(
                        read_held(self.source, name, first, min(first + self.piece, stop)),
                        self.npix_ratio,
                        policy=self.policy,
                        kind=kind,
                    )
                    for first in range(start, stop, self.piece)
                ]
            )
            for name, kind in self.kinds
        }


@checked
def degrade(
    store: stores.StoreAddress,
    out: stores.StoreAddress,
    nside: int,
    *,
    maps: str | Sequence[str] | None = None,
    policy: Policy = "any",
    kind: str | Mapping[str, str] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[RunReport]:
    """Return the plan that writes maps at a coarser nside.

    Writes, into `out`, the maps under their own names, (cells,) in their own dtype and unit, NESTED.  Sums run in
    float64; a map is averaged over the coarse pixel, not smoothed.

    Parameters
    ----------
    store : str or path
        The fine sky store.
    out : str or path
        The coarse one, made if it is not there; of the same frame.
    nside : int
        Its nside.
    maps : str or sequence of str, optional
        Which maps; by default all, which cubes are not.
    policy : {"any", "all"} or float
        How many of its children must have a value for a coarse pixel to have one: at least one, all, or this
        fraction, 0 < fraction <= 1.  Flags and codes are not affected.
    kind : str or mapping of str to str, optional
        What the numbers of a map are, for all maps or by name: "mean" (default for floats), "sum", "variance" (of
        independent pixels; the result is the variance of the mean), "bits" (default for flags and masks, combined by
        OR) or "code" (default for surveys, the most frequent).
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
        If the nside is not coarser, the policy or a kind is unknown, or `out` has another nside or frame.
    MissingMapError
        If a map is missing.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("dust", folder + "/sky.zarr", 16, seed=1, maps=["i160"]).run()
    ...     _ = sm.degrade(folder + "/sky.zarr", folder + "/coarse.zarr", 4).run()
    ...     sm.open(folder + "/coarse.zarr")["i160"].sizes["cells"]
    192
    """
    where, there = stores.address(store), stores.address(out)
    known = stores.infos(where)
    if maps is None:
        chosen = tuple(name for name, info in known.items() if not info.is_cube)
    else:
        chosen = (maps,) if isinstance(maps, str) else tuple(maps)
    if not chosen:
        raise InputError(f"no map came; name some of {where}: {', '.join(known) or 'it holds none'}.")
    stores.require_maps(where, chosen)
    fine = stores.tiling_of(where)
    ratio = hierarchy.children(fine.nside, nside)
    if ratio == 1:
        raise InputError(f"nside {nside} came, which is that of {where}; give a coarser one.")
    policy = _policy(policy)
    kinds = _kinds(chosen, known, kind, policy, ratio)
    into = _target(where, there, nside)
    coarse = into.tiling
    piece = min(max(fine.tile_npix, ratio), coarse.tile_npix * ratio)
    done = {"from_nside": fine.nside, "policy": policy}
    return map_plan(
        "degrade",
        DegradeKernel(where, kinds, policy, coarse.tile_npix, ratio, piece),
        target=into.address,
        target_tiling=coarse,
        before=into.create,
        writes=[replace(known[name], provenance={"degraded": {**done, "kind": kind}}) for name, kind in kinds],
        tiles=tiles_over(observed_in_any(where, chosen), fine, coarse),
        parameters={**done, "nside": coarse.nside, "kinds": dict(kinds)},
        inputs={name: map_digest(where, name) for name in chosen},
        # A piece as read and, for codes, compared; the shards that it is decoded from.
        memory={"fine cells": 8 * piece, "decoding": 12 * fine.tile_npix},
        worker=Worker.here(threads, parse_bytes(memory)),
        overwrite=overwrite,
    )


def _policy(policy: Policy) -> Policy:
    """Return the policy, a fraction that came as text (from a command line) as a number."""
    if isinstance(policy, str) and policy not in hierarchy.POLICIES:
        try:
            return float(policy)
        except ValueError:
            return policy
    return policy


def _kinds(
    names: Sequence[str],
    known: Mapping[str, MapInfo],
    kind: str | Mapping[str, str] | None,
    policy: Policy,
    ratio: int,
) -> tuple[tuple[str, Kind], ...]:
    """Return the kind of every map, after trying each with the policy on one family of its type."""
    if isinstance(kind, Mapping):
        for name in kind:
            if name not in names:
                raise InputError(f"`kind` speaks of map {name!r}; {nearest(name, names)}.")
    kinds = []
    for name in names:
        stated = kind.get(name) if isinstance(kind, Mapping) else kind
        chosen = hierarchy.kind_of_map(name, known[name].dtype) if stated is None else cast(Kind, stated)
        made = hierarchy.degrade(np.zeros(ratio, known[name].dtype), ratio, policy=policy, kind=chosen)
        if made.dtype != known[name].dtype:
            raise InputError(f"`kind` {chosen!r} came for map {name!r} of {known[name].dtype}; give bits or code.")
        kinds.append((name, chosen))
    return tuple(kinds)


def _target(where: str, there: str, nside: int) -> Target:
    """Return the coarse store, one that is there where it fits."""
    if not stores.exists(there):
        return Target(there, Tiling(nside), creation(there, Tiling(nside), stores.frame_of(where)))
    coarse = stores.tiling_of(there)
    if coarse.nside != nside:
        raise InputError(f"{there} has nside {coarse.nside}, asked for was {nside}; write to another store.")
    if stores.frame_of(there) != stores.frame_of(where):
        raise InputError(
            f"{where} is in frame {stores.frame_of(where)}, {there} in {stores.frame_of(there)}; write to a store in "
            "the frame of the input."
        )
    return Target(there, coarse, None)
