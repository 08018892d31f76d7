"""Reddening maps from gas: coefficients against plain least squares, maps against healpy, and what cannot be."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import healpy as hp
import numpy as np
import pytest
import skymill as sm
from astropy.io import fits
from skies import content, write_map
from skymill.chunking import store as stores
from skymill.chunking.errors import IdentityError, InputError, MemoryLimitError, MissingMapError, UnitError
from skymill.engine.reddening_map import Upsampled

COARSE, FINE = 32, 64
MODEL = {"ngc": (11.0, 6.0, -1.0), "sgc": (9.0, 3.0, 2.0)}  # mmag per 1e20 cm^-2 of nhi and nhii, mmag
COLUMN = {"quantity": "column density", "unit": "1e20 cm^-2"}


def latitude(nside):
    return hp.pix2ang(nside, np.arange(12 * nside**2), lonlat=True)[1]


def smooth(seed, nside, level):
    """A positive map with structure on all scales down to some pixels, RING."""
    np.random.seed(seed)  # noqa: NPY002 - healpy draws from it
    ell = np.arange(2 * COARSE)
    field = hp.synfast(1.0 / (ell + 3.0) ** 2.5, nside, lmax=ell[-1])
    return level * np.exp(field / field.std() * 0.4)


@pytest.fixture(scope="module")
def skies():
    """RING maps: gas at both nsides, and SFD that is made of them, with noise."""
    nhi, nhii = smooth(1, FINE, 2.0), smooth(2, COARSE, 0.8)
    coarse = hp.ud_grade(nhi, COARSE)
    b = latitude(COARSE)
    north, south = (MODEL[cap][0] * coarse + MODEL[cap][1] * nhii + MODEL[cap][2] for cap in ("ngc", "sgc"))
    noise = np.random.default_rng(0).normal(0.0, 2.0, b.size)
    sfd = (np.where(b > 0, north, south) + noise) / 0.86e3
    return {"fine": nhi, "nhi": coarse, "nhii": nhii, "sfd": sfd, "b": b}


@pytest.fixture(scope="module")
def made(skies, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reddening")
    coarse, fine = str(folder / "coarse.zarr"), str(folder / "fine.zarr")
    write_map(coarse, COARSE, skies["nhi"], "nhi", **COLUMN)
    write_map(coarse, COARSE, skies["nhii"] / 3.0856775814913673e-2, "nhii", **{**COLUMN, "unit": "pc cm^-3"})
    write_map(coarse, COARSE, skies["sfd"], "ebv_sfd", quantity="reddening", unit="mag")
    write_map(coarse, COARSE, np.full(skies["b"].size, 2.0 / 0.86e3), "sigma", quantity="noise", unit="mag")
    write_map(coarse, COARSE, (skies["nhi"] < 2.2), "mask", quantity="mask", unit="1", dtype="uint8")
    write_map(coarse, COARSE, skies["nhi"], "kelvin", unit="K")
    # The same map in another unit: what is fitted in one must be written in the other.
    write_map(fine, FINE, skies["fine"] * 1e20, "nhi", **{**COLUMN, "unit": "cm^-2"})
    return coarse, fine


@pytest.fixture
def stores_of(made, tmp_path):
    """Copies, to be written to."""
    return tuple(shutil.copytree(where, tmp_path / where.rsplit("/", 1)[1]).as_posix() for where in made)


def ring_of(store, name):
    tiling = stores.tiling_of(store)
    nested = stores.read_cells(store, name, 0, tiling.npix)
    return hp.reorder(nested.astype("f8"), n2r=True)


def plainly(skies, used, offset=True):
    """Coefficients, their errors and the residual in mmag by NumPy."""
    columns = [skies["nhi"].astype("f4"), skies["nhii"].astype("f4"), *([np.ones(used.size)] if offset else [])]
    matrix = np.stack([np.asarray(c, "f8")[used] for c in columns], 1)
    y = 0.86e3 * skies["sfd"].astype("f4").astype("f8")[used]
    found = np.linalg.lstsq(matrix, y, rcond=None)[0]
    left = y - matrix @ found
    error = np.sqrt(np.diag(np.linalg.inv(matrix.T @ matrix)) * (left**2).sum() / (used.sum() - found.size))
    return found, error, left


# Coefficients


@pytest.mark.parametrize("offset", [True, False])
def test_coefficients_are_those_of_plain_least_squares_in_mmag_per_column(stores_of, skies, offset):
    found = sm.reddening(stores_of[0], ["nhi", "nhii"], offset=offset, mask="mask", jackknife=4).run()
    assert found["coefficient"].dims == ("region", "template")
    assert found["template"].values.tolist() == ["nhi", "nhii", "offset"][: 2 + offset]
    assert found["coefficient"].attrs["units"] == "mmag per 1e20 cm^-2; offset mmag"
    for cap, side in (("ngc", 1), ("sgc", -1)):
        used = (side * skies["b"] > 0) & (skies["nhi"] < 2.2)
        want, error, left = plainly(skies, used, offset)
        one = found.sel(region=cap)
        np.testing.assert_allclose(one["coefficient"], want, rtol=2e-5)
        np.testing.assert_allclose(one["error"], error, rtol=1e-4)
        np.testing.assert_allclose(np.diag(one["covariance"]), error**2, rtol=2e-4)
        assert float(one["scatter"]) == pytest.approx(left.std(ddof=1), rel=1e-5)
        assert float(one["median"]) == pytest.approx(np.median(left), abs=0.02)
        assert int(one["pixels"]) == used.sum()
        assert float(one["area"]) == pytest.approx(used.sum() * hp.nside2pixarea(COARSE, degrees=True))
        if offset:
            assert (np.abs(one["coefficient"] - list(MODEL[cap])) < 4 * one["error"]).all()
            assert (one["jackknife_error"] > 0).all()


def test_every_option_of_the_fit_changes_it(stores_of, skies):
    where, names = stores_of[0], ["nhi", "nhii"]
    base = sm.reddening(where, names, jackknife=None).run()
    assert "jackknife_error" not in base
    half = sm.reddening(where, names, factor=0.43, jackknife=None, out="half").run()
    np.testing.assert_allclose(half["coefficient"], base["coefficient"] / 2, rtol=1e-12)
    np.testing.assert_allclose(half["error"], base["error"] / 2, rtol=1e-12)
    np.testing.assert_allclose(half["scatter"], base["scatter"] / 2, rtol=1e-12)
    for noise in (2.0 / 0.86e3, "sigma"):
        told = sm.reddening(where, names, noise=noise, jackknife=None, out="told", overwrite=True).run()
        np.testing.assert_allclose(told["coefficient"], base["coefficient"], rtol=1e-4)
        assert np.abs(told["chi2"] / told["dof"] - 1).max() < 0.1
    polar = sm.reddening(where, names, region={"pole": "b > 50"}, jackknife=None, out="polar").run()
    want, _, _ = plainly(skies, skies["b"] > 50)
    np.testing.assert_allclose(polar["coefficient"].sel(region="pole"), want, rtol=2e-5)
    other = sm.reddening(where, "nhi", "ebv_sfd", jackknife=None, out="one").run()
    assert other.sizes["template"] == 2


# The map


@pytest.mark.parametrize("include_offset", [True, False])
def test_the_map_is_the_model_at_the_native_nside(stores_of, skies, include_offset):
    coarse, fine = stores_of
    found = sm.reddening(
        coarse, ["nhi", "nhii"], region={"ngc": "b > 20", "sgc": "b < -30"}, mask="mask", native=fine, jackknife=None,
        include_offset=include_offset,
    ).run()  # fmt: skip
    b = latitude(FINE)
    lon, lat = hp.pix2ang(FINE, np.arange(b.size), lonlat=True)
    raised = hp.get_interp_val(skies["nhii"].astype("f4").astype("f8"), lon, lat, lonlat=True)
    want = np.full(b.size, np.nan)
    for cap, used in (("ngc", b > 20), ("sgc", b < -30)):
        c = found["coefficient"].sel(region=cap).values
        want[used] = 1e-3 * (c[0] * skies["fine"] + c[1] * raised + c[2] * include_offset)[used]
    got = ring_of(fine, "ebv")
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want, rtol=2e-6)
    about = stores.info(fine, "ebv")
    assert (about.unit, about.quantity) == ("mag", "reddening")
    kept = about.provenance["coefficients"]["ngc"]
    assert kept["nhi"] == float(found["coefficient"].sel(region="ngc", template="nhi"))
    assert "ebv" not in stores.infos(coarse)


def test_what_is_interpolated_can_be_said_and_where_it_goes(stores_of, skies, tmp_path):
    coarse, fine = stores_of
    out = tmp_path / "out.zarr"
    sm.reddening(coarse, "nhi", native=fine, upsample=["nhi"], out="red", out_store=out, jackknife=None).run()
    own = sm.reddening(coarse, "nhi", native=fine, out="red", jackknife=None).run()
    smoothed, sharp = ring_of(out, "red"), ring_of(fine, "red")
    lon, lat = hp.pix2ang(FINE, np.arange(12 * FINE**2), lonlat=True)
    raised = hp.get_interp_val(skies["nhi"].astype("f4").astype("f8"), lon, lat, lonlat=True)
    c = own["coefficient"].sel(region="ngc").values
    north = lat > 0
    np.testing.assert_allclose(smoothed[north], 1e-3 * (c[0] * raised + c[1])[north], rtol=2e-6)
    assert np.nanstd(smoothed - sharp) > 0.02 * np.nanstd(sharp)


def test_interpolation_of_a_tile_is_that_of_healpy_with_missing_pixels_left_out(tmp_path):
    ring = smooth(5, 16, 1.0)
    ring[::17] = np.nan
    where = write_map(tmp_path / "m.zarr", 16, ring, "m", **COLUMN)
    fine = sm.Tiling(128)
    got = hp.reorder(
        np.concatenate(
            [
                Upsampled(where, stores.tiling_of(where), "m")(fine, t * fine.tile_npix, (t + 1) * fine.tile_npix)
                for t in range(fine.n_tiles)
            ]
        ),
        n2r=True,
    )
    lon, lat = hp.pix2ang(128, np.arange(fine.npix), lonlat=True)
    parent = ring[hp.ang2pix(16, lon, lat, lonlat=True)]
    np.testing.assert_array_equal(np.isnan(got), np.isnan(parent))
    full = ring.astype("f4").astype("f8")
    want = hp.get_interp_val(full, lon, lat, lonlat=True)  # NaN spreads: compared where it has not
    sure = np.isfinite(want)
    assert 0.5 < sure.mean() < 0.95
    np.testing.assert_allclose(got[sure], want[sure], rtol=1e-12)


def test_where_regions_overlap_the_first_counts(stores_of):
    coarse, _ = stores_of
    found = sm.reddening(coarse, "nhi", region={"pole": "b > 60", "rest": "b > 30"}, jackknife=None).run()
    got, gas, b = ring_of(coarse, "ebv"), ring_of(coarse, "nhi"), latitude(COARSE)
    for region, used in (("pole", b > 60), ("rest", (b > 30) & (b <= 60))):
        slope, offset = found["coefficient"].sel(region=region).values
        np.testing.assert_allclose(got[used], 1e-3 * (slope * gas + offset)[used], rtol=2e-6)
    assert np.isnan(got[b <= 30]).all()


def test_another_order_of_regions_that_overlap_is_another_map(stores_of):
    coarse, _ = stores_of
    regions = {"pole": "b > 60", "rest": "b > 30"}
    sm.reddening(coarse, "nhi", region=regions, jackknife=None).run()
    turned = dict(reversed(regions.items()))
    with pytest.raises(IdentityError):
        sm.reddening(coarse, "nhi", region=turned, jackknife=None).run()
    found = sm.reddening(coarse, "nhi", region=turned, jackknife=None, overwrite=True).run()
    slope, offset = found["coefficient"].sel(region="rest").values
    used = latitude(COARSE) > 60
    np.testing.assert_allclose(
        ring_of(coarse, "ebv")[used], 1e-3 * (slope * ring_of(coarse, "nhi") + offset)[used], rtol=2e-6
    )


def test_a_frame_of_its_own_for_the_cap(tmp_path, skies):
    """The galactic caps are those of the sky, whatever the frame of the store."""
    where = str(tmp_path / "icrs.zarr")
    stores.create(where, COARSE, frame="icrs")
    from skymill.chunking.schema import MapInfo

    stores.create_maps(where, [MapInfo("nhi", **COLUMN), MapInfo("ebv_sfd", "reddening", "mag")])
    grid = stores.tiling_of(where)
    for tile in range(grid.n_tiles):
        gas = skies["nhi"][grid.to_ring(grid.pixels(tile))].astype("f4")
        stores.write_tile(where, "nhi", tile, gas)
        stores.write_tile(where, "ebv_sfd", tile, (0.01 * gas + 0.001).astype("f4"))
    sm.reddening(where, "nhi", region={"ngc": "b > 20"}, jackknife=None).run()
    value = sm.ReddeningQuery(where)
    assert value.ebv(10.0, 60.0) > 0
    assert np.isnan(value.ebv(10.0, -60.0))


# Runs


def test_the_same_to_the_last_bit_for_any_number_of_threads(made, tmp_path):
    kept = []
    for threads in (1, 3):
        coarse, fine = (shutil.copytree(w, tmp_path / f"{threads}{i}").as_posix() for i, w in enumerate(made))
        found = sm.reddening(coarse, ["nhi", "nhii"], native=fine, threads=threads).run()
        kept.append((content(fine, "ebv"), found["coefficient"].values.tobytes()))
    assert kept[0] == kept[1]
    assert kept[0][0]


@pytest.mark.slow
def test_the_same_to_the_last_bit_on_a_cluster(made, tmp_path):
    kept = []
    with sm.connect(workers=2, threads=1, memory="1GB") as client:
        for place, where in enumerate((None, client)):
            coarse, fine = (shutil.copytree(w, tmp_path / f"{place}{i}").as_posix() for i, w in enumerate(made))
            found = sm.reddening(coarse, ["nhi", "nhii"], native=fine).run(where)
            kept.append(
                (content(fine, "ebv"), found["coefficient"].values.tobytes(), found["scatter"].values.tobytes())
            )
            compared = sm.compare_reddening(coarse, "ebv_sfd", "ebv_sfd", slope=0.5).run(where)
            kept[-1] += (compared["scatter"].values.tobytes(),)
    assert kept[0] == kept[1]


@pytest.mark.faults
def test_killed_again_and_again_it_ends_in_the_same_bytes(stores_of, tmp_path):
    coarse, fine = stores_of
    other = shutil.copytree(fine, tmp_path / "other.zarr").as_posix()
    work = (
        "import sys, skymill as sm; sm.reddening(sys.argv[1], ['nhi', 'nhii'], native=sys.argv[2], jackknife=4).run()"
    )
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", work, coarse, other], check=True, capture_output=True)
    whole = time.monotonic() - began
    chance = random.Random(4)
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", work, coarse, fine], stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.5, 1.1) * whole)  # any moment will do; which one it is depends on the machine
        child.kill()
        code = child.wait()
        assert code in (0, -signal.SIGKILL)
        if code == 0:
            shutil.rmtree(f"{fine}/ebv/c")  # done too soon: begin anew with what the ledger promises lost
    subprocess.run([sys.executable, "-c", work, coarse, fine], check=True, capture_output=True)
    assert content(fine, "ebv") == content(other, "ebv")


def test_a_run_that_was_stopped_continues_and_mends(stores_of):
    coarse, fine = stores_of
    plan = sm.reddening(coarse, ["nhi", "nhii"], native=fine)
    assert "0 done already" in str(plan)
    assert "interpolated from nside 32: nhii" in str(plan)
    assert "ebv" not in stores.infos(fine)
    plan.run()
    before = content(fine, "ebv")
    shard = sorted((Path(fine) / "ebv" / "c").iterdir())[3]
    shard.unlink()
    (Path(fine) / "ledger" / "ebv" / "c" / "5").unlink()
    again = sm.reddening(coarse, ["nhi", "nhii"], native=fine)
    assert "1 to do, 11 done already" in str(again)
    again.run()
    assert content(fine, "ebv") == before
    with pytest.raises(IdentityError, match="factor"):
        sm.reddening(coarse, ["nhi", "nhii"], native=fine, factor=1.0)
    sm.reddening(coarse, ["nhi", "nhii"], native=fine, factor=1.0, overwrite=True).run()
    assert content(fine, "ebv") != before


def test_the_folder_holds_numbers_and_figure(stores_of, tmp_path):
    found = sm.reddening(stores_of[0], ["nhi", "nhii"], jackknife=4, out_dir=tmp_path / "out").run(
        report=tmp_path / "report.json"
    )
    kept = json.loads((tmp_path / "out" / "reddening.json").read_text())
    assert kept["variables"]["coefficient"]["values"] == found["coefficient"].values.tolist()
    assert json.loads((tmp_path / "report.json").read_text())["attributes"]["target"] == "ebv_sfd"
    assert (tmp_path / "out" / "residuals.png").stat().st_size > 5000
    page = (tmp_path / "out" / "index.html").read_text()
    assert f"{float(found['coefficient'][0, 0]):.4f}" in page
    assert f"{float(found['scatter'][1]):.3f}" in page


@pytest.mark.parametrize("partial", [False, True])
def test_the_map_goes_to_fits_and_back(stores_of, tmp_path, partial):
    coarse, fine = stores_of
    sm.reddening(coarse, ["nhi", "nhii"], region={"ngc": "b > 30"}, native=fine, jackknife=None).run()
    sm.export(fine, "ebv", tmp_path / "ebv.fits", ordering="nested", partial=partial).run()
    back = hp.read_map(tmp_path / "ebv.fits", dtype=np.float32)
    want = ring_of(fine, "ebv").astype("f4")
    assert hp.get_nside(back) == FINE
    np.testing.assert_array_equal(np.where(back == hp.UNSEEN, np.nan, back), want)
    header = fits.getheader(tmp_path / "ebv.fits", 1)
    units = [header[f"TUNIT{n}"] for n in range(1, header["TFIELDS"] + 1) if header[f"TTYPE{n}"] == "ebv"]
    assert units == ["mag"]
    # And a query says what healpy reads.
    lon, lat = np.array([10.0, 100.0, 200.0]), np.array([50.0, 80.0, -50.0])
    np.testing.assert_array_equal(
        sm.ReddeningQuery(fine).ebv(lon, lat).astype("f4"), want[hp.ang2pix(FINE, lon, lat, lonlat=True)]
    )


# Bad input


def test_too_little_memory_is_told_before_anything_is_written(stores_of):
    coarse, fine = stores_of
    with pytest.raises(MemoryLimitError, match="memory="):
        sm.reddening(coarse, ["nhi", "nhii"], native=fine, memory="100MB").run()
    with pytest.raises(MemoryLimitError, match="memory="):
        sm.compare_reddening(coarse, "ebv_sfd", "ebv_sfd", memory="100MB").run()
    assert "ebv" not in stores.infos(fine)


def test_what_cannot_be_is_told(stores_of, tmp_path, skies):
    coarse, fine = stores_of
    with pytest.raises(UnitError, match=r"'kelvin'.*column density"):
        sm.reddening(coarse, ["nhi", "kelvin"])
    with pytest.raises(UnitError, match=r"'nhii'.*mag"):
        sm.reddening(coarse, "nhi", "nhii")
    with pytest.raises(MissingMapError, match="nh2"):
        sm.reddening(coarse, ["nhi", "nh2"])
    with pytest.raises(InputError, match="`templates` is empty"):
        sm.reddening(coarse, [])
    for name in ("nhi", "ebv_sfd"):  # the template, and what it was fitted to
        with pytest.raises(InputError, match=f"'{name}' came, a map that is read"):
            sm.reddening(coarse, "nhi", out=name, overwrite=True)
    with pytest.raises(InputError, match="over a map that it reads"):
        sm.reddening(coarse, ["nhi", "nhii"], native=fine, out="nhi", overwrite=True)
    for factor in (0.0, -0.86):  # errors of a negative one would be negative
        with pytest.raises(InputError, match=r"`factor`.*above 0"):
            sm.reddening(coarse, "nhi", factor=factor)
    with pytest.raises(InputError, match="factor"):
        sm.reddening(coarse, "nhi", factor="0.86")
    with pytest.raises(InputError, match="region"):
        sm.reddening(coarse, "nhi", region={})
    with pytest.raises(InputError, match="without `native`"):
        sm.reddening(coarse, "nhi", upsample=["nhi"])
    with pytest.raises(InputError, match="templates are nhi"):
        sm.reddening(coarse, "nhi", native=fine, upsample=["nhii"])
    with pytest.raises(MissingMapError, match="upsample"):
        sm.reddening(coarse, ["nhi", "nhii"], native=fine, upsample=[])
    small = write_map(tmp_path / "small.zarr", 8, np.ones(768), "nhi", **COLUMN)
    with pytest.raises(InputError, match="finer"):
        sm.reddening(coarse, ["nhi", "nhii"], native=small)
    stores.create(tmp_path / "icrs.zarr", FINE, frame="icrs")
    with pytest.raises(InputError, match="frame"):
        sm.reddening(coarse, "nhi", native=tmp_path / "icrs.zarr")
    write_map(coarse, COARSE, 2 * skies["nhi"].astype("f4"), "twice", **COLUMN)
    with pytest.raises(InputError, match="collinear"):
        sm.reddening(coarse, ["nhi", "twice"]).run()
    with pytest.raises(InputError, match="folder on this machine"):
        sm.reddening(coarse, "nhi", out_dir="s3://bucket/page").run()
    with pytest.raises(InputError, match="is a store of maps"):
        sm.reddening(coarse, "nhi", out_dir=coarse).run()
    assert "ebv" not in stores.infos(coarse)
    with pytest.raises(InputError, match="nowhere"):
        sm.reddening(coarse, "nhi", region={"nowhere": "b > 30 and b < 20"}).run()
