"""The templates of one tile: what `templates` does with a cube, dispersion measures and CO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..models import columns
from .ledger import read_held
from .mapping import STATISTICS

DDOF: Final = 1  # of the variance over simulations, whose mean is their own


@dataclass(frozen=True)
class Scaled:
    """A map that is read, and the factor to the unit in which it counts.

    Parameters
    ----------
    name : str
        Of the map.
    factor : float
        Its values times this are in that unit.
    """

    name: str
    factor: float


@dataclass(frozen=True)
class CubeCuts:
    """Velocity cuts of a cube.

    Parameters
    ----------
    cube : str
        Its name.
    cuts : tuple of str
        Names of the maps.
    factors : tuple of tuple of float
        (cut, channel) columns in the unit that is written, for one unit of a channel.
    scale : float
        From the unit of the cube to K, where it is a brightness.
    spin_temperature : float, optional
        K.
    """

    cube: str
    cuts: tuple[str, ...]
    factors: tuple[tuple[float, ...], ...]
    scale: float
    spin_temperature: float | None


@dataclass(frozen=True)
class Molecules:
    """2 N_H2 from CO.

    Parameters
    ----------
    co : Scaled
        W_CO, to K km/s.
    systematic : Scaled or float or None
        Its systematic uncertainty, to K km/s.
    simulations : tuple of Scaled
        Simulations of its noise, to K km/s.
    x_co : float
        N_H2 / W_CO in the unit that is written, per K km/s.
    with_variance : bool
        Whether `variance_nh2` is written.
    """

    co: Scaled
    systematic: Scaled | float | None
    simulations: tuple[Scaled, ...]
    x_co: float
    with_variance: bool


@dataclass(frozen=True)
class TemplatesKernel:
    """The templates of one tile."""

    source: str
    tile_npix: int
    cuts: CubeCuts | None
    ionised: Scaled | None
    ionised_variance: Scaled | None
    variance_is_square: bool
    molecules: Molecules | None

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Return the maps, each (cells,) float32."""
        made: dict[str, Any] = {}
        if self.cuts is not None:
            cuts = self.cuts
            found, bright = columns.velocity_columns(
                inputs[cuts.cube], np.array(cuts.factors), scale=cuts.scale, spin_temperature=cuts.spin_temperature
            )
            made.update({name: found[row].astype(np.float32) for row, name in enumerate(cuts.cuts)})
            if cuts.spin_temperature is not None:
                made[STATISTICS] = {"bright": bright}
        if self.ionised is not None:
            made["nhii"] = _scaled(inputs, self.ionised).astype(np.float32)
        if self.ionised_variance is not None:
            values = _scaled(inputs, self.ionised_variance)
            made["variance_nhii"] = (values if self.variance_is_square else values**2).astype(np.float32)
        if self.molecules is not None:
            made.update(self._molecules(tile, inputs, self.molecules))
        return made

    def _molecules(self, tile: int, inputs: dict[str, NDArray[Any]], gas: Molecules) -> dict[str, NDArray[np.float32]]:
        made = {"nh2": columns.molecular_column(_scaled(inputs, gas.co), gas.x_co).astype(np.float32)}
        if not gas.with_variance:
            return made
        systematic: Any = gas.systematic or 0.0
        if isinstance(gas.systematic, Scaled):
            systematic = _scaled(inputs, gas.systematic)
        simulated: Any = 0.0
        if gas.simulations:
            # One after the other: a hundred of them need no more memory than two.
            running = columns.RunningVariance()
            start, stop = tile * self.tile_npix, (tile + 1) * self.tile_npix
            for each in gas.simulations:
                running.add(read_held(self.source, each.name, start, stop).astype(np.float64) * each.factor)
            simulated = running.variance(DDOF)
        variance = columns.molecular_variance(systematic, simulated, gas.x_co)
        # A variance is of a value: where that is missing, so is its variance.
        shaped = np.where(np.isnan(made["nh2"]), np.nan, variance)
        return {**made, "variance_nh2": shaped.astype(np.float32)}


def _scaled(inputs: Mapping[str, NDArray[Any]], known: Scaled) -> NDArray[np.float64]:
    return inputs[known.name].astype(np.float64) * known.factor
