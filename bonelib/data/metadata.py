"""What is known of the images' patients: a table joined to the images by name, its ids hashed."""

import contextlib
import hashlib
import os
import re
import secrets
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from bonelib.config import Config
from bonelib.data.patients import patients_of_layout, without_placeholders
from bonelib.data.review import REVIEW_FILE
from bonelib.data.tables import TABLE_SUFFIXES, match_rows, plain_name, read_table
from bonelib.messages import DataError, Finding

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


def join(table: pd.DataFrame, own: pd.DataFrame, root: Path, cfg: Config, findings: list) -> tuple:
    """The table with `patient` hashed, and the columns of `own` and of the metadata added.

    Also returned are the rows and images without counterpart. A patient is what
    `patient_regex` finds in the file name, else what the metadata say, else what `own` says, else
    the hash that `table` already has from a DICOM header, else what the layout seems to give.
    """
    extra, unmatched = _metadata(table["path"], root, cfg, findings)
    patients: list[pd.Series] = []
    for source in (own, extra):
        first = len(patients)
        for column in source:
            plain = plain_name(column)
            if PATIENT_COLUMN.fullmatch(plain):
                # the last of the list counts: of two columns of a table the first one
                patients.insert(first, without_placeholders(source[column]))
            elif column not in table and not PERSONAL_COLUMN.search(plain):
                numbers = pd.to_numeric(source[column], errors="coerce")
                # numbers only if every value is a finite one
                is_numeric = np.isfinite(numbers).equals(source[column].notna())
                table = table.assign(**{column: numbers if is_numeric else source[column]})
    if cfg.patient_regex not in ("", "none"):
        patients.append(_patients_in_names(table["path"], cfg.patient_regex))
    elif not cfg.patient_regex and not any(names.any() for names in [*patients, table["patient"]]):
        patients.append(patients_of_layout(table["path"], cfg, findings))
    salt = patient_salt(cfg.cache)
    for names in patients:
        hashed = names.map(lambda name: hash_patient(name, salt))
        table = table.assign(patient=hashed.where(hashed != "", table["patient"]))
    return table, unmatched


def metadata_columns(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Columns that may predict, and those that define the label or name the image."""
    other = {*CATALOG_COLUMNS, *ADDED_COLUMNS}
    columns = [c for c in table if c not in other and table[c].notna().any()]
    defining = [c for c in columns if DEFINING_COLUMN.search(c)]
    return [c for c in columns if c not in defining], defining


def _metadata(paths, root: Path, cfg: Config, findings) -> tuple[pd.DataFrame, list[str]]:
    """The rows of the metadata in the order of `paths`, and what is on one side only."""
    tables = sorted(path for path in root.glob("*.*") if path.suffix.lower() in TABLE_SUFFIXES)
    named = [path for path in tables if path.stem.casefold() == "metadata"]
    source = Path(cfg.metadata) if cfg.metadata else next(iter(named), None)
    used = [Path(path).resolve() for path in (cfg.data, source or cfg.data, root / REVIEW_FILE)]
    unused = [path.name for path in tables if path.resolve() not in used]
    if unused:
        text = f"Tables beside the images are not used: {', '.join(unused)}. One of them can be"
        findings.append(Finding("note", f"{text} data (labels) or metadata (BONELIB_METADATA)."))
    if not source:
        return pd.DataFrame(index=paths.index), []
    return match_rows(source, read_table(source, findings).drop_duplicates(), paths)


def _patients_in_names(paths: pd.Series, pattern: str) -> pd.Series:
    """The patients in the file names, else in the paths: the first group, or all of a match."""
    matches = [re.search(pattern, PurePosixPath(path).name) for path in paths]
    if not any(matches):
        matches = [re.search(pattern, path) for path in paths]
    if not any(matches):
        raise DataError(f"patient_regex = {pattern!r} matches no path, e.g. {paths[0]!r}")
    return pd.Series([(m[m.re.groups > 0] or "") if m else "" for m in matches], paths.index)
