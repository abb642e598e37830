"""Copies found in large sets: seconds, peak memory, recall and precision on drawn thumbnails with planted copies.

python benchmarks/bench_copies.py            flips, scales and exposure: 10,000 and 100,000 pictures
python benchmarks/bench_copies.py --turned   any angle, zoom and shift: 5,000 pictures of 224 px
"""

from __future__ import annotations

import argparse
import resource
import time

import cv2
import numpy as np

from bonelib import copies


def pictures(n: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """(n, side, side) uint8: two bones on soft tissue with texture of their own, alike in outline as people are."""
    out = np.empty((n, side, side), np.uint8)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    for i in range(n):
        a, b, c, d, e = rng.normal(0, 0.08, 5).astype(np.float32)
        width = 0.28 + c * 0.4 + 0.22 * np.exp(-(((y - b) / 0.3) ** 2))
        bone = 1 / (1 + np.exp((np.abs(x - a - d * y) - width) * 25)) * (1 - 0.7 * np.exp(-(((y - b) / 0.05) ** 2)))
        coarse = cv2.resize(rng.standard_normal((12, 12), np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
        fine = cv2.resize(rng.standard_normal((64, 64), np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
        soft = 60 * np.exp(-((x / (0.8 + e)) ** 4))
        out[i] = np.clip(soft + bone * (110 + 18 * coarse + 14 * fine) + 5 * fine, 0, 255)
    return out


def upright_copy(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flipped, rescaled, recompressed, its exposure changed."""
    side, kind = len(picture), rng.integers(5)
    if kind < 3:
        picture = (picture[:, ::-1], picture[::-1], np.rot90(picture))[kind]
    if kind != 4:
        half = cv2.resize(np.ascontiguousarray(picture), None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
        picture = cv2.resize(half, (side, side))
    picture = cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 96))])[1], 0)
    return np.clip(255 * (picture / 255.0) ** rng.uniform(0.75, 1.35) * rng.uniform(0.8, 1.1), 0, 255).astype(np.uint8)


def turned_copy(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Any angle, half of them mirrored, zoom 0.8-1.25, shift up to 10%, then a JPEG."""
    side = len(picture)
    turn = cv2.getRotationMatrix2D(((side - 1) / 2,) * 2, rng.uniform(-180, 180), rng.uniform(0.8, 1.25))
    turn[:, 2] += rng.uniform(-0.1, 0.1, 2) * side
    picture = np.ascontiguousarray(picture[:, ::-1] if rng.random() < 0.5 else picture)
    picture = cv2.warpAffine(picture, turn, (side, side))
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], 0)


def planted(n: int, side: int, copy, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """n thumbnails in random order, a third of them copies of another third, and the number of each one's original.

    Pictures are drawn and copied a third larger than the thumbnails, as originals are larger than thumbnails.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    thumbs, original = np.empty((n, side, side), np.uint8), np.empty(n, int)
    done = 0
    while done < n:
        for picture in pictures(min(500, n - done), side * 4 // 3, rng):
            first = order[done] if done < n else 0
            for one in (picture, copy(picture, rng))[: 1 + (done % 3 == 0)]:
                if done < n:
                    thumbs[order[done]] = cv2.resize(one, (side, side), interpolation=cv2.INTER_AREA)
                    original[order[done]] = first
                    done += 1
    return thumbs, original


def measure(n: int, side: int, turned: bool) -> float:
    """Print one line of the table and return the seconds."""
    thumbs, original = planted(n, side, turned_copy if turned else upright_copy)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start, cpu = time.perf_counter(), time.process_time()
    pairs = copies.find(thumbs, any_angle=turned)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    cluster = copies.joined(n, zip(pairs["a"], pairs["b"], strict=True))
    true = np.flatnonzero(original != np.arange(n))
    right = int((cluster[true] == cluster[original[true]]).sum())
    sizes = np.bincount(cluster)
    joined = int((sizes * (sizes - 1) // 2).sum())
    print(
        f"{n:>7,} pictures of {side} px  {seconds:7.1f} s ({cpu:.0f} s of CPU)  peak {peak:.2f} GiB "
        f"({before:.2f} with the thumbnails alone)  recall {right / len(true):.4f}  precision {right / max(joined, 1):.4f}"
    )
    return seconds


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--turned", action="store_true")
    asked.add_argument("--sizes", type=int, nargs="+")
    asked.add_argument("--side", type=int)
    given = asked.parse_args()
    cv2.setNumThreads(1)  # bonelib's threads are the parallelism
    sizes = given.sizes or ([5_000] if given.turned else [10_000, 100_000])
    took = [measure(n, given.side or (224 if given.turned else 96), given.turned) for n in sizes]
    if len(took) > 1:
        print(f"time from {sizes[0]:,} to {sizes[-1]:,}: x{took[-1] / took[0]:.1f}")
