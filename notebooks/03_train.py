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
# # 3 · Training
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/bonelib/blob/main/notebooks/03_train.ipynb)
#
# This notebook trains an EfficientNet-B3, or any other timm model, on the training split, watches the validation split, and
# keeps the epoch that did best there. Cut off, it goes on where it stopped.
#
# Take a GPU (*Runtime → Change runtime type → T4*). On the sample, without a GPU, it takes about two minutes on two CPU
# cores and 2 GB of memory. On a T4 it was not measured.
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
import torch

from bonelib import augment, colab, loader, model, plots, recipe, series, train
from bonelib.config import CLASSES

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
backbone = ""  # @param ["", "efficientnet_b3", "tf_efficientnetv2_b0", "mobilenetv2_100"] {allow-input: true}
image_size = ""  # @param {type:"string", placeholder:"300"}
epochs = ""  # @param {type:"string", placeholder:"30"}
batch_size = ""  # @param {type:"string", placeholder:"16"}
find_lr = False  # @param {type:"boolean"}
cfg = colab.settings(
    results_on_drive, data=data, run=run, backbone=backbone, image_size=image_size, epochs=epochs, batch_size=batch_size
)

# %% [markdown]
# ## The images
#
# What `02_balance` left is used; what is missing is made by the same functions.

# %%
one, splits, pixels = next(series.trainings(cfg))
print(f"{len(splits)} images of {cfg.image_size} px:", splits["split"].value_counts().to_dict())

# %%
device = model.device()
print(f"training on {device} with precision {model.precision(cfg, device, learning=True)}")
if device.type == "cpu":
    print("No GPU was found: the sample trains in minutes, a real data set may take hours.")

# %% [markdown]
# ## The model
#
# Grey `uint8` goes in; scaling, normalising and the step to three channels happen on the device, inside the model. The first
# part of the backbone stays as ImageNet taught it (setting `freeze`), batch-norm statistics included, because a few hundred
# radiographs cannot teach edges and textures better than a million photographs.

# %%
net = model.build(cfg)
net.freeze(cfg.freeze)
total, free = (sum(p.numel() for p in net.parameters() if p.requires_grad or every) for every in (True, False))
print(f"{model.describe(cfg)}: {total / 1e6:.1f} million parameters, {free / 1e6:.1f} million of them trained")

# %% [markdown]
# Without pretrained weights nothing is frozen, and the model starts from noise. That is enough for the synthetic sample;
# on real radiographs it is not.
#
# ## What it gets to see
#
# One batch of the first epoch, as the model gets it: drawn, augmented, grey. Each picture must still be recognisable as
# what its caption says.

# %%
labels = splits["label"].map(CLASSES.index).to_numpy()
draws = loader.Draws(splits["draws"].to_numpy(), cfg.batch_size, cfg.seed)
pictures, y = next(iter(loader.training(cfg, pixels, labels, draws, augment.policy(cfg), torch.device("cpu"))))
names = [CLASSES[i] for i in y[:8]]
colours = [plots.PALETTE[name] for name in names]
series.show(plots.grid(pictures[:8, 0].numpy(), names, colours, title="The start of the first batch"), cfg, "batch")

# %% [markdown]
# ## A learning rate, if you want to choose one
#
# One short run whose rate rises from almost nothing: a good rate lies where the loss falls fastest, well left of its
# lowest point. Tick the box in the settings to have it drawn; the default rate suits the default model.

# %%
series.show(plots.rates(recipe.find_lr(cfg, splits, pixels)), cfg, "rates") if find_lr else None

# %% [markdown]
# ## The loop
#
# Cross-entropy with label smoothing and class weights; AdamW; a cosine learning rate with warm restarts; averaged weights
# (EMA); mixed precision. After each epoch the validation split is judged and a checkpoint written. Training ends early
# after `patience` epochs without a better validation accuracy. The loop is one function that reads from top to bottom:
# `bonelib/train.py`. With the setting `folds` it runs once a fold, each in a folder of its own.

# %%
redraw = series.live(plots.history)
histories = []
for one, splits, pixels in series.trainings(cfg):
    histories.append(train.train(one, splits, pixels, one.root, redraw).assign(folder=one.run))
history = histories[-1]
figure = series.show(plots.history(history), cfg, "history")
if redraw:
    redraw(history)  # had training ended before, nothing is drawn yet

# %% [markdown]
# ## What happened
#
# Training loss must fall. Where validation stays behind training, the model learns its images by heart; where both stay at
# chance, it learns nothing. The dashed line marks the epoch that is kept. Where the learning rate jumps up, a warm restart
# begins.

# %%
best = history.sort_values(["val_accuracy", "val_loss"], ascending=[False, True]).iloc[0]
print(
    f"best epoch {best['epoch']:.0f} of {len(history)}: validation accuracy {best['val_accuracy']:.3f}, "
    f"macro-F1 {best['val_f1']:.3f}"
)
print(
    f"{history['images_per_second'].median():.0f} images a second, "
    f"{history['data_wait'].median():.1%} of the time spent waiting for data"
)

# %% [markdown]
# What is left for a resume, for prediction and for a person:

# %%
for path in sorted(p for p in one.root.rglob("*") if p.is_file() and "figures" not in p.parts):
    print(f"{path.stat().st_size / 1e3:10,.1f} kB  {path.relative_to(one.root)}")

# %% [markdown]
# The validation figure chose the epoch, so it is too good to be reported. The test split, which nothing has seen so far,
# gives the figure to report.
#
# ## Where to go from here
#
# The run folder now holds `model/`, `checkpoints/` and `history.csv`. Run this notebook again after a disconnect, or with
# more epochs, and it goes on from the newest checkpoint. Next: `04_evaluate`.

# %%
colab.finish(cfg)  # brings the results to Drive, if that box is ticked
