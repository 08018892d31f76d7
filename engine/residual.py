"""Residuals: a prediction held against a target, where to trust it, and that verdict handed down to finer maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError, UnitError
from ..chunking.schema import FLAGS, MapInfo
from .arguments import checked
from .ledger import map_digest, read_held
from .mapping import map_plan
from .plan import Plan
from .records import RunReport
from .targets import observed_in_any, output_store, tiles_over
from .worker import Worker, parse_bytes


@dataclass(frozen=True)
class ResidualKernel:
    """Relative error, residual, mask and reasons of one tile."""

    prediction: str
    target: str
    flag: str | None
    label: str
    mask_above: float

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return `relerr_`, `residual_`, `mask_` and `reason_<label>`."""
        prediction, target = inputs[self.prediction], inputs[self.target]
        residual = prediction - target
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = residual / target
        undefined = ~np.isfinite(relative)
        relative[undefined] = np.nan
        above = np.abs(relative) > self.mask_above
        if self.flag is None:
            reason = np.zeros(relative.size, np.uint8)
        else:
            # A pixel outside the training range is doubtful, not wrong: the target tells whether it is wrong.
            reason = inputs[self.flag] & np.uint8(0xFF ^ FLAGS["outside_training_range"])
        reason[above] |= np.uint8(FLAGS["relative_error_above_limit"])
        reason[np.isnan(target) | np.isnan(prediction)] |= np.uint8(FLAGS["no_coverage"])
        reason[undefined & (reason == 0)] |= np.uint8(FLAGS["not_finite"])
        return {
            f"relerr_{self.label}": relative,
            f"residual_{self.label}": residual,
            f"mask_{self.label}": (above | undefined).astype(np.uint8),
            f"reason_{self.label}": reason,
        }


@checked
def residual(
    store: stores.StoreAddress,
    prediction: str,
    target: str,
    *,
    mask_above: float = 0.2,
    out: stores.StoreAddress | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[RunReport]:
    """Return the plan that compares a prediction with a target.

    Writes, for the prediction `pred_<label>`: `relerr_<label>` (cells,) float32, (prediction - target) / target;
    `residual_<label>` (cells,) float32, prediction - target in the unit of both; `mask_<label>` (cells,) uint8, 1 where
    the absolute relative error is above the limit or cannot be told, 0 elsewhere; `reason_<label>` (cells,) uint8, why.

    Parameters
    ----------
    store : str or path
        Sky store with both maps.
    prediction, target : str
        Names of the maps.
    mask_above : float
        Absolute relative error above which a pixel is masked.
    out : str or path, optional
        Store to write into, of the same nside and frame; default `store` itself.
    overwrite : bool
        Replace maps that another run made.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan
        Its run returns a RunReport.

    Raises
    ------
    MissingMapError
        If a map is missing.
    UnitError
        If the two are in different units.
    InputError
        If the limit is not positive.

    References
    ----------
    Paradis et al. 2024, A&A 691, A241, section 4: pixels with a relative error above 20 % at 5' are masked.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     _ = sm.simulate("dust", sky, 16, seed=1).run()
    ...     _ = sm.residual(sky, "raw_850um", "truth_850um").run()
    ...     sm.open(sky)["mask_raw_850um"].dtype
    dtype('uint8')
    """
    if not (mask_above > 0):
        raise InputError(f"`mask_above` {mask_above} came; give a positive relative error, for example 0.2 for 20 %.")
    where = stores.address(store)
    predicted, wanted = stores.info(where, prediction), stores.info(where, target)
    if predicted.unit != wanted.unit:
        raise UnitError(
            f"{prediction!r} is in {predicted.unit}, {target!r} in {wanted.unit}; convert one with skymill.prepare."
        )
    label = prediction.removeprefix("pred_")
    known = stores.infos(where)
    flag = f"flag_{label}" if prediction.startswith("pred_") and f"flag_{label}" in known else None
    into = output_store(where, out)
    reads = [prediction, target]
    return map_plan(
        "residual",
        ResidualKernel(prediction, target, flag, label, float(mask_above)),
        source=where,
        reads=[*reads, flag] if flag else reads,
        # Where flags alone are stored there is nothing to compare.
        tiles=tiles_over(stores.observed_tiles(where, reads), stores.tiling_of(where), into.tiling),
        target=into.address,
        target_tiling=into.tiling,
        before=into.create,
        writes=_maps(label, predicted, target, mask_above),
        parameters={"prediction": prediction, "target": target, "mask_above": float(mask_above)},
        memory={"temporaries": 12 * into.tiling.tile_npix},
        worker=Worker.here(threads, parse_bytes(memory)),
        overwrite=overwrite,
    )


def _maps(label: str, predicted: MapInfo, target: str, mask_above: float) -> list[MapInfo]:
    common: dict[str, Any] = {"band": predicted.band, "beam_fwhm_arcmin": predicted.beam_fwhm_arcmin}
    return [
        MapInfo(
            f"relerr_{label}", "relative error", "1", long_name=f"relative error of {label} against {target}", **common
        ),
        MapInfo(
            f"residual_{label}", "residual", predicted.unit, long_name=f"residual of {label} against {target}", **common
        ),
        MapInfo(
            f"mask_{label}",
            "mask",
            "1",
            dtype="uint8",
            fill_value=1,
            long_name=f"1 where the relative error of {label} is above {mask_above:g} or unknown",
            **common,
        ),
        MapInfo(
            f"reason_{label}",
            "flags",
            "1",
            dtype="uint8",
            fill_value=FLAGS["no_coverage"],
            long_name=f"why {label} is masked",
            flag_meanings=tuple(FLAGS),
            **common,
        ),
    ]


@dataclass(frozen=True)
class HandDownKernel:
    """Gives every pixel of a fine tile the value of its coarse parent."""

    source: str
    names: tuple[str, ...]
    tile_npix: int
    npix_ratio: int

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the maps of the fine tile."""
        start = tile * self.tile_npix
        # A fine tile can be smaller than one coarse pixel, so the parents are counted outwards.
        first, last = start // self.npix_ratio, -(-(start + self.tile_npix) // self.npix_ratio)
        offset = start - first * self.npix_ratio
        children = slice(offset, offset + self.tile_npix)
        return {
            name: np.repeat(read_held(self.source, name, first, last), self.npix_ratio)[children] for name in self.names
        }


@checked
def hand_down(
    store: stores.StoreAddress,
    out: stores.StoreAddress,
    names: str | list[str] | tuple[str, ...],
    *,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[RunReport]:
    """Return the plan that gives every pixel of a finer store the values of its parent in a coarser one.

    This is how a mask made at 5' masks the prediction at 37": every child of a masked pixel is masked.

    Parameters
    ----------
    store : str or path
        The coarse sky store.
    out : str or path
        The finer one, which exists.
    names : str or list of str
        Maps to hand down, for example "mask_850um"; they keep their names.
    overwrite : bool
        Replace maps that another run made.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan
        Its run returns a RunReport.

    Raises
    ------
    InputError
        If `out` is not finer than `store`, or in another frame.
    MissingMapError
        If a map is missing.

    References
    ----------
    Paradis et al. 2024, A&A 691, A241, section 4: nside 2048 to 16384, 64 children a pixel.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for nside in (8, 16):
    ...         _ = sm.simulate("dust", f"{folder}/{nside}.zarr", nside, seed=1, maps=["i160"]).run()
    ...     plan = sm.hand_down(folder + "/8.zarr", folder + "/16.zarr", "i160", overwrite=True)
    ...     plan.n_tiles
    12
    """
    chosen = (names,) if isinstance(names, str) else tuple(names)
    if not chosen:
        raise InputError("`names` is empty; give the maps to hand down.")
    where, there = stores.address(store), stores.address(out)
    stores.require_maps(where, chosen)
    coarse, fine = stores.tiling_of(where), stores.tiling_of(there)
    if fine.nside <= coarse.nside:
        raise InputError(
            f"{there} has nside {fine.nside}, {where} has {coarse.nside}; maps are handed down to a finer store. "
            "To go up, use skymill.degrade."
        )
    if stores.frame_of(where) != stores.frame_of(there):
        raise InputError(
            f"{where} is in frame {stores.frame_of(where)}, {there} in {stores.frame_of(there)}; parents and children "
            "must be in the same frame."
        )
    known = stores.infos(where)
    return map_plan(
        "hand_down",
        HandDownKernel(where, chosen, fine.tile_npix, (fine.nside // coarse.nside) ** 2),
        target=there,
        writes=[replace(known[name], provenance={"handed_down": name}) for name in chosen],
        tiles=tiles_over(observed_in_any(where, chosen), coarse, fine),
        parameters={"names": list(chosen), "from_nside": coarse.nside},
        inputs={name: map_digest(where, name) for name in chosen},
        memory={"parents": 8 * fine.tile_npix},
        worker=Worker.here(threads, parse_bytes(memory)),
        overwrite=overwrite,
    )
