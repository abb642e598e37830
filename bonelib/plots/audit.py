"""The figure of the copies that the audit found."""

import numpy as np
import pandas as pd

from bonelib.plots import style
from bonelib.plots.style import INK, MAGENTA, Figure, styled

MAX_CLUSTERS = 8
MAX_COPIES = 5


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
            axis.set_title(style.wrap(label, 14), fontsize=8, color=colour, loc="center", pad=2)
    return figure
