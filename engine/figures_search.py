"""Figures of a search over clusterings: chi^2 against the number of clusters, and over the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .figures import COLOURS, GUIDE, INK, LABEL_SIZE, NOTE_SIZE, TICK_SIZE, new_figure, note, style

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


def elbow_figure(found: xr.Dataset) -> Figure:
    """Return the least chi^2 of each number of clusters, all trials behind it, and the elbow.

    Parameters
    ----------
    found : xarray.Dataset
        What `kmeans_search` returns.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5.6, 3.8)
    axes = figure.subplots()
    numbers, best = found["k"].values, found["best_chi2"].values
    per_dof = best / found["dof"].values
    axes.scatter(
        found["trial_k"].values,
        found["trial_chi2"].values / found["trial_dof"].values,
        s=10,
        color=GUIDE,
        alpha=0.45,
        linewidths=0,
        label="trials",
        zorder=2,
    )
    axes.plot(numbers, per_dof, "o-", color=COLOURS[0], markersize=5, label="best weights", zorder=3)
    chosen = int(found.attrs["k"])
    place = int(np.flatnonzero(numbers == chosen)[0])
    axes.plot(
        [chosen], [per_dof[place]], "o", markersize=13, fillstyle="none", color=COLOURS[1], label=f"elbow, k = {chosen}"
    )
    low, high = per_dof.min(), np.nanmax(np.append(found["trial_chi2"] / found["trial_dof"], per_dof))
    if high > 5 * low > 0:
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style(axes, x="Number of clusters k", y=rf"$\chi^2$ / dof of {found.attrs['target']}")
    axes.legend(fontsize=NOTE_SIZE, frameon=False)
    return figure


def weights_figure(found: xr.Dataset) -> Figure:
    """Return chi^2 over the weights of velocity and density, one panel for each number of clusters.

    Parameters
    ----------
    found : xarray.Dataset
        What `kmeans_search` returns.
    """
    numbers = found["k"].values
    columns = int(np.ceil(np.sqrt(len(numbers))))
    rows = -(-len(numbers) // columns)
    figure = new_figure(2.6 * columns + 0.9, 2.7 * rows + 0.3)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).reshape(-1)
    ratio = found["trial_chi2"].values / found["trial_dof"].values
    for axes, k in zip(panels, numbers, strict=False):
        own = np.flatnonzero(found["trial_k"].values == k)
        best = ratio[own].min()
        # What a trial is worse than the best of its own k by: small differences near the best are what matters.
        excess = np.log10(np.maximum(ratio[own] / best - 1, 1e-5))
        mesh = axes.scatter(
            found["trial_v"].values[own],
            found["trial_n"].values[own],
            c=excess,
            cmap="viridis_r",
            vmin=-4,
            vmax=0,
            s=62,
            marker="s",
            edgecolors="none",
        )
        winner = own[int(np.argmin(ratio[own]))]
        axes.plot(
            found["trial_v"].values[winner],
            found["trial_n"].values[winner],
            "o",
            markersize=13,
            fillstyle="none",
            color=COLOURS[1],
            markeredgewidth=1.6,
        )
        positive_v = found["trial_v"].values[own] > 0
        positive_n = found["trial_n"].values[own] > 0
        if positive_v.all():
            axes.set_xscale("log")
        if positive_n.all():
            axes.set_yscale("log")
        axes.margins(0.22)
        style(axes, title=f"k = {k}")
        note(axes, rf"$\chi^2$/dof {best:.4g}", "lower right")
    for axes in panels[len(numbers) :]:
        axes.set_visible(False)
    bar = figure.colorbar(mesh, ax=panels.tolist(), pad=0.015, aspect=30)
    bar.set_label(r"log$_{10}$ ($\chi^2$ / least $\chi^2$ of this k $-$ 1)", fontsize=NOTE_SIZE, color=INK)
    bar.ax.tick_params(labelsize=TICK_SIZE - 1)
    figure.supxlabel(r"weight of velocity $w_v$", fontsize=LABEL_SIZE, color=INK)
    figure.supylabel(r"weight of density $w_n$", fontsize=LABEL_SIZE, color=INK)
    return figure
