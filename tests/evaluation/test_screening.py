"""A screening threshold comes from validation images, and its cost per 1,000 people adds up."""

import numpy as np
import pytest

from bonelib.evaluation.screening import screen, screening_findings

NAMES = ("Normal", "Osteopenia", "Osteoporosis")


def predictions(rng, count, noise):
    """Labels, probabilities and groups of two images each."""
    y = rng.integers(3, size=count // 2).repeat(2)
    logits = 3 * np.eye(3)[y] + noise * rng.standard_normal((count, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return y, probabilities, np.arange(count // 2).repeat(2).astype(str)


def test_threshold_reaches_the_wanted_sensitivity_on_validation_and_no_higher_one_does():
    rng = np.random.default_rng(0)
    val, test = predictions(rng, 200, 3.0), predictions(rng, 400, 3.0)
    rows = screen(val, test, NAMES, np.ones(3), 0.9)
    assert [row["name"] for row in rows] == ["Osteopenia or worse", "Osteoporosis"]
    for cut, row in enumerate(rows, 1):
        scores = val[1][val[0] >= cut, cut:].sum(1)
        assert (scores >= row["threshold"]).mean() >= 0.9
        assert (scores > row["threshold"]).mean() < 0.9
        found = test[1][:, cut:].sum(1) >= row["threshold"]
        assert row["sensitivity"]["value"] == pytest.approx(found[test[0] >= cut].mean())
        assert row["specificity"]["value"] == pytest.approx((~found[test[0] < cut]).mean())
        assert row["sensitivity"]["low"] < row["sensitivity"]["value"] < row["sensitivity"]["high"]


def test_referred_and_missed_follow_from_the_prevalence():
    rng = np.random.default_rng(1)
    val, test = predictions(rng, 200, 3.0), predictions(rng, 400, 3.0)
    common, rare = (screen(val, test, NAMES, np.array(p), 0.9)[1] for p in ((1, 1, 2), (8, 1, 1)))
    assert common["positive"] == 0.5 and rare["positive"] == 0.1
    for row in (common, rare):
        missed = 1000 * row["positive"] * (1 - row["sensitivity"]["value"])
        alarms = 1000 * (1 - row["positive"]) * (1 - row["specificity"]["value"])
        assert row["missed"] == round(missed)
        assert row["referred"] == round(1000 * row["positive"] - missed + alarms)


def test_a_sensitivity_that_the_test_set_misses_is_a_warning():
    rng = np.random.default_rng(2)
    easy, hard = predictions(rng, 400, 0.1), predictions(rng, 400, 5.0)
    reached = screening_findings(screen(easy, easy, NAMES, np.ones(3), 0.9), 0.9)
    missed = screening_findings(screen(easy, hard, NAMES, np.ones(3), 0.9), 0.9)
    assert {finding.level for finding in reached} == {"note"}
    assert {finding.level for finding in missed} == {"warning"}
    assert "Osteoporosis" in reached[1].text and "1,000" in reached[1].text


def test_one_case_is_no_warning():
    rng = np.random.default_rng(2)
    val, (y, p, _) = predictions(rng, 400, 0.1), predictions(rng, 40, 0.1)
    # one group
    rows = screen(val, (y, p, np.zeros(40)), NAMES, np.ones(3), 0.9)
    assert rows[0]["sensitivity"]["high"] is None
    assert [finding.level for finding in screening_findings(rows, 0.9)] == ["note", "note"]


def test_two_classes_have_one_cut():
    y, probabilities = np.array([0, 1] * 20), np.tile([[0.9, 0.1], [0.2, 0.8]], (20, 1))
    same = y, probabilities, np.arange(40).astype(str)
    (row,) = screen(same, same, NAMES[::2], np.ones(2), 0.9)
    assert row["name"] == "Osteoporosis" and row["missed"] == 0 and row["referred"] == 500
