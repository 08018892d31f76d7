"""Slopes of residuals over a store against NumPy on whole maps, and the verdicts on synthetic truth."""

from __future__ import annotations

import gasskies as sky
import numpy as np
import pytest
import skymill as sm
from skymill.chunking.errors import InputError, MissingMapError
from skymill.models.emission import modified_black_body
from skymill.models.fingerprints import CAUSES

CAUSE = {
    "temperature": {"kelvin": 0.5 * sky.patchy(1)},
    "dust-to-gas": {"dust_to_gas": 0.1 * sky.patchy(2)},
    "beta": {"beta": 0.05 * sky.patchy(3)},
    "temperature-beta": {"kelvin": 0.5 * sky.patchy(4), "beta": -0.03 * sky.patchy(4)},
}


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    return sky.put_sky(tmp_path_factory.mktemp("slopes") / "sky.zarr", sky.sky_maps(kelvin=1.28 * sky.patchy(1)))


def residuals(where, scaling="gas", third="i100um"):
    """r(gas) and r(low) of the high and the third band, float64, of the stored float32 maps."""
    low, high, far, gas = (sky.get(where, name) for name in ("i353", "i857", third, "nhi"))
    found = [high - sky.emissivity("i857") * gas]
    for name, band in (("i857", high), (third, far)):
        if scaling == "gas":
            k = np.cov(band, gas)[0, 1] / np.cov(low, gas)[0, 1]
        elif scaling == "regression":
            k = np.cov(band, low)[0, 1] / np.var(low, ddof=1)
        else:
            k = float(modified_black_body(sky.GHZ[name], 20.0, 1.5) / modified_black_body(353.0, 20.0, 1.5))
        found.append(band - k * low)
    return found


@pytest.mark.parametrize("scaling", ["gas", "regression", "mbb"])
def test_slopes_are_those_of_the_residuals(where, scaling):
    found = sm.slopes(where, third="i100um", fit=sky.known_fit(), scaling=scaling).run()
    c = np.cov(residuals(where, scaling))
    np.testing.assert_allclose(found["slope"], c[0, 1:] / c[0, 0], rtol=1e-7)
    np.testing.assert_allclose(found["correlation"], np.corrcoef(residuals(where, scaling))[0, 1:], rtol=1e-9)
    np.testing.assert_allclose(found["spread"], np.sqrt(np.diag(c)[1:]), rtol=1e-9)
    assert float(found["gas_spread"]) == pytest.approx(c[0, 0] ** 0.5, rel=1e-9)
    assert int(found["pixels"]) == sky.NPIX
    assert found["residual"].values.tolist() == ["i353 -> i857", "i353 -> i100um"]


def test_inverse_slopes(where):
    found = sm.slopes(where, fit=sky.known_fit(), method="inverse").run()
    c = np.cov(residuals(where))
    assert float(found["slope"][0]) == pytest.approx(c[1, 1] / c[0, 1], rel=1e-7)


def test_errors_are_those_of_leaving_out_patches(where):
    found = sm.slopes(where, third="i100um", fit=sky.known_fit(), scaling="mbb", jackknife=4).run()
    r = np.array(residuals(where, "mbb"))
    patch = np.arange(sky.NPIX) // (sky.NSIDE // 4) ** 2
    without = []
    for number in range(12 * 4**2):
        c = np.cov(r[:, patch != number])
        without.append(c[0, 1:] / c[0, 0])
    away = np.array(without) - np.mean(without, axis=0)
    wanted = away.T @ away * 191 / 192
    np.testing.assert_allclose(found["covariance"], wanted, rtol=1e-5)
    np.testing.assert_allclose(found["error"], np.sqrt(np.diag(wanted)), rtol=1e-5)
    assert int(found["blocks"]) == 192


def test_without_patches_errors_are_formal(where):
    found = sm.slopes(where, fit=sky.known_fit(), jackknife=None).run()
    np.testing.assert_array_equal(found["error"], found["formal_error"])
    x, y, _ = residuals(where)
    slope = np.cov(x, y)[0, 1] / x.var(ddof=1)
    rest = y - y.mean() - slope * (x - x.mean())
    wanted = np.sqrt((rest**2).sum() / (sky.NPIX - 2) / ((x - x.mean()) ** 2).sum())
    assert float(found["formal_error"][0]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("third", [None, "i100um"])
@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_is_recognised(tmp_path, cause, third):
    where = sky.put_sky(tmp_path / "sky.zarr", sky.sky_maps(**CAUSE[cause]))
    found = sm.slopes(where, third=third, fit=sky.known_fit()).run()
    assert str(found["verdict"].values) == cause
    assert float(found["likelihood"].sel(cause=cause)) > 0.9
    expected = float(found["expected"].sel(cause=cause)[0])
    assert float(found["slope"][0]) == pytest.approx(expected, abs=0.01)


def test_a_region_has_its_own_cause(tmp_path):
    north = sky.latitudes() > 0
    change = {
        "kelvin": np.where(north, 0.5 * sky.patchy(1), 0.0),
        "dust_to_gas": np.where(north, 0.0, 0.1 * sky.patchy(2)),
    }
    where = sky.put_sky(tmp_path / "sky.zarr", sky.sky_maps(**change))
    found = sm.slopes(where, fit=sky.known_fit(), region={"north": "b > 0", "south": "b < 0"}).run()
    assert found["verdict"].values.tolist() == ["temperature", "dust-to-gas"]


def test_noise_of_the_high_band_is_taken_out(tmp_path):
    maps = sky.sky_maps(kelvin=0.5 * sky.patchy(1))
    random = np.random.default_rng(8)
    sigma = {"i353": 2e-4, "i857": 0.12}
    for name, width in sigma.items():
        maps[name] = maps[name] + width * random.standard_normal(sky.NPIX)
    maps["cov"] = np.full(sky.NPIX, sigma["i353"] ** 2)
    where = sky.put_sky(tmp_path / "sky.zarr", maps, {"cov": "MJy^2/sr^2"})
    plain = sm.slopes(where, fit=sky.known_fit()).run()
    mended = sm.slopes(where, fit=sky.known_fit(), method="deming", noise=sigma).run()
    by_map = sm.slopes(where, fit=sky.known_fit(), method="deming", noise={**sigma, "i353": "cov"}).run()
    assert float(plain["slope"][0]) > 0.5
    assert float(mended["slope"][0]) == pytest.approx(0.371, abs=0.03)
    assert float(by_map["slope"][0]) == pytest.approx(float(mended["slope"][0]), rel=1e-6)
    assert np.isfinite(mended["error"][0])


def test_deming_with_a_third_band(where):
    noise = {"i353": 1e-4, "i857": 0.01, "i100um": 0.01}
    found = sm.slopes(where, third="i100um", fit=sky.known_fit(), method="deming", noise=noise).run()
    assert np.isfinite(found["slope"]).all()
    assert np.isnan(found["formal_error"]).all()


def test_offsets_do_not_matter(where):
    fit = sky.known_fit()
    moved = fit.copy(deep=True)
    moved["coefficient"].loc[{"template": "offset"}] = 5.0
    one, other = (sm.slopes(where, fit=f).run()["slope"].values for f in (fit, moved))
    np.testing.assert_allclose(one, other, rtol=1e-9)
    np.testing.assert_allclose(one, sm.slopes(where, fit=sky.known_fit(offset=False)).run()["slope"], rtol=1e-9)


@pytest.mark.parametrize(
    "option",
    [
        {"mask": "mask"}, {"region": "b > 0"}, {"jackknife": 8}, {"mean_temperature": 21.0}, {"beta": 1.6},
        {"beta_per_kelvin": -0.1}, {"pivot": 217.0}, {"tolerance": 0.001}, {"third_tolerance": 0.5},
        {"frequencies": {"i857": 900.0}}, {"low": "copy"}, {"scaling": "mbb"},
    ],
)  # fmt: skip
def test_every_option_changes_the_result(where, option):
    if "mask" in option or "low" in option:
        maps = {"mask": (sky.latitudes() > 10).astype(np.uint8), "copy": sky.get(where, "i353") * sky.column(3)}
        for name, values in maps.items():
            if name not in sm.open(where):
                sky.put_sky(where, {name: values})
    if option.get("low"):
        option = {**option, "frequencies": {"copy": 353.0}}
    one = sm.slopes(where, third="i100um", fit=sky.known_fit()).run()
    other = sm.slopes(where, **{"third": "i100um", "fit": sky.known_fit(), **option}).run()
    assert (
        not one.drop_attrs()
        .drop_vars(("residual", "residual_2"))
        .equals(other.drop_attrs().drop_vars(("residual", "residual_2")))
    )


def test_a_background_is_told_from_an_anticorrelation(tmp_path):
    """The cosmic infrared background has a negative slope too; named as a cause, it is recognised."""
    maps = sky.sky_maps()
    spectrum = {"i353": 0.1, "i857": 0.5, "i100um": 0.3}
    for name, brightness in spectrum.items():
        maps[name] = maps[name] + 0.1 * brightness * sky.patchy(6)
    where = sky.put_sky(tmp_path / "sky.zarr", maps)
    found = sm.slopes(where, third="i100um", fit=sky.known_fit(), contaminants={"cib": spectrum}).run()
    assert str(found["verdict"].values) == "cib"
    k = [float(modified_black_body(sky.GHZ[n], 20.0, 1.5) / modified_black_body(353.0, 20.0, 1.5)) for n in sky.GHZ][1:]
    wanted = [1 - k[0] * 0.1 / 0.5, (0.3 - k[1] * 0.1) / 0.5]
    np.testing.assert_allclose(found["expected"].sel(cause="cib"), wanted, rtol=1e-9)
    np.testing.assert_allclose(found["slope"], wanted, rtol=0.02)
    assert str(sm.slopes(where, third="i100um", fit=sky.known_fit()).run()["verdict"].values) != "cib"


def test_the_limit_of_rejection_changes_the_verdict(where):
    verdicts = [
        str(
            sm.slopes(where, fit=sky.known_fit(), mean_temperature=30.0, tolerance=0.05, reject=reject)
            .run()["verdict"]
            .values
        )
        for reject in (1e-3, 0.9)
    ]
    assert verdicts == ["temperature", "none of these"]


def test_the_same_bits_for_any_number_of_threads(where):
    one, other = (
        sm.slopes(where, third="i100um", fit=sky.known_fit(), jackknife=8, threads=threads).run() for threads in (1, 3)
    )
    assert one.identical(other)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"scaling": "gass"}, InputError, "did you mean 'gas'"),
        ({"method": "olls"}, InputError, "did you mean 'ols'"),
        ({"low": "i857"}, InputError, "different ones"),
        ({"low": "i217"}, MissingMapError, "i217"),
        ({"low": "nhi"}, InputError, "different units"),
        ({"method": "deming"}, InputError, "needs that of each"),
        ({"method": "deming", "noise": {"i353": 1.0}}, InputError, "needs that of each"),
        ({"noise": {"i353": 1.0}}, InputError, "does not use it"),
        ({"frequencies": {"i545": 545.0}}, InputError, "i545"),
        ({"frequencies": {"i857": 300.0}}, InputError, "ascending"),
        ({"jackknife": 3}, InputError, "power of two"),
        ({"contaminants": {"cib": {"i353": 1.0}}}, InputError, "each of i353, i857"),
        ({"contaminants": {"beta": {"i353": 1.0, "i857": 1.0}}}, InputError, "a cause already"),
        ({"contaminants": {"cib": {"i353": 1.0, "i857": 0.0}}}, InputError, "not zero"),
        ({"pivot": 857.0}, InputError, "pivot"),
        ({"tolerance": -0.1}, InputError, "tolerance"),
        ({"reject": 1.0}, InputError, "reject"),
    ],
)
def test_what_cannot_be_is_told(where, options, error, words):
    with pytest.raises(error, match=words):
        sm.slopes(where, **{"fit": sky.known_fit(), **options})


def test_what_cannot_be_judged_is_not_called_a_cause_that_is_none_of_these(where):
    mask = np.zeros(sky.NPIX, np.uint8)
    mask[:12] = mask[-1] = 1  # without the first patch one pixel is left, which has no slope
    sky.put_sky(where, {"few": mask})
    found = sm.slopes(where, fit=sky.known_fit(), mask="few").run(progress=False)
    assert int(found["blocks"]) == 2
    assert np.isfinite(found["slope"]).all()
    assert np.isnan(found["error"]).all()
    assert str(found["verdict"].values) == "not measured"
    assert str(found["consistent"].values) == ""


def test_few_patches_make_a_careful_judge(where):
    """Two patches give two slopes no verdict, and one the probability of Student's t with one degree of freedom."""
    options = {"fit": sky.known_fit(), "jackknife": 1, "region": "0 < l < 180 and b > 45"}
    one, both = sm.slopes(where, **options).run(), sm.slopes(where, third="i100um", **options).run()
    assert int(one["blocks"]) == int(both["blocks"]) == 2
    assert np.isfinite(both["error"]).all()
    assert str(both["verdict"].values) == "not measured"
    want = 1 - 2 / np.pi * np.arctan(np.sqrt(one["chi2"].values))
    np.testing.assert_allclose(one["probability"].values, want, rtol=1e-9)


def test_too_few_pixels_or_patches_are_told(where):
    with pytest.raises(InputError, match="are needed"):
        sm.slopes(where, fit=sky.known_fit(), region="b > 89.9 and b < 89.91").run()
    with pytest.raises(InputError, match="one patch"):
        sm.slopes(where, fit=sky.known_fit(), region=sm.Cone(45.0, 41.8, 9.0), jackknife=1).run()
