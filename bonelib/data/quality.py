"""What is wrong with an image's grey levels or colours, and whether it is like the training images.

These are the definitions of blank, inverted and coloured for the audit and for prediction.

The gauge is twelve simple statistics of a letterboxed grey image, scaled by the median and spread
of the training images; a Mahalanobis distance (shrunk covariance) is compared with the training
images' own distances. It finds inverted images, photos and noise, but not every other body part: a
gauge of 90 spine printouts rejected 24 of 24 knees, one of 18 knees 41% to 71% of the printouts.
"""

from pathlib import Path

import cv2
import numpy as np
from sklearn.covariance import LedoitWolf
from sklearn.model_selection import KFold

from bonelib.data.images import decode, letterbox, read_bytes
from bonelib.messages import DataError

# Standard deviation in grey levels below which nothing is shown.
BLANK_DEVIATION = 4.0
# Shares of coloured pixels (from `images.decode`) above which lines or letters are drawn over an
# image, and above which it is a colour photo.
OVERLAY_SHARE = 0.0005
PHOTO_SHARE = 0.25
# Training images from which a gauge can be made.
MIN_GAUGE_IMAGES = 10
# How much farther than the 99th percentile of unseen training images is too far.
GAUGE_MARGIN = 1.5
# The outermost pixels of an image of 64 x 64.
BORDER = np.pad(np.zeros((52, 52), bool), 6, constant_values=True)


def is_blank(image: np.ndarray) -> bool:
    """Whether the standard deviation of an image, without its black border, is below 4 grey levels.

    Not the range of grey levels: noise of standard deviation 3 covers 25 of them and shows nothing,
    while the flattest of 312 real radiographs has a standard deviation of 39.
    """
    left, top, width, height = cv2.boundingRect(image)
    content = image[top : top + height, left : left + width]
    return content.size == 0 or bool(content.std() < BLANK_DEVIATION)


def is_inverted(image: np.ndarray) -> bool:
    """Whether bone is dark on a white background, as in MONOCHROME1 shown without inversion.

    image: (H, W) without letterbox border.
    """
    h, w = image.shape
    edge = max(2, min(h, w) // 20)
    sides = np.median(np.concatenate([image[:, :edge].ravel(), image[:, -edge:].ravel()]))
    centre = np.median(image[h // 4 : h - h // 4, w // 3 : w - w // 3])
    return bool(sides > 150 and sides > centre + 40)


def fit_gauge(images: np.ndarray, seed: int = 0) -> dict:
    """What `rejections` compares with, from training images (N, S, S) uint8, ready for JSON.

    Empty with fewer than 10 images: `rejections` then knows blank ones only.
    """
    if len(images) < MIN_GAUGE_IMAGES:
        return {}
    x = np.stack([_statistics(image) for image in images])
    unseen = np.empty(len(x))
    for rest, part in KFold(5, shuffle=True, random_state=seed).split(x):
        unseen[part] = _distances(_centre_and_spread(x[rest]), x[part])
    return _centre_and_spread(x) | {"limit": float(GAUGE_MARGIN * np.quantile(unseen, 0.99))}


def rejections(images: np.ndarray, gauge: dict) -> list[str]:
    """The reason to reject each of the images (N, S, S) uint8, or ""; no gauge: blank ones only."""
    return [_rejection(image, gauge) for image in images]


def read_for_model(path: str | Path, size: int) -> tuple[np.ndarray | None, str]:
    """A file as the model sees it, (size, size) uint8, or None if unreadable; and a reason or "".

    The reason to reject it is one that the grey image does not show: unreadable, a colour photo.
    """
    try:
        image, facts = decode(read_bytes(path), size)
    except DataError as error:
        return None, f"unreadable: {error}"
    share = facts["coloured"]
    reason = f"a colour photo: {share:.0%} of it is coloured, expected under {PHOTO_SHARE:.0%}"
    return letterbox(image, size), reason if share > PHOTO_SHARE else ""


def _rejection(image: np.ndarray, gauge: dict) -> str:
    if is_blank(image):
        return f"blank: the standard deviation of its grey levels is below {BLANK_DEVIATION:.0f}"
    if not gauge:
        return ""
    x = np.stack([_statistics(image), _statistics(255 - image)])
    distance, of_negative = _distances(gauge, x)
    if distance <= gauge["limit"]:
        return ""
    if of_negative <= gauge["limit"]:
        return f"inverted: only its negative is like the training images (distance {distance:.1f})"
    return f"not like the training images (distance {distance:.1f}, limit {gauge['limit']:.1f})"


def _statistics(image: np.ndarray) -> np.ndarray:
    """(12,): grey levels, their spread, where the light is, and how fine the detail is."""
    grey = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    centre, border = grey[16:48, 16:48], grey[BORDER]
    levels = np.percentile(grey, [5, 25, 50, 75, 95])
    contrasts = [grey.std(), centre.mean() - border.mean(), centre.std(), border.std()]
    edges = [np.abs(np.diff(grey, axis=axis)).mean() for axis in (0, 1)]
    detail = cv2.Laplacian(grey, cv2.CV_32F).std()
    return np.array([*levels, *contrasts, *np.log1p([*edges, detail])])


def _centre_and_spread(x: np.ndarray) -> dict:
    centre = np.median(x, 0)
    spread = 1.4826 * np.median(np.abs(x - centre), 0)
    # The median spread alone may be 0, of black corners for example.
    scale = np.maximum(spread, x.std(0) / 2 + 1e-3)
    precision = LedoitWolf(assume_centered=True).fit((x - centre) / scale).precision_
    return {"centre": centre.tolist(), "scale": scale.tolist(), "precision": precision.tolist()}


def _distances(gauge: dict, x: np.ndarray) -> np.ndarray:
    z = (x - gauge["centre"]) / gauge["scale"]
    return np.asarray(np.sqrt(np.einsum("ni,ij,nj->n", z, np.array(gauge["precision"]), z)))
