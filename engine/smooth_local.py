"""Smoothing in pixel space, tile by tile with a halo: for partial sky, and for beams that are small on the sphere.

Every pixel becomes sum(w m G) / sum(w G) over the pixels with a value, G the Gaussian beam on the sphere at exact
angular distances, cut off at 5 sigma.  Where the grid is regular, blocks of pixels are convolved with stencils that
are polynomials of the position; where it is not (0.1 % to 1.2 % of the sky for beams of 0.6' to 5' at nside 16384:
along |z| = 2/3, along the edges of polar base pixels, at the poles) all pairs of pixels are summed.

Accuracy: within 1e-5 of noise of unit spread, holes and weights in it, against the same sums in float64; tiles of
another size give the same to 3e-5 (both in the tests).  What remains is that samples at pixel centres stand for an
integral.  Against a_lm times exp(-l (l + 1) sigma^2 / 2), nside 256, full sky, rms of the difference over the standard
deviation of the smoothed map:

=====================  =======  =======  =======  =======  =======  =======  =======
C_l of the map         1.3 px   1.5 px   2 px     2.5 px   4 px     8 px     16 px
=====================  =======  =======  =======  =======  =======  =======  =======
l^-2 to 3 nside - 1    2.9e-2   1.6e-2   4.0e-3   1.0e-3   8.7e-5   4.3e-5   2.2e-5
l^-2 to 2 nside        1.1e-2   5.2e-3   6.2e-4   8.5e-5   3.7e-5   1.6e-5   7.0e-6
l^-2, beam of 2.56 px  3.3e-3   1.4e-3   1.4e-4   2.5e-5   1.0e-5   4.8e-6   7.7e-6
flat to 2 nside        4.5e-2   2.2e-2   3.4e-3   5.1e-4   2.8e-4   2.7e-4   2.5e-4
=====================  =======  =======  =======  =======  =======  =======  =======

(healpy.smoothing without iterations: 1.1e-3 at 2.5 px and 8.8e-5 at 8 px for the first row.)  The few rings next to
each pole are worse, 1e-2 for 2.5 to 4 px, because HEALPix samples do not integrate well there; elsewhere the largest
error is 4e-5 at 4 px for the third row.  Below 2 px the samples miss the Gaussian: 33" to 37" at nside 16384 is
1.3 px.  Below 1.25 px it is refused.

Speed, microseconds a pixel of one core, for tiles in the belt, in a polar part, and in the worst place:

==========================  =======  ======  ======  ======  ======
grid                        2.5 px   4 px    8 px    16 px   23 px
==========================  =======  ======  ======  ======  ======
nside 16384, belt           0.09     0.09    0.11    0.11    0.15
nside 16384, polar          0.24     0.29    0.40    0.38    0.48
nside 16384, |z| = 2/3      0.49     0.57    0.79    1.9     3.7
nside 512, on the equator   0.41     0.41    0.65    1.2     --
nside 512, at a pole        2.8      3.3     4.7     12      --
==========================  =======  ======  ======  ======  ======

References
----------
Gorski et al. 2005, ApJ 622, 759 (the grid); Knutsson and Westin 1993 (normalised convolution).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError
from ..chunking.tiling import Tiling
from . import ledger
from .masks import read_weights
from .smooth_blocks import GROUP, KEPT, SMALLEST_BLOCK, Smoother, first_block, halo_width
from .smooth_plane import read_plane, tile_corner
from .smooth_stencil import REACH, lattice_reach, standard_deviation

# Below this many pixels in a FWHM the samples miss the Gaussian altogether.
LEAST_PIXELS: Final = 1.25
# Radian; the plane around a base pixel must hold everything in reach.
LARGEST_FWHM: Final = 0.2
# The first row of the table above: pixels in a FWHM, and error.
_ERRORS: Final = ((1.3, 1.5, 2.0, 2.5, 4.0, 8.0, 16.0), (2.9e-2, 1.6e-2, 4.0e-3, 1.0e-3, 8.7e-5, 4.3e-5, 2.2e-5))
# Measured, one core: a pixel of a block in the belt and in the polar part; a block; a pair of pixels summed directly; a
# pixel looked at around a direct block.
_SECONDS_BELT: Final = 0.08e-6
_SECONDS_POLAR: Final = 0.23e-6
_SECONDS_BLOCK: Final = 2e-3
_SECONDS_PAIR: Final = 2.0e-9
_SECONDS_AROUND: Final = 25e-9


@dataclass(frozen=True)
class LocalKernel:
    """Smooths maps with a Gaussian, one tile at a time; picklable, for `map_plan`.

    The result is sum(w m G) / sum(w G) over the pixels with a value (w = 1 without a mask), and NaN where the pixel
    itself has none: a constant map stays constant to its very edge.

    Parameters
    ----------
    source : str
        Store with the maps and the mask.
    names, out_names : tuple of str
        float32 maps that are read, and what they are called when smoothed.
    mask : str or None
        Map of weights, or a mask (see `masks.weight_values`).
    tiling : Tiling
        Whose tiles are made; the store may be tiled otherwise.
    fwhm_radian : float
        Full width at half maximum of the Gaussian.
    least_weight : float
        NaN too where the weights in reach sum to less than this fraction of what they would on a sky without holes.

    Raises
    ------
    InputError
        If the FWHM is too small for the pixels or too large for the plane around a base pixel (0.2 radian), or
        `least_weight` lies outside [0, 1).

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("dust", folder + "/sky.zarr", 16, seed=1, maps=["i160"]).run()
    ...     kernel = LocalKernel(folder + "/sky.zarr", ("i160",), ("smooth",), None, Tiling(16), 0.15)
    ...     kernel(0, {})["smooth"].shape
    (256,)
    """

    source: str
    names: tuple[str, ...]
    out_names: tuple[str, ...]
    mask: str | None
    tiling: Tiling
    fwhm_radian: float
    least_weight: float = 0.0

    def __post_init__(self) -> None:
        check_fwhm(self.tiling, self.fwhm_radian)
        if not 0.0 <= self.least_weight < 1.0:
            raise InputError(
                f"`least_weight` {self.least_weight} came; give a fraction of the weight of a sky without holes, from "
                "0 to below 1."
            )
        if len(self.names) != len(self.out_names):
            raise InputError(f"{len(self.names)} maps and {len(self.out_names)} names for the smoothed ones came.")

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Return the smoothed maps of a tile, each (cells,) float32; nothing for a map without a value in the tile.

        Parameters
        ----------
        tile : int
            Tile of `tiling`.
        inputs : dict
            Maps of the tile that are read already; what is missing is read here, as is the halo.
        """
        window = self.tiling.tile_slice(tile)
        owns = {}
        for name, out in zip(self.names, self.out_names, strict=True):
            own = inputs[name] if name in inputs else ledger.read_held(self.source, name, window.start, window.stop)
            if np.isfinite(own).any():
                owns[out] = (name, own)
        if not owns:
            return {}
        halo = halo_width(self.tiling.nside, self.fwhm_radian)
        weights = None
        if self.mask is not None:
            info = stores.info(self.source, self.mask)

            def read_mask(start: int, stop: int) -> NDArray[np.float32]:
                return read_weights(self.source, info, start, stop)

            own = read_mask(window.start, window.stop)
            weights = read_plane(read_mask, self.tiling, tile, halo, own)
        images = []
        for name, own in owns.values():

            def read(start: int, stop: int, name: str = name) -> NDArray[np.float32]:
                return ledger.read_held(self.source, name, start, stop)

            images.append(read_plane(read, self.tiling, tile, halo, own))
        smoother = Smoother(self.tiling, tile, self.fwhm_radian, images, weights, self.least_weight)
        return dict(zip(owns, smoother.run(), strict=True))


def check_fwhm(tiling: Tiling, fwhm_radian: float) -> None:
    """Raise InputError where a Gaussian is too narrow or too wide to be summed in pixel space.

    Parameters
    ----------
    tiling : Tiling
        Of the map.
    fwhm_radian : float
        Full width at half maximum.

    Raises
    ------
    InputError
        If it is below 1.5 pixels, above 0.2 radian, or no number.
    """
    pixel = math.sqrt(tiling.pixel_area)
    if not LEAST_PIXELS * pixel <= fwhm_radian <= LARGEST_FWHM:
        arcmin = 10800.0 / math.pi
        raise InputError(
            f"a Gaussian of {fwhm_radian * arcmin:.4g}' (FWHM) came; on pixels of {pixel * arcmin:.4g}' (nside "
            f"{tiling.nside}) the local method smooths with {LEAST_PIXELS * pixel * arcmin:.4g}' to "
            f"{LARGEST_FWHM * arcmin:.4g}'. Use the harmonic method."
        )


def local_error(tiling: Tiling, fwhm_radian: float) -> float:
    """Return the error of smoothing in pixel space against the harmonic way, rms over that of the smoothed map.

    Measured for a map with C_l as l^-2 to the limit of the grid, which is pessimistic: a map that a telescope's beam
    has smoothed already has less (see the table of this module).

    Parameters
    ----------
    tiling : Tiling
        Of the map.
    fwhm_radian : float
        Full width at half maximum.

    Examples
    --------
    >>> round(local_error(Tiling(16384), 3.0 / 60 * math.pi / 180), 7) < 1e-4
    True
    """
    pixels = math.log(fwhm_radian / math.sqrt(tiling.pixel_area))
    return float(np.exp(np.interp(pixels, np.log(_ERRORS[0]), np.log(_ERRORS[1]))))


def local_memory(tiling: Tiling, fwhm_radian: float, maps: int = 1, mask: bool = False) -> dict[str, int]:
    """Return the bytes that `LocalKernel` needs beside what `map_plan` counts, by part.

    Parameters
    ----------
    tiling : Tiling
        Of the map.
    fwhm_radian : float
        Full width at half maximum.
    maps : int
        Maps smoothed at once.
    mask : bool
        Whether there are weights.

    Examples
    --------
    >>> sum(local_memory(Tiling(16384), 0.001).values()) < 250_000_000
    True
    """
    sigma, side = standard_deviation(fwhm_radian), math.isqrt(tiling.tile_npix)
    halo, reach, block = (
        halo_width(tiling.nside, fwhm_radian),
        lattice_reach(tiling.nside, sigma),
        first_block(tiling, sigma),
    )
    stencil = 8 * (2 * reach + 1) ** 2
    around = (min(GROUP, side) + 2 * halo) ** 2
    return {
        "planes": 4 * (side + 2 * halo) ** 2 * (maps + mask),
        "read": 4 * tiling.tile_npix * (maps + mask),
        "smoothed": 4 * tiling.tile_npix * maps + 16 * tiling.tile_npix,  # and where in the tile every pixel is
        # Fields and their transforms, the response to a term, powers of the position.
        "blocks": 12 * 8 * (block + 2 * reach + 16) ** 2 + 16 * 8 * block**2,
        # Weights at nodes and corners, and the terms of the blocks that are kept (a tenth of them polar).
        "stencils": stencil * (50 + 4 * KEPT) // 2,
        "vectors": around * (100 + 24 * maps),
    }


def local_cost(tiling: Tiling, fwhm_radian: float, tiles: Iterable[int], maps: int = 1) -> float:
    """Return about how many seconds one core needs to smooth some tiles, within a factor of 2 or so.

    Parameters
    ----------
    tiling : Tiling
        Of the map.
    fwhm_radian : float
        Full width at half maximum.
    tiles : iterable of int
        Those with values.
    maps : int
        Maps smoothed at once.

    Examples
    --------
    >>> local_cost(Tiling(16384), 0.001, range(10)) > local_cost(Tiling(16384), 0.001, range(5))
    True
    """
    sigma = standard_deviation(fwhm_radian)
    reach = REACH * sigma * tiling.nside  # about the steps of the lattice
    block, halo = first_block(tiling, sigma), halo_width(tiling.nside, fwhm_radian)
    wider = maps * ((block + 2 * reach) / block) ** 2
    pairs = math.pi * (reach + 0.75 * SMALLEST_BLOCK) ** 2
    around = (GROUP + 2 * halo) ** 2 / SMALLEST_BLOCK**2
    seconds = (
        _SECONDS_BELT * wider + 0.1 * _SECONDS_BLOCK / block**2,  # blocks of equal latitude share their stencils
        _SECONDS_POLAR * wider + _SECONDS_BLOCK / block**2,
        _SECONDS_PAIR * pairs + _SECONDS_AROUND * around + _SECONDS_BLOCK / SMALLEST_BLOCK**2,
    )
    parts = [
        sum(share * cost for share, cost in zip(_shares(tiling, tile, reach), seconds, strict=True)) for tile in tiles
    ]
    return tiling.tile_npix * sum(parts)


def _shares(tiling: Tiling, tile: int, reach: float) -> tuple[float, float, float]:
    """Return the parts of a tile within reach of which all is belt, all is polar, and the grid is not regular."""
    base, x0, y0 = tile_corner(tiling, tile)
    n, row = tiling.nside, base // 4
    if row == 1:
        return 1.0, 0.0, 0.0  # but for the corners at |z| = 2/3
    side = math.isqrt(tiling.tile_npix)
    axis = (np.arange(64) + 0.5) * (side / 64)
    x, y = np.meshgrid(x0 + axis, y0 + axis)
    if row == 2:
        x, y = n - x, n - y
    near = reach + 0.5 * SMALLEST_BLOCK
    belt = float((x + y + 1.3 * near < n).mean())
    polar = float(((x + y - 1.3 * near > n) & (x + near < n) & (y + near < n)).mean())
    return belt, polar, 1.0 - belt - polar
