"""The look of every figure, its class colours, and the report section that it belongs to."""

import io
from pathlib import Path

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex

from bonelib.storage import atomic_file

BLUE, TEAL, GOLD, BROWN, MAGENTA = "#648FFF", "#45D3A8", "#FFB000", "#5C2008", "#DC267F"
GREY, INK = "#8a8a8a", "#222222"
STYLE: dict = {
    "font.size": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    # A dollar sign in a file name is no formula.
    "text.parse_math": False,
}
# A decorator, because titles and legends take their style when they are made.
styled = matplotlib.rc_context(STYLE)


def class_colours(class_names: tuple) -> dict[str, str]:
    """A colour for each class, from healthy to ill, that colour-blind readers can tell apart."""
    # 257 steps have GOLD exactly in the middle
    scale = LinearSegmentedColormap.from_list("", [BLUE, TEAL, GOLD, BROWN, MAGENTA], N=257)
    colours = scale(np.linspace(0, 1, len(class_names)))
    return dict(zip(class_names, map(to_hex, colours), strict=True))


class Figure(matplotlib.figure.Figure):
    """A matplotlib figure that a notebook shows once, whatever the backend.

    section: the report section that it belongs to, a key of `report.SECTIONS`.
    """

    section = ""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png")
        return out.getvalue()


def new_figure(
    section: str, rows: int = 1, columns: int = 1, height: float = 4, title: str = "", **options
) -> tuple[Figure, np.ndarray]:
    """A figure of 800 px width for a report section, and its axes (rows, columns).

    height: in inches, at 125 dpi. options: passed to `Figure.subplots`.
    """
    figure = Figure(figsize=(6.4, height), dpi=125, layout="constrained")
    figure.section = section
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize="large")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, with its report section as the text "section" in the file."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"section": figure.section})
