"""Prediction: trained models applied to every pixel of a sky store."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError, RunError, UnitError
from ..chunking.schema import FLAGS, MapInfo
from ..chunking.tiling import Tiling
from ..models.artefact import Model, load_model
from .arguments import checked
from .mapping import map_plan
from .plan import RESERVED_WITH_JAX_BYTES, Plan
from .records import RunReport
from .targets import output_store
from .worker import Worker, parse_bytes

if TYPE_CHECKING:
    from ..models.kernel import Predictor

# Smaller batches are what the plan suggests where memory is short.
BATCHES = (1 << 20, 1 << 18, 1 << 16, 1 << 15)


@dataclass(frozen=True)
class PredictKernel:
    """Applies one or several models to a tile; carries their addresses, never their weights.

    Parameters
    ----------
    models : tuple of str
        Addresses of the artefacts.
    digests : tuple of str
        Their digests when the plan was made.
    maps : tuple of (str, str)
        (map that the models know, map of the store that stands for it).
    batch : int or None
        Pixels that go through the network at once.
    """

    models: tuple[str, ...]
    digests: tuple[str, ...]
    maps: tuple[tuple[str, str], ...]
    batch: int | None

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return `pred_<label>` and `flag_<label>` of every model."""
        predictor = _predictor(self.models, self.digests, self.batch)
        outputs: dict[str, NDArray[Any]] = {}
        for label, (values, flags) in predictor({known: inputs[name] for known, name in self.maps}).items():
            outputs[f"pred_{label}"] = values
            outputs[f"flag_{label}"] = flags
        return outputs


@functools.lru_cache(maxsize=4)
def _predictor(models: tuple[str, ...], digests: tuple[str, ...], batch: int | None) -> Predictor:
    """Load and compile once a process."""
    from ..models.kernel import Predictor

    loaded = [load_model(path) for path in models]
    for path, model, planned in zip(models, loaded, digests, strict=True):
        if model.digest != planned:
            raise RunError(f"the model {path} is not the one that this run was planned with; plan and run again.")
    return Predictor(loaded, batch=batch)


@checked
def predict(
    models: stores.StoreAddress | Sequence[stores.StoreAddress],
    store: stores.StoreAddress,
    *,
    out: stores.StoreAddress | None = None,
    inputs: Mapping[str, str] | None = None,
    batch: int | None = None,
    tile_nside: int | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[RunReport]:
    """Return the plan that applies trained models to a sky store.

    Writes `pred_<label>` (cells,) float32 in the unit of the model's output, NaN where an input is missing or not
    positive, and `flag_<label>` (cells,) uint8 with the reasons as bits.  Several models share one pass over the data.

    Parameters
    ----------
    models : path or sequence of paths
        Artefacts made by `train`.
    store : str or path
        Sky store with the input maps.
    out : str or path, optional
        Store to write into; made if it is not there.  Default: `store` itself.
    inputs : mapping, optional
        For maps with names other than those that the models were trained with: {"i160": "my_160um"}.
    batch : int, optional
        Pixels that go through the network at once; changes memory and speed, never the result.
    tile_nside : int, optional
        Tiles of a store made by `out`; default those of `store`.
    overwrite : bool
        Replace predictions that another run made.
    threads : int, optional
        Tasks at once, where no client is given to `run`; default all cores.
    memory : int or str, optional
        Memory of this process that the plan may count on, where no client is given.

    Returns
    -------
    Plan
        Its run returns a RunReport.

    Raises
    ------
    MissingMapError, UnitError, InputError
        If the store lacks a band, has it in another unit, or two models predict the same band.
    StoreNotFoundError, FormatError
        If store or model is not there or damaged.
    IdentityError
        If the predictions are there, made by another model or from other inputs.

    References
    ----------
    Paradis et al. 2024, A&A 691, A241, section 4.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     _ = sm.simulate("dust", sky, 16, seed=1).run()
    ...     _ = sm.train("dust-850um", sky, folder + "/model").run()
    ...     _ = sm.predict(folder + "/model", sky).run()
    ...     sm.open(sky)["pred_850um"].attrs["units"]
    'MJy/sr'
    """
    paths = [models] if isinstance(models, str) or not isinstance(models, Sequence) else list(models)
    if not paths:
        raise InputError("`models` is empty; give the path of at least one trained model.")
    where = stores.address(store)
    loaded = [load_model(path) for path in paths]
    names = _input_names(loaded, inputs or {})
    _check_models(loaded)
    _check_inputs(where, loaded, names)
    into = output_store(where, out, tile_nside)
    kernel = PredictKernel(
        models=tuple(stores.address(path) for path in paths),
        digests=tuple(model.digest for model in loaded),
        maps=tuple(names.items()),
        batch=batch,
    )

    return map_plan(
        "predict",
        kernel,
        source=where,
        reads=tuple(dict.fromkeys(names.values())),
        target=into.address,
        writes=_outputs(where, loaded, names),
        target_tiling=into.tiling,
        before=into.create,
        parameters={"models": [model.digest for model in loaded], "inputs": dict(names)},
        memory=_kernel_memory(loaded, into.tiling.tile_npix, batch),
        reserved=RESERVED_WITH_JAX_BYTES,
        worker=Worker.here(threads, parse_bytes(memory)),
        overwrite=overwrite,
        alternatives=lambda: _alternatives(loaded, len(names), into.tiling, into.create is not None),
        notes=_notes(loaded, into.tiling),
        gpu=True,
    )


def _input_names(models: Sequence[Model], renamed: Mapping[str, str]) -> dict[str, str]:
    """Return for every map that the models know the map of the store that stands for it."""
    known = dict.fromkeys(name for model in models for name in model.spec.input_maps)
    for name in renamed:
        if name not in known:
            raise InputError(f"`inputs` renames {name!r}, which no model reads; they read {', '.join(known)}.")
    return {name: renamed.get(name, name) for name in known}


def _check_models(models: Sequence[Model]) -> None:
    labels = [model.spec.label for model in models]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise InputError(f"several models predict {', '.join(twice)}; give one model a band.")


def _check_inputs(where: str, models: Sequence[Model], names: Mapping[str, str]) -> None:
    for model in models:
        for known, band in zip(model.spec.input_maps, model.spec.inputs, strict=True):
            unit = stores.info(where, names[known]).unit
            if unit != band.unit:
                raise UnitError(
                    f"map {names[known]!r} of {where} is in {unit}; the model {model.spec.name} reads {known!r} in "
                    f"{band.unit}. Convert it with skymill.prepare."
                )


def _outputs(where: str, models: Sequence[Model], names: Mapping[str, str]) -> list[MapInfo]:
    maps = []
    for model in models:
        label, unit = model.spec.label, model.spec.output.unit
        beams = {stores.info(where, names[known]).beam_fwhm_arcmin for known in model.spec.input_maps}
        beam = beams.pop() if len(beams) == 1 else None
        maps.append(
            MapInfo(
                f"pred_{label}",
                quantity="intensity",
                unit=unit,
                band=label,
                long_name=f"predicted intensity at {label}",
                beam_fwhm_arcmin=beam,
            )
        )
        maps.append(
            MapInfo(
                f"flag_{label}",
                quantity="flags",
                unit="1",
                dtype="uint8",
                band=label,
                long_name=f"reasons to doubt the prediction at {label}",
                fill_value=FLAGS["no_coverage"],
                flag_meanings=tuple(FLAGS),
            )
        )
    return maps


def _kernel_memory(models: Sequence[Model], npix: int, batch: int | None) -> dict[str, int]:
    from ..models.kernel import Predictor

    return Predictor(models, batch=batch).memory_bytes(npix)


def _alternatives(models: Sequence[Model], n_inputs: int, tiling: Tiling, new: bool) -> list[tuple[str, int]]:
    """Return options that need less memory, each with the bytes that a task would take."""
    assert tiling.tile_nside is not None

    def task(npix: int, batch: int | None) -> int:
        fixed = 4 * npix * (n_inputs + 3) + 5 * npix * len(models)
        return fixed + sum(_kernel_memory(models, npix, batch).values())

    options = [(f"batch={batch}", task(tiling.tile_npix, batch)) for batch in BATCHES if batch < tiling.tile_npix]
    if new:
        finer = [tiling.tile_nside << step for step in (1, 2) if tiling.tile_nside << step <= tiling.nside]
        options += [(f"tile_nside={nside}", task(12 * tiling.nside**2 // (12 * nside**2), None)) for nside in finer]
    return options


def _notes(models: Sequence[Model], tiling: Tiling) -> list[str]:
    """Return what a user should know: models are applied at another resolution than they were trained at."""
    notes = []
    for model in models:
        trained = model.card.get("nside")
        if trained is not None and trained != tiling.nside:
            notes.append(f"note    {model.spec.name} was trained at nside {trained} and is applied at {tiling.nside}")
    return notes
