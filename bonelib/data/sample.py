"""Synthetic knee radiographs with known classes and planted defects: the embedded default data.

Only the bone depends on the class; brightness, contrast, size, format and names do not.
"""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from bonelib import storage
from bonelib.data import phantom
from bonelib.data.fetch import new_folder
from bonelib.data.images import decode
from bonelib.messages import DataError

# The second has a spelling that is common in real data sets.
SAMPLE_FOLDERS = ("Normal", "osteophenia", "Osteoporosis")
SAMPLE_SHARES = (0.45, 0.33, 0.22)
# T-scores of the classes, within the limits of the WHO: -1 and -2.5.
T_SCORES = ((-0.95, 1.8), (-2.45, -1.05), (-4.2, -2.55))
# Standard deviation of bone loss within a class; the classes' centres are 1 apart.
LOSS_DEVIATION = 0.1
SAMPLE_COLUMNS = ["image", "patient_id", "age", "sex", "t_score"]


def make_sample(folder: str | Path, seed: int = 0, images: int = 320) -> Path:
    """The new folder, with three class folders, `metadata.csv` and `planted.json`.

    images: an even number of distinct good images, at least 60, so that each class has seven
    patients; seven defective files are added.
    planted.json lists the defects: kind, path, and `of`, the image it is made from. Raises
    DataError if the folder is not empty.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty: name another folder for the sample")
    with new_folder(folder) as new:
        _write_sample(new, np.random.default_rng([seed, images]), images)
    return folder


def _write_sample(folder: Path, rng: np.random.Generator, images: int) -> None:
    names = [f"{number:04x}" for number in rng.permutation(1 << 16)]
    plan = _plan(rng, images, names)
    # Eight PNG files, the first one of class Normal: sources of the defects, and the 16-bit image.
    pngs = rng.permutation(plan.index[plan["image"].str.endswith(".png")])
    normal = pngs[plan["label"][pngs] == 0][0]
    chosen = [normal, *pngs[pngs != normal][:7]]
    plan["bits"] = np.where(plan.index == chosen[7], 12, 8)
    rows = plan.assign(rng=rng.spawn(images)).to_dict("records")
    files = dict(zip(plan["image"], storage.parallel_map(_draw, rows), strict=True))
    defects = _defects([rows[i] for i in chosen[:7]], files, names[images:])
    files |= {row["image"]: row["content"] for row in defects}
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    table = pd.DataFrame(rows + defects)[SAMPLE_COLUMNS].sort_values("image")
    storage.write_csv(folder / "metadata.csv", table)
    spelling = ("folder_spelling", SAMPLE_FOLDERS[1], "Osteopenia")
    planted = [spelling, ("sixteen_bit", rows[chosen[7]]["image"], "")]
    planted += [(row["kind"], row["image"], row["of"]) for row in defects]
    facts = pd.DataFrame(planted, columns=["kind", "path", "of"]).to_dict("records")
    storage.write_json(folder / "planted.json", facts)


def _plan(rng: np.random.Generator, images: int, names: list[str]) -> pd.DataFrame:
    """One row per image to be drawn, two for each patient: facts for `_draw`, and the metadata."""
    size = images // 2
    counts = [round(size * share) for share in SAMPLE_SHARES[1:]]
    labels = np.repeat([0, 1, 2], [size - sum(counts), *counts])
    deviation = np.clip(rng.normal(0, LOSS_DEVIATION, size), -0.5, 0.5)
    low, high = np.array(T_SCORES)[labels].T
    position = np.clip(0.5 + deviation + rng.normal(0, 0.15, size), 0, 1)
    patients = pd.DataFrame({"label": labels, "loss": labels + deviation})
    patients["outline_seed"] = rng.integers(2**31, size=size)
    patients["patient_id"] = [f"P{number:04d}" for number in rng.permutation(size)]
    patients["age"] = np.clip(rng.normal(58 + 4 * labels, 11), 32, 91).astype(int)
    patients["sex"] = np.where(rng.random(size) < 0.58 + 0.08 * labels, "female", "male")
    patients["t_score"] = (high - (high - low) * position).round(2)
    plan = patients.loc[np.repeat(patients.index, 2)].reset_index(drop=True)
    # Every fifth of a class is a JPEG, so that the format does not depend on the class.
    jpeg = plan.groupby("label").cumcount() % 5 == 4
    folders = plan["label"].map(lambda label: f"{SAMPLE_FOLDERS[label]}/")
    return plan.assign(image=folders + names[:images] + np.where(jpeg, ".jpg", ".png"))


def _draw(row: dict) -> bytes:
    """The file of an image: 8 bits, or 12 bits in a 16-bit PNG."""
    rng = row["rng"]
    long = int(rng.integers(300, 421))
    short = max(260, int(long * rng.uniform(0.75, 1)))
    shape = (long, short) if rng.random() < 0.85 else (short, long)
    image = phantom.radiograph(rng, row["loss"], shape, row["outline_seed"])
    grey = (image * (2 ** row["bits"] - 1)).astype(np.uint8 if row["bits"] == 8 else np.uint16)
    return _encode(grey, Path(row["image"]).suffix)


def _encode(image: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def _defects(sources: list[dict], files: dict[str, bytes], names: list[str]) -> list[dict]:
    """Seven rows like their sources, with `kind`, `of` (the source's path) and `content`."""
    contents = [files[source["image"]] for source in sources]
    left, large = (decode(content)[0] for content in contents[3:5])
    smaller = cv2.resize(large, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    made = [
        ("conflict", contents[0]),
        ("byte_identical", contents[1]),
        ("byte_identical", contents[2]),
        ("mirrored", _encode(cv2.flip(left, 1), ".png")),
        ("rescaled_jpeg", _encode(smaller, ".jpg")),
        ("truncated", contents[5][: len(contents[5]) * 3 // 5]),
        ("empty", b""),
    ]
    rows = pd.DataFrame(sources).assign(of=[source["image"] for source in sources])
    rows["kind"], rows["content"] = zip(*made, strict=True)
    rows.loc[0, ["label", "t_score"]] = 1, -1.8
    # Registered as other patients, as in real data sets.
    rows["patient_id"] = [f"P{len(files) + i:04d}" for i in rows.index]
    suffixes = np.where(rows["kind"] == "rescaled_jpeg", ".jpg", ".png")
    folders = rows["label"].map(lambda label: f"{SAMPLE_FOLDERS[label]}/")
    return rows.assign(image=folders + names[: len(rows)] + suffixes).to_dict("records")
