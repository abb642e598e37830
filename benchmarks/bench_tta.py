"""Test-time augmentation, ten views per image: bonelib, the plain way, ttach, and a single view.

python benchmarks/bench_tta.py [--rounds 3] [--backbone efficientnet_b3]

The plain way opens each file ten times and predicts one image at a time. ttach gets the same
batches as bonelib; its ten views are flips times five brightnesses, which cost less than rotated
and zoomed ones. "ttach on bonelib's model" separates the cost of the views from that of the model.
bonelib's images are decoded in the cache that training made, whatever the file format.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import plain
import torch
from images import image_folder
from loaders import labelled_files
from side_by_side import Question, Round, main, process

from bonelib.config import VIEWS, Config
from bonelib.data.cache import cached_images
from bonelib.evaluation.predict import logits
from bonelib.training.device import autocast, device, precision
from bonelib.training.model import build

GPU = torch.cuda.is_available()
SIZES = {
    "full": {"count": 320 if GPU else 9, "side": 300, "batch": 32, "shrink": 1},
    "toy": {"count": 6, "side": 32, "batch": 10, "shrink": 8},
}
TITLES = {"png": "ten views, 224 px PNG", "jpeg": "ten views, large JPEG"}
AT_LEAST = {"plain": 15 if GPU else 2.5}
QUESTIONS = {
    TITLES["png"]: Question("images/s", {**AT_LEAST, "ttach": 1.2}),
    TITLES["jpeg"]: Question("images/s", AT_LEAST),
}


def with_ttach(net: torch.nn.Module) -> torch.nn.Module:
    import ttach

    steps = [ttach.HorizontalFlip(), ttach.Multiply([0.9, 0.95, 1.0, 1.05, 1.1])]
    return ttach.ClassificationTTAWrapper(net, ttach.Compose(steps))


def ways(size: str, backbone: str, folder: Path, cache: str) -> dict[str, Callable[[int], object]]:
    """Functions that predict the first n images in ten views, ready to be timed."""
    side, batch = SIZES[size]["side"], SIZES[size]["batch"]
    on_device = plain.DEVICE
    cfg = Config(backbone=backbone, pretrained=False, image_size=side)
    paths, labels = labelled_files(folder)
    images, _ = cached_images(folder, paths, side, cache)
    net, mode = build(cfg, 3).to(on_device).eval(), precision(cfg, on_device)
    trainer = plain.Trainer(plain.build(backbone, cfg.freeze, on_device).eval(), on_device)
    policy, per_batch = plain.augmentation(side), max(1, batch // len(VIEWS))
    grey = torch.from_numpy(np.array(images))[:, None].float()  # (N, 1, S, S)
    rgb = (grey.expand(-1, 3, -1, -1) - 128) / 64  # (N, 3, S, S)

    def ours(n: int, views: tuple[str, ...] = VIEWS) -> None:
        logits(net, images, np.arange(n), views, batch, mode)

    def plain_way(n: int) -> None:
        files = [folder / path for path in paths[:n]]
        trainer.tta(plain.ImageFiles(files, labels, policy))

    def ttach_on_plain_model(n: int) -> None:
        with torch.inference_mode(), plain.autocast(on_device):
            for batch_of_images in rgb[:n].split(per_batch):
                with_ttach(trainer.net)(batch_of_images.to(on_device)).cpu()

    def ttach_on_our_model(n: int) -> None:
        with torch.inference_mode(), autocast(mode, on_device):
            for batch_of_images in grey[:n].split(per_batch):
                with_ttach(net)(batch_of_images.to(on_device)).cpu()

    return {
        "bonelib": ours,
        "bonelib, one view": lambda n: ours(n, ("identity",)),
        "plain": plain_way,
        "ttach": ttach_on_plain_model,
        "ttach on bonelib's model": ttach_on_our_model,
    }


def rate(name: str, size: str, backbone: str, folder: Path) -> float:
    """Images per second."""
    # bonelib's `device` also sets up the memory
    if "bonelib" in name:
        device()
    backbone = backbone or ("efficientnet_b3" if size == "full" else "test_efficientnet")
    count = SIZES[size]["count"]
    with tempfile.TemporaryDirectory() as cache:
        predict = ways(size, backbone, folder, cache)[name]
        # the first images set things up; cuDNN chooses its kernels
        predict(count if GPU else count // 4)
        start = time.perf_counter()
        predict(count)
        return count / (time.perf_counter() - start)


def measure(size: str = "full", backbone: str = "") -> Round:
    names = {"png": ["bonelib", "bonelib, one view", "plain"], "jpeg": ["bonelib", "plain"]}
    if importlib.util.find_spec("ttach"):
        names["png"] += ["ttach", "ttach on bonelib's model"]
    else:
        print("ttach: not installed")
    results: Round = {}
    for file_type, title in TITLES.items():
        folder = image_folder(file_type, SIZES[size]["count"], SIZES[size]["shrink"])
        results[title] = {
            name: process(name).submit(rate, name, size, backbone, folder).result()
            for name in names[file_type]
        }
    return results


if __name__ == "__main__":
    main(__doc__, measure, QUESTIONS, backbone="")
