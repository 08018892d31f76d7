"""Cubes in FITS files of every form, for tests."""

from __future__ import annotations

import gzip
import io

import numpy as np
import skymill as sm
from astropy.io import fits
from fitsfiles import write_table

UNSEEN = -1.6375e30
NSIDE, COUNT = 8, 4
EDGES = [-90.0, -35.0, 0.0, 35.0, 90.0]


def spectra(nside=NSIDE, count=COUNT, holes=0.2, seed=0):
    """Return (channel, cells) float32, NESTED, whose missing values differ from channel to channel."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, 12 * nside**2)).astype(np.float32)
    values[rng.random(values.shape) < holes] = np.nan
    return values


def cube_of(store, name="n_hi"):
    return sm.open(store)[name].values


def write_image(path, values, **keywords):
    """Write an image, of whatever shape; keywords go to its header, None leaves a usual one out."""
    made = fits.PrimaryHDU(np.ascontiguousarray(values))
    for keyword, value in {"BUNIT": "K", "ORDERING": "NESTED", "COORDSYS": "G", **keywords}.items():
        if value is not None:
            made.header[keyword] = value
    plain = io.BytesIO()
    made.writeto(plain)
    path.write_bytes(gzip.compress(plain.getvalue()) if path.suffix == ".gz" else plain.getvalue())
    return str(path)


def axis(number, first=-10.0, step=5.0, unit="km/s", kind="VRAD", at=1.0):
    """Return the keywords that state velocities along an axis."""
    keys = {"CTYPE": kind, "CUNIT": unit, "CRVAL": first, "CDELT": step, "CRPIX": at}
    return {f"{key}{number}": value for key, value in keys.items()}


def write_form(folder, form, stored, ring, pixels, packed):
    """Write (channel, cells), as they are in the file, in one of the forms; return what `files` is then."""
    common = {"ORDERING": "RING" if ring else "NESTED", "NSIDE": NSIDE, "TUNIT1": "K"}
    suffix = ".fits.gz" if packed else ".fits"
    listed = {} if pixels is None else {"PIXEL": ("K", pixels)}
    if listed:
        common |= {"INDXSCHM": "EXPLICIT", "TUNIT1": None, "TUNIT2": "K"}
    units = {f"TUNIT{number + 1 + len(listed)}": "K" for number in range(len(stored))}
    if form == "files":
        return [
            write_table(folder / f"{number}{suffix}", {**listed, "N": ("E", row)}, **common) + "[N]"
            for number, row in enumerate(stored)
        ]
    if form == "columns":
        columns = {f"V{number}": ("E", row) for number, row in enumerate(stored)}
        return write_table(folder / f"columns{suffix}", {**listed, **columns}, **{**common, **units})
    if form == "vector":
        return write_table(folder / f"vector{suffix}", {**listed, "N": (f"{len(stored)}E", stored.T)}, **common)
    values = stored if form == "image" else stored.T
    return write_image(folder / f"{form}{suffix}", values, ORDERING=common["ORDERING"])


def simple(tmp_path, values=None, **keywords):
    return write_image(tmp_path / "cube.fits", spectra() if values is None else values, **keywords)
