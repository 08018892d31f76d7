"""How good are the predictions: one pass over the sky, one folder with numbers, figures and a page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..chunking import store as stores
from ..chunking.errors import InputError
from ..chunking.regions import Region as Area
from .arguments import checked
from .evaluation import Evaluation, all_numbers, check_numbers
from .evaluation_arguments import (
    Names,
    Region,
    check_units,
    code_names,
    fine_measure,
    labels_of,
    limits_by_band,
    listed,
    one_a_band,
    ratios_of,
    view_of,
)
from .evaluation_pass import Gathered, Measure, Pair, gather, task_memory, tiles_to_visit
from .evaluation_report import RegionMaps, write_evaluation
from .plan import Plan, Run
from .records import write_text
from .report import make_directory
from .selection import Selection
from .worker import Worker, parse_bytes


@checked
def evaluate(
    store: stores.StoreAddress,
    prediction: Names,
    target: Names,
    out_dir: str | os.PathLike[str],
    *,
    by: str | None = "survey",
    names: Mapping[int, str] | None = None,
    where: str | Area | None = None,
    mask: str | Sequence[str | None] | None = None,
    low_cut: float | Sequence[float | None] | None = None,
    limit: float = 0.2,
    groups: int = 10,
    fine_store: stores.StoreAddress | None = None,
    fine_prediction: Names | None = None,
    fine_target: Names | None = None,
    regions: Sequence[Region] = (),
    accept: Mapping[str, Any] | None = None,
    title: str = "Prediction held against its target",
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[Evaluation]:
    """Return a plan whose run writes a report on predictions and returns its numbers.

    The run goes once over the tiles (and once over those of `fine_store`) and writes into `out_dir`: `report.json` with
    all numbers, PNG figures, and `index.html`.  The relative error is (prediction - target) / target everywhere.  With
    two bands the ratio of the first to the second is studied too.  Counts, means, standard deviations and R^2 are those
    of all pixels in float64; quantiles come from fine histograms, to the bound stated as `quantile_bound`.

    Parameters
    ----------
    store : str or path
        Sky store with the maps.
    prediction, target : str or sequence of str
        One map a band, in the same unit and order.
    out_dir : path
        Folder to write; made if it is not there, files of the same names are replaced.
    by : str, optional
        Map of survey codes (uint8) to tell numbers apart by; the default is left out where the store has no such map.
    names : mapping of int to str, optional
        Names of the codes; by default those in the provenance of the map (`codes`), else "survey 1", ...
    where : str or Region, optional
        Pixels that count, for example "b < -10" or "survey in 1, 2"; see `train`.  Default: all.
    mask : str or sequence of str, optional
        Map, or one a band, that is 0 where a pixel may be used, for example "mask_850um".
    low_cut : float or sequence of float, optional
        Leave out pixels whose target is below it, in the unit of the maps; one for all bands, or one a band.
    limit : float
        Relative errors beyond it are counted as above the limit.
    groups : int
        Groups of brightness of about equal size, 10 for deciles.
    fine_store : str or path, optional
        Store at a finer nside with predictions of the same bands, for pictures and ratios; surveys and masks are handed
        down from `store`.
    fine_prediction : str or sequence of str, optional
        Maps of `fine_store`, one a band; default the names in `prediction`.
    fine_target : str or sequence of str, optional
        Maps of `fine_store` to hold its predictions against, where the fine truth is known.
    regions : sequence of (str, float, float, float)
        Name, longitude, latitude and width in degrees, in the frame of the store: one picture each a band.
    accept : mapping, optional
        Limits that numbers must keep, {"sigma": 0.04, "r_squared_log": 0.99} for all bands or
        {"850um": {...}, "1380um": {...}}; the report says pass or fail.  See `evaluation.RULES`.
    title : str
        Of the page.
    threads : int, optional
        Tiles that this process works on at once; default all of its cores.
    memory : int or str, optional
        What this process may use, such as "4GB"; default all there is.

    Returns
    -------
    Plan of Evaluation

    Raises
    ------
    MissingMapError
        If a store does not hold a map.
    UnitError
        If a prediction and its target are in different units.
    InputError
        If bands do not pair up, a limit is unknown, or (when run) no pixel has both a prediction and a target.

    References
    ----------
    Paradis et al. 2024, A&A 691, A241, sections 4 and 5 (density, relative error, masks, ratios by survey).

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     _ = sm.simulate("dust", sky, 16, seed=1).run()
    ...     found = sm.evaluate(sky, "raw_850um", "truth_850um", folder + "/report").run()
    ...     found.total()["pixels"]
    3072
    """
    there = stores.address(store)
    known = stores.infos(there)
    selection = Selection.of(where)
    predictions, targets = listed("prediction", prediction), listed("target", target)
    if len(predictions) != len(targets):
        raise InputError(
            f"{len(predictions)} predictions ({', '.join(predictions)}) and {len(targets)} targets "
            f"({', '.join(targets)}) came; give one target for each prediction, in the same order."
        )
    bands = len(predictions)
    masks = one_a_band("mask", mask, bands)
    cuts = one_a_band("low_cut", low_cut, bands)
    stores.require_maps(there, [*selection.maps, *predictions, *targets, *(m for m in masks if m is not None)])
    if by == "survey" and by not in known:
        by = None
    if by is not None:
        stores.require_maps(there, [by])
        if known[by].dtype != "uint8":
            raise InputError(f"`by` {by!r} is {known[by].dtype}; give a map of survey codes, which is uint8.")
    if not limit > 0:
        raise InputError(f"`limit` {limit} came; give a positive relative error, for example 0.2 for 20 %.")
    if groups < 1:
        raise InputError(f"`groups` {groups} came; give at least 1.")
    labels = labels_of(predictions)
    pairs = tuple(
        Pair(label, p, t, m, None if cut is None else float(cut))
        for label, p, t, m, cut in zip(labels, predictions, targets, masks, cuts, strict=True)
    )
    for pair in pairs:
        check_units(known[pair.prediction], known[pair.target])
    wanted = limits_by_band(accept, labels, fine=fine_target is not None)
    codes = code_names(known.get(by or ""), names)
    tiling = stores.tiling_of(there)
    frame = stores.frame_of(there)
    views = [view_of(region, frame) for region in regions]
    used_masks = tuple(dict.fromkeys(m for m in masks if m is not None))
    ratios = ratios_of(predictions, targets, used_masks)
    measure = Measure(pairs, ratios, by, limit, tiling, frame, selection)
    tiles = tiles_to_visit(there, measure)
    finer = None
    if fine_store is not None:
        finer = fine_measure(there, fine_store, measure, fine_prediction, fine_target, used_masks)
    elif fine_prediction is not None or fine_target is not None:
        raise InputError("`fine_prediction` or `fine_target` came without `fine_store`; say in which store they are.")
    fine_where = None if fine_store is None else stores.address(fine_store)
    fine_tiles = () if finer is None or fine_where is None else tiles_to_visit(fine_where, finer[0])
    shown = [
        RegionMaps(
            pair.label,
            known[pair.prediction].unit,
            there,
            pair.prediction,
            pair.target,
            fine_where,
            None if finer is None else finer[1][place],
            limit,
        )
        for place, pair in enumerate(pairs)
    ]
    folder = os.fspath(out_dir)

    def execute(run: Run) -> Evaluation:
        pages = make_directory(folder)
        coarse = gather(there, measure, tiles, run, "evaluate")
        fine = (
            Gathered() if finer is None or fine_where is None else gather(fine_where, finer[0], fine_tiles, run, "fine")
        )
        about = {
            pair.label: _about(pair, known[pair.prediction].unit, limit, None if where is None else str(where))
            for pair in pairs
        }
        # Bands without a single pixel have no statistics at all.
        numbers = all_numbers(
            Gathered({label: coarse.pairs.get(label, {}) for label in labels}, coarse.ratios),
            fine,
            codes,
            groups,
            about,
        )
        for pair in pairs:
            _refuse_nothing(pair, numbers["pairs"][pair.label]["total"], there)
        numbers = {
            "title": title,
            "nside": tiling.nside,
            "frame": frame,
            "fine_nside": None if fine_where is None else stores.tiling_of(fine_where).nside,
            **numbers,
            "checks": check_numbers(wanted, numbers["pairs"], numbers["fine"]),
        }
        page = write_evaluation(pages, title, _subtitle(numbers), numbers, coarse, fine, codes, views, shown)
        found = Evaluation(folder, numbers)
        # The page comes last: where it is, everything that it shows is there too.
        write_text(pages / "report.json", found.to_json())
        write_text(pages / "index.html", page)
        return found

    dtypes = {name: entry.dtype for name, entry in known.items()}
    parts = task_memory(tiling, measure, dtypes)
    read = parts["inputs"] * len(tiles)
    notes = [f"writes a report: index.html, report.json, figures of {', '.join(labels)}"]
    if finer is not None and fine_where is not None:
        fine_parts = task_memory(stores.tiling_of(fine_where), finer[0], dtypes)
        read += fine_parts["inputs"] * len(fine_tiles)
        parts = max(parts, fine_parts, key=lambda sizes: sum(sizes.values()))
        notes.append(f"then {len(fine_tiles)} tiles of {fine_where}")
    return Plan(
        "evaluate",
        folder,
        execute,
        Worker.here(threads, parse_bytes(memory)),
        todo=tiles,
        n_tiles=tiling.n_tiles,
        read_bytes=read,
        memory=parts,
        notes=notes,
    )


def _about(pair: Pair, unit: str, limit: float, selection: str | None) -> dict[str, Any]:
    return {
        "prediction": pair.prediction,
        "target": pair.target,
        "unit": unit,
        "mask": pair.mask,
        "low_cut": pair.low_cut,
        "limit": limit,
        "where": selection,
    }


def _refuse_nothing(pair: Pair, total: Mapping[str, Any], where: str) -> None:
    if total["pixels"]:
        return
    reasons = [f"{total['n_prediction']:,} pixels have a prediction, {total['n_target']:,} a target"]
    reasons.append(f"{total['n_both']:,} both (and a target other than 0)")
    if pair.mask is not None:
        reasons.append(f"{total['n_masked']:,} of those are masked by {pair.mask!r}")
    if pair.low_cut is not None:
        reasons.append(f"{total['n_cut']:,} are below `low_cut` {pair.low_cut:g}")
    raise InputError(
        f"nothing is left to compare {pair.prediction!r} with {pair.target!r} in {where}: {'; '.join(reasons)}. "
        "Check that both maps cover the same sky and that mask and cut leave something of it."
    )


def _subtitle(numbers: Mapping[str, Any]) -> str:
    bands = ", ".join(f"{pair['prediction']} against {pair['target']}" for pair in numbers["pairs"].values())
    fine = f", fine nside {numbers['fine_nside']}" if numbers["fine_nside"] else ""
    return f"{bands}; nside {numbers['nside']}{fine}, {numbers['frame']} coordinates"
