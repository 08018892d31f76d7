"""Mask: which pixels are used, from conditions, regions and discs around sources, with the area that is left."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import geometry, objects
from ..chunking import store as stores
from ..chunking.errors import FormatError, InputError
from ..chunking.schema import KINDS, MapInfo, kind_of
from ..chunking.tiling import Tiling
from .arguments import checked
from .discs import DISCS_BYTES, Discs, Sources, discs_of
from .mapping import STATISTICS, map_plan
from .plan import Plan, Run
from .progress import say
from .records import RunReport
from .selection import BLOCK_BYTES, Selection, Where, described, words
from .selection_grammar import CAPS, COORDINATES
from .used_pixels import area_deg2, sky_fraction
from .worker import Worker, parse_bytes


@dataclass(frozen=True, repr=False)
class MaskReport:
    """What a mask leaves, as `mask` returns it.

    Parameters
    ----------
    store, name : str
        Where the map is.
    nside : int
        Of its pixels.
    pixels : int
        Pixels that are used.
    area_deg2 : float
        Their area in square degrees.
    f_sky : float
        The fraction of the sphere that they are.
    undecided : int
        Pixels left out only because a map of the conditions has no value there.
    conditions : tuple of (str, int)
        The regions together, every condition and the discs, as written, each with the pixels that it would leave by
        itself; where there are regions, counted inside them.
    run : RunReport
        Tiles, times and memory.
    """

    store: str
    name: str
    nside: int
    pixels: int
    area_deg2: float
    f_sky: float
    undecided: int
    conditions: tuple[tuple[str, int], ...]
    run: RunReport

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON-able values."""
        known = {name: value for name, value in vars(self).items() if name not in ("run", "conditions")}
        rows = [
            {"condition": text, "pixels": pixels, "area_deg2": area, "f_sky": sky_fraction(area)}
            for text, pixels, area in ((text, pixels, _area(pixels, self.nside)) for text, pixels in self.conditions)
        ]
        return {**known, "conditions": rows, "run": self.run.as_dict()}

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.as_dict(), indent=2)

    def __str__(self) -> str:
        lines = [f"{self.name} in {self.store}: {_amount(self.pixels, self.nside)} used"]
        lines += _rows(self.conditions, self.nside)
        if self.undecided:
            lines.append(f"  {_amount(self.undecided, self.nside)} left out because a map has no value there")
        return "\n".join([*lines, str(self.run)])

    __repr__ = __str__


def _area(pixels: int, nside: int) -> float:
    return area_deg2(pixels, 12 * nside**2)


def _amount(pixels: int, nside: int) -> str:
    area = _area(pixels, nside)
    return f"{area:.1f} deg^2, f_sky {sky_fraction(area):.4f}, {pixels:,} of {12 * nside**2:,} pixels"


def _rows(conditions: tuple[tuple[str, int], ...], nside: int) -> list[str]:
    return [f"  {text} leaves by itself {_amount(pixels, nside)}" for text, pixels in conditions]


@dataclass(frozen=True)
class MaskKernel:
    """The mask of one tile, and how many pixels every part of it leaves."""

    out: str
    selection: Selection
    tiling: Tiling
    frame: str
    discs: Discs | _KeptDiscs | None

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Return the mask, (cells,) uint8, and the counts."""
        npix = self.tiling.tile_npix
        free = np.ones(npix, bool)
        if self.discs is not None:
            free = ~self.discs.covered(self.tiling, tile)
        used, open_ = np.empty(npix, bool), np.empty(npix, bool)
        within = disc_free = 0
        left = np.zeros(len(self.selection.conditions), np.int64)
        pixels = self.tiling.pixels(tile)
        for part, inside, truths in self.selection.pieces(self.tiling, self.frame, pixels, inputs):
            within += int(np.count_nonzero(inside))
            disc_free += int(np.count_nonzero(inside & free[part]))
            used[part] = open_[part] = inside & free[part]
            for number, truth in enumerate(truths):
                left[number] += np.count_nonzero(inside & truth.true)
                used[part] &= truth.true
                open_[part] &= ~truth.false
        counts = {
            "used": int(np.count_nonzero(used)),
            "undecided": int(np.count_nonzero(open_ & ~used)),
            "within": within,
            "left": left.tolist(),
            "disc_free": disc_free,
        }
        made = ~used if self.out.startswith("mask_") else used
        return {self.out: made.astype(np.uint8), STATISTICS: counts}


@dataclass(frozen=True)
class _KeptDiscs:
    """Discs that tasks find in the store while the run lasts: a task is to be small, a list of sources is not."""

    store: str
    out: str
    digest: str

    @property
    def key(self) -> str:
        # The minus sign is in no name of a map.  Each mask has its own: the run that ends first takes its list away.
        return f"ledger/sources-{self.out}-{self.digest}"

    def covered(self, tiling: Tiling, tile: int) -> NDArray[np.bool_]:
        return _kept(self.store, self.key).covered(tiling, tile)


@functools.lru_cache(maxsize=4)
def _kept(store: str, key: str) -> Discs:
    content = objects.get(store, key)
    if content is None:
        raise FormatError(f"{store}/{key}, the list of sources of this run, is gone; run the same command again.")
    return Discs(np.load(io.BytesIO(content)))


@checked
def mask(
    store: stores.StoreAddress,
    out: str,
    where: Where = None,
    *,
    sources: Sources | None = None,
    radius: float | None = None,
    unit: str = "deg",
    frame: str | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[MaskReport]:
    """Return the plan that writes which pixels are used, and tells how much of the sky that is.

    Writes `out` (cells,) uint8, unit "1": 1 where a pixel is used, 0 elsewhere; a name that begins with `mask_` is
    written the other way round, as the data dictionary has it, 1 where a pixel is not to be used.  Every verb that
    takes a mask understands both.  Area and f_sky are told as the mask is made, unless the run is asked to be silent;
    what every condition leaves by itself is in the report, which the run returns.

    Masks that exist are combined by the expression: "footprint and not mask_points" (both leave the pixel),
    "caps or not mask_dust" (one does).

    Parameters
    ----------
    store : str or path
        The sky store.
    out : str
        Name of the map.
    where : str, Region, sequence of them, or None
        Conditions and regions that must all hold, for example "|b| > 20 and n_hi < 4 and (ngc or survey in 1, 2)"; see
        `skymill.engine.selection.Selection.of` for the language.  None leaves the whole sky.
    sources : str, path or sequence, optional
        Sources to take out: every pixel whose centre is within the radius of one, edge included.  A CSV file or a FITS
        table with the columns l and b (or glon and glat; galactic), ra and dec (ICRS), elon and elat (ecliptic), or lon
        and lat, and perhaps radius; or rows of two or three numbers (longitude, latitude[, radius]).  Positions are
        in degrees.  A disc that holds no centre of a pixel takes nothing out.
    radius : float, optional
        Radius of all discs; by default each source has its own.
    unit : {"deg", "arcmin", "arcsec", "rad"}
        Of the radii; a unit that a FITS table states for its column counts more.
    frame : {"galactic", "icrs", "ecliptic"}, optional
        Frame of the sources; needed for rows of numbers and for columns called lon and lat.
    overwrite : bool
        Replace a map that another run made.
    threads, memory : optional
        What this process may use, as for `predict`.

    Returns
    -------
    Plan
        Its run returns a MaskReport: area in square degrees, f_sky and pixels, of the mask and of every condition by
        itself.

    Raises
    ------
    MissingMapError
        If a map of the conditions is missing.
    InputError
        If the conditions or sources cannot be read, the name means another kind of map; and, from the run, if no
        pixel is left: the map is removed then.
    FrameError
        If the frame of the sources is neither given nor told by their columns.
    UnitError, FormatError, StoreNotFoundError
        If the file of sources is missing, damaged or in units that are none of angles.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     _ = sm.simulate("dust", sky, 64, seed=1, maps=["i160"]).run()
    ...     left = sm.mask(sky, "cap", "b > 30", sources=[(0.0, 90.0)], radius=5.0, frame="galactic").run()
    ...     print(f"{left.area_deg2:.1f} deg^2, f_sky {left.f_sky:.4f}, {left.pixels} pixels")
    10135.3 deg^2, f_sky 0.2457, 12076 pixels
    """
    address = stores.address(store)
    selection = Selection.of(where)
    stores.require_maps(address, selection.maps)
    tiling, store_frame = stores.tiling_of(address), stores.frame_of(address)
    _check_name(out, selection)
    if sources is None and (radius is not None or frame is not None or unit != "deg"):
        raise InputError("`radius`, `unit` or `frame` came without `sources`; they speak of the discs around sources.")
    discs = None if sources is None else discs_of(sources, radius, unit, frame, store_frame)
    digest = None if discs is None else hashlib.blake2b(discs.table.tobytes(), digest_size=16).hexdigest()
    npix = tiling.tile_npix

    def planned(kept: Discs | _KeptDiscs | None) -> Plan[RunReport]:
        return map_plan(
            "mask",
            MaskKernel(out, selection, tiling, store_frame, kept),
            target=address,
            writes=[_map(out, where, discs)],
            reads=selection.maps,
            tiles=selection.tiles(tiling, store_frame, tuple(range(tiling.n_tiles))),
            parameters={"where": described(where), "sources": digest},
            memory={
                "truths": 14 * npix,
                "conditions": BLOCK_BYTES if selection.conditions or selection.regions else 0,
                "discs": 0 if discs is None else DISCS_BYTES + 48 * discs.count,
            },
            worker=Worker.here(threads, parse_bytes(memory)),
            overwrite=overwrite,
            notes=_notes(selection, discs, tiling),
        )

    kept = None if digest is None else _KeptDiscs(address, out, digest)
    plan = planned(kept)

    def execute(run: Run) -> MaskReport:
        if kept is not None and discs is not None:
            _keep(kept, discs, anyway=bool(plan.todo))
        done = plan.execute(run)
        if kept is not None:
            with contextlib.suppress(OSError):
                objects.delete_prefix(address, kept.key)
        made = report(done)
        say(str(made).splitlines()[0], run.progress)  # the conditions are in the report
        return made

    def report(done: RunReport) -> MaskReport:
        counts = [record.statistics for record in done.records]
        made = _report(address, out, tiling, selection, discs, counts, done)
        if not made.pixels:
            stores.delete_map(address, out)
            alone = "".join(f"\n{line}" for line in _rows(made.conditions, tiling.nside))
            raise InputError(
                f"mask {out!r} leaves no pixel of {address}, so it was not kept."
                + (alone or " It has no condition.")
                + (f"\n  {made.undecided:,} pixels were left out because a map has no value." if made.undecided else "")
                + "\nWeaken a condition."
            )
        return made

    # Lazily nothing may be written: the discs go with the tasks.
    lazily = plan.lazily if discs is None else planned(discs).lazily
    telling: Any = replace(plan, execute=execute, lazily=lazily)  # type: ignore[arg-type]
    return telling  # type: ignore[no-any-return]


def _check_name(out: str, selection: Selection) -> None:
    kind = kind_of(out)
    if kind is not KINDS[-1] and not out.startswith("mask_"):
        raise InputError(
            f"`out` {out!r} came, which names {kind.sentence}; call it mask_... (written as 1 = not to be used) or "
            "something plain such as footprint (1 = used)."
        )
    if out in (*COORDINATES, *CAPS):
        # In conditions such a name is the coordinate or the whole cap, whatever the map says.
        raise InputError(f"`out` {out!r} came, which conditions understand as something else; call it {out}_used, say.")
    if out in selection.maps:
        raise InputError(f"`out` {out!r} came, which `where` reads; write the mask under another name.")


def _map(out: str, where: Where, discs: Discs | None) -> MapInfo:
    parts = [each if isinstance(each, str) else words(each) for each in _several(where)]
    parts += [f"outside {discs.count} discs"] if discs else []
    turned = out.startswith("mask_")
    sentence = f"{'not used' if turned else 'used'} where 1: " + ("not " if turned and parts else "")
    text = " and ".join(f"({part})" if len(parts) > 1 else part for part in parts) or "the whole sky"
    text = f"({text})" if turned and parts else text
    # What no task looks at lies outside the regions.
    return MapInfo(out, "mask", "1", dtype="uint8", fill_value=1 if turned else 0, long_name=sentence + text)


def _several(where: Where) -> list[Any]:
    return [] if where is None else list(where) if isinstance(where, list | tuple) else [where]


def _keep(kept: _KeptDiscs, discs: Discs, *, anyway: bool) -> None:
    """Put the discs where tasks find them; on a store that is read-only this can wait until one is needed."""
    content = io.BytesIO()
    np.save(content, discs.table)
    try:
        objects.put(kept.store, kept.key, content.getvalue())
    except OSError:
        if anyway:
            raise


def _notes(selection: Selection, discs: Discs | None, tiling: Tiling) -> list[str]:
    notes = [
        f"{condition.text} keeps the pixels that are not to be used, where a `mask_` map is 1; is "
        f"`not {condition.text}` meant?"
        for condition in selection.conditions
        if condition.text.startswith("mask_") and condition.text in selection.maps
    ]
    if discs is None:
        return notes
    reach = float(np.degrees(geometry.pixel_radius(tiling.nside)))
    small = int(np.count_nonzero(discs.table[:, 2] < reach))
    note = f"{discs.count:,} discs around sources"
    if small:
        note += (
            f", {small:,} of them smaller than {reach * 60:.2g} arcmin, the radius of a pixel: where such a disc holds "
            "no centre of a pixel it takes nothing out"
        )
    return [*notes, note]


def _report(
    store: str,
    name: str,
    tiling: Tiling,
    selection: Selection,
    discs: Discs | None,
    counts: list[Mapping[str, Any]],
    run: RunReport,
) -> MaskReport:
    def total(key: str) -> int:
        return sum(int(each[key]) for each in counts)

    conditions: list[tuple[str, int]] = []
    if selection.regions:
        conditions.append((" and ".join(words(region) for region in selection.regions), total("within")))
    for number, condition in enumerate(selection.conditions):
        conditions.append((condition.text, sum(int(each["left"][number]) for each in counts)))
    if discs is not None:
        conditions.append((f"outside {discs.count:,} discs", total("disc_free")))
    pixels = total("used")
    area = _area(pixels, tiling.nside)
    return MaskReport(
        store, name, tiling.nside, pixels, area, sky_fraction(area), total("undecided"), tuple(conditions), run
    )
