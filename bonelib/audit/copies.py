"""Copies of one image: candidates from fast searches, confirmed pixel by pixel, joined to clusters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bonelib.audit.alignment import SAME_IMAGE, Texture, align, describe
from bonelib.audit.candidates import Candidate, find_any_angle, find_upright
from bonelib.data.images import frame
from bonelib.data.quality import is_blank
from bonelib.storage import parallel_map

# Images up to which copies at any angle are searched for: their SIFT points must fit into memory.
MAX_ANY_ANGLE = 20_000
# OP130_aug_0, OP130-aug-0, OP130_augmented_3: made from OP130, which may be in another folder.
NAMED_AUGMENTED = re.compile(
    r"^(.+?)[ _-]+(?:aug|augmented|flip|flipped|rot|rotated|mirrored)(?:[ _-]*\d*)$"
)
# x (2), x - Copy, x - Copy (3), x_copy: copies of x, if that is in the same folder.
NAMED_COPY = re.compile(r"^(.+?)(?: \(\d+\)|[ _-]+copy(?:[ _-]*\(?\d+\)?)?)$")

Array = NDArray[Any]
# Two rows, what was done to the first to get the second, and a confidence 0..1.
Pair = tuple[int, int, str, float]


def find_copies(
    thumbnails: Array, files: pd.DataFrame | None = None, any_angle: bool | None = None
) -> pd.DataFrame:
    """Pairs that link copies: `a`, `b` (rows), `kind` in words, `confidence` 0..1.

    thumbnails: (N, S, S) uint8, letterboxed on black. files: `sha256`, `width`, `height` of the
    same images. any_angle: search for rotated, cropped and overdrawn copies, too; by default up to
    MAX_ANY_ANGLE different images. Every set of copies is linked, not every pair in it; blank
    images are no copies.
    """
    if files is None:
        digests, sizes = list(range(len(thumbnails))), [(1, 1)] * len(thumbnails)
    else:
        digests = files["sha256"].tolist()
        sizes = list(zip(files["width"].tolist(), files["height"].tolist(), strict=True))
    frames = [frame(width, height, thumbnails.shape[1]) for width, height in sizes]
    blank = parallel_map(lambda i: is_blank(thumbnails[i]), range(len(thumbnails)))
    rows = np.flatnonzero(~np.array(blank, bool))
    pairs = _identical(thumbnails, rows, digests, sizes)
    rows = np.setdiff1d(rows, [b for _, b, _, _ in pairs])
    if len(rows) > 1:
        pairs += _confirm(thumbnails, frames, sizes, find_upright(thumbnails, frames, rows), 0.25)
    if any_angle or (any_angle is None and len(rows) <= MAX_ANY_ANGLE):
        # One of each set of copies represents all.
        rows = np.setdiff1d(rows, [b for _, b, _, _ in pairs])
        pairs += _confirm(thumbnails, frames, sizes, find_any_angle(thumbnails, rows), 0.5)
    columns = {"a": int, "b": int, "kind": str, "confidence": float}
    found = pd.DataFrame(pairs, columns=list(columns)).astype(columns)
    found = found.sort_values("confidence", ascending=False, kind="stable")
    return found.drop_duplicates(["a", "b"], ignore_index=True)


def join_links(count: int, links: Iterable[tuple[int, int]]) -> Array:
    """(count,) int: the number of each item's cluster; linked items are in one, transitively."""
    a, b = np.array(list(links), int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


def cluster_numbers(
    thumbnails: Array, files: pd.DataFrame | None = None, any_angle: bool | None = None
) -> Array:
    """(N,) int: images with the same number are copies; arguments as for `find_copies`."""
    pairs = find_copies(thumbnails, files, any_angle)
    return join_links(len(thumbnails), zip(pairs["a"], pairs["b"], strict=True))


def copies_by_name(paths: Sequence[str]) -> list[tuple[int, int, str]]:
    """Pairs of rows, and the reason, whose names say that they were made from one image."""
    files = [PurePosixPath(path.casefold()) for path in paths]
    augmented = [NAMED_AUGMENTED.match(file.stem) for file in files]
    origins = {match[1] for match in augmented if match}
    positions = {file.with_suffix(""): i for i, file in enumerate(files)}
    first: dict[str, int] = {}
    links = []
    for i, (file, match) in enumerate(zip(files, augmented, strict=True)):
        origin = match[1] if match else file.stem
        copied = NAMED_COPY.match(file.stem)
        if origin in origins:
            source, reason = first.setdefault(origin, i), f"named as made from {origin}"
        else:
            source = positions.get(file.with_name(copied[1]), i) if copied else i
            reason = f"named as a copy of {copied[1]}" if copied else ""
        if source != i:
            links.append((source, i, reason))
    return links


def _identical(thumbnails: Array, rows: Array, digests: list[Any], sizes: list[Any]) -> list[Pair]:
    """Each row with the file or the pixels of an earlier one, linked to the earliest."""
    first: dict[Any, int] = {}
    pairs: list[Pair] = []
    for i in rows.tolist():
        pixels = (hash(thumbnails[i].tobytes()), sizes[i])
        for kind, key in (("same file", digests[i]), ("same pixels", pixels)):
            if (source := first.setdefault(key, i)) != i:
                pairs.append((source, i, kind, 1.0))
                break
    return pairs


def _confirm(
    thumbnails: Array,
    frames: Sequence[Any],
    sizes: Sequence[Any],
    candidates: list[Candidate],
    min_start: float,
) -> list[Pair]:
    """The candidates that are copies, without those already linked through others."""
    texture = lru_cache(512)(lambda i: Texture(thumbnails[i], frames[i]))
    linked = DisjointSet({row for candidate in candidates for row in candidate[:2]})
    pairs: list[Pair] = []

    def confirm(candidate: Candidate) -> Pair | None:
        a, b = texture(candidate.a), texture(candidate.b)
        affine, score = align(a, b, candidate.start, min_start)
        if score < SAME_IMAGE:
            return None
        kind = describe(a, b, affine, sizes[candidate.a] != sizes[candidate.b])
        return candidate.a, candidate.b, kind, round(score, 3)

    for start in range(0, len(candidates), 1024):
        block = candidates[start : start + 1024]
        block = [pair for pair in block if not linked.connected(pair.a, pair.b)]
        confirmed = [pair for pair in parallel_map(confirm, block) if pair]
        for a, b, _, _ in confirmed:
            linked.merge(a, b)
        pairs += confirmed
    return pairs
