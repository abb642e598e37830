"""What test-time augmentation costs: all views against as many plain predictions. CPU seconds, so other load matters less.

python benchmarks/bench_tta.py [backbone] [image size] [pictures]
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from bonelib import model, predict
from bonelib.config import VIEWS, Config


def seconds(net: torch.nn.Module, pixels: np.ndarray, views: tuple[str, ...], rounds: int = 5) -> float:
    """Least CPU seconds of several rounds of predicting all pictures."""
    spent = []
    for _ in range(rounds):
        began = time.process_time()
        predict.logits(net, pixels, np.arange(len(pixels)), views, batch_size=len(pixels))
        spent.append(time.process_time() - began)
    return min(spent)


def main(backbone: str = "efficientnet_b3", size: str = "224", count: str = "20") -> None:
    cfg = Config.load({}, backbone=backbone, pretrained=False, image_size=int(size))
    net = model.build(cfg).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (int(count), cfg.image_size, cfg.image_size), dtype=np.uint8)
    plain, tta = (seconds(net, pixels, views) for views in (("identity",), VIEWS))
    print(f"{backbone}, {size} px, {count} pictures, {torch.get_num_threads()} threads")
    print(f"plain {plain:.2f} CPU s; {len(VIEWS)} views {tta:.2f} CPU s")
    print(f"cost of TTA: {tta / plain:.2f} times plain, {tta / plain / len(VIEWS):.2f} of its {len(VIEWS)} views")


if __name__ == "__main__":
    main(*sys.argv[1:])
