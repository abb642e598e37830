"""One training step: bonelib's model and step against the plain way, as many weights frozen.

python benchmarks/bench_step.py [--rounds 3] [--backbone efficientnet_b3]

Both use a batch that is already in memory: grey uint8 for bonelib, scaled RGB floats for the plain
way.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import plain
import torch
from side_by_side import Question, Round, main, process
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3

from bonelib.config import Config
from bonelib.training.device import autocast, device, precision
from bonelib.training.loss import smoothed_targets, weighted_loss
from bonelib.training.model import build

SIZES = {
    "full": {"side": 300, "batch": 16, "steps": 2},
    "toy": {"side": 32, "batch": 4, "steps": 1},
}
QUESTIONS = {"training step, half of the weights frozen": Question("images/s", {"plain": 1.4})}


def ours(cfg: Config, side: int, batch: int) -> Callable[[], None]:
    """A step of `bonelib.training.loop.fit`: averaged weights and clipped gradients included."""
    on_device = device()
    mode = precision(cfg, on_device, training=True)
    net = build(cfg, 3).to(on_device)
    net.freeze(cfg.freeze)
    groups = param_groups_weight_decay(net.backbone, cfg.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=cfg.lr)
    ema = ModelEmaV3(net, cfg.ema, use_warmup=True)
    scaler = torch.amp.GradScaler(on_device.type, enabled=mode == "fp16")
    targets = smoothed_targets(3, cfg.label_smoothing).to(on_device)  # (3, 3)
    weights = torch.ones(3, device=on_device)
    images = torch.randint(0, 256, (batch, 1, side, side), dtype=torch.uint8)
    labels = torch.arange(batch) % 3
    net.train()

    def step() -> None:
        with autocast(mode, on_device):
            logits = net(images.to(on_device))
        loss = weighted_loss(logits, targets[labels.to(on_device)], weights)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(net.parameters(), cfg.clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        ema.update(net)

    return step


def plain_way(cfg: Config, side: int, batch: int) -> Callable[[], None]:
    trainer = plain.Trainer(plain.build(cfg.backbone, cfg.freeze, plain.DEVICE), plain.DEVICE)
    images, labels = torch.randn(batch, 3, side, side), torch.arange(batch) % 3
    trainer.net.train()
    return lambda: trainer.step(images, labels)


WAYS = {"bonelib": ours, "plain": plain_way}


def rate(name: str, size: str, backbone: str, precision: str) -> float:
    """Images per second."""
    side, batch, steps = SIZES[size].values()
    backbone = backbone or ("efficientnet_b3" if size == "full" else "test_efficientnet")
    cfg = Config(backbone=backbone, pretrained=False, precision=precision)
    step = WAYS[name](cfg, side, batch)
    # the first step sets things up
    step()
    if torch.cuda.is_available():
        steps *= 20
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return batch * steps / (time.perf_counter() - start)


def measure(size: str = "full", backbone: str = "", precision: str = "auto") -> Round:
    rates = {
        name: process(name).submit(rate, name, size, backbone, precision).result() for name in WAYS
    }
    return dict.fromkeys(QUESTIONS, rates)


if __name__ == "__main__":
    main(__doc__, measure, QUESTIONS, backbone="", precision="auto")
