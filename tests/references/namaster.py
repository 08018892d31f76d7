"""What NaMaster makes of a small Gaussian sky, kept in namaster.npz for tests to be held to; and the sky itself.

The sky and the weights are made here from a seed, so that tests have the same maps without NaMaster.  To make the file
again, in an environment of its own that has numpy, healpy, ducc0 and pymaster 3.0.1:

    python tests/references/namaster.py             # spectra and matrices, some seconds
    python tests/references/namaster.py --time      # also the time of NaMaster's coupling at lmax 2048; a quiet machine

pymaster is built from source and wants to download chealpix.  Where that is not possible (Debian, packages
libchealpix-dev libgsl-dev libfftw3-dev libcfitsio-dev), in its unpacked sources:

    mkdir -p _deps/lib _deps/include
    cp /usr/include/chealpix.h _deps/include/
    echo "INPUT($(gcc -print-file-name=libchealpix.so))" > _deps/lib/libchealpix.a
    pip install --no-build-isolation --no-deps .

Names in the file: `<quantity>_<pair>_<case>` with pair "aa" or "ab" and case "pixel" (plain pixel weights) or "iterate"
(three iterations, for the masks too); quantities `pseudo` (ell,), `mask` (ell,), `matrix` (bin, bin), `bandpower`
(bin,) and `window` (bin, ell); a `beam_` before the last three: corrected for the beam of both maps.  The matrix is
NaMaster's of all multipoles, to which it does not apply beams, binned here.
`seconds` is wall and CPU time of NaMaster's workspace at lmax 2048 and how many cores it had; `seconds_note` says it in
words.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

NSIDE = 64
LMAX = 128
WIDTH = 8
FWHM = 90.0  # arcmin
CASES = {"pixel": 0, "iterate": 3}
FILE = Path(__file__).with_name("namaster.npz")


def spectrum(lmax: int) -> np.ndarray:
    """The spectrum of the sky before the beam, (ell,) float64."""
    ell = np.arange(lmax + 1.0)
    return 1e3 / (ell + 10) ** 2


def beam(lmax: int) -> np.ndarray:
    """The beam of both maps, (ell,) float64."""
    ell = np.arange(lmax + 1.0)
    return np.exp(-0.5 * ell * (ell + 1) * (np.radians(FWHM / 60) / np.sqrt(8 * np.log(2))) ** 2)


def sky(nside: int = NSIDE, seed: int = 7) -> dict[str, np.ndarray]:
    """Two maps with a correlation of 0.6 and their beam, float32 in RING order; the same for the same seed."""
    import ducc0

    rng = np.random.default_rng(seed)
    lmax = 3 * nside - 1
    size = (lmax + 1) * (lmax + 2) // 2
    draws = rng.normal(size=(2, 2, size)) * np.sqrt(0.5)
    draws[:, 0, : lmax + 1] *= np.sqrt(2)
    draws[:, 1, : lmax + 1] = 0
    first, second = draws[:, 0] + 1j * draws[:, 1]
    ell = np.concatenate([np.arange(m, lmax + 1) for m in range(lmax + 1)])
    amplitude = (np.sqrt(spectrum(lmax)) * beam(lmax))[ell]
    geometry = ducc0.healpix.Healpix_Base(nside, "RING").sht_info()
    return {
        name: ducc0.sht.synthesis(alm=(alm * amplitude)[None], lmax=lmax, spin=0, **geometry)[0].astype(np.float32)
        for name, alm in {"a": first, "b": 0.6 * first + 0.8 * second}.items()
    }


def weights(nside: int = NSIDE) -> dict[str, np.ndarray]:
    """A weight for each map, float32 in RING order: a galactic cut and three holes with soft edges; another cut."""
    import ducc0

    base = ducc0.healpix.Healpix_Base(nside, "RING")
    vectors = base.pix2vec(np.arange(12 * nside**2))
    latitude = np.degrees(np.arcsin(vectors[:, 2]))
    first = _edge(np.abs(latitude), 15.0, 10.0)
    for longitude, b in ((20.0, 50.0), (140.0, -45.0), (250.0, 70.0)):
        centre = [np.cos(np.radians([longitude, longitude - 90.0])) * np.cos(np.radians(b)), [np.sin(np.radians(b))]]
        distance = np.degrees(np.arccos(np.clip(vectors @ np.concatenate(centre), -1, 1)))
        first *= _edge(distance, 6.0, 6.0)
    second = _edge(latitude, -40.0, 12.0)
    return {"a": first.astype(np.float32), "b": second.astype(np.float32)}


def _edge(distance: np.ndarray, start: float, width: float) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(np.pi * np.clip((distance - start) / width, 0, 1))


def results() -> dict[str, np.ndarray]:
    """Everything that the file holds, from NaMaster."""
    import healpy
    import pymaster

    maps, masks = sky(), weights()
    bins = pymaster.NmtBin.from_lmax_linear(LMAX, nlb=WIDTH)
    means = np.zeros((bins.get_n_bands(), LMAX + 1))
    for band in range(bins.get_n_bands()):
        means[band, bins.get_ell_list(band)] = bins.get_weight_list(band)
    found: dict[str, np.ndarray] = {"starts": np.array([bins.get_ell_list(b)[0] for b in range(bins.get_n_bands())])}
    found["stops"] = np.array([bins.get_ell_list(b)[-1] + 1 for b in range(bins.get_n_bands())])
    for case, iterations in CASES.items():
        for prefix, smooth in (("", None), ("beam_", beam(LMAX))):
            fields = {
                name: pymaster.NmtField(
                    masks[name].astype(float), [maps[name].astype(float)], beam=smooth, lmax=LMAX,
                    lmax_mask=3 * NSIDE - 1, n_iter=iterations, n_iter_mask=iterations,
                )
                for name in maps
            }  # fmt: skip
            for one, two in ("aa", "ab"):
                where = f"{one}{two}_{case}"
                space = pymaster.NmtWorkspace.from_fields(fields[one], fields[two], bins)
                pseudo = pymaster.compute_coupled_cell(fields[one], fields[two])
                inside = (means > 0).astype(float)
                through = 1.0 if smooth is None else smooth**2
                found[f"{prefix}matrix_{where}"] = means @ (space.get_coupling_matrix() * through) @ inside.T
                found[f"{prefix}bandpower_{where}"] = space.decouple_cell(pseudo)[0]
                if case == "pixel":
                    found[f"{prefix}window_{where}"] = space.get_bandpower_windows()[0, :, 0, :]
                if not prefix:
                    found[f"pseudo_{where}"] = pseudo[0]
                    found[f"mask_{where}"] = healpy.alm2cl(fields[one].get_mask_alms(), fields[two].get_mask_alms())
    return found


def seconds(nside: int = 1024) -> list[float]:
    """Wall and CPU time of NaMaster's workspace at lmax 2 nside, transform of the mask not counted."""
    import pymaster

    mask = weights(nside)["a"].astype(float)
    field = pymaster.NmtField(mask, [np.zeros(mask.size)], lmax=2 * nside, n_iter=0, n_iter_mask=0)
    field.get_mask_alms()
    bins = pymaster.NmtBin.from_lmax_linear(2 * nside, nlb=16)
    wall, processor = time.perf_counter(), time.process_time()
    pymaster.NmtWorkspace.from_fields(field, field, bins)
    return [time.perf_counter() - wall, time.process_time() - processor]


def main() -> None:
    """Make the file; a time that was measured before is kept."""
    import os

    import pymaster

    found = results()
    found["version"] = np.array(pymaster.__version__)
    if "--time" in sys.argv:
        cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
        found["seconds"] = np.array([*seconds(), cores])
        found["seconds_note"] = np.array(
            f"pymaster {pymaster.__version__}, workspace from fields, nside 1024, lmax 2048, bins of 16, "
            + "{} cores, load average before {:.1f}: {:.1f} s wall, {:.1f} s CPU".format(
                cores, load, *found["seconds"][:2]
            )
        )
    elif FILE.exists():
        with np.load(FILE) as before:
            found.update({name: before[name] for name in ("seconds", "seconds_note") if name in before})
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()
