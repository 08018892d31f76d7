"""The transforms behind `spectra`: how maps and weights are analysed, and what memory and scratch space that takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError
from .fields import Field, Place, moment_key, with_moments_removed
from .rings import Layout, largest_task
from .spectra_request import Request, weight_label
from .spectrum_estimator import WeightPair
from .stages import Stages, band_order
from .transform import BlockTask, MomentsTask, sum_spectra
from .transform_cost import Cost

type Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Analysis:
    """How the maps of a request are analysed.

    Parameters
    ----------
    request : Request
        Which maps.
    layout, mask_layout : Layout
        How the transforms of maps and of weights are cut.
    weights : {"pixel", "ring", "iterate"}
        Quadrature.
    iterations : int
        Rounds of "iterate".
    remove : {None, "monopole", "dipole"}
        What is taken off the maps.
    """

    request: Request
    layout: Layout
    mask_layout: Layout
    weights: str
    iterations: int
    remove: str | None

    @property
    def rounds(self) -> int:
        """Iterations that will be done."""
        return self.iterations if self.weights == "iterate" else 0

    @property
    def fields(self) -> tuple[Field, ...]:
        """The maps, by the number of their name."""
        request = self.request
        return tuple(
            Field(f"map{number}", request.places[name], request.weights[name])
            for number, name in enumerate(request.places)
        )

    @property
    def mask_places(self) -> list[Place]:
        """The weights whose pseudo-spectra are needed."""
        return sorted({place for pair in self.request.weight_pairs for place in pair})

    def memory(self) -> dict[str, int]:
        """Return the bytes of the most demanding task, by part."""
        weights = len({place for place in self.request.weights.values() if place is not None})
        fields, masks = len(self.request.places), len(self.mask_places)
        iterated = self.rounds > 0
        tasks = [self.layout.band_memory(weights, iterated=iterated), self.layout.block_memory(fields)]
        if masks:
            tasks += [self.mask_layout.band_memory(masks, iterated=iterated), self.mask_layout.block_memory(masks)]
        return largest_task(*tasks)

    def lower(self) -> Analysis | None:
        """Return the same with lower bands, which takes less memory, or None."""
        layout, mask_layout = self.layout.lower(), self.mask_layout.lower()
        if layout is None or mask_layout is None:
            return None
        return replace(self, layout=layout, mask_layout=mask_layout)

    def fitting(self, allowed: int) -> Analysis:
        """Return the same with the highest bands that fit into some bytes a task, or with the lowest there are."""
        found = self
        while sum(found.memory().values()) > allowed:
            smaller = found.lower()
            if smaller is None:
                break
            found = smaller
        return found

    def scratch_bytes(self) -> int:
        """Return the bytes of scratch space that are taken at once, at most."""
        fields, masks = len(self.request.places), len(self.mask_places)
        layout, mask_layout = self.layout, self.mask_layout
        return max(layout.scratch_bytes(fields, self.rounds), mask_layout.scratch_bytes(masks, self.rounds))

    def cost(self) -> Cost:
        """Return what all stages cost."""
        fields, masks = len(self.request.places), len(self.mask_places)
        weights = len({place for place in self.request.weights.values() if place is not None})
        cost = Cost()
        if self.remove is not None:
            cost.gather(self.layout, fields + weights)
        for layout, maps, reads in ((self.layout, fields, fields + weights), (self.mask_layout, masks, masks)):
            if not maps:
                continue
            cost.gather(layout, reads).rows(layout, maps, write=True).legendre(layout, maps, read=True)
            for _ in range(self.rounds):
                cost.legendre(layout, maps, read=True, write=True).gather(layout, reads)
                cost.rows(layout, maps, read=True).rows(layout, maps, write=True)
        cost.products(self.layout, len(self.request.needed))
        return cost.products(self.mask_layout, len(self.request.weight_pairs))

    def read_bytes(self) -> int:
        """Return the bytes of maps that are read."""
        weights = sum(place is not None for place in self.request.weights.values())
        passes = (len(self.request.places) + weights) * (1 + self.rounds + (self.remove is not None))
        return self.layout.read_bytes(passes) + self.mask_layout.read_bytes(len(self.mask_places))

    def pseudo_spectra(self, stages: Stages) -> tuple[dict[tuple[str, str], Floats], dict[WeightPair, Any]]:
        """Return pseudo-spectra by pair of maps, and the moments of the weights by pair of their labels."""
        request, layout = self.request, self.layout
        fields = self.fields
        if self.remove is not None:
            step = MomentsTask(layout, stages.scratch, "moments", fields)
            found = stages.go(step, band_order(layout), "monopoles")
            sums = {
                field.label: np.sum([table for facts in found for table in facts["sums"][field.label]], axis=0)
                for field in fields
            }
            fields = with_moments_removed(fields, layout, self.remove, sums)
        rings, start, noted = stages.analyse(
            layout, fields, ring_weights=self.weights != "pixel", iterations=self.rounds, check=self.check_bands
        )
        places = {name: number for number, name in enumerate(request.places)}
        pairs = tuple((places[a], places[b]) for a, b in request.needed)
        labels = tuple(field.label for field in fields)
        step_ = BlockTask(layout, stages.scratch, "spectra", labels, rings, start, pairs=pairs)
        stages.go(step_, range(layout.n_blocks), "orders")
        totals = sum_spectra(stages.scratch, "spectra", layout, len(pairs))
        stages.drop(rings, *([start] if start else []))
        return dict(zip(request.needed, totals, strict=True)), self._moments(noted)

    def check_bands(self, noted: Sequence[Mapping[str, Any]]) -> None:
        """Raise InputError where pixels that are used have no value."""
        for number, (name, place) in enumerate(self.request.places.items()):
            missing = sum(facts["missing"].get(f"map{number}", 0) for facts in noted)
            if missing:
                weight = self.request.weights[name]
                where = "" if weight is None else f" where the mask {weight[1]!r} is not 0"
                raise InputError(
                    f"map {place[1]!r} of {place[0]} has no value in {missing} pixels or more{where}. Give a mask that "
                    "is 0 there: a pixel without a value is not a pixel of value 0."
                )

    def _moments(self, noted: Sequence[Mapping[str, Any]]) -> dict[WeightPair, Any]:
        npix = self.layout.tiling.npix
        known: dict[WeightPair, Any] = {}
        for a, b in self.request.needed:
            one, other = self.request.weights[a], self.request.weights[b]
            key = moment_key(one, other)
            pieces = [sums for facts in noted for sums in facts["moments"][key]]
            both = [math.fsum(sums[which] for sums in pieces) / npix for which in (0, 1)]
            known[weight_label(one), weight_label(other)] = (both[0], both[1])
            if not both[0] > 0:
                masks = " and ".join(dict.fromkeys(repr(place[1]) for place in (one, other) if place is not None))
                raise InputError(
                    f"the mask {masks} leaves no pixel for the maps {a!r} and {b!r}: its weights are 0 everywhere, or "
                    "nowhere both above 0. Give another mask."
                )
        return known

    def mask_spectra(self, stages: Stages) -> dict[tuple[str, str], Floats]:
        """Return the pseudo-spectra of the pairs of weights that the decoupling needs, by their labels."""
        wanted = self.request.weight_pairs
        if not wanted:
            return {}
        layout, places = self.mask_layout, self.mask_places
        fields = [Field(f"mask{number}", None, place) for number, place in enumerate(places)]
        rings, start, _ = stages.analyse(
            layout, fields, ring_weights=self.weights != "pixel", iterations=self.rounds, name="mask-"
        )
        pairs = tuple((places.index(one), places.index(other)) for one, other in wanted)
        labels = tuple(field.label for field in fields)
        step = BlockTask(layout, stages.scratch, "mask-spectra", labels, rings, start, pairs=pairs)
        stages.go(step, range(layout.n_blocks), "orders of masks")
        totals = sum_spectra(stages.scratch, "mask-spectra", layout, len(pairs))
        stages.drop(rings, *([start] if start else []))
        return {
            (str(weight_label(one)), str(weight_label(other))): total
            for (one, other), total in zip(wanted, totals, strict=True)
        }
