"""Copies found in large sets: time, peak memory, recall and precision on planted copies.

python benchmarks/bench_copies.py              flips, scales and exposure
python benchmarks/bench_copies.py --any-angle  any angle, zoom and shift
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from bonelib.audit.copies import find_copies, join_links

Copy = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def generated_images(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """(count, side, side) uint8: two bones in soft tissue, similar outlines, different textures."""
    images = np.empty((count, side, side), np.uint8)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    for i in range(count):
        shift, joint, wide, tilt, tissue = rng.normal(0, 0.08, 5).astype(np.float32)
        width = 0.28 + wide * 0.4 + 0.22 * np.exp(-(((y - joint) / 0.3) ** 2))
        shaft = 1 / (1 + np.exp((np.abs(x - shift - tilt * y) - width) * 25))
        bone = shaft * (1 - 0.7 * np.exp(-(((y - joint) / 0.05) ** 2)))
        coarse = cv2.resize(_noise(rng, 12), (side, side), interpolation=cv2.INTER_CUBIC)
        fine = cv2.resize(_noise(rng, 64), (side, side), interpolation=cv2.INTER_LINEAR)
        soft = 60 * np.exp(-((x / (0.8 + tissue)) ** 4))
        grey = soft + bone * (110 + 18 * coarse + 14 * fine) + 5 * fine
        images[i] = np.clip(grey, 0, 255)
    return images


def _noise(rng: np.random.Generator, side: int) -> np.ndarray:
    return rng.standard_normal((side, side), np.float32)


def _as_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0)


def upright_copy(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flipped or rotated by 90 degrees, rescaled, recompressed, with another exposure."""
    side, kind = len(image), rng.integers(5)
    if kind < 3:
        image = (image[:, ::-1], image[::-1], np.rot90(image))[kind]
    if kind != 4:
        image = np.ascontiguousarray(image)
        smaller = cv2.resize(image, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
        image = cv2.resize(smaller, (side, side))
    image = _as_jpeg(image, int(rng.integers(50, 96)))
    exposed = 255 * (image / 255.0) ** rng.uniform(0.75, 1.35) * rng.uniform(0.8, 1.1)
    return np.clip(exposed, 0, 255).astype(np.uint8)


def rotated_copy(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Any angle, half of them mirrored, zoom 0.8 to 1.25, shift up to 10%, then a JPEG."""
    side = len(image)
    centre = ((side - 1) / 2,) * 2
    matrix = cv2.getRotationMatrix2D(centre, rng.uniform(-180, 180), rng.uniform(0.8, 1.25))
    matrix[:, 2] += rng.uniform(-0.1, 0.1, 2) * side
    image = np.ascontiguousarray(image[:, ::-1] if rng.random() < 0.5 else image)
    return _as_jpeg(cv2.warpAffine(image, matrix, (side, side)), 75)


def _in_sequence(
    count: int, side: int, copy: Copy, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, int]]:
    """Images, a third of them copies of the one before, and the number of each one's original."""
    number = 0
    while True:
        for image in generated_images(min(500, count), side, rng):
            original = number
            yield image, original
            number += 1
            if original % 3 == 0:
                yield copy(image, rng), original
                number += 1


def planted(count: int, side: int, copy: Copy, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Thumbnails (count, S, S) in random order, a third of them copies, and the rows of originals.

    Images are generated and copied a third larger than the thumbnails, as files are larger, too.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    thumbnails, originals = np.empty((count, side, side), np.uint8), np.empty(count, int)
    sequence = _in_sequence(count, side * 4 // 3, copy, rng)
    for row, (image, original) in zip(order, sequence, strict=False):
        thumbnails[row] = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        originals[row] = order[original]
    return thumbnails, originals


def peak_memory() -> float:
    """GiB at the peak of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def scores(clusters: np.ndarray, originals: np.ndarray) -> tuple[float, float]:
    """Recall of the planted copies, and precision of the pairs within clusters."""
    copies = np.flatnonzero(originals != np.arange(len(originals)))
    found = int((clusters[copies] == clusters[originals[copies]]).sum())
    sizes = np.bincount(clusters)
    pairs = int((sizes * (sizes - 1) // 2).sum())
    return found / len(copies), found / max(pairs, 1)


def measure(count: int, side: int, any_angle: bool) -> tuple[float, float, float]:
    """Print one line of the table and return the seconds, recall and precision."""
    thumbnails, originals = planted(count, side, rotated_copy if any_angle else upright_copy)
    before = peak_memory()
    start, cpu_start = time.perf_counter(), time.process_time()
    pairs = find_copies(thumbnails)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    links = zip(pairs["a"], pairs["b"], strict=True)
    recall, precision = scores(join_links(count, links), originals)
    print(
        f"{count:>7,} images of {side} px  {seconds:7.1f} s ({cpu:.0f} s of CPU)  "
        f"peak {peak_memory():.2f} GiB ({before:.2f} with the thumbnails alone)  "
        f"recall {recall:.4f}  precision {precision:.4f}"
    )
    return seconds, recall, precision


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--any-angle", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000])
    parser.add_argument("--side", type=int, default=224)
    arguments = parser.parse_args()
    # bonelib uses threads of its own
    cv2.setNumThreads(1)
    sizes = arguments.sizes
    seconds = [measure(count, arguments.side, arguments.any_angle)[0] for count in sizes]
    if len(sizes) > 1:
        print(f"time from {sizes[0]:,} to {sizes[-1]:,}: x{seconds[-1] / seconds[0]:.1f}")


if __name__ == "__main__":
    main()
