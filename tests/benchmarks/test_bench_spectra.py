"""Spectra and smoothing against ducc0 and healpy, disk to spectrum, in one run; each in a process of its own."""

from __future__ import annotations

import itertools
import os
import shutil

import numpy as np
import pytest
import skymill as sm
from fresh import in_fresh_processes
from skies import write_map
from skymill.chunking import store as stores
from skymill.engine.smooth_harmonic import natural_lmax
from skymill.engine.worker import available_cores
from timing import REPEATS, dusty_sky, median_seconds, show

NSIDE = int(os.environ.get("SKYMILL_BENCH_NSIDE", "4096"))
SMOOTH_NSIDE = min(NSIDE, 2048)

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

RING_MAP = """
import numpy as np
from skymill.chunking import store as stores
from skymill.chunking.tiling import Tiling
def ring_map(where, name, dtype):
    grid = stores.tiling_of(where)
    ring = np.empty(grid.npix, dtype)
    for tile in range(grid.n_tiles):
        ring[grid.to_ring(grid.pixels(tile))] = stores.read_tile(where, name, tile)
    return ring
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def ours(sky, lmax, threads, found="float(r['cl'][0, 10])"):
    options = f"lmax={lmax}, weights='pixel', threads={threads}"
    work = f"r = sm.spectra({sky!r}, [('i160', 'i160')], {options}).run(progress=False)"
    return in_fresh_processes(work, setup="import skymill as sm, xarray\nsm.spectra", found=found, repeats=REPEATS)


def ducc_in_memory(sky, lmax, threads, *, read=True):
    """With `read` from the store, otherwise from a map that is in memory in RING order already."""
    reading = f'ring = ring_map({sky!r}, "i160", np.float32)'
    work = f"""
{reading if read else ""}
info = ducc0.healpix.Healpix_Base({NSIDE}, "RING").sht_info()
alm = ducc0.sht.adjoint_synthesis(map=ring[None], lmax={lmax}, mmax={lmax}, spin=0, nthreads={threads}, **info)[0]
alm *= 4 * np.pi / ring.size
cl = np.zeros({lmax} + 1)
start = 0
for m in range({lmax} + 1):
    part = alm[start : start + {lmax} + 1 - m].astype(np.complex128)
    cl[m:] += (1 if m == 0 else 2) * (part.real**2 + part.imag**2)
    start += part.size
cl /= 2 * np.arange({lmax} + 1) + 1
"""
    setup = RING_MAP + "\nimport ducc0\n" + ("" if read else reading)
    return in_fresh_processes(work, setup=setup, found="float(cl[10])", repeats=REPEATS)


def healpy_in_memory(sky, lmax, repeats):
    work = f"""
ring = ring_map({sky!r}, "i160", np.float64)
cl = healpy.anafast(ring, lmax={lmax}, iter=0, use_pixel_weights=False)
"""
    return in_fresh_processes(work, setup=RING_MAP + "\nimport healpy", found="float(cl[10])", repeats=repeats)


def test_spectrum_against_peers(folder):
    sky, threads, lmax = dusty_sky(folder / "sky.zarr", NSIDE, ["i160"]), available_cores(), 2 * NSIDE
    for tile in range(stores.tiling_of(sky).n_tiles):  # into the page cache
        stores.read_tile(sky, "i160", tile)
    found = {
        f"skymill, {threads} threads": ours(sky, lmax, threads),
        f"ducc0 in memory, {threads} threads": ducc_in_memory(sky, lmax, threads),
        f"ducc0, {threads} threads, from a RING map in memory": ducc_in_memory(sky, lmax, threads, read=False),
        "healpy.anafast(iter=0)": healpy_in_memory(sky, lmax, 1),
        "skymill, 1 thread": ours(sky, lmax, 1),
    }
    workers = {count: over_dask(sky, lmax, count) for count in (1, 2)}
    mine = next(iter(found.values()))
    rows = [
        (who, run["seconds"], run["seconds"] / mine["seconds"], run["peak"] / 1e9, run["found"])
        for who, run in found.items()
    ]
    rows += [
        (f"skymill, Dask, {count} x 1", seconds, seconds / mine["seconds"], peak / 1e9, value)
        for count, (seconds, peak, value) in workers.items()
    ]
    notes = [
        "wall time from the NESTED store to C_l, median; peak memory of a process (of the largest worker over Dask)",
        f"two workers over one: {workers[1][0] / workers[2][0]:.2f} times as fast",
    ]
    title = f"Spectrum at nside {NSIDE} to lmax {lmax}, one map"
    show(title, ("who", "seconds", "time over ours", "peak, GB", "C_10"), rows, notes)
    values = [row[4] for row in rows]
    np.testing.assert_allclose(values, values[0], rtol=1e-5)
    assert mine["peak"] < 0.7e9


def over_dask(sky, lmax, workers):
    plan = sm.spectra(sky, [("i160", "i160")], lmax=lmax, weights="pixel")
    with sm.connect(workers=workers, threads=1, memory="4GB") as client:
        results = []
        seconds = median_seconds(lambda: results.append(plan.run(client, progress=False)))
    import json

    report = json.loads(results[-1].attrs["run"])
    return seconds, report["peak_memory"], float(results[-1]["cl"][0, 10])


def test_scaling_model(folder):
    """The time that a plan announces, and the time that its run takes."""
    rows = []
    for nside in (512, 1024, 2048, 4096):
        if nside > NSIDE:
            continue
        sky = dusty_sky(folder / f"scaling{nside}.zarr", nside, ["i160", "i250"])
        for lmax, pairs in ((nside, [("i160", "i160")]), (2 * nside, [("i160", "i250")])):
            plan = sm.spectra(sky, pairs, lmax=lmax)
            seconds = median_seconds(lambda plan=plan: plan.run(progress=False))
            rows.append((nside, lmax, len(set(pairs[0])), plan.seconds, seconds, seconds / plan.seconds))
        shutil.rmtree(sky)
    show(
        "Announced and measured time of spectra",
        ("nside", "lmax", "maps", "announced, s", "measured, s", "measured over announced"),
        rows,
        [f"{available_cores()} threads of one process"],
    )


def test_smoothing_against_healpy(folder):
    nside, threads = SMOOTH_NSIDE, available_cores()
    sky = dusty_sky(folder / "smooth.zarr", nside, ["i160"])
    grid, fwhm = stores.tiling_of(sky), np.radians(10.0 / 60.0)
    mine = in_fresh_processes(
        f"plan = sm.smooth({sky!r}, ['i160'], fwhm=10.0, out=f's{{os.getpid()}}', method='harmonic')\n"
        "report = plan.run(progress=False)",
        setup="import os\nimport skymill as sm, xarray\nsm.smooth",
        found="report.counts",
        repeats=REPEATS,
    )
    theirs = in_fresh_processes(
        f"ring = ring_map({sky!r}, 'i160', np.float64)\n"
        "smooth = healpy.smoothing(ring, fwhm=np.radians(10 / 60))\n"
        "nested = healpy.reorder(smooth, r2n=True)",
        setup=RING_MAP + "\nimport healpy",
    )
    once = in_fresh_processes(
        f"ring = ring_map({sky!r}, 'i160', np.float64)\n"
        f"smooth = healpy.smoothing(ring, fwhm=np.radians(10 / 60), iter=0, lmax={natural_lmax(grid, fwhm)})\n"
        "nested = healpy.reorder(smooth, r2n=True)",
        setup=RING_MAP + "\nimport healpy",
    )
    assert mine["found"] == {"computed": grid.n_tiles}
    rows = [
        (who, run["seconds"], run["seconds"] / mine["seconds"], run["peak"] / 1e9)
        for who, run in (
            (f"skymill, {threads} threads, store to store", mine),
            ("healpy.smoothing (iter=3), store to memory", theirs),
            ("healpy.smoothing(iter=0) with the same lmax", once),
        )
    ]
    show(
        f"Smoothing with 10 arcmin at nside {nside}",
        ("who", "seconds", "time over ours", "peak, GB"),
        rows,
        ["ours: median of three, ring weights, to the lmax where the beam has no effect left; healpy: one run each"],
    )


@pytest.mark.parametrize("nside", [256, 1024])
def test_accuracy_of_quadratures(folder, nside):
    """Spectra of skies that end at lmax, held against those that they were made from, by spectrum and quadrature."""
    import ducc0

    lmax = 2 * nside
    rows = []
    for slope in (0, -2, -3, -4):
        rng = np.random.default_rng(7)
        ell = np.arange(lmax + 1)
        sizes = np.where(ell < 2, 0.0, np.maximum(ell, 2.0) ** (slope / 2))
        harmonic = draw(rng, sizes)
        truth = spectrum(harmonic, lmax)
        info = ducc0.healpix.Healpix_Base(nside, "RING").sht_info()
        ring = ducc0.sht.synthesis(alm=harmonic[None], lmax=lmax, mmax=lmax, spin=0, nthreads=available_cores(), **info)
        sky = write_map(folder / f"quadrature{nside}{slope}.zarr", nside, ring[0].astype(np.float32))
        for weights, iterations in (("pixel", 1), ("ring", 1), ("iterate", 1), ("iterate", 3)):
            plan = sm.spectra(sky, [("a", "a")], lmax=lmax, weights=weights, iterations=iterations, precision="double")
            error = plan.run(progress=False)["cl"].values[0, 2:] / truth[2:] - 1
            bounds = [int(share * nside) for share in (0.05, 1, 1.5, 1.75, 2)]
            bands = [error[first : stop - 2] for first, stop in itertools.pairwise(bounds)]
            name = weights if weights != "iterate" else f"iterate, {iterations}"
            rows.append((f"l^{slope}", name, *(float(np.sqrt(np.mean(band**2))) for band in bands)))
        shutil.rmtree(sky)
    header = ("spectrum", "weights", "to nside", "to 1.5 nside", "to 1.75 nside", "to 2 nside")
    note = "rms of C_l / truth - 1 in four ranges of ell; maps stored in float32, full sky, band-limited at 2 nside"
    show(f"Accuracy of quadratures at nside {nside}", header, rows, [note])


def draw(rng, sizes):
    """Return Gaussian a_lm of a real sky, in the order of ducc0, with the spectrum sizes^2."""
    lmax = sizes.size - 1
    parts = []
    for m in range(lmax + 1):
        size = lmax + 1 - m
        values = (rng.standard_normal(size) + 1j * rng.standard_normal(size)) / np.sqrt(2)
        parts.append(sizes[m:] * (values if m else values.real * np.sqrt(2)))
    return np.concatenate(parts).astype(np.complex128)


def spectrum(harmonic, lmax):
    total, start = np.zeros(lmax + 1), 0
    for m in range(lmax + 1):
        part = harmonic[start : start + lmax + 1 - m]
        total[m:] += (1 if m == 0 else 2) * np.abs(part) ** 2
        start += part.size
    return total / (2 * np.arange(lmax + 1) + 1)
