"""The zero level of a map against a tracer: scipy as the oracle, and the bug that it is there to find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import linregress
from skymill.chunking import store as stores
from skymill.chunking.errors import InputError, MissingMapError
from skymill.chunking.schema import MapInfo
from skymill.engine.prepare import Recipe, SubtractMonopole, prepare
from skymill.engine.zero_level import zero_level

NPIX = 768


def write(where: str, name: str, values: NDArray[Any], unit: str) -> None:
    stores.create_maps(where, [MapInfo(name, "intensity", unit)])
    grid = stores.tiling_of(where)
    for tile in range(grid.n_tiles):
        stores.write_tile(where, name, tile, np.asarray(values, np.float32)[grid.tile_slice(tile)])


@pytest.fixture
def sky(tmp_path: Path) -> tuple[str, NDArray[Any], NDArray[Any]]:
    """Dust that follows the gas, with the CIB monopole of 850 um, and with molecular gas above 4e20 cm^-2."""
    where = str(tmp_path / "sky.zarr")
    stores.create(where, 8, frame="galactic")
    rng = np.random.default_rng(1)
    gas = rng.uniform(0.5, 6.0, NPIX)
    dust = 0.039 * gas + 0.13 + rng.normal(0, 0.005, NPIX) + np.where(gas > 4, 0.1 * (gas - 4), 0)
    gas[3], dust[5] = np.nan, np.nan
    dust[64:128] = np.nan
    write(where, "raw", dust, "MJy/sr")
    write(where, "gas", gas, "1e20 cm^-2")
    return where, gas.astype(np.float32), dust.astype(np.float32)


@pytest.mark.parametrize("below", [4.0, np.inf])
def test_against_scipy(sky: tuple[str, NDArray[Any], NDArray[Any]], below: float) -> None:
    where, gas, dust = sky
    good = np.isfinite(gas) & np.isfinite(dust) & (gas < below)
    expected = linregress(gas[good].astype(float), dust[good].astype(float))
    found = zero_level(where, "raw", "gas", tracer_below=below, progress=False)
    assert found.pixels == good.sum()
    assert found.slope == pytest.approx(expected.slope, rel=1e-11)
    assert found.slope_error == pytest.approx(expected.stderr, rel=1e-9)
    assert found.intercept == pytest.approx(expected.intercept, rel=1e-11)
    assert found.intercept_error == pytest.approx(expected.intercept_stderr, rel=1e-9)
    assert (found.unit, found.tracer_unit) == ("MJy/sr", "1e20 cm^-2")
    assert "zero level" in str(found)


def test_it_finds_a_monopole_that_was_not_subtracted(sky: tuple[str, NDArray[Any], NDArray[Any]]) -> None:
    where = sky[0]
    prepare(where, Recipe("raw", "clean", (SubtractMonopole.cib("850um"),))).run()
    forgotten = zero_level(where, "raw", "gas", tracer_below=4.0, progress=False)
    subtracted = zero_level(where, "clean", "gas", tracer_below=4.0, progress=False)
    assert abs(subtracted.intercept) < 4 * subtracted.intercept_error
    assert forgotten.intercept > 50 * forgotten.intercept_error
    # Molecular gas bends the relation: without the limit the zero level is wrong.
    assert abs(zero_level(where, "clean", "gas", progress=False).intercept) > 0.01


def test_the_same_for_any_number_of_threads(sky: tuple[str, NDArray[Any], NDArray[Any]]) -> None:
    levels = [zero_level(sky[0], "raw", "gas", threads=threads, progress=False) for threads in (1, 4)]
    assert levels[0] == levels[1]


@pytest.mark.parametrize(
    ("name", "tracer", "below", "error", "told"),
    [
        ("raw", "gass", 4.0, MissingMapError, "did you mean 'gas'"),
        ("row", "gas", 4.0, MissingMapError, "did you mean 'raw'"),
        ("raw", "raw", 4.0, InputError, "both 'raw'"),
        ("raw", "gas", 0.1, InputError, "0 pixels have a value"),
        ("raw", "constant", np.inf, InputError, "different values of the tracer"),
    ],
)
def test_bad_input(
    sky: tuple[str, NDArray[Any], NDArray[Any]], name: str, tracer: str, below: float, error: type[Exception], told: str
) -> None:
    write(sky[0], "constant", np.ones(NPIX), "cm^-2")
    with pytest.raises(error, match=told):
        zero_level(sky[0], name, tracer, tracer_below=below, progress=False)
