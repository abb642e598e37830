"""Two images aligned, compared in their fine texture, and the difference described in words.

Alignment is ECC (doi:10.1109/TPAMI.2008.113), first coarse, then fine. The median correlation of
small tiles decides: a marker or an overlay changes few tiles, another person's similar anatomy most
of them.
"""

from functools import cached_property

import cv2
import numpy as np

from bonelib.data.images import frame

# Local contrast, and a mask that is 1 where it is defined.
Layer = tuple[np.ndarray, np.ndarray]

# np.ndarray per side at which two images are aligned, then compared.
COARSE, FINE = 64, 224
# Coarse agreement from which a finer look is worth its time.
PROMISING = 0.75
# Agreement that needs no finer alignment, and fine agreement below which refining is hopeless.
ALIGNED, HOPELESS = 0.87, 0.5
# Fine agreement of one image (JPEG at quality 30 has 0.91); other people reach 0.81.
SAME_IMAGE = 0.86


class Texture:
    """What of an image is compared: its local contrast, so no exposure, at two sizes.

    thumbnail: (S, S) uint8, letterboxed. size: width and height of the image.
    """

    def __init__(self, thumbnail: np.ndarray, size: tuple[int, int]) -> None:
        self.thumbnail, self.size = thumbnail, size
        self.coarse = self._layer(COARSE, (0, 2), 4)

    @cached_property
    def fine(self) -> Layer:
        return self._layer(max(COARSE, min(FINE, len(self.thumbnail))), (1, 2.5), 3)

    def _layer(self, side: int, band: tuple[float, float], surround: float) -> Layer:
        """Detail between two widths (sigmas, in pixels) divided by its local strength."""
        grey = shrink(self.thumbnail, side)
        inside = np.zeros((side, side), np.uint8)
        corners = np.array(frame(*self.size, len(self.thumbnail))) * side / len(self.thumbnail)
        top, bottom, left, right = np.round(np.add(corners, (2, -2, 2, -2))).astype(int)
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


def align(
    a: Texture, b: Texture, start: np.ndarray, hopeless: float = 0.25
) -> tuple[np.ndarray, float]:
    """The affine map (2, 3) from `a` to `b` near `start`, in pixels of COARSE, and the agreement.

    hopeless: coarse agreement at `start` below which nothing is tried.
    """
    affine, score = _refine(a.coarse, b.coarse, start, hopeless)
    if score < PROMISING or not is_plausible(affine):
        return affine, 0.0
    scale = len(a.fine[0]) / COARSE
    finer, score = _refine(a.fine, b.fine, scale_map(affine, scale), HOPELESS)
    return scale_map(finer, 1 / scale), score if is_plausible(finer) else 0.0


def is_plausible(affine: np.ndarray) -> bool:
    """Whether a map (2, 3) zooms and stretches no more than copies do.

    A map onto a point would agree with anything.
    """
    large, small = np.linalg.svd(affine[:, :2], compute_uv=False)
    return bool(small > 0.4 and large < 2.5 and large < 2.2 * small)


def scale_map(affine: np.ndarray, scale: float) -> np.ndarray:
    """The same map (2, 3) between images `scale` times as large; pixel centres stay in place."""
    linear, offset = affine[:, :2], (scale - 1) / 2
    shift = scale * affine[:, 2] + offset - offset * linear.sum(1)
    return np.column_stack([linear, shift])


def describe(a: Texture, b: Texture, affine: np.ndarray) -> str:
    """What was done to one image to get the other, in words."""
    linear = affine[:, :2]
    zoom, is_mirrored = np.sqrt(abs(np.linalg.det(linear))), np.linalg.det(linear) < 0
    is_upside_down = is_mirrored and linear[0, 0] > 0.9 * zoom
    if is_mirrored:
        linear = linear @ np.diag([1, -1] if is_upside_down else [-1, 1])
    angle = np.degrees(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]))
    centre = np.full(2, (COARSE - 1) / 2)
    moved = np.abs(affine[:, :2] @ centre + affine[:, 2] - centre).max()
    grey, other = (shrink(texture.thumbnail, COARSE).astype(np.float32) for texture in (a, b))
    both = a.coarse[1] * _warp(b.coarse[1], affine) > 0.9
    exposure = np.abs(cv2.blur(grey - _warp(other, affine), (9, 9)))[both]
    words = {
        "flipped": is_upside_down,
        "mirrored": is_mirrored and not is_upside_down,
        f"rotated {abs(angle):.0f}°": abs(angle) > 2,
        "cropped, padded or zoomed": abs(zoom - 1) > 0.03 or moved > 0.02 * COARSE,
        "resized": sorted(a.size) != sorted(b.size),
        "exposure changed": exposure.sum() > 6 * len(exposure),
    }
    return "; ".join(word for word, applies in words.items() if applies) or "exported again"


def _refine(a: Layer, b: Layer, start: np.ndarray, hopeless: float) -> tuple[np.ndarray, float]:
    """The start or, where it is not good yet, the result of ECC if that is better."""
    score = _agreement(a, b, start)
    if not hopeless < score < ALIGNED:
        return start, score
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
    mask, begin = np.ones(a[0].shape, np.uint8), start.astype(np.float32)
    try:
        refined = cv2.findTransformECC(a[0], b[0], begin, cv2.MOTION_AFFINE, stop, mask, 3)[1]
    except cv2.error:
        # it did not converge
        return start, score
    better = _agreement(a, b, refined)
    return (refined.astype(float), better) if better > score else (start, score)


def _agreement(a: Layer, b: Layer, affine: np.ndarray) -> float:
    """Median correlation of 8x8 tiles of `a` with `b` warped onto it; 0 with too little overlap."""
    x, mask = a
    y, there = (_warp(layer, affine) for layer in b)
    both = mask * (there > 0.9)
    n = shrink(both)
    compared = n > 0.4
    possible = min((shrink(mask) > 0.4).sum(), (shrink(there) > 0.4).sum())
    if compared.sum() < max(6, 0.35 * possible):
        return 0.0
    n, x, y = n + 1e-6, x * both, y * both
    mean_x, mean_y, xx, yy, xy = (shrink(z) / n for z in (x, y, x * x, y * y, x * y))
    variances = np.maximum((xx - mean_x**2) * (yy - mean_y**2), 0)
    correlation = (xy - mean_x * mean_y) / np.sqrt(variances + 1e-4)
    return float(np.median(correlation[compared]))


def shrink(x: np.ndarray, side: int = 8) -> np.ndarray:
    """(side, side): the means of as many tiles of an image."""
    return cv2.resize(x, (side, side), interpolation=cv2.INTER_AREA)


def _warp(x: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(x, affine, x.shape, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _blur(x: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(x, (0, 0), sigma)
