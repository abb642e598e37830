"""Probabilities that mean what they say: temperature, reliability, priors, and when to answer at all. Arrays only."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

Floats = NDArray[np.float64]
Priors = tuple[ArrayLike, ArrayLike]  # class shares that training drew, and those of the data

BINS = 10
FEWEST = 10  # answered validation images from which their accuracy may set a threshold


def bins(p: ArrayLike, count: int = BINS) -> Floats:
    """Membership (N, count) of probabilities in equal-width bins, as 0/1 floats."""
    member: Floats = np.eye(count)[np.minimum((np.asarray(p) * count).astype(int), count - 1)]
    return member


def wilson(p: float, n: float) -> tuple[float, float]:
    """95% score interval of a proportion seen in n independent cases (Wilson 1927)."""
    z2 = 1.959964**2
    half = np.sqrt(z2 * p * (1 - p) / n + z2 * z2 / (4 * n * n))
    return max(0.0, (p + z2 / (2 * n) - half) / (1 + z2 / n)), min(1.0, (p + z2 / (2 * n) + half) / (1 + z2 / n))


def _log(probs: ArrayLike) -> Floats:
    z: Floats = np.log(np.asarray(probs, float).clip(1e-15))
    return z


def apply_temperature(probs: ArrayLike, temperature: float) -> Floats:
    """Probabilities (N, 3) softened (temperature > 1) or sharpened (< 1), as softmax(log p / temperature)."""
    z = _log(probs) / temperature
    z = np.exp(z - z.max(1, keepdims=True))
    softened: Floats = z / z.sum(1, keepdims=True)
    return softened


def fit_temperature(probs: ArrayLike, y: ArrayLike) -> float:
    """The temperature (0.05 to 20) of least log loss on validation rows (arXiv 1706.04599); 1.0 without any."""
    truth = np.asarray(y, int)
    if not len(truth):
        return 1.0

    def loss(log_t: float) -> float:
        return -float(_log(apply_temperature(probs, np.exp(log_t)))[np.arange(len(truth)), truth].mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log([0.05, 20]), method="bounded").x))


def reweight(probs: ArrayLike, old: ArrayLike, new: ArrayLike) -> Floats:
    """Posteriors under new class priors instead of the old ones they were learnt with (Bayes' rule): (N, 3)."""
    shifted = np.asarray(probs, float) * (np.asarray(new, float) / np.asarray(old, float))
    posterior: Floats = shifted / shifted.sum(1, keepdims=True)
    return posterior


def calibrated(probs: ArrayLike, temperature: float, priors: Priors | None = None) -> Floats:
    """Probabilities (N, 3) that may be taken as stated: the class shares of training undone, then the temperature.

    priors: (shares that training drew, shares of the data), undone if given.
    """
    return apply_temperature(probs if priors is None else reweight(probs, *priors), temperature)


def reliability(
    p: ArrayLike, hit: ArrayLike, groups: ArrayLike | None = None, count: int = BINS
) -> list[dict[str, float]]:
    """A row a filled bin: mean probability `p`, share `hit`, `n`, Wilson 95% `low`, `high` at the number of groups."""
    stated, right = np.asarray(p, float), np.asarray(hit, float)
    names = np.arange(len(stated)) if groups is None else np.asarray(groups).astype(str)
    rows = []
    for members in bins(stated, count).T.astype(bool):
        if members.any():
            share = float(right[members].mean())
            low, high = wilson(share, len(set(names[members])))
            row = {"p": float(stated[members].mean()), "hit": share, "n": int(members.sum())}
            rows.append(row | {"low": float(low), "high": float(high)})
    return rows


def ece_floor(probs: ArrayLike, draws: int = 200, seed: int = 0) -> float:
    """The ECE that perfectly calibrated labels would show with these probabilities and so few images, on average."""
    top, rng = np.asarray(probs, float).max(1), np.random.default_rng(seed)
    hits = rng.random((draws, len(top))) < top
    return float(np.abs((top - hits) @ bins(top)).sum(1).mean() / len(top))


def classwise_ece(y: ArrayLike, probs: ArrayLike) -> list[float]:
    """Expected calibration error of each class's probability: three floats."""
    truth, p = np.asarray(y), np.asarray(probs, float)
    return [float(np.abs((p[:, c] - (truth == c)) @ bins(p[:, c])).sum() / len(p)) for c in range(p.shape[1])]


def brier_parts(y: ArrayLike, probs: ArrayLike) -> dict[str, float]:
    """Brier score summed over classes = reliability - resolution + uncertainty + within-bin remainder (Murphy 1973)."""
    p = np.asarray(probs, float)
    hits = np.eye(p.shape[1])[np.asarray(y)]
    parts = np.zeros(3)
    for hit, stated in zip(hits.T, p.T, strict=True):
        member = bins(stated)
        n = member.sum(0)
        share = n / len(p)
        mean_hit, mean_p = (member.T @ v / np.maximum(n, 1) for v in (hit, stated))
        parts += (
            (share * (mean_p - mean_hit) ** 2).sum(),
            (share * (mean_hit - hit.mean()) ** 2).sum(),
            hit.mean() * (1 - hit.mean()),
        )
    brier = float(np.square(p - hits).sum(1).mean())
    named = dict(zip(("reliability", "resolution", "uncertainty"), map(float, parts), strict=True))
    return {"brier": brier} | named | {"remainder": float(brier - parts @ (1, -1, 1))}


def coverage_risk(y: ArrayLike, probs: ArrayLike) -> dict[str, list[float]]:
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


def choose_threshold(y: ArrayLike, probs: ArrayLike, target: float) -> float | None:
    """Lowest confidence on validation from which FEWEST or more are answered at the target accuracy; None if none does."""
    curve = coverage_risk(y, probs)
    steps = zip(curve["threshold"], curve["risk"], curve["coverage"], strict=True)
    reached = [t for t, r, c in steps if 1 - r >= target - 1e-12 and c * len(np.asarray(y)) >= FEWEST - 1e-9]
    return min(reached) if reached else None
