"""Reddening at positions of the sky, from a map in a sky store: only the chunks that are needed are read.

Does not cover: making such a map (`engine/reddening.py`).  Neither Dask nor xarray is loaded.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import geometry, objects, sphere
from . import store as stores
from .columns import column_attributes, read_column
from .errors import FormatError, InputError, nearest
from .interpolation import INTERPOLATIONS, interpolate
from .sphere import Floats
from .store import StoreAddress
from .tiling import Tiling
from .units import conversion

# At once, of a bucket: each waits tens of milliseconds for its first byte.
_READS_FROM_AFAR = 16


class ReddeningQuery:
    """Reddening E(B-V) in mag at positions of the sky, read from a map of a sky store.

    The methods are those of the package dustmaps: `query_gal` and `query_equ` take degrees, a call takes a SkyCoord.
    All take numbers or arrays of any shape and return float64 of that shape, in mag.  Where the map has no value the
    answer is NaN.

    Parameters
    ----------
    store : str or path
        The sky store, local or in a bucket, of any frame.
    map : str
        Name of its map, in mag or mmag.
    interpolation : {"nearest", "bilinear"}
        "nearest" takes the pixel that holds the position; "bilinear" interpolates between the four centres around it,
        as healpy.get_interp_val does, without those that have no value.  NaN where the pixel that holds the position
        has none.
    cached_chunks : int
        Chunks of the map that are kept in memory for the next question, at most 1 MiB each.  What was read is not read
        again: after the map was made anew, make a new query.

    Raises
    ------
    StoreNotFoundError, MissingMapError
        If there is no such store, or it does not hold the map.
    FormatError
        If the map is unfinished; when asked, if a part of it is damaged or lost.
    UnitError
        If the map is in neither mag nor mmag.
    InputError
        If an option is unknown; when asked, if a position is none.

    Notes
    -----
    One query may be used by many threads at once, and sent to other processes; what it keeps in memory stays behind.

    References
    ----------
    Green 2018, JOSS 3, 695 (dustmaps), for the names of the methods.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> from skymill.chunking import store as stores
    >>> from skymill.chunking.schema import MapInfo
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sky = folder + "/sky.zarr"
    ...     stores.create(sky, 1, frame="galactic")
    ...     stores.create_maps(sky, [MapInfo("ebv", "reddening", "mag")])
    ...     for tile in range(12):
    ...         _ = stores.write_tile(sky, "ebv", tile, np.full(1, 0.01 * tile, np.float32))
    ...     reddening = sm.ReddeningQuery(sky)
    ...     reddening.ebv([45.0, 0.0], [60.0, 0.0]).round(4).tolist()
    [0.0, 0.04]
    """

    def __init__(
        self, store: StoreAddress, map: str = "ebv", *, interpolation: str = "nearest", cached_chunks: int = 64
    ) -> None:
        self._store = stores.address(store)
        about = stores.info(self._store, map)
        known = column_attributes(self._store, map)
        if known is not None and not known.get("finished", False):
            raise FormatError(
                f"map {map!r} in {self._store} is unfinished, and what is missing would look like no coverage. Run the "
                "command that makes it again; it does only what is missing."
            )
        if about.dtype != "float32" or len(getattr(about, "dims", ("cells",))) != 1:
            raise InputError(f"map {map!r} came; reddening is read from a map of float32 (cells,).")
        if interpolation not in INTERPOLATIONS:
            raise InputError(f"`interpolation` {interpolation!r} came; {nearest(str(interpolation), INTERPOLATIONS)}.")
        if not isinstance(cached_chunks, int) or cached_chunks < 1:
            raise InputError(f"`cached_chunks` {cached_chunks!r} came; give how many chunks to keep, at least 1.")
        self._factor = conversion(about.unit, "mag").factor
        self._map, self._interpolation, self._room = map, interpolation, cached_chunks
        self._tiling, self._frame = stores.tiling_of(self._store), stores.frame_of(self._store)
        self._start_anew()

    def _start_anew(self) -> None:
        self._lock = Lock()
        self._chunks: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._recorded: NDArray[np.uint64] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: no lock, and nothing that was read."""
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_chunks", "_recorded")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up what `__getstate__` left."""
        vars(self).update(state)
        self._start_anew()

    def __repr__(self) -> str:
        return f"ReddeningQuery({self._store!r}, {self._map!r}, interpolation={self._interpolation!r})"

    @property
    def tiling(self) -> Tiling:
        """The grid of the map."""
        return self._tiling

    @property
    def frame(self) -> str:
        """The frame of the map: "galactic", "icrs" or "ecliptic"; positions are turned into it."""
        return self._frame

    def ebv(self, l: ArrayLike, b: ArrayLike) -> Floats:  # noqa: E741 - what the field calls it
        """Return E(B-V) at galactic positions, (...) float64 mag; the same as `query_gal`.

        Parameters
        ----------
        l, b : array_like
            (...) galactic longitude and latitude, numbers in degrees or a Quantity; broadcast against each other.

        Raises
        ------
        InputError
            If a latitude lies outside [-90, 90], a position is not finite, or shapes do not go together.
        FormatError
            If a part of the map is damaged or lost.
        """
        return self._at(l, b, "galactic")

    def query_gal(self, l: ArrayLike, b: ArrayLike) -> Floats:  # noqa: E741
        """Return E(B-V) at galactic positions, (...) float64 mag; see `ebv`."""
        return self._at(l, b, "galactic")

    def query_equ(self, ra: ArrayLike, dec: ArrayLike) -> Floats:
        """Return E(B-V) at equatorial positions (ICRS), (...) float64 mag.

        Parameters
        ----------
        ra, dec : array_like
            (...) right ascension and declination, numbers in degrees or a Quantity; broadcast against each other.

        Raises
        ------
        InputError, FormatError
            See `ebv`.
        """
        return self._at(ra, dec, "icrs")

    def query(self, coords: Any) -> Floats:
        """Return E(B-V) at the positions of a SkyCoord of any frame and shape, (...) float64 mag.

        Parameters
        ----------
        coords : astropy.coordinates.SkyCoord
            Positions.

        Raises
        ------
        InputError
            If something else came.
        FormatError
            See `ebv`.
        """
        from astropy.coordinates import SkyCoord

        try:
            place = SkyCoord(coords).galactic
        except (TypeError, ValueError) as error:
            raise InputError(
                f"`coords` {type(coords).__name__} came ({error}); give an astropy SkyCoord, or degrees to query_gal "
                "or query_equ."
            ) from error
        return self._at(place.l.deg, place.b.deg, "galactic")

    __call__ = query

    def _at(self, lon: ArrayLike, lat: ArrayLike, frame: str) -> Floats:
        given = _degrees(lon), _degrees(lat)
        try:
            longitude, latitude = np.broadcast_arrays(*given)
        except ValueError:
            raise InputError(
                f"longitudes of shape {given[0].shape} and latitudes of shape {given[1].shape} came; give one of both "
                "for each position."
            ) from None
        if frame != self._frame:
            geometry.lonlat_pixels(1, longitude, latitude)  # a turn would make a position of what is none
            longitude, latitude = sphere.rotate(longitude, latitude, frame, self._frame)
        cells = geometry.lonlat_pixels(self._tiling.nside, longitude, latitude).reshape(-1)
        # Neighbours one after the other, so that the blocks of many positions share few chunks.
        order = np.argsort(cells, kind="stable")
        found = np.empty(cells.size)
        lon_in_order, lat_in_order = longitude.reshape(-1)[order], latitude.reshape(-1)[order]
        threads = 1 if objects.is_local(self._store) or cells.size == 1 else _READS_FROM_AFAR
        for start in range(0, cells.size, geometry.BLOCK):
            part = slice(start, start + geometry.BLOCK)
            found[order[part]] = interpolate(
                self._read, lon_in_order[part], lat_in_order[part], self._tiling, self._interpolation, threads
            )
        values: Floats = found.reshape(longitude.shape)[()] * self._factor
        return values

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        """Return the pixels of a run of whole chunks."""
        size = self._tiling.chunk_npix
        parts = [self._chunk(number) for number in range(start // size, stop // size)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _chunk(self, number: int) -> NDArray[Any]:
        with self._lock:
            values = self._chunks.get(number)
            if values is not None:
                self._chunks.move_to_end(number)
                return values
        # Read outside the lock: two threads may read one chunk twice, but none waits for the disk of another.
        size = self._tiling.chunk_npix
        values = stores.read_cells(self._store, self._map, number * size, (number + 1) * size)
        if np.isnan(values).all():
            self._check_lost(number * size // self._tiling.tile_npix)
        with self._lock:
            self._chunks[number] = values
            while len(self._chunks) > self._room:
                self._chunks.popitem(last=False)
        return values

    def _check_lost(self, tile: int) -> None:
        """Raise FormatError where the ledger promises a shard that is not there: it reads as no coverage."""
        recorded = self._recorded
        if recorded is None:
            recorded = read_column(self._store, self._map)
            recorded = np.zeros(self._tiling.n_tiles, np.uint64) if recorded is None else recorded
            self._recorded = recorded
        if recorded[tile] > 1 and not objects.exists(self._store, f"{self._map}/c/{tile}"):
            raise FormatError(
                f"tile {tile} of map {self._map!r} in {self._store} is lost. Run the command that made the map again; "
                "it mends what is damaged."
            )


def _degrees(angle: Any) -> Floats:
    """Return angles as numbers; what carries a unit (Quantity, Angle, Longitude of astropy) is brought to degrees."""
    if np.ma.is_masked(angle):
        raise InputError("angles came of which some are masked; leave out these positions, or fill them.")
    try:
        return np.asarray(angle.to_value("deg") if hasattr(angle, "to_value") else angle, np.float64)
    except (TypeError, ValueError) as error:  # UnitConversionError of astropy is both
        raise InputError(f"{angle!r:.80} came as an angle ({error}); give degrees, or a Quantity of angles.") from None
