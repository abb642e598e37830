"""What is wrong with the data: copies, conflicts, groups, defects, shortcuts, and what is left."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bonelib.audit import copies, defects, shortcuts
from bonelib.config import Config, present_classes
from bonelib.data.catalog import Catalog, has_issue, usable
from bonelib.data.metadata import suggested_patient_regex
from bonelib.messages import Finding, sort_findings
from bonelib.split import label_indices

NamedCopies = list[tuple[int, int, str]]


def audit(catalog: Catalog, cfg: Config) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The catalog's table with `group` and `issues` filled, and the content of audit.json.

    A group is all that may be one person: copies, images named as copies, and the `patient` column,
    joined transitively. Of each cluster of copies the largest image is kept and the others get the
    issue `copy`; all get `conflict` where their labels differ. A name alone only binds the group.
    """
    readable = catalog.table["status"] == "ok"
    rows = catalog.table[readable].reset_index(drop=True)
    pairs = copies.find_copies(catalog.thumbnails, rows)
    named = copies.copies_by_name(rows["path"].tolist())
    clusters = _clusters(rows, pairs)
    issues = [
        defects.image_defects(row, thumbnail)
        for row, thumbnail in zip(rows.itertuples(), catalog.thumbnails, strict=True)
    ]
    for cluster in clusters:
        for i in cluster["rows"]:
            issues[i] |= {"copy"} if i != cluster["kept"] else set()
            issues[i] |= {"conflict"} if cluster["conflict"] else set()
    table = catalog.table.drop(columns="coloured")
    table["issues"] = np.where(readable, "", "unreadable")
    table.loc[readable, "issues"] = [";".join(sorted(found)) for found in issues]
    table.loc[readable, "group"] = _groups(rows, pairs, named)
    used = usable(table[readable]).to_numpy()
    suspects = _find_shortcuts(rows[used], catalog.thumbnails[used], table[readable][used], cfg)
    return table, _results(catalog, table, rows, clusters, named, suspects)


def count_exclusions(table: pd.DataFrame) -> dict[str, int]:
    """How many images are left after each exclusion."""
    readable = table["status"] == "ok"
    unique = readable & ~has_issue(table, "copy")
    steps = {
        "found": table["status"].notna(),
        "readable": readable,
        "unique": unique,
        "unconflicted": unique & ~has_issue(table, "conflict"),
        "used": usable(table),
    }
    return {step: int(kept.sum()) for step, kept in steps.items()}


def _clusters(rows: pd.DataFrame, pairs: pd.DataFrame) -> list[dict[str, Any]]:
    """Sets of copies: `rows`, `kept` (one of them), `kinds`, `confidence` (lowest), `conflict`."""
    numbers = copies.join_links(len(rows), zip(pairs["a"], pairs["b"], strict=True))
    size = rows["width"] * rows["height"]
    rank = np.argsort(np.lexsort((np.arange(len(rows)), -rows["bytes"], -size)))
    clusters = []
    for number, links in pairs.groupby(numbers[pairs["a"]], sort=False):
        members = np.flatnonzero(numbers == number)
        clusters.append(
            {
                "rows": members.tolist(),
                "kept": int(members[np.argmin(rank[members])]),
                "kinds": sorted({word for kind in links["kind"] for word in kind.split("; ")}),
                "confidence": round(float(links["confidence"].min()), 3),
                "conflict": bool(rows["label"].iloc[members].nunique() > 1),
            }
        )
    return clusters


def _groups(rows: pd.DataFrame, pairs: pd.DataFrame, named: NamedCopies) -> list[str]:
    """A short id for each row, the same for copies and for images of one patient, transitively."""
    links = [*zip(pairs["a"], pairs["b"], strict=True), *((a, b) for a, b, _ in named)]
    patients = rows["patient"].fillna("").astype(str)
    for members in patients[patients != ""].groupby(patients).indices.values():
        links += [(members[0], other) for other in members[1:]]
    numbers = pd.factorize(copies.join_links(len(rows), links))[0]
    return [f"g{number:05d}" for number in numbers]


def _find_shortcuts(
    rows: pd.DataFrame, thumbnails: NDArray[np.uint8], audited: pd.DataFrame, cfg: Config
) -> list[dict[str, Any]]:
    class_names = present_classes(cfg, rows["label"])
    y = label_indices(rows["label"], class_names)
    groups = audited["group"].reset_index(drop=True)
    suspects = shortcuts.measure_suspects(rows, thumbnails).reset_index(drop=True)
    return shortcuts.find_shortcuts(suspects, y, groups, class_names, cfg.seed)


def _results(
    catalog: Catalog,
    table: pd.DataFrame,
    rows: pd.DataFrame,
    clusters: list[dict[str, Any]],
    named: NamedCopies,
    suspects: list[dict[str, Any]],
) -> dict[str, Any]:
    """The content of audit.json."""
    paths, labels = rows["path"].tolist(), rows["label"].tolist()
    listed = []
    for cluster in clusters:
        members = cluster.pop("rows")
        where = {"paths": [paths[i] for i in members], "labels": [labels[i] for i in members]}
        listed.append(where | cluster | {"kept": paths[cluster["kept"]]})
    issues = {issue for found in table["issues"] for issue in found.split(";")}
    issues -= {"", "copy", "conflict"}
    first = table.columns.get_loc("issues") + 1
    odd = defects.odd_values(rows, [c for c in table.columns[first:] if c != "given_split"])
    results = {
        "counts": count_exclusions(table),
        "clusters": listed,
        "conflicts": [cluster for cluster in listed if cluster["conflict"]],
        "named": [{"paths": [paths[a], paths[b]], "reason": reason} for a, b, reason in named],
        "groups": int(table.loc[table["group"] != "", "group"].nunique()),
        "patients": int(rows.loc[rows["patient"] != "", "patient"].nunique()),
        "defects": {i: table["path"][has_issue(table, i)].tolist() for i in sorted(issues)},
        "shortcuts": suspects,
        "metadata": {"odd": odd, "unmatched": catalog.unmatched},
    }
    found = sort_findings(_findings(results, catalog, paths))
    return results | {"findings": [dataclasses.asdict(finding) for finding in found]}


def _findings(results: dict[str, Any], catalog: Catalog, paths: list[str]) -> list[Finding]:
    found = [Finding("alarm", s["warning"]) for s in results["shortcuts"] if s["warning"]]
    conflicts, unmatched = results["conflicts"], results["metadata"]["unmatched"]
    if conflicts:
        images = sum(len(cluster["paths"]) for cluster in conflicts)
        found.append(
            Finding(
                "warning",
                f"{images:,} images in {len(conflicts):,} clusters of copies have more than one "
                "label and are not used.",
            )
        )
    for odd in results["metadata"]["odd"]:
        text = f"{odd['path']}: {odd['column']} {odd['value']} {odd['reason']}."
        found.append(Finding("warning", text))
    suggestion = None if results["patients"] else suggested_patient_regex(paths)
    if suggestion:
        found.append(Finding("warning", suggestion))
    if len(paths) > copies.MAX_ANY_ANGLE:
        limit = f"Among more than {copies.MAX_ANY_ANGLE:,} images, rotated copies are not found."
        found.append(Finding("warning", limit))
    for names, what in (
        (catalog.skipped, "files in class folders are no images by their names and were skipped"),
        (unmatched, "rows of the metadata or images have no counterpart"),
    ):
        if names:
            found.append(Finding("note", f"{len(names):,} {what}, e.g. {names[0]!r}."))
    return found
