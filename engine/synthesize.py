"""Synthesis: Gaussian skies of given power spectra, written straight into a store, at any nside."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError, nearest
from ..chunking.schema import MapInfo, check_frame
from ..chunking.tiling import Tiling
from .arguments import checked
from .correlated import factor_spectra, spectra_matrix
from .given_spectra import read_spectra
from .mapping import Kernel, map_plan
from .plan import Plan
from .realised_harmonics import RealisedHarmonics, check_seed
from .records import RunReport
from .rings import Layout, largest_task
from .staged_maps import PIXELS, Pieces, StagedMaps, pixel_memory, tile_memory
from .stages import Stages, band_order
from .targets import creation
from .transform import BlockTask, PixelTask
from .transform_cost import Cost
from .transpose import check_way
from .worker import Worker, parse_bytes

type Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SynthesizeKernel:
    """Puts a tile together from what the stages left."""

    pieces: Pieces
    names: tuple[str, ...]

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the maps of a tile."""
        return {name: self.pieces.tile(name, tile).astype(np.float32, copy=False) for name in self.names}


@checked
def synthesize(
    cl: Any,
    store: stores.StoreAddress,
    *,
    name: str | Sequence[str] = "g",
    nside: int | None = None,
    seed: int = 0,
    lmax: int | None = None,
    unit: str | Mapping[str, str] = "1",
    frame: str = "galactic",
    fwhm: float | None = None,
    pixel_window: bool = False,
    tile_nside: int | None = None,
    precision: str = "single",
    scratch: str | os.PathLike[str] | None = None,
    transpose: str = "auto",
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[RunReport]:
    """Return the plan that writes Gaussian skies of given power spectra, one map or a correlated set.

    Writes `name` (cells,) float32 in `unit`, every pixel with a value.  Neither a map nor its a_lm are ever held
    whole.  A seed is one sky: its a_lm are the same at every nside and lmax (a larger lmax only adds to them), and the
    bytes of a map are the same whatever the memory and the number of workers.

    Parameters
    ----------
    cl : array, mapping, dataset or path
        The spectra, from ell 0 on, in `unit` squared (of a pair, the product of the two): (ell,) for one map;
        {("a", "a"): ..., ("a", "b"): ...} for a set, where pairs that are not given are uncorrelated; what `spectra`
        returns without bins, or the folder or table that it wrote; or a text file with columns ell and cl, or ell and
        one column a pair under a header such as `ell,a x a,a x b`.
    store : str or path
        Sky store to write into; made if it is not there.
    name : str or sequence of str
        The map, or the maps of the set; of a set in this order, so that more maps leave the first ones as they are.
    nside : int, optional
        Resolution; default that of the store, needed where there is none.
    seed : int
        Which realisation, from 0 to 2**64 - 1.
    lmax : int, optional
        Largest degree; default as far as the spectra go, at most 3 nside - 1.
    unit : str or mapping of str to str
        Of the maps: one for all, or by map.
    frame : {"galactic", "icrs", "ecliptic"}
        Of the pixels.
    fwhm : float, optional
        Smooth with a Gaussian beam of this FWHM, arcmin; by default not at all.
    pixel_window : bool
        Take the mean over the pixel instead of the value at its centre, as the pixel window does it on average.
    tile_nside : int, optional
        Tiles of a new store.
    precision : {"single", "double"}
        Of the numbers on the way.  The same sky: single is within some 1e-6 of the standard deviation of double.
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
        If the spectra are too short, not finite or negative, if no maps can have them (a correlation above 1), `lmax`
        is above 3 nside - 1, or the store is there with another nside, frame or tiling.
    IdentityError
        If a map is there, made by another run.

    References
    ----------
    Gorski et al. 2005, ApJ 622, 759 (the grid); Reinecke & Seljebotn 2013, A&A 554, A112 (the transform).  Normal
    numbers are those of NumPy's Generator from Philox, keyed by seed, order m and place of the map.

    Examples
    --------
    >>> import tempfile, numpy as np, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cl = 1.0 / (1.0 + np.arange(48)) ** 2
    ...     _ = sm.synthesize(cl, folder + "/sky.zarr", nside=16, seed=1).run()
    ...     sm.open(folder + "/sky.zarr")["g"].dtype
    dtype('float32')
    """
    names = (name,) if isinstance(name, str) else tuple(name)
    if not names or len(set(names)) != len(names):
        raise InputError(f"`name` {name!r} came; give the map, or every map of a set once.")
    check_seed(seed)
    check_way(transpose)
    check_frame(frame)
    target = stores.address(store)
    tiling = _tiling(target, nside, frame, tile_nside)
    units = _units(unit, names)
    known = read_spectra(cl, names)
    shortest = min(values.size for values in known.values())
    top = min(shortest - 1, 3 * tiling.nside - 1) if lmax is None else lmax
    layout = Layout.of(tiling, top, precision)
    if top >= shortest:
        raise InputError(
            f"`lmax` {top} came, the spectra end at ell {shortest - 1}; give longer ones, filled up with zeros where "
            "there is no power, or a smaller lmax."
        )
    matrix = spectra_matrix(known, names, top)
    factors = factor_spectra(matrix, names)
    factors *= _transfer(layout, fwhm, pixel_window)[:, None, None]
    draw = RealisedHarmonics(seed, len(names))
    parameters = {
        "spectra": hashlib.blake2b(np.ascontiguousarray(matrix), digest_size=16).hexdigest(),
        "seed": seed,
        "lmax": top,
        "fwhm_arcmin": fwhm,
        "pixel_window": pixel_window,
        "precision": precision,
    }

    create = creation(target, tiling, frame)

    def make(stages: Stages, layout: Layout) -> Kernel:
        create()  # before the work: where the store cannot be made, that is known at once
        draw.give(stages.scratch, factors)
        orders = BlockTask(layout, stages.scratch, "orders", names, draw=draw, back=True)
        stages.go(orders, range(layout.n_blocks), "orders")
        pixels = PixelTask(layout, stages.scratch, PIXELS, names, "orders")
        stages.go(pixels, band_order(layout), "pixels")
        stages.drop("orders")
        return SynthesizeKernel(Pieces(layout, stages.scratch, PIXELS), names)

    def tiles(kernel: Kernel, worker: Worker) -> Plan[RunReport]:
        return map_plan(
            "synthesize",
            kernel,
            target=target,
            writes=[_map(each, units[each], fwhm, pixel_window, seed) for each in names],
            target_tiling=tiling,
            before=create,
            parameters={**parameters, "names": list(names)},
            memory=tile_memory(layout),
            worker=worker,
            overwrite=overwrite,
        )

    maps = StagedMaps(
        verb="synthesize",
        target=target,
        facts={"verb": "synthesize", **parameters, "names": list(names), "nside": tiling.nside},
        layout=layout,
        memory=lambda layout: largest_task(
            layout.block_memory(len(names)) | {"draws": 32 * (top + 1) * (len(names) + 1)}, pixel_memory(layout)
        ),
        make=make,
        tiles=tiles,
        cost=lambda layout: (
            Cost()
            .draws(layout, len(names))
            .legendre(layout, len(names), write=True)
            .rows(layout, len(names), read=True)
            .tiles(layout, len(names))
        ),
        scratch_fields=len(names),
        scratch=scratch,
        transpose=transpose,
        notes=[f"maps    {', '.join(names)} of nside {tiling.nside}, seed {seed}"],
    )
    return maps.plan(Worker.here(threads, parse_bytes(memory)))


def _units(unit: str | Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """Return the unit of every map."""
    if isinstance(unit, str):
        return dict.fromkeys(names, unit)
    for name in unit:
        if name not in names:
            raise InputError(f"`unit` names the map {name!r}; {nearest(name, names)}.")
    for name in names:
        if name not in unit:
            raise InputError(f'`unit` has none for the map {name!r}; give one ("1" for a pure number).')
    return dict(unit)


def _tiling(target: str, nside: int | None, frame: str, tile_nside: int | None) -> Tiling:
    """Return the tiling of the store, of one that is there where it agrees."""
    if not stores.exists(target):
        if nside is None:
            raise InputError(f"there is no store {target} yet; give the nside of the one to be made.")
        return Tiling(nside, tile_nside)
    there, there_frame = stores.tiling_of(target), stores.frame_of(target)
    asked = [
        (nside, there.nside, "nside"),
        (frame, there_frame, "frame"),
        (tile_nside, there.tile_nside, "tile_nside"),
    ]
    for came, has, what in asked:
        if came is not None and came != has:
            raise InputError(
                f"the store {target} exists with {what} {has}; {what} {came} came. Write to another store, or ask for "
                "what this one has."
            )
    return there


def _transfer(layout: Layout, fwhm: float | None, window: bool) -> Floats:
    """Return what multiplies the a_lm, (ell,) float64."""
    transfer = np.ones(layout.lmax + 1)
    if fwhm is not None:
        from .beams import beam_of

        if not 0 < fwhm < np.inf:
            raise InputError(f"`fwhm` {fwhm} came; give a positive width in arcmin, or None for none.")
        transfer *= beam_of(fwhm, layout.lmax)
    if window:
        from .pixel_window import pixel_window

        transfer *= pixel_window(layout.tiling.nside, layout.lmax)
    return transfer


def _map(name: str, unit: str, fwhm: float | None, window: bool, seed: int) -> MapInfo:
    return MapInfo(
        name,
        "Gaussian realisation",
        unit,
        long_name=f"Gaussian realisation {name} of seed {seed}",
        beam_fwhm_arcmin=fwhm,
        pixel_window=window,
    )
