"""Units: how headers spell them, and conversions judged against astropy and published constants."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from astropy import units as u
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking.bands import BANDS, Band
from skymill.chunking.errors import UnitError
from skymill.chunking.units import (
    KNOWN_UNITS,
    T_CMB,
    beam_solid_angle,
    conversion,
    monochromatic,
    parse_unit,
    quantity_of,
)

SPELLINGS = {
    "K_CMB": ["Kcmb", "K_CMB", "KCMB", "K_cmb", "K(CMB)", "K_{CMB}", " K_CMB ", "'K_CMB'", "[K_CMB]"],
    "uK_CMB": ["uK_CMB", "uKcmb", "muK_CMB", "µK_CMB", "μK_CMB", "microK_CMB"],
    "mK_CMB": ["mK_CMB", "mKcmb"],
    "K_RJ": ["K_RJ", "KRJ", "Krj", "K(RJ)"],
    "uK_RJ": ["uK_RJ", "µKRJ"],
    "MJy/sr": ["MJy/sr", "MJy sr-1", "MJy sr^-1", "MJy.sr**-1", "MJy sr^{-1}", "MJy sr⁻¹", "MJY/SR", "sr-1 MJy"],
    "kJy/sr": ["kJy/sr", "kJy sr-1"],
    "Jy/sr": ["Jy/sr", "JY/SR", "Jy / sr"],
    "Jy/beam": ["Jy/beam", "JY/BEAM", "Jy beam-1", "Jy beam^-1", "Jy/bm"],
    "mJy/beam": ["mJy/beam", "mJy beam-1"],
    "mJy/arcsec^2": ["mJy/arcsec^2", "mJy/arcsec2", "mJy arcsec-2", "mJy/arcsec**2", "mJy/sqarcsec"],
    "K km/s": ["K km/s", "K km s-1", "K.km/s", "K*km*s^-1", "K_RJ km/s", "K km s^-1"],
    "pc cm^-3": ["pc cm^-3", "pc cm-3", "pc/cm^3", "pc/cm3"],
    "pc cm^-6": ["pc cm-6", "cm^-6 pc"],
    "cm^-2": ["cm^-2", "cm-2", "1/cm^2", "/cm2", "cm**(-2)", "cm⁻²".replace("²", "2")],
    "1e20 cm^-2": ["1e20 cm^-2", "10^20 cm-2", "10**20/cm^2", "1.0e20 cm-2", "1e+20 cm-2"],
    "mag": ["mag", "MAG", "mags"],
    "1": ["1", "dimensionless", "unitless"],
    "K": ["K", "Kelvin", "kelvin"],
    "K_CMB^2": ["K_CMB^2", "Kcmb^2", "K_CMB**2", "(K_CMB)^2", "(K_CMB)2"],
    "MJy^2/sr^2": ["(MJy/sr)^2", "MJy2 / sr2", "MJy^2 sr^-2"],
}


@pytest.mark.parametrize(("name", "text"), [(k, t) for k, texts in SPELLINGS.items() for t in texts])
def test_spellings(name: str, text: str) -> None:
    assert parse_unit(text) == name


@pytest.mark.parametrize("name", KNOWN_UNITS)
def test_a_name_reads_as_itself(name: str) -> None:
    assert parse_unit(name) == name


@pytest.mark.parametrize(
    "text",
    [
        "mjy/sr",  # neither MJy nor mJy is safe to guess
        "Jy",
        "MK",
        "MK_CMB",
        "UK_CMB",
        "kcmb",
        "K_CMB km/s",
        "W/m2",
        "2 K",
        "10",
        "K//s",
        "K/",
        "1/K",
        "cm-2 sr",
        "cm^-2.5",
        "counts",
        "Jy/pixel",
        "unknown",
        "?",
        "K)",
        "MJy/sr^2",
        "(K)^3",
    ],
)
def test_unknown_units_list_the_known_ones(text: str) -> None:
    with pytest.raises(UnitError, match=r"is not known; .*MJy/sr"):
        parse_unit(text)


@pytest.mark.parametrize("thing", ["", "   ", "''", None, 1, u.K])
def test_no_unit_at_all(thing: object) -> None:
    with pytest.raises(UnitError, match=r"`unit` .* came|empty unit"):
        parse_unit(thing)  # type: ignore[arg-type]


def test_the_nearest_unit_is_named() -> None:
    with pytest.raises(UnitError, match="did you mean 'K_CMB'"):
        parse_unit("K_CBM")


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(UnitError):
        assert parse_unit(text) in KNOWN_UNITS


def _astropy(name: str) -> u.UnitBase:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return u.Unit(name.replace("K km/s", "K.km/s").replace("1e20 ", "10**20 ").replace("pc cm", "pc.cm"))


PLAIN = [name for name in KNOWN_UNITS if "_" not in name and "beam" not in name and name not in ("1", "%", "mmag")]


@pytest.mark.parametrize(
    "pair", [p for p in itertools.permutations(PLAIN, 2) if quantity_of(p[0]) == quantity_of(p[1])]
)
def test_plain_conversions_against_astropy(pair: tuple[str, str]) -> None:
    expected = _astropy(pair[0]).to(_astropy(pair[1]))
    assert conversion(*pair).factor == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["850um", "1380um", "545GHz", "160um"])
def test_monochromatic_against_astropy(name: str) -> None:
    frequency = BANDS[name].frequency_ghz * u.GHz
    thermodynamic = (1 * u.K).to(u.MJy / u.sr, u.thermodynamic_temperature(frequency, T_CMB * u.K))
    ours = conversion("K_CMB", "MJy/sr", band=name, bandpass="monochromatic")
    assert ours.factor == pytest.approx(thermodynamic.value, rel=1e-9)
    brightness = (1 * u.K).to(u.MJy / u.sr, u.brightness_temperature(frequency))
    assert conversion("K_RJ", "MJy/sr", band=name).factor == pytest.approx(brightness.value, rel=1e-12)


def test_published_numbers() -> None:
    assert conversion("K_CMB", "MJy/sr", band="353GHz").factor == 287.450
    assert conversion("K_CMB", "MJy/sr", band="217GHz").factor == 483.690
    assert monochromatic(353.0) == pytest.approx(296.65, abs=0.005)
    assert monochromatic(217.0) == pytest.approx(483.64, abs=0.006)
    # The bias of the monochromatic value at 353 GHz that science texts warn of.
    assert monochromatic(353.0) / 287.450 - 1 == pytest.approx(0.032, abs=5e-4)
    assert conversion("mJy/arcsec^2", "MJy/sr").factor == pytest.approx(42.545, rel=1e-3)
    assert conversion("Jy/beam", "MJy/sr", beam_fwhm_arcmin=33 / 60).factor == pytest.approx(34.48, rel=1e-3)


@pytest.mark.parametrize("fwhm", [0.24, 0.55, 5.0])
def test_beam_against_astropy(fwhm: float) -> None:
    expected = (1 * u.Jy / u.beam).to(u.MJy / u.sr, equivalencies=u.beam_angular_area(beam_solid_angle(fwhm) * u.sr))
    assert conversion("Jy/beam", "MJy/sr", beam_fwhm_arcmin=fwhm).factor == pytest.approx(expected.value, rel=1e-12)
    # The solid angle is the integral of the Gaussian, here by summation over a fine grid.
    sigma = fwhm / math.sqrt(8 * math.log(2))
    x = np.linspace(-8 * sigma, 8 * sigma, 4001)
    line = np.exp(-0.5 * (x / sigma) ** 2).sum() * (x[1] - x[0])
    assert beam_solid_angle(fwhm) == pytest.approx((line * math.pi / 10800) ** 2, rel=1e-9)


@pytest.mark.parametrize(
    "pair", [p for p in itertools.permutations(KNOWN_UNITS, 2) if quantity_of(p[0]) == quantity_of(p[1])]
)
def test_there_and_back_is_one(pair: tuple[str, str]) -> None:
    there = conversion(*pair, band="850um", beam_fwhm_arcmin=5.0)
    back = conversion(*reversed(pair), band="850um", beam_fwhm_arcmin=5.0)
    assert there.factor * back.factor == pytest.approx(1.0, rel=1e-12)
    assert there.factor > 0
    assert there.source


def test_every_documented_option_changes_the_factor() -> None:
    base = conversion("K_CMB", "MJy/sr", band="850um")
    assert base.factor != conversion("K_CMB", "MJy/sr", band="1380um").factor
    assert base.factor != conversion("K_CMB", "MJy/sr", band="850um", bandpass="monochromatic").factor
    five, ten = (conversion("Jy/beam", "MJy/sr", beam_fwhm_arcmin=f).factor for f in (5.0, 10.0))
    assert five == pytest.approx(4 * ten)
    mine = Band("mine", frequency_ghz=353.0, mjy_sr_per_k_cmb=288.0)
    ours = conversion("K_CMB", "MJy/sr", band=mine)
    assert ours.factor == 288.0
    assert "given by the user" in ours.source
    assert monochromatic(353.0, 5.0) != monochromatic(353.0)


def test_the_source_says_which_constant_it_was() -> None:
    assert "Planck 2013 results IX" in conversion("K_CMB", "MJy/sr", band="850um").source
    assert "monochromatic" in conversion("K_CMB", "MJy/sr", band="850um", bandpass="monochromatic").source
    assert "33" in conversion("Jy/beam", "MJy/sr", beam_fwhm_arcmin=33).source
    told = conversion("Jy/beam", "K_CMB", band="850um", beam_fwhm_arcmin=5)
    assert (told.band, told.beam_fwhm_arcmin) == ("850um", 5.0)
    assert json.loads(json.dumps(told.provenance()))["factor"] == told.factor
    # A band or beam that played no part is not claimed.
    unused = conversion("uK_CMB", "K_CMB", band="850um", beam_fwhm_arcmin=5)
    assert (unused.band, unused.beam_fwhm_arcmin) == (None, None)


def test_a_conversion_is_frozen_and_keeps_dtype_and_nan() -> None:
    step = conversion("K_CMB", "MJy/sr", band="850um")
    values = np.array([1.0, np.nan, -2.0], np.float32)
    result = step(values)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, np.array([287.45, np.nan, -574.9], np.float32))
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.factor = 1.0  # type: ignore[misc]


def test_variances_convert_with_the_square() -> None:
    factor = conversion("K_CMB^2", "MJy^2/sr^2", band="850um").factor
    assert factor == pytest.approx(287.45**2)
    assert quantity_of("Kcmb^2") == "variance of intensity"


@pytest.mark.parametrize(
    ("from_", "to", "options", "told"),
    [
        ("K_CMB", "MJy/sr", {}, "give `band`"),
        ("MJy/sr", "K_CMB", {}, "give `band`"),
        ("K_CMB", "K_RJ", {}, "give `band`"),
        ("K_RJ", "MJy/sr", {"beam_fwhm_arcmin": 5}, "give `band`"),
        ("Jy/beam", "MJy/sr", {}, "give `beam_fwhm_arcmin`"),
        ("MJy/sr", "mJy/beam", {"band": "850um"}, "give `beam_fwhm_arcmin`"),
        ("Jy/beam", "K_CMB", {"band": "850um"}, "give `beam_fwhm_arcmin`"),
        ("Jy/beam", "K_CMB", {"beam_fwhm_arcmin": 5}, "give `band`"),
        ("Jy/beam", "MJy/sr", {"beam_fwhm_arcmin": 0}, "positive number of arcminutes"),
        ("Jy/beam", "MJy/sr", {"beam_fwhm_arcmin": -5}, "positive number of arcminutes"),
        ("Jy/beam", "MJy/sr", {"beam_fwhm_arcmin": math.nan}, "positive number of arcminutes"),
        ("Jy/beam", "MJy/sr", {"beam_fwhm_arcmin": "wide"}, "positive number of arcminutes"),
        ("K_CMB", "MJy/sr", {"band": "250um"}, "monochromatic"),
        ("K_CMB", "MJy/sr", {"band": "850um", "bandpass": "delta"}, "`bandpass` 'delta' came"),
        ("K_CMB", "MJy/sr", {"band": "850um", "bandpass": "mono-chromatic"}, "did you mean 'monochromatic'"),
        ("K_CMB", "MJy/sr", {"band": "851um"}, "did you mean '850um'"),
        ("K", "MJy/sr", {"band": "850um"}, "needs its kind"),
        ("K km/s", "cm^-2", {}, "physical factor"),
        ("K km/s", "MJy/sr", {"band": "850um"}, "SubtractCO"),
        ("mag", "MJy/sr", {}, "different things"),
        ("1", "K", {}, "different things"),
        ("K_CMB^2", "K_CMB", {}, "variance"),
        ("MJy/sr", "MJy^2/sr^2", {}, "variance"),
        ("MJy/sr", "furlong", {}, "is not known"),
        ("", "MJy/sr", {}, "empty unit"),
    ],
)
def test_what_cannot_be_known_is_refused(from_: str, to: str, options: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        conversion(from_, to, **options)  # type: ignore[arg-type]


def test_reading_units_does_not_load_astropy() -> None:
    code = "import sys, skymill.chunking.units; sys.exit('astropy' in sys.modules or 'jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
