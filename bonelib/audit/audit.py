"""What is wrong with the data: copies, conflicts, groups, defects, shortcuts, and what is left."""

from dataclasses import asdict

import pandas as pd

from bonelib.audit import copies, defects, shortcuts
from bonelib.config import Config, present_classes
from bonelib.data.catalog import CATALOG_COLUMNS, Catalog, has_issue, usable
from bonelib.messages import DataError, Finding, sort_findings
from bonelib.split import label_indices


def audit(catalog: Catalog, cfg: Config) -> tuple[pd.DataFrame, dict]:
    """The catalog's table with `group` and `issues` filled, and the content of audit.json.

    A group is all that may be one person: copies, images named as copies, and the `patient` column,
    joined transitively. Of each cluster of copies the largest image is kept and the others get the
    issue `copy`; all get `conflict` where their labels differ. A name alone only binds the group.
    """
    readable = catalog.table["status"] == "ok"
    rows = catalog.table[readable].reset_index(drop=True)
    pairs = copies.find_copies(catalog.thumbnails, rows)
    named = copies.copies_by_name(rows["path"].tolist())
    links = list(zip(pairs["a"], pairs["b"], strict=True))
    rows["group"] = _groups(rows, links + [(a, b) for a, b, _ in named])
    given, findings = _given_split(rows, cfg)
    clusters = _clusters(rows, pairs)
    rows["issues"] = _issues(rows, catalog, clusters)
    table = catalog.table.drop(columns="coloured").assign(issues="unreadable", group="")
    table.loc[readable, ["issues", "group"]] = rows[["issues", "group"]].to_numpy()
    used = rows[usable(rows)]
    class_names = present_classes(cfg, used["label"])
    y = label_indices(used["label"], class_names)
    suspects = shortcuts.measure_suspects(used, catalog.thumbnails[used.index])
    extra = [column for column in table if column not in (*CATALOG_COLUMNS, "given_split")]
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
        "given_split": given,
    }
    findings = sort_findings([*findings, *catalog.findings, *_findings(results, catalog, paths)])
    return table, results | {"findings": [asdict(finding) for finding in findings]}


def count_exclusions(table: pd.DataFrame) -> dict[str, int]:
    """How many images are left after each exclusion."""
    readable = table[table["status"] == "ok"]
    unique = readable[~has_issue(readable, "copy")]
    unconflicted = unique[~has_issue(unique, "conflict")]
    counts = {"found": len(table), "readable": len(readable), "unique": len(unique)}
    return counts | {"unconflicted": len(unconflicted), "used": int(usable(table).sum())}


def _clusters(rows: pd.DataFrame, pairs: pd.DataFrame) -> list[dict]:
    """Sets of copies: `paths`, `labels`, `kept` (the path of the largest), what links them."""
    numbers = copies.join_links(len(rows), zip(pairs["a"], pairs["b"], strict=True))
    # what leaks from a given test set, or was excluded by a person, is kept last
    is_used = ~has_issue(rows, "leak", "excluded")
    members = rows.assign(pixels=is_used * rows["width"] * rows["height"]).groupby(numbers)
    clusters = []
    for number, links in pairs.groupby(numbers[pairs["a"]], sort=False):
        cluster = members.get_group(number)
        clusters.append(
            {
                "paths": cluster["path"].tolist(),
                "labels": cluster["label"].tolist(),
                "kept": cluster.sort_values(["pixels", "bytes"], ascending=False)["path"].iloc[0],
                "kinds": sorted(set("; ".join(links["kind"]).split("; "))),
                "confidence": round(float(links["confidence"].min()), 3),
                "conflict": cluster["label"][~has_issue(cluster, "excluded")].nunique() > 1,
            }
        )
    return clusters


def _issues(rows: pd.DataFrame, catalog: Catalog, clusters: list[dict]) -> list[str]:
    """The issues of each row, joined by semicolons."""
    copied = {path for cluster in clusters for path in cluster["paths"]}
    copied -= {cluster["kept"] for cluster in clusters}
    conflicting = {path for cluster in clusters if cluster["conflict"] for path in cluster["paths"]}
    issues = []
    for row, thumbnail in zip(rows.itertuples(), catalog.thumbnails, strict=True):
        found = defects.image_defects(row, thumbnail)
        found |= {issue for issue in row.issues.split(";") if issue}
        found |= {"copy"} if row.path in copied else set()
        found |= {"conflict"} if row.path in conflicting else set()
        issues.append(";".join(sorted(found)))
    return issues


def _groups(rows: pd.DataFrame, links: list[tuple[int, int]]) -> list[str]:
    """A short id for each row, the same for copies and for images of one patient, transitively."""
    codes, patients = pd.factorize(rows["patient"].where(rows["patient"] != ""))
    # each patient is one more item, to which the images are linked
    own = [(i, len(rows) + code) for i, code in enumerate(codes) if code >= 0]
    numbers = copies.join_links(len(rows) + len(patients), links + own)[: len(rows)]
    return [f"g{number:05d}" for number in pd.factorize(numbers)[0]]


def _given_split(rows: pd.DataFrame, cfg: Config) -> tuple[dict, list[Finding]]:
    """What audit.json says about the given split, and findings.

    A test image leaks if its group has images outside the given test set: a copy, or an image of
    the same patient. Where the given split is used, it gets the issue "leak".
    """
    uses = cfg.given_split == "use"
    splits = rows.get("given_split", pd.Series("", rows.index)).replace("", "none")
    is_test = splits == "test"
    if uses and not is_test.any():
        raise DataError(
            "given_split = use (BONELIB_GIVEN_SPLIT): no folder is named test, and no column split "
            "of a table names it. Name the test images so, or use given_split = ignore"
        )
    leaking = is_test & rows["group"].isin(rows.loc[~is_test, "group"])
    counts = {} if (splits == "none").all() else splits.value_counts().to_dict()
    paths = rows.loc[leaking, "path"].tolist()
    facts = {"setting": cfg.given_split, "counts": counts, "leaking": paths}
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    text = f"The data come split: {listed}. {len(paths):,} of the test images have a copy or the "
    text += "same patient in the rest of the data; given_split = "
    if uses:
        rows.loc[leaking, "issues"] += ";leak"
        text += "use sets them aside, and the others are the test set."
    else:
        text += "ignore splits all images, by group."
    return facts, [Finding("warning" if paths else "note", text)] if counts else []


def _defects(table: pd.DataFrame) -> dict[str, list[str]]:
    """The paths with each issue that is not about copies."""
    exploded = table.assign(issues=table["issues"].str.split(";")).explode("issues")
    exploded = exploded[~exploded["issues"].isin(["", "copy", "conflict"])]
    return exploded.groupby("issues")["path"].agg(list).to_dict()


def _findings(results: dict, catalog: Catalog, paths: list[str]) -> list[Finding]:
    found = [Finding("alarm", s["warning"]) for s in results["shortcuts"] if s["warning"]]
    if images := sum(len(cluster["paths"]) for cluster in results["conflicts"]):
        text = f"Copies with different labels: {images:,} images are not used."
        found.append(Finding("warning", text))
    for odd in results["metadata"]["odd"]:
        text = f"{odd['path']}: {odd['column']} {odd['value']} {odd['reason']}."
        found.append(Finding("warning", text))
    if len(paths) > copies.MAX_COMPARED:
        text = f"Only blocks of {copies.MAX_COMPARED:,} images were searched for copies: of copies "
        text += "in different blocks, in the order of the paths, only identical ones are found."
        found.append(Finding("warning", text))
    notes = {
        "files in class folders are no images by their names and were skipped": catalog.skipped,
        "rows of the metadata or images have no counterpart": catalog.unmatched,
    }
    for what, names in notes.items():
        if names:
            found.append(Finding("note", f"{len(names):,} {what}, e.g. {names[0]!r}."))
    return found
