"""The verbs that need the whole sphere at once, and the weights that they take: see `verbs.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .options import Option
from .verb import OVERWRITE, Verb, store_option

_STAGES = (
    Option("precision", "text", "of the numbers on the way", default="single", choices=("single", "double")),
    Option("scratch", "path", "folder for what the stages hand on; --plan tells its size"),
    Option(
        "transpose",
        "text",
        "how the stages hand it on",
        default="auto",
        choices=("auto", "disk", "store", "cluster"),
    ),
)


def _answer_of_spectra(found: Any, values: Mapping[str, object]) -> str:
    """Return the folder that was asked for, or else the spectra themselves as CSV."""
    if "out_dir" in values:
        return str(values["out_dir"])
    from ..engine.spectra_files import table

    return table(found).rstrip("\n")


SPHERE = (
    Verb(
        "apodize",
        "write a mask as a weight that falls smoothly to zero at its edges",
        (
            store_option(),
            Option("mask", "text", "mask_* (1 = not to be used), or weights", required=True, positional=True),
            Option("scale", "number", "width of the taper", required=True, positional=True),
            Option("unit", "text", "of the width", default="deg", choices=("deg", "arcmin", "arcsec", "rad")),
            Option("kind", "text", "which taper", default="C1", choices=("C1", "C2", "gaussian")),
            Option("out", "text", "name of the map; default weight_ and the name of the mask without mask_"),
            OVERWRITE,
        ),
        "skymill apodize sky.zarr mask_850um 5",
    ),
    Verb(
        "spectra",
        "measure auto- and cross-power spectra of maps; without --out-dir as CSV on stdout",
        (
            store_option(),
            Option("pairs", "map pairs", "two maps and a comma between: i500,i500", required=True, positional=True),
            Option("other", "path", "sky store of the second map of every pair; default the store itself"),
            Option("lmax", "integer", "largest multipole; default 2 nside"),
            Option("weights", "text", "quadrature", default="ring", choices=("ring", "pixel", "iterate")),
            Option("iterations", "integer", "rounds of iterate", default=3),
            Option("mask", "each text", "map of weights; for all maps, or map=MASK, once for each"),
            Option("lmax_mask", "integer", "to which multipole the mask is analysed; default 2 lmax"),
            Option("remove", "text", "take off the maps first", choices=("monopole", "dipole")),
            Option(
                "beam",
                "each beam",
                "divide it out: FWHM in arcmin, store (what the store says), or a file of ell and b_l; for all maps, "
                "or map=BEAM, once for each",
            ),
            Option("pixel_window", "switch", "divide out the window of the pixels", default=False),
            Option("bins", "bins", "width of bins from ell 2, or edges 2,10,30, or bins 2:10,20:30"),
            Option("window", "switch", "keep the windows of the bins with the result", default=False),
            Option("errors", "text", "of the bins", choices=("knox", "monte-carlo")),
            Option("fiducial", "fiducial", "spectra of the realisations, a file of ell and C_l; once for each pair"),
            Option("simulations", "integer", "how many realisations", default=100),
            Option("seed", "integer", "of the realisations", default=0),
            Option("splits", "halves", "two halves of a map, for the spectrum of its noise; once for each map"),
            *_STAGES[:1],
            Option("out_dir", "path", "folder for Zarr, CSV, figure and page"),
            *_STAGES[1:],
            OVERWRITE,
        ),
        "skymill spectra sky.zarr i500,i500 i500,i850um --mask weight_850um --bins 20 --errors knox --out-dir spectra",
        answer=_answer_of_spectra,
    ),
    Verb(
        "smooth",
        "convolve maps with a Gaussian beam",
        (
            store_option(),
            Option("maps", "texts", "maps", required=True, positional=True),
            Option("fwhm", "number", "full width at half maximum of the Gaussian"),
            Option("unit", "text", "of the widths", default="arcmin", choices=("arcmin", "deg", "arcsec", "rad")),
            Option("from_fwhm", "number", "beam that the maps have, with --to-fwhm; default what the store says"),
            Option("to_fwhm", "number", "beam that they shall have"),
            Option(
                "method",
                "text",
                "over the whole sphere, or tile by tile; the cheaper by itself",
                default="auto",
                choices=("auto", "harmonic", "local"),
            ),
            Option("lmax", "integer", "largest degree; default where the beam ends"),
            Option("mask", "text", "map of weights; pixels without a value are left out anyway"),
            Option("least_weight", "number", "no value where the smoothed weight is below", default=0.1),
            Option("out", "one or more texts", "names of the maps to write; default NAME_smooth"),
            Option("out_store", "path", "store to write into; default is the store itself"),
            Option("weights", "text", "quadrature", default="ring", choices=("ring", "pixel")),
            Option("iterations", "integer", "rounds of least squares", default=0),
            *_STAGES,
            OVERWRITE,
        ),
        "skymill smooth sky.zarr i160 i500 --from-fwhm 4 --to-fwhm 5",
    ),
    Verb(
        "resample",
        "bring maps to another nside by way of their a_lm: no aliasing",
        (
            store_option(),
            Option("out_store", "path", "store to write, made if it is not there", required=True, positional=True),
            Option("nside", "integer", "its resolution", required=True),
            Option("maps", "one or more texts", "which maps; default all of numbers"),
            Option("lmax", "integer", "largest multipole that is kept; default twice the smaller nside"),
            Option("pixel_window", "switch", "averages over pixels become averages over the new ones", default=True),
            Option("mask", "text", "map of weights; pixels without a value are left out anyway"),
            Option("least_weight", "number", "no value where less than this share had one", default=0.5),
            Option("weights", "text", "quadrature", default="ring", choices=("ring", "pixel")),
            Option("iterations", "integer", "rounds of least squares", default=0),
            *_STAGES,
            OVERWRITE,
        ),
        "skymill resample sky.zarr coarse.zarr --nside 256",
    ),
    Verb(
        "synthesize",
        "make Gaussian skies of given power spectra",
        (
            Option("cl", "spectra", "file of ell and C_l, or of one column a pair", required=True, positional=True),
            store_option("sky store, made if it is not there"),
            Option("name", "one or more texts", "the map, or the maps of a correlated set", default="g"),
            Option("nside", "integer", "resolution of a new store"),
            Option("seed", "integer", "which realisation", default=0),
            Option("lmax", "integer", "largest multipole; default as far as the spectra go"),
            Option("unit", "each text", "of the maps; for all, or map=UNIT, once for each", default="1"),
            Option("frame", "text", "of the pixels", default="galactic"),
            Option("fwhm", "number", "smooth with a Gaussian beam, arcmin"),
            Option("pixel_window", "switch", "means over the pixels, not values at their centres", default=False),
            Option("tile_nside", "integer", "tiles of a new store"),
            *_STAGES,
            OVERWRITE,
        ),
        "skymill synthesize cl.txt sky.zarr --nside 512 --seed 1",
    ),
)
