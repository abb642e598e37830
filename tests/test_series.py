"""What one notebook takes from the one before: used if it fits, made if not, refused if it belongs elsewhere."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from bonelib import baselines, evaluation, predict, series, split
from bonelib.config import CLASSES
from bonelib.resume import ResumeError


def test_audit_is_made_once_and_read_again(cfg, capsys, monkeypatch):
    first = series.audited(cfg)
    assert "making it" in capsys.readouterr().out
    assert {"catalog.csv", "audit.json", "config.json"} <= {p.name for p in cfg.root.iterdir()}
    monkeypatch.setattr(series.audit, "audit", None)  # a second audit would fail
    again = series.audited(cfg)
    pd.testing.assert_frame_equal(first[0], again[0], check_dtype=False)
    assert again[1] == json.loads(json.dumps(first[1]))


def test_audit_of_other_labels_is_made_anew(cfg):
    series.audited(cfg)
    table = pd.read_csv(cfg.root / "catalog.csv")
    table.loc[0, "label"] = "Osteoporosis"
    table.to_csv(cfg.root / "catalog.csv", index=False)
    assert series.audited(cfg)[0].loc[0, "label"] == "Normal"


def test_whole_artifact_set_from_an_empty_folder(cfg):
    one, splits, pixels = next(series.trainings(cfg))
    assert one == cfg and pixels.shape == (len(splits), cfg.image_size, cfg.image_size)
    series.trained(one, splits, pixels)
    names = {p.relative_to(cfg.root).as_posix() for p in cfg.root.rglob("*")}
    assert {"splits.csv", "history.csv", "model/model.safetensors", "model/config.json", "checkpoints/last"} <= names


def test_model_of_another_split_or_image_size_is_refused(cfg):
    one, splits, pixels = next(series.trainings(cfg))
    series.trained(one, splits, pixels)
    with pytest.raises(ResumeError, match="image_size 64, found 32"):
        series.trained(one, splits, pixels[:, ::2, ::2])
    other = dataclasses.replace(cfg, seed=5)
    one, splits, pixels = next(series.trainings(other))
    with pytest.raises(ResumeError, match="another split"):
        series.trained(one, splits, pixels)


def test_cross_validation_tests_every_image_once_a_repeat_and_pools(cfg):
    cfg = dataclasses.replace(cfg, folds=3, repeats=2, epochs=1, mirror=f"{cfg.run}/../drive")
    trainings = list(series.trainings(cfg))
    assert len(trainings) == 6 and len({one.run for one, _, _ in trainings}) == 6
    assert len({one.mirror for one, _, _ in trainings}) == 6, "none overwrites another's copy"
    tables = [predict.held_out(series.trained(*t)[0], t[1], t[2], t[0]) for t in trainings]
    pooled = series.pooled(cfg, tables, trainings)
    test = pooled[(pooled["split"] == "test") & (pooled["tta"] == "tta")]
    assert (test.groupby(["path", "seed"]).size() == 1).all() and len(test) == 2 * len(trainings[0][1])
    simple = series.pooled(cfg, [baselines.predict(t[1], t[2]) for t in trainings], trainings)
    metrics = evaluation.evaluate(pooled, simple, priors=split.priors(trainings[0][1]), resamples=50)
    assert metrics["counts"]["images"] == len(trainings[0][1])
    mean = np.mean([(t.filter(like="p_").to_numpy().argmax(1) == t["label"].map(CLASSES.index)).mean()
                    for _, t in test.groupby(["seed", "fold"])])  # fmt: skip
    spread = metrics["spread"]["tta"]["accuracy"]
    assert spread["mean"] == pytest.approx(mean) and spread["over_folds"] >= 0 and spread["over_seeds"] is not None


def test_figures_are_kept_in_the_run_folder(cfg):
    from bonelib import plots

    table = pd.DataFrame({"label": ["Normal", "Osteopenia", "Osteoporosis"]})
    figure = series.show(plots.class_counts(table), cfg, "counts")
    assert (cfg.root / "figures" / "counts.png").stat().st_size > 1000 and figure._repr_png_()


def test_long_sentences_are_folded_between_words(capsys):
    series.say(["a " * 90 + "word", "short"])
    first, second, third = capsys.readouterr().out.splitlines()
    assert len(first) <= 100 and first.split() == ["a"] * 50 and second.endswith(" a word") and third == "short"
