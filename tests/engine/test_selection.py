"""Selections: what users may write, and which pixels that means."""

from __future__ import annotations

from typing import Any

import healpy
import numpy as np
import pytest
import skymill as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking.errors import InputError
from skymill.chunking.regions import Cone
from skymill.chunking.tiling import Tiling
from skymill.engine.selection import BLOCK, Selection, described

GRID = Tiling(16, tile_nside=2)
PIXELS = np.arange(GRID.npix)
LON, LAT = healpy.pix2ang(16, PIXELS, nest=True, lonlat=True)
VALUES = {
    "survey": (PIXELS % 4).astype("u1"),
    "i850um": np.where(PIXELS % 7 == 0, np.nan, PIXELS / 100).astype("f4"),
    "mask": (PIXELS % 3 == 0).astype("u1"),
}
FOLDED = (LON + 180) % 360 - 180


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("b > 10", LAT > 10),
        ("|b| > 10 and b > 0", LAT > 10),
        ("|b|>=30", np.abs(LAT) >= 30),
        ("lat < -5.5 and lon <= 180", (LAT < -5.5) & (LON <= 180)),
        ("l > 300", LON > 300),
        ("|l| < 60", np.abs(FOLDED) < 60),
        ("survey == 2", VALUES["survey"] == 2),
        ("survey != 0", VALUES["survey"] != 0),
        ("survey in 1, 3", np.isin(VALUES["survey"], [1, 3])),
        ("survey in 2", VALUES["survey"] == 2),
        ("mask", VALUES["mask"] == 1),
        ("i850um > 1e1", VALUES["i850um"] > 10),
        ("i850um != 5", (VALUES["i850um"] != 5) & ~np.isnan(VALUES["i850um"])),
        ("b > -1.5e1 and survey in 1,2 and mask", (LAT > -15) & np.isin(PIXELS % 4, [1, 2]) & (PIXELS % 3 == 0)),
        ("b > 10 or b < -10", np.abs(LAT) > 10),
        ("not b > 10", LAT <= 10),
        ("not (b > 10 or mask)", (LAT <= 10) & (VALUES["mask"] == 0)),
        ("not not mask", VALUES["mask"] == 1),
        ("mask or b > 80 and survey == 2", (VALUES["mask"] == 1) | (LAT > 80) & (VALUES["survey"] == 2)),
        ("(mask or b > 80) and survey == 2", ((VALUES["mask"] == 1) | (LAT > 80)) & (VALUES["survey"] == 2)),
        ("10 < b", LAT > 10),
        ("0 < b < 10", (LAT > 0) & (LAT < 10)),
        ("-1e1 <= b < 2.5e1", (LAT >= -10) & (LAT < 25)),
        ("survey in [1, 2]", np.isin(VALUES["survey"], [1, 2])),
        ("survey in (1)", VALUES["survey"] == 1),
        ("survey not in 1, 2 or b > 0", ~np.isin(VALUES["survey"], [1, 2]) | (LAT > 0)),
        ("i850um > b", VALUES["i850um"] > LAT),
        ("|b| >= |i850um|", np.abs(LAT) >= np.abs(VALUES["i850um"])),
        ("ngc", LAT > 0),
        ("sgc", LAT < 0),
        ("not ngc and not sgc", LAT == 0),
        (["b > 10", "mask"], (LAT > 10) & (VALUES["mask"] == 1)),
        (["b > 10 or b < -10", "mask or survey == 2"], (np.abs(LAT) > 10) & (VALUES["mask"] + (PIXELS % 4 == 2) > 0)),
        (None, np.ones(GRID.npix, bool)),
        (
            Cone(40.0, 20.0, 25.0),
            healpy.ang2vec(LON, LAT, lonlat=True) @ healpy.ang2vec(40, 20, lonlat=True) > np.cos(np.radians(25)),
        ),
    ],
)
def test_pixels(where: Any, expected: np.ndarray) -> None:
    assert expected.sum() > 0
    selection = Selection.of(where)
    assert np.array_equal(selection.holds(GRID, "galactic", PIXELS, VALUES), expected)
    tiles = selection.tiles(GRID, "galactic", tuple(range(GRID.n_tiles)))
    assert set(PIXELS[expected] // GRID.tile_npix) <= set(tiles)
    if not isinstance(where, Cone):
        assert len(tiles) == GRID.n_tiles
    else:
        assert len(tiles) < GRID.n_tiles


def test_b_is_galactic_and_lat_is_of_the_store() -> None:
    lon, lat = healpy.Rotator(coord="CG")(LON, LAT, lonlat=True)
    assert np.array_equal(Selection.of("b > 20").holds(GRID, "icrs", PIXELS, {}), lat > 20)
    assert np.array_equal(Selection.of("lat > 20").holds(GRID, "icrs", PIXELS, {}), LAT > 20)
    assert np.array_equal(
        Selection.of("|l| < 90").holds(GRID, "icrs", PIXELS, {}), np.abs((lon + 180) % 360 - 180) < 90
    )


def test_maps_and_positions_that_are_needed() -> None:
    assert Selection.of("b > 1 and survey in 1 and |i850um| > 2 and survey != 3").maps == ("survey", "i850um")
    assert not Selection.of("survey in 1").needs_positions
    assert Selection.of("lon > 1").needs_positions
    assert not Selection.of(None).needs_positions


def test_no_pixels() -> None:
    nothing = np.empty(0, np.int64)
    assert Selection.of("b > 1 and survey").holds(GRID, "icrs", nothing, {"survey": nothing}).shape == (0,)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "  ",
        "b",
        "|survey|",
        "b >",
        "> 10",
        "b => 10",
        "|b > 10",
        "b| > 10",
        "10 < 20",
        "10",
        "b > 10 and",
        "b > 10 or",
        "and",
        "or b > 10",
        "not",
        "not b",
        "b not > 10",
        "mask and not",
        "survey in",
        "survey in 1 2",
        "survey in [1, 2",
        "survey in (1, 2]",
        "survey in 1,",
        "3 in 1, 2",
        "survey not 1",
        "(b > 10",
        "b > 10)",
        "()",
        "(b) > 10",
        "ngc > 1",
        "|ngc|",
        "|sgc| > 1",
        "|-3| > 1",
        "b > 10 mask",
        "b > - - 10",
        "b > 10 AND mask",
        "b > 10 & mask",
        "~mask",
        "b > 1.2.3",
        "(" * 200 + "mask" + ")" * 200,
        "not " * 200 + "mask",
        "__import__('os').system('true')",
        "b > 10; survey",
        "b > 1_0",
        3,
        ["b > 10", 3],
        ["b > 10", ""],
        [],
        True,
    ],
)
def test_what_cannot_be_read_is_refused_with_examples(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"survey in 1, 2"):
        Selection.of(wrong)


def test_where_it_stops_is_told() -> None:
    with pytest.raises(InputError, match=r"cannot be read at '\) and c'"):
        Selection.of("a or b > 1) and c")
    with pytest.raises(InputError, match="a parenthesis is not closed"):
        Selection.of("(mask and b > 1")
    with pytest.raises(InputError, match="more than 100 conditions inside each other"):
        Selection.of("(" * 101 + "mask" + ")" * 101)


def test_ecliptic_coordinates_whatever_the_frame() -> None:
    for frame, turn in (("galactic", "GE"), ("icrs", "CE")):
        elon, elat = healpy.Rotator(coord=turn)(LON, LAT, lonlat=True)
        for where, expected in (
            ("|elat| > 15", np.abs(elat) > 15),
            ("elon < 91", elon % 360 < 91),
            ("|elon| < 91", np.abs((elon + 180) % 360 - 180) < 91),
        ):
            found = Selection.of(where).holds(GRID, frame, PIXELS, {})
            # The two rotations differ by 0.02 arcsec: only pixels at the very limit may fall on two sides.
            assert np.count_nonzero(found != expected) <= 2
            assert 0 < found.sum() < GRID.npix
    assert np.array_equal(Selection.of("elat > 15").holds(GRID, "ecliptic", PIXELS, {}), LAT > 15)
    b = healpy.Rotator(coord="CG")(LON, LAT, lonlat=True)[1]
    assert np.array_equal(Selection.of("sgc").holds(GRID, "icrs", PIXELS, {}), b < 0)


def test_what_is_missing_is_neither_true_nor_false() -> None:
    values = {"a": np.array([1.0, np.nan, 3.0]), "z": np.array([0, 0, 1], "u1")}

    def selected(where: str) -> list[int]:
        return np.flatnonzero(Selection.of(where).holds(Tiling(1), "galactic", np.arange(3), values)).tolist()

    assert selected("a > 2") == [2]
    assert selected("not a > 2") == [0]
    assert selected("a != 3") == [0]
    assert selected("not a == 3") == [0]
    assert selected("a in 1, 3") == [0, 2]
    assert selected("a not in 1") == [2]
    assert selected("not a in 1") == [2]
    assert selected("a") == [0, 2]
    assert selected("not a") == []
    assert selected("|a| >= 0") == [0, 2]
    assert selected("0 < a < 2") == [0]
    assert selected("not 0 < a < 2") == [2]
    # The rest decides without it.
    assert selected("a > 2 or z == 0") == [0, 1, 2]
    assert selected("not (a > 2 and z)") == [0, 1]
    # It does not.
    assert selected("a > 2 or z") == [2]
    assert selected("a > 2 or not a > 2") == [0, 2]


def test_regions_and_conditions_together() -> None:
    near, far = Cone(40.0, 20.0, 25.0), Cone(60.0, 20.0, 25.0, frame="icrs")
    alone = [Selection.of(each).holds(GRID, "icrs", PIXELS, VALUES) for each in (near, far, "lat > 25 or mask")]
    both = Selection.of([near, "lat > 25 or mask", far])
    assert np.array_equal(both.holds(GRID, "icrs", PIXELS, VALUES), np.all(alone, axis=0))
    assert 0 < both.holds(GRID, "icrs", PIXELS, VALUES).sum() < min(each.sum() for each in alone)
    assert both.region == near
    assert both.regions == (near, far)
    assert both.needs_positions
    tiles = [set(Selection.of(each).tiles(GRID, "icrs", tuple(range(GRID.n_tiles)))) for each in (near, far)]
    assert set(both.tiles(GRID, "icrs", tuple(range(GRID.n_tiles)))) == tiles[0] & tiles[1]
    assert described([near, "mask"]) == [
        {"region": "Cone", "lon": 40.0, "lat": 20.0, "radius": 25.0, "frame": None},
        "mask",
    ]
    assert described(near) != described(far)
    polygon = sm.Polygon(((0.0, 0.0), (30.0, 0.0), (0.0, 30.0)))
    assert described(polygon) == {"region": "Polygon", "vertices": [[0, 0], [30, 0], [0, 30]], "frame": None}


@pytest.mark.parametrize("number", [0.7, 0.1, -2.3, 1e-30])
def test_numbers_are_as_precise_as_maps(number: float) -> None:
    """0.7 in float32 is less than 0.7 in float64, 0.1 is more."""
    values = {"w": np.full(12, number, np.float32), "double": np.full(12, number), "few": np.ones(12, np.uint8)}

    def all_of(where: str) -> bool:
        return bool(Selection.of(where).holds(Tiling(1), "galactic", np.arange(12), values).all())

    for name in ("w", "double"):
        held = (f"{name} {{}} {number!r}".format(sign) for sign in ("==", ">=", "<=", "in"))
        for where in (*held, f"{number!r} <= {name} <= {number!r}", f"|{name}| == {abs(number)!r}"):
            assert all_of(where), where
            assert not all_of(f"not ({where})")
        assert not any(all_of(f"{name} {sign} {number!r}") for sign in ("!=", "<", ">", "not in"))
        assert all_of(f"{name} < 1e300")
        assert not all_of(f"{name} < -1e300")
    assert not all_of(f"few == {1 + 1e-12!r}")


def test_conditions_are_told_apart_as_they_were_written() -> None:
    def texts(where: Any) -> list[str]:
        return [condition.text for condition in Selection.of(where).conditions]

    assert texts(" |b|>10 and (mask or survey in 1,2)  and not  a ") == ["|b|>10", "(mask or survey in 1,2)", "not  a"]
    assert texts("a and b > 1 or c") == ["a and b > 1 or c"]
    assert texts(["a and c", "d"]) == ["a", "c", "d"]


def test_blocks_do_not_show() -> None:
    grid = Tiling(128)
    pixels = np.arange(BLOCK - 3, BLOCK + 4)
    values = {"a": np.arange(7.0)}
    found = Selection.of("a >= 3 or b > 90").holds(grid, "galactic", pixels, values)
    assert found.tolist() == [False] * 3 + [True] * 4
    b = grid.lonlat(pixels)[1]
    assert np.array_equal(
        Selection.of(f"b > {float(b[5]) - 1e-9!r}").holds(grid, "galactic", pixels, {}), b > float(b[5]) - 1e-9
    )


# Random expressions: (text, truth), truth 1 for true, 0 for false, 0.5 for unknown, so that `and` is the minimum, `or`
# the maximum and `not` the difference to 1 (Kleene); precedence of `or`, `and`, `not` and of what needs none is 0 to 3.
FEW = np.arange(0, GRID.npix, 13)
# Positions to the last bit, which healpy's differ in: a random expression may ask whether |l| is l.
KNOWN = {
    "b": GRID.lonlat(FEW)[1],
    "l": GRID.lonlat(FEW)[0],
    "survey": VALUES["survey"][FEW].astype(float),
    "i850um": VALUES["i850um"][FEW].astype(float),
}
OPERATORS = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}
names = st.sampled_from(sorted(KNOWN))
numbers = st.integers(-3, 40).map(float) | st.floats(-90, 90, allow_subnormal=False)


def test_random_expressions_are_asked_of_the_positions_of_healpy() -> None:
    assert np.abs(KNOWN["l"] - LON[FEW]).max() < 1e-12
    assert np.abs(KNOWN["b"] - LAT[FEW]).max() < 1e-12


def test_bars_change_no_bit_of_a_longitude_up_to_180() -> None:
    l = KNOWN["l"]  # noqa: E741
    same = Selection.of("|l| == l").holds(GRID, "galactic", FEW, {})
    assert np.array_equal(same, l <= 180)


def known(holds: np.ndarray, *values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values).any(axis=0), 0.5, holds.astype(float))


@st.composite
def leaves(draw: Any) -> tuple[str, np.ndarray, int]:
    name, number = draw(names), draw(numbers)
    value = KNOWN[name]
    if draw(st.booleans()):
        value = np.where(value > 180, 360 - value, value) if name == "l" else np.abs(value)
        name = f"| {name}|"
    kind = draw(st.sampled_from(["compare", "turned", "chain", "in", "not in"]))
    sign, other = draw(st.sampled_from(sorted(OPERATORS))), draw(st.sampled_from(sorted(OPERATORS)))
    if kind == "compare":
        return f"{name}{sign}{number!r}", known(OPERATORS[sign](value, number), value), 3
    if kind == "turned":
        return f"{number!r} {sign} {name}", known(OPERATORS[sign](number, value), value), 3
    if kind == "chain":
        second, third = draw(names), draw(numbers)
        links = known(OPERATORS[sign](value, KNOWN[second]), value, KNOWN[second])
        links = np.minimum(links, known(OPERATORS[other](KNOWN[second], third), KNOWN[second]))
        return f"{name} {sign} {second} {other} {third!r}", links, 3
    few = draw(st.lists(st.integers(-1, 4), min_size=1, max_size=3))
    member = known(np.isin(value, few), value)
    text = f"{name} {kind} " + draw(st.sampled_from(["{}", "[{}]", "( {} )"])).format(", ".join(map(str, few)))
    return text, member if kind == "in" else 1 - member, 3


def larger(inner: Any) -> Any:
    def put(part: tuple[str, np.ndarray, int], level: int, anyway: bool) -> str:
        return f"({part[0]})" if anyway or part[2] < level else part[0]

    def join(word: str, level: int, combine: Any) -> Any:
        return st.tuples(inner, inner, st.booleans()).map(
            # On the left the same word needs no parentheses; on the right neither, for both are associative.
            lambda t: (
                f"{put(t[0], level, t[2])} {word} {put(t[1], level, t[2])}",
                combine(t[0][1], t[1][1]),
                level,
            )
        )

    turned = st.tuples(inner, st.booleans()).map(lambda t: (f"not {put(t[0], 2, t[1])}", 1 - t[0][1], 2))
    return join("or", 0, np.maximum) | join("and", 1, np.minimum) | turned


@settings(max_examples=40, deadline=None)
@given(st.recursive(leaves(), larger, max_leaves=8))
def test_random_expressions_are_what_brute_force_says(expression: tuple[str, np.ndarray, int]) -> None:
    text, truth, _ = expression
    selection = Selection.of(text)
    values = {name: KNOWN[name] for name in selection.maps}
    assert np.array_equal(selection.holds(GRID, "galactic", FEW, values), truth == 1), text
    # What it joins by `and` gives the same together.
    parts = [Selection.of(each.text).holds(GRID, "galactic", FEW, values) for each in selection.conditions]
    assert np.array_equal(np.all(parts, axis=0), truth == 1), text
