"""Rounds of measuring, and what is made of them: medians, ranges, ratios, a table and a JSON file."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
Round = dict[str, dict[str, float]]  # question -> who -> figure


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        cpu = next((line.split(":")[1].strip() for line in info.open() if line.startswith("model name")), cpu)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {
        "cpu": cpu, "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": gpu, "python": platform.python_version(),
        **{p: version(p) for p in ("torch", "timm", "albumentations", "opencv-python-headless")},
    }  # fmt: skip


def summary(rounds: list[Round], targets: dict[str, dict[str, float]], unit: str) -> dict[str, Any]:
    """Of each question: every figure's median and range, and bonelib's ratios to the others, round by round.

    A ratio above 1 is to bonelib's credit, whether the unit is a rate or a time. «best peer» is the best but plain.
    """
    out: dict[str, Any] = {}
    for question in rounds[0]:
        names = rounds[0][question]
        faster = (lambda ours, other: ours / other) if unit.endswith("/s") else (lambda ours, other: other / ours)
        ratios: dict[str, list[float]] = {n: [] for n in names if n != "bonelib"}
        for one in (r[question] for r in rounds):
            for n in ratios:
                ratios[n].append(faster(one["bonelib"], one[n]))
        peers = [n for n in ratios if n != "plain"]
        if peers:
            ratios["best peer"] = [min(ratios[n][i] for n in peers) for i in range(len(rounds))]
        out[question] = {
            "unit": unit,
            "figures": {n: _spread([r[question][n] for r in rounds]) for n in names},
            "ratios": {n: _spread(of) for n, of in ratios.items()},
            "targets": targets.get(question, {}),
        }
    return out


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def table(results: dict[str, Any]) -> str:
    """The figures of some questions as text."""
    lines = []
    for question, row in results.items():
        lines.append(f"\n{question} ({row['unit']})")
        for name, f in row["figures"].items():
            ratio = row["ratios"].get(name)
            against = f"   bonelib is {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else ""
            lines.append(f"  {name:<28} {f['median']:10.2f} ({f['low']:.2f} to {f['high']:.2f}){against}")
        for name, target in row["targets"].items():
            got = row["ratios"].get(name, {}).get("median")
            verdict = "not measured" if got is None else "met" if got >= target else "NOT met"
            lines.append(f"  target: at least {target:g} against {name}: {verdict}")
    return "\n".join(lines)


def main(
    doc: str | None, measure: Callable[..., Round], targets: dict[str, dict[str, float]], unit: str, **options: str
) -> None:
    """Run a benchmark's rounds from the command line, print its table and keep it under results/."""
    asked = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--size", choices=("full", "toy"), default="full")
    for name, default in options.items():
        asked.add_argument(f"--{name}", default=default)
    given = vars(asked.parse_args())
    count = given.pop("rounds")
    rounds = [measure(**given) for _ in range(count)]
    results = summary(rounds, targets, unit)
    print(table(results), flush=True)
    if given["size"] == "full":
        name = Path(inspect.getsourcefile(measure) or sys.argv[0]).stem.removeprefix("bench_")
        where = RESULTS / ("gpu" if torch.cuda.is_available() else "cpu") / f"{name}.json"
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(json.dumps({"machine": machine(), "rounds": count, "results": results}, indent=1) + "\n")
