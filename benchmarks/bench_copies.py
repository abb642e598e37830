"""Copies found in large sets: time, memory, recall and precision on synthetic thumbnails.

python benchmarks/bench_copies.py            flips, scales and exposure: 10,000 and 100,000 images
python benchmarks/bench_copies.py --rotated  any angle, zoom and shift: 5,000 images of 224 px
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bonelib.audit.copies import cluster_numbers

Array = NDArray[Any]


def draw_images(count: int, side: int, rng: np.random.Generator) -> Array:
    """(count, side, side) uint8: two bones on soft tissue, alike in outline, not in texture."""
    images = np.empty((count, side, side), np.uint8)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    for i in range(count):
        a, b, c, d, e = rng.normal(0, 0.08, 5).astype(np.float32)
        width = 0.28 + c * 0.4 + 0.22 * np.exp(-(((y - b) / 0.3) ** 2))
        bone = 1 / (1 + np.exp((np.abs(x - a - d * y) - width) * 25))
        bone *= 1 - 0.7 * np.exp(-(((y - b) / 0.05) ** 2))
        coarse = draw_noise(12, side, cv2.INTER_CUBIC, rng)
        fine = draw_noise(64, side, cv2.INTER_LINEAR, rng)
        soft = 60 * np.exp(-((x / (0.8 + e)) ** 4))
        images[i] = np.clip(soft + bone * (110 + 18 * coarse + 14 * fine) + 5 * fine, 0, 255)
    return images


def draw_noise(cells: int, side: int, method: int, rng: np.random.Generator) -> Array:
    """(side, side): normal noise with as many cells per side, interpolated."""
    noise = rng.standard_normal((cells, cells), np.float32)
    return cv2.resize(noise, (side, side), interpolation=method)


def upright_copy(image: Array, rng: np.random.Generator) -> Array:
    """Flipped, rescaled, compressed again, its exposure changed."""
    side, change = len(image), rng.integers(5)
    if change < 3:
        image = (image[:, ::-1], image[::-1], np.rot90(image))[change]
    if change != 4:
        smaller = (round(0.75 * side), round(0.75 * side))
        small = cv2.resize(np.ascontiguousarray(image), smaller, interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (side, side))
    image = compress(image, int(rng.integers(50, 96)))
    grey = 255 * (image / 255.0) ** rng.uniform(0.75, 1.35) * rng.uniform(0.8, 1.1)
    return np.clip(grey, 0, 255).astype(np.uint8)


def rotated_copy(image: Array, rng: np.random.Generator) -> Array:
    """At any angle, half of them mirrored, zoomed by 0.8 to 1.25, shifted by up to 10%."""
    side = len(image)
    centre, zoom = ((side - 1) / 2, (side - 1) / 2), rng.uniform(0.8, 1.25)
    affine = cv2.getRotationMatrix2D(centre, rng.uniform(-180, 180), zoom)
    affine[:, 2] += rng.uniform(-0.1, 0.1, 2) * side
    image = np.ascontiguousarray(image[:, ::-1] if rng.random() < 0.5 else image)
    return compress(cv2.warpAffine(image, affine, (side, side)), 75)


def compress(image: Array, quality: int) -> Array:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imdecode(cv2.imencode(".jpg", image, options)[1], cv2.IMREAD_GRAYSCALE)


def plant_copies(
    count: int, side: int, copy: Callable[[Array, np.random.Generator], Array], seed: int = 0
) -> tuple[Array, Array]:
    """Thumbnails in random order, a third of them copies, and the row of each one's original.

    Images are drawn and copied a third larger than their thumbnails.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    thumbnails, originals = np.empty((count, side, side), np.uint8), np.empty(count, int)
    done = 0
    while done < count:
        for image in draw_images(min(500, count - done), side * 4 // 3, rng):
            versions = [image, copy(image, rng)] if done % 3 == 0 else [image]
            rows = order[done : done + len(versions)]
            for row, version in zip(rows, versions, strict=False):
                thumbnails[row] = cv2.resize(version, (side, side), interpolation=cv2.INTER_AREA)
                originals[row] = rows[0]
            done += len(rows)
    return thumbnails, originals


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(count: int, side: int, any_angle: bool) -> float:
    """The seconds that the search took; prints one line of the table."""
    copy = rotated_copy if any_angle else upright_copy
    thumbnails, originals = plant_copies(count, side, copy)
    before = peak_gib()
    start, cpu_start = time.perf_counter(), time.process_time()
    numbers = cluster_numbers(thumbnails, any_angle=any_angle)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    copied = np.flatnonzero(originals != np.arange(count))
    right = int((numbers[copied] == numbers[originals[copied]]).sum())
    sizes = np.bincount(numbers)
    joined = int((sizes * (sizes - 1) // 2).sum())
    print(
        f"{count:>7,} images of {side} px  {seconds:7.1f} s ({cpu:.0f} s of CPU)  "
        f"peak {peak_gib():.2f} GiB ({before:.2f} before the search)  "
        f"recall {right / len(copied):.4f}  precision {right / max(joined, 1):.4f}"
    )
    return seconds


if __name__ == "__main__":
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--rotated", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--side", type=int)
    args = parser.parse_args()
    # the package's own threads are the parallelism
    cv2.setNumThreads(1)
    sizes = args.sizes or ([5_000] if args.rotated else [10_000, 100_000])
    side = args.side or (224 if args.rotated else 96)
    times = [measure(count, side, args.rotated) for count in sizes]
    if len(times) > 1:
        print(f"time from {sizes[0]:,} to {sizes[-1]:,}: x{times[-1] / times[0]:.1f}")
