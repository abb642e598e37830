"""Batches of augmented pictures from a folder of class folders: bonelib's way, the plain way, and what else one could pick.

Each is a function (folder, Load) that gives, for every epoch, something to iterate over: pictures first in each batch. All
get the same files, picture size, batch size and workers, and the policy as nearly as each knows it. Where one keeps what it
has decoded, it does so in its first epoch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plain as notebook
import torch
from torch.utils.data import DataLoader

from bonelib import augment, images, loader
from bonelib.config import AUGMENTATIONS, CLASSES, Config


@dataclass(frozen=True)
class Load:
    size: int = 300
    batch_size: int = 32
    workers: int = 2

    def shared(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size, "num_workers": self.workers}


Epochs = Iterator[Iterable[Any]]


def files(folder: Path) -> tuple[list[str], list[int]]:
    """Paths below `folder`, and the class of each."""
    paths = sorted(p.relative_to(folder) for p in folder.glob("*/*"))
    paths = [p for p in paths if p.parent.name in CLASSES]
    return [p.as_posix() for p in paths], [CLASSES.index(p.parent.name) for p in paths]


def bonelib(folder: Path, load: Load) -> Epochs:
    cfg = Config(image_size=load.size, batch_size=load.batch_size, workers=load.workers, augment=AUGMENTATIONS)
    paths, labels = files(folder)
    with tempfile.TemporaryDirectory(dir=folder.parent) as kept:
        pixels, _ = images.cache(folder, paths, load.size, kept)
        draws = loader.Draws(np.ones(len(paths), int), load.batch_size, 0)
        policy = augment.policy(cfg)
        batches = loader.training(cfg, pixels, np.array(labels), draws, policy, torch.device("cpu"))
        while True:
            yield batches
            draws.epoch += 1


def plain(folder: Path, load: Load) -> Epochs:
    paths, labels = files(folder)
    pictures = notebook.Pictures([folder / p for p in paths], labels, notebook.policy(load.size))
    while True:
        yield DataLoader(pictures, shuffle=True, **load.shared())


def torchvision(folder: Path, load: Load) -> Epochs:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    turn = v2.RandomAffine(10, translate=(0.06, 0.06), scale=(0.9, 1.1))
    policy = v2.Compose([
        v2.ToImage(), v2.Resize((load.size, load.size)), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(),
        v2.RandomApply([v2.RandomRotation(15)], 0.5), v2.RandomApply([turn], 0.5),
        v2.RandomApply([v2.ColorJitter(0.15, 0.15)], 0.5), v2.RandomApply([v2.GaussianBlur(3, (0.1, 0.8))], 0.15),
        v2.ToDtype(torch.float32, scale=True), v2.RandomApply([v2.GaussianNoise(sigma=0.02)], 0.25),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), v2.RandomErasing(0.25, (0.002, 0.02)),
    ])  # fmt: skip
    batches = DataLoader(
        ImageFolder(str(folder), policy), shuffle=True, persistent_workers=load.workers > 0, **load.shared()
    )
    while True:
        yield batches


def timm(folder: Path, load: Load) -> Epochs:
    """Its own policy: cropping and resizing in place of turning and shifting, no noise."""
    from timm.data import create_dataset, create_loader

    data = create_dataset("", str(folder), is_training=True)
    batches = create_loader(
        data, (3, load.size, load.size), load.batch_size, is_training=True, vflip=0.5, scale=(0.8, 1.0), color_jitter=0.15,
        color_jitter_prob=0.5, gaussian_blur_prob=0.15, re_prob=0.25, num_workers=load.workers,
        persistent_workers=load.workers > 0, device=torch.device("cpu"),
    )  # fmt: skip
    while True:
        yield batches


def fastai(folder: Path, load: Load) -> Epochs:
    """Its batch transforms belong on a GPU; here they run on the CPU, in the main process."""
    from fastai.vision.all import ImageDataLoaders, Normalize, Resize, aug_transforms, imagenet_stats, parent_label

    turns = aug_transforms(flip_vert=True, max_rotate=15, max_zoom=1.1, max_lighting=0.15, max_warp=0)
    batches = ImageDataLoaders.from_path_func(
        folder, [folder / p for p in files(folder)[0]], parent_label, valid_pct=0.0, item_tfms=Resize(load.size, method="squish"), bs=load.batch_size,
        batch_tfms=[*turns, Normalize.from_stats(*imagenet_stats)], num_workers=load.workers, device="cpu",
    )  # fmt: skip
    while True:
        yield batches.train


def monai(folder: Path, load: Load, on_disk: bool = True) -> Epochs:
    """PersistentDataset: each picture's decoded and resized tensor in a file of its own."""
    import monai.transforms as m
    from monai.data import CacheDataset, PersistentDataset

    paths, labels = files(folder)
    rows = [{"image": str(folder / p), "label": y} for p, y in zip(paths, labels, strict=True)]
    policy = m.Compose([
        m.LoadImaged("image", reader="PILReader", converter=lambda picture: picture.convert("L")),
        m.EnsureChannelFirstd("image"), m.Resized("image", (load.size, load.size), mode="area"),
        m.ScaleIntensityRanged("image", 0, 255, 0, 1), m.RandFlipd("image", 0.5, 0), m.RandFlipd("image", 0.5, 1),
        m.RandRotated("image", 0.26, prob=0.5, padding_mode="zeros"),
        m.RandAffined("image", prob=0.5, rotate_range=0.17, translate_range=0.06 * load.size, scale_range=0.1,
                      padding_mode="zeros"),
        m.RandScaleIntensityd("image", 0.15, 0.5), m.RandGaussianSmoothd("image", (0.1, 0.8), (0.1, 0.8), prob=0.15),
        m.RandGaussianNoised("image", 0.25, std=0.02),
        m.RandCoarseDropoutd("image", 1, load.size // 12, fill_value=0, max_holes=4, prob=0.25),
    ])  # fmt: skip
    with tempfile.TemporaryDirectory(dir=folder.parent) as kept:
        if on_disk:
            data = PersistentDataset(rows, policy, kept)
        else:
            data = CacheDataset(rows, policy, num_workers=load.workers, progress=False)
        batches = DataLoader(
            data, shuffle=True, persistent_workers=load.workers > 0, collate_fn=_tensors, **load.shared()
        )
        while True:
            yield batches


def monai_in_memory(folder: Path, load: Load) -> Epochs:
    """CacheDataset: the same in memory, where it fits."""
    return monai(folder, load, on_disk=False)


def _tensors(rows: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([r["image"].as_tensor() for r in rows]), torch.tensor([r["label"] for r in rows])


LOADERS: dict[str, Callable[[Path, Load], Epochs]] = {
    "bonelib": bonelib, "plain": plain, "torchvision": torchvision, "timm": timm, "fastai": fastai,
    "MONAI Persistent": monai, "MONAI Cache": monai_in_memory,
}  # fmt: skip
KEEP = ("bonelib", "MONAI Persistent", "MONAI Cache")  # what they have decoded; to the others all epochs are alike
