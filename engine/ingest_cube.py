"""The verb `ingest_cube`: HEALPix FITS files of velocity channels become a cube of a sky store, tile by tile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..chunking import store as stores
from ..chunking.channels import Channels
from ..chunking.errors import FormatError, FrameError, InputError, UnitError
from ..chunking.fits_cube import describe_cube
from ..chunking.fits_map import FitsMap
from ..chunking.fits_settle import Settled, check_override, settle
from ..chunking.fits_spool import SORTING_BYTES
from ..chunking.fits_values import merged
from ..chunking.schema import CUBE, MapInfo, validate
from ..chunking.tiling import Tiling, cube_tile_nside
from ..chunking.unit_names import quantity_of
from . import ledger
from .arguments import checked
from .channel_options import Edges, Numbers, agreed_channels, given_channels
from .ingest import facts_of, file_digest, scratch_folder, store_tiling
from .ingest_cube_kernel import CubeKernel
from .ingest_kernel import fill_scratch, group_sources, kernel_memory, observed
from .mapping import map_plan
from .plan import RESERVED_BYTES, Plan, Run
from .records import RunReport
from .targets import creation
from .worker import Worker, parse_bytes


@checked
def ingest_cube(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    store: str | os.PathLike[str],
    name: str = "n_hi",
    *,
    velocity: Numbers | None = None,
    width: float | Numbers | None = None,
    edges: Edges | None = None,
    unit: str | None = None,
    frame: str | None = None,
    ordering: str | None = None,
    nside: int | None = None,
    quantity: str | None = None,
    column: str | Sequence[str] | None = None,
    override: Collection[str] = (),
    tile_nside: int | None = None,
    chunk_nside: int | None = None,
    scratch: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[RunReport]:
    """Return the plan that brings a cube, a map for each velocity channel, into a sky store, made if it is not there.

    Memory is that of a few tiles of the cube, whatever the size of the files.  As for `ingest`, indexing may be
    implicit or explicit, ordering RING or NESTED, files gzipped; UNSEEN, NaN, BLANK, TNULL, BAD_DATA and infinite
    values become NaN; frame, ordering and unit come from headers or arguments.  Velocities are never guessed either.

    Parameters
    ----------
    files : path or sequence of paths
        A file for each channel, each as in `ingest` ("file.fits", "file.fits[COLUMN]", "file.fits[COLUMN,HDU]"); or one
        file: a table with a column for each channel, a table with one column whose rows are pixels and whose elements
        are channels, or an image (channel, pixel).  One HDU of several is chosen as "file.fits[,HDU]".
    store : path or URL
        The sky store.
    name : str
        Of the cube.
    velocity, width : sequence of float or path, optional
        (channel,) middle and full width of each channel, km/s, or text files with a line for each (a file of velocities
        may have the widths as second column); `width` may be one number for all.  Needed unless the header of an image
        tells, by CTYPE, CUNIT, CRVAL, CRPIX and CDELT of its channel axis.  Files by descending velocity are turned
        round.
    edges : sequence or path, optional
        Instead of both: n + 1 edges of n channels that touch, or n pairs (low, high), km/s, or a text file of them.
    unit : str, optional
        Of the values, for example "1e20 cm^-2", "K", "K km/s".
    frame : {"galactic", "icrs", "ecliptic"}, optional
        Where headers do not tell.
    ordering : {"ring", "nested"}, optional
        Where headers do not tell.
    nside : int, optional
        For files that do not tell.
    quantity : str, optional
        What is measured; by default as the unit says.
    column : str or sequence of str, optional
        Of one file: the column whose elements are channels, or the columns that are channels, in their order.
    override : collection of {"frame", "unit", "ordering", "velocity"}
        What the arguments say although a header says something else.
    tile_nside, chunk_nside : int, optional
        Of a new store, see `Tiling`.  By default a tile has fewer pixels than that of a store of maps: at most 4**11
        values of the cube, but at least 4**8 pixels.
    scratch : path, optional
        Folder for unpacked and sorted files, removed at the end; all workers must see it.  By default beside the
        store, or in the system's folder for temporary files where the store is in the cloud.
    overwrite : bool
        Replace a map or cube of this name that was made from something else.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan
        Its run returns a RunReport; the statistics of the cube (count, missing, infinite, minimum, maximum, mean, and
        `channel_counts`) are in its provenance.

    Raises
    ------
    StoreNotFoundError
        If a file does not exist.
    FormatError
        If a file is damaged, no HEALPix map or cube, or its rows, NSIDE and pixel numbers disagree.
    FrameError, OrderingError, UnitError
        If neither header nor argument knows, or they disagree.
    InputError
        If velocities are missing, do not fit the number of channels, overlap, or are not those of the store; if a
        column has to be chosen; or if the files do not fit together or into the store.
    IdentityError
        If a map or cube of that name was made from something else, unless `overwrite`.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("dust", folder + "/sky.zarr", 16, seed=1).run()
    ...     _ = sm.export(folder + "/sky.zarr", ["i160", "i250"], folder + "/two.fits", ordering="ring").run()
    ...     _ = sm.ingest_cube(
    ...         folder + "/two.fits", folder + "/cube.zarr", "gas", edges=[-90, 0, 90], unit="K", override=["unit"]
    ...     ).run()
    ...     sm.open(folder + "/cube.zarr")["gas"].dims
    ('channel', 'cells')
    """
    given_words = {"frame": frame, "unit": unit, "ordering": ordering}
    words = [word for word in override if word != "velocity"] if not isinstance(override, str) else override
    check_override(words, given_words)
    given = given_channels(velocity, width, edges)
    if "velocity" in override and given is None:
        raise InputError('`override` names "velocity", but no velocities are given that could count instead.')
    count = given[0].count if given is not None else None
    found = describe_cube(files, column, nside, count)
    channels, reverse = agreed_channels(given, found.stated, found.reverse, found.form, "velocity" in override)
    maps = found.maps[::-1] if reverse else found.maps
    settled = [settle(each, **given_words, override=words) for each in maps]
    _check_alike(maps, settled)
    where = stores.address(store)
    tiling = _tiling(where, maps, settled, channels, tile_nside, chunk_nside)

    paths = list(dict.fromkeys(each.path for each in maps))
    digests = {path: file_digest(path) for path in paths}
    facts = [{"file": paths.index(each.path), **facts_of(each, said)} for each, said in zip(maps, settled, strict=True)]
    inputs = {f"file {number}": digests[path] for number, path in enumerate(paths)}
    parameters: dict[str, Any] = {"cube": name, "channels": channels.edges.tolist(), "maps": facts}
    if quantity not in (None, quantity_of(settled[0].unit)):
        parameters["quantity"] = quantity
    token = ledger.identity_of({**parameters, "inputs": inputs, "store": where})[:12]
    folder = scratch_folder(where, scratch, token)
    numbers = [str(number) for number in range(channels.count)]
    sources = group_sources(
        dict(zip(numbers, maps, strict=True)), dict(zip(numbers, settled, strict=True)), folder
    )  # fmt: skip
    made = MapInfo(
        name=name,
        quantity=quantity or quantity_of(settled[0].unit),
        unit=settled[0].unit,
        dims=CUBE,
        provenance={
            "files": [{"name": Path(path).name, "xxh3_128": digests[path]} for path in paths],
            "header": dict(maps[0].facts),
        },
    )
    validate(made)
    unpacking = any(source.scratch is not None for source in sources)
    endless: dict[str, int] = {}

    def before() -> None:
        endless.update(fill_scratch(sources, tiling, folder))
        creation(where, tiling, settled[0].frame)()

    plan = map_plan(
        "ingest_cube",
        CubeKernel(name, channels.count, sources, tiling),
        target=where,
        writes=[made],
        channels=channels,
        parameters=parameters,
        inputs=inputs,
        tiles=observed(sources, tiling),
        memory=kernel_memory(sources, tiling),
        # Rows are sorted by this process before its tasks begin.
        reserved=RESERVED_BYTES + (SORTING_BYTES if any(source.explicit for source in sources) else 0),
        overwrite=overwrite,
        worker=Worker.here(threads, parse_bytes(memory)),
        target_tiling=tiling,
        before=before,
        after=lambda report: _keep_statistics(where, name, report, sum(endless.values()), tiling, channels.count),
        notes=_notes(name, maps, settled[0], channels, found.form, reverse),
    )
    plan.read_bytes = sum(os.path.getsize(path) for path in paths)
    execute = plan.execute

    def execute_and_clean(run: Run) -> RunReport:
        try:
            return execute(run)
        finally:
            if unpacking:
                shutil.rmtree(folder, ignore_errors=True)

    return replace(plan, execute=execute_and_clean, lazily=None if unpacking else plan.lazily)


def _check_alike(maps: Sequence[FitsMap], settled: Sequence[Settled]) -> None:
    """Raise where the channels do not make one cube: one nside, one frame, one unit."""
    for number, (each, said) in enumerate(zip(maps, settled, strict=True)):
        if each.nside != maps[0].nside:
            raise InputError(
                f"{each.path!r} (channel {number}) has NSIDE {each.nside}, {maps[0].path!r} (channel 0) has "
                f"{maps[0].nside}; the channels of a cube have one nside."
            )
        for word, error in (("frame", FrameError), ("unit", UnitError)):
            mine, first = getattr(said, word), getattr(settled[0], word)
            if mine != first:
                raise error(
                    f"{each.path!r} (channel {number}, {each.column.name}) has {word} {mine}, channel 0 has {first}; "
                    f"the channels of a cube have one {word}."
                )


def _tiling(
    where: str,
    maps: Sequence[FitsMap],
    settled: Sequence[Settled],
    channels: Channels,
    tile_nside: int | None,
    chunk_nside: int | None,
) -> Tiling:
    """Return the tiling of the store, which is smaller than that of maps where it is made for the cube."""
    if not stores.exists(where) and tile_nside is None:
        tile_nside = cube_tile_nside(maps[0].nside, channels.count)
        if chunk_nside is not None and chunk_nside >= 1:
            tile_nside = min(tile_nside, chunk_nside)
    first = {"channel 0": maps[0]}
    return store_tiling(where, first, {"channel 0": settled[0]}, tile_nside, chunk_nside)


def _notes(
    name: str, maps: Sequence[FitsMap], settled: Settled, channels: Channels, form: str, reverse: bool
) -> list[str]:
    edges, widths = channels.edges, np.array(channels.width)
    spread = f"{widths.min():g}" if np.ptp(widths) < 1e-6 * widths.min() else f"{widths.min():g} to {widths.max():g}"
    gaps = int(np.count_nonzero(edges[1:, 0] - edges[:-1, 1] > 1e-6 * widths.min()))
    turned = "; the files have them by descending velocity, the cube by ascending" if reverse else ""
    indexing = "implicit" if maps[0].pixel is None else "explicit"
    return [
        f"{name}: {form}; nside {maps[0].nside}, {settled.ordering}, {settled.frame}, {settled.unit}, {indexing}",
        f"{channels.count} channels from {edges[0, 0]:g} to {edges[-1, 1]:g} km/s, {spread} km/s wide, "
        f"{gaps or 'no'} gaps{turned}",
    ]


def _keep_statistics(where: str, name: str, report: RunReport, endless: int, tiling: Tiling, channels: int) -> None:
    """Write the statistics of the cube into its provenance; a cube without any value is an error."""
    parts = [record.statistics for record in report.records if record.statistics]
    found: dict[str, Any] = dict(merged(parts, channels * tiling.npix))
    if not found["count"]:
        stores.delete_map(where, name)
        raise FormatError(
            f"{name}: no pixel of any channel has a value (all are UNSEEN, NaN, infinite, or marked as bad), so "
            "nothing was kept. Choose another column, or look at BAD_DATA, TNULL and BLANK in the header."
        )
    found["infinite"] += endless
    found["channel_counts"] = np.sum([part["channel_counts"] for part in parts], axis=0).tolist()
    group = stores.open_group(where, mode="r+")
    attributes = dict(group[name].attrs)
    ours: Any = attributes["skymill"]
    ours["provenance"]["statistics"] = found
    group[name].attrs.put({**attributes, "skymill": ours})
    stores.forget_open_arrays()


__all__ = ["ingest_cube"]
