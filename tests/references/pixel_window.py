"""Write pixel_window.npz: samples of published pixel windows of HEALPix, and sums over all pixels of two finer grids.

    python pixel_window.py FOLDER

FOLDER holds pixel_window_n*.fits, which healpy shipped inside its wheel up to version 1.16 (healpy/data).  Published
windows are sums over the pixels to nside 128 and extrapolated above.  `summed_*` are made by skymill itself, with more
points in a pixel than it uses and without its interpolation in nside; they take some 15 seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from astropy.io import fits
from skymill.engine import pixel_window as windows

PUBLISHED = (2, 4, 8, 16, 32, 64, 128, 256, 8192)
SUMMED = (256, 512)
SAMPLES = 32


def main(folder: Path) -> None:
    kept = {}
    for nside in PUBLISHED:
        table = fits.getdata(folder / f"pixel_window_n{nside:04d}.fits")
        ell = np.unique([1, *np.linspace(0, 4 * nside, SAMPLES + 1).astype(int)])
        kept[f"ell_{nside}"] = ell
        kept[f"published_{nside}"] = np.ravel(np.asarray(table["TEMPERATURE"], np.float64))[ell]
    for nside in SUMMED:
        ell = np.unique([1, *np.linspace(0, 4 * nside, SAMPLES + 1).astype(int)])
        kept[f"ell_{nside}"] = ell
        kept[f"summed_{nside}"] = windows._window(windows._means_of_grid(nside, points=9), nside, 4 * nside)[ell]
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
