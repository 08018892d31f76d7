"""What the verb `ingest_cube` sends to the workers: the kernel that reads a tile of all channels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking.fits_read import read_tile
from ..chunking.fits_spool import assemble
from ..chunking.fits_values import statistics
from ..chunking.tiling import Tiling
from .ingest_kernel import Source
from .mapping import STATISTICS


@dataclass(frozen=True)
class CubeKernel:
    """Reads one tile of all channels of a cube from the files.

    Parameters
    ----------
    name : str
        The cube.
    channels : int
        How many it has.
    sources : tuple of Source
        Where they are; the names of the maps of a source are the numbers of their channels.
    tiling : Tiling
        Of the store.
    """

    name: str
    channels: int
    sources: tuple[Source, ...]
    tiling: Tiling

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Return the tile, (channel, cells) float32, if any channel has a value there, and its statistics."""
        values = np.empty((self.channels, self.tiling.tile_npix), dtype=np.float32)
        counted: list[Mapping[str, float | int]] = [{}] * self.channels
        for source in self.sources:
            into = [values[int(channel)] for channel in source.names]
            if source.explicit:
                assert source.scratch is not None
                assemble(Path(source.scratch), len(source.maps), self.tiling, tile, into)
                infinite = [0] * len(into)
            else:
                maps = source.maps
                if source.scratch is not None:
                    maps = tuple(replace(described, path=source.scratch) for described in maps)
                _, infinite = read_tile(maps, source.ordering, self.tiling, tile, into)
            for channel, row, endless in zip(source.names, into, infinite, strict=True):
                counted[int(channel)] = statistics(row, endless)
        together = joined(counted)
        return {STATISTICS: together, **({self.name: values} if together["count"] else {})}


def joined(parts: Sequence[Mapping[str, float | int]]) -> dict[str, Any]:
    """Return the statistics of a tile of a cube from those of its channels, with the count of each channel.

    Parameters
    ----------
    parts : sequence of mapping
        What `statistics` returned for the channels.
    """
    found = [part for part in parts if part["count"]]
    result: dict[str, Any] = {key: sum(int(part[key]) for part in parts) for key in ("count", "missing", "infinite")}
    if found:
        result["minimum"] = min(part["minimum"] for part in found)
        result["maximum"] = max(part["maximum"] for part in found)
        result["sum"] = math.fsum(part["sum"] for part in found)
    result["channel_counts"] = [int(part["count"]) for part in parts]
    return result
