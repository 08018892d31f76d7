"""The ledger: which tiles of a map are finished, with a digest of what was written, and by which run.

Beside every map `NAME` of a store stands the array `ledger/NAME`: one unsigned 64-bit number a tile, each in a chunk
of its own, so that a task ticks it with one atomic write after its data.  0 means not done, 1 finished with nothing
to store, anything else is the digest of the tile's values.  Its attributes hold the identity of the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from ..chunking import columns, objects
from ..chunking import store as stores
from ..chunking.errors import FormatError, IdentityError, InputError
from ..chunking.schema import MapInfo
from ..chunking.store import address, create_maps, delete_map, forget_open_arrays, open_group

NOT_DONE = 0
NOTHING_STORED = 1

type Verify = Literal["always", "once"]

# Tiles that this process has held against the ledger, and what ledger and shard were then.
_VERIFIED: dict[tuple[str, str, int], tuple[int, tuple[int, int]]] = {}


def digest_of(values: NDArray[Any]) -> int:
    """Return the 64-bit digest of a tile's values; never 0 or 1, which mean something else."""
    return max(2, xxhash.xxh3_64_intdigest(np.ascontiguousarray(values).view(np.uint8)))


def identity_of(facts: Mapping[str, Any]) -> str:
    """Return the identity of a run: a digest of all the facts that determine its bytes."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def tick(store: str, name: str, tile: int, digest: int) -> None:
    """Record a tile as finished: one small object, which is what the chunk of the array is."""
    objects.put(address(store), f"ledger/{name}/c/{tile}", int(digest).to_bytes(8, "little"))


def tick_many(store: str, name: str, tiles: Sequence[int], digest: int) -> None:
    """Record many tiles as finished with one and the same digest."""
    for tile in tiles:
        tick(store, name, tile, digest)


def entry(store: str, name: str, tile: int) -> int:
    """Return what the ledger says of one tile; an entry that is no number counts as not done."""
    content = objects.get(address(store), f"ledger/{name}/c/{tile}")
    return int.from_bytes(content, "little") if content is not None and len(content) == 8 else NOT_DONE


def column(store: str, name: str) -> NDArray[np.uint64] | None:
    """Return the whole ledger of a map, (tile,) uint64, or None where the map has none."""
    return columns.read_column(store, name)


def read_held(
    store: str,
    name: str,
    start: int,
    stop: int,
    *,
    channels: slice | None = None,
    verify: Verify = "always",
) -> NDArray[Any]:
    """Return the pixels [start, stop) of a map, held against its ledger where a run of ours made it.

    Neither Zarr nor the compressor notices a flipped bit in a shard, and a lost shard reads as "no value"; the ledger
    tells both.  Whole tiles are held against their digest, parts of tiles only tell whether the shard is there.

    Parameters
    ----------
    store, name
        The map, or a cube, whose values are (channel, cells).
    start, stop : int
        First pixel, and the one behind the last.
    channels : slice, optional
        Of a cube: which channels, all by default.
    verify : {"always", "once"}
        How often a process holds the digest of a tile against the ledger: "once" is for who reads the same tiles many
        times.  A shard or a ledger that has changed since is looked at again.

    Raises
    ------
    FormatError
        If what is stored there is not what the ledger says, or cannot be decoded.
    """
    where = address(store)
    values = stores.read_cells(where, name, start, stop, channels)
    length = stores.tile_length(where, name)
    whole = values.ndim == 1 or values.shape[0] == stores.channel_count(where, name)
    for tile in range(start // length, -(-stop // length)):
        recorded = entry(where, name, tile)
        if recorded in (NOT_DONE, NOTHING_STORED):
            continue
        first, last = tile * length - start, (tile + 1) * length - start
        if whole and first >= 0 and last <= stop - start:
            right = _holds(where, name, tile, recorded, values[..., first:last], verify)
        else:
            right = stores.is_stored(where, name, tile)
        if not right:
            raise FormatError(
                f"tile {tile} of map {name!r} in {where} does not hold what was written there: the shard is damaged or "
                "lost. Run the command that made the map again; it mends what is damaged."
            )
    return values


def _holds(where: str, name: str, tile: int, recorded: int, values: NDArray[Any], verify: Verify) -> bool:
    """Return whether a tile has the digest that is recorded."""
    if verify == "always":
        return digest_of(values) == recorded
    place, state = (where, name, tile), (recorded, objects.tag(where, stores.tile_key(where, name, tile)))
    if _VERIFIED.get(place) != state:
        if digest_of(values) != recorded:
            return False
        _VERIFIED[place] = state
    return True


def identity(store: str, name: str) -> tuple[str, dict[str, Any]] | None:
    """Return identity and facts of the run that makes a map, or None where no run of ours does."""
    known = columns.column_attributes(store, name)
    return None if known is None else (str(known["identity"]), dict(known["facts"]))


def begin(store: str, maps: Sequence[MapInfo], facts: Mapping[str, Any], *, overwrite: bool) -> None:
    """Make the template: every map, empty, and its ledger; what this same run has begun is left as it is.

    Raises
    ------
    IdentityError
        If a map is there that another run made, unless `overwrite`.
    """
    check(store, maps, facts, overwrite=overwrite)
    mine = identity_of(facts)
    group = open_group(store, mode="r+")
    for made in maps:
        # In this order: another process may be at the same, and it makes the ledger before the map.
        held = made.name in group
        known = identity(store, made.name)
        if known is None or known[0] != mine:
            if held or known is not None:
                _remove(store, made.name, known is not None)
            try:
                columns.create_column(store, made.name, {"identity": mine, "facts": dict(facts), "finished": False})
            except IdentityError:  # another process was faster; at the same run, the two share it
                check(store, [made], facts, overwrite=False)
        if made.name not in group:
            try:
                create_maps(store, [made])
            except IdentityError:
                check(store, [made], facts, overwrite=False)
    forget_open_arrays()


def _remove(store: str, name: str, recorded: bool) -> None:
    """Remove a map; killed in the middle, no run takes what is left for its own."""
    if recorded:
        columns.set_column_attributes(store, name, {"identity": "", "facts": {"verb": "a removal that was stopped"}})
    delete_map(store, name)


def check(store: str, maps: Sequence[MapInfo], facts: Mapping[str, Any], *, overwrite: bool) -> None:
    """Raise IdentityError where `begin` would, without writing anything."""
    if overwrite:
        return
    mine = identity_of(facts)
    group = open_group(store)
    for made in maps:
        known = identity(store, made.name)
        if known is None and made.name in group:
            raise IdentityError(
                f"map {made.name!r} is in {address(store)} and was not made by a run of skymill; choose another name, "
                "or overwrite=True (--overwrite) to replace it."
            )
        if known is not None and known[0] != mine:
            raise IdentityError(
                f"map {made.name!r} in {address(store)} was made by another run ({_difference(known[1], facts)}); "
                "choose another name or store, or overwrite=True (--overwrite) to replace it."
            )


def _difference(there: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """Return the first few facts in which two runs differ, as words."""
    found: list[str] = []
    for key in sorted({*there, *now}):
        old, new = there.get(key), now.get(key)
        if json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found.append(_difference(old, new, f"{prefix}{key}."))
        else:
            found.append(f"{prefix}{key} was {_short(old)}, is {_short(new)}")
    return "; ".join(found[:4])


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def set_finished(store: str, names: Sequence[str], finished: bool) -> None:
    """Record whether the runs that make some maps have come to their end, last checks included."""
    for name in names:
        known = columns.column_attributes(store, name)
        assert known is not None
        if known.get("finished", False) == finished:
            continue  # a run that only verifies writes nothing, so that it works on a store that is read-only
        columns.set_column_attributes(store, name, {**known, "finished": finished})


def is_finished(store: str, name: str) -> bool:
    """Return whether the run that makes a map has come to its end; a map that no run of ours makes is finished."""
    known = columns.column_attributes(store, name)
    return known is None or bool(known.get("finished", False))


def map_digest(store: str, name: str) -> str:
    """Return a digest of the content of a map, for the identity of whatever is made from it.

    The content is the numbers and what they mean: the frame, the unit, the value of pixels that are not stored, and the
    velocity channels of a cube.  The same numbers in another unit, or of another part of the sky, are another map.

    Raises
    ------
    FormatError
        If the run that makes the map has not finished.
    InputError
        If the store does not hold the map.
    """
    where = address(store)
    array: Any = open_group(where).get(name)
    if array is None:
        raise InputError(f"map {name!r} in {where} has neither metadata nor data.")
    meaning = [stores.frame_of(where), array.attrs.get("units"), str(array.dtype), repr(array.fill_value)]
    if array.ndim > 1:
        meaning.append(repr(stores.channels_of(where)))
    digest = hashlib.blake2b(repr(meaning).encode(), digest_size=16)
    ledger = column(store, name)
    if ledger is None:
        # Not made by a run of ours: names, sizes and version tags of its objects stand for the content.
        digest.update(repr(sorted(objects.listing(where, f"{name}/"))).encode())
        return digest.hexdigest()
    missing = int(np.count_nonzero(ledger == NOT_DONE))
    if missing:
        raise FormatError(
            f"map {name!r} in {where} is unfinished: {missing} of {ledger.size} tiles are missing. Run the command "
            "that makes it again; it does only what is missing."
        )
    if not is_finished(where, name):
        raise FormatError(
            f"map {name!r} in {where} is unfinished: all its tiles are there, but the run that makes it was stopped "
            "before its last checks. Run the command that makes it again."
        )
    digest.update(ledger.tobytes())
    return digest.hexdigest()
