"""Template fits where the noise of pixels is correlated: white noise plus a power spectrum, such as that of the CIB.

    theta = (A^T N^-1 A)^-1 A^T N^-1 d,   N_pp' = sum_l (2l + 1) / (4 pi) C_l P_l(cos p p') + sigma_p^2 delta_pp'

over the pixels used.  N is never written out: N x is two transforms over the sphere.  Pixels and vectors are those of
one process; only reading is spread over workers.
Covers: gathering of pixels, which bands go together, the memory that it takes.
Does not cover: the noise as an operator (`harmonic_noise.py`), the algebra (`models/correlated_gls.py`), and errors by
jackknife: not needed where the covariance of the noise is known, and misleading, since the weights N^-1 A of a pixel
reach across the borders of patches.  Over 400 skies with the right covariance (a science test prints them), leaving
patches of nside 2, 4 and 8 out of the equations gave 1.7, 2.0 and 2.25 times the true scatter of the HI coefficient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError, MemoryLimitError
from ..models.correlated_gls import correlated_gls
from .given_noise import Noise, Spectrum, WhiteNoise, noise_spectra, white_noise
from .harmonic_noise import HarmonicNoise
from .plan import RESERVED_BYTES, Run
from .reducing import reduce_tiles
from .used_pixels import UsedPixels
from .worker import Worker, format_bytes

type Floats = NDArray[np.float64]

_BLOCK_COPIES = 6  # of the columns: themselves, solutions, residuals, and three of directions


class CorrelatedSolution(TypedDict):
    """What `solve_correlated` returns."""

    coefficient: Floats  # (band, template)
    covariance: Floats  # (band, template, template)
    chi2: Floats  # (band,)
    dof: int
    pixels: int
    iterations: tuple[int, ...]  # (band,)
    reached: tuple[float, ...]  # (band,)
    lmax: int


def solve_correlated(
    store: stores.StoreAddress,
    used: UsedPixels,
    templates: Sequence[str],
    targets: Sequence[str],
    noise: Mapping[str, Noise] | Noise,
    spectrum: Spectrum,
    lmax: int | None,
    offset: bool,
    run: Run,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 500,
) -> CorrelatedSolution:
    """Return the generalised least-squares fit of templates to bands whose noise is correlated between pixels.

    The errors are those that the given noise makes, so they are right as far as it is; no jackknife is needed.
    Bands are fitted one by one: noise that they share does not bias a fit, but goes into no covariance.
    Pixels where a template or target has no value are not used, in any band.  The result does not depend on the number
    of threads or workers, to the last bit.

    Parameters
    ----------
    store : str or path
        The sky store.
    used : UsedPixels
        Which pixels are used.
    templates, targets : sequence of str
        Maps to be fitted, and to be fitted to.
    noise : float, str or mapping
        White noise of a pixel: a number or map of sigma, in the unit of the target, or a map of the variance, in its
        square; by target where a mapping.
    spectrum : array, path or mapping
        C_l from ell 0 on of the noise that is correlated, as it is in the maps, behind beam and pixels, in the square
        of the unit of the target times steradian: for all targets, or by target.  See `given_spectra.read_spectra`.
        What is flat to beyond `lmax` (shot noise) belongs into `noise`.
    lmax : int, optional
        Largest multipole of it; default the last that is given, at most 3 nside - 1.  There is no such noise beyond.
    offset : bool
        Fit a constant too, as the last template.
    run : Run
        Workers that read; memory and threads of this process.
    tolerance : float
        Relative residual that the conjugate gradients may leave.  Errors of coefficients and covariances go with its
        square: the default leaves 1e-12 of a standard error or less than rounding does.
    max_iterations : int
        Give up after so many.

    Returns
    -------
    CorrelatedSolution
        coefficient (band, template) float64, in the unit of the target per unit of the template; covariance (band,
        template, template) float64; chi2 (band,) float64; dof, pixels; iterations and reached, the residual (band,);
        lmax.

    Raises
    ------
    InputError
        If the spectrum is negative, not finite or too short, the white noise zero or missing, the unit of a noise map
        neither that of the target nor its square, or templates cannot be told apart.
    MemoryLimitError
        If the pixels do not fit into this process.
    RunError
        If the conjugate gradients do not converge.

    References
    ----------
    Cheng et al. 2025, arXiv:2411.12801, equation 9, with the noise and CIB that its fits leave out.
    """
    problem = _Problem.of(store, used, templates, targets, noise, spectrum, lmax, offset)
    if not (np.isfinite(tolerance) and 0 < tolerance < 1):
        raise InputError(f"`tolerance` {tolerance!r} came; a relative residual between 0 and 1 is expected.")
    if max_iterations < 1:
        raise InputError(f"`max_iterations` {max_iterations!r} came; at least 1 is expected.")
    here = run.worker if run.client is None else Worker.here()
    _fit_into_memory(problem, here, run)
    nside, names = used.tiling.nside, problem.names
    pixels, values = gather_used(problem.store, used, names, problem.measured, run)
    row = {name: place for place, name in enumerate(names)}
    count = len(templates) + offset
    result = CorrelatedSolution(
        coefficient=np.empty((len(targets), count)),
        covariance=np.empty((len(targets), count, count)),
        chi2=np.empty(len(targets)),
        dof=pixels.size - count,
        pixels=pixels.size,
        iterations=(),
        reached=(),
        lmax=problem.lmax,
    )
    design = values[: len(templates)]
    iterations, reached = [0] * len(targets), [0.0] * len(targets)
    for group in problem.groups:
        first = group[0]
        each = problem.white[first]
        variance = each.variance(None if each.name is None else values[row[each.name]], pixels.size)
        operator = HarmonicNoise(nside, pixels, problem.spectra[first], variance, here.threads)
        fit = correlated_gls(
            design,
            values[[row[name] for name in group]],
            operator.apply,
            operator.precondition,
            offset=offset,
            tolerance=tolerance,
            max_iterations=max_iterations,
            names=templates,
        )
        for place, name in enumerate(group):
            band = list(targets).index(name)
            result["coefficient"][band] = fit.coefficient[place]
            result["covariance"][band] = fit.covariance
            result["chi2"][band] = fit.chi2[place]
            iterations[band], reached[band] = fit.iterations, fit.reached
    result["iterations"], result["reached"] = tuple(iterations), tuple(reached)
    return result


@dataclass(frozen=True)
class _Problem:
    """What is to be solved, as far as it is known before a pixel is read; made by `_Problem.of`."""

    store: str
    used: UsedPixels
    names: tuple[str, ...]  # maps that are gathered: templates and targets, which must have a value, and noise
    measured: int  # how many of them are templates and targets
    spectra: dict[str, Floats]
    white: dict[str, WhiteNoise]
    groups: list[list[str]]  # targets by equal noise
    columns: int  # of the largest group
    lmax: int

    @classmethod
    def of(
        cls,
        store: stores.StoreAddress,
        used: UsedPixels,
        templates: Sequence[str],
        targets: Sequence[str],
        noise: Mapping[str, Noise] | Noise,
        spectrum: Spectrum,
        lmax: int | None,
        offset: bool,
    ) -> _Problem:
        """Return the problem, all that was said of noise checked; parameters as those of `solve_correlated`."""
        where = stores.address(store)
        for what, given in (("templates", templates), ("targets", targets)):
            twice = [name for name in dict.fromkeys(given) if list(given).count(name) > 1]
            if twice:
                raise InputError(f"{twice[0]!r} came twice in `{what}`; give every map once.")
        spectra, last = noise_spectra(spectrum, targets, used.tiling.nside, lmax)
        own = {name: noise.get(name) if isinstance(noise, Mapping) else noise for name in targets}
        white = {name: white_noise(where, name, each) for name, each in own.items()}
        groups = _groups(targets, spectra, white)
        columns = len(templates) + offset + max(len(group) for group in groups)
        noise_maps = [each.name for each in white.values() if each.name is not None]
        names = tuple(dict.fromkeys((*templates, *targets, *noise_maps)))
        return cls(where, used, names, len({*templates, *targets}), spectra, white, groups, columns, last)

    def memory(self, pixels: int) -> dict[str, int]:
        """Return the bytes that so many pixels take, by part."""
        return needed_memory(self.used.tiling.nside, pixels, len(self.names), self.columns, self.lmax)

    @property
    def most_pixels(self) -> int:
        """Pixels of the tiles that may hold some that are used."""
        # Where noise is missing beside them, the fit must see it and say so.
        observed = stores.observed_tiles(self.store, self.names[: self.measured])
        return len(self.used.tiles(tuple(observed))) * self.used.tiling.tile_npix


def planned_memory(
    store: stores.StoreAddress,
    used: UsedPixels,
    templates: Sequence[str],
    targets: Sequence[str],
    noise: Mapping[str, Noise] | Noise,
    spectrum: Spectrum,
    lmax: int | None,
    offset: bool,
) -> dict[str, int]:
    """Return the bytes, by part, that `solve_correlated` takes at most in the process that solves, for its plan.

    Every pixel of a tile that may be used counts; what a mask leaves is counted only when it runs.

    Parameters
    ----------
    store, used, templates, targets, noise, spectrum, lmax, offset
        As those of `solve_correlated`, and checked as there.

    Raises
    ------
    InputError
        As `solve_correlated` does.
    """
    problem = _Problem.of(store, used, templates, targets, noise, spectrum, lmax, offset)
    return problem.memory(problem.most_pixels)


def _groups(targets: Sequence[str], spectra: Mapping[str, Floats], white: Mapping[str, WhiteNoise]) -> list[list[str]]:
    """Return the targets by equal noise: their templates are solved for once."""
    groups: list[list[str]] = []
    for name in targets:
        for group in groups:
            if white[name] == white[group[0]] and np.array_equal(spectra[name], spectra[group[0]]):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


@dataclass(frozen=True)
class _Gather:
    """Kernel: RING numbers and values of the used pixels of a tile, or only how many there are."""

    used: UsedPixels
    names: tuple[str, ...]
    measured: int  # so many of the names must have a value
    count_only: bool = False

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> tuple[Any, ...]:
        start = self.used.tiling.tile_slice(tile).start
        size = inputs[self.names[0]].shape[-1]
        kept = self.used.holds(start, inputs, size)
        for name in self.names[: self.measured]:
            kept &= np.isfinite(inputs[name])
        places = np.flatnonzero(kept)
        if self.count_only:
            return (places.size,)
        values = np.stack([inputs[name][places].astype(np.float32, copy=False) for name in self.names])
        return ((self.used.tiling.to_ring(start + places), values),)


def _reduced(kernel: _Gather, where: str, run: Run) -> tuple[Any, ...]:
    used = kernel.used
    return reduce_tiles(
        kernel,
        store=where,
        names=tuple(dict.fromkeys((*kernel.names, *used.maps))),
        merge=lambda left, right: left + right,
        initial=(),
        tiles=used.tiles(tuple(stores.observed_tiles(where, kernel.names[: kernel.measured]))),
        client=run.client,
        threads=run.worker.threads,
        progress=run.progress,
        label="count" if kernel.count_only else "gather",
    )


def gather_used(
    store: str, used: UsedPixels, names: tuple[str, ...], measured: int, run: Run
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the RING numbers (cells,) int64 and values (map, cells) float32 of the pixels that are used.

    Parameters
    ----------
    store : str
        Address of the store.
    used : UsedPixels
        Which pixels are used.
    names : tuple of str
        Maps.
    measured : int
        So many of them, the first, must have a value where a pixel is used.
    run : Run
        Workers that read.

    Raises
    ------
    InputError
        If no pixel is left.
    """
    parts = list(_reduced(_Gather(used, names, measured), store, run))
    if not sum(pixels.size for pixels, _ in parts):
        raise InputError(
            f"no pixel of {store} is used and has a value in all of {', '.join(names[:measured])}; use another mask or "
            "region."
        )
    pixels = np.concatenate([pixels for pixels, _ in parts])
    order = np.argsort(pixels)  # the order of rows, so that transforms read memory forward
    values = np.empty((len(names), pixels.size), np.float32)
    for row in range(len(names)):
        values[row] = np.concatenate([part[row] for _, part in parts])[order]
    return pixels[order], values


def needed_memory(nside: int, pixels: int, maps: int, columns: int, lmax: int) -> dict[str, int]:
    """Return the bytes that a fit takes in the process that solves it, by part.

    Parameters
    ----------
    nside : int
        Of the grid.
    pixels : int
        Used.
    maps : int
        Templates, targets and maps of noise.
    columns : int
        Templates, the offset, and the targets that share their noise.
    lmax : int
        Largest multipole.

    Examples
    --------
    >>> round(sum(needed_memory(1024, 3_000_000, 8, 6, 2048).values()) / 1e9, 2)  # GB
    1.53
    """
    harmonic = 16 * (lmax + 1) * (lmax + 2) // 2
    return {
        "pixels": (2 * 4 * maps + 4 * 8) * pixels,
        "columns": 8 * _BLOCK_COPIES * columns * pixels,
        "map": 8 * 12 * nside**2 + 3 * 8 * pixels,
        "a_lm": 2 * harmonic,
        "ring coefficients": 16 * (4 * nside - 1) * (lmax + 1),
    }


def _fit_into_memory(problem: _Problem, here: Worker, run: Run) -> None:
    """Raise MemoryLimitError where the pixels do not fit, counting them only where all there are might not."""
    tiling, names, columns, lmax = problem.used.tiling, problem.names, problem.columns, problem.lmax
    allowed = here.memory - RESERVED_BYTES

    def needed(pixels: int, multipole: int = lmax, nside: int = tiling.nside) -> int:
        return sum(needed_memory(nside, pixels, len(names), columns, multipole).values())

    if needed(problem.most_pixels) <= allowed:
        return
    pixels = sum(_reduced(_Gather(problem.used, names, problem.measured, True), problem.store, run))
    if needed(pixels) <= allowed:
        return
    fits = [f"memory={format_bytes(needed(pixels) + RESERVED_BYTES)}"]
    smaller = next((each for each in (lmax // 2, lmax // 4, lmax // 8) if each and needed(pixels, each) <= allowed), 0)
    if smaller:
        fits.append(f"lmax={smaller}")
    fewer = next((part for part in (2, 4, 8, 16) if needed(pixels // part) <= allowed), 0)
    if fewer:
        fits.append(f"a mask that leaves {pixels // fewer:,} pixels")
    nside = tiling.nside // 2
    while nside >= 1 and needed(pixels * nside**2 // tiling.nside**2, min(lmax, 2 * nside), nside) > allowed:
        nside //= 2
    if nside >= 1:
        fits.append(f"maps resampled to nside {nside} with lmax {min(lmax, 2 * nside)}")
    parts = problem.memory(pixels).items()
    listing = ", ".join(f"{part} {format_bytes(size)}" for part, size in parts)
    raise MemoryLimitError(
        f"a fit with correlated noise holds its {pixels:,} pixels in one process, with {columns} columns and lmax "
        f"{lmax}: {format_bytes(needed(pixels))} ({listing}); "
        f"this process has {format_bytes(here.memory)}. Any of these fits: {'; '.join(fits)}."
    )
