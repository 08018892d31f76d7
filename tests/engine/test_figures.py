"""Figures: structure and content of what is drawn; the page writer."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking import store as stores
from skymill.chunking.errors import InputError
from skymill.engine import figures
from skymill.engine.figures_ratio import ratio_figure
from skymill.engine.figures_region import View, region_figure
from skymill.engine.metrics import measure_pair, measure_ratio
from skymill.engine.report import Page, make_directory, number, percent, plain


def statistics(number=20_000, scatter=0.05, seed=0):
    rng = np.random.default_rng(seed)
    target = 10 ** rng.normal(0, 0.5, number)
    return measure_pair(target * (1 + rng.normal(0, scatter, number)), target)


def pixels(figure, tmp_path):
    from matplotlib.image import imread

    figures.save(figure, tmp_path / "figure.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["figure.png"]
    return imread(tmp_path / "figure.png")[..., :3]


def test_contours_enclose_the_fractions_they_state():
    rng = np.random.default_rng(1)
    table = np.histogram2d(*rng.normal(size=(2, 200_000)), bins=80, range=[[-4, 4]] * 2)[0]
    levels = figures.enclosing_levels(table)
    for fraction, level in zip(figures.CONTOURS, levels, strict=True):
        inside = table[table >= level].sum() / table.sum()
        assert fraction <= inside < fraction + 0.01
    # A Gaussian's contour of the fraction f has the height 1 - f of its peak.
    np.testing.assert_allclose(levels / 320, 1 - np.array(figures.CONTOURS), atol=0.1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=4, max_size=40).filter(any), st.floats(0.01, 0.99))
def test_enclosing_level_is_the_highest_that_encloses_enough(counts, fraction):
    table = np.array(counts, float)[None]
    level = figures.enclosing_levels(table, [fraction])[0]
    assert table[table >= level].sum() >= fraction * table.sum() * (1 - 1e-9)
    assert table[table > level].sum() < fraction * table.sum()


def test_density_figure_draws_both_panels(tmp_path):
    figure = figures.density_figure(statistics(), label="850um", unit="MJy/sr")
    above, below = figure.axes[:2]
    assert above.get_xscale() == above.get_yscale() == "log"
    assert "MJy/sr" in above.get_ylabel()
    assert "MJy/sr" in below.get_xlabel()
    assert "20,000 pixels" in above.texts[0].get_text()
    image = pixels(figure, tmp_path)
    assert image.shape[0] > image.shape[1] > 600
    assert image.std() > 0.05


def test_error_figure_states_fit_and_width(tmp_path):
    figure = figures.error_figure(statistics(), label="850um")
    text = figure.axes[0].texts[0].get_text()
    assert "Gaussian: centre" in text
    assert "central 95 %" in text
    assert figure.axes[1].get_yscale() == "log"
    assert pixels(figure, tmp_path).std() > 0.05


@pytest.mark.parametrize("size", [1, 3, 60])
def test_few_pixels_still_make_figures(size, tmp_path):
    few = statistics(size)
    pixels(figures.density_figure(few, label="x", unit="1"), tmp_path)
    text = figures.error_figure(few, label="x").axes[0].texts[0].get_text()
    assert ("too few" in text) == (size < 50)


def test_a_perfect_prediction_and_wild_outliers_make_figures(tmp_path):
    target = 10 ** np.random.default_rng(0).normal(0, 1, 1000)
    pixels(figures.error_figure(measure_pair(target, target), label="x"), tmp_path)
    pixels(figures.density_figure(measure_pair(target, target), label="x", unit="1"), tmp_path)
    wild = target.copy()
    wild[:5] *= [1e12, 1e-12, 1e6, -3, -1e9]
    figure = figures.error_figure(measure_pair(wild, target), label="x")
    assert abs(figure.axes[0].get_xlim()[1]) < 1000
    pixels(figures.density_figure(measure_pair(wild, target), label="x", unit="1"), tmp_path)


def test_survey_figures_leave_out_the_empty(tmp_path):
    groups = {"one": statistics(500), "two": statistics(700, seed=1), "empty": measure_pair(np.ones(2), np.ones(2))}
    figure = figures.density_panels_figure(groups, label="850um", unit="MJy/sr")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two"]
    pixels(figure, tmp_path)
    figure = figures.error_by_survey_figure(groups, label="850um")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["one (500)", "two (700)"]
    only = {"empty": groups["empty"]}
    assert figures.density_panels_figure(only, label="x", unit="1") is None
    assert figures.error_by_survey_figure(only, label="x") is None


def test_ratio_figure_has_a_panel_a_survey(tmp_path):
    rng = np.random.default_rng(0)

    def ratio(centre):
        return measure_ratio(rng.normal(centre, 0.1, 2000), np.ones(2000))

    kinds = {"target": {"a": ratio(4.2), "b": ratio(4.0)}, "prediction": {"a": ratio(4.25)}}
    figure = ratio_figure(kinds, label="850um / 1380um")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["a", "b"]
    low, high = figure.axes[0].get_xlim()
    assert low < 4.1 < 4.35 < high
    assert "prediction" in figure.axes[0].texts[0].get_text()
    assert "prediction" not in figure.axes[1].texts[0].get_text()
    pixels(figure, tmp_path)
    assert ratio_figure({"target": {"a": measure_ratio(np.ones(3), np.ones(3))}}, label="x") is None


@pytest.mark.parametrize("with_fine", [False, True])
def test_region_figure_shows_error_in_percent(with_fine, tmp_path):
    rng = np.random.default_rng(0)
    target = (10 ** rng.normal(0, 1, (30, 30))).astype(np.float32)
    target[:5] = np.nan
    fine = np.ones((60, 60), np.float32) if with_fine else None
    view = View("Somewhere", 10.0, 20.0, 4.0, "galactic")
    figure = region_figure(view, target, target * np.float32(1.1), fine, label="850um", unit="MJy/sr")
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == (4 if with_fine else 3)
    error = panels[2].images[0]
    np.testing.assert_allclose(error.get_array().compressed(), 10.0, rtol=1e-4)
    assert error.get_array().mask[:5].all()
    assert error.norm.vmax == pytest.approx(10.0, rel=1e-4)
    assert panels[0].images[0].norm is panels[1].images[0].norm
    assert panels[0].get_xlim() == (2.0, -2.0)  # east is left
    assert "(l, b) = (10.00, 20.00)" in figure.get_suptitle()
    assert pixels(figure, tmp_path).std() > 0.05


def test_the_error_scale_of_a_region_ends_at_the_limit():
    target = np.ones((4, 4), np.float32)
    view = View("x", 0.0, 0.0, 1.0, "icrs")
    for limit, end in ((0.2, 20.0), (0.9, 50.0)):
        figure = region_figure(view, target, target * 1.5, None, label="x", unit="1", limit=limit)
        assert [axes for axes in figure.axes if axes.images][2].images[0].norm.vmax == pytest.approx(end)


def test_a_region_without_any_value_makes_a_figure(tmp_path):
    nothing = np.full((8, 8), np.nan, np.float32)
    view = View("Void", 0.0, 0.0, 1.0, "icrs")
    pixels(region_figure(view, nothing, nothing, nothing, label="x", unit="1"), tmp_path)


def test_figures_leave_the_global_state_of_matplotlib_alone():
    figures.error_figure(statistics(100), label="x")
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_page_escapes_everything():
    page = Page('<script>"x"', "a & b")
    page.heading("<b>")
    page.heading("<i>", 3)
    page.paragraph("<p>")
    page.table(["<th>"], [["<td>"], ["pass"], ["fail"]])
    page.figure('a"b <c>.png', "<caption>", 300)
    html = page.html()
    for text in ("<script", "<b>", "<i>", "<p><p>", "<td><td>", "<caption>", 'a"b'):
        assert text not in html
    for text in ("&lt;script&gt;", "&lt;b&gt;", "a%22b%20%3Cc%3E.png", 'class="pass"', 'class="fail"', 'width="300"'):
        assert text in html


def test_numbers_for_people():
    assert number(None) == number(float("inf")) == percent(float("nan")) == "–"
    assert percent(-0.01234, 1) == "-1.2 %"
    assert plain([float("inf"), {"a": (1.0, None)}]) == [None, {"a": [1.0, None]}]


def test_a_folder_is_made_or_refused(tmp_path):
    assert make_directory(tmp_path / "a" / "b").is_dir()
    stores.create(tmp_path / "sky.zarr", 1, frame="galactic")
    with pytest.raises(InputError, match=r"inside .*sky.zarr, a store of maps; give a folder beside it"):
        make_directory(tmp_path / "sky.zarr" / "report")
    assert not (tmp_path / "sky.zarr" / "report").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="out_dir"):
        make_directory(tmp_path / "file")
