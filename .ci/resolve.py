"""Would the requirements move a package of a stock Colab runtime? Nothing is installed.

The argument is a file of .ci/colab, whose first lines name the Python of the runtime.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGET = ["--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:"]


def added(requirements: str, stock: Path, *options: str) -> list[str]:
    """The packages that `requirements` add to `stock`; RuntimeError if one there would move."""
    python = re.search(r"Python (3\.\d+)", stock.read_text())
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "-",
        "--constraint",
        str(stock),
        *TARGET,
        *(["--python-version", python[1]] if python else []),
        *options,
    ]
    command += [
        "--quiet",
        "--no-header",
        "--no-annotate",
        "--python",
        sys.executable,
    ]  # else uv looks for a Python 3.13
    done = subprocess.run(command, input=requirements, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the requirements do not go with {stock.name}:\n{done.stderr}")
    there = set(names(stock.read_text()))
    return [line for line in done.stdout.split() if not there & set(names(line))]


def names(pins: str) -> list[str]:
    return [re.sub(r"[-_.]+", "-", n).lower() for n in re.findall(r"^([\w.-]+)==", pins, re.M)]


if __name__ == "__main__":
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    wanted = "\n".join([(ROOT / "requirements.txt").read_text(), *chain(*extras.values())])
    new = added(wanted, Path(sys.argv[1]))
    # torch brings its CUDA libraries; on Colab they are there with it
    print(
        "nothing in a stock Colab runtime moves; added:",
        *(n for n in new if not n.startswith(("nvidia-", "cuda-"))),
    )
