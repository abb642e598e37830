"""How many wrong labels does the label review find? On the sample, a tenth of its labels wrong.

    python benchmarks/bench_review.py [seed ...]

Files are moved to a folder of another class; T-scores are left out, so that only the classifier can
find them. Counted are the training and validation images, the only ones that a model judges.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from bonelib import pipeline
from bonelib.config import Config
from bonelib.data.sample import SAMPLE_FOLDERS, make_sample
from bonelib.evaluation.baselines import cheap_features
from bonelib.evaluation.suspects import review_table


def mislabel(data: Path, seed: int) -> set[str]:
    """The new paths of a tenth of the images, each moved to another class."""
    rng = np.random.default_rng(seed)
    names = sorted(path.relative_to(data).as_posix() for path in data.glob("*/*.*"))
    moved = {}
    for name in rng.choice(names, len(names) // 10, replace=False):
        others = [folder for folder in SAMPLE_FOLDERS if not name.startswith(f"{folder}/")]
        moved[name] = f"{rng.choice(others)}/{Path(name).name}"
        (data / name).rename(data / moved[name])
    table = pd.read_csv(data / "metadata.csv", dtype=str).drop(columns="t_score")
    table.assign(image=table["image"].replace(moved)).to_csv(data / "metadata.csv", index=False)
    return set(moved.values())


def main(seeds: list[int]) -> None:
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            data = make_sample(Path(folder, "data"))
            wrong = mislabel(data, seed)
            places = {"data": str(data), "run": f"{folder}/run", "cache": f"{folder}/cache"}
            cfg = Config.load({}, **places, image_size=96, pretrained=False)
            table, fold = pipeline.audited(cfg).table, next(pipeline.folds(cfg))
            review = review_table(table, fold, cheap_features(cfg, fold.images))
        found = set(review["path"][review["reason"].str.contains("by a classifier")])
        wrong &= set(fold.splits["path"].iloc[fold.rows("train", "val")])
        hits = len(found & wrong)
        print(
            f"seed {seed}: {len(wrong)} wrong labels, {len(found)} doubted, "
            f"precision {hits / max(1, len(found)):.2f}, recall {hits / len(wrong):.2f}"
        )


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
