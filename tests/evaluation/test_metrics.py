import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from bonelib.config import CLASSES
from bonelib.evaluation import metrics
from bonelib.messages import DataError
from tests.builders import draw_predictions


@pytest.mark.parametrize("class_count", [2, 3, 5])
def test_metrics_agree_with_scikit_learn(class_count):
    names = [f"grade {c}" for c in range(class_count)]
    y, probabilities, _ = draw_predictions(1, 80, class_count=class_count)
    # ties
    probabilities[:20] = probabilities[20:40]
    predicted, computed = probabilities.argmax(1), metrics.compute_metrics(y, probabilities, names)
    one_hot = np.eye(class_count)[y]
    expected = {
        "accuracy": sk.accuracy_score(y, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(y, predicted),
        "macro_f1": sk.f1_score(y, predicted, average="macro"),
        "weighted_f1": sk.f1_score(y, predicted, average="weighted"),
        "auroc": sk.roc_auc_score(one_hot, probabilities, average="macro"),
        "log_loss": sk.log_loss(y, probabilities),
        "brier": ((probabilities - one_hot) ** 2).sum(1).mean(),
    }
    assert {name: computed[name] for name in expected} == pytest.approx(expected)
    kappa = sk.cohen_kappa_score(y, predicted, weights="quadratic") if class_count > 2 else None
    assert computed["quadratic_kappa"] == pytest.approx(kappa)
    for c, name in enumerate(names):
        is_class, called = y == c, predicted == c
        assert computed["sensitivity"][name] == pytest.approx(sk.recall_score(is_class, called))
        assert computed["specificity"][name] == pytest.approx(sk.recall_score(~is_class, ~called))
        assert computed["ppv"][name] == pytest.approx(sk.precision_score(is_class, called))
        assert computed["npv"][name] == pytest.approx(sk.precision_score(~is_class, ~called))
        auroc = sk.roc_auc_score(is_class, probabilities[:, c])
        assert computed["class_auroc"][name] == pytest.approx(auroc)


def test_losses_by_hand():
    y = [0, 0, 2, 1]
    probabilities = np.array([[0.8, 0.1, 0.1], [0.25, 0.7, 0.05], [0, 1, 0], [0.1, 0.62, 0.28]])
    computed = metrics.compute_metrics(y, probabilities, CLASSES)
    assert computed["log_loss"] == pytest.approx(-np.log([0.8, 0.25, 1e-15, 0.62]).mean())
    assert computed["brier"] == pytest.approx((0.06 + 1.055 + 2 + 0.2328) / 4)
    # bins of a tenth of the highest probability: 0.8 right, 0.7 wrong, 1 wrong, 0.62 right
    assert computed["ece"] == pytest.approx((0.2 + 0.7 + 1 + 0.38) / 4)


def test_class_absent_from_the_test_set_is_not_defined_rather_than_zero():
    computed = metrics.compute_metrics([0, 0, 1, 1], np.eye(3)[[0, 1, 1, 1]], CLASSES)
    assert computed["sensitivity"]["Osteoporosis"] is None
    assert computed["class_auroc"]["Osteoporosis"] is None
    expected = sk.f1_score([0, 0, 1, 1], [0, 1, 1, 1], average="macro")
    assert computed["macro_f1"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("y", "probabilities", "named"),
    [
        ([0, 1, 0], [[1, 0], [0, 1]], r"\(2, 2\)"),
        ([], np.empty((0, 3)), r"\(0, 3\)"),
        ([0, 0], [[1.0], [1.0]], r"\(2, 1\)"),
        ([0], [1.0], r"\(1,\)"),
        ([0], [[0.9, 0.9, 0.9]], "sum to 1"),
        ([0], [[0.9, 0.1, 0.002]], "sum to 1"),
        ([0], [[1.2, -0.2, 0]], "sum to 1"),
        ([0], [[np.nan, 0.5, 0.5]], "sum to 1"),
        ([0], [[np.inf, 0, 0]], "sum to 1"),
        ([0, 3], np.eye(3)[:2], r"\[0, 3\]"),
        ([-1, 0], np.eye(3)[:2], r"\[-1, 0\]"),
    ],
)
def test_what_is_no_probability_or_no_label_is_rejected_with_what_was_found(
    y, probabilities, named
):
    with pytest.raises(DataError, match=named):
        metrics.check_inputs(y, probabilities)


def test_probabilities_of_single_precision_are_accepted_and_computed_in_double():
    y, probabilities, _ = draw_predictions(19)
    single = probabilities.astype(np.float32)
    labels, checked = metrics.check_inputs(y.astype(np.int8), single)
    assert (labels.dtype, checked.dtype) == (np.int64, np.float64)
    double = metrics.compute_metrics(y, single.astype(float), CLASSES)
    assert metrics.compute_metrics(y, single, CLASSES) == double
    assert metrics.compute_metrics([0], [[0.9, 0.1, 0.0005]], CLASSES)["accuracy"] == 1


def test_weights_count_a_row_as_often_as_they_say():
    y, probabilities, _ = draw_predictions(3, 20)
    times = np.random.default_rng(0).integers(0, 4, (5, len(y)))
    weighted = metrics.weighted_scores(y, probabilities, times.astype(float), CLASSES)
    for resample, counts in enumerate(times):
        rows = np.repeat(np.arange(len(y)), counts)
        repeated = metrics.compute_metrics(y[rows], probabilities[rows], CLASSES)
        for name, value in repeated.items():
            if isinstance(value, dict):
                found = {c: weighted[name][c][resample] for c in value}
            else:
                found = weighted[name][resample]
            assert found == pytest.approx(value), name


@pytest.mark.parametrize("names", [CLASSES, ("Normal", "Osteoporosis"), tuple("abcde")])
def test_binary_read_outs_of_every_cut_agree_with_scikit_learn(names):
    y, probabilities, _ = draw_predictions(2, 80, class_count=len(names))
    found = metrics.compute_metrics(y, probabilities, names)["binary"]
    assert list(found) == [f"{name} or worse: AUROC" for name in names[1:]]
    for cut, value in enumerate(found.values(), 1):
        expected = sk.roc_auc_score(y >= cut, probabilities[:, cut:].sum(1))
        assert value == pytest.approx(expected)


@pytest.mark.parametrize("label", [0, 1])
def test_read_out_without_positives_or_negatives_is_not_defined(label):
    probabilities, y = np.full((6, 2), 0.5), np.full(6, label)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        computed = metrics.compute_metrics(y, probabilities, ("a", "b"))
    assert computed["binary"] == {"b or worse: AUROC": None}
