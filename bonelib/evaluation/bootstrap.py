"""95% confidence intervals: whole patient groups are resampled, as rows of weights."""

import numpy as np
from scipy.special import expit, logit, ndtr, stdtrit

from bonelib.evaluation.calibration import wilson_interval
from bonelib.evaluation.metrics import check_inputs, map_leaves, number_or_none, weighted_scores

LOSSES = ("brier", "log_loss", "ece")
# Metrics that weigh images equally; the others weigh classes equally.
IMAGE_WEIGHTED = ("accuracy", "weighted_f1", "quadratic_kappa", *LOSSES)
# Resamples in which a metric must be defined to get an interval.
MIN_RESAMPLES = 20


def _resample(groups: np.ndarray, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Weights (1 + R, N) of the images: 1 in the data itself, then those of each resample.

    A resample draws whole groups with replacement and weighs an image by how often its group came.
    """
    index = np.unique(groups, return_inverse=True)[1]
    count, rng = index.max() + 1, np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), resamples)  # (R, groups)
    return np.vstack([np.ones(len(index)), drawn[:, index]])


def _ends(name: str, value: float, draws: np.ndarray, groups: float) -> tuple[float, float]:
    """The interval of a metric, or of a "difference", that rests on so many groups.

    Losses and differences: percentiles, expanded for few groups (Hesterberg 2015, doi
    10.1080/00031305.2015.1089789). Rates of a class: Wilson's interval. Other bounded metrics: a t
    interval on the logit scale, which keeps its coverage near the ends.
    """
    quantile, expansion = stdtrit(groups - 1, 0.025), np.sqrt(groups / (groups - 1))
    if name in (*LOSSES, "difference"):
        tail = ndtr(expansion * quantile)
        low, high = np.quantile(draws, [tail, 1 - tail])
        # Resampling adds to the ECE what sampling has added already: reflect (basic bootstrap).
        if name == "ece":
            return max(0.0, 2 * value - high), max(0.0, 2 * value - low)
        return low, high
    start, length = (-1, 2) if name == "quadratic_kappa" else (0, 1)
    share = (value - start) / length
    # At an end of the scale no resample differs: use the interval of a proportion.
    if min(share, 1 - share) < 1e-9:
        low, high = wilson_interval(share, groups)
    elif name in ("sensitivity", "specificity", "ppv", "npv"):
        # as many independent cases as have this variance
        low, high = wilson_interval(share, share * (1 - share) / max(draws.var(), 1e-9))
    else:
        margin = -quantile * draws.std() * expansion / length / (share * (1 - share))
        low, high = expit(logit(share) - margin), expit(logit(share) + margin)
    return start + length * low, start + length * high


def _leaf(name: str, scores: np.ndarray, groups: float) -> dict:
    """{"value", "low", "high"} of a metric of the data and of each resample, (1 + R,).

    None where not defined, or known from too few groups or resamples.
    """
    value, draws = scores[0], scores[1:][np.isfinite(scores[1:])]
    enough = groups >= 2 and len(draws) >= MIN_RESAMPLES
    low, high = _ends(name, value, draws, groups) if enough else (np.nan, np.nan)
    numbers = map(number_or_none, (value, low, high))
    return dict(zip(("value", "low", "high"), numbers, strict=True))


def effective_groups(y: np.ndarray, groups: np.ndarray) -> float:
    """How many groups a metric that weighs classes equally rests on.

    Welch-Satterthwaite degrees of freedom plus one, at most the number of groups.
    """
    labels, names = np.asarray(y), np.asarray(groups).astype(str)
    counts = np.array([len(set(names[labels == label])) for label in set(labels.tolist())])
    variances = (1 / (counts**2 * np.maximum(counts - 1, 0.5))).sum()
    freedom = float((1 / counts).sum() ** 2 / variances)
    return min(len(set(names)), 1 + max(1.0, freedom))


def intervals(
    y, probabilities, groups, class_names, resamples=1000, seed=0, prevalence=None
) -> dict:
    """Every metric as {"value", "low", "high"}, 95%; binary read-outs are under "binary".

    y: (N,) in 0..K-1. probabilities: (N, K). groups: (N,) patients. prevalence: (K,) class shares
    that the images are weighted to, if given.
    """
    labels, checked = check_inputs(y, probabilities)
    names, predicted = np.asarray(groups).astype(str), checked.argmax(1)
    total, balanced = len(set(names)), effective_groups(labels, names)
    weights = _resample(names, resamples, seed)
    if prevalence is not None:
        present = weights @ np.eye(len(prevalence))[labels]  # (1 + R, K)
        weights = weights * (prevalence / np.maximum(present, 1))[:, labels]

    def leaf(path: tuple, scores: np.ndarray) -> dict:
        count = total if path[0] in IMAGE_WEIGHTED else balanced
        if path[-1] in class_names:
            number = list(class_names).index(path[-1])
            true, called = labels == number, predicted == number
            behind = {"specificity": ~true, "ppv": called, "npv": ~called}.get(path[0], true)
            count = len(set(names[behind]))
        return _leaf(path[0], scores, count)

    return map_leaves(leaf, weighted_scores(labels, checked, weights, class_names))


def difference(first, second, class_names, resamples=1000, seed=0, paired=True) -> dict:
    """Every metric of `first` minus that of `second` as {"value", "low", "high"}, 95%.

    first, second: labels (N,), probabilities (N, K) and groups (N,). paired: of the same images,
    resampled together; if not, of two sets of patients, resampled independently.
    """
    scores, counts = [], []
    for number, (y, probabilities, groups) in enumerate((first, second)):
        labels, checked = check_inputs(y, probabilities)
        names = np.asarray(groups).astype(str)
        weights = _resample(names, resamples, seed if paired else seed + number)
        scores.append(weighted_scores(labels, checked, weights, class_names))
        counts.append(len(set(names)) if paired else effective_groups(labels, names))
    return map_leaves(lambda _, a, b: _leaf("difference", a - b, min(counts)), *scores)
