"""Figures of the test results, from metrics.json's content and predictions."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import ConfusionMatrixDisplay

from bonelib.evaluation.findings import BASELINE_NAMES
from bonelib.plots import style
from bonelib.plots.style import BLUE, GREY, INK, Figure, styled

KIND_NAMES = {"plain": "plain", "tta": "test-time augmentation"}
COMPARED_METRICS = {"auroc": "AUROC", "macro_f1": "macro-F1", "accuracy": "accuracy"}


@styled
def confusion_matrices(matrices: Mapping[str, np.ndarray], class_names: tuple) -> Figure:
    """Confusion matrices (K, K), one panel per kind of prediction.

    Rows are true classes, columns predicted ones; shares are of the true class.
    """
    height, title = 1.5 + 5.5 / max(len(matrices), 1.6), "Confusion matrix of the test set"
    labels = [style.wrap(name.replace("Osteo", "Osteo- "), 10) for name in class_names]
    rotation = "horizontal"
    if sum(map(len, class_names)) > 40:
        labels = [style.wrap(name, 16) for name in class_names]
        height, rotation = height + 0.6, "vertical"
    figure, axes = style.new_figure("metrics", 1, len(matrices), height, title, sharey=True)
    for axis, (kind, counts) in zip(axes[0], matrices.items(), strict=True):
        matrix = np.asarray(counts)
        shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        display = ConfusionMatrixDisplay(shares, display_labels=labels)
        display.plot(ax=axis, cmap="Blues", colorbar=False, xticks_rotation=rotation)
        display.im_.set_clim(0, 1)
        for cell, count, share in zip(display.text_.flat, matrix.flat, shares.flat, strict=True):
            cell.set_text(f"{count}\n{share:.0%}")
        axis.set(xlabel="predicted class", ylabel="true class")
        axis.set_title(style.wrap(KIND_NAMES[kind], 16))
        axis.label_outer()
    return figure


@styled
def reliability_diagram(stages: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Share of correct predictions against stated probability, with 95% intervals.

    stages: rows of `calibration.reliability`, by one to three names; image counts are those of the
    last one.
    """
    title = "Calibration: does 80% mean 80%?"
    figure, axis = style.new_chart("calibration", 4.8, title=title, xlim=(0, 1.02), ylim=(0, 1.04))
    axis.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="perfectly calibrated")
    for (name, rows), colour in zip(stages.items(), (GREY, BLUE, INK), strict=False):
        table = pd.DataFrame(rows)
        gaps = np.clip([table["hit"] - table["low"], table["high"] - table["hit"]], 0, None)
        axis.errorbar(table["p"], table["hit"], gaps, fmt="o-", c=colour, capsize=2, label=name)
    for x, count in zip(table["p"], table["n"], strict=True):
        axis.text(x, 0.02, f"{count:.0f}", ha="center", fontsize=9, color=colour)
    axis.set_xlabel("probability of the predicted class (above the axis: images)")
    axis.set_ylabel("share of correct predictions")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def comparison(metrics: dict) -> Figure:
    """The model beside each baseline: points with 95% intervals, one panel per metric."""
    blocks = {f"model, {KIND_NAMES[kind]}": block for kind, block in metrics["test"].items()}
    if "test" in metrics.get("external", {}):
        blocks["external images"] = metrics["external"]["test"]
    for name, block in metrics["baselines"].items():
        blocks[BASELINE_NAMES.get(name, name).removeprefix("the ")] = block
    height, title = 1.2 + 0.5 * len(blocks), "The model beside the baselines"
    names = [style.wrap(name, 18) for name in blocks]
    simple = len(metrics["baselines"])
    colours = [BLUE] * (len(blocks) - simple) + [INK] * simple
    figure, axes = style.new_figure("baselines", 1, 3, height, title, sharey=True)
    for axis, (metric, label) in zip(axes[0], COMPARED_METRICS.items(), strict=True):
        style.draw_intervals(axis, names, [block[metric] for block in blocks.values()], colours)
        axis.set(title=label, xlim=(0, 1.02), xticks=[0, 0.5, 1])
        axis.grid(axis="x", color="#dddddd", lw=0.8)
    axes[0, 0].axvline(0.5, color=GREY, lw=1, ls="--")
    figure.supxlabel("test set, 95% interval by patient group", fontsize=10)
    return figure
