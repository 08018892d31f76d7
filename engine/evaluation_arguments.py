"""What `evaluate` was asked, checked and spelt out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..chunking import store as stores
from ..chunking.errors import FrameError, InputError, UnitError, nearest
from ..chunking.schema import MapInfo
from .evaluation import RULES
from .evaluation_pass import Inherited, Measure, Pair, Ratio
from .figures_region import View

type Names = str | Sequence[str]
type Region = tuple[str, float, float, float]
WIDEST_REGION = 120.0  # degrees; a gnomonic image of half the sky is infinite


def listed(name: str, given: Names) -> tuple[str, ...]:
    """Return one or several names as a tuple of at least one."""
    listed = (given,) if isinstance(given, str) else tuple(given)
    if not listed:
        raise InputError(f"`{name}` came empty; give the name of a map, or one a band.")
    return listed


def one_a_band(name: str, given: Any, bands: int) -> tuple[Any, ...]:
    """Return one value a band; a single one serves all."""
    if given is None or isinstance(given, str | int | float):
        return (given,) * bands
    each = tuple(given)
    if len(each) != bands:
        raise InputError(f"`{name}` came with {len(each)} values for {bands} bands; give one, or one a band.")
    return each


def labels_of(predictions: Sequence[str]) -> tuple[str, ...]:
    """Return the name of the band of each prediction: what follows `pred_`."""
    labels = tuple(name.removeprefix("pred_") for name in predictions)
    if len(set(labels)) < len(labels):
        raise InputError(f"`prediction` {', '.join(predictions)} came; give every band once.")
    return labels


def check_units(prediction: MapInfo, target: MapInfo) -> None:
    """Raise UnitError unless both maps are in the same unit."""
    if prediction.unit != target.unit:
        raise UnitError(
            f"{prediction.name!r} is in {prediction.unit}, {target.name!r} in {target.unit}; "
            "convert one with skymill.prepare."
        )


def ratios_of(predictions: Sequence[str], targets: Sequence[str], masks: tuple[str, ...]) -> tuple[Ratio, ...]:
    """Return the ratios of the first band to the second, where there are two."""
    if len(predictions) < 2:
        return ()
    return (
        Ratio("target", targets[0], targets[1], masks),
        Ratio("prediction", predictions[0], predictions[1], masks),
    )


def limits_by_band(
    accept: Mapping[str, Any] | None, labels: Sequence[str], *, fine: bool
) -> dict[str, dict[str, float]]:
    """Return limits by band, whichever way they were given."""
    if not accept:
        return {}
    nested = any(isinstance(value, Mapping) for value in accept.values())
    given: Mapping[str, Any] = accept if nested else dict.fromkeys(labels, accept)
    for label, limits in given.items():
        if label not in labels:
            raise InputError(f"`accept` names the band {label!r}; {nearest(label, labels)}.")
        if not isinstance(limits, Mapping):
            raise InputError(f"`accept` has {limits!r} for {label!r}; give a mapping of numbers to limits.")
        for name, value in limits.items():
            if name not in RULES:
                raise InputError(f"`accept` names the number {name!r}; {nearest(name, RULES)}.")
            if name.startswith("fine_") and not fine:
                raise InputError(
                    f"`accept` names {name!r}, which needs `fine_target` to be known; give it, or leave it out."
                )
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"`accept` has {value!r} as the limit of {name!r}; give a number.")
    return {label: {name: float(value) for name, value in limits.items()} for label, limits in given.items()}


def code_names(survey: MapInfo | None, names: Mapping[int, str] | None) -> dict[int, str]:
    """Return the names of survey codes, as given or from the provenance of the map."""
    given: Mapping[Any, Any] = {}
    if names is not None:
        given = names
    elif survey is not None and isinstance(survey.provenance.get("codes"), Mapping):
        given = survey.provenance["codes"]
    return {int(code): str(name) for code, name in given.items()}


def view_of(region: Region, frame: str) -> View:
    """Return the view of a region, or raise InputError where it is none."""
    try:
        name, lon, lat, width = region
        view = View(str(name), float(lon), float(lat), float(width), frame)
    except (TypeError, ValueError):
        raise InputError(
            f"`regions` has {region!r}; a region is (name, longitude, latitude, width), all in degrees."
        ) from None
    if not (abs(view.lat) <= 90 and 0 < view.width <= WIDEST_REGION and math.isfinite(view.lon)):
        raise InputError(
            f"`regions` has {region!r}; latitudes are within +-90 degrees, widths above 0 and at most "
            f"{WIDEST_REGION:g}."
        )
    return view


def fine_measure(
    where: str,
    fine_store: stores.StoreAddress,
    measure: Measure,
    fine_prediction: Names | None,
    fine_target: Names | None,
    masks: tuple[str, ...],
) -> tuple[Measure, tuple[str, ...]]:
    """Return the kernel of the fine pass, and the fine predictions."""
    there = stores.address(fine_store)
    coarse, fine = stores.tiling_of(where), stores.tiling_of(there)
    frames = stores.frame_of(where), stores.frame_of(there)
    if frames[0] != frames[1]:
        raise FrameError(
            f"`store` is in {frames[0]} and `fine_store` in {frames[1]} coordinates; predict in one frame."
        )
    if fine.nside < coarse.nside:
        raise InputError(
            f"`fine_store` has nside {fine.nside}, `store` {coarse.nside}; give the finer one as `fine_store`."
        )
    predictions = (
        tuple(pair.prediction for pair in measure.pairs)
        if fine_prediction is None
        else listed("fine_prediction", fine_prediction)
    )
    targets: tuple[str, ...] = () if fine_target is None else listed("fine_target", fine_target)
    for name, given in (("fine_prediction", predictions), ("fine_target", targets)):
        if given and len(given) != len(measure.pairs):
            raise InputError(f"`{name}` came with {len(given)} maps for {len(measure.pairs)} bands; give one a band.")
    stores.require_maps(there, [*predictions, *targets])
    known = stores.infos(there)
    for fine_name, pair in zip(predictions, measure.pairs, strict=True):
        check_units(known[fine_name], stores.info(where, pair.prediction))
    for fine_name, target_name in zip(predictions, targets, strict=False):
        check_units(known[fine_name], known[target_name])
    pairs = tuple(
        Pair(pair.label, fine_name, target_name, pair.mask, pair.low_cut)
        for pair, fine_name, target_name in zip(measure.pairs, predictions, targets, strict=False)
    )
    ratios = (Ratio("prediction, fine", predictions[0], predictions[1], masks),) if len(predictions) > 1 else ()
    if targets and len(targets) > 1:
        ratios = (Ratio("target, fine", targets[0], targets[1], masks), *ratios)
    handed_down = frozenset([*masks, *([measure.by] if measure.by else []), *measure.selection.maps])
    shift = 2 * (fine.order - coarse.order)
    return (
        Measure(
            pairs,
            ratios,
            measure.by,
            measure.limit,
            fine,
            measure.frame,
            measure.selection,
            Inherited(where, shift),
            handed_down,
        ),
        predictions,
    )
