"""Answers: what a command prints on stdout where a table says more than an account of the run.

What a verb warns of, such as formal errors that are too small, goes to stderr as it runs.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

type Values = Mapping[str, object]

_DIGITS = 5


def plainly(found: Any, values: Values) -> str:
    """Return what a result says of itself."""
    return str(found)


def fitted(found: Any, values: Values) -> str:
    """Return coefficients with their errors, and how good the fit is, by region; and the folder, where there is one."""
    parts = []
    for name, one in _by_region(found):
        pixels, share = int(one["pixels"].values.flat[0]), float(one["f_sky"].values.flat[0])
        area = f"{float(one['area'].values.flat[0]):.1f} deg^2, f_sky {share:.4f}"
        if "superpixel" in found.dims:
            parts.append(f"{_colon(name)}{found.sizes['superpixel']} super-pixels\n{aligned(_super_rows(one))}")
            continue
        parts.append(f"{_colon(name)}{pixels} pixels, {area}\n{aligned(_coefficient_rows(one))}")
        rows = [["target", "chi^2", "dof", "chi^2/dof", "condition"]]
        for place, target in enumerate(one["target"].values):
            chi2, dof, condition = (float(one[key].values[place]) for key in ("chi2", "dof", "condition"))
            rows.append([str(target), _number(chi2), f"{dof:.0f}", _number(chi2 / dof), _number(condition)])
        parts.append(aligned(rows))
    unknown = [name for name, noise in json.loads(found.attrs["noise"]).items() if noise is None]
    if unknown and "superpixel" not in found.dims:
        parts.append(_without_noise(", ".join(unknown)))
    return "\n\n".join([*parts, *_folder(values)])


def _without_noise(targets: str) -> str:
    return f"No noise was given for {targets}: chi^2 is the sum of squared residuals, in the square of the map's unit."


def _coefficient_rows(one: Any) -> list[list[str]]:
    jackknife = "jackknife_error" in one
    rows = [["target", "template", "coefficient", "error", *(["jackknife"] if jackknife else []), "unit"]]
    for i, target in enumerate(one["target"].values):
        for k, template in enumerate(one["template"].values):
            if template == "offset" and not math.isfinite(float(one["coefficient"].values[i, k])):
                continue  # was not asked for
            errors = [float(one["error"].values[i, k])]
            errors += [float(one["jackknife_error"].values[i, k])] if jackknife else []
            row = [str(target), str(template), _number(float(one["coefficient"].values[i, k]))]
            rows.append([*row, *(_number(each, 3) for each in errors), str(one["unit"].values[i, k])])
    return rows


def _super_rows(one: Any) -> list[list[str]]:
    import numpy as np

    rows = [["target", "template", "solved", "16 %", "median", "84 %", "unit"]]
    for i, target in enumerate(one["target"].values):
        for k, template in enumerate(one["template"].values):
            own = one["coefficient"].isel(target=i, template=k).values
            own = own[np.isfinite(own)]
            spread = np.quantile(own, (0.16, 0.5, 0.84)) if own.size else np.full(3, math.nan)
            unit = str(one["unit"].values[i, k])
            rows.append([str(target), str(template), str(own.size), *(_number(each) for each in spread), unit])
    return rows


def clusters(found: Any, values: Values) -> str:
    """Return centres of clusters with their voxels and columns as CSV, in which `--init` and `--centres` read them."""
    attributes = [str(name) for name in found["attribute"].values]
    rows: list[list[object]] = [["cluster", *attributes, "voxels", "column"]]
    for place, cluster in enumerate(found["cluster"].values.tolist()):
        centre = found["centres"].values[place].tolist()
        rows.append([cluster, *centre, int(found["counts"].values[place]), float(found["column"].values[place])])
    return _csv(rows)


def agreement(found: Any, values: Values) -> str:
    """Return the adjusted Rand indices of all pairs of seeds."""
    seeds = [str(seed) for seed in found["seed"].values]
    reference = "reference_ari" in found
    rows = [["seed", *seeds, "inertia", *(["reference"] if reference else [])]]
    for place, seed in enumerate(seeds):
        row = [seed, *(f"{each:.4f}" for each in found["ari"].values[place])]
        row.append(_number(float(found["inertia"].values[place])))
        rows.append([*row, *([f"{float(found['reference_ari'].values[place]):.4f}"] if reference else [])])
    least, mean = float(found["least_ari"]), float(found["mean_ari"])
    return f"adjusted Rand index, mean {mean:.4f}, least {least:.4f}\n{aligned(rows)}"


def searched(found: Any, values: Values) -> str:
    """Return the elbow and the best trial of every number of clusters."""
    rows = [["k", "chi^2", "dof", "chi^2/dof", "w_v", "w_n"]]
    for place, k in enumerate(found["k"].values.tolist()):
        chi2, dof = float(found["best_chi2"].values[place]), float(found["dof"].values[place])
        weights = (_number(float(found[key].values[place])) for key in ("best_v", "best_n"))
        rows.append([str(k), _number(chi2, 6), f"{dof:.0f}", _number(chi2 / dof), *weights])
    known = found.attrs
    elbow = f"elbow at k = {known['k']}, weights v={known['v']:g} n={known['n']:g}; {found.sizes['trial']} trials"
    plainly_said = [] if "noise" in values else [_without_noise(str(known["target"]))]
    return "\n\n".join([f"{elbow}\n{aligned(rows)}", *plainly_said, *_folder(values)])


def reddened(found: Any, values: Values) -> str:
    """Return coefficients or scatters of reddening by region, in mmag."""
    from ..engine.reddening_report import summary

    return "\n\n".join([summary(found), *_folder(values)])


def measured(found: Any, values: Values) -> str:
    """Return every number of a result with its name and unit, a column for each region."""
    regions = _by_region(found)
    header = ["", *(name for name, _ in regions)] if len(regions) > 1 or regions[0][0] else []
    rows = [header] if header else []
    for name, variable in regions[0][1].data_vars.items():
        if name == "covariance":  # its diagonal is in the errors; Python has the rest
            continue
        unit = variable.attrs.get("units", "")
        for label, place in _places(variable):
            shown = [_shown(one[name].values[place]) for _, one in regions]
            about = ", ".join(part for part in (str(name), label) if part)
            rows.append([f"{about} [{unit}]" if unit not in ("", "1") else about, *shown])
    return aligned(rows)


def _places(variable: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield what each number of a variable belongs to, and its place."""
    import numpy as np

    labels = [[str(each) for each in variable[dim].values] for dim in variable.dims]
    for place in np.ndindex(variable.shape):
        yield ", ".join(own[at] for own, at in zip(labels, place, strict=True)), place


def _shown(value: Any) -> str:
    return _number(float(value)) if value.dtype.kind == "f" else str(value) or "-"


def diagnosed(found: Any, values: Values) -> str:
    """Return every number of a report, and for each region the cause that its slopes fit."""
    rows = [str(found)]
    slopes = found.numbers["slopes"]
    if slopes:
        regions = slopes["coordinates"]["region"]
        verdicts, fitting = (slopes["variables"][key]["values"] for key in ("verdict", "consistent"))
        for region, verdict, several in zip(regions, verdicts, fitting, strict=True):
            others = [cause for cause in several.split(", ") if cause not in ("", verdict)]
            also = f" ({', '.join(others)} cannot be ruled out)" if others else ""
            rows.append(f"{region:<14} slopes fit: {verdict}{also}")
    return "\n".join(rows)


def profiled(found: Any, values: Values) -> str:
    """Return profiles as CSV, a row for each region, map and bin."""
    columns = [name for name in ("low", "high", "x", "mean", "error", "standard_error", "median", "sigma", "count",
                                 "expected") if name in found]  # fmt: skip
    regions = _by_region(found)
    named = bool(regions[0][0])
    rows: list[list[object]] = [[*(["region"] if named else []), "against", "bin", *columns]]
    for name, one in regions:
        for i, against in enumerate(one["against"].values):
            for k, place in enumerate(one["bin"].values.tolist()):
                if not one["count"].values[i, k] > 0:  # maps may have fewer bins than the one with the most
                    continue
                numbers = [one[column].values[i, k].item() for column in columns]
                empty = ["" if isinstance(each, float) and math.isnan(each) else each for each in numbers]
                rows.append([*([name] if named else []), str(against), place, *empty])
    return _csv(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text with columns below each other: the first to the left, numbers to the right.

    Examples
    --------
    >>> print(aligned([["map", "slope"], ["ebv", "1.02"]]))
    map  slope
    ebv   1.02
    """
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    left = [not any(_is_number(row[place]) for row in rows) for place in range(len(widths))]
    lines = []
    for row in rows:
        cells = zip(row, widths, left, strict=True)
        lines.append("  ".join(cell.ljust(width) if lefty else cell.rjust(width) for cell, width, lefty in cells))
    return "\n".join(line.rstrip() for line in lines)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _by_region(found: Any) -> list[tuple[str, Any]]:
    if "region" not in found.dims:
        return [("", found)]
    return [(str(name), found.isel(region=place)) for place, name in enumerate(found["region"].values)]


def _folder(values: Values) -> list[str]:
    return [str(values["out_dir"])] if "out_dir" in values else []


def _colon(name: str) -> str:
    return f"{name}: " if name else ""


def _number(value: float, digits: int = _DIGITS) -> str:
    from ..engine.report import number

    return number(value, digits)


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().rstrip("\n")
