"""Every figure: tables and arrays in, a matplotlib Figure out, 800 px wide, shown as the last value of a cell."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from bonelib.config import CLASSES
from bonelib.metrics import PROBS
from bonelib.verdict import NAMES

PALETTE = dict(zip(CLASSES, ("#648FFF", "#FFB000", "#DC267F"), strict=True))  # colour-blind-safe: blue, gold, magenta
GREY, INK = "#8a8a8a", "#222222"
STYLE: dict[Any, Any] = {
    "font.size": 11, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left", "text.color": INK,
    "axes.edgecolor": GREY, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
}  # fmt: skip
KINDS = {"plain": "plain", "tta": "test-time augmentation"}
styled = matplotlib.rc_context(STYLE)  # a decorator: titles and legends read their style when they are made


class Picture(Figure):
    """A Figure that notebooks show once, whatever the matplotlib backend."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png")
        return out.getvalue()


def _axes(
    rows: int = 1, columns: int = 1, height: float = 3.6, title: str = "", **options: Any
) -> tuple[Figure, NDArray[Any]]:
    """A styled figure, 6.4 in at 125 dpi, under a title of its own, and its axes (rows, columns)."""
    figure = Picture(figsize=(6.4, height), dpi=125, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


@styled
def class_counts(table: pd.DataFrame, by: str | None = None, title: str = "Images of each class") -> Figure:
    """Bars of the rows in each class of `label`; with `by` (say "split"), a cluster of bars for each of its values."""
    order = {"train": 0, "val": 1, "test": 2}
    groups: list[Any] = sorted(dict.fromkeys(table[by]), key=lambda g: order.get(g, 3)) if by else [None]
    figure, axes = _axes()
    axis, width = axes[0, 0], 0.8 / len(CLASSES)
    for i, name in enumerate(CLASSES):
        n = [int(((table["label"] == name) & (table[by] == g if by else True)).sum()) for g in groups]
        bars = axis.bar(np.arange(len(groups)) + (i - 1) * width, n, width * 0.94, color=PALETTE[name], label=name)
        axis.bar_label(bars, padding=2)
    axis.set(title=title, ylabel="images", xticks=range(len(groups)) if by else [])
    if by:
        axis.set_xticklabels(groups)
    axis.margins(y=0.12)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def balance(splits: pd.DataFrame) -> Figure:
    """Training images of each class beside how often an epoch draws them (`draws`)."""
    train = splits[splits["split"] == "train"]
    drawn = train.loc[train.index.repeat(train["draws"].astype(int))]
    both = pd.concat([train.assign(stage="images"), drawn.assign(stage="drawn in an epoch")])
    return class_counts(both, "stage", "Training images, and what an epoch draws")


@styled
def grid(
    images: Sequence[NDArray[Any]], captions: Sequence[str], colours: Sequence[str] | None = None, columns: int = 4,
    title: str = "", heats: Sequence[NDArray[Any]] | None = None,
) -> Figure:  # fmt: skip
    """Grey images (H, W) uint8 with captions, optionally class-coloured frames and heat maps (H, W) 0..1 on top."""
    rows = max(1, -(-len(images) // columns))
    lines = max((c.count("\n") + 1 for c in captions), default=1)
    height = rows * (6.4 / columns + 0.17 * lines) + (0.35 if title else 0.05)
    figure, axes = _axes(rows, columns, height, title)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for i, (axis, image, caption) in enumerate(zip(axes.flat, images, captions, strict=False)):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        if heats is not None:
            axis.imshow(heats[i], cmap="magma", alpha=0.55 * np.asarray(heats[i]).clip(0, 1), vmin=0, vmax=1)
        axis.set_title(caption.replace("$", r"\$"), fontsize=9, fontweight="normal", pad=3)
        axis.spines[:].set(visible=colours is not None, linewidth=3, color=colours[i] if colours else GREY)
    return figure


@styled
def history(table: pd.DataFrame) -> Figure:
    """Loss, accuracy and learning rate by epoch from history.csv, the best validation epoch marked."""
    figure, axes = _axes(3, 1, height=6.2, sharex=True, height_ratios=[3, 3, 1.3])
    best = table.sort_values(["val_accuracy", "val_loss"], ascending=[False, True])["epoch"].iloc[0]
    for axis, name in zip(axes[:2, 0], ("loss", "accuracy"), strict=True):
        axis.plot(table["epoch"], table[f"train_{name}"], color=GREY, marker=".", label="training")
        axis.plot(table["epoch"], table[f"val_{name}"], color=PALETTE["Normal"], marker=".", label="validation")
        axis.set(ylabel=name)
    if "val_f1" in table:
        axes[1, 0].plot(table["epoch"], table["val_f1"], color=PALETTE["Normal"], ls=":", label="validation macro-F1")
    axes[1, 0].set_ylim(0, 1.02)
    axes[2, 0].plot(table["epoch"], table["lr"], color=INK)
    axes[2, 0].set(ylabel="rate", xlabel="epoch", yscale="log" if table["lr"].gt(0).all() else "linear")
    axes[2, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes.flat:
        axis.axvline(best, color=PALETTE["Osteoporosis"], lw=1, ls="--", label=f"best epoch ({best})")
    axes[0, 0].set_title("Training and validation by epoch")
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def rates(table: pd.DataFrame) -> Figure:
    """Training loss against the learning rate, from `recipe.find_lr`."""
    figure, axes = _axes(height=3.4)
    axes[0, 0].plot(table["lr"], table["loss"], color=PALETTE["Normal"])
    axes[0, 0].set(title="Where the loss falls fastest", xlabel="learning rate", ylabel="smoothed loss", xscale="log")
    return figure


@styled
def confusion(matrices: dict[str, ArrayLike]) -> Figure:
    """Confusion matrices (3, 3), rows truth, columns call, one panel a name: counts and shares of the true class."""
    height = 1.2 + 6.4 / max(len(matrices), 1.6) * 0.86
    figure, axes = _axes(1, len(matrices), height, "Who is called what, on the test split", sharey=True)
    short = [c.replace("Osteo", "Osteo-\n") for c in CLASSES]
    for axis, (name, held) in zip(axes[0], matrices.items(), strict=True):
        matrix = np.asarray(held)
        share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(3, 3):
            colour = "white" if share[i, j] > 0.55 else INK
            axis.text(j, i, f"{matrix[i, j]}\n{share[i, j]:.0%}", ha="center", va="center", color=colour)
        axis.set(title=KINDS.get(name, name), xlabel="called")
        axis.set(xticks=range(3), yticks=range(3), xticklabels=short, yticklabels=short)
    axes[0, 0].set_ylabel("truth")
    return figure


@styled
def roc(y: NDArray[Any], probs: NDArray[Any], title: str = "ROC, each class against the rest") -> Figure:
    """One curve a class; y (N,) int, probs (N, 3)."""
    figure, axes = _axes(height=6.2)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="chance")
    for c, name in enumerate(CLASSES):
        if 0 < (y == c).sum() < len(y):
            x, sensitivity, _ = roc_curve(y == c, probs[:, c])
            label = f"{name} (AUROC {roc_auc_score(y == c, probs[:, c]):.2f}, n = {(y == c).sum()})"
            axis.plot(x, sensitivity, color=PALETTE[name], label=label, drawstyle="steps-post")
    axis.set(title=title, xlabel="1 - specificity", ylabel="sensitivity", aspect="equal", xlim=(0, 1), ylim=(0, 1.01))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=1)
    return figure


@styled
def reliability(stages: dict[str, list[dict[str, float]]]) -> Figure:
    """Share correct against stated probability with 95% intervals: {name: rows of `calibrate.reliability`}."""
    figure, axes = _axes(height=4.8)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--", label="perfectly calibrated")
    styles = zip((GREY, PALETTE["Normal"], INK), ("s", "o", "^"), (-0.006, 0.006, 0.0), strict=True)
    for (name, rows), (colour, marker, nudge) in zip(stages.items(), styles, strict=False):
        p, hit, low, high, n = (np.array([r[k] for r in rows]) for k in ("p", "hit", "low", "high", "n"))
        gaps = np.clip([hit - low, high - hit], 0, None)
        axis.errorbar(p + nudge, hit, gaps, color=colour, lw=1.2, marker=marker, ls="-", capsize=2, label=name)
        if name == list(stages)[-1]:
            for x, count in zip(p, n, strict=True):
                axis.text(x, 0.02, f"{count}", ha="center", fontsize=9, color=colour)
    axis.set(title="Does a stated 80% mean 80%?", xlabel="probability of the called class", ylabel="share correct")
    axis.set(xlim=(0.3, 1.02), ylim=(0, 1.04))
    axis.text(0.305, 0.02, "n", fontsize=9)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def coverage_risk(curve: dict[str, list[float]], threshold: float | None = None, target: float | None = None) -> Figure:
    """Accuracy of what is answered against the share answered, surest first; the chosen threshold marked."""
    figure, axes = _axes(height=4.0)
    axis = axes[0, 0]
    coverage, accuracy = np.array(curve["coverage"]), 1 - np.array(curve["risk"])
    axis.plot(coverage, accuracy, color=PALETTE["Normal"], drawstyle="steps-pre", label="test split")
    if target is not None:
        axis.axhline(target, color=GREY, lw=1, ls="--", label=f"target {target:.0%}")
    if threshold is not None and (kept := np.flatnonzero(np.array(curve["threshold"]) >= threshold)).size:
        at = kept[-1]
        label = f"threshold from validation: {threshold:.2f}"
        axis.plot(coverage[at], accuracy[at], "o", ms=9, color=PALETTE["Osteoporosis"], label=label)
    axis.set(title="What is gained by referring unsure images", xlabel="share of images answered", ylabel="accuracy")
    axis.set(xlim=(0, 1.02), ylim=(max(0, accuracy.min() - 0.1), 1.02))
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def comparison(metrics: dict[str, Any], figures: Sequence[str] = ("auroc", "macro_f1", "accuracy")) -> Figure:
    """Model, plain and TTA, beside each baseline: points with 95% intervals, one panel a figure."""
    rows = {f"model, {KINDS[k]}": (v, PALETTE["Normal"]) for k, v in metrics["test"].items()}
    rows |= {NAMES.get(k, k).removeprefix("the "): (v, INK) for k, v in metrics.get("baselines", {}).items()}
    labels = [textwrap.fill(name, 18) for name in rows]
    figure, axes = _axes(1, len(figures), 1.2 + 0.5 * len(rows), "The model beside the baselines", sharey=True)
    for axis, name in zip(axes[0], figures, strict=True):
        for at, (held, colour) in enumerate(rows.values()):
            value, low, high = (held[name][k] for k in ("value", "low", "high"))
            if value is not None:
                axis.plot(value, at, "o", color=colour, ms=6)
                axis.plot([value if low is None else low, value if high is None else high], [at, at], color=colour)
        if name == "auroc":
            axis.axvline(0.5, color=GREY, lw=1, ls="--")
        axis.set(
            title=name.replace("macro_f1", "macro-F1").replace("auroc", "AUROC"), xlim=(0, 1.02), xticks=[0, 0.5, 1]
        )
        axis.set(yticks=range(len(rows)), yticklabels=labels, ylim=(len(rows) - 0.5, -0.5))
        axis.grid(axis="x", color="#dddddd", lw=0.8)
        axis.tick_params(axis="y", length=0)
    figure.supxlabel("test split, 95% interval by patient group", fontsize=10)
    return figure


def gallery(images: Sequence[NDArray[Any]], rows: pd.DataFrame, title: str, columns: int = 3) -> Figure:
    """Test images (rows of predictions.csv): true class as the frame's colour, call and probability in the caption."""
    probs = rows[PROBS].to_numpy()
    called = [CLASSES[c] for c in probs.argmax(1)]
    names = [p if len(p := str(path).rsplit("/", 1)[-1]) <= 26 else p[:12] + "…" + p[-13:] for path in rows["path"]]
    told = zip(names, rows["label"], called, probs.max(1), strict=True)
    captions = [f"{n}\ntrue {t}\ncalled {c} {p:.0%}" for n, t, c, p in told]
    return grid(images, captions, [PALETTE[t] for t in rows["label"]], columns, title)
