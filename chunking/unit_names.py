"""The names of the units of maps, and reading them however a header spells them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from .errors import UnitError, nearest

PARSEC_CM = 648000.0 / math.pi * 149597870700.0 * 100.0  # IAU 2015 resolution B2
ARCSEC = math.pi / 648000.0  # rad

_PREFIXES = {"": 1.0, "m": 1e-3, "u": 1e-6}
_TEMPERATURES = {f"{prefix}K{kind}": scale for kind in ("_CMB", "_RJ") for prefix, scale in _PREFIXES.items()}

# Unit -> (quantity, family, factor to the family's first unit).  Families of one quantity are joined by
# what the user must give: "per_sr" by nothing, "per_beam" by a beam, "cmb" and "rj" by a band.
UNITS: dict[str, tuple[str, str, float]] = {
    "MJy/sr": ("intensity", "per_sr", 1.0),
    "kJy/sr": ("intensity", "per_sr", 1e-3),
    "Jy/sr": ("intensity", "per_sr", 1e-6),
    "mJy/arcsec^2": ("intensity", "per_sr", 1e-9 / ARCSEC**2),
    "Jy/arcsec^2": ("intensity", "per_sr", 1e-6 / ARCSEC**2),
    "Jy/beam": ("intensity", "per_beam", 1.0),
    "mJy/beam": ("intensity", "per_beam", 1e-3),
    **{name: ("intensity", "cmb" if name.endswith("CMB") else "rj", s) for name, s in _TEMPERATURES.items()},
    "K": ("temperature", "K", 1.0),
    "mK": ("temperature", "K", 1e-3),
    "uK": ("temperature", "K", 1e-6),
    "K km/s": ("line intensity", "K km/s", 1.0),
    "mK km/s": ("line intensity", "K km/s", 1e-3),
    "cm^-2": ("column density", "cm^-2", 1.0),
    "1e20 cm^-2": ("column density", "cm^-2", 1e20),
    "m^-2": ("column density", "cm^-2", 1e-4),
    "pc cm^-3": ("column density", "cm^-2", PARSEC_CM),
    "pc cm^-6": ("emission measure", "pc cm^-6", 1.0),
    "mag": ("magnitude", "mag", 1.0),
    "mmag": ("magnitude", "mag", 1e-3),
    "1": ("number", "1", 1.0),
    "%": ("number", "1", 1e-2),
    "km/s": ("velocity", "km/s", 1.0),
    "deg": ("angle", "rad", math.pi / 180.0),
    "rad": ("angle", "rad", 1.0),
    "pc": ("distance", "pc", 1.0),
    "kpc": ("distance", "pc", 1e3),
}
# Variances of intensities (the II_COV columns of Planck) and of column densities: name -> the unit that is squared.
SQUARES = {
    "MJy^2/sr^2": "MJy/sr",
    "kJy^2/sr^2": "kJy/sr",
    "Jy^2/sr^2": "Jy/sr",
    **{f"{name}^2": name for name in _TEMPERATURES},
    "K^2": "K",
    "cm^-4": "cm^-2",
    "1e40 cm^-4": "1e20 cm^-2",
    "m^-4": "m^-2",
    "pc^2 cm^-6": "pc cm^-3",
}
KNOWN_UNITS = (*UNITS, *SQUARES)
_SYNONYMS = {
    "JY": "Jy",
    "MJY": "MJy",
    "Jansky": "Jy",
    "janskys": "Jy",
    "SR": "sr",
    "steradian": "sr",
    "ster": "sr",
    "sterad": "sr",
    "BEAM": "beam",
    "Beam": "beam",
    "bm": "beam",
    "muK": "uK",
    "microK": "uK",
    "ARCSEC": "arcsec",
    "Kelvin": "K",
    "kelvin": "K",
    "KELVIN": "K",
    "sec": "s",
    "MAG": "mag",
    "mags": "mag",
    "degree": "deg",
    "degrees": "deg",
    "radian": "rad",
    "dimensionless": "1",
    "unitless": "1",
    "percent": "%",
    "sqarcsec": "arcsec2",
}


def parse_unit(text: str) -> str:
    """Return the name that skymill gives to a unit, however a header spells it.

    Parameters
    ----------
    text : str
        For example "Kcmb", "uK_CMB", "MJy sr-1", "JY/BEAM", "K km s-1", "1/cm^2".  Upper and lower case
        of prefixes matter: MJy is not mJy.

    Returns
    -------
    str
        One of `KNOWN_UNITS`.

    Raises
    ------
    UnitError
        If it is empty or not known; the message lists the known units and the nearest.

    Examples
    --------
    >>> [parse_unit(text) for text in ("Kcmb", "MJy sr-1", "1/cm^2", "K.km/s")]
    ['K_CMB', 'MJy/sr', 'cm^-2', 'K km/s']
    """
    if not isinstance(text, str):
        raise UnitError(f"`unit` {text!r} came; give a string such as 'MJy/sr' or 'K_CMB'.")
    stripped = text.strip().strip("'\"[]").strip()
    if not stripped:
        raise UnitError(f"an empty unit came; say which, '1' for a pure number. {nearest('', KNOWN_UNITS)}")
    signature = _signature(stripped)
    if signature is None or signature not in _BY_SIGNATURE:
        raise UnitError(f"unit {text!r} is not known; {nearest(stripped, KNOWN_UNITS)}")
    return _BY_SIGNATURE[signature]


def quantity_of(unit: str) -> str:
    """Return what a unit measures, "intensity" for example.

    Examples
    --------
    >>> quantity_of("Kcmb"), quantity_of("cm-2")
    ('intensity', 'column density')
    """
    name = parse_unit(unit)
    return f"variance of {UNITS[SQUARES[name]][0]}" if name in SQUARES else UNITS[name][0]


_ATOM = re.compile(r"([A-Za-z%][A-Za-z_%]*)(?:\s*(?:\^|\*\*)\s*)?(\(?[+-]?\d+\)?)?")
_NUMBER = re.compile(r"(?:1(?:\.0*)?e|10\s*(?:\^|\*\*)\s*)(\(?\+?\d+\)?)|1(?![\d.])")


def _signature(text: str) -> frozenset[tuple[str, int]] | None:
    """Return a unit as a set of (base, exponent), or None where it does not read as a unit."""
    text = text.replace("µ", "u").replace("μ", "u").replace("²", "^2").replace("⁻", "-").replace("¹", "1")
    text = text.replace("{", "(").replace("}", ")").replace("−", "-")
    text = re.sub(r"_?\((cmb|rj)\)", r"_\1", text, flags=re.IGNORECASE)
    squared = re.fullmatch(r"\((.+)\)\s*(?:\^|\*\*)?\s*2", text)
    if squared:
        inner = _signature(squared[1])
        return None if inner is None else frozenset((base, 2 * exponent) for base, exponent in inner)
    bases: dict[str, int] = {}
    position, sign = 0, 1
    while position < len(text):
        character = text[position]
        if character in " .*·_":
            position += 1
            continue
        if character == "/":
            if sign < 0:
                return None
            sign, position = -1, position + 1
            continue
        number = _NUMBER.match(text, position)
        if number:
            exponent = int((number[1] or "0").strip("()"))
            if exponent:
                bases["10"] = bases.get("10", 0) + sign * exponent
            position = number.end()
        else:
            atom = _ATOM.match(text, position)
            if atom is None:
                return None
            base, inner_exponent = _base(atom[1])
            exponent = int((atom[2] or "1").strip("()")) * inner_exponent
            if base != "1":
                bases[base] = bases.get(base, 0) + sign * exponent
            position = atom.end()
        sign = 1
    if sign < 0:
        return None
    return frozenset((base, exponent) for base, exponent in bases.items() if exponent)


def _base(token: str) -> tuple[str, int]:
    """Return the plain name of one factor of a unit, and its exponent."""
    token = token.rstrip("_")
    temperature = re.fullmatch(r"(mu|micro|u|m)?K_?((?i:cmb|rj))", token)
    if temperature:
        prefix = {None: "", "m": "m"}.get(temperature[1], "u")
        return f"{prefix}K_{temperature[2].upper()}", 1
    token = _SYNONYMS.get(token, token)
    return ("arcsec", 2) if token == "arcsec2" else (token, 1)


def _all_signatures() -> Mapping[frozenset[tuple[str, int]], str]:
    table: dict[frozenset[tuple[str, int]], str] = {}
    for name in KNOWN_UNITS:
        signature = _signature(name)
        assert signature is not None, name
        assert signature not in table, name
        table[signature] = name
    # The CO maps of Planck say K_RJ km/s.
    for prefix in ("", "m"):
        table[frozenset({(f"{prefix}K_RJ", 1), ("km", 1), ("s", -1)})] = f"{prefix}K km/s"
    return table


_BY_SIGNATURE = _all_signatures()
