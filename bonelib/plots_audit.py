"""Figures of the audit: its findings in, a matplotlib Figure out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bonelib.config import CLASSES
from bonelib.plots import GREY, PALETTE, _axes, styled

STEPS = {
    "found": "files found", "readable": "readable", "unique": "without further copies",
    "unconflicted": "without conflicting labels", "used": "used",
}  # fmt: skip


@styled
def flow(findings: dict[str, Any]) -> Figure:
    """How many images are left after each exclusion."""
    counts = findings["flow"]
    figure, axes = _axes(height=2.6)
    axis = axes[0, 0]
    at = np.arange(len(STEPS))[::-1]
    left = [counts[step] for step in STEPS]
    axis.barh(at, left, color=PALETTE["Normal"], height=0.6)
    for k, (y, n) in enumerate(zip(at, left, strict=True)):
        gone = left[k - 1] - n if k else 0
        axis.text(n, y, f" {n:,}" + (f"  ({gone:,} set aside)" if gone else ""), va="center")
    axis.set_yticks(at, STEPS.values())
    axis.set_xlim(0, 1.35 * max(left))
    axis.set(xlabel="images", title="From the files found to the images used")
    return figure


@styled
def clusters(
    findings: dict[str, Any], rows: pd.DataFrame, thumbs: NDArray[Any], most: int = 8, across: int = 6
) -> Figure:
    """The first `most` clusters, conflicts first, a row each. rows: the readable ones; thumbs: (N, S, S) uint8, theirs."""
    listed = sorted(
        findings["clusters"], key=lambda c: (not c["conflict"], c["kinds"] == ["same file"], -len(c["paths"]))
    )
    shown = listed[:most]
    where = {path: i for i, path in enumerate(rows["path"])}
    across = min(across, max(3, *(len(c["paths"]) for c in shown), 0))  # fewer than 3 would stand far from the words
    title = f"{len(listed):,} clusters of copies" + (f", {most} shown" if len(listed) > most else "")
    figure, axes = _axes(max(1, len(shown)), across + 1, 0.5 + 1.35 * max(1, len(shown)), title)
    for axis in axes.ravel():
        axis.axis("off")
    for line, cluster in zip(axes, shown, strict=False):
        words = "\n".join([*cluster["kinds"], f"confidence {cluster['confidence']:.2f}"])
        line[0].text(0, 0.5, words, va="center", fontsize=8, transform=line[0].transAxes)
        for axis, path, label in zip(line[1:], cluster["paths"], cluster["labels"], strict=False):
            axis.imshow(thumbs[where[path]], cmap="gray", vmin=0, vmax=255)
            axis.set_title(label, fontsize=8, color=PALETTE[label], loc="center", pad=2)
    return figure


@styled
def shortcuts(findings: dict[str, Any]) -> Figure:
    """AUROC of the class from each thing that is not bone, with its interval; flagged ones in colour."""
    found = sorted(findings["shortcuts"], key=lambda s: s["auroc"])
    figure, axes = _axes(height=1.2 + 0.32 * max(1, len(found)))
    axis = axes[0, 0]
    for y, one in enumerate(found):
        colour = PALETTE[CLASSES[2]] if one["warning"] else GREY
        axis.plot([one["low"], one["high"]], [y, y], color=colour, linewidth=2)
        axis.plot(one["auroc"], y, "o", color=colour)
        axis.text(1.01, y, f"{one['auroc']:.2f}", va="center", color=colour, transform=axis.get_yaxis_transform())
    axis.axvline(0.5, color=GREY, linestyle=":", zorder=0)
    axis.set_yticks(range(len(found)), [one["name"] for one in found])
    axis.set(title="What tells the class besides the bone", xlim=(min([0.3, *(s["low"] - 0.02 for s in found)]), 1))
    axis.set_xlabel("AUROC of the class (0.5 is chance, bars are 95% intervals)")
    return figure
