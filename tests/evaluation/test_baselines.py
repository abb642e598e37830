import numpy as np
import pandas as pd
import pytest

from bonelib.config import CLASSES
from bonelib.evaluation import baselines
from bonelib.evaluation.evaluate import evaluate
from bonelib.evaluation.metrics import compute_metrics
from bonelib.evaluation.predict import probability_columns
from tests.builders import fold_of, probability_table

COUNT = 180
IMAGE_BASELINES = ["majority", "intensity", "corners"]


def labels(class_count=3, seed=0):
    return np.random.default_rng(seed).integers(0, class_count, COUNT)


def noise(count=COUNT, seed=1, size=48):
    """Images without any trace of the class."""
    return np.random.default_rng(seed).integers(40, 160, (count, size, size), dtype=np.uint8)


def auroc(table, name, names=CLASSES):
    rows = table[table["baseline"] == name]
    y = rows["label"].map(list(names).index).to_numpy()
    probabilities = rows[probability_columns(names)].to_numpy()
    return compute_metrics(y, probabilities, names)["auroc"]


@pytest.mark.parametrize("names", [CLASSES, ("Normal", "Osteoporosis"), tuple("abcde")])
def test_every_baseline_predicts_every_test_row_for_any_number_of_classes(names):
    fold = fold_of(noise(), labels(len(names)), names)
    table = baselines.predict_baselines(fold)
    columns = ["path", "label", "group", "baseline", *probability_columns(names)]
    assert list(table.columns) == columns
    assert table["baseline"].unique().tolist() == IMAGE_BASELINES
    test = fold.splits.iloc[fold.rows("test")][columns[:3]].reset_index(drop=True)
    for _, rows in table.groupby("baseline"):
        assert rows[columns[:3]].reset_index(drop=True).equals(test)
        assert np.allclose(rows[columns[4:]].sum(axis=1), 1)


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
    features = baselines.texture_features(np.full((32, 32), 100, np.uint8))
    assert features.shape == (62,)
    assert features[100 >> 3] == 1
    assert features[32:].reshape(3, 10)[:, 8].tolist() == [1, 1, 1]


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
    features = baselines.texture_features(image)
    assert features[42:52] == pytest.approx(counts / counts.sum())


def test_mark_in_a_corner_is_found_by_the_corners_and_reported_as_a_shortcut():
    y = labels()
    marked = noise()
    for i, c in enumerate(y):
        marked[i, :4, 4 * c : 4 * c + 4] = 255
    for images, level in ((marked, ["alarm"]), (noise(), [])):
        fold = fold_of(images, y)
        table = baselines.predict_baselines(fold)
        assert (auroc(table, "corners") > 0.9) is (level == ["alarm"])
        rows = fold.splits.assign(tta="plain").join(probability_table(np.full((COUNT, 3), 1 / 3)))
        found = evaluate(rows, CLASSES, table, resamples=100)["findings"]
        assert [f["level"] for f in found if "corners" in f["text"]] == level


def test_corners_do_not_see_the_middle():
    image = noise(1)[0]
    other = image.copy()
    other[12:36, 12:36] = 0
    features = baselines.corner_features(image)
    assert features.shape == (32,)
    assert np.array_equal(features, baselines.corner_features(other))


def test_metadata_that_predicts_the_class_is_used_and_the_t_score_is_not():
    y = labels()
    fold, rng = fold_of(noise(), y), np.random.default_rng(2)
    table = fold.splits[["path"]].assign(patient=fold.splits["group"])
    table["age"] = 50 + 10.0 * y + rng.normal(size=COUNT)
    table["sex"] = rng.choice(["f", "m"], COUNT)
    table.loc[::7, "age"], table.loc[::9, "sex"] = np.nan, None
    shuffled = table.sample(frac=1, random_state=0)
    found = baselines.predict_baselines(fold, shuffled)
    assert found["baseline"].unique().tolist() == [
        "majority",
        "metadata",
        "metadata_image",
        "intensity",
        "corners",
    ]
    assert auroc(found, "metadata") > 0.9 > 0.7 > auroc(found, "intensity")
    assert auroc(found, "metadata_image") > 0.7
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
