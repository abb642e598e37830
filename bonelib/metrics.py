"""Figures of a classifier with intervals: every resample is a row of weights, so 1000 are a few matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtr, stdtrit

from bonelib import calibrate
from bonelib.config import CLASSES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Values = dict[str, Floats]  # figures by name: scalars (R,), per-class ones (R, 3), of R resamples
Leaf = dict[str, float | None]  # "value", "low", "high"

PROBS = ["p_" + name.lower() for name in CLASSES]
SCALARS = (
    "accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "auroc", "quadratic_kappa",
    "expected_cost", "brier", "log_loss", "ece",
)  # fmt: skip
PER_CLASS = ("sensitivity", "specificity", "ppv", "npv", "class_auroc")
LOSSES = ("expected_cost", "brier", "log_loss", "ece")
WHOLE = ("accuracy", "weighted_f1", "quadratic_kappa", *LOSSES)  # weigh images alike; the other figures, classes
COST = np.abs(np.subtract.outer(np.arange(3), np.arange(3))).astype(float)  # rows truth, columns call: classes apart
FEWEST = 20  # resamples in which a figure is defined, below which it gets no interval
BLOCK = 4_000_000  # weights held at once
BINARY = {"low bone mass vs normal": (1, 2), "osteoporosis vs rest": (2,)}


def _inputs(truth: ArrayLike, called: ArrayLike) -> tuple[Ints, Floats]:
    """Checked copies: y (N,) int 0..2, probs (N, 3) float64, rows sum to 1."""
    y, probs = np.asarray(truth), np.asarray(called, dtype=float)
    if probs.shape != (len(y), len(CLASSES)) or not len(y):
        raise ValueError(f"probs has shape {probs.shape}: expected ({len(y)}, {len(CLASSES)}) with at least one row")
    if not np.isfinite(probs).all() or (probs < 0).any() or np.abs(probs.sum(1) - 1).max() > 1e-3:
        raise ValueError("probs: expected finite rows of probabilities that sum to 1")
    if not np.isin(y, range(len(CLASSES))).all():
        raise ValueError(f"y holds {sorted(set(y.tolist()))}: expected class indices 0 to {len(CLASSES) - 1}")
    return y.astype(np.int64), probs


def _mean(x: Floats) -> Floats:
    """Mean over the last axis of what is defined; NaN where nothing is."""
    mean: Floats = np.nansum(x, -1) / np.isfinite(x).sum(-1)
    return mean


def _ranked(score: Floats, positive: NDArray[np.bool_], w: Floats) -> tuple[Floats, Floats]:
    """Weight of positives and of negatives at each distinct score, ascending: two (R, T)."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    at, pos = w[:, order], positive[order]
    return np.add.reduceat(at * pos, starts, 1), np.add.reduceat(at * ~pos, starts, 1)


def _auroc(score: Floats, positive: NDArray[np.bool_], w: Floats) -> Floats:
    """Area under the ROC curve, ties counted half (Mann-Whitney), one a resample: (R,)."""
    pos, neg = _ranked(score, positive, w)
    below = neg.cumsum(1) - neg / 2
    area: Floats = (pos * below).sum(1) / (pos.sum(1) * neg.sum(1))
    return area


def _sensitivity_at(score: Floats, positive: NDArray[np.bool_], w: Floats, specificity: float) -> Floats:
    """Highest sensitivity among thresholds that keep the given specificity: (R,)."""
    pos, neg = (x[:, ::-1].cumsum(1) for x in _ranked(score, positive, w))
    kept = neg / neg[:, -1:] <= 1 - specificity + 1e-12
    return np.where(neg[:, -1] > 0, (pos * kept).max(1) / pos[:, -1], np.nan)


def _scores(y: Ints, probs: Floats, w: Floats, cost: Floats) -> Values:
    """Every figure under each row of weights w (R, N): (R,) for scalars, (R, 3) for per-class ones."""
    called, top, k = probs.argmax(1), probs.max(1), len(CLASSES)
    matrix = (w @ np.eye(k * k)[y * k + called]).reshape(-1, k, k)  # rows truth, columns call
    total, truth, call = matrix.sum((1, 2)), matrix.sum(2), matrix.sum(1)
    hit = matrix.diagonal(axis1=1, axis2=2)
    rest = total[:, None] - truth - call + hit
    f1 = 2 * hit / (truth + call)
    squares = np.square(np.subtract.outer(np.arange(k), np.arange(k)))
    expected = truth[:, :, None] * call[:, None, :] / total[:, None, None]
    sensitivity = hit / truth
    class_auroc = np.stack([_auroc(probs[:, c], y == c, w) for c in range(k)], 1)
    losses = np.square(probs - np.eye(k)[y]).sum(1), -np.log(probs[np.arange(len(y)), y].clip(1e-15))
    brier, log_loss = (w @ loss / total for loss in losses)
    gap = np.abs(w @ (calibrate.bins(top) * (top - (called == y))[:, None]))  # (R, bins)
    return {
        "accuracy": hit.sum(1) / total, "balanced_accuracy": _mean(sensitivity), "macro_f1": _mean(f1),
        "weighted_f1": np.nansum(f1 * truth, 1) / total, "auroc": _mean(class_auroc),
        "quadratic_kappa": 1 - (matrix * squares).sum((1, 2)) / (expected * squares).sum((1, 2)),
        "expected_cost": (matrix * cost).sum((1, 2)) / total, "brier": brier, "log_loss": log_loss,
        "ece": gap.sum(1) / total, "sensitivity": sensitivity, "specificity": rest / (total[:, None] - truth),
        "ppv": hit / call, "npv": rest / (total[:, None] - call), "class_auroc": class_auroc,
    }  # fmt: skip


def _binary(y: Ints, probs: Floats, w: Floats, specificity: float = 0.9) -> Values:
    """AUROC and sensitivity at fixed specificity of each binary read-out: (R,) each."""
    out = {}
    for name, classes in BINARY.items():
        score, positive = probs[:, classes].sum(1), np.isin(y, classes)
        out[f"{name}: AUROC"] = _auroc(score, positive, w)
        out[f"{name}: sensitivity at {specificity:.0%} specificity"] = _sensitivity_at(score, positive, w, specificity)
    return out


def _weights(
    y: Ints, groups: ArrayLike, resamples: int, seed: int, prevalence: ArrayLike | None = None
) -> Iterator[Floats]:
    """Blocks of resampling weights (r, N): whole groups drawn with replacement, then reweighted to a prevalence."""
    index = np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
    count, rng = index.max() + 1, np.random.default_rng(seed)
    block = max(1, BLOCK // len(index))
    for start in range(0, resamples, block):
        w = rng.multinomial(count, np.full(count, 1 / count), min(block, resamples - start))[:, index]
        yield _shift(w.astype(float), y, prevalence)


def _shift(w: Floats, y: Ints, prevalence: ArrayLike | None) -> Floats:
    """Weights under which the classes present stand in the proportions of `prevalence`."""
    if prevalence is None:
        return w
    present = w @ np.eye(len(CLASSES))[y]
    share = np.asarray(prevalence, float) / np.where(present > 0, present, 1)
    shifted: Floats = w * share[:, y] * w.sum(1, keepdims=True)
    return shifted


def _sampled(
    function: Callable[[Floats], Values], y: Ints, groups: ArrayLike, resamples: int, seed: int,
    prevalence: ArrayLike | None = None,
) -> tuple[Values, Values]:  # fmt: skip
    """A function of weights at the data itself and at every resample: (values, resampled values)."""
    with np.errstate(invalid="ignore"):
        value = function(_shift(np.ones((1, len(y))), y, prevalence))
        blocks = [function(w) for w in _weights(y, groups, resamples, seed, prevalence)]
    return ({k: v[0] for k, v in value.items()}, {k: np.concatenate([b[k] for b in blocks]) for k in value})


def _number(x: Any) -> float | None:
    """A plain float, or None where it is not defined."""
    return float(x) if np.isfinite(x) else None


def _nested(values: Values, leaf: Callable[[str, int | None], Any]) -> dict[str, Any]:
    """{name: leaf} with per-class figures opened into {class: leaf}; leaf gets (name, class index or None)."""
    return {
        name: leaf(name, None) if np.ndim(value) == 0 else {c: leaf(name, i) for i, c in enumerate(CLASSES)}
        for name, value in values.items()
    }


def _percentiles(draws: Floats, count: float) -> tuple[float, float]:
    """95% percentile interval, expanded for few groups (Hesterberg 2015, doi 10.1080/00031305.2015.1089789)."""
    draws = draws[np.isfinite(draws)]
    if count < 2 or len(draws) < FEWEST:
        return np.nan, np.nan
    tail = ndtr(np.sqrt(count / (count - 1)) * stdtrit(count - 1, 0.025))
    return float(np.quantile(draws, tail)), float(np.quantile(draws, 1 - tail))


def _leaf(value: Any, low: Any = np.nan, high: Any = np.nan) -> Leaf:
    """Plain floats, None where not defined."""
    return {"value": _number(value), "low": _number(low), "high": _number(high)}


def _interval(name: str, value: Any, draws: Floats, count: float) -> Leaf:
    """{"value", "low", "high"}: t interval on the logit scale for bounded figures, which keeps its coverage near 1."""
    finite = draws[np.isfinite(draws)]
    if count < 2 or len(finite) < FEWEST:
        return _leaf(value)
    if name in LOSSES:
        low, high = _percentiles(finite, count)
        if name == "ece":  # resampling adds to ECE what sampling added already: reflect (basic bootstrap)
            low, high = max(0.0, 2 * value - high), max(0.0, 2 * value - low)
        if name == "expected_cost" and value == 0:
            high = np.nan  # no error seen: how dear an unseen one would be is unknown
        return _leaf(value, low, high)
    start, length = (-1, 2) if name == "quadratic_kappa" else (0, 1)
    p = (value - start) / length
    if min(p, 1 - p) < 1e-9:  # no resample differs from an end of the scale: as for a proportion
        low, high = calibrate.wilson(p, count)
    else:
        spread = finite.std() * np.sqrt(count / (count - 1)) / length
        margin = -stdtrit(count - 1, 0.025) * spread / (p * (1 - p))
        low, high = expit(logit(p) - margin), expit(logit(p) + margin)
    return _leaf(value, start + length * low, start + length * high)


def _balanced_count(y: Ints, groups: NDArray[np.str_]) -> float:
    """How many groups a figure that weighs classes alike rests on: Welch-Satterthwaite degrees of freedom, and one."""
    n = np.array([len(set(groups[y == c])) for c in set(y)])
    freedom = (1 / n).sum() ** 2 / (1 / (n**2 * np.maximum(n - 1, 0.5))).sum()
    return min(len(set(groups)), 1 + max(1.0, float(freedom)))


def confusion(y: ArrayLike, probs: ArrayLike) -> Ints:
    """Counts (3, 3): rows truth, columns call."""
    truth, p = _inputs(y, probs)
    return np.bincount(truth * 3 + p.argmax(1), minlength=9).reshape(3, 3)


def _cost(cost: ArrayLike | None) -> Floats:
    return COST if cost is None else np.asarray(cost, float)


def figures(
    y: ArrayLike, probs: ArrayLike, cost: ArrayLike | None = None, prevalence: ArrayLike | None = None
) -> dict[str, Any]:
    """Every figure without interval: floats, per-class ones as {class: float}; None where not defined."""
    truth, p = _inputs(y, probs)
    with np.errstate(invalid="ignore"):
        values = _scores(truth, p, _shift(np.ones((1, len(p))), truth, prevalence), _cost(cost))
    values = {name: value[0] for name, value in values.items()}
    return _nested(values, lambda name, i: _number(values[name] if i is None else values[name][i]))


def intervals(
    y: ArrayLike, probs: ArrayLike, groups: ArrayLike, cost: ArrayLike | None = None, resamples: int = 1000,
    seed: int = 0, prevalence: ArrayLike | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Every figure as {"value", "low", "high"}: 95%, groups resampled; binary read-outs under "binary"."""
    truth, p = _inputs(y, probs)
    names, matrix = np.asarray(groups).astype(str), _cost(cost)
    values, draws = _sampled(
        lambda w: _scores(truth, p, w, matrix) | _binary(truth, p, w), truth, names, resamples, seed, prevalence
    )
    count, balanced = len(set(names)), _balanced_count(truth, names)
    called, true = (np.eye(len(CLASSES), dtype=bool)[of] for of in (p.argmax(1), truth))
    behind = {"sensitivity": true, "specificity": ~true, "ppv": called, "npv": ~called, "class_auroc": true}

    def leaf(name: str, i: int | None) -> Leaf:
        if i is None:
            return _interval(name, values[name], draws[name], count if name in WHOLE else balanced)
        return _interval(name, values[name][i], draws[name][:, i], len(set(names[behind[name][:, i]])))

    nested = _nested(values, leaf)
    return {k: v for k, v in nested.items() if ":" not in k} | {"binary": {k: v for k, v in nested.items() if ":" in k}}


def paired(
    y: ArrayLike, probs_a: ArrayLike, probs_b: ArrayLike, groups: ArrayLike, cost: ArrayLike | None = None,
    resamples: int = 1000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Differences a minus b as {"value", "low", "high"}, both seen on the same resamples of groups."""
    (truth, a), (_, b) = _inputs(y, probs_a), _inputs(y, probs_b)
    matrix, count = _cost(cost), len(set(np.asarray(groups).astype(str)))

    def difference(w: Floats) -> Values:
        one, other = _scores(truth, a, w, matrix), _scores(truth, b, w, matrix)
        return {name: one[name] - other[name] for name in one}

    values, draws = _sampled(difference, truth, groups, resamples, seed)

    def leaf(name: str, i: int | None) -> Leaf:
        value, drawn = (values[name], draws[name]) if i is None else (values[name][i], draws[name][:, i])
        return _leaf(value, *_percentiles(drawn, count))

    return _nested(values, leaf)
