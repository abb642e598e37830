"""Folders of images to measure on: generated ones of the sizes that real sets have, or your own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np

from bonelib.config import CLASSES
from bonelib.data.phantom import radiograph

ROOT = Path(__file__).parents[1] / ".cache" / "benchmarks"
# Height, width, channels, JPEG quality: a public set of knee radiographs, 0.3 to 2 MB per file.
RADIOGRAPHS = ((1024, 1024, 3, 95), (2660, 2180, 3, 80), (1994, 2430, 1, 97))
# A public set of spine DXA printouts, PNG.
PRINTOUTS = ((224, 224, 3, 0),)
SUFFIXES = (".png", ".jpg", ".jpeg")
DISTINCT = 24


def image_folder(file_type: str, count: int, shrink: int = 1, source: str = "") -> Path:
    """A folder with one folder per class and `count` files, made at the first call.

    file_type: "jpeg" or "png". 24 distinct images, each under several names. shrink: divides the
    size. source: a folder whose images are used in place of generated ones.
    """
    folder = ROOT / f"{file_type}-{count}-{shrink}{'-own' if source else ''}"
    if folder.is_dir():
        return folder
    temporary = folder.with_suffix(".part")
    shutil.rmtree(temporary, ignore_errors=True)
    for class_name in CLASSES:
        (temporary / class_name).mkdir(parents=True)
    own = sorted(path for path in Path(source).rglob("*") if path.suffix in SUFFIXES)
    originals = own if source else list(_generated(file_type, temporary, shrink))
    for i, original in enumerate(islice(cycle(originals), count)):
        path = temporary / CLASSES[i % len(CLASSES)] / f"{i:05d}{original.suffix}"
        # Many names, one file on disk.
        try:
            os.link(original, path)
        except OSError:
            shutil.copy(original, path)
    temporary.rename(folder)
    return folder


def _generated(file_type: str, folder: Path, shrink: int) -> Iterator[Path]:
    """24 files; large ones are drawn at a quarter of their size and enlarged, with noise.

    The time that drawing takes is not measured.
    """
    rng = np.random.default_rng(0)
    shapes = RADIOGRAPHS if file_type == "jpeg" else PRINTOUTS
    for i, (full_height, full_width, channels, quality) in enumerate(
        islice(cycle(shapes), DISTINCT)
    ):
        height, width = full_height // shrink, full_width // shrink
        scale = 4 if min(height, width) > 1000 else 1
        knee = radiograph(rng, i % 3, (height // scale, width // scale))
        knee = cv2.resize(knee, (width, height), interpolation=cv2.INTER_CUBIC) * 255
        grey = np.clip(knee + rng.normal(0, 2, knee.shape), 0, 255).astype(np.uint8)
        path = folder / f"{i}.{'jpg' if file_type == 'jpeg' else 'png'}"
        options = [cv2.IMWRITE_JPEG_QUALITY, quality] if file_type == "jpeg" else []
        stored = grey if channels == 1 else cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
        cv2.imwrite(str(path), stored, options)
        yield path
