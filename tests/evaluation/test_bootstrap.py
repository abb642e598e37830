import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from bonelib.config import CLASSES
from bonelib.evaluation import bootstrap, metrics
from tests.builders import draw_predictions

LOSSES = ("brier", "log_loss", "ece")
PER_CLASS = ("sensitivity", "specificity", "ppv", "npv", "class_auroc")
READOUTS = {"Osteopenia or worse": 1, "Osteoporosis or worse": 2}


def leaves(results):
    """(name, class or read-out, leaf) of every interval."""
    for name, value in results.items():
        if "value" in value:
            yield name, "", value
        else:
            for key, leaf in value.items():
                yield name, key, leaf


def written_out(y, probabilities, rows):
    """Metrics of resampled rows by (name, class or read-out), each by scikit-learn or by hand."""
    y, p = y[rows], probabilities[rows]
    predicted = p.argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        aurocs = [
            sk.roc_auc_score(y == c, p[:, c]) if 0 < (y == c).sum() < len(y) else np.nan
            for c in range(3)
        ]
        present = np.unique(y)
        out = {
            ("accuracy", ""): np.mean(y == predicted),
            ("balanced_accuracy", ""): np.mean([np.mean(predicted[y == c] == c) for c in present]),
            ("macro_f1", ""): sk.f1_score(y, predicted, average="macro"),
            ("weighted_f1", ""): sk.f1_score(y, predicted, average="weighted"),
            ("quadratic_kappa", ""): sk.cohen_kappa_score(
                y, predicted, labels=[0, 1, 2], weights="quadratic"
            ),
            ("auroc", ""): np.nanmean(aurocs),
            ("brier", ""): np.square(p - np.eye(3)[y]).sum(1).mean(),
            ("log_loss", ""): -np.log(p[np.arange(len(y)), y]).mean(),
        }
        for c, name in enumerate(CLASSES):
            true, called = y == c, predicted == c
            out["class_auroc", name] = aurocs[c]
            out["sensitivity", name] = np.mean(called[true])
            out["specificity", name] = np.mean(~called[~true])
            out["ppv", name] = np.mean(true[called])
            out["npv", name] = np.mean(~true[~called])
        for name, cut in READOUTS.items():
            positive, score = y >= cut, p[:, cut:].sum(1)
            out["binary", f"{name}: AUROC"] = sk.roc_auc_score(positive, score)
    return out


def expected_interval(name, value, draws, n):
    """The interval that the docstrings promise, from scipy.stats rather than scipy.special."""
    draws = np.array(draws)[np.isfinite(draws)]
    if name in LOSSES:
        tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1))
        return np.quantile(draws, tail), np.quantile(draws, 1 - tail)
    if name in PER_CLASS[:4]:
        # Wilson's interval, written as the roots of its quadratic equation
        cases, z2 = value * (1 - value) / draws.var(), stats.norm.ppf(0.975) ** 2
        roots = np.roots([1 + z2 / cases, -(2 * value + z2 / cases), value**2])
        return min(roots), max(roots)
    a, b = (-1, 1) if name == "quadratic_kappa" else (0, 1)
    p = (value - a) / (b - a)
    spread = draws.std() * np.sqrt(n / (n - 1)) / (b - a)
    margin = stats.t.ppf(0.975, n - 1) * spread / (p * (1 - p))
    ends = np.log(p / (1 - p)) + np.array([-1, 1]) * margin
    return a + (b - a) / (1 + np.exp(-ends))


def resampled(group, resamples, seed):
    """How often each image is drawn, one row per resample: whole groups, with replacement."""
    names, index = np.unique(group.astype(str), return_inverse=True)
    n = len(names)
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples)[:, index]


def test_intervals_agree_with_a_bootstrap_written_out():
    y, probabilities, group = draw_predictions(13, 26, skill=0.8)
    results = bootstrap.intervals(y, probabilities, group, CLASSES, resamples=24, seed=3)
    every = np.arange(len(y))
    draws = [written_out(y, probabilities, np.repeat(every, n)) for n in resampled(group, 24, 3)]
    whole = written_out(y, probabilities, every)
    assert {(name, key) for name, key, _ in leaves(results)} == {*whole, ("ece", "")}
    n = np.array([len(set(group[y == c])) for c in range(3)])
    # groups behind a metric that weighs classes equally
    balanced = 1 + (1 / n).sum() ** 2 / (1 / (n**2 * (n - 1))).sum()
    predicted = probabilities.argmax(1)
    for (name, key), value in whole.items():
        leaf = results[name][key] if key else results[name]
        assert leaf["value"] == pytest.approx(value), (name, key)
        by_image = ("accuracy", "weighted_f1", "quadratic_kappa", *LOSSES)
        count = 26 if name in by_image else balanced
        if key in CLASSES:
            c = CLASSES.index(key)
            rows = {"specificity": y != c, "ppv": predicted == c, "npv": predicted != c}
            count = len(set(group[rows.get(name, y == c)]))
        low, high = expected_interval(name, value, [d[name, key] for d in draws], count)
        assert (leaf["low"], leaf["high"]) == pytest.approx((low, high)), (name, key)


def test_differences_agree_with_a_bootstrap_written_out():
    y, probabilities, group = draw_predictions(14, 26)
    other, every = probabilities[:, [0, 2, 1]], np.arange(len(y))
    results = bootstrap.difference(
        (y, probabilities, group), (y, other, group), CLASSES, resamples=24, seed=4
    )
    rows = [np.repeat(every, times) for times in resampled(group, 24, 4)]
    draws = [[written_out(y, p, r) for r in rows] for p in (probabilities, other)]
    whole = [written_out(y, p, every) for p in (probabilities, other)]
    tail = stats.norm.cdf(np.sqrt(26 / 25) * stats.t.ppf(0.025, 25))
    for name, key, leaf in leaves(results):
        if name == "ece":
            continue
        assert leaf["value"] == pytest.approx(whole[0][name, key] - whole[1][name, key])
        gaps = np.array([a[name, key] - b[name, key] for a, b in zip(*draws, strict=True)])
        ends = np.quantile(gaps[np.isfinite(gaps)], [tail, 1 - tail])
        assert (leaf["low"], leaf["high"]) == pytest.approx(tuple(ends)), (name, key)


def test_prevalence_weighs_every_resample():
    y, probabilities, group = draw_predictions(15, 20)
    shares = np.array([0.7, 0.2, 0.1])
    options = {"resamples": 25, "seed": 5, "prevalence": shares}
    leaf = bootstrap.intervals(y, probabilities, group, CLASSES, **options)["accuracy"]

    def accuracy(times):
        weights = times * shares[y] / np.maximum(np.bincount(y, times, 3), 1)[y]
        return np.average(probabilities.argmax(1) == y, weights=weights)

    value = accuracy(np.ones(len(y)))
    draws = [accuracy(times) for times in resampled(group, 25, 5)]
    assert leaf["value"] == pytest.approx(value)
    ends = expected_interval("accuracy", value, draws, 20)
    assert (leaf["low"], leaf["high"]) == pytest.approx(tuple(ends))


def at_prevalence(y, predicted, shares):
    group = np.arange(len(y))
    options = {"resamples": 20, "prevalence": np.array(shares)}
    return bootstrap.intervals(y, np.eye(3)[predicted], group, CLASSES, **options)


def test_predictive_values_at_a_prevalence_follow_bayes():
    # Sensitivity 0.8; 0.1 and 0.2 of the others are predicted as Osteoporosis, too.
    y = np.repeat([0, 1, 2], 10)
    predicted = np.array([2] + [0] * 9 + [2] * 2 + [1] * 8 + [2] * 8 + [1] * 2)
    expected = 0.1 * 0.8 / (0.1 * 0.8 + 0.2 * 0.2 + 0.7 * 0.1)
    found = at_prevalence(y, predicted, [0.7, 0.2, 0.1])
    assert found["ppv"]["Osteoporosis"]["value"] == pytest.approx(expected)


def test_prevalence_of_an_absent_class_is_shared_by_the_others_in_proportion():
    found = at_prevalence([0, 0, 1], [0, 1, 1], [0.7, 0.2, 0.1])
    assert found["accuracy"]["value"] == pytest.approx((0.7 / 2 + 0.2) / 0.9)


def test_ece_is_reflected_and_never_below_zero():
    y, probabilities, group = draw_predictions(16, 30)
    options = {"resamples": 50, "seed": 6}
    leaf = bootstrap.intervals(y, probabilities, group, CLASSES, **options)["ece"]
    draws = []
    for times in resampled(group, 50, 6):
        rows = np.repeat(np.arange(len(y)), times)
        draws.append(metrics.compute_metrics(y[rows], probabilities[rows], CLASSES)["ece"])
    low, high = expected_interval("ece", leaf["value"], draws, 30)
    assert leaf["low"] == pytest.approx(max(0, 2 * leaf["value"] - high))
    assert leaf["high"] == pytest.approx(max(0, 2 * leaf["value"] - low))
    even = np.full((len(y), 3), 1 / 3)
    assert bootstrap.intervals(y, even, group, CLASSES, **options)["ece"]["low"] >= 0


@pytest.mark.parametrize("class_count", [2, 3, 5])
def test_every_metric_of_any_number_of_classes_has_an_interval_around_its_value(class_count):
    names = tuple(f"grade {c}" for c in range(class_count))
    y, probabilities, group = draw_predictions(21, 60, class_count=class_count)
    results = bootstrap.intervals(y, probabilities, group, names, resamples=60)
    assert all(tuple(results[name]) == names for name in PER_CLASS)
    assert len(results["binary"]) == class_count - 1
    undefined = {(name, key) for name, key, leaf in leaves(results) if leaf["value"] is None}
    assert undefined == ({("quadratic_kappa", "")} if class_count == 2 else set())
    for name, _, leaf in leaves(results):
        if leaf["value"] is None:
            assert leaf == {"value": None, "low": None, "high": None}
        elif name != "ece":
            assert leaf["low"] <= leaf["value"] <= leaf["high"]


@pytest.mark.parametrize(
    ("y", "probabilities"),
    [
        ([1], [[0.2, 0.5, 0.3]]),
        ([0, 1, 0, 1], [[0.2, 0.5, 0.3]] * 4),
        ([2, 2, 2], [[0.1, 0.1, 0.8]] * 3),
        ([0, 0, 1, 1] * 5, [[0.7, 0.2, 0.1], [0.2, 0.1, 0.7]] * 10),
    ],
    ids=["one image", "all one prediction", "all one class, all right", "an absent class"],
)
def test_degenerate_input_gives_a_value_or_none_and_no_warning(y, probabilities):
    group = np.arange(len(y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = bootstrap.intervals(y, probabilities, group, CLASSES, resamples=60)
        bootstrap.difference(
            (y, probabilities, group), (y, probabilities, group), CLASSES, resamples=60
        )
    for _, _, leaf in leaves(results):
        assert all(number is None or np.isfinite(number) for number in leaf.values())
    assert results["accuracy"]["value"] == np.mean(np.argmax(probabilities, 1) == y)
    assert len(y) > 1 or results["accuracy"]["low"] is None


@pytest.mark.parametrize(("resamples", "known"), [(19, False), (20, True)])
def test_fewer_than_twenty_resamples_give_no_interval(resamples, known):
    y, probabilities = np.array([0, 1, 2, 0, 1, 2]), np.eye(3)[[0, 1, 2, 1, 2, 0]]
    group, options = np.arange(6), {"resamples": resamples}
    results = bootstrap.intervals(y, probabilities, group, CLASSES, **options)
    gap = bootstrap.difference(
        (y, probabilities, group), (y, np.eye(3)[y], group), CLASSES, **options
    )
    for leaf in (results["accuracy"], results["brier"], gap["accuracy"]):
        assert (leaf["low"] is not None) is (leaf["high"] is not None) is known


def test_one_group_gives_no_interval_and_two_groups_do():
    y = np.array([0, 1, 2, 0, 1, 2])
    probabilities = np.eye(3)[[0, 1, 2, 1, 2, 0]] * 0.7 + 0.1
    for group, known in ((np.zeros(6), False), (np.array([0, 0, 0, 1, 1, 1]), True)):
        results = bootstrap.intervals(y, probabilities, group, CLASSES)
        gap = bootstrap.difference((y, probabilities, group), (y, np.eye(3)[y], group), CLASSES)
        for leaf in (results["accuracy"], results["brier"], gap["accuracy"]):
            assert (leaf["low"] is not None) is (leaf["high"] is not None) is known
            assert not known or leaf["low"] <= leaf["value"] <= leaf["high"]


def test_metrics_that_weigh_classes_equally_rest_on_fewer_groups_than_there_are():
    def count(*groups):
        y = np.repeat([0, 1, 2], groups)
        return bootstrap.effective_groups(y, np.arange(len(y)))

    # Welch-Satterthwaite: variances 1/n, degrees of freedom n - 1
    assert count(10, 10, 10) == pytest.approx(1 + 0.3**2 / (3 * 0.1**2 / 9))
    assert count(2, 40, 40) == pytest.approx(1 + 0.55**2 / (0.25 + 2 / (1600 * 39)))
    # one group of a class shows next to nothing
    assert count(1, 30, 30) == 2
    assert count(1, 1, 1) == pytest.approx(1 + 9 / (3 / 0.5))
    # groups with images of several classes count once
    shared = bootstrap.effective_groups(np.array([0, 1, 2] * 4), np.repeat(list("abcd"), 3))
    assert shared == 4


def test_perfect_predictions_keep_an_open_lower_end():
    y = np.array([0, 1, 2] * 6)
    results = bootstrap.intervals(y, np.eye(3)[y], np.arange(18), CLASSES, resamples=100)
    # Wilson's interval of 18 of 18
    assert results["accuracy"]["low"] == pytest.approx(18 / (18 + 1.959964**2))
    assert results["macro_f1"]["high"] == 1 > results["macro_f1"]["low"]


def test_intervals_widen_when_images_share_their_errors_with_their_patient():
    y, probabilities, _ = draw_predictions(3, 40, most=1)
    y, probabilities = np.repeat(y, 5), np.repeat(probabilities, 5, 0)

    def width(group):
        leaf = bootstrap.intervals(y, probabilities, group, CLASSES)["accuracy"]
        return leaf["high"] - leaf["low"]

    # sqrt(5) in theory
    assert width(np.repeat(np.arange(40), 5)) > 1.8 * width(np.arange(len(y)))


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    names = ("accuracy", "macro_f1", "auroc", "quadratic_kappa")
    y, probabilities, _ = draw_predictions(4, 20_000)
    truth = metrics.compute_metrics(y, probabilities, CLASSES)
    hits = dict.fromkeys(names, 0)
    for seed in range(150):
        sample = draw_predictions(1000 + seed, 70)
        results = bootstrap.intervals(*sample, CLASSES, resamples=200, seed=seed)
        for name in names:
            hits[name] += results[name]["low"] <= truth[name] <= results[name]["high"]
    assert all(0.89 <= count / 150 <= 0.995 for count in hits.values()), hits


def test_seed_decides_the_resamples_and_1000_of_seed_0_are_the_default():
    y, probabilities, group = draw_predictions(18, 9)

    def both(**options):
        other = probabilities[:, ::-1]
        return (
            bootstrap.intervals(y, probabilities, group, CLASSES, **options),
            bootstrap.difference((y, probabilities, group), (y, other, group), CLASSES, **options),
        )

    assert both() == both(resamples=1000, seed=0)
    assert both() != both(seed=1)


def test_model_paired_with_itself_differs_by_nothing():
    y, probabilities, group = draw_predictions(6)
    results = bootstrap.difference(
        (y, probabilities, group), (y, probabilities, group), CLASSES, resamples=50
    )
    assert set(results["auroc"].values()) == {0.0}


def test_pairing_narrows_the_interval_of_a_difference():
    y, probabilities, group = draw_predictions(7)
    other = (probabilities * [1.1, 1, 1]) ** (1 / 1.2)
    other /= other.sum(1, keepdims=True)
    alone = bootstrap.intervals(y, probabilities, group, CLASSES)["accuracy"]
    gap = bootstrap.difference((y, probabilities, group), (y, other, group), CLASSES)["accuracy"]
    assert gap["high"] - gap["low"] < 0.5 * (alone["high"] - alone["low"])


def test_difference_between_two_sets_of_patients_has_the_width_of_both():
    first, second = draw_predictions(seed=1), draw_predictions(seed=2)
    found = bootstrap.difference(second, first, CLASSES, 2000, paired=False)["accuracy"]
    alone = [bootstrap.intervals(*arrays, CLASSES)["accuracy"] for arrays in (first, second)]
    assert found["value"] == pytest.approx(alone[1]["value"] - alone[0]["value"])
    widths = [leaf["high"] - leaf["low"] for leaf in alone]
    assert found["high"] - found["low"] == pytest.approx(np.hypot(*widths), rel=0.2)


def test_difference_of_a_set_to_itself_is_drawn_independently():
    arrays = draw_predictions(seed=1)
    found = bootstrap.difference(arrays, arrays, CLASSES, paired=False)["macro_f1"]
    assert found["value"] == 0 and found["low"] < -0.01 and found["high"] > 0.01
