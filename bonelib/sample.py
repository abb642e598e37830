"""Synthetic knee radiographs with known classes and planted defects: the embedded default data.

Only the bone tells the class: brightness, contrast, size, format and names are drawn without looking at it.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bonelib import phantom

FOLDERS = ("Normal", "osteophenia", "Osteoporosis")  # the second in a spelling that real data sets use
SHARES = (0.45, 0.33, 0.22)
SPREAD = 0.1  # of bone loss within a class, whose centres are 1 apart
T_SCORES = ((-0.95, 1.8), (-2.45, -1.05), (-4.2, -2.55))  # the WHO's limits: -1 and -2.5
FEWEST = 7  # patients a class, so that every split gets some
COLUMNS = ("image", "patient_id", "age", "sex", "t_score")


def _patients(rng: np.random.Generator, images: int) -> Iterator[dict[str, Any]]:
    """Every patient, in an order that doesn't tell the class, with how many `pictures` are taken."""
    counts = [round(images * share) for share in SHARES[1:]]
    people = []
    for label, n in enumerate([images - sum(counts), *counts]):
        taken = np.ones(max(FEWEST, round(n / 1.9)), int)
        for _ in range(n - len(taken)):
            taken[rng.choice(np.flatnonzero(taken < 3))] += 1
        people += [(label, int(t)) for t in taken]
    for number, k in enumerate(rng.permutation(len(people))):
        label, pictures = people[k]
        within = float(np.clip(rng.normal(0, SPREAD), -0.5, 0.5))
        low, high = T_SCORES[label]
        t_score = high - (high - low) * np.clip(0.5 + within + rng.normal(0, 0.15), 0, 1)
        yield {
            "patient_id": f"P{number:04d}",
            "label": label,
            "pictures": pictures,
            "loss": label + within,
            "jitter": rng.normal(0, 0.1, (20, 2)),
            "age": int(np.clip(rng.normal(58 + 4 * label, 11), 32, 91)),
            "sex": "female" if rng.random() < 0.58 + 0.08 * label else "male",
            "t_score": round(float(t_score), 2),
        }


def _plan(rng: np.random.Generator, images: int, names: Iterator[str]) -> list[dict[str, Any]]:
    """Every picture to be drawn: its patient's facts, and its own `view`, `side`, `shape` and `path`."""
    plan = [dict(person) for person in _patients(rng, images) for _ in range(person["pictures"])]
    seen = [0] * len(FOLDERS)
    for picture in plan:
        label = picture["label"]
        seen[label] += 1  # every fifth of a class is a JPEG, so the format can't tell it
        long = int(rng.integers(300, 421))
        shape = (long, max(260, int(long * rng.uniform(0.75, 1))))
        picture["shape"] = shape if rng.random() < 0.85 else shape[::-1]
        picture["view"] = "lateral" if rng.random() < 0.2 else "frontal"
        picture["side"] = "L" if rng.random() < 0.5 else "R"
        picture["path"] = f"{FOLDERS[label]}/{next(names)}{'.png' if seen[label] % 5 else '.jpg'}"
    return plan


def _encoded(grey: NDArray[Any], suffix: str) -> bytes:
    return cv2.imencode(suffix, grey)[1].tobytes()


def _decoded(data: bytes) -> NDArray[Any]:
    return np.asarray(Image.open(BytesIO(data)))


def _drawn(picture: dict[str, Any], rng: np.random.Generator) -> bytes:
    """The file of a picture: 8 bits, or a detector's 12 in a 16-bit PNG if it is `deep`."""
    shown = phantom.radiograph(rng, *(picture[key] for key in ("loss", "shape", "view", "side", "jitter")))
    grey = (shown * 4095).astype(np.uint16) if picture.get("deep") else (shown * 255).astype(np.uint8)
    return _encoded(grey, Path(picture["path"]).suffix)


def _defects(sources: list[dict[str, Any]], files: dict[str, bytes]) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    """What comes on top of the good pictures: kind, the picture it is made from, its bytes."""
    conflict, one, two, mirrored, rescaled, truncated, empty = sources
    for kind, of in (("conflict", conflict), ("byte_identical", one), ("byte_identical", two)):
        yield kind, of, files[of["path"]]
    left, large = _decoded(files[mirrored["path"]]), _decoded(files[rescaled["path"]])
    yield "mirrored", mirrored, _encoded(cv2.flip(left, 1), ".png")
    small = cv2.resize(large, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    yield "rescaled_jpeg", rescaled, _encoded(small, ".jpg")
    whole = files[truncated["path"]]
    yield "truncated", truncated, whole[: len(whole) * 3 // 5]
    yield "empty", empty, b""


def _planted(
    sources: list[dict[str, Any]], plan: list[dict[str, Any]], files: dict[str, bytes], names: Iterator[str]
) -> list[dict[str, str]]:
    """The defects as the rows of `planted.json`; each is added to `plan` and `files`."""
    planted = []
    for kind, of, data in list(_defects(sources, files)):
        label = of["label"] + (kind == "conflict")
        path = f"{FOLDERS[label]}/{next(names)}{'.jpg' if kind == 'rescaled_jpeg' else '.png'}"
        files[path] = data
        planted.append({"kind": kind, "path": path, "of": of["path"]})
        # registered anew, as in the real sets: the patient id doesn't give a copy away
        again = {"path": path, "label": label, "patient_id": f"P{len(plan):04d}"}
        plan.append(of | again | ({"t_score": -1.8} if kind == "conflict" else {}))
    return planted


def _write(folder: Path, files: dict[str, bytes], plan: list[dict[str, Any]], planted: list[dict[str, str]]) -> None:
    """All files at once: written beside the folder, then put in its place, so that no half sample is left."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    for name in FOLDERS:
        (part / name).mkdir(parents=True)
    for path, data in files.items():
        (part / path).write_bytes(data)
    with (part / "metadata.csv").open("w", newline="", encoding="utf-8") as sheet:
        writer = csv.writer(sheet)
        writer.writerow(COLUMNS)
        writer.writerows(sorted([p["path"], *(p[column] for column in COLUMNS[1:])] for p in plan))
    (part / "planted.json").write_text(json.dumps(planted, indent=2) + "\n", encoding="utf-8")
    try:
        part.rename(folder)
    except OSError:
        if not (folder / "planted.json").exists():
            raise
        shutil.rmtree(part)  # another run, begun at the same time, was faster with the same sample


def make(folder: str | Path, seed: int = 0, images: int = 320) -> Path:
    """The folder, filled: three class folders, `metadata.csv` and `planted.json` (kind, path, of: what it comes from).

    images: how many distinct good pictures, 36 or more; seven defective files come on top. An earlier sample there is
    replaced. Raises ValueError for too few images, FileExistsError if the folder holds anything but a sample.
    """
    if not 36 <= images <= 60_000:
        raise ValueError(f"images is {images}, expected 36 to 60000 (each class needs {FEWEST} patients)")
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "planted.json").exists():
        raise FileExistsError(f"{folder} holds other files: name a new or empty folder for the sample")
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng([seed, images])
    names = (f"{n:04x}" for n in rng.permutation(1 << 16))
    plan = _plan(rng, images, names)
    pngs = [plan[i] for i in rng.permutation(images) if plan[i]["path"].endswith(".png")]
    healthy = next(p for p in pngs if p["label"] == 0)
    deep, *others = (p for p in pngs if p["patient_id"] != healthy["patient_id"])
    deep["deep"] = True
    with ThreadPoolExecutor() as pool:  # OpenCV and NumPy let go of the interpreter
        files = dict(zip([p["path"] for p in plan], pool.map(_drawn, plan, rng.spawn(images)), strict=True))
    planted = [
        {"kind": "folder_spelling", "path": FOLDERS[1], "of": "Osteopenia"},
        {"kind": "sixteen_bit", "path": deep["path"], "of": ""},
    ]
    planted += _planted([healthy, *others[:6]], plan, files, names)
    _write(folder, files, plan, planted)
    return folder
