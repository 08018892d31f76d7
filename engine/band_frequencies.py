"""The frequency of a map, from its band or its name, where a user does not give it."""

from __future__ import annotations

import math
import re

from ..chunking import store as stores
from ..chunking.bands import band
from ..chunking.errors import InputError

# Maps are called after these in GHz, not after micrometres.
_HFI_GHZ = (217, 353, 545, 857)
# Beyond it (0.3 um) no dust shines thermally, and its Planck function is 0: what came is most likely in Hz.
_MOST_GHZ = 1e6


def frequency_of(store: str, name: str, given: float | None = None, *, option: str = "frequency") -> float:
    """Return the frequency of a map in GHz.

    Parameters
    ----------
    store : str
        Address of the store.
    name : str
        The map.
    given : float, optional
        What the user says.
    option : str
        How the option is called with which users say it.

    Raises
    ------
    InputError
        If it is not positive, not in GHz by its size, or neither given nor told by the band or the name of the map.
    MissingMapError
        If the store does not hold the map.
    """
    if given is not None:
        if not 0 < given < math.inf:
            raise InputError(f"`{option}` {given!r} came for {name!r}; give a positive frequency in GHz.")
        if given > _MOST_GHZ:
            raise InputError(f"`{option}` {given:g} came for {name!r}; give GHz, not Hz: {given / 1e9:g}, say.")
        return float(given)
    known = stores.info(store, name).band
    for text in (known, name, name.rsplit("_", 1)[-1]):
        found = None if text is None else frequency_in(text)
        if found is not None:
            return found
    raise InputError(
        f"the frequency of map {name!r} is not known: neither its band ({known or 'none'}) nor its name says it. Give "
        f"`{option}` in GHz."
    )


def frequency_in(text: str) -> float | None:
    """Return the frequency in GHz that the name of a band or a map says, or None.

    Parameters
    ----------
    text : str
        "i857" and "353" are in GHz, for these of the bands of Planck: 217, 353, 545 and 857; others are as
        `bands.band` reads them.

    Examples
    --------
    >>> frequency_in("i857"), round(frequency_in("i100um"), 1), frequency_in("dust")
    (857.0, 2997.9, None)
    """
    plain = re.fullmatch(r"i?(\d+)", text)
    if plain and int(plain[1]) in _HFI_GHZ:
        return float(plain[1])
    try:
        return float(band(text).frequency_ghz)
    except InputError:
        return None
