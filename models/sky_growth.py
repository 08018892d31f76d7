"""One tile of a synthetic sky: from the base resolution down to its pixels, piece by piece.

A piece that has grown too large for the cache is cut in four, each quarter with its halo, and each quarter is led to
the last order before the next begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from . import sky_refine
from .sky_fields import BASE_ORDER
from .sky_frame import HALO, RIM, Piece, framed_pixels, unravel
from .sky_random import Singles
from .sky_recipe import BANDS_OF, Sums
from .sky_refine import Growth

LEAF: Final = 64  # parents along the side of the pieces of the last step


class Collector(Protocol):
    """Takes the fields of a piece one after the other, and makes maps of them."""

    def add(self, field: str, values: Singles) -> None:
        """Take one field, (...) float32, valid during the call."""

    def compose(self, name: str, noises: dict[str, Singles]) -> Singles:
        """Return a map, (...) float32."""


class Request(Protocol):
    """What has to be computed for some maps: fields with their growth, noises, and how they are put together."""

    @property
    def names(self) -> tuple[str, ...]:
        """The maps."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are refined."""

    @property
    def growths(self) -> tuple[Growth | None, ...]:
        """How."""

    @property
    def noises(self) -> tuple[str, ...]:
        """The noises."""

    @property
    def noise_needs_truth(self) -> tuple[str, ...]:
        """Noises whose level follows the brightness."""

    def collect(self) -> Collector:
        """Return what makes the maps of one piece."""


@dataclass(frozen=True)
class NoiseLevel:
    """Standard deviation at a reference order: a floor, and a part relative to the brightness.

    Parameters
    ----------
    order : int
        HEALPix order for which the levels are given.
    floor : float
        MJy/sr.
    relative : float
        Part of the brightness, added in quadrature.
    """

    order: int
    floor: float
    relative: float

    def at(self, order: int, brightness: Singles | None) -> Singles | np.float32:
        """Return the standard deviation of pixels of an order, float32 or (...) float32.

        Examples
        --------
        >>> float(NoiseLevel(8, 0.5, 0.0).at(9, None))
        1.0
        """
        scale = 2.0 ** (order - self.order)
        if brightness is None:
            return np.float32(self.floor * scale)
        sigma = np.multiply(brightness, np.float32(self.relative * scale))
        np.square(sigma, out=sigma)
        sigma += np.float32((self.floor * scale) ** 2)
        return np.sqrt(sigma, out=sigma)


@dataclass
class State:
    """What is known of a piece: its fields with their halo, its noises without, and where it lies in the tile."""

    piece: Piece
    fields: list[Singles]
    noises: list[Singles]
    start: int

    def quarter(self, number: int, cells: int) -> State:
        """Return one quarter, 0 to 3 in NESTED order; `cells` is what a quarter has in the tile."""
        row, column = divmod(number, 2)
        half = self.piece.side // 2
        y, x = row * half, column * half
        return State(
            self.piece.quarter(row, column),
            [values[y : y + half + 2 * HALO, x : x + half + 2 * HALO] for values in self.fields],
            [values[y : y + half, x : x + half] for values in self.noises],
            self.start + number * cells,
        )


class TileJob:
    """The maps of a run of NESTED pixels finer than the base resolution.

    Parameters
    ----------
    recipe : Request
        The maps.
    seed : int
        Of the sky.
    order : int
        HEALPix order of the maps, above BASE_ORDER.
    first, count : int
        The pixels; `count` is a power of four and divides `first`.
    levels : dict of str to NoiseLevel or None
        Of each noise; None for what is the same all over a cell of the base order.
    codes : ndarray, optional
        (cells,) uint8 of all cells of the base order; where it is 0, nothing is computed.
    noise_seed : int, optional
        Of the noises, where it is another one.
    out : dict of str to ndarray, optional
        Room for the maps, (cells,) float32 each.
    """

    def __init__(
        self,
        recipe: Request,
        seed: int,
        order: int,
        first: int,
        count: int,
        levels: Mapping[str, NoiseLevel | None],
        codes: NDArray[np.uint8] | None,
        noise_seed: int | None = None,
        out: dict[str, Singles] | None = None,
    ) -> None:
        self.recipe, self.seed, self.order, self.first, self.count = recipe, seed, order, first, count
        self.levels, self.codes = levels, codes
        self.fields, self.growths, self.noises = recipe.fields, recipe.growths, recipe.noises
        self.noise_seed = seed if noise_seed is None else noise_seed
        self.out = {name: np.empty(count, dtype=np.float32) for name in recipe.names} if out is None else out

    def run(self, fields: dict[str, Singles], noises: dict[str, Singles]) -> dict[str, Singles]:
        """Return the maps, each (cells,) float32.

        Parameters
        ----------
        fields, noises : dict of str to ndarray
            (cells,) float32 of the base order, NESTED, the whole sky.
        """
        deeper = 2 * (self.order - BASE_ORDER)
        side = max(1, int((self.count >> deeper) ** 0.5 + 0.5))
        piece = Piece.of(BASE_ORDER, self.first >> deeper, side)
        pixels = framed_pixels(piece)
        inner = pixels[HALO:-HALO, HALO:-HALO]
        state = State(
            piece, [fields[name][pixels] for name in self.fields], [noises[name][inner] for name in self.noises], 0
        )
        # Tiles below a base pixel: follow the one child that holds the tile.
        while self.count < 4 ** (self.order - state.piece.order) * state.piece.side**2:
            state = self._finer(state)
            below = 2 * (self.order - state.piece.order)
            state = state.quarter((self.first >> below) % 4, 0)
        self._descend(state)
        return self.out

    def _descend(self, state: State) -> None:
        piece = state.piece
        cells = piece.side**2 * 4 ** (self.order - piece.order)
        if not self._observed(piece, state.start, cells):
            for values in self.out.values():
                values[state.start : state.start + cells] = np.nan
            return
        if piece.order == self.order:
            self._single(state)
        elif piece.side > LEAF:
            for number in range(4):
                self._descend(state.quarter(number, cells // 4))
        elif piece.order == self.order - 1:
            self._last(state)
        else:
            self._descend(self._finer(state))

    def _observed(self, piece: Piece, start: int, cells: int) -> bool:
        if self.codes is None:
            return True
        deeper = 2 * (self.order - BASE_ORDER)
        first = (self.first + start) >> deeper
        return bool(self.codes[first : first + max(1, cells >> deeper)].any())

    def _brightness(self, state: State) -> Sums:
        sums = Sums([BANDS_OF[name] for name in self.noises if name in self.recipe.noise_needs_truth])
        if sums.names:
            for name, values in zip(self.fields, state.fields, strict=True):
                sums.add(name, values[HALO:-HALO, HALO:-HALO])
        return sums

    def _noise(self, state: State) -> list[Singles]:
        brightness = self._brightness(state)
        made: list[Singles] = []
        for name, values in zip(self.noises, state.noises, strict=True):
            level = self.levels[name]
            if level is None:
                made.append(np.broadcast_to(values, (4, *values.shape)))
                continue
            truth = brightness.values.get(BANDS_OF[name]) if name in self.recipe.noise_needs_truth else None
            sigma = level.at(state.piece.order, truth)
            made.append(sky_refine.noise_children(values, state.piece, sigma, self.noise_seed, f"noise/{name}"))
        return made

    def _finer(self, state: State) -> State:
        grown: list[Singles] = []
        sky_refine.refine(
            state.piece,
            state.fields,
            self.growths,
            RIM,
            self.seed,
            lambda _, kids: grown.append(sky_refine.interleave(kids)),
        )
        noises = [sky_refine.interleave(children) for children in self._noise(state)]
        return State(state.piece.children(), grown, noises, state.start)

    def _last(self, state: State) -> None:
        parts = self.recipe.collect()
        sky_refine.refine(
            state.piece, state.fields, self.growths, 0, self.seed, lambda i, kids: parts.add(self.fields[i], kids)
        )
        noises = dict(zip(self.noises, self._noise(state), strict=True))
        area = state.piece.side**2
        place = unravel(state.piece.side)
        for name in self.recipe.names:
            children = parts.compose(name, noises).reshape(4, area)
            there = self.out[name][state.start : state.start + 4 * area].reshape(area, 4)
            for child in range(4):
                there[:, child] = children[child].take(place)

    def _single(self, state: State) -> None:
        """Finish a tile of one pixel, which has been reached by following its parents."""
        parts = self.recipe.collect()
        for name, values in zip(self.fields, state.fields, strict=True):
            parts.add(name, values[HALO:-HALO, HALO:-HALO])
        noises = dict(zip(self.noises, state.noises, strict=True))
        for name in self.recipe.names:
            self.out[name][:] = parts.compose(name, noises).ravel()
