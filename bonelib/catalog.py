"""A folder, a CSV or a Kaggle set to one table, a row a file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bonelib import images, sample
from bonelib.config import CLASSES, Config

AUDIT_SIZE = 224  # pixels: what the audit compares
COLUMNS = ["path", "label", "patient", "width", "height", "format", "bytes", "sha256", "status", "group", "issues"]
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom"}
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
ALIASES = {
    "normal": 0, "healthy": 0, "control": 0,
    "osteopenia": 1, "osteophenia": 1, "osteopenic": 1,
    "osteoporosis": 2, "osteoporotic": 2,
}  # fmt: skip
NEGATIONS = {"abnormal", "non", "not", "no", "without"}
PATIENT_COLUMNS = ("patient", "patient_id", "patientid", "subject", "subject_id", "subjectid")


class DataError(ValueError):
    """Data that cannot be read as three classes of images; the message says what was found and what to do."""


def catalog(cfg: Config) -> tuple[pd.DataFrame, NDArray[Any], Path]:
    """The table of all files found, pictures of AUDIT_SIZE for its rows with status `ok`, and the folder of the data.

    The table has COLUMNS, then the metadata's columns; `group` and `issues` are filled by the audit. Table.attrs holds
    `metadata_unmatched` (names found on one side only) and `ignored` (files that are no pictures).
    """
    root = locate(cfg)
    found = _from_table(root) if root.is_file() else _from_folders(root, cfg.classes)
    attrs, root = found.attrs, root.parent if root.is_file() else root
    pixels, facts = images.cache(root, found["path"].tolist(), AUDIT_SIZE, cfg.cache)
    table = pd.concat([found.reset_index(drop=True), facts.rename(columns={"patient": "_patient"})], axis=1)
    table["group"] = ""
    table["issues"] = np.where(table["status"] == "ok", "", "unreadable")
    table, attrs["metadata_unmatched"] = _with_metadata(table, root, cfg)
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
    words = re.findall(r"[a-z]+", name.lower())
    if NEGATIONS & set(words):
        return None
    near = [difflib.get_close_matches(w, ALIASES, 1, cutoff=0.88) for w in words]
    hits = {ALIASES[n[0]] for n in near if n}
    return CLASSES[hits.pop()] if len(hits) == 1 else None


def _from_folders(root: Path, classes: Mapping[str, str]) -> pd.DataFrame:
    """`path`, `label` and, where train/val/test folders exist, `given_split`; the deepest folder that names a class counts."""
    rows, unmatched, ignored = [], {}, []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        parts = path.relative_to(root).parts
        if any(p.startswith(".") or p == "__MACOSX" for p in parts):
            continue
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() not in SUFFIXES and not (path.suffix == "" and _is_dicom(path)):
            ignored.append(name)
            continue
        labels = [label for p in reversed(parts[:-1]) if (label := class_of(p, classes)) is not None]
        if not labels:
            folder = parts[-2] if len(parts) > 1 else "."
            unmatched[folder] = unmatched.get(folder, 0) + 1
        elif labels[0]:
            given = [SPLITS[p.lower()] for p in parts[:-1] if p.lower() in SPLITS]
            rows.append((name, labels[0], given[0] if given else ""))
    if unmatched:
        listed = ", ".join(f"{k!r} ({n} images)" for k, n in unmatched.items())
        raise DataError(
            f"{root}: cannot tell the class of {listed}. Name each as one of {', '.join(CLASSES)}, or say "
            f'classes={{"{next(iter(unmatched))}": "Osteopenia"}}; an empty text leaves a folder out'
        )
    found = pd.DataFrame(rows, columns=["path", "label", "given_split"])
    missing = [c for c in CLASSES if c not in set(found["label"])]
    if missing:
        have = found["label"].value_counts().to_dict()
        raise DataError(
            f"{root}: found images of {have or 'no class'}, none of {', '.join(missing)}; expected all three"
        )
    if not found["given_split"].any():
        found = found.drop(columns="given_split")
    found.attrs["ignored"] = ignored
    return found


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _from_table(path: Path) -> pd.DataFrame:
    """The rows of a .csv with `path` (relative to it) and `label`; other columns are kept as metadata."""
    found = pd.read_csv(path)
    if not {"path", "label"} <= set(found.columns):
        raise DataError(f"{path}: found the columns {list(found.columns)}, expected path and label among them")
    here = path.parent.resolve()
    outside = [p for p in found["path"].astype(str) if not (here / p).resolve().is_relative_to(here)]
    if outside:
        raise DataError(f"{path}: {outside[0]!r} leaves the folder of the table; put the images beside or below it")
    labels = found["label"].astype(str).map(class_of)
    if labels.isna().any():
        raise DataError(f"{path}: label {found['label'][labels.isna()].iloc[0]!r}: allowed are {', '.join(CLASSES)}")
    found["label"] = labels
    found.attrs["ignored"] = []
    return found.drop(columns=[c for c in COLUMNS if c in found and c not in ("path", "label", "patient")])


def _from_kaggle(slug: str) -> Path:
    try:
        import kagglehub
    except ImportError as error:
        raise DataError(
            f"data = {slug!r} looks like a Kaggle set; install kagglehub (pip install kagglehub)"
        ) from error
    try:
        return Path(kagglehub.dataset_download(slug))
    except Exception as error:  # kagglehub raises many kinds: no network, no such set, no licence accepted
        raise DataError(
            f"Kaggle set {slug!r} could not be fetched ({type(error).__name__}: {error}). Check the name and the "
            "network, or download it by hand and give its folder as data"
        ) from error


def _with_metadata(table: pd.DataFrame, root: Path, cfg: Config) -> tuple[pd.DataFrame, list[str]]:
    """The table joined with the metadata by file path, name or stem, `patient` filled, and the names left over."""
    path = Path(cfg.metadata) if cfg.metadata else root / "metadata.csv"
    left_over: list[str] = []
    if path.is_file():
        extra = pd.read_csv(path)
        key, keys = _key_column(extra, table["path"])
        at = extra[key].astype(str).str.casefold()
        rows = extra.assign(_key=at).drop_duplicates("_key").set_index("_key")
        joined = rows.reindex(keys).reset_index(drop=True)
        known = at.isin(set(keys))
        left_over = [f"{path.name}: {v}" for v in extra[key][~known]]
        left_over += [f"image: {p}" for p, k in zip(table["path"], keys, strict=True) if k not in rows.index]
        clash = [c for c in joined.columns if c in table.columns and c != "patient"]
        table = pd.concat([table, joined.drop(columns=[key, *clash])], axis=1)
    elif cfg.metadata:
        raise DataError(f"metadata = {cfg.metadata!r}: no such table")
    return _with_patient(table, cfg), left_over


def _key_column(extra: pd.DataFrame, paths: pd.Series) -> tuple[str, list[str]]:
    """The metadata column that names the images, and each image's name written in the same way."""
    forms = {
        "path": [p.casefold() for p in paths],
        "name": [Path(p).name.casefold() for p in paths],
        "stem": [Path(p).stem.casefold() for p in paths],
    }
    best, key, keys = 0, "", forms["path"]
    for column in extra.columns:
        values = set(extra[column].astype(str).str.casefold())
        for form in forms.values():
            hits = sum(f in values for f in form)
            if hits > best:
                best, key, keys = hits, column, form
    if not key:
        raise DataError(f"metadata: no column of {list(extra.columns)} holds the images' paths, names or stems")
    return key, keys


def _with_patient(table: pd.DataFrame, cfg: Config) -> pd.DataFrame:
    """`patient` found in the file name by `patient_regex`, or from the metadata, or a DICOM header's hash, else empty."""
    named = [c for c in table.columns if re.sub(r"\W+", "_", c.lower()) in PATIENT_COLUMNS]
    patient = table[named[0]].map(_plain) if named else table["_patient"]
    if cfg.patient_regex:
        found = table["path"].map(lambda p: re.search(cfg.patient_regex, Path(p).name))
        if not found.notna().any():
            raise DataError(
                f"patient_regex = {cfg.patient_regex!r} matches none of the names, e.g. {table['path'].iloc[0]!r}"
            )
        patient = found.map(lambda m: (m.group(1) if m.re.groups else m.group(0)) if m else "")
    return table.drop(columns=[*named, "_patient"]).assign(patient=patient)


def _plain(value: Any) -> str:
    """An id as text: nothing for a missing one, no «.0» behind a number that pandas made a float."""
    if pd.isna(value):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
