"""What is wrong with single images and with the metadata. Reported, never altered."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bonelib import images
from bonelib.candidates import each
from bonelib.copies import blank

SUFFIXES = {"PNG": {".png"}, "JPEG": {".jpg", ".jpeg"}, "TIFF": {".tif", ".tiff"}, "BMP": {".bmp"}}
MOST = 1024  # pixels a side that are looked at for colour
COLOURED = 40  # difference of the channels from which a pixel is no grey one
WORDS = {
    "blank": "of one grey", "tiny": "under 64 pixels", "aspect": "over 3 times as long as wide",
    "extension": "named as another format", "inverted": "bone dark on a white ground", "dark": "almost black",
    "bright": "almost white", "overlay": "coloured lines or letters drawn over",
}  # fmt: skip


def overlays(root: Path, paths: list[str]) -> NDArray[np.float64]:
    """(N,) share of coloured pixels in each file."""
    return np.array(each(lambda path: (images.colour(root / path, MOST) > COLOURED).mean(), paths), float)


def defects(rows: pd.DataFrame, thumbs: NDArray[Any], overlay: NDArray[Any]) -> list[set[str]]:
    """The words of WORDS that fit each image. thumbs: (N, S, S) uint8; overlay: (N,) share of coloured pixels."""

    def seen(i: int) -> set[str]:
        row = rows.iloc[i]
        top, bottom, left, right = images.frame(row["width"], row["height"], thumbs.shape[1])
        picture = thumbs[i][top:bottom, left:right]
        if blank(picture):
            return {"blank"}
        short, long = sorted((row["width"], row["height"]))
        suffix = PurePosixPath(row["path"]).suffix.lower()
        found = {
            "tiny": short < 64, "aspect": long > 3 * short, "overlay": overlay[i] > 0.0005,
            "extension": suffix not in SUFFIXES.get(row["format"], {suffix}), "inverted": _inverted(picture),
            "dark": np.percentile(picture, 99) < 50, "bright": np.mean(picture >= 250) > 0.5,
        }  # fmt: skip
        return {word for word, so in found.items() if so}

    return each(seen, range(len(rows)))


def _inverted(picture: NDArray[Any]) -> bool:
    """Whether the ground is white and what stands before it darker, as in a MONOCHROME1 picture shown as it is."""
    h, w = picture.shape
    edge = max(2, min(h, w) // 20)
    sides = np.concatenate([picture[:, :edge].ravel(), picture[:, -edge:].ravel()])
    centre = picture[h // 4 : -(h // 4), w // 3 : -(w // 3)]
    return bool(np.median(sides) > 150 and np.median(sides) > np.median(centre) + 40)


def odd_values(rows: pd.DataFrame, columns: list[str]) -> list[dict[str, Any]]:
    """Numbers that can't be or stand far off: `path`, `column`, `value`, `reason`."""
    out = []
    for column in columns:
        numbers = pd.to_numeric(rows[column], errors="coerce")
        text = rows[column].notna() & numbers.isna()
        if 0 < text.sum() < 0.2 * len(rows) and numbers.notna().sum() > text.sum():
            out += [_odd(rows, i, column, "is no number, as the others are") for i in np.flatnonzero(text)]
        if numbers.notna().sum() < 8:
            continue
        low, high = numbers.quantile([0.25, 0.75])
        ordered = np.sort(numbers.dropna().unique())
        for i in np.flatnonzero(numbers.notna()):
            value = numbers.iloc[i]
            if "age" in column.lower().split("_") and not 0 < value <= 120:
                out.append(_odd(rows, i, column, "is no possible age"))
                continue
            others = ordered[ordered != value]
            gap = np.abs(others - value).min() if len(others) else 0
            if not low - 1.5 * (high - low) <= value <= high + 1.5 * (high - low) and gap > 0.75 * (high - low) > 0:
                nearest = others[np.abs(others - value).argmin()]
                out.append(_odd(rows, i, column, f"stands far off: the next is {nearest:g}"))
    return out


def _odd(rows: pd.DataFrame, i: Any, column: str, reason: str) -> dict[str, Any]:
    value = rows[column].iloc[i]
    return {"path": rows["path"].iloc[i], "column": column, "value": getattr(value, "item", lambda: value)(),
            "reason": reason}  # fmt: skip
