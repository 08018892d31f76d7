"""What `smooth` was asked for, held against the stores: kernels, beams, names, and which way costs less."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError, nearest
from ..chunking.schema import MapInfo
from ..chunking.tiling import Tiling
from . import ledger
from .beams import difference_fwhm
from .rings import largest_task
from .smooth_harmonic import Smoothed
from .smooth_local import LARGEST_FWHM, LocalKernel, check_fwhm, local_cost, local_memory
from .targets import Target
from .transform_cost import STEP_SECONDS

RADIAN: Final = {"arcmin": math.pi / 10800.0, "deg": math.pi / 180.0, "arcsec": math.pi / 648000.0, "rad": 1.0}
METHODS: Final = ("auto", "harmonic", "local")
# In a FWHM, from which the local way is as right as the other one (see the table of `smooth_local.py`).
FEWEST_PIXELS: Final = 2.0


@dataclass(frozen=True)
class LocalKernels:
    """Smooths maps tile by tile, those of one width together.

    Parameters
    ----------
    kernels : tuple of LocalKernel
        One for each width.
    """

    kernels: tuple[LocalKernel, ...]

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the smoothed maps of a tile."""
        made: dict[str, NDArray[Any]] = {}
        for kernel in self.kernels:
            made |= kernel(tile, inputs)
        return made

    def memory(self) -> dict[str, int]:
        """Return the bytes of the most demanding of the kernels, by part."""
        return largest_task(
            *(local_memory(one.tiling, one.fwhm_radian, len(one.names), one.mask is not None) for one in self.kernels)
        )


def local_kernels(
    source: str, maps: Sequence[Smoothed], mask: str | None, tiling: Tiling, least_weight: float
) -> LocalKernels:
    """Return the kernel that smooths maps locally.

    Parameters
    ----------
    source : str
        Store of the maps and the mask.
    maps : sequence of Smoothed
        The maps.
    mask : str, optional
        Map of weights.
    tiling : Tiling
        Tiles that are written.
    least_weight : float
        Below it there is no value.
    """
    found = []
    for width in dict.fromkeys(each.kernel for each in maps):
        same = [each for each in maps if each.kernel == width]
        names, written = tuple(each.info.name for each in same), tuple(each.made.name for each in same)
        found.append(LocalKernel(source, names, written, mask, tiling, width, least_weight))
    return LocalKernels(tuple(found))


def to_smooth(
    info: MapInfo, written: str, fwhm: float | None, from_fwhm: float | None, to_fwhm: float | None, unit: str
) -> Smoothed:
    """Return a map with the kernel that it is convolved with and what becomes of it.

    Parameters
    ----------
    info : MapInfo
        The map.
    written : str
        What the result is called.
    fwhm, from_fwhm, to_fwhm : float, optional
        As `smooth` takes them.
    unit : str
        Of these.

    Raises
    ------
    InputError
        If the map holds codes or bits, or the widths do not make a kernel.
    """
    if info.dtype != "float32":
        raise InputError(
            f"map {info.name!r} holds {info.dtype}: flags, codes or a mask; numbers such as intensities are smoothed. "
            "Give float32 maps (of a mask, skymill.apodize makes weights)."
        )
    _check_widths(fwhm, from_fwhm, to_fwhm)
    arcmin, old = RADIAN["arcmin"], info.beam_fwhm_arcmin
    if fwhm is not None:
        kernel = fwhm * RADIAN[unit]
        beam = None if old is None else math.hypot(old, kernel / arcmin)
    else:
        assert to_fwhm is not None
        if from_fwhm is None and old is None:
            raise InputError(
                f"the store does not say which beam map {info.name!r} has; give from_fwhm, or the kernel as fwhm."
            )
        begins = old * arcmin if from_fwhm is None and old is not None else (from_fwhm or 0.0) * RADIAN[unit]
        ends = to_fwhm * RADIAN[unit]
        if not ends > begins:
            raise InputError(
                f"map {info.name!r} has a beam of {begins / RADIAN[unit]:g} {unit}, and `to_fwhm` {to_fwhm:g} {unit} "
                "came; smoothing makes beams wider. Give a wider one."
            )
        kernel, beam = difference_fwhm(begins, ends), ends / arcmin
    if kernel >= math.pi:
        raise InputError(f"a Gaussian of {kernel / RADIAN['deg']:g} deg (FWHM) came; give one below 180 deg.")
    made = replace(
        info,
        name=written,
        long_name=f"{info.long_name or info.quantity}, smoothed",
        beam_fwhm_arcmin=beam,
        fill_value=None,
        provenance={"smoothed": {"map": info.name, "kernel_fwhm_arcmin": kernel / arcmin}},
    )
    return Smoothed(info, made, kernel)


def _check_widths(fwhm: float | None, from_fwhm: float | None, to_fwhm: float | None) -> None:
    if (fwhm is None) == (to_fwhm is None) or (from_fwhm is not None and to_fwhm is None):
        raise InputError(
            "`fwhm` is the kernel; `to_fwhm`, and `from_fwhm` where the store does not say it, are beams before and "
            f"after. fwhm={fwhm}, from_fwhm={from_fwhm}, to_fwhm={to_fwhm} came; give fwhm or to_fwhm, not both."
        )
    for name, width in (("fwhm", fwhm), ("to_fwhm", to_fwhm)):
        if width is not None and not 0 < width < math.inf:
            raise InputError(f"`{name}` {width} came; give a width above 0.")
    if from_fwhm is not None and not 0 <= from_fwhm < math.inf:
        raise InputError(f"`from_fwhm` {from_fwhm} came; give the width of the beam that the maps have, 0 for none.")


def output_names(names: Sequence[str], out: str | Sequence[str] | None, same_store: bool) -> tuple[str, ...]:
    """Return what the smoothed maps are called.

    Parameters
    ----------
    names : sequence of str
        The maps.
    out : str or sequence of str, optional
        The option of that name.
    same_store : bool
        Whether they go into the store of the maps.

    Raises
    ------
    InputError
        If there are more or fewer names than maps, or an output would be written over a map that is read.

    Examples
    --------
    >>> output_names(["i500"], None, True)
    ('i500_smooth',)
    """
    if not names or len(set(names)) != len(names):
        raise InputError(f"`maps` {', '.join(names) or 'without any'} came; give every map once, one at least.")
    made = tuple(f"{name}_smooth" for name in names) if out is None else (out,) if isinstance(out, str) else tuple(out)
    if len(made) != len(names) or len(set(made)) != len(made):
        raise InputError(f"`out` {', '.join(made)} came for {len(names)} maps; give each a name of its own.")
    for name in made:
        if same_store and name in names:
            raise InputError(f"`out` {name!r} is a map that is read; give another name, or another store as out_store.")
    return made


def check_target(source: str, into: Target) -> None:
    """Raise InputError where smoothed maps do not fit into the store that they shall go to.

    Parameters
    ----------
    source : str
        Store of the maps.
    into : Target
        The other one.

    Raises
    ------
    InputError
        If it has another nside or frame.
    """
    tiling = stores.tiling_of(source)
    if into.tiling.nside != tiling.nside:
        raise InputError(
            f"{source} has nside {tiling.nside}, {into.address} has nside {into.tiling.nside}; smoothed maps keep "
            "their nside. Write to another store, and bring the result to another nside with skymill.degrade."
        )
    if into.create is None and stores.frame_of(source) != stores.frame_of(into.address):
        raise InputError(
            f"{source} is in frame {stores.frame_of(source)}, {into.address} in {stores.frame_of(into.address)}; write "
            "to a store in the frame of the maps."
        )


def check_values(target: str, names: Sequence[str], mask: str | None) -> None:
    """Raise InputError where the mask has left no pixel with a value.

    Parameters
    ----------
    target : str
        Store that was written.
    names : sequence of str
        The smoothed maps.
    mask : str, optional
        Map of weights.

    Raises
    ------
    InputError
        If there is a mask, and one of the maps holds nothing.
    """
    for name in names:
        column = ledger.column(target, name)
        if mask is not None and column is not None and not (column > ledger.NOTHING_STORED).any():
            raise InputError(
                f"{name!r} has no value anywhere: the mask {mask!r} leaves no pixel that has one, or too little "
                "weight. In a uint8 map named mask_* 1 means not to be used, in all others 0. Give another mask."
            )


def choose_way(
    method: str,
    maps: Sequence[Smoothed],
    tiling: Tiling,
    tiles: Sequence[int],
    harmonic_seconds: float,
    only_harmonic: Sequence[str],
) -> tuple[str, str]:
    """Return "harmonic" or "local", and the line of the plan that says why.

    The local way is taken where it is estimated to cost less, every kernel is at least two pixels wide (FWHM; below,
    the harmonic way is nearer to the truth) and at most 0.2 radian, and no option was given that belongs to the
    other way.

    Parameters
    ----------
    method : {"auto", "harmonic", "local"}
        What was asked for.
    maps : sequence of Smoothed
        The maps.
    tiling : Tiling
        Tiles that are written.
    tiles : sequence of int
        Those that hold something.
    harmonic_seconds : float
        Estimate for the harmonic way.
    only_harmonic : sequence of str
        Options given that the local way does not have.

    Raises
    ------
    InputError
        If the method is unknown, or "local" does not go together with a width or an option.
    """
    if method not in METHODS:
        raise InputError(f"`method` {method!r} came; {nearest(method, METHODS)}.")
    if method == "harmonic":
        return method, "way     harmonic, as asked"
    options = ", ".join(f"`{option}`" for option in only_harmonic)
    if method == "local":
        if only_harmonic:
            raise InputError(f'{options} came with method="local"; that belongs to the harmonic way. Leave it out.')
        for each in maps:
            check_fwhm(tiling, each.kernel)
        return method, "way     local, as asked"
    if only_harmonic:
        return "harmonic", f"way     harmonic, for {options}"
    pixel = math.sqrt(tiling.pixel_area)
    if not all(FEWEST_PIXELS * pixel <= each.kernel <= LARGEST_FWHM for each in maps):
        return "harmonic", (
            f"way     harmonic: the local one is for beams from {FEWEST_PIXELS:g} pixels to {LARGEST_FWHM:g} radian"
        )
    local_seconds = sum(local_cost(tiling, each.kernel, tiles) for each in maps) + STEP_SECONDS * len(tiles)
    way = "local" if local_seconds < harmonic_seconds else "harmonic"
    costs = f"{harmonic_seconds:.2g} s of a core over the sphere, {local_seconds:.2g} s tile by tile"
    return way, f"way     {way}: an estimated {costs}"
