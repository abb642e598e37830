"""From predictions.csv to metrics.json: the test split's figures, what they are compared with, and what they allow."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bonelib import artifact, calibrate, metrics, verdict
from bonelib.calibrate import Priors
from bonelib.config import CLASSES
from bonelib.metrics import Floats, Ints

STEPS = {"correct": 0, "one class too healthy": -1, "one class too ill": 1, "Osteoporosis called Normal": -2,
         "Normal called Osteoporosis": 2}  # fmt: skip
SHOWN = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "quadratic_kappa", "expected_cost")


def _part(predictions: pd.DataFrame, tta: str, part: str) -> pd.DataFrame:
    """Rows of one kind of prediction and one split, in the order of their paths and, if repeated, seeds."""
    rows = _ordered(predictions[(predictions["tta"] == tta) & (predictions["split"] == part)])
    twice = rows.duplicated(_key(rows)).sum()
    if twice:
        raise ValueError(f"predictions hold {twice} paths twice for {tta}, {part}: expected one row each")
    return rows


def _key(rows: pd.DataFrame) -> list[str]:
    return ["path", "seed"] if "seed" in rows else ["path"]


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values(_key(rows), ignore_index=True)


def _y(rows: pd.DataFrame) -> Ints:
    y: Ints = rows["label"].map(CLASSES.index).to_numpy(np.int64)
    return y


def _probs(rows: pd.DataFrame) -> Floats:
    probs: Floats = rows[metrics.PROBS].to_numpy(float)
    return probs


def _stage(test: pd.DataFrame, probs: Floats) -> dict[str, Any]:
    """How far the probabilities of the test rows may be taken as stated."""
    y, held = _y(test), metrics.figures(_y(test), probs)
    return {
        "ece": held["ece"],
        "ece_floor": calibrate.ece_floor(probs),
        "classwise_ece": dict(zip(CLASSES, calibrate.classwise_ece(y, probs), strict=True)),
        "log_loss": held["log_loss"],
        "brier": calibrate.brier_parts(y, probs),
        "reliability": calibrate.reliability(probs.max(1), probs.argmax(1) == y, test["group"]),
    }


def _calibration(val: pd.DataFrame, test: pd.DataFrame, priors: Priors | None) -> tuple[dict[str, Any], Floats, Floats]:
    """Figures before and after undoing the training prior and fitting a temperature; both splits' new probs."""
    temperature = calibrate.fit_temperature(calibrate.calibrated(_probs(val), 1.0, priors), _y(val))
    after_val, after = (calibrate.calibrated(_probs(rows), temperature, priors) for rows in (val, test))
    block: dict[str, Any] = {"temperature": temperature, "fitted_on": len(val)}
    block |= {"before": _stage(test, _probs(test)), "after": _stage(test, after)}
    if priors is not None:
        drawn, held = (np.asarray(p, float).tolist() for p in priors)
        block["priors"] = {"learnt_with": drawn, "of_the_data": held}
    return block, after_val, after


def learnt(predictions: pd.DataFrame, priors: Priors | None, target: float) -> dict[str, float | None]:
    """What prediction takes from validation, as `evaluate` fits it: `temperature`, `threshold` (None: none will do)."""
    val = _part(predictions, "plain", "val")
    block, probs, _ = _calibration(val, val, priors)
    return {
        "temperature": block["temperature"],
        "threshold": calibrate.choose_threshold(_y(val), probs, target),
    }


def _selective(
    val: pd.DataFrame, test: pd.DataFrame, probs_val: Floats, probs: Floats, target: float
) -> dict[str, Any]:
    """Thresholds chosen on val, for all calls and for the calls of each class (whose accuracy is the predictive value)."""

    def chosen(of_val: NDArray[np.bool_], of_test: NDArray[np.bool_]) -> dict[str, Any]:
        threshold = calibrate.choose_threshold(_y(val)[of_val], probs_val[of_val], target) if of_val.any() else None
        if threshold is None:
            return {"threshold": None}
        kept = of_test & (probs.max(1) >= threshold)
        out = {"threshold": threshold, "answered": int(kept.sum()), "coverage": float(kept.mean())}
        if kept.any():
            held = metrics.intervals(_y(test)[kept], probs[kept], test["group"][kept], resamples=300)
            out["accuracy"] = held["accuracy"]
        return out

    block: dict[str, Any] = {"target_accuracy": target, "curve": calibrate.coverage_risk(_y(test), probs)}
    block |= chosen(np.ones(len(val), bool), np.ones(len(test), bool))
    calls = {name: (probs_val.argmax(1) == c, probs.argmax(1) == c) for c, name in enumerate(CLASSES)}
    return block | {"per_class": {name: chosen(*of) for name, of in calls.items()}}


def _subgroups(test: pd.DataFrame, table: pd.DataFrame, smallest: int, options: dict[str, Any]) -> dict[str, Any]:
    """Figures by each metadata column: categories, or thirds of a number, that hold at least `smallest` groups."""
    out = {}
    known = test[["path"]].merge(table.drop_duplicates("path"), on="path", how="left")
    for column in known.columns.drop("path"):
        values = known[column]
        if pd.api.types.is_numeric_dtype(values) and values.nunique() > 5:
            cut = pd.qcut(values, 3, duplicates="drop", precision=0)
            values = cut.map(lambda i: f"{i.left:g} to {i.right:g}" if pd.notna(i) else i).astype(object)
        names = values.astype(object).where(values.notna(), "not known").astype(str).to_numpy()
        blocks = {}
        for name, rows in test.groupby(names):
            if (count := int(rows["group"].nunique())) >= smallest:
                held = metrics.intervals(_y(rows), _probs(rows), rows["group"], **options)
                blocks[name] = {"images": len(rows), "groups": count} | {k: held[k] for k in SHOWN}
        if len(blocks) > 1:
            out[column] = blocks
    return out


def _spread(rows: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """How far figures vary between the models of a cross-validation: mean, and deviation over folds and over seeds."""
    blocks = {k: metrics.figures(_y(t), _probs(t)) for k, t in rows.groupby(["seed", "fold"])}
    table = pd.DataFrame({k: {f: block[f] for f in SHOWN} for k, block in blocks.items()}).T.astype(float)
    seeds = table.groupby(level=0).mean()
    return {
        f: {
            "mean": float(table[f].mean()),
            "over_folds": float(table[f].groupby(level=0).std().mean()),
            "over_seeds": float(seeds[f].std()) if len(seeds) > 1 else None,
        }
        for f in SHOWN
    }


def _compared(out: dict[str, Any], test: pd.DataFrame, baselines: pd.DataFrame, options: dict[str, Any]) -> None:
    """Put each baseline's figures, and the model's differences to them, into `out`."""
    for name, rows in baselines.groupby("baseline", sort=False):
        rows = _ordered(rows)
        if not rows[_key(rows)].equals(test[_key(rows)]):
            raise ValueError(f"the baseline {name} and the model were not asked about the same test images")
        y, other, groups = _y(test), _probs(rows), test["group"]
        out["baselines"][name] = metrics.intervals(y, other, groups, **options)
        out["differences"][f"model_minus_{name}"] = metrics.paired(y, _probs(test), other, groups, **options)


def evaluate(
    predictions: pd.DataFrame, baselines: pd.DataFrame | None = None, metadata: pd.DataFrame | None = None, *,
    cost: ArrayLike | None = None, prevalence: ArrayLike | None = None, priors: Priors | None = None,
    target: float = 0.9, smallest: int = 10, resamples: int = 1000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """metrics.json's content. Test rows give the figures; val rows fit the temperature and the threshold.

    predictions: path, label, group, split, tta, p_normal, p_osteopenia, p_osteoporosis. baselines: from
    `baselines.predict`. metadata: path and the columns to take subgroups by. cost: (3, 3), rows truth, columns call,
    default the distance in classes. prevalence: three shares at the clinic. priors: (what training drew, what the
    data holds), undone if given. smallest: groups that a subgroup needs.
    """
    options: dict[str, Any] = {"cost": cost, "resamples": resamples, "seed": seed}
    kinds = [k for k in ("plain", "tta") if (predictions["tta"] == k).any()]
    tests = {k: _part(predictions, k, "test") for k in kinds}
    first = tests[kinds[0]]
    y, groups = _y(first), first["group"]
    matrices = {k: metrics.confusion(y, _probs(t)) for k, t in tests.items()}
    out: dict[str, Any] = {
        "model": kinds[0],
        "counts": {
            "images": int(first["path"].nunique()),
            "groups": int(groups.nunique()),
            "images_per_class": {c: int((y == i).sum()) for i, c in enumerate(CLASSES)},
            "groups_per_class": {c: int(groups[y == i].nunique()) for i, c in enumerate(CLASSES)},
        },
        "test": {k: metrics.intervals(y, _probs(t), groups, **options) for k, t in tests.items()},
        "confusion": {k: m.tolist() for k, m in matrices.items()},
        "ordinal": {k: {name: int(m.trace(step)) for name, step in STEPS.items()} for k, m in matrices.items()},
        "baselines": {}, "differences": {}, "calibration": {}, "selective": {}, "subgroups": {},
    }  # fmt: skip
    if len(kinds) == 2:
        tta, plain = _probs(tests["tta"]), _probs(tests["plain"])
        out["differences"]["tta_minus_plain"] = metrics.paired(y, tta, plain, groups, **options)
    if baselines is not None:
        _compared(out, first, baselines, options)
    for kind, test in tests.items():
        val = _part(predictions, kind, "val")
        out["calibration"][kind], after_val, after = _calibration(val, test, priors)
        out["selective"][kind] = _selective(val, test, after_val, after, target)
    if "fold" in first:
        out["spread"] = {kind: _spread(t) for kind, t in tests.items()}
    if prevalence is not None:
        shares = np.asarray(prevalence, float) / np.sum(prevalence)
        held = metrics.intervals(y, _probs(first), groups, prevalence=shares, **options)
        out["at_prevalence"] = {"prevalence": dict(zip(CLASSES, shares.tolist(), strict=True)), **held}
    if metadata is not None:
        out["subgroups"] = _subgroups(first, metadata, smallest, options)
    return out | {"verdict": verdict.performance(out)}


def count_read(predictions: pd.DataFrame, model: str, ledger: Path) -> int:
    """How many different models have read this test split: kept in `ledger` (JSON) by a hash of paths and labels."""
    test = predictions.loc[predictions["split"] == "test", ["path", "label"]].drop_duplicates().sort_values("path")
    key = hashlib.sha256(test.to_csv(index=False).encode()).hexdigest()[:16]
    book = json.loads(ledger.read_text()) if ledger.exists() else {}
    book[key] = sorted({*book.get(key, []), model})
    artifact.write(ledger, json.dumps(book, indent=2))
    return len(book[key])


def failures(predictions: pd.DataFrame, count: int = 9) -> dict[str, pd.DataFrame]:
    """Rows of the test split worth a look: the most confident errors, the least sure, those that TTA changes most."""
    rows = _part(predictions, "plain", "test")
    probs = _probs(rows)
    rows = rows.assign(called=[CLASSES[c] for c in probs.argmax(1)], confidence=probs.max(1))
    wrong = rows[rows["called"] != rows["label"]]
    out = {
        "most confident errors": wrong.sort_values("confidence", ascending=False).head(count),
        "least sure": rows.sort_values("confidence").head(count),
    }
    if (predictions["tta"] == "tta").any():
        moved = np.abs(probs - _probs(_part(predictions, "tta", "test"))).sum(1) / 2
        out["most changed by test-time views"] = rows.assign(moved=moved).nlargest(count, "moved")
    return out
