"""How long do all notebooks take on the embedded sample, without the installation?

python benchmarks/bench_run.py [--rounds 1]

Runs what `make run` runs, notebook after notebook, into a run folder of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import Question, Round, main

ROOT = Path(__file__).parents[1]
QUESTIONS = {"make run, without the installation": Question("s", at_most=240)}


def measure(size: str = "full") -> Round:
    scripts = sorted((ROOT / "notebooks").glob("*.py"))
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "BONELIB_RUN": f"{folder}/run",
            "BONELIB_CACHE": f"{folder}/cache",
        }
        if size == "toy":
            scripts = scripts[:1]
            environment |= {"BONELIB_SMOKE": "1", "BONELIB_BACKBONE": "test_efficientnet"}
        start = time.perf_counter()
        for script in scripts:
            command = [sys.executable, str(script)]
            subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        return {title: {"bonelib": time.perf_counter() - start} for title in QUESTIONS}


if __name__ == "__main__":
    main(__doc__, measure, QUESTIONS)
