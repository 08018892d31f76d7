"""The noise of a map: a number, or a map of standard deviations or of variances."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError, UnitError
from ..chunking.unit_names import SQUARES, parse_unit
from ..chunking.units import conversion
from .moments import Floats


@dataclass(frozen=True)
class MapNoise:
    """Standard deviations of the noise of a map in its unit; made by `MapNoise.of`.

    Parameters
    ----------
    value : float or None
        The same for all pixels.
    name : str or None
        Or a map of it.
    factor : float
        From the unit of that map.
    variance : bool
        Whether that map holds variances.
    """

    value: float | None
    name: str | None
    factor: float = 1.0
    variance: bool = False

    @classmethod
    def of(cls, store: str, target: str, noise: float | str) -> MapNoise:
        """Return the noise of a target as a user gave it.

        Parameters
        ----------
        store : str
            Address of the store.
        target : str
            The map with noise.
        noise : float or str
            Standard deviation in the unit of the target, or the name of a map of it or of the variance.

        Raises
        ------
        InputError
            If a number is not positive.
        MissingMapError
            If there is no such map.
        UnitError
            If the unit of the map is neither that of the target nor its square.
        """
        if not isinstance(noise, str):
            if not 0 < noise < math.inf:
                raise InputError(
                    f"`noise` {noise!r} came for {target!r}; give a positive standard deviation, or a map."
                )
            return cls(float(noise), None)
        unit, own = stores.info(store, target).unit, stores.info(store, noise).unit
        if own == unit:
            return cls(None, noise)
        try:
            base = SQUARES.get(parse_unit(own))
            factor = conversion(base or own, unit).factor
        except UnitError as error:
            raise UnitError(
                f"noise map {noise!r} is in {own}; give it in {unit} (standard deviations) or in its square."
            ) from error
        return cls(None, noise, factor if base is None else factor**2, base is not None)

    def sigma(self, inputs: Mapping[str, NDArray[Any]], size: int) -> Floats:
        """Return standard deviations, (cells,) float64; NaN where the map has no positive value."""
        if self.name is None:
            assert self.value is not None
            return np.full(size, self.value)
        values = inputs[self.name].astype(np.float64) * self.factor
        values = np.where(values > 0, values, np.nan)
        return np.sqrt(values) if self.variance else values
