"""The verb `spectra`, against healpy, ducc0 and skies whose spectra are known."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import healpy as hp
import numpy as np
import pytest
import skymill as sm
import xarray as xr
from fresh import in_fresh_processes
from skies import write_map
from skymill.chunking import store as stores
from skymill.engine import spectra as module
from skymill.engine.beams import gaussian_beam
from skymill.engine.coupling import coupling_matrix
from skymill.engine.pixel_window import pixel_window

NSIDE, LMAX = 32, 64
ELL = np.arange(LMAX + 1)


def sky_of(cl, seed, nside=NSIDE):
    """Return a Gaussian map in RING order, float32, as a store keeps it."""
    rng = np.random.default_rng(seed)
    alm = np.zeros(hp.Alm.getsize(cl.size - 1), complex)
    degree, order = hp.Alm.getlm(cl.size - 1)
    drawn = rng.standard_normal((2, alm.size))
    alm[:] = np.sqrt(cl[degree]) * np.where(order == 0, drawn[0], (drawn[0] + 1j * drawn[1]) / math.sqrt(2))
    return hp.alm2map(alm, nside).astype(np.float32)


STEEP = np.where(ELL < 2, 0.0, 1.0 / np.maximum(ELL, 1) ** 2)


@pytest.fixture(scope="module")
def maps():
    a = sky_of(STEEP, 1)
    return {"a": a, "b": (0.5 * a + sky_of(0.2 * STEEP, 2)).astype(np.float32)}


@pytest.fixture(scope="module")
def cap():
    """Weights that fall smoothly to 0 at latitude 5 degrees, on one side."""
    latitude = hp.pix2ang(NSIDE, np.arange(12 * NSIDE**2), lonlat=True)[1]
    return np.clip((latitude + 10.0) / 30.0, 0.0, 1.0).astype(np.float32)


@pytest.fixture(scope="module")
def sky(tmp_path_factory, maps, cap):
    path = tmp_path_factory.mktemp("spectra") / "sky.zarr"
    for name, values in maps.items():
        write_map(path, NSIDE, values, name, beam_fwhm_arcmin=120.0 if name == "a" else None)
    write_map(path, NSIDE, cap, "weight_cap", unit="1")
    write_map(path, NSIDE, (cap == 0).astype(np.uint8), "mask_cap", unit="1", dtype="uint8", fill_value=1)
    write_map(path, NSIDE, (cap > 0).astype(np.uint8), "footprint", unit="1", dtype="uint8")
    noise = [np.random.default_rng(seed).normal(0, 0.1, cap.size).astype(np.float32) for seed in (3, 4)]
    for half, values in zip(("a_1", "a_2"), noise, strict=True):
        write_map(path, NSIDE, maps["a"] + values, half)
    return str(path)


def run(sky, pairs=(("a", "a"),), **options):
    return sm.spectra(sky, pairs, **{"lmax": LMAX, "weights": "pixel", **options}).run(progress=False)


@pytest.mark.parametrize(("precision", "tolerance"), [("double", 1e-12), ("single", 1e-6)])
def test_auto_and_cross_spectra_are_those_of_healpy(sky, maps, precision, tolerance):
    found = run(sky, [("a", "a"), ("a", "b"), ("b", "b")], precision=precision)
    assert found["cl"].dims == ("pair", "ell")
    assert found["pair"].values.tolist() == ["a x a", "a x b", "b x b"]
    np.testing.assert_array_equal(found["ell"], ELL)
    for row, (one, other) in enumerate((("a", "a"), ("a", "b"), ("b", "b"))):
        expected = hp.anafast(maps[one].astype(float), maps[other].astype(float), lmax=LMAX, iter=0)
        np.testing.assert_allclose(found["cl"][row, 2:], expected[2:], rtol=tolerance)


def test_ring_weights_and_iterations_come_closer_to_a_band_limited_truth(sky, maps):
    truth = hp.alm2cl(hp.map2alm(maps["a"].astype(float), lmax=LMAX, iter=20))
    errors = {}
    for weights, iterations in (("pixel", 1), ("ring", 1), ("iterate", 1), ("iterate", 4)):
        found = run(sky, weights=weights, iterations=iterations, precision="double")["cl"].values[0]
        errors[weights, iterations] = np.sqrt(np.mean((found[2:] / truth[2:] - 1) ** 2))
    assert errors["ring", 1] < 0.9 * errors["pixel", 1]
    assert errors["iterate", 1] < 0.2 * errors["ring", 1]
    assert errors["iterate", 4] < 0.1 * errors["iterate", 1]
    assert errors["iterate", 4] < 1e-4


def test_masked_pseudo_spectra(sky, maps, cap):
    found = run(sky, mask="weight_cap", precision="double")
    expected = hp.anafast(maps["a"].astype(float) * cap, lmax=LMAX, iter=0)
    mean = float(np.mean(cap.astype(float) ** 2))
    np.testing.assert_allclose(found["cl"][0], expected / mean, rtol=1e-10)
    np.testing.assert_allclose(found["pseudo_cl"][0], expected, rtol=1e-10)
    assert found["mean_weight"].item() == pytest.approx(mean, rel=1e-12)


def test_decoupled_bandpowers_are_those_of_the_full_matrix(sky, maps, cap):
    """MASTER by the plain recipe: pseudo-spectrum, matrix of all multipoles, bins, inverse."""
    beam = gaussian_beam(math.radians(2.0), LMAX)
    found = run(
        sky, [("a", "a"), ("a", "b")], mask="weight_cap", bins=8, window=True, beam={"a": 120.0}, precision="double"
    )
    weights_cl = hp.anafast(cap.astype(float), lmax=3 * NSIDE - 1, iter=0)
    full = coupling_matrix(weights_cl, LMAX)
    starts = np.arange(2, LMAX + 1 - 8 + 1, 8)
    average = np.array([np.where((start <= ELL) & (start + 8 > ELL), 1 / 8, 0.0) for start in starts])
    spread = (average > 0).astype(float)
    for row, (other, transfer) in enumerate((("a", beam**2), ("b", beam))):
        pseudo = hp.anafast(maps["a"] * cap.astype(float), maps[other] * cap.astype(float), lmax=LMAX, iter=0)
        coupled = average @ full * transfer
        expected = np.linalg.solve(coupled @ spread.T, average @ pseudo)
        np.testing.assert_allclose(found["cl"][row], expected, rtol=1e-9)
        np.testing.assert_allclose(
            found["window"][row], np.linalg.solve(coupled @ spread.T, coupled), atol=1e-9 * coupled.max()
        )
    assert found["cl"].dims == ("pair", "bin")
    np.testing.assert_allclose(found["ell"], starts + 3.5)
    np.testing.assert_array_equal(found["ell_stop"], starts + 8)
    f_sky = np.mean(cap.astype(float) ** 2) ** 2 / np.mean(cap.astype(float) ** 4)
    assert found["f_sky"].values == pytest.approx([f_sky] * 2)


def test_three_ways_to_give_a_mask(sky, cap):
    binary = run(sky, mask="footprint")
    assert binary["mean_weight"].item() == pytest.approx(np.mean(cap > 0))
    xr.testing.assert_equal(binary["cl"], run(sky, mask="mask_cap")["cl"])  # 1 there means not to be used
    one = run(sky, [("a", "b")], mask={"a": "weight_cap"})
    assert one["mean_weight"].item() == pytest.approx(np.mean(cap.astype(float)))


def test_masks_of_one_map_alone_are_decoupled(sky, maps):
    found = run(sky, [("a", "b")], mask={"a": "weight_cap"}, bins=16, lmax=LMAX, weights="ring", precision="double")
    truth = hp.anafast(maps["a"].astype(float), maps["b"].astype(float), lmax=LMAX)
    expected = [truth[start : start + 16].mean() for start in found["ell_start"].values]
    np.testing.assert_allclose(found["cl"][0, :-1], expected[:-1], rtol=0.35)


def test_beam_and_pixel_window_are_divided_out(sky):
    plain = run(sky, [("a", "b")])["cl"].values[0]
    beam = gaussian_beam(math.radians(2.0), LMAX)
    np.testing.assert_allclose(run(sky, [("a", "b")], beam=120.0)["cl"][0], plain / beam**2, rtol=1e-12)
    np.testing.assert_allclose(run(sky, [("a", "b")], beam={"b": 120.0})["cl"][0], plain / beam, rtol=1e-12)
    np.testing.assert_allclose(run(sky, [("a", "b")], beam={"a": beam})["cl"][0], plain / beam, rtol=1e-12)
    window = pixel_window(NSIDE, LMAX) ** 2
    np.testing.assert_allclose(run(sky, [("a", "b")], pixel_window=True)["cl"][0], plain / window, rtol=1e-12)
    np.testing.assert_allclose(run(sky, beam="store")["cl"][0], run(sky, beam=120.0)["cl"][0], rtol=1e-12)
    with pytest.raises(ValueError, match=r"does not say the beam of map 'b'"):
        run(sky, [("a", "b")], beam="store")


def test_monopole_and_dipole(sky, maps, cap, tmp_path):
    x, y, z = hp.pix2vec(NSIDE, np.arange(12 * NSIDE**2))
    tilted = (maps["a"] + 5.0 + 2.0 * x - 3.0 * z + y).astype(np.float32)
    other = write_map(tmp_path / "tilted.zarr", NSIDE, tilted, "a")
    write_map(other, NSIDE, cap, "weight_cap", unit="1")
    good = {"mask": "weight_cap", "precision": "double"}
    expected = hp.anafast(
        cap * (tilted - fitted(tilted, cap, [np.ones_like(x), x, y, z])), lmax=LMAX, iter=0
    ) / np.mean(cap.astype(float) ** 2)
    np.testing.assert_allclose(run(other, remove="dipole", **good)["cl"][0], expected, rtol=1e-6, atol=1e-9)
    level = hp.anafast(cap * (tilted - fitted(tilted, cap, [np.ones_like(x)])), lmax=LMAX, iter=0)
    found = run(other, remove="monopole", **good)["cl"][0] * np.mean(cap.astype(float) ** 2)
    np.testing.assert_allclose(found, level, rtol=1e-6, atol=1e-9)
    assert run(other, **good)["cl"][0, 0] > 5.0


def fitted(values, weights, shapes):
    """Return the weighted least-squares sum of some shapes."""
    table = np.stack(shapes, axis=1)
    share = weights.astype(float)[:, None] * table
    return table @ np.linalg.solve(share.T @ table, share.T @ values.astype(float))


def test_maps_of_two_stores(sky, maps, tmp_path):
    other = write_map(tmp_path / "other.zarr", NSIDE, maps["b"], "kappa", unit="1")
    write_map(other, NSIDE, maps["b"], "a")
    found = run(sky, [("a", "kappa"), ("a", "a")], other=other)
    np.testing.assert_allclose(found["cl"][0], run(sky, [("a", "b")])["cl"][0], rtol=1e-12)
    assert found["pair"].values.tolist() == ["a x kappa", "a x other:a"]
    assert found["unit"].values.tolist() == ["K", "(K)^2"]


def test_noise_of_halves(sky):
    found = run(sky, [("a", "a"), ("a", "b")], splits={"a": ("a_1", "a_2")}, bins=21)
    level = 4 * math.pi / (12 * NSIDE**2) * 0.1**2 / 2
    np.testing.assert_allclose(found["noise"][0], level, rtol=0.15)
    assert np.isnan(found["noise"][1]).all()


def test_errors(sky):
    knox = run(sky, [("a", "b")], mask="weight_cap", bins=16, errors="knox")
    autos = run(sky, [("a", "a"), ("b", "b")], mask="weight_cap", bins=16)["cl"].values
    expected = np.sqrt((knox["cl"][0] ** 2 + autos[0] * autos[1]) / (knox["f_sky"].item() * knox["modes"]))
    np.testing.assert_allclose(knox["error"][0], expected, rtol=1e-10)
    assert knox["p_value"].item() < 1e-6  # b holds half of a
    options = {"mask": "weight_cap", "bins": [12, 24, 36, 48, 60], "errors": "monte-carlo", "simulations": 16}
    scattered = run(sky, [("a", "b")], **options)
    assert 0.5 < float(scattered["error_ratio"].median()) < 2.0
    xr.testing.assert_identical(scattered["error"], run(sky, [("a", "b")], **options)["error"])
    assert not np.array_equal(scattered["error"], run(sky, [("a", "b")], seed=1, **options)["error"])
    louder = dict.fromkeys((("a", "a"), ("b", "b")), 4 * STEEP)
    assert (run(sky, [("a", "b")], fiducial=louder, **options)["error"] > scattered["error"]).any()


def test_spectrum_of_the_mask_may_end_early_and_that_is_told(sky, caplog):
    long = run(sky, mask="footprint", bins=16)
    with caplog.at_level(logging.WARNING, "skymill"):
        short = run(sky, mask="footprint", bins=16, lmax_mask=4)
    assert short.attrs["mask_power"] < 0.99 < long.attrs["mask_power"] <= 1 + 1e-3
    assert "of its power up to lmax_mask" in caplog.text
    assert not np.allclose(short["cl"], long["cl"], rtol=1e-6)


def test_out_dir_is_the_result_and_is_read_back(sky, tmp_path, monkeypatch):
    folder = tmp_path / "result"
    made = run(sky, bins=16, errors="knox", out_dir=folder)
    assert {"spectra.zarr", "spectra.csv", "spectra.png", "index.html", "report.json"} <= {
        p.name for p in folder.iterdir()
    }
    monkeypatch.setattr(module, "Stages", None)  # whoever would compute again fails
    xr.testing.assert_equal(run(sky, bins=16, errors="knox", out_dir=folder), made)
    monkeypatch.undo()
    with pytest.raises(FileExistsError, match=r"made by another run \(other bins, errors, weighting, weights\)"):
        sm.spectra(sky, [("a", "a")], lmax=LMAX, out_dir=folder)
    again = run(sky, bins=8, out_dir=folder, overwrite=True)
    assert again.sizes["bin"] > made.sizes["bin"]


def test_plan_says_what_it_would_do_and_writes_nothing(sky, tmp_path):
    plan = sm.spectra(sky, [("a", "b")], lmax=LMAX, bins=8, mask="weight_cap", scratch=tmp_path / "scratch")
    text = str(plan)
    assert "2 of nside 32 to lmax 64" in text
    assert "scratch" in text
    assert plan.seconds > 0
    assert plan.read_bytes > 2 * 4 * 12 * NSIDE**2
    assert not (tmp_path / "scratch").exists()
    assert not Path(sky + ".scratch").exists()


def test_scratch_space_is_where_it_was_asked_for_and_is_given_back(sky, tmp_path):
    report, scratch = tmp_path / "report.json", tmp_path / "scratch"
    # In a process of its own: the peak of one that has run other tests depends on what these have left.
    in_fresh_processes(
        f"plan = sm.spectra({sky!r}, [('a', 'b')], lmax={LMAX}, scratch={str(scratch)!r})\n"
        f"plan.run(progress=False, report={str(report)!r})",
        setup="import skymill as sm",
    )
    known = json.loads(report.read_text())
    assert known["verb"] == "spectra"
    assert known["seconds"]["leg2alm"] > 0
    assert 0 < known["peak_memory"] <= known["planned_memory"]
    assert not list(scratch.glob("*/*"))


def test_workers_threads_and_memory_change_nothing(sky):
    options = {"lmax": LMAX, "mask": "weight_cap", "bins": 8}
    alone = sm.spectra(sky, [("a", "b")], threads=1, **options).run(progress=False)
    xr.testing.assert_equal(alone, sm.spectra(sky, [("a", "b")], threads=3, **options).run(progress=False))
    tight = sm.spectra(sky, [("a", "b")], threads=1, memory=250_120_000, **options)
    assert tight.task_memory < sm.spectra(sky, [("a", "b")], threads=1, **options).task_memory
    xr.testing.assert_equal(alone, tight.run(progress=False))
    with sm.connect(workers=2, threads=1, memory="2GB") as client:
        xr.testing.assert_equal(alone, sm.spectra(sky, [("a", "b")], **options).run(client, progress=False))


def test_a_worker_too_small_is_told_so(sky):
    with pytest.raises(MemoryError, match=r"Any of these fits"):
        sm.spectra(sky, [("a", "a")], lmax=LMAX, memory=250_010_000).run()


BAD = [
    ({"pairs": []}, "`pairs` is empty"),
    ({"pairs": [("a",)]}, "a pair is two names"),
    ({"pairs": [("a", "c")]}, r"map 'c' is not in the store"),
    ({"lmax": 3 * NSIDE}, r"3 nside - 1 = 95"),
    ({"lmax": -1}, r"from 0 to 3 nside"),
    ({"lmax_mask": 3 * NSIDE, "mask": "weight_cap", "bins": 4}, r"`lmax_mask` 96"),
    ({"weights": "rings"}, r"did you mean 'ring'"),
    ({"iterations": 0}, r"1 or more"),
    ({"remove": "quadrupole"}, r"monopole"),
    ({"errors": "bayes"}, r"knox"),
    ({"errors": "monte-carlo", "simulations": 1}, r"two at least"),
    ({"fiducial": {("a", "a"): STEEP}}, r"without errors"),
    ({"precision": "half"}, r"single"),
    ({"transpose": "mail"}, r"auto"),
    ({"mask": "weight_hat"}, r"weight_cap"),
    ({"mask": {"c": "weight_cap"}}, r"which no pair does"),
    ({"beam": {"c": 5.0}}, r"which no pair does"),
    ({"splits": {"c": ("a_1", "a_2")}}, r"which no pair does"),
    ({"splits": {"a": ("a_1", "a_1")}}, r"names of two maps"),
    ({"window": True}, r"without `bins`"),
    ({"bins": [2, 10, 5]}, r"bins"),
    ({"bins": [(2, 10), (8, 12)]}, r"bins"),
    ({"bins": [(2, 2)]}, r"bins"),
    ({"bins": [2, 200]}, r"bins"),
    ({"bins": 0}, r"bins"),
]


@pytest.mark.parametrize(("options", "words"), BAD, ids=[str(options)[:40] for options, _ in BAD])
def test_bad_input_is_told_before_anything_is_written(sky, options, words):
    with pytest.raises((ValueError, KeyError), match=words):
        sm.spectra(sky, **{"pairs": [("a", "a")], "lmax": LMAX, **options})
    assert not Path(sky + ".scratch").exists()


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (np.zeros(12 * NSIDE**2), r"leaves no pixel"),
        (np.full(12 * NSIDE**2, -1.0), r"from 0 \(not used\) upwards"),
        (np.where(np.arange(12 * NSIDE**2) == 7, np.nan, 1.0), r"nan"),
    ],
    ids=["empty", "negative", "NaN"],
)
@pytest.mark.parametrize("bins", [None, 8])
def test_bad_masks(tmp_path, maps, weight, words, bins):
    store = write_map(tmp_path / "sky.zarr", NSIDE, maps["a"], "a")
    write_map(store, NSIDE, weight, "weight_bad", unit="1")
    with pytest.raises(ValueError, match=words):
        run(store, mask="weight_bad", bins=bins)
    assert not list(Path(store + ".scratch").glob("*/*"))


def test_pixels_without_a_value_need_a_mask(tmp_path, maps, cap):
    holes = np.where(cap > 0, maps["a"], np.nan)
    store = write_map(tmp_path / "sky.zarr", NSIDE, holes, "a")
    write_map(store, NSIDE, cap, "weight_cap", unit="1")
    with pytest.raises(ValueError, match=r"no value in \d+ pixels"):
        run(store)
    found = run(store, mask="weight_cap", precision="double")
    expected = hp.anafast(maps["a"].astype(float) * cap, lmax=LMAX, iter=0) / np.mean(cap.astype(float) ** 2)
    np.testing.assert_allclose(found["cl"][0], expected, rtol=1e-10)


def test_other_nside_and_other_frame(sky, tmp_path, maps):
    coarse = write_map(tmp_path / "coarse.zarr", 16, hp.ud_grade(maps["a"], 16), "c")
    with pytest.raises(ValueError, match=r"nside 32, .* has nside 16"):
        run(sky, [("a", "c")], other=coarse)
    turned = str(tmp_path / "turned.zarr")
    stores.create(turned, NSIDE, frame="icrs")
    stores.create_maps(turned, [stores.info(sky, "a")])
    with pytest.raises(ValueError, match=r"frame galactic, .* in icrs"):
        run(sky, [("a", "a")], other=turned)
