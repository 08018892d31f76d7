"""A synthetic gas sky at its base resolution: columns of clouds, ionised and molecular gas, CIB, lensing, fluctuations.

Each field is made when it is first asked for.  Everything finer grows from these maps (`sky_refine`), everything
coarser is their average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Final

import numpy as np

from ..chunking.sphere import rotation
from .gas_clouds import CLOUDS, PARTS
from .sky_fields import BASE_ORDER, LMAX, base_noise, base_window, directions, gaussian, rounded
from .sky_random import Singles
from .sky_refine import Growth
from .sky_surveys import Doubles

LOG_COLUMN_SCATTER: Final = 0.42
FILAMENT_DEPTH: Final = 0.22
SOUTHERN: Final = 0.1  # the south has more gas
FLAT_BELOW: Final = 8.0
COVER_EDGE: Final = 0.35  # standard deviations of the field that says where a cloud is, from the inside to the outside
COVER_FLOOR: Final = 0.06  # what is left of a cloud outside
VELOCITY_SCATTER: Final = 0.7  # of the mean of a cloud's components, in steps from one to the next
HII_COLUMN: Final = 0.65  # 1e20 cm^-2 towards the poles, about 21 pc/cm^3
HII_SCATTER: Final = 0.25
HII_WITH_HI: Final = 0.75  # correlation of the logarithms of ionised and of local atomic gas, beside the latitude
MOLECULAR_ABOVE: Final = 10.0  # 1e20 cm^-2, where molecules begin to grow with the column and not with its square
# Lensing of the CMB: C_l of the convergence, about that of the standard model.
KAPPA_LEVEL: Final = 1.6e-7
KAPPA_TURN: Final = 60.0
HOLES: Final = 0.12  # part of the sky without stars' reddening

FLUCTUATIONS: Final = ("temperature", "ratio", "index", "polarization")
HII, H2, CIB, KAPPA = "hii", "h2", "cib", "kappa"
SCAN, HOLE = "scan", "hole"


@dataclass(frozen=True)
class Base:
    """What determines the fields of the base resolution.

    Parameters
    ----------
    seed : int
        Of the sky.
    frame : str
        Of the pixels.
    cib_index : float
        Slope of the C_l of the CIB.
    cib_spectrum : tuple of float, optional
        C_l of the CIB at 857 GHz instead, in (MJy/sr)^2 sr.
    kappa_correlation : float
        Correlation of the lensing convergence with the CIB.
    correlation_length : float
        Of temperature and other fluctuations, degrees.
    scan : float
        How much the noise follows the scanning, 0 for not at all.
    """

    seed: int
    frame: str
    cib_index: float
    cib_spectrum: tuple[float, ...] | None
    kappa_correlation: float
    correlation_length: float
    scan: float

    def field(self, name: str) -> Singles:
        """Return a field, (cells,) float32, NESTED, of the base resolution.

        Parameters
        ----------
        name : str
            "cloud1/0" (first cloud, first component, 1e20 cm^-2), "hii" (1e20 cm^-2), "h2" (1e20 cm^-2 of nuclei, for a
            molecular fraction of 1), "cib" (the part that all bands share, variance 1 or the spectrum given),
            "cib/i353" (the part of a band alone), "kappa", one of FLUCTUATIONS (variance 1).

        Examples
        --------
        >>> Base(1, "galactic", -1.2, None, 0.8, 5.0, 1.0).field("hii").shape
        (786432,)
        """
        kind, _, part = name.partition("/")
        if kind.startswith("cloud"):
            return _cloud(self.seed, self.frame, int(kind[5:]))[int(part)]
        if kind in (CIB, KAPPA):
            return _extragalactic(self, name)
        if kind in FLUCTUATIONS:
            return _fluctuation(self.seed, self.frame, kind, self.correlation_length)
        return {HII: _hii, H2: _h2}[kind](self.seed, self.frame)

    def growth(self, name: str) -> Growth | None:
        """Return how a field is refined: gas as an amount with structure of its own, all else smoothly."""
        kind, _, part = name.partition("/")
        if kind.startswith("cloud"):
            return Growth(1, int(part) - PARTS // 2, draw=f"gas/{kind}")
        return Growth(2, draw="gas/cloud1") if kind == H2 else None

    def cib_deviation(self) -> float:
        """Return the standard deviation of the part of the CIB that all bands share, over skies."""
        power = self.cib_power()
        return math.sqrt(float((power * (2.0 * np.arange(LMAX + 1) + 1.0)).sum()) / (4.0 * math.pi)) or 1.0

    def cib_power(self) -> Doubles:
        """Return the C_l of that part, (ell,) float64, with the pixel window of the base."""
        if self.cib_spectrum is None:
            return cib_spectrum(self.cib_index)
        given = np.array(self.cib_spectrum[: LMAX + 1])
        return np.asarray(np.pad(given, (0, LMAX + 1 - given.size)) * base_window())

    def level(self) -> Singles:
        """Return how large the noise is against its mean square, (cells,) float32: smaller towards the ecliptic poles.

        Examples
        --------
        >>> level = Base(1, "galactic", -1.2, None, 0.8, 5.0, 1.0).level()
        >>> bool(abs(np.mean(level.astype(float) ** 2) - 1) < 1e-6), bool(level.max() > 1.8 * level.min())
        (True, True)
        """
        return _level(self.frame, self.scan)

    def holes(self) -> Singles:
        """Return 1 where no reddening of stars is known, else 0, (cells,) float32."""
        return _holes(self.seed, self.frame)


def unit_noise(seed: int, name: str) -> Singles:
    """Return white noise of variance 1 at the base resolution, (cells,) float32.

    Parameters
    ----------
    seed : int
        Of the noise.
    name : str
        Of the map that it is for.

    Examples
    --------
    >>> bool(abs(unit_noise(3, "i857").std() - 1) < 0.01)
    True
    """
    return _unit_noise(seed, name)


@lru_cache(maxsize=12)
def _unit_noise(seed: int, name: str) -> Singles:
    return base_noise(
        seed, f"noise/{name}", [np.full(1, 2.0 ** (k - BASE_ORDER), np.float32) for k in range(BASE_ORDER)]
    )


def _power_law(flat_below: float, index: float) -> Doubles:
    ell = np.arange(LMAX + 1, dtype=np.float64)
    power = (ell**2 + flat_below**2) ** (index / 2.0)
    power[0] = 0.0
    return np.asarray(power * base_window())


@lru_cache(maxsize=8)
def _cloud(seed: int, frame: str, number: int) -> tuple[Singles, ...]:
    """Return the columns of the components of one cloud."""
    cloud = CLOUDS[number - 1]
    name = f"gas/cloud{number}"
    vectors = directions(frame).vectors
    lon, sine = np.arctan2(vectors[:, 1], vectors[:, 0]), vectors[:, 2]
    spectrum = _power_law(FLAT_BELOW, -2.8)
    log_column = math.log(cloud.column) - 0.5 * np.log(sine**2 + cloud.flattening**2)
    log_column -= SOUTHERN * sine
    log_column += LOG_COLUMN_SCATTER * gaussian(seed, f"{name}/density", spectrum, frame)
    thread = -np.log(np.abs(gaussian(seed, f"{name}/filament", spectrum, frame)) + 0.08)
    log_column += FILAMENT_DEPTH * (thread - thread.mean())
    column = np.exp(log_column)
    if cloud.cover > -math.inf:
        where = gaussian(seed, f"{name}/cover", _power_law(3.0, -3.2), frame)
        column *= COVER_FLOOR + (1.0 - COVER_FLOOR) / (1.0 + np.exp((cloud.cover - where) / COVER_EDGE))
    drift = VELOCITY_SCATTER * gaussian(seed, f"{name}/velocity", _power_law(5.0, -3.2), frame)
    # Galactic rotation moves the nearest gas with twice the longitude.
    drift += 0.4 * np.sin(2.0 * lon) * (1.0 - sine**2)
    shares = [np.exp(-2.0 * (drift - step) ** 2) + 1e-3 for step in range(-(PARTS // 2), PARTS // 2 + 1)]
    total = sum(shares)
    return tuple(rounded(column * share / total) for share in shares)


@lru_cache(maxsize=2)
def _hii(seed: int, frame: str) -> Singles:
    sine = directions(frame).vectors[:, 2]
    draws = {"gas/hii": math.sqrt(1.0 - HII_WITH_HI**2), "gas/cloud1/density": HII_WITH_HI}
    rough = HII_SCATTER * gaussian(seed, draws, _power_law(4.0, -3.6), frame)
    return rounded(HII_COLUMN / np.sqrt(sine**2 + 0.08**2) * np.exp(rough))


@lru_cache(maxsize=2)
def _h2(seed: int, frame: str) -> Singles:
    column = np.sum(_cloud(seed, frame, 1), axis=0, dtype=np.float64)
    return rounded(column**2 / (column + MOLECULAR_ABOVE))


def cib_spectrum(index: float) -> Doubles:
    """Return a power law in l as the C_l of a field of variance 1, (ell,) float64, with the pixel window of the base.

    Examples
    --------
    >>> spectrum = cib_spectrum(-1.2)
    >>> round(float((spectrum * (2 * np.arange(spectrum.size) + 1)).sum() / (4 * np.pi)), 9)
    1.0
    """
    spectrum = _power_law(2.0, index)
    return np.asarray(spectrum * (4.0 * np.pi / (spectrum * (2.0 * np.arange(LMAX + 1) + 1.0)).sum()))


def kappa_spectrum() -> Doubles:
    """Return the C_l of the lensing convergence, (ell,) float64, with the pixel window of the base.

    About that of the standard model: flat up to l of 60, then falling.
    """
    ell = np.arange(LMAX + 1, dtype=np.float64)
    spectrum = KAPPA_LEVEL / (1.0 + (ell / KAPPA_TURN) ** 1.1)
    spectrum[:2] = 0.0
    return np.asarray(spectrum * base_window())


@lru_cache(maxsize=8)
def _extragalactic(base: Base, name: str) -> Singles:
    shared = f"gas/{CIB}"
    if name == KAPPA:
        r = base.kappa_correlation
        draws = {shared: r, f"gas/{KAPPA}": math.sqrt(1.0 - r * r)}
        return rounded(gaussian(base.seed, draws, kappa_spectrum(), base.frame, normalised=False))
    return rounded(gaussian(base.seed, f"gas/{name}", base.cib_power(), base.frame, normalised=False))


@lru_cache(maxsize=8)
def _fluctuation(seed: int, frame: str, kind: str, length: float) -> Singles:
    # The transform in two dimensions of exp(-r / length) is (k^2 + 1 / length^2)^(-3/2).
    return rounded(gaussian(seed, f"gas/{kind}", _power_law(math.degrees(1.0) / length, -3.0), frame))


@lru_cache(maxsize=4)
def _level(frame: str, scan: float) -> Singles:
    vectors = directions(frame).vectors  # Galactic
    sine = vectors @ rotation("galactic", "ecliptic").T[:, 2]
    # A scan along circles through the ecliptic poles sees a direction as often as its parallel is short.
    level = (1.0 - sine**2 + 0.1**2) ** (0.25 * scan)
    return rounded(level / math.sqrt(float(np.mean(level**2))))


@lru_cache(maxsize=2)
def _holes(seed: int, frame: str) -> Singles:
    """Return where there are too few stars: near the plane, and in patches."""
    field = gaussian(seed, "gas/holes", _power_law(10.0, -3.0), frame)
    sine = np.abs(directions(frame).vectors[:, 2])
    return ((field < NormalDist().inv_cdf(HOLES)) | (sine < math.sin(math.radians(20.0)))).astype(np.float32)
