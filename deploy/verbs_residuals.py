"""The verbs on what is left of a fit of gas: temperatures, slopes, profiles, polarisation, and all in one report."""

from __future__ import annotations

from .answers import diagnosed, measured, profiled
from .options import Option
from .verb import OVERWRITE, Verb, store_option
from .verbs_gas import JACKKNIFE, REGIONS

_FIT = Option("fit", "path", "folder that `skymill fit` wrote")
_MODEL = Option("model", "text", "map of the model instead, its offset included, for example fit_model_i857")
_MASK = Option("mask", "text", "map of the pixels to use; mask_* is 1 where they are not")
_MEAN = Option("mean_temperature", "number", "of the dust, K; a guess", default=20.0)
_CONSERVATIVE = Option("conservative_temperature", "number", "a higher one for comparison, K; a guess", default=25.0)
_FREQUENCIES = Option("frequencies", "numbers by name", "of maps, GHz: i857=857; default what their bands or names say")
_CONTAMINANTS = Option("contaminants", "lines", "brightness of what gas does not trace: cib:i857=1; once for each")
_SCALING = Option(
    "scaling",
    "text",
    "what the low band is multiplied with",
    default="gas",
    choices=("gas", "regression", "mbb"),
)

RESIDUALS = (
    Verb(
        "temperature",
        "turn the residuals of a band into temperatures of the dust",
        (
            store_option(),
            Option("target", "text", "map of the band", default="i857"),
            _FIT,
            _MODEL,
            Option("offset", "number", "what does not come from gas; default that of the fit"),
            Option("frequency", "number", "of the band, GHz; default what its band or name says"),
            _MEAN,
            _CONSERVATIVE,
            Option(
                "noise", "number or text", "sigma of the target, or a map of it or of the variance, for an error map"
            ),
            _MASK,
            REGIONS,
            Option("out_store", "path", "store to write into; default is the store itself"),
            OVERWRITE,
        ),
        "skymill temperature sky.zarr --fit fit --mask mask",
        answer=measured,
    ),
    Verb(
        "slopes",
        "measure slopes of residuals between bands, and tell which cause they fit",
        (
            store_option(),
            Option("low", "text", "map of the band that serves as template", default="i353"),
            Option("high", "text", "map of the band whose residual is looked at", default="i857"),
            Option("third", "text", "map of a band above both, for example i100um"),
            _FIT,
            _MODEL,
            _SCALING,
            Option("method", "text", "of the slopes", default="ols", choices=("ols", "inverse", "deming")),
            Option("noise", "pairs of number or text", "of deming: sigma of a band, or a map of it; once for each"),
            _FREQUENCIES,
            _MEAN,
            Option("beta", "number", "emissivity index; a guess", default=1.5),
            Option("beta_per_kelvin", "number", "d beta / dT of their anticorrelation; a guess", default=-0.06),
            Option("pivot", "number", "frequency in GHz whose opacity does not change with beta", default=353.0),
            _CONTAMINANTS,
            Option("tolerance", "number", "by which a slope may differ from that of a cause", default=0.03),
            Option("third_tolerance", "number", "the same for the third band", default=0.1),
            Option("reject", "number", "probability below which a cause is rejected", default=0.01),
            JACKKNIFE,
            _MASK,
            REGIONS,
        ),
        "skymill slopes sky.zarr --fit fit --third i100um --mask mask",
        answer=measured,
    ),
    Verb(
        "profiles",
        "average residuals in bins of other maps, as CSV",
        (
            store_option(),
            Option("residual", "text", "map of residuals, or with a fit or model the target", required=True),
            Option("against", "one or more texts", "maps whose values make the bins", required=True),
            _FIT,
            _MODEL,
            Option(
                "bins", "class limits", "how many, of equal counts; or limits, map=0,1,2,4, once for each", default=20
            ),
            Option("expected", "numbers by name", "slope of a line to compare with: nh2=1.7"),
            JACKKNIFE,
            _MASK,
            REGIONS,
        ),
        "skymill profiles sky.zarr --residual i857 --fit fit --against nhi nhii nh2 --mask mask",
        answer=profiled,
    ),
    Verb(
        "polarization",
        "hold residuals against the polarisation fraction: does the direction of the field make them?",
        (
            store_option(),
            Option("intensity", "text", "map of the band", default="i353"),
            Option(
                "polarized",
                "one or more texts",
                "map of polarised intensity, or of Q and of U",
                default="p353",
            ),
            _FIT,
            _MODEL,
            Option("offset", "number", "what does not come from gas; default that of the fit"),
            Option("noise", "number or text", "sigma of Q and of U, or a map of it or of the variance"),
            JACKKNIFE,
            _MASK,
            REGIONS,
        ),
        "skymill polarization sky.zarr --fit fit --polarized p353 --mask mask",
        answer=measured,
    ),
    Verb(
        "diagnose",
        "write a report on the residuals of a fit: maps, distributions, profiles, temperatures, slopes",
        (
            store_option(),
            Option("fit", "path", "folder that `skymill fit` wrote", required=True),
            Option("out_dir", "path", "folder to write", required=True),
            Option("targets", "one or more texts", "bands to look at; default all of the fit"),
            Option("against", "one or more texts", "maps for the profiles; default the templates of the fit"),
            Option("expected", "lines", "slopes to compare profiles with, TARGET:MAP=X; once for each"),
            Option(
                "bins", "class limits", "of the profiles: how many, or limits, map=0,1,2,4, once for each", default=15
            ),
            Option("temperature", "text", "target whose residuals become temperatures; default i857"),
            Option("low", "text", "low band of the slopes; default i353"),
            Option("high", "text", "high band of the slopes; default i857"),
            Option("third", "text", "a third band for the slopes"),
            Option("intensity", "text", "target of the test of polarisation; default i353"),
            Option("polarized", "one or more texts", "map of polarised intensity, or of Q and of U"),
            Option("polarization_noise", "number or text", "sigma of Q and of U, or a map of it or of the variance"),
            _SCALING,
            _FREQUENCIES,
            _MEAN,
            _CONSERVATIVE,
            Option("beta", "number", "emissivity index; a guess", default=1.5),
            _CONTAMINANTS,
            Option("regions", "circles", "a circle to draw and look at: A=l,b,radius, once for each; none for none"),
            JACKKNIFE,
            _MASK,
            REGIONS,
            Option("title", "text", "title of the page", default="Residuals of dust against gas"),
        ),
        "skymill diagnose sky.zarr --fit fit --out-dir residuals --mask mask --regions A=210,50,10",
        answer=diagnosed,
    ),
)
