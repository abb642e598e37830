"""Images to probabilities, plain or averaged over the test-time views."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax

from bonelib import augment
from bonelib.evaluation.calibration import calibrate
from bonelib.messages import DataError
from bonelib.split import Fold, label_indices
from bonelib.training import device
from bonelib.training.loader import plain_batches
from bonelib.training.model import TrainedModel

# Labels (N,), probabilities (N, K) and groups (N,).
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def probability_columns(class_names: tuple) -> list[str]:
    """The names of the probability columns of a table: "p_normal" for the class "Normal"."""
    return ["p_" + name.lower() for name in class_names]


@torch.inference_mode()
def logits(
    net: torch.nn.Module,
    images: np.ndarray,
    rows: np.ndarray | None = None,
    views: Sequence[str] = ("identity",),
    batch_size: int = 32,
    precision: str = "no",
) -> np.ndarray:
    """(V, N, K): the logits of each row's image in each view; the views of a batch go in one pass.

    images: (M, S, S). rows: (N,) positions in `images`, at least one; None: all. batch_size: images
    times views in one pass.
    """
    net.eval()
    on_device = next(net.parameters()).device
    rows = np.arange(len(images)) if rows is None else np.asarray(rows)
    results = []
    for batch in plain_batches(images, rows, max(1, batch_size // len(views))):
        viewed = augment.views(batch.to(on_device, non_blocking=True), views)  # (V, B, 1, S, S)
        with device.autocast(precision, on_device):
            flat = net(viewed.flatten(0, 1))  # (V * B, K)
        results.append(flat.float().cpu().unflatten(0, (len(views), -1)))
    return np.asarray(torch.cat(results, 1).numpy())


def softmax_mean(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, K): the softmax of logits (V, N, K), averaged over the views."""
    return np.asarray(softmax(logits.astype(np.float64), axis=-1).mean(0))


def prediction_table(
    fold: Fold, rows: np.ndarray, column: str, probabilities: dict[str, np.ndarray]
) -> pd.DataFrame:
    """path, label, group and split of the rows, once per name in `column`, then p_<class>.

    probabilities: (N, K) by name.
    """
    known = fold.splits.iloc[rows][["path", "label", "group", "split"]].reset_index(drop=True)
    columns, tables = probability_columns(fold.class_names), []
    for name, values in probabilities.items():
        named = known.assign(**{column: name})
        tables.append(named.join(pd.DataFrame(values, columns=columns)))
    return pd.concat(tables, ignore_index=True)


def predict_splits(
    model: TrainedModel,
    fold: Fold,
    splits: Sequence[str] = ("val", "test"),
    kinds: Sequence[str] = ("plain", "tta"),
) -> pd.DataFrame:
    """predictions.csv of a trained model: path, label, group, split, tta, then p_<class>.

    kinds: "plain", and "tta" for the mean over the views `tta` of the settings.
    """
    rows, precision = fold.rows(*splits), device.precision(fold.cfg, device.device())
    # Without gradients a batch may be twice as large.
    batch_size, probabilities = 2 * fold.cfg.batch_size, {}
    for kind in kinds:
        views = fold.cfg.tta if kind == "tta" else ("identity",)
        scores = logits(model.net, fold.images, rows, views, batch_size, precision)
        probabilities[kind] = softmax_mean(scores)
    return prediction_table(fold, rows, "tta", probabilities)


def calibrated_probabilities(logits: np.ndarray, meta: dict) -> np.ndarray:
    """Probabilities (N, K) of logits (V, N, K), calibrated as 04_evaluate did.

    meta: the model's config.json, with `temperature` and `class_shares`.
    """
    return calibrate(softmax_mean(logits), meta["temperature"], meta["class_shares"])


def select_rows(predictions: pd.DataFrame, kind: str, split: str) -> pd.DataFrame:
    """Rows of one kind of prediction and one split, in the order of path and, if any, seed."""
    keys = ["path", "seed"] if "seed" in predictions else ["path"]
    chosen = (predictions["tta"] == kind) & (predictions["split"] == split)
    rows = predictions[chosen].sort_values(keys, ignore_index=True)
    twice = rows["path"][rows.duplicated(keys)].tolist()
    if twice:
        raise DataError(f"{twice[0]} is twice in {kind} predictions of {split}: expected once")
    return rows


def to_arrays(rows: pd.DataFrame, class_names: tuple) -> Arrays:
    """Labels (N,), probabilities (N, K) and groups (N,) of rows of predictions.csv."""
    y = label_indices(rows["label"], tuple(class_names))
    return y, rows[probability_columns(class_names)].to_numpy(float), rows["group"].to_numpy()
