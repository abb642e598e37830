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
# # 5 · What does it say of the next image?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/bonelib/blob/main/notebooks/05_predict.ipynb)
#
# This notebook asks a trained model about pictures that it has never seen: one, a folder, or a whole archive. It
# answers with calibrated probabilities, and leaves to a person what it is unsure of or was not made for.
#
# A GPU helps and is not needed. With a trained run at hand the sample's pictures take seconds on two CPU cores and 2
# GB of memory; without one, a model is trained first, as in `03_train`.
#
# For research and teaching; not for diagnosis.

# %% [markdown]
# ## Setup
#
# On Colab this installs `bonelib`: from a wheel beside this notebook or in Drive's folder `bonelib` if there is one,
# else from GitHub. Every package that Colab ships stays as it is. Elsewhere it only looks whether `bonelib` is there.

# %%
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

REPOSITORY = "https://github.com/OWNER/bonelib"
if "google.colab" in sys.modules:
    near = [wheel for folder in (".", "drive/MyDrive/bonelib") for wheel in Path(folder).glob("bonelib-*.whl")]
    near += [project.parent for project in Path("drive/MyDrive/bonelib").glob("pyproject.toml")]
    for name, source in {"bonelib": near[0] if near else f"git+{REPOSITORY}", "pydicom": "pydicom"}.items():
        if not getattr(find_spec(name), "origin", None):
            subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", source], check=True)
elif find_spec("bonelib") is None:
    raise ModuleNotFoundError("bonelib is not installed here: see the two commands in its README")

# %%
import contextlib
from dataclasses import replace

import numpy as np
import pandas as pd

from bonelib import app, archive, card, colab, explain, export, inputs, model, plots, predict, series
from bonelib.config import CLASSES

# %% [markdown]
# ## Settings
#
# `run` is the folder of a trained run, with its `model/`; if there is none, one is made on `data`, by default the
# embedded sample. `images` is what to ask about: a picture (PNG, JPEG, TIFF, BMP, DICOM) or a folder; empty, it is
# the test split. On Colab, tick `upload` to send pictures from your own computer, and `results_on_drive` to find what
# the other notebooks have made. An empty field takes what an earlier notebook of this run was given, else the
# variable `BONELIB_<FIELD>`, else the default.

# %% cellView="form"
# @title Settings
run = ""  # @param {type:"string", placeholder:"runs/sample"}
images = ""  # @param {type:"string", placeholder:"the test split"}
upload = False  # @param {type:"boolean"}
data = ""  # @param {type:"string", placeholder:"sample"}
results_on_drive = False  # @param {type:"boolean"}
open_page = False  # @param {type:"boolean"}
write_onnx = False  # @param {type:"boolean"}
cfg = colab.settings(results_on_drive, run=run, images=images, data=data)

# %%
if upload and "google.colab" in sys.modules:
    from google.colab import files

    Path("uploaded").mkdir(exist_ok=True)
    with contextlib.chdir("uploaded"):
        files.upload()
    cfg = replace(cfg, images="uploaded")

# %% [markdown]
# ## The model
#
# Validation has taught it two things. A temperature makes its probabilities as sure as they are right. A threshold
# says from which probability on its calls were right as often as was asked for. With `folds` all of its models answer
# together: their probabilities are averaged.

# %%
models = series.calibrated(cfg)
meta = models[0][1]
print(f"{len(models)} x {meta['backbone']}, {meta['image_size']} px, temperature {meta['temperature']:.2f}")
if meta["threshold"] is None:
    print("On validation it was nowhere as accurate as asked for: every picture is left to a person.")
else:
    print(f"It answers from a probability of {meta['threshold']:.3f} on; what is below is left to a person.")

# %% [markdown]
# ## The pictures
#
# Files are found at any depth, by their suffix or as DICOM. Of a DICOM header nothing is kept.

# %%
root, paths = series.unseen(cfg)
print(f"{len(paths):,} pictures in {root}, the first: {paths[0]}")

# %% [markdown]
# ## The answers
#
# Files are decoded beside the model's work, and every 256 answers are kept as they come. Run this cell again after a
# disconnect, and it goes on from there; change the model or the files, and it begins a new table.

# %%
path = archive.answers(cfg, models, root, paths)
table = pd.read_csv(path, keep_default_na=False, na_values=dict.fromkeys(predict.PROBS, ""))
table.head(8).round(3)

# %% [markdown]
# `call` is a class, or `refer`: then `reason` says why a person has to look. A file that cannot be read stays in the
# table, without probabilities, so that every picture is answered for once.

# %%
table["call"].value_counts().reindex([*CLASSES, predict.REFER], fill_value=0).to_frame("pictures")

# %% [markdown]
# Before anything else each picture is held against the training images: a blank one, a negative, a colour photo or
# one that looks like none of them is not answered, however sure the model would be. Another body part may still get
# through.

# %%
reasons = table.loc[table["call"] == predict.REFER, "reason"]
reasons.str.split("[:(]").str[0].str.strip().value_counts().to_frame("pictures")

# %% [markdown]
# Shares of calls are not a prevalence: the referred pictures are missing from them, and errors do not cancel out.
#
# ## What spoke for the calls
#
# Some of the pictures that the model was fit to be asked about, with what spoke for their likeliest class. Heat maps
# please the eye more easily than they explain: `04_evaluate` tests whether those of this model mean anything.

# %%
looked = table[table["call"].isin(CLASSES) | table["reason"].str.startswith(predict.UNSURE)]
looked = looked.iloc[:: max(1, len(looked) // 8)].head(8)
pixels = np.array([inputs.read(root / paths[i], meta["image_size"])[0] for i in looked.index])  # (N, S, S) uint8
probs = looked[predict.PROBS].to_numpy()
captions = [f"{call}\n{p.max():.0%} {CLASSES[p.argmax()]}" for call, p in zip(looked["call"], probs, strict=True)]

# %%
if len(looked):
    heats = np.mean([explain.heat(net, pixels, probs.argmax(1)) for net, _ in models], axis=0)
    figure = series.show(
        plots.grid(pixels, captions, title="What spoke for the likeliest class", heats=heats), cfg, "answers"
    )
figure if len(looked) else "no picture was fit to be asked about"

# %% [markdown]
# Heat on the bone does not prove the call. Heat on a letter, a corner or the black border speaks against it: then the
# model may read the hospital rather than the bone.
#
# ## An archive
#
# This notebook is also a script. Several processes share a folder of any size; killed and started again, they go on
# from the parts that are there, and every image stands once in the table. Memory does not grow with the archive.
#
# ```
# BONELIB_RUN=runs/mine BONELIB_IMAGES=path/to/archive torchrun --nproc_per_node 2 notebooks/05_predict.py
# ```

# %%
print(f"{path} ({path.stat().st_size / 1e3:,.0f} kB, {len(table):,} rows)")

# %% [markdown]
# ## The model elsewhere
#
# Tick `write_onnx` for one file that other programs can run, with everything inside: grey `uint8` pictures (B, 1, S,
# S) in, calibrated probabilities (B, 3) out. It is compared with the model on the pictures above before it is kept.
# It needs `pip install onnx onnxruntime onnxscript`, and the pictures letterboxed as `bonelib.images.letterbox` does
# it.

# %%
main = model.processes().is_main_process
if write_onnx and main:
    apart = export.onnx(models, pixels, cfg.root / "model" / "model.onnx")
    print(f"{cfg.root / 'model' / 'model.onnx'}: at most {apart:.1g} from the model's own probabilities")

# %% [markdown]
# ## One picture at a time
#
# A page for showing and teaching: choose a picture, see the answer and what spoke for it, with the limits beside it.
# It opens on Colab, or when `open_page` is ticked; it is not shared on the internet, and keeps no picture once it is
# answered.

# %%
if main and (open_page or "google.colab" in sys.modules):
    app.serve(models, cfg.root)

# %% [markdown]
# ## What it is not for

# %%
series.say(card.LIMITS)

# %% [markdown]
# ## Where to go from here
#
# `answers.csv` opens in any spreadsheet. If many pictures are referred as unlike the training images, the model was
# made for other ones: train on some of your own with `03_train`, and ask `04_evaluate` again.

# %%
colab.finish(cfg)  # brings the results to Drive, if that box is ticked
