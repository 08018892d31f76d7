"""Correlations of maps with one another: Pearson, Spearman and Kendall, exact, for all pairs.

Ranks need all pixels of a map at once, so the pixels are gathered: one pass over the tiles brings those where all
maps have a value, and everything after that is O(n log n) a pair.  `max_pixels` bounds what is gathered.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError, MemoryLimitError, nearest
from .arguments import checked
from .coefficients import coefficients, spread_evenly
from .figures import save
from .figures_correlation import correlation_figure, hierarchical_order
from .plan import RESERVED_BYTES, Plan, Run
from .records import write_text
from .reducing import reduce_tiles
from .report import Page, make_directory, plain
from .worker import Worker, format_bytes, parse_bytes

KINDS = ("pearson", "spearman", "kendall")
FEWEST_PIXELS = 3
# Measured at 1.2 million pixels of five maps: a value itself and four more arrays while ranks are correlated, and
# what one pair takes a pixel.
_BYTES_A_VALUE = 8 + 32
_BYTES_A_PAIR_PIXEL = 48

type Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Correlations:
    """Coefficients of all pairs of maps.

    Parameters
    ----------
    maps : tuple of str
        Names, in the order of rows and columns.
    pixels : int
        Pixels that went in.
    available : int
        Pixels where all maps have a value; more than `pixels` where `max_pixels` was given.
    divide_by : str or None
        Map that all others were divided by.
    pearson, spearman, kendall : (map, map) float64
        Coefficients; Kendall's is tau-b.
    directory : str or None
        Where the report is.
    """

    maps: tuple[str, ...]
    pixels: int
    available: int
    divide_by: str | None
    pearson: Floats
    spearman: Floats
    kendall: Floats
    directory: str | None = None

    def order(self, kind: str = "spearman") -> tuple[str, ...]:
        """Return the names in the hierarchical order of one kind of coefficient."""
        if kind not in KINDS:
            raise InputError(f"`kind` {kind!r} came; {nearest(kind, KINDS)}.")
        return tuple(self.maps[place] for place in hierarchical_order(getattr(self, kind))[0])

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON-able values."""
        return {
            "maps": list(self.maps),
            "pixels": self.pixels,
            "available": self.available,
            "divide_by": self.divide_by,
            **{kind: getattr(self, kind).tolist() for kind in KINDS},
            "order": {kind: list(self.order(kind)) for kind in KINDS},
        }

    def to_json(self) -> str:
        """Return everything as JSON."""
        return json.dumps(plain(self.as_dict()), indent=2, allow_nan=False)

    def __str__(self) -> str:
        width = max(len(name) for name in self.maps)
        divided = f", all divided by {self.divide_by}" if self.divide_by else ""
        lines = [f"correlations over {self.pixels:,} of {self.available:,} pixels{divided}"]
        lines.append(f"{'pair':<{2 * width + 3}}  " + "  ".join(f"{kind:>8}" for kind in KINDS))
        for i, j in itertools.combinations(range(len(self.maps)), 2):
            pair = f"{self.maps[i]} / {self.maps[j]}"
            lines.append(f"{pair:<{2 * width + 3}}  " + "  ".join(f"{getattr(self, k)[i, j]:8.4f}" for k in KINDS))
        return "\n".join(lines)


@dataclass(frozen=True)
class _Gather:
    """Kernel: the values of a tile's pixels that all maps have, or only how many there are.

    Parameters
    ----------
    maps : tuple of str
    divide_by, mask : str or None
    chosen : mapping of int to (int, int, int), optional
        By tile: pixels before it, pixels of the whole sky, pixels wanted; without it all are taken.
    count_only : bool
    """

    maps: tuple[str, ...]
    divide_by: str | None
    mask: str | None
    chosen: Mapping[int, tuple[int, int, int]] | None = None
    count_only: bool = False

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> tuple[tuple[int, Any], ...]:
        used = np.ones(inputs[self.maps[0]].size, bool)
        for name in self.maps:
            used &= np.isfinite(inputs[name])
        if self.divide_by is not None:
            used &= np.isfinite(inputs[self.divide_by]) & (inputs[self.divide_by] != 0)
        if self.mask is not None:
            used &= inputs[self.mask] == 0
        places = np.flatnonzero(used)
        if self.count_only:
            return ((tile, places.size),)
        if self.chosen is not None:
            places = places[spread_evenly(*self.chosen[tile], places.size)]
        values = np.stack([inputs[name][places].astype(np.float64) for name in self.maps])
        if self.divide_by is not None:
            values /= inputs[self.divide_by][places].astype(np.float64)
        return ((tile, values),)


@checked
def correlate(
    store: stores.StoreAddress,
    maps: Sequence[str],
    *,
    divide_by: str | None = None,
    mask: str | None = None,
    max_pixels: int | None = None,
    out_dir: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[Correlations]:
    """Return a plan whose run gives the correlation coefficients of all pairs of maps.

    Pixels count where every map has a value.  Pearson's, Spearman's and Kendall's (tau-b) coefficients are exact
    over the pixels taken.

    Parameters
    ----------
    store : str or path
        The sky store.
    maps : sequence of str
        At least two maps; `divide_by` among them is left out, since it would be constant.
    divide_by : str, optional
        Map that all others are divided by, for example "i160" to compare colours instead of brightness.
    mask : str, optional
        Map that is 0 where a pixel may be used.
    max_pixels : int, optional
        Take at most so many, spread evenly over the pixels there are (in NESTED order); default all.
    out_dir : path, optional
        Folder for `correlations.json`, one ordered heat map a coefficient (PNG) and `index.html`.
    threads : int, optional
        Tasks, and then pairs, that this process works on at once; default all of its cores.
    memory : int or str, optional
        What this process may use, such as "4GB"; default all there is.

    Returns
    -------
    Plan of Correlations

    Raises
    ------
    MissingMapError
        If the store does not hold a map.
    InputError
        If fewer than two maps are left, or (when run) fewer than three pixels, or a map is constant.
    MemoryLimitError
        When run, if the pixels do not fit into memory; the message says which `max_pixels` does.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("dust", folder + "/sky.zarr", 16, seed=1).run()
    ...     found = sm.correlate(folder + "/sky.zarr", ["i250", "i350", "i500"], divide_by="i160").run()
    ...     found.kendall.shape, found.pixels
    ((3, 3), 3072)
    """
    where = stores.address(store)
    if isinstance(maps, str):
        raise InputError(f"`maps` {maps!r} came as one name; give a list of at least two.")
    names = tuple(dict.fromkeys(name for name in maps if name != divide_by))
    extra = tuple(name for name in (divide_by, mask) if name is not None)
    stores.require_maps(where, (*names, *extra))
    if len(names) < 2:
        raise InputError(f"`maps` {', '.join(names) or 'nothing'} came; a correlation needs at least two maps.")
    if mask is not None and mask in names:
        raise InputError(f"map {mask!r} came both in `maps` and as `mask`; it is 0 wherever it is used.")
    if max_pixels is not None and max_pixels < FEWEST_PIXELS:
        raise InputError(f"`max_pixels` {max_pixels} came; give at least {FEWEST_PIXELS}.")
    worker = Worker.here(threads, parse_bytes(memory))
    tiling = stores.tiling_of(where)
    sought = (*names, *((divide_by,) if divide_by else ()))
    tiles = stores.observed_tiles(where, sought)
    most = len(tiles) * tiling.tile_npix
    gathered = min(most, max_pixels or most)
    reads = (*names, *extra)
    tile_bytes = {
        "inputs": 4 * tiling.tile_npix * len(reads),
        "values": 8 * tiling.tile_npix * (len(names) + 2),
    }

    def execute(run: Run) -> Correlations:
        if out_dir is not None:
            make_directory(out_dir)  # now, not after all pixels are gathered
        # On a cluster too the coefficients are computed by this process; its own plan knows of no cluster.
        here = worker if run.client is not None else run.worker
        values, available = _gathered(where, names, divide_by, mask, max_pixels, tiles, gathered, run, here)
        if values.shape[1] < FEWEST_PIXELS:
            raise InputError(
                f"{values.shape[1]} pixels of {where} have a value in all of {', '.join(sought)}"
                f"{f' where {mask} is 0' if mask else ''}; a correlation needs {FEWEST_PIXELS}. "
                "Leave out the map with little coverage."
            )
        for name, row in zip(names, values, strict=True):
            if row.min() == row.max():
                divided = f" divided by {divide_by}" if divide_by else ""
                raise InputError(f"map {name!r}{divided} is constant over these pixels; leave it out of `maps`.")
        found = Correlations(
            names,
            values.shape[1],
            available,
            divide_by,
            *coefficients(values, here.threads),
            directory=None if out_dir is None else os.fspath(out_dir),
        )
        if out_dir is not None:
            write_report(found, out_dir)
        return found

    notes = [f"gathers at most {gathered:,} pixels of {len(names)} maps: {format_bytes(_needed(gathered, names))}"]
    return Plan(
        "correlate",
        where if out_dir is None else os.fspath(out_dir),
        execute,
        worker,
        todo=tiles,
        n_tiles=tiling.n_tiles,
        read_bytes=4 * len(reads) * most * (1 if gathered == most else 2),
        memory=tile_bytes,
        notes=notes,
    )


def _needed(pixels: int, names: Sequence[str], threads: int = 1) -> int:
    return pixels * (_BYTES_A_VALUE * len(names) + _BYTES_A_PAIR_PIXEL * threads)


def _gathered(
    where: str,
    names: tuple[str, ...],
    divide_by: str | None,
    mask: str | None,
    max_pixels: int | None,
    tiles: Sequence[int],
    most: int,
    run: Run,
    here: Worker,
) -> tuple[Floats, int]:
    """Return (map, pixel) values, and how many pixels there were to choose from."""
    reads = (*names, *(name for name in (divide_by, mask) if name is not None))

    def go(kernel: _Gather, label: str) -> tuple[tuple[int, Any], ...]:
        return reduce_tiles(
            kernel,
            store=where,
            names=reads,
            merge=lambda left, right: left + right,
            initial=(),
            tiles=tiles,
            client=run.client,
            threads=run.worker.threads,
            progress=run.progress,
            label=label,
        )

    allowed = here.memory - RESERVED_BYTES
    chosen: dict[int, tuple[int, int, int]] | None = None
    available: int | None = None
    # Counting first costs a second pass, so only where there is something to choose or to refuse.
    if max_pixels is not None or _needed(most, names, here.threads) > allowed:
        counts = dict(go(_Gather(names, divide_by, mask, count_only=True), "count"))
        available = sum(counts.values())
        wanted = min(available, max_pixels or available)
        if _needed(wanted, names, here.threads) > allowed:
            fits = max(0, allowed) // _needed(1, names, here.threads)
            raise MemoryLimitError(
                f"correlate gathers {wanted:,} pixels of {len(names)} maps, which takes "
                f"{format_bytes(_needed(wanted, names, here.threads))}; this process has {format_bytes(here.memory)}. "
                f"max_pixels={fits} fits."
            )
        before = 0
        chosen = {}
        for tile in tiles:
            chosen[tile] = (before, available, wanted)
            before += counts[tile]
    parts = [part for _, part in go(_Gather(names, divide_by, mask, chosen), "correlate")]
    values = np.concatenate(parts, axis=1) if parts else np.empty((len(names), 0))
    return values, values.shape[1] if available is None else available


def write_report(found: Correlations, out_dir: str | os.PathLike[str]) -> Path:
    """Write `correlations.json`, a heat map a coefficient and `index.html`; return the page."""
    folder = make_directory(out_dir)
    divided = f"maps divided by {found.divide_by}; " if found.divide_by else ""
    subtitle = f"{divided}{found.pixels:,} pixels"
    page = Page("Correlation of maps", subtitle)
    for kind in KINDS:
        title = {"pearson": "Pearson", "spearman": "Spearman", "kendall": "Kendall tau-b"}[kind]
        name = f"correlation_{kind}.png"
        save(correlation_figure(getattr(found, kind), found.maps, kind=title, subtitle=subtitle), folder / name)
        page.heading(title)
        page.figure(
            name,
            f"{title} coefficients, ordered by average linkage of the rows' Euclidean distances.",
            width=min(900, 240 + 70 * len(found.maps)),
        )
        order = found.order(kind)
        places = [found.maps.index(name) for name in order]
        matrix = getattr(found, kind)
        rows = [[found.maps[i], *(f"{matrix[i, j]:.4f}" for j in places)] for i in places]
        page.table(["", *order], rows)
    write_text(folder / "correlations.json", found.to_json())
    write_text(folder / "index.html", page.html())
    return folder / "index.html"
