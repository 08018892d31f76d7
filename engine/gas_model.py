"""What gas says of the brightness of a band, in the regions of a fit: the model that residuals are taken from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError, UnitError, nearest
from ..chunking.units import parse_unit
from .fit_request import OFFSET, coefficient_unit
from .moments import Floats
from .used_pixels import UsedPixels

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class GasModel:
    """Templates times coefficients plus an offset, over the pixels of one region.

    Parameters
    ----------
    region : str
        Its name.
    used : UsedPixels
        The pixels that it holds for.
    target : str
        Map of the observed band.
    templates : tuple of str
        Maps of the gas.
    coefficients : tuple of float
        One a template, in the unit of the target per unit of the template.
    offset : float or None
        O in the unit of the target; None where it is not known.
    model : str or None
        A map of the model with its offset, instead of templates.
    """

    region: str
    used: UsedPixels
    target: str
    templates: tuple[str, ...] = ()
    coefficients: tuple[float, ...] = ()
    offset: float | None = None
    model: str | None = None

    @property
    def measured(self) -> tuple[str, ...]:
        """Maps that must have a value: the target, and the templates or the model."""
        return (self.target, *self.templates, *((self.model,) if self.model else ()))

    @property
    def reads(self) -> tuple[str, ...]:
        """Maps that are read: the measured ones, and those which decide about pixels."""
        return tuple(dict.fromkeys((*self.measured, *self.used.maps)))

    def facts(self) -> dict[str, Any]:
        """Return what determines the model as JSON-able values."""
        return {
            "region": self.region,
            "mask": None if self.used.mask is None else self.used.mask.name,
            "where": self.used.selection.facts(),
            "target": self.target,
            "coefficients": dict(zip(self.templates, self.coefficients, strict=True)),
            "offset": self.offset,
            "model": self.model,
        }

    def parts(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[Floats, Floats]:
        """Return the observed and the modelled brightness without the offset, each (cells,) float64, target's unit.

        An offset that is not known counts as zero.
        """
        offset = self.offset or 0.0
        observed = inputs[self.target].astype(np.float64) - offset
        if self.model is not None:
            return observed, inputs[self.model].astype(np.float64) - offset
        modelled = np.zeros(observed.shape)
        for name, coefficient in zip(self.templates, self.coefficients, strict=True):
            modelled += coefficient * inputs[name].astype(np.float64)
        return observed, modelled

    def holds(self, start: int, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """Return which of the pixels from `start` on are used and have a value in all maps, (cells,) bool."""
        used = self.used.holds(start, inputs, inputs[self.target].size)
        for name in self.measured:
            used = used & np.isfinite(inputs[name])
        return used


def gas_models(
    store: str,
    target: str,
    areas: Mapping[str, UsedPixels],
    *,
    fit: xr.Dataset | str | os.PathLike[str] | None,
    model: str | None = None,
    offset: float | None = None,
    offset_matters: bool = True,
    offset_option: bool = True,
) -> tuple[GasModel, ...]:
    """Return the model of a target, one a region.

    Parameters
    ----------
    store : str
        Address of the store.
    target : str
        Map of the observed band.
    areas : mapping of str to UsedPixels
        From `named_regions.areas_of`.
    fit : Dataset or path, optional
        Result of `skymill.fit`, or where it was written.
    model : str, optional
        A map of the model instead, its offset included.
    offset : float, optional
        O in the unit of the target; default that of the fit.
    offset_matters : bool
        Whether to refuse where the offset is not known.
    offset_option : bool
        Whether the user can give it.

    Raises
    ------
    InputError
        If neither or both of fit and model came, the fit does not have the target or the regions, or the offset is not
        known.
    MissingMapError
        If the store does not hold a map.
    """
    if (fit is None) == (model is None):
        came = "both `fit` and `model`" if fit is not None else "neither `fit` nor `model`"
        raise InputError(
            f"{came} came for {target!r}; give the fit (what skymill.fit returned, or its path), or the name of a map "
            'of the model such as "fit_model_i857".'
        )
    if offset is not None and not np.isfinite(offset):
        raise InputError(f"`offset` {offset} came; give a finite number in the unit of {target!r}.")
    if model is not None:
        if offset is None and offset_matters:
            raise InputError(
                f"`model` {model!r} came without `offset`: what does not come from gas is not known. Give the offset "
                f"of {target!r} in its unit, or the fit, which knows it."
            )
        stores.require_maps(store, [target, model])
        if stores.info(store, model).unit != stores.info(store, target).unit:
            raise InputError(
                f"{target!r} is in {stores.info(store, target).unit}, `model` {model!r} in "
                f"{stores.info(store, model).unit}; give both in one unit."
            )
        return tuple(GasModel(name, used, target, offset=offset, model=model) for name, used in areas.items())
    assert fit is not None
    known_fit = opened(fit)
    found = _coefficients(known_fit, target, tuple(areas))
    _check_units(store, known_fit, target)
    models = []
    for name, used in areas.items():
        by_template = dict(found[name])
        own = by_template.pop(OFFSET, None)
        known = offset if offset is not None else own
        if known is None and offset_matters:
            give = ", or give `offset` in the unit of the map (0 where it has been taken away)"
            raise InputError(
                f"the fit of {target!r} has no offset, so that what does not come from gas is not known; fit with "
                f"offset=True{give if offset_option else ''}."
            )
        stores.require_maps(store, [target, *by_template])
        models.append(GasModel(name, used, target, tuple(by_template), tuple(by_template.values()), known))
    return tuple(models)


def opened(fit: xr.Dataset | str | os.PathLike[str]) -> xr.Dataset:
    """Return a fit, read where it came as a path.

    Parameters
    ----------
    fit : Dataset or path
        Result of `skymill.fit`, or where it was written.

    Raises
    ------
    InputError
        If it has no coefficients.
    """
    import xarray as xr

    found: xr.Dataset
    if isinstance(fit, xr.Dataset):
        found = fit
    elif isinstance(fit, str | os.PathLike):
        from .fit_files import read_fit

        found = read_fit(fit)
    else:
        raise InputError(f"`fit` {type(fit).__name__} came; give what skymill.fit returned, or its path.")
    if "coefficient" not in found or not {"target", "template"} <= set(found["coefficient"].dims):
        raise InputError("`fit` has no coefficients (target, template); give what skymill.fit returned, or its path.")
    if "superpixel" in found["coefficient"].dims:
        raise InputError(
            "`fit` has coefficients a superpixel; write its model as a map (maps=True) and give that as `model`."
        )
    return found


def targets_of(fit: xr.Dataset) -> tuple[str, ...]:
    """Return the bands of a fit."""
    return tuple(str(name) for name in fit["target"].values)


def fit_regions(fit: xr.Dataset) -> tuple[str, ...]:
    """Return the regions of a fit, none where it has only one without a name."""
    return tuple(str(name) for name in fit["region"].values) if "region" in fit["coefficient"].dims else ()


def _check_units(store: str, fit: xr.Dataset, target: str) -> None:
    """Raise UnitError where coefficients are in other units than the maps of the store ask for."""
    if "unit" not in fit.coords:
        return
    own = stores.info(store, target).unit
    for name in fit["template"].values.tolist():
        wanted = own if name == OFFSET else coefficient_unit(own, stores.info(store, name).unit, offset=False)[0]
        came = str(fit["unit"].sel(target=target, template=name).values)
        if _spelled(came) != _spelled(wanted):
            raise UnitError(
                f"`fit` has the coefficient of {name!r} for {target!r} in {came}, the maps of {store} ask for "
                f"{wanted}; give a fit to maps in these units, or bring the maps to those of the fit."
            )


def _spelled(unit: str) -> tuple[str, ...]:
    """Return the units of a coefficient as skymill spells them."""
    parts = []
    for part in unit.removesuffix(")").split(" / ("):
        try:
            parts.append(parse_unit(part))
        except UnitError:
            parts.append(part)
    return tuple(parts)


def _coefficients(fit: xr.Dataset, target: str, regions: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return coefficients by template, by region."""
    if target not in targets_of(fit):
        raise InputError(f"`fit` has no target {target!r}; {nearest(target, targets_of(fit))}.")
    templates = [str(name) for name in fit["template"].values]
    known = fit_regions(fit)
    values = fit["coefficient"].sel(target=target)
    found = {}
    for region in regions:
        here = values
        if known:
            if region not in known:
                raise InputError(
                    f"`fit` has coefficients for the regions {', '.join(known)}, not for {region!r}; give `region` as "
                    "it was given to the fit: a mapping of these names to conditions "
                    f"(--region {known[0]}=WHERE, once for each)."
                )
            here = values.sel(region=region)
        numbers = np.asarray(here.transpose("template").values, np.float64)
        if not np.isfinite(numbers).all():
            raise InputError(f"`fit` has no finite coefficients of {target!r} for {region!r}; see its report.")
        found[region] = dict(zip(templates, numbers.tolist(), strict=True))
    return found
