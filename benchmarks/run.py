"""All benchmarks, one after the other, then their table and chart.

python benchmarks/run.py [--rounds 3] [--long]       on the CPU, even if there is a GPU
python benchmarks/run.py --gpu                       what a GPU changes
python benchmarks/run.py --show                      the table and docs/speed.png of earlier runs

Results are written to benchmarks/results/cpu and gpu, one file per script. The
whole job and `make run` take ten minutes, so they are measured, once, only with --long.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CPU = ("loading", "training", "step", "tta", "epoch", "memory", "archive")
GPU = ("training", "step", "tta", "epoch", "archive")
LONG = ("whole", "run")
PLAIN_COLOUR, PEER_COLOUR = "#648FFF", "#FFB000"


def measured(where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The machine, and every question with its results, in the order of the scripts."""
    files = [HERE / "results" / where / f"{name}.json" for name in (*CPU, *LONG)]
    contents = [json.loads(path.read_text()) for path in files if path.is_file()]
    questions: dict[str, Any] = {}
    for content in contents:
        questions |= content["results"]
    return contents[0]["machine"] if contents else {}, questions


def markdown() -> str:
    """The table of docs/speed.md: one row per question and library it is compared with."""
    from side_by_side import spread, verdicts

    lines = ["| question | bonelib | against | ratio | target |", "| --- | --- | --- | --- | --- |"]
    for where in ("cpu", "gpu"):
        machine, rows = measured(where)
        if not rows:
            lines.append("| on a GPU (`make bench-gpu`) | not measured | | | |")
        for title, row in rows.items():
            name = f"{title} ({machine['gpu']})" if where == "gpu" else title
            start = f"| {name} | {spread(row['results']['bonelib'])} {row['unit']} |"
            for other, target in row["at_least"].items():
                known = other in row["ratios"]
                ratio = spread(row["ratios"][other]) if known else "not measured"
                lines.append(f"{start} {other} | {ratio} | ≥ {target:g} |")
            if row["at_most"] is not None:
                _, verdict = verdicts(row)[-1]
                lines.append(f"{start} | {verdict} | ≤ {row['at_most']:g} |")
    return "\n".join(lines)


def _bars(ratios: dict[str, Any]) -> list[tuple[str, dict[str, float], str]]:
    """Name, ratio and colour of the plain way and, if there are any, of the best peer."""
    bars = [("", ratios["plain"], PLAIN_COLOUR)]
    no_peers = ("plain", "bonelib", "best", "ttach on")
    peers = [name for name in ratios if not name.startswith(no_peers)]
    if peers:
        best = min(peers, key=lambda name: ratios[name]["median"])
        bars.append((best, ratios[best], PEER_COLOUR))
    return bars


def draw_chart(path: Path) -> None:
    """docs/speed.png: how many times as fast as the plain way, and as the best of the others."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    machine, rows = measured("cpu")
    rows = {title: row for title, row in rows.items() if "plain" in row["ratios"]}
    size = (8, 0.55 * len(rows) + 1.5)
    figure, axes = plt.subplots(figsize=size, dpi=160, layout="constrained")
    for y, row in enumerate(rows.values()):
        bars = _bars(row["ratios"])
        for k, (name, ratio, colour) in enumerate(bars):
            height, median = y + (k - (len(bars) - 1) / 2) * 0.4, ratio["median"]
            errors = [[median - ratio["low"]], [ratio["high"] - median]]
            style = {"color": colour, "error_kw": {"lw": 1, "ecolor": "0.3"}}
            axes.barh(height, median - 1, 0.36, 1, xerr=errors, **style)
            text = f"{median:.1f}× {name}"
            axes.text(ratio["high"] * 1.05, height, text, va="center", fontsize=9)
    axes.set(xscale="log", xlim=(1, axes.get_xlim()[1] * 1.8))
    axes.set(yticks=range(len(rows)), yticklabels=list(rows))
    axes.set_xlabel("times as fast, log scale; lines: range of the runs")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}×")
    axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}×" if x in (2, 5, 20, 50) else "")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    keys = [
        Patch(color=PLAIN_COLOUR, label="the plain notebook way"),
        Patch(color=PEER_COLOUR, label="the best peer, by name"),
    ]
    title = f"bonelib against … ({machine['cores']} cores of {machine['cpu']})"
    options = {"ncols": 2, "frameon": False, "title": title, "alignment": "left"}
    figure.legend(handles=keys, loc="outside upper left", **options)
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", default="3")
    for name in ("--gpu", "--long", "--show"):
        parser.add_argument(name, action="store_true")
    arguments = parser.parse_args()
    names = GPU if arguments.gpu else CPU
    if arguments.long:
        names = (*names, *LONG)
    environment = os.environ | ({} if arguments.gpu else {"CUDA_VISIBLE_DEVICES": ""})
    start = time.perf_counter()
    for name in () if arguments.show else names:
        rounds = "1" if name in LONG else arguments.rounds
        script = str(HERE / f"bench_{name}.py")
        command = [sys.executable, "-W", "ignore", script, "--rounds", rounds]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        print(f"\n== {name}, {seconds:.0f} s since the start\n{done.stdout}", flush=True)
        if done.returncode:
            sys.exit(done.stderr)
    print("\n" + markdown())
    if measured("cpu")[1]:
        draw_chart(HERE.parent / "docs" / "speed.png")


if __name__ == "__main__":
    if "--gpu" in sys.argv:
        import torch

        if not torch.cuda.is_available():
            sys.exit("found no GPU that PyTorch can use; `make bench` measures on the CPU")
    main()
