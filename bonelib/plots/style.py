"""The look of every figure, its class colours, and the report section that it belongs to."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.figure
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex

from bonelib.storage import atomic_file

BLUE, TEAL, GOLD, BROWN, MAGENTA = "#648FFF", "#45D3A8", "#FFB000", "#5C2008", "#DC267F"
GREY, INK = "#8a8a8a", "#222222"
# Subplots for images.
BLANK = {"frame_on": False, "xticks": [], "yticks": []}
# A decorator, because titles and legends take their style when they are made.
styled = matplotlib.rc_context(fname=Path(__file__).with_name("bonelib.mplstyle"))


def class_colours(class_names: tuple) -> dict[str, str]:
    """A colour for each class, from healthy to ill, that colour-blind readers can tell apart."""
    # 257 steps have GOLD exactly in the middle
    scale = LinearSegmentedColormap.from_list("", [BLUE, TEAL, GOLD, BROWN, MAGENTA], N=257)
    colours = scale(np.linspace(0, 1, len(class_names)))
    return dict(zip(class_names, map(to_hex, colours), strict=True))


def wrap(text: str, width: int) -> str:
    """Text with each of its lines broken at `width` characters: classes may have long names."""
    return "\n".join(textwrap.fill(line, width) for line in text.splitlines())


class Figure(matplotlib.figure.Figure):
    """A matplotlib figure that a notebook shows once, whatever the backend.

    section: the report section that it belongs to, as report.html.j2 names it.
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


@styled
def new_chart(section: str, height: float, title="", **properties) -> tuple[Figure, Axes]:
    """A figure of one pair of axes; properties: their labels and limits."""
    figure, axes = new_figure(section, height=height, title=title)
    axes[0, 0].set(**properties)
    return figure, axes[0, 0]


def draw_intervals(axis: Axes, names: Sequence[str], leaves: Sequence[dict], colours: list) -> None:
    """One row per name, from the top: a point at `value` and a line from `low` to `high`."""
    table = pd.DataFrame(leaves, columns=["value", "low", "high"], dtype=float)
    lines = range(len(names))
    axis.hlines(lines, table["low"], table["high"], colours, lw=2)
    axis.scatter(table["value"], lines, color=colours)
    axis.set_yticks(lines, names)
    axis.set_ylim(max(1, len(names)) - 0.5, -0.5)


def overlay_heat(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8: a heat map (S, S) in 0..1 over a grey image (S, S) uint8."""
    alpha = 0.55 * heat[..., None]
    colours = 255 * matplotlib.colormaps["magma"](heat)[..., :3]
    return np.asarray((1 - alpha) * image[..., None] + alpha * colours, np.uint8)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, with its report section as the text "section" in the file."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"section": figure.section})
