"""Classification metrics under weights: each row of weights is one resample of the test set."""

from collections.abc import Callable

import numpy as np

from bonelib.evaluation.calibration import bin_membership
from bonelib.messages import DataError


def map_leaves(function: Callable, first: dict, *others: dict) -> dict:
    """`function(path, value, ...)` of each value of nested dictionaries of one structure.

    path: the name of the metric, and of the class if there is one for each.
    """

    def mapped(path: tuple, *values):
        if not isinstance(values[0], dict):
            return function(path, *values)
        return {name: mapped((*path, name), *(v[name] for v in values)) for name in values[0]}

    return dict(mapped((), first, *others))


def check_inputs(y: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) as int64 and probabilities (N, K) as float64; DataError if they are not."""
    labels, checked = np.asarray(y), np.asarray(probabilities, dtype=float)
    if checked.ndim != 2 or len(checked) != len(labels) or not len(labels) or checked.shape[1] < 2:
        expected = f"({len(labels)}, K) with at least one row and two classes"
        raise DataError(f"probabilities has shape {checked.shape}: expected {expected}")
    if (checked < 0).any() or not np.allclose(checked.sum(1), 1, rtol=0, atol=1e-3):
        raise DataError("probabilities: expected finite rows of probabilities that sum to 1")
    if not np.isin(labels, np.arange(checked.shape[1])).all():
        expected = f"class indices 0 to {checked.shape[1] - 1}"
        raise DataError(f"y holds {sorted(set(labels.tolist()))}: expected {expected}")
    return labels.astype(np.int64), checked


def _defined_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the classes with a defined value: (R, K) to (R,); NaN if there are none."""
    return np.asarray(np.nansum(values, -1) / np.isfinite(values).sum(-1))


def _auroc(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve with ties counted half (Mann-Whitney): (R,)."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    ordered, is_positive = weights[:, order], positive[order]
    # The weights at each distinct score, ascending: (R, scores).
    positives = np.add.reduceat(ordered * is_positive, starts, 1)
    negatives = np.add.reduceat(ordered * ~is_positive, starts, 1)
    below = negatives.cumsum(1) - negatives / 2
    return np.asarray((positives * below).sum(1) / (positives.sum(1) * negatives.sum(1)))


def _quadratic_kappa(matrix: np.ndarray) -> np.ndarray:
    """Kappa with quadratic weights of confusion matrices (R, K, K): (R,); NaN below 3 classes."""
    steps = np.arange(matrix.shape[1])
    squares = np.square(np.subtract.outer(steps, steps)) if len(steps) > 2 else np.nan
    products = matrix.sum(2)[:, :, None] * matrix.sum(1)[:, None, :]  # (R, K, K)
    expected = products / matrix.sum((1, 2))[:, None, None]
    return np.asarray(1 - (matrix * squares).sum((1, 2)) / (expected * squares).sum((1, 2)))


# Inputs must have passed `check_inputs`.
@np.errstate(invalid="ignore")
def weighted_scores(y, probabilities, weights, class_names) -> dict:
    """Every metric, NaN if undefined, under each row of `weights` (R, N): (R,), {class: (R,)}."""

    def by_class(values: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(class_names, values.T, strict=True))

    images, classes = probabilities.shape
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    pairs = np.eye(classes**2)[y * classes + predicted]  # (N, K * K)
    matrix = (weights @ pairs).reshape(-1, classes, classes)  # (R, true, predicted)
    total, true_count, predicted_count = matrix.sum((1, 2)), matrix.sum(2), matrix.sum(1)
    hits = matrix.diagonal(axis1=1, axis2=2)  # (R, K)
    # Sums of the other classes: differences to the total would leave rounding errors in place of 0.
    others = 1 - np.eye(classes)
    rejected = np.einsum("rij,ic,jc->rc", matrix, others, others)
    f1 = 2 * hits / (true_count + predicted_count)
    auroc = np.stack([_auroc(probabilities[:, c], y == c, weights) for c in range(classes)], 1)
    gaps = bin_membership(confidence) * (confidence - (predicted == y))[:, None]  # (N, bins)
    return {
        "accuracy": hits.sum(1) / total,
        "balanced_accuracy": _defined_mean(hits / true_count),
        "macro_f1": _defined_mean(f1),
        "weighted_f1": np.nansum(f1 * true_count, 1) / total,
        "auroc": _defined_mean(auroc),
        "quadratic_kappa": _quadratic_kappa(matrix),
        "brier": weights @ np.square(probabilities - np.eye(classes)[y]).sum(1) / total,
        "log_loss": weights @ -np.log(probabilities[np.arange(images), y].clip(1e-15)) / total,
        "ece": np.abs(weights @ gaps).sum(1) / total,
        "sensitivity": by_class(hits / true_count),
        "specificity": by_class(rejected / (true_count @ others)),
        "ppv": by_class(hits / predicted_count),
        "npv": by_class(rejected / (predicted_count @ others)),
        "class_auroc": by_class(auroc),
        "binary": {
            f"{name} or worse: AUROC": _auroc(probabilities[:, cut:].sum(1), y >= cut, weights)
            for cut, name in enumerate(class_names[1:], 1)
        },
    }


def number_or_none(value) -> float | None:
    """A plain float, or None where the metric is not defined."""
    return float(value) if np.isfinite(value) else None


def compute_metrics(y: np.ndarray, probabilities: np.ndarray, class_names: tuple) -> dict:
    """Every metric without interval: floats, per-class ones {class: float}; None if not defined."""
    labels, checked = check_inputs(y, probabilities)
    scores = weighted_scores(labels, checked, np.ones((1, len(labels))), class_names)
    return map_leaves(lambda path, value: number_or_none(value[0]), scores)
