"""What is known of the images' patients: a table joined to the images by name, its ids hashed."""

import contextlib
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from bonelib.config import Config
from bonelib.messages import DataError

CATALOG_COLUMNS = [
    *("path", "label", "patient", "width", "height", "format"),
    *("bytes", "sha256", "status", "group", "issues"),
]
# Columns that other steps add and that are no metadata.
ADDED_COLUMNS = ["coloured", "given_split", "split", "fold", "draws"]
# Names of columns, in small letters with "_" between the words: which identify a patient; which
# identify a person and are never kept.
PATIENT_COLUMN = re.compile(r"(patient|subject)(_?(id|no|nr|number|code|key))?|mrn|pid")
PERSONAL_COLUMN = re.compile(
    r"(^|_)(id|mrn|dob|ssn|address|phone|e?mail|insurance|accession)(_|$)|name$|of_birth"
    r"|(patient|subject|study|case)id$|birth_?(date|day|year)"
)
# Columns that define the label or name the image.
DEFINING_COLUMN = re.compile(
    r"(?i)t.?score|z.?score|bmd|density|diagnos|label|class|target|qus|fracture.?risk|frax"
    r"|(^|_)id$|image|file|name"
)
# The patient at the start of file names: 2144657_study1_1.jpg, OP130_2.png, patient-7_left.png.
PATIENT_NAME = r"(?i)^(\d{4,}|[a-z]{1,8}[_-]?\d{3,}|(?:patient|pat|subject|sub|case|p)[_-]?\d+)[_-]"


def read_table(path: Path) -> pd.DataFrame:
    """A .csv with its values as the texts that are written (007 is not 7); raises DataError."""
    try:
        table = pd.read_csv(path, dtype=str)
    # Errors of pandas are ValueErrors.
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no table in UTF-8, separated by commas ({error})") from error
    # pandas would take the first column for row names.
    if not isinstance(table.index, pd.RangeIndex):
        raise DataError(f"{path}: rows have more values than the first line has column names")
    return table


def patient_salt(folder: str | Path) -> bytes:
    """A secret of 32 bytes, made once and kept in `folder`: with it a patient has one hash."""
    path = Path(folder) / "patient-salt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of two runs that start at once, the first one's is kept; only its owner can read it.
        with tempfile.NamedTemporaryFile(dir=folder) as file, contextlib.suppress(FileExistsError):
            file.write(secrets.token_bytes(32))
            file.flush()
            os.link(file.name, path)
    salt = path.read_bytes()
    if len(salt) != 32:
        raise DataError(f"{path} has {len(salt)} bytes, expected 32: delete it to make another")
    return salt


def hash_patient(patient: str, salt: bytes) -> str:
    """What represents a patient in every table: 16 hexadecimal digits; empty without an id."""
    name = patient.strip().encode("utf-8", "surrogatepass")
    return hashlib.blake2b(name, key=salt, digest_size=8).hexdigest() if name else ""


def join(table: pd.DataFrame, own: pd.DataFrame, root: Path, cfg: Config) -> tuple:
    """The table with `patient` hashed, and the columns of `own` and of the metadata added.

    Second, what is only in the metadata or only among the images. A patient is what
    `patient_regex` finds in the file name, else what the metadata say, else what `own` says, else
    the hash that `table` already has from a DICOM header.
    """
    extra, unmatched = _metadata(table["path"], root, cfg)
    patients: list[pd.Series] = []
    for source in (own, extra):
        first = len(patients)
        for column in source:
            plain = re.sub(r"[\W_]+", "_", column.lower()).strip("_")
            if PATIENT_COLUMN.fullmatch(plain):
                # A spreadsheet with gaps writes 7 as 7.0.
                names = source[column].str.replace(r"^(\d+)\.0$", r"\1", regex=True)
                # of two such columns the first one counts
                patients.insert(first, names.fillna(""))
            elif column not in table and not PERSONAL_COLUMN.search(plain):
                numbers = pd.to_numeric(source[column], errors="coerce")
                # numbers only if every value is a finite one
                is_numeric = np.isfinite(numbers).equals(source[column].notna())
                table = table.assign(**{column: numbers if is_numeric else source[column]})
    if cfg.patient_regex:
        patients.append(_patients_in_names(table["path"], cfg.patient_regex))
    salt = patient_salt(cfg.cache)
    for names in patients:
        hashed = names.map(lambda name: hash_patient(name, salt))
        table = table.assign(patient=hashed.where(hashed != "", table["patient"]))
    return table, unmatched


def suggested_patient_regex(paths: Sequence[str]) -> str | None:
    """A sentence that suggests `patient_regex` if most file names seem to contain the patient."""
    names = [PurePosixPath(path).name for path in paths]
    found = [match[1] for name in names if (match := re.search(PATIENT_NAME, name))]
    patients = len(set(found))
    if len(found) < 0.8 * len(names) or not 1 < patients < 0.9 * len(found):
        return None
    return (
        f"File names seem to contain the patient, e.g. {names[0]!r}: patient_regex = "
        f"{PATIENT_NAME!r} would find {patients:,} patients in {len(found):,} of {len(names):,} "
        "images. Without it, images of one patient may be in several splits."
    )


def metadata_columns(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Columns that may predict, and those that define the label or name the image."""
    other = {*CATALOG_COLUMNS, *ADDED_COLUMNS}
    columns = [c for c in table if c not in other and table[c].notna().any()]
    defining = [c for c in columns if DEFINING_COLUMN.search(c)]
    return [c for c in columns if c not in defining], defining


def _metadata(paths: pd.Series, root: Path, cfg: Config) -> tuple[pd.DataFrame, list[str]]:
    """The rows of the metadata in the order of `paths`, and what is on one side only."""
    source = Path(cfg.metadata) if cfg.metadata else root / "metadata.csv"
    if not cfg.metadata and not source.is_file():
        return pd.DataFrame(index=paths.index), []
    extra = read_table(source).drop_duplicates()
    column, keys, names = _match(extra, paths)
    known, named = keys[keys.isin(names)], names[names.isin(keys)]
    repeated = [*known[known.duplicated()], *named[named.duplicated()]]
    if repeated:
        raise DataError(
            f"{source}: {repeated[0]!r} in the column {column!r} is the name of several rows or "
            "images; name each image by its path"
        )
    # As a spreadsheet counts, with the head first.
    unmatched = [f"{source.name}: row {i + 2}" for i in extra.index.difference(known.index)]
    unmatched += [f"image: {path}" for path in paths.drop(named.index)]
    rows = extra.loc[known.index].set_index(known).drop(columns=column)
    return rows.reindex(names).reset_index(drop=True), unmatched


def _match(extra: pd.DataFrame, paths: pd.Series) -> tuple[str, pd.Series, pd.Series]:
    """The column that names most images by path, name or stem; its values; the images' names.

    The case of letters counts, unless more images are found without it.
    """
    files = paths.map(PurePosixPath)
    forms = [paths, files.map(lambda file: file.name), files.map(lambda file: file.stem)]
    matches = [(column, extra[column].fillna(""), form) for column in extra for form in forms]
    matches += [(name, keys.str.casefold(), form.str.casefold()) for name, keys, form in matches]
    hits = [form[form.isin(keys)].nunique() for _, keys, form in matches]
    if not any(hits):
        raise DataError(f"metadata: none of the columns {list(extra)} names the images")
    return matches[int(np.argmax(hits))]


def _patients_in_names(paths: pd.Series, pattern: str) -> pd.Series:
    """The patients in the file names: the pattern's first group, or all that it matches."""
    matches = [re.search(pattern, PurePosixPath(path).name) for path in paths]
    if not any(matches):
        raise DataError(f"patient_regex = {pattern!r} matches no file name, e.g. {paths[0]!r}")
    return pd.Series([(m[m.re.groups > 0] or "") if m else "" for m in matches], paths.index)
