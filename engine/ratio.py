"""Ratio of two bands, and the spectral indices that follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.bands import band as find_band
from ..chunking.errors import InputError, UnitError, nearest
from ..chunking.schema import MapInfo
from ..chunking.units import conversion
from ..models import emission
from .arguments import checked
from .mapping import map_plan
from .plan import Plan
from .records import RunReport
from .targets import output_store
from .worker import Worker, parse_bytes

WAVELENGTHS_UM = {"nominal": emission.NOMINAL_WAVELENGTHS_UM, "exact": emission.EXACT_WAVELENGTHS_UM}
_TOLERANCE = 0.01  # between the wavelength of a map's band and the one used: nominal and exact differ by 0.1 %


@dataclass(frozen=True)
class RatioKernel:
    """Ratio and indices of one tile."""

    numerator: str
    denominator: str
    temperature: float | str | None
    wavelengths_um: tuple[float, float]
    prefix: str

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return ratio, alpha, beta_star and, with a temperature, beta, each (cells,) float32."""
        above = inputs[self.numerator].astype(np.float64)
        below = inputs[self.denominator].astype(np.float64)
        # Two negative intensities have a positive ratio that means nothing.
        good = (above > 0) & (below > 0) & np.isfinite(above) & np.isfinite(below)
        values = np.full(above.shape, np.nan)
        np.divide(above, below, out=values, where=good)
        index = emission.alpha(values, wavelengths_um=self.wavelengths_um)
        maps = {"ratio": values, "alpha": index, "beta_star": index - 2.0}
        if self.temperature is not None:
            kelvin = inputs[self.temperature] if isinstance(self.temperature, str) else self.temperature
            maps["beta"] = emission.beta_corrected(maps["beta_star"], kelvin, wavelengths_um=self.wavelengths_um)
        return {self.prefix + name: value.astype(np.float32) for name, value in maps.items()}


@checked
def ratio(
    store: stores.StoreAddress,
    numerator: str = "pred_850um",
    denominator: str = "pred_1380um",
    *,
    temperature: float | str | None = None,
    wavelengths_um: str | Sequence[float] = "nominal",
    prefix: str = "",
    out: stores.StoreAddress | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[RunReport]:
    """Return the plan that maps the ratio of two bands and the dust's spectral indices.

    Writes `ratio`, `alpha` (I ~ nu^alpha), `beta_star` = alpha - 2 (the emissivity index in the Rayleigh-Jeans
    limit) and, where a temperature is given, `beta` = beta_star + c(T), each (cells,) float32 and a pure number;
    NaN where one of the two intensities is missing or not positive.

    Parameters
    ----------
    store : str or path
        Sky store with both maps.
    numerator, denominator : str
        Names of the maps, the shorter wavelength above; both per steradian in the same unit.
    temperature : float or str, optional
        Temperature of the dust in K, or the name of a map of it, for `beta`.
    wavelengths_um : {"nominal", "exact"} or two floats
        Wavelengths of the two: "nominal" 850 and 1380 um as published, "exact" those of 353 and 217 GHz, or
        two numbers in micrometre.
    prefix : str
        Put before the names of the maps that are written, for example "raw_" gives `raw_ratio`.
    out : str or path, optional
        Store to write into, of the same nside and frame; default `store` itself.
    overwrite : bool
        Replace maps that another run made.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan
        Its run returns a RunReport.

    Raises
    ------
    MissingMapError
        If a map is missing.
    UnitError
        If the two are in different units or not per steradian, or the temperature is not in K.
    InputError
        If the temperature is not positive, or the wavelengths are not those of the maps' bands.

    References
    ----------
    Paradis et al. 2024, A&A 691, A241, equation 1 and Table 2; see `skymill.models.emission.alpha` on the sign
    of the equation as printed.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     _ = sm.simulate("dust", sky, 16, seed=1).run()
    ...     _ = sm.ratio(sky, "truth_850um", "truth_1380um", temperature=20.0).run()
    ...     sorted(name for name in sm.open(sky) if name.startswith("beta"))
    ['beta', 'beta_star']
    """
    where = stores.address(store)
    above, below = stores.info(where, numerator), stores.info(where, denominator)
    if numerator == denominator:
        raise InputError(f"`numerator` and `denominator` are both {numerator!r}; give two maps of different bands.")
    _check_units(above, below)
    wavelengths = _wavelengths(wavelengths_um)
    _check_bands(above, below, wavelengths)
    reads = [numerator, denominator]
    if isinstance(temperature, str):
        unit = stores.info(where, temperature).unit
        if unit != "K":
            raise UnitError(f"map {temperature!r} is in {unit}; a temperature of dust is in K.")
        reads.append(temperature)
    elif temperature is not None:
        temperature = float(temperature)
        if not (math.isfinite(temperature) and temperature > 0):
            raise InputError(f"`temperature` {temperature} came; a positive temperature in K is expected.")
    into = output_store(where, out)
    names = ["ratio", "alpha", "beta_star"] + (["beta"] if temperature is not None else [])
    return map_plan(
        "ratio",
        RatioKernel(numerator, denominator, temperature, wavelengths, prefix),
        source=where,
        reads=reads,
        target=into.address,
        target_tiling=into.tiling,
        before=into.create,
        writes=[_map(name, prefix, above, below) for name in names],
        parameters={
            "numerator": numerator,
            "denominator": denominator,
            "temperature": temperature,
            "wavelengths_um": list(wavelengths),
        },
        memory={"temporaries": 8 * 10 * into.tiling.tile_npix},
        worker=Worker.here(threads, parse_bytes(memory)),
        overwrite=overwrite,
    )


_MEANING = {
    "ratio": ("intensity ratio", "{above} / {below}"),
    "alpha": ("spectral index", "spectral index of the intensity from {above} / {below}"),
    "beta_star": ("spectral index", "emissivity index from {above} / {below} in the Rayleigh-Jeans limit"),
    "beta": ("spectral index", "emissivity index from {above} / {below}, corrected for the temperature"),
}


def _map(name: str, prefix: str, above: MapInfo, below: MapInfo) -> MapInfo:
    quantity, sentence = _MEANING[name]
    beam = above.beam_fwhm_arcmin if above.beam_fwhm_arcmin == below.beam_fwhm_arcmin else None
    text = sentence.format(above=above.name, below=below.name)
    return MapInfo(prefix + name, quantity, "1", long_name=text, beam_fwhm_arcmin=beam)


def _check_units(above: MapInfo, below: MapInfo) -> None:
    if above.unit != below.unit:
        raise UnitError(
            f"{above.name!r} is in {above.unit}, {below.name!r} in {below.unit}; convert one with skymill.prepare."
        )
    try:
        conversion(above.unit, "MJy/sr")
    except UnitError as error:
        # A ratio of brightness temperatures, or of intensities per different beams, has another index.
        raise UnitError(
            f"{above.name!r} and {below.name!r} are in {above.unit}; the indices need intensities per steradian, so "
            "convert both to MJy/sr with skymill.prepare."
        ) from error


def _wavelengths(given: str | Sequence[float]) -> tuple[float, float]:
    if isinstance(given, str):
        if given not in WAVELENGTHS_UM:
            raise InputError(
                f"`wavelengths_um` {given!r} came; {nearest(given, WAVELENGTHS_UM)}, or two numbers in micrometre."
            )
        return WAVELENGTHS_UM[given]
    values = tuple(float(value) for value in given)
    if len(values) != 2 or not 0 < values[0] < values[1] < math.inf:
        raise InputError(
            f"`wavelengths_um` {given!r} came; two wavelengths in micrometre, the shorter (numerator) first, are "
            "expected."
        )
    return values[0], values[1]


def _check_bands(above: MapInfo, below: MapInfo, wavelengths: tuple[float, float]) -> None:
    for entry, wavelength in zip((above, below), wavelengths, strict=True):
        try:
            own = find_band(entry.band or "").wavelength_um
        except InputError:
            continue  # a band that the table does not know: the user's numbers are all there is
        if abs(own / wavelength - 1.0) > _TOLERANCE:
            raise InputError(
                f"map {entry.name!r} is of band {entry.band} ({own:g} um), but its wavelength was taken as "
                f"{wavelength:g} um; the shorter wavelength is the numerator, and `wavelengths_um` gives the two."
            )
