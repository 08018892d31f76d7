"""The result of a fit: coefficients of regions or super-pixels as one dataset, with plain statements about them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError
from ..models.gls import NormalEquations
from ..models.gls_solution import OR_RIDGE, Solution, degeneracies, jackknife_error
from .fit_pass import RegionSums
from .fit_request import OFFSET, FitRequest, noise_facts, where_facts
from .report import plain
from .used_pixels import area_deg2, sky_fraction

if TYPE_CHECKING:
    import xarray as xr

type Floats = NDArray[np.float64]

TOO_SMALL = 0.2  # by how much jackknife errors must be larger than formal ones for these to be called too small
# And by how many standard deviations of the former, 1 / sqrt(2 (super-pixels - 1)) of themselves were they all alike.
# They are not: of 200 skies of white noise 29 were called so with three, 3 with six, none with eight.
SCATTER = 8.0
POOR_CHI2 = 1.5  # chi^2 / dof above which the given noise is called too small
FEW_PARTS = 10
MOST_SAID = 4  # of one kind in a statement; all are in the dataset
SOURCE = "Cheng et al. 2025, arXiv:2411.12801, eq. 9"

_LONG_NAMES = {
    "coefficient": "coefficients of the templates",
    "error": "formal errors",
    "jackknife_error": "errors from leaving out one super-pixel after the other",
    "covariance": "covariance of the coefficients",
    "correlation": "correlation of the coefficients",
    "variance_inflation": "by what the other templates inflate the variance of a coefficient",
    "chi2": "chi^2; of residuals in their own unit where no noise is given",
    "dof": "degrees of freedom: pixels less coefficients",
    "condition": "condition number of the design, columns less their means and scaled to unit norm",
    "pixels": "pixels used",
    "area": "area used",
    "f_sky": "fraction of the sky used",
    "super_pixels": "super-pixels of the jackknife",
}
_UNITS = {"chi2": "1", "dof": "1", "condition": "1", "pixels": "1", "area": "deg^2", "f_sky": "1", "super_pixels": "1"}


@dataclass(frozen=True, eq=False)
class RegionFit:
    """What is known of one region; arrays as in `Solution`.

    Parameters
    ----------
    coefficient, error, jackknife_error, variance_inflation : ndarray
        (band, coefficient) float64
    covariance, correlation : ndarray
        (band, coefficient, coefficient) float64
    chi2, condition : ndarray
        (band,) float64
    dof, pixels : int
        Degrees of freedom, and pixels.
    parts : int
        Super-pixels of the jackknife.
    degeneracies : tuple
        By band: see `gls_solution.degeneracies`.
    extra : mapping
        Attributes that only some fits have.
    """

    coefficient: Floats
    error: Floats
    jackknife_error: Floats
    variance_inflation: Floats
    covariance: Floats
    correlation: Floats
    chi2: Floats
    condition: Floats
    dof: int
    pixels: int
    parts: int
    degeneracies: tuple[list[dict[str, Any]], ...]
    extra: Mapping[str, Any]


def region_fit(request: FitRequest, sums: RegionSums) -> RegionFit:
    """Return the fit of one region.

    Raises
    ------
    InputError
        If it cannot be solved; see `NormalEquations.solve`.
    """
    solution = sums.total.solve(
        offset=request.offset, ridge=request.ridge, variance=request.variance, names=request.templates
    )
    scatter = np.full(solution.coefficient.shape, np.nan)
    if request.jackknife is not None:
        scatter = jackknife_error(sums.total, sums.moments, solution, ridge=request.ridge)
    return _of_solution(request, solution, scatter, len(sums.parts) if request.jackknife is not None else 0)


def _of_solution(
    request: FitRequest, solution: Solution, scatter: Floats, parts: int, *, in_words: bool = True
) -> RegionFit:
    bands = range(len(request.targets))
    return RegionFit(
        solution.coefficient,
        solution.error,
        scatter,
        solution.variance_inflation,
        solution.covariance,
        solution.correlation,
        solution.chi2,
        solution.condition,
        solution.dof,
        solution.pixels,
        parts,
        tuple(degeneracies(solution, request.coefficients, band) if in_words else [] for band in bands),
        {},
    )


def correlated_fit(request: FitRequest, found: Mapping[str, Any]) -> RegionFit:
    """Return the fit of a region with correlated noise.

    Parameters
    ----------
    request : FitRequest
        What was asked for.
    found : mapping
        What `solve_correlated` returned.
    """
    covariance = np.asarray(found["covariance"], np.float64)
    error = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    templates = len(request.templates)
    # The templates beside an offset: what the normal equations of templates less their means would have been.
    inner = np.linalg.inv(covariance[:, :templates, :templates])
    scale = np.sqrt(np.diagonal(inner, axis1=1, axis2=2))
    inflation = np.full(error.shape, np.nan)
    inflation[:, :templates] = (error[:, :templates] * scale) ** 2
    values, vectors = np.linalg.eigh(inner / (scale[:, :, None] * scale[:, None, :]))
    indices = np.sqrt(values[:, -1:] / values)
    solution = Solution(
        np.asarray(found["coefficient"], np.float64),
        covariance,
        np.asarray(found["chi2"], np.float64),
        int(found["pixels"]) - covariance.shape[-1],
        int(found["pixels"]),
        indices[:, 0] if templates else np.ones(len(indices)),
        inflation,
        vectors,
        indices,
        request.offset,
    )
    made = _of_solution(request, solution, np.full(error.shape, np.nan), 0)
    extra = {key: found[key] for key in ("iterations", "reached", "lmax") if key in found}
    return RegionFit(**{**vars(made), "extra": extra})


def super_pixel_fits(request: FitRequest, sums: RegionSums) -> tuple[NDArray[np.int64], list[RegionFit]]:
    """Return the super-pixels of a region and the fit of each, NaN where it has too few pixels.

    With a ridge r, theta_s minimises chi^2_s + r n_s / n sum_j G_jj (theta_sj - theta_j)^2, with theta and the diagonal
    G_jj of the normal equations (of templates less their means, where there is an offset) from all n pixels of the
    region: r = 1 pulls a super-pixel towards the common solution as strongly as its own pixels would hold it, had they
    the contrast of the whole region.  Offsets are not pulled.

    Parameters
    ----------
    request : FitRequest
        What was asked for.
    sums : RegionSums
        Of the region.
    """
    prior, strength = None, None
    if request.ridge and request.templates:
        prior = _common(request, sums.total).coefficient[:, : len(request.templates)]
        strength = _diagonals(sums.total, request.offset)
    fits = []
    for moments, count in zip(sums.moments, sums.counts.tolist(), strict=True):
        own = NormalEquations(moments, sums.total.reference, sums.total.templates, count)
        solution = own.solve(
            offset=request.offset,
            ridge=request.ridge,
            prior=prior,
            strength=None if strength is None else strength * count / sums.total.count,
            variance=request.variance,
            strict=False,
        )
        # Nobody reads thousands of statements.
        scatter = np.full(solution.coefficient.shape, np.nan)
        fits.append(_of_solution(request, solution, scatter, 0, in_words=False))
    return sums.parts, fits


def _common(request: FitRequest, total: NormalEquations) -> Solution:
    """Return the solution that a ridge pulls super-pixels towards."""
    try:
        return total.solve(offset=request.offset, variance=request.variance, names=request.templates)
    except InputError as error:
        # The ridge is there already.
        raise InputError(
            str(error).replace(OR_RIDGE, "")
            + " With `superpixels`, `ridge` pulls towards the solution of all their pixels, so that there must be one."
        ) from error


def _diagonals(total: NormalEquations, offset: bool) -> Floats:
    """Return the diagonal of the normal equations of the templates, (band, template)."""
    n = total.templates
    moments = total.at(np.zeros_like(total.reference)).total if not offset else total.total
    squares = np.diagonal(moments, axis1=1, axis2=2)[:, :n]
    if offset:
        squares = squares - moments[:, n, :n] ** 2 / moments[:, n, n, None]
    return np.broadcast_to(squares, (total.bands, n))


def assemble(
    request: FitRequest,
    fits: Sequence[RegionFit],
    superpixels: Sequence[NDArray[np.int64]] | None = None,
) -> xr.Dataset:
    """Return fits as the dataset that `fit` promises.

    Parameters
    ----------
    request : FitRequest
        What was asked for.
    fits : sequence of RegionFit
        One a region; with `superpixels`, those of the first region first.
    superpixels : sequence of ndarray, optional
        (superpixel,) int64 of every region.
    """
    import xarray as xr

    regions = [name for name, _ in request.regions]
    outer: tuple[str, ...] = () if regions == [None] else ("region",)
    fields: dict[str, tuple[str, ...]] = {
        **dict.fromkeys(("coefficient", "error"), ("target", "template")),
        **({"jackknife_error": ("target", "template")} if request.jackknife is not None else {}),
        "variance_inflation": ("target", "template"),
        **dict.fromkeys(("covariance", "correlation"), ("target", "template", "template_2")),
        **dict.fromkeys(("chi2", "dof", "condition", "pixels", "area", "f_sky"), ("target",)),
        **({"super_pixels": ("target",)} if request.jackknife is not None else {}),
    }
    rows = [_row(request, each) for each in fits]
    coordinates = _coordinates(request)
    data: dict[str, Any] = {}
    if superpixels is None:
        for name, dims in fields.items():
            values = np.array([row[name] for row in rows])
            data[name] = ((*outer, *dims), values if outer else values[0])
    else:
        known = np.unique(np.concatenate(superpixels))
        places = [np.searchsorted(known, own) for own in superpixels]
        for name, dims in fields.items():
            example = np.asarray(rows[0][name])
            empty = 0 if example.dtype.kind == "i" else 0.0 if name in ("area", "f_sky") else np.nan
            values = np.full((len(regions), known.size, *example.shape), empty, example.dtype)
            start = 0
            for region, place in enumerate(places):
                if place.size:
                    values[region, place] = [row[name] for row in rows[start : start + place.size]]
                start += place.size
            data[name] = ((*outer, "superpixel", *dims), values if outer else values[0])
        about = {"units": "1", "long_name": f"NESTED pixel of nside {request.superpixels}"}
        coordinates["superpixel"] = ("superpixel", known, about)
    found = xr.Dataset(data, coords=coordinates, attrs=_attributes(request))
    for name in data:
        found[name].attrs["long_name"] = _LONG_NAMES[name]
        found[name].attrs["units"] = _UNITS.get(name, "1" if name in ("correlation", "variance_inflation") else "")
        if not found[name].attrs["units"]:
            power = ", squared" if name == "covariance" else ""
            found[name].attrs["units"] = f"that of the coordinate `unit`{power}"
    if None in request.noise:
        found["chi2"].attrs["units"] = "1, or the square of the target's where no noise is given"
    if superpixels is None:
        found.attrs |= _statements(request, fits)
    return found


def _row(request: FitRequest, fit: RegionFit) -> dict[str, Any]:
    bands = len(request.targets)
    area = area_deg2(fit.pixels, request.tiling.npix)
    one = {"dof": fit.dof, "pixels": fit.pixels, "super_pixels": fit.parts}
    return {
        **{name: getattr(fit, name) for name in ("coefficient", "error", "jackknife_error", "variance_inflation")},
        **{name: getattr(fit, name) for name in ("covariance", "correlation", "chi2", "condition")},
        **{name: np.full(bands, value, np.int64) for name, value in one.items()},
        "area": np.full(bands, area),
        "f_sky": np.full(bands, sky_fraction(area)),
    }


def _coordinates(request: FitRequest) -> dict[str, Any]:
    names = np.array(request.coefficients)
    found: dict[str, Any] = {
        "target": ("target", np.array(request.targets), {"long_name": "map fitted to"}),
        "template": ("template", names, {"long_name": "map fitted, or the offset"}),
        "template_2": ("template_2", names, {"long_name": "the same"}),
        "unit": (("target", "template"), np.array(request.units), {"long_name": "unit of the coefficient"}),
    }
    if request.regions[0][0] is not None:
        found["region"] = ("region", np.array([name for name, _ in request.regions]), {"long_name": "region"})
    return found


def _attributes(request: FitRequest) -> dict[str, Any]:
    mask = request.regions[0][1].mask
    return {
        "title": "Template fit",
        "source": SOURCE,
        "store": request.store,
        "nside": request.tiling.nside,
        "mask": "" if mask is None else mask.name,
        "where": json.dumps(where_facts(request)),
        "noise": json.dumps(noise_facts(request)),
        "offset": int(request.offset),
        "jackknife": request.jackknife or 0,
        "superpixels": request.superpixels or 0,
        "ridge": request.ridge,
    }


def _statements(request: FitRequest, fits: Sequence[RegionFit]) -> dict[str, Any]:
    """Return what is to be said plainly: errors that are too small, templates that trade against each other."""
    said: list[str] = []
    traded: list[dict[str, Any]] = []
    for (region, _), fit in zip(request.regions, fits, strict=True):
        at = "" if region is None else f" in {region}"
        for band, target in enumerate(request.targets):
            said += _about_errors(request, fit, band, f"{target}{at}")
            for each in fit.degeneracies[band]:
                traded.append({"target": target, **({} if region is None else {"region": region}), **each})
        found = list(dict.fromkeys(each["text"] for own in fit.degeneracies for each in own if _notable(each)))
        if found:
            more = f"; and {len(found) - MOST_SAID} more in `degeneracies`" if len(found) > MOST_SAID else ""
            said.append(f"Degenerate{at}: {'; '.join(found[:MOST_SAID])}{more}.")
        if request.jackknife is not None and fit.parts < FEW_PARTS:
            said.append(
                f"Only {fit.parts} super-pixels of nside {request.jackknife} hold pixels{at}: the jackknife errors are "
                "rough; take a finer nside."
            )
    extra = {}
    for (region, _), fit in zip(request.regions, fits, strict=True):
        if fit.extra:
            extra[region or ""] = dict(fit.extra)
    return {
        "statement": "\n".join(said),
        "degeneracies": json.dumps(plain(traded)),
        **({"correlated_noise": json.dumps(plain(extra))} if extra else {}),
    }


def _notable(degeneracy: Mapping[str, Any]) -> bool:
    # That a template and the offset trade is so for every template that is nowhere near zero.
    return "condition" in degeneracy or OFFSET not in degeneracy["templates"]


def _about_errors(request: FitRequest, fit: RegionFit, band: int, name: str) -> list[str]:
    said = []
    reduced = float(fit.chi2[band]) / fit.dof if fit.dof else np.nan
    noisy = request.noise[band] is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = fit.jackknife_error[band] / fit.error[band]
    limit = 1.0 + max(TOO_SMALL, SCATTER / math.sqrt(2.0 * max(fit.parts - 1, 1)))
    if np.isfinite(ratio).any() and np.nanmax(ratio) > limit:
        large = [place for place in np.argsort(-np.nan_to_num(ratio)).tolist() if ratio[place] > limit]
        digits = 1 if ratio[large[0]] >= 1.95 else 2
        parts = [f"{ratio[place]:.{digits}f} for {request.coefficients[place]}" for place in large[:MOST_SAID]]
        parts[0] = parts[0].replace(" for", " times as large for", 1)
        rest = len(large) - MOST_SAID
        more = f", less for {rest} {'other' if rest == 1 else 'others'}" if rest > 0 else ""
        listed = ", ".join(parts) + more
        # Which of the two it is, sums over super-pixels do not tell.
        plain_noise = "residuals are alike in neighbours, or larger where templates are"
        cause = f"chi^2 / dof is {reduced:.3g}" if noisy and reduced > POOR_CHI2 else plain_noise
        said.append(
            f"The formal errors of {name} are too small: the scatter over super-pixels is {listed} "
            f"({cause}). Use `jackknife_error`."
        )
    elif noisy and reduced > POOR_CHI2:
        said.append(
            f"The residuals of {name} are larger than the noise that was given: chi^2 / dof is {reduced:.3g}, so its "
            "formal errors are too small."
        )
    return said
