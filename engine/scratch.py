"""What the stages of a transform hand to each other: large objects made of parts, written once, read part by part.

Covers: objects with digests, in a folder or below a prefix of an object store.
Does not cover: what the parts are (`transform.py`), and where scratch space goes (`transpose.py`).
"""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Buffer, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from ..chunking import objects
from ..chunking.errors import FormatError

_ENTRY = np.dtype([("start", "<u8"), ("size", "<u8"), ("digest", "<u8")])
_DIGEST_BYTES = 8

SUFFIX = ".scratch"  # of the folder beside a store
DONE = "done"
ALL = "all"  # in place of a number: the stage is finished


def done_key(stage: str, number: int | str) -> str:
    """Return the key of the note that a step of a stage is done; it lies apart, and outlives what the step wrote."""
    return f"{DONE}/{stage}/{number}.json"


class Scratch(Protocol):
    """Where the stages of a transform put what the next stage reads."""

    def write(self, key: str, parts: Iterable[NDArray[Any]]) -> None:
        """Write an object whole or not at all."""

    def read(self, key: str, part: int, of: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return one of the `of` parts of an object, flat; empty where nothing was written for it."""

    def note(self, key: str, facts: dict[str, Any]) -> None:
        """Keep a few facts: that a step is done, and what came of it."""

    def noted(self, key: str) -> dict[str, Any] | None:
        """Return the facts, or None where none were kept."""

    def remove(self, prefix: str = "") -> None:
        """Remove everything below a prefix."""


@dataclass(frozen=True)
class FolderScratch:
    """Scratch space in a folder, or below a prefix of an object store.

    At the end of every object stands an index: start, bytes and digest of each part, and a digest of the index.

    Parameters
    ----------
    where : str
        Address of the folder.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     scratch = FolderScratch(folder)
    ...     scratch.write("stage/field/0", [np.arange(3.0), np.arange(2.0)])
    ...     scratch.read("stage/field/0", 1, 2, np.dtype(float))
    array([0., 1.])
    """

    where: str

    def write(self, key: str, parts: Iterable[NDArray[Any]]) -> None:
        """Write an object whole or not at all, one part after the other."""
        objects.put_parts(self.where, key, _with_index(parts))

    def read(self, key: str, part: int, of: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return one of the `of` parts of an object, flat; empty where nothing was written for it.

        Raises
        ------
        FormatError
            If the object is lost or damaged; it counts as not made then, so that the next run makes it again.
        """
        length = of * _ENTRY.itemsize + _DIGEST_BYTES
        index = objects.get_range(self.where, key, -length, length)
        if index is None:
            raise self._damaged(key, "is lost", lost=True)
        entries = index[:-_DIGEST_BYTES]
        if len(index) != length or digest_of(entries) != int.from_bytes(index[-_DIGEST_BYTES:], "little"):
            raise self._damaged(key, "is cut short, or its index is damaged")
        entry = np.frombuffer(entries, _ENTRY)[part]
        size = int(entry["size"])
        if size == 0:
            return np.empty(0, dtype=dtype)
        content = objects.get_range(self.where, key, int(entry["start"]), size)
        if content is None or len(content) != size or digest_of(content) != int(entry["digest"]):
            raise self._damaged(key, f"does not hold part {part} as it was written")
        return np.frombuffer(content, dtype=dtype)

    def _damaged(self, key: str, what: str, *, lost: bool = False) -> FormatError:
        # A key is stage/field/number; without its note the step counts as not done.  An object is lost where somebody
        # cleaned up, or where a step is done again whose sources were not needed any more: then all begins anew.
        stage, _, number = key.split("/")
        for note in [DONE] if lost else [done_key(stage, ALL), done_key(stage, number)]:
            with contextlib.suppress(OSError):  # another task may just be noting something there
                objects.delete_prefix(self.where, note)
        return FormatError(
            f"{key} in the scratch space {self.where} {what}. Run the same command again; it makes it again."
        )

    def note(self, key: str, facts: dict[str, Any]) -> None:
        """Keep a few facts."""
        objects.put(self.where, key, json.dumps(facts).encode())

    def noted(self, key: str) -> dict[str, Any] | None:
        """Return the facts, or None where none were kept."""
        content = objects.get(self.where, key)
        return None if content is None else dict(json.loads(content))

    def remove(self, prefix: str = "") -> None:
        """Remove everything below a prefix."""
        try:
            objects.delete_prefix(self.where, prefix)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # another process, at the same run, writes on
                raise
        if not prefix and objects.is_local(self.where):
            above = Path(self.where).parent
            if above.suffix == SUFFIX:  # ours, beside a store; it may hold what another run left
                with contextlib.suppress(OSError):
                    above.rmdir()


def digest_of(content: Buffer) -> int:
    """Return the digest of some bytes."""
    return xxhash.xxh3_64_intdigest(content)


def bytes_of(part: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an array as bytes, (byte,) uint8, copied only where it is not in one piece."""
    return np.ascontiguousarray(part).reshape(-1).view(np.uint8)


def _with_index(parts: Iterable[NDArray[Any]]) -> Iterator[Buffer]:
    entries = []
    start = 0
    for part in parts:
        content = bytes_of(part)
        entries.append((start, content.size, digest_of(content)))
        start += content.size
        if content.size:
            yield content.data
    index = np.array(entries, dtype=_ENTRY).tobytes()
    yield index
    yield digest_of(index).to_bytes(_DIGEST_BYTES, "little")
