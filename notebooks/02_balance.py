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
# # 2 · Parting and balancing without leaks
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/bonelib/blob/main/notebooks/02_balance.ipynb)
#
# This notebook deals the images to train, validation and test so that no patient and no copy stands on two sides, balances
# what training draws, and shows how training and prediction change a picture.
#
# It needs no GPU. On the sample it takes about half a minute on two CPU cores and less than 1 GB of memory.
#
# For research and teaching; not for diagnosis.

# %% [markdown]
# ## Setup
#
# On Colab this installs `bonelib`: from a wheel beside this notebook or in Drive's folder `bonelib` if there is one, else from
# GitHub. Every package that Colab ships stays as it is. Elsewhere it only looks whether `bonelib` is there.

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
import numpy as np
import torch

from bonelib import augment, colab, plots, series, split
from bonelib.config import AUGMENTATIONS, CLASSES

# %% [markdown]
# ## Settings
#
# Run as it is, the notebook works on the embedded sample: synthetic radiographs, drawn on the spot. For your own images,
# give `data` a folder that holds one folder a class (`Normal`, `Osteopenia`, `Osteoporosis`), a zip of it, a table (`.csv`)
# with the columns `path` and `label`, or a Kaggle slug. What lies on Drive is copied to the local disk first; write it as
# Colab's file browser does: `/content/drive/MyDrive/…`. On Colab each notebook has a machine of its own: tick
# `results_on_drive`, and it finds what the one before has made. An empty field takes what an earlier notebook of this run was
# given, else the variable `BONELIB_<FIELD>`, else the default.

# %% cellView="form"
# @title Settings
data = ""  # @param {type:"string", placeholder:"sample"}
run = ""  # @param {type:"string", placeholder:"runs/sample"}
results_on_drive = False  # @param {type:"boolean"}
balance = ""  # @param ["", "oversample", "weights", "both", "none"]
seed = ""  # @param {type:"string", placeholder:"0"}
cfg = colab.settings(results_on_drive, data=data, run=run, balance=balance, seed=seed)

# %% [markdown]
# ## Groups first, then the split
#
# A group is a patient, or a cluster of copies. Whole groups are dealt out, with the shares of the classes kept as alike as
# groups allow. The test split is not looked at again until `04_evaluate`.

# %%
_, splits, pixels = next(series.trainings(cfg))
counts = splits.groupby(["split", "label"]).agg(images=("path", "size"), groups=("group", "nunique")).unstack("split")
counts.reindex(columns=["train", "val", "test"], level="split")

# %%
series.show(plots.class_counts(splits, "split", title="Images of each class in each split"), cfg, "splits")

# %% [markdown]
# The promise that all later figures rest on, checked on this very table:

# %%
sides = splits.groupby("group")["split"].nunique()
print(f"{len(sides)} groups, {(sides > 1).sum()} of them on more than one side")

# %% [markdown]
# ## Balance: after the split, in train only
#
# `RandomOverSampler` repeats training rows of the smaller classes until an epoch draws each class equally often. The
# column `draws` says how often a row is drawn; outside train it is 0.

# %%
series.show(plots.balance(splits), cfg, "balance")

# %%
weights = split.class_weights(splits, cfg.balance)
print(f"balance = {cfg.balance}; weights in the loss:", dict(zip(CLASSES, weights.round(2).tolist(), strict=True)))

# %% [markdown]
# Class weights are computed from what is drawn, so oversampling leaves them at 1: the same correction is never made twice.
# The setting `balance` chooses `oversample`, `weights`, `both` (as the original notebook did: a double correction) or `none`.
#
# ## What happens if one oversamples first
#
# Many public notebooks repeat images first and split afterwards. On this very data, done so once, the share of test images
# that also stand in train is:

# %%
rng = np.random.default_rng(cfg.seed)
largest = splits["label"].value_counts().max()
repeated = splits.groupby("label").sample(largest, replace=True, random_state=cfg.seed)["path"].to_numpy()
repeated = rng.permutation(repeated)
test, train = np.split(repeated, [len(repeated) // 5])
print(f"{np.isin(test, train).mean():.0%} of the test images have a twin in train")

# %% [markdown]
# A model that merely remembers its training images is right on all of these.
#
# ## What training changes
#
# Each time a picture is drawn, it is changed a little, so that the model cannot learn it by heart. Strengths suit
# radiographs: density shows in brightness and texture, so both are touched only lightly. One picture, each step alone:

# %%
picture = np.array(pixels[int(np.flatnonzero(splits["split"] == "train")[0])])
steps = [augment.policy(cfg, [name]) for name in AUGMENTATIONS]
for step in steps:
    step.transforms[0].p = 1.0
    augment.seed(step, cfg.seed)
alone = [picture, *(step(image=picture)["image"] for step in steps)]
series.show(
    plots.grid(alone, ["as it is", *AUGMENTATIONS], columns=3, title="Each step of the augmentation"), cfg, "steps"
)

# %% [markdown]
# And the policy of this run, six draws of the same picture: the setting `augment` says which steps it has, `strength` scales
# them all. The sample trains for a few minutes from scratch, with three steps only; your own images get all but the vertical
# flip. A radiograph has an up: on the README's spine set the model was the better without it.

# %%
whole = augment.policy(cfg)
augment.seed(whole, cfg.seed)
drawn = [whole(image=picture)["image"] for _ in range(6)]
series.show(plots.grid(drawn, [f"draw {i + 1}" for i in range(6)], columns=3, title="Six draws"), cfg, "augmentation")

# %% [markdown]
# If a step makes the picture look like another class, or like no radiograph at all, switch it off.
#
# ## What prediction looks at
#
# Test-time augmentation averages the probabilities over a fixed list of views: mirrored, slightly turned, slightly zoomed.
# They are made on the device in one warp, and they hold no chance: the same picture always gives the same answer.

# %%
views = augment.views(torch.from_numpy(picture)[None, None], cfg.tta)[:, 0, 0].numpy()
series.show(plots.grid(views, cfg.tta, columns=5, title="The views of test-time augmentation"), cfg, "views")

# %% [markdown]
# ## Where to go from here
#
# The run folder now holds `splits.csv`. Next: `03_train`.

# %%
colab.finish(cfg)  # brings the results to Drive, if that box is ticked
