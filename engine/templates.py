"""Templates: maps of gas columns for a fit, from a cube of neutral hydrogen, dispersion measures and CO."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from ..chunking import store as stores
from ..chunking.errors import InputError, MissingMapError, UnitError
from ..chunking.schema import MapInfo
from ..chunking.unit_names import SQUARES
from ..chunking.units import conversion, parse_unit, quantity_of
from ..models import columns
from .arguments import checked
from .ledger import map_digest
from .mapping import map_plan
from .plan import Plan
from .records import RunReport
from .targets import observed_in_any, output_store, tiles_over
from .templates_kernel import DDOF, Molecules, Scaled, TemplatesKernel
from .velocity_cuts import cube_cuts, cut_notes, range_words
from .worker import Worker, parse_bytes

log = logging.getLogger("skymill")

_SQUARE_OF: Final = {unit: square for square, unit in SQUARES.items()}
_LARGEST_VARIANCE: Final = 1e43  # cm^-4, of a column of 3e21 cm^-2


@checked
def templates(
    store: stores.StoreAddress,
    *,
    cube: str | None = None,
    cuts: Mapping[str, Any] | None = None,
    spin_temperature: float | None = None,
    dm: str | None = None,
    dm_variance: str | None = None,
    co: str | None = None,
    co_systematic: float | str | None = None,
    co_simulations: Sequence[str] = (),
    x_co: float = columns.X_CO,
    unit: str = "1e20 cm^-2",
    out_store: stores.StoreAddress | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[RunReport]:
    """Return the plan that makes maps of gas columns: neutral, ionised and molecular hydrogen.

    Writes, each (cells,) float32 in `unit`, NaN where an input has no value:

    - from a cube, a map for every velocity cut, by default `nhi`, `lvc` and `ivc`: the sum over channels of 1.823e18
      cm^-2 per K km/s times brightness times the width of the part of the channel inside the cut (gas is taken as
      spread evenly over a channel);
    - from a dispersion measure, `nhii`, the column of free electrons, which stands for that of ionised hydrogen;
    - from CO, `nh2` = 2 N_H2 = 2 X_CO W_CO, hydrogen nuclei in molecules;
    - `variance_nhii` and `variance_nh2`, in the square of `unit`, where their inputs are given.

    All inputs are maps of one store, and so of one nside and frame: what comes at another nside is brought to it before
    with `skymill.degrade` (from a finer one) or `skymill.resample`.

    Parameters
    ----------
    store : str or path
        Sky store with the inputs.
    cube : str, optional
        Name of a cube (channel, cells): brightness temperature in K, K km/s a channel, or column density a channel.
    cuts : mapping of str to (low, high) or to several of them, optional
        Velocities in km/s by the name of the map that is written; several ranges are added, once where they overlap.
        For |v| from 35 to 90 give [(-90, -35), (35, 90)].  Default {"nhi": (-90, 90), "lvc": (-35, 35), "ivc": [(-90,
        -35), (35, 90)]}; these limits are guesses, the publication gives none.
    spin_temperature : float, optional
        T_s in K: correct the neutral hydrogen for its optical depth, N = -1.823e18 T_s times the integral of
        ln(1 - T / T_s) over velocity.  Only for a cube of brightness temperatures.  Where T reaches T_s in some channel
        of a cut, no optical depth explains it: NaN, and the run logs how many pixels that are.
    dm : str, optional
        Map of dispersion measures, in pc cm^-3 or any unit of column density.
    dm_variance : str, optional
        Its variance (pc^2 cm^-6, say), or its standard deviation in a unit as for `dm`.
    co : str, optional
        Map of W_CO (J = 1-0), in K km/s.
    co_systematic : float or str, optional
        Systematic standard deviation of W_CO: a number in K km/s, or a map of it.
    co_simulations : sequence of str
        Maps of simulated noise of W_CO, two or more; their variance about their mean (ddof 1) counts.  They are read
        one after the other, so memory does not grow with their number.
    x_co : float
        N_H2 / W_CO in cm^-2 per K km/s (default Bolatto, Wolfire & Leroy 2013).
    unit : str
        Of the columns that are written.
    out_store : str or path, optional
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
        If the store does not hold an input.
    UnitError
        If units do not combine: a cube that is neither brightness nor column, CO that is no line intensity, `unit` that
        is no column density.
    InputError
        If nothing is asked for, an option lacks what it belongs to, a cut holds no channel, two maps would have one
        name, or a number is not positive and finite.

    References
    ----------
    Cheng et al. 2025, equation 6.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> from skymill.chunking import store as stores
    >>> from skymill.chunking.schema import MapInfo
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     stores.create(sky, 1, frame="galactic")
    ...     stores.create_maps(sky, [MapInfo("w_co", "line intensity", "K km/s")])
    ...     for tile in range(12):
    ...         _ = stores.write_tile(sky, "w_co", tile, np.full(1, 0.5, np.float32))
    ...     _ = sm.templates(sky, co="w_co", co_systematic=0.1).run()
    ...     [round(float(sm.open(sky)[name][0]), 4) for name in ("nh2", "variance_nh2")]
    [2.0, 0.16]
    """
    where = stores.address(store)
    _check_options(cube, cuts, spin_temperature, dm, dm_variance, co, co_systematic, co_simulations, x_co)
    unit = parse_unit(unit)
    if quantity_of(unit) != "column density":
        raise UnitError(f"`unit` {unit!r} came, which measures {quantity_of(unit)}; columns are written in cm^-2, say.")
    named = [name for name in (cube, dm, dm_variance, co) if name is not None]
    named += [co_systematic] if isinstance(co_systematic, str) else []
    known = _inputs(where, [*named, *co_simulations])
    notes: list[str] = []
    maps: list[MapInfo] = []
    cut_facts: dict[str, Any] = {}
    kernel_cuts = None
    if cube is not None:
        kernel_cuts, cut_facts = cube_cuts(where, known[cube], cuts, spin_temperature, unit)
        notes += cut_notes(cut_facts)
        maps += [
            MapInfo(
                name,
                "column density",
                unit,
                long_name=f"N_HI from {range_words(fact['velocities'])}",
                beam_fwhm_arcmin=known[cube].beam_fwhm_arcmin,
                pixel_window=known[cube].pixel_window,
                provenance={"cut": fact},
            )
            for name, fact in cut_facts.items()
        ]
    ionised = None if dm is None else Scaled(dm, _factor(known[dm], unit, "a dispersion measure"))
    ionised_variance, square = None, False
    if dm is not None:
        maps.append(_like(known[dm], "nhii", unit, "column of free electrons, for N_HII"))
    if dm_variance is not None:
        spread = known[dm_variance]
        square = parse_unit(spread.unit) in SQUARES
        to = _SQUARE_OF[unit] if square else unit
        ionised_variance = Scaled(dm_variance, _factor(spread, to, "the variance of a dispersion measure"))
        maps.append(_variance(spread, "variance_nhii", unit))
    molecules = None
    if co is not None:
        molecules = _molecules(known, co, co_systematic, co_simulations, x_co * conversion("cm^-2", unit).factor)
        maps.append(_like(known[co], "nh2", unit, f"2 N_H2, with X_CO = {x_co:g} cm^-2 per K km/s"))
        if molecules.with_variance:
            maps.append(_variance(known[co], "variance_nh2", unit))
    into = output_store(where, out_store)
    _check_names(maps, known if into.address == where else {})
    tiling = stores.tiling_of(where)
    npix = into.tiling.tile_npix

    def after(report: RunReport) -> None:
        bright = sum(int(record.statistics.get("bright", 0)) for record in report.records)
        if bright:
            log.warning(
                "templates: %d pixels of %s are as bright as the spin temperature of %g K or brighter; no optical "
                "depth explains that, and they have no value in the cuts concerned.",
                bright,
                cube,
                spin_temperature,
            )

    return map_plan(
        "templates",
        TemplatesKernel(where, npix, kernel_cuts, ionised, ionised_variance, square, molecules),
        source=where,
        reads=named,
        cubes=True,
        target=into.address,
        target_tiling=into.tiling,
        before=into.create,
        after=after,
        writes=maps,
        tiles=tiles_over(observed_in_any(where, named), tiling, into.tiling),
        parameters={
            "cuts": cut_facts,
            "spin_temperature": spin_temperature,
            "units": {name: info.unit for name, info in known.items()},
            "dm": dm,
            "dm_variance": dm_variance,
            "co": co,
            "co_systematic": co_systematic,
            "co_simulations": list(co_simulations),
            "ddof": DDOF if co_simulations else None,
            "x_co": x_co if co is not None else None,
            "unit": unit,
        },
        inputs={name: map_digest(where, name) for name in co_simulations},
        memory={
            "columns": 8 * len(cut_facts) * npix,
            "blocks": 8 * 8 * columns.BLOCK if cube is not None else 0,
            "ionised": 16 * npix if dm is not None else 0,
            "molecular": (72 if co_simulations else 40) * npix if co is not None else 0,
        },
        worker=Worker.here(threads, parse_bytes(memory)),
        overwrite=overwrite,
        notes=notes,
    )


def _check_options(
    cube: str | None,
    cuts: Any,
    spin_temperature: float | None,
    dm: str | None,
    dm_variance: str | None,
    co: str | None,
    co_systematic: float | str | None,
    co_simulations: Sequence[str],
    x_co: float,
) -> None:
    """Raise InputError where nothing is asked for, an option hangs in the air, or a number makes no sense."""
    if cube is None and dm is None and co is None:
        raise InputError("nothing is asked for; give `cube`, `dm` or `co`, the names of maps in the store.")
    if isinstance(co_simulations, str):
        raise InputError(f"`co_simulations` {co_simulations!r} came; give a list of names of maps.")
    for given, option, belongs, to in (
        (cuts is not None, "cuts", cube, "cube"),
        (spin_temperature is not None, "spin_temperature", cube, "cube"),
        (dm_variance is not None, "dm_variance", dm, "dm"),
        (co_systematic is not None, "co_systematic", co, "co"),
        (len(co_simulations) > 0, "co_simulations", co, "co"),
        (x_co != columns.X_CO, "x_co", co, "co"),
    ):
        if given and belongs is None:
            raise InputError(f"`{option}` came without `{to}`, which it speaks of; give both or none.")
    if len(co_simulations) == 1 or len(set(co_simulations)) < len(co_simulations):
        raise InputError(
            f"`co_simulations` {', '.join(co_simulations)} came; a variance takes two or more different maps."
        )
    for option, value in (("spin_temperature", spin_temperature), ("x_co", x_co)):
        if value is not None and not 0.0 < value < math.inf:
            raise InputError(f"`{option}` {value} came; a positive, finite number is expected.")
    if isinstance(co_systematic, int | float) and not 0.0 <= co_systematic < math.inf:
        raise InputError(
            f"`co_systematic` {co_systematic} came; a standard deviation in K km/s, 0 or more, is expected."
        )


def _inputs(where: str, names: Sequence[str]) -> dict[str, MapInfo]:
    try:
        stores.require_maps(where, names, cubes=True)
    except MissingMapError as error:
        nside = stores.tiling_of(where).nside
        raise MissingMapError(
            f"{error} All inputs are in one store, here of nside {nside}: bring a map of another nside into it "
            "with skymill.degrade (from a finer one) or skymill.resample."
        ) from error
    return {name: stores.info(where, name) for name in names}


def _check_names(maps: Sequence[MapInfo], inputs: Mapping[str, MapInfo]) -> None:
    names = [made.name for made in maps]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two maps would be called {name!r}; give the cut another name.")
        if name in inputs:
            raise InputError(
                f"{name!r} is an input and would be written; give the cut another name, or another store as "
                "`out_store`."
            )


def _factor(info: MapInfo, unit: str, what: str) -> float:
    if info.is_cube:
        raise InputError(f"{info.name!r} is a cube; {what} is a map (cells,).")
    try:
        return conversion(info.unit, unit).factor
    except UnitError as error:
        raise UnitError(f"map {info.name!r} is in {info.unit}, which is not {what}: {error}") from error


def _like(info: MapInfo, name: str, unit: str, sentence: str) -> MapInfo:
    return replace(
        info,
        name=name,
        quantity="column density",
        unit=unit,
        dtype="float32",
        long_name=sentence,
        band=None,
        provenance={},
    )


def _variance(info: MapInfo, name: str, unit: str) -> MapInfo:
    square = _SQUARE_OF[unit]
    if _LARGEST_VARIANCE * conversion("cm^-4", square).factor > float(np.finfo(np.float32).max):
        raise InputError(
            f"`unit` {unit!r} came, and maps are float32: a variance in {square} would overflow. Write columns in "
            '"1e20 cm^-2".'
        )
    made = _like(info, name, unit, f"variance of {name.removeprefix('variance_')}")
    return replace(made, quantity="variance of column density", unit=square)


def _molecules(
    known: Mapping[str, MapInfo],
    co: str,
    systematic: float | str | None,
    simulations: Sequence[str],
    x_co: float,
) -> Molecules:
    def line(name: str, what: str) -> Scaled:
        return Scaled(name, _factor(known[name], "K km/s", what))

    spread: Scaled | float | None = None
    if isinstance(systematic, str):
        spread = line(systematic, "the uncertainty of a line")
    elif systematic is not None:
        spread = float(systematic)
    many = tuple(line(name, "a simulated line") for name in simulations)
    return Molecules(line(co, "a line intensity"), spread, many, x_co, spread is not None or bool(many))
