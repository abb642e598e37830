"""How many images per second do the loaders yield, in the first epoch and in later ones?

python benchmarks/bench_loading.py [--rounds 3] [--size toy] [--jpeg FOLDER] [--png FOLDER]

1,000 files at 300 px with two workers, and in the main process alone. The first epoch includes the
decoding. To save time, all but bonelib read 500 of the files, and those that cache nothing, for
which all epochs are alike, stop after 4 s. bonelib returns uint8 that the model scales, the others
return scaled floats.
"""

from __future__ import annotations

import functools
import importlib.util
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from images import image_folder
from loaders import CACHING, LOADERS, Load
from side_by_side import Question, Round, main, process

SIZES = {
    "full": {"count": 1000, "side": 300, "seconds": 2.0, "shrink": 1},
    "toy": {"count": 12, "side": 32, "seconds": 0.0, "shrink": 8},
}
# The loaders that need no other package.
ALWAYS_INSTALLED = ("bonelib", "plain")
# Seconds after which a loader that caches nothing is stopped.
LIMIT = 4.0
QUESTIONS = {
    "later epochs, large JPEG": Question("images/s", {"plain": 20, "best peer": 5}),
    "later epochs, 224 px PNG": Question("images/s", {"plain": 6, "best peer": 7}),
    "first epoch, large JPEG": Question("images/s", {"plain": 1.3}),
    "first epoch, 224 px PNG": Question("images/s", {"plain": 1}),
    "later epochs, 224 px PNG, no workers": Question("images/s", {"plain": 6}),
}


@functools.cache
def warm_process(name: str) -> ProcessPoolExecutor:
    """A loader's process, after its imports and whatever else happens once."""
    pool = process(name)
    pool.submit(rates, name, image_folder("png", 12, 8), Load(32, 6, 0), 0.0).result()
    return pool


def rates(name: str, folder: Path, load: Load, seconds: float) -> tuple[float, float]:
    """Images per second in the first epoch, and in later ones, repeated for `seconds`."""
    start, seen = time.perf_counter(), 0
    epochs = LOADERS[name](folder, load)
    for batch in next(epochs):
        seen += len(batch[0])
        elapsed = time.perf_counter() - start
        if name not in (*CACHING, *ALWAYS_INSTALLED) and elapsed > LIMIT:
            break
    first = seen / (time.perf_counter() - start)
    if name not in CACHING:
        return first, first
    start, seen = time.perf_counter(), 0
    while not seen or time.perf_counter() - start < seconds:
        seen += sum(len(batch[0]) for batch in next(epochs))
    return first, seen / (time.perf_counter() - start)


def measure(size: str = "full", jpeg: str = "", png: str = "") -> Round:
    """One round: every loader that is installed, one after the other."""
    count, side, seconds, shrink = SIZES[size].values()
    two_workers, no_workers = (Load(side, min(32, count // 2), workers) for workers in (2, 0))
    results: Round = {question: {} for question in QUESTIONS}
    for name in LOADERS:
        package = name.split()[0].lower()
        if name not in ALWAYS_INSTALLED and not importlib.util.find_spec(package):
            print(f"{name}: not installed")
            continue
        files = count if name == "bonelib" else count // 2
        large = image_folder("jpeg", files, shrink, jpeg)
        small = image_folder("png", files, shrink, png)
        submit = warm_process(name).submit
        for folder, words in ((large, "large JPEG"), (small, "224 px PNG")):
            first, later = submit(rates, name, folder, two_workers, seconds).result()
            results[f"first epoch, {words}"][name] = first
            results[f"later epochs, {words}"][name] = later
        if name in ALWAYS_INSTALLED:
            _, later = submit(rates, name, small, no_workers, seconds).result()
            results["later epochs, 224 px PNG, no workers"][name] = later
    return results


if __name__ == "__main__":
    main(__doc__, measure, QUESTIONS, jpeg="", png="")
