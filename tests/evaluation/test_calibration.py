import numpy as np
import pytest
from scipy import stats

from bonelib.evaluation import calibration
from tests.builders import draw_predictions


def draw_labels(probabilities, rng):
    """Labels (N,) for which the probabilities (N, K) are perfectly calibrated."""
    return (rng.random((len(probabilities), 1)) > probabilities.cumsum(1)).sum(1)


@pytest.mark.parametrize("temperature", [0.5, 1.7, 3.0])
@pytest.mark.parametrize("class_count", [2, 5])
def test_temperature_scaling_recovers_a_known_temperature(temperature, class_count):
    rng = np.random.default_rng(8)
    odds = np.exp(rng.normal(size=(8000, class_count)) * 2)
    truth = odds / odds.sum(1, keepdims=True)
    distorted = calibration.apply_temperature(truth, 1 / temperature)
    fitted = calibration.fit_temperature(distorted, draw_labels(truth, rng))
    assert fitted == pytest.approx(temperature, rel=0.05)


def test_temperature_without_validation_rows_is_1():
    assert calibration.fit_temperature(np.empty((0, 3)), []) == 1.0


def test_temperature_softens_and_a_probability_of_0_stays_finite():
    sharp = calibration.apply_temperature([[1.0, 0, 0]], 1)
    assert sharp[0] == pytest.approx([1, 0, 0])
    softened = calibration.apply_temperature([[0.7, 0.2, 0.1]], 2)[0]
    expected = np.sqrt([0.7, 0.2, 0.1])
    assert softened == pytest.approx(expected / expected.sum())


def test_class_shares_are_undone_by_bayes_before_the_temperature():
    # learnt with 1/3 each, posterior 0.6, 0.3, 0.1; the data hold 0.1, 0.3, 0.6
    by_hand = np.array([0.6 * 0.1, 0.3 * 0.3, 0.1 * 0.6])
    by_hand /= by_hand.sum()
    drawn, held = [1 / 3] * 3, [0.1, 0.3, 0.6]
    undone = calibration.undo_class_shares([[0.6, 0.3, 0.1]], drawn, held)
    assert undone[0] == pytest.approx(by_hand)
    calibrated = calibration.calibrate([[0.6, 0.3, 0.1]], 2.0, (drawn, held))
    assert calibrated[0] == pytest.approx(np.sqrt(by_hand) / np.sqrt(by_hand).sum())


def test_reliability_has_one_row_per_filled_bin_with_wilsons_interval_by_group():
    confidence = np.array([0.62, 0.68, 0.68, 0.95, 1.0])
    hits, groups = np.array([True, False, True, True, True]), ["a", "a", "b", "c", "d"]
    low_bin, high_bin = calibration.reliability(confidence, hits, groups)
    assert (low_bin["n"], high_bin["n"]) == (3, 2)
    assert low_bin["p"] == pytest.approx(0.66) and high_bin["p"] == pytest.approx(0.975)
    assert low_bin["hit"] == pytest.approx(2 / 3) and high_bin["hit"] == 1
    # three images, but two groups
    assert high_bin["low"] == pytest.approx(2 / (2 + 1.959964**2)) and high_bin["high"] == 1
    low, high = calibration.wilson_interval(2 / 3, 2)
    assert (low_bin["low"], low_bin["high"]) == (low, high)


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (3, 12), (40, 80), (9, 9)])
def test_wilson_interval_agrees_with_scipy(hits, count):
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    found = calibration.wilson_interval(hits / count, count)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_coverage_and_risk_count_equal_confidences_together():
    y = [0, 1, 0, 0]
    probabilities = [[0.9, 0.1], [0.8, 0.2], [0.8, 0.2], [0.4, 0.6]]
    curve = calibration.coverage_risk(y, probabilities)
    assert curve["threshold"] == [0.9, 0.8, 0.6]
    assert curve["coverage"] == [0.25, 0.75, 1]
    assert curve["risk"] == pytest.approx([0, 1 / 3, 1 / 2])


def test_threshold_is_the_lowest_that_reaches_the_target_on_validation():
    y, probabilities, _ = draw_predictions(11, 200)
    threshold = calibration.choose_threshold(y, probabilities, 0.9)
    confidence, hits = probabilities.max(1), probabilities.argmax(1) == y
    assert hits[confidence >= threshold].mean() >= 0.9
    assert 0.1 < (confidence >= threshold).mean() < 1
    lower = np.unique(confidence[confidence < threshold])
    assert all(hits[confidence >= other].mean() < 0.9 for other in lower)


def test_threshold_may_reach_the_target_exactly():
    probabilities = [[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10
    y = [0] * 9 + [1] * 11
    assert calibration.choose_threshold(y, probabilities, 0.9) == 0.9
    assert calibration.choose_threshold(y, probabilities, 0.91) is None


def test_no_threshold_reaches_the_target_where_all_is_wrong_or_nothing_is_there():
    wrong = np.eye(3)[[1] * 20]
    assert calibration.choose_threshold([0] * 20, wrong, 0.9) is None
    assert calibration.choose_threshold([], np.empty((0, 3)), 0.9) is None


def test_fewer_than_ten_correct_validation_images_set_no_threshold():
    sure, unsure = [0.98, 0.01, 0.01], [0.4, 0.3, 0.3]
    # the most confident are right, the rest wrong
    y = [0] * 9 + [1] * 20
    assert calibration.choose_threshold(y, [sure] * 9 + [unsure] * 20, 0.9) is None
    assert calibration.choose_threshold([0, *y], [sure] * 10 + [unsure] * 20, 0.9) == 0.98
