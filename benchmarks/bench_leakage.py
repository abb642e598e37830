"""How much accuracy does a wrong split pretend on a set of images, with two cheap classifiers?

    python benchmarks/bench_leakage.py DATA [--backbone NAME --weights FILE] [--repeats 20]

DATA: a folder with one folder per class. The images are audited, which finds copies and patients;
features are those of a frozen pretrained backbone on the thumbnails. All readable images are used,
copies included, as most public notebooks do. Accepts any `BONELIB_<FIELD>`; results are printed,
and the audit is kept in the run folder.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd

from bonelib.config import Config, present_classes
from bonelib.evaluation.baselines import PROTOCOLS, compare_protocols, frozen_features, regression
from bonelib.pipeline import audited
from bonelib.split import label_indices
from bonelib.training.model import describe_weights


def summary(scores: pd.DataFrame) -> pd.Series:
    """The mean accuracy of each protocol with the range of 95% of the splits, as text."""
    texts = {}
    for protocol in PROTOCOLS:
        accuracy = scores.loc[scores["protocol"] == protocol, "accuracy"]
        low, high = np.quantile(accuracy, [0.025, 0.975])
        texts[protocol] = f"{accuracy.mean():.3f} ({low:.3f} to {high:.3f})"
    return pd.Series(texts)


def measure(cfg: Config, repeats: int = 20) -> pd.DataFrame:
    """One row per protocol, one column per classifier."""
    data = audited(cfg)
    readable = data.readable
    class_names = present_classes(cfg, readable["label"])
    y, groups = label_indices(readable["label"], class_names), readable["group"]
    print(
        f"{len(y)} readable images in {groups.nunique()} groups, {len(class_names)} classes; "
        f"features: {describe_weights(cfg)}; {repeats} splits per protocol"
    )
    features = frozen_features(cfg, data.thumbnails)
    neighbour = compare_protocols(features, y, groups, repeats, cfg.seed)
    logistic = compare_protocols(features, y, groups, repeats, cfg.seed, regression())
    scores = {"1-nearest neighbour": neighbour, "logistic regression": logistic}
    return pd.DataFrame({name: summary(table) for name, table in scores.items()})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--backbone", default="")
    parser.add_argument("--weights", default="")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    form = {name: getattr(arguments, name) for name in ("data", "backbone", "weights")}
    # a run folder of its own, so that no other run of these images is changed
    run = os.environ.get("BONELIB_RUN", f"runs/leakage-{Path(arguments.data).stem}")
    table = measure(Config.load(**form, run=run), arguments.repeats)
    print(f"\nmean accuracy, and the range of 95% of the splits\n{table.to_string()}")


if __name__ == "__main__":
    main()
