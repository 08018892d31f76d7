"""Kinds of values of the verbs on gas and dust: velocities, cuts, regions, noise, weights, circles; see `values.py`."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ..chunking.errors import InputError, StoreNotFoundError
from .readers import (
    Kind,
    each_from_toml,
    each_from_words,
    integer,
    list_of,
    number,
    number_or_text,
    one_or_list_of,
    pairs_from_toml,
    pairs_from_words,
    text,
    wrong,
)

type Reader = Callable[[str, object], object]

# `ngc=b > 30` is a region with a name; `b >= 30` and `n == 3` are none.
_NAMED = re.compile(r"\s*([A-Za-z_][\w-]*)\s*=(?!=)\s*(\S.*)", re.DOTALL)
_ATTRIBUTES = ("x", "y", "z", "v", "n")


def _words(given: object) -> list[str]:
    """Return the words of an option, with commas between words taken as blanks."""
    listed = given if isinstance(given, list) else [given]
    return [part for word in listed for part in str(word).split(",") if part]


def _several(item: Reader) -> Reader:
    """Read words with blanks or commas between them."""

    def read(name: str, words: object) -> object:
        found = _words(words)
        if not found:
            raise wrong(name, words, "one value or more")
        return [item(name, each) for each in found]

    return read


def _is_file(words: object) -> str | None:
    """Return the one word that is a file, or can be nothing else because it does not begin like a number."""
    given = words if isinstance(words, list) else [words]
    only = given[0] if len(given) == 1 else None
    if not isinstance(only, str) or not only:
        return None
    return None if re.match(r"[-+.]?\d", only) and not Path(only).is_file() else only


def _numbers_or_file(name: str, words: object) -> object:
    return _is_file(words) or _several(number)(name, words)


def _numbers_or_file_toml(name: str, value: object) -> object:
    return value if isinstance(value, str) and value else list_of(number)(name, value)


def _number_numbers_or_file(name: str, words: object) -> object:
    found = _numbers_or_file(name, words)
    return found[0] if isinstance(found, list) and len(found) == 1 else found


def _number_numbers_or_file_toml(name: str, value: object) -> object:
    if isinstance(value, str | list):
        return _numbers_or_file_toml(name, value)
    return number(name, value)


def _span(name: str, words: str) -> list[float]:
    parts = words.split(":")
    if len(parts) != 2:
        raise wrong(name, words, "LOW:HIGH in km/s, for example -90:-35")
    return [number(name, part) for part in parts]


def _edges(name: str, words: object) -> object:
    """Return edges, or low and high of each channel, or the file that has them."""
    given = _words(words)
    if any(":" in part for part in given) and not _is_file(words):
        return [_span(name, part) for part in given]
    return _numbers_or_file(name, words)


def _edges_toml(name: str, value: object) -> object:
    if isinstance(value, list) and any(isinstance(each, list) for each in value):
        return [_pair(name, each, "pairs such as [[-90, -35], [-35, 35]]") for each in value]
    return _numbers_or_file_toml(name, value)


def _pair(name: str, value: object, expected: str) -> list[float]:
    if not isinstance(value, list) or len(value) != 2:
        raise wrong(name, value, expected)
    return [number(name, each) for each in value]


def _cuts(name: str, words: object) -> object:
    given = pairs_from_words(text, "lvc=-35:35")(name, words)
    found: dict[str, object] = {}
    for key, spans in given.items():
        several = [_span(name, part) for part in str(spans).split(",")]
        found[key] = several[0] if len(several) == 1 else several
    return found


def _cuts_toml(name: str, value: object) -> object:
    if not isinstance(value, Mapping):
        raise wrong(name, value, "a table such as { lvc = [-35, 35], ivc = [[-90, -35], [35, 90]] }")
    expected = "[low, high] or a list of these, km/s"
    found: dict[str, object] = {}
    for key, each in value.items():
        nested = isinstance(each, list) and any(isinstance(one, list) for one in each)
        found[str(key)] = [_pair(name, one, expected) for one in each] if nested else _pair(name, each, expected)
    return found


def _region(name: str, words: object) -> object:
    """Return one condition, several that must all hold, or regions by name."""
    given = [str(word) for word in (words if isinstance(words, list) else [words])]
    named = [_NAMED.fullmatch(word) for word in given]
    if not any(named):
        return given[0] if len(given) == 1 else given
    found: dict[str, object] = {}
    for word, match in zip(given, named, strict=True):
        if match is None:
            raise InputError(f"`{name}`: {word!r} came beside regions with names; give it one: NAME={word!r}.")
        if match[1] in found:
            raise InputError(f"`{name}` names {match[1]!r} twice; join its conditions with `and`.")
        found[match[1]] = match[2]
    return found


def _region_toml(name: str, value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): one_or_list_of(text)(name, each) for key, each in value.items()}
    return one_or_list_of(text)(name, value)


def _integer_or_none(name: str, value: object) -> int | None:
    """TOML has no word for nothing: `false`, or "none" as on the command line."""
    if value is False or value == "none":
        return None
    try:
        return integer(name, value)
    except InputError:
        raise wrong(name, value, 'a whole number, or "none"') from None


def _text_or_none(name: str, value: object) -> str | None:
    return None if value is False or value == "none" else text(name, value)


def _flags(name: str, value: object) -> object:
    """Return True for the option alone, or the names that came with it."""
    if isinstance(value, bool):
        return value
    if value == []:
        return True
    return list_of(text)(name, value)


def _table_of_numbers(name: str, value: object) -> object:
    if not isinstance(value, Mapping):
        raise wrong(name, value, "a table of numbers such as { v = 5.0, n = 0.2 }")
    return {str(key): number(name, each) for key, each in value.items()}


def _spectrum(name: str, value: object) -> object:
    return [number(name, each) for each in value] if isinstance(value, list) else text(name, value)


def _groups(name: str, words: object) -> object:
    """Return the templates of `a+b`, which become one."""
    given = words if isinstance(words, list) else [words]
    return [_group(name, str(word).split("+")) for word in given]


def _group(name: str, members: object) -> list[str]:
    if not isinstance(members, list) or len(members) < 2 or not all(isinstance(one, str) and one for one in members):
        raise wrong(name, members, "two templates or more, for example cluster_3+cluster_4")
    return list(members)


def _groups_toml(name: str, value: object) -> object:
    if not isinstance(value, list):
        raise wrong(name, value, 'a list such as [["cluster_3", "cluster_4"]]')
    return [_group(name, each) for each in value]


def _circles(name: str, words: object) -> object:
    given = words if isinstance(words, list) else [words]
    if given == ["none"]:
        return {}
    found = pairs_from_words(lambda of, value: _circle(of, str(value).split(",")), "A=210,50,10")(name, given)
    return found


def _circle(name: str, parts: object) -> list[float]:
    if not isinstance(parts, list) or len(parts) != 3:
        raise wrong(name, parts, "longitude, latitude and radius of a circle, galactic, in degrees")
    return [number(name, part) for part in parts]


def _circles_toml(name: str, value: object) -> object:
    if not isinstance(value, Mapping):
        raise wrong(name, value, "a table such as { A = [210.0, 50.0, 10.0] }; {} for none")
    return {str(key): _circle(name, each) for key, each in value.items()}


def _class_limits(name: str, words: object) -> object:
    """Return a number of bins, or their limits by map."""
    given = words if isinstance(words, list) else [words]
    if len(given) == 1 and "=" not in str(given[0]):
        return integer(name, given[0])
    return pairs_from_words(_several(number), "nhi=0,1,2,4")(name, given)


def _class_limits_toml(name: str, value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): list_of(number)(name, each) for key, each in value.items()}
    return integer(name, value)


def _lines(name: str, words: object) -> object:
    """Return the numbers of NAME:MAP=X by name and map."""
    found: dict[str, dict[str, object]] = {}
    for key, slope in pairs_from_words(number, "i857:nh2=1.7")(name, words).items():
        target, colon, against = key.partition(":")
        if not colon or not target or not against:
            raise wrong(name, key, "NAME:MAP=X, for example i857:nh2=1.7,")
        found.setdefault(target, {})[against] = slope
    return found


def _lines_toml(name: str, value: object) -> object:
    if not isinstance(value, Mapping):
        raise wrong(name, value, "a table of tables such as { i857 = { nh2 = 1.7 } }")
    return {str(key): _table_of_numbers(name, each) for key, each in value.items()}


def _sources(name: str, words: object) -> object:
    """Return a file, or longitude, latitude and perhaps radius of each source."""
    given = words if isinstance(words, list) else [words]
    if _is_file(given):
        return given[0]
    return [_source(name, str(word).split(",")) for word in given]


def _source(name: str, parts: object) -> list[float]:
    if not isinstance(parts, list) or len(parts) not in (2, 3):
        raise wrong(name, parts, "longitude, latitude and perhaps radius of a source, in degrees, or a file,")
    return [number(name, part) for part in parts]


def _sources_toml(name: str, value: object) -> object:
    if isinstance(value, list):
        return [_source(name, each) for each in value]
    return text(name, value)


def _centres(name: str, value: object) -> object:
    """Return (cluster, attribute) numbers: those of a table as `skymill kmeans` prints it, or in TOML themselves."""
    if isinstance(value, list):
        rows = [list_of(number)(name, each) for each in value]
        if any(len(row) != len(_ATTRIBUTES) for row in rows):
            raise wrong(name, value, "rows of x, y, z, v, n")
        return rows
    path = text(name, value)
    try:
        rows_of_file = list(csv.DictReader(Path(path).read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        raise StoreNotFoundError(f"`{name}` = {path!r} came, a file that cannot be read ({error}).") from None
    if not rows_of_file or not set(_ATTRIBUTES) <= set(rows_of_file[0]):
        raise InputError(f"`{name}`: {path} has no columns x, y, z, v and n with a row for each centre.")
    return [[number(name, row[each]) for each in _ATTRIBUTES] for row in rows_of_file]


def _start(name: str, value: object) -> object:
    if value in ("greedy", "parallel"):
        return value
    if isinstance(value, str) and not Path(value).is_file():
        raise wrong(name, value, '"greedy", "parallel" or a file with a table of centres')
    return _centres(name, value)


GAS_KINDS = {
    "integer or none": Kind("N|none", False, _integer_or_none, _integer_or_none),
    "text or none": Kind("TEXT|none", False, _text_or_none, _text_or_none),
    "numbers": Kind("X", True, _several(number), list_of(number)),
    "integers": Kind("N", True, _several(integer), list_of(integer)),
    "numbers or file": Kind("X|FILE", True, _numbers_or_file, _numbers_or_file_toml),
    "number, numbers or file": Kind("X|FILE", True, _number_numbers_or_file, _number_numbers_or_file_toml),
    "edges": Kind("X|LOW:HIGH|FILE", True, _edges, _edges_toml),
    "cuts": Kind("NAME=LOW:HIGH", True, _cuts, _cuts_toml, repeated=True),
    "where": Kind("WHERE", True, one_or_list_of(text), one_or_list_of(text), repeated=True),
    "named where": Kind("NAME=WHERE", True, _region, _region_toml, repeated=True),
    "each number or text": Kind(
        "X|MAP", True, each_from_words(number_or_text), each_from_toml(number_or_text), repeated=True
    ),
    "pairs of number or text": Kind(
        "NAME=X|MAP", True, pairs_from_words(number_or_text), pairs_from_toml(number_or_text), repeated=True
    ),
    "each spectrum": Kind("FILE", True, each_from_words(text), each_from_toml(_spectrum), repeated=True),
    "flags": Kind("NAME", True, _flags, _flags, may_be_empty=True),
    "numbers by name": Kind(
        "NAME=X", True, lambda name, words: pairs_from_words(number, "v=5")(name, _words(words)), _table_of_numbers
    ),
    "groups": Kind("A+B", True, _groups, _groups_toml),
    "circles": Kind("NAME=L,B,RADIUS", True, _circles, _circles_toml, repeated=True),
    "class limits": Kind("N|MAP=X,X,...", True, _class_limits, _class_limits_toml, repeated=True),
    "lines": Kind("NAME:MAP=X", True, _lines, _lines_toml, repeated=True),
    "sources": Kind("FILE|LON,LAT,RADIUS", True, _sources, _sources_toml, repeated=True),
    "centres": Kind("FILE", False, _centres, _centres),
    "start": Kind("greedy|parallel|FILE", False, _start, _start),
}
