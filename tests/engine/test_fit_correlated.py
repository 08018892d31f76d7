"""Fits with correlated noise from stores: against the dense covariance matrix, options, bad input, memory."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest
import skymill as sm
from fresh import in_fresh_processes
from skies import write_map
from skymill.chunking import store as stores
from skymill.chunking.errors import InputError, MemoryLimitError, RunError, UnitError
from skymill.engine import fit_correlated
from skymill.engine.fit_correlated import needed_memory, planned_memory, solve_correlated
from skymill.engine.given_noise import noise_spectra, white_noise
from skymill.engine.harmonic_noise import HarmonicNoise
from skymill.engine.plan import RESERVED_BYTES, Run
from skymill.engine.used_pixels import UsedPixels
from skymill.engine.worker import Worker, format_bytes, parse_bytes

NSIDE, LMAX = 8, 20
NPIX = 12 * NSIDE**2
ELL = np.arange(LMAX + 1.0)
CIB = 1 / (ELL + 1) ** 1.5
SHALLOW = 0.02 / (ELL + 1)
TEMPLATES, TARGETS = ("nhi", "nhii"), ("i545", "i857")
RUN = Run(None, Worker.here(1), False)


def directions(nside: int = NSIDE) -> np.ndarray:
    """Unit vectors of all pixels in RING order, (3, pixel)."""
    import healpy as hp

    return np.array(hp.pix2vec(nside, np.arange(12 * nside**2)))


def dense(pixels: np.ndarray, cl: np.ndarray, variance: np.ndarray, nside: int = NSIDE) -> np.ndarray:
    """The covariance matrix of some pixels, from Legendre polynomials."""
    where = directions(nside)[:, pixels]
    ell = np.arange(cl.size)
    cosine = np.clip(where.T @ where, -1, 1)
    return np.polynomial.legendre.legval(cosine, (2 * ell + 1) / (4 * np.pi) * cl) + np.diag(variance)


def dense_fit(design: np.ndarray, data: np.ndarray, matrix: np.ndarray):
    inverse = np.linalg.inv(matrix)
    spread = np.linalg.inv(design @ inverse @ design.T)
    theta = spread @ design @ inverse @ data
    left = data - theta @ design
    return theta, spread, left @ inverse @ left


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """Two templates, two bands, noise as sigma and as variance, a mask; pixels missing here and there."""
    where = tmp_path_factory.mktemp("correlated") / "sky.zarr"
    rng = np.random.default_rng(1)
    nhi, nhii = rng.lognormal(1, 0.7, NPIX), rng.lognormal(0, 0.5, NPIX)
    sigma = rng.uniform(0.1, 0.6, NPIX)
    mask = np.abs(directions()[2]) > 0.3
    mask[rng.integers(0, NPIX, 20)] = False
    nhii[5] = np.nan
    i857 = 0.43 * nhi + 0.5 * nhii + 2 + rng.normal(size=NPIX)
    i857[700] = np.nan
    maps = {
        "nhi": (nhi, {"quantity": "column density", "unit": "1e20 cm^-2"}),
        "nhii": (nhii, {"quantity": "column density", "unit": "1e20 cm^-2"}),
        "i545": (0.14 * nhi + 0.2 * nhii - 1 + 0.3 * rng.normal(size=NPIX), {"unit": "MJy/sr"}),
        "i857": (i857, {"unit": "MJy/sr"}),
        "sigma": (sigma, {"unit": "MJy/sr"}),
        "sigma_small": (sigma * 1e3, {"unit": "kJy/sr"}),
        "variance": (sigma.astype(np.float32).astype(float) ** 2, {"unit": "MJy^2/sr^2"}),
        "flawed": (np.where(np.arange(NPIX) == 3, 0, sigma), {"unit": "MJy/sr"}),
        "negative": (np.where(np.arange(NPIX) == 3, -1, sigma), {"unit": "MJy/sr"}),
        "kelvin": (sigma, {"unit": "K_CMB"}),
        "mask": (mask, {"quantity": "mask", "unit": "1", "dtype": "uint8"}),
        "nothing": (np.zeros(NPIX), {"quantity": "mask", "unit": "1", "dtype": "uint8"}),
    }
    for name, (values, about) in maps.items():
        address = write_map(where, NSIDE, values, name, **about)
    return address


def solve(store, *, templates=TEMPLATES, targets=TARGETS, noise=0.3, spectrum=CIB, lmax=None, offset=True, **options):
    run = options.pop("run", RUN)
    mask = options.pop("mask", "mask")
    region = options.pop("region", None)
    used = UsedPixels.of(store, mask, region)
    return solve_correlated(store, used, templates, targets, noise, spectrum, lmax, offset, run, **options)


def ring(store, name):
    grid = stores.tiling_of(store)
    values = np.empty(grid.npix)
    values[grid.to_ring(np.arange(grid.npix))] = stores.read_cells(store, name, 0, grid.npix)
    return values


def pixels_used(store, names=(*TEMPLATES, *TARGETS), mask="mask"):
    return np.flatnonzero(np.all([np.isfinite(ring(store, name)) for name in names], axis=0) & (ring(store, mask) == 1))


def compare(found, band, store, target, cl, variance, *, offset=True, rtol=1e-8):
    pixels = pixels_used(store)
    rows = [ring(store, name)[pixels] for name in TEMPLATES] + [np.ones(pixels.size)] * offset
    theta, spread, chi2 = dense_fit(np.array(rows), ring(store, target)[pixels], dense(pixels, cl, variance[pixels]))
    assert found["pixels"] == pixels.size
    assert found["dof"] == pixels.size - len(rows)
    assert np.allclose(found["coefficient"][band], theta, rtol=rtol)
    assert np.allclose(found["covariance"][band], spread, rtol=rtol)
    assert found["chi2"][band] == pytest.approx(chi2, rel=rtol)


def test_the_operator_is_the_dense_matrix():
    rng = np.random.default_rng(2)
    pixels = np.sort(rng.choice(NPIX, 200, replace=False))
    variance = rng.uniform(0.1, 2, 200)
    operator = HarmonicNoise(NSIDE, pixels, CIB, variance)
    values = rng.normal(size=200)
    assert np.allclose(operator.apply(values), dense(pixels, CIB, variance) @ values, rtol=0, atol=1e-12)


def test_the_preconditioner_is_symmetric_positive_and_near_the_inverse():
    rng = np.random.default_rng(3)
    steep = 10 * CIB[:13]
    operator = HarmonicNoise(NSIDE, np.arange(NPIX), steep, np.full(NPIX, 0.1))
    matrix = np.array([operator.precondition(row) for row in np.eye(NPIX)])
    assert np.allclose(matrix, matrix.T, rtol=0, atol=1e-12 * np.abs(matrix).max())
    sizes = np.sort(np.linalg.eigvals(matrix @ dense(np.arange(NPIX), steep, np.full(NPIX, 0.1))).real)
    # 1 but for the quadrature of HEALPix, which the monopole, 6000 times above the noise, makes the most of.
    assert sizes[0] > 0.95
    assert sizes[-3] < 1.06
    assert sizes[-1] < 4
    some = np.sort(rng.choice(NPIX, 300, replace=False))
    operator = HarmonicNoise(NSIDE, some, 1e3 * CIB, rng.uniform(0.01, 1, 300))
    matrix = np.array([operator.precondition(row) for row in np.eye(300)])
    assert np.linalg.eigvalsh((matrix + matrix.T) / 2).min() > 0


def test_equal_to_the_dense_matrix_with_noise_of_two_kinds(sky):
    sigma = ring(sky, "sigma")
    found = solve(sky, noise={"i545": "sigma", "i857": 0.25}, spectrum={"i545": SHALLOW, "i857": CIB})
    compare(found, 0, sky, "i545", SHALLOW, sigma**2)
    compare(found, 1, sky, "i857", CIB, np.full(NPIX, 0.25**2))
    assert found["lmax"] == LMAX
    assert all(0 < number < 40 for number in found["iterations"])
    assert max(found["reached"]) <= 1e-6
    for matrix in found["covariance"]:
        assert np.array_equal(matrix, matrix.T)


def test_equal_to_the_dense_matrix_without_offset(sky):
    found = solve(sky, offset=False, noise="sigma")
    assert found["coefficient"].shape == (2, 2)
    compare(found, 1, sky, "i857", CIB, ring(sky, "sigma") ** 2, offset=False)


def test_noise_maps_in_other_units_and_as_variance(sky):
    sigma = solve(sky, noise="sigma")
    for name, digits in (("sigma_small", 1e-6), ("variance", 1e-6)):
        other = solve(sky, noise=name)
        assert np.allclose(other["coefficient"], sigma["coefficient"], rtol=digits)
        assert np.allclose(other["covariance"], sigma["covariance"], rtol=digits)


def test_no_correlation_is_weighted_least_squares(sky):
    found = solve(sky, noise="sigma", spectrum=np.zeros(5))
    pixels = pixels_used(sky)
    weight = 1 / ring(sky, "sigma")[pixels]
    design = np.array([*(ring(sky, name)[pixels] for name in TEMPLATES), np.ones(pixels.size)]) * weight
    data = np.array([ring(sky, name)[pixels] for name in TARGETS]) * weight
    theta, left, _, _ = np.linalg.lstsq(design.T, data.T)
    assert np.allclose(found["coefficient"], theta.T, rtol=1e-10)
    assert np.allclose(found["covariance"], np.linalg.inv(design @ design.T), rtol=1e-10)
    assert np.allclose(found["chi2"], left, rtol=1e-10)
    assert found["iterations"] == (1, 1)


def test_bands_together_are_the_same_as_alone(sky):
    both = solve(sky)
    for band, target in enumerate(TARGETS):
        # A band alone has other missing pixels; the mask of both is that of i857.
        alone = solve(sky, targets=(target,), templates=TEMPLATES, noise={target: 0.3}, region="i857 > -1e9")
        assert np.allclose(alone["coefficient"][0], both["coefficient"][band], rtol=1e-9)
        assert np.allclose(alone["covariance"][0], both["covariance"][band], rtol=1e-9)


def test_threads_tiles_and_workers_change_no_bit(sky, tmp_path):
    known = solve(sky, noise="sigma")
    other = str(tmp_path / "tiles.zarr")
    stores.create(other, NSIDE, frame="galactic", tile_nside=4)
    for name in (*TEMPLATES, *TARGETS, "sigma"):
        write_map(other, NSIDE, ring(sky, name), name, unit=stores.info(sky, name).unit)
    write_map(other, NSIDE, ring(sky, "mask"), "mask", quantity="mask", unit="1", dtype="uint8")
    with sm.connect() as client:
        runs = [
            solve(sky, noise="sigma", run=Run(None, Worker.here(2), False)),
            solve(other, noise="sigma", run=Run(None, Worker.here(3), False)),
            solve(other, noise="sigma", run=Run(client, Worker.from_client(client), False)),
        ]
    for found in runs:
        for name in ("coefficient", "covariance", "chi2"):
            assert np.array_equal(found[name], known[name])


def test_every_option_changes_the_result(sky):
    plain = solve(sky)
    for changed in (
        {"noise": 0.4},
        {"noise": "sigma"},
        {"spectrum": 2 * CIB},
        {"spectrum": {"i545": CIB, "i857": 2 * CIB}},
        {"lmax": 10},
        {"mask": None},
        {"region": "b > 0"},
        {"templates": TEMPLATES[:1]},
        {"targets": TARGETS[::-1]},
        {"offset": False},
        {"tolerance": 1e-3},
    ):
        found = solve(sky, **changed)
        same = found["coefficient"].shape == plain["coefficient"].shape
        assert not (same and np.array_equal(found["coefficient"][1], plain["coefficient"][1])), changed
    assert solve(sky, tolerance=1e-3)["iterations"] < plain["iterations"] < solve(sky, tolerance=1e-10)["iterations"]
    with pytest.raises(RunError, match=r"after 2 iterations .* 1e-06 is wanted"):
        solve(sky, max_iterations=2)


def test_default_lmax_is_what_is_given_and_what_the_grid_holds(sky):
    assert solve(sky)["lmax"] == LMAX
    assert np.array_equal(solve(sky, lmax=10)["coefficient"], solve(sky, spectrum=CIB[:11])["coefficient"])
    long = np.concatenate([CIB, np.full(30, CIB[-1])])
    assert solve(sky, spectrum=long)["lmax"] == 3 * NSIDE - 1


def test_spectra_from_files_and_results(sky, tmp_path):
    known = solve(sky)
    table = tmp_path / "cl.txt"
    np.savetxt(table, np.column_stack([ELL, CIB]), fmt="%d %.17g")
    for given in (table, str(table), {"i545": table, "i857": CIB}, {(name, name): CIB for name in TARGETS}):
        assert np.array_equal(solve(sky, spectrum=given)["coefficient"], known["coefficient"])


def test_a_target_that_is_a_template_and_one_that_is_the_noise(sky):
    found = solve(sky, targets=("nhi", "i857"), noise={"nhi": 0.3, "i857": "sigma"})
    assert np.allclose(found["coefficient"][0], [1, 0, 0], atol=1e-12)
    compare(found, 1, sky, "i857", CIB, ring(sky, "sigma") ** 2)
    assert np.isfinite(solve(sky, targets=("sigma",), noise="sigma")["coefficient"]).all()


def test_an_offset_alone_and_a_template_alone(sky):
    found = solve(sky, templates=(), targets=("i545",))
    assert found["coefficient"].shape == (1, 1)
    assert np.isfinite(found["covariance"]).all()
    assert solve(sky, templates=("nhi",), offset=False)["covariance"].shape == (2, 1, 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"spectrum": np.where(ELL == 4, -1e-9, CIB)},
            r"`noise_spectrum` of 'i545' came with -1e-09 at ell 4; .*smooth",
        ),
        ({"spectrum": np.where(ELL == 4, np.nan, CIB)}, r"`noise_spectrum` came with nan at ell 4"),
        ({"spectrum": np.where(ELL == 4, np.inf, CIB)}, r"`noise_spectrum` came with inf at ell 4"),
        ({"spectrum": "nowhere.txt"}, "spectra nowhere.txt cannot be read"),
        ({"spectrum": {"i857": CIB}}, "has no spectrum of 'i545'"),
        ({"spectrum": {"i999": CIB}}, "has the key 'i999'; give spectra by target: i545, i857"),
        ({"spectrum": {"i545": CIB, "i857": CIB, "i858": CIB}}, "of 'i858' came; did you mean 'i857'"),
        ({"lmax": 21}, "ends at ell 20, `lmax` 21 came"),
        ({"lmax": 24}, "`lmax` 24 came; .* 3 nside - 1 = 23"),
        ({"lmax": -1}, "`lmax` -1 came"),
        ({"noise": None}, "`noise` of 'i545' is not given; .*no inverse"),
        ({"noise": {"i545": 0.3}}, "`noise` of 'i857' is not given"),
        ({"noise": 0.0}, "'i545' came as 0.0; sigma of a pixel is a number above 0"),
        ({"noise": -1.0}, "above 0"),
        ({"noise": float("nan")}, "above 0"),
        ({"noise": "flawed", "mask": None}, r"noise map 'flawed' holds 0 \(1 such pixels"),
        ({"noise": "negative", "mask": None}, r"noise map 'negative' holds -1 \(1 such pixels"),
        ({"mask": "nothing"}, "no pixel of .* is used"),
        ({"templates": ("nhi", "nhi")}, "'nhi' came twice in `templates`"),
        ({"targets": ("i857", "i857")}, "'i857' came twice in `targets`"),
        ({"templates": ("sigma", "sigma_small")}, "sigma, sigma_small depend on each other"),
        ({"templates": ("nhi", "mask")}, "'mask' is constant"),
        ({"tolerance": 0.0}, "`tolerance` 0.0 came"),
        ({"max_iterations": 0}, "`max_iterations` 0 came"),
    ],
)
def test_bad_input(sky, changed, message):
    with pytest.raises(InputError, match=message):
        solve(sky, **changed)


def test_a_fit_that_does_not_converge_speaks_of_its_own_options(sky, monkeypatch):
    monkeypatch.setattr(fit_correlated, "solve_correlated", partial(solve_correlated, max_iterations=1))
    with pytest.raises(RunError, match="a smaller `lmax`") as told:
        sm.fit(sky, TEMPLATES, "i857", noise=0.3, noise_spectrum=CIB, mask="mask").run(progress=False)
    assert "max_iterations" not in str(told.value)


def test_spectra_in_another_unit_are_refused(sky, tmp_path):
    out, small = tmp_path / "spectra", tmp_path / "small.zarr"
    for unit, factor in (("MJy/sr", 1.0), ("kJy/sr", 1e3)):
        values = factor * np.nan_to_num(ring(sky, "i545"))
        write_map(small, NSIDE, values, "i545", unit=unit)
        found = sm.spectra(str(small), [("i545", "i545")], lmax=12, out_dir=out / unit[0]).run(progress=False)
        options = {"noise": 0.3, "noise_spectrum": found, "mask": "mask"}
        for given in (found, out / unit[0], out / unit[0] / "spectra.csv", {"i545": found}):
            options["noise_spectrum"] = given
            if unit == "MJy/sr":
                sm.fit(sky, TEMPLATES, "i545", **options)
                continue
            with pytest.raises(UnitError, match=r"of 'i545' is in \(kJy/sr\)\^2, the map in MJy/sr"):
                sm.fit(sky, TEMPLATES, "i545", **options)
        small = tmp_path / "other.zarr"


def test_noise_in_another_unit(sky):
    with pytest.raises(UnitError, match=r"noise map 'kelvin' is in 'K_CMB', target 'i545' in 'MJy/sr'"):
        solve(sky, noise="kelvin")


@pytest.mark.parametrize("name", ["sigma", "sigma_small", "variance", "negative", 0.3])
def test_standard_deviations_of_pixels(sky, name):
    def read(each):
        return np.concatenate([stores.read_tile(sky, each, tile) for tile in range(stores.tiling_of(sky).n_tiles)])

    found = white_noise(sky, "i857", name).sigma({} if name == 0.3 else {name: read(name)}, NPIX)
    expected = np.full(NPIX, 0.3) if name == 0.3 else read("sigma").astype(np.float64)
    if name == "negative":
        expected[read("negative") < 0] = np.nan
        assert np.isnan(expected).sum() == 1
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_memory_tells_what_fits_and_it_does(sky, monkeypatch):
    monkeypatch.setattr(fit_correlated, "RESERVED_BYTES", 0)
    run = Run(None, Worker(100_000, 1), False)
    with pytest.raises(MemoryLimitError, match=r"in one process, with 5 columns and lmax 20: .*Any of these fits") as e:
        solve(sky, run=run)
    memory = parse_bytes(re.search(r"memory=([\d.]+ \w+)", str(e.value))[1])
    assert solve(sky, run=Run(None, Worker(int(1.01 * memory), 1), False))["pixels"] > 0
    pixels, nside, lmax = re.search(
        r"leaves ([\d,]+) pixels; maps resampled to nside (\d+) with lmax (\d+)", str(e.value)
    ).groups()
    assert sum(needed_memory(NSIDE, int(pixels.replace(",", "")), 4, 5, LMAX).values()) <= 100_000
    assert int(nside) < NSIDE
    assert int(lmax) <= 2 * int(nside)


def test_the_plan_knows_the_most_that_it_takes(sky):
    used = UsedPixels.of(sky, "mask", "b > 0")
    known = planned_memory(sky, used, TEMPLATES, TARGETS, "sigma", CIB, None, True)
    assert known == needed_memory(NSIDE, NPIX, 5, 5, LMAX)
    apart = planned_memory(sky, used, TEMPLATES, TARGETS, {"i545": "sigma", "i857": 0.3}, CIB, 10, False)
    assert apart == needed_memory(NSIDE, NPIX, 5, 3, 10)
    with pytest.raises(InputError, match="`noise` of 'i857' is not given"):
        planned_memory(sky, used, TEMPLATES, TARGETS, {"i545": 0.3}, CIB, None, True)


def test_the_plan_of_a_fit_counts_what_solving_takes(sky):
    given = {"noise": "sigma", "noise_spectrum": CIB, "mask": "mask", "region": {"n": "b > 0", "all": None}}
    plan = sm.fit(sky, TEMPLATES, TARGETS, memory="2GB", **given)
    most = sum(needed_memory(NSIDE, NPIX, 5, 5, LMAX).values())
    assert plan.reserved == RESERVED_BYTES + most
    assert f"at most {format_bytes(most)} in this process" in str(plan)
    assert "of sums" not in str(plan)
    assert plan.refit(plan.worker).reserved == RESERVED_BYTES  # workers of a cluster only read
    # Where all pixels of the tiles do not fit, the run counts those that are used.
    little = sm.fit(sky, TEMPLATES, TARGETS, memory=RESERVED_BYTES + most, threads=1, **given)
    assert little.reserved == RESERVED_BYTES
    assert np.isfinite(little.run(progress=False)["coefficient"]).all()


SETUP = """
import numpy as np
import skymill as sm
from skymill.engine.fit_correlated import planned_memory, solve_correlated
from skymill.engine.plan import RESERVED_BYTES, Run
from skymill.engine.used_pixels import UsedPixels
from skymill.engine.worker import Worker
what = {store!r}, UsedPixels.of({store!r}), ["a", "b", "c"], ["d"], 1.0, 1e-3 / (np.arange(257.0) + 1), None, True
planned = RESERVED_BYTES + sum(planned_memory(*what).values())
"""


@pytest.mark.slow
def test_the_peak_stays_below_the_plan(tmp_path):
    rng = np.random.default_rng(5)
    for name in "abcd":
        store = write_map(tmp_path / "sky.zarr", 256, rng.lognormal(size=12 * 256**2), name)
    work = "found = solve_correlated(*what, Run(None, Worker.here(2), False))"
    told = in_fresh_processes(work, setup=SETUP.format(store=store), found="planned")
    assert told["peak"] <= told["found"]
    assert told["found"] <= 2 * told["peak"]


def test_spectra_by_target_and_for_all():
    found, lmax = noise_spectra({"a": CIB, "b": SHALLOW[:15]}, ["a", "b"], NSIDE, None)
    assert lmax == 14
    assert np.array_equal(found["a"], CIB[:15])
    assert np.array_equal(found["b"], SHALLOW[:15])
