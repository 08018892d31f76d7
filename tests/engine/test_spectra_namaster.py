"""The verb `spectra`, from store to bandpowers, against what NaMaster made of the same sky."""

from __future__ import annotations

import numpy as np
import pytest
import skymill as sm
from references import namaster
from skies import write_map

REFERENCE = dict(np.load(namaster.FILE))


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    path = tmp_path_factory.mktemp("namaster") / "sky.zarr"
    for name, values in namaster.sky().items():
        write_map(path, namaster.NSIDE, values, name)
    for name, values in namaster.weights().items():
        write_map(path, namaster.NSIDE, values, f"weight_{name}", unit="1")
    return str(path)


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("prefix", ["", "beam_"])
def test_bandpowers_and_windows(sky, prefix, precision):
    plan = sm.spectra(
        sky,
        [("a", "a"), ("a", "b")],
        lmax=namaster.LMAX,
        lmax_mask=3 * namaster.NSIDE - 1,
        weights="pixel",
        mask={"a": "weight_a", "b": "weight_b"},
        bins=namaster.WIDTH,
        beam=namaster.FWHM if prefix else None,
        window=True,
        precision=precision,
    )
    found = plan.run(progress=False)
    tolerance = 1e-6 if precision == "single" else 1e-10
    for row, pair in enumerate(("aa", "ab")):
        expected = REFERENCE[f"{prefix}bandpower_{pair}_pixel"]
        np.testing.assert_allclose(found["cl"][row], expected, rtol=tolerance)
        window = REFERENCE[f"{prefix}window_{pair}_pixel"]
        np.testing.assert_allclose(found["window"][row], window, atol=tolerance * np.abs(window).max())
    np.testing.assert_array_equal(found["ell_start"], REFERENCE["starts"])
    np.testing.assert_array_equal(found["ell_stop"], REFERENCE["stops"])


def test_iterations_end_where_those_of_namaster_do(sky):
    """Both go to least squares, ours from ring weights: bandpowers agree far below their errors."""
    plan = sm.spectra(
        sky,
        [("a", "a"), ("a", "b")],
        lmax=namaster.LMAX,
        lmax_mask=3 * namaster.NSIDE - 1,
        weights="iterate",
        mask={"a": "weight_a", "b": "weight_b"},
        bins=namaster.WIDTH,
        errors="knox",
    )
    found = plan.run(progress=False)
    for row, pair in enumerate(("aa", "ab")):
        away = (found["cl"][row] - REFERENCE[f"bandpower_{pair}_iterate"]) / found["error"][row]
        assert np.abs(away).max() < 2e-3
