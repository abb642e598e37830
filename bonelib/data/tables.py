"""Tables as people save them: read as texts, and their rows matched to images."""

import re
from io import StringIO
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from bonelib.config import CLASSES, Config
from bonelib.data.folders import GIVEN_SPLIT, class_of, is_image, list_paths
from bonelib.messages import DataError, Finding

EXCEL_SUFFIXES = {".xlsx", ".xlsm", ".xls"}
TABLE_SUFFIXES = {".csv", ".tsv", *EXCEL_SUFFIXES}
# Names of columns, as `plain_name` writes them.
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
    filled = table[table.fillna("").ne("").any(axis=1)]
    if empty := len(table) - len(filled):
        findings.append(Finding("note", f"{path.name}: {empty:,} empty rows are ignored."))
    return filled.drop(columns=[c for c in filled if c[:8] == "Unnamed:" and not filled[c].any()])


def from_table(path: Path, cfg: Config, findings: list) -> tuple[pd.DataFrame, list[str]]:
    """`path`, `label`, `given_split` if any, and other columns; and rows or images left over.

    Only images below the table's folder are found, whatever the table says.
    """
    table = read_table(path, findings)
    columns = [column for column in table if LABEL_COLUMN.fullmatch(plain_name(column))]
    columns = [column for column in columns if column.casefold() == "label"] or columns
    scores = t_scores(table)
    if not columns and scores is not None and {*CLASSES} <= {*cfg.class_names}:
        odd = ~scores.between(-10, 10)
        check_rows(path, table[scores.name], odd, "a T-score between -10 and 10")
        columns = ["class by T-score"]
        table = table.assign(**{columns[0]: who_class(scores)})
        counts = ", ".join(f"{name} {n:,}" for name, n in table[columns[0]].value_counts().items())
        text = f"{path.name} has no label: the classes follow from the column {scores.name!r} by"
        findings.append(Finding("warning", f"{text} the limits of the WHO, -1 and -2.5: {counts}."))
    if len(columns) != 1:
        raise DataError(
            f"{path}: the columns are {list(table)}; expected path and one column label (or, for "
            f"{', '.join(CLASSES)}, one column t_score): found {columns or 'none'}"
        )
    # A spreadsheet with gaps writes 7 as 7.0.
    written = table[columns[0]].fillna("").str.replace(r"^(\d+)\.0$", r"\1", regex=True)
    labels = written.map(lambda name: class_of(name, cfg.class_names, cfg.classes))
    meanings = f"{', '.join(cfg.class_names)}, or a meaning in classes (BONELIB_CLASSES)"
    check_rows(path, written, labels.isna(), f"{meanings}; an empty meaning excludes images")
    root = path.parent
    images = [file.as_posix() for file in list_paths(root) if is_image(root / file)]
    table = table.drop(columns=columns).assign(label=labels)
    rows, unmatched = match_rows(path, table, pd.Series(images, dtype=str))
    found = rows.assign(path=images)[rows["label"].notna()].reset_index(drop=True)
    split = [column for column in found if SPLIT_COLUMN.fullmatch(plain_name(column))]
    if len(split) == 1:
        given = found.pop(split[0]).fillna("").map(GIVEN_SPLIT.fullmatch)
        found["given_split"] = [match[1].lower() if match else "" for match in given]
    return found, unmatched


def match_rows(source: Path, table: pd.DataFrame, paths: pd.Series) -> tuple:
    """The rows of a table in the order of `paths`, and the rows and images without counterpart."""
    column, keys, names = _match(source, table, paths)
    known, named = keys[keys.isin(names)], names[names.isin(keys)]
    repeated = [*known[known.duplicated()], *named[named.duplicated()]]
    if repeated:
        rows = [row + 2 for row in known.index[known == repeated[0]]]
        images = paths[named.index[named == repeated[0]]].tolist()
        raise DataError(
            f"{source}: {repeated[0]!r} in the column {column!r} is the name of several rows or "
            f"images (rows {rows[:3]}, images {images[:3]}): name each image once, by its path"
        )
    # As a spreadsheet counts, with the head first.
    unmatched = [f"{source.name}: row {row + 2}" for row in table.index.difference(known.index)]
    unmatched += [f"image: {path}" for path in paths.drop(named.index)]
    rows = table.loc[known.index].set_index(known).drop(columns=column)
    return rows.reindex(names).reset_index(drop=True), unmatched


def _match(source: Path, table: pd.DataFrame, paths: pd.Series) -> tuple:
    """The column that names most images by path or the end of it; its values; the images' names.

    The case of letters counts, unless more images are found without it.
    """
    parts = paths.map(lambda path: PurePosixPath(path).parts)
    stems = parts.map(lambda names: PurePosixPath(names[-1]).stem)
    forms = [paths, parts.map(lambda names: "/".join(names[-2:])), parts.str[-1], stems]
    written = [(name, table[name].fillna("")) for name in table if name != "label"]
    # paths of other computers: their last two parts, and the last one
    others = [(name, keys.str.split(r"[/\\]", regex=True)) for name, keys in written]
    written += [(name, keys.str[-2:].str.join("/")) for name, keys in others]
    written += [(name, keys.str[-1]) for name, keys in others]
    matches = [(name, keys, form) for name, keys in written for form in forms]
    matches += [(name, keys.str.casefold(), form.str.casefold()) for name, keys, form in matches]
    hits = [form[form.isin(keys)].nunique() for _, keys, form in matches]
    if not any(hits):
        raise DataError(f"{source}: none of the columns {list(table)} names the images")
    return matches[int(np.argmax(hits))]


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
    options = {"skip_blank_lines": False, "skipinitialspace": True}
    return pd.read_csv(StringIO(text), sep=separator, dtype=str, **options)


def check_rows(path: Path, values: pd.Series, wrong: pd.Series, expected: str) -> None:
    """DataError for the first wrong row, as a spreadsheet counts, with the head first."""
    if wrong.any():
        rows = values[wrong].fillna("")
        texts = ", ".join(map(repr, rows.unique()[:9]))
        place = f"{path}: row {rows.index[0] + 2}, column {values.name!r} is {rows.iloc[0]!r}"
        raise DataError(f"{place}; expected {expected} ({len(rows):,} such rows: {texts})")
