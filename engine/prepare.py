"""Preparation: recipes applied to maps of a store, tile by tile, each step with its statistics in the provenance."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.bands import band as find_band
from ..chunking.errors import InputError, RunError
from ..chunking.schema import MapInfo
from ..chunking.units import parse_unit, quantity_of
from .arguments import checked
from .mapping import STATISTICS, map_plan
from .moments import Moments
from .plan import Plan
from .recipe import Recipe, planck_recipe
from .records import RunReport
from .steps import Action, Convert, DropNegative, Scale, SubtractCO, SubtractMap, SubtractMonopole
from .targets import observed_in_any, output_store, tiles_over
from .worker import Worker, parse_bytes

__all__ = [
    "Convert",
    "DropNegative",
    "Recipe",
    "Scale",
    "SubtractCO",
    "SubtractMap",
    "SubtractMonopole",
    "planck_recipe",
    "prepare",
]

type Recipes = Recipe | Mapping[str, Any] | str | os.PathLike[str]

# Values before and after a step, a template or a mask's operands, what is counted, and its deviations: float64 each.
_BYTES_PER_PIXEL = 6 * 8


@dataclass(frozen=True)
class Chain:
    """A recipe, settled: the map read, the map written, and the actions between them."""

    input: str
    output: str
    actions: tuple[Action, ...]


@dataclass(frozen=True)
class PrepareKernel:
    """Applies settled recipes to one tile."""

    chains: tuple[Chain, ...]

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Return the prepared maps, each (cells,) float32, and the statistics of every step."""
        outputs: dict[str, Any] = {}
        statistics: dict[str, list[list[float | None]]] = {}
        for chain in self.chains:
            values = inputs[chain.input].astype(np.float64)
            values[~np.isfinite(values)] = np.nan
            rows = [_row(values)]
            for action in chain.actions:
                after = action(values, inputs)
                after[~np.isfinite(after)] = np.nan
                rows.append(_row(after, values))
                values = after
            statistics[chain.output] = rows
            _check_range(chain.output, rows[-1])
            if rows[-1][0]:
                outputs[chain.output] = values.astype(np.float32)
        outputs[STATISTICS] = statistics
        return outputs


def _row(values: NDArray[np.float64], before: NDArray[np.float64] | None = None) -> list[float | None]:
    """Return count, mean, sum of squared deviations, minimum, maximum, pixels changed, pixels lost."""
    changed = lost = 0
    if before is not None:
        # NaN compares as different from everything: count the pixels that have a value on both sides.
        lost = int(np.count_nonzero(np.isnan(values) & ~np.isnan(before)))
        changed = int(np.count_nonzero((values < before) | (values > before)))
    moments = Moments.of(values[~np.isnan(values)])
    if moments.count == 0:
        return [0, 0.0, 0.0, None, None, changed, lost]
    return [moments.count, moments.mean, moments.squares, moments.minimum, moments.maximum, changed, lost]


def _check_range(output: str, row: Sequence[float | None]) -> None:
    largest = max(abs(row[3] or 0.0), abs(row[4] or 0.0))
    if largest > float(np.finfo(np.float32).max):
        raise InputError(
            f"map {output!r} would reach {largest:.3g}, more than float32 holds; choose a larger unit for it, "
            "1e20 cm^-2 instead of cm^-2 for example."
        )


@checked
def prepare(
    store: stores.StoreAddress,
    recipe: Recipes | Sequence[Recipes],
    *,
    out: stores.StoreAddress | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[RunReport]:
    """Return the plan that applies recipes to maps and writes the prepared ones.

    Writes, for every recipe, its `output` (cells,) float32 in the unit that the steps lead to.  The provenance of
    that map (`sm.open(store)[output].attrs["skymill"]["provenance"]["steps"]`) lists every step with the constants
    it used and where they come from, count, mean, standard deviation, minimum and maximum before and after it, and
    how many pixels it changed and lost.

    Parameters
    ----------
    store : str or path
        Sky store with the maps that the recipes read.
    recipe : Recipe, mapping, path, or a list of them
        What to do; a mapping is read by `Recipe.from_dict`, a path by `Recipe.from_toml`.
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
        If a map or template is missing.
    UnitError
        If units do not agree, or a band or beam is needed to convert them; the message says which step.
    InputError
        If a recipe is not what is described.
    RunError
        From the run, if a step changed nothing anywhere, or left pixels as they were that it must change: a
        subtraction that silently does nothing gives a map that looks right.  The map of that recipe is removed.

    References
    ----------
    Paradis et al. 2024, A&A 691, A241, section 2.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> from skymill.engine.prepare import Convert, Recipe
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     _ = sm.simulate("dust", sky, 16, seed=1).run()
    ...     _ = sm.prepare(sky, Recipe("i160", "i160_kjy", [Convert("kJy/sr")])).run()
    ...     sm.open(sky)["i160_kjy"].attrs["units"]
    'kJy/sr'
    """
    where = stores.address(store)
    recipes = _recipes(recipe)
    _check_names(recipes)
    settled = [_settle(where, one) for one in recipes]
    chains = tuple(chain for chain, _ in settled)
    reads = list(dict.fromkeys(name for chain in chains for name in _reads(chain)))
    into = output_store(where, out)
    # A template that is missing on a tile leaves no value there, and that is counted as lost: hence these tiles.
    tiles = tiles_over(observed_in_any(where, [chain.input for chain in chains]), stores.tiling_of(where), into.tiling)

    def finish(report: RunReport) -> None:
        record_steps(into.address, chains, report)

    return map_plan(
        "prepare",
        PrepareKernel(chains),
        source=where,
        reads=reads,
        tiles=tiles,
        target=into.address,
        target_tiling=into.tiling,
        before=into.create,
        after=finish,
        writes=[made for _, made in settled],
        parameters={
            "recipes": [one.to_dict() for one in recipes],
            "constants": {chain.output: [dict(action.facts) for action in chain.actions] for chain in chains},
        },
        memory={"temporaries": _BYTES_PER_PIXEL * into.tiling.tile_npix},
        worker=Worker.here(threads, parse_bytes(memory)),
        overwrite=overwrite,
        notes=[
            f"recipe  {chain.input} -> {chain.output} [{made.unit}]: "
            + ", ".join(str(action.facts["step"]) for action in chain.actions)
            for chain, made in settled
        ],
    )


def _recipes(given: Recipes | Sequence[Recipes]) -> tuple[Recipe, ...]:
    if isinstance(given, Recipe):
        return (given,)
    if isinstance(given, Mapping):
        return (Recipe.from_dict(given),)
    if isinstance(given, (str, os.PathLike)):
        return Recipe.from_toml(given)
    if isinstance(given, Sequence) and given:
        return tuple(one for entry in given for one in _recipes(entry))
    raise InputError(
        f"`recipe` {given!r} came; a Recipe, a table, the path of a TOML file, or a list of them is expected."
    )


def _reads(chain: Chain) -> list[str]:
    return [chain.input, *(name for action in chain.actions for name in action.reads)]


def _settle(where: str, recipe: Recipe) -> tuple[Chain, MapInfo]:
    """Return the recipe with its units settled, and what it makes."""
    source = stores.info(where, recipe.input)
    actions, unit = recipe.settle(parse_unit(source.unit), lambda name: stores.info(where, name).unit)
    same = quantity_of(source.unit) == quantity_of(unit)
    made = MapInfo(
        recipe.output,
        source.quantity if same else quantity_of(unit),
        unit,
        long_name=recipe.long_name or f"{source.long_name or recipe.input}, prepared",
        band=source.band if recipe.band is None else find_band(recipe.band).name,
        beam_fwhm_arcmin=source.beam_fwhm_arcmin,
        pixel_window=source.pixel_window,
    )
    return Chain(recipe.input, recipe.output, actions), made


def _check_names(recipes: Sequence[Recipe]) -> None:
    """Refuse recipes of which one reads or writes what another writes: their order would matter."""
    written: set[str] = set()
    for recipe in recipes:
        if recipe.output in written:
            raise InputError(f"two recipes write {recipe.output!r}; give one of them another `output`.")
        written.add(recipe.output)
    for recipe in recipes:
        named = {recipe.input}
        for step in recipe.steps:
            named |= {getattr(step, "template", recipe.input), *getattr(step, "maps", ())}
        both = sorted(named & written)
        if both:
            raise InputError(
                f"the recipe for {recipe.output!r} reads {both[0]!r}, which this call writes; prepare that map in "
                "a call of its own, first."
            )


@dataclass(frozen=True)
class _Stage:
    """What is known of a map at one point of its recipe."""

    moments: Moments
    changed: int
    lost: int

    def merge(self, other: _Stage) -> _Stage:
        return _Stage(self.moments.merge(other.moments), self.changed + other.changed, self.lost + other.lost)

    @classmethod
    def of(cls, row: Sequence[float | None]) -> _Stage:
        count, mean, squares, minimum, maximum, changed, lost = row
        moments = Moments()
        if count and minimum is not None and maximum is not None:
            moments = Moments(int(count), float(mean or 0.0), float(squares or 0.0), float(minimum), float(maximum))
        return cls(moments, int(changed or 0), int(lost or 0))

    def summary(self) -> dict[str, float | int | None]:
        known = self.moments
        return {
            "count": known.count,
            "mean": known.mean if known.count else None,
            "std": float(np.sqrt(known.squares / known.count)) if known.count else None,
            "min": known.minimum if known.count else None,
            "max": known.maximum if known.count else None,
        }


def record_steps(store: str, chains: Sequence[Chain], report: RunReport) -> None:
    """Write the statistics of every step into the provenance of the maps, merged in the order of tiles.

    Parameters
    ----------
    store : str
        Store with the maps.
    chains : sequence of Chain
        The settled recipes.
    report : RunReport
        Report of the run, with one record a tile.

    Raises
    ------
    RunError
        If a step did not do what it is there for.  The map is removed first, so that no half-prepared map is ever
        taken for a finished one.
    """
    faults: list[str] = []
    for chain in chains:
        stages = [_Stage(Moments(), 0, 0)] * (len(chain.actions) + 1)
        for record in report.records:
            rows = record.statistics[chain.output]
            stages = [stage.merge(_Stage.of(row)) for stage, row in zip(stages, rows, strict=True)]
        found = [
            f"{chain.output!r}, step {number} ({_name(action)}): {fault}"
            for number, (action, before, after) in enumerate(
                zip(chain.actions, stages[:-1], stages[1:], strict=True), 1
            )
            if (fault := _fault(action, before, after))
        ]
        if found:
            # The first step at fault explains those after it.
            faults.append(found[0])
            stores.delete_map(store, chain.output)
            continue
        _write(store, chain, stages)
    if faults:
        raise RunError(
            "prepare: "
            + "; ".join(faults)
            + ". The map was removed, so that it is not taken for a prepared one. Correct the recipe or the template "
            "and run it again."
        )


def _fault(action: Action, before: _Stage, after: _Stage) -> str | None:
    """Return what is wrong with a step, judged by all its pixels, or None."""
    held = before.moments.count
    if not held:
        return "the map has no value anywhere"
    if action.positive is not None:
        if after.lost == held:
            return f"all {held} pixels were dropped"
        return None if after.lost or action.may_be_idle else "changed nothing: no pixel was dropped"
    if not after.moments.count:
        return f"all {held} pixels lost their value; {action.template or 'the result'} has none where the map has"
    if not after.changed:
        template = f"; the template {action.template!r} is 0 wherever the map has a value" if action.template else ""
        return f"changed nothing in {held} pixels" + template
    if action.changes_all and after.changed != held:
        return f"changed only {after.changed} of {held} pixels, all expected"
    return None


def _name(action: Action) -> str:
    label = action.facts.get("label")
    return f"{action.facts['step']} {label}" if label else str(action.facts["step"])


def _write(store: str, chain: Chain, stages: Sequence[_Stage]) -> None:
    array = stores.open_group(store, mode="r+")[chain.output]
    ours = cast(dict[str, Any], array.attrs["skymill"])
    steps = [
        {
            **action.facts,
            "before": before.summary(),
            "after": after.summary(),
            "changed": after.changed,
            "lost": after.lost,
        }
        for action, before, after in zip(chain.actions, stages[:-1], stages[1:], strict=True)
    ]
    provenance = {**ours.get("provenance", {}), "steps": steps}
    array.attrs["skymill"] = {**ours, "provenance": provenance}
    stores.forget_open_arrays()
