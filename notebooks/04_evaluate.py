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
# # 4 · Evaluate: can I trust this model?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/bonelib/blob/main/notebooks/04_evaluate.ipynb)
#
# This notebook predicts the test set and answers how good the model is, how certain
# that is, and whether a much simpler method would do as well. It writes a report.
#
# A GPU helps and is not needed. On the sample it takes about a minute on two CPU cores.
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
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.metrics import auc, roc_curve

from bonelib import augment, colab, display, pipeline, scoring, split
from bonelib import external as external_test
from bonelib.evaluation import calibration, evaluate, gradcam
from bonelib.evaluation.baselines import cheap_features, logistic_regression
from bonelib.evaluation.findings import format_interval
from bonelib.evaluation.predict import probability_columns, softmax_mean
from bonelib.evaluation.predict import logits as predict_logits
from bonelib.plots import evaluation as plots
from bonelib.plots import training as plots_training
from bonelib.plots.style import class_colours, new_chart
from bonelib.report.report import format_value, write_report
from bonelib.storage import write_json

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
# @markdown The folder of the trained run.
run = ""  # @param {type:"string", placeholder:"runs/sample"}
# @markdown Keep a copy of the results on Google Drive.
results_on_drive = False  # @param {type:"boolean"}
# @markdown Accuracy of the answered images when unsure ones are referred to a person.
target = ""  # @param {type:"string", placeholder:"0.9"}
# @markdown Shares of the classes where the model is to be used: 0.6, 0.3, 0.1
prevalence = ""  # @param {type:"string", placeholder:"as in the data"}
# @markdown Labelled images of another source, given like `data`, to test the run on.
external = ""  # @param {type:"string"}
form = {"target": target, "prevalence": prevalence, "external": external}
cfg = colab.settings(results_on_drive, data=data, run=run, **form)

# %% [markdown]
# ## The model
#
# Before any number: is an image or a patient of the test set in the training set, too?
# The images are compared once more, mirrored and rescaled copies included.

# %%
found = pipeline.audited(cfg)
folds = list(pipeline.folds(cfg))
models = [pipeline.trained_model(fold) for fold in folds]
fold, model, names = folds[0], models[0], folds[0].class_names
leaks = scoring.find_leaks(found, folds)
display.findings(leaks, "No image and no patient is in more than one split.")
rows = {
    f.folder.name: (m.meta["backbone"], m.meta["epoch"], len(f.rows("test")))
    for f, m in zip(folds, models)
}
columns = ["backbone", "epoch", "test images"]
pd.DataFrame.from_dict(rows, orient="index", columns=columns)

# %% [markdown]
# ## One test image by hand
#
# The model returns one logit per class, a score of any size; softmax (`exp`, then
# divided by the sum) makes them probabilities.

# %%
number = fold.rows("test")[0]
image = torch.from_numpy(np.array(fold.images[number]))[None, None]  # (1, 1, S, S)
device = next(model.net.parameters()).device
with torch.inference_mode():
    logits = model.net(image.to(device)).float().cpu()[0]  # (K,)
probabilities = logits.softmax(dim=0)
pd.DataFrame({"logit": logits, "probability": probabilities}, index=names).round(3)

# %% [markdown]
# Test-time augmentation predicts the image in each of its views and averages the
# probabilities. That is all.

# %%
views = augment.views(image.to(device), cfg.tta)[:, 0]  # (V, 1, S, S)
with torch.inference_mode():
    by_view = model.net(views).float().softmax(dim=1).cpu().numpy()  # (V, K)
table = pd.DataFrame(by_view, index=list(cfg.tta), columns=names)
table.loc["mean"] = table.mean()
by_package = softmax_mean(predict_logits(model.net, fold.images, [number], cfg.tta))
assert np.allclose(table.loc["mean"], by_package[0], atol=1e-3)
table.round(2)

# %% [markdown]
# If the rows of the table differ much, the model depends on how the knee was placed.
# The mean is steadier than any single view.
#
# ## All predictions
#
# Validation images are predicted too: the temperature and the thresholds are fitted on
# them, never on the test set.

# %%
predictions = scoring.predict_folds(cfg, models, folds)
baselines = scoring.baseline_predictions(cfg, found, folds)
metrics = scoring.evaluate_run(cfg, found, models, folds, predictions, baselines)
columns = probability_columns(names)
test = predictions.query("split == 'test' and tta == 'plain'").reset_index(drop=True)
y = split.label_indices(test["label"], names)
p = test[columns].to_numpy()
display.sentences(
    f"{len(test)} images; the test set was used {metrics['test_reads']} time(s)"
)
display.show(plots.confusion_matrices(metrics["confusion"], names), cfg, "confusion")

# %% [markdown]
# Each further model that is evaluated on the same test set, and kept or dropped for it,
# makes the result a little too good. Compare settings on validation images.
#
# The figure is the confusion matrix. Rows are the true classes; the diagonal is right.
# The classes are steps on one scale, so a neighbouring class is a small error; the two
# corners far from the diagonal, a healthy bone predicted as the worst class or the
# other way round, should be empty.
#
# ## How certain is the accuracy?
#
# Draw the test images again and again, with replacement, and look at how much the
# accuracy varies: a bootstrap. Images of one patient are alike, so drawing *patients*
# is the right way; drawing images pretends more information than there is.

# %%
correct = p.argmax(axis=1) == y
rng = np.random.default_rng(cfg.seed)
groups = [np.flatnonzero(test["group"] == group) for group in test["group"].unique()]
by_image = [rng.choice(correct, len(correct)).mean() for _ in range(cfg.resamples)]
by_group = []
for _ in range(cfg.resamples):
    drawn = rng.integers(len(groups), size=len(groups))
    by_group.append(correct[np.concatenate([groups[i] for i in drawn])].mean())
spans = {"images": by_image, "patients": by_group}
limits = {n: np.quantile(v, [0.025, 0.975]) for n, v in spans.items()}
pd.DataFrame(limits, index=["low", "high"]).T.round(2)

# %% [markdown]
# The second row is usually the wider one. bonelib uses it everywhere, with a small
# correction for few patients. Every number below has such an interval.
#
# ## Metrics

# %%
shown = ["accuracy", "balanced_accuracy", "macro_f1", "auroc", "quadratic_kappa"]
rows = {
    kind: {name: format_interval(block[name]) for name in shown if name in block}
    for kind, block in metrics["test"].items()
}
if "patients" in metrics:
    by_patient = metrics["patients"]
    rows["by patient"] = {n: format_interval(by_patient[n]) for n in shown}
if cfg.folds:
    spread = metrics["spread"]["plain"]
    display.sentences(f"{n}: {format_value(values)}" for n, values in spread.items())
pd.DataFrame(rows)

# %% [markdown]
# `plain` is one prediction per image, `tta` the mean over the views, and `by patient`
# the mean over the images of a patient, where patients are known. Balanced accuracy
# is the mean sensitivity of the classes. F1 is the harmonic mean of sensitivity and
# PPV, macro-F1 its mean over the classes. AUROC is averaged over the classes, each
# against the rest: 0.5 is chance. Quadratic kappa is agreement beyond chance in which
# an error by two classes counts four times as much as one by one. Where two intervals
# overlap widely, do not claim a difference: the paired comparison below decides. With
# cross-validation, the first table shows how much folds and seeds differ.
#
# ## Baselines
#
# What do methods reach that do not look for bone? "Majority" always predicts the
# largest class of the training set, "metadata" sees age, sex and the like, "intensity"
# sees grey levels and texture only, and "frozen features" sees what an untouched
# ImageNet network makes of the image; the last three are logistic regressions.

# %%
display.show(plots.comparison(metrics), cfg, "comparison")

# %% [markdown]
# The model should be to the right of every baseline, with little overlap. Points and
# lines do not decide, because both methods saw the same images; the paired difference
# does (accuracy of the model minus that of the baseline, on the same resamples):

# %%
simple = baselines.query("baseline == 'intensity'").drop_duplicates("path")
other = test[["path"]].merge(simple, on="path")
gain = correct.astype(float) - (other[columns].to_numpy().argmax(axis=1) == y)
drawn = rng.integers(len(groups), size=(cfg.resamples, len(groups)))
gains = [gain[np.concatenate([groups[i] for i in row])].mean() for row in drawn]
xlabel = "accuracy of the model minus that of the intensity baseline"
figure, axis = new_chart("baselines", 3.2, xlabel=xlabel, ylabel="resamples")
axis.hist(gains, bins=30)
axis.axvline(0, color="black")
for limit in np.quantile(gains, [0.025, 0.975]):
    axis.axvline(limit, color="black", linestyle="--")
display.show(figure, cfg, "difference")
display.findings(metrics["findings"], "Nothing to report.")

# %% [markdown]
# The dashed lines enclose the middle 95%. If zero, the solid line, is between them,
# this test set cannot tell the two apart. The findings say so for every baseline,
# frozen features included: was fine-tuning worth it?
#
# ## Sensitivity and specificity

# %%
block = metrics["test"]["plain"]
kinds = ["sensitivity", "specificity", "ppv", "npv"]
figure, axis = new_chart("metrics", 5, "ROC, each class against the rest")
for number, (name, colour) in enumerate(class_colours(names).items()):
    x, sensitivity, _ = roc_curve(y == number, p[:, number])
    label = f"{name} (AUROC {auc(x, sensitivity):.2f})"
    axis.plot(x, sensitivity, color=colour, label=label)
axis.plot([0, 1], [0, 1], "--", color="grey", label="chance")
axis.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal")
figure.legend(loc="outside lower center")
display.show(figure, cfg, "roc")
pd.DataFrame({k: {n: format_interval(block[k][n]) for n in names} for k in kinds})

# %% [markdown]
# The further a curve is from the dashed line, the better that class is separated from
# the others. Read the table by column: the sensitivity of a class is the share of its
# images that were found, the specificity the share of all other images that were not
# taken for it. PPV and NPV are the shares of right predictions among those for and
# against the class; they hold for the class shares of this test set only (setting
# `prevalence` for others).
#
# A screening test needs a high sensitivity. Setting `sensitivity`: the threshold that
# reaches it on the validation set, and what that costs on the test set.

# %%
screening = pd.DataFrame(metrics["screening"])
for name in ["sensitivity", "specificity"]:
    screening[name] = screening[name].map(format_interval)
screening.round(2)

# %% [markdown]
# `referred` and `missed` are per 1,000 people of whom the share `positive` is ill: as
# in the data, or as `prevalence` says. The lower end of the sensitivity counts.
#
# ## Calibration: does 80% mean 80%?
#
# Balancing taught the model the wrong class shares; that is undone first. Then one
# number, the temperature, makes the probabilities match how often they are right. It is
# fitted on the validation set in four lines:

# %%
val = predictions.query("split == 'val' and tta == 'plain'")
val_p = calibration.undo_class_shares(val[columns], *fold.class_shares)
log_p, val_y = np.log(val_p.clip(1e-15)), split.label_indices(val["label"], names)


def log_loss(t):
    return -(log_p[range(len(val_y)), val_y] / t - logsumexp(log_p / t, axis=1)).mean()


temperature = minimize_scalar(log_loss, bounds=(0.05, 20), method="bounded").x
fitted = metrics["calibration"]["plain"]["temperature"]
assert abs(temperature / fitted - 1) < 0.02, (temperature, fitted)
display.sentences(
    f"temperature {temperature:.2f}: 1 changes nothing, above 1 is less certain"
)
block = metrics["calibration"]["plain"]
curves = {stage: block[stage]["reliability"] for stage in ("before", "after")}
display.show(plots.reliability_diagram(curves), cfg, "reliability")

# %% [markdown]
# Points on the diagonal mean what they say; below it the model is too certain. With few
# test images the bars are long, and a point away from the diagonal proves little.
#
# ## When to abstain
#
# If images with a low probability are referred to a person, how accurate is the rest?
# The threshold is chosen on the validation set.

# %%
selective = metrics["selective"]["plain"]
curve = pd.DataFrame(selective["curve"])
figure, axis = new_chart("abstain", 4, "Accuracy when unsure images are referred")
axis.step(curve["coverage"], 1 - curve["risk"], label="test set")
axis.axhline(cfg.target, linestyle="--", color="grey", label="target")
if selective["answered"]:
    reached = selective["accuracy"]["value"]
    axis.plot(selective["coverage"], reached, "o", label="threshold from validation")
axis.set(xlabel="share of images answered", ylabel="accuracy", ylim=(None, 1.02))
figure.legend(loc="outside lower center", ncols=3)
display.show(figure, cfg, "coverage")

# %% [markdown]
# A useful model rises to the left: the fewer images it answers, the more accurate it
# is. A flat curve means that its probabilities do not tell which images are difficult.
# Without a dot, no threshold reached the target on the validation set.
#
# ## How many more patients?
#
# A cheap classifier, logistic regression on frozen features, trained on more and more
# of the patients. A fifth of the training and validation patients is held out each
# time; the test set is not used.

# %%
features, known = cheap_features(cfg, fold.images), fold.rows("train", "val")
vectors, y_known = features[known], fold.labels[known]
owner, results = fold.splits["group"].to_numpy()[known], []
for repeat in range(3 if cfg.smoke else 20):
    held_out = split.assign_folds(y_known, owner, 5, repeat) == 0
    patients = np.random.default_rng(repeat).permutation(np.unique(owner[~held_out]))
    row = {}
    for share in (0.2, 0.4, 0.6, 0.8, 1.0):
        train = np.isin(owner, patients[: round(share * len(patients))])
        few = logistic_regression(
            vectors[train], y_known[train], vectors[held_out], len(names)
        )
        hits = few.argmax(axis=1) == y_known[held_out]
        row[f"{share:.0%} of the patients"] = hits.mean()
    results.append(row)
curve = pd.DataFrame(results)
title = "Accuracy with more and more patients"
display.show(plots_training.ranges(curve, title, "accuracy"), cfg, "learning_curve")
gain = curve.iloc[:, -1] - curve.iloc[:, -3]
low, high = gain.quantile([0.025, 0.975])
shape = "still rises" if low > 0 else "may have flattened"
display.sentences(
    [
        f"From 60% to all patients the accuracy changes by {gain.mean():+.2f} "
        f"({low:+.2f} to {high:+.2f} in 95% of the repeats): the curve {shape}."
    ]
)

# %% [markdown]
# If the range includes 0, more patients of this kind may help this classifier little; a
# fine-tuned network may need more. How many *test* patients it takes to know
# the accuracy to within 5 points is among the findings above.
#
# ## Doubtful labels
#
# Three reasons to look at a label again: copies have different labels, the T-score is
# of another class, or a classifier that has not seen the image contradicts it with
# confidence. The last is asked for training and validation images only: a test set
# cleaned by a model would flatter that model.

# %%
doubtful = scoring.write_review(cfg, found, fold, features)
display.sentences(f"{len(doubtful)} doubtful labels in {cfg.root / 'review.csv'}")
doubtful[["path", "label", "reason"]].head(10)

# %% [markdown]
# Open the file in a spreadsheet and fill in the column `decision`: `keep`, `exclude`,
# or the right class. Beside the images, it counts from the next `01_explore` on. A
# doubtful label is not a wrong one: look at the image before you decide.
#
# ## Failures
#
# Look at them. A marker, an unusual exposure or a wrong label says more than another
# decimal.

# %%
position = {path: number for number, path in enumerate(fold.splits["path"])}
failures = evaluate.failures(predictions, names, 6)
for title, rows in failures.items():
    pixels = fold.images[[position[path] for path in rows["path"]]]
    captions = "true " + rows["label"] + "\npredicted " + rows["prediction"]
    captions = rows["path"].str.split("/").str[-1] + "\n" + captions
    frames = [class_colours(names)[label] for label in rows["label"]]
    options = {"columns": 3, "title": title.capitalize(), "section": "failures"}
    figure = plots_training.image_grid(pixels, list(captions), frames, **options)
    display.show(figure, cfg, "gallery_" + title.replace(" ", "_"))

# %% [markdown]
# The frame is the true class. If most of these images look alike in something that is
# not bone, the model has found a shortcut.
#
# ## Where the model looks
#
# The last feature map still has places: h x w cells with C numbers each. Grad-CAM adds
# the C numbers of a cell, each weighted by how much it increases the logit of the
# predicted class (the gradient): which places speak for that class? A vision
# transformer has no such map, and gets no heat maps.

# %%
net = model.net.eval()
x = (image.to(device).float() - net.mean) / net.std  # (1, 3, S, S)
with torch.no_grad():
    features = net.backbone.forward_features(x)  # (1, C, h, w) for a CNN
features = features.detach().requires_grad_()
score = net.backbone.forward_head(features)[0].max()
(gradient,) = torch.autograd.grad(score, features)
if getattr(net.backbone, "output_fmt", "") == "NHWC":  # Swin: channels last
    features, gradient = (t.permute(0, 3, 1, 2) for t in (features, gradient))
if features.ndim == 4:
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    cam = (weights * features).sum(dim=1).relu()[0].detach().cpu().numpy()  # (h, w)
    display.sentences(f"heat map of {cam.shape} cells")
else:
    display.sentences("no heat map: this backbone has no feature map (N, C, h, w)")

# %%
held_out = fold.rows("test")
worst = [position[path] for path in next(iter(failures.values()))["path"][:4]]
chosen = np.array([*held_out[:: max(1, len(held_out) // 4)][:4], *worst])
held_out_rows = fold.splits.iloc[held_out]
explained = gradcam.explain(net, fold.images[held_out], held_out_rows, names)
write_json(cfg.root / "explain.json", explained)
predicted = predict_logits(net, fold.images, chosen)[0].argmax(axis=1)
maps = None
if "no_map" not in explained:
    maps = gradcam.heatmaps(net, fold.images[chosen], predicted)
labels = fold.splits["label"].iloc[chosen]
captions = [f"true {t}\npredicted {names[c]}" for t, c in zip(labels, predicted)]
kind = "no heat maps" if maps is None else "Grad-CAM"
title = f"Four test images, then errors: {kind}"
figure = plots_training.image_grid(
    fold.images[chosen], captions, title=title, maps=maps, section="explanations"
)
display.show(figure, cfg, "heatmaps")
display.findings(explained["findings"], "No checks were possible.")

# %% [markdown]
# Heat should be on bone, not on letters or borders. But such maps please the eye too
# easily. Two checks decide whether to trust them: does the probability fall more when
# the hot squares are blurred than when random ones are (the gain by deletion)? And does
# the model still know the class when it sees the corners only, without bone? The list
# above says what they found.
#
# ## Another hospital
#
# A test set from the same source shares its scanner and its habits. With the setting
# `external`, the same models predict images of another source. "External" sets often
# hold copies of the same public images: those are found and set aside first.

# %%
if cfg.external:
    block = external_test.evaluate_external(cfg, found, folds, predictions)
    figure = plots.comparison(metrics | {"external": block})
    display.show(figure, cfg, "external")
    display.findings(block["findings"], "Nothing to report.")
else:
    display.sentences("no external test: the setting `external` is empty")

# %% [markdown]
# The line `external images` should be as far to the right as the model's. If it is not,
# the model has learnt its own hospital, and its results hold there only.
#
# ## All runs so far
#
# Every run beside this one, with the settings that differ.

# %%
scoring.compare_runs(cfg.root.parent)

# %% [markdown]
# Choose between runs by the validation accuracy, not by the test results: otherwise the
# test set becomes a second validation set.
#
# ## The report
#
# One file with everything above, and a model card beside it.

# %%
report = write_report(cfg.root)
display.sentences(f"open {report}")
colab.download(report)
colab.finish(cfg)

# %% [markdown]
# ## Exercises
#
# Each answer is a change of one cell.
#
# 1. Repeat the bootstrap with 20 resamples instead of `cfg.resamples`, twice. How much
#    do the intervals change?
# 2. Compare the model with the baseline "metadata" instead of "intensity", if there is
#    one.
# 3. In the table of views, keep only `identity` and `mirror`. Does the mean change
#    much?
#
# ## Where to go from here
#
# The run folder now holds `metrics.json`, `predictions.csv`, `report.html` and
# `MODEL_CARD.md`. Next: `05_predict` predicts new images.
