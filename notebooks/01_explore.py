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
# # 1 · Explore: what is in the data?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/bonelib/blob/main/notebooks/01_explore.ipynb)
#
# This notebook looks at a set of bone-density images before any model does: how many
# are usable, which are copies of each other, which have contradictory labels, and what
# besides bone could reveal the class.
#
# It needs no GPU. On the sample it takes about half a minute on two CPU cores.
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
import json

import pandas as pd

from bonelib import colab, display, pipeline
from bonelib.config import present_classes
from bonelib.data.catalog import has_issue, usable
from bonelib.plots import training as plots
from bonelib.plots.style import GREY, MAGENTA, class_colours, draw_intervals, new_chart

# %% [markdown]
# ## Settings
#
# Run without changes, the notebook uses the embedded sample: synthetic radiographs.
# Leave a field empty to keep what an earlier notebook of this run was given, or else
# the default in grey. A run is one folder, to which all five notebooks write. (Outside
# Colab, environment variables `BONELIB_<FIELD>` fill empty fields.)

# %% cellView="form"
# @title Settings
# @markdown A folder with one folder per class, a zip, a table or a Kaggle name.
data = ""  # @param {type:"string", placeholder:"sample"}
# @markdown What a folder name means, if it is not understood: {"thin": "Osteopenia"}.
classes = ""  # @param {type:"string"}
# @markdown A search pattern for the patient in names: ^(\d+)_ is leading digits.
patient_regex = ""  # @param {type:"string"}
# @markdown A table about the images, with age, sex, patient or T-score.
metadata = ""  # @param {type:"string", placeholder:"metadata.csv beside the images"}
# @markdown The folder for the results.
run = ""  # @param {type:"string", placeholder:"runs/sample"}
# @markdown Keep a copy of the results on Google Drive.
results_on_drive = False  # @param {type:"boolean"}
# @markdown Any other settings, as in {"class_names": "0,1,2", "given_split": "use"}.
other = ""  # @param {type:"string"}
# @markdown Send a zip of images from your computer (Colab only).
upload = False  # @param {type:"boolean"}
form = {"data": data, "classes": classes, "patient_regex": patient_regex}
form |= json.loads(other or "{}")
if upload:
    form["data"] = str(colab.upload("uploaded"))
cfg = colab.settings(results_on_drive, **form, metadata=metadata, run=run)

# %% [markdown]
# ## One row per file
#
# Each file is decoded once, to grey. A file that cannot be read is set aside with the
# reason; it never becomes an image of some class. The audit, a search for copies,
# contradictions and defects, then fills two columns: `group` (the number of a patient
# or of a set of copies: such images must stay together) and `issues`.

# %%
found = pipeline.audited(cfg, refresh=True)
table = found.table
table[["path", "label", "width", "height", "status", "group", "issues"]].head()

# %% [markdown]
# From the files found to the images used. Every exclusion is counted.

# %%
counts = pd.Series(found.audit["counts"])
figure, axis = new_chart("data", 2.6, "From the files found to the images used")
axis.bar_label(axis.barh(counts.index, counts), padding=4)
axis.invert_yaxis()
axis.set(xlabel="images", xmargin=0.2)
display.show(figure, cfg, "funnel")

# %% [markdown]
# Read it from top to bottom: each bar is what the step above left. Of a set of copies
# one image is kept (`unique`); copies with different labels are excluded, because no
# model can learn from a contradiction (`unconflicted`); blank images, and what a person
# decided to exclude, are not `used`. The files that could not be read, with the reason:

# %%
table.loc[table["status"] != "ok", ["path", "bytes", "status"]]

# %% [markdown]
# ## Classes
#
# With unequal classes, accuracy is flattering: a model that always predicts the largest
# class is right as often as that class is large.

# %%
images = table[usable(table)]
names = present_classes(cfg, images["label"])
title = "Usable images of each class"
display.show(plots.class_counts(images, names, title=title), cfg, "classes")

# %%
images["label"].value_counts(normalize=True).round(3).to_frame("share")

# %% [markdown]
# The largest share above is the accuracy of a model that has learnt nothing. Remember
# it.
#
# ## Images
#
# Four of each class as the model will see them: one grey channel, the whole image in a
# black square.

# %%
readable = found.readable
rows = readable[usable(readable)].groupby("label").head(4).sort_values("label")
colours = [class_colours(names)[label] for label in rows["label"]]
thumbnails = found.thumbnails[rows.index]
title = "Four images of each class"
figure = plots.image_grid(thumbnails, list(rows["label"]), colours, title=title)
display.show(figure, cfg, "images")

# %% [markdown]
# Look for what is *not* bone: letters, markers, coloured overlays, borders, another
# scanner. If it occurs more often in one class, a model will learn it instead of bone.
#
# ## Copies
#
# Two images are copies if one can be made from the other by mirroring, rotation,
# scaling, cropping, recompression or a change of exposure. With a copy in the training
# set and one in the test set, the test result is worthless.

# %%
clusters = sorted(
    found.audit["clusters"], key=lambda c: (not c["conflict"], c["confidence"])
)
position = {path: row for row, path in enumerate(readable["path"])}
rows, captions, colours = [], [], []
for cluster in clusters[:8]:
    kinds = f"{', '.join(cluster['kinds'])}: {cluster['confidence']:.2f}"
    texts = [f"one of {len(cluster['paths'])}", kinds]
    for path, label, text in zip(
        cluster["paths"], cluster["labels"], texts, strict=False
    ):
        rows.append(position[path])
        captions.append(f"{label}\n{text}")
        colours.append(MAGENTA if cluster["conflict"] else GREY)
title = f"{len(clusters):,} clusters of copies, {len(rows) // 2} shown"
figure = plots.image_grid(found.thumbnails[rows], captions, colours, title=title)
display.show(figure, cfg, "copies")

# %% [markdown]
# Side by side are two images of one cluster: a set of copies. Below are their labels,
# what was done to one to get the other, and how certain the comparison is (1 is
# certain); the least certain come first. Coloured frames mean that the labels contradict
# each other; no image means that no copies were found. Are they really the same image?
# What was done with them:

# %%
copies = table[has_issue(table, "copy", "conflict")]
copies[["path", "label", "group", "issues"]].head(20)

# %% [markdown]
# `copy` marks the copies that are set aside, `conflict` every image of a cluster with
# more than one label. These are the contradictions in full:

# %%
conflicts = found.audit["conflicts"]
display.sentences(
    [f"{', '.join(c['paths'])}: {', '.join(c['labels'])}" for c in conflicts[:10]]
    or ["No copies with different labels were found."]
)

# %% [markdown]
# ## Patients
#
# Two images of one patient are not copies, but they look alike, so they must not be in
# different splits (training, validation and test set) either. Images that share a
# patient or are copies form a `group`; copies can join two patients, so there may be
# fewer groups than patients.

# %%
groups = table[table["group"] != ""].groupby("group")
summary = {
    "images in groups": int(groups.size().sum()),
    "groups": len(groups),
    "known patients": found.audit["patients"],
    "largest group": int(groups.size().max()),
}
display.sentences(f"{name}: {count}" for name, count in summary.items())

# %% [markdown]
# If the number of known patients is 0, the data do not say who is who: then only copies
# are kept together, and every result is more doubtful for it. Set `patient_regex` if
# the file names carry the patient; where folders or file names look like patients, they
# are grouped without it, and a finding below says so (`none` turns that off).
#
# ## Shortcuts
#
# How well can the class be predicted from things that are not bone? Each row is a small
# model that sees one such thing only, tested on patients that it was not fitted on. Its
# AUROC, the area under the ROC curve averaged over the classes, is 0.5 for guessing and
# 1 for perfect separation.

# %%
shortcuts = sorted(found.audit["shortcuts"], key=lambda s: -s["auroc"])
rows = [shortcut | {"value": shortcut["auroc"]} for shortcut in shortcuts]
colours = [MAGENTA if shortcut["warning"] else GREY for shortcut in shortcuts]
figure, axis = new_chart("data", 4.4, "What predicts the class besides the bone")
draw_intervals(axis, [s["name"] for s in shortcuts], rows, colours)
axis.axvline(0.5, color=GREY, linestyle=":")
axis.set_xlabel("AUROC of the class; 0.5 is chance, lines are 95% intervals")
display.show(figure, cfg, "shortcuts")

# %% [markdown]
# The point is the estimate, the line its 95% interval. A coloured one is a warning: it
# lies clearly above chance. It does not forbid training. It says what the model has to
# beat: a model that does no better than age, or than the size of the file, has not read
# the bone.
#
# ## Findings
#
# Everything that the audit found, the most serious first.

# %%
display.findings(found.audit["findings"], "Nothing was found that needs attention.")

# %% [markdown]
# ## Exercises
#
# Each answer is a change of one cell.
#
# 1. Show four images that were set aside instead of four usable ones. Would you have
#    excluded them, too?
# 2. Which class has the most copies? Count the rows of `copies` by `label`.
# 3. Set `patient_regex` to a pattern that matches nothing. What does the error say, and
#    what does `table["group"]` look like with a pattern that finds too much, such as
#    `^(.)`?
#
# ## Where to go from here
#
# The run folder now holds `catalog.csv` and `audit.json`. Next: `02_balance` splits the
# images by group and balances what training draws.

# %%
colab.finish(cfg)
