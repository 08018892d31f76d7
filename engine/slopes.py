"""Slopes of residuals against residuals, and what they say of their cause, region by region."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..chunking import store as stores
from ..chunking.errors import InputError
from ..chunking.regions import Region
from ..models.fingerprints import CAUSES, THIRD_GHZ, Bands, additive_fingerprint, fingerprints
from ..models.slopes import METHODS, Method
from ..models.verdicts import NOT_MEASURED, check_limits
from .arguments import check_choice, checked
from .band_frequencies import frequency_of
from .block_moments import block_shift
from .gas_model import GasModel, gas_models
from .given_noise import WhiteNoise, white_noise
from .named_regions import Regions, areas_of
from .plan import Plan, Run
from .region_pass import refuse_nothing, region_plan
from .region_tables import region_dataset
from .slope_statistics import SCALINGS, Scaling, SlopeFound, SlopeRequest, SlopeRule

if TYPE_CHECKING:
    import xarray as xr

FEWEST_PIXELS = 10


@checked
def slopes(
    store: stores.StoreAddress,
    *,
    low: str = "i353",
    high: str = "i857",
    third: str | None = None,
    fit: xr.Dataset | str | os.PathLike[str] | None = None,
    model: str | None = None,
    scaling: Scaling = "gas",
    method: Method = "ols",
    noise: Mapping[str, float | str] | None = None,
    frequencies: Mapping[str, float] | None = None,
    mean_temperature: float = 20.0,
    beta: float = 1.5,
    beta_per_kelvin: float = -0.06,
    pivot: float = 353.0,
    contaminants: Mapping[str, Mapping[str, float]] | None = None,
    tolerance: float = 0.03,
    third_tolerance: float = 0.1,
    reject: float = 0.01,
    jackknife: int | None = 4,
    mask: str | None = None,
    region: str | Region | Sequence[str | Region] | Mapping[str, Any] | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[xr.Dataset]:
    """Return the plan that measures slopes of residuals and says which cause they fit.

    r(gas), what gas does not explain of the high band, is held against r(low), what the low band does not explain of
    it: temperatures give 0.371 (at 20 K, 353 to 857 GHz), the dust-to-gas ratio 0, the emissivity index 1, and an
    anticorrelation of temperature and index a weak negative slope.  With a third band r(low -> third) is held against
    r(gas) too.  Offsets do not matter.

    Parameters
    ----------
    store : str or path
        Sky store with the maps.
    low, high : str
        Maps of the band that serves as template, and of the one whose residual is looked at; in one unit.
    third : str, optional
        Map of a band above both, for example "i100um"; only pixels where it has a value are used then.
    fit : Dataset or path, optional
        What `skymill.fit` returned, or where it was written, for the gas in the high band.
    model : str, optional
        A map of the model of the high band instead, for example "fit_model_i857".
    scaling : {"gas", "regression", "mbb"}
        What the low band is multiplied with.  "gas": the ratio of what both bands get from gas, so that neither noise
        nor fluctuations of the low band matter.  "regression": least squares of the high band on the low one, which
        takes a part of the fluctuations with it and makes slopes smaller (0.342 with a spread of 1.28 K).  "mbb": a
        modified black body of `mean_temperature` and `beta`.
    method : {"ols", "inverse", "deming"}
        Slope of r(low) on r(gas), one over that of r(gas) on r(low), or with noise in both (needs `noise`).
    noise : mapping, optional
        For "deming": by map of a band, its noise as a standard deviation in its unit, or a map of it, or of the
        variance.  The noise of the high band is in both residuals and pulls the slope of the other methods to 1.
    frequencies : mapping, optional
        By map, in GHz; default what their bands or names say.
    mean_temperature : float
        In K, for the slopes expected and for "mbb"; the default is a guess.
    beta : float
        Emissivity index for the same; the default is a guess.
    beta_per_kelvin : float
        d beta / dT of the anticorrelation; the default is a guess.
    pivot : float
        Frequency in GHz whose opacity does not change with beta.
    contaminants : mapping, optional
        Further causes by name: brightness by band, in one unit, of what gas does not trace and has one spectrum, such
        as {"cib": {"i353": 0.1, "i857": 0.5}}.  The cosmic infrared background is redder than dust and gives a negative
        slope; without it among the causes it is taken for an anticorrelation of temperature and index.
    tolerance, third_tolerance, reject : float
        See `models.verdicts.classify`; the defaults are guesses.
    jackknife : int or None
        nside of the patches of sky that are left out one by one for errors; None takes pixels as independent, which
        gives errors that are too small.
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
        Its run returns a Dataset: `slope`, `error`, `formal_error`, `correlation`, `scale` and `spread` (residual),
        `covariance` (residual, residual_2) of the slopes, `gas_spread`; `expected` (cause, residual), `chi2`,
        `probability` and `likelihood` (cause); `verdict`, a cause, "none of these", or "not measured" where a region is
        too small to judge, or has no more patches than slopes, and `consistent`, all that fit; `pixels` and `blocks`.
        With named regions every variable has a leading dimension `region`.

    Raises
    ------
    InputError
        If neither or both of `fit` and `model` came, a frequency is not known, noise is missing, an option is unknown,
        or (when run) too few pixels are left.
    MissingMapError
        If a map is missing.
    UnitError
        If noise is in a unit that does not fit.

    References
    ----------
    Cheng et al. 2025, equations 15 to 17 and B1 to B13.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     _ = sm.simulate("dust", sky, 16, seed=1).run()
    ...     plan = sm.slopes(sky, low="truth_1380um", high="truth_850um", model="raw_850um", pivot=150.0)
    ...     plan.run()["slope"].dims
    ('residual',)
    """
    where = stores.address(store)
    areas = areas_of(where, mask, region)
    request = slope_request(
        where,
        gas_models(where, high, areas, fit=fit, model=model, offset_matters=False),
        low=low,
        third=third,
        scaling=scaling,
        method=method,
        noise=noise,
        frequencies=frequencies,
        mean_temperature=mean_temperature,
        beta=beta,
        beta_per_kelvin=beta_per_kelvin,
        pivot=pivot,
        contaminants=contaminants,
        judge={"tolerance": tolerance, "third_tolerance": third_tolerance, "reject": reject},
        jackknife=jackknife,
    )

    def execute(run: Run) -> xr.Dataset:
        moments = request.gather(run)
        counts = [int(moments[each.region].count.sum()) for each in request.models]
        refuse_nothing(request.models, counts, request.more, FEWEST_PIXELS)
        found = [request.judged(moments[each.region]) for each in request.models]
        attributes = {"store": where, "method": method, "scaling": scaling, "frequencies_ghz": request.frequencies}
        return slope_dataset(found, request, list(areas), region, attributes)

    return region_plan(
        "slopes", where, request.models, request.more, execute, bytes_a_pixel=request.bytes_a_pixel, threads=threads,
        memory=memory,
    )  # fmt: skip


def slope_request(
    store: str,
    models: tuple[GasModel, ...],
    *,
    low: str,
    third: str | None = None,
    scaling: Scaling = "gas",
    method: Method = "ols",
    noise: Mapping[str, float | str] | None = None,
    frequencies: Mapping[str, float] | None = None,
    mean_temperature: float = 20.0,
    beta: float = 1.5,
    beta_per_kelvin: float = -0.06,
    pivot: float = 353.0,
    contaminants: Mapping[str, Mapping[str, float]] | None = None,
    judge: Mapping[str, float] | None = None,
    jackknife: int | None = 4,
) -> SlopeRequest:
    """Return what is to be measured, checked; parameters as for `slopes`, `models` those of the high band."""
    check_choice("scaling", scaling, SCALINGS)
    check_choice("method", method, METHODS)
    if judge:
        check_limits(**judge)  # now, not after the pass over the sky
    high = models[0].target
    bands = [name for name in (high, low, third) if name is not None]
    if len(set(bands)) < len(bands):
        raise InputError(f"maps {', '.join(bands)} came for the high, low and third band; give different ones.")
    stores.require_maps(store, bands)
    _check_unit(store, bands)
    noises = _noises(store, bands, method, noise)
    given = dict(frequencies or {})
    unknown = sorted(set(given) - set(bands))
    if unknown:
        raise InputError(f"`frequencies` came for {', '.join(unknown)}; the bands are {', '.join(bands)}.")
    known = {name: frequency_of(store, name, given.get(name), option="frequencies") for name in bands}
    ghz = Bands(known[low], known[high], known[third] if third else max(THIRD_GHZ, 2 * known[high]))
    expected = fingerprints(
        ghz, temperature=mean_temperature, beta=beta, beta_per_kelvin=beta_per_kelvin, pivot_ghz=pivot
    )
    expected += tuple(
        additive_fingerprint(
            name, _amplitudes(name, row, low, high, third), ghz, temperature=mean_temperature, beta=beta
        )
        for name, row in (contaminants or {}).items()
    )
    block_shift(stores.tiling_of(store), jackknife)
    rule = SlopeRule(method, scaling, ghz, third is not None, mean_temperature, beta)
    return SlopeRequest(store, models, low, third, noises, rule, expected, judge or {}, jackknife)


def slope_dataset(
    found: list[SlopeFound],
    request: SlopeRequest,
    names: list[str],
    region: Regions,
    attributes: Mapping[str, object],
) -> xr.Dataset:
    """Return slopes and verdicts by region; see `slopes`."""
    residuals = request.residuals
    expected = [[each.slope, each.third_slope][: len(residuals)] for each in request.expected]
    verdicts = [each.verdict for each in found]
    causes = [each.cause for each in request.expected]
    none = dict.fromkeys(causes, np.nan)

    def by_cause(kind: str) -> list[list[float]]:
        return [[(none if v is None else getattr(v, kind))[cause] for cause in causes] for v in verdicts]

    one = ("residual",)
    return region_dataset(
        {
            **{
                kind: (one, [getattr(each, kind) for each in found])
                for kind in ("slope", "error", "formal_error", "correlation", "scale", "spread")
            },
            "covariance": (("residual", "residual_2"), [each.covariance for each in found]),
            "gas_spread": ((), [each.gas_spread for each in found]),
            "expected": (("cause", "residual"), [expected for _ in found]),
            **{kind: (("cause",), by_cause(kind)) for kind in ("chi2", "probability", "likelihood")},
            "verdict": ((), [NOT_MEASURED if v is None else v.cause for v in verdicts]),
            "consistent": ((), [", ".join(v.consistent) if v is not None else "" for v in verdicts]),
            "pixels": ((), [each.pixels for each in found]),
            "blocks": ((), [each.blocks for each in found]),
        },
        {"residual": residuals, "residual_2": residuals, "cause": causes},
        names,
        region,
        attributes,
        {},
    )


def _amplitudes(
    name: str, given: Mapping[str, float], low: str, high: str, third: str | None
) -> tuple[float, float, float]:
    """Return the brightness of a contaminant in the low, the high and the third band."""
    bands = [low, high, *([third] if third else [])]
    if name in CAUSES:
        raise InputError(f"`contaminants` names {name!r}, which is a cause already; give another name.")
    if set(given) != set(bands) or not np.isfinite(list(given.values())).all():
        raise InputError(
            f"`contaminants` has {dict(given)} for {name!r}; give a finite brightness for each of {', '.join(bands)}."
        )
    return given[low], given[high], given[third] if third else np.nan


def _check_unit(store: str, bands: list[str]) -> None:
    units = {name: stores.info(store, name).unit for name in bands}
    if len(set(units.values())) > 1:
        told = ", ".join(f"{name} in {unit}" for name, unit in units.items())
        raise InputError(f"bands came in different units: {told}; convert them with skymill.prepare.")


def _noises(
    store: str, bands: list[str], method: str, noise: Mapping[str, float | str] | None
) -> tuple[WhiteNoise, ...]:
    if method != "deming":
        if noise:
            raise InputError(f'`noise` came with method {method!r}, which does not use it; take "deming".')
        return ()
    given = dict(noise or {})
    if set(given) != set(bands):
        raise InputError(
            f'`noise` came for {", ".join(sorted(given)) or "no map"}; method "deming" needs that of each of '
            f"{', '.join(bands)}."
        )
    return tuple(white_noise(store, name, given[name]) for name in bands)
