"""What the verb `ingest` sends to the workers: which columns are read together, and the kernel that reads a tile."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..chunking.fits_map import FitsMap
from ..chunking.fits_read import read_tile, tile_memory
from ..chunking.fits_settle import Settled
from ..chunking.fits_spool import assemble, spool, touched_tiles, unpack
from ..chunking.fits_values import as_codes, statistics
from ..chunking.schema import kind_of
from ..chunking.tiling import Tiling
from .mapping import STATISTICS


@dataclass(frozen=True)
class Source:
    """Columns of one table that are read together, and the maps that they become."""

    names: tuple[str, ...]
    maps: tuple[FitsMap, ...]
    ordering: str
    scratch: str | None  # folder of the sorted rows, or path of the unpacked file

    @property
    def explicit(self) -> bool:
        """Whether the table lists pixel numbers."""
        return self.maps[0].pixel is not None


@dataclass(frozen=True)
class IngestKernel:
    """Reads one tile of every map from the files."""

    sources: tuple[Source, ...]
    tiling: Tiling

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Return the tile of every map that has a value there, and the statistics of all."""
        outputs: dict[str, Any] = {}
        counted: dict[str, Any] = {}
        for source in self.sources:
            if source.explicit:
                assert source.scratch is not None
                values = assemble(Path(source.scratch), len(source.maps), self.tiling, tile)
                infinite = [0] * len(values)
            else:
                maps = source.maps
                if source.scratch is not None:
                    maps = tuple(replace(described, path=source.scratch) for described in maps)
                values, infinite = read_tile(maps, source.ordering, self.tiling, tile)
            for name, found, endless in zip(source.names, values, infinite, strict=True):
                counted[name] = statistics(found, endless)
                if not counted[name]["count"]:
                    continue
                outputs[name] = as_codes(found, name) if kind_of(name).dtype == "uint8" else found
        outputs[STATISTICS] = counted
        return outputs


def group_sources(described: Mapping[str, FitsMap], settled: Mapping[str, Settled], folder: Path) -> tuple[Source, ...]:
    """Return the maps grouped by the table that they come from."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, found in described.items():
        groups.setdefault((found.path, found.hdu, found.pixel, settled[name].ordering), []).append(name)
    files = sorted({found.path for found in described.values()})
    sources = []
    for number, (key, names) in enumerate(groups.items()):
        maps = tuple(described[name] for name in names)
        place: str | None = None
        if maps[0].pixel is not None:
            place = str(folder / f"table-{number}")
        elif maps[0].compressed:
            place = str(folder / f"file-{files.index(maps[0].path)}.fits")
        sources.append(Source(tuple(names), maps, key[3], place))
    return tuple(sources)


def observed(sources: Sequence[Source], tiling: Tiling) -> list[int]:
    """Return the tiles in which any of the maps can have a value."""
    found: set[int] = set()
    for source in sources:
        first = source.maps[0]
        if source.explicit:
            found.update(touched_tiles(first, source.ordering, tiling))
        elif source.ordering == "nested":
            last = first.first_pixel + first.n_pixels - 1
            found.update(range(first.first_pixel // tiling.tile_npix, last // tiling.tile_npix + 1))
        else:
            return list(range(tiling.n_tiles))
    return sorted(found)


def kernel_memory(sources: Sequence[Source], tiling: Tiling) -> dict[str, int]:
    """Return the bytes that the kernel needs beside the tiles that it makes."""
    parts: dict[str, int] = {"statistics": 5 * tiling.tile_npix}
    for source in sources:
        if source.explicit:
            needed = {"listed pixels": (12 + 4 * len(source.maps)) * tiling.tile_npix}
        else:
            needed = tile_memory(source.maps, source.ordering, tiling)
        for part, size in needed.items():
            parts[part] = max(parts.get(part, 0), size)
    return parts


def fill_scratch(sources: Sequence[Source], tiling: Tiling, folder: Path) -> dict[str, int]:
    """Fill the scratch folder; return the number of infinite values of the maps that are only listed in a table."""
    endless: dict[str, int] = {}
    if all(source.scratch is None for source in sources):
        return endless
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
    folder.mkdir(parents=True)
    ends: dict[str, tuple[str, int]] = {}
    for source in sources:
        if source.scratch is None:
            continue
        if source.explicit:
            place = Path(source.scratch)
            place.mkdir()
            endless.update(zip(source.names, spool(source.maps, source.ordering, tiling, place), strict=True))
        else:
            end = max(*(described.end for described in source.maps), ends.get(source.scratch, ("", 0))[1])
            ends[source.scratch] = (source.maps[0].path, end)
    for target, (path, end) in ends.items():
        unpack(path, end, Path(target))
    return endless
