"""Pictures of residuals: where pixels of the caps lie, and that figures show what they are given."""

from __future__ import annotations

import gasskies as sky
import healpy as hp
import numpy as np
import pytest
import skymill as sm
import xarray as xr
from skymill.chunking.errors import InputError, MissingMapError
from skymill.engine import figures_residual as figures
from skymill.engine.band_frequencies import frequency_in, frequency_of
from skymill.engine.cap_images import cap_image, cap_lonlat, cap_xy
from skymill.engine.diagnose_pass import FRACTION_SCALE, Frame
from skymill.engine.figures import save
from skymill.engine.figures_caps import caps_figure
from skymill.engine.gas_model import gas_models
from skymill.engine.histograms import Histogram
from skymill.engine.named_regions import areas_of
from skymill.models.fingerprints import CAUSES, fingerprints


@pytest.mark.parametrize("cap", ["north", "south"])
def test_places_in_a_cap_come_back(cap):
    lon, lat = cap_lonlat(cap, 51)
    sky_ = np.isfinite(lat)
    x, y = cap_xy(cap, lon[sky_], lat[sky_])
    axis = (np.arange(51) + 0.5) / 51 * 2 - 1
    wanted_x, wanted_y = np.meshgrid(axis, axis)
    np.testing.assert_allclose(x, wanted_x[sky_], atol=1e-9)
    np.testing.assert_allclose(y, wanted_y[sky_], atol=1e-9)


@pytest.mark.parametrize("cap", ["north", "south"])
def test_areas_are_true(cap):
    """Every pixel of a picture is as much sky: means over latitude bands are those of the sphere."""
    _, lat = cap_lonlat(cap, 801)
    share = (np.abs(lat[np.isfinite(lat)]) > 60).mean()
    assert share == pytest.approx(1 - np.sin(np.radians(60)), rel=5e-3)


def test_seen_from_inside():
    """Longitude 90 is on the left; that of 0 below the northern pole and above the southern one."""
    for cap, low in (("north", -1), ("south", 1)):
        b = np.array([0.0])
        assert cap_xy(cap, np.array([90.0]), b)[0][0] == pytest.approx(-1)
        assert cap_xy(cap, np.array([0.0]), b)[1][0] == pytest.approx(low)
    assert np.isnan(cap_xy("north", np.array([10.0]), np.array([-5.0]))[0][0])


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    maps = sky.sky_maps(kelvin=0.5 * sky.patchy(1))
    maps["mask"] = (sky.latitudes() > 30).astype(np.uint8)
    weight = np.where(sky.latitudes() > 30, 0.5, 0.0)
    maps["weight_cap"] = weight
    maps["mask_cap"] = (sky.latitudes() <= 30).astype(np.uint8)
    return sky.put_sky(tmp_path_factory.mktemp("caps") / "sky.zarr", maps, {"weight_cap": "1"})


@pytest.mark.parametrize("mask", ["mask", "weight_cap", "mask_cap"])
def test_an_image_has_the_values_of_its_pixels(where, mask):
    models = gas_models(where, "i857", areas_of(where, mask, "l < 180"), fit=sky.known_fit())
    image = cap_image(where, models, "north", 60)
    lon, lat = cap_lonlat("north", 60)
    inside = np.isfinite(lat)
    pixels = hp.ang2pix(sky.NSIDE, lon[inside], lat[inside], nest=True, lonlat=True)
    centre_lon, centre_lat = hp.pix2ang(sky.NSIDE, pixels, nest=True, lonlat=True)
    wanted = np.where(
        (centre_lat > 30) & (centre_lon < 180), sky.get(where, "i857")[pixels] - sky.OFFSETS["i857"], np.nan
    )
    np.testing.assert_allclose(image.observed[inside], wanted)
    gas = sky.emissivity("i857") * sky.get(where, "nhi")[pixels]
    np.testing.assert_allclose(image.modelled[inside], np.where(np.isnan(wanted), np.nan, gas))
    assert np.isnan(cap_image(where, models, "south", 30).observed).all()


def test_caps_with_values_are_drawn_with_their_circles(tmp_path):
    image = np.where(np.isfinite(cap_lonlat("north", 40)[1]), 1.0, np.nan)
    circles = {"A": (10.0, 60.0, 8.0), "S": (10.0, -60.0, 8.0)}
    figure = caps_figure({"north": image, "south": image}, title="T", unit="K", circles=circles)
    north, south, bar = figure.axes
    assert "A" in [text.get_text() for text in north.texts]
    assert "S" not in [text.get_text() for text in north.texts]
    assert "S" in [text.get_text() for text in south.texts]
    assert bar.get_xlabel() == "T [K]"
    only = caps_figure({"north": image, "south": np.full((40, 40), np.nan)}, title="T", unit="", centre=0.0)
    assert len(only.axes) == 2
    assert only.axes[1].get_xlabel() == "T"
    save(only, tmp_path / "caps.png")
    assert (tmp_path / "caps.png").stat().st_size > 1000


def test_circles_end_at_the_rim_of_a_cap():
    image = np.where(np.abs(cap_lonlat("north", 40)[1]) > 40, 1.0, np.nan)
    figure = caps_figure({"north": image}, title="T", unit="K", circles={"A": (100.0, 42.0, 8.0)})
    axes = figure.axes[0]
    circle = next(line for line in axes.lines if line.get_zorder() == 6)
    rim = circle.get_clip_path()
    assert rim is not None
    figure.canvas.draw()
    outline = rim.get_fully_transformed_path().vertices
    centre = axes.transData.transform((0.0, 0.0))
    radius = axes.transData.transform((1.0, 0.0))[0] - centre[0]
    reach = np.hypot(*(outline - centre).T) / radius
    np.testing.assert_allclose(reach.min(), np.sqrt(2) * np.sin(np.radians(25)), rtol=2e-3)


def test_no_name_without_its_circle_and_none_beyond_the_picture():
    image = np.where(np.abs(cap_lonlat("north", 40)[1]) > 15, 1.0, np.nan)
    circles = {"plane": (200.0, 3.0, 9.0), "top": (180.0, 22.0, 15.0)}
    north, south = caps_figure({"north": image, "south": image}, title="T", unit="K", circles=circles).axes[:2]
    names = {text.get_text(): text for text in north.texts}
    # Beyond the rim at 10 degrees the south shows nothing of a circle around the plane.
    assert {"plane", "top"} <= set(names)
    assert not {"plane", "top"} & {text.get_text() for text in south.texts}
    for name in circles:
        x, y = names[name].get_position()
        assert np.hypot(x, y) < north.get_ylim()[1]
        assert names[name].get_va() == "top"


def test_the_reach_and_the_centre_set_the_colours():
    image = np.linspace(-1, 3, 400).reshape(20, 20)
    plain, wide = (
        caps_figure({"north": image}, title="", unit="", centre=c, reach=r) for c, r in ((0.0, None), (1.0, 5.0))
    )
    limits = [each.axes[0].images[0].get_clim() for each in (plain, wide)]
    assert limits[0][0] == -limits[0][1]
    assert limits[1] == (-4.0, 6.0)


def test_nothing_to_see_is_still_a_picture():
    assert caps_figure({"north": np.full((8, 8), np.nan)}, title="T", unit="K").axes


def test_distributions_by_region():
    random = np.random.default_rng(0)
    parts = {name: Histogram.of(FRACTION_SCALE, random.normal(0, 0.1, 5000)) for name in ("NGC", "SGC")}
    figure = figures.distribution_figure(
        {**parts, "none": Histogram(FRACTION_SCALE)}, label="r", unit="%", factor=100.0
    )
    above, below = figure.axes
    assert [text.get_text() for text in below.get_yticklabels()] == ["NGC", "SGC"]
    assert below.get_xlabel() == "r [%]"
    medians = [line.get_xdata()[0] for line in below.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(medians, [100 * part.quantile(0.5) for part in parts.values()])
    assert len(above.get_legend().get_texts()) == 2
    assert figures.distribution_figure({"none": Histogram(FRACTION_SCALE)}, label="r", unit="%") is None


def test_many_distributions_have_no_legend_over_them():
    random = np.random.default_rng(0)
    parts = {str(n): Histogram.of(FRACTION_SCALE, random.normal(0, 0.1, 500)) for n in range(9)}
    above, below = figures.distribution_figure(parts, label="r", unit="%").axes
    assert above.get_legend() is None
    assert [text.get_text() for text in below.get_yticklabels()] == [f"{n} (500)" for n in range(9)]
    looks = [(patch.get_edgecolor(), patch.get_linestyle()) for patch in above.patches]
    assert len(set(map(str, looks))) == 9  # there are eight colours


def slopes_table(slope=(0.37, 0.0)):
    expected = np.array([[each.slope] for each in fingerprints()])
    return xr.Dataset(
        {
            "slope": (("region", "residual"), np.array(slope)[:, np.newaxis]),
            "error": (("region", "residual"), np.full((2, 1), 0.01)),
            "expected": (("region", "cause", "residual"), np.stack([expected, expected])),
            "verdict": (("region",), ["temperature", "dust-to-gas"]),
            "consistent": (("region",), ["temperature", "dust-to-gas"]),
        },
        coords={"region": ["NGC", "SGC"], "residual": ["i353 -> i857"], "cause": list(CAUSES)},
    )


def test_slopes_are_drawn_with_those_of_the_causes():
    random = np.random.default_rng(0)
    frame = Frame.around((0.0, 0.0), (1.0, 1.0))
    table = frame.counts(*random.normal(size=(2, 5000)))
    assert table.sum() > 4990
    figure = figures.slopes_figure(
        {"NGC": table, "SGC": table},
        {"NGC": frame, "SGC": frame},
        slopes_table(),
        high="i857",
        low="i353",
        unit="MJy/sr",
    )
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "temperature: +0.37" in texts
    assert "measured: +0.370 ± 0.010" in texts
    assert figure.axes[1].get_title("left") == "SGC"
    line = next(line for line in figure.axes[0].lines if str(line.get_label()).startswith("measured"))
    assert line.get_ydata()[1] / line.get_xdata()[1] == pytest.approx(0.37)


def test_single_pixels_are_seen():
    frame = Frame.around((0.0, 0.0), (1.0, 1.0))
    table = frame.counts(np.array([0.5, -0.5, -0.5]), np.array([0.5, -0.5, -0.5]))
    figure = figures.slopes_figure(
        {"NGC": table}, {"NGC": frame}, slopes_table(), high="i857", low="i353", unit="MJy/sr"
    )
    mesh = figure.axes[0].collections[0]
    one, two = (float(mesh.to_rgba(float(count))[0]) for count in (1, 2))
    assert two < one < 0.85


def test_many_regions_stand_in_rows():
    frame = Frame.around((0.0, 0.0), (1.0, 1.0))
    names = [str(n) for n in range(7)]
    one = slopes_table().isel(region=[0])
    found = xr.concat([one.assign_coords(region=[name]) for name in names], "region")
    tables, frames = dict.fromkeys(names, frame.counts(np.zeros(9), np.zeros(9))), dict.fromkeys(names, frame)
    polarised = xr.Dataset(
        {key: (("region",), np.full(7, -0.5)) for key in ("slope", "error", "correlation", "fraction")},
        coords={"region": names},
    )
    for figure in (
        figures.slopes_figure(tables, frames, found, high="i857", low="i353", unit="MJy/sr"),
        figures.polarization_figure(tables, frames, polarised),
    ):
        width, height = figure.get_size_inches()
        assert width < 14
        assert height > 12
        shown = [axes for axes in figure.axes if axes.axison]
        assert [axes.get_title("left") for axes in shown] == names
        assert [bool(axes.get_ylabel()) for axes in shown] == [True, False, False] * 2 + [True]


def test_legends_of_many_profiles_stand_below_the_panels():
    regions = [f"a region with a name {n}" for n in range(8)]
    shape = {"region": 8, "against": 1, "bin": 3}
    bins = {key: (tuple(shape), np.full(tuple(shape.values()), 1.0)) for key in ("x", "mean", "error", "median")}
    maps = {key: (("region", "against"), np.full((8, 1), np.nan)) for key in ("pearson", "expected_slope")}
    found = xr.Dataset({**bins, **maps}, coords={"region": regions, "against": ["nhi"]})
    for chosen, outside in ((regions, True), (regions[:2], False)):
        figure = figures.profiles_figure(found.sel(region=chosen), label="r", unit="MJy/sr", units={})
        figure.canvas.draw()
        axes = figure.axes[0]
        legend, panel = axes.get_legend().get_window_extent(), axes.get_window_extent()
        assert (legend.y1 < panel.y0) == outside
        assert panel.height > 150
        assert legend.x0 >= 0
        assert legend.x1 <= figure.bbox.x1
        assert legend.y0 >= 0


def test_causes_that_cannot_be_told_apart_are_not_named():
    found = slopes_table().assign(consistent=(("region",), ["temperature", "dust-to-gas, temperature-beta"]))
    labels = [text.get_text() for text in figures.fingerprint_figure(found).axes[0].get_yticklabels()]
    assert labels == ["NGC: temperature", "SGC: 2 causes fit"]


def test_regions_without_a_slope_are_left_out_of_fingerprints():
    figure = figures.fingerprint_figure(slopes_table((0.37, np.nan)))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["NGC: temperature"]


def test_signs_and_units_are_typeset():
    assert figures.signed(-0.146, 2) == "\N{MINUS SIGN}0.15"
    assert figures.signed(-1e-9, 3) == "0.000"
    assert figures.written("MJy^2/sr^2") == "MJy$^{2}$/sr$^{2}$"


def test_frequencies_of_names_and_bands(where):
    assert [frequency_in(name) for name in ("i353", "545", "850um", "857GHz", "i217")] == [353, 545, 353, 857, 217]
    assert frequency_in("nhi") is None
    assert frequency_of(where, "i857") == 857
    assert frequency_of(where, "nhi", 100.0) == 100
    with pytest.raises(InputError, match="`frequency` in GHz"):
        frequency_of(where, "nhi")
    with pytest.raises(InputError, match="positive frequency"):
        frequency_of(where, "i857", float("inf"))
    with pytest.raises(MissingMapError):
        frequency_of(where, "i545")


def test_models_of_overlapping_regions_and_of_maps(where):
    areas = areas_of(where, None, {"a": "b > 0", "b": ["b > -10", sm.Cone(0.0, 0.0, 90.0)]})
    models = gas_models(where, "i857", areas, fit=sky.known_fit())
    assert [model.region for model in models] == ["a", "b"]
    assert models[0].facts()["coefficients"] == {"nhi": pytest.approx(sky.emissivity("i857"))}
    with pytest.raises(InputError, match="a superpixel"):
        gas_models(where, "i857", areas, fit=sky.known_fit().expand_dims(superpixel=2))
    with pytest.raises(InputError, match="in one unit"):
        gas_models(where, "i857", areas, fit=None, model="nhi", offset=0.0)
    with pytest.raises(InputError, match="finite number"):
        gas_models(where, "i857", areas, fit=None, model="i353", offset=float("inf"))
    with pytest.raises(InputError, match="int came"):
        gas_models(where, "i857", areas, fit=3)
