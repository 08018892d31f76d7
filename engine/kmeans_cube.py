"""A cube as voxels: its channels, what its values are as column densities, where its pixels are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import sphere
from ..chunking import store as stores
from ..chunking.errors import InputError, UnitError, nearest
from ..chunking.geometry import pixel_vectors
from ..chunking.schema import MapInfo
from ..chunking.tiling import Tiling
from ..chunking.unit_names import UNITS, parse_unit
from ..models.columns import HI_COLUMN
from ..models.kmeans import VelocityAxis, Voxels
from .ledger import read_held

COLUMN_UNIT = "1e20 cm^-2"
# Column density of optically thin HI, in this unit for 1 K km/s.
_COLUMN_OF_LINE = HI_COLUMN / 1e20


@dataclass(frozen=True)
class CubeReader:
    """A cube of a store, read as voxels; made by `CubeReader.of`.

    Parameters
    ----------
    store : str
        Address.
    info : MapInfo
        Of the cube.
    tiling : Tiling
        Of the store.
    frame : str
        Of the store; voxels are galactic.
    velocity, width : tuple of float
        (channel,) km/s.
    amount : tuple of float
        (channel,) column density, in `unit`, of a stored 1.
    unit : str
        Of column densities.
    """

    store: str
    info: MapInfo
    tiling: Tiling
    frame: str
    velocity: tuple[float, ...]
    width: tuple[float, ...]
    amount: tuple[float, ...]
    unit: str

    @classmethod
    def of(cls, store: stores.StoreAddress, cube: str) -> CubeReader:
        """Return a cube as voxels.

        Parameters
        ----------
        store : str or path
            The sky store.
        cube : str
            Name of the cube.

        Raises
        ------
        MissingMapError, InputError, UnitError
            If there is no such cube, or it holds neither column density nor line brightness.
        """
        where = stores.address(store)
        info = stores.info(where, cube)
        channels = stores.channels_of(where)
        if not info.is_cube or channels is None:
            held = [name for name, known in stores.infos(where).items() if known.is_cube]
            hint = nearest(cube, held) if held else "bring one in with skymill.ingest_cube"
            raise InputError(f"{cube!r} of {where} is a map, not a cube (channel, cells) with velocities; {hint}.")
        amount, unit = _columns(info, channels.width)
        tiling, frame = stores.tiling_of(where), stores.frame_of(where)
        return cls(where, info, tiling, frame, channels.velocity, channels.width, amount, unit)

    @property
    def name(self) -> str:
        """Of the cube."""
        return self.info.name

    @property
    def divisor(self) -> tuple[float, ...]:
        """(channel,) what a stored value is divided by to be the density n = N / dv."""
        return tuple(width / amount for width, amount in zip(self.width, self.amount, strict=True))

    @property
    def channels(self) -> VelocityAxis:
        """Velocity channels as the kernels want them."""
        return VelocityAxis(np.array(self.velocity), np.array(self.divisor))

    def voxels(
        self, tile: int, used: NDArray[np.bool_] | None = None, values: NDArray[np.float32] | None = None
    ) -> Voxels:
        """Return the voxels of a tile.

        Parameters
        ----------
        tile : int
            Its number.
        used : numpy.ndarray, optional
            (cells,) bool pixels to take; default all.
        values : numpy.ndarray, optional
            (channel, cells) float32 of the tile, where it has been read already.
        """
        size = self.tiling.tile_npix
        if values is None:
            values = read_held(self.store, self.name, tile * size, (tile + 1) * size, verify="once")
        return Voxels.of(self._vectors(tile, used), self.velocity, values, width=self.divisor, used=used)

    def _vectors(self, tile: int, used: NDArray[np.bool_] | None) -> NDArray[np.float64]:
        """Return unit vectors of pixels in galactic coordinates, (cells, 3); zeros where they are not used."""
        size = self.tiling.tile_npix
        places = np.arange(size) if used is None else np.flatnonzero(used)
        pixels = tile * size + places.astype(np.int64)
        vectors = np.zeros((size, 3))
        if self.frame == "galactic":
            vectors[places] = pixel_vectors(self.tiling.nside, pixels)
        elif places.size:
            position: Any = sphere.rotate(*self.tiling.lonlat(pixels), self.frame, "galactic")
            vectors[places] = sphere.lonlat_to_vector(*position)
        return vectors


def _columns(info: MapInfo, width: tuple[float, ...]) -> tuple[tuple[float, ...], str]:
    """Return the column density of a stored 1 in every channel, and its unit."""
    quantity, family, factor = UNITS.get(parse_unit(info.unit), ("something else", "", 1.0))
    if quantity == "column density":
        return (1.0,) * len(width), info.unit
    if family in ("K", "rj"):  # of a line, which is what a cube holds: brightness temperature
        return tuple(_COLUMN_OF_LINE * factor * each for each in width), COLUMN_UNIT
    if family == "K km/s":
        return (_COLUMN_OF_LINE * factor,) * len(width), COLUMN_UNIT
    raise UnitError(
        f"cube {info.name!r} is in {info.unit} ({quantity}); the attribute n is a column density per km/s, so a cube "
        f'in "{COLUMN_UNIT}" a channel, "K" or "K km/s" is needed.'
    )
