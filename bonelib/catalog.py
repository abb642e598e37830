"""A folder, a CSV or a Kaggle set to one table, a row a file."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bonelib import dicom, images, metadata, sample
from bonelib.config import CLASSES, Config
from bonelib.metadata import DataError as DataError

AUDIT_SIZE = 224  # pixels: what the audit compares
COLUMNS = ["path", "label", "patient", "width", "height", "format", "bytes", "sha256", "status", "group", "issues"]
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom"}
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
ALIASES = {
    "normal": 0, "healthy": 0, "control": 0,
    "osteopenia": 1, "osteophenia": 1, "osteopenic": 1,
    "osteoporosis": 2, "osteoporotic": 2,
}  # fmt: skip
OTHER = re.compile(r"\b(abnormal|no|not|without|non[a-z]*|osteopetro[a-z]*)\b")  # near a class in letters, and none
MENTION = re.compile(r"\b(ab)?normal\b|healthy|osteop")  # a folder that says something of the class


def catalog(cfg: Config) -> tuple[pd.DataFrame, NDArray[Any], Path]:
    """The table of all files found, pictures of AUDIT_SIZE for its rows with status `ok`, and the folder of the data.

    The table has COLUMNS, then the metadata's columns; `group` and `issues` are filled by the audit. Table.attrs holds
    `metadata_unmatched` (what is found on one side only) and `ignored` (files in class folders that are no pictures).
    `patient` is a hash salted with a secret in the cache; columns of the metadata that say who it is are left out.
    """
    root = locate(cfg)
    found = _from_table(root) if root.is_file() else _from_folders(root, cfg.classes)
    _check_classes(found, root)
    attrs, root = found.attrs, root.parent if root.is_file() else root
    pixels, facts = images.cache(root, found["path"].tolist(), AUDIT_SIZE, cfg.cache)
    own = found.drop(columns=["path", "label"])
    table = pd.concat([found[["path", "label"]], facts], axis=1)
    table["group"] = ""
    table["issues"] = np.where(table["status"] == "ok", "", "unreadable")
    table, attrs["metadata_unmatched"] = metadata.join(table, own, root, cfg)
    readable = (table["status"] == "ok").to_numpy()
    if not readable.any():
        raise DataError(f"none of the {len(table)} files in {root} is readable; the first: {table['status'].iloc[0]}")
    table = table[COLUMNS + [c for c in table.columns if c not in COLUMNS]]
    table.attrs = attrs
    return table, pixels if readable.all() else pixels[readable], root


def locate(cfg: Config) -> Path:
    """The folder or table that `cfg.data` means: the sample is made, a Kaggle set fetched, if not there yet."""
    if cfg.data == "sample":
        count = 60 if cfg.smoke else 320
        folder = Path(cfg.cache) / f"sample-{count}"
        return folder if (folder / "planted.json").exists() else sample.make(folder, images=count)
    path = Path(cfg.data).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".csv"):
        return path
    if re.fullmatch(r"[\w-]+/[\w.-]+", cfg.data) and not path.parent.exists():
        return _from_kaggle(cfg.data)
    raise DataError(
        f"data = {cfg.data!r}: found no such folder from {Path.cwd()}; expected a folder with one sub-folder a class, "
        "a .csv with the columns path and label, a Kaggle slug owner/name, or «sample»"
    )


def class_of(name: str, classes: Mapping[str, str] | None = None) -> str | None:
    """The class that a folder's name means, whatever its case, numbers and common misspellings; None if unclear."""
    if classes and name in classes:
        return classes[name]
    words = _words(name)
    if OTHER.search(words):
        return None
    near = [difflib.get_close_matches(w, ALIASES, 1, cutoff=0.88) for w in words.split()]
    hits = {ALIASES[n[0]] for n in near if n}
    return CLASSES[hits.pop()] if len(hits) == 1 else None


def _words(name: str) -> str:
    return " ".join(re.findall(r"[a-z]+", name.lower()))


def _label(folders: tuple[str, ...], classes: Mapping[str, str]) -> str | None:
    """The class that the deepest folder with a word about it names; None if none has one, or if its word is unclear."""
    for folder in reversed(folders):
        if (label := class_of(folder, classes)) is not None or MENTION.search(_words(folder)):
            return label
    return None


def _from_folders(root: Path, classes: Mapping[str, str]) -> pd.DataFrame:
    """`path`, `label` and, where train/val/test folders exist, `given_split`; the deepest folder that names a class counts."""
    rows: list[tuple[str, str, str]] = []
    unmatched: dict[str, int] = {}
    ignored: list[str] = []
    label_of = lru_cache(None)(lambda folders: _label(folders, classes))
    for path in sorted(_files(root)):
        name, parts = path.relative_to(root).as_posix(), path.relative_to(root).parts
        folders = (".", *(parts if path.suffix == "" and path.is_symlink() else parts[:-1]))
        label = label_of(folders)
        if not is_picture(path):
            ignored += [name] if label else []
        elif label is None:
            unmatched[folders[-1]] = unmatched.get(folders[-1], 0) + 1
        elif label:
            given = [SPLITS[f.lower()] for f in folders if f.lower() in SPLITS]
            rows.append((name, label, given[0] if given else ""))
    if unmatched:
        listed = ", ".join(f"{k!r} ({n} images)" for k, n in list(unmatched.items())[:9])
        more = f" and {len(unmatched) - 9} more" if len(unmatched) > 9 else ""
        raise DataError(
            f"{root}: cannot tell the class of {listed}{more}. Name each as one of {', '.join(CLASSES)}, or say "
            f'classes={{"{next(iter(unmatched))}": "Osteopenia"}}; an empty text leaves a folder out'
        )
    found = pd.DataFrame(rows, columns=["path", "label", "given_split"])
    if not found["given_split"].any():
        found = found.drop(columns="given_split")
    found.attrs["ignored"] = ignored
    return found


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder from `root` on, the names of its folders and of its files, without what is hidden.

    DataError where a folder cannot be listed: rglob would pass over it, and nothing may be lost.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be listed ({error.strerror}): nothing in it may be lost") from error

    for folder, below, names in os.walk(root, onerror=refuse):
        below[:], names = ([n for n in found if not n.startswith((".", "__MACOSX"))] for found in (below, names))
        yield Path(folder), below, names


def is_picture(path: Path) -> bool:
    """Whether a file is to be read: by its suffix or, without one, as DICOM."""
    return path.suffix.lower() in SUFFIXES if path.suffix else dicom.is_dicom(path)


def _files(root: Path) -> Iterator[Path]:
    """All that is not hidden below `root`: files, and of folders those that are links (not followed) or named as pictures."""
    for folder, below, names in walk(root):
        odd = [n for n in below if Path(n).suffix.lower() in SUFFIXES or (folder / n).is_symlink()]
        for name in names + odd:
            if "\r" in name or any("\ud800" <= c <= "\udfff" for c in name):
                raise DataError(f"{folder}: the name {name!r} cannot stand in a table of UTF-8 lines: rename that file")
            yield folder / name


def _check_classes(found: pd.DataFrame, root: Path) -> None:
    missing = [c for c in CLASSES if c not in set(found["label"])]
    if missing:
        have = found["label"].value_counts().to_dict() or "no class"
        passed = f"; passed over: {', '.join(map(repr, found.attrs['ignored'][:3]))}" if found.attrs["ignored"] else ""
        raise DataError(f"{root}: found images of {have}, none of {', '.join(missing)}; expected all three{passed}")


def _from_table(path: Path) -> pd.DataFrame:
    """The rows of a .csv with `path` (relative to it) and `label`; other columns are kept as metadata."""
    found = metadata.read(path)
    if not {"path", "label"} <= set(found.columns):
        raise DataError(f"{path}: found the columns {list(found.columns)}, expected path and label among them")
    found["path"] = found["path"].fillna("")
    here = Path(os.path.realpath(path.parent))
    outside = [p for p in found["path"] if "\0" not in p and not Path(os.path.realpath(here / p)).is_relative_to(here)]
    if outside:
        raise DataError(f"{path}: {outside[0]!r} leaves the folder of the table; put the images beside or below it")
    if found["path"].duplicated().any():
        twice = found["path"][found["path"].duplicated()].iloc[0]
        raise DataError(f"{path}: {twice!r} stands in several rows; keep one row an image, with its one label")
    labels = found["label"].fillna("").map(class_of)
    if labels.isna().any():
        raise DataError(f"{path}: label {found['label'][labels.isna()].iloc[0]!r}: allowed are {', '.join(CLASSES)}")
    found["label"] = labels
    found.attrs["ignored"] = []
    return found


def _from_kaggle(slug: str) -> Path:
    import kagglehub

    try:
        return Path(kagglehub.dataset_download(slug))
    except Exception as error:  # kagglehub raises many kinds: no network, no such set, no licence accepted
        raise DataError(
            f"Kaggle set {slug!r} could not be fetched ({type(error).__name__}: {error}). Check the name and the network; a "
            "set that asks for an account needs its token in the variable or Colab secret KAGGLE_API_TOKEN. Or download it "
            "by hand and give its folder or zip as data"
        ) from error
