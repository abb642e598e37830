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
# # 4 · May I believe this model?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/bonelib/blob/main/notebooks/04_evaluate.ipynb)
#
# This notebook reads the test split, once, and says how good the model is, how sure one can be of that, and whether a much
# simpler method would do as well. It leaves a report to hand on.
#
# A GPU helps and is not needed. On the sample it takes about half a minute on two CPU cores and 2 GB of memory.
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
import json

import numpy as np
import pandas as pd

from bonelib import baselines, colab, evaluation, explain, model, page, plots, predict, report, series, split, verdict
from bonelib.artifact import write
from bonelib.config import CLASSES
from bonelib.copies import clusters

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
batch_size = ""  # @param {type:"string", placeholder:"16"}
cfg = colab.settings(results_on_drive, data=data, run=run, batch_size=batch_size)

# %% [markdown]
# ## The model and its images

# %%
table, findings, thumbs, _ = series.audited(cfg)
trainings = list(series.trainings(cfg))
models = [series.trained(*training) for training in trainings]
for (one, splits, _), (_, meta) in zip(trainings, models, strict=True):
    print(f"{one.run}: {meta['backbone']}, epoch {meta['epoch']}, {(splits['split'] == 'train').sum()} training images")

# %% [markdown]
# Before any figure: does a picture or a patient of the test split stand in train or val too? The audit has seen to that. Here
# the pictures are compared once more, mirrored and rescaled copies included, as they are parted now.

# %%
readable = table[table["status"] == "ok"]
seen = readable.assign(_picture=clusters(thumbs, readable, any_angle=False))
leaks = list(dict.fromkeys(s for _, parts, _ in trainings for s in verdict.leaks(parts, seen, findings)))
series.say(leaks or ["none does"])

# %% [markdown]
# ## Predictions, plain and with test-time augmentation
#
# Validation images are predicted too: the temperature and the thresholds are fitted on them, never on test. With `folds`,
# every image is test once, for the model that has not seen it, and the predictions are pooled.

# %%
parts = [predict.held_out(m[0], t[1], t[2], t[0]) for m, t in zip(models, trainings, strict=True)]
predictions = series.pooled(cfg, parts, trainings)
write(cfg.root / "predictions.csv", predictions.to_csv(index=False))
predictions.head()

# %%
weights = "".join(model.digest(one.root / "model") for one, _, _ in trainings)
reads = evaluation.count_read(predictions, weights, Path(cfg.mirror or cfg.run).parent / "test_reads.json")
print(f"test split read by {reads} model{'s' * (reads > 1)} so far")

# %% [markdown]
# Each further model that is judged on the same test images, and kept or dropped for it, makes the figure a little too good.
#
# ## The figures, each with its interval
#
# The intervals come from resampling the test split by patient group 1,000 times. Beside the model stand the simple ways: always
# the largest class; logistic regression on the intensity histogram and texture; the same on metadata, where there is any.

# %%
simple = series.pooled(cfg, [baselines.predict(t[1], t[2], table) for t in trainings], trainings)
metadata = table[["path", *baselines.metadata_columns(table)[0]]]
splits, pixels = trainings[0][1:]
options = {"priors": split.priors(splits), "resamples": cfg.resamples, "seed": cfg.seed, "target": cfg.target}
options |= {"cost": np.reshape(cfg.cost, (3, 3)) if cfg.cost else None, "prevalence": cfg.prevalence or None}
metrics = evaluation.evaluate(predictions, simple, metadata, **options)
metrics |= {"test_reads": reads, "leaks": leaks}
write(cfg.root / "metrics.json", json.dumps(metrics, indent=2))
learnt = {
    "temperature": metrics["calibration"]["plain"]["temperature"],
    "threshold": metrics["selective"]["plain"]["threshold"],
}
series.amend(trainings, **learnt)

# %%
figures = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "auroc", "quadratic_kappa")
rows_of = {**metrics["test"], **metrics["baselines"]}
told = {name: {page.name(f): verdict.span(block[f]) for f in figures} for name, block in rows_of.items()}
pd.DataFrame({verdict.NAMES.get(name, page.name(name)): told[name] for name in told}).T

# %%
series.show(plots.comparison(metrics), cfg, "comparison")

# %% [markdown]
# With `folds`, the spread between models tells what another draw of the training images, or another seed, would have given.

# %%
pd.DataFrame(metrics["spread"]["plain"]).T.round(3) if cfg.folds else "one split, one model: the spread is not known"

# %% [markdown]
# Where two intervals overlap widely, do not claim a difference. The paired comparison, which asks both methods about the
# same images, decides; in words:

# %%
series.say(metrics["verdict"])

# %% [markdown]
# ## Which errors
#
# The classes are steps on one scale. A neighbour mistaken is one thing; a healthy bone called osteoporotic, or the other
# way round, is another. The corners far from the diagonal should be empty.

# %%
series.show(plots.confusion(metrics["confusion"]), cfg, "confusion")

# %%
per_class = metrics["test"]["plain"]
pd.DataFrame(
    {f: {c: verdict.span(per_class[f][c]) for c in CLASSES} for f in ("sensitivity", "specificity", "ppv", "npv")}
)

# %%
test = predictions[(predictions["split"] == "test") & (predictions["tta"] == "plain")]
truth, probs = test["label"].map(CLASSES.index).to_numpy(), test.filter(like="p_").to_numpy()
series.show(plots.roc(truth, probs), cfg, "roc")

# %% [markdown]
# ## May a stated 80% be taken for 80%?
#
# What balancing did to the shares of the classes is undone. Then a temperature, fitted on validation, makes the probabilities
# as sure as they are right. Points on the diagonal are honest; below it the model is too sure of itself. With few test images
# the bars are long.

# %%
stages = {"as trained": "before", "with temperature": "after"}
calibration = metrics["calibration"]["plain"]
series.show(
    plots.reliability({name: calibration[key]["reliability"] for name, key in stages.items()}), cfg, "reliability"
)

# %% [markdown]
# ## When to say nothing
#
# If unsure images are referred to a person, how good is the rest? The threshold is chosen on validation. Calibrated, the model
# calls some images otherwise than in the table above, so the accuracy of all of them may be another too.

# %%
selective = metrics["selective"]["plain"]
series.show(
    plots.coverage_risk(selective["curve"], selective["threshold"], selective["target_accuracy"]), cfg, "coverage"
)

# %% [markdown]
# ## The images it fails on
#
# Look at them. A marker, an odd exposure or a wrong label tells more than another decimal. The frame is the true class.

# %%
at = {path: i for i, path in enumerate(splits["path"])}
failures = evaluation.failures(predictions, 6)
galleries = {
    t: plots.gallery(pixels[[at[p] for p in rows["path"]]], rows, t.capitalize()) for t, rows in failures.items()
}
for title, figure in galleries.items():
    series.show(figure, cfg, "gallery_" + title.replace(" ", "_"))

# %%
galleries["most confident errors"]

# %% [markdown]
# The images on which the model is least sure, and those on which the views of test-time augmentation disagree most, are in
# the report.

# %% [markdown]
# ## What the model looks at
#
# Grad-CAM paints what spoke for the class that was called. Such maps please the eye too easily, so two checks with numbers
# stand beside them: does the call suffer more when the painted squares are taken away than when others are? And does the
# model still know the class when it sees the corners alone, without the bone? The pictures: four of the test split, then its most
# confident errors.

# %%
net, meta = models[0]
held_out = np.flatnonzero(splits["split"] == "test")
found = explain.explain(net, pixels[held_out], splits.iloc[held_out], seed=cfg.seed)
write(cfg.root / "explain.json", json.dumps(found, indent=2))
series.say(found["verdict"])

# %%
worst = [at[p] for p in failures["most confident errors"]["path"] if at[p] in held_out]
some = np.array([*held_out[:: max(1, len(held_out) // 4)][:4], *worst[:4]])
called = predict.logits(net, pixels, some)[0].argmax(1)
captions = [f"true {t}\ncalled {CLASSES[c]}" for t, c in zip(splits["label"].iloc[some], called, strict=True)]
heats = None if "no_heat" in found else explain.heat(net, pixels[some], called)
title = "What was called" if heats is None else "What spoke for the call"
series.show(plots.grid(pixels[some], captions, title=title, heats=heats), cfg, "heat")

# %% [markdown]
# ## The report
#
# One file with everything above, to hand on or to print, and a model card beside it.

# %%
path = report.write(cfg.root)
print(f"open {path.resolve()}")

# %% [markdown]
# ## Where to go from here
#
# The folder of the run holds `metrics.json`, `predictions.csv`, `report.html` and `MODEL_CARD.md`. Change one setting, give
# another run folder, train again, and compare: on validation, until the last day.

# %%
colab.finish(cfg)  # brings the results to Drive, if that box is ticked
