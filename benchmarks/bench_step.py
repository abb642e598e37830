"""One training step on a CPU or GPU: bonelib's model and step against the plain way, the same share of weights frozen.

python benchmarks/bench_step.py [--rounds 3] [--backbone efficientnet_b3]

Both take a batch that lies ready: uint8 grey for bonelib, scaled RGB floats for the plain way.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import plain
import torch
import torch.nn.functional as F
from side_by_side import Question, Round, main, process
from timm.utils import ModelEmaV3

from bonelib import model, recipe
from bonelib.config import Config

SIZES = {"full": {"at": 300, "batch": 16, "steps": 2}, "toy": {"at": 32, "batch": 4, "steps": 1}}
QUESTIONS = {"training step, half of the weights frozen": Question("images/s", {"plain": 1.4})}


def ours(cfg: Config, at: int, batch: int) -> Callable[[], None]:
    """A step as `train` makes it: averaged weights and clipped gradients included."""
    on = model.device()
    kind = model.precision(cfg, on, learning=True)
    net = model.build(cfg).to(on)
    optimizer = torch.optim.AdamW(recipe.parameter_groups(net, cfg), lr=cfg.lr)
    ema = ModelEmaV3(net, cfg.ema, use_warmup=True)
    scaler = torch.amp.GradScaler(on.type, enabled=kind == "fp16")
    aims = recipe.targets(cfg).to(on)
    pictures, labels = torch.randint(0, 256, (batch, 1, at, at), dtype=torch.uint8), torch.arange(batch) % 3
    net.train()

    def step() -> None:
        with model.autocast(kind, on):
            out = net(pictures.to(on))
        loss = F.cross_entropy(out.float(), aims[labels])
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(net.parameters(), cfg.clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        ema.update(net)

    return step


def theirs(cfg: Config, at: int, batch: int) -> Callable[[], None]:
    trainer = plain.Trainer(plain.model(cfg.backbone, cfg.freeze, plain.DEVICE), plain.DEVICE)
    pictures, labels = torch.randn(batch, 3, at, at), torch.arange(batch) % 3
    trainer.net.train()
    return lambda: trainer.step(pictures, labels)


WAYS = {"bonelib": ours, "plain": theirs}


def rate(name: str, size: str, backbone: str, precision: str) -> float:
    """Images a second."""
    s = SIZES[size]
    backbone = backbone or ("efficientnet_b3" if size == "full" else "test_efficientnet")
    step = WAYS[name](Config(backbone=backbone, pretrained=False, precision=precision), s["at"], s["batch"])
    step()  # the first one sets things up
    began = time.perf_counter()
    steps = s["steps"] * (20 if torch.cuda.is_available() else 1)
    for _ in range(steps):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return s["batch"] * steps / (time.perf_counter() - began)


def measure(size: str = "full", backbone: str = "", precision: str = "auto") -> Round:
    rates = {name: process(name).submit(rate, name, size, backbone, precision).result() for name in WAYS}
    return dict.fromkeys(QUESTIONS, rates)


if __name__ == "__main__":
    main(__doc__, measure, QUESTIONS, backbone="", precision="auto")
