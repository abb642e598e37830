"""The split that the data came with: what it leaks, and what is set aside to use it."""

import pandas as pd

from bonelib.config import Config
from bonelib.messages import DataError, Finding


def given_split(rows: pd.DataFrame, cfg: Config) -> tuple[dict, list[Finding]]:
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
