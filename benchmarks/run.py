"""All benchmarks, one after the other, then their table and chart.

python benchmarks/run.py [--rounds 3] [--with-run]   on the CPU, whatever else there is
python benchmarks/run.py --gpu                       what a GPU changes
python benchmarks/run.py --show                      the table in markdown, and docs/speed.png, from what was measured before

Figures lie in benchmarks/results/cpu and gpu, a file a script. `make run` takes four minutes, so it is timed only if asked.
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
CPU = ("loading", "training", "step", "tta", "epoch", "memory")
GPU = ("training", "step", "tta", "epoch")


def measured(where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The machine, and every question with its figures, in the order of the scripts."""
    files = [HERE / "results" / where / f"{name}.json" for name in (*CPU, "run")]
    read = [json.loads(f.read_text()) for f in files if f.is_file()]
    return read[0]["machine"] if read else {}, {k: v for r in read for k, v in r["results"].items()}


def markdown() -> str:
    """The README's table: a row a question, what it is held against, the ratio's median and range, the target."""
    from side_by_side import spread, verdicts

    lines = ["| question | bonelib | against | ratio | target |", "| --- | --- | --- | --- | --- |"]
    for where in ("cpu", "gpu"):
        machine, rows = measured(where)
        if not rows:
            lines.append("| on a GPU (`make bench-gpu`) | not measured | | | |")
        for title, row in rows.items():
            name = f"{title}{' (' + machine['gpu'] + ')' if where == 'gpu' else ''}"
            ours = f"{spread(row['figures']['bonelib'])} {row['unit']}"
            for against in row["at_least"]:
                ratio = spread(row["ratios"][against]) if against in row["ratios"] else "not measured"
                lines.append(f"| {name} | {ours} | {against} | {ratio} | ≥ {row['at_least'][against]:g} |")
            if row["at_most"] is not None:
                lines.append(f"| {name} | {ours} | | {dict(verdicts(row)).popitem()[1]} | ≤ {row['at_most']:g} |")
    return "\n".join(lines)


def chart(path: Path) -> None:
    """docs/speed.png: how many times as fast as the plain way, and as the best of the others, on a log scale."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    machine, rows = measured("cpu")
    rows = {title: row for title, row in rows.items() if "plain" in row["ratios"]}
    figure, axes = plt.subplots(figsize=(8, 0.55 * len(rows) + 1.5), dpi=160, layout="constrained")
    for y, row in enumerate(rows.values()):
        peers = {n: r for n, r in row["ratios"].items() if not n.startswith(("plain", "bonelib", "best", "ttach on"))}
        bars = [("", row["ratios"]["plain"], "#648FFF")]
        if peers:
            name = min(peers, key=lambda n: peers[n]["median"])
            bars.append((name, peers[name], "#FFB000"))
        for k, (name, ratio, colour) in enumerate(bars):
            at = y + (k - (len(bars) - 1) / 2) * 0.4
            away = [[ratio["median"] - ratio["low"]], [ratio["high"] - ratio["median"]]]
            axes.barh(at, ratio["median"] - 1, 0.36, 1, color=colour, xerr=away, error_kw={"lw": 1, "ecolor": "0.3"})
            axes.text(ratio["high"] * 1.05, at, f"{ratio['median']:.1f}× {name}", va="center", fontsize=9)
    axes.set(
        xscale="log", xlim=(1, axes.get_xlim()[1] * 1.8), yticks=range(len(rows)), yticklabels=list(rows),
        xlabel="times as fast, log scale; lines: range of the runs",
    )  # fmt: skip
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}×")
    axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}×" if x in (2, 5, 20, 50) else "")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    keys = [
        Patch(color="#648FFF", label="the plain notebook way"),
        Patch(color="#FFB000", label="the best peer, by name"),
    ]
    title = f"bonelib against … ({machine['cores']} cores of {machine['cpu']})"
    figure.legend(handles=keys, loc="outside upper left", ncols=2, frameon=False, title=title, alignment="left")
    figure.savefig(path)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rounds", default="3")
    asked.add_argument("--gpu", action="store_true")
    asked.add_argument("--with-run", action="store_true")
    asked.add_argument("--show", action="store_true")
    given = asked.parse_args()
    names = () if given.show else GPU if given.gpu else (*CPU, "run") if given.with_run else CPU
    env = os.environ | ({} if given.gpu else {"CUDA_VISIBLE_DEVICES": ""})
    began = time.perf_counter()
    for name in names:
        rounds = "1" if name == "run" else given.rounds
        command = [sys.executable, "-W", "ignore", str(HERE / f"bench_{name}.py"), "--rounds", rounds]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        print(f"\n== {name}, {time.perf_counter() - began:.0f} s since the start\n{done.stdout}", flush=True)
        if done.returncode:
            sys.exit(done.stderr)
    print("\n" + markdown())
    if measured("cpu")[1]:
        chart(HERE.parent / "docs" / "speed.png")


if __name__ == "__main__":
    if "--gpu" in sys.argv:
        import torch

        if not torch.cuda.is_available():
            sys.exit("found no GPU that PyTorch can use; `make bench` measures on the CPU")
    main()
