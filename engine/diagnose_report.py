"""The folder that `diagnose` leaves: figures, numbers as JSON, one page with a table of every number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..chunking import store as stores
from ..models.fingerprints import temperature_from_ratio
from .cap_images import CapImage, cap_image
from .diagnose_causes import report_polarization, report_slopes
from .diagnosis import Asked, Found, Report
from .figures_caps import caps_figure
from .figures_residual import distribution_figure, profiles_figure
from .gas_model import GasModel
from .plan import Run
from .region_tables import LEVELS, dataset_json, intervals
from .report import fixed, number, percent
from .used_pixels import area_deg2, sky_fraction

if TYPE_CHECKING:
    import xarray as xr


def write_diagnosis(folder: Path, asked: Asked, found: Found, run: Run) -> tuple[dict[str, Any], str]:
    """Write all figures into the folder; return the numbers, and the page."""
    report = Report(folder, asked)
    tiling = stores.tiling_of(asked.store)
    numbers: dict[str, Any] = {
        "title": asked.title,
        "store": asked.store,
        "nside": tiling.nside,
        "mask": asked.mask,
        "circles": {name: list(circle) for name, circle in asked.circles.items()},
        "coefficients": [model.facts() for own, _ in asked.models.values() for model in own],
        "residuals": {band: _residuals(report, asked, found, band) for band in asked.bands},
    }
    if found.temperature is not None:
        _temperature(report, asked, found, found.temperature)
    if found.slopes is not None and asked.slopes is not None:
        report_slopes(report, asked, found, found.slopes, asked.slopes, run)
    if found.polarization is not None:
        report_polarization(report, asked, found.polarization, run)
    datasets = {"temperature": found.temperature, "slopes": found.slopes, "polarization": found.polarization}
    for name, each in datasets.items():
        numbers[name] = None if each is None else json.loads(dataset_json(each))
    numbers["profiles"] = {name: json.loads(dataset_json(each)) for name, each in found.profiles.items()}
    report.page.heading("All numbers")
    report.page.table(
        ["region", "quantity", "value", "error", "expected", "unit"],
        [
            [
                row["region"],
                row["quantity"],
                number(row["value"]),
                number(row["error"], 2),
                number(row["expected"]),
                row["unit"],
            ]
            for row in report.table
        ],
    )
    return {**numbers, "table": report.table, "figures": report.figures}, report.page.html()


def _residuals(report: Report, asked: Asked, found: Found, band: str) -> dict[str, Any]:
    """Write maps, distributions and profiles of one band; return the numbers of its residuals."""
    unit = stores.info(asked.store, band).unit
    page, own = report.page, asked.models[band][0]
    page.heading(band)
    report.figure(
        caps_figure(
            _fractions(_images(asked, own)),
            title=f"{band}: residual / model",
            unit="%",
            circles=asked.circles,
            centre=0.0,
        ),
        f"residual_{band}.png",
        f"Fractional residual of {band}, (observed - model) / (model - offset), on the galactic caps. Grey: not used."
        + _about_circles(asked),
        1000,
    )
    parts = {name: found.gathered[band, name] for name in asked.names}
    report.figure(
        distribution_figure(
            {n: p.fractions for n, p in parts.items()}, label=f"{band}: residual / model", unit="%", factor=100.0
        ),
        f"distribution_{band}.png",
        "Above: fractional residuals by region. Below: median (dot), 1, 2 and 3 sigma intervals (bars).",
        680,
    )
    npix = stores.tiling_of(asked.store).npix
    rows, numbers = [], {}
    for name, part in parts.items():
        spans, fractions = intervals(part.residuals), intervals(part.fractions)
        covered = area_deg2(part.residual.count, npix)
        numbers[name] = {
            "pixels": part.residual.count,
            "area_deg2": covered,
            "f_sky": sky_fraction(covered),
            "mean": part.residual.mean if part.residual.count else None,
            "sigma": part.residual.sigma,
            "median": part.residuals.quantile(0.5),
            "intervals": dict(zip(map(str, LEVELS), spans, strict=True)),
            "fraction_mean": part.fraction.mean if part.fraction.count else None,
            "fraction_sigma": part.fraction.sigma,
            "fraction_median": part.fractions.quantile(0.5),
            "fraction_intervals": dict(zip(map(str, LEVELS), fractions, strict=True)),
        }
        rows.append(
            [
                name, f"{part.residual.count:,}", f"{covered:.0f}", number(numbers[name]["median"], 3),
                number(part.residual.sigma, 3), *(f"{number(a, 3)} to {number(b, 3)}" for a, b in spans),
                percent(part.fraction.sigma, 1),
            ]
        )  # fmt: skip
        report.add(name, f"{band}: median residual", numbers[name]["median"], None, None, unit)
        report.add(name, f"{band}: sigma of residual", part.residual.sigma, None, None, unit)
        report.add(name, f"{band}: sigma of residual / model", part.fraction.sigma)
    page.table(
        ["", "pixels", "deg²", f"median [{unit}]", "σ", "1 σ", "2 σ", "3 σ", "σ of residual / model"],
        rows,
    )
    profile = found.profiles[band]
    units = {name: stores.info(asked.store, name).unit for name in asked.against}
    report.figure(
        profiles_figure(profile, label=f"{band}: residual", unit=unit, units=units),
        f"profiles_{band}.png",
        f"Means of the residual in bins of other maps with errors {asked.errors}; bars: medians; dotted: what is "
        "expected.",
        340 * min(3, len(asked.against)) + 60,
    )
    for region in profile["region"].values:
        for name in asked.against:
            one = profile.sel(region=region, against=name)
            per = f"{unit} per {units[name]}" if units[name] != "1" else unit
            report.add(
                str(region),
                f"{band}: slope against {name}",
                one["slope"],
                one["slope_error"],
                one["expected_slope"],
                per,
            )
            report.add(str(region), f"{band}: Pearson r with {name}", one["pearson"])
            report.add(str(region), f"{band}: Spearman r with {name}", one["spearman"])
    return numbers


def _images(asked: Asked, models: tuple[GasModel, ...]) -> list[CapImage]:
    return [cap_image(asked.store, models, cap) for cap in ("north", "south")]


def _fractions(images: list[CapImage]) -> dict[Any, Any]:
    found = {}
    for image in images:
        with np.errstate(divide="ignore", invalid="ignore"):
            fraction = 100.0 * (image.observed / image.modelled - 1.0)
        found[image.cap] = np.where(image.modelled > 0, fraction, np.nan)
    return found


def _about_circles(asked: Asked) -> str:
    return f" Circles: {', '.join(asked.circles)}." if asked.circles else ""


def _temperature(report: Report, asked: Asked, found: Found, table: xr.Dataset) -> None:
    assert asked.thermal is not None
    mean, conservative = (float(value) for value in table["mean_temperature"].values)
    ghz = float(table.attrs["frequency_ghz"])
    report.page.heading("Temperature")
    report.page.paragraph(
        f"The temperature that explains the residual of {asked.thermal} ({ghz:g} GHz) if nothing else does. At a "
        f"higher mean temperature the same residuals mean a larger spread: {conservative:g} K is conservative."
    )
    images = {}
    for image in _images(asked, asked.models[asked.thermal][0]):
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(image.modelled > 0, image.observed / image.modelled, np.nan)
        images[image.cap] = temperature_from_ratio(ratio, ghz, mean)
    report.figure(
        caps_figure(images, title="Dust temperature", unit="K", circles=asked.circles, centre=mean),
        "temperature.png",
        f"Dust temperature from the residual of {asked.thermal}, for a mean of {mean:g} K.{_about_circles(asked)}",
        1000,
    )
    report.figure(
        distribution_figure(
            {name: found.gathered["temperature", name].histogram for name in asked.names}, label="Temperature", unit="K"
        ),
        "distribution_temperature.png",
        "Temperatures by region with median and 1, 2 and 3 sigma intervals.",
        680,
    )
    rows = []
    for name in asked.names:
        one = table.sel(region=name)
        sigma, linear = one["sigma"].values, one["sigma_linear"].values
        rows.append(
            [name, f"{int(one['pixels']):,}", fixed(float(one["median"]), 2), fixed(sigma[0], 3), fixed(sigma[1], 3),
             fixed(linear[0], 3), fixed(linear[1], 3), f"{int(one['not_positive']):,}"]
        )  # fmt: skip
        report.add(name, f"sigma_T at {mean:g} K", sigma[0], None, None, "K")
        report.add(name, f"sigma_T at {conservative:g} K", sigma[1], None, None, "K")
    report.page.table(
        ["", "pixels", "median [K]", f"σ at {mean:g} K", f"σ at {conservative:g} K", f"to first order, {mean:g} K",
         f"{conservative:g} K", "without temperature"],
        rows,
    )  # fmt: skip
