"""The sphere as rings and orders: which rows of pixels make a band, which m make a block, and what fits into memory.

Rows are the iso-latitude rings of HEALPix, numbered from 0 at the north pole to 4 nside - 2.  A band is a run of
consecutive rows, a block a run of consecutive orders m.  A transform over the sphere goes band by band and block by
block (`transform.py`); nothing in it ever holds a whole map or a whole set of a_lm.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import ducc0
import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError, nearest
from ..chunking.tiling import Tiling

PRECISIONS = ("single", "double")
# At 256 orders a piece of a band for a block is 2 MB: long enough to be read at the speed of the disk.
ORDERS_OF_A_BLOCK = 256
FEWEST_BLOCKS = 16
TALLEST_BAND = 2048
# Up to here a_lm are made in double precision even from single ring coefficients: it costs little, and the largest
# error of a C_l falls from 1e-6 to 4e-7, the mean one tenfold (measured at nside 512).
DOUBLE_LMAX = 4096


class Rings(NamedTuple):
    """The rows of one nside, each (row,): colatitude in radian, pixels, longitude of the first, its RING number."""

    theta: NDArray[np.float64]
    nphi: NDArray[np.uint64]
    phi0: NDArray[np.float64]
    start: NDArray[np.uint64]


@functools.lru_cache(maxsize=4)
def rings_of(nside: int) -> Rings:
    """Return the rows of a grid.

    Examples
    --------
    >>> rings_of(2).nphi.tolist()
    [4, 8, 8, 8, 8, 8, 4]
    """
    known = ducc0.healpix.Healpix_Base(nside, "RING").sht_info()
    rings = Rings(known["theta"], known["nphi"], known["phi0"], known["ringstart"])
    for column in rings:
        column.flags.writeable = False
    return rings


@dataclass(frozen=True)
class Layout:
    """How a transform is cut: bands of rows, blocks of orders, and the kind of numbers between them.

    Parameters
    ----------
    tiling : Tiling
        Grid of the maps.
    lmax : int
        Largest degree.
    height : int
        Rows of a band; a multiple of the side of a chunk, so that few chunks are read twice.
    width : int
        Orders of a block.
    precision : {"single", "double"}
        Of maps and ring coefficients; power spectra are summed in double precision either way.

    Examples
    --------
    >>> layout = Layout.of(Tiling(16384), 32768)
    >>> layout.n_bands, layout.n_blocks
    (64, 129)
    """

    tiling: Tiling
    lmax: int
    height: int
    width: int
    precision: str = "single"

    @classmethod
    def of(cls, tiling: Tiling, lmax: int, precision: str = "single") -> Layout:
        """Return the layout that measurements favour, before any want of memory.

        Raises
        ------
        InputError
            If `lmax` is beyond what the grid holds, or the precision unknown.
        """
        if not 0 <= lmax <= 3 * tiling.nside - 1:
            raise InputError(
                f"`lmax` {lmax} came; a map of nside {tiling.nside} holds degrees from 0 to 3 nside - 1 = "
                f"{3 * tiling.nside - 1}. Give a smaller one (2 nside = {2 * tiling.nside} or less is accurate)."
            )
        if precision not in PRECISIONS:
            raise InputError(f"`precision` {precision!r} came; {nearest(precision, PRECISIONS)}.")
        side = math.isqrt(tiling.chunk_npix)
        # Twice the side of a chunk reads half of the chunks twice, and more memory would gain little.
        height = min(max(2 * side, 16), TALLEST_BAND)
        # The width depends on lmax alone: it is the order of summation, and so part of the result's last bit.
        width = min(ORDERS_OF_A_BLOCK, max(8, -(-(lmax + 1) // FEWEST_BLOCKS)))
        return cls(tiling, lmax, height, width, precision)

    def lower(self) -> Layout | None:
        """Return the same with bands of half the height, which needs less memory, or None at the lowest."""
        return replace(self, height=self.height // 2) if self.height // 2 >= self.lowest else None

    @property
    def lowest(self) -> int:
        """Rows of the lowest band; the height of any other is a multiple of it."""
        # Below a quarter of a chunk every chunk would be read eight times and more.
        return max(16, math.isqrt(self.tiling.chunk_npix) // 4)

    @property
    def real(self) -> np.dtype[np.floating]:
        """Kind of number of a map."""
        return np.dtype(np.float32 if self.precision == "single" else np.float64)

    @property
    def complex(self) -> np.dtype[np.complexfloating]:
        """Kind of number of ring coefficients."""
        return np.dtype(np.complex64 if self.precision == "single" else np.complex128)

    @property
    def harmonic(self) -> np.dtype[np.complexfloating]:
        """Kind of number of a_lm, and of the arithmetic that makes them."""
        return np.dtype(np.complex128 if self.lmax <= DOUBLE_LMAX else self.complex)

    @property
    def interpolated(self) -> bool:
        """Whether the Legendre transform may go by interpolation in theta: twice as fast, right to 1e-7."""
        return self.precision == "single"

    @property
    def rings(self) -> Rings:
        """The rows of the grid."""
        return rings_of(self.tiling.nside)

    @property
    def n_rows(self) -> int:
        """Rows of the sphere."""
        return 4 * self.tiling.nside - 1

    @property
    def n_bands(self) -> int:
        """Bands of the sphere."""
        return -(-(self.n_rows + 1) // self.height)

    @property
    def n_blocks(self) -> int:
        """Blocks of orders."""
        return -(-(self.lmax + 1) // self.width)

    def rows(self, band: int) -> tuple[int, int]:
        """Return the first row of a band and the first one after it."""
        # Chunks begin one row before a multiple of their side, counted from 0.
        return max(0, band * self.height - 1), min(self.n_rows, (band + 1) * self.height - 1)

    def pixels(self, band: int) -> tuple[int, int]:
        """Return the first RING pixel of a band and the first one after it."""
        first, stop = self.rows(band)
        start = self.rings.start
        return int(start[first]), int(start[stop]) if stop < self.n_rows else self.tiling.npix

    def pieces(self, band: int) -> list[tuple[int, int]]:
        """Return the rows of a band cut into lowest bands: sums over these are the same in bands of any height."""
        first, stop = self.rows(band)
        cuts = [first, *range(band * self.height + self.lowest - 1, stop, self.lowest), stop]
        return list(itertools.pairwise(cuts))

    def orders(self, block: int) -> tuple[int, int]:
        """Return the first order of a block and the first one after it."""
        return block * self.width, min(self.lmax + 1, (block + 1) * self.width)

    def stored_blocks(self, band: int) -> int:
        """Return how many blocks have anything to say in a band: near the poles, large orders have nothing.

        The Legendre functions vanish there to every digit; ducc0, which does the transform, skips the same orders.
        """
        first, stop = self.rows(band)
        theta = self.rings.theta
        widest = (
            1.0 if theta[first] <= math.pi / 2 <= theta[stop - 1] else float(np.sin(theta[[first, stop - 1]]).max())
        )
        largest = min(self.lmax, int(self.lmax * widest + max(100.0, 0.01 * self.lmax)) + 1)
        return largest // self.width + 1

    def band_memory(self, weights: int, *, iterated: bool = False) -> dict[str, int]:
        """Return the bytes of the work on one band, by part: one field at a time, all weights at hand.

        Where the analysis is iterated, the model of what is known stands beside the pixels.
        """
        pixels = self.height * 4 * self.tiling.nside
        coefficients = self.height * (self.lmax + 1) * self.complex.itemsize
        chunk = self.tiling.chunk_npix
        one = self.real.itemsize * pixels
        return {
            "pixels": (1 + weights) * one,
            "ring coefficients": coefficients,
            "chunks on their way": 20 * chunk,
            "a piece": self.height * self.width * self.complex.itemsize,
            **({"weights again": one} if weights else {}),
            **({"model": one} if iterated else {}),
        }

    def block_memory(self, fields: int) -> dict[str, int]:
        """Return the bytes of the work on one block of orders, by part."""
        item = self.harmonic.itemsize
        harmonic = self.width * (self.lmax + 1) * item
        stored = 0 if self.harmonic == self.complex else self.complex.itemsize
        return {
            "ring coefficients": self.width * self.n_rows * (item + stored),
            "a_lm": (fields + 1) * harmonic,
            "interpolation": harmonic if self.interpolated else 0,
            "spectra": 8 * 8 * (self.lmax + 1) * max(1, fields),
        }

    def read_bytes(self, reads: int) -> int:
        """Return the bytes of so many maps, read in bands: where two bands cross a chunk it is read twice."""
        twice = 1 + math.isqrt(self.tiling.chunk_npix) / self.height
        return int(4 * self.tiling.npix * reads * twice)

    def scratch_bytes(self, fields: int, rounds: int = 0) -> int:
        """Return the bytes that the analysis of some fields holds in scratch space at once, at most.

        Parameters
        ----------
        fields : int
            How many.
        rounds : int
            Iterations: then what goes back to the rows lies beside what came from them, and the a_lm of one round
            beside those of the next.
        """
        rings = 0
        for band in range(self.n_bands):
            first, stop = self.rows(band)
            orders = min(self.lmax + 1, self.stored_blocks(band) * self.width)
            rings += (stop - first) * orders * self.complex.itemsize
        harmonics = 0
        for block in range(self.n_blocks):
            first, stop = self.orders(block)
            harmonics += (stop - first) * (self.lmax + 1 - first) * self.harmonic.itemsize
        return fields * (min(rounds + 1, 2) * rings + min(rounds, 2) * harmonics)


def largest_task(*tasks: Mapping[str, int]) -> dict[str, int]:
    """Return the parts of the most demanding of some tasks."""
    largest: Mapping[str, int] = max(tasks, key=lambda parts: sum(parts.values()))
    return dict(largest)
