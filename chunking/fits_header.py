"""The structure of a FITS file: its binary tables and images, where they lie and what their bytes mean.

Only headers are read.  Rows are read by `fits_read`, by byte position, because a library that maps or copies whole
columns needs memory of the size of the sky.
"""

from __future__ import annotations

import gzip
import os
import re
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError, StoreNotFoundError

if TYPE_CHECKING:
    from astropy.io import fits

BLOCK = 2880
MAX_HEADER_BLOCKS = 2000  # 72 000 cards: longer "headers" are data of something else
# Bytes of the numeric types of binary tables: FITS standard 4.0, table 18.
TYPES = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
BITPIX = {8: "B", 16: "I", 32: "J", 64: "K", -32: "E", -64: "D"}
OTHER_SIZES = {"L": 1, "A": 1, "C": 8, "M": 16, "P": 8, "Q": 16}


@dataclass(frozen=True)
class Column:
    """One column of a binary table.

    Parameters
    ----------
    name : str
        TTYPE, or "COLUMN_<number>" where the header gives none.
    number : int
        From 1, as FITS counts.
    code : str
        Letter of TFORM.
    repeat : int
        Elements in each row.
    offset : int
        Byte within the row where the column begins.
    unit : str
        TUNIT without surrounding blanks, "" where there is none.
    null : int, optional
        TNULL.
    scale, zero : float
        TSCAL and TZERO.
    """

    name: str
    number: int
    code: str
    repeat: int
    offset: int
    unit: str = ""
    null: float | None = None
    scale: float = 1.0
    zero: float = 0.0

    @property
    def numeric(self) -> bool:
        """Whether the column holds real numbers, at least one in each row."""
        return self.code in TYPES and self.repeat > 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of an element as the file stores it, big-endian."""
        return np.dtype(TYPES[self.code])


@dataclass(frozen=True)
class Table:
    """One binary table of a file: columns, and where its rows are.

    `header` holds the values of all keywords; `end` is the byte after the last row.
    """

    hdu: int
    name: str
    rows: int
    row_bytes: int
    start: int
    columns: tuple[Column, ...]
    header: Mapping[str, Any]

    @property
    def end(self) -> int:
        """The byte after the last row."""
        return self.start + self.rows * self.row_bytes

    def value(self, keyword: str) -> Any:
        """Return a header value, text without surrounding blanks; None where absent or empty."""
        value = self.header.get(keyword)
        if isinstance(value, str):
            return value.strip() or None
        return value


@dataclass(frozen=True)
class Image:
    """One image of a file: `shape` as NumPy orders axes, the first varies slowest; `axes` are their FITS numbers.

    Axes of length 1 are left out.  `header` holds the values of all keywords.
    """

    hdu: int
    name: str
    code: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    start: int
    header: Mapping[str, Any]

    def value(self, keyword: str) -> Any:
        """Return a header value, text without surrounding blanks; None where absent or empty."""
        value = self.header.get(keyword)
        return (value.strip() or None) if isinstance(value, str) else value


def open_bytes(path: str) -> IO[bytes]:
    """Return the file opened for reading its FITS bytes, decompressed on the fly where it is gzipped.

    Raises
    ------
    StoreNotFoundError
        If there is no such file.
    FormatError
        If the file is not FITS.
    """
    if not os.path.isfile(path):
        what = "is a directory" if os.path.isdir(path) else "does not exist"
        raise StoreNotFoundError(f"FITS file {path!r} {what}; give the path of a HEALPix FITS file.")
    if is_gzipped(path):
        return cast(IO[bytes], gzip.open(path, "rb"))
    return open(path, "rb")


def is_gzipped(path: str) -> bool:
    """Return whether the file is gzip-compressed, whatever its name is."""
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def read_exactly(file: IO[bytes], size: int, path: str) -> bytes:
    """Return the next `size` bytes (fewer at the end of the file); damage of the compression is a FormatError."""
    try:
        return file.read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from None


def _damaged(path: str, error: Exception) -> FormatError:
    return FormatError(
        f"{path!r} is truncated or damaged ({error}); fetch it again and compare its size with the archive's."
    )


def read_tables(path: str) -> tuple[Table, ...]:
    """Return the binary tables of a FITS file, in their order.

    Parameters
    ----------
    path : str
        A FITS file, gzip-compressed or not.

    Returns
    -------
    tuple of Table
        Other extensions (images) are left out.

    Raises
    ------
    StoreNotFoundError
        If there is no such file.
    FormatError
        If it is not FITS, damaged, or shorter than its headers say.
    """
    found = [(header, hdu, start) for header, hdu, start in read_headers(path) if _kind(header, hdu) == "BINTABLE"]
    return tuple(_table(header, hdu, start, path) for header, hdu, start in found)


def read_images(path: str) -> tuple[Image, ...]:
    """Return the images of a FITS file that hold data, in their order.

    Parameters
    ----------
    path : str
        A FITS file, gzip-compressed or not.

    Raises
    ------
    StoreNotFoundError, FormatError
        See `read_tables`.
    """
    found = [(header, hdu, start) for header, hdu, start in read_headers(path) if _kind(header, hdu) == "IMAGE"]
    return tuple(_image(header, hdu, start, path) for header, hdu, start in found if header.get("NAXIS"))


def _kind(header: Mapping[str, Any], hdu: int) -> str:
    return "IMAGE" if hdu == 0 else str(header.get("XTENSION", "")).strip()


def _image(header: Mapping[str, Any], hdu: int, start: int, path: str) -> Image:
    lengths = [_whole(header, f"NAXIS{axis}", path, hdu) for axis in range(1, int(header["NAXIS"]) + 1)]
    kept = [axis for axis, length in enumerate(lengths, 1) if length != 1][::-1]
    return Image(
        hdu=hdu,
        name=str(header.get("EXTNAME", "")).strip(),
        code=BITPIX[header["BITPIX"]],
        shape=tuple(lengths[axis - 1] for axis in kept),
        axes=tuple(kept),
        start=start,
        header=header,
    )


def read_headers(path: str) -> list[tuple[dict[str, Any], int, int]]:
    """Return header, number and first byte of the data of each HDU of a FITS file, after checking its length.

    Raises
    ------
    StoreNotFoundError, FormatError
        See `read_tables`.
    """
    found: list[tuple[dict[str, Any], int, int]] = []
    compressed = os.path.isfile(path) and is_gzipped(path)
    with open_bytes(path) as file:
        position, hdu = 0, 0
        while True:
            text, length = _read_header(file, path, hdu)
            if text is None:
                break
            header = _values(text)
            position += length
            data = _data_bytes(header, path, hdu)
            found.append((header, hdu, position))
            # A compressed file is read to its end for this: a missing half is to be noticed before anything is written.
            size = _skip(file, position + data, path) if compressed else os.path.getsize(path)
            if position + data > size:
                raise FormatError(
                    f"{path!r} is truncated: the header of HDU {hdu} promises data up to byte {position + data}, the "
                    f"file ends at {size}; fetch it again."
                )
            position += -(-data // BLOCK) * BLOCK
            _skip(file, position, path)
            hdu += 1
    return found


def _skip(file: IO[bytes], position: int, path: str) -> int:
    """Go to a byte and return where that led: a compressed file cannot go beyond its end."""
    try:
        return file.seek(position)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from None


def _read_header(file: IO[bytes], path: str, hdu: int) -> tuple[str | None, int]:
    """Return the text of the next header and its length in bytes; None at the end of the file."""
    blocks: list[bytes] = []
    while True:
        block = read_exactly(file, BLOCK, path)
        if not blocks:
            expected = b"SIMPLE  =" if hdu == 0 else b"XTENSION="
            if hdu > 0 and not block.startswith(expected):
                return None, 0  # end of file, or the "special records" that may follow the last HDU
            if not block.startswith(expected):
                raise FormatError(
                    f"{path!r} is not a FITS file: it begins with {block[:16]!r}, a FITS file with 'SIMPLE  ='."
                )
        if len(block) < BLOCK or len(blocks) >= MAX_HEADER_BLOCKS:
            raise FormatError(f"{path!r} is truncated or damaged: the header of HDU {hdu} has no END; fetch it again.")
        blocks.append(block)
        if any(block[card : card + 80].rstrip() == b"END" for card in range(0, BLOCK, 80)):
            return b"".join(blocks).decode("latin-1"), len(blocks) * BLOCK


def _values(text: str) -> dict[str, Any]:
    """Return the keyword values of a header; keywords whose value cannot be read are left out."""
    from astropy.io import fits

    values: dict[str, Any] = {}
    # Archives hold many files with cards that break some rule; what cannot be parsed is as good as absent, and what
    # is needed and absent is an error later, with its name.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header: fits.Header = fits.Header.fromstring(text)
        for card in header.cards:
            try:
                keyword, value = card.keyword, card.value
            except (fits.VerifyError, ValueError):
                continue
            if keyword and not isinstance(value, fits.card.Undefined):
                values.setdefault(keyword, value)
    return values


def _whole(header: Mapping[str, Any], keyword: str, path: str, hdu: int) -> int:
    value = header.get(keyword)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise FormatError(f"{path!r}, HDU {hdu}: keyword {keyword} is {value!r}; a whole number from 0 is needed.")
    return value


def _data_bytes(header: Mapping[str, Any], path: str, hdu: int) -> int:
    """Return the bytes of the data after a header, without padding (FITS standard 4.0, equation 2)."""
    axes = _whole(header, "NAXIS", path, hdu)
    if axes == 0:
        return 0
    elements = 1
    for axis in range(1, axes + 1):
        elements *= _whole(header, f"NAXIS{axis}", path, hdu)
    groups = _whole({"GCOUNT": 1, **header}, "GCOUNT", path, hdu)
    extra = _whole({"PCOUNT": 0, **header}, "PCOUNT", path, hdu)
    if header.get("BITPIX") not in (8, 16, 32, 64, -32, -64):
        raise FormatError(f"{path!r}, HDU {hdu}: BITPIX is {header.get('BITPIX')!r}; the header is damaged.")
    return int(abs(header["BITPIX"]) // 8 * groups * (extra + elements))


def _table(header: Mapping[str, Any], hdu: int, start: int, path: str) -> Table:
    row_bytes = _whole(header, "NAXIS1", path, hdu)
    columns = []
    offset = 0
    for number in range(1, _whole(header, "TFIELDS", path, hdu) + 1):
        form = str(header.get(f"TFORM{number}", "")).strip()
        match = re.fullmatch(r"(\d*)([LXBIJKAEDCMPQ])(.*)", form)
        if match is None:
            raise FormatError(f"{path!r}, HDU {hdu}: TFORM{number} is {form!r}, which is no format of a binary table.")
        repeat, code = int(match[1] or 1), match[2]
        numbers = {key: header.get(f"{key}{number}") for key in ("TNULL", "TSCAL", "TZERO")}
        for key, value in numbers.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise FormatError(f"{path!r}, HDU {hdu}: {key}{number} is {value!r}, which is no number.")
        columns.append(
            Column(
                name=str(header.get(f"TTYPE{number}", "")).strip() or f"COLUMN_{number}",
                number=number,
                code=code,
                repeat=repeat,
                offset=offset,
                unit=str(header.get(f"TUNIT{number}", "")).strip(),
                null=numbers["TNULL"],
                scale=1.0 if numbers["TSCAL"] is None else float(numbers["TSCAL"]),
                zero=0.0 if numbers["TZERO"] is None else float(numbers["TZERO"]),
            )
        )
        if code == "X":
            offset += -(-repeat // 8)
        else:
            offset += repeat * (np.dtype(TYPES[code]).itemsize if code in TYPES else OTHER_SIZES[code])
    if offset != row_bytes:
        raise FormatError(
            f"{path!r}, HDU {hdu}: the columns add up to {offset} bytes a row, NAXIS1 says {row_bytes}; "
            "the header is damaged."
        )
    return Table(
        hdu=hdu,
        name=str(header.get("EXTNAME", "")).strip(),
        rows=_whole(header, "NAXIS2", path, hdu),
        row_bytes=row_bytes,
        start=start,
        columns=tuple(columns),
        header=header,
    )


def elements(rows: NDArray[np.uint8], column: Column) -> NDArray[Any]:
    """Return the elements of one column from whole rows, (row * repeat,) in the column's stored type.

    Parameters
    ----------
    rows : ndarray
        (row, row_bytes) uint8, as in the file.
    column : Column
        Which.
    """
    width = column.repeat * column.dtype.itemsize
    piece = np.ascontiguousarray(rows[:, column.offset : column.offset + width])
    return piece.view(column.dtype).reshape(-1)
