"""Synthetic skies with known truth, written tile by tile into a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError, nearest
from ..chunking.tiling import Tiling
from ..models.dust_sky import DEFAULT_MAPS, GENERATOR_VERSION, MAPS, DustSky, check_names
from .arguments import checked
from .mapping import map_plan
from .plan import RESERVED_BYTES, Plan
from .records import RunReport
from .targets import creation
from .worker import Worker, parse_bytes

if TYPE_CHECKING:
    import os

KINDS: Final = ("dust",)

# The maps of the base resolution and what making them takes, once a process (measured).
_BASE_BYTES: Final = 250_000_000
# Pieces on their way from the base resolution to the pixels, whatever the tile (measured).
_PIECES_BYTES: Final = 24_000_000


@dataclass(frozen=True)
class SimulateKernel:
    """Makes one tile of a synthetic sky out of nothing but its options."""

    sky: DustSky
    tiling: Tiling
    names: tuple[str, ...]

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the maps of a tile."""
        return dict(self.sky.tile(self.tiling, tile, self.names))


@checked
def simulate(
    kind: str,
    store: str | os.PathLike[str],
    nside: int,
    *,
    seed: int = 0,
    footprint: str = "full",
    maps: Sequence[str] | None = None,
    frame: str = "galactic",
    noise_nside: int = 256,
    noise_herschel: float = 0.001,
    noise_850um: float = 0.002,
    noise_1380um: float = 0.0008,
    relative_noise_850um: float = 0.025,
    relative_noise_1380um: float = 0.045,
    tile_nside: int | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Plan[RunReport]:
    """Return the plan that writes a synthetic sky with known truth into a sky store.

    A seed is one sky, whatever the nside: the map of a coarser nside is the average of that of a finer one, and any
    tile can be made alone.

    Parameters
    ----------
    kind : {"dust"}
        What to simulate: thermal dust in Herschel-like and Planck-like bands.
    store : str or path
        Store to write into; made if it is not there.
    nside : int
        Resolution.
    seed : int
        Which sky.
    footprint : {"full", "surveys"}
        The whole sky, or only the surveys (a strip along the Galactic plane, patches on clouds, small tiles on cores,
        five galaxies: 4 % of the sky); what was not observed costs nothing.
    maps : sequence of str, optional
        Which maps: i160 i250 i350 i500 (Herschel-like), i850um i1380um (Planck-like, prepared), raw_850um raw_1380um
        (with CMB, CIB and CO), truth_850um truth_1380um (without noise), cmb, co21, survey (code of the footprint),
        and, only where asked for, truth_column truth_temperature truth_beta.
    frame : {"galactic", "icrs", "ecliptic"}
        Frame of the pixels.
    noise_nside : int
        The nside at which the noise has the levels below; it is white, so that it doubles with each doubling of nside.
    noise_herschel : float
        Standard deviation of the noise of i160 to i500 in MJy/sr.
    noise_850um, noise_1380um : float
        Standard deviation of the noise of the Planck-like bands in MJy/sr: the part that is everywhere the same.  The
        defaults are a tenth of the faintest sky, so that relative errors mean something everywhere.
    relative_noise_850um, relative_noise_1380um : float
        The part that is proportional to the brightness, added in quadrature.
    tile_nside : int, optional
        Tiles of a new store.
    overwrite : bool
        Replace maps that another run made.
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
    InputError
        If an option is not what is described, or the store is there with another nside, frame or tiling.
    IdentityError
        If a map is there, made by another run.

    Notes
    -----
    `models/dust_sky.py` says how the sky is made; its constants CO_COEFFICIENT and CIB_MONOPOLE, with the factors of
    `chunking/bands.py`, take the raw maps back to the prepared ones.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("dust", folder + "/sky.zarr", 16, seed=11, maps=["i160", "truth_850um"]).run()
    ...     sm.open(folder + "/sky.zarr")["i160"].sizes["cells"]
    3072
    """
    if kind not in KINDS:
        raise InputError(f"`kind` {kind!r} came; {nearest(str(kind), KINDS)}.")
    names = DEFAULT_MAPS if maps is None else check_names(maps)
    sky = DustSky(
        seed=seed,
        frame=frame,
        footprint=footprint,
        noise_nside=noise_nside,
        noise_herschel=noise_herschel,
        noise_850um=noise_850um,
        noise_1380um=noise_1380um,
        relative_noise_850um=relative_noise_850um,
        relative_noise_1380um=relative_noise_1380um,
    )
    target = stores.address(store)
    tiling = _tiling(target, Tiling(nside, tile_nside), frame, tile_nside is not None)

    masked = tiling.tile_npix if footprint == "surveys" else 0
    return map_plan(
        "simulate",
        SimulateKernel(sky, tiling, names),
        target=target,
        writes=[MAPS[name] for name in names],
        target_tiling=tiling,
        tiles=sky.observed(tiling),
        before=creation(target, tiling, frame),
        parameters={"kind": kind, "generator": GENERATOR_VERSION, **asdict(sky)},
        memory={"pieces": _PIECES_BYTES, "footprint": masked},
        reserved=RESERVED_BYTES + _BASE_BYTES,
        worker=Worker.here(threads, parse_bytes(memory)),
        overwrite=overwrite,
        alternatives=lambda: _alternatives(tiling, len(names)),
        notes=[f"sky     seed {sky.seed}, {footprint}, {len(names)} maps"],
    )


def _tiling(target: str, asked: Tiling, frame: str, explicit: bool) -> Tiling:
    """Return the tiling of the store, of one that is there where it agrees."""
    if not stores.exists(target):
        return asked
    there, there_frame = stores.tiling_of(target), stores.frame_of(target)
    if there.nside != asked.nside or there_frame != frame or (explicit and there.tile_nside != asked.tile_nside):
        raise InputError(
            f"the store {target} exists with nside {there.nside}, frame {there_frame} and tile_nside "
            f"{there.tile_nside}; nside {asked.nside}, frame {frame} and tile_nside {asked.tile_nside} came. Write to "
            "another store, or ask for what this one has."
        )
    return there


def _alternatives(tiling: Tiling, count: int) -> list[tuple[str, int]]:
    """Return smaller tiles, each with the bytes that a task would take."""
    assert tiling.tile_nside is not None
    found: list[tuple[str, int]] = []
    side = 2 * tiling.tile_nside
    while side <= tiling.nside and len(found) < 3:
        npix = (tiling.nside // side) ** 2
        found.append((f"tile_nside={side}", 4 * npix * (count + 3) + _PIECES_BYTES + npix))
        side *= 2
    return found
