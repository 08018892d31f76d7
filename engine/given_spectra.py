"""Spectra that come from outside, as arrays, mappings, datasets or files: every multipole from 0 on, by pair of maps.

Covers: which pair is which, multipoles that are missing, what is no spectrum.
Does not cover: whether maps can have such spectra (`correlated.py`).
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..chunking.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

type Floats = NDArray[np.float64]
type MapPair = tuple[str, str]
type Spectra = ArrayLike | Mapping[Any, Any] | xr.Dataset | str | os.PathLike[str]

_OF_A_RESULT = ("pair", "ell", "cl")  # columns
_BETWEEN = re.compile(r"\s+x\s+|:|\*")  # of the two maps in the name of a column


def read_spectra(cl: Any, names: Sequence[str]) -> dict[MapPair, Floats]:
    """Return spectra by pair of maps, each (ell,) float64 from ell 0 on, in the product of the units of the maps.

    Parameters
    ----------
    cl : array, mapping, dataset or path
        An array (ell,) for one map; a mapping from pairs of names; what `spectra` returns without bins; or a text
        file: columns ell and cl for one map, or ell and one column for every pair under a header such as
        `ell,a x a,a x b`.  Columns end at commas or blanks.  The folder or the table (CSV) that `spectra` wrote without
        bins will do too.  Multipoles below the first of a file or dataset are 0.
    names : sequence of str
        The maps that are wanted.

    Raises
    ------
    InputError
        If it is none of these, multipoles are missing in between, or a number is not finite.

    Examples
    --------
    >>> read_spectra([0.0, 1.0], ["g"])
    {('g', 'g'): array([0., 1.])}
    """
    if isinstance(cl, str | os.PathLike):
        known = _from_file(Path(cl), names)
    elif isinstance(cl, Mapping) and not hasattr(cl, "dims"):
        known = _from_mapping(cl)
    elif hasattr(cl, "dims") and hasattr(cl, "data_vars"):
        known = _from_dataset(cl)
    else:
        known = {_alone(names): _numbers(cl, "`cl`")}
    mentioned = sorted({name for pair in known for name in pair})
    for name in names:
        if (name, name) not in known:
            raise InputError(
                f"`cl` has no auto-spectrum of {name!r}; it speaks of the maps {', '.join(mentioned) or 'none'}. Give "
                "it, or name others of them with name=."
            )
    wanted = set(names)
    return {pair: values for pair, values in known.items() if set(pair) <= wanted}


def stated_unit(cl: Any, name: str) -> str | None:
    """Return what a result of `skymill.spectra` says of the unit of a map with itself, None where nothing is said.

    Parameters
    ----------
    cl : array, mapping, dataset or path
        As for `read_spectra`, which has read it.
    name : str
        The map.

    Examples
    --------
    >>> stated_unit([0.0, 1.0], "g") is None
    True
    """
    if isinstance(cl, str | os.PathLike) and not Path(cl).is_dir():
        rows = csv.DictReader(line for line in Path(cl).read_text(encoding="utf-8").splitlines() if line.strip())
        labels = [(row.get("pair"), row.get("unit")) for row in rows]
    else:
        if isinstance(cl, str | os.PathLike):
            from .spectra_files import read

            cl = read(Path(cl))
        if not hasattr(cl, "dims") or "unit" not in cl or cl["unit"].dims != ("pair",):
            return None
        labels = list(zip(cl["pair"].values.tolist(), cl["unit"].values.tolist(), strict=True))
    return next((str(unit) for label, unit in labels if unit and label and _pair(label) == (name, name)), None)


def _alone(names: Sequence[str]) -> MapPair:
    if len(names) != 1:
        raise InputError(
            f"`cl` came as one spectrum, `name` as {len(names)} maps; give a mapping of pairs of names to spectra."
        )
    return names[0], names[0]


def _numbers(values: Any, what: str) -> Floats:
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{what} came as {type(values).__name__}; numbers from ell 0 on are expected.") from None
    if found.ndim != 1 or found.size == 0:
        raise InputError(f"{what} came with shape {found.shape}; numbers (ell,) from ell 0 on are expected.")
    wrong = np.flatnonzero(~np.isfinite(found))
    if wrong.size:
        raise InputError(f"{what} came with {found[wrong[0]]:g} at ell {wrong[0]}; every C_l must be a finite number.")
    return found


def _from_mapping(cl: Mapping[Any, Any]) -> dict[MapPair, Floats]:
    known: dict[MapPair, Floats] = {}
    for key, values in cl.items():
        pair = _pair(key)
        if pair is None:
            raise InputError(f'`cl` has the key {key!r}; give pairs of names of maps, such as ("a", "b").')
        _put(known, pair, _numbers(values, f"the spectrum of {pair[0]} and {pair[1]}"))
    return known


def _put(known: dict[MapPair, Floats], pair: MapPair, values: Floats) -> None:
    for same in (pair, pair[::-1]):
        if same in known and not np.array_equal(known[same], values):
            raise InputError(f"the spectrum of {pair[0]} and {pair[1]} came twice, with different numbers; give one.")
    known[pair] = values


def _pair(key: Any) -> MapPair | None:
    parts = _BETWEEN.split(key.strip()) if isinstance(key, str) else list(key) if isinstance(key, tuple | list) else []
    if len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
        return None
    return parts[0].strip(), parts[1].strip()


def _from_dataset(dataset: Any) -> dict[MapPair, Floats]:
    if "cl" not in dataset or tuple(dataset["cl"].dims) != ("pair", "ell"):
        came = tuple(dataset["cl"].dims) if "cl" in dataset else "no cl"
        raise InputError(
            f"`cl` came as a dataset with {came}; give what skymill.spectra returns without bins: (pair, ell)."
        )
    ell = np.asarray(dataset["ell"].values, np.float64)
    known: dict[MapPair, Floats] = {}
    for place, label in enumerate(dataset["pair"].values.tolist()):
        pair = _pair(label)
        if pair is None:
            raise InputError(f"`cl` has the pair {label!r}; names such as 'a x b' are expected.")
        values = _numbers(dataset["cl"].values[place], f"the spectrum of {label}")
        _put(known, pair, _from_zero(ell, values, "`cl`"))
    return known


def _from_zero(ell: Floats, values: Floats, where: str) -> Floats:
    """Return values at every multipole from 0, those below the first that is given 0."""
    first = ell[0] if ell.size else np.nan
    if not (first >= 0 and np.array_equal(ell, first + np.arange(ell.size)) and first == int(first)):
        raise InputError(
            f"{where} does not hold every multipole from its first to its last, once and in order; give all."
        )
    return np.concatenate([np.zeros(int(first)), values])


def _from_file(path: Path, names: Sequence[str]) -> dict[MapPair, Floats]:
    if path.is_dir():
        from .spectra_files import read

        return _from_dataset(read(path))
    try:
        lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the spectra {path} cannot be read ({error}); give a text file of ell and C_l.") from error
    filled = [line for line in lines if line]
    header: list[str] | None = None
    if filled and _row(filled[0]) is None:
        header = [part.strip() for part in filled[0].split(",")] if "," in filled[0] else filled[0].split()
        if set(_OF_A_RESULT) <= set(header):
            return _from_table(path, filled)
        del filled[0]
    rows = [_row(line) for line in filled]
    columns = 2 if header is None else len(header)
    if not rows or columns < 2 or any(row is None or len(row) != columns for row in rows):
        number = next((n for n, row in enumerate(rows, 1) if row is None or len(row) != columns), 0)
        raise InputError(
            f"the spectra {path} are not a table of ell and C_l: row {number} is not {columns} numbers. Give columns "
            "ell and cl, or a header `ell,a x a,a x b` and one column for each pair."
        )
    table = np.array(rows, dtype=np.float64)
    known: dict[MapPair, Floats] = {}
    for column in range(1, columns):
        pair = None if header is None else _pair(header[column])
        if pair is None:
            if columns != 2:
                raise InputError(
                    f"the spectra {path} have a column {header[column] if header else column!r}; give names of two "
                    "maps such as `a x b`, between commas."
                )
            pair = _alone(names)
        values = _numbers(table[:, column], f"the spectrum of {pair[0]} and {pair[1]} in {path}")
        _put(known, pair, _from_zero(table[:, 0], values, str(path)))
    return known


def _from_table(path: Path, lines: Sequence[str]) -> dict[MapPair, Floats]:
    """Return the spectra of a table as `spectra` writes it: one row a pair and multipole."""
    found: dict[str, list[tuple[float, float]]] = {}
    for number, row in enumerate(csv.DictReader(lines), 1):
        if row.get("ell_start"):
            raise InputError(f"the spectra {path} are in bins; give those that skymill.spectra returns without bins.")
        try:
            label, ell, value = (str(row[name]) for name in _OF_A_RESULT)
            found.setdefault(label, []).append((float(ell), float(value)))
        except ValueError:
            raise InputError(f"the spectra {path} lack numbers in row {number}; write them anew.") from None
    known: dict[MapPair, Floats] = {}
    for label, rows in found.items():
        pair = _pair(label)
        if pair is None:
            raise InputError(f"the spectra {path} have the pair {label!r}; names such as 'a x b' are expected.")
        table = np.array(rows, np.float64)
        values = _numbers(table[:, 1], f"the spectrum of {label} in {path}")
        _put(known, pair, _from_zero(table[:, 0], values, str(path)))
    return known


def _row(line: str) -> list[float] | None:
    try:
        return [float(part) for part in (line.split(",") if "," in line else line.split())]
    except ValueError:
        return None
