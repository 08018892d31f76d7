"""The table of bands, and the ways of naming one."""

from __future__ import annotations

import dataclasses
import math

import pytest
from skymill.chunking.bands import BANDS, Band, band
from skymill.chunking.errors import InputError


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("850um", "850um"),
        ("i850um", "850um"),
        ("353GHz", "850um"),
        ("353 ghz", "850um"),
        ("0.85mm", "850um"),
        ("850 µm", "850um"),
        ("850 μm", "850um"),
        ("1.38mm", "1380um"),
        ("1380um", "1380um"),
        ("1380 micron", "1380um"),
        ("217GHz", "1380um"),
        ("i160", "160um"),
        ("160", "160um"),
        ("i500", "500um"),
        ("545ghz", "545GHz"),
        ("857 GHz", "857GHz"),
        ("100um", "100um"),
        ("100GHz", "100GHz"),
        ("bolocam_1.1mm", "bolocam_1100um"),
        ("SCUBA2_850um", "scuba2_850um"),
    ],
)
def test_spellings(text: str, name: str) -> None:
    assert band(text).name == name


def test_a_band_is_its_own_name() -> None:
    mine = Band("450um", wavelength_um=450.0)
    assert band(mine) is mine


@pytest.mark.parametrize("text", ["", "i", "85um", "1.38cm", "352GHz", "0um", "-850um", "850umm", "x850um", "1e3um"])
def test_unknown_names(text: str) -> None:
    with pytest.raises(InputError, match="Known: "):
        band(text)


def test_the_nearest_name_is_told() -> None:
    with pytest.raises(InputError, match="did you mean '850um'"):
        band("851um")


@pytest.mark.parametrize("thing", [None, 850, 850.0, ("850um",)])
def test_not_a_name(thing: object) -> None:
    with pytest.raises(InputError, match="give a name"):
        band(thing)  # type: ignore[arg-type]


def test_wavelength_and_frequency_agree() -> None:
    for entry in BANDS.values():
        assert entry.wavelength_um * entry.frequency_ghz == pytest.approx(299792.458, rel=1.5e-3), entry.name
        assert entry.label
        assert entry.unit == "MJy/sr"
        assert entry.beam_fwhm_arcmin is not None


def test_nominal_hfi_numbers_are_literal() -> None:
    assert (band("850um").wavelength_um, band("850um").frequency_ghz) == (850.0, 353.0)
    assert (band("1380um").wavelength_um, band("1380um").frequency_ghz) == (1380.0, 217.0)


def test_published_constants_carry_their_source() -> None:
    published = {
        "850um": 287.450,
        "1380um": 483.690,
        "545GHz": 58.04,
        "857GHz": 2.27,
        "143GHz": 371.74,
        "100GHz": 244.1,
    }
    for name, value in published.items():
        assert BANDS[name].mjy_sr_per_k_cmb == value
        assert "Planck 2013 results IX" in BANDS[name].mjy_sr_per_k_cmb_source
    for name in set(BANDS) - set(published):
        assert BANDS[name].mjy_sr_per_k_cmb is None


def test_a_band_of_ones_own() -> None:
    mine = Band("450um", wavelength_um=450.0)
    assert mine.frequency_ghz == pytest.approx(666.205462, rel=1e-8)
    assert mine.label == "450um"
    assert Band("a", frequency_ghz=300.0).wavelength_um == pytest.approx(999.308193, rel=1e-8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        mine.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "", "wavelength_um": 3.0},
        {"name": "a"},
        {"name": "a", "wavelength_um": 0.0},
        {"name": "a", "wavelength_um": -3.0},
        {"name": "a", "wavelength_um": math.inf},
        {"name": "a", "frequency_ghz": -1.0},
        {"name": "a", "wavelength_um": 3.0, "beam_fwhm_arcmin": 0.0},
        {"name": "a", "wavelength_um": 3.0, "mjy_sr_per_k_cmb": math.nan},
    ],
)
def test_a_wrong_band_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"a band came without|band 'a' came with"):
        Band(**wrong)  # type: ignore[arg-type]
