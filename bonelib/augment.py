"""What training changes in a picture, and the fixed views that prediction averages over."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it asks the network for a newer version

import albumentations as A
import cv2
import numpy as np
import torch
import torch.nn.functional as F

from bonelib.config import VIEWS, Config


def policy(cfg: Config, only: Sequence[str] | None = None) -> A.Compose:
    """The training augmentation: grey uint8 (S, S) in and out. `only` picks some of its steps, to show them.

    Strengths suit radiographs: a density class lives in brightness and texture, so both are changed a little only.
    Geometry fills with black, as the letterbox does. `cfg.strength` scales all of it.
    """
    s, size = cfg.strength, cfg.image_size
    hole = (max(1, round(size * 0.04)), max(2, round(size * 0.12)))
    steps = {
        "hflip": A.HorizontalFlip(p=0.5),
        "vflip": A.VerticalFlip(p=0.5),
        "rotate": A.Rotate(limit=(-15 * s, 15 * s), p=0.5),
        "shift_scale_rotate": A.Affine(
            translate_percent=(-0.06 * s, 0.06 * s), scale=(1 - 0.1 * s, 1 + 0.1 * s), rotate=(-10 * s, 10 * s), p=0.5
        ),
        "brightness_contrast": A.RandomBrightnessContrast((-0.15 * s, 0.15 * s), (-0.15 * s, 0.15 * s), p=0.5),
        "blur": A.GaussianBlur(blur_limit=(3, 3), sigma_limit=(0.1, 0.1 + 0.7 * s), p=0.15),
        "noise": A.GaussNoise(std_range=(0.005 * s, 0.03 * s), p=0.25),
        "dropout": A.CoarseDropout(
            num_holes_range=(1, 4), hole_height_range=hole, hole_width_range=hole, fill=0, p=0.25
        ),
    }
    chosen = cfg.augment if only is None else only
    if s == 0:
        chosen = [name for name in chosen if name in ("hflip", "vflip")]
    if "rotate" in chosen and "shift_scale_rotate" in chosen:
        steps["rotate"] = OneWarp([steps["rotate"], steps.pop("shift_scale_rotate")])
    return A.Compose([steps[name] for name in steps if name in chosen], strict=True)


class OneWarp(A.Sequential):  # type: ignore[misc]  # albumentations has no types
    """Affine steps, each drawn by itself with its own chance, made in one interpolation: half the time, and less blur."""

    def __call__(self, *args: Any, force_apply: bool = False, **data: Any) -> dict[str, Any]:
        drawn = [step for step in self.transforms if step.should_apply(force_apply)]
        matrix, picture = np.eye(3), data["image"]
        for step in drawn:
            params = step.update_transform_params(step.get_params(), data)
            matrix = step.get_params_dependent_on_data(params, data)["matrix"] @ matrix
        return data | {"image": cv2.warpAffine(picture, matrix[:2], picture.shape[::-1])} if drawn else data


def seed(policy: A.Compose, *keys: int) -> None:
    """What `policy` draws next depends on `keys` alone.

    Its own `set_random_seed` gives every step the same numbers: a picture that is mirrored would always be turned, too.
    """
    generator = np.random.default_rng(keys)
    policy.set_random_state(generator, random.Random(int(generator.integers(2**63))))


def views(pictures: torch.Tensor, names: Sequence[str] = VIEWS) -> torch.Tensor:
    """All views of all pictures in one warp on their device: (B, 1, S, S) uint8 -> (V, B, 1, S, S) uint8."""
    height, width = pictures.shape[-2:]
    mats = torch.stack([_matrix(name) for name in names]).to(pictures.device)  # (V, 2, 3)
    grid = F.affine_grid(mats, [len(names), 1, height, width], align_corners=False)  # (V, S, S, 2)
    # The pictures ride as channels, so each view's sampling grid is computed once for all of them.
    source = pictures[:, 0].float().expand(len(names), -1, -1, -1)  # (V, B, S, S)
    warped = F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return warped.round_().to(torch.uint8)[:, :, None]


def _matrix(name: str) -> torch.Tensor:
    """(2, 3): where each output point, in -1..1, is read from, in the view called `name`, say «mirror rotate -6»."""
    words = name.split()
    number = {what: float(words[words.index(what) + 1]) for what in ("rotate", "zoom") if what in words}
    angle, zoom = math.radians(number.get("rotate", 0)), number.get("zoom", 1)
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    flip = -1 if "mirror" in words else 1
    return torch.tensor([[flip * cos, -flip * sin, 0], [sin, cos, 0]])
