"""Pictures that are the same picture: cheap candidates first, then a comparison pixel by pixel confirms them.

Candidates: the lowest frequencies of the rank-transformed picture (a perceptual hash kept as numbers), taken without
the signs that a flip or a quarter turn changes, so that one k-d tree finds all eight orientations at once.
Confirmation: both pictures are aligned (ECC, doi:10.1109/TPAMI.2008.113) and their fine texture is correlated tile by
tile. The median tile decides: a marker or an overlay spoils few tiles, another person's similar anatomy all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

COARSE, FINE = 128, 192  # pixels at which two pictures are aligned, then compared
HOPELESS, WORTH = 0.2, 0.6  # coarse agreement from which aligning, and then a finer look, are worth their time
SAME = 0.72  # fine agreement of one picture; different knees reach 0.5, drawn ones of one outline 0.7
NEAR = 2.0  # radius of the candidate search, in units of the signature
NEIGHBOURS = 8
LOW = 8  # frequencies a side in the signature
SIGNS = ((1, 1), (-1, 1), (1, -1), (-1, -1))
FLIPS = [np.diag(s).astype(float) for s in SIGNS] + [np.diag(s)[::-1].astype(float) for s in SIGNS]

Array = NDArray[Any]
PAIRS = ("a", "b", "kind", "confidence")


def find(thumbs: Array, files: pd.DataFrame | None = None) -> pd.DataFrame:
    """Confirmed pairs of copies: `a`, `b` (rows of `thumbs`), `kind` in words, `confidence` 0..1.

    thumbs: (N, S, S) uint8, letterboxed on black. files: `sha256`, `width`, `height` of the same N pictures.
    Blank pictures are no one's copy.
    """
    shown = np.flatnonzero(~np.array(_each(lambda i: blank(thumbs[i]), range(len(thumbs))), bool))
    same, rest = _identical(thumbs, files, shown)
    look = _alike(thumbs, files, rest)
    return pd.DataFrame([*same, *look], columns=PAIRS).astype({"a": int, "b": int, "kind": str, "confidence": float})


def blank(thumb: Array) -> bool:
    """Whether a picture is of one grey."""
    return bool(np.ptp(thumb[::2, ::2]) <= 8)


def joined(n: int, *links: Iterable[tuple[int, int]]) -> Array:
    """(n,) int: the number of each item's cluster, when linked items belong together, transitively."""
    ab = np.array([link for some in links for link in some], int).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ab)), (ab[:, 0], ab[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def _identical(thumbs: Array, files: pd.DataFrame | None, shown: Array) -> tuple[list[tuple], Array]:
    """Pairs of equal files or equal pixels, and the rows that are left when each such set keeps its first."""
    first: dict[Any, int] = {}
    pairs, rest = [], []
    sha = [""] * len(thumbs) if files is None else files["sha256"].tolist()
    size = _sizes(thumbs, files)
    for i in map(int, shown):
        of = first.setdefault(sha[i] or i, i)
        kind = "same file"
        if of == i:
            of, kind = first.setdefault((hash(thumbs[i].tobytes()), size[i]), i), "same pixels"
        if of == i:
            rest.append(i)
        else:
            pairs.append((of, i, kind, 1.0))
    return pairs, np.array(rest, int)


def _sizes(thumbs: Array, files: pd.DataFrame | None) -> list[tuple[int, int]]:
    return [(0, 0)] * len(thumbs) if files is None else list(zip(files["width"], files["height"], strict=True))


def _alike(thumbs: Array, files: pd.DataFrame | None, rows: Array) -> list[tuple]:
    """Confirmed pairs among `rows` that differ by a flip, a quarter turn, the scale or the exposure."""
    if len(rows) < 2:
        return []
    low = np.stack(_each(lambda i: signature(thumbs[i]), rows))
    sizes = _sizes(thumbs, files)
    texture = lru_cache(4096)(lambda i: Texture(thumbs[i]))

    def confirm(pair: Array) -> tuple | None:
        a, b = texture(int(rows[pair[0]])), texture(int(rows[pair[1]]))
        found, score = align(a, b, a.onto(b, FLIPS[pair[2]]))
        if score < SAME:
            return None
        i, j = int(rows[pair[0]]), int(rows[pair[1]])
        return i, j, describe(a, b, found, resized=sizes[i] != sizes[j]), score

    return [pair for pair in _each(confirm, candidates(low)) if pair]


def signature(thumb: Array) -> Array:
    """(8, 8) float32: the lowest cosine frequencies of the ranks of the picture's pixels, its borders trimmed."""
    top, bottom, left, right = trim(thumb)
    small = cv2.resize(thumb[top:bottom, left:right], (32, 32), interpolation=cv2.INTER_AREA)
    count = np.bincount(small.ravel(), minlength=256)
    rank = ((np.cumsum(count) - count / 2) / small.size - 0.5).astype(np.float32)[small]
    low = cv2.dct(rank)[:LOW, :LOW]
    low[0, 0] = 0
    return low


def trim(thumb: Array) -> tuple[int, int, int, int]:
    """top, bottom, left, right of what is left without rows and columns of one grey at the borders."""
    box = (0, thumb.shape[0], 0, thumb.shape[1])
    flat = 4 + 0.04 * np.ptp(np.percentile(thumb[::4, ::4], (2, 98)))
    while True:
        inner = thumb[box[0] : box[1], box[2] : box[3]]
        rows, columns = (np.flatnonzero(np.ptp(inner, axis=axis) > flat) for axis in (1, 0))
        if len(rows) < 16 or len(columns) < 16:
            return 0, thumb.shape[0], 0, thumb.shape[1]
        last, box = box, (
            box[0] + rows[0], box[0] + rows[-1] + 1, box[2] + columns[0], box[2] + columns[-1] + 1,
        )  # fmt: skip
        if box == last:
            return tuple(map(int, box))


def candidates(low: Array) -> Array:
    """(M, 3) int: pairs a < b of signatures (N, 8, 8) that may be one picture, and the number of their flip."""
    size, i, j = np.abs(low), *np.triu_indices(LOW, 1)
    turned = (size[:, i, j] + size[:, j, i], np.abs(size[:, i, j] - size[:, j, i]))  # a quarter turn swaps the axes
    blind = np.hstack([size[:, range(1, LOW), range(1, LOW)], *(t / np.sqrt(2) for t in turned)])
    centred = blind - blind.mean(0)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, -12:]  # a k-d tree prunes well in a dozen dimensions
    points = centred @ axes
    near = cKDTree(points).query(points, NEIGHBOURS + 1, distance_upper_bound=NEAR, workers=-1)[1]
    a, b = np.repeat(np.arange(len(low)), near.shape[1]), near.ravel()
    pairs = np.unique(np.sort(np.stack([a, b], 1)[(b < len(low)) & (a != b)], 1), axis=0)
    return np.concatenate([_oriented(low, part) for part in np.array_split(pairs, len(pairs) // 50_000 + 1)])


def _oriented(low: Array, pairs: Array) -> Array:
    """The pairs whose signatures also agree in sign after one of the eight flips: (M, 3)."""
    a, b = low[pairs[:, 0]], low[pairs[:, 1]]
    odd = np.where(np.arange(LOW) % 2, -1, 1).astype(np.float32)
    gaps = []
    for flip in FLIPS:
        turned = b if flip[0, 0] else b.transpose(0, 2, 1)
        across, down = flip.sum(0)
        if across < 0:
            turned = turned * odd
        if down < 0:
            turned = turned * odd[:, None]
        gaps.append(((a - turned) ** 2).sum((1, 2)))
    best = np.argmin(gaps, axis=0)
    keep = np.min(gaps, axis=0) < NEAR**2
    return np.column_stack([pairs, best])[keep]


class Texture:
    """What of a picture is compared: its texture without exposure, at two sizes, and where it holds."""

    def __init__(self, thumb: Array) -> None:
        self.thumb, self.box = thumb, np.array(trim(thumb)) * (COARSE / len(thumb))
        self.coarse = self._at(COARSE, 4)

    @cached_property
    def fine(self) -> tuple[Array, Array]:
        return self._at(FINE, 2)

    def _at(self, side: int, sigma: float) -> tuple[Array, Array]:
        """Local contrast and its mask (1 where it holds): two (side, side) float32; sigma: of the detail, in pixels."""
        grey = cv2.resize(self.thumb, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
        inside = np.zeros((side, side), np.uint8)
        top, bottom, left, right = np.round(self.box * (side / COARSE) + (2, -2, 2, -2)).astype(int)
        inside[max(top, 0) : bottom, max(left, 0) : right] = 1
        around = np.ones((5, 5), np.uint8)
        mask = (inside * (cv2.dilate(grey, around) - cv2.erode(grey, around) > 3)).astype(np.float32)
        detail = (grey - _blur(grey * mask, sigma) / (_blur(mask, sigma) + 1e-3)) * mask
        spread = np.sqrt(_blur(detail * detail, 2 * sigma) / (_blur(mask, 2 * sigma) + 1e-3))
        return detail / (spread + 2), mask

    def onto(self, other: Texture, flip: Array) -> Array:
        """(2, 3): takes a point of this picture to its place in the other, trimmed box to trimmed box."""
        (t, b, le, r), (t2, b2, le2, r2) = self.box, other.box
        here, there = np.array([le + r - 1, t + b - 1]) / 2, np.array([le2 + r2 - 1, t2 + b2 - 1]) / 2
        turn = np.diag([r2 - le2, b2 - t2]) @ flip @ np.diag([1 / (r - le), 1 / (b - t)])
        return np.column_stack([turn, there - turn @ here])


def align(a: Texture, b: Texture, start: Array) -> tuple[Array, float]:
    """The affine map (2, 3) from `a` to `b` near `start`, in pixels of COARSE, and how well they then agree, 0..1."""
    found, score = _refined(a.coarse, b.coarse, start)
    if score < WORTH:
        return found, 0.0
    grow, centre = FINE / COARSE, (FINE / COARSE - 1) / 2  # pixel centres stay where they are
    turn = found[:, :2]
    finer = np.column_stack([turn, grow * found[:, 2] + centre - turn.sum(1) * centre])
    finer, score = _refined(a.fine, b.fine, finer)
    turn = finer[:, :2]
    return np.column_stack([turn, (finer[:, 2] - centre + turn.sum(1) * centre) / grow]), score


def _refined(a: tuple[Array, Array], b: tuple[Array, Array], start: Array) -> tuple[Array, float]:
    """The start or, where it isn't good yet, what ECC makes of it."""
    score = agreement(a, b, start)
    if not HOPELESS < score < 0.9:
        return start, score
    try:
        stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
        found = cv2.findTransformECC(a[0], b[0], start.astype(np.float32), cv2.MOTION_AFFINE, stop, None, 3)[1]
    except cv2.error:  # it did not converge
        return start, score
    refined = agreement(a, b, found)
    return (found.astype(float), refined) if refined > score else (start, score)


def agreement(a: tuple[Array, Array], b: tuple[Array, Array], map_: Array) -> float:
    """Median correlation of 8x8 tiles of `a` with `b` warped onto it; 0 where too little is left to compare."""
    how, (x, mask) = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, a
    y, there = (cv2.warpAffine(z, map_, x.shape, flags=how) for z in b)
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
    shape, how = (COARSE, COARSE), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    one, two = (cv2.resize(t.thumb, shape, interpolation=cv2.INTER_AREA).astype(np.float32) for t in (a, b))
    both = (a.coarse[1] * cv2.warpAffine(b.coarse[1], map_, shape, flags=how)) > 0.9
    if both.any() and np.abs(cv2.blur(one - cv2.warpAffine(two, map_, shape, flags=how), (9, 9)))[both].mean() > 6:
        words.append("exposure changed")
    return ", ".join(words) or "re-encoded"


def _tiles(x: Array) -> Array:
    return cv2.resize(x, (8, 8), interpolation=cv2.INTER_AREA)


def _blur(x: Array, sigma: float) -> Array:
    return cv2.GaussianBlur(x, (0, 0), sigma)


def _each(do: Callable[[Any], Any], items: Sequence[Any] | Array) -> list[Any]:
    """`do` of every item, on all cores: OpenCV and numpy let go of the interpreter."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(do, items))
