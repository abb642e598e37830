"""Test-time augmentation, ten views of a picture: bonelib's against the plain way, ttach, and no augmentation at all.

python benchmarks/bench_tta.py [--rounds 3] [--backbone efficientnet_b3]

The plain way opens each file ten times and runs one picture at a time. ttach takes the same batches as bonelib; its ten
views are mirroring times five brightnesses, cheaper to make than turned and zoomed ones. «ttach on bonelib's model» tells
the views' share from the model's. bonelib's pictures lie decoded in the cache that training left, whatever the files are.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pictures
import plain
import torch
from loaders import files
from side_by_side import Question, Round, main, process

from bonelib import fusion, images, model, predict
from bonelib.config import VIEWS, Config

GPU = torch.cuda.is_available()
SIZES = {
    "full": {"rows": 320 if GPU else 9, "at": 300, "batch": 32, "shrink": 1},
    "toy": {"rows": 6, "at": 32, "batch": 10, "shrink": 8},
}
TITLES = {"png": "ten views, 224 px PNG", "jpeg": "ten views, large JPEG"}
AT_LEAST = {"plain": 15 if GPU else 3}
QUESTIONS = {
    TITLES["png"]: Question("images/s", {**AT_LEAST, "ttach": 1.2}), TITLES["jpeg"]: Question("images/s", AT_LEAST),
}  # fmt: skip


def wrapped(net: torch.nn.Module) -> torch.nn.Module:
    import ttach

    steps = [ttach.HorizontalFlip(), ttach.Multiply([0.9, 0.95, 1.0, 1.05, 1.1])]
    return ttach.ClassificationTTAWrapper(net, ttach.Compose(steps))


def ways(size: str, backbone: str, files_are: str, kept: str) -> dict[str, Callable[[int], object]]:
    """Each way to predict the first so many pictures in ten views, ready to be timed."""
    rows, at, batch, shrink = SIZES[size].values()
    on = plain.DEVICE
    cfg = Config(backbone=backbone, pretrained=False, image_size=at)
    folder = pictures.folder(files_are, rows, shrink)
    paths, labels = files(folder)
    pixels, _ = images.cache(folder, paths, at, kept)
    net, kind = fusion.folded(model.build(cfg), at).to(on), model.precision(cfg, on)
    trainer = plain.Trainer(plain.model(backbone, cfg.freeze, on).eval(), on)
    policy, each = plain.policy(at), max(1, batch // len(VIEWS))
    grey = torch.from_numpy(np.array(pixels))[:, None].float()
    colour = (grey.expand(-1, 3, -1, -1) - 128) / 64

    def ttach(net: torch.nn.Module, ready: torch.Tensor, mixed: str, count: int) -> None:
        with torch.inference_mode(), plain.half(on) if mixed == "plain" else model.autocast(mixed, on):
            for pictures in ready[:count].split(each):
                wrapped(net)(pictures.to(on)).cpu()

    return {
        "bonelib": lambda n: predict.logits(net, pixels, np.arange(n), VIEWS, batch, kind),
        "bonelib, one view": lambda n: predict.logits(net, pixels, np.arange(n), ("identity",), batch, kind),
        "plain": lambda n: trainer.tta(plain.Pictures([folder / p for p in paths[:n]], labels, policy)),
        "ttach": lambda n: ttach(trainer.net, colour, "plain", n),
        "ttach on bonelib's model": lambda n: ttach(net, grey, kind, n),
    }


def rate(name: str, size: str, backbone: str, files_are: str) -> float:
    """Images a second."""
    if "bonelib" in name:
        model.device()  # which sets up the memory
    backbone = backbone or ("efficientnet_b3" if size == "full" else "test_efficientnet")
    rows = SIZES[size]["rows"]
    with tempfile.TemporaryDirectory() as kept:
        run = ways(size, backbone, files_are, kept)[name]
        run(rows if GPU else rows // 4)  # the first ones set things up; cuDNN chooses its kernels
        began = time.perf_counter()
        run(rows)
        return rows / (time.perf_counter() - began)


def measure(size: str = "full", backbone: str = "") -> Round:
    names = {"png": ["bonelib", "bonelib, one view", "plain"], "jpeg": ["bonelib", "plain"]}
    if importlib.util.find_spec("ttach"):
        names["png"] += ["ttach", "ttach on bonelib's model"]
    else:
        print("ttach: not installed")
    return {
        TITLES[kind]: {name: process(name).submit(rate, name, size, backbone, kind).result() for name in names[kind]}
        for kind in TITLES
    }


if __name__ == "__main__":
    main(__doc__, measure, QUESTIONS, backbone="")
