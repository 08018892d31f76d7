"""What an evaluation found: the numbers, and whether they are good enough."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..chunking.errors import InputError, nearest
from .evaluation_pass import Gathered
from .metrics import PairStatistics, RatioStatistics, by_brightness, ratio_summary, summary, total_of
from .report import plain

# What can be held to a limit: "at most" in absolute value, or "at least".
RULES = {
    "mean": "at most",
    "median": "at most",
    "sigma": "at most",
    "robust_sigma": "at most",
    "half_width_95": "at most",
    "median_absolute": "at most",
    "absolute_95": "at most",
    "gaussian_centre": "at most",
    "gaussian_sigma": "at most",
    "masked_fraction": "at most",
    "above_limit_fraction": "at most",
    "sigma_dex": "at most",
    "fine_mean": "at most",
    "fine_sigma": "at most",
    "fine_sigma_ratio": "at most",
    "r_squared": "at least",
    "r_squared_log": "at least",
}


@dataclass(frozen=True)
class Evaluation:
    """The numbers of an evaluation and where its report is.

    Parameters
    ----------
    directory : str
        Folder with `index.html`, `report.json` and the figures.
    numbers : mapping
        What `report.json` holds: "pairs", "fine", "ratio", "checks", "figures".
    """

    directory: str
    numbers: Mapping[str, Any]

    @property
    def passed(self) -> bool | None:
        """Whether every number that was held to a limit keeps it; None where none was."""
        checks = self.numbers["checks"]
        return all(check["passed"] for check in checks) if checks else None

    def total(self, label: str | None = None) -> Mapping[str, Any]:
        """Return the numbers over all surveys of one band; the first if none is named."""
        pairs = self.numbers["pairs"]
        label = next(iter(pairs)) if label is None else label
        if label not in pairs:
            raise InputError(f"`label` {label!r} came; {nearest(label, pairs)}.")
        total: Mapping[str, Any] = pairs[label]["total"]
        return total

    def to_json(self) -> str:
        """Return the numbers as JSON; numbers that do not exist are null."""
        return json.dumps(plain(dict(self.numbers)), indent=2, allow_nan=False)

    def __str__(self) -> str:
        lines = []
        for label, pair in self.numbers["pairs"].items():
            total = pair["total"]
            lines.append(
                f"{label}: {total['pixels']:,} pixels, relative error mean {100 * total['mean']:+.2f} %, "
                f"sigma {100 * total['sigma']:.2f} %, central 95 % within +-{100 * total['half_width_95']:.2f} %, "
                f"R^2 {total['r_squared']:.4f}, in log {total['r_squared_log']:.4f}"
            )
        for check in self.numbers["checks"]:
            verdict = "pass" if check["passed"] else "FAIL"
            held = f"{check['value']:.4g}, {check['rule']} {check['limit']:g}"
            lines.append(f"  {verdict}: {check['label']} {check['number']} {held}")
        lines.append(f"report: {self.directory}/index.html")
        return "\n".join(lines)


def survey_name(code: int, names: Mapping[int, str]) -> str:
    """Return the name of a survey code."""
    return names.get(code, "no survey" if code == 0 else f"survey {code}")


def pair_numbers(groups: Mapping[int, PairStatistics], names: Mapping[int, str], deciles: int) -> dict[str, Any]:
    """Return the numbers of one band: in all, by survey, and by brightness."""
    total = total_of(groups, PairStatistics())
    # Code 0 alone means that there are no surveys.
    codes = sorted(groups) if names or any(groups) else []
    surveys = {survey_name(code, names): summary(groups[code]) for code in codes}
    return {
        "total": summary(total),
        "surveys": {name: numbers for name, numbers in surveys.items() if numbers["n_both"]},
        "by_brightness": by_brightness(total, deciles),
    }


def ratio_numbers(groups: Mapping[int, RatioStatistics], names: Mapping[int, str]) -> dict[str, Any]:
    """Return the numbers of one kind of ratio: in all and by survey."""
    surveys = {survey_name(code, names): ratio_summary(groups[code]) for code in sorted(groups)}
    return {
        "total": ratio_summary(total_of(groups, RatioStatistics())),
        "surveys": surveys if names or any(groups) else {},
    }


def check_numbers(
    accept: Mapping[str, Mapping[str, float]], pairs: Mapping[str, Any], fine: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return every number that is held to a limit, with the verdict.

    Parameters
    ----------
    accept : mapping of str to mapping of str to float
        Limits by band and by number; see `RULES`.
    pairs, fine : mapping
        As in `Evaluation.numbers`.
    """
    checks = []
    for label, limits in accept.items():
        found = _checkable(pairs[label]["total"], fine.get(label, {}).get("total"))
        for name, limit in limits.items():
            value = found[name]
            good = value >= limit if RULES[name] == "at least" else abs(value) <= limit
            checks.append(
                {
                    "label": label,
                    "number": name,
                    "value": value,
                    "rule": RULES[name],
                    "limit": float(limit),
                    # A number that could not be had keeps no limit.
                    "passed": bool(good) and math.isfinite(value),
                }
            )
    return checks


def _checkable(total: Mapping[str, Any], fine: Mapping[str, Any] | None) -> dict[str, float]:
    nan = math.nan
    bell = total["gaussian"] or {"centre": nan, "sigma": nan}
    return {
        **{name: total[name] for name in RULES if name in total},
        "gaussian_centre": bell["centre"],
        "gaussian_sigma": bell["sigma"],
        "fine_mean": fine["mean"] if fine else nan,
        "fine_sigma": fine["sigma"] if fine else nan,
        "fine_sigma_ratio": fine["sigma"] / total["sigma"] if fine and total["sigma"] else nan,
    }


def all_numbers(
    coarse: Gathered, fine: Gathered, names: Mapping[int, str], deciles: int, about: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return everything that was measured, as `report.json` holds it.

    Parameters
    ----------
    coarse, fine : Gathered
    names : mapping of int to str
        Of the surveys.
    deciles : int
        Groups of brightness.
    about : mapping
        By band: which maps, unit, limits; goes in front of its numbers.
    """
    pairs = {label: {**about[label], **pair_numbers(groups, names, deciles)} for label, groups in coarse.pairs.items()}
    finer = {label: pair_numbers(groups, names, deciles) for label, groups in fine.pairs.items()}
    ratios = {**coarse.ratios, **fine.ratios}
    return {
        "pairs": pairs,
        "fine": finer,
        "ratio": {kind: ratio_numbers(groups, names) for kind, groups in ratios.items()},
    }
