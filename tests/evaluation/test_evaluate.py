import json

import numpy as np
import pandas as pd
import pytest

from bonelib.config import CLASSES, Config
from bonelib.evaluation import calibration
from bonelib.evaluation.bootstrap import intervals
from bonelib.evaluation.evaluate import count_test_reads, failures, fit_on_validation
from bonelib.evaluation.metrics import compute_metrics
from bonelib.evaluation.predict import probability_columns, select_rows, to_arrays
from bonelib.messages import ConfigError, DataError
from tests.builders import baseline_table, evaluate, predictions_table, probability_table

FEW = {"resamples": 30}
COLUMNS = probability_columns(CLASSES)


@pytest.mark.parametrize("names", [CLASSES, ("Normal", "Osteoporosis"), tuple("abcde")])
def test_results_of_any_number_of_classes_are_complete_and_can_be_written(names):
    table = predictions_table(class_names=names)
    shares = np.full(len(names), 1 / len(names)), np.arange(1, len(names) + 1)
    options = {"shares": shares, "prevalence": shares[1]}
    results = evaluate(
        table, names, baseline_table(table, 0.5, class_names=names), **options, **FEW
    )
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    matrix = np.array(results["confusion"]["plain"])
    assert matrix.shape == (len(names), len(names))
    assert matrix.sum(1).tolist() == list(results["counts"]["images_per_class"].values())
    for block in (results["test"]["tta"], results["baselines"]["intensity"]):
        assert tuple(block["sensitivity"]) == names
    assert set(results["differences"]) == {"model_minus_intensity", "tta_minus_plain"}
    assert tuple(results["at_prevalence"]["prevalence"]) == names
    assert len(results["ordinal"]["plain"]) == (0 if len(names) == 2 else 2 * len(names) - 1)
    priors = results["calibration"]["plain"]["priors"]
    assert priors == {"learnt_with": list(shares[0]), "of_the_data": list(map(float, shares[1]))}


def test_counts_are_of_the_images_and_groups_of_the_test_set():
    table = predictions_table()
    test = select_rows(table, "plain", "test")
    counts = evaluate(table, CLASSES, **FEW)["counts"]
    assert (counts["images"], counts["groups"]) == (len(test), test["group"].nunique())
    for name in CLASSES:
        rows = test[test["label"] == name]
        assert counts["images_per_class"][name] == len(rows)
        assert counts["groups_per_class"][name] == rows["group"].nunique()


def test_results_and_differences_are_those_of_the_named_predictions():
    table = predictions_table()
    other = baseline_table(table, 0.5)
    results = evaluate(table, CLASSES, other.sample(frac=1, random_state=0), **FEW)
    plain, tta = (to_arrays(select_rows(table, kind, "test"), CLASSES) for kind in ("plain", "tta"))
    simple = other.sort_values("path")[COLUMNS].to_numpy()
    assert results["test"]["tta"] == intervals(*tta, CLASSES, **FEW)
    assert results["baselines"]["intensity"] == intervals(
        plain[0], simple, plain[2], CLASSES, **FEW
    )
    loss = {
        name: compute_metrics(plain[0], p, CLASSES)["log_loss"]
        for name, p in (("plain", plain[1]), ("tta", tta[1]), ("simple", simple))
    }
    differences = results["differences"]
    found = differences["model_minus_intensity"]["log_loss"]["value"]
    assert found == pytest.approx(loss["plain"] - loss["simple"])
    found = differences["tta_minus_plain"]["log_loss"]["value"]
    assert found == pytest.approx(loss["tta"] - loss["plain"])


def test_evaluation_never_reads_training_rows():
    table = predictions_table()
    spoiled = table.copy()
    spoiled.loc[table["split"] == "train", COLUMNS] = 1 / 3
    assert evaluate(table, CLASSES, **FEW) == evaluate(spoiled, CLASSES, **FEW)


def test_validation_alone_sets_temperature_and_threshold():
    table = predictions_table()
    other = table.assign(label=table["label"].where(table["split"] != "test", CLASSES[0]))
    first, second = (evaluate(rows, CLASSES, **FEW) for rows in (table, other))
    for block, key in (("calibration", "temperature"), ("selective", "threshold")):
        assert first[block]["plain"][key] == second[block]["plain"][key]
    assert first["test"]["plain"]["accuracy"] != second["test"]["plain"]["accuracy"]


def test_what_validation_gives_for_prediction_is_what_the_evaluation_uses():
    table, shares = predictions_table(), ([1 / 3] * 3, [0.5, 0.3, 0.2])
    fitted = fit_on_validation(table, CLASSES, shares, 0.8)
    results = evaluate(table, CLASSES, shares=shares, target=0.8, **FEW)
    block, selective = results["calibration"]["plain"], results["selective"]["plain"]
    assert fitted["temperature"] == block["temperature"]
    assert fitted["threshold"] == selective["threshold"]
    assert fitted["fitted_on"] == block["fitted_on"] == len(select_rows(table, "plain", "val"))
    y, probabilities, groups = to_arrays(select_rows(table, "plain", "test"), CLASSES)
    calibrated = calibration.calibrate(probabilities, fitted["temperature"], shares)
    for stage, stated in (("before", probabilities), ("after", calibrated)):
        expected = compute_metrics(y, stated, CLASSES)
        for name in ("ece", "log_loss", "brier"):
            assert block[stage][name] == pytest.approx(expected[name])
        hits = stated.argmax(1) == y
        curve = calibration.reliability(stated.max(1), hits, groups)
        assert block[stage]["reliability"] == curve
    answered = calibrated.max(1) >= fitted["threshold"]
    assert selective["answered"] == answered.sum() < len(y)
    assert selective["coverage"] == pytest.approx(answered.mean())
    accuracy = (calibrated.argmax(1) == y)[answered].mean()
    assert selective["accuracy"]["value"] == pytest.approx(accuracy)
    assert selective["target_accuracy"] == 0.8


def test_target_that_nothing_reaches_answers_no_image():
    table = predictions_table(skill=0.0)
    selective = evaluate(table, CLASSES, target=0.999, **FEW)["selective"]["plain"]
    assert selective["threshold"] is None and selective["answered"] == 0
    assert "accuracy" not in selective and selective["curve"]["coverage"][-1] == 1


def test_prevalence_weighs_the_test_set_and_must_name_every_class():
    table = predictions_table(sizes=(3, 30, 90))
    results = evaluate(table, CLASSES, prevalence=[16, 3, 1], **FEW)["at_prevalence"]
    shares = [0.8, 0.15, 0.05]
    assert list(results["prevalence"].values()) == pytest.approx(shares)
    arrays = to_arrays(select_rows(table, "plain", "test"), CLASSES)
    expected = intervals(*arrays, CLASSES, prevalence=np.array(shares))["ppv"]["Osteoporosis"]
    assert results["ppv"]["Osteoporosis"]["value"] == pytest.approx(expected["value"])
    with pytest.raises(ConfigError, match="BONELIB_PREVALENCE"):
        evaluate(table, CLASSES, prevalence=[0.5, 0.5], **FEW)


def test_prevalence_is_of_the_classes_that_the_data_hold():
    names = ("Normal", "Osteoporosis")
    table = predictions_table(class_names=names)
    cfg = Config(prevalence=(0.9, 0.1))
    results = evaluate(table, names, prevalence=cfg.prevalence, **FEW)
    assert list(results["at_prevalence"]["prevalence"]) == list(names)
    three = Config(prevalence=(0.6, 0.3, 0.1)).prevalence
    with pytest.raises(ConfigError, match=r"3 shares.*Normal, Osteoporosis"):
        evaluate(table, names, prevalence=three, **FEW)
    for wrong in ("0.5", "0.4, 0.3, 0.2, 0.1", "0, 0"):
        with pytest.raises(ConfigError, match="prevalence"):
            Config.load({}, prevalence=wrong)


def test_errors_are_counted_by_direction_and_distance():
    pairs = [(0, 0), (0, 2), (1, 0), (1, 2), (2, 0), (2, 0)]
    tables = []
    for split in ("val", "test"):
        names = [f"{split}{i}" for i in range(len(pairs))]
        rows = pd.DataFrame({"path": names, "group": names, "split": split, "tta": "plain"})
        rows["label"] = [CLASSES[true] for true, _ in pairs]
        tables.append(rows.join(probability_table(np.eye(3)[[p for _, p in pairs]])))
    results = evaluate(pd.concat(tables), CLASSES, resamples=20)
    # true classes in rows, predicted ones in columns
    assert results["confusion"]["plain"] == [[1, 0, 1], [1, 0, 1], [2, 0, 0]]
    assert results["ordinal"]["plain"] == {
        "correct": 1,
        "too healthy by 1": 1,
        "too ill by 1": 1,
        "too healthy by 2": 2,
        "too ill by 2": 1,
    }


def test_rows_that_are_twice_or_missing_are_rejected():
    table = predictions_table()
    test = select_rows(table, "plain", "test")
    with pytest.raises(DataError, match=test["path"].iloc[0]):
        evaluate(pd.concat([table, test.head(1)]), CLASSES)
    other = baseline_table(table, 0.5, name="age")
    with pytest.raises(DataError, match="age"):
        evaluate(table, CLASSES, other.iloc[1:])


def test_models_of_a_cross_validation_are_pooled_with_their_spread():
    tables = []
    for seed in (4, 5):
        for fold in (0, 1):
            # both seeds predict the images of a fold
            rows = predictions_table(fold).assign(seed=seed, fold=fold)
            rows["path"], rows["group"] = rows["path"] + f"-{fold}", rows["group"] + f"-{fold}"
            if seed == 5:
                rows[COLUMNS] = 1 / 3
            tables.append(rows)
    table = pd.concat(tables, ignore_index=True)
    results = evaluate(table, CLASSES, **FEW)
    assert results["counts"]["images"] == table.loc[table["split"] == "test", "path"].nunique()
    accuracy = {}
    for key, rows in select_rows(table, "plain", "test").groupby(["seed", "fold"]):
        accuracy[key] = compute_metrics(*to_arrays(rows, CLASSES)[:2], CLASSES)["accuracy"]
    spread, values = results["spread"]["plain"]["accuracy"], pd.Series(accuracy)
    assert spread["mean"] == pytest.approx(values.mean())
    assert spread["over_folds"] == pytest.approx(values.groupby(level=0).std().mean())
    assert spread["over_seeds"] == pytest.approx(values.groupby(level=0).mean().std())
    one_seed = evaluate(table[table["seed"] == 4], CLASSES, **FEW)["spread"]["plain"]
    assert one_seed["accuracy"]["over_seeds"] is None


def test_failures_are_confident_errors_and_unsure_images():
    labels = {"a": "Normal", "b": "Normal", "c": "Osteopenia"}
    plain = {"a": [0.9, 0.05, 0.05], "b": [0.1, 0.8, 0.1], "c": [0.4, 0.35, 0.25]}
    tta = {"a": [0.9, 0.05, 0.05], "b": [0.7, 0.2, 0.1], "c": [0.4, 0.25, 0.35]}
    tables = []
    for kind, probabilities in (("plain", plain), ("tta", tta)):
        rows = pd.DataFrame({"path": list(labels), "label": labels.values(), "group": "g"})
        rows = rows.assign(split="test", tta=kind)
        tables.append(rows.join(probability_table(list(probabilities.values()))))
    table = pd.concat(tables)
    found = failures(table, CLASSES, 2)
    assert {title: rows["path"].tolist() for title, rows in found.items()} == {
        "most confident errors": ["b", "c"],
        "least sure": ["c", "b"],
    }
    assert found["most confident errors"]["prediction"].tolist() == ["Osteopenia", "Normal"]
    assert found["least sure"]["confidence"].tolist() == [0.4, 0.8]


def test_models_that_read_the_same_test_set_are_counted_once_each(tmp_path):
    table, ledger = predictions_table(), tmp_path / "test_reads.json"
    assert [count_test_reads(table, digest, ledger) for digest in "aab"] == [1, 1, 2]
    assert count_test_reads(predictions_table(1), "a", ledger) == 1
    relabelled = table.assign(label=CLASSES[0])
    assert count_test_reads(relabelled, "a", ledger) == 1
    without_training = table[table["split"] != "train"]
    assert count_test_reads(without_training, "a", ledger) == 2
    # other probabilities and another order are the same test set
    again = table.sample(frac=1, random_state=0).assign(p_normal=0.0)
    assert count_test_reads(again, "c", ledger) == 3
