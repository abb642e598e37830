"""Rounds of measuring, and what is made of them: medians, ranges, ratios, a table and a JSON file."""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import multiprocessing
import os
import platform
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
Round = dict[str, dict[str, float]]  # question -> who -> figure


@dataclass(frozen=True)
class Question:
    """What is asked of bonelib: ratios of at least so much against others, or a figure of its own of at most so much."""

    unit: str  # a rate, such as images/s, is better if higher, all else if lower
    at_least: dict[str, float] = field(default_factory=dict)
    at_most: float | None = None


@functools.cache
def process(name: str) -> ProcessPoolExecutor:
    """A process for one of several ways, through all rounds: what one changes of memory or threads must not reach another."""
    # a fork would inherit what this process has changed
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_workers_fork)


def _workers_fork() -> None:
    """As they do for a user; a spawned process would spawn them."""
    multiprocessing.set_start_method("fork", force=True)


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


def summary(rounds: list[Round], questions: dict[str, Question]) -> dict[str, Any]:
    """Of each question: every figure's median and range, and bonelib's ratios to the others, round by round.

    A ratio above 1 is to bonelib's credit, whether the unit is a rate or a time. «best peer» is the best of a round but plain.
    """
    out: dict[str, Any] = {}
    for title, question in questions.items():
        figures = [r[title] for r in rounds]
        sign = 1 if question.unit.endswith("/s") else -1
        others = [n for n in figures[0] if n != "bonelib"]
        ratios = {n: [(f["bonelib"] / f[n]) ** sign for f in figures] for n in others}
        if "best peer" in question.at_least and (peers := [ratios[n] for n in others if n != "plain"]):
            ratios["best peer"] = [min(of) for of in zip(*peers, strict=True)]
        out[title] = {
            **asdict(question),
            "figures": {n: _spread([f[n] for f in figures]) for n in figures[0]},
            "ratios": {n: _spread(of) for n, of in ratios.items()},
        }
    return out


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def table(results: dict[str, Any]) -> str:
    """The figures of some questions as text."""
    lines = []
    for title, row in results.items():
        lines.append(f"\n{title} ({row['unit']})")
        for name, figure in row["figures"].items():
            ratio = f"  bonelib is {spread(row['ratios'][name])} times as good" if name in row["ratios"] else ""
            lines.append(f"  {name:<28} {spread(figure):>28}{ratio}")
        lines += [f"  {words}: {verdict}" for words, verdict in verdicts(row)]
    return "\n".join(lines)


def verdicts(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Each target of a question in words, and whether it was met."""
    out = []
    for name, target in row["at_least"].items():
        got = row["ratios"].get(name, {"median": None})["median"]
        out.append((f"at least {target:g} times {name}", _met(got, got is not None and got >= target)))
    if row["at_most"] is not None:
        got = row["figures"]["bonelib"]["median"]
        out.append((f"at most {row['at_most']:g} {row['unit']}", _met(got, got <= row["at_most"])))
    return out


def _met(got: float | None, met: bool) -> str:
    return "not measured" if got is None else "met" if met else "NOT met"


def spread(of: dict[str, float]) -> str:
    """Median and range, to three digits or so."""
    digits = [f"{of[k]:,.0f}" if abs(of["median"]) >= 100 else f"{of[k]:.3g}" for k in ("median", "low", "high")]
    return f"{digits[0]} ({digits[1]} to {digits[2]})"


def main(doc: str | None, measure: Callable[..., Round], questions: dict[str, Question], **options: str) -> None:
    """Run a benchmark's rounds from the command line, print its table and keep it under results/."""
    asked = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--size", choices=("full", "toy"), default="full")
    for name, default in options.items():
        asked.add_argument(f"--{name}", default=default)
    given = vars(asked.parse_args())
    count = given.pop("rounds")
    rounds = [measure(**given) for _ in range(count)]
    results = summary(rounds, questions)
    print(table(results), flush=True)
    if given["size"] == "full":
        name = Path(inspect.getsourcefile(measure) or sys.argv[0]).stem.removeprefix("bench_")
        where = RESULTS / ("gpu" if torch.cuda.is_available() else "cpu") / f"{name}.json"
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(json.dumps({"machine": machine(), "rounds": count, "results": results}, indent=1) + "\n")
