"""A folder, a table or a Kaggle data set as one table with one row per file."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import pandas as pd

from bonelib.config import CLASSES, Config, present_classes
from bonelib.data import fetch, metadata, sample
from bonelib.data.cache import cached_images
from bonelib.data.dicom import is_dicom
from bonelib.data.metadata import CATALOG_COLUMNS as CATALOG_COLUMNS
from bonelib.messages import DataError

# np.ndarray per side of the images that the audit compares.
THUMBNAIL = 224
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom"}
# Images with one of these issues are not used.
SET_ASIDE = ("copy", "conflict", "blank")
GIVEN_SPLIT = re.compile(r"(train|val|test)(?:ing|id|idation)?", re.I)
# Words for the default class names.
ALIASES = {"normal": 0, "healthy": 0, "control": 0, "osteopenia": 1, "osteophenia": 1}
ALIASES |= {"osteopenic": 1, "osteoporosis": 2, "osteoporotic": 2}
# Words near those that mean something else, and words of folder names that are about the class.
UNCLEAR = re.compile(r"\b(abnormal|no|not|without|non[a-z]*|osteopetro[a-z]*)\b")
ABOUT_CLASS = re.compile(r"\b(ab)?normal\b|healthy|osteop")


@dataclass
class Catalog:
    """All files of a data set, before the audit.

    table: CATALOG_COLUMNS (group still empty), metadata, `coloured` (share of coloured pixels).
    thumbnails: (n, 224, 224) uint8 of the rows with status "ok", in order. skipped: files in class
    folders that are no images. unmatched: metadata without image, and images without metadata.
    """

    table: pd.DataFrame
    thumbnails: np.ndarray
    root: Path
    skipped: list[str]
    unmatched: list[str]


def load_catalog(cfg: Config) -> Catalog:
    """The catalog of `cfg.data`; DataError if a class is unclear or absent, or nothing readable."""
    place = locate(cfg)
    root = place.parent if place.is_file() else place
    found, skipped = _from_table(place, cfg) if place.is_file() else _from_folders(place, cfg)
    _check_labels(found, skipped, place, cfg)
    found = found[found["label"] != ""].reset_index(drop=True)
    images, facts = cached_images(root, found["path"].tolist(), THUMBNAIL, cfg.cache)
    readable = facts["status"] == "ok"
    if not readable.any():
        raise DataError(f"{root}: none of {len(facts)} files is readable: {facts['status'][0]}")
    table = facts.assign(path=found["path"], label=found["label"], group="")
    table["issues"] = np.where(readable, "", "unreadable")
    own = found.drop(columns=["path", "label", "named"])
    table, unmatched = metadata.join(table[CATALOG_COLUMNS], own, root, cfg)
    table["coloured"] = facts["coloured"]
    thumbnails = images if readable.all() else images[readable.to_numpy()]
    return Catalog(table, thumbnails, root, skipped, unmatched)


def locate(cfg: Config) -> Path:
    """The folder or table that `cfg.data` means; the sample is made, a Kaggle set downloaded."""
    if cfg.data == "sample":
        count = 60 if cfg.smoke else 320
        folder = Path(cfg.cache) / f"sample-v2-{count}"
        return folder if folder.is_dir() else sample.make_sample(folder, images=count)
    path = Path(cfg.data).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".csv"):
        return path
    if re.fullmatch(r"[\w-]+/[\w.-]+", cfg.data) and not path.parent.exists():
        return fetch.from_kaggle(cfg.data)
    raise DataError(
        f"data = {cfg.data!r} (BONELIB_DATA) does not exist in {Path.cwd()}; expected a folder "
        "with one folder per class, a .csv with path and label, or a Kaggle data set owner/name"
    )


def class_of(name: str, class_names: tuple, mapping: Mapping[str, str] | None = None) -> str | None:
    """The class that a folder name or label means; None if unclear.

    Case, numbers and common misspellings are ignored. mapping: the setting `classes`.
    """
    if mapping and name in mapping:
        return mapping[name]
    known = {known.casefold(): known for known in class_names}
    if name.casefold() in known:
        return known[name.casefold()]
    words = _words(name)
    if UNCLEAR.search(words):
        return None
    near = [difflib.get_close_matches(word, ALIASES, 1, cutoff=0.88) for word in words.split()]
    meanings = {CLASSES[ALIASES[match[0]]] for match in near if match}.intersection(class_names)
    return meanings.pop() if len(meanings) == 1 else None


def has_issue(table: pd.DataFrame, *words: str) -> pd.Series:
    """Which rows have one of the issues."""
    return ~table["issues"].fillna("").str.split(";").map(set(words).isdisjoint).astype(bool)


def usable(table: pd.DataFrame) -> pd.Series:
    """Which rows of an audited table are used for training and evaluation."""
    return (table["status"] == "ok") & ~has_issue(table, *SET_ASIDE)


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder from `root` on, the names of its folders, and of its files, unless hidden.

    Links to folders, and folders named as images, count as files. DataError for a folder that
    cannot be listed and a name that cannot be written: nothing may be lost silently.
    """

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be listed ({error.strerror})") from error

    for folder, below, names in os.walk(root, onerror=fail):
        below[:] = [name for name in below if not name.startswith((".", "__MACOSX"))]
        paths = [Path(folder, name) for name in below]
        odd = [p.name for p in paths if p.is_symlink() or p.suffix.lower() in IMAGE_SUFFIXES]
        files = [name for name in names + odd if not name.startswith(".")]
        for name in files:
            if re.search("[\r\ud800-\udfff]", name):
                raise DataError(f"{folder}: the name {name!r} is not valid text: rename that file")
        yield Path(folder), below, files


def is_image(path: Path) -> bool:
    """Whether a file is to be read: by its suffix or, without one, as DICOM."""
    return path.suffix.lower() in IMAGE_SUFFIXES if path.suffix else is_dicom(path)


def _words(name: str) -> str:
    return " ".join(re.findall(r"[a-z]+", name.lower()))


def _label(folder: PurePath, cfg: Config) -> str | None:
    """The class that the deepest folder about the class means; None if there is none or unclear."""
    for name in (*reversed(folder.parts), "."):
        label = class_of(name, cfg.class_names, cfg.classes)
        if label is not None or ABOUT_CLASS.search(_words(name)):
            return label
    return None


def _from_folders(root: Path, cfg: Config) -> tuple[pd.DataFrame, list[str]]:
    """`path`, `label`, `named` (its folder) and `given_split`, if any; and skipped files."""
    files = [folder / name for folder, _, names in walk(root) for name in names]
    paths = sorted(file.relative_to(root) for file in files)
    labels = {folder: _label(folder, cfg) for folder in {path.parent for path in paths}}
    images = [path for path in paths if is_image(root / path)]
    skipped = [
        path.as_posix()
        for path in sorted({*paths} - {*images})
        if labels[path.parent] or (root / path).is_dir()
    ]
    found = pd.DataFrame({"path": [path.as_posix() for path in images]}, dtype=str)
    found["label"] = [labels[path.parent] for path in images]
    found["named"] = [path.parent.name or "." for path in images]
    given = [[GIVEN_SPLIT.fullmatch(part) for part in path.parts] for path in images]
    splits = [next((m[1].lower() for m in matches if m), "") for matches in given]
    return found.assign(given_split=splits) if any(splits) else found, skipped


def _from_table(path: Path, cfg: Config) -> tuple[pd.DataFrame, list[str]]:
    """`path`, `label`, `named` (the label as written) and other columns of a .csv."""
    found = metadata.read_table(path)
    if not {"path", "label"} <= set(found.columns):
        raise DataError(f"{path}: the columns are {list(found)}, expected path and label as well")
    found["path"], found["named"] = found["path"].fillna(""), found["label"].fillna("")
    found["label"] = [class_of(name, cfg.class_names, cfg.classes) for name in found["named"]]
    repeated = found["path"][found["path"].duplicated()]
    if len(repeated):
        raise DataError(f"{path}: {repeated.iloc[0]!r} is in several rows; keep one row per image")
    root = Path(os.path.realpath(path.parent))
    for name in found["path"]:
        if "\0" not in name and not Path(os.path.realpath(root / name)).is_relative_to(root):
            raise DataError(f"{path}: {name!r} is outside of the folder of the table")
    return found, []


def _check_labels(found: pd.DataFrame, skipped: list[str], place: Path, cfg: Config) -> None:
    unclear = found["named"][found["label"].isna()].value_counts(sort=False)
    if len(unclear):
        listed = ", ".join(f"{name!r} ({n} images)" for name, n in unclear[:9].items())
        raise DataError(
            f"{place}: the class of {listed} is unclear ({len(unclear)} names in all). Rename them "
            f'or set classes (BONELIB_CLASSES), e.g. {{"{unclear.index[0]}": '
            f'"{cfg.class_names[0]}"}}; an empty text excludes images'
        )
    present = present_classes(cfg, found["label"])
    if len(present) < len(cfg.class_names):
        raise DataError(
            f"{place}: found images of {', '.join(present) or 'no class'}; expected all of "
            f"{', '.join(cfg.class_names)}; skipped: {', '.join(skipped[:3]) or 'nothing'}"
        )
