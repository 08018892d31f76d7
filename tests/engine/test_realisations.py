"""Realisations: a simulated map goes the way that healpy sends it, and spectra scatter as they should."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import healpy as hp
import numpy as np
import pytest
from fresh import in_fresh_processes
from skymill.chunking import store as stores
from skymill.chunking.errors import InputError, MemoryLimitError, RunError
from skymill.chunking.schema import MapInfo
from skymill.engine import connect
from skymill.engine.binning import Bins
from skymill.engine.correlated import draw
from skymill.engine.plan import Run
from skymill.engine.realisations import (
    Realisation,
    WeightMap,
    check_memory,
    cross_power,
    read_ring_weights,
    realisation_memory,
    run_realisations,
    scatter_of,
)
from skymill.engine.spectrum_errors import knox_error
from skymill.engine.spectrum_estimator import Estimator, SpectrumMap
from skymill.engine.worker import Worker

NSIDE, LMAX = 16, 32
ELL = np.arange(LMAX + 1.0)
HERE = Run(None, Worker(4 * 10**9, 2), False)
CL_A, CL_B = 1 / (ELL + 3), 4 / (ELL + 9) ** 2
FIDUCIAL = {("a", "a"): CL_A, ("b", "b"): CL_B, ("b", "a"): 0.6 * np.sqrt(CL_A * CL_B)}
PAIRS = [("a", "b"), ("a", "a"), ("b", "b")]


def apodised(nside: int, cut: float = 25.0, width: float = 30.0) -> np.ndarray:
    """Weights (NESTED) that fall to zero at a galactic latitude."""
    z = hp.pix2vec(nside, np.arange(12 * nside**2), nest=True)[2]
    away = np.clip((np.degrees(np.arcsin(np.abs(z))) - cut) / width, 0, 1)
    weights: np.ndarray = (away - np.sin(2 * np.pi * away) / (2 * np.pi)).astype(np.float32)
    return weights


def write_map(where: Path, nside: int, info: MapInfo, values: np.ndarray) -> WeightMap:
    if not where.exists():
        stores.create(str(where), nside, frame="galactic", tile_nside=2)
    stores.create_maps(str(where), [info])
    grid = stores.tiling_of(str(where))
    for tile in range(grid.n_tiles):
        stores.write_tile(str(where), info.name, tile, values[grid.tile_slice(tile)])
    return WeightMap(str(where), info.name)


@pytest.fixture
def weight(tmp_path: Path) -> WeightMap:
    return write_map(tmp_path / "sky.zarr", NSIDE, MapInfo("weight_gal", "weight", "1"), apodised(NSIDE))


def estimator_of(nside: int = NSIDE, lmax: int = LMAX, bins: Bins | None = None, **facts: Any) -> Estimator:
    weights = hp.reorder(apodised(nside), n2r=True).astype(np.float64)
    mask_cl = hp.anafast(weights, lmax=3 * nside - 1)
    moments = {("w", "w"): (float(np.mean(weights**2)), float(np.mean(weights**4)))}
    maps = {name: SpectrumMap(weight="w", **facts) for name in ("a", "b")}
    return Estimator(maps, lmax, bins, {("w", "w"): mask_cl}, moments)


def full_sky(**transfers: np.ndarray) -> Estimator:
    return Estimator({name: SpectrumMap(transfer=transfers.get(name)) for name in ("a", "b")}, LMAX)


def healpy_maps(seed: int, simulation: int, beam: np.ndarray) -> list[np.ndarray]:
    """The two maps of a realisation in float64, RING: its own draws, healpy's synthesis."""
    first, second = (draw(LMAX, (seed, simulation, place)) for place in range(2))
    alms = [
        hp.almxfl(first, np.sqrt(CL_A) * beam),
        hp.almxfl(0.6 * first + 0.8 * second, np.sqrt(CL_B)),
    ]
    return [hp.alm2map(alm, NSIDE, lmax=LMAX) for alm in alms]


def test_a_realisation_is_what_healpy_makes_of_the_same_draws(weight: WeightMap) -> None:
    beam, ring_weights = np.exp(-0.02 * ELL), np.linspace(0.9, 1.1, 4 * NSIDE - 1)
    estimator = Estimator({"a": SpectrumMap(weight="w", transfer=beam), "b": SpectrumMap()}, LMAX)
    task = Realisation.of(
        PAIRS, FIDUCIAL, estimator, nside=NSIDE, weights={"w": weight}, ring_weights=ring_weights, seed=5,
        precision="double",
    )  # fmt: skip
    maps = healpy_maps(5, 3, beam)
    maps[0] *= hp.reorder(apodised(NSIDE), n2r=True)
    rows = hp.pix2ring(NSIDE, np.arange(12 * NSIDE**2)) - 1
    alms = [hp.map2alm(values * ring_weights[rows], lmax=LMAX, iter=0) for values in maps]
    expected = [hp.alm2cl(alms[0], alms[1]), hp.alm2cl(alms[0]), hp.alm2cl(alms[1])]
    np.testing.assert_allclose(task(3), expected, rtol=1e-9, atol=1e-12 * CL_A.max())
    single = replace(task, precision="single")(3)
    assert single.dtype == np.float64
    assert single.shape == task(3).shape


def test_cross_power_is_alm2cl() -> None:
    first, second = draw(LMAX, (1,)), draw(LMAX, (2,))
    np.testing.assert_allclose(cross_power(first, second, LMAX), hp.alm2cl(first, second), rtol=1e-10, atol=1e-15)


def test_simulated_spectra_are_those_given_on_average() -> None:
    task = Realisation.of(PAIRS, FIDUCIAL, full_sky(), nside=NSIDE)
    found = run_realisations(task, 400, HERE)
    assert found.shape == (400, 3, LMAX + 1)
    away = (found.mean(axis=0) - [FIDUCIAL[("b", "a")], CL_A, CL_B]) / (found.std(axis=0, ddof=1) / 20)
    assert np.abs(away[:, 2:]).max() < 4.5
    assert np.sqrt(np.mean(away[:, 2:] ** 2)) == pytest.approx(1, abs=0.2)


def test_beams_go_into_the_maps_and_out_of_the_spectra() -> None:
    estimator = full_sky(a=np.exp(-0.03 * ELL))
    bare = run_realisations(Realisation.of(PAIRS, FIDUCIAL, full_sky(), nside=NSIDE), 4, HERE)
    task = Realisation.of(PAIRS, FIDUCIAL, estimator, nside=NSIDE)
    beamed = run_realisations(task, 4, HERE)
    assert beamed[0, 1, LMAX] < 0.2 * bare[0, 1, LMAX]
    plain = scatter_of(bare, task, full_sky())
    np.testing.assert_allclose(scatter_of(beamed, task, estimator).mean[:, 2:], plain.mean[:, 2:], rtol=0.05)


@functools.cache
def knox_ratio(simulations: int, weighting: str) -> tuple[np.ndarray, np.ndarray]:
    """Knox's error of the expected spectra over the scatter, (pair, bin), and the scatter's covariance."""
    import tempfile

    nside, lmax = 32, 64
    ell = np.arange(lmax + 1.0)
    autos = np.where(ell < 2, 0, 1 / (ell + 10)), np.where(ell < 2, 0, 1.0)
    fiducial = {("a", "a"): autos[0], ("b", "b"): autos[1], ("a", "b"): 0.4 * np.sqrt(autos[0] * autos[1])}
    bins = Bins(tuple(range(2, 50, 16)), tuple(range(18, 66, 16)), weighting)
    estimator = estimator_of(nside, lmax, bins)
    with tempfile.TemporaryDirectory() as folder:
        place = write_map(Path(folder) / "sky.zarr", nside, MapInfo("weight_gal", "weight", "1"), apodised(nside))
        task = Realisation.of(PAIRS, fiducial, estimator, nside=nside, weights={"w": place}, seed=2)
        averaged = run_realisations(task, simulations, HERE)
    scatter = scatter_of(averaged, task, estimator)
    mean = {pair: estimator.coupling(*pair).expected(cl) for pair, cl in fiducial.items()}
    knox = [
        knox_error(mean[pair], mean[(pair[0],) * 2], mean[(pair[1],) * 2], bins.modes, estimator.f_sky(*pair))
        for pair in PAIRS
    ]
    away = (scatter.mean - np.array([mean[pair] for pair in PAIRS])) / (scatter.error / np.sqrt(simulations))
    assert np.abs(away).max() < 4  # unbiased, what couples in from beyond the bins accounted for
    assert scatter.covariance is not None
    return np.array(knox) / scatter.error, scatter.covariance


def test_knox_is_near_the_scatter_behind_an_apodised_mask() -> None:
    ratio, covariance = knox_ratio(300, "2l+1")
    assert covariance.shape == (3, 3, 3)
    # The scatter of 300 is known to 4 %.
    assert np.abs(ratio - 1).max() < 0.1 + 3 * 0.041
    assert 0.85 < ratio.mean() < 1.05


def test_realisations_are_the_same_wherever_they_run(weight: WeightMap) -> None:
    task = Realisation.of(PAIRS, FIDUCIAL, estimator_of(), nside=NSIDE, weights={"w": weight}, seed=1)
    one = run_realisations(task, 5, Run(None, Worker(4 * 10**9, 1), False))
    many = run_realisations(task, 5, Run(None, Worker(4 * 10**9, 4), False))
    assert np.array_equal(one, many)
    assert np.array_equal(pickle.loads(pickle.dumps(task))(4), one[4])
    other = run_realisations(replace(task, seed=2), 5, HERE)
    assert not np.allclose(one, other)
    assert not np.allclose(one[0], one[1])


def test_a_stopped_run_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    task = Realisation.of(PAIRS, FIDUCIAL, full_sky(), nside=NSIDE)
    folder = tmp_path / "kept"
    all_of_them = run_realisations(task, 4, HERE, folder=folder)
    (folder / "2.npy").unlink()
    np.save(folder / "1.npy", np.full_like(all_of_them[1], 7.0))
    again = run_realisations(task, 4, HERE, folder=folder)
    assert np.array_equal(again[2], all_of_them[2])
    assert (again[1] == 7).all()  # not made again
    assert sorted(path.name for path in folder.iterdir()) == [f"{number}.npy" for number in range(4)]


def test_bins_and_windows_of_the_task_are_those_of_the_estimator() -> None:
    bins = Bins.from_edges([2, 10, 33])
    estimator = replace(full_sky(), bins=bins)
    found = run_realisations(Realisation.of(PAIRS, FIDUCIAL, estimator, nside=NSIDE), 3, HERE)
    bare = run_realisations(Realisation.of(PAIRS, FIDUCIAL, full_sky(), nside=NSIDE), 3, HERE)
    np.testing.assert_allclose(found, bins.average(bare), rtol=1e-12)


def test_scatter_is_that_of_the_spectra() -> None:
    estimator = replace(full_sky(), bins=Bins.from_edges([2, 10, 33]))
    task = Realisation.of(PAIRS, FIDUCIAL, estimator, nside=NSIDE)
    averaged = np.random.default_rng(0).random((9, 3, 2))
    scatter = scatter_of(averaged, task, estimator)
    np.testing.assert_allclose(scatter.mean, averaged.mean(axis=0))
    np.testing.assert_allclose(scatter.error, averaged.std(axis=0, ddof=1))
    assert scatter.covariance is not None
    np.testing.assert_allclose(scatter.covariance[1], np.cov(averaged[:, 1].T))
    assert scatter_of(np.ones((2, 3, LMAX + 1)), task, full_sky()).covariance is None


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_weights_in_ring_order(tmp_path: Path, dtype: str) -> None:
    values = np.random.default_rng(0).random(12 * NSIDE**2).astype(np.float32)
    info = MapInfo("weight_x", "weight", "1")
    if dtype == "uint8":
        values, info = (values > 0.3).astype(np.uint8), MapInfo("mask_x", "mask", "1", dtype="uint8")
    place = write_map(tmp_path / "sky.zarr", NSIDE, info, values)
    expected = hp.reorder(values.astype(np.float32), n2r=True)
    found = read_ring_weights(place.store, place.name)
    assert found.dtype == np.float32
    assert np.array_equal(found, 1 - expected if dtype == "uint8" else expected)


def test_weights_that_were_written_anew_are_read_anew(weight: WeightMap) -> None:
    def once() -> np.ndarray:
        made = Realisation.of(PAIRS, FIDUCIAL, estimator_of(), nside=NSIDE, weights={"w": weight})
        return made(0)

    before = once()
    stores.write_tile(weight.store, weight.name, 0, np.zeros(64, np.float32))
    assert not np.allclose(before, once())


def test_what_is_missing_is_told() -> None:
    with pytest.raises(InputError, match="auto-spectrum of 'b' is missing"):
        Realisation.of(PAIRS, {("a", "a"): CL_A}, full_sky(), nside=NSIDE)
    with pytest.raises(InputError, match="where the weights 'w' of map 'a' are"):
        Realisation.of(PAIRS, FIDUCIAL, estimator_of(), nside=NSIDE)
    impossible = {**FIDUCIAL, ("b", "a"): 2 * FIDUCIAL[("b", "a")]}
    with pytest.raises(InputError, match="no maps a, b can have"):
        Realisation.of(PAIRS, impossible, full_sky(), nside=NSIDE)
    Realisation.of(PAIRS, impossible, full_sky(), nside=NSIDE, nearest=True)
    task = Realisation.of(PAIRS, FIDUCIAL, full_sky(), nside=NSIDE)
    with pytest.raises(InputError, match="takes two at least"):
        run_realisations(task, 1, HERE)


def test_a_realisation_that_does_not_fit_points_to_knox() -> None:
    memory = realisation_memory(2048, 4096, 2, 1)
    needed = sum(memory.values())
    with pytest.raises(MemoryLimitError, match=r'errors="knox"; threads=1; memory='):
        check_memory(memory, Worker(int(1.5 * needed), 2))
    with pytest.raises(MemoryLimitError, match=r'errors="knox"; memory='):
        check_memory(memory, Worker(10**9, 2))
    check_memory(memory, Worker(3 * needed, 2))
    task = Realisation.of(PAIRS, FIDUCIAL, full_sky(), nside=NSIDE)
    with pytest.raises(MemoryLimitError):
        run_realisations(task, 2, Run(None, Worker(10**8, 1), False))


def test_memory_grows_with_all_that_needs_it() -> None:
    small = sum(realisation_memory(64, 128, 2, 1).values())
    for larger in ((128, 128, 2, 1), (64, 129, 2, 1), (64, 128, 3, 1), (64, 128, 2, 2), (64, 128, 2, 1, "double")):
        assert sum(realisation_memory(*larger).values()) > small
    task = Realisation.of(PAIRS, FIDUCIAL, full_sky(), nside=NSIDE)
    assert task.memory() == realisation_memory(NSIDE, LMAX, 2, 0)


# One realisation before, for what libraries load at their first call.
MEASURED = """
import numpy as np
from skymill.engine.realisations import Realisation
from skymill.engine.spectrum_estimator import Estimator, SpectrumMap
from skymill.engine.worker import forget_peak_memory, resident_memory

def task_of(nside):
    cl = 1 / (np.arange(2 * nside + 1.0) + 10)
    estimator = Estimator({"a": SpectrumMap(), "b": SpectrumMap()}, 2 * nside)
    pairs = [("a", "b"), ("a", "a"), ("b", "b")]
    return Realisation.of(pairs, {("a", "a"): cl, ("b", "b"): cl}, estimator, nside=nside)

task = task_of(512)
task_of(16)(0)
forget_peak_memory()
before = resident_memory()
"""


def test_a_realisation_takes_the_memory_that_it_says() -> None:
    """In a fresh process: pieces of memory that earlier tests have freed and left make a peak that is not its own."""
    found = "[before, sum(task.memory().values())]"
    run = in_fresh_processes("task(0)", setup=MEASURED, found=found)
    before, told = run["found"]
    assert 0.5 * told < run["peak"] - before <= 1.05 * told


def test_a_realisation_that_keeps_failing_ends_the_run(weight: WeightMap, tmp_path: Path) -> None:
    task = Realisation.of(PAIRS, FIDUCIAL, estimator_of(), nside=NSIDE, weights={"w": weight})
    lost = {name: WeightMap(str(tmp_path / "lost.zarr"), "weight_gal") for name in ("a", "b")}
    with pytest.raises(RunError, match=r"realisation \d failed: StoreNotFoundError"):
        run_realisations(replace(task, weights=lost), 2, HERE)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with connect.connect(workers=2, threads=1, memory="2GB") as made:
        yield made


def test_a_cluster_draws_the_same(client: Any, weight: WeightMap) -> None:
    task = Realisation.of(PAIRS, FIDUCIAL, estimator_of(), nside=NSIDE, weights={"w": weight})
    there = run_realisations(task, 4, Run(client, Worker.from_client(client), False))
    assert np.array_equal(there, run_realisations(task, 4, HERE))
