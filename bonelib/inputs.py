"""Is a picture one that the model may be asked about? Refuses what is not like its training images, with the reason.

Method: twelve plain statistics of a letterboxed grey picture, scaled by the median and spread of the training pictures;
the Mahalanobis distance (shrunk covariance) is held against the training pictures' own distances. Colour is judged
before the picture becomes grey. This finds blank, inverted and photographed pictures and noise, not every other body
part: a gauge of 90 spine printouts refused 24 knees of 24, one of 18 knees only 43% of the printouts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.model_selection import KFold

from bonelib import images

COLOURED = 0.25  # share of clearly coloured pixels from which a picture is a colour photo
MARGIN = 1.5  # how much farther than the 99th percentile of unseen training pictures is too far
FEWEST = 10  # training pictures from which a gauge can be made
BLANK = 4.0  # grey levels of standard deviation below which nothing is shown


def statistics(pixels: np.ndarray) -> np.ndarray:
    """(N, 12) of (N, S, S) uint8: grey levels, their spread, where the light lies, and how fine the detail is."""
    return np.stack([_statistics(p) for p in pixels])


def _statistics(picture: np.ndarray) -> np.ndarray:
    grey = cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    inner, levels = grey[16:48, 16:48], np.percentile(grey, [5, 25, 50, 75, 95])
    ring = np.concatenate([grey[:6].ravel(), grey[-6:].ravel(), grey[:, :6].ravel(), grey[:, -6:].ravel()])
    lines = np.abs(np.diff(grey, axis=0)).mean(), np.abs(np.diff(grey, axis=1)).mean()
    fine = cv2.Laplacian(grey, cv2.CV_32F).std()
    return np.array(
        [*levels, grey.std(), inner.mean() - ring.mean(), inner.std(), ring.std(), *np.log1p(lines), np.log1p(fine)]
    )


def fit(pixels: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """What `refuse` compares with, from training pictures (N, S, S) uint8; plain lists, ready for JSON.

    With fewer than FEWEST pictures nothing can be said of what is like them: empty, and `refuse` knows blank ones only.
    """
    if len(pixels) < FEWEST:
        return {}
    x = statistics(pixels)
    unseen = np.empty(len(x))
    for rest, held in KFold(5, shuffle=True, random_state=seed).split(x):
        unseen[held] = _distance(_gauge(x[rest]), x[held])
    return _gauge(x) | {"limit": float(MARGIN * np.quantile(unseen, 0.99))}


def _gauge(x: np.ndarray) -> dict[str, Any]:
    centre = np.median(x, 0)
    spread = 1.4826 * np.median(np.abs(x - centre), 0)
    scale = np.maximum(spread, x.std(0) / 2 + 1e-3)  # the median spread alone may be 0, say of black corners
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit((x - centre) / scale).covariance_)
    return {"centre": centre.tolist(), "scale": scale.tolist(), "precision": precision.tolist()}


def _distance(gauge: dict[str, Any], x: np.ndarray) -> np.ndarray:
    z = (x - gauge["centre"]) / gauge["scale"]
    return np.asarray(np.sqrt(np.einsum("ni,ij,nj->n", z, np.array(gauge["precision"]), z)))


def refuse(pixels: np.ndarray, gauge: dict[str, Any]) -> list[str]:
    """For each picture (N, S, S) uint8 the reason to refuse it, or an empty text; an empty gauge refuses blank ones."""
    if not gauge:
        return [_blank(picture) for picture in pixels]
    x, turned = statistics(pixels), statistics(255 - np.asarray(pixels))
    far, far_turned = _distance(gauge, x), _distance(gauge, turned)
    out = []
    for picture, d, d_turned in zip(pixels, far, far_turned, strict=True):
        why = f"not like the training images (distance {d:.1f}, limit {gauge['limit']:.1f})"
        if _blank(picture):
            why = _blank(picture)
        elif d <= gauge["limit"]:
            why = ""
        elif d_turned <= gauge["limit"]:
            why = f"inverted: its negative is like the training images, itself is not (distance {d:.1f})"
        out.append(why)
    return out


def _blank(picture: np.ndarray) -> str:
    spread = picture.std()
    return "" if spread >= BLANK else f"blank: grey levels spread by {spread:.1f}, expected at least {BLANK:.0f}"


def refuse_file(path: str | Path) -> str:
    """The reason to refuse a readable file for its colour: an overlay colours a few of its pixels, a photograph most."""
    share = (images.colour(path, 64) > 24).mean()
    return f"a colour photo: {share:.0%} of it is coloured, expected under {COLOURED:.0%}" if share > COLOURED else ""


def read(path: str | Path, size: int) -> tuple[NDArray[np.uint8] | None, str]:
    """A file as the model sees it, (size, size) uint8, or None if unreadable; and the reason to refuse it, if any."""
    try:
        return images.letterbox(images.read(path, size), size), refuse_file(path)
    except images.ImageError as error:
        return None, f"unreadable: {error}"
