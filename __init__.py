"""Train once, predict everywhere on the sky: distributed batch inference for full-sky HEALPix maps.

Everything public is an attribute of this module and is loaded on first use, so that ``import skymill``
costs milliseconds and loads no array library at all.  Verbs that write return a `Plan` and do nothing
else until ``.run()``.

Examples
--------
>>> import skymill as sm
>>> sm.Tiling(16384).n_tiles
768
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .chunking import hook as _hook

if TYPE_CHECKING:
    from . import models as models
    from .chunking import errors as errors
    from .chunking.channels import Channels as Channels
    from .chunking.query import ReddeningQuery as ReddeningQuery
    from .chunking.regions import Box as Box
    from .chunking.regions import Cone as Cone
    from .chunking.regions import Polygon as Polygon
    from .chunking.store import open as open
    from .chunking.tiling import Tiling as Tiling
    from .engine.apodize import apodize as apodize
    from .engine.binning import Bins as Bins
    from .engine.connect import connect as connect
    from .engine.correlate import correlate as correlate
    from .engine.degrade import degrade as degrade
    from .engine.diagnose import diagnose as diagnose
    from .engine.evaluate import evaluate as evaluate
    from .engine.export import export as export
    from .engine.fit import fit as fit
    from .engine.ingest import ingest as ingest
    from .engine.ingest_cube import ingest_cube as ingest_cube
    from .engine.kmeans import kmeans as kmeans
    from .engine.kmeans_search import kmeans_search as kmeans_search
    from .engine.kmeans_stability import kmeans_stability as kmeans_stability
    from .engine.mask import mask as mask
    from .engine.plan import Plan as Plan
    from .engine.polarization import polarization as polarization
    from .engine.predict import predict as predict
    from .engine.prepare import prepare as prepare
    from .engine.profiles import profiles as profiles
    from .engine.ratio import ratio as ratio
    from .engine.reddening import reddening as reddening
    from .engine.reddening_compare import compare_reddening as compare_reddening
    from .engine.resample import resample as resample
    from .engine.residual import hand_down as hand_down
    from .engine.residual import residual as residual
    from .engine.simplify import simplify as simplify
    from .engine.simulate import simulate as simulate
    from .engine.slopes import slopes as slopes
    from .engine.smooth import smooth as smooth
    from .engine.spectra import spectra as spectra
    from .engine.synthesize import synthesize as synthesize
    from .engine.temperature import temperature as temperature
    from .engine.templates import templates as templates
    from .engine.train import train as train
    from .engine.worker import Worker as Worker

__version__ = "0.1.0"

# Public name -> where it lives; a name without ":" is a module.
_HOMES = {
    "Bins": "engine.binning:Bins",
    "Box": "chunking.regions:Box",
    "Channels": "chunking.channels:Channels",
    "Cone": "chunking.regions:Cone",
    "Plan": "engine.plan:Plan",
    "Polygon": "chunking.regions:Polygon",
    "ReddeningQuery": "chunking.query:ReddeningQuery",
    "Tiling": "chunking.tiling:Tiling",
    "Worker": "engine.worker:Worker",
    "apodize": "engine.apodize:apodize",
    "compare_reddening": "engine.reddening_compare:compare_reddening",
    "connect": "engine.connect:connect",
    "correlate": "engine.correlate:correlate",
    "degrade": "engine.degrade:degrade",
    "diagnose": "engine.diagnose:diagnose",
    "errors": "chunking.errors",
    "evaluate": "engine.evaluate:evaluate",
    "export": "engine.export:export",
    "fit": "engine.fit:fit",
    "hand_down": "engine.residual:hand_down",
    "ingest": "engine.ingest:ingest",
    "ingest_cube": "engine.ingest_cube:ingest_cube",
    "kmeans": "engine.kmeans:kmeans",
    "kmeans_search": "engine.kmeans_search:kmeans_search",
    "kmeans_stability": "engine.kmeans_stability:kmeans_stability",
    "mask": "engine.mask:mask",
    "models": "models",
    "open": "chunking.store:open",
    "polarization": "engine.polarization:polarization",
    "predict": "engine.predict:predict",
    "prepare": "engine.prepare:prepare",
    "profiles": "engine.profiles:profiles",
    "ratio": "engine.ratio:ratio",
    "reddening": "engine.reddening:reddening",
    "resample": "engine.resample:resample",
    "residual": "engine.residual:residual",
    "simplify": "engine.simplify:simplify",
    "simulate": "engine.simulate:simulate",
    "slopes": "engine.slopes:slopes",
    "smooth": "engine.smooth:smooth",
    "spectra": "engine.spectra:spectra",
    "synthesize": "engine.synthesize:synthesize",
    "temperature": "engine.temperature:temperature",
    "templates": "engine.templates:templates",
    "train": "engine.train:train",
}

# Written out, because type checkers and editors read this list without running the module.
__all__ = [  # noqa: RUF022 - in the order of the work, which is also the order of the documentation
    "Tiling",
    "Worker",
    "Plan",
    "Cone",
    "Box",
    "Polygon",
    "ReddeningQuery",
    "Bins",
    "Channels",
    "open",
    "connect",
    "simulate",
    "ingest",
    "ingest_cube",
    "prepare",
    "train",
    "predict",
    "residual",
    "hand_down",
    "ratio",
    "evaluate",
    "correlate",
    "temperature",
    "slopes",
    "profiles",
    "polarization",
    "diagnose",
    "fit",
    "reddening",
    "compare_reddening",
    "degrade",
    "resample",
    "mask",
    "templates",
    "apodize",
    "spectra",
    "smooth",
    "synthesize",
    "kmeans",
    "kmeans_stability",
    "kmeans_search",
    "simplify",
    "export",
    "models",
    "errors",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Return a public name, loading its module the first time."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _hook.ensure()
    module, _, attribute = home.partition(":")
    loaded = importlib.import_module(f".{module}", __name__)
    found = getattr(loaded, attribute) if attribute else loaded
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted(set(globals()) | set(__all__))


_hook.install()
