# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     gpuType: T4
#     provenance: []
#     toc_visible: true
#   jupytext:
#     cell_metadata_filter: tags,cellView,-all
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,accelerator,colab,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5 · Predict: new images
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/bonelib/blob/main/notebooks/05_predict.ipynb)
#
# This notebook uses a trained model on images that it has never seen: one, a folder, or
# a whole archive. It gives calibrated probabilities, and refers to a person what it is
# unsure of or was not made for.
#
# A GPU helps and is not needed. With a trained run, the sample takes seconds on two CPU
# cores; without one, a model is trained first, as in `03_train`.
#
# For research and teaching; not for diagnosis.

# %% cellView="form"
# @title Install bonelib
import subprocess, sys
from importlib.util import find_spec
from pathlib import Path

REPOSITORY = "https://github.com/OWNER/bonelib"
if "google.colab" in sys.modules and find_spec("bonelib") is None:
    wheels = [*Path().glob("*.whl"), *Path("drive/MyDrive/bonelib").glob("*.whl")]
    source = str(wheels[0]) if wheels else f"git+{REPOSITORY}"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", source, "pydicom"]
    subprocess.run(pip, check=True)

# %%
import numpy as np
import pandas as pd

from bonelib import colab, display, pipeline, scoring
from bonelib.data.quality import read_for_model
from bonelib.evaluation import gradcam
from bonelib.evaluation.predict import probability_columns
from bonelib.messages import DataError, RunError
from bonelib.plots.training import image_grid
from bonelib.prediction import answers, app, archive, export
from bonelib.report.report import LIMITS
from bonelib.training.device import processes

# %% [markdown]
# ## Settings
#
# Leave a field empty to keep what an earlier notebook of this run was given, or else
# the default in grey. A run is one folder, to which all five notebooks write. (Outside
# Colab, environment variables `BONELIB_<FIELD>` fill empty fields.)

# %% cellView="form"
# @title Settings
# @markdown The folder of a trained run; if there is none, one is made on `data`.
run = ""  # @param {type:"string", placeholder:"runs/sample"}
# @markdown An image, a folder or a zip to predict.
images = ""  # @param {type:"string", placeholder:"the test set"}
# @markdown Send images from your computer (Colab only).
upload = False  # @param {type:"boolean"}
# @markdown Only needed if there is no trained run.
data = ""  # @param {type:"string", placeholder:"sample"}
# @markdown Find the run on Google Drive, and keep a copy of the results there.
results_on_drive = False  # @param {type:"boolean"}
# @markdown Open a page in the browser for one image at a time.
open_page = False  # @param {type:"boolean"}
# @markdown Write the model as an ONNX file for other programs.
write_onnx = False  # @param {type:"boolean"}
if upload:
    images = str(colab.upload("uploaded"))
cfg = colab.settings(results_on_drive, run=run, images=images, data=data)

# %% [markdown]
# ## The model
#
# The validation set taught it two things: a temperature, which makes its probabilities
# match how often they are right, and a threshold, the probability from which it was
# right as often as asked for. With `folds` all models predict together, and their
# probabilities are averaged.

# %%
models = scoring.calibrated_models(cfg)
meta, names = models[0].meta, models[0].class_names
threshold = meta["threshold"]
rows = {
    "models": len(models),
    "backbone": meta["backbone"],
    "image size": f"{meta['image_size']} px",
    "classes": ", ".join(names),
    "temperature": round(meta["temperature"], 2),
    "threshold": "none: refer all" if threshold is None else round(threshold, 3),
    "trained on": f"{meta['train_images']} images",
}
pd.Series(rows).to_frame("value")

# %% [markdown]
# ## The images
#
# Every file below the folder gets a row, also one that is no image; images are known by
# their suffix or as DICOM. Nothing of a DICOM header is kept.

# %%
root, paths = pipeline.new_images(cfg)
display.sentences(f"{len(paths):,} files in {root}, the first: {paths[0]}")

# %% [markdown]
# ## Predictions
#
# Files are decoded while the model works, and every 256 predictions are written to
# disk. Run this cell again after a disconnect, and it resumes; change the model or the
# files, and it starts a new table.

# %%
path = archive.answer_archive(cfg, models, root, paths)
columns = probability_columns(names)
options = {"keep_default_na": False, "na_values": dict.fromkeys(columns, "")}
table = pd.read_csv(path, dtype={"prediction": str}, **options)
table.head(8).round(3)

# %% [markdown]
# There is one row per file. `prediction` is a class or `refer`, and then `reason` says
# why a person has to look. A file that cannot be read has a row, too, without
# probabilities.

# %%
table["prediction"].value_counts().to_frame("images")

# %% [markdown]
# Do not read these counts as a prevalence: the referred images are missing from them,
# and errors do not cancel out.
#
# Where patients are known (from a `metadata.csv` beside the images, the names, or DICOM
# headers), the probabilities of their images are averaged:

# %%
by_patient = pd.DataFrame()
try:
    by_patient = scoring.answer_patients(cfg, models, root, path)
except DataError as error:
    display.sentences(f"no table by patient: {error}")
by_patient.head(8).round(3)

# %% [markdown]
# A patient without an image that the model accepts is referred. The table is
# `answers_by_patient.csv`, beside `answers.csv`; if it is empty, no patients are known.
#
# ## What it refers to a person
#
# Each image is compared with the training images first, by twelve simple statistics of
# its grey levels. A blank one, a negative (black and white exchanged), a colour photo,
# or one unlike all of them is rejected, however certain the model would be. The
# comparison does not know anatomy: another body part may still pass.

# %%
referred = table.loc[table["prediction"] == answers.REFER, "reason"]
referred.str.split("[:(]").str[0].str.strip().value_counts().to_frame("images")

# %% [markdown]
# If most images are unlike the training images, the model was made for other ones:
# train on some of your own. If most are unsure, the model is not accurate enough for
# the target.
#
# ## Heat maps
#
# Which places increased the probability of the most likely class?

# %%
unsure = table["reason"].str.startswith(answers.UNSURE)
accepted = table[table["prediction"].isin(names) | unsure]
some = accepted.iloc[:: max(1, len(accepted) // 8)].head(8)
size = meta["image_size"]
pixels = np.array([read_for_model(root / paths[i], size)[0] for i in some.index])
p = some[columns].to_numpy()

# %%
likely = [f"{row.max():.0%} {names[row.argmax()]}" for row in p]
captions = [f"{a}\n{b}" for a, b in zip(some["prediction"], likely)]
try:
    likely_class = p.argmax(axis=1)
    shown = models if len(some) else []
    by_model = [gradcam.heatmaps(m.net, pixels, likely_class) for m in shown]
    maps = np.mean(by_model, axis=0) if len(some) else None
except RunError as error:
    maps = None
    display.sentences(f"no heat maps: {error}")
title = f"Evidence for the most likely class, {len(some)} images"
figure = image_grid(pixels, captions, title=title, maps=maps, section="explanations")
display.show(figure, cfg, "predictions")

# %% [markdown]
# Heat on the bone does not prove the prediction. Heat on a letter, a corner or the
# black border speaks against it. `04_evaluate` tests whether the maps of this model
# mean anything.
#
# ## An archive
#
# This notebook is also a script. Several processes share a folder of any size;
# interrupted and started again, they resume, and each image is in the table once.
#
# ```
# BONELIB_RUN=runs/mine BONELIB_IMAGES=path/to/archive \
#     torchrun --nproc_per_node 2 notebooks/05_predict.py
# ```

# %%
display.sentences(f"{path} ({path.stat().st_size / 1e3:,.0f} kB, {len(table):,} rows)")

# %% [markdown]
# ## ONNX
#
# With `write_onnx`, the model becomes one file in ONNX, a format that many programs can
# run without Python: grey `uint8` images (B, 1, S, S) in, calibrated probabilities out.
# It is compared with the model on the images above before it is kept. It needs
# `pip install onnx onnxruntime onnxscript`.

# %%
main = processes().is_main_process
if write_onnx and main:
    onnx = cfg.root / "model" / "model.onnx"
    difference = export.to_onnx(models, pixels, onnx)
    display.sentences(
        f"{onnx}: at most {difference:.1g} from the model's own probabilities"
    )

# %% [markdown]
# ## One image at a time
#
# A page for teaching: choose an image, and see the prediction, the heat map and the
# limits. It opens on Colab, or with `open_page`; it is not shared on the internet, and
# it keeps no image.

# %%
if main and open_page:
    app.serve(models, cfg.root)

# %% [markdown]
# ## What it is not for

# %%
display.sentences(LIMITS)

# %% [markdown]
# ## Exercises
#
# Each answer is a change of one cell.
#
# 1. Sort the table by its largest probability. Are the most certain predictions the
#    easiest images?
# 2. Predict the negative of an image, `255 - pixels[:1]`, with
#    `answers.answer_images(models, [(255 - pixels[0], "")])`. What happens, and why?
# 3. Which share of the images would be referred with a threshold of 0.99?
#
# ## Where to go from here
#
# `answers.csv` opens in any spreadsheet. To improve the model, label the referred
# images and add them to the training data.

# %%
colab.finish(cfg)
