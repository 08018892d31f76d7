"""What `spectra` was asked for, held against the stores: maps, weights, beams, bins, and the pairs that are needed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import FrameError, InputError, MissingMapError, nearest
from ..chunking.schema import MapInfo
from ..chunking.tiling import Tiling
from .binning import Bins
from .fields import Place
from .masks import check_weight_map
from .quadrature import ONE_PASS
from .spectra_result import ERRORS
from .spectrum_estimator import MapPair, SpectrumMap, needed_pairs, unordered

QUADRATURES = (*ONE_PASS, "iterate")
ITERATIONS = 3

type Beam = float | str | os.PathLike[str] | Sequence[float] | NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)  # arrays have no single truth
class Request:
    """What was asked for.

    Parameters
    ----------
    tiling : Tiling
        Of the maps.
    pairs, needed : sequence of (str, str)
        Pairs asked for, and all whose pseudo-spectra are needed.
    places : mapping of str to (str, str)
        Store and name of every map.
    weights : mapping of str to (str, str) or None
        Store and name of the weights of every map.
    maps : mapping of str to SpectrumMap
        What the estimator needs to know of every map; weights by their label.
    splits : mapping of str to (str, str)
        Halves of maps.
    lmax, lmax_mask : int
        Largest multipole of spectra, and of the pseudo-spectra of weights.
    bins : Bins or None
        Bins.
    """

    tiling: Tiling
    pairs: Sequence[MapPair]
    needed: Sequence[MapPair]
    places: Mapping[str, Place]
    weights: Mapping[str, Place | None]
    maps: Mapping[str, SpectrumMap]
    splits: Mapping[str, MapPair]
    lmax: int
    lmax_mask: int
    bins: Bins | None

    @property
    def weight_pairs(self) -> list[tuple[Place, Place]]:
        """Pairs of weights whose pseudo-spectra decouple the spectra; none without bins."""
        if self.bins is None:
            return []
        both = ((self.weights[a], self.weights[b]) for a, b in self.needed)
        return unordered((one, other) for one, other in both if one is not None and other is not None)


def request_of(
    store: stores.StoreAddress,
    pairs: Sequence[Sequence[str]],
    *,
    other: stores.StoreAddress | None,
    lmax: int | None,
    mask: str | Mapping[str, str] | None,
    lmax_mask: int | None,
    beam: Beam | Mapping[str, Beam] | None,
    pixel_window: bool,
    bins: int | Sequence[int] | Sequence[Sequence[int]] | NDArray[np.integer[Any]] | Bins | None,
    errors: str | None,
    splits: Mapping[str, Sequence[str]] | None,
) -> Request:
    """Return what was asked for, after checking it against the stores; see `spectra.spectra` for the parameters."""
    where = stores.address(store)
    there = where if other is None else stores.address(other)
    tiling = stores.tiling_of(where)
    _check_same_sky(where, there, tiling)
    named, places = _places(where, there, pairs)
    if errors is not None and errors not in ERRORS:
        raise InputError(f"`errors` {errors!r} came; {nearest(errors, ERRORS)}, or None for no errors.")
    halves = _halves(splits or {}, places)
    infos = {name: stores.info(*place) for name, place in places.items()}
    top = _top(lmax, tiling, "lmax", 2 * tiling.nside)
    weights = _weights(mask, places, halves, where, there)
    binned = None if bins is None else Bins.of(bins, top)
    transfers = _transfers(beam, pixel_window, infos, halves, top, tiling.nside)
    return Request(
        tiling=tiling,
        pairs=named,
        needed=needed_pairs(named, errors=errors, splits=halves),
        places=places,
        weights=weights,
        maps={
            name: SpectrumMap(info.unit, weight_label(weights[name]), transfers[name]) for name, info in infos.items()
        },
        splits=halves,
        lmax=top,
        lmax_mask=_top(lmax_mask, tiling, "lmax_mask", min(2 * top, 3 * tiling.nside - 1)),
        bins=binned,
    )


def weight_label(place: Place | None) -> str | None:
    """Return the name under which the estimator knows the weights of a map."""
    return None if place is None else f"{place[1]} of {place[0]}"


def _check_same_sky(where: str, there: str, tiling: Tiling) -> None:
    nside = stores.tiling_of(there).nside
    if nside != tiling.nside:
        raise InputError(
            f"{where} has nside {tiling.nside}, {there} has nside {nside}; maps of a pair have one nside. Bring one to "
            "that of the other with skymill.degrade."
        )
    frames = stores.frame_of(where), stores.frame_of(there)
    if frames[0] != frames[1]:
        raise FrameError(
            f"{where} is in frame {frames[0]}, {there} in {frames[1]}; maps of a pair are in one frame. Give stores in "
            "the same frame."
        )


def _places(where: str, there: str, pairs: Sequence[Sequence[str]]) -> tuple[list[MapPair], dict[str, Place]]:
    """Return the pairs by names that tell the two stores apart, and where each map is."""
    if not pairs:
        raise InputError("`pairs` is empty; give pairs of maps such as [('i500', 'i500'), ('i500', 'kappa')].")
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2:
            raise InputError(f"`pairs` holds {pair!r}; a pair is two names of maps, for example ('i500', 'kappa').")
    firsts = {pair[0] for pair in pairs}
    places: dict[str, Place] = {name: (where, name) for name in firsts}
    named = []
    for first, second in pairs:
        label = f"other:{second}" if there != where and second in firsts else second
        places[label] = (there, second)
        if (first, label) in named:
            raise InputError(f"`pairs` hold {(first, second)!r} more than once; name each pair of maps once.")
        named.append((first, label))
    for store in {where, there}:
        stores.require_maps(store, sorted({name for address, name in places.values() if address == store}))
    for store, name in places.values():
        _check_values(stores.info(store, name))
    return named, places


def _check_values(info: MapInfo) -> None:
    if info.flag_meanings:
        raise InputError(
            f"map {info.name!r} holds bits ({', '.join(info.flag_meanings)}); a spectrum is of a map of numbers."
        )


def _halves(splits: Mapping[str, Sequence[str]], places: dict[str, Place]) -> dict[str, MapPair]:
    """Return the halves of maps, and add where they are to `places`."""
    found = {}
    for name, both in splits.items():
        if name not in places:
            raise InputError(f"`splits` names {name!r}, which no pair does; {nearest(name, places)}.")
        if isinstance(both, str) or len(both) != 2 or both[0] == both[1]:
            raise InputError(f"`splits` of {name!r} is {both!r}; give the names of two maps, its halves.")
        store = places[name][0]
        stores.require_maps(store, both)
        found[name] = (both[0], both[1])
        for half in both:
            _check_values(stores.info(store, half))
            known = places.setdefault(half, (store, half))
            if known[0] != store:
                raise InputError(
                    f"`splits` of {name!r} names {half!r} of {store}, and {half!r} of {known[0]} is asked for too; "
                    "measure the two in runs of their own."
                )
    return found


def _top(value: int | None, tiling: Tiling, option: str, default: int) -> int:
    limit = 3 * tiling.nside - 1
    found = min(default, limit) if value is None else value
    if not 0 <= found <= limit:
        raise InputError(
            f"`{option}` {value} came; maps of nside {tiling.nside} hold multipoles from 0 to 3 nside - 1 = {limit}. "
            f"Give one of these; up to 2 nside = {2 * tiling.nside} they are accurate."
        )
    return found


def _weights(
    mask: str | Mapping[str, str] | None,
    places: Mapping[str, Place],
    halves: Mapping[str, MapPair],
    where: str,
    there: str,
) -> dict[str, Place | None]:
    if isinstance(mask, Mapping):
        unknown = sorted(set(mask) - set(places))
        if unknown:
            raise InputError(f"`mask` names the map {unknown[0]!r}, which no pair does; {nearest(unknown[0], places)}.")
        chosen: dict[str, str | None] = {name: mask.get(name) for name in places}
        for name, both in halves.items():
            for half in both:
                chosen[half] = mask.get(half, chosen[name])
    else:
        chosen = dict.fromkeys(places, mask)
    found: dict[str, Place | None] = {}
    for name, weight in chosen.items():
        if weight is None:
            found[name] = None
            continue
        found[name] = place = _find(weight, places[name][0], (where, there))
        check_weight_map(stores.info(*place))
    return found


def _find(weight: str, first: str, both: tuple[str, str]) -> Place:
    """Return where a mask is: in the store of its map, or else in the other one."""
    for store in (first, *both):
        if weight in stores.infos(store):
            return store, weight
    raise MissingMapError(
        f"mask {weight!r} is not in the store {first}; {nearest(weight, stores.infos(first))}. Make one with "
        "skymill.apodize, or give the name of a map of weights."
    )


def _transfers(
    beam: Beam | Mapping[str, Beam] | None,
    pixel_window: bool,
    infos: Mapping[str, MapInfo],
    halves: Mapping[str, MapPair],
    lmax: int,
    nside: int,
) -> dict[str, NDArray[np.float64] | None]:
    """Return what the a_lm of every map are to be divided by, b_l p_l, or None."""
    if isinstance(beam, Mapping):
        unknown = sorted(set(beam) - set(infos))
        if unknown:
            raise InputError(f"`beam` names the map {unknown[0]!r}, which no pair does; {nearest(unknown[0], infos)}.")
    parents = {half: name for name, both in halves.items() for half in both}
    window = None
    if pixel_window:
        from .pixel_window import pixel_window as window_of

        window = window_of(nside, lmax)
    found: dict[str, NDArray[np.float64] | None] = {}
    for name, info in infos.items():
        given = beam.get(name, beam.get(parents.get(name, name))) if isinstance(beam, Mapping) else beam
        if isinstance(given, str) and given == "store":
            given = _stored_beam(info)
        transfer = None
        if given is not None:
            from .beams import beam_of

            transfer = beam_of(given, lmax)
        if window is not None and info.pixel_window:
            transfer = window if transfer is None else transfer * window
        found[name] = transfer
    return found


def _stored_beam(info: MapInfo) -> float:
    if info.beam_fwhm_arcmin is None:
        raise InputError(
            f'beam="store" came, but the store does not say the beam of map {info.name!r}; give its FWHM in arcmin as '
            f"{{{info.name!r}: FWHM}}."
        )
    return info.beam_fwhm_arcmin


def facts_of_map(info: MapInfo, beam: Beam | Mapping[str, Beam] | None) -> dict[str, Any]:
    """Return what a result takes over from the description of a map, JSON-able."""
    given = list(beam.values()) if isinstance(beam, Mapping) else [beam]
    stored = any(isinstance(each, str) and each == "store" for each in given)
    known = {"unit": info.unit, "pixel_window": info.pixel_window}
    return known | ({"beam": info.beam_fwhm_arcmin} if stored else {})


def facts_of_beam(beam: Beam | Mapping[str, Beam] | None) -> Any:
    """Return a beam as JSON-able facts: names of files become digests of their contents."""
    import hashlib

    if isinstance(beam, Mapping):
        return {name: facts_of_beam(each) for name, each in beam.items()}
    if isinstance(beam, str | os.PathLike) and Path(beam).is_file():
        return hashlib.blake2b(Path(beam).read_bytes(), digest_size=16).hexdigest()
    if beam is None or isinstance(beam, str | int | float):
        return beam
    if isinstance(beam, os.PathLike):
        return os.fspath(beam)
    values = np.asarray(beam, dtype=np.float64)  # an array without dimensions is a number
    return float(values) if values.ndim == 0 else [float(value) for value in values if math.isfinite(value)]
