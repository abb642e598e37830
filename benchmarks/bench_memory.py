"""Does memory grow with the data set? Peak memory of a training process and its workers, 1,000 against 20,000 pictures.

python benchmarks/bench_memory.py [--rounds 3]

A small model at 160 px, so that the pictures are what could count: 20,000 of them are 512 MB. Every process's peak is that
of its resident memory, pages of files included.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from side_by_side import Question, Round, main

from bonelib import split, train
from bonelib.config import CLASSES, Config

SIZES = {"full": (1000, 20_000, 160), "toy": (30, 60, 32)}
QUESTIONS = {"memory that 19,000 more pictures take": Question("MB", at_most=150)}


def peak(count: int, at: int, folder: Path) -> None:
    """Print the MB at which training on `count` pictures peaks: this process and its largest worker."""
    pixels = np.lib.format.open_memmap(folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=(count, at, at))
    pixels.flush()
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(count)], "label": [CLASSES[i % 3] for i in range(count)]})
    splits = split.split(table.assign(group=table["path"], status="ok", issues=""), Config())
    cfg = Config(
        run=str(folder), backbone="test_efficientnet", pretrained=False, image_size=at, epochs=1, workers=2, freeze=1.0,
        augment=("hflip",),
    )  # fmt: skip
    del pixels
    train.train(cfg, splits, np.load(folder / "pixels.npy", mmap_mode="r"), folder)
    parts = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(*parts)


def measure(size: str = "full") -> Round:
    few, many, at = SIZES[size]
    peaks = []
    for count in (few, many):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--count", str(count), "--at", str(at), "--folder", folder]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks.append(sum(map(int, said.split())) / 1024)
    print(f"{few:,} pictures: {peaks[0]:.0f} MB; {many:,}: {peaks[1]:.0f} MB")
    return {title: {"bonelib": peaks[1] - peaks[0]} for title in QUESTIONS}


if __name__ == "__main__":
    if "--count" in sys.argv:
        peak(int(sys.argv[2]), int(sys.argv[4]), Path(sys.argv[6]))
    else:
        main(__doc__, measure, QUESTIONS)
