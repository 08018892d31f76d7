"""Kinds of values: how each is written in words of the command line and in TOML, and what it becomes."""

from __future__ import annotations

from collections.abc import Mapping

from .readers import (
    Kind,
    amount,
    each_from_toml,
    each_from_words,
    integer,
    list_of,
    number,
    number_or_text,
    one_or_list_of,
    pairs_from_toml,
    pairs_from_words,
    switch,
    text,
    text_or_numbers,
    wrong,
)
from .values_gas import GAS_KINDS


def _codes(name: str, pairs: dict[str, object]) -> dict[int, object]:
    return {integer(name, key): value for key, value in pairs.items()}


def _region_from_words(name: str, words: object) -> list[tuple[str, float, float, float]]:
    return [_region(name, str(word).split(",")) for word in (words if isinstance(words, list) else [words])]


def _region(name: str, parts: object) -> tuple[str, float, float, float]:
    if not isinstance(parts, list) or len(parts) != 4:
        raise wrong(name, parts, "a name, longitude, latitude and width in degrees")
    lon, lat, width = (number(name, part) for part in parts[1:])
    return text(name, parts[0]), lon, lat, width


def _regions_from_toml(name: str, value: object) -> list[tuple[str, float, float, float]]:
    if not isinstance(value, list):
        raise wrong(name, value, 'a list such as [["Orion", 209.0, -19.4, 12.0]]')
    return [_region(name, each) for each in value]


def _limits_from_toml(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise wrong(name, value, "a table such as { sigma = 0.04 }")
    return {
        str(key): _limits_from_toml(name, each) if isinstance(each, Mapping) else number(name, each)
        for key, each in value.items()
    }


def _setting(name: str, text: str) -> object:
    """Return what a word stands for in TOML, so that 100, 0.5, true and [20, 10] are what they look like."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _settings_from_words(name: str, words: object) -> dict[str, object]:
    return {key: _setting(name, str(value)) for key, value in pairs_from_words(text)(name, words).items()}


def _settings_from_toml(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise wrong(name, value, "a table such as { max_epochs = 100 }")
    return dict(value)


def _names_from_words(name: str, words: object) -> object:
    """Return a list of names, or a mapping where names are exchanged."""
    given = words if isinstance(words, list) else [words]
    return (
        pairs_from_words(text)(name, given) if any("=" in str(word) for word in given) else list_of(text)(name, given)
    )


def _names_from_toml(name: str, value: object) -> object:
    return pairs_from_toml(text)(name, value) if isinstance(value, Mapping) else list_of(text)(name, value)


def _path_or_tables(name: str, value: object) -> object:
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str | Mapping) for item in items):
        raise wrong(name, value, "the path of a TOML file, a table, or a list of them")
    return value


def _two_maps(name: str, came: object) -> tuple[str, str]:
    """Return the maps of `a,b`, `a x b` or a list of two."""
    parts = came
    if isinstance(came, str):
        parts = [part.strip() for part in (came.split(",") if "," in came else came.split(" x "))]
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
        raise wrong(name, came, "two maps such as i500,kappa")
    return parts[0], parts[1]


def _map_pairs(name: str, value: object) -> list[tuple[str, str]]:
    if not isinstance(value, list) or not value:
        raise wrong(name, value, 'a list of pairs of maps such as [["i500", "i500"], ["i500", "kappa"]]')
    return [_two_maps(name, each) for each in value]


def _halves_from_words(name: str, words: object) -> dict[str, object]:
    return pairs_from_words(_two_maps)(name, words)


def _halves_from_toml(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise wrong(name, value, 'a table such as { i500 = ["i500_first", "i500_second"] }')
    return {str(key): _two_maps(name, each) for key, each in value.items()}


def _beam(name: str, value: object) -> object:
    """Return a width, a word, or, in TOML, the numbers b_l themselves."""
    return [number(name, each) for each in value] if isinstance(value, list) else number_or_text(name, value)


def _bins_from_words(name: str, words: object) -> object:
    """Return a width, edges, or the start and stop of each; words and commas part them."""
    given = [part for word in (words if isinstance(words, list) else [words]) for part in str(word).split(",") if part]
    if any(":" in part for part in given):
        bins = [part.split(":") for part in given]
        if any(len(both) != 2 for both in bins):
            raise wrong(name, ",".join(given), "bins such as 2:10,20:30")
        return [(integer(name, start), integer(name, stop)) for start, stop in bins]
    numbers = [integer(name, part) for part in given]
    return numbers[0] if len(numbers) == 1 else numbers


def _bins_from_toml(name: str, value: object) -> object:
    if not isinstance(value, list):
        return integer(name, value)
    if any(isinstance(each, list) for each in value):
        if not all(isinstance(each, list) and len(each) == 2 for each in value):
            raise wrong(name, value, "a width, edges such as [2, 10, 30], or bins such as [[2, 10], [20, 30]]")
        return [(integer(name, each[0]), integer(name, each[1])) for each in value]
    return [integer(name, each) for each in value]


def _spectra(name: str, value: object) -> object:
    """Return a file; in TOML also the numbers themselves, or a table of them."""
    if isinstance(value, Mapping):
        return {_two_maps(name, str(key)): list_of(number)(name, each) for key, each in value.items()}
    return list_of(number)(name, value) if isinstance(value, list) else text(name, value)


def _curve(name: str, value: object) -> object:
    """Return numbers from ell 0, or those of a file of ell and C_l."""
    if isinstance(value, list):
        return list_of(number)(name, value)
    from ..engine.given_spectra import read_spectra

    return read_spectra(text(name, value), ["map"])["map", "map"]


def _fiducial_from_words(name: str, words: object) -> dict[tuple[str, str], object]:
    found = pairs_from_words(_curve)(name, words)
    return {_two_maps(name, key): curve for key, curve in found.items()}


def _fiducial_from_toml(name: str, value: object) -> dict[tuple[str, str], object]:
    if not isinstance(value, Mapping):
        raise wrong(name, value, 'a table such as { "i500 x kappa" = "cl.txt" }')
    return {_two_maps(name, str(key)): _curve(name, each) for key, each in value.items()}


KINDS = {
    "text": Kind("TEXT", False, text, text),
    "path": Kind("PATH", False, text, text),
    "integer": Kind("N", False, integer, integer),
    "number": Kind("X", False, number, number),
    "amount": Kind("AMOUNT", False, amount, amount),
    "number or text": Kind("X|TEXT", False, number_or_text, number_or_text),
    "text or numbers": Kind("TEXT|X", True, text_or_numbers, text_or_numbers),
    "switch": Kind("", False, switch, switch),
    "texts": Kind("TEXT", True, list_of(text), list_of(text)),
    "paths": Kind("PATH", True, list_of(text), list_of(text)),
    "one or more texts": Kind("TEXT", True, one_or_list_of(text), one_or_list_of(text)),
    "one or more numbers": Kind("X", True, one_or_list_of(number), one_or_list_of(number)),
    "pairs": Kind("NAME=VALUE", True, pairs_from_words(text), pairs_from_toml(text), repeated=True),
    "code pairs": Kind(
        "CODE=NAME",
        True,
        lambda name, words: _codes(name, pairs_from_words(text)(name, words)),
        lambda name, value: _codes(name, pairs_from_toml(text)(name, value)),
        repeated=True,
    ),
    "names": Kind("NAME[=VALUE]", True, _names_from_words, _names_from_toml),
    "settings": Kind("NAME=VALUE", True, _settings_from_words, _settings_from_toml, repeated=True),
    "limits": Kind("NAME=X", True, pairs_from_words(number), _limits_from_toml, repeated=True),
    "regions": Kind("NAME,LON,LAT,WIDTH", True, _region_from_words, _regions_from_toml, repeated=True),
    "recipes": Kind("FILE", True, list_of(text), _path_or_tables),
    "each text": Kind("TEXT", True, each_from_words(text), each_from_toml(text), repeated=True),
    "each number": Kind("X", True, each_from_words(number), each_from_toml(number), repeated=True),
    "each beam": Kind("BEAM", True, each_from_words(number_or_text), each_from_toml(_beam), repeated=True),
    "map pairs": Kind("A,B", True, _map_pairs, _map_pairs),
    "halves": Kind("NAME=A,B", True, _halves_from_words, _halves_from_toml, repeated=True),
    "bins": Kind("BINS", True, _bins_from_words, _bins_from_toml),
    "spectra": Kind("FILE", False, text, _spectra),
    "fiducial": Kind("A,B=FILE", True, _fiducial_from_words, _fiducial_from_toml, repeated=True),
    **GAS_KINDS,
}
