"""What is wrong with single images and with single metadata values: reported, never changed."""

from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from bonelib.data.images import frame
from bonelib.data.quality import OVERLAY_SHARE, is_blank, is_inverted
from bonelib.data.tables import plain_name

SUFFIXES = {"PNG": {".png"}, "TIFF": {".tif", ".tiff"}, "BMP": {".bmp"}, "GIF": {".gif"}}
SUFFIXES |= {"JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"}, "WEBP": {".webp"}, "JPEG2000": {".jp2"}}


def image_defects(row, thumbnail: np.ndarray) -> set[str]:
    """The issues of one image: a row of the catalog as a named tuple, and its thumbnail (S, S)."""
    top, bottom, left, right = frame(row.width, row.height, len(thumbnail))
    image = thumbnail[top:bottom, left:right]
    if is_blank(image):
        return {"blank"}
    short, long = sorted((row.width, row.height))
    suffix = PurePosixPath(row.path).suffix.lower()
    found = {
        "tiny": short < 64,
        "aspect": long > 3 * short,
        "overlay": row.coloured > OVERLAY_SHARE,
        "extension": suffix not in SUFFIXES.get(row.format, {suffix}),
        "inverted": is_inverted(image),
        "dark": np.percentile(image, 99) < 50,
        "bright": np.mean(image >= 250) > 0.5,
    }
    return {issue for issue, present in found.items() if present}


def odd_values(rows: pd.DataFrame, columns: list[str]) -> list[dict]:
    """Numbers far from all others, and texts among them: `path`, `column`, `value`, `reason`."""
    found = []
    for column in columns:
        numbers = pd.to_numeric(rows[column], errors="coerce").astype(float)
        known = np.unique(numbers.dropna())
        if numbers.count() < 8 or len(known) < 2:
            continue
        low, high = numbers.quantile([0.25, 0.75])
        margin = 1.5 * (high - low)
        gaps = np.fmin(np.diff(known, prepend=-np.inf), np.diff(known, append=np.inf))
        is_alone = numbers.map(pd.Series(gaps, known)) > margin / 2
        is_far = is_alone & ~numbers.between(low - margin, high + margin) & (margin > 0)
        is_text = rows[column].notna() & numbers.isna()
        is_text &= is_text.mean() < 0.2
        is_age = "age" in plain_name(column).split("_")
        is_far |= is_age & ((numbers <= 0) | (numbers > 120))
        reason = np.where(is_text, "is no number", f"is far from the others ({low:g} to {high:g})")
        odd = rows.assign(column=column, value=rows[column], reason=reason)[is_text | is_far]
        found += odd[["path", "column", "value", "reason"]].to_dict("records")
    return found
