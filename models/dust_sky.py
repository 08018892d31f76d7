"""A synthetic dust sky with known truth, any part of it at any resolution (pure NumPy, reproducible).

Covers: Herschel-like and Planck-like maps of one seed, their truth, what contaminates them, the surveys.
Does not cover: writing them into a store (`engine/simulate.py`).

How it is made (science after Paradis et al. 2024): columns of six classes of dust from correlated Gaussian fields at
a base resolution (`sky_fields`), refined pixel by pixel with averages kept (`sky_refine`), each class with a spectrum
of two modified black bodies (`sky_sed`); every map is a linear sum of these fields, so that the coarse map *is* the
average of the fine one.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..chunking.bands import band
from ..chunking.errors import InputError, nearest
from ..chunking.schema import MapInfo, check_frame
from ..chunking.tiling import Tiling
from . import sky_fields
from .sky_fields import BASE_ORDER, BaseSky
from .sky_growth import NoiseLevel, TileJob
from .sky_random import Singles
from .sky_recipe import BANDS_OF, CIB_MONOPOLE, CO_COEFFICIENT, HERSCHEL, PLANCK, Recipe, Sums, compose
from .sky_surveys import SURVEYS, Survey, coarse_codes

__all__ = [
    "CIB_MONOPOLE",
    "CO_COEFFICIENT",
    "DEFAULT_MAPS",
    "FOOTPRINTS",
    "GENERATOR_VERSION",
    "MAPS",
    "SURVEYS",
    "DustSky",
    "Survey",
]

GENERATOR_VERSION: Final = 2  # grows whenever a seed means another sky than before

FOOTPRINTS: Final = ("full", "surveys")
_lock = threading.RLock()


def _contaminants(name: str) -> dict[str, object]:
    """Return what `prepare` has to know to take out again what a raw map holds beside the dust."""
    return {
        "holds": {
            "cmb": f"{band(name).mjy_sr_per_k_cmb} MJy/sr per K_CMB",
            "co21": f"{CO_COEFFICIENT[name]} MJy/sr per K km/s",
            "cib": f"{CIB_MONOPOLE[name]} MJy/sr",
        }
    }


def _infos() -> dict[str, MapInfo]:
    def intensity(name: str, of: str, kind: str) -> MapInfo:
        return MapInfo(name, "intensity", "MJy/sr", band=of, long_name=f"synthetic {band(of).label} intensity, {kind}")

    maps = [intensity(f"i{name[:-2]}", name, "Herschel-like") for name in HERSCHEL]
    maps += [intensity(f"i{name}", name, "Planck-like, prepared") for name in PLANCK]
    maps += [
        replace(intensity(f"raw_{name}", name, "Planck-like, with CMB, CIB and CO"), provenance=_contaminants(name))
        for name in PLANCK
    ]
    maps += [intensity(f"truth_{name}", name, "without noise") for name in PLANCK]
    maps += [
        MapInfo("cmb", "temperature fluctuation", "K_CMB", long_name="synthetic CMB"),
        MapInfo("co21", "line intensity", "K km/s", long_name="synthetic 12CO(2-1)"),
        MapInfo("truth_column", "column density", "cm^-2", long_name="hydrogen column density of the dust"),
        MapInfo("truth_temperature", "dust temperature", "K", long_name="mass-weighted dust temperature"),
        MapInfo("truth_beta", "emissivity index", "1", long_name="mass-weighted emissivity index"),
        MapInfo(
            "survey",
            "survey code",
            "1",
            dtype="uint8",
            long_name="survey that observed the pixel",
            provenance={"codes": {str(survey.code): survey.name for survey in SURVEYS}},
        ),
    ]
    return {info.name: info for info in maps}


MAPS: Final = _infos()
DEFAULT_MAPS: Final = tuple(name for name in MAPS if name not in ("truth_column", "truth_temperature", "truth_beta"))


@dataclass(frozen=True)
class DustSky:
    """A synthetic sky: dust in six bands, noise, CMB, CIB, CO, surveys, and the truth.

    Parameters
    ----------
    seed : int
        Another seed is another sky; the surveys stay where they are.
    frame : {"galactic", "icrs", "ecliptic"}
        Frame of the pixels.
    footprint : {"full", "surveys"}
        The whole sky, or NaN outside the surveys.
    noise_nside : int
        The nside at which the noise has the levels below; white noise doubles with each doubling of nside.
    noise_herschel : float
        Standard deviation of the noise of the four Herschel-like bands in MJy/sr.
    noise_850um, noise_1380um : float
        The same for the Planck-like bands: the part that is everywhere the same.  The defaults are a tenth of the
        faintest sky, so that relative errors mean something everywhere; Planck itself has about 0.007 at 850 um.
    relative_noise_850um, relative_noise_1380um : float
        Their part that is proportional to the brightness (calibration, leakage), added in quadrature.

    Raises
    ------
    InputError
        If an option is not what is described.

    Examples
    --------
    >>> sky = DustSky(seed=11)
    >>> maps = sky.tile(Tiling(64, tile_nside=64), 7, ["i160", "truth_850um"])
    >>> maps["i160"].shape, str(maps["i160"].dtype)
    ((1,), 'float32')
    """

    seed: int = 0
    frame: str = "galactic"
    footprint: str = "full"
    noise_nside: int = 256
    noise_herschel: float = 0.001
    noise_850um: float = 0.002
    noise_1380um: float = 0.0008
    relative_noise_850um: float = 0.025
    relative_noise_1380um: float = 0.045

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, (int, np.integer)):
            raise InputError(f"`seed` {self.seed!r} came; give an integer.")
        object.__setattr__(self, "seed", int(self.seed))
        check_frame(self.frame)
        if self.footprint not in FOOTPRINTS:
            raise InputError(f"`footprint` {self.footprint!r} came; {nearest(str(self.footprint), FOOTPRINTS)}.")
        try:
            object.__setattr__(self, "noise_nside", Tiling(self.noise_nside).nside)
        except InputError as error:
            raise InputError(
                f"`noise_nside` {self.noise_nside!r} came; a power of two is expected: the nside for which the "
                "noise levels are given."
            ) from error
        for option in fields(self)[4:]:
            value = getattr(self, option.name)
            number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
            if not number or not 0.0 <= value < math.inf:
                raise InputError(f"`{option.name}` {value!r} came; a standard deviation, at least 0, is expected.")
            object.__setattr__(self, option.name, float(value))

    def base(self) -> BaseSky:
        """Return the maps of the base resolution, from which all others grow; computed once in a process."""
        with _lock:
            return sky_fields.base_sky(self.seed, self.frame)

    def observed(self, tiling: Tiling) -> tuple[int, ...]:
        """Return the tiles that hold any value."""
        if self.footprint == "full":
            return tuple(range(tiling.n_tiles))
        codes = self._codes(tiling, 0, tiling.npix).reshape(tiling.n_tiles, -1)
        return tuple(int(tile) for tile in np.flatnonzero(codes.any(axis=1)))

    def tile(
        self, tiling: Tiling, tile: int, names: Iterable[str]
    ) -> dict[str, NDArray[np.float32] | NDArray[np.uint8]]:
        """Return maps of one tile, each (cells,) float32 (`survey` uint8), NaN where nothing was observed.

        The values do not depend on the size of the tile, nor on the maps asked for together.

        Parameters
        ----------
        tiling : Tiling
            The grid.
        tile : int
            Number of the tile.
        names : iterable of str
            Some of `MAPS`.

        Raises
        ------
        InputError
            If a name or the tile does not exist.
        """
        wanted = check_names(names)
        cells = tiling.tile_slice(tile)
        codes = self._codes(tiling, cells.start, cells.stop)
        floats = tuple(name for name in wanted if name != "survey")
        maps: dict[str, NDArray[np.float32] | NDArray[np.uint8]] = {}
        if floats:
            maps.update(self._floats(floats, tiling.order, cells.start, cells.stop))
        repeats = (cells.stop - cells.start) // len(codes)
        if self.footprint == "surveys":
            outside = np.repeat(codes == 0, repeats)
            for values in maps.values():
                values[outside] = np.nan
        if "survey" in wanted:
            maps["survey"] = np.repeat(codes, repeats)
        return {name: maps[name] for name in wanted}

    def _floats(self, names: tuple[str, ...], order: int, start: int, stop: int) -> dict[str, Singles]:
        base = self.base()
        recipe = Recipe(names, tuple(name for name in BANDS_OF if self._noise_level(name).relative))
        noises = {name: self._base_noise(name) for name in recipe.noises}
        if order > BASE_ORDER:
            codes = self._cells() if self.footprint == "surveys" else None
            levels = {name: self._noise_level(name) for name in recipe.noises}
            return TileJob(recipe, self.seed, order, start, stop - start, levels, codes).run(base.fields, noises)
        sums = Sums(recipe.sums)
        for field in recipe.fields:
            sums.add(field, _averages(base.fields[field], order, start, stop))
        averaged = {name: _averages(values, order, start, stop) for name, values in noises.items()}
        return {name: compose(name, sums.values, averaged).copy() for name in names}

    def _noise_level(self, name: str) -> NoiseLevel:
        order = self.noise_nside.bit_length() - 1
        if BANDS_OF[name] in HERSCHEL:
            return NoiseLevel(order, self.noise_herschel, 0.0)
        floor, relative = (float(getattr(self, f"{kind}_{BANDS_OF[name]}")) for kind in ("noise", "relative_noise"))
        return NoiseLevel(order, floor, relative)

    def _base_noise(self, name: str) -> Singles:
        with _lock:
            return _noise_map(self.seed, self.frame, name, self._noise_level(name))

    def _cells(self) -> NDArray[np.uint8]:
        with _lock:
            return sky_fields.survey_codes(self.frame)

    def _codes(self, tiling: Tiling, start: int, stop: int) -> NDArray[np.uint8]:
        """Return codes of the pixels, or of the cells that hold them where those are larger."""
        codes = self._cells()
        if tiling.order < BASE_ORDER:
            return coarse_codes(codes, tiling.order)[start:stop]
        deeper = 2 * (tiling.order - BASE_ORDER)
        return codes[start >> deeper : max(stop >> deeper, (start >> deeper) + 1)]


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of maps, checked, without repetitions.

    Raises
    ------
    InputError
        If one is not known, or none came.

    Examples
    --------
    >>> check_names(["i160", "i160"])
    ('i160',)
    """
    if isinstance(names, str):
        raise InputError(f"`maps` {names!r} came; give a list of names, [{names!r}].")
    wanted = tuple(dict.fromkeys(names))
    for name in wanted:
        if name not in MAPS:
            raise InputError(f"the synthetic sky has no map {name!r}; {nearest(str(name), MAPS)}.")
    if not wanted:
        raise InputError(f"no map was asked for; known are {', '.join(MAPS)}.")
    return wanted


@lru_cache(maxsize=12)
def _noise_map(seed: int, frame: str, name: str, level: NoiseLevel) -> Singles:
    """Return the noise of the base resolution, (cells,) float32."""
    brightness: Singles | None = None
    if level.relative:
        sums = Sums([BANDS_OF[name]])
        for field, values in sky_fields.base_sky(seed, frame).fields.items():
            sums.add(field, values)
        brightness = sums.values[BANDS_OF[name]]
    sigma = []
    for order in range(BASE_ORDER):
        mean = None if brightness is None else _averages(brightness, order, 0, 12 * 4**order)
        sigma.append(np.atleast_1d(level.at(order, mean)))
    return sky_fields.base_noise(seed, f"noise/{name}", sigma)


def _averages(values: Singles, order: int, start: int, stop: int) -> Singles:
    """Return averages of a base map over the pixels of a coarser order, (stop - start,) float32."""
    inside = 4 ** (BASE_ORDER - order)
    part = values[start * inside : stop * inside].reshape(-1, inside)
    return part.mean(axis=1, dtype=np.float64).astype(np.float32)
