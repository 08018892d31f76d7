"""Beams as functions of degree: Gaussian of a width, from a text file, or as given; and the kernel between two widths.

Covers: beams that are the same in all directions, b_l, 1 at ell 0 as a rule.  Does not cover: elliptic beams, and
windows of power, which are the squares of these.
"""

from __future__ import annotations

import math
from os import PathLike, fspath
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..chunking.errors import FormatError, InputError, StoreNotFoundError

Floats = NDArray[np.float64]

_ARCMIN = math.pi / (180 * 60)
# FWHM = sqrt(8 ln 2) sigma.
_SIGMAS = math.sqrt(8 * math.log(2))


def gaussian_beam(fwhm: float, lmax: int) -> Floats:
    """Return the transform of a Gaussian of integral 1: (ell,) float64, exp(-l (l + 1) sigma^2 / 2).

    Parameters
    ----------
    fwhm : float
        Full width at half maximum, in radian; 0 is a beam that changes nothing.
    lmax : int
        Last degree.

    Returns
    -------
    numpy.ndarray
        lmax + 1 numbers, from 1 at ell 0 down.

    Raises
    ------
    InputError
        If the width is negative or not finite, is so large that it can only be meant in arcmin, or `lmax` is negative.

    Notes
    -----
    White & Srednicki 1995, ApJ 443, 6; the form that healpy uses.

    Examples
    --------
    >>> import math
    >>> gaussian_beam(math.radians(1), 200)[[0, 100, 200]].round(4).tolist()
    [1.0, 0.7577, 0.3315]
    """
    _check_lmax(lmax)
    if not (math.isfinite(fwhm) and fwhm >= 0):
        raise InputError(f"`fwhm` {fwhm} came; a width is a finite number, 0 or more, in radian.")
    if fwhm > 2 * math.pi:
        raise InputError(f"`fwhm` {fwhm:g} came, more than a circle in radian; was it meant in arcmin?")
    ell = np.arange(lmax + 1.0)
    beam: Floats = np.exp(-0.5 * ell * (ell + 1) * (fwhm / _SIGMAS) ** 2)
    return beam


def difference_fwhm(begins: float, ends: float) -> float:
    """Return the width of the Gaussian that turns one Gaussian beam into a wider one: sqrt(ends^2 - begins^2).

    Parameters
    ----------
    begins : float
        FWHM of the beam that the map has, in any unit.
    ends : float
        FWHM that it shall have, in the same unit.

    Returns
    -------
    float
        FWHM of the kernel, in that unit; 0 where the two are equal.

    Raises
    ------
    InputError
        If a width is negative or not finite, or the second is below the first: no smoothing sharpens a map.

    Examples
    --------
    >>> difference_fwhm(4, 5)
    3.0
    """
    for name, width in (("begins", begins), ("ends", ends)):
        if not (math.isfinite(width) and width >= 0):
            raise InputError(f"`{name}` {width} came; a width is a finite number, 0 or more.")
    if ends < begins:
        raise InputError(
            f"a beam of {begins:g} came, and one of {ends:g} is wanted; smoothing only widens. "
            f"Give a width of {begins:g} or more."
        )
    # The product form keeps the digits where the two are nearly equal.
    return math.sqrt((ends - begins) * (ends + begins))


def read_beam(path: str | PathLike[str], lmax: int) -> Floats:
    r"""Return a beam from a text file: (ell,) float64.

    Parameters
    ----------
    path : str or path
        Two columns, ell and b_l, with ell 0, 1, 2, ...; or one column, b_l from ell 0 on.  Columns are separated by
        blanks or a comma; empty lines, and what follows a #, are passed over.
    lmax : int
        Last degree wanted; the file may go further.

    Returns
    -------
    numpy.ndarray
        lmax + 1 numbers.

    Raises
    ------
    StoreNotFoundError
        If there is no such file.
    FormatError
        If it is not such a text: another number of columns, something that is no finite number, or a degree left out.
    InputError
        If it ends before `lmax`, or `lmax` is negative.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "beam.txt"
    ...     _ = path.write_text("# ell b_l\n0 1.0\n1 0.99\n2 0.97\n")
    ...     read_beam(path, 1).tolist()
    [1.0, 0.99]
    """
    _check_lmax(lmax)
    name = fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"{name} is not text; a beam is read from text with columns ell and b_l.") from None
    except (FileNotFoundError, NotADirectoryError):
        raise StoreNotFoundError(f"no file {name}; give the path of a text with columns ell and b_l.") from None
    except OSError as error:
        raise InputError(f"{name} cannot be read as a beam ({error.strerror}); give the path of a text file.") from None
    if text.startswith("SIMPLE  ="):
        raise FormatError(f"{name} is FITS; write the columns ell and b_l of its table as text.")
    values: list[float] = []
    columns = 0
    for number, line in enumerate(text.splitlines(), 1):
        cells = line.partition("#")[0].replace(",", " ").split()
        if not cells:
            continue
        columns = columns or len(cells)
        values.append(_value(cells, columns, len(values), f"{name}, line {number}"))
    if not values:
        raise FormatError(f"{name} holds no numbers; columns ell and b_l were expected.")
    return _cut(np.array(values), lmax, name)


def beam_of(beam: float | str | PathLike[str] | ArrayLike, lmax: int) -> Floats:
    """Return a beam given in any of the ways that users give one: (ell,) float64.

    Parameters
    ----------
    beam : float, str, path or array_like
        FWHM of a Gaussian in arcmin; or a text file, see `read_beam`; or b_l itself, (ell,) from ell 0 to lmax or on.
    lmax : int
        Last degree.

    Returns
    -------
    numpy.ndarray
        lmax + 1 numbers.

    Raises
    ------
    StoreNotFoundError, FormatError
        Of `read_beam`.
    InputError
        If the width is negative or the array has another shape, ends before `lmax`, or holds what is not finite.

    Examples
    --------
    >>> beam_of(5.0, 2000)[[0, 1000, 2000]].round(4).tolist()
    [1.0, 0.8262, 0.4661]
    >>> beam_of([1.0, 0.9, 0.8], 1).tolist()
    [1.0, 0.9]
    """
    if isinstance(beam, (str, PathLike)):
        return read_beam(beam, lmax)
    try:
        array = np.asarray(beam)
        if array.dtype.kind not in "iuf":
            raise TypeError
        array = array.astype(np.float64)
    except (TypeError, ValueError):
        text = repr(beam)
        raise InputError(
            f"beam {text if len(text) <= 80 else text[:77] + '...'} came; give an FWHM in arcmin, the name of a "
            "text file with columns ell and b_l, or an array of b_l from ell 0 on."
        ) from None
    if array.ndim == 0:
        width = float(array)
        if not (math.isfinite(width) and width >= 0):
            raise InputError(f"a beam of {width} arcmin came; an FWHM is a finite number, 0 or more.")
        if width > 360 * 60:
            raise InputError(f"a beam of {width:g} arcmin came, more than a circle; give its FWHM in arcmin.")
        return gaussian_beam(width * _ARCMIN, lmax)
    if array.ndim != 1:
        raise InputError(f"a beam of shape {array.shape} came; one dimension (ell,) from ell 0 on is expected.")
    _check_lmax(lmax)
    wrong = np.flatnonzero(~np.isfinite(array))
    if wrong.size:
        raise InputError(f"a beam came that is {array[wrong[0]]} at ell {wrong[0]}; finite numbers are expected.")
    return _cut(array, lmax, "the beam")


def _check_lmax(lmax: int) -> None:
    if lmax < 0:
        raise InputError(f"`lmax` {lmax} came; degrees begin with 0.")


def _value(cells: list[str], columns: int, ell: int, where: str) -> float:
    """Return b_l of one line, the `ell`-th that holds numbers."""
    if len(cells) != columns or columns > 2:
        expected = "one column, b_l, or two, ell and b_l, were" if columns > 2 else f"{columns} as in the lines above"
        raise FormatError(f"{where}: {len(cells)} columns; {expected} expected.")
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        raise FormatError(f"{where}: {' '.join(cells)!r} is no number; put # before what is not data.") from None
    if not math.isfinite(numbers[-1]):
        raise FormatError(f"{where}: b_l is {cells[-1]}; finite numbers are expected.")
    if columns == 2 and numbers[0] != ell:
        raise FormatError(f"{where}: ell {cells[0]}, where {ell} was expected; list every ell from 0, b_l second.")
    return numbers[-1]


def _cut(beam: Floats, lmax: int, name: str) -> Floats:
    if beam.size <= lmax:
        raise InputError(
            f"{name} ends at ell {beam.size - 1}, and ell {lmax} is wanted; give more of it, or a smaller lmax."
        )
    return beam[: lmax + 1].copy()
