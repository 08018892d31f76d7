"""The result of spectra: pseudo-spectra of maps turned into one dataset with errors, windows, noise and null tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError, nearest
from .spectrum_errors import knox_error, null_test
from .spectrum_estimator import Estimator, MapPair, needed_pairs

if TYPE_CHECKING:
    import xarray as xr

    from .realisations import Scatter

type Floats = NDArray[np.float64]

ERRORS = ("knox", "monte-carlo")
KNOX_SOURCE = "Knox 1995, PRD 52, 4307; modes f_sky N_b with f_sky = <w_a w_b>^2 / <w_a^2 w_b^2>"
_FIRST_ELL = 2  # monopole and dipole are no part of a null hypothesis


def pair_label(pair: MapPair) -> str:
    """Return the name of a pair of maps in a result.

    Examples
    --------
    >>> pair_label(("i500", "kappa"))
    'i500 x kappa'
    """
    return f"{pair[0]} x {pair[1]}"


def product_unit(first: str, second: str) -> str:
    """Return the unit of the spectrum of maps in two units.

    Examples
    --------
    >>> [product_unit(*units) for units in (("K_CMB", "K_CMB"), ("MJy/sr", "1"), ("MJy/sr", "K_CMB"), ("1", "1"))]
    ['(K_CMB)^2', 'MJy/sr', 'MJy/sr * K_CMB', '1']
    """
    if first == second:
        return first if first == "1" else f"({first})^2"
    return " * ".join(unit for unit in (first, second) if unit != "1")


def assemble(
    pairs: Sequence[MapPair],
    pseudo: Mapping[MapPair, Floats],
    estimator: Estimator,
    *,
    errors: str | None = None,
    splits: Mapping[str, tuple[str, str]] | None = None,
    window: bool = False,
    source: str = "",
) -> xr.Dataset:
    """Return spectra with everything that is known of them, as a dataset of (pair, bin), or (pair, ell) without bins.

    Variables, float64 where nothing else is said, in the unit of the coordinate `unit` of their pair: `cl` the
    spectra, `pseudo_cl` the pseudo-spectra, averaged in the bins, that they come from; with errors `error` (Knox),
    `null_error` (the same where the maps have nothing in common), and of the hypothesis that they have nothing in
    common `chi2`, `degrees_of_freedom` (int64) and `p_value`, each (pair), NaN for a map with itself; `noise` where
    there are splits, NaN for pairs of two maps; `window` (pair, bin, ell_in), pure numbers, where asked for: what the
    spectrum of the sky is to be multiplied by and summed over to be held against `cl`.  Coordinates: `pair`
    ("a x b"), `map_1`, `map_2`, `unit`, `f_sky` (fraction of modes) and `mean_weight` <w_a w_b> of a pair; `ell`
    (effective multipole), `ell_start`, `ell_stop` (exclusive) and `modes` of a bin.

    Parameters
    ----------
    pairs : sequence of (str, str)
        Pairs of maps, in the order of the result.
    pseudo : mapping of (str, str) to ndarray
        Pseudo-spectra, (ell,) float64 from 0 to lmax, of the pairs that `needed_pairs` names, in either order.
    estimator : Estimator
        Bins, weights and transfer functions.
    errors : {None, "knox", "monte-carlo"}
        Whether errors are wanted; those of realisations are put in by `with_scatter` afterwards.
    splits : mapping of str to (str, str), optional
        Two halves of a map whose mean is the map, with independent noise; its noise spectrum is
        (C_11 + C_22 - 2 C_12) / 4.  Halves that the estimator does not know are taken to be like their map.
    window : bool
        Whether to return the bandpower windows; only with bins.
    source : str
        Where the maps are from, for the attributes.

    Raises
    ------
    InputError
        If a pseudo-spectrum or what the weights need is missing, a pair comes twice, windows are asked for without
        bins, or `errors` is unknown.

    References
    ----------
    Hivon et al. 2002, ApJ 567, 2 (decoupling); Knox 1995, Phys. Rev. D 52, 4307 (errors).

    Examples
    --------
    >>> from skymill.engine.spectrum_estimator import SpectrumMap
    >>> estimator = Estimator({"a": SpectrumMap(unit="K_CMB")}, lmax=3)
    >>> found = assemble([("a", "a")], {("a", "a"): np.ones(4)}, estimator, errors="knox")
    >>> found["cl"].dims, found["error"].values.round(3).tolist()
    (('pair', 'ell'), [[1.414, 0.816, 0.632, 0.535]])
    """
    if errors is not None and errors not in ERRORS:
        raise InputError(f"`errors` {errors!r} came; {nearest(errors, ERRORS)}, or None for no errors.")
    if window and estimator.bins is None:
        raise InputError("`window` came without `bins`; windows belong to decoupled bins. Give `bins`.")
    labels = [pair_label(pair) for pair in pairs]
    if not labels or len(set(labels)) < len(labels):
        twice = next((label for label in labels if labels.count(label) > 1), "nothing")
        raise InputError(f"`pairs` hold {twice} more than once; name each pair of maps once." if labels else _NO_PAIRS)
    halves = splits or {}
    estimator = _with_halves(estimator, halves, pairs)
    averaged = {
        pair: estimator.average(_found(pseudo, pair)) for pair in needed_pairs(pairs, errors=errors, splits=halves)
    }
    if window:  # before anything is solved: the couplings with windows then serve all
        for pair in pairs:
            estimator.coupling(*pair, window=True)
    spectra = {pair: estimator.solve(*pair, values) for pair, values in averaged.items()}

    along = "ell" if estimator.bins is None else "bin"
    rows: dict[str, list[Any]] = {"cl": [_found(spectra, pair) for pair in pairs]}
    rows["pseudo_cl"] = [_found(averaged, pair) for pair in pairs]
    if errors is not None:
        rows["error"] = [_knox(spectra, pair, estimator) for pair in pairs]
        rows["null_error"] = [_knox(spectra, pair, estimator, null=True) for pair in pairs]
    if halves:
        rows["noise"] = [_noise(spectra, pair, halves, estimator.size) for pair in pairs]
    data: dict[str, Any] = {name: (("pair", along), np.array(values)) for name, values in rows.items()}
    if window:
        data["window"] = (
            ("pair", "bin", "ell_in"),
            np.array([estimator.coupling(*pair, window=True).window for pair in pairs]),
        )
    found = _dataset(data, pairs, labels, estimator, along, source)
    return with_null_test(found) if errors is not None else found


def with_null_test(dataset: xr.Dataset) -> xr.Dataset:
    """Return a result with chi^2 and p-value of the hypothesis that two maps have nothing in common.

    Multipoles 0 and 1 do not count, nor do bins that hold nothing else.

    Parameters
    ----------
    dataset : Dataset
        With `cl` and `null_error`.

    Examples
    --------
    >>> import xarray as xr
    >>> rows = (("pair", "ell"), np.ones((1, 4)))
    >>> maps = {"map_1": ("pair", ["a"]), "map_2": ("pair", ["b"]), "ell": np.arange(4)}
    >>> with_null_test(xr.Dataset({"cl": rows, "null_error": rows}, coords=maps))["chi2"].values
    array([2.])
    """
    last = dataset["ell_stop"] - 1 if "ell_stop" in dataset else dataset["ell"]
    counted = np.asarray(last >= _FIRST_ELL)
    same = np.asarray(dataset["map_1"] == dataset["map_2"])
    tests = [
        (np.nan, 0, np.nan) if alone else null_test(cl[counted], error[counted])
        for alone, cl, error in zip(same, dataset["cl"].values, dataset["null_error"].values, strict=True)
    ]
    chi2, freedom, p_value = zip(*tests, strict=True)
    null = "of the hypothesis that the maps have nothing in common"
    return dataset.assign(
        chi2=("pair", np.array(chi2, np.float64), {"units": "1", "long_name": f"chi^2 {null}"}),
        degrees_of_freedom=("pair", np.array(freedom, np.int64), {"units": "1", "long_name": "bins behind chi2"}),
        p_value=("pair", np.array(p_value, np.float64), {"units": "1", "long_name": f"p-value {null}"}),
    )


def with_scatter(dataset: xr.Dataset, scatter: Scatter) -> xr.Dataset:
    """Return a result whose errors are those of realisations, with Knox's beside them.

    `error` becomes the scatter of the realisations, `knox_error` is what it was, `error_ratio` Knox's error over that
    of the realisations, `covariance` (pair, bin, bin_2) that of the bins of a pair.  The errors under the null
    hypothesis are Knox's divided by the same ratio, and chi^2 and p-value follow.

    Parameters
    ----------
    dataset : Dataset
        What `assemble` returns, with errors.
    scatter : Scatter
        What `realisations.scatter_of` returns, pairs in the order of the dataset.

    Raises
    ------
    InputError
        If the two are of different pairs or bins.
    """
    along = dataset["cl"].dims[1]
    if scatter.error.shape != dataset["cl"].shape:
        raise InputError(
            f"the scatter of realisations has shape {scatter.error.shape}, the spectra {dataset['cl'].shape}; make "
            "both with the same pairs and bins."
        )
    knox = dataset["error"]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(scatter.error > 0, knox.values / scatter.error, np.nan)
        null = dataset["null_error"].values / ratio
    rows = ("pair", along)
    source = f"scatter of {scatter.simulations} Gaussian realisations"
    unit = knox.attrs["units"]
    found = dataset.assign(
        error=(rows, scatter.error, {**knox.attrs, "source": source}),
        knox_error=knox,
        error_ratio=(rows, ratio, {"units": "1", "long_name": "Knox's error over that of realisations"}),
        null_error=(rows, null, {**dataset["null_error"].attrs, "source": f"{source}, scaled from Knox's"}),
        simulated_cl=(rows, scatter.mean, {"units": unit, "long_name": "mean spectrum of the realisations"}),
    )
    if scatter.covariance is not None:
        about = {"units": f"square of that of cl ({unit})", "long_name": "covariance of the bins", "source": source}
        found = found.assign(covariance=(("pair", "bin", "bin_2"), scatter.covariance, about))
    found = found.assign_attrs(simulations=scatter.simulations, errors="monte-carlo")
    return with_null_test(found)


_NO_PAIRS = "no pair came; give `pairs` such as [('i500', 'i500'), ('i500', 'kappa')]."
_LONG_NAMES = {
    "cl": "angular power spectrum",
    "pseudo_cl": "pseudo-spectrum, averaged in bins",
    "error": "standard deviation of cl",
    "null_error": "standard deviation of cl if the maps have nothing in common",
    "noise": "noise spectrum from two halves, (C_11 + C_22 - 2 C_12) / 4",
    "window": "bandpower window: cl = sum over ell_in of window times the spectrum of the sky",
}
_SOURCES = {"error": KNOX_SOURCE, "null_error": KNOX_SOURCE}


def _dataset(
    data: Mapping[str, Any],
    pairs: Sequence[MapPair],
    labels: Sequence[str],
    estimator: Estimator,
    along: str,
    source: str,
) -> xr.Dataset:
    import xarray as xr

    units = [product_unit(*(estimator.maps[name].unit for name in pair)) for pair in pairs]
    coordinates: dict[str, Any] = {
        "pair": ("pair", np.array(labels), {"long_name": "pair of maps"}),
        "map_1": ("pair", np.array([pair[0] for pair in pairs]), {"long_name": "first map"}),
        "map_2": ("pair", np.array([pair[1] for pair in pairs]), {"long_name": "second map"}),
        "unit": ("pair", np.array(units), {"long_name": "unit of the spectrum"}),
        "f_sky": (
            "pair",
            np.array([estimator.f_sky(*pair) for pair in pairs]),
            {"units": "1", "long_name": "fraction of the modes of the full sky, <w_a w_b>^2 / <w_a^2 w_b^2>"},
        ),
        "mean_weight": (
            "pair",
            np.array([estimator.moments_of(*pair)[0] for pair in pairs]),
            {"units": "1", "long_name": "mean product of the weights over the full sky"},
        ),
        "ell": (along, np.asarray(estimator.ell, np.float64), {"units": "1", "long_name": "effective multipole"}),
        "modes": (along, estimator.modes, {"units": "1", "long_name": "modes of the full sky, sum of 2 ell + 1"}),
    }
    if estimator.bins is None:
        coordinates["ell"] = ("ell", np.arange(estimator.lmax + 1), {"units": "1", "long_name": "multipole"})
    else:
        starts, stops = (np.array(each, np.int64) for each in (estimator.bins.starts, estimator.bins.stops))
        coordinates["ell_start"] = (along, starts, {"units": "1", "long_name": "first multipole of the bin"})
        coordinates["ell_stop"] = (along, stops, {"units": "1", "long_name": "multipole behind the last of the bin"})
    attributes: dict[str, Any] = {"title": "Angular power spectra", "lmax": estimator.lmax}
    if source:
        attributes["source"] = source
    if "error" in data:
        attributes["errors"] = "knox"
    masked = any(name is not None for pair in pairs for name in estimator.weights_of(*pair))
    attributes["estimator"] = (
        ("pseudo-spectra over <w_a w_b>, multipoles left coupled" if masked else "full sky, multipole by multipole")
        if estimator.bins is None
        else ("MASTER, Hivon et al. 2002" if masked else "full sky, averaged in bins")
    )
    dataset = xr.Dataset(dict(data), coords=coordinates, attrs=attributes)
    unit = units[0] if len(set(units)) == 1 else "that of the coordinate `unit` of the pair"
    for name in data:
        dataset[name].attrs.update(units="1" if name == "window" else unit, long_name=_LONG_NAMES[name])
        if name in _SOURCES:
            dataset[name].attrs["source"] = _SOURCES[name]
    return dataset


def _found(values: Mapping[MapPair, Floats], pair: MapPair) -> Floats:
    known = values.get(pair, values.get((pair[1], pair[0])))
    if known is None:
        raise InputError(f"`pseudo` holds no spectrum of {pair_label(pair)}; give those that `needed_pairs` names.")
    return known


def _with_halves(estimator: Estimator, splits: Mapping[str, MapPair], pairs: Sequence[MapPair]) -> Estimator:
    used = {name for pair in pairs for name in pair}
    for name in (*used, *splits):
        if name not in estimator.maps or name not in used:
            raise InputError(f"map {name!r} is unknown to the pairs or the estimator; {nearest(name, estimator.maps)}")
    halves = {half: estimator.maps[name] for name, both in splits.items() for half in both}
    missing = {half: facts for half, facts in halves.items() if half not in estimator.maps}
    return estimator.with_maps({**estimator.maps, **missing}) if missing else estimator


def _knox(spectra: Mapping[MapPair, Floats], pair: MapPair, estimator: Estimator, *, null: bool = False) -> Floats:
    a, b = pair
    cross = np.zeros(estimator.size) if null else _found(spectra, pair)
    return knox_error(cross, spectra[(a, a)], spectra[(b, b)], estimator.modes, estimator.f_sky(a, b))


def _noise(spectra: Mapping[MapPair, Floats], pair: MapPair, splits: Mapping[str, MapPair], size: int) -> Floats:
    if pair[0] != pair[1] or pair[0] not in splits:
        return np.full(size, np.nan)
    one, other = splits[pair[0]]
    noise: Floats = (spectra[(one, one)] + spectra[(other, other)] - 2.0 * _found(spectra, (one, other))) / 4.0
    return noise
