"""The options and the maps of a synthetic gas sky: what values options take, and what is known of each map."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import numpy as np

from ..chunking.errors import InputError
from ..chunking.schema import MapInfo
from ..chunking.tiling import Tiling
from .gas_clouds import CLOUDS, FREQUENCIES
from .gas_maps import BANDS, CUBE

COLUMN_UNIT: Final = "1e20 cm^-2"
_BAND_NAMES: Final = {"i353": "850um", "i545": "545GHz", "i857": "857GHz", "i100um": "100um"}


def _infos() -> dict[str, MapInfo]:
    def column(name: str, of: str) -> MapInfo:
        return MapInfo(name, "column density", COLUMN_UNIT, long_name=of)

    def band(name: str, of: str, quantity: str, kind: str) -> MapInfo:
        return MapInfo(
            name, quantity, "MJy/sr", band=_BAND_NAMES[of], long_name=f"synthetic {FREQUENCIES[of]:g} GHz {kind}"
        )

    def number(name: str, quantity: str, unit: str, of: str) -> MapInfo:
        return MapInfo(name, quantity, unit, long_name=of)

    maps = [
        replace(column(CUBE, "synthetic HI column density in velocity channels"), dims=("channel", "cells")),
        column("nhi", "synthetic HI column density"),
        column("lvc", "synthetic HI column density, |v| < 35 km/s"),
        column("ivc", "synthetic HI column density, 35 < |v| < 90 km/s"),
        column("nhii", "synthetic column density of ionised hydrogen"),
        column("nh2", "twice the synthetic column density of molecular hydrogen, mostly noise"),
        column("sigma_nh2", "standard deviation of the noise of nh2"),
    ]
    maps += [band(name, name, "intensity", "intensity") for name in BANDS]
    maps += [band(f"sigma_{name}", name, "standard deviation", "noise of the intensity") for name in BANDS]
    maps += [
        band("p353", "i353", "polarised intensity", "polarised intensity, without noise"),
        number("kappa", "convergence", "1", "synthetic lensing convergence, with noise"),
        number("ebv_sfd", "reddening", "mag", "synthetic E(B-V) from dust emission, with CIB"),
        number("ebv_stars", "reddening", "mag", "synthetic E(B-V) of stars, with holes"),
        MapInfo("mask", "mask", "1", dtype="uint8", long_name="1 in the two caps with little gas"),
    ]
    maps += [
        column(f"truth_cloud_{k + 1}", f"synthetic HI column density of cloud {k + 1}") for k in range(len(CLOUDS))
    ]
    maps += [band(f"truth_{name}", name, "intensity", "intensity of dust and offset alone") for name in BANDS]
    maps += [band(f"truth_cib_{name[1:]}", name, "intensity", "CIB fluctuation") for name in BANDS]
    maps += [
        column("truth_nh2", "twice the synthetic column density of molecular hydrogen"),
        number("truth_kappa", "convergence", "1", "synthetic lensing convergence"),
        number("truth_ebv", "reddening", "mag", "synthetic E(B-V)"),
        number("truth_temperature", "dust temperature", "K", "synthetic dust temperature"),
        number("truth_beta", "emissivity index", "1", "synthetic emissivity index"),
        number("truth_dust_to_gas", "ratio", "1", "synthetic dust-to-gas ratio over its mean"),
        number("truth_polarization", "polarisation fraction", "1", "synthetic polarisation fraction"),
    ]
    return {info.name: info for info in maps}


MAPS: Final = _infos()


_INTEGERS: Final = {"clouds": (1, len(CLOUDS)), "channels": (3, 10_000)}
# Options whose numbers are limited from below, and from above; all others that are numbers are at least 0.
_LIMITS: Final = {
    "cib_index": (-10.0, 10.0),
    "dbeta_dt": (-math.inf, math.inf),
    "beta": (-math.inf, math.inf),
    "cib_correlation": (-1.0, 1.0),
    "kappa_correlation": (-1.0, 1.0),
    "mean_polarization": (0.0, 1.0),
    "mask_latitude": (0.0, 90.0),
    **{f"offset_{band}": (-math.inf, math.inf) for band in BANDS},
}
_POSITIVE: Final = ("mean_temperature", "correlation_length", "reddening", "sfd_factor")


def taken(name: str, value: Any) -> Any:
    """Return the value of an option, checked, as a plain number or a tuple of them.

    Parameters
    ----------
    name : str
        The option.
    value : object
        What came.

    Raises
    ------
    InputError
        If it is not what the option takes.

    Examples
    --------
    >>> taken("emissivities", [0.4, 0.2])
    (0.4, 0.2)
    """
    if name == "frame" or (value is None and name in ("noise_seed", "emissivities", "cib_spectrum")):
        return value
    if name == "noise_nside":
        try:
            return Tiling(value).nside
        except InputError as error:
            raise InputError(f"`noise_nside` {value!r} came; a power of two is expected.") from error
    if name in ("seed", "noise_seed", *_INTEGERS):
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        least, largest = _INTEGERS.get(name, (-math.inf, math.inf))
        if not whole or not least <= value <= largest:
            expected = f"an integer from {least} to {largest}" if name in _INTEGERS else "an integer"
            raise InputError(f"`{name}` {value!r} came; {expected} is expected.")
        return int(value)
    if name in ("emissivities", "cib_spectrum"):
        numbers = value if isinstance(value, (tuple, list, np.ndarray)) else (value,)
        if not len(numbers) or not all(_is_number(each) and each >= 0 for each in numbers):
            raise InputError(f"`{name}` {value!r:.80} came; numbers of at least 0 are expected.")
        return tuple(float(each) for each in numbers)
    low, high = _LIMITS.get(name, (0.0, math.inf))
    if not _is_number(value) or not low <= value <= high or (name in _POSITIVE and not value > 0):
        above = "a positive number" if name in _POSITIVE else "a number"
        if name in _LIMITS and math.isfinite(low):
            above += f" from {low:g} to {high:g}"
        elif name not in _POSITIVE and name not in _LIMITS:
            above += " of at least 0"
        raise InputError(f"`{name}` {value!r} came; {above} is expected.")
    return float(value)


def _is_number(value: Any) -> bool:
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return real and math.isfinite(value)
