"""Residuals against polarisation: equation 22 on skies where it holds exactly."""

from __future__ import annotations

import gasskies as sky
import numpy as np
import pytest
import skymill as sm
from skymill.chunking.errors import InputError, MissingMapError

MEAN = 0.08
CHANGE = 0.02 * (sky.patchy(5) - sky.patchy(5).mean())
ANGLE = np.random.default_rng(9).uniform(0, np.pi, sky.NPIX)


def polarised():
    """Maps of which all departures from gas are polarisation (equations 19 to 21), with an offset."""
    n = sky.column()
    eps = sky.emissivity("i353")
    intensity = eps * n * (1 + MEAN) / (1 + MEAN + CHANGE)
    p = (MEAN + CHANGE) * intensity
    return {
        "nhi": n, "i353": intensity + sky.OFFSETS["i353"], "p353": p,
        "q353": p * np.cos(2 * ANGLE), "u353": p * np.sin(2 * ANGLE),
    }  # fmt: skip


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    return sky.put_sky(tmp_path_factory.mktemp("polarised") / "sky.zarr", polarised())


@pytest.mark.parametrize("maps", ["p353", ["p353"], ["q353", "u353"]])
def test_the_slope_is_minus_one(where, maps):
    found = sm.polarization(where, polarized=maps, fit=sky.known_fit()).run()
    assert float(found["slope"]) == pytest.approx(-1.0, abs=1e-4)
    assert float(found["slope"]) == pytest.approx(float(found["expected"]), abs=5 * float(found["error"]) + 1e-4)
    assert float(found["correlation"]) == pytest.approx(-1.0, abs=1e-4)
    assert float(found["fraction"]) == pytest.approx((MEAN + CHANGE).mean(), rel=1e-5)
    assert float(found["fraction_sigma"]) == pytest.approx(CHANGE.std(ddof=1), rel=1e-4)
    observed = sky.get(where, "i353") - sky.OFFSETS["i353"]
    residual = 1.0 - sky.emissivity("i353") * sky.get(where, "nhi") / observed
    assert float(found["residual_mean"]) == pytest.approx(residual.mean(), abs=1e-9)
    assert int(found["pixels"]) == sky.NPIX


def test_numbers_are_those_of_numpy_where_temperatures_scatter_too(tmp_path):
    maps = polarised()
    maps["i353"] = maps["i353"] + 0.02 * sky.emissivity("i353") * sky.column() * sky.patchy(6)
    where = sky.put_sky(tmp_path / "sky.zarr", maps)
    found = sm.polarization(where, polarized="p353", fit=sky.known_fit(), jackknife=4).run()
    i, p, n = (sky.get(where, name) for name in ("i353", "p353", "nhi"))
    intensity = i - sky.OFFSETS["i353"]
    fraction, residual = p / intensity, 1 - sky.emissivity("i353") * n / intensity

    def slope(keep):
        f, r = fraction[keep], residual[keep]
        return np.cov((f - f.mean()) / (1 + f.mean()), r)[0, 1] / (f.var(ddof=1) / (1 + f.mean()) ** 2)

    assert float(found["slope"]) == pytest.approx(slope(np.ones(sky.NPIX, bool)), rel=1e-8)
    assert float(found["correlation"]) == pytest.approx(np.corrcoef(fraction, residual)[0, 1], rel=1e-8)
    patch = np.arange(sky.NPIX) // (sky.NSIDE // 4) ** 2
    without = np.array([slope(patch != number) for number in range(192)])
    wanted = np.sqrt(191 / 192 * ((without - without.mean()) ** 2).sum())
    assert float(found["error"]) == pytest.approx(wanted, rel=1e-6)
    assert float(found["formal_error"]) > 0


def test_noise_makes_polarisation_too_large(tmp_path):
    maps, random = polarised(), np.random.default_rng(1)
    sigma = 0.3 * float(np.median(maps["p353"]))
    for name in ("q353", "u353"):
        maps[name] = maps[name] + sigma * random.standard_normal(sky.NPIX)
    where = sky.put_sky(tmp_path / "sky.zarr", maps)
    raw = sm.polarization(where, polarized=["q353", "u353"], fit=sky.known_fit()).run()
    mended = sm.polarization(where, polarized=["q353", "u353"], fit=sky.known_fit(), noise=sigma).run()
    truth = float((MEAN + CHANGE).mean())
    assert abs(float(mended["fraction"]) - truth) < 0.5 * abs(float(raw["fraction"]) - truth)


def test_dark_pixels_are_counted_and_left_out(tmp_path):
    maps = polarised()
    maps["i353"][:6] = sky.OFFSETS["i353"] - 0.1
    where = sky.put_sky(tmp_path / "sky.zarr", maps)
    found = sm.polarization(where, fit=sky.known_fit()).run()
    assert (int(found["not_positive"]), int(found["pixels"])) == (6, sky.NPIX - 6)
    assert float(found["slope"]) == pytest.approx(-1.0, abs=1e-4)


def test_an_offset_above_all_is_told(where):
    with pytest.raises(InputError, match=r"0 of 12288 pixels in region 'all' are brighter than the offset 1e\+06"):
        sm.polarization(where, fit=sky.known_fit(), offset=1e6).run()


def test_a_fraction_that_is_the_same_everywhere_is_told(where):
    with pytest.raises(InputError, match=r"fraction is 0 in all of the 12288 pixels in region 'all'.* `noise`"):
        sm.polarization(where, fit=sky.known_fit(), noise=1e3).run()
    intensity = sm.open(where)["i353"].values
    sky.put_sky(where, {"alike": 0.1 * (intensity - sky.OFFSETS["i353"])})
    with pytest.raises(InputError, match=r"fraction is 0\.1 in all of the 12288 pixels"):
        sm.polarization(where, polarized="alike", fit=sky.known_fit()).run()


@pytest.mark.parametrize(
    "option", [{"offset": 0.0}, {"jackknife": 8}, {"jackknife": None}, {"mask": "mask"}, {"region": "b > 0"}]
)
def test_every_option_changes_the_result(where, option):
    if "mask" in option and "mask" not in sm.open(where):
        sky.put_sky(where, {"mask": (sky.latitudes() > 10).astype(np.uint8)})
    one = sm.polarization(where, fit=sky.known_fit()).run()
    other = sm.polarization(where, fit=sky.known_fit(), **option).run()
    assert not one.equals(other)


def test_regions_and_threads(where):
    region = {"north": "b > 0", "south": "b < 0"}
    one, other = (
        sm.polarization(where, fit=sky.known_fit(), region=region, threads=threads).run() for threads in (1, 3)
    )
    assert one.identical(other)
    assert one["slope"].dims == ("region",)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"polarized": []}, InputError, "P, or those of Q and U"),
        ({"polarized": ["q353", "u353", "p353"]}, InputError, "P, or those of Q and U"),
        ({"polarized": "p217"}, MissingMapError, "p217"),
        ({"polarized": "nhi"}, InputError, "one unit"),
        ({"fit": sky.known_fit(offset=False)}, InputError, "no offset"),
        ({"noise": -1.0}, InputError, "number above 0"),
    ],
)
def test_what_cannot_be_is_told(where, options, error, words):
    with pytest.raises(error, match=words):
        sm.polarization(where, **{"fit": sky.known_fit(), **options})
