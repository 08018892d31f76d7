"""Kinds of values: how each is written in words of the command line and in TOML, and what it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..chunking.errors import InputError


@dataclass(frozen=True)
class Kind:
    """One way of writing values; see `KINDS`."""

    metavar: str
    several: bool
    from_words: Callable[[str, object], object]
    from_toml: Callable[[str, object], object]
    repeated: bool = False


def _wrong(name: str, came: object, expected: str) -> InputError:
    return InputError(f"`{name}` = {came!r} came; {expected} expected.")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a text in quotes")
    return value


def _integer(name: str, value: object) -> int:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            raise _wrong(name, value, "a whole number") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(name, value, "a whole number")
    return value


def _number(name: str, value: object) -> float:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise _wrong(name, value, "a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, value, "a number")
    return value


def _switch(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _amount(name: str, value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _wrong(name, value, 'bytes or an amount such as "4GB"')
    return int(value) if isinstance(value, str) and value.isdigit() else value


def _number_or_text(name: str, value: object) -> float | str:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return _number(name, value)


def _text_or_numbers(name: str, value: object) -> str | list[float]:
    given = value if isinstance(value, list) else [value]
    if len(given) == 1 and isinstance(given[0], str) and isinstance(_number_or_text(name, given[0]), str):
        return given[0]
    return [_number(name, each) for each in given]


def _list_of[T](item: Callable[[str, object], T]) -> Callable[[str, object], list[T]]:
    def read(name: str, value: object) -> list[T]:
        values = value if isinstance(value, list) else [value]
        if not values:
            raise _wrong(name, value, "one value or more")
        return [item(name, each) for each in values]

    return read


def _one_or_list_of[T](item: Callable[[str, object], T]) -> Callable[[str, object], T | list[T]]:
    """One value for all, or one each: functions tell the two apart by the list."""

    def read(name: str, value: object) -> T | list[T]:
        values = _list_of(item)(name, value)
        return values[0] if len(values) == 1 else values

    return read


def _pairs_from_words(item: Callable[[str, object], object]) -> Callable[[str, object], dict[str, object]]:
    def read(name: str, words: object) -> dict[str, object]:
        found: dict[str, object] = {}
        for word in words if isinstance(words, list) else [words]:
            key, equals, value = str(word).partition("=")
            if not equals or not key or not value:
                raise InputError(f"`{name}`: {word!r} came; NAME=VALUE expected, for example i850um=...")
            if key in found:
                raise InputError(f"`{name}` names {key!r} twice; give it once.")
            found[key] = item(name, value)
        return found

    return read


def _pairs_from_toml(item: Callable[[str, object], object]) -> Callable[[str, object], dict[str, object]]:
    def read(name: str, value: object) -> dict[str, object]:
        if not isinstance(value, Mapping):
            raise _wrong(name, value, 'a table such as { i850um = "..." }')
        return {str(key): item(name, each) for key, each in value.items()}

    return read


def read_pairs(name: str, words: list[str]) -> dict[str, str]:
    """Return the NAME=VALUE words of an option as a mapping.

    Raises
    ------
    InputError
        If a word is not of that form, or a name comes twice.

    Examples
    --------
    >>> read_pairs("set", ["sky=sky.zarr"])
    {'sky': 'sky.zarr'}
    """
    return {key: str(value) for key, value in _pairs_from_words(_text)(name, words).items()}


def _each_from_words(item: Callable[[str, object], object]) -> Callable[[str, object], object]:
    """One value for all maps, or NAME=VALUE for each."""

    def read(name: str, words: object) -> object:
        given = words if isinstance(words, list) else [words]
        if len(given) == 1 and "=" not in str(given[0]):
            return item(name, given[0])
        return _pairs_from_words(item)(name, given)

    return read


def _codes(name: str, pairs: dict[str, object]) -> dict[int, object]:
    return {_integer(name, key): value for key, value in pairs.items()}


def _region_from_words(name: str, words: object) -> list[tuple[str, float, float, float]]:
    return [_region(name, str(word).split(",")) for word in (words if isinstance(words, list) else [words])]


def _region(name: str, parts: object) -> tuple[str, float, float, float]:
    if not isinstance(parts, list) or len(parts) != 4:
        raise _wrong(name, parts, "a name, longitude, latitude and width in degrees")
    lon, lat, width = (_number(name, part) for part in parts[1:])
    return _text(name, parts[0]), lon, lat, width


def _regions_from_toml(name: str, value: object) -> list[tuple[str, float, float, float]]:
    if not isinstance(value, list):
        raise _wrong(name, value, 'a list such as [["Orion", 209.0, -19.4, 12.0]]')
    return [_region(name, each) for each in value]


def _limits_from_toml(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "a table such as { sigma = 0.04 }")
    return {
        str(key): _limits_from_toml(name, each) if isinstance(each, Mapping) else _number(name, each)
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
    return {key: _setting(name, str(value)) for key, value in _pairs_from_words(_text)(name, words).items()}


def _settings_from_toml(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "a table such as { max_epochs = 100 }")
    return dict(value)


def _names_from_words(name: str, words: object) -> object:
    """Return a list of names, or a mapping where names are exchanged."""
    given = words if isinstance(words, list) else [words]
    return (
        _pairs_from_words(_text)(name, given)
        if any("=" in str(word) for word in given)
        else _list_of(_text)(name, given)
    )


def _names_from_toml(name: str, value: object) -> object:
    return _pairs_from_toml(_text)(name, value) if isinstance(value, Mapping) else _list_of(_text)(name, value)


def _path_or_tables(name: str, value: object) -> object:
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str | Mapping) for item in items):
        raise _wrong(name, value, "the path of a TOML file, a table, or a list of them")
    return value


def _each_from_toml(item: Callable[[str, object], object]) -> Callable[[str, object], object]:
    def read(name: str, value: object) -> object:
        return _pairs_from_toml(item)(name, value) if isinstance(value, Mapping) else item(name, value)

    return read


def _two_maps(name: str, came: object) -> tuple[str, str]:
    """Return the maps of `a,b`, `a x b` or a list of two."""
    parts = came
    if isinstance(came, str):
        parts = [part.strip() for part in (came.split(",") if "," in came else came.split(" x "))]
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
        raise _wrong(name, came, "two maps such as i500,kappa")
    return parts[0], parts[1]


def _map_pairs(name: str, value: object) -> list[tuple[str, str]]:
    if not isinstance(value, list) or not value:
        raise _wrong(name, value, 'a list of pairs of maps such as [["i500", "i500"], ["i500", "kappa"]]')
    return [_two_maps(name, each) for each in value]


def _halves_from_words(name: str, words: object) -> dict[str, object]:
    return _pairs_from_words(_two_maps)(name, words)


def _halves_from_toml(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise _wrong(name, value, 'a table such as { i500 = ["i500_first", "i500_second"] }')
    return {str(key): _two_maps(name, each) for key, each in value.items()}


def _beam(name: str, value: object) -> object:
    """Return a width, a word, or, in TOML, the numbers b_l themselves."""
    return [_number(name, each) for each in value] if isinstance(value, list) else _number_or_text(name, value)


def _bins_from_words(name: str, words: object) -> object:
    """Return a width, edges, or the start and stop of each; words and commas part them."""
    given = [part for word in (words if isinstance(words, list) else [words]) for part in str(word).split(",") if part]
    if any(":" in part for part in given):
        bins = [part.split(":") for part in given]
        if any(len(both) != 2 for both in bins):
            raise _wrong(name, ",".join(given), "bins such as 2:10,20:30")
        return [(_integer(name, start), _integer(name, stop)) for start, stop in bins]
    numbers = [_integer(name, part) for part in given]
    return numbers[0] if len(numbers) == 1 else numbers


def _bins_from_toml(name: str, value: object) -> object:
    if not isinstance(value, list):
        return _integer(name, value)
    if any(isinstance(each, list) for each in value):
        if not all(isinstance(each, list) and len(each) == 2 for each in value):
            raise _wrong(name, value, "a width, edges such as [2, 10, 30], or bins such as [[2, 10], [20, 30]]")
        return [(_integer(name, each[0]), _integer(name, each[1])) for each in value]
    return [_integer(name, each) for each in value]


def _spectra(name: str, value: object) -> object:
    """Return a file; in TOML also the numbers themselves, or a table of them."""
    if isinstance(value, Mapping):
        return {_two_maps(name, str(key)): _list_of(_number)(name, each) for key, each in value.items()}
    return _list_of(_number)(name, value) if isinstance(value, list) else _text(name, value)


def _curve(name: str, value: object) -> object:
    """Return numbers from ell 0, or those of a file of ell and C_l."""
    if isinstance(value, list):
        return _list_of(_number)(name, value)
    from ..engine.given_spectra import read_spectra

    return read_spectra(_text(name, value), ["map"])["map", "map"]


def _fiducial_from_words(name: str, words: object) -> dict[tuple[str, str], object]:
    found = _pairs_from_words(_curve)(name, words)
    return {_two_maps(name, key): curve for key, curve in found.items()}


def _fiducial_from_toml(name: str, value: object) -> dict[tuple[str, str], object]:
    if not isinstance(value, Mapping):
        raise _wrong(name, value, 'a table such as { "i500 x kappa" = "cl.txt" }')
    return {_two_maps(name, str(key)): _curve(name, each) for key, each in value.items()}


KINDS = {
    "text": Kind("TEXT", False, _text, _text),
    "path": Kind("PATH", False, _text, _text),
    "integer": Kind("N", False, _integer, _integer),
    "number": Kind("X", False, _number, _number),
    "amount": Kind("AMOUNT", False, _amount, _amount),
    "number or text": Kind("X|TEXT", False, _number_or_text, _number_or_text),
    "text or numbers": Kind("TEXT|X", True, _text_or_numbers, _text_or_numbers),
    "switch": Kind("", False, _switch, _switch),
    "texts": Kind("TEXT", True, _list_of(_text), _list_of(_text)),
    "paths": Kind("PATH", True, _list_of(_text), _list_of(_text)),
    "one or more texts": Kind("TEXT", True, _one_or_list_of(_text), _one_or_list_of(_text)),
    "one or more numbers": Kind("X", True, _one_or_list_of(_number), _one_or_list_of(_number)),
    "pairs": Kind("NAME=VALUE", True, _pairs_from_words(_text), _pairs_from_toml(_text), repeated=True),
    "code pairs": Kind(
        "CODE=NAME",
        True,
        lambda name, words: _codes(name, _pairs_from_words(_text)(name, words)),
        lambda name, value: _codes(name, _pairs_from_toml(_text)(name, value)),
        repeated=True,
    ),
    "names": Kind("NAME[=VALUE]", True, _names_from_words, _names_from_toml),
    "settings": Kind("NAME=VALUE", True, _settings_from_words, _settings_from_toml, repeated=True),
    "limits": Kind("NAME=X", True, _pairs_from_words(_number), _limits_from_toml, repeated=True),
    "regions": Kind("NAME,LON,LAT,WIDTH", True, _region_from_words, _regions_from_toml, repeated=True),
    "recipes": Kind("FILE", True, _list_of(_text), _path_or_tables),
    "each text": Kind("TEXT", True, _each_from_words(_text), _each_from_toml(_text), repeated=True),
    "each number": Kind("X", True, _each_from_words(_number), _each_from_toml(_number), repeated=True),
    "each beam": Kind("BEAM", True, _each_from_words(_number_or_text), _each_from_toml(_beam), repeated=True),
    "map pairs": Kind("A,B", True, _map_pairs, _map_pairs),
    "halves": Kind("NAME=A,B", True, _halves_from_words, _halves_from_toml, repeated=True),
    "bins": Kind("BINS", True, _bins_from_words, _bins_from_toml),
    "spectra": Kind("FILE", False, _text, _spectra),
    "fiducial": Kind("A,B=FILE", True, _fiducial_from_words, _fiducial_from_toml, repeated=True),
}
