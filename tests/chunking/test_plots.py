"""Pictures of the sky: what is drawn where, in which colour, with which labels."""

import healpy as hp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import AsinhNorm, BoundaryNorm, LogNorm
from matplotlib.figure import Figure
from skymill.chunking import plots, plots_colours, projections, sphere
from skymill.chunking.errors import InputError
from skymill.chunking.regions import Cone
from skymill.chunking.tiling import Tiling

GRID = Tiling(16)
LON, LAT = GRID.lonlat(np.arange(GRID.npix))


def shown(figure):
    """The image on the first axes, its values as an array with NaN where nothing is drawn."""
    return np.ma.filled(figure.axes[0].images[0].get_array().astype(float), np.nan)


def texts(drawn):
    """What is written on axes or on a figure."""
    return [text.get_text() for text in drawn.texts]


@settings(max_examples=50, deadline=None)
@given(st.floats(-179.9, 179.9), st.floats(-80, 80))
def test_mollweide_agrees_with_healpy(lon, lat):
    x, y = projections.mollweide_xy(lon, lat)
    theirs = hp.projector.MollweideProj().ang2xy(lon, lat, lonlat=True)
    np.testing.assert_allclose((x, y), theirs, atol=1e-3)  # healpy interpolates in a table


def test_mollweide_there_and_back():
    lon, lat, sky = projections.mollweide_lonlat(400)
    x, y = projections.mollweide_xy(lon[sky], lat[sky])
    rows, columns = np.nonzero(sky)
    np.testing.assert_allclose(x, (columns + 0.5) / 100 - 2, atol=1e-7)
    np.testing.assert_allclose(y, (rows + 0.5) / 100 - 1, atol=1e-7)
    assert sky.mean() == pytest.approx(np.pi / 4, rel=1e-3)
    assert lon[100, 0] > 175  # the left edge


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 360), st.floats(-89, 89), st.floats(0.1, 100))
def test_gnomonic_is_a_tangent_plane_seen_from_inside(lon, lat, size):
    sky = np.stack(projections.gnomonic_lonlat(lon, lat, size, 3))
    middle = sphere.lonlat_to_vector(*sky[:, 1, 1])
    np.testing.assert_allclose(middle, sphere.lonlat_to_vector(lon, lat), atol=1e-12)
    vectors = sphere.lonlat_to_vector(*sky)
    apart = np.degrees(np.arccos(np.clip(vectors @ middle, -1, 1)))
    side = np.degrees(np.arctan(2 / 3 * np.tan(np.radians(size / 2))))
    np.testing.assert_allclose(apart[[0, 1, 1, 2], [1, 0, 2, 1]], side, atol=1e-6)
    assert vectors[2, 1, 2] > vectors[0, 1, 2] or abs(lat) + size / 2 > 90  # north is up
    east = np.array([-np.sin(np.radians(lon)), np.cos(np.radians(lon)), 0])
    assert vectors[1, 0] @ east > 0 > vectors[1, 2] @ east  # east, larger longitudes, to the left


def test_the_whole_sky_is_where_it_belongs():
    values = np.where(np.abs(sphere.wrap(LON - 90) - 0) < 10, 5.0, 1.0) * (np.abs(LAT) < 30)
    image = shown(plots.mollweide(values, width=200))
    assert np.isnan(image[0, 0])
    bright = np.nonzero(image == 5.0)
    assert bright[1].mean() == pytest.approx(200 * (2 - 1.05) / 4, abs=4)  # longitude 95, left of the middle
    north = shown(plots.mollweide(LAT, width=200))
    assert north[90, 100] > 60
    assert north[10, 100] < -60


def test_missing_values_are_grey_and_limits_ignore_outliers():
    values = np.random.default_rng(0).normal(size=GRID.npix)
    values[7] = 1e9
    values[Cone(0.0, 0.0, 10.0).pixels(GRID)] = np.nan
    figure = plots.mollweide(values, width=400)
    image = figure.axes[0].images[0]
    assert np.isnan(shown(figure)[100, 200])
    assert image.norm.vmax < 5
    grey = image.cmap(np.ma.masked_all(1))[0]
    np.testing.assert_allclose(grey[0], grey[1:3], atol=1e-6)
    assert 0.6 < grey[0] < 0.85


def test_options_change_the_picture():
    values = np.abs(LAT) + 1.0
    plain = plots.mollweide(values, width=100)
    assert isinstance(plain, Figure)
    assert isinstance(plots.mollweide(values, width=100, stretch="log").axes[0].images[0].norm, LogNorm)
    assert isinstance(plots.mollweide(values, width=100, stretch="asinh").axes[0].images[0].norm, AsinhNorm)
    limited = plots.mollweide(values, width=100, vmin=2, vmax=3).axes[0].images[0]
    assert (limited.norm.vmin, limited.norm.vmax) == (2, 3)
    assert plots.mollweide(values, width=100, cmap="viridis").axes[0].images[0].cmap.name == "viridis"
    centred = plots.mollweide(LAT - 20, width=100, centre=0.0).axes[0].images[0]
    assert centred.norm.vmin == -centred.norm.vmax
    assert centred.cmap.name == "RdBu_r"
    assert len(plots.mollweide(values, width=100, graticule=False).axes[0].lines) == 0 < len(plain.axes[0].lines)
    assert shown(plots.mollweide(values, width=60)).shape == (30, 60)
    assert "Orion" in texts(plots.mollweide(values, width=100, title="Orion"))
    assert plots.mollweide(values, width=100, unit="MJy/sr").axes[1].get_xlabel() == "[MJy/sr]"
    assert "ICRS" in texts(plots.mollweide(values, width=100, frame="icrs"))


def test_what_is_not_positive_is_dark_not_grey_on_a_logarithmic_scale():
    values = np.where(LAT > 0, 10.0, -1.0)
    figure = plots.mollweide(values, width=100, stretch="log", vmin=1, vmax=100)
    image = shown(figure)
    assert image[10, 50] == 1.0
    assert np.isfinite(image[10:40, 50]).all()


@pytest.mark.parametrize("stretch", ["linear", "log", "asinh"])
@pytest.mark.parametrize("limits", [{"vmin": 50.0}, {"vmax": 0.01}, {"vmin": 1.0}])
def test_one_limit_beyond_all_values_still_makes_a_picture(stretch, limits):
    norm = plots.mollweide(np.linspace(2, 3, 12), stretch=stretch, width=50, **limits).axes[0].images[0].norm
    assert norm.vmin < norm.vmax
    assert getattr(norm, next(iter(limits))) == next(iter(limits.values()))


def test_codes_have_a_colour_each():
    codes = np.where(LAT > 30, 3, 0).astype(np.uint8)
    figure = plots.mollweide(codes, width=100)
    image = figure.axes[0].images[0]
    assert isinstance(image.norm, BoundaryNorm)
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == ["0", "3"]
    assert len(set(map(tuple, image.cmap(image.norm(np.array([0, 3])))))) == 2
    named = plots.mollweide(codes, width=100, names={0: "none", 3: "plane"})
    assert [t.get_text() for t in named.axes[1].get_xticklabels()] == ["none", "plane"]
    many = np.arange(GRID.npix).astype(np.uint8)
    assert not isinstance(plots.mollweide(many, width=100).axes[0].images[0].norm, BoundaryNorm)


@pytest.mark.parametrize(
    "values", [np.full(12, np.nan), np.zeros(12), np.full(12, 7.0), np.full(12, -2.0), np.zeros(12, np.uint8)]
)
@pytest.mark.parametrize("stretch", ["linear", "log", "asinh"])
def test_empty_and_constant_maps_can_be_drawn(values, stretch, tmp_path):
    plots.mollweide(values, stretch=stretch, width=50).savefig(tmp_path / "sky.png", dpi=40)
    plots.gnomonic(values[:9].reshape(3, 3), 0.0, 0.0, 5.0, stretch=stretch).savefig(tmp_path / "part.png", dpi=40)
    assert (tmp_path / "part.png").stat().st_size > 1000


def test_stretched_colour_bars_have_round_ticks_that_do_not_touch():
    for norm in (LogNorm(3, 600), LogNorm(0.02, 0.03), AsinhNorm(5, vmin=-300, vmax=300), LogNorm(1e-9, 1e9)):
        ticks = plots_colours.ticks(norm)
        assert len(ticks) >= 1 if norm.vmin == 0.02 else len(ticks) >= 3
        assert np.diff([float(norm(tick)) for tick in ticks]).min(initial=1) > 0.07
    assert 0.0 in plots_colours.ticks(AsinhNorm(5, vmin=-300, vmax=300))
    assert [plots_colours.number(v) for v in (0, 20.0, 1e-5, 3e6, -0.5)] == [
        "0", "20", "$10^{-5}$", r"$3\times10^{6}$", "\N{MINUS SIGN}0.5",
    ]  # fmt: skip


@pytest.mark.parametrize(("lon", "lat", "size"), [(209.0, -19.4, 10.0), (1.0, 40.0, 30.0), (83.0, 0.0, 0.5)])
def test_the_edges_of_a_part_carry_its_coordinates(lon, lat, size):
    image = np.zeros((50, 50)) + np.arange(50)
    axes = plots.gnomonic(image, lon, lat, size, frame="icrs", title="part").axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("RA [deg]", "Dec [deg]", "part")
    for axis, places in ((axes.xaxis, axes.get_xticks()), (axes.yaxis, axes.get_yticks())):
        assert len(places) >= 3
        written = [float(t.get_text().replace("\N{MINUS SIGN}", "-")) for t in axis.get_ticklabels()]
        for place, number in zip(places, written, strict=True):
            there = (place, -1.0) if axis is axes.xaxis else (-1.0, place)
            real = projections.gnomonic_inverse(lon, lat, size, *there)[0 if axis is axes.xaxis else 1]
            assert abs((float(real) - number + 180) % 360 - 180) < 1e-3 * size
    assert len(axes.lines) > 3
    assert not plots.gnomonic(image, lon, lat, size, graticule=False).axes[0].lines


def test_lines_of_the_graticule_lie_on_the_sky():
    lines = projections.gnomonic_lines(50.0, 70.0, 10.0, (2.0, 5.0))
    for x, y in lines:
        seen = np.isfinite(x) & (np.abs(x) < 1) & (np.abs(y) < 1)
        lon, lat = projections.gnomonic_inverse(50.0, 70.0, 10.0, x[seen], y[seen])
        if seen.any():
            assert min(np.ptp(lon), np.ptp(lat)) < 1e-9


@pytest.mark.parametrize("lat", [88.0, -88.0])
def test_around_a_pole_the_lines_carry_their_labels(lat):
    axes = plots.gnomonic(np.zeros((20, 20)), 10.0, lat, 20.0).axes[0]
    assert len(axes.get_xticks()) == 0
    written = texts(axes)
    assert any(text.startswith("\N{MINUS SIGN}8" if lat < 0 else "8") for text in written)
    assert "120°" in written


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plots.mollweide(np.zeros(100)), ["(100,)", "12 nside**2"]),
        (lambda: plots.mollweide(np.zeros(12 * 9)), ["power of two"]),
        (lambda: plots.mollweide(np.zeros(0)), ["(0,)"]),
        (lambda: plots.mollweide(np.zeros(12), width=1), ["width", "1"]),
        (lambda: plots.mollweide(np.zeros(12), stretch="sqrt"), ["sqrt", "asinh", "linear", "log"]),
        (lambda: plots.mollweide(np.zeros(12), cmap="infreno"), ["infreno", "inferno"]),
        (lambda: plots.mollweide(np.ones(12), vmin=2, vmax=1), ["vmin", "2", "1"]),
        (lambda: plots.mollweide(np.ones(12), vmin=-1, stretch="log"), ["vmin", "-1", "asinh"]),
        (lambda: plots.mollweide(np.ones(12), vmax=0, stretch="log"), ["vmax", "0", "asinh"]),
        (lambda: plots.mollweide(np.ones(12), centre=0.0, stretch="log"), ["centre", "asinh"]),
        (lambda: plots.gnomonic(np.zeros((3, 4)), 0, 0, 1), ["(3, 4)", "square"]),
        (lambda: plots.gnomonic(np.zeros((3, 3)), 0, 0, 180), ["size", "180"]),
        (lambda: projections.gnomonic_lonlat(0, 0, 1, 0), ["pixels", "0"]),
    ],
)
def test_bad_input_names_what_came_and_what_is_expected(call, words):
    with pytest.raises(InputError) as error:
        call()
    for word in words:
        assert word in str(error.value)
