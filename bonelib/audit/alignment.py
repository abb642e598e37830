"""Two images aligned, compared in their fine texture, and the difference described in words.

Alignment is ECC (doi:10.1109/TPAMI.2008.113). The median correlation of small tiles decides: a
marker or an overlay changes few tiles, another person's similar anatomy most of them. Affine maps
(2, 3) are in pixels of the thumbnails.
"""

import cv2
import numpy as np

from bonelib.data.images import frame, letterbox

# Agreement below which refining a map is hopeless, and above which it is not needed.
HOPELESS, ALIGNED = 0.3, 0.87
# How much both images are blurred (sigma), and agreement of one image: unchanged (JPEG at quality
# 30 has 0.91, other people reach 0.84), against noise, and as a blurred copy is compared with its
# original (0.92, if that is not similar anatomy).
LOOKS = (((0.0, 0.0), 0.86), ((1.5, 1.5), 0.93), ((2.5, 0.0), 0.93), ((0.0, 2.5), 0.93))
# Agreement below which no other blur is tried.
UNLIKE = 0.5
# Difference from the pixels around it above which a pixel is noise.
SPECKLE = 40


class Texture:
    """What of an image is compared: its local contrast, so no exposure.

    thumbnail: (S, S) uint8, letterboxed, then prepared with `aspect`. size: width and height of the
    image. detail: (S, S), the local contrast after a blur. mask: (S, S), 1 where it is defined.
    """

    def __init__(self, thumbnail, size, aspect=1.0, blur=0.0) -> None:
        self.thumbnail, self.size, self.blur = prepare(thumbnail, aspect), size, blur
        grey = _blur(self.thumbnail, blur) if blur else self.thumbnail
        top, bottom, left, right = frame(size[0], round(size[1] * aspect), len(grey))
        inside = np.zeros(grey.shape, np.float32)
        inside[top + 2 : bottom - 2, left + 2 : right - 2] = 1
        near = np.ones((7, 7), np.uint8)
        self.mask = inside * (cv2.dilate(grey, near) - cv2.erode(grey, near) > 3)
        mean = _blur(grey * self.mask, 2.5) / (_blur(self.mask, 2.5) + 1e-3)
        # what JPEG removes first is not compared
        detail = _blur((grey - mean) * self.mask, 1) * self.mask
        strength = np.sqrt(_blur(detail * detail, 3) / (_blur(self.mask, 3) + 1e-3))
        self.detail = detail / (strength + 2)


def prepare(thumbnail: np.ndarray, aspect: float) -> np.ndarray:
    """A thumbnail (S, S) without single noisy pixels, letterboxed again `aspect` times as high."""
    median, side = cv2.medianBlur(thumbnail, 3), len(thumbnail)
    clean = np.where(cv2.absdiff(thumbnail, median) > SPECKLE, median, thumbnail)
    return letterbox(cv2.resize(clean, (side, round(side * aspect))), side)


def align(a: Texture, b: Texture, start: np.ndarray) -> tuple[np.ndarray, float]:
    """The affine map from `a` to `b` near `start`, and their agreement, at most 1."""
    score = agreement(a, b, start)
    if not HOPELESS < score < ALIGNED:
        return start, score
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
    mask, begin = np.ones(a.mask.shape, np.uint8), start.astype(np.float32)
    try:
        refined = cv2.findTransformECC(a.detail, b.detail, begin, cv2.MOTION_AFFINE, stop, mask, 3)
    except cv2.error:
        # it did not converge
        return start, score
    affine = refined[1].astype(float)
    return affine, agreement(a, b, affine) if is_plausible(affine) else 0.0


def is_plausible(affine: np.ndarray) -> bool:
    """Whether a map (2, 3) zooms and stretches no more than copies do.

    A map onto a point would agree with anything.
    """
    large, small = np.linalg.svd(affine[:, :2], compute_uv=False)
    return bool(small > 0.4 and large < 2.5 and large < 2.2 * small)


def describe(a: Texture, b: Texture, affine: np.ndarray) -> str:
    """What was done to one image to get the other, in words."""
    linear, side = affine[:, :2], len(a.thumbnail)
    determinant = np.linalg.det(linear)
    zoom, is_mirrored = np.sqrt(abs(determinant)), determinant < 0
    unmirrored = linear * (-1, 1) if is_mirrored else linear
    sine, cosine = unmirrored[1, 0] - unmirrored[0, 1], unmirrored[0, 0] + unmirrored[1, 1]
    angle = abs(np.degrees(np.arctan2(sine, cosine)))
    is_upside_down = is_mirrored and angle > 178
    centre = np.full(2, (side - 1) / 2)
    moved = np.abs(linear @ centre + affine[:, 2] - centre).max()
    grey, other = (texture.thumbnail.astype(np.float32) for texture in (a, b))
    both = a.mask * _warp(b.mask, affine) > 0.9
    exposure = np.abs(cv2.blur(grey - _warp(other, affine), (side // 7, side // 7)))[both]
    words = {
        "flipped": is_upside_down,
        "mirrored": is_mirrored and not is_upside_down,
        f"rotated {angle:.0f}°": angle > 2 and not is_upside_down,
        "cropped, padded or zoomed": abs(zoom - 1) > 0.03 or moved > 0.02 * side,
        "resized": sorted(a.size) != sorted(b.size),
        "exposure changed": exposure.sum() > 6 * len(exposure),
        "blurred or noisy": a.blur + b.blur > 0,
    }
    return "; ".join(word for word, applies in words.items() if applies) or "exported again"


def agreement(a: Texture, b: Texture, affine: np.ndarray) -> float:
    """Median correlation of 8x8 tiles of `a` with `b` warped onto it; 0 with too little overlap."""
    there = _warp(b.mask, affine)
    both = a.mask * (there > 0.9)
    n = shrink(both)
    compared = n > 0.4
    possible = min((shrink(a.mask) > 0.4).sum(), (shrink(there) > 0.4).sum())
    if compared.sum() < max(6, 0.35 * possible):
        return 0.0
    n, x, y = n + 1e-6, a.detail * both, _warp(b.detail, affine) * both
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
