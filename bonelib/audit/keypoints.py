"""Which images may be copies: at any angle and zoom, cropped, drawn over or exposed otherwise.

SIFT (doi:10.1023/B:VISI.0000029664.99615.94) of the locally normalised image, matched unchanged and
mirrored; then pairs of images whose matches agree on one angle and follow one map.
"""

from functools import partial

import cv2
import numpy as np
import pandas as pd

from bonelib.audit.alignment import is_plausible, prepare, shrink
from bonelib.storage import parallel_map

# Two rows that may be one image, a map (2, 3) between them, and how many matches follow it.
Candidate = tuple[int, int, np.ndarray, int]

# Side at which key points are searched, key points per image, numbers per key point.
KEYPOINT_SIDE, KEYPOINTS, DIMENSIONS = 144, 96, 32
# Largest distance of two key points that match.
MATCH_DISTANCE = 0.6
# Matches that must agree on an angle, and on a map.
MIN_VOTES, MIN_INLIERS = 9, 8
# Reorders the SIFT of an image into the SIFT of its mirror image.
MIRROR = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].ravel()


def find_candidates(thumbnails: np.ndarray, rows: np.ndarray, aspect: float) -> list[Candidate]:
    """Candidates among `rows` of the thumbnails prepared with `aspect`, the most certain first."""
    keypoints = parallel_map(lambda i: _keypoints(prepare(thumbnails[i], aspect)), rows.tolist())
    owner = np.repeat(rows, [len(points) for points, _ in keypoints])
    if len(np.unique(owner)) < 2:
        return []
    points, vectors = map(np.concatenate, zip(*keypoints, strict=True))
    sampled = vectors[:: len(vectors) // 100_000 + 1]
    axes = np.linalg.eigh(np.cov(sampled.T))[1][:, -DIMENSIONS:].astype(np.float32)
    index = cv2.flann.Index(vectors @ axes, {"algorithm": 1, "trees": 4})
    side, candidates = thumbnails.shape[1], []
    for mirror, queries in ((False, vectors), (True, vectors[:, MIRROR])):
        matches = _agreeing(_matches(index, queries @ axes, owner), points, owner, mirror)
        candidates += parallel_map(partial(_follow, points, owner, mirror, side), matches)
    certain = [candidate for candidate in candidates if candidate[3] >= MIN_INLIERS]
    return sorted(certain, key=lambda candidate: -candidate[3])


def _keypoints(thumbnail: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Up to KEYPOINTS places (x, y, size, angle in degrees), and their RootSIFT (K, 128)."""
    grey = shrink(thumbnail, KEYPOINT_SIDE).astype(np.float32)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), 5)
    local = 128 + 45 * detail / (np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 8)) + 6)
    sift = cv2.SIFT.create(nfeatures=3 * KEYPOINTS, contrastThreshold=0.02, edgeThreshold=20)
    points, vectors = sift.detectAndCompute(np.clip(local, 0, 255).astype(np.uint8), None)
    if vectors is None:
        return np.zeros((0, 4), np.float32), np.zeros((0, 128), np.float32)
    places = np.array([(*p.pt, p.size, p.angle) for p in points], np.float32)
    order = np.argsort([-p.response for p in points], kind="stable")
    # at most a sixth from each of 16 cells, so that a drawn marker does not take all of them
    cells = (places[order, :2] * 4 / KEYPOINT_SIDE).astype(int) @ (4, 1)
    earlier = np.tril(cells[:, None] == cells, -1).sum(1)
    kept = order[earlier < KEYPOINTS // 6][:KEYPOINTS]
    places[:, :3] *= len(thumbnail) / KEYPOINT_SIDE
    return places[kept], np.sqrt(vectors / (vectors.sum(1, keepdims=True) + 1e-6))[kept]


def _matches(index: cv2.flann.Index, queries: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """(M, 2) int: key points that look alike, of two images, that of the lower row first."""
    blocks = np.array_split(queries, len(queries) // 10_000 + 1)
    found = parallel_map(lambda block: index.knnSearch(block, 6, params={"checks": 32}), blocks)
    nearest, squared = map(np.concatenate, zip(*found, strict=True))
    query, rank = np.nonzero(squared < MATCH_DISTANCE**2)
    pairs = np.column_stack([query, nearest[query, rank]])
    owners = owner[pairs]
    pairs = np.where((owners[:, 0] > owners[:, 1])[:, None], pairs[:, ::-1], pairs)
    # as one number each: far faster than rows
    numbers = np.unique(pairs[owners[:, 0] != owners[:, 1]] @ (len(owner), 1))
    return np.column_stack(np.divmod(numbers, len(owner)))


def _agreeing(matches, points, owner, mirror: bool) -> list[np.ndarray]:
    """The matches of each pair of images with MIN_VOTES within 60 degrees and a factor of 1.7."""
    _, _, size, angle = points[matches].transpose(2, 0, 1)
    near = np.abs(np.log2(size[:, 1] / size[:, 0])) < 0.8
    rotation = angle[:, 1] + angle[:, 0] if mirror else angle[:, 1] - angle[:, 0]
    table = pd.DataFrame(owner[matches], columns=["a", "b"])
    table = table.assign(sector=(rotation % 360 // 30).astype(int))[near]
    table = table[table.groupby(["a", "b"])["sector"].transform("size") >= MIN_VOTES]
    agreeing = []
    for _, sector in table.groupby(["a", "b"])["sector"]:
        votes = np.bincount(sector, minlength=12)
        best = int(np.argmax(votes + np.roll(votes, -1)))
        chosen = sector.index[sector.isin([best, (best + 1) % 12])]
        if len(chosen) >= MIN_VOTES:
            agreeing.append(matches[chosen])
    return agreeing


def _follow(points, owner, mirror: bool, side: int, matches) -> Candidate:
    """The two images of the matches, with the map that most of them follow (RANSAC).

    A copy that was rotated and then squeezed to a square needs a full affine map.
    """
    here, there = points[matches[:, 0], :2], points[matches[:, 1], :2]
    if mirror:
        here = (side - 1, 0) + here * (-1, 1)
    best: np.ndarray = np.eye(2, 3)
    most = 0
    for estimate in (cv2.estimateAffinePartial2D, cv2.estimateAffine2D):
        affine, inliers = estimate(here, there, ransacReprojThreshold=0.02 * side, maxIters=500)
        if affine is not None and is_plausible(affine) and inliers.sum() > most:
            best, most = affine, int(inliers.sum())
    a, b = owner[matches[0]].tolist()
    mirrored = best @ [[-1, 0, side - 1], [0, 1, 0], [0, 0, 1]]
    return a, b, mirrored if mirror else best, most
