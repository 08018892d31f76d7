"""What the maps of a synthetic gas sky are made of: fields, noises, and the arithmetic on the pixels of one piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from .emission import planck
from .gas_clouds import FREQUENCIES, PARTS, PIVOT_GHZ, REFERENCE, emissivities, gas_channels, profiles
from .gas_fields import CIB, FLUCTUATIONS, H2, HII, HOLE, KAPPA, SCAN
from .sky_fields import BASE_ORDER
from .sky_random import Singles
from .sky_refine import Growth
from .sky_surveys import Doubles

if TYPE_CHECKING:
    from .gas_sky import GasSky

CUBE: Final = "n_hi"
# Limits of the templates in km/s; that 35 parts local from intermediate velocities is a guess for the publication.
CUTS: Final = {"nhi": ((-90.0, 90.0),), "lvc": ((-35.0, 35.0),), "ivc": ((-90.0, -35.0), (35.0, 90.0))}
BANDS: Final = tuple(FREQUENCIES)
REDDENINGS: Final = ("ebv_sfd", "ebv_stars")
NOISY: Final = (*BANDS, "nh2", KAPPA, *REDDENINGS)
_LEAST_SHARE = 1e-9  # of a component; what a channel holds below this is not seen in float32


@lru_cache(maxsize=64)
def plane_shares(count: int, channels: int, plane: str) -> dict[str, float]:
    """Return which part of each component a channel ("n_hi/3") or a cut ("lvc") holds, where it is any.

    Parameters
    ----------
    count : int
        Clouds.
    channels : int
        Channels of the cube.
    plane : str
        Of what.

    Examples
    --------
    >>> sorted(plane_shares(1, 41, "n_hi/20"))
    ['cloud1/0', 'cloud1/1', 'cloud1/2']
    """
    kind, _, channel = plane.partition("/")
    if kind == CUBE:
        inside = np.zeros(channels)
        inside[int(channel)] = 1.0
    else:
        known = gas_channels(channels)
        inside = np.sum([known.overlap(low, high) for low, high in CUTS[kind]], axis=0)
    held = profiles(count, channels) @ inside
    return {
        f"cloud{cloud + 1}/{part}": float(held[cloud, part])
        for cloud in range(count)
        for part in range(PARTS)
        if held[cloud, part] > _LEAST_SHARE
    }


@dataclass(frozen=True)
class GasRecipe:
    """What has to be computed for some maps of a gas sky; what `TileJob` asks.

    Parameters
    ----------
    names : tuple of str
        The maps, and planes of the cube as "n_hi/0".
    sky : GasSky
        With its options.
    order : int
        HEALPix order of the maps.
    """

    names: tuple[str, ...]
    sky: GasSky
    order: int

    @property
    def noise_needs_truth(self) -> tuple[str, ...]:
        """Noises whose level follows the brightness: none."""
        return ()

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that the maps need."""
        return tuple(dict.fromkeys(field for name in self.names for field in self._fields_of(name)))

    @property
    def growths(self) -> tuple[Growth | None, ...]:
        """How they are refined."""
        base = self.sky.base()
        return tuple(base.growth(field) for field in self.fields)

    @property
    def noises(self) -> tuple[str, ...]:
        """The noises that the maps need, and what changes from cell to cell of the base order alone."""
        noises = [name for name in self.names if name in NOISY]
        if any(name.removeprefix("sigma_") in BANDS for name in self.names):
            noises.append(SCAN)
        if "ebv_stars" in self.names:
            noises.append(HOLE)
        return tuple(dict.fromkeys(noises))

    def collect(self) -> GasParts:
        """Return what makes the maps of a piece."""
        return GasParts(self)

    def _fields_of(self, name: str) -> tuple[str, ...]:
        sky = self.sky
        kind, _, of = name.removeprefix("truth_").partition("_")
        parts = tuple(f"cloud{cloud + 1}/{part}" for cloud in range(sky.clouds) for part in range(PARTS))
        if name.partition("/")[0] == CUBE or name in CUTS:
            return tuple(plane_shares(sky.clouds, sky.channels, name))
        if kind == "cloud":
            return tuple(field for field in parts if field.startswith(f"cloud{of}/"))
        if name.startswith("truth_cib"):
            return self._cib(f"i{of}")
        if name.startswith("sigma_"):
            return ()
        gas = (*parts, HII, *((H2,) if sky.h2 else ()))
        column = (*gas, *(("ratio",) if sky.sigma_dust_to_gas else ()))
        if kind in BANDS or name == "p353":
            cib = self._cib(name) if name in BANDS else ()
            return (*column, *(each for each in FLUCTUATIONS if each != "ratio" and self._fluctuates(each)), *cib)
        if kind == "ebv":
            return (*column, *((CIB,) if name == "ebv_sfd" and sky.sfd_cib else ()))
        one = {"nhii": (HII,), "nh2": (H2,) if sky.h2 else (), KAPPA: (KAPPA,)}
        if kind in one:
            return one[kind]
        turning = ("temperature",) if sky.dbeta_dt else ()
        needed = {"beta": (*turning, "index"), "dust": ("ratio",)}
        return tuple(each for each in needed.get(kind, (kind,)) if self._fluctuates(each))

    def _fluctuates(self, field: str) -> bool:
        sky = self.sky
        return bool(
            {
                "temperature": sky.sigma_temperature,
                "ratio": sky.sigma_dust_to_gas,
                "index": sky.sigma_beta,
                "polarization": sky.sigma_polarization,
            }[field]
        )

    def _cib(self, band: str) -> tuple[str, ...]:
        shared, own = self.sky.cib_factors(band)
        return (*((CIB,) if shared else ()), *((f"{CIB}/{band}",) if own else ()))


class GasParts:
    """The fields of one piece, and the maps that they make; a map without any field or noise is one number.

    Parameters
    ----------
    recipe : GasRecipe
        Of the maps.
    """

    def __init__(self, recipe: GasRecipe) -> None:
        self.sky, self.order = recipe.sky, recipe.order
        self.scale = 2.0 ** (recipe.order - BASE_ORDER)
        self.fields: dict[str, Singles] = {}
        self._made: dict[str, Singles] = {}

    def add(self, field: str, values: Singles) -> None:
        """Take one field, (...) float32."""
        self.fields[field] = np.array(values, order="C")

    def compose(self, name: str, noises: dict[str, Singles]) -> Singles:
        """Return a map, (...) float32.

        Parameters
        ----------
        name : str
            The map, or a plane of the cube.
        noises : dict of str to ndarray
            Of variance 1 at the base order.
        """
        sky = self.sky
        if name.partition("/")[0] == CUBE or name in CUTS:
            return self._weighted(plane_shares(sky.clouds, sky.channels, name))
        if name in BANDS:
            out = self._emission(name) + noises[name] * (noises[SCAN] * np.float32(sky.noise_at_base(name)))
            return self._with_cib(out, name)
        if name.startswith("sigma_i"):
            band = name.removeprefix("sigma_")
            return np.asarray(noises[SCAN] * np.float32(sky.noise_at_base(band) * self.scale))
        if name == "sigma_nh2":
            return np.full((), sky.noise_at_base("nh2") * self.scale, dtype=np.float32)
        if name in REDDENINGS:
            return self._reddening(name, noises)
        if name in NOISY:  # the noisy template, the lensing
            noise = noises[name] * np.float32(sky.noise_at_base(name))
            return np.asarray(self._truth(name) + noise)
        return self._truth(name.removeprefix("truth_"))

    def _truth(self, name: str) -> Singles:
        sky = self.sky
        kind, _, of = name.partition("_")
        if kind == "cloud":
            return self._weighted({f"cloud{of}/{part}": 1.0 for part in range(PARTS)})
        if name in BANDS:
            return self._emission(name)
        if kind == "cib":
            return self._with_cib(None, f"i{of}")
        if name == "p353":
            # Before the offset: the polarised part of what dust emits (Cheng et al. 2025, eq. 19).
            return np.asarray(self._dust("i353") * self._polarization())
        if name == "ebv":
            return self._made_once("ebv", self._ebv)
        if name == "nh2" and not sky.h2:
            return np.zeros((), dtype=np.float32)
        if name == "nh2":
            return self.fields[H2] * np.float32(sky.h2)
        if name in ("nhii", KAPPA):
            return self.fields[HII if name == "nhii" else KAPPA]
        if name == "beta":
            return np.asarray(sky.beta + self._index_change(), dtype=np.float32)
        maps = {"temperature": self._temperature, "dust_to_gas": self._ratio, "polarization": self._polarization}
        return np.asarray(maps[name](), dtype=np.float32)

    def _weighted(self, shares: dict[str, float]) -> Singles:
        """Return a sum of fields, in their order."""
        out: Singles | None = None
        room: Singles | None = None
        for field, share in shares.items():
            if out is None:
                out = self.fields[field] * np.float32(share)
                room = np.empty_like(out)
            else:
                out += np.multiply(self.fields[field], np.float32(share), out=room)
        if out is None:
            return np.zeros((), dtype=np.float32)
        return out

    def _made_once(self, name: str, make: Callable[[], Singles]) -> Singles:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _gas(self) -> Singles:
        """Return the intensity at 857 GHz of all gas at the mean temperature, MJy/sr."""
        sky = self.sky
        of = emissivities(sky.emissivity(), hii=sky.hii)[REFERENCE]
        shares = {f"cloud{cloud + 1}/{part}": of[cloud] for cloud in range(sky.clouds) for part in range(PARTS)}
        shares[HII] = of[-2]
        if sky.h2:
            shares[H2] = of[-1] * sky.h2
        out = self._weighted(shares)
        return np.asarray(out * self._ratio(), dtype=np.float32) if sky.sigma_dust_to_gas else out

    def _dust(self, band: str) -> Singles:
        """Return what dust emits in a band, without offset, MJy/sr (Cheng et al. 2025, eqs. 11, 15 and 20)."""
        sky = self.sky
        out = self._made_once("gas", self._gas) * np.float32(sky.band_factor(band))
        if sky.sigma_temperature:
            mean = float(planck(FREQUENCIES[band], sky.mean_temperature))
            out = np.asarray(out * (planck(FREQUENCIES[band], self._temperature()) / mean), dtype=np.float32)
        if sky.sigma_beta or (sky.dbeta_dt and sky.sigma_temperature):
            change = np.exp(self._index_change() * np.log(FREQUENCIES[band] / PIVOT_GHZ))
            out = np.asarray(out * change, dtype=np.float32)
        if sky.mean_polarization:
            out = np.asarray(out / (1.0 + self._polarization()), dtype=np.float32)
        return out

    def _emission(self, band: str) -> Singles:
        return np.asarray(self._dust(band) + np.float32(getattr(self.sky, f"offset_{band}")))

    def _with_cib(self, out: Singles | None, band: str) -> Singles:
        shared, own = self.sky.cib_factors(band)
        for field, factor in ((CIB, shared), (f"{CIB}/{band}", own)):
            if factor:
                term = self.fields[field] * np.float32(factor)
                out = term if out is None else np.add(out, term, out=out)
        return np.zeros((), dtype=np.float32) if out is None else out

    def _temperature(self) -> Doubles:
        return self._around("temperature", self.sky.mean_temperature, self.sky.sigma_temperature)

    def _index_change(self) -> Doubles:
        sky = self.sky
        change = self._around("index", 0.0, sky.sigma_beta)
        if sky.dbeta_dt:
            change = np.asarray(change + sky.dbeta_dt * (self._temperature() - sky.mean_temperature))
        return change

    def _ratio(self) -> Doubles:
        sigma = np.sqrt(np.log1p(self.sky.sigma_dust_to_gas**2))
        return np.asarray(np.exp(self._around("ratio", -0.5 * sigma**2, sigma)))

    def _polarization(self) -> Doubles:
        sky = self.sky
        return np.asarray(
            np.clip(self._around("polarization", sky.mean_polarization, sky.sigma_polarization), 0.0, 1.0)
        )

    def _around(self, field: str, mean: float, sigma: float) -> Doubles:
        """Return a fluctuating field, (...) float64; a number of no dimension where it does not."""
        if not sigma:
            return np.asarray(mean, dtype=np.float64)
        return np.asarray(mean + sigma * self.fields[field].astype(np.float64))

    def _ebv(self) -> Singles:
        sky = self.sky
        # Reddening and emission at a mean temperature are both in proportion to dust.
        factor = 1e-3 * sky.reddening / sky.emissivity()[0]
        return np.asarray(self._made_once("gas", self._gas) * np.float32(factor))

    def _reddening(self, name: str, noises: dict[str, Singles]) -> Singles:
        sky = self.sky
        out = self._made_once("ebv", self._ebv) + noises[name] * np.float32(sky.noise_at_base(name))
        if name == "ebv_stars":
            out[noises[HOLE] > 0.5] = np.nan
            return out
        if sky.sfd_cib:
            out += self.fields[CIB] * np.float32(sky.sfd_cib / sky.base().cib_deviation())
        out /= np.float32(sky.sfd_factor)
        return out
