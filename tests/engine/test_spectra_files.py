"""The folder that spectra leave: what is written comes back, whole or not at all, and only for the same run."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from skymill.chunking.errors import FormatError, IdentityError, InputError
from skymill.engine import spectra_files
from skymill.engine.binning import Bins
from skymill.engine.figures_spectra import ratio_figure, spectra_figure
from skymill.engine.realisations import Scatter
from skymill.engine.spectra_files import read, read_finished, write
from skymill.engine.spectra_result import assemble, with_scatter
from skymill.engine.spectrum_estimator import Estimator, SpectrumMap

LMAX = 40
PAIRS = [("a", "a"), ("a", "<k>"), ("<k>", "<k>")]
FACTS = {"verb": "spectra", "lmax": LMAX, "inputs": {"a": "1f"}, "bins": (2, 10)}


def result(
    *, binned: bool = True, errors: str | None = "knox", simulations: int = 0, lmax: int = LMAX, seed: int = 0
) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    maps = rng.standard_normal((2, lmax + 1, 60))
    pseudo = {
        ("a", "a"): np.mean(maps[0] ** 2, axis=1),
        ("<k>", "<k>"): np.mean(maps[1] ** 2, axis=1),
        ("a", "<k>"): np.mean(maps[0] * maps[1], axis=1),
        ("h", "h"): np.full(lmax + 1, 1.2),
        ("g", "g"): np.full(lmax + 1, 1.1),
        ("h", "g"): np.full(lmax + 1, 0.9),
    }
    bins = Bins.linear(lmax, 6) if binned else None
    estimator = Estimator({"a": SpectrumMap("K_CMB"), "<k>": SpectrumMap("1")}, lmax, bins)
    found = assemble(PAIRS, pseudo, estimator, errors=errors, window=binned, splits={"a": ("h", "g")}, source="sky")
    if simulations:
        size = found["cl"].shape
        covariance = np.ones((*size, size[1])) if binned else None
        found = with_scatter(found, Scatter(simulations, np.ones(size), 0.9 * found["error"].values, covariance))
    return found


@pytest.mark.parametrize("binned", [True, False])
@pytest.mark.parametrize("simulations", [0, 30])
def test_what_is_written_comes_back(tmp_path: Path, binned: bool, simulations: int) -> None:
    found = result(binned=binned, simulations=simulations)
    folder = write(found, tmp_path / "out", FACTS, title="A < B")
    xr.testing.assert_identical(read(folder), found)
    there = read_finished(folder, FACTS)
    assert there is not None
    xr.testing.assert_identical(there, found)
    with xr.open_zarr(folder / "spectra.zarr", consolidated=False) as opened:
        np.testing.assert_array_equal(opened["cl"], found["cl"])
        assert opened["pair"].values.tolist() == ["a x a", "a x <k>", "<k> x <k>"]
    names = {path.name for path in folder.iterdir()}
    expected = {"spectra.zarr", "spectra.csv", "spectra.png", "index.html", "report.json"}
    assert names == (expected | {"error_ratio.png"} if simulations else expected)


def test_the_table_holds_every_digit(tmp_path: Path) -> None:
    found = result()
    folder = write(found, tmp_path / "out", FACTS)
    with (folder / "spectra.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == found["cl"].size
    assert [row["pair"] for row in rows[:: found.sizes["bin"]]] == found["pair"].values.tolist()
    for name in ("cl", "error", "pseudo_cl", "null_error"):
        assert [float(row[name]) for row in rows] == found[name].values.ravel().tolist()
    assert [(int(row["ell_start"]), int(row["ell_stop"])) for row in rows[:2]] == [(2, 8), (8, 14)]
    assert float(rows[0]["noise"]) == found["noise"].values[0, 0]
    assert rows[-1]["noise"] == ""  # none of a pair of two maps, or without halves


def test_report_and_page_tell_the_numbers(tmp_path: Path) -> None:
    found = result(simulations=30)
    found.attrs["run"] = json.dumps({"wall": 3})
    folder = write(found, tmp_path / "out", FACTS, title="A < B")
    report = json.loads((folder / "report.json").read_text())
    assert report["facts"] == json.loads(json.dumps(FACTS))
    assert report["pairs"][1]["p_value"] == float(found["p_value"][1])
    assert report["pairs"][0]["p_value"] is None
    assert report["attributes"]["run"] == {"wall": 3}
    assert report["figures"] == ["spectra.png", "error_ratio.png"]
    page = (folder / "index.html").read_text()
    assert "A &lt; B" in page
    assert "a x &lt;k&gt;" in page
    assert "<k>" not in page
    assert all(f'src="{name}"' in page for name in report["figures"])
    assert f"{float(found['p_value'][1]):.4g}" in page


def test_long_tables_are_cut_on_the_page_alone(tmp_path: Path) -> None:
    found = result(binned=False, lmax=100)
    folder = write(found, tmp_path / "out", FACTS)
    assert "The first 60 of 101; all are in spectra.csv." in (folder / "index.html").read_text()
    assert len((folder / "spectra.csv").read_text().splitlines()) == 1 + 3 * 101


def test_theory_is_drawn(tmp_path: Path) -> None:
    found = result()
    bare = write(found, tmp_path / "one", FACTS) / "spectra.png"
    with_theory = write(found, tmp_path / "two", FACTS, theory={"a x a": np.ones(LMAX + 1)}) / "spectra.png"
    assert bare.read_bytes() != with_theory.read_bytes()


def test_nothing_is_finished_where_nothing_is(tmp_path: Path) -> None:
    assert read_finished(tmp_path / "out", FACTS) is None
    (tmp_path / "out").mkdir()
    assert read_finished(tmp_path / "out", FACTS) is None


def test_another_run_is_refused_unless_it_may_be_replaced(tmp_path: Path) -> None:
    folder = write(result(), tmp_path / "out", FACTS)
    other = {**FACTS, "lmax": 41, "seed": 3}
    with pytest.raises(IdentityError, match="another run \\(other lmax, seed\\)"):
        read_finished(folder, other)
    assert read_finished(folder, other, overwrite=True) is None
    write(result(seed=1), folder, other)
    there = read_finished(folder, other)
    assert there is not None
    assert not np.allclose(there["cl"], result()["cl"])


@pytest.mark.parametrize("step", ["to_zarr", "table", "save", "_page"])
def test_a_run_that_stops_while_writing_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = write(result(seed=1), tmp_path / "out", FACTS)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(xr.Dataset if step == "to_zarr" else spectra_files, step, stop)
        with pytest.raises(KeyboardInterrupt):
            write(result(), folder, FACTS)
    assert read_finished(folder, FACTS) is None
    write(result(), folder, FACTS)
    there = read_finished(folder, FACTS)
    assert there is not None
    xr.testing.assert_identical(there, result())
    assert not list(folder.rglob("*.partial"))


def test_figures_of_a_run_before_do_not_stay(tmp_path: Path) -> None:
    write(result(simulations=30), tmp_path, FACTS)
    write(result(), tmp_path, FACTS)
    assert not (tmp_path / "error_ratio.png").exists()


def test_what_is_damaged_or_not_ours_is_told(tmp_path: Path) -> None:
    (tmp_path / "spectra.zarr").mkdir()
    (tmp_path / "spectra.zarr" / "precious.txt").write_text("mine")
    with pytest.raises(FormatError, match="no result of spectra"):
        read_finished(tmp_path, FACTS)
    assert read_finished(tmp_path, FACTS, overwrite=True) is None
    write(result(), tmp_path, FACTS)
    (tmp_path / "spectra.zarr" / "cl" / "zarr.json").write_text("{")
    with pytest.raises(FormatError, match="overwrite=True"):
        read_finished(tmp_path, FACTS)
    with pytest.raises(FormatError, match="cannot be read as a result of spectra"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("binned", [True, False])
@pytest.mark.parametrize("errors", ["knox", None])
@pytest.mark.parametrize("lmax", [12, 40, 400])
def test_figures_of_every_kind_are_drawn(binned: bool, errors: str | None, lmax: int) -> None:
    found = result(binned=binned, errors=errors, lmax=lmax)
    figure = spectra_figure(found)
    figure.canvas.draw()
    shown = [axes for axes in figure.axes if axes.axison]
    assert len(shown) == 3  # K^2, K, and 1 are three units
    assert "μ" not in shown[0].get_ylabel()
    assert "(K_CMB)²" in shown[0].get_ylabel()
    assert ratio_figure(found) is None


def test_axes_follow_the_values() -> None:
    found = result()
    # The mean product of independent numbers has both signs, that of a number with itself one.
    assert [axes.get_yscale() for axes in spectra_figure(found).axes[:3]] == ["log", "linear", "log"]
    strong = found.copy(deep=True)
    strong["cl"][1] = np.where(np.arange(strong.sizes["bin"]) % 2, 1e4, -1e4)
    assert spectra_figure(strong).axes[1].get_yscale() == "symlog"
    dl, cl = (spectra_figure(found, quantity=name).axes[0].get_ylim() for name in ("dl", "cl"))
    assert dl[1] > 10 * cl[1]


def test_at_most_six_pairs_share_a_panel() -> None:
    names = "abcdefg"
    estimator = Estimator({name: SpectrumMap() for name in names}, LMAX, Bins.linear(LMAX, 6))
    pseudo = {(name, name): np.ones(LMAX + 1) for name in names}
    figure = spectra_figure(assemble([(name, name) for name in names], pseudo, estimator, errors="knox"))
    counts = [len(axes.get_legend().get_texts()) for axes in figure.axes]
    assert counts == [4, 3]


def test_spectra_that_are_zero_or_nothing_are_drawn() -> None:
    found = result()
    found["cl"][0] = 0.0
    found["cl"][1] = np.nan
    found["error"][1] = np.nan
    spectra_figure(found).canvas.draw()


def test_ratio_figure_shows_the_ratio() -> None:
    figure = ratio_figure(result(simulations=30))
    assert figure is not None
    lines = [line.get_ydata() for line in figure.axes[0].get_lines()]
    assert any(np.allclose(line, 1 / 0.9) for line in lines)


def test_unknown_quantities_and_pairs_are_told() -> None:
    with pytest.raises(InputError, match="did you mean 'dl'"):
        spectra_figure(result(), quantity="d_l")
    with pytest.raises(InputError, match="`theory` of 'a x b'"):
        spectra_figure(result(), theory={"a x b": np.ones(5)})
