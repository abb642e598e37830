"""Calibration: temperature scaling, undoing class shares, reliability, and when to abstain."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax

CALIBRATION_BINS = 10
# Validation images that must be answered before their accuracy may set a threshold.
MIN_ANSWERED = 10


def bin_membership(confidence: np.ndarray) -> np.ndarray:
    """Membership (N, bins) of probabilities in equal-width bins, as 0.0 or 1.0."""
    index = (np.asarray(confidence) * CALIBRATION_BINS).astype(int)
    return np.asarray(np.eye(CALIBRATION_BINS)[np.minimum(index, CALIBRATION_BINS - 1)])


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """95% score interval of a proportion observed in `count` independent cases (Wilson 1927)."""
    z2 = 1.959964**2
    half = np.sqrt(z2 * share * (1 - share) / count + z2 * z2 / (4 * count * count))
    center, scale = share + z2 / (2 * count), 1 + z2 / count
    return max(0.0, float((center - half) / scale)), min(1.0, float((center + half) / scale))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (N, K), softened (temperature > 1) or sharpened (< 1): softmax(log p / T)."""
    logs = np.log(np.asarray(probabilities, float).clip(1e-15))
    return np.asarray(softmax(logs / temperature, axis=1))


def fit_temperature(probabilities: np.ndarray, y: np.ndarray) -> float:
    """The temperature (0.05 to 20) with the lowest log loss on validation rows; 1.0 without rows.

    Guo et al. 2017, arXiv 1706.04599.
    """
    labels = np.asarray(y, int)
    if not len(labels):
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = apply_temperature(probabilities, np.exp(log_temperature))
        return -float(np.log(scaled[np.arange(len(labels)), labels].clip(1e-15)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log([0.05, 20]), method="bounded").x))


def undo_class_shares(
    probabilities: np.ndarray, learnt: np.ndarray, data: np.ndarray
) -> np.ndarray:
    """Posteriors (N, K) under the class shares of the data, by Bayes' rule.

    learnt, data: (K,) class shares that training drew and weighed, and those of the data.
    """
    shifted = np.asarray(probabilities, float) * np.divide(data, learnt)
    return np.asarray(shifted / shifted.sum(1, keepdims=True))


def calibrate(probabilities, temperature, class_shares) -> np.ndarray:
    """Calibrated probabilities (N, K): class shares (2, K) undone, then the temperature."""
    return apply_temperature(undo_class_shares(probabilities, *class_shares), temperature)


def reliability(confidence: np.ndarray, hits: np.ndarray, groups: np.ndarray) -> list[dict]:
    """One row per filled bin: mean probability `p`, share of hits `hit`, images `n`, `low`, `high`.

    `low` and `high` are Wilson's 95% interval at the number of groups in the bin.
    """
    table = pd.DataFrame({"p": confidence, "hit": hits, "group": groups})
    rows = []
    for _, members in table.groupby(bin_membership(confidence).argmax(1)):
        share = float(members["hit"].mean())
        low, high = wilson_interval(share, members["group"].nunique())
        row = {"p": float(members["p"].mean()), "hit": share, "n": len(members)}
        rows.append(row | {"low": low, "high": high})
    return rows


def coverage_risk(y: np.ndarray, probabilities: np.ndarray) -> dict[str, list[float]]:
    """`coverage`, `risk` (share of errors) and `threshold` as less and less confident images count.

    Images of equal confidence are answered together.
    """
    confidence = np.asarray(probabilities).max(1)
    wrong = pd.Series(np.asarray(probabilities).argmax(1) != np.asarray(y))
    by_confidence = wrong.groupby(confidence).agg(["sum", "size"])
    counts = by_confidence.sort_index(ascending=False).cumsum()
    coverage, risk = counts["size"] / len(wrong), counts["sum"] / counts["size"]
    curve = {"coverage": coverage, "risk": risk, "threshold": counts.index}
    return {name: values.tolist() for name, values in curve.items()}


def choose_threshold(y: np.ndarray, probabilities: np.ndarray, target: float) -> float | None:
    """The lowest confidence from which validation images are answered at the target accuracy.

    At least MIN_ANSWERED images must be answered; None if no threshold reaches the target.
    """
    curve = pd.DataFrame(coverage_risk(y, probabilities))
    enough = curve["coverage"] * len(np.asarray(y)) >= MIN_ANSWERED - 1e-9
    reached = curve["threshold"][enough & (1 - curve["risk"] >= target - 1e-12)]
    return float(reached.min()) if len(reached) else None
