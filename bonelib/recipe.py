"""The turns of the training recipe: targets, mixup, rates by depth, gradual thawing, and the search for a rate."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.data.mixup import Mixup
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

from bonelib import augment, loader, model
from bonelib.config import CLASSES, Config
from bonelib.model import Net
from bonelib.split import class_weights


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


def find_lr(
    cfg: Config, splits: pd.DataFrame, pixels: NDArray[Any], low: float = 1e-6, high: float = 0.3, steps: int = 80
) -> pd.DataFrame:
    """`lr` and the training `loss` there, smoothed: one short run whose rate rises from `low` to `high`.

    Take a rate where the loss falls fastest, well left of its minimum (Smith 2017, doi 10.1109/WACV.2017.58).
    """
    on, kind = model.device(), model.precision(cfg, model.device(), learning=True)
    torch.manual_seed(cfg.seed)
    net = model.build(cfg)
    optimizer = torch.optim.AdamW(parameter_groups(net, cfg), lr=low)
    net.to(on).train()
    weights = torch.from_numpy(class_weights(splits, cfg.balance)).to(on)
    labels = splits["label"].map(CLASSES.index).to_numpy(np.int64)
    draws = loader.Draws(splits["draws"].to_numpy(), cfg.batch_size, cfg.seed)
    batches = loader.training(cfg, pixels, labels, draws, augment.policy(cfg), on)
    rows: list[dict[str, float]] = []
    for draws.epoch in itertools.count():
        for pictures, y in batches:
            rate = low * (high / low) ** (len(rows) / (steps - 1))
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)
            with model.autocast(kind, on):
                out = net(pictures.to(on))
            loss = F.cross_entropy(out.float(), targets(cfg).to(on)[y.to(on)], weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rows.append({"lr": rate, "loss": loss.item()})
            if len(rows) == steps or not rows[-1]["loss"] < 4 * rows[0]["loss"]:
                table = pd.DataFrame(rows)
                return table.assign(loss=table["loss"].ewm(span=8).mean())
