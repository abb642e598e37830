"""Patients that are written badly: placeholders, folder and file names, ids that are too common."""

import re
from pathlib import PurePosixPath

import pandas as pd

from bonelib.config import Config
from bonelib.data.dicom import PLACEHOLDER
from bonelib.data.folders import GIVEN_SPLIT, class_of
from bonelib.messages import Finding

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


def patients_of_layout(paths: pd.Series, cfg: Config, findings: list) -> pd.Series:
    """The patients that folders or file names seem to give; empty if they do not look like it.

    A group too many costs little, a patient in two splits makes the results worthless.
    """
    files = paths.map(PurePosixPath)
    names = {name for file in files for name in file.parts[:-1]}
    known = {name for name in names if class_of(name, cfg.class_names, cfg.classes)}
    known |= {name for name in names if GIVEN_SPLIT.fullmatch(name)}

    def folder(file: PurePosixPath, level: int) -> str:
        places = [i for i, name in enumerate(file.parts[:-1]) if name not in known][level:]
        name = file.parts[places[0]] if places else ""
        # short numbers may start again in each class
        is_short = re.fullmatch(r"\d{1,3}", name)
        return "/".join(file.parts[: places[0] + 1]) if is_short else name

    levels = [files.map(lambda file, level=level: folder(file, level)) for level in range(4)]
    starts = files.map(lambda file: "".join(re.findall(PATIENT_NAME, file.name)[:1]))
    numbers = files.map(lambda file: str(file.parent)) + starts
    # numbers that no folder has twice are those of images, from 1 on in each class
    if not numbers[starts != ""].duplicated().any():
        starts[:] = ""
    for patients, most in [(level, 1.0) for level in levels] + [(starts, 0.9)]:
        images = patients[patients != ""]
        count, size = images.nunique(), len(images)
        is_common = size >= max(MIN_IMAGES, len(paths) / 2)
        if is_common and max(MIN_PATIENTS, size / MOST_EACH) <= count < most * size:
            text = "No patients are given, but folders or file names look like them, e.g. in "
            text += f"{paths[images.index[0]]!r}: {size:,} of {len(paths):,} images are grouped "
            text += f"as {count:,} patients. patient_regex = none (BONELIB_PATIENT_REGEX) turns "
            findings.append(Finding("note", f"{text}this off."))
            return patients
    return pd.Series("", paths.index)


def crowded_patients(table: pd.DataFrame) -> list[Finding]:
    """A warning if a patient has over a tenth of all images, or some of each of three classes."""
    patients = table[table["patient"] != ""].groupby("patient")
    sizes, classes = patients.size(), patients["label"].nunique()
    is_large = sizes > max(MIN_IMAGES - 1, 0.1 * len(table))
    crowded = sizes[is_large | (classes == max(3, table["label"].nunique()))]
    if crowded.empty:
        return []
    example = table["path"][table["patient"] == crowded.index[0]].iloc[0]
    text = f"{len(crowded):,} patients have more than a tenth of all images or images of every "
    text += f"class, e.g. that of {example!r}: {crowded.sum():,} images in all. Each stays in one "
    return [Finding("warning", f"{text}split: check the patient ids.")]
