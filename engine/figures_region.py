"""Four views of a region: target, prediction, their relative error, and the prediction at a finer resolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .figures import INK, LABEL_SIZE, TICK_SIZE, log_ticks, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_VALUE = "#d5d5d5"


@dataclass(frozen=True)
class View:
    """A gnomonic image of a region.

    Parameters
    ----------
    name : str
        Of the region.
    lon, lat : float
        Its centre, degrees in the frame of the store.
    width : float
        Side of the image, degrees.
    frame : str
        Of the coordinates.
    """

    name: str
    lon: float
    lat: float
    width: float
    frame: str


def region_figure(
    view: View,
    target: NDArray[np.float32],
    prediction: NDArray[np.float32],
    fine: NDArray[np.float32] | None,
    *,
    label: str,
    unit: str,
    limit: float = 0.2,
    titles: Mapping[str, str] | None = None,
) -> Figure:
    """Return target, prediction, relative error and fine prediction of a region side by side.

    Parameters
    ----------
    view : View
        What the images show; row 0 is south, column 0 is east (longitude grows to the left).
    target, prediction : (row, column) float32
        NaN where there is no value.
    fine : (row, column) float32 or None
        Prediction at the finer resolution; without it three panels are drawn.
    label, unit : str
        Of the band.
    limit : float
        Relative error at the ends of the colour scale, at most; the scale ends where 99 % of the pixels do.
    titles : mapping, optional
        More than the plain titles for "target", "prediction", "error" and "fine".
    """
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import MaxNLocator

    titles = {
        "target": f"Target {label}",
        "prediction": f"Prediction {label}",
        "error": "Relative error",
        "fine": f"Prediction {label}, fine",
        **(titles or {}),
    }
    images: dict[str, NDArray[Any]] = {"target": target, "prediction": prediction}
    with np.errstate(divide="ignore", invalid="ignore"):
        error = (prediction.astype(np.float64) - target) / target
    images["error"] = np.where(np.isfinite(error), 100 * error, np.nan)
    if fine is not None:
        images["fine"] = fine
    finite = np.abs(images["error"][np.isfinite(images["error"])])
    reach = min(100 * limit, max(2.0, float(np.quantile(finite, 0.99)))) if finite.size else 100 * limit
    norm = _intensity_norm([image for key, image in images.items() if key != "error"])
    columns = 2 if fine is not None else 3
    rows = -(-len(images) // columns)
    figure = new_figure(4.3 * columns, 3.35 * rows + 0.55)
    figure.set_layout_engine("compressed")  # panels are square: no room is left between them and their bars
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    half = view.width / 2
    for place, (axes, (key, image)) in enumerate(zip(panels.flat, images.items(), strict=True)):
        colours, scale, bar_label = "inferno", norm, unit
        if key == "error":
            colours, scale, bar_label = "RdBu_r", Normalize(-reach, reach), "%"
        # Missing pixels stand out in grey: neither end of any of the colour maps is grey.
        axes.set_facecolor(NO_VALUE)
        shown = axes.imshow(
            np.ma.masked_invalid(image),
            cmap=colours,
            norm=scale,
            origin="lower",
            extent=(half, -half, -half, half),
            interpolation="nearest",
        )
        axes.set_title(titles[key], fontsize=LABEL_SIZE, loc="left", color=INK, fontweight="bold")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.tick_params(direction="in", top=True, right=True, labelsize=TICK_SIZE, color="white")
        bar = figure.colorbar(shown, ax=axes, pad=0.02, extend="both" if key == "error" else "neither")
        if isinstance(scale, LogNorm):
            log_ticks(bar.ax.yaxis, float(scale.vmin or 1), float(scale.vmax or 1))
        bar.ax.tick_params(labelsize=TICK_SIZE)
        bar.set_label(bar_label, fontsize=TICK_SIZE)
        if place >= (rows - 1) * columns:
            axes.set_xlabel("offset in longitude [deg]", fontsize=LABEL_SIZE)
        if place % columns == 0:
            axes.set_ylabel("offset in latitude [deg]", fontsize=LABEL_SIZE)
    names = {"galactic": "l, b", "icrs": "RA, Dec", "ecliptic": "\u03bb, \u03b2"}
    figure.suptitle(
        f"{view.name}    ({names.get(view.frame, 'lon, lat')}) = ({view.lon:.2f}, {view.lat:.2f}) deg",
        fontsize=LABEL_SIZE + 1,
        color=INK,
    )
    return figure


def _intensity_norm(images: list[NDArray[Any]]) -> Any:
    """One scale for all images, logarithmic where all is positive and spans more than a factor of five."""
    from matplotlib.colors import LogNorm, Normalize

    values = np.concatenate([image[np.isfinite(image)].astype(np.float64) for image in images])
    if values.size == 0:
        return Normalize(0, 1)
    low, high = np.quantile(values, [0.005, 0.998])
    if low > 0 and high > 5 * low:
        return LogNorm(low, high, clip=False)
    return Normalize(low, high if high > low else low + 1)
