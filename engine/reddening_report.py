"""What `reddening` and `compare_reddening` leave in a folder: numbers as JSON, a figure, and a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .figures import save
from .figures_reddening import residual_figure
from .fit_request import OFFSET
from .records import write_text
from .region_tables import dataset_json
from .report import Page, fixed, make_directory, number

if TYPE_CHECKING:
    import xarray as xr

FIGURE = "residuals.png"


def summary(found: xr.Dataset) -> str:
    """Return a result as tables for people, in mmag; of `reddening` or `compare_reddening`.

    Parameters
    ----------
    found : xarray.Dataset
        What its run returned.

    Examples
    --------
    >>> import xarray as xr
    >>> one = ("region", "template")
    >>> numbers = {"coefficient": (one, [[11.0, -0.9]]), "error": (one, [[0.1, 0.2]]), "scatter": ("region", [4.1])}
    >>> print(summary(xr.Dataset(numbers, {"region": ["ngc"], "template": ["nhi", "offset"]})))
    region  template  coefficient  error                 unit
    ngc          nhi           11    0.1  mmag / (1e20 cm^-2)
    ngc       offset         -0.9    0.2                 mmag
    <BLANKLINE>
    region  scatter [mmag]
    ngc                4.1
    """
    regions = [str(name) for name in found["region"].values]
    if "map" in found.dims:
        numbers = ("slope", "slope_error", "offset", "scatter", "robust_scatter")
        keys = [key for key in numbers if key in found]
        rows = [["region", "map", *(key if key.startswith("slope") else f"{key} [mmag]" for key in keys)]]
        for region in regions:
            for name in found["map"].values.tolist():
                one = found.sel(region=region, map=name)
                rows.append([region, str(name), *(number(float(one[key])) for key in keys)])
        return _table(rows)
    errors = {key: label for key, label in (("error", "error"), ("jackknife_error", "jackknife")) if key in found}
    rows = [["region", "template", "coefficient", *errors.values(), "unit"]]
    for region in regions:
        for name in found["template"].values.tolist():
            one = found.sel(region=region, template=name)
            unit = "mmag" if name == OFFSET else "mmag / (1e20 cm^-2)"
            spread = (number(float(one[key]), 3) for key in errors)
            rows.append([region, str(name), number(float(one["coefficient"])), *spread, unit])
    keys = [key for key in ("scatter", "robust_scatter") if key in found]
    left = [["region", *(f"{key} [mmag]" for key in keys)]]
    left += [[region, *(number(float(found[key].sel(region=region))) for key in keys)] for region in regions]
    return f"{_table(rows)}\n\n{_table(left)}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def write_comparison(found: xr.Dataset, scatters: Sequence[Sequence[Any]], out_dir: str | os.PathLike[str]) -> Path:
    """Write `comparison.json`, the figure and `index.html` of a comparison; return the page.

    Parameters
    ----------
    found : xarray.Dataset
        Of `compare_reddening`.
    scatters : sequence of sequence of Scatter
        (region, map).
    out_dir : path
        The folder.
    """
    names, regions = found["map"].values.tolist(), found["region"].values.tolist()
    page = Page("Reddening maps compared", f"{', '.join(names)} against {found.attrs['target']}")
    page.heading("Scatter")
    page.paragraph(
        f"{found.attrs['target']} = slope x map + offset, in each region; what is left of it, in mmag. The robust "
        "scatter is half of the distance of the quantiles 0.159 and 0.841."
    )
    header = ["region", "map", "slope", "error", "offset", "scatter", "robust", "median", "pixels", "area [deg²]"]
    rows = []
    for region in regions:
        for name in names:
            one = found.sel(region=region, map=name)
            rows.append(
                [
                    region,
                    name,
                    number(float(one["slope"])),
                    number(float(one["slope_error"]), 2),
                    fixed(float(one["offset"]), 3),
                    *(fixed(float(one[key]), 3) for key in ("scatter", "robust_scatter", "median")),
                    f"{int(one['pixels']):,}",
                    f"{float(one['area']):.1f}",
                ]
            )
    page.table(header, rows)
    return _finish(page, found, "comparison.json", scatters, regions, names, out_dir)


def write_reddening(found: xr.Dataset, scatters: Sequence[Sequence[Any]], out_dir: str | os.PathLike[str]) -> Path:
    """Write `reddening.json`, the figure and `index.html` of a reddening fit; return the page.

    Parameters
    ----------
    found : xarray.Dataset
        Of `reddening`.
    scatters : sequence of sequence of Scatter
        (region, 1).
    out_dir : path
        The folder.
    """
    regions, templates = found["region"].values.tolist(), found["template"].values.tolist()
    target, factor = found.attrs["target"], found.attrs["factor"]
    page = Page("Reddening from gas", f"{factor:g} x {target} from {', '.join(templates)}")
    page.heading("Coefficients")
    page.paragraph(
        "In mmag per 1e20 cm^-2; the offset in mmag. Errors are formal, and from leaving out parts of the sky."
    )
    rows = []
    for region in regions:
        for template in templates:
            one = found.sel(region=region, template=template)
            error = [number(float(one[key]), 3) if key in one else "–" for key in ("error", "jackknife_error")]
            rows.append([region, template, fixed(float(one["coefficient"]), 4), *error])
    page.table(["region", "template", "coefficient", "error", "jackknife error"], rows)
    for line in found.attrs["statement"].splitlines():
        page.paragraph(line)
    page.heading("What is left")
    rows = [
        [
            region,
            *(fixed(float(found[key].sel(region=region)), 3) for key in ("scatter", "robust_scatter", "median")),
            f"{int(found['pixels'].sel(region=region)):,}",
            f"{float(found['area'].sel(region=region)):.1f}",
        ]
        for region in regions
    ]
    page.table(["region", "scatter [mmag]", "robust", "median", "pixels", "area [deg²]"], rows)
    return _finish(page, found, "reddening.json", scatters, regions, [target], out_dir)


def _finish(
    page: Page,
    found: xr.Dataset,
    file: str,
    scatters: Sequence[Sequence[Any]],
    regions: Sequence[str],
    names: Sequence[str],
    out_dir: str | os.PathLike[str],
) -> Path:
    folder = make_directory(out_dir)
    save(residual_figure(scatters, regions, names), folder / FIGURE)
    page.figure(FIGURE, "How the residuals are distributed in each region; their standard deviation beside the name.")
    write_text(folder / file, dataset_json(found))
    write_text(folder / "index.html", page.html())
    return folder / "index.html"
