"""The examples are files that users run: they are read here without data, and run where the data are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from skymill.deploy.cli import main
from skymill.deploy.steps import read_steps
from skymill.engine.fit_files import read_fit
from skymill.engine.recipe import Recipe
from skymill.engine.spectra_files import read

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.toml"))


def test_there_are_examples():
    names = {"gas.toml", "gas_synthetic.toml", "gsm2016.toml", "planck_herschel.toml", "planck_recipe.toml"}
    assert names | {"spectra.toml"} <= {path.name for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_understood(path):
    if "[[recipe]]" in path.read_text():
        assert Recipe.from_toml(path)
    else:
        assert len(read_steps(str(path)).steps) >= 3


def test_spectra_find_the_cmb_where_it_is(tmp_path):
    example = next(path for path in EXAMPLES if path.name == "spectra.toml")
    assert main(["run", str(example), "--set", f"out={tmp_path / 'out'}", "--quiet"]) == 0
    found = read(tmp_path / "out" / "spectra")
    p_value = dict(zip(found["pair"].values.tolist(), found["p_value"].values.tolist(), strict=True))
    assert p_value["raw_850um x cmb"] < 1e-6
    assert p_value["i850um x cmb"] > 0.01
    # A twin has the spectrum of its model up to the scatter of 2 l + 1 modes.
    model, twin = (read(tmp_path / "out" / name)["cl"].values[0] for name in ("cmb", "twin"))
    ell = np.arange(2, model.size)
    pull = (twin[2:] / model[2:] - 1) / np.sqrt(2 / (2 * ell + 1))
    assert abs(pull.mean()) < 4 / np.sqrt(ell.size)
    assert 0.7 < pull.std() < 1.3


@pytest.mark.slow
def test_gas_finds_what_was_put_into_the_sky(tmp_path, capsys):
    example = next(path for path in EXAMPLES if path.name == "gas_synthetic.toml")
    out = tmp_path / "out"
    assert main(["run", str(example), "--set", f"out={out}"]) == 0
    said = capsys.readouterr().out
    assert "elbow at k = 3" in said
    assert "nh2 dropped" in said
    assert "templates left: cluster_1, cluster_2, cluster_3, nhii" in said
    fit = read_fit(out / "fit")
    truth = xr.DataArray([0.43, 0.29, 0.20, 0.215], dims="template") / 1.1  # over 1 + p
    found = fit.sel(target="i857", template=["cluster_1", "cluster_2", "cluster_3", "nhii"])
    # Temperatures fluctuate: no coefficient is that of a cap to the formal error, all are to that of the jackknife.
    assert float(abs((found["coefficient"] - truth) / found["jackknife_error"]).max()) < 5
    assert float(abs((found["coefficient"] - truth) / found["error"]).max()) > 5
    diagnosis = json.loads((out / "residuals" / "report.json").read_text())
    rows = {(row["region"], row["quantity"]): row for row in diagnosis["table"]}
    for cap in ("ngc", "sgc"):
        assert 0.9 < rows[cap, "sigma_T at 20 K"]["value"] < 1.5  # put in: 1.28 K over the whole sky
        name = "slope of residual against polarisation"
        assert abs(rows[cap, name]["value"] + 1) < 3 * rows[cap, name]["error"] < 1.5
    shares = diagnosis["polarization"]["variables"]
    np.testing.assert_allclose(shares["fraction"]["values"], 0.1, atol=0.02)
    np.testing.assert_allclose(shares["fraction_sigma"]["values"], 0.03, atol=0.01)
    scatter = json.loads((out / "comparison" / "comparison.json").read_text())["variables"]["scatter"]["values"]
    assert all(gas < dust for gas, dust in scatter)
    with fits.open(out / "ebv.fits") as file:
        assert file[1].header["NSIDE"] == 64
    # Again: no trial and no tile is made anew.
    kept = [path for name in ("search/trials", "sky.zarr/fit_residual_i857/c") for path in (out / name).rglob("*")]
    before = {path: path.stat().st_mtime_ns for path in kept if path.is_file()}
    assert len(before) > 12
    assert main(["run", str(example), "--set", f"out={out}", "--quiet"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.realdata
@pytest.mark.slow
def test_gsm2016_beats_a_quadratic_fit(real_data, tmp_path, capsys):
    example = next(path for path in EXAMPLES if path.name == "gsm2016.toml")
    data = f"data={real_data / 'maps_nside64'}"
    assert main(["run", str(example), "--set", data, f"out={tmp_path / 'gsm'}", "--quiet"]) == 0
    report = json.loads((tmp_path / "gsm" / "report" / "report.json").read_text())
    medians = {label: pair["total"]["median_absolute"] for label, pair in report["pairs"].items()}
    print(medians)
    # A quadratic fit in the logarithms, on the same hemispheres, has medians of 0.9 % and 7.8 %.
    assert medians["850um"] < 0.009
    assert medians["1380um"] < 0.078
    assert {"density_850um.png", "region_orion_850um.png"} <= {p.name for p in (tmp_path / "gsm" / "report").iterdir()}
