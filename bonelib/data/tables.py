"""Tables as people save them: read as texts, and their rows matched to images."""

import os
import re
from collections import defaultdict
from io import StringIO
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from bonelib.config import CLASSES, Config
from bonelib.data.folders import GIVEN_SPLIT, IMAGE_SUFFIXES, class_of, walk
from bonelib.messages import DataError, Finding

EXCEL_SUFFIXES = {".xlsx", ".xlsm", ".xls"}
TABLE_SUFFIXES = {".csv", ".tsv", *EXCEL_SUFFIXES}
# Names of columns, as `plain_name` writes them.
PATH_COLUMN = re.compile(r"path|(image|img|file)s?(_?(path|name|id))?")
LABEL_COLUMN = re.compile(r"labels?|class(es|_?name)?|diagnos[ie]s|dx|category|target|grade")
T_SCORE_COLUMN = re.compile(r"(.+_)?t_?scores?(_.+)?")
SPLIT_COLUMN = re.compile(r"(given_)?split|subset|partition")


def plain_name(column: str) -> str:
    """A column's name in small letters, with "_" between the words."""
    return re.sub(r"[\W_]+", "_", column.lower()).strip("_")


def t_scores(table: pd.DataFrame) -> pd.Series | None:
    """The T-scores as numbers (NaN where there is none), if exactly one column has them."""
    columns = [column for column in table if T_SCORE_COLUMN.fullmatch(plain_name(column))]
    if len(columns) != 1:
        return None
    texts = table[columns[0]].astype(str).str.replace(",", ".").str.replace("\N{MINUS SIGN}", "-")
    return pd.to_numeric(texts, errors="coerce")


def who_class(scores: pd.Series) -> np.ndarray:
    """(N,) the classes that the WHO defines by T-scores: normal from -1, osteoporosis to -2.5."""
    return np.select([scores >= -1, scores <= -2.5], [CLASSES[0], CLASSES[2]], CLASSES[1])


def read_table(path: Path, findings: list[Finding]) -> pd.DataFrame:
    """A .csv or .xlsx with its values as the texts that are written (007 is not 7).

    Empty rows are left out, and the index counts them. Raises DataError.
    """
    try:
        is_excel = path.suffix.lower() in EXCEL_SUFFIXES
        table = pd.read_excel(path, dtype=str) if is_excel else _read_text(path)
    except ImportError as error:
        advice = "pip install openpyxl, or save the table as .csv"
        raise DataError(f"{path} cannot be read here ({error}): {advice}") from error
    # A damaged spreadsheet raises many kinds of error.
    except Exception as error:
        expected = "expected .xlsx, or text in UTF-8 separated by commas, semicolons or tabs"
        raise DataError(f"{path}: no table ({error}); {expected}") from error
    # pandas would take the first column for row names.
    if not isinstance(table.index, pd.RangeIndex):
        raise DataError(f"{path}: rows have more values than the first line has column names")
    table = table.rename(columns=lambda column: str(column).strip())
    table = table.apply(lambda values: values.astype(object).str.strip())
    filled = table.replace("", np.nan).dropna(how="all")
    if empty := len(table) - len(filled):
        findings.append(Finding("note", f"{path.name}: {empty:,} empty rows are ignored."))
    return filled.drop(columns=[c for c in filled if c[:8] == "Unnamed:" and not filled[c].any()])


def from_table(path: Path, cfg: Config, findings: list[Finding]) -> pd.DataFrame:
    """`path`, `label`, other columns, and `given_split`, if any."""
    found = read_table(path, findings)
    image = _column(path, found, "path", PATH_COLUMN)
    label = _column(path, found, "label", LABEL_COLUMN)
    scores = t_scores(found)
    if image and not label and scores is not None and {*CLASSES} <= {*cfg.class_names}:
        odd = ~scores.between(-10, 10)
        _check_rows(path, found[scores.name], odd, "a T-score between -10 and 10")
        label = "class by T-score"
        found[label] = who_class(scores)
        counts = ", ".join(f"{name} {n:,}" for name, n in found[label].value_counts().items())
        text = f"{path.name} has no label: the classes follow from the column {scores.name!r} by"
        findings.append(Finding("warning", f"{text} the limits of the WHO, -1 and -2.5: {counts}."))
    if not image or not label:
        raise DataError(
            f"{path}: the columns are {list(found)}, expected path and label as well "
            f"(or, for {', '.join(CLASSES)}, path and one column t_score)"
        )
    _check_rows(path, found[image], found[image].isna(), "the path of an image")
    # A spreadsheet with gaps writes 7 as 7.0.
    written = found[label].fillna("").str.replace(r"^(\d+)\.0$", r"\1", regex=True)
    labels = written.map(lambda name: class_of(name, cfg.class_names, cfg.classes))
    meanings = f"{', '.join(cfg.class_names)}, or a meaning in classes (BONELIB_CLASSES)"
    _check_rows(path, written, labels.isna(), f"{meanings}; an empty meaning excludes images")
    found = found.rename(columns={image: "path"}).drop(columns=label)
    found = found.assign(path=_find_files(path, found["path"]), label=labels)
    repeated = found["path"].duplicated(keep=False)
    _check_rows(path, found["path"], repeated, "one row for each image")
    split = [column for column in found if SPLIT_COLUMN.fullmatch(plain_name(column))]
    if len(split) == 1:
        given = found.pop(split[0]).fillna("").map(GIVEN_SPLIT.fullmatch)
        found["given_split"] = [match[1].lower() if match else "" for match in given]
    return found


def _read_text(path: Path) -> pd.DataFrame:
    data = path.read_bytes()
    is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252")
    head = re.sub('"[^"]*"', "", text.split("\n", 1)[0])
    separators = [separator for separator in ",;\t" if separator in head]
    if len(separators) > 1:
        raise ValueError(f"the first line has several separators: {head!r}")
    separator = "".join(separators) or ","
    return pd.read_csv(StringIO(text), sep=separator, dtype=str, skip_blank_lines=False)


def _column(path: Path, table: pd.DataFrame, name: str, pattern: re.Pattern) -> str:
    """The column with this name, else the only one that the pattern finds; "" if there is none."""
    columns = [column for column in table if pattern.fullmatch(plain_name(column))]
    columns = [column for column in columns if column.casefold() == name] or columns
    if len(columns) > 1:
        raise DataError(f"{path}: {columns} may all be the {name}: rename the right one to {name}")
    return columns[0] if columns else ""


def _check_rows(path: Path, values: pd.Series, wrong: pd.Series, expected: str) -> None:
    """DataError for the first wrong row, as a spreadsheet counts, with the head first."""
    if wrong.any():
        rows = values[wrong].fillna("")
        texts = ", ".join(map(repr, rows.unique()[:9]))
        place = f"{path}: row {rows.index[0] + 2}, column {values.name!r} is {rows.iloc[0]!r}"
        raise DataError(f"{place}; expected {expected} ({len(rows):,} such rows: {texts})")


def _find_files(path: Path, names: pd.Series) -> list[str]:
    """The images that the names mean: paths, or file names below the table's folder."""
    root = Path(os.path.realpath(path.parent))
    below = [folder / file for folder, _, files in walk(root) for file in files]
    known = {file.relative_to(root).as_posix() for file in below}
    stems: dict[str, list[str]] = defaultdict(list)
    for image in sorted(known):
        file = PurePosixPath(image.casefold())
        if file.suffix in IMAGE_SUFFIXES:
            stems[file.stem].append(image)
    paths = []
    for row, name in names.items():
        image = PurePosixPath(name if name in known else name.replace("\\", "/")).as_posix()
        if image not in known:
            file = PurePosixPath(f"/{image}".casefold())
            found = stems.get(file.stem if file.suffix in IMAGE_SUFFIXES else file.name, [])
            found = [f for f in found if str(file).endswith(f"/{f}".casefold())] or found
            if len(found) > 1:
                listed = " or ".join(map(repr, found[:3]))
                raise DataError(f"{path}: row {row + 2}: {name!r} may be {listed}; write its path")
            image = found[0] if found else image
        if "\0" not in image and not Path(os.path.realpath(root / image)).is_relative_to(root):
            raise DataError(f"{path}: row {row + 2}: {name!r} is outside of the table's folder")
        paths.append(image)
    return paths
