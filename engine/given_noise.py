"""What a user says of the noise of maps: sigma or variance of pixels as numbers or maps, and spectra."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError, UnitError, nearest
from ..chunking.schema import MapInfo
from ..chunking.unit_names import SQUARES
from ..chunking.units import conversion, parse_unit
from .given_spectra import read_spectra, stated_unit

type Floats = NDArray[np.float64]
type Spectrum = ArrayLike | str | os.PathLike[str] | Mapping[Any, Any]
type Noise = float | str | None


@dataclass(frozen=True)
class WhiteNoise:
    """White noise of a target: a number, or a map times a factor, as sigma or as variance."""

    name: str | None
    factor: float
    squared: bool

    def variance(self, values: NDArray[Any] | None, size: int) -> Floats:
        """Return the variance of pixels, (cells,) float64, from the values of the map."""
        if values is None:
            return np.full(size, self.factor**2)
        wrong = ~((values > 0) & (values < np.inf))
        if wrong.any():
            raise InputError(
                f"noise map {self.name!r} holds {float(values[wrong][0]):g} ({np.count_nonzero(wrong)} such pixels of "
                f"the {size} used); noise is above 0 and finite wherever a pixel is used. Mask these pixels, or mend "
                "the map."
            )
        found = self.factor * values.astype(np.float64)
        return found if self.squared else found**2

    def sigma(self, inputs: Mapping[str, NDArray[Any]], size: int) -> Floats:
        """Return standard deviations of pixels, (cells,) float64; NaN where the map has no positive value."""
        if self.name is None:
            return np.full(size, self.factor)
        values = inputs[self.name].astype(np.float64) * self.factor
        values = np.where(values > 0, values, np.nan)
        return np.sqrt(values) if self.squared else values


def white_noise(store: str, target: str, noise: Noise) -> WhiteNoise:
    """Return what was said of the white noise of a target; see `solve_correlated`.

    Parameters
    ----------
    store : str
        Address of the store.
    target : str
        Map.
    noise : float or str
        Sigma, or the name of a map.

    Raises
    ------
    InputError
        If it is missing, or a number that is not above 0.
    UnitError
        If the unit of the map is neither that of the target nor its square.
    """
    if noise is None:
        raise InputError(
            f"`noise` of {target!r} is not given; beside `noise_spectrum`, whose C_l end at a multipole, white noise "
            "is needed: without it a covariance of more pixels than multipoles has no inverse. Give sigma of a pixel, "
            "a number or a map; where instrument noise is negligible, the shot noise sqrt(C_shot / pixel area)."
        )
    if not isinstance(noise, str):
        if not (np.isfinite(noise) and noise > 0):
            raise InputError(f"`noise` of {target!r} came as {noise!r}; sigma of a pixel is a number above 0.")
        return WhiteNoise(None, float(noise), False)
    info, about = stores.info(store, noise), stores.info(store, target)
    if info.unit == about.unit:
        return WhiteNoise(noise, 1.0, False)
    try:
        squared = parse_unit(info.unit) in SQUARES
        return WhiteNoise(noise, _factor(info, about, squared), squared)
    except UnitError as error:
        raise UnitError(
            f"noise map {noise!r} is in {info.unit!r}, target {target!r} in {about.unit!r}: sigma is in the unit of "
            f"the target, a variance in its square. {error}"
        ) from error


def _factor(info: MapInfo, target: MapInfo, squared: bool) -> float:
    if not squared:
        return conversion(info.unit, target.unit).factor
    return conversion(SQUARES[parse_unit(info.unit)], target.unit).factor ** 2


def noise_spectra(
    spectrum: Spectrum,
    targets: Sequence[str],
    nside: int,
    lmax: int | None,
    units: Mapping[str, str] | None = None,
) -> tuple[dict[str, Floats], int]:
    """Return the spectrum of the noise of every target, each (ell,) float64, and the largest multipole.

    Parameters
    ----------
    spectrum : array, path or mapping
        See `solve_correlated`.
    targets : sequence of str
        Maps.
    nside : int
        Of the grid.
    lmax : int or None
        Largest multipole.
    units : mapping, optional
        Of the targets: what spectra say of their own unit is held against them.

    Raises
    ------
    InputError
        If a spectrum cannot be read, is negative or not finite, or ends below `lmax`, or the grid does not hold it.
    UnitError
        If a spectrum says that it is in another unit than the square of that of its target.

    Examples
    --------
    >>> noise_spectra([0.0, 2.0, 1.0], ["i857"], 16, None)
    ({'i857': array([0., 2., 1.])}, 2)
    """
    by_target = isinstance(spectrum, Mapping) and not hasattr(spectrum, "dims") and set(spectrum) & set(targets)
    if by_target:
        for key in spectrum:  # type: ignore[union-attr]
            if key not in targets:
                raise InputError(f"`noise_spectrum` of {key!r} came; {nearest(str(key), targets)}.")
    found = {}
    for name in targets:
        if by_target and name not in spectrum:  # type: ignore[operator]
            raise InputError(f"`noise_spectrum` has no spectrum of {name!r}; give one for every target.")
        given: Any = spectrum[name] if by_target else spectrum  # type: ignore[index,call-overload]
        try:
            values = read_spectra(given, [name])[name, name]
        except InputError as error:
            said = str(error).replace("`cl`", "`noise_spectrum`")
            pairs = 'pairs of names of maps, such as ("a", "b")'  # for spectra of several maps, not for noise
            said = said.replace(pairs, f"spectra by target: {', '.join(targets)}")
            raise InputError(said) from error
        if units is not None:
            _check_unit(stated_unit(given, name), name, units[name])
        wrong = np.flatnonzero(values < 0)
        if wrong.size:
            raise InputError(
                f"`noise_spectrum` of {name!r} came with {values[wrong[0]]:g} at ell {wrong[0]}; the power of noise is "
                "not negative. Fit a smooth curve to measured spectra that scatter below 0."
            )
        found[name] = values
    shortest = min(values.size for values in found.values()) - 1
    largest = 3 * nside - 1
    lmax = min(shortest, largest) if lmax is None else lmax
    if not 0 <= lmax <= largest:
        raise InputError(f"`lmax` {lmax} came; a map of nside {nside} holds 0 to 3 nside - 1 = {largest}.")
    if lmax > shortest:
        raise InputError(
            f"`noise_spectrum` ends at ell {shortest}, `lmax` {lmax} came; give C_l up to there, or a smaller `lmax`."
        )
    return {name: values[: lmax + 1] for name, values in found.items()}, lmax


def _check_unit(stated: str | None, target: str, unit: str) -> None:
    """Raise UnitError where a spectrum says that it is in another unit than the square of that of its target."""
    if stated is None:
        return
    inner = stated.removeprefix("(").removesuffix(")^2")
    try:
        own = SQUARES.get(parse_unit(stated), parse_unit(stated)) if inner == stated else parse_unit(inner)
    except UnitError:
        return  # as people write it: nothing is known of it
    if own != parse_unit(unit):
        raise UnitError(
            f"`noise_spectrum` of {target!r} is in {stated}, the map in {unit}; C_l of noise are in the square of the "
            f"unit of the target, here ({unit})^2."
        )
