"""The parts of a diagnosis that ask for causes: slopes of residuals, and polarisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..chunking import store as stores
from .diagnose_pass import Frame, PolarizationDensity, SlopeDensity, merge_counts
from .diagnosis import Asked, Found, Report
from .figures_residual import COLUMNS, fingerprint_figure, polarization_figure, slopes_figure, told
from .moments import Integers
from .plan import Run
from .region_pass import reduce_regions
from .report import fixed, number, percent
from .slope_statistics import HIGH, LOW, MODEL, SlopeRequest

if TYPE_CHECKING:
    import xarray as xr


def report_slopes(
    report: Report, asked: Asked, found: Found, table: xr.Dataset, request: SlopeRequest, run: Run
) -> None:
    """Write the part of the page on slopes of residuals, with its figures."""
    page = report.page
    page.heading("Slopes and their cause")
    page.paragraph(
        "r(gas) is what gas does not explain of the high band, r(low) what the low band, scaled to it, does not. Every "
        "cause of residuals has its slope of one against the other. The noise of the high band is in both and pulls "
        "slopes to 1, as a scatter of the emissivity index does."
    )
    models = tuple(model for model in request.models if model.region in asked.areas)
    scales: dict[str, float] = {}
    means: dict[str, tuple[float, float]] = {}
    frames: dict[str, Frame] = {}
    for model in models:
        one = table.sel(region=model.region)
        mean, scale = found.moments[model.region].total()[1], float(one["scale"][0])
        scales[model.region] = scale
        means[model.region] = (float(mean[HIGH] - mean[MODEL]), float(mean[HIGH] - scale * mean[LOW]))
        # At least half as high as wide: the lines of the causes must be seen.
        width = float(one["gas_spread"])
        frames[model.region] = Frame.around((0.0, 0.0), (width, max(float(one["spread"][0]), 0.5 * width)))
    kernel = SlopeDensity(models, request.low, scales, means, frames, stores.tiling_of(asked.store).tile_npix)
    nothing: dict[str, Integers] = {}
    tables = reduce_regions(kernel, asked.store, models, (request.low,), merge_counts, nothing, run, "densities")
    high = models[0].target
    unit = stores.info(asked.store, high).unit
    report.figure(
        slopes_figure(tables, frames, table, high=high, low=request.low, unit=unit),
        "slopes.png",
        "Residual against the low band versus residual against gas, each without its mean; contours enclose 68 and "
        "95 % of the pixels.",
        80 + 420 * min(COLUMNS, len(models)),
    )
    report.figure(
        fingerprint_figure(table),
        "fingerprints.png",
        f"Measured slopes by region (dots, with errors {asked.errors}) and those of the causes (lines); beside the "
        "name the cause that fits, or how many do.",
        120 + 420 * table.sizes["residual"],
    )
    causes = [str(name) for name in table["cause"].values]
    rows = []
    for name in table["region"].values:
        one = table.sel(region=name)
        for place, residual in enumerate(table["residual"].values):
            slope, error = one["slope"][place], one["error"][place]
            verdict = told(one) if place == 0 else ""
            likelihoods = [number(float(one["likelihood"].sel(cause=c)), 2) if place == 0 else "" for c in causes]
            # An error from few patches is itself hardly known.
            patches = "\N{EN DASH}" if asked.jackknife is None else str(int(one["blocks"]))
            rows.append(
                [str(name), str(residual), f"{int(one['pixels']):,}", patches, fixed(float(slope), 3),
                 fixed(float(error), 3), fixed(float(one["correlation"][place]), 3), verdict, *likelihoods]
            )  # fmt: skip
            for cause in causes:
                expected = one["expected"].sel(cause=cause)[place]
                report.add(str(name), f"slope of r({residual}); {cause}", slope, error, expected)
    page.table(
        ["", "residual", "pixels", "patches", "slope", "error", "correlation", "cause", *(f"L({c})" for c in causes)],
        rows,
    )


def report_polarization(report: Report, asked: Asked, table: xr.Dataset, run: Run) -> None:
    """Write the part of the page on polarisation, with its figure."""
    report.page.heading("Polarisation")
    report.page.paragraph(
        "Where the magnetic field lies along the line of sight, dust is polarised less and brighter by as much: if "
        "that is all that makes residuals, the slope is -1."
    )
    models = asked.models[asked.intensity][0]
    means = {str(name): float(table["fraction"].sel(region=name)) for name in table["region"].values}
    frames = {}
    for name, mean in means.items():
        one = table.sel(region=name)
        widths = (float(one["fraction_sigma"]) / (1 + mean), float(one["residual_sigma"]))
        frames[name] = Frame.around((0.0, float(one["residual_mean"])), widths)
    kernel = PolarizationDensity(
        models, asked.polarized, asked.noise, means, frames, stores.tiling_of(asked.store).tile_npix
    )
    more = (*asked.polarized, *((asked.noise.name,) if asked.noise is not None and asked.noise.name else ()))
    nothing: dict[str, Integers] = {}
    tables = reduce_regions(kernel, asked.store, models, more, merge_counts, nothing, run, "densities")
    report.figure(
        polarization_figure(tables, frames, table),
        "polarization.png",
        f"Fractional residual of {asked.intensity} against the departure of the polarisation fraction from its mean.",
        80 + 420 * min(COLUMNS, len(models)),
    )
    rows = []
    for name in table["region"].values:
        one = table.sel(region=name)
        slope, error, correlation = (float(one[key]) for key in ("slope", "error", "correlation"))
        shares = (percent(float(one[key])) for key in ("fraction", "fraction_sigma"))
        row = [fixed(slope, 3), fixed(error, 3), "\N{MINUS SIGN}1", fixed(correlation, 3), *shares]
        rows.append([str(name), f"{int(one['pixels']):,}", *row])
        report.add(str(name), "slope of residual against polarisation", one["slope"], one["error"], one["expected"])
        report.add(str(name), "correlation of residual and polarisation", one["correlation"])
    report.page.table(["", "pixels", "slope", "error", "expected", "correlation", "mean p", "σ of p"], rows)
