"""Selections: what users may write, and which pixels that means."""

from __future__ import annotations

from typing import Any

import healpy
import numpy as np
import pytest
from skymill.chunking.errors import InputError
from skymill.chunking.regions import Cone
from skymill.chunking.tiling import Tiling
from skymill.engine.selection import Selection

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
    if where is None or isinstance(where, str):
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
        "b > ten",
        "> 10",
        "b => 10",
        "|b > 10",
        "b| > 10",
        "10 < b",
        "0 < b < 10",
        "b > 10 or b < -10",
        "b > 10 and",
        "and",
        "survey in",
        "survey in 1 2",
        "survey in [1, 2]",
        "not mask",
        "__import__('os').system('true')",
        "b > 10; survey",
        "b > 1_0",
        3,
        ["b > 10"],
        True,
    ],
)
def test_what_cannot_be_read_is_refused_with_examples(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"survey in 1, 2"):
        Selection.of(wrong)
