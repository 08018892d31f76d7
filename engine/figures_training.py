"""Figures of a training: the learning curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .figures import COLOURS, GUIDE, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_figure(history: Mapping[str, Any], *, title: str = "") -> Figure:
    """Return the losses of training and validation by epoch, the kept epoch marked.

    Parameters
    ----------
    history : mapping
        As `models.training.Trained.to_dict` gives it.
    title : str
        Above the axes.
    """
    figure = new_figure(6.0, 3.6)
    axes = figure.add_subplot()
    epochs = [entry["number"] for entry in history["epochs"]]
    for key, label, colour in (("loss", "training", COLOURS[0]), ("validation_loss", "validation", COLOURS[1])):
        axes.plot(epochs, [entry[key] for entry in history["epochs"]], color=colour, label=label, linewidth=1.4)
    axes.axvline(history["best_epoch"], color=GUIDE, linestyle="--", linewidth=0.9)
    axes.set_yscale("log")
    style(axes, "epoch", "Huber loss", title)
    axes.legend(frameon=False, fontsize=9)
    return figure
