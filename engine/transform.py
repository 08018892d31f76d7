"""Transforms over the sphere, band by band and block by block: the steps, each a task of its own.

    maps --BandTask--> ring coefficients --BlockTask--> a_lm, spectra; ring coefficients --PixelTask--> tiles

A `BandTask` gathers the pixels of a band and transforms along its rows; a `BlockTask` reads some orders m of all bands
(this is the transpose), goes from ring coefficients to a_lm and, where wanted, back; a `PixelTask` transforms back
along the rows and cuts the band into tiles.  Every step leaves its results in scratch space whole or not at all and
notes that it is done, so that a run can stop anywhere and go on.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ducc0
import numpy as np
from numpy.typing import NDArray

from ..chunking.errors import InputError
from .fields import Field, moments, read_band, removal_sums
from .gather import scatter
from .records import TileRecord
from .rings import Layout
from .scratch import Scratch, done_key
from .worker import keep_freed_memory, peak_memory

GIVEN = "given"  # arrays that all tasks of a run share
REFUSED = "refused"


@dataclass
class Stopwatch:
    """Wall time by phase."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, phase: str) -> None:
        """Add the time since the last lap to a phase."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now


@dataclass(frozen=True)
class Step:
    """What the steps share: the layout, the scratch space, and a stage of a name of its own.

    Parameters
    ----------
    layout : Layout
        Bands and blocks.
    scratch : Scratch
        Where steps read and write.
    stage : str
        Name of the stage.
    """

    layout: Layout
    scratch: Scratch
    stage: str

    def __call__(self, number: int) -> TileRecord:
        """Return the record of a step, done now or found done."""
        keep_freed_memory()
        watch = Stopwatch()
        facts = self.scratch.noted(done_key(self.stage, number))
        if facts is not None:
            watch.lap("verify")
            return self._record(number, "verified", watch, facts)
        try:
            facts = self.work(number, watch)
        except InputError as error:
            # What came is wrong, and trying again would not help: whoever runs the steps raises it.
            return self._record(number, "computed", watch, {REFUSED: str(error)})
        self.scratch.note(done_key(self.stage, number), facts)
        watch.lap("write")
        return self._record(number, "computed", watch, facts)

    def work(self, number: int, watch: Stopwatch) -> dict[str, Any]:
        """Do the step and return the facts to be noted."""
        raise AssertionError("every kind of step says what it does")

    def _record(self, number: int, status: str, watch: Stopwatch, facts: Mapping[str, Any]) -> TileRecord:
        process = f"{socket.gethostname()}:{os.getpid()}"
        return TileRecord(number, status, 0, watch.seconds, peak_memory(), process, facts)

    def read_columns(self, stage: str, label: str, block: int) -> NDArray[Any]:
        """Return the ring coefficients of a block of orders in all rows, (row, order)."""
        layout = self.layout
        first, stop = layout.orders(block)
        columns = np.zeros((layout.n_rows, stop - first), dtype=layout.complex)
        for band in range(layout.n_bands):
            if block < layout.stored_blocks(band):
                begin, end = layout.rows(band)
                part = self.scratch.read(f"{stage}/{label}/{band}", block, layout.stored_blocks(band), layout.complex)
                columns[begin:end] = part.reshape(end - begin, stop - first)
        return columns

    def read_rows(self, stage: str, label: str, band: int) -> NDArray[Any]:
        """Return the ring coefficients of a band for all orders, (row, order)."""
        layout = self.layout
        begin, end = layout.rows(band)
        rows = np.zeros((end - begin, layout.lmax + 1), dtype=layout.complex)
        for block in range(layout.stored_blocks(band)):
            first, stop = layout.orders(block)
            part = self.scratch.read(f"{stage}/{label}/{block}", band, layout.n_bands, layout.complex)
            rows[:, first:stop] = part.reshape(end - begin, stop - first)
        return rows

    def along_rows(self, band: int) -> dict[str, Any]:
        """Return how the rows of a band lie in its pixels, as ducc0 wants to know it."""
        rings = self.layout.rings
        rows = slice(*self.layout.rows(band))
        return {
            "nphi": rings.nphi[rows],
            "phi0": rings.phi0[rows],
            "ringstart": rings.start[rows] - rings.start[rows.start],
            "nthreads": 1,
        }


@dataclass(frozen=True)
class MomentsTask(Step):
    """The sums over a band that fit monopole and dipole of some fields."""

    fields: tuple[Field, ...] = ()

    def work(self, number: int, watch: Stopwatch) -> dict[str, Any]:
        """Return, by label, the tables of `fields.removal_sums`."""
        weights, values_of = read_band(self.fields, self.layout, number)
        found = {}
        for each in self.fields:
            values, _ = values_of(each)
            watch.lap("gather")
            weight = None if each.weight is None else weights[each.weight]
            found[each.label] = [table.tolist() for table in removal_sums(values, weight, self.layout, number)]
            watch.lap("fit")
        return {"sums": found}


@dataclass(frozen=True)
class BandTask(Step):
    """From the pixels of a band to its ring coefficients.

    Parameters
    ----------
    fields : tuple of Field
        What is read.
    ring_weights : bool
        Weigh the rows by `quadrature.ring_weights`; otherwise every pixel counts alike.
    subtract : str
        Stage of ring coefficients of the same fields to be taken off first, as an iteration does it.
    """

    fields: tuple[Field, ...] = ()
    ring_weights: bool = True
    subtract: str = ""

    def work(self, number: int, watch: Stopwatch) -> dict[str, Any]:
        """Return the pixels without a value, by label, and the moments of the weights."""
        layout = self.layout
        rows = slice(*layout.rows(number))
        factor = np.full(rows.stop - rows.start, layout.tiling.pixel_area)
        if self.ring_weights:
            from .quadrature import ring_weights

            factor *= ring_weights(layout.tiling.nside)[rows]
        weights, values_of = read_band(self.fields, layout, number)
        missing = {}
        for each in self.fields:
            values, missing[each.label] = values_of(each)
            watch.lap("gather")
            if self.subtract:
                known = self.read_rows(self.subtract, each.label, number)
                watch.lap("read")
                model = ducc0.sht.leg2map(leg=known[None], **self.along_rows(number))[0]
                del known
                # Not into `values`: they may be weights that other fields need.
                values = np.subtract(values, model, out=model)
                del model
            rings = ducc0.sht.map2leg(map=values[None], mmax=layout.lmax, ringfactor=factor, **self.along_rows(number))[
                0
            ]
            del values
            watch.lap("map2leg")
            parts = (rings[:, slice(*layout.orders(block))] for block in range(layout.stored_blocks(number)))
            self.scratch.write(f"{self.stage}/{each.label}/{number}", parts)
            del rings
            watch.lap("write")
        return {"missing": missing, "moments": moments(weights, layout, number)}


@dataclass(frozen=True)
class BlockTask(Step):
    """From ring coefficients to the a_lm of a block of orders, to what is made of them, and back.

    Parameters
    ----------
    labels : tuple of str
        Fields.
    rings : str
        Stage whose ring coefficients are read; empty where the a_lm are only read or drawn.
    start : str
        Stage of a_lm that they are added to.
    draw : Draw, optional
        What draws the a_lm instead.
    keep : bool
        Write the a_lm, as `<stage>/<label>-alm/<block>`.
    pairs : tuple of (int, int)
        Fields, by place, whose products are summed over the orders, as `<stage>/spectra/<block>`.
    transfer : str
        Name of a given array (field, ell) that multiplies the a_lm before they go back to rings.
    back : bool
        Write ring coefficients, as `<stage>/<label>/<block>`.
    onto : Layout, optional
        Of another nside with the same lmax and precision, whose rows they are for; default those that are read.
    """

    labels: tuple[str, ...] = ()
    rings: str = ""
    start: str = ""
    draw: Any = None
    keep: bool = False
    pairs: tuple[tuple[int, int], ...] = ()
    transfer: str = ""
    back: bool = False
    onto: Layout | None = None

    def work(self, number: int, watch: Stopwatch) -> dict[str, Any]:
        """Return nothing to be noted."""
        layout = self.layout
        first, stop = layout.orders(number)
        drawn = None if self.draw is None else self.draw.block(self.scratch, layout, number)
        found: list[NDArray[Any]] = []
        transfer = self._transfer()
        for place, label in enumerate(self.labels):
            shape = (stop - first, layout.lmax + 1)
            harmonic = (
                np.zeros(shape, dtype=layout.harmonic)
                if drawn is None
                else drawn[place].astype(layout.harmonic, copy=False)
            )
            if drawn is not None:
                watch.lap("draw")
            if self.rings:
                columns = self.read_columns(self.rings, label, number).astype(layout.harmonic, copy=False)
                watch.lap("read")
                ducc0.sht.leg2alm(
                    leg=columns[None],
                    alm=harmonic.reshape(1, -1),
                    theta=layout.rings.theta,
                    theta_interpol=layout.interpolated,
                    **self._orders(number),
                )
                del columns
                watch.lap("leg2alm")
            if self.start:
                harmonic += self._read_harmonic(self.start, label, number)
                watch.lap("read")
            if self.keep:
                self.scratch.write(f"{self.stage}/{label}-alm/{number}", [harmonic[:, first:]])
                watch.lap("write")
            if self.back:
                self._back(label, number, harmonic if transfer is None else harmonic * transfer[place], watch)
            if self.pairs:
                found.append(harmonic)
        if self.pairs:
            spectra = _spectra(found, self.pairs, first)
            watch.lap("spectra")
            self.scratch.write(f"{self.stage}/spectra/{number}", [spectra])
            watch.lap("write")
        return {}

    def _transfer(self) -> NDArray[Any] | None:
        if not self.transfer:
            return None
        flat = self.scratch.read(f"{GIVEN}/{self.transfer}/0", 0, 1, np.dtype(np.float64))
        return flat.reshape(-1, self.layout.lmax + 1).astype(self.layout.harmonic.type(0).real.dtype)

    def _orders(self, number: int) -> dict[str, Any]:
        first, stop = self.layout.orders(number)
        begins = np.arange(stop - first, dtype=np.uint64) * np.uint64(self.layout.lmax + 1)
        orders = np.arange(first, stop, dtype=np.uint64)
        return {"lmax": self.layout.lmax, "spin": 0, "mval": orders, "mstart": begins, "nthreads": 1}

    def _read_harmonic(self, stage: str, label: str, number: int) -> NDArray[Any]:
        first, stop = self.layout.orders(number)
        harmonic = np.zeros((stop - first, self.layout.lmax + 1), dtype=self.layout.harmonic)
        part = self.scratch.read(f"{stage}/{label}-alm/{number}", 0, 1, self.layout.harmonic)
        harmonic[:, first:] = part.reshape(stop - first, -1)
        return harmonic

    def _back(self, label: str, number: int, harmonic: NDArray[Any], watch: Stopwatch) -> None:
        layout = self.onto or self.layout
        columns = ducc0.sht.alm2leg(
            alm=harmonic.reshape(1, -1),
            theta=layout.rings.theta,
            theta_interpol=layout.interpolated,
            **self._orders(number),
        )[0].astype(layout.complex, copy=False)
        watch.lap("alm2leg")
        nothing = np.empty(0, dtype=layout.complex)
        parts = (
            columns[slice(*layout.rows(band))] if number < layout.stored_blocks(band) else nothing
            for band in range(layout.n_bands)
        )
        self.scratch.write(f"{self.stage}/{label}/{number}", parts)
        watch.lap("write")


def _spectra(harmonics: list[NDArray[Any]], pairs: tuple[tuple[int, int], ...], first: int) -> NDArray[np.float64]:
    """Return sums over some orders of a_lm b_lm*, (pair, ell) float64, the orders -m included.

    In the order of m, so that the sums do not depend on how many rows are at hand.
    """
    size = harmonics[0].shape[1]
    totals = np.zeros((len(pairs), size))
    for row in range(harmonics[0].shape[0]):
        order = first + row
        # Real and imaginary parts side by side, in double precision, one row at a time.
        wide = [
            harmonic[row, order:].view(harmonic.real.dtype).astype(np.float64).reshape(-1, 2) for harmonic in harmonics
        ]
        for place, (one, other) in enumerate(pairs):
            both = np.einsum("lc,lc->l", wide[one], wide[other])
            totals[place, order:] += both if order == 0 else 2.0 * both
    return totals


def sum_spectra(scratch: Scratch, stage: str, layout: Layout, pairs: int) -> NDArray[np.float64]:
    """Return the power spectra (pair, ell) float64 from the sums of all blocks, added in their order."""
    totals = np.zeros((pairs, layout.lmax + 1))
    for block in range(layout.n_blocks):
        part = scratch.read(f"{stage}/spectra/{block}", 0, 1, np.dtype(np.float64))
        totals += part.reshape(totals.shape)
    return totals / (2.0 * np.arange(layout.lmax + 1) + 1.0)


@dataclass(frozen=True)
class PixelTask(Step):
    """From ring coefficients to the pixels of a band, cut into pieces of tiles: `<stage>/<label>/<band>`.

    Parameters
    ----------
    labels : tuple of str
        Fields.
    rings : str
        Stage whose ring coefficients are read.
    """

    labels: tuple[str, ...] = ()
    rings: str = ""

    def work(self, number: int, watch: Stopwatch) -> dict[str, Any]:
        """Return nothing to be noted."""
        for label in self.labels:
            rows = self.read_rows(self.rings, label, number)
            watch.lap("read")
            values = ducc0.sht.leg2map(leg=rows[None], **self.along_rows(number))[0]
            del rows
            watch.lap("leg2map")
            pieces: Iterator[NDArray[Any]] = (piece for _, piece in scatter(values, self.layout, number))
            self.scratch.write(f"{self.stage}/{label}/{number}", pieces)
            watch.lap("scatter")
        return {}
