"""Solving normal equations, and saying what can be trusted: conditions, degeneracies, errors from parts of the sky."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError
from .gls_blocks import shifted

if TYPE_CHECKING:
    from .gls import NormalEquations

type Floats = NDArray[np.float64]

FLOAT32_RESOLUTION = 2.0**-24  # half a unit in the last place: how well a stored map knows its values
LARGEST_CONDITION = 1e7  # above it, nothing but rounding tells the templates apart
STRONG_CORRELATION = 0.9  # of two coefficients: their errors are 2.3 times those without the other
LARGE_CONDITION = 30.0  # Belsley, Kuh & Welsch 1980, section 3.2: 30 to 100 is a strong dependency
_ROUNDINGS = 4.0  # a template that is a sum of others, each rounded, differs from it by about one rounding
_SHARE = 0.1  # of the largest part of an eigenvector: smaller parts are not named
_SMALLEST_PIVOT = 1e-13  # of columns of unit norm; below it nothing but rounding is left
OR_RIDGE = ", or give a ridge"  # of a message; callers without that option take it out
_BATCH = 256  # parts of the sky that are solved for at once


@dataclass(frozen=True, eq=False)
class Solution:
    """Coefficients of templates, the offset last where there is one; made by `NormalEquations.solve`.

    Parameters
    ----------
    coefficient : ndarray
        (band, coefficient) float64, unit of the band per unit of the template.
    covariance : ndarray
        (band, coefficient, coefficient) float64
    chi2 : ndarray
        (band,) float64.  Its relative error is about 1e-16 times the variance of the data over that of the residuals.
    dof : int
        Pixels less coefficients.
    pixels : int
        How many were used.
    condition : ndarray
        (band,) condition number of the design: columns less their means where there is an offset, scaled to unit norm;
        infinite where the pixels say nothing of a template that a prior holds.
    variance_inflation : ndarray
        (band, coefficient) by what the variance of a coefficient is larger than if the other templates did not resemble
        its own; NaN for the offset.
    vectors, indices : ndarray
        (band, template, template) and (band, template): eigenvectors (last axis numbers them) of the scaled normal
        equations, and the condition of each, largest first.
    offset : bool
        Whether the last coefficient is the offset.
    """

    coefficient: Floats
    covariance: Floats
    chi2: Floats
    dof: int
    pixels: int
    condition: Floats
    variance_inflation: Floats
    vectors: Floats
    indices: Floats
    offset: bool

    @property
    def error(self) -> Floats:
        """Formal errors, (band, coefficient) float64."""
        return np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2))

    @property
    def correlation(self) -> Floats:
        """Correlation of the coefficients, (band, coefficient, coefficient) float64."""
        error = self.error
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = self.covariance / (error[:, :, None] * error[:, None, :])
        return found


def solve_moments(
    equations: NormalEquations,
    offset: bool,
    ridge: float,
    prior: Floats | None,
    strength: Floats | None,
    variance: Floats | None,
    names: tuple[str, ...],
    *,
    strict: bool,
    resolution: float,
) -> Solution:
    """Return what `NormalEquations.solve` promises; parameters as there."""
    if not (ridge >= 0 and np.isfinite(ridge)):
        raise InputError(f"`ridge` {ridge} came; give 0 or a positive number.")
    templates, bands, pixels = equations.templates, equations.bands, equations.count
    names = names or tuple(f"template {number}" for number in range(templates))
    count = templates + offset
    if count == 0:
        raise InputError("no template and no offset came; there is nothing to fit. Give one template at least.")
    reason = "" if pixels > count else _too_few(pixels, count)
    if strict and reason:
        raise InputError(reason)
    found = Solution(
        np.full((bands, count), np.nan),
        np.full((bands, count, count), np.nan),
        np.full(bands, np.nan),
        max(0, pixels - count),
        pixels,
        np.full(bands, np.nan),
        np.full((bands, count), np.nan),
        np.full((bands, templates, templates), np.nan),
        np.full((bands, templates), np.nan),
        offset,
    )
    if reason:
        return found
    for band in range(bands):
        central = _Central.of(equations, band, offset)
        pulled = None if prior is None else prior[band]
        own = None if strength is None else strength[band]
        # Of these templates the pixels say nothing; a pull of known strength says all.
        mute = _mute(central, offset, resolution)
        held = np.zeros(templates, bool) if own is None or not ridge else mute & (own > 0)
        problem = _problem(central, names, offset, ridge > 0, resolution, mute & ~held)
        if problem and strict:
            raise InputError(problem)
        if not problem:
            _solve_band(found, band, central, offset, ridge, pulled, own, held)
    known = np.full(bands, np.nan) if variance is None else np.asarray(variance, np.float64)
    factor = np.where(np.isnan(known), found.chi2 / max(1, found.dof), known)
    found.covariance[...] *= factor[:, None, None]
    found.chi2[...] /= np.where(np.isnan(known), 1.0, known)
    return found


@dataclass(frozen=True, eq=False)
class _Central:
    """Moments of one band about the means where there is an offset, about zero where not."""

    gram: Floats  # (template, template)
    right: Floats  # (template,)
    square: float
    means: Floats  # (template,) weighted, of the templates as they came
    mean: float  # of the band
    weight: float  # sum of weights
    raw: Floats  # (template,) mean squares of the templates as they came

    @classmethod
    def of(cls, equations: NormalEquations, band: int, offset: bool) -> _Central:
        n = equations.templates
        shared = equations.moments.shape[0] == 1
        moments = equations.total[0 if shared else band]
        place = n + 1 + (band if shared else 0)
        chosen = [*range(n), place]
        weight = float(moments[n, n])
        level = np.append(equations.reference[:n], equations.reference[n + band])
        rises = moments[n, chosen] / weight
        means = level + rises
        inner = moments[np.ix_(chosen, chosen)]
        central = inner - weight * np.outer(rises, rises)
        raw = np.diagonal(central) / weight + means**2
        if not offset:
            central = central + weight * np.outer(means, means)
        return cls(
            central[:n, :n], central[:n, n], float(central[n, n]), means[:n], float(means[n]), weight, raw[:n].copy()
        )


def _too_few(pixels: int, count: int) -> str:
    if not pixels:
        return (
            "no pixel is left where all templates and targets are finite and mask and region allow it. Look at where "
            "each map has values, or change mask or region."
        )
    return (
        f"{pixels} pixels are left for {count} coefficients; a fit needs more pixels than coefficients. Leave out "
        "templates, or change mask or region."
    )


def _levels(central: _Central) -> tuple[Floats, Floats]:
    """Return root mean squares of the templates as they came, and less their means where there is an offset."""
    level = np.sqrt(np.maximum(central.raw, 0.0))
    return level, np.sqrt(np.maximum(np.diagonal(central.gram), 0.0) / central.weight)


def _mute(central: _Central, offset: bool, resolution: float) -> NDArray[np.bool_]:
    """Return which templates are zero, or constant beside an offset, (template,) bool."""
    level, spread = _levels(central)
    return ~(level > 0) | (offset & (spread <= resolution * level))


def _problem(
    central: _Central,
    names: Sequence[str],
    offset: bool,
    ridged: bool,
    resolution: float,
    mute: NDArray[np.bool_],
) -> str:
    """Return why a band cannot be solved for, empty where it can."""
    level, spread = _levels(central)
    zero = [name for name, none, own in zip(names, mute, level, strict=True) if none and not own > 0]
    if zero:
        return (
            f"template {', '.join(map(repr, zero))} is zero in all pixels that are used; leave it out, or change mask "
            "or region."
        )
    flat = [name for name, none in zip(names, mute, strict=True) if none]
    if flat:
        return (
            f"template {', '.join(map(repr, flat))} is constant in the pixels that are used, as the offset is; "
            "leave it out, or fit with offset=False."
        )
    if ridged or not len(names):
        return ""
    scale = np.sqrt(np.diagonal(central.gram))
    values, vectors = np.linalg.eigh(central.gram / np.outer(scale, scale))
    smallest = max(values[0], 0.0)
    condition = float(np.sqrt(values[-1] / smallest)) if smallest > 0 else np.inf
    # What is left of each template once the others have explained what they can, against its rounding.
    with np.errstate(divide="ignore", over="ignore"):
        left = spread / np.sqrt((vectors**2 / np.maximum(values, np.finfo(float).tiny)).sum(axis=1))
    rounded = left < _ROUNDINGS * resolution * level
    if condition <= LARGEST_CONDITION and not rounded.any():
        return ""
    parts = vectors[:, 0]
    listed = ", ".join(map(repr, _involved(parts, names)))
    beside = " (beside the offset)" if offset else ""
    return (
        f"templates {listed} are collinear in the pixels that are used{beside}: {combination(parts, names)} of them, "
        f"each scaled to unit norm, is nothing but rounding; the condition number is {condition:.1e}. Leave one of "
        f"them out{OR_RIDGE}."
    )


def _involved(parts: Floats, names: Sequence[str]) -> list[str]:
    largest = np.abs(parts).max()
    return [name for part, name in zip(parts, names, strict=True) if abs(part) > _SHARE * largest]


def combination(parts: Floats, names: Sequence[str], most: int = 6) -> str:
    """Return a linear combination as words, its small parts left out.

    Parameters
    ----------
    parts : ndarray
        (template,) factors.
    names : sequence of str
        Of the templates.
    most : int
        Parts at most, the largest.

    Examples
    --------
    >>> combination(np.array([0.8, -0.6, 1e-3]), ["nhi", "nhii", "nh2"])
    '0.80 nhi - 0.60 nhii'
    """
    sizes = np.abs(parts)
    named = np.flatnonzero(sizes > _SHARE * sizes.max())
    shown = np.sort(named[np.argsort(-sizes[named], kind="stable")[:most]])
    sign, text = np.sign(parts[shown[0]]), ""
    for place in shown.tolist():
        part = float(parts[place] * sign)
        joint = (" - " if text else "-") if part < 0 else (" + " if text else "")
        text += f"{joint}{abs(part):.2f} {names[place]}"
    return text + (f" and {named.size - most} smaller parts" if named.size > most else "")


def _solve_band(
    found: Solution,
    band: int,
    central: _Central,
    offset: bool,
    ridge: float,
    prior: Floats | None,
    strength: Floats | None,
    held: NDArray[np.bool_],
) -> None:
    """Solve for one band; of the templates that are `held`, (template,) bool, only the pull is known."""
    n = len(central.means)
    own = np.diagonal(central.gram)
    scale = np.sqrt(own if strength is None else np.where(held, strength, own))
    gram = np.where(held | held[:, None], 0.0, central.gram / np.outer(scale, scale))
    right = np.where(held, 0.0, central.right / scale)
    inverse, slopes, explained = np.zeros((0, 0)), np.zeros(0), 0.0
    if n:
        pull = np.diag(ridge * (np.ones(n) if strength is None else strength / scale**2))
        towards = np.zeros(n) if prior is None else prior * scale
        matrix, wanted = gram + pull, right + pull @ towards
        slopes = np.linalg.solve(matrix, wanted)
        slopes += np.linalg.solve(matrix, wanted - matrix @ slopes)  # the residual is small: digits come back
        inverse = np.linalg.inv(matrix)
        inverse = (inverse + inverse.T) / 2
        values, vectors = np.linalg.eigh(gram)
        values = np.maximum(values, np.finfo(float).tiny)
        if held.any():
            found.condition[band] = np.inf
        else:
            found.vectors[band], found.indices[band] = vectors, np.sqrt(values[-1] / values)
            found.condition[band] = found.indices[band, 0]
            found.variance_inflation[band, :n] = (vectors**2 / values).sum(axis=1)
        explained = 2 * float(slopes @ right) - float(slopes @ gram @ slopes)
        if ridge:
            inverse = inverse @ gram @ inverse
    else:
        found.condition[band] = 1.0
    found.chi2[band] = max(0.0, central.square - explained)
    found.coefficient[band, :n] = slopes / scale
    found.covariance[band, :n, :n] = inverse / np.outer(scale, scale)
    if offset:
        crossed = -found.covariance[band, :n, :n] @ central.means
        found.coefficient[band, n] = central.mean - found.coefficient[band, :n] @ central.means
        found.covariance[band, :n, n] = found.covariance[band, n, :n] = crossed
        found.covariance[band, n, n] = 1.0 / central.weight - crossed @ central.means


def degeneracies(solution: Solution, names: Sequence[str], band: int = 0) -> list[dict[str, Any]]:
    """Return which templates trade against which, strongest first.

    Parameters
    ----------
    solution : Solution
        Of `NormalEquations.solve`.
    names : sequence of str
        Of the coefficients, the offset included.
    band : int
        Which band.

    Returns
    -------
    list of dict
        `templates`, `correlation` of their coefficients (above 0.9 in size) or `condition` of their combination
        (above 30, Belsley, Kuh & Welsch 1980), and `text`, the same in words.

    Examples
    --------
    >>> from skymill.models.gls import accumulate
    >>> x = np.random.default_rng(1).normal(size=(2, 1000))
    >>> x[1] = x[0] + 0.2 * x[1]
    >>> degeneracies(accumulate(x, x[:1]).solve(variance=np.ones(1)), ["nhi", "nhii", "offset"])[0]["text"]
    'nhi trades against nhii (correlation -0.98)'
    """
    found: list[dict[str, Any]] = []
    matrix = solution.correlation[band]
    sizes = np.abs(np.nan_to_num(matrix))
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    for i, j in sorted(pairs, key=lambda pair: -float(sizes[pair])):
        number = float(matrix[i, j])
        if abs(number) >= STRONG_CORRELATION:
            text = f"{names[i]} trades against {names[j]} (correlation {number:.2f})"
            found.append({"templates": [names[i], names[j]], "correlation": number, "text": text})
    for place, index in enumerate(solution.indices[band]):
        if index >= LARGE_CONDITION:
            parts = solution.vectors[band, :, place]
            own = names[: len(parts)]
            size = f"{index:.0f}" if index < 1e7 else "beyond rounding"  # of squares in float64
            text = f"{combination(parts, own)} is poorly known (condition {size})"
            found.append({"templates": _involved(parts, own), "condition": float(index), "text": text})
    return found


def jackknife_error(
    total: NormalEquations,
    parts: Floats,
    solution: Solution,
    *,
    ridge: float = 0.0,
) -> Floats:
    """Return errors from leaving out one part of the sky after the other, (band, coefficient) float64.

    sqrt((S - 1) / S sum_s (theta_-s - mean)^2) over the S parts.  It holds whatever the residuals are, as long as those
    of different parts are independent; formal errors hold for noise that is independent from pixel to pixel.

    Parameters
    ----------
    total : NormalEquations
        Of the whole sky.
    parts : ndarray
        (part, group, column, column) float64: moments of each part, with the reference of `total`.
    solution : Solution
        Of `total`.
    ridge : float
        As it was solved with.

    Returns
    -------
    ndarray
        NaN with fewer than two parts, or where without some part the coefficients cannot be told.
    """
    n, bands, count = total.templates, total.bands, solution.coefficient.shape[1]
    if len(parts) < 2:
        return np.full((bands, count), np.nan)
    if not solution.offset:  # then columns are no longer what the coefficients belong to, once shifted
        parts = shifted(parts, total.reference, np.zeros_like(total.reference), n)
        total = total.at(np.zeros_like(total.reference))
    groups = total.moments.shape[0]
    whole = total.total
    found = np.full((bands, count), np.nan)
    kept = [*range(n), n] if solution.offset else [*range(n)]
    for group in range(groups):
        # Bands that share their weights share all but the right-hand side.
        own = np.arange(bands) if groups == 1 else np.array([group])
        places = n + 1 + (own if groups == 1 else np.zeros(1, np.int64))
        theta = solution.coefficient[own].T.copy()  # (coefficient, band)
        if solution.offset:  # in terms of the shifted columns
            theta[n] += total.reference[:n] @ theta[:n] - total.reference[n + own]
        gram = whole[group][np.ix_(kept, kept)]
        scale = np.sqrt(np.diagonal(gram))
        if not np.isfinite(theta).all() or not (scale > 0).all():
            continue
        pull = np.zeros(count)
        pull[:n] = ridge * np.diagonal(_Central.of(total, int(own[0]), solution.offset).gram) / scale[:n] ** 2
        moved = np.empty((len(parts), count, own.size))
        for start in range(0, len(parts), _BATCH):
            some = parts[start : start + _BATCH, group]
            design = some[:, kept][:, :, kept]
            right = some[:, kept][:, :, places] - design @ theta
            left = (gram - design) / np.outer(scale, scale) + np.diag(pull)
            moved[start : start + _BATCH] = _solved(left, -right / scale[:, None]) / scale[:, None]
        if solution.offset:
            moved[:, n] -= np.einsum("pkb,k->pb", moved[:, :n], total.reference[:n])
        moved -= moved.mean(axis=0)
        found[own] = np.sqrt((len(parts) - 1) / len(parts) * (moved**2).sum(axis=0)).T
    return found


def _solved(left: Floats, right: Floats) -> Floats:
    """Return the solutions of many small systems with scaled columns, (part, n, band), NaN where there is none."""
    try:
        pivots = np.diagonal(np.linalg.cholesky(left), axis1=1, axis2=2)
        regular = pivots.min(axis=1) ** 2 > _SMALLEST_PIVOT
    except np.linalg.LinAlgError:  # one of them is not positive definite: look at each
        values = np.linalg.eigvalsh(left)
        regular = values[:, 0] > _SMALLEST_PIVOT * values[:, -1]
    if regular.all():
        return np.linalg.solve(left, right)
    found = np.full(right.shape, np.nan)
    if regular.any():
        found[regular] = np.linalg.solve(left[regular], right[regular])
    return found
