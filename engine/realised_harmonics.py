"""Gaussian a_lm of given spectra, drawn order by order: whoever needs an order draws it, and it is always the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError
from .rings import Layout
from .scratch import Scratch
from .transform import GIVEN

type Floats = NDArray[np.float64]

FACTORS: Final = "factors"
LARGEST_SEED: Final = 2**64 - 1


def check_seed(seed: int) -> None:
    """Raise InputError unless `seed` can be one: a whole number from 0 to 2**64 - 1."""
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"`seed` {seed} came; give a whole number from 0 to 2**64 - 1.")


def unit_draw(seed: int, order: int, field: int, lmax: int) -> Floats:
    """Return unit Gaussian coefficients of one order, (ell, part) float64 for ell from the order to lmax.

    Their spectrum is 1 on average: variance 1/2 in real and imaginary part, and 1 for order 0, which is real.  They
    depend on seed, order and field alone, and a larger lmax only adds to them.

    Parameters
    ----------
    seed : int
        From 0 to 2**64 - 1.
    order : int
        m.
    field : int
        Number of the map in its set.
    lmax : int
        Largest degree.

    References
    ----------
    Salmon et al. 2011, Proceedings of SC11, 16: Philox, a generator that a key makes another one.

    Examples
    --------
    >>> longer, shorter = unit_draw(1, 2, 0, 9), unit_draw(1, 2, 0, 5)
    >>> longer.shape, bool((longer[:4] == shorter).all())
    ((8, 2), True)
    """
    key = np.array([seed, (field << 32) | order], dtype=np.uint64)
    drawn = np.random.Generator(np.random.Philox(key=key)).standard_normal((lmax + 1 - order, 2))
    if order == 0:
        drawn[:, 1] = 0.0
    else:
        drawn *= np.sqrt(0.5)
    return drawn


@dataclass(frozen=True)
class RealisedHarmonics:
    """Draws the a_lm of a set of maps; what a `BlockTask` calls.

    The factors of the spectra are in the scratch space, put there by `give`, so that a task stays small.

    Parameters
    ----------
    seed : int
        Which realisation.
    maps : int
        How many.
    """

    seed: int
    maps: int

    def give(self, scratch: Scratch, factors: Floats) -> None:
        """Put the factors where all tasks find them.

        Parameters
        ----------
        scratch : Scratch
            Of the run.
        factors : ndarray
            (ell, map, map) float64, lower triangles L with L L^T = C.
        """
        scratch.write(f"{GIVEN}/{FACTORS}/0", [np.moveaxis(factors, 0, -1)])

    def block(self, scratch: Scratch, layout: Layout, block: int) -> list[NDArray[np.complexfloating]]:
        """Return the a_lm of a block of orders, (order, ell) complex for each map, 0 below ell = order.

        Parameters
        ----------
        scratch : Scratch
            With the factors.
        layout : Layout
            Blocks, and the kind of numbers.
        block : int
            Which one.
        """
        size = layout.lmax + 1
        flat = scratch.read(f"{GIVEN}/{FACTORS}/0", 0, 1, np.dtype(np.float64))
        factors = flat.reshape(self.maps, self.maps, size)
        first, stop = layout.orders(block)
        made = [np.zeros((stop - first, size), dtype=layout.complex) for _ in range(self.maps)]
        for order in range(first, stop):
            units = [unit_draw(self.seed, order, field, layout.lmax) for field in range(self.maps)]
            for place, harmonic in enumerate(made):
                row = sum(factors[place, other, order:, None] * units[other] for other in range(place + 1))
                # Real and imaginary parts side by side are the complex numbers.
                parts = harmonic[order - first, order:].view(layout.real)
                parts[:] = np.asarray(row).reshape(-1)
        return made
