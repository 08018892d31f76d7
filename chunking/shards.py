"""Chunks read straight from the shards of a local store: what zarr would return, without its ceremony.

Zarr hands every read to one event loop of the process, so that threads wait for each other; here each thread reads and
decodes by itself.  Only shards that are just what this package writes are read this way (`Shards.of` returns None
otherwise), and tests hold the values to those of zarr.

A shard is its compressed chunks in any order, then an index: start and length of every chunk, little-endian unsigned
64-bit numbers, all ones for a chunk that is not stored; then the CRC32C of these, 4 bytes.  The chunks of a cube are
indexed channel by channel.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc
from numpy.typing import NDArray

from . import objects

_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
_CHECKSUM_BYTES = 4
_NOT_STORED = np.uint64(2**64 - 1)
_HEADER_BYTES = 16  # of what blosc writes; bytes 4 to 7 are the size of what it holds


@dataclass(frozen=True)
class Shards:
    """How the shards of one map are made.

    Parameters
    ----------
    folder : str
        Where they are.
    dtype : dtype
        Of the values, little-endian.
    fill : float or int
        Value of what is not stored.
    chunk, shard : int
        Pixels of a chunk, and of a shard.
    channels : int
        Of a cube, 0 for a map: a shard has all of them, a chunk one.
    """

    folder: str
    dtype: np.dtype[Any]
    fill: Any
    chunk: int
    shard: int
    channels: int = 0

    @classmethod
    def of(cls, where: str, name: str, array: zarr.Array[Any]) -> Shards | None:
        """Return how the shards of a map are made, or None where zarr is to read them.

        Parameters
        ----------
        where : str
            Address of the store.
        name : str
            Of the map.
        array : zarr.Array
            The map.
        """
        metadata: Any = array.metadata.to_dict()
        codecs = metadata.get("codecs", [])
        if not objects.is_local(where) or [each["name"] for each in codecs] != ["sharding_indexed"]:
            return None
        made = codecs[0]["configuration"]
        inner = list(made["codecs"])
        index = [{key: value for key, value in each.items() if value} for each in made["index_codecs"]]
        ours = [each["name"] for each in inner] == ["bytes", "blosc"] and made.get("index_location", "end") == "end"
        if not ours or index != _INDEX_CODECS or metadata["chunk_key_encoding"]["name"] != "default":
            return None
        if np.dtype(array.dtype).itemsize > 1 and inner[0]["configuration"]["endian"] != "little":
            return None
        assert array.shards is not None
        kind = np.dtype(array.dtype).newbyteorder("<")
        *depth, chunk = (int(length) for length in made["chunk_shape"])
        *layers, shard = (int(length) for length in array.shards)
        if (depth, layers) == ([], []):
            return cls(f"{where}/{name}/c", kind, array.fill_value, chunk, shard)
        if (depth, layers) == ([1], list(array.shape[:-1])):
            return cls(f"{where}/{name}/c/0", kind, array.fill_value, chunk, shard, channels=layers[0])
        return None

    def read(self, start: int, stop: int, channels: range | None = None) -> NDArray[Any] | None:
        """Return the pixels [start, stop), or None where they do not begin and end with a chunk.

        Parameters
        ----------
        start, stop : int
            First pixel, and the one behind the last.
        channels : range, optional
            Of a cube: which channels, all by default; what is returned is (channel, cells) then.

        Raises
        ------
        ValueError, RuntimeError
            If what is stored there is damaged.
        """
        if start % self.chunk or stop % self.chunk or stop <= start:
            return None
        wanted = range(max(1, self.channels)) if channels is None else channels
        values = np.empty((len(wanted), stop - start), dtype=self.dtype)
        for shard in range(start // self.shard, -(-stop // self.shard)):
            first, last = max(start, shard * self.shard), min(stop, (shard + 1) * self.shard)
            self._read_shard(shard, first - shard * self.shard, wanted, values[:, first - start : last - start])
        return values if self.channels else values[0]

    def _read_shard(self, shard: int, begin: int, wanted: range, values: NDArray[Any]) -> None:
        """Read pixels of one shard, from its pixel `begin` on, in place: a row of values for each wanted channel."""
        try:
            file = os.open(f"{self.folder}/{shard}", os.O_RDONLY)
        except FileNotFoundError:
            values[:] = self.fill
            return
        try:
            index = self._index(file)
            for row, place in itertools.product(range(len(wanted)), range(0, values.shape[1], self.chunk)):
                into = values[row, place : place + self.chunk]
                offset, length = index[wanted[row], (begin + place) // self.chunk]
                if offset == _NOT_STORED and length == _NOT_STORED:
                    into[:] = self.fill
                    continue
                content = os.pread(file, int(length), int(offset))
                if len(content) != length or length < _HEADER_BYTES:
                    raise ValueError(f"a chunk of {length} bytes ends after {len(content)}")
                if int.from_bytes(content[4:8], "little") != into.nbytes:
                    raise ValueError("a chunk holds another number of bytes than its pixels take")
                blosc.decompress(content, into)
        finally:
            os.close(file)

    def _index(self, file: int) -> NDArray[np.uint64]:
        layers = max(1, self.channels)
        size = 16 * layers * (self.shard // self.chunk)
        end = os.fstat(file).st_size
        content = os.pread(file, size + _CHECKSUM_BYTES, max(0, end - size - _CHECKSUM_BYTES))
        stated = int.from_bytes(content[size:], "little")
        if len(content) != size + _CHECKSUM_BYTES or google_crc32c.value(content[:size]) != stated:
            raise ValueError("the index of the shard does not fit its checksum")
        return np.frombuffer(content[:size], "<u8").reshape(layers, -1, 2)
