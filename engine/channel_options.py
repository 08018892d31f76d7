"""The channels of a cube as a user gives them: velocities and widths, or edges, in the call or in text files.

Nothing is guessed: not a width from the distance of velocities, nor a velocity from the number of a channel.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking.channels import Channels, difference
from ..chunking.errors import InputError, StoreNotFoundError

type Numbers = Sequence[float] | NDArray[np.floating[Any]] | str | os.PathLike[str]
type Edges = Sequence[float] | Sequence[Sequence[float]] | NDArray[np.floating[Any]] | str | os.PathLike[str]

_HOW = "give `velocity` and `width`, or `edges`, of the channels in km/s: lists, or text files with a line for each"


def given_channels(
    velocity: Numbers | None, width: float | Numbers | None, edges: Edges | None
) -> tuple[Channels, bool] | None:
    """Return the channels that are given, and whether they came by descending velocity; None where none are given.

    Parameters
    ----------
    velocity : sequence of float or path, optional
        (channel,) middle of each channel, km/s, or a text file with a line for each; a second column of the file is
        taken as the widths.
    width : float, sequence of float or path, optional
        (channel,) full width of each channel, km/s, or one number for all.
    edges : sequence or path, optional
        n + 1 edges of n channels that touch, or n pairs (low, high), km/s; of a file one or two columns.

    Raises
    ------
    InputError
        If too little, too much, or no channels are given.
    StoreNotFoundError
        If a file does not exist.

    Examples
    --------
    >>> given_channels([5.0, 0.0], 5.0, None)
    (Channels(velocity=(0.0, 5.0), width=(5.0, 5.0)), True)
    """
    if velocity is None and width is None and edges is None:
        return None
    if edges is not None:
        if velocity is not None or width is not None:
            raise InputError("`edges` came beside `velocity` or `width`; one says all: give edges, or the other two.")
        return _from_edges(edges)
    if velocity is None:
        raise InputError(f"`width` came without `velocity`; {_HOW}.")
    middles = _table("velocity", velocity, (1, 2) if width is None else (1,))
    if middles.shape[1] == 2:
        middles, widths = middles[:, :1], middles[:, 1]
    elif width is None:
        raise InputError(f"`velocity` came without `width`, and the widths of channels cannot be guessed; {_HOW}.")
    elif isinstance(width, int | float):
        widths = np.full(len(middles), float(width))
    else:
        widths = _table("width", width, (1,))[:, 0]
    values = middles[:, 0]
    if values.size != widths.size:
        raise InputError(f"{values.size} velocities and {widths.size} widths came; give one of both for each channel.")
    reverse = values.size > 1 and bool((np.diff(values) < 0).all())
    if reverse:
        values, widths = values[::-1], widths[::-1]
    return Channels(tuple(values.tolist()), tuple(widths.tolist())), reverse


def _from_edges(edges: Edges) -> tuple[Channels, bool]:
    if isinstance(edges, str | os.PathLike):
        numbers = _read("edges", edges, (1, 2))
        numbers = numbers[:, 0] if numbers.shape[1] == 1 else numbers
    else:
        try:
            numbers = np.asarray(edges, dtype=np.float64)
        except (TypeError, ValueError):
            return Channels.from_edges(edges), False  # says what is wrong
    middle = numbers if numbers.ndim == 1 else numbers.mean(axis=-1)
    reverse = middle.size > 1 and bool((np.diff(middle) < 0).all())
    return Channels.from_edges((numbers[::-1] if reverse else numbers).tolist()), reverse


def _table(option: str, values: Numbers, columns: tuple[int, ...]) -> NDArray[np.float64]:
    """Return what an option gives, (row, column) float64."""
    if isinstance(values, str | os.PathLike):
        return _read(option, values, columns)
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty((0, 0))
    if numbers.ndim != 1 or not numbers.size:
        raise InputError(f"`{option}` {values!r:.80} came; give one number for each channel, in km/s.")
    return numbers[:, None]


def _read(option: str, path: str | os.PathLike[str], columns: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the numbers of a text file, (row, column) float64: separated by blanks, commas or semicolons."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.split("#")[0].strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise StoreNotFoundError(
            f"`{option}` {os.fspath(path)!r} came, a file that cannot be read ({error}); {_HOW}."
        ) from None
    rows: list[list[float]] = []
    wide = 0
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = [float(word) for word in re.split(r"\s*[,;]\s*|\s+", line)]
        except ValueError:
            if not rows and not wide:  # one line may name the columns
                wide = number
                continue
            raise InputError(f"{os.fspath(path)!r}, line {number}: {line!r:.60} is no row of numbers.") from None
        if len(row) not in columns or (rows and len(row) != len(rows[0])):
            expected = " or ".join(map(str, columns)) if not rows else str(len(rows[0]))
            raise InputError(
                f"{os.fspath(path)!r}, line {number}: {len(row)} numbers came, `{option}` takes {expected} in a line."
            )
        rows.append(row)
    if not rows:
        raise InputError(f"{os.fspath(path)!r} holds no numbers; {_HOW}.")
    return np.array(rows, dtype=np.float64)


def agreed_channels(
    given: tuple[Channels, bool] | None, stated: Channels | None, reverse: bool, form: str, override: bool
) -> tuple[Channels, bool]:
    """Return the channels of a cube and whether its files have them in descending order.

    Parameters
    ----------
    given : tuple, optional
        What `given_channels` returned.
    stated : Channels, optional
        What the header says.
    reverse : bool
        Whether the header says that they descend.
    form : str
        What the files are, for the message.
    override : bool
        Whether what is given counts although the header says something else.

    Raises
    ------
    InputError
        If neither tells, or they disagree.
    """
    if given is None:
        if stated is None:
            raise InputError(f"the velocities of the channels are not known ({form} do not tell them); {_HOW}.")
        return stated, reverse
    if stated is None or override:
        return given
    wrong = difference(given[0], stated)
    if wrong is None and given[1] != reverse and stated.count > 1:
        wrong = "velocities in the opposite order"
    if wrong is not None:
        raise InputError(
            f"{wrong} as the header says is what was given ({form}). Leave the velocities out; or, if the header is "
            'wrong, add override=["velocity"].'
        )
    return given


__all__ = ["agreed_channels", "given_channels"]
