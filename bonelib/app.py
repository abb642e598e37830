"""A page in the browser that answers about one picture at a time (Gradio): for teaching, not for diagnosis."""

from __future__ import annotations

import atexit
import base64
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray

from bonelib import card, explain, inputs, plots, predict, verdict
from bonelib.config import CLASSES
from bonelib.page import paragraph

LARGEST = "200mb"  # of a file that may be sent
STYLE = """
.answer, .about {font-size: 1rem; line-height: 1.5}
.answer h2 {font-size: 1.4rem; margin: .6rem 0 .2rem}
.answer table {width: 100%; margin: .8rem 0; border: 0}
.answer tr, .answer th, .answer td {border: 0; padding: .2rem 0; text-align: left; font-weight: normal}
.answer th {width: 7.5rem} .answer td:last-child {width: 3rem; text-align: right}
.answer .bar {height: .9rem; border-radius: .2rem}
.answer .pair {display: flex; flex-wrap: wrap; gap: 1rem} .answer figure {flex: 1 1 16rem; max-width: 36rem; margin: 0}
.answer img {width: 100%; display: block; border-radius: .2rem} .answer figcaption {font-size: .9rem}
button:focus-visible {outline: 3px solid #648FFF; outline-offset: -3px}
"""


def page(models: Sequence[predict.Model], run: Path) -> Any:
    """The page as gradio.Blocks, to be shown by `serve`. What is uploaded is deleted with the answer."""
    # read by gradio when it starts and when a page is made: nothing is told to its makers, nothing kept in the browser
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
    folder = tempfile.mkdtemp(prefix="bonelib-page-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ.update(quiet, GRADIO_TEMP_DIR=folder)
    import gradio

    def ask(sent: str) -> tuple[str, None]:
        try:
            return _answer(models, Path(sent)), None
        finally:
            _forget(Path(folder), Path(sent))

    with gradio.Blocks(title="bonelib: one picture", analytics_enabled=False, delete_cache=(60, 600)) as out:
        gradio.HTML(
            f'<div class="about"><h1>What does the model say of this picture?</h1>{paragraph(card.NOTICE)}</div>'
        )
        upload = gradio.File(label="A radiograph: PNG, JPEG, TIFF, BMP or DICOM", type="filepath", height=160)
        result = gradio.HTML(html_template='<div class="answer" aria-live="polite">${value}</div>')
        gradio.HTML(f'<div class="about">{_about(models, run)}</div>')
        upload.upload(ask, upload, [result, upload], api_name="ask")
    return out


def serve(models: Sequence[predict.Model], run: Path, share: bool = False, **options: Any) -> Any:
    """Show the page, on this machine only unless `share`; returns the running gradio.Blocks, ended by `close()`."""
    import gradio

    shown = page(models, run)
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # none is fetched
    shown.launch(
        share=share, theme=theme, css=STYLE, footer_links=[], max_file_size=LARGEST, enable_monitoring=False, **options
    )
    return shown


def _forget(folder: Path, sent: Path) -> None:
    """Remove an uploaded file with the folder that gradio made for it, and the empty files that it leaves beside."""
    if folder.resolve() in sent.resolve().parents:
        shutil.rmtree(sent.parent, ignore_errors=True)
    for left in folder.iterdir():
        if left.is_file():
            left.unlink(missing_ok=True)


def _answer(models: Sequence[predict.Model], sent: Path) -> str:
    """HTML: the call and its reason, the probabilities, the picture as the model sees it, what spoke for the call."""
    picture, why = inputs.read(sent, models[0][1]["image_size"])
    told = predict.answers(models, [(picture, why)]).iloc[0]
    if picture is None:
        message = paragraph(f"{sent.name}: {why.removeprefix('unreadable: ')}.")
        return f"<h2>This file cannot be read</h2>{message}"
    probs, size = told[predict.PROBS].to_numpy(float), len(picture)
    enough = f"{probs.max():.3f} reaches the threshold of {models[0][1]['threshold'] or 1:.3f}"
    out = f"<h2>{'Left to a person' if told['call'] == predict.REFER else told['call']}</h2>"
    out += paragraph(f"{sent.name}: {told['reason'] or enough}.")
    seen = _figure(picture, f"The picture as the model sees it, {size} by {size} pixels")
    if told["reason"] and not told["reason"].startswith(predict.UNSURE):
        return out + seen  # of a picture that it was not made for, the model's numbers mean nothing
    try:
        heat = np.mean([explain.heat(net, picture[None], probs[None].argmax(1))[0] for net, _ in models], axis=0)
        spoke = _figure(_painted(picture, heat), f"What spoke for {CLASSES[probs.argmax()]}: the brighter, the more")
    except ValueError as error:  # a backbone without a feature map
        spoke = paragraph(f"No heat map: {error}.")
    return f'{out}{_bars(probs)}<div class="pair">{seen}{spoke}</div>'


def _bars(probs: NDArray[np.float64]) -> str:
    rows = (
        f'<tr><th scope="row">{name}</th><td><div class="bar" style="width:{p:.1%};background:{plots.PALETTE[name]}">'
        f"</div></td><td>{p:.0%}</td></tr>"
        for name, p in zip(CLASSES, probs, strict=True)
    )
    return f"<table>{''.join(rows)}</table>"


def _painted(picture: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(S, S, 3) uint8, blue first: the heat (S, S) 0..1 on the grey picture, as `plots.grid` paints it."""
    alpha = 0.55 * heat[..., None]
    colour = 255 * matplotlib.colormaps["magma"](heat)[..., 2::-1]
    return np.asarray((1 - alpha) * picture[..., None] + alpha * colour, np.uint8)


def _figure(pixels: NDArray[np.uint8], caption: str) -> str:
    """A figure whose picture lies inside the page itself: no file is written for it."""
    data = base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _about(models: Sequence[predict.Model], run: Path) -> str:
    """The limits in words, and the test split's figures if the run was evaluated."""
    out = "<h2>How far to believe it</h2>"
    if (run / "metrics.json").is_file():
        metrics = json.loads((run / "metrics.json").read_text("utf-8"))
        held, counts = metrics["test"]["plain"], metrics["counts"]
        named = (("accuracy", "accuracy"), ("macro_f1", "macro-F1"), ("auroc", "AUROC"))
        told = ", ".join(f"{name} {verdict.span(held[key])}" for key, name in named)
        out += paragraph(f"On {counts['images']} images that it had not seen: {told}.")
        out += "".join(map(paragraph, metrics["verdict"]))
    else:
        out += paragraph("This run was not evaluated: 04_evaluate says how good it is.")
    if len(models) > 1:
        out += paragraph(f"The answer is the average of {len(models)} models, one a fold.")
    return out + "".join(map(paragraph, card.LIMITS[1:]))
