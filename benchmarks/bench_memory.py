"""Does memory grow with the data set? Peak memory of training on 1,000 and on 20,000 images.

python benchmarks/bench_memory.py [--rounds 3]

A small model at 160 px, so that the images would dominate: 20,000 of them are 512 MB. The peak is
of the anonymous memory (RssAnon) of the training process and its workers: pages of the memory map
are not counted, because the kernel takes them back when it needs them. Linux only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from side_by_side import Question, Round, main

from bonelib.config import CLASSES, Config
from bonelib.split import Fold, split
from bonelib.training.loop import fit

SIZES = {"full": (1000, 20_000, 160), "toy": (30, 60, 32)}
QUESTIONS = {"memory that 19,000 more images take": Question("MB", at_most=150)}


def train(count: int, side: int, folder: Path) -> None:
    """One epoch on `count` images."""
    path = folder / "images.npy"
    shape = (count, side, side)
    empty = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    empty.flush()
    del empty
    names = [f"{i}.png" for i in range(count)]
    labels = [CLASSES[i % len(CLASSES)] for i in range(count)]
    table = pd.DataFrame({"path": names, "label": labels, "group": names})
    splits = split(table.assign(status="ok", issues=""), Config())
    cfg = Config(
        run=str(folder),
        backbone="test_efficientnet",
        pretrained=False,
        image_size=side,
        epochs=1,
        workers=2,
        freeze=1.0,
        augment=("hflip",),
    )
    fit(Fold(cfg, splits, np.load(path, mmap_mode="r"), folder))


def anonymous(process: str) -> int:
    """kB of anonymous memory of a process and of all below it; 0 if it has ended."""
    folder = Path("/proc", process)
    try:
        status = (folder / "status").read_text()
        children = (folder / "task" / process / "children").read_text().split()
    except OSError:
        return 0
    own = [int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")]
    return sum(own) + sum(map(anonymous, children))


def peak(count: int, side: int) -> float:
    """MB at the peak of a training in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--count", str(count), "--side", str(side)]
        command += ["--folder", folder]
        training, most = subprocess.Popen(command, stdout=subprocess.DEVNULL), 0
        while training.poll() is None:
            most = max(most, anonymous(str(training.pid)))
            time.sleep(0.05)
        if training.returncode:
            raise subprocess.CalledProcessError(training.returncode, command)
    return most / 1024


def measure(size: str = "full") -> Round:
    few, many, side = SIZES[size]
    smaller, larger = peak(few, side), peak(many, side)
    print(f"{few:,} images: {smaller:.0f} MB; {many:,}: {larger:.0f} MB")
    return {title: {"bonelib": larger - smaller} for title in QUESTIONS}


if __name__ == "__main__":
    if "--count" in sys.argv:
        train(int(sys.argv[2]), int(sys.argv[4]), Path(sys.argv[6]))
    else:
        main(__doc__, measure, QUESTIONS)
