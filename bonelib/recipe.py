"""The optional turns of the training recipe, each one setting: targets, mixup, rates by depth, gradual thawing."""

from __future__ import annotations

from typing import Any

import torch
from timm.data.mixup import Mixup
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

from bonelib.config import CLASSES, Config
from bonelib.model import Net


def targets(cfg: Config) -> torch.Tensor:
    """(3, 3): row c is what the loss aims at for class c; label smoothing over all classes or over neighbours only.

    Ordinal smoothing gives the mass to the classes one step away (after Diaz & Marathe 2019, doi 10.1109/CVPR.2019.00487,
    with a kernel of width one): Normal is never pulled towards Osteoporosis.
    """
    n, mass = len(CLASSES), cfg.label_smoothing
    if not cfg.ordinal:
        return (1 - mass) * torch.eye(n) + mass / n
    near = torch.diag(torch.ones(n - 1), 1) + torch.diag(torch.ones(n - 1), -1)
    return (1 - mass) * torch.eye(n) + mass * near / near.sum(1, keepdim=True)


def mixup(cfg: Config) -> Mixup | None:
    """timm's mixup (Zhang 2018, arXiv 1710.09412): pairs of pictures of a batch blended, and their targets with them."""
    return Mixup(mixup_alpha=cfg.mixup, label_smoothing=0.0, num_classes=len(CLASSES)) if cfg.mixup else None


def parameter_groups(net: Net, cfg: Config) -> list[dict[str, Any]]:
    """AdamW's groups: no decay on 1-D parameters; with `layer_decay` below 1, rates that fall towards the input."""
    net.freeze(cfg.freeze)  # what ever gets trained is in a group, also if it starts frozen
    if cfg.layer_decay == 1:
        return [{**g, "lr": cfg.lr} for g in param_groups_weight_decay(net.backbone, cfg.weight_decay)]
    groups = param_groups_layer_decay(net.backbone, cfg.weight_decay, layer_decay=cfg.layer_decay)
    return [{**g, "lr": cfg.lr * g["lr_scale"]} for g in groups]


def frozen_share(cfg: Config, epoch: int) -> float:
    """What share of the backbone is frozen in `epoch` (from 0): `freeze`, reached from 1 in quarters with `thaw`."""
    return max(cfg.freeze, 1 - 0.25 * (epoch // cfg.thaw)) if cfg.thaw else cfg.freeze
