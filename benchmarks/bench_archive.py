"""A folder of new images predicted, decoding included: bonelib, a plain loop, and ONNX Runtime.

python benchmarks/bench_archive.py [--rounds 3] [--backbone efficientnet_b3]

Large JPEG files. bonelib also checks whether each image is like the training images. ONNX Runtime
runs the file that bonelib exports, on images that bonelib decodes, in batches of the same size.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import plain
import torch
from bench_training import BACKBONES
from images import image_folder
from side_by_side import Question, Round, main, process
from torch.utils.data import DataLoader

from bonelib.config import CLASSES, Config
from bonelib.data.quality import fit_gauge, read_for_model
from bonelib.prediction.answers import load_models
from bonelib.prediction.archive import answer_archive, find_images
from bonelib.prediction.export import to_onnx
from bonelib.training.model import amend_model, build, save_model

GPU = torch.cuda.is_available()
SIZES = {
    "full": {"count": 1000 if GPU else 192, "side": 300, "shrink": 1},
    "toy": {"count": 12, "side": 32, "shrink": 8},
}
BATCH = 32
TITLE = "archive of large JPEG predicted, decoding included"
QUESTIONS = {TITLE: Question("images/s", {"plain": 1.5, "ONNX Runtime": 0.9})}


def make_model(cfg: Config, root: Path, paths: list[str]) -> np.ndarray:
    """Save an untrained, uncalibrated model of `cfg`; returns some images as it sees them."""
    read = partial(read_for_model, size=cfg.image_size)
    some = np.stack([image for image, _ in map(read, [root / path for path in paths[:24]])])
    save_model(build(cfg, len(CLASSES)), cfg.root / "model", cfg, CLASSES)
    shares = np.full((2, len(CLASSES)), 1 / len(CLASSES)).tolist()
    facts = {"temperature": 1.0, "threshold": 0.0, "class_shares": shares}
    amend_model(cfg.root / "model", **facts, gauge=fit_gauge(some))
    return some


def plain_way(backbone: str, folder: Path, paths: list[str], side: int) -> float:
    """Images per second of the usual loop over a DataLoader with two workers."""
    trainer = plain.Trainer(plain.build(backbone, 0, plain.DEVICE), plain.DEVICE)
    files = [folder / path for path in paths]
    start = time.perf_counter()
    images = plain.ImageFiles(files, [0] * len(files), plain.no_augmentation(side))
    trainer.predict(DataLoader(images, batch_size=BATCH, num_workers=2))
    return len(files) / (time.perf_counter() - start)


def onnx_way(model: Path, folder: Path, paths: list[str], side: int) -> float:
    """Images per second of ONNX Runtime, after threads have decoded all of them."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    start = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        reads = list(pool.map(partial(read_for_model, size=side), [folder / p for p in paths]))
        for first in range(0, len(reads), BATCH):
            batch = np.stack([image for image, _ in reads[first : first + BATCH]])
            session.run(None, {"images": batch[:, None]})
    return len(paths) / (time.perf_counter() - start)


def measure(size: str = "full", backbone: str = "") -> Round:
    count, side, shrink = SIZES[size].values()
    folder, paths = find_images(image_folder("jpeg", count, shrink))
    name = backbone or BACKBONES[size]
    with tempfile.TemporaryDirectory() as run:
        cfg = Config(backbone=name, pretrained=False, image_size=side, run=run)
        some = make_model(cfg, folder, paths)
        models = load_models(cfg.root)
        to_onnx(models, some, cfg.root / "model.onnx")
        start = time.perf_counter()
        answer_archive(cfg, models, folder, paths, part=64)
        results = {"bonelib": count / (time.perf_counter() - start)}
        usual = process("plain").submit(plain_way, name, folder, paths, side)
        results["plain"] = usual.result()
        exported = process("onnx").submit(onnx_way, cfg.root / "model.onnx", folder, paths, side)
        results["ONNX Runtime"] = exported.result()
    return {TITLE: results}


if __name__ == "__main__":
    main(__doc__, measure, QUESTIONS, backbone="")
