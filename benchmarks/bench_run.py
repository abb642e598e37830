"""How long does the whole series take on the embedded sample, without the installation?

python benchmarks/bench_run.py [--rounds 1]

Runs what `make run` runs, notebook after notebook, into a folder of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import Question, Round, main

QUESTIONS = {"make run, without the installation": Question("s", at_most=240)}
NOTEBOOKS = ("01_explore", "02_balance", "03_train", "04_evaluate")


def measure(size: str = "full") -> Round:
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        new = {"BONELIB_RUN": folder + "/run", "BONELIB_CACHE": folder + "/cache"}
        if size == "toy":
            new |= {"BONELIB_SMOKE": "1", "BONELIB_BACKBONE": "test_efficientnet"}
        began = time.perf_counter()
        for name in NOTEBOOKS[: 1 if size == "toy" else None]:
            subprocess.run(
                [sys.executable, f"notebooks/{name}.py"],
                cwd=root,
                env=os.environ | new,
                check=True,
                capture_output=True,
            )
        return {title: {"bonelib": time.perf_counter() - began} for title in QUESTIONS}


if __name__ == "__main__":
    main(__doc__, measure, QUESTIONS)
