"""The zero level of a map, checked: what is left of it where a tracer of the gas goes to zero.

Dust emission follows the column of neutral gas, so the intercept of a line fitted to one against the other is the
offset that the subtraction of monopoles has left.  It was such a fit that found a monopole which a public sky model
had never subtracted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..chunking import store as stores
from ..chunking.errors import InputError
from .reducing import reduce_tiles

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class ZeroLevel:
    """The line fitted to a map against a tracer.

    Parameters
    ----------
    intercept, intercept_error : float
        Value of the map where the tracer is zero, and its standard error, in the unit of the map.
    slope, slope_error : float
        In the unit of the map per unit of the tracer.
    pixels : int
        How many were used.
    unit, tracer_unit : str
        Units of the map and of the tracer.
    """

    intercept: float
    intercept_error: float
    slope: float
    slope_error: float
    pixels: int
    unit: str
    tracer_unit: str

    def __str__(self) -> str:
        return (
            f"zero level {self.intercept:.4g} +- {self.intercept_error:.2g} {self.unit}, slope {self.slope:.4g} "
            f"+- {self.slope_error:.2g} {self.unit} per {self.tracer_unit}, {self.pixels} pixels"
        )


@dataclass(frozen=True)
class _Line:
    """Count, means and central second moments of two maps; two of them merge without loss of digits."""

    count: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0

    @classmethod
    def of(cls, x: NDArray[np.float64], y: NDArray[np.float64]) -> _Line:
        if not x.size:
            return cls()
        mean_x, mean_y = float(x.mean()), float(y.mean())
        dx, dy = x - mean_x, y - mean_y
        return cls(x.size, mean_x, mean_y, float(dx @ dx), float(dx @ dy), float(dy @ dy))

    def merge(self, other: _Line) -> _Line:
        if not other.count:
            return self
        if not self.count:
            return other
        count = self.count + other.count
        dx, dy = other.x - self.x, other.y - self.y
        part, weight = other.count / count, self.count * other.count / count
        return _Line(
            count,
            self.x + dx * part,
            self.y + dy * part,
            self.xx + other.xx + dx * dx * weight,
            self.xy + other.xy + dx * dy * weight,
            self.yy + other.yy + dy * dy * weight,
        )


@dataclass(frozen=True)
class _LineKernel:
    name: str
    tracer: str
    tracer_below: float

    def __call__(self, tile: int, inputs: dict[str, NDArray[Any]]) -> _Line:
        y, x = inputs[self.name].astype(np.float64), inputs[self.tracer].astype(np.float64)
        good = np.isfinite(x) & np.isfinite(y) & (x < self.tracer_below)
        return _Line.of(x[good], y[good])


def zero_level(
    store: stores.StoreAddress,
    name: str,
    tracer: str,
    *,
    tracer_below: float = math.inf,
    client: Client | None = None,
    threads: int | None = None,
    progress: bool | None = None,
) -> ZeroLevel:
    """Return the straight line fitted to a map against a tracer: its intercept is the zero level of the map.

    Reads both maps once, tile by tile, and writes nothing.

    Parameters
    ----------
    store : str or path
        Sky store with both maps.
    name : str
        The map to check, for example "i850um".
    tracer : str
        What it should follow, for example a column density of atomic hydrogen.
    tracer_below : float
        Use only pixels where the tracer is below; for atomic hydrogen 4e20 cm^-2 keeps out molecular gas, where
        the relation bends.
    client, threads, progress : optional
        See `reduce_tiles`.

    Returns
    -------
    ZeroLevel
        Ordinary least squares in float64, the same to the last bit for any number of workers.

    Raises
    ------
    MissingMapError
        If a map is missing.
    InputError
        If fewer than three pixels, or only one value of the tracer, are left.

    Examples
    --------
    >>> import tempfile, skymill as sm
    >>> from skymill.engine.zero_level import zero_level
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = sm.simulate("dust", folder + "/sky.zarr", 16, seed=1).run()
    ...     level = zero_level(folder + "/sky.zarr", "i1380um", "truth_1380um", progress=False)
    >>> round(level.slope, 1)
    1.0
    """
    unit, tracer_unit = (stores.info(store, entry).unit for entry in (name, tracer))
    if name == tracer:
        raise InputError(f"map and tracer are both {name!r}; give two maps.")
    line = reduce_tiles(
        _LineKernel(name, tracer, float(tracer_below)),
        store=store,
        names=[name, tracer],
        merge=_Line.merge,
        initial=_Line(),
        client=client,
        threads=threads,
        progress=progress,
        label="zero level",
    )
    if line.count < 3 or line.xx == 0.0:
        raise InputError(
            f"{line.count} pixels have a value of {name!r} and of {tracer!r} below {tracer_below:g}; a line needs "
            "three, with different values of the tracer. Raise `tracer_below`, or take another tracer."
        )
    slope = line.xy / line.xx
    variance = max(0.0, line.yy - slope * line.xy) / (line.count - 2)
    return ZeroLevel(
        intercept=line.y - slope * line.x,
        intercept_error=math.sqrt(variance * (1.0 / line.count + line.x**2 / line.xx)),
        slope=slope,
        slope_error=math.sqrt(variance / line.xx),
        pixels=line.count,
        unit=unit,
        tracer_unit=tracer_unit,
    )
