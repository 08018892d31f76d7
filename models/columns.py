"""Column densities of gas in float64: neutral hydrogen from velocity channels, molecular hydrogen from CO.

Pure arithmetic on arrays; what goes over the store is `engine/templates.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..chunking.errors import InputError

type Floats = NDArray[np.float64]

HI_COLUMN: Final = 1.823e18
"""Column density of optically thin neutral hydrogen, cm^-2 per K km/s of its 21 cm line."""

X_CO: Final = 2e20
"""N_H2 / W_CO, cm^-2 per K km/s (Bolatto, Wolfire & Leroy 2013, ARA&A 51, 207)."""

BLOCK: Final = 2**16  # cells at a time: the temporaries of a block stay in the processor's cache


def merged_intervals(intervals: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return the union of intervals as intervals that neither touch nor overlap, ascending.

    Parameters
    ----------
    intervals : iterable of (low, high)
        Velocities in km/s; may be infinite.

    Raises
    ------
    InputError
        If there is none, a limit is NaN, or a `low` is not below its `high`.

    Examples
    --------
    >>> merged_intervals([(35, 90), (-90, -35), (-40, -20)])
    ((-90.0, -20.0), (35.0, 90.0))
    """
    ordered = sorted((float(low), float(high)) for low, high in intervals)
    if not ordered:
        raise InputError("no velocities came; give a range (low, high) in km/s, or several.")
    merged: list[tuple[float, float]] = []
    for low, high in ordered:
        if not low < high:  # false for NaN too
            raise InputError(f"the velocities {low:g} to {high:g} km/s came; the first must be below the second.")
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return tuple(merged)


def opaque_brightness(brightness: ArrayLike, spin_temperature: float) -> Floats:
    """Return the brightness that a thin line of the same optical depth would have, T_s tau, (...) float64 K.

    Parameters
    ----------
    brightness : array_like
        (...) brightness temperature in K; noise may make it negative.
    spin_temperature : float
        T_s in K.

    Returns
    -------
    ndarray
        -T_s ln(1 - T / T_s); NaN where T is T_s or more, which no gas of that spin temperature can be.

    Notes
    -----
    From T = T_s (1 - exp(-tau)), one isothermal layer without background.  The column density is then
    1.823e18 cm^-2 times the integral over velocity in km/s.

    Examples
    --------
    >>> opaque_brightness([1.0, 50.0, 80.0], 80.0).round(3).tolist()
    [1.006, 78.466, nan]
    """
    values = np.asarray(brightness, np.float64) / -spin_temperature
    values = np.where(values > -1.0, values, np.nan)
    return np.asarray(-spin_temperature * np.log1p(values))


def velocity_columns(
    values: NDArray[Any], factors: Floats, *, scale: float = 1.0, spin_temperature: float | None = None
) -> tuple[Floats, int]:
    """Return the column densities of velocity cuts, (cut, cells) float64, and how many cells are too bright for T_s.

    Parameters
    ----------
    values : ndarray
        (channel, cells) of a cube.
    factors : ndarray
        (cut, channel) float64: column density that one unit of a channel adds to a cut; 0 for channels outside.
    scale : float
        What turns values into the unit that `factors` takes.
    spin_temperature : float, optional
        Correct for optical depth, see `opaque_brightness`; then values times scale are in K.

    Returns
    -------
    columns : ndarray
        (cut, cells); NaN where a channel of the cut has no value.
    bright : int
        Cells in which some channel of some cut has a brightness of `spin_temperature` or more.

    Raises
    ------
    InputError
        If values and factors do not have the same number of channels.

    Examples
    --------
    >>> cube = np.array([[1.0, 2.0], [10.0, np.nan], [100.0, 300.0]])
    >>> velocity_columns(cube, np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.5]]))[0].tolist()
    [[11.0, nan], [50.0, 150.0]]
    """
    if values.ndim != 2 or factors.ndim != 2 or values.shape[0] != factors.shape[1]:
        raise InputError(
            f"a cube of shape {values.shape} and factors of shape {factors.shape} came; (channel, cells) and "
            "(cut, channel) of the same channels are expected."
        )
    columns = np.zeros((factors.shape[0], values.shape[1]))
    used = np.flatnonzero((factors != 0.0).any(axis=0))
    bright = 0
    for first in range(0, values.shape[1], BLOCK):
        part = slice(first, first + BLOCK)
        over = np.zeros(columns[0, part].shape, bool)
        for channel in used:
            line = values[channel, part].astype(np.float64) * scale
            if spin_temperature is not None:
                over |= line >= spin_temperature
                line = opaque_brightness(line, spin_temperature)
            # A channel outside a cut must not touch it: zero times "no value" would be no value.
            for cut in np.flatnonzero(factors[:, channel] != 0.0):
                columns[cut, part] += factors[cut, channel] * line
        bright += int(np.count_nonzero(over))
    return columns, bright


def molecular_column(line: ArrayLike, x_co: float = X_CO) -> Floats:
    """Return 2 N_H2, the hydrogen nuclei in molecules, (...) float64 cm^-2.

    Parameters
    ----------
    line : array_like
        (...) W_CO in K km/s of the J = 1-0 line.
    x_co : float
        N_H2 / W_CO in cm^-2 per K km/s.

    References
    ----------
    Cheng et al. 2025, equation 6: the template is 2 N_H2, so that coefficients of all gas are per hydrogen nucleus.

    Examples
    --------
    >>> float(molecular_column(2.5))
    1e+21
    """
    return np.asarray(2.0 * x_co * np.asarray(line, np.float64))


def molecular_variance(systematic: ArrayLike, simulated: ArrayLike, x_co: float = X_CO) -> Floats:
    """Return the variance of 2 N_H2, (2 X_CO)^2 (systematic^2 + simulated), (...) float64 cm^-4.

    Parameters
    ----------
    systematic : array_like
        (...) systematic uncertainty of W_CO in K km/s, a standard deviation.
    simulated : array_like
        (...) variance of W_CO from simulations of its noise, (K km/s)^2.
    x_co : float
        N_H2 / W_CO in cm^-2 per K km/s.

    Examples
    --------
    >>> float(molecular_variance(3.0, 16.0, x_co=0.5))
    25.0
    """
    return np.asarray((2.0 * x_co) ** 2 * (np.asarray(systematic, np.float64) ** 2 + np.asarray(simulated, np.float64)))


class RunningVariance:
    """Mean and variance of arrays that come one after the other, in memory that does not grow with their number.

    The recurrence of Welford (1962, Technometrics 4, 419), which does not subtract large numbers of one another.

    Examples
    --------
    >>> found = RunningVariance()
    >>> for values in ([1.0, 5.0], [2.0, 5.0], [3.0, 5.0]):
    ...     found.add(np.array(values))
    >>> found.mean.tolist(), found.variance(ddof=1).tolist()
    ([2.0, 5.0], [1.0, 0.0])
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Floats = np.zeros(())
        self._squares: Floats = np.zeros(())

    def add(self, values: NDArray[Any]) -> None:
        """Take one more array into the account.

        Parameters
        ----------
        values : ndarray
            (...) of the shape of those before; NaN stays NaN.
        """
        new = np.asarray(values, np.float64)
        self.count += 1
        if self.count == 1:
            self.mean, self._squares = new.copy(), np.zeros(new.shape)
            # A first value that is missing must stay so: zero squares would say that it is known exactly.
            self._squares[np.isnan(new)] = np.nan
            return
        step = new - self.mean
        self.mean += step / self.count
        self._squares += step * (new - self.mean)

    def variance(self, ddof: int = 1) -> Floats:
        """Return the variance, (...) float64.

        Parameters
        ----------
        ddof : int
            The sum of squares is divided by their number less this; 1 where the mean is that of the same numbers.

        Raises
        ------
        InputError
            If there are not more arrays than `ddof`.
        """
        if self.count <= ddof:
            raise InputError(f"{self.count} arrays came; a variance with ddof {ddof} takes {ddof + 1} or more.")
        return self._squares / (self.count - ddof)
