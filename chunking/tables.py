"""Small tables of numbers, such as lists of sources: columns of a CSV file or of a FITS table, by name.

Covers: tables that fit into memory.  Does not cover: maps (`fits_map`, `fits_read`).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError, InputError, StoreNotFoundError

FITS_ENDINGS = (".fits", ".fit", ".fits.gz", ".fit.gz")


@dataclass(frozen=True)
class Table:
    """Columns of numbers.

    Parameters
    ----------
    columns : mapping of str to ndarray
        (row,) float64 by name in lower case; NaN where a field is empty.
    units : mapping of str to str
        What the file says of the unit of a column, where it says something.
    """

    columns: Mapping[str, NDArray[np.float64]]
    units: Mapping[str, str]


def read_table(path: str | os.PathLike[str], wanted: Sequence[str]) -> Table:
    r"""Return those of some columns that a table has.

    Parameters
    ----------
    path : str or path
        A FITS file (its first table is read) or a CSV file: names in the first line that is not empty and does not
        begin with "#", then a row a line.
    wanted : sequence of str
        Names of columns; upper and lower case are the same.

    Raises
    ------
    StoreNotFoundError
        If there is no such file.
    FormatError
        If it cannot be read, or a field of these columns is no number.
    InputError
        If one of the names stands twice in the file.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("sources.csv").write_text("L,B,name\n10.5,-3,a\n200,60,b\n")
    >>> {name: values.tolist() for name, values in read_table("sources.csv", ["l", "b", "radius"]).columns.items()}
    {'l': [10.5, 200.0], 'b': [-3.0, 60.0]}
    """
    where = Path(path)
    if not where.is_file():
        raise StoreNotFoundError(f"no file at {where}; give the path of a CSV file or of a FITS table.")
    names = tuple(dict.fromkeys(name.lower() for name in wanted))
    return _fits(where, names) if where.name.lower().endswith(FITS_ENDINGS) else _csv(where, names)


def _csv(where: Path, wanted: Sequence[str]) -> Table:
    try:
        with where.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(line for line in file if line.strip() and not line.lstrip().startswith("#"))
            head = [name.strip().lower() for name in next(rows, [])]
            places = _places(where, head, wanted)
            values: dict[str, list[float]] = {name: [] for name in places}
            for number, row in enumerate(rows, 1):
                for name, place in places.items():
                    values[name].append(_number(where, number, name, row[place] if place < len(row) else ""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{where} cannot be read as CSV ({error}); give a CSV file or a FITS table.") from error
    return Table({name: np.array(column, np.float64) for name, column in values.items()}, {})


def _number(where: Path, row: int, name: str, text: str) -> float:
    try:
        return float(text) if text.strip() else float("nan")
    except ValueError:
        raise FormatError(f"{where}: row {row} has {text!r} in column {name!r}, where a number is expected.") from None


def _fits(where: Path, wanted: Sequence[str]) -> Table:
    from astropy.io import fits

    try:
        with fits.open(where, memmap=False) as file:
            tables = [unit for unit in file if isinstance(unit, fits.BinTableHDU | fits.TableHDU)]
            if not tables:
                raise FormatError(f"{where} holds no table; give a FITS file with one, or a CSV file.")
            columns = tables[0].columns
            places = _places(where, [str(name).lower() for name in columns.names], wanted)
            values, units = {}, {}
            for name, place in places.items():
                found = np.asarray(tables[0].data.field(place))
                if found.dtype.kind not in "iuf" or found.ndim != 1:
                    raise FormatError(f"{where}: column {name!r} holds no number a row.")
                values[name] = found.astype(np.float64)
                if columns[place].unit:
                    units[name] = str(columns[place].unit)
    except OSError as error:
        raise FormatError(f"{where} cannot be read as FITS ({error}).") from error
    return Table(values, units)


def _places(where: Path, head: list[str], wanted: Sequence[str]) -> dict[str, int]:
    """Return where the columns stand that are wanted and there."""
    twice = sorted(name for name in wanted if head.count(name) > 1)
    if twice:
        raise InputError(f"{where} has column {twice[0]!r} twice; leave one of them.")
    return {name: head.index(name) for name in wanted if name in head}
