"""Batches from a folder: how many images a second, in the first epoch and in later ones?

python benchmarks/bench_loading.py [--rounds 3] [--size toy] [--jpeg FOLDER] [--png FOLDER]

1,000 files at 300 px with two workers, and in the main process alone. The first epoch begins before anything is decoded.
All but bonelib read 500 of them, and those that keep nothing, to whom all epochs are alike, for 4 s at most, to save
time. bonelib hands over uint8 that the model scales, the others scaled floats.
"""

from __future__ import annotations

import functools
import importlib.util
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pictures
from loaders import KEEP, LOADERS, Load
from side_by_side import Question, Round, main, process

SIZES = {
    "full": {"rows": 1000, "at": 300, "seconds": 2.0, "shrink": 1},
    "toy": {"rows": 12, "at": 32, "seconds": 0.0, "shrink": 8},
}
OURS = ("bonelib", "plain")  # what needs no peer
GLANCE = 4.0  # seconds: all epochs are alike for a peer that keeps nothing
QUESTIONS = {
    "later epochs, large JPEG": Question("images/s", {"plain": 20, "best peer": 5}),
    "later epochs, 224 px PNG": Question("images/s", {"plain": 7, "best peer": 7}),
    "first epoch, large JPEG": Question("images/s", {"plain": 1.3}),
    "first epoch, 224 px PNG": Question("images/s", {"plain": 1}),
    "later epochs, 224 px PNG, no workers": Question("images/s", {"plain": 7}),
}


@functools.cache
def ready(name: str) -> ProcessPoolExecutor:
    """A loader's process, past its imports and whatever else happens once."""
    pool = process(name)
    pool.submit(rates, name, pictures.folder("png", 12, 8), Load(32, 6, 0), 0.0).result()
    return pool


def rates(name: str, folder: Path, load: Load, seconds: float) -> tuple[float, float]:
    """Images a second in the first epoch, and in later ones, of which so many are run that they take `seconds`."""
    began, seen = time.perf_counter(), 0
    epochs = LOADERS[name](folder, load)
    for batch in next(epochs):
        seen += len(batch[0])
        if name not in (*KEEP, *OURS) and time.perf_counter() - began > GLANCE:
            break
    first = seen / (time.perf_counter() - began)
    if name not in KEEP:
        return first, first
    began, seen = time.perf_counter(), 0
    while not seen or time.perf_counter() - began < seconds:
        seen += sum(len(batch[0]) for batch in next(epochs))
    return first, seen / (time.perf_counter() - began)


def measure(size: str = "full", jpeg: str = "", png: str = "") -> Round:
    """One round: every loader that is installed, one after the other."""
    rows, at, seconds, shrink = SIZES[size].values()
    two, alone = (Load(at, min(32, rows // 2), workers) for workers in (2, 0))
    out: Round = {question: {} for question in QUESTIONS}
    for name in LOADERS:
        package = name.split()[0].lower()
        if name not in OURS and not importlib.util.find_spec(package):
            print(f"{name}: not installed")
            continue
        few = rows if name == "bonelib" else rows // 2
        large, small = (pictures.folder(*kind) for kind in (("jpeg", few, shrink, jpeg), ("png", few, shrink, png)))
        run = ready(name).submit
        for folder, words in ((large, "large JPEG"), (small, "224 px PNG")):
            first, later = run(rates, name, folder, two, seconds).result()
            out[f"first epoch, {words}"][name], out[f"later epochs, {words}"][name] = first, later
        if name in OURS:
            out["later epochs, 224 px PNG, no workers"][name] = run(rates, name, small, alone, seconds).result()[1]
    return out


if __name__ == "__main__":
    main(__doc__, measure, QUESTIONS, jpeg="", png="")
