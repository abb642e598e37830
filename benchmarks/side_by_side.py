"""Rounds of measurements, summarised: medians, ranges, ratios, a table and a JSON file."""

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
# question -> name of the library or way -> result
Round = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Question:
    """A target for bonelib: ratios to others of at least so much, or a result of at most so much.

    unit: a rate, such as images/s, is better if higher, everything else if lower.
    """

    unit: str
    at_least: dict[str, float] = field(default_factory=dict)
    at_most: float | None = None


@functools.cache
def process(name: str) -> ProcessPoolExecutor:
    """A process for one of several ways, the same in all rounds.

    What one of them changes in memory or threads must not affect another.
    """
    # a fork would inherit what this process has changed
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=_workers_fork)


def _workers_fork() -> None:
    """Make loader workers fork, as they do for a user; a spawned process would spawn them."""
    multiprocessing.set_start_method("fork", force=True)


def machine() -> dict[str, Any]:
    """The hardware and versions that the results were measured with."""
    has_affinity = hasattr(os, "sched_getaffinity")
    facts = {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "python": platform.python_version(),
    }
    for package in ("torch", "timm", "albumentations", "opencv-python-headless"):
        facts[package] = version(package)
    return facts


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else []:
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def summary(rounds: list[Round], questions: dict[str, Question]) -> dict[str, Any]:
    """For each question, medians and ranges of all results, and bonelib's ratios to the others.

    Ratios are taken within a round. Above 1, bonelib is better, whether the unit is a rate or a
    time. "best peer" is the best of a round, without the plain way.
    """
    out: dict[str, Any] = {}
    for title, question in questions.items():
        measured = [one_round[title] for one_round in rounds]
        sign = 1 if question.unit.endswith("/s") else -1
        others = [name for name in measured[0] if name != "bonelib"]
        ratios = {
            name: [(results["bonelib"] / results[name]) ** sign for results in measured]
            for name in others
        }
        peers = [ratios[name] for name in others if name != "plain"]
        if peers and "best peer" in question.at_least:
            ratios["best peer"] = [min(values) for values in zip(*peers, strict=True)]
        out[title] = {
            **asdict(question),
            "results": {
                name: _spread([results[name] for results in measured]) for name in measured[0]
            },
            "ratios": {name: _spread(values) for name, values in ratios.items()},
        }
    return out


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def table(results: dict[str, Any]) -> str:
    """The results of several questions as text."""
    lines = []
    for title, row in results.items():
        lines.append(f"\n{title} ({row['unit']})")
        for name, result in row["results"].items():
            line = f"  {name:<28} {spread(result):>28}"
            if name in row["ratios"]:
                line += f"  bonelib is {spread(row['ratios'][name])} times as good"
            lines.append(line)
        lines += [f"  {words}: {verdict}" for words, verdict in verdicts(row)]
    return "\n".join(lines)


def verdicts(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Each target of a question in words, and whether it was met."""
    out = []
    for name, target in row["at_least"].items():
        verdict = "not measured"
        if name in row["ratios"]:
            verdict = _verdict(row["ratios"][name]["median"] >= target)
        out.append((f"at least {target:g} times {name}", verdict))
    if row["at_most"] is not None:
        met = row["results"]["bonelib"]["median"] <= row["at_most"]
        out.append((f"at most {row['at_most']:g} {row['unit']}", _verdict(met)))
    return out


def _verdict(met: bool) -> str:
    return "met" if met else "NOT met"


def spread(values: dict[str, float]) -> str:
    """Median and range, to about three digits."""
    number_format = ",.0f" if abs(values["median"]) >= 100 else ".3g"
    median, low, high = (format(values[key], number_format) for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def main(
    doc: str | None, measure: Callable[..., Round], questions: dict[str, Question], **options: str
) -> None:
    """Run a benchmark from the command line, print its table and write it to results/."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=("full", "toy"), default="full")
    for name, default in options.items():
        parser.add_argument(f"--{name}", default=default)
    arguments = vars(parser.parse_args())
    count = arguments.pop("rounds")
    results = summary([measure(**arguments) for _ in range(count)], questions)
    print(table(results), flush=True)
    if arguments["size"] == "full":
        name = Path(inspect.getsourcefile(measure) or sys.argv[0]).stem.removeprefix("bench_")
        path = RESULTS / ("gpu" if torch.cuda.is_available() else "cpu") / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": machine(), "rounds": count, "results": results}
        path.write_text(json.dumps(content, indent=1) + "\n")
