"""One pass over the pixels of the regions of a fit: the plan of every verb that only measures residuals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError
from .gas_model import GasModel
from .plan import Plan, Run
from .reducing import reduce_tiles
from .region_tables import dataset_json
from .selection import BLOCK_BYTES
from .worker import Worker, parse_bytes

if TYPE_CHECKING:
    import xarray as xr


def tiles_with(store: str, models: Sequence[GasModel], more: Sequence[str] = ()) -> list[int]:
    """Return the tiles that may hold used pixels of some region, ascending.

    Parameters
    ----------
    store : str
        Address of the store.
    models : sequence of GasModel
        One a region.
    more : sequence of str
        Further maps that must have a value.
    """
    tiles: set[int] = set()
    for model in models:
        tiles.update(model.used.tiles(stores.observed_tiles(store, [*model.measured, *more])))
    return sorted(tiles)


def reduce_regions[S](
    kernel: Callable[[int, dict[str, NDArray[Any]]], S],
    store: str,
    models: Sequence[GasModel],
    more: Sequence[str],
    merge: Callable[[S, S], S],
    initial: S,
    run: Run,
    label: str,
    *,
    needed: bool = True,
) -> S:
    """Return the merged statistic of all tiles that may hold used pixels; see `reduce_tiles`.

    `needed` says whether the maps in `more` must have a value too.
    """
    return reduce_tiles(
        kernel,
        store=store,
        names=reads_of(models, more),
        merge=merge,
        initial=initial,
        tiles=tiles_with(store, models, more if needed else ()),
        client=run.client,
        threads=run.worker.threads,
        progress=run.progress,
        label=label,
    )


def reads_of(models: Sequence[GasModel], more: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the maps that a pass over some regions reads."""
    return tuple(dict.fromkeys([*(name for model in models for name in model.reads), *more]))


def position_memory(models: Sequence[GasModel]) -> dict[str, int]:
    """Return the bytes that positions of pixels take where conditions need them, by part."""
    return {"positions": BLOCK_BYTES} if any(model.used.selection.needs_positions for model in models) else {}


def pass_memory(store: str, models: Sequence[GasModel], more: Sequence[str], bytes_a_pixel: int) -> dict[str, int]:
    """Return the bytes, by part, that a pass over one tile needs; parameters as for `region_plan`."""
    npix = stores.tiling_of(store).tile_npix
    return {
        "inputs": 4 * npix * len(reads_of(models, more)),
        "codecs": 12 * npix,
        "temporaries": bytes_a_pixel * npix,
        **position_memory(models),
    }


def region_plan(
    verb: str,
    store: str,
    models: Sequence[GasModel],
    more: Sequence[str],
    execute: Callable[[Run], xr.Dataset],
    *,
    needed: bool = True,
    passes: int = 1,
    bytes_a_pixel: int = 100,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[xr.Dataset]:
    """Return the plan of a verb that measures residuals and writes nothing.

    Parameters
    ----------
    verb, store : str
        Name of the verb, address of the store.
    models : sequence of GasModel
        One a region.
    more : sequence of str
        Further maps that are read.
    execute : callable
        Does it.
    needed : bool
        Whether these must have a value.
    passes : int
        How often the maps are read.
    bytes_a_pixel : int
        Of the kernel's temporaries.
    threads, memory : optional
        What this process may use.
    """
    tiles = tiles_with(store, models, more if needed else ())
    parts = pass_memory(store, models, more, bytes_a_pixel)
    return Plan(
        verb,
        store,
        execute,
        Worker.here(threads, parse_bytes(memory)),
        todo=tiles,
        n_tiles=stores.tiling_of(store).n_tiles,
        read_bytes=passes * parts["inputs"] * len(tiles),
        memory=parts,
        account=dataset_json,
    )


def refuse_nothing(
    models: Sequence[GasModel], pixels: Sequence[int], more: Sequence[str] = (), fewest: int = 1
) -> None:
    """Raise InputError where a region has too few pixels.

    Parameters
    ----------
    models : sequence of GasModel
        One a region.
    pixels : sequence of int
        Used ones of each.
    more : sequence of str
        Further maps that must have a value.
    fewest : int
        How many there must be.
    """
    for model, count in zip(models, pixels, strict=True):
        if count < fewest:
            where = "" if len(models) == 1 else f" in region {model.region!r}"
            raise InputError(
                f"{count} pixels are used and have a value in all of {', '.join((*model.measured, *more))}{where}, and "
                f"{fewest} are needed; check mask, region and maps."
            )
