"""Figures of the steps that a notebook writes out by hand."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bonelib.plots.style import BLUE, GREY, INK, MAGENTA, Figure, new_figure, styled


@styled
def curves(series: dict[str, tuple], title: str, xlabel: str, ylabel: str) -> Figure:
    """Lines of (x, y) by name; the second one is dashed, as a reference."""
    figure, axes = new_figure("training", height=3.2)
    axis = axes[0, 0]
    for (name, (x, y)), style in zip(series.items(), ("-", "--"), strict=False):
        axis.plot(list(x), list(y), style, color=BLUE if style == "-" else GREY, label=name)
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    if len(series) > 1:
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def histogram(values: Sequence[float], title: str, xlabel: str) -> Figure:
    """A histogram with zero and the middle 95% marked."""
    figure, axes = new_figure("baselines", height=3.2)
    axis = axes[0, 0]
    axis.hist(values, bins=30, color=BLUE, alpha=0.7)
    axis.axvline(0, color=INK, lw=1.5, label="no difference")
    for limit, label in zip(np.quantile(values, [0.025, 0.975]), ("middle 95%", None), strict=True):
        axis.axvline(limit, color=MAGENTA, ls="--", label=label)
    axis.set(title=title, xlabel=xlabel, ylabel="resamples")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def protocols(scores: pd.DataFrame) -> Figure:
    """Accuracy under each protocol: mean over repeats, and the middle 95% of the repeats."""
    figure, axes = new_figure("data", height=2.6)
    axis = axes[0, 0]
    names = scores["protocol"].unique()[::-1]
    for y, name in enumerate(names):
        accuracy = scores.loc[scores["protocol"] == name, "accuracy"]
        low, high = accuracy.quantile([0.025, 0.975])
        colour = BLUE if name == "split by group" else MAGENTA
        axis.barh(y, accuracy.mean(), 0.6, color=colour, alpha=0.7)
        axis.plot([low, high], [y, y], color=INK)
        axis.text(min(high, 0.93) + 0.01, y, f"{accuracy.mean():.2f}", va="center")
    axis.set_yticks(range(len(names)), names)
    axis.set(title="The same classifier, three protocols", xlabel="accuracy", xlim=(0, 1.02))
    return figure
