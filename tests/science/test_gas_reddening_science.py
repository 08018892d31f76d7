"""The reddening map of gas against one from dust emission, on synthetic skies whose reddening is known.

Thresholds: science.md of the project, section 5.B, last row (Cheng et al. 2025, arXiv:2411.12801: 3.5 and 3.0 mmag
about reddening of stars against 4.2 and 3.1 mmag of SFD): injected coefficients are recovered, and where SFD carries
something like the infrared background the map of gas scatters less.
"""

from __future__ import annotations

import numpy as np
import pytest
import skymill as sm
from skymill.models.gas_sky import GasSky

pytestmark = [pytest.mark.science, pytest.mark.timeout(1200)]

NSIDE = 64
SEEDS = range(1, 9)
CLOUDS = ["truth_cloud_1", "truth_cloud_2", "truth_cloud_3", "nhii"]
CUTS = ["lvc", "ivc", "nhii"]
MAPS = [*CLOUDS, *CUTS[:2], "ebv_sfd", "ebv_stars", "mask", "truth_ebv"]
# Parts of the sky of 14.7 degrees are left out for errors: neighbouring pixels have the same background.
PARTS = 4


def analysed(store, seed, **options):
    """Fit, and comparison with stars, of one sky."""
    sm.simulate("gas", store, NSIDE, seed=seed, maps=MAPS, options=options, overwrite=True).run()
    common = {"mask": "mask", "jackknife": PARTS, "overwrite": True}
    fitted = sm.reddening(store, CLOUDS, **common).run()
    sm.reddening(store, CUTS, out="ebv_cuts", **common).run()
    maps = ["ebv", "ebv_cuts", "ebv_sfd", "truth_ebv"]
    factors = {"ebv_sfd": 0.86}
    return fitted, sm.compare_reddening(store, "ebv_stars", maps, factors=factors, mask="mask").run()


@pytest.fixture(scope="module")
def skies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gas")
    return [analysed(folder / f"{seed}.zarr", seed) for seed in SEEDS]


def truth():
    """What reddens how much, mmag per 1e20 cm^-2."""
    sky = GasSky()
    emissivity = np.array([*sky.emissivity()[:3], sky.hii * sky.emissivity()[0]])
    return sky.reddening * emissivity / sky.emissivity()[0]


def test_injected_coefficients_are_recovered(skies):
    found = np.array([fitted["coefficient"].sel(template=CLOUDS).values for fitted, _ in skies])
    off = found - truth()
    pulls = {
        key: off / np.array([fitted[key].sel(template=CLOUDS).values for fitted, _ in skies])
        for key in ("error", "jackknife_error")
    }
    for key, values in pulls.items():
        print(f"pulls by {key}: mean {values.mean():.2f}, standard deviation {values.std():.2f}")
    print("mean coefficients", found.mean(axis=(0, 1)), "injected", truth())
    assert np.abs(found.mean(axis=(0, 1)) / truth() - 1).max() < 0.03
    assert abs(pulls["jackknife_error"].mean()) < 0.5
    # The synthetic background is alike over more than the parts that are left out, so that even those errors are
    # somewhat small; the formal ones, which take pixels for independent, are far too small.
    assert 0.6 < pulls["jackknife_error"].std() < 1.8
    assert pulls["error"].std() > 1.3 * pulls["jackknife_error"].std()


@pytest.mark.parametrize("gas", ["ebv", "ebv_cuts"])
def test_gas_follows_stars_more_closely_than_sfd(skies, gas):
    scatter = np.array([compared["scatter"].sel(map=[gas, "ebv_sfd", "truth_ebv"]).values for _, compared in skies])
    for cap, name in enumerate(("ngc", "sgc")):
        means = scatter[:, cap].mean(axis=0)
        print(f"{name}: {gas} {means[0]:.2f}, ebv_sfd {means[1]:.2f}, truth {means[2]:.2f} mmag")
    assert (scatter[..., 0] < scatter[..., 1]).all()  # in every sky, in both caps


def test_the_slope_tells_what_the_background_does(skies):
    """Noise in the map that is compared flattens the slope; that of the gas stays 1."""
    slope = np.array([compared["slope"].sel(map=["ebv", "ebv_sfd"]).values for _, compared in skies])
    print("slopes of gas and SFD", slope.mean(axis=(0, 1)))
    assert abs(slope[..., 0].mean() - 1) < 0.01
    assert slope[..., 1].mean() < 0.99


def test_without_a_background_sfd_is_the_better_map(tmp_path):
    """The order above is no property of the method: it goes with what SFD carries."""
    fitted, compared = analysed(tmp_path / "clean.zarr", 3, sfd_cib=0.0, noise_ebv_sfd=0.0)
    scatter = compared["scatter"].sel(map=["ebv_cuts", "ebv_sfd"]).values
    assert (scatter[:, 1] < scatter[:, 0]).all()
    np.testing.assert_allclose(fitted["coefficient"].sel(template=CLOUDS), np.stack([truth()] * 2), rtol=1e-4)
