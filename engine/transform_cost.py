"""How long a transform will take: the measured cost of every stage against nside and lmax, scaled to this machine.

The constants are seconds of one thread of the machine of `tests/benchmarks/results`; a probe of a few milliseconds
tells how much faster or slower the present one is.  `make bench` holds announced times to measured ones.
"""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass, field

import ducc0
import numpy as np

from .rings import Layout, rings_of
from .worker import Worker

# Seconds of a thread: a pixel gathered (chunks that are read twice count twice), or cut into pieces of tiles.
_GATHER = 8e-9
_SCATTER = 4e-9
_PUT_TOGETHER = 12e-9
# Along the rows: a pixel at each doubling of their length, and a coefficient.
_ROWS_PIXEL = 0.38e-9
_ROWS_COEFFICIENT = 1.5e-9
# A byte of scratch space, written with its digest, and read with it.
_WRITE = 1.3e-9
_READ = 0.4e-9
# Legendre transforms, by interpolation in theta: lmax^3, lmax^2, rings times lmax; and ring by ring, nside lmax^2.
_CUBE, _SQUARE, _RING_ORDER = 1.6e-11, 1.5e-9, 1.2e-8
_RINGS, _RING_ORDER_DIRECT = 4.35e-11, 5e-9
_DOUBLE = 1.25  # where the interpolation is in double precision
# A product of two a_lm summed up.
_PRODUCT = 8e-9
# An a_lm drawn.
_DRAW = 60e-9
# What a run takes before and after, and a step beside its work.
_START, STEP_SECONDS = 0.05, 0.002
# The probe on the reference machine.
_PROBE = 0.45e-3


@dataclass
class Cost:
    """Seconds of a thread by stage, summed up as stages are added.

    Parameters
    ----------
    seconds : dict
        By what is done.
    steps : int
        Tasks.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    steps: int = 0

    def _add(self, what: str, seconds: float) -> None:
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds

    def gather(self, layout: Layout, reads: int) -> Cost:
        """Add the pixels of all bands, read from so many maps and weights."""
        twice = 1 + math.isqrt(layout.tiling.chunk_npix) / layout.height
        self._add("gather", _GATHER * twice * reads * layout.tiling.npix)
        self.steps += layout.n_bands
        return self

    def rows(self, layout: Layout, fields: int, *, read: bool = False, write: bool = False) -> Cost:
        """Add transforms along all rows, their coefficients read from, or written to, scratch space."""
        doublings = math.log2(4 * layout.tiling.nside)
        size = layout.scratch_bytes(1)
        pixels = _ROWS_PIXEL * doublings * layout.tiling.npix
        self._add("rows", fields * (pixels + _ROWS_COEFFICIENT * layout.n_rows * (layout.lmax + 1)))
        self._add("scratch", fields * size * (read * _READ + write * _WRITE))
        return self

    def legendre(self, layout: Layout, fields: int, *, read: bool = False, write: bool = False) -> Cost:
        """Add Legendre transforms of all orders, in either direction."""
        lmax, rows = layout.lmax + 1, layout.n_rows
        if layout.interpolated:
            seconds = _CUBE * lmax**3 + _SQUARE * lmax**2 + _RING_ORDER * rows * lmax
            if layout.harmonic != layout.complex:
                seconds *= _DOUBLE
        else:
            seconds = _RINGS * layout.tiling.nside * lmax**2 + _RING_ORDER_DIRECT * rows * lmax
        self._add("legendre", fields * seconds)
        self._add("scratch", fields * layout.scratch_bytes(1) * (read * _READ + write * _WRITE))
        self.steps += layout.n_blocks
        return self

    def draws(self, layout: Layout, maps: int) -> Cost:
        """Add the a_lm of Gaussian maps."""
        self._add("draw", _DRAW * maps * (layout.lmax + 1) ** 2 / 2)
        return self

    def products(self, layout: Layout, pairs: int) -> Cost:
        """Add the products of a_lm for some spectra."""
        self._add("spectra", _PRODUCT * pairs * (layout.lmax + 1) ** 2 / 2)
        return self

    def tiles(self, layout: Layout, maps: int) -> Cost:
        """Add maps cut from bands and put together as tiles of a store."""
        self._add("tiles", (_SCATTER + _PUT_TOGETHER + 8 * _WRITE) * maps * layout.tiling.npix)
        self.steps += layout.n_bands + layout.tiling.n_tiles
        return self

    def there_and_back(self, layout: Layout, onto: Layout, fields: int, rounds: int = 0) -> Cost:
        """Add fields that go from pixels to a_lm, with rounds of least squares, and back to pixels."""
        for _ in range(rounds + 1):
            self.gather(layout, fields).rows(layout, fields, write=True).legendre(layout, fields, read=True)
        for each in (*[layout] * rounds, onto):
            self.legendre(each, fields, write=True).rows(each, fields, read=True)
        return self

    @property
    def total(self) -> float:
        """Seconds of one thread of the reference machine."""
        return sum(self.seconds.values()) + STEP_SECONDS * self.steps

    def wall(self, worker: Worker) -> float:
        """Return the wall time in seconds on so many threads and processes."""
        threads = worker.threads * worker.processes
        return _START + slowness() * self.total / threads


@functools.cache
def slowness() -> float:
    """Return how many times longer this machine takes for a small transform than the reference machine."""
    nside, lmax, orders = 256, 512, 24
    theta = rings_of(nside).theta
    rings = np.ones((1, theta.size, orders), dtype=np.complex64)
    begins = np.arange(orders, dtype=np.uint64) * np.uint64(lmax + 1)
    best = math.inf
    for _ in range(20):
        began = time.perf_counter()
        ducc0.sht.leg2alm(
            leg=rings, lmax=lmax, theta=theta, mval=np.arange(orders, dtype=np.uint64), mstart=begins, nthreads=1
        )
        best = min(best, time.perf_counter() - began)
    return best / _PROBE
