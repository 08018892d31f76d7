"""What the stages of a transform hand to each other: large objects made of parts, written once, read part by part.

Covers: objects with digests, in a folder or below a prefix of an object store.
Does not cover: what the parts are (`transform.py`), and where scratch space goes (`transpose.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from ..chunking import objects
from ..chunking.errors import FormatError

_ENTRY = np.dtype([("start", "<u8"), ("size", "<u8"), ("digest", "<u8")])


def done_key(stage: str, number: int | str) -> str:
    """Return the key of the note that a step of a stage is done."""
    return f"{stage}/done/{number}.json"


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

    At the end of every object stands an index: start, bytes and digest of each part.

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
            If the object is lost or damaged; it is removed then, so that the next run makes it again.
        """
        length = of * _ENTRY.itemsize
        index = objects.get_range(self.where, key, -length, length)
        if index is None or len(index) != length:
            raise self._damaged(key, "is lost" if index is None else "is cut short")
        entry = np.frombuffer(index, _ENTRY)[part]
        size = int(entry["size"])
        if size == 0:
            return np.empty(0, dtype=dtype)
        content = objects.get_range(self.where, key, int(entry["start"]), size)
        if content is None or len(content) != size or xxhash.xxh3_64_intdigest(content) != int(entry["digest"]):
            raise self._damaged(key, f"does not hold part {part} as it was written")
        return np.frombuffer(content, dtype=dtype)

    def _damaged(self, key: str, what: str) -> FormatError:
        # A key is stage/field/number; without its note the step counts as not done.
        stage, _, number = key.split("/")
        objects.delete_prefix(self.where, done_key(stage, number))
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
        objects.delete_prefix(self.where, prefix)
        if not prefix and objects.is_local(self.where) and os.path.isdir(self.where):
            os.rmdir(self.where)


def _with_index(parts: Iterable[NDArray[Any]]) -> Iterator[memoryview]:
    entries = []
    start = 0
    for part in parts:
        content = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
        entries.append((start, content.size, xxhash.xxh3_64_intdigest(content)))
        start += content.size
        if content.size:
            yield content.data
    yield np.array(entries, dtype=_ENTRY).view(np.uint8).data
