"""Which pictures may be copies of which: two cheap searches, none of which compares all with all.

`upright` finds copies whose frame is the same but for flips, quarter turns, scale and exposure: the lowest cosine
frequencies of the ranks of the pixels, without the signs that a flip changes, in a k-d tree.
`turned` finds copies at any angle and zoom, cropped or drawn over: SIFT (doi:10.1023/B:VISI.0000029664.99615.94) on the
locally normalised picture, matched as it is and mirrored, and pairs whose matches agree on one angle.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from bonelib.compare import COARSE, plausible, resized

LOW = 8  # frequencies a side in a signature
NEAR = 2.0  # how far apart two signatures of one picture may be; their norm is about 8
NEIGHBOURS = 8
DETAIL = 0.55  # least correlation of their details, 32 pixels a side; 0.65 in gamma 0.7, 0.3 in other people
SIDE, POINTS, DIMENSIONS = 144, 96, 32  # size at which points are sought, points a picture, numbers a point
ALIKE = 0.6  # how far apart two points may be that match
VOTES, INLIERS = 9, 8  # matches that must agree on an angle, and on a place
SIGNS = ((1, 1), (-1, 1), (1, -1), (-1, -1))
FLIPS = [np.diag(s).astype(float) for s in SIGNS] + [np.diag(s)[::-1].astype(float) for s in SIGNS]
MIRROR = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].ravel()  # SIFT of the mirrored picture

Array = NDArray[Any]
Box = tuple[int, int, int, int]  # top, bottom, left, right


class Candidate(NamedTuple):
    """Two rows that may be one picture, and a map (2, 3) from the first to the second, in pixels of COARSE."""

    a: int
    b: int
    start: Array


def each(do: Callable[[Any], Any], items: Sequence[Any] | Array) -> list[Any]:
    """`do` of every item, on all cores: OpenCV and numpy let go of the interpreter."""
    starts = range(0, len(items), 64)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(lambda start: [do(item) for item in items[start : start + 64]], starts)
        return [done for part in parts for done in part]


def upright(thumbs: Array, frames: Sequence[Box], rows: Array) -> list[Candidate]:
    """Candidates among `rows` by their frames and, where the borders are of one grey, also by what lies within."""

    def boxes(i: int) -> list[tuple[int, Box]]:
        frame = frames[i]
        inner = trim(thumbs[i], frame)
        far = np.abs(np.subtract(frame, inner)).max() > 0.02 * thumbs.shape[1]
        return [(int(i), frame), (int(i), inner)] if far else [(int(i), frame)]

    def sign(k: int) -> None:
        i, (top, bottom, left, right) = entries[k]
        low[k], detail[k] = signature(thumbs[i][top:bottom, left:right])

    entries = [entry for found in each(boxes, rows) for entry in found]
    low = np.empty((len(entries), LOW, LOW), np.float32)
    detail = np.empty((len(entries), 32, 32), np.float16)
    each(sign, range(len(entries)))
    scale, out = COARSE / thumbs.shape[1], []
    for a, b, flip in _near(low, detail):
        (i, here), (j, there) = entries[a], entries[b]
        if i != j:
            out.append(Candidate(i, j, resized(_box_to_box(here, there, FLIPS[flip]), scale)))
    return out


def signature(picture: Array) -> tuple[Array, Array]:
    """Of the ranks of the pixels, so that exposure does not matter: the lowest cosine frequencies (8, 8) float32, and
    the fine detail (32, 32) float16, as a vector of length 1."""
    small = cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA)
    count = np.bincount(small.ravel(), minlength=256)
    rank = ((np.cumsum(count) - count / 2) / small.size - 0.5).astype(np.float32)[small]
    low = cv2.dct(rank)[:LOW, :LOW]
    low[0, 0] = 0
    detail = rank - cv2.GaussianBlur(rank, (0, 0), 1.5)
    return low, (detail / (np.linalg.norm(detail) + 1e-6)).astype(np.float16)


def trim(thumb: Array, box: Box) -> Box:
    """The box without rows and columns of one grey at its borders."""
    flat = 4 + 0.04 * np.ptp(np.percentile(thumb[::8, ::8], (2, 98)))
    top, bottom, left, right = box
    while True:
        inner = thumb[top:bottom, left:right]
        rows, columns = (np.flatnonzero(np.ptp(inner, axis=axis) > flat) for axis in (1, 0))
        if len(rows) < 16 or len(columns) < 16:
            return box
        last = (top, bottom, left, right)
        top, bottom, left, right = top + rows[0], top + rows[-1] + 1, left + columns[0], left + columns[-1] + 1
        if last == (top, bottom, left, right):
            return int(top), int(bottom), int(left), int(right)


def _box_to_box(here: Box, there: Box, flip: Array) -> Array:
    """(2, 3): takes a point (x, y) of one box to its place in the other, flipped about the centre."""
    (t, b, le, r), (t2, b2, le2, r2) = here, there
    turn = np.diag([r2 - le2, b2 - t2]) @ flip @ np.diag([1 / (r - le), 1 / (b - t)])
    return np.column_stack(
        [turn, np.array([le2 + r2 - 1, t2 + b2 - 1]) / 2 - turn @ [(le + r - 1) / 2, (t + b - 1) / 2]]
    )


def _near(low: Array, detail: Array) -> Array:
    """(M, 3) int: pairs a < b of signatures near each other after one of the eight flips, and which."""
    size, i, j = np.abs(low), *np.triu_indices(LOW, 1)
    swapped = (size[:, i, j] + size[:, j, i], np.abs(size[:, i, j] - size[:, j, i]))  # a quarter turn swaps the axes
    blind = np.hstack([size[:, range(1, LOW), range(1, LOW)], *(t / 2**0.5 for t in swapped)])
    blind -= blind.mean(0)
    points = blind @ np.linalg.eigh(blind.T @ blind)[1][:, -12:]  # a k-d tree prunes well in a dozen dimensions
    near = cKDTree(points).query(points, NEIGHBOURS + 1, distance_upper_bound=NEAR, workers=-1)[1]
    a, b = np.repeat(np.arange(len(low)), near.shape[1]), near.ravel()
    pairs = np.unique(np.sort(np.stack([a, b], 1)[(b < len(low)) & (a != b)], 1), axis=0)
    return np.concatenate([_flipped(low, detail, part) for part in np.array_split(pairs, len(pairs) // 20_000 + 1)])


def _flipped(low: Array, detail: Array, pairs: Array) -> Array:
    """Of the pairs, those that also agree in sign and in detail after one of the eight flips: (M, 3)."""
    a, b = low[pairs[:, 0]], low[pairs[:, 1]]
    odd = np.where(np.arange(LOW) % 2, -1, 1).astype(np.float32)
    gaps = []
    for flip in FLIPS:
        across, down = (odd if sign < 0 else np.ones_like(odd) for sign in flip.sum(0))
        gaps.append(((a - (b if flip[0, 0] else b.transpose(0, 2, 1)) * across * down[:, None]) ** 2).sum((1, 2)))
    found = np.column_stack([pairs, np.argmin(gaps, axis=0)])[np.min(gaps, axis=0) < NEAR**2]
    alike = np.zeros(len(found), bool)
    for k, flip in enumerate(FLIPS):
        here = found[:, 2] == k
        other = detail[found[here, 1]]
        across, down = flip.sum(0).astype(int)
        other = (other if flip[0, 0] else other.transpose(0, 2, 1))[:, ::down, ::across]
        alike[here] = np.einsum("nij,nij->n", detail[found[here, 0]], other, dtype=np.float32) > DETAIL
    confirmed: Array = found[alike]
    return confirmed


def turned(thumbs: Array, rows: Array) -> list[Candidate]:
    """Candidates among `rows` at any angle, the surest first."""
    found = each(lambda i: features(thumbs[i]), rows)
    owner = np.repeat(rows, [len(points) for points, _ in found])
    if len(np.unique(owner)) < 2:
        return []
    points, what = (np.concatenate(part) for part in zip(*found, strict=True))
    axes = np.linalg.eigh(np.cov(what[:: len(what) // 100_000 + 1].T))[1][:, -DIMENSIONS:].astype(np.float32)
    index = cv2.FlannBasedMatcher({"algorithm": 1, "trees": 4}, {"checks": 32})
    index.add([what @ axes])
    index.train()
    side, jobs = thumbs.shape[1], []
    for mirrored in (False, True):
        asked = (what[:, MIRROR] if mirrored else what) @ axes
        jobs += [(mirrored, m) for m in _agreeing(_matches(index, asked, owner), points, owner, mirrored)]
    starts = each(lambda job: _start(points, job[1], job[0], side), jobs)
    sure = np.argsort([-inliers for _, inliers in starts], kind="stable")
    scale = COARSE / side
    return [
        Candidate(int(owner[jobs[k][1][0, 0]]), int(owner[jobs[k][1][0, 1]]), resized(starts[k][0], scale))
        for k in sure if starts[k][1] >= INLIERS
    ]  # fmt: skip


def features(thumb: Array) -> tuple[Array, Array]:
    """Up to POINTS places (x, y, size, angle in degrees), in pixels of the thumb, and their RootSIFT (K, 128) float32."""
    grey = cv2.resize(thumb, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), 5)
    local = 128 + 45 * detail / (np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 8)) + 6)
    sift = cv2.SIFT.create(nfeatures=3 * POINTS, contrastThreshold=0.02, edgeThreshold=20)
    points, what = sift.detectAndCompute(np.clip(local, 0, 255).astype(np.uint8), None)
    if what is None:
        return np.zeros((0, 4), np.float32), np.zeros((0, 128), np.float32)
    where = np.array([(*p.pt, p.size, p.angle) for p in points], np.float32)
    cell = (where[:, :2] * 4 / SIDE).astype(int) @ (4, 1)
    order = np.argsort([-p.response for p in points], kind="stable")
    rank = np.empty(len(order), int)  # within the cell, so that what is drawn over one place doesn't take all points
    for one in np.unique(cell):
        rank[order[cell[order] == one]] = np.arange((cell == one).sum())
    kept = order[rank[order] < POINTS // 6][:POINTS]
    where[:, :3] *= len(thumb) / SIDE
    return where[kept], np.sqrt(what / (what.sum(1, keepdims=True) + 1e-6))[kept]


def _matches(index: cv2.FlannBasedMatcher, asked: Array, owner: Array) -> Array:
    """(M, 2) int: points that look alike, of two pictures, that of the lower row first."""
    found = []
    for first in range(0, len(asked), 20_000):
        for near in index.knnMatch(asked[first : first + 20_000], k=6):
            found += [(first + m.queryIdx, m.trainIdx) for m in near if m.distance < ALIKE]
    pairs = np.array(found, int).reshape(-1, 2)
    who = owner[pairs]
    pairs = np.where((who[:, 0] > who[:, 1])[:, None], pairs[:, ::-1], pairs)
    return np.unique(pairs[who[:, 0] != who[:, 1]], axis=0)


def _agreeing(matches: Array, points: Array, owner: Array, mirrored: bool) -> list[Array]:
    """For each pair of pictures with VOTES or more matches within 60 degrees and a factor of 1.7: those matches."""
    _, _, size, angle = points[matches].transpose(2, 0, 1)
    matches, turn = matches[near := np.abs(np.log2(size[:, 1] / size[:, 0])) < 0.8], angle[:, 1] - angle[:, 0]
    if mirrored:
        turn = angle[:, 1] + angle[:, 0]
    sector = (turn[near] % 360 // 30).astype(int)
    pair = owner[matches[:, 0]].astype(np.int64) * (owner.max() + 1) + owner[matches[:, 1]]
    order = np.argsort(pair, kind="stable")
    matches, sector = matches[order], sector[order]
    ends = np.flatnonzero(np.diff(pair[order], append=-1)) + 1
    out, first = [], 0
    for end in ends:
        if end - first >= VOTES:
            votes = np.bincount(sector[first:end], minlength=12)
            best = int(np.argmax(votes + np.roll(votes, -1)))
            agree = np.isin(sector[first:end], (best, (best + 1) % 12))
            if agree.sum() >= VOTES:
                out.append(matches[first:end][agree])
        first = int(end)
    return out


def _start(points: Array, matches: Array, mirrored: bool, side: int) -> tuple[Array, int]:
    """The turn, zoom and shift (2, 3) that most of the matches follow (RANSAC), and how many do."""
    here, there = points[matches[:, 0], :2], points[matches[:, 1], :2]
    mirror = np.array([[-1.0, 0, side - 1], [0, 1, 0], [0, 0, 1]]) if mirrored else np.eye(3)
    here = here @ mirror[:2, :2].T + mirror[:2, 2]
    map_, inliers = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=0.02 * side, maxIters=500)
    if map_ is None or not plausible(map_):
        return mirror[:2], 0
    return map_ @ mirror, int(inliers.sum())
