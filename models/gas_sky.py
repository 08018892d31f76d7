"""A synthetic sky of gas and dust with known truth, any part of it at any resolution (pure NumPy, reproducible).

Covers: a position-position-velocity cube of clouds with known emissivities, templates of ionised and molecular gas,
dust in Planck-like bands with noise and CIB, lensing, reddening, polarised intensity, a mask, and the truth.
Does not cover: writing them into a store (`engine/simulate.py`).

How it is made (science after Cheng et al. 2025): columns of the velocity components of clouds from Gaussian fields at a
base resolution (`gas_fields`), refined pixel by pixel with averages kept (`sky_refine`).  A component has one line
profile everywhere, so that every plane of the cube is a sum of columns; what velocity gradients there are come from
components whose shares change over the sky (`gas_clouds`).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..chunking.channels import Channels
from ..chunking.errors import InputError, nearest
from ..chunking.schema import MapInfo, check_frame
from ..chunking.tiling import Tiling
from .emission import modified_black_body
from .gas_clouds import CLOUDS, FREQUENCIES, PARTS, REFERENCE, emissivities, gas_channels
from .gas_fields import HOLE, SCAN, Base, unit_noise
from .gas_maps import BANDS, CUBE, GasRecipe
from .gas_options import MAPS, taken
from .sky_fields import BASE_ORDER, directions
from .sky_growth import NoiseLevel, TileJob
from .sky_random import Singles

__all__ = ["GENERATOR_VERSION", "MAPS", "GasSky", "gas_channels"]

GENERATOR_VERSION: Final = 1  # grows whenever a seed means another sky than before

_lock = threading.RLock()


@dataclass(frozen=True)
class GasSky:
    """A synthetic sky of gas clouds and their dust, with noise, CIB, lensing, reddening, and the truth.

    A seed is one sky, whatever the nside.  Every map that is linear in the columns is at a coarser nside the average of
    that at a finer one: all of them, unless temperature, dust-to-gas ratio, emissivity index or polarisation fluctuate.
    Those act on the pixels of the nside asked for, so that equations hold exactly there; averages then agree to second
    order in what varies inside a pixel.  Structure ends at the pixel, apart from that of CIB, lensing and fluctuations,
    which ends at l = 767.

    Parameters
    ----------
    seed : int
        Another seed is another sky.
    frame : {"galactic", "icrs", "ecliptic"}
        Frame of the pixels.
    noise_seed : int, optional
        Another realisation of all noise on the same sky; default `seed`.
    clouds : int
        Populations of clouds, 1 to 5; the publication found 3 in the north and 5 in the south.
    channels : int
        Velocity channels of the cube, 3 or more; they widen with velocity, up to 90 km/s.
    emissivities : tuple of float, optional
        Of the clouds at 857 GHz, MJy/sr for 1e20 cm^-2; default 0.43 for local, 0.29 for intermediate-velocity gas,
        and guesses for the others.  The first is above 0.
    hii : float
        Emissivity of ionised gas over that of the first cloud; a guess within what the publication finds.
    h2 : float
        Molecular column where the first cloud is dense, as a part of what is dense; 0 makes `nh2` pure noise.
    mean_temperature : float
        Of the dust, K.
    beta : float
        Its emissivity index; with the temperature it gives the emissivities at other frequencies.
    offset_i353, offset_i545, offset_i857, offset_i100um : float
        Added to a band, MJy/sr.
    noise_nside : int
        The nside at which noise has the levels below; it is white, so that it doubles with each doubling of nside.
    noise_i353, noise_i545, noise_i857, noise_i100um : float
        Root mean square of the noise of a band, MJy/sr; of the order of Planck's.
    scan : float
        How much the noise follows a scanning strategy that is deepest at the ecliptic poles; 0 for the same everywhere.
    noise_nh2 : float
        Of `nh2`, 1e20 cm^-2; a guess.
    noise_kappa : float
        Of `kappa`; a guess, about a white spectrum of 1e-7 sr.
    noise_ebv_sfd, noise_ebv_stars : float
        Of E(B-V), mag; guesses.  In `ebv_sfd` it is by 1 / `sfd_factor` larger, as all that is in it.
    cib_i353, cib_i545, cib_i857, cib_i100um : float
        Root mean square of the CIB at nside 256, MJy/sr; guesses.
    cib_index : float
        Slope of its C_l, a power law; a guess.
    cib_spectrum : tuple of float, optional
        Its C_l at 857 GHz from l = 0 on, (MJy/sr)^2 sr, instead of slope and `cib_i857`; the other bands keep their
        level relative to that.
    cib_correlation : float
        Correlation of the CIB of another band with that at 857 GHz; a guess.
    kappa_correlation : float
        Correlation of the lensing convergence with the CIB at 857 GHz; a guess.
    sigma_temperature : float
        Standard deviation of the dust temperature, K.
    sigma_dust_to_gas : float
        Of the dust-to-gas ratio over its mean, lognormal.
    sigma_beta : float
        Of the emissivity index; the intensity at 353 GHz stays.
    dbeta_dt : float
        Change of the emissivity index with temperature, per K.
    mean_polarization, sigma_polarization : float
        Mean and standard deviation of the polarisation fraction, which is kept within 0 and 1.
    correlation_length : float
        Degrees over which correlations of these four fields fall to 1/e; a guess.
    reddening : float
        E(B-V) of the first cloud, mmag for 1e20 cm^-2; those of the others are in proportion to emissivity.
    sfd_factor : float
        E(B-V) over what `ebv_sfd` says (Schlafly & Finkbeiner 2011).
    sfd_cib : float
        Root mean square of what CIB adds to the E(B-V) of `ebv_sfd`, `sfd_factor` times that map, at nside 256, mag; a
        guess.
    mask_latitude : float
        `mask` is 1 above this distance from the Galactic plane, degrees,
    mask_column : float
        where the HI column density is below this, 1e20 cm^-2.

    Raises
    ------
    InputError
        If an option is not what is described.

    References
    ----------
    Cheng et al. 2025, eqs. 2 to 7 (emission), 18 to 20 (polarisation) and 24 (reddening).

    Examples
    --------
    >>> sky = GasSky(seed=11)
    >>> maps = sky.tile(Tiling(64, tile_nside=64), 7, ["n_hi", "i857", "mask"])
    >>> {name: (values.shape, str(values.dtype)) for name, values in maps.items()}
    {'n_hi': ((41, 1), 'float32'), 'i857': ((1,), 'float32'), 'mask': ((1,), 'uint8')}
    """

    seed: int = 0
    frame: str = "galactic"
    noise_seed: int | None = None
    clouds: int = 3
    channels: int = 41
    emissivities: tuple[float, ...] | None = None
    hii: float = 0.5
    h2: float = 0.0
    mean_temperature: float = 20.0
    beta: float = 1.5
    offset_i353: float = 0.05
    offset_i545: float = 0.15
    offset_i857: float = 0.30
    offset_i100um: float = 0.20
    noise_nside: int = 256
    noise_i353: float = 0.003
    noise_i545: float = 0.003
    noise_i857: float = 0.003
    noise_i100um: float = 0.01
    scan: float = 1.0
    noise_nh2: float = 0.4
    noise_kappa: float = 0.08
    noise_ebv_sfd: float = 0.001
    noise_ebv_stars: float = 0.006
    cib_i353: float = 0.004
    cib_i545: float = 0.012
    cib_i857: float = 0.020
    cib_i100um: float = 0.004
    cib_index: float = -1.2
    cib_spectrum: tuple[float, ...] | None = None
    cib_correlation: float = 0.95
    kappa_correlation: float = 0.8
    sigma_temperature: float = 0.0
    sigma_dust_to_gas: float = 0.0
    sigma_beta: float = 0.0
    dbeta_dt: float = 0.0
    mean_polarization: float = 0.0
    sigma_polarization: float = 0.0
    correlation_length: float = 5.0
    reddening: float = 11.4
    sfd_factor: float = 0.86
    sfd_cib: float = 0.002
    mask_latitude: float = 35.0
    mask_column: float = 4.0

    def __post_init__(self) -> None:
        for option in fields(self):
            object.__setattr__(self, option.name, taken(option.name, getattr(self, option.name)))
        check_frame(self.frame)
        own = self.emissivities
        if own is not None and len(own) != self.clouds:
            raise InputError(f"`emissivities` {own} came for {self.clouds} clouds; give one number a cloud.")
        if own is not None and not own[0]:
            raise InputError(
                f"`emissivities` {own} came; that of the first cloud must be above 0: ionised and molecular gas and "
                "the reddening are told against it."
            )
        if self.cib_spectrum is not None and not self.cib_i857:
            raise InputError("`cib_spectrum` came with `cib_i857` 0, against which the other bands are scaled.")
        if self.sigma_polarization and not self.mean_polarization:
            raise InputError(
                f"`sigma_polarization` {self.sigma_polarization} came with `mean_polarization` 0: half of the sky "
                "would be below 0. Give a mean too, such as 0.1."
            )
        if 6.0 * self.sigma_temperature >= self.mean_temperature:
            raise InputError(
                f"`sigma_temperature` {self.sigma_temperature} K came for a mean of {self.mean_temperature} K; some "
                "dust would be at 0 K. Give less than a sixth of the mean."
            )

    @property
    def default_maps(self) -> tuple[str, ...]:
        """The maps that are made where none is asked for: all but truths that are the same everywhere."""
        on = {
            "p353": self.mean_polarization,
            "truth_temperature": self.sigma_temperature,
            "truth_beta": self.sigma_beta or (self.dbeta_dt and self.sigma_temperature),
            "truth_dust_to_gas": self.sigma_dust_to_gas,
            "truth_polarization": self.mean_polarization,
            "truth_nh2": self.h2,
        }
        return tuple(name for name in MAPS if on.get(name, True) and self._has(name))

    def velocity_channels(self) -> Channels:
        """Return the channels of the cube."""
        return gas_channels(self.channels)

    def emissivity(self) -> tuple[float, ...]:
        """Return the emissivities of the clouds at 857 GHz, MJy/sr for 1e20 cm^-2."""
        return self.emissivities or tuple(cloud.emissivity for cloud in CLOUDS[: self.clouds])

    def coefficients(self) -> dict[str, dict[str, float]]:
        """Return for each band the true coefficient of each map that is a part of the model, and of the offset.

        Returns
        -------
        dict of str to dict
            Band to template ("truth_cloud_1", "nhii", "truth_nh2", "offset") to MJy/sr per 1e20 cm^-2, or MJy/sr.

        Examples
        --------
        >>> GasSky(clouds=1).coefficients()["i857"]
        {'truth_cloud_1': 0.43, 'nhii': 0.215, 'truth_nh2': 0.43, 'offset': 0.3}
        """
        names = [*(f"truth_cloud_{k + 1}" for k in range(self.clouds)), "nhii", "truth_nh2"]
        of = emissivities(self.emissivity(), temperature=self.mean_temperature, beta=self.beta, hii=self.hii)
        return {
            band: {
                **{name: round(float(value), 12) for name, value in zip(names, of[band], strict=True)},
                "offset": float(getattr(self, f"offset_{band}")),
            }
            for band in BANDS
        }

    def infos(self, names: Iterable[str]) -> tuple[MapInfo, ...]:
        """Return what is known of maps, with the coefficients that are true for the bands.

        Raises
        ------
        InputError
            If a name is not known, or none came.
        """
        known = self.coefficients()
        return tuple(
            replace(MAPS[name], provenance={"coefficients": known[name]}) if name in known else MAPS[name]
            for name in self.check_names(names)
        )

    def check_names(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return names of maps, checked, without repetitions.

        Raises
        ------
        InputError
            If one is not known, belongs to a cloud that is not there, or none came.
        """
        if isinstance(names, str):
            raise InputError(f"`maps` {names!r} came; give a list of names, [{names!r}].")
        wanted = tuple(dict.fromkeys(names))
        for name in wanted:
            if name not in MAPS or not self._has(name):
                known = [each for each in MAPS if self._has(each)]
                raise InputError(f"this gas sky has no map {name!r}; {nearest(str(name), known)}.")
        if not wanted:
            raise InputError(f"no map was asked for; known are {', '.join(MAPS)}.")
        return wanted

    def _has(self, name: str) -> bool:
        return not name.startswith("truth_cloud_") or int(name.rpartition("_")[2]) <= self.clouds

    def base(self) -> Base:
        """Return what makes the fields of the base resolution."""
        return Base(
            self.seed,
            self.frame,
            self.cib_index,
            self.cib_spectrum,
            self.kappa_correlation,
            self.correlation_length,
            self.scan,
        )

    def noise_at_base(self, name: str) -> float:
        """Return the standard deviation of a noise at the base resolution, in the unit of its map."""
        return float(getattr(self, f"noise_{name}")) * 2.0**BASE_ORDER / self.noise_nside

    def band_factor(self, band: str) -> float:
        """Return the emissivity of a band over that at 857 GHz."""
        at = [float(modified_black_body(FREQUENCIES[b], self.mean_temperature, self.beta)) for b in (band, REFERENCE)]
        return at[0] / at[1]

    def cib_factors(self, band: str) -> tuple[float, float]:
        """Return by what to multiply the part of the CIB that all bands share, and that of the band alone."""
        level = float(getattr(self, f"cib_{band}"))
        if self.cib_spectrum is not None:
            level /= self.cib_i857
        if band == REFERENCE:
            return level, 0.0
        return level * self.cib_correlation, level * math.sqrt(1.0 - self.cib_correlation**2)

    def tile(self, tiling: Tiling, tile: int, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return maps of one tile, each (cells,) float32 (`mask` uint8), the cube (channel, cells) float32.

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
        wanted = self.check_names(names)
        cells = tiling.tile_slice(tile)
        count = cells.stop - cells.start
        out: dict[str, NDArray[Any]] = {}
        rows: dict[str, Singles] = {}
        for name in wanted:
            if name == "mask":
                out[name] = self._mask(tiling.order, cells.start, cells.stop)
            elif name == CUBE:
                out[name] = np.empty((self.channels, count), dtype=np.float32)
                rows.update({f"{CUBE}/{channel}": row for channel, row in enumerate(out[name])})
            else:
                out[name] = rows[name] = np.empty(count, dtype=np.float32)
        self._fill(rows, tiling.order, cells.start, cells.stop)
        return out

    def _fill(self, rows: dict[str, Singles], order: int, start: int, stop: int) -> None:
        each = {name: GasRecipe((name,), self, order) for name in rows}
        same = [name for name, recipe in each.items() if not recipe.fields and not recipe.noises]
        for name in same:
            rows[name][:] = each[name].collect().compose(name, {})
        recipe = GasRecipe(tuple(name for name in rows if name not in same), self, order)
        if not recipe.names:
            return
        base = self.base()
        with _lock:
            fields = {name: base.field(name) for name in recipe.fields}
            noises = {name: self._noise(name) for name in recipe.noises}
        if order > BASE_ORDER:
            levels = {name: None if name in (SCAN, HOLE) else NoiseLevel(BASE_ORDER, 1.0, 0.0) for name in noises}
            room = {name: rows[name] for name in recipe.names}
            TileJob(recipe, self.seed, order, start, stop - start, levels, None, self._noise_seed, room).run(
                fields, noises
            )
            return
        parts = recipe.collect()
        for name, values in fields.items():
            parts.add(name, _averages(values, order, start, stop))
        averaged = self._averaged_noises(noises, order, start, stop)
        for name in recipe.names:
            rows[name][:] = parts.compose(name, averaged)

    @property
    def _noise_seed(self) -> int:
        return self.seed if self.noise_seed is None else self.noise_seed

    def _noise(self, name: str) -> Singles:
        if name == SCAN:
            return self.base().level()
        return self.base().holes() if name == HOLE else unit_noise(self._noise_seed, name)

    def _averaged_noises(self, noises: Mapping[str, Singles], order: int, start: int, stop: int) -> dict[str, Singles]:
        """Return noises and their level in coarser pixels, such that their product is the average of the products."""
        out: dict[str, Singles] = {}
        if SCAN in noises:
            level = noises[SCAN]
            out[SCAN] = np.sqrt(_averages(np.square(level, dtype=np.float32), order, start, stop))
        for name, values in noises.items():
            if name in BANDS:
                out[name] = _averages(values * noises[SCAN], order, start, stop) / out[SCAN]
            elif name != SCAN:
                out[name] = _averages(values, order, start, stop)
        return out

    def _mask(self, order: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Return 1 where more than half of a pixel, or the cell of the base order that holds it, is used."""
        with _lock:
            used = _used_cells(self)
        if order <= BASE_ORDER:
            return np.asarray(_averages(used, order, start, stop) > 0.5).astype(np.uint8)
        deeper = 2 * (order - BASE_ORDER)
        cells = used[start >> deeper : max(stop >> deeper, (start >> deeper) + 1)]
        return np.repeat(cells.astype(np.uint8), (stop - start) // len(cells))


@lru_cache(maxsize=4)
def _used_cells(sky: GasSky) -> Singles:
    base = sky.base()
    column = np.zeros(12 * 4**BASE_ORDER)
    for cloud in range(sky.clouds):
        for part in range(PARTS):
            column += base.field(f"cloud{cloud + 1}/{part}")
    above = np.abs(directions(sky.frame).vectors[:, 2]) > math.sin(math.radians(sky.mask_latitude))
    return (above & (column < sky.mask_column)).astype(np.float32)


def _averages(values: Singles, order: int, start: int, stop: int) -> Singles:
    """Return averages of a base map over the pixels of a coarser order, (stop - start,) float32."""
    inside = 4 ** (BASE_ORDER - order)
    part = values[start * inside : stop * inside].reshape(-1, inside)
    return part.mean(axis=1, dtype=np.float64).astype(np.float32)
