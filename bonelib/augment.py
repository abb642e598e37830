"""What training changes in an image, and the fixed views that prediction averages over."""

import importlib.metadata
import itertools
import math
import os
import random
from collections.abc import Sequence

# Without this, importing albumentations asks the network for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import numpy as np
import torch
import torch.nn.functional as F

from bonelib.config import VIEWS, Config
from bonelib.messages import RunError

if list(importlib.metadata.distributions(name="albumentationsx")):
    raise RunError(
        "albumentationsx (AGPL) is installed in place of albumentations: pip uninstall -y "
        "albumentationsx albumentations, then pip install albumentations or nrtk-albumentations"
    )


def policy(cfg: Config, only: Sequence[str] | None = None) -> A.Compose:
    """The training augmentation: grey uint8 (S, S) in and out.

    Strengths suit radiographs: a density class shows in brightness and texture, so both change
    only a little. Geometry fills with black, as the letterbox does. `cfg.strength` scales all.
    only: some of the steps, to show them.
    """
    s, size = cfg.strength, cfg.image_size
    hole = (max(1, round(size * 0.04)), max(2, round(size * 0.12)))
    steps = {
        "hflip": A.HorizontalFlip(p=0.5),
        "vflip": A.VerticalFlip(p=0.5),
        "rotate": A.Rotate(limit=(-15 * s, 15 * s), p=0.5),
        "shift_scale_rotate": A.Affine(
            translate_percent=(-0.06 * s, 0.06 * s),
            scale=(1 - 0.1 * s, 1 + 0.1 * s),
            rotate=(-10 * s, 10 * s),
            p=0.5,
        ),
        "brightness_contrast": A.RandomBrightnessContrast(
            (-0.15 * s, 0.15 * s), (-0.15 * s, 0.15 * s), p=0.5
        ),
        "blur": A.GaussianBlur(blur_limit=(3, 3), sigma_limit=(0.1, 0.1 + 0.7 * s), p=0.15),
        "noise": A.GaussNoise(std_range=(0.005 * s, 0.03 * s), p=0.25),
        "dropout": A.CoarseDropout(
            num_holes_range=(1, 4), hole_height_range=hole, hole_width_range=hole, fill=0, p=0.25
        ),
    }
    chosen = cfg.augment if only is None else only
    if s == 0:
        chosen = [name for name in chosen if name in ("hflip", "vflip")]
    return A.Compose([steps[name] for name in steps if name in chosen], strict=True)


def seed(policy: A.Compose, *keys: int) -> None:
    """Make what `policy` draws next depend on `keys` alone.

    Its own `set_random_seed` gives every step the same numbers: a mirrored image would always be
    rotated, too.
    """
    generator = np.random.default_rng(keys)
    policy.set_random_state(generator, random.Random(int(generator.integers(2**63))))


def views(images: torch.Tensor, names: Sequence[str] = VIEWS) -> torch.Tensor:
    """(V, B, 1, S, S) uint8: all views of images (B, 1, S, S), in one warp on their device."""
    height, width = images.shape[-2:]
    matrices = torch.stack([_matrix(name) for name in names]).to(images.device)  # (V, 2, 3)
    grid = F.affine_grid(matrices, [len(names), 1, height, width], align_corners=False)
    # The images are the channels, so each view's sampling grid (S, S, 2) is used for all of them.
    source = images[:, 0].float().expand(len(names), -1, -1, -1)  # (V, B, S, S)
    warped = F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return warped.round_().to(torch.uint8)[:, :, None]


def _matrix(name: str) -> torch.Tensor:
    """(2, 3): where each output point, in -1..1, is read from in a view like "mirror rotate -6"."""
    following = dict(itertools.pairwise(name.split()))
    angle, zoom = math.radians(float(following.get("rotate", 0))), float(following.get("zoom", 1))
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    flip = -1 if name.startswith("mirror") else 1
    return torch.tensor([[flip * cos, -flip * sin, 0], [sin, cos, 0]])
