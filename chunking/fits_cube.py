"""Where the channels of a cube are in FITS files: a map a channel, a column a channel, a vector column, or an image.

Covers: which of these forms a file has, told from its sizes and never guessed where two fit; a description of every
channel as a map (`FitsMap`), so that what reads maps reads cubes; the channels that the header of an image states.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .channels import Channels
from .errors import FormatError, InputError, OrderingError
from .fits_header import Column, Image, Table, is_gzipped, read_images, read_tables
from .fits_map import (
    FACTS,
    FitsMap,
    choose_column,
    choose_table,
    describe,
    finite_number,
    is_full_sky,
    map_of,
    pixel_column,
    said,
    split_address,
)
from .fits_values import UNSEEN

type Path = str | os.PathLike[str]

# How headers write units of velocity, and what they are in km/s.
_VELOCITY_UNITS = {"km/s": 1.0, "kms-1": 1.0, "km.s-1": 1.0, "m/s": 1e-3, "ms-1": 1e-3, "m.s-1": 1e-3}
# Axes along which the velocity grows by the same step (FITS standard 4.0, table 25; AIPS wrote VELO).
_VELOCITY_AXES = ("", "VRAD", "VOPT", "VELO")


@dataclass(frozen=True)
class CubeFile:
    """The channels of a cube, in the order of the files.

    Parameters
    ----------
    maps : tuple of FitsMap
        One a channel.
    form : str
        What the files are, for people.
    stated : Channels, optional
        What the header says of the channels.
    reverse : bool
        Whether the files have them by descending velocity, as far as the header says.
    """

    maps: tuple[FitsMap, ...]
    form: str
    stated: Channels | None = None
    reverse: bool = False


def describe_cube(
    files: Path | Sequence[Path], column: str | Sequence[str] | None, nside: int | None, count: int | None
) -> CubeFile:
    """Return where the channels of a cube are.

    Parameters
    ----------
    files : path or sequence of paths
        One file, or one a channel.
    column : str or sequence of str, optional
        Of one file: the vector column, or the columns that are channels.
    nside : int, optional
        For files that do not tell.
    count : int, optional
        Channels that there must be, where that is known.

    Raises
    ------
    FormatError
        If a file is damaged, or no HEALPix map or cube.
    InputError
        If something has to be chosen, or the number of channels is another one.
    """
    if isinstance(files, str | os.PathLike):
        found = _one_file(files, column, nside, count)
    else:
        found = _many_files(files, column, nside)
    if count is not None and count != len(found.maps):
        raise InputError(
            f"{count} channels are given by their velocities, but there are {len(found.maps)} in {found.form}. Give as "
            'many velocities and widths as channels, or choose columns with column=["A", "B", ...].'
        )
    return found


def _many_files(files: Sequence[Path], column: str | Sequence[str] | None, nside: int | None) -> CubeFile:
    if not files:
        raise InputError("`files` is empty; give one FITS file, or one a channel.")
    if column is not None:
        raise InputError('`column` is for one file; of several, choose the column of each as "file.fits[COLUMN]".')
    tables: dict[str, tuple[Table, ...]] = {}
    maps = tuple(describe(path, nside, tables) for path in files)
    places = [(found.path, found.hdu, found.column.number) for found in maps]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise InputError(f"`files` names column {twice[2]} of HDU {twice[1]} of {twice[0]!r} twice.")
    return CubeFile(maps, f"{len(maps)} files, a channel each" if len(maps) > 1 else f"one map of {maps[0].path!r}")


def _one_file(file: Path, column: str | Sequence[str] | None, nside: int | None, count: int | None) -> CubeFile:
    path, chosen, hdu = split_address(file)
    path = os.path.abspath(os.path.expanduser(path))
    if chosen is not None and column is not None:
        raise InputError(f"`column` {column!r} came, and {chosen!r} in the name of the file; give one of them.")
    column = chosen if column is None else column
    tables, images = read_tables(path), read_images(path)
    if hdu is not None:
        tables = tuple(table for table in tables if hdu == str(table.hdu) or hdu.upper() == table.name.upper())
        images = tuple(image for image in images if hdu == str(image.hdu) or hdu.upper() == image.name.upper())
        if not tables and not images:
            raise InputError(f"{path!r} has no table or image in HDU {hdu!r}.")
    else:
        fitting = tuple(image for image in images if _is_cube(image, nside))
        images = fitting if fitting or tables else images[:1]  # that one is told not to fit
    if column is not None:
        images = ()  # a column is one of a table
    if images and tables and hdu is None:
        listing = ", ".join(str(number) for number in [i.hdu for i in images] + [t.hdu for t in tables])
        raise InputError(f'{path!r} holds images and tables (HDUs {listing}); choose one as "{path}[,HDU]".')
    if len(images) > 1:
        listing = ", ".join(str(image.hdu) for image in images)
        raise InputError(f'{path!r} holds several images (HDUs {listing}); choose one as "{path}[,HDU]".')
    if images:
        return _image(path, images[0], nside, count)
    return _table(path, tables, column, nside, count)


# Tables


def _table(
    path: str, tables: tuple[Table, ...], column: str | Sequence[str] | None, nside: int | None, count: int | None
) -> CubeFile:
    wanted = column if column is None or isinstance(column, str) else next(iter(column), None)
    # Rows of channels are seldom as many numbers as the pixels of a sky, by which a table is known as a map.
    table = tables[0] if len(tables) == 1 else choose_table(path, tables, wanted, None)
    where = f"{path!r}, HDU {table.hdu}"
    pixel = pixel_column(table, where)
    columns = _columns(table, pixel, column, path, where)
    if len(columns) == 1:
        return _vector(path, table, columns[0], pixel, nside, count)
    if count is not None and count != len(columns) and column is None:
        raise InputError(
            f"{where} has {len(columns)} columns of values, {count} channels are given by their velocities; choose the "
            f"columns with column=[...], in the order of the velocities: {', '.join(each.name for each in columns)}."
        )
    maps = tuple(map_of(path, table, each, pixel, nside) for each in columns)
    return CubeFile(maps, f"the columns {columns[0].name} to {columns[-1].name} of {where}")


def _columns(
    table: Table, pixel: Column | None, column: str | Sequence[str] | None, path: str, where: str
) -> list[Column]:
    """Return the columns that hold the channels."""
    if isinstance(column, str):
        return [choose_column(table, pixel, column, path, where)]
    if column is not None:
        chosen = [choose_column(table, pixel, name, path, where) for name in column]
        if not chosen or len({each.number for each in chosen}) < len(chosen):
            raise InputError(f"`column` {list(column)} came; name one or more columns, each once.")
        return chosen
    held = [each for each in table.columns if each.numeric and each is not pixel]
    if not held:
        raise FormatError(f"{where} has no numeric column beside the pixel numbers.")
    if len({each.repeat for each in held}) > 1:
        listing = ", ".join(f"{each.name} ({each.repeat}{each.code})" for each in held)
        raise InputError(f"{where} has columns of several lengths, {listing}; choose with `column`.")
    return held


def _vector(
    path: str, table: Table, column: Column, pixel: Column | None, nside: int | None, count: int | None
) -> CubeFile:
    """Return the channels in one column: those of each row, or one, where rows merely hold many pixels."""
    where = f"{path!r}, HDU {table.hdu}"
    if not _rows_are_pixels(table, column, pixel, nside, count, where):
        one = map_of(path, table, column, pixel, nside)
        return CubeFile((one,), f"column {column.name} of {where}, an ordinary map of nside {one.nside}")
    width = column.dtype.itemsize
    parts = [
        replace(column, name=f"{column.name}[{channel}]", repeat=1, offset=column.offset + channel * width)
        for channel in range(column.repeat)
    ]
    one = map_of(path, table, parts[0], pixel, nside)
    maps = tuple(replace(one, column=part) for part in parts)
    return CubeFile(maps, f"column {column.name} of {where}, whose rows are pixels")


def _rows_are_pixels(
    table: Table, column: Column, pixel: Column | None, nside: int | None, count: int | None, where: str
) -> bool:
    """Return whether a row is a pixel and its elements channels; otherwise all elements of the column are pixels.

    Ordinary maps are often written with 1024 pixels a row; what tells the two apart is the nside, or else the number of
    channels.
    """
    if column.repeat == 1:
        return False
    if pixel is not None:
        return pixel.repeat != column.repeat
    stated = finite_number(table.value("NSIDE"))
    nside = nside if stated is None else int(stated)
    first, last = finite_number(table.value("FIRSTPIX")), finite_number(table.value("LASTPIX"))
    ranged = 0 if first is None or last is None else int(last - first) + 1
    if nside is not None:
        return table.rows in (12 * nside**2, ranged)
    as_rows, as_elements = is_full_sky(table.rows), is_full_sky(table.rows * column.repeat)
    if as_rows and as_elements:
        if count == column.repeat:
            return True
        if count == 1:
            return False
        coarse, fine = math.isqrt(table.rows // 12), math.isqrt(table.rows * column.repeat // 12)
        raise InputError(
            f"{where}, column {column.name}, can be {column.repeat} channels of nside {coarse} or one map of nside "
            f"{fine}: give `nside`."
        )
    return as_rows


# Images


def _is_cube(image: Image, nside: int | None) -> bool:
    if len(image.shape) not in (1, 2):
        return False
    return any(length == 12 * nside**2 if nside else is_full_sky(length) for length in image.shape)


def _image(path: str, image: Image, nside: int | None, count: int | None) -> CubeFile:
    where = f"{path!r}, HDU {image.hdu}"
    along = _pixel_axis(image, nside, count, where)
    shape = image.shape if len(image.shape) == 2 else (1, *image.shape)
    axes = image.axes if len(image.shape) == 2 else (0, *image.axes)
    along = along if len(image.shape) == 2 else 1
    pixels, channels = shape[along], shape[1 - along]
    column = Column(
        name="", number=1, code=image.code, repeat=1, offset=0, unit=str(image.value("BUNIT") or ""),
        null=finite_number(image.value("BLANK")) if image.code in "BIJK" else None,
        scale=_or(finite_number(image.value("BSCALE")), 1.0), zero=_or(finite_number(image.value("BZERO")), 0.0),
    )  # fmt: skip
    bad = (finite_number(image.value("BAD_DATA")), column.null)
    size = column.dtype.itemsize
    row = size if along == 1 else size * channels
    if str(image.value("INDXSCHM") or "IMPLICIT").upper() != "IMPLICIT":
        raise FormatError(f"{where}: INDXSCHM is {image.value('INDXSCHM')!r}; an image has a value for every pixel.")
    if str(image.value("ORDERING") or "").upper() == "NUNIQ":
        raise OrderingError(f"{where} is a multi-resolution map (NUNIQ); bring it to one nside first.")

    first = FitsMap(
        path=path,
        compressed=is_gzipped(path),
        hdu=image.hdu,
        column=column,
        pixel=None,
        nside=math.isqrt(pixels // 12),
        ordering=said(image.value("ORDERING")),
        frame=said(image.value("COORDSYS")),
        unit=said(column.unit),
        first_pixel=0,
        n_pixels=pixels,
        start=image.start,
        row_bytes=row,
        rows=pixels,
        bad_values=tuple(v for v in bad if v is not None and not math.isclose(v, UNSEEN, rel_tol=1e-6)),
        facts={key: image.value(key) for key in FACTS if image.value(key) is not None},
    )

    def channel(number: int) -> FitsMap:
        offset, start = (0, number * pixels * size) if along else (size * number, 0)
        part = replace(column, name=f"channel {number}", number=number + 1, offset=offset)
        return replace(first, column=part, start=image.start + start)

    stated, reverse = _stated(image, axes[1 - along], channels)
    maps = tuple(channel(number) for number in range(channels))
    return CubeFile(maps, f"the image of {where}", stated, reverse)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _pixel_axis(image: Image, nside: int | None, count: int | None, where: str) -> int:
    """Return which axis of an image runs over the pixels."""
    stated = finite_number(image.value("NSIDE"))
    if stated is not None and nside is not None and stated != nside:
        raise InputError(f"`nside` {nside} came, but the header of {where} says NSIDE = {stated:g}; leave it out.")
    known = nside if stated is None else int(stated)
    shape = "x".join(map(str, image.shape))
    found = [
        axis for axis, length in enumerate(image.shape) if (length == 12 * known**2 if known else is_full_sky(length))
    ]
    found = [axis for axis in found if known is None or known & (known - 1) == 0]
    if len(image.shape) not in (1, 2) or not found:
        raise FormatError(
            f"{where} is an image of {shape} pixels; (channel, pixel) with 12 * nside**2 pixels is expected"
            + (f", nside {known}." if known else ".")
        )
    if len(found) > 1:
        # A handful of channels can be as many as the pixels of a tiny sky.
        found = [axis for axis in found if image.shape[1 - axis] == count]
        if len(found) != 1:
            raise InputError(f"{where} is an image of {shape}: either axis could be the pixels; give `nside`.")
    return found[0]


def _stated(image: Image, axis: int, count: int) -> tuple[Channels | None, bool]:
    """Return the channels that the header of an image states in velocities, and whether they descend."""
    if not axis:
        return None, False
    unit = str(image.value(f"CUNIT{axis}") or "").replace(" ", "").lower()
    kind = str(image.value(f"CTYPE{axis}") or "").upper()
    first, step, at = (finite_number(image.value(f"{key}{axis}")) for key in ("CRVAL", "CDELT", "CRPIX"))
    # "VELO-LSR" names the rest frame; "VOPT-F2W" means steps that are not equal, which three numbers do not tell.
    linear = kind.split("-")[0] in _VELOCITY_AXES and "2" not in kind
    if unit not in _VELOCITY_UNITS or not linear or first is None or at is None or not step:
        return None, False
    factor = _VELOCITY_UNITS[unit]
    middles = [factor * (first + (number + 1 - at) * step) for number in range(count)]
    if step < 0:
        middles.reverse()
    return Channels(tuple(middles), (abs(step) * factor,) * count), step < 0


__all__ = ["CubeFile", "describe_cube"]
