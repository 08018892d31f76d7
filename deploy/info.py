"""`skymill info`: what a sky store holds, without reading its maps at full resolution."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

# Maps without an overview are at most 12 * 512**2 pixels; the others are looked at in their overview.
LOOKED_AT_NSIDE = 512


def describe_store(store: str, *, as_json: bool = False) -> str:
    """Return what a sky store holds: grid, frame, and each map with its unit, band, beam, coverage, size and state.

    Parameters
    ----------
    store : str
        Path or URL.
    as_json : bool
        As JSON instead of a table for people.

    Returns
    -------
    str
        Several lines.  Where a map has overviews, its observed fraction is that of the finest one; that of a cube is
        that of its middle channel.

    Raises
    ------
    StoreNotFoundError
        If nothing is at the address.
    FormatError
        If what is there is no sky store.

    Examples
    --------
    >>> from skymill.chunking import store
    >>> store.create("sky.zarr", 64, frame="galactic")
    >>> print(describe_store("sky.zarr").splitlines()[1])
      nside 64, 49152 pixels of 55.0 arcmin; frame galactic, order NESTED
    """
    from ..chunking import store as stores
    from ..engine.worker import format_bytes

    where = stores.address(store)
    tiling = stores.tiling_of(where)
    group = stores.open_group(where)
    overviews = stores.overview_nsides(group)
    maps = [_describe_map(where, name, known) for name, known in stores.infos(where).items()]
    channels = stores.channels_of(where)
    facts: dict[str, Any] = {
        "store": where,
        "nside": tiling.nside,
        "frame": stores.frame_of(where),
        "tile_nside": tiling.tile_nside,
        "chunk_nside": tiling.chunk_nside,
        "tiles": tiling.n_tiles,
        "overview_nsides": list(overviews),
        "bytes": sum(entry["bytes"] for entry in maps),
        "maps": maps,
        "channels": None if channels is None else {"velocity": channels.velocity, "width": channels.width},
    }
    if as_json:
        return json.dumps(facts, indent=2)
    resolution = np.degrees(np.sqrt(tiling.pixel_area)) * 60
    shown = f"{resolution:.1f} arcmin" if resolution >= 1 else f"{60 * resolution:.1f} arcsec"
    lines = [
        where,
        f"  nside {tiling.nside}, {tiling.npix} pixels of {shown}; frame {facts['frame']}, order NESTED",
        f"  {tiling.n_tiles} tiles (nside {tiling.tile_nside}), chunks of nside {tiling.chunk_nside}; overviews: "
        + (", ".join(map(str, overviews)) if overviews else "none (the maps are small)"),
        f"  {len(maps)} maps, {format_bytes(facts['bytes'])} on disk",
    ]
    if channels is not None:
        edges = channels.edges
        lines.append(f"  {channels.count} channels of cubes, {edges[0, 0]:g} to {edges[-1, 1]:g} km/s")
    if not maps:
        return "\n".join(lines)
    rows = [("map", "unit", "band", "beam", "observed", "size", "state")]
    for entry in maps:
        beam = entry["beam_fwhm_arcmin"]
        rows.append(
            (
                entry["name"] + (f" ({entry['channels']} channels)" if entry["channels"] else ""),
                entry["unit"],
                entry["band"] or "-",
                f"{beam:g}'" if beam else "-",
                f"{100 * entry['observed']:.3g} %",
                format_bytes(entry["bytes"]),
                entry["state"],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines.append("")
    lines += ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _describe_map(where: str, name: str, known: Any) -> dict[str, Any]:
    from ..chunking import objects
    from ..chunking import store as stores
    from ..engine import ledger

    column = ledger.column(where, name)
    missing = 0 if column is None else int(np.count_nonzero(column == ledger.NOT_DONE))
    finished = missing == 0 and ledger.is_finished(where, name)
    if column is None:
        state = "not made by skymill"
    elif missing:
        state = f"unfinished: {missing} of {column.size} tiles missing"
    else:
        state = "finished" if finished else "unfinished: stopped before its last checks"
    return {
        "name": name,
        "quantity": known.quantity,
        "unit": known.unit,
        "dtype": known.dtype,
        "channels": stores.channel_count(where, name),
        "band": known.band,
        "beam_fwhm_arcmin": known.beam_fwhm_arcmin,
        "observed": _observed_fraction(where, name, known.fill_value),
        "bytes": sum(size for _, size, _ in objects.listing(where, f"{name}/")),
        "state": state,
        "finished": finished,
    }


def _observed_fraction(where: str, name: str, fill: object) -> float:
    from ..chunking import overview
    from ..chunking import store as stores

    there = overview.best(where, name, LOOKED_AT_NSIDE)[0]
    tiling = stores.tiling_of(there)
    observed = 0
    middle = stores.channel_count(there, name) // 2
    one = slice(middle, middle + 1) if stores.channel_count(there, name) else None
    for tile in stores.observed_tiles(there, [name]):
        pixels = tiling.tile_slice(tile)
        values = stores.read_cells(there, name, pixels.start, pixels.stop, one)
        held = np.isfinite(values) if values.dtype.kind == "f" else values != fill
        observed += int(np.count_nonzero(held))
    return observed / tiling.npix
