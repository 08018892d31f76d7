"""The verb `ingest`: HEALPix FITS files become maps of a sky store, tile by tile."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash

from ..chunking import objects
from ..chunking import store as stores
from ..chunking.errors import FormatError, FrameError, InputError, nearest
from ..chunking.fits_header import Table
from ..chunking.fits_map import FitsMap, describe
from ..chunking.fits_settle import Settled, check_override, settle
from ..chunking.fits_spool import SORTING_BYTES
from ..chunking.fits_values import merged
from ..chunking.schema import MapInfo, kind_of, validate
from ..chunking.tiling import Tiling
from . import ledger
from .arguments import checked
from .ingest_kernel import IngestKernel, fill_scratch, group_sources, kernel_memory, observed
from .mapping import map_plan
from .plan import RESERVED_BYTES, Plan, Run
from .records import RunReport
from .targets import creation
from .worker import Worker, parse_bytes

type PerMap[T] = T | Mapping[str, T] | None


@checked
def ingest(
    files: Mapping[str, str | os.PathLike[str]],
    store: str | os.PathLike[str],
    *,
    frame: PerMap[str] = None,
    unit: PerMap[str] = None,
    ordering: PerMap[str] = None,
    nside: int | None = None,
    quantity: PerMap[str] = None,
    band: PerMap[str] = None,
    beam_fwhm_arcmin: PerMap[float] = None,
    override: Collection[str] = (),
    tile_nside: int | None = None,
    chunk_nside: int | None = None,
    scratch: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[RunReport]:
    """Return the plan that brings HEALPix FITS maps into a sky store, which is made if it is not there.

    Files may have implicit or explicit indexing, RING or NESTED ordering, cover all or part of the sky, be gzipped;
    UNSEEN, NaN, TNULL, BAD_DATA and infinite values become NaN.  Memory does not depend on the size of the files.
    Frame, ordering and unit come from the header, or from the arguments where it is silent; they are never guessed.

    Parameters
    ----------
    files : mapping of str to path
        Map name -> "file.fits", "file.fits[COLUMN]" or "file.fits[COLUMN,HDU]"; columns by name or number (from 1),
        HDUs by name or number (0 is the primary one).  Without a column, the only one is taken, or the first if it is
        conventionally the total intensity (TEMPERATURE, I_STOKES, INTENSITY, SIGNAL, I, T).
    store : path or URL
        The sky store.
    frame : {"galactic", "icrs", "ecliptic"} or mapping, optional
        For all files, or name -> frame.
    unit : str or mapping, optional
        For example "MJy/sr", "K_CMB", "1"; for all files, or name -> unit.
    ordering : {"ring", "nested"} or mapping, optional
        For all files, or name -> ordering.
    nside : int, optional
        For files that do not tell.
    quantity, band, beam_fwhm_arcmin : str, str, float or mapping, optional
        What is measured (default: by the unit), in which band, with which beam; kept with the map.
    override : collection of {"frame", "unit", "ordering"}
        What the arguments say although a header says something else.
    tile_nside, chunk_nside : int, optional
        Of a new store, see `Tiling`.
    scratch : path, optional
        Folder for unpacked and sorted files, removed at the end; all workers must see it.  By default beside the
        store, or in the system's folder for temporary files where the store is in the cloud.
    overwrite : bool
        Replace maps of these names that were made from something else.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan
        Its run returns a RunReport; the statistics of each map (count, missing, infinite, minimum, maximum, mean) are
        in `info(store, name).provenance["statistics"]`.

    Raises
    ------
    StoreNotFoundError
        If a file does not exist.
    FormatError
        If a file is damaged, no HEALPix map, or its rows, NSIDE and pixel numbers disagree.
    FrameError, OrderingError, UnitError
        If neither header nor argument knows, or they disagree.
    InputError
        If a column has to be chosen, or the files do not fit together or into the store.
    IdentityError
        If a map of that name was made from something else, unless `overwrite`.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("dust", folder + "/sky.zarr", 16, seed=1).run()
    ...     _ = sm.export(folder + "/sky.zarr", ["i160", "i250"], folder + "/sky.fits", ordering="ring").run()
    ...     sm.ingest({"pacs": folder + "/sky.fits[i160]"}, folder + "/copy.zarr").run().cells
    3072
    """
    if not isinstance(files, Mapping) or not files:
        raise InputError('`files` must be a mapping such as {"i850um": "planck.fits[I_STOKES]"}, with one map or more.')
    given = {"frame": frame, "unit": unit, "ordering": ordering}
    check_override(override, given)
    names = tuple(files)
    kinds = {name: kind_of(name) for name in names}
    frames, units, orderings = (_per_map(option, value, names) for option, value in given.items())
    tables: dict[str, tuple[Table, ...]] = {}
    described = {name: describe(path, nside, tables) for name, path in files.items()}
    settled = {}
    for name in names:
        words = {"frame": frames[name], "unit": units[name], "ordering": orderings[name]}
        settled[name] = settle(
            described[name], **words, override=[word for word in override if words[word] is not None]
        )
    where = stores.address(store)
    tiling = store_tiling(where, described, settled, tile_nside, chunk_nside)

    digests = {path: file_digest(path) for path in sorted({found.path for found in described.values()})}
    facts = {name: facts_of(described[name], settled[name]) for name in names}
    inputs = {name: digests[described[name].path] for name in names}
    token = ledger.identity_of({"maps": facts, "inputs": inputs, "store": where})[:12]
    folder = scratch_folder(where, scratch, token)
    sources = group_sources(described, settled, folder)

    quantities = _per_map("quantity", quantity, names)
    bands = _per_map("band", band, names)
    beams = _per_map("beam_fwhm_arcmin", beam_fwhm_arcmin, names)
    writes = [
        MapInfo(
            name=name,
            quantity=quantities[name] or _quantity(settled[name].unit),
            unit=settled[name].unit,
            dtype=kinds[name].dtype,
            band=bands[name],
            beam_fwhm_arcmin=beams[name],
            provenance={
                "file": {
                    "name": Path(described[name].path).name,
                    "xxh3_128": inputs[name],
                    "header": dict(described[name].facts),
                }
            },
        )
        for name in names
    ]
    for made in writes:
        validate(made)
    own = {name: None if each == _quantity(settled[name].unit) else each for name, each in quantities.items()}
    said: dict[str, Mapping[str, Any]] = {"quantity": own, "band": bands, "beam_fwhm_arcmin": beams}
    # What no header tells is part of the run where it is given: another beam makes another map.
    about = {word: {name: each for name, each in held.items() if each is not None} for word, held in said.items()}
    unpacking = any(source.scratch is not None for source in sources)
    endless: dict[str, int] = {}

    def before() -> None:
        endless.update(fill_scratch(sources, tiling, folder))
        creation(where, tiling, settled[names[0]].frame)()

    def after(report: RunReport) -> None:
        _keep_statistics(where, names, report, endless, tiling)

    plan = map_plan(
        "ingest",
        IngestKernel(sources, tiling),
        target=where,
        writes=writes,
        parameters={"maps": facts, **{word: held for word, held in about.items() if held}},
        inputs=inputs,
        tiles=observed(sources, tiling),
        memory=kernel_memory(sources, tiling),
        # Rows are sorted by this process before its tasks begin.
        reserved=RESERVED_BYTES + (SORTING_BYTES if any(source.explicit for source in sources) else 0),
        overwrite=overwrite,
        worker=Worker.here(threads, parse_bytes(memory)),
        target_tiling=tiling,
        before=before,
        after=after,
        notes=[_note(name, described[name], settled[name]) for name in names],
    )
    plan.read_bytes = sum(os.path.getsize(path) for path in digests)
    execute = plan.execute

    def execute_and_clean(run: Run) -> RunReport:
        try:
            return execute(run)
        finally:
            if unpacking:
                shutil.rmtree(folder, ignore_errors=True)

    return replace(plan, execute=execute_and_clean, lazily=None if unpacking else plan.lazily)


def _per_map[T](option: str, value: PerMap[T], names: Sequence[str]) -> dict[str, T | None]:
    """Return an option for each map: one value for all, or a mapping that may leave maps out."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, value)
    for name in value:
        if name not in names:
            raise InputError(f"`{option}` names the map {name!r}, which is not in `files`; {nearest(name, names)}.")
    return {name: value.get(name) for name in names}


def _quantity(unit: str) -> str:
    from ..chunking.unit_names import quantity_of

    return quantity_of(unit)


def store_tiling(
    where: str,
    described: Mapping[str, FitsMap],
    settled: Mapping[str, Settled],
    tile_nside: int | None,
    chunk_nside: int | None,
) -> Tiling:
    """Return the one tiling of all the files and the store."""
    first, *others = described
    for name in others:
        if described[name].nside != described[first].nside:
            raise InputError(
                f"{described[first].path!r} ({first}) has NSIDE {described[first].nside}, {described[name].path!r} "
                f"({name}) has {described[name].nside}; a store has one nside. Ingest them into two stores."
            )
        if settled[name].frame != settled[first].frame:
            raise FrameError(
                f"{described[first].path!r} ({first}) is {settled[first].frame}, {described[name].path!r} ({name}) is "
                f"{settled[name].frame}; a store has one frame. Ingest them into two stores."
            )
    nside, frame = described[first].nside, settled[first].frame
    if not stores.exists(where):
        objects.check_free(where)
        return Tiling(nside, tile_nside, chunk_nside)
    there = stores.tiling_of(where)
    if there.nside != nside:
        raise InputError(
            f"{described[first].path!r} has NSIDE {nside}, the store {where} has nside {there.nside}; write to another "
            "store, and use skymill.degrade to bring maps to one nside."
        )
    if stores.frame_of(where) != frame:
        raise FrameError(
            f"{described[first].path!r} is {frame}, the store {where} is {stores.frame_of(where)}; write to "
            "another store."
        )
    for option, wanted, has in (
        ("tile_nside", tile_nside, there.tile_nside),
        ("chunk_nside", chunk_nside, there.chunk_nside),
    ):
        if wanted is not None and wanted != has:
            raise InputError(f"`{option}` {wanted} came, the store {where} has {has}; leave `{option}` out.")
    return there


def facts_of(described: FitsMap, settled: Settled) -> dict[str, Any]:
    """Return what, beside the bytes of the file, determines the values of a map."""
    return {
        "hdu": described.hdu,
        "column": described.column.name,
        "column_number": described.column.number,
        "indexing": "implicit" if described.pixel is None else "explicit",
        "nside": described.nside,
        "bad_values": list(described.bad_values),
        **settled._asdict(),
    }


def file_digest(path: str) -> str:
    """Return the digest of the content of a file."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def scratch_folder(where: str, scratch: str | os.PathLike[str] | None, token: str) -> Path:
    """Return the folder for unpacked and sorted files of one ingest, which is not made yet."""
    if scratch is not None:
        parent = Path(scratch).absolute()
        if not parent.is_dir():
            raise InputError(f"`scratch` {os.fspath(scratch)!r} is no folder; give one that all workers can see.")
        return parent / f"skymill-ingest-{token}"
    if objects.is_local(where):
        return Path(f"{where}.ingest-{token}")
    return Path(tempfile.gettempdir()) / f"skymill-ingest-{token}"


def _note(name: str, described: FitsMap, settled: Settled) -> str:
    kind = "compressed " if described.compressed else ""
    indexing = "implicit" if described.pixel is None else "explicit"
    return (
        f"{name}: {kind}{described.path}, HDU {described.hdu}, column {described.column.name}; nside "
        f"{described.nside}, {settled.ordering}, {settled.frame}, {settled.unit}, {indexing}, {described.n_pixels} px"
    )


def _keep_statistics(
    where: str, names: Sequence[str], report: RunReport, endless: Mapping[str, int], tiling: Tiling
) -> None:
    """Write the statistics of each map into its provenance; a map without any value is an error."""
    group = stores.open_group(where, mode="r+")
    empty = []
    for name in names:
        parts = [record.statistics[name] for record in report.records if name in record.statistics]
        found = merged(parts, tiling.npix)
        found["infinite"] += endless.get(name, 0)
        attributes = dict(group[name].attrs)
        ours: Any = attributes["skymill"]
        ours["provenance"]["statistics"] = found
        group[name].attrs.put({**attributes, "skymill": ours})
        if not found["count"]:
            empty.append(name)
    for name in empty:
        stores.delete_map(where, name)
    if empty:
        raise FormatError(
            f"{', '.join(empty)}: no pixel has a value (all are UNSEEN, NaN, infinite, or marked as bad), so nothing "
            "was kept. Choose another column, or look at BAD_DATA and TNULL in the header."
        )
    stores.forget_open_arrays()


__all__ = ["ingest"]
