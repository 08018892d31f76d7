"""Fewer templates: the negligible dropped and the degenerate merged, step by step, each step recorded."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError, UnitError
from ..chunking.schema import MapInfo
from ..models.gls_solution import jackknife_error
from ..models.template_choice import Limits, Step, grouped, grouped_moments, merged_name
from ..models.template_choice import simplify as simplified
from .arguments import checked
from .fit_pass import gather, kernel_of, tiles_of, why_empty
from .fit_request import FitRequest, Noise, Where, request_of
from .mapping import map_plan
from .plan import RESERVED_BYTES, Plan, Run
from .report import plain
from .targets import output_store
from .worker import Worker, parse_bytes

log = logging.getLogger("skymill")


@dataclass(frozen=True)
class Simplified:
    """What is left of a set of templates, and how it came about.

    Parameters
    ----------
    templates : tuple of str
        Maps to fit with: what was left, and the sums that were written.
    sums : mapping of str to tuple of str
        Which templates each written map is the sum of.
    steps : tuple of Step
        In their order.
    """

    templates: tuple[str, ...]
    sums: dict[str, tuple[str, ...]]
    steps: tuple[Step, ...]

    def to_json(self) -> str:
        """Return everything as JSON."""
        sums = {name: list(members) for name, members in self.sums.items()}
        steps = [step.as_dict() for step in self.steps]
        return json.dumps(plain({"templates": list(self.templates), "sums": sums, "steps": steps}), indent=2)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.steps), f"templates left: {', '.join(self.templates)}"])


@dataclass(frozen=True)
class SumKernel:
    """Adds up the templates of each group; a pixel that one of them lacks has no value."""

    sums: tuple[tuple[str, tuple[str, ...]], ...]

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the sums of a tile, (cells,) float32."""
        made = {}
        for name, members in self.sums:
            total = inputs[members[0]].astype(np.float64)
            for each in members[1:]:
                total += inputs[each]
            made[name] = total.astype(np.float32)
        return made


@checked
def simplify(
    store: stores.StoreAddress,
    templates: Sequence[str],
    target: str | Sequence[str],
    *,
    noise: Noise | dict[str, Noise] = None,
    mask: str | None = None,
    region: Where | None = None,
    offset: bool = True,
    jackknife: int | None = 4,
    keep: Sequence[str] = (),
    drop: Sequence[str] = (),
    merge: Sequence[Sequence[str]] = (),
    significance: float = 2.0,
    contribution: float = 0.01,
    correlation: float = 0.9,
    out_store: stores.StoreAddress | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[Simplified]:
    """Return the plan that drops negligible templates, merges degenerate ones, and writes the sums.

    The normal equations of all templates are summed in one pass; all steps are algebra on them, each decided by a fit
    of what is left then.  What was asked for in `drop` and `merge` comes first.  After that, as long as there is one,
    the template that falls furthest below a limit is dropped; where none does, the two whose coefficients trade most
    against each other are merged: one template, their sum, with one coefficient.  Sums are written as maps, named after
    their members (cluster_3 and cluster_4 become cluster_3_4).

    Parameters
    ----------
    store : str or path
        The sky store.
    templates : sequence of str
        Maps to begin with.
    target : str or sequence of str
        Maps that they are fitted to; with several, limits must be passed in every one.
    noise, mask, region, offset
        As for `fit`; one region.
    jackknife : int, optional
        Nside of the super-pixels whose jackknife gives the errors of `significance`, as for `fit`; None takes the
        formal errors, and so does a region with fewer than 10 super-pixels, which the run logs.
    keep : sequence of str
        Templates that the limits neither drop nor merge, for example an ionised-gas template.
    drop : sequence of str
        Templates to drop in any case.
    merge : sequence of sequence of str
        Templates to add up in any case.
    significance : float
        Drop a template whose coefficient is below so many of its errors.  The default is a guess.
    contribution : float
        Drop a template whose coefficient times its standard deviation is below this part of the standard deviation of
        the target.  The default is a guess.
    correlation : float
        Merge two templates whose coefficients correlate below minus this.  The default is a guess.
    out_store : str or path, optional
        Store to write into; default the store itself.
    overwrite : bool
        Replace maps that another run made.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan
        Its run returns a Simplified: the templates that are left, the sums, and the steps.

    Raises
    ------
    MissingMapError
        If the store does not hold a map.
    InputError
        If nothing can be fitted, or an option names what is no template.
    UnitError
        If templates to be merged are in different units.

    References
    ----------
    Cheng et al. 2025, section on the choice of clusters: clusters with negligible coefficients were dropped, and two
    that are degenerate with ionised gas were merged.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     _ = sm.simulate("dust", sky, 16, seed=1).run()
    ...     left = sm.simplify(sky, ["i250", "i350"], "i500", merge=[["i250", "i350"]]).run()
    ...     left.templates, left.steps[0].action
    (('i250_i350',), 'merged')
    """
    if any(isinstance(group, str) for group in merge):
        raise InputError(f"`merge` {list(merge)!r} came; give a list of lists of names, one for each sum.")
    keep, drop = ((each,) if isinstance(each, str) else tuple(each) for each in (keep, drop))
    request = request_of(
        store,
        templates,
        target,
        noise=noise,
        mask=mask,
        region=region,
        offset=offset,
        jackknife=jackknife,
        superpixels=None,
        ridge=0.0,
        maps=False,
    )
    limits = Limits(significance, contribution, correlation)
    worker = Worker.here(threads, parse_bytes(memory))
    goal = output_store(request.store, out_store)

    def execute(run: Run) -> Simplified:
        sums = gather(request, run)[0]
        if sums is None:
            raise InputError(why_empty(request, 0, run))

        def errors(places: Sequence[Sequence[int]]) -> NDArray[np.float64]:
            total = grouped(sums.total, places)
            solution = total.solve(offset=offset, variance=request.variance)
            parts = grouped_moments(sums.moments, len(request.templates), places)
            return jackknife_error(total, parts, solution)

        few = request.jackknife is not None and len(sums.parts) < _FEWEST_PARTS
        if few:
            log.warning(
                "simplify: only %d super-pixels of nside %d hold pixels, too few for a jackknife; formal errors decide "
                "what is significant. Take a finer nside.",
                len(sums.parts),
                request.jackknife,
            )
        left, steps = simplified(
            sums.total,
            request.templates,
            limits,
            keep=keep,
            drop=drop,
            merge=merge,
            offset=offset,
            variance=request.variance,
            errors=None if request.jackknife is None or few else errors,
        )
        made = {merged_name(members): members for members in left if len(members) > 1}
        if made:
            infos = [_info(request, name, members, steps) for name, members in made.items()]
            reads = tuple(dict.fromkeys(each for members in made.values() for each in members))
            plan = map_plan(
                "simplify",
                SumKernel(tuple(made.items())),
                target=goal.address,
                source=request.store,
                writes=infos,
                reads=reads,
                target_tiling=goal.tiling,
                before=goal.create,
                memory={"sums": 16 * goal.tiling.tile_npix},
                parameters={"sums": {name: list(members) for name, members in made.items()}},
                overwrite=overwrite,
                worker=run.worker,
            )
            plan.check(run.worker)
            plan.execute(run)
        return Simplified(tuple(merged_name(members) for members in left), made, tuple(steps))

    tiles = tiles_of(request)
    reads = request.reads
    blocks = kernel_of(request).blocks(request.tiling.tile_npix)
    parts = max(1, request.tiling.tile_npix // request.part_cells)
    # As in a fit: the sums of all parts of the sky, twice while they are ordered.
    kept = 3 * 8 * request.groups * blocks.size**2 * parts * len(tiles)
    return Plan(
        "simplify",
        goal.address,
        execute,
        worker,
        todo=tiles,
        n_tiles=request.tiling.n_tiles,
        read_bytes=4 * request.tiling.tile_npix * len(reads) * len(tiles),
        memory={"inputs": 4 * request.tiling.tile_npix * len(reads), "sums": blocks.nbytes},
        reserved=RESERVED_BYTES + kept,
        notes=[f"fits {len(request.templates)} templates to {', '.join(request.targets)}, then as often as it changes"],
    )


_FEWEST_PARTS = 10  # below, a jackknife says nothing of errors


def _info(request: FitRequest, name: str, members: tuple[str, ...], steps: Sequence[Step]) -> MapInfo:
    infos = [stores.info(request.store, each) for each in members]
    units = sorted({info.unit for info in infos})
    if len(units) > 1:
        raise UnitError(
            f"templates {', '.join(members)} are to be merged, but are in {' and '.join(units)}; bring them to one "
            "unit first (skymill.prepare)."
        )
    history = [step.as_dict() for step in steps]
    return MapInfo(
        name,
        infos[0].quantity,
        infos[0].unit,
        long_name=" + ".join(members),
        beam_fwhm_arcmin=infos[0].beam_fwhm_arcmin if len({info.beam_fwhm_arcmin for info in infos}) == 1 else None,
        provenance={"steps": plain(history)},
    )
