"""What is wrong with the data: copies, conflicts, groups, defects, shortcuts, and how many images are left to use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bonelib import copies, defects, names, shortcuts
from bonelib.config import Config

SET_ASIDE = {"copy", "conflict", "blank"}  # images with one of these issues are not learnt from


def audit(table: pd.DataFrame, thumbs: NDArray[Any], cfg: Config, root: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table with `group` and `issues` filled, and the findings: what audit.json holds.

    thumbs: (N, S, S) uint8, letterboxed, of the rows with status `ok`, in their order.
    A group is all that may be one person: copies, images named as copies, and the `patient` column, joined transitively.
    Of each set of copies the largest image is kept, the others carry the issue `copy`; all carry `conflict` where their
    labels differ. What only a name tells binds the group, no more.
    """
    readable = np.flatnonzero(table["status"] == "ok")
    if len(readable) != len(thumbs):
        raise ValueError(f"found {len(thumbs)} thumbs for {len(readable)} readable images, expected as many")
    rows = table.iloc[readable].reset_index(drop=True)
    pairs = copies.find(thumbs, rows)
    named = names.made_from(rows["path"].tolist())
    overlay = defects.overlays(root, rows["path"].tolist())
    clusters = _clusters(rows, pairs)
    issues = defects.defects(rows, thumbs, overlay)
    for cluster in clusters:
        for i in cluster["rows"]:
            found = {"copy": i != cluster["kept"], "conflict": cluster["conflict"]}
            issues[i] |= {word for word, is_so in found.items() if is_so}
    table = table.copy()
    table["group"] = ""
    table.loc[table.index[readable], "group"] = _groups(rows, pairs, named)
    table["issues"] = np.where(table["status"] == "ok", "", "unreadable")
    table.loc[table.index[readable], "issues"] = [";".join(sorted(words)) for words in issues]
    used = usable(table).to_numpy()[readable]
    seen = shortcuts.measure(rows[used], thumbs[used], overlay[used])
    groups = table["group"].iloc[readable[used]].reset_index(drop=True)
    labels = rows["label"][used].reset_index(drop=True)
    suspects = shortcuts.shortcuts(seen.reset_index(drop=True), labels, groups, cfg.seed)
    return table, _findings(table, rows, clusters, named, suspects)


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


def _groups(rows: pd.DataFrame, pairs: pd.DataFrame, named: list[tuple[int, int, str]]) -> list[str]:
    """A short id for each row, the same for copies and for images of one patient, transitively."""
    same = [*zip(pairs["a"], pairs["b"], strict=True), *((a, b) for a, b, _ in named)]
    patient = rows["patient"].fillna("").astype(str)
    for members in patient[patient != ""].groupby(patient).indices.values():
        same += [(members[0], other) for other in members[1:]]
    return [f"g{number:05d}" for number in pd.factorize(copies.joined(len(rows), same))[0]]


def _unsought(count: int) -> str:
    """What the search for copies may have left out, in words; empty if nothing."""
    if count <= copies.ANY_ANGLE:
        return ""
    return f"Of {count:,} images, above {copies.ANY_ANGLE:,} different ones turned and cropped copies are not sought."


def _passed_over(names: list[str]) -> str:
    """Files in the folders of a class that were not even tried, in words; empty if there are none."""
    return f"No pictures by their names, and passed over: {len(names):,} files, e.g. {names[0]!r}." if names else ""


def _findings(
    table: pd.DataFrame, rows: pd.DataFrame, clusters: list[dict[str, Any]], named: list[tuple[int, int, str]],
    suspects: list[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    def paths(numbers: Iterable[int]) -> list[str]:
        return [rows["path"].iloc[i] for i in numbers]

    listed = [
        {"paths": paths(c["rows"]), "labels": rows["label"].iloc[c["rows"]].tolist(), "kept": paths([c["kept"]])[0],
         "kinds": c["kinds"], "confidence": c["confidence"], "conflict": c["conflict"]}
        for c in clusters
    ]  # fmt: skip
    words = sorted({w for found in table["issues"] for w in found.split(";")} - {"", "copy", "conflict"})
    columns = [c for c in rows.columns[rows.columns.get_loc("issues") + 1 :] if c != "given_split"]
    odd = defects.odd_values(rows, columns)
    people = int(rows.loc[rows["patient"] != "", "patient"].nunique())
    suggestion = None if people else names.patients(rows["path"].tolist())
    notes = [
        names.known_set(table),
        suggestion,
        _passed_over(table.attrs.get("ignored", [])),
        *(f"{o['path']}: {o['column']} {o['value']} {o['reason']}." for o in odd),
    ]
    return {
        "flow": flow(table),
        "clusters": listed,
        "conflicts": [c for c in listed if c["conflict"]],
        "named": [{"paths": paths((a, b)), "reason": reason} for a, b, reason in named],
        "groups": int(table.loc[table["group"] != "", "group"].nunique()),
        "patients": people,
        "defects": {word: table["path"][has(table, word)].tolist() for word in words},
        "shortcuts": suspects,
        "metadata": {"odd": odd, "unmatched": list(table.attrs.get("metadata_unmatched", []))},
        "notes": [note for note in [*notes, _unsought(len(rows))] if note],
        "warnings": [s["warning"] for s in suspects if s["warning"]],
    }
