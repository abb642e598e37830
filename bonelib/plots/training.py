"""Figures of classes, images and training, and of steps that a notebook writes out by hand."""

import pandas as pd

from bonelib.plots import style
from bonelib.plots.style import BLUE, GREY, MAGENTA, Figure, class_colours, new_figure, styled


@styled
def class_counts(table: pd.DataFrame, class_names: tuple, by: str = "", title: str = "") -> Figure:
    """Bars of the rows of each class (`label`); with `by`, one cluster of bars per value of it."""
    clusters = table[by] if by else pd.Series("", table.index)
    found = list(clusters.unique())
    order = [name for name in ("train", "val", "test") if name in found] or found
    counts = pd.crosstab(clusters, table["label"]).reindex(order).reindex(columns=class_names)
    figure, axes = new_figure("data", height=3.6, title=title)
    colours = class_colours(class_names)
    axis = counts.fillna(0).plot.bar(ax=axes[0, 0], color=colours, width=0.8, rot=0, legend=False)
    for bars in axis.containers:
        axis.bar_label(bars, padding=2, fontsize=9)
    axis.set(xlabel="", ylabel="images", ymargin=0.12)
    columns = max(1, 60 // (max(map(len, class_names)) + 6))
    figure.legend(loc="outside lower center", ncols=columns)
    return figure


@styled
def image_grid(
    images, captions, colours=None, columns=4, title="", maps=None, section="data"
) -> Figure:
    """Grey images (H, W) uint8 with captions.

    colours: of their frames. maps: heat maps (H, W) 0..1 to lay over them. section: of the report.
    """
    rows = max(1, -(-len(images) // columns))
    captions = [style.wrap(caption, 84 // columns) for caption in captions]
    lines = max((caption.count("\n") + 1 for caption in captions), default=1)
    height = rows * (6.4 / columns + 0.17 * lines) + (0.35 if title else 0.05)
    figure, axes = new_figure(section, rows, columns, height, title, subplot_kw=style.BLANK)
    for number, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        pixels = image if maps is None else style.overlay_heat(image, maps[number])
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        axis.set_title(captions[number], fontsize=9, fontweight="normal", pad=3)
        if colours is not None:
            axis.set_frame_on(True)
            axis.spines[:].set(visible=True, linewidth=3, color=colours[number])
    return figure


@styled
def history(table: pd.DataFrame) -> Figure:
    """Loss, accuracy and learning rate by epoch from history.csv, the kept epoch marked."""
    figure, axes = new_figure("training", 3, height=6.2, sharex=True, height_ratios=[3, 3, 1.3])
    losses, accuracies, rates = axes[:, 0]
    best = table.sort_values("val_loss").nlargest(1, "val_accuracy")["epoch"].item()
    for axis, name in ((losses, "loss"), (accuracies, "accuracy")):
        axis.plot(table["epoch"], table[f"train_{name}"], ".-", color=GREY, label="training")
        axis.plot(table["epoch"], table[f"val_{name}"], ".-", color=BLUE, label="validation")
        axis.set_ylabel(name)
    losses.set_title("Training and validation by epoch")
    accuracies.set_ylim(0, 1.02)
    rates.plot(table["epoch"], table["lr"], color=GREY)
    rates.set(ylabel="learning\nrate", xlabel="epoch")
    rates.locator_params("x", integer=True)
    for axis in axes.flat:
        axis.axvline(best, color=MAGENTA, lw=1, ls="--", label=f"best epoch ({best})")
    figure.legend(*losses.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def ranges(scores: pd.DataFrame, title: str, xlabel: str) -> Figure:
    """Mean and middle 95% of each column of repeated results in 0..1, the last one in colour."""
    mean, limits = scores.mean(), scores.quantile([0.025, 0.975])
    figure, axis = style.new_chart("data", 1 + len(mean) / 2, title, xlabel=xlabel, xlim=(0, 1.1))
    colours, errors = [GREY] * (len(mean) - 1) + [BLUE], abs(limits - mean).to_numpy()
    bars = axis.barh(mean.index.astype(str), mean, 0.6, xerr=errors, color=colours, alpha=0.7)
    axis.bar_label(bars, fmt="%.2f", padding=4)
    axis.invert_yaxis()
    return figure
