"""Arguments held to their annotations, so that a mistake is told at the door and not deep inside.

Covers: the kinds of values (text, integer, number, path, list, mapping), NaN, and the scalars of NumPy.
Does not cover: which values make sense; every verb says that itself.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ..chunking.errors import InputError, nearest


class _WrongKind(Exception):  # noqa: N818 - never leaves this module
    pass


def checked[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that holds its arguments to their annotations before it begins.

    Scalars of NumPy become plain ones.

    Parameters
    ----------
    function : callable
        Annotated; what an annotation cannot tell at run time is let through.

    Returns
    -------
    callable
        Raises InputError where an argument is of another kind than its annotation says.

    Examples
    --------
    >>> @checked
    ... def double(count: int) -> int:
    ...     return 2 * count
    >>> double(4)
    8
    >>> try:
    ...     double("4")
    ... except ValueError as error:
    ...     print(error)
    `count` '4' came; an integer is expected.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python itself names the argument that is missing or unknown
        known = _annotations(function)
        for name, value in bound.arguments.items():
            if name in known:
                try:
                    bound.arguments[name] = _taken(known[name], value)
                except _WrongKind:
                    text = repr(value)
                    raise InputError(
                        f"`{name}` {text if len(text) <= 80 else text[:77] + '...'} came; "
                        f"{_words(known[name])} is expected."
                    ) from None
        return function(*bound.args, **bound.kwargs)

    return wrapper


@functools.cache
def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Return what can be known of the annotations; names that only type checkers see are left out."""
    known = {}
    for name, annotation in function.__annotations__.items():
        try:
            known[name] = eval(annotation, function.__globals__) if isinstance(annotation, str) else annotation
        except (NameError, AttributeError, TypeError):
            continue
    return known


def _plain(annotation: Any) -> Any:
    """Return an annotation without aliases."""
    while True:
        if isinstance(annotation, typing.TypeAliasType):
            annotation = annotation.__value__
        elif isinstance(typing.get_origin(annotation), typing.TypeAliasType):
            annotation = typing.get_origin(annotation).__value__[typing.get_args(annotation)]
        else:
            return annotation


def _members(annotation: Any) -> list[Any]:
    annotation = _plain(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [member for part in typing.get_args(annotation) for member in _members(part)]
    return [annotation]


def _taken(annotation: Any, value: Any) -> Any:
    """Return the value as its annotation wants it."""
    wrong = True
    for member in _members(annotation):
        try:
            return _one(member, value)
        except _WrongKind:
            continue
        except TypeError:  # an annotation that only type checkers understand
            wrong = False
    if wrong:
        raise _WrongKind
    return value


def _one(kind: Any, value: Any) -> Any:
    origin, parts = typing.get_origin(kind) or kind, typing.get_args(kind)
    if kind is Any:
        return value
    if kind in (int, float, bool, str, None, types.NoneType):
        return _scalar(kind, value)
    if origin is Literal:
        # Which of them, the verb itself says, with the nearest one.
        return _scalar(type(parts[0]), value)
    if origin is collections.abc.Callable:
        return _held(callable(value), value)
    if not isinstance(origin, type):
        raise TypeError
    if not isinstance(value, origin):
        raise _WrongKind
    if issubclass(origin, Mapping) and len(parts) == 2:
        pairs: Any = value
        return {_taken(parts[0], key): _taken(parts[1], held) for key, held in pairs.items()}
    if isinstance(value, bytes | bytearray) and not issubclass(origin, bytes | bytearray):
        raise _WrongKind
    if isinstance(value, str) and parts:
        _taken(parts[0], value)  # a text is a sequence of texts, though not of numbers
        return value
    if origin is tuple and parts and parts[-1] is not Ellipsis:
        row: Any = value
        if len(row) != len(parts):
            return value  # how many there must be, the verb itself says
        return tuple(_taken(part, each) for part, each in zip(parts, row, strict=True))
    if issubclass(origin, collections.abc.Collection) and parts and isinstance(value, list | tuple):
        held = [_taken(parts[0], each) for each in value]
        return tuple(held) if isinstance(value, tuple) else held
    return value


def _held(right: bool, value: Any) -> Any:
    if not right:
        raise _WrongKind
    return value


def _scalar(kind: Any, value: Any) -> Any:
    if kind is None or kind is types.NoneType:
        return _held(value is None, value)
    if kind is bool:
        return bool(_held(isinstance(value, bool | np.bool_), value))
    if kind is str:
        return _held(isinstance(value, str), value)
    if isinstance(value, bool | np.bool_):
        raise _WrongKind
    _held(isinstance(value, numbers.Real) and not math.isnan(value), value)
    if kind is int:
        return int(_held(isinstance(value, numbers.Integral), value))
    return value.item() if isinstance(value, np.generic) else value


_WORDS = {int: "an integer", float: "a number", bool: "True or False", str: "a text", type(None): "None"}


_MANY = {"an integer": "integers", "a number": "numbers", "a text": "texts", "a path": "paths"}


def _words(annotation: Any) -> str:
    """Return what an annotation asks for, for people."""
    kinds = _members(annotation)
    alone = {_word(kind) for kind in kinds if _element(kind) is None}
    found = []
    for kind in kinds:
        element = _element(kind)
        if element is None:
            found.append(_word(kind))
        elif alone and {_word(each) for each in _members(element)} <= alone:
            found.append("a list of them")
        else:
            found.append(f"a list of {_many(element)}" if _many(element) else "a list")
    found = list(dict.fromkeys(found))
    return found[0] if len(found) == 1 else ", ".join(found[:-1]) + " or " + found[-1]


def _element(kind: Any) -> Any:
    """Return what a list is to hold, or None where no list is asked for."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    listed = isinstance(origin, type) and issubclass(origin, collections.abc.Collection)
    return parts[0] if listed and parts and not issubclass(origin, Mapping) else None


def _many(annotation: Any) -> str:
    return " or ".join(filter(None, (_MANY.get(_word(kind)) for kind in _members(annotation))))


def _word(kind: Any) -> str:
    kind = types.NoneType if kind is None else kind
    origin, parts = typing.get_origin(kind) or kind, typing.get_args(kind)
    if kind in _WORDS:
        return _WORDS[kind]
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is os.PathLike:
        return "a path"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping to {_many(parts[1])}" if len(parts) == 2 and _many(parts[1]) else "a mapping"
    return f"a {getattr(origin, '__name__', origin)}"


def check_choice(name: str, value: Any, known: Sequence[Any]) -> None:
    """Raise InputError unless an option has one of the values that are known."""
    if value not in known:
        words = [str(each) for each in known if each is not None]
        raise InputError(f"`{name}` {value!r} came; {nearest(str(value), words)}.")
