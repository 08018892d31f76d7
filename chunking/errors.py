"""Every error that skymill raises on purpose, each also the builtin a user would catch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SkymillError(Exception):
    """Base of all errors raised on purpose; the command line prints it as one message."""

    def __str__(self) -> str:
        # KeyError would print the message's repr, quotes and all.
        return str(self.args[0]) if self.args else ""


class InputError(SkymillError, ValueError):
    """An argument that cannot be used as given."""


class UnitError(InputError):
    """A unit that is missing, unknown, or cannot be converted."""


class FrameError(InputError):
    """A celestial frame that is missing, unknown, or differs from the store's."""


class OrderingError(InputError):
    """A pixel ordering that is missing, unknown, or contradicts the file."""


class MissingMapError(SkymillError, KeyError):
    """A map that the store does not hold."""


class StoreNotFoundError(SkymillError, FileNotFoundError):
    """A store, file or model that is not where the address says."""


class FormatError(SkymillError, ValueError):
    """Something stored that is damaged, of another format version, or not ours."""


class IdentityError(SkymillError, FileExistsError):
    """An output that another run (other model, inputs or parameters) has made."""


class MemoryLimitError(SkymillError, MemoryError):
    """A plan whose tasks do not fit into the memory of a worker."""


class RunError(SkymillError, RuntimeError):
    """A run that could not finish; running the same command again continues it."""


class DiskFullError(RunError, OSError):
    """A run stopped because nothing more could be written."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the sentence that helps after an unknown name.

    Parameters
    ----------
    name : str
        What came.
    known : iterable of str
        What would have been understood.

    Returns
    -------
    str
        Names the closest known name, if one is close, and lists all of them.

    Examples
    --------
    >>> nearest("i16O", ["i160", "i250"])
    "did you mean 'i160'? Known: i160, i250"
    """
    names = sorted(str(k) for k in known)
    listing = "Known: " + (", ".join(names) if names else "none")
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}? {listing}" if close else listing
