"""What a notebook shows: figures that the report keeps, a live plot, and findings as Markdown."""

import sys
from collections.abc import Callable, Iterable

import pandas as pd

from bonelib.config import Config
from bonelib.messages import Finding, sort_findings
from bonelib.plots.style import Figure, save_figure
from bonelib.training.device import processes


def show(figure: Figure, cfg: Config, name: str) -> Figure:
    """Keep a figure as `figures/<name>.png` in the run folder, and return it to be displayed."""
    if processes().is_main_process:
        save_figure(figure, cfg.root / "figures" / f"{name}.png")
    return figure


def live_plot(plot: Callable[[pd.DataFrame], Figure]) -> Callable[[pd.DataFrame], None] | None:
    """A callback that redraws `plot` below the running cell; None where there is no notebook."""
    if "ipykernel" not in sys.modules:
        return None
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)
    return lambda table: handle.update(plot(table))


class Sentences:
    """Sentences that a notebook shows as a list and a script prints, one per line."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self.sentences = list(sentences)
        if "ipykernel" not in sys.modules:
            print(self)

    def __str__(self) -> str:
        return "\n".join(f"- {sentence}" for sentence in self.sentences)

    _repr_markdown_ = __str__


def findings(found: Iterable[Finding | dict], nothing: str) -> Sentences:
    """The findings by level, alarms first; the sentence `nothing` if there are none."""
    made = [one if isinstance(one, Finding) else Finding(**one) for one in found]
    lines = [f"**{one.level.capitalize()}:** {one.text}" for one in sort_findings(made)]
    return Sentences(lines or [nothing])
