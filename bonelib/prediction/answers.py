"""New images to a predicted class, or to a person: the mean of a run's calibrated models."""

from pathlib import Path

import numpy as np
import pandas as pd

from bonelib.data.quality import rejections
from bonelib.evaluation.predict import calibrated_probabilities, logits, probability_columns
from bonelib.messages import RunError
from bonelib.training.model import TrainedModel, load_model, model_digest, model_folders

# The prediction that leaves an image to a person, and how its most common reason begins.
REFER, UNSURE = "refer", "unsure"


def load_models(run: Path) -> list[TrainedModel]:
    """The run's models, which predict together; RunError without a model, or if not calibrated."""
    models = [load_model(folder) for folder in model_folders(run) or [run / "model"]]
    for model in models:
        if "threshold" not in model.meta:
            raise RunError(f"{model.folder} was never calibrated: run 04_evaluate on {run} first")
    return models


def models_digest(models: list[TrainedModel]) -> str:
    """A hash of the weights of all models of a run."""
    return model_digest(*(model.folder for model in models))


def answer_images(models, images_and_reasons, batch_size=32, precision="no") -> pd.DataFrame:
    """p_<class> for each class, `prediction` (a class name or "refer") and `reason`, row by row.

    models: from `load_models`. images_and_reasons: as `quality.read_for_model` returns them. A row
    without an image has no probabilities; a row with a reason is referred.
    """
    names = models[0].class_names
    reasons = [reason for _, reason in images_and_reasons]
    readable = {i: image for i, (image, _) in enumerate(images_and_reasons) if image is not None}
    probabilities = np.full((len(reasons), len(names)), np.nan)
    if readable:
        rows, images = list(readable), np.stack(list(readable.values()))  # (N,), (N, S, S)
        predicted = []
        for model in models:
            scores = logits(model.net, images, batch_size=batch_size, precision=precision)
            predicted.append(calibrated_probabilities(scores, model.meta))
        probabilities[rows] = np.mean(predicted, axis=0)
        for i, rejection in zip(rows, rejected_by_all(models, images), strict=True):
            doubt = _doubt(probabilities[i].max(), models[0].meta["threshold"])
            reasons[i] = reasons[i] or rejection or doubt
    likely = np.array(names)[probabilities.argmax(1)]
    predictions = np.where(np.array(reasons) == "", likely, REFER)
    table = pd.DataFrame(probabilities, columns=probability_columns(names))
    return table.assign(prediction=predictions, reason=reasons)


def rejected_by_all(models: list[TrainedModel], images: np.ndarray) -> list[str]:
    """For each image the first model's reason to reject it, or "" if one of them accepts it.

    The models of folds were trained on different images: one that knows such images is enough.
    """
    reasons = [rejections(images, model.meta["gauge"]) for model in models]
    return [of_image[0] if all(of_image) else "" for of_image in zip(*reasons, strict=True)]


def _doubt(confidence: float, threshold: float | None) -> str:
    if threshold is None:
        return f"{UNSURE}: no confidence gave the validation accuracy that was asked for"
    below = f"{UNSURE}: {confidence:.3f} is below the threshold of {threshold:.3f}"
    return below if confidence < threshold else ""


def combine_patients(table: pd.DataFrame, patients: pd.Series, models) -> pd.DataFrame:
    """One row per patient: `patient`, `images`, `accepted`, p_<class>, `prediction` and `reason`.

    table: rows of `answer_images`. patients: theirs, empty where unknown. The probabilities are the
    means over the accepted images: those that are not rejected, unsure ones included.
    """
    names, threshold = models[0].class_names, models[0].meta["threshold"]
    columns = probability_columns(names)
    accepted = table["prediction"].isin(names) | table["reason"].str.startswith(UNSURE)
    values = table[columns].apply(pd.to_numeric, errors="coerce").where(accepted)
    values = values.assign(accepted=accepted, images=1, patient=patients)
    grouped = values[patients != ""].groupby("patient")
    result = grouped[["images", "accepted"]].sum().join(grouped[columns].mean()).reset_index()
    confidence = result[columns].max(axis=1)
    reasons = [_doubt(c, threshold) if c == c else "no image was accepted" for c in confidence]
    likely = np.array(names)[result[columns].fillna(0).to_numpy().argmax(1)]
    predictions = np.where(np.array(reasons) == "", likely, REFER)
    return result.assign(prediction=predictions, reason=reasons)
