"""Training: a network learns one map of a sky store from others, and is judged on pixels it has not seen."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ..chunking import store as stores
from ..chunking.bands import Band, band
from ..chunking.errors import IdentityError, InputError, MemoryLimitError, UnitError, nearest
from ..chunking.regions import Region
from ..chunking.schema import MapInfo
from ..models.artefact import check_target, load_model, save_model
from ..models.presets import model_spec
from ..models.spec import ModelSpec
from ..models.splits import SPLITS
from .arguments import checked
from .ledger import map_digest
from .plan import RESERVED_BYTES, RESERVED_WITH_JAX_BYTES, Plan, Run
from .selection import Selection
from .training_pixels import gather_training_pixels
from .training_report import TrainingReport, train_and_judge, write_training_report
from .worker import Worker, format_bytes, parse_bytes

if TYPE_CHECKING:
    from ..chunking.tiling import Tiling

MAX_PIXELS = 2_000_000
_FEWEST_SUGGESTED = 10_000
# Of a gathered pixel in this process: number, hash and values, as they arrive and joined; scaled rows; one epoch.
_BYTES_A_PIXEL = 60
_BYTES_A_PIXEL_AND_MAP = 24


@checked
def train(
    spec: str | ModelSpec,
    store: stores.StoreAddress,
    out: str | os.PathLike[str],
    *,
    split: str = "random",
    target: str | None = None,
    inputs: Sequence[str] | Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    where: str | Region | None = None,
    test_size: float = 0.33,
    validation_size: float = 0.1,
    block_nside: int | None = None,
    seed: int = 0,
    max_pixels: int | None = MAX_PIXELS,
    compare: bool = True,
    report: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[TrainingReport]:
    """Return the plan that trains a network on the maps of a sky store and writes it as a model.

    Training takes the pixels where all maps are positive and finite.  Those of the test part are seen neither
    by the scaling nor by the optimiser nor by the stopping.  A random split lets neighbours within one beam
    stand on both sides, so its score is too good; with `compare` a second network is trained with the other
    split, and the two scores stand side by side.  The model written is that of `split`.

    A model that the same call has made already is left as it is, and its report returned.

    Parameters
    ----------
    spec : str or ModelSpec
        Name of a model ("dust-850um", "dust-1380um", or of another package), or a spec.
    store : str or path
        Sky store with the input maps and the target.
    out : path
        Folder of the model to be written, on a local or shared file system.
    split : {"random", "blocks"}
        Test pixels drawn one by one, or by blocks of HEALPix pixels.
    target : str, optional
        Map to be learnt; default that of the spec, i850um for "dust-850um".
    inputs : sequence or mapping, optional
        Other input maps.  A mapping renames, for bands that the store holds under another name:
        {"i160": "my_160um"}.  A sequence replaces the bands themselves; each must carry a band, or a wavelength
        in its name: ["i100", "i160", "i350", "i550"].
    settings : mapping, optional
        Fields of the spec to be changed, such as {"max_epochs": 100, "hidden": (20, 10)}.
    where : str or Region, optional
        Pixels to train and test on: "b > 10", "|b| > 10 and survey in 1, 2", a region; default all.
    test_size : float
        Part of the pixels (or blocks) for the test, rounded up.
    validation_size : float
        Part of the others that decides when to stop.
    block_nside : int, optional
        The nside whose pixels are the blocks; default nside / 32, at least 8.
    seed : int
        Of the split, the thinning, the first weights, and the order of pixels.
    max_pixels : int or None
        Take at most so many pixels, thinned evenly by a hash; None takes all.
    compare : bool
        Train with the other split too, for the report.
    report : path, optional
        Folder for `training.json`, figures and `index.html`.
    overwrite : bool
        Replace a model that another call made.
    threads : int, optional
        Tiles read at once, where no client is given to `run`; default all cores.
    memory : int or str, optional
        Memory of this process that the plan may count on, where no client is given.

    Returns
    -------
    Plan
        Its run returns a TrainingReport.  Tiles are read by the workers; the network is trained in the process
        that calls.

    Raises
    ------
    InputError, MissingMapError, UnitError
        If an option cannot be used, or the store lacks a map or holds it in another unit.
    IdentityError
        If something else stands at `out`, unless it is a model and `overwrite` is set.

    References
    ----------
    Paradis et al. 2024, A&A 691, A241, section 3.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("dust", folder + "/sky.zarr", 16, seed=1).run()
    ...     report = sm.train("dust-850um", folder + "/sky.zarr", folder + "/model", compare=False).run()
    ...     report.sizes["random"]
    {'train': 1852, 'validation': 206, 'test': 1014}
    """
    address = stores.address(store)
    selection = Selection.of(where)
    chosen, reads = _settled(model_spec(spec), address, target, inputs, settings)
    _check_options(split, test_size, validation_size, max_pixels, seed, block_nside)
    stores.require_maps(address, selection.maps)
    tiling, frame = stores.tiling_of(address), stores.frame_of(address)
    facts = {
        "verb": "train",
        "spec": chosen.to_dict(),
        "maps": {name: map_digest(address, name) for name in (*reads, *selection.maps)},
        "read_as": dict(zip((*chosen.input_maps, chosen.target_map), reads, strict=True)),
        "where": _described(where),
        "split": split,
        "test_size": test_size,
        "validation_size": validation_size,
        "block_nside": block_nside,
        "seed": seed,
        "max_pixels": max_pixels,
        "compare": compare,
    }
    made = _made_before(out, facts, overwrite)
    tiles = selection.tiles(tiling, frame, stores.observed_tiles(address, reads))
    names = (*reads, *(name for name in selection.maps if name not in reads))
    most = min(len(tiles) * tiling.tile_npix, max_pixels or len(tiles) * tiling.tile_npix)
    bytes_a_pixel = _BYTES_A_PIXEL + _BYTES_A_PIXEL_AND_MAP * len(reads)

    def execute(run: Run) -> TrainingReport:
        if made is not None:
            result = made
        else:
            gathered = gather_training_pixels(
                address,
                reads,
                selection,
                tiling=tiling,
                frame=frame,
                tiles=tiles,
                max_pixels=max_pixels,
                seed=seed,
                run=run,
            )
            data = {"store": address, "nside": tiling.nside, "frame": frame, "maps": _maps_of(address, reads)}
            model, seconds = train_and_judge(
                chosen,
                gathered,
                nside=tiling.nside,
                splits=(split, *(other for other in SPLITS if compare and other != split)),
                test_size=test_size,
                validation_size=validation_size,
                block_nside=block_nside,
                seed=seed,
                data=data,
                facts=facts,
                progress=run.progress,
            )
            save_model(out, model, overwrite=overwrite)
            result = TrainingReport(os.fspath(out), model.digest, model.card, seconds)
        if report is not None:
            write_training_report(result, report)
        return result

    return _TrainingPlan(
        "train",
        os.fspath(out),
        execute,
        Worker.here(threads, parse_bytes(memory)),
        todo=() if made else tiles,
        done=len(tiles) if made else 0,
        n_tiles=tiling.n_tiles,
        read_bytes=0 if made else 4 * len(names) * len(tiles) * tiling.tile_npix,
        write_bytes=4 * chosen.n_parameters,
        memory=_task_memory(tiling, len(names), len(reads), selection),
        reserved=RESERVED_WITH_JAX_BYTES + most * bytes_a_pixel,
        notes=_notes(chosen, reads, split, most, most * bytes_a_pixel, made is not None),
        pixels=most,
        bytes_a_pixel=bytes_a_pixel,
    )


@dataclass
class _TrainingPlan(Plan[TrainingReport]):
    """The pixels are gathered, and the network trained, in the process that calls, not in the workers of a cluster."""

    pixels: int = 0
    bytes_a_pixel: int = 0

    def check(self, worker: Worker) -> None:
        calling = worker if worker is self.worker else Worker.here()
        if worker is not self.worker:
            Plan.check(replace(self, reserved=RESERVED_BYTES), worker)
        tasks = worker.threads * self.task_memory if worker is self.worker else 0
        room = calling.memory - RESERVED_WITH_JAX_BYTES - tasks
        needed = self.pixels * self.bytes_a_pixel
        if needed <= room:
            return
        fits = max(0, room) // max(1, self.bytes_a_pixel) // 1000 * 1000
        way_out = f"max_pixels={fits}; " if fits >= _FEWEST_SUGGESTED else ""
        memory = RESERVED_WITH_JAX_BYTES + tasks + needed
        raise MemoryLimitError(
            f"train needs {format_bytes(needed)} for {self.pixels:,} pixels in the calling process, beside "
            f"{format_bytes(RESERVED_WITH_JAX_BYTES + tasks)} of the process and its tasks; it has "
            f"{format_bytes(calling.memory)}. Any of these fits: {way_out}memory={format_bytes(memory)}."
        )


def _settled(
    spec: ModelSpec,
    store: str,
    target: str | None,
    inputs: Sequence[str] | Mapping[str, str] | None,
    settings: Mapping[str, Any] | None,
) -> tuple[ModelSpec, tuple[str, ...]]:
    """Return the spec as it will be trained, and the maps to read: its inputs in order, then the target."""
    chosen = spec.replace(**dict(settings or {}))
    if target is not None:
        chosen = chosen.replace(target_map=target)
    reads = chosen.input_maps
    if isinstance(inputs, Mapping):
        for name in inputs:
            if name not in reads:
                raise InputError(f"`inputs` renames {name!r}, which the model does not read; {nearest(name, reads)}")
        reads = tuple(inputs.get(name, name) for name in reads)
    elif inputs is not None:
        reads = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        stores.require_maps(store, reads)
        bands = tuple(_band_of(stores.info(store, name)) for name in reads)
        chosen = chosen.replace(inputs=bands, input_maps=reads)
    stores.require_maps(store, (*reads, chosen.target_map))
    if chosen.target_map in reads:
        raise InputError(f"map {chosen.target_map!r} is the target and an input; a network may not read it.")
    for name, expected in zip((*reads, chosen.target_map), (*chosen.inputs, chosen.output), strict=True):
        unit = stores.info(store, name).unit
        if unit != expected.unit:
            raise UnitError(
                f"map {name!r} of {store} is in {unit}; {chosen.name} takes it in {expected.unit}. Convert it with "
                "skymill.prepare."
            )
    return chosen, (*reads, chosen.target_map)


def _band_of(info: MapInfo) -> Band:
    for name in (info.band, info.name):
        if not name:
            continue
        try:
            return replace(band(name), unit=info.unit)
        except InputError:
            wavelength = re.fullmatch(r"[A-Za-z_]*?(\d+(?:\.\d+)?)(?:um)?", name)
            if wavelength and float(wavelength[1]) > 0:
                return Band(
                    f"{wavelength[1]}um",
                    wavelength_um=float(wavelength[1]),
                    unit=info.unit,
                    beam_fwhm_arcmin=info.beam_fwhm_arcmin,
                )
    raise InputError(
        f"the wavelength of map {info.name!r} is not known; ingest it with band=, or give it a name with its "
        'wavelength in um, such as "i350".'
    )


def _check_options(
    split: str,
    test_size: float,
    validation_size: float,
    max_pixels: int | None,
    seed: int,
    block_nside: int | None,
) -> None:
    if split not in SPLITS:
        raise InputError(f"`split` {split!r} is not known; {nearest(str(split), SPLITS)}")
    for key, size in (("test_size", test_size), ("validation_size", validation_size)):
        if not 0.0 < size < 1.0:
            raise InputError(f"`{key}` {size!r} came; a number between 0 and 1 expected.")
    if block_nside is not None and (block_nside < 1 or block_nside & (block_nside - 1)):
        raise InputError(f"`block_nside` {block_nside!r} came; a power of two expected.")
    if seed < 0:
        raise InputError(f"`seed` {seed!r} came; a number that is not negative expected.")
    if max_pixels is not None and max_pixels < 1:
        raise InputError(f"`max_pixels` {max_pixels!r} came; a positive number, or None for all, expected.")


def _described(where: str | Region | None) -> Any:
    if not isinstance(where, Region):
        return where
    known: dict[str, Any] = json.loads(json.dumps(asdict(where), default=repr))  # type: ignore[call-overload]
    return {"region": type(where).__name__, **known}


def _made_before(out: str | os.PathLike[str], facts: Mapping[str, Any], overwrite: bool) -> TrainingReport | None:
    """Return the report of a model that this very call has made, or None if there is none; raise if it is another."""
    try:
        check_target(out, overwrite=overwrite)
    except IdentityError:
        if not os.path.isfile(os.path.join(out, "model.json")):
            raise
    else:
        if not os.path.isdir(out) or not os.listdir(out):
            return None
    if overwrite:
        # What stands there may be damaged: it is replaced unless it is just what would be made.
        try:
            there = load_model(out)
        except ValueError:
            return None
    else:
        there = load_model(out)
    before = there.card.get("run", {})
    now = json.loads(json.dumps(facts))
    if before == now:
        return TrainingReport(os.fspath(out), there.digest, there.card)
    if overwrite:
        return None
    differing = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    raise IdentityError(
        f"the model at {os.fspath(out)} was made by another run (other {', '.join(differing)}); choose another "
        "`out`, or replace it with overwrite=True (--overwrite)."
    )


def _maps_of(store: str, names: Sequence[str]) -> dict[str, Any]:
    known = {}
    for name in names:
        info = stores.info(store, name)
        known[name] = {"digest": map_digest(store, name), "unit": info.unit, "beam_fwhm_arcmin": info.beam_fwhm_arcmin}
    return known


def _task_memory(tiling: Tiling, n_maps: int, n_values: int, selection: Selection) -> dict[str, int]:
    npix = tiling.tile_npix
    return {
        "inputs": 4 * n_maps * npix,
        "codecs": 3 * 4 * npix,
        "pixels": (3 * 8 + 2 * 4 * n_values + 3 * n_values) * npix,
        "positions": (12 * 8 if selection.needs_positions else 0) * npix,
    }


def _notes(spec: ModelSpec, reads: Sequence[str], split: str, most: int, here: int, made: bool) -> list[str]:
    if made:
        return ["the model stands there already, made by this same call"]
    layers = "-".join(map(str, spec.sizes))
    return [
        f"{spec.name}: {layers}, {spec.n_parameters} parameters; {', '.join(reads[:-1])} -> {reads[-1]}; split {split}",
        f"at most {most:,} pixels in the calling process: {format_bytes(here)}",
    ]
