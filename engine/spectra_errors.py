"""Error bars of `spectra` from realisations: which spectra they have, and how they are put into the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import objects
from ..chunking.errors import InputError
from .correlated import factor_spectra, interpolated_spectra, spectra_matrix
from .ledger import map_digest
from .plan import Run
from .scratch import FolderScratch, Scratch
from .spectra_request import Request, weight_label
from .spectra_result import with_scatter
from .spectrum_estimator import Estimator, MapPair
from .worker import format_bytes

if TYPE_CHECKING:
    import xarray as xr

    from .realisations import Realisation

type Floats = NDArray[np.float64]

FEWEST_SIMULATIONS = 2


@dataclass(frozen=True, eq=False)
class Simulated:
    """Errors from realisations, as they were asked for.

    Parameters
    ----------
    request : Request
        The maps.
    fiducial : mapping of (str, str) to ndarray, optional
        (ell,) spectra of the realisations; None for those measured.
    simulations, seed : int
        How many realisations, and which.
    precision : {"single", "double"}
        Of their maps.
    ring_weights : bool
        Whether they are analysed with ring weights, as the maps are.
    """

    request: Request
    fiducial: Mapping[MapPair, Floats] | None
    simulations: int
    seed: int
    precision: str
    ring_weights: bool

    def facts(self) -> dict[str, Any]:
        """Return what determines the errors, JSON-able."""
        given = self.fiducial
        return {
            "simulations": self.simulations,
            "seed": self.seed,
            "fiducial": None
            if given is None
            else {" x ".join(pair): list(map(float, cl)) for pair, cl in given.items()},
        }

    def task(self, estimator: Estimator, fiducial: Mapping[MapPair, Floats]) -> Realisation:
        """Return what makes one realisation."""
        from .quadrature import ring_weights
        from .realisations import Realisation, WeightMap

        nside = self.request.tiling.nside
        places = {weight_label(place): place for place in self.request.weights.values() if place is not None}
        return Realisation.of(
            self.request.pairs,
            fiducial,
            estimator,
            nside=nside,
            weights={str(label): WeightMap(*place, map_digest(*place)) for label, place in places.items()},
            ring_weights=ring_weights(nside) if self.ring_weights else None,
            seed=self.seed,
            precision=self.precision,
            nearest=self.fiducial is None,
        )

    def put_in(
        self, dataset: xr.Dataset, estimator: Estimator, pseudo: Mapping[MapPair, Floats], run: Run, scratch: Scratch
    ) -> xr.Dataset:
        """Return a result with the errors of realisations, which are run here.

        Parameters
        ----------
        dataset : Dataset
            What `spectra_result.assemble` returns.
        estimator : Estimator
            That of the result.
        pseudo : mapping of (str, str) to ndarray
            (ell,) pseudo-spectra of all pairs, from which the realisations take theirs where none are given.
        run : Run
            Where the realisations are made.
        scratch : Scratch
            Where those that are finished are kept.

        Raises
        ------
        MemoryLimitError
            If a realisation does not fit into a worker.
        """
        from .realisations import run_realisations, scatter_of

        fiducial = self.fiducial
        if fiducial is None:
            known = {pair: estimator.spectrum(*pair, pseudo[pair]) for pair in self.request.needed}
            names = tuple(dict.fromkeys(name for pair in self.request.pairs for name in pair))
            fiducial = interpolated_spectra(estimator.ell, known, names, estimator.lmax, bins=estimator.bins)
        task = self.task(estimator, fiducial)
        kept = None
        if isinstance(scratch, FolderScratch) and objects.is_local(scratch.where):
            kept = f"{scratch.where}/simulations"
        found = run_realisations(task, self.simulations, run, folder=kept, label="spectra: realisations")
        return with_scatter(dataset, scatter_of(found, task, estimator))

    def memory(self) -> dict[str, int]:
        """Return the bytes that one realisation needs, by part; they are made in memory."""
        from .realisations import realisation_memory

        request = self.request
        names = {name for pair in request.pairs for name in pair}
        masks = {request.weights[name] for name in names} - {None}
        return realisation_memory(request.tiling.nside, request.lmax, len(names), len(masks), self.precision)

    def note(self) -> str:
        """Return a line for the plan."""
        size = format_bytes(sum(self.memory().values()))
        return f'errors  {self.simulations} realisations in memory, {size} each (errors="knox" needs none)'


def simulated(
    errors: str | None,
    fiducial: Mapping[Any, Any] | None,
    simulations: int,
    seed: int,
    precision: str,
    weights: str,
    request: Request,
) -> Simulated | None:
    """Return how errors come from realisations, or None where they do not; see `spectra` for the parameters.

    Raises
    ------
    InputError
        If the fiducial spectra are not those of maps of the request, or there are too few realisations.
    """
    if errors != "monte-carlo":
        if fiducial is not None:
            raise InputError(
                '`fiducial` came without errors="monte-carlo"; spectra of realisations serve nothing else.'
            )
        return None
    if simulations < FEWEST_SIMULATIONS:
        raise InputError(f"`simulations` {simulations} came; give two at least, a hundred for a good scatter.")
    if seed < 0:
        raise InputError(f"`seed` {seed} came; give 0 or more.")
    given = None if fiducial is None else {_pair(key, request): _curve(key, cl) for key, cl in fiducial.items()}
    if given is not None:
        names = list(dict.fromkeys(name for pair in request.pairs for name in pair))
        factor_spectra(spectra_matrix(given, names, request.lmax), names)  # tells what no maps can have
    # Nothing in a realisation depends on the layout, and iterations change it by less than it scatters.
    return Simulated(request, given, simulations, seed, precision, weights != "pixel")


def _pair(key: Any, request: Request) -> MapPair:
    names = tuple(key.split(" x ")) if isinstance(key, str) else tuple(key)
    if len(names) != 2 or any(name not in request.places for name in names):
        raise InputError(f"`fiducial` has a spectrum of {key!r}; give pairs of the maps {', '.join(request.places)}.")
    return names[0], names[1]


def _curve(key: Any, cl: Any) -> Floats:
    values = np.asarray(cl, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InputError(f"`fiducial` of {key!r} has shape {values.shape}; give finite numbers, one an ell from 0.")
    return values
