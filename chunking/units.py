"""Units of maps: reading how headers spell them, and converting between them with the source of each factor.

Covers the units that maps of the sky come in and the conversions between those of one quantity.  It does
not cover general dimensional algebra (astropy does), and it never guesses: what needs a beam or a band is
refused until it is given.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from .bands import SPEED_OF_LIGHT, Band
from .bands import band as find_band
from .errors import UnitError, nearest
from .unit_names import ARCSEC, KNOWN_UNITS, SQUARES, UNITS, parse_unit, quantity_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PLANCK_CONSTANT = 6.62607015e-34  # J s, exact (SI)
BOLTZMANN_CONSTANT = 1.380649e-23  # J/K, exact (SI)
T_CMB = 2.7255  # K, Fixsen 2009
JANSKY = 1e-26  # W m^-2 Hz^-1

Bandpass = Literal["published", "monochromatic"]
BANDPASSES = ("published", "monochromatic")

__all__ = [
    "BANDPASSES",
    "BOLTZMANN_CONSTANT",
    "JANSKY",
    "KNOWN_UNITS",
    "PLANCK_CONSTANT",
    "T_CMB",
    "Bandpass",
    "Conversion",
    "beam_solid_angle",
    "conversion",
    "monochromatic",
    "parse_unit",
    "quantity_of",
]

_SOURCES = {
    "cm^-2": "1 pc = 3.0857e18 cm (IAU 2015 resolution B2)",
    "rad": "180 deg = pi rad, exact",
    "per_sr": "1 arcsec = pi/648000 rad, exact",
}


@dataclass(frozen=True)
class Conversion:
    """A factor from one unit to another, and where it comes from.

    Parameters
    ----------
    from_unit, to_unit : str
        Names of the units.
    factor : float
        A value in `from_unit` times this is the value in `to_unit`.
    source : str
        The publications, definitions and options that the factor rests on.
    band : str, optional
        Name of the band, where the factor depends on it.
    beam_fwhm_arcmin : float, optional
        FWHM of the Gaussian beam, where the factor depends on it.
    """

    from_unit: str
    to_unit: str
    factor: float
    source: str
    band: str | None = None
    beam_fwhm_arcmin: float | None = None

    def __call__(self, values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Return the values in the new unit, same shape and dtype; NaN stays NaN."""
        return values * self.factor

    def provenance(self) -> dict[str, Any]:
        """Return all of it as a JSON-able dictionary."""
        return asdict(self)


def conversion(
    from_: str,
    to: str,
    *,
    band: str | Band | None = None,
    beam_fwhm_arcmin: float | None = None,
    bandpass: Bandpass = "published",
) -> Conversion:
    """Return the factor from one unit to another, with its source.

    Parameters
    ----------
    from_, to : str
        Units, in any spelling that `parse_unit` reads.
    band : str or Band, optional
        The band, needed from or to K_CMB and K_RJ where the other side is not of the same kind.
    beam_fwhm_arcmin : float, optional
        FWHM of the Gaussian beam in arcmin, needed from or to a unit per beam.  The beam's solid angle is
        pi FWHM^2 / (4 ln 2).
    bandpass : {"published", "monochromatic"}
        For K_CMB: the published constant, integrated over the instrument's band, or dB_nu/dT at the
        band's nominal frequency and 2.7255 K.  The two differ by 3.2 % at 353 GHz, so which it was is in the
        source.  K_RJ is by definition 2 k nu^2 / c^2 at the nominal frequency.

    Raises
    ------
    UnitError
        If a unit is not known, the two measure different things, or a beam or band is missing; the message
        says what to give.

    Examples
    --------
    >>> conversion("K_CMB", "MJy/sr", band="850um").factor
    287.45
    >>> round(conversion("Jy/beam", "MJy/sr", beam_fwhm_arcmin=33 / 60).factor, 2)
    34.48
    """
    start, end = parse_unit(from_), parse_unit(to)
    if bandpass not in BANDPASSES:
        raise UnitError(f"`bandpass` {bandpass!r} came; {nearest(str(bandpass), BANDPASSES)}")
    beam = _check_beam(beam_fwhm_arcmin)
    entry = None if band is None else find_band(band)
    power = 1
    if start in SQUARES and end in SQUARES:
        power, start_base, end_base = 2, SQUARES[start], SQUARES[end]
    elif (start in SQUARES) != (end in SQUARES):
        raise UnitError(f"{start!r} cannot become {end!r}: one is a variance, the other is not.")
    else:
        start_base, end_base = start, end
    quantity, family, scale = UNITS[start_base]
    other_quantity, other_family, other_scale = UNITS[end_base]
    if quantity != other_quantity:
        raise UnitError(_impossible(start, quantity, end, other_quantity))
    factor, sources, used_band, used_beam = scale / other_scale, [], False, False
    if family != other_family:
        for side, sign in ((family, 1), (other_family, -1)):
            if side == "per_sr":
                continue
            if side == "per_beam":
                value, source = _per_beam(start, end, beam)
                used_beam = True
            else:
                value, source = _per_kelvin(side, start, end, entry, bandpass)
                used_band = True
            factor *= value**sign
            sources.append(source)
    if not sources and start != end:
        sources.append(_SOURCES.get(family, "decimal prefix") if _not_decimal(factor) else "decimal prefix, exact")
    return Conversion(
        start,
        end,
        1.0 if start == end else factor**power,
        "; ".join(sources) or "same unit",
        entry.name if entry is not None and used_band else None,
        beam if used_beam else None,
    )


def monochromatic(frequency_ghz: float, temperature: float = T_CMB) -> float:
    """Return dB_nu/dT at one frequency, in MJy/sr per kelvin.

    Parameters
    ----------
    frequency_ghz : float
        Frequency in GHz.
    temperature : float
        Temperature of the black body in K; by default that of the CMB.

    Examples
    --------
    >>> round(monochromatic(353.0), 2), round(monochromatic(217.0), 2)
    (296.65, 483.64)
    """
    nu = frequency_ghz * 1e9
    x = PLANCK_CONSTANT * nu / (BOLTZMANN_CONSTANT * temperature)
    rayleigh_jeans = 2.0 * BOLTZMANN_CONSTANT * nu**2 / SPEED_OF_LIGHT**2
    # x^2 e^x / (e^x - 1)^2, written so that a large x gives 0 and not an overflow.
    return rayleigh_jeans * (x / 2.0 / math.sinh(x / 2.0)) ** 2 / JANSKY * 1e-6 if x < 1400 else 0.0


def beam_solid_angle(fwhm_arcmin: float) -> float:
    """Return the solid angle of a Gaussian beam in steradian: pi FWHM^2 / (4 ln 2).

    Raises
    ------
    UnitError
        If the FWHM is not positive and finite.

    Examples
    --------
    >>> round(beam_solid_angle(5.0) * 1e6, 4)
    2.3969
    """
    beam = _check_beam(fwhm_arcmin)
    assert beam is not None
    return math.pi / (4.0 * math.log(2.0)) * (beam * 60.0 * ARCSEC) ** 2


def _check_beam(fwhm_arcmin: float | None) -> float | None:
    if fwhm_arcmin is None:
        return None
    try:
        beam = float(fwhm_arcmin)
    except (TypeError, ValueError):
        beam = math.nan
    if not (math.isfinite(beam) and beam > 0):
        raise UnitError(f"`beam_fwhm_arcmin` {fwhm_arcmin!r} came; a positive number of arcminutes is expected.")
    return beam


def _per_beam(start: str, end: str, beam: float | None) -> tuple[float, str]:
    if beam is None:
        raise UnitError(
            f"{start!r} to {end!r} needs the beam of the map: give `beam_fwhm_arcmin`, the FWHM in arcmin "
            'of the beam that "per beam" refers to.'
        )
    return 1e-6 / beam_solid_angle(beam), f"Gaussian beam of FWHM {beam:g} arcmin, pi FWHM^2 / (4 ln 2)"


def _per_kelvin(family: str, start: str, end: str, band: Band | None, bandpass: str) -> tuple[float, str]:
    if band is None:
        raise UnitError(
            f'{start!r} to {end!r} depends on the frequency: give `band`, for example band="850um" '
            "(353 GHz) or a Band of your own."
        )
    if family == "rj":
        nu = band.frequency_ghz * 1e9
        value = 2.0 * BOLTZMANN_CONSTANT * nu**2 / SPEED_OF_LIGHT**2 / JANSKY * 1e-6
        return value, f"K_RJ: 2 k nu^2 / c^2 at {band.frequency_ghz:g} GHz"
    if bandpass == "monochromatic":
        return monochromatic(band.frequency_ghz), (
            f"K_CMB: dB_nu/dT at {band.frequency_ghz:g} GHz and {T_CMB} K (monochromatic)"
        )
    if band.mjy_sr_per_k_cmb is None:
        raise UnitError(
            f"no published constant from K_CMB to MJy/sr is kept for band {band.name!r}: give "
            'bandpass="monochromatic" (dB/dT at the nominal frequency), or a Band with `mjy_sr_per_k_cmb`.'
        )
    source = band.mjy_sr_per_k_cmb_source or "constant of the Band given by the user"
    return band.mjy_sr_per_k_cmb, f"K_CMB: {band.mjy_sr_per_k_cmb:g} MJy/sr per K_CMB, {source}"


def _impossible(start: str, quantity: str, end: str, other: str) -> str:
    message = f"{start!r} ({quantity}) cannot become {end!r} ({other})."
    kinds = {quantity, other}
    if kinds == {"temperature", "intensity"}:
        return message + " A brightness temperature needs its kind: 'K_CMB' (thermodynamic) or 'K_RJ'."
    if kinds == {"line intensity", "column density"}:
        return message + " That takes a physical factor (X_CO, or 1.823e18 for optically thin HI): multiply by it."
    if kinds == {"line intensity", "intensity"}:
        return message + " That takes a coefficient of the line and band: give it to the step SubtractCO."
    return message + " They measure different things."


def _not_decimal(factor: float) -> bool:
    exponent = math.log10(factor)
    return abs(exponent - round(exponent)) > 1e-12
