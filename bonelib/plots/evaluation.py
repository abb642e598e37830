"""Figures of the test results, from metrics.json's content and predictions."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from sklearn.metrics import ConfusionMatrixDisplay, auc, roc_curve

from bonelib.evaluation.findings import BASELINE_NAMES
from bonelib.plots import style
from bonelib.plots.style import BLUE, GREY, INK, MAGENTA, Figure, class_colours, styled
from bonelib.plots.training import image_grid

KIND_NAMES = {"plain": "plain", "tta": "test-time augmentation"}
COMPARED_METRICS = {"auroc": "AUROC", "macro_f1": "macro-F1", "accuracy": "accuracy"}


@styled
def confusion_matrices(matrices: Mapping[str, np.ndarray], class_names: tuple) -> Figure:
    """Confusion matrices (K, K), one panel per kind of prediction.

    Rows are true classes, columns predicted ones; shares are of the true class.
    """
    height, title = 1.2 + 5.5 / max(len(matrices), 1.6), "Confusion matrix of the test set"
    figure, axes = style.new_figure("metrics", 1, len(matrices), height, title, sharey=True)
    labels = [textwrap.fill(name.replace("Osteo", "Osteo- "), 10) for name in class_names]
    for axis, (kind, counts) in zip(axes[0], matrices.items(), strict=True):
        matrix = np.asarray(counts)
        shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        display = ConfusionMatrixDisplay(shares, display_labels=labels)
        display.plot(ax=axis, cmap="Blues", colorbar=False, im_kw={"vmin": 0, "vmax": 1})
        for cell, count, share in zip(display.text_.flat, matrix.flat, shares.flat, strict=True):
            cell.set_text(f"{count}\n{share:.0%}")
        axis.set(title=KIND_NAMES.get(kind, kind), xlabel="predicted class", ylabel="true class")
        axis.label_outer()
    return figure


@styled
def roc(y: np.ndarray, probabilities: np.ndarray, class_names: tuple) -> Figure:
    """A ROC curve for each class against the rest; y (N,), probabilities (N, K)."""
    title = "ROC, each class against the rest"
    figure, axis = style.new_chart("metrics", 6.2, title=title, aspect="equal", ylim=(0, 1.01))
    axis.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="chance")
    for number, (name, colour) in enumerate(class_colours(class_names).items()):
        positive = y == number
        if 0 < positive.sum() < len(y):
            x, sensitivity, _ = roc_curve(positive, probabilities[:, number])
            label = f"{name} (AUROC {auc(x, sensitivity):.2f}, n = {positive.sum()})"
            axis.plot(x, sensitivity, color=colour, label=label)
    axis.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(0, 1))
    figure.legend(loc="outside lower center")
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
def accuracy_by_coverage(curve: dict, threshold: float | None, target: float) -> Figure:
    """Accuracy of the answered images against their share, the most confident first.

    threshold: marked on the curve, if there is one. target: accuracy, drawn as a line.
    """
    title = "Accuracy when unsure images are referred"
    figure, axis = style.new_chart("abstain", 4, title=title, ylabel="accuracy")
    coverage, accuracy = np.array(curve["coverage"]), 1 - np.array(curve["risk"])
    axis.plot(coverage, accuracy, color=BLUE, drawstyle="steps-pre", label="test set")
    axis.axhline(target, color=GREY, lw=1, ls="--", label=f"target {target:.0%}")
    if threshold is not None:
        last = np.flatnonzero(np.array(curve["threshold"]) >= threshold)[-1:]
        label = f"threshold from validation: {threshold:.2f}"
        axis.plot(coverage[last], accuracy[last], "o", ms=9, color=MAGENTA, label=label)
    axis.set(xlabel="share of images answered", xlim=(0, 1.02), ylim=(None, 1.02))
    axis.xaxis.set_major_formatter("{x:.0%}")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def comparison(metrics: dict) -> Figure:
    """The model beside each baseline: points with 95% intervals, one panel per metric."""
    blocks = {f"model, {KIND_NAMES[kind]}": block for kind, block in metrics["test"].items()}
    for name, block in metrics["baselines"].items():
        blocks[BASELINE_NAMES.get(name, name).removeprefix("the ")] = block
    height, title = 1.2 + 0.5 * len(blocks), "The model beside the baselines"
    names = [textwrap.fill(name, 18) for name in blocks]
    colours = [BLUE] * len(metrics["test"]) + [INK] * len(metrics["baselines"])
    panels = len(COMPARED_METRICS)
    figure, axes = style.new_figure("baselines", 1, panels, height, title, sharey=True)
    for axis, (metric, label) in zip(axes[0], COMPARED_METRICS.items(), strict=True):
        style.draw_intervals(axis, names, [block[metric] for block in blocks.values()], colours)
        axis.set(title=label, xlim=(0, 1.02), xticks=[0, 0.5, 1])
        axis.grid(axis="x", color="#dddddd", lw=0.8)
    axes[0, 0].axvline(0.5, color=GREY, lw=1, ls="--")
    figure.supxlabel("test set, 95% interval by patient group", fontsize=10)
    return figure


def gallery(images: np.ndarray, rows: pd.DataFrame, class_names: tuple, title: str) -> Figure:
    """Test images (N, S, S) uint8 with true class (the frame's colour) and prediction.

    rows: theirs, from `evaluate.failures`.
    """
    names = [PurePosixPath(path).name[-24:] for path in rows["path"]]
    columns = zip(names, rows["label"], rows["prediction"], rows["confidence"], strict=True)
    captions = [f"{name}\ntrue {true}\npredicted {c} {p:.0%}" for name, true, c, p in columns]
    frames = [class_colours(class_names)[label] for label in rows["label"]]
    return image_grid(images, captions, frames, 3, title, section="failures")
