"""Two images aligned, compared in their fine texture, and the difference described in words.

Alignment is ECC (doi:10.1109/TPAMI.2008.113), first coarse, then fine. The median correlation of
small tiles decides: a marker or an overlay changes few tiles, another person's similar anatomy most
of them.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# Local contrast, and a mask that is 1 where it is defined.
Layer = tuple[Array, Array]

# Pixels per side at which two images are aligned, then compared.
COARSE, FINE = 64, 224
# Coarse agreement from which a finer look is worth its time.
PROMISING = 0.75
# Agreement that needs no finer alignment, and fine agreement below which refining is hopeless.
ALIGNED, HOPELESS = 0.87, 0.5
# Fine agreement of one image (JPEG at quality 30 has 0.91); other people reach 0.81.
SAME_IMAGE = 0.86
WARP = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


class Texture:
    """What of an image is compared: its local contrast, so no exposure, at two sizes.

    thumbnail: (S, S) uint8. frame: top, bottom, left, right of the image in it.
    """

    def __init__(self, thumbnail: Array, frame: tuple[int, int, int, int]) -> None:
        self.thumbnail = thumbnail
        self.frame = np.array(frame) / len(thumbnail)

    @cached_property
    def coarse(self) -> Layer:
        return self._layer(COARSE, (0, 2), 4)

    @cached_property
    def fine(self) -> Layer:
        return self._layer(max(COARSE, min(FINE, len(self.thumbnail))), (1, 2.5), 3)

    @cached_property
    def grey(self) -> Array:
        size = (COARSE, COARSE)
        return cv2.resize(self.thumbnail, size, interpolation=cv2.INTER_AREA).astype(np.float32)

    def _layer(self, side: int, band: tuple[float, float], surround: float) -> Layer:
        """Detail between two widths (sigmas, in pixels) divided by its local strength."""
        grey = cv2.resize(self.thumbnail, (side, side), interpolation=cv2.INTER_AREA)
        inside = np.zeros((side, side), np.uint8)
        top, bottom, left, right = np.round(self.frame * side + (2, -2, 2, -2)).astype(int)
        inside[top:bottom, left:right] = 1
        near = np.ones((7, 7), np.uint8)
        mask = (inside * (cv2.dilate(grey, near) - cv2.erode(grey, near) > 3)).astype(np.float32)
        mean = _blur(grey * mask, band[1]) / (_blur(mask, band[1]) + 1e-3)
        detail = (grey - mean) * mask
        if band[0]:
            # what JPEG removes first is not compared
            detail = _blur(detail, band[0]) * mask
        strength = np.sqrt(_blur(detail * detail, surround) / (_blur(mask, surround) + 1e-3))
        return detail / (strength + 2), mask


def align(a: Texture, b: Texture, start: Array, hopeless: float = 0.25) -> tuple[Array, float]:
    """The affine map (2, 3) from `a` to `b` near `start`, in pixels of COARSE, and the agreement.

    hopeless: coarse agreement at `start` below which nothing is tried.
    """
    found, score = _refine(a.coarse, b.coarse, start, hopeless)
    if score < PROMISING or not is_plausible(found):
        return found, 0.0
    scale = len(a.fine[0]) / COARSE
    finer, score = _refine(a.fine, b.fine, scale_map(found, scale), HOPELESS)
    return scale_map(finer, 1 / scale), score if is_plausible(finer) else 0.0


def is_plausible(affine: Array) -> bool:
    """Whether a map (2, 3) zooms and stretches no more than copies do.

    A map onto a point would agree with anything.
    """
    large, small = np.linalg.svd(affine[:, :2], compute_uv=False)
    return bool(small > 0.4 and large < 2.5 and large < 2.2 * small)


def scale_map(affine: Array, scale: float) -> Array:
    """The same map (2, 3) between images `scale` times as large; pixel centres stay in place."""
    linear, offset = affine[:, :2], (scale - 1) / 2
    shift = scale * affine[:, 2] + offset - offset * linear.sum(1)
    return np.column_stack([linear, shift])


def describe(a: Texture, b: Texture, affine: Array, is_resized: bool = False) -> str:
    """What was done to one image to get the other, in words."""
    linear, words = affine[:, :2], []
    zoom = np.sqrt(abs(np.linalg.det(linear)))
    if np.linalg.det(linear) < 0:
        upside_down = linear[0, 0] > 0.9 * zoom
        words.append("flipped" if upside_down else "mirrored")
        linear = linear @ np.diag([1, -1] if upside_down else [-1, 1])
    angle = np.degrees(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]))
    if abs(angle) > 2:
        words.append(f"rotated {abs(angle):.0f}°")
    centre = np.full(2, (COARSE - 1) / 2)
    moved = np.abs(affine[:, :2] @ centre + affine[:, 2] - centre).max()
    if abs(zoom - 1) > 0.03 or moved > 0.02 * COARSE:
        words.append("cropped, padded or zoomed")
    if is_resized:
        words.append("resized")
    there, other = (
        cv2.warpAffine(z, affine, a.grey.shape, flags=WARP) for z in (b.coarse[1], b.grey)
    )
    both = a.coarse[1] * there > 0.9
    if both.any() and np.abs(cv2.blur(a.grey - other, (9, 9)))[both].mean() > 6:
        words.append("exposure changed")
    return "; ".join(words) or "exported again"


def _refine(a: Layer, b: Layer, start: Array, hopeless: float) -> tuple[Array, float]:
    """The start or, where it is not good yet, the result of ECC if that is better."""
    score = _agreement(a, b, start)
    if not hopeless < score < ALIGNED:
        return start, score
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
    mask = np.ones(a[0].shape, np.uint8)
    begin = start.astype(np.float32)
    try:
        found = cv2.findTransformECC(a[0], b[0], begin, cv2.MOTION_AFFINE, stop, mask, 3)[1]
    except cv2.error:
        # it did not converge
        return start, score
    refined = _agreement(a, b, found)
    return (found.astype(float), refined) if refined > score else (start, score)


def _agreement(a: Layer, b: Layer, affine: Array) -> float:
    """Median correlation of 8x8 tiles of `a` with `b` warped onto it; 0 with too little overlap."""
    x, mask = a
    y, there = (cv2.warpAffine(layer, affine, x.shape, flags=WARP) for layer in b)
    both = mask * (there > 0.9)
    n = _tiles(both)
    compared = n > 0.4
    possible = min((_tiles(mask) > 0.4).sum(), (_tiles(there) > 0.4).sum())
    if compared.sum() < max(6, 0.35 * possible):
        return 0.0
    n, x, y = n + 1e-6, x * both, y * both
    mean_x, mean_y = _tiles(x) / n, _tiles(y) / n
    covariance = _tiles(x * y) / n - mean_x * mean_y
    variances = (_tiles(x * x) / n - mean_x**2) * (_tiles(y * y) / n - mean_y**2)
    correlation = covariance / np.sqrt(np.maximum(variances, 0) + 1e-4)
    return float(np.median(correlation[compared]))


def _tiles(x: Array) -> Array:
    return cv2.resize(x, (8, 8), interpolation=cv2.INTER_AREA)


def _blur(x: Array, sigma: float) -> Array:
    return cv2.GaussianBlur(x, (0, 0), sigma)
