"""A whole training on pictures that it makes itself, for tests that kill it or run it on several processes.

python tests/trainee.py RUN_FOLDER '{"epochs": 4, …}'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from bonelib import split, train
from bonelib.config import CLASSES, Config

N, SIZE = 60, 32
SETTINGS = {
    "backbone": "test_efficientnet", "pretrained": False, "freeze": 0.0, "image_size": SIZE, "batch_size": 8, "epochs": 4,
    "cycle": 2, "lr": 5e-3, "precision": "no",
}  # fmt: skip


def data() -> tuple[pd.DataFrame, np.ndarray]:
    """Splits, and (N, SIZE, SIZE) uint8 pictures whose brightness tells the class."""
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(N)], "label": [CLASSES[i % 3] for i in range(N)]})
    splits = split.split(table.assign(group=table["path"], status="ok", issues=""), Config(test_size=0.25))
    level = splits["label"].map(CLASSES.index).to_numpy()[:, None, None]
    noise = np.random.default_rng(0).integers(0, 20, (N, SIZE, SIZE))
    return splits, (40 + 70 * level + noise).astype(np.uint8)


if __name__ == "__main__":
    given = json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}")
    cfg = Config.from_json(json.dumps(SETTINGS | given | {"run": sys.argv[1]}))
    train.train(cfg, *data(), Path(cfg.run))
