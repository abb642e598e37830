import numpy as np
import pandas as pd
import pytest

from bonelib import baselines, evaluation, metrics
from bonelib.config import CLASSES


def table(n=180, seed=0):
    """Splits, one image a patient, and labels as numbers."""
    y = np.random.default_rng(seed).integers(0, 3, n)
    part = np.where(np.arange(n) % 3 == 0, "test", "train")
    paths = [f"{CLASSES[c]}/{i}.png" for i, c in enumerate(y)]
    labels, groups = [CLASSES[c] for c in y], [f"g{i}" for i in range(n)]
    return pd.DataFrame({"path": paths, "label": labels, "group": groups, "split": part}), y


def noise(y, seed=1, size=48):
    """Images that hold nothing of the class."""
    return np.random.default_rng(seed).integers(40, 160, (len(y), size, size), dtype=np.uint8)


def auroc(found, name, splits):
    rows = found[found["baseline"] == name]
    y = rows["label"].map(CLASSES.index).to_numpy()
    assert rows["path"].tolist() == splits.loc[splits["split"] == "test", "path"].tolist()
    return metrics.figures(y, rows[metrics.PROBS].to_numpy())["auroc"]


def test_majority_gives_the_training_shares():
    probs = baselines.majority(np.array([0, 1, 1, 2]), 5)
    assert probs.shape == (5, 3)
    assert probs[0] == pytest.approx([0.25, 0.5, 0.25])


def test_intensity_finds_brightness_and_grain_and_nothing_in_noise():
    splits, y = table()
    bright = np.clip(noise(y) + (15 * y[:, None, None]), 0, 255).astype(np.uint8)
    grainy = noise(y)
    grainy[y == 2] = np.repeat(np.repeat(grainy[y == 2][:, ::2, ::2], 2, 1), 2, 2)  # same grey levels, coarser
    assert auroc(baselines.predict(splits, bright), "intensity", splits) > 0.95
    assert auroc(baselines.predict(splits, grainy), "intensity", splits) > 0.7
    assert 0.3 < auroc(baselines.predict(splits, noise(y)), "intensity", splits) < 0.7


def test_local_binary_patterns_of_a_flat_image_are_all_one_pattern():
    features = baselines.texture(np.full((1, 32, 32), 100, np.uint8))[0]
    assert features.shape == (62,)
    assert features[100 >> 3] == 1
    assert features[32:].reshape(3, 10)[:, 8].tolist() == [1, 1, 1]


def test_a_mark_in_a_corner_is_found_by_the_corners_and_called_a_shortcut():
    splits, y = table()
    images = noise(y)
    for i, c in enumerate(y):
        images[i, :4, 4 * c : 4 * c + 4] = 255
    found = baselines.predict(splits, images)
    assert auroc(found, "corners", splits) > 0.9
    rows = splits.assign(tta="plain", **dict.fromkeys(metrics.PROBS, 1 / 3))
    assert any(s.startswith("Shortcut") for s in evaluation.evaluate(rows, found, resamples=100)["verdict"])
    clean = baselines.predict(splits, noise(y))
    assert not any(s.startswith("Shortcut") for s in evaluation.evaluate(rows, clean, resamples=100)["verdict"])


def test_corners_do_not_see_the_middle():
    images = noise(np.zeros(4, int))
    other = images.copy()
    other[:, 12:36, 12:36] = 0
    assert np.array_equal(baselines.corners(images), baselines.corners(other))


def test_metadata_that_tells_the_class_is_used_and_the_t_score_is_not():
    splits, y = table()
    rng = np.random.default_rng(2)
    known = pd.DataFrame({
        "path": splits["path"], "patient": splits["group"], "age": 50 + 10.0 * y + rng.normal(size=len(y)),
        "sex": rng.choice(["f", "m"], len(y)), "T-score": -1.3 * y, "empty": np.nan,
    })  # fmt: skip
    known.loc[::7, "age"] = np.nan
    known.loc[::9, "sex"] = None
    assert baselines.metadata_columns(known) == (["age", "sex"], ["T-score"])
    found = baselines.predict(splits, noise(y), known.sample(frac=1, random_state=0))
    assert auroc(found, "metadata", splits) > 0.9
    assert "metadata_image" in set(found["baseline"])
    assert "metadata" not in set(baselines.predict(splits, noise(y), known[["path", "T-score"]])["baseline"])


def test_metadata_is_learnt_on_training_rows_alone():
    train = pd.DataFrame({"age": [40.0, 60.0, np.nan], "site": ["a", "a", "a"]})
    test = pd.DataFrame({"age": [1000.0], "site": ["never seen"]})
    x_train, x_test = baselines.encode(train, test, ["age", "site"])
    assert x_train[:, 0].mean() == pytest.approx(0)
    assert x_test[0, 0] > 50  # scaled by training ages
    assert np.isfinite(x_test).all()


def test_a_class_absent_from_training_gets_probability_zero():
    x = np.random.default_rng(3).normal(size=(20, 2))
    probs = baselines.regression(x, np.array([0, 1] * 10), x[:4])
    assert (probs[:, 2] == 0).all()
    assert probs.sum(1) == pytest.approx(1)


def test_a_training_set_of_one_class_gives_that_class():
    probs = baselines.regression(np.ones((4, 2)), np.array([1, 1, 1, 1]), np.ones((3, 2)))
    assert probs.tolist() == [[0, 1, 0]] * 3
