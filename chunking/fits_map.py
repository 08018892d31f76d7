"""Which column of a FITS file is the map, and what the header says of its pixels, frame, ordering and unit."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import FormatError, InputError, nearest
from .fits_header import Column, Table, is_gzipped, read_tables
from .fits_values import UNSEEN
from .tiling import MAX_ORDER

# The first column of a map of several Stokes parameters, or of a map with its hits and variances.
CONVENTIONAL_FIRST = ("TEMPERATURE", "I_STOKES", "INTENSITY", "SIGNAL", "I", "T")
PIXEL_NAMES = ("PIXEL", "PIXELS", "PIX", "HPIX", "IPIX", "HPX_PIXEL", "HEALPIX", "HEALPIX_PIXEL")
UNKNOWN_WORDS = ("", "UNKNOWN", "UNDEF", "UNDEFINED", "NONE", "N/A", "NA", "NULL")
FACTS = (
    "TELESCOP",
    "INSTRUME",
    "FREQ",
    "FREQUENCY",
    "VERSION",
    "DATE",
    "CREATOR",
    "ORIGIN",
    "POLCCONV",
    "BEAM",
    "FWHM",
    "COORDSYS",
    "ORDERING",
    "NSIDE",
    "INDXSCHM",
    "OBJECT",
    "BAD_DATA",
    "EQUINOX",
)


@dataclass(frozen=True)
class FitsMap:
    """One map of a FITS file, as its header describes it; small, so that it travels with every task.

    Parameters
    ----------
    path : str
        The file.
    compressed : bool
        Whether it is gzipped.
    hdu : int
        Number of the extension, 0 for the primary one.
    column : Column
        The values.
    pixel : Column, optional
        The pixel numbers, of a map with explicit indexing.
    nside : int
        Resolution.
    ordering, frame, unit : str, optional
        As the header writes them (`fits_settle` gives them a meaning); None where it says nothing.
    first_pixel, n_pixels : int
        Range of pixels of a map with implicit indexing; `n_pixels` is the number of listed pixels otherwise.
    start, row_bytes, rows : int
        Where the rows are.
    bad_values : tuple of float
        Stored values that mean "no value", beside NaN and UNSEEN.
    facts : mapping
        What the header tells, for the provenance.
    """

    path: str
    compressed: bool
    hdu: int
    column: Column
    pixel: Column | None
    nside: int
    ordering: str | None
    frame: str | None
    unit: str | None
    first_pixel: int
    n_pixels: int
    start: int
    row_bytes: int
    rows: int
    bad_values: tuple[float, ...]
    facts: Mapping[str, Any]

    @property
    def end(self) -> int:
        """The byte after the last row."""
        return self.start + self.rows * self.row_bytes

    @property
    def full_sky(self) -> bool:
        """Whether there is a value for every pixel."""
        return self.pixel is None and self.n_pixels == 12 * self.nside**2


def split_address(address: str | os.PathLike[str]) -> tuple[str, str | None, str | None]:
    """Return path, column and HDU of "file.fits[COLUMN,HDU]"; None where not given.

    Examples
    --------
    >>> split_address("planck.fits[I_STOKES,1]")
    ('planck.fits', 'I_STOKES', '1')
    >>> split_address("planck.fits")
    ('planck.fits', None, None)
    """
    text = os.fspath(address)
    match = re.fullmatch(r"(.+?)\[([^\[\]]*)\]", text)
    if match is None or os.path.exists(text):
        return text, None, None
    parts = [part.strip() for part in match[2].split(",")]
    if len(parts) > 2 or not parts[-1]:
        raise InputError(
            f'{text!r} came; a column is chosen as "file.fits[COLUMN]" or "file.fits[COLUMN,HDU]", an HDU alone as '
            '"file.fits[,HDU]".'
        )
    return match[1], parts[0] or None, parts[1] if len(parts) == 2 else None


def describe(
    address: str | os.PathLike[str],
    nside: int | None = None,
    known: dict[str, tuple[Table, ...]] | None = None,
) -> FitsMap:
    """Return what the header of a HEALPix FITS file says of one of its maps.

    Parameters
    ----------
    address : path
        "file.fits", "file.fits[COLUMN]" or "file.fits[COLUMN,HDU]"; the column by name or number (from 1), the HDU
        by name or number (0 is the primary one).  Without a column the file's only map is taken, or, of several, the
        first if its name is the conventional one of a total-intensity map.
    nside : int, optional
        Resolution, for a file that does not tell.
    known : dict, optional
        Filled with the tables of each path, so that a file with several maps is looked at once.

    Returns
    -------
    FitsMap
        Checked: the number of rows agrees with the nside and the indexing, and the file is long enough.

    Raises
    ------
    FormatError
        If the file is damaged, or no HEALPix map.
    InputError
        If the column or HDU is unknown or has to be chosen.
    """
    path, column_choice, hdu_choice = split_address(address)
    path = os.path.abspath(os.path.expanduser(path))  # workers may be started elsewhere
    known = {} if known is None else known
    if path not in known:
        known[path] = read_tables(path)
    table = choose_table(path, known[path], column_choice, hdu_choice)
    where = f"{path!r}, HDU {table.hdu}"
    pixel = pixel_column(table, where)
    column = choose_column(table, pixel, column_choice, path, where)
    return map_of(path, table, column, pixel, nside)


def map_of(path: str, table: Table, column: Column, pixel: Column | None, nside: int | None) -> FitsMap:
    """Return what the header says of one column of a table; see `describe`, whose second half this is.

    Parameters
    ----------
    path : str
        The file, an absolute path.
    table, column
        The map.
    pixel : Column, optional
        The pixel numbers, where indexing is explicit.
    nside : int, optional
        Resolution, for a file that does not tell.
    """
    where = f"{path!r}, HDU {table.hdu}"
    found_nside = _nside(table, column, pixel, nside, where)
    first, count = _extent(table, column, pixel, found_nside, where)
    # BLANK is defined for integers only; some writers put it where TNULL belongs.
    stated = [table.value("BAD_DATA"), column.null, table.value("BLANK") if column.code in "BIJK" else None]
    bad = (finite_number(value) for value in stated)
    return FitsMap(
        path=path,
        compressed=is_gzipped(path),
        hdu=table.hdu,
        column=column,
        pixel=pixel,
        nside=found_nside,
        ordering=said(table.value("ORDERING")),
        frame=said(table.value("COORDSYS")),
        unit=said(column.unit),
        first_pixel=first,
        n_pixels=count,
        start=table.start,
        row_bytes=table.row_bytes,
        rows=table.rows,
        bad_values=tuple(dict.fromkeys(v for v in bad if v is not None and not math.isclose(v, UNSEEN, rel_tol=1e-6))),
        facts={key: table.value(key) for key in FACTS if table.value(key) is not None},
    )


def choose_table(path: str, tables: tuple[Table, ...], column: str | None, hdu: str | None) -> Table:
    """Return the table of a file that holds the map, chosen by HDU, by column, or as the only HEALPix table."""
    if not tables:
        raise FormatError(
            f"{path!r} holds no binary table, so no HEALPix map; images (projected maps) cannot be ingested."
        )
    if hdu is not None:
        for table in tables:
            if hdu == str(table.hdu) or hdu.upper() == table.name.upper():
                return table
        raise InputError(f"{path!r} has no binary table in HDU {hdu!r}. It has: {_listing(tables)}.")
    maps = [t for t in tables if str(t.value("PIXTYPE")).upper() == "HEALPIX" or t.value("NSIDE") is not None]
    maps = maps or [t for t in tables if any(is_full_sky(t.rows * c.repeat) for c in t.columns if c.numeric)]
    if not maps:
        raise FormatError(
            f"{path!r} is no HEALPix map: no table says PIXTYPE = 'HEALPIX' or NSIDE, and none has 12 * nside**2 "
            f"values. It has: {_listing(tables)}."
        )
    if len(maps) > 1 and column is not None:
        having = [t for t in maps if column.upper() in {c.name.upper() for c in t.columns}]
        maps = having or maps
    if len(maps) > 1:
        raise InputError(
            f'{path!r} holds HEALPix tables in several HDUs; choose one as "{path}[COLUMN,HDU]": {_listing(maps)}.'
        )
    return maps[0]


def _listing(tables: tuple[Table, ...] | list[Table]) -> str:
    return "; ".join(f"HDU {t.hdu} {t.name!r}: {', '.join(c.name for c in t.columns)}" for t in tables)


def pixel_column(table: Table, where: str) -> Column | None:
    """Return the column of pixel numbers of a table with explicit indexing."""
    scheme = str(table.value("INDXSCHM") or "").upper()
    if str(table.value("ORDERING") or "").upper() == "NUNIQ" or scheme in ("SPARSE", "MULTI"):
        raise FormatError(f"{where} is a multi-resolution map (NUNIQ); bring it to one nside first.")
    if scheme not in ("", "IMPLICIT", "EXPLICIT"):
        raise FormatError(f"{where}: INDXSCHM is {scheme!r}; IMPLICIT or EXPLICIT expected.")
    named = [c for c in table.columns if c.name.upper() in PIXEL_NAMES and c.code in "BIJK" and c.numeric]
    if scheme == "IMPLICIT":
        return None
    if scheme == "" and str(table.value("OBJECT") or "").upper() != "PARTIAL":
        # Nothing is said: a table with pixel numbers is explicit.
        return named[0] if named else None
    if named:
        return named[0]
    first = table.columns[0] if table.columns else None
    if first is not None and first.code in "IJK" and first.numeric:
        return first  # "the first column holds the pixel numbers", whatever its name
    raise FormatError(
        f"{where} has explicit indexing, but no integer column PIXEL; its columns: "
        f"{', '.join(f'{c.name} ({c.repeat}{c.code})' for c in table.columns)}."
    )


def choose_column(table: Table, pixel: Column | None, choice: str | None, path: str, where: str) -> Column:
    """Return the column of a table that is the map, chosen by name or number, or as the only or conventional one."""
    candidates = [c for c in table.columns if c.numeric and c is not pixel]
    if not candidates:
        raise FormatError(f"{where} has no numeric column beside the pixel numbers.")
    names = [c.name for c in candidates]
    if choice is not None:
        same = [c for c in candidates if c.name == choice]
        same = same or [c for c in candidates if c.name.upper() == choice.upper()]
        same = same or [c for c in candidates if str(c.number) == choice]
        if len(same) == 1:
            return same[0]
        if len(same) > 1:
            numbers = ", ".join(str(c.number) for c in same)
            raise InputError(f"{where} has several columns {choice!r}; choose by number, one of {numbers}.")
        raise InputError(f"{where} has no map column {choice!r}; {nearest(choice, names)}.")
    first = candidates[0]
    if len(candidates) == 1 or first.name.upper() in CONVENTIONAL_FIRST:
        return first
    raise InputError(f'{path!r} holds several maps; choose one as "{path}[COLUMN]": {", ".join(names)}.')


def _nside(table: Table, column: Column, pixel: Column | None, given: int | None, where: str) -> int:
    value = table.value("NSIDE")
    if isinstance(value, str) and value.isdigit():  # some writers quote it
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None:
        if given is not None:
            value = given
        elif pixel is None and is_full_sky(table.rows * column.repeat):
            value = math.isqrt(table.rows * column.repeat // 12)
        else:
            raise FormatError(f"{where} does not say its NSIDE; give `nside`.")
    elif given is not None and given != value:
        raise InputError(f"`nside` {given} came, but the header of {where} says NSIDE = {value}; leave `nside` out.")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or value & (value - 1):
        raise FormatError(f"{where}: NSIDE is {value!r}; a power of two is needed.")
    if value > 2**MAX_ORDER:
        raise FormatError(f"{where}: NSIDE is {value}; the largest possible is 2**{MAX_ORDER}.")
    return value


def _extent(table: Table, column: Column, pixel: Column | None, nside: int, where: str) -> tuple[int, int]:
    """Return the first pixel and the number of pixels; check that the table has as many values."""
    count = table.rows * column.repeat
    npix = 12 * nside**2
    grain = finite_number(table.value("GRAIN"))
    if grain is not None and grain > 1:
        raise FormatError(f"{where}: GRAIN is {grain:g}; tables that list groups of pixels cannot be ingested.")
    if pixel is not None:
        if pixel.repeat != column.repeat:
            raise FormatError(
                f"{where}: a row holds {pixel.repeat} pixel numbers ({pixel.name}) and {column.repeat} values "
                f"({column.name}); as many of both are needed."
            )
        return 0, count
    if count == npix:
        return 0, count
    first, last = finite_number(table.value("FIRSTPIX")), finite_number(table.value("LASTPIX"))
    if first is not None and last is not None and 0 <= first <= last < npix and last - first + 1 == count:
        return int(first), count
    stated = "" if first is None or last is None else f", FIRSTPIX {first:g} and LASTPIX {last:g}"
    raise FormatError(
        f"{where}: column {column.name} has {count} values; NSIDE {nside} needs {npix}{stated}. The map is incomplete, "
        "or the NSIDE wrong, or a column PIXEL with INDXSCHM = 'EXPLICIT' missing."
    )


def is_full_sky(count: int) -> bool:
    """Return whether a number is that of the pixels of some nside."""
    nside = math.isqrt(max(count, 0) // 12)
    return count > 0 and 12 * nside**2 == count and nside & (nside - 1) == 0


def finite_number(value: Any) -> float | None:
    """Return a header value as a number; None where it is none (or not finite)."""
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def said(value: Any) -> str | None:
    """Return the text of a header value; None where it says that it is unknown."""
    text = str(value or "").strip()
    return None if text.upper() in UNKNOWN_WORDS else text
