"""Probabilities that mean what they say: temperature, reliability, priors, and when to answer at all. Arrays only."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

BINS = 10
FEWEST = 10  # answered validation images from which their accuracy may set a threshold


def bins(p: np.ndarray, count: int = BINS) -> np.ndarray:
    """Membership (N, count) of probabilities in equal-width bins, as 0/1 floats."""
    return np.eye(count)[np.minimum((np.asarray(p) * count).astype(int), count - 1)]


def wilson(p: float, n: float) -> tuple[float, float]:
    """95% score interval of a proportion seen in n independent cases (Wilson 1927)."""
    z2 = 1.959964**2
    half = np.sqrt(z2 * p * (1 - p) / n + z2 * z2 / (4 * n * n))
    return max(0.0, (p + z2 / (2 * n) - half) / (1 + z2 / n)), min(1.0, (p + z2 / (2 * n) + half) / (1 + z2 / n))


def _log(probs) -> np.ndarray:
    return np.log(np.asarray(probs, float).clip(1e-15))


def apply_temperature(probs, temperature: float) -> np.ndarray:
    """Probabilities (N, 3) softened (temperature > 1) or sharpened (< 1), as softmax(log p / temperature)."""
    z = _log(probs) / temperature
    z = np.exp(z - z.max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)


def fit_temperature(probs, y) -> float:
    """The temperature (0.05 to 20) of least log loss on validation rows (arXiv 1706.04599); 1.0 without any."""
    y = np.asarray(y, int)
    if not len(y):
        return 1.0

    def loss(log_t):
        return -_log(apply_temperature(probs, np.exp(log_t)))[np.arange(len(y)), y].mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log([0.05, 20]), method="bounded").x))


def reweight(probs, old, new) -> np.ndarray:
    """Posteriors under new class priors instead of the old ones they were learnt with (Bayes' rule): (N, 3)."""
    shifted = np.asarray(probs, float) * (np.asarray(new, float) / np.asarray(old, float))
    return shifted / shifted.sum(1, keepdims=True)


def calibrated(probs, temperature: float, priors=None) -> np.ndarray:
    """Probabilities (N, 3) that may be taken as stated: the class shares of training undone, then the temperature.

    priors: (shares that training drew, shares of the data), undone if given.
    """
    return apply_temperature(probs if priors is None else reweight(probs, *priors), temperature)


def reliability(p, hit, groups=None, count: int = BINS) -> list[dict]:
    """A row a filled bin: mean probability `p`, share `hit`, `n`, Wilson 95% `low`, `high` at the number of groups."""
    p, hit = np.asarray(p, float), np.asarray(hit, float)
    groups = np.arange(len(p)) if groups is None else np.asarray(groups).astype(str)
    rows = []
    for members in bins(p, count).T.astype(bool):
        if members.any():
            share, n = hit[members].mean(), len(set(groups[members]))
            low, high = wilson(share, n)
            rows.append(
                {
                    "p": float(p[members].mean()),
                    "hit": float(share),
                    "n": int(members.sum()),
                    "low": float(low),
                    "high": float(high),
                }
            )
    return rows


def ece_floor(probs, draws: int = 200, seed: int = 0) -> float:
    """The ECE that perfectly calibrated labels would show with these probabilities and so few images, on average."""
    top, rng = np.asarray(probs, float).max(1), np.random.default_rng(seed)
    hits = rng.random((draws, len(top))) < top
    return float(np.abs((top - hits) @ bins(top)).sum(1).mean() / len(top))


def classwise_ece(y, probs) -> list[float]:
    """Expected calibration error of each class's probability: three floats."""
    y, probs = np.asarray(y), np.asarray(probs, float)
    return [float(np.abs((probs[:, c] - (y == c)) @ bins(probs[:, c])).sum() / len(y)) for c in range(probs.shape[1])]


def brier_parts(y, probs) -> dict[str, float]:
    """Brier score summed over classes = reliability - resolution + uncertainty + within-bin remainder (Murphy 1973)."""
    y, probs = np.asarray(y), np.asarray(probs, float)
    parts = np.zeros(3)
    for c in range(probs.shape[1]):
        hit, member = (y == c).astype(float), bins(probs[:, c])
        n = member.sum(0)
        share = n / len(y)
        mean_hit, mean_p = (member.T @ v / np.maximum(n, 1) for v in (hit, probs[:, c]))
        parts += [
            (share * (mean_p - mean_hit) ** 2).sum(),
            (share * (mean_hit - hit.mean()) ** 2).sum(),
            hit.mean() * (1 - hit.mean()),
        ]
    brier = np.square(probs - np.eye(probs.shape[1])[y]).sum(1).mean()
    return {
        "brier": float(brier),
        "reliability": parts[0],
        "resolution": parts[1],
        "uncertainty": parts[2],
        "remainder": float(brier - parts[0] + parts[1] - parts[2]),
    }


def coverage_risk(y, probs) -> dict[str, list[float]]:
    """Answering the surest images first: `coverage`, `risk` (share wrong of these) and `threshold` at each step."""
    top, wrong = np.asarray(probs).max(1), np.asarray(probs).argmax(1) != np.asarray(y)
    order = np.argsort(-top, kind="stable")
    last = np.flatnonzero(np.diff(top[order], append=-1.0))  # equal confidences are answered together
    answered = last + 1
    return {
        "coverage": (answered / len(top)).tolist(),
        "risk": (wrong[order].cumsum()[last] / answered).tolist(),
        "threshold": top[order][last].tolist(),
    }


def choose_threshold(y, probs, target: float) -> float | None:
    """Lowest confidence on validation from which FEWEST or more are answered at the target accuracy; None if none does."""
    curve = coverage_risk(y, probs)
    steps = zip(curve["threshold"], curve["risk"], curve["coverage"], strict=True)
    reached = [t for t, r, c in steps if 1 - r >= target - 1e-12 and c * len(y) >= FEWEST - 1e-9]
    return min(reached) if reached else None
