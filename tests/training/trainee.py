"""A complete training of seconds, for tests that kill it or run it on several processes.

python tests/training/trainee.py RUN_FOLDER '{"epochs": 4, ...}'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bonelib.config import Config
from bonelib.split import Fold, label_indices, split
from bonelib.training.loop import fit

IMAGES, SIZE = 60, 32
SETTINGS: dict[str, Any] = {
    **{"backbone": "test_efficientnet", "pretrained": False, "freeze": 0.0, "image_size": SIZE},
    **{"batch_size": 8, "epochs": 4, "cycle": 2, "lr": 5e-3, "precision": "no", "test_size": 0.25},
}


def training_fold(run: Path, **settings: Any) -> Fold:
    """Splits, and images (N, SIZE, SIZE) uint8 whose brightness shows the class.

    The last class has twice as many images as each of the others.
    """
    cfg = Config(**SETTINGS | settings, run=str(run))
    names = cfg.class_names
    labels = [(*names, names[-1])[i % (len(names) + 1)] for i in range(IMAGES)]
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(IMAGES)], "label": labels})
    splits = split(table.assign(group=table["path"], status="ok", issues=""), cfg)
    levels = np.linspace(40, 180, len(names))[label_indices(splits["label"], names)]
    noise = np.random.default_rng(0).integers(0, 20, (IMAGES, SIZE, SIZE))
    return Fold(cfg, splits, (levels[:, None, None] + noise).astype(np.uint8), cfg.root)


if __name__ == "__main__":
    given = json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}")
    fit(training_fold(Path(sys.argv[1]), **given))
