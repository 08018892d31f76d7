"""The folder that spectra leave: Zarr, CSV, figures, a page and a report, with the identity of the run."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import save
from .figures_spectra import ratio_figure, spectra_figure
from .records import write_text
from .report import Page, make_directory, number, plain
from .result_folder import ResultFolder

if TYPE_CHECKING:
    import xarray as xr

DATA, TABLE, PAGE, REPORT = "spectra.zarr", "spectra.csv", "index.html", "report.json"
_FOLDER = ResultFolder("result of spectra", DATA, REPORT)
_MOST_ROWS = 60  # of a table on the page; all are in the CSV file
_COLUMNS = ("cl", "error", "noise", "pseudo_cl", "null_error", "knox_error", "error_ratio", "simulated_cl")


def write(
    dataset: xr.Dataset,
    out_dir: str | os.PathLike[str],
    facts: Mapping[str, Any] | None = None,
    *,
    title: str = "Angular power spectra",
    theory: Mapping[str, Any] | None = None,
) -> Path:
    """Write a result and return its folder: `spectra.zarr`, `spectra.csv`, PNG figures, `index.html`, `report.json`.

    Every file appears whole or not at all.  The report comes last, so that where it is everything else is there too.

    Parameters
    ----------
    dataset : Dataset
        What `spectra_result.assemble` returns.
    out_dir : path
        Folder to write; made if it is not there, files of the same names are replaced.
    facts : mapping, optional
        JSON; what determines the numbers, by which `read_finished` knows the run again.
    title : str
        Of the page.
    theory : mapping of str to ndarray, optional
        (ell,) curves from multipole 0 to draw, by name of the pair.

    Raises
    ------
    InputError
        If the folder cannot be made or written to.
    """
    folder = make_directory(out_dir)
    known = dict(facts or {})
    _FOLDER.write(dataset, folder, known)
    write_text(folder / TABLE, table(dataset))
    figures = []
    drawn = {"spectra.png": spectra_figure(dataset, theory=theory), "error_ratio.png": ratio_figure(dataset)}
    for name, figure in drawn.items():
        (folder / name).unlink(missing_ok=True)
        if figure is not None:
            save(figure, folder / name)
            figures.append(name)
    write_text(folder / PAGE, _page(dataset, title, figures))
    report = {"title": title, **summary(dataset), "figures": figures, "facts": known}
    write_text(folder / REPORT, json.dumps(plain(report), indent=2))
    return folder


def read(out_dir: str | os.PathLike[str]) -> xr.Dataset:
    """Return the result that `write` wrote, read into memory.

    Raises
    ------
    FormatError
        If there is none, or it cannot be read.
    """
    return _FOLDER.read(out_dir)


def read_finished(
    out_dir: str | os.PathLike[str], facts: Mapping[str, Any], *, overwrite: bool = False
) -> xr.Dataset | None:
    """Return the result of this very run where it is finished, and None where it is to be made.

    Parameters
    ----------
    out_dir : path
        The folder.
    facts : mapping
        Those of this run, see `write`.
    overwrite : bool
        Whether what another run made may be replaced.

    Raises
    ------
    InputError
        If what is there is a file and no folder.
    IdentityError
        If another run has made what is there, and `overwrite` is not set.
    FormatError
        If what is there cannot be read, and `overwrite` is not set.
    """
    return _FOLDER.finished(out_dir, facts, overwrite=overwrite)


def table(dataset: xr.Dataset) -> str:
    """Return a result as CSV, one row a pair and bin; numbers as written have all their digits.

    Examples
    --------
    >>> from skymill.engine.spectra_result import assemble
    >>> from skymill.engine.spectrum_estimator import Estimator, SpectrumMap
    >>> found = assemble([("a", "a")], {("a", "a"): np.ones(2)}, Estimator({"a": SpectrumMap()}, lmax=1))
    >>> print(table(found), end="")
    pair,map_1,map_2,unit,ell,modes,cl,pseudo_cl
    a x a,a,a,1,0,1,1.0,1.0
    a x a,a,a,1,1,3,1.0,1.0
    """
    along = [name for name in ("ell_start", "ell_stop", "ell", "modes") if name in dataset.coords]
    columns = [name for name in _COLUMNS if name in dataset]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["pair", "map_1", "map_2", "unit", *along, *columns])
    facts = [[str(value) for value in dataset[name].values] for name in ("pair", "map_1", "map_2", "unit")]
    bins = [[_plain_number(value) for value in dataset[name].values] for name in along]
    for place, about in enumerate(zip(*facts, strict=True)):
        numbers = [dataset[name].values[place].tolist() for name in columns]
        for row in zip(*bins, *numbers, strict=True):
            writer.writerow([*about, *("" if isinstance(v, float) and math.isnan(v) else v for v in row)])
    return text.getvalue()


def _plain_number(value: Any) -> Any:
    return int(value) if float(value).is_integer() else float(value)


def summary(dataset: xr.Dataset) -> dict[str, Any]:
    """Return the numbers of a result that are one a pair, as plain values.

    Parameters
    ----------
    dataset : Dataset
        What `spectra_result.assemble` returns.
    """
    keys = [
        name for name in ("unit", "f_sky", "mean_weight", "chi2", "degrees_of_freedom", "p_value") if name in dataset
    ]
    pairs = []
    for place, label in enumerate(dataset["pair"].values):
        pairs.append({"pair": str(label), **{key: dataset[key].values[place].tolist() for key in keys}})
    attributes = {key: _parsed(value) for key, value in dataset.attrs.items()}
    return {"attributes": attributes, "bins": int(dataset["cl"].shape[1]), "pairs": pairs}


def _parsed(value: Any) -> Any:
    """Return what a JSON object in an attribute says, other values as they are."""
    if isinstance(value, str) and value.startswith("{"):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value.item() if isinstance(value, np.generic) else value


def _page(dataset: xr.Dataset, title: str, figures: list[str]) -> str:
    attributes = dataset.attrs
    binned = "ell_start" in dataset.coords
    page = Page(title, f"{dataset.sizes['pair']} spectra to ell {attributes['lmax']}; {attributes['estimator']}")
    page.heading("Spectra")
    if "spectra.png" in figures:
        page.figure("spectra.png", _caption(dataset), width=900)
    header = ["pair", "unit", "fraction of modes"]
    rows = [
        [str(label), str(unit), number(f_sky)]
        for label, unit, f_sky in zip(*(dataset[name].values for name in ("pair", "unit", "f_sky")), strict=True)
    ]
    if "p_value" in dataset:
        header += ["χ² of no correlation", "bins", "p-value"]
        for row, place in zip(rows, range(dataset.sizes["pair"]), strict=True):
            row += [
                number(float(dataset["chi2"][place])),
                str(int(dataset["degrees_of_freedom"][place])) if np.isfinite(dataset["chi2"][place]) else "–",
                number(float(dataset["p_value"][place])),
            ]
    page.table(header, rows)
    if "p_value" in dataset:
        text = (
            "χ² and p-value test the hypothesis that two maps have nothing in common, with the errors that hold if so; "
            "they take bins to be independent. A low p-value says that the maps are correlated."
        )
        if "knox_error" not in dataset and bool((dataset["mean_weight"] != 1).any()):
            text += (
                " Behind a mask Knox's errors are a few per cent too small, so that p-values of true nulls fall below "
                "0.01 about twice as often as they should; errors from realisations mend that."
            )
        page.paragraph(text)
    if "error_ratio.png" in figures:
        page.heading("Errors")
        page.figure(
            "error_ratio.png",
            f"Knox's error over the scatter of {attributes['simulations']} Gaussian realisations; the band is how well "
            "the scatter of so many is known.",
            width=760,
        )
    page.heading("Numbers")
    columns = [name for name in ("cl", "error", "noise", "error_ratio") if name in dataset]
    for place, label in enumerate(dataset["pair"].values):
        page.heading(f"{label} [{dataset['unit'].values[place]}]", 3)
        count = dataset["cl"].shape[1]
        shown = []
        for bin_ in range(min(count, _MOST_ROWS)):
            first = [f"{int(dataset['ell_start'][bin_])} – {int(dataset['ell_stop'][bin_]) - 1}"] if binned else []
            values = [number(float(dataset[name].values[place, bin_])) for name in columns]
            shown.append([*first, number(float(dataset["ell"][bin_]), 6), *values])
        page.table([*(["bin"] if binned else []), "ℓ", *columns], shown)
        if count > _MOST_ROWS:
            page.paragraph(f"The first {_MOST_ROWS} of {count}; all are in {TABLE}.")
    return page.html()


def _caption(dataset: xr.Dataset) -> str:
    text = "Angular power spectra; open symbols are negative values where the axis is logarithmic."
    if "error" in dataset:
        kind = "scatter of Gaussian realisations" if "knox_error" in dataset else "Knox"
        text += f" Bars: one standard deviation ({kind})."
    if "p_value" in dataset:
        text += " p: of the hypothesis that two maps have nothing in common."
    if "noise" in dataset:
        text += " Dashed: noise from halves."
    return text
