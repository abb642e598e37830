"""What a notebook shows: figures that the report keeps, a live plot, and findings as Markdown."""

import sys
from collections.abc import Callable, Iterable

import pandas as pd

from bonelib.config import Config
from bonelib.messages import Finding, sort_findings
from bonelib.plots.style import Figure, save_figure
from bonelib.training.device import processes


def show(figure: Figure, cfg: Config, name: str) -> None:
    """Keep a figure as `figures/<name>.png` in the run folder, and display it in a notebook."""
    if processes().is_main_process:
        save_figure(figure, cfg.root / "figures" / f"{name}.png")
    if "ipykernel" in sys.modules:
        from IPython.display import display

        display(figure)


def live_plot(plot: Callable[[pd.DataFrame], Figure]) -> Callable[[pd.DataFrame], None] | None:
    """A callback that redraws `plot` below the running cell; None where there is no notebook."""
    if "ipykernel" not in sys.modules:
        return None
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)
    return lambda table: handle.update(plot(table))


def sentences(lines: Iterable[str] | str) -> None:
    """Show one sentence, or several as a list, in a notebook; a script prints them by line."""
    text = lines if isinstance(lines, str) else "\n".join(f"- {line}" for line in lines)
    if "ipykernel" not in sys.modules:
        return print(text)
    from IPython.display import Markdown, display

    display(Markdown(text))


def findings(found: Iterable[Finding | dict], nothing: str) -> None:
    """Show the findings by level, alarms first; the sentence `nothing` if there are none."""
    made = [one if isinstance(one, Finding) else Finding(**one) for one in found]
    lines = [f"**{one.level.capitalize()}:** {one.text}" for one in sort_findings(made)]
    sentences(lines or [nothing])
