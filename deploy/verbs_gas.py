"""The verbs from gas to dust: cubes, masks, templates, fits, clusters and reddening; see `verbs.py`."""

from __future__ import annotations

from .answers import agreement, clusters, fitted, plainly, reddened, searched
from .options import Option
from .verb import OVERWRITE, Verb, store_option

_MASK = Option("mask", "text", "map of the pixels to use; mask_* is 1 where they are not")
_REGION = Option("region", "where", 'pixels to use, for example "b > 30"; several must all hold')
REGIONS = Option("region", "named where", 'pixels to use, "b > 30"; or NAME=WHERE, once for each of several regions')
JACKKNIFE = Option(
    "jackknife", "integer or none", "nside of the patches of sky left out for errors, or none", default=4
)
_NOISE = Option(
    "noise", "each number or text", "sigma, or a map of it or of the variance; for all targets, or TARGET=X"
)
_OFFSET = Option("offset", "switch", "fit a constant too", default=True)
_OUT_STORE = Option("out_store", "path", "store to write into; default is the store itself")
_TARGETS = Option("target", "one or more texts", "maps to fit to", required=True)

_LLOYD = (
    Option("n_init", "integer", "starts; the one with the least inertia counts", default=1),
    Option(
        "tolerance", "number", "shift of the centres at which iterations end; 0: when no label changes", default=1e-4
    ),
    Option("max_iterations", "integer", "of one start", default=300),
)
_DRAWN = Option("init", "text", "how starts are drawn", default="greedy", choices=("greedy", "parallel"))
_WEIGHTS = Option("weights", "numbers by name", "of the attributes: v=5 n=0.2; default 1 for x, y, z, v, n")
_CACHE = Option("cache", "switch", "keep voxels in memory between iterations, as many as fit", default=True)

GAS = (
    Verb(
        "ingest_cube",
        "bring velocity channels from HEALPix FITS files into a cube of a sky store",
        (
            Option(
                "files", "one or more texts", "a file for each channel, or one for all", required=True, positional=True
            ),
            store_option("sky store, made if it is not there"),
            Option("name", "text", "of the cube", default="n_hi"),
            Option("velocity", "numbers or file", "middle of each channel, km/s, or a text file of them"),
            Option("width", "number, numbers or file", "full width of each, or one for all, km/s"),
            Option("edges", "edges", "instead of both: n + 1 edges, or LOW:HIGH of each channel, or a file"),
            Option("unit", "text", "for example K, K km/s or 1e20 cm^-2, where headers do not tell"),
            Option("frame", "text", "galactic, icrs or ecliptic, where headers do not tell"),
            Option("ordering", "text", "ring or nested, where headers do not tell"),
            Option("nside", "integer", "for files that do not tell"),
            Option("quantity", "text", "what is measured; default is told by the unit"),
            Option("column", "one or more texts", "of one file: the column with all channels, or a column for each"),
            Option(
                "override",
                "texts",
                "believe these options where a header says something else: frame, unit, ordering, velocity",
                default=(),
            ),
            Option("tile_nside", "integer", "tiles of a new store; smaller by default than without a cube"),
            Option("chunk_nside", "integer", "chunks of a new store"),
            Option("scratch", "path", "folder for unpacked and sorted files"),
            OVERWRITE,
        ),
        "skymill ingest-cube m60.fits m20.fits p20.fits gas.zarr --edges -80,-40,0,40 --frame galactic --unit K",
    ),
    Verb(
        "mask",
        "write which pixels are used, and tell their area and f_sky",
        (
            store_option(),
            Option(
                "out",
                "text",
                "name of the map; mask_* is written as 1 = not to be used",
                required=True,
                positional=True,
            ),
            Option("where", "where", 'conditions, for example "|b| > 20 and nhi < 4 and not (lmc or survey in 1, 2)"'),
            Option("sources", "sources", "CSV file or FITS table of sources to take out, or their positions"),
            Option("radius", "number", "of the discs around sources; default what the file says"),
            Option("unit", "text", "of the radii", default="deg", choices=("deg", "arcmin", "arcsec", "rad")),
            Option("frame", "text", "of positions, where their columns do not tell"),
            OVERWRITE,
        ),
        'skymill mask sky.zarr caps --where "(ngc or sgc) and |b| > 30 and nhi < 4"',
        answer=plainly,
    ),
    Verb(
        "templates",
        "make columns of neutral, ionised and molecular gas from a cube, dispersion measures and CO",
        (
            store_option(),
            Option("cube", "text", "cube of brightness temperatures or of columns"),
            Option("cuts", "cuts", "map=LOW:HIGH in km/s, with commas between several; default nhi, lvc and ivc"),
            Option("spin_temperature", "number", "correct for optical depth with this temperature, K"),
            Option("dm", "text", "map of dispersion measures, for nhii"),
            Option("dm_variance", "text", "map of their variance, or of their standard deviation"),
            Option("co", "text", "map of the CO line, for nh2 = 2 N_H2"),
            Option("co_systematic", "number or text", "its systematic standard deviation, K km/s, or a map of it"),
            Option("co_simulations", "texts", "maps of its simulated noise", default=()),
            Option("x_co", "number", "N_H2 / W_CO in cm^-2 per K km/s", default=2e20),
            Option("unit", "text", "of the columns", default="1e20 cm^-2"),
            _OUT_STORE,
            OVERWRITE,
        ),
        "skymill templates gas.zarr --cube n_hi --cuts lvc=-35:35 --cuts ivc=-90:-35,35:90 --dm dm --co w_co",
    ),
    Verb(
        "fit",
        "fit templates to maps: coefficients, formal and jackknife errors, chi^2, and what to make of them",
        (
            store_option(),
            Option("templates", "one or more texts", "maps whose coefficients are sought", required=True),
            _TARGETS,
            _NOISE,
            _MASK,
            REGIONS,
            _OFFSET,
            Option(
                "noise_spectrum",
                "each spectrum",
                "C_l of noise that is correlated between pixels: a file, or TARGET=FILE",
            ),
            Option("lmax", "integer", "largest multipole of it; default the last given"),
            JACKKNIFE,
            Option("superpixels", "integer", "nside of patches that have coefficients of their own"),
            Option("ridge", "number", "pull coefficients that cannot be told apart towards 0", default=0.0),
            Option("maps", "flags", "write maps: model, residual, fraction; alone: all three", default=False),
            Option("out_dir", "path", "folder for the result, figures and a page"),
            _OUT_STORE,
            OVERWRITE,
        ),
        "skymill fit sky.zarr --templates nhi nhii --target i857 --mask mask --region 'ngc=b > 0' --region 'sgc=b < 0'",
        answer=fitted,
    ),
    Verb(
        "kmeans",
        "cluster the voxels of a cube in position, velocity and density, and write a column a cluster",
        (
            store_option(),
            Option("cube", "text", "the cube", required=True, positional=True),
            Option("k", "integer", "how many clusters", required=True),
            _WEIGHTS,
            _MASK,
            _REGION,
            Option("seed", "integer", "of the starts that are drawn", default=0),
            Option(
                "init", "start", "greedy, parallel, or a table of centres as this command prints it", default="greedy"
            ),
            *_LLOYD,
            Option("out", "text or none", "maps are called OUT_1 and so on; none writes no map", default="cluster"),
            _OUT_STORE,
            Option("everywhere", "switch", "write them outside the mask too", default=False),
            _CACHE,
            OVERWRITE,
        ),
        "skymill kmeans gas.zarr n_hi --k 3 --weights v=5 n=0.2 --mask mask",
        answer=clusters,
    ),
    Verb(
        "kmeans_stability",
        "cluster from several seeds and tell how well the clusterings agree",
        (
            store_option(),
            Option("cube", "text", "the cube", required=True, positional=True),
            Option("k", "integer", "how many clusters", required=True),
            Option("seeds", "integers", "two or more, a clustering each", default=tuple(range(10))),
            Option("centres", "centres", "a table of centres to compare with, as `skymill kmeans` prints it"),
            _WEIGHTS,
            _MASK,
            _REGION,
            _DRAWN,
            *_LLOYD,
            _CACHE,
        ),
        "skymill kmeans-stability gas.zarr n_hi --k 3 --seeds 0 1 2 3 --weights v=5 n=0.2 --mask mask",
        answer=agreement,
    ),
    Verb(
        "kmeans_search",
        "search the number of clusters and the weights whose columns fit a map best, with the elbow",
        (
            store_option(),
            Option("cube", "text", "the cube", required=True, positional=True),
            Option("target", "text", "map to fit", default="i857"),
            Option("k", "integers", "numbers of clusters", default=(1, 2, 3, 4, 5, 6)),
            Option("v", "numbers", "weights of velocity in the first round", default=(0.5, 1.0, 2.0, 4.0, 8.0)),
            Option("n", "numbers", "weights of density in the first round", default=(0.1, 0.3, 1.0)),
            Option("rounds", "integer", "rounds after the first, each at half the distance", default=2),
            Option("templates", "texts", "maps to fit beside the clusters", default=()),
            Option("noise", "number or text", "sigma of the target, or a map of it or of the variance"),
            _OFFSET,
            _MASK,
            _REGION,
            Option("share", "number", "of the range of chi^2 that the elbow may lie above the least", default=0.05),
            _DRAWN,
            _LLOYD[0],
            Option("seed", "integer", "of the starts that are drawn", default=0),
            *_LLOYD[1:],
            Option("out_dir", "path", "folder for trials, figures and a page; a search that was stopped goes on there"),
            Option("out", "text", "write the cluster maps of the elbow under this name"),
            OVERWRITE,
        ),
        "skymill kmeans-search gas.zarr n_hi --k 1 2 3 4 --templates nhii --mask mask --out-dir search --out cluster",
        answer=searched,
    ),
    Verb(
        "simplify",
        "drop negligible templates, merge degenerate ones, write the sums, and tell every step",
        (
            store_option(),
            Option("templates", "texts", "maps to begin with", required=True),
            _TARGETS,
            _NOISE,
            _MASK,
            _REGION,
            _OFFSET,
            Option(
                "jackknife",
                "integer or none",
                "nside of the patches whose errors count; none: formal errors",
                default=4,
            ),
            Option("keep", "texts", "templates that the limits leave alone", default=()),
            Option("drop", "texts", "templates to drop in any case", default=()),
            Option("merge", "groups", "templates to add up in any case: cluster_3+cluster_4", default=()),
            Option("significance", "number", "drop what is below so many of its errors", default=2.0),
            Option("contribution", "number", "drop what is below this part of the scatter of the target", default=0.01),
            Option("correlation", "number", "merge two whose coefficients correlate below minus this", default=0.9),
            _OUT_STORE,
            OVERWRITE,
        ),
        "skymill simplify gas.zarr --templates cluster_1 cluster_2 nhii --target i857 --keep nhii --mask mask",
        answer=plainly,
    ),
    Verb(
        "reddening",
        "fit gas to reddening by region, and write the reddening map that it makes",
        (
            store_option(),
            Option("templates", "one or more texts", "column densities", required=True),
            Option("target", "text", "map of reddening", default="ebv_sfd"),
            Option("factor", "number", "multiplies the target: 0.86 brings SFD to E(B-V)", default=0.86),
            Option("noise", "number or text", "sigma of the target, or a map of it or of the variance"),
            _MASK,
            Option("region", "named where", "NAME=WHERE, once for each; default ngc (b > 0) and sgc (b < 0)"),
            _OFFSET,
            JACKKNIFE,
            Option("native", "path", "store with the templates at the nside at which the map is written"),
            Option("upsample", "texts", "templates interpolated from the store; default those that the other lacks"),
            Option("include_offset", "switch", "the map has the offset in it", default=True),
            Option("out", "text", "name of the map", default="ebv"),
            Option("out_store", "path", "store to write into; default that of the option native"),
            Option("out_dir", "path", "folder for JSON, a figure and a page"),
            OVERWRITE,
        ),
        "skymill reddening sky.zarr --templates lvc ivc nhii --mask mask --native native.zarr --out-dir reddening",
        answer=reddened,
    ),
    Verb(
        "compare_reddening",
        "tell how closely reddening maps follow a reference, such as the reddening of stars",
        (
            store_option(),
            Option("target", "text", "the reference", required=True),
            Option("maps", "one or more texts", "maps to compare", required=True),
            Option("factors", "numbers by name", "what maps are multiplied by before: ebv_sfd=0.86"),
            Option("slope", "number", "take this slope instead of fitting it"),
            _MASK,
            Option("region", "named where", "NAME=WHERE, once for each; default ngc (b > 0) and sgc (b < 0)"),
            Option("out_dir", "path", "folder for JSON, a figure and a page"),
        ),
        "skymill compare-reddening sky.zarr --target ebv_stars --maps ebv ebv_sfd --factors ebv_sfd=0.86",
        module="reddening_compare",
        answer=reddened,
    ),
)
