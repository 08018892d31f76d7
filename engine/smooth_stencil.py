"""The Gaussian on the sphere, and its stencils where the grid is regular.

Inside the equatorial belt (|z| <= 2/3), and inside the polar part of a base pixel, HEALPix is a smooth map of a
square lattice (Gorski et al. 2005, section 5), so that the weights of the lattice around a pixel change slowly from
pixel to pixel.  Over a block of pixels they are polynomials of the position to any accuracy: a few convolutions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float64]

# Standard deviations at which the Gaussian is cut off: 4e-6 of its integral lies beyond.
REACH: Final = 5.0
# Sum over the lattice of what the polynomial misses, at the corners of a block, of the sum of the weights.
TOLERANCE: Final = 2e-5
DEGREE: Final = 3
# Radian of sigma below which the sphere is flat within reach: the terms left out are 3e-6 of the Gaussian where that is
# 1e-2 of its peak.
FLAT: Final = 1e-3


def standard_deviation(fwhm: float) -> float:
    """Return sigma of a Gaussian of given full width at half maximum.

    Examples
    --------
    >>> round(standard_deviation(2.0), 6)
    0.849322
    """
    return fwhm / math.sqrt(8.0 * math.log(2.0))


def log_gaussian[F: np.floating](chord2: NDArray[F], sigma: float) -> NDArray[F]:
    """Return the logarithm of the Gaussian beam on the sphere, up to a constant, (...) like the input.

    What multiplies a_lm by exp(-l (l + 1) sigma^2 / 2) is, in pixel space, sqrt(theta / sin theta)
    exp(-theta^2 / (2 sigma^2)) to 1e-5 for all widths allowed here (the kernel of heat on the sphere to first order).

    Parameters
    ----------
    chord2 : ndarray
        (...) squared distances through the unit sphere, below 0.25.
    sigma : float
        Radian.

    Examples
    --------
    >>> log_gaussian(np.array([0.01**2, 0.02**2]), 0.01).round(3).tolist()
    [-0.5, -2.0]
    """
    if sigma < FLAT:
        return np.asarray(chord2 * (-0.5 / sigma**2))
    # theta = 2 arcsin(chord / 2), squared, as a series.
    theta2 = chord2 * (1.0 + chord2 * (1.0 / 12.0 + chord2 * (1.0 / 90.0 + chord2 * (1.0 / 560.0))))
    return np.asarray(theta2 * (1.0 / 12.0 - 0.5 / sigma**2 + theta2 * (1.0 / 360.0)))


def lowest_logarithm(sigma: float) -> float:
    """Return `log_gaussian` where the Gaussian is cut off."""
    return float(log_gaussian(np.array([4.0 * math.sin(0.5 * REACH * sigma) ** 2]), sigma)[0])


def full_weight(nside: int, sigma: float) -> float:
    """Return the sum of the Gaussian, 1 at its centre, over all pixels in reach: its integral over a pixel's area."""
    theta = (np.arange(4000) + 0.5) * (REACH * sigma / 4000)
    ring = 2.0 * math.pi * np.sin(theta) * np.exp(log_gaussian(4.0 * np.sin(0.5 * theta) ** 2, sigma))
    return float(ring.sum() * (REACH * sigma / 4000) * 12 * nside**2 / (4.0 * math.pi))


@dataclass(frozen=True)
class Chart:
    """The smooth map from the lattice of a base pixel to the sphere, in the belt or in the polar part.

    Parameters
    ----------
    nside : int
        Of the grid.
    row : int
        0 for the four northern base pixels, 1 for those on the equator, 2 for the southern ones.
    polar : bool
        Whether it is the polar part.
    """

    nside: int
    row: int
    polar: bool

    def rings(self, total: Floats) -> tuple[Floats, Floats, Floats]:
        """Return z, its complement sqrt(1 - z^2) and the longitude a step of x - y makes, from x + y + 1."""
        u = total / self.nside
        if not self.polar:
            z = (u - self.row) * (2.0 / 3.0)
            z = np.clip(z, -1.0, 1.0)
            return z, np.sqrt((1.0 - z) * (1.0 + z)), np.full(u.shape, 0.25 * math.pi / self.nside)
        s = np.maximum(2.0 - u if self.row == 0 else u, 1e-12)
        cap = np.minimum(s * s / 3.0, 2.0)
        z = 1.0 - cap if self.row == 0 else cap - 1.0
        return z, np.sqrt(cap * (2.0 - cap)), 0.25 * math.pi / (self.nside * s)

    def chords2(self, x: float, y: float, reach: int) -> Floats:
        """Return squared chords from a position to the lattice around it, (2 reach + 1, 2 reach + 1) as (y, x)."""
        step = np.arange(-reach, reach + 1)
        sums, differences = np.add.outer(step, step) + 2 * reach, np.subtract.outer(step, step)
        z, radius, turn = self.rings(x + y + 1.0 + np.arange(-2.0 * reach, 2.0 * reach + 1.0))
        here = 2 * reach
        straight: Floats = (z - z[here]) ** 2 + (radius - radius[here]) ** 2
        # `differences` is of y - x; longitude goes with x - y.
        angle = (x - y - differences) * turn[sums] - (x - y) * turn[here]
        chords: Floats = straight[sums] + (4.0 * radius[here]) * radius[sums] * np.sin(0.5 * angle) ** 2
        if self.polar:
            # Beyond the edges of the base pixel the formula goes on, but not around the pole.
            chords[np.abs(angle + (x - y) * turn[here]) > 0.4 * math.pi] = np.inf
        return chords

    def holds(self, block: Block, sums: int, steps: int) -> bool:
        """Return whether a block, with `sums` of x + y and `steps` of x or y around it, lies on the chart."""
        n, (x, y, side) = self.nside, block
        low, high = x + y + 1 - sums, x + y + 2 * side - 1 + sums
        left, right, bottom, top = x - steps, x + side - 1 + steps, y - steps, y + side - 1 + steps
        if not self.polar:
            if self.row == 1:
                return low >= 0 and high <= 2 * n
            inside = (low >= -n and high <= n) if self.row == 0 else (low >= n and high <= 3 * n)
            # The quadrants where only three base pixels meet are empty.
            return inside and not (left < 0 and top >= n) and not (right >= n and bottom < 0)
        if self.row == 0:
            return low >= n and right < n and top < n
        return self.row == 2 and high <= n and left >= 0 and bottom >= 0


class Block(NamedTuple):
    """A square of pixels of a base pixel, from (x, y) on."""

    x: int
    y: int
    side: int


class Stencils(NamedTuple):
    """The weights around every pixel of a block: the sum of `terms` (term, y, x) times powers of the position."""

    terms: Floats
    powers: tuple[tuple[int, int], ...]
    reach: int
    sums: int


@lru_cache(maxsize=16)
def _monomial(p: int, q: int, side: int) -> Floats:
    """Return a power of the sum times one of the difference (of y and x) over a block, each -1 to 1, (y, x)."""
    axis = (np.arange(side) - 0.5 * (side - 1)) / max(1.0, side - 1.0)
    return np.asarray(np.add.outer(axis, axis) ** p * np.subtract.outer(axis, axis) ** q)


def lattice_reach(nside: int, sigma: float) -> int:
    """Return the steps of x or y within which every pixel in reach lies, where the lattice has no corner."""
    return math.ceil(1.45 * nside * REACH * sigma) + 2


def make_stencils(chart: Chart, block: Block, sigma: float) -> Stencils | None:
    """Return the stencils of a block, or None where it reaches beyond its chart or the weights change too much.

    Parameters
    ----------
    chart : Chart
        On which the block lies.
    block : Block
        The pixels.
    sigma : float
        Of the Gaussian, radian.
    """
    half, wide = 0.5 * (block.side - 1), lattice_reach(chart.nside, sigma)
    centre = (block.x + half, block.y + half)
    scale = max(1.0, block.side - 1.0)

    def weights(u: float, v: float) -> Floats:
        """Weights around the pixel at sum u and difference v (of y and x), each from -1 to 1."""
        x, y = centre[0] + 0.5 * scale * (u - v), centre[1] + 0.5 * scale * (u + v)
        return log_gaussian(chart.chords2(x, y, wide), sigma)

    lowest = lowest_logarithm(sigma)
    middle = weights(0.0, 0.0)
    if not chart.holds(block, *_extent(middle >= lowest, wide)):
        return None
    axis = np.cos(math.pi * (np.arange(DEGREE + 1) + 0.5) / (DEGREE + 1))
    if chart.polar:
        # Chebyshev nodes along x and y, in the sums and differences that the polynomials are of.
        nodes = [(0.5 * (a + b), 0.5 * (b - a)) for a in axis for b in axis]
        corners = [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)]
        powers = tuple((p, q) for p in range(DEGREE + 1) for q in range(DEGREE + 1 - p))
    else:  # nothing depends on the longitude
        nodes, corners = [(a, 0.0) for a in axis], [(1.0, 0.0), (-1.0, 0.0)]
        powers = tuple((p, 0) for p in range(DEGREE + 1))
    at_corners = [weights(*corner) for corner in corners]
    support = np.logical_or.reduce([found >= lowest for found in (middle, *at_corners)])
    sums, steps = _extent(support, wide)
    if not chart.holds(block, sums, steps):
        return None
    cut = slice(wide - steps, wide + steps + 1)
    inside = support[cut, cut]
    values = np.stack([np.exp(weights(*node)[cut, cut]) * inside for node in nodes])

    def basis(points: list[tuple[float, float]]) -> Floats:
        return np.array([[u**p * v**q for p, q in powers] for u, v in points])

    terms = np.einsum("tn,nyx->tyx", np.linalg.pinv(basis(nodes)), values)
    for row, found in zip(basis(corners), at_corners, strict=True):
        exact = np.exp(found[cut, cut]) * inside
        if np.abs(np.einsum("t,tyx->yx", row, terms) - exact).sum() > TOLERANCE * exact.sum():
            return None
    return Stencils(terms, powers, steps, sums)


def _extent(support: NDArray[np.bool_], wide: int) -> tuple[int, int]:
    """Return the furthest |dx + dy| and the furthest |dx| or |dy| of a support around its middle."""
    y, x = np.nonzero(support)
    return int(np.abs(x + y - 2 * wide).max()), int(max(np.abs(x - wide).max(), np.abs(y - wide).max()))


def convolve(stencils: Stencils, fields: Floats, side: int) -> Floats:
    """Return the sums of fields over the stencils of a block, (field, y, x) float64.

    Parameters
    ----------
    stencils : Stencils
        Of the block.
    fields : ndarray
        (field, y, x) float64: the block with `stencils.reach` pixels around it.
    side : int
        Pixels along the side of the block.
    """
    from scipy import fft

    reach = stencils.reach
    length = fft.next_fast_len(side + 2 * reach, real=True)
    transformed = [fft.rfft2(field, (length, length)) for field in fields]
    made = np.zeros((len(fields), side, side))
    # A correlation: the stencil turned round.  What wraps around falls outside this part.
    part = slice(2 * reach, 2 * reach + side)
    for powers, term in zip(stencils.powers, stencils.terms, strict=True):
        response = fft.rfft2(term[::-1, ::-1], (length, length))
        polynomial = _monomial(*powers, side)
        for field, known in enumerate(transformed):
            made[field] += fft.irfft2(known * response, (length, length))[part, part] * polynomial
    return made
