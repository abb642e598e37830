"""Folders of pictures to measure on: generated ones of the sizes that real sets have, or someone's own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np

from bonelib import phantom
from bonelib.config import CLASSES

ROOT = Path(__file__).parents[1] / ".cache" / "benchmarks"
# height, width, channels, JPEG quality: what a public set of knee radiographs holds, at 0.3 to 2 MB a file
RADIOGRAPHS = ((1024, 1024, 3, 95), (2660, 2180, 3, 80), (1994, 2430, 1, 97))
PRINTOUTS = ((224, 224, 3, 0),)  # a public set of spine DXA printouts, PNG


def folder(kind: str, rows: int, shrink: int = 1, source: str = "") -> Path:
    """A folder of three class folders with `rows` files of `kind` («jpeg» or «png»), made at the first call.

    24 distinct pictures, each under several names; `source` takes someone's own in their place, `shrink` divides the size.
    """
    made = ROOT / f"{kind}-{rows}-{shrink}{'-own' if source else ''}"
    if made.is_dir():
        return made
    part = made.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    for label in CLASSES:
        (part / label).mkdir(parents=True)
    own = sorted(p for p in Path(source).rglob("*") if p.suffix in (".png", ".jpg", ".jpeg")) if source else []
    originals = own or list(_drawn(kind, part, shrink))
    for i, original in enumerate(islice(cycle(originals), rows)):
        name = part / CLASSES[i % 3] / f"{i:05d}{original.suffix}"
        try:
            os.link(original, name)  # as many names, one copy on disk
        except OSError:
            shutil.copy(original, name)
    part.rename(made)
    return made


def _drawn(kind: str, part: Path, shrink: int) -> Iterator[Path]:
    """24 files; a large one is drawn at a quarter of its size and enlarged, with grain: the drawing is not measured."""
    rng = np.random.default_rng(0)
    for i, shape in enumerate(islice(cycle(RADIOGRAPHS if kind == "jpeg" else PRINTOUTS), 24)):
        height, width, channels, quality = shape[0] // shrink, shape[1] // shrink, *shape[2:]
        few = 4 if min(height, width) > 1000 else 1
        knee = phantom.radiograph(rng, i % 3, (height // few, width // few))
        knee = cv2.resize(knee, (width, height), interpolation=cv2.INTER_CUBIC) * 255
        grey = np.clip(knee + rng.normal(0, 2, knee.shape), 0, 255).astype(np.uint8)
        path = part / f"{i}.{'jpg' if kind == 'jpeg' else 'png'}"
        options = [cv2.IMWRITE_JPEG_QUALITY, quality] if kind == "jpeg" else []
        cv2.imwrite(str(path), grey if channels == 1 else cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), options)
        yield path
