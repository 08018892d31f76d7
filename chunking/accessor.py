"""The accessor `.sky` on datasets that `skymill.open` returns: positions, regions, coarser maps, pictures.

Nothing here reads a whole map to show a part of it.  Arrays stay lazy where they came lazy.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import hierarchy, lookup, projections, sphere
from .errors import FormatError, InputError, MissingMapError, nearest
from .hierarchy import Policy
from .lookup import CELLS
from .regions import Region
from .schema import check_frame
from .tiling import Tiling

if TYPE_CHECKING:
    import xarray as xr

    from .plots import Figure

CELL_IDS = "cell_ids"
# A Mollweide picture 1600 pixels wide shows no more than this.
PICTURE_NSIDE = 512
# From this on a map without overview is worth a word before it is read.
LARGE_NSIDE = 2048
OPTIONS = ("stretch", "vmin", "vmax", "centre", "cmap", "graticule")


class SkyAccessor:
    """Positions, regions, coarser maps and pictures of a sky store's dataset, as `dataset.sky`.

    Parameters
    ----------
    dataset : xarray.Dataset
        What `skymill.open` returns, or something selected or computed from it that kept its attributes.

    Examples
    --------
    >>> import xarray as xr
    >>> register()
    >>> about = {"frame": "galactic", "nside": 2, "tile_nside": 1, "chunk_nside": 1}
    >>> sky = xr.Dataset({"i160": ("cells", np.arange(48.0))}, attrs={"skymill": about})
    >>> sky.sky.degrade(1)["i160"].values[:3].tolist()
    [1.5, 5.5, 9.5]
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    @property
    def tiling(self) -> Tiling:
        """The grid of the maps.

        Raises
        ------
        FormatError
            If the dataset does not say that it comes from a sky store.
        """
        about = self._about()
        return Tiling(int(about["nside"]), about.get("tile_nside"), about.get("chunk_nside"))

    @property
    def frame(self) -> str:
        """The celestial frame of the maps: "galactic", "icrs" or "ecliptic"."""
        return check_frame(str(self._about().get("frame")))

    def lonlat(self) -> tuple[xr.DataArray, xr.DataArray]:
        """Return longitude and latitude of the cells, each (cells,) float64 degrees, lazily computed.

        Returns
        -------
        tuple of xarray.DataArray
            Chunked as the tiles, so that they can be combined with the maps; nothing is computed yet.  Of
            selected cells the positions are in memory.

        Raises
        ------
        FormatError
            If the dataset does not say that it comes from a sky store.
        """
        import xarray as xr

        tiling = self._full_sky_or_selection()
        selection = self._is_selection()
        values = tiling.lonlat(self._dataset[CELL_IDS].values) if selection else lookup.lazy_positions(tiling)
        attributes = _position_attributes(self.frame)
        lon, lat = (
            xr.DataArray(each, dims=CELLS, name=name, attrs=attributes[name])
            for name, each in zip(("lon", "lat"), values, strict=True)
        )
        return lon, lat

    def select(self, region: Region) -> xr.Dataset:
        """Return the cells whose centres lie in a region, with their numbers and positions; still lazy.

        Parameters
        ----------
        region : Cone, Box or Polygon
            In the frame that it states, or else in that of the maps.

        Returns
        -------
        xarray.Dataset
            (cells,) maps of the region alone, in NESTED order, with coordinates `cell_ids`, `lon` and `lat`.
            Computing it reads the chunks that the region touches and no others.

        Raises
        ------
        InputError
            If `region` is no region.
        FormatError
            If the dataset does not say that it comes from a sky store.
        """
        if not isinstance(region, Region):
            raise InputError(f"`region` {region!r} came; give a Cone, a Box or a Polygon.")
        tiling = self._full_sky_or_selection()
        pixels = region.pixels(tiling, self.frame)
        if self._is_selection():
            here = np.isin(self._dataset[CELL_IDS].values, pixels)
            return self._dataset.isel({CELLS: np.flatnonzero(here)})
        maps = {
            name: lookup.take(each.variable, pixels, tiling)
            for name, each in self._dataset.data_vars.items()
            if CELLS in each.dims
        }
        lon, lat = tiling.lonlat(pixels)
        attributes = _position_attributes(self.frame)
        # Nothing but the three keys that xdggs reads: any other makes it fail.
        ids = {"grid_name": "healpix", "level": tiling.order, "indexing_scheme": "nested"}
        selected = self._dataset.drop_dims(CELLS).assign(maps)
        selected = selected.assign_coords(
            {
                CELL_IDS: (CELLS, pixels, ids),
                "lon": (CELLS, lon, attributes["lon"]),
                "lat": (CELLS, lat, attributes["lat"]),
            }
        )
        if "dggs" in self._dataset.attrs:
            selected = selected.assign_attrs(dggs={**self._dataset.attrs["dggs"], "coordinate": CELL_IDS})
        return selected

    def degrade(self, nside: int, *, policy: Policy = "any") -> xr.Dataset:
        """Return all maps at a coarser nside, lazily: floats as means, flags by OR, codes by majority.

        Parameters
        ----------
        nside : int
            The coarser nside.
        policy : {"any", "all"} or float
            How many children must have a value for a coarse pixel to have one: at least one, all, or this
            fraction.  See `skymill.chunking.hierarchy.degrade`.

        Raises
        ------
        InputError
            If the nside is not coarser, the policy is unknown, or only a selection of cells is there.
        FormatError
            If the dataset does not say that it comes from a sky store.
        """
        tiling = self._full_sky()
        ratio = hierarchy.children(tiling.nside, nside)
        hierarchy.degrade(np.zeros(ratio), ratio, policy=policy)  # a wrong policy is told now, not when computed
        coarse = {
            name: lookup.coarser(each.variable, str(name), ratio, policy)
            for name, each in self._dataset.data_vars.items()
            if CELLS in each.dims
        }
        degraded = self._dataset.drop_dims(CELLS).assign(coarse)
        assert tiling.tile_nside is not None
        assert tiling.chunk_nside is not None
        about = {
            **self._about(),
            "nside": nside,
            "tile_nside": min(tiling.tile_nside, nside),
            "chunk_nside": min(tiling.chunk_nside, nside),
        }
        degraded = degraded.assign_attrs(skymill=about)
        if "dggs" in self._dataset.attrs:
            order = Tiling(nside).order
            degraded = degraded.assign_attrs(dggs={**self._dataset.attrs["dggs"], "refinement_level": order})
        degraded.encoding.pop("source", None)
        return degraded

    def plot(
        self,
        name: str,
        *,
        lonlat: tuple[float, float] | None = None,
        size: float | None = None,
        pixels: int | None = None,
        frame: str | None = None,
        title: str | None = None,
        **options: Any,
    ) -> Figure:
        """Return a picture of a map: the whole sky in Mollweide, or a part in gnomonic projection.

        Parameters
        ----------
        name : str
            The map.
        lonlat : tuple of float, optional
            Middle of a part, degrees; the whole sky without it.
        size : float, optional
            Side of the part, degrees; 10 by default.
        pixels : int, optional
            Pixels of the picture along its side; by default enough to show every pixel of the map, 1200 at most.
        frame : {"galactic", "icrs", "ecliptic"}, optional
            Frame of `lonlat` and of the picture; by default that of the map.
        title : str, optional
            By default the long name of the map.
        **options
            stretch, vmin, vmax, centre, cmap, graticule: see `skymill.chunking.plots.mollweide`.

        Returns
        -------
        matplotlib.figure.Figure
            Write it with `savefig`.  The whole sky is drawn from the overview of the store; where there is none
            (or the map was computed since) the map is read tile by tile.  A part is read at full resolution, from
            the chunks that it touches alone.

        Raises
        ------
        MissingMapError
            If there is no such map.
        InputError
            If an option is out of range.
        """
        from . import plots

        tiling = self._full_sky_or_selection()
        if name not in self._dataset.data_vars:
            held = [str(each) for each in self._dataset.data_vars]
            raise MissingMapError(f"map {name!r} is not in this dataset; {nearest(name, held)}.")
        array = self._dataset[name]
        if array.dims != (CELLS,):
            raise InputError(f"map {name!r} has dimensions {array.dims}; select one of each with .isel, leaving cells.")
        for option in options:
            if option not in OPTIONS:
                raise InputError(f"option `{option}` came; {nearest(option, OPTIONS)}.")
        frame = self.frame if frame is None else check_frame(frame)
        if str(name).startswith(("residual_", "relerr_")):
            options = {"centre": 0.0, **options}
        about: dict[str, Any] = {
            "title": str(array.attrs.get("long_name", name)) if title is None else title,
            "unit": str(array.attrs.get("units", "")),
            "frame": frame,
            "names": _code_names(array.attrs),
        }
        if lonlat is None:
            if size is not None:
                raise InputError("`size` came without `lonlat`; say where the part of the sky is.")
            sky = self._overview(name, array, tiling)
            if frame != self.frame:
                sky = lookup.turned(sky, self.frame, frame)
            return plots.mollweide(sky, width=1600 if pixels is None else pixels, **about, **options)
        lon, lat = lonlat
        size = 10.0 if size is None else float(size)
        if pixels is None:
            pixels = min(1200, max(240, math.ceil(1.5 * math.radians(size) / math.sqrt(tiling.pixel_area))))
        wanted = projections.gnomonic_lonlat(lon, lat, size, pixels)
        cells = tiling.from_lonlat(*sphere.rotate(*wanted, frame, self.frame))
        ids = self._dataset[CELL_IDS].values if self._is_selection() else None
        return plots.gnomonic(lookup.look_up(array, cells, tiling, ids), lon, lat, size, **about, **options)

    def _about(self) -> dict[str, Any]:
        about = self._dataset.attrs.get("skymill")
        if not isinstance(about, dict) or "nside" not in about or CELLS not in self._dataset.dims:
            raise FormatError(
                "`.sky` works on what skymill.open returns: this dataset has no `skymill` attribute with frame and "
                "nside, or no dimension `cells`. Where arithmetic has dropped the attributes, give them back: "
                "result.assign_attrs(original.attrs)."
            )
        return about

    def _full_sky(self) -> Tiling:
        tiling = self.tiling
        length = self._dataset.sizes[CELLS]
        if length != tiling.npix:
            raise InputError(
                f"{length} cells came; this needs the full sky of nside {tiling.nside}, {tiling.npix} cells. Do it "
                "before selecting."
            )
        return tiling

    def _full_sky_or_selection(self) -> Tiling:
        return self.tiling if self._is_selection() else self._full_sky()

    def _is_selection(self) -> bool:
        # A full sky may carry (lazy) cell numbers too, from xdggs; 26 GB at NSIDE 16384, so they are left alone.
        return CELL_IDS in self._dataset.coords and self._dataset.sizes[CELLS] != self.tiling.npix

    def _overview(self, name: str, array: xr.DataArray, tiling: Tiling) -> NDArray[Any]:
        """Return the whole sky at the resolution of a picture, (cells,)."""
        if self._is_selection():
            return lookup.spread(array.values, self._dataset[CELL_IDS].values, tiling, PICTURE_NSIDE, name)
        if tiling.nside <= PICTURE_NSIDE:
            return array.values
        stored = self._stored_overview(name, array)
        if stored is not None:
            return stored
        if tiling.nside >= LARGE_NSIDE:
            warnings.warn(
                f"there is no overview of {name!r} as it is here: reading the whole map ({array.nbytes / 1e9:.1f} GB) "
                "tile by tile. Maps that are computed into a store have their overviews made.",
                stacklevel=3,
            )
        return lookup.coarse_by_tiles(array, tiling, PICTURE_NSIDE)

    def _stored_overview(self, name: str, array: xr.DataArray) -> NDArray[Any] | None:
        """Return the overview that the store keeps of this very map, or None."""
        from . import overview, store

        source = self._dataset.encoding.get("source")
        if not isinstance(source, str):
            return None
        try:
            kept = store.open(source)
            # The same name of the task graph means the same array: not one computed since under an old name.
            if name not in kept or getattr(kept[name].data, "name", None) != getattr(array.data, "name", 0):
                return None
            where, nside = overview.best(source, name, PICTURE_NSIDE)
        except (FileNotFoundError, FormatError):
            return None
        if nside >= self.tiling.nside:
            return None
        return np.asarray(store.open(where)[name].values)


def _position_attributes(frame: str) -> dict[str, dict[str, str]]:
    lon, lat = {
        "galactic": ("Galactic longitude", "Galactic latitude"),
        "icrs": ("right ascension (ICRS)", "declination (ICRS)"),
        "ecliptic": ("ecliptic longitude", "ecliptic latitude"),
    }[frame]
    return {"lon": {"long_name": lon, "units": "deg"}, "lat": {"long_name": lat, "units": "deg"}}


def _code_names(attributes: Mapping[Any, Any]) -> dict[int, str]:
    """Return what the codes of a map mean, where its provenance says so."""
    ours = attributes.get("skymill")
    provenance = ours.get("provenance") if isinstance(ours, Mapping) else None
    codes = provenance.get("codes") if isinstance(provenance, Mapping) else None
    if not isinstance(codes, Mapping):
        return {}
    return {0: "none", **{int(code): str(name).replace("_", " ") for code, name in codes.items()}}


def register() -> None:
    """Make `.sky` known to xarray; calling it again changes nothing."""
    import xarray as xr

    if getattr(xr.Dataset, "sky", None) is not SkyAccessor:
        register_as: Any = xr.register_dataset_accessor
        register_as("sky")(SkyAccessor)
