"""Pseudo-spectra turned into a result: held against healpy on the full sky and brute force under masks."""

from __future__ import annotations

from typing import Any

import healpy as hp
import numpy as np
import pytest
from skymill.chunking.errors import InputError
from skymill.engine.binning import Bins
from skymill.engine.correlated import draw
from skymill.engine.realisations import Scatter
from skymill.engine.spectra_result import assemble, with_scatter
from skymill.engine.spectrum_errors import knox_error
from skymill.engine.spectrum_estimator import Estimator, SpectrumMap, needed_pairs

LMAX = 24
BINS = Bins.from_edges([2, 6, 12, 25])
MASK = 4 * np.pi * 0.3 * np.exp(-0.4 * np.arange(20.0))
MOMENTS = (0.4, 0.3)


def spectra_of(*names: str, lmax: int = LMAX, seed: int = 0) -> dict[tuple[str, str], np.ndarray]:
    """Spectra of all pairs that some maps can have."""
    rng = np.random.default_rng(seed)
    maps = {name: rng.standard_normal((lmax + 1, 40)) for name in names}
    return {(a, b): np.mean(maps[a] * maps[b], axis=1) for a in names for b in names if a <= b}


def brute_force_coupling(mask_cl: np.ndarray, lmax: int) -> np.ndarray:
    """The coupling matrix, its 3j symbols squared as integrals of three Legendre polynomials."""
    x, weight = np.polynomial.legendre.leggauss(2 * lmax + mask_cl.size)
    legendre = np.polynomial.legendre.legvander(x, max(lmax, mask_cl.size - 1))
    ell, ell_mask = np.arange(lmax + 1), np.arange(mask_cl.size)
    matrix = np.zeros((lmax + 1, lmax + 1))
    for l1 in ell:
        for l2 in ell:
            squared = (weight * legendre[:, l1] * legendre[:, l2]) @ legendre[:, : mask_cl.size] / 2
            matrix[l1, l2] = (2 * l2 + 1) * np.sum((2 * ell_mask + 1) / (4 * np.pi) * mask_cl * squared)
    return matrix


def masked(bins: Bins | None = BINS, transfer: np.ndarray | None = None) -> Estimator:
    maps = {"a": SpectrumMap("K_CMB", "w", transfer), "b": SpectrumMap("1", "w")}
    return Estimator(maps, LMAX, bins, {("w", "w"): MASK}, {("w", "w"): MOMENTS})


def full(bins: Bins | None = None, **transfers: np.ndarray) -> Estimator:
    return Estimator({name: SpectrumMap(transfer=transfers.get(name)) for name in ("a", "b")}, LMAX, bins)


def test_full_sky_is_anafast() -> None:
    nside = 16
    rng = np.random.default_rng(1)
    maps = [rng.standard_normal(12 * nside**2) for _ in range(2)]
    alms = [hp.map2alm(values, lmax=LMAX, iter=0) for values in maps]
    pseudo = {("a", "a"): hp.alm2cl(alms[0]), ("b", "a"): hp.alm2cl(*alms)}
    found = assemble([("a", "a"), ("a", "b")], pseudo, full())
    assert found["cl"].dims == ("pair", "ell")
    assert found["ell"].values.tolist() == list(range(LMAX + 1))
    np.testing.assert_allclose(found["cl"][0], hp.anafast(maps[0], lmax=LMAX, iter=0), rtol=1e-12)
    expected = hp.anafast(maps[0], maps[1], lmax=LMAX, iter=0)
    np.testing.assert_allclose(found["cl"].sel(pair="a x b"), expected, rtol=1e-10)
    assert found["f_sky"].values.tolist() == [1, 1]


def test_full_sky_in_bins_is_the_mean_over_the_transfer() -> None:
    beams = {"a": np.exp(-0.01 * np.arange(LMAX + 1.0)), "b": np.full(LMAX + 1, 0.5)}
    pseudo = {("a", "b"): np.arange(LMAX + 1.0)}
    found = assemble([("a", "b")], pseudo, full(BINS, **beams))
    product = beams["a"] * beams["b"]
    expected = [
        pseudo[("a", "b")][s:e].mean() / product[s:e].mean() for s, e in zip(BINS.starts, BINS.stops, strict=True)
    ]
    np.testing.assert_allclose(found["cl"][0], expected, rtol=1e-12)
    assert found["ell_start"].values.tolist() == [2, 6, 12]
    assert found["ell_stop"].values.tolist() == [6, 12, 25]
    np.testing.assert_allclose(found["ell"], BINS.ell)


def test_without_bins_beams_go_out_multipole_by_multipole() -> None:
    beam = np.linspace(1, 0, LMAX + 1)
    pseudo = {("a", "a"): np.ones(LMAX + 1)}
    cl = assemble([("a", "a")], pseudo, full(a=beam))["cl"].values[0]
    np.testing.assert_allclose(cl[:-1], 1 / beam[:-1] ** 2)
    assert np.isnan(cl[-1])  # nothing is left of it in the map


def test_without_bins_a_mask_is_the_f_sky_approximation() -> None:
    pseudo = {("a", "a"): np.arange(LMAX + 1.0)}
    found = assemble([("a", "a")], pseudo, masked(None))
    np.testing.assert_allclose(found["cl"][0], pseudo[("a", "a")] / 0.4)
    assert "left coupled" in found.attrs["estimator"]


@pytest.mark.parametrize("transfer", [None, np.exp(-0.02 * np.arange(LMAX + 1.0))])
def test_decoupling_undoes_what_a_mask_does_by_brute_force(transfer: np.ndarray | None) -> None:
    flat = np.zeros(LMAX + 1)
    bandpowers = [5.0, 2.0, 1.0]
    for start, stop, value in zip(BINS.starts, BINS.stops, bandpowers, strict=True):
        flat[start:stop] = value
    beam = np.ones(LMAX + 1) if transfer is None else transfer
    matrix = brute_force_coupling(MASK, LMAX)
    pseudo = {("a", "a"): matrix @ (beam**2 * flat), ("a", "b"): matrix @ (beam * flat)}
    found = assemble([("a", "a"), ("a", "b")], pseudo, masked(transfer=transfer), window=True)
    np.testing.assert_allclose(found["cl"].values, [bandpowers, bandpowers], rtol=1e-10)
    sky = np.random.default_rng(0).random(LMAX + 1)
    through = assemble([("a", "a")], {("a", "a"): matrix @ (beam**2 * sky)}, masked(transfer=transfer))["cl"].values[0]
    np.testing.assert_allclose(found["window"].values[0] @ sky, through, rtol=1e-10)
    assert found["window"].dims == ("pair", "bin", "ell_in")


def test_a_map_without_a_mask_against_one_with() -> None:
    # Weights that are 1 everywhere couple nothing: the mean of the other weights is all that is left.
    maps = {"a": SpectrumMap(weight="w"), "b": SpectrumMap()}
    estimator = Estimator(maps, LMAX, BINS, moments={("w", None): (0.3, 0.25)})
    pseudo = {("a", "b"): np.arange(LMAX + 1.0)}
    found = assemble([("a", "b")], pseudo, estimator)
    np.testing.assert_allclose(found["cl"][0], BINS.average(pseudo[("a", "b")]) / 0.3, rtol=1e-10)
    assert float(found["f_sky"][0]) == pytest.approx(0.09 / 0.25)


def test_knox_errors_come_from_the_total_auto_spectra() -> None:
    pseudo = spectra_of("a", "b")
    estimator = masked()
    found = assemble([("a", "b"), ("b", "b")], pseudo, estimator, errors="knox")
    xy, xx, yy = (estimator.spectrum(*pair, pseudo[pair]) for pair in (("a", "b"), ("a", "a"), ("b", "b")))
    f_sky = 0.4**2 / 0.3
    modes = [36 - 4, 144 - 36, 625 - 144]
    assert found["modes"].values.tolist() == modes
    np.testing.assert_allclose(found["error"][0], np.sqrt((xy**2 + xx * yy) / (f_sky * np.array(modes))), rtol=1e-12)
    np.testing.assert_allclose(found["error"][1], np.abs(yy) * np.sqrt(2 / (f_sky * np.array(modes))), rtol=1e-12)
    null = knox_error(0, xx, yy, modes, f_sky)
    assert float(found["chi2"][0]) == pytest.approx(np.sum((xy / null) ** 2))
    assert found["degrees_of_freedom"].values.tolist() == [3, 0]
    assert 0 < float(found["p_value"][0]) < 1
    assert np.isnan(found["p_value"][1])


def test_no_errors_where_none_are_asked_for() -> None:
    found = assemble([("a", "b")], {("a", "b"): np.ones(LMAX + 1)}, full())
    assert set(found.data_vars) == {"cl", "pseudo_cl"}
    assert "errors" not in found.attrs


def test_monopole_and_dipole_are_no_part_of_a_null() -> None:
    pseudo = spectra_of("a", "b")
    found = assemble([("a", "b")], pseudo, full(), errors="knox")
    pseudo[("a", "b")][:2] *= 1e6
    again = assemble([("a", "b")], pseudo, full(), errors="knox")
    assert float(again["chi2"][0]) == float(found["chi2"][0])
    assert int(found["degrees_of_freedom"][0]) == LMAX - 1


def test_noise_from_halves() -> None:
    lmax, noise = 60, 4.0
    sky, first, second = (draw(lmax, (3, number)) for number in range(3))
    halves = sky + noise * first, sky + noise * second
    alms = {"a": (halves[0] + halves[1]) / 2, "h1": halves[0], "h2": halves[1]}
    needed = needed_pairs([("a", "a")], splits={"a": ("h1", "h2")})
    pseudo = {pair: hp.alm2cl(alms[pair[0]], alms[pair[1]]) for pair in needed}
    truth = hp.alm2cl(noise * (first - second) / 2)  # what differs between the halves is noise alone
    estimator = Estimator({"a": SpectrumMap(), "b": SpectrumMap()}, lmax)
    found = assemble([("a", "a")], pseudo, estimator, splits={"a": ("h1", "h2")})
    np.testing.assert_allclose(found["noise"][0], truth, rtol=1e-9)
    pseudo[("a", "b")] = pseudo[("a", "a")]
    both = assemble([("a", "a"), ("a", "b")], pseudo, estimator, splits={"a": ("h1", "h2")})
    assert np.isnan(both["noise"][1]).all()


def test_units_and_attributes() -> None:
    pseudo = spectra_of("a", "b")
    found = assemble([("a", "a"), ("a", "b")], pseudo, masked(), errors="knox", source="sky.zarr")
    assert found["unit"].values.tolist() == ["(K_CMB)^2", "K_CMB"]
    assert "coordinate `unit`" in found["cl"].attrs["units"]
    one = assemble([("a", "a")], pseudo, masked(), errors="knox")
    assert one["cl"].attrs["units"] == one["error"].attrs["units"] == "(K_CMB)^2"
    assert found.attrs["source"] == "sky.zarr"
    assert found.attrs["lmax"] == LMAX
    assert all(found[name].attrs["long_name"] for name in [*found.data_vars, *found.coords])
    assert "Knox" in found["error"].attrs["source"]
    assert found["map_1"].values.tolist() == ["a", "a"]
    assert found["map_2"].values.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": []}, "no pair came"),
        ({"pairs": [("a", "b"), ("a", "b")]}, "a x b more than once"),
        ({"errors": "knoks"}, "did you mean 'knox'"),
        ({"window": True}, "Give `bins`"),
        ({"pseudo": {}}, "no spectrum of a x b"),
        ({"pseudo": {("a", "b"): np.ones(3)}}, "multipoles 0 to 24"),
        ({"pairs": [("a", "c")]}, "'c' is unknown"),
        ({"splits": {"c": ("h1", "h2")}}, "'c' is unknown"),
        ({"estimator": masked(None).with_maps({"a": SpectrumMap(weight="v"), "b": SpectrumMap()})}, "`moments`"),
        ({"estimator": full(None, a=np.ones(3))}, "multipole from 0 to 24"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], message: str) -> None:
    given = {"pairs": [("a", "b")], "pseudo": {("a", "b"): np.ones(LMAX + 1)}, "estimator": full(), **change}
    with pytest.raises(InputError, match=message):
        assemble(**given)


def test_a_missing_mask_spectrum_is_said() -> None:
    estimator = Estimator({"a": SpectrumMap(weight="w")}, LMAX, BINS, moments={("w", "w"): MOMENTS})
    with pytest.raises(InputError, match="`mask_cl` of the weights 'w' and 'w'"):
        estimator.spectrum("a", "a", np.ones(LMAX + 1))
    with pytest.raises(InputError, match="without bins are not decoupled"):
        masked(None).coupling("a", "a")


def test_masks_without_a_common_pixel_are_said() -> None:
    maps = {"a": SpectrumMap(weight="w"), "b": SpectrumMap(weight="v")}
    estimator = Estimator(maps, LMAX, moments={("v", "w"): (0.0, 0.0)})
    with pytest.raises(InputError, match="no pixel in common"):
        assemble([("a", "b")], {("a", "b"): np.ones(LMAX + 1)}, estimator)


def test_pairs_of_one_kind_share_their_coupling() -> None:
    beam = np.exp(-0.02 * np.arange(LMAX + 1.0))
    maps = {name: SpectrumMap(weight="w", transfer=None if name == "c" else beam.copy()) for name in "abc"}
    estimator = Estimator(maps, LMAX, BINS, {("w", "w"): MASK}, {("w", "w"): MOMENTS})
    assert estimator.coupling("a", "a") is estimator.coupling("b", "a")
    assert estimator.coupling("a", "c") is estimator.coupling("c", "b")
    assert estimator.coupling("a", "c") is not estimator.coupling("a", "a")
    windowed = estimator.coupling("a", "a", window=True)
    assert windowed.window is not None
    assert estimator.coupling("a", "b") is windowed


def test_what_is_needed() -> None:
    pairs = [("a", "b"), ("c", "a")]
    assert needed_pairs(pairs) == pairs
    assert needed_pairs(pairs, errors="knox") == [*pairs, ("a", "a"), ("b", "b"), ("c", "c")]
    assert ("b", "c") in needed_pairs(pairs, errors="monte-carlo")
    assert needed_pairs([("a", "a")], splits={"a": ("x", "y")})[1:] == [("x", "x"), ("y", "y"), ("x", "y")]


def test_errors_of_realisations_take_the_place_of_knox() -> None:
    pseudo = spectra_of("a", "b")
    found = assemble([("a", "b"), ("a", "a")], pseudo, masked(), errors="monte-carlo")
    scatter = Scatter(50, np.ones((2, 3)), 2.0 * found["error"].values, np.ones((2, 3, 3)))
    changed = with_scatter(found, scatter)
    np.testing.assert_allclose(changed["error"], scatter.error)
    np.testing.assert_allclose(changed["knox_error"], found["error"])
    np.testing.assert_allclose(changed["error_ratio"], 0.5)
    np.testing.assert_allclose(changed["null_error"], 2 * found["null_error"])
    assert float(changed["chi2"][0]) == pytest.approx(float(found["chi2"][0]) / 4)
    assert float(changed["p_value"][0]) > float(found["p_value"][0])
    assert changed["covariance"].dims == ("pair", "bin", "bin_2")
    assert changed.attrs["simulations"] == 50
    assert changed.attrs["errors"] == "monte-carlo"
    assert "50 Gaussian realisations" in changed["error"].attrs["source"]
    with pytest.raises(InputError, match=r"shape \(1, 3\)"):
        with_scatter(found, Scatter(50, np.ones((1, 3)), np.ones((1, 3))))
