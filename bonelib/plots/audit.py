"""Figures of the audit, from the content of audit.json."""

import numpy as np
import pandas as pd

from bonelib.plots import style
from bonelib.plots.style import BLUE, GREY, INK, MAGENTA, Figure, styled

FUNNEL_STEPS = {
    "found": "files found",
    "readable": "readable",
    "unique": "without further copies",
    "unconflicted": "without conflicting labels",
    "used": "used",
}
MAX_CLUSTERS = 8
MAX_COPIES = 5


@styled
def funnel(audit: dict) -> Figure:
    """How many images are left after each exclusion."""
    left = np.array([audit["counts"][step] for step in FUNNEL_STEPS])
    excluded = -np.diff(left, prepend=left[0])
    title = "From the files found to the images used"
    figure, axis = style.new_chart("data", 2.6, title=title, xlabel="images", xmargin=0.4)
    bars = axis.barh(list(FUNNEL_STEPS.values()), left, color=BLUE, height=0.6)
    labels = [f"{n:,}  ({lost:,} excluded)" for n, lost in zip(left, excluded, strict=True)]
    axis.bar_label(bars, labels, padding=4)
    axis.invert_yaxis()
    return figure


@styled
def clusters(audit: dict, rows: pd.DataFrame, thumbnails: np.ndarray) -> Figure:
    """The most important clusters of copies, one per row; conflicting labels are coloured.

    rows: the readable rows of the catalog. thumbnails: (N, S, S) uint8, theirs.
    """
    # Conflicts first, then copies that are not the same file, then large clusters.
    found = sorted(audit["clusters"], key=lambda cluster: -len(cluster["paths"]))
    found.sort(key=lambda cluster: (not cluster["conflict"], cluster["kinds"] == ["same file"]))
    shown = found[:MAX_CLUSTERS]
    position = {path: number for number, path in enumerate(rows["path"])}
    title = f"{len(found):,} clusters of copies, {len(shown)} shown"
    lines = max(1, len(shown))
    height, options = 0.5 + 1.35 * lines, {"subplot_kw": style.BLANK}
    figure, axes = style.new_figure("data", lines, MAX_COPIES + 1, height, title, **options)
    for line, cluster in zip(axes, shown, strict=False):
        paths, confidence = cluster["paths"], f"confidence {cluster['confidence']:.2f}"
        text = "\n".join([f"{len(paths)} images", *cluster["kinds"], confidence])
        line[0].text(0, 0.5, text, va="center", fontsize=8)
        colour = MAGENTA if cluster["conflict"] else INK
        for axis, path, label in zip(line[1:], paths, cluster["labels"], strict=False):
            axis.imshow(thumbnails[position[path]], cmap="gray", vmin=0, vmax=255)
            axis.set_title(label, fontsize=8, color=colour, loc="center", pad=2)
    return figure


@styled
def shortcuts(audit: dict) -> Figure:
    """AUROC of the class from each property that is not bone; those with a warning are coloured."""
    found = sorted(audit["shortcuts"], key=lambda shortcut: -shortcut["auroc"])
    colours = [MAGENTA if shortcut["warning"] else GREY for shortcut in found]
    names = [f"{shortcut['name']}  {shortcut['auroc']:.2f}" for shortcut in found]
    figure, axis = style.new_chart("data", 1.2 + 0.32 * max(1, len(found)), xlim=(None, 1))
    axis.axvline(0.5, color=GREY, linestyle=":", zorder=0)
    leaves = [shortcut | {"value": shortcut["auroc"]} for shortcut in found]
    style.draw_intervals(axis, names, leaves, colours)
    axis.set_title("What predicts the class besides the bone")
    axis.set_xlabel("AUROC of the class (0.5 is chance, bars are 95% intervals)")
    return figure
