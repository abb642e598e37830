"""Would more patients help? A cheap classifier on more and more of them."""

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from bonelib.evaluation.baselines import logistic_regression
from bonelib.split import assign_folds

SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
# A gain in macro-F1 from 60% to all patients below which the curve counts as flat.
FLAT = 0.02


def learning_curve(
    features: np.ndarray, y: np.ndarray, groups: np.ndarray, repeats: int = 20, seed: int = 0
) -> pd.DataFrame:
    """`share`, `patients`, `repeat`, `macro_f1` of logistic regression on shares of the patients.

    features: (N, D) of training and validation images, never of the test set. groups: (N,), of a
    patient or of copies. In each repeat a fifth of the groups is held out; the shares of the others
    are nested, so they can be compared within a repeat.
    """
    rows, class_count = [], int(y.max()) + 1
    for repeat in range(repeats):
        held_out = assign_folds(y, groups, 5, seed + repeat) == 0
        order = np.random.default_rng([seed, repeat]).permutation(np.unique(groups[~held_out]))
        for share in SHARES:
            known = order[: round(share * len(order))]
            train = np.isin(groups, known)
            p = logistic_regression(features[train], y[train], features[held_out], class_count)
            score = f1_score(y[held_out], p.argmax(1), average="macro", zero_division=0)
            rows.append((share, len(known), repeat, score))
    return pd.DataFrame(rows, columns=["share", "patients", "repeat", "macro_f1"])


def learning_sentence(curve: pd.DataFrame, accuracy: dict, test_groups: int) -> str:
    """Whether the curve has flattened, and how many test patients an interval of ±5 points needs.

    accuracy: {"value", "low", "high"} on `test_groups` patients; its width falls with their root.
    """
    by_repeat = curve.pivot(index="repeat", columns="share", values="macro_f1")
    gain = by_repeat[1.0] - by_repeat[0.6]
    low, high = gain.quantile([0.025, 0.975])
    verdict = "whether more patients would help is not clear"
    if low > 0:
        verdict = "the curve is still rising, so more patients would help"
    elif gain.mean() < FLAT:
        verdict = "the curve has flattened, so more patients of this kind would help little"
    needed = test_groups * ((accuracy["high"] - accuracy["low"]) / 2 / 0.05) ** 2
    return (
        f"From 60% to all of the {curve['patients'].max()} patients the macro-F1 changes by "
        f"{gain.mean():+.2f} ({low:+.2f} to {high:+.2f} in 95% of the repeats): {verdict}. An "
        f"accuracy known to within 5 points needs about {needed:.0f} test patients; this test set "
        f"has {test_groups}."
    )
