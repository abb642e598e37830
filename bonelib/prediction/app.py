"""A page in the browser that predicts one image at a time (Gradio): for teaching."""

import atexit
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np

from bonelib.data.quality import read_for_model
from bonelib.evaluation import gradcam, predict
from bonelib.evaluation.findings import format_interval
from bonelib.messages import RunError
from bonelib.plots.evaluation import COMPARED_METRICS
from bonelib.plots.style import overlay_heat
from bonelib.prediction import answers
from bonelib.report.report import LIMITS, NOTICE, read_run
from bonelib.training.model import TrainedModel


def serve(models: list[TrainedModel], run: Path, share: bool = False, **options):
    """The running page, on this machine only unless `share`; its method `close` ends it.

    An upload is deleted with its answer.
    """
    folder = Path(tempfile.mkdtemp(prefix="bonelib-page-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # read by gradio when it is imported and when components are made
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
    os.environ.update(quiet, GRADIO_TEMP_DIR=str(folder))
    import gradio

    def answer(upload: str) -> tuple:
        try:
            # the last value empties the upload field
            return *answer_file(models, Path(upload)), None
        finally:
            if folder in Path(upload).resolve().parents:
                shutil.rmtree(Path(upload).parent, ignore_errors=True)

    # the shown images are deleted after a minute: the browser has them by then
    with gradio.Blocks(title="bonelib", analytics_enabled=False, delete_cache=(60, 60)) as page:
        gradio.Markdown(f"# Predict one image\n\n{NOTICE}")
        upload = gradio.File(label="A radiograph: PNG, JPEG, TIFF, BMP or DICOM", height=160)
        text = gradio.Markdown()
        label = gradio.Label(label="Calibrated probabilities", show_heading=False)
        shown: dict = {"interactive": False, "format": "png"}
        with gradio.Row():
            image = gradio.Image(label="The image as the model sees it", **shown)
            heat = gradio.Image(label="Evidence for the most likely class", **shown)
        gradio.Markdown(describe_run(run))
        upload.upload(answer, upload, [text, label, image, heat, upload], api_name="answer")
    page.launch(share=share, max_file_size="200mb", enable_monitoring=False, **options)
    return page


def answer_file(models: list[TrainedModel], path: Path) -> tuple:
    """What the page shows of a file: Markdown, probabilities, image (S, S), heat map (S, S, 3).

    Without probabilities if the model was not made for the image: they would mean nothing.
    """
    image, reason = read_for_model(path, models[0].meta["image_size"])
    row = answers.answer_images(models, [(image, reason)]).iloc[0]
    heading = "Refer to a person" if row["prediction"] == answers.REFER else row["prediction"]
    text = f"## {heading}\n\n{_escape(path.name)}: {_escape(row['reason'] or 'sure enough')}"
    if image is None or (row["reason"] and not row["reason"].startswith(answers.UNSURE)):
        return text, None, image, None
    names = models[0].class_names
    shares = row[predict.probability_columns(names)].astype(float).set_axis(names)
    likely = np.array([shares.argmax()])
    try:
        heats = [gradcam.heatmaps(model.net, image[None], likely)[0] for model in models]
    except RunError as error:
        return f"{text}\n\nNo heat map: {_escape(str(error))}", shares.to_dict(), image, None
    return text, shares.to_dict(), image, overlay_heat(image, np.mean(heats, axis=0))


def describe_run(run: Path) -> str:
    """Markdown: the findings, the limits, and the test results if these models were evaluated."""
    content = read_run(run)
    lines, metrics = ["This model was not evaluated: run 04_evaluate."], content["metrics"]
    if metrics:
        test, count = metrics["test"]["plain"], metrics["counts"]["images"]
        results = [f"{name} {format_interval(test[key])}" for key, name in COMPARED_METRICS.items()]
        lines = [f"Results on {count} test images: {', '.join(results)}."]
    lines += [
        f"**{found.level.capitalize()}:** {_escape(found.text)}" for found in content["findings"]
    ]
    return "\n- ".join(["## Can I trust this model?\n", *lines, *LIMITS[1:]])


def _escape(text: str) -> str:
    """Text of unknown origin, such as a file name, without effect in Markdown."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)
