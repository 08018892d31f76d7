"""HEALPix FITS files of every kind, for tests."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits


def write_table(path: Path, columns: dict[str, tuple[str, Any]], name: str = "MAPS", **keywords: Any) -> str:
    """Write a table of {name: (TFORM, values)}; keywords go to its header, None leaves a usual one out."""
    made = []
    for column, (form, values) in columns.items():
        repeat = int(form[:-1] or 1)
        array = np.asarray(values)
        made.append(fits.Column(column, form, array=array.reshape(-1, repeat) if repeat > 1 else array))
    table = fits.BinTableHDU.from_columns(made, name=name)
    usual = {"PIXTYPE": "HEALPIX", "ORDERING": "NESTED", "COORDSYS": "G", "TUNIT1": "K_CMB", "INDXSCHM": "IMPLICIT"}
    for keyword, value in {**usual, **keywords}.items():
        if value is not None:
            table.header[keyword] = value
    content = fits.HDUList([fits.PrimaryHDU(), table])
    plain = io.BytesIO()
    content.writeto(plain)
    path.write_bytes(gzip.compress(plain.getvalue()) if path.suffix == ".gz" else plain.getvalue())
    return str(path)


def some_map(nside: int, seed: int = 0, dtype: str = "f4") -> np.ndarray:
    """Return a full sky of numbers that all differ from their neighbours."""
    return np.random.default_rng(seed).normal(size=12 * nside**2).astype(dtype)
