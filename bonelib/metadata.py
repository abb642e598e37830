"""What is known of the images' patients: a table joined to the images by name, its ids hashed, its names left out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from bonelib import dicom
from bonelib.config import Config

# Of a table's columns: which tell patients apart, and which say who somebody is and are never kept
PATIENT = re.compile(r"(patient|subject)(_?(id|no|nr|number|code|key))?|mrn|pid")
PERSONAL = re.compile(
    r"(^|_)(id|mrn|dob|ssn|address|phone|e?mail|insurance|accession)(_|$)|name$|(patient|subject|study|case)id$"
    r"|birth_?(date|day|year)|of_birth"
)


class DataError(ValueError):
    """Data that cannot be read as three classes of images; the message says what was found and what to do."""


def read(path: Path) -> pd.DataFrame:
    """A .csv whose values are texts as they are written (007 is no 7), or DataError."""
    try:
        table = pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise DataError(
            f"{path} cannot be read as a table ({error}): save it as CSV, comma-separated, UTF-8"
        ) from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas would take the first column for something else
        raise DataError(f"{path}: its rows hold more values than its first line names columns; make them agree")
    return table


def join(table: pd.DataFrame, own: pd.DataFrame, root: Path, cfg: Config) -> tuple[pd.DataFrame, list[str]]:
    """The catalogue's table with `patient` hashed and the columns of `own` and the metadata added, and what was left over.

    A patient is what `patient_regex` finds in the file name, else what the metadata say, else the data's own table, else
    the hash of a DICOM header, which `table` has already.
    """
    extra, left_over = _metadata(table["path"], root, cfg)
    salt = dicom.salt(cfg.cache)
    patient = table["patient"]
    for told in (_told(own), _told(extra), _in_names(table["path"], cfg.patient_regex)):
        patient = told.map(lambda name: dicom.hashed(name, salt)).where(told != "", patient)
    table = table.assign(patient=patient)
    for source in (own, extra):
        for column in source.columns:
            if column not in table and not _is(PATIENT.fullmatch, column) and not _is(PERSONAL.search, column):
                table[column] = _typed(source[column])
    return table, left_over


def _metadata(paths: pd.Series, root: Path, cfg: Config) -> tuple[pd.DataFrame, list[str]]:
    """The metadata's rows in the order of `paths`, empty where there is none, and what stands on one side only."""
    source = Path(cfg.metadata) if cfg.metadata else root / "metadata.csv"
    if not source.is_file():
        if cfg.metadata:
            raise DataError(f"metadata = {cfg.metadata!r}: no such table")
        return pd.DataFrame(index=paths.index), []
    extra = read(source).drop_duplicates()
    key, at, keys = _key(extra, paths)
    for side, what in ((at, "rows"), (pd.Series(keys), "images")):
        if (again := side[side.duplicated() & side.isin(at) & side.isin(keys)]).size:
            raise DataError(
                f"{source}: {again.iloc[0]!r} in the column {key!r} means several {what}; name each by path"
            )
    known = at.isin(keys)
    left_over = [f"{source.name}: row {i + 2}" for i in extra.index[~known]]  # as a spreadsheet counts, head first
    left_over += [f"image: {path}" for path, named in zip(paths, pd.Series(keys).isin(at), strict=True) if not named]
    rows = extra[known].set_index(at[known]).drop(columns=key)
    return rows.reindex(keys).reset_index(drop=True), left_over


def _key(extra: pd.DataFrame, paths: pd.Series) -> tuple[str, pd.Series, list[str]]:
    """The column that names most images, its values, and the images' names in the same form: path, name or stem.

    Upper and lower case are told apart, unless more images are found without.
    """
    best, found = 0, None
    for fold in (str, str.casefold):
        files = [Path(fold(p)) for p in paths]
        forms = [f.as_posix() for f in files], [f.name for f in files], [f.stem for f in files]
        for column in extra.columns:
            values = extra[column].fillna("").map(fold)
            for form in forms:
                if (hits := len(set(values) & set(form))) > best:
                    best, found = hits, (column, values, form)
    if found is None:
        raise DataError(f"metadata: no column of {list(extra.columns)} holds the images' paths, names or stems")
    return found


def _is(test: Callable[[str], object], column: str) -> bool:
    """Whether a column's name, in small letters and with `_` between its words, passes the test."""
    return bool(test(re.sub(r"[\W_]+", "_", column.lower()).strip("_")))


def _told(source: pd.DataFrame) -> pd.Series:
    """The patients as a table has them, empty where it doesn't say."""
    named = [c for c in source.columns if _is(PATIENT.fullmatch, c)]
    if not named:
        return pd.Series("", source.index)
    return source[named[0]].fillna("").str.replace(r"^(\d+)\.0$", r"\1", regex=True)  # a spreadsheet's way with gaps


def _in_names(paths: pd.Series, pattern: str) -> pd.Series:
    """The patients as the file names have them: the pattern's first group, or all that it matches."""
    if not pattern:
        return pd.Series("", paths.index)
    found = paths.map(lambda p: re.search(pattern, Path(p).name))
    if not found.notna().any():
        raise DataError(f"patient_regex = {pattern!r} matches none of the names, e.g. {paths.iloc[0]!r}")
    return found.map(lambda m: (m[1 if m.re.groups else 0] or "") if m else "")


def _typed(values: pd.Series) -> pd.Series:
    """Numbers if every value is a finite one, else as it is."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.dtype.kind not in "iuf" or not (np.isfinite(numbers) == values.notna()).all():
        return values
    return numbers
