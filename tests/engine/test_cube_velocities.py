"""Velocities of the channels of a cube: given in many ways, stated by headers, never guessed."""

from __future__ import annotations

import numpy as np
import pytest
import skymill as sm
from cubefiles import EDGES, axis, cube_of, simple, spectra
from skymill.chunking import store as stores
from skymill.chunking.errors import (
    InputError,
    StoreNotFoundError,
)
from skymill.engine.channel_options import given_channels


def test_velocities_come_in_many_ways_and_all_say_the_same(tmp_path):
    path = simple(tmp_path)
    want = sm.Channels((-10.0, 0.0, 10.0, 25.0), (10.0, 10.0, 10.0, 20.0))
    (tmp_path / "v.txt").write_text("# km/s\n-10\n0\n10  # here\n\n25\n")
    (tmp_path / "w.csv").write_text("width\n10\n10\n10\n20\n")
    (tmp_path / "both.csv").write_text("velocity, width\n-10, 10\n0, 10\n10; 10\n25 20\n")
    (tmp_path / "edges.txt").write_text("-15\n-5\n5\n15\n35\n")
    (tmp_path / "pairs.txt").write_text("-15 -5\n-5 5\n5 15\n15 35\n")
    ways = [
        {"velocity": want.velocity, "width": want.width},
        {"velocity": np.array(want.velocity), "width": np.array(want.width)},
        {"velocity": tmp_path / "v.txt", "width": str(tmp_path / "w.csv")},
        {"velocity": tmp_path / "both.csv"},
        {"edges": [-15, -5, 5, 15, 35]},
        {"edges": want.edges},
        {"edges": tmp_path / "edges.txt"},
        {"edges": str(tmp_path / "pairs.txt")},
    ]
    for number, way in enumerate(ways):
        sm.ingest_cube(path, tmp_path / f"{number}.zarr", **way).run(progress=False)
        assert stores.channels_of(tmp_path / f"{number}.zarr") == want
    sm.ingest_cube(path, tmp_path / "equal.zarr", velocity=[0, 1, 2, 3], width=0.5).run(progress=False)
    assert stores.channels_of(tmp_path / "equal.zarr").width == (0.5,) * 4


@pytest.mark.parametrize(
    "way",
    [
        {"velocity": [30.0, 20.0, 10.0, 0.0], "width": [4.0, 3.0, 2.0, 1.0]},
        {"edges": [32.0, 25.0, 10.0, 5.0, -0.5]},
        {"edges": [(28.0, 32.0), (18.5, 21.5), (9.0, 11.0), (-0.5, 0.5)]},
    ],
)
def test_files_by_descending_velocity_are_turned_round(tmp_path, way):
    values = spectra()
    plan = sm.ingest_cube(simple(tmp_path, values), tmp_path / "sky.zarr", **way)
    assert "by descending velocity" in str(plan)
    plan.run(progress=False)
    np.testing.assert_array_equal(cube_of(tmp_path / "sky.zarr"), values[::-1])
    found = stores.channels_of(tmp_path / "sky.zarr")
    assert list(found.velocity) == sorted(found.velocity)
    if "velocity" in way:
        assert found.width == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("stated", "velocity", "reverse"),
    [
        (axis(2), (-10, -5, 0, 5), False),
        (axis(2, first=-10e3, step=5e3, unit="m/s"), (-10, -5, 0, 5), False),
        (axis(2, first=5.0, step=-5.0, kind="VELO-LSR"), (-10, -5, 0, 5), True),
        (axis(2, first=0.0, at=3.0, kind="VOPT", unit="km s-1"), (-10, -5, 0, 5), False),
    ],
)
def test_the_header_of_an_image_may_state_the_velocities(tmp_path, stated, velocity, reverse):
    values = spectra()
    path = simple(tmp_path, values, **stated)
    sm.ingest_cube(path, tmp_path / "sky.zarr").run(progress=False)
    found = stores.channels_of(tmp_path / "sky.zarr")
    np.testing.assert_allclose(found.velocity, velocity, rtol=0, atol=1e-9)
    assert found.width == (5.0,) * 4
    np.testing.assert_array_equal(cube_of(tmp_path / "sky.zarr"), values[::-1] if reverse else values)


@pytest.mark.parametrize(
    "stated",
    [
        {},
        axis(2, unit=None),
        axis(2, unit="Hz", kind="FREQ"),
        axis(2, kind="VOPT-F2W"),
        axis(2, step=None),
        axis(2, at=None),
        axis(2, step=0.0),
        axis(1),
    ],
)
def test_velocities_that_nothing_tells_are_asked_for(tmp_path, stated):
    with pytest.raises(InputError, match=r"velocities of the channels are not known .* give `velocity` and `width`"):
        sm.ingest_cube(simple(tmp_path, **stated), tmp_path / "sky.zarr")


def test_velocities_that_contradict_the_header_are_refused_unless_it_is_wrong(tmp_path):
    path = simple(tmp_path, **axis(2))
    right = {"velocity": [-10, -5, 0, 5], "width": 5}
    sm.ingest_cube(path, tmp_path / "right.zarr", **right)
    for wrong, words in (
        ({**right, "width": 4}, "channel 0 from -12 to -8 km/s, not -12.5 to -7.5 km/s as the header says"),
        ({"velocity": [5, 0, -5, -10], "width": 5}, "velocities in the opposite order"),
    ):
        with pytest.raises(InputError, match=words):
            sm.ingest_cube(path, tmp_path / "sky.zarr", **wrong)
        sm.ingest_cube(path, tmp_path / "sky.zarr", **wrong, override=["velocity"])
    with pytest.raises(InputError, match='names "velocity", but no velocities'):
        sm.ingest_cube(path, tmp_path / "sky.zarr", override=["velocity"])


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ({"velocity": [0, 1, 2], "width": 1.0}, "3 channels are given by their velocities, but there are 4"),
        ({"edges": [0, 1, 2]}, "2 channels are given"),
        ({"velocity": [0, 1, 2, 3]}, "`velocity` came without `width`, and the widths of channels cannot be guessed"),
        ({"width": 1.0}, "`width` came without `velocity`"),
        ({"velocity": [0, 1, 2, 3], "width": [1, 1, 1]}, "4 velocities and 3 widths"),
        ({"velocity": [0, 1, 2, 3], "width": [1, 1, 1, 0]}, "widths are positive"),
        ({"velocity": [0, 1, 2, 3], "width": 2.0}, "overlap by 1 km/s"),
        ({"velocity": [0, 2, 1, 3], "width": 0.1}, "ascending velocity"),
        ({"edges": EDGES, "velocity": [0, 1, 2, 3]}, "`edges` came beside"),
        ({"edges": [[1, 2], [3]]}, "`edges`"),
        ({"velocity": [[0, 1], [2, 3]], "width": 1.0}, "`velocity`"),
        ({"velocity": [], "width": 1.0}, "one number for each channel"),
    ],
)
def test_channels_that_do_not_fit_are_refused(tmp_path, way, words):
    with pytest.raises(InputError, match=words):
        sm.ingest_cube(simple(tmp_path), tmp_path / "sky.zarr", **way)
    assert not (tmp_path / "sky.zarr").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no numbers"),
        ("velocity\n", "holds no numbers"),
        ("a\nb\n", "line 2: 'b' is no row of numbers"),
        ("1\nx\n", "line 2: 'x'"),
        ("1 2 3\n", "3 numbers came, `velocity` takes 1 or 2"),
        ("1 2\n3\n", "line 2: 1 numbers came, `velocity` takes 2"),
    ],
)
def test_text_files_that_are_no_numbers_are_refused(tmp_path, text, words):
    path = tmp_path / "v.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        given_channels(path, None, None)
    with pytest.raises(StoreNotFoundError, match="cannot be read"):
        given_channels(tmp_path / "none.txt", None, None)
