"""Gas templates into reddening, tile by tile: the kernel, and where its templates come from."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import geometry
from ..chunking import store as stores
from ..chunking.errors import InputError, MissingMapError, UnitError
from ..chunking.interpolation import interpolate
from ..chunking.tiling import Tiling
from ..chunking.units import conversion
from .ledger import read_held
from .reddening_scatter import LinearModel
from .targets import tiles_over
from .used_pixels import UsedPixels

COLUMN = "1e20 cm^-2"
# Pixels that are interpolated at once, and what each takes: four neighbours, their weights and values, and the sort.
_BLOCK = 2**16
BLOCK_BYTES = 512 * _BLOCK


@dataclass(frozen=True)
class Upsampled:
    """A template that a coarser store has, at the centres of the pixels of a finer one.

    Parameters
    ----------
    store : str
        Address of the coarse store.
    tiling : Tiling
        Its grid.
    name : str
        The map.
    """

    store: str
    tiling: Tiling
    name: str

    def __call__(self, fine: Tiling, start: int, stop: int) -> NDArray[np.float64]:
        """Return the values at the pixels [start, stop) of the finer grid, (cells,) float64; see `interpolate`."""
        read = functools.partial(read_held, self.store, self.name)
        parts = []
        for first in range(start, stop, _BLOCK):
            lon, lat = geometry.pixel_lonlat(fine.nside, np.arange(first, min(first + _BLOCK, stop), dtype=np.int64))
            parts.append(interpolate(read, lon, lat, self.tiling))
        return np.concatenate(parts)


@dataclass(frozen=True)
class ReddeningKernel:
    """Makes reddening of templates, each region with its own coefficients.

    Parameters
    ----------
    out : str
        Name of the map.
    tiling : Tiling
        Its grid.
    templates : tuple of (str, float)
        Maps, and what brings each to 1e20 cm^-2.
    upsampled : tuple of Upsampled
        Those of them that come from a coarser store.
    regions : tuple of UsedPixels
        The first that holds a pixel gives its coefficients.
    models : tuple of LinearModel
        One a region, mag of 1e20 cm^-2.
    """

    out: str
    tiling: Tiling
    templates: tuple[tuple[str, float], ...]
    upsampled: tuple[Upsampled, ...]
    regions: tuple[UsedPixels, ...]
    models: tuple[LinearModel, ...]

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the map of a tile; nothing where no region holds one of its pixels."""
        size = self.tiling.tile_npix
        start = tile * size
        free = np.ones(size, bool)
        held = []
        for used in self.regions:
            own = used.holds(start, inputs, size) & free
            free &= ~own
            held.append(own)
        if free.all():
            return {}
        coarse = {each.name: each(self.tiling, start, start + size) for each in self.upsampled}
        values = {
            name: np.asarray(coarse[name] if name in coarse else inputs[name], np.float64) * factor
            for name, factor in self.templates
        }
        made = np.full(size, np.nan, np.float32)
        for own, model in zip(held, self.models, strict=True):
            made[own] = model({name: column[own] for name, column in values.items()}).astype(np.float32)
        return {self.out: made}


def to_column(store: str, name: str) -> float:
    """Return what the values of a map are multiplied by to be in 1e20 cm^-2.

    Raises
    ------
    UnitError
        If the map is no column density.
    """
    unit = stores.info(store, name).unit
    try:
        return conversion(unit, COLUMN).factor
    except UnitError as error:
        raise UnitError(
            f"template {name!r} of {store} is in {unit}; a column density is expected, for example in {COLUMN!r}. Make "
            "templates with skymill.templates, or multiply by what makes it one with skymill.prepare."
        ) from error


def upsampled_templates(
    where: str, there: str, names: Sequence[str], upsample: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the templates that are interpolated from the store where they are fitted.

    Parameters
    ----------
    where, there : str
        Addresses of the store where they are fitted, and of that where they have their own nside.
    names : sequence of str
        All templates.
    upsample : sequence of str, optional
        Which; default those that `there` lacks.

    Raises
    ------
    InputError
        If `there` is no finer store of the same frame, or a name is no template.
    MissingMapError
        If a template would be in neither.
    """
    held = stores.infos(there)
    wanted = (upsample,) if isinstance(upsample, str) else upsample
    raised = tuple(name for name in names if (name not in held if wanted is None else name in wanted))
    for name in wanted or ():
        if name not in names:
            raise InputError(f"`upsample` speaks of {name!r}; the templates are {', '.join(names)}.")
    if where == there:
        if raised:
            raise InputError(f"`upsample` {', '.join(raised)} came without `native`; give the store of the finer maps.")
        return ()
    for name in names:
        if name not in raised and name not in held:
            raise MissingMapError(f"template {name!r} is not in {there}, nor among `upsample`; name it there.")
    coarse, fine = stores.tiling_of(where), stores.tiling_of(there)
    if raised and coarse.nside > fine.nside:
        raise InputError(
            f"{', '.join(raised)} would go from nside {coarse.nside} to {fine.nside}; only to a finer one can be "
            "interpolated. Bring the maps there with skymill.degrade."
        )
    if stores.frame_of(where) != stores.frame_of(there):
        raise InputError(
            f"{where} is in frame {stores.frame_of(where)}, `native` {there} in {stores.frame_of(there)}; the two must "
            "be in the same frame."
        )
    return raised


def tiles_to_write(
    where: str,
    there: str,
    names: Sequence[str],
    raised: Sequence[str],
    regions: Iterable[UsedPixels],
    tiling: Tiling,
) -> tuple[int, ...]:
    """Return the tiles in which all templates may have values and some region may hold pixels.

    Parameters
    ----------
    where, there : str
        As for `upsampled_templates`.
    names, raised : sequence of str
        All templates, and those that are interpolated.
    regions : iterable of UsedPixels
        Of `there`.
    tiling : Tiling
        Of what is written.
    """
    fine = [name for name in names if name not in raised]
    held = set(range(tiling.n_tiles))
    if fine:
        held &= set(tiles_over(stores.observed_tiles(there, fine), stores.tiling_of(there), tiling))
    if raised:
        held &= set(tiles_over(stores.observed_tiles(where, raised), stores.tiling_of(where), tiling))
    known = tuple(sorted(held))
    # Regions know tiles of the grid that their store has.
    return tuple(tile for tile in known if any(each.selection.tiles(tiling, each.frame, (tile,)) for each in regions))
