"""What is wrong with the data: copies, conflicts, groups, defects, shortcuts, and what is left."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

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
    rows["issues"] = _issues(rows, catalog, clusters)
    rows["group"] = _groups(rows, pairs, named)
    table = catalog.table.drop(columns="coloured")
    table["issues"] = np.where(readable, "", "unreadable")
    for column in ("issues", "group"):
        table.loc[readable, column] = rows[column].to_numpy()
    used = rows[usable(rows)]
    class_names = present_classes(cfg, used["label"])
    y = label_indices(used["label"], class_names)
    suspects = shortcuts.measure_suspects(used, catalog.thumbnails[used.index])
    first = table.columns.get_loc("issues") + 1
    extra = [column for column in table.columns[first:] if column != "given_split"]
    paths = rows["path"].tolist()
    results = {
        "counts": count_exclusions(table),
        "clusters": clusters,
        "conflicts": [cluster for cluster in clusters if cluster["conflict"]],
        "named": [{"paths": [paths[a], paths[b]], "reason": reason} for a, b, reason in named],
        "groups": rows["group"].nunique(),
        "patients": rows["patient"].where(rows["patient"] != "").nunique(),
        "defects": _defects(table),
        "shortcuts": shortcuts.find_shortcuts(suspects, y, used["group"], class_names, cfg.seed),
        "metadata": {"odd": defects.odd_values(rows, extra), "unmatched": catalog.unmatched},
    }
    findings = sort_findings(_findings(results, catalog, paths))
    return table, results | {"findings": [dataclasses.asdict(finding) for finding in findings]}


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
    """Sets of copies: `paths`, `labels`, `kept` (the path of the largest), what links them."""
    numbers = copies.join_links(len(rows), zip(pairs["a"], pairs["b"], strict=True))
    members = rows.assign(pixels=rows["width"] * rows["height"]).groupby(numbers)
    clusters = []
    for number, links in pairs.groupby(numbers[pairs["a"]], sort=False):
        cluster = members.get_group(number)
        largest = cluster.sort_values(["pixels", "bytes"], ascending=False)
        clusters.append(
            {
                "paths": cluster["path"].tolist(),
                "labels": cluster["label"].tolist(),
                "kept": largest["path"].iloc[0],
                "kinds": sorted(set("; ".join(links["kind"]).split("; "))),
                "confidence": round(float(links["confidence"].min()), 3),
                "conflict": cluster["label"].nunique() > 1,
            }
        )
    return clusters


def _issues(rows: pd.DataFrame, catalog: Catalog, clusters: list[dict[str, Any]]) -> list[str]:
    """The issues of each row, joined by semicolons."""
    copied = {path for cluster in clusters for path in cluster["paths"]}
    copied -= {cluster["kept"] for cluster in clusters}
    conflicting = {path for cluster in clusters if cluster["conflict"] for path in cluster["paths"]}
    issues = []
    for row, thumbnail in zip(rows.itertuples(), catalog.thumbnails, strict=True):
        found = defects.image_defects(row, thumbnail)
        found |= {"copy"} if row.path in copied else set()
        found |= {"conflict"} if row.path in conflicting else set()
        issues.append(";".join(sorted(found)))
    return issues


def _groups(rows: pd.DataFrame, pairs: pd.DataFrame, named: NamedCopies) -> list[str]:
    """A short id for each row, the same for copies and for images of one patient, transitively."""
    links = [*zip(pairs["a"], pairs["b"], strict=True), *((a, b) for a, b, _ in named)]
    patients = rows["patient"].where(rows["patient"] != "")
    for members in rows.groupby(patients).indices.values():
        links += [(members[0], other) for other in members[1:]]
    numbers = pd.factorize(copies.join_links(len(rows), links))[0]
    return [f"g{number:05d}" for number in numbers]


def _defects(table: pd.DataFrame) -> dict[str, list[str]]:
    """The paths with each issue that is not about copies."""
    exploded = table.assign(issues=table["issues"].str.split(";")).explode("issues")
    exploded = exploded[~exploded["issues"].isin(["", "copy", "conflict"])]
    return exploded.groupby("issues")["path"].agg(list).to_dict()


def _findings(results: dict[str, Any], catalog: Catalog, paths: list[str]) -> list[Finding]:
    conflicts, unmatched = results["conflicts"], catalog.unmatched
    warnings = []
    if conflicts:
        images = sum(len(cluster["paths"]) for cluster in conflicts)
        warnings.append(
            f"{images:,} images in {len(conflicts):,} clusters of copies have more than one label "
            "and are not used."
        )
    for odd in results["metadata"]["odd"]:
        warnings.append(f"{odd['path']}: {odd['column']} {odd['value']} {odd['reason']}.")
    if not results["patients"]:
        warnings.append(suggested_patient_regex(paths))
    if len(paths) > copies.MAX_ANY_ANGLE:
        limit = f"{copies.MAX_ANY_ANGLE:,}"
        warnings.append(f"Among more than {limit} images, rotated copies are not found.")
    notes = {
        "files in class folders are no images by their names and were skipped": catalog.skipped,
        "rows of the metadata or images have no counterpart": unmatched,
    }
    found = [Finding("alarm", s["warning"]) for s in results["shortcuts"] if s["warning"]]
    found += [Finding("warning", text) for text in warnings if text]
    for what, names in notes.items():
        if names:
            found.append(Finding("note", f"{len(names):,} {what}, e.g. {names[0]!r}."))
    return found
