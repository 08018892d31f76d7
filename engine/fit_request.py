"""What `fit` was asked for, held against the store: templates, targets, noise, regions, super-pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError, UnitError, nearest
from ..chunking.regions import Region
from ..chunking.tiling import Tiling
from .given_noise import WhiteNoise, white_noise
from .named_regions import areas_of
from .selection import described
from .used_pixels import UsedPixels

type Floats = NDArray[np.float64]
type Where = str | Region | Sequence[str | Region]
type Noise = float | str | None

OFFSET = "offset"
KINDS = ("model", "residual", "fraction")


@dataclass(frozen=True)
class FitRequest:
    """What was asked for.

    Parameters
    ----------
    store : str
        Address of the store.
    tiling : Tiling
        Its grid.
    templates, targets : tuple of str
        Maps fitted, and fitted to.
    units : tuple of tuple of str
        (target, coefficient): the unit of each coefficient, the offset last where there is one.
    noise : tuple of WhiteNoise or None
        By target; None where the size of the noise is to be taken from the residuals.
    regions : tuple of (str or None, UsedPixels)
        Name, None where there is just one, and pixels.
    where : tuple
        What was said of each region, as JSON.
    offset : bool
        Whether a constant is fitted.
    jackknife : int or None
        Nside of the super-pixels that are left out one after the other.
    superpixels : int or None
        Nside of the super-pixels that have coefficients of their own.
    ridge : float
        See `fit`.
    maps : tuple of str
        Which maps are to be written, of `KINDS`.
    """

    store: str
    tiling: Tiling
    templates: tuple[str, ...]
    targets: tuple[str, ...]
    units: tuple[tuple[str, ...], ...]
    noise: tuple[WhiteNoise | None, ...]
    regions: tuple[tuple[str | None, UsedPixels], ...]
    where: tuple[Any, ...]
    offset: bool
    jackknife: int | None
    superpixels: int | None
    ridge: float
    maps: tuple[str, ...]

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of the coefficients: templates, and the offset."""
        return (*self.templates, OFFSET) if self.offset else self.templates

    @property
    def noise_maps(self) -> tuple[str, ...]:
        """Maps of noise, each once."""
        return tuple(dict.fromkeys(each.name for each in self.noise if each is not None and each.name is not None))

    @property
    def values(self) -> tuple[str, ...]:
        """Maps that must have a value where a pixel is used."""
        return tuple(dict.fromkeys((*self.templates, *self.targets, *self.noise_maps)))

    @property
    def reads(self) -> tuple[str, ...]:
        """All maps that are read."""
        return tuple(dict.fromkeys((*self.values, *(name for _, used in self.regions for name in used.maps))))

    @property
    def weights(self) -> tuple[WhiteNoise | None, ...]:
        """Whose weights are summed: nobody's where all are constant, one for all targets, or one a target."""
        if not self.noise_maps:
            return ()
        return self.noise[:1] if len(set(self.noise)) == 1 else self.noise

    @property
    def groups(self) -> int:
        """How many sets of weights there are, one at least."""
        return max(1, len(self.weights))

    @property
    def variance(self) -> Floats:
        """Variance of the noise beside the weights that are summed, (target,); NaN where the residuals say it."""
        constant = {None: math.nan} | {each: 1.0 if self.weights else each.factor**2 for each in self.noise if each}
        return np.array([constant[each] for each in self.noise])

    @property
    def part_nside(self) -> int | None:
        """Nside of the parts of the sky that sums are kept of; None for one part."""
        return self.superpixels or self.jackknife

    @property
    def part_cells(self) -> int:
        """Pixels of a part of the sky, those of a tile where there is no division."""
        return self.tiling.tile_npix if self.part_nside is None else (self.tiling.nside // self.part_nside) ** 2


def request_of(
    store: stores.StoreAddress,
    templates: Sequence[str],
    target: str | Sequence[str],
    *,
    noise: Noise | Mapping[str, Noise],
    mask: str | None,
    region: Where | Mapping[str, Where] | None,
    offset: bool,
    jackknife: int | None,
    superpixels: int | None,
    ridge: float,
    maps: bool | Sequence[str],
) -> FitRequest:
    """Return the arguments of `fit`, checked; see there."""
    where = stores.address(store)
    tiling = stores.tiling_of(where)
    names = (templates,) if isinstance(templates, str) else tuple(templates)
    targets = (target,) if isinstance(target, str) else tuple(target)
    _check_names(names, targets, offset)
    stores.require_maps(where, (*names, *targets))
    known = stores.infos(where)  # all at once: each look at the store lists all of its maps
    infos = {name: known[name] for name in (*names, *targets)}
    for name, info in infos.items():
        if info.is_cube:
            raise InputError(
                f"{name!r} of {where} is a cube; a fit takes maps. skymill.templates makes them of a cube."
            )
    given: Mapping[str, Noise] = noise if isinstance(noise, Mapping) else dict.fromkeys(targets, noise)
    for name in given:
        if name not in targets:
            raise InputError(f"`noise` of {name!r} came; {nearest(str(name), targets)}.")
    missing = [name for name in targets if name not in given]
    if missing:
        raise InputError(f"`noise` has none of {', '.join(map(repr, missing))}; give one for each target, or None.")
    units = {infos[name].unit for name in targets}
    if isinstance(noise, float | int) and len(units) > 1:
        raise UnitError(
            f"`noise` {noise:g} came for targets in {', '.join(sorted(units))}; give a mapping from target to noise."
        )
    regions, said = _regions(where, mask, region)
    if not (math.isfinite(ridge) and ridge >= 0):
        raise InputError(f"`ridge` {ridge:g} came; give 0 for none, or a positive number.")
    for option, nside in (("jackknife", jackknife), ("superpixels", superpixels)):
        if nside is not None and (nside < 1 or nside & (nside - 1)):
            raise InputError(f"`{option}` {nside} came; give the nside of the super-pixels, a power of two.")
    if superpixels is not None and superpixels > tiling.nside:
        raise InputError(f"`superpixels` {superpixels} came; the store has nside {tiling.nside}, give at most that.")
    return FitRequest(
        where,
        tiling,
        names,
        targets,
        tuple(tuple(coefficient_unit(infos[t].unit, *(infos[n].unit for n in names), offset=offset)) for t in targets),
        tuple(None if given[name] is None else white_noise(where, name, given[name]) for name in targets),
        regions,
        said,
        offset,
        None if jackknife is None or superpixels is not None else min(jackknife, tiling.nside),
        superpixels,
        ridge,
        _kinds(maps),
    )


def _check_names(names: Sequence[str], targets: Sequence[str], offset: bool) -> None:
    if not targets or not (names or offset):
        raise InputError(f"{len(names)} templates and {len(targets)} targets came; give at least one of each.")
    for option, given in (("templates", names), ("target", targets)):
        twice = sorted({name for name in given if given.count(name) > 1})
        if twice:
            raise InputError(f"`{option}` names {', '.join(map(repr, twice))} more than once; name each map once.")
    both = sorted(set(names) & set(targets))
    if both:
        raise InputError(f"{', '.join(map(repr, both))} came as template and as target; it would be fitted by itself.")
    if offset and OFFSET in names:
        raise InputError(f"a template is called {OFFSET!r}, as the constant of the fit is; give that map another name.")


def _regions(
    store: str, mask: str | None, region: Where | Mapping[str, Where] | None
) -> tuple[tuple[tuple[str | None, UsedPixels], ...], tuple[Any, ...]]:
    if not isinstance(region, Mapping):
        return ((None, UsedPixels.of(store, mask, region)),), (described(region),)
    found = tuple(areas_of(store, mask, region).items())
    return found, tuple(described(where) for where in region.values())


def _kinds(maps: bool | Sequence[str]) -> tuple[str, ...]:
    if isinstance(maps, bool):
        return KINDS if maps else ()
    chosen = (maps,) if isinstance(maps, str) else tuple(maps)
    for kind in chosen:
        if kind not in KINDS:
            raise InputError(f"`maps` {kind!r} came; {nearest(kind, KINDS)}. True writes all of them.")
    return tuple(kind for kind in KINDS if kind in chosen)


def coefficient_unit(target: str, *templates: str, offset: bool) -> list[str]:
    """Return the units of the coefficients of templates, and of the offset.

    Examples
    --------
    >>> coefficient_unit("MJy/sr", "1e20 cm^-2", "1", offset=True)
    ['MJy/sr / (1e20 cm^-2)', 'MJy/sr', 'MJy/sr']
    """
    units = [target if unit == "1" else "1" if unit == target else f"{target} / ({unit})" for unit in templates]
    return [*units, target] if offset else units


def where_facts(request: FitRequest) -> Any:
    """Return what was said of the regions, as JSON-able values."""
    if request.regions[0][0] is None:
        return request.where[0]
    return [[name, said] for (name, _), said in zip(request.regions, request.where, strict=True)]


def noise_facts(request: FitRequest) -> dict[str, Any]:
    """Return what was said of the noise, as JSON-able values."""
    return {
        target: None if noise is None else noise.factor if noise.name is None else noise.name
        for target, noise in zip(request.targets, request.noise, strict=True)
    }
