"""Small skies and kernels for tests; a module of its own, so that worker processes can import it."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skymill.chunking import store as stores
from skymill.chunking.schema import MapInfo

BANDS = ("i160", "i250", "i350", "i500")
INTENSITY = MapInfo("total", "intensity", "MJy/sr")


def make_sky(path: Path | str, nside: int = 32, names: tuple[str, ...] = BANDS, *, holes: bool = True) -> str:
    """Write a small sky of positive noise, optionally with an unobserved tile and some missing pixels."""
    where = str(path)
    stores.create(where, nside, frame="galactic")
    stores.create_maps(where, [MapInfo(name, "intensity", "MJy/sr", band=name) for name in names])
    grid = stores.tiling_of(where)
    for number, name in enumerate(names):
        for tile in range(grid.n_tiles):
            if holes and tile == 5:
                continue
            values = np.random.default_rng((number, tile)).lognormal(2.0, 1.0, grid.tile_npix).astype(np.float32)
            if holes and tile == 2:
                values[::7] = np.nan
            stores.write_tile(where, name, tile, values)
    return where


def write_map(path: Path | str, nside: int, ring: NDArray[Any], name: str = "a", **about: Any) -> str:
    """Write a map given in RING order into a store, made if it is not there; return the store's address."""
    where = str(path)
    stores.create(where, nside, frame="galactic")
    stores.create_maps(where, [MapInfo(name, **{"quantity": "intensity", "unit": "K", **about})])
    grid = stores.tiling_of(where)
    for tile in range(grid.n_tiles):
        values = np.asarray(ring)[grid.to_ring(grid.pixels(tile))]
        stores.write_tile(where, name, tile, values.astype(about.get("dtype", "float32")))
    return where


def content(path: Path | str, *names: str) -> dict[str, str]:
    """Return a digest of every data file of some maps of a local store: equal bytes, equal digests."""
    root = Path(path)
    files = [file for name in names for file in sorted((root / name / "c").rglob("*")) if file.is_file()]
    return {file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@dataclass(frozen=True)
class Total:
    """Sums its inputs times a factor; fails or dawdles where told to."""

    factor: float = 1.0
    fails: tuple[int, ...] = ()
    delay: float = 0.0

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        if tile in self.fails:
            raise ValueError(f"poisoned tile {tile}")
        if self.delay:
            time.sleep(self.delay)
        total = np.sum([inputs[name] for name in sorted(inputs)], axis=0, dtype=np.float32) * np.float32(self.factor)
        return {"total": total, "_statistics": {"sum": float(np.nansum(total, dtype=np.float64))}}
