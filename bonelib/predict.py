"""Images to probabilities, plain or averaged over the test-time views; and new pictures to answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bonelib import augment, calibrate, inputs, loader, model
from bonelib.config import CLASSES, Config
from bonelib.metrics import PROBS as PROBS

KINDS = ("plain", "tta")
REFER, UNSURE = "refer", "unsure"  # the call that leaves a picture to a person, and how its commonest reason begins
Model = tuple[model.Net, dict[str, Any]]  # on the device, and its config.json


def logits(
    net: torch.nn.Module,
    pixels: NDArray[Any],
    rows: NDArray[np.int64],
    views: Sequence[str] = ("identity",),
    batch_size: int = 32,
    kind: str = "no",
) -> NDArray[np.float32]:
    """(V, N, 3) float32: the logits of each row's picture in each view; all views of a batch in one pass."""
    on = next(net.parameters()).device
    at_once = max(1, batch_size // len(views))
    batches = (
        augment.views(pictures.to(on, non_blocking=True), views).flatten(0, 1)
        for pictures in loader.plain(pixels, rows, at_once)
    )
    out = model.logits(net, batches, kind, on)  # for each batch its views in turn
    sizes = [min(at_once, len(rows) - i) for i in range(0, len(rows), at_once)]
    parts = np.split(out, np.cumsum([s * len(views) for s in sizes])[:-1])
    return np.concatenate([p.reshape(len(views), -1, len(CLASSES)) for p in parts], axis=1)


def probabilities(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    """(N, 3), rows sum to 1: softmax of (V, N, 3) logits, averaged over the views."""
    scaled = logits.astype(np.float64) / temperature
    exp = np.exp(scaled - scaled.max(-1, keepdims=True))
    return np.asarray((exp / exp.sum(-1, keepdims=True)).mean(0))


def held_out(
    net: torch.nn.Module,
    splits: pd.DataFrame,
    pixels: NDArray[Any],
    cfg: Config,
    parts: Sequence[str] = ("val", "test"),
    kinds: Sequence[str] = KINDS,
) -> pd.DataFrame:
    """predictions.csv of a trained model: its val and test rows, plain and averaged over the views `cfg.tta`."""
    rows = np.flatnonzero(splits["split"].isin(parts))
    kind = model.precision(cfg, model.device())
    views = {"plain": ("identity",), "tta": cfg.tta}
    at_once = 2 * cfg.batch_size  # without gradients there is room for them
    found = [
        table(splits.iloc[rows], probabilities(logits(net, pixels, rows, views[k], at_once, kind)), k) for k in kinds
    ]
    return pd.concat(found, ignore_index=True)


def table(rows: pd.DataFrame, probs: NDArray[np.float64], tta: str) -> pd.DataFrame:
    """Rows of predictions.csv: `path, label, group, split, tta, p_normal, p_osteopenia, p_osteoporosis`."""
    out = rows[["path", "label", "group", "split"]].reset_index(drop=True).assign(tta=tta)
    return pd.concat([out, pd.DataFrame(probs, columns=PROBS)], axis=1)


def folders(run: Path) -> list[Path]:
    """Where a run keeps its trained models: one, or those of its folds, which answer together; none before training."""
    folds = sorted(p.parent for p in run.glob("repeat-*-fold-*/model/config.json"))
    return folds or [p.parent for p in run.glob("model/config.json")]


def load(run: Path) -> list[Model]:
    """The run's trained and calibrated models, ready to answer."""
    models = [model.load(folder) for folder in folders(run) or [run / "model"]]
    if not all("threshold" in meta for _, meta in models):
        raise ValueError(f"{run} holds a model whose probabilities were never calibrated: run 04_evaluate on it first")
    return [(net.to(model.device()), meta) for net, meta in models]


def calibrated(logits: NDArray[np.float32], meta: dict[str, Any]) -> NDArray[np.float64]:
    """(N, 3): probabilities as 04_evaluate calibrated them: training's class shares undone, then the temperature."""
    return calibrate.calibrated(probabilities(logits), meta["temperature"], meta["priors"])


def answers(
    models: Sequence[Model],
    pictures: Sequence[tuple[NDArray[np.uint8] | None, str]],
    batch_size: int = 32,
    kind: str = "no",
) -> pd.DataFrame:
    """What the models say, on average, of each of `inputs.read`'s pictures: PROBS, `call` and `reason`.

    `call` is a class or REFER, with the `reason` in words; what cannot be read has no probabilities.
    """
    seen = np.array([i for i, (picture, _) in enumerate(pictures) if picture is not None], int)
    probs = np.full((len(pictures), len(CLASSES)), np.nan)
    reasons = [why for _, why in pictures]
    if len(seen):
        pixels, rows = np.stack([pictures[i][0] for i in seen]), np.arange(len(seen))
        each = [calibrated(logits(net, pixels, rows, batch_size=batch_size, kind=kind), meta) for net, meta in models]
        probs[seen] = np.mean(each, axis=0)
        for i, *unlike in zip(seen, *(inputs.refuse(pixels, meta["inputs"]) for _, meta in models), strict=True):
            refused = (
                unlike[0] if all(unlike) else ""
            )  # folds were trained on different images: one that knows it is enough
            reasons[i] = reasons[i] or refused or _unsure(probs[i].max(), models[0][1]["threshold"])
    calls = [REFER if why else CLASSES[p.argmax()] for why, p in zip(reasons, probs, strict=True)]
    return pd.DataFrame(probs, columns=PROBS).assign(call=calls, reason=reasons)


def _unsure(top: float, threshold: float | None) -> str:
    if threshold is None:
        return f"{UNSURE}: at no confidence was validation as accurate as asked for"
    return "" if top >= threshold else f"{UNSURE}: {top:.3f} is below the threshold of {threshold:.3f}"
