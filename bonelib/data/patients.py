"""Patients that are written badly: placeholders, folder and file names, ids that are too common."""

import re
from pathlib import PurePosixPath

import pandas as pd

from bonelib.config import Config
from bonelib.data.folders import GIVEN_SPLIT, class_of
from bonelib.messages import Finding

# What is written where no patient is known.
PLACEHOLDER = re.compile(
    r"(?i)[\W_]*|0+|x+|n/?a|nan|nil|none|null|unk(nown)?|missing|anon(ym\w*)?|not \w+|no (id|name)"
)
# The patient at the start of file names: 2144657_study1_1.jpg, OP130_2.png, patient-7_left.png.
PATIENT_NAME = r"(?i)^(\d{4,}|[a-z]{1,8}[_-]?\d{3,}|(?:patient|pat|subject|sub|case|p)[_-]?\d+)[_-]"
# Images that one patient has on average, at most; fewest images and patients of such a layout.
MOST_EACH, MIN_IMAGES, MIN_PATIENTS = 20, 10, 5


def without_placeholders(names: pd.Series) -> pd.Series:
    """The ids without spaces; empty where they say that none is known."""
    # A spreadsheet with gaps writes 7 as 7.0.
    names = names.fillna("").str.strip().str.replace(r"^(\d+)\.0$", r"\1", regex=True)
    unknown = names.str.fullmatch(PLACEHOLDER)
    # where patients are numbered from 0, that is one of them
    return names.mask(unknown & ~((names == "0") & (names == "1").any()), "")


def patients_of_layout(paths: pd.Series, cfg: Config, findings: list[Finding]) -> pd.Series:
    """The patients that folders or file names seem to give; empty if they do not look like it.

    A group too many costs little, a patient in two splits makes the results worthless.
    """
    files = paths.map(PurePosixPath)
    folders = files.map(lambda file: [n for n in file.parts[:-1] if not _is_known(n, cfg)])
    levels = [folders.map(lambda names, i=i: "".join(names[i : i + 1])) for i in range(9)]
    starts = files.map(lambda file: "".join(re.findall(PATIENT_NAME, file.name)[:1]))
    for patients, what in [*((level, "folders") for level in levels), (starts, "file names")]:
        # short numbers may begin anew in each class
        is_short = patients.str.fullmatch(r"\d{1,3}")
        patients = patients.mask(is_short, files.map(lambda file: str(file.parent)))
        images = patients[patients != ""]
        count = images.nunique()
        most = 0.9 * len(images) if what == "file names" else len(images) - 1
        if len(images) >= max(MIN_IMAGES, len(paths) / 2) and (
            max(MIN_PATIENTS, len(images) / MOST_EACH) <= count <= most
        ):
            text = f"No patients are given, but the {what} look like patients, e.g. that of "
            text += f"{paths[images.index[0]]!r}: {len(images):,} of {len(paths):,} images are "
            text += f"grouped as {count:,} patients. patient_regex = none "
            findings.append(Finding("note", f"{text}(BONELIB_PATIENT_REGEX) turns this off."))
            return patients
    return pd.Series("", paths.index)


def crowded_patients(table: pd.DataFrame) -> list[Finding]:
    """A warning if patients have more than a tenth of all images, or images of every class."""
    patients = table[table["patient"] != ""].groupby("patient")
    many = patients["label"].transform("size") > max(MIN_IMAGES - 1, 0.1 * len(table))
    classes = table["label"].nunique()
    everywhere = patients["label"].transform("nunique") == max(classes, 3)
    crowded = table.loc[many.index[many | everywhere]]
    if crowded.empty:
        return []
    text = f"{crowded['patient'].nunique():,} patients have more than a tenth of all images or "
    text += f"images of every class, e.g. that of {crowded['path'].iloc[0]!r}: "
    text += f"{len(crowded):,} images in all. Each stays in one split; check the patient ids."
    return [Finding("warning", text)]


def _is_known(folder: str, cfg: Config) -> bool:
    """Whether a folder's name is about the class or the given split."""
    return bool(class_of(folder, cfg.class_names, cfg.classes) or GIVEN_SPLIT.fullmatch(folder))
