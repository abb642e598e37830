"""A folder, a table or a Kaggle data set as one table with one row per file."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from bonelib.config import CLASSES, Config, present_classes
from bonelib.data import fetch, folders, metadata, patients, sample, tables
from bonelib.data.cache import cached_images
from bonelib.data.metadata import CATALOG_COLUMNS as CATALOG_COLUMNS
from bonelib.data.review import apply_review
from bonelib.messages import DataError, Finding

# Pixels per side of the images that the audit compares.
THUMBNAIL = 224
# Images with one of these issues are not used.
SET_ASIDE = ("copy", "conflict", "blank", "leak", "excluded")
# Archives that are not unpacked.
ARCHIVE_SUFFIXES = {".rar", ".7z", ".tar", ".tgz", ".gz", ".bz2", ".xz"}


@dataclass
class Catalog:
    """All files of a data set, before the audit.

    table: CATALOG_COLUMNS (group still empty), metadata, `coloured` (share of coloured pixels).
    thumbnails: (n, 224, 224) uint8 of the rows with status "ok", in order. skipped: files in class
    folders that are no images. unmatched: metadata without image, and images without metadata.
    findings: what was understood or left out on the way.
    """

    table: pd.DataFrame
    thumbnails: np.ndarray
    root: Path
    skipped: list[str]
    unmatched: list[str]
    findings: list[Finding] = field(default_factory=list)


def load_catalog(cfg: Config) -> Catalog:
    """The catalog of `cfg.data`; DataError if a class is unclear, or if too few are there."""
    findings: list[Finding] = []
    skipped: list[str] = []
    left_over: list[str] = []
    place = locate(cfg)
    root = place.parent if place.is_file() else place
    if place.is_file():
        found, left_over = tables.from_table(place, cfg, findings)
    else:
        found, skipped = folders.from_folders(place, cfg, findings)
    _check_labels(found, skipped, place, cfg, findings)
    found = found[found["label"] != ""].reset_index(drop=True)
    images, facts = cached_images(root, found["path"].tolist(), THUMBNAIL, cfg.cache)
    readable = facts["status"] == "ok"
    if not readable.any():
        raise DataError(f"{root}: none of {len(facts)} files is readable: {facts['status'][0]}")
    table = facts.assign(path=found["path"], label=found["label"], group="")
    table["issues"] = np.where(readable, "", "unreadable")
    apply_review(table, root, cfg.class_names, findings)
    own = found.drop(columns=["path", "label", "named"], errors="ignore")
    table, unmatched = metadata.join(table[CATALOG_COLUMNS], own, root, cfg, findings)
    table["coloured"] = facts["coloured"]
    _check_t_scores(table, findings)
    findings += patients.crowded_patients(table)
    thumbnails = images if readable.all() else images[readable.to_numpy()]
    return Catalog(table, thumbnails, root, skipped, left_over + unmatched, findings)


def locate(cfg: Config) -> Path:
    """The folder or table that `cfg.data` means; the sample is made, a Kaggle set downloaded."""
    if cfg.data == "sample":
        count = 60 if cfg.smoke else 320
        folder = Path(cfg.cache) / f"sample-v2-{count}"
        return folder if folder.is_dir() else sample.make_sample(folder, images=count)
    path = Path(cfg.data).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir() or (path.is_file() and suffix in tables.TABLE_SUFFIXES):
        return path
    if path.is_file() and suffix == ".zip":
        return fetch.unpack(path, Path(cfg.cache))
    if re.fullmatch(r"[\w-]+/[\w.-]+", cfg.data) and not path.parent.exists():
        return fetch.from_kaggle(cfg.data)
    if "://" in cfg.data:
        problem = "is an address: download the data, and give the folder or the .zip"
    elif not path.exists():
        problem = f"does not exist in {Path.cwd()}"
    elif suffix in ARCHIVE_SUFFIXES:
        problem = "is an archive of another kind: unpack it and give the folder, or pack a .zip"
    elif folders.is_image(path):
        problem = "is one image: give a folder (one image can be predicted: images, in 05_predict)"
    else:
        problem = f"is a file {suffix or 'without suffix'}"
    raise DataError(
        f"data = {cfg.data!r} (BONELIB_DATA, in the form: data) {problem}. Expected a folder with "
        "one folder per class, a .zip of it, a table (.csv, .xlsx) with path and label, or a "
        "Kaggle data set owner/name"
    )


def has_issue(table: pd.DataFrame, *words: str) -> pd.Series:
    """Which rows have one of the issues."""
    return ~table["issues"].fillna("").str.split(";").map(set(words).isdisjoint).astype(bool)


def usable(table: pd.DataFrame) -> pd.Series:
    """Which rows of an audited table are used for training and evaluation."""
    return (table["status"] == "ok") & ~has_issue(table, *SET_ASIDE)


def _check_labels(found: pd.DataFrame, skipped: list, place: Path, cfg: Config, findings: list):
    """Raise DataError if a class is unclear, or fewer than two are there; note missing ones."""
    names = ", ".join(cfg.class_names)
    unclear = found[found["label"].isna()]
    if len(unclear):
        counts = unclear["named"].value_counts(sort=False)
        listed = ", ".join(f"{name!r} ({n} images)" for name, n in counts[:9].items())
        raise DataError(
            f"{place}: the class of {listed} is unclear ({len(counts)} names in all), e.g. of "
            f"{unclear['path'].iloc[0]!r}. Rename the folders; or set classes (BONELIB_CLASSES), "
            f'e.g. {{"folder name": "class name"}}, with one of {names} or an empty text, which '
            "excludes images; or give a table with path and label as data (BONELIB_DATA)"
        )
    present = present_classes(cfg, found["label"])
    missing = [name for name in cfg.class_names if name not in present]
    if len(present) < 2:
        raise DataError(
            f"{place}: found images of {', '.join(present) or 'no class'}; expected two or more of "
            f"{names}; skipped: {', '.join(skipped[:3]) or 'nothing'}"
        )
    if missing:
        text = f"The data hold no images of {', '.join(missing)}: the classes are "
        findings.append(Finding("note", f"{text}{', '.join(present)}."))


def _check_t_scores(table: pd.DataFrame, findings: list[Finding]) -> None:
    """Mark the images whose label contradicts their T-score."""
    scores = tables.t_scores(table)
    if scores is None:
        return
    expected = tables.who_class(scores)
    wrong = scores.notna() & table["label"].isin(CLASSES) & (expected != table["label"])
    wrong &= ~has_issue(table, "reviewed", "excluded")
    if wrong.any():
        i = int(np.argmax(wrong))
        table.loc[wrong & (table["issues"] == ""), "issues"] = "t_score"
        text = f"{wrong.sum():,} labels contradict the T-score, e.g. {table['path'][i]!r}: "
        text += f"{table['label'][i]}, T-score {scores[i]:g}, by the WHO {expected[i]}."
        findings.append(Finding("warning", text))
