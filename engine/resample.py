"""Resample: maps at another nside by way of their a_lm, so that their spectra stay what they are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError
from ..chunking.schema import MapInfo
from ..chunking.tiling import Tiling
from .arguments import check_choice, checked
from .fields import Field, Place
from .ledger import map_digest
from .mapping import Kernel, map_plan
from .masks import check_weight_map
from .plan import Plan
from .quadrature import ONE_PASS
from .records import RunReport
from .rings import Layout, largest_task
from .smooth_request import check_values
from .staged_maps import (
    PIXELS,
    Pieces,
    StagedMaps,
    divide_by_share,
    pixel_memory,
    through_harmonics,
    tile_memory,
)
from .stages import Stages
from .targets import Target, creation, observed_in_any, tiles_over
from .transform_cost import Cost
from .transpose import check_way
from .worker import Worker, parse_bytes

LEAST_WEIGHT = 0.5
SHARES = "shares-"


@dataclass(frozen=True)
class ResampleKernel:
    """Puts tiles together, and divides by the share of the sky that had a value.

    Parameters
    ----------
    pixels : Pieces
        Of the maps.
    shares : Pieces
        Of what had a value.
    maps : tuple of (str, str)
        Map, and the field of its share: empty where every pixel has a value.
    least_weight : float
        Below it there is no value.
    """

    pixels: Pieces
    shares: Pieces
    maps: tuple[tuple[str, str], ...]
    least_weight: float

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the maps of a tile."""
        made = {}
        for name, share in self.maps:
            values = self.pixels.tile(name, tile)
            if share:
                divide_by_share(values, self.shares.tile(share, tile), self.least_weight)
            made[name] = values.astype(np.float32, copy=False)
        return made


@dataclass(frozen=True, eq=False)
class Resampling:
    """From maps of one nside to pieces of maps of another.

    Parameters
    ----------
    source : str
        Store that is read.
    infos : tuple of MapInfo
        Its maps.
    weight : (str, str), optional
        Store and name of the mask.
    target : Tiling
        What is written.
    window : bool
        Bring averages over pixels to averages over the new pixels.
    ring_weights : bool
        See `BandTask`.
    iterations : int
        Rounds of least squares.
    least_weight : float
        See `ResampleKernel`.
    """

    source: str
    infos: tuple[MapInfo, ...]
    weight: Place | None
    target: Tiling
    window: bool
    ring_weights: bool
    iterations: int
    least_weight: float

    def onto(self, layout: Layout) -> Layout:
        """Return the layout of what is written, with bands of its own."""
        return Layout.of(self.target, layout.lmax, layout.precision)

    def make(self, stages: Stages, layout: Layout) -> Kernel:
        """Do the stages and return what puts a tile together."""
        fields = [Field(info.name, (self.source, info.name), self.weight) for info in self.infos]
        noted = self._bring(stages, layout, fields, "")
        shares = []
        for field in fields:
            holes = sum(facts["missing"][field.label] for facts in noted) > 0
            if holes or self.weight is not None:
                shares.append(replace(field, present=True))
        if shares:
            self._bring(stages, layout, shares, SHARES)
        pixels = Pieces(self.onto(layout), stages.scratch, PIXELS)
        known = {field.label for field in shares}
        maps = tuple((field.label, field.label if field.label in known else "") for field in fields)
        return ResampleKernel(pixels, replace(pixels, stage=SHARES + PIXELS), maps, self.least_weight)

    def _bring(self, stages: Stages, layout: Layout, fields: Sequence[Field], name: str) -> list[dict[str, Any]]:
        """Bring fields to pieces of the new tiles, and return what the bands noted."""
        transfers = [self._transfer(layout, field.label) for field in fields]
        return through_harmonics(
            stages,
            layout,
            self.onto(layout),
            fields,
            transfers,
            ring_weights=self.ring_weights,
            iterations=self.iterations,
            name=name,
        )

    def _transfer(self, layout: Layout, name: str) -> NDArray[np.float64]:
        """Return what multiplies the a_lm of a map, (ell,): the new window of pixels over the old one."""
        averaged = next(info.pixel_window for info in self.infos if info.name == name)
        if not (self.window and averaged):
            return np.ones(layout.lmax + 1)
        from .pixel_window import pixel_window

        return pixel_window(self.target.nside, layout.lmax) / pixel_window(layout.tiling.nside, layout.lmax)

    def cost(self, layout: Layout) -> Cost:
        """Return what the stages and the tiles cost, without holes that only the stages will find."""
        fields = len(self.infos) * (1 if self.weight is None else 2)
        onto = self.onto(layout)
        return Cost().there_and_back(layout, onto, fields, self.iterations).tiles(onto, fields)

    def memory(self, layout: Layout) -> dict[str, int]:
        """Return the bytes of the most demanding task of the stages, by part."""
        fields, onto = len(self.infos), self.onto(layout)
        band = layout.band_memory(0 if self.weight is None else 1, iterated=self.iterations > 0)
        return largest_task(band, layout.block_memory(fields), onto.block_memory(fields), pixel_memory(onto))


@checked
def resample(
    store: stores.StoreAddress,
    out_store: stores.StoreAddress,
    nside: int,
    *,
    maps: str | Sequence[str] | None = None,
    lmax: int | None = None,
    pixel_window: bool = True,
    mask: str | None = None,
    least_weight: float = LEAST_WEIGHT,
    weights: str = "ring",
    iterations: int = 0,
    precision: str = "single",
    scratch: str | os.PathLike[str] | None = None,
    transpose: str = "auto",
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[RunReport]:
    """Return the plan that brings maps to another nside by way of their a_lm, up or down.

    Writes, into `out_store`, the maps under their own names, (cells,) float32 in their own unit.  Up to `lmax` their
    spectra are what they were, above there is nothing: unlike the mean over the children (`degrade`), which lets
    small scales alias into large ones.  Bright sources ring at the scale of `lmax`; smooth first (`smooth`) where they
    must not.

    Parameters
    ----------
    store : str or path
        The sky store that is read.
    out_store : str or path
        The one that is written, in the same frame; made if it is not there.
    nside : int
        Its nside.
    maps : str or sequence of str, optional
        Which maps; by default all float32 maps, which cubes are not.
    lmax : int, optional
        Largest degree that is kept; default twice the smaller nside, at most 3 nside - 1 of either.
    pixel_window : bool
        Where a map is an average over pixels, make the new one an average over the new pixels.
    mask : str, optional
        Map of weights, as for `smooth`.
    least_weight : float
        A new pixel has a value where at least this share of what it is made of had one, above 0 to 1.
    weights : {"ring", "pixel"}
        Quadrature, as for `spectra`.
    iterations : int
        Rounds of least squares.
    precision : {"single", "double"}
        Of the numbers on the way.
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
        If the nside is that of the maps, an option is not what is described, or `out_store` has another nside or frame.
    MissingMapError
        If a map or the mask is missing.

    References
    ----------
    Gorski et al. 2005, ApJ 622, 759.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("dust", folder + "/sky.zarr", 32, seed=1, maps=["i160"]).run()
    ...     _ = sm.resample(folder + "/sky.zarr", folder + "/coarse.zarr", 8).run()
    ...     sm.open(folder + "/coarse.zarr")["i160"].sizes["cells"]
    768
    """
    check_choice("weights", weights, ONE_PASS)
    check_way(transpose)
    if not 0.0 < least_weight <= 1.0:
        raise InputError(f"`least_weight` {least_weight} came; give a share above 0, up to 1.")
    if iterations < 0:
        raise InputError(f"`iterations` {iterations} came; give 0 or more.")
    where = stores.address(store)
    infos = _maps(where, maps)
    if mask is not None:
        stores.require_maps(where, [mask])
        check_weight_map(stores.info(where, mask))
    fine = stores.tiling_of(where)
    into = _target(where, stores.address(out_store), nside)
    top = _lmax(lmax, fine.nside, into.tiling.nside)
    resampling = Resampling(
        source=where,
        infos=infos,
        weight=None if mask is None else (where, mask),
        target=into.tiling,
        window=pixel_window,
        ring_weights=weights == "ring",
        iterations=iterations,
        least_weight=float(least_weight),
    )
    names = [info.name for info in infos]
    parameters: dict[str, Any] = {
        "from_nside": fine.nside,
        "nside": into.tiling.nside,
        "lmax": top,
        "pixel_window": pixel_window,
        "mask": mask,
        "least_weight": float(least_weight),
        "weights": weights,
        "iterations": iterations,
        "precision": precision,
    }
    inputs = {name: map_digest(where, name) for name in dict.fromkeys([*names, *([mask] if mask else [])])}
    layout = Layout.of(fine, top, precision)

    def tiles(kernel: Kernel, worker: Worker) -> Plan[RunReport]:
        return map_plan(
            "resample",
            kernel,
            target=into.address,
            writes=[replace(info, provenance={"resampled": {"from_nside": fine.nside, "lmax": top}}) for info in infos],
            target_tiling=into.tiling,
            before=into.create,
            tiles=tiles_over(observed_in_any(where, names), fine, into.tiling),
            parameters=parameters,
            inputs=inputs,
            memory=tile_memory(resampling.onto(layout), 1),
            worker=worker,
            overwrite=overwrite,
            after=lambda report: check_values(into.address, names, mask),
        )

    return StagedMaps(
        verb="resample",
        target=into.address,
        facts={"verb": "resample", "source": where, "parameters": parameters, "inputs": inputs},
        layout=layout,
        memory=resampling.memory,
        make=resampling.make,
        tiles=tiles,
        scratch_fields=len(names),
        kept_fields=len(names),
        rings_at_once=4 if iterations else 2,
        scratch=scratch,
        transpose=transpose,
        cost=resampling.cost,
        reads=(len(names) + (mask is not None)) * (1 + iterations),
        notes=[f"maps    {', '.join(names)} from nside {fine.nside} to {into.tiling.nside}, lmax {top}"],
    ).plan(Worker.here(threads, parse_bytes(memory)))


def _maps(where: str, maps: str | Sequence[str] | None) -> tuple[MapInfo, ...]:
    known: Mapping[str, MapInfo] = stores.infos(where)
    if maps is None:
        chosen = tuple(name for name, info in known.items() if info.dtype == "float32" and not info.is_cube)
    else:
        chosen = (maps,) if isinstance(maps, str) else tuple(dict.fromkeys(maps))
    if not chosen:
        raise InputError(f"no map came; name some of {where}: {', '.join(known) or 'it holds none'}.")
    stores.require_maps(where, chosen)
    for name in chosen:
        if known[name].dtype != "float32":
            raise InputError(
                f"map {name!r} holds codes or bits ({known[name].dtype}), which have no spectrum; bring it to another "
                "nside with skymill.degrade or skymill.hand_down."
            )
    return tuple(known[name] for name in chosen)


def _target(where: str, there: str, nside: int) -> Target:
    """Return the store that is written, one that is there where it fits."""
    tiling, frame = Tiling(nside), stores.frame_of(where)
    if tiling.nside == stores.tiling_of(where).nside:
        raise InputError(f"nside {nside} came, which is that of {where}; give another one.")
    if not stores.exists(there):
        return Target(there, tiling, creation(there, tiling, frame))
    known = stores.tiling_of(there)
    if known.nside != nside:
        raise InputError(f"{there} has nside {known.nside}, asked for was {nside}; write to another store.")
    if stores.frame_of(there) != frame:
        raise InputError(
            f"{where} is in frame {frame}, {there} in {stores.frame_of(there)}; write to a store in the frame of the "
            "maps."
        )
    return Target(there, known, None)


def _lmax(lmax: int | None, fine: int, coarse: int) -> int:
    smaller = min(fine, coarse)
    if lmax is not None and not 0 <= lmax <= 3 * smaller - 1:
        raise InputError(
            f"`lmax` {lmax} came; between nside {fine} and {coarse} degrees from 0 to 3 nside - 1 = {3 * smaller - 1} "
            f"can be kept. Give one of these; to 2 nside = {2 * smaller} they are accurate."
        )
    return 2 * smaller if lmax is None else lmax
