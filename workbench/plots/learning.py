"""Learning curves of networks over training steps, during and after training.

A history is the list of a network's measurements during training: `history` in the outcome of `training.fit`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import BLUE, GREEN, GREY, ORANGE, PURPLE, subplots

__all__ = ["learning_curves", "training_curves"]

History = Sequence[Mapping[str, Any]]
LEAST = 4  # minimum number of columns in the layout


def learning_curves(
    histories: Mapping[str, History], totals: Mapping[str, int], paper: Mapping[str, float], title: str
) -> Figure:
    """Draw the validation accuracy (%) and the losses of networks over training steps. Each network has a column.

    `histories` maps the name of a network to its history. `totals` maps the name to the planned number of steps. `paper` maps
    some names to the paper's accuracy (%), which is drawn as a horizontal line. A ring marks the lowest validation loss.
    """
    columns = max(1, len(histories))
    figure, axes = subplots(2, columns, figsize=(0.6 + 2.7 * max(LEAST, columns), 4.0), squeeze=False)
    for column, (name, history) in enumerate(histories.items()):
        accuracy, loss = axes[0, column], axes[1, column]
        _accuracy(accuracy, history, paper.get(name))
        _losses(loss, history)
        last = max(totals.get(name, 0), *(entry["step"] for entry in history), 1) if history else totals.get(name, 1)
        for axis in (accuracy, loss):
            axis.set_xlim(0, 1.05 * last)
            if not history:
                axis.set(xticks=[], yticks=[])
                axis.text(0.5, 0.5, "not yet", transform=axis.transAxes, ha="center", va="center", color=GREY, fontsize=9)
        accuracy.set_title(name)
        loss.set(xlabel="step", ylabel="loss" if column == 0 else "")
    axes[0, 0].set_ylabel("validation accuracy (%)")
    figure.suptitle(title, fontsize=10)
    return figure


def training_curves(histories: Mapping[str, History]) -> Figure:
    """Draw the validation accuracy of networks, and a second measurement, over training steps. Each network has a column.

    The second measurement is bits for a compressor, SSIM for a generator, and the loss for any other network. `histories` maps
    the name of a network to its history.
    """
    figure, axes = subplots(2, len(histories), figsize=(1 + 2.6 * len(histories), 4.2), squeeze=False)
    for column, (name, history) in enumerate(histories.items()):
        top, bottom = axes[0, column], axes[1, column]
        _accuracy(top, history, None)
        top.set_title(name)
        key, label, colour = next(
            each
            for each in (("bits", "bits an image", PURPLE), ("ssim", "SSIM", GREEN), ("loss", "loss", GREY))
            if not history or each[0] in history[0]["validation"]
        )
        steps = [entry["step"] for entry in history]
        bottom.plot(steps, [entry["validation"].get(key, float("nan")) for entry in history], color=colour, marker=".")
        bottom.set(xlabel="step", ylabel=label)
        if key == "bits":
            bottom.set_yscale("log")
    axes[0, 0].set_ylabel("validation accuracy (%)")
    return figure


def _accuracy(axis: Axes, history: History, paper: float | None) -> None:
    steps = [entry["step"] for entry in history]
    for key, label, colour in (("accuracy", "target", BLUE), ("auxiliary", "auxiliary", ORANGE)):
        if history and key in history[0]["validation"]:
            axis.plot(steps, [100 * entry["validation"][key] for entry in history], color=colour, marker=".", label=label)
    if paper is not None:
        axis.axhline(paper, color=GREY, lw=1, ls=":", label="paper (CIFAR-10)")
    axis.set_ylim(0, 102)
    if len(axis.get_lines()) > 1:
        axis.legend(loc="center right", fontsize=8)


def _losses(axis: Axes, history: History) -> None:
    steps = [entry["step"] for entry in history]
    validation = [entry["validation"]["loss"] for entry in history]
    train = [(step, entry["train"]["loss"]) for step, entry in zip(steps, history, strict=True) if "loss" in entry["train"]]
    if train:
        axis.plot(*zip(*train, strict=True), color=PURPLE, marker=".", ls="--", lw=1, label="training")
    if history:
        axis.plot(steps, validation, color=GREEN, marker=".", label="validation")
        best = validation.index(min(validation))
        axis.plot(steps[best], validation[best], "o", mfc="none", mec=GREY, ms=9, label="lowest", clip_on=False)
        axis.legend(loc="best", fontsize=8)
