"""Images to probabilities: plain, or averaged over the test-time views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bonelib import augment, loader, model
from bonelib.config import CLASSES, Config


def logits(
    net: torch.nn.Module,
    pixels: NDArray[Any],
    rows: NDArray[np.int64],
    views: Sequence[str] = ("identity",),
    batch_size: int = 32,
    kind: str = "no",
) -> NDArray[np.float32]:
    """(V, N, 3) float32: the logits of each row's picture in each view, all views of a batch in one pass on the device."""
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
    return (exp / exp.sum(-1, keepdims=True)).mean(0)


def held_out(net: torch.nn.Module, splits: pd.DataFrame, pixels: NDArray[Any], cfg: Config) -> pd.DataFrame:
    """predictions.csv of a trained model: its val and test rows, plain and averaged over the views `cfg.tta`."""
    rows = np.flatnonzero(splits["split"] != "train")
    kind = model.precision(cfg, model.device())
    parts = [
        table(splits.iloc[rows], probabilities(logits(net, pixels, rows, views, cfg.batch_size, kind)), name)
        for name, views in (("plain", ("identity",)), ("tta", cfg.tta))
    ]
    return pd.concat(parts, ignore_index=True)


def table(rows: pd.DataFrame, probs: NDArray[np.float64], tta: str) -> pd.DataFrame:
    """Rows of predictions.csv: `path, label, group, split, tta, p_normal, p_osteopenia, p_osteoporosis`."""
    names = [f"p_{c.lower()}" for c in CLASSES]
    out = rows[["path", "label", "group", "split"]].reset_index(drop=True).assign(tta=tta)
    return pd.concat([out, pd.DataFrame(probs, columns=names)], axis=1)
