"""The bands of the sky: wavelength, frequency, instrument, beam and unit constants of each."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .errors import InputError, nearest

SPEED_OF_LIGHT = 299792458.0  # m/s, exact (SI)
PLANCK_2013_IX = "Planck 2013 results IX (A&A 571, A9), Table 6, band-integrated, nu I_nu = const. convention"

_EITHER = ("wavelength_um", "frequency_ghz")  # NaN where it is to follow from the other


@dataclass(frozen=True)
class Band:
    """One band of the sky, as an input or an output of a model or as the meaning of a map.

    Parameters
    ----------
    name : str
        Short name, for example "850um"; what maps and models carry.
    label : str
        How figures write it; by default the name.
    wavelength_um : float, optional
        Nominal wavelength in micrometre; by default that of `frequency_ghz`.
    frequency_ghz : float, optional
        Nominal frequency in GHz; by default that of `wavelength_um`.  The two may differ slightly where
        both are nominal: the HFI band called 850 um is the 353 GHz one (849.3 um).
    unit : str
        Unit in which maps of the band are expected.
    beam_fwhm_arcmin : float, optional
        FWHM of the instrument's beam in arcmin, as published; a map may have been smoothed since.
    instrument : str
        Who measured it.
    mjy_sr_per_k_cmb : float, optional
        MJy/sr per K_CMB, integrated over the band; None where no published value is kept here.
    mjy_sr_per_k_cmb_source : str
        The publication of that constant and its convention.

    Raises
    ------
    InputError
        If neither wavelength nor frequency is given, or a number is not positive and finite.

    Examples
    --------
    >>> round(Band("450um", wavelength_um=450.0).frequency_ghz, 3)
    666.205
    """

    name: str
    label: str = ""
    wavelength_um: float = math.nan
    frequency_ghz: float = math.nan
    unit: str = "MJy/sr"
    beam_fwhm_arcmin: float | None = None
    instrument: str = ""
    mjy_sr_per_k_cmb: float | None = None
    mjy_sr_per_k_cmb_source: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("a band came without a name; give one, as in Band('850um', wavelength_um=850).")
        for key in ("wavelength_um", "frequency_ghz", "beam_fwhm_arcmin", "mjy_sr_per_k_cmb"):
            value = getattr(self, key)
            absent = value is None or (key in _EITHER and math.isnan(value))
            if not absent and not (math.isfinite(value) and value > 0):
                raise InputError(f"band {self.name!r} came with `{key}` {value!r}; positive and finite expected.")
        if math.isnan(self.wavelength_um) and math.isnan(self.frequency_ghz):
            raise InputError(f"band {self.name!r} came without a wavelength; give `wavelength_um` or `frequency_ghz`.")
        if math.isnan(self.frequency_ghz):
            object.__setattr__(self, "frequency_ghz", SPEED_OF_LIGHT / self.wavelength_um * 1e-3)
        if math.isnan(self.wavelength_um):
            object.__setattr__(self, "wavelength_um", SPEED_OF_LIGHT / self.frequency_ghz * 1e-3)
        if not self.label:
            object.__setattr__(self, "label", self.name)


def _herschel(wavelength: int, instrument: str, beam_arcsec: float) -> Band:
    return Band(
        f"{wavelength}um",
        f"{wavelength} µm",
        float(wavelength),
        beam_fwhm_arcmin=beam_arcsec / 60.0,
        instrument=f"Herschel {instrument}",
    )


def _hfi(name: str, label: str, wavelength: float, frequency: float, beam: float, constant: float) -> Band:
    return Band(
        name,
        label,
        wavelength,
        frequency,
        beam_fwhm_arcmin=beam,
        instrument="Planck HFI",
        mjy_sr_per_k_cmb=constant,
        mjy_sr_per_k_cmb_source=PLANCK_2013_IX,
    )


# Beams: PACS and SPIRE observers' manuals; HFI effective beams, Planck 2015 results VIII; IRIS,
# Miville-Deschênes & Lagache 2005; SCUBA-2 as in Paradis et al. 2024; Bolocam, Aguirre et al. 2011.
_ALL = (
    _herschel(70, "PACS", 5.6),
    Band("100um", "100 µm", 100.0, beam_fwhm_arcmin=4.3, instrument="IRAS (IRIS)"),
    _herschel(160, "PACS", 11.4),
    _herschel(250, "SPIRE", 18.2),
    _herschel(350, "SPIRE", 24.9),
    _herschel(500, "SPIRE", 36.3),
    _hfi("850um", "850 µm", 850.0, 353.0, 4.94, 287.450),
    _hfi("1380um", "1.38 mm", 1380.0, 217.0, 5.02, 483.690),
    _hfi("857GHz", "857 GHz", math.nan, 857.0, 4.64, 2.27),
    _hfi("545GHz", "545 GHz", math.nan, 545.0, 4.83, 58.04),
    _hfi("143GHz", "143 GHz", math.nan, 143.0, 7.30, 371.74),
    _hfi("100GHz", "100 GHz", math.nan, 100.0, 9.68, 244.1),
    Band("scuba2_850um", "SCUBA-2 850 µm", 850.0, beam_fwhm_arcmin=14.4 / 60, instrument="JCMT SCUBA-2"),
    Band("bolocam_1100um", "Bolocam 1.1 mm", 1100.0, beam_fwhm_arcmin=33.0 / 60, instrument="CSO Bolocam"),
)
BANDS: dict[str, Band] = {entry.name: entry for entry in _ALL}


def band(name: str | Band) -> Band:
    """Return the band of a name.

    Parameters
    ----------
    name : str or Band
        The name of the table `BANDS`, or another way of writing it: "i160", "160", "1.38mm", "353GHz",
        "353 GHz", "850 µm".  A `Band` comes back as it is.

    Raises
    ------
    InputError
        If the band is not known; the message names the nearest one.

    Examples
    --------
    >>> band("1.38mm").name, band("i160").name, band("353GHz").name
    ('1380um', '160um', '850um')
    """
    if isinstance(name, Band):
        return name
    if not isinstance(name, str):
        raise InputError(f"`band` {name!r} came; give a name: {', '.join(BANDS)}.")
    text = re.sub(r"\s+", "", name).replace("µ", "u").replace("μ", "u").lower()
    if text in _LOWER:
        return BANDS[_LOWER[text]]
    match = re.fullmatch(r"(bolocam_|scuba2_|i)?(\d+(?:\.\d+)?)(um|micron|mm|ghz)?", text)
    if match:
        prefix, number, suffix = match[1] or "", float(match[2]), match[3] or "um"
        prefix = "" if prefix == "i" else prefix
        if suffix == "ghz":
            for entry in _ALL:
                if entry.instrument == "Planck HFI" and entry.frequency_ghz == number and not prefix:
                    return entry
        else:
            micrometre = number * 1000.0 if suffix == "mm" else number
            key = f"{prefix}{round(micrometre, 6):g}um"
            if key in _LOWER:
                return BANDS[_LOWER[key]]
    raise InputError(f"band {name!r} is not known; {nearest(name, BANDS)}")


_LOWER = {key.lower(): key for key in BANDS}
