"""Copies of one image: candidates of a fast search, confirmed by pixels, joined to clusters."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import DisjointSet

from bonelib.audit.alignment import SAME_IMAGE, Texture, align, describe
from bonelib.audit.keypoints import Candidate, find_candidates
from bonelib.data.quality import is_blank
from bonelib.storage import parallel_map

# Images that are compared with each other: their key points must fit into memory.
MAX_COMPARED = 20_000
# OP130_aug_0, OP130-aug-0, OP130_augmented_3: made from OP130, which may be in another folder.
NAMED_AUGMENTED = re.compile(r"(.+?)[ _-]+(aug(mented)?|flip(ped)?|rot(ated)?|mirrored)[ _-]*\d*")
# x (2), x - Copy, x - Copy (3), x_copy: copies of x, if that is in the same folder.
NAMED_COPY = re.compile(r"(.+?)( \(\d+\)|[ _-]+copy([ _-]*\(?\d+\)?)?)")

# Width and height.
Size = tuple[int, int]
# Two rows, what was done to the first to get the second, and a confidence 0..1.
Pair = tuple[int, int, str, float]


def find_copies(thumbnails: np.ndarray, files: pd.DataFrame | None = None) -> pd.DataFrame:
    """Pairs that link copies: `a`, `b` (rows), `kind` in words, `confidence` 0..1.

    thumbnails: (N, S, S) uint8, letterboxed on black. files: `sha256`, `width`, `height` of the
    same images. Every set of copies is linked, not every pair in it; blank images are no copies.
    Above MAX_COMPARED different images, each block of as many is searched for itself; the same
    file or the same pixels are always found.
    """
    if files is None:
        files = pd.DataFrame({"sha256": range(len(thumbnails)), "width": 1, "height": 1})
    sizes = list(files[["width", "height"]].itertuples(index=False, name=None))
    texture = lru_cache(512)(lambda i: Texture(thumbnails[i], sizes[i]))
    rows = np.flatnonzero(np.logical_not(parallel_map(is_blank, list(thumbnails))))
    pairs = _identical(thumbnails, rows, files["sha256"].tolist(), sizes)
    # one of each set of copies represents all
    rows = np.setdiff1d(rows, [b for _, b, _, _ in pairs])
    for start in range(0, len(rows), MAX_COMPARED):
        block = rows[start : start + MAX_COMPARED]
        pairs += _confirm(find_candidates(thumbnails, block), texture)
    found = pd.DataFrame(pairs, columns=["a", "b", "kind", "confidence"])
    found = found.astype({"a": int, "b": int, "confidence": float})
    found = found.sort_values("confidence", ascending=False, kind="stable")
    return found.drop_duplicates(["a", "b"], ignore_index=True)


def join_links(count: int, links: Iterable[tuple[int, int]]) -> np.ndarray:
    """(count,) int: the number of each item's cluster; linked items are in one, transitively."""
    linked = DisjointSet(range(count))
    for a, b in links:
        linked.merge(a, b)
    return np.array([linked[item] for item in range(count)], int)


def cluster_numbers(thumbnails: np.ndarray, files: pd.DataFrame | None = None) -> np.ndarray:
    """(N,) int: images with the same number are copies; arguments as for `find_copies`."""
    pairs = find_copies(thumbnails, files)
    return join_links(len(thumbnails), zip(pairs["a"], pairs["b"], strict=True))


def copies_by_name(paths: Sequence[str]) -> list[tuple[int, int, str]]:
    """Pairs of rows, and the reason, whose names say that they were made from one image."""
    files = [PurePosixPath(path.casefold()) for path in paths]
    augmented = [NAMED_AUGMENTED.fullmatch(file.stem) for file in files]
    origins = {match[1] for match in augmented if match}
    positions = {(file.parent, file.stem): i for i, file in enumerate(files)}
    first: dict[str, int] = {}
    links = []
    for i, (file, match) in enumerate(zip(files, augmented, strict=True)):
        origin = match[1] if match else file.stem
        copied = NAMED_COPY.fullmatch(file.stem)
        if origin in origins:
            links.append((first.setdefault(origin, i), i, f"named as made from {origin}"))
        elif copied:
            source = positions.get((file.parent, copied[1]), i)
            links.append((source, i, f"named as a copy of {copied[1]}"))
    return [(source, i, reason) for source, i, reason in links if source != i]


def _identical(
    thumbnails: np.ndarray, rows: np.ndarray, digests: list[str], sizes: list[Size]
) -> list[Pair]:
    """Each row with the file or the pixels of an earlier one, linked to the earliest."""
    first: dict[object, int] = {}
    pairs: list[Pair] = []
    for i in rows.tolist():
        source, kind = first.setdefault(digests[i], i), "same file"
        if source == i:
            pixels = (hash(thumbnails[i].tobytes()), sizes[i])
            source, kind = first.setdefault(pixels, i), "same pixels"
        if source != i:
            pairs.append((source, i, kind, 1.0))
    return pairs


def _confirm(candidates: list[Candidate], texture: Callable[[int], Texture]) -> list[Pair]:
    """The candidates that are copies, without those already linked through others."""
    linked = DisjointSet({row for candidate in candidates for row in candidate[:2]})
    pairs: list[Pair] = []

    def confirm(candidate: Candidate) -> Pair | None:
        a, b = texture(candidate[0]), texture(candidate[1])
        affine, score = align(a, b, candidate[2])
        kind = describe(a, b, affine) if score >= SAME_IMAGE else ""
        return (*candidate[:2], kind, round(score, 3)) if kind else None

    for start in range(0, len(candidates), 1024):
        block = candidates[start : start + 1024]
        block = [pair for pair in block if not linked.connected(*pair[:2])]
        confirmed = [pair for pair in parallel_map(confirm, block) if pair]
        for a, b, _, _ in confirmed:
            linked.merge(a, b)
        pairs += confirmed
    return pairs
