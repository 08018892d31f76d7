"""One tile smoothed in pixel space: blocks by stencils where the grid is regular, by direct sums elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..chunking import geometry
from ..chunking.tiling import Tiling
from .smooth_plane import plane_pixels, tile_corner
from .smooth_stencil import (
    FLAT,
    REACH,
    Block,
    Chart,
    Floats,
    Stencils,
    convolve,
    full_weight,
    lattice_reach,
    log_gaussian,
    lowest_logarithm,
    make_stencils,
    standard_deviation,
)

# Where the lattice has a corner, at which three base pixels meet, the way through the plane is longer.
CORNER_DETOUR: Final = 1.45
SMALLEST_BLOCK: Final = 16
LARGEST_BLOCK: Final = 512
# Pixels along the side of the squares that share the vectors of what lies around them.
GROUP: Final = 64
# Pixels summed at once: the products of 256 x 200 x 5 numbers are too small for BLAS to wake its threads, which would
# only get into the way of the other tasks.
PAIRED: Final = 200
# Blocks of which the stencils are kept.
KEPT: Final = 32
# Weight, of the full one, below which nothing but round-off is left.
NO_WEIGHT: Final = 1e-12


def halo_width(nside: int, fwhm_radian: float) -> int:
    """Return the pixels of the plane around a tile that its smoothing reads."""
    # Everything in reach lies within one base pixel's side (`check_fwhm`).
    return min(nside, math.ceil(CORNER_DETOUR * lattice_reach(nside, standard_deviation(fwhm_radian))))


def first_block(tiling: Tiling, sigma: float) -> int:
    """Return the side of the blocks that are tried first: several times the reach, but small on the sphere."""
    wanted = 4.0 * REACH * sigma * tiling.nside
    side = 2 ** math.ceil(math.log2(max(wanted, 128)))
    return int(min(side, LARGEST_BLOCK, max(SMALLEST_BLOCK, tiling.nside // 16), math.isqrt(tiling.tile_npix)))


class Smoother:
    """Smooths the images of one tile, block by block.

    Parameters
    ----------
    tiling, tile, fwhm_radian, least_weight
        See `LocalKernel`.
    images : sequence of ndarray
        Maps, (y, x) float32: the tile with `halo_width` pixels around it.
    weights : ndarray or None
        (y, x) float32 likewise.
    """

    def __init__(
        self,
        tiling: Tiling,
        tile: int,
        fwhm_radian: float,
        images: Sequence[NDArray[np.float32]],
        weights: NDArray[np.float32] | None,
        least_weight: float,
    ) -> None:
        self.tiling, self.images, self.weights = tiling, images, weights
        self.base, self.x0, self.y0 = tile_corner(tiling, tile)
        self.side = math.isqrt(tiling.tile_npix)
        self.sigma = standard_deviation(fwhm_radian)
        self.halo = halo_width(tiling.nside, fwhm_radian)
        self.full = full_weight(tiling.nside, self.sigma)
        self.least = max(least_weight, NO_WEIGHT) * self.full
        self.lowest = lowest_logarithm(self.sigma)
        row = self.base // 4
        self.charts = (Chart(tiling.nside, row, False), Chart(tiling.nside, row, True))
        self.made = [np.full((self.side, self.side), np.nan, np.float32) for _ in images]
        self.belt: dict[tuple[int, int], Stencils | None] = {}
        # Pixels smoothed by stencils, and directly; for tests.
        self.counts = [0, 0]

    def run(self) -> list[NDArray[np.float32]]:
        """Return the smoothed maps of the tile in NESTED order, each (cells,) float32."""
        start = first_block(self.tiling, self.sigma)
        for y in range(0, self.side, start):
            for x in range(0, self.side, start):
                self._smooth(Block(self.x0 + x, self.y0 + y, start), None)
        grid = geometry.morton(self.side)
        outputs = []
        for made in self.made:
            cells = np.empty(made.size, np.float32)
            cells[grid] = made
            outputs.append(cells)
        return outputs

    def _smooth(self, block: Block, around: _Around | None) -> None:
        """Smooth one block: by stencils, else by quarters, else directly."""
        here = self._window(block, 0)
        if not any(np.isfinite(image[here]).any() for image in self.images):
            return
        stencils = self._stencils(block)
        if stencils is not None:
            self.counts[0] += block.side**2
            self._convolve(block, stencils)
            return
        if around is None and block.side <= GROUP:
            around = _Around(self, block)
        if block.side <= SMALLEST_BLOCK:
            assert around is not None
            self.counts[1] += block.side**2
            self._sum(block, around)
            return
        side = block.side // 2
        for y in (block.y, block.y + side):
            for x in (block.x, block.x + side):
                self._smooth(Block(x, y, side), around)

    def _window(self, block: Block, wider: int) -> tuple[slice, slice]:
        """Return the place of a block in the images, `wider` pixels wider on all sides."""
        x, y = block.x - self.x0 + self.halo, block.y - self.y0 + self.halo
        return (
            slice(y - wider, y + block.side + wider),
            slice(x - wider, x + block.side + wider),
        )

    def _stencils(self, block: Block) -> Stencils | None:
        if block.side < 4:
            return None
        # In every direction the Gaussian reaches at least three quarters of this far, in steps of the lattice.
        least = int(0.75 * self.tiling.nside * REACH * self.sigma)
        for chart in self.charts:
            if not chart.holds(block, least, least):
                continue
            if chart.polar:
                return make_stencils(chart, block, self.sigma)
            # In the belt nothing depends on the longitude: blocks of equal latitude share their weights.
            key = (block.side, block.x + block.y)
            if key not in self.belt:
                if len(self.belt) >= KEPT:
                    self.belt.clear()
                self.belt[key] = make_stencils(chart, block, self.sigma)
            found = self.belt[key]
            return found if found is not None and chart.holds(block, found.sums, found.reach) else None
        return None

    def _field(self, number: int, where: tuple[slice, slice]) -> tuple[Floats, Floats, float]:
        """Return weight times value above the usual one, weight, and the usual value, of a part of a map."""
        values = self.images[number][where].astype(np.float64)
        finite = np.isfinite(values)
        weights = finite.astype(np.float64)
        if self.weights is not None:
            known = self.weights[where]
            weights[finite] *= np.where(np.isnan(known), 0.0, known)[finite]
        values[~finite] = 0.0
        # Above what is usual: so that a constant stays what it is, and round-off is of the contrast.  The median, of
        # some pixels, because one bright source would carry the mean away.
        used = values[weights > 0]
        usual = float(np.median(used[:: used.size // 2000 + 1])) if used.size else 0.0
        return weights * (values - usual), weights, usual

    def _convolve(self, block: Block, stencils: Stencils) -> None:
        where = self._window(block, stencils.reach)
        inner = self._window(block, 0)
        for number, image in enumerate(self.images):
            if not np.isfinite(image[inner]).any():
                continue
            values, weights, usual = self._field(number, where)
            top, bottom = convolve(stencils, np.stack([values, weights]), block.side)
            self._put(number, block, top, bottom, usual)

    def _put(self, number: int, block: Block, top: Floats, bottom: Floats, usual: float) -> None:
        """Keep the quotient of two sums as the result, where pixel and weight allow it."""
        good = np.isfinite(self.images[number][self._window(block, 0)]) & (bottom >= self.least)
        y, x = block.y - self.y0, block.x - self.x0
        target = self.made[number][y : y + block.side, x : x + block.side]
        target[good] = usual + top[good] / bottom[good]

    def _sum(self, block: Block, around: _Around) -> None:
        """Smooth a block by summing over all pairs of pixels, distances taken from vectors."""
        out, near = around.vectors_of(block, REACH * self.sigma)
        centre = out.mean(axis=0)
        where = around.window
        # In units of sigma around the block, so that float32 keeps the small angles.
        p = ((out - centre) / self.sigma).astype(np.float32)
        q = ((around.vectors[near] - centre) / self.sigma).astype(np.float32)
        left = np.column_stack([p, -0.5 * (p * p).sum(axis=1), np.ones(len(p), np.float32)])
        right = np.vstack([q.T, np.ones(len(q), np.float32), -0.5 * (q * q).sum(axis=1)])
        levels: list[float] = []
        columns: list[Floats] = []
        for number in range(len(self.images)):
            values, weights, usual = around.field(number, where)
            levels.append(usual)
            columns += [values[near], weights[near]]
        fields = np.stack(columns, axis=1).astype(np.float32)
        sums = np.zeros((len(p), fields.shape[1]), np.float32)
        for first in range(0, len(q), PAIRED):
            part = slice(first, first + PAIRED)
            pairs = left @ right[:, part]
            if self.sigma >= FLAT:
                pairs = log_gaussian(np.maximum(pairs * np.float32(-2.0 * self.sigma**2), np.float32(0)), self.sigma)
            seen = pairs >= self.lowest
            np.exp(pairs, out=pairs)
            pairs *= seen
            for column in range(0, fields.shape[1], 2):
                sums[:, column : column + 2] += pairs @ fields[part, column : column + 2]
        for number, usual in enumerate(levels):
            top, bottom = (sums[:, 2 * number + k].astype(np.float64).reshape(block.side, -1) for k in (0, 1))
            self._put(number, block, top, bottom, usual)


class _Around:
    """The pixels around a group of blocks, with their vectors: made once for all of its blocks."""

    def __init__(self, smoother: Smoother, group: Block) -> None:
        self.smoother, self.group = smoother, group
        self.halo = smoother.halo
        nside = smoother.tiling.nside
        x = np.arange(group.x - self.halo, group.x + group.side + self.halo)
        y = np.arange(group.y - self.halo, group.y + group.side + self.halo)
        pixels = plane_pixels(nside, smoother.base, x, y)
        self.window = smoother._window(group, self.halo)
        self.known = np.flatnonzero(pixels >= 0)
        self.place = np.full(pixels.shape, -1)
        self.place.flat[self.known] = np.arange(self.known.size)
        self.vectors = geometry.pixel_vectors(nside, pixels.flat[self.known])
        self.fields: dict[int, tuple[Floats, Floats, float]] = {}

    def vectors_of(self, block: Block, reach: float) -> tuple[Floats, NDArray[np.int64]]:
        """Return the vectors of a block's pixels, (cells, 3), and which of all pixels lie in its reach."""
        x, y = block.x - self.group.x + self.halo, block.y - self.group.y + self.halo
        out = self.vectors[self.place[y : y + block.side, x : x + block.side].reshape(-1)]
        centre = out.mean(axis=0)
        radius = reach + float(np.sqrt(((out - centre) ** 2).sum(axis=1).max()))
        return out, np.flatnonzero(((self.vectors - centre) ** 2).sum(axis=1) <= radius**2)

    def field(self, number: int, where: tuple[slice, slice]) -> tuple[Floats, Floats, float]:
        """Return what `Smoother._field` does, for the pixels that there are."""
        if number not in self.fields:
            values, weights, usual = self.smoother._field(number, where)
            self.fields[number] = (values.flat[self.known], weights.flat[self.known], usual)
        return self.fields[number]
