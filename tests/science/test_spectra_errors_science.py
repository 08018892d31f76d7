"""Knox's errors against the scatter of Gaussian skies behind an apodised mask, and the nulls that rest on them.

Threshold: 10 % (science.md of the project, section 5.B; Cheng et al. 2025, arXiv:2411.12801, equation 23).
"""

from __future__ import annotations

import healpy as hp
import numpy as np
import pytest
from scipy.stats import kstest
from skymill.chunking import store as stores
from skymill.chunking.schema import MapInfo
from skymill.engine.binning import Bins
from skymill.engine.plan import Run
from skymill.engine.realisations import Realisation, WeightMap, run_realisations, scatter_of
from skymill.engine.spectrum_errors import knox_error, null_test
from skymill.engine.spectrum_estimator import Estimator, SpectrumMap
from skymill.engine.worker import Worker

NSIDE, LMAX = 64, 128
SKIES = 500
SCATTER_KNOWN_TO = 1 / np.sqrt(2 * (SKIES - 1))
NAMES = ("dust", "gas", "kappa")
PAIRS = [("dust", "dust"), ("dust", "kappa"), ("gas", "kappa"), ("kappa", "kappa"), ("gas", "gas")]

pytestmark = [pytest.mark.science, pytest.mark.timeout(1200)]


def spectra() -> dict[tuple[str, str], np.ndarray]:
    """A steep foreground twice, uncorrelated, and a lens that follows one of them."""
    ell = np.arange(LMAX + 1.0)
    steep = np.where(ell < 2, 0, 100 / (ell + 10) ** 2)
    lens = np.where(ell < 2, 0, 1 / (ell + 30))
    return {
        ("dust", "dust"): steep,
        ("gas", "gas"): steep,
        ("kappa", "kappa"): lens,
        ("dust", "kappa"): 0.3 * np.sqrt(steep * lens),
    }


@pytest.fixture(scope="module")
def skies(tmp_path_factory: pytest.TempPathFactory):
    """Estimator and pseudo-spectra of all skies, multipole by multipole."""
    where = str(tmp_path_factory.mktemp("science") / "sky.zarr")
    z = hp.pix2vec(NSIDE, np.arange(12 * NSIDE**2), nest=True)[2]
    away = np.clip((np.degrees(np.arcsin(np.abs(z))) - 20) / 12, 0, 1)  # C2 over 12 degrees
    weights = (away - np.sin(2 * np.pi * away) / (2 * np.pi)).astype(np.float32)
    stores.create(where, NSIDE, frame="galactic")
    stores.create_maps(where, [MapInfo("weight_galaxy", "weight", "1")])
    grid = stores.tiling_of(where)
    for tile in range(grid.n_tiles):
        stores.write_tile(where, "weight_galaxy", tile, weights[grid.tile_slice(tile)])
    beam = hp.gauss_beam(np.radians(1.0), LMAX)
    maps = {name: SpectrumMap(weight="w", transfer=None if name == "kappa" else beam) for name in NAMES}
    exact = weights.astype(np.float64)
    moments = {("w", "w"): (float(np.mean(exact**2)), float(np.mean(exact**4)))}
    mask_cl = {("w", "w"): hp.anafast(hp.reorder(exact, n2r=True), lmax=3 * NSIDE - 1)}
    estimator = Estimator(maps, LMAX, None, mask_cl, moments)
    task = Realisation.of(
        PAIRS, spectra(), estimator, nside=NSIDE, weights={"w": WeightMap(where, "weight_galaxy")}, seed=20
    )
    return maps, mask_cl, moments, task, run_realisations(task, SKIES, Run(None, Worker.here(), False))


def estimator_of(skies, bins: Bins) -> Estimator:
    maps, mask_cl, moments = skies[:3]
    return Estimator(maps, LMAX, bins, mask_cl, moments)


def ratios(skies, bins: Bins) -> np.ndarray:
    """Knox's error of the true spectra over the scatter, (pair, bin)."""
    estimator, task = estimator_of(skies, bins), skies[3]
    scatter = scatter_of(bins.average(skies[4]), task, estimator)
    truth = {**spectra(), ("gas", "kappa"): np.zeros(LMAX + 1)}
    mean = {pair: estimator.coupling(*pair).expected(cl) for pair, cl in truth.items()}
    away = (scatter.mean - np.array([mean[pair] for pair in PAIRS])) / scatter.error * np.sqrt(SKIES)
    assert np.sqrt(np.mean(away**2)) < 1.25  # unbiased: errors are about the truth
    knox = [knox_error(mean[a, b], mean[a, a], mean[b, b], estimator.modes, estimator.f_sky(a, b)) for a, b in PAIRS]
    return np.array(knox) / scatter.error


def test_knox_is_the_scatter_within_ten_percent(skies) -> None:
    # N_b counts the modes of bins whose multipoles weigh by their modes; bins of 16 are wider than the mask is sharp.
    found = ratios(skies, Bins(tuple(range(2, 114, 16)), tuple(range(18, 130, 16)), "2l+1"))
    print(found.round(3))
    assert np.abs(found - 1).max() < 0.10 + 2.5 * SCATTER_KNOWN_TO
    assert np.abs(found.mean(axis=1) - 1).max() < 0.10


def test_where_knox_is_too_small(skies) -> None:
    """What the documentation says of narrow bins and even weights is so."""
    edges = tuple(range(2, 114, 8)), tuple(range(10, 122, 8))
    by_modes, even = (ratios(skies, Bins(*edges, weighting)) for weighting in ("2l+1", "uniform"))
    print(by_modes.round(3), even.round(3), sep="\n")
    assert np.abs(by_modes.mean(axis=1) - 1).max() < 0.10
    # Evenly weighted multipoles of the first bin (2 to 9) waste modes: 96 count as 80, and steep spectra as fewer.
    assert (even[:, 0] < by_modes[:, 0]).all()
    assert np.abs(even[:, 1:].mean(axis=1) - 1).max() < 0.10


def test_p_values_of_true_nulls_are_uniform_behind_a_mask(skies) -> None:
    bins = Bins(tuple(range(2, 114, 16)), tuple(range(18, 130, 16)), "2l+1")
    estimator, averaged = estimator_of(skies, bins), bins.average(skies[4])
    cl = {pair: estimator.solve(*pair, averaged[:, place]) for place, pair in enumerate(PAIRS)}
    error = knox_error(0, cl["gas", "gas"], cl["kappa", "kappa"], estimator.modes, estimator.f_sky("gas", "kappa"))
    null = [null_test(*each)[2] for each in zip(cl["gas", "kappa"], error, strict=True)]
    corrected = error * (1 / ratios(skies, bins)[2])
    better = [null_test(*each)[2] for each in zip(cl["gas", "kappa"], corrected, strict=True)]
    print(kstest(null, "uniform"), np.mean(np.array(null) < 0.01), np.mean(np.array(null) < 0.05))
    print(kstest(better, "uniform"), np.mean(np.array(better) < 0.01), np.mean(np.array(better) < 0.05))
    assert np.mean(np.array(null) < 0.01) < 0.04  # Knox's errors are a little small, so nulls fail a little often
    assert kstest(better, "uniform").pvalue > 0.01
    signal = knox_error(0, cl["dust", "dust"], cl["kappa", "kappa"], estimator.modes, estimator.f_sky("dust", "kappa"))
    assert max(null_test(*each)[2] for each in zip(cl["dust", "kappa"], signal, strict=True)) < 1e-6
