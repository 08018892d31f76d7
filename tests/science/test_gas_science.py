"""Template fits judged by synthetic truth over many skies: pulls, coverage of errors, templates that trade.

Thresholds: science.md of the project, section 5.B (Cheng et al. 2025, arXiv:2411.12801, eq. 8-9).  Every target of a
fit is a sky of its own: two hundred simulations are two hundred targets, fitted in one pass.
"""

from __future__ import annotations

import ducc0
import numpy as np
import pytest
import skymill as sm
from skymill.chunking import store as stores
from skymill.chunking.schema import MapInfo
from skymill.models.gls import accumulate

NSIDE = 32
SKIES = 200
TRUTH = {"nhi": 0.43, "nhii": 0.21, "nh2": 0.0, "offset": 0.6}  # MJy/sr per 1e20 cm^-2 at 857 GHz, and MJy/sr
PULLS_SEED = 2
SIGMA = 0.03  # MJy/sr, times 0.7 to 1.3 over the sky

pytestmark = [pytest.mark.science, pytest.mark.timeout(1800)]


def field(rng, slope=0.0, fwhm=0.0):
    """Return a Gaussian sky with C_l ~ (l + 1)^slope behind a beam (degrees), standardised, in NESTED order."""
    lmax = 2 * NSIDE
    ell = np.arange(lmax + 1)
    beam = np.exp(-0.5 * ell * (ell + 1) * np.radians(fwhm / 2.3548) ** 2)
    size = np.where(ell > 0, (ell + 1.0) ** (slope / 2), 0.0) * beam
    parts = []
    for m in range(lmax + 1):
        values = rng.standard_normal(lmax + 1 - m) + 1j * rng.standard_normal(lmax + 1 - m)
        parts.append(size[m:] * (values if m else values.real * np.sqrt(2)))
    info = ducc0.healpix.Healpix_Base(NSIDE, "RING").sht_info()
    alm = np.concatenate(parts).astype(complex)[None]
    ring = ducc0.sht.synthesis(alm=alm, lmax=lmax, mmax=lmax, spin=0, **info)[0]
    nested = ring[sm.Tiling(NSIDE).to_ring(np.arange(12 * NSIDE**2))]
    return (nested - nested.mean()) / nested.std()


def write(path, maps):
    where = str(path)
    stores.create(where, NSIDE, frame="galactic")
    infos = [MapInfo(name, name, "MJy/sr" if name[0] in "is" else "1e20 cm^-2") for name in maps]
    stores.create_maps(where, infos)
    grid = stores.tiling_of(where)
    for name, values in maps.items():
        for tile in range(grid.n_tiles):
            stores.write_tile(where, name, tile, values[grid.tile_slice(tile)].astype(np.float32))
    return where


def gas(rng, likeness=0.3):
    """HI and HII columns that follow each other a little, and an H2 column that is noise."""
    hi = field(rng, -2.8)
    hii = likeness * hi + np.sqrt(1 - likeness**2) * field(rng, -2.4)
    maps = {"nhi": 2.0 * np.exp(0.5 * hi), "nhii": np.exp(0.4 * hii), "nh2": 0.3 * rng.standard_normal(hi.size)}
    sigma = SIGMA * rng.uniform(0.7, 1.3, hi.size)
    return {name: values.astype(np.float32) for name, values in {**maps, "sigma": sigma}.items()}


def signal(maps):
    return TRUTH["offset"] + sum(TRUTH[name] * maps[name].astype(float) for name in ("nhi", "nhii"))


def pulls(found, error="error"):
    names = [str(name) for name in found["template"].values]
    truth = np.array([TRUTH[name] for name in names])
    return names, ((found["coefficient"] - truth) / found[error]).values


def test_pulls_over_many_skies(tmp_path):
    """Standard deviations of 200 pulls are known to 5 %: one seed of six has one of four beyond 10 % by chance alone.

    Of the seeds 1 to 8 the first has one (1.105), the others none; the test below holds 2000 skies to tighter bounds.
    """
    rng = np.random.default_rng(PULLS_SEED)
    maps = gas(rng)
    skies = [f"i{number}" for number in range(SKIES)]
    maps |= {name: signal(maps) + maps["sigma"] * rng.standard_normal(12 * NSIDE**2) for name in skies}
    where = write(tmp_path / "sky.zarr", maps)
    found = sm.fit(where, ["nhi", "nhii", "nh2"], skies, noise="sigma", region="|b| > 25", jackknife=4).run(
        progress=False
    )
    for error in ("error", "jackknife_error"):
        names, values = pulls(found, error)
        for name, mean, std in zip(names, values.mean(0), values.std(0, ddof=1), strict=True):
            print(f"{error} of {name}: mean pull {mean:+.3f}, standard deviation {std:.3f}")
        assert np.all(np.abs(values.mean(0)) < 0.2)
        assert np.all((values.std(0, ddof=1) > 0.9) & (values.std(0, ddof=1) < 1.1))
    reduced = (found["chi2"] / found["dof"]).values
    print(f"chi^2 / dof {reduced.mean():.4f} +- {reduced.std():.4f}, {int(found['pixels'][0])} pixels")
    assert abs(reduced.mean() - 1) < 5 * np.sqrt(2 / float(found["dof"][0]) / SKIES)
    assert found.attrs["statement"] == ""


def test_pulls_over_two_thousand_skies():
    rng = np.random.default_rng(10)
    maps = gas(rng)
    names = ("nhi", "nhii", "nh2")
    design, sigma = np.array([maps[name].astype(float) for name in names]), maps["sigma"].astype(float)
    used = np.abs(sm.Tiling(NSIDE).lonlat(np.arange(sigma.size))[1]) > 25
    truth = np.array(list(TRUTH.values()))
    values = []
    for _ in range(20):
        skies = signal(maps)[used] + sigma[used] * rng.standard_normal((100, used.sum()))
        found = accumulate(design[:, used], skies, sigma[used] ** -2).solve(variance=np.ones(100))
        values.append((found.coefficient - truth) / found.error)
    mean, std = np.concatenate(values).mean(0), np.concatenate(values).std(0, ddof=1)
    print(f"2000 skies: mean pulls {np.round(mean, 3).tolist()}, standard deviations {np.round(std, 3).tolist()}")
    assert np.all(np.abs(mean) < 0.08)
    assert np.all(np.abs(std - 1) < 0.05)  # three standard deviations


def test_scatter_of_dust_to_gas_needs_the_jackknife(tmp_path):
    """10 % of scatter in the dust of each hydrogen atom, alike over 4 degrees: residuals are no white noise."""
    rng = np.random.default_rng(2)
    maps = gas(rng)
    skies = [f"i{number}" for number in range(SKIES)]
    for name in skies:
        ratio = 1 + 0.1 * field(rng, fwhm=4.0)
        dust = TRUTH["nhi"] * maps["nhi"] * ratio + TRUTH["nhii"] * maps["nhii"] + TRUTH["offset"]
        maps[name] = dust + maps["sigma"] * rng.standard_normal(dust.size)
    where = write(tmp_path / "sky.zarr", maps)
    options = {"noise": "sigma", "region": "|b| > 25"}
    found = {
        nside: sm.fit(where, ["nhi", "nhii"], skies, jackknife=nside, **options).run(progress=False) for nside in (2, 4)
    }
    names, formal = pulls(found[4])
    covered = {"formal": np.mean(np.abs(formal) < 1, axis=0)}
    for nside, each in found.items():
        covered[f"jackknife, nside {nside}"] = np.mean(np.abs(pulls(each, "jackknife_error")[1]) < 1, axis=0)
    for kind, share in covered.items():
        listed = ", ".join(f"{name} {100 * number:.0f} %" for name, number in zip(names, share, strict=True))
        print(f"within one {kind} error: {listed}")
    assert np.all(covered["formal"] < 0.35)
    # Binomial scatter of 200 is 3.3 %.  Parts of 29 degrees are independent; those of 15 less so, as their neighbours
    # share what lies at their edges.
    assert np.all(np.abs(covered["jackknife, nside 2"] - 0.68) < 0.08)
    assert np.all(covered["jackknife, nside 4"] > 0.5)
    said = found[4].attrs["statement"].splitlines()
    assert sum("formal errors of" in line for line in said) == SKIES


def test_a_template_of_noise_gets_nothing(tmp_path):
    rng = np.random.default_rng(3)
    maps = gas(rng)
    skies = [f"i{number}" for number in range(20)]
    maps |= {name: signal(maps) + maps["sigma"] * rng.standard_normal(12 * NSIDE**2) for name in skies}
    where = write(tmp_path / "sky.zarr", maps)
    with_it = sm.fit(where, ["nhi", "nhii", "nh2"], skies, noise="sigma").run(progress=False)
    without = sm.fit(where, ["nhi", "nhii"], skies, noise="sigma").run(progress=False)
    h2 = (with_it["coefficient"] / with_it["error"]).sel(template="nh2").values
    others = ["nhi", "nhii", "offset"]
    moved = (np.abs(with_it["coefficient"] - without["coefficient"]) / without["error"]).sel(template=others).values
    print(f"H2 over its error: first sky {h2[0]:+.2f}, of {h2.size} within 2 sigma {np.mean(np.abs(h2) < 2):.2f}")
    print(f"others move by at most {moved.max():.3f} sigma")
    assert abs(h2[0]) < 2
    assert np.mean(np.abs(h2) < 2) >= 0.85
    assert moved.max() < 1


@pytest.mark.parametrize("likeness", [0.3, 0.995])
def test_hii_that_follows_hi_is_flagged(tmp_path, likeness):
    rng = np.random.default_rng(4)
    maps = gas(rng, likeness)
    maps["nhii"] = (maps["nhi"] * 0.5 * (1 + (1 - likeness) * 2 * field(rng, -2.4))).astype(np.float32)
    maps["i857"] = signal(maps) + maps["sigma"] * rng.standard_normal(12 * NSIDE**2)
    found = sm.fit(write(tmp_path / "sky.zarr", maps), ["nhi", "nhii"], "i857", noise="sigma").run(progress=False)
    condition, correlation = float(found["condition"][0]), float(found["correlation"][0, 0, 1])
    print(f"likeness {likeness}: condition {condition:.1f}, correlation of the coefficients {correlation:.3f}")
    flagged = "nhi trades against nhii" in found.attrs["statement"]
    assert flagged == (likeness > 0.9)
    assert (condition > 30) == flagged
    assert np.all(np.abs(pulls(found)[1]) < 4)  # told, and right within its errors all the same
