"""The language of conditions on pixels: words into a tree, and the tree over arrays, without `eval`.

    condition   =  both { "or" both }
    both        =  single { "and" single }
    single      =  "not" single  |  "(" condition ")"  |  comparison  |  membership  |  name
    comparison  =  value (< | <= | > | >= | == | !=) value { ... value }
    membership  =  name [ "not" ] "in" number { "," number }, in brackets or without
    value       =  number  |  name  |  "|" name "|"

A value may be missing (NaN), and then a comparison with it is neither true nor false but unknown.  Unknown goes
through `not` as unknown; `and` is false where one side is false, `or` true where one side is true, whatever the other
(the three-valued logic of Kleene, as in SQL).  A pixel is selected where the whole is true.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError

type Bools = NDArray[np.bool_]

COORDINATES: Final = ("l", "b", "lon", "lat", "elon", "elat")
CAPS: Final = {"ngc": ">", "sgc": "<"}
HELP: Final = (
    'write conditions such as "b > 10 and |l| < 60", "survey in 1, 2", "ngc" or the name of a map that is not 0 where '
    "a pixel may be used, joined by `and`, `or`, `not` and parentheses"
)

_OPERATORS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])|(?P<name>[A-Za-z_]\w*)|"
    r"(?P<operator><=|>=|==|!=|<|>)|(?P<sign>[-+|(),\[\]]))"
)
_WORDS = ("and", "or", "not", "in")
_DEEPEST = 100  # parentheses in parentheses: far more than anybody writes, far less than Python's stack


class Truth(NamedTuple):
    """Where a condition is surely true and where surely false, each (pixel,) bool; elsewhere it is unknown."""

    true: Bools
    false: Bools


@dataclass(frozen=True)
class Value:
    """A map or a coordinate, or with `magnitude` its absolute value."""

    name: str
    magnitude: bool = False


type Lookup = Callable[[Value], NDArray[np.floating]]


@dataclass(frozen=True)
class Comparison:
    """Two values, or a value and a number."""

    left: Value | float
    operator: str
    right: Value | float

    def values(self) -> Iterator[Value]:
        """Yield the values that must be known."""
        yield from (side for side in (self.left, self.right) if isinstance(side, Value))

    def truth(self, lookup: Lookup) -> Truth:
        """Return where it holds."""
        left, right = (lookup(side) if isinstance(side, Value) else side for side in (self.left, self.right))
        left, right = _as_held(left, right), _as_held(right, left)
        return _known(_OPERATORS[self.operator](left, right), np.isnan(left) | np.isnan(right))


@dataclass(frozen=True)
class Membership:
    """A value that is one of some numbers."""

    value: Value
    numbers: tuple[float, ...]

    def values(self) -> Iterator[Value]:
        """Yield the values that must be known."""
        yield self.value

    def truth(self, lookup: Lookup) -> Truth:
        """Return where it holds."""
        values = lookup(self.value)
        numbers = [_as_held(number, values) for number in self.numbers]
        return _known(np.isin(values, numbers), np.isnan(values))


@dataclass(frozen=True)
class Not:
    """The opposite of a condition."""

    part: Node

    def values(self) -> Iterator[Value]:
        """Yield the values that must be known."""
        yield from self.part.values()

    def truth(self, lookup: Lookup) -> Truth:
        """Return where it holds."""
        true, false = self.part.truth(lookup)
        return Truth(false, true)


@dataclass(frozen=True)
class Every:
    """Conditions joined by `and`."""

    parts: tuple[Node, ...]

    def values(self) -> Iterator[Value]:
        """Yield the values that must be known."""
        for part in self.parts:
            yield from part.values()

    def truth(self, lookup: Lookup) -> Truth:
        """Return where it holds."""
        true, false = self.parts[0].truth(lookup)
        for part in self.parts[1:]:
            other = part.truth(lookup)
            true, false = true & other.true, false | other.false
        return Truth(true, false)


@dataclass(frozen=True)
class Some:
    """Conditions joined by `or`."""

    parts: tuple[Node, ...]

    def values(self) -> Iterator[Value]:
        """Yield the values that must be known."""
        for part in self.parts:
            yield from part.values()

    def truth(self, lookup: Lookup) -> Truth:
        """Return where it holds."""
        true, false = self.parts[0].truth(lookup)
        for part in self.parts[1:]:
            other = part.truth(lookup)
            true, false = true | other.true, false & other.false
        return Truth(true, false)


type Node = Comparison | Membership | Not | Every | Some


@dataclass(frozen=True)
class Condition:
    """One of the conditions that a text joins by `and`, as it was written."""

    text: str
    node: Node


def _as_held(side: Any, other: Any) -> Any:
    """Return a number as the map that it is held against would hold it: the 0.7 of a float32 map is 0.7, not less."""
    if isinstance(side, float) and isinstance(other, np.ndarray) and other.dtype == np.float32:
        with np.errstate(over="ignore"):
            return np.float32(side)
    return side


def _known(holds: Any, missing: Any) -> Truth:
    known = ~np.asarray(missing)
    holds = np.asarray(holds)
    return Truth(holds & known, ~holds & known)


def parse(text: str) -> tuple[Condition, ...]:
    """Return the conditions that a text joins by `and`, in their order.

    Parameters
    ----------
    text : str
        In the language that stands at the head of this module.

    Raises
    ------
    InputError
        If it cannot be read; the message says where.

    Examples
    --------
    >>> [condition.text for condition in parse("b > 10 and (survey in 1, 2 or not mask)")]
    ['b > 10', '(survey in 1, 2 or not mask)']
    """
    return _Reader(text).conditions()


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    stop: int


class _Reader:
    """Reads one text from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.tokens: list[_Token] = []
        position = 0
        while text[position:].strip():
            found = _TOKEN.match(text, position)
            if found is None:
                rest = text[position:].strip()
                raise InputError(f"`where` {text!r} cannot be read at {_short(rest)!r}; {HELP}.")
            kind = str(found.lastgroup)
            word = found[kind]
            self.tokens.append(_Token("word" if word in _WORDS else kind, word, found.start(kind), found.end(kind)))
            position = found.end()
        self.tokens.append(_Token("end", "", len(text), len(text)))

    def conditions(self) -> tuple[Condition, ...]:
        found: list[Condition] = []
        first = self.at
        nodes = [self._single()]
        while True:
            found.append(Condition(self._written(first), nodes[-1]))
            if not self._takes("and"):
                break
            first = self.at
            nodes.append(self._single())
        if self._takes("or"):
            node = self._joined([nodes[0] if len(nodes) == 1 else Every(tuple(nodes))])
            found = [Condition(self.text.strip(), node)]
        if self.token.kind != "end":
            self._refuse()
        return tuple(found)

    @property
    def token(self) -> _Token:
        return self.tokens[self.at]

    def _written(self, first: int) -> str:
        return self.text[self.tokens[first].start : self.tokens[self.at - 1].stop]

    def _takes(self, text: str) -> bool:
        taken = self.token.text == text and self.token.kind != "name"
        self.at += taken
        return taken

    def _refuse(self, why: str = "") -> NoReturn:
        rest = self.text[self.token.start :].strip()
        where = f"at {_short(rest)!r}" if rest else "at its end"
        raise InputError(f"`where` {self.text!r} cannot be read {where}{why}; {HELP}.")

    def _joined(self, parts: list[Node]) -> Node:
        """Return a condition of which `parts` and one `or` have been read."""
        parts.append(self._both())
        while self._takes("or"):
            parts.append(self._both())
        return Some(tuple(parts))

    def _condition(self) -> Node:
        first = self._both()
        return self._joined([first]) if self._takes("or") else first

    def _both(self) -> Node:
        parts = [self._single()]
        while self._takes("and"):
            parts.append(self._single())
        return parts[0] if len(parts) == 1 else Every(tuple(parts))

    def _single(self) -> Node:
        self.depth += 1
        if self.depth > _DEEPEST:
            self._refuse(f": more than {_DEEPEST} conditions inside each other")
        try:
            if self._takes("not"):
                return Not(self._single())
            if self._takes("("):
                inner = self._condition()
                if not self._takes(")"):
                    self._refuse(": a parenthesis is not closed")
                return inner
            return self._statement()
        finally:
            self.depth -= 1

    def _statement(self) -> Node:
        first = self.at
        value = self._value()
        turned = self.token.text == "not" and self.tokens[self.at + 1].text == "in"
        self.at += turned
        if self._takes("in"):
            if not isinstance(value, Value):
                self._refuse(": a number came before `in`")
            member = Membership(self._plain(value), self._numbers())
            return Not(member) if turned else member
        if turned:
            self._refuse()
        links: list[Node] = []
        while self.token.kind == "operator":
            sign = self.token.text
            self.at += 1
            other = self._value()
            if not (isinstance(value, Value) or isinstance(other, Value)):
                self._refuse(": two numbers are compared")
            links.append(Comparison(self._plain(value), sign, self._plain(other)))
            value = other
        if links:
            return links[0] if len(links) == 1 else Every(tuple(links))
        if isinstance(value, Value) and not value.magnitude and value.name not in COORDINATES:
            if value.name in CAPS:
                return Comparison(Value("b"), CAPS[value.name], 0.0)
            return Comparison(value, "!=", 0.0)
        raise InputError(f"`where` {self.text!r} compares {self._written(first)!r} with nothing; {HELP}.")

    def _plain[V: Value | float](self, value: V) -> V:
        """Return a value that can be compared, which the name of a cap cannot."""
        if isinstance(value, Value) and value.name in CAPS:
            raise InputError(
                f"`where` {self.text!r} compares {value.name!r}, which stands alone: it is b "
                f"{CAPS[value.name]} 0; {HELP}."
            )
        return value

    def _value(self) -> Value | float:
        if self._takes("|"):
            name = self._name()
            if not self._takes("|"):
                self._refuse(": bars go around one name")
            return self._plain(Value(name, True))
        if self.token.kind == "name":
            return Value(self._name())
        return self._number()

    def _name(self) -> str:
        if self.token.kind != "name":
            self._refuse()
        self.at += 1
        return self.tokens[self.at - 1].text

    def _number(self) -> float:
        negative = self._takes("-")
        if not negative:
            self._takes("+")
        if self.token.kind != "number":
            self._refuse()
        self.at += 1
        number = float(self.tokens[self.at - 1].text)
        return -number if negative else number

    def _numbers(self) -> tuple[float, ...]:
        closing = "]" if self._takes("[") else ")" if self._takes("(") else ""
        numbers = [self._number()]
        while self._takes(","):
            numbers.append(self._number())
        if closing and not self._takes(closing):
            self._refuse(": a list is not closed")
        return tuple(numbers)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
