"""Copies of one image: candidates of a fast search, confirmed by pixels, joined to clusters.

Not found: copies blurred by more than 2.5 pixels of a thumbnail, stretched by more than 2.2, and
images wider than high that were rotated by a large angle and then squeezed to a square.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import DisjointSet

from bonelib.audit.alignment import LOOKS, UNLIKE, Texture, agreement, align, describe
from bonelib.audit.keypoints import Candidate, find_candidates
from bonelib.data.quality import is_blank
from bonelib.storage import parallel_map, progress

# Images that are compared with each other: their key points must fit into memory.
MAX_COMPARED = 20_000
# Heights by widths to which square images are stretched: a copy that was rotated by a large angle
# and then squeezed to a square is found as it was before. Then the least agreement: thin legs of
# other people reach 0.88 there.
ASPECTS = ((1.0, 0.0), (1.5, 0.9))
# Made from OP130, which may be in another folder: OP130_aug_0, OP130_augmented_3, OP130_rotated;
# OP130_png.rf.<hex> (Roboflow); train_original_OP130.png_<uuid> (Augmentor).
NAMED_AUGMENTED = re.compile(
    r"(.+?)[ _-]+(?:aug(?:mented)?|flip(?:ped)?|rot(?:ated)?|mirrored)[ _-]*\d*"
    r"|(.+)_(?:png|jpe?g|bmp|tiff?)\.rf\.[0-9a-f]{32}"
    r"|.*_original_(.+)\.\w+_[0-9a-f-]{36}"
)
# OP130_0_1234 (Keras), if there is an OP130: other names have this form, too.
NAMED_KERAS = re.compile(r"(.+)_\d+_\d+")
# x (2), x - Copy, x - Copy (3), x_copy: copies of x, if that is in the same folder.
NAMED_COPY = re.compile(r"(.+?)( \(\d+\)|[ _-]+copy([ _-]*\(?\d+\)?)?)")


def find_copies(thumbnails: np.ndarray, files: pd.DataFrame | None = None) -> pd.DataFrame:
    """Pairs that link copies: `a`, `b` (rows), `kind` in words, `confidence` 0..1.

    thumbnails: (N, S, S) uint8, letterboxed on black. files: `sha256`, `width`, `height` of the
    same images. Every set of copies is linked, not every pair in it; blank images are no copies.
    Above MAX_COMPARED different images, each block of as many is searched for itself; the same
    file or the same pixels are always found.
    """
    if files is None:
        files = pd.DataFrame({"sha256": range(len(thumbnails)), "width": 100, "height": 100})
    sizes = list(files[["width", "height"]].itertuples(index=False, name=None))
    rows = np.flatnonzero(np.logical_not(parallel_map(is_blank, list(thumbnails))))
    pairs = _identical(thumbnails, rows, files["sha256"].tolist(), sizes)
    is_square = (files["width"] == files["height"]).to_numpy()
    for aspect, least in ASPECTS:
        # one of each set of copies represents all
        rows = np.setdiff1d(rows, [b for _, b, _, _ in pairs])
        rows = rows if aspect == 1 else rows[is_square[rows]]
        for start in range(0, len(rows), MAX_COMPARED):
            block = rows[start : start + MAX_COMPARED]
            candidates = find_candidates(thumbnails, block, aspect)
            confirmed = _confirm(thumbnails, sizes, aspect, candidates)
            pairs += [pair for pair in confirmed if pair[3] >= least]
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
    stems = {file.stem for file in files}
    origins = [_origin(file.stem, stems) for file in files]
    copied_from = {
        origin for file, origin in zip(files, origins, strict=True) if origin != file.stem
    }
    positions = {(file.parent, file.stem): i for i, file in enumerate(files)}
    first: dict[str, int] = {}
    links = []
    for i, (file, origin) in enumerate(zip(files, origins, strict=True)):
        copied = NAMED_COPY.fullmatch(file.stem)
        if origin in copied_from:
            links.append((first.setdefault(origin, i), i, f"named as made from {origin}"))
        elif copied:
            source = positions.get((file.parent, copied[1]), i)
            links.append((source, i, f"named as a copy of {copied[1]}"))
    return [(source, i, reason) for source, i, reason in links if source != i]


def _origin(stem: str, stems: set[str]) -> str:
    """The name of the image that `stem` says it was made from, or `stem` itself."""
    made, keras = NAMED_AUGMENTED.fullmatch(stem), NAMED_KERAS.fullmatch(stem)
    if made:
        return _origin(made[made.lastindex or 0], stems)
    return keras[1] if keras and keras[1] in stems else stem


def _identical(thumbnails, rows, digests: list[str], sizes: list) -> list[tuple]:
    """Each row with the file or the pixels of an earlier one, linked to the earliest.

    A pair: two rows, what was done to the first to get the second, and a confidence 0..1.
    """
    first: dict[object, int] = {}
    pairs: list[tuple] = []
    for i in rows.tolist():
        source, kind = first.setdefault(digests[i], i), "same file"
        if source == i:
            pixels = (hash(thumbnails[i].tobytes()), sizes[i])
            source, kind = first.setdefault(pixels, i), "same pixels"
        if source != i:
            pairs.append((source, i, kind, 1.0))
    return pairs


def _confirm(thumbnails, sizes, aspect, candidates: list[Candidate]) -> list[tuple]:
    """The candidates that are copies, without those already linked through others."""
    texture = lru_cache(512)(lambda i, blur: Texture(thumbnails[i], sizes[i], aspect, blur))
    linked = DisjointSet({row for candidate in candidates for row in candidate[:2]})
    pairs: list[tuple] = []

    def confirm(candidate: Candidate) -> tuple | None:
        a, b = texture(candidate[0], 0), texture(candidate[1], 0)
        affine, score = align(a, b, candidate[2])
        for (blur_a, blur_b), least in LOOKS:
            if score < UNLIKE:
                break
            a, b = texture(candidate[0], blur_a), texture(candidate[1], blur_b)
            score = agreement(a, b, affine)
            if score >= least:
                return *candidate[:2], describe(a, b, affine), round(score, 3)
        return None

    for start in progress(range(0, len(candidates), 1024), "possible copies"):
        block = candidates[start : start + 1024]
        block = [pair for pair in block if not linked.connected(*pair[:2])]
        confirmed = [pair for pair in parallel_map(confirm, block) if pair]
        for a, b, _, _ in confirmed:
            linked.merge(a, b)
        pairs += confirmed
    return pairs
