"""Pixels whose dust departs from its gas by one cause: Monte Carlo to try fingerprints on beyond first order."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..chunking.errors import InputError, nearest
from .emission import Floats, modified_black_body
from .fingerprints import CAUSES, PIVOT_GHZ, Bands


def monte_carlo_pixels(
    cause: str,
    sigma: float,
    *,
    pixels: int = 200_000,
    seed: int = 0,
    column_spread: float = 0.35,
    bands: Bands | None = None,
    temperature: float = 20.0,
    beta: float = 1.5,
    beta_per_kelvin: float = -0.06,
    pivot_ghz: float = PIVOT_GHZ,
) -> Mapping[str, Floats]:
    """Return pixels whose dust departs from its gas by one cause: what slopes can be tried on beyond first order.

    Parameters
    ----------
    cause : str
        One of `CAUSES`.
    sigma : float
        Standard deviation of the Gaussian fluctuation: K for "temperature" and "temperature-beta", of the factor
        for "dust-to-gas", of beta for "beta".
    pixels, seed : int
        How many, and from where random numbers begin.
    column_spread : float
        Standard deviation of the logarithm of the column density, whose median is 1.  The default is the one that gives
        the attenuated slopes of Notes.
    bands : Bands, optional
        Frequencies; default 353, 857 and 3000 GHz.
    temperature, beta, beta_per_kelvin, pivot_ghz : float
        As for `fingerprints`.

    Returns
    -------
    mapping
        `column` (pixel,) float64, lognormal; `low`, `high`, `third`
        (pixel,) intensities, and `gas` (pixel,), that of the high band at mean temperature, beta and dust-to-gas ratio.

    Raises
    ------
    InputError
        If the cause is not known or sigma is negative.

    Notes
    -----
    Where the low band is scaled by regression, the regression takes a part of the fluctuations with it, the more so the
    narrower the distribution of column densities: at 20 K the slope of "temperature" falls from 0.371 to 0.342 with a
    spread of 1.28 K.  Scaled by the gas (see `skymill.slopes`) it is 0.368 then.

    Examples
    --------
    >>> sky = monte_carlo_pixels("temperature", 0.05, pixels=1000)
    >>> sorted(sky)
    ['column', 'gas', 'high', 'low', 'third']
    """
    if cause not in CAUSES:
        raise InputError(f"`cause` {cause!r} came; {nearest(cause, CAUSES)}.")
    if not 0 <= sigma < math.inf:
        raise InputError(f"`sigma` {sigma!r} came; a number from 0 upwards is expected.")
    between = bands or Bands()
    random = np.random.default_rng(seed)
    column = random.lognormal(0.0, column_spread, pixels)
    change = sigma * random.standard_normal(pixels)
    kelvin = temperature + change * (cause in ("temperature", "temperature-beta"))
    index = beta + change * {"beta": 1.0, "temperature-beta": beta_per_kelvin}.get(cause, 0.0)
    amount = column * (1.0 + change * (cause == "dust-to-gas"))

    def brightness(frequency: float) -> Floats:
        return amount * modified_black_body(frequency, kelvin, index, reference_ghz=pivot_ghz)

    gas = column * modified_black_body(between.high, temperature, beta, reference_ghz=pivot_ghz)
    return {
        "column": column,
        "low": brightness(between.low),
        "high": brightness(between.high),
        "third": brightness(between.third),
        "gas": gas,
    }
