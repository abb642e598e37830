"""Put the repository's address into badges and setup cells: `stamp.py owner/name`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BADGE = r"colab\.research\.google\.com/github/"
# in pyproject.toml, and in a setup cell, as Python or as JSON
CONSTANT = r'repository = \\?"https://github\.com/'
ADDRESS = re.compile(rf'({BADGE}|{CONSTANT})([\w.-]+/[\w.-]+?)(?=/blob/|\\?")', re.IGNORECASE)


def files(root: Path = ROOT) -> list[Path]:
    return [root / "pyproject.toml", root / "README.md", *sorted(root.glob("notebooks/*.*py*"))]


def found(path: Path) -> list[str]:
    """Each owner/name that stands in a file."""
    return [m[2] for m in ADDRESS.finditer(path.read_text())]


def stamp(repo: str, root: Path = ROOT) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise SystemExit(f"found {repo!r}, expected owner/name: make colab REPO=owner/name")
    for path in files(root):
        path.write_text(ADDRESS.sub(rf"\g<1>{repo}", path.read_text()))


if __name__ == "__main__":
    stamp(*sys.argv[1:] or [""])
