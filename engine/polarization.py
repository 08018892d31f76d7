"""Is a residual what polarisation makes of it: dust that is seen face-on is brighter and polarised less."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError
from ..chunking.regions import Region
from ..models.slopes import correlation, formal_error, line_slope
from ..models.slopes import jackknife as jackknife_covariance
from .arguments import checked
from .block_moments import BlockMoments, block_numbers, block_shift, merge_blocks
from .gas_model import GasModel, gas_models
from .given_noise import WhiteNoise, white_noise
from .moments import Floats
from .named_regions import areas_of
from .plan import Plan, Run
from .region_pass import reduce_regions, refuse_nothing, region_plan
from .region_tables import region_dataset

if TYPE_CHECKING:
    import xarray as xr

FEWEST_PIXELS = 10
EXPECTED_SLOPE = -1.0
_ROUNDING = 1e-6  # of a fraction of maps in float32: what scatters less is constant

type Gathered = dict[str, tuple[BlockMoments, int]]


@dataclass(frozen=True)
class PolarizationKernel:
    """Moments, by region and block, of the polarisation fraction and the fractional residual.

    Parameters
    ----------
    models : tuple of GasModel
        One a region.
    polarized : tuple of str
        P, or Q and U.
    noise : WhiteNoise or None
        Of Q and of U.
    tile_npix, shift : int
        Pixels of a tile; see `block_moments.block_shift`.
    """

    models: tuple[GasModel, ...]
    polarized: tuple[str, ...]
    noise: WhiteNoise | None
    tile_npix: int
    shift: int

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> Gathered:
        """Return moments and the number of pixels without a positive brightness, by region, of one tile."""
        start = tile * self.tile_npix
        intensity = polarized_intensity(inputs, self.polarized, self.noise, self.tile_npix)
        found = {}
        for model in self.models:
            used = model.holds(start, inputs) & np.isfinite(intensity)
            observed, modelled = model.parts(inputs)
            positive = used & (observed > 0)
            fraction = intensity[positive] / observed[positive]
            residual = 1.0 - modelled[positive] / observed[positive]
            blocks = block_numbers(start, positive, self.shift)
            dark = int(used.sum() - positive.sum())
            found[model.region] = BlockMoments.of(blocks, np.stack([fraction, residual])), dark
        return found


def polarized_intensity(
    inputs: Mapping[str, NDArray[Any]], polarized: Sequence[str], noise: WhiteNoise | None, size: int
) -> Floats:
    """Return P of a tile, (cells,) float64, from its map or from Q and U.

    From its square that of the noise of Q is taken: then P, and not its square, is right on average where it is well
    above the noise (Wardle & Kronberg 1974, ApJ 194, 249).
    """
    parts = [inputs[name].astype(np.float64) for name in polarized]
    if len(parts) == 1 and noise is None:
        return parts[0]
    squares = parts[0] ** 2 if len(parts) == 1 else parts[0] ** 2 + parts[1] ** 2
    if noise is not None:
        squares = np.maximum(squares - noise.sigma(inputs, size) ** 2, 0.0)
    return np.sqrt(squares)


def _merge(mine: Gathered, theirs: Gathered) -> Gathered:
    moments = merge_blocks({k: v[0] for k, v in mine.items()}, {k: v[0] for k, v in theirs.items()})
    return {name: (blocks, mine[name][1] + theirs[name][1]) for name, blocks in moments.items()}


@checked
def polarization(
    store: stores.StoreAddress,
    *,
    intensity: str = "i353",
    polarized: str | Sequence[str] = "p353",
    fit: xr.Dataset | str | os.PathLike[str] | None = None,
    model: str | None = None,
    offset: float | None = None,
    noise: float | str | None = None,
    jackknife: int | None = 4,
    mask: str | None = None,
    region: str | Region | Sequence[str | Region] | Mapping[str, Any] | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[xr.Dataset]:
    """Return the plan that holds residuals against the polarisation fraction.

    Dust whose field lies along the line of sight is polarised less and brighter by as much: with p = P / (I - O) and
    its mean pbar, (I - I_mod) / (I - O) has the slope -1 against (p - pbar) / (1 + pbar), if that is all that makes
    residuals.

    Parameters
    ----------
    store : str or path
        Sky store with the maps.
    intensity : str
        Map of the observed band.
    polarized : str or sequence of str
        Map of the polarised intensity, or those of Q and U, in the unit of `intensity`.
    fit : Dataset or path, optional
        What `skymill.fit` returned, or where it was written.
    model : str, optional
        A map of the model instead, its offset included.
    offset : float, optional
        In the unit of the band; default that of the fit.
    noise : float or str, optional
        Noise of Q and of U, as a standard deviation, or a map of it or of the variance: its square is taken from P^2,
        which it makes too large.
    jackknife : int or None
        nside of the patches of sky that are left out one by one for the error; None takes pixels as independent.
        Patches must be larger than the structures of the residuals: those of nside 4 are 15 degrees wide, see `fit`.
    mask : str, optional
        Mask map; see `skymill.mask`.
    region : str, Region, sequence of them, or mapping, optional
        Pixels to use (see `skymill.mask`), or several regions by name, as they were given to the fit.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan
        Its run returns a Dataset: `slope`, `error`, `formal_error` and `expected` (-1), `correlation` of residual and
        polarisation fraction, `fraction` and `fraction_sigma` (pbar and the spread of p), `residual_mean` and
        `residual_sigma` of the fractional residual, `pixels`, and `not_positive`, pixels left out because I - O is not
        positive.  With named regions every variable has a leading dimension `region`.

    Raises
    ------
    InputError
        If the offset is not known, the maps are not one or two in one unit, or (when run) too few pixels are left or
        all are polarised alike.
    MissingMapError
        If a map is missing.
    UnitError
        If the noise is in a unit that does not fit.

    References
    ----------
    Cheng et al. 2025, equations 18 to 22.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     _ = sm.simulate("dust", sky, 16, seed=1).run()
    ...     plan = sm.polarization(
    ...         sky, intensity="truth_850um", polarized="raw_850um", model="raw_850um", offset=0.0
    ...     )
    ...     round(float(plan.run()["expected"]))
    -1
    """
    where = stores.address(store)
    areas = areas_of(where, mask, region)
    models = gas_models(where, intensity, areas, fit=fit, model=model, offset=offset)
    maps = (polarized,) if isinstance(polarized, str) else tuple(polarized)
    if len(maps) not in (1, 2):
        raise InputError(f"`polarized` {', '.join(maps) or 'nothing'} came; give the map of P, or those of Q and U.")
    stores.require_maps(where, maps)
    unit = stores.info(where, intensity).unit
    for name in maps:
        if stores.info(where, name).unit != unit:
            raise InputError(
                f"{name!r} is in {stores.info(where, name).unit}, {intensity!r} in {unit}; give both in one unit."
            )
    known = None if noise is None else white_noise(where, maps[0], noise)
    more = (*maps, *((known.name,) if known is not None and known.name is not None else ()))
    tiling = stores.tiling_of(where)
    kernel = PolarizationKernel(models, maps, known, tiling.tile_npix, block_shift(tiling, jackknife))

    def execute(run: Run) -> xr.Dataset:
        nothing: Gathered = {each.region: (BlockMoments(), 0) for each in models}
        gathered = reduce_regions(kernel, where, models, more, _merge, nothing, run, "polarization")
        counts = [int(gathered[each.region][0].count.sum()) for each in models]
        dark = [gathered[each.region][1] for each in models]
        together = [bright + left for bright, left in zip(counts, dark, strict=True)]
        refuse_nothing(models, together, more, FEWEST_PIXELS)
        for each, bright, left in zip(models, counts, dark, strict=True):
            if bright < FEWEST_PIXELS:
                raise InputError(
                    f"{bright} of {bright + left} pixels in region {each.region!r} are brighter than the offset "
                    f"{each.offset or 0.0:g} of {intensity!r}, and {FEWEST_PIXELS} are needed; check offset, mask and "
                    "region."
                )
            _, mean, covariance = gathered[each.region][0].total()
            if not np.sqrt(covariance[0, 0]) > _ROUNDING * mean[0]:
                raise InputError(
                    f"the polarisation fraction is {mean[0]:g} in all of the {bright} pixels in region "
                    f"{each.region!r}: nothing can depend on it. Check `polarized`, and whether `noise` exceeds it."
                )
        rows = [_row(*gathered[each.region], blocks=jackknife is not None) for each in models]
        columns: dict[str, tuple[tuple[str, ...], Any]] = {key: ((), [row[key] for row in rows]) for key in rows[0]}
        return region_dataset(
            columns, {}, list(areas), region, {"store": where, "intensity": intensity, "polarized": list(maps)}, {}
        )

    return region_plan("polarization", where, models, more, execute, bytes_a_pixel=120, threads=threads, memory=memory)


def _row(moments: BlockMoments, dark: int, *, blocks: bool) -> dict[str, float]:
    pixels, mean, covariance = moments.total()
    # The regression is on (p - pbar) / (1 + pbar): the slope on p times 1 + pbar.
    slope = float(line_slope(covariance)) * (1.0 + mean[0])
    formal = float(formal_error(covariance, pixels)) * (1.0 + mean[0])
    error = formal
    if blocks:
        means, covariances = moments.left_out()
        error = float(np.sqrt(jackknife_covariance(line_slope(covariances) * (1.0 + means[:, 0]))[0, 0]))
    return {
        "slope": slope,
        "error": error,
        "formal_error": formal,
        "expected": EXPECTED_SLOPE,
        "correlation": float(correlation(covariance)),
        "fraction": float(mean[0]),
        "fraction_sigma": float(np.sqrt(covariance[0, 0])),
        "residual_mean": float(mean[1]),
        "residual_sigma": float(np.sqrt(covariance[1, 1])),
        "pixels": pixels,
        "not_positive": dark,
    }
