"""Heat maps of correlation coefficients, ordered hierarchically."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .figures import INK, LABEL_SIZE, NOTE_SIZE, TICK_SIZE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def hierarchical_order(matrix: NDArray[np.float64]) -> tuple[list[int], NDArray[np.float64]]:
    """Return the order in which similar maps stand together, and the tree behind it.

    Rows of the matrix are clustered by average linkage of their Euclidean distances, as cluster maps of common
    plotting libraries do; leaves are turned so that neighbours are as similar as the tree allows.

    Parameters
    ----------
    matrix : (map, map) float64
        Correlation coefficients.

    Returns
    -------
    order : list of int
    tree : (map - 1, 4) float64
        Linkage as SciPy writes it; empty for one map.

    Examples
    --------
    >>> import numpy as np
    >>> hierarchical_order(np.array([[1.0, 0.0, 0.9], [0.0, 1.0, 0.1], [0.9, 0.1, 1.0]]))[0]
    [1, 2, 0]
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    if matrix.shape[0] < 2:
        return list(range(matrix.shape[0])), np.empty((0, 4))
    tree: NDArray[np.float64] = linkage(matrix, method="average", metric="euclidean", optimal_ordering=True)
    return [int(leaf) for leaf in leaves_list(tree)], tree


def correlation_figure(matrix: NDArray[np.float64], names: Sequence[str], *, kind: str, subtitle: str = "") -> Figure:
    """Return a heat map of one kind of coefficient with its dendrogram.

    Parameters
    ----------
    matrix : (map, map) float64
    names : sequence of str
        One a map.
    kind : str
        Name of the coefficient, for the title.
    subtitle : str
        A line below the title.
    """
    from scipy.cluster.hierarchy import dendrogram

    order, tree = hierarchical_order(matrix)
    count = len(names)
    size = max(3.4, 0.62 * count + 1.6)
    figure = new_figure(size + 1.0, size + 0.9)
    grid = figure.add_gridspec(2, 2, height_ratios=[0.16, 1], width_ratios=[1, 0.045])
    crown: Any = figure.add_subplot(grid[0, 0])
    axes = figure.add_subplot(grid[1, 0])
    bar_axes = figure.add_subplot(grid[1, 1])
    if len(tree):
        # SciPy puts leaf i at 5 + 10 i; the heat map has it at i.
        drawn = dendrogram(tree, no_plot=True)
        for xs, ys in zip(drawn["icoord"], drawn["dcoord"], strict=True):
            crown.plot((np.array(xs) - 5) / 10, ys, color=INK, linewidth=1.0)
        crown.set_xlim(-0.5, count - 0.5)
        crown.set_ylim(0, None)
    crown.set_axis_off()
    crown.set_title(
        f"{kind}\n{subtitle}" if subtitle else kind, fontsize=LABEL_SIZE, loc="left", color=INK, fontweight="bold"
    )
    ordered = matrix[np.ix_(order, order)]
    image = axes.imshow(ordered, cmap="RdBu_r", vmin=-1, vmax=1, aspect="equal", interpolation="nearest")
    labels = [names[place] for place in order]
    axes.set_xticks(range(count), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=TICK_SIZE)
    axes.set_yticks(range(count), labels, fontsize=TICK_SIZE)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(count - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(count - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.0)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    digits = 3 if count <= 8 else 2
    for row in range(count):
        for column in range(count):
            value = ordered[row, column]
            colour = "white" if abs(value) > 0.6 else INK
            axes.text(column, row, f"{value:.{digits}f}", ha="center", va="center", fontsize=NOTE_SIZE, color=colour)
    bar = figure.colorbar(image, cax=bar_axes)
    bar.ax.tick_params(labelsize=TICK_SIZE)
    bar.outline.set_visible(False)
    return figure
