"""The verbs, once: the command line and the steps of a TOML file are both made from this table.

Defaults stand here only to be shown in the help; what is not given is left to the Python function, and a test
holds the two together.
"""

from __future__ import annotations

from .options import Option
from .verb import OVERWRITE as _OVERWRITE
from .verb import Verb as Verb
from .verb import store_option as _store
from .verbs_gas import GAS
from .verbs_residuals import RESIDUALS
from .verbs_sphere import SPHERE

_OUT = Option("out", "path", "store to write into; default is the store itself")

VERBS = (
    Verb(
        "simulate",
        "make a synthetic sky with known truth",
        (
            Option("kind", "text", "dust or gas", required=True, positional=True),
            _store("sky store, made if it is not there"),
            Option("nside", "integer", "resolution", required=True),
            Option("seed", "integer", "which sky", default=0),
            Option("footprint", "text", "the whole sky, or surveys only", default="full", choices=("full", "surveys")),
            Option("maps", "texts", "which maps; default all that observers would have, and their truth"),
            Option("frame", "text", "frame of the pixels", default="galactic"),
            Option("noise_nside", "integer", "the nside at which the noise has the levels below", default=256),
            Option("noise_herschel", "number", "noise of i160 to i500 in MJy/sr", default=0.001),
            Option("noise_850um", "number", "noise at 850 um in MJy/sr", default=0.002),
            Option("noise_1380um", "number", "noise at 1380 um in MJy/sr", default=0.0008),
            Option("relative_noise_850um", "number", "noise at 850 um per brightness", default=0.025),
            Option("relative_noise_1380um", "number", "noise at 1380 um per brightness", default=0.045),
            Option("options", "settings", "of gas: options of its sky, as sigma_temperature=1.28"),
            Option("tile_nside", "integer", "tiles of a new store"),
            _OVERWRITE,
        ),
        "skymill simulate dust sky.zarr --nside 256 --seed 11",
    ),
    Verb(
        "ingest",
        "bring HEALPix FITS maps into a sky store",
        (
            Option("files", "pairs", "map=file.fits, or map=file.fits[COLUMN]", required=True, positional=True),
            _store("sky store, made if it is not there"),
            Option("frame", "each text", "galactic, icrs or ecliptic; for all maps, or map=FRAME, once for each"),
            Option("unit", "each text", "for example MJy/sr or K_CMB; for all maps, or map=UNIT, once for each"),
            Option("ordering", "each text", "ring or nested; for all maps, or map=ORDERING, once for each"),
            Option("nside", "integer", "for files that do not tell"),
            Option("quantity", "each text", "what is measured; default is told by the unit"),
            Option("band", "each text", "for example 850um; for all maps, or map=BAND, once for each"),
            Option("beam_fwhm_arcmin", "each number", "FWHM of the beam; for all maps, or map=X, once for each"),
            Option(
                "override",
                "texts",
                "believe these options where a header says something else: frame, unit, ordering",
                default=(),
            ),
            Option("tile_nside", "integer", "tiles of a new store"),
            Option("chunk_nside", "integer", "chunks of a new store"),
            Option("scratch", "path", "folder for unpacked and sorted files"),
            _OVERWRITE,
        ),
        "skymill ingest i850um=planck.fits[I_STOKES] sky.zarr --frame galactic --unit K_CMB",
    ),
    Verb(
        "prepare",
        "apply declared recipes to maps: units, subtraction of templates and monopoles",
        (
            _store(),
            Option("recipe", "recipes", "TOML file of [[recipe]] tables", required=True, positional=True),
            _OUT,
            _OVERWRITE,
        ),
        "skymill prepare sky.zarr recipe.toml",
    ),
    Verb(
        "train",
        "train a network on the maps of a sky store",
        (
            Option("spec", "text", "name of a model: dust-850um, dust-1380um", required=True, positional=True),
            _store(),
            Option("out", "path", "folder of the model", required=True),
            Option(
                "split",
                "text",
                "test pixels drawn one by one, or by blocks",
                default="random",
                choices=("random", "blocks"),
            ),
            Option("target", "text", "map to be learnt; default that of the model"),
            Option("inputs", "names", "other input maps: names, or i160=my_160um for bands under other names"),
            Option("settings", "settings", "a field of the model to be changed, max_epochs=100; once for each"),
            Option("where", "text", 'pixels to train and test on, for example "b > 10"'),
            Option("test_size", "number", "part of the pixels for the test", default=0.33),
            Option("validation_size", "number", "part of the others that decides when to stop", default=0.1),
            Option("block_nside", "integer", "the nside whose pixels are the blocks"),
            Option("seed", "integer", "of split, weights and order", default=0),
            Option("max_pixels", "integer", "take at most so many pixels", default=2_000_000),
            Option("compare", "switch", "train with the other split too, for the report", default=True),
            Option("report", "path", "folder for numbers, figures and a page"),
            _OVERWRITE,
        ),
        "skymill train dust-850um sky.zarr --out model-850 --split blocks --report training-850",
    ),
    Verb(
        "predict",
        "apply trained models to every pixel of a sky store",
        (
            Option("models", "paths", "models made by `skymill train`", required=True, positional=True),
            _store(),
            _OUT,
            Option("inputs", "pairs", "a map with another name than in training: i160=my_160um"),
            Option("batch", "integer", "pixels that go through the network at once"),
            Option("tile_nside", "integer", "tiles of a store made by --out"),
            _OVERWRITE,
        ),
        "skymill predict model-850 model-1380 sky.zarr --workers 4 --threads 2",
    ),
    Verb(
        "residual",
        "compare a prediction with a target: relative error, residual, mask, reasons",
        (
            _store(),
            Option("prediction", "text", "map that was predicted", required=True),
            Option("target", "text", "map that was measured", required=True),
            Option("mask_above", "number", "absolute relative error above which a pixel is masked", default=0.2),
            _OUT,
            _OVERWRITE,
        ),
        "skymill residual sky.zarr --prediction pred_850um --target i850um --mask-above 0.2",
    ),
    Verb(
        "hand_down",
        "give every pixel of a finer store the values of its parent, a mask for example",
        (
            _store("the coarse sky store"),
            Option("out", "path", "the finer sky store", required=True, positional=True),
            Option("names", "texts", "maps to hand down", required=True),
            _OVERWRITE,
        ),
        "skymill hand-down sky.zarr fine.zarr --names mask_850um",
        module="residual",
    ),
    Verb(
        "ratio",
        "map the ratio of two bands and the spectral indices of the dust",
        (
            _store(),
            Option("numerator", "text", "map of the shorter wavelength", default="pred_850um"),
            Option("denominator", "text", "map of the longer wavelength", default="pred_1380um"),
            Option("temperature", "number or text", "temperature of the dust in K, or a map of it"),
            Option("wavelengths_um", "text or numbers", "nominal, exact, or two wavelengths in um", default="nominal"),
            Option("prefix", "text", "put before the names of what is written", default=""),
            _OUT,
            _OVERWRITE,
        ),
        "skymill ratio sky.zarr --temperature 20",
    ),
    Verb(
        "evaluate",
        "judge predictions against targets: numbers, figures and a page",
        (
            _store(),
            Option("prediction", "one or more texts", "maps that were predicted, one a band", required=True),
            Option("target", "one or more texts", "maps that were measured, in the same order", required=True),
            Option("out_dir", "path", "folder to write", required=True),
            Option("by", "text", "map of survey codes to tell numbers apart by", default="survey"),
            Option("names", "code pairs", "name of a code of that map, once for each"),
            Option("where", "text", 'pixels that count, for example "b < -10"'),
            Option("mask", "one or more texts", "map, or one a band, that is 0 where a pixel may be used"),
            Option(
                "low_cut",
                "one or more numbers",
                "leave out pixels whose target is below; one for all, or one a band",
            ),
            Option("limit", "number", "relative errors beyond it are counted as above the limit", default=0.2),
            Option("groups", "integer", "groups of brightness", default=10),
            Option("fine_store", "path", "store with predictions at a finer nside"),
            Option("fine_prediction", "one or more texts", "maps of the fine store; default the same names"),
            Option("fine_target", "one or more texts", "maps of the fine store to hold its predictions against"),
            Option("regions", "regions", "a picture of name,longitude,latitude,width; once for each", default=()),
            Option("accept", "limits", "limit that a number must keep, for example sigma=0.04; once for each"),
            Option("title", "text", "title of the page", default="Prediction held against its target"),
        ),
        "skymill evaluate sky.zarr --prediction pred_850um --target truth_850um --out-dir report",
    ),
    Verb(
        "correlate",
        "correlation coefficients of all pairs of maps",
        (
            _store(),
            Option("maps", "texts", "two maps or more", required=True),
            Option("divide_by", "text", "divide all by this map, to compare colours"),
            Option("mask", "text", "map that is 0 where a pixel may be used"),
            Option("max_pixels", "integer", "take at most so many"),
            Option("out_dir", "path", "folder for JSON, figures and a page"),
        ),
        "skymill correlate sky.zarr --maps i160 i250 i350 i500 i850um --out-dir correlations",
    ),
    Verb(
        "degrade",
        "write maps at a coarser nside",
        (
            _store("the fine sky store"),
            Option("out", "path", "the coarse one, made if it is not there", required=True, positional=True),
            Option("nside", "integer", "its nside", required=True),
            Option("maps", "one or more texts", "which maps; default all"),
            Option(
                "policy",
                "number or text",
                "how many children must have a value: any, all, or a fraction",
                default="any",
            ),
            Option("kind", "each text", "mean, sum, variance, bits or code; for all maps, or map=KIND, once for each"),
            _OVERWRITE,
        ),
        "skymill degrade fine.zarr coarse.zarr --nside 256 --policy 0.5",
    ),
    *SPHERE,
    *GAS,
    *RESIDUALS,
    Verb(
        "export",
        "write maps into a HEALPix FITS file",
        (
            _store(),
            Option("names", "texts", "maps, one column each", required=True),
            Option("path", "path", "the file", required=True),
            Option("ordering", "text", "of the pixels", default="nested", choices=("nested", "ring")),
            Option("partial", "switch", "list the pixels that have a value", default=False),
            Option("blank", "text", "what stands for no value", default="unseen", choices=("unseen", "nan")),
            _OVERWRITE,
        ),
        "skymill export sky.zarr --names pred_850um --path pred.fits --ordering ring",
    ),
)

BY_NAME = {verb.name: verb for verb in VERBS}
BY_COMMAND = {verb.command: verb for verb in VERBS}

# Options that say where a verb runs, the same for all of them.
SESSION = (
    Option("workers", "integer", "worker processes of this machine; default is to run in this process"),
    Option("threads", "integer", "tasks at once in each worker; default is to share the cores"),
    Option("memory", "amount", "memory of each worker, for example 4GB; default is to share the memory"),
    Option("address", "text", "address of a Dask scheduler that runs elsewhere, for example tcp://login1:8786"),
)
