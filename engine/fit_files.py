"""The folder that a fit leaves: Zarr, JSON, figures and a page; and reading it back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..chunking.store import infos
from .figures import save
from .figures_fit import coefficients_figure, correlations_figure
from .figures_residual import distribution_figure
from .fit_request import FitRequest
from .histograms import Histogram
from .records import write_text
from .report import Page, make_directory, number, plain
from .result_folder import ResultFolder

if TYPE_CHECKING:
    import xarray as xr

DATA, REPORT, PAGE = "fit.zarr", "fit.json", "index.html"
_FOLDER = ResultFolder("fit", DATA, REPORT)


def read_fit(path: str | os.PathLike[str]) -> xr.Dataset:
    """Return the dataset of a fit, read into memory.

    Parameters
    ----------
    path : path
        The `out_dir` of `fit`, or the `fit.zarr` in it.

    Raises
    ------
    FormatError
        If there is none, or it cannot be read.
    """
    return _FOLDER.read(path)


def finished(
    out_dir: str | os.PathLike[str], facts: Mapping[str, Any], *, overwrite: bool = False
) -> xr.Dataset | None:
    """Return the result of this very run where it is finished; see `ResultFolder.finished`."""
    return _FOLDER.finished(out_dir, facts, overwrite=overwrite)


def write(
    found: xr.Dataset,
    out_dir: str | os.PathLike[str],
    facts: Mapping[str, Any],
    request: FitRequest | None = None,
    residuals: Mapping[tuple[str, str], Histogram] | None = None,
) -> Path:
    """Write a fit and return its folder: `fit.zarr`, figures, `index.html` and, last, `fit.json`.

    Parameters
    ----------
    found : Dataset
        What `fit_result.assemble` returns.
    out_dir : path
        Folder to write; made if it is not there, files of the same names are replaced.
    facts : mapping
        JSON-able; what determines the numbers.
    request : FitRequest, optional
        What was asked for, to name the maps that were written.
    residuals : mapping, optional
        Histograms of the residuals by target and region; see `fit_residuals`.

    Raises
    ------
    InputError
        If the folder cannot be made or written to.
    """
    folder = make_directory(out_dir)
    _FOLDER.write(found, folder, facts)
    page = Page("Template fit", _subtitle(found))
    if "superpixel" in found.dims:
        _super_pixels(page, found)
    else:
        _statements(page, found)
        page.heading("Coefficients")
        save(coefficients_figure(found), folder / "coefficients.png")
        page.figure("coefficients.png", _caption(found), width=900)
        for name, one in _by_region(found):
            _coefficients(page, one, name)
        _unknown_noise(page, found)
        page.heading("Correlations")
        _correlations(page, found, folder)
    if residuals:
        _residuals(page, found, residuals, folder)
    if request is not None and request.maps:
        page.heading("Maps")
        listed = ", ".join(f"fit_{kind}_{target}" for kind in request.maps for target in request.targets)
        page.paragraph(f"Written: {listed}.")
    write_text(folder / PAGE, page.html())
    write_text(folder / REPORT, summary_json(found))
    return folder


def summary_json(found: xr.Dataset) -> str:
    """Return the numbers of a fit as JSON.

    Parameters
    ----------
    found : Dataset
        What `fit_result.assemble` returns.
    """
    known: dict[str, Any] = {}
    for key, value in found.attrs.items():
        text = isinstance(value, str) and value[:1] in ("[", "{")
        known[key] = json.loads(value) if text else value.item() if isinstance(value, np.generic) else value
    regions = [{"region": name, "targets": _targets(one)} for name, one in _by_region(found)]
    return json.dumps(plain({"attributes": known, "regions": regions}), indent=2)


def _by_region(found: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
    if "region" not in found.dims:
        return [("", found)]
    return [(str(name), found.isel(region=place)) for place, name in enumerate(found["region"].values)]


def _targets(one: xr.Dataset) -> list[dict[str, Any]]:
    rows = []
    for place, target in enumerate(one["target"].values):
        own = one.isel(target=place)
        names = [str(name) for name in own["template"].values]
        row: dict[str, Any] = {"target": str(target)}
        if "superpixel" in own.dims:
            row["superpixel"] = own["superpixel"].values.tolist()
        for name in ("chi2", "dof", "condition", "pixels", "area", "f_sky", "super_pixels"):
            if name in own:
                row[name] = own[name].values.tolist()
        for name in ("coefficient", "error", "jackknife_error", "variance_inflation"):
            if name in own:
                row[name] = {each: own[name].isel(template=k).values.tolist() for k, each in enumerate(names)}
        row["unit"] = {each: str(own["unit"].values[k]) for k, each in enumerate(names)}
        if "superpixel" not in own.dims:
            row["covariance"] = own["covariance"].values.tolist()
        rows.append(row)
    return rows


def _subtitle(found: xr.Dataset) -> str:
    targets = ", ".join(str(name) for name in found["target"].values)
    templates = ", ".join(str(name) for name in found["template"].values)
    masked = f", mask {found.attrs['mask']}" if found.attrs["mask"] else ""
    return f"{templates} to {targets}; {found.attrs['store']} at nside {found.attrs['nside']}{masked}"


def _statements(page: Page, found: xr.Dataset) -> None:
    page.heading("In words")
    for line in str(found.attrs["statement"]).splitlines() or ["Nothing stands against the formal errors."]:
        page.paragraph(line)


def _caption(found: xr.Dataset) -> str:
    text = "Coefficients with their formal errors (thick)"
    if "jackknife_error" in found:
        text += f" and those of the jackknife over super-pixels of nside {found.attrs['jackknife']} (thin, with caps)"
    return text + "; a panel for each target and unit."


def _coefficients(page: Page, one: xr.Dataset, name: str) -> None:
    area = float(one["area"].values[0])
    where = f"{name}: " if name else ""
    pixels, share = int(one["pixels"].values[0]), 100 * float(one["f_sky"].values[0])
    page.heading(f"{where}{pixels} pixels, {area:.1f} deg², f_sky {share:.2f} %", 3)
    jackknife = "jackknife_error" in one
    header = ["target", "template", "coefficient", "unit", "formal error"]
    header += ["jackknife error", "ratio"] if jackknife else []
    rows = []
    for i, target in enumerate(one["target"].values):
        for k, template in enumerate(one["template"].values):
            coefficient, error = (float(one[field].values[i, k]) for field in ("coefficient", "error"))
            row = [str(target), str(template), number(coefficient, 6), str(one["unit"].values[i, k]), number(error, 3)]
            if jackknife:
                scatter = float(one["jackknife_error"].values[i, k])
                row += [number(scatter, 3), number(scatter / error if error else np.nan, 3)]
            rows.append([*row, number(float(one["variance_inflation"].values[i, k]), 3)])
    page.table([*header, "variance inflation"], rows)
    rows = []
    for i, target in enumerate(one["target"].values):
        chi2, dof, condition = (float(one[field].values[i]) for field in ("chi2", "dof", "condition"))
        rows.append([str(target), number(chi2, 6), f"{dof:.0f}", number(chi2 / dof, 4), number(condition, 4)])
    page.table(["target", "χ²", "degrees of freedom", "χ² / dof", "condition"], rows)


def _unknown_noise(page: Page, found: xr.Dataset) -> None:
    """Say that chi^2 is no pure number where the noise is not known."""
    unknown = [target for target, noise in json.loads(found.attrs["noise"]).items() if noise is None]
    if unknown:
        known = infos(str(found.attrs["store"]))
        units = ", ".join(dict.fromkeys(f"({known[target].unit})²" for target in unknown))
        page.paragraph(
            f"No noise was given for {', '.join(unknown)}: its χ² is the sum of squared residuals, in {units}, and "
            "χ² / dof their variance, which the formal errors are scaled with."
        )


def _correlations(page: Page, found: xr.Dataset, folder: Path) -> None:
    names = [str(name) for name in found["template"].values]
    for region, one in _by_region(found):
        matrices = one["correlation"].values
        alike = len(matrices) == 1 or bool(np.allclose(matrices, matrices[:1], atol=1e-6, equal_nan=True))
        for place, target in enumerate(one["target"].values[:1] if alike else one["target"].values):
            parts = [part for part in (region, "" if alike else str(target)) if part]
            file = "_".join(["correlation", *("".join(c if c.isalnum() else "-" for c in part) for part in parts)])
            save(correlations_figure(matrices[place], names, ", ".join(parts)), folder / f"{file}.png")
            told = "all targets" if alike else str(target)
            caption = f"Correlation of the coefficients, {told}{f', {region}' if region else ''}: near -1, two trade."
            page.figure(f"{file}.png", caption, width=min(760, 240 + 80 * len(names)))


def _residuals(page: Page, found: xr.Dataset, residuals: Mapping[tuple[str, str], Histogram], folder: Path) -> None:
    page.heading("Residuals")
    units = infos(str(found.attrs["store"]))
    for target in found["target"].values.tolist():
        parts = {region: part for (own, region), part in residuals.items() if own == target}
        figure = distribution_figure(parts, label=f"{target} - model", unit=units[target].unit)
        if figure is not None:
            save(figure, folder / f"residual_{target}.png")
            caption = f"Residuals of {target} in the pixels used; below, median and 1, 2 and 3 sigma intervals."
            page.figure(f"residual_{target}.png", caption, width=700)


def _super_pixels(page: Page, found: xr.Dataset) -> None:
    page.heading("Coefficients")
    count, nside = found.sizes["superpixel"], found.attrs["superpixels"]
    own = f"{count} super-pixels of nside {nside}, each with coefficients of its own"
    page.paragraph(f"{own}; ridge {found.attrs['ridge']:g}.")
    for region, one in _by_region(found):
        rows = []
        for i, target in enumerate(one["target"].values):
            for k, template in enumerate(one["template"].values):
                values = one["coefficient"].values[:, i, k]
                values = values[np.isfinite(values)]
                quantiles = np.quantile(values, (0.16, 0.5, 0.84)) if values.size else np.full(3, np.nan)
                unit = str(one["unit"].values[i, k])
                rows.append([str(target), str(template), unit, str(values.size), *(number(q, 4) for q in quantiles)])
        if region:
            page.heading(region, 3)
        page.table(["target", "template", "unit", "solved", "16 %", "median", "84 %"], rows)
