"""Which images may be copies but for flips, quarter rotations, scale and exposure.

Not all are compared with all: a k-d tree holds the lowest cosine frequencies of the ranks of the
pixels, without the signs that a flip changes. Copies at other angles are found by `keypoints`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from scipy.spatial import cKDTree

from bonelib.audit.alignment import COARSE, scale_map, shrink
from bonelib.storage import parallel_map

# Top, bottom, left, right.
Box = tuple[int, int, int, int]

# Frequencies per side of a signature, and the largest distance of two signatures of one image.
# Only so many of the nearest are looked at.
FREQUENCIES, NEAR, NEIGHBOURS = 8, 2.0, 8
# Smallest correlation of their details; 0.65 with gamma 0.7, 0.3 for other people.
DETAIL = 0.55
# (2, 2): mirrored, flipped, both, and all four with the axes exchanged.
FLIPS = [np.diag((x, y))[::step] * 1.0 for step in (1, -1) for y in (1, -1) for x in (1, -1)]


class Candidate(NamedTuple):
    """Two rows that may be one image, and a map (2, 3) between them, in pixels of COARSE.

    inliers: matches of key points that follow the map.
    """

    a: int
    b: int
    start: np.ndarray
    inliers: int = 0


def find_upright(
    thumbnails: np.ndarray, frames: Sequence[Box], rows: np.ndarray
) -> list[Candidate]:
    """Candidates among `rows` by their frames and, with plain borders, by what is inside them."""

    def boxes(i: int) -> list[tuple[int, Box]]:
        inner = trim_border(thumbnails[i], frames[i])
        differs = np.abs(np.subtract(frames[i], inner)).max() > 0.02 * thumbnails.shape[1]
        return [(i, frames[i]), (i, inner)] if differs else [(i, frames[i])]

    def signature(entry: tuple[int, Box]) -> tuple[np.ndarray, np.ndarray]:
        i, (top, bottom, left, right) = entry
        return _signature(thumbnails[i][top:bottom, left:right])

    entries = [entry for both in parallel_map(boxes, rows.tolist()) for entry in both]
    low, detail = map(np.stack, zip(*parallel_map(signature, entries), strict=True))
    scale, candidates = COARSE / thumbnails.shape[1], []
    for a, b, flip in _near_pairs(low, detail):
        (i, here), (j, there) = entries[a], entries[b]
        if i != j:
            start = scale_map(_box_to_box(here, there, FLIPS[flip]), scale)
            candidates.append(Candidate(i, j, start))
    return candidates


def trim_border(thumbnail: np.ndarray, box: Box) -> Box:
    """The box without rows and columns of one grey level at its borders."""
    flat = 4 + 0.04 * np.ptp(np.percentile(thumbnail[::8, ::8], (2, 98)))
    top, bottom, left, right = box
    image = thumbnail[top:bottom, left:right]
    rows, columns = (np.flatnonzero(np.ptp(image, axis=axis) > flat) for axis in (1, 0))
    if len(rows) < 16 or len(columns) < 16:
        return box
    (first, last), (start, stop) = rows[[0, -1]].tolist(), columns[[0, -1]].tolist()
    inner = (top + first, top + last + 1, left + start, left + stop + 1)
    return box if inner == box else trim_border(thumbnail, inner)


def _signature(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the ranks of the pixels: the lowest cosine frequencies (8, 8), and unit detail (32, 32).

    Ranks do not depend on the exposure.
    """
    small = shrink(image, 32)
    count = np.bincount(small.ravel(), minlength=256)
    rank = ((np.cumsum(count) - count / 2) / small.size - 0.5).astype(np.float32)[small]
    low = cv2.dct(rank)[:FREQUENCIES, :FREQUENCIES]
    low[0, 0] = 0
    detail = rank - cv2.GaussianBlur(rank, (0, 0), 1.5)
    return low, (detail / (np.linalg.norm(detail) + 1e-6)).astype(np.float16)


def _box_to_box(here: Box, there: Box, flip: np.ndarray) -> np.ndarray:
    """(2, 3): takes a point (x, y) of one box to its place in the other, flipped at the centre."""
    low, high = np.array([here, there])[:, [[2, 0], [3, 1]]].transpose(1, 0, 2)
    size, centre = high - low, (high + low - 1) / 2
    linear = np.diag(size[1]) @ flip @ np.diag(1 / size[0])
    return np.column_stack([linear, centre[1] - linear @ centre[0]])


def _near_pairs(low: np.ndarray, detail: np.ndarray) -> np.ndarray:
    """(M, 3) int: pairs a < b of signatures near each other after one of eight flips, and which."""
    size = np.abs(low)
    i, j = np.triu_indices(FREQUENCIES, 1)
    # a quarter rotation exchanges the axes: sum and difference stay
    swapped = [size[:, i, j] + size[:, j, i], np.abs(size[:, i, j] - size[:, j, i])]
    diagonal = size[:, range(1, FREQUENCIES), range(1, FREQUENCIES)]
    blind = np.hstack([diagonal, *(values / 2**0.5 for values in swapped)])
    blind -= blind.mean(0)
    # a k-d tree is fast in a dozen dimensions
    points = blind @ np.linalg.eigh(blind.T @ blind)[1][:, -12:]
    tree = cKDTree(points)
    near = tree.query(points, NEIGHBOURS + 1, distance_upper_bound=NEAR, workers=-1)[1]
    a, b = np.repeat(np.arange(len(low)), near.shape[1]), near.ravel()
    exists = (b < len(low)) & (a != b)
    pairs = np.unique(np.sort(np.stack([a[exists], b[exists]], 1), 1), axis=0)
    blocks = np.array_split(pairs, len(pairs) // 20_000 + 1)
    return np.concatenate([_flipped_pairs(low, detail, block) for block in blocks])


def _flipped_pairs(low: np.ndarray, detail: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Of the pairs, those that agree in sign and in detail after one of eight flips: (M, 3)."""
    a, b = low[pairs[:, 0]], low[pairs[:, 1]]
    even = np.ones(FREQUENCIES, np.float32)
    odd = np.where(np.arange(FREQUENCIES) % 2, -1, 1).astype(np.float32)
    found = []
    for number, flip in enumerate(FLIPS):
        axes = (0, 1, 2) if flip[0, 0] else (0, 2, 1)
        across, down = flip.sum(0).astype(int)
        signs = np.outer(odd if down < 0 else even, odd if across < 0 else even)
        gaps = ((a - b.transpose(axes) * signs) ** 2).sum((1, 2))
        near = pairs[gaps < NEAR**2]
        first, other = detail[near[:, 0]], detail[near[:, 1]].transpose(axes)[:, ::down, ::across]
        alike = np.einsum("nij,nij->n", first, other, dtype=np.float32) > DETAIL
        found.append(np.insert(near[alike], 2, number, axis=1))
    return np.concatenate(found)
