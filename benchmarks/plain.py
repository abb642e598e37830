"""The plain notebook way: what most public notebooks do, written again for comparison.

OpenCV decodes the whole file at every access. Albumentations works on RGB at the model's size and
returns float tensors. The model is timm's, unchanged. Test-time augmentation predicts one image and
one sample of the training augmentation at a time, in ten passes, and decodes the file each time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import albumentations as A
import cv2
import timm
import torch
from albumentations.pytorch import ToTensorV2
from torch import nn
from torch.utils.data import DataLoader, Dataset

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def augmentation(size: int) -> A.Compose:
    """The training augmentation; its strengths are bonelib's, so that both do the same work."""
    hole = (max(1, round(size * 0.04)), max(2, round(size * 0.12)))
    return A.Compose(
        [
            A.Resize(size, size),
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            A.Rotate(limit=15, p=0.5),
            A.Affine(translate_percent=(-0.06, 0.06), scale=(0.9, 1.1), rotate=(-10, 10), p=0.5),
            A.RandomBrightnessContrast(0.15, 0.15, p=0.5),
            A.GaussianBlur(blur_limit=(3, 3), sigma_limit=(0.1, 0.8), p=0.15),
            A.GaussNoise(std_range=(0.005, 0.03), p=0.25),
            A.CoarseDropout(
                num_holes_range=(1, 4), hole_height_range=hole, hole_width_range=hole, p=0.25
            ),
            A.Normalize(),
            ToTensorV2(),
        ]
    )


def no_augmentation(size: int) -> A.Compose:
    """What validation uses."""
    return A.Compose([A.Resize(size, size), A.Normalize(), ToTensorV2()])


class ImageFiles(Dataset):
    """(3, S, S) float32 and the label, read from the file at every access."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], transform: A.Compose) -> None:
        self.paths, self.labels, self.transform = paths, labels, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        rgb = cv2.cvtColor(cv2.imread(str(self.paths[i])), cv2.COLOR_BGR2RGB)
        return self.transform(image=rgb)["image"], self.labels[i]


def build(
    backbone: str, frozen: float, device: torch.device, classes: int = 3, weights: str = ""
) -> nn.Module:
    """A timm model with the first `frozen` share of its parameter tensors fixed.

    weights: a .safetensors file; random ones without it.
    """
    options = {"pretrained": True, "pretrained_cfg_overlay": {"file": weights}} if weights else {}
    net = timm.create_model(backbone, num_classes=classes, drop_rate=0.3, **options)
    parameters = list(net.parameters())
    for parameter in parameters[: int(len(parameters) * frozen)]:
        parameter.requires_grad_(False)
    return net.to(device)


def autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """fp16 on a GPU and float32 on a CPU, as is usual in such notebooks."""
    is_gpu = device.type == "cuda"
    return torch.autocast("cuda", torch.float16) if is_gpu else contextlib.nullcontext()


class Trainer:
    """The usual loop: weighted cross-entropy with label smoothing, AdamW, a gradient scaler."""

    def __init__(
        self, net: nn.Module, device: torch.device, weights: torch.Tensor | None = None
    ) -> None:
        self.net, self.device = net, device
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=3e-4)
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
        chosen = None if weights is None else weights.to(device)
        self.loss = nn.CrossEntropyLoss(weight=chosen, label_smoothing=0.1)

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        with autocast(self.device):
            loss = self.loss(self.net(images.to(self.device)), labels.to(self.device))
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def train(self, batches: DataLoader) -> None:
        self.net.train()
        for images, labels in batches:
            self.step(images, labels)

    @torch.no_grad()
    def predict(self, batches: DataLoader) -> torch.Tensor:
        """(N, K) probabilities."""
        self.net.eval()
        probabilities = []
        with autocast(self.device):
            for images, _ in batches:
                probabilities.append(self.net(images.to(self.device)).softmax(1).cpu())
        return torch.cat(probabilities)

    def tta(self, images: ImageFiles, passes: int = 10) -> torch.Tensor:
        """(N, K): the mean over the passes, one image at a time."""
        return sum(self.predict(DataLoader(images, batch_size=1)) for _ in range(passes)) / passes
