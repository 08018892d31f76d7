"""Temperature maps: what temperature of the dust explains the residual of a band."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.regions import Region
from ..chunking.schema import MapInfo
from ..models.fingerprints import warming
from .arguments import checked
from .band_frequencies import frequency_of
from .gas_model import GasModel, gas_models
from .given_noise import WhiteNoise, white_noise
from .mapping import STATISTICS, map_plan
from .named_regions import areas_of
from .plan import Plan, Run
from .records import RunReport
from .region_pass import position_memory, refuse_nothing, tiles_with
from .region_tables import dataset_json
from .targets import output_store, tiles_over
from .temperature_statistics import TemperatureStatistics, Thermometer, temperature_dataset
from .worker import Worker, parse_bytes

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class TemperatureKernel:
    """Temperatures of one tile, and their errors where the noise is known."""

    models: tuple[GasModel, ...]
    thermometer: Thermometer
    label: str
    tile_npix: int
    noise: WhiteNoise | None = None

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Return `temperature_<label>`, `temperature_error_<label>` and statistics by region."""
        start = tile * self.tile_npix
        made = np.full(self.tile_npix, np.nan, np.float32)
        error = None if self.noise is None else np.full(self.tile_npix, np.nan, np.float32)
        statistics = {}
        for model in reversed(self.models):  # where regions overlap, the first one has the last word
            used, kelvin, found = self.thermometer.measure(model, start, inputs)
            statistics[model.region] = found.as_dict()
            made[used] = kelvin
            if self.noise is not None and error is not None:
                observed = model.parts(inputs)[0][used]
                sigma = self.noise.sigma(inputs, self.tile_npix)[used]
                warm = np.isfinite(kelvin)  # elsewhere the brightness may be zero
                found_error = np.full(kelvin.shape, np.nan)
                slope = observed[warm] * warming(self.thermometer.frequency, kelvin[warm])
                found_error[warm] = sigma[warm] / slope
                error[used] = found_error
        outputs: dict[str, Any] = {f"temperature_{self.label}": made, STATISTICS: statistics}
        if error is not None:
            outputs[f"temperature_error_{self.label}"] = error
        return outputs


@checked
def temperature(
    store: stores.StoreAddress,
    target: str = "i857",
    *,
    fit: xr.Dataset | str | os.PathLike[str] | None = None,
    model: str | None = None,
    offset: float | None = None,
    frequency: float | None = None,
    mean_temperature: float = 20.0,
    conservative_temperature: float = 25.0,
    noise: float | str | None = None,
    mask: str | None = None,
    region: str | Region | Sequence[str | Region] | Mapping[str, Any] | None = None,
    out_store: stores.StoreAddress | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[xr.Dataset]:
    """Return the plan that turns the residuals of a band into temperatures of the dust.

    Writes `temperature_<target>` (cells,) float32, K: the temperature that explains why a pixel is brighter or fainter
    than its gas says, if nothing else does; NaN where a pixel is not used, and where observed or modelled brightness
    without the offset is not positive (counted).  With `noise` also `temperature_error_<target>` (cells,) float32, K.

    Parameters
    ----------
    store : str or path
        Sky store with the maps.
    target : str
        Map of the observed band, best one far from the Rayleigh-Jeans limit.
    fit : Dataset or path, optional
        What `skymill.fit` returned, or where it was written; its coefficients and offset make the model.
    model : str, optional
        A map of the model instead, its offset included, for example "fit_model_i857".
    offset : float, optional
        What does not come from gas, in the unit of the target; default that of the fit.
    frequency : float, optional
        Of the target in GHz; default what its band or name says.
    mean_temperature : float
        In K; that of dust without residual.  The default is a guess: the paper's value is not known.
    conservative_temperature : float
        A second, higher mean temperature in K, at which the same residuals mean a larger spread.  The default is a
        guess: with it a scatter of 10.4 % gives the paper's 1.28 K.
    noise : float or str, optional
        Noise of the target, for the error map: its standard deviation in the unit of the target, or a map of it, or of
        the variance.
    mask : str, optional
        Mask map; see `skymill.mask`.
    region : str, Region, sequence of them, or mapping, optional
        Pixels to use (see `skymill.mask`), or several regions by name, as they were given to the fit.
    out_store : str or path, optional
        Store to write into, of the same nside and frame; default `store` itself.
    overwrite : bool
        Replace maps that another run made.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan
        Its run returns a Dataset: `sigma`, `mean` and `sigma_linear` (mean_temperature) K, the spread and mean of the
        temperatures for both mean temperatures, and the spread to first order; `median` and `interval` (level, side)
        K of 1, 2 and 3 sigma for the first; `sigma_fraction`, the spread of (I_obs - I_mod) / (I_mod - O); `pixels` and
        `not_positive`.  With named regions every variable has a leading dimension `region`.

    Raises
    ------
    InputError
        If the offset or the frequency is not known, neither or both of `fit` and `model` came, a temperature is not
        positive, or (when run) no pixel is left.
    MissingMapError
        If a map is missing.
    UnitError
        If the noise is in a unit that does not fit.

    References
    ----------
    Cheng et al. 2025, equations 11 to 14.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     _ = sm.simulate("dust", sky, 16, seed=1).run()
    ...     plan = sm.temperature(sky, "raw_850um", model="truth_850um", offset=0.0)
    ...     found = plan.run()
    ...     found["sigma"].dims, sm.open(sky)["temperature_raw_850um"].attrs["units"]
    (('mean_temperature',), 'K')
    """
    where = stores.address(store)
    areas = areas_of(where, mask, region)
    models = gas_models(where, target, areas, fit=fit, model=model, offset=offset)
    thermometer = Thermometer(frequency_of(where, target, frequency), mean_temperature, conservative_temperature)
    known_noise = None if noise is None else white_noise(where, target, noise)
    into = output_store(where, out_store)
    about = stores.info(where, target)
    common: dict[str, Any] = {"band": about.band, "beam_fwhm_arcmin": about.beam_fwhm_arcmin}
    words = f"dust temperature from residuals of {target}"
    writes = [MapInfo(f"temperature_{target}", "temperature", "K", long_name=words, **common)]
    if known_noise is not None:
        words = f"error of the dust temperature from the noise of {target}"
        writes.append(MapInfo(f"temperature_error_{target}", "temperature error", "K", long_name=words, **common))
    reads = tuple(dict.fromkeys(name for each in models for name in each.reads))
    if known_noise is not None and known_noise.name is not None:
        reads = tuple(dict.fromkeys((*reads, known_noise.name)))
    tiles = tiles_over(tiles_with(where, models), stores.tiling_of(where), into.tiling)
    plan: Plan[Any] = map_plan(
        "temperature",
        TemperatureKernel(models, thermometer, target, into.tiling.tile_npix, known_noise),
        source=where,
        reads=reads,
        tiles=tiles,
        target=into.address,
        target_tiling=into.tiling,
        before=into.create,
        writes=writes,
        parameters={
            "models": [each.facts() for each in models],
            "frequency_ghz": thermometer.frequency,
            "mean_temperature": mean_temperature,
            "conservative_temperature": conservative_temperature,
            "noise": noise,
        },
        # Observed, modelled, ratio and temperatures of used pixels in float64, and what computes them.
        memory={"temporaries": 100 * into.tiling.tile_npix, **position_memory(models)},
        worker=Worker.here(threads, parse_bytes(memory)),
        overwrite=overwrite,
    )
    write = plan.execute

    def execute(run: Run) -> xr.Dataset:
        report: RunReport = write(run)
        merged = [TemperatureStatistics() for _ in models]
        for record in report.records:
            for place, each in enumerate(models):
                part = record.statistics.get(each.region)
                if part is not None:
                    merged[place] = merged[place].merge(TemperatureStatistics.from_dict(part))
        refuse_nothing(models, [found.pixels for found in merged])
        attributes = {"target": target, "store": where, "seconds": report.seconds.get("wall", 0.0)}
        return temperature_dataset(merged, list(areas), region, thermometer, attributes)

    plan.execute = execute
    plan.account = dataset_json
    return plan
