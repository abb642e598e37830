"""Batches of augmented images from one folder per class: bonelib, the plain way, and alternatives.

Each is a function (folder, Load) that yields, for every epoch, something to iterate over: batches
whose first item is the images. All get the same files, image size, batch size and workers, and the
same augmentation as far as each supports it. Those that cache decoded images do so in their first
epoch.
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

from bonelib import augment
from bonelib.config import AUGMENTATIONS, CLASSES, Config
from bonelib.data.cache import cached_images
from bonelib.training.loader import Draws, training_batches


@dataclass(frozen=True)
class Load:
    size: int = 300
    batch_size: int = 32
    workers: int = 2

    def shared(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size, "num_workers": self.workers}


Epochs = Iterator[Iterable[Any]]


def labelled_files(folder: Path) -> tuple[list[str], list[int]]:
    """Paths below `folder`, and the class of each."""
    paths = sorted(path.relative_to(folder) for path in folder.glob("*/*"))
    paths = [path for path in paths if path.parent.name in CLASSES]
    labels = [CLASSES.index(path.parent.name) for path in paths]
    return [path.as_posix() for path in paths], labels


def bonelib(folder: Path, load: Load) -> Epochs:
    cfg = Config(
        image_size=load.size,
        batch_size=load.batch_size,
        workers=load.workers,
        augment=AUGMENTATIONS,
    )
    paths, labels = labelled_files(folder)
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
        images, _ = cached_images(folder, paths, load.size, cache)
        draws = Draws(np.ones(len(paths), int), load.batch_size, 0)
        policy = augment.policy(cfg)
        batches = training_batches(cfg, images, np.array(labels), draws, policy, cpu)
        while True:
            yield batches
            draws.epoch += 1


def plain(folder: Path, load: Load) -> Epochs:
    paths, labels = labelled_files(folder)
    files = [folder / path for path in paths]
    images = notebook.ImageFiles(files, labels, notebook.augmentation(load.size))
    while True:
        yield DataLoader(images, shuffle=True, **load.shared())


def torchvision(folder: Path, load: Load) -> Epochs:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    affine = v2.RandomAffine(10, translate=(0.06, 0.06), scale=(0.9, 1.1))
    policy = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((load.size, load.size)),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomApply([v2.RandomRotation(15)], 0.5),
            v2.RandomApply([affine], 0.5),
            v2.RandomApply([v2.ColorJitter(0.15, 0.15)], 0.5),
            v2.RandomApply([v2.GaussianBlur(3, (0.1, 0.8))], 0.15),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomApply([v2.GaussianNoise(sigma=0.02)], 0.25),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            v2.RandomErasing(0.25, (0.002, 0.02)),
        ]
    )
    data = ImageFolder(str(folder), policy)
    batches = DataLoader(data, shuffle=True, persistent_workers=load.workers > 0, **load.shared())
    while True:
        yield batches


def timm(folder: Path, load: Load) -> Epochs:
    """Its own augmentation: it crops and resizes, but does not rotate, shift or add noise."""
    from timm.data import create_dataset, create_loader

    batches = create_loader(
        create_dataset("", str(folder), is_training=True),
        (3, load.size, load.size),
        load.batch_size,
        is_training=True,
        vflip=0.5,
        scale=(0.8, 1.0),
        color_jitter=0.15,
        color_jitter_prob=0.5,
        gaussian_blur_prob=0.15,
        re_prob=0.25,
        num_workers=load.workers,
        persistent_workers=load.workers > 0,
        device=torch.device("cpu"),
    )
    while True:
        yield batches


def fastai(folder: Path, load: Load) -> Epochs:
    """Its batch transforms are made for a GPU; here they run on the CPU, in the main process."""
    from fastai.vision.all import (
        ImageDataLoaders,
        Normalize,
        Resize,
        aug_transforms,
        imagenet_stats,
        parent_label,
    )

    transforms = aug_transforms(
        flip_vert=True, max_rotate=15, max_zoom=1.1, max_lighting=0.15, max_warp=0
    )
    batches = ImageDataLoaders.from_path_func(
        folder,
        [folder / path for path in labelled_files(folder)[0]],
        parent_label,
        valid_pct=0.0,
        item_tfms=Resize(load.size, method="squish"),
        bs=load.batch_size,
        batch_tfms=[*transforms, Normalize.from_stats(*imagenet_stats)],
        num_workers=load.workers,
        device="cpu",
    )
    while True:
        yield batches.train


def _monai_policy(size: int) -> Any:
    import monai.transforms as m

    affine = {"rotate_range": 0.17, "translate_range": 0.06 * size, "scale_range": 0.1}
    return m.Compose(
        [
            m.LoadImaged("image", reader="PILReader", converter=lambda image: image.convert("L")),
            m.EnsureChannelFirstd("image"),
            m.Resized("image", (size, size), mode="area"),
            m.ScaleIntensityRanged("image", 0, 255, 0, 1),
            m.RandFlipd("image", 0.5, 0),
            m.RandFlipd("image", 0.5, 1),
            m.RandRotated("image", 0.26, prob=0.5, padding_mode="zeros"),
            m.RandAffined("image", prob=0.5, padding_mode="zeros", **affine),
            m.RandScaleIntensityd("image", 0.15, 0.5),
            m.RandGaussianSmoothd("image", (0.1, 0.8), (0.1, 0.8), prob=0.15),
            m.RandGaussianNoised("image", 0.25, std=0.02),
            m.RandCoarseDropoutd("image", 1, size // 12, fill_value=0, max_holes=4, prob=0.25),
        ]
    )


def _monai_epochs(data: Any, load: Load) -> Epochs:
    batches = DataLoader(
        data,
        shuffle=True,
        persistent_workers=load.workers > 0,
        collate_fn=_tensors,
        **load.shared(),
    )
    while True:
        yield batches


def _monai_rows(folder: Path) -> list[dict[str, Any]]:
    paths, labels = labelled_files(folder)
    return [
        {"image": str(folder / path), "label": label}
        for path, label in zip(paths, labels, strict=True)
    ]


def monai_on_disk(folder: Path, load: Load) -> Epochs:
    """PersistentDataset: the decoded and resized tensor of each image in a file of its own."""
    from monai.data import PersistentDataset

    with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
        data = PersistentDataset(_monai_rows(folder), _monai_policy(load.size), cache)
        yield from _monai_epochs(data, load)


def monai_in_memory(folder: Path, load: Load) -> Epochs:
    """CacheDataset: the same in memory."""
    from monai.data import CacheDataset

    rows, policy = _monai_rows(folder), _monai_policy(load.size)
    yield from _monai_epochs(
        CacheDataset(rows, policy, num_workers=load.workers, progress=False), load
    )


def _tensors(rows: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.stack([row["image"].as_tensor() for row in rows])
    return images, torch.tensor([row["label"] for row in rows])


LOADERS: dict[str, Callable[[Path, Load], Epochs]] = {
    "bonelib": bonelib,
    "plain": plain,
    "torchvision": torchvision,
    "timm": timm,
    "fastai": fastai,
    "MONAI Persistent": monai_on_disk,
    "MONAI Cache": monai_in_memory,
}
# Those that cache decoded images; for the others all epochs are alike.
CACHING = ("bonelib", "MONAI Persistent", "MONAI Cache")
