"""Scratch space in the memory of Dask workers: what a stage hands on goes from worker to worker, to no disk at all.

On every worker lives an actor that holds objects; which one holds an object follows from its key.  Tasks talk to the
actors themselves, so neither client nor scheduler sees more than notes.  An actor answers in a thread of its own:
a worker whose only thread waits for another one still answers.  (Results of tasks kept on workers would be one entry
for each part in the scheduler, tens of thousands of them; an actor is one.)

What is held is lost with its worker, or when the client goes: such a run ends with an error, and begins anew.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import FormatError, RunError
from .scratch import bytes_of, digest_of
from .worker import workers_of

if TYPE_CHECKING:
    from distributed import Client

# Parts go out in messages of about this size: few enough of them, and little memory in each.
MESSAGE_BYTES = 16_000_000
PATIENCE_SECONDS = 120.0  # how long an answer may take; a worker that is gone is noticed sooner

type Part = tuple[NDArray[np.uint8], int]


class Holder:
    """What one worker holds; an actor, whose methods Dask calls one after the other."""

    def __init__(self) -> None:
        self._objects: dict[str, list[Part]] = {}
        self._begun: dict[str, tuple[str, list[Part]]] = {}
        self._notes: dict[str, str] = {}

    def add(self, key: str, writer: str, parts: list[Part], last: bool) -> None:
        """Take parts of an object; it is there with its last one, and what another writer began is dropped."""
        known, held = self._begun.get(key, ("", []))
        if known != writer:
            held = []
        # A copy, for what came may be a piece of something larger that would stay with it.
        held += [(np.array(content), digest) for content, digest in parts]
        if last:
            self._begun.pop(key, None)
            self._objects[key] = held
        else:
            self._begun[key] = (writer, held)

    def part(self, key: str, number: int, of: int) -> Part | None:
        """Return a part and its digest, or None where no such object of so many parts is held."""
        held = self._objects.get(key, [])
        return held[number] if len(held) == of else None

    def note(self, key: str, facts: str) -> None:
        """Keep a note."""
        self._notes[key] = facts

    def noted(self, key: str) -> str | None:
        """Return a note, or None."""
        return self._notes.get(key)

    def remove(self, prefix: str) -> None:
        """Let go of everything below a prefix."""
        known: dict[str, Any]
        for known in (self._objects, self._begun, self._notes):
            for key in [key for key in known if key.startswith(prefix)]:
                del known[key]

    def held_bytes(self) -> int:
        """Return how many bytes are held."""
        every = [*self._objects.values(), *(held for _, held in self._begun.values())]
        return sum(content.size for held in every for content, _ in held)


class ClusterScratch:
    """Scratch space in the memory of the workers of a cluster; see `scratch.Scratch`.

    Parameters
    ----------
    holders : sequence of (str, str)
        Address of each worker, and the key of the actor there.
    kept : sequence, optional
        Futures of the actors.  The client alone has them; when it lets them go, so do the workers.
    """

    def __init__(self, holders: Iterable[tuple[str, str]], kept: Iterable[Any] = ()) -> None:
        self.holders = tuple(holders)
        self._kept = tuple(kept)

    @classmethod
    def of(cls, client: Client) -> ClusterScratch:
        """Return new scratch space on the workers that a cluster has now.

        Raises
        ------
        RunError
            If they do not answer.
        """
        addresses = sorted(known["address"] for known in workers_of(client))
        kept = [
            client.submit(Holder, actor=True, pure=False, workers=[address], key=f"skymill-holder-{uuid4().hex}")
            for address in addresses
        ]
        try:
            for future in kept:
                future.result(timeout=PATIENCE_SECONDS)
        except Exception as error:
            raise RunError(
                f"the workers of the Dask cluster cannot hold scratch space ({type(error).__name__}: {error}). "
                'Give `scratch`, a folder that all of them see, or transpose="store".'
            ) from error
        return cls(zip(addresses, (str(future.key) for future in kept), strict=True), kept)

    def __reduce__(self) -> tuple[type[ClusterScratch], tuple[Any, ...]]:
        return ClusterScratch, (self.holders,)

    def write(self, key: str, parts: Iterable[NDArray[Any]]) -> None:
        """Write an object whole or not at all, some parts after the other."""
        place, writer = self._place(key), uuid4().hex
        waiting: list[Part] = []
        size = 0
        for part in parts:
            content = bytes_of(part)
            if waiting and size + content.size > MESSAGE_BYTES:
                self._ask(place, "add", key, writer, waiting, False)
                waiting, size = [], 0
            waiting.append((content, digest_of(content)))
            size += content.size
        self._ask(place, "add", key, writer, waiting, True)

    def read(self, key: str, part: int, of: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return one of the `of` parts of an object, flat; empty where nothing was written for it.

        Raises
        ------
        FormatError
            If the object is not there or damaged.
        """
        found = self._ask(self._place(key), "part", key, part, of)
        if found is None or digest_of(found[0]) != found[1]:
            what = "is not held" if found is None else f"does not hold part {part} as it was written"
            raise FormatError(f"{key} in the memory of the workers {what}. Run the same command again.")
        values = np.frombuffer(found[0], dtype=dtype)
        values.flags.writeable = False  # in a cluster within this process it is the very array that is held
        return values

    def note(self, key: str, facts: dict[str, Any]) -> None:
        """Keep a few facts."""
        self._ask(self._place(key), "note", key, json.dumps(facts))

    def noted(self, key: str) -> dict[str, Any] | None:
        """Return the facts, or None where none were kept."""
        content = self._ask(self._place(key), "noted", key)
        return None if content is None else dict(json.loads(content))

    def remove(self, prefix: str = "") -> None:
        """Remove everything below a prefix."""
        for place in range(len(self.holders)):
            with contextlib.suppress(RunError):  # whoever is gone holds nothing
                self._ask(place, "remove", prefix)

    def held_bytes(self) -> list[int]:
        """Return how many bytes each worker holds."""
        return [self._ask(place, "held_bytes") for place in range(len(self.holders))]

    def _place(self, key: str) -> int:
        """Return which worker holds an object: those of a stage go round, so that all hold about as much."""
        series, _, number = key.rpartition("/")
        turn = int(number) if number.isdecimal() else zlib.crc32(number.encode())
        return (zlib.crc32(series.encode()) + turn) % len(self.holders)

    def _ask(self, place: int, method: str, *arguments: Any) -> Any:
        from distributed import get_worker

        try:
            worker = get_worker()
        except ValueError:
            worker = None
        try:
            if worker is None:
                # The client knows what became of its actors, and asks by way of the scheduler.
                return getattr(self._kept[place].result(PATIENCE_SECONDS), method)(*arguments).result(PATIENCE_SECONDS)
            return _ask_from(worker, *self.holders[place], method, arguments)
        except (OSError, RuntimeError, TimeoutError, KeyError, CancelledError) as error:
            raise RunError(
                f"the worker {self.holders[place][0]} of the Dask cluster, which held results of a stage in its "
                f"memory, is lost ({type(error).__name__}: {error}). Run the same command again: it begins anew. "
                "Where workers may be lost, give `scratch`, a folder that all of them see: then a run goes on."
            ) from error


def _ask_from(worker: Any, address: str, actor: str, method: str, arguments: tuple[Any, ...]) -> Any:
    """Return what an actor answers to a task.

    By the call that Dask's own proxy of an actor makes; that proxy waits for ever on a worker that is gone, as inside
    a task it never learns so.
    """
    from distributed.protocol.serialize import to_serialize
    from distributed.utils import sync

    async def execute() -> Any:
        return await worker.rpc(address).actor_execute(
            function=method, actor=actor, args=[to_serialize(argument) for argument in arguments]
        )

    answer = sync(worker.loop, execute, callback_timeout=PATIENCE_SECONDS)
    if answer["status"] != "OK":
        raise answer["exception"]
    return answer["result"]
