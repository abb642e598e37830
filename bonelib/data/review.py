"""What a person decided about doubtful labels: `review.csv` beside the images."""

from pathlib import Path

import pandas as pd

from bonelib.data.tables import check_rows, read_table
from bonelib.messages import DataError, Finding

REVIEW_FILE = "review.csv"
# Decisions that are no class name, and the issues that they become.
DECISIONS = {"keep": "reviewed", "exclude": "excluded"}


def apply_review(table: pd.DataFrame, root: Path, class_names: tuple, findings: list) -> None:
    """Change labels and issues of the catalog's table as the column `decision` says.

    A class name becomes the label, "exclude" the issue `excluded`, "keep" the issue `reviewed`; an
    empty decision changes nothing. DataError for an image that is absent or not the one reviewed.
    """
    path = root / REVIEW_FILE
    if not path.is_file():
        return
    rows = read_table(path, findings).fillna("")
    if missing := [name for name in ("path", "sha256", "decision") if name not in rows]:
        raise DataError(f"{path} has no column {missing[0]}: write it again with 04_evaluate")
    rows = rows[rows["decision"] != ""]
    allowed = (*DECISIONS, *class_names)
    check_rows(path, rows["decision"], ~rows["decision"].isin(allowed), ", ".join(allowed))
    check_rows(path, rows["path"], rows["path"].duplicated(), "each image once")
    digests = rows["path"].map(table.set_index("path")["sha256"])
    is_other = digests != rows["sha256"]
    check_rows(path, rows["path"], is_other, "the reviewed image: it was changed or is gone")
    decided = table["path"].map(rows.set_index("path")["decision"])
    table["label"] = decided.where(decided.isin(class_names), table["label"])
    marks = decided.map(DECISIONS)
    table["issues"] = marks.where(marks.notna() & (table["issues"] == ""), table["issues"])
    counts = ", ".join(f"{name} {n:,}" for name, n in rows["decision"].value_counts().items())
    findings.append(Finding("note", f"Decisions of {REVIEW_FILE}: {counts or 'none'}."))
