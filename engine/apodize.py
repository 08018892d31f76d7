"""Apodize: a mask with edges as a weight that falls smoothly to zero, by the distance to the edge."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..chunking import objects
from ..chunking import store as stores
from ..chunking.errors import InputError, nearest
from ..chunking.schema import MapInfo
from ..chunking.tiling import Tiling
from . import ledger
from .arguments import checked
from .edge_distance import CELL_NPIX, TREE_BYTES, chord, chords_to_edge, edge_places
from .mapping import map_plan
from .masks import check_weight_map, read_weights, stored_weights, weight_of_unobserved
from .plan import Plan, Run
from .records import RunReport
from .reducing import reduce_tiles
from .worker import Worker, parse_bytes

Floats = NDArray[np.float64]

DEGREES: Final = {"deg": 1.0, "arcmin": 1.0 / 60.0, "arcsec": 1.0 / 3600.0, "rad": 180.0 / math.pi}


def _c1(x: Floats, angle: Floats) -> Floats:
    return x - np.sin(2.0 * np.pi * x) / (2.0 * np.pi)


def _c2(x: Floats, angle: Floats) -> Floats:
    return 0.5 - 0.5 * np.cos(np.pi * x)


def _gaussian(x: Floats, angle: Floats) -> Floats:
    # Three standard deviations; divided by the value there, so that it meets the 1 beyond without a step.
    return np.expm1(-4.5 * angle**2) / math.expm1(-4.5)


# Of x, the chord as a fraction of that of the scale, and the angle as a fraction of the scale; 1 where both are 1.
TAPERS: Final[dict[str, Callable[[Floats, Floats], Floats]]] = {"C1": _c1, "C2": _c2, "gaussian": _gaussian}


def taper(kind: str, chords: Floats, scale: float) -> Floats:
    """Return what a weight is multiplied by at a distance from the edge, (...) float64 from 0 to 1.

    Parameters
    ----------
    kind : {"C1", "C2", "gaussian"}
        See `apodize`.
    chords : ndarray
        (...) distances through the unit sphere, 2 sin(d / 2) of the angle d.
    scale : float
        Radian; 1 from there on.

    Examples
    --------
    >>> taper("C2", np.array([0.0, np.inf]), 0.1).tolist()
    [0.0, 1.0]
    """
    # 1 - cos d = chord^2 / 2, so that the square root of the ratio of two such is the ratio of the chords.
    x = np.minimum(chords / chord(scale), 1.0)
    angle = np.minimum(2.0 * np.arcsin(np.minimum(0.5 * chords, 1.0)) / scale, 1.0)
    return TAPERS[kind](x, angle)


@dataclass(frozen=True)
class ApodizeKernel:
    """The weights of one tile.

    Edge pixels of the tiles around are taken from objects beside the ledger of the map that is made, where the first
    task that needs them puts them, and from the mask where they are not there.
    """

    store: str
    mask: MapInfo
    digest: str
    out: str
    tiling: Tiling
    scale: float
    kind: str

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the weight of every pixel, nothing where none is used."""
        npix = self.tiling.tile_npix
        weights = stored_weights(self.store, self.mask, tile * npix, inputs[self.mask.name])
        used = weights > 0
        if not used.any():
            return {}
        edges_of = functools.partial(self.edges, own=tile, own_used=used, keep=self._is_running())
        chords = chords_to_edge(self.tiling, tile, used, edges_of, self.scale)
        made = np.zeros(npix, np.float32)
        for first in range(0, npix, CELL_NPIX):
            part = slice(first, first + CELL_NPIX)
            if used[part].any():
                made[part] = weights[part] * taper(self.kind, chords[part], self.scale)
        return {self.out: made}

    def edges(self, tile: int, *, own: int, own_used: NDArray[np.bool_], keep: bool) -> NDArray[np.uint32]:
        """Return the edge pixels of any tile, from where an earlier task has put them if one did."""
        key = f"{edges_prefix(self.out)}{self.digest}/{tile}"
        kept = objects.get(self.store, key)
        if kept is not None:
            return np.frombuffer(kept, "<u4")
        if tile == own:
            unused = ~own_used
        else:
            npix = self.tiling.tile_npix
            unused = read_weights(self.store, self.mask, tile * npix, (tile + 1) * npix) == 0
        found = edge_places(unused)
        if keep:
            objects.put(self.store, key, found.astype("<u4").tobytes())
        return found

    def _is_running(self) -> bool:
        """Return whether a run makes the map now: whoever only looks at a lazy one must write nothing."""
        return ledger.identity(self.store, self.out) is not None and not ledger.is_finished(self.store, self.out)


def edges_prefix(name: str) -> str:
    """Return where the edge pixels of tiles are kept while a map is being made; goes with the ledger of the map."""
    return f"ledger/{name}/edges/"


@dataclass(frozen=True)
class _Look:
    """Counts the used pixels of a tile, or tells what is wrong with it."""

    store: str
    mask: MapInfo
    tile_npix: int

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> tuple[int, str]:
        try:
            weights = stored_weights(self.store, self.mask, tile * self.tile_npix, inputs[self.mask.name])
        except InputError as error:
            # Told, not raised: a task that raises is tried again.
            return 0, str(error)
        return int(np.count_nonzero(weights)), ""


def _both(left: tuple[int, str], right: tuple[int, str]) -> tuple[int, str]:
    return left[0] + right[0], left[1] or right[1]


@checked
def apodize(
    store: stores.StoreAddress,
    mask: str,
    scale: float,
    *,
    unit: str = "deg",
    kind: Literal["C1", "C2", "gaussian"] = "C1",
    out: str | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[RunReport]:
    """Return the plan that writes a mask as a weight that falls smoothly to zero towards the edge.

    Writes `weight_<name>` (cells,) float32, unit "1": 0 where the mask does not use a pixel, elsewhere the weight that
    the mask gives it times a taper f(d) of the angle d from its centre to the centre of the nearest pixel that is not
    used, exact at every distance.  With x = sqrt((1 - cos d) / (1 - cos scale)), for d below the scale,

    - C1: f = x - sin(2 pi x) / (2 pi);
    - C2: f = (1 - cos(pi x)) / 2;
    - gaussian: f = (1 - exp(-d^2 / (2 sigma^2))) / (1 - exp(-9 / 2)) with sigma = scale / 3;

    and f = 1 from the scale on.  C1 and C2 leave 0 and reach 1 without a kink, which keeps the spectrum of the weight
    steep; the gaussian one rises fastest and so keeps more of the sky, at the price of a kink at either end.  A mask
    that uses the whole sky has no edge: its weights stay as they are.

    Parameters
    ----------
    store : str or path
        Sky store with the mask.
    mask : str
        Name of the mask: a uint8 map `mask_*` (1 = not to be used), another uint8 map (1 = used), or a float32 map of
        weights (0 = not used).  What no tile of it holds has its fill value; float32 maps without one do not use it.
    scale : float
        Width of the taper; at least the side of a pixel, at most 180 degrees.
    unit : {"deg", "arcmin", "arcsec", "rad"}
        Of the scale.
    kind : {"C1", "C2", "gaussian"}
        Which taper.
    out : str, optional
        Name of the map to write; by default `weight_` and the name of the mask without `mask_`.
    overwrite : bool
        Replace a map that another run made.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan
        Its run returns a RunReport.

    Raises
    ------
    MissingMapError
        If the mask is missing.
    InputError
        If the scale, its unit or the kind cannot be used, the mask holds something else than weights (negative numbers
        or NaN, bits of flags) or uses no pixel at all, or the output would be the mask itself.

    References
    ----------
    C1 and C2: Grain, Tristram & Stompor 2009, Phys. Rev. D 79, 123515, as functions of the distance on the sphere by
    Alonso et al. 2019, MNRAS 484, 4127 (NaMaster).  The gaussian taper is 1 - exp(-9 d^2 / (2 scale^2)), made
    continuous.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> from skymill.engine.apodize import apodize
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     _ = sm.simulate("dust", sky, 16, seed=1).run()
    ...     _ = sm.residual(sky, "raw_850um", "truth_850um", mask_above=0.05).run()
    ...     _ = apodize(sky, "mask_raw_850um", 10.0).run()
    ...     weight = sm.open(sky)["weight_raw_850um"]
    ...     float(weight.min()), str(weight.dtype)
    (0.0, 'float32')
    """
    where = stores.address(store)
    info = stores.info(where, mask)
    check_weight_map(info)
    tiling = stores.tiling_of(where)
    degrees = _degrees(scale, unit, tiling)
    if kind not in TAPERS:
        raise InputError(f"`kind` {kind!r} came; {nearest(kind, TAPERS)}.")
    name = _output_name(mask, out)
    everywhere = weight_of_unobserved(info) > 0
    tiles = range(tiling.n_tiles) if everywhere else stores.observed_tiles(where, [mask])
    made = MapInfo(
        name,
        "weight",
        "1",
        fill_value=0.0,
        long_name=f"weight of a pixel, {mask} with a {kind} taper of {degrees:g} deg",
        band=info.band,
    )
    npix = tiling.tile_npix
    plan = map_plan(
        "apodize",
        ApodizeKernel(where, info, ledger.map_digest(where, mask), name, tiling, math.radians(degrees), kind),
        target=where,
        reads=[mask],
        writes=[made],
        tiles=tiles,
        parameters={"mask": mask, "scale_deg": degrees, "kind": kind},
        memory={
            "weights": 8 * npix,
            "distances": 8 * npix,
            "edges of a tile": 32 * npix,
            "trees": TREE_BYTES,
        },
        worker=Worker.here(threads, parse_bytes(memory)),
        overwrite=overwrite,
        after=lambda report: objects.delete_prefix(where, edges_prefix(name)),
    )

    def execute(run: Run) -> RunReport:
        # The digest of the mask is part of the identity: where a tile is done, all this has been looked at.
        if not plan.done:
            _check_values(where, info, tiles, tiling.tile_npix, run)
        return plan.execute(run)

    return replace(plan, execute=execute)


def _degrees(scale: float, unit: str, tiling: Tiling) -> float:
    if unit not in DEGREES:
        raise InputError(f"`unit` {unit!r} came; {nearest(unit, DEGREES)}.")
    degrees = float(scale) * DEGREES[unit]
    if not 0.0 < degrees <= 180.0:
        raise InputError(f"`scale` {scale:g} {unit} came; give an angle above 0, up to 180 degrees.")
    side = math.degrees(math.sqrt(tiling.pixel_area))
    if degrees < side:
        raise InputError(
            f"`scale` {scale:g} {unit} came; pixels at nside {tiling.nside} are {side:.3g} deg wide, and a taper "
            f"narrower than that is none. Give at least {side / DEGREES[unit]:.3g} {unit}, or use the mask as it is."
        )
    return degrees


def _output_name(mask: str, out: str | None) -> str:
    label = mask.removeprefix("mask_") if mask.startswith("mask_") else mask.removeprefix("weight_")
    name = f"weight_{label}" if out is None else out
    if name == mask:
        raise InputError(f"the weight of {mask!r} would be written as {name!r}, over the mask; give another with out=.")
    return name


def _check_values(where: str, info: MapInfo, tiles: Sequence[int], tile_npix: int, run: Run) -> None:
    """Raise InputError where the mask holds what is no weight, or no pixel that is used; nothing is written then."""
    used, wrong = reduce_tiles(
        _Look(where, info, tile_npix),
        store=where,
        names=[info.name],
        merge=_both,
        initial=(0, ""),
        tiles=tiles,
        client=run.client,
        threads=run.worker.threads,
        progress=run.progress,
        label="apodize: the mask",
    )
    if wrong:
        raise InputError(wrong)
    if not used:
        raise InputError(
            f"map {info.name!r} in {where} uses no pixel, so there is nothing to weight. Is it the other way round? In "
            "a uint8 map named mask_* 1 means not to be used, in all others 0."
        )
