"""From values to colours: limits, stretches, palettes, and the ticks of a colour bar."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, nearest

if TYPE_CHECKING:
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.image import AxesImage

NO_VALUE: Final = "#b9b9b9"
ON_DARK: Final[dict[str, Any]] = {"color": "white", "linewidth": 0.5, "alpha": 0.55, "zorder": 3}
ON_LIGHT: Final[dict[str, Any]] = {"color": "#1a1a1a", "linewidth": 0.5, "alpha": 0.35, "zorder": 3}
# Pale grey for code 0, then Okabe and Ito (2008), told apart by everyone, and four of Tol's "muted" ones.
CODE_COLOURS: Final = (
    *("#E6E6E6", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F"),
    *("#332288", "#882255", "#44AA99", "#1A1A1A"),
)


def codes(values: NDArray[Any]) -> NDArray[Any] | None:
    """Return the few different codes of an integer map, or None for anything else."""
    if values.dtype.kind not in "iub":
        return None
    codes = np.unique(values)
    return codes if len(codes) <= len(CODE_COLOURS) else None


def code_colours(codes: NDArray[Any]) -> tuple[Normalize, Colormap]:
    """Return the stretch and the palette that give every code its own colour."""
    from matplotlib.colors import BoundaryNorm, ListedColormap

    edges = codes.astype(float)
    middles = (edges[1:] + edges[:-1]) / 2
    bounds = np.concatenate([[edges[0] - 0.5], middles, [edges[-1] + 0.5]])
    # Code 0, "nothing here", is the pale one.
    first = 0 if codes[0] == 0 else 1
    colours = [CODE_COLOURS[(first + k) % len(CODE_COLOURS)] for k in range(len(codes))]
    return BoundaryNorm(bounds, len(codes)), ListedColormap(colours)


def colour_map(name: str) -> Colormap:
    """Return a colour map of matplotlib by name, grey where there is no value."""
    import matplotlib

    if name not in matplotlib.colormaps:
        raise InputError(f"`cmap` {name!r} came; {nearest(name, matplotlib.colormaps)}.")
    return matplotlib.colormaps[name].with_extremes(bad=NO_VALUE)


def limits(
    values: NDArray[Any], stretch: str, vmin: float | None, vmax: float | None, centre: float | None
) -> tuple[float, float]:
    """Return the values of the first and last colour."""
    sample = np.asarray(values[np.isfinite(values)], dtype=np.float64)
    if stretch == "log":
        sample = sample[sample > 0]
        for name, value in (("vmin", vmin), ("vmax", vmax)):
            if value is not None and value <= 0:
                raise InputError(
                    f'`{name}` {value} came with a logarithmic stretch; give it above 0, or stretch="asinh".'
                )
        if centre is not None:
            raise InputError(
                f'`centre` {centre} came with a logarithmic stretch, which has two signs only with stretch="asinh".'
            )
    low, high = (0.0, 1.0) if sample.size == 0 else map(float, np.percentile(sample, (0.5, 99.5)))
    if stretch == "log" and sample.size == 0:
        low = 0.1
    if centre is not None and vmin is None and vmax is None:
        reach = max(abs(low - centre), abs(high - centre)) or 1.0
        return centre - reach, centre + reach
    low, high = (low if vmin is None else vmin), (high if vmax is None else vmax)
    if centre is not None:
        reach = abs(low - centre) if vmax is None else abs(high - centre)
        low, high = (centre - reach if vmin is None else low), (centre + reach if vmax is None else high)
    if vmin is not None and vmax is not None and not vmin < vmax:
        raise InputError(f"`vmin` {vmin} and `vmax` {vmax} came; give the smaller first.")
    if not low < high:  # a map of one value
        spread = abs(low) * 0.5 or 0.5
        low, high = (low - spread if vmin is None else low), (low + spread if vmax is None else high)
    if low < high:
        return low, high
    # All values lie beyond the one limit that came.
    if stretch == "log":
        return (low, low * 1e3) if vmax is None else (high / 1e3, high)
    return (low, low + (abs(low) or 1.0)) if vmax is None else (high - (abs(high) or 1.0), high)


def norm(stretch: str, low: float, high: float, values: NDArray[Any]) -> Normalize:
    """Return how values from `low` to `high` become places on the palette."""
    from matplotlib.colors import AsinhNorm, LogNorm, Normalize

    if stretch == "log":
        return LogNorm(low, high)
    if stretch == "asinh":
        sample = np.abs(np.asarray(values[np.isfinite(values)], dtype=np.float64))
        # Half of all pixels lie in the linear part.
        typical = float(np.median(sample)) if sample.size else 0.0
        return AsinhNorm(linear_width=typical or max(abs(low), abs(high)) / 10, vmin=low, vmax=high)
    return Normalize(low, high)


def lines(shown: AxesImage) -> dict[str, Any]:
    """Return the look of lines that can be seen on an image, by the lightness of its middle colours."""
    from matplotlib.colors import BoundaryNorm

    if isinstance(shown.norm, BoundaryNorm):  # most of the sky has code 0, the pale one
        return ON_LIGHT
    red, green, blue, _ = np.mean(shown.cmap(np.linspace(0.25, 0.75, 11)), axis=0)
    return ON_LIGHT if 0.3 * red + 0.6 * green + 0.1 * blue > 0.6 else ON_DARK


def ticks(norm: Normalize) -> list[float]:
    """Return round values spread over a stretched colour bar: 0 first, then 1, 2 and 5 of every decade."""
    assert norm.vmin is not None
    assert norm.vmax is not None
    low, high = float(norm.vmin), float(norm.vmax)
    # The smallest decade worth a tick is the one where the colours begin to change.
    smallest = low if low > 0 else max(abs(low), abs(high)) * 1e-6
    decades = range(math.floor(math.log10(smallest)), math.ceil(math.log10(max(abs(low), abs(high)))) + 1)
    chosen: list[float] = []
    places: list[float] = []
    signs = (1.0, -1.0) if low < 0 else (1.0,)
    for factor in (0.0, 1.0, 3.0, 2.0, 5.0):
        for value in sorted({sign * factor * 10.0**k for k in decades for sign in signs}, key=abs, reverse=True):
            if not low <= value <= high:
                continue
            place = float(norm(value))
            if all(abs(place - other) > 0.075 for other in places):
                chosen.append(value)
                places.append(place)
    return sorted(chosen)


def number(value: float) -> str:
    """Return a tick label: plain from 0.001 to 10000, a power of ten beyond."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:g}".replace("-", "\N{MINUS SIGN}")
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    factor = value / 10.0**exponent
    return rf"$10^{{{exponent}}}$" if round(factor, 6) == 1 else rf"${factor:g}\times10^{{{exponent}}}$"
