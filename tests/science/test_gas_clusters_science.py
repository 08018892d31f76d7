"""Clusters of voxels judged by synthetic clouds: the elbow at their number, the clouds found again, stable over seeds.

Thresholds: science.md of the project, section 5.B (Cheng et al. 2025, arXiv:2411.12801, appendix A and Fig. 4).
"""

from __future__ import annotations

import numpy as np
import pytest
import skymill as sm
from sklearn.metrics import adjusted_rand_score
from skymill.chunking import store as stores
from skymill.models.gas_clouds import profiles

NSIDE = 32
WITH_GAS = 0.02  # 1e20 cm^-2 a channel: above, a voxel counts as one of a cloud

pytestmark = [pytest.mark.science, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", params=[3, 5])
def clouds(request, tmp_path_factory):
    where = str(tmp_path_factory.mktemp("clouds") / f"{request.param}.zarr")
    sm.simulate("gas", where, NSIDE, seed=2, options={"clouds": request.param}).run(progress=False)
    return request.param, where


@pytest.mark.parametrize("cap", ["ngc", "sgc"])
def test_the_elbow_is_at_the_number_of_clouds(clouds, cap):
    count, sky = clouds
    found = sm.kmeans_search(
        sky,
        "n_hi",
        k=[1, 2, 3, 4, 5, 6, 7],
        v=[4.0, 16.0],
        n=[0.03, 0.1],
        rounds=0,
        n_init=4,
        templates=["nhii"],
        mask="mask",
        region=cap,
    ).run(progress=False)
    ratio = (found["best_chi2"] / found["best_chi2"].min()).values.round(2).tolist()
    print(f"\n{count} clouds, {cap}: k {found.attrs['k']}, w_v {found.attrs['v']:g}, w_n {found.attrs['n']:g}, {ratio}")
    assert found.attrs["k"] == count
    assert found.attrs["v"] > 1.0 > found.attrs["n"]  # x, y, z have weight 1


def labels_of_clouds(sky, count):
    """The cloud that gives most of the gas of each voxel, (channel, cells)."""
    held = sm.open(sky)
    shares = profiles(count, held.sizes["channel"]).mean(axis=1)
    columns = np.stack([held[f"truth_cloud_{place + 1}"].values for place in range(count)])
    return np.argmax(columns[:, None, :] * shares[:, :, None], axis=0)


def labels_of_clusters(sky, found):
    """The nearest centre of each voxel by the definition (eq. A2), (channel, cells)."""
    held, grid = sm.open(sky), stores.tiling_of(sky)
    lon, lat = (np.radians(each) for each in grid.lonlat(np.arange(grid.npix)))
    density = held["n_hi"].values / held["channel_width"].values[:, None]
    attributes = [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat), held["velocity"].values[:, None]]
    distance = 0.0
    for place, values in enumerate([*attributes, density]):
        factor = float(found["weight"][place]) / float(found["scale"][place])
        centre = found["centres"].values[:, place, None, None]
        distance = distance + factor**2 * (np.broadcast_to(values, density.shape)[None] - centre) ** 2
    return np.argmin(distance, axis=0)


# The five clouds overlap in velocity; only three are separated.
@pytest.mark.parametrize("clouds", [3], indirect=True)
@pytest.mark.parametrize("cap", ["ngc", "sgc"])
def test_separated_clouds_are_found_again(clouds, cap):
    count, sky = clouds
    options = {"weights": {"v": 5.0, "n": 0.2}, "mask": "mask", "region": cap}
    found = sm.kmeans(sky, "n_hi", k=3, seed=0, out=None, **options).run(progress=False)
    held = sm.open(sky)
    lat = stores.tiling_of(sky).lonlat(np.arange(12 * NSIDE**2))[1]
    used = (held["mask"].values > 0) & ((lat > 0) == (cap == "ngc"))
    there = (held["n_hi"].values > WITH_GAS) & used
    truth, own = labels_of_clouds(sky, count), labels_of_clusters(sky, found)
    with_gas = adjusted_rand_score(truth[there], own[there])
    every = adjusted_rand_score(truth[:, used].ravel(), own[:, used].ravel())
    stable = sm.kmeans_stability(sky, "n_hi", 3, seeds=range(5), **options).run(progress=False)
    mean = float(stable["mean_ari"])
    print(f"\n{cap}: ARI with the clouds {with_gas:.3f} (all voxels {every:.3f}), over five seeds {mean:.3f}")
    assert with_gas > 0.9
    assert mean > 0.9
