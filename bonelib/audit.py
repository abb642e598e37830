"""What is wrong with the data: copies, conflicts, groups, defects, and how many images are left to use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bonelib import copies
from bonelib.config import Config

SET_ASIDE = {"copy", "conflict", "blank"}  # images with one of these issues are not learnt from


def audit(table: pd.DataFrame, thumbs: NDArray[Any], cfg: Config, root: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table with `group` and `issues` filled, and the findings: what audit.json holds.

    thumbs: (N, S, S) uint8, letterboxed, of the rows with status `ok`, in their order.
    A group is all that may be one person: copies and the `patient` column, joined transitively. Of each set of copies
    the largest image is kept, the others carry the issue `copy`; all carry `conflict` where their labels differ.
    """
    readable = np.flatnonzero(table["status"] == "ok")
    if len(readable) != len(thumbs):
        raise ValueError(f"found {len(thumbs)} thumbs for {len(readable)} readable images, expected as many")
    rows = table.iloc[readable].reset_index(drop=True)
    pairs = copies.find(thumbs, rows)
    clusters = _clusters(rows, pairs)
    issues = _defects(thumbs)
    for cluster in clusters:
        for i in cluster["rows"]:
            found = {"copy": i != cluster["kept"], "conflict": cluster["conflict"]}
            issues[i] |= {word for word, is_so in found.items() if is_so}
    table = table.copy()
    table["group"] = ""
    table.loc[table.index[readable], "group"] = _groups(rows, pairs)
    table["issues"] = np.where(table["status"] == "ok", "", "unreadable")
    table.loc[table.index[readable], "issues"] = [";".join(sorted(words)) for words in issues]
    return table, _findings(table, rows, clusters)


def has(table: pd.DataFrame, *words: str) -> pd.Series:
    """Which rows carry one of the issues."""
    return table["issues"].fillna("").str.split(";").map(lambda found: bool(set(found) & set(words)))


def usable(table: pd.DataFrame) -> pd.Series:
    """Which rows of an audited table are to be learnt from."""
    return (table["status"] == "ok") & ~has(table, *SET_ASIDE)


def flow(table: pd.DataFrame) -> dict[str, int]:
    """How many images are left after each exclusion."""
    readable = table["status"] == "ok"
    unique = readable & ~has(table, "copy")
    unconflicted = unique & ~has(table, "conflict")
    steps = {"found": table["status"].notna(), "readable": readable, "unique": unique, "unconflicted": unconflicted}
    return {step: int(kept.sum()) for step, kept in (steps | {"used": usable(table)}).items()}


def _clusters(rows: pd.DataFrame, pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """Sets of copies: `rows` (numbers), `kept` (one of them), `kinds`, `confidence` (the weakest), `conflict`."""
    number = copies.joined(len(rows), zip(pairs["a"], pairs["b"], strict=True))
    best = np.lexsort((np.arange(len(rows)), -rows["bytes"], -rows["width"] * rows["height"]))
    rank = np.argsort(best)
    out = []
    for name, links in pairs.groupby(number[pairs["a"]], sort=False):
        members = np.flatnonzero(number == name)
        kinds = sorted({word for kind in links["kind"] for word in kind.split("; ")})
        out.append({
            "rows": members.tolist(), "kept": int(members[np.argmin(rank[members])]), "kinds": kinds,
            "confidence": round(float(links["confidence"].min()), 3),
            "conflict": bool(rows["label"].iloc[members].nunique() > 1),
        })  # fmt: skip
    return out


def _groups(rows: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """A short id for each row, the same for copies and for images of one patient, transitively."""
    same = list(zip(pairs["a"], pairs["b"], strict=True))
    patient = rows["patient"].fillna("").astype(str)
    for members in patient[patient != ""].groupby(patient).indices.values():
        same += [(members[0], other) for other in members[1:]]
    return [f"g{number:05d}" for number in pd.factorize(copies.joined(len(rows), same))[0]]


def _defects(thumbs: NDArray[Any]) -> list[set[str]]:
    """What is seen to be wrong with each picture by itself."""
    return [{"blank"} if copies.blank(thumb) else set() for thumb in thumbs]


def _findings(table: pd.DataFrame, rows: pd.DataFrame, clusters: list[dict[str, Any]]) -> dict[str, Any]:
    def named(numbers: Iterable[int]) -> list[str]:
        return rows["path"].iloc[list(numbers)].tolist()

    listed = [
        {"paths": named(c["rows"]), "labels": rows["label"].iloc[c["rows"]].tolist(), "kept": named([c["kept"]])[0],
         "kinds": c["kinds"], "confidence": c["confidence"], "conflict": c["conflict"]}
        for c in clusters
    ]  # fmt: skip
    words = sorted({w for found in table["issues"] for w in found.split(";")} - {"", "copy", "conflict"})
    return {
        "flow": flow(table),
        "clusters": listed,
        "conflicts": [c for c in listed if c["conflict"]],
        "groups": int(table.loc[table["group"] != "", "group"].nunique()),
        "patients": int(rows["patient"].replace("", np.nan).nunique()),
        "defects": {word: table["path"][has(table, word)].tolist() for word in words},
    }
