"""Pictures that are the same picture: candidates from cheap searches, confirmed pixel by pixel, joined to clusters."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from bonelib.candidates import Box, Candidate, each, turned, upright
from bonelib.compare import SAME, Texture, align, describe
from bonelib.images import frame

ANY_ANGLE = 20_000  # pictures up to which copies at any angle are sought: their points must fit into memory

Array = NDArray[Any]
Pair = tuple[int, int, str, float]  # two rows, what was done to the one to get the other, how sure


def find(thumbs: Array, files: pd.DataFrame | None = None, any_angle: bool | None = None) -> pd.DataFrame:
    """Pairs that link copies: `a`, `b` (rows of `thumbs`), `kind` in words, `confidence` 0..1.

    thumbs: (N, S, S) uint8, letterboxed on black. files: `sha256`, `width`, `height` of the same N pictures.
    any_angle: seek turned, cropped and overdrawn copies too; by default up to ANY_ANGLE different pictures.
    Every set of copies is linked, not every pair in it. Blank pictures are no one's copy.
    """
    shown = np.flatnonzero(~np.array(each(lambda i: blank(thumbs[i]), range(len(thumbs))), bool))
    sizes = [(1, 1)] * len(thumbs) if files is None else list(zip(files["width"], files["height"], strict=True))
    frames = [frame(w, h, thumbs.shape[1]) for w, h in sizes]
    pairs = _identical(thumbs, shown, sizes, None if files is None else files["sha256"].tolist())
    known = {pair[1] for pair in pairs}
    rest = np.array([i for i in shown if i not in known], int)
    if len(rest) > 1:
        pairs += _confirmed(thumbs, frames, sizes, upright(thumbs, frames, rest))
    if any_angle or (any_angle is None and len(rest) <= ANY_ANGLE):
        known = {pair[1] for pair in pairs}
        rest = np.array([i for i in rest if i not in known], int)  # one of each set of copies stands for all
        pairs += _confirmed(thumbs, frames, sizes, turned(thumbs, rest), hopeless=0.5)
    columns = {"a": int, "b": int, "kind": str, "confidence": float}
    found = pd.DataFrame(pairs, columns=list(columns)).astype(columns)
    return found.sort_values("confidence", ascending=False, kind="stable").drop_duplicates(
        ["a", "b"], ignore_index=True
    )


def blank(thumb: Array) -> bool:
    """Whether a picture is of one grey."""
    return bool(np.ptp(thumb[::2, ::2]) <= 8)


def joined(n: int, links: Iterable[tuple[int, int]]) -> Array:
    """(n,) int: the number of each item's cluster, when linked items belong together, transitively."""
    ab = np.array(list(links), int).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ab)), (ab[:, 0], ab[:, 1])), shape=(n, n))
    number: Array = connected_components(graph, directed=False)[1]
    return number


def clusters(thumbs: Array, files: pd.DataFrame | None = None, any_angle: bool | None = None) -> Array:
    """(N,) int: pictures with one number are copies of each other; arguments as for `find`."""
    pairs = find(thumbs, files, any_angle)
    return joined(len(thumbs), zip(pairs["a"], pairs["b"], strict=True))


def _identical(thumbs: Array, rows: Array, sizes: list[tuple[int, int]], sha256: list[str] | None) -> list[Pair]:
    """Each row whose file or whose pixels an earlier one has, linked to the earliest."""
    first: dict[Any, int] = {}
    pairs: list[Pair] = []
    for i in map(int, rows):
        kind, of = "same file", first.setdefault(sha256[i] if sha256 else i, i)
        if of == i:
            kind, of = "same pixels", first.setdefault((hash(thumbs[i].tobytes()), sizes[i]), i)
        if of != i:
            pairs.append((of, i, kind, 1.0))
    return pairs


def _confirmed(
    thumbs: Array, frames: list[Box], sizes: list[tuple[int, int]], found: list[Candidate], hopeless: float = 0.25
) -> list[Pair]:
    """The candidates that are one picture, but for those already linked through others."""
    texture = lru_cache(512)(lambda i: Texture(thumbs[i], frames[i]))
    linked = DisjointSet({int(i) for c in found for i in c[:2]})
    pairs: list[Pair] = []

    def confirm(one: Candidate) -> Pair | None:
        a, b = texture(one.a), texture(one.b)
        map_, score = align(a, b, one.start, hopeless)
        if score < SAME:
            return None
        return one.a, one.b, describe(a, b, map_, resized=sizes[one.a] != sizes[one.b]), round(score, 3)

    for start in range(0, len(found), 1024):
        part = [c for c in found[start : start + 1024] if not linked.connected(c.a, c.b)]
        new = [pair for pair in each(confirm, part) if pair]
        for pair in new:
            linked.merge(pair[0], pair[1])
        pairs += new
    return pairs
