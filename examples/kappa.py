"""The kappa test of a dust map, on a synthetic sky whose answer is known.

    python examples/kappa.py OUT [--nside 256] [--seed 1]

Infrared galaxies trace the matter that lenses the microwave background: a dust map with their background (CIB) in it
correlates with the convergence kappa, the gas of our Galaxy does not (Cheng et al. 2025, arXiv:2411.12801, figures 15
and 20).  So a map from which a gas template was fitted and subtracted has to show the CIB, with smaller errors than the
dust map itself, and the template has to show nothing.

The sky is kappa and a CIB correlated with it; a gas template, lognormal and brighter towards the plane; and dust =
emissivity x template + CIB + offset + noise.  The template is fitted here with NumPy.  The command prints a table of
amplitudes, chi^2 and p-values and writes OUT/kappa.png, OUT/spectra (the result of `skymill.spectra`) and OUT/sky.zarr.
At nside 256 it takes some ten seconds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import skymill as sm

PAIRS = (("dust", "kappa"), ("residual", "kappa"), ("cib", "kappa"), ("nhi", "kappa"))
MASK, WEIGHT = "mask_gal", "weight_gal"
EMISSIVITY = 0.43  # MJy/sr per 1e20 cm^-2: what dust at 857 GHz has, about
OFFSET = 0.35  # MJy/sr
GAS_UNIT = "1e20 cm^-2"

type Spectra = Mapping[tuple[str, str], np.ndarray]


def fwhm_of(nside: int) -> float:
    """Return the beam of the synthetic maps, arcmin: a pixel and a half."""
    return 5760.0 / nside


def bins_of(nside: int) -> sm.Bins:
    """Return the bins of the test.

    Not below ell 20: eq. 23 takes spectra to be flat over a bin, and that of the gas falls steeply.  Not narrower than
    20: the mask mixes some multipoles, and decoupled bins of width 10 have correlations of -0.1 with their neighbours
    and errors 9 % above eq. 23.  The last bin takes what is mixed in from beyond, and is left out of the verdict.
    """
    return sm.Bins.from_edges(range(20, 2 * nside + 20, max(20, nside // 8)))


def input_spectra(lmax: int) -> dict[tuple[str, str], np.ndarray]:
    """Return spectra of kappa, CIB and the logarithm of the gas, each (ell,): shapes of the sky in simple numbers."""
    ell = np.arange(lmax + 1, dtype=float)
    lensing = 2.5e-7 / (1.0 + ell / 60.0) ** 1.4
    reconstruction = 2.0e-7
    cib = 5.5e-7 * (np.maximum(ell, 1.0) / 100.0) ** -1.1 + 5.0e-9  # (MJy/sr)^2 sr
    gas = np.maximum(ell, 2.0) ** -2.8 * (ell >= 2)
    return {
        ("kappa", "kappa"): lensing + reconstruction,
        ("cib", "cib"): cib,
        ("cib", "kappa"): 0.7 * np.sqrt(lensing * cib),
        ("gas", "gas"): 0.8 * gas,
        ("noise", "noise"): np.full(lmax + 1, 2.0e-9),
    }


def make_sky(store: Any, nside: int, seed: int, *, overwrite: bool = False) -> Spectra:
    """Write kappa, cib, nhi and dust, all at the beam `fwhm_of(nside)`; return the spectra that went in."""
    lmax, fwhm = 3 * nside - 1, fwhm_of(nside)
    known = input_spectra(lmax)
    again = {"overwrite": overwrite}
    # A set is drawn in one unit: the CIB comes in kJy/sr, and its unit is set right below.
    drawn = {
        ("kappa", "kappa"): known["kappa", "kappa"],
        ("drawn_cib", "drawn_cib"): 1e6 * known["cib", "cib"],
        ("drawn_cib", "kappa"): 1e3 * known["cib", "kappa"],
    }
    options = {"nside": nside, **again}
    names = ("kappa", "drawn_cib")
    sm.synthesize(drawn, store, name=names, seed=3 * seed, fwhm=fwhm, **options).run(progress=False)
    sm.synthesize(known["gas", "gas"], store, name="gas", seed=3 * seed + 1, **options).run(progress=False)
    noise = known["noise", "noise"]
    sm.synthesize(noise, store, name="noise", seed=3 * seed + 2, unit="MJy/sr", **options).run(progress=False)

    sky = sm.open(store)
    latitude = sky.sky.lonlat()[1].values
    column = 2.0 * np.exp(sky["gas"].values) / np.maximum(np.abs(np.sin(np.radians(latitude))), 0.1)
    write_maps(store, {"column": column.astype(np.float32)}, GAS_UNIT, **again)
    sm.smooth(store, "column", fwhm, out="nhi", method="harmonic", **again).run(progress=False)

    into_mjy = {"step": "scale", "factor": 1e-3, "unit": "MJy/sr"}
    sm.prepare(store, {"input": "drawn_cib", "output": "cib", "steps": [into_mjy]}, **again).run(progress=False)
    dust = [
        {"step": "scale", "factor": EMISSIVITY, "unit": "MJy/sr"},
        {"step": "subtract_map", "template": "cib", "coefficient": -1.0},
        {"step": "subtract_map", "template": "noise", "coefficient": -1.0},
        {"step": "subtract_monopole", "value": -OFFSET, "unit": "MJy/sr", "label": "offset"},
    ]
    sm.prepare(store, {"input": "nhi", "output": "dust", "steps": dust}, **again).run(progress=False)
    return known


def make_mask(store: Any, nside: int, seed: int = 0) -> None:
    """Write the mask, |b| < 25 deg and twelve holes of 3 deg, and the weight it becomes with edges of 5 deg."""
    lon, lat = (np.radians(each.values) for each in sm.open(store).sky.lonlat())
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    holes = np.random.default_rng(seed).normal(size=(12, 3))
    holes /= np.linalg.norm(holes, axis=1, keepdims=True)
    left_out = (np.abs(lat) < np.radians(25.0)) | ((holes @ points).max(axis=0) > np.cos(np.radians(3.0)))
    write_maps(store, {MASK: left_out.astype(np.uint8)}, "1")
    sm.apodize(store, MASK, 5.0).run(progress=False)


def write_maps(store: Any, maps: Mapping[str, np.ndarray], unit: str, *, overwrite: bool = False) -> None:
    """Write maps that NumPy made, (cells,) in NESTED order, by way of a FITS file."""
    from astropy.io import fits

    size = len(next(iter(maps.values())))
    columns = [fits.Column(name, "B" if each.dtype == np.uint8 else "E", array=each) for name, each in maps.items()]
    table = fits.BinTableHDU.from_columns(columns)
    table.header.update(PIXTYPE="HEALPIX", ORDERING="NESTED", COORDSYS="G", NSIDE=round((size / 12) ** 0.5))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "maps.fits")
        table.writeto(path)
        files = {name: f"{path}[{name}]" for name in maps}
        sm.ingest(files, store, unit=unit, overwrite=overwrite).run(progress=False)


def subtract_template(store: Any, *, overwrite: bool = False) -> tuple[float, float]:
    """Write residual = dust - emissivity x nhi - offset; return the two, fitted by least squares over the mask."""
    sky = sm.open(store)
    chosen = sky[MASK].values == 0
    gas, dust = (sky[name].values[chosen].astype(np.float64) for name in ("nhi", "dust"))
    emissivity, offset = np.polynomial.polynomial.polyfit(gas, dust, 1)[::-1]
    model = [{"step": "scale", "factor": float(emissivity), "unit": "MJy/sr"}]
    rest = [
        {"step": "subtract_map", "template": "model"},
        {"step": "subtract_monopole", "value": float(offset), "unit": "MJy/sr", "label": "offset of the fit"},
    ]
    again = {"overwrite": overwrite}
    sm.prepare(store, {"input": "nhi", "output": "model", "steps": model}, **again).run(progress=False)
    sm.prepare(store, {"input": "dust", "output": "residual", "steps": rest}, **again).run(progress=False)
    return float(emissivity), float(offset)


def measure(store: Any, nside: int, **options: Any) -> Any:
    """Return the cross-spectra with kappa: decoupled, beams divided out, with errors and windows."""
    settings = {"errors": "knox", "window": True, "remove": "monopole", **options}
    bins = bins_of(nside)
    return sm.spectra(
        store, PAIRS, lmax=bins.stops[-1] - 1, mask=WEIGHT, beam=fwhm_of(nside), bins=bins, **settings
    ).run(progress=False)


@dataclass(frozen=True)
class Verdict:
    """What a cross-spectrum says of the CIB that was put in.

    Parameters
    ----------
    amplitude, error : float
        Of the spectrum over that of the input, best over all bins, and its standard deviation.
    significance : float
        Amplitude over its standard deviation if there were no correlation.
    chi2, p_value : float
        Of the spectrum against the input.
    bins : int
        Bins that count.
    null_p_value : float
        Of the spectrum against zero.
    """

    amplitude: float
    error: float
    significance: float
    chi2: float
    p_value: float
    bins: int
    null_p_value: float


def judge(found: Any, known: Spectra) -> dict[str, Verdict]:
    """Return a verdict for every pair; the last bin does not count."""
    from scipy.stats import chi2

    verdicts = {}
    counted = found.isel(bin=slice(0, -1))
    for pair in counted["pair"].values:
        one = counted.sel(pair=pair)
        truth = expected(one, known)
        error, null = one["error"].values, one["null_error"].values
        weight = truth / smooth_curve(one["ell"].values, null) ** 2
        scale = np.sum(weight * truth)
        amplitude = np.sum(weight * one["cl"].values) / scale
        chi2_input, chi2_null = (
            float(np.sum(((one["cl"].values - model) / bar) ** 2)) for model, bar in ((truth, error), (0.0, null))
        )
        verdicts[str(pair)] = Verdict(
            amplitude=float(amplitude),
            error=float(np.sqrt(np.sum((weight * error) ** 2)) / scale),
            significance=float(amplitude * scale / np.sqrt(np.sum((weight * null) ** 2))),
            chi2=chi2_input,
            p_value=float(chi2.sf(chi2_input, truth.size)),
            bins=truth.size,
            null_p_value=float(chi2.sf(chi2_null, truth.size)),
        )
    return verdicts


def smooth_curve(ell: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return errors without their scatter from bin to bin.

    Measured errors are large where the spectrum came out high by chance; weights made of them would bias a mean of
    bins low.
    """
    x = np.log(ell)
    return np.exp(np.polynomial.Polynomial.fit(x, np.log(error), 2)(x))


def expected(one: Any, known: Spectra) -> np.ndarray:
    """Return CIB x kappa as the bins of a pair see it, (bin,)."""
    window = one["window"].values
    return window @ known["cib", "kappa"][: window.shape[-1]]


def figure_of(found: Any, known: Spectra, emissivity: float) -> Any:
    """Return the four spectra with their errors, the input beside them; that of the template as MJy/sr of dust."""
    from matplotlib.figure import Figure

    colours = {"dust": "#E69F00", "residual": "#0072B2", "cib": "#009E73", "nhi": "#CC79A7"}
    labels = {
        "dust": "dust map",
        "residual": "residual: dust - template",
        "cib": "CIB itself (not known in real data)",
        "nhi": f"template x {emissivity:.3f} MJy/sr per {GAS_UNIT}",
    }
    panels = (("dust", "residual"), ("cib", "nhi"))
    figure = Figure(figsize=(10.4, 4.4), layout="constrained")
    both = figure.subplots(1, 2, sharey=True)
    counted = found.isel(bin=slice(0, -1))
    limit = 0.0
    for axes, names in zip(both, panels, strict=True):
        axes.axhline(0.0, color="#767676", linewidth=0.8)
        for place, name in enumerate(names):
            one = counted.sel(pair=f"{name} x kappa")
            ell = one["ell"].values + (place - 0.5) * 0.012 * found.attrs["lmax"]  # beside each other
            scale = 1e6 * one["ell"].values * (emissivity if name == "nhi" else 1.0)
            cl, error = scale * one["cl"].values, scale * one["error"].values
            axes.errorbar(ell, cl, error, fmt="os"[place], ms=4.5, capsize=2, color=colours[name], label=labels[name])
            limit = max(limit, float(np.abs(cl[1:]).max()))
        truth = known["cib", "kappa"][: found.attrs["lmax"] + 1]
        ell = np.arange(truth.size)
        shown = slice(int(counted["ell_start"][0]), int(counted["ell_stop"][-1]))
        axes.plot(ell[shown], 1e6 * (ell * truth)[shown], color="#1a1a1a", linewidth=1.2, label="CIB x kappa put in")
        axes.set(xlabel="multipole $\\ell$", xlim=(0, None))
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    both[0].set(ylabel="$\\ell\\, C_\\ell$ with kappa  [Jy/sr]", ylim=(-0.7 * limit, 1.7 * limit))
    both[0].set_title("what a dust map shows", fontsize=10)
    both[1].set_title("what it has to show, and the null test", fontsize=10)
    return figure


def run(out: Path, nside: int, seed: int) -> tuple[dict[str, Verdict], Any]:
    """Make the sky, test it, write everything to a folder and print the table; return verdicts and spectra."""
    out.mkdir(parents=True, exist_ok=True)
    store = out / "sky.zarr"
    known = make_sky(store, nside, seed)
    make_mask(store, nside)
    emissivity, offset = subtract_template(store)
    print(f"emissivity {emissivity:.4f} (input {EMISSIVITY}), offset {offset:.4f} (input {OFFSET}) MJy/sr")
    found = measure(store, nside, out_dir=out / "spectra")
    figure_of(found, known, emissivity).savefig(out / "kappa.png", dpi=130)
    verdicts = judge(found, known)
    print(f"{'':>16}  of the CIB x kappa put in:             against zero:")
    print(f"{'pair':>16}  amplitude       chi2/bins   p-value   sigma   p-value")
    for pair, each in verdicts.items():
        against = f"{each.amplitude:5.2f} +- {each.error:4.2f}  {each.chi2:7.1f}/{each.bins:<3d}  {each.p_value:8.2g}"
        if pair.startswith("nhi"):  # another unit, and nothing was put in
            against = ""
        print(f"{pair:>16}  {against:36}  {each.significance:6.1f}  {each.null_p_value:8.2g}")
    return verdicts, found


def main() -> None:
    """Read the command line and run the test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to, a new one")
    parser.add_argument("--nside", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    run(given.out, given.nside, given.seed)


if __name__ == "__main__":
    main()
