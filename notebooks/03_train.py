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
# # 3 · Train an image classifier
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/bonelib/blob/main/notebooks/03_train.ipynb)
#
# This notebook fine-tunes a neural network: it starts from weights (the numbers that a
# network consists of) learnt on a million photographs, and trains them further on the
# training set. (On the synthetic sample it starts from random weights.) The network is
# EfficientNet-B3 or any other of the library timm. After each epoch the validation set
# is predicted, and the best epoch is kept. An interrupted training resumes exactly
# where it stopped.
#
# Choose a GPU (Runtime > Change runtime type > T4). The sample takes about two minutes
# on two CPU cores; a T4 has not been measured.
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
import dataclasses
import math

import pandas as pd
import timm
import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from bonelib import augment, colab, display, pipeline, split
from bonelib.plots import training as plots
from bonelib.plots.style import class_colours, new_chart
from bonelib.training import device as devices
from bonelib.training import loader, loss, model

# %% [markdown]
# ## Settings
#
# Leave a field empty to keep what an earlier notebook of this run was given, or else
# the default in grey. A run is one folder, to which all five notebooks write. (Outside
# Colab, environment variables `BONELIB_<FIELD>` fill empty fields.)

# %% cellView="form"
# @title Settings
# @markdown A folder with one folder per class, a zip, a table (.csv) or a Kaggle name.
data = ""  # @param {type:"string", placeholder:"sample"}
# @markdown The folder for the results.
run = ""  # @param {type:"string", placeholder:"runs/sample"}
# @markdown Keep a copy of the results on Google Drive: needed to resume on Colab.
results_on_drive = False  # @param {type:"boolean"}
# @markdown Any timm model.
backbone = ""  # @param {type:"string", placeholder:"efficientnet_b3"}
# @markdown Pixels per side.
image_size = ""  # @param {type:"string", placeholder:"300"}
# @markdown At most this many epochs; early stopping may end sooner.
epochs = ""  # @param {type:"string", placeholder:"30"}
# @markdown Images per step; choose a smaller number if the GPU's memory is too small.
batch_size = ""  # @param {type:"string", placeholder:"16"}
# @markdown 0 for one split, 5 for five-fold cross-validation.
folds = ""  # @param {type:"string", placeholder:"0"}
form = {"backbone": backbone, "image_size": image_size, "epochs": epochs}
form |= {"batch_size": batch_size, "folds": folds}
cfg = colab.settings(results_on_drive, data=data, run=run, **form)

# %% [markdown]
# ## The device
#
# Mixed precision computes most of the model with 16 bits per number instead of 32: in
# about half the memory, and faster on a GPU. A T4 has fast `fp16`; newer cards have
# `bf16`, which covers the same range as 32 bits and needs no scaling of the loss.

# %%
device = devices.device()
precision = devices.precision(cfg, device, training=True)
name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
display.sentences(f"training on {name} with precision {precision}")
if device.type == "cpu":
    display.sentences(
        "no GPU was found: the sample takes minutes, a real data set hours"
    )

# %% [markdown]
# ## One batch
#
# A batch is the few images that the model sees at once, between two changes of its
# weights. They are drawn, augmented, grey. Whatever the number of processes that load
# them, each image depends on the seed, the epoch and the image alone.

# %%
fold = next(pipeline.folds(cfg))
names, splits = fold.class_names, fold.splits
draws = loader.Draws(splits["draws"].to_numpy(), cfg.batch_size, cfg.seed)
policy, cpu = augment.policy(cfg), torch.device("cpu")
batches = loader.training_batches(cfg, fold.images, fold.labels, draws, policy, cpu)
images, labels = next(iter(batches))
span = f"from {images.min()} to {images.max()}"
display.sentences(f"images {tuple(images.shape)}, {images.dtype}, {span}")

# %%
captions = [names[label] for label in labels[:8]]
colours = [class_colours(names)[caption] for caption in captions]
title = "The first images of the first batch"
figure = plots.image_grid(images[:8, 0].numpy(), captions, colours, title=title)
display.show(figure, cfg, "batch")

# %% [markdown]
# Each image above must still be recognisable as what its caption says. `uint8` goes to
# the device; scaling to 0..1 and normalisation happen inside the model.
#
# ## The model
#
# A backbone (the network that turns an image into a list of numbers, its features) from
# timm, with a new last layer that turns the features into one output per class.

# %%
size, arguments = cfg.image_size, cfg.backbone_args
# transformers are made for one size of images
if timm.get_pretrained_cfg_value(cfg.backbone, "fixed_input_size"):
    arguments = {"img_size": size, **arguments}
backbone = timm.create_model(cfg.backbone, num_classes=len(names), **arguments).eval()
with torch.inference_mode():
    output = backbone(torch.zeros(2, 3, size, size))
licence = backbone.pretrained_cfg["license"]
display.sentences(f"{cfg.backbone}: output {tuple(output.shape)}, licence {licence}")

# %% [markdown]
# `model.build` makes the same backbone with its pretrained weights, takes grey images,
# and freezes the first part (setting `freeze`), whose weights then stay unchanged: a
# few hundred radiographs cannot teach edges and textures better than a million
# photographs did.

# %%
torch.manual_seed(cfg.seed)
net = model.build(cfg, len(names))
net.freeze(cfg.freeze)
total = sum(p.numel() for p in net.parameters())
trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
sizes = f"{total / 1e6:.1f} million parameters, {trained / 1e6:.1f} million are trained"
display.sentences([model.describe_weights(cfg), sizes])

# %% [markdown]
# ## The loss
#
# The loss is the cross-entropy: minus the logarithm of the probability that the model
# gives to the true class, averaged over the images. 0 is perfect. A model that knows
# nothing gives each of the K classes the same probability, and its loss is ln K. If the
# first loss is far from it, something is wrong before training starts.

# %%
one_process = devices.processes().num_processes == 1
net = net.to(device)
batch, target_labels = images.to(device), labels.to(device)
with torch.inference_mode():
    untrained = F.cross_entropy(net.eval()(batch).float(), target_labels).item()
display.sentences(f"loss {untrained:.3f}, ln {len(names)} = {math.log(len(names)):.3f}")

# %% [markdown]
# Label smoothing asks for a little less than certainty: each row is what the loss aims
# at for one true class.

# %%
targets = loss.smoothed_targets(len(names), cfg.label_smoothing).to(device)
pd.DataFrame(targets.cpu().numpy(), index=names, columns=names).round(3)

# %% [markdown]
# The weighted cross-entropy of this batch, by hand and by the package:

# %%
weights = torch.from_numpy(split.class_weights(splits, cfg.balance, names)).to(device)
with torch.inference_mode():
    logits = net(batch).float()
    log_p = logits.log_softmax(dim=1)  # (B, K)
    by_hand = -(targets[target_labels] * weights * log_p).sum() / len(batch)
    by_package = loss.weighted_loss(logits, targets[target_labels], weights)
assert torch.allclose(by_hand, by_package), (by_hand, by_package)
display.sentences(f"{by_hand.item():.4f}")

# %% [markdown]
# ## The learning rate, before training
#
# The optimizer AdamW changes the weights after each batch; the learning rate says how
# much. It falls along a cosine and jumps back now and then (warm restarts). Plot this
# schedule before you spend hours on it.

# %%
optimizer = torch.optim.AdamW(net.parameters(), cfg.lr, weight_decay=cfg.weight_decay)
lowest = cfg.lr / 100
schedule = CosineAnnealingWarmRestarts(
    optimizer, cfg.cycle, cfg.cycle_mult, eta_min=lowest
)
rates = []
for epoch in range(cfg.epochs):
    schedule.step(epoch)
    rates.append(optimizer.param_groups[0]["lr"])
figure, axis = new_chart("training", 3.2, xlabel="epoch", ylabel="learning rate")
axis.plot(range(1, cfg.epochs + 1), rates)
axis.locator_params("x", integer=True)
display.show(figure, cfg, "schedule")

# %% [markdown]
# Each rise is a warm restart: the rate jumps back to its start, which lets the weights
# leave a poor minimum. With fewer epochs than `cycle` there is none, as on the sample.
#
# ## One step, written out
#
# This is all that training does, once per batch: predict, compute the loss, compute its
# gradient (how the loss changes with each weight; `backward`), and change the weights a
# little against it (`optimizer.step`). Under `fp16` small gradients would become 0, so
# the loss is multiplied before `backward` and the gradients are divided after it.

# %%
schedule.step(0)
scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
net.train()
with devices.autocast(precision, device):
    logits = net(batch)  # (B, K)
    value = loss.weighted_loss(logits, targets[target_labels], weights)
scaler.scale(value).backward()
scaler.unscale_(optimizer)
norm = torch.nn.utils.clip_grad_norm_(net.parameters(), cfg.clip or math.inf)
scaler.step(optimizer)
scaler.update()
optimizer.zero_grad(set_to_none=True)
display.sentences(
    f"loss {value.item():.3f} ({value.dtype}), logits {logits.dtype}, norm {norm:.1f}"
)

# %% [markdown]
# ## Can it learn at all?
#
# Thirty steps on one batch. A model that cannot learn sixteen images by heart has a
# bug, and no amount of data will help.

# %%
batch_losses = []
for _ in range(30 if one_process and not cfg.smoke else 0):
    with devices.autocast(precision, device):
        value = loss.weighted_loss(net(batch), targets[target_labels], weights)
    scaler.scale(value).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    batch_losses.append(value.item())

# %%
floor = -(targets * targets.clamp_min(1e-9).log()).sum(dim=1).min().item()
title = "One batch, learnt by heart"
figure, axis = new_chart("training", 3.2, title=title, xlabel="step", ylabel="loss")
axis.plot(batch_losses)
axis.axhline(floor, color="grey", linestyle="--")
display.show(figure, cfg, "overfit")

# %% [markdown]
# The loss should fall towards the dashed floor: with label smoothing it cannot reach 0.
# (The figure is empty in a smoke run, and with several processes.) This model is thrown
# away now; the training below starts again from the same weights.
#
# ## The loop
#
# `training.loop.fit` is this step in a loop. It also averages the weights over the last
# steps (steadier than the newest ones), predicts the validation set after each epoch,
# stops early once its accuracy has not risen for `patience` epochs, and writes
# checkpoints, files from which an interrupted training resumes. Two epochs first; the
# second call then resumes from the checkpoint instead of starting again.

# %%
two_epochs = dataclasses.replace(cfg, epochs=min(2, cfg.epochs))
history = pipeline.train(dataclasses.replace(fold, cfg=two_epochs))
history[["epoch", "train_loss", "val_loss", "val_accuracy"]].round(3)

# %%
redraw = display.live_plot(plots.history)
for fold in pipeline.folds(cfg):
    history = pipeline.train(fold, redraw)
display.show(plots.history(history), cfg, "history")

# %% [markdown]
# Read the figure from the top. The training loss must fall. Where the validation curve
# leaves the training curve, the model starts to learn its images by heart. The dashed
# line marks the epoch that is kept. If both accuracies stay at the share of the largest
# class, the model has learnt nothing.

# %%
order = history.sort_values(["val_accuracy", "val_loss"], ascending=[False, True])
best = order.iloc[0]
restarts = history["epoch"][history["lr"].diff() > 0].tolist()
waiting = history["data_wait"].median()
display.sentences(
    [
        f"Best epoch: {best['epoch']:.0f} of {len(history)}, validation accuracy "
        f"{best['val_accuracy']:.2f} ({best['val_accuracy_raw']:.2f} not averaged).",
        f"Warm restarts began in these epochs: {restarts or 'none'}.",
        f"{history['images_per_second'].median():.0f} images per second; "
        f"{waiting:.1%} of the time was spent waiting for data.",
    ]
)

# %% [markdown]
# The validation accuracy chose the epoch, so it is too good to be reported. The test
# set, which nothing has seen so far, gives the number to report.
#
# What is kept for resuming, for prediction and for people:

# %%
files = [path for path in sorted(cfg.root.rglob("*")) if path.is_file()]
kept = [path for path in files if "figures" not in path.parts]
sizes = [path.stat().st_size / 1e6 for path in kept]
names = [path.relative_to(cfg.root).as_posix() for path in kept]
pd.DataFrame({"file": names, "MB": sizes}).round(2)

# %% [markdown]
# ## Exercises
#
# Each answer is a change of one cell.
#
# 1. Set `label_smoothing` to 0 with `cfg = dataclasses.replace(cfg,
#    label_smoothing=0.0)` after the settings. What is the floor of the loss now?
# 2. Print `logits.dtype` with the precision `"bf16"` in the step above. Why is the loss
#    still computed in 32 bits?
# 3. Interrupt the training cell after a few epochs and run it again. Which epoch does
#    it start with?
#
# ## Where to go from here
#
# The run folder now holds `model/`, `checkpoints/` and `history.csv`. Run this notebook
# again after a disconnect, or with more epochs, and it resumes. Next: `04_evaluate`.

# %%
colab.finish(cfg)
