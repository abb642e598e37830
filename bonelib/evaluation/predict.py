"""Images to probabilities, plain or averaged over the test-time views."""

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax

from bonelib import augment
from bonelib.evaluation.calibration import calibrate
from bonelib.messages import DataError
from bonelib.split import Fold, label_indices
from bonelib.storage import progress
from bonelib.training import device

# Labels (N,), probabilities (N, K) and groups (N,).
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def probability_columns(class_names: tuple) -> list[str]:
    """The names of the probability columns of a table: "p_normal" for the class "Normal"."""
    return ["p_" + name.lower() for name in class_names]


@torch.inference_mode()
def logits(
    net, images, rows=None, views=("identity",), batch_size=32, precision="no"
) -> np.ndarray:
    """(V, N, K): the logits of each row's image in each view; the views of a batch go in one pass.

    net: a module such as `Net`. images: (M, S, S) uint8. rows: (N,) positions in `images`, at least
    one; None: all. views: names. batch_size: images times views in one pass. precision: as
    `device.precision` returns it.
    """
    net.eval()
    on_device = next(net.parameters()).device
    rows = np.arange(len(images)) if rows is None else np.asarray(rows)
    results = []
    size = max(1, batch_size // len(views))
    for start in progress(range(0, len(rows), size), "predict"):
        batch = torch.from_numpy(images[rows[start : start + size]])[:, None]  # (B, 1, S, S)
        viewed = augment.views(batch.to(on_device), views)  # (V, B, 1, S, S)
        with device.autocast(precision, on_device):
            flat = net(viewed.flatten(0, 1))  # (V * B, K)
        results.append(flat.float().cpu().unflatten(0, (len(views), -1)))
    return np.asarray(torch.cat(results, 1).numpy())


def softmax_mean(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, K): the softmax of logits (V, N, K), averaged over the views."""
    return np.asarray(softmax(logits.astype(np.float64), axis=-1).mean(0))


def prediction_table(fold: Fold, rows, column: str, probabilities: dict) -> pd.DataFrame:
    """path, label, group and split of the rows, once per name in `column`, then p_<class>.

    probabilities: (N, K) by name.
    """
    known = fold.splits.iloc[rows][["path", "label", "group", "split"]].reset_index(drop=True)
    columns, tables = probability_columns(fold.class_names), []
    for name, values in probabilities.items():
        named = known.assign(**{column: name})
        tables.append(named.join(pd.DataFrame(values, columns=columns)))
    return pd.concat(tables, ignore_index=True)


def predict_splits(model, fold, splits=("val", "test"), kinds=("plain", "tta")) -> pd.DataFrame:
    """predictions.csv of a trained model: path, label, group, split, tta, then p_<class>.

    model: a TrainedModel. fold: the Fold that it was trained on. kinds: "plain", and "tta" for the
    mean over the views `tta` of the settings.
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
