"""Two pictures side by side: aligned, then compared in their fine texture, and the difference put into words.

Alignment is ECC (doi:10.1109/TPAMI.2008.113), first coarse, then fine. The median correlation of small tiles decides:
a marker or an overlay spoils few tiles, another person's similar anatomy most of them.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

COARSE, FINE = 64, 224  # pixels at which two pictures are aligned, then compared
WORTH = 0.75  # coarse agreement, aligned, from which a finer look is worth its time
GOOD = 0.87  # agreement that needs no finer alignment
HOPELESS = 0.5  # fine agreement below which aligning more finely is hopeless
SAME = 0.86  # fine agreement of one picture (JPEG 30 has 0.91); other people reach 0.81, one outline drawn twice 0.82

Array = NDArray[Any]
Layer = tuple[Array, Array]  # local contrast, and a mask that is 1 where it holds
WARP = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


class Texture:
    """What of a picture is compared: its local contrast, so no exposure, at two sizes."""

    def __init__(self, thumb: Array, frame: tuple[int, int, int, int]) -> None:
        """thumb: (S, S) uint8; frame: top, bottom, left, right of the picture in it."""
        self.thumb = thumb
        self.frame = np.array(frame) / len(thumb)

    @cached_property
    def coarse(self) -> Layer:
        return self._layer(COARSE, (0, 2), 4)

    @cached_property
    def fine(self) -> Layer:
        return self._layer(max(COARSE, min(FINE, len(self.thumb))), (1, 2.5), 3)

    @cached_property
    def grey(self) -> Array:
        return cv2.resize(self.thumb, (COARSE, COARSE), interpolation=cv2.INTER_AREA).astype(np.float32)

    def _layer(self, side: int, band: tuple[float, float], around: float) -> Layer:
        """Detail between two widths (sigmas, in pixels) by its strength `around`: two (side, side) float32."""
        grey = cv2.resize(self.thumb, (side, side), interpolation=cv2.INTER_AREA)
        inside = np.zeros((side, side), np.uint8)
        top, bottom, left, right = np.round(self.frame * side + (2, -2, 2, -2)).astype(int)
        inside[top:bottom, left:right] = 1
        near = np.ones((7, 7), np.uint8)
        mask = (inside * (cv2.dilate(grey, near) - cv2.erode(grey, near) > 3)).astype(np.float32)
        detail = (grey - _blur(grey * mask, band[1]) / (_blur(mask, band[1]) + 1e-3)) * mask
        if band[0]:
            detail = _blur(detail, band[0]) * mask  # what JPEG takes away first is not looked at
        spread = np.sqrt(_blur(detail * detail, around) / (_blur(mask, around) + 1e-3))
        return detail / (spread + 2), mask


def align(a: Texture, b: Texture, start: Array, hopeless: float = 0.25) -> tuple[Array, float]:
    """The affine map (2, 3) from `a` to `b` near `start`, in pixels of COARSE, and how well they then agree, up to 1.

    hopeless: coarse agreement at `start` below which nothing is tried.
    """
    found, score = _refined(a.coarse, b.coarse, start, hopeless)
    if score < WORTH or not plausible(found):
        return found, 0.0
    grow = len(a.fine[0]) / COARSE
    finer, score = _refined(a.fine, b.fine, resized(found, grow), HOPELESS)
    return resized(finer, 1 / grow), score if plausible(finer) else 0.0


def plausible(map_: Array) -> bool:
    """Whether a map (2, 3) zooms and stretches no more than copies do; one onto a point would agree with anything."""
    large, small = np.linalg.svd(map_[:, :2], compute_uv=False)
    return bool(small > 0.4 and large < 2.5 and large < 2.2 * small)


def resized(map_: Array, scale: float) -> Array:
    """The same map (2, 3) between pictures `scale` times as large; pixel centres stay where they are."""
    turn, off = map_[:, :2], (scale - 1) / 2
    return np.column_stack([turn, scale * map_[:, 2] + off - off * turn.sum(1)])


def _refined(a: Layer, b: Layer, start: Array, hopeless: float) -> tuple[Array, float]:
    """The start or, where it isn't good yet, what ECC makes of it."""
    score = agreement(a, b, start)
    if not hopeless < score < GOOD:
        return start, score
    try:
        stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
        everywhere = np.ones(a[0].shape, np.uint8)
        found = cv2.findTransformECC(a[0], b[0], start.astype(np.float32), cv2.MOTION_AFFINE, stop, everywhere, 3)[1]
    except cv2.error:  # it did not converge
        return start, score
    refined = agreement(a, b, found)
    return (found.astype(float), refined) if refined > score else (start, score)


def agreement(a: Layer, b: Layer, map_: Array) -> float:
    """Median correlation of 8x8 tiles of `a` with `b` warped onto it; 0 where too little is left to compare."""
    x, mask = a
    y, there = (cv2.warpAffine(z, map_, x.shape, flags=WARP) for z in b)
    both = mask * (there > 0.9)
    n = _tiles(both)
    usable = n > 0.4
    if usable.sum() < max(6, 0.35 * min((_tiles(mask) > 0.4).sum(), (_tiles(there) > 0.4).sum())):
        return 0.0
    n, x, y = n + 1e-6, x * both, y * both
    mean_x, mean_y = _tiles(x) / n, _tiles(y) / n
    shared = _tiles(x * y) / n - mean_x * mean_y
    spread = (_tiles(x * x) / n - mean_x**2) * (_tiles(y * y) / n - mean_y**2)
    return float(np.median((shared / np.sqrt(np.maximum(spread, 0) + 1e-4))[usable]))


def describe(a: Texture, b: Texture, map_: Array, resized: bool = False) -> str:
    """In words, what was done to the one to get the other."""
    turn, words = map_[:, :2], []
    zoom = np.sqrt(abs(np.linalg.det(turn)))
    if np.linalg.det(turn) < 0:
        words.append("flipped" if turn[0, 0] > 0.9 * zoom else "mirrored")
        turn = turn @ (np.diag([1, -1]) if words == ["flipped"] else np.diag([-1, 1]))
    angle = np.degrees(np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1]))
    if abs(angle) > 2:
        words.append(f"turned {abs(angle):.0f}°")
    centre = np.full(2, (COARSE - 1) / 2)
    if abs(zoom - 1) > 0.03 or np.abs(map_[:, :2] @ centre + map_[:, 2] - centre).max() > 0.02 * COARSE:
        words.append("cropped, padded or zoomed")
    if resized:
        words.append("resized")
    there, other = (cv2.warpAffine(z, map_, a.grey.shape, flags=WARP) for z in (b.coarse[1], b.grey))
    both = a.coarse[1] * there > 0.9
    if both.any() and np.abs(cv2.blur(a.grey - other, (9, 9)))[both].mean() > 6:
        words.append("exposure changed")
    return "; ".join(words) or "exported again"


def _tiles(x: Array) -> Array:
    return cv2.resize(x, (8, 8), interpolation=cv2.INTER_AREA)


def _blur(x: Array, sigma: float) -> Array:
    return cv2.GaussianBlur(x, (0, 0), sigma)
