"""Readers: how one value, a list, or a mapping is told from words of the command line or from TOML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..chunking.errors import InputError


@dataclass(frozen=True)
class Kind:
    """One way of writing values; see `values.KINDS`."""

    metavar: str
    several: bool
    from_words: Callable[[str, object], object]
    from_toml: Callable[[str, object], object]
    repeated: bool = False
    may_be_empty: bool = False


def wrong(name: str, came: object, expected: str) -> InputError:
    """Return the error of a value that is not what an option takes."""
    return InputError(f"`{name}` = {came!r} came; {expected} expected.")


def text(name: str, value: object) -> str:
    """Return a text."""
    if not isinstance(value, str):
        raise wrong(name, value, "a text in quotes")
    return value


def integer(name: str, value: object) -> int:
    """Return a whole number."""
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            raise wrong(name, value, "a whole number") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong(name, value, "a whole number")
    return value


def number(name: str, value: object) -> float:
    """Return a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise wrong(name, value, "a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(name, value, "a number")
    return value


def switch(name: str, value: object) -> bool:
    """Return true or false, which a word never is."""
    if not isinstance(value, bool):
        raise wrong(name, value, "true or false")
    return value


def amount(name: str, value: object) -> int | str:
    """Return bytes, or an amount such as "4GB"."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise wrong(name, value, 'bytes or an amount such as "4GB"')
    return int(value) if isinstance(value, str) and value.isdigit() else value


def number_or_text(name: str, value: object) -> float | str:
    """Return a number where it is one, else the text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return number(name, value)


def text_or_numbers(name: str, value: object) -> str | list[float]:
    """Return one text, or numbers."""
    given = value if isinstance(value, list) else [value]
    if len(given) == 1 and isinstance(given[0], str) and isinstance(number_or_text(name, given[0]), str):
        return given[0]
    return [number(name, each) for each in given]


def list_of[T](item: Callable[[str, object], T]) -> Callable[[str, object], list[T]]:
    """Return a reader of lists; a single value is a list of one."""

    def read(name: str, value: object) -> list[T]:
        values = value if isinstance(value, list) else [value]
        if not values:
            raise wrong(name, value, "one value or more")
        return [item(name, each) for each in values]

    return read


def one_or_list_of[T](item: Callable[[str, object], T]) -> Callable[[str, object], T | list[T]]:
    """Return a reader of one value for all, or one each: functions tell the two apart by the list."""

    def read(name: str, value: object) -> T | list[T]:
        values = list_of(item)(name, value)
        return values[0] if len(values) == 1 else values

    return read


def pairs_from_words(
    item: Callable[[str, object], object], example: str = "i850um=..."
) -> Callable[[str, object], dict[str, object]]:
    """Return a reader of NAME=VALUE words as a mapping; `example` is what its error shows."""

    def read(name: str, words: object) -> dict[str, object]:
        found: dict[str, object] = {}
        for word in words if isinstance(words, list) else [words]:
            key, equals, value = str(word).partition("=")
            if not equals or not key or not value:
                raise InputError(f"`{name}`: {word!r} came; NAME=VALUE expected, for example {example}")
            if key in found:
                raise InputError(f"`{name}` names {key!r} twice; give it once.")
            found[key] = item(name, value)
        return found

    return read


def pairs_from_toml(item: Callable[[str, object], object]) -> Callable[[str, object], dict[str, object]]:
    """Return a reader of a table as a mapping."""

    def read(name: str, value: object) -> dict[str, object]:
        if not isinstance(value, Mapping):
            raise wrong(name, value, 'a table such as { i850um = "..." }')
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
    return {key: str(value) for key, value in pairs_from_words(text)(name, words).items()}


def each_from_words(item: Callable[[str, object], object]) -> Callable[[str, object], object]:
    """Return a reader of one value for all maps, or of NAME=VALUE for each."""

    def read(name: str, words: object) -> object:
        given = words if isinstance(words, list) else [words]
        if len(given) == 1 and "=" not in str(given[0]):
            return item(name, given[0])
        return pairs_from_words(item)(name, given)

    return read


def each_from_toml(item: Callable[[str, object], object]) -> Callable[[str, object], object]:
    """Return a reader of one value for all maps, or of a table by map."""

    def read(name: str, value: object) -> object:
        return pairs_from_toml(item)(name, value) if isinstance(value, Mapping) else item(name, value)

    return read
