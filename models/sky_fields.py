"""The synthetic sky at its base resolution: columns of dust classes, free-free, CO, CMB, noise, surveys.

Everything finer grows from these maps (`sky_refine`), everything coarser is their average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import ducc0
import numpy as np
from numpy.typing import NDArray

from ..chunking.geometry import morton, nested_to_ring, pixel_vectors
from ..chunking.sphere import rotation
from . import sky_random, sky_refine, sky_sed, sky_surveys
from .sky_frame import Piece
from .sky_random import Singles
from .sky_refine import SPECTRAL_INDEX, Growth
from .sky_surveys import Directions, Doubles

BASE_ORDER: Final = 8
BASE_NSIDE: Final = 2**BASE_ORDER
LMAX: Final = 3 * BASE_NSIDE - 1

CO: Final = "co"
FREE_FREE: Final = "free_free"
CMB: Final = "cmb"
DUST: Final = tuple(f"dust{number}" for number in range(len(sky_sed.CLASSES)))
GROWTH: Final[dict[str, Growth | None]] = {
    **{n: Growth(1, k.step_temperature, k.step_index) for n, k in zip(DUST, sky_sed.CLASSES, strict=True)},
    FREE_FREE: Growth(1),
    CO: Growth(2, -1),
    CMB: None,
}

# The logarithm of the column: flat below FLAT_BELOW, then a power law.
FLAT_BELOW = 14.0
LOG_COLUMN_SCATTER = 0.55
FILAMENT_DEPTH = 0.28
MEAN_TEMPERATURE, TEMPERATURE_SCATTER, TEMPERATURE_RANGE = 19.2, 1.0, (15.0, 25.0)
COLDER_WITH_DENSITY = 1.3  # K for one standard deviation of the logarithm of the column
MEAN_INDEX, INDEX_SCATTER, INDEX_RANGE = 1.6, 0.07, (1.36, 1.84)
_MANTISSA_BITS = 16


@dataclass(frozen=True)
class BaseSky:
    """Maps of the base resolution, NESTED.

    Parameters
    ----------
    fields : dict of str to ndarray
        (cells,) float32: dust classes in 1e20 H/cm^2, free-free in MJy/sr at 1.38 mm, CO in K km/s, CMB in K_CMB.
    """

    fields: dict[str, Singles]


@lru_cache(maxsize=3)
def survey_codes(frame: str) -> NDArray[np.uint8]:
    """Return the code of the survey that a pixel of the base resolution belongs to, (cells,) uint8, NESTED.

    Examples
    --------
    >>> survey_codes("galactic").shape
    (786432,)
    """
    codes = sky_surveys.cell_codes(directions(frame))
    codes.flags.writeable = False
    return codes


def directions(frame: str) -> Directions:
    """Return the Galactic directions of the pixels of the base resolution."""
    vectors = pixel_vectors(BASE_NSIDE, np.arange(12 * 4**BASE_ORDER, dtype=np.int64))
    return Directions(vectors if frame == "galactic" else vectors @ rotation(frame, "galactic").T)


@lru_cache(maxsize=2)
def base_sky(seed: int, frame: str) -> BaseSky:
    """Return the sky at the base resolution.

    Parameters
    ----------
    seed : int
        Any integer.
    frame : {"galactic", "icrs", "ecliptic"}
        Frame of the pixels; the same sky in another frame, apart from what is below the base resolution.

    Examples
    --------
    >>> sorted(base_sky(1, "galactic").fields)[:3]
    ['cmb', 'co', 'dust0']
    """
    sky = directions(frame)
    clouds = _cloud_spectrum()
    draw = {
        name: gaussian(seed, name, clouds, frame) for name in ("density", "filament", "temperature", "index", "scatter")
    }
    log_column, temperature, index = _dust(sky, draw)
    column = np.exp(log_column)
    fields = dict(zip(DUST, column * sky_sed.class_weights(temperature, index), strict=True))
    for galaxy in sky_surveys.GALAXIES:
        near, radius = galaxy.shape.near(sky, 4.0)
        here = galaxy.column * np.exp(-1.8 * radius + 0.6 * draw["density"][near])
        middle, outer = galaxy.temperatures
        warmth = middle + (outer - middle) * np.minimum(radius, 1.0) + 0.5 * draw["temperature"][near]
        shares = sky_sed.class_weights(warmth, galaxy.index + 0.04 * draw["index"][near])
        for name, share in zip(DUST, shares, strict=True):
            fields[name][near] += here * share
    bright = column**2 / (column**2 + 150.0**2)
    fields[FREE_FREE] = 0.0016 * column * bright * np.clip(draw["scatter"] - 0.9, 0.0, 2.0)
    fields[CO] = 0.12 * column**3 / (column**2 + 40.0**2) * np.exp(0.4 * draw["scatter"] - 0.3 * draw["temperature"])
    fields[CMB] = gaussian(seed, "cmb", _cmb_spectrum(), frame, normalised=False)
    return BaseSky({name: rounded(values) for name, values in fields.items()})


def _dust(sky: Directions, draw: dict[str, Doubles]) -> tuple[Doubles, Doubles, Doubles]:
    """Return ln(column / 1e20 H/cm^2), temperature and emissivity index."""
    vectors = sky.vectors
    lon, sine = np.arctan2(vectors[:, 1], vectors[:, 0]), vectors[:, 2]
    bulge = np.exp(-((np.degrees(lon) / 55.0) ** 2))
    # A slab seen from its middle: cosecant of the latitude, softened by the height of the slab.
    log_column = np.log(2.2 / np.sqrt(sine**2 + 0.018**2)) + 0.9 * bulge * np.exp(-np.abs(sine) / 0.15)
    bump, cool = np.zeros(len(sine)), np.zeros(len(sine))
    for shapes, width, height, colder in (
        (sky_surveys.CLOUD_PATCHES, 0.75, 1.3, 0.8),
        (sky_surveys.CORE_TILES, 0.6, 1.2, 1.5),
    ):
        for shape in shapes:
            near, radius = shape.near(sky, 4.0)
            hill = np.exp(-0.5 * (radius / width) ** 2)
            bump[near] += height * hill
            cool[near] += colder * hill
    # Sheets and threads: where a second field changes its sign.
    thread = -np.log(np.abs(draw["filament"]) + 0.08)
    thread -= thread.mean()
    log_column += bump + LOG_COLUMN_SCATTER * draw["density"] + FILAMENT_DEPTH * thread
    fluctuation = (LOG_COLUMN_SCATTER * draw["density"] + FILAMENT_DEPTH * thread) / LOG_COLUMN_SCATTER
    temperature = _between(
        MEAN_TEMPERATURE
        + 1.6 * bulge * np.exp(-np.abs(sine) / 0.1)
        - cool
        - COLDER_WITH_DENSITY * fluctuation
        + TEMPERATURE_SCATTER * draw["temperature"],
        *TEMPERATURE_RANGE,
    )
    index = _between(MEAN_INDEX + INDEX_SCATTER * draw["index"] - 0.02 * (temperature - MEAN_TEMPERATURE), *INDEX_RANGE)
    return log_column, temperature, index


def _between(values: Doubles, low: float, high: float) -> Doubles:
    """Return values led smoothly into a range."""
    middle, half = (low + high) / 2.0, (high - low) / 2.0
    return np.asarray(middle + half * np.tanh((values - middle) / half))


def _cloud_spectrum() -> Doubles:
    ell = np.arange(LMAX + 1, dtype=np.float64)
    power = (ell**2 + FLAT_BELOW**2) ** (SPECTRAL_INDEX / 2.0)
    power[0] = 0.0
    return power * base_window()


def _cmb_spectrum() -> Doubles:
    """Return an approximate C_l of the CMB in K_CMB^2: a plateau and the first two acoustic peaks, by eye.

    The base resolution ends at l = 767, so that damping is out of reach anyway.
    """
    ell = np.arange(LMAX + 1, dtype=np.float64)
    band_power = 950.0 + 4700.0 * np.exp(-0.5 * ((ell - 220.0) / 85.0) ** 2)
    band_power += 1600.0 * np.exp(-0.5 * ((ell - 540.0) / 80.0) ** 2)
    spectrum = np.zeros(LMAX + 1)
    spectrum[2:] = 2.0 * np.pi * band_power[2:] / (ell[2:] * (ell[2:] + 1.0)) * 1e-12
    return spectrum * base_window()


def base_window() -> Doubles:
    """Return the square of the window of a square pixel of the base resolution, averaged over directions, (ell,)."""
    ell = np.arange(LMAX + 1, dtype=np.float64)[:, np.newaxis]
    side = np.sqrt(4.0 * np.pi / (12 * 4**BASE_ORDER))
    angle = (np.arange(32) + 0.5) * (np.pi / 64.0)
    width = ell * side / (2.0 * np.pi)
    window = np.sinc(width * np.cos(angle)) * np.sinc(width * np.sin(angle))
    return np.asarray((window**2).mean(axis=1))


def gaussian(
    seed: int, field: str | Mapping[str, float], spectrum: Doubles, frame: str, normalised: bool = True
) -> Doubles:
    """Return a Gaussian field, (cells,) float64, NESTED.

    Parameters
    ----------
    seed : int
        Any integer.
    field : str or mapping of str to float
        Whose random numbers; or a sum of several draws, each times a number.  Fields that share a draw are correlated.
    spectrum : ndarray
        (ell,) float64 C_l, to LMAX.
    frame : {"galactic", "icrs", "ecliptic"}
        Frame of the pixels.
    normalised : bool
        Whether to scale the spectrum to variance 1.

    Examples
    --------
    >>> gaussian(1, {"a": 0.6, "b": 0.8}, np.ones(LMAX + 1), "galactic").shape
    (786432,)
    """
    count = (LMAX + 1) * (LMAX + 2) // 2
    parts = {field: 1.0} if isinstance(field, str) else field
    draws = np.zeros(2 * count)
    for name, factor in parts.items():
        draws += factor * sky_random.standard_normals(seed, f"base/{name}", 2 * count)
    alm = (draws[:count] + 1j * draws[count:]) * np.sqrt(0.5)
    alm[: LMAX + 1] = draws[: LMAX + 1]  # m = 0 is real
    ell = np.concatenate([np.arange(m, LMAX + 1) for m in range(LMAX + 1)])
    if normalised:
        spectrum = spectrum / (spectrum * (2.0 * np.arange(LMAX + 1) + 1.0)).sum() * 4.0 * np.pi
    alm *= np.sqrt(spectrum)[ell]
    if frame != "galactic":
        alm = ducc0.sht.rotate_alm(alm, LMAX, *_euler(rotation("galactic", frame)), nthreads=1)
    grid = ducc0.healpix.Healpix_Base(BASE_NSIDE, "RING").sht_info()
    ring = ducc0.sht.synthesis(alm=alm[np.newaxis], spin=0, lmax=LMAX, nthreads=1, **grid)[0]
    return np.asarray(ring[_ring_numbers()])


@lru_cache(maxsize=1)
def _ring_numbers() -> NDArray[np.int64]:
    """Return the RING numbers of all pixels of the base resolution, in NESTED order."""
    return nested_to_ring(BASE_NSIDE, np.arange(12 * 4**BASE_ORDER, dtype=np.int64))


def _euler(matrix: Doubles) -> tuple[float, float, float]:
    """Return psi, theta, phi of a rotation as ducc0 takes them: about z, then y, then z."""
    theta = np.arctan2(np.hypot(matrix[2, 0], matrix[2, 1]), matrix[2, 2])
    phi = np.arctan2(matrix[1, 2], matrix[0, 2])
    psi = np.arctan2(matrix[2, 1], -matrix[2, 0])
    return float(psi), float(theta), float(phi)


def rounded(values: Doubles) -> Singles:
    """Return values with the last bits dropped, so that the rounding of transforms does not differ among machines.

    Examples
    --------
    >>> rounded(np.array([1.0 + 1e-9])).tolist()
    [1.0]
    """
    mantissa, exponent = np.frexp(values)
    kept = np.ldexp(np.rint(mantissa * 2.0**_MANTISSA_BITS), exponent - _MANTISSA_BITS)
    return np.asarray(kept, dtype=np.float32)


def base_noise(seed: int, field: str, sigma: list[Singles]) -> Singles:
    """Return a white noise map of the base resolution, (cells,) float32, NESTED.

    Parameters
    ----------
    seed : int
        Of the sky.
    field : str
        Name of the noise field.
    sigma : list of ndarray
        Standard deviation of the pixels of each order from 0 to BASE_ORDER - 1, (cells,) or (1,) float32.
    """
    key = sky_random.keys(seed, field, -1)
    word = sky_random.mix(sky_random.axis_words(np.arange(12), key[0, 0]), np.empty(12, dtype=np.uint32))
    noise = np.broadcast_to(sigma[0], 12) * sky_random.normals(word, 1)[0]
    for order in range(BASE_ORDER):
        side = 2**order
        finer = np.empty((12, side * side, 4), dtype=np.float32)
        place = morton(side)
        level = np.broadcast_to(sigma[order], 12 * side * side).reshape(12, -1)
        for face in range(12):
            piece = Piece(order, face, 0, 0, side)
            parents = noise.reshape(12, -1)[face]
            finer[face, place] = np.moveaxis(
                sky_refine.noise_children(parents[place], piece, level[face][place], seed, field), 0, -1
            )
        noise = finer.reshape(-1)
    return noise
