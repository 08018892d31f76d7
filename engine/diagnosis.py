"""What `diagnose` is asked and finds, and the page and the table of numbers while they grow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..chunking import store as stores
from .diagnose_pass import Gathered
from .figures import save
from .figures_caps import Circle
from .gas_model import GasModel
from .given_noise import WhiteNoise
from .report import Page, number, plain
from .slope_statistics import SlopeRequest

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Asked:
    """What `diagnose` was asked.

    Parameters
    ----------
    title, store : str
        Of the page; the address.
    bands : tuple of str
        Targets.
    models : mapping
        By target: models of the regions of the fit, and of the circles.
    thermal : str or None
        Target of temperatures.
    slopes : SlopeRequest or None
        What slopes are measured.
    against : tuple of str
        Maps of the profiles.
    polarized : tuple of str
        P, or Q and U; empty where there is no test.
    intensity : str
        Target of the test.
    noise : WhiteNoise or None
        Of Q and of U.
    circles : mapping
        By name.
    mask : str or None
        The mask map.
    areas, names : list of str
        Regions of the fit; those and the circles.
    jackknife : int or None
        nside of the patches of sky that are left out for errors.
    """

    title: str
    store: str
    bands: tuple[str, ...]
    models: Mapping[str, tuple[tuple[GasModel, ...], tuple[GasModel, ...]]]
    thermal: str | None
    slopes: SlopeRequest | None
    against: tuple[str, ...]
    polarized: tuple[str, ...]
    intensity: str
    noise: WhiteNoise | None
    circles: Mapping[str, Circle]
    mask: str | None
    areas: list[str]
    names: list[str]
    jackknife: int | None

    @property
    def errors(self) -> str:
        """Where errors come from, in words."""
        return "of independent pixels, too small" if self.jackknife is None else "from leaving out patches of sky"


@dataclass(frozen=True, eq=False)
class Found:
    """What the passes of `diagnose` found; datasets have a dimension `region`.

    Parameters
    ----------
    gathered : mapping
        Distributions by (target, region).
    temperature, slopes : Dataset or None
        See the verbs of these names.
    moments : mapping or None
        Block moments that the slopes come from.
    profiles : mapping
        Datasets by target.
    polarization : Dataset or None
        See the verb.
    """

    gathered: Gathered
    temperature: xr.Dataset | None
    slopes: xr.Dataset | None
    moments: Any
    profiles: Mapping[str, xr.Dataset]
    polarization: xr.Dataset | None


@dataclass(frozen=True)
class Diagnosis:
    """What residuals say, and where the report is.

    Parameters
    ----------
    directory : str
        Folder of the report.
    numbers : mapping
        `residuals` by target and region, `temperature`, `slopes`, `profiles`, `polarization`, and `table`: every number
        with its error and what is expected of it.
    """

    directory: str
    numbers: Mapping[str, Any]

    def to_json(self) -> str:
        """Return all numbers as JSON."""
        return json.dumps(plain(dict(self.numbers)), indent=2, allow_nan=False)

    def __str__(self) -> str:
        rows = [
            f"{row['region']:<14} {row['quantity']:<44} {number(row['value'])}"
            + (f" +- {number(row['error'])}" if row["error"] is not None else "")
            + (f" (expected {number(row['expected'])})" if row["expected"] is not None else "")
            for row in self.numbers["table"]
        ]
        return "\n".join([f"diagnosis in {self.directory}", *rows])


class Report:
    """The page and its numbers while they grow."""

    def __init__(self, folder: Path, asked: Asked) -> None:
        tiling = stores.tiling_of(asked.store)
        where = f"nside {tiling.nside}, {stores.frame_of(asked.store)} coordinates"
        self.page = Page(asked.title, f"{', '.join(asked.bands)}; {where}; mask {asked.mask or 'none'}")
        self.folder = folder
        self.figures: list[str] = []
        self.table: list[dict[str, Any]] = []

    def figure(self, figure: Any, name: str, caption: str, width: int) -> None:
        """Write a figure beside the page and show it there; None is left out."""
        if figure is not None:
            save(figure, self.folder / name)
            self.figures.append(name)
            self.page.figure(name, caption, width)

    def add(
        self, region: str, quantity: str, value: Any, error: Any = None, expected: Any = None, unit: str = ""
    ) -> None:
        """Add a row to the table of all numbers."""

        def known(each: Any) -> float | None:
            return None if each is None or not np.isfinite(each) else float(each)

        self.table.append(
            {"region": region, "quantity": quantity, "value": known(value), "error": known(error),
             "expected": known(expected), "unit": unit}
        )  # fmt: skip
