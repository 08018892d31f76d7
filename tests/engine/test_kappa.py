"""The kappa test at nside 64: the example as users run it, and the same with steps of a TOML file.

What it needs a big sky or many skies for is in tests/science/test_kappa_science.py.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import skymill as sm
import xarray as xr
from skymill.deploy.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"
NSIDE = 64


def kappa_example() -> ModuleType:
    """Return the example as a module."""
    if "kappa_example" not in sys.modules:
        spec = importlib.util.spec_from_file_location("kappa_example", EXAMPLES / "kappa.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules["kappa_example"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["kappa_example"]


@pytest.fixture(scope="module")
def example():
    return kappa_example()


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("kappa") / "out"


@pytest.fixture(scope="module")
def result(example, out):
    verdicts, found = example.run(out, NSIDE, 1)
    return verdicts, found


def test_the_residual_recovers_what_was_put_in(result):
    verdicts, _ = result
    residual = verdicts["residual x kappa"]
    assert residual.p_value > 0.01
    assert residual.significance > 5
    assert abs(residual.amplitude - 1) < 3 * residual.error
    assert residual.null_p_value < 1e-6


def test_the_template_shows_nothing_and_the_dust_map_does(result):
    verdicts, found = result
    assert verdicts["nhi x kappa"].null_p_value > 0.01
    assert verdicts["dust x kappa"].null_p_value < 1e-6
    # That of the verb counts the last bin too.
    assert found["p_value"].sel(pair="nhi x kappa") > 0.01
    assert found["p_value"].sel(pair="residual x kappa") < 1e-6


def test_subtracting_the_template_makes_errors_smaller(result):
    verdicts, found = result
    errors = found["error"]
    assert (errors.sel(pair="residual x kappa") < errors.sel(pair="dust x kappa")).all()
    assert verdicts["residual x kappa"].error < 0.5 * verdicts["dust x kappa"].error
    # Nothing of the template is left: what limits the residual is the CIB itself.
    np.testing.assert_allclose(errors.sel(pair="residual x kappa")[:-1], errors.sel(pair="cib x kappa")[:-1], rtol=0.05)


def test_the_fit_finds_what_was_put_in(example, out, result):
    sky = sm.open(out / "sky.zarr")
    model, gas = sky["model"].values, sky["nhi"].values
    assert np.median(model / gas) == pytest.approx(example.EMISSIVITY, rel=0.02)
    left = sky["residual"].values - sky["cib"].values
    used = sky[example.MASK].values == 0
    assert abs(left[used].mean()) < 0.05 * example.OFFSET


def test_it_leaves_a_figure_and_the_spectra(out, result):
    assert (out / "kappa.png").stat().st_size > 10_000
    assert {"spectra.zarr", "spectra.csv"} <= {path.name for path in (out / "spectra").iterdir()}


def test_a_wrong_input_is_noticed(example, result):
    """The chi^2 of the test can fail: twice the correlation, and none, do not pass."""
    _, found = result
    known = example.input_spectra(3 * NSIDE - 1)
    for factor in (0.0, 2.0):
        wrong = {pair: cl * (factor if pair == ("cib", "kappa") else 1.0) for pair, cl in known.items()}
        one = found.isel(bin=slice(0, -1)).sel(pair="residual x kappa")
        away = (one["cl"].values - example.expected(one, wrong)) / one["error"].values
        assert (away**2).sum() > 100


def test_the_file_of_steps_does_the_same(example, out, result, tmp_path):
    """kappa.toml, given the maps as FITS files: it takes the emissivity as known, so the residual differs a little."""
    store, maps = out / "sky.zarr", tmp_path / "maps"
    maps.mkdir()
    for name in ("dust", "nhi", "kappa", example.MASK):
        path = maps / f"{name.removesuffix('_gal')}.fits"
        sm.export(store, [name], path).run(progress=False)
    bins = example.bins_of(NSIDE)
    beam = example.fwhm_of(NSIDE)
    told = [f"maps={maps}", f"out={tmp_path}", f"beam={beam}", f"kappa_beam={beam}"]
    told += [f"lmax={bins.stops[-1] - 1}", "bins=20"]
    assert main(["run", str(EXAMPLES / "kappa.toml"), "--set", *told, "--quiet"]) == 0
    found = xr.open_zarr(tmp_path / "spectra" / "spectra.zarr", consolidated=False)
    p_value = dict(zip(found["pair"].values, found["p_value"].values, strict=True))
    assert p_value["nhi x kappa"] > 0.01
    assert p_value["residual x kappa"] < 1e-6
    here = dict(zip(result[1]["pair"].values, result[1]["f_sky"].values, strict=True))
    np.testing.assert_allclose(found["f_sky"].values, [here[pair] for pair in found["pair"].values], rtol=1e-6)
