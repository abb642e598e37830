"""Which images may be copies of which: two searches, neither of which compares all with all.

`find_upright` finds copies whose frame is the same but for flips, quarter rotations, scale
and exposure: the lowest cosine frequencies of the ranks of the pixels, without the signs that a
flip changes, in a k-d tree. `find_any_angle` finds copies at any angle and zoom, cropped or
drawn over: SIFT (doi:10.1023/B:VISI.0000029664.99615.94) on the locally normalised image, matched
unchanged and mirrored, and pairs whose matches agree on one angle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from bonelib.audit.alignment import COARSE, is_plausible, scale_map
from bonelib.storage import parallel_map

Array = NDArray[Any]
# Top, bottom, left, right.
Box = tuple[int, int, int, int]

# Frequencies per side of a signature, and the largest distance of two signatures of one image.
FREQUENCIES, NEAR = 8, 2.0
NEIGHBOURS = 8
# Smallest correlation of their details; 0.65 with gamma 0.7, 0.3 for other people.
DETAIL = 0.55
# Side at which key points are searched, key points per image, numbers per key point.
KEYPOINT_SIDE, KEYPOINTS, DIMENSIONS = 144, 96, 32
# Largest distance of two key points that match.
MATCH_DISTANCE = 0.6
# Matches that must agree on an angle, and on a map.
MIN_VOTES, MIN_INLIERS = 9, 8
SIGNS = ((1, 1), (-1, 1), (1, -1), (-1, -1))
FLIPS = [np.diag(s).astype(float) for s in SIGNS] + [np.diag(s)[::-1].astype(float) for s in SIGNS]
# Reorders the SIFT of an image into the SIFT of its mirror image.
MIRROR = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].ravel()


class Candidate(NamedTuple):
    """Two rows that may be one image, and a map (2, 3) between them, in pixels of COARSE."""

    a: int
    b: int
    start: Array


def find_upright(thumbnails: Array, frames: Sequence[Box], rows: Array) -> list[Candidate]:
    """Candidates among `rows` by their frames and, with plain borders, by what is inside them."""

    def boxes(i: int) -> list[tuple[int, Box]]:
        inner = trim_border(thumbnails[i], frames[i])
        differs = np.abs(np.subtract(frames[i], inner)).max() > 0.02 * thumbnails.shape[1]
        return [(int(i), frames[i])] + ([(int(i), inner)] if differs else [])

    def signature(entry: tuple[int, Box]) -> tuple[Array, Array]:
        i, (top, bottom, left, right) = entry
        return _signature(thumbnails[i][top:bottom, left:right])

    entries = [entry for found in parallel_map(boxes, rows) for entry in found]
    signatures = parallel_map(signature, entries)
    low, detail = (np.stack(part) for part in zip(*signatures, strict=True))
    scale, out = COARSE / thumbnails.shape[1], []
    for a, b, flip in _near_pairs(low, detail):
        (i, here), (j, there) = entries[a], entries[b]
        if i != j:
            out.append(Candidate(i, j, scale_map(_box_to_box(here, there, FLIPS[flip]), scale)))
    return out


def trim_border(thumbnail: Array, box: Box) -> Box:
    """The box without rows and columns of one grey level at its borders."""
    flat = 4 + 0.04 * np.ptp(np.percentile(thumbnail[::8, ::8], (2, 98)))
    top, bottom, left, right = box
    while True:
        inner = thumbnail[top:bottom, left:right]
        rows, columns = (np.flatnonzero(np.ptp(inner, axis=axis) > flat) for axis in (1, 0))
        if len(rows) < 16 or len(columns) < 16:
            return box
        last = (top, bottom, left, right)
        top, bottom = int(top + rows[0]), int(top + rows[-1] + 1)
        left, right = int(left + columns[0]), int(left + columns[-1] + 1)
        if last == (top, bottom, left, right):
            return last


def _signature(image: Array) -> tuple[Array, Array]:
    """Of the ranks of the pixels: the lowest cosine frequencies (8, 8), and unit detail (32, 32).

    Ranks do not depend on the exposure.
    """
    small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    count = np.bincount(small.ravel(), minlength=256)
    rank = ((np.cumsum(count) - count / 2) / small.size - 0.5).astype(np.float32)[small]
    low = cv2.dct(rank)[:FREQUENCIES, :FREQUENCIES]
    low[0, 0] = 0
    detail = rank - cv2.GaussianBlur(rank, (0, 0), 1.5)
    return low, (detail / (np.linalg.norm(detail) + 1e-6)).astype(np.float16)


def _box_to_box(here: Box, there: Box, flip: Array) -> Array:
    """(2, 3): takes a point (x, y) of one box to its place in the other, flipped at the centre."""
    (t, b, le, r), (t2, b2, le2, r2) = here, there
    linear = np.diag([r2 - le2, b2 - t2]) @ flip @ np.diag([1 / (r - le), 1 / (b - t)])
    centre, centre2 = (
        np.array([le + r - 1, t + b - 1]) / 2,
        np.array([le2 + r2 - 1, t2 + b2 - 1]) / 2,
    )
    return np.column_stack([linear, centre2 - linear @ centre])


def _near_pairs(low: Array, detail: Array) -> Array:
    """(M, 3) int: pairs a < b of signatures near each other after one of eight flips, and which."""
    size = np.abs(low)
    i, j = np.triu_indices(FREQUENCIES, 1)
    # a quarter rotation exchanges the axes: sum and difference stay
    swapped = [size[:, i, j] + size[:, j, i], np.abs(size[:, i, j] - size[:, j, i])]
    diagonal = size[:, range(1, FREQUENCIES), range(1, FREQUENCIES)]
    blind = np.hstack([diagonal, *(part / 2**0.5 for part in swapped)])
    blind -= blind.mean(0)
    # a k-d tree is fast in a dozen dimensions
    points = blind @ np.linalg.eigh(blind.T @ blind)[1][:, -12:]
    tree = cKDTree(points)
    near = tree.query(points, NEIGHBOURS + 1, distance_upper_bound=NEAR, workers=-1)[1]
    a, b = np.repeat(np.arange(len(low)), near.shape[1]), near.ravel()
    found = (b < len(low)) & (a != b)
    pairs = np.unique(np.sort(np.stack([a[found], b[found]], 1), 1), axis=0)
    parts = np.array_split(pairs, len(pairs) // 20_000 + 1)
    return np.concatenate([_flipped_pairs(low, detail, part) for part in parts])


def _flipped_pairs(low: Array, detail: Array, pairs: Array) -> Array:
    """Of the pairs, those that agree in sign and in detail after one of eight flips: (M, 3)."""
    a, b = low[pairs[:, 0]], low[pairs[:, 1]]
    odd = np.where(np.arange(FREQUENCIES) % 2, -1, 1).astype(np.float32)
    gaps = []
    for flip in FLIPS:
        across, down = (odd if sign < 0 else np.ones_like(odd) for sign in flip.sum(0))
        other = b if flip[0, 0] else b.transpose(0, 2, 1)
        gaps.append(((a - other * across * down[:, None]) ** 2).sum((1, 2)))
    found = np.column_stack([pairs, np.argmin(gaps, axis=0)])[np.min(gaps, axis=0) < NEAR**2]
    alike = np.zeros(len(found), bool)
    for number, flip in enumerate(FLIPS):
        here = found[:, 2] == number
        other = detail[found[here, 1]]
        across, down = flip.sum(0).astype(int)
        other = (other if flip[0, 0] else other.transpose(0, 2, 1))[:, ::down, ::across]
        first = detail[found[here, 0]]
        alike[here] = np.einsum("nij,nij->n", first, other, dtype=np.float32) > DETAIL
    return found[alike]


def find_any_angle(thumbnails: Array, rows: Array) -> list[Candidate]:
    """Candidates among `rows` at any angle, the most certain first."""
    found = parallel_map(lambda i: _keypoints(thumbnails[i]), rows)
    owner = np.repeat(rows, [len(points) for points, _ in found])
    if len(np.unique(owner)) < 2:
        return []
    points, vectors = (np.concatenate(part) for part in zip(*found, strict=True))
    sampled = vectors[:: len(vectors) // 100_000 + 1]
    axes = np.linalg.eigh(np.cov(sampled.T))[1][:, -DIMENSIONS:].astype(np.float32)
    index = cv2.FlannBasedMatcher({"algorithm": 1, "trees": 4}, {"checks": 32})
    index.add([vectors @ axes])
    index.train()
    side, jobs = thumbnails.shape[1], []
    for mirrored in (False, True):
        queries = (vectors[:, MIRROR] if mirrored else vectors) @ axes
        matches = _matches(index, queries, owner)
        jobs += [(mirrored, one) for one in _agreeing(matches, points, owner, mirrored)]
    starts = parallel_map(lambda job: _start(points, job[1], job[0], side), jobs)
    scale, out = COARSE / side, []
    for k in np.argsort([-inliers for _, inliers in starts], kind="stable"):
        start, inliers = starts[k]
        a, b = owner[jobs[k][1][0]]
        if inliers >= MIN_INLIERS:
            out.append(Candidate(int(a), int(b), scale_map(start, scale)))
    return out


def _keypoints(thumbnail: Array) -> tuple[Array, Array]:
    """Up to KEYPOINTS places (x, y, size, angle in degrees), and their RootSIFT (K, 128)."""
    size = (KEYPOINT_SIDE, KEYPOINT_SIDE)
    grey = cv2.resize(thumbnail, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), 5)
    local = 128 + 45 * detail / (np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 8)) + 6)
    sift = cv2.SIFT.create(nfeatures=3 * KEYPOINTS, contrastThreshold=0.02, edgeThreshold=20)
    points, vectors = sift.detectAndCompute(np.clip(local, 0, 255).astype(np.uint8), None)
    if vectors is None:
        return np.zeros((0, 4), np.float32), np.zeros((0, 128), np.float32)
    places = np.array([(*p.pt, p.size, p.angle) for p in points], np.float32)
    cell = (places[:, :2] * 4 / KEYPOINT_SIDE).astype(int) @ (4, 1)
    order = np.argsort([-p.response for p in points], kind="stable")
    # at most a sixth from each of 16 cells, so that a drawn marker does not take all of them
    rank = np.empty(len(order), int)
    for one in np.unique(cell):
        rank[order[cell[order] == one]] = np.arange((cell == one).sum())
    kept = order[rank[order] < KEYPOINTS // 6][:KEYPOINTS]
    places[:, :3] *= len(thumbnail) / KEYPOINT_SIDE
    return places[kept], np.sqrt(vectors / (vectors.sum(1, keepdims=True) + 1e-6))[kept]


def _matches(index: cv2.FlannBasedMatcher, queries: Array, owner: Array) -> Array:
    """(M, 2) int: key points that look alike, of two images, that of the lower row first."""
    found = []
    for first in range(0, len(queries), 20_000):
        for near in index.knnMatch(queries[first : first + 20_000], k=6):
            close = [match for match in near if match.distance < MATCH_DISTANCE]
            found += [(first + match.queryIdx, match.trainIdx) for match in close]
    pairs = np.array(found, int).reshape(-1, 2)
    owners = owner[pairs]
    pairs = np.where((owners[:, 0] > owners[:, 1])[:, None], pairs[:, ::-1], pairs)
    return np.unique(pairs[owners[:, 0] != owners[:, 1]], axis=0)


def _agreeing(matches: Array, points: Array, owner: Array, mirrored: bool) -> list[Array]:
    """The matches of each pair of images with MIN_VOTES within 60 degrees and a factor of 1.7."""
    _, _, size, angle = points[matches].transpose(2, 0, 1)
    near = np.abs(np.log2(size[:, 1] / size[:, 0])) < 0.8
    rotation = angle[:, 1] + angle[:, 0] if mirrored else angle[:, 1] - angle[:, 0]
    matches, sector = matches[near], (rotation[near] % 360 // 30).astype(int)
    first, second = owner[matches[:, 0]].astype(np.int64), owner[matches[:, 1]]
    pair = first * (owner.max() + 1) + second
    order = np.argsort(pair, kind="stable")
    boundaries = np.flatnonzero(np.diff(pair[order])) + 1
    out = []
    for members in np.split(order, boundaries):
        if len(members) < MIN_VOTES:
            continue
        votes = np.bincount(sector[members], minlength=12)
        best = int(np.argmax(votes + np.roll(votes, -1)))
        agreeing = members[np.isin(sector[members], (best, (best + 1) % 12))]
        if len(agreeing) >= MIN_VOTES:
            out.append(matches[agreeing])
    return out


def _start(points: Array, matches: Array, mirrored: bool, side: int) -> tuple[Array, int]:
    """The map (2, 3) that most of the matches follow (RANSAC), and how many do.

    A copy that was rotated and then squeezed to a square needs a full affine map.
    """
    here, there = points[matches[:, 0], :2], points[matches[:, 1], :2]
    mirror = np.array([[-1.0, 0, side - 1], [0, 1, 0], [0, 0, 1]]) if mirrored else np.eye(3)
    here = here @ mirror[:2, :2].T + mirror[:2, 2]
    best, most = mirror[:2], 0
    for estimate in (cv2.estimateAffinePartial2D, cv2.estimateAffine2D):
        found, inliers = estimate(here, there, ransacReprojThreshold=0.02 * side, maxIters=500)
        if found is not None and is_plausible(found) and inliers.sum() > most:
            best, most = found @ mirror, int(inliers.sum())
    return best, most
