"""Velocity channels: what they are, what is refused, which part of them lies between two velocities."""

from __future__ import annotations

import numpy as np
import pytest
import skymill as sm
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking import store as stores
from skymill.chunking.channels import difference
from skymill.chunking.errors import InputError
from skymill.chunking.tiling import Tiling, cube_tile_nside

WIDTHS = st.lists(st.floats(0.1, 50.0), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(start=st.floats(-200, 200), widths=WIDTHS, gaps=st.lists(st.floats(0, 5), min_size=8, max_size=8))
def test_edges_and_channels_say_the_same(start, widths, gaps):
    low = start + np.cumsum([0.0, *widths[:-1]]) + np.cumsum(gaps[: len(widths)])
    pairs = np.stack([low, low + widths], axis=1)
    channels = sm.Channels.from_edges(pairs.tolist())
    assert channels.count == len(widths)
    np.testing.assert_allclose(channels.edges, pairs, rtol=0, atol=1e-9)
    np.testing.assert_allclose(channels.width, widths, rtol=0, atol=1e-9)
    assert sm.Channels(channels.velocity, channels.width) == channels


@settings(max_examples=40, deadline=None)
@given(widths=WIDTHS, cuts=st.tuples(st.floats(-250, 250), st.floats(0.01, 300)))
def test_overlap_is_what_a_fine_grid_of_velocities_counts(widths, cuts):
    channels = sm.Channels.from_edges(np.cumsum([-100.0, *widths]).tolist())
    low, high = cuts[0], cuts[0] + cuts[1]
    share = (np.arange(2000) + 0.5) / 2000
    for (first, last), found in zip(channels.edges, channels.overlap(low, high), strict=True):
        velocity = first + share * (last - first)
        assert found == pytest.approx(np.mean((velocity > low) & (velocity < high)), abs=1.1e-3)


def test_overlap_with_all_velocities_is_everything_and_parts_add_up():
    channels = sm.Channels((-10.0, 0.0, 20.0), (10.0, 5.0, 30.0))
    assert channels.overlap(-np.inf, np.inf).tolist() == [1, 1, 1]
    parts = [channels.overlap(*cut) for cut in ((-100, -3), (-3, 11.5), (11.5, 100))]
    np.testing.assert_allclose(np.sum(parts, axis=0), 1, rtol=0, atol=1e-12)
    with pytest.raises(InputError, match="must be below"):
        channels.overlap(3, 3)
    with pytest.raises(InputError, match="must be below"):
        channels.overlap(np.nan, 3)


def test_limits_at_edges_leave_no_splinters_of_neighbours():
    channels = sm.Channels(tuple(0.1 * number for number in range(20)), (0.1,) * 20)
    assert channels.edges[7, 1] > 0.75  # by rounding
    assert np.flatnonzero(channels.overlap(0.75, 1.25)).tolist() == [8, 9, 10, 11, 12]
    for low in range(18):
        for high in range(low + 1, 19):
            found = channels.overlap(low / 10 + 0.05, high / 10 + 0.05)
            assert found.tolist() == [float(low < number <= high) for number in range(20)]
    assert channels.overlap(0.0, 0.051)[1] == pytest.approx(0.01)  # a real part of a channel stays


@pytest.mark.parametrize(
    ("velocity", "width", "words"),
    [
        ((), (), "no channels came"),
        ((0.0, 1.0), (1.0,), "2 velocities and 1 widths"),
        ((0.0, 1.0), (1.0, 0.0), "channel 1 came with a width of 0 km/s"),
        ((0.0, 1.0), (1.0, -1.0), "widths are positive"),
        ((0.0, np.nan), (1.0, 1.0), "`velocity` holds nan"),
        ((0.0, 1.0), (1.0, np.inf), "`width` holds inf"),
        ((1.0, 0.0), (0.5, 0.5), "ascending velocity"),
        ((1.0, 1.0), (0.5, 0.5), "channels 0 and 1 came at 1 and 1 km/s"),
        ((0.0, 1.0, 2.0), (1.0, 1.0, 1.5), r"channels 1 \(0.5 to 1.5 km/s\) and 2 .* overlap by 0.25 km/s"),
        (("a",), (1.0,), "one number a channel"),
        (3.0, (1.0,), "one number a channel"),
    ],
)
def test_what_is_no_channel_is_refused(velocity, width, words):
    with pytest.raises(InputError, match=words):
        sm.Channels(velocity, width)


@pytest.mark.parametrize("edges", [[1.0], [], [[1.0, 2.0, 3.0]], [[[1.0, 2.0]]], ["a", "b"], [1.0, [2.0, 3.0]]])
def test_what_are_no_edges_is_refused(edges):
    with pytest.raises(InputError, match="`edges`"):
        sm.Channels.from_edges(edges)


def test_rounding_is_no_overlap():
    width = 1.288245
    velocity = tuple(round(-90 + width * channel, 7) for channel in range(100))
    assert sm.Channels(velocity, (1.2882451,) * 100).count == 100
    with pytest.raises(InputError, match="rounded, give the edges"):
        sm.Channels(tuple(round(each, 2) for each in velocity), (1.29,) * 100)


def test_channels_round_trip_through_a_store_and_other_ones_are_refused(tmp_path):
    where = tmp_path / "sky.zarr"
    stores.create(where, 16, frame="galactic")
    assert stores.channels_of(where) is None
    channels = sm.Channels((-10.1, 0.0, 20.3), (10.0, 5.0, 30.0))
    stores.create_channels(where, channels)
    assert stores.channels_of(where) == channels
    stores.create_channels(where, channels)  # agrees
    with pytest.raises(InputError, match="3 channels, not 2 as asked for"):
        stores.create_channels(where, sm.Channels.from_edges([0, 1, 2]))
    with pytest.raises(InputError, match=r"channel 2 from 5.3 to 35.3 km/s, not 5 to 35 km/s"):
        stores.create_channels(where, sm.Channels((-10.1, 0.0, 20.0), (10.0, 5.0, 30.0)))
    assert stores.channels_of(where) == channels
    group = zarr.open_group(where, mode="r")
    for name, unit in (("velocity", "km / s"), ("channel_width", "km / s")):
        assert group[name].attrs["units"] == unit
        assert group[name].metadata.dimension_names == ("channel",)
    assert stores.infos(where) == {}  # they are no maps


def test_half_written_channels_are_none_and_are_written_again(tmp_path):
    where = tmp_path / "sky.zarr"
    stores.create(where, 16, frame="galactic")
    channels = sm.Channels.from_edges([0, 1, 2])
    stores.create_channels(where, channels)
    (where / "channel_width" / "c" / "0").unlink()
    assert stores.channels_of(where) is None
    stores.create_channels(where, channels)
    assert stores.channels_of(where) == channels


def test_difference_is_in_words():
    one = sm.Channels.from_edges([0, 1, 2])
    assert difference(one, sm.Channels.from_edges([0, 1, 2 + 1e-9])) is None
    assert "channel 1 from 1 to 2" in difference(one, sm.Channels.from_edges([0, 1, 2.1]))


@pytest.mark.parametrize("nside", [1, 64, 256, 1024, 4096, 16384])
@pytest.mark.parametrize("channels", [1, 4, 41, 64, 500])
def test_tiles_of_cubes_are_modest_and_never_larger_than_those_of_maps(nside, channels):
    tile_nside = cube_tile_nside(nside, channels)
    grid = Tiling(nside, tile_nside)
    assert tile_nside >= Tiling(nside).tile_nside
    assert grid.tile_npix <= max(4**8, 4**11 // channels)
    larger = 4 * grid.tile_npix
    assert tile_nside == Tiling(nside).tile_nside or larger > max(4**8, 4**11 // channels)
