"""Templates: against the formulas by hand, every unit and option, what is missing, and stopped runs."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skies
import skymill as sm
from skymill.chunking import store as stores
from skymill.chunking.channels import Channels
from skymill.chunking.schema import MapInfo
from skymill.chunking.unit_names import PARSEC_CM
from skymill.engine import templates_kernel

NSIDE = 8
NPIX = 12 * NSIDE**2
CHANNELS = Channels.from_edges([-100, -60, -30, -10, 0, 5, 20, 50, 95])
WIDTH = np.array(CHANNELS.width)
RNG = np.random.default_rng(5)
KELVIN = RNG.gamma(2.0, 8.0, (8, NPIX)).astype(np.float32)
CO = RNG.normal(0.3, 0.4, NPIX).astype(np.float32)
DM = RNG.uniform(5, 80, NPIX).astype(np.float32)


def write(store: str, name: str, values: np.ndarray, unit: str, **about: Any) -> None:
    dims = ("channel", "cells") if values.ndim == 2 else ("cells",)
    stores.create_maps(store, [MapInfo(name, "test", unit, dims=dims, **about)])
    grid = stores.tiling_of(store)
    for tile in range(grid.n_tiles):
        stores.write_tile(store, name, tile, np.ascontiguousarray(values[..., grid.tile_slice(tile)], np.float32))


@pytest.fixture
def sky(tmp_path: Path) -> str:
    where = str(tmp_path / "sky.zarr")
    stores.create(where, NSIDE, frame="galactic", tile_nside=1)
    stores.create_channels(where, CHANNELS)
    write(where, "ppv", KELVIN, "K", beam_fwhm_arcmin=16.2)
    write(where, "dm", DM, "pc cm^-3")
    write(where, "w_co", CO, "K km/s", beam_fwhm_arcmin=10.0)
    return where


def read(store: str, name: str) -> np.ndarray:
    return sm.open(store)[name].values


def test_default_cuts_of_a_cube_in_kelvin(sky: str) -> None:
    plan = sm.templates(sky, cube="ppv")
    assert "nhi: -90 to 90 km/s, 7.639 channels" in str(plan)
    assert "ivc: -90 to -35 and 35 to 90 km/s" in str(plan)
    plan.run()
    # Fractions by hand: from -90 of (-100, -60), to 90 of (50, 95); -35 in (-60, -30) and 35 in (20, 50).
    total = np.array([0.75, 1, 1, 1, 1, 1, 1, 40 / 45])
    low = np.array([0, 5 / 30, 1, 1, 1, 1, 0.5, 0])
    for name, fraction in (("nhi", total), ("lvc", low), ("ivc", total - low)):
        expected = 1.823e18 * ((fraction * WIDTH)[:, None] * KELVIN.astype(np.float64)).sum(axis=0) / 1e20
        np.testing.assert_allclose(read(sky, name), expected, rtol=3e-7)
    np.testing.assert_allclose(read(sky, "lvc") + read(sky, "ivc"), read(sky, "nhi"), rtol=3e-7)
    made = stores.info(sky, "ivc")
    assert (made.unit, made.quantity, made.beam_fwhm_arcmin) == ("1e20 cm^-2", "column density", 16.2)
    assert made.provenance["cut"]["velocities"] == [[-90, -35], [35, 90]]
    assert made.long_name == "N_HI from -90 to -35 and 35 to 90 km/s"


def test_every_unit_of_a_cube_gives_the_same(sky: str) -> None:
    write(sky, "milli", KELVIN * 1000, "mK")
    write(sky, "rayleigh", KELVIN, "K_RJ")
    write(sky, "line", KELVIN * WIDTH[:, None], "K km/s")
    write(sky, "milliline", KELVIN * WIDTH[:, None] * 1000, "mK km/s")
    write(sky, "columns", KELVIN * WIDTH[:, None] * 1.823e-2, "1e20 cm^-2")
    write(sky, "metres", KELVIN * WIDTH[:, None] * 1.823e22, "m^-2")
    cuts = {"near": (-12.5, 7)}
    # (-30, -10) is channel 2: 2.5 of it lies above -12.5.
    expected = 0.01823 * (np.array([0, 0, 2.5, 10, 5, 2, 0, 0]) @ KELVIN.astype(np.float64))
    for cube in ("ppv", "milli", "rayleigh", "line", "milliline", "columns", "metres"):
        sm.templates(sky, cube=cube, cuts=cuts, overwrite=True).run()
        np.testing.assert_allclose(read(sky, "near"), expected, rtol=1e-6, err_msg=cube)


def test_cuts_of_several_ranges_count_no_gas_twice(sky: str) -> None:
    cuts = {"one": [-20, 30], "several": [(-20, 10), (0, 30), (5, 6)], "all_of_it": (-math.inf, math.inf)}
    plan = sm.templates(sky, cube="ppv", cuts=cuts)
    plan.run()
    assert np.array_equal(read(sky, "one"), read(sky, "several"))
    np.testing.assert_allclose(read(sky, "all_of_it"), 0.01823 * (WIDTH @ KELVIN), rtol=1e-6)
    assert not np.array_equal(read(sky, "one"), read(sky, "all_of_it"))
    note = str(sm.templates(sky, cube="ppv", cuts={"wide": (-200, 100)}))
    assert "wide: -200 to 100 km/s, 8 channels; they cover 195 of 300 km/s" in note
    assert "cover" not in str(plan)
    assert stores.info(sky, "all_of_it").long_name == "N_HI from -inf to inf km/s"
    for file in ("all_of_it/zarr.json", "ledger/all_of_it/zarr.json"):  # JSON has no infinity
        json.loads((Path(sky) / file).read_text(), parse_constant=pytest.fail)


def test_optical_depth(sky: str, caplog: pytest.LogCaptureFixture) -> None:
    cuts = {"near": (-10, 20)}
    sm.templates(sky, cube="ppv", cuts={"thin": (-10, 20)}).run()
    hot = 1.0 + float(KELVIN.max())
    sm.templates(sky, cube="ppv", cuts=cuts, spin_temperature=hot).run()
    inside = KELVIN[3:6].astype(np.float64)
    expected = -0.01823 * hot * (WIDTH[3:6, None] * np.log(1 - inside / hot)).sum(axis=0)
    np.testing.assert_allclose(read(sky, "near"), expected, rtol=1e-6)
    assert (read(sky, "near") > read(sky, "thin")).all()
    assert not caplog.records
    cold = 40.0
    with caplog.at_level(logging.WARNING, "skymill"):
        sm.templates(sky, cube="ppv", cuts=cuts, spin_temperature=cold, overwrite=True).run()
    bright = (inside >= cold).any(axis=0)
    assert 0 < bright.sum() < NPIX
    assert np.array_equal(np.isnan(read(sky, "near")), bright)
    assert f"{bright.sum()} pixels of ppv are as bright as the spin temperature of 40 K" in caplog.text
    write(sky, "milli", KELVIN * 1000, "mK")
    sm.templates(sky, cube="milli", cuts={"again": (-10, 20)}, spin_temperature=cold).run()
    # Values within the rounding of the cube of T_s may fall on either side.
    np.testing.assert_allclose(read(sky, "again"), read(sky, "near"), rtol=1e-4)


def test_missing_channels_count_only_in_their_cuts(sky: str) -> None:
    holed = KELVIN.copy()
    holed[6, ::3] = np.nan  # 20 to 50 km/s
    holed[:, 64:80] = np.nan
    write(sky, "holed", holed, "K")
    sm.templates(sky, cube="holed", cuts={"near": (-5, 20), "far": (49, 60)}).run()
    lost = np.zeros(NPIX, bool)
    lost[64:80] = True
    assert np.array_equal(np.isnan(read(sky, "near")), lost)
    lost[::3] = True
    assert np.array_equal(np.isnan(read(sky, "far")), lost)


def test_ionised_gas(sky: str) -> None:
    write(sky, "var", (0.2 * DM) ** 2, "pc^2 cm^-6")
    write(sky, "sigma", 0.2 * DM, "pc cm^-3")
    sm.templates(sky, dm="dm", dm_variance="var").run()
    np.testing.assert_allclose(read(sky, "nhii"), DM * PARSEC_CM / 1e20, rtol=1e-6)
    assert abs(PARSEC_CM / 3.0857e18 - 1) < 1e-4
    np.testing.assert_allclose(read(sky, "variance_nhii"), (0.2 * DM * PARSEC_CM / 1e20) ** 2, rtol=1e-6)
    first = read(sky, "variance_nhii")
    assert stores.info(sky, "variance_nhii").unit == "1e40 cm^-4"
    sm.templates(sky, dm="dm", dm_variance="sigma", overwrite=True).run()
    np.testing.assert_allclose(read(sky, "variance_nhii"), first, rtol=1e-6)
    sm.templates(sky, dm="dm", dm_variance="var", unit="pc cm^-3", overwrite=True).run()
    np.testing.assert_allclose(read(sky, "nhii"), DM, rtol=1e-7)
    np.testing.assert_allclose(read(sky, "variance_nhii"), (0.2 * DM) ** 2, rtol=1e-6)
    assert stores.info(sky, "nhii").unit == "pc cm^-3"
    assert stores.info(sky, "variance_nhii").unit == "pc^2 cm^-6"


def test_molecular_gas_and_its_variance(sky: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(8).normal(0, 0.3, (6, NPIX)).astype(np.float32)
    for number, values in enumerate(noise):
        write(sky, f"sim_{number}", values * (1000 if number == 2 else 1), "mK km/s" if number == 2 else "K km/s")
    simulations = [f"sim_{number}" for number in range(6)]
    systematic = np.abs(CO) * np.float32(0.1)
    write(sky, "sys", systematic, "K km/s")

    def made(**options: Any) -> tuple[np.ndarray, np.ndarray | None]:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr"
        sm.templates(sky, co="w_co", out_store=out, **options).run()
        return read(str(out), "nh2"), read(str(out), "variance_nh2") if "variance_nh2" in sm.open(out) else None

    alone, none = made()
    assert none is None
    np.testing.assert_allclose(alone, 2 * 2e20 * CO / 1e20, rtol=1e-6)
    spread = noise.astype(np.float64).var(axis=0, ddof=1)
    for options, variance in (
        ({"co_simulations": simulations}, spread),
        ({"co_systematic": "sys", "co_simulations": simulations}, systematic.astype(float) ** 2 + spread),
        ({"co_systematic": 0.5, "co_simulations": simulations}, 0.25 + spread),
        ({"co_systematic": "sys"}, systematic.astype(float) ** 2),
        ({"co_systematic": 0.5}, np.full(NPIX, 0.25)),
        ({"co_simulations": simulations[:4]}, noise[:4].astype(np.float64).var(axis=0, ddof=1)),
    ):
        column, found = made(**options)
        assert np.array_equal(column, alone)
        np.testing.assert_allclose(found, 16 * variance, rtol=2e-6, err_msg=str(options))
    column, found = made(co_systematic=0.5, x_co=1e20)
    np.testing.assert_allclose(column, alone / 2, rtol=1e-6)
    np.testing.assert_allclose(found, np.full(NPIX, 1.0), rtol=1e-6)


def test_memory_does_not_grow_with_simulations(sky: str) -> None:
    for number in range(20):
        write(sky, f"sim_{number}", CO, "K km/s")
    few, many = (sm.templates(sky, co="w_co", co_simulations=[f"sim_{i}" for i in range(n)]) for n in (2, 20))
    assert few.task_memory == many.task_memory
    assert few.read_bytes <= many.read_bytes


def test_all_at_once_from_maps_that_see_different_parts(sky: str, tmp_path: Path) -> None:
    half = DM.copy()
    half[: NPIX // 2] = np.nan
    write(sky, "half", half, "pc cm^-3")
    missing = CO.copy()
    missing[5] = np.nan
    write(sky, "gaps", missing, "K km/s")
    out = tmp_path / "out.zarr"
    sm.templates(sky, cube="ppv", dm="half", co="gaps", co_systematic=0.1, out_store=out).run()
    found = sm.open(out)
    assert sorted(found.data_vars) == ["ivc", "lvc", "nh2", "nhi", "nhii", "variance_nh2"]
    assert np.array_equal(np.isnan(found["nhii"].values), np.isnan(half))
    assert np.isfinite(found["nhi"].values).all()
    assert np.flatnonzero(np.isnan(found["nh2"].values)).tolist() == [5]
    assert np.flatnonzero(np.isnan(found["variance_nh2"].values)).tolist() == [5]


@pytest.mark.parametrize("threads", [1, 3])
def test_stopped_and_continued(sky: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    def plan(name: str) -> Any:
        return sm.templates(
            sky, cube="ppv", co="w_co", out_store=tmp_path / name, spin_temperature=60.0, threads=threads
        )

    plan("whole.zarr").run(report=tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["counts"] == {"computed": 12}
    right = templates_kernel.TemplatesKernel.__call__

    def fails(self: Any, tile: int, inputs: Any) -> Any:
        if tile == 7:
            raise ValueError("poisoned")
        return right(self, tile, inputs)

    with monkeypatch.context() as context:
        context.setattr(templates_kernel.TemplatesKernel, "__call__", fails)
        with pytest.raises(sm.errors.RunError, match="poisoned"):
            plan("stopped.zarr").run()
    report = plan("stopped.zarr").run()
    assert report.counts == {"verified": 11, "computed": 1}
    names = ("nhi", "lvc", "ivc", "nh2")
    assert skies.content(tmp_path / "stopped.zarr", *names) == skies.content(tmp_path / "whole.zarr", *names)
    with pytest.raises(sm.errors.IdentityError, match="spin_temperature was"):
        sm.templates(sky, cube="ppv", co="w_co", out_store=tmp_path / "whole.zarr")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, "InputError", "nothing is asked for"),
        ({"cuts": {"a": (0, 1)}, "dm": "dm"}, "InputError", "`cuts` came without `cube`"),
        ({"dm": "dm", "spin_temperature": 80}, "InputError", "without `cube`"),
        ({"co": "w_co", "dm_variance": "dm"}, "InputError", "without `dm`"),
        ({"dm": "dm", "co_systematic": 0.1}, "InputError", "without `co`"),
        ({"dm": "dm", "co_simulations": ["w_co", "dm"]}, "InputError", "without `co`"),
        ({"dm": "dm", "x_co": 3e20}, "InputError", "`x_co` came without `co`"),
        ({"co": "w_co", "co_simulations": ["w_co"]}, "InputError", "two or more different maps"),
        ({"co": "w_co", "co_simulations": ["w_co", "w_co"]}, "InputError", "two or more different maps"),
        ({"co": "w_co", "co_simulations": "w_co"}, "InputError", "give a list of names"),
        ({"co": "w_co", "co_systematic": -1.0}, "InputError", "`co_systematic` -1.0 came"),
        ({"co": "w_co", "x_co": 0}, "InputError", "`x_co` 0 came"),
        ({"co": "w_co", "x_co": math.inf}, "InputError", "`x_co` inf came"),
        ({"cube": "ppv", "spin_temperature": -80}, "InputError", "`spin_temperature` -80 came"),
        ({"cube": "dm"}, "InputError", "without velocities"),
        ({"dm": "ppv"}, "InputError", "'ppv' is a cube; a dispersion measure is a map"),
        ({"cube": "ppv", "cuts": {}}, "InputError", "`cuts` came empty"),
        ({"cube": "ppv", "cuts": {"a": (1,)}}, "InputError", r"cut 'a' came with"),
        ({"cube": "ppv", "cuts": {"a": 3}}, "InputError", r"cut 'a' came with 3; give \(low, high\) in km/s"),
        ({"cube": "ppv", "cuts": {"a": (1, "b")}}, "InputError", r"cut 'a' came with"),
        ({"cube": "ppv", "cuts": {"a": []}}, "InputError", r"cut 'a' came with"),
        ({"cube": "ppv", "cuts": {"a": (1, 2, 3)}}, "InputError", r"cut 'a' came with"),
        ({"cube": "ppv", "cuts": {"a": [(1, 2), (3,)]}}, "InputError", r"cut 'a' came with"),
        ({"cube": "ppv", "cuts": {"a": (2, 1)}}, "InputError", "cut 'a': the velocities 2 to 1"),
        ({"cube": "ppv", "cuts": {"a": (200, 300)}}, "InputError", "holds no channel .* from -100 to 95"),
        ({"cube": "ppv", "cuts": {"a b": (0, 1)}}, "InputError", "as the name of a map"),
        ({"cube": "ppv", "cuts": {"ppv": (0, 1)}}, "InputError", "'ppv' is an input and would be written"),
        ({"cube": "ppv", "dm": "dm", "cuts": {"nhii": (0, 1)}}, "InputError", "two maps would be called 'nhii'"),
        ({"dm": "w_co"}, "UnitError", "'w_co' is in K km/s, which is not a dispersion measure"),
        ({"dm": "dm", "dm_variance": "w_co"}, "UnitError", "not the variance of a dispersion measure"),
        ({"co": "dm"}, "UnitError", "which is not a line intensity"),
        ({"co": "w_co", "co_systematic": "dm"}, "UnitError", "which is not the uncertainty of a line"),
        ({"co": "w_co", "co_simulations": ["dm", "w_co"]}, "UnitError", "which is not a simulated line"),
        ({"cube": "flux"}, "UnitError", "is in MJy/sr"),
        ({"cube": "line", "spin_temperature": 80.0}, "UnitError", "give a cube in K"),
        ({"dm": "dm", "unit": "K"}, "UnitError", "`unit` 'K' came, which measures temperature"),
        ({"dm": "dm", "unit": "furlong"}, "UnitError", "is not known"),
        ({"co": "w_co", "co_systematic": 0.1, "unit": "cm^-2"}, "InputError", "a variance in cm.-4 would overflow"),
        ({"dm": "dispersion"}, "MissingMapError", "of another nside into it with skymill.degrade"),
    ],
)
def test_bad_input(sky: str, options: dict[str, Any], error: str, words: str) -> None:
    write(sky, "flux", KELVIN, "MJy/sr")
    write(sky, "line", KELVIN, "K km/s")
    with pytest.raises(getattr(sm.errors, error), match=words):
        sm.templates(sky, **options)


def test_maps_of_another_nside_are_the_users_job(sky: str, tmp_path: Path) -> None:
    stores.create(tmp_path / "coarse.zarr", 4, frame="galactic")
    with pytest.raises(sm.errors.InputError, match=r"nside 8.*has nside 4"):
        sm.templates(sky, dm="dm", out_store=tmp_path / "coarse.zarr")


def test_columns_alone_may_be_in_plain_units(sky: str) -> None:
    sm.templates(sky, dm="dm", unit="cm-2").run()
    np.testing.assert_allclose(read(sky, "nhii"), DM * PARSEC_CM, rtol=1e-6)
