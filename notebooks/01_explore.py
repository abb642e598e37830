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
# # 1 · What is in the data?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/bonelib/blob/main/notebooks/01_explore.ipynb)
#
# This notebook looks at a set of bone-density images before any model does: how many there are, which are copies of one
# another, which contradict each other, and what besides bone could give the class away.
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
from bonelib import audit, colab, plots, plots_audit, series

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
cfg = colab.settings(results_on_drive, data=data, run=run)

# %% [markdown]
# ## Every file, one table
#
# Each file is decoded once, to grey, and measured. What cannot be read is set aside with its reason; it never becomes a
# picture of some class. The audit then fills two columns: `group`, the images that must never be parted, and `issues`.

# %%
table, findings, thumbs, root = series.audited(cfg, afresh=True)
table[["path", "label", "patient", "width", "height", "format", "status", "group", "issues"]].head()

# %% [markdown]
# From what was found to what may be used: the steps are counted, so that nothing disappears unseen.

# %%
series.show(plots_audit.flow(findings), cfg, "flow")

# %% [markdown]
# Copies are left out but for one of each, and so is every picture that stands under two different labels: no model can
# learn from a contradiction. What could not be read, and why:

# %%
table.loc[table["status"] != "ok", ["path", "label", "bytes", "status"]]

# %% [markdown]
# ## The classes
#
# Accuracy alone flatters a model on unequal classes: always naming the largest is right as often as that class is large.
# That share is the first thing that a model has to beat.

# %%
series.show(plots.class_counts(table[table["status"] == "ok"], title="Readable images of each class"), cfg, "classes")

# %% [markdown]
# ## The pictures
#
# A few of each class, as the model will see them: one grey channel, the whole picture in a black square.

# %%
readable = table[table["status"] == "ok"].reset_index(drop=True)
some = readable[audit.usable(readable)].groupby("label").head(4).sort_values("label")
colours = [plots.PALETTE[label] for label in some["label"]]
series.show(plots.grid(thumbs[some.index], list(some["label"]), colours, title="Four of each class"), cfg, "pictures")

# %% [markdown]
# Look for what is *not* bone: letters, markers, coloured overlays, borders, another scanner. If it goes with the class,
# a model will learn it instead.
#
# ## Copies
#
# Two pictures are copies if one can be had from the other by mirroring, turning, rescaling, cropping, recompressing or a
# change of exposure. If one lies in train and the other in test, the test figure is worth nothing. Each row below is a
# cluster, with what kind of copy it is and how sure the comparison was.

# %%
copies = series.show(plots_audit.clusters(findings, readable, thumbs), cfg, "copies") if findings["clusters"] else None
copies or "No copies were found."

# %% [markdown]
# Pictures of one patient, and copies, share a `group`. Groups, not pictures, are dealt to train, validation and test.

# %%
table.loc[table["issues"] != "", ["path", "label", "group", "issues"]]

# %% [markdown]
# What else stands out: values that cannot be, names that seem to carry a patient or tell a copy, a known public set.

# %%
series.say(findings["notes"] or ["Nothing else stands out."])

# %% [markdown]
# ## Shortcuts
#
# How well can the class be told from things that are not bone? Each row is a small model that sees one such thing only,
# judged by grouped cross-validation: 0.5 is chance, the bar is the 95% interval. On a very small set, what tells nothing falls
# below 0.5, because each fold holds out what the others then lack.

# %%
series.show(plots_audit.shortcuts(findings), cfg, "shortcuts")

# %%
series.say(findings["warnings"] or ["No shortcut was found that predicts the class better than chance."])

# %% [markdown]
# A warning here does not forbid training. It says what the model must be compared with: a model that does no better than
# age, or than the size of the file, has not read the bone.
#
# ## Where to go from here
#
# The run folder now holds `catalog.csv` and `audit.json`. Next: `02_balance` parts the images by group and balances what
# training draws.

# %%
colab.finish(cfg)  # brings the results to Drive, if that box is ticked
