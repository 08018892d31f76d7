"""The folder that an evaluation leaves: figures, numbers as JSON, one page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .evaluation import survey_name
from .evaluation_pass import Gathered
from .figures import density_figure, density_panels_figure, error_by_survey_figure, error_figure, save
from .figures_ratio import ratio_figure
from .figures_region import View, region_figure
from .metrics import PairStatistics, RatioStatistics, total_of
from .region_images import read_image, view_pixels
from .report import Page, fixed, number, percent


@dataclass(frozen=True)
class RegionMaps:
    """Which maps the pictures of regions show for one band."""

    label: str
    unit: str
    store: str
    prediction: str
    target: str
    fine_store: str | None
    fine_prediction: str | None
    limit: float


def write_evaluation(
    folder: Path,
    title: str,
    subtitle: str,
    numbers: dict[str, Any],
    coarse: Gathered,
    fine: Gathered,
    names: Mapping[int, str],
    views: Sequence[View],
    maps: Sequence[RegionMaps],
) -> str:
    """Write all figures into the folder, list them in `numbers["figures"]`, and return the page."""
    page = Page(title, subtitle)
    figures: list[str] = []

    def add(figure: Any, name: str, caption: str, width: int) -> None:
        if figure is not None:
            save(figure, folder / name)
            figures.append(name)
            page.figure(name, caption, width)

    if numbers["checks"]:
        page.heading("Verdict")
        page.table(["band", "number", "value", "rule", "limit", ""], [_check_row(check) for check in numbers["checks"]])
    for label, pair in numbers["pairs"].items():
        groups = coarse.pairs[label]
        total = total_of(groups, PairStatistics())
        page.heading(label)
        page.paragraph(_about(pair))
        page.table(_COLUMNS, _rows(pair))
        if total.density.total:
            add(
                density_figure(total, label=label, unit=pair["unit"]),
                f"density_{label}.png",
                f"Above: predicted against true {label}; contours enclose 10, 30, 50, 70 and 95 % of the pixels, "
                "the dashed line is equality. Below: relative error against brightness, contours alike.",
                620,
            )
        add(
            error_figure(total, label=label),
            f"relative_error_{label}.png",
            "Histogram of the relative error (prediction - target) / target with its Gaussian fit, on a linear and "
            "on a logarithmic axis.",
            900,
        )
        if pair["by_brightness"]:
            page.heading("By brightness", 3)
            page.table(_BRIGHTNESS_COLUMNS, [_brightness_row(row) for row in pair["by_brightness"]])
        named = {survey_name(code, names): groups[code] for code in sorted(groups)}
        if pair["surveys"]:
            page.heading("By survey", 3)
            add(
                error_by_survey_figure(named, label=label),
                f"surveys_error_{label}.png",
                "Relative error by survey: median (dot), central 68 % (broad bar) and central 95 % (line); in brackets "
                "the number of pixels.",
                640,
            )
            add(
                density_panels_figure(named, label=label, unit=pair["unit"]),
                f"surveys_density_{label}.png",
                "Predicted against true by survey; contours enclose 50 and 95 % of the pixels.",
                1000,
            )
        if label in numbers["fine"]:
            page.heading("At the finer resolution, against the finer target", 3)
            page.table(_COLUMNS, _rows(numbers["fine"][label]))
            finer = total_of(fine.pairs[label], PairStatistics())
            add(
                error_figure(finer, label=f"{label}, fine"),
                f"relative_error_fine_{label}.png",
                "Relative error of the prediction at the finer resolution.",
                900,
            )
    if numbers["ratio"]:
        page.heading("Ratio of the bands")
        kinds = {kind: _by_name(groups, names) for kind, groups in {**coarse.ratios, **fine.ratios}.items()}
        page.table(_RATIO_COLUMNS, _ratio_rows(numbers["ratio"]))
        add(
            ratio_figure(kinds, label=" / ".join(list(numbers["pairs"])[:2])),
            "ratio.png",
            "Ratio of the two bands by survey, each histogram normalised to one. Dotted: fit of one Gaussian; "
            "solid: fit of two.",
            1000,
        )
    if views:
        page.heading("Regions")
    for view in views:
        page.heading(view.name, 3)
        for part in maps:
            name = f"region_{re.sub(r'[^A-Za-z0-9]+', '_', view.name).strip('_').lower() or 'region'}_{part.label}.png"
            caption = f"{view.name}, {part.label}: target, prediction, relative error"
            caption += ", prediction at the finer resolution. " if part.fine_prediction else ". "
            add(_region(view, part), name, caption + "Grey: no value.", 900)
    numbers["figures"] = figures
    return page.html()


def _region(view: View, maps: RegionMaps) -> Any:
    from ..chunking import store as stores

    pixels = view_pixels(stores.tiling_of(maps.store), view)
    fine = None
    if maps.fine_store is not None and maps.fine_prediction is not None:
        fine_pixels = view_pixels(stores.tiling_of(maps.fine_store), view)
        fine = read_image(maps.fine_store, maps.fine_prediction, fine_pixels)
    return region_figure(
        view,
        read_image(maps.store, maps.target, pixels),
        read_image(maps.store, maps.prediction, pixels),
        fine,
        label=maps.label,
        unit=maps.unit,
        limit=maps.limit,
    )


def _by_name(groups: Mapping[int, RatioStatistics], names: Mapping[int, str]) -> dict[str, RatioStatistics]:
    everything = {"all": total_of(groups, RatioStatistics())}
    if not names and not any(groups):
        return everything
    return everything | {survey_name(code, names): groups[code] for code in sorted(groups)}


def _about(pair: Mapping[str, Any]) -> str:
    total = pair["total"]
    text = f"{pair['prediction']} against {pair['target']}, in {pair['unit']}. "
    text += f"Both have a value in {total['n_both']:,} pixels"
    if pair["mask"]:
        text += f"; {pair['mask']} takes away {total['n_masked']:,} ({percent(total['masked_fraction'], 3)})"
    if pair["low_cut"] is not None:
        text += f"; {total['n_cut']:,} are fainter than {pair['low_cut']:g} {pair['unit']} and left out"
    share = percent(total["above_limit_fraction"], 3)
    return (
        f"{text}. Of the {total['pixels']:,} used, {total['n_above']:,} ({share}) have a relative error above "
        f"{percent(pair['limit'], 0)}. Quantiles are known to {percent(total['quantile_bound'], 3)}."
    )


_COLUMNS = (
    "",
    "pixels",
    "mean",
    "median",
    "fit: centre",
    "fit: \u03c3",
    "\u03c3",
    "robust \u03c3",
    "95 % within \u00b1",
    "R\u00b2",
    "R\u00b2 in log",
    "masked",
)


def _rows(pair: Mapping[str, Any]) -> list[list[str]]:
    parts = {"all": pair["total"], **pair["surveys"]}
    return [_row(name, part) for name, part in parts.items()]


def _row(name: str, part: Mapping[str, Any]) -> list[str]:
    bell = part["gaussian"] or {"centre": None, "sigma": None}
    return [
        name,
        f"{part['pixels']:,}",
        percent(part["mean"]),
        percent(part["median"]),
        percent(bell["centre"]),
        percent(bell["sigma"]),
        percent(part["sigma"]),
        percent(part["robust_sigma"]),
        percent(part["half_width_95"]),
        fixed(part["r_squared"]),
        fixed(part["r_squared_log"]),
        percent(part["masked_fraction"], 3),
    ]


_BRIGHTNESS_COLUMNS = (
    "target from",
    "to",
    "pixels",
    "mean",
    "median",
    "\u03c3",
    "robust \u03c3",
    "95 % within \u00b1",
)


def _brightness_row(row: Mapping[str, Any]) -> list[str]:
    return [
        number(row["low"]),
        number(row["high"]),
        f"{row['pixels']:,}",
        *(percent(row[key]) for key in ("mean", "median", "sigma", "robust_sigma", "half_width_95")),
    ]


def _check_row(check: Mapping[str, Any]) -> list[str]:
    return [
        check["label"],
        check["number"],
        number(check["value"]),
        check["rule"],
        f"{check['limit']:g}",
        "pass" if check["passed"] else "fail",
    ]


_RATIO_COLUMNS = (
    "",
    "survey",
    "pixels",
    "mean",
    "median",
    "\u03c3",
    "one Gaussian: \u03bc, \u03c3",
    "two Gaussians: \u03bc, \u03c3 (weight)",
)


def _ratio_rows(kinds: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for kind, part in kinds.items():
        for name, found in {"all": part["total"], **part["surveys"]}.items():
            one = "; ".join(f"{bell['centre']:.3f}, {bell['sigma']:.3f}" for bell in found["gaussian"])
            two = "; ".join(
                f"{bell['centre']:.3f}, {bell['sigma']:.3f} ({100 * bell['weight']:.0f} %)"
                for bell in found["double_gaussian"]
            )
            rows.append(
                [
                    kind,
                    name,
                    f"{found['pixels']:,}",
                    *(number(found[key]) for key in ("mean", "median", "sigma")),
                    one or "\u2013",
                    two or "\u2013",
                ]
            )
    return rows
