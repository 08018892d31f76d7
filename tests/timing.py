"""What benchmarks share: medians, a table that is printed and kept, and skies large enough to time."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from skies import BANDS
from skymill.chunking import store as stores
from skymill.chunking.schema import MapInfo
from skymill.engine.worker import available_cores

FOLDER = Path(os.environ.get("SKYMILL_BENCH_RESULTS", Path(__file__).parent / "benchmarks" / "results"))
REPEATS = int(os.environ.get("SKYMILL_BENCH_REPEATS", "3"))


def median_seconds(
    work: Callable[[], object], repeats: int = REPEATS, before: Callable[[], object] | None = None
) -> float:
    """Return the median wall time of some work, `before` not counted."""
    times = []
    for _ in range(repeats):
        if before is not None:
            before()
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[object]], notes: Sequence[str] = ()) -> None:
    """Print a table and keep it as JSON and Markdown beside the benchmarks."""
    cells = [[_text(value) for value in row] for row in rows]
    widths = [max(len(line[k]) for line in [list(header), *cells]) for k in range(len(header))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |"
        for line in [list(header), ["-" * width for width in widths], *cells]
    ]
    machine = f"{available_cores()} cores, {platform.machine()}, Python {platform.python_version()}"
    text = "\n".join([f"### {title}", "", *lines, "", *[f"- {note}" for note in notes], f"- measured on {machine}"])
    print("\n" + text + "\n")
    FOLDER.mkdir(parents=True, exist_ok=True)
    name = "".join(letter if letter.isalnum() else "-" for letter in title.lower()).strip("-")
    (FOLDER / f"{name}.md").write_text(text + "\n")
    known = {"title": title, "machine": machine, "header": list(header), "rows": [list(row) for row in rows]}
    (FOLDER / f"{name}.json").write_text(json.dumps({**known, "notes": list(notes)}, indent=1) + "\n")


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def dusty_sky(path: Path | str, nside: int, names: Sequence[str] = BANDS) -> str:
    """Write a full sky that compresses like a noisy dust map: a smooth field in a tile, 2 % of noise on it."""
    where = str(path)
    stores.create(where, nside, frame="galactic")
    stores.create_maps(where, [MapInfo(name, "intensity", "MJy/sr", band=name) for name in names])
    grid = stores.tiling_of(where)
    walk = np.cumsum(np.random.default_rng(0).normal(0.0, 0.01, grid.tile_npix)).astype(np.float32)

    def fill(tile: int) -> None:
        for number, name in enumerate(names):
            noise = np.random.default_rng((number, tile)).standard_normal(grid.tile_npix, dtype=np.float32)
            level = np.float32(10.0 / (1 + number) * (1 + tile % 7))
            stores.write_tile(where, name, tile, np.exp(walk) * level * (1 + np.float32(0.02) * noise))

    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(fill, range(grid.n_tiles)))
    return where
