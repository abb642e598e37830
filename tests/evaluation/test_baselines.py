import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from bonelib.config import CLASSES, Config
from bonelib.evaluation import baselines
from bonelib.evaluation.metrics import compute_metrics
from bonelib.evaluation.predict import probability_columns
from tests import builders

COUNT = 180
IMAGE_BASELINES = ["majority", "intensity"]


def labels(class_count=3, seed=0):
    return np.random.default_rng(seed).integers(0, class_count, COUNT)


def noise(count=COUNT, seed=1, size=48):
    """Images without any trace of the class."""
    return np.random.default_rng(seed).integers(40, 160, (count, size, size), dtype=np.uint8)


def fold_of(images, y, names=CLASSES):
    """A fold of a run without pretrained weights."""
    return builders.fold_of(images, y, names, pretrained=False)


def auroc(table, name, names=CLASSES):
    rows = table[table["baseline"] == name]
    y = rows["label"].map(list(names).index).to_numpy()
    probabilities = rows[probability_columns(names)].to_numpy()
    return compute_metrics(y, probabilities, names)["auroc"]


@pytest.mark.parametrize("names", [CLASSES, ("Normal", "Osteoporosis"), tuple("abcde")])
def test_every_baseline_predicts_every_test_row_for_any_number_of_classes(names):
    fold = fold_of(noise(), labels(len(names)), names)
    table = baselines.predict_baselines(fold)
    columns = ["path", "label", "group", "split", "baseline", *probability_columns(names)]
    assert list(table.columns) == columns
    assert table["baseline"].unique().tolist() == IMAGE_BASELINES
    test = fold.splits.iloc[fold.rows("test")][columns[:4]].reset_index(drop=True)
    for _, rows in table.groupby("baseline"):
        assert rows[columns[:4]].reset_index(drop=True).equals(test)
        assert np.allclose(rows[columns[5:]].sum(axis=1), 1)


def test_majority_gives_the_class_shares_of_training():
    probabilities = baselines.majority(np.array([0, 1, 1, 3]), 5, 4)
    assert np.array_equal(probabilities, [[0.25, 0.5, 0, 0.25]] * 5)


def test_intensity_finds_brightness_and_grain_and_nothing_in_noise():
    y = labels()
    bright = np.clip(noise() + 15 * y[:, None, None], 0, 255).astype(np.uint8)
    # the same grey levels, but coarser
    grainy = noise()
    grainy[y == 2] = np.repeat(np.repeat(grainy[y == 2][:, ::2, ::2], 2, 1), 2, 2)
    found = [baselines.predict_baselines(fold_of(x, y)) for x in (bright, grainy, noise())]
    by_brightness, by_grain, by_nothing = (auroc(table, "intensity") for table in found)
    assert by_brightness > 0.95 and by_grain > 0.7
    assert 0.3 < by_nothing < 0.7


def test_local_binary_patterns_of_a_flat_image_are_all_one_pattern():
    found = baselines.texture_features(np.full((32, 32), 100, np.uint8))
    assert found.shape == (62,)
    assert found[100 >> 3] == 1
    assert found[32:].reshape(3, 10)[:, 8].tolist() == [1, 1, 1]


def test_texture_sees_the_same_in_a_rotated_image():
    image = noise(1)[0]
    rotated = baselines.texture_features(np.rot90(image).copy())
    assert np.allclose(rotated, baselines.texture_features(image))


def test_local_binary_patterns_agree_with_neighbours_counted_one_by_one():
    image, size, radius = noise(1)[0], 48, 2
    counts = np.zeros(10)
    ring = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    for y in range(radius, size - radius):
        for x in range(radius, size - radius):
            bits = [image[y + radius * dy, x + radius * dx] >= image[y, x] for dy, dx in ring]
            changes = sum(bits[i] != bits[i - 1] for i in range(8))
            counts[sum(bits) if changes <= 2 else 9] += 1
    found = baselines.texture_features(image)
    assert found[42:52] == pytest.approx(counts / counts.sum())


def test_metadata_that_predicts_the_class_is_used_and_the_t_score_is_not():
    y = labels()
    fold, rng = fold_of(noise(), y), np.random.default_rng(2)
    table = fold.splits[["path"]].assign(patient=fold.splits["group"])
    table["age"] = 50 + 10.0 * y + rng.normal(size=COUNT)
    table["sex"] = rng.choice(["f", "m"], COUNT)
    table.loc[::7, "age"], table.loc[::9, "sex"] = np.nan, None
    shuffled = table.sample(frac=1, random_state=0)
    found = baselines.predict_baselines(fold, shuffled)
    assert found["baseline"].unique().tolist() == [*IMAGE_BASELINES, "metadata"]
    assert auroc(found, "metadata") > 0.9 > 0.7 > auroc(found, "intensity")
    defining = fold.splits[["path"]].assign(**{"T-score": -1.3 * y})
    found = baselines.predict_baselines(fold, defining)
    assert found["baseline"].unique().tolist() == IMAGE_BASELINES


def test_metadata_is_encoded_by_training_rows_alone():
    train = pd.DataFrame({"age": [40.0, 60.0, np.nan], "site": ["a", "a", "a"]})
    test = pd.DataFrame({"age": [1000.0], "site": ["new"]})
    x_train, x_test = baselines.encode_metadata(train, test, ["age", "site"])
    assert x_train[:, 0].mean() == pytest.approx(0)
    # scaled by the ages of training
    assert x_test[0, 0] > 50
    assert np.isfinite(x_test).all()
    assert train["age"].isna().sum() == 1 and test["site"].tolist() == ["new"]


def test_class_absent_from_training_gets_probability_0():
    x = np.random.default_rng(3).normal(size=(20, 2))
    probabilities = baselines.logistic_regression(x, np.array([0, 2] * 10), x[:4], 4)
    assert (probabilities[:, [1, 3]] == 0).all()
    assert probabilities.sum(1) == pytest.approx(1)


def test_training_set_of_one_class_gives_that_class():
    x = np.ones((4, 2))
    probabilities = baselines.logistic_regression(x, np.array([1, 1, 1, 1]), np.ones((3, 2)), 3)
    assert probabilities.tolist() == [[0, 1, 0]] * 3


def planted_features(class_count=3, groups=90, width=30, seed=0, signal=2.0):
    """Features of which one per class shows it, two images per group; labels and groups."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(groups) % class_count, 2)
    x = rng.normal(size=(len(y), width))
    x[:, :class_count] += signal * np.eye(class_count)[y]
    return x, y, np.repeat([f"g{i}" for i in range(groups)], 2)


@pytest.mark.parametrize("names", [("Normal", "Osteoporosis"), CLASSES, tuple("abcde")])
def test_regression_finds_a_planted_signal_for_any_number_of_classes(names):
    x, y, groups = planted_features(len(names))
    strength = baselines.choose_strength(x[60:], y[60:], groups[60:])
    probabilities = baselines.logistic_regression(x[60:], y[60:], x[:60], len(names), strength)
    assert probabilities.sum(1) == pytest.approx(1)
    assert compute_metrics(y[:60], probabilities, names)["auroc"] > 0.85


def test_strength_is_chosen_by_balanced_accuracy_between_groups_of_the_training_rows():
    x, y, groups = planted_features(width=80, seed=1, signal=1.0)
    # copies that a split by image would learn by heart
    x[1::2] = x[::2]
    scores = {}
    pairs = list(StratifiedGroupKFold(5).split(x, y, groups))
    for strength in baselines.STRENGTHS:
        results = []
        for train, held_out in pairs:
            p = baselines.logistic_regression(x[train], y[train], x[held_out], 3, strength)
            results.append(compute_metrics(y[held_out], p, CLASSES)["balanced_accuracy"])
        scores[strength] = np.mean(results)
    assert len(set(scores.values())) > 1
    assert baselines.choose_strength(x, y, groups) == max(scores, key=scores.get)


@pytest.mark.parametrize("merged", [[2], [0, 1, 2]], ids=["one class", "every class"])
def test_class_with_one_group_leaves_the_strength_at_its_default(merged):
    x, y, groups = planted_features(seed=3)
    groups = np.where(np.isin(y, merged), "one patient", groups)
    assert baselines.choose_strength(x, y, groups) == baselines.STRENGTH


def test_strength_for_one_class_is_the_default():
    x, _, groups = planted_features()
    assert baselines.choose_strength(x, np.ones(len(x), int), groups) == baselines.STRENGTH


def test_more_features_than_images_constant_ones_and_few_groups_give_no_warning():
    x, y, groups = planted_features(groups=9, width=400, seed=4)
    x[:, :100] = 5.0
    x[:, 100:200] *= 1e6
    strength = baselines.choose_strength(x, y, groups)
    assert np.isfinite(baselines.logistic_regression(x, y, x, 3, strength)).all()


def test_frozen_features_are_a_baseline_of_runs_with_pretrained_weights(monkeypatch):
    y = labels()
    signal = np.random.default_rng(5).normal(size=(COUNT, 20)) + 2 * np.eye(20)[y]
    monkeypatch.setattr(baselines, "frozen_features", lambda cfg, images: signal)
    table = baselines.predict_baselines(builders.fold_of(noise(), y, pretrained=True))
    assert table["baseline"].unique().tolist() == [*IMAGE_BASELINES, "frozen_features"]
    assert auroc(table, "frozen_features") > 0.9


def test_frozen_features_are_the_pooled_features_of_each_image():
    cfg = Config(backbone="test_efficientnet", pretrained=False, image_size=48, batch_size=2)
    images = noise(7)
    found = baselines.frozen_features(cfg, images)
    assert found.shape[0] == 7 and found.ndim == 2 and np.isfinite(found).all()
    assert np.array_equal(
        baselines.cheap_features(cfg, images)[0], baselines.texture_features(images[0])
    )
