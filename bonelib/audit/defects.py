"""What is wrong with single images and with single metadata values: reported, never changed."""

from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from bonelib.data.images import frame
from bonelib.data.quality import has_overlay, is_blank, is_inverted

SUFFIXES = {"PNG": {".png"}, "JPEG": {".jpg", ".jpeg"}, "TIFF": {".tif", ".tiff"}, "BMP": {".bmp"}}


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
        "overlay": has_overlay(row.coloured),
        "extension": suffix not in SUFFIXES.get(row.format, {suffix}),
        "inverted": is_inverted(image),
        "dark": np.percentile(image, 99) < 50,
        "bright": np.mean(image >= 250) > 0.5,
    }
    return {issue for issue, present in found.items() if present}


def odd_values(rows: pd.DataFrame, columns: list[str]) -> list[dict]:
    """Values that are impossible or far from all others: `path`, `column`, `value`, `reason`."""
    found = []
    for column in columns:
        numbers = pd.to_numeric(rows[column], errors="coerce").astype(float)
        reasons = _odd_texts(rows[column], numbers) | _odd_numbers(column, numbers)
        for i, reason in reasons.items():
            path, value = rows["path"].iloc[i], rows[column].tolist()[i]
            found.append({"path": path, "column": column, "value": value, "reason": reason})
    return found


def _odd_texts(values: pd.Series, numbers: pd.Series) -> dict[int, str]:
    """A few texts in a column of numbers, by row."""
    texts = np.flatnonzero(values.notna() & numbers.isna())
    few = 0 < len(texts) < min(0.2 * len(values), numbers.notna().sum())
    return dict.fromkeys(texts.tolist(), "is no number, but the other values are") if few else {}


def _odd_numbers(column: str, numbers: pd.Series) -> dict[int, str]:
    """Impossible ages, and numbers far outside the quartiles with a gap to the next, by row."""
    found: dict[int, str] = {}
    low, high = numbers.quantile([0.25, 0.75])
    spread, is_age = high - low, "age" in column.lower().split("_")
    distinct = np.unique(numbers.dropna())
    if numbers.notna().sum() < 8 or len(distinct) < 2:
        return found
    for i, value in enumerate(numbers):
        gaps = np.where(distinct == value, np.inf, np.abs(distinct - value))
        outside = value < low - 1.5 * spread or value > high + 1.5 * spread
        if is_age and (value <= 0 or value > 120):
            found[i] = "is an impossible age"
        elif outside and gaps.min() > 0.75 * spread > 0:
            found[i] = f"is far from the others: the nearest is {distinct[gaps.argmin()]:g}"
    return found
