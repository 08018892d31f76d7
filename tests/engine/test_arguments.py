"""Arguments held to their annotations."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from skymill.chunking.errors import InputError
from skymill.engine.arguments import checked

if TYPE_CHECKING:
    from skymill.models import ModelSpec

type Address = str | os.PathLike[str]
type PerMap[T] = T | Mapping[str, T] | None


@checked
def verb(
    store: Address,
    count: int = 1,
    size: float | None = None,
    names: Sequence[str] = (),
    units: PerMap[str] = None,
    cuts: float | Sequence[float | None] | None = None,
    kind: Literal["any", "all"] | float = "any",
    settings: Mapping[str, Any] | None = None,
    call: Callable[[], int] | None = None,
    switch: bool = False,
    spec: str | ModelSpec = "",
    box: Sequence[tuple[str, float]] = (),
    paths: Address | Sequence[Address] = "",
) -> dict[str, Any]:
    """Return its arguments."""
    return locals()


GOOD = {
    "store": ["a", Path("a")],
    "count": [3, np.int64(3)],
    "size": [3, 2.5, np.float32(2.5), None, math.inf],
    "names": [["a"], ("a",), [], "a"],
    "units": ["K", {"a": "K"}, None, {}],
    "cuts": [1.0, [1.0, None], None, ()],
    "kind": ["any", 0.5],
    "settings": [{"a": object()}, None],
    "call": [len, None],
    "switch": [True, np.bool_(False)],
    "box": [[("a", 1)], [("a",)]],  # how many there must be, the verb says
    "paths": ["a", ["a", Path("b")]],
    "spec": ["a", object()],  # a name that only type checkers see lets everything through
}
BAD = {
    "store": [None, 3, b"a", ["a"]],
    "count": ["3", 2.5, 3.0, np.float32(3), math.nan, math.inf, True, None, [3]],
    "size": ["3", math.nan, True, [2.5], 1j],
    "names": [None, 3, [3], ["a", None], b"a", {"a"}],
    "units": [3, {"a": 3}, {3: "K"}, ["K"]],
    "cuts": ["x", "", ["x"], [math.nan], True],
    "kind": [None, True, math.nan, ["any"]],
    "settings": [[], "a", {3: 1}],
    "call": [3, "len"],
    "box": ["a", [("a", "b")], [(1, 2)], [3]],
    "paths": [3, [3], None],
    "switch": [1, 0, "yes", None],
}


@pytest.mark.parametrize("name", GOOD)
def test_what_fits_is_taken(name):
    for value in GOOD[name]:
        got = verb(**{"store": "s", name: value})[name]
        assert got == value
        assert not isinstance(got, np.generic)


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_with_what_came_and_what_is_expected(name):
    for value in BAD[name]:
        with pytest.raises(InputError, match=rf"`{name}` .* came; .* is expected") as caught:
            verb(**{"store": "s", name: value})
        assert repr(value)[:70] in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("store", "a text or a path is expected"),
        ("count", "an integer is expected"),
        ("size", "a number or None is expected"),
        ("names", "a list of texts is expected"),
        ("cuts", "a number, a list of them or None is expected"),
        ("box", "a list is expected"),
        ("paths", "a text, a path or a list of them is expected"),
        ("units", "a text, a mapping to texts or None is expected"),
        ("switch", "True or False is expected"),
        ("kind", "'any' or 'all' or a number is expected"),
    ],
)
def test_what_is_expected_is_said_in_words(name, words):
    with pytest.raises(InputError) as caught:
        verb(**{"store": "s", name: 1j})
    assert words in str(caught.value)


def test_python_names_what_is_missing_or_unknown():
    with pytest.raises(TypeError, match="store"):
        verb()
    with pytest.raises(TypeError, match="nothing"):
        verb("s", nothing=1)


def test_long_values_are_shortened():
    with pytest.raises(InputError) as caught:
        verb("s", count=list(range(1000)))
    assert len(str(caught.value)) < 160


def test_signature_and_documentation_stay():
    assert list(inspect.signature(verb).parameters)[:2] == ["store", "count"]
    assert verb.__doc__ == "Return its arguments."
