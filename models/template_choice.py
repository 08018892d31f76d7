"""Which templates a fit needs: the elbow over numbers of clusters, the negligible dropped, the degenerate merged.

All of it is algebra on normal equations that were summed once: a template is dropped by leaving out its row, two are
merged by adding theirs.  Every step is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..chunking.errors import InputError, nearest
from .gls import NormalEquations
from .gls_solution import OR_RIDGE, Solution

type Floats = NDArray[np.float64]
type Group = tuple[str, ...]

ELBOW_SHARE = 0.05


def elbow(numbers: Sequence[int], chi2: ArrayLike, share: float = ELBOW_SHARE) -> int:
    """Return the number of clusters beyond which more of them no longer pay.

    It is the smallest number whose log chi^2 lies above the least one by at most `share` of its range: logarithms,
    since what the first clusters explain may be a hundred times what the next ones do, and those pay as well.  The
    publication picks the elbow by eye; this rule and its default are a guess.

    Parameters
    ----------
    numbers : sequence of int
        Numbers of clusters.
    chi2 : array_like
        (number,) float64 best chi^2 of each.
    share : float
        Between 0 (the very best) and 1.

    Raises
    ------
    InputError
        If there are no numbers, a chi^2 is not positive and finite, or `share` is not between 0 and 1.

    References
    ----------
    Cheng et al. 2025, appendix A and Fig. 4 (chi^2 against the number of clusters).

    Examples
    --------
    >>> elbow([1, 2, 3, 4, 5], [900.0, 400.0, 110.0, 102.0, 100.0])
    3
    """
    values = np.asarray(chi2, np.float64)
    if not len(numbers) or values.shape != (len(numbers),) or not (np.isfinite(values) & (values > 0)).all():
        raise InputError(
            f"chi^2 {values.tolist()} came for {len(numbers)} numbers of clusters; give a positive number for each."
        )
    if not 0 <= share <= 1:
        raise InputError(f"`share` {share} came; give a fraction between 0 and 1.")
    height = np.log(values / values.min())
    return min(number for number, each in zip(numbers, height, strict=True) if each <= share * height.max())


@dataclass(frozen=True)
class Step:
    """One change of the set of templates.

    Parameters
    ----------
    action : str
        "dropped" or "merged".
    templates : tuple of str
        Which.
    into : str
        Name of what they were merged to, empty where one was dropped.
    measure : str
        What decided: "significance", "contribution", "correlation", or "asked" where the user did.
    value, limit : float
        Its value, and the limit that it fell below or rose above; NaN where the user decided.
    chi2_before, chi2_after : float
        Sums over the bands; NaN where the templates could not be told apart.
    """

    action: str
    templates: tuple[str, ...]
    into: str
    measure: str
    value: float
    limit: float
    chi2_before: float
    chi2_after: float

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON-able values."""
        return {**asdict(self), "templates": list(self.templates)}

    def __str__(self) -> str:
        what = " + ".join(self.templates)
        done = f"{what} merged to {self.into}" if self.action == "merged" else f"{what} dropped"
        side = "above" if self.action == "merged" else "below"
        why = "as asked" if self.measure == "asked" else f"{self.measure} {self.value:.3g} {side} {self.limit:g}"
        if np.isnan(self.chi2_before):
            return f"{done}: {why}; before, the templates could not be told apart"
        change = (self.chi2_after / self.chi2_before - 1) * 100 if self.chi2_before > 0 else 0.0
        return f"{done}: {why}, chi^2 {change:+.3g} %"


@dataclass(frozen=True)
class Limits:
    """When templates are dropped or merged.

    Parameters
    ----------
    significance : float
        A template is dropped where, in every band, its coefficient is below so many of its errors.
    contribution : float
        A template is dropped where, in every band, its coefficient times its standard deviation is below this part of
        the standard deviation of the data.
    correlation : float
        Two templates are merged where, in every band, the correlation of their coefficients is below minus this.
    """

    significance: float = 2.0
    contribution: float = 0.01
    correlation: float = 0.9

    def __post_init__(self) -> None:
        if not self.significance >= 0 or not 0 <= self.contribution < 1 or not 0 < self.correlation <= 1:
            raise InputError(
                f"significance {self.significance}, contribution {self.contribution} and correlation "
                f"{self.correlation} came; 0 or more, 0 to 1 and more than 0 up to 1 are expected."
            )


def grouped(equations: NormalEquations, groups: Sequence[Sequence[int]]) -> NormalEquations:
    """Return the normal equations of sums of templates; those in no group are left out.

    Parameters
    ----------
    equations : NormalEquations
        Of the templates.
    groups : sequence of sequence of int
        Which templates each new one is the sum of.

    Examples
    --------
    >>> from skymill.models.gls import accumulate
    >>> x = np.array([[1.0, 0.0, 2.0, 5.0], [0.0, 3.0, 1.0, 1.0]])
    >>> both = grouped(accumulate(x, x[:1] + x[1:] + 4), [[0, 1]])
    >>> both.solve().coefficient.round(12).tolist()
    [[1.0, 4.0]]
    """
    n = equations.templates
    summed = np.array([equations.reference[list(group)].sum() for group in groups])
    return NormalEquations(
        grouped_moments(equations.total, n, groups),
        np.concatenate([summed, equations.reference[n:]]),
        len(groups),
        equations.count,
    )


def grouped_moments(moments: Floats, templates: int, groups: Sequence[Sequence[int]]) -> Floats:
    """Return moments (..., column, column) of sums of templates; see `grouped`.

    Parameters
    ----------
    moments : ndarray
        (..., column, column) float64, the templates first.
    templates : int
        How many there are.
    groups : sequence of sequence of int
        Which templates each new one is the sum of.

    Examples
    --------
    >>> grouped_moments(np.eye(3), 2, [[0, 1]]).tolist()
    [[2.0, 0.0], [0.0, 1.0]]
    """
    columns = moments.shape[-1]
    change = np.zeros((len(groups) + columns - templates, columns))
    for row, group in enumerate(groups):
        change[row, list(group)] = 1.0
    change[len(groups) :, templates:] = np.eye(columns - templates)
    found: Floats = change @ moments @ change.T
    return found


def simplify(
    equations: NormalEquations,
    names: Sequence[str],
    limits: Limits,
    *,
    keep: Sequence[str] = (),
    drop: Sequence[str] = (),
    merge: Sequence[Sequence[str]] = (),
    offset: bool = True,
    variance: Floats | None = None,
    errors: Callable[[Sequence[Sequence[int]]], Floats] | None = None,
) -> tuple[list[Group], list[Step]]:
    """Return the templates that are left, each as the names that it is the sum of, and the steps that led there.

    First comes what was asked for.  Then one step at a time, each after a fit of its own: the least significant
    template that falls below the limits is dropped; where none does, the most degenerate pair is merged.

    Parameters
    ----------
    equations : NormalEquations
        Of all templates, bands together.
    names : sequence of str
        Of the templates.
    limits : Limits
        When to drop and to merge.
    keep : sequence of str
        Templates that the limits neither drop nor merge.
    drop : sequence of str
        Templates to drop in any case.
    merge : sequence of sequence of str
        Templates to add up in any case.
    offset : bool
        Whether a constant is fitted too.
    variance : ndarray, optional
        See `NormalEquations.solve`.
    errors : callable, optional
        Returns (band, template) errors for groups of templates (as `grouped` takes them), for example of a jackknife;
        default the formal ones.

    Raises
    ------
    InputError
        If a name in `keep` is no template, or the fit cannot be solved.

    Examples
    --------
    >>> from skymill.models.gls import accumulate
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(3, 500))
    >>> data = 2 * x[:1] + x[1:2] + rng.normal(size=500)
    >>> left, steps = simplify(accumulate(x, data), ["a", "b", "c"], Limits())
    >>> left, steps[0].action, steps[0].templates
    ([('a',), ('b',)], 'dropped', ('c',))
    """
    _check(names, keep, drop, merge)
    state = _State(equations, tuple(names), offset, variance)
    for name in drop:
        state.drop(state.find(name), "asked", np.nan, np.nan)
    for members in merge:
        state.merge([state.find(name) for name in members], "asked", np.nan, np.nan)
    while True:
        state.must_be_solved()
        free = [place for place, group in enumerate(state.groups) if not set(group) & set(keep)]
        spread = None if errors is None else errors(state.places)
        found = _to_drop(state.equations, state.solution, free, limits, spread) if len(state.groups) > 1 else None
        if found is not None:
            state.drop(*found)
            continue
        pair = _to_merge(state.solution, free, limits)
        if pair is None:
            return state.groups, state.steps
        state.merge(pair[:2], "correlation", -pair[2], limits.correlation)


def merged_name(members: Sequence[str]) -> str:
    """Return the name of a sum of templates: what they have in common once, and what tells them apart.

    Examples
    --------
    >>> merged_name(["cluster_3", "cluster_4"]), merged_name(["lvc", "ivc"]), merged_name(["lvc"])
    ('cluster_3_4', 'lvc_ivc', 'lvc')
    """
    stems = {name.rpartition("_")[0] for name in members}
    stem = stems.pop() if len(stems) == 1 else ""
    return "_".join([stem, *(name.rpartition("_")[2] for name in members)]) if stem else "_".join(members)


def _check(names: Sequence[str], keep: Sequence[str], drop: Sequence[str], merge: Sequence[Sequence[str]]) -> None:
    told = {"keep": list(keep), "drop": list(drop), "merge": [name for group in merge for name in group]}
    for option, listed in told.items():
        for name in listed:
            if name not in names:
                raise InputError(f"`{option}` names {name!r}; {nearest(name, names)}.")
    changed = [*told["drop"], *told["merge"]]
    twice = sorted({name for name in changed if changed.count(name) > 1})
    if twice:
        raise InputError(f"`drop` and `merge` name {twice[0]!r} more than once; a template is dropped or merged once.")
    short = [group for group in merge if len(group) < 2]
    if short:
        raise InputError(f"`merge` holds {list(short[0])}; a sum has two templates or more.")
    if len(told["drop"]) == len(names):
        raise InputError("`drop` names all templates; one at least is to be left.")


class _State:
    """The templates that are left, with their fit, and how they came about."""

    def __init__(
        self, equations: NormalEquations, names: tuple[str, ...], offset: bool, variance: Floats | None
    ) -> None:
        self.all, self.names, self.offset, self.variance = equations, names, offset, variance
        self.groups: list[Group] = [(name,) for name in names]
        self.steps: list[Step] = []
        self._fit()

    @property
    def places(self) -> list[list[int]]:
        return [[self.names.index(member) for member in group] for group in self.groups]

    def _fit(self) -> None:
        self.equations = grouped(self.all, self.places)
        labels = [merged_name(group) for group in self.groups]
        # Not strict: what was asked for may be just what makes collinear templates solvable.
        self.solution = self.equations.solve(offset=self.offset, variance=self.variance, names=labels, strict=False)

    def must_be_solved(self) -> None:
        """Raise InputError where the templates that are left cannot be told apart."""
        labels = [merged_name(group) for group in self.groups]
        try:
            self.equations.solve(offset=self.offset, variance=self.variance, names=labels)
        except InputError as error:
            raise InputError(str(error).replace(OR_RIDGE, ": `drop` or `merge` does it")) from error

    def find(self, name: str) -> int:
        return next(place for place, group in enumerate(self.groups) if name in group)

    def drop(self, place: int, measure: str, value: float, limit: float) -> None:
        gone = self.groups[place]
        self._change([group for group in self.groups if group != gone], "dropped", gone, "", measure, value, limit)

    def merge(self, places: Sequence[int], measure: str, value: float, limit: float) -> None:
        gone = [self.groups[place] for place in places]
        members = tuple(name for name in self.names if any(name in group for group in gone))
        left = [group for group in self.groups if group not in gone] + [members]
        left.sort(key=lambda group: self.names.index(group[0]))
        self._change(left, "merged", members, merged_name(members), measure, value, limit)

    def _change(
        self, left: list[Group], action: str, what: Group, into: str, measure: str, value: float, limit: float
    ) -> None:
        before = float(self.solution.chi2.sum())
        self.groups = left
        self._fit()
        after = float(self.solution.chi2.sum())
        self.steps.append(Step(action, what, into, measure, value, limit, before, after))


def _to_drop(
    equations: NormalEquations, solution: Solution, free: Sequence[int], limits: Limits, spread: Floats | None
) -> tuple[int, str, float, float] | None:
    """Return the template to drop with what decided, or None."""
    n = equations.templates
    errors = solution.error[:, :n] if spread is None else spread[:, :n]
    sizes = np.abs(solution.coefficient[:, :n])
    spreads, whole = _deviations(equations)
    significance = _over(sizes, errors).max(axis=0)
    contribution = _over(sizes * spreads, whole).max(axis=0)
    found = []
    for place in free:
        for measure, value, limit in (
            ("significance", float(significance[place]), limits.significance),
            ("contribution", float(contribution[place]), limits.contribution),
        ):
            if value < limit:
                found.append((value / limit, place, measure, value, limit))
    return None if not found else min(found)[1:]


def _over(sizes: Floats, whole: Floats) -> Floats:
    """Return parts of a whole: of 0, which errors are where nothing is left over, nothing is no part of it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sizes == 0.0, 0.0, sizes / whole)


def _deviations(equations: NormalEquations) -> tuple[Floats, Floats]:
    """Return standard deviations of the templates, (band, template), and of the bands, (band, 1), both float64."""
    n = equations.templates
    rows = []
    for band in range(equations.bands):
        shared = equations.moments.shape[0] == 1
        moments = equations.total[0 if shared else band]
        chosen = [*range(n), n + 1 + (band if shared else 0)]
        weight = moments[n, n]
        means = moments[n, chosen] / weight
        own = np.sqrt(np.maximum(np.diagonal(moments)[chosen] / weight - means**2, 0.0))
        rows.append(own)
    found = np.array(rows)
    return found[:, :n], found[:, n:]


def _to_merge(solution: Solution, free: Sequence[int], limits: Limits) -> tuple[int, int, float] | None:
    """Return the pair of templates whose coefficients trade against each other most, beyond the limit in all bands."""
    correlation = solution.correlation.max(axis=0)  # the least degenerate band decides
    pairs = [
        (float(correlation[first, second]), first, second)
        for position, first in enumerate(free)
        for second in free[position + 1 :]
    ]
    below = [pair for pair in pairs if pair[0] < -limits.correlation]
    if not below:
        return None
    value, first, second = min(below)
    return first, second, value
