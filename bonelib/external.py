"""Does the model hold on images of another source? Its results there beside its own."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd

from bonelib.audit.audit import audit
from bonelib.audit.copies import cluster_numbers
from bonelib.config import Config
from bonelib.data.cache import cached_images
from bonelib.data.catalog import load_catalog, usable
from bonelib.evaluation import predict
from bonelib.evaluation.bootstrap import difference, intervals
from bonelib.evaluation.evaluate import describe_calibration
from bonelib.evaluation.findings import format_interval
from bonelib.messages import Finding
from bonelib.pipeline import Audited
from bonelib.prediction.answers import load_models, rejected_by_all
from bonelib.split import label_indices
from bonelib.storage import read_json, write_json
from bonelib.training.device import device, precision


def evaluate_external(cfg: Config, data: Audited, folds, predictions) -> dict:
    """The models on the labelled images of `cfg.external`: the block `external` of metrics.json.

    data, folds, predictions: of the run, whose other results stay unchanged. Images that
    are copies of training or validation images are set aside: `copies`. With `images`, `rejected`
    (unlike the training images), `test` and `external_minus_internal` with intervals,
    `calibration` (by the run's temperature) and `findings`.
    """
    # calibrated since `predictions` were made
    models = load_models(cfg.root)
    theirs = replace(cfg, data=cfg.external, metadata="", given_split="ignore")
    catalog = load_catalog(replace(theirs, class_names=folds[0].class_names))
    rows, copies = _without_copies(catalog.thumbnails, audit(catalog, theirs)[0], data, folds)
    block: dict = {"data": cfg.external, "copies": copies, "images": len(rows)}
    if len(rows):
        images, _ = cached_images(catalog.root, list(rows["path"]), cfg.image_size, cfg.cache)
        block |= _results(cfg, images, rows, models, predictions)
    block["findings"] = [asdict(finding) for finding in _findings(block)]
    path = cfg.root / "metrics.json"
    write_json(path, read_json(path) | {"external": block})
    return block


def _without_copies(thumbnails, table, data: Audited, folds) -> tuple[pd.DataFrame, list[str]]:
    """The usable external rows that are no copies of images the models know, and those that are."""
    known = pd.concat([fold.splits.iloc[fold.rows("train", "val")] for fold in folds])
    is_ours = data.readable["path"].isin(known["path"]).to_numpy()
    theirs = table[table["status"] == "ok"]
    files = pd.concat([data.readable[is_ours], theirs], ignore_index=True)
    numbers = cluster_numbers(np.concatenate([data.thumbnails[is_ours], thumbnails]), files)
    is_copy = np.isin(numbers[is_ours.sum() :], numbers[: is_ours.sum()])
    rows = theirs[usable(theirs) & ~is_copy].reset_index(drop=True)
    return rows, theirs["path"][is_copy].tolist()


def _results(cfg: Config, images, rows: pd.DataFrame, models, predictions) -> dict:
    names = models[0].class_names
    options = {"batch_size": 2 * cfg.batch_size, "precision": precision(cfg, device())}
    scores = [predict.logits(model.net, images, **options) for model in models]
    plain = np.mean([predict.softmax_mean(score) for score in scores], axis=0)
    pairs = zip(scores, models, strict=True)
    calibrated = np.mean([predict.calibrated_probabilities(s, m.meta) for s, m in pairs], axis=0)
    y, groups = label_indices(rows["label"], names), rows["group"].to_numpy()
    internal = predict.to_arrays(predict.select_rows(predictions, "plain", "test"), names)
    options = {"class_names": names, "resamples": cfg.resamples, "seed": cfg.seed}
    apart = {**options, "paired": False}
    return {
        "rejected": sum(map(bool, rejected_by_all(models, images))),
        "test": intervals(y, plain, groups, **options),
        "external_minus_internal": difference((y, plain, groups), internal, **apart),
        "calibration": describe_calibration((y, calibrated, groups), names),
    }


def _findings(block: dict) -> list[Finding]:
    copies, images = block["copies"], block["images"]
    text = f"External test: {len(copies):,} images are copies of training or validation images and "
    example = f" (e.g. {copies[0]!r})" if copies else ""
    found = [Finding("warning" if copies else "note", f"{text}were set aside{example}.")]
    if not images:
        return [*found, Finding("alarm", "External test: no image is left to test on.")]
    auroc, change = block["test"]["auroc"], block["external_minus_internal"]["auroc"]
    text = f"External test on {images:,} images, {block['rejected']:,} of them unlike the training "
    text += f"images: AUROC {format_interval(auroc)}; the difference to the test set of the run is "
    is_worse = change["high"] is not None and change["high"] < 0
    text += f"{format_interval(change, signed=True)}."
    return [*found, Finding("warning" if is_worse else "note", text)]
