"""Diagnose: everything that residuals of a template fit say, in one folder with numbers, figures and a page."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from ..chunking import store as stores
from ..chunking.errors import InputError, nearest
from ..chunking.regions import Cone, Region
from .arguments import checked
from .band_frequencies import frequency_of
from .diagnose_pass import DistributionKernel, Gathered, merge_gathered, nothing_gathered
from .diagnose_report import write_diagnosis
from .diagnosis import Asked, Diagnosis, Found
from .gas_model import GasModel, gas_models, opened, targets_of
from .given_noise import white_noise
from .named_regions import areas_of
from .plan import Plan, Run
from .polarization import polarization
from .profiles import profiles
from .records import write_text
from .region_pass import pass_memory, reduce_regions, refuse_nothing, tiles_with
from .report import make_directory
from .selection import described
from .slope_statistics import SlopeRequest
from .slopes import FEWEST_PIXELS, slope_dataset, slope_request
from .temperature_statistics import Thermometer, temperature_dataset
from .worker import Worker, parse_bytes

if TYPE_CHECKING:
    import xarray as xr

log = logging.getLogger("skymill")

APPROXIMATE_REGIONS = {"LMC": (280.5, -32.9, 8.0), "SMC": (302.8, -44.3, 5.0)}
"""Circles drawn by default: galactic longitude and latitude of the Magellanic Clouds are approximate, radii a guess."""


@checked
def diagnose(
    store: stores.StoreAddress,
    fit: xr.Dataset | str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    targets: str | Sequence[str] | None = None,
    against: str | Sequence[str] | None = None,
    expected: Mapping[str, Mapping[str, float]] | None = None,
    bins: int | Mapping[str, Sequence[float]] = 15,
    temperature: str | None = None,
    low: str | None = None,
    high: str | None = None,
    third: str | None = None,
    intensity: str | None = None,
    polarized: str | Sequence[str] | None = None,
    polarization_noise: float | str | None = None,
    scaling: str = "gas",
    frequencies: Mapping[str, float] | None = None,
    mean_temperature: float = 20.0,
    conservative_temperature: float = 25.0,
    beta: float = 1.5,
    contaminants: Mapping[str, Mapping[str, float]] | None = None,
    regions: Mapping[str, Sequence[float]] | None = None,
    jackknife: int | None = 4,
    mask: str | None = None,
    region: str | Region | Sequence[str | Region] | Mapping[str, Any] | None = None,
    title: str = "Residuals of dust against gas",
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[Diagnosis]:
    """Return a plan whose run writes a report on the residuals of a fit and returns its numbers.

    The run goes a few times over the tiles and writes into `out_dir`: `report.json` with all numbers, PNG figures, and
    `index.html`.  It holds maps of the residuals on the galactic caps, their distributions with 1, 2 and 3 sigma
    intervals, profiles against other maps, temperatures, slopes with the cause that they fit, and the test of
    polarisation.  The store is not written to.

    Parameters
    ----------
    store : str or path
        Sky store with the maps.
    fit : Dataset or path
        What `skymill.fit` returned, or where it was written.
    out_dir : path
        Folder to write; made if it is not there, files of the same names are replaced.
    targets : str or sequence of str, optional
        Bands to look at; default all of the fit.
    against : str or sequence of str, optional
        Maps for the profiles; default the templates of the fit.
    expected : mapping, optional
        By target and map of `against`, the slope of a line to compare with, as {"i857": {"co": 1.7}}; see `profiles`.
    bins : int or mapping
        Of the profiles; see `profiles`.
    temperature : str, optional
        Target whose residuals become temperatures; default "i857" where the fit has it.
    low, high : str, optional
        Bands of the slopes; default "i353" and "i857" where the fit has both.
    third : str, optional
        A third band for the slopes; see `slopes`.
    intensity : str, optional
        Target of the test of polarisation; default "i353".
    polarized : str or sequence of str, optional
        Map of the polarised intensity, or those of Q and U; without it there is no such test.
    polarization_noise : float or str, optional
        Noise of Q and of U; see `polarization`.
    scaling : {"gas", "regression", "mbb"}
        See `slopes`.
    frequencies : mapping, optional
        By map, in GHz; default what their bands or names say.
    mean_temperature, conservative_temperature, beta : float
        See `temperature` and `slopes`; the defaults are guesses.
    contaminants : mapping, optional
        Further causes of slopes, such as the cosmic infrared background; see `slopes`.
    regions : mapping, optional
        Circles to draw and to look at one by one: by name, galactic longitude and latitude of the centre and radius,
        degrees.  Default approximate ones of the Magellanic Clouds (`APPROXIMATE_REGIONS`); {} is none.  The regions
        A to G of the paper have no published coordinates.
    jackknife : int or None
        nside of the patches of sky that are left out one by one for errors.
        Patches must be larger than the structures of the residuals: those of nside 4 are 15 degrees wide, see `fit`.
    mask : str, optional
        Mask map; see `skymill.mask`.  A run warns where it is not that of the fit.
    region : str, Region, sequence of them, or mapping, optional
        Pixels to use, or several regions by name, as they were given to the fit.
    title : str
        Of the page.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan of Diagnosis

    Raises
    ------
    InputError
        If the fit lacks a target or its offset, a region is no circle, an option is unknown, or (when run) too few
        pixels are left.
    MissingMapError
        If a map is missing.
    UnitError
        If noise is in a unit that does not fit.
    FormatError
        If the fit cannot be read.

    References
    ----------
    Cheng et al. 2025, figures 2, 3 and 7 to 14.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     _ = sm.simulate("dust", sky, 16, seed=1).run()
    ...     fit = sm.fit(sky, ["i500"], ["truth_850um"]).run()
    ...     found = sm.diagnose(sky, fit, folder + "/report", temperature="truth_850um", regions={}).run()
    ...     sorted(found.numbers["residuals"])
    ['truth_850um']
    """
    where = stores.address(store)
    known = opened(fit)
    bands = targets_of(known) if targets is None else ((targets,) if isinstance(targets, str) else tuple(targets))
    for name in bands:
        if name not in targets_of(known):
            raise InputError(
                f"`targets` names {name!r}, which the fit does not have; {nearest(name, targets_of(known))}."
            )
    templates = tuple(str(name) for name in known["template"].values if str(name) != "offset")
    others = templates if against is None else ((against,) if isinstance(against, str) else tuple(against))
    circles = _circles(APPROXIMATE_REGIONS if regions is None else regions)
    areas = areas_of(where, mask, region)
    clash = sorted(set(circles) & set(areas))
    if clash:
        raise InputError(f"`regions` and `region` both name {', '.join(clash)}; give different names.")
    # A circle has the coefficients of the region of the fit that a pixel lies in.
    inside = {name: _areas_inside(where, mask, region, circle) for name, circle in circles.items()}

    def models_of(target: str, *, offset: bool) -> tuple[tuple[GasModel, ...], tuple[GasModel, ...]]:
        own = gas_models(where, target, areas, fit=known, offset_matters=offset, offset_option=False)
        parts = [
            replace(model, region=name)
            for name, each in inside.items()
            for model in gas_models(where, target, each, fit=known, offset_matters=offset, offset_option=False)
        ]
        return own, tuple(parts)

    _refuse_idle(polarized, intensity=intensity, polarization_noise=polarization_noise)
    thermal = temperature if temperature is not None else ("i857" if "i857" in bands else None)
    tried = [intensity or "i353"] if polarized is not None else []
    wanted = dict.fromkeys([*bands, *([thermal] if thermal else []), *tried])
    models = {target: models_of(target, offset=True) for target in wanted}
    given = dict(frequencies or {})
    both = [low or "i353", high or "i857"]
    sloped = low is not None or high is not None or set(both) <= set(targets_of(known))
    if not sloped and (third is not None or contaminants):
        idle = "third" if third is not None else "contaminants"
        raise InputError(
            f"`{idle}` came, and no slopes are measured: the fit has not both of {' and '.join(both)}. Name the bands "
            "with `low` and `high`, or leave it out."
        )
    bandlike = tuple(dict.fromkeys(name for name in (*targets_of(known), thermal, *both, third) if name is not None))
    for name in given:
        if name not in bandlike:
            raise InputError(f"`frequencies` names {name!r}; {nearest(name, bandlike)}.")
    thermometer = None
    if thermal is not None:
        ghz = frequency_of(where, thermal, given.get(thermal), option="frequencies")
        thermometer = Thermometer(ghz, mean_temperature, conservative_temperature)
    request = None
    if sloped:
        own, parts = models_of(both[1], offset=False)
        request = slope_request(
            where,
            (*own, *parts),
            low=both[0],
            third=third,
            scaling=scaling,  # type: ignore[arg-type]
            frequencies={name: ghz for name, ghz in given.items() if name in (*both, third)},
            mean_temperature=mean_temperature,
            beta=beta,
            contaminants=contaminants,
            jackknife=jackknife,
        )
    lines = dict(expected or {})
    strange = [name for name in lines if name not in bands]
    if strange:
        raise InputError(f"`expected` names the target {strange[0]!r}; {nearest(strange[0], bands)}.")
    shared: dict[str, Any] = {"fit": known, "mask": mask, "region": region, "jackknife": jackknife}
    profiled = {name: profiles(where, name, others, bins=bins, expected=lines.get(name), **shared) for name in bands}
    tested, polarised = None, cast(tuple[str, ...], ())
    if polarized is not None:
        polarised = (polarized,) if isinstance(polarized, str) else tuple(polarized)
        tested = polarization(
            where, intensity=intensity or "i353", polarized=polarised, noise=polarization_noise, **shared
        )
    noise = (
        None if polarization_noise is None or not polarised else white_noise(where, polarised[0], polarization_noise)
    )
    everything = tuple(each for own, parts in models.values() for each in (*own, *parts))
    tiling = stores.tiling_of(where)
    kernel = DistributionKernel(everything, thermal, thermometer, tiling.tile_npix)
    folder = os.fspath(out_dir)
    asked = Asked(
        title, where, bands, models, thermal, request, others, polarised, intensity or "i353", noise, circles, mask,
        list(areas), [*areas, *circles], jackknife,
    )  # fmt: skip

    def execute(run: Run) -> Diagnosis:
        for line in _other_pixels(known, mask, region):
            log.warning("diagnose: %s; residuals are taken where the fit did not look, or not where it did.", line)
        pages = make_directory(folder)
        gathered = _distributions(kernel, asked, everything, run)
        found = Found(
            gathered,
            _temperatures(gathered, asked, thermometer),
            *_slopes(request, asked, run),
            {name: _by_region(plan.execute(run)) for name, plan in profiled.items()},
            None if tested is None else _by_region(tested.execute(run)),
        )
        numbers, page = write_diagnosis(pages, asked, found, run)
        done = Diagnosis(folder, numbers)
        # The page comes last: where it is, everything that it shows is there too.
        write_text(pages / "report.json", done.to_json())
        write_text(pages / "index.html", page)
        return done

    tiles = tiles_with(where, everything)
    first = pass_memory(where, everything, (), 160)
    further: list[tuple[Mapping[str, int], int]] = [(plan.memory, plan.read_bytes) for plan in profiled.values()]
    # Slopes and polarisation go over the tiles a second time, for what their figures show.
    if tested is not None:
        further.append((tested.memory, 2 * tested.read_bytes))
    if request is not None:
        sloping = pass_memory(where, request.models, request.more, request.bytes_a_pixel)
        further.append((sloping, 2 * sloping["inputs"] * len(tiles_with(where, request.models, request.more))))
    return Plan(
        "diagnose",
        folder,
        execute,
        Worker.here(threads, parse_bytes(memory)),
        todo=tiles,
        n_tiles=tiling.n_tiles,
        read_bytes=first["inputs"] * len(tiles) + sum(read for _, read in further),
        # One pass goes after the other.
        memory=max([first, *(parts for parts, _ in further)], key=lambda parts: sum(parts.values())),
        notes=[f"writes a report: index.html, report.json, figures of {', '.join(bands)}"],
    )


def _refuse_idle(polarized: Any, **options: Any) -> None:
    """Raise InputError where an option of the test of polarisation came, and no map to test."""
    for name, value in options.items():
        if polarized is None and value is not None:
            raise InputError(
                f"`{name}` {value!r} came without `polarized`; give the map of the polarised intensity, or those of Q "
                "and U, too."
            )


def _other_pixels(fit: xr.Dataset, mask: str | None, region: Any) -> list[str]:
    """Return in what the pixels of a report are not those of the fit, as far as the fit tells."""
    told = []
    own = fit.attrs.get("mask")
    if own is not None and own != (mask or ""):
        told.append(f"{f'mask {own!r}' if own else 'no mask'} in the fit, {repr(mask) if mask else 'none'} here")
    where: Any = (
        described(region) if not isinstance(region, Mapping) else [[n, described(w)] for n, w in region.items()]
    )
    if "where" in fit.attrs and json.loads(fit.attrs["where"]) != json.loads(json.dumps(where)):
        told.append("another region in the fit than here")
    return told


def _circles(regions: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float, float]]:
    found = {}
    for name, circle in regions.items():
        if len(circle) != 3 or not (abs(circle[1]) <= 90 and 0 < circle[2] < 90):
            raise InputError(
                f"`regions` has {tuple(circle)} for {name!r}; give galactic longitude, latitude and radius in degrees."
            )
        found[str(name)] = (float(circle[0]) % 360.0, float(circle[1]), float(circle[2]))
    return found


def _areas_inside(store: str, mask: str | None, region: Any, circle: tuple[float, float, float]) -> dict[str, Any]:
    """Return the used pixels of every region of the fit inside a circle."""
    cone = Cone(*circle, frame="galactic")

    def narrowed(where: Any) -> list[Any]:
        if where is None:
            return [cone]
        return [where, cone] if isinstance(where, str | Region) else [*where, cone]

    if isinstance(region, Mapping):
        return areas_of(store, mask, {name: narrowed(where) for name, where in region.items()})
    return areas_of(store, mask, narrowed(region))


def _distributions(kernel: DistributionKernel, asked: Asked, models: tuple[GasModel, ...], run: Run) -> Gathered:
    nothing = nothing_gathered(models, asked.thermal)
    gathered = reduce_regions(kernel, asked.store, models, (), merge_gathered, nothing, run, "residuals")
    for own, _ in asked.models.values():
        refuse_nothing(own, [gathered[each.target, each.region].residual.count for each in own], fewest=FEWEST_PIXELS)
    return gathered


def _temperatures(gathered: Gathered, asked: Asked, thermometer: Thermometer | None) -> xr.Dataset | None:
    if thermometer is None or asked.thermal is None:
        return None
    rows = [gathered["temperature", name] for name in asked.names]
    return temperature_dataset(rows, asked.names, {"": None}, thermometer, {"target": asked.thermal})


def _slopes(request: SlopeRequest | None, asked: Asked, run: Run) -> tuple[Any, Any]:
    """Return slopes by region, and the moments that they come from."""
    if request is None:
        return None, None
    moments = request.gather(run)
    own = [each for each in request.models if each.region in asked.areas]
    refuse_nothing(own, [int(moments[each.region].count.sum()) for each in own], request.more, FEWEST_PIXELS)
    # A circle may lie outside of what is used, or in one patch; a region of the fit that does is told by `judged`.
    patches = 1 if request.jackknife is None else 2
    names = [
        name
        for name in asked.names
        if name in asked.areas or (moments[name].count.sum() >= FEWEST_PIXELS and moments[name].keys.size >= patches)
    ]
    found = [request.judged(moments[name]) for name in names]
    return slope_dataset(found, request, names, {"": None}, {}), moments


def _by_region(found: xr.Dataset) -> xr.Dataset:
    return found if "region" in found.dims else found.expand_dims(region=["all"])
