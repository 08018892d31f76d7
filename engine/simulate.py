"""Synthetic skies with known truth, written tile by tile into a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError, nearest
from ..chunking.tiling import Tiling, cube_tile_nside
from ..models import gas_sky
from ..models.dust_sky import DEFAULT_MAPS, GENERATOR_VERSION, MAPS, DustSky, check_names
from ..models.gas_maps import CUBE
from ..models.gas_sky import GasSky
from .arguments import checked
from .mapping import map_plan
from .plan import RESERVED_BYTES, Plan
from .records import RunReport
from .targets import creation
from .worker import Worker, parse_bytes

if TYPE_CHECKING:
    import os

KINDS: Final = ("dust", "gas")
_SHARED: Final = ("seed", "frame", "noise_nside")

# The maps of the base resolution and what making them takes, once a process (measured).
_BASE_BYTES: Final = 250_000_000
# Pieces on their way from the base resolution to the pixels, whatever the tile (measured).
_PIECES_BYTES: Final = 24_000_000


@dataclass(frozen=True)
class SimulateKernel:
    """Makes one tile of a synthetic sky out of nothing but its options."""

    sky: DustSky | GasSky
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
    options: Mapping[str, float | Sequence[float]] | None = None,
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
    kind : {"dust", "gas"}
        What to simulate: thermal dust in Herschel-like and Planck-like bands, or clouds of gas in position and
        velocity with the dust in them.
    store : str or path
        Store to write into; made if it is not there.
    nside : int
        Resolution.
    seed : int
        Which sky.
    footprint : {"full", "surveys"}
        The whole sky, or only the surveys (a strip along the Galactic plane, patches on clouds, small tiles on cores,
        five galaxies: 4 % of the sky); what was not observed costs nothing.  Of dust only.
    maps : sequence of str, optional
        Which maps.  Of dust: i160 i250 i350 i500 (Herschel-like), i850um i1380um (Planck-like, prepared), raw_850um
        raw_1380um (with CMB, CIB and CO), truth_850um truth_1380um (without noise), cmb, co21, survey (code of the
        footprint), and, only where asked for, truth_column truth_temperature truth_beta.

        Of gas: n_hi (the cube), nhi lvc ivc (its velocity cuts), nhii, nh2 (twice the molecular column, noise unless
        told otherwise) with sigma_nh2, i353 i545 i857 i100um with their noise sigma_i353 and so on, kappa (lensing),
        ebv_sfd ebv_stars (reddening), mask (1 = used, two caps), truth_cloud_1 and so on, truth_i353 and so on (without
        noise and CIB), truth_cib_353 and so on, truth_kappa, truth_ebv; and, where they fluctuate or are asked for,
        p353 truth_temperature truth_beta truth_dust_to_gas truth_polarization truth_nh2.
    frame : {"galactic", "icrs", "ecliptic"}
        Frame of the pixels.
    noise_nside : int
        The nside at which the noise has the levels below; it is white, so that it doubles with each doubling of nside.
    noise_herschel : float
        Standard deviation of the noise of i160 to i500 in MJy/sr.  This and what follows to relative_noise_1380um is
        of dust only.
    noise_850um, noise_1380um : float
        Standard deviation of the noise of the Planck-like bands in MJy/sr: the part that is everywhere the same.  The
        defaults are a tenth of the faintest sky, so that relative errors mean something everywhere.
    relative_noise_850um, relative_noise_1380um : float
        The part that is proportional to the brightness, added in quadrature.
    options : mapping of str to number, optional
        Of gas only: any parameter of `skymill.models.gas_sky.GasSky`, which describes them all, such as clouds,
        emissivities, hii, noise_i857, noise_seed, cib_i857, kappa_correlation, sigma_temperature, sigma_dust_to_gas,
        sigma_beta, dbeta_dt, mean_polarization, sigma_polarization, correlation_length, mask_column.
    tile_nside : int, optional
        Tiles of a new store; smaller by default where there is a cube.
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
    `models/dust_sky.py` and `models/gas_sky.py` say how the skies are made.  Of gas, the provenance of i353 and so on
    has the true coefficients of the templates, and the averages hold for maps that are linear in what varies (see
    `GasSky`).  Of dust, the constants CO_COEFFICIENT and CIB_MONOPOLE, with the factors of
    `chunking/bands.py`, take the raw maps back to the prepared ones.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("dust", folder + "/sky.zarr", 16, seed=11, maps=["i160", "truth_850um"]).run()
    ...     sm.open(folder + "/sky.zarr")["i160"].sizes["cells"]
    3072
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("gas", folder + "/gas.zarr", 16, maps=["n_hi", "i857"], options={"channels": 5}).run()
    ...     dict(sm.open(folder + "/gas.zarr")["n_hi"].sizes)
    {'channel': 5, 'cells': 3072}
    """
    if kind not in KINDS:
        raise InputError(f"`kind` {kind!r} came; {nearest(str(kind), KINDS)}.")
    given = DustSky(
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
    sky: DustSky | GasSky = given
    if kind == "gas":
        sky = _gas_sky(given, options or {})
        names = sky.check_names(sky.default_maps if maps is None else maps)
        writes = list(sky.infos(names))
        # Cubes have tiles of their own, so that a task is as large as with maps.
        if CUBE in names and tile_nside is None and not stores.exists(stores.address(store)):
            tile_nside = cube_tile_nside(nside, sky.channels)
    else:
        if options is not None:
            raise InputError('`options` came with kind "dust", whose options are parameters; leave it out.')
        names = DEFAULT_MAPS if maps is None else check_names(maps)
        writes = [MAPS[name] for name in names]
    target = stores.address(store)
    tiling = _tiling(target, Tiling(nside, tile_nside), frame, tile_nside is not None)

    masked = tiling.tile_npix if footprint == "surveys" else 0
    return map_plan(
        "simulate",
        SimulateKernel(sky, tiling, names),
        target=target,
        writes=writes,
        target_tiling=tiling,
        tiles=sky.observed(tiling) if isinstance(sky, DustSky) else range(tiling.n_tiles),
        before=creation(target, tiling, frame),
        channels=sky.velocity_channels() if isinstance(sky, GasSky) and CUBE in names else None,
        parameters={"kind": kind, "generator": _generator(sky), **_parameters(sky)},
        memory={"pieces": _PIECES_BYTES, "footprint": masked},
        reserved=RESERVED_BYTES + _BASE_BYTES,
        worker=Worker.here(threads, parse_bytes(memory)),
        overwrite=overwrite,
        alternatives=lambda: _alternatives(tiling, _planes(sky, names)),
        notes=[f"sky     {kind}, seed {sky.seed}, {footprint}, {len(names)} maps"],
    )


def _gas_sky(given: DustSky, options: Mapping[str, Any]) -> GasSky:
    """Return the gas sky of the shared parameters and the options; what is of dust alone must have been left out."""
    for field in fields(DustSky):
        value = getattr(given, field.name)
        if field.name not in _SHARED and value != field.default:
            raise InputError(f'`{field.name}` {value!r} came with kind "gas", which has none; leave it out.')
    known = [field.name for field in fields(GasSky) if field.name not in _SHARED]
    for name in options:
        if name in _SHARED:
            raise InputError(f"`options` came with {name!r}, which is a parameter; give {name}={options[name]!r}.")
        if name not in known:
            raise InputError(f"`options` came with {name!r}, which the gas sky has not; {nearest(str(name), known)}.")
    return GasSky(**{name: getattr(given, name) for name in _SHARED}, **options)


def _generator(sky: DustSky | GasSky) -> int:
    return GENERATOR_VERSION if isinstance(sky, DustSky) else gas_sky.GENERATOR_VERSION


def _parameters(sky: DustSky | GasSky) -> dict[str, Any]:
    """Return the options as JSON has them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(sky).items()}


def _planes(sky: DustSky | GasSky, names: Sequence[str]) -> int:
    """Return how many numbers a pixel has."""
    return len(names) + (sky.channels - 1 if isinstance(sky, GasSky) and CUBE in names else 0)


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
